//! Few pending rows among many: with an index that can find them a run doesn't read the rest, and
//! `ntt_mime_suggest_index` returns the statements that create one. And what has to be read doesn't evict others'
//! buffers.

use ntt_mime_integration::cluster::SUPERUSER;
use ntt_mime_integration::{Cluster, Outcome, Session, Store, TestDb, inode};

/// The user's `inode` in four leaves, large enough for an index to pay, with all but `pending` rows filled.
fn nearly_filled(name: &str, pending: i64) -> (TestDb<'static>, Store, Session) {
    let (db, store, mut s) = TestDb::with_store(name);
    inode::partitioned(&mut s, 4);
    inode::load_source(&mut s, &store.put_synthetic(200));
    inode::fill(&mut s, 4, 100);
    s.exec(&make_large(
        "inode",
        "medium_hash, ino, copied_to",
        "'m' || n % 4, 1000000 + n, repeat('x', 1500)",
        24_000,
    ));
    s.backfill("10000");
    s.exec(&format!(
        "UPDATE inode SET mime_type = NULL WHERE ino IN
             (SELECT ino FROM inode WHERE blobid IS NOT NULL ORDER BY hashint8(ino) LIMIT {pending})"
    ));
    assert_eq!(inode::pending(&mut s, "inode"), pending);
    (db, store, s)
}

/// Executes the suggested statements; returns how many there were.
fn follow_advice(s: &mut Session, target: &str) -> usize {
    let statements = s.column(&format!("SELECT ntt_mime_suggest_index({target})"));
    for statement in &statements {
        s.exec(statement);
    }
    statements.len()
}

/// Runs a backfill that fills the `pending` rows. Returns its outcome, the rows of `inode` that it has read
/// sequentially, and how many rows there are.
fn fill(s: &mut Session, pending: i64, batch: &str) -> (Outcome, i64, i64) {
    let rows_read = |s: &mut Session| {
        s.exec("SELECT pg_stat_force_next_flush(); SELECT pg_stat_clear_snapshot()");
        s.count(
            "SELECT coalesce(sum(seq_tup_read), 0)::bigint FROM pg_stat_user_tables WHERE relname LIKE 'inode\\_%'",
        )
    };
    s.exec("VACUUM ANALYZE inode");
    inode::remember(s, "inode");
    let rows = s.count("SELECT count(*) FROM inode");
    let before = rows_read(s);
    let outcome = s.backfill(batch);
    let read = rows_read(s) - before;
    inode::check_filled(s, "inode");
    assert_eq!(outcome.rows_updated, pending);
    (outcome, read, rows)
}

/// What a run has read, in columns of its row.
const DONE: &str = "leaves_done, blocks_done = blocks_total, rows_scanned, rows_left";

#[test]
fn an_index_spares_reading_the_rest() {
    let (_db, _store, mut s) = nearly_filled("few_index", 50);
    assert_eq!(follow_advice(&mut s, "'inode'"), 4);
    let (outcome, read, rows) = fill(&mut s, 50, "10000");
    // Without the index a run reads all of them, as the next test shows.
    assert!(read < rows / 2, "{read} of {rows} rows read");
    assert_eq!(s.run_row(outcome.run_id, DONE), "4|t|50|0");

    let outcome = s.backfill("10000");
    assert_eq!((outcome.blobs, outcome.rows_updated), (0, 0));
}

#[test]
fn without_an_index_all_is_read() {
    let (_db, _store, mut s) = nearly_filled("few_plain", 50);
    s.exec(
        "DO $$ DECLARE i text; BEGIN
             FOR i IN SELECT c.oid::regclass FROM pg_index x JOIN pg_class c ON c.oid = x.indexrelid
                       WHERE x.indrelid = 'inode'::regclass AND NOT x.indisprimary LOOP
                 EXECUTE 'DROP INDEX ' || i;
             END LOOP;
         END $$",
    );
    // A leaf that happens to have none of these rows is read as well.
    s.exec("SET ntt_mime.full_scan_after = 0");
    let (_, read, rows) = fill(&mut s, 50, "10000");
    assert!(read >= rows, "{read} of {rows} rows read");
}

