//! Every error that a caller of the procedure can meet: its SQLSTATE, its words, and that nothing is left behind.

use std::time::Duration;

use ntt_mime_integration::{Cluster, Session, Store, TestDb, assert_error, inode, wait_until};

/// A session with a plain target `blob` of 20 pending rows.
fn plain_target(name: &str) -> (TestDb<'static>, Store, Session) {
    let db = TestDb::new(name);
    let store = Store::new();
    db.use_store(&store);
    let mut s = db.connect();
    inode::plain(&mut s, &store.put_synthetic(20));
    db.connect().exec(&format!(
        "ALTER DATABASE {} SET ntt_mime.target = 'blob'",
        db.name
    ));
    let s = db.connect();
    (db, store, s)
}

/// A refused CALL leaves no running run, no lock and no worker: the next one works.
#[track_caller]
fn check_nothing_left(db: &TestDb, s: &mut Session) {
    assert_eq!(
        s.count("SELECT count(*) FROM ntt_mime.run WHERE status = 'running'"),
        0
    );
    assert_eq!(s.count("SELECT count(*) FROM ntt_mime.progress"), 0);
    let locks = s.count("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())");
    assert_eq!(locks, 0, "advisory locks");
    assert_eq!(db.workers(s), 0);
    assert!(
        s.count("SELECT count(*) FROM blob WHERE mime_type IS NULL") > 0,
        "the rows are still pending"
    );
}

#[test]
fn bad_arguments() {
    let (db, _store, mut s) = plain_target("arguments");
    for (arguments, name) in [
        ("0", "batch_size"),
        ("-1", "batch_size"),
        ("1000001", "batch_size"),
        ("NULL", "batch_size"),
        ("workers => 0", "workers"),
        ("workers => -1", "workers"),
        ("max_blobs => 0", "max_blobs"),
        ("max_blobs => -1", "max_blobs"),
    ] {
        println!("{arguments}");
        assert_error(s.call(arguments), "22023", name);
    }
    check_nothing_left(&db, &mut s);
    // The limits themselves are allowed.
    assert_eq!(s.backfill("1000000").rows_updated, 20);
}

#[test]
fn targets_of_the_wrong_kind() {
    let (db, _store, mut s) = plain_target("kinds");
    s.exec(
        "CREATE VIEW a_view AS SELECT blobid, mime_type FROM blob;
         CREATE MATERIALIZED VIEW a_matview AS SELECT blobid, mime_type FROM blob;
         CREATE SEQUENCE a_sequence;
         CREATE INDEX an_index ON blob (size);
         CREATE TYPE a_type AS (blobid text, mime_type text);
         CREATE FOREIGN DATA WRAPPER a_wrapper;
         CREATE SERVER a_server FOREIGN DATA WRAPPER a_wrapper;
         CREATE FOREIGN TABLE a_foreign_table (blobid text, mime_type text) SERVER a_server;
         CREATE TABLE blobid_is_bytea (blobid bytea, mime_type text);
         CREATE TABLE blobid_is_int (blobid int, mime_type text);
         CREATE TABLE mime_type_is_int (blobid text, mime_type int);
         CREATE TABLE mime_type_is_array (blobid text, mime_type text[]);
         CREATE TEMPORARY TABLE a_temporary_table (blobid text, mime_type text)",
    );
    for target in [
        "a_view",
        "a_matview",
        "a_sequence",
        "an_index",
        "a_type",
        "a_foreign_table",
        "blobid_is_bytea",
        "blobid_is_int",
        "mime_type_is_int",
        "mime_type_is_array",
        // Workers are other backends: they can't see it.
        "a_temporary_table",
    ] {
        println!("{target}");
        assert_error(s.call(&format!("target => '{target}'")), "42809", target);
        assert_error(
            s.call(&format!("target => '{target}', dry_run => true")),
            "42809",
            target,
        );
    }
    check_nothing_left(&db, &mut s);
}

#[test]
fn targets_without_the_columns() {
    let (db, _store, mut s) = plain_target("columns_missing");
    s.exec(
        r#"CREATE TABLE no_blobid (mime_type text);
           CREATE TABLE no_mime_type (blobid text);
           CREATE TABLE dropped (blobid text, mime_type text, other int);
           ALTER TABLE dropped DROP COLUMN mime_type;
           CREATE TABLE upper_case ("BLOBID" text, "MIME_TYPE" text)"#,
    );
    for (target, column) in [
        ("no_blobid", "blobid"),
        ("no_mime_type", "mime_type"),
        ("dropped", "mime_type"),
        ("upper_case", "blobid"),
    ] {
        println!("{target}");
        let error = assert_error(s.call(&format!("target => '{target}'")), "42703", column);
        assert!(
            ntt_mime_integration::errors::words(&error).contains(target),
            "names the table"
        );
    }
    check_nothing_left(&db, &mut s);
}

