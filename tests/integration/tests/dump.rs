//! The extension as an object: dumped and restored with its runs, dropped, installed in another schema.

use ntt_mime_integration::cluster::run_script;
use ntt_mime_integration::store::absent_blobid;
use ntt_mime_integration::{Cluster, Store, TestDb, assert_error, inode};

/// `pg_dump source | psql target`, which has to succeed without an error.
fn copy(cluster: &Cluster, source: &str, target: &str) {
    let dump = cluster
        .client("pg_dump", source)
        .output()
        .expect("pg_dump starts");
    assert!(
        dump.status.success(),
        "{}",
        String::from_utf8_lossy(&dump.stderr)
    );
    run_script(&mut cluster.client("psql", target), &dump.stdout);
}

#[test]
fn runs_survive_a_dump() {
    let (db, store, mut s) = TestDb::with_store("dump");
    let mut blobids = store.put_synthetic(10);
    blobids.push(absent_blobid(1));
    inode::plain(&mut s, &blobids);
    s.backfill("target => 'blob'");
    let last = s.backfill("target => 'blob', retry_failed => true");
    s.exec("INSERT INTO ntt_mime.leaf_error VALUES ('public.inode', 'public.inode_m0', 1, 'P0001', 'no', NULL, NULL, NULL, 1, 1, 1)");
    let (runs, failures, leaf_errors) = (
        "SELECT * FROM ntt_mime.run ORDER BY 1",
        "SELECT * FROM ntt_mime.failure ORDER BY 1",
        "SELECT * FROM ntt_mime.leaf_error ORDER BY 1",
    );
    let (runs_before, failures_before) = (s.table(runs), s.table(failures));
    let leaf_errors_before = s.table(leaf_errors);
    assert_eq!(
        (
            runs_before.len(),
            failures_before.len(),
            leaf_errors_before.len()
        ),
        (2, 1, 1)
    );

    let restored = TestDb::empty(db.cluster, "restored");
    copy(db.cluster, &db.name, &restored.name);
    restored.use_store(&store);
    let mut r = restored.connect();
    assert_eq!(r.table(runs), runs_before);
    assert_eq!(r.table(failures), failures_before);
    assert_eq!(r.table(leaf_errors), leaf_errors_before);
    // It works there, and goes on counting where the other one was.
    r.exec("UPDATE blob SET mime_type = NULL");
    let next = r.backfill("target => 'blob'");
    assert_eq!(next.run_id, last.run_id + 1);
    assert_eq!(next.rows_updated, 10);
    // And once more: what was restored is dumped again.
    let again = TestDb::empty(db.cluster, "again");
    copy(db.cluster, &restored.name, &again.name);
    assert_eq!(
        again.connect().table("SELECT count(*) FROM ntt_mime.run"),
        ["3"]
    );
}

#[test]
fn it_can_be_dropped_and_made_again() {
    let (_db, store, mut s) = TestDb::with_store("drop");
    inode::plain(&mut s, &store.put_synthetic(10));
    s.backfill("target => 'blob'");
    s.exec("DROP EXTENSION ntt_mime");
    assert_eq!(
        s.count("SELECT count(*) FROM pg_proc WHERE proname LIKE 'ntt\\_%'"),
        0
    );
    assert_eq!(
        s.count("SELECT count(*) FROM pg_namespace WHERE nspname = 'ntt_mime'"),
        0
    );
    assert_error(s.call(""), "42883", "ntt_backfill_mime");
    s.exec("CREATE EXTENSION ntt_mime; UPDATE blob SET mime_type = NULL");
    assert_eq!(s.backfill("target => 'blob'").rows_updated, 10);
    assert_eq!(s.count("SELECT count(*) FROM ntt_mime.run"), 1);
}

#[test]
fn its_functions_may_live_in_another_schema() {
    let db = TestDb::empty(Cluster::shared(), "schema");
    let store = Store::new();
    let mut s = db.connect();
    s.exec("CREATE SCHEMA \"Tools\"; CREATE EXTENSION ntt_mime SCHEMA \"Tools\"");
    db.use_store(&store);
    let mut s = db.connect();
    let mut blobids = store.put_synthetic(10);
    blobids.push(absent_blobid(1));
    inode::plain(&mut s, &blobids);
    let elsewhere = s.column("SELECT oid::regprocedure FROM pg_proc WHERE proname LIKE 'ntt\\_%' AND pronamespace <> '\"Tools\"'::regnamespace");
    assert!(elsewhere.is_empty(), "{elsewhere:?}");
    let outcome = s
        .call_named(
            "\"Tools\".ntt_backfill_mime",
            "target => 'blob', workers => 1",
        )
        .expect("runs");
    assert_eq!((outcome.rows_updated, outcome.failures), (10, 1));
    assert_eq!(s.count("SELECT count(*) FROM ntt_mime.run"), 1);
    assert_eq!(s.count("SELECT count(*) FROM ntt_mime.progress"), 0);
    let blobid = &blobids[0];
    assert_eq!(
        s.column(&format!("SELECT \"Tools\".ntt_detect_mime('{blobid}')")),
        ["application/pdf"]
    );
    assert!(!s.value::<bool>("SELECT \"Tools\".ntt_cancel_backfill(1)"));
}
