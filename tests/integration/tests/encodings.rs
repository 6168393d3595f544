//! Databases that aren't in UTF-8, with names, paths and errors that hold other characters.
//!
//! What a run makes SQL of is converted; what is for people to read is escaped (src/pg/encoding.rs).

use std::io::Write;
use std::os::unix::fs::symlink;
use std::process::Stdio;

use ntt_mime_integration::cluster::SUPERUSER;
use ntt_mime_integration::session::describe;
use ntt_mime_integration::{Cluster, Session, Store, TestDb, assert_error, inode};

/// A database in LATIN1 with the extension and a target `"Größe"` of 20 blobs, and a session in it. The root of its
/// store has a name with an umlaut.
fn latin1(name: &str) -> (TestDb<'static>, Store, Session) {
    let cluster = Cluster::shared();
    let db = TestDb::empty(cluster, name);
    let mut dba = cluster.connect("postgres", SUPERUSER);
    dba.exec(&format!("DROP DATABASE {}", db.name));
    dba.exec(&format!(
        "CREATE DATABASE {} TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'",
        db.name
    ));
    db.connect().exec("CREATE EXTENSION ntt_mime");
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
fn a_client_of_another_encoding_runs_a_backfill() {
    let (db, _store, mut s) = latin1("latin1_client");
    inode::remember(&mut s, r#""Größe""#);
    let mut psql = db
        .cluster
        .client("psql", &db.name)
        .env("PGCLIENTENCODING", "LATIN1")
        .args(["--no-psqlrc", "--set=ON_ERROR_STOP=1"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("psql starts");
    psql.stdin
        .take()
        .expect("piped")
        .write_all(b"CALL ntt_backfill_mime(7, target => '\"Gr\xf6\xdfe\"');")
        .expect("psql reads");
    let output = psql.wait_with_output().expect("psql ends");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    inode::check_filled(&mut s, r#""Größe""#);
    assert_eq!(
        s.column("SELECT options->>'blob_root' LIKE '%/\\\\u{e4}rchiv' FROM ntt_mime.run"),
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
           GRANT UPDATE ON "Größe" TO {name}; GRANT EXECUTE ON PROCEDURE ntt_backfill_mime TO {name};
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
