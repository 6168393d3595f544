//! A run beside others' locks: it waits no longer than its settings say, recovers from deadlocks and serialization
//! failures, and identifies a leaf correctly whatever is done to it meanwhile.

use std::time::{Duration, Instant};

use ntt_mime_integration::session::describe;
use ntt_mime_integration::{
    Background, Outcome, SOON, Session, Store, TestDb, inode, server, wait_until,
};

/// The user's `inode` with some leaves and six rows for each blob; no table refers to it, so that leaves can be
/// dropped.
fn archive(name: &str, leaves: usize, blobs: usize) -> (TestDb<'static>, Store, Session) {
    let (db, store, mut s) = inode::archive(name, leaves, blobs, 6);
    s.exec("DROP TABLE path");
    (db, store, s)
}

/// Starts a slow run of one worker, and waits until it has filled some rows of `leaf`, but not all.
fn start_on(db: &TestDb, s: &mut Session, leaf: &str) -> Background {
    let mut caller = db.connect();
    caller.exec("SET ntt_mime.batch_delay = '100ms'; SET ntt_mime.workers = 1");
    let running = caller.call_in_background("10");
    wait_until(SOON, "the run to be in the midst of the leaf", || {
        assert!(!running.is_finished(), "over before it could be disturbed");
        s.count(&format!(
            "SELECT count(*) FROM {leaf} WHERE mime_type <> '{}'",
            inode::KEPT
        )) > 0
    });
    assert!(inode::pending(s, leaf) > 20, "too few rows are left");
    running
}

#[test]
fn no_wait_is_longer_than_the_lock_timeout() {
    let (db, _store, mut s) = archive("lock_wait", 5, 100);
    let locked = inode::pending(&mut s, "inode_m1") + inode::pending(&mut s, "inode_m3");
    let mut ddl = db.connect();
    ddl.exec("BEGIN; LOCK TABLE ONLY inode_m1, ONLY inode_m3 IN ACCESS EXCLUSIVE MODE");
    let mut caller = db.connect();
    caller.exec("SET ntt_mime.lock_timeout = '400ms'");
    let running = caller.call_in_background("1000");
    let mut longest = 0.0_f64;
    while !running.is_finished() {
        let waited: Option<f64> = s.value(
            "SELECT max(extract(epoch FROM clock_timestamp() - waitstart))::float8
               FROM pg_locks JOIN pg_stat_activity USING (pid)
              WHERE NOT granted AND backend_type = 'ntt_mime worker' AND datname = current_database()",
        );
        longest = longest.max(waited.unwrap_or(0.0));
        std::thread::sleep(Duration::from_millis(5));
    }
    let (mut caller, outcome) = running.succeed();
    println!("the longest wait: {longest} s");
    assert!(
        (0.1..0.9).contains(&longest),
        "a lock_timeout of 0.4 s, and a wait of {longest} s"
    );
    let notices = caller.take_notices();
    let summary = notices
        .iter()
        .find(|notice| notice.message.contains("succeeded"));
    let summary = &summary.expect("a NOTICE of the end").message;
    assert!(
        summary.contains(" rows filled, 2 of 5 leaves not finished, in "),
        "{summary}"
    );
    let warnings = notices.into_iter().filter(|n| n.severity == "WARNING");
    assert_eq!(
        warnings.map(|n| n.words).collect::<Vec<_>>(),
        [
            "2 leaves were not filled completely because of locks held by others | They are \"public.inode_m1\", \
             \"public.inode_m3\". | The next run will try again."
        ]
    );
    // Nobody has read these rows: how many are left isn't known.
    assert_eq!(
        s.run_row(
            outcome.run_id,
            "status, leaves_done, leaves_total, rows_left IS NULL"
        ),
        "succeeded|3|5|t"
    );
    ddl.exec("COMMIT");
    assert_eq!(inode::pending(&mut s, "inode"), locked);
    assert_eq!(s.backfill("1000").rows_updated, locked);
    inode::check_filled(&mut s, "inode");
}

