//! The rows of `ntt_mime.run`: how many there are, and what a run costs when there are many.

use ntt_mime_integration::{Session, TestDb, inode};

/// The recorded runs on a target, by number: `status|rows_updated|dry_run`.
fn runs(s: &mut Session, target: &str) -> Vec<String> {
    s.table(&format!(
        "SELECT status, rows_updated, options->>'dry_run' FROM ntt_mime.run WHERE target = 'public.{target}' ORDER BY run_id"
    ))
}

#[test]
fn of_runs_that_find_nothing_to_do_the_last_one_is_kept() {
    let (db, store, mut s) = TestDb::with_store("idle");
    let blobids = store.put_synthetic(20);
    inode::plain(&mut s, &blobids);
    s.exec("CREATE TABLE other (blobid text, mime_type text)");
    s.backfill("target => 'blob'");
    let mut last = 0;
    for _ in 0..3 {
        last = s.backfill("target => 'blob'").run_id;
        // Runs on other targets don't count.
        s.backfill("target => 'other'");
        s.backfill("target => 'other', dry_run => true");
    }
    assert_eq!(
        runs(&mut s, "blob"),
        ["succeeded|20|false", "succeeded|0|false"]
    );
    assert_eq!(s.run_row(last, "status"), "succeeded");
    assert_eq!(
        runs(&mut s, "other"),
        ["succeeded|0|false", "succeeded|0|true"]
    );
    // One that did something, or met something, stays.
    s.exec("UPDATE blob SET mime_type = NULL WHERE size < 5");
    s.backfill("target => 'blob'");
    s.exec("INSERT INTO blob VALUES ('no blobid')");
    s.backfill("target => 'blob'");
    s.backfill("target => 'blob'");
    s.exec("DELETE FROM blob WHERE blobid = 'no blobid'");
    s.backfill("target => 'blob'");
    s.backfill("target => 'blob'");
    let expected = [
        "succeeded|20|false",
        "succeeded|0|false",
        "succeeded|5|false",
        "succeeded|0|false",
        "succeeded|0|false",
        "succeeded|0|false",
    ];
    assert_eq!(runs(&mut s, "blob"), expected);
    // If somebody has locked the row of one, it stays.
    let mut holder = db.connect();
    holder.exec("BEGIN; SELECT FROM ntt_mime.run WHERE target = 'public.blob' FOR UPDATE");
    s.backfill("target => 'blob'");
    holder.exec("COMMIT");
    assert_eq!(runs(&mut s, "blob").len(), expected.len() + 1);
    s.backfill("target => 'blob'");
    assert_eq!(runs(&mut s, "blob").len(), expected.len() + 1);
    // A run that locks kept out of a leaf doesn't know whether it has anything to do.
    holder.exec("BEGIN; LOCK TABLE other");
    s.exec("SET ntt_mime.lock_timeout = '10ms'");
    let _ = s.call("target => 'other'");
    holder.exec("COMMIT");
    assert_eq!(runs(&mut s, "other").len(), 3);
    s.backfill("target => 'other'");
    assert_eq!(runs(&mut s, "other").len(), 4);
}

#[test]
fn a_run_does_not_read_all_of_them() {
    let (db, _store, mut s) = inode::archive("many_runs", 2, 20, 2);
    s.exec(
        "INSERT INTO ntt_mime.run (target, status, pid, role_name, options, workers, libmagic, bytes_read, rows_updated,
                                   finished_at)
             SELECT 'public.inode', 'succeeded', 1, 'x', '{\"blob_root\": \"/x\"}', 1, 'x', 1, 1, now() FROM generate_series(1, 20000);
         INSERT INTO ntt_mime.run (target, status, pid, role_name, options, workers, libmagic)
             SELECT 'public.inode', 'running', 1, 'x', '{}', 1, 'x' FROM generate_series(1, 3);
         INSERT INTO ntt_mime.run (target, status, pid, role_name, options, workers, libmagic, finished_at)
             SELECT 'public.inode', 'failed', 1, 'x', '{}', 1, 'x', now() - interval '1 year' FROM generate_series(1, 10);
         ANALYZE ntt_mime.run",
    );
    let plan = s
        .column("EXPLAIN SELECT * FROM ntt_mime.progress")
        .join(" ");
    assert!(plan.contains("run_running"), "{plan}");
    let mut caller = db.connect();
    caller.backfill("");
    caller.backfill("");
    let mut second = db.connect();
    second.exec("SET ntt_mime.batch_delay = '60s'; UPDATE inode SET mime_type = NULL WHERE blobid IS NOT NULL");
    let second = second.call_in_background("1");
    s.wait_for_run();
    // Refused, because it looks for the run that is going on.
    assert!(caller.call("").is_err());
    second.cancel();
    let _ = second.finish();
    caller.exec("SELECT pg_stat_force_next_flush()");
    caller.exec("SELECT 1");
    assert_eq!(
        s.count("SELECT coalesce(seq_tup_read, 0) FROM pg_stat_all_tables WHERE relid = 'ntt_mime.run'::regclass"),
        // None, except by CREATE EXTENSION, which builds the indexes of an empty table.
        0
    );
    assert_eq!(
        s.table("SELECT status, count(*) FROM ntt_mime.run WHERE pid = 1 GROUP BY 1 ORDER BY 1"),
        ["interrupted|3", "succeeded|20000"]
    );
}
