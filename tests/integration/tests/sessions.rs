//! A run among other sessions: watched, cancelled, killed, disturbed by loaders and locks; and what it holds while
//! it works.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use ntt_mime_integration::cluster::Shutdown;
use ntt_mime_integration::store::absent_blobid;
use ntt_mime_integration::{
    Background, Cluster, SOON, Session, Store, TestDb, assert_error, inode, wait_for, wait_until,
};

/// How long stopped workers may take: "a second or so", and a loaded machine.
const STOPPED: Duration = Duration::from_secs(5);

/// The user's `inode` with 6 leaves and 3,000 rows, for runs that last a few seconds.
fn archive(name: &str) -> (TestDb<'static>, Store, Session) {
    archive_on(Cluster::shared(), name)
}

fn archive_on<'c>(cluster: &'c Cluster, name: &str) -> (TestDb<'c>, Store, Session) {
    inode::archive_on(cluster, name, 6, 600, 5)
}

/// Starts a run in small batches with pauses between, and waits until it has filled some rows.
fn start(db: &TestDb, s: &mut Session, arguments: &str) -> (Background, i64) {
    let mut caller = db.connect();
    caller.exec("SET ntt_mime.batch_delay = '150ms'");
    let running = caller.call_in_background(arguments);
    let run_id = wait_for(SOON, "the run to fill rows", || {
        assert!(
            !running.is_finished(),
            "the run ended before it could be watched"
        );
        let row = s
            .query_opt("SELECT run_id FROM ntt_mime.progress WHERE EXISTS (SELECT FROM inode WHERE mime_type <> 'application/x-kept')", &[])
            .expect("reads");
        row.map(|row| row.get(0))
    });
    (running, run_id)
}

/// After a run that was stopped: committed work stays and is counted, nothing is half-written, and the next run
/// does the rest.
#[track_caller]
fn check_goes_on(s: &mut Session) {
    let filled = inode::check_partly_filled(s, "inode");
    let expected = inode::expected(s).rows;
    assert!(filled > 0, "committed batches stay");
    assert!(filled < expected, "the run was over before it was stopped");
    let rest = s.backfill("1000");
    inode::check_filled(s, "inode");
    assert_eq!(filled + rest.rows_updated, expected);
    assert_eq!(s.run_row(rest.run_id, "status"), "succeeded");
}

/// After a run whose backend could write nothing more: the next one goes on, and finds what became of it.
#[track_caller]
fn check_interrupted(s: &mut Session, run_id: i64) {
    let row = "status, finished_at IS NOT NULL, error IS NOT NULL";
    assert_eq!(s.run_row(run_id, row), "running|f|f");
    assert_eq!(
        s.count("SELECT count(*) FROM ntt_mime.progress"),
        0,
        "nothing runs any more"
    );
    check_goes_on(s);
    assert_eq!(s.run_row(run_id, row), "interrupted|t|t");
}

