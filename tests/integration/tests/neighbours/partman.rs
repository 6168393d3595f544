//! pg_partman: it creates partitions in advance and drops old ones while a run goes on.

use ntt_mime_integration::{Session, Store, TestDb, inode};

use super::is_there;

/// A table by days, each with rows, which pg_partman looks after.
fn events(s: &mut Session) {
    s.exec(
        "CREATE SCHEMA partman; CREATE EXTENSION pg_partman SCHEMA partman;
         CREATE TABLE event (at timestamptz NOT NULL, blobid text, mime_type varchar(255)) PARTITION BY RANGE (at)",
    );
    let version: String =
        s.value("SELECT extversion FROM pg_extension WHERE extname = 'pg_partman'");
    let (kind, day) = match version.starts_with('4') {
        true => ("native", "daily"),
        false => ("range", "1 day"),
    };
    s.exec(&format!(
        "SELECT partman.create_parent(p_parent_table => 'public.event', p_control => 'at', p_type => '{kind}',
                                      p_interval => '{day}', p_start_partition => (now() - interval '4 days')::text);
         INSERT INTO event SELECT now() + (n % 8 - 4) * interval '1 day', blobid
                             FROM source, generate_series(1, 3) copy"
    ));
}

/// What its scheduled maintenance does: makes one more day ahead, which a loader fills, and drops what is too old.
fn maintain(s: &mut Session) {
    s.exec(
        "UPDATE partman.part_config SET premake = premake + 1 WHERE parent_table = 'public.event';
         SELECT partman.run_maintenance('public.event');
         INSERT INTO event SELECT now() + (premake - 1) * interval '1 day', blobid
                             FROM partman.part_config, source WHERE n < 5 AND parent_table = 'public.event'",
    );
}

fn begin(db: &TestDb, store: &Store) -> Option<Session> {
    if !is_there("pg_partman") {
        return None;
    }
    let mut s = db.connect();
    inode::load_source(&mut s, &store.put_synthetic(200));
    events(&mut s);
    Some(s)
}

#[test]
fn partitions_are_made_and_dropped_while_a_run_goes_on() {
    let (db, store, _) = TestDb::with_store("partman");
    let Some(mut s) = begin(&db, &store) else {
        return;
    };
    let mut caller = db.connect();
    caller.exec("SET ntt_mime.batch_delay = '300ms'; SET ntt_mime.target = 'event'");
    let running = caller.call_in_background("20");
    s.wait_for_run();
    s.exec(
        "UPDATE partman.part_config SET retention = '2 days', retention_keep_table = false
          WHERE parent_table = 'public.event'",
    );
    for _ in 0..10 {
        maintain(&mut s);
    }
    assert!(!running.is_finished(), "a run too short to be disturbed");
    let (mut caller, outcome) = running.succeed();
    assert_eq!(s.run_row(outcome.run_id, "status, error"), "succeeded|");
    // Old days have gone, and what came in behind the run is for the next one.
    assert_eq!(
        s.count("SELECT count(*) FROM event WHERE at < now() - interval '4 days'"),
        0
    );
    let outcome = caller.backfill("1000");
    assert_eq!(
        s.run_row(outcome.run_id, "status, rows_left"),
        "succeeded|0"
    );
    assert_eq!(inode::pending(&mut s, "event"), 0);
    let wrong = s.table(
        "SELECT blobid, mime_type, ntt_detect_mime(blobid) FROM event
          WHERE mime_type IS DISTINCT FROM ntt_detect_mime(blobid)",
    );
    assert!(wrong.is_empty(), "{wrong:#?}");
}
