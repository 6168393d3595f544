//! Leaf marks: a run skips leaves in which nothing can have become pending, and no others.

mod changes;
mod epochs;
mod scans;
mod undetected;

use std::time::Duration;

use ntt_mime_integration::{Session, Store, TestDb, inode, wait_until};

/// What others have changed is noticed within this time, if the server counts it.
const MINUTE: Duration = Duration::from_secs(60);

/// The user's `inode` in three leaves, all filled; no table refers to it. The next run has nothing to do.
fn filled(name: &str) -> (TestDb<'static>, Store, Session) {
    let (db, store, mut s) = inode::archive(name, 3, 60, 4);
    fill(&mut s);
    (db, store, s)
}

fn fill(s: &mut Session) {
    s.exec("DROP TABLE IF EXISTS path");
    s.backfill("1000");
    assert_eq!(inode::pending(s, "inode"), 0);
    assert_eq!(skipped(s), 3);
}

/// How many leaves a run passes over.
fn skipped(s: &mut Session) -> i64 {
    let run_id = s.backfill("1000").run_id;
    s.run_counter(run_id, "options->>'leaves_skipped'")
}

/// Has the next run take the leaves for so large that it doesn't look at all of them because somebody's counters may be
/// late.
fn seem_large(s: &mut Session) {
    s.exec("UPDATE ntt_mime.leaf SET blocks = 1000000");
}

/// Runs find what is pending, and fill it.
#[track_caller]
fn assert_noticed(s: &mut Session, what: &str) {
    assert!(
        inode::pending(s, "inode") > 0,
        "{what}: nothing to be noticed"
    );
    wait_until(MINUTE, what, || {
        seem_large(s);
        s.backfill("1000");
        inode::pending(s, "inode") == 0
    });
}

/// Blocks of the leaves' heaps that anybody has asked for, and the marks with their places.
fn traces(s: &mut Session) -> Vec<String> {
    // What this session itself has read is counted by then.
    s.exec("SELECT pg_stat_force_next_flush()");
    s.table(
        "SELECT 'blocks', sum(pg_stat_get_blocks_fetched(inhrelid))::text
           FROM pg_inherits WHERE inhparent = 'inode'::regclass
         UNION ALL SELECT l.ctid::text || l.xmin, l::text FROM ntt_mime.leaf l ORDER BY 1",
    )
}

#[test]
fn a_run_without_work_reads_no_leaf_and_writes_one_row() {
    let (_db, _store, mut s) = filled("marks_idle");
    let before = traces(&mut s);
    assert_eq!(before.len(), 4);
    let first = s.backfill("1000");
    let second = s.backfill("1000");
    assert_eq!(traces(&mut s), before);
    assert_eq!(
        s.run_row(
            second.run_id,
            "status, workers, leaves_total, leaves_done, blocks_total, rows_left, options->>'leaves_skipped', \
             options->>'marks_wrong', finished_at >= started_at"
        ),
        "succeeded|0|3|3|0|0|3|0|t"
    );
    // It has taken the place of the one before.
    assert_eq!(
        s.count(&format!(
            "SELECT count(*) FROM ntt_mime.run WHERE run_id = {}",
            first.run_id
        )),
        0
    );
    // One leaf has changed; the others are left alone.
    let blocks = |s: &mut Session, leaf: &str| {
        s.count(&format!(
            "SELECT pg_stat_get_blocks_fetched('{leaf}'::regclass)"
        ))
    };
    let others = (blocks(&mut s, "inode_m0"), blocks(&mut s, "inode_m2"));
    s.exec("UPDATE inode_m1 SET mime_type = NULL WHERE blobid IS NOT NULL");
    let third = s.backfill("1000");
    assert!(third.rows_updated > 0);
    assert_eq!(
        s.run_row(third.run_id, "leaves_total, options->>'leaves_skipped'"),
        "3|2"
    );
    let after = (blocks(&mut s, "inode_m0"), blocks(&mut s, "inode_m2"));
    assert_eq!(after, others);
    assert_eq!(skipped(&mut s), 3);
}

#[test]
fn a_dry_run_uses_marks_and_leaves_none() {
    let (_db, _store, mut s) = inode::archive("marks_dry", 3, 60, 4);
    s.backfill("1000, dry_run => true");
    assert_eq!(s.count("SELECT count(*) FROM ntt_mime.leaf"), 0);
    fill(&mut s);
    let before = traces(&mut s);
    let outcome = s.backfill("1000, dry_run => true");
    assert_eq!(traces(&mut s), before);
    assert_eq!(
        s.run_row(outcome.run_id, "options->>'leaves_skipped', rows_left"),
        "3|0"
    );
}

#[test]
fn only_leaves_that_were_finished_are_passed_over() {
    let (db, _store, mut s) = inode::archive("marks_limited", 3, 60, 4);
    s.exec("DROP TABLE path");
    // A limited run, and a cancelled one.
    s.backfill("10, workers => 1, max_blobs => 20");
    assert!(s.count("SELECT count(*) FROM ntt_mime.leaf") < 3);
    let mut caller = db.connect();
    caller.exec("SET ntt_mime.batch_delay = '50ms'");
    let left = inode::pending(&mut s, "inode");
    let running = caller.call_in_background("5, workers => 1");
    wait_until(MINUTE, "the run to fill rows", || {
        inode::pending(&mut s, "inode") < left
    });
    running.cancel();
    let _ = running.finish();
    assert!(inode::pending(&mut s, "inode") > 0);
    s.backfill("1000");
    inode::check_filled(&mut s, "inode");
    assert_eq!(skipped(&mut s), 3);
}

#[test]
fn where_it_takes_no_time_all_is_looked_at_if_counters_may_be_late() {
    let (db, _store, mut s) = filled("marks_late");
    let mut other = db.connect();
    other.exec("CREATE TABLE other (n int); SELECT pg_stat_force_next_flush()");
    other.exec("INSERT INTO other VALUES (1)");
    // Published in ten seconds.
    other.exec("UPDATE inode SET mime_type = NULL WHERE blobid IS NOT NULL");
    s.backfill("1000");
    assert_eq!(inode::pending(&mut s, "inode"), 0);
    assert_eq!(s.take_warnings(), Vec::<String>::new());
}

#[test]
fn marks_of_dropped_leaves_go() {
    let (_db, _store, mut s) = filled("marks_dropped");
    s.exec("DROP TABLE inode_m1");
    let outcome = s.backfill("");
    assert_eq!(
        s.run_row(outcome.run_id, "leaves_total, options->>'leaves_skipped'"),
        "2|2"
    );
    assert_eq!(
        s.column("SELECT leaf_oid::regclass FROM ntt_mime.leaf ORDER BY 1"),
        ["inode_m0", "inode_m2"]
    );
}

#[test]
fn who_holds_the_table_of_marks_keeps_no_run_from_its_work() {
    let (db, _store, mut s) = filled("marks_locked");
    let mut holder = db.connect();
    holder.exec("BEGIN; LOCK TABLE ntt_mime.leaf");
    s.exec("UPDATE inode SET mime_type = NULL WHERE blobid IS NOT NULL");
    s.backfill("1000");
    assert_eq!(inode::pending(&mut s, "inode"), 0);
}
