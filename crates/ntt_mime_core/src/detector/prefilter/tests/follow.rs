//! Rules made for the purpose, followed to their ends.

use super::super::buffer::{Buffer, Bytes};
use super::super::check::Answer;
use super::super::follow::{Mime, Named};
use super::super::format::{Compiled, flag, kind, str_flag};
use super::super::hits::Hits;
use super::super::rules_of;
use super::super::tables::Tables;
use super::super::walk::{Context, Follower};
use super::reader;
use crate::detector::database::MAGIC_NUMBER;
use crate::detector::release::{self, Library};

/// An entry as libmagic 5.44 has it.
pub struct Made(pub [u8; 376]);

impl Made {
    fn new(level: u8, kind: u8, offset: i32) -> Made {
        let mut bytes = [0; 376];
        bytes[0] = level;
        bytes[2] = flag::BINTEST as u8;
        bytes[4] = b'=';
        bytes[6] = kind;
        bytes[12..16].copy_from_slice(&offset.to_ne_bytes());
        Made(bytes)
    }

    pub fn string(level: u8, offset: i32, value: &str) -> Made {
        let mut made = Made::new(level, kind::STRING, offset);
        made.0[5] = value.len() as u8;
        made.0[32..32 + value.len()].copy_from_slice(value.as_bytes());
        made
    }

    fn named(level: u8, kind: u8, offset: i32, name: &str) -> Made {
        let mut made = Made::string(level, offset, name);
        made.0[6] = kind;
        made
    }

    /// One that always succeeds, or where nothing else has.
    fn any(level: u8, kind: u8) -> Made {
        let mut made = Made::new(level, kind, 0);
        made.0[4] = b'x';
        made
    }

    fn flags(mut self, flags: u16) -> Made {
        self.0[2] |= flags as u8;
        self
    }

    fn described(mut self) -> Made {
        self.0[160] = b'd';
        self
    }

    fn says(mut self, mime_type: &str) -> Made {
        self.0[224..224 + mime_type.len()].copy_from_slice(mime_type.as_bytes());
        self
    }
}

pub fn compiled(rule: &[Made], named: &[Made]) -> Compiled {
    let mut database = vec![0; 376];
    let header = [MAGIC_NUMBER, 18, rule.len() as u32, named.len() as u32];
    let header: Vec<u8> = header.into_iter().flat_map(u32::to_ne_bytes).collect();
    database[..16].copy_from_slice(&header);
    for made in rule.iter().chain(named) {
        database.extend(made.0);
    }
    Compiled::from_bytes(database).unwrap()
}

/// What comes of a rule on some bytes, with named rules besides: in words.
fn followed(rule: &[Made], named: &[Made], bytes: &[u8]) -> String {
    let compiled = compiled(rule, named);
    let rules = rules_of(&compiled, library());
    let tables = Tables::new(&compiled, &rules, library()).unwrap();
    let names = Named::new(&compiled);
    let read = reader(bytes);
    let buffer = Buffer::new(bytes, bytes.len() as u64, bytes.len(), &read, &[]);
    let context = Context::new(library(), &compiled, &rules, &tables, &names, &buffer);
    let mut follower = Follower::new(
        &context,
        Bytes::front(&buffer),
        Some(Bytes::back(&buffer, bytes.len())),
    );
    let mut found_match = Answer::No;
    let outcome = follower.follow_rule(0, rule.len(), &mut found_match);
    match (outcome.mime, outcome.completes, found_match) {
        (Mime::Surely(entry), Answer::Yes, _) => compiled
            .entry(entry)
            .plain_mime_type()
            .expect("it has one")
            .to_owned(),
        (Mime::No, _, Answer::No) => "never".to_owned(),
        (Mime::No, Answer::Yes, Answer::Yes) => "silently".to_owned(),
        (Mime::No, Answer::No, Answer::Yes) => "given up".to_owned(),
        _ => "maybe".to_owned(),
    }
}

fn library() -> &'static Library {
    release::library(544, 18).unwrap()
}

#[test]
fn the_first_that_is_reached_and_has_a_mime_type_answers() {
    let rule = [
        Made::string(0, 0, "A"),
        Made::string(1, 1, "B"),
        Made::string(2, 2, "C").says("a/bc"),
        Made::string(1, 1, "D").described(),
        Made::string(2, 2, "C").says("a/dc"),
    ];
    for (bytes, expected) in [
        ("ABC.", "a/bc"),
        ("ABX.", "never"),
        // A continuation of what fails isn't tried.
        ("AXC.", "never"),
        ("ADC.", "a/dc"),
        ("ADX.", "silently"),
        ("X...", "never"),
    ] {
        assert_eq!(followed(&rule, &[], bytes.as_bytes()), expected, "{bytes}");
    }
}