#[test]
fn a_few_of_the_locked_leaves_are_named() {
    let (db, _store, mut s) = archive("lock_names", 5, 50);
    // The others are finished after the first run, and would be skipped.
    s.exec("SET ntt_mime.full_scan_after = 0");
    s.exec("ALTER TABLE inode_m1 RENAME TO \"Inode M1\"");
    let mut ddl = db.connect();
    ddl.exec("BEGIN; LOCK TABLE ONLY \"Inode M1\" IN ACCESS EXCLUSIVE MODE");
    let warnings = |s: &mut Session| {
        s.exec("SET ntt_mime.lock_timeout = '50ms'");
        s.backfill("1000");
        s.take_warnings()
    };
    assert_eq!(
        warnings(&mut s),
        [
            "1 leaf was not filled completely because of locks held by others | It is \"public.Inode M1\". | \
             The next run will try again."
        ]
    );
    ddl.exec("LOCK TABLE ONLY inode_m0, ONLY inode_m2, ONLY inode_m4 IN ACCESS EXCLUSIVE MODE");
    assert_eq!(
        warnings(&mut s),
        [
            "4 leaves were not filled completely because of locks held by others | They include \
             \"public.inode_m0\", \"public.Inode M1\", \"public.inode_m2\". | The next run will try again."
        ]
    );
}

/// The error of a run, and what its row says about it.
fn failed(s: &mut Session, result: Result<Outcome, postgres::Error>) -> (String, String) {
    let error = result.err().map(|error| describe(&error));
    let row = s.table("SELECT status, rows_left, leaves_done, error FROM ntt_mime.run ORDER BY run_id DESC LIMIT 1");
    (error.expect("the run has failed"), row.join("\n"))
}

const TRY_AGAIN: &str = "See pg_locks for who holds them. Call the procedure again when they are released, or increase \
                         ntt_mime.lock_timeout.";

#[test]
fn a_run_that_is_kept_out_of_everything_fails() {
    let (db, _store, mut s) = archive("kept_out", 5, 50);
    let mut ddl = db.connect();
    ddl.exec("BEGIN; LOCK TABLE inode IN ACCESS EXCLUSIVE MODE");
    s.exec("SET ntt_mime.lock_timeout = '50ms'");
    let words = "could not fill table \"public.inode\" because of locks held by others";
    for dry_run in ["false", "true"] {
        let result = s.call(&format!("1000, dry_run => {dry_run}"));
        let (error, row) = failed(&mut s, result);
        assert_eq!(
            error,
            format!(
                "ERROR 55P03: {words} | None of its 5 leaves was filled. They include \"public.inode_m0\", \
                 \"public.inode_m1\", \"public.inode_m2\". | {TRY_AGAIN}"
            )
        );
        assert_eq!(row, format!("failed||0|55P03: {words}"));
    }
    // A plain target is its own leaf.
    let words = "could not fill table \"public.inode_m4\" because of locks held by others";
    let result = s.call("target => 'inode_m4'");
    let (error, row) = failed(&mut s, result);
    assert_eq!(error, format!("ERROR 55P03: {words} | {TRY_AGAIN}"));
    assert_eq!(row, format!("failed||0|55P03: {words}"));
    ddl.exec("COMMIT");
    s.backfill("1000");
    inode::check_filled(&mut s, "inode");
}

#[test]
fn the_lock_on_the_parent_is_waited_for_once_a_pass() {
    let (db, _store, mut s) = archive("parent_once", 30, 300);
    let mut ddl = db.connect();
    ddl.exec("BEGIN; LOCK TABLE ONLY inode IN ACCESS EXCLUSIVE MODE");
    let mut caller = db.connect();
    caller.exec("SET ntt_mime.lock_timeout = '400ms'");
    let running = caller.call_in_background("1000, workers => 2");
    let mut waits = std::collections::BTreeSet::new();
    while !running.is_finished() {
        waits.extend(s.column(
            "SELECT pid || ' since ' || waitstart FROM pg_locks JOIN pg_stat_activity USING (pid)
              WHERE relation = 'inode'::regclass AND backend_type = 'ntt_mime worker' AND waitstart IS NOT NULL",
        ));
        std::thread::sleep(Duration::from_millis(5));
    }
    let (mut caller, result) = running.finish();
    let (error, row) = failed(&mut caller, result);
    assert!(
        error.starts_with("ERROR 55P03: could not fill table"),
        "{error}"
    );
    assert!(row.starts_with("failed||0|55P03"), "{row}");
    // In each of three passes, each of the workers.
    assert!((1..=3 * 2).contains(&waits.len()), "{waits:#?}");
    ddl.exec("COMMIT");
    s.backfill("1000");
    inode::check_filled(&mut s, "inode");
}

