//! `max_blobs` over a column that is too narrow for some types: what can't be filled doesn't use up the limit.

use ntt_mime_integration::{Session, Store, TestDb, inode};

/// A table `blob` whose column has room for ten characters, a row for each of `blobids` in this order.
fn narrow_table(s: &mut Session, blobids: &[String]) {
    inode::load_source(s, blobids);
    s.exec(
        "DROP TABLE IF EXISTS blob;
         CREATE TABLE blob (blobid text PRIMARY KEY, mime_type varchar(10));
         INSERT INTO blob SELECT blobid FROM source ORDER BY n;
         SET ntt_mime.target = 'blob'",
    );
}

/// Of type text/x-shellscript, which doesn't fit.
fn scripts(store: &Store, n: usize) -> Vec<String> {
    let script = |i| store.put(format!("#!/bin/sh\necho {i}\n").as_bytes());
    (0..n).map(script).collect()
}

/// Of type image/gif, which does.
fn pictures(store: &Store, n: usize) -> Vec<String> {
    let picture = |i: usize| store.put(&[b"GIF89a".as_slice(), &i.to_le_bytes()].concat());
    (0..n).map(picture).collect()
}

#[test]
fn a_limited_run_comes_to_all_blobs_that_can_be_filled() {
    let (_db, store, mut s) = TestDb::with_store("narrow_limit");
    let (scripts, pictures) = (scripts(&store, 300), pictures(&store, 50));
    let first = [scripts.as_slice(), &pictures].concat();
    // Among each other, and behind each other.
    let mut mixed = first.clone();
    mixed.sort();
    for (blobids, workers) in [(&first, 1), (&first, 2), (&mixed, 1), (&mixed, 2)] {
        narrow_table(&mut s, blobids);
        // Whoever reads the table in its physical order meets 300 that don't fit again and again.
        for filled in [20, 20, 10, 0] {
            let outcome = s.backfill(&format!("25, max_blobs => 20, workers => {workers}"));
            assert_eq!(outcome.rows_updated, filled, "with {workers} workers");
            assert_eq!(s.run_row(outcome.run_id, "status"), "succeeded");
        }
        assert_eq!(
            s.count("SELECT count(*) FROM blob WHERE mime_type = 'image/gif'"),
            50
        );
        assert_eq!(inode::pending(&mut s, "blob"), 300);
    }
}

#[test]
fn a_limited_run_over_blobs_that_all_do_not_fit_ends() {
    let (_db, store, mut s) = TestDb::with_store("narrow_ends");
    narrow_table(&mut s, &scripts(&store, 60));
    // With a cache as small as can be, too: then nobody remembers which ones didn't fit.
    for cache_size in ["64MB", "0"] {
        s.exec(&format!("SET ntt_mime.cache_size = '{cache_size}'"));
        let outcome = s.backfill("10, max_blobs => 5");
        assert_eq!(
            (outcome.blobs, outcome.rows_updated, outcome.failures),
            (60, 0, 60)
        );
        // It has seen everything: the limit didn't end it.
        assert_eq!(
            s.run_row(outcome.run_id, "status, rows_left"),
            "succeeded|60"
        );
    }
}

#[test]
fn the_limit_holds_where_some_do_not_fit() {
    let (_db, store, mut s) = TestDb::with_store("narrow_holds");
    let mut blobids = [scripts(&store, 100), pictures(&store, 100)].concat();
    blobids.sort();
    narrow_table(&mut s, &blobids);
    let outcome = s.backfill("10, max_blobs => 7");
    assert_eq!(outcome.rows_updated, 7);
    let row = s.run_row(outcome.run_id, "status, detections - failures, rows_left");
    assert_eq!(row, "succeeded|7|", "blobs that were looked at and fit");
}
