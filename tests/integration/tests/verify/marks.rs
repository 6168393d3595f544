//! Marks of verifications: a leaf in which all rows have the detected type is skipped as long as that must be the
//! case, and no other leaf is.

use std::fs;
use std::time::Duration;

use ntt_mime_integration::{
    Cluster, SOON, Session, Store, TestDb, inode, scratch, store, wait_until,
};

use super::{Verified, WRONG, in_background, verify};

/// What others have changed is noticed within this time, if the server counts it.
const MINUTE: Duration = Duration::from_secs(60);

/// The user's `inode` in three leaves, whose rows have the detected types; no table refers to it.
fn typed(name: &str) -> (TestDb<'static>, Store, Session) {
    typed_on(Cluster::shared(), name, 3, 60)
}

fn typed_on<'c>(
    cluster: &'c Cluster,
    name: &str,
    leaves: usize,
    blobs: usize,
) -> (TestDb<'c>, Store, Session) {
    let (db, store, mut s) = inode::archive_on(cluster, name, leaves, blobs, 4);
    s.exec(
        "DROP TABLE path;
         UPDATE inode SET mime_type = ntt_detect_mime(blobid) WHERE blobid IS NOT NULL;
         SELECT pg_stat_force_next_flush()",
    );
    (db, store, s)
}

/// The same, verified: the next verification has nothing to do.
fn verified(name: &str) -> (TestDb<'static>, Store, Session) {
    let (db, store, mut s) = typed(name);
    let rows = typed_rows(&mut s);
    let found = verify(&mut s, "");
    assert_eq!((found.checked, found.different), (rows, 0));
    assert_eq!(skipped(&mut s, found.run_id), 0);
    let found = verify(&mut s, "");
    assert_eq!(skipped(&mut s, found.run_id), 3);
    (db, store, s)
}

fn typed_rows(s: &mut Session) -> i64 {
    s.count("SELECT count(*) FROM inode WHERE blobid IS NOT NULL AND mime_type IS NOT NULL")
}

/// How many leaves a verification has passed over.
fn skipped(s: &mut Session, run_id: i64) -> i64 {
    s.run_counter(run_id, "options->>'leaves_skipped'")
}

/// How many the next one does.
fn next_skips(s: &mut Session, arguments: &str) -> i64 {
    let run_id = verify(s, arguments).run_id;
    skipped(s, run_id)
}

/// Has the next verification take the leaves for so large that it doesn't look at all of them because somebody's counters
/// may be late.
fn seem_large(s: &mut Session) {
    s.exec("UPDATE ntt_mime.verified_leaf SET blocks = 1000000");
}

/// A verification finds a row that differs.
#[track_caller]
fn assert_noticed(s: &mut Session, what: &str) {
    wait_until(MINUTE, what, || {
        seem_large(s);
        verify(s, "").different > 0
    });
}

#[test]
fn what_has_been_verified_is_not_read_again() {
    let (_db, _store, mut s) = verified("vmarks_idle");
    let blocks = |s: &mut Session| {
        s.exec("SELECT pg_stat_force_next_flush()");
        s.table(
            "SELECT sum(pg_stat_get_blocks_fetched(inhrelid)) FROM pg_inherits WHERE inhparent = 'inode'::regclass",
        )
    };
    let before = blocks(&mut s);
    s.take_notices();
    let found = verify(&mut s, "");
    assert_eq!(blocks(&mut s), before);
    assert_eq!(
        found,
        Verified {
            run_id: found.run_id,
            ..Verified::default()
        }
    );
    assert_eq!(
        s.run_row(
            found.run_id,
            "kind, status, workers, leaves_total, leaves_done, rows_left, options->'rows_checked',
             options->'rows_different', options->'marks_wrong'"
        ),
        "verify|succeeded|0|3|3||0|0|0"
    );
    let notices = s.take_notices();
    let said =
        "3 leaves were skipped: an earlier verification found all rows to have the detected type";
    assert!(
        notices.iter().any(|n| n.words.contains(said)),
        "{notices:#?}"
    );
    // It knows nothing of what is pending.
    s.exec("UPDATE inode SET mime_type = NULL WHERE medium_hash = 'm1'");
    assert!(s.backfill("1000").rows_updated > 0);
    // What the backfill has written costs a look.
    assert_eq!(next_skips(&mut s, ""), 2);
    assert_eq!(next_skips(&mut s, ""), 3);
}

