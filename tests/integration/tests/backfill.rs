//! `CALL ntt_backfill_mime`: what it fills, what it leaves alone, what it counts and reports, on each kind of target.

use std::time::Duration;

use ntt_mime_integration::store::{absent_blobid, blobid_of};
use ntt_mime_integration::{
    Outcome, Session, Store, TestDb, assert_error, corpus, inode, opens::Opens, scratch,
};
use postgres::error::DbError;

/// The outcome, the run's row and the failures agree with what there was to do.
#[track_caller]
fn check_counts(s: &mut Session, outcome: &Outcome) {
    let expected = inode::expected(s);
    let id = outcome.run_id;
    assert_eq!(outcome.blobs, expected.blobs, "blobs");
    assert_eq!(outcome.rows_updated, expected.rows, "rows_updated");
    assert_eq!(outcome.failures, expected.failures, "failures");
    assert_eq!(
        s.run_row(id, "status, blobs, rows_updated, failures, rows_left"),
        format!(
            "succeeded|{}|{}|{}|{}",
            expected.blobs, expected.rows, expected.failures, expected.rows_left
        )
    );
    let failures = s.count(&format!(
        "SELECT count(*) FROM ntt_mime.failure WHERE last_run_id = {id}"
    ));
    assert_eq!(failures, expected.failures, "rows of ntt_mime.failure");
    // Types by distinct blobs.
    let differing = s.table(&format!(
        "SELECT * FROM
            (SELECT mime, count(DISTINCT blobid) AS n FROM before JOIN truth USING (blobid)
              WHERE mime_type IS NULL AND mime IS NOT NULL GROUP BY 1) a
            FULL JOIN (SELECT key AS mime, value::bigint AS n
                         FROM ntt_mime.run, jsonb_each_text(mime_counts) WHERE run_id = {id}) b USING (mime)
          WHERE a.n IS DISTINCT FROM b.n"
    ));
    assert!(
        differing.is_empty(),
        "type|should be|mime_counts: {differing:#?}"
    );
}

#[test]
fn fills_the_users_archive() {
    let db = TestDb::new("archive");
    db.use_store(&corpus().store);
    let mut s = db.connect();
    inode::partitioned(&mut s, 17);
    inode::load_source(&mut s, &corpus().blobids());
    inode::fill(&mut s, 17, 5);
    inode::remember(&mut s, "inode");
    s.take_notices();
    let outcome = s.backfill("10000");
    let notices = s.take_notices();
    inode::check_filled(&mut s, "inode");
    assert_eq!(inode::pending(&mut s, "inode"), 0);
    check_counts(&mut s, &outcome);

    // The same according to file(1).
    let judged: Vec<(String, String)> = corpus()
        .blobs
        .iter()
        .map(|b| (b.blobid.clone(), b.file_mime.clone()))
        .collect();
    s.exec("CREATE TABLE judged (blobid text, mime text)");
    for (blobid, mime) in &judged {
        s.execute("INSERT INTO judged VALUES ($1, $2)", &[blobid, mime])
            .expect("inserts");
    }
    let differing = s.table(&format!(
        "SELECT DISTINCT blobid, mime_type, mime FROM inode JOIN judged USING (blobid)
          WHERE mime_type IS DISTINCT FROM mime AND mime_type <> '{}'",
        inode::KEPT
    ));
    assert!(differing.is_empty(), "blobid|is|file(1): {differing:#?}");

    // The run's row.
    let id = outcome.run_id;
    assert_eq!(
        s.run_row(
            id,
            "target, role_name, pid, workers, leaves_total, leaves_done"
        ),
        format!("public.inode|postgres|{}|2|17|17", s.pid)
    );
    assert_eq!(
        s.run_row(id, "blocks_total > 0, blocks_done = blocks_total"),
        "t|t"
    );
    assert!(s.run_counter(id, "rows_scanned") >= outcome.rows_updated);
    assert_eq!(s.run_counter(id, "detections"), outcome.blobs);
    assert!(
        s.run_counter(id, "cache_hits") > 0,
        "blobs are in several leaves"
    );
    assert!(s.run_counter(id, "bytes_read") > outcome.blobs);
    let mut ms = |column: &str| -> f64 { s.run_row(id, column).parse().expect("it isn't null") };
    let times = ["scan_ms", "read_ms", "detect_ms", "update_ms", "commit_ms"].map(&mut ms);
    assert!(times.iter().all(|time| *time > 0.0), "{times:?}");
    // Everything that the workers did, including waiting, is in one of these.
    let idle = ms("options->>'idle_ms'");
    let (told, all) = (
        times.iter().sum::<f64>() + idle,
        ms("options->>'worker_ms'"),
    );
    assert!(
        (0.95..1.01).contains(&(told / all)),
        "{times:?} and {idle} waited of {all} ms"
    );
    assert_eq!(
        s.run_row(id, "libmagic, error IS NULL"),
        s.table("SELECT libmagic, true FROM ntt_mime_version()")[0]
    );
    let options = ["batch_size", "dry_run", "retry_failed"].map(|key| format!("options->>'{key}'"));
    assert_eq!(s.run_row(id, &options.join(", ")), "10000|false|false");
    assert_eq!(s.run_row(id, "options->>'max_blobs' IS NULL"), "t");
    // Each file of this corpus is detected at least once, and hardly any of them with all rules.
    let (prefiltered, fallbacks) = (
        s.run_counter(id, "options->>'prefiltered'"),
        s.run_counter(id, "options->>'prefilter_fallbacks'"),
    );
    assert!(
        prefiltered > 4 * fallbacks,
        "{prefiltered} looks, {fallbacks} fallbacks"
    );
    assert_eq!(
        s.run_row(id, "started_at <= finished_at AND finished_at <= now()"),
        "t"
    );
    assert_eq!(
        s.run_row(
            id,
            &format!(
                "abs(extract(epoch FROM finished_at - started_at - '{}'::interval)) < 2",
                outcome.elapsed
            )
        ),
        "t",
        "elapsed is the time between"
    );

    let summary = notices.last().expect("a summary");
    assert!(
        notices.iter().all(|n| n.severity == "NOTICE"),
        "{notices:#?}"
    );
    for number in [outcome.blobs, outcome.rows_updated] {
        let digits: String = summary
            .words
            .chars()
            .filter(|c| !matches!(c, ',' | '_' | '\u{202f}'))
            .collect();
        assert!(
            digits.contains(&number.to_string()),
            "{number} is not in the summary: {}",
            summary.words
        );
    }
    assert_eq!(db.workers(&mut s), 0);

    // The user's triggers have seen ordinary updates.
    assert!(s.count("SELECT statements FROM queue_stats") > 0);

    // Nothing is left: another run ends at once, changes nothing and reads nothing.
    inode::remember(&mut s, "inode");
    let again = s.backfill("10000");
    assert_eq!((again.blobs, again.rows_updated, again.failures), (0, 0, 0));
    assert!(again.run_id > outcome.run_id);
    assert_eq!(s.run_row(again.run_id, "status, detections"), "succeeded|0");
    inode::check_untouched(&mut s, "inode");
    assert_eq!(s.count("SELECT count(*) FROM before n JOIN inode i ON i.xmin::text = n.version AND i.ctid::text = n.place AND i.tableoid::regclass::text = n.leaf"), s.count("SELECT count(*) FROM before"), "a row was rewritten");
}

