"""Few pending rows in a few of many leaves: the cost of a run that is scheduled every few minutes.

50,000 leaves with two indexes, 17 of them large; most of the heap is theirs.  No row is pending, or one in
each of some leaves.  Then the same with a tenth of the heap, in as many leaves: a run should cost what has
changed, not what exists.  In turn with it, a bare sum of the server's counters over all leaves, the cheapest
way to learn which have changed; and once in each round, a run that reads everything
(ntt_mime.full_scan_after = 0).  Each is a new session, which knows nothing of the tables yet, like that of
a scheduled job, and begins when those before it have ended, and so have published their counters.

Blocks are those of the leaves' heaps according to pg_statio, read or found in shared buffers, before and
after: there should be none of leaves that have not changed.
"""

import concurrent.futures
import contextlib
import hashlib
import inspect
import os
import time

import cluster as clusters
import contestants
import data
import report
from store import Store

from parts import numbers

ROUNDS = 3

# A row, with all that belongs to it: four of them fill a block.
ROWS_PER_BLOCK = 4
PADDING = 1650

# What of the heap is in small leaves, if each has a block at least.
SMALL_SHARE = 1 / 3

COUNTERS = """
    SELECT sum(pg_stat_get_tuples_inserted(c.oid) + pg_stat_get_tuples_updated(c.oid))
    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 'inode'::regclass"""

BLOCKS = """
    SELECT coalesce(sum(pg_stat_get_blocks_fetched(m.leaf)), 0)
    FROM demo.medium m WHERE (m.place <= %s) = %s"""


def arguments(parser):
    parser.add_argument("--leaves", type=int, default=50000)
    parser.add_argument("--large", type=int, default=17, help="large ones of these")
    parser.add_argument("--heap", type=numbers, default=[5e9, 5e8], metavar="BYTES,...",
                        help="the leaves' heaps, one measurement for each")
    parser.add_argument("--pending", type=numbers, default=[0, 1, 100, 10000], metavar="N,...")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--make-only", action="store_true",
                        help="only make the tables, for a run that follows with --keep")


def rows_of(options, heap):
    """Of each small leaf, and of each large one."""
    blocks, small = heap / 8192, options.leaves - options.large
    each = max(round(SMALL_SHARE * blocks / small), 1) if small else 0
    rest = max(blocks - each * small, 0)
    return each * ROWS_PER_BLOCK, max(round(rest / options.large), each) * ROWS_PER_BLOCK


def name_of(options, heap):
    text = f"{options.leaves} {options.large} {rows_of(options, heap)} {PADDING}"
    text += inspect.getsource(make) + inspect.getsource(fill)
    for path in (f"{clusters.HERE}/many_leaves.sql", f"{data.DEMO}/schema.sql"):
        with open(path, encoding="utf-8") as file:
            text += file.read()
    return "incremental_" + hashlib.sha256(text.encode()).hexdigest()[:12]


def make(bench, options, heap, store):
    """The database's name. Each leaf has a row, the first, whose blob is one of the store's; all rows
    have a type."""
    cluster, name = bench.cluster, name_of(options, heap)
    if cluster.description(name):
        return name
    began = time.monotonic()
    cluster.drop(name)
    with cluster.without_fsync(), cluster.settings(max_wal_size="1GB", autovacuum="off"):
        cluster.query(f'CREATE DATABASE "{name}"',
                      f"ALTER DATABASE \"{name}\" SET ntt_mime.blob_root = '{store.root}'",
                      database="postgres")
        cluster.psql(name, "-1", "-f", f"{data.DEMO}/schema.sql",
                     "-f", f"{clusters.HERE}/many_leaves.sql", leaves=options.leaves)
        data.copy(cluster, name, "demo.blob (blobid, size, kind)", store.rows)
        # The order in which leaves get a pending row.
        cluster.query("""
            ALTER TABLE demo.medium ADD leaf regclass, ADD place bigint""", """
            UPDATE demo.medium SET leaf = ('inode_' || left(medium_hash, 12))::regclass, place = o.place
            FROM (SELECT n, row_number() OVER (ORDER BY hashint8(n), n) AS place FROM demo.medium) o
            WHERE o.n = medium.n""", "VACUUM FULL ANALYZE demo.medium", database=name)
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda part: fill(cluster, name, options, rows_of(options, heap), part), (0, 1)))
        cluster.query("VACUUM ANALYZE pg_class", "VACUUM ANALYZE pg_inherits", "CHECKPOINT", database=name)
    cluster.set_description(name, vars(options))
    bench.say(f"tables made: {options.leaves:,} leaves, {heap / 1e9:g} GB of heap, "
              f"{time.monotonic() - began:.0f} s")
    return name


