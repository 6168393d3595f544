//! Leaves with rows whose blobs can't be detected: they are skipped as long as these blobs would be.

use ntt_mime_integration::store::{absent_blobid, blobid_of};
use ntt_mime_integration::{Session, Store, TestDb, inode};

use super::skipped;

const MISSING: &[u8] = b"%PDF-1.4\n% not there yet\n";

/// Two plain tables with a row of the same missing blob each, and ten others; both have been filled.
fn missing(name: &str) -> (TestDb<'static>, Store, Session) {
    let (db, store, mut s) = TestDb::with_store(name);
    let mut blobids = store.put_synthetic(10);
    blobids.push(blobid_of(MISSING));
    inode::plain(&mut s, &blobids);
    s.exec("CREATE TABLE second AS TABLE blob; SET ntt_mime.target = 'blob'");
    let outcome = s.backfill("");
    assert_eq!((outcome.rows_updated, outcome.failures), (10, 1));
    s.backfill("target => 'second'");
    assert_eq!(skipped(&mut s), 1);
    (db, store, s)
}

#[test]
fn are_passed_over_and_counted_as_left() {
    let (_db, _store, mut s) = missing("marks_missing");
    let outcome = s.backfill("");
    // They count as they do where its leaf is looked at.
    assert_eq!(outcome.failures, 1);
    assert_eq!(
        s.run_row(
            outcome.run_id,
            "status, rows_scanned, rows_left, blobs, failures, options->>'leaves_skipped'"
        ),
        "succeeded|0|1|1|1|1"
    );
    // Of runs that find nothing to do, one after the other, the last one is kept.
    let again = s.backfill("").run_id;
    assert_eq!(
        s.column(&format!(
            "SELECT run_id FROM ntt_mime.run WHERE run_id >= {} AND target = 'public.blob'",
            outcome.run_id
        )),
        [again.to_string()]
    );
    // Whoever deletes the row is noticed, since the number of rows left is another one.
    s.exec("DELETE FROM blob WHERE mime_type IS NULL");
    let outcome = s.backfill("");
    assert_eq!(s.run_row(outcome.run_id, "rows_left"), "0");
    assert_eq!(skipped(&mut s), 1);
}

#[test]
fn a_blob_is_counted_once_whatever_leaves_have_rows_of_it() {
    let (_db, store, mut s) = TestDb::with_store("marks_counted");
    let mut blobids = store.put_synthetic(20);
    blobids.extend([absent_blobid(1), absent_blobid(2), "no blobid".to_owned()]);
    inode::partitioned(&mut s, 3);
    inode::load_source(&mut s, &blobids);
    s.exec(
        "INSERT INTO inode (medium_hash, ino, blobid)
         SELECT 'm' || leaf, n, blobid FROM source, generate_series(0, 2) leaf",
    );
    assert_eq!(s.backfill("1000").failures, 3);
    assert_eq!(skipped(&mut s), 3);
    // One leaf is looked at, and has one more.
    s.exec(&format!(
        "INSERT INTO inode (medium_hash, ino, blobid) VALUES ('m1', 1000, '{}')",
        absent_blobid(3)
    ));
    let outcome = s.backfill("1000");
    assert_eq!((outcome.blobs, outcome.failures), (4, 4));
    assert_eq!(
        s.run_row(outcome.run_id, "rows_left, options->>'leaves_skipped'"),
        "10|2"
    );
    assert_eq!(s.backfill("1000").failures, 4);
}

#[test]
fn are_tried_again_as_ever() {
    for (what, sql, arguments) in [
        ("asked for", "", "retry_failed => true"),
        (
            "old by the setting",
            "SET ntt_mime.retry_failures_after = 0",
            "",
        ),
        (
            "old by the record",
            "UPDATE ntt_mime.failure SET last_seen = last_seen - interval '2 days'",
            "",
        ),
        (
            "deleted from the record",
            "DELETE FROM ntt_mime.failure",
            "",
        ),
        ("truncated", "TRUNCATE ntt_mime.failure", ""),
        (
            "in another root",
            "SET ntt_mime.blob_root = '{root}'; DELETE FROM ntt_mime.failure",
            "",
        ),
    ] {
        let (_db, store, mut s) = missing("marks_retried");
        store.put(MISSING);
        assert_eq!(skipped(&mut s), 1, "{what}: not yet");
        s.exec(&sql.replace("{root}", store.root_str()));
        assert_eq!(s.backfill(arguments).rows_updated, 1, "{what}");
        assert_eq!(inode::pending(&mut s, "blob"), 0);
        s.exec("RESET ntt_mime.retry_failures_after");
        // It isn't on record any more: the other table is looked at as well.
        assert_eq!(s.backfill("target => 'second'").rows_updated, 1, "{what}");
    }
}

#[test]
fn with_what_no_record_has_are_looked_at_in_each_run() {
    let (_db, store, mut s) = TestDb::with_store("marks_too_long");
    inode::plain(&mut s, &store.put_synthetic(10));
    s.exec("ALTER TABLE blob ALTER mime_type TYPE varchar(12); SET ntt_mime.target = 'blob'");
    s.backfill("");
    assert!(inode::pending(&mut s, "blob") > 0);
    assert_eq!(skipped(&mut s), 0);
    assert!(s.take_warnings().join("").contains("too long a type"));
}
