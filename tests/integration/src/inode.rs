//! The user's tables, rows for them, and the comparison of a target before and after a run.
//!
//! The order in a test is: make a target ([`partitioned`], [`multilevel`], [`plain`]), [`load_source`] the blobids,
//! [`fill`] or insert, [`remember`]; then after the run(s) [`check_filled`] or [`check_partly_filled`].
//! Both compare every row with a copy made before: `remember` keeps each row without its `mime_type` as jsonb, its
//! `mime_type`, xmin and ctid, and for each blobid the answer of `ntt_inspect_blob`. [`archive`] does all that comes
//! before a run, over a store of small blobs.

use std::io::Write;

use crate::{Cluster, Session, Store, TestDb};

/// The type of rows that have one before the run: no file has it, so that overwriting shows.
pub const KEPT: &str = "application/x-kept";

/// The user's columns.
const COLUMNS: &str = "
    medium_hash text NOT NULL, dev bigint, ino bigint NOT NULL, nlink int, size bigint, mtime bigint, blobid text,
    copied bool DEFAULT false, copied_to text, errors text[] DEFAULT '{}', fs_type char(1), mime_type varchar(255),
    processed_at timestamptz, by_hash_created bool DEFAULT false, claimed_by text, claimed_at timestamptz,
    PRIMARY KEY (medium_hash, ino)";

/// The user's indexes beside the key.
const INDEXES: &str = include_str!("../../../demo/inode_indexes.sql");