/// The target is dropped during a run.
fn dropped(name: &str, target: &str) {
    let (db, _store, mut s) = archive(name, 3, 100);
    let mut caller = db.connect();
    caller.exec("SET ntt_mime.batch_delay = '100ms'");
    let before = inode::pending(&mut s, target);
    let running = caller.call_in_background(&format!("10, workers => 1, target => '{target}'"));
    wait_until(SOON, "some rows to be filled", || {
        inode::pending(&mut s, target) < before
    });
    s.exec(&format!("DROP TABLE {target}"));
    assert!(!running.is_finished());
    let (mut caller, result) = running.finish();
    let words = format!("relation \"public.{target}\" does not exist");
    let (error, row) = failed(&mut caller, result);
    assert_eq!(
        error,
        format!("ERROR 42P01: {words} | It was dropped while the run was going on.")
    );
    assert!(
        row.starts_with("failed||") && row.ends_with(&format!("|42P01: {words}")),
        "{row}"
    );
}

#[test]
fn the_target_is_dropped() {
    dropped("drop_target", "inode");
}

#[test]
fn a_plain_target_is_dropped() {
    dropped("drop_plain_target", "inode_m0");
}

/// Deadlocks that PostgreSQL has resolved in this database.
fn deadlocks(s: &mut Session) -> i64 {
    s.count("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
}

/// Another session holds what `first` locks, and waits for a row that a batch of the run has updated already, when
/// the batch begins to wait for it. Whoever detects the deadlock first is cancelled, and the other session has waited
/// for longer. It must be the worker all the same, whatever its caller's `deadlock_timeout` is.
fn deadlock(name: &str, first: &str) {
    let (db, _store, mut s) = archive(name, 1, 40);
    // At the second row, a batch pauses; then it holds the first row, as a sequence shows. It is in a constraint,
    // since with a row-level BEFORE trigger the batch would lock its rows before it updates one.
    s.exec(
        "CREATE SEQUENCE updated; CREATE SEQUENCE first_ino MINVALUE 0;
         CREATE FUNCTION rest(ino bigint) RETURNS boolean LANGUAGE plpgsql AS $$
             BEGIN
                 CASE nextval('public.updated')
                     WHEN 1 THEN PERFORM setval('public.first_ino', ino);
                     WHEN 2 THEN PERFORM pg_catalog.pg_sleep(2);
                     ELSE NULL;
                 END CASE;
                 RETURN true;
             END $$;
         ALTER TABLE inode_m0 ADD CONSTRAINT rest CHECK (rest(ino)) NOT VALID",
    );
    let mut other = db.connect();
    other.exec(&format!("SET deadlock_timeout = '6s'; BEGIN; {first}"));
    let mut caller = db.connect();
    caller.exec("SET deadlock_timeout = '10min'; SET ntt_mime.lock_timeout = '10s'");
    let running = caller.call_in_background("1000, workers => 1");
    wait_until(SOON, "the batch to have its rest", || {
        s.count("SELECT last_value FROM updated") == 2
    });
    // This waits until the deadlock is resolved.
    other.exec(
        "UPDATE inode_m0 SET copied_to = copied_to WHERE ino = (SELECT last_value FROM first_ino)",
    );
    assert!(!running.is_finished());
    other.exec("COMMIT");
    let (_, outcome) = running.succeed();
    assert_eq!(outcome.rows_updated, inode::expected(&mut s).rows);
    inode::check_filled(&mut s, "inode");
    assert_eq!(
        s.run_row(outcome.run_id, "status, rows_left, error IS NULL"),
        "succeeded|0|t"
    );
    wait_until(SOON, "the deadlock to be counted", || {
        deadlocks(&mut s) == 1
    });
}

#[test]
fn a_deadlock_over_the_triggers_row_is_survived() {
    deadlock("deadlock_trigger", "UPDATE queue_stats SET copied = copied");
}

#[test]
fn a_deadlock_over_rows_is_survived() {
    deadlock(
        "deadlock_rows",
        // One row of the first batch, and none of those before it.
        "SELECT FROM inode_m0 WHERE ctid =
            (SELECT ctid FROM inode_m0 WHERE blobid IS NOT NULL AND mime_type IS NULL ORDER BY ctid OFFSET 50 LIMIT 1)
            FOR UPDATE",
    );
}

#[test]
fn serialization_failures_are_tried_again() {
    let (_db, _store, mut s) = archive("serialization", 2, 40);
    s.exec(
        "CREATE SEQUENCE tries;
         CREATE TABLE failing (times bigint);
         CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN
                 IF nextval('public.tries') <= (SELECT times FROM public.failing) THEN
                     RAISE 'not yet' USING ERRCODE = (ARRAY['40001', '40P01'])[1 + currval('public.tries') % 2];
                 END IF;
                 RETURN NULL;
             END $$;
         CREATE TRIGGER fail AFTER UPDATE ON inode_m0 FOR EACH STATEMENT EXECUTE FUNCTION fail()",
    );
    // A batch is tried again at once several times, and once more later.
    for times in [1, 3, 8] {
        s.exec(&format!(
            "ALTER TABLE inode_m0 DISABLE TRIGGER ALL; ALTER TABLE inode_m1 DISABLE TRIGGER ALL;
             UPDATE inode SET mime_type = NULL WHERE mime_type <> '{}';
             ALTER TABLE inode_m0 ENABLE TRIGGER ALL; ALTER TABLE inode_m1 ENABLE TRIGGER ALL;
             TRUNCATE failing; INSERT INTO failing VALUES ({times}); ALTER SEQUENCE tries RESTART",
            inode::KEPT
        ));
        inode::remember(&mut s, "inode");
        let outcome = s
            .call("50")
            .unwrap_or_else(|e| panic!("{times}: {}", describe(&e)));
        assert!(s.count("SELECT last_value FROM tries") > times);
        assert_eq!(
            outcome.rows_updated,
            inode::expected(&mut s).rows,
            "{times}"
        );
        inode::check_filled(&mut s, "inode");
        assert_eq!(
            s.run_row(outcome.run_id, "status, rows_left"),
            "succeeded|0",
            "{times}"
        );
    }
}

#[test]
fn a_leaf_is_dropped_while_a_batch_waits_for_it() {
    let (db, _store, mut s) = archive("drop_waiting", 3, 60);
    let mut ddl = db.connect();
    ddl.exec("BEGIN; DROP TABLE inode_m0");
    let mut caller = db.connect();
    caller.exec("SET ntt_mime.lock_timeout = '10s'");
    let running = caller.call_in_background("50, workers => 1");
    db.wait_for_waiting_worker();
    ddl.exec("COMMIT");
    let (mut caller, outcome) = running.succeed();
    assert_eq!(caller.take_warnings(), Vec::<String>::new());
    assert_eq!(inode::pending(&mut s, "inode"), 0);
    assert_eq!(
        s.run_row(
            outcome.run_id,
            "status, leaves_done, leaves_total, rows_left"
        ),
        "succeeded|3|3|0"
    );
}

/// How many workers wait for a lock on a leaf of `inode`.
fn waiting_for_leaves(s: &mut Session) -> i64 {
    s.count(
        "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid)
          WHERE NOT granted AND locktype = 'relation' AND backend_type = 'ntt_mime worker'
            AND datname = current_database()
            AND relation IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = 'inode'::regclass)",
    )
}

