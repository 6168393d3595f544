"""One plain table with a row for each blob, the archive's later schema.

The table is blob (blobid primary key, mime_type) with an index on mime_type, and all of it is pending.
A blob's detection fills a single row, and all workers share one table, so the part also measures how much
of their time they wait for each other.  The contestants are those of contest, in turn.
"""

import contestants
import data
import report
from store import Store

from parts import contest, turns

ROUNDS = 3
ALL = ("script", "floor", "ours-1", "ours-2", "ours-4")
CALL = "CALL ntt_backfill_mime(10000, workers => %s, target => 'blob')"


def arguments(parser):
    parser.add_argument("--blobs", type=int, default=98000)
    parser.add_argument("--contestants", default=",".join(ALL), metavar="NAME,...",
                        help="some of these; ours-N is with N workers")
    parser.add_argument("--script-rounds", type=int, help="rounds with it; default: all")


def template(cluster, store, blobs):
    """Its name; made if it isn't there."""
    name = f"template_plain_{blobs}"
    if not cluster.description(name):
        cluster.drop(name)
        cluster.query(f"CREATE DATABASE {name}", database="postgres")
        cluster.query("CREATE TABLE blob (blobid text PRIMARY KEY, mime_type text)",
                      "CREATE INDEX ON blob (mime_type)", "CREATE SCHEMA demo",
                      "CREATE TABLE demo.answer (blobid text PRIMARY KEY, mime_type text)",
                      database=name)
        data.copy(cluster, name, "blob (blobid)", [(blobid,) for blobid in store.blobids])
        data.copy(cluster, name, "demo.answer", store.answers(cluster).items())
        cluster.query("VACUUM ANALYZE", database=name)
        cluster.set_description(name, {"pending": blobs})
    return name, cluster.description(name)


def run(arena, name):
    if name == "script":
        return contestants.script(arena, "--table", "blob")
    if name == "floor":
        return contestants.update_leaves(arena, "demo.answer", table="blob")
    return contestants.run_ours(arena, int(name.split("-")[1]), CALL)


def check(arena, name, result):
    """The script reads less of each blob, so some of its answers differ."""
    other, pending = arena.cluster.query(
        "SELECT count(*) FILTER (WHERE b.mime_type <> a.mime_type), "
        "count(*) FILTER (WHERE b.mime_type IS NULL) "
        "FROM blob b JOIN demo.answer a USING (blobid)")[0]
    if pending or (other and name != "script") or result["rows"] != arena.description["pending"]:
        raise SystemExit(f"error: {name} counts {result['rows']} rows, left {pending} pending, and "
                         f"gave {other} another answer")
    result["other_answers"] = other


def arena(bench, options):
    store = Store(f"{bench.folder}/blobs", "*", options.blobs)
    name, description = template(bench.cluster, store, options.blobs)
    return contestants.Arena(bench.cluster, store, name, description, options)


def measure(bench, options):
    everybody = arena(bench, options)
    cluster, store = everybody.cluster, everybody.store
    names = options.contestants.split(",")
    runs = {name: [] for name in names}
    for number, name in turns(options, names):
        if name == "script" and number >= (options.script_rounds or options.rounds):
            continue
        everybody.fresh()
        runs[name].append(run(everybody, name))
        check(everybody, name, runs[name][-1])
        seconds = runs[name][-1]["seconds"]
        bench.say(f"round {number + 1}, {name}: {seconds:.2f} s, "
                  f"{options.blobs / seconds:,.0f} blobs/s")
    blocks = cluster.value("SELECT pg_relation_size('blob') / 8192", database=everybody.template)
    return {"blobs": options.blobs, "blocks": blocks, "bytes": store.bytes(), "script": "whole",
            "cookie": "blob", "runs": runs}


def render(result):
    runs = result["runs"]
    compared = [name for name in ("script", "floor") if name in runs]
    rows = []
    for name in runs:
        own = contest.seconds(runs, name)
        waiting = [100 * run["waiting"] for run in runs[name] if "waiting" in run]
        row = [contest.title(name, result), report.spread(own, 2),
               report.number(result["blobs"] / report.median(own), 0)]
        for other in compared:
            pair = ((contest.seconds(runs, other), own) if other == "script"
                    else (own, contest.seconds(runs, other)))
            row.append("" if other == name else report.ratios(*pair))
        rows.append([*row, report.spread(waiting) if waiting else ""])
    head = ["", "seconds", "blobs/s"]
    head += ["times as fast as script" if name == "script" else f"time relative to {name}"
             for name in compared]
    return [f"{result['blobs']:,} rows and blobs, {result['blocks']:,} blocks; "
            f"{result['bytes'] / 1e6:,.0f} MB of blobs; "
            f"rounds: {max(map(len, runs.values()))}.", "",
            *report.table([*head, "waiting, % of the workers' time"], rows), "",
            *contest.where_the_time_went(runs)]


def charts(_result):
    return {}