/// Changes that another session makes and commits, by which a row comes to have another type.
const CHANGES: &[(&str, &str)] = &[
    (
        "a type is changed",
        "UPDATE inode SET mime_type = '{wrong}' WHERE medium_hash = 'm1' AND blobid IS NOT NULL",
    ),
    (
        "a blobid is changed",
        "UPDATE inode SET blobid = (SELECT i.blobid FROM inode i WHERE i.blobid <> inode.blobid AND i.mime_type <> inode.mime_type LIMIT 1)
          WHERE medium_hash = 'm2' AND blobid IS NOT NULL",
    ),
    (
        "rows are inserted",
        "INSERT INTO inode (medium_hash, ino, blobid, mime_type) SELECT 'm1', 1000000 + n, blobid, '{wrong}' FROM source",
    ),
    (
        "a leaf is truncated and loaded again",
        "CREATE TABLE kept AS TABLE inode_m1; TRUNCATE inode_m1;
         UPDATE kept SET mime_type = '{wrong}'; INSERT INTO inode TABLE kept",
    ),
    (
        "a leaf is rewritten with other values",
        "ALTER TABLE inode ALTER COLUMN mime_type TYPE varchar(200) USING replace(mime_type, 'text/plain', '{wrong}')",
    ),
    (
        "another column takes the name",
        "ALTER TABLE inode ADD COLUMN other varchar(255) DEFAULT '{wrong}'; ALTER TABLE inode RENAME COLUMN mime_type TO former;
         ALTER TABLE inode RENAME COLUMN other TO mime_type",
    ),
    (
        "a leaf is changed while it is detached",
        "ALTER TABLE inode DETACH PARTITION inode_m1; UPDATE inode_m1 SET mime_type = '{wrong}' WHERE blobid IS NOT NULL;
         ALTER TABLE inode ATTACH PARTITION inode_m1 FOR VALUES IN ('m1')",
    ),
];

#[test]
fn whatever_gives_a_row_another_type_is_noticed() {
    for (what, sql) in CHANGES {
        let (db, _store, mut s) = verified("vmarks_changes");
        let mut other = db.connect();
        other.exec(&sql.replace("{wrong}", WRONG));
        assert_noticed(&mut s, what);
        drop(other);
        // The leaves with differences are looked at by each verification, until they are corrected.
        assert!(verify(&mut s, "").different > 0, "{what}");
        let found = verify(&mut s, "correct => true");
        assert_eq!(found.corrected, found.different, "{what}");
        wait_until(MINUTE, what, || next_skips(&mut s, "") == 3);
    }
}

#[test]
fn other_spellings_are_told_of_each_time() {
    let (_db, _store, mut s) = verified("vmarks_spelled");
    s.exec("UPDATE inode SET mime_type = upper(mime_type) WHERE medium_hash = 'm1' AND blobid IS NOT NULL");
    for arguments in ["", "", "correct => true"] {
        let found = verify(&mut s, arguments);
        assert_eq!((found.different, found.corrected), (0, 0));
        assert_eq!(skipped(&mut s, found.run_id), 2);
        assert!(s.run_counter(found.run_id, "options->>'rows_spelled_otherwise'") > 0);
    }
}

#[test]
fn a_row_in_progress_when_it_began_is_not_covered() {
    let (db, _store, mut s) = typed("vmarks_open");
    // Rows that are inserted before the verification begins, and committed before it comes to their leaf.
    let mut other = db.connect();
    other.exec("BEGIN");
    other.exec(&format!(
        "INSERT INTO inode (medium_hash, ino, blobid, mime_type) SELECT 'm2', 1000000 + n, blobid, '{WRONG}' FROM source"
    ));
    let mut caller = db.connect();
    caller.exec("SET ntt_mime.batch_delay = '100ms'");
    let running = in_background(caller, "10, workers => 1");
    let run_id = s.wait_for_run();
    wait_until(SOON, "some rows to be checked", || {
        s.run_counter(run_id, "coalesce((options->>'rows_checked')::bigint, 0)") > 0
    });
    other.exec("COMMIT; SELECT pg_stat_force_next_flush()");
    drop(other);
    let (_caller, found) = running.join().expect("no panic");
    let found = found.expect("a success");
    assert_eq!(s.run_row(run_id, "leaves_done"), "3");
    // They were left to who wrote them.
    assert_eq!(found.different, 0);
    seem_large(&mut s);
    let found = verify(&mut s, "");
    assert_eq!(skipped(&mut s, found.run_id), 2);
    assert_eq!(found.different, s.count("SELECT count(*) FROM source"));
}

