//! `ntt_verify_mime`: the types of rows are compared with the detected ones; nothing is changed unless that was
//! requested; and all counts are true, whatever others do meanwhile.

mod manners;
mod marks;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::thread::{self, JoinHandle};

use ntt_mime_integration::{
    Cluster, SOON, Session, Store, TestDb, assert_error, inode, judge, store::absent_blobid,
    wait_until,
};

/// Rows of [`typed`]. Of ten rows one has another type, one the same in another spelling, one none.
const ROWS: i64 = 600;

/// The type of a row that differs.
const WRONG: &str = "application/x-wrong";

/// The result row of CALL.
#[derive(Debug, PartialEq, Eq, Clone, Copy, Default)]
struct Verified {
    run_id: i64,
    blobs: i64,
    checked: i64,
    different: i64,
    corrected: i64,
    failures: i64,
}

fn try_verify(s: &mut Session, arguments: &str) -> Result<Verified, postgres::Error> {
    let row = s.call_row("ntt_verify_mime", arguments)?;
    let number = |name: &str| row.get(name).expect("no null").parse().expect("a bigint");
    assert!(row.get("elapsed").is_some());
    Ok(Verified {
        run_id: number("run_id"),
        blobs: number("blobs"),
        checked: number("rows_checked"),
        different: number("rows_different"),
        corrected: number("rows_corrected"),
        failures: number("failures"),
    })
}

#[track_caller]
fn verify(s: &mut Session, arguments: &str) -> Verified {
    try_verify(s, arguments).unwrap_or_else(|error| panic!("{error:?}"))
}

type Running = JoinHandle<(Session, Result<Verified, postgres::Error>)>;

fn in_background(mut s: Session, arguments: &str) -> Running {
    let arguments = arguments.to_owned();
    thread::spawn(move || {
        let result = try_verify(&mut s, &arguments);
        (s, result)
    })
}

/// A plain table `blob` of small blobs, a row each, most of which have the detected type.
fn typed(name: &str, rows: i64) -> (TestDb<'static>, Store, Session) {
    typed_on(Cluster::shared(), name, rows)
}

fn typed_on<'c>(cluster: &'c Cluster, name: &str, rows: i64) -> (TestDb<'c>, Store, Session) {
    let (db, store, mut s) = TestDb::with_store_on(cluster, name);
    inode::plain(&mut s, &store.put_synthetic(rows as usize));
    s.exec(&format!(
        "ALTER TABLE blob SET (autovacuum_enabled = off);
         UPDATE blob SET mime_type = ntt_detect_mime(blobid);
         CREATE TABLE truth AS SELECT blobid, size, mime_type FROM blob;
         UPDATE blob SET mime_type = CASE size % 10 WHEN 0 THEN '{WRONG}'
                                                    WHEN 1 THEN upper(mime_type) || '; charset=binary' END
          WHERE size % 10 < 3"
    ));
    s.exec("VACUUM (FREEZE, ANALYZE) blob");
    s.exec(
        "CREATE TABLE before AS SELECT blobid, size, mime_type, xmin::text AS version FROM blob;
         SET ntt_mime.target = 'blob'",
    );
    (db, store, s)
}

/// Rows of `blob` whose number satisfies `which`, and that aren't as they were.
#[track_caller]
fn changed(s: &mut Session, which: &str) -> i64 {
    s.count(&format!(
        "SELECT count(*) FROM before b FULL JOIN blob n USING (blobid)
          WHERE (b.mime_type, b.version) IS DISTINCT FROM (n.mime_type, n.xmin::text)
            AND coalesce(b.size, n.size) % 10 {which}"
    ))
}

/// What the run has on record of differences: `old|new|blobs|rows|spelling_only`, and rows in all.
#[track_caller]
fn recorded(s: &mut Session, run_id: i64) -> i64 {
    let wrong = s.table(&format!(
        "SELECT d.* FROM ntt_mime.difference d LEFT JOIN truth t ON t.blobid = d.example_blobid
          WHERE run_id = {run_id} AND t.mime_type IS DISTINCT FROM d.new_type"
    ));
    assert!(wrong.is_empty(), "{wrong:#?}");
    s.count(&format!(
        "SELECT coalesce(sum(rows), 0)::bigint FROM ntt_mime.difference WHERE run_id = {run_id} AND NOT spelling_only"
    ))
}

