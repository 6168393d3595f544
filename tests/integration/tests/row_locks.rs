//! A run beside open transactions that hold rows: rows of the target, which it skips after one wait, and rows that
//! its triggers need, because of which it leaves a leaf until later.

use std::time::Duration;

use ntt_mime_integration::session::describe;
use ntt_mime_integration::{Outcome, SOON, Session, Store, TestDb, inode, wait_until};

/// The user's `inode`, in which so many rows are pending, all of them and in all leaves.
fn archive(name: &str, leaves: usize, blobs: usize) -> (TestDb<'static>, Store, Session) {
    let (db, store, mut s) = inode::archive(name, leaves, blobs, 6);
    s.exec("SET ntt_mime.lock_timeout = '200ms'");
    (db, store, s)
}

/// A session with an open transaction that has done this.
fn hold(db: &TestDb, sql: &str) -> Session {
    let mut other = db.connect();
    other.exec(&format!("BEGIN; {sql}"));
    other
}

/// Passes of a run over leaves with rows that stay locked: three, and as many as five more if others in the cluster, such as
/// other tests, commit something meanwhile.
const PASSES: i64 = 8;

/// Waits of workers for what a session holds, counted by their beginnings, until the run ends. Short ones may be missed.
fn count_waits(s: &mut Session, run: &ntt_mime_integration::Background, holder: &Session) -> i64 {
    let mut waits = std::collections::HashSet::new();
    while !run.is_finished() {
        waits.extend(s.column(&format!(
            "SELECT pid || ' ' || waitstart FROM pg_locks JOIN pg_stat_activity USING (pid)
              WHERE NOT granted AND backend_type = 'ntt_mime worker' AND datname = current_database()
                AND {} = ANY (pg_blocking_pids(pid))",
            holder.pid
        )));
        std::thread::sleep(Duration::from_millis(5));
    }
    waits.len() as i64
}

const EVERY_TENTH: &str = "UPDATE inode SET dev = 8 WHERE ino % 10 = 3";

#[test]
fn a_pass_waits_for_one_row_and_passes_by_the_others() {
    let (db, _store, mut s) = archive("many_rows", 8, 300);
    let held = s.count(
        "SELECT count(*) FROM inode WHERE ino % 10 = 3 AND blobid IS NOT NULL AND mime_type IS NULL",
    );
    let all = inode::expected(&mut s).rows;
    assert!(held > 100, "{held}");
    let mut other = hold(&db, EVERY_TENTH);
    let mut caller = db.connect();
    caller.exec("SET ntt_mime.lock_timeout = '600ms'");
    let run = caller.call_in_background("50");
    let waits = count_waits(&mut s, &run, &other);
    let (mut caller, outcome) = run.succeed();
    // One a worker in each pass.
    assert!(
        (1..=2 * PASSES).contains(&waits),
        "{waits} waits for {held} rows"
    );
    assert_eq!(outcome.rows_updated, all - held);
    assert_eq!(
        s.run_row(outcome.run_id, "status, rows_left"),
        format!("succeeded|{held}")
    );
    assert_eq!(caller.take_warnings(), Vec::<String>::new());
    other.exec("ROLLBACK");
    assert_eq!(s.backfill("50").rows_updated, held);
    inode::check_filled(&mut s, "inode");
}

#[test]
fn only_leaves_with_rows_that_were_passed_by_come_again() {
    let (db, _store, mut s) = archive("come_again", 4, 200);
    let held = "medium_hash = 'm1' AND blobid IS NOT NULL AND mime_type IS NULL AND ino % 5 = 3";
    let count = s.count(&format!("SELECT count(*) FROM inode WHERE {held}"));
    assert!(count > 1);
    let all = inode::expected(&mut s).rows;
    let mut other = hold(&db, &format!("SELECT FROM inode WHERE {held} FOR UPDATE"));
    let outcome = s.backfill("50, workers => 1");
    assert_eq!(outcome.rows_updated, all - count);
    // The second and the third pass met what was held, and nothing else.
    assert_eq!(
        s.run_row(
            outcome.run_id,
            "status, rows_left, rows_retried, rows_scanned"
        ),
        format!("succeeded|{count}|{}|{}", 3 * count, all + 2 * count)
    );
    other.exec("ROLLBACK");
}

