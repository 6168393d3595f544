//! What the table of releases says of the libmagic at hand, asked of it by tiny databases made for the purpose.

use std::fs;
use std::io::Write;
use std::os::fd::AsFd;
use std::process::Command;
use std::ptr::NonNull;

use super::super::cookie::{self, Cookie, Tests};
use super::super::database;
use super::super::prefilter::format::Compiled;
use super::super::prefilter::regex::is_refused;
use super::super::release::{self, Library};

/// What is known of the libmagic at hand.
fn library() -> &'static Library {
    let path = database::only_compiled().expect("libmagic's own database only");
    let compiled = Compiled::open(&path).expect("of a version that is known");
    let library = release::library(cookie::version(), compiled.version());
    library.expect("tests run with a pair that is known")
}

/// A database of these rules, as libmagic compiles it, and of some that match nothing here: 5.46 refuses a database of
/// fewer than ten. None if it refuses them.
fn compiled(rules: &str) -> Option<Compiled> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let fillers = "0 string \\376\\375\\374 z\n".repeat(12);
    let rules = format!("{rules}{fillers}");
    fs::write(folder.path().join("rules"), &rules).expect("it takes a file");
    // magic_compile(3) writes into the folder of the process, which is its own here.
    let made = Command::new("/usr/bin/file")
        .args(["--compile", "--magic-file", "rules"])
        .current_dir(folder.path())
        .output()
        .expect("file(1) is there");
    let path = folder.path().join("rules.mgc");
    if !path.exists() {
        assert!(!made.stderr.is_empty(), "it doesn't say why");
        return None;
    }
    let path = path.to_str().expect("a plain name");
    Some(Compiled::open(path).unwrap_or_else(|refused| panic!("{rules}: {refused:?}")))
}

/// What libmagic says of contents with a database; None for an error.
fn said(compiled: &Compiled, content: &[u8]) -> Option<String> {
    said_without(compiled, content, Tests::NONE)
}

/// The same with some tests left out.
fn said_without(compiled: &Compiled, content: &[u8], tests: Tests) -> Option<String> {
    let bytes = compiled.bytes();
    let mut buffers = [NonNull::from(bytes).cast()];
    // SAFETY: the database outlives the cookie, which ends with this function, and holds what libmagic has written.
    let cookie = unsafe { Cookie::with_buffers(&mut buffers, &mut [bytes.len()]) };
    let mut file = tempfile::tempfile().expect("a temporary file");
    file.write_all(content).expect("it takes the content");
    let mut cookie = cookie.expect("libmagic's own work");
    cookie.leave_out(tests);
    cookie.descriptor(file.as_fd(), 1 << 20).ok()
}

/// Does libmagic say, with these rules, that the content is `a/yes`? If not, it has to be `no`.
fn says_yes(rules: &str, content: &[u8], no: &str) -> bool {
    let compiled = compiled(rules).unwrap_or_else(|| panic!("it refuses {rules}"));
    match said(&compiled, content).as_deref() {
        Some("a/yes") => true,
        other => {
            assert_eq!(other, Some(no), "{rules}");
            false
        }
    }
}

const NOTHING: &str = "application/octet-stream";

#[test]
fn the_database_is_of_the_version_that_libmagic_writes() {
    let database = compiled("0 string A a\n").expect("the simplest of rules");
    assert_eq!(database.version(), library().database);
}

