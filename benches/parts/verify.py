"""A verification compared with a dry run over the same blobs, and a sample compared with a full check.

2.66 million rows in 841 leaves, 4.75 rows for each blob, which already have types.  Rows of the same kind
are neighbours, and most rows that differ come in stretches.  The blobs are a few thousand files, each under
as many names as are needed, so that the store takes little room and is all in memory.

First all rows are checked, then samples are taken, each with other blocks: how long a sample takes, and how
often the true number of rows that differ is within its interval.  Then, on a plain table with a part of the
blobs: a check of rows that all agree, without and with the marks of an earlier one, in turn with a dry run
of a backfill over the same rows without types.
"""

import hashlib
import os
import time

import data
import make_blobs
import report

ROUNDS = 3

VERIFY = "CALL ntt_verify_mime(workers => %s, sample_percent => %s, target => %s)"
DRY_RUN = "CALL ntt_backfill_mime(10000, %s, dry_run => true, target => 'pending')"


def arguments(parser):
    parser.add_argument("--rows", type=int, default=2660000)
    parser.add_argument("--leaves", type=int, default=841)
    parser.add_argument("--files", type=int, default=4000, help="different contents")
    parser.add_argument("--percent", type=float, default=1.0)
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--beside", type=int, default=100000, help="blobs beside the dry run")


def make_store(folder, files, blobs):
    """Names of blobs, each with that of the file that it is: hard links, of which each file has a few hundred."""
    mixed = os.path.join(folder, "mixed")
    make_blobs.make(mixed, files, "*")
    with open(os.path.join(mixed, "blobs.tsv"), encoding="utf-8") as lines:
        contents = [line.split("\t")[0] for line in lines][:files]
    root = os.path.join(folder, "linked", "by-hash")

    def path(store, blobid):
        return os.path.join(store, blobid[0:2], blobid[2:4], blobid)

    names = []
    for n in range(blobs):
        content = contents[n % len(contents)]
        blobid = hashlib.sha256(f"{content} {n}".encode()).hexdigest()
        names.append((n + 1, blobid, content))
        link = path(root, blobid)
        try:
            os.link(path(os.path.join(mixed, "by-hash"), content), link)
        except FileExistsError:
            pass
        except FileNotFoundError:
            os.makedirs(os.path.dirname(link), mode=0o755, exist_ok=True)
            os.link(path(os.path.join(mixed, "by-hash"), content), link)
    return root, os.path.join(mixed, "by-hash"), names


def make(cluster, bench, options):
    """The tables, in a database of their own, if they aren't there from the last time; the number of rows that differ."""
    blobs = round(options.rows / 4.75)
    wanted = [options.rows, options.leaves, options.files, options.beside]
    description = cluster.description("bench")
    if description and description.get("verify") == wanted:
        return description["different"]
    root, plain, names = make_store(os.path.join(bench.folder, "blobs"), options.files, blobs)
    bench.say(f"{blobs:,} blobs of {options.files:,} files")
    with cluster.without_fsync():
        cluster.drop("bench")
        cluster.query("CREATE DATABASE bench", f"ALTER DATABASE bench SET ntt_mime.blob_root = '{plain}'",
                      database="postgres")
        cluster.query("CREATE EXTENSION ntt_mime")
        cluster.psql("bench", "-1", "-f", f"{data.DEMO}/schema.sql", "-f", f"{data.DEMO}/leaves.sql",
                     leaves=options.leaves)
        cluster.query("CREATE TABLE name (n int, blobid text, content text)")
        data.copy(cluster, "bench", "name", names)
        cluster.query(
            "SET jit = off", "SET work_mem = '256MB'",
            "CREATE TABLE content AS SELECT content, ntt_detect_mime(content) AS mime_type "
            "FROM (SELECT DISTINCT content FROM name) c",
            "CREATE TABLE truth AS SELECT n, blobid, mime_type FROM name JOIN content USING (content)",
            "ANALYZE truth",
            # Rows of one kind lie together, by medium; of each 200 of these 5 % are a stretch in which most differ.
            f"""INSERT INTO inode (medium_hash, ino, blobid, size, fs_type, mime_type)
                SELECT medium_hash, i, blobid, i, 'f',
                       CASE WHEN hashint8(i) & 1023 < CASE WHEN hashint8(place / 200) & 1023 < 51 THEN 900 ELSE 5 END
                            THEN 'application/x-wrong' ELSE mime_type END
                  FROM (SELECT r.*, row_number() OVER (ORDER BY medium, mime_type, i) AS place
                          FROM (SELECT i, t.blobid, t.mime_type,
                                       1 + width_bucket((hashint8(i + 7) & 1048575) / 1048576.0::float8, edges) AS medium
                                  FROM generate_series(1, {options.rows}) i JOIN truth t
                                    ON t.n = CASE WHEN i <= {blobs} THEN i ELSE 1 + (hashint8(i) & 2147483647) % {blobs} END,
                                       (SELECT array_agg(upto ORDER BY n) FILTER (WHERE upto < 1) AS edges
                                          FROM demo.medium) e) r) p
                  JOIN demo.medium m ON m.n = p.medium
                 ORDER BY place""",
            f"""CREATE TABLE agreeing AS
                SELECT t.blobid, t.mime_type FROM inode i JOIN truth t USING (blobid) WHERE t.n <= {options.beside}""",
            "CREATE TABLE pending AS SELECT blobid, NULL::text AS mime_type FROM agreeing")
        cluster.query("VACUUM (FREEZE, ANALYZE)")
        cluster.query(f"ALTER DATABASE bench SET ntt_mime.blob_root = '{root}'", "CHECKPOINT", database="postgres")
    different = cluster.value("SELECT count(*) FROM inode JOIN truth USING (blobid) "
                              "WHERE inode.mime_type <> truth.mime_type")
    cluster.set_description("bench", {"verify": wanted, "different": different})
    return different