#[test]
fn rows_that_are_freed_meanwhile_are_filled_in_the_same_run() {
    let (db, _store, mut s) = archive("freed", 4, 300);
    let held = s.count(
        "SELECT count(*) FROM inode WHERE ino % 10 = 3 AND blobid IS NOT NULL AND mime_type IS NULL",
    );
    let all = inode::expected(&mut s).rows;
    let mut other = hold(&db, EVERY_TENTH);
    let mut caller = db.connect();
    caller.exec("SET ntt_mime.lock_timeout = '2s'");
    let run = caller.call_in_background("50, workers => 1");
    wait_until(SOON, "all but the rows that are held to be filled", || {
        assert!(!run.is_finished(), "it came to its end without them");
        s.count(&format!(
            "SELECT count(*) FROM inode WHERE mime_type <> '{}'",
            inode::KEPT
        )) == all - held
    });
    other.exec("ROLLBACK");
    let (_, outcome) = run.succeed();
    assert_eq!(outcome.rows_updated, all);
    assert_eq!(
        s.run_row(outcome.run_id, "status, rows_left"),
        "succeeded|0"
    );
    inode::check_filled(&mut s, "inode");
}

#[test]
fn rows_of_a_leaf_with_triggers_before_them_are_passed_by_as_well() {
    let (db, _store, mut s) = archive("before_each", 2, 100);
    s.exec(
        "CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
         CREATE TRIGGER touch BEFORE UPDATE ON inode FOR EACH ROW EXECUTE FUNCTION touch()",
    );
    let held = s.count(
        "SELECT count(*) FROM inode WHERE ino % 10 = 3 AND blobid IS NOT NULL AND mime_type IS NULL",
    );
    let all = inode::expected(&mut s).rows;
    // A lock that an update which leaves keys alone doesn't wait for.
    let mut key = hold(&db, "SELECT FROM inode FOR KEY SHARE");
    let mut other = hold(&db, "SELECT FROM inode WHERE ino % 10 = 3 FOR SHARE");
    let outcome = s.backfill("50");
    assert_eq!(outcome.rows_updated, all - held);
    assert_eq!(
        s.run_row(outcome.run_id, "status, rows_left"),
        format!("succeeded|{held}")
    );
    // Others' locks are no trigger's doing.
    assert_eq!(s.take_warnings(), Vec::<String>::new());
    key.exec("ROLLBACK");
    other.exec("ROLLBACK");
    assert_eq!(s.backfill("50").rows_updated, held);
    inode::check_filled(&mut s, "inode");
}

#[test]
fn a_key_that_others_refer_to_is_locked_as_one() {
    let (db, store, mut s) = TestDb::with_store("mime_key");
    inode::plain(&mut s, &store.put_synthetic(40));
    s.exec(
        "ALTER TABLE blob ADD UNIQUE (mime_type, blobid);
         SET ntt_mime.target = 'blob'; SET ntt_mime.lock_timeout = '200ms'",
    );
    inode::remember(&mut s, "blob");
    let mut other = hold(&db, "SELECT FROM blob WHERE size < 10 FOR KEY SHARE");
    let outcome = s.backfill("7, workers => 1");
    assert_eq!(outcome.rows_updated, 30);
    assert_eq!(
        s.run_row(outcome.run_id, "status, leaves_done, rows_left"),
        "succeeded|1|10"
    );
    other.exec("ROLLBACK");
    assert_eq!(s.backfill("7").rows_updated, 10);
    inode::check_filled(&mut s, "blob");
}

/// Rows of leaves that have been updated so far, in vain or not.
fn updated(s: &mut Session) -> i64 {
    s.count("SELECT sum(n_tup_upd)::bigint FROM pg_stat_user_tables WHERE relname LIKE 'inode_m%'")
}

const LEFT: &str = "not filled completely because of locks held by others";

/// The run has filled nothing because of what others held, and says so.
#[track_caller]
fn assert_kept_out(result: Result<Outcome, postgres::Error>) {
    let error = describe(&result.map(|_| ()).expect_err("it comes to nothing"));
    assert!(
        error.starts_with("ERROR 55P03: could not fill table ")
            && error.contains("because of locks held by others"),
        "{error}"
    );
}

#[test]
fn a_row_that_the_triggers_need_is_not_taken_for_a_row_of_the_leaf() {
    let (db, _store, mut s) = archive("trigger_row", 4, 1000);
    let all = inode::expected(&mut s).rows;
    let mut other = hold(&db, "UPDATE queue_stats SET copied = copied");
    let mut caller = db.connect();
    caller.exec("SET ntt_mime.lock_timeout = '600ms'");
    let before = updated(&mut s);
    let run = caller.call_in_background("10000");
    let waits = count_waits(&mut s, &run, &other);
    let (_, result) = run.finish();
    // A small batch or two, and then single rows.
    let in_vain = updated(&mut s) - before;
    println!("{in_vain} rows updated in vain, {waits} waits");
    assert!(in_vain <= 300, "{in_vain} rows updated in vain");
    // In each pass one of the first worker's, and two of the other one's: for the first one, which is before it in the
    // queue, and then for the row.
    assert!((1..=3 * PASSES).contains(&waits), "{waits} waits");
    assert_kept_out(result);
    other.exec("ROLLBACK");
    assert_eq!(s.backfill("1000").rows_updated, all);
    inode::check_filled(&mut s, "inode");
}

