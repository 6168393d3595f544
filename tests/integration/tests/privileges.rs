//! What privileges allow: nothing to PUBLIC, detection to pg_read_server_files, monitoring to pg_monitor, a run to
//! roles that may execute it and update its target; and workers may do no more than their caller. What each role is
//! refused is in `isolation::who_may_do_what`.

use std::time::Duration;

use ntt_mime_integration::{SOON, Session, Store, TestDb, assert_error, inode, wait_until};

/// The extension's members of a catalogue, as a subquery of their oids.
fn members(catalogue: &str) -> String {
    format!(
        "(SELECT objid FROM pg_depend WHERE deptype = 'e' AND classid = 'pg_catalog.{catalogue}'::regclass
             AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'ntt_mime'))"
    )
}

/// A partitioned `inode` with 200 pending rows, and a role that may execute the procedure.
fn archive_and_role(name: &str, leaves: usize) -> (TestDb<'static>, Store, Session, String) {
    let (db, store, mut s) = inode::archive(name, leaves, 100, 2);
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
}

#[test]
fn pg_read_server_files_detects() {
    let (db, store, _s) = TestDb::with_store("analyst");
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
}

#[test]
fn pg_monitor_watches() {
    let (db, store, mut s) = TestDb::with_store("monitor");
    inode::plain(&mut s, &store.put_synthetic(500));
    s.exec("SET ntt_mime.batch_delay = '1min'");
    let role = db.role("monitor", "LOGIN IN ROLE pg_monitor");
    let mut monitor = db.connect_as(&role);
    // A run of another role, while it goes on and after its end.
    let running = s.call_in_background("50, target => 'blob', workers => 1");
    let run_id = monitor.wait_for_run();
    let progress = "SELECT run_id, pid, target, rows_updated FROM ntt_mime.progress";
    let shown = format!("{run_id}|{}|public.blob|50", running.pid);
    wait_until(SOON, "its first batch to be shown", || {
        monitor.table(progress) == [shown.as_str()]
    });
    running.cancel();
    assert_error(running.finish().1, "57014", "cancel");
    assert!(monitor.table(progress).is_empty());
    assert_eq!(
        monitor.run_row(run_id, "status, rows_updated"),
        "cancelled|50"
    );
}

#[test]
fn what_an_update_of_the_target_asks_for_is_enough() {
    let (db, _store, mut s, role) = archive_and_role("columns", 3);
    s.exec(&format!(
        "GRANT SELECT (blobid, mime_type), UPDATE (mime_type) ON inode TO {role}"
    ));
    let mut runner = db.connect_as(&role);
    let outcome = runner.backfill("50");
    inode::check_filled(&mut s, "inode");
    assert_eq!(outcome.rows_updated, inode::expected(&mut s).rows);
    // It can't read anything else, nor what the run wrote.
    for sql in [
        "SELECT medium_hash FROM inode",
        "SELECT ctid FROM inode",
        "SELECT blobid FROM inode_m0",
        "TABLE ntt_mime.run",
    ] {
        assert_error(runner.batch_execute(sql), "42501", "permission denied");
    }
}

