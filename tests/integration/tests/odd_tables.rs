//! Targets and statements that PostgreSQL allows, but that a simple implementation overlooks.

use ntt_mime_integration::server::major_version;
use ntt_mime_integration::session::describe;
use ntt_mime_integration::{
    Outcome, SOON, Session, Store, TestDb, assert_error, inode, parallel, wait_until,
};

#[test]
fn a_table_is_made_of_detections_by_a_parallel_plan() {
    let (_db, store, mut s) = TestDb::with_store("create_table_as");
    inode::plain(&mut s, &store.put_synthetic(200));
    s.exec("ANALYZE blob");
    parallel::force(&mut s);
    let query = "SELECT blobid, ntt_detect_mime(blobid) AS mime_type FROM blob";
    parallel::assert_parallel(&mut s, query, "ntt_detect_mime");
    s.exec(&format!("CREATE TABLE detected AS {query}"));
    s.exec(&format!("CREATE MATERIALIZED VIEW seen AS {query}"));
    s.exec(&format!("SELECT * INTO again FROM ({query}) q"));
    for table in ["detected", "seen", "again"] {
        assert_eq!(
            s.count(&format!(
                "SELECT count(*) FROM {table} WHERE mime_type IS NOT NULL"
            )),
            200
        );
    }
}

#[test]
fn a_blobid_that_is_computed_counts() {
    let (_db, store, mut s) = TestDb::with_store("generated");
    inode::load_source(&mut s, &store.put_synthetic(20));
    let mut kinds = vec!["STORED"];
    if major_version() >= 18 {
        kinds.push("VIRTUAL");
    }
    for kind in kinds {
        s.exec(&format!(
            "DROP TABLE IF EXISTS blob;
             CREATE TABLE blob (name text, blobid text GENERATED ALWAYS AS (lower(name)) {kind}, mime_type text);
             INSERT INTO blob (name) SELECT upper(blobid) FROM source"
        ));
        inode::remember(&mut s, "blob");
        assert_eq!(s.backfill("7, target => 'blob'").rows_updated, 20, "{kind}");
        inode::check_filled(&mut s, "blob");
    }
}

#[test]
fn a_trigger_of_the_run_cancels_it() {
    let (_db, store, mut s) = TestDb::with_store("cancelling_trigger");
    inode::plain(&mut s, &store.put_synthetic(50));
    s.exec(
        "CREATE FUNCTION enough() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
             PERFORM ntt_cancel_backfill(run_id) FROM ntt_mime.progress;
             RETURN NULL;
         END$$;
         CREATE TRIGGER enough AFTER UPDATE ON blob FOR EACH STATEMENT EXECUTE FUNCTION enough()",
    );
    let outcome = s.backfill("10, target => 'blob', workers => 1");
    assert_eq!(s.run_row(outcome.run_id, "status"), "cancelled");
    // The blobs of a second batch may have been looked at already.
    assert!(
        [10, 20].contains(&outcome.rows_updated),
        "{}",
        outcome.rows_updated
    );
}

#[test]
fn long_texts_that_are_no_blobids_take_no_memory_to_speak_of() {
    let (_db, store, mut s) = TestDb::with_store("long_texts");
    inode::load_source(&mut s, &store.put_synthetic(10));
    // 400 MB of text, all in one batch; a worker with as much would be seen.
    s.exec(
        "CREATE TABLE blob (blobid text, mime_type text);
         INSERT INTO blob SELECT blobid FROM source;
         INSERT INTO blob SELECT repeat(n::text, 1000000) FROM generate_series(100, 230) n;
         CREATE TABLE memory (bytes bigint);
         CREATE FUNCTION remember_memory() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
             INSERT INTO public.memory SELECT 1024 * (regexp_match(pg_read_file('/proc/self/status'),
                 'RssAnon:\\s+(\\d+)'))[1]::bigint;
             RETURN NULL;
         END$$;
         CREATE TRIGGER remember_memory AFTER UPDATE ON blob FOR EACH STATEMENT EXECUTE FUNCTION remember_memory()",
    );
    let outcome = s.backfill("target => 'blob', workers => 1");
    assert_eq!((outcome.rows_updated, outcome.failures), (10, 131));
    let bytes: i64 = s.value("SELECT max(bytes) FROM memory");
    assert!(bytes < 150_000_000, "a worker took {bytes} bytes");
}

