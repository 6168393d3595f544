//! Audits: one of so many blobs is judged again, from the whole file and with all of libmagic's rules, and that
//! result counts.
//!
//! The library under test is the one with the feature `poison`, whose prefilter is wrong about blobs that the
//! server's environment names.

use ntt_mime_integration::{Cluster, Session, Store, TestDb, inode};

const LIE: &str = "application/x-lie";

/// A store with blobs about which the prefilter is wrong.
fn store_with_lies() -> (Store, Vec<String>, Cluster) {
    let store = Store::new();
    let lies: Vec<String> = (0..5)
        .map(|n| store.put(format!("%PDF-1.4\n% lie {n}\n").as_bytes()))
        .collect();
    let named: Vec<String> = lies.iter().map(|id| format!("lie:{id}")).collect();
    let cluster = Cluster::start_poisonous(&[("NTT_MIME_POISON", &named.join(","))], &[]);
    (store, lies, cluster)
}

fn database<'c>(cluster: &'c Cluster, name: &str, store: &Store, lies: &[String]) -> TestDb<'c> {
    let db = TestDb::on(cluster, name);
    db.use_store(store);
    let mut blobids = store.put_synthetic(300);
    blobids.extend_from_slice(lies);
    inode::plain(&mut db.connect(), &blobids);
    db
}

/// Whether the interval selects the blob, by the last 16 digits of its id.
fn chosen(s: &mut Session, interval: u64) -> i64 {
    let ids = s.column("SELECT blobid FROM blob");
    let number = |id: &String| u64::from_str_radix(&id[48..], 16).expect("digits");
    let chosen = ids.iter().filter(|id| number(id).is_multiple_of(interval));
    chosen.count() as i64
}

fn audited(s: &mut Session, run_id: i64) -> (i64, i64) {
    let mut of = |name: &str| {
        s.count(&format!(
            "SELECT (options ->> '{name}')::bigint FROM ntt_mime.run WHERE run_id = {run_id}"
        ))
    };
    (of("audited"), of("audit_differences"))
}

fn lied(s: &mut Session) -> i64 {
    s.count(&format!(
        "SELECT count(*) FROM blob WHERE mime_type = '{LIE}'"
    ))
}

#[test]
fn what_an_audit_finds_is_stored_and_told_and_ends_the_prefilter() {
    let (store, lies, cluster) = store_with_lies();
    let db = database(&cluster, "audit_all", &store, &lies);
    let mut s = db.connect();
    s.exec("LOAD 'ntt_mime'; SET ntt_mime.audit_interval = 1");
    let outcome = s.backfill("100, workers => 2, target => 'blob'");
    assert_eq!(outcome.failures, 0);
    assert_eq!(lied(&mut s), 0);
    let pending = s.count("SELECT count(*) FROM blob WHERE mime_type IS NULL");
    assert_eq!(pending, 0);
    let (all, differences) = audited(&mut s, outcome.run_id);
    assert!(
        (1..=lies.len() as i64).contains(&differences),
        "{differences}"
    );
    assert!(all >= differences && all <= outcome.blobs, "{all}");
    let warnings = s.take_warnings();
    let told = format!("libmagic gave another type for {differences} of {all} blob");
    assert!(
        warnings.iter().any(|warning| warning.contains(&told)),
        "{warnings:?}"
    );
    // The log has each of them, with both answers and the release.
    let log = cluster.log();
    let told = lies
        .iter()
        .filter(|id| log.contains(&format!("blob \"{id}\" has another type")));
    assert_eq!(told.count() as i64, differences);
    assert!(log.contains(&format!(
        "gives \"application/pdf\"; the detector gave \"{LIE}\""
    )));
    // Without the prefilter there is nothing to audit.
    s.exec("UPDATE blob SET mime_type = NULL; SET ntt_mime.prefilter = off");
    let outcome = s.backfill("100, target => 'blob'");
    assert_eq!(audited(&mut s, outcome.run_id), (0, 0));
    assert_eq!(lied(&mut s), 0);
}

#[test]
fn blobs_are_chosen_by_their_ids() {
    let (store, lies, cluster) = store_with_lies();
    let db = database(&cluster, "audit_some", &store, &[]);
    let mut s = db.connect();
    s.exec("LOAD 'ntt_mime'; SET ntt_mime.audit_interval = 7");
    for _ in 0..2 {
        let outcome = s.backfill("100, target => 'blob', dry_run => true");
        assert_eq!(audited(&mut s, outcome.run_id), (chosen(&mut s, 7), 0));
    }
    s.exec("SET ntt_mime.audit_interval = 0");
    let outcome = s.backfill("100, target => 'blob', dry_run => true");
    assert_eq!(audited(&mut s, outcome.run_id), (0, 0));
    assert!(s.take_warnings().is_empty());
    // Then nobody notices.
    s.exec("TRUNCATE blob");
    for id in &lies {
        s.exec(&format!("INSERT INTO blob (blobid) VALUES ('{id}')"));
    }
    s.backfill("100, target => 'blob'");
    assert_eq!(lied(&mut s), lies.len() as i64);
}
