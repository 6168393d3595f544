//! Libraries that a session has loaded are also loaded by the workers of its runs: hooks of extensions that audit,
//! mask or explain are present there.

use std::fs;

use ntt_mime_integration::{Session, TestDb, assert_error, inode, scratch, server};

/// Has auto_explain, which a session has loaded already, log each statement.
const EXPLAIN_ALL: &str = "SET auto_explain.log_min_duration = 0; SET log_min_messages = log";

/// How many updates of workers auto_explain has put into the log since `before`; no other test has it do so. PostgreSQL
/// doesn't tell the database of a background worker there.
fn explained(db: &TestDb, before: usize) -> usize {
    let log = db.cluster.log();
    let entries = log[before..]
        .split("<> ntt_mime worker: LOG:  duration: ")
        .skip(1);
    entries
        .filter(|entry| {
            entry
                .lines()
                .nth(1)
                .is_some_and(|line| line.contains("UPDATE ONLY"))
        })
        .count()
}

/// Fills `inode`; returns how many of its updates were explained.
fn explained_of_a_run(db: &TestDb, s: &mut Session) -> usize {
    let before = db.cluster.log().len();
    let outcome = s.backfill("50");
    assert_eq!(outcome.rows_updated, inode::expected(s).rows);
    inode::check_filled(s, "inode");
    explained(db, before)
}

#[test]
fn libraries_of_the_session_are_loaded_in_workers() {
    let (db, _store, mut s) = inode::archive("libraries", 3, 60, 3);
    assert_eq!(explained_of_a_run(&db, &mut s), 0);

    let again = format!(
        "UPDATE inode SET mime_type = NULL WHERE mime_type <> '{}'",
        inode::KEPT
    );
    // By hand.
    s.exec(&again);
    s.exec(&format!("LOAD 'auto_explain'; {EXPLAIN_ALL}"));
    assert!(explained_of_a_run(&db, &mut s) >= 3);
    // As the database has it.
    s.exec(&format!(
        "ALTER DATABASE {} SET session_preload_libraries = 'auto_explain'",
        db.name
    ));
    let mut s = db.connect();
    s.exec(&again);
    s.exec(EXPLAIN_ALL);
    assert!(explained_of_a_run(&db, &mut s) >= 3);
}

#[test]
fn a_library_that_is_gone_is_not_done_without() {
    let (_db, _store, mut s) = inode::archive("library_gone", 2, 30, 2);
    let folder = scratch::folder("library");
    let library = folder.join("auto_explain_copy.so");
    let installed = server::pkglibdir().join("auto_explain.so");
    fs::copy(installed, &library).expect("contrib is installed");
    s.exec(&format!("LOAD '{}'", library.display()));
    fs::remove_file(&library).expect("ours");
    assert_error(s.call(""), "58P01", "auto_explain_copy.so");
    assert_eq!(
        s.table("SELECT status, rows_updated FROM ntt_mime.run"),
        ["failed|0"]
    );
}
