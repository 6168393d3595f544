//! The real pg_cron: jobs that connect, and jobs that are background workers.
//!
//! pg_cron 1.4 only knows minutes, so each tick has to be waited for; the tests run in parallel.

use std::fs;
use std::time::Duration;

use ntt_mime_integration::{Cluster, Session, TestDb, inode, server, wait_for};

/// The next minute begins within 60 seconds; the rest is for the job.
const A_MINUTE: Duration = Duration::from_secs(90);

/// A server with pg_cron, whose jobs connect or are background workers, and a session in its database.
fn cluster(background_workers: bool) -> (Cluster, Session) {
    let cluster = Cluster::start(&[
        ("shared_preload_libraries", "pg_cron"),
        ("cron.database_name", "postgres"),
        (
            "cron.use_background_workers",
            if background_workers { "on" } else { "off" },
        ),
    ]);
    cluster.configure(&[(
        "cron.host",
        cluster.socket_dir().to_str().expect("a plain name"),
    )]);
    cluster.restart();
    let mut cron = cluster.connect("postgres", "postgres");
    cron.exec("CREATE EXTENSION pg_cron");
    (cluster, cron)
}

/// A job that runs every minute.
fn schedule(cron: &mut Session, db: &TestDb, name: &str) {
    cron.exec(&format!(
        "SELECT cron.schedule_in_database('{name}', '* * * * *', 'CALL ntt_backfill_mime(10000)', '{}')",
        db.name
    ));
}

/// Status and message of the next `jobs` jobs that end after those already known.
fn next_tick(cron: &mut Session, known: &mut usize, jobs: usize) -> Vec<String> {
    let details = wait_for(A_MINUTE, "the jobs to run", || {
        let ended = cron.table(
            "SELECT status, return_message FROM cron.job_run_details
              WHERE status IN ('succeeded', 'failed') ORDER BY runid",
        );
        (ended.len() >= *known + jobs).then_some(ended)
    });
    let mut ended = details[*known..].to_vec();
    *known = details.len();
    ended.sort();
    ended
}

#[test]
fn a_job_in_a_background_worker_fills_rows() {
    let (cluster, mut cron) = cluster(true);
    let (db, _store, mut s) = inode::archive_on(&cluster, "cron", 3, 50, 3);
    schedule(&mut cron, &db, "ntt-mime");
    let ended = next_tick(&mut cron, &mut 0, 1);
    cron.exec("SELECT cron.unschedule('ntt-mime')");
    assert!(ended[0].starts_with("succeeded|"), "{ended:?}");
    assert_eq!(
        s.table("SELECT status, role_name FROM ntt_mime.run ORDER BY run_id LIMIT 1"),
        ["succeeded|postgres"]
    );
    inode::check_filled(&mut s, "inode");
    drop(cron);
}

