//! A verification behaves like a backfill, and keeps its promises: whatever ends it, and whoever else uses the table.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use ntt_mime_integration::cluster::Shutdown;
use ntt_mime_integration::opens::Opens;
use ntt_mime_integration::{
    Cluster, SOON, Session, Store, TestDb, assert_error, inode, store::absent_blobid, wait_for,
    wait_until,
};
use rustix::process::{Pid, Signal, kill_process};

use super::{Running, WRONG, in_background, try_verify, verify};

/// The user's `inode`, most rows of which have the detected type, and every third another one.
fn archive(name: &str) -> (TestDb<'static>, Store, Session) {
    archive_on(Cluster::shared(), name)
}

fn archive_on<'c>(cluster: &'c Cluster, name: &str) -> (TestDb<'c>, Store, Session) {
    let (db, store, mut s) = inode::archive_on(cluster, name, 4, 150, 4);
    s.exec(&format!(
        "DROP TABLE path;
         UPDATE inode SET mime_type = ntt_detect_mime(blobid) WHERE blobid IS NOT NULL;
         CREATE TABLE detected AS SELECT medium_hash, ino, mime_type FROM inode WHERE blobid IS NOT NULL;
         UPDATE inode SET mime_type = '{WRONG}' WHERE ino % 3 = 0 AND blobid IS NOT NULL;
         CREATE TABLE earlier AS SELECT medium_hash, ino, mime_type, xmin::text AS version,
                to_jsonb(inode) - 'mime_type' AS others FROM inode"
    ));
    (db, store, s)
}

/// Rows that differ from what they should have.
fn wrong(s: &mut Session) -> i64 {
    s.count("SELECT count(*) FROM inode JOIN detected t USING (medium_hash, ino) WHERE inode.mime_type <> t.mime_type")
}

fn typed_rows(s: &mut Session) -> i64 {
    s.count("SELECT count(*) FROM detected")
}

/// Rows are as they were, or have the detected type, and nothing else of them has changed; rows that agreed have not been touched.
#[track_caller]
fn check_nothing_else_changed(s: &mut Session) {
    let odd = s.table(
        "SELECT b.medium_hash, b.ino, b.mime_type, i.mime_type, t.mime_type
           FROM earlier b LEFT JOIN detected t USING (medium_hash, ino) LEFT JOIN inode i USING (medium_hash, ino)
          WHERE (to_jsonb(i) - 'mime_type') IS DISTINCT FROM b.others
             OR CASE WHEN i.xmin::text = b.version THEN i.mime_type IS DISTINCT FROM b.mime_type
                     ELSE i.mime_type IS DISTINCT FROM t.mime_type OR b.mime_type = t.mime_type END",
    );
    assert!(odd.is_empty(), "{odd:#?}");
}

/// Starts a correction in small batches with pauses between, and waits until it has corrected some rows.
fn start(db: &TestDb<'_>, s: &mut Session) -> (Running, i64, i32) {
    let mut caller = db.connect();
    caller.exec("SET ntt_mime.batch_delay = '100ms'");
    let pid = caller.pid;
    let all = wrong(s);
    let running = in_background(caller, "10, correct => true");
    wait_until(SOON, "some rows to be corrected", || {
        assert!(!running.is_finished(), "over before it could be watched");
        wrong(s) < all
    });
    let run_id = s.wait_for_run();
    (running, run_id, pid)
}

/// After a correction that was ended: what is committed stays, nothing is half-written, and the next one does the rest.
#[track_caller]
fn check_goes_on(s: &mut Session) {
    check_nothing_else_changed(s);
    let left = wrong(s);
    assert!(left > 0, "over before it was ended");
    let found = verify(s, "correct => true");
    assert_eq!(found.corrected, left);
    assert_eq!(wrong(s), 0);
    check_nothing_else_changed(s);
}

