//! A run among other sessions: watched, cancelled, killed, disturbed by loaders and locks; and what it holds while
//! it works.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use ntt_mime_integration::cluster::Shutdown;
use ntt_mime_integration::{
    Background, Cluster, Session, Store, TestDb, assert_error, errors, inode, wait_for, wait_until,
};

const SOON: Duration = Duration::from_secs(20);

/// How long stopped workers may take: "a second or so", and a loaded machine.
const STOPPED: Duration = Duration::from_secs(5);

/// A database with the user's `inode`, 6 leaves and 3,000 rows, for runs that last a few seconds.
struct Archive<'c> {
    db: TestDb<'c>,
    store: Store,
    s: Session,
}

fn archive(name: &str) -> Archive<'static> {
    archive_on(Cluster::shared(), name)
}

fn archive_on<'c>(cluster: &'c Cluster, name: &str) -> Archive<'c> {
    let db = TestDb::on(cluster, name);
    let store = Store::new();
    db.use_store(&store);
    let mut s = db.connect();
    inode::partitioned(&mut s, 6);
    inode::load_source(&mut s, &store.put_synthetic(600));
    inode::fill(&mut s, 6, 5);
    inode::remember(&mut s, "inode");
    Archive { db, store, s }
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

fn status(s: &mut Session, run_id: i64) -> String {
    s.value(&format!(
        "SELECT status FROM ntt_mime.run WHERE run_id = {run_id}"
    ))
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
    assert_eq!(status(s, rest.run_id), "succeeded");
}

#[test]
fn progress_is_seen_and_fresh() {
    let Archive {
        db,
        mut s,
        store: _store,
    } = archive("progress");
    let (running, run_id) = start(&db, &mut s, "40");
    let total = inode::expected(&mut s).rows;
    // What the view says and what is committed, in one snapshot, until the run ends.
    let mut samples: Vec<(Instant, i64, i64)> = Vec::new();
    let mut percents: Vec<f64> = Vec::new();
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
    assert!(percents.is_sorted(), "{percents:?}");
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
    let Archive {
        db,
        mut s,
        store: _store,
    } = archive("notices");
    let (running, _) = start(&db, &mut s, "30");
    let notice = wait_for(
        Duration::from_secs(30),
        "a NOTICE with a percentage",
        || {
            assert!(
                !running.is_finished(),
                "no progress was told: {:#?}",
                running.notices()
            );
            running
                .notices()
                .into_iter()
                .find(|n| n.severity == "NOTICE" && n.message.contains('%'))
        },
    );
    let done = inode::check_partly_filled(&mut s, "inode");
    println!("{done} rows: {}", notice.words);
    assert!(
        notice.words.contains("/s") || notice.words.contains("per second"),
        "a rate: {}",
        notice.words
    );
    assert!(
        notice.words.contains("left") || notice.words.contains("remaining"),
        "time left: {}",
        notice.words
    );
    running.succeed();
}

#[test]
fn another_session_cancels() {
    let Archive {
        db,
        mut s,
        store: _store,
    } = archive("cancel");
    let (running, run_id) = start(&db, &mut s, "40");
    assert!(
        !s.value::<bool>(&format!("SELECT ntt_cancel_backfill({})", run_id + 1000)),
        "no such run"
    );
    assert!(s.value::<bool>(&format!("SELECT ntt_cancel_backfill({run_id})")));
    let (_, result) = running.finish();
    // A run that was asked to stop has done as told: whether CALL then returns or says 57014 is its own to decide.
    match result {
        Ok(outcome) => assert_eq!(outcome.run_id, run_id),
        Err(e) => assert_eq!(e.code().expect("a server's error").code(), "57014"),
    }
    assert_eq!(status(&mut s, run_id), "cancelled");
    db.wait_for_no_workers(STOPPED);
    let counted = s.count(&format!(
        "SELECT rows_updated FROM ntt_mime.run WHERE run_id = {run_id}"
    ));
    assert_eq!(counted, inode::check_partly_filled(&mut s, "inode"));
    assert!(
        !s.value::<bool>(&format!("SELECT ntt_cancel_backfill({run_id})")),
        "it is over"
    );
    check_goes_on(&mut s);
}