#[test]
fn a_check_counts_and_changes_nothing() {
    let (db, _store, mut s) = typed("check", ROWS);
    // Nobody who changes the table keeps it away, nor is kept away.
    let mut other = db.connect();
    other.exec("BEGIN; LOCK TABLE blob IN EXCLUSIVE MODE");
    let found = verify(&mut s, "100");
    other.exec("ROLLBACK");
    let different = ROWS / 10;
    assert_eq!(
        found,
        Verified {
            run_id: found.run_id,
            blobs: ROWS / 10 * 9,
            checked: ROWS / 10 * 9,
            different,
            ..Verified::default()
        }
    );
    assert_eq!(changed(&mut s, ">= 0"), 0);
    assert_eq!(
        s.run_row(
            found.run_id,
            "kind, status, rows_scanned, rows_updated, rows_left, options->'rows_checked', options->'rows_different',
             options->'rows_spelled_otherwise', options->'correct', options->'sample_percent'"
        ),
        "verify|succeeded|540|0||540|60|60|false|100.0"
    );
    assert_eq!(recorded(&mut s, found.run_id), different);
    let pairs = s.table("SELECT t.mime_type, count(*), count(DISTINCT blobid) FROM truth t WHERE size % 10 = 0 GROUP BY 1 ORDER BY 1");
    let on_record = s.table(&format!(
        "SELECT new_type, rows, blobs FROM ntt_mime.difference
          WHERE run_id = {} AND old_type = '{WRONG}' AND NOT spelling_only ORDER BY 1",
        found.run_id
    ));
    assert_eq!(on_record, pairs);
    assert_eq!(
        s.count(&format!(
            "SELECT sum(rows)::bigint FROM ntt_mime.difference
              WHERE run_id = {} AND spelling_only AND lower(old_type) = new_type || '; charset=binary'",
            found.run_id
        )),
        ROWS / 10
    );
    let notices = s.take_notices();
    let summary = notices.iter().find(|n| n.words.contains("succeeded"));
    let words = &summary.expect("a summary").words;
    for part in [
        "540 rows checked, 60 different",
        "\"application/x-wrong\" instead of \"",
        "60 rows have the detected type in another spelling",
        "ntt_mime.difference",
        "correct => true, 60 rows would",
    ] {
        assert!(words.contains(part), "{part:?} is not in {words}");
    }
    // Its differences go with its run.
    s.exec("DELETE FROM ntt_mime.run");
    assert_eq!(s.count("SELECT count(*) FROM ntt_mime.difference"), 0);
}

#[test]
fn a_correction_makes_them_agree_with_file_and_leaves_the_others() {
    let (_db, store, mut s) = typed("correct", ROWS);
    let found = verify(&mut s, "70, correct => true");
    let different = ROWS / 10;
    assert_eq!((found.different, found.corrected), (different, different));
    assert_eq!(recorded(&mut s, found.run_id), different);
    assert_eq!(changed(&mut s, "<> 0"), 0);
    let corrected = s.table("SELECT blobid, mime_type FROM blob WHERE size % 10 = 0");
    let paths: BTreeMap<PathBuf, String> = corrected
        .iter()
        .map(|line| line.split_once('|').expect("two columns"))
        .map(|(blobid, mime_type)| (store.path(blobid), mime_type.to_owned()))
        .collect();
    let files: Vec<PathBuf> = paths.keys().cloned().collect();
    assert_eq!(judge::file_mime(&files), paths);
    let again = verify(&mut s, "correct => true");
    assert_eq!((again.different, again.corrected), (0, 0));
    assert_eq!(again.checked, ROWS / 10 * 9);
    assert_eq!(s.take_warnings(), Vec::<String>::new());
}

