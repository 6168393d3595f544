//! Many leaves: the memory that a worker can't free for them is bounded, because another worker takes its place.
//!
//! The library under test is the one with the feature `poison`, for which a worker counts as large early.

use ntt_mime_integration::{Cluster, TestDb, inode};

#[test]
fn workers_that_have_grown_large_are_replaced() {
    let cluster = Cluster::start_poisonous(&[], &[("max_worker_processes", "4")]);
    let (_db, store, mut s) = TestDb::with_store_on(&cluster, "many_leaves");
    let leaves = 400;
    inode::partitioned(&mut s, leaves);
    inode::load_source(&mut s, &store.put_synthetic(400));
    inode::fill(&mut s, leaves, 10);
    s.exec(
        "CREATE TABLE updater (pid int, backend_start timestamptz);
         CREATE FUNCTION note_updater() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN
                 INSERT INTO public.updater
                     SELECT pid, backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid();
                 RETURN NULL;
             END $$;
         DO $$ DECLARE leaf regclass; BEGIN
             FOR leaf IN SELECT inhrelid FROM pg_inherits WHERE inhparent = 'inode'::regclass LOOP
                 EXECUTE format('CREATE TRIGGER updater AFTER UPDATE ON %s
                                 FOR EACH STATEMENT EXECUTE FUNCTION note_updater()', leaf);
             END LOOP;
         END $$",
    );
    inode::remember(&mut s, "inode");
    let outcome = s.backfill("10000, workers => 2");
    inode::check_filled(&mut s, "inode");
    let processes = s.count("SELECT count(DISTINCT (pid, backend_start)) FROM updater");
    assert!(
        processes > 3,
        "{processes} processes updated {leaves} leaves"
    );
    assert_eq!(
        s.run_row(outcome.run_id, "status, workers, leaves_done, rows_left"),
        format!("succeeded|2|{leaves}|0")
    );
}
