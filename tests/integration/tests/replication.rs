//! Replicas: a hot standby detects like its primary and takes over after a promotion; logical replication sees
//! ordinary updates, which change nothing but `mime_type`.

use std::collections::HashSet;

use ntt_mime_integration::cluster::PORT;
use ntt_mime_integration::{
    Cluster, SOON, Session, Store, TestDb, assert_error, assert_same_rows, corpus, inode, parallel,
    wait_until,
};

/// Every answer for the shared corpus, in order.
const ANSWERS: &str =
    "SELECT * FROM (SELECT blobid, ntt_detect_mime(blobid) FROM source) a ORDER BY 1";

/// Waits until a standby has replayed all that its primary has written.
fn wait_for_replay(primary: &mut Session, standby: &mut Session) {
    let written: String = primary.value("SELECT pg_current_wal_lsn()::text");
    wait_until(SOON, "the standby to catch up", || {
        standby.value::<bool>(&format!(
            "SELECT pg_last_wal_replay_lsn() >= '{written}'::pg_lsn"
        ))
    });
}

#[test]
fn a_standby_gives_its_primarys_answers_and_takes_over() {
    let primary = Cluster::start(&[]);
    let db = TestDb::on(&primary, "hot");
    db.use_store(&corpus().store);
    let mut s = db.connect();
    // Some of the corpus to be filled, all of it to be asked for.
    inode::load_source(&mut s, &corpus().blobids()[..200]);
    inode::partitioned(&mut s, 4);
    inode::fill(&mut s, 4, 4);
    inode::remember(&mut s, "inode");
    inode::load_source(&mut s, &corpus().blobids());
    let answers = s.table(ANSWERS);
    assert_eq!(answers.len(), corpus().blobs.len());
    // The rest is left to the standby, once it is none.
    s.exec("SET ntt_mime.workers = 2");
    s.backfill("100, max_blobs => 100");

    let standby = primary.standby(&[]);
    let mut there = standby.connect(&db.name, "postgres");
    wait_for_replay(&mut s, &mut there);
    assert!(there.value::<bool>("SELECT pg_is_in_recovery()"));
    assert_same_rows(&there.table(ANSWERS), &answers, "serially");
    parallel::force(&mut there);
    let query = "SELECT blobid, ntt_detect_mime(blobid) FROM source";
    parallel::assert_parallel(&mut there, query, "ntt_detect_mime");
    assert_same_rows(&there.table(ANSWERS), &answers, "in a parallel query");
    let wrong = there.table(
        "SELECT i.* FROM source, LATERAL ntt_inspect_blob(blobid) i
          WHERE n % 10 = 0 AND (i.status <> 'ok' OR i.mime_type IS DISTINCT FROM ntt_detect_mime(blobid))",
    );
    assert!(wrong.is_empty(), "{wrong:#?}");
    // Not bytes_read, which depends on whether the session has a prefilter yet.
    let inspected = "SELECT path, status, mime_type, size, detail
                       FROM source, LATERAL ntt_inspect_blob(blobid) WHERE n % 10 = 0 ORDER BY blobid";
    assert_same_rows(&there.table(inspected), &s.table(inspected), "inspected");
    let version = "SELECT * FROM ntt_mime_version()";
    assert_eq!(there.table(version), s.table(version));
    assert_eq!(
        there.table("SELECT status, rows_updated FROM ntt_mime.run"),
        s.table("SELECT status, rows_updated FROM ntt_mime.run")
    );
    assert_eq!(there.count("SELECT count(*) FROM ntt_mime.progress"), 0);
    for arguments in ["", "dry_run => true", "target => 'no_such_table'"] {
        let refused = there.call(arguments);
        if arguments.contains("no_such_table") {
            // Looked up before the procedure is called.
            assert_error(refused, "42P01", "no_such_table");
        } else {
            assert_error(refused, "25006", "recovery");
        }
    }
    assert_error(
        there.batch_execute("BEGIN; CALL ntt_backfill_mime()"),
        "2D000",
        "",
    );
    there.exec("ROLLBACK");
    assert!(!there.value::<bool>("SELECT ntt_cancel_backfill(1)"));

    // The same session goes on after the promotion.
    assert!(there.value::<bool>("SELECT pg_promote()"));
    assert!(!there.value::<bool>("SELECT pg_is_in_recovery()"));
    let outcome = there.backfill("100");
    assert!(outcome.rows_updated > 0);
    inode::check_filled(&mut there, "inode");
    assert_eq!(
        there.column("SELECT status FROM ntt_mime.run ORDER BY run_id"),
        ["succeeded", "succeeded"]
    );
    drop(there);
    drop(standby);
}

/// A server whose changes can be decoded.
fn publisher() -> Cluster {
    Cluster::start(&[("wal_level", "logical")])
}

/// A database with the user's `inode` of four leaves.
fn archive<'c>(cluster: &'c Cluster, name: &str) -> (TestDb<'c>, Store, Session) {
    let (db, store, mut s) = TestDb::with_store_on(cluster, name);
    inode::load_source(&mut s, &store.put_synthetic(150));
    inode::partitioned(&mut s, 4);
    (db, store, s)
}

