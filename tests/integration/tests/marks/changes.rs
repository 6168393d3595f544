//! Changes that make rows pending and that a mere comparison of counters would miss, or that are counted late.

use ntt_mime_integration::cluster::PORT;
use ntt_mime_integration::{Cluster, TestDb, inode, wait_until};

use super::{MINUTE, assert_noticed, fill, filled, seem_large, skipped};

/// Changes that another session makes and commits: what they are, and how.
const CHANGES: &[(&str, &str)] = &[
    (
        "rows are inserted",
        "INSERT INTO inode (medium_hash, ino, blobid) SELECT 'm1', 1000000 + n, blobid FROM source",
    ),
    (
        "a type is taken away",
        "UPDATE inode SET mime_type = NULL WHERE medium_hash = 'm2' AND blobid IS NOT NULL",
    ),
    (
        "rows are moved from leaf to leaf",
        "UPDATE inode SET medium_hash = 'm0', mime_type = NULL WHERE medium_hash = 'm2' AND ino % 2 = 0 AND blobid IS NOT NULL",
    ),
    (
        "a leaf is truncated and loaded again",
        "CREATE TABLE kept AS TABLE inode_m1; TRUNCATE inode_m1;
         UPDATE kept SET mime_type = NULL; INSERT INTO inode TABLE kept",
    ),
    (
        "rows are frozen when they are loaded",
        "COPY (SELECT medium_hash, ino, blobid FROM inode_m1) TO '{file}';
         BEGIN; TRUNCATE inode_m1; COPY inode_m1 (medium_hash, ino, blobid) FROM '{file}' WITH (FREEZE); COMMIT",
    ),
    (
        "a leaf is rewritten with other values",
        "ALTER TABLE inode ALTER COLUMN mime_type TYPE varchar(200) USING NULLIF(mime_type, 'text/plain')",
    ),
    (
        "the column is dropped and added",
        "ALTER TABLE inode DROP COLUMN mime_type; ALTER TABLE inode ADD COLUMN mime_type varchar(255)",
    ),
    (
        "another column takes the name",
        "ALTER TABLE inode ADD COLUMN other varchar(255); ALTER TABLE inode RENAME COLUMN mime_type TO former;
         ALTER TABLE inode RENAME COLUMN other TO mime_type",
    ),
    (
        "another column becomes blobid",
        "ALTER TABLE inode RENAME COLUMN blobid TO former;
         DO $$BEGIN
             EXECUTE format('ALTER TABLE inode ADD COLUMN blobid text DEFAULT %L', (SELECT min(blobid) FROM source));
         END$$",
    ),
    (
        "a leaf is changed while it is detached",
        "ALTER TABLE inode DETACH PARTITION inode_m1; UPDATE inode_m1 SET mime_type = NULL;
         ALTER TABLE inode ATTACH PARTITION inode_m1 FOR VALUES IN ('m1')",
    ),
    (
        "another table takes the place of a leaf",
        "CREATE TABLE other (LIKE inode INCLUDING ALL); INSERT INTO other TABLE inode_m1; UPDATE other SET mime_type = NULL;
         DROP TABLE inode_m1; ALTER TABLE inode ATTACH PARTITION other FOR VALUES IN ('m1')",
    ),
];

#[test]
fn whatever_makes_rows_pending_is_noticed() {
    for (what, sql) in CHANGES {
        let (db, _store, mut s) = filled("marks_changes");
        let mut other = db.connect();
        let file = db.cluster.data().join(format!("{}.copy", db.name));
        other.exec(&sql.replace("{file}", &file.display().to_string()));
        assert_noticed(&mut s, what);
        // What it had not published yet costs another look.
        drop(other);
        wait_until(MINUTE, what, || skipped(&mut s) == 3);
    }
}

#[test]
fn a_rewrite_that_changes_no_row_costs_a_look() {
    let (_db, _store, mut s) = filled("marks_rewrite");
    s.exec("VACUUM FULL inode_m1");
    assert_eq!(skipped(&mut s), 2);
    assert_eq!(skipped(&mut s), 3);
}

#[test]
fn a_column_takes_another_ones_place_in_tables_that_were_detached_together() {
    let (_db, store, mut s) = TestDb::with_store("marks_multilevel");
    inode::multilevel(&mut s, 3, 2);
    inode::load_source(&mut s, &store.put_synthetic(40));
    inode::fill(&mut s, 3, 4);
    s.exec("ALTER TABLE inode ADD COLUMN other varchar(255)");
    s.backfill("1000");
    assert_eq!(skipped(&mut s), 5);
    // Neither the leaves nor the target get another row in pg_class by that.
    s.exec(
        "ALTER TABLE inode DETACH PARTITION inode_m1;
         ALTER TABLE inode_m1 RENAME COLUMN mime_type TO former;
         ALTER TABLE inode_m1 RENAME COLUMN other TO mime_type;
         ALTER TABLE inode_m1 RENAME COLUMN former TO other;
         ALTER TABLE inode ATTACH PARTITION inode_m1 FOR VALUES IN ('m1')",
    );
    assert_noticed(&mut s, "columns that have changed places");
    assert_eq!(skipped(&mut s), 5);
}

