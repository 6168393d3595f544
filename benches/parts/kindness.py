"""What a run does to others: to the sessions of a working archive and to those who make partitions.

Four clients of pgbench claim rows and insert some, through the partitioned table, at a fixed rate; a
loader makes a partition twice a second.  Alone first, then beside each contestant, on
half a million pending rows in 841 leaves: how long transactions of the load take, how long a
partition takes to be made, and how old the contestant's transactions get (seen five times a second),
which is what vacuum has to wait for.  What the load's sessions wait for is looked at twenty times a
second.  Autovacuum is on.
"""

import collections
import contextlib
import os
import subprocess
import tempfile
import threading
import time

import contestants
import data
import report

from parts import turns

ROUNDS = 3

LOAD = """
\\set n random(1, 10000)
SELECT medium_hash AS m, ino AS i FROM demo.key WHERE n = :n \\gset
UPDATE inode SET claimed_by = 'load', claimed_at = now() WHERE medium_hash = :m AND ino = :i;
INSERT INTO inode (medium_hash, ino, fs_type) VALUES (:m, nextval('demo.ino'), 'd');
"""

KEYS = """
    CREATE TABLE demo.key AS
    SELECT row_number() OVER () AS n, medium_hash, ino FROM
        (SELECT medium_hash, ino FROM inode ORDER BY hashint8(ino), ino LIMIT 10000) chosen"""

ALL = ("alone", "ours-1", "ours-2", "ours-2-delay", "ours-2-nice0", "floor", "script")
# What makes a variant of ours, by the end of its name.
VARIANTS = {
    "delay": ("batch_delay 100 ms", "SET ntt_mime.batch_delay = '100ms'"),
    "nice0": ("nice 0, so that workers never rest", "SET ntt_mime.nice = 0"),
}


def arguments(parser):
    parser.add_argument("--rows", type=int, default=500000)
    parser.add_argument("--leaves", type=int, default=841)
    parser.add_argument("--blobs", type=int, default=20000)
    parser.add_argument("--contestants", default="alone,ours-1,ours-2,ours-2-nice0,ours-2-delay,floor",
                        metavar="NAME,...", help=f"of {', '.join(ALL)}; ours-N with N workers")
    parser.add_argument("--rate", type=int, default=200,
                        help="transactions a second; 0: as many as there can be")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--alone", type=float, default=10.0, metavar="SECONDS")