#[test]
fn dry_run_changes_nothing() {
    let (_db, store, mut s) = inode::archive("dry", 5, 200, 3);
    let unreadable = store.put_unreadable(b"secret");
    s.exec(&format!(
        "INSERT INTO inode (medium_hash, ino, blobid) VALUES ('m1', 1000001, '{unreadable}'),
                                                             ('m1', 1000002, '{}')",
        absent_blobid(1)
    ));
    inode::remember(&mut s, "inode");
    let expected = inode::expected(&mut s);
    let outcome = s.backfill("100, dry_run => true");
    assert_eq!((outcome.blobs, outcome.failures), (expected.blobs, 2));
    assert_eq!(inode::check_partly_filled(&mut s, "inode"), 0);
    assert_eq!(s.count("SELECT count(*) FROM ntt_mime.failure"), 0);
    assert_eq!(
        s.run_row(outcome.run_id, "status, options->>'dry_run'"),
        "succeeded|true"
    );
    let counted = s.run_counter(
        outcome.run_id,
        "(SELECT sum(value::bigint) FROM jsonb_each_text(mime_counts))",
    );
    assert_eq!(counted, expected.blobs - 2);
    // Not even written and rolled back: no row has a new version.
    let moved = s.count("SELECT count(*) FROM before b WHERE NOT EXISTS (SELECT FROM inode i WHERE i.xmin::text = b.version AND i.ctid::text = b.place AND i.tableoid::regclass::text = b.leaf)");
    assert_eq!(moved, 0);
    // And the real run does what the dry run predicted.
    let real = s.backfill("100");
    assert_eq!(
        (real.blobs, real.failures),
        (outcome.blobs, outcome.failures)
    );
    check_counts(&mut s, &real);
}

#[test]
fn max_blobs_stops_about_there() {
    let (_db, _store, mut s) = inode::archive("max_blobs", 4, 1000, 2);
    let expected = inode::expected(&mut s);
    let batch = 25;
    let first = s.backfill(&format!("{batch}, max_blobs => 100"));
    // Each of the two workers may have a batch in progress when the hundredth blob is met.
    assert!(
        (100..=100 + 2 * batch).contains(&first.blobs),
        "{} blobs",
        first.blobs
    );
    assert_eq!(
        s.run_row(first.run_id, "status, options->>'max_blobs'"),
        "succeeded|100"
    );
    let filled = inode::check_partly_filled(&mut s, "inode");
    assert_eq!(filled, first.rows_updated);
    assert!(
        filled >= 100 - batch && filled < expected.rows,
        "{filled} rows"
    );
    let rest = s.backfill("1000");
    inode::check_filled(&mut s, "inode");
    assert_eq!(first.rows_updated + rest.rows_updated, expected.rows);
}

