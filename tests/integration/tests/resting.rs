//! Workers rest while other sessions need the processors, but one always goes on.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};

use ntt_mime_integration::{SOON, Session, Store, TestDb, wait_until};

/// A table of 40 small leaves, each of which is one batch. The first batch waits, before its commit, until the table
/// `seen` has a row.
fn table(name: &str) -> (TestDb<'static>, Store, Session) {
    let (db, store, mut s) = TestDb::with_store(name);
    let blobids = store.put_synthetic(10);
    s.exec(
        "CREATE TABLE item (leaf int, blobid text, mime_type text) PARTITION BY LIST (leaf);
         CREATE TABLE seen ();
         CREATE FUNCTION take_time() RETURNS trigger LANGUAGE plpgsql AS $$
         DECLARE until timestamptz := clock_timestamp() + '60 s';
         BEGIN
             IF pg_try_advisory_xact_lock(1) THEN
                 WHILE NOT EXISTS (SELECT FROM seen) AND clock_timestamp() < until LOOP
                     PERFORM pg_sleep(0.01);
                 END LOOP;
             END IF;
             PERFORM pg_sleep(0.05);
             RETURN NULL;
         END $$",
    );
    for leaf in 0..40 {
        s.exec(&format!(
            "CREATE TABLE item_{leaf} PARTITION OF item FOR VALUES IN ({leaf});
             CREATE TRIGGER take_time AFTER UPDATE ON item_{leaf} EXECUTE FUNCTION take_time()"
        ));
    }
    let blobids = blobids.join(",");
    s.exec(&format!(
        "INSERT INTO item SELECT n % 40, ('{{{blobids}}}'::text[])[1 + n % 10] FROM generate_series(1, 400) n"
    ));
    (db, store, s)
}

/// Runs `work` while other sessions keep all processors busy.
fn beside_busy_sessions(db: &TestDb, work: impl FnOnce()) {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 * processors {
            let mut s = db.connect();
            let over = &over;
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    s.exec("DO 'BEGIN FOR n IN 1 .. 1000000 LOOP END LOOP; END'");
                }
            });
        }
        let result = catch_unwind(AssertUnwindSafe(work));
        over.store(true, Ordering::Relaxed);
        result.unwrap_or_else(|panic| resume_unwind(panic));
    });
}

#[test]
fn a_worker_rests_while_other_sessions_keep_the_processors_busy() {
    let (db, _store, mut s) = table("resting");
    beside_busy_sessions(&db, || {
        let running = db
            .connect()
            .call_in_background("10000, workers => 2, target => 'item'");
        wait_until(SOON, "one of two workers to rest", || {
            assert!(!running.is_finished(), "over without that");
            s.count(
                "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'ntt_mime worker'
                    AND datname = current_database() AND query LIKE '%resting because other sessions are at work'",
            ) == 1
        });
        s.exec("INSERT INTO seen DEFAULT VALUES");
        // They are still busy: a run always ends.
        let (_, run) = running.succeed();
        assert_eq!(run.rows_updated, 400);
        assert!(s.run_counter(run.run_id, "round((options->>'rested_ms')::numeric)") > 0);
    });
}

/// A leaf that somebody has locked holds up nothing but itself.
#[test]
fn a_worker_that_waits_for_a_lock_lets_another_work() {
    let (db, _store, mut s) = table("resting_locked");
    s.exec("INSERT INTO seen DEFAULT VALUES");
    let mut other = db.connect();
    other.exec("BEGIN; LOCK TABLE item_7 IN ACCESS EXCLUSIVE MODE");
    beside_busy_sessions(&db, || {
        let mut caller = db.connect();
        caller.exec("SET ntt_mime.lock_timeout = '10min'");
        let running = caller.call_in_background("10000, workers => 2, target => 'item'");
        // The locked leaf is pruned, and so not waited for.
        let filled = "SELECT count(*) FROM item WHERE leaf <> 7 AND mime_type IS NOT NULL";
        wait_until(SOON, "all other leaves to be filled", || {
            s.count(filled) == 390
        });
        other.exec("COMMIT");
        let (_, run) = running.succeed();
        assert_eq!(run.rows_updated, 400);
    });
}

#[test]
fn nobody_rests_if_that_is_not_wanted() {
    let (db, _store, mut s) = table("not_resting");
    s.exec("INSERT INTO seen DEFAULT VALUES; SET ntt_mime.nice = 0");
    beside_busy_sessions(&db, || {
        let run = s.backfill("10000, workers => 2, target => 'item'");
        assert_eq!(run.rows_updated, 400);
        let rested = s.run_row(run.run_id, "options->>'rested_ms'");
        assert_eq!(rested.parse(), Ok(0.0));
    });
}
