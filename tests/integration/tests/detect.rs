//! The functions that detect: `ntt_detect_mime`, `ntt_inspect_blob`, `ntt_mime_version`, compared with file(1), for
//! valid and invalid blobids, serially and in parallel queries. Obstacles in a store are tested in `paths`.

use std::fs;
use std::path::{Path, PathBuf};

use ntt_mime_integration::cluster::SUPERUSER;
use ntt_mime_integration::store::{absent_blobid, blobid_of};
use ntt_mime_integration::{
    Cluster, Session, Store, TestDb, assert_error, assert_same_rows, corpus, inode, judge,
    parallel, scratch,
};

/// A session in a new database over the shared corpus, whose blobids are in `source`.
fn corpus_session(name: &str) -> (TestDb<'static>, Session) {
    let db = TestDb::new(name);
    db.use_store(&corpus().store);
    let mut s = db.connect();
    inode::load_source(&mut s, &corpus().blobids());
    (db, s)
}

fn detect(s: &mut Session, blobid: &str) -> Option<String> {
    s.query_one("SELECT ntt_detect_mime($1::text)", &[&blobid])
        .expect("detects")
        .get(0)
}

/// Status and type as returned by `ntt_inspect_blob`.
fn inspect(s: &mut Session, blobid: &str) -> (String, Option<String>) {
    let row = s
        .query_one(
            "SELECT status, mime_type FROM ntt_inspect_blob($1)",
            &[&blobid],
        )
        .expect("never raises");
    (row.get(0), row.get(1))
}

/// Invalid blobids, each with a word from its error.
fn malformed() -> Vec<(&'static str, String)> {
    let good = blobid_of(b"good");
    vec![
        ("upper case", good.to_uppercase()),
        ("one upper-case digit", format!("{}A", &good[..63])),
        ("63 digits", good[..63].to_owned()),
        ("65 digits", format!("{good}0")),
        ("not a hex digit", format!("{}g", &good[..63])),
        ("empty", String::new()),
        ("blank before", format!(" {}", &good[..63])),
        ("blank after", format!("{good} ")),
        ("newline after", format!("{good}\n")),
        ("control character", format!("{}\u{1}", &good[..63])),
        ("delete character", format!("{}\u{7f}", &good[..63])),
        ("slashes", format!("{}/{}", &good[..31], &good[..32])),
        ("dot dot", "../".repeat(21) + "e"),
        ("absolute path", format!("/etc/passwd{}", &good[..53])),
        ("a percent sign", format!("%s{}", &good[..62])),
        (
            "64 bytes with a multi-byte character",
            format!("{}é", &good[..62]),
        ),
        (
            "64 characters, one of them multi-byte",
            format!("{}é", &good[..63]),
        ),
        ("full-width digits", "\u{ff10}".repeat(64)),
        ("1 MB", "a".repeat(1 << 20)),
    ]
}

#[test]
fn agrees_with_file() {
    let (_db, mut s) = corpus_session("agrees");
    let rows = s
        .query("SELECT blobid, ntt_detect_mime(blobid) FROM source", &[])
        .expect("detects");
    let answers: std::collections::HashMap<String, Option<String>> =
        rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let differing: Vec<String> = corpus()
        .blobs
        .iter()
        .filter(|blob| answers[&blob.blobid].as_ref() != Some(&blob.file_mime))
        .map(|blob| {
            format!(
                "{}: {:?}, file(1): {}",
                blob.origin.display(),
                answers[&blob.blobid],
                blob.file_mime
            )
        })
        .collect();
    assert!(
        differing.is_empty(),
        "{} of {} differ from file(1): {differing:#?}",
        differing.len(),
        corpus().blobs.len()
    );
    let types: std::collections::HashSet<&str> = corpus()
        .blobs
        .iter()
        .map(|b| b.file_mime.as_str())
        .collect();
    assert!(
        types.len() >= 40,
        "the corpus is too uniform to say much: {types:?}"
    );
    assert!(s.take_notices().is_empty());
}

