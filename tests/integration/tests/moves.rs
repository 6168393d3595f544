//! What others do to leaves that a run has finished: it reads them again, or reports that it hasn't. What it reports
//! at its end is true at that time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use ntt_mime_integration::store::absent_blobid;
use ntt_mime_integration::{Background, Cluster, SOON, Session, Store, TestDb, inode, wait_until};

/// The user's `inode` in three leaves, the first of which a run of one worker comes to first. No table refers to it, so
/// that rows can be moved.
fn archive(name: &str) -> (TestDb<'static>, Store, Session) {
    let (db, store, mut s) = inode::archive(name, 3, 100, 8);
    s.exec("DROP TABLE path");
    (db, store, s)
}

/// Starts a run, and waits until it is done with the first leaf, and not with the second.
fn start(db: &TestDb<'_>, s: &mut Session, settings: &str) -> Background {
    let mut caller = db.connect();
    caller.exec(&format!("SET ntt_mime.batch_delay = '20ms'; {settings}"));
    let last_leaf = inode::pending(s, "inode_m2");
    let left = inode::pending(s, "inode_m1");
    let running = caller.call_in_background("20, workers => 1");
    wait_until(SOON, "the run to be at the second leaf", || {
        inode::pending(s, "inode_m1") < left
    });
    assert_eq!(inode::pending(s, "inode_m2"), last_leaf);
    running
}

/// A session whose counters come late: it has published some just now.
fn late(db: &TestDb<'_>) -> Session {
    let mut session = db.connect();
    session.exec("CREATE TABLE IF NOT EXISTS other (n int)");
    session.exec("SELECT pg_stat_force_next_flush()");
    session.exec("INSERT INTO other VALUES (1)");
    session
}

/// Nothing is pending, and the run knows it.
fn assert_all_filled(s: &mut Session, run_id: i64) {
    assert_eq!(inode::pending(s, "inode"), 0);
    assert_eq!(
        s.run_row(run_id, "status, rows_left, leaves_done = leaves_total"),
        "succeeded|0|t"
    );
    let wrong = s.table(
        "SELECT ino, mime_type, mime FROM inode JOIN truth USING (blobid)
          WHERE mime_type NOT IN (mime, 'application/x-kept') LIMIT 5",
    );
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn rows_move_to_a_leaf_that_is_done() {
    let (db, _store, mut s) = archive("moves");
    let mut other = late(&db);
    let running = start(&db, &mut s, "");
    let moved = other
        .execute(
            "UPDATE inode SET medium_hash = 'm0' WHERE medium_hash = 'm2' AND mime_type IS NULL",
            &[],
        )
        .expect("rows can be moved");
    assert!(moved > 50 && !running.is_finished());
    let (_, outcome) = running.succeed();
    assert_all_filled(&mut s, outcome.run_id);
    assert_eq!(outcome.rows_updated, inode::expected(&mut s).rows);
}

#[test]
fn rows_that_cannot_be_filled_move_and_are_counted_once() {
    let (db, _store, mut s) = archive("moves_back");
    let absent = absent_blobid(1);
    s.exec(&format!(
        "UPDATE inode SET blobid = '{absent}' WHERE medium_hash <> 'm1' AND mime_type IS NULL AND ino % 2 = 0"
    ));
    inode::remember(&mut s, "inode");
    let mut other = late(&db);
    let running = start(&db, &mut s, "");
    // From a leaf that the run has looked at to one that it hasn't, and the other way round.
    other.exec(&format!(
        "UPDATE inode SET medium_hash = 'm' || (2 - substr(medium_hash, 2)::int)
          WHERE medium_hash <> 'm1' AND blobid = '{absent}' AND ino % 4 = 0"
    ));
    assert!(!running.is_finished());
    let (_, outcome) = running.succeed();
    let pending = inode::pending(&mut s, "inode");
    assert_eq!(pending, inode::expected(&mut s).rows_left);
    assert_eq!(
        s.run_row(outcome.run_id, "status, rows_left"),
        format!("succeeded|{pending}")
    );
}

#[test]
fn rows_that_are_loaded_behind_the_run() {
    let (db, _store, mut s) = archive("moves_load");
    let mut other = late(&db);
    let running = start(&db, &mut s, "");
    other.exec(
        "INSERT INTO inode (medium_hash, ino, blobid) SELECT 'm0', 1000000 + n, blobid FROM source",
    );
    other.exec("UPDATE inode SET mime_type = NULL WHERE medium_hash = 'm0' AND ino < 20");
    assert!(!running.is_finished());
    let (_, outcome) = running.succeed();
    assert_all_filled(&mut s, outcome.run_id);
}

#[test]
fn a_leaf_that_is_made_by_somebody_who_is_gone() {
    let (db, _store, mut s) = archive("moves_new");
    let running = start(&db, &mut s, "");
    db.connect().exec(
        "CALL add_leaf('m7');
         INSERT INTO inode (medium_hash, ino, blobid) SELECT 'm7', 1000000 + n, blobid FROM source",
    );
    assert!(!running.is_finished());
    let (_, outcome) = running.succeed();
    assert_all_filled(&mut s, outcome.run_id);
    assert_eq!(s.run_counter(outcome.run_id, "leaves_total"), 4);
}

#[test]
fn a_leaf_that_is_done_is_rewritten_and_pending_again() {
    let (db, _store, mut s) = archive("moves_rewritten");
    let running = start(&db, &mut s, "");
    // No row is inserted or updated by that.
    db.connect().exec(
        "ALTER TABLE inode ALTER COLUMN mime_type TYPE varchar(200) USING NULLIF(mime_type, 'text/plain')",
    );
    assert!(!running.is_finished());
    let (_, outcome) = running.succeed();
    assert_all_filled(&mut s, outcome.run_id);
}

#[test]
fn a_leaf_comes_back_that_was_detached() {
    let (db, _store, mut s) = archive("moves_detached");
    let mut other = db.connect();
    other.exec("ALTER TABLE inode DETACH PARTITION inode_m0");
    let running = start(&db, &mut s, "");
    other.exec("ALTER TABLE inode ATTACH PARTITION inode_m0 FOR VALUES IN ('m0')");
    assert!(!running.is_finished());
    let (_, outcome) = running.succeed();
    assert_all_filled(&mut s, outcome.run_id);
}

#[test]
fn what_the_runs_own_triggers_write() {
    let (_db, _store, mut s) = archive("moves_trigger");
    // Whatever is filled in the second leaf adds to the first one, which is done then.
    s.exec(
        "CREATE SEQUENCE numbers START 1000000;
         CREATE FUNCTION add() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN
                 INSERT INTO public.inode (medium_hash, ino, blobid)
                     SELECT 'm0', nextval('public.numbers'), blobid FROM public.source ORDER BY n LIMIT 1;
                 RETURN NULL;
             END $$;
         CREATE TRIGGER add AFTER UPDATE ON inode_m1 FOR EACH STATEMENT EXECUTE FUNCTION add()",
    );
    let outcome = s.backfill("10, workers => 1");
    assert!(s.count("SELECT count(*) FROM inode WHERE ino >= 1000000") > 0);
    assert_all_filled(&mut s, outcome.run_id);
}

#[test]
fn where_nothing_is_counted_all_is_looked_at_again() {
    let (db, _store, mut s) = archive("moves_uncounted");
    let mut other = db.connect();
    other.exec("SET track_counts = off");
    let running = start(&db, &mut s, "SET track_counts = off");
    other.exec(
        "INSERT INTO inode (medium_hash, ino, blobid) SELECT 'm0', 1000000 + n, blobid FROM source",
    );
    assert!(!running.is_finished());
    let (_, outcome) = running.succeed();
    assert_eq!(inode::pending(&mut s, "inode"), 0);
    assert_eq!(s.run_row(outcome.run_id, "status"), "succeeded");
}

/// Runs `work` again and again in a session of its own, until `until` is over.
fn meanwhile<T>(mut session: Session, statement: &str, until: impl FnOnce() -> T) -> T {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                session.exec(statement);
                thread::sleep(Duration::from_millis(10));
            }
        });
        let result = until();
        over.store(true, Ordering::Relaxed);
        result
    })
}

