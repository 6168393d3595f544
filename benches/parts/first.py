"""The cost of a session's first detection, with the prefilter and without.

A session that detects one blob builds no prefilter: that is done where many blobs are expected.  Each
measurement is a new session, one blob, then the same statement again; with and without the prefilter in
turn.
"""

import os
import time

import report
from store import Store

ROUNDS = 21
DATABASE = "bench_first"


def arguments(parser):
    parser.add_argument("--types", default="text/*", help="blobs made of files of such a type")


def session(cluster, prefilter, blobid):
    connection = cluster.connect(DATABASE)
    try:
        with connection.cursor() as cursor:
            cursor.execute(f"SET ntt_mime.prefilter = {prefilter}")
            took = []
            for _ in range(2):
                began = time.monotonic()
                cursor.execute("SELECT ntt_detect_mime(%s)", (blobid,))
                took.append((time.monotonic() - began) * 1000)
                answer = cursor.fetchone()[0]
            return took, answer
    finally:
        connection.close()


def measure(bench, options):
    store = Store(os.path.join(bench.folder, "blobs"), options.types, 100)
    store.warm()
    cluster = bench.cluster
    cluster.drop(DATABASE)
    cluster.query(f"CREATE DATABASE {DATABASE}",
                  f"ALTER DATABASE {DATABASE} SET ntt_mime.blob_root = '{store.root}'",
                  database="postgres")
    cluster.query("CREATE EXTENSION ntt_mime", database=DATABASE)
    runs = {"on": [], "off": []}
    for number in range(options.rounds):
        blobid = store.blobids[number % len(store.blobids)]
        answers = set()
        for prefilter in sorted(runs, reverse=number % 2 == 0):
            took, answer = session(cluster, prefilter, blobid)
            runs[prefilter].append(took)
            answers.add(answer)
        if len(answers) != 1 or None in answers:
            raise SystemExit(f"error: blob {blobid} is {answers}")
    cluster.drop(DATABASE)
    return {"types": options.types, "runs": runs}


def render(result):
    rows = []
    for place, name in enumerate(("first detection", "second detection")):
        on, off = ([took[place] for took in result["runs"][prefilter]] for prefilter in ("on", "off"))
        rows.append([name, report.spread(on, 2), report.spread(off, 2),
                     f"{report.median(on) / report.median(off):.2f}"])
    return [f"Blobs of `{result['types']}`; sessions of each kind: {len(result['runs']['on'])}.", "",
            *report.table(["in a session", "with the prefilter, ms", "without, ms", "ratio"], rows)]


def charts(_result):
    return {}
