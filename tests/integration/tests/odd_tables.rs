//! Targets and statements that PostgreSQL allows and a simple implementation doesn't think of.

use ntt_mime_integration::server::major_version;
use ntt_mime_integration::{TestDb, inode, parallel};

#[test]
fn a_table_is_made_of_detections_by_a_parallel_plan() {
    let (_db, store, mut s) = TestDb::with_store("create_table_as");
    inode::plain(&mut s, &store.put_synthetic(200));
    s.exec("ANALYZE blob");
    parallel::force(&mut s);
    let query = "SELECT blobid, ntt_detect_mime(blobid) AS mime_type FROM blob";
    parallel::assert_parallel(&mut s, query, "ntt_detect_mime");
    s.exec(&format!("CREATE TABLE detected AS {query}"));
    s.exec(&format!("CREATE MATERIALIZED VIEW seen AS {query}"));
    s.exec(&format!("SELECT * INTO again FROM ({query}) q"));
    for table in ["detected", "seen", "again"] {
        assert_eq!(
            s.count(&format!(
                "SELECT count(*) FROM {table} WHERE mime_type IS NOT NULL"
            )),
            200
        );
    }
}

#[test]
fn a_blobid_that_is_computed_counts() {
    let (_db, store, mut s) = TestDb::with_store("generated");
    inode::load_source(&mut s, &store.put_synthetic(20));
    let mut kinds = vec!["STORED"];
    if major_version() >= 18 {
        kinds.push("VIRTUAL");
    }
    for kind in kinds {
        s.exec(&format!(
            "DROP TABLE IF EXISTS blob;
             CREATE TABLE blob (name text, blobid text GENERATED ALWAYS AS (lower(name)) {kind}, mime_type text);
             INSERT INTO blob (name) SELECT upper(blobid) FROM source"
        ));
        inode::remember(&mut s, "blob");
        assert_eq!(s.backfill("7, target => 'blob'").rows_updated, 20, "{kind}");
        inode::check_filled(&mut s, "blob");
    }
}

#[test]
fn a_trigger_of_the_run_cancels_it() {
    let (_db, store, mut s) = TestDb::with_store("cancelling_trigger");
    inode::plain(&mut s, &store.put_synthetic(50));
    s.exec(
        "CREATE FUNCTION enough() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
             PERFORM ntt_cancel_backfill(run_id) FROM ntt_mime.progress;
             RETURN NULL;
         END$$;
         CREATE TRIGGER enough AFTER UPDATE ON blob FOR EACH STATEMENT EXECUTE FUNCTION enough()",
    );
    let outcome = s.backfill("10, target => 'blob', workers => 1");
    assert_eq!(s.run_row(outcome.run_id, "status"), "cancelled");
    // The blobs of a second batch may have been looked at already.
    assert!(
        [10, 20].contains(&outcome.rows_updated),
        "{}",
        outcome.rows_updated
    );
}

#[test]
fn long_texts_that_are_no_blobids_take_no_memory_to_speak_of() {
    let (_db, store, mut s) = TestDb::with_store("long_texts");
    inode::load_source(&mut s, &store.put_synthetic(10));
    // 400 MB of text, all in one batch; a worker with as much would be seen.
    s.exec(
        "CREATE TABLE blob (blobid text, mime_type text);
         INSERT INTO blob SELECT blobid FROM source;
         INSERT INTO blob SELECT repeat(n::text, 1000000) FROM generate_series(100, 230) n;
         CREATE TABLE memory (bytes bigint);
         CREATE FUNCTION remember_memory() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
             INSERT INTO public.memory SELECT 1024 * (regexp_match(pg_read_file('/proc/self/status'),
                 'RssAnon:\\s+(\\d+)'))[1]::bigint;
             RETURN NULL;
         END$$;
         CREATE TRIGGER remember_memory AFTER UPDATE ON blob FOR EACH STATEMENT EXECUTE FUNCTION remember_memory()",
    );
    let outcome = s.backfill("target => 'blob', workers => 1");
    assert_eq!((outcome.rows_updated, outcome.failures), (10, 131));
    let bytes: i64 = s.value("SELECT max(bytes) FROM memory");
    assert!(bytes < 150_000_000, "a worker took {bytes} bytes");
}