#[test]
fn only_types_chooses_rows_by_what_they_have() {
    let (_db, _store, mut s) = typed("only", ROWS);
    let found = verify(&mut s, &format!("only_types => '{{{WRONG},nothing/such}}'"));
    assert_eq!((found.checked, found.different), (ROWS / 10, ROWS / 10));
    // Another spelling is corrected where it is named.
    let spelled = s.column("SELECT mime_type FROM blob WHERE size % 10 = 1 ORDER BY size LIMIT 1");
    let named = s.count(&format!(
        "SELECT count(*) FROM blob WHERE mime_type = '{}'",
        spelled[0]
    ));
    let arguments = format!("correct => true, only_types => ARRAY['{}']", spelled[0]);
    let found = verify(&mut s, &arguments);
    assert_eq!(
        (found.checked, found.different, found.corrected),
        (named, 0, named)
    );
    assert_eq!(changed(&mut s, "<> 1"), 0);
    assert_eq!(changed(&mut s, "= 1"), named);
    assert_eq!(
        s.count(
            "SELECT count(*) FROM blob JOIN truth t USING (blobid, mime_type) WHERE t.size % 10 = 1"
        ),
        named
    );
}

#[test]
fn what_the_arguments_may_be() {
    let (_db, _store, mut s) = typed("arguments", 10);
    for (arguments, part) in [
        ("sample_percent => 0", "\"sample_percent\": 0"),
        ("sample_percent => 100.5", "\"sample_percent\": 100.5"),
        ("sample_percent => 'NaN'", "\"sample_percent\": NaN"),
        (
            "sample_percent => NULL",
            "\"sample_percent\" must not be null",
        ),
        ("correct => NULL", "\"correct\" must not be null"),
        ("only_types => '{}'", "\"only_types\": {}"),
        ("only_types => '{a/b,NULL}'", "\"only_types\": {NULL}"),
        ("0", "\"batch_size\": 0"),
        ("NULL", "\"batch_size\" must not be null"),
        ("workers => 0", "\"workers\": 0"),
        ("max_blobs => 0", "\"max_blobs\": 0"),
    ] {
        assert_error(try_verify(&mut s, arguments), "22023", part);
    }
    assert_eq!(
        verify(&mut s, "target => 'truth', batch_size => 1").checked,
        10
    );
}

#[test]
fn a_commit_has_to_be_possible() {
    let (_db, _store, mut s) = typed("atomic", 10);
    s.exec("BEGIN");
    assert_error(
        try_verify(&mut s, ""),
        "2D000",
        "ntt_verify_mime cannot run inside",
    );
    s.exec("ROLLBACK");
    assert_eq!(s.count("SELECT count(*) FROM ntt_mime.run"), 0);
}

#[test]
fn a_check_asks_for_select_and_a_correction_for_update() {
    let (db, _store, mut s) = typed("verify_rights", 50);
    let role = db.role("checker", "LOGIN");
    s.exec(&format!(
        "GRANT EXECUTE ON PROCEDURE ntt_verify_mime TO {role}"
    ));
    let mut checker = db.connect_as(&role);
    checker.exec("SET ntt_mime.target = 'blob'");
    assert_error(
        try_verify(&mut checker, ""),
        "42501",
        "permission denied for table public.blob",
    );
    s.exec(&format!(
        "GRANT SELECT (blobid, mime_type) ON blob TO {role}"
    ));
    assert_eq!(verify(&mut checker, "").different, 5);
    let error = assert_error(
        try_verify(&mut checker, "correct => true"),
        "42501",
        "permission denied",
    );
    assert!(
        error
            .detail()
            .is_some_and(|detail| detail.contains("UPDATE privilege on column \"mime_type\""))
    );
    s.exec(&format!("GRANT UPDATE (mime_type) ON blob TO {role}"));
    assert_eq!(verify(&mut checker, "correct => true").corrected, 5);
    // What was found is read as runs are.
    assert_error(
        checker.simple_query("TABLE ntt_mime.difference"),
        "42501",
        "permission denied",
    );
    let monitor = db.role("monitor", "LOGIN IN ROLE pg_monitor");
    let mut monitor = db.connect_as(&monitor);
    assert!(monitor.count("SELECT count(*) FROM ntt_mime.difference") > 0);
}