#[test]
fn progress_is_seen_and_fresh() {
    let (db, _store, mut s) = archive("progress");
    let (running, run_id) = start(&db, &mut s, "40");
    let total = inode::expected(&mut s).rows;
    // What the view says and what is committed, in one snapshot, until the run ends.
    let mut samples: Vec<(Instant, i64, i64)> = Vec::new();
    let (mut percents, mut done): (Vec<f64>, Vec<i64>) = (Vec::new(), Vec::new());
    let started = Instant::now();
    while !running.is_finished() {
        let at = Instant::now();
        let row = s
            .query_opt(
                "SELECT p.run_id, p.pid, p.target::text, p.phase::text, p.workers::bigint, p.leaves_total::bigint,
                        p.leaves_done::bigint, p.blocks_total::bigint, p.blocks_done::bigint, p.blobs::bigint,
                        p.rows_updated::bigint, p.failures::bigint, p.blobs_per_second::float8, p.percent::float8,
                        p.eta::text, p.started_at <= now(),
                        (SELECT count(*) FROM inode WHERE mime_type <> 'application/x-kept')
                   FROM ntt_mime.progress p",
                &[],
            )
            .expect("reads");
        let Some(row) = row else { continue };
        assert_eq!(row.get::<_, i64>(0), run_id);
        assert_eq!(row.get::<_, i32>(1), running.pid);
        assert_eq!(row.get::<_, String>(2), "public.inode");
        assert!(!row.get::<_, String>(3).is_empty(), "a phase");
        assert_eq!(row.get::<_, i64>(4), 2, "workers");
        let [leaves_total, leaves_done, blocks_total, blocks_done] =
            [5, 6, 7, 8].map(|i| row.get::<_, i64>(i));
        assert_eq!(leaves_total, 6);
        assert!(
            (0..=leaves_total).contains(&leaves_done) && (0..=blocks_total).contains(&blocks_done)
        );
        assert!((0..=600).contains(&row.get::<_, i64>(9)), "blobs");
        assert_eq!(row.get::<_, i64>(11), 0, "failures");
        assert!(row.get::<_, Option<f64>>(12).unwrap_or(0.0) >= 0.0);
        percents.extend(row.get::<_, Option<f64>>(13));
        done.push(blocks_done);
        assert!(row.get::<_, bool>(15));
        samples.push((at, row.get(10), row.get(16)));
        std::thread::sleep(Duration::from_millis(100));
    }
    let (_, outcome) = running.succeed();
    assert!(
        started.elapsed() > Duration::from_secs(4),
        "too short a run to see how fresh it is"
    );
    assert!(
        samples.is_sorted_by_key(|(_, shown, _)| *shown),
        "it goes backwards: {samples:?}"
    );
    // Whatever was committed two seconds ago (and a loaded machine's half a second) is shown.
    for (i, (at, shown, _)) in samples.iter().enumerate() {
        let old = samples[..i]
            .iter()
            .rev()
            .find(|(then, ..)| at.duration_since(*then) > Duration::from_millis(2500));
        if let Some((_, _, committed)) = old {
            assert!(
                shown >= committed,
                "{shown} rows shown, {committed} were committed 2.5 seconds ago"
            );
        }
    }
    assert!(
        samples
            .iter()
            .any(|(_, shown, _)| *shown > 0 && *shown < total),
        "no progress in it: {samples:?}"
    );
    assert!(
        percents.iter().all(|p| (0.0..=100.0).contains(p)),
        "{percents:?}"
    );
    // The share of them may fall: how many blocks there are is known once all leaves have been opened.
    assert!(done.is_sorted(), "{done:?}");
    assert!(
        percents.iter().any(|p| *p > 0.0 && *p < 100.0),
        "{percents:?}"
    );
    assert_eq!(outcome.rows_updated, total);
    assert_eq!(
        s.count("SELECT count(*) FROM ntt_mime.progress"),
        0,
        "the run is over"
    );
    inode::check_filled(&mut s, "inode");
}

#[test]
fn notices_come_while_it_runs() {
    let (db, _store, mut s) = archive("notices");
    let (running, _) = start(&db, &mut s, "30");
    let notice = wait_for(SOON, "a NOTICE with a percentage", || {
        assert!(
            !running.is_finished(),
            "no progress was told: {:#?}",
            running.notices()
        );
        running
            .notices()
            .into_iter()
            .find(|n| n.severity == "NOTICE" && n.message.contains('%'))
    });
    // As in "25.0% done, 500 blobs, 2000 rows filled, 50 blobs/s, about 30.0 s left".
    let parts: Vec<&str> = notice.words.split(", ").collect();
    let ends = ["% done", " blobs", " rows filled", " blobs/s", " left"];
    assert_eq!(parts.len(), ends.len(), "{}", notice.words);
    for (part, end) in parts.iter().zip(ends) {
        let amount = part.strip_suffix(end);
        let amount = amount.map(|amount| amount.trim_start_matches("about "));
        assert!(
            amount.is_some_and(|amount| amount.starts_with(|c: char| c.is_ascii_digit())),
            "{}",
            notice.words
        );
    }
    running.succeed();
}

#[test]
fn another_session_cancels() {
    let (db, _store, mut s) = archive("cancel");
    let (running, run_id) = start(&db, &mut s, "40");
    assert!(
        !s.value::<bool>(&format!("SELECT ntt_cancel_backfill({})", run_id + 1000)),
        "no such run"
    );
    assert!(s.value::<bool>(&format!("SELECT ntt_cancel_backfill({run_id})")));
    // A run that was asked to stop has done as told.
    let (_, outcome) = running.succeed();
    db.wait_for_no_workers(STOPPED);
    let filled = inode::check_partly_filled(&mut s, "inode");
    assert_eq!((outcome.run_id, outcome.rows_updated), (run_id, filled));
    assert_eq!(
        s.run_row(run_id, "status, rows_updated, error IS NULL"),
        format!("cancelled|{filled}|t")
    );
    assert!(
        !s.value::<bool>(&format!("SELECT ntt_cancel_backfill({run_id})")),
        "it is over"
    );
    check_goes_on(&mut s);
}