#[test]
fn bytes_in_hand_give_the_same_answer() {
    let (_db, mut s) = corpus_session("bytea");
    let differing = s.table(
        "SELECT path, ntt_detect_mime(blobid) AS stored, ntt_detect_mime(pg_read_binary_file(path)) AS in_hand
           FROM source, LATERAL ntt_inspect_blob(blobid)
          WHERE ntt_detect_mime(blobid) IS DISTINCT FROM ntt_detect_mime(pg_read_binary_file(path))",
    );
    let named: Vec<String> = differing
        .iter()
        .map(|line| {
            let origin = corpus()
                .blobs
                .iter()
                .find(|b| line.contains(&b.blobid))
                .map(|b| b.origin.display());
            format!("{line} ({})", origin.expect("of the corpus"))
        })
        .collect();
    assert!(named.is_empty(), "{} differ: {named:#?}", named.len());
}

#[test]
fn inspect_explains_the_answer() {
    let (_db, mut s) = corpus_session("inspect");
    let wrong = s.table(
        "SELECT blobid, i.* FROM source, LATERAL ntt_inspect_blob(blobid) i
          WHERE i.status <> 'ok' OR i.mime_type IS DISTINCT FROM ntt_detect_mime(blobid)
             OR i.size IS DISTINCT FROM (pg_stat_file(i.path)).size OR i.bytes_read < 0
             OR (i.size > 0 AND i.bytes_read = 0)",
    );
    assert!(wrong.is_empty(), "{wrong:#?}");
    let blob = &corpus().blobs[0];
    let path: String = s.value(&format!(
        "SELECT path FROM ntt_inspect_blob('{}')",
        blob.blobid
    ));
    assert_eq!(std::path::Path::new(&path), blob.path);
}

/// The types of all blobs of the corpus under the session's settings, and how many bytes of them are read.
fn answers_and_bytes(s: &mut Session) -> (Vec<String>, i64) {
    s.exec(
        "DROP TABLE IF EXISTS inspected;
         CREATE TABLE inspected AS SELECT i.* FROM source, LATERAL ntt_inspect_blob(blobid) i",
    );
    let answers = s.table("SELECT path, status, mime_type FROM inspected ORDER BY path");
    let bytes = s.count("SELECT sum(bytes_read)::bigint FROM inspected");
    (answers, bytes)
}

#[test]
fn a_longer_first_look_reads_more_and_changes_no_answer() {
    let (_db, mut s) = corpus_session("head_bytes");
    let (usual, bytes) = answers_and_bytes(&mut s);
    s.exec("SET ntt_mime.head_bytes = '64kB'");
    let (answers, more_bytes) = answers_and_bytes(&mut s);
    assert_same_rows(&answers, &usual, "64 kB");
    // A smaller head may cost answers (docs/accuracy.md), and saves bytes.
    s.exec("SET ntt_mime.head_bytes = '4kB'");
    let (_, fewer_bytes) = answers_and_bytes(&mut s);
    assert!(
        fewer_bytes < bytes && bytes < more_bytes,
        "{fewer_bytes}, {bytes}, {more_bytes} bytes"
    );
}

#[test]
fn the_prefilter_changes_no_answer() {
    let (_db, mut s) = corpus_session("prefilter");
    let usual = answers_and_bytes(&mut s);
    s.exec("SET ntt_mime.prefilter = off");
    assert!(!s.value::<bool>("SELECT prefilter FROM ntt_mime_version()"));
    assert_same_rows(&answers_and_bytes(&mut s).0, &usual.0, "prefilter off");
}

