//! A table gets another file while a run is working on it: its rows then are elsewhere, and the run starts again with
//! it.

use std::time::Duration;

use ntt_mime_integration::{Background, SOON, Session, Store, TestDb, inode, wait_until};

/// Pending rows of [`sparse`].
const ROWS: i64 = 3000;

/// A plain table with as many dead rows as pending ones, so that a rewrite moves these to other blocks.
fn sparse(name: &str) -> (TestDb<'static>, Store, Session) {
    let (db, store, mut s) = TestDb::with_store(name);
    inode::load_source(&mut s, &store.put_synthetic(200));
    s.exec(&format!(
        "CREATE TABLE vf (id int PRIMARY KEY, note text, blobid text, mime_type varchar(255))
             WITH (autovacuum_enabled = off);
         INSERT INTO vf SELECT i, repeat('x', 100), blobid
           FROM generate_series(1, 2 * {ROWS}) i JOIN source ON n = i % 200;
         DELETE FROM vf WHERE id % 2 = 0;
         CREATE TABLE truth AS SELECT blobid, ntt_detect_mime(blobid) AS mime FROM source"
    ));
    assert_eq!(inode::pending(&mut s, "vf"), ROWS);
    (db, store, s)
}

/// Starts a run of one worker, and waits until it has filled some rows of `vf`.
fn start(db: &TestDb<'_>, s: &mut Session, arguments: &str) -> Background {
    let mut caller = db.connect();
    caller.exec("SET ntt_mime.batch_delay = '20ms'; SET ntt_mime.lock_timeout = '10s'");
    let running =
        caller.call_in_background(&format!("50, workers => 1, target => 'vf'{arguments}"));
    wait_until(SOON, "some rows to be filled", || {
        inode::pending(s, "vf") < ROWS
    });
    assert!(!running.is_finished() && inode::pending(s, "vf") > ROWS / 2);
    running
}

fn assert_right(s: &mut Session, table: &str) {
    let wrong = s.table(&format!(
        "SELECT t.blobid, t.mime_type, truth.mime FROM {table} t LEFT JOIN truth USING (blobid)
          WHERE t.mime_type NOT IN (truth.mime, '{}') LIMIT 5",
        inode::KEPT
    ));
    assert!(wrong.is_empty(), "blobid|is|should be: {wrong:#?}");
}

/// `statements` give the table another file in the midst of a run. All the rows that are in it then are filled.
fn rewritten(name: &str, statements: &[&str]) {
    let (db, _store, mut s) = sparse(name);
    let running = start(&db, &mut s, "");
    let mut ddl = db.connect();
    for statement in statements {
        ddl.exec(statement);
    }
    assert!(!running.is_finished(), "over before it was disturbed");
    assert!(inode::pending(&mut s, "vf") > 0);
    let (mut caller, outcome) = running.succeed();
    assert_eq!(inode::pending(&mut s, "vf"), 0);
    assert_right(&mut s, "vf");
    assert_eq!(
        s.run_row(
            outcome.run_id,
            "status, rows_left, leaves_done, leaves_total"
        ),
        "succeeded|0|1|1"
    );
    let filled = s.count("SELECT count(*) FROM vf WHERE mime_type IS NOT NULL");
    assert!(outcome.rows_updated >= filled);
    assert_eq!(caller.take_warnings(), Vec::<String>::new());
}

#[test]
fn vacuum_full() {
    rewritten("rewrite_vacuum", &["VACUUM FULL vf"]);
}

#[test]
fn cluster() {
    rewritten("rewrite_cluster", &["CLUSTER vf USING vf_pkey"]);
}

#[test]
fn a_column_of_another_type() {
    rewritten(
        "rewrite_type",
        &["ALTER TABLE vf ALTER COLUMN id TYPE bigint"],
    );
}

#[test]
fn a_table_that_is_logged_no_more() {
    rewritten("rewrite_logged", &["ALTER TABLE vf SET UNLOGGED"]);
}