#[test]
fn policies_of_a_plain_target_apply() {
    let (db, _store, mut s) = typed("verify_policies", 100);
    let role = db.role("limited", "LOGIN");
    s.exec(&format!(
        "GRANT EXECUTE ON PROCEDURE ntt_verify_mime TO {role};
         GRANT SELECT, UPDATE ON blob TO {role};
         ALTER TABLE blob ENABLE ROW LEVEL SECURITY;
         CREATE POLICY p ON blob TO {role} USING (size < 50)"
    ));
    let mut limited = db.connect_as(&role);
    limited.exec("SET ntt_mime.target = 'blob'");
    let found = verify(&mut limited, "correct => true");
    assert_eq!(
        (found.checked, found.different, found.corrected),
        (45, 5, 5)
    );
    let found = verify(&mut limited, &format!("only_types => '{{{WRONG}}}'"));
    assert_eq!(found.checked, 0);
    assert_eq!(
        s.count(&format!(
            "SELECT count(*) FROM blob WHERE mime_type = '{WRONG}'"
        )),
        5
    );
}

#[test]
fn what_cannot_be_detected_stays_and_is_on_record() {
    let (_db, store, mut s) = typed("verify_failures", 50);
    let missing = absent_blobid(1);
    s.exec(&format!(
        "INSERT INTO blob VALUES ('{missing}', 5, '{WRONG}'), ('no blobid', 5, '{WRONG}')"
    ));
    let gone = s
        .column("SELECT blobid FROM blob WHERE size = 10")
        .remove(0);
    store.remove(&gone);
    let found = verify(&mut s, "correct => true");
    assert_eq!((found.failures, found.checked, found.corrected), (3, 44, 4));
    assert_eq!(
        s.column("SELECT blobid FROM ntt_mime.failure ORDER BY 1")
            .len(),
        3
    );
    let stay = format!("SELECT count(*) FROM blob WHERE mime_type = '{WRONG}'");
    assert_eq!(s.count(&stay), 3);
}

#[test]
fn rows_that_others_hold_are_passed_by_and_counted_once() {
    let (db, _store, mut s) = typed("verify_locked", ROWS);
    s.exec("SET ntt_mime.lock_timeout = '100ms'");
    let mut other = db.connect();
    other.exec("BEGIN; UPDATE blob SET mime_type = 'text/x-by-hand' WHERE size IN (100, 110, 200)");
    let found = verify(&mut s, "50, correct => true");
    assert_eq!((found.checked, found.different), (540, 60));
    assert_eq!(found.corrected, 57);
    assert_eq!(recorded(&mut s, found.run_id), 60);
    let warnings = s.take_warnings();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(
        warnings[0].contains("1 leaf was not corrected completely because of locks held by others")
    );
    other.exec("COMMIT");
    // What somebody has put there is his, unless it differs, too.
    assert_eq!(
        s.count("SELECT count(*) FROM blob WHERE mime_type = 'text/x-by-hand'"),
        3
    );
    let found = verify(&mut s, "correct => true");
    assert_eq!(
        (found.checked, found.different, found.corrected),
        (540, 3, 3)
    );
}

#[test]
fn a_row_that_changes_before_its_correction_is_left_alone() {
    let (db, _store, mut s) = typed("verify_race", 20);
    let mut other = db.connect();
    other.exec("BEGIN; UPDATE blob SET mime_type = 'text/x-by-hand' WHERE size = 10");
    let mut caller = db.connect();
    caller.exec("SET ntt_mime.target = 'blob'; SET ntt_mime.lock_timeout = '10s'");
    let running = in_background(caller, "correct => true, workers => 1");
    db.wait_for_waiting_worker();
    other.exec("COMMIT");
    let (mut caller, found) = running.join().expect("no panic");
    let found = found.expect("a success");
    assert_eq!(
        (found.checked, found.different, found.corrected),
        (18, 2, 1)
    );
    assert_eq!(
        s.column("SELECT mime_type FROM blob WHERE size = 10"),
        ["text/x-by-hand"]
    );
    assert_eq!(caller.take_warnings(), Vec::<String>::new());
}

