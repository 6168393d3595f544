//! Every error that a caller of the procedure can meet: its SQLSTATE, its text, and that nothing is left behind.

use std::time::Duration;

use ntt_mime_integration::server::major_version;
use ntt_mime_integration::{Cluster, Session, Store, TestDb, assert_error, errors::words, inode};

/// A session with a plain target `blob` of 20 pending rows.
fn plain_target(name: &str) -> (TestDb<'static>, Store, Session) {
    let (db, store, mut s) = TestDb::with_store(name);
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
        ("workers => 1025", "workers"),
        ("max_blobs => 0", "max_blobs"),
        ("max_blobs => -1", "max_blobs"),
        ("dry_run => NULL", "dry_run"),
        ("retry_failed => NULL", "retry_failed"),
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
    for (target, kind) in [
        ("a_view", "it is a view"),
        ("a_matview", "it is a materialized view"),
        ("a_sequence", "it is a sequence"),
        ("an_index", "it is an index"),
        ("a_type", "it is a composite type"),
        ("a_foreign_table", "it is a foreign table"),
        ("blobid_is_bytea", "it is of type bytea"),
        ("blobid_is_int", "it is of type integer"),
        ("mime_type_is_int", "it is of type integer"),
        ("mime_type_is_array", "it is of type text[]"),
        ("a_temporary_table", "cannot fill temporary table"),
    ] {
        println!("{target}");
        for more in ["", ", dry_run => true"] {
            let call = format!("target => '{target}'{more}");
            let error = assert_error(s.call(&call), "42809", kind);
            assert!(error.message().contains(target), "{}", error.message());
        }
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
        assert!(words(&error).contains(target), "names the table");
    }
    check_nothing_left(&db, &mut s);
}

#[test]
fn targets_that_are_not_there() {
    let (db, _store, mut s) = plain_target("nowhere");
    s.exec("SET ntt_mime.target = 'no_such_table'");
    assert_error(s.call(""), "42P01", "no_such_table");
    s.exec("SET ntt_mime.target = 'no_such_schema.blob'");
    assert_error(s.call(""), "42P01", "no_such_schema.blob");
    s.exec("SET ntt_mime.target = ''");
    assert_error(s.call(""), "42P01", "no target table specified");
    for nonsense in ["a b c", "blob; DROP TABLE blob", "\"blob"] {
        s.exec(&format!("SET ntt_mime.target = '{nonsense}'"));
        // From PostgreSQL 16 on, to_regclass() doesn't raise an error for something that can't be a name.
        let (sqlstate, word) = match major_version() {
            16.. => ("42P01", nonsense),
            _ => ("42602", "invalid name syntax"),
        };
        assert_error(s.call(""), sqlstate, word);
    }
    assert_error(
        s.call("target => 'no_such_table'"),
        "42P01",
        "no_such_table",
    );
    s.exec("RESET ntt_mime.target");
    assert_error(
        s.call("target => 999999999::oid::regclass"),
        "42P01",
        "999999999",
    );
    check_nothing_left(&db, &mut s);
}

/// CALL in PL/pgSQL: output parameters are variables.
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
        // Several statements in one message are one transaction, which is a trap with pg_cron.
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
fn inside_a_do_block_or_a_procedure() {
    // Outside a transaction these aren't atomic, but they are functions all the same.
    let (db, _store, mut s) = plain_target("do_block");
    s.exec(&format!(
        "CREATE PROCEDURE in_a_procedure() LANGUAGE plpgsql AS $${BLOCK}$$"
    ));
    for sql in [
        "CALL in_a_procedure()",
        "DO 'BEGIN CALL in_a_procedure(); END'",
        &format!("DO $${BLOCK}$$"),
    ] {
        println!("{sql}");
        let error = assert_error(s.batch_execute(sql), "2D000", "a procedure, or a DO block");
        assert!(error.hint().is_some_and(|hint| !hint.is_empty()), "a hint");
    }
    check_nothing_left(&db, &mut s);
}