#[test]
fn ctrl_c_ends_it() {
    let (db, _store, mut s) = archive("vm_ctrl_c");
    let (running, run_id, pid) = start(&db, &mut s);
    s.exec(&format!("SELECT pg_cancel_backend({pid})"));
    let (mut caller, result) = running.join().expect("no panic");
    assert_error(result, "57014", "cancel");
    db.wait_for_no_workers(SOON);
    let corrected = s.count("SELECT count(*) FROM earlier") - s.count(
        "SELECT count(*) FROM earlier b JOIN inode i USING (medium_hash, ino) WHERE i.xmin::text = b.version");
    assert_eq!(
        s.run_row(run_id, "kind, status, rows_updated"),
        format!("verify|cancelled|{corrected}")
    );
    check_goes_on(&mut caller);
}

#[test]
fn a_statement_timeout_ends_it() {
    let (db, _store, mut s) = archive("vm_timeout");
    let mut caller = db.connect();
    caller.exec("SET ntt_mime.batch_delay = '200ms'; SET statement_timeout = '1500ms'");
    let (_caller, result) = in_background(caller, "10, correct => true")
        .join()
        .expect("no panic");
    assert_error(result, "57014", "statement timeout");
    db.wait_for_no_workers(SOON);
    check_goes_on(&mut s);
}

#[test]
fn its_leader_is_terminated() {
    let (db, _store, mut s) = archive("vm_leader");
    let (running, run_id, pid) = start(&db, &mut s);
    s.exec(&format!("SELECT pg_terminate_backend({pid})"));
    assert!(running.join().expect("no panic").1.is_err());
    db.wait_for_no_workers(SOON);
    check_goes_on(&mut s);
    assert_eq!(s.run_row(run_id, "status"), "interrupted");
}

fn pid_of_worker(s: &mut Session) -> i32 {
    wait_for(SOON, "a worker to be at work", || {
        let pids = s.column(
            "SELECT pid FROM pg_stat_activity WHERE backend_type = 'ntt_mime worker'
                AND datname = current_database() AND query LIKE 'ntt_mime run%'",
        );
        pids.first().map(|pid| pid.parse().expect("a pid"))
    })
}

#[test]
fn a_worker_is_terminated() {
    let (db, _store, mut s) = archive("vm_worker");
    let (running, run_id, _) = start(&db, &mut s);
    let worker = pid_of_worker(&mut s);
    s.exec(&format!("SELECT pg_terminate_backend({worker})"));
    assert_error(
        running.join().expect("no panic").1,
        "57P01",
        "was terminated",
    );
    db.wait_for_no_workers(SOON);
    assert_eq!(s.run_row(run_id, "status"), "failed");
    check_goes_on(&mut s);
}

#[test]
fn a_worker_is_killed_and_then_the_server() {
    let cluster = Cluster::start(&[]);
    let (mut db, _store, mut s) = archive_on(&cluster, "vm_killed");
    db.expect_crash();
    // A leaf is marked before it.
    s.exec("CREATE TABLE other AS SELECT blobid, ntt_detect_mime(blobid) AS mime_type FROM source");
    verify(&mut s, "target => 'other'");
    assert_eq!(s.count("SELECT count(*) FROM ntt_mime.verified_leaf"), 1);
    let (running, run_id, _) = start(&db, &mut s);
    let worker = pid_of_worker(&mut s);
    kill_process(Pid::from_raw(worker).expect("a process"), Signal::KILL)
        .expect("it can be killed");
    assert!(running.join().expect("no panic").1.is_err());
    drop(s);
    cluster.recover();
    let mut s = db.connect();
    // What had been counted is lost, and so is what was known by it.
    assert_eq!(s.count("SELECT count(*) FROM ntt_mime.verified_leaf"), 0);
    check_nothing_else_changed(&mut s);
    let (running, second, _) = start(&db, &mut s);
    assert_eq!(s.run_row(run_id, "status"), "interrupted");
    drop(s);
    cluster.stop(Shutdown::Immediate);
    assert!(running.join().expect("no panic").1.is_err());
    cluster.launch();
    let mut s = db.connect();
    check_goes_on(&mut s);
    assert_eq!(s.run_row(second, "status"), "interrupted");
}

