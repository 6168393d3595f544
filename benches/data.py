"""Template databases: the archive's tables, with as many rows and leaves as a measurement asks for.

The tables, rows, indexes and triggers are the demo's (demo/*.sql).  Chance is a hash of a row's
number, so the same shape gives the same rows on every machine that has the same blobs.  A template
also has the answer for each blob (demo.answer).  Its database's comment says what is true of its
rows, so that the next part, or the next run with --keep, finds it again.
"""

import concurrent.futures
import dataclasses
import hashlib
import io
import json
import os
import queue
import re
import subprocess
import time

import cluster as clusters

DEMO = os.path.join(clusters.REPOSITORY, "demo")

# Of a leaf. The fingerprint is of the columns that nobody may touch, in all rows, and of mime_type, in
# rows that nobody may fill.
FACTS = """
    SELECT count(*),
           count(*) FILTER (WHERE i.mime_type IS NULL AND i.blobid IS NOT NULL),
           count(*) FILTER (WHERE a.blobid IS NOT NULL AND i.mime_type IS DISTINCT FROM a.mime_type),
           coalesce(sum(hashtextextended(ROW(medium_hash, dev, ino, nlink, i.size, mtime, i.blobid, copied,
               copied_to, errors, fs_type, CASE WHEN a.blobid IS NULL THEN i.mime_type END,
               processed_at, by_hash_created, claimed_by, claimed_at)::text, 0)), 0)::text
    FROM ONLY {leaf} i LEFT JOIN demo.answer a ON a.blobid = i.blobid"""

# Of more leaves than this, most are made by writing into the catalogs (many_leaves.sql), and the
# table path is left out: PostgreSQL looks for a name for each leaf's part of a foreign key by trying
# all that are taken. The key costs an update next to nothing, since no update here changes it.
MANY_LEAVES = 1000

FACT_NAMES = ("rows", "pending", "other_answers", "fingerprint")


@dataclasses.dataclass(frozen=True)
class Shape:
    """blobs that have pending rows, pending rows a blob, rows filled already for each pending one;
    leaves, and how uneven: the n-th has a share of 1/n^skew, 0 makes them equal; whether they have
    all of the archive's indexes, or only the key and that of mime_type."""
    blobs: int
    leaves: int = 841
    rows_per_blob: float = 4.75
    filled: float = 1.0
    skew: float = 1.0
    types: str = "*"
    indexes: bool = True

    def pending(self):
        return round(self.blobs * self.rows_per_blob)

    def __str__(self):
        skew = "" if self.skew == 1 else f", skew {self.skew:g}"
        types = "" if self.types == "*" else f" of {self.types}"
        total = self.pending() + round(self.pending() * self.filled)
        return (f"{self.blobs:,} blobs{types}, {self.pending():,} pending of {total:,} rows, "
                f"{self.leaves:,} leaves{skew}{'' if self.indexes else ', two indexes'}")


def facts(cluster, database):
    """What FACTS asks, summed up. Leaf by leaf: for one statement over thousands of leaves, planning
    would take most of the time."""
    leaves = queue.SimpleQueue()
    for (leaf,) in cluster.query(
            "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'inode'::regclass "
            "ORDER BY pg_relation_size(inhrelid) DESC", database=database):
        leaves.put(leaf)

    def ask(_):
        connection = cluster.connect(database)
        total = [0] * len(FACT_NAMES)
        with connection.cursor() as cursor:
            for setting in ("SET jit = off", "SET work_mem = '256MB'"):
                cursor.execute(setting)
            while not leaves.empty():
                try:
                    cursor.execute(FACTS.format(leaf=leaves.get_nowait()))
                except queue.Empty:
                    break
                total = [a + int(b) for a, b in zip(total, cursor.fetchone())]
        connection.close()
        return total

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        first, second = pool.map(ask, range(2))
    return dict(zip(FACT_NAMES, (a + b for a, b in zip(first, second))))


def name_of(shape):
    """Changes with what makes the tables, too."""
    text = json.dumps(dataclasses.asdict(shape))
    for folder, names in ((DEMO, ("schema", "leaves", "data", "inode_indexes", "triggers")),
                          (clusters.HERE, ("path", "many_leaves"))):
        for name in names:
            with open(os.path.join(folder, name + ".sql"), encoding="utf-8") as file:
                text += file.read()
    return "template_" + hashlib.sha256(text.encode()).hexdigest()[:12]