def fill(cluster, name, options, rows, part):
    """Each leaf by itself, then its indexes: creating them also sets its size in pg_class."""
    cluster.query("SET jit = off", "SET synchronous_commit = off", f"""
        DO $$
        DECLARE
            m record;
            blobs bigint := (SELECT count(*) FROM demo.blob);
        BEGIN
            FOR m IN SELECT * FROM demo.medium WHERE n % 2 = {part} ORDER BY n LOOP
                EXECUTE format($insert$
                    INSERT INTO %s
                    SELECT %L, 64768, i, 1, 42, 1000000000 + i,
                           CASE i WHEN 1 THEN (SELECT blobid FROM demo.blob WHERE n = %s)
                                  ELSE md5(i::text) || md5(%L || i) END,
                           true, repeat('x', {PADDING}), '{{}}', 'f', 'text/plain',
                           timestamptz '2025-10-01 00:00+00' + i * interval '1 second', true, NULL, NULL
                    FROM generate_series(1, %s) i
                    $insert$, m.leaf, m.medium_hash, 1 + m.n % blobs, m.medium_hash,
                    CASE WHEN m.n <= {options.large} THEN {rows[1]} ELSE {rows[0]} END);
                EXECUTE format('ALTER TABLE %s ADD PRIMARY KEY (medium_hash, ino)', m.leaf);
                EXECUTE format('CREATE INDEX ON %s (mime_type)', m.leaf);
                IF m.n % 500 = {part} THEN
                    COMMIT;
                END IF;
            END LOOP;
        END $$""", database=name)


def wait_alone(cluster, name):
    """Until all sessions of the database have ended but the one that asks."""
    connection = cluster.connect("postgres")
    with contextlib.closing(connection), connection.cursor() as cursor:
        while True:
            cursor.execute("SELECT FROM pg_stat_activity WHERE datname = %s", (name,))
            if not cursor.rowcount:
                return
            time.sleep(0.05)


def make_pending(cluster, name, count):
    """Makes the first row of so many leaves pending, where none was."""
    if count:
        cluster.query("SET synchronous_commit = off", f"""
            DO $$
            DECLARE
                m record;
            BEGIN
                FOR m IN SELECT * FROM demo.medium WHERE place <= {count} ORDER BY place LOOP
                    EXECUTE format('UPDATE ONLY %s SET mime_type = NULL WHERE medium_hash = %L AND ino = 1',
                                   m.leaf, m.medium_hash);
                    IF m.place % 500 = 0 THEN
                        COMMIT;
                    END IF;
                END LOOP;
            END $$""", "CHECKPOINT", database=name)
    wait_alone(cluster, name)


def timed(cluster, name, *statements):
    """In a session of its own; the seconds of the last statement."""
    connection = cluster.connect(name)
    with contextlib.closing(connection), connection.cursor() as cursor:
        for statement in statements[:-1]:
            cursor.execute(statement)
        began = time.monotonic()
        cursor.execute(statements[-1])
        cursor.fetchall()
        return time.monotonic() - began


def run_ours(cluster, name, pending, options, *settings):
    """Its seconds, and the blocks of the heaps of changed and of unchanged leaves."""
    def blocks():
        return [int(cluster.query(BLOCKS, database=name, values=(pending, changed))[0][0])
                for changed in (True, False)]

    before = blocks()
    wait_alone(cluster, name)
    connection = cluster.connect(name)
    with contextlib.closing(connection), connection.cursor() as cursor:
        for setting in settings:
            cursor.execute(setting)
        result = contestants.timed_call(connection, contestants.CALL, options.workers)
    wait_alone(cluster, name)
    changed, unchanged = (now - then for then, now in zip(before, blocks()))
    if result["rows_updated"] != pending or result["failures"]:
        raise SystemExit(f"error: ours filled {result['rows_updated']} rows of {pending}, "
                         f"{result['failures']} failures")
    return {"seconds": result["seconds"], "changed": changed, "unchanged": unchanged}


def check_answers(cluster, name, pending):
    """Of the rows that have been filled last."""
    wrong = cluster.query("CREATE TEMPORARY TABLE filled (blobid text, mime_type text)", f"""
        DO $$
        DECLARE
            m record;
        BEGIN
            FOR m IN SELECT * FROM demo.medium WHERE place <= {pending} LOOP
                EXECUTE format('INSERT INTO filled SELECT blobid, mime_type FROM ONLY %s '
                               'WHERE medium_hash = %L AND ino = 1', m.leaf, m.medium_hash);
            END LOOP;
        END $$""", """
        SELECT count(*) FROM filled JOIN (SELECT b.blobid, ntt_detect_mime(b.blobid) AS mime_type
                                          FROM (SELECT DISTINCT blobid FROM filled) b) known USING (blobid)
        WHERE filled.mime_type IS DISTINCT FROM known.mime_type""", database=name)[0][0]
    if wrong:
        raise SystemExit(f"error: {wrong} rows were given another answer")