#[test]
fn empty_files_are_x_empty() {
    let (_db, store, mut s) = TestDb::with_store("empty");
    let blobid = store.put(b"");
    assert_eq!(
        detect(&mut s, &blobid).as_deref(),
        Some("application/x-empty")
    );
    assert_eq!(
        s.value::<Option<String>>("SELECT ntt_detect_mime(''::bytea)")
            .as_deref(),
        Some("application/x-empty")
    );
    assert_eq!(
        inspect(&mut s, &blobid),
        ("ok".into(), Some("application/x-empty".into()))
    );
    assert_eq!(
        s.table(&format!(
            "SELECT size, bytes_read, detail FROM ntt_inspect_blob('{blobid}')"
        )),
        ["0|0|empty"]
    );
}

#[test]
fn null_gives_null() {
    let (_db, _store, mut s) = TestDb::with_store("null");
    assert_eq!(
        s.value::<Option<String>>("SELECT ntt_detect_mime(NULL::text)"),
        None
    );
    assert_eq!(
        s.value::<Option<String>>("SELECT ntt_detect_mime(NULL::bytea)"),
        None
    );
    assert!(s.take_notices().is_empty());
}

#[test]
fn malformed_blobids_are_errors() {
    let (_db, _store, mut s) = TestDb::with_store("malformed");
    for (word, blobid) in malformed() {
        println!("{word}");
        let error = assert_error(
            s.query("SELECT ntt_detect_mime($1::text)", &[&blobid]),
            "22023",
            "64",
        );
        let length = ntt_mime_integration::errors::words(&error).len();
        assert!(length < 1000, "{word}: a message of {length} bytes");
    }
}

#[test]
fn inspect_never_raises() {
    let (_db, store, mut s) = TestDb::with_store("inspect_bad");
    for (word, blobid) in malformed() {
        assert_eq!(inspect(&mut s, &blobid), ("invalid".into(), None), "{word}");
        let detail: Option<String> = s
            .query_one("SELECT detail FROM ntt_inspect_blob($1)", &[&blobid])
            .expect("never raises")
            .get(0);
        let detail = detail.unwrap_or_else(|| panic!("{word}: no detail"));
        assert!(
            !detail.is_empty() && detail.len() < 1000,
            "{word}: a detail of {} bytes",
            detail.len()
        );
    }
    assert_eq!(inspect(&mut s, &absent_blobid(1)), ("missing".into(), None));
    let unreadable = store.put_unreadable(b"secret");
    assert_eq!(inspect(&mut s, &unreadable), ("unreadable".into(), None));
    let detail: String = s.value(&format!(
        "SELECT detail FROM ntt_inspect_blob('{unreadable}')"
    ));
    assert!(
        detail.contains("Permission denied"),
        "the system's own words: {detail}"
    );
    let folder = absent_blobid(2);
    std::fs::create_dir(store.place(&folder)).expect("store");
    assert_eq!(inspect(&mut s, &folder), ("not_a_file".into(), None));
    assert!(s.take_notices().is_empty(), "it explains in its columns");
}

#[test]
fn missing_blobs_warn_once_a_statement() {
    let (_db, store, mut s) = TestDb::with_store("missing");
    let good = store.put(b"#!/bin/sh\n");
    let mut blobids: Vec<String> = (0..200).map(absent_blobid).collect();
    blobids.extend((0..3).map(|i| store.put_unreadable(format!("secret {i}").as_bytes())));
    blobids.push(good.clone());
    inode::load_source(&mut s, &blobids);
    s.exec("SET max_parallel_workers_per_gather = 0");
    s.take_notices();
    for round in 0..2 {
        let found = s.table("SELECT blobid, m FROM (SELECT blobid, ntt_detect_mime(blobid) m FROM source) d WHERE m <> ''");
        assert_eq!(found, [format!("{good}|text/x-shellscript")]);
        let warnings = s.take_warnings();
        assert_eq!(
            warnings.len(),
            2,
            "round {round}: one a reason: {warnings:#?}"
        );
        assert!(
            warnings.iter().any(|w| w.contains("Permission denied")),
            "{warnings:#?}"
        );
    }
}

