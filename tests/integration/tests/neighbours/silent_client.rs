//! A client that doesn't read affects only itself: its run goes on, is visible, and can be cancelled.

use std::time::{Duration, Instant};

use ntt_mime_integration::silent::SilentClient;
use ntt_mime_integration::{SOON, Session, TestDb, inode, wait_until};

/// How long a run may take that is to end.
const STOPPED: Duration = Duration::from_secs(5);

/// A run reports every five seconds.
const AFTER_A_NOTICE: Duration = Duration::from_secs(6);

/// Starts a run whose client doesn't read, and looks at it until it has had something to report.
fn start(db: &TestDb, s: &mut Session) -> (SilentClient, i64) {
    let setting = "SET ntt_mime.batch_delay = '200ms'";
    let mut client = SilentClient::full(db, s, setting);
    client.ask("CALL ntt_backfill_mime(20)");
    let run_id = s.wait_for_run();
    let begun = Instant::now();
    let mut last = -1;
    while begun.elapsed() < AFTER_A_NOTICE {
        let before = last;
        wait_until(
            Duration::from_secs(4),
            "the view to tell of more rows",
            || {
                last = s.count("SELECT coalesce(max(rows_updated), -1) FROM ntt_mime.progress");
                last > before
            },
        );
    }
    (client, run_id)
}

#[track_caller]
fn check_cancelled(db: &TestDb, s: &mut Session, run_id: i64) {
    wait_until(STOPPED, "the run to be cancelled", || {
        s.run_row(run_id, "status") == "cancelled"
    });
    db.wait_for_no_workers(STOPPED);
    inode::check_partly_filled(s, "inode");
}

#[test]
fn a_run_is_cancelled_though_nobody_reads_of_it() {
    let (db, _store, mut s) = inode::archive("silent", 6, 600, 5);
    let (mut client, run_id) = start(&db, &mut s);
    assert!(s.value::<bool>(&format!("SELECT ntt_cancel_backfill({run_id})")));
    check_cancelled(&db, &mut s, run_id);
    // What had to be told waits for who reads.
    let told = client.read_all();
    let result = format!("{run_id}");
    assert!(
        told.iter()
            .rev()
            .find(|(kind, _)| *kind == b'D')
            .is_some_and(|(_, row)| row
                .windows(result.len())
                .any(|part| part == result.as_bytes())),
        "the row of the CALL"
    );
}

#[test]
fn a_query_cancel_reaches_a_leader_though_nobody_reads() {
    let (db, _store, mut s) = inode::archive("silent_ctrl_c", 6, 600, 5);
    let (mut client, run_id) = start(&db, &mut s);
    assert!(s.value::<bool>(&format!("SELECT pg_cancel_backend({})", client.pid)));
    check_cancelled(&db, &mut s, run_id);
    let told = client.read_all();
    let (_, error) = told
        .iter()
        .find(|(kind, _)| *kind == b'E')
        .expect("an error");
    assert!(
        String::from_utf8_lossy(error).contains("C57014"),
        "{error:?}"
    );
    wait_until(SOON, "the next run to find the target free", || {
        s.call("1000").is_ok()
    });
}