/// A partitioned table whose leaves have policies of their own: one none at all, so that who names it sees no row; the
/// other one that shows every other row, and lets none be changed. And a role that may fill it.
struct SecuredLeaves {
    db: TestDb<'static>,
    _store: Store,
    s: Session,
    runner: String,
}

impl SecuredLeaves {
    fn new(name: &str) -> SecuredLeaves {
        let (db, store, mut s) = TestDb::with_store(name);
        inode::load_source(&mut s, &store.put_synthetic(40));
        let runner = db.role("runner", "LOGIN");
        s.exec(&format!(
            "CREATE TABLE parted (number int, blobid text, mime_type text) PARTITION BY RANGE (number);
             CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (MINVALUE) TO (20);
             CREATE TABLE parted_2 PARTITION OF parted DEFAULT;
             INSERT INTO parted SELECT n, blobid FROM source ORDER BY n;
             ALTER TABLE parted_1 ENABLE ROW LEVEL SECURITY;
             ALTER TABLE parted_2 ENABLE ROW LEVEL SECURITY;
             CREATE POLICY odd ON parted_2 USING (number % 2 = 1) WITH CHECK (mime_type IS NULL);
             GRANT SELECT, UPDATE ON parted, parted_1, parted_2 TO {runner};
             GRANT EXECUTE ON PROCEDURE ntt_backfill_mime TO {runner}"
        ));
        SecuredLeaves {
            db,
            _store: store,
            s,
            runner,
        }
    }

    /// The role fills `rows` rows, whatever its session says of row-level security.
    #[track_caller]
    fn fill(&mut self, arguments: &str, rows: i64) {
        for row_security in ["on", "off"] {
            let mut session = self.begin(row_security);
            session.exec("SET ntt_mime.lock_timeout = '50ms'");
            let called = session.call(&format!("{arguments}, target => 'parted'"));
            self.check(row_security, called, rows);
        }
    }

    /// Empties the column, and makes the role's session.
    fn begin(&mut self, row_security: &str) -> Session {
        self.s.exec(
            "UPDATE parted SET mime_type = NULL WHERE blobid IS NOT NULL AND mime_type IS NOT NULL",
        );
        inode::remember(&mut self.s, "parted");
        let mut session = self.db.connect_as(&self.runner);
        session.exec(&format!("SET row_security = {row_security}"));
        session
    }

    #[track_caller]
    fn check(&mut self, row_security: &str, called: Result<Outcome, postgres::Error>, rows: i64) {
        let outcome = match called {
            Ok(outcome) => outcome,
            Err(e) => panic!("row_security = {row_security}: {}", describe(&e)),
        };
        assert_eq!(
            (outcome.rows_updated, outcome.failures),
            (rows, 0),
            "row_security = {row_security}"
        );
        assert_eq!(inode::check_partly_filled(&mut self.s, "parted"), rows);
    }
}

#[test]
fn a_leafs_own_policies_do_not_apply_as_in_an_update_of_its_parent() {
    let mut leaves = SecuredLeaves::new("leaf_policies");
    // Who names a leaf meets them; who names the partitioned table doesn't, whatever row_security says.
    let mut session = leaves.db.connect_as(&leaves.runner);
    assert_eq!(session.count("SELECT count(*) FROM parted_1"), 0);
    assert_eq!(session.count("SELECT count(*) FROM parted_2"), 10);
    session.exec("SET row_security = off");
    assert_error(
        session.batch_execute("TABLE parted_1"),
        "42501",
        "row-level security",
    );
    session.exec("UPDATE parted SET mime_type = 'x/y'");
    assert_eq!(
        leaves
            .s
            .count("SELECT count(*) FROM parted WHERE mime_type = 'x/y'"),
        40
    );
    leaves.fill("7", 40);
}

#[test]
fn a_leafs_own_policies_do_not_apply_to_its_owner_either() {
    let mut leaves = SecuredLeaves::new("leaf_owner");
    let runner = leaves.runner.clone();
    leaves.s.exec(&format!(
        "ALTER TABLE parted_1 OWNER TO {runner}; ALTER TABLE parted_1 FORCE ROW LEVEL SECURITY"
    ));
    leaves.fill("7", 40);
}