def measure_size(bench, options, heap, store):
    cluster, name = bench.cluster, make(bench, options, heap, store)
    if options.make_only:
        return None
    total = int(cluster.value("SELECT sum(pg_relation_size(leaf)) FROM demo.medium", name))
    cluster.query("DROP EXTENSION IF EXISTS ntt_mime", "CREATE EXTENSION ntt_mime", database=name)
    def run(pending, *settings):
        return run_ours(cluster, name, pending, options, *settings)

    make_pending(cluster, name, 0)
    looks = []
    first = run(0)
    bench.say(f"{heap / 1e9:g} GB, a first look: {first['seconds']:.2f} s, {first['unchanged']:,} blocks")
    runs = {}
    for number in range(options.rounds):
        for pending in options.pending:
            make_pending(cluster, name, pending)
            counters = timed(cluster, name, COUNTERS)
            wait_alone(cluster, name)
            ours = {**run(pending), "counters": counters}
            runs.setdefault(str(pending), []).append(ours)
            bench.say(f"{heap / 1e9:g} GB, round {number + 1}, {pending:,} pending: "
                      f"{ours['seconds']:.2f} s, the counters {counters:.2f} s; blocks of changed leaves "
                      f"{ours['changed']:,}, of others {ours['unchanged']:,}")
        looks.append(run(0, "SET ntt_mime.full_scan_after = 0"))
        bench.say(f"{heap / 1e9:g} GB, round {number + 1}, everything: {looks[-1]['seconds']:.2f} s, "
                  f"blocks {looks[-1]['unchanged']:,}")
    check_answers(cluster, name, max(options.pending))
    return {"heap": total, "runs": runs, "looks": looks}


def measure(bench, options):
    options.heap = [int(heap) for heap in options.heap]
    with bench.cluster.settings(autovacuum="off"):
        store = Store(os.path.join(bench.folder, "blobs"), "*", 1000)
        store.warm()
        sizes = [measure_size(bench, options, heap, store) for heap in options.heap]
    if options.make_only:
        raise SystemExit()
    return {"leaves": options.leaves, "large": options.large, "workers": options.workers,
            "pending": options.pending, "sizes": sizes}


def gigabytes(size):
    return f"{size['heap'] / 1e9:.2g} GB"


def render(result):
    rows = []
    for size in result["sizes"]:
        base = None
        for pending in result["pending"]:
            runs = size["runs"][str(pending)]
            ours, counters = ([run[name] for run in runs] for name in ("seconds", "counters"))
            looks = [run["seconds"] for run in size["looks"]]
            base = base or ours
            rows.append([gigabytes(size), f"{pending:,}", report.spread(looks, 2),
                         report.spread(counters, 2), report.spread(ours, 2),
                         report.ratios(ours, counters), report.ratios(ours, base),
                         max(run["changed"] for run in runs), max(run["unchanged"] for run in runs)])
    rounds = len(next(iter(result["sizes"][0]["runs"].values())))
    looked = "; ".join(f"{gigabytes(size)}, {max(run['unchanged'] for run in size['looks']):,}"
                       for size in result["sizes"])
    return [f"{result['leaves']:,} leaves, {result['large']} of them large, two indexes; "
            f"{result['workers']} workers; rounds: {rounds}.", "",
            *report.table(["heap", "pending rows, one per leaf", "full scan, s",
                           "sum of the counters, s", "ours, s", "ours / counters",
                           f"ours / ours with {result['pending'][0]:,}", "heap blocks read of changed leaves",
                           "of unchanged leaves"], rows), "",
            f"Heap blocks read by a full scan: {looked}."]


def charts(result):
    def draw(axes):
        names, values = [], []
        for size in result["sizes"]:
            heap = gigabytes(size)
            names.append(f"{heap}, full scan")
            values.append([run["seconds"] for run in size["looks"]])
            for pending in result["pending"]:
                names.append(f"{heap}, ours, {pending:,} pending")
                values.append([run["seconds"] for run in size["runs"][str(pending)]])
        report.bars(axes, names, values, "seconds", digits=2)

    return {"incremental.svg": ("Seconds of a run with few pending rows", draw)}