class Load:
    """pgbench, until the block ends; then the latencies of the transactions that ended in it."""

    def __init__(self, cluster, options):
        self.cluster, self.options, self.latencies, self.seconds = cluster, options, [], 0.0

    @contextlib.contextmanager
    def running(self):
        with tempfile.TemporaryDirectory() as folder:
            script = os.path.join(folder, "load.sql")
            with open(script, "w", encoding="ascii") as file:
                file.write(LOAD)
            rate = ["-R", str(self.options.rate)] if self.options.rate else []
            load = subprocess.Popen(
                [self.cluster.program("pgbench"), "-n", "-M", "extended", "-f", script,
                 "-c", str(self.options.clients), "-j", "1", "-T", "36000", *rate, "--log",
                 "--log-prefix", os.path.join(folder, "log"), self.cluster.dsn()],
                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            try:
                time.sleep(1)  # connected, and warm
                began = time.time()
                yield
                ended = time.time()
                if load.poll() is not None:
                    raise SystemExit(f"error: pgbench ended: {load.stderr.read()}")
            finally:
                load.terminate()
                load.wait()
            self.seconds = ended - began
            for name in os.listdir(folder):
                if name.startswith("log."):
                    self.read(os.path.join(folder, name), began, ended)

    def read(self, path, began, ended):
        """client, number, microseconds, script, end in seconds and microseconds, and with a rate how
        late it began, which the microseconds count in already."""
        with open(path, encoding="ascii") as file:
            lines = [line.split() for line in file if line.endswith("\n")]
        for words in lines:
            if len(words) >= 6 and words[2].isdigit() and began <= int(words[4]) + int(words[5]) / 1e6 <= ended:
                self.latencies.append(int(words[2]) / 1000)


class Loader(threading.Thread):
    """Makes a partition twice a second; milliseconds that it takes."""

    def __init__(self, cluster):
        super().__init__(daemon=True)
        self.connection = cluster.connect()
        self.ended = threading.Event()
        self.took = []

    def run(self):
        with self.connection.cursor() as cursor:
            while not self.ended.wait(0.5):
                name = f"probe_{len(self.took)}"
                began = time.monotonic()
                cursor.execute(f"CREATE TABLE {name} PARTITION OF inode FOR VALUES IN ('{name}')")
                self.took.append(1000 * (time.monotonic() - began))

    def finish(self):
        self.ended.set()
        self.join()
        self.connection.close()


class Waits(threading.Thread):
    """What the sessions of the load that are at work wait for: how often each was seen."""

    ASK = """
        SELECT coalesce(wait_event_type || ' ' || wait_event, 'nothing') FROM pg_stat_activity
        WHERE application_name = 'pgbench' AND state = 'active'"""

    def __init__(self, cluster):
        super().__init__(daemon=True)
        self.connection = cluster.connect()
        self.ended = threading.Event()
        self.seen = collections.Counter()
        self.looks = 0

    def run(self):
        with self.connection.cursor() as cursor:
            while not self.ended.wait(0.05):
                cursor.execute(self.ASK)
                self.seen.update(event for (event,) in cursor.fetchall())
                self.looks += 1

    def finish(self):
        """Sessions, on average, that waited for each."""
        self.ended.set()
        self.join()
        self.connection.close()
        return {event: count / self.looks for event, count in self.seen.most_common()}


def act(arena, name, options):
    if name == "alone":
        time.sleep(options.alone)
        return {"seconds": options.alone, "peak": {}}
    if name.startswith("ours-"):
        workers, _, variant = name.removeprefix("ours-").partition("-")
        settings = [VARIANTS[variant][1]] if variant else []
        return contestants.run_ours(arena, int(workers), settings=settings)
    return contestants.run(arena, name)


def title(name):
    workers, _, variant = name.removeprefix("ours-").partition("-")
    if workers == name:
        return name
    return f"ours, {workers} worker{'s' if workers != '1' else ''}" + (
        f", {VARIANTS[variant][0]}" if variant else "")


def shapes(options):
    blobs = min(options.blobs, round(options.rows / 4.75))
    return [data.Shape(blobs, options.leaves, options.rows / blobs, 0.0)]


def measure(bench, options):
    cluster = bench.cluster
    [shape] = shapes(options)
    arena = bench.arena(shape, options)
    names = options.contestants.split(",")
    runs = {name: [] for name in names}
    for number, name in turns(options, names):
        arena.fresh()
        cluster.query(KEYS, "ALTER TABLE demo.key ADD PRIMARY KEY (n)", "ANALYZE demo.key",
                      "CREATE SEQUENCE demo.ino START 1000000000000", "CHECKPOINT")
        load, loader, waits = Load(cluster, options), Loader(cluster), Waits(cluster)
        with load.running():
            loader.start()
            waits.start()
            result = act(arena, name, options)
            loader.finish()
            waited = waits.finish()
        if name != "alone":
            check(cluster, name)
        runs[name].append({
            "seconds": result["seconds"], "rate": len(load.latencies) / load.seconds,
            "latency": quantiles(load.latencies), "partition": quantiles(loader.took),
            "peak": result.get("peak", {}), "waits": waited,
            "waited_for": waited_for(cluster, name),
            "vacuums": cluster.value("SELECT sum(autovacuum_count)::int FROM "
                                     "pg_stat_user_tables WHERE relname LIKE 'inode%'")})
        last = runs[name][-1]
        bench.say(f"round {number + 1}, {name}: {last['seconds']:.1f} s, {last['rate']:,.0f} "
                  f"transactions/s, 95% within {last['latency']['95']:.1f} ms, "
                  f"a partition {last['partition']['max']:.0f} ms at most")
    return {"shape": str(shape),
            "rate": options.rate, "clients": options.clients, "runs": runs}


def check(cluster, name):
    """The load has changed rows, so there is no fingerprint; what was to be filled must be. The floor
    doesn't look again for rows that the load has moved out of the piece that it was at."""
    wrong = cluster.value("""
        SELECT count(*) FROM inode i LEFT JOIN demo.answer a USING (blobid)
        WHERE i.blobid IS NOT NULL AND i.mime_type IS """ + (
            "NULL" if name == "script" else "DISTINCT FROM a.mime_type"))
    if wrong > (100 if name == "floor" else 0):
        raise SystemExit(f"error: {name} left {wrong} rows without the answer")


def waited_for(cluster, name):
    """Batches that others waited for."""
    if not name.startswith("ours-"):
        return None
    return cluster.value("SELECT (options->>'waited_for')::int FROM ntt_mime.run "
                         "ORDER BY run_id DESC LIMIT 1")


def quantiles(values):
    """None of them, if there was none."""
    values = sorted(values) or [0.0]

    def at(share):
        return values[min(int(share * len(values)), len(values) - 1)]

    return {"50": at(0.5), "95": at(0.95), "99": at(0.99), "max": values[-1], "count": len(values)}


def render(result):
    rows = []
    for name, runs in result["runs"].items():
        def middle(what, key, digits=1, runs=runs):
            return report.spread([run[what][key] for run in runs], digits)

        def worst(key, digits, runs=runs):
            known = [run["peak"][key] for run in runs if key in run["peak"]]
            return report.number(float(max(known)), digits) if known else ""

        rows.append([title(name), report.spread([run["seconds"] for run in runs]),
                     report.spread([run["rate"] for run in runs], 0),
                     middle("latency", "50"), middle("latency", "95"), middle("latency", "99"),
                     middle("latency", "max", 0), middle("partition", "50", 0),
                     report.number(max(run["partition"]["max"] for run in runs), 0),
                     worst("transaction_s", 1),
                     report.number(report.median([run["vacuums"] or 0 for run in runs]), 0)])
    wanted = f"{result['rate']} transactions/s wanted" if result["rate"] else "as fast as it goes"
    return [f"{result['shape']}; load: {result['clients']} clients, {wanted}; "
            f"rounds: {len(runs)}.", "",
            *report.table(["beside the load", "seconds", "transactions/s", "median, ms", "95%, ms",
                           "99%, ms", "longest, ms", "a partition made, ms", "longest, ms",
                           "oldest transaction, s", "leaves vacuumed"], rows), "",
            "Sessions of the load that were at work, on average, and what they waited for:", "",
            *what_was_waited_for(result["runs"])]


def what_was_waited_for(runs):
    """Of the run in the middle of each."""
    for name, own in runs.items():
        middle = sorted(own, key=lambda run: run["latency"]["95"])[len(own) // 2]
        parts = ", ".join(f"{event} {count:.2f}" for event, count in middle["waits"].items()
                          if count >= 0.005)
        batches = middle["waited_for"]
        yield f"- {title(name)}: {parts}" + (
            "" if batches is None else f"; batches waited for: {batches:,}")


def charts(result):
    def draw(axes):
        report.bars(axes, [title(name) for name in result["runs"]],
                    [[run["latency"]["95"] for run in runs] for runs in result["runs"].values()],
                    "ms within which 95% of the load's transactions end")

    return {"kindness.svg": ("Latency of other sessions beside a run", draw)}