#[test]
fn targets_that_are_not_there() {
    let (db, _store, mut s) = plain_target("nowhere");
    s.exec("SET ntt_mime.target = 'no_such_table'");
    assert_error(s.call(""), "42P01", "no_such_table");
    s.exec("SET ntt_mime.target = 'no_such_schema.blob'");
    let error = s.call("").expect_err("no such schema");
    assert!(
        ["42P01", "3F000"].contains(&error.code().expect("a server's error").code()),
        "{error:?}"
    );
    for nonsense in ["", "a b c", "blob; DROP TABLE blob", "\"blob"] {
        s.exec(&format!(
            "SET ntt_mime.target = '{}'",
            nonsense.replace('\'', "''")
        ));
        let error = s.call("").expect_err("nonsense");
        let code = error.code().expect("a server's error").code().to_owned();
        assert!(
            ["42P01", "42602", "22023", "42601"].contains(&code.as_str()),
            "{nonsense:?}: {code}"
        );
    }
    assert_error(
        s.call("target => 'no_such_table'"),
        "42P01",
        "no_such_table",
    );
    s.exec("RESET ntt_mime.target");
    let vanished = s
        .call("target => 999999999::oid::regclass")
        .expect_err("no relation has this oid");
    assert_eq!(vanished.code().expect("a server's error").code(), "42P01");
    check_nothing_left(&db, &mut s);
}

#[test]
fn stores_that_are_not_there() {
    let (db, store, mut s) = plain_target("stores");
    s.exec("LOAD 'ntt_mime'");
    let file = store.path(&store.put(b"a file"));
    let file = file.to_str().expect("plain").to_owned();
    let good = store.root_str().to_owned();
    for (root, word) in [
        (String::new(), "blob_root"),
        ("relative/path".into(), "relative/path"),
        ("/no/such/folder".into(), "/no/such/folder"),
        (file.clone(), file.as_str()),
        (format!("{good}:/no/such/folder"), "/no/such/folder"),
        (format!("/no/such/folder:{good}"), "/no/such/folder"),
        (format!("{good}:"), "blob_root"),
    ] {
        println!("{root:?}");
        // A root that can't be right may be refused when it is set, or when it is used.
        let refused = s.batch_execute(&format!("SET ntt_mime.blob_root = '{root}'"));
        if let Err(e) = refused {
            println!(
                "  refused by SET: {}",
                ntt_mime_integration::session::describe(&e)
            );
            assert_eq!(e.code().expect("a server's error").code(), "22023");
            continue;
        }
        assert_error(s.call(""), "58P01", word);
        assert_error(s.call("dry_run => true"), "58P01", word);
    }
    check_nothing_left(&db, &mut s);
    // A root that nobody but its owner may enter.
    if ntt_mime_integration::server::is_root() {
        let closed = Store::new();
        closed.put(b"x");
        std::fs::set_permissions(
            closed.root(),
            std::os::unix::fs::PermissionsExt::from_mode(0o700),
        )
        .expect("ours");
        s.exec(&format!("SET ntt_mime.blob_root = '{}'", closed.root_str()));
        let error = s.call("").expect_err("not 20 failures");
        let code = error.code().expect("a server's error").code().to_owned();
        assert!(
            ["58P01", "42501"].contains(&code.as_str()),
            "{}",
            ntt_mime_integration::session::describe(&error)
        );
        check_nothing_left(&db, &mut s);
    }
    s.exec("RESET ntt_mime.blob_root");
    assert_eq!(s.backfill("").rows_updated, 20);
}

/// CALL as PL/pgSQL wants it: output parameters are variables.
const BLOCK: &str = "
    DECLARE r bigint; b bigint; u bigint; f bigint; e interval;
    BEGIN
        CALL ntt_backfill_mime(run_id => r, blobs => b, rows_updated => u, failures => f, elapsed => e);
    END";

#[test]
fn inside_a_transaction_or_a_function() {
    let (db, _store, mut s) = plain_target("atomic");
    s.exec(&format!(
        "CREATE FUNCTION in_a_function() RETURNS void LANGUAGE plpgsql AS $${BLOCK}$$"
    ));
    for sql in [
        "BEGIN; CALL ntt_backfill_mime()",
        "SELECT in_a_function()",
        "DO 'BEGIN PERFORM in_a_function(); END'",
        &format!("BEGIN; DO $${BLOCK}$$"),
        // Several statements in one message are one transaction: pg_cron's trap.
        "SELECT 1; CALL ntt_backfill_mime()",
    ] {
        println!("{sql}");
        let error = assert_error(s.batch_execute(sql), "2D000", "");
        assert!(error.hint().is_some_and(|hint| !hint.is_empty()), "a hint");
        s.exec("ROLLBACK");
    }
    check_nothing_left(&db, &mut s);
}

#[test]
fn inside_a_do_block() {
    // A DO block outside a transaction isn't atomic, but it is an anonymous function all the same.
    let (db, _store, mut s) = plain_target("do_block");
    let error = assert_error(s.batch_execute(&format!("DO $${BLOCK}$$")), "2D000", "");
    assert!(error.hint().is_some_and(|hint| !hint.is_empty()), "a hint");
    check_nothing_left(&db, &mut s);
}