#[test]
fn only_owner_and_superuser_cancel() {
    let Archive {
        db,
        mut s,
        store: _store,
    } = archive("cancel_rights");
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
    let run_id = s_run_id(&mut s);
    assert_eq!(
        s.column("SELECT role_name FROM ntt_mime.run"),
        std::slice::from_ref(&owner)
    );
    let cancel = format!("SELECT ntt_cancel_backfill({run_id})");
    assert_error(db.connect_as(&other).query(&cancel, &[]), "42501", "");
    assert!(!running.is_finished());
    assert!(db.connect_as(&owner).value::<bool>(&cancel));
    let _ = running.finish();
    assert_eq!(status(&mut s, run_id), "cancelled");
}

fn s_run_id(s: &mut Session) -> i64 {
    wait_for(SOON, "a running run", || {
        s.query_opt("SELECT run_id FROM ntt_mime.progress", &[])
            .expect("reads")
            .map(|row| row.get(0))
    })
}

#[test]
fn ctrl_c_cancels() {
    let Archive {
        db,
        mut s,
        store: _store,
    } = archive("ctrl_c");
    let (running, run_id) = start(&db, &mut s, "40");
    running.cancel();
    let (mut caller, result) = running.finish();
    assert_error(result, "57014", "cancel");
    db.wait_for_no_workers(STOPPED);
    assert_eq!(status(&mut s, run_id), "cancelled");
    assert_eq!(
        s.count(&format!(
            "SELECT rows_updated FROM ntt_mime.run WHERE run_id = {run_id}"
        )),
        inode::check_partly_filled(&mut s, "inode"),
        "the run's count of committed rows"
    );
    assert_eq!(s.count("SELECT count(*) FROM ntt_mime.progress"), 0);
    // The session goes on, and may run another.
    assert_eq!(caller.count("SELECT 1::bigint"), 1);
    check_goes_on(&mut caller);
}

#[test]
fn statement_timeout_stops_it() {
    let Archive {
        db,
        mut s,
        store: _store,
    } = archive("timeout");
    let mut caller = db.connect();
    caller.exec("SET ntt_mime.batch_delay = '150ms'; SET statement_timeout = '2500ms'");
    let (mut caller, result) = caller.call_in_background("40").finish();
    assert_error(result, "57014", "statement timeout");
    db.wait_for_no_workers(STOPPED);
    let statuses = s.column("SELECT status FROM ntt_mime.run");
    assert!(
        statuses == ["cancelled"] || statuses == ["failed"],
        "{statuses:?}"
    );
    caller.exec("RESET statement_timeout");
    check_goes_on(&mut s);
}

#[test]
fn the_leader_is_terminated() {
    let Archive {
        db,
        mut s,
        store: _store,
    } = archive("kill_leader");
    let (running, run_id) = start(&db, &mut s, "40");
    s.exec(&format!("SELECT pg_terminate_backend({})", running.pid));
    let (_, result) = running.finish();
    assert!(result.is_err());
    db.wait_for_no_workers(STOPPED);
    wait_until(STOPPED, "its progress to go", || {
        s.count("SELECT count(*) FROM ntt_mime.progress") == 0
    });
    check_goes_on(&mut s);
    let status = status(&mut s, run_id);
    assert!(
        ["interrupted", "cancelled", "failed"].contains(&status.as_str()),
        "{status}"
    );
    assert_eq!(
        s.count(&format!(
            "SELECT count(*) FROM ntt_mime.run WHERE run_id = {run_id} AND finished_at IS NOT NULL"
        )),
        1
    );
}