#[test]
fn a_leaf_that_others_have_locked_holds_up_no_other() {
    let (db, _store, mut s) = archive("vm_leaf_locked");
    s.exec("SET ntt_mime.lock_timeout = '100ms'");
    let mut other = db.connect();
    for (arguments, lock, done) in [
        ("", "ACCESS EXCLUSIVE", "checked"),
        ("correct => true", "SHARE", "corrected"),
    ] {
        let left = s.count(&format!(
            "SELECT count(*) FROM inode WHERE medium_hash = 'm1' AND mime_type = '{WRONG}'"
        ));
        let before = wrong(&mut s);
        other.exec(&format!("BEGIN; LOCK TABLE inode_m1 IN {lock} MODE"));
        let found = verify(&mut s, arguments);
        other.exec("ROLLBACK");
        if done == "corrected" {
            assert_eq!(found.corrected, before - left);
        } else {
            assert_eq!(found.different, before - left);
        }
        let warnings = s.take_warnings();
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        let expected = format!(
            "1 leaf was not {done} completely because of locks held by others | It is \"public.inode_m1\"."
        );
        assert!(warnings[0].starts_with(&expected), "{warnings:?}");
    }
    check_goes_on(&mut s);
}

#[test]
fn all_leaves_are_locked() {
    let (db, _store, mut s) = archive("vm_all_locked");
    s.exec("SET ntt_mime.lock_timeout = '100ms'");
    let mut other = db.connect();
    other.exec("BEGIN; LOCK TABLE inode IN ACCESS EXCLUSIVE MODE");
    assert_error(
        try_verify(&mut s, ""),
        "55P03",
        "could not check table \"public.inode\"",
    );
    other.exec("ROLLBACK");
    assert!(verify(&mut s, "").different > 0);
}

#[test]
fn a_check_locks_as_a_reader_and_a_correction_one_leaf_a_worker() {
    let (db, _store, mut s) = archive("vm_locks");
    for correct in [false, true] {
        let mut caller = db.connect();
        caller.exec("SET ntt_mime.batch_delay = '20ms'");
        let running = in_background(caller, &format!("5, correct => {correct}"));
        let mut modes = BTreeSet::new();
        let mut oldest = Duration::ZERO;
        while !running.is_finished() {
            let locks = s
                .query(
                    "SELECT l.pid, count(DISTINCT l.relation) FILTER (WHERE c.relkind = 'r' AND l.mode = 'RowExclusiveLock'),
                            count(*) FILTER (WHERE c.relkind = 'p' AND l.mode <> 'AccessShareLock'),
                            array_agg(DISTINCT l.mode)
                       FROM pg_locks l JOIN pg_stat_activity a USING (pid) JOIN pg_class c ON c.oid = l.relation
                      WHERE a.backend_type = 'ntt_mime worker' AND a.datname = current_database() AND l.granted
                        AND (c.oid = 'inode'::regclass OR c.oid IN (SELECT inhrelid FROM pg_inherits))
                      GROUP BY l.pid",
                    &[],
                )
                .expect("reads");
            for row in locks {
                assert!(row.get::<_, i64>(1) <= 1, "more than one leaf is updated");
                assert_eq!(row.get::<_, i64>(2), 0);
                modes.extend(row.get::<_, Vec<String>>(3));
            }
            let age: f64 = s.value(
                "SELECT coalesce(max(extract(epoch FROM clock_timestamp() - xact_start)), 0)::float8 FROM pg_stat_activity
                  WHERE backend_type = 'ntt_mime worker' AND datname = current_database()",
            );
            oldest = oldest.max(Duration::from_secs_f64(age));
        }
        running.join().expect("no panic").1.expect("a success");
        let allowed: &[&str] = match correct {
            false => &["AccessShareLock"],
            true => &["AccessShareLock", "RowShareLock", "RowExclusiveLock"],
        };
        assert!(
            modes.iter().all(|mode| allowed.contains(&mode.as_str())),
            "{modes:?}"
        );
        assert!(oldest < Duration::from_secs(10), "{oldest:?}");
    }
    assert_eq!(wrong(&mut s), 0);
}