#[test]
fn a_run_asks_for_what_an_update_of_the_target_asks_for() {
    let (db, _store, mut s, role) = archive_and_role("asked", 2);
    let mut runner = db.connect_as(&role);
    let lacking = [
        (
            "",
            r#"the SELECT privilege on columns "blobid" and "mime_type" and the UPDATE privilege on column "mime_type" of"#,
        ),
        (
            "UPDATE",
            r#"the SELECT privilege on columns "blobid" and "mime_type" of"#,
        ),
        (
            "SELECT (blobid), UPDATE",
            r#"the SELECT privilege on column "mime_type" of"#,
        ),
        (
            "SELECT (mime_type), UPDATE (mime_type)",
            r#"the SELECT privilege on column "blobid" of"#,
        ),
        (
            "SELECT, UPDATE (blobid)",
            r#"the UPDATE privilege on column "mime_type" of"#,
        ),
    ];
    for (granted, needed) in lacking {
        s.exec(&format!("REVOKE ALL ON inode FROM {role}"));
        if !granted.is_empty() {
            s.exec(&format!("GRANT {granted} ON inode TO {role}"));
        }
        assert_error(
            runner.execute(
                "UPDATE inode SET mime_type = 'x' WHERE blobid = 'x' AND mime_type IS NULL",
                &[],
            ),
            "42501",
            "permission denied for table inode",
        );
        for dry_run in ["false", "true"] {
            let error = assert_error(
                runner.call(&format!("50, dry_run => {dry_run}")),
                "42501",
                "permission denied for table public.inode",
            );
            let needed = format!("Role \"{role}\" must have {needed} the table.");
            assert_eq!(error.detail(), Some(needed.as_str()), "{granted}");
        }
    }
    // The table can be named, which asks for nothing, and not looked up.
    s.exec(&format!(
        "GRANT SELECT, UPDATE ON inode TO {role}; CREATE SCHEMA hidden; ALTER TABLE inode SET SCHEMA hidden"
    ));
    let oid = s.column("SELECT 'hidden.inode'::regclass::oid").remove(0);
    assert_error(
        runner.call(&format!("50, target => {oid}::regclass")),
        "42501",
        "permission denied for schema hidden",
    );
    assert_eq!(s.count("SELECT count(*) FROM ntt_mime.run"), 0);
    assert_eq!(inode::check_partly_filled(&mut s, "hidden.inode"), 0);
}

#[test]
fn nothing_is_asked_for_on_a_leaf_or_its_schema() {
    let (db, _store, mut s, role) = archive_and_role("hidden", 4);
    // Leaves with a condition, a policy and a function in an index of their own: all of it is looked at when a
    // statement is analyzed or planned. What is computed is computed as the caller.
    let other = db.role("other", "NOLOGIN");
    s.exec(&format!(
        "GRANT SELECT (blobid, mime_type), UPDATE (mime_type) ON inode TO {role};
         CREATE SCHEMA hidden; CREATE SCHEMA hers AUTHORIZATION {other};
         ALTER TABLE inode_m1 SET SCHEMA hidden;
         ALTER TABLE inode_m2 SET SCHEMA hidden;
         ALTER TABLE hidden.inode_m2 ENABLE ROW LEVEL SECURITY;
         ALTER TABLE hidden.inode_m2 FORCE ROW LEVEL SECURITY;
         CREATE FUNCTION whose(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS
             $$BEGIN IF session_user = '{role}' AND current_user <> session_user THEN
                   RAISE 'asked as %', current_user; END IF; RETURN $1; END$$;
         ALTER TABLE inode_m3 SET SCHEMA hers; ALTER TABLE hers.inode_m3 OWNER TO {other};
         CREATE INDEX ON hers.inode_m3 (blobid) WHERE public.whose('x') = 'x'"
    ));
    let mut runner = db.connect_as(&role);
    runner.exec("SET ntt_mime.batch_delay = '30ms'; SET client_min_messages = 'error'");
    assert_error(
        runner.batch_execute("SELECT FROM hidden.inode_m1"),
        "42501",
        "permission denied for schema hidden",
    );
    let running = runner.call_in_background("5");
    // Meanwhile another leaf goes where the role can't look, and one where its owner can't; and statistics make PostgreSQL
    // analyze and plan the statements again.
    wait_until(SOON, "the run to have filled a few rows", || {
        s.count("SELECT count(*) FROM inode WHERE mime_type IS NOT NULL") > 40
    });
    s.exec(&format!(
        "SET lock_timeout = '10s';
         CREATE SCHEMA later; ALTER TABLE inode_m0 SET SCHEMA later; REVOKE USAGE ON SCHEMA hers FROM {other}"
    ));
    while !running.is_finished() {
        s.exec("ANALYZE later.inode_m0, hidden.inode_m1, hidden.inode_m2, hers.inode_m3");
        std::thread::sleep(Duration::from_millis(20));
    }
    running.succeed();
    inode::check_filled(&mut s, "inode");
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
        "GRANT SELECT, UPDATE ON inode TO {role};
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
    s.exec(&format!("GRANT SELECT, UPDATE ON inode TO {role}"));
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
