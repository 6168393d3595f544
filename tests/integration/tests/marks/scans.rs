//! Leaves that seem unchanged are read from time to time anyway.

use ntt_mime_integration::{SOON, inode, wait_until};

use super::{filled, skipped};

#[test]
fn what_nobody_has_counted_is_found_and_told() {
    let (db, _store, mut s) = filled("marks_uncounted");
    let mut other = db.connect();
    other.exec(
        "SET track_counts = off;
         UPDATE inode SET mime_type = NULL WHERE medium_hash = 'm1' AND blobid IS NOT NULL",
    );
    drop(other);
    // As long as it is there it may have something to publish, and the fault might be its own.
    wait_until(SOON, "the other session to be gone", || {
        s.count("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()") == 1
    });
    let left = inode::pending(&mut s, "inode");
    assert!(left > 0);
    // What this session has written itself is counted, or it might be that which made them pending.
    s.exec("SELECT pg_stat_force_next_flush()");
    assert_eq!(skipped(&mut s), 3);
    s.take_warnings();
    // A look when it is time, at the latest.
    s.exec("SET ntt_mime.full_scan_after = '1s'");
    wait_until(SOON, "the rows to be found", || {
        s.backfill("1000");
        inode::pending(&mut s, "inode") == 0
    });
    assert_eq!(
        s.take_warnings(),
        [
            "1 leaf had pending rows although it seemed unchanged since an earlier run | It is \"public.inode_m1\". | \
          The server does not count what a session writes with track_counts off. If there was none, report it."
        ]
    );
    assert_eq!(
        s.count("SELECT sum((options->>'marks_wrong')::int) FROM ntt_mime.run"),
        1
    );
    s.exec("RESET ntt_mime.full_scan_after");
    assert_eq!(skipped(&mut s), 3);
}

#[test]
fn nought_looks_at_all_in_each_run() {
    let (_db, _store, mut s) = filled("marks_always");
    s.exec("SET ntt_mime.full_scan_after = 0");
    assert_eq!(skipped(&mut s), 0);
    assert_eq!(skipped(&mut s), 0);
    s.exec("SET ntt_mime.full_scan_after = '2 d'");
    assert_eq!(skipped(&mut s), 3);
    assert_eq!(s.take_warnings(), Vec::<String>::new());
}

#[test]
fn their_times_do_not_come_all_at_once() {
    let (_db, _store, mut s) = inode::archive("marks_spread", 40, 20, 4);
    s.backfill("1000");
    assert_eq!(skipped(&mut s), 40);
    let of_age = |s: &mut ntt_mime_integration::Session, hours: u32| {
        s.exec(&format!(
            "UPDATE ntt_mime.leaf SET looked_at = now() - interval '{hours} hours'"
        ));
        let run_id = s.backfill("1000, dry_run => true").run_id;
        s.run_counter(run_id, "options->>'leaves_skipped'")
    };
    assert_eq!(of_age(&mut s, 11), 40);
    let half = of_age(&mut s, 18);
    assert!(
        (5..36).contains(&half),
        "{half} of 40 when three quarters of the time have gone by"
    );
    assert_eq!(of_age(&mut s, 24), 0);
    // A clock that was wrong keeps nothing for ever.
    s.exec("UPDATE ntt_mime.leaf SET looked_at = now() + interval '1 year'");
    assert_eq!(skipped(&mut s), 0);
}