def call(cluster, statement, values, full_scan_after="0"):
    """What a run says of itself, the seconds that it took, and the WAL that was written meanwhile."""
    connection = cluster.connect()
    try:
        with connection.cursor() as cursor:
            cursor.execute(f"SET ntt_mime.full_scan_after = '{full_scan_after}'")
            cursor.execute("SELECT pg_current_wal_insert_lsn()")
            before = cursor.fetchone()[0]
            began = time.monotonic()
            cursor.execute(statement, values)
            seconds = time.monotonic() - began
            names = [column.name for column in cursor.description]
            result = {**dict(zip(names, cursor.fetchone())), "seconds": seconds}
            cursor.execute("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), %s)::bigint", (before,))
            return {**result, "wal": cursor.fetchone()[0]}
    finally:
        connection.close()


def samples(cluster, options, different):
    """Each with its interval: of rows, and of the share."""
    taken = []
    for _ in range(options.samples):
        result = call(cluster, VERIFY, (options.workers, options.percent, "inode"))
        estimate = cluster.value("SELECT options->'estimate' FROM ntt_mime.run WHERE run_id = %s",
                                 values=(result["run_id"],))
        share = different / options.rows
        taken.append({
            "seconds": result["seconds"], "rows": result["rows_checked"],
            "estimate": estimate["rows_different"],
            "low": estimate["rows_different_low"], "high": estimate["rows_different_high"],
            "rows_within": estimate["rows_different_low"] <= different <= estimate["rows_different_high"],
            "share_within": estimate["share_low"] <= share <= estimate["share_high"]})
    return taken


def measure(bench, options):
    cluster = bench.cluster
    with cluster.settings(autovacuum="off"):
        different = make(cluster, bench, options)
        rows = cluster.value("SELECT count(*) FROM agreeing")
        bench.say(f"tables made: {different:,} of {options.rows:,} rows differ")
        beside = {"check": [], "check again": [], "dry run": []}
        for number in range(options.rounds):
            check = call(cluster, VERIFY, (options.workers, 100, "agreeing"))
            if (check["rows_checked"], check["rows_different"]) != (rows, 0):
                raise SystemExit(f"error: {check} of {rows} rows")
            again = call(cluster, VERIFY, (options.workers, 100, "agreeing"), "1d")
            if again["rows_checked"] > 0:
                raise SystemExit(f"error: {again['rows_checked']} rows were checked again")
            dry = call(cluster, DRY_RUN, (options.workers,))
            for name, took in (("check", check), ("check again", again), ("dry run", dry)):
                beside[name].append({"seconds": took["seconds"], "wal": took["wal"]})
            bench.say(f"round {number + 1}: a check {check['seconds']:.2f} s, a dry run {dry['seconds']:.2f} s, "
                      f"a check again {again['seconds']:.3f} s")
        whole = call(cluster, VERIFY, (options.workers, 100, "inode"))
        if (whole["rows_checked"], whole["rows_different"]) != (options.rows, different):
            raise SystemExit(f"error: {whole}, where {different} of {options.rows} rows differ")
        bench.say(f"the whole: {whole['seconds']:.2f} s")
        taken = samples(cluster, options, different)
    return {"rows": options.rows, "leaves": options.leaves, "blobs": whole["blobs"], "different": different,
            "percent": options.percent, "workers": options.workers, "whole": whole["seconds"], "samples": taken,
            "beside": beside, "beside_rows": rows, "beside_blobs": options.beside}


def render(result):
    took = [sample["seconds"] for sample in result["samples"]]
    count = len(took)
    within = {name: sum(sample[f"{name}_within"] for sample in result["samples"]) for name in ("rows", "share")}
    seconds = {name: [run["seconds"] for run in runs] for name, runs in result["beside"].items()}
    wal = {name: max(run["wal"] for run in runs) for name, runs in result["beside"].items()}
    rows = [[name, report.spread(seconds[name], 2), report.ratios(seconds[name], seconds["dry run"]), f"{wal[name]:,}"]
            for name in ("dry run", "check", "check again")]
    mean = sum(took) / count
    return [f"{result['rows']:,} rows of {result['blobs']:,} blobs in {result['leaves']:,} leaves, of which "
            f"{result['different']:,} differ; {result['workers']} workers.", "",
            f"A check of all took {result['whole']:.1f} s, a sample of {result['percent']:g} % {mean:.2f} s "
            f"({min(took):.2f} to {max(took):.2f}), {100 * mean / result['whole']:.1f} % of that. "
            f"The estimated interval contained the true number of differing rows in {within['rows']} of {count} "
            f"samples, and their true share in {within['share']}.", "",
            f"{result['beside_rows']:,} rows of {result['beside_blobs']:,} blobs that all agree:", "",
            *report.table(["", "seconds", "relative to a dry run", "WAL bytes"], rows, text=1)]


def charts(_):
    return {}
