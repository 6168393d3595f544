//! Counters that start again, are outdated or belong to another database: no earlier mark is believed.

use ntt_mime_integration::{
    Cluster, SOON, Session, Store, TestDb, assert_error, inode, wait_for, wait_until,
};

use super::{assert_noticed, fill, filled, skipped};

/// A plain table of 20 rows, all filled by a run: 40 rows have been written.
fn blob(name: &str) -> (TestDb<'static>, Store, Session) {
    let (db, store, mut s) = TestDb::with_store(name);
    inode::plain(&mut s, &store.put_synthetic(20));
    s.exec("SET ntt_mime.target = 'blob'");
    s.backfill("");
    // Nothing is published later that was done before.
    s.exec("SELECT pg_stat_force_next_flush()");
    assert_eq!(skipped(&mut s), 1);
    assert_eq!(written(&mut s), [40]);
    (db, store, s)
}

/// What the marks say.
fn written(s: &mut Session) -> Vec<i64> {
    let written = s.column("SELECT tuples_written FROM ntt_mime.leaf");
    written
        .iter()
        .map(|n| n.parse().expect("a bigint"))
        .collect()
}

#[test]
fn counters_that_were_reset_and_have_come_to_the_same_number() {
    for reset in [
        "pg_stat_reset()",
        "pg_stat_reset_single_table_counters('blob'::regclass)",
    ] {
        let (db, _store, mut s) = blob("marks_reset");
        let mut other = db.connect();
        other.exec(&format!(
            "SELECT pg_stat_force_next_flush(); SELECT {reset};
             UPDATE blob SET mime_type = NULL; UPDATE blob SET mime_type = NULL; SELECT pg_stat_force_next_flush()"
        ));
        drop(other);
        wait_until(super::MINUTE, "the counters", || {
            s.count("SELECT pg_stat_get_tuples_inserted(c.oid) + pg_stat_get_tuples_updated(c.oid) FROM pg_class c WHERE relname = 'blob'") == 40
        });
        assert_eq!(s.backfill("").rows_updated, 20, "{reset}");
    }
}

#[test]
fn where_the_session_of_the_run_does_not_count_no_mark_is_believed() {
    let (db, _store, mut s) = filled("marks_uncounting");
    s.exec("SET track_counts = off");
    assert_eq!(skipped(&mut s), 0);
    s.exec("UPDATE inode SET mime_type = NULL WHERE blobid IS NOT NULL");
    s.backfill("1000");
    assert_eq!(inode::pending(&mut s, "inode"), 0);
    // It takes a superuser to switch it off.
    let role = db.role("runner", "LOGIN");
    let refused = db.connect_as(&role).batch_execute("SET track_counts = off");
    assert_error(refused, "42501", "track_counts");
}

#[test]
fn after_a_crash_and_a_restart_all_is_looked_at() {
    let cluster = Cluster::start(&[]);
    let (mut db, _store, mut s) = inode::archive_on(&cluster, "marks_crash", 3, 60, 4);
    db.expect_crash();
    fill(&mut s);
    drop(s);
    cluster.restart();
    let mut s = db.connect();
    assert_eq!(s.count("SELECT count(*) FROM ntt_mime.leaf"), 3);
    assert_eq!(skipped(&mut s), 0);
    assert_eq!(skipped(&mut s), 3);
    // The server process dies, and the counters with it.
    s.exec("UPDATE inode SET mime_type = NULL WHERE medium_hash = 'm1' AND blobid IS NOT NULL");
    drop(s);
    cluster.kill();
    cluster.launch();
    let mut s = db.connect();
    assert_eq!(s.count("SELECT count(*) FROM ntt_mime.leaf"), 0);
    assert_eq!(
        s.count(
            "SELECT count(*) FROM pg_stat_all_tables WHERE relname ~ '^inode_m.$' AND n_tup_upd > 0"
        ),
        0
    );
    assert_noticed(&mut s, "rows from before a crash");
    assert_eq!(skipped(&mut s), 3);
    // So does one of its children: all others are ended, and the server goes on.
    let pid = s.pid;
    s.exec("UPDATE inode SET mime_type = NULL WHERE medium_hash = 'm2' AND blobid IS NOT NULL");
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(pid).expect("a process"),
        rustix::process::Signal::KILL,
    )
    .expect("it can be killed");
    let mut s = wait_for(SOON, "the server to have recovered", || {
        let mut session = cluster.try_connect(&db.name, "postgres").ok()?;
        let marks = session
            .query_one("SELECT count(*) FROM ntt_mime.leaf", &[])
            .ok()?;
        (marks.get::<_, i64>(0) == 0).then_some(session)
    });
    assert_noticed(&mut s, "rows from before a crash of a child");
}

#[test]
fn a_standby_that_takes_over_looks_at_all() {
    let primary = Cluster::start(&[]);
    let (db, _store, mut s) = inode::archive_on(&primary, "marks_promoted", 3, 60, 4);
    fill(&mut s);
    let standby = primary.standby(&[]);
    let mut there = standby.connect(&db.name, "postgres");
    assert!(there.value::<bool>("SELECT pg_promote()"));
    assert_eq!(there.count("SELECT count(*) FROM ntt_mime.leaf"), 0);
    there.exec("UPDATE inode SET mime_type = NULL WHERE blobid IS NOT NULL");
    assert_noticed(&mut there, "rows on a promoted standby");
    assert_eq!(skipped(&mut there), 3);
    drop(there);
    drop(standby);
}

#[test]
fn a_copy_of_the_database_has_marks_and_no_counters() {
    let (db, _store, mut s) = blob("marks_template");
    // Marks of a leaf whose counters have been at nought.
    s.exec("SELECT pg_stat_reset()");
    s.backfill("");
    assert_eq!(skipped(&mut s), 1);
    assert_eq!(written(&mut s), [0]);
    s.exec("UPDATE blob SET mime_type = NULL");
    drop(s);
    let copy = TestDb::empty(db.cluster, "marks_copy");
    let mut postgres = db.cluster.connect("postgres", "postgres");
    postgres.exec(&format!("DROP DATABASE {}", copy.name));
    postgres.exec(&format!(
        "CREATE DATABASE {} TEMPLATE {}",
        copy.name, db.name
    ));
    let mut there = copy.connect();
    assert_eq!(written(&mut there), [0]);
    there.exec(&format!(
        "SET ntt_mime.target = 'blob'; SET ntt_mime.blob_root = '{}'",
        _store.root_str()
    ));
    assert_eq!(there.backfill("").rows_updated, 20);
}
