//! pg_cron for real: the job of the contract fills rows, by a connection of its own and by a background worker.
//!
//! pg_cron 1.4 knows minutes only, so each test waits for the next one to begin; they run side by side.

use std::time::Duration;

use ntt_mime_integration::{Cluster, Store, TestDb, inode, wait_for};

/// The next minute begins within 60 seconds; the rest is for the job.
const A_MINUTE: Duration = Duration::from_secs(90);

fn scheduled(background_workers: bool) {
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
    let db = TestDb::on(&cluster, "cron");
    let store = Store::new();
    db.use_store(&store);
    let mut s = db.connect();
    inode::partitioned(&mut s, 3);
    inode::load_source(&mut s, &store.put_synthetic(50));
    inode::fill(&mut s, 3, 3);
    inode::remember(&mut s, "inode");

    let mut cron = cluster.connect("postgres", "postgres");
    cron.exec("CREATE EXTENSION pg_cron");
    let job: i64 = cron
        .value("SELECT cron.schedule('ntt-mime', '* * * * *', 'CALL ntt_backfill_mime(10000)')");
    // cron.schedule_in_database takes no name; a job's database is a column.
    cron.exec(&format!(
        "UPDATE cron.job SET database = '{}' WHERE jobid = {job}",
        db.name
    ));
    let details = wait_for(A_MINUTE, "the job to run", || {
        cron.table("SELECT status, return_message FROM cron.job_run_details WHERE status IN ('succeeded', 'failed') LIMIT 1").pop()
    });
    cron.exec("SELECT cron.unschedule('ntt-mime')");
    assert!(details.starts_with("succeeded|"), "{details}");
    assert_eq!(
        s.table("SELECT status, role_name FROM ntt_mime.run ORDER BY run_id LIMIT 1"),
        ["succeeded|postgres"]
    );
    inode::check_filled(&mut s, "inode");
    drop(cron);
}

#[test]
fn a_job_by_a_connection_fills_rows() {
    scheduled(false);
}

#[test]
fn a_job_in_a_background_worker_fills_rows() {
    scheduled(true);
}