#[test]
fn only_owner_and_superuser_cancel() {
    let (db, _store, mut s) = archive("cancel_rights");
    let owner = db.role("owner", "LOGIN");
    let other = db.role("other", "LOGIN");
    s.exec(&format!(
        "GRANT EXECUTE ON PROCEDURE ntt_backfill_mime TO {owner};
         GRANT EXECUTE ON FUNCTION ntt_cancel_backfill TO {owner}, {other};
         GRANT SELECT, UPDATE ON ALL TABLES IN SCHEMA public TO {owner}, {other}"
    ));
    let mut caller = db.connect_as(&owner);
    caller.exec("SET ntt_mime.batch_delay = '200ms'");
    let running = caller.call_in_background("20");
    let run_id = s.wait_for_run();
    assert_eq!(
        s.column("SELECT role_name FROM ntt_mime.run"),
        std::slice::from_ref(&owner)
    );
    let cancel = format!("SELECT ntt_cancel_backfill({run_id})");
    assert_error(db.connect_as(&other).query(&cancel, &[]), "42501", "");
    assert!(!running.is_finished());
    assert!(db.connect_as(&owner).value::<bool>(&cancel));
    running.succeed();
    assert_eq!(s.run_row(run_id, "status"), "cancelled");
}

#[test]
fn ctrl_c_cancels() {
    let (db, _store, mut s) = archive("ctrl_c");
    let (running, run_id) = start(&db, &mut s, "40");
    running.cancel();
    let (mut caller, result) = running.finish();
    assert_error(result, "57014", "cancel");
    db.wait_for_no_workers(STOPPED);
    let filled = inode::check_partly_filled(&mut s, "inode");
    assert_eq!(
        s.run_row(run_id, "status, rows_updated"),
        format!("cancelled|{filled}"),
        "with its count of committed rows"
    );
    assert_eq!(s.count("SELECT count(*) FROM ntt_mime.progress"), 0);
    // The session goes on, and may run another.
    assert_eq!(caller.count("SELECT 1::bigint"), 1);
    check_goes_on(&mut caller);
}

#[test]
fn statement_timeout_stops_it() {
    let (db, _store, mut s) = archive("timeout");
    let mut caller = db.connect();
    caller.exec("SET ntt_mime.batch_delay = '150ms'; SET statement_timeout = '2500ms'");
    let (mut caller, result) = caller.call_in_background("40").finish();
    assert_error(result, "57014", "statement timeout");
    db.wait_for_no_workers(STOPPED);
    assert_eq!(s.column("SELECT status FROM ntt_mime.run"), ["cancelled"]);
    caller.exec("RESET statement_timeout");
    check_goes_on(&mut s);
}

#[test]
fn the_leader_is_terminated() {
    let (db, _store, mut s) = archive("kill_leader");
    let (running, run_id) = start(&db, &mut s, "40");
    s.exec(&format!("SELECT pg_terminate_backend({})", running.pid));
    let (_, result) = running.finish();
    assert!(result.is_err());
    db.wait_for_no_workers(STOPPED);
    wait_until(STOPPED, "its progress to go", || {
        s.count("SELECT count(*) FROM ntt_mime.progress") == 0
    });
    check_interrupted(&mut s, run_id);
}

/// Terminates workers of a run, which ends it. One that has said what it does has begun; before that it would count
/// as one that couldn't be started.
fn terminate_workers(db: &TestDb, s: &mut Session, how_many: i64) {
    let (running, run_id) = start(db, s, "40");
    let at_work = "backend_type = 'ntt_mime worker' AND datname = current_database() AND query LIKE 'ntt_mime run%'";
    wait_until(SOON, "both workers to be at work", || {
        s.count(&format!(
            "SELECT count(*) FROM pg_stat_activity WHERE {at_work}"
        )) == 2
    });
    let terminated = s.count(&format!(
        "SELECT count(pg_terminate_backend(pid))
           FROM (SELECT pid FROM pg_stat_activity WHERE {at_work} LIMIT {how_many}) w"
    ));
    assert_eq!(terminated, how_many);
    const MESSAGE: &str = "a background worker of the run was terminated";
    assert_error(running.finish().1, "57P01", MESSAGE);
    db.wait_for_no_workers(STOPPED);
    assert_eq!(
        s.run_row(run_id, "status, error"),
        format!("failed|57P01: {MESSAGE}")
    );
    check_goes_on(s);
}

#[test]
fn a_worker_is_terminated() {
    let (db, _store, mut s) = archive("kill_worker");
    terminate_workers(&db, &mut s, 1);
}

#[test]
fn all_workers_are_terminated() {
    let (db, _store, mut s) = archive("kill_workers");
    terminate_workers(&db, &mut s, 2);
}

#[test]
fn the_server_shuts_down() {
    let cluster = Cluster::start(&[]);
    let (db, _store, mut s) = archive_on(&cluster, "shutdown");
    let (running, run_id) = start(&db, &mut s, "40");
    drop(s);
    cluster.stop(Shutdown::Fast);
    assert!(running.finish().1.is_err());
    cluster.launch();
    check_interrupted(&mut db.connect(), run_id);
}