#[test]
fn a_rewrite_meanwhile_counts_no_row_twice() {
    let (db, _store, mut s) = typed("verify_rewrite", 2000);
    s.exec("DELETE FROM blob WHERE size % 2 = 1");
    let (rows, different) = (800, 200);
    for correct in [false, true] {
        let mut caller = db.connect();
        caller.exec("SET ntt_mime.target = 'blob'; SET ntt_mime.batch_delay = '40ms'");
        let running = in_background(caller, &format!("20, workers => 1, correct => {correct}"));
        let run_id = s.wait_for_run();
        wait_until(SOON, "some rows to be checked", || {
            s.run_counter(run_id, "coalesce((options->>'rows_checked')::bigint, 0)") > 100
        });
        s.exec("VACUUM FULL blob");
        assert!(!running.is_finished(), "over before it was disturbed");
        let (_caller, found) = running.join().expect("no panic");
        let found = found.expect("a success");
        let corrected = if correct { different } else { 0 };
        assert_eq!(
            (found.checked, found.different, found.corrected),
            (rows, different, corrected)
        );
        assert_eq!(recorded(&mut s, found.run_id), different);
    }
}

#[test]
fn it_is_cancelled_as_a_backfill_is_and_excludes_one() {
    let (db, _store, mut s) = typed("verify_cancel", 1000);
    let mut caller = db.connect();
    caller.exec("SET ntt_mime.target = 'blob'; SET ntt_mime.batch_delay = '50ms'");
    let running = in_background(caller, "10, workers => 1");
    let run_id = s.wait_for_run();
    wait_until(SOON, "some rows to be checked", || {
        s.run_counter(run_id, "coalesce((options->>'rows_checked')::bigint, 0)") > 0
    });
    assert_eq!(
        s.column("SELECT phase FROM ntt_mime.progress"),
        ["checking"]
    );
    assert_error(s.call(""), "55006", "blob");
    assert_error(try_verify(&mut s, ""), "55006", "blob");
    assert!(s.value::<bool>(&format!("SELECT ntt_cancel_backfill({run_id})")));
    let (_caller, found) = running.join().expect("no panic");
    let found = found.expect("a cancelled run is no error");
    assert!(found.checked > 0 && found.checked < 900, "{found:?}");
    assert_eq!(s.run_row(run_id, "status"), "cancelled");
    assert_eq!(recorded(&mut s, run_id), found.different);
    db.wait_for_no_workers(SOON);
}

#[test]
fn a_trigger_that_puts_the_old_type_back() {
    let (_db, _store, mut s) = typed("verify_trigger", 100);
    s.exec(
        "CREATE FUNCTION back() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
             IF NEW.size = 10 THEN NEW.mime_type := OLD.mime_type; END IF; RETURN NEW; END$$;
         CREATE TRIGGER back BEFORE UPDATE ON blob FOR EACH ROW EXECUTE FUNCTION back()",
    );
    let found = verify(&mut s, "correct => true");
    assert_eq!((found.different, found.corrected), (10, 9));
    let warnings = s.take_warnings();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(
        warnings[0].starts_with("1 row does not have the detected type after the update"),
        "{warnings:?}"
    );
    assert!(warnings[0].contains("trigger \"back\""));
}

#[test]
fn a_type_that_does_not_fit_is_different_and_stays() {
    let (_db, _store, mut s) = typed("verify_narrow", 100);
    s.exec("UPDATE blob SET mime_type = 'x/y' WHERE size % 10 <> 2; ALTER TABLE blob ALTER mime_type TYPE varchar(10)");
    let fit =
        s.count("SELECT count(*) FROM truth WHERE length(mime_type) <= 10 AND size % 10 <> 2");
    let found = verify(&mut s, "correct => true");
    assert_eq!((found.checked, found.different), (90, 90));
    assert_eq!(found.corrected, fit);
    assert!(fit < 90);
    let warnings = s.take_warnings();
    assert_eq!(warnings.len(), 1);
    assert!(
        warnings[0].contains("too long a type for column \"mime_type\""),
        "{warnings:?}"
    );
}

#[test]
fn max_blobs_ends_it() {
    let (_db, _store, mut s) = typed("verify_limit", 200);
    let found = verify(&mut s, "10, max_blobs => 30");
    assert_eq!((found.blobs, found.checked), (30, 30));
}