#[test]
fn a_leaf_that_is_rewritten_before_it_is_looked_at_is_not_covered() {
    let (db, _store, mut s) = typed("vmarks_rewritten");
    let mut caller = db.connect();
    caller.exec("SET ntt_mime.batch_delay = '100ms'");
    let running = in_background(caller, "10, workers => 1");
    let run_id = s.wait_for_run();
    wait_until(SOON, "some rows to be checked", || {
        s.run_counter(run_id, "coalesce((options->>'rows_checked')::bigint, 0)") > 0
    });
    // Nobody counts the new versions of rows that this writes, and the verification leaves them to who has written them.
    s.exec(&format!(
        "ALTER TABLE inode DETACH PARTITION inode_m2;
         ALTER TABLE inode_m2 ALTER COLUMN mime_type TYPE varchar(255) USING '{WRONG}' || left(mime_type, 0)::text;
         ALTER TABLE inode ATTACH PARTITION inode_m2 FOR VALUES IN ('m2')"
    ));
    let (_caller, found) = running.join().expect("no panic");
    assert_eq!(found.expect("a success").different, 0);
    assert_noticed(&mut s, "another file");
}

#[test]
fn a_check_that_was_cancelled_goes_on_where_it_was() {
    let (db, _store, mut s) = typed_on(Cluster::shared(), "vmarks_cancelled", 8, 60);
    let rows = typed_rows(&mut s);
    let first = cancel_after_some_leaves(&db, &mut s, "workers => 1");
    let marked = s.count("SELECT count(*) FROM ntt_mime.verified_leaf");
    assert!((1..8).contains(&marked), "{marked}");
    seem_large(&mut s);
    let second = verify(&mut s, "");
    assert_eq!(skipped(&mut s, second.run_id), marked);
    assert!(second.checked < rows, "{second:?}");
    // Of the leaf at which it was cancelled some rows are looked at twice.
    assert!(first.checked + second.checked >= rows);
    assert_eq!(next_skips(&mut s, ""), 8);
}

#[test]
fn a_correction_that_was_cancelled_goes_on_where_it_was() {
    let (db, _store, mut s) = typed_on(Cluster::shared(), "vmarks_correction", 8, 60);
    s.exec(&format!(
        "UPDATE inode SET mime_type = '{WRONG}' WHERE ino % 3 = 0 AND blobid IS NOT NULL;
         SELECT pg_stat_force_next_flush()"
    ));
    let rows = typed_rows(&mut s);
    let wrong = format!("SELECT count(*) FROM inode WHERE mime_type = '{WRONG}'");
    let all = s.count(&wrong);
    // A check leaves no mark where rows differ.
    assert_eq!(verify(&mut s, "").different, all);
    assert_eq!(s.count("SELECT count(*) FROM ntt_mime.verified_leaf"), 0);
    let first = cancel_after_some_leaves(&db, &mut s, "workers => 1, correct => true");
    assert_eq!(s.count(&wrong), all - first.corrected);
    let marked = s.count("SELECT count(*) FROM ntt_mime.verified_leaf");
    assert!((1..8).contains(&marked), "{marked}");
    seem_large(&mut s);
    let second = verify(&mut s, "correct => true");
    assert_eq!(skipped(&mut s, second.run_id), marked);
    assert!(second.checked < rows, "{second:?}");
    assert_eq!(first.corrected + second.corrected, all);
    assert_eq!(s.count(&wrong), 0);
    assert_eq!(next_skips(&mut s, "correct => true"), 8);
    assert_eq!(next_skips(&mut s, ""), 8);
}

