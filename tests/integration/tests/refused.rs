//! Leaves whose update raises an error of their own: they are set aside and named, the others are filled, and the run
//! ends with the first one's error.

use std::io::{Seek, SeekFrom, Write};
use std::time::Duration;

use ntt_mime_integration::cluster::Shutdown;
use ntt_mime_integration::errors::words;
use ntt_mime_integration::{Cluster, Session, Store, TestDb, assert_error, inode};

/// The user's `inode` with some leaves, the first of which has most rows.
fn archive(name: &str, leaves: usize, blobs: usize) -> (TestDb<'static>, Store, Session) {
    let (db, store, mut s) = inode::archive(name, leaves, blobs, 6);
    s.exec("DROP TABLE path; ANALYZE inode");
    (db, store, s)
}

/// Every update of the leaf raises an error.
fn refuse(s: &mut Session, leaf: &str) {
    s.exec(&format!(
        "CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
             RAISE 'no updates of %', TG_TABLE_NAME USING ERRCODE = 'NTT42', DETAIL = 'It is closed.', HINT = 'Open it.';
         END$$;
         CREATE TRIGGER refuse BEFORE UPDATE ON {leaf} FOR EACH ROW EXECUTE FUNCTION refuse()"
    ));
}

/// What is on record: leaf, SQLSTATE, message, number of runs.
fn on_record(s: &mut Session) -> Vec<String> {
    s.table("SELECT leaf, sqlstate, message, attempts FROM ntt_mime.leaf_error ORDER BY leaf")
}

#[test]
fn one_leaf_that_refuses_the_update_holds_up_no_other() {
    let (_db, _store, mut s) = archive("largest", 30, 200);
    refuse(&mut s, "inode_m0");
    let refused = inode::pending(&mut s, "inode_m0");
    let all = inode::expected(&mut s).rows;
    assert!(refused > 100, "the largest has {refused} rows");
    for run in 1..=2 {
        let error = assert_error(s.call("50"), "NTT42", "no updates of inode_m0");
        assert_eq!(error.message(), "no updates of inode_m0");
        assert_eq!(
            error.detail(),
            Some(
                "It is closed.\n1 leaf was set aside because of an error of its own. See ntt_mime.leaf_error."
            )
        );
        assert_eq!(error.hint(), Some("Open it."));
        let context = error.where_().unwrap_or_default();
        for line in [
            "PL/pgSQL function refuse() line 2 at RAISE".to_owned(),
            "filling leaf public.inode_m0".to_owned(),
        ] {
            assert!(
                context.lines().any(|l| l == line),
                "{line} isn't in: {context}"
            );
        }
        assert!(
            context
                .lines()
                .last()
                .is_some_and(|line| line.starts_with("ntt_mime worker ")
                    && line.ends_with(&format!(" of run {run}"))),
            "{context}"
        );
        assert_eq!(
            s.run_row(
                run,
                "status, leaves_done, leaves_total, rows_left IS NULL, error"
            ),
            "failed|29|30|t|NTT42: no updates of inode_m0"
        );
        let filled = if run == 1 { all - refused } else { 0 };
        assert_eq!(s.run_counter(run, "rows_updated"), filled);
        assert_eq!(inode::pending(&mut s, "inode"), refused);
        assert_eq!(
            on_record(&mut s),
            [format!(
                "public.inode_m0|NTT42|no updates of inode_m0|{run}"
            )]
        );
    }
    assert_eq!(
        s.table(
            "SELECT target, leaf_oid::regclass, detail, hint, context LIKE '%filling leaf public.inode_m0',
                    first_run_id, last_run_id, first_seen < last_seen FROM ntt_mime.leaf_error"
        ),
        ["public.inode|inode_m0|It is closed.|Open it.|t|1|2|t"]
    );
    // One error is enough: no more than a batch of each worker's was read.
    assert!(s.run_counter(2, "rows_scanned") <= 200);
    s.exec("DROP TRIGGER refuse ON inode_m0");
    assert_eq!(s.backfill("50").rows_updated, refused);
    inode::check_filled(&mut s, "inode");
    assert!(on_record(&mut s).is_empty());
}