#[test]
fn roots_are_tried_in_order() {
    let db = TestDb::new("roots");
    let (first, second) = (Store::new(), Store::new());
    let both = first.put(b"#!/bin/sh\n");
    second.put_as(&both, b"%PDF-1.4\n");
    let only_second = second.put(b"%PDF-1.5\n");
    let mut s = db.connect();
    s.exec("LOAD 'ntt_mime'");
    let set = |s: &mut Session, roots: &str| s.exec(&format!("SET ntt_mime.blob_root = '{roots}'"));

    set(
        &mut s,
        &format!("{}:{}", first.root_str(), second.root_str()),
    );
    assert_eq!(detect(&mut s, &both).as_deref(), Some("text/x-shellscript"));
    assert_eq!(
        detect(&mut s, &only_second).as_deref(),
        Some("application/pdf")
    );
    // A change within the session takes effect.
    set(
        &mut s,
        &format!("{}:{}", second.root_str(), first.root_str()),
    );
    assert_eq!(detect(&mut s, &both).as_deref(), Some("application/pdf"));
    set(&mut s, first.root_str());
    assert_eq!(detect(&mut s, &only_second), None);
    assert_eq!(inspect(&mut s, &only_second).0, "missing");
}

#[test]
fn a_blob_that_appears_later_is_found() {
    let (_db, store, mut s) = TestDb::with_store("later");
    let content = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x10\0\0\0\x10\x08\x06\0\0\0";
    let blobid = blobid_of(content);
    assert_eq!(detect(&mut s, &blobid), None);
    store.put(content);
    assert_eq!(detect(&mut s, &blobid).as_deref(), Some("image/png"));
    store.remove(&blobid);
    assert_eq!(detect(&mut s, &blobid), None);
}

/// What a session's backend has open in a directory, including the directory.
fn open_in(s: &Session, folder: &Path) -> Vec<PathBuf> {
    let folder = fs::canonicalize(folder).expect("it is there");
    fs::read_dir(format!("/proc/{}/fd", s.pid))
        .expect("the backend lives, and is ours to look at")
        .filter_map(|entry| fs::read_link(entry.expect("readable").path()).ok())
        .filter(|path| path.starts_with(&folder))
        .collect()
}

#[test]
fn an_idle_session_keeps_nothing_of_the_store_open() {
    let (_db, store, mut s) = TestDb::with_store("idle");
    let blobid = store.put(b"#!/bin/sh\n");
    let detect = format!("SELECT ntt_detect_mime('{blobid}'::text)");
    let nothing = Vec::<PathBuf>::new();
    s.exec(&detect);
    assert_eq!(open_in(&s, store.root()), nothing, "after a statement");

    let inspect = format!("SELECT * FROM ntt_inspect_blob('{blobid}')");
    s.exec(&inspect);
    assert_eq!(open_in(&s, store.root()), nothing, "after another function");

    // After the blob has been judged, the statement fails.
    let failing =
        format!("SELECT 1 / (length(found) - length(found)) FROM ({detect} OFFSET 0) d (found)");
    assert_error(s.batch_execute(&failing), "22012", "division by zero");
    // The error is sent before its transaction ends; the session is idle again before it takes another statement.
    s.exec("SELECT 1");
    assert_eq!(open_in(&s, store.root()), nothing, "after an error");

    for end in ["COMMIT", "ROLLBACK"] {
        s.exec("BEGIN");
        s.exec(&detect);
        assert_ne!(
            open_in(&s, store.root()),
            nothing,
            "what is kept for the transaction can be seen here"
        );
        s.exec(end);
        assert_eq!(open_in(&s, store.root()), nothing, "after {end}");
    }
}

#[test]
fn parallel_queries_give_the_serial_answers() {
    let (_db, mut s) = corpus_session("parallel");
    s.exec("SET max_parallel_workers_per_gather = 0");
    let answers = "SELECT blobid, ntt_detect_mime(blobid) FROM source";
    let ordered = format!("SELECT * FROM ({answers}) a ORDER BY 1");
    let serial = s.table(&ordered);
    parallel::force(&mut s);
    parallel::assert_parallel(&mut s, answers, "ntt_detect_mime");
    assert_same_rows(&s.table(&ordered), &serial, "in parallel");
}