#[test]
fn types_have_the_numbers_that_are_known() {
    use super::super::prefilter::format::kind;
    // The other rules of the database are strings.
    let number = |rule: &str| {
        let database = compiled(rule)?;
        let kinds = (0..database.rules()).map(|number| database.entry(number).kind());
        kinds.max_by_key(|number| *number != kind::STRING)
    };
    assert_eq!(number("0 octal 17 a\n").unwrap_or(255), library().octal);
    for (rule, kind) in [
        ("byte 1", kind::BYTE),
        ("short 1", kind::SHORT),
        ("long 1", kind::LONG),
        ("string A", kind::STRING),
        ("date 1", kind::DATE),
        ("beshort 1", kind::BESHORT),
        ("belong 1", kind::BELONG),
        ("bedate 1", kind::BEDATE),
        ("leshort 1", kind::LESHORT),
        ("lelong 1", kind::LELONG),
        ("ledate 1", kind::LEDATE),
        ("pstring A", kind::PSTRING),
        ("ldate 1", kind::LDATE),
        ("beldate 1", kind::BELDATE),
        ("leldate 1", kind::LELDATE),
        ("regex A", kind::REGEX),
        ("bestring16 A", kind::BESTRING16),
        ("lestring16 A", kind::LESTRING16),
        ("search/9 A", kind::SEARCH),
        ("quad 1", kind::QUAD),
        ("lequad 1", kind::LEQUAD),
        ("bequad 1", kind::BEQUAD),
        ("der seq", kind::DER),
        ("offset 1", library().offset),
        ("guid 00000000-0000-0000-0000-000000000001", kind::GUID),
    ] {
        assert_eq!(number(&format!("0 {rule} a\n")), Some(kind), "{rule}");
    }
    let database = compiled(
        "0 string A\n>0 use n\n>1 indirect x\n>(4.I+1) byte 1 a\n>(4.i+1) byte 1 a\n>1 clear x\n>1 default x a\n0 name n\n>0 byte x a\n",
    );
    let database = database.expect("all of them are known");
    let all = || 0..database.rules() + database.named();
    let is_there = |kind: u8| all().any(|number| database.entry(number).kind() == kind);
    for kind in [
        kind::USE,
        kind::INDIRECT,
        kind::NAME,
        kind::CLEAR,
        kind::DEFAULT,
    ] {
        assert!(is_there(kind), "{kind}");
    }
    let is_read = |kind: u8| all().any(|number| database.entry(number).in_kind() == kind);
    assert!(is_read(kind::BEID3) && is_read(kind::LEID3));
}

#[test]
fn tapes_are_known_or_not() {
    let tape = |word: u32, data: &[u8]| {
        let word = word.to_le_bytes();
        [&word, data, &word, &[0xFF; 4]].concat()
    };
    let database = compiled("0 string A a\n").expect("the simplest of rules");
    let is_tape = |content: &[u8]| {
        let said = said(&database, content).expect("no error");
        assert!(["application/SIMH-tape-data", NOTHING].contains(&said.as_str()));
        said != NOTHING
    };
    let library = library();
    assert_eq!(is_tape(&tape(6, b"\0bcdef")), library.tapes);
    let strange = is_tape(&tape(0x0100_0006, b"\0bcdef"));
    assert_eq!(strange, library.tapes && !library.strict_tapes);
}

#[test]
fn json_is_strict_or_not() {
    let database = compiled("0 string A a\n").expect("the simplest of rules");
    for (content, strict) in [
        (&b"[tail]"[..], "text/plain"),
        (b"[true]", "application/json"),
    ] {
        let expected = match library().strict_json {
            true => strict,
            false => "application/json",
        };
        assert_eq!(said(&database, content).as_deref(), Some(expected));
    }
}

#[test]
fn encodings_are_read_as_is_known() {
    let database = compiled("0 string A a\n").expect("the simplest of rules");
    let is_text = |content: &[u8]| said(&database, content).as_deref() == Some("text/plain");
    assert!(is_text(b"\xFF\xFEx\0\x3D\xD8\0\xDEx\0"));
    assert_eq!(is_text(b"text\x1a"), library().control_z_is_text);
    // One half of a pair.
    let half = is_text(b"\xFF\xFEx\0\x3D\xD8x\0");
    assert_eq!(half, !library().pairs_of_units);
}

#[test]
fn csv_has_as_many_lines_and_commas_as_is_known() {
    let database = compiled("0 string A a\n").expect("the simplest of rules");
    let is_csv = |text: &str| said(&database, text.as_bytes()).as_deref() == Some("text/csv");
    for commas in 1..4 {
        for lines in 1..=12 {
            let text = format!("x{}\n", ",x".repeat(commas)).repeat(lines);
            let expected = lines >= library().csv_lines && commas >= library().csv_commas;
            assert_eq!(is_csv(&text), expected, "{commas} {lines}");
        }
    }
}