/// `statements` give leaf `inode_m0` a new file, in a transaction that ends when a worker waits for the leaf.
fn given_a_new_file(name: &str, statements: &str) {
    let (db, _store, mut s) = archive(name, 2, 60);
    let mut ddl = db.connect();
    ddl.exec(&format!("BEGIN; {statements}"));
    // In this session, since nobody else can see these rows yet.
    inode::remember(&mut ddl, "inode");
    let expected = inode::expected(&mut ddl).rows;
    let mut caller = db.connect();
    caller.exec("SET ntt_mime.lock_timeout = '10s'");
    let running = caller.call_in_background("50");
    wait_until(SOON, "a worker to wait for the leaf", || {
        waiting_for_leaves(&mut s) > 0
    });
    ddl.exec("COMMIT");
    // To a snapshot from before the wait, the new file would have no rows, and nothing would seem to be left.
    let (mut caller, outcome) = running.succeed();
    assert_eq!(caller.take_warnings(), Vec::<String>::new());
    inode::check_filled(&mut s, "inode");
    assert_eq!(outcome.rows_updated, expected);
    assert_eq!(
        s.run_row(outcome.run_id, "status, rows_left"),
        "succeeded|0"
    );
}

#[test]
fn a_leaf_is_truncated_and_loaded_anew_while_a_worker_waits_for_it() {
    given_a_new_file(
        "truncate_waiting",
        "TRUNCATE inode_m0;
         INSERT INTO inode_m0 (medium_hash, ino, blobid) SELECT 'm0', 1000000 + n, blobid FROM source",
    );
}