#[test]
fn read_only_transactions_may_detect() {
    let (_db, mut s) = corpus_session("read_only");
    let blob = &corpus().blobs[0];
    s.exec("BEGIN READ ONLY");
    assert_eq!(
        detect(&mut s, &blob.blobid).as_deref(),
        Some(blob.file_mime.as_str())
    );
    let assigned: bool = s.value("SELECT pg_current_xact_id_if_assigned() IS NOT NULL");
    assert!(!assigned, "detecting took a transaction id");
    s.exec("COMMIT");
}

#[test]
fn functions_are_marked_as_the_contract_says() {
    let db = TestDb::new("marks");
    let marks = db.connect().table(
        "SELECT p.oid::regprocedure, pg_get_function_result(p.oid), provolatile, proisstrict, proparallel, prokind
           FROM pg_proc p JOIN pg_namespace n ON n.oid = pronamespace
          WHERE nspname = 'public' AND proname IN ('ntt_detect_mime', 'ntt_inspect_blob', 'ntt_mime_version',
                                                   'ntt_cancel_backfill')
          ORDER BY p.oid::regprocedure::text",
    );
    let signature = |name: &str| {
        let mut found = marks.iter().filter(|line| line.starts_with(name));
        found
            .next()
            .unwrap_or_else(|| panic!("{name} is not in {marks:#?}"))
            .as_str()
    };
    assert_eq!(
        signature("ntt_detect_mime(text)"),
        "ntt_detect_mime(text)|text|s|t|s|f"
    );
    assert_eq!(
        signature("ntt_detect_mime(bytea)"),
        "ntt_detect_mime(bytea)|text|s|t|s|f"
    );
    let columns = |sql: &str| -> Vec<String> {
        let statement = db.connect().prepare(sql).expect("valid");
        statement
            .columns()
            .iter()
            .map(|c| format!("{} {}", c.name(), c.type_()))
            .collect()
    };
    assert_eq!(
        columns("SELECT * FROM ntt_inspect_blob('x')"),
        [
            "path text",
            "status text",
            "mime_type text",
            "size int8",
            "bytes_read int8",
            "detail text"
        ]
    );
    assert_eq!(
        columns("SELECT * FROM ntt_mime_version()"),
        [
            "extension text",
            "libmagic text",
            "magic_database text",
            "magic_entries int4",
            "prefilter bool",
            "warnings _text",
        ]
    );
    assert!(
        signature("ntt_cancel_backfill(bigint)")
            .starts_with("ntt_cancel_backfill(bigint)|boolean|v|")
    );
    assert_eq!(marks.len(), 5);
}

#[test]
fn version_names_what_detects() {
    let db = TestDb::new("version");
    let mut s = db.connect();
    let row = s
        .query_one(
            "SELECT extension, libmagic, magic_database, magic_entries, prefilter, warnings, extversion
               FROM ntt_mime_version(), pg_extension WHERE extname = 'ntt_mime'",
            &[],
        )
        .expect("one row");
    assert_eq!(
        row.get::<_, String>("extension"),
        row.get::<_, String>("extversion")
    );
    assert_eq!(row.get::<_, String>("libmagic"), judge::libmagic_release());
    assert!(!row.get::<_, String>("magic_database").is_empty());
    assert!(
        row.get::<_, i32>("magic_entries") > 1000,
        "libmagic 5.44 has thousands of rules"
    );
    assert!(row.get::<_, bool>("prefilter"));
    let warnings: Vec<String> = row.get("warnings");
    assert_eq!(warnings, Vec::<String>::new());
    assert_eq!(s.take_warnings(), Vec::<String>::new());
    s.exec("SET ntt_mime.prefilter = off");
    assert!(!s.value::<bool>("SELECT prefilter FROM ntt_mime_version()"));
}

