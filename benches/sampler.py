"""Looks at a contestant five times a second, from a session of its own, while it works.

What is looked at: how far a run of the extension is (from ntt_mime.run, which its leader writes once
a second), the memory of its processes, the locks they hold, and how old their transactions are.

The session stays in one transaction from before the contestant begins, without a snapshot between two
statements.  A run waits for the counters of sessions that may have committed something meanwhile, and
this one would be such a session: what is measured must not include the measuring.
"""

import re
import threading
import time

RUN = """
    SELECT rows_updated, update_ms, leaves_done FROM ntt_mime.run ORDER BY run_id DESC LIMIT 1"""

PROCESSES = """
    SELECT pid, backend_type = 'ntt_mime worker',
           coalesce(extract(epoch FROM clock_timestamp() - xact_start), 0)::float8,
           coalesce(age(backend_xmin), 0)
    FROM pg_stat_activity
    WHERE backend_type = 'ntt_mime worker' OR pid = ANY(%s)"""

# Of a process: relations locked, and tables among them.
LOCKS = """
    SELECT max(relations), max(tables)
    FROM (SELECT count(*) AS relations, count(*) FILTER (WHERE c.relkind IN ('r', 'p')) AS tables
          FROM pg_locks l LEFT JOIN pg_class c ON c.oid = l.relation
          WHERE l.pid = ANY(%s) AND l.locktype = 'relation' AND l.granted
          GROUP BY l.pid) held"""


def heap_kb(pid):
    """A process's own memory. Not the server's shared buffers, of which it maps what it touched."""
    with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
        return int(re.search(r"^RssAnon:\s+(\d+)", file.read(), re.M).group(1))


def run_memory_kb(pid):
    """Memory that the processes of a run share, resident in this one: the segment with the list of
    leaves, and the run's cache of blobs."""
    total, counts = 0, False
    with open(f"/proc/{pid}/smaps", encoding="ascii", errors="replace") as file:
        for line in file:
            if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
                counts = "/dev/shm/PostgreSQL." in line or "ntt_mime" in line and "memfd:" in line
            elif counts and line.startswith("Rss:"):
                total += int(line.split()[1])
    return total


class Sampler(threading.Thread):
    """pids: the contestant's sessions; the workers are found by their kind."""

    def __init__(self, cluster, pids, locks=False):
        super().__init__(daemon=True)
        self.connection = cluster.connect()
        self.ask("BEGIN")
        self.pids, self.locks = list(pids), locks
        self.ended = threading.Event()
        self.progress = [(0.0, 0, 0.0, 0)]
        self.peak = {}
        self.began = self.last_maps = time.monotonic()

    def ask(self, statement, *values):
        with self.connection.cursor() as cursor:
            cursor.execute(statement, values or None)
            return cursor.fetchall() if cursor.description else []

    def top(self, name, value):
        self.peak[name] = max(self.peak.get(name, 0), value or 0)

    def look_at_run(self):
        rows = self.ask(RUN)
        if rows and rows[0][0] > self.progress[-1][1]:
            self.progress.append((time.monotonic() - self.began, *rows[0]))

    def look_at_processes(self):
        # Else a transaction sees the activity of its beginning.
        self.ask("SELECT pg_stat_clear_snapshot()")
        processes = self.ask(PROCESSES, self.pids)
        heaps = {}
        for pid, worker, age, horizon in processes:
            # CALL is one statement, but a leader begins a new transaction each second.
            self.top("transaction_s", age)
            self.top("horizon_transactions", horizon)
            try:
                heaps[pid] = heap_kb(pid)
                self.top("worker_kb" if worker else "session_kb", heaps[pid])
                # Reading it walks the tables of all the pages that the process maps.
                if worker and time.monotonic() - self.last_maps > 2:
                    self.last_maps = time.monotonic()
                    self.top("shared_kb", run_memory_kb(pid))
            except (OSError, AttributeError):
                pass  # ended meanwhile, or not ours to look at
        self.top("all_kb", sum(heaps.values()))
        if self.locks:
            relations, tables = self.ask(LOCKS, [row[0] for row in processes])[0]
            self.top("locked_relations", relations)
            self.top("locked_tables", tables)

    def run(self):
        while not self.ended.wait(0.2):
            self.look_at_run()
            self.look_at_processes()

    def finish(self):
        self.ended.set()
        self.join()
        self.look_at_run()
        self.connection.close()

    def tenths(self):
        """For each tenth of the rows: microseconds a row on the clock and in updates, and leaves
        finished; None if the run was too short to tell."""
        if len(self.progress) < 8:
            return None
        total = self.progress[-1][1]

        def at(rows, column):
            for earlier, later in zip(self.progress, self.progress[1:]):
                if rows <= later[1]:
                    share = (rows - earlier[1]) / (later[1] - earlier[1])
                    return earlier[column] + share * (later[column] - earlier[column])
            return self.progress[-1][column]

        def steps(column, scale):
            edges = [at(total * n / 10, column) for n in range(11)]
            return [scale * (b - a) for a, b in zip(edges, edges[1:])]

        return {"clock_us": steps(0, 1e6 / (total / 10)),
                "update_us": steps(2, 1e3 / (total / 10)), "leaves": steps(3, 1)}