/// A subscriber of `publication`, which has the same tables, leaf by leaf, or one `inode` that isn't partitioned.
/// Publisher and subscriber are of one server, so the slot is made beforehand.
fn subscriber<'c>(publisher: &TestDb<'c>, s: &mut Session, publication: &str) -> TestDb<'c> {
    let cluster = publisher.cluster;
    let db = TestDb::on(cluster, publication);
    let mut there = db.connect();
    inode::partitioned(&mut there, 4);
    if publication == "by_root" {
        there.exec("CREATE TABLE copy (LIKE inode INCLUDING ALL); DROP TABLE inode CASCADE; ALTER TABLE copy RENAME TO inode");
    }
    s.exec(&format!(
        "CREATE PUBLICATION {publication} FOR TABLE inode WITH (publish_via_partition_root = {})",
        publication == "by_root"
    ));
    s.exec(&format!(
        "SELECT pg_create_logical_replication_slot('{publication}', 'pgoutput')"
    ));
    there.exec(&format!(
        "CREATE SUBSCRIPTION {publication} CONNECTION 'host={} port={} dbname={} user=postgres'
         PUBLICATION {publication} WITH (create_slot = false, slot_name = '{publication}')",
        cluster.socket_dir().display(),
        PORT,
        publisher.name
    ));
    db
}

/// All of `inode`, row by row.
fn contents(s: &mut Session) -> Vec<String> {
    s.table("SELECT to_jsonb(inode) FROM inode ORDER BY medium_hash, ino")
}

#[test]
fn logical_replication_brings_the_values_to_subscribers() {
    let cluster = publisher();
    let (db, _store, mut s) = archive(&cluster, "publisher");
    let subscribers = ["by_leaf", "by_root"].map(|name| (name, subscriber(&db, &mut s, name)));
    inode::fill(&mut s, 4, 4);
    inode::remember(&mut s, "inode");
    let before = contents(&mut s);
    let same = |what: &str, expected: &[String]| {
        for (name, subscriber) in &subscribers {
            let mut there = subscriber.connect();
            wait_until(
                SOON,
                &format!("{what} to reach the subscriber {name}"),
                || contents(&mut there) == expected,
            );
        }
    };
    same("the rows", &before);
    let outcome = s.backfill("70");
    assert_eq!(outcome.rows_updated, inode::expected(&mut s).rows);
    inode::check_filled(&mut s, "inode");
    let after = contents(&mut s);
    assert_ne!(before, after);
    same("the types", &after);
    for (name, subscriber) in &subscribers {
        let mut there = subscriber.connect();
        // Nothing went wrong on the way and was tried again.
        assert_eq!(
            there.count(&format!("SELECT apply_error_count + sync_error_count FROM pg_stat_subscription_stats WHERE subname = '{name}'")),
            0
        );
        there.exec(&format!(
            "ALTER SUBSCRIPTION {name} DISABLE; ALTER SUBSCRIPTION {name} SET (slot_name = NONE); DROP SUBSCRIPTION {name}"
        ));
        wait_until(SOON, "the slot to be free", || {
            s.count(&format!("SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{name}' AND NOT active")) == 1
        });
        s.exec(&format!("SELECT pg_drop_replication_slot('{name}')"));
    }
}

#[test]
fn decoded_changes_are_updates_of_mime_type_alone() {
    let cluster = publisher();
    let (_db, _store, mut s) = archive(&cluster, "decoded");
    s.exec("SELECT pg_create_logical_replication_slot('decoded', 'test_decoding', false)");
    inode::fill(&mut s, 4, 4);
    inode::remember(&mut s, "inode");
    let changes = |s: &mut Session| {
        s.column(
            "SELECT data FROM pg_logical_slot_get_changes('decoded', NULL, NULL, 'include-xids', '0')
              WHERE data LIKE 'table public.inode%'",
        )
    };
    let inserted: HashSet<String> = changes(&mut s).into_iter().collect();
    assert!(inserted.iter().all(|line| line.contains(": INSERT: ")));
    let outcome = s.backfill("70");
    let updates = changes(&mut s);
    assert_eq!(updates.len() as i64, outcome.rows_updated, "one a row");
    assert_eq!(outcome.rows_updated, inode::expected(&mut s).rows);
    let mut seen = HashSet::new();
    for line in updates {
        // With its type taken away, an update is the row as it was inserted: no other column differs, and the old
        // key, which is only there when it changes, isn't.
        let (head, rest) = line
            .split_once("mime_type[character varying]:'")
            .unwrap_or_else(|| panic!("no type in {line}"));
        let (_mime_type, rest) = rest.split_once('\'').expect("a quoted value");
        let as_inserted = format!("{head}mime_type[character varying]:null{rest}").replacen(
            ": UPDATE: ",
            ": INSERT: ",
            1,
        );
        assert!(inserted.contains(&as_inserted), "{line}");
        assert!(seen.insert(as_inserted), "updated twice: {line}");
    }
    s.exec("SELECT pg_drop_replication_slot('decoded')");
    inode::check_filled(&mut s, "inode");
}