#[test]
fn the_server_crashes() {
    let cluster = Cluster::start(&[]);
    let (mut db, _store, mut s) = archive_on(&cluster, "crash");
    db.expect_crash();
    let (running, run_id) = start(&db, &mut s, "40");
    // Commits may be asynchronous, as lost batches are simply done again: then they are on disk a little later.
    let filled = inode::check_partly_filled(&mut s, "inode");
    let written: String = s.value("SELECT pg_current_wal_insert_lsn()::text");
    wait_until(SOON, "the commits so far to be on disk", || {
        s.value(&format!("SELECT pg_current_wal_flush_lsn() >= '{written}'"))
    });
    assert!(!running.is_finished());
    drop(s);
    cluster.stop(Shutdown::Immediate);
    assert!(running.finish().1.is_err());
    cluster.launch();
    let mut s = db.connect();
    assert!(
        inode::check_partly_filled(&mut s, "inode") >= filled,
        "batches of before have gone"
    );
    check_interrupted(&mut s, run_id);
}

/// What a loader does all day, in statements that must neither fail nor wait for the run.
#[test]
fn loaders_go_on_beside_it() {
    let (db, store, mut s) = archive("loader");
    // Two further leaves, to be dropped and truncated, large enough to be worked on for a while.
    for medium in ["dropped", "truncated", "detached"] {
        s.exec(&format!(
            "CALL add_leaf('{medium}');
             INSERT INTO inode (medium_hash, ino, blobid) SELECT '{medium}', n, blobid FROM source"
        ));
    }
    // A leaf that a foreign key points to can be neither truncated nor dropped.
    s.exec("CREATE TABLE late (blobid text, mime text); DROP TABLE path");
    let (running, _) = start(&db, &mut s, "20");
    let mut loader = db.connect();
    // A statement that waits this long is one that the run blocks.
    loader.exec("SET lock_timeout = '10s'");

    let started = Instant::now();
    let mut rounds = 0;
    let mut detached = None;
    while !running.is_finished() && rounds < 40 {
        rounds += 1;
        // A new medium arrives, created in place or attached, and rows for old ones.
        let blobid = store.put(format!("#!/bin/sh\necho late {rounds}\n").as_bytes());
        if rounds % 2 == 0 {
            loader.exec(&format!("CALL add_leaf('late{rounds}')"));
        } else {
            loader.exec(&format!(
                "CREATE TABLE inode_late{rounds} (LIKE inode INCLUDING DEFAULTS INCLUDING INDEXES);
                 ALTER TABLE inode ATTACH PARTITION inode_late{rounds} FOR VALUES IN ('late{rounds}')"
            ));
        }
        // Each statement is a transaction of its own, or the user's trigger on queue_stats could deadlock with any
        // update: it locks the one row of that table until the end.
        let medium = rounds % 5;
        loader.exec(&format!(
            "INSERT INTO late VALUES ('{blobid}', 'text/x-shellscript')"
        ));
        loader.exec(&format!(
            "INSERT INTO inode (medium_hash, ino, blobid) VALUES ('late{rounds}', 1, '{blobid}')"
        ));
        loader.exec(&format!(
            "INSERT INTO inode (medium_hash, ino, blobid) VALUES ('m{medium}', {}, '{blobid}')",
            2_000_000 + rounds
        ));
        loader.exec(&format!(
            "UPDATE inode SET copied_to = 'moved' WHERE medium_hash = 'm{medium}' AND ino % 40 = {rounds}"
        ));
        match rounds {
            3 => loader.exec("DROP TABLE inode_dropped"),
            5 => loader.exec("TRUNCATE inode_truncated"),
            7 => {
                loader.exec("ALTER TABLE inode DETACH PARTITION inode_detached");
                detached = Some(inode::pending(&mut loader, "inode_detached"));
            }
            9 => loader.exec("ALTER TABLE inode DETACH PARTITION inode_m5 CONCURRENTLY"),
            _ => {}
        }
        std::thread::sleep(Duration::from_millis(250));
    }
    println!("{rounds} rounds in {:?}", started.elapsed());
    let detached = detached.expect("the run lasted until a leaf was detached");
    assert!(
        detached > 0,
        "the detached leaf had been finished before: nothing is shown by leaving it alone"
    );
    let (_, outcome) = running.succeed();
    assert_eq!(
        inode::pending(&mut s, "inode_detached"),
        detached,
        "a detached leaf isn't the target's any more"
    );
    assert_eq!(s.run_row(outcome.run_id, "status"), "succeeded");
    println!(
        "{} rows were left, {} are pending now",
        s.run_row(outcome.run_id, "rows_left"),
        inode::pending(&mut s, "inode")
    );

    s.backfill("1000");
    assert_eq!(
        inode::pending(&mut s, "inode"),
        0,
        "at most one more run is needed"
    );
    let wrong = s.table(
        "SELECT i.tableoid::regclass, blobid, mime_type, mime FROM inode i
           JOIN (SELECT blobid, mime FROM truth UNION ALL SELECT blobid, mime FROM late) t USING (blobid)
          WHERE mime_type IS DISTINCT FROM mime AND mime_type IS DISTINCT FROM 'application/x-kept' LIMIT 10",
    );
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(
        s.count("SELECT count(*) FROM inode WHERE copied_to = 'moved' AND mime_type IS NOT NULL")
            > 0
    );
}

