//! Who may do what: nothing for PUBLIC, detecting for pg_read_server_files, watching for pg_monitor, a run for who
//! may execute it and update its target; and no more for workers than for their caller. And that everything is
//! explained where a DBA looks for it.

use std::time::Duration;

use ntt_mime_integration::{Session, Store, TestDb, assert_error, inode};

/// The extension's members of a catalogue, as a subquery of their oids.
fn members(catalogue: &str) -> String {
    format!(
        "(SELECT objid FROM pg_depend WHERE deptype = 'e' AND classid = 'pg_catalog.{catalogue}'::regclass
             AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'ntt_mime'))"
    )
}

/// A partitioned `inode` with 200 pending rows, and a role that may execute the procedure.
fn archive_and_role(name: &str, leaves: usize) -> (TestDb<'static>, Store, Session, String) {
    let db = TestDb::new(name);
    let store = Store::new();
    db.use_store(&store);
    let mut s = db.connect();
    inode::partitioned(&mut s, leaves);
    inode::load_source(&mut s, &store.put_synthetic(100));
    inode::fill(&mut s, leaves, 2);
    inode::remember(&mut s, "inode");
    let role = db.role("runner", "LOGIN");
    s.exec(&format!(
        "GRANT EXECUTE ON PROCEDURE ntt_backfill_mime TO {role};
         GRANT SELECT, UPDATE ON queue_stats TO {role}"
    ));
    (db, store, s, role)
}