def template(cluster, store, shape, say):
    """The name of the template of that shape and what is true of it, made if it isn't there."""
    name = name_of(shape)
    description = cluster.description(name)
    began = time.monotonic()
    if description is None or description["first_blob"] != store.blobids[0]:
        cluster.drop(name)
        with cluster.without_fsync():
            make(cluster, store, shape, name)
            description = {"shape": dataclasses.asdict(shape), "first_blob": store.blobids[0]}
    elif description["library"] == cluster.library():
        return name, description
    with cluster.without_fsync():
        put_answers(cluster, store, name)
        description.update(facts(cluster, name), library=cluster.library(),
                           leaf_count=cluster.value("SELECT count(*) FROM pg_inherits "
                                                    "WHERE inhparent = 'inode'::regclass", name))
    if abs(description["pending"] - shape.pending()) > 1:
        raise SystemExit(f"error: {description['pending']} rows are pending, not {shape.pending()}")
    cluster.set_description(name, description)
    say(f"tables made: {shape}, {time.monotonic() - began:.0f} s")
    return name, description


def statements(path):
    with open(path, encoding="utf-8") as file:
        text = re.sub(r"--.*", "", file.read())
    return [part.strip() for part in text.split(";") if part.strip()]


def make(cluster, store, shape, name):
    cluster.query(f'CREATE DATABASE "{name}"', database="postgres")
    many = shape.leaves > MANY_LEAVES
    leaves = f"{clusters.HERE}/many_leaves.sql" if many else f"{DEMO}/leaves.sql"
    cluster.psql(name, "-1", "-f", f"{DEMO}/schema.sql", "-f", leaves, leaves=shape.leaves)
    cluster.query(f"""
        UPDATE demo.medium SET upto = u.upto
        FROM (SELECT n, sum(share) OVER (ORDER BY n) / sum(share) OVER () AS upto
              FROM (SELECT n, ((n + 0.4) ^ -{shape.skew})::float8 AS share FROM demo.medium) s) u
        WHERE u.n = medium.n""", database=name)
    copy(cluster, name, "demo.blob (blobid, size, kind)", store.rows[:shape.blobs])
    cluster.query("ANALYZE demo.blob", "ANALYZE demo.medium", database=name)
    cluster.psql(name, "-1", "-f", f"{DEMO}/data.sql", rows_per_blob=shape.rows_per_blob,
                 filled=shape.filled)
    index(cluster, name, shape.indexes)
    if not many:
        cluster.psql(name, "-f", f"{clusters.HERE}/path.sql")
    cluster.psql(name, "-1", "-f", f"{DEMO}/triggers.sql")
    cluster.query("CREATE TABLE demo.answer (blobid text, mime_type text NOT NULL)", database=name)
    if many:
        vacuum(cluster, name)
    else:
        cluster.query("VACUUM ANALYZE", database=name)


def vacuum(cluster, name):
    """In one statement, since each VACUUM reads all of pg_class at its end. Analyzed in two sessions: all
    but the partitioned table itself, through which nobody looks at so many leaves."""
    cluster.query("VACUUM", database=name)
    subprocess.run([cluster.program("vacuumdb"), "--quiet", "--analyze-only", "--jobs", "2",
                    "--dbname", cluster.dsn(name)], check=True)


def index(cluster, name, all_of_them):
    """In two sessions; indexes that would get the same name by themselves, in the same one."""
    fast = ("SET maintenance_work_mem = '256MB'", "SET max_parallel_maintenance_workers = 0")
    cluster.query(*fast, "ALTER TABLE inode ADD PRIMARY KEY (medium_hash, ino)", database=name)
    if not all_of_them:
        cluster.query(*fast, "CREATE INDEX ON inode (mime_type)", database=name)
        return
    sessions = ([], [])
    for statement in statements(f"{DEMO}/inode_indexes.sql"):
        alike = any(word in statement for word in ("(fs_type", "(by_hash_created", "(medium_hash"))
        sessions[alike].append(statement)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda session: cluster.query(*fast, *session, database=name), sessions))


def put_answers(cluster, store, name):
    answers = store.answers(cluster)
    cluster.query("DROP TABLE IF EXISTS demo.answer",
                  "CREATE TABLE demo.answer (blobid text, mime_type text NOT NULL)", database=name)
    known = cluster.query("SELECT blobid FROM demo.blob", database=name)
    copy(cluster, name, "demo.answer", [(b, answers[b]) for (b,) in known])
    cluster.query("ALTER TABLE demo.answer ADD PRIMARY KEY (blobid)", "VACUUM ANALYZE demo.answer",
                  database=name)


def copy(cluster, database, table, rows):
    text = io.StringIO("".join("\t".join(map(str, row)) + "\n" for row in rows))
    connection = cluster.connect(database)
    with connection.cursor() as cursor:
        cursor.copy_expert(f"COPY {table} FROM STDIN", text)
    connection.close()