#[test]
fn leaves_are_rewritten_while_workers_wait_for_them() {
    // A partition's column has the parent's type: it can only be changed in all of them.
    given_a_new_file(
        "rewrite_waiting",
        "ALTER TABLE inode ALTER COLUMN nlink TYPE bigint",
    );
}

/// Transaction ids and snapshots of workers.
fn horizons(s: &mut Session) -> Vec<String> {
    s.table(
        "SELECT backend_xid, backend_xmin FROM pg_stat_activity
          WHERE backend_type = 'ntt_mime worker' AND datname = current_database()",
    )
}

/// Workers that wait for a leaf that is locked in `mode` don't hold back vacuum.
fn no_snapshot_waits(name: &str, mode: &str) {
    let (db, _store, mut s) = archive(name, 2, 60);
    let mut other = db.connect();
    other.exec(&format!(
        "BEGIN; LOCK TABLE ONLY inode_m0, ONLY inode_m1 IN {mode} MODE"
    ));
    let mut caller = db.connect();
    caller.exec("SET ntt_mime.lock_timeout = '10s'");
    let running = caller.call_in_background("50");
    wait_until(SOON, "both workers to wait for a leaf", || {
        waiting_for_leaves(&mut s) == 2
    });
    let horizons = horizons(&mut s);
    other.exec("COMMIT");
    let (_, outcome) = running.succeed();
    assert_eq!(horizons, ["|", "|"]);
    assert_eq!(outcome.rows_updated, inode::expected(&mut s).rows);
    inode::check_filled(&mut s, "inode");
}

#[test]
fn a_worker_that_waits_to_read_a_leaf_has_no_snapshot() {
    no_snapshot_waits("waiting_reader", "ACCESS EXCLUSIVE");
}

#[test]
fn a_worker_that_waits_to_update_a_leaf_has_no_snapshot() {
    no_snapshot_waits("waiting_writer", "SHARE");
}

#[test]
fn a_worker_holds_no_leaf_while_it_waits_for_the_parent() {
    let (db, _store, mut s) = archive("parent_first", 1, 60);
    // As DDL does: the parent first, then the leaf. This session detects a deadlock at once, and would be cancelled.
    let mut ddl = db.connect();
    ddl.exec("SET deadlock_timeout = '10ms'");
    ddl.exec("BEGIN; LOCK TABLE ONLY inode IN ACCESS EXCLUSIVE MODE");
    let mut caller = db.connect();
    // With this setting the planner reads partitions' constraints.
    caller.exec("SET ntt_mime.lock_timeout = '10s'; SET constraint_exclusion = on");
    let running = caller.call_in_background("50, workers => 1");
    // For the parent, which is needed for the partition's constraint: the leaf is free.
    db.wait_for_waiting_worker();
    ddl.exec("LOCK TABLE ONLY inode_m0 IN ACCESS EXCLUSIVE MODE NOWAIT");
    assert_eq!(horizons(&mut s), ["|"]);
    ddl.exec("COMMIT");
    let (_, outcome) = running.succeed();
    assert_eq!(outcome.rows_updated, inode::expected(&mut s).rows);
    inode::check_filled(&mut s, "inode");
}

#[test]
fn a_worker_holds_no_other_table_while_it_waits_for_one_above_a_leaf() {
    let (db, _store, mut s) = archive("one_above", 1, 60);
    s.exec(
        "ALTER TABLE inode DETACH PARTITION inode_m0;
         CREATE TABLE inode_middle PARTITION OF inode FOR VALUES IN ('m0') PARTITION BY LIST (medium_hash);
         ALTER TABLE inode_middle ATTACH PARTITION inode_m0 FOR VALUES IN ('m0')",
    );
    inode::remember(&mut s, "inode");
    // A loader's transaction that has made a partition there.
    let mut loader = db.connect();
    loader.exec("BEGIN; LOCK TABLE ONLY inode_middle IN ACCESS EXCLUSIVE MODE");
    let mut caller = db.connect();
    caller.exec("SET ntt_mime.lock_timeout = '10s'");
    let running = caller.call_in_background("50, workers => 1");
    db.wait_for_waiting_worker();
    assert_eq!(horizons(&mut s), ["|"]);
    // And one that makes another at the top.
    s.exec("BEGIN; LOCK TABLE ONLY inode, ONLY inode_m0 IN ACCESS EXCLUSIVE MODE NOWAIT; COMMIT");
    loader.exec("COMMIT");
    let (mut caller, outcome) = running.succeed();
    assert_eq!(caller.take_warnings(), Vec::<String>::new());
    assert_eq!(outcome.rows_updated, inode::expected(&mut s).rows);
    inode::check_filled(&mut s, "inode");
}