#[test]
fn a_leaf_whose_triggers_have_to_wait_holds_up_no_other() {
    let (db, _store, mut s) = archive("other_leaves", 4, 300);
    s.exec(
        "DROP TRIGGER upd ON inode_m1; DROP TRIGGER upd ON inode_m2; DROP TRIGGER upd ON inode_m3",
    );
    let blocked = inode::pending(&mut s, "inode_m0");
    let all = inode::expected(&mut s).rows;
    let mut other = hold(&db, "UPDATE queue_stats SET copied = copied");
    let outcome = s.backfill("1000, workers => 1");
    assert_eq!(outcome.rows_updated, all - blocked);
    assert_eq!(
        s.run_row(outcome.run_id, "status, leaves_done, leaves_total"),
        "succeeded|3|4"
    );
    assert_eq!(
        s.take_warnings(),
        [format!(
            "1 leaf was {LEFT} | It is \"public.inode_m0\". | The next run will try again."
        )]
    );
    other.exec("ROLLBACK");
    assert_eq!(s.backfill("1000").rows_updated, blocked);
    inode::check_filled(&mut s, "inode");
}

#[test]
fn what_the_triggers_need_is_freed_meanwhile() {
    let (db, _store, mut s) = archive("trigger_freed", 4, 300);
    let all = inode::expected(&mut s).rows;
    let mut other = hold(&db, "UPDATE queue_stats SET copied = copied");
    let mut caller = db.connect();
    caller.exec("SET ntt_mime.lock_timeout = '3s'");
    let run = caller.call_in_background("1000");
    // The first of them has given up once.
    db.wait_for_waiting_worker();
    wait_until(SOON, "another pass", || {
        assert!(!run.is_finished(), "it gave up for good");
        s.column("SELECT phase FROM ntt_mime.progress") == ["looking again"]
    });
    other.exec("ROLLBACK");
    let (mut caller, outcome) = run.succeed();
    assert_eq!(outcome.rows_updated, all);
    assert_eq!(caller.take_warnings(), Vec::<String>::new());
    assert_eq!(
        s.run_row(outcome.run_id, "status, rows_left"),
        "succeeded|0"
    );
    inode::check_filled(&mut s, "inode");
}

#[test]
fn a_foreign_keys_lock_wait_is_a_triggers() {
    let (db, store, mut s) = TestDb::with_store("key_wait");
    inode::plain(&mut s, &store.put_synthetic(100));
    s.exec(
        "CREATE TABLE types AS SELECT DISTINCT ntt_detect_mime(blobid) AS mime_type FROM blob;
         ALTER TABLE types ADD PRIMARY KEY (mime_type);
         ALTER TABLE blob ADD FOREIGN KEY (mime_type) REFERENCES types;
         SET ntt_mime.target = 'blob'; SET ntt_mime.lock_timeout = '100ms'",
    );
    inode::remember(&mut s, "blob");
    let mut other = hold(
        &db,
        "SELECT FROM types WHERE mime_type = 'application/pdf' FOR UPDATE",
    );
    let result = s.call("10");
    assert_kept_out(result);
    other.exec("ROLLBACK");
    s.backfill("10");
    inode::check_filled(&mut s, "blob");
}

/// A rule's own statement is none of a trigger's, and needs something else than the rows all the same.
#[test]
fn a_rules_lock_wait_is_not_a_rows() {
    let (db, store, mut s) = TestDb::with_store("rule_wait");
    inode::plain(&mut s, &store.put_synthetic(60));
    s.exec(
        "CREATE TABLE total (n bigint); INSERT INTO total VALUES (0);
         CREATE RULE count AS ON UPDATE TO blob DO ALSO UPDATE total SET n = n + 1;
         SET ntt_mime.target = 'blob'; SET ntt_mime.lock_timeout = '100ms'",
    );
    inode::remember(&mut s, "blob");
    let mut other = hold(&db, "UPDATE total SET n = n");
    let result = s.call("10");
    assert_kept_out(result);
    other.exec("ROLLBACK");
    assert_eq!(s.backfill("10").rows_updated, 60);
    inode::check_filled(&mut s, "blob");
}