#[test]
fn a_loader_without_a_pause_is_told_of() {
    let (db, _store, mut s) = archive("moves_always");
    s.exec("CREATE SEQUENCE numbers START 1000000");
    let loader = db.connect();
    let statement = "INSERT INTO inode (medium_hash, ino, blobid)
         SELECT 'm0', nextval('numbers'), blobid FROM source ORDER BY n LIMIT 3";
    // With a pause in each pass, in which something comes.
    s.exec("SET ntt_mime.batch_delay = '100ms'");
    let outcome = meanwhile(loader, statement, || s.backfill("1000, workers => 1"));
    // It ends nevertheless, and doesn't say that nothing is left.
    assert_eq!(
        s.run_row(
            outcome.run_id,
            "status, rows_left IS NULL, leaves_done, leaves_total"
        ),
        "succeeded|t|2|3"
    );
    assert_eq!(
        s.take_warnings(),
        [
            "1 leaf was changed by others after it was read | It is \"public.inode_m0\". | \
             The next run will read them."
        ]
    );
    let outcome = s.backfill("1000, workers => 1");
    assert_all_filled(&mut s, outcome.run_id);
}

#[test]
fn what_happens_in_another_database_costs_nothing() {
    let (_db, _store, mut s) = archive("moves_elsewhere");
    let mut elsewhere = Cluster::shared().connect("postgres", "postgres");
    elsewhere.exec("CREATE TEMPORARY TABLE counter (n int); INSERT INTO counter VALUES (0)");
    let statement = "UPDATE counter SET n = n + 1";
    let outcome = meanwhile(elsewhere, statement, || s.backfill("100, workers => 1"));
    assert_all_filled(&mut s, outcome.run_id);
    // Each block once: there was one pass.
    let scanned = s.run_counter(outcome.run_id, "blocks_done");
    let there = s.count(
        "SELECT sum(pg_relation_size(inhrelid) / current_setting('block_size')::int)::bigint
           FROM pg_inherits WHERE inhparent = 'inode'::regclass",
    );
    assert!(scanned <= there, "{scanned} blocks of {there} looked at");
    assert_eq!(s.take_warnings(), Vec::<String>::new());
}