#[test]
fn violated_constraints_are_a_leafs_own_errors() {
    let (_db, _store, mut s) = archive("constraints", 6, 100);
    // A check that is violated already, and a table of types that lacks one.
    s.exec(
        "ALTER TABLE inode_m1 ADD CONSTRAINT no_pdf CHECK (mime_type <> 'application/pdf') NOT VALID;
         CREATE TABLE types AS SELECT DISTINCT mime AS mime_type FROM truth WHERE mime <> 'application/pdf';
         ALTER TABLE types ADD PRIMARY KEY (mime_type);
         ALTER TABLE inode_m2 ADD CONSTRAINT known FOREIGN KEY (mime_type) REFERENCES types NOT VALID",
    );
    let result = s.call("1000");
    let Err(error) = result else {
        panic!("no error: {result:?}");
    };
    let error = error.as_db_error().expect("of the server").clone();
    assert!(
        ["23514", "23503"].contains(&error.code().code()),
        "{}",
        words(&error)
    );
    let detail = error.detail().unwrap_or_default();
    assert!(
        detail.ends_with(
            "\n2 leaves were set aside because of errors of their own. See ntt_mime.leaf_error."
        ),
        "{detail}"
    );
    assert_eq!(
        s.table("SELECT leaf, sqlstate FROM ntt_mime.leaf_error ORDER BY leaf"),
        ["public.inode_m1|23514", "public.inode_m2|23503"]
    );
    for leaf in ["inode_m0", "inode_m3", "inode_m4", "inode_m5"] {
        assert_eq!(inode::pending(&mut s, leaf), 0, "{leaf}");
    }
    // One of them is fixed.
    s.exec("INSERT INTO types VALUES ('application/pdf')");
    assert_error(s.call("1000"), "23514", "1 leaf was set aside");
    assert_eq!(
        s.table("SELECT leaf, attempts FROM ntt_mime.leaf_error"),
        ["public.inode_m1|2"]
    );
    assert_eq!(inode::pending(&mut s, "inode_m2"), 0);
    s.exec("ALTER TABLE inode_m1 DROP CONSTRAINT no_pdf");
    s.backfill("1000");
    inode::check_filled(&mut s, "inode");
    assert!(on_record(&mut s).is_empty());
}

#[test]
fn an_error_at_the_commit_is_a_leafs_own_too() {
    let (_db, _store, mut s) = archive("deferred", 3, 60);
    s.exec(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'not so late'; END$$;
         CREATE CONSTRAINT TRIGGER refuse AFTER UPDATE ON inode_m1 DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION refuse()",
    );
    let refused = inode::pending(&mut s, "inode_m1");
    assert_error(s.call("20"), "P0001", "not so late");
    assert_eq!(inode::pending(&mut s, "inode"), refused);
    assert_eq!(on_record(&mut s), ["public.inode_m1|P0001|not so late|1"]);
}

#[test]
fn a_leaf_that_can_not_be_read_is_set_aside() {
    let cluster = Cluster::start(&[]);
    let (db, _store, mut s) = inode::archive_on(&cluster, "unreadable_leaf", 4, 60, 6);
    let path: String = s.value("SELECT pg_relation_filepath('inode_m1')");
    let damaged = inode::pending(&mut s, "inode_m1");
    assert!(damaged > 0);
    drop(s);
    cluster.stop(Shutdown::Fast);
    // The header of its first page: no such page can be.
    let mut file = std::fs::File::options()
        .write(true)
        .open(cluster.data().join(path))
        .expect("the leaf's file");
    file.seek(SeekFrom::Start(8)).expect("a file");
    file.write_all(&[0xFF; 16]).expect("a file");
    drop(file);
    cluster.launch();
    let mut s = db.connect();
    let all: i64 = s.count("SELECT count(*) FROM before JOIN truth USING (blobid) WHERE mime_type IS NULL AND mime IS NOT NULL");
    // That of the leaf's first page, wherever it is met.
    let error = assert_error(s.call("50"), "XX001", "invalid page in block 0");
    let context = error.where_().unwrap_or_default();
    assert!(
        context.contains("filling leaf public.inode_m1"),
        "{context}"
    );
    assert_eq!(
        s.run_row(
            1,
            "status, leaves_done, leaves_total, rows_updated, rows_left IS NULL"
        ),
        format!("failed|3|4|{}|t", all - damaged)
    );
    assert_eq!(
        s.table("SELECT leaf, sqlstate FROM ntt_mime.leaf_error"),
        ["public.inode_m1|XX001"]
    );
    for leaf in ["inode_m0", "inode_m2", "inode_m3"] {
        assert_eq!(inode::pending(&mut s, leaf), 0, "{leaf}");
    }
    // The table can't be looked through any more.
    s.exec("DROP TABLE inode_m1 CASCADE");
}

/// Errors of the server's state, which every leaf would meet: whoever raises them.
#[test]
fn errors_that_are_not_a_leafs_end_the_run() {
    for (code, status) in [
        ("53100", "failed"),
        ("57014", "cancelled"),
        ("58030", "failed"),
        ("25006", "failed"),
        ("08006", "failed"),
    ] {
        println!("{code}");
        let (_db, _store, mut s) = archive(&format!("ends_{code}"), 4, 60);
        s.exec(&format!(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
                 RAISE 'all of it' USING ERRCODE = '{code}';
             END$$;
             CREATE TRIGGER refuse BEFORE UPDATE ON inode_m0 FOR EACH ROW EXECUTE FUNCTION refuse()"
        ));
        let error = assert_error(s.call("1, workers => 1"), code, "all of it");
        assert_eq!(error.detail(), None);
        assert_eq!(
            s.run_row(1, "status, leaves_done, rows_updated"),
            format!("{status}|0|0"),
            "the largest leaf came first"
        );
        assert!(on_record(&mut s).is_empty());
    }
}

