//! Blobs that can't be detected: recorded with a reason, skipped, tried again on request or after some time, and
//! removed from the table once they are detected.

use std::path::Path;

use ntt_mime_integration::store::{absent_blobid, blobid_of};
use ntt_mime_integration::{Outcome, Session, Store, TestDb, assert_error, errors, inode, scratch};

/// A plain table with a good blob, a missing one, an unreadable one and a folder.
struct Damaged {
    db: TestDb<'static>,
    store: Store,
    s: Session,
    missing: String,
    unreadable: String,
}

const MISSING: &[u8] = b"%PDF-1.4\n% not there yet\n";

fn damaged(name: &str) -> Damaged {
    let (db, store, mut s) = TestDb::with_store(name);
    let mut blobids = store.put_synthetic(30);
    let missing = blobid_of(MISSING);
    let unreadable = store.put_unreadable(b"#!/bin/sh\n");
    let folder = absent_blobid(1);
    std::fs::create_dir(store.place(&folder)).expect("store");
    blobids.extend([missing.clone(), unreadable.clone(), folder]);
    inode::plain(&mut s, &blobids);
    s.exec("SET ntt_mime.target = 'blob'");
    inode::remember(&mut s, "blob");
    Damaged {
        db,
        store,
        s,
        missing,
        unreadable,
    }
}

/// Exchanges the store for an empty directory, or back.
fn exchange_with_empty(store: &Store, empty: &Path) {
    let aside = empty.with_extension("aside");
    for (from, to) in [
        (store.root(), aside.as_path()),
        (empty, store.root()),
        (&aside, empty),
    ] {
        std::fs::rename(from, to).expect("both are ours");
    }
}

#[test]
fn a_store_that_is_not_mounted_is_not_one_without_blobs() {
    let (_db, store, mut s) = TestDb::with_store("not_mounted");
    inode::plain(&mut s, &store.put_synthetic(30));
    s.exec("SET ntt_mime.target = 'blob'");
    inode::remember(&mut s, "blob");
    let first = s.backfill("max_blobs => 10");
    assert_eq!(first.rows_updated, 10);
    // The directory below a mount point appears.
    let empty = scratch::folder("empty");
    exchange_with_empty(&store, &empty);
    let on_record = |s: &mut Session| {
        s.table(
            "SELECT (SELECT count(*) FROM ntt_mime.run), (SELECT count(*) FROM ntt_mime.failure)",
        )
    };
    for arguments in ["", "dry_run => true"] {
        let error = assert_error(s.call(arguments), "58P01", "");
        assert_eq!(
            errors::words(&error),
            format!(
                "ntt_mime.blob_root does not name the directories of a blob store | \"{}\" holds no blobs, and did \
                 when run {} read from it. | Mount the store, let the server's account search it, or correct \
                 ntt_mime.blob_root.",
                store.root_str(),
                first.run_id
            )
        );
    }
    assert_eq!(on_record(&mut s), ["1|0"]);
    exchange_with_empty(&store, &empty);
    assert_eq!(s.backfill("").rows_updated, 20);
    inode::check_filled(&mut s, "blob");
    // An empty store may be as intended if nobody has ever found a blob in it.
    s.exec(&format!(
        "UPDATE blob SET mime_type = NULL; SET ntt_mime.blob_root = '{}'",
        empty.display()
    ));
    assert_eq!(s.backfill("").failures, 30);
    assert_eq!(on_record(&mut s), ["3|30"]);
}

/// `reason|attempts|first_run_id|last_run_id` of a blob's failure, if it has one.
fn failure(s: &mut Session, blobid: &str) -> Option<String> {
    let mut rows = s.table(&format!(
        "SELECT reason, attempts, first_run_id, last_run_id FROM ntt_mime.failure WHERE blobid = '{blobid}'"
    ));
    assert!(rows.len() <= 1);
    rows.pop()
}