/// Begins a verification of `inode`, and cancels it when it is done with some leaves.
fn cancel_after_some_leaves(db: &TestDb<'_>, s: &mut Session, arguments: &str) -> Verified {
    let mut caller = db.connect();
    caller.exec("SET ntt_mime.batch_delay = '500ms'");
    let running = in_background(caller, arguments);
    let run_id = s.wait_for_run();
    wait_until(SOON, "some leaves to be finished", || {
        s.run_counter(run_id, "leaves_done") >= 2
    });
    assert!(s.value::<bool>(&format!("SELECT ntt_cancel_backfill({run_id})")));
    let (caller, found) = running.join().expect("no panic");
    drop(caller);
    assert_eq!(s.run_row(run_id, "status"), "cancelled");
    found.expect("a cancelled run is no error")
}

#[test]
fn a_limited_check_marks_what_it_has_finished() {
    let (_db, _store, mut s) = typed("vmarks_limited");
    verify(&mut s, "5, workers => 1, max_blobs => 10");
    assert_eq!(s.count("SELECT count(*) FROM ntt_mime.verified_leaf"), 0);
    let rows = typed_rows(&mut s);
    let found = verify(&mut s, "");
    assert_eq!(found.checked, rows);
    assert_eq!(next_skips(&mut s, "max_blobs => 1"), 3);
}

#[test]
fn a_part_of_the_rows_is_no_leaf() {
    let (_db, _store, mut s) = typed("vmarks_part");
    verify(&mut s, "only_types => '{text/plain}'");
    verify(&mut s, "sample_percent => 99.9999");
    assert_eq!(s.count("SELECT count(*) FROM ntt_mime.verified_leaf"), 0);
    verify(&mut s, "");
    // What has been verified has no row that differs, of whatever type. A sample estimates all leaves.
    assert_eq!(next_skips(&mut s, "only_types => '{text/plain}'"), 3);
    let sampled = verify(&mut s, "sample_percent => 99.9999");
    assert_eq!(skipped(&mut s, sampled.run_id), 0);
    assert_eq!(sampled.checked, typed_rows(&mut s));
    assert_eq!(next_skips(&mut s, ""), 3);
}

#[test]
fn another_database_of_libmagic_begins_anew() {
    let folder = scratch::folder("vmarks_magic");
    let own = folder.join("own");
    fs::write(&own, "# nothing yet\n").expect("scratch folder");
    let magic = format!("{}:/usr/share/misc/magic.mgc", own.display());
    let cluster = Cluster::start_in(&[("MAGIC", &magic)], &[]);
    let (_db, _store, mut s) = typed_on(&cluster, "vmarks_magic", 3, 60);
    let rows = typed_rows(&mut s);
    assert_eq!(verify(&mut s, "").different, 0);
    assert_eq!(next_skips(&mut s, ""), 3);
    // Packages put other files in their place while the server goes on.
    fs::write(
        &own,
        "0\tstring\t%PDF-\tanother document\n!:mime\tapplication/x-other\n",
    )
    .expect("scratch folder");
    let found = verify(&mut s, "");
    assert_eq!(skipped(&mut s, found.run_id), 0);
    assert_eq!(found.checked, rows);
    assert_eq!(
        found.different,
        s.count(
            "SELECT count(*) FROM inode WHERE mime_type = 'application/pdf' AND blobid IS NOT NULL"
        )
    );
    assert!(found.different > 0);
    // One of which leaves were marked before, and to which the server comes back.
    verify(&mut s, "correct => true");
    assert_eq!(next_skips(&mut s, ""), 3);
    fs::write(&own, "# nothing any more\n").expect("scratch folder");
    assert_eq!(verify(&mut s, "").different, found.different);
}

#[test]
fn another_first_read_begins_anew_and_the_prefilter_does_not() {
    let (_db, _store, mut s) = verified("vmarks_settings");
    s.exec("SET ntt_mime.prefilter = off");
    assert_eq!(next_skips(&mut s, ""), 3);
    s.exec("SET ntt_mime.head_bytes = '64 kB'");
    assert_eq!(next_skips(&mut s, ""), 0);
    assert_eq!(next_skips(&mut s, ""), 3);
    s.exec("SET ntt_mime.full_scan_after = 0");
    assert_eq!(next_skips(&mut s, ""), 0);
}