#[test]
fn a_libmagic_that_fails_its_self_check_is_told_of_once_a_backend() {
    let folder = scratch::folder("poor_magic");
    let magic = folder.join("magic");
    let rules = "0\tstring\t%PDF\tnot really\n!:mime\ttext/x-not-pdf\n";
    fs::write(&magic, rules).expect("scratch folder");
    let cluster = Cluster::start_in(&[("MAGIC", magic.to_str().expect("plain"))], &[]);
    let store = Store::new();
    let blobid = store.put(b"%PDF-1.4\n");
    let mut s = cluster.connect("postgres", SUPERUSER);
    s.exec("CREATE EXTENSION ntt_mime");
    s.exec(&format!("SET ntt_mime.blob_root = '{}'", store.root_str()));
    s.exec("CREATE TABLE inode (blobid text, mime_type text)");
    s.exec(&format!("INSERT INTO inode VALUES ('{blobid}')"));
    assert_eq!(s.take_warnings(), Vec::<String>::new());

    let release = judge::libmagic_release();
    assert_eq!(
        detect(&mut s, &blobid).as_deref(),
        Some("text/x-not-pdf"),
        "it goes by the database that the server names"
    );
    let said = format!("libmagic {release} gives wrong types for known files");
    let once = |warnings: Vec<String>| {
        assert!(
            matches!(warnings.as_slice(), [only] if only.starts_with(&said)),
            "{warnings:#?}"
        );
    };
    once(s.take_warnings());
    // Not again in this backend, in whatever way; but it can be queried.
    detect(&mut s, &blobid);
    let outcome = s.backfill("workers => 1");
    assert_eq!(outcome.rows_updated, 1);
    assert_eq!(s.take_warnings(), Vec::<String>::new());
    let warnings: Vec<String> = s.value("SELECT warnings FROM ntt_mime_version()");
    let expected = format!(
        "libmagic {release} takes a PDF document for \"text/x-not-pdf\" instead of \"application/pdf\"."
    );
    assert!(warnings.contains(&expected), "{warnings:#?}");
    // Rules as text have no version by which the prefilter could recognize them.
    let (about_prefilter, about_answers): (Vec<_>, Vec<_>) = warnings
        .iter()
        .partition(|warning| warning.starts_with("The prefilter is not active: "));
    assert_eq!(about_prefilter.len(), 1, "{warnings:#?}");
    assert!(
        about_answers
            .iter()
            .all(|warning| warning.contains(&release))
    );
    let recorded: String = s.value("SELECT libmagic FROM ntt_mime.run");
    assert_eq!(recorded, release);

    // The worker is a backend too, and can only write to the log.
    let said_by_worker = format!("ntt_mime worker: WARNING:  {said}");
    let log = cluster.log();
    assert!(log.contains(&said_by_worker), "{log}");
    let mut other = cluster.connect("postgres", SUPERUSER);
    other.exec("SELECT ntt_detect_mime('%PDF'::bytea)");
    once(other.take_warnings());
}

#[test]
fn a_session_cannot_smuggle_in_a_root() {
    let (db, store, mut s) = TestDb::with_store("smuggle");
    let role = db.role("analyst", "LOGIN IN ROLE pg_read_server_files");
    let other = Store::new();
    let blobid = other.put(b"%PDF-1.4\n");
    let in_store = store.put(b"#!/bin/sh\n");
    assert_eq!(detect(&mut s, &blobid), None);
    // Before the library is loaded its settings are placeholders, which anybody may set.
    let mut analyst = db.connect_as(&role);
    analyst.exec(&format!("SET ntt_mime.blob_root = '{}'", other.root_str()));
    assert_eq!(detect(&mut analyst, &blobid), None);
    assert_eq!(
        detect(&mut analyst, &in_store).as_deref(),
        Some("text/x-shellscript")
    );
    let refused =
        analyst.batch_execute(&format!("SET ntt_mime.blob_root = '{}'", other.root_str()));
    assert_error(refused, "42501", "ntt_mime.blob_root");
}