#[test]
fn ddl_on_the_partitioned_table_does_not_deadlock() {
    let (db, _store, mut s) = archive("ddl_rounds", 50, 1000);
    let filled = format!(
        "SELECT count(*) FROM inode WHERE mime_type <> '{}'",
        inode::KEPT
    );
    let mut ddl = db.connect();
    ddl.exec("SET deadlock_timeout = '10ms'");
    let mut caller = db.connect();
    caller.exec("SET ntt_mime.lock_timeout = '10s'");
    let running = caller.call_in_background("1, workers => 2");
    for round in 0..10 {
        // Each of them locks the parent first, then leaf by leaf. The last two make the workers build the partitions'
        // constraints again, as they do for each leaf that is new to them.
        ddl.exec("BEGIN; LOCK TABLE inode IN ACCESS EXCLUSIVE MODE; COMMIT");
        ddl.exec("ALTER TABLE inode ADD COLUMN note text");
        ddl.exec("ALTER TABLE inode DROP COLUMN note");
        let before = s.count(&filled);
        // Polled without a pause, otherwise the run would be over too soon.
        while s.count(&filled) == before {
            assert!(!running.is_finished(), "it was over in round {round}");
        }
    }
    let (mut caller, outcome) = running.succeed();
    assert_eq!(caller.take_warnings(), Vec::<String>::new());
    assert_eq!(outcome.rows_updated, inode::expected(&mut s).rows);
    inode::check_filled(&mut s, "inode");
    assert_eq!(
        s.run_row(outcome.run_id, "status, rows_left"),
        "succeeded|0"
    );
    // Nobody else has been cancelled either.
    assert_eq!(deadlocks(&mut s), 0);
}

#[test]
fn a_leaf_that_may_only_be_read_is_left_at_once() {
    let (db, _store, mut s) = archive("share", 3, 200);
    let locked = inode::pending(&mut s, "inode_m0");
    let free = inode::pending(&mut s, "inode_m1") + inode::pending(&mut s, "inode_m2");
    assert!(locked > 20 * 20, "a leaf of many batches");
    let mut other = db.connect();
    // As CREATE INDEX does: the leaf's rows can be read, but not updated.
    other.exec("BEGIN; LOCK TABLE ONLY inode_m0 IN SHARE MODE");
    // With a pause between batches, none is read before the previous one has been updated.
    s.exec("SET ntt_mime.lock_timeout = '100ms'; SET ntt_mime.batch_delay = '1ms'");
    let outcome = s.backfill("20");
    assert_eq!(
        s.take_warnings(),
        [
            "1 leaf was not filled completely because of locks held by others | It is \"public.inode_m0\". | \
             The next run will try again."
        ]
    );
    assert_eq!(outcome.rows_updated, free);
    assert_eq!(inode::pending(&mut s, "inode"), locked);
    assert_eq!(
        s.run_row(
            outcome.run_id,
            "status, leaves_done, leaves_total, rows_left IS NULL"
        ),
        "succeeded|2|3|t"
    );
    // One batch of the leaf in each of the three passes, and after it no other.
    let scanned = s.run_counter(outcome.run_id, "rows_scanned") - free;
    assert!(
        (3..=3 * 20).contains(&scanned),
        "{scanned} rows of a leaf that can't be updated were read"
    );
    other.exec("COMMIT");
    assert_eq!(s.backfill("20").rows_updated, locked);
    inode::check_filled(&mut s, "inode");
}

