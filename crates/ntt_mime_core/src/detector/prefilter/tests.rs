//! The prefilter against libmagic with all its rules on all of the file: never another answer.
//!
//! A slice, the same every time. NTT_MIME_DIFFERENCES=1000000 makes as many mutated heads, and
//! NTT_MIME_DIFFERENCES_FROM=970000 begins with that one, to go on where a run left off;
//! NTT_MIME_DIFFERENCE_FILES=/some/folder compares the files of that folder, such as /usr.

mod contents;
mod encodings;
mod example;
mod follow;
mod generated;
mod json;
mod kinds;
mod shortcuts;

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use fastrand::Rng;

use self::contents::contents;
use self::example::{example, with_long_blanks};
use super::check::{Answer, check};
use super::format::{Compiled, Refused, VALUE_BYTES, str_flag};
use super::*;
use crate::detector::{
    Detection, Detector, DetectorConfig, KnownFile, database, known_files, release,
};
use crate::failure::Failure;

/// Mutated heads in an ordinary test run.
const MUTATIONS: usize = 6_000;

/// Lengths to which contents are cut.
const HEADS: [usize; 8] = [0, 1, 2, 16, 512, 2 << 10, 16 << 10, 64 << 10];

/// Both ways of judging.
struct Pair {
    whole: Detector,
    filtered: Detector,
    prefiltered: u32,
    fallbacks: u32,
    strayed: u32,
}

impl Pair {
    fn new() -> Pair {
        // All of it, as file(1) does it, or what the prefilter finds worth it.
        let detector = |prefilter| {
            let config = DetectorConfig {
                head_bytes: if prefilter { 16 << 10 } else { usize::MAX },
                prefilter,
            };
            let mut detector = Detector::new(config).unwrap();
            detector.prepare();
            detector
        };
        Pair {
            whole: detector(false),
            filtered: detector(true),
            prefiltered: 0,
            fallbacks: 0,
            strayed: 0,
        }
    }

    /// Panics if they don't agree, having written the content down, unless libmagic went astray.
    fn agree(&mut self, content: &[u8], what: &str) {
        let filtered = self.filtered.detect_bytes(content);
        if let Ok(detection) = &filtered {
            self.prefiltered += detection.prefiltered;
            self.fallbacks += detection.fallbacks;
        }
        let said = |result: Result<Detection, Failure>| match result {
            Ok(detection) => detection.mime_type,
            Err(failure) => failure.detail,
        };
        let (whole, filtered) = (said(self.whole.detect_bytes(content)), said(filtered));
        if whole != filtered {
            static NUMBER: AtomicUsize = AtomicUsize::new(0);
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let path = std::env::temp_dir().join(format!(
                "ntt_mime_difference_{}_{number}",
                std::process::id()
            ));
            std::fs::write(&path, content).expect("the temporary folder takes it");
            let mut anew = Pair::new();
            let again =
                [&mut anew.whole, &mut anew.filtered].map(|it| said(it.detect_bytes(content)));
            let right = file_says(&path);
            // What is wrong with the prefilter would be so again.
            if filtered == right || again == [right.as_str(), right.as_str()] {
                eprintln!(
                    "{what}: {whole} with all rules, {filtered} with some, {right} by file(1)"
                );
                std::fs::remove_file(&path).expect("it is ours");
                self.strayed += 1;
                return;
            }
            panic!(
                "{what}: {whole} with all rules, {filtered} with some: {}",
                path.display()
            );
        }
    }
}

/// What file(1) says of a file, in a process whose memory holds nothing of other files.
///
/// libmagic looks at the byte after a whole word (`STRING_FULL_WORD` in `file_strncmp`, src/softmagic.c of 5.46) even
/// where a converted text ends with that word: in memory that hasn't been written to, or was for another file
/// (`utf8_buf` in src/ascmagic.c). So what it says there in a process that lives on depends on what came before.
fn file_says(path: &Path) -> String {
    let said = std::process::Command::new("/usr/bin/file")
        .args(["--brief", "--mime-type"])
        .arg(path)
        .output()
        .expect("file(1) is there");
    String::from_utf8_lossy(&said.stdout).trim().to_owned()
}

fn database() -> Compiled {
    let path =
        database::only_compiled().expect("a machine for tests has libmagic's own database only");
    Compiled::open(&path).expect("and its version is one of those that are known")
}

