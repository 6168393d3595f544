//! Copies of a server: a base backup taken and a standby promoted while a run goes on, and pg_upgrade.

use std::process::Stdio;

use ntt_mime_integration::cluster::Shutdown;
use ntt_mime_integration::{Cluster, SOON, inode, server, wait_until};

#[test]
fn a_standby_that_is_promoted_in_the_midst_of_a_run_goes_on_from_there() {
    let primary = Cluster::start(&[]);
    let (db, _store, mut s) = inode::archive_on(&primary, "promoted", 6, 600, 5);
    let mut caller = db.connect();
    caller.exec("SET ntt_mime.batch_delay = '2s'");
    let running = caller.call_in_background("40");
    let run_id = s.wait_for_run();
    // Taken by pg_basebackup.
    let standby = primary.standby(&[]);
    let mut there = standby.connect(&db.name, "postgres");
    let filled = |s: &mut ntt_mime_integration::Session| {
        s.count("SELECT count(*) FROM inode WHERE mime_type <> 'application/x-kept'")
    };
    wait_until(SOON, "some of the run to be replicated", || {
        filled(&mut there) > 0
    });
    assert!(there.value::<bool>("SELECT pg_promote()"));
    assert!(!running.is_finished(), "a run that was over before");

    // As after a crash of the primary: the run has no backend there, and the next one goes on.
    assert_eq!(there.run_row(run_id, "status"), "running");
    assert_eq!(there.count("SELECT count(*) FROM ntt_mime.progress"), 0);
    let before = inode::check_partly_filled(&mut there, "inode");
    let outcome = there.backfill("1000");
    assert_eq!(
        before + outcome.rows_updated,
        inode::expected(&mut there).rows
    );
    inode::check_filled(&mut there, "inode");
    assert_eq!(there.run_row(run_id, "status"), "interrupted");

    running.cancel();
    running.finish().1.expect_err("cancelled");
    inode::check_partly_filled(&mut s, "inode");
}

#[test]
fn a_server_that_pg_upgrade_has_made_goes_on() {
    let old = Cluster::start(&[]);
    let new = Cluster::start(&[]);
    let (db, store, mut s) = inode::archive_on(&old, "upgraded", 3, 60, 3);
    let absent = ntt_mime_integration::store::absent_blobid(1);
    s.exec(&format!(
        "INSERT INTO inode (medium_hash, ino, blobid) VALUES ('m1', -1, '{absent}')"
    ));
    s.backfill("50");
    let all_runs = "SELECT run_id, status, rows_updated, mime_counts FROM ntt_mime.run";
    let failures = "SELECT blobid, reason FROM ntt_mime.failure";
    let (runs, failed) = (s.table(all_runs), s.table(failures));
    assert_eq!(failed.len(), 1);
    drop(s);
    let name = db.name.clone();
    old.stop(Shutdown::Fast);
    new.stop(Shutdown::Fast);
    let output = server::command("pg_upgrade")
        .arg("--old-bindir")
        .arg(server::bindir())
        .arg("--old-datadir")
        .arg(old.data())
        .arg("--new-datadir")
        .arg(new.data())
        .arg("--socketdir")
        .arg(new.socket_dir())
        .args(["--username", "postgres"])
        .current_dir(new.socket_dir())
        .stdin(Stdio::null())
        .output()
        .expect("pg_upgrade starts");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
    new.launch();
    let mut s = new.connect(&name, "postgres");
    assert_eq!(s.table(all_runs), runs);
    assert_eq!(s.table(failures), failed);
    s.exec(&format!(
        "UPDATE inode SET mime_type = NULL WHERE mime_type <> '{}'",
        inode::KEPT
    ));
    inode::remember(&mut s, "inode");
    let outcome = s.backfill("50");
    assert_eq!(outcome.rows_updated, inode::expected(&mut s).rows);
    inode::check_filled(&mut s, "inode");
    // What drops the test's database asks the server that it was made on.
    old.launch();
    drop((db, store));
}