#[test]
fn a_leafs_own_policies_do_not_apply_where_an_index_knows_the_rows() {
    let mut leaves = SecuredLeaves::new("leaf_index");
    // Large enough for an index to be asked.
    leaves.s.exec(
        "INSERT INTO parted SELECT -n, NULL, repeat('x', 1000) FROM generate_series(1, 2000) n;
         CREATE INDEX ON parted_1 (blobid) WHERE mime_type IS NULL AND blobid IS NOT NULL;
         ANALYZE parted",
    );
    leaves.fill("100", 40);
    leaves.s.exec("SELECT pg_stat_force_next_flush()");
    let lookups = leaves
        .s
        .count("SELECT sum(idx_scan)::bigint FROM pg_stat_user_indexes WHERE relname = 'parted_1'");
    assert!(lookups >= 2, "{lookups} look-ups in the index");
}

#[test]
fn a_leafs_own_policies_do_not_apply_where_others_hold_rows() {
    let mut leaves = SecuredLeaves::new("leaf_held");
    let mut other = leaves.db.connect();
    other.exec("BEGIN; SELECT FROM parted WHERE number IN (5, 25) FOR UPDATE");
    leaves.fill("7", 38);
    other.exec("COMMIT");
    leaves.fill("7", 40);
}

#[test]
fn a_leafs_own_policies_do_not_apply_when_statements_are_prepared_anew() {
    let mut leaves = SecuredLeaves::new("leaf_anew");
    let mut other = leaves.db.connect();
    for row_security in ["on", "off"] {
        let mut session = leaves.begin(row_security);
        session.exec("SET ntt_mime.lock_timeout = '1min'");
        // While the worker is in the second batch of the leaf, something changes that plans depend on.
        other.exec(
            "BEGIN; SELECT FROM parted_1 WHERE ctid = (SELECT ctid FROM parted_1 ORDER BY ctid OFFSET 7 LIMIT 1) FOR UPDATE",
        );
        let run = session.call_in_background("5, target => 'parted', workers => 1");
        leaves.db.wait_for_waiting_worker();
        other.exec("ALTER TABLE parted_1 SET (autovacuum_enabled = off); COMMIT");
        leaves.check(row_security, run.finish().1, 40);
    }
}

#[test]
fn a_leafs_own_policies_do_not_apply_where_a_blobid_is_computed() {
    let (db, store, mut s) = TestDb::with_store("leaf_computed");
    if major_version() < 18 {
        println!("skipped: the server has no virtual columns");
        return;
    }
    inode::load_source(&mut s, &store.put_synthetic(20));
    let runner = db.role("runner", "LOGIN");
    s.exec(&format!(
        "CREATE TABLE parted (number int, name text, mime_type text,
                              blobid text GENERATED ALWAYS AS (lower(name)) VIRTUAL) PARTITION BY LIST (number);
         CREATE TABLE parted_1 PARTITION OF parted DEFAULT;
         INSERT INTO parted SELECT n, upper(blobid) FROM source;
         ALTER TABLE parted_1 ENABLE ROW LEVEL SECURITY;
         GRANT SELECT, UPDATE ON parted TO {runner}; GRANT EXECUTE ON PROCEDURE ntt_backfill_mime TO {runner}"
    ));
    inode::remember(&mut s, "parted");
    let mut session = db.connect_as(&runner);
    session.exec("SET row_security = off");
    assert_eq!(session.backfill("7, target => 'parted'").rows_updated, 20);
    inode::check_filled(&mut s, "parted");
}