#[test]
fn a_worker_is_terminated() {
    let Archive {
        db,
        mut s,
        store: _store,
    } = archive("kill_worker");
    let (running, run_id) = start(&db, &mut s, "40");
    let killed = s.count(
        "SELECT count(pg_terminate_backend(pid)) FROM (SELECT pid FROM pg_stat_activity
          WHERE backend_type = 'ntt_mime worker' AND datname = current_database() LIMIT 1) w",
    );
    assert_eq!(killed, 1);
    let (_, result) = running.finish();
    match result {
        // It went on with the other one: then everything has to be done.
        Ok(outcome) => {
            inode::check_filled(&mut s, "inode");
            assert_eq!(outcome.rows_updated, inode::expected(&mut s).rows);
            assert_eq!(status(&mut s, run_id), "succeeded");
        }
        Err(e) => {
            let error = e.as_db_error().expect("the leader lives");
            assert!(
                errors::words(error).contains("worker"),
                "{}",
                errors::words(error)
            );
            assert_eq!(status(&mut s, run_id), "failed");
            assert!(
                s.count(&format!(
                    "SELECT count(*) FROM ntt_mime.run WHERE run_id = {run_id} AND error <> ''"
                )) == 1
            );
            check_goes_on(&mut s);
        }
    }
    db.wait_for_no_workers(STOPPED);
}

#[test]
fn all_workers_are_terminated() {
    let Archive {
        db,
        mut s,
        store: _store,
    } = archive("kill_workers");
    let (running, run_id) = start(&db, &mut s, "40");
    s.exec(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
          WHERE backend_type = 'ntt_mime worker' AND datname = current_database()",
    );
    let (_, result) = running.finish();
    let error = result.expect_err("nobody is left to do the work");
    assert!(errors::words(error.as_db_error().expect("the leader lives")).contains("worker"));
    assert_eq!(status(&mut s, run_id), "failed");
    check_goes_on(&mut s);
    db.wait_for_no_workers(STOPPED);
}

#[test]
fn the_server_shuts_down() {
    let cluster = Cluster::start(&[]);
    let Archive {
        db,
        mut s,
        store: _store,
    } = archive_on(&cluster, "shutdown");
    let (running, run_id) = start(&db, &mut s, "40");
    drop(s);
    let took = cluster.stop(Shutdown::Fast);
    assert!(running.finish().1.is_err());
    // A server that waits for its workers hangs until it is killed (`stop` gives it a minute).
    assert!(
        took < Duration::from_secs(15),
        "shutting down took {took:?}"
    );
    cluster.launch();
    let mut s = db.connect();
    assert_eq!(
        s.count("SELECT count(*) FROM ntt_mime.progress"),
        0,
        "nothing runs after a restart"
    );
    check_goes_on(&mut s);
    let status = status(&mut s, run_id);
    assert!(
        ["interrupted", "cancelled", "failed"].contains(&status.as_str()),
        "{status}"
    );
}

#[test]
fn the_server_crashes() {
    let cluster = Cluster::start(&[]);
    let Archive {
        mut db,
        mut s,
        store: _store,
    } = archive_on(&cluster, "crash");
    db.expect_crash();
    let (running, run_id) = start(&db, &mut s, "40");
    // Commits may be asynchronous, as lost batches are simply done again: then they are on disk a little later.
    let filled = inode::check_partly_filled(&mut s, "inode");
    std::thread::sleep(Duration::from_millis(1500));
    assert!(!running.is_finished());
    drop(s);
    cluster.stop(Shutdown::Immediate);
    assert!(running.finish().1.is_err());
    cluster.launch();
    let mut s = db.connect();
    assert_eq!(
        s.count("SELECT count(*) FROM ntt_mime.progress"),
        0,
        "nothing runs after a restart"
    );
    assert!(
        inode::check_partly_filled(&mut s, "inode") >= filled,
        "batches of before have gone"
    );
    check_goes_on(&mut s);
    assert_eq!(status(&mut s, run_id), "interrupted");
}

