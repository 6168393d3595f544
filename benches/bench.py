#!/usr/bin/env python3
"""Measures the extension beside the method it replaces (seed.py), on the same data.

    make bench BENCH='[--blobs N] [--leaves N] [--rounds N] [--workers N] [--write]'

A round is both methods once, each on its own copy of one template database: 841 leaves of uneven
size, 4.75 pending rows a blob and as many rows that are filled already.  Who goes first alternates,
since the machine warms up, throttles and is shared.  Before each, a checkpoint is made and the
blobs' heads are read once, so that both find the files in memory.  A time counts only if every row
was filled, and no other row changed.

Trust the ratio, not the seconds: on shared machines these drift by a factor of two between hours.

For the extension it also shows whether the cost of a row grows as a run goes on, from what
ntt_mime.run says while it does: the time of each tenth of the rows, as time on the clock and as
time spent in updates.  The first falls, since later rows find their blobs detected already, so
growth of the database's work would show in the second.  But a leaf has a cost of its own, about a
millisecond, and the smallest leaves come last: with few rows and 841 leaves that is what the last
tenths show, as the number of leaves beside them tells.  "--leaves 17" shows the rows alone.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time

import psycopg2

HERE = os.path.dirname(os.path.realpath(__file__))
REPOSITORY = os.path.dirname(HERE)
TEMPLATE, DATABASE = "bench_template", "bench"


class Cluster:
    def __init__(self, folder):
        with open(os.path.join(folder, "port"), encoding="ascii") as file:
            self.address = f"host={folder}/run port={int(file.read())} user=postgres"
        self.folder = folder

    def dsn(self, database):
        return f"{self.address} dbname={database}"

    def connect(self, database):
        connection = psycopg2.connect(self.dsn(database))
        connection.autocommit = True
        return connection

    def query(self, database, *statements):
        """Runs the statements one by one; the rows of the last."""
        connection = self.connect(database)
        try:
            with connection.cursor() as cursor:
                for statement in statements:
                    cursor.execute(statement)
                return cursor.fetchall() if cursor.description else None
        finally:
            connection.close()


def fingerprint(cluster):
    """Of the rows that no method may touch, and of all columns that none may."""
    return cluster.query(DATABASE, """
        SELECT count(*), sum(hashtextextended(ROW(medium_hash, dev, ino, nlink, i.size, mtime,
                   i.blobid, copied, copied_to, errors, fs_type, CASE WHEN b.n IS NULL THEN
                   mime_type END, processed_at, by_hash_created, claimed_by, claimed_at)::text, 0))
        FROM inode i LEFT JOIN demo.blob b ON b.blobid = i.blobid""")[0]


def warm(root, blobids):
    for blobid in blobids:
        with open(os.path.join(root, blobid[0:2], blobid[2:4], blobid), "rb") as file:
            file.read(65536)


def fresh(cluster, root, blobids):
    switch = [os.path.join(REPOSITORY, "scripts", "cluster.sh"), "fsync", cluster.folder]
    subprocess.run([*switch, "off"], check=True)
    cluster.query("postgres", f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)",
                  f"CREATE DATABASE {DATABASE} TEMPLATE {TEMPLATE} STRATEGY file_copy",
                  f"ALTER DATABASE {DATABASE} SET ntt_mime.blob_root = '{root}'")
    subprocess.run([*switch, "on"], check=True)
    warm(root, blobids)
    before = fingerprint(cluster)
    cluster.query("postgres", "CHECKPOINT")
    return before


def run_seed(cluster, options):
    done = subprocess.run(
        [sys.executable, os.path.join(HERE, "seed.py"), cluster.dsn(DATABASE), options.root,
         "--cookie", options.seed_cookie],
        check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


class Sampler(threading.Thread):
    """Looks at the run five times a second from a session of its own."""

    def __init__(self, cluster):
        super().__init__(daemon=True)
        self.connection = cluster.connect(DATABASE)
        self.ended = threading.Event()
        self.samples = [(0.0, 0, 0.0, 0)]
        self.began = time.monotonic()

    def look(self):
        with self.connection.cursor() as cursor:
            cursor.execute("SELECT rows_updated, update_ms, leaves_done FROM ntt_mime.run "
                           "ORDER BY run_id DESC LIMIT 1")
            row = cursor.fetchone()
        if row and row[0] > self.samples[-1][1]:
            self.samples.append((time.monotonic() - self.began, *row))

    def run(self):
        while not self.ended.wait(0.2):
            self.look()

    def finish(self):
        self.ended.set()
        self.join()
        self.look()
        self.connection.close()

    def tenths(self):
        """For each tenth of the rows: microseconds a row on the clock and in updates, and leaves
        finished; None if the run was too short to tell."""
        if len(self.samples) < 8:
            return None
        total = self.samples[-1][1]

        def at(rows, column):
            for earlier, later in zip(self.samples, self.samples[1:]):
                if rows <= later[1]:
                    share = (rows - earlier[1]) / (later[1] - earlier[1])
                    return earlier[column] + share * (later[column] - earlier[column])
            return self.samples[-1][column]

        def steps(column, scale):
            edges = [at(total * n / 10, column) for n in range(11)]
            return [scale * (b - a) for a, b in zip(edges, edges[1:])]

        return steps(0, 1e6 / (total / 10)), steps(2, 1e3 / (total / 10)), steps(3, 1)


def run_ours(cluster, options):
    connection = cluster.connect(DATABASE)
    sampler = Sampler(cluster)
    sampler.start()
    try:
        with connection.cursor() as cursor:
            began = time.monotonic()
            cursor.execute("CALL ntt_backfill_mime(10000, workers => %s)", (options.workers,))
            seconds = time.monotonic() - began
            names = [column.name for column in cursor.description]
            result = dict(zip(names, cursor.fetchone()))
    finally:
        sampler.finish()
        connection.close()
    profile = cluster.query(DATABASE, """
        SELECT scan_ms, read_ms, detect_ms, update_ms, commit_ms, libmagic
        FROM ntt_mime.run ORDER BY run_id DESC LIMIT 1""")[0]
    return {"blobs": result["blobs"], "rows": result["rows_updated"],
            "failed": result["failures"], "seconds": seconds, "tenths": sampler.tenths(),
            "profile": profile}


def verify(cluster, name, result, before, expected):
    """Ends everything if a method did not do the whole job: its time would mean nothing."""
    pending = cluster.query(DATABASE, """
        SELECT count(*) FROM inode WHERE blobid IS NOT NULL AND mime_type IS NULL""")[0][0]
    problems = []
    if pending:
        problems.append(f"left {pending} rows pending")
    if result["failed"]:
        problems.append(f"counts {result['failed']} failures")
    if (result["blobs"], result["rows"]) != expected:
        problems.append(f"counts {result['blobs']} blobs and {result['rows']} rows, "
                        f"not {expected[0]} and {expected[1]}")
    if fingerprint(cluster) != before:
        problems.append("changed what it must not")
    if problems:
        raise SystemExit(f"error: {name} " + "; ".join(problems))


def machine(cluster, profile):
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        model = next((line.split(":", 1)[1].strip() for line in file
                      if line.startswith("model name")), "unknown processor")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    server, fsync = cluster.query(
        "postgres", "SELECT current_setting('server_version'), current_setting('fsync')")[0]
    return (f"{os.cpu_count()} cores ({model}), {memory:.0f} GiB, "
            f"PostgreSQL {server.split()[0]} (fsync {fsync}), libmagic {profile[5]}")


def table(results, expected):
    lines = ["| method | seconds, median | from – to | blobs/s | rows/s |",
             "|---|---:|---:|---:|---:|"]
    for name, runs in results.items():
        seconds = [run["seconds"] for run in runs]
        middle = statistics.median(seconds)
        lines.append(f"| {name} | {middle:.1f} | {min(seconds):.1f} – {max(seconds):.1f} "
                     f"| {expected[0] / middle:,.0f} | {expected[1] / middle:,.0f} |")
    return lines


def report(results, expected):
    lines = table(results, expected)
    seed, ours = results.values()
    ratios = [a["seconds"] / b["seconds"] for a, b in zip(seed, ours)]
    ratio = statistics.median(a["seconds"] for a in seed) / statistics.median(
        b["seconds"] for b in ours)
    lines += ["", f"**Ratio: {ratio:.2f}** (medians; single rounds "
                  f"{min(ratios):.2f} to {max(ratios):.2f})"]

    lines += ["", "Where the time goes, seconds in the median run of each: "]
    middle = sorted(seed, key=lambda run: run["seconds"])[len(seed) // 2]
    lines.append("- seed, one after the other: " + ", ".join(
        f"{name} {middle[name]:.1f}" for name in ("select", "detect", "update")))
    middle = sorted(ours, key=lambda run: run["seconds"])[len(ours) // 2]
    lines.append("- ntt_mime, sum over its workers: " + ", ".join(
        f"{name} {ms / 1000:.1f}" for name, ms in
        zip(("scan", "read", "detect", "update", "commit"), middle["profile"])))

    tenths = [run["tenths"] for run in ours if run["tenths"]]
    if not tenths:
        lines += ["", "The runs of ntt_mime were too short to compare their tenths."]
        return lines
    lines += ["", "Cost of a row of ntt_mime by tenth of the run, µs (median of the rounds):", "",
              "| tenth | " + " | ".join(map(str, range(1, 11))) + " | last / first |",
              "|---|" + "---:|" * 11]
    for position, name in enumerate(("on the clock", "in updates, of a worker", "leaves finished")):
        costs = [statistics.median(run[position][n] for run in tenths) for n in range(10)]
        growth = f"{costs[9] / costs[0]:.2f}" if position < 2 and costs[0] else ""
        lines.append(f"| {name} | " + " | ".join(f"{cost:.0f}" for cost in costs) +
                     f" | {growth} |")
    return lines


def main():
    parser = argparse.ArgumentParser(
        description="Measures the extension beside the method it replaces.")
    parser.add_argument("--cluster", required=True, help="folder of a running cluster")
    parser.add_argument("--store", required=True, help="store of demo/make_store.py")
    parser.add_argument("--blobs", type=int, default=20000)
    parser.add_argument("--leaves", type=int, default=841)
    parser.add_argument("--rounds", type=int, default=int(os.environ.get("ROUNDS", "3")))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed-cookie", choices=["blob", "process"], default="blob",
                        help="whether the seed opens libmagic for every blob, as it did")
    parser.add_argument("--write", action="store_true", help="write docs/bench.md as well")
    options = parser.parse_args()
    options.root = os.path.join(options.store, "by-hash")
    cluster = Cluster(options.cluster)

    subprocess.run([os.path.join(REPOSITORY, "demo", "load.sh"), options.cluster, TEMPLATE,
                    options.store, str(options.blobs), "1"],
                   check=True, env={**os.environ, "ODD": "no", "LEAVES": str(options.leaves)})
    blobids = [row[0] for row in cluster.query(TEMPLATE, "SELECT blobid FROM demo.blob")]
    expected = cluster.query(TEMPLATE, """
        SELECT count(DISTINCT blobid), count(*)
        FROM inode WHERE blobid IS NOT NULL AND mime_type IS NULL""")[0]
    rows = cluster.query(TEMPLATE, "SELECT count(*) FROM inode")[0][0]
    leaves = cluster.query(TEMPLATE, """
        SELECT count(*) FROM pg_inherits WHERE inhparent = 'inode'::regclass""")[0][0]
    print(f"{expected[0]:,} blobs, {expected[1]:,} pending rows of {rows:,}, {leaves} leaves; "
          f"the seed opens libmagic once a {options.seed_cookie}", flush=True)

    methods = {"seed": run_seed, "ntt_mime": run_ours}
    results = {name: [] for name in methods}
    for number in range(options.rounds):
        for name in sorted(methods, reverse=number % 2 == 0):
            before = fresh(cluster, options.root, blobids)
            result = methods[name](cluster, options)
            verify(cluster, name, result, before, expected)
            results[name].append(result)
            print(f"round {number + 1}, {name}: {result['seconds']:.1f} s, "
                  f"{expected[0] / result['seconds']:,.0f} blobs/s", flush=True)

    lines = report(results, expected)
    print("\n" + "\n".join(lines))
    if options.write:
        command = f"make bench BENCH='--blobs {options.blobs} --rounds {options.rounds}"
        command += f" --leaves {options.leaves}" if options.leaves != 841 else ""
        command += f" --workers {options.workers}" if options.workers != 2 else ""
        command += " --seed-cookie process" if options.seed_cookie == "process" else ""
        path = os.path.join(REPOSITORY, "docs", "bench.md")
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write("\n".join([
                "# Benchmark", "",
                "The extension beside the method it replaces, on the same data, alternating; "
                "what is measured and how: benches/bench.py.", "",
                f"- Command: `{command} --write'`",
                f"- Machine: {machine(cluster, results['ntt_mime'][0]['profile'])}",
                f"- Data: {expected[0]:,} blobs, {expected[1]:,} pending rows of {rows:,}, "
                f"{leaves} leaves",
                f"- {options.rounds} rounds, {options.workers} workers beside 8 processes",
                f"- The seed opens libmagic once a {options.seed_cookie}"
                + (", as it did" if options.seed_cookie == "blob" else ", which it did not"), "",
                *lines, ""]))
        print(f"\nwritten to {os.path.relpath(path)}")


if __name__ == "__main__":
    sys.exit(main())