#[test]
fn a_leaf_is_locked_for_a_while() {
    let (db, _store, mut s) = archive("locked_a_while");
    let mut ddl = db.connect();
    ddl.exec("BEGIN; LOCK TABLE ONLY inode_m0 IN ACCESS EXCLUSIVE MODE");
    let mut caller = db.connect();
    caller.exec("SET ntt_mime.lock_timeout = '200ms'; SET ntt_mime.batch_delay = '200ms'");
    let running = caller.call_in_background("100");
    wait_until(SOON, "the run to get on with the others", || {
        assert!(
            !running.is_finished(),
            "it ended without waiting for the others"
        );
        s.count("SELECT count(*) FROM inode_m1 WHERE mime_type <> 'application/x-kept'") > 0
    });
    ddl.exec("COMMIT");
    let (_, outcome) = running.succeed();
    inode::check_filled(&mut s, "inode");
    assert_eq!(
        outcome.rows_updated,
        inode::expected(&mut s).rows,
        "it came back to the leaf"
    );
}

#[test]
fn a_row_is_locked_by_another_session() {
    let (db, _store, mut s) = archive("row_lock");
    let mut other = db.connect();
    other.exec("BEGIN");
    let ino = other.count(
        "SELECT ino FROM inode_m0 WHERE blobid IS NOT NULL AND mime_type IS NULL ORDER BY ino LIMIT 1 FOR UPDATE",
    );
    s.exec("SET ntt_mime.lock_timeout = '200ms'");
    // One worker: two might wait for each other, at the row that their trigger counts in.
    let outcome = s.backfill("50, workers => 1");
    let filled = inode::check_partly_filled(&mut s, "inode");
    assert_eq!(outcome.rows_updated, filled);
    assert_eq!(filled, inode::expected(&mut s).rows - 1);
    // It was looked for in each of the three passes.
    assert_eq!(
        s.run_row(outcome.run_id, "status, rows_left, rows_retried"),
        "succeeded|1|3"
    );
    assert_eq!(
        s.count(&format!(
            "SELECT count(*) FROM inode WHERE ino = {ino} AND mime_type IS NULL"
        )),
        1
    );
    other.exec("COMMIT");
    assert_eq!(s.backfill("50").rows_updated, 1);
    inode::check_filled(&mut s, "inode");
}

/// Locks a table of the extension's in another session.
fn lock(db: &TestDb, table: &str) -> Session {
    let mut dba = db.connect();
    dba.exec(&format!(
        "BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE"
    ));
    dba
}

/// Waits until somebody waits for a table; since when, if not since `before`.
fn wait_for_waiter(s: &mut Session, running: &Background, table: &str, before: &str) -> String {
    let waiting_since = format!(
        "SELECT waitstart::text FROM pg_locks
          WHERE NOT granted AND waitstart IS NOT NULL AND relation = '{table}'::regclass
            AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    );
    wait_for(SOON, "somebody to wait for the table", || {
        assert!(!running.is_finished(), "it was over before that");
        s.column(&waiting_since).pop().filter(|now| now != before)
    })
}

/// Locks a table of the extension's until somebody has waited for it in vain, for five seconds, and tries again.
fn lock_until_tried_again(db: &TestDb, s: &mut Session, running: &Background, table: &str) {
    let mut dba = lock(db, table);
    let first = wait_for_waiter(s, running, table, "");
    wait_for_waiter(s, running, table, &first);
    dba.exec("COMMIT");
}

/// A row whose blob isn't there, at the end of its leaf: the run goes on when it comes to it.
fn add_an_absent_blob(s: &mut Session) -> String {
    let absent = absent_blobid(0);
    s.exec(&format!(
        "INSERT INTO inode (medium_hash, ino, blobid) VALUES ('m1', 1000000, '{absent}')"
    ));
    inode::remember(s, "inode");
    absent
}

#[test]
fn the_runs_row_is_locked_for_a_while() {
    let (db, _store, mut s) = archive("run_locked");
    let (running, run_id) = start(&db, &mut s, "20");
    lock_until_tried_again(&db, &mut s, &running, "ntt_mime.run");
    let (_, outcome) = running.succeed();
    let expected = inode::expected(&mut s).rows;
    assert_eq!(outcome.rows_updated, expected);
    assert_eq!(
        s.run_row(run_id, "status, rows_updated, rows_left, error IS NULL"),
        format!("succeeded|{expected}|0|t")
    );
    inode::check_filled(&mut s, "inode");
}