/// A leaf is detached during the run, by `statement`, and belongs to another table from then on.
fn detached(name: &str, statement: &str) {
    let (db, _store, mut s) = archive(name, 2, 60);
    let running = start_on(&db, &mut s, "inode_m0");
    let mut ddl = db.connect();
    ddl.exec(statement);
    let left = inode::pending(&mut s, "inode_m0");
    assert!(left > 0, "it was finished before it was detached");
    ddl.exec(
        "CREATE TABLE archived (LIKE inode) PARTITION BY LIST (medium_hash);
         ALTER TABLE archived ATTACH PARTITION inode_m0 FOR VALUES IN ('m0')",
    );
    let (_, outcome) = running.succeed();
    assert_eq!(s.run_row(outcome.run_id, "status"), "succeeded");
    assert_eq!(
        inode::pending(&mut s, "inode_m0"),
        left,
        "rows of a leaf that isn't the target's any more were filled"
    );
    assert_eq!(inode::pending(&mut s, "inode"), 0);

    // When it is back, it is filled like any other.
    ddl.exec(
        "ALTER TABLE archived DETACH PARTITION inode_m0;
         ALTER TABLE inode ATTACH PARTITION inode_m0 FOR VALUES IN ('m0')",
    );
    assert_eq!(s.backfill("50").rows_updated, left);
    inode::check_filled(&mut s, "inode");
}

#[test]
fn a_leaf_is_detached_and_attached_elsewhere() {
    detached("detach", "ALTER TABLE inode DETACH PARTITION inode_m0");
}

#[test]
fn a_leaf_is_detached_concurrently_and_attached_elsewhere() {
    detached(
        "detach_concurrently",
        "ALTER TABLE inode DETACH PARTITION inode_m0 CONCURRENTLY",
    );
}

#[test]
fn a_leaf_is_detached_and_comes_back_while_the_run_goes_on() {
    let (db, _store, mut s) = archive("detach_and_back", 2, 60);
    let running = start_on(&db, &mut s, "inode_m0");
    let mut ddl = db.connect();
    ddl.exec(
        "ALTER TABLE inode DETACH PARTITION inode_m0;
         ALTER TABLE inode ATTACH PARTITION inode_m0 FOR VALUES IN ('m0')",
    );
    assert!(inode::pending(&mut s, "inode_m0") > 0);
    running.succeed();
    inode::check_partly_filled(&mut s, "inode");
    // Whether the run has noticed or not: one more fills what is left.
    s.backfill("50");
    inode::check_filled(&mut s, "inode");
}

#[test]
fn a_leaf_is_truncated_and_filled_anew() {
    let (db, _store, mut s) = archive("truncate", 2, 60);
    let running = start_on(&db, &mut s, "inode_m0");
    // The same TIDs hold other rows now: all of another blob, and a few that have a type.
    let mut loader = db.connect();
    loader.exec(&format!(
        "BEGIN;
         TRUNCATE inode_m0;
         INSERT INTO inode_m0 (medium_hash, ino, blobid, mime_type)
             SELECT 'm0', 1000000 + n, blobid, CASE WHEN n % 7 = 0 THEN '{}' END
               FROM (SELECT row_number() OVER () AS n, a.blobid FROM source a, generate_series(1, 5)) rows;
         COMMIT",
        inode::KEPT
    ));
    let (_, outcome) = running.succeed();
    // These pauses make it a long pass, after which all leaves are read again from their beginning.
    assert_eq!(inode::pending(&mut s, "inode"), 0);
    assert_eq!(
        s.run_row(outcome.run_id, "status, rows_left"),
        "succeeded|0"
    );
    let wrong = s.table(
        "SELECT ino, mime_type, mime FROM inode JOIN truth USING (blobid)
          WHERE mime_type IS DISTINCT FROM mime AND mime_type IS DISTINCT FROM 'application/x-kept' LIMIT 5",
    );
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(
        s.count(&format!(
            "SELECT count(*) FROM inode_m0 WHERE mime_type = '{}'",
            inode::KEPT
        )),
        s.count("SELECT (5 * count(*)) / 7 FROM source")
    );
}

/// A leaf gets another name, or another schema, and another table its old one.
fn renamed(name: &str, statement: &str, now: &str) {
    let (db, _store, mut s) = archive(name, 2, 60);
    let running = start_on(&db, &mut s, "inode_m0");
    let mut ddl = db.connect();
    ddl.exec(&format!(
        "BEGIN; {statement};
         CREATE TABLE public.inode_m0 (blobid text, mime_type text);
         INSERT INTO public.inode_m0 SELECT blobid FROM source, generate_series(1, 20);
         COMMIT"
    ));
    let strangers = inode::pending(&mut s, "public.inode_m0");
    assert!(inode::pending(&mut s, now) > 0);
    let (_, outcome) = running.succeed();
    assert_eq!(
        s.run_row(outcome.run_id, "status, rows_left"),
        "succeeded|0"
    );
    inode::check_filled(&mut s, "inode");
    assert_eq!(outcome.rows_updated, inode::expected(&mut s).rows);
    assert_eq!(
        inode::pending(&mut s, "public.inode_m0"),
        strangers,
        "a table that has a leaf's old name was taken for it"
    );
}