#[test]
fn loaders_and_ddl_go_on_beside_it() {
    let (db, _store, mut s) = archive("vm_beside");
    let (running, _, _) = start(&db, &mut s);
    let started = Instant::now();
    // A new leaf, and rows that somebody has given a type, right or wrong: they are his.
    s.exec("CALL add_leaf('new')");
    s.exec(&format!(
        "INSERT INTO inode (medium_hash, ino, blobid, mime_type)
         SELECT m, 3000000 + n, blobid, '{WRONG}' FROM source, (VALUES ('m0'), ('m3'), ('new')) v (m)"
    ));
    s.exec("DROP TABLE inode_m1");
    s.exec("ALTER TABLE inode DETACH PARTITION inode_m2 CONCURRENTLY");
    let ddl = started.elapsed();
    assert!(!running.is_finished(), "over before it was disturbed");
    let (_caller, found) = running.join().expect("no panic");
    found.expect("a success");
    // A promise of a second for each, and this machine is shared.
    assert!(ddl < Duration::from_secs(15), "{ddl:?}");
    let loaded = s.count("SELECT count(*) FROM inode WHERE ino >= 3000000");
    assert_eq!(
        s.count(&format!(
            "SELECT count(*) FROM inode WHERE ino >= 3000000 AND mime_type = '{WRONG}'"
        )),
        loaded
    );
    assert_eq!(wrong(&mut s), 0);
    assert_eq!(verify(&mut s, "").different, loaded);
}

#[test]
fn each_blob_is_read_once() {
    let (_db, store, mut s) = archive("vm_once");
    let blobids = s.column(
        "SELECT DISTINCT blobid FROM inode WHERE blobid IS NOT NULL AND mime_type IS NOT NULL",
    );
    let mut opens = Opens::watch(blobids.iter().map(|blobid| store.path(blobid)));
    let found = verify(&mut s, "50, correct => true");
    assert!(
        opens.counts().values().all(|count| *count == 1),
        "{:?}",
        opens.counts()
    );
    assert_eq!(found.blobs, blobids.len() as i64);
    assert_eq!(s.run_row(found.run_id, "detections = blobs"), "t");
}

#[test]
fn triggers_see_ordinary_updates_of_batches() {
    let (_db, _store, mut s) = archive("vm_triggers");
    s.exec(
        "CREATE TABLE seen (rows bigint);
         CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
             INSERT INTO public.seen SELECT count(*) FROM new_rows; RETURN NULL; END$$",
    );
    for leaf in 0..4 {
        s.exec(&format!(
            "CREATE TRIGGER see AFTER UPDATE ON inode_m{leaf} REFERENCING NEW TABLE AS new_rows
             FOR EACH STATEMENT EXECUTE FUNCTION see()"
        ));
    }
    let found = verify(&mut s, "7, correct => true");
    assert_eq!(
        s.count("SELECT sum(rows)::bigint FROM seen"),
        found.corrected
    );
    assert!(s.count("SELECT max(rows) FROM seen") <= 7);
    check_nothing_else_changed(&mut s);
}