#[test]
fn are_recorded_and_passed_over() {
    let mut d = damaged("recorded");
    let s = &mut d.s;
    let first = s.backfill("10");
    assert_eq!(
        (first.blobs, first.rows_updated, first.failures),
        (33, 30, 3)
    );
    inode::check_filled(s, "blob");
    assert_eq!(
        s.column("SELECT reason FROM ntt_mime.failure ORDER BY 1"),
        ["missing", "not_a_file", "unreadable"]
    );
    assert_eq!(
        s.table("SELECT DISTINCT attempts, first_run_id, last_run_id, first_seen = last_seen, first_seen <= now(), now() - first_seen < interval '1 minute' FROM ntt_mime.failure"),
        [format!("1|{0}|{0}|t|t|t", first.run_id)]
    );
    let detail: String = s.value("SELECT detail FROM ntt_mime.failure WHERE reason = 'unreadable'");
    assert!(
        detail.contains("Permission denied"),
        "the system's own words: {detail}"
    );
    assert_eq!(
        s.table("SELECT status, rows_left FROM ntt_mime.run"),
        ["succeeded|3"]
    );

    // Recent failures are neither tried nor changed, even if the file exists now.
    d.store.put(MISSING);
    let before = s.table("SELECT f.*, f.xmin FROM ntt_mime.failure f ORDER BY 1");
    let second = s.backfill("10");
    assert_eq!(second.rows_updated, 0);
    assert_eq!(
        s.table("SELECT f.*, f.xmin FROM ntt_mime.failure f ORDER BY 1"),
        before
    );
    assert_eq!(
        s.run_counter(second.run_id, "detections"),
        0,
        "a blob was read"
    );
    assert_eq!(inode::pending(s, "blob"), 3);
}

#[test]
fn are_tried_again_when_asked() {
    let mut d = damaged("asked");
    let s = &mut d.s;
    let first = s.backfill("10");
    let second = s.backfill("10, retry_failed => true");
    assert_eq!((second.rows_updated, second.failures), (0, 3));
    let (one, two) = (first.run_id, second.run_id);
    assert_eq!(
        failure(s, &d.missing),
        Some(format!("missing|2|{one}|{two}"))
    );
    assert_eq!(
        failure(s, &d.unreadable),
        Some(format!("unreadable|2|{one}|{two}"))
    );
    assert_eq!(
        s.count("SELECT count(*) FROM ntt_mime.failure WHERE last_seen > first_seen"),
        3
    );

    // What can be detected now is filled and its record removed; what fails in another way gets the new reason.
    d.store.put(MISSING);
    d.store.remove(&d.unreadable);
    let third = s.backfill("10, retry_failed => true");
    assert_eq!((third.rows_updated, third.failures), (1, 2));
    assert_eq!(failure(s, &d.missing), None);
    assert_eq!(
        failure(s, &d.unreadable),
        Some(format!("missing|3|{one}|{}", third.run_id))
    );
    assert_eq!(
        s.column("SELECT mime_type FROM blob WHERE mime_type = 'application/pdf' AND size = 30"),
        ["application/pdf"]
    );

    d.store.put(b"#!/bin/sh\n");
    s.backfill("10, retry_failed => true");
    assert_eq!(
        s.column("SELECT reason FROM ntt_mime.failure"),
        ["not_a_file"]
    );
    inode::remember(s, "blob");
    assert_eq!(inode::pending(s, "blob"), 1);
}

#[test]
fn are_tried_again_when_old_enough() {
    let mut d = damaged("age");
    let s = &mut d.s;
    let first = s.backfill("10");
    s.exec("SET ntt_mime.retry_failures_after = 0");
    let second = s.backfill("10");
    assert_eq!(
        failure(s, &d.missing),
        Some(format!("missing|2|{}|{}", first.run_id, second.run_id))
    );
    // With the default, a day: one of them is two days old.
    s.exec("RESET ntt_mime.retry_failures_after");
    s.exec(&format!(
        "UPDATE ntt_mime.failure SET first_seen = first_seen - interval '2 days', last_seen = last_seen - interval '2 days'
          WHERE blobid = '{}'",
        d.missing
    ));
    d.store.put(MISSING);
    d.store.set_mode(&d.unreadable, 0o644);
    let third = s.backfill("10");
    assert_eq!(third.rows_updated, 1);
    assert_eq!(failure(s, &d.missing), None);
    assert_eq!(
        failure(s, &d.unreadable),
        Some(format!("unreadable|2|{}|{}", first.run_id, second.run_id))
    );
}