#[test]
fn the_record_of_failures_is_locked_for_a_while() {
    let (db, _store, mut s) = archive("failure_locked");
    let absent = add_an_absent_blob(&mut s);
    let (running, run_id) = start(&db, &mut s, "40");
    lock_until_tried_again(&db, &mut s, &running, "ntt_mime.failure");
    let (_, outcome) = running.succeed();
    let expected = inode::expected(&mut s).rows;
    assert_eq!((outcome.rows_updated, outcome.failures), (expected, 1));
    assert_eq!(
        s.run_row(run_id, "status, rows_left, error IS NULL"),
        "succeeded|1|t"
    );
    assert_eq!(
        s.table("SELECT blobid, reason, attempts FROM ntt_mime.failure"),
        [format!("{absent}|missing|1")]
    );
    inode::check_filled(&mut s, "inode");
}

#[test]
fn a_cancel_is_answered_while_the_record_of_failures_is_locked() {
    let (db, _store, mut s) = archive("failure_locked_cancel");
    add_an_absent_blob(&mut s);
    let (running, run_id) = start(&db, &mut s, "40");
    let mut dba = lock(&db, "ntt_mime.failure");
    wait_for_waiter(&mut s, &running, "ntt_mime.failure", "");
    assert!(s.value::<bool>(&format!("SELECT ntt_cancel_backfill({run_id})")));
    running.succeed();
    assert_eq!(s.run_row(run_id, "status, error IS NULL"), "cancelled|t");
    dba.exec("COMMIT");
    s.backfill("");
    inode::check_filled(&mut s, "inode");
}

#[test]
fn the_runs_row_is_locked_at_its_end() {
    let (db, _store, mut s) = archive("run_locked_end");
    let (running, run_id) = start(&db, &mut s, "100");
    // From before the last batch on: what is left to be done then is done.
    let mut dba = lock(&db, "ntt_mime.run");
    let expected = inode::expected(&mut s).rows;
    wait_until(SOON, "all rows to be filled", || {
        s.count(&format!(
            "SELECT count(*) FROM inode WHERE mime_type <> '{}'",
            inode::KEPT
        )) >= expected
    });
    let mut before = String::new();
    for _ in 0..3 {
        before = wait_for_waiter(&mut s, &running, "ntt_mime.run", &before);
    }
    dba.exec("COMMIT");
    running.succeed();
    assert_eq!(s.run_row(run_id, "status, rows_left"), "succeeded|0");
    inode::check_filled(&mut s, "inode");
}

#[test]
fn a_warning_that_the_client_cannot_show_ends_no_run() {
    let (db, _store, mut s) = archive("latin1_warning");
    s.exec(
        "CALL add_leaf('漢');
         INSERT INTO inode (medium_hash, ino, blobid) SELECT '漢', n, blobid FROM source",
    );
    inode::remember(&mut s, "inode");
    let total = inode::expected(&mut s).rows;
    let locked = inode::pending(&mut s, "\"inode_漢\"");
    let mut ddl = db.connect();
    ddl.exec("BEGIN; LOCK TABLE ONLY \"inode_漢\" IN ACCESS EXCLUSIVE MODE");
    let mut caller = db.connect();
    caller.exec("SET client_encoding = 'LATIN1'; SET ntt_mime.lock_timeout = '100ms'");
    let outcome = caller.backfill("1000");
    assert_eq!(
        caller.take_warnings(),
        [
            "1 leaf was not filled completely because of locks held by others | It is \"public.inode_\\u{6f22}\". | \
             The next run will try again."
        ]
    );
    assert_eq!(s.run_row(outcome.run_id, "status"), "succeeded");
    assert_eq!(outcome.rows_updated, total - locked);
    let advisory = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'
                       AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    assert_eq!(s.count(advisory), 0, "locks of a run that is over");
    ddl.exec("COMMIT");
    assert_eq!(caller.backfill("1000").rows_updated, locked);
    inode::check_filled(&mut s, "inode");
}