#[test]
fn a_leaf_with_an_error_of_its_own_is_set_aside() {
    let (_db, _store, mut s) = archive("vm_error");
    s.exec(
        "ALTER TABLE inode_m1 ADD CONSTRAINT by_hand CHECK (mime_type <> 'text/plain') NOT VALID",
    );
    // A check changes nothing, so nothing is refused.
    let different = verify(&mut s, "").different;
    assert_error(try_verify(&mut s, "correct => true"), "23514", "by_hand");
    assert_eq!(
        s.column("SELECT leaf FROM ntt_mime.leaf_error"),
        ["public.inode_m1"]
    );
    let left = wrong(&mut s);
    assert!(left > 0 && left < different);
    assert_eq!(
        s.count(&format!(
            "SELECT count(*) FROM inode WHERE mime_type = '{WRONG}' AND medium_hash <> 'm1'"
        )),
        0
    );
    s.exec("ALTER TABLE inode_m1 DROP CONSTRAINT by_hand");
    verify(&mut s, "");
    assert_eq!(s.count("SELECT count(*) FROM ntt_mime.leaf_error"), 1);
    assert_eq!(verify(&mut s, "correct => true").corrected, left);
    assert_eq!(s.count("SELECT count(*) FROM ntt_mime.leaf_error"), 0);
    check_nothing_else_changed(&mut s);
}

#[test]
fn a_backfill_and_a_verification_exclude_each_other_on_one_target_only() {
    let (db, _store, mut s) = archive("vm_both");
    s.exec("CREATE TABLE other AS SELECT blobid, NULL::text AS mime_type FROM source");
    let mut caller = db.connect();
    caller.exec("SET ntt_mime.batch_delay = '300ms'");
    let running = caller.call_in_background("10, workers => 1, target => 'other'");
    let run_id = s.wait_for_run();
    let holder = format!("pid {}, run_id {run_id}", running.pid);
    assert_error(try_verify(&mut s, "target => 'other'"), "55006", &holder);
    assert!(verify(&mut s, "correct => true").corrected > 0);
    assert!(!running.is_finished());
    s.exec(&format!("SELECT ntt_cancel_backfill({run_id})"));
    let _ = running.finish();
}

#[test]
fn what_is_in_quarantine_is_not_looked_at() {
    let (_db, store, mut s) = archive("vm_quarantine");
    let blobid = s
        .column(&format!(
            "SELECT blobid FROM inode WHERE mime_type = '{WRONG}' LIMIT 1"
        ))
        .remove(0);
    s.exec(&format!(
        "INSERT INTO ntt_mime.failure (blobid, reason, first_run_id, last_run_id) VALUES ('{blobid}', 'quarantined', 1, 1)"
    ));
    let mut opens = Opens::watch([store.path(&blobid)]);
    let found = verify(&mut s, "correct => true");
    assert_eq!(found.failures, 1);
    assert!(opens.counts().values().all(|count| *count == 0));
    assert_eq!(
        wrong(&mut s),
        s.count(&format!(
            "SELECT count(*) FROM inode WHERE blobid = '{blobid}' AND mime_type = '{WRONG}'"
        ))
    );
}

#[test]
fn where_it_refuses_to_begin() {
    let (db, _store, mut s) = archive("vm_refused");
    s.exec(
        "CREATE TABLE no_columns (n int); CREATE VIEW seen AS SELECT blobid, mime_type FROM inode;
         CREATE TABLE numbers (blobid text, mime_type int);
         CREATE TABLE computed (blobid text, mime_type text GENERATED ALWAYS AS (blobid) STORED)",
    );
    for (target, sqlstate) in [
        ("no_columns", "42703"),
        ("seen", "42809"),
        ("numbers", "42804"),
        ("computed", "42809"),
    ] {
        let result = try_verify(&mut s, &format!("target => '{target}'"));
        let error = result.expect_err(target);
        let code = error.code().expect("of the server").code().to_owned();
        assert!(
            code == sqlstate || target == "numbers" && code == "42809",
            "{target}: {code}"
        );
    }
    s.exec("SET default_transaction_read_only = on");
    assert_error(try_verify(&mut s, ""), "25006", "ntt_verify_mime");
    s.exec("RESET default_transaction_read_only; SET ntt_mime.blob_root = '/nowhere/at/all'");
    assert_error(try_verify(&mut s, ""), "58P01", "/nowhere/at/all");
    s.exec("RESET ntt_mime.blob_root");
    // A partitioned target with policies for the caller.
    let role = db.role("limited", "LOGIN");
    s.exec(&format!(
        "GRANT EXECUTE ON PROCEDURE ntt_verify_mime TO {role}; GRANT SELECT, UPDATE ON inode TO {role};
         ALTER TABLE inode ENABLE ROW LEVEL SECURITY"
    ));
    let mut limited = db.connect_as(&role);
    assert_error(try_verify(&mut limited, ""), "0A000", "row-level security");
    assert_eq!(s.count("SELECT count(*) FROM ntt_mime.run"), 0);
}

