//! Databases that aren't in UTF-8, with names, paths and errors that hold other characters.
//!
//! What a run makes SQL of, and what it records, is converted; errors are escaped (src/pg/encoding.rs).

use std::os::unix::fs::symlink;

use ntt_mime_integration::cluster::{SUPERUSER, run_script};
use ntt_mime_integration::session::describe;
use ntt_mime_integration::{Cluster, Session, Store, TestDb, assert_error, inode};

/// A database in LATIN1 with the extension.
fn latin1_database(name: &str) -> TestDb<'static> {
    database(name, "LATIN1")
}

/// One in any encoding.
fn database(name: &str, encoding: &str) -> TestDb<'static> {
    let cluster = Cluster::shared();
    let db = TestDb::empty(cluster, name);
    let mut dba = cluster.connect("postgres", SUPERUSER);
    dba.exec(&format!("DROP DATABASE {}", db.name));
    dba.exec(&format!(
        "CREATE DATABASE {} TEMPLATE template0 ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'",
        db.name
    ));
    db.connect().exec("CREATE EXTENSION ntt_mime");
    db
}

/// The same with a target `"Größe"` of 20 blobs, and a session in it. The root of its
/// store has a name with an umlaut.
fn latin1(name: &str) -> (TestDb<'static>, Store, Session) {
    let db = latin1_database(name);
    let store = Store::new();
    let blobids = store.put_synthetic(20);
    // Whatever the encoding of the database, names on the disk are taken to be in UTF-8.
    symlink(store.root(), store.root().join("ärchiv")).expect("a link");
    db.set_blob_root(&format!("{}/ärchiv", store.root_str()));
    let mut s = db.connect();
    inode::load_source(&mut s, &blobids);
    s.exec(
        r#"CREATE TABLE "Größe" (blobid text, mime_type text);
           INSERT INTO "Größe" SELECT blobid FROM source;
           ALTER TABLE "Größe" ADD PRIMARY KEY (blobid)"#,
    );
    (db, store, s)
}