#[test]
fn rows_that_somebody_holds_keep_no_others_waiting() {
    let (db, _store, mut s) = nearly_filled("few_held", 50);
    follow_advice(&mut s, "'inode'");
    s.exec("VACUUM ANALYZE inode");
    inode::remember(&mut s, "inode");
    let mut other = db.connect();
    other.exec("BEGIN");
    let held = other
        .column(
            "SELECT ino FROM inode WHERE mime_type IS NULL AND blobid IS NOT NULL
              ORDER BY ino LIMIT 3 FOR UPDATE",
        )
        .len() as i64;
    s.exec("SET ntt_mime.lock_timeout = '100ms'");
    let outcome = s.backfill("10000");
    assert_eq!(inode::check_partly_filled(&mut s, "inode"), 50 - held);
    assert_eq!(outcome.rows_updated, 50 - held);
    assert_eq!(s.run_counter(outcome.run_id, "rows_left"), held);
    other.exec("COMMIT");
    assert_eq!(s.backfill("10000").rows_updated, held);
    inode::check_filled(&mut s, "inode");
}

#[test]
fn more_than_a_few_are_read_in_ranges() {
    let (_db, _store, mut s) = nearly_filled("few_many", 6000);
    follow_advice(&mut s, "'inode'");
    let (outcome, read, rows) = fill(&mut s, 6000, "500");
    assert!(read >= rows, "{read} of {rows} rows read");
    // What the index returned before it was abandoned is not counted, but read again.
    assert_eq!(s.run_row(outcome.run_id, DONE), "4|t|6000|0");
}

#[test]
fn advice_is_followed_once() {
    let (_db, _store, mut s) = nearly_filled("few_advice", 10);
    // Interrupted: two leaves have an index, one of which is invalid.
    let statements = s.column("SELECT ntt_mime_suggest_index()");
    for statement in statements.iter().take(2) {
        s.exec(statement);
    }
    s.exec(
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid =
             (SELECT max(indexrelid::oid) FROM pg_index WHERE indexrelid::regclass::text LIKE 'ntt_mime_pending%')",
    );
    // The invalid one is dropped and created again, two are created.
    assert_eq!(follow_advice(&mut s, "'inode'"), 1 + 3);
    assert_eq!(follow_advice(&mut s, "'inode'"), 0);
    let valid = "SELECT count(*) FROM pg_index WHERE indexrelid::regclass::text LIKE 'ntt_mime_pending%' AND indisvalid";
    assert_eq!(s.count(valid), 4);

    // A new leaf is small, and gets none until it has grown.
    s.exec("CALL add_leaf('m9')");
    assert_eq!(follow_advice(&mut s, "'inode'"), 0);
    assert_eq!(s.count(valid), 4);
    s.exec(&make_large(
        "inode_m9",
        "medium_hash, ino, copied_to",
        "'m9', n, repeat('x', 1500)",
        6000,
    ));
    assert_eq!(follow_advice(&mut s, "'inode'"), 1);
    s.exec("ANALYZE inode_m9");
    assert_eq!(follow_advice(&mut s, "'inode'"), 0);
    assert_eq!(s.count(valid), 5);
}

/// A statement that inserts rows: 6,000 with a value of 1,500 bytes are more than 1,024 blocks.
fn make_large(table: &str, columns: &str, values: &str, rows: u32) -> String {
    format!("INSERT INTO {table} ({columns}) SELECT {values} FROM generate_series(1, {rows}) n")
}

#[test]
fn advice_where_partitioned_tables_have_the_index() {
    // As earlier versions advised: on the table, and attached on all leaves but one that has become large since.
    let (_db, _store, mut s) = nearly_filled("few_parent", 10);
    let condition = "(blobid) WHERE mime_type IS NULL AND blobid IS NOT NULL";
    s.exec(&format!("CREATE INDEX pending ON ONLY inode {condition}"));
    for leaf in ["m0", "m1", "m2"] {
        s.exec(&format!(
            "CREATE INDEX pending_{leaf} ON inode_{leaf} {condition}"
        ));
    }
    s.exec("ALTER INDEX pending ATTACH PARTITION pending_m0");
    // One is created, three are attached.
    assert_eq!(follow_advice(&mut s, "'inode'"), 1 + 3);
    assert_eq!(follow_advice(&mut s, "'inode'"), 0);
    assert!(
        s.value::<bool>("SELECT indisvalid FROM pg_index WHERE indexrelid = 'pending'::regclass")
    );
}