#[test]
fn are_counted_once_for_many_rows() {
    let (_db, store, mut s) = TestDb::with_store("many");
    inode::partitioned(&mut s, 5);
    let mut blobids = store.put_synthetic(20);
    blobids.extend((0..20).map(absent_blobid));
    inode::load_source(&mut s, &blobids);
    inode::fill(&mut s, 5, 20);
    inode::remember(&mut s, "inode");
    let expected = inode::expected(&mut s);
    let outcome = s.backfill("30");
    inode::check_filled(&mut s, "inode");
    assert_eq!(
        (outcome.blobs, outcome.failures, outcome.rows_updated),
        (expected.blobs, 20, expected.rows)
    );
    assert_eq!(
        s.table("SELECT count(*), max(attempts) FROM ntt_mime.failure"),
        ["20|1"]
    );
    assert_eq!(
        s.count("SELECT rows_left FROM ntt_mime.run"),
        expected.rows_left
    );
}

#[test]
fn nothing_but_failures_ends() {
    // The script that this replaces selected the same missing blobs again and again.
    let (_db, _store, mut s) = TestDb::with_store("only_failures");
    inode::load_source(&mut s, &(0..500).map(absent_blobid).collect::<Vec<_>>());
    s.exec("CREATE TABLE blob AS SELECT blobid, NULL::text AS mime_type FROM source");
    let outcome = s.backfill("7, target => 'blob'");
    assert_eq!(
        (outcome.blobs, outcome.rows_updated, outcome.failures),
        (500, 0, 500)
    );
    assert_eq!(
        s.count("SELECT count(*) FROM ntt_mime.failure WHERE reason = 'missing'"),
        500
    );
}

#[test]
fn on_record_do_not_use_up_max_blobs() {
    let (_db, store, mut s) = TestDb::with_store("on_record");
    inode::load_source(&mut s, &(0..200).map(absent_blobid).collect::<Vec<_>>());
    s.exec(
        "CREATE TABLE blob (blobid text, mime_type text);
         INSERT INTO blob SELECT blobid FROM source ORDER BY n;
         SET ntt_mime.target = 'blob'",
    );
    assert_eq!(s.backfill("100").failures, 200);
    // Reading the table in physical order meets them first, in two batches.
    inode::load_source(&mut s, &store.put_synthetic(120));
    s.exec("INSERT INTO blob SELECT blobid FROM source ORDER BY n");
    inode::remember(&mut s, "blob");
    let mut filled = 0;
    for expected in [50, 50, 20] {
        // With one worker, nobody else has a batch in progress when the limit is reached.
        let Outcome {
            run_id,
            blobs,
            rows_updated,
            failures,
            ..
        } = s.backfill("100, max_blobs => 50, workers => 1");
        filled += expected;
        assert_eq!(
            (blobs, rows_updated, failures),
            (200 + expected, expected, 200),
            "after {filled}"
        );
        assert_eq!(
            s.run_row(run_id, "status, blobs, detections"),
            format!("succeeded|{}|{expected}", 200 + expected)
        );
        assert_eq!(inode::check_partly_filled(&mut s, "blob"), filled);
    }
    inode::check_filled(&mut s, "blob");
    assert_eq!(
        s.table("SELECT count(*), max(attempts) FROM ntt_mime.failure"),
        ["200|1"],
        "they were passed over"
    );
}

#[test]
fn a_blob_that_is_put_into_quarantine_meanwhile_stays_there() {
    let mut d = damaged("meanwhile");
    let s = &mut d.s;
    s.backfill("");
    d.store.put(MISSING);
    inode::remember(s, "blob");
    // Not committed: the run finds the blob recorded as missing, tries it again, and has to wait before it can remove
    // the record.
    s.exec(&format!(
        "BEGIN; UPDATE ntt_mime.failure SET reason = 'quarantined', detail = 'by another process' WHERE blobid = '{}'",
        d.missing
    ));
    let run =
        d.db.connect()
            .call_in_background("target => 'blob', retry_failed => true, workers => 1");
    d.db.wait_for_waiting_worker();
    s.exec("COMMIT");
    let (_, outcome) = run.succeed();
    assert_eq!((outcome.rows_updated, outcome.failures), (1, 2));
    inode::check_filled(s, "blob");
    assert_eq!(
        s.table(&format!(
            "SELECT reason, detail, attempts FROM ntt_mime.failure WHERE blobid = '{}'",
            d.missing
        )),
        ["quarantined|by another process|1"]
    );
}