#[test]
fn a_transaction_updates_at_most_batch_size_rows() {
    // Leaves much smaller and much larger than a batch.
    let (_db, _store, mut s) = inode::archive("batch_size", 30, 400, 4);
    s.exec(
        "CREATE TABLE seen (xid xid8, leaf text, n bigint);
         CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN
                 INSERT INTO public.seen SELECT pg_current_xact_id(), TG_TABLE_NAME, count(*) FROM new_rows;
                 RETURN NULL;
             END $$;
         DO $$
             DECLARE leaf regclass;
             BEGIN
                 FOR leaf IN SELECT relid FROM pg_partition_tree('inode') WHERE isleaf LOOP
                     EXECUTE format('CREATE TRIGGER see AFTER UPDATE ON %s REFERENCING NEW TABLE AS new_rows
                                     FOR EACH STATEMENT EXECUTE FUNCTION see()', leaf);
                 END LOOP;
             END $$",
    );
    let outcome = s.backfill("37");
    inode::check_filled(&mut s, "inode");
    check_counts(&mut s, &outcome);
    assert_eq!(
        s.count("SELECT sum(n)::bigint FROM seen"),
        outcome.rows_updated
    );
    let most = s.count("SELECT max(n) FROM (SELECT sum(n)::bigint AS n FROM seen GROUP BY xid) t");
    assert!(most <= 37, "{most} rows in a transaction");
    assert!(
        most > 18,
        "at most {most} rows in a transaction: batches are needlessly small"
    );
}

#[test]
fn a_batch_of_one_row_works() {
    let (_db, _store, mut s) = inode::archive("batch_one", 3, 30, 2);
    let outcome = s.backfill("1");
    inode::check_filled(&mut s, "inode");
    check_counts(&mut s, &outcome);
}

#[test]
fn each_blob_is_opened_once_a_run() {
    let (_db, store, mut s) = inode::archive("once", 8, 300, 6);
    let blobids = s.column(
        "SELECT blobid FROM before JOIN truth USING (blobid) WHERE mime_type IS NULL GROUP BY 1",
    );
    let mut opens = Opens::watch(blobids.iter().map(|blobid| store.path(blobid)));
    let outcome = s.backfill("50");
    inode::check_filled(&mut s, "inode");
    let wrong: Vec<_> = opens.counts().iter().filter(|(_, n)| **n != 1).collect();
    assert!(
        wrong.is_empty(),
        "{} of {} blobs weren't opened once: {wrong:?}",
        wrong.len(),
        blobids.len()
    );
    assert_eq!(s.run_counter(outcome.run_id, "detections"), outcome.blobs);
    assert_eq!(outcome.blobs, i64::try_from(blobids.len()).expect("small"));
    assert!(s.run_counter(outcome.run_id, "cache_hits") > 0);
}

#[test]
fn a_small_cache_is_slower_and_not_wrong() {
    let (_db, _store, mut s) = inode::archive("cache", 8, 2000, 3);
    // Room for a few hundred blobs: some are found in it, others are read again.
    s.exec("LOAD 'ntt_mime'; SET ntt_mime.cache_size = '8kB'");
    let outcome = s.backfill("100");
    inode::check_filled(&mut s, "inode");
    let expected = inode::expected(&mut s);
    assert_eq!(outcome.rows_updated, expected.rows);
    let detections = s.run_counter(outcome.run_id, "detections");
    assert!(
        detections > expected.blobs,
        "{detections} detections of {} blobs",
        expected.blobs
    );
    assert!(s.run_counter(outcome.run_id, "cache_hits") > 0);
}

#[test]
fn fills_a_plain_table() {
    let db = TestDb::new("plain");
    db.use_store(&corpus().store);
    let mut s = db.connect();
    let mut blobids = corpus().blobids();
    blobids.extend((0..3).map(absent_blobid));
    inode::plain(&mut s, &blobids);
    s.exec("UPDATE blob SET mime_type = 'application/x-kept' WHERE size % 7 = 0");
    inode::remember(&mut s, "blob");
    let outcome = s.backfill("500, target => 'blob'");
    inode::check_filled(&mut s, "blob");
    check_counts(&mut s, &outcome);
    assert_eq!(s.run_counter(outcome.run_id, "leaves_total"), 1);
}

#[test]
fn fills_several_levels_of_partitions() {
    let (_db, store, mut s) = TestDb::with_store("levels");
    inode::multilevel(&mut s, 4, 3);
    inode::load_source(&mut s, &store.put_synthetic(300));
    inode::fill(&mut s, 4, 3);
    inode::remember(&mut s, "inode");
    let outcome = s.backfill("100");
    inode::check_filled(&mut s, "inode");
    check_counts(&mut s, &outcome);
    assert_eq!(s.run_counter(outcome.run_id, "leaves_total"), 10);
    // A subtree is also a target.
    s.exec("UPDATE inode SET mime_type = NULL WHERE mime_type <> 'application/x-kept'");
    inode::remember(&mut s, "inode");
    let subtree = s.backfill("100, target => 'inode_m2'");
    assert_eq!(s.run_counter(subtree.run_id, "leaves_total"), 3);
    assert_eq!(inode::pending(&mut s, "inode_m2"), 0);
    assert_eq!(
        inode::check_partly_filled(&mut s, "inode"),
        subtree.rows_updated
    );
    assert!(subtree.rows_updated > 0);
    // And so is a leaf.
    let leaf = s.backfill("100, target => 'inode_m1_2'");
    assert_eq!(s.run_counter(leaf.run_id, "leaves_total"), 1);
    assert_eq!(inode::pending(&mut s, "inode_m1_2"), 0);
    assert_eq!(
        inode::check_partly_filled(&mut s, "inode"),
        subtree.rows_updated + leaf.rows_updated
    );
}

#[test]
fn foreign_partitions_are_skipped_with_a_warning() {
    let (_db, store, mut s) = TestDb::with_store("foreign");
    inode::load_source(&mut s, &store.put_synthetic(30));
    // Its rows are pending as well, for anybody who reads the target.
    let file = scratch::folder("foreign").join("leaf.csv");
    let lines = s.column("SELECT '0,' || blobid || ',' FROM source WHERE n % 3 = 0");
    std::fs::write(&file, lines.join("\n")).expect("scratch folder");
    s.exec(&format!(
        "CREATE EXTENSION file_fdw; CREATE SERVER files FOREIGN DATA WRAPPER file_fdw;
         CREATE TABLE t (key int, blobid text, mime_type text) PARTITION BY LIST (key);
         CREATE FOREIGN TABLE t_foreign PARTITION OF t FOR VALUES IN (0)
             SERVER files OPTIONS (filename '{}', format 'csv');
         CREATE TABLE t_1 PARTITION OF t FOR VALUES IN (1);
         CREATE TABLE t_2 PARTITION OF t FOR VALUES IN (2);
         INSERT INTO t SELECT n % 3, blobid FROM source WHERE n % 3 > 0",
        file.display()
    ));
    assert_eq!(inode::pending(&mut s, "t"), 30);
    let outcome = s.backfill("5, target => 't'");
    let warnings = s.take_warnings();
    assert_eq!(
        warnings,
        [
            "skipped 1 partition | It is \"public.t_foreign\". Foreign tables, tables whose access method does not \
             support TID range scans, and tables that are partitioned by column \"mime_type\" are not filled."
        ]
    );
    assert_eq!((outcome.blobs, outcome.rows_updated), (20, 20));
    assert_eq!(
        s.run_row(
            outcome.run_id,
            "status, leaves_total, leaves_done, rows_left"
        ),
        "succeeded|2|2|0"
    );
    assert_eq!(inode::pending(&mut s, "t_foreign"), 10);
    assert_eq!(inode::pending(&mut s, "t"), 10);
}

#[test]
fn empty_targets_are_no_problem() {
    let (_db, _store, mut s) = TestDb::with_store("nothing");
    s.exec("CREATE TABLE blob (blobid text, mime_type text)");
    inode::partitioned(&mut s, 0);
    for target in ["blob", "inode"] {
        let outcome = s.backfill(&format!("target => '{target}'"));
        assert_eq!(
            (outcome.blobs, outcome.rows_updated, outcome.failures),
            (0, 0, 0)
        );
        assert_eq!(s.run_row(outcome.run_id, "status"), "succeeded");
    }
    assert_eq!(s.run_counter(2, "leaves_total"), 0);
}

#[test]
fn malformed_blobids_in_rows_are_recorded() {
    let (_db, _store, mut s) = inode::archive("bad_rows", 4, 50, 2);
    let good = blobid_of(b"good");
    let malformed = [
        good.to_uppercase(),
        good[..63].to_owned(),
        format!("{good}0"),
        String::new(),
        "../../../../etc/passwd".into(),
        format!("{}/{}", &good[..31], &good[..32]),
        format!("{}\u{1}", &good[..63]),
        format!("{}é", &good[..62]),
        "a\tb\nc\\d\"e'f{g},h".into(),
        "a".repeat(10_000),
    ];
    for (i, blobid) in malformed.iter().enumerate() {
        let ino = 1_000_000 + i64::try_from(i).expect("small");
        for medium in ["m0", "m3"] {
            s.execute(
                "INSERT INTO inode (medium_hash, ino, blobid) VALUES ($1, $2, $3)",
                &[&medium, &ino, blobid],
            )
            .expect("inserts");
        }
    }
    inode::remember(&mut s, "inode");
    let outcome = s.backfill("20");
    inode::check_filled(&mut s, "inode");
    check_counts(&mut s, &outcome);
    // The very long one is recorded by its beginning.
    let mut recorded = s.column("SELECT blobid FROM ntt_mime.failure WHERE reason = 'invalid'");
    recorded.sort();
    let mut expected = malformed.to_vec();
    expected.sort();
    assert_eq!(recorded.len(), expected.len());
    for (recorded, expected) in recorded.iter().zip(&expected) {
        if expected.len() < 1000 {
            assert_eq!(recorded, expected);
        } else {
            assert!(
                recorded.starts_with(&expected[..32]) && recorded.len() < 1000,
                "{recorded}"
            );
        }
    }
    let long = s.count("SELECT max(length(detail))::bigint FROM ntt_mime.failure");
    assert!(long < 1000, "a detail of {long} characters");
    // They are skipped the next time.
    let again = s.backfill("20");
    assert_eq!(again.rows_updated, 0);
}

#[test]
fn a_malformed_blobid_may_be_longer_than_an_index_takes() {
    let (_db, store, mut s) = TestDb::with_store("long");
    let good = store.put(b"#!/bin/sh\n");
    // 32 kB of digits that don't compress: more than an index tuple holds.
    s.exec(&format!(
        "CREATE TABLE blob (blobid text, mime_type text);
         INSERT INTO blob SELECT string_agg(md5(i::text), '') FROM generate_series(1, 1000) i;
         INSERT INTO blob VALUES ('{good}')"
    ));
    let outcome = s.backfill("target => 'blob'");
    assert_eq!((outcome.rows_updated, outcome.failures), (1, 1));
    assert_eq!(
        s.count("SELECT count(*) FROM ntt_mime.failure WHERE reason = 'invalid'"),
        1
    );
}

#[test]
fn the_setting_names_the_target() {
    let (_db, store, mut s) = TestDb::with_store("setting");
    let blobids = store.put_synthetic(20);
    s.exec(r#"CREATE SCHEMA a; CREATE TABLE a."Blob" (blobid text, mime_type text)"#);
    inode::load_source(&mut s, &blobids);
    s.exec(r#"INSERT INTO a."Blob" SELECT blobid FROM source"#);
    inode::plain(&mut s, &blobids);
    s.exec(r#"SET ntt_mime.target = 'a."Blob"'"#);
    assert_eq!(s.backfill("").rows_updated, 20);
    assert_eq!(inode::pending(&mut s, r#"a."Blob""#), 0);
    assert_eq!(inode::pending(&mut s, "blob"), 20);
    // The argument takes precedence over the setting.
    assert_eq!(s.backfill("target => 'blob'").rows_updated, 20);
    // The search path is the caller's.
    s.exec(r#"UPDATE a."Blob" SET mime_type = NULL; SET search_path = a, public; SET ntt_mime.target = '"Blob"'"#);
    assert_eq!(s.backfill("").rows_updated, 20);
}

#[test]
fn an_empty_search_path_will_do() {
    let (_db, _store, mut s) = inode::archive("path", 3, 60, 2);
    s.exec("SET search_path = ''");
    let outcome = s
        .call_named("public.ntt_backfill_mime", "50, target => 'public.inode'")
        .expect("runs");
    s.exec("RESET search_path");
    inode::check_filled(&mut s, "inode");
    check_counts(&mut s, &outcome);
}

#[test]
fn drivers_may_use_the_extended_protocol() {
    let (_db, _store, mut s) = inode::archive("extended", 3, 60, 2);
    let row = s
        .query_one(
            "CALL ntt_backfill_mime(batch_size => 50, workers => 1)",
            &[],
        )
        .expect("runs");
    assert_eq!(
        row.get::<_, i64>("rows_updated"),
        inode::expected(&mut s).rows
    );
    inode::check_filled(&mut s, "inode");
    assert_eq!(s.run_counter(row.get("run_id"), "workers"), 1);
}

#[test]
fn settings_of_the_session_reach_the_workers() {
    let (_db, _store, mut s) = inode::archive("session_settings", 2, 30, 2);
    let other = Store::new();
    for blobid in s.column("SELECT blobid FROM truth") {
        other.put_as(&blobid, b"GIF89a\x01\0\x01\0\0\0\0;");
    }
    s.exec(&format!(
        "LOAD 'ntt_mime'; SET ntt_mime.blob_root = '{}'",
        other.root_str()
    ));
    inode::remember(&mut s, "inode");
    s.backfill("20");
    inode::check_filled(&mut s, "inode");
    assert_eq!(s.column("SELECT DISTINCT mime FROM truth"), ["image/gif"]);
}

/// What a run says about blobs whose type doesn't fit, after their number.
const TOO_LONG: &str = "too long a type for column \"mime_type\" | Their rows were left as they are. \
     | Change the column's type to text, or to varchar(255).";

/// SQLSTATE and text of the WARNINGs since the last call; and whether the run's last message refers to
/// `ntt_mime.failure`.
fn last_words(s: &mut Session) -> (Vec<String>, bool) {
    let notices = s.take_notices();
    let warnings = notices.iter().filter(|n| n.severity == "WARNING");
    let warnings = warnings
        .map(|n| format!("{} {}", n.sqlstate, n.words))
        .collect();
    let summary = notices.iter().rfind(|n| n.severity == "NOTICE");
    let summary = &summary.expect("a last word").words;
    assert!(summary.contains("succeeded: "), "{summary}");
    (warnings, summary.contains("ntt_mime.failure"))
}

#[test]
fn a_type_too_long_for_the_column_is_a_failure() {
    let (_db, store, mut s) = TestDb::with_store("narrow");
    // 15 characters, 9 and 17.
    let pdf = store.put(b"%PDF-1.4\n");
    let png = store.put(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x10\0\0\0\x10\x08\x06\0\0\0");
    let shell = store.put(b"#!/bin/sh\n");
    s.exec(&format!(
        "CREATE TABLE blob (blobid text PRIMARY KEY, mime_type varchar(15));
         INSERT INTO blob VALUES ('{pdf}'), ('{png}'), ('{shell}');
         CREATE TABLE wide AS TABLE blob; ALTER TABLE wide ALTER mime_type TYPE text"
    ));
    let outcome = s.backfill("target => 'blob'");
    assert_eq!(
        (outcome.blobs, outcome.rows_updated, outcome.failures),
        (3, 2, 1)
    );
    assert_eq!(
        s.run_row(outcome.run_id, "status, detections, failures, rows_left"),
        "succeeded|3|1|1"
    );
    assert_eq!(
        s.table(
            "SELECT blobid, mime_type FROM blob WHERE mime_type IS NOT NULL ORDER BY mime_type"
        ),
        [format!("{pdf}|application/pdf"), format!("{png}|image/png")]
    );
    // It is a failure of the column, not of the blob: runs on other targets must not skip it.
    assert_eq!(
        last_words(&mut s),
        (vec![format!("22001 1 blob has {TOO_LONG}")], false)
    );
    assert_eq!(s.count("SELECT count(*) FROM ntt_mime.failure"), 0);
    let outcome = s.backfill("target => 'wide'");
    assert_eq!((outcome.rows_updated, outcome.failures), (3, 0));
    assert_eq!(
        s.column(&format!(
            "SELECT mime_type FROM wide WHERE blobid = '{shell}'"
        )),
        ["text/x-shellscript"]
    );
    assert_eq!(last_words(&mut s), (vec![], false));
    // Once the column is wide enough, it goes in.
    s.exec("ALTER TABLE blob ALTER mime_type TYPE varchar(255)");
    assert_eq!(s.backfill("target => 'blob'").rows_updated, 1);
}

#[test]
fn types_too_long_for_the_column_are_told_apart_from_blobs_on_record() {
    let (_db, store, mut s) = TestDb::with_store("narrow_and_missing");
    let scripts = [b"#!/bin/sh\n" as &[u8], b"#!/bin/sh\necho\n"];
    let missing = blobid_of(scripts[1]);
    inode::load_source(
        &mut s,
        &[store.put(scripts[0]), missing.clone(), absent_blobid(1)],
    );
    s.exec("CREATE TABLE blob (blobid text, mime_type varchar(15)); INSERT INTO blob SELECT blobid FROM source");
    let outcome = s.backfill("target => 'blob'");
    assert_eq!((outcome.rows_updated, outcome.failures), (0, 3));
    assert_eq!(
        last_words(&mut s),
        (vec![format!("22001 1 blob has {TOO_LONG}")], true)
    );
    assert_eq!(
        s.table("SELECT reason, count(*) FROM ntt_mime.failure GROUP BY 1"),
        ["missing|2"]
    );
    // What was missing now exists, and its record is removed, whether its type fits or not.
    store.put(scripts[1]);
    let outcome = s.backfill("target => 'blob', retry_failed => true");
    assert_eq!((outcome.rows_updated, outcome.failures), (0, 3));
    assert_eq!(
        last_words(&mut s),
        (vec![format!("22001 2 blobs have {TOO_LONG}")], true)
    );
    assert_eq!(
        s.column("SELECT blobid FROM ntt_mime.failure"),
        [absent_blobid(1)]
    );
}

#[test]
fn triggers_see_ordinary_updates() {
    let (_db, _store, mut s) = inode::archive("triggers", 4, 100, 3);
    s.exec(
        "CREATE TABLE fired (name text, op text, n bigint);
         CREATE FUNCTION fire() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN
                 IF TG_LEVEL = 'ROW' THEN
                     ASSERT to_jsonb(OLD) - 'mime_type' = to_jsonb(NEW) - 'mime_type', 'another column differs';
                     ASSERT OLD.mime_type IS NULL AND NEW.mime_type IS NOT NULL, 'not a pending row';
                 END IF;
                 INSERT INTO public.fired VALUES (TG_NAME, TG_OP, 1);
                 RETURN NEW;
             END $$;
         CREATE FUNCTION fire_statement() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN
                 INSERT INTO public.fired SELECT TG_NAME, TG_OP, count(*) FROM new_rows;
                 RETURN NULL;
             END $$;
         CREATE TRIGGER row_any AFTER UPDATE ON inode FOR EACH ROW EXECUTE FUNCTION fire();
         CREATE TRIGGER row_mime BEFORE UPDATE OF mime_type ON inode FOR EACH ROW EXECUTE FUNCTION fire();
         CREATE TRIGGER row_blobid BEFORE UPDATE OF blobid ON inode FOR EACH ROW EXECUTE FUNCTION fire();
         CREATE TRIGGER row_key AFTER UPDATE OF medium_hash, ino ON inode FOR EACH ROW EXECUTE FUNCTION fire();
         CREATE TRIGGER row_insert AFTER INSERT OR DELETE ON inode FOR EACH ROW EXECUTE FUNCTION fire()",
    );
    for leaf in ["inode_m0", "inode_m1", "inode_m2", "inode_m3"] {
        s.exec(&format!(
            "CREATE TRIGGER statement_any AFTER UPDATE ON {leaf} REFERENCING NEW TABLE AS new_rows
                 FOR EACH STATEMENT EXECUTE FUNCTION fire_statement();
             CREATE TRIGGER statement_fs_type AFTER UPDATE OF fs_type ON {leaf}
                 FOR EACH STATEMENT EXECUTE FUNCTION fire();
             CREATE TRIGGER statement_mime AFTER UPDATE OF mime_type ON {leaf}
                 FOR EACH STATEMENT EXECUTE FUNCTION fire()"
        ));
    }
    let outcome = s.backfill("60");
    inode::check_filled(&mut s, "inode");
    check_counts(&mut s, &outcome);
    let fired = |s: &mut Session, name: &str| {
        s.count(&format!(
            "SELECT coalesce(sum(n), 0)::bigint FROM fired WHERE name = '{name}'"
        ))
    };
    for name in ["row_any", "row_mime", "statement_any"] {
        assert_eq!(fired(&mut s, name), outcome.rows_updated, "{name}");
    }
    assert!(fired(&mut s, "statement_mime") > 0);
    for name in ["row_blobid", "row_key", "row_insert", "statement_fs_type"] {
        assert_eq!(
            fired(&mut s, name),
            0,
            "{name} is bound to what isn't touched"
        );
    }
}

#[test]
fn a_trigger_may_change_other_columns_or_refuse_a_row() {
    let (_db, _store, mut s) = inode::archive("suppress", 2, 50, 2);
    // The user's own trigger sets processed_at, and suppresses updates of rows in one range of inodes.
    s.exec(
        "CREATE FUNCTION own() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN
                 IF NEW.ino BETWEEN 10 AND 19 THEN RETURN NULL; END IF;
                 NEW.claimed_by := 'by the trigger';
                 RETURN NEW;
             END $$;
         CREATE TRIGGER own BEFORE UPDATE ON inode FOR EACH ROW EXECUTE FUNCTION own()",
    );
    let refused = s.count("SELECT count(*) FROM inode WHERE blobid IS NOT NULL AND mime_type IS NULL AND ino BETWEEN 10 AND 19");
    assert!(refused > 0);
    let expected = inode::expected(&mut s);
    let outcome = s.backfill("20");
    assert_eq!(outcome.rows_updated, expected.rows - refused);
    assert_eq!(inode::pending(&mut s, "inode"), refused);
    assert_eq!(s.run_counter(outcome.run_id, "rows_left"), refused);
    assert_eq!(
        s.count("SELECT count(*) FROM inode WHERE claimed_by = 'by the trigger'"),
        outcome.rows_updated
    );
}

/// A trigger function body that runs `statement` for PDF files.
fn pdf_trigger(statement: &str) -> String {
    format!(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN
                 IF NEW.mime_type = 'application/pdf' THEN
                     {statement};
                 END IF;
                 RETURN NEW;
             END $$;
         CREATE TRIGGER refuse BEFORE UPDATE ON blob FOR EACH ROW EXECUTE FUNCTION refuse()"
    )
}

/// A plain table `blob` of 300 scripts and, last, so that batches before it are committed, a PDF file.
fn pdf_last(name: &str, statement: &str) -> (TestDb<'static>, Store, Session) {
    let (db, store, mut s) = TestDb::with_store(name);
    let mut blobids: Vec<String> = (0..300)
        .map(|i| store.put(format!("#!/bin/sh\necho {i}\n").as_bytes()))
        .collect();
    blobids.push(store.put(b"%PDF-1.4\n"));
    inode::plain(&mut s, &blobids);
    s.exec(statement);
    inode::remember(&mut s, "blob");
    (db, store, s)
}

/// An error that `statement` raises for the PDF file's row ends the run, with its SQLSTATE and text; and the error
/// says where it occurred.
fn ends_the_run(name: &str, statement: &str, sqlstate: &str, word: &str) -> DbError {
    let (db, _store, mut s) = pdf_last(name, statement);
    let call = "25, workers => 1, target => 'blob'";
    let error = assert_error(s.call(call), sqlstate, word);
    let context = error.where_().unwrap_or_default();
    for line in ["filling leaf public.blob", "ntt_mime worker 1 of run 1"] {
        assert!(
            context.lines().any(|l| l == line),
            "{line} isn't in: {context}"
        );
    }
    db.wait_for_no_workers(Duration::from_secs(5));
    assert_eq!(
        inode::check_partly_filled(&mut s, "blob"),
        300,
        "committed batches stay"
    );
    let row =
        s.table("SELECT status, finished_at IS NOT NULL, rows_updated, error FROM ntt_mime.run");
    assert_eq!(row.len(), 1);
    assert!(row[0].starts_with("failed|t|300|"), "{row:?}");
    assert!(row[0].contains(word), "{row:?}");
    assert_eq!(s.count("SELECT count(*) FROM ntt_mime.progress"), 0);
    // The session is usable, and the lock is released: the next run meets the same error, not 55006.
    assert_error(s.call(call), sqlstate, word);
    error
}

/// The error came out of the function of [`pdf_trigger`].
#[track_caller]
fn assert_from_trigger(error: &DbError) {
    let context = error.where_().unwrap_or_default();
    assert!(context.contains("PL/pgSQL function refuse()"), "{context}");
}

#[test]
fn a_violated_constraint_ends_the_run() {
    let statement = "ALTER TABLE blob ADD CONSTRAINT no_pdf CHECK (mime_type <> 'application/pdf')";
    ends_the_run("check", statement, "23514", "no_pdf");
}

#[test]
fn a_users_own_error_ends_the_run_with_its_code() {
    let statement = pdf_trigger("RAISE 'no PDF here' USING ERRCODE = 'NTT42'");
    let error = ends_the_run("raise", &statement, "NTT42", "no PDF here");
    assert_eq!(error.message(), "no PDF here");
    assert_from_trigger(&error);
}

#[test]
fn an_error_like_that_of_a_dropped_leaf_ends_the_run_too() {
    let statement = pdf_trigger("INSERT INTO no_such_table VALUES (1)");
    let error = ends_the_run("gone", &statement, "42P01", "no_such_table");
    assert_from_trigger(&error);
}

#[test]
fn a_trigger_that_always_asks_to_try_again_does_not_go_on_for_ever() {
    let statement = pdf_trigger("RAISE 'try again' USING ERRCODE = 'serialization_failure'");
    let (db, _store, mut s) = pdf_last("again", &statement);
    let outcome = s.backfill("25, workers => 1, target => 'blob'");
    assert_eq!(
        inode::check_partly_filled(&mut s, "blob"),
        300,
        "the others are filled"
    );
    // The leaf is left like a locked one.
    assert_eq!(
        s.run_row(
            outcome.run_id,
            "status, rows_updated, rows_left, leaves_done, leaves_total"
        ),
        "succeeded|300|1|0|1"
    );
    db.wait_for_no_workers(Duration::from_secs(5));
}

#[test]
fn two_targets_at_once() {
    let (db, _store, mut s) = inode::archive("two", 4, 300, 2);
    s.exec("CREATE TABLE blob AS SELECT DISTINCT blobid, NULL::text AS mime_type FROM source");
    let mut first = db.connect();
    // A long run, which is cancelled.
    first.exec("SET ntt_mime.batch_delay = '1min'");
    let first = first.call_in_background("20");
    s.wait_for_run();
    let outcome = s.backfill("1000, workers => 1, target => 'blob'");
    assert_eq!(outcome.rows_updated, 300);
    assert!(!first.is_finished());
    first.cancel();
    assert_error(first.finish().1, "57014", "");
    s.backfill("1000");
    inode::check_filled(&mut s, "inode");
}

#[test]
fn old_runs_go_away() {
    let (_db, _store, mut s) = inode::archive("run_log", 2, 10, 1);
    // Of several runs that find nothing to do, only the last would be kept.
    let run = |s: &mut Session| {
        s.exec("UPDATE inode SET mime_type = NULL WHERE blobid IS NOT NULL");
        s.backfill("")
    };
    let (old, recent) = (run(&mut s), run(&mut s));
    s.exec(&format!(
        "UPDATE ntt_mime.run SET started_at = started_at - interval '91 days', finished_at = finished_at - interval '91 days'
          WHERE run_id = {}",
        old.run_id
    ));
    let last = run(&mut s);
    let left = s.column("SELECT run_id FROM ntt_mime.run ORDER BY 1");
    assert_eq!(left, [recent.run_id.to_string(), last.run_id.to_string()]);
    s.exec(&format!(
        "UPDATE ntt_mime.run SET started_at = started_at - interval '2 days', finished_at = finished_at - interval '2 days'
          WHERE run_id = {};
         SET ntt_mime.run_history = '1d'",
        recent.run_id
    ));
    let only = run(&mut s);
    let left = s.column("SELECT run_id FROM ntt_mime.run ORDER BY 1");
    assert_eq!(left, [last.run_id.to_string(), only.run_id.to_string()]);
}

#[test]
fn rows_of_one_blob_with_different_widths_of_columns() {
    // A domain and a varchar also count as text, and columns may have other positions, or have been dropped before.
    let (_db, store, mut s) = TestDb::with_store("columns");
    s.exec(
        "CREATE TABLE t (gone int, mime_type varchar, key int, blobid varchar(64)) PARTITION BY LIST (key);
         ALTER TABLE t DROP COLUMN gone;
         CREATE TABLE t1 (blobid varchar(64), junk text, key int, mime_type varchar);
         ALTER TABLE t1 DROP COLUMN junk;
         ALTER TABLE t ATTACH PARTITION t1 FOR VALUES IN (1);
         CREATE TABLE t2 PARTITION OF t DEFAULT",
    );
    inode::load_source(&mut s, &store.put_synthetic(30));
    s.exec("INSERT INTO t (key, blobid) SELECT k, blobid FROM source, generate_series(1, 3) k");
    inode::remember(&mut s, "t");
    let outcome = s.backfill("20, target => 't'");
    inode::check_filled(&mut s, "t");
    assert_eq!(outcome.rows_updated, 90);
}