fn library() -> &'static Library {
    let release = crate::detector::cookie::version();
    release::library(release, database().version()).expect("and the release, too")
}

/// Does `work` for the numbers up to `count`, in as many threads as there are processors.
fn in_parallel(count: usize, work: impl Fn(&mut Pair, usize) + Sync) {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicUsize::new(0);
    let looks: Vec<[u32; 3]> = std::thread::scope(|scope| {
        let start = || {
            scope.spawn(|| {
                let mut pair = Pair::new();
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= count {
                        return [pair.prefiltered, pair.fallbacks, pair.strayed];
                    }
                    work(&mut pair, n);
                }
            })
        };
        let handles: Vec<_> = (0..threads).map(|_| start()).collect();
        handles
            .into_iter()
            .map(|handle| handle.join().unwrap())
            .collect()
    });
    // Otherwise there would be nothing to compare.
    let sum = |which: usize| looks.iter().map(|one| one[which]).sum::<u32>();
    let (with, without, strayed) = (sum(0), sum(1), sum(2));
    assert!(
        with > 10 * without,
        "{with} looks with a prefilter, {without} without"
    );
    assert!(
        strayed as usize <= count.div_ceil(100_000),
        "file(1) contradicts libmagic in {strayed} of {count} cases, which is no accident"
    );
}

#[test]
fn each_rule_is_hit_and_answers_the_same() {
    let compiled = database();
    let rules = rules_of(&compiled, library());
    let hit = AtomicUsize::new(0);
    in_parallel(rules.len(), |pair, n| {
        let mut rng = Rng::with_seed(n as u64);
        let rule = &rules[n];
        for with_continuations in [false, true] {
            let Some(content) = example(&compiled, rule, with_continuations, &mut rng) else {
                continue;
            };
            if !with_continuations {
                let found = matches(&compiled, rule, &content);
                hit.fetch_add(usize::from(found), Ordering::Relaxed);
            }
            pair.agree(&content, &format!("rule {n}, entry {}", rule.first));
            // Cut off where its mark ends, or a little before or behind that.
            let end = content.iter().rposition(|byte| *byte != 0).unwrap_or(0) + 1;
            for end in end.saturating_sub(2)..=end + 2 {
                if !with_continuations && end < content.len().min(100) {
                    pair.agree(&content[..end], &format!("rule {n} cut at {end}"));
                }
            }
        }
        // More than are looked at for needles. libmagic takes long over them.
        if let Some(content) = with_long_blanks(&compiled, rule, 10_000) {
            pair.agree(&content, &format!("rule {n} with many blanks"));
        }
    });
    let (hit, all) = (hit.into_inner(), rules.len());
    assert!(hit * 100 >= all * 97, "only {hit} of {all} rules were hit");
}

/// Does the first test of a rule succeed, as far as that can be told?
fn matches(compiled: &Compiled, rule: &Rule, content: &[u8]) -> bool {
    let entry = compiled.entry(rule.first);
    let Some(offset) = offset_of(&entry, None) else {
        return true;
    };
    let regex = |region: &[u8]| {
        let ignore_case = entry.str_flags() & str_flag::IGNORE_CASE != 0;
        let source = regex::translate(entry.text(), ignore_case);
        let matches = source.and_then(|source| {
            ::regex::bytes::Regex::new(&source)
                .ok()?
                .find(region)
                .map(|_| ())
        });
        (
            if matches.is_some() {
                Answer::Yes
            } else {
                Answer::No
            },
            None,
        )
    };
    let buffer = Buffer::of_text(content);
    let bytes = Bytes::front(&buffer);
    check(library(), &entry, bytes, offset, false, regex).answer != Answer::No
}

#[test]
fn contents_have_the_same_type_at_any_length() {
    let contents = contents();
    in_parallel(contents.len(), |pair, n| {
        let (name, content) = &contents[n];
        for head in HEADS {
            if head == 0 || head <= content.len() {
                pair.agree(&content[..head.min(content.len())], name);
            }
        }
        if content.len() < 4 << 20 {
            pair.agree(content, name);
        }
    });
}