#[test]
fn a_row_changes_while_a_batch_waits_for_it() {
    let (db, store, mut s) = archive("row_change");
    // Another session gives one row another blob, one a type and one no blob, and commits while the run waits.
    let pdf = store.put(b"%PDF-1.7\n% another one\n");
    // So that the worker waits for the rows and not for the trigger's row of queue_stats.
    s.exec("DROP TRIGGER upd ON inode_m0");
    // So that the new versions of the rows come to lie before the old ones, among the rows of the first batch: there
    // they are looked at again under the batch's own conditions.
    s.exec("DROP TABLE path; DELETE FROM inode_m0 WHERE ctid < '(0,10)'");
    s.exec("VACUUM inode_m0");
    let mut other = db.connect();
    other.exec(&format!(
        "BEGIN;
         CREATE TABLE changed AS
             SELECT ino, row_number() OVER (ORDER BY ctid) AS n FROM inode_m0
              WHERE blobid IS NOT NULL AND mime_type IS NULL ORDER BY ctid LIMIT 3;
         UPDATE inode_m0 i SET blobid = '{pdf}' FROM changed c WHERE c.ino = i.ino AND c.n = 1;
         UPDATE inode_m0 i SET mime_type = 'application/x-by-hand' FROM changed c WHERE c.ino = i.ino AND c.n = 2;
         UPDATE inode_m0 i SET blobid = NULL FROM changed c WHERE c.ino = i.ino AND c.n = 3"
    ));
    let mut caller = db.connect();
    caller.exec("SET ntt_mime.lock_timeout = '10s'; SET ntt_mime.batch_delay = '20ms'");
    let running = caller.call_in_background("50");
    db.wait_for_waiting_worker();
    other.exec("COMMIT");
    let (_, outcome) = running.succeed();
    assert_eq!(s.run_counter(outcome.run_id, "rows_retried"), 3);
    let moved_ahead = s.count(
        "SELECT count(*) FROM inode_m0 JOIN changed USING (ino) WHERE inode_m0.ctid < '(0,10)'",
    );
    assert!(moved_ahead > 0, "the new versions lie elsewhere");
    assert_eq!(
        s.table("SELECT n, mime_type FROM inode_m0 JOIN changed USING (ino) ORDER BY n"),
        ["1|application/pdf", "2|application/x-by-hand", "3|"]
    );
    assert_eq!(inode::pending(&mut s, "inode"), 0);
}

/// How long each backend has been in the same state, as seen from outside.
#[derive(Default)]
struct Ages {
    since: BTreeMap<i32, (String, Instant)>,
    longest: Duration,
}

impl Ages {
    /// `state` is empty when the backend has none now.
    fn see(&mut self, pid: i32, state: &str) {
        if state.is_empty() {
            self.since.remove(&pid);
            return;
        }
        let (known, since) = self
            .since
            .entry(pid)
            .or_insert_with(|| (state.to_owned(), Instant::now()));
        if known != state {
            (*known, *since) = (state.to_owned(), Instant::now());
        }
        self.longest = self.longest.max(since.elapsed());
    }
}

/// What was seen of one backend at one moment.
#[derive(Debug, Default)]
struct Sample {
    writing: BTreeSet<String>,
    parents: BTreeSet<String>,
    modes: BTreeSet<String>,
}