#[test]
fn truncated_and_loaded_anew() {
    // Where no row was, and where rows were that the run has filled already.
    rewritten(
        "rewrite_truncate",
        &["BEGIN; TRUNCATE vf; INSERT INTO vf SELECT i, '', blobid
             FROM generate_series(1, 8000) i JOIN source ON n = i % 200; COMMIT"],
    );
}

#[test]
fn files_that_change_places() {
    // As pg_repack does it: a copy is made, its file and the table's change places.
    rewritten(
        "rewrite_swap",
        &["SET allow_system_table_mods = on;
           BEGIN;
           LOCK TABLE vf IN ACCESS EXCLUSIVE MODE;
           CREATE TABLE copy (LIKE vf INCLUDING ALL);
           INSERT INTO copy SELECT * FROM vf ORDER BY id DESC;
           CREATE TABLE files AS SELECT oid, relname, relfilenode FROM pg_class
            WHERE relname IN ('vf', 'vf_pkey', 'copy', 'copy_pkey');
           UPDATE pg_class c SET relfilenode = f.relfilenode
             FROM (VALUES ('vf', 'copy'), ('copy', 'vf'), ('vf_pkey', 'copy_pkey'), ('copy_pkey', 'vf_pkey'))
                  AS swap (one, other) JOIN files f ON f.relname = swap.other
            WHERE c.relname = swap.one;
           COMMIT;
           DROP TABLE copy"],
    );
}

#[test]
fn another_tablespace() {
    let tablespace = format!("ntt_rewrites_{}", std::process::id());
    let move_back = format!("DROP TABLESPACE {tablespace}");
    {
        let (db, _store, mut s) = sparse("rewrite_tablespace");
        s.exec("SET allow_in_place_tablespaces = on");
        s.exec(&format!("CREATE TABLESPACE {tablespace} LOCATION ''"));
        let running = start(&db, &mut s, "");
        s.exec(&format!("ALTER TABLE vf SET TABLESPACE {tablespace}"));
        assert!(inode::pending(&mut s, "vf") > 0);
        let (_, outcome) = running.succeed();
        assert_eq!(inode::pending(&mut s, "vf"), 0);
        assert_eq!(outcome.rows_updated, ROWS);
        assert_eq!(s.run_row(outcome.run_id, "rows_left, leaves_done"), "0|1");
        assert_right(&mut s, "vf");
        s.exec("DROP TABLE vf");
        s.exec(&move_back);
    }
}

#[test]
fn again_and_again() {
    let (db, _store, mut s) = sparse("rewrite_again");
    let running = start(&db, &mut s, "");
    let mut ddl = db.connect();
    while !running.is_finished() {
        ddl.exec("VACUUM FULL vf");
        std::thread::sleep(Duration::from_millis(400));
    }
    let (mut caller, outcome) = running.succeed();
    assert_eq!(inode::pending(&mut s, "vf"), 0);
    assert_eq!(outcome.rows_updated, ROWS);
    assert_right(&mut s, "vf");
    // To see that nothing is left takes a look from end to end in one file. If there was none, that is told.
    match caller.take_warnings().as_slice() {
        [] => assert_eq!(s.run_row(outcome.run_id, "rows_left, leaves_done"), "0|1"),
        _ => assert_eq!(s.run_row(outcome.run_id, "rows_left, leaves_done"), "|0"),
    }
}

#[test]
fn what_could_not_be_finished_is_told() {
    let (db, _store, mut s) = sparse("rewrite_told");
    // A dry run looks once.
    let mut caller = db.connect();
    caller.exec("SET ntt_mime.batch_delay = '100ms'");
    let running = caller.call_in_background("50, workers => 1, target => 'vf', dry_run => true");
    let run_id = s.wait_for_run();
    wait_until(SOON, "some rows to be read", || {
        s.run_counter(run_id, "rows_scanned") > 0
    });
    s.exec("VACUUM FULL vf");
    let (mut caller, _) = running.succeed();
    assert_eq!(
        s.run_row(
            run_id,
            "status, rows_left IS NULL, leaves_done, leaves_total"
        ),
        "succeeded|t|0|1"
    );
    assert_eq!(
        caller.take_warnings(),
        [
            "1 leaf was not filled completely because it was rewritten meanwhile | It is \"public.vf\". | \
             The next run will try again."
        ]
    );
}

/// A leaf of which few rows are pending, in a place that an index knows.
#[test]
fn rows_that_an_index_has_found() {
    let (db, _store, mut s) = sparse("rewrite_few");
    s.exec(
        "UPDATE vf SET mime_type = 'application/x-kept' WHERE id % 100 <> 1;
         CREATE INDEX ON vf (id) WHERE mime_type IS NULL",
    );
    s.exec("VACUUM ANALYZE vf");
    let pending = inode::pending(&mut s, "vf");
    // Readers are let in, and the update isn't: by then the rows have been found.
    let mut ddl = db.connect();
    ddl.exec("BEGIN; LOCK TABLE vf IN SHARE MODE");
    let mut caller = db.connect();
    caller.exec("SET ntt_mime.lock_timeout = '20s'");
    let running = caller.call_in_background("10000, workers => 1, target => 'vf'");
    db.wait_for_waiting_worker();
    ddl.exec("CLUSTER vf USING vf_pkey; COMMIT");
    let (_, outcome) = running.succeed();
    assert_eq!(outcome.rows_updated, pending);
    assert_eq!(inode::pending(&mut s, "vf"), 0);
    assert_eq!(
        s.run_row(outcome.run_id, "rows_left, leaves_done, rows_retried"),
        "0|1|0"
    );
    assert_right(&mut s, "vf");
}

/// Several workers are at ranges of one leaf.
#[test]
fn many_workers_at_one_leaf() {
    let (db, _store, mut s) = sparse("rewrite_workers");
    s.exec(
        "ALTER TABLE vf ALTER note SET STORAGE PLAIN;
         INSERT INTO vf SELECT i, repeat('x', 3000), blobid
           FROM generate_series(10001, 20000) i JOIN source ON n = i % 200",
    );
    let mut caller = db.connect();
    caller.exec("SET ntt_mime.batch_delay = '20ms'");
    let all = inode::pending(&mut s, "vf");
    let running = caller.call_in_background("100, workers => 4, target => 'vf'");
    wait_until(SOON, "some rows to be filled", || {
        inode::pending(&mut s, "vf") < all - 300
    });
    s.exec("DELETE FROM vf WHERE id % 3 = 0; CLUSTER vf USING vf_pkey");
    assert!(inode::pending(&mut s, "vf") > 0 && !running.is_finished());
    let (_, outcome) = running.succeed();
    assert_eq!(inode::pending(&mut s, "vf"), 0);
    assert_eq!(s.run_row(outcome.run_id, "rows_left, leaves_done"), "0|1");
    assert_right(&mut s, "vf");
}