#[test]
fn other_jobs_tick_while_a_run_goes_on() {
    let (cluster, mut cron) = cluster(false);
    let (db, _store, mut s) = inode::archive_on(&cluster, "cron_long", 3, 200, 3);
    let role = db.role("archivist", "LOGIN");
    s.exec(&format!(
        "GRANT EXECUTE ON PROCEDURE ntt_backfill_mime TO {role}; GRANT SELECT, UPDATE ON inode, queue_stats TO {role};
         ALTER DATABASE {0} SET ntt_mime.batch_delay = '20s';
         CREATE TABLE tick (at timestamptz DEFAULT clock_timestamp())",
        db.name
    ));
    // As in the guide, for roles whose names differ from the server's account.
    let (hba, ident) = (
        cluster.data().join("pg_hba.conf"),
        cluster.data().join("pg_ident.conf"),
    );
    let others = fs::read_to_string(&hba).expect("initdb wrote it");
    let by_peer = format!(
        "local {} {role} peer map=cron\nlocal {0} {role} reject\n",
        db.name
    );
    fs::write(&hba, by_peer + &others).expect("we may write it");
    fs::write(&ident, format!("cron {} {role}\n", server::account())).expect("we may write it");
    s.exec("SELECT pg_reload_conf()");
    for (name, command, user) in [
        ("ntt-mime", "CALL ntt_backfill_mime(10)", role.as_str()),
        ("tick", "INSERT INTO tick DEFAULT VALUES", "postgres"),
    ] {
        cron.exec(&format!(
            "SELECT cron.schedule_in_database('{name}', '* * * * *', '{command}', '{}', '{user}')",
            db.name
        ));
    }
    let run_id = wait_for(A_MINUTE, "the run to begin", || {
        let runs = s.table(
            "SELECT run_id, role_name FROM ntt_mime.run JOIN ntt_mime.progress USING (run_id)",
        );
        let (run_id, by) = runs.first()?.split_once('|')?;
        assert_eq!(by, role);
        Some(run_id.to_owned())
    });
    wait_for(A_MINUTE, "another job beside it", || {
        let ticks = s.count(&format!(
            "SELECT count(*) FROM tick, ntt_mime.run WHERE run_id = {run_id} AND at > started_at + interval '5 s'"
        ));
        assert_eq!(
            s.run_row(run_id.parse().expect("a bigint"), "status"),
            "running",
            "the run has ended before another job could begin"
        );
        (ticks > 0).then_some(())
    });
    cron.exec("SELECT cron.unschedule(jobid) FROM cron.job");
    assert!(s.value::<bool>(&format!("SELECT ntt_cancel_backfill({run_id})")));
    wait_for(A_MINUTE, "the run to end", || {
        (s.run_row(run_id.parse().expect("a bigint"), "status") == "cancelled").then_some(())
    });
    drop(cron);
}

#[test]
fn jobs_tick_overlap_fail_and_go_on() {
    let (cluster, mut cron) = cluster(false);
    let (db, store, mut s) = inode::archive_on(&cluster, "cron_ticks", 3, 50, 3);
    let mut known = 0;

    // Two jobs in the same minute: the second finds that the target already has a run.
    s.exec(&format!(
        "ALTER DATABASE {0} SET ntt_mime.batch_delay = '3s'",
        db.name
    ));
    schedule(&mut cron, &db, "ntt-mime");
    schedule(&mut cron, &db, "ntt-mime-too");
    let ended = next_tick(&mut cron, &mut known, 2);
    assert!(ended[0].starts_with("failed|"), "{ended:?}");
    assert!(
        ended[0].contains("a backfill or verification of \"public.inode\" is already running"),
        "{ended:?}"
    );
    assert!(ended[1].starts_with("succeeded|"), "{ended:?}");
    inode::check_filled(&mut s, "inode");
    cron.exec("SELECT cron.unschedule('ntt-mime-too')");

    // The store isn't mounted: the job reports that, and nothing is recorded about any blob.
    s.exec("UPDATE inode SET mime_type = NULL WHERE medium_hash = 'm1'");
    inode::remember(&mut s, "inode");
    db.set_blob_root("/nowhere");
    let ended = next_tick(&mut cron, &mut known, 1);
    assert!(
        ended[0].starts_with("failed|") && ended[0].contains("ntt_mime.blob_root does not name"),
        "{ended:?}"
    );
    assert_eq!(s.count("SELECT count(*) FROM ntt_mime.failure"), 0);

    // Now it is mounted again.
    db.use_store(&store);
    let ended = next_tick(&mut cron, &mut known, 1);
    assert!(ended[0].starts_with("succeeded|"), "{ended:?}");
    inode::check_filled(&mut s, "inode");
    assert_eq!(
        s.table("SELECT status, role_name, error FROM ntt_mime.run ORDER BY run_id"),
        ["succeeded|postgres|", "succeeded|postgres|"]
    );

    cron.exec("SELECT cron.unschedule('ntt-mime')");
    assert_eq!(cron.count("SELECT count(*) FROM cron.job"), 0);
    drop(cron);
}