#[test]
fn advice_for_other_targets() {
    let (_db, store, mut s) = TestDb::with_store("few_targets");
    let blobids = store.put_synthetic(20);
    inode::plain(&mut s, &blobids);
    s.exec(
        "CREATE SCHEMA \"Ä\"; ALTER TABLE blob SET SCHEMA \"Ä\"; SET search_path = \"Ä\", public",
    );
    // A small table is read in no time.
    assert_eq!(follow_advice(&mut s, "'blob'"), 0);
    s.exec(&make_large(
        "blob",
        "blobid, mime_type",
        "n, repeat('x', 1500)",
        6000,
    ));
    assert_eq!(
        s.column("SELECT ntt_mime_suggest_index('blob')"),
        [format!(
            "CREATE INDEX CONCURRENTLY ntt_mime_pending_{} ON \"Ä\".blob (blobid) WHERE mime_type IS NULL AND \
             blobid IS NOT NULL",
            s.value::<i64>("SELECT 'blob'::regclass::oid::bigint")
        )]
    );
    s.exec("SET ntt_mime.target = 'blob'");
    assert_eq!(s.column("SELECT ntt_mime_suggest_index()").len(), 1);
    s.exec("CREATE INDEX own ON blob (size) WHERE blobid IS NOT NULL AND mime_type IS NULL");
    assert_eq!(follow_advice(&mut s, "'blob'"), 0);

    s.exec("SET search_path = public");
    inode::multilevel(&mut s, 3, 2);
    assert_eq!(follow_advice(&mut s, "'inode'"), 0);
    // Those of one medium, at the second level.
    s.exec(&make_large(
        "inode",
        "medium_hash, ino, copied_to",
        "'m1', 1000000 + n, repeat('x', 1500)",
        15_000,
    ));
    let large = "SELECT count(*) FROM pg_class WHERE relname LIKE 'inode_m%' AND relkind = 'r'
                    AND pg_relation_size(oid) >= 1024 * 8192";
    let large = s.count(large) as usize;
    assert!(large > 0, "no leaf is large");
    assert_eq!(follow_advice(&mut s, "'inode'"), large);
    assert_eq!(follow_advice(&mut s, "'inode'"), 0);
}

#[test]
fn reading_a_large_leaf_pushes_nothing_out_of_the_shared_buffers() {
    // 1,024 of them.
    let cluster = Cluster::start(&[("shared_buffers", "8MB")]);
    let (db, _store, mut s) = TestDb::with_store_on(&cluster, "few_ring");
    s.exec(
        "CREATE EXTENSION pg_buffercache;
         CREATE TABLE blob (blobid text, mime_type text, padding text);
         INSERT INTO blob SELECT repeat(md5(n::text), 2), 'text/plain', repeat('x', 700) FROM generate_series(1, 40000) n;",
    );
    s.exec("VACUUM ANALYZE blob");
    let database = s.value::<String>("SELECT current_database()::text");
    drop(s);
    cluster.restart();
    let mut s = cluster.connect(&database, SUPERUSER);
    let blocks = s.count("SELECT pg_relation_size('blob') / 8192");
    assert!(blocks > 3 * 1024, "{blocks} blocks are few");
    s.exec("CALL ntt_backfill_mime(workers => 1, target => 'blob')");
    let kept = s.count(
        "SELECT count(*) FROM pg_buffercache
          WHERE relfilenode = pg_relation_filenode('blob') AND relforknumber = 0
            AND reldatabase = (SELECT oid FROM pg_database WHERE datname = current_database())",
    );
    // Each of four tasks has a ring of 32 buffers. Without rings, the table would fill nearly all buffers.
    assert!(kept <= 512, "{kept} of {blocks} blocks are kept");
    drop(db);
}