#[test]
fn texts_equal_to_a_blobid_by_collation_only_are_not_filled() {
    let (_db, store, mut s) = TestDb::with_store("collation");
    if s.count("SELECT count(*) FROM pg_collation WHERE collprovider = 'i'") == 0 {
        println!("skipped: the server has no ICU");
        return;
    }
    inode::load_source(&mut s, &store.put_synthetic(20));
    s.exec(
        "CREATE COLLATION ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
         CREATE TABLE blob (blobid text COLLATE ci, mime_type text);
         INSERT INTO blob SELECT blobid FROM source UNION ALL SELECT upper(blobid) FROM source;
         CREATE TABLE parted (LIKE blob, n int) PARTITION BY LIST (n);
         CREATE TABLE parted_rest PARTITION OF parted DEFAULT;
         INSERT INTO parted SELECT blobid, mime_type, 1 FROM blob",
    );
    assert_eq!(
        s.count("SELECT count(*) FROM blob a JOIN blob b USING (blobid)"),
        80,
        "the collation takes them to be equal"
    );
    for target in ["blob", "parted"] {
        // All in one batch: then the upper-case text is in the rows that are updated by the lower-case one.
        let outcome = s.backfill(&format!("target => '{target}', workers => 1"));
        assert_eq!(
            (outcome.blobs, outcome.rows_updated, outcome.failures),
            (40, 20, 20),
            "{target}"
        );
        assert_eq!(
            s.table(&format!(
                "SELECT t.blobid = lower(t.blobid) COLLATE \"C\", count(*),
                        count(*) FILTER (WHERE t.mime_type = ntt_detect_mime(lower(t.blobid)))
                   FROM {target} t WHERE t.mime_type IS NOT NULL GROUP BY 1"
            )),
            ["t|20|20"],
            "{target}"
        );
        assert_eq!(
            s.table(
                "SELECT reason, attempts, count(*), count(s.n)
                   FROM ntt_mime.failure f LEFT JOIN source s ON f.blobid = upper(s.blobid) GROUP BY 1, 2"
            ),
            ["invalid|1|20|20"]
        );
    }
}

#[test]
fn targets_that_cannot_work_are_refused_before_a_run() {
    let (_db, store, mut s) = TestDb::with_store("refused");
    inode::load_source(&mut s, &store.put_synthetic(10));
    s.exec(
        "CREATE TABLE by_type (n int, blobid text, mime_type text) PARTITION BY LIST (mime_type);
         CREATE TABLE by_type_rest PARTITION OF by_type FOR VALUES IN (NULL);
         INSERT INTO by_type SELECT n, blobid FROM source;
         CREATE TABLE by_hash (n int, blobid text, mime_type text) PARTITION BY HASH (n, mime_type);
         CREATE TABLE by_expression (n int, blobid text, mime_type text)
             PARTITION BY RANGE (n, (split_part(coalesce(mime_type, '?'), '/', 1)));
         CREATE TABLE by_number (n int, blobid text, mime_type text) PARTITION BY LIST (n);
         CREATE TABLE by_number_1 PARTITION OF by_number FOR VALUES IN (1);
         CREATE TABLE by_number_2 (more text, mime_type text, n int, blobid text) PARTITION BY LIST (n);
         ALTER TABLE by_number_2 DROP COLUMN more;
         ALTER TABLE by_number ATTACH PARTITION by_number_2 DEFAULT;
         CREATE TABLE by_number_2_type PARTITION OF by_number_2 DEFAULT PARTITION BY LIST ((lower(mime_type)));
         CREATE TABLE by_number_2_type_rest PARTITION OF by_number_2_type DEFAULT;
         CREATE TABLE computed (n int, blobid text, mime_type text GENERATED ALWAYS AS ('x') STORED)",
    );
    if major_version() >= 18 {
        s.exec(
            "CREATE TABLE virtual (blobid text, mime_type text GENERATED ALWAYS AS ('x') VIRTUAL)",
        );
        assert_error(s.call("target => 'virtual'"), "42809", "generated column");
    }
    for (target, by) in [
        ("by_type", "it"),
        ("by_hash", "it"),
        ("by_expression", "it"),
        ("by_number", "\"public.by_number_2_type\""),
        ("by_number_2", "\"public.by_number_2_type\""),
        ("by_number_2_type", "it"),
        ("by_number_2_type_rest", "\"public.by_number_2_type\""),
        ("by_type_rest", "\"public.by_type\""),
    ] {
        for arguments in ["", ", dry_run => true"] {
            let error = assert_error(
                s.call(&format!("target => '{target}'{arguments}")),
                "0A000",
                &format!(
                    "cannot fill table \"public.{target}\" because {by} is partitioned by column \"mime_type\""
                ),
            );
            assert!(error.hint().is_some());
        }
    }
    let error = assert_error(
        s.call("target => 'computed'"),
        "42809",
        "column \"mime_type\" of relation \"public.computed\" is a generated column",
    );
    assert!(error.hint().is_some());
    assert_eq!(s.count("SELECT count(*) FROM ntt_mime.run"), 0);
    // What the hint says.
    s.exec(
        "CREATE TABLE by_type_others PARTITION OF by_type DEFAULT;
         UPDATE by_type SET mime_type = ntt_detect_mime(blobid) WHERE blobid IS NOT NULL AND mime_type IS NULL",
    );
    assert_eq!(s.count("SELECT count(*) FROM by_type_others"), 10);
    // Only one of two partitions of a table that isn't partitioned by it.
    s.exec("INSERT INTO by_number SELECT 1, blobid FROM source");
    assert_eq!(s.backfill("target => 'by_number_1'").rows_updated, 10);
}

