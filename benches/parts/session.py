"""Detection in one session, compared with a dry run of one worker and with file(1) in one process.

SELECT ntt_detect_mime(blobid) over a plain table with a row for each blob, in a new session without
parallel workers; CALL ntt_backfill_mime(dry_run => true, workers => 1) over the same table; and
file --mime-type over a list of the same files.  Each detects all types, and none writes any.
"""

import subprocess
import time

import contestants
import report
import store as stores

from parts import plain, turns

ROUNDS = 3
ALL = ("select", "dry run", "file")
CALL = "CALL ntt_backfill_mime(10000, workers => %s, target => 'blob', dry_run => true)"
SELECT = "SELECT count(ntt_detect_mime(blobid)) FROM blob"


def arguments(parser):
    parser.add_argument("--blobs", type=int, default=50000)


def select(arena):
    connection = arena.cluster.connect()
    with connection.cursor() as cursor:
        cursor.execute("SET max_parallel_workers_per_gather = 0")
        began = time.monotonic()
        cursor.execute(SELECT)
        seconds = time.monotonic() - began
        blobs = cursor.fetchone()[0]
    connection.close()
    return {"seconds": seconds, "blobs": blobs}


def dry_run(arena):
    done = contestants.run_ours(arena, 1, CALL)
    return {name: done[name] for name in ("seconds", "blobs", "profile", "profile_share")}


def file(arena):
    paths = arena.store.paths()
    began = time.monotonic()
    done = subprocess.run([stores.FILE, "--brief", "--mime-type", "--files-from", "-"],
                          input="".join(path + "\n" for path in paths), text=True, check=True,
                          stdout=subprocess.PIPE, encoding="utf-8", errors="replace")
    return {"seconds": time.monotonic() - began, "blobs": len(done.stdout.splitlines())}


def measure(bench, options):
    arena = plain.arena(bench, options)
    arena.fresh()
    runs = {name: [] for name in ALL}
    for number, name in turns(options, ALL):
        arena.store.warm()
        result = {"select": select, "dry run": dry_run, "file": file}[name](arena)
        if result["blobs"] != options.blobs:
            raise SystemExit(f"error: {name} looked at {result['blobs']} blobs")
        runs[name].append(result)
        bench.say(f"round {number + 1}, {name}: {result['seconds']:.2f} s")
    return {"blobs": options.blobs, "bytes": arena.store.bytes(), "runs": runs}


def render(result):
    titles = {"select": "`SELECT ntt_detect_mime(blobid)`, one session",
              "dry run": "a dry run, one worker", "file": "`file --mime-type -f`, one process"}
    theirs = [run["seconds"] for run in result["runs"]["file"]]
    rows = []
    for name, runs in result["runs"].items():
        own = [run["seconds"] for run in runs]
        rows.append([titles[name], report.spread(own, 2),
                     report.number(result["blobs"] / report.median(own), 0),
                     report.number(1e6 * report.median(own) / result["blobs"], 0),
                     "" if name == "file" else report.ratios(own, theirs)])
    return [f"{result['blobs']:,} blobs, {result['bytes'] / 1e6:,.0f} MB; "
            f"rounds: {len(theirs)}.", "",
            *report.table(["", "seconds", "blobs/s", "µs per blob", "time relative to file"], rows)]


def charts(_result):
    return {}