#[test]
fn tests_that_are_left_out_say_nothing() {
    let database = compiled("0 string [7 a\n!:mime a/yes\n").expect("the simplest of rules");
    let tar = || {
        let mut header = [0; 1024];
        header[..3].copy_from_slice(b"a/b");
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        header.to_vec()
    };
    for (content, test, with) in [
        (b"[7]".to_vec(), Tests::JSON, "application/json"),
        (b"a,b,c\n".repeat(10), Tests::CSV, "text/csv"),
        (b"a,b,c\n".repeat(10), Tests::ENCODING, "text/csv"),
        (b"words\n".to_vec(), Tests::TEXT, "text/plain"),
        (tar(), Tests::TAR, "application/x-tar"),
    ] {
        assert_eq!(said(&database, &content).as_deref(), Some(with));
        let without = said_without(&database, &content, test).expect("no error");
        let expected = match test {
            // Rules go on as ever.
            Tests::JSON => "a/yes",
            Tests::TEXT | Tests::TAR => NOTHING,
            _ => "text/plain",
        };
        assert_eq!(without, expected, "{with}");
    }
}

#[test]
fn searches_of_named_rules_leave_off_where_it_is_known() {
    for test in ["search/8 B", "regex B"] {
        let rules =
            format!("0 string A\n>4 use n\n0 name n\n>0 {test}\n>>&0 string C x\n!:mime a/yes\n");
        // From where the match ends in the file, which is counted from where the rule is used once more.
        let keeps = says_yes(&rules, b"A....B....C\x01.", NOTHING);
        let takes_away = says_yes(&rules, b"A....BC....\x01.", NOTHING);
        assert_eq!((keeps, takes_away), (!takes_away, !keeps), "{test}");
        assert_eq!(keeps, library().searches_keep_base, "{test}");
    }
    // All other tests count from where it is used.
    let rules = "0 string A\n>4 use n\n0 name n\n>0 string B\n>>&0 string C x\n!:mime a/yes\n";
    assert!(says_yes(rules, b"A...BC\0\0\0\0\0\0", NOTHING));
}

#[test]
fn division_heeds_a_sign_or_not() {
    // -4 / 2, of a byte.
    let rules = |test: &str| format!("0 byte {test} x\n!:mime a/yes\n").replace("byte ", "byte");
    let signed = says_yes(&rules("/2 -2"), b"\xFC\0\0\0", NOTHING);
    let unsigned = says_yes(&rules("/2 126"), b"\xFC\0\0\0", NOTHING);
    assert_eq!((signed, unsigned), (!unsigned, !signed));
    assert_eq!(signed, library().signed_division);
    let signed = says_yes(&rules("%3 -1"), b"\xFC\0\0\0", NOTHING);
    assert_eq!(signed, library().signed_division);
    assert!(says_yes(&rules("/2 2"), b"\x04\0\0\0", NOTHING));
}

#[test]
fn offsets_that_do_not_fit_are_refused_or_not() {
    let rules = "0 string A\n>(1.l+2) string A x\n!:mime a/yes\n";
    // 2^32 - 2, so that adding 2 makes 0.
    let around = says_yes(rules, b"A\xFE\xFF\xFF\xFF\0", NOTHING);
    assert_eq!(!around, library().checks_offsets);
    assert!(says_yes(rules, b"A\x04\0\0\0\0A", NOTHING));
}

#[test]
fn use_succeeds_by_a_description_or_not() {
    let rules = "0 string A\n>0 use n\n>0 default x x\n!:mime a/yes\n0 name n\n>0 string A d\n";
    let default = says_yes(rules, b"A\0\0\0", NOTHING);
    assert_eq!(!default, library().use_by_description);
    assert!(says_yes(
        &rules.replace("string A d", "string B d"),
        b"A\0\0\0",
        NOTHING
    ));
}

#[test]
fn what_indirect_applies_has_an_end_of_its_own_or_not() {
    // The first asks for the end, of all of the file.
    let rules = "-1 string X x\n!:strength + 200\n\
                 0 string A\n>4 indirect x\n\
                 0 string B\n>-10 string . x\n!:mime a/yes\n";
    let all = says_yes(rules, b"A...B....\x01..", NOTHING);
    assert_eq!(!all, library().indirect_has_own_end);
}

#[test]
fn regular_expressions_are_refused_as_it_is_known() {
    for pattern in [
        "ab*c", "a?b", "^a+b", "a{2}b", "a**", "ab++", "a??b", "ab*+", "ab+?", "a{2}{3}",
    ] {
        let database = compiled(&format!("0 regex {pattern} x\n!:mime a/yes\n"));
        // regcomp(3) takes all of them; what libmagic refuses is no part of a database, or an error for the file.
        let taken = database.and_then(|database| said(&database, b"aaab words\n"));
        let refused = is_refused(pattern.as_bytes(), library().refused);
        assert_eq!(taken.is_none(), refused, "{pattern}");
    }
}