/// The user's trigger functions. `add_leaf` makes a leaf as the user's loaders do.
const FUNCTIONS: &str = "
    CREATE TABLE queue_stats (id int PRIMARY KEY, copied bigint NOT NULL, statements bigint NOT NULL);
    INSERT INTO queue_stats VALUES (1, 0, 0);
    CREATE FUNCTION count_inserted() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            UPDATE public.queue_stats SET copied = copied + (SELECT count(*) FROM new_rows WHERE new_rows.copied);
            RETURN NULL;
        END $$;
    CREATE FUNCTION count_updated() RETURNS trigger LANGUAGE plpgsql AS $$
        DECLARE n bigint;
        BEGIN
            SELECT count(*) INTO n FROM old_rows o JOIN new_rows w USING (medium_hash, ino)
             WHERE w.copied AND NOT o.copied;
            UPDATE public.queue_stats SET copied = copied + n, statements = statements + 1;
            RETURN NULL;
        END $$;
    CREATE FUNCTION count_deleted() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            UPDATE public.queue_stats SET copied = copied - (SELECT count(*) FROM old_rows WHERE old_rows.copied);
            RETURN NULL;
        END $$;
    CREATE PROCEDURE add_leaf(medium text) LANGUAGE plpgsql AS $$
        BEGIN
            EXECUTE format('CREATE TABLE public.%I PARTITION OF public.inode FOR VALUES IN (%L)',
                           'inode_' || medium, medium);
            EXECUTE format('CREATE TRIGGER ins AFTER INSERT ON public.%I REFERENCING NEW TABLE AS new_rows
                            FOR EACH STATEMENT EXECUTE FUNCTION count_inserted()', 'inode_' || medium);
            EXECUTE format('CREATE TRIGGER upd AFTER UPDATE ON public.%I
                            REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
                            FOR EACH STATEMENT EXECUTE FUNCTION count_updated()', 'inode_' || medium);
            EXECUTE format('CREATE TRIGGER del AFTER DELETE ON public.%I REFERENCING OLD TABLE AS old_rows
                            FOR EACH STATEMENT EXECUTE FUNCTION count_deleted()', 'inode_' || medium);
        END $$;";

/// A database with the user's `inode` in some leaves, over a store of its own with `blobs` small blobs, `copies` rows
/// each, all of it remembered; and a session in it.
pub fn archive(
    name: &str,
    leaves: usize,
    blobs: usize,
    copies: usize,
) -> (TestDb<'static>, Store, Session) {
    archive_on(Cluster::shared(), name, leaves, blobs, copies)
}

/// The same in a cluster of the caller's.
pub fn archive_on<'c>(
    cluster: &'c Cluster,
    name: &str,
    leaves: usize,
    blobs: usize,
    copies: usize,
) -> (TestDb<'c>, Store, Session) {
    let (db, store, mut s) = TestDb::with_store_on(cluster, name);
    partitioned(&mut s, leaves);
    load_source(&mut s, &store.put_synthetic(blobs));
    fill(&mut s, leaves, copies);
    remember(&mut s, "inode");
    (db, store, s)
}

/// `inode` as the user has it: a leaf a medium (`m0`, `m1`, …), with indexes, triggers and a foreign key to it.
pub fn partitioned(s: &mut Session, leaves: usize) {
    s.exec(&format!(
        "CREATE TABLE inode ({COLUMNS}) PARTITION BY LIST (medium_hash); {INDEXES} {FUNCTIONS}"
    ));
    for leaf in 0..leaves {
        s.exec(&format!("CALL add_leaf('m{leaf}')"));
    }
    s.exec(
        "CREATE TABLE path (medium_hash text NOT NULL, ino bigint NOT NULL, path text NOT NULL,
                            FOREIGN KEY (medium_hash, ino) REFERENCES inode) PARTITION BY LIST (medium_hash);
         CREATE TABLE path_rest PARTITION OF path DEFAULT",
    );
}

/// `inode` with two levels: a list partition a medium, each cut into `parts` by hash of `ino`, and one medium that
/// is a leaf at the first level.
pub fn multilevel(s: &mut Session, media: usize, parts: usize) {
    s.exec(&format!(
        "CREATE TABLE inode ({COLUMNS}) PARTITION BY LIST (medium_hash); {INDEXES}"
    ));
    s.exec("CREATE TABLE inode_m0 PARTITION OF inode FOR VALUES IN ('m0')");
    for medium in 1..media {
        s.exec(&format!(
            "CREATE TABLE inode_m{medium} PARTITION OF inode FOR VALUES IN ('m{medium}') PARTITION BY HASH (ino)"
        ));
        for part in 0..parts {
            s.exec(&format!(
                "CREATE TABLE inode_m{medium}_{part} PARTITION OF inode_m{medium}
                 FOR VALUES WITH (MODULUS {parts}, REMAINDER {part})"
            ));
        }
    }
}

/// The user's later schema, filled from `source`: one row a blob.
pub fn plain(s: &mut Session, blobids: &[String]) {
    load_source(s, blobids);
    s.exec(
        "CREATE TABLE blob (blobid text PRIMARY KEY, size bigint, mime_type text);
         CREATE INDEX ON blob (mime_type);
         INSERT INTO blob SELECT blobid, n FROM source",
    );
}

/// Puts `blobids` into a table `source (n, blobid)`, for the statements that make rows.
pub fn load_source(s: &mut Session, blobids: &[String]) {
    s.exec("CREATE TABLE IF NOT EXISTS source (n int, blobid text); TRUNCATE source");
    let mut copy = s.copy_in("COPY source FROM STDIN").expect("COPY starts");
    for (n, blobid) in blobids.iter().enumerate() {
        // COPY's escapes, for the malformed ones among them.
        let text = blobid
            .replace('\\', "\\\\")
            .replace('\t', "\\t")
            .replace('\n', "\\n")
            .replace('\r', "\\r");
        writeln!(copy, "{n}\t{text}").expect("COPY goes on");
    }
    copy.finish().expect("COPY ends");
}

/// Inserts `copies` rows for each blobid of `source` into `inode`, spread over media `m0` … unevenly (the first has
/// most), and beside these rows that no run may touch: directories without a blobid, and rows that have a type.
pub fn fill(s: &mut Session, media: usize, copies: usize) {
    s.exec(&format!(
        "INSERT INTO inode (medium_hash, dev, ino, nlink, size, mtime, blobid, copied, copied_to, errors, fs_type,
                            mime_type, processed_at, by_hash_created, claimed_by, claimed_at)
         SELECT 'm' || floor({media} * power(h, 2))::int, 7, ino, 1, ino * 3, 1000000 + ino,
                CASE WHEN ino % 23 <> 0 THEN blobid END,
                ino % 3 = 0, CASE WHEN ino % 3 = 0 THEN '/copy/' || ino END,
                CASE WHEN ino % 11 = 0 THEN ARRAY['io error', NULL, '{{odd\"'] ELSE '{{}}' END,
                CASE WHEN ino % 23 <> 0 THEN 'f' ELSE 'd' END,
                CASE WHEN ino % 13 = 0 THEN '{KEPT}' END,
                CASE WHEN ino % 5 = 0 THEN timestamptz '2025-10-01 12:00Z' + ino * interval '1 second' END,
                ino % 2 = 0, CASE WHEN ino % 17 = 0 THEN 'worker-' || ino END,
                CASE WHEN ino % 17 = 0 THEN timestamptz '2025-11-01 12:00Z' END
           FROM (SELECT n * {copies} + c AS ino, blobid,
                        abs(hashint8(n * {copies} + c)::bigint) / 2147483649.0::float8 AS h
                   FROM source, generate_series(1, {copies}) c) rows"
    ));
    if s.count("SELECT count(*) FROM pg_class WHERE oid = to_regclass('path')") > 0 {
        s.exec("INSERT INTO path SELECT medium_hash, ino, '/some/path/' || ino FROM inode WHERE ino % 2 = 0");
    }
}

