//! A synchronous standby, present and away: a run goes on without it and can be cancelled, and only its end waits.

use std::time::{Duration, Instant};

use ntt_mime_integration::cluster::Shutdown;
use ntt_mime_integration::{
    Background, Cluster, SOON, Session, Store, TestDb, assert_error, inode, wait_until,
};

/// How long a run may take that is to end: "a second or two", and a loaded machine.
const STOPPED: Duration = Duration::from_secs(5);

/// How old the view may be: two seconds, and a loaded machine.
const FRESH: Duration = Duration::from_secs(6);

/// What PostgreSQL says when a wait for a standby is cancelled.
const IN_DOUBT: &str = "might not have been replicated";

/// A server whose commits wait for a synchronous standby, in sessions that say so; and the standby.
fn servers() -> (Cluster, Cluster) {
    let primary = Cluster::start(&[
        ("synchronous_standby_names", "*"),
        // Of all that tests do besides.
        ("synchronous_commit", "local"),
    ]);
    let standby = primary.standby(&[]);
    (primary, standby)
}

/// The user's `inode` on it, known to the standby, which then goes away.
fn archive_without_standby<'c>(
    (primary, standby): &'c (Cluster, Cluster),
    name: &str,
) -> (TestDb<'c>, Store, Session) {
    let (db, store, mut s) = inode::archive_on(primary, name, 6, 600, 5);
    wait_until(SOON, "the standby to be synchronous", || {
        s.count("SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'") == 1
    });
    standby.stop(Shutdown::Fast);
    wait_until(SOON, "the standby to be gone", || {
        s.count("SELECT count(*) FROM pg_stat_replication") == 0
    });
    (db, store, s)
}

/// Starts a run in a session whose commits wait for the standby.
fn start(db: &TestDb, delay: &str) -> Background {
    let mut caller = db.connect();
    caller.exec(&format!(
        "SET synchronous_commit = on; SET ntt_mime.batch_delay = '{delay}'"
    ));
    caller.call_in_background("40")
}

/// What the view says is filled, of the run that goes on.
fn shown(s: &mut Session) -> i64 {
    s.count("SELECT coalesce(max(rows_updated), 0) FROM ntt_mime.progress")
}

#[track_caller]
fn check_setting(s: &mut Session) {
    assert_eq!(
        s.table("SELECT setting, source FROM pg_settings WHERE name = 'synchronous_commit'"),
        ["on|session"]
    );
}

/// Waits until the leader waits for nothing but the standby.
#[track_caller]
fn wait_for_last_wait(s: &mut Session, running: &Background) {
    wait_until(SOON, "the leader to wait for the standby", || {
        assert!(!running.is_finished(), "the CALL waits for nobody");
        s.count(&format!(
            "SELECT count(*) FROM pg_stat_activity WHERE pid = {} AND wait_event = 'SyncRep'",
            running.pid
        )) == 1
    });
}

#[test]
fn progress_goes_on_and_a_run_can_be_cancelled() {
    let servers = servers();
    let (db, _store, mut s) = archive_without_standby(&servers, "standby_cancel");
    let running = start(&db, "150ms");
    for _ in 0..3 {
        let filled = s.count(&format!(
            "SELECT count(*) FROM inode WHERE mime_type <> '{}'",
            inode::KEPT
        ));
        wait_until(FRESH, "the view to tell of what is filled", || {
            shown(&mut s) > filled
        });
    }
    let run_id = s.wait_for_run();
    let asked = Instant::now();
    assert!(s.value::<bool>(&format!("SELECT ntt_cancel_backfill({run_id})")));
    let (mut caller, outcome) = running.succeed();
    assert!(asked.elapsed() < STOPPED, "{:?}", asked.elapsed());
    assert_eq!(s.run_row(run_id, "status"), "cancelled");
    let warnings = caller.take_warnings().join("\n");
    assert!(warnings.contains(IN_DOUBT), "{warnings}");
    check_setting(&mut caller);
    assert_eq!(
        inode::check_partly_filled(&mut s, "inode"),
        outcome.rows_updated
    );
}

#[test]
fn a_query_cancel_ends_a_run() {
    let servers = servers();
    let (db, _store, mut s) = archive_without_standby(&servers, "standby_ctrl_c");
    let running = start(&db, "150ms");
    wait_until(SOON, "the run to fill rows", || shown(&mut s) > 0);
    let run_id = s.wait_for_run();
    let asked = Instant::now();
    running.cancel();
    let (mut caller, result) = running.finish();
    assert!(asked.elapsed() < STOPPED, "{:?}", asked.elapsed());
    assert_error(result, "57014", "user request");
    assert_eq!(s.run_row(run_id, "status"), "cancelled");
    check_setting(&mut caller);
    db.wait_for_no_workers(STOPPED);
}

#[test]
fn the_end_of_a_run_waits_once_and_can_be_cancelled() {
    let servers = servers();
    let (db, _store, mut s) = archive_without_standby(&servers, "standby_end");
    let again = format!(
        "UPDATE inode SET mime_type = NULL WHERE mime_type <> '{}'",
        inode::KEPT
    );
    for by_query_cancel in [true, false] {
        let running = start(&db, "0");
        wait_for_last_wait(&mut s, &running);
        assert_eq!(db.workers(&mut s), 0);
        let run_id = s.wait_for_run();
        match by_query_cancel {
            true => running.cancel(),
            false => assert!(s.value::<bool>(&format!("SELECT ntt_cancel_backfill({run_id})"))),
        }
        let (mut caller, outcome) = running.succeed();
        assert_eq!(outcome.rows_updated, inode::expected(&mut s).rows);
        let warnings = caller.take_warnings().join("\n");
        assert!(warnings.contains(IN_DOUBT), "{warnings}");
        assert_eq!(s.run_row(run_id, "status, error"), "succeeded|");
        assert!(!s.value::<bool>(&format!("SELECT ntt_cancel_backfill({run_id})")));
        inode::check_filled(&mut s, "inode");
        // The session does as it is told again: nothing of the cancel is left.
        caller.exec("SET synchronous_commit = local");
        caller.exec(&again);
        inode::remember(&mut s, "inode");
    }
}

#[test]
fn a_standby_that_comes_back_has_all_that_a_run_reports() {
    let servers = servers();
    let (db, _store, mut s) = archive_without_standby(&servers, "standby_back");
    let running = start(&db, "0");
    wait_for_last_wait(&mut s, &running);
    let (_, standby) = &servers;
    standby.launch();
    let (mut caller, outcome) = running.succeed();
    assert_eq!(caller.take_warnings(), [""; 0]);
    assert_eq!(outcome.rows_updated, inode::expected(&mut s).rows);
    check_setting(&mut caller);
    // What the CALL has waited for is there, if not yet to be seen.
    let mut there = standby.connect(&db.name, "postgres");
    wait_until(SOON, "the standby to replay it", || {
        there.table("SELECT status, rows_updated FROM ntt_mime.run")
            == [format!("succeeded|{}", outcome.rows_updated)]
    });
    assert_eq!(inode::pending(&mut there, "inode"), 0);
}