#[test]
fn rights_are_asked_for_in_each_batch() {
    let (db, _store, mut s) = archive("vm_revoked");
    let role = db.role("runner", "LOGIN");
    s.exec(&format!(
        "GRANT EXECUTE ON PROCEDURE ntt_verify_mime TO {role};
         GRANT SELECT (blobid, mime_type), UPDATE (mime_type) ON inode TO {role};
         GRANT UPDATE, SELECT ON queue_stats TO {role}"
    ));
    let mut caller = db.connect_as(&role);
    caller.exec("SET ntt_mime.batch_delay = '100ms'");
    let all = wrong(&mut s);
    let running = in_background(caller, "10, correct => true");
    wait_until(SOON, "some rows to be corrected", || wrong(&mut s) < all);
    s.exec(&format!("REVOKE UPDATE (mime_type) ON inode FROM {role}"));
    assert_error(
        running.join().expect("no panic").1,
        "42501",
        "permission denied",
    );
    check_goes_on(&mut s);
}

#[test]
fn its_progress_is_seen_and_does_not_fall() {
    let (db, _store, mut s) = archive("vm_progress");
    let mut caller = db.connect();
    caller.exec("SET ntt_mime.batch_delay = '60ms'");
    let running = in_background(caller, "10, workers => 1");
    let mut percents: Vec<f64> = Vec::new();
    let mut phases = BTreeSet::new();
    while !running.is_finished() {
        let row = s
            .query_opt(
                "SELECT percent::float8, phase FROM ntt_mime.progress WHERE leaves_total > 0",
                &[],
            )
            .expect("the view can be read");
        if let Some(row) = row {
            percents.push(row.get(0));
            phases.insert(row.get::<_, String>(1));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let (_caller, found) = running.join().expect("no panic");
    let found = found.expect("a success");
    assert!(percents.len() > 3 && percents.is_sorted(), "{percents:?}");
    assert!(phases.contains("checking"), "{phases:?}");
    assert_eq!(
        s.run_row(found.run_id, "blocks_done = blocks_total, leaves_done"),
        "t|4"
    );
}

#[test]
fn arguments_bound_what_it_does() {
    let (_db, _store, mut s) = archive("vm_bounds");
    let rows = typed_rows(&mut s);
    for workers in [1, 3] {
        let found = verify(&mut s, &format!("1, workers => {workers}"));
        assert_eq!(found.checked, rows);
        assert_eq!(s.run_row(found.run_id, "workers"), workers.to_string());
    }
    let before = wrong(&mut s);
    let found = verify(&mut s, "10, correct => true, max_blobs => 20, workers => 1");
    assert_eq!(found.blobs, 20);
    assert_eq!(wrong(&mut s), before - found.corrected);
    // Blobs that can't be detected take no place.
    s.exec(&format!(
        "UPDATE inode SET blobid = '{}' WHERE ctid = (SELECT ctid FROM inode_m0 WHERE blobid IS NOT NULL LIMIT 1) AND medium_hash = 'm0'",
        absent_blobid(1)
    ));
    verify(&mut s, "");
    let found = verify(&mut s, "max_blobs => 20, workers => 1");
    assert!(found.checked > 0);
}

#[test]
fn the_target_is_dropped_meanwhile() {
    let (db, _store, mut s) = archive("vm_dropped");
    let (running, _, _) = start(&db, &mut s);
    s.exec("DROP TABLE inode");
    assert_error(running.join().expect("no panic").1, "42P01", "inode");
    db.wait_for_no_workers(SOON);
}
