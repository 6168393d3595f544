"""The partial index of pending rows: the cost of a run with it, and without.

2.66 million rows in 841 leaves, of which none, one or a thousand are pending.  In turn with a bare scan:
one session that asks each leaf, in a statement of its own, for one pending row.  Each measurement is a new
session, which knows nothing of the tables yet, like that of a scheduled job.
"""

import time

import contestants
import data
import report

from parts import numbers

ROUNDS = 3

WANTED = "mime_type IS NULL AND blobid IS NOT NULL"
INDEX = f"CREATE INDEX inode_pending ON inode (blobid) WHERE {WANTED}"


def arguments(parser):
    parser.add_argument("--rows", type=int, default=2660000)
    parser.add_argument("--leaves", type=int, default=841)
    parser.add_argument("--pending", type=numbers, default=[0, 1, 1000], metavar="N,...")
    parser.add_argument("--workers", type=int, default=2)


def bare_look(cluster):
    """Seconds, and how many leaves have pending rows."""
    connection = cluster.connect()
    found = 0
    try:
        with connection.cursor() as cursor:
            began = time.monotonic()
            cursor.execute("SELECT inhrelid::regclass::text FROM pg_inherits "
                           "WHERE inhparent = 'inode'::regclass")
            for (leaf,) in cursor.fetchall():
                cursor.execute(f"SELECT ctid, blobid FROM ONLY {leaf} WHERE {WANTED} LIMIT 1")
                found += cursor.rowcount
            return {"seconds": time.monotonic() - began, "leaves": found}
    finally:
        connection.close()


def run_ours(cluster, workers):
    connection = cluster.connect()
    try:
        result = contestants.timed_call(connection, contestants.CALL, workers)
        return {"seconds": result["seconds"], "rows": result["rows_updated"],
                "blobs": result["blobs"]}
    finally:
        connection.close()


def choose_rows(cluster, most):
    """Chooses the rows that can be pending, and the order in which they are; the template's other
    pending rows are filled for good."""
    cluster.query("SET jit = off", f"""
        CREATE TABLE demo.state AS
        SELECT i.tableoid::regclass::text AS leaf, i.medium_hash, i.ino,
               row_number() OVER (ORDER BY hashint8(i.ino), i.ino) AS place
        FROM inode i JOIN demo.answer a ON a.blobid = i.blobid
        ORDER BY place LIMIT {most}""", "ANALYZE demo.state")


def make_pending(cluster, count):
    """Makes exactly so many rows pending, where none was, and leaves no dead ones about."""
    connection = cluster.connect()
    with connection.cursor() as cursor:
        cursor.execute("SELECT DISTINCT leaf FROM demo.state WHERE place <= %s", (count,))
        changed = [leaf for (leaf,) in cursor.fetchall()]
        for leaf in changed:
            cursor.execute(f"""
                UPDATE ONLY {leaf} AS leaf SET mime_type = NULL FROM demo.state s
                WHERE s.leaf = %s AND s.place <= %s
                  AND leaf.medium_hash = s.medium_hash AND leaf.ino = s.ino""", (leaf, count))
        if changed:
            cursor.execute(f"VACUUM ANALYZE {', '.join(changed)}")
        cursor.execute("CHECKPOINT")
    connection.close()


def measure(bench, options):
    cluster = bench.cluster
    blobs = 1000
    while blobs * 4.75 < max(options.pending):
        blobs *= 2
    shape = data.Shape(blobs, options.leaves, 4.75,
                       max(round(options.rows / (blobs * 4.75)) - 1, 0))
    arena = bench.arena(shape, options)
    arena.fresh()
    choose_rows(cluster, max(options.pending))
    contestants.run_floor(arena)
    cluster.query("VACUUM ANALYZE")
    runs = {}
    for index in ("without", "with"):
        if index == "with":
            cluster.query(INDEX)
        for number in range(options.rounds):
            for pending in options.pending:
                make_pending(cluster, pending)
                look = bare_look(cluster)
                result = run_ours(cluster, options.workers)
                if result["rows"] != pending:
                    raise SystemExit(f"error: ours filled {result['rows']} rows of {pending}")
                for name, took in (("look", look), ("ours", result)):
                    runs.setdefault(f"{index}/{pending}/{name}", []).append(took)
                bench.say(f"{index} the index, round {number + 1}, {pending:,} pending: "
                          f"{result['seconds']:.2f} s, a look {look['seconds']:.2f} s")
    arena.verify("ours", {}, rows_must=False)
    return {"shape": str(shape), "rows": arena.description["rows"], "pending": options.pending,
            "workers": options.workers, "runs": runs}


def render(result):
    rows = []
    for index in ("without", "with"):
        for pending in result["pending"]:
            look, ours = ([run["seconds"] for run in result["runs"][f"{index}/{pending}/{name}"]]
                          for name in ("look", "ours"))
            rows.append([index, f"{pending:,}", report.spread(look, 2), report.spread(ours, 2),
                         report.ratios(ours, look)])
    rounds = len(next(iter(result["runs"].values())))
    return [f"{result['rows']:,} rows; {result['workers']} workers; rounds: {rounds}.", "",
            *report.table(["partial index", "pending rows", "bare scan, s", "ours, s",
                           "ours / scan"], rows, text=1), "",
            f"The index: `{INDEX.replace('inode_pending ', '')};`"]


def charts(result):
    def draw(axes):
        names, values = [], []
        for index in ("without", "with"):
            for who in ("look", "ours"):
                for pending in result["pending"] if who == "ours" else result["pending"][:1]:
                    names.append(f"{who}, {pending:,} pending, {index} index")
                    values.append([run["seconds"] for run in
                                   result["runs"][f"{index}/{pending}/{who}"]])
        report.bars(axes, names, values, "seconds", digits=2)

    return {"index.svg": ("Seconds of a run with few pending rows, without and with the index", draw)}