#[test]
fn leaves_with_blobs_that_cannot_be_detected_are_passed_over_as_these_are() {
    let (_db, store, mut s) = typed("vmarks_missing");
    let absent = store::blobid_of(b"%PDF-1.4\n% not there yet\n");
    s.exec(&format!(
        "INSERT INTO inode (medium_hash, ino, blobid, mime_type)
         SELECT 'm' || n, 2000000, '{absent}', '{WRONG}' FROM generate_series(1, 2) n;
         SELECT pg_stat_force_next_flush()"
    ));
    assert_eq!(verify(&mut s, "").failures, 1);
    let found = verify(&mut s, "");
    assert_eq!(skipped(&mut s, found.run_id), 3);
    // It counts as it does where its leaf is looked at.
    assert_eq!((found.failures, found.checked), (1, 0));
    store.put(b"%PDF-1.4\n% not there yet\n");
    s.exec("SET ntt_mime.retry_failures_after = 0");
    let found = verify(&mut s, "");
    assert_eq!(skipped(&mut s, found.run_id), 1);
    assert_eq!((found.failures, found.different), (0, 2));
}

#[test]
fn what_a_trigger_does_besides_costs_a_look() {
    let (_db, _store, mut s) = typed("vmarks_trigger");
    s.exec(&format!(
        "CREATE FUNCTION pass() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NEW; END$$;
         CREATE TRIGGER pass BEFORE UPDATE ON inode_m1 FOR EACH ROW EXECUTE FUNCTION pass();
         UPDATE inode SET mime_type = '{WRONG}' WHERE ino % 3 = 0 AND blobid IS NOT NULL"
    ));
    verify(&mut s, "correct => true");
    assert_eq!(next_skips(&mut s, ""), 2);
    assert_eq!(next_skips(&mut s, ""), 3);
    // One that keeps a row as it is keeps its leaf from being marked.
    s.exec(&format!(
        "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
             RETURN CASE WHEN OLD.mime_type = '{WRONG}' AND OLD.ino % 2 = 0 THEN NULL ELSE NEW END;
         END$$;
         CREATE TRIGGER keep BEFORE UPDATE ON inode_m2 FOR EACH ROW EXECUTE FUNCTION keep();
         UPDATE inode SET mime_type = '{WRONG}' WHERE medium_hash = 'm2' AND blobid IS NOT NULL"
    ));
    for _ in 0..2 {
        let found = verify(&mut s, "correct => true");
        assert!(found.different > found.corrected);
        assert_eq!(skipped(&mut s, found.run_id), 2);
    }
}

#[test]
fn what_nobody_has_counted_is_found_and_told() {
    let (db, _store, mut s) = verified("vmarks_uncounted");
    let mut other = db.connect();
    other.exec(&format!(
        "SET track_counts = off; UPDATE inode SET mime_type = '{WRONG}' WHERE medium_hash = 'm1' AND blobid IS NOT NULL"
    ));
    drop(other);
    wait_until(SOON, "the other session to be gone", || {
        s.count("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()") == 1
    });
    s.exec("SELECT pg_stat_force_next_flush()");
    assert_eq!(next_skips(&mut s, ""), 3);
    s.take_warnings();
    s.exec("SET ntt_mime.full_scan_after = 0");
    assert!(verify(&mut s, "").different > 0);
    assert_eq!(
        s.take_warnings(),
        [
            "1 leaf had rows with another type although it seemed unchanged since an earlier verification | \
             It is \"public.inode_m1\". | \
             The server does not count what a session writes with track_counts off. If there was none, report it."
        ]
    );
}

#[test]
fn where_the_table_of_marks_is_held_or_missing_all_is_checked() {
    let (db, _store, mut s) = verified("vmarks_held");
    let rows = typed_rows(&mut s);
    let mut holder = db.connect();
    holder.exec("BEGIN; LOCK TABLE ntt_mime.verified_leaf");
    assert_eq!(verify(&mut s, "").checked, rows);
    holder.exec("ROLLBACK");
    s.exec("ALTER EXTENSION ntt_mime DROP TABLE ntt_mime.verified_leaf; DROP TABLE ntt_mime.verified_leaf");
    assert_eq!(verify(&mut s, "").checked, rows);
}