#[test]
fn leaves_that_come_below_a_table_partitioned_by_type_are_skipped() {
    let (db, store, mut s) = TestDb::with_store("comes_below");
    inode::load_source(&mut s, &store.put_synthetic(60));
    s.exec(
        "CREATE TABLE t (n int, blobid text, mime_type text) PARTITION BY LIST (n);
         CREATE TABLE t_0 PARTITION OF t FOR VALUES IN (0);
         CREATE TABLE t_1 PARTITION OF t FOR VALUES IN (1);
         INSERT INTO t SELECT 0, blobid FROM source WHERE n < 40;
         INSERT INTO t SELECT 1, blobid FROM source WHERE n >= 40;
         INSERT INTO t SELECT 0, NULL FROM generate_series(1, 20000);
         ANALYZE t",
    );
    let mut session = db.connect();
    session.exec("SET ntt_mime.batch_delay = '200ms'");
    // The larger one first, all of whose pending rows are read one batch after the other.
    let run = session.call_in_background("4, target => 't', workers => 1");
    wait_until(SOON, "the first rows to be filled", || {
        s.count("SELECT count(*) FROM t WHERE mime_type IS NOT NULL") > 0
    });
    s.exec(
        "ALTER TABLE t DETACH PARTITION t_1;
         CREATE TABLE t_1_type PARTITION OF t FOR VALUES IN (1) PARTITION BY LIST (mime_type);
         ALTER TABLE t_1_type ATTACH PARTITION t_1 FOR VALUES IN (NULL);
         CREATE TABLE t_2_type PARTITION OF t FOR VALUES IN (2) PARTITION BY HASH (mime_type);
         CREATE TABLE t_2 PARTITION OF t_2_type FOR VALUES WITH (MODULUS 1, REMAINDER 0);
         INSERT INTO t SELECT 2, blobid FROM source",
    );
    assert_eq!(inode::pending(&mut s, "t_1"), 20);
    let (mut session, outcome) = run.succeed();
    assert_eq!(outcome.rows_updated, 40);
    assert_eq!(inode::pending(&mut s, "t_0"), 0);
    assert_eq!(
        session.take_warnings(),
        [
            "skipped 2 partitions | They are \"public.t_1_type\", \"public.t_2_type\". Foreign tables, tables whose \
             access method does not support TID range scans, and tables that are partitioned by column \"mime_type\" \
             are not filled."
        ]
    );
}

#[test]
fn tables_that_inherit_from_the_target_are_left_out_with_a_warning() {
    let (_db, store, mut s) = TestDb::with_store("inherited");
    inode::load_source(&mut s, &store.put_synthetic(10));
    s.exec(
        "CREATE TABLE blob (blobid text, mime_type text);
         CREATE TABLE child () INHERITS (blob);
         CREATE TABLE child_2 () INHERITS (blob);
         CREATE TABLE grandchild () INHERITS (child, child_2);
         INSERT INTO blob SELECT blobid FROM source;
         INSERT INTO child SELECT blobid FROM source;
         INSERT INTO grandchild SELECT blobid FROM source",
    );
    assert_eq!(s.backfill("target => 'blob'").rows_updated, 10);
    assert_eq!(
        s.take_warnings(),
        [
            "skipped 3 child tables | They are \"public.child\", \"public.child_2\", \"public.grandchild\". Tables that \
             inherit from the target are not filled with it. | Run the backfill on each of them."
        ]
    );
    assert_eq!(inode::pending(&mut s, "ONLY blob"), 0);
    assert_eq!(inode::pending(&mut s, "blob"), 20);
    assert_eq!(s.backfill("target => 'grandchild'").rows_updated, 10);
    assert_eq!(s.take_warnings(), Vec::<String>::new());
}