#[test]
fn what_changes_the_table_and_neither_rows_nor_columns_costs_no_look() {
    let (_db, _store, mut s) = filled("marks_altered");
    for sql in [
        "ALTER TABLE inode ADD COLUMN other text DEFAULT 'x'",
        "GRANT SELECT ON inode_m1 TO PUBLIC",
        "ANALYZE inode",
        "VACUUM inode",
        "CREATE INDEX ON inode (nlink)",
        "ALTER TABLE inode_m1 RENAME TO inode_renamed",
        "ALTER TABLE inode DETACH PARTITION inode_m2; ALTER TABLE inode ATTACH PARTITION inode_m2 FOR VALUES IN ('m2')",
    ] {
        s.exec(sql);
        assert_eq!(skipped(&mut s), 3, "{sql}");
    }
}

/// Makes rows of a leaf pending.
const TAKE_AWAY: &str =
    "UPDATE inode SET mime_type = NULL WHERE medium_hash = 'm1' AND blobid IS NOT NULL";

#[test]
fn what_was_not_committed_when_the_leaf_was_looked_at() {
    let (db, _store, mut s) = inode::archive("marks_open", 3, 60, 4);
    let mut other = db.connect();
    other.exec("BEGIN");
    other.exec(
        "INSERT INTO inode (medium_hash, ino, blobid) SELECT 'm1', 1000000 + n, blobid FROM source",
    );
    // Most of its rows are seen, and it is marked.
    s.backfill("1000");
    seem_large(&mut s);
    assert_eq!(skipped(&mut s), 3);
    other.exec("COMMIT");
    assert_noticed(&mut s, "what is committed later");
}

#[test]
fn what_commits_again_and_again_in_one_statement() {
    let (db, _store, mut s) = filled("marks_procedure");
    s.exec(
        "CREATE PROCEDURE load() LANGUAGE plpgsql AS $$BEGIN
             FOR i IN 1..30 LOOP
                 INSERT INTO public.inode (medium_hash, ino, blobid) SELECT 'm1', 2000000 + i, min(blobid) FROM public.source;
                 COMMIT;
                 PERFORM pg_sleep(0.1);
             END LOOP;
         END$$",
    );
    let mut other = db.connect();
    other.exec("CALL load()");
    assert_noticed(&mut s, "what a procedure has committed");
}

#[test]
fn prepared_transactions_are_noticed_when_they_are_committed() {
    let cluster = Cluster::start(&[("max_prepared_transactions", "2")]);
    let (db, _store, mut s) = inode::archive_on(&cluster, "marks_prepared", 3, 60, 4);
    fill(&mut s);
    let mut other = db.connect();
    other.exec(&format!("BEGIN; {TAKE_AWAY}; PREPARE TRANSACTION 'x'"));
    drop(other);
    // They are looked at while it is prepared, and nothing is to be seen.
    s.exec("SET ntt_mime.full_scan_after = 0");
    s.backfill("1000");
    s.exec("RESET ntt_mime.full_scan_after");
    assert_eq!(skipped(&mut s), 3);
    db.connect().exec("COMMIT PREPARED 'x'");
    assert_noticed(&mut s, "a prepared transaction");
}

#[test]
fn what_logical_replication_applies_is_noticed() {
    let cluster = Cluster::start(&[("wal_level", "logical")]);
    let (publisher, _store, mut p) = inode::archive_on(&cluster, "marks_publisher", 3, 60, 4);
    let (db, _other, mut s) = inode::archive_on(&cluster, "marks_subscriber", 3, 60, 4);
    fill(&mut s);
    p.exec("CREATE PUBLICATION loads FOR TABLE inode");
    p.exec("SELECT pg_create_logical_replication_slot('loads', 'pgoutput')");
    s.exec(&format!(
        "CREATE SUBSCRIPTION loads CONNECTION 'host={} port={PORT} dbname={} user=postgres' PUBLICATION loads
         WITH (create_slot = false, slot_name = 'loads', copy_data = false)",
        cluster.socket_dir().display(),
        publisher.name
    ));
    let counted = "SELECT pg_stat_get_tuples_inserted('inode_m1'::regclass)";
    // What this session has inserted itself is counted by then.
    s.exec("SELECT pg_stat_force_next_flush()");
    let before = s.count(counted);
    p.exec(
        "INSERT INTO inode (medium_hash, ino, blobid) SELECT 'm1', 1000000 + n, blobid FROM source",
    );
    // The worker that applies them publishes what it counts when nothing has come for a second. Runs, which this server
    // decodes for it, would keep it from that.
    wait_until(MINUTE, "the rows to be counted", || {
        s.count(counted) > before
    });
    assert_noticed(&mut s, "what was applied");
    s.exec("ALTER SUBSCRIPTION loads DISABLE; ALTER SUBSCRIPTION loads SET (slot_name = NONE)");
    s.exec("DROP SUBSCRIPTION loads");
    drop(db);
}