#[test]
fn mutated_heads_have_the_same_type() {
    let compiled = database();
    let rules = rules_of(&compiled, library());
    let heads = contents().into_iter().map(|(_, mut content)| {
        content.truncate(20 << 10);
        content
    });
    let heads: Vec<Vec<u8>> = heads.collect();
    in_slice(MUTATIONS, 0x5EED, |pair, n, rng| {
        let content = mutated(&compiled, &rules, &heads, rng);
        pair.agree(&content, &format!("mutation {n}"));
    });
}

/// Does `work` in parallel for a slice of generated contents, each with its number and a generator that is the same
/// every time. NTT_MIME_DIFFERENCES says how many there are, NTT_MIME_DIFFERENCES_FROM the number of the first one.
fn in_slice(default: usize, seed: u64, work: impl Fn(&mut Pair, usize, &mut Rng) + Sync) {
    let from = number("NTT_MIME_DIFFERENCES_FROM", 0);
    let count = number("NTT_MIME_DIFFERENCES", default);
    in_parallel(count, |pair, n| {
        let n = from + n;
        work(pair, n, &mut Rng::with_seed(seed + n as u64));
    });
}

/// A number from the environment.
fn number(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |count| count.parse().expect("a number"))
}

/// A known file, the head of a content, or an example of a rule, after some changes.
fn mutated(compiled: &Compiled, rules: &[Rule], heads: &[Vec<u8>], rng: &mut Rng) -> Vec<u8> {
    let mut content = base(compiled, rules, heads, rng);
    for _ in 0..rng.usize(..5) {
        let at = rng.usize(..=content.len());
        match rng.u8(..8) {
            0 => content.truncate(at),
            1 | 2 => {
                if let Some(byte) = content.get_mut(at) {
                    *byte ^= 1 << rng.u8(..8);
                }
            }
            3 => {
                let other = base(compiled, rules, heads, rng);
                let from = rng.usize(..=other.len());
                content.truncate(at);
                content.extend(&other[from..]);
            }
            4 => content.extend(vec![0; rng.usize(..40)]),
            5 => content
                .splice(..0, (0..rng.usize(..4)).map(|_| b'\n'))
                .for_each(drop),
            // Where rules look for marks, one more.
            _ => {
                let rule = &rules[rng.usize(..rules.len())];
                let entry = compiled.entry(rng.usize(rule.first..rule.end));
                let mark = &entry.value()[..entry.value_length().min(VALUE_BYTES)];
                let at = match rng.bool() {
                    true => offset_of(&entry, Some(0)).unwrap_or(0).min(20 << 10),
                    false => at,
                };
                if content.len() < at + mark.len() {
                    content.resize(at + mark.len(), b' ');
                }
                content[at..at + mark.len()].copy_from_slice(mark);
            }
        }
        content.truncate(40 << 10);
    }
    content
}

fn base(compiled: &Compiled, rules: &[Rule], heads: &[Vec<u8>], rng: &mut Rng) -> Vec<u8> {
    match rng.u8(..8) {
        0 => {
            let mut known = known_files();
            let n = rng.usize(..known.len());
            std::mem::take(&mut known[n].content).into_owned()
        }
        1..4 => rng.choice(heads).cloned().unwrap_or_default(),
        _ => {
            let rule = &rules[rng.usize(..rules.len())];
            example(compiled, rule, rng.bool(), rng).unwrap_or_default()
        }
    }
}

/// The database of this machine, to be damaged.
fn bytes_of_database() -> Vec<u8> {
    std::fs::read(database::only_compiled().unwrap()).unwrap()
}

#[test]
fn a_database_that_is_not_as_it_should_be_is_refused() {
    let bytes = bytes_of_database();
    let refused = |bytes: Vec<u8>| Compiled::from_bytes(bytes).err();
    assert_eq!(refused(bytes.clone()), None);
    assert_eq!(refused(Vec::new()), Some(Refused("it is too short")));
    assert!(refused(bytes[..bytes.len() - 1].to_vec()).is_some());
    for (at, word) in [
        (0, 0x1C04_1EF1_u32),
        (4, 99),
        (8, 0),
        (8, u32::MAX),
        (12, u32::MAX),
        (12, 0),
    ] {
        let mut bytes = bytes.clone();
        bytes[at..at + 4].copy_from_slice(&word.to_ne_bytes());
        assert!(refused(bytes).is_some(), "{word:#x} at {at}");
    }
    assert!(Compiled::open("/nowhere").is_err() && Compiled::open("/dev/null").is_err());
}

