"""The contestants, which fill the rows or do a part of that, and are timed beside each other.

  script    the method that the extension replaces: script.py
  ours-N    CALL ntt_backfill_mime(10000) with N workers
  floor     what the database needs for the same updates when all types are known: a bare UPDATE … FROM
            a prepared, indexed mapping, leaf by leaf, in two sessions
  libmagic  what libmagic needs for the same blobs without a database: file(1) in two processes
  file      what a user does at a shell: file -f, COPY, UPDATE; shell_user.sh

Each returns what it did and the seconds that it took; its work is checked before the time counts.
"""

import concurrent.futures
import json
import os
import queue
import subprocess
import sys
import time

import cluster as clusters
import data
import machine
import sampler as samplers
import store as stores

HERE = clusters.HERE

# A leaf with a larger share of all blocks is updated in pieces, so that two sessions can share it.
# Not in small ones: each is joined to the whole mapping.
PIECE = 1 / 8

# What a DBA would set for a job like this one, and what our workers set for themselves.
FLOOR_SETTINGS = ("SET synchronous_commit = off", "SET jit = off", "SET work_mem = '256MB'")

CALL = "CALL ntt_backfill_mime(10000, workers => %s)"

PROFILE = ("scan_ms", "read_ms", "detect_ms", "update_ms", "commit_ms")


class Arena:
    """What a contestant is given: a cluster with a fresh copy of a template, blobs, options."""

    def __init__(self, cluster, store, template, description, options):
        self.cluster, self.store, self.template = cluster, store, template
        self.description = description
        self.options = options

    def fresh(self):
        self.cluster.copy(self.template, self.store.root)
        self.store.warm()
        self.cluster.query("CHECKPOINT")

    def verify(self, name, result, rows_must=True):
        """Ends everything if a contestant did not do the whole job: its time would mean nothing.
        Counts rows whose answer differs from ours; only some contestants may have any."""
        found = data.facts(self.cluster, clusters.DATABASE)
        wanted, problems = self.description, []
        if found["pending"]:
            problems.append(f"left {found['pending']} rows pending")
        if result.get("failed"):
            problems.append(f"counts {result['failed']} failures")
        if rows_must and result["rows"] != wanted["pending"]:
            problems.append(f"counts {result['rows']} rows, not {wanted['pending']}")
        if result.get("blobs", len(self.store.blobids)) != len(self.store.blobids):
            problems.append(f"counts {result['blobs']} blobs, not {len(self.store.blobids)}")
        if any(found[word] != wanted[word] for word in ("rows", "fingerprint")):
            problems.append("changed what it must not")
        result["other_answers"] = found["other_answers"]
        exact = name.startswith("ours") or name == "floor"
        allowed = 0 if exact else wanted["pending"] * (1 if name == "script" else 0.01)
        if found["other_answers"] > allowed:
            problems.append(f"gave {found['other_answers']} rows another answer")
        if problems:
            raise SystemExit(f"error: {name} " + "; ".join(problems))

    def run(self, name):
        """A fresh copy, the contestant, the check."""
        if name == "libmagic":
            self.store.warm()
            return run_libmagic(self)
        self.fresh()
        busy = machine.Busy()
        result = run(self, name)
        result["machine"] = busy.seconds()
        if not result.get("sampled"):
            self.verify(name, result)
        return result


def run(arena, name):
    if name.startswith("ours-"):
        return run_ours(arena, int(name.split("-")[1]))
    return {"script": run_script, "floor": run_floor, "file": run_file}[name](arena)


def timed_call(connection, call, workers):
    """What a run says of itself, and the seconds that it took."""
    with connection.cursor() as cursor:
        began = time.monotonic()
        cursor.execute(call, (workers,))
        seconds = time.monotonic() - began
        names = [column.name for column in cursor.description]
        return {**dict(zip(names, cursor.fetchone())), "seconds": seconds}


def run_ours(arena, workers, call=CALL, settings=(), locks=False):
    cluster = arena.cluster
    connection = cluster.connect()
    with connection.cursor() as cursor:
        for setting in settings:
            cursor.execute(setting)
    sampler = samplers.Sampler(cluster, [connection.get_backend_pid()], locks)
    sampler.start()
    try:
        result = timed_call(connection, call, workers)
    finally:
        sampler.finish()
        connection.close()
    profile = cluster.query(
        f"SELECT {', '.join(PROFILE)}, "
        "(options->>'idle_ms')::float8 / (options->>'worker_ms')::float8, bytes_read "
        "FROM ntt_mime.run ORDER BY run_id DESC LIMIT 1")[0]
    spent = dict(zip(PROFILE, profile))
    return {"blobs": result["blobs"], "rows": result["rows_updated"],
            "failed": result["failures"], "seconds": result["seconds"], "profile": spent,
            "profile_share": sum(spent.values()) / 1000 / workers / result["seconds"],
            "waiting": profile[-2], "bytes_read": int(profile[-1]),
            "tenths": sampler.tenths(), "peak": sampler.peak}