#[test]
fn a_sample_estimates_the_whole() {
    let (_db, _store, mut s) = inode::archive("sample", 5, 200, 40);
    s.exec(
        "UPDATE inode SET mime_type = ntt_detect_mime(blobid) WHERE blobid IS NOT NULL;
         UPDATE inode SET mime_type = 'application/x-wrong' WHERE ino % 4 = 0 AND blobid IS NOT NULL",
    );
    s.exec("VACUUM FULL inode");
    let rows =
        s.count("SELECT count(*) FROM inode WHERE mime_type IS NOT NULL AND blobid IS NOT NULL");
    let different = s.count(
        "SELECT count(*) FROM inode WHERE mime_type = 'application/x-wrong' AND blobid IS NOT NULL",
    );
    let whole = verify(&mut s, "");
    assert_eq!((whole.checked, whole.different), (rows, different));
    assert_eq!(s.run_row(whole.run_id, "options->>'estimate'"), "");
    let mut within = 0;
    let mut seen = Vec::new();
    for _ in 0..20 {
        let found = verify(&mut s, "sample_percent => 20");
        assert!(found.checked < rows / 2, "{found:?} of {rows}");
        seen.push(found.checked);
        if found.checked > 0 {
            within += s.run_counter(
                found.run_id,
                &format!(
                    "({different} BETWEEN (options #>> '{{estimate,rows_different_low}}')::bigint
                              AND (options #>> '{{estimate,rows_different_high}}')::bigint)::int"
                ),
            );
        }
    }
    assert!(within >= 18, "{within} of 20");
    seen.dedup();
    assert!(seen.len() > 1, "always the same blocks");
    let notices = s.take_notices();
    assert!(notices.iter().any(|n| n.words.contains("The sample had ")));
}

#[test]
fn pairs_on_record_are_bounded() {
    let (_db, _store, mut s) = typed("verify_pairs", 10);
    s.exec(
        "CREATE TABLE many (blobid text, mime_type text);
         INSERT INTO many SELECT (SELECT blobid FROM truth LIMIT 1), 'x/' || least(n, 12000) FROM generate_series(1, 12010) n",
    );
    let found = verify(&mut s, "target => 'many'");
    assert_eq!((found.checked, found.different), (12010, 12010));
    assert_eq!(
        s.table(&format!(
            "SELECT count(*), count(old_type), sum(rows), max(rows), sum(rows) FILTER (WHERE old_type IS NULL),
                    sum(blobs) FILTER (WHERE new_type IS NULL)
               FROM ntt_mime.difference WHERE run_id = {}",
            found.run_id
        )),
        ["10001|10000|12010|2000|2000|2000"]
    );
}

#[test]
fn rows_that_are_written_meanwhile_are_left_to_who_writes_them() {
    let (db, _store, mut s) = typed("verify_meanwhile", 1000);
    let mut caller = db.connect();
    caller.exec("SET ntt_mime.target = 'blob'; SET ntt_mime.batch_delay = '300ms'");
    let running = in_background(caller, "20, workers => 1, correct => true");
    let run_id = s.wait_for_run();
    wait_until(SOON, "some rows to be corrected", || {
        s.run_counter(run_id, "rows_updated") > 0
    });
    // New versions of all rows, behind all that has been read.
    s.exec("UPDATE blob SET mime_type = 'text/x-by-hand'");
    let (_caller, found) = running.join().expect("no panic");
    let found = found.expect("a success");
    assert!(found.checked < 900, "{found:?}");
    assert_eq!(
        s.count("SELECT count(*) FROM blob WHERE mime_type <> 'text/x-by-hand'"),
        0
    );
}

#[test]
fn a_check_of_rows_that_agree_writes_next_to_nothing() {
    // Of its own, since nobody else is to write.
    let cluster = Cluster::start(&[("autovacuum", "off")]);
    let (_db, _store, mut s) = typed_on(&cluster, "verify_wal", 2000);
    s.exec("UPDATE blob SET mime_type = t.mime_type FROM truth t WHERE t.blobid = blob.blobid");
    s.exec("VACUUM (FREEZE) blob");
    s.exec("CHECKPOINT");
    let written = |s: &mut Session| {
        s.count("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint")
    };
    let before = written(&mut s);
    let found = verify(&mut s, "100");
    assert_eq!((found.checked, found.different), (2000, 0));
    let wal = written(&mut s) - before;
    // The run's row, a few times, with the pages that it is on.
    assert!(wal < 200_000, "{wal} bytes");
}