#[test]
fn names_in_a_database_of_another_encoding() {
    let db = latin1_database("latin1");
    let store = Store::new();
    db.use_store(&store);
    let mut s = db.connect();
    inode::load_source(&mut s, &store.put_synthetic(20));
    s.exec(
        r#"CREATE SCHEMA "Größe";
           CREATE TABLE "Größe"."Café" (number int, blobid text, mime_type text) PARTITION BY LIST (number);
           CREATE TABLE "Größe"."Café ½" PARTITION OF "Größe"."Café" DEFAULT;
           INSERT INTO "Größe"."Café" SELECT n, blobid FROM source;
           INSERT INTO "Größe"."Café" VALUES (100, 'kein Blob: ß')"#,
    );
    assert_eq!(
        s.table("SELECT status FROM ntt_inspect_blob('kein Blob: ß')"),
        ["invalid"]
    );
    assert_error(
        s.query("SELECT ntt_detect_mime('kein Blob: ß'::text)", &[]),
        "22023",
        "invalid blobid",
    );
    inode::remember(&mut s, r#""Größe"."Café""#);
    let outcome = s
        .call(r#"7, target => '"Größe"."Café"'"#)
        .unwrap_or_else(|e| panic!("{}", describe(&e)));
    assert_eq!((outcome.rows_updated, outcome.failures), (20, 1));
    inode::check_filled(&mut s, r#""Größe"."Café""#);
    s.exec(r#"SET ntt_mime.target = '"Größe"."Café"'"#);
    assert_eq!(s.backfill("7").rows_updated, 0);
    assert_eq!(
        s.column("SELECT DISTINCT target FROM ntt_mime.run"),
        [r#""Größe"."Café""#]
    );
    assert_eq!(
        s.table("SELECT blobid, reason, attempts FROM ntt_mime.failure"),
        ["kein Blob: ß|invalid|1"]
    );
    assert_eq!(
        s.count(r#"SELECT count(*) FROM ntt_mime.failure JOIN "Größe"."Café" USING (blobid)"#),
        1
    );
    // It is found again under that key, and goes away with it.
    let retried = s.backfill("7, retry_failed => true");
    assert_eq!((retried.rows_updated, retried.failures), (0, 1));
    assert_eq!(s.column("SELECT attempts FROM ntt_mime.failure"), ["2"]);
}

#[test]
fn a_client_of_another_encoding_runs_a_backfill() {
    let (db, _store, mut s) = latin1("latin1_client");
    inode::remember(&mut s, r#""Größe""#);
    let mut psql = db.cluster.client("psql", &db.name);
    run_script(
        psql.env("PGCLIENTENCODING", "LATIN1"),
        b"CALL ntt_backfill_mime(7, target => '\"Gr\xf6\xdfe\"');",
    );
    inode::check_filled(&mut s, r#""Größe""#);
    assert_eq!(
        s.column("SELECT options->>'blob_root' LIKE '%/ärchiv' FROM ntt_mime.run"),
        ["t"]
    );
}

#[test]
fn an_error_of_other_characters_is_recorded_and_told() {
    let (_db, _store, mut s) = latin1("latin1_error");
    s.exec(
        r#"CREATE FUNCTION verbieten() RETURNS trigger LANGUAGE plpgsql AS
               $$BEGIN RAISE EXCEPTION 'verboten für %', tg_relid::regclass USING ERRCODE = 'NTT01'; END$$;
           CREATE TRIGGER verbieten BEFORE UPDATE ON "Größe" FOR EACH ROW EXECUTE FUNCTION verbieten()"#,
    );
    // What PostgreSQL tells in the database's encoding can't be converted where no catalog may be read.
    let error = assert_error(s.call(r#"target => '"Größe"'"#), "NTT01", "verboten f");
    let context = error.where_().expect("a context");
    assert!(context.contains("verbieten()"), "{context}");
    assert!(
        context.contains(r#"filling leaf public."Gr\u{f6}\u{df}e""#),
        "{context}"
    );
    let row = s.run_row(1, "status, error");
    assert!(row.starts_with("failed|NTT01: verboten f"), "{row}");
}

#[test]
fn a_role_of_other_characters_cancels_its_own_run() {
    let (db, _store, mut s) = latin1("latin1_role");
    let role = format!("\"{}\"", db.role("runner", "LOGIN"));
    let name = role.replace("runner", "jörg");
    s.exec(&format!(
        r#"ALTER ROLE {role} RENAME TO {name};
           GRANT SELECT, UPDATE ON "Größe" TO {name}; GRANT EXECUTE ON PROCEDURE ntt_backfill_mime TO {name};
           GRANT EXECUTE ON FUNCTION ntt_cancel_backfill TO {name}"#
    ));
    // A session's name of its role is sent as UTF-8, so it takes it on instead of logging in as it.
    let mut session = db.connect();
    session.exec(&format!(
        "SET SESSION AUTHORIZATION {name}; SET ntt_mime.batch_delay = '60s'"
    ));
    let running = session.call_in_background(r#"1, target => '"Größe"'"#);
    let run_id = s.wait_for_run();
    let mut other = db.connect();
    other.exec(&format!("SET SESSION AUTHORIZATION {name}"));
    let cancelled: bool = other.value(&format!("SELECT ntt_cancel_backfill({run_id})"));
    assert!(cancelled);
    let (_, result) = running.finish();
    result.unwrap_or_else(|e| panic!("{}", describe(&e)));
    assert_eq!(
        s.run_row(run_id, "status, role_name"),
        format!("cancelled|{}", name.trim_matches('"'))
    );
    // The harness drops roles by the names that it knows.
    s.exec(&format!("ALTER ROLE {name} RENAME TO {role}"));
}

#[test]
fn bytes_that_are_no_text_are_recorded_as_they_are() {
    // Everything is permitted in SQL_ASCII. In WIN1252 0x81 is, and has no equivalent in Unicode; EUC_JP is a multibyte
    // encoding, and PostgreSQL can't convert all that may stand in it.
    for encoding in ["SQL_ASCII", "WIN1252", "EUC_JP"] {
        let db = database("odd_bytes", encoding);
        let store = Store::new();
        db.use_store(&store);
        let mut s = db.connect();
        inode::load_source(&mut s, &store.put_synthetic(20));
        let odd = match encoding {
            "SQL_ASCII" => [
                r"\x4772f6df65",
                r"\x4772f6dc65",
                r"\x4772ff8f65",
                r"\x4772c3b665",
            ],
            "WIN1252" => [
                r"\x477281df65",
                r"\x477281dc65",
                r"\x47728f8f65",
                r"\x4772f6df65",
            ],
            _ => [
                r"\x4772adfc65",
                r"\x4772adf565",
                r"\x4772f5a165",
                r"\x4772a4a2",
            ],
        };
        let text = |bytes: &str| format!("pg_catalog.convert_from('{bytes}', '{encoding}')");
        // The names of table and leaf are made of such bytes, too.
        let name = text(odd[0]);
        s.exec(&format!(
            "DO $do$BEGIN
                 EXECUTE format('CREATE TABLE %I (n int, blobid text, mime_type text) PARTITION BY LIST (n)', {name});
                 EXECUTE format('CREATE TABLE %I PARTITION OF %I DEFAULT', {name} || {name}, {name});
                 EXECUTE format('INSERT INTO %I SELECT n, blobid FROM source', {name});
                 EXECUTE format('CREATE VIEW target AS TABLE %I', {name});
             END$do$"
        ));
        for bytes in odd {
            // A long one as well, of which only the beginning is kept.
            let odd = text(bytes);
            s.exec(&format!(
                "DO $do$BEGIN
                     EXECUTE format('INSERT INTO %I VALUES (0, %L), (1, repeat(%L, 1000))', {name}, {odd}, {odd});
                 END$do$"
            ));
        }
        let oid = s.column(&format!("SELECT oid FROM pg_class WHERE relname = {name}"))[0].clone();
        let outcome = s
            .call(&format!("7, target => {oid}::regclass"))
            .unwrap_or_else(|e| panic!("{encoding}: {}", describe(&e)));
        assert_eq!(
            (outcome.blobs, outcome.rows_updated, outcome.failures),
            (28, 20, 8),
            "{encoding}"
        );
        assert_eq!(
            s.table(&format!(
                "SELECT count(*), count(DISTINCT f.blobid), count(t.blobid), bool_and(f.attempts = 1),
                        (SELECT count(*) FROM ntt_mime.run WHERE target = 'public.' || quote_ident({name}))
                   FROM ntt_mime.failure f LEFT JOIN target t ON t.blobid = f.blobid"
            )),
            ["8|8|4|t|1"],
            "{encoding}"
        );
        // What people read can be sent to any client.
        s.table("SELECT detail FROM ntt_mime.failure");
        let again = s.backfill(&format!("7, target => {oid}::regclass"));
        assert_eq!((again.rows_updated, again.failures), (0, 8), "{encoding}");
        assert_eq!(s.count("SELECT count(*) FROM ntt_mime.failure"), 8);
    }
}

#[test]
fn a_leafs_error_in_a_database_of_another_encoding() {
    let (_db, _store, mut s) = latin1("latin1_refused");
    s.exec(
        r#"CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'closed'; END$$;
           CREATE TRIGGER refuse BEFORE UPDATE ON "Größe" FOR EACH ROW EXECUTE FUNCTION refuse()"#,
    );
    let call = r#"target => '"Größe"'"#;
    for attempts in 1..=2 {
        assert_error(s.call(call), "P0001", "See ntt_mime.leaf_error.");
        assert_eq!(
            s.table("SELECT target, leaf, leaf_oid::regclass, message, attempts FROM ntt_mime.leaf_error"),
            [format!(
                "public.\"Größe\"|public.\"Größe\"|\"Größe\"|closed|{attempts}"
            )]
        );
    }
    s.exec(r#"DROP TRIGGER refuse ON "Größe""#);
    assert_eq!(s.backfill(call).rows_updated, 20);
    assert_eq!(s.count("SELECT count(*) FROM ntt_mime.leaf_error"), 0);
}