/// What a loader does all day, in statements that must neither fail nor wait for the run.
#[test]
fn loaders_go_on_beside_it() {
    let Archive { db, mut s, store } = archive("loader");
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
    assert_eq!(status(&mut s, outcome.run_id), "succeeded");
    let left = s.count(&format!(
        "SELECT rows_left FROM ntt_mime.run WHERE run_id = {}",
        outcome.run_id
    ));
    println!(
        "{left} rows were left, {} are pending now",
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
fn a_leaf_is_locked_all_the_time() {
    let Archive {
        db,
        mut s,
        store: _store,
    } = archive("locked");
    let locked_rows = inode::pending(&mut s, "inode_m2");
    assert!(locked_rows > 0);
    let mut ddl = db.connect();
    ddl.exec("BEGIN; LOCK TABLE ONLY inode_m2 IN ACCESS EXCLUSIVE MODE");
    s.exec("SET ntt_mime.lock_timeout = '200ms'");
    let outcome = s.backfill("100");
    assert_eq!(status(&mut s, outcome.run_id), "succeeded");
    let (done, total): (i64, i64) = {
        let row = s
            .query_one("SELECT leaves_done::bigint, leaves_total::bigint FROM ntt_mime.run WHERE run_id = $1", &[&outcome.run_id])
            .expect("the run");
        (row.get(0), row.get(1))
    };
    assert_eq!((done, total), (5, 6), "the locked leaf counts as not done");
    ddl.exec("COMMIT");
    assert_eq!(inode::pending(&mut s, "inode_m2"), locked_rows);
    assert_eq!(
        inode::pending(&mut s, "inode"),
        locked_rows,
        "the others are filled"
    );
    let rest = s.backfill("100");
    assert_eq!(rest.rows_updated, locked_rows);
    inode::check_filled(&mut s, "inode");
}

#[test]
fn a_leaf_is_locked_for_a_while() {
    let Archive {
        db,
        mut s,
        store: _store,
    } = archive("locked_a_while");
    let mut ddl = db.connect();
    ddl.exec("BEGIN; LOCK TABLE ONLY inode_m0 IN ACCESS EXCLUSIVE MODE");
    let mut caller = db.connect();
    caller.exec("SET ntt_mime.lock_timeout = '200ms'; SET ntt_mime.batch_delay = '50ms'");
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
    let Archive {
        db,
        mut s,
        store: _store,
    } = archive("row_lock");
    let mut other = db.connect();
    other.exec("BEGIN");
    let ino = other.count(
        "SELECT ino FROM inode_m0 WHERE blobid IS NOT NULL AND mime_type IS NULL ORDER BY ino LIMIT 1 FOR UPDATE",
    );
    s.exec("SET ntt_mime.lock_timeout = '200ms'");
    let outcome = s.backfill("50");
    assert_eq!(status(&mut s, outcome.run_id), "succeeded");
    let left = inode::check_partly_filled(&mut s, "inode");
    assert_eq!(left, outcome.rows_updated);
    let pending = inode::pending(&mut s, "inode");
    assert!(
        (1..=50).contains(&pending),
        "{pending} rows pending: at most the batch of the locked row may wait"
    );
    assert_eq!(
        s.count(&format!(
            "SELECT rows_left FROM ntt_mime.run WHERE run_id = {}",
            outcome.run_id
        )),
        pending
    );
    assert_eq!(
        s.count(&format!(
            "SELECT count(*) FROM inode WHERE ino = {ino} AND mime_type IS NULL"
        )),
        1
    );
    other.exec("COMMIT");
    s.backfill("50");
    inode::check_filled(&mut s, "inode");
}

#[test]
fn a_row_changes_while_a_batch_waits_for_it() {
    let Archive { db, mut s, store } = archive("row_change");
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
    wait_until(SOON, "a worker to wait for the row", || {
        s.count(
            "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'ntt_mime worker'
                AND datname = current_database() AND wait_event_type = 'Lock'",
        ) > 0
    });
    other.exec("COMMIT");
    running.succeed();
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
    let Archive {
        db,
        mut s,
        store: _store,
    } = archive("holds");
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
    let Archive {
        db,
        mut s,
        store: _store,
    } = archive("identity");
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
