"""Blobs that aren't in memory: how many files a second, beside processes that do nothing but read.

Before each run the system forgets all files (so this needs root, and disturbs the whole machine).
The readers are processes that open, read the first 16 kB and close, each its share of the blobs, in
the order of the rows; the runs are dry ones, which read and detect but update nothing, over as many
rows as blobs.  The first of each kind of number says how many: 16 readers, 2 workers.  A run with
the blobs in memory shows whether what helps a slow disk costs anything without one.
"""

import multiprocessing
import time

import contestants
import data
import machine
import report
from parts import numbers

ROUNDS = 3

CALL = "CALL ntt_backfill_mime(10000, workers => %s, dry_run => true)"


def arguments(parser):
    parser.add_argument("--blobs", type=int, default=50000)
    parser.add_argument("--types", default="*", metavar="PATTERN",
                        help="only blobs made of files of such a type: 'image/*'")
    parser.add_argument("--workers", type=numbers, default=[1, 2, 8, 16], metavar="N,...")
    parser.add_argument("--readers", type=numbers, default=[16], metavar="N,...")
    parser.add_argument("--leaves", type=int, default=17)


def read_share(root, blobids, start, ready):
    ready.release()
    start.wait()
    machine.read_heads(root, blobids, 16384)


def run_readers(root, blobids, count):
    start, ready = multiprocessing.Event(), multiprocessing.Semaphore(0)
    readers = [multiprocessing.Process(target=read_share, args=(root, share, start, ready))
               for share in machine.halves(blobids, count)]
    for reader in readers:
        reader.start()
    for _ in readers:
        ready.acquire()
    began = time.monotonic()
    start.set()
    for reader in readers:
        reader.join()
    if any(reader.exitcode for reader in readers):
        raise SystemExit("error: a reader failed")
    return {"seconds": time.monotonic() - began, "blobs": len(blobids)}


def forget_blobs(cluster):
    """All but what has nothing to do with blobs: programs, libmagic's database, the tables."""
    machine.drop_caches()
    cluster.query("SELECT ntt_detect_mime('\\x00'::bytea), count(blobid) FROM inode")
    cluster.query("SELECT pg_sleep(0.5)")


def measure(bench, options):
    cluster = bench.cluster
    arena = bench.arena(data.Shape(options.blobs, options.leaves, 1.0, 0.0, types=options.types),
                        options)
    arena.fresh()
    blobids = [row[0] for row in cluster.query("SELECT blobid FROM inode WHERE blobid IS NOT NULL")]
    names = [f"readers-{n}" for n in options.readers] + [f"ours-{n}" for n in options.workers]
    hot = [f"in memory, ours-{n}" for n in options.workers[:2]]
    runs = {name: [] for name in [*names, *hot]}
    for number in range(options.rounds):
        for name in list(runs)[::1 if number % 2 == 0 else -1]:
            if name in hot:
                arena.store.warm()
            else:
                forget_blobs(cluster)
            count = int(name.split("-")[1])
            if name.startswith("readers"):
                result = run_readers(arena.store.root, blobids, count)
            else:
                result = contestants.run_ours(arena, count, CALL)
            if result["blobs"] != len(blobids) or result.get("failed"):
                raise SystemExit(f"error: {name} read {result['blobs']} of {len(blobids)} blobs")
            runs[name].append(result)
            bench.say(f"round {number + 1}, {name}: {result['seconds']:.2f} s, "
                      f"{len(blobids) / result['seconds']:,.0f} files/s")
    return {"shape": str(arena.note["shape"]), "blobs": options.blobs, "runs": runs,
            "types": options.types, "bytes": arena.store.bytes(),
            "beside": f"readers-{max(options.readers)}"}


def title(name):
    cold, _, rest = name.rpartition(", ")
    kind, count = rest.split("-")
    what = {"readers": "plain readers", "ours": "workers" if count != "1" else "worker"}[kind]
    return f"{count} {what}" + (", blobs in memory" if cold else "")


def render(result):
    beside = [run["seconds"] for run in result["runs"][result["beside"]]]
    rows = []
    for name, runs in result["runs"].items():
        own = [run["seconds"] for run in runs]
        profile = ["", ""]
        if "profile" in runs[0]:
            middle = sorted(runs, key=lambda run: run["seconds"])[len(runs) // 2]
            profile = [report.number(middle["profile"][key] * 1000 / result["blobs"], 0)
                       for key in ("read_ms", "detect_ms")]
        rows.append([title(name), report.spread(own, 2),
                     report.spread([result["blobs"] / s for s in own], 0),
                     report.ratios(beside, own) if name != result["beside"] else "", *profile])
    return [f"{result['blobs']:,} blobs{'' if result['types'] == '*' else ' of ' + result['types']}"
            f", {result['bytes'] / 1e6:,.0f} MB; rounds: {len(beside)}.", "",
            *report.table(["", "seconds", "files/s", f"files/s / those of {title(result['beside'])}",
                           "µs a blob in reading, of a worker", "in detection"], rows)]


def charts(result):
    def draw(axes):
        report.bars(axes, [title(name) for name in result["runs"]],
                    [[result["blobs"] / run["seconds"] for run in runs]
                     for runs in result["runs"].values()], "files a second", digits=0)

    return {"cold.svg": ("Files a second, blobs not in memory", draw)}