#[test]
fn a_leaf_is_renamed_and_another_table_has_its_name() {
    renamed(
        "rename",
        "ALTER TABLE inode_m0 RENAME TO inode_old",
        "inode_old",
    );
}

#[test]
fn a_leaf_moves_to_another_schema_and_another_table_has_its_name() {
    renamed(
        "move",
        "CREATE SCHEMA elsewhere; ALTER TABLE inode_m0 SET SCHEMA elsewhere",
        "elsewhere.inode_m0",
    );
}

#[test]
fn the_schema_of_a_leaf_is_renamed_and_another_one_has_its_name() {
    // This doesn't lock the leaf: only the names in its statements become outdated.
    let (db, _store, mut s) = archive("rename_schema", 2, 60);
    s.exec("CREATE SCHEMA media; ALTER TABLE inode_m0 SET SCHEMA media");
    let running = start_on(&db, &mut s, "media.inode_m0");
    s.exec(
        "BEGIN; ALTER SCHEMA media RENAME TO media_old; CREATE SCHEMA media;
         CREATE TABLE media.inode_m0 (blobid text, mime_type text);
         INSERT INTO media.inode_m0 SELECT blobid FROM source, generate_series(1, 20); COMMIT",
    );
    let strangers = inode::pending(&mut s, "media.inode_m0");
    running.succeed();
    assert_eq!(inode::pending(&mut s, "media.inode_m0"), strangers);
    s.backfill("50");
    inode::check_filled(&mut s, "inode");
    assert_eq!(inode::pending(&mut s, "media.inode_m0"), strangers);
}

#[test]
fn a_short_transaction_timeout_does_not_end_a_long_run() {
    if server::major_version() < 17 {
        println!("there is no transaction_timeout before PostgreSQL 17");
        return;
    }
    let (db, _store, mut s) = archive("transaction_timeout", 2, 60);
    let mut caller = db.connect();
    // Each transaction of the run is shorter; all of them together aren't.
    caller.exec("SET transaction_timeout = '3s'; SET ntt_mime.batch_delay = '200ms'; SET ntt_mime.workers = 1");
    let started = Instant::now();
    let outcome = caller.backfill("10");
    assert!(
        started.elapsed() > Duration::from_secs(4),
        "too short a run to say anything"
    );
    assert_eq!(outcome.rows_updated, inode::expected(&mut s).rows);
    inode::check_filled(&mut s, "inode");
}

/// Waits until these sessions wait for a lock.
fn wait_until_held(s: &mut Session, what: &str, condition: &str) {
    wait_until(SOON, what, || {
        s.count(&format!(
            "SELECT count(*) FROM pg_stat_activity
              WHERE wait_event_type = 'Lock' AND datname = current_database() AND {condition}"
        )) > 0
    });
}

/// A run writes to several tables of the extension in one transaction, and DROP EXTENSION locks all of them.
#[test]
fn dropping_the_extension_deadlocks_with_nothing_that_a_run_writes() {
    let (db, _store, mut s) = archive("drop_extension", 2, 20);
    s.backfill("1000");
    s.exec("UPDATE inode SET mime_type = NULL WHERE blobid IS NOT NULL");
    // The run has locked one of the tables, has to wait for a row of it, and needs another table afterwards.
    let mut holder = db.connect();
    holder.exec("BEGIN; SELECT FROM ntt_mime.leaf FOR UPDATE");
    let run = db.connect().call_in_background("1000");
    wait_until_held(&mut s, "the run to wait", "query LIKE 'CALL%'");
    let mut dropper = db.connect();
    std::thread::scope(|scope| {
        scope.spawn(|| dropper.exec("DROP EXTENSION ntt_mime CASCADE"));
        wait_until_held(&mut s, "DROP EXTENSION to wait", "query LIKE 'DROP%'");
        holder.exec("COMMIT");
    });
    run.succeed();
    assert_eq!(inode::pending(&mut s, "inode"), 0);
}