/// PostgreSQL's own messages have no quotes within quotes either.
#[test]
fn names_that_need_quotes_are_quoted_once() {
    let (db, _store, mut s) = plain_target("quotes");
    s.exec(
        r#"CREATE SCHEMA "My Schema";
           CREATE VIEW "My Schema"."A View" AS SELECT * FROM blob;
           CREATE TABLE "My Schema"."No Columns" ();
           CREATE TABLE "My Schema"."A Number" (blobid int, mime_type text);
           CREATE TEMPORARY TABLE "Of Mine" (blobid text, mime_type text);
           CREATE TABLE "My Schema"."My Table" (blobid text, mime_type text);
           INSERT INTO "My Schema"."My Table" SELECT blobid FROM blob"#,
    );
    for (target, sqlstate, message) in [
        (
            r#""My Schema"."A View""#,
            "42809",
            r#""My Schema.A View" is not a table"#,
        ),
        (
            r#""My Schema"."No Columns""#,
            "42703",
            r#"column "blobid" of relation "My Schema.No Columns" does not exist"#,
        ),
        (
            r#""My Schema"."A Number""#,
            "42809",
            r#"column "blobid" of relation "My Schema.A Number" must be of type text or character varying"#,
        ),
        (r#""Of Mine""#, "42809", r#".Of Mine""#),
        (
            r#""My Schema"."No ""Such"" Table""#,
            "42P01",
            r#"relation "My Schema.No "Such" Table" does not exist"#,
        ),
    ] {
        println!("{target}");
        s.exec(&format!("SET ntt_mime.target = '{target}'"));
        let error = assert_error(s.call(""), sqlstate, message);
        assert!(error.message().ends_with(message), "{}", error.message());
    }

    // With and without quotes around it.
    s.exec(r#"SET ntt_mime.target = '"My Schema"."My Table"'"#);
    let mut first = db.connect();
    first.exec(
        r#"SET ntt_mime.batch_delay = '200ms'; SET ntt_mime.target = '"My Schema"."My Table"'"#,
    );
    let first = first.call_in_background("1");
    s.wait_for_run();
    assert_error(
        s.call(""),
        "55006",
        r#"a backfill or verification of "My Schema.My Table" is already running"#,
    );
    assert_eq!(
        s.column("SELECT target FROM ntt_mime.progress"),
        [r#""My Schema"."My Table""#]
    );
    first.succeed();
    let reader = db.role("reader", "LOGIN");
    s.exec(&format!(
        r#"GRANT EXECUTE ON PROCEDURE ntt_backfill_mime TO {reader}; GRANT USAGE ON SCHEMA "My Schema" TO {reader}"#
    ));
    let mut session = db.connect_as(&reader);
    session.exec(r#"SET ntt_mime.target = '"My Schema"."My Table"'"#);
    assert_error(
        session.call(""),
        "42501",
        r#"permission denied for table "My Schema"."My Table""#,
    );
    check_nothing_left(&db, &mut s);
}

#[test]
fn a_second_call_on_the_same_target() {
    let (db, _store, mut s) = plain_target("second");
    let mut first = db.connect();
    first.exec("SET ntt_mime.batch_delay = '500ms'");
    let first = first.call_in_background("1");
    let run_id = s.wait_for_run();
    for arguments in [
        "",
        "target => 'blob'",
        "dry_run => true, target => 'public.blob'",
    ] {
        let who = format!("(pid {}, run_id {run_id})", first.pid);
        let error = assert_error(s.call(arguments), "55006", &who);
        assert!(words(&error).contains("public.blob"), "names the table");
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

/// Who may do what is tested in `isolation::who_may_do_what`.
#[test]
fn with_the_right_to_read_and_not_to_update() {
    let (db, _store, mut s) = plain_target("privileges");
    let reader = db.role("reader", "LOGIN");
    s.exec(&format!(
        "GRANT EXECUTE ON PROCEDURE ntt_backfill_mime TO {reader}; GRANT SELECT ON blob TO {reader}"
    ));
    let mut session = db.connect_as(&reader);
    for arguments in ["", "dry_run => true"] {
        let error = assert_error(session.call(arguments), "42501", "public.blob");
        assert!(words(&error).contains(&reader), "names the role");
    }
    check_nothing_left(&db, &mut s);
    assert_eq!(s.count("SELECT count(*) FROM ntt_mime.run"), 0);
}

#[test]
fn without_worker_slots() {
    let cluster = Cluster::start(&[
        ("max_worker_processes", "0"),
        ("max_logical_replication_workers", "0"),
    ]);
    let (db, store, mut s) = TestDb::with_store_on(&cluster, "slots");
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

    // Fewer than requested: it goes on with those and says so.
    cluster.configure(&[("max_worker_processes", "2")]);
    cluster.restart();
    let mut s = db.connect();
    let outcome = s.backfill("10, workers => 5");
    inode::check_filled(&mut s, "blob");
    assert_eq!(s.run_counter(outcome.run_id, "workers"), 2);
    let warnings = s.take_warnings();
    assert_eq!(
        warnings,
        [
            "only 2 of 5 background workers could be started | The run goes on with fewer. | \
             You might need to increase max_worker_processes."
        ]
    );
    db.wait_for_no_workers(Duration::from_secs(5));
}

#[test]
fn no_error_has_frames_whatever_the_environment() {
    let cluster = Cluster::start_in(
        &[("RUST_BACKTRACE", "1"), ("RUST_LIB_BACKTRACE", "full")],
        &[],
    );
    let (_db, _store, mut s) = inode::archive_on(&cluster, "frames", 2, 20, 2);
    let mut errors = vec![
        // One of ours, raised by a function and by the procedure.
        assert_error(s.batch_execute("SELECT ntt_detect_mime('x')"), "22023", ""),
        assert_error(s.call("0"), "22023", "batch_size"),
        assert_error(
            s.batch_execute("BEGIN; CALL ntt_backfill_mime()"),
            "2D000",
            "",
        ),
    ];
    // One of PostgreSQL's, propagated through our frames.
    s.exec("ROLLBACK; SET default_transaction_read_only = on");
    errors.push(assert_error(s.call(""), "25006", "read-only"));
    s.exec("RESET default_transaction_read_only; SET statement_timeout = '100ms'; SET ntt_mime.batch_delay = '1s'");
    errors.push(assert_error(s.call(""), "57014", "statement timeout"));
    s.exec(
        "RESET ALL; UPDATE inode SET mime_type = NULL;
         CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN RAISE 'not today' USING DETAIL = 'None of it.'; END $$;
         CREATE TRIGGER refuse BEFORE UPDATE ON inode FOR EACH ROW EXECUTE FUNCTION refuse()",
    );
    // One of a worker, which the leader raises again.
    errors.push(assert_error(s.call(""), "P0001", "not today"));
    for error in errors {
        let detail = error.detail().unwrap_or_default();
        assert!(!detail.contains("0: "), "{detail}");
    }
    assert!(
        !cluster.log().contains("rust_begin_unwind"),
        "frames in the log"
    );
}