#[test]
fn what_the_session_of_the_run_has_just_written_is_noticed_at_once() {
    let (_db, _store, mut s) = filled("marks_own");
    for _ in 0..5 {
        s.exec(TAKE_AWAY);
        assert!(s.backfill("1000").rows_updated > 0);
        assert_eq!(inode::pending(&mut s, "inode"), 0);
        assert_eq!(skipped(&mut s), 3);
    }
}

#[test]
fn the_counters_are_those_of_now_whatever_the_session_has_set() {
    let (db, _store, mut s) = filled("marks_consistency");
    for consistency in ["snapshot", "cache", "none"] {
        s.exec(&format!("SET stats_fetch_consistency = '{consistency}'"));
        db.connect().exec(TAKE_AWAY);
        assert_noticed(&mut s, consistency);
        wait_until(MINUTE, consistency, || skipped(&mut s) == 3);
    }
}

#[test]
fn a_leaf_at_which_something_else_is_gets_its_mark_from_a_look_without_updates() {
    let (_db, _store, mut s) = inode::archive("marks_meddled", 3, 60, 4);
    s.exec(
        "CREATE FUNCTION pass() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NEW; END$$;
         CREATE TRIGGER pass BEFORE UPDATE ON inode_m1 FOR EACH ROW EXECUTE FUNCTION pass()",
    );
    s.backfill("1000");
    assert_eq!(skipped(&mut s), 2);
    assert_eq!(skipped(&mut s), 3);
}

#[test]
fn rows_that_a_trigger_keeps_pending_are_tried_in_each_run() {
    let (_db, _store, mut s) = inode::archive("marks_kept", 3, 60, 4);
    s.exec(
        "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
             RETURN CASE WHEN OLD.ino % 2 = 0 THEN NULL ELSE NEW END;
         END$$;
         CREATE TRIGGER keep BEFORE UPDATE ON inode_m1 FOR EACH ROW EXECUTE FUNCTION keep()",
    );
    s.backfill("1000");
    assert_eq!(skipped(&mut s), 2);
    assert_eq!(skipped(&mut s), 2);
    s.exec("DROP TRIGGER keep ON inode_m1");
    s.backfill("1000");
    inode::check_filled(&mut s, "inode");
}

#[test]
fn a_leaf_with_an_error_of_its_own_is_tried_in_each_run() {
    let (_db, _store, mut s) = inode::archive("marks_refused", 3, 60, 4);
    s.exec(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'no'; END$$;
         CREATE TRIGGER refuse BEFORE UPDATE ON inode_m1 FOR EACH ROW EXECUTE FUNCTION refuse()",
    );
    for _ in 0..2 {
        assert!(s.call("1000").is_err());
        let skipped =
            "SELECT options->>'leaves_skipped' FROM ntt_mime.run ORDER BY run_id DESC LIMIT 1";
        let there =
            s.count("SELECT count(*) FROM ntt_mime.leaf WHERE leaf_oid <> 'inode_m1'::regclass");
        assert_eq!((there, s.column(skipped).len()), (2, 1));
    }
    assert_eq!(s.count("SELECT count(*) FROM ntt_mime.leaf_error"), 1);
    s.exec("DROP TRIGGER refuse ON inode_m1");
    s.backfill("1000");
    assert_eq!(s.count("SELECT count(*) FROM ntt_mime.leaf_error"), 0);
    inode::check_filled(&mut s, "inode");
}

#[test]
fn tables_whose_counters_tell_too_little_get_no_mark() {
    let (db, store, mut s) = TestDb::with_store("marks_none");
    let blobids = store.put_synthetic(20);
    inode::plain(&mut s, &blobids);
    // Row security: the caller sees only a part of it.
    let runner = db.role("runner", "LOGIN");
    s.exec(&format!(
        "GRANT USAGE ON SCHEMA ntt_mime TO {runner};
         GRANT EXECUTE ON ALL ROUTINES IN SCHEMA public TO {runner};
         GRANT SELECT, UPDATE ON blob TO {runner};
         CREATE POLICY half ON blob USING (size < 10); ALTER TABLE blob ENABLE ROW LEVEL SECURITY;
         CREATE ACCESS METHOD other TYPE TABLE HANDLER heap_tableam_handler;
         CREATE TABLE elsewhere (blobid text, mime_type text) USING other;
         INSERT INTO elsewhere SELECT blobid FROM source"
    ));
    let mut r = db.connect_as(&runner);
    assert_eq!(r.backfill("target => 'blob'").rows_updated, 10);
    assert_eq!(s.backfill("target => 'elsewhere'").rows_updated, 20);
    s.backfill("target => 'elsewhere'");
    assert_eq!(s.count("SELECT count(*) FROM ntt_mime.leaf"), 0);
    assert_eq!(s.backfill("target => 'blob'").rows_updated, 10);
    assert_eq!(s.count("SELECT count(*) FROM ntt_mime.leaf"), 1);
}