#[test]
fn leaves_on_record_are_tried_last() {
    let (_db, _store, mut s) = archive("last", 5, 100);
    refuse(&mut s, "inode_m0");
    assert_error(s.call("1, workers => 1, max_blobs => 1"), "NTT42", "");
    assert_eq!(on_record(&mut s).len(), 1);
    // It comes last from now on: the others get the blobs that there are to be looked at.
    s.exec("DROP TRIGGER refuse ON inode_m0");
    let before = inode::pending(&mut s, "inode_m0");
    let others = inode::pending(&mut s, "inode") - before;
    let outcome = s.backfill("10, workers => 1, max_blobs => 20");
    assert!(outcome.rows_updated >= 20);
    assert_eq!(inode::pending(&mut s, "inode_m0"), before);
    // Whether anything is wrong with it, this run can't say.
    assert_eq!(on_record(&mut s).len(), 1);
    s.backfill("10");
    assert!(others > 0 && on_record(&mut s).is_empty());
    inode::check_filled(&mut s, "inode");
}

#[test]
fn leaves_that_have_gone_go_from_the_record() {
    let (_db, _store, mut s) = archive("gone_leaves", 5, 60);
    for leaf in ["inode_m0", "inode_m1", "inode_m2"] {
        refuse(&mut s, leaf);
    }
    assert_error(s.call("50"), "NTT42", "3 leaves were set aside");
    s.exec(
        "CREATE TABLE plain (blobid text, mime_type text); INSERT INTO plain SELECT blobid FROM source LIMIT 1;
         DROP TABLE inode_m0; ALTER TABLE inode DETACH PARTITION inode_m1;
         ALTER TABLE inode_m2 RENAME TO inode_two",
    );
    // A run on another target removes the row of the dropped leaf only.
    s.backfill("target => 'plain'");
    assert_eq!(
        s.column("SELECT leaf FROM ntt_mime.leaf_error ORDER BY leaf"),
        ["public.inode_m1", "public.inode_m2"]
    );
    s.exec("DROP TRIGGER refuse ON inode_two");
    s.backfill("");
    assert!(on_record(&mut s).is_empty());
}

#[test]
fn a_cancelled_run_is_cancelled_whatever_its_leaves_have_raised() {
    let (db, _store, mut s) = archive("cancelled", 3, 60);
    refuse(&mut s, "inode_m0");
    let mut caller = db.connect();
    caller.exec("SET ntt_mime.batch_delay = '200ms'");
    let run = caller.call_in_background("5, workers => 1");
    ntt_mime_integration::wait_until(
        ntt_mime_integration::SOON,
        "the leaf to be set aside",
        || s.count("SELECT count(*) FROM ntt_mime.leaf_error") == 1,
    );
    s.exec("SELECT ntt_cancel_backfill(run_id) FROM ntt_mime.progress");
    let (mut caller, outcome) = run.succeed();
    assert_eq!(s.run_row(outcome.run_id, "status"), "cancelled");
    assert_eq!(
        caller.take_warnings(),
        [
            "1 leaf was not filled completely because of an error of its own | It is \"public.inode_m0\". | \
             The next run will try again."
        ]
    );
    db.wait_for_no_workers(Duration::from_secs(5));
}

#[test]
fn a_plain_table_that_refuses_is_its_own_leaf() {
    let (_db, store, mut s) = TestDb::with_store("plain_refuses");
    inode::plain(&mut s, &store.put_synthetic(20));
    refuse(&mut s, "blob");
    assert_error(s.call("target => 'blob'"), "NTT42", "no updates of blob");
    assert_eq!(
        s.table("SELECT target, leaf FROM ntt_mime.leaf_error"),
        ["public.blob|public.blob"]
    );
    // Another target's run leaves it on record.
    s.exec("CREATE TABLE other AS SELECT blobid, NULL::text AS mime_type FROM source");
    s.backfill("target => 'other'");
    assert_eq!(on_record(&mut s).len(), 1);
}

#[test]
fn a_dry_run_records_nothing() {
    let (_db, _store, mut s) = archive("dry", 3, 30);
    refuse(&mut s, "inode_m0");
    assert_error(s.call(""), "NTT42", "");
    let before = on_record(&mut s);
    s.exec("DROP TRIGGER refuse ON inode_m0");
    s.backfill("dry_run => true");
    assert_eq!(on_record(&mut s), before);
}