#[test]
fn a_second_call_on_the_same_target() {
    let (db, _store, mut s) = plain_target("second");
    let mut first = db.connect();
    first.exec("SET ntt_mime.batch_delay = '500ms'");
    let first = first.call_in_background("1");
    let run_id: i64 =
        ntt_mime_integration::wait_for(Duration::from_secs(20), "the first run", || {
            s.query_opt("SELECT run_id FROM ntt_mime.progress", &[])
                .expect("reads")
                .map(|row| row.get(0))
        });
    for arguments in [
        "",
        "target => 'blob'",
        "dry_run => true, target => 'public.blob'",
    ] {
        let error = assert_error(s.call(arguments), "55006", "blob");
        let words = ntt_mime_integration::errors::words(&error);
        assert!(
            words.contains(&first.pid.to_string()),
            "the pid {} is not in: {words}",
            first.pid
        );
        let without_pid = words.replace(&first.pid.to_string(), "");
        assert!(
            without_pid.contains(&run_id.to_string()),
            "the run_id {run_id} is not in: {words}"
        );
    }
    assert!(!first.is_finished());
    assert_eq!(
        s.count("SELECT count(*) FROM ntt_mime.run"),
        1,
        "a refused call makes no run"
    );
    first.succeed();
    assert_eq!(inode::pending(&mut s, "blob"), 0);
    s.backfill("");
}

#[test]
fn without_privileges() {
    let (db, _store, mut s) = plain_target("privileges");
    let role = db.role("nobody", "LOGIN");
    let mut nobody = db.connect_as(&role);
    assert_error(nobody.call(""), "42501", "ntt_backfill_mime");
    s.exec(&format!(
        "GRANT EXECUTE ON PROCEDURE ntt_backfill_mime TO {role}"
    ));
    assert_error(nobody.call(""), "42501", "blob");
    s.exec(&format!("GRANT SELECT ON blob TO {role}"));
    assert_error(nobody.call(""), "42501", "blob");
    assert_error(nobody.call("dry_run => true"), "42501", "blob");
    check_nothing_left(&db, &mut s);
    assert_eq!(s.count("SELECT count(*) FROM ntt_mime.run"), 0);
    s.exec(&format!("GRANT UPDATE ON blob TO {role}"));
    assert_eq!(nobody.backfill("").rows_updated, 20);
}

#[test]
fn without_worker_slots() {
    let cluster = Cluster::start(&[
        ("max_worker_processes", "0"),
        ("max_logical_replication_workers", "0"),
    ]);
    let db = TestDb::on(&cluster, "slots");
    let store = Store::new();
    db.use_store(&store);
    let mut s = db.connect();
    inode::plain(&mut s, &store.put_synthetic(200));
    inode::remember(&mut s, "blob");
    s.exec(&format!(
        "ALTER DATABASE {} SET ntt_mime.target = 'blob'",
        db.name
    ));
    let mut s = db.connect();
    let error = assert_error(s.call("10"), "53400", "worker");
    assert!(
        error
            .hint()
            .is_some_and(|hint| hint.contains("max_worker_processes")),
        "{:?}",
        error.hint()
    );
    check_nothing_left(&db, &mut s);
    drop(s);

    // Fewer than asked for: it goes on with those and says so.
    cluster.configure(&[("max_worker_processes", "2")]);
    cluster.restart();
    let mut s = db.connect();
    let outcome = s.backfill("10, workers => 5");
    inode::check_filled(&mut s, "blob");
    assert_eq!(
        s.count(&format!(
            "SELECT workers::bigint FROM ntt_mime.run WHERE run_id = {}",
            outcome.run_id
        )),
        2
    );
    let notices = s.take_notices();
    assert!(
        notices.iter().any(|n| n.words.contains('2')
            && n.words.contains('5')
            && n.words.contains("max_worker_processes")),
        "2 of 5 workers, and max_worker_processes: {notices:#?}"
    );
    wait_until(Duration::from_secs(5), "no workers", || {
        db.workers(&mut s) == 0
    });
}

#[test]
fn on_a_standby() {
    let primary = Cluster::start(&[]);
    let db = TestDb::on(&primary, "standby");
    let store = Store::new();
    db.use_store(&store);
    let mut s = db.connect();
    let blobids = store.put_synthetic(20);
    inode::plain(&mut s, &blobids);
    let standby = primary.standby(&[]);
    let mut there = standby.connect(&db.name, "postgres");
    assert!(there.value::<bool>("SELECT pg_is_in_recovery()"));
    assert_error(there.call("target => 'blob'"), "25006", "recovery");
    assert_error(
        there.call("target => 'blob', dry_run => true"),
        "25006",
        "recovery",
    );
    // Detecting works there.
    let query = "SELECT blobid, ntt_detect_mime(blobid), status, bytes_read FROM blob, LATERAL ntt_inspect_blob(blobid) ORDER BY 1";
    let answers = there.table(query);
    assert_eq!(answers.len(), 20);
    assert!(
        answers.iter().all(|line| line.contains("|ok|")),
        "{answers:#?}"
    );
    assert_eq!(answers, s.table(query));
    assert_eq!(there.count("SELECT count(*) FROM ntt_mime_version()"), 1);
    assert_eq!(there.count("SELECT count(*) FROM ntt_mime.progress"), 0);
    drop(there);
    drop(standby);
}
