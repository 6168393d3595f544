//! A run beside sessions that wait for its rows: while somebody waits, its batches are short.

use ntt_mime_integration::{SOON, Session, Store, TestDb, wait_until};

/// Maximum number of rows of a batch.
const MOST: i64 = 400;

/// A table of 4,000 rows whose updates are logged, batch by batch. The first batch of the maximum size waits in its
/// trigger, before its commit: until somebody waits for it, for at least a tenth of a second, or otherwise for a
/// fifth.
fn table(name: &str, mime_type: &str, until_awaited: bool) -> (TestDb<'static>, Store, Session) {
    let (db, store, mut s) = TestDb::with_store(name);
    let blobids = store.put_synthetic(10);
    s.exec(&format!(
        "CREATE TABLE item (id int PRIMARY KEY, blobid text, mime_type text, note text);
         INSERT INTO item SELECT n, ('{{{}}}'::text[])[1 + n % 10], {mime_type} FROM generate_series(1, 4000) n;
         CREATE TABLE batch (n serial, rows bigint);
         CREATE FUNCTION log_batch() RETURNS trigger LANGUAGE plpgsql AS $$
         DECLARE
             count bigint := (SELECT count(*) FROM changed WHERE note IS NULL);
             first bool := NOT EXISTS (SELECT FROM batch WHERE rows >= {MOST});
             until timestamptz := clock_timestamp() + CASE WHEN {until_awaited} THEN '30 s' ELSE '200 ms' END::interval;
         BEGIN
             IF count = 0 THEN RETURN NULL; END IF;
             INSERT INTO batch (rows) VALUES (count);
             WHILE first AND count >= {MOST} AND clock_timestamp() < until LOOP
                 EXIT WHEN EXISTS (SELECT FROM pg_locks WHERE NOT granted AND transactionid = pg_current_xact_id()::xid);
                 PERFORM pg_sleep(0.1);
             END LOOP;
             RETURN NULL;
         END $$;
         CREATE TRIGGER log_batch AFTER UPDATE ON item REFERENCING NEW TABLE AS changed
             FOR EACH STATEMENT EXECUTE FUNCTION log_batch()",
        blobids.join(",")
    ));
    (db, store, s)
}

/// Runs `call` with one worker; if `wanted`, another session wants a row of the batch that waits. Returns the rows of
/// each batch, from that one on, and for how many batches, according to the run, somebody waited.
fn batches(db: &TestDb, s: &mut Session, call: &str, wanted: bool) -> (Vec<i64>, i64) {
    let mut caller = db.connect();
    caller.exec("SET ntt_mime.target = 'item'");
    let (procedure, arguments) = call.split_once('(').expect("a call");
    let arguments = arguments.trim_end_matches(')');
    std::thread::scope(|scope| {
        let running = scope.spawn(move || {
            caller
                .call_row(procedure, arguments)
                .expect("the run succeeds");
        });
        if wanted {
            wait_until(SOON, "the batch to wait in its trigger", || {
                assert!(!running.is_finished(), "over without such a batch");
                s.count(
                    "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'ntt_mime worker'
                        AND wait_event = 'PgSleep' AND datname = current_database()",
                ) == 1
            });
            // Its first row: the one after those that have been committed.
            s.exec("UPDATE item SET note = 'mine' WHERE id = 1 + (SELECT sum(rows) FROM batch)");
        }
    });
    let all: Vec<i64> = s
        .column("SELECT rows FROM batch ORDER BY n")
        .iter()
        .map(|rows| rows.parse().expect("a number"))
        .collect();
    println!("{all:?}");
    assert_eq!(all.iter().sum::<i64>(), 4000);
    let held = all.iter().position(|rows| *rows >= MOST);
    let held = held.expect("a batch of as many rows as may be");
    let run_id = s.count("SELECT max(run_id) FROM ntt_mime.run");
    let waited_for = s.run_counter(run_id, "options->>'waited_for'");
    (all[held..].to_vec(), waited_for)
}

/// The batch after the one that was waited for may have been read before.
fn check_short(rows: &[i64], waited_for: i64) {
    assert!(waited_for >= 1, "{waited_for}");
    assert!(rows[2] <= MOST / 4, "{rows:?}");
    assert!(rows[3] <= rows[2] + rows[2] / 8 + 1, "{rows:?}");
    assert!(rows.len() > 12, "{rows:?}");
}

#[test]
fn batches_are_short_while_somebody_waits_for_their_rows() {
    let (db, _store, mut s) = table("awaited", "NULL", true);
    let call = format!("ntt_backfill_mime({MOST}, workers => 1)");
    let (rows, waited_for) = batches(&db, &mut s, &call, true);
    check_short(&rows, waited_for);
}

#[test]
fn corrections_are_short_too() {
    let (db, _store, mut s) = table("awaited_correction", "'text/wrong'", true);
    let call = format!("ntt_verify_mime({MOST}, workers => 1, correct => true)");
    let (rows, waited_for) = batches(&db, &mut s, &call, true);
    check_short(&rows, waited_for);
}

#[test]
fn batches_for_which_nobody_waits_are_as_long_as_they_were() {
    let (db, _store, mut s) = table("not_awaited", "NULL", false);
    let call = format!("ntt_backfill_mime({MOST}, workers => 1)");
    let (rows, waited_for) = batches(&db, &mut s, &call, false);
    assert_eq!(waited_for, 0);
    assert!(rows[2] >= MOST / 2, "{rows:?}");
    assert!(rows.len() < 12, "{rows:?}");
}