#[test]
fn default_succeeds_where_nothing_has() {
    let rule = [
        Made::string(0, 0, "A"),
        Made::string(1, 1, "B"),
        Made::any(1, kind::DEFAULT).says("a/default"),
        Made::any(1, kind::CLEAR),
        Made::any(1, kind::DEFAULT).says("a/cleared"),
    ];
    assert_eq!(followed(&rule, &[], b"AX"), "a/default");
    assert_eq!(followed(&rule, &[], b"AB"), "a/cleared");
}

#[test]
fn offsets_count_from_where_the_test_before_left_off() {
    let rule = [
        Made::string(0, 0, "AA"),
        Made::string(1, 1, "B").flags(flag::OFFADD),
        Made::string(2, 0, "C").flags(flag::OFFADD).says("a/b"),
    ];
    assert_eq!(followed(&rule, &[], b"AA.BC."), "a/b");
    assert_eq!(followed(&rule, &[], b"AAB.C."), "never");
}

#[test]
fn what_counts_from_the_end_has_its_continuations_count_from_there() {
    let rule = [
        Made::string(0, 4, "E").flags(flag::OFFNEGATIVE),
        Made::string(1, 1, "F").says("a/end"),
    ];
    let mut bytes = vec![b'.'; 100];
    bytes.extend(b"EF..");
    assert_eq!(followed(&rule, &[], &bytes), "a/end");
    bytes.extend(b"E.");
    assert_eq!(followed(&rule, &[], &bytes), "never");
    // Not that long.
    assert_eq!(followed(&rule, &[], b"EF"), "never");
}

#[test]
fn what_a_named_rule_says_is_not_the_end() {
    let named = [
        Made::named(0, kind::NAME, 0, "n"),
        Made::string(1, 0, "B").says("n/b"),
        Made::string(1, 0, "C").described(),
    ];
    let rule = |last: Made| {
        [
            Made::string(0, 0, "A"),
            Made::named(1, kind::USE, 1, "n"),
            last,
        ]
    };
    let nothing = || Made::string(1, 2, "Z").says("a/z");
    // 130 bytes: what a named rule looks at must be far from the end.
    let padded = |start: &str| [start.as_bytes(), &[b'.'; 140]].concat();
    for (start, expected) in [("AB", "n/b"), ("AC", "silently"), ("AX", "never")] {
        assert_eq!(followed(&rule(nothing()), &named, &padded(start)), expected);
    }
    // Then a second would be said behind the first, and libmagic is left to say so.
    assert_eq!(followed(&rule(nothing()), &named, &padded("ABZ")), "maybe");
    assert_eq!(followed(&rule(nothing()), &[], &padded("AB")), "maybe");
    let default = || Made::any(1, kind::DEFAULT).says("a/none");
    assert_eq!(followed(&rule(default()), &named, &padded("AX")), "a/none");
}

#[test]
fn what_is_not_sure_is_not_taken_for_granted() {
    // An offset that is read from the file.
    let somewhere = || Made::string(1, 1, "B").flags(flag::INDIR);
    let rule = [Made::string(0, 0, "A"), somewhere().says("a/b")];
    assert_eq!(followed(&rule, &[], b"A.B"), "maybe");
    let behind = Made::string(2, 1, ".").says("a/b");
    let rule = [Made::string(0, 0, "A"), somewhere(), behind];
    assert_eq!(followed(&rule, &[], b"A.B"), "maybe");
    let rule = [
        Made::string(0, 0, "A"),
        somewhere(),
        Made::any(1, kind::DEFAULT).says("a/default"),
    ];
    assert_eq!(followed(&rule, &[], b"A.B"), "maybe");
}

#[test]
fn offsets_are_read_from_the_file() {
    let indirect = |offset| {
        let mut made = Made::string(1, offset, "B").flags(flag::INDIR).says("a/b");
        made.0[7] = kind::LELONG;
        made
    };
    let rule = [Made::string(0, 0, "A"), indirect(1)];
    assert_eq!(followed(&rule, &[], b"A\x06\0\0\0.B"), "a/b");
    assert_eq!(followed(&rule, &[], b"A\x05\0\0\0.B"), "never");
    assert_eq!(followed(&rule, &[], b"A\x07\0\0\0.B"), "never");
    assert_eq!(followed(&rule, &[], b"A\xff\xff\xff\xffBB"), "never");
    assert_eq!(followed(&rule, &[], b"A\0\0"), "never");
    // They are those of the end.
    let rule = [
        Made::string(0, 5, "E").flags(flag::OFFNEGATIVE),
        indirect(1),
    ];
    let bytes = |to: u8| [&[b'B'; 100], b"E".as_slice(), &[to, 0, 0, 0]].concat();
    assert_eq!(followed(&rule, &[], &bytes(90)), "a/b");
    assert_eq!(followed(&rule, &[], &bytes(100)), "never");
    assert_eq!(followed(&rule, &[], &bytes(1)), "a/b");
}