/// Reads bytes as if they were a file's.
fn reader(content: &[u8]) -> impl Fn(&mut [u8], u64) -> Result<usize, rustix::io::Errno> {
    |buffer, at| {
        let n = buffer.len();
        buffer.copy_from_slice(&content[at as usize..at as usize + n]);
        Ok(n)
    }
}

fn in_memory<'a>(content: &'a [u8], read: &'a buffer::Reader<'a>) -> Buffer<'a> {
    Buffer::new(content, content.len() as u64, content.len(), read, &[])
}

#[test]
fn a_database_with_any_damage_is_read_without_harm() {
    let bytes = bytes_of_database();
    let entries = Compiled::from_bytes(bytes.clone()).unwrap();
    let size = entries.entry_bytes();
    for seed in 0..6 {
        let mut rng = Rng::with_seed(seed);
        let mut damaged = bytes.clone();
        for _ in 0..2000 {
            let at = rng.usize(size..damaged.len());
            damaged[at] = rng.u8(..);
        }
        let Ok(compiled) = Compiled::from_bytes(damaged) else {
            continue;
        };
        // Only what it finds out is asked for here: libmagic itself isn't made for damaged databases.
        let Some(mut prefilter) = Prefilter::new(Rc::new(compiled), library()) else {
            continue;
        };
        for KnownFile { content, .. } in known_files() {
            prefilter.collect(Stage::All, &in_memory(&content, &reader(&content)));
        }
    }
}

#[test]
fn it_stays_within_its_bounds() {
    let compiled = database();
    let rules = rules_of(&compiled, library());
    let mut subsets = Subsets::new(&compiled);
    // Each rule with a regular expression has a subset of its own: more of them than are kept.
    let wanted: Vec<u32> = (0..rules.len() as u32)
        .filter(|number| rules[*number as usize].regex)
        .collect();
    assert!(wanted.len() > 50, "{} regular expressions", wanted.len());
    let mut kept_with = |wanted: &[u32]| {
        subsets.cookie(&compiled, &rules, wanted);
        let (kept, bytes) = subsets.size();
        assert!(
            kept <= 8 && bytes <= 2 << 20,
            "{kept} subsets, {bytes} bytes"
        );
        kept
    };
    let mut most = 0;
    for number in &wanted {
        most = most.max(kept_with(&[*number]));
    }
    assert_eq!(most, 8);
    // And with as many others as there may be between them, where memory is what is short.
    for number in &wanted {
        let others = (0..).take_while(|other| other != number).take(1000);
        let others = others.filter(|other| !rules[*other as usize].regex);
        let wanted: Vec<u32> = others.chain([*number]).collect();
        kept_with(&wanted);
    }
}

#[test]
fn what_once_made_a_difference_makes_none() {
    let mut pair = Pair::new();
    for content in [
        // Text in UTF-7; one byte before zeros; zeros that hide a text from some tests.
        &b"+/v+* WARNING: do not edit!\n#include <stdio.h>\n"[..],
        b"\x9e\0\0\0\0\0\0",
        b"<?xml version=\0\0\0\0\0",
        // An offset that is read from beyond the end, and a letter that may have another case elsewhere.
        b"MZ\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
        b"id=\xE9magemagick\n:\n",
    ] {
        pair.agree(content, "once");
    }
    // A rule that may say something, but says nothing, and yet ends the walk before one that would answer.
    let mut mail = b"Delivered-To: somebody\nDate: ".to_vec();
    mail.resize(8172, b'\n');
    mail[70..72].copy_from_slice(b"\xCD!");
    mail.extend(b"SWAPSPACE2");
    pair.agree(&mail, "once");
    // A rule that may describe, and so may end the walk before one that is sure to answer.
    let mut disk = b"\x12HDD Raw Copy Tool\0".to_vec();
    disk.resize(360, 0);
    let mark = b"\xce\xed\x66\x66\xcc\x0d\x00\x0b\x03\x73\x00\x83\x00\x0c\x00\x0d";
    disk[0x104..0x114].copy_from_slice(mark);
    pair.agree(&disk, "once");
    // Searches in a named rule, from where it is used: to releases after 5.44 this is Nim, which has no MIME type.
    let dots = ".".repeat(300);
    let nim = format!("(setq x 1)\n{dots}\nimport os\n\n{dots}proc main\n{dots} when x\n{dots}\n");
    pair.agree(nim.as_bytes(), "once");
}
