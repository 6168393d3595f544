//! pgaudit sees a run's updates like anybody's: according to the privileges on a leaf that its role has been granted,
//! and as statements of the session, with the relation that each concerns.

use ntt_mime_integration::{Cluster, Session, Store, TestDb, assert_error, inode};

use super::is_there;

/// A server with pgaudit, set up as `settings` say; None where it isn't installed.
fn audited(settings: &[(&str, &str)]) -> Option<Cluster> {
    if !is_there("pgaudit") {
        return None;
    }
    let mut all = vec![("shared_preload_libraries", "pgaudit")];
    all.extend(settings);
    Some(Cluster::start(&all))
}

/// A partitioned table, the privileges on which are its caller's, and a plain one.
fn prepare(db: &TestDb, store: &Store, s: &mut Session) -> Session {
    inode::load_source(s, &store.put_synthetic(40));
    let runner = db.role("runner", "LOGIN");
    s.exec(&format!(
        "CREATE SCHEMA hidden;
         CREATE TABLE parted (number int, blobid text, mime_type text) PARTITION BY RANGE (number);
         CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (MINVALUE) TO (20);
         CREATE TABLE hidden.parted_2 PARTITION OF parted DEFAULT;
         ALTER TABLE hidden.parted_2 ENABLE ROW LEVEL SECURITY;
         INSERT INTO parted SELECT n, blobid FROM source;
         CREATE TABLE plain (number int, blobid text, mime_type text);
         INSERT INTO plain SELECT n, blobid FROM source;
         ALTER TABLE plain ENABLE ROW LEVEL SECURITY;
         CREATE POLICY odd ON plain USING (number % 2 = 1);
         GRANT SELECT (blobid, mime_type), UPDATE (mime_type) ON parted, plain TO {runner};
         GRANT EXECUTE ON PROCEDURE ntt_backfill_mime TO {runner}"
    ));
    db.connect_as(&runner)
}

/// What has been audited in the server so far, of the relations that we look for: kind of audit, command, relation; each
/// once. Not all of a worker's lines have the name of its database.
fn audits(cluster: &Cluster) -> Vec<String> {
    let mut audits: Vec<String> = cluster
        .log()
        .lines()
        .filter_map(|line| line.split_once("AUDIT: "))
        .filter_map(|(_, audit)| {
            let fields: Vec<&str> = audit.split(',').collect();
            let (kind, command, relation) = (fields[0], fields.get(4)?, fields.get(6)?);
            Some(format!("{kind} {command} {relation}"))
        })
        .filter(|audit| {
            audit.contains("UPDATE") && (audit.contains(".parted") || audit.contains(".plain"))
        })
        .collect();
    audits.sort();
    audits.dedup();
    audits
}

#[test]
fn privileges_of_the_auditor_on_a_leaf_audit_its_updates() {
    let Some(cluster) = audited(&[("pgaudit.role", "auditor")]) else {
        return;
    };
    let (db, store, mut s) = TestDb::with_store_on(&cluster, "audit_object");
    s.exec("CREATE ROLE auditor NOLOGIN");
    let mut runner = prepare(&db, &store, &mut s);
    s.exec("GRANT UPDATE ON parted_1 TO auditor; GRANT UPDATE (mime_type) ON hidden.parted_2, plain TO auditor");
    assert_eq!(runner.backfill("10, target => 'parted'").rows_updated, 40);
    assert_eq!(
        audits(&cluster),
        [
            "OBJECT UPDATE hidden.parted_2",
            "OBJECT UPDATE public.parted_1"
        ]
    );
    // Policies of a plain table, and rights, are as ever.
    assert_eq!(runner.backfill("10, target => 'plain'").rows_updated, 20);
    assert!(audits(&cluster).contains(&"OBJECT UPDATE public.plain".to_owned()));
    s.exec("UPDATE parted SET mime_type = NULL; REVOKE SELECT ON parted FROM PUBLIC");
    let name = s.column("SELECT rolname FROM pg_roles WHERE rolname LIKE '%runner'");
    s.exec(&format!("REVOKE ALL ON parted FROM {}", name[0]));
    assert_error(runner.call("10, target => 'parted'"), "42501", "parted");
    s.exec("DROP OWNED BY auditor; DROP ROLE auditor");
}

#[test]
fn an_audited_session_names_each_leaf() {
    let Some(cluster) = audited(&[("pgaudit.log", "write"), ("pgaudit.log_relation", "on")]) else {
        return;
    };
    let (db, store, mut s) = TestDb::with_store_on(&cluster, "audit_session");
    let mut runner = prepare(&db, &store, &mut s);
    // One of its rows is held for a while, so that a statement goes by those that are free.
    let mut other = db.connect();
    other.exec("BEGIN; SELECT FROM parted WHERE number = 3 FOR UPDATE");
    runner.exec("SET ntt_mime.lock_timeout = '100ms'");
    assert_eq!(runner.backfill("10, target => 'parted'").rows_updated, 39);
    assert_eq!(runner.backfill("10, target => 'plain'").rows_updated, 20);
    other.exec("ROLLBACK");
    assert_eq!(
        audits(&cluster),
        [
            "SESSION UPDATE hidden.parted_2",
            "SESSION UPDATE public.parted_1",
            "SESSION UPDATE public.plain"
        ]
    );
}
