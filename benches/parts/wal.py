"""What is written besides the rows: WAL, full-page images, dead row versions, transactions, locks.

Contestants fill the same rows under four conditions:

  bare         full_page_writes is off: what the changes themselves need
  as usual     a checkpoint just before, and none until the end: each page that is changed is written in
               full, once
  checkpoints  one whenever a certain amount of WAL has been written (--max-wal-size), as in a job of
               hours: this shows who returns to pages that it has left
  autovacuum   it starts once a second; in the other three it is off.  Dead row versions and sizes are
               those right after the run

WAL is measured by its position, so it includes that of the run's own tables.  Locks are sampled five times
a second: the largest number of relations that one process had locked at once.
"""

import time

import contestants
import data
import report

ROUNDS = 3

CONDITIONS = {
    "bare": {"full_page_writes": "off", "autovacuum": "off"},
    "as usual": {"autovacuum": "off"},
    "checkpoints": {"autovacuum": "off"},
    "autovacuum": {"autovacuum_naptime": "1s"},
}

WRITTEN = """
    SELECT (pg_current_wal_insert_lsn() - '0/0')::float8, w.wal_fpi::float8,
           pg_snapshot_xmax(pg_current_snapshot())::text::float8,
           (SELECT xact_commit::float8 FROM pg_stat_database WHERE datname = current_database())
    FROM pg_stat_wal w"""

LEAVES = """
    SELECT coalesce(sum(pg_relation_size(relid)), 0)::float8,
           coalesce(sum(pg_indexes_size(relid)), 0)::float8, coalesce(sum(n_dead_tup), 0)::float8,
           coalesce(sum(autovacuum_count), 0)::float8
    FROM pg_stat_user_tables WHERE relid IN
        (SELECT inhrelid FROM pg_inherits WHERE inhparent = 'inode'::regclass)"""


def arguments(parser):
    parser.add_argument("--blobs", type=int, default=20000)
    parser.add_argument("--leaves", type=int, default=841)
    parser.add_argument("--contestants", default="floor,ours-2", metavar="NAME,...",
                        help="floor, ours-N, script")
    parser.add_argument("--conditions", default=",".join(CONDITIONS), metavar="NAME,...")
    parser.add_argument("--max-wal-size", default="64MB")


def checkpoints(cluster):
    """Requested ones, which are those that WAL asked for, since there is no other reason."""
    newer = cluster.value("SELECT to_regclass('pg_stat_checkpointer') IS NOT NULL")
    return cluster.value("SELECT num_requested FROM pg_stat_checkpointer" if newer else
                         "SELECT checkpoints_req FROM pg_stat_bgwriter")


def look(cluster):
    time.sleep(0.5)  # sessions that have just ended bring in their counts
    written = dict(zip(("bytes", "full_pages", "xid", "commits"), cluster.query(WRITTEN)[0]))
    sizes = dict(zip(("heap", "indexes", "dead", "vacuums"), cluster.query(LEAVES)[0]))
    return {**written, **sizes, "checkpoints": checkpoints(cluster)}


def run(arena, name):
    if name == "floor":
        return contestants.run_floor(arena, locks=True)
    if name.startswith("ours-"):
        return contestants.run_ours(arena, int(name.split("-")[1]), locks=True)
    return contestants.run(arena, name)


def measure(bench, options):
    cluster = bench.cluster
    arena = bench.arena(data.Shape(options.blobs, options.leaves), options)
    names, conditions = options.contestants.split(","), options.conditions.split(",")
    runs = {condition: {name: [] for name in names} for condition in conditions}
    for number in range(options.rounds):
        for condition in conditions:
            values = dict(CONDITIONS[condition])
            if condition == "checkpoints":
                values["max_wal_size"] = options.max_wal_size
            for name in names[::1 if number % 2 == 0 else -1]:
                with cluster.settings(**values):
                    arena.fresh()
                    before = look(cluster)
                    result = run(arena, name)
                    after = look(cluster)
                result["written"] = {key: after[key] - before[key] for key in after}
                result["written"].update(dead=after["dead"], heap_before=before["heap"],
                                         indexes_before=before["indexes"])
                arena.verify(name, result)
                runs[condition][name].append(result)
                bench.say(f"round {number + 1}, {condition}, {name}: {result['seconds']:.1f} s, "
                          f"{result['written']['bytes'] / result['rows']:,.0f} bytes a row")
    return {"shape": str(data.Shape(options.blobs, options.leaves)), "runs": runs,
            "max_wal_size": options.max_wal_size}


def of(runs, key, scale=1.0):
    """A number of what was written, in each run, for each row if scale is None."""
    return [run["written"][key] / (run["rows"] if scale is None else scale) for run in runs]


def render(result):
    rows = []
    for condition, contestants_ in result["runs"].items():
        for name, runs in contestants_.items():
            floor = contestants_.get("floor")
            rows.append([
                condition, name, report.spread(of(runs, "bytes", None), 0),
                "" if name == "floor" or not floor else
                report.ratios(of(runs, "bytes", None), of(floor, "bytes", None)),
                report.median(of(runs, "full_pages", None)), report.median(of(runs, "checkpoints")),
                report.median(of(runs, "xid")), report.median(of(runs, "commits")),
                report.number(max(run["peak"].get("locked_relations", 0) for run in runs), 0),
                report.number(max(run["peak"].get("locked_tables", 0) for run in runs), 0)])
            rows[-1][4:8] = [report.number(value, digits)
                             for value, digits in zip(rows[-1][4:8], (3, 0, 0, 0))]
    lines = [f"{result['shape']}; rounds: {len(next(iter(contestants_.values())))}; a checkpoint "
             f"whenever WAL fills max_wal_size = {result['max_wal_size']}.", "",
             *report.table(["condition", "", "WAL bytes per row", "relative to floor", "full pages per row",
                            "checkpoints", "writing transactions", "commits",
                            "relations locked at once", "of them tables"], rows, text=2)]
    return lines + ["", *sizes(result)]


def sizes(result):
    """Growth in per cent of the sizes before."""
    rows = []
    for condition, contestants_ in result["runs"].items():
        for name, runs in contestants_.items():
            growth = [[100 * run["written"][part] / run["written"][part + "_before"] for run in runs]
                      for part in ("heap", "indexes")]
            rows.append([condition, name, *(report.spread(part) for part in growth),
                         report.spread(of(runs, "dead", None), 2),
                         report.number(report.median(of(runs, "vacuums")), 0)])
    return ["After the run:", "",
            *report.table(["condition", "", "heap growth, %", "index growth, %",
                           "dead versions per updated row", "leaves vacuumed"], rows, text=2)]


def charts(result):
    def draw(axes):
        names, values = [], []
        for condition, contestants_ in result["runs"].items():
            for name, runs in contestants_.items():
                names.append(f"{name}, {condition}")
                values.append(of(runs, "bytes", None))
        report.bars(axes, names, values, "bytes of WAL a row", digits=0)

    return {"wal.svg": ("Bytes of WAL per row", draw)}
