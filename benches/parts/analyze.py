"""What a run does to the planner's statistics, and what ANALYZE repairs.

Half a million rows without a type get one; autovacuum is off.  Measured for the most frequent types: the
factor by which the planner's estimate of the number of rows is wrong (in either direction), and the time of
a query that depends on it, a join of such rows with the table path.  Right after the run; after ANALYZE of
each leaf, which autovacuum does by itself once a tenth of a leaf's rows have changed; and after ANALYZE of
the partitioned table, which it never does.
"""

import time

import contestants
import data
import report

ROUNDS = 3
TYPES = 10

JOIN = """
    SELECT count(*) FROM inode i JOIN path p USING (medium_hash, ino) WHERE i.mime_type = %s"""


def arguments(parser):
    parser.add_argument("--rows", type=int, default=500000)
    parser.add_argument("--leaves", type=int, default=841)
    parser.add_argument("--blobs", type=int, default=20000)


def seconds(cluster, *statements):
    began = time.monotonic()
    cluster.query(*statements)
    return time.monotonic() - began


def wrong(cluster, counts):
    """For each type the factor by which the planner is wrong, sorted."""
    factors = []
    for mime_type, real in counts:
        plan = cluster.value("EXPLAIN (FORMAT JSON) SELECT FROM inode WHERE mime_type = %s",
                             values=(mime_type,))
        guess = plan[0]["Plan"]["Plan Rows"]
        factors.append(max(guess, 1) / real if guess > real else real / max(guess, 1))
    return sorted(factors)


def look(cluster, counts):
    connection = cluster.connect()
    try:
        with connection.cursor() as cursor:
            took = []
            for mime_type, _ in [counts[0], *counts]:  # the first one twice: once to warm
                began = time.monotonic()
                cursor.execute(JOIN, (mime_type,))
                took.append(time.monotonic() - began)
    finally:
        connection.close()
    return {"factors": wrong(cluster, counts), "join_s": sum(took[1:]) / len(counts)}


def measure(bench, options):
    cluster = bench.cluster
    blobs = min(options.blobs, round(options.rows / 4.75))
    shape = data.Shape(blobs, options.leaves, options.rows / blobs, 0.0)
    arena = bench.arena(shape, options)
    rounds = []
    for number in range(options.rounds):
        with cluster.settings(autovacuum="off"):
            arena.fresh()
            run = contestants.run_ours(arena, 2)
            arena.verify("ours-2", run)
            counts = cluster.query("SELECT mime_type, count(*) FROM inode WHERE mime_type IS NOT "
                                   f"NULL GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT {TYPES}")
            leaves = cluster.query("SELECT inhrelid::regclass::text FROM pg_inherits "
                                   "WHERE inhparent = 'inode'::regclass")
            states = {"after the run": {"analyze_s": None, **look(cluster, counts)}}
            took = seconds(cluster, *(f"ANALYZE {leaf}" for (leaf,) in leaves))
            states["ANALYZE of each leaf"] = {"analyze_s": took, **look(cluster, counts)}
            took = seconds(cluster, "ANALYZE inode")
            states["ANALYZE of the partitioned table"] = {"analyze_s": took,
                                                          **look(cluster, counts)}
        rounds.append({"run_s": run["seconds"], "states": states})
        bench.say(f"round {number + 1}: run {run['seconds']:.1f} s; " + "; ".join(
            f"{name}: wrong by {report.median(state['factors']):,.1f}"
            for name, state in states.items()))
    return {"shape": str(shape), "rounds": rounds}


def render(result):
    rows = []
    for name in result["rounds"][0]["states"]:
        states = [one["states"][name] for one in result["rounds"]]
        took = [state["analyze_s"] for state in states if state["analyze_s"] is not None]
        rows.append([name, report.spread(took) if took else "",
                     report.spread([report.median(state["factors"]) for state in states]),
                     report.spread([max(state["factors"]) for state in states]),
                     report.spread([1000 * state["join_s"] for state in states], 0)])
    run = report.spread([one["run_s"] for one in result["rounds"]])
    return [f"{result['shape']}; the run took {run} s; rounds: {len(result['rounds'])}.", "",
            *report.table(["", "ANALYZE, s", f"estimate wrong by a factor of, median of {TYPES} types",
                           "worst", "join, ms"], rows)]


def charts(_):
    return {}