#[test]
fn nothing_for_public() {
    let db = TestDb::new("public");
    let mut s = db.connect();
    let functions = s.column(&format!(
        "SELECT oid::regprocedure FROM pg_proc
          WHERE oid IN {} AND has_function_privilege('public', oid, 'EXECUTE')",
        members("pg_proc")
    ));
    assert!(functions.is_empty(), "PUBLIC may execute {functions:?}");
    let relations = s.column(&format!(
        "SELECT oid::regclass FROM pg_class WHERE oid IN {}
            AND CASE WHEN relkind IN ('r', 'v', 'm', 'p', 'f') THEN has_table_privilege(
                    'public', oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER') END",
        members("pg_class")
    ));
    assert!(relations.is_empty(), "PUBLIC may use {relations:?}");
    // CASE, since the planner may ask for the privileges of what is no sequence first, which is an error.
    let sequences = s.column(&format!(
        "SELECT oid::regclass FROM pg_class WHERE (oid IN {} OR relnamespace = 'ntt_mime'::regnamespace)
            AND CASE WHEN relkind = 'S' THEN has_sequence_privilege('public', oid, 'USAGE, SELECT, UPDATE') END",
        members("pg_class")
    ));
    assert!(sequences.is_empty(), "PUBLIC may use {sequences:?}");
    assert!(!s.value::<bool>("SELECT has_schema_privilege('public', 'ntt_mime', 'USAGE, CREATE')"));
    // Columns have privileges of their own.
    let columns = s.table(&format!(
        "SELECT attrelid::regclass, attname FROM pg_attribute
          WHERE attrelid IN {} AND attacl IS NOT NULL AND attacl::text ~ '[{{,]='",
        members("pg_class")
    ));
    assert!(columns.is_empty(), "PUBLIC may use {columns:?}");
    // The loops above looked at something.
    assert!(
        s.count(&format!(
            "SELECT count(*) FROM pg_proc WHERE oid IN {}",
            members("pg_proc")
        )) >= 6
    );
    assert!(
        s.count(&format!(
            "SELECT count(*) FROM pg_class WHERE oid IN {}",
            members("pg_class")
        )) >= 3
    );

    let role = db.role("nobody", "LOGIN");
    let mut nobody = db.connect_as(&role);
    for sql in [
        "SELECT ntt_detect_mime('x')",
        "SELECT ntt_detect_mime('x'::bytea)",
        "SELECT * FROM ntt_inspect_blob('x')",
        "SELECT * FROM ntt_mime_version()",
        "SELECT ntt_cancel_backfill(1)",
        "CALL ntt_backfill_mime()",
        "TABLE ntt_mime.run",
        "TABLE ntt_mime.failure",
        "TABLE ntt_mime.progress",
    ] {
        assert_error(nobody.batch_execute(sql), "42501", "permission denied");
    }
}

#[test]
fn pg_read_server_files_detects() {
    let db = TestDb::new("analyst");
    let store = Store::new();
    db.use_store(&store);
    let blobid = store.put(b"#!/bin/sh\n");
    let role = db.role("analyst", "LOGIN IN ROLE pg_read_server_files");
    let mut analyst = db.connect_as(&role);
    assert_eq!(
        analyst.column(&format!("SELECT ntt_detect_mime('{blobid}')")),
        ["text/x-shellscript"]
    );
    assert_eq!(
        analyst.column("SELECT ntt_detect_mime('%PDF-1.4'::bytea)"),
        ["application/pdf"]
    );
    assert_eq!(
        analyst.column(&format!("SELECT status FROM ntt_inspect_blob('{blobid}')")),
        ["ok"]
    );
    for sql in [
        "CALL ntt_backfill_mime()",
        "SELECT ntt_cancel_backfill(1)",
        "TABLE ntt_mime.run",
        "TABLE ntt_mime.failure",
        "TABLE ntt_mime.progress",
    ] {
        assert_error(analyst.batch_execute(sql), "42501", "permission denied");
    }
}

#[test]
fn pg_monitor_watches() {
    let db = TestDb::new("monitor");
    let store = Store::new();
    db.use_store(&store);
    let mut s = db.connect();
    inode::plain(&mut s, &store.put_synthetic(5));
    s.backfill("target => 'blob'");
    let role = db.role("monitor", "LOGIN IN ROLE pg_monitor");
    let mut monitor = db.connect_as(&role);
    assert_eq!(
        monitor.table("SELECT status, rows_updated FROM ntt_mime.run"),
        ["succeeded|5"]
    );
    assert!(monitor.table("SELECT * FROM ntt_mime.progress").is_empty());
    for sql in [
        "TABLE ntt_mime.failure",
        "UPDATE ntt_mime.run SET error = 'x'",
        "DELETE FROM ntt_mime.run",
        "SELECT ntt_detect_mime('x')",
        "CALL ntt_backfill_mime()",
    ] {
        assert_error(monitor.batch_execute(sql), "42501", "permission denied");
    }
}

#[test]
fn update_on_the_target_is_enough() {
    let (db, _store, mut s, role) = archive_and_role("update_only", 3);
    s.exec(&format!("GRANT UPDATE ON inode TO {role}"));
    let mut runner = db.connect_as(&role);
    let outcome = runner.backfill("50");
    inode::check_filled(&mut s, "inode");
    assert_eq!(outcome.rows_updated, inode::expected(&mut s).rows);
    // It still can't read the rows, nor what the run wrote.
    assert_error(
        runner.batch_execute("SELECT blobid FROM inode"),
        "42501",
        "permission denied",
    );
    assert_error(
        runner.batch_execute("SELECT blobid FROM inode_m0"),
        "42501",
        "permission denied",
    );
    assert_error(
        runner.batch_execute("TABLE ntt_mime.run"),
        "42501",
        "permission denied",
    );
}

#[test]
fn privileges_on_the_parent_are_enough() {
    let (db, store, mut s, role) = archive_and_role("parent", 3);
    // Failures are recorded by the run, in tables its caller can't write.
    s.exec(&format!(
        "GRANT SELECT, UPDATE ON inode TO {role};
         INSERT INTO inode (medium_hash, ino, blobid) VALUES ('m1', 1000000, '{}')",
        store.put_unreadable(b"secret")
    ));
    inode::remember(&mut s, "inode");
    let mut runner = db.connect_as(&role);
    let outcome = runner.backfill("50");
    assert_eq!(outcome.failures, 1);
    inode::check_filled(&mut s, "inode");
    assert_eq!(
        s.table("SELECT role_name, status FROM ntt_mime.run"),
        [format!("{role}|succeeded")]
    );
    assert_eq!(
        s.column("SELECT reason FROM ntt_mime.failure"),
        ["unreadable"]
    );
    for sql in [
        "UPDATE ntt_mime.run SET error = 'x'",
        "INSERT INTO ntt_mime.run (target) VALUES ('x')",
        "DELETE FROM ntt_mime.run",
        "DELETE FROM ntt_mime.failure",
        "INSERT INTO ntt_mime.failure (blobid, reason) VALUES ('x', 'missing')",
        "UPDATE inode_m0 SET mime_type = 'x'",
        "DELETE FROM inode",
    ] {
        assert_error(runner.batch_execute(sql), "42501", "permission denied");
    }
    let helpers = runner.column(&format!(
        "SELECT oid::regprocedure FROM pg_proc WHERE oid IN {}
            AND has_function_privilege(oid, 'EXECUTE') AND proname <> 'ntt_backfill_mime'",
        members("pg_proc")
    ));
    assert!(helpers.is_empty(), "the runner may call {helpers:?}");
}

#[test]
fn privileges_on_the_parent_last_through_a_run() {
    let (db, _store, mut s, role) = archive_and_role("parent_lasts", 1);
    // What makes PostgreSQL analyze and plan our statements anew between two batches: statistics of the leaf, and a
    // temporary table in the worker itself, by which its search path is another one.
    s.exec(&format!(
        "GRANT UPDATE ON inode TO {role};
         CREATE FUNCTION remembers() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN CREATE TEMPORARY TABLE IF NOT EXISTS mine (x int); RETURN NULL; END';
         CREATE TRIGGER remembers AFTER UPDATE ON inode_m0 FOR EACH STATEMENT EXECUTE FUNCTION remembers()"
    ));
    let mut runner = db.connect_as(&role);
    runner.exec("SET ntt_mime.batch_delay = '50ms'; SET client_min_messages = 'error'");
    let running = runner.call_in_background("5");
    let mut analyzed = 0;
    while !running.is_finished() {
        s.exec("ANALYZE inode_m0");
        analyzed += 1;
        std::thread::sleep(Duration::from_millis(20));
    }
    running.succeed();
    assert!(analyzed > 10, "too short a run to say anything");
    inode::check_filled(&mut s, "inode");
}

#[test]
fn privileges_on_the_parent_are_enough_beside_locked_rows() {
    let (db, _store, mut s, role) = archive_and_role("parent_locked", 1);
    s.exec(&format!("GRANT UPDATE ON inode TO {role}"));
    let mut other = db.connect();
    other.exec("BEGIN");
    let ino = other.count(
        "SELECT ino FROM inode WHERE blobid IS NOT NULL AND mime_type IS NULL ORDER BY ino LIMIT 1 FOR UPDATE",
    );
    let mut runner = db.connect_as(&role);
    runner.exec("SET ntt_mime.lock_timeout = '100ms'");
    let outcome = runner.backfill("1000");
    let expected = inode::expected(&mut s).rows;
    assert_eq!(
        outcome.rows_updated,
        expected - 1,
        "all but the row {ino}, which another session holds"
    );
    other.exec("COMMIT");
    assert_eq!(runner.backfill("1000").rows_updated, 1);
    inode::check_filled(&mut s, "inode");
}

#[test]
fn a_run_does_nothing_that_its_caller_may_not() {
    // The caller owns neither the target nor its triggers: a trigger function that runs with the invoker's rights
    // has the caller's, not the owner's.
    let (db, _store, mut s, role) = archive_and_role("rights", 2);
    s.exec(&format!(
        "GRANT SELECT, UPDATE ON inode, inode_m0, inode_m1 TO {role};
         REVOKE ALL ON queue_stats FROM {role}"
    ));
    let mut runner = db.connect_as(&role);
    assert_error(runner.call("50"), "42501", "queue_stats");
    assert_eq!(s.column("SELECT status FROM ntt_mime.run"), ["failed"]);
    assert_eq!(inode::check_partly_filled(&mut s, "inode"), 0);
}

#[test]
fn row_security_of_a_plain_table_holds() {
    let (db, store, mut s, role) = archive_and_role("rls_plain", 1);
    s.exec("DROP TABLE source");
    inode::plain(&mut s, &store.put_synthetic(60));
    s.exec(&format!(
        "GRANT SELECT, UPDATE ON blob TO {role};
         ALTER TABLE blob ENABLE ROW LEVEL SECURITY;
         CREATE POLICY odd ON blob TO {role} USING (size % 2 = 1)"
    ));
    inode::remember(&mut s, "blob");
    let outcome = db.connect_as(&role).backfill("20, target => 'blob'");
    assert_eq!(outcome.rows_updated, 30);
    assert_eq!(
        s.count("SELECT count(*) FROM blob WHERE mime_type IS NOT NULL AND size % 2 = 0"),
        0
    );
    assert_eq!(inode::check_partly_filled(&mut s, "blob"), 30);
}

#[test]
fn row_security_of_a_partitioned_table_holds() {
    let (db, _store, mut s, role) = archive_and_role("rls_parent", 3);
    // The policy is on the parent, as the rows are reached through it; leaves have none of their own.
    s.exec(&format!(
        "GRANT SELECT, UPDATE ON inode, inode_m0, inode_m1, inode_m2 TO {role};
         ALTER TABLE inode ENABLE ROW LEVEL SECURITY;
         CREATE POLICY odd ON inode TO {role} USING (ino % 2 = 1)"
    ));
    let mut runner = db.connect_as(&role);
    let result = runner.call("20");
    let outside = s.count(
        "SELECT count(*) FROM inode JOIN before ON before.rest = to_jsonb(inode) - 'mime_type'
          WHERE inode.ino % 2 = 0 AND inode.mime_type IS DISTINCT FROM before.mime_type",
    );
    assert_eq!(
        outside, 0,
        "rows that the policy hides from the caller were updated"
    );
    // Either it fills what the caller may update, or it says that it can't.
    match result {
        Ok(outcome) => {
            assert!(outcome.rows_updated > 0 && inode::check_partly_filled(&mut s, "inode") > 0)
        }
        Err(e) => {
            let code = e.code().expect("a server's error").code().to_owned();
            assert!(
                ["42501", "0A000"].contains(&code.as_str()),
                "{}",
                ntt_mime_integration::session::describe(&e)
            );
        }
    }
}

#[test]
fn settings_that_reach_the_files_are_the_superusers() {
    let db = TestDb::new("settings");
    let role = db.role("user", "LOGIN");
    let mut s = db.connect();
    s.exec("LOAD 'ntt_mime'");
    let contexts =
        s.table("SELECT name, context FROM pg_settings WHERE name LIKE 'ntt_mime.%' ORDER BY 1");
    assert_eq!(
        contexts,
        [
            "ntt_mime.batch_delay|user",
            "ntt_mime.blob_root|superuser",
            "ntt_mime.cache_size|superuser",
            "ntt_mime.head_bytes|superuser",
            "ntt_mime.lock_timeout|user",
            "ntt_mime.prefilter|superuser",
            "ntt_mime.read_ahead|superuser",
            "ntt_mime.retry_failures_after|user",
            "ntt_mime.run_history|superuser",
            "ntt_mime.target|user",
            "ntt_mime.workers|user",
        ]
    );
    // The prefix is reserved: a misspelt setting is an error once the library is loaded.
    assert!(s.batch_execute("SET ntt_mime.blob_rot = '/x'").is_err());
    s.exec(&format!("SET ROLE {role}"));
    for name in [
        "blob_root",
        "cache_size",
        "head_bytes",
        "prefilter",
        "read_ahead",
        "run_history",
    ] {
        assert_error(
            s.batch_execute(&format!("SET ntt_mime.{name} = DEFAULT")),
            "42501",
            name,
        );
    }
    s.exec("SET ntt_mime.batch_delay = '10ms'; SET ntt_mime.workers = 3; RESET ROLE");
}

#[test]
fn everything_is_explained() {
    let db = TestDb::new("comments");
    let mut s = db.connect();
    s.exec("LOAD 'ntt_mime'");
    let settings = s.column(
        "SELECT name FROM pg_settings WHERE name LIKE 'ntt_mime.%'
            AND (coalesce(short_desc, '') = '' OR length(coalesce(extra_desc, '')) < 20)",
    );
    assert!(
        settings.is_empty(),
        "settings without a long description: {settings:?}"
    );
    let functions = s.column(&format!(
        "SELECT oid::regprocedure FROM pg_proc WHERE oid IN {} AND obj_description(oid, 'pg_proc') IS NULL",
        members("pg_proc")
    ));
    assert!(
        functions.is_empty(),
        "functions without a comment: {functions:?}"
    );
    let relations = s.column(&format!(
        "SELECT oid::regclass FROM pg_class WHERE oid IN {} AND relkind IN ('r', 'v')
            AND obj_description(oid, 'pg_class') IS NULL",
        members("pg_class")
    ));
    assert!(
        relations.is_empty(),
        "tables and views without a comment: {relations:?}"
    );
    let columns = s.table(&format!(
        "SELECT attrelid::regclass, attname FROM pg_attribute JOIN pg_class c ON c.oid = attrelid
          WHERE attrelid IN {} AND relkind IN ('r', 'v') AND attnum > 0 AND NOT attisdropped
            AND col_description(attrelid, attnum) IS NULL",
        members("pg_class")
    ));
    assert!(columns.is_empty(), "columns without a comment: {columns:?}");
    assert!(
        s.value::<Option<String>>(
            "SELECT obj_description('ntt_mime'::regnamespace, 'pg_namespace')"
        )
        .is_some()
    );
    assert!(
        s.value::<Option<String>>(
            "SELECT obj_description(oid, 'pg_extension') FROM pg_extension WHERE extname = 'ntt_mime'"
        )
        .is_some()
    );
}