/// Keeps what `table` is now and what each blobid's answer is.
pub fn remember(s: &mut Session, table: &str) {
    s.exec(&format!(
        "DROP TABLE IF EXISTS before, truth;
         CREATE TABLE before AS
             SELECT to_jsonb(t) - 'mime_type' AS rest, t.blobid, t.mime_type::text AS mime_type,
                    t.xmin::text AS version, t.ctid::text AS place, t.tableoid::regclass::text AS leaf
               FROM {table} t;
         CREATE TABLE truth AS
             SELECT b.blobid, i.mime_type AS mime, i.status
               FROM (SELECT DISTINCT blobid FROM before WHERE blobid IS NOT NULL) b,
                    LATERAL ntt_inspect_blob(b.blobid) i;
         ANALYZE before; ANALYZE truth"
    ));
    let known = s.count("SELECT count(*) FROM truth WHERE mime IS NOT NULL");
    assert!(known > 0, "a test without detectable blobs can't fail");
}

/// What a run that does everything has to count.
#[derive(Debug, PartialEq, Eq)]
pub struct Expected {
    /// Pending rows that can be filled.
    pub rows: i64,
    /// Distinct blobids of pending rows.
    pub blobs: i64,
    /// Those of them that can't be detected.
    pub failures: i64,
    /// Pending rows that can't be filled.
    pub rows_left: i64,
}

/// The numbers, from what [`remember`] kept.
pub fn expected(s: &mut Session) -> Expected {
    const PENDING: &str = "FROM before b JOIN truth t USING (blobid) WHERE b.mime_type IS NULL";
    Expected {
        rows: s.count(&format!("SELECT count(*) {PENDING} AND t.mime IS NOT NULL")),
        blobs: s.count(&format!("SELECT count(DISTINCT blobid) {PENDING}")),
        failures: s.count(&format!(
            "SELECT count(DISTINCT blobid) {PENDING} AND t.mime IS NULL"
        )),
        rows_left: s.count(&format!("SELECT count(*) {PENDING} AND t.mime IS NULL")),
    }
}

/// How many rows are pending.
pub fn pending(s: &mut Session, table: &str) -> i64 {
    s.count(&format!(
        "SELECT count(*) FROM {table} WHERE blobid IS NOT NULL AND mime_type IS NULL"
    ))
}

/// Every pending row has its blob's type, or none if that can't be detected; nothing else changed.
#[track_caller]
pub fn check_filled(s: &mut Session, table: &str) {
    check_untouched(s, table);
    let wrong = s.table(&format!(
        "SELECT b.leaf, b.blobid, n.mime_type, t.mime
           FROM before b JOIN {table} n ON to_jsonb(n) - 'mime_type' = b.rest JOIN truth t ON t.blobid = b.blobid
          WHERE b.mime_type IS NULL AND n.mime_type IS DISTINCT FROM t.mime LIMIT 10"
    ));
    assert!(wrong.is_empty(), "leaf|blobid|is|should be: {wrong:#?}");
}

/// Every row has its blob's type or is still pending; nothing else changed. Returns how many rows were filled.
#[track_caller]
pub fn check_partly_filled(s: &mut Session, table: &str) -> i64 {
    check_untouched(s, table);
    let wrong = s.table(&format!(
        "SELECT b.leaf, b.blobid, n.mime_type, t.mime
           FROM before b JOIN {table} n ON to_jsonb(n) - 'mime_type' = b.rest JOIN truth t ON t.blobid = b.blobid
          WHERE b.mime_type IS NULL AND n.mime_type IS NOT NULL AND n.mime_type IS DISTINCT FROM t.mime LIMIT 10"
    ));
    assert!(wrong.is_empty(), "leaf|blobid|is|should be: {wrong:#?}");
    s.count(&format!(
        "SELECT count(*) FROM before b JOIN {table} n ON to_jsonb(n) - 'mime_type' = b.rest
          WHERE b.mime_type IS NULL AND b.blobid IS NOT NULL AND n.mime_type IS NOT NULL"
    ))
}

/// No row came, went or changed in another column than `mime_type`; rows that had a type or have no blobid weren't
/// even rewritten.
#[track_caller]
pub fn check_untouched(s: &mut Session, table: &str) {
    let changed = s.table(&format!(
        "SELECT b.leaf, b.rest, to_jsonb(n)
           FROM before b FULL JOIN {table} n ON to_jsonb(n) - 'mime_type' = b.rest
          WHERE b.rest IS NULL OR n.tableoid IS NULL LIMIT 10"
    ));
    assert!(
        changed.is_empty(),
        "rows other than in mime_type: {changed:#?}"
    );
    let rewritten = s.table(&format!(
        "SELECT b.leaf, b.rest, b.mime_type, n.mime_type
           FROM before b JOIN {table} n ON to_jsonb(n) - 'mime_type' = b.rest
          WHERE (b.mime_type IS NOT NULL OR b.blobid IS NULL)
            AND (n.mime_type IS DISTINCT FROM b.mime_type OR n.xmin::text <> b.version OR n.ctid::text <> b.place)
          LIMIT 10"
    ));
    assert!(
        rewritten.is_empty(),
        "rows that weren't pending: {rewritten:#?}"
    );
}
