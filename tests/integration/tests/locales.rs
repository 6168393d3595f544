//! Databases with other locales: a blob has the type that it has in the C locale.
//!
//! libmagic depends on the LC_CTYPE of the process (in Turkish the lower case of `I` isn't `i`), which in a server is
//! that of the database, and so may differ between databases.

use std::path::PathBuf;
use std::process::Command;

use ntt_mime_integration::cluster::SUPERUSER;
use ntt_mime_integration::session::describe;
use ntt_mime_integration::{Cluster, Store, TestDb, inode, judge, scratch};

/// Options with which a database is created.
const LOCALES: [(&str, &str); 6] = [
    ("c", "LC_COLLATE 'C' LC_CTYPE 'C'"),
    ("c_utf8", "LC_COLLATE 'C.UTF-8' LC_CTYPE 'C.UTF-8'"),
    ("german", "LC_COLLATE 'de_DE.UTF-8' LC_CTYPE 'de_DE.UTF-8'"),
    ("turkish", "LC_COLLATE 'tr_TR.UTF-8' LC_CTYPE 'tr_TR.UTF-8'"),
    (
        "latin5",
        "ENCODING 'LATIN5' LC_COLLATE 'tr_TR.ISO-8859-9' LC_CTYPE 'tr_TR.ISO-8859-9'",
    ),
    (
        "icu",
        "LOCALE_PROVIDER icu ICU_LOCALE 'tr-TR' LC_COLLATE 'tr_TR.UTF-8' LC_CTYPE 'tr_TR.UTF-8'",
    ),
];

/// Contents in which letters have another case, or bytes another class, in one of the locales.
const CONTENTS: [&[u8]; 7] = [
    b"<TITLE>x</TITLE>\n",
    b"<!DOCTYPE HTML PUBLIC \"-//IETF//DTD HTML//EN\">\n",
    b"<SCRIPT>x</SCRIPT>\n",
    b"<?XML VERSION=\"1.0\"?>\n<SVG/>\n",
    b"#!\xA0/bin/sh\n",
    b"#! /bin/sh\n",
    b"\xC4\xB0 \xFD \xDD and words\n",
];

/// A directory with the locales whose sources are in Debian's package `locales`, for LOCPATH.
fn made_locales() -> PathBuf {
    let folder = scratch::folder("locales");
    for (name, charmap) in [
        ("de_DE", "UTF-8"),
        ("tr_TR", "UTF-8"),
        ("tr_TR", "ISO-8859-9"),
    ] {
        let made = Command::new("localedef")
            .args(["--no-archive", "-i", name, "-f", charmap])
            .arg(folder.join(format!("{name}.{charmap}")))
            .output()
            .expect("localedef is part of the C library");
        assert!(made.status.success(), "package locales: {made:?}");
    }
    folder
}

#[test]
fn a_blob_has_the_same_type_in_a_database_of_any_locale() {
    let locales = made_locales();
    let locales = locales.to_str().expect("our own name");
    let cluster = Cluster::start_in(&[("LOCPATH", locales)], &[]);
    let store = Store::new();
    let blobids: Vec<String> = CONTENTS.iter().map(|content| store.put(content)).collect();
    let paths: Vec<PathBuf> = blobids.iter().map(|blobid| store.path(blobid)).collect();
    let said = judge::file_mime(&paths);
    let expected: Vec<&String> = paths.iter().map(|path| &said[path]).collect();
    assert_eq!(expected[0], "text/html");

    for (name, options) in LOCALES {
        let db = TestDb::empty(&cluster, name);
        let mut dba = cluster.connect("postgres", SUPERUSER);
        dba.exec(&format!("DROP DATABASE {}", db.name));
        let statement = format!("CREATE DATABASE {} TEMPLATE template0 {options}", db.name);
        match dba.batch_execute(&statement) {
            Ok(()) => {}
            // A server may have been built without ICU.
            Err(error) if describe(&error).contains("ICU is not supported") => continue,
            Err(error) => panic!("{name}: {}", describe(&error)),
        }
        db.connect().exec("CREATE EXTENSION ntt_mime");
        db.use_store(&store);
        let mut s = db.connect();
        inode::plain(&mut s, &blobids);
        // In encodings of one byte PostgreSQL's own function goes by ASCII first.
        if !options.contains("LATIN5") {
            let of_letter: bool = s.value("SELECT lower('I') = 'i'");
            assert_eq!(of_letter, !options.contains("tr_TR"), "{name}");
        }
        for prefilter in ["on", "off"] {
            s.exec(&format!(
                "SET ntt_mime.prefilter = {prefilter}; UPDATE blob SET mime_type = NULL"
            ));
            let in_session = s.column("SELECT ntt_detect_mime(blobid) FROM source ORDER BY n");
            s.backfill("target => 'blob'");
            let in_worker =
                s.column("SELECT mime_type FROM source JOIN blob USING (blobid) ORDER BY n");
            let in_hand: Vec<String> = CONTENTS
                .iter()
                .map(|content| {
                    let row = s.query_one("SELECT ntt_detect_mime($1::bytea)", &[content]);
                    row.unwrap_or_else(|error| panic!("{name}: {}", describe(&error)))
                        .get(0)
                })
                .collect();
            for found in [in_session, in_worker, in_hand] {
                let found: Vec<&String> = found.iter().collect();
                assert_eq!(found, expected, "{name}, prefilter {prefilter}");
            }
        }
    }
}