#[test]
fn a_match_at_an_unknown_place_is_not_sure() {
    // An offset of eight bytes isn't followed.
    let mut regex = Made::named(1, kind::REGEX, 1, "B").flags(flag::INDIR);
    regex.0[7] = kind::LEQUAD;
    let rule = [Made::string(0, 0, "A"), regex.says("a/b")];
    assert_eq!(followed(&rule, &[], b"A........B.."), "maybe");
}

#[test]
fn a_named_rule_that_is_used_at_the_end_is_not_followed() {
    // Where the end points to, the directory of an archive for instance: 5.46 takes places in it from elsewhere.
    let mut directory = Made::named(1, kind::USE, 1, "n").flags(flag::INDIR);
    directory.0[7] = kind::LELONG;
    let rule = [
        Made::string(0, 5, "E").flags(flag::OFFNEGATIVE),
        directory,
        Made::any(1, kind::DEFAULT).says("a/none"),
    ];
    let named = [
        Made::named(0, kind::NAME, 0, "n"),
        Made::string(1, 0, "B").says("n/b"),
    ];
    let mut bytes = vec![b'.'; 300];
    bytes[90] = b'B';
    bytes.extend([b'E', 90, 0, 0, 0]);
    assert_eq!(followed(&rule, &named, &bytes), "maybe");
}

#[test]
fn what_is_searched_for_may_have_to_be_missing() {
    let search = |flags: u32| {
        let mut search = Made::named(1, kind::SEARCH, 1, "Z");
        search.0[4] = b'!';
        search.0[24] = 4;
        search.0[28..32].copy_from_slice(&flags.to_ne_bytes());
        search
    };
    let behind = || Made::string(2, 0, "C").flags(flag::OFFADD).says("a/c");
    let rule = |flags| [Made::string(0, 0, "A"), search(flags), behind()];
    assert_eq!(followed(&rule(0), &[], b"ABC...Z."), "a/c");
    assert_eq!(followed(&rule(0), &[], b"ABC..Z.."), "never");
    assert_eq!(
        followed(&rule(str_flag::OFFSET_START), &[], b"AC......"),
        "a/c"
    );
    // Nothing is there to be searched.
    assert_eq!(followed(&rule(0), &[], b"A"), "maybe");
}

#[test]
fn zeros_are_there_beyond_the_end() {
    let hits = |offset, bytes: &[u8]| {
        let compiled = compiled(&[Made::new(0, kind::QUAD, offset)], &[]);
        let rules = rules_of(&compiled, library());
        let tables = Tables::new(&compiled, &rules, library()).unwrap();
        let mut hits = Hits::new(rules.len());
        tables.find_binary(bytes, bytes.len(), &mut hits);
        hits.iter(0..1).count()
    };
    for offset in [3, 7, 8, 300] {
        assert_eq!(hits(offset, b"A......\0"), usize::from(offset >= 7));
    }
}

#[test]
fn what_is_given_up_leaves_found_match_behind() {
    // It describes, and leaves off beyond the end: a number of eight bytes is never missed.
    let quad = Made::new(0, kind::QUAD, 2).described();
    let rule = [quad, Made::string(1, 0, "A").says("a/a")];
    assert_eq!(followed(&rule, &[], b"A.\0\0"), "given up");
    assert_eq!(followed(&rule, &[], b"A.\0\0\0\0\0\0\0\0"), "a/a");
    // A continuation from before the start.
    let rule = [
        Made::string(0, 0, "A").described(),
        Made::string(1, 9, "B").flags(flag::OFFNEGATIVE),
        Made::string(1, 0, "A").says("a/a"),
    ];
    assert_eq!(followed(&rule, &[], b"A......"), "given up");
    assert_eq!(followed(&rule, &[], b"A........."), "silently");
}

#[test]
fn what_leaves_off_beyond_the_end_resets_got_match() {
    let rule = [
        Made::string(0, 0, "A"),
        Made::string(1, 1, "B"),
        Made::new(1, kind::QUAD, 2),
        Made::any(1, kind::DEFAULT).says("a/default"),
    ];
    assert_eq!(followed(&rule, &[], b"AB\0\0"), "a/default");
    assert_eq!(followed(&rule, &[], b"AB\0\0\0\0\0\0\0\0"), "never");
}