#[test]
fn it_holds_little_while_it_works() {
    let (db, _store, mut s) = archive("holds");
    // Each batch lasts, so that its locks are seen.
    s.exec(
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN PERFORM pg_catalog.pg_sleep(0.05); RETURN NULL; END'",
    );
    for leaf in 0..6 {
        s.exec(&format!(
            "CREATE TRIGGER slow AFTER UPDATE ON inode_m{leaf} FOR EACH STATEMENT EXECUTE FUNCTION slow()"
        ));
    }
    let (running, _) = start(&db, &mut s, "20");
    let leader = running.pid;
    let started = Instant::now();

    let mut seen_writing = 0;
    let mut queries = BTreeSet::new();
    let mut users = BTreeSet::new();
    // Since when each backend has had its transaction, and since when that has held the xmin horizon.
    let mut transactions = Ages::default();
    let mut horizons = Ages::default();
    while !running.is_finished() {
        let locks = s
            .query(
                "SELECT l.pid, l.mode, c.oid::regclass::text, c.relkind::text
                   FROM pg_locks l JOIN pg_stat_activity a USING (pid) JOIN pg_class c ON c.oid = l.relation
                  WHERE (a.backend_type = 'ntt_mime worker' AND a.datname = current_database() OR a.pid = $1)
                    AND l.locktype = 'relation' AND l.granted
                    AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
                    AND (c.oid = 'inode'::regclass OR c.oid IN (SELECT inhrelid FROM pg_inherits)
                         OR c.relnamespace = 'public'::regnamespace)",
                &[&leader],
            )
            .expect("reads");
        let mut samples: BTreeMap<i32, Sample> = BTreeMap::new();
        for row in locks {
            let (pid, mode, relation, kind): (i32, String, String, String) =
                (row.get(0), row.get(1), row.get(2), row.get(3));
            let sample = samples.entry(pid).or_default();
            if kind == "r" && relation.starts_with("inode_m") && mode == "RowExclusiveLock" {
                sample.writing.insert(relation.clone());
            }
            if kind == "p" {
                sample.parents.insert(relation);
            }
            sample.modes.insert(mode);
        }
        for (pid, sample) in samples {
            assert!(
                sample.writing.len() <= 1,
                "{pid} holds more than one leaf: {sample:?}"
            );
            if !sample.writing.is_empty() {
                seen_writing += 1;
                assert_ne!(pid, leader, "the leader updates rows: {sample:?}");
                assert!(
                    sample.parents.is_empty(),
                    "a lock on the parent while rows are updated: {sample:?}"
                );
            }
            for mode in &sample.modes {
                assert!(
                    ["AccessShareLock", "RowShareLock", "RowExclusiveLock"]
                        .contains(&mode.as_str()),
                    "{pid} holds {mode}, which conflicts with itself or is exclusive"
                );
            }
        }
        let backends = s
            .query(
                "SELECT pid, pid = $1, coalesce(backend_xmin::text, ''), coalesce(xact_start::text, ''), query, usename::text
                   FROM pg_stat_activity
                  WHERE backend_type = 'ntt_mime worker' AND datname = current_database() OR pid = $1",
                &[&leader],
            )
            .expect("reads");
        for row in backends {
            let (pid, is_leader, xmin, xact): (i32, bool, String, String) =
                (row.get(0), row.get(1), row.get(2), row.get(3));
            if !is_leader {
                queries.extend(row.get::<_, Option<String>>(4));
                users.extend(row.get::<_, Option<String>>(5));
            }
            transactions.see(pid, &xact);
            horizons.see(pid, if xmin.is_empty() { "" } else { &xact });
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    running.succeed();
    println!(
        "transactions {:?}, horizon {:?}, {seen_writing} samples",
        transactions.longest, horizons.longest
    );
    assert!(
        seen_writing >= 20,
        "too few samples ({seen_writing}) to say anything"
    );
    assert!(
        started.elapsed() > Duration::from_secs(11),
        "too short a run to see an old transaction"
    );
    assert!(
        transactions.longest < Duration::from_secs(10),
        "a transaction of {:?}",
        transactions.longest
    );
    assert!(
        horizons.longest < Duration::from_secs(2),
        "the horizon was held for {:?}",
        horizons.longest
    );
    assert!(
        queries.iter().any(|q| q.contains("inode")),
        "workers say what they do: {queries:?}"
    );
    assert_eq!(users.into_iter().collect::<Vec<_>>(), ["postgres"]);
    inode::check_filled(&mut s, "inode");
}

#[test]
fn workers_act_as_the_caller() {
    let (db, _store, mut s) = archive("identity");
    let caller = db.role("caller", "LOGIN");
    let group = db.role("group", "NOLOGIN");
    s.exec(&format!(
        "GRANT {group} TO {caller};
         GRANT EXECUTE ON PROCEDURE ntt_backfill_mime TO {caller}, {group};
         GRANT SELECT, UPDATE ON ALL TABLES IN SCHEMA public TO {caller}, {group};
         CREATE TABLE who (role text);
         GRANT INSERT ON who TO PUBLIC;
         CREATE FUNCTION who() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN INSERT INTO public.who VALUES (current_user); RETURN NULL; END'"
    ));
    for leaf in 0..6 {
        s.exec(&format!("CREATE TRIGGER who AFTER UPDATE ON inode_m{leaf} FOR EACH STATEMENT EXECUTE FUNCTION who()"));
    }
    let mut session = db.connect_as(&caller);
    let outcome = session.backfill("500, max_blobs => 100");
    assert!(outcome.rows_updated > 0);
    assert_eq!(
        s.column("SELECT DISTINCT role FROM who"),
        std::slice::from_ref(&caller)
    );

    // A superuser who has taken the caller's place.
    s.exec("TRUNCATE who");
    let mut superuser = db.connect();
    superuser.exec(&format!("SET SESSION AUTHORIZATION {caller}"));
    let outcome = superuser.backfill("500, max_blobs => 100");
    assert!(outcome.rows_updated > 0);
    assert_eq!(
        s.column("SELECT DISTINCT role FROM who"),
        std::slice::from_ref(&caller)
    );

    // A role that can't log in, but that one may become.
    s.exec("TRUNCATE who");
    session.exec(&format!("SET ROLE {group}"));
    let outcome = session.backfill("500");
    assert!(outcome.rows_updated > 0);
    assert_eq!(
        s.column("SELECT DISTINCT role FROM who"),
        std::slice::from_ref(&group)
    );
    assert_eq!(
        s.column("SELECT role_name FROM ntt_mime.run ORDER BY run_id"),
        [caller.clone(), caller, group]
    );
    inode::check_filled(&mut s, "inode");
}
