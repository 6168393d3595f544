//! The answer is that of the C locale, whatever that of the process is.

use std::process::Command;

use super::*;

/// Whose classes and cases of letters differ from C's: charmap, and the locale itself.
const LOCALES: [(&str, &str); 4] = [
    ("UTF-8", "tr_TR"),
    ("ISO-8859-9", "tr_TR"),
    ("UTF-8", "de_DE"),
    ("ISO-8859-1", "de_DE"),
];

/// Set for a process that is to be asked in its own locale.
const ASKED: &str = "NTT_MIME_TEST_LOCALE";

#[test]
fn the_locale_of_the_process_does_not_matter() {
    let folder = tempfile::tempdir().unwrap();
    for (charmap, name) in LOCALES {
        let locale = format!("{name}.{charmap}");
        let made = Command::new("localedef")
            .args(["--no-archive", "-i", name, "-f", charmap])
            .arg(folder.path().join(&locale))
            .output()
            .expect("localedef is part of the C library");
        assert!(made.status.success(), "package locales: {made:?}");
        let asked = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--ignored", "--nocapture"])
            .arg("detector::tests::locale::in_the_locale_of_the_process")
            .env("LOCPATH", folder.path())
            .env("LC_ALL", &locale)
            .env(ASKED, &locale)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&asked.stdout);
        assert!(
            asked.status.success() && said.contains("asked in"),
            "{said}"
        );
    }
}

#[test]
#[ignore = "the test above runs it in a process of its own"]
fn in_the_locale_of_the_process() {
    let Ok(locale) = std::env::var(ASKED) else {
        return;
    };
    // SAFETY: a C string; nobody else in this process asks for its locale meanwhile.
    let set = unsafe { libc::setlocale(libc::LC_ALL, c"".as_ptr()) };
    assert!(!set.is_null(), "{locale} cannot be used");
    // SAFETY: no preconditions.
    let letter_of_i = unsafe { libc::tolower(i32::from(b'I')) };
    assert_eq!(letter_of_i != i32::from(b'i'), locale.starts_with("tr_TR"));
    for mut detector in [detector(), without_prefilter()] {
        for (content, mime_type) in [
            (&b"<TITLE>x</TITLE>\n"[..], "text/html"),
            (
                b"<!DOCTYPE HTML PUBLIC \"-//IETF//DTD HTML//EN\">\n",
                "text/html",
            ),
            // A no-break space is none of C's blanks, nor is NEL.
            (b"#!\xA0/bin/sh\n", "text/plain"),
            (b"#! /bin/sh\n", "text/x-shellscript"),
        ] {
            let found = detector.detect_bytes(content).unwrap();
            assert_eq!(found.mime_type, mime_type, "{locale}");
        }
    }
    // And the process is in its own again.
    // SAFETY: no preconditions.
    assert_eq!(unsafe { libc::tolower(i32::from(b'I')) }, letter_of_i);
    println!("asked in {locale}");
}