def script(arena, *arguments):
    options = arena.options
    done = subprocess.run(
        [sys.executable, os.path.join(HERE, "script.py"), arena.cluster.dsn(), arena.store.root,
         "--cookie", getattr(options, "script_cookie", "blob"),
         "--batch", str(getattr(options, "script_batch", 10000)), *map(str, arguments)],
        check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def run_script(arena):
    if getattr(arena.options, "script", "whole") == "sampled":
        return run_script_sampled(arena)
    return script(arena)


def run_script_sampled(arena):
    """Some batches at the start, in the middle and at the end; what is between, the floor fills.
    A batch between two of these is taken to cost what lies on the line between them."""
    batches = arena.options.script_batches
    stages, filled, blobs = [], 0, len(arena.store.blobids)
    sample = batches * arena.options.script_batch
    for upto, limit in ((0, batches), ((blobs - sample) // 2, batches), (blobs - sample, None)):
        filled += fill_blobs(arena, upto - filled)
        done = script(arena, *(["--batches", limit] if limit else []))
        if not done["blobs"]:
            raise SystemExit("error: too few blobs for the samples of the script")
        stages.append({"blobs": done["blobs"], "rows": done["rows"], "seconds": done["seconds"],
                       "select": done["select"], "detect": done["detect"],
                       "update": done["update"]})
        filled += done["blobs"]
    pending = arena.cluster.value(
        "SELECT count(*) FROM inode WHERE blobid IS NOT NULL AND mime_type IS NULL")
    if pending or filled != blobs:
        raise SystemExit(f"error: the sampled script filled {filled} of {blobs} blobs, "
                         f"{pending} rows are pending")
    start, middle, end = (stage["seconds"] / stage["blobs"] for stage in stages)
    per_blob = (start + 2 * middle + end) / 4
    return {"blobs": blobs, "rows": arena.description["pending"], "failed": 0, "sampled": True,
            "seconds": per_blob * blobs, "stages": stages,
            **{word: sum(stage[word] for stage in stages) for word in ("select", "detect", "update")}}


def fill_blobs(arena, count):
    """Fills all rows of the next blobs in order of their blobids, as the floor does."""
    if count <= 0:
        return 0
    cluster = arena.cluster
    cluster.query("SET jit = off", "SET work_mem = '256MB'", "DROP TABLE IF EXISTS demo.some", f"""
        CREATE UNLOGGED TABLE demo.some AS
        SELECT blobid, mime_type FROM demo.answer JOIN
            (SELECT DISTINCT blobid FROM inode WHERE blobid IS NOT NULL AND mime_type IS NULL
             ORDER BY blobid LIMIT {count}) pending USING (blobid)""",
                  "ALTER TABLE demo.some ADD PRIMARY KEY (blobid)", "ANALYZE demo.some")
    count = cluster.value("SELECT count(*) FROM demo.some")
    update_leaves(arena, "demo.some")
    return count


def run_floor(arena, locks=False):
    return update_leaves(arena, "demo.answer", locks)


def update_leaves(arena, mapping, locks=False, table="inode"):
    """In two sessions, the largest leaf first, committing after each leaf or piece of one."""
    cluster = arena.cluster
    connections = [cluster.connect() for _ in range(2)]
    sampler = samplers.Sampler(cluster, [c.get_backend_pid() for c in connections], locks)
    for connection in connections:
        with connection.cursor() as cursor:
            for setting in FLOOR_SETTINGS:
                cursor.execute(setting)
    sampler.start()
    began = time.monotonic()
    pieces = queue.SimpleQueue()
    for piece in list_pieces(connections[0], table):
        pieces.put(piece)

    def work(connection):
        rows = 0
        with connection.cursor() as cursor:
            while True:
                try:
                    leaf, start, end = pieces.get_nowait()
                except queue.Empty:
                    return rows
                part = ("" if start is None else
                        f" AND leaf.ctid >= '({start},0)' AND leaf.ctid < '({end},0)'")
                cursor.execute(f"UPDATE ONLY {leaf} AS leaf SET mime_type = m.mime_type "
                               f"FROM {mapping} AS m WHERE leaf.blobid = m.blobid "
                               f"AND leaf.mime_type IS NULL{part}")
                rows += cursor.rowcount

    try:
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            rows = sum(pool.map(work, connections))
        seconds = time.monotonic() - began
    finally:
        sampler.finish()
        for connection in connections:
            connection.close()
    return {"rows": rows, "failed": 0, "seconds": seconds, "peak": sampler.peak}


def list_pieces(connection, table):
    """(leaf, first block, block behind the last), without blocks if it is all of the leaf."""
    with connection.cursor() as cursor:
        cursor.execute("""
            SELECT oid::regclass::text, pg_relation_size(oid) / 8192 FROM pg_class
            WHERE oid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = %(table)s::regclass)
               OR oid = %(table)s::regclass AND relkind = 'r' ORDER BY 2 DESC""", {"table": table})
        leaves = cursor.fetchall()
    most = max(int(PIECE * sum(blocks for _, blocks in leaves)), 1)
    for leaf, blocks in leaves:
        if blocks <= most:
            yield leaf, None, None
        else:
            for start in range(0, blocks, most):
                # New versions of its rows come behind the last of these.
                yield leaf, start, min(start + most, blocks)


def run_libmagic(arena):
    paths = arena.store.paths()
    answers = arena.store.answers(arena.cluster)
    busy = machine.Busy()
    began = time.monotonic()
    types = stores.file_types(paths)
    seconds = time.monotonic() - began
    other = stores.differences(dict(zip(arena.store.blobids, types)), answers)
    return {"blobs": len(paths), "rows": 0, "failed": 0, "seconds": seconds,
            "other_blobs": other, "machine": busy.seconds()}


def run_file(arena):
    done = subprocess.run(
        [os.path.join(HERE, "shell_user.sh"), arena.cluster.program("psql"), arena.cluster.dsn(),
         arena.store.root], check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def libmagic():
    """Its release, by file(1): the same library as the server's."""
    done = subprocess.run([stores.FILE, "--version"], check=True, text=True, stdout=subprocess.PIPE)
    return done.stdout.split("\n", maxsplit=1)[0].removeprefix("file-")
