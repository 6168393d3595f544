//! What is decided without libmagic, or by a look at a few bytes, against the longer way.

use super::super::format::{Entry, kind};
use super::follow::{Made, compiled as made};
use super::*;
use crate::detector::prefilter::beginnings::Beginning;

/// Contents to try, and how long those may be that each rule is tried on.
const CONTENTS: usize = 1_000;
const LONGEST: usize = 600;

/// No rule is ruled out by what it has to begin with, if its first test may succeed.
#[test]
fn a_rule_that_may_match_begins_as_it_has_to() {
    let compiled = database();
    let library = library();
    let rules = rules_of(&compiled, library);
    let tables = Tables::new(&compiled, &rules, library).unwrap();
    let begin = |rule: &&Rule| !Beginning::of(&compiled.entry(rule.first)).is_empty();
    let known: Vec<&Rule> = rules.iter().filter(begin).collect();
    assert!(known.len() * 10 > rules.len() * 9, "{}", known.len());
    let mut rng = Rng::with_seed(7);
    let mut hits = [Hits::new(rules.len()), Hits::new(rules.len())];
    let mut matched = 0;
    for _ in 0..CONTENTS {
        let rule = known[rng.usize(..known.len())];
        let Some(mut content) = example(&compiled, rule, false, &mut rng) else {
            continue;
        };
        vary(&mut content, &compiled.entry(rule.first), &mut rng);
        // Of nothing at all, or a single byte, no rule is tried.
        content.truncate(LONGEST);
        if content.len() < 2 {
            continue;
        }
        hits.iter_mut().for_each(Hits::clear);
        tables.find_binary(&content, content.len(), &mut hits[0]);
        tables.find_text(&content, &mut hits[1]);
        let [binary, text] = hits
            .each_ref()
            .map(|hits| hits.iter(ALL).collect::<Vec<_>>());
        for (number, rule) in rules.iter().enumerate().filter(|(_, rule)| begin(rule)) {
            if may_match(library, &compiled.entry(rule.first), &content) {
                matched += 1;
                let first = rule.first;
                let start = &content[..content.len().min(60)];
                assert!(
                    !rule.binary || binary.contains(&number),
                    "{first}: {start:?}"
                );
                assert!(!rule.text || text.contains(&number), "{first}: {start:?}");
            }
        }
    }
    assert!(matched > CONTENTS / 4, "only {matched}");
}

/// May this first test succeed? It is none of those that go by regular expressions.
fn may_match(library: &Library, entry: &Entry<'_>, content: &[u8]) -> bool {
    let buffer = Buffer::of_text(content);
    let offset = offset_of(entry, None).expect("it has a fixed place");
    let no_regex = |_: &[u8]| (Answer::Maybe, None);
    check(
        library,
        entry,
        Bytes::front(&buffer),
        offset,
        false,
        no_regex,
    )
    .answer
        != Answer::No
}

/// Changes what stands where a test looks.
fn vary(content: &mut Vec<u8>, entry: &Entry<'_>, rng: &mut Rng) {
    let at = offset_of(entry, None).unwrap_or(0).min(content.len());
    for _ in 0..rng.usize(..3) {
        let near = at + rng.usize(..12);
        match (rng.u8(..6), content.get_mut(near)) {
            (0, Some(byte)) => *byte ^= 0x20,
            (1, Some(byte)) => *byte = *rng.choice(b" \t\n#!<\0a").unwrap(),
            (2, Some(_)) => content.insert(near, *rng.choice(b" \t\n#!<\0a").unwrap()),
            (3, Some(_)) => drop(content.remove(near)),
            (4, Some(_)) => content.truncate(near),
            (5, Some(_)) => {
                content.splice(near..near, vec![b' '; rng.usize(1..40)]);
            }
            _ => {}
        }
    }
}

/// A search is tried at one place of a run of blanks where the others have the same result.
#[test]
fn a_run_of_blanks_is_searched_as_place_by_place() {
    let mut rng = Rng::with_seed(11);
    let text = |rng: &mut Rng, most: usize| -> Vec<u8> {
        let n = rng.usize(1..=most);
        let byte = |_| *rng.choice(b"   \t\tab.").unwrap();
        (0..n).map(byte).collect()
    };
    let mut found = 0;
    for _ in 0..50_000 {
        let value = text(&mut rng, 5);
        let bytes = text(&mut rng, 30);
        let flags = rng.u32(1..4) | (rng.u32(..2) * str_flag::FULL_WORD) | (rng.u32(..2) << 2);
        let range = rng.u32(1..20);
        let rule = |range: u32| {
            let mut search = Made::string(0, 0, std::str::from_utf8(&value).unwrap());
            search.0[6] = kind::SEARCH;
            search.0[24..28].copy_from_slice(&range.to_ne_bytes());
            search.0[28..32].copy_from_slice(&flags.to_ne_bytes());
            made(&[search], &[])
        };
        let buffer = Buffer::of_text(&bytes);
        let front = Bytes::front(&buffer);
        let search = |compiled: &Compiled, offset: usize| {
            check::string::search(&compiled.entry(0), front, offset)
        };
        let (whole, one) = (rule(range), rule(1));
        let mut places = (0..range as usize).map(|place| search(&one, place));
        let expected = places.find(|found| found.answer != Answer::No);
        let expected = expected.unwrap_or(Answer::No.into());
        assert_eq!(
            search(&whole, 0),
            expected,
            "{value:?} in {bytes:?}, {flags:x}"
        );
        found += usize::from(expected.answer == Answer::Yes);
    }
    assert!(found > 5_000, "{found}");
}

/// CSV is known without libmagic.
#[test]
fn csv_is_what_libmagic_takes_for_it() {
    in_parallel(CONTENTS, |pair, n| {
        let mut rng = Rng::with_seed(n as u64);
        let line = |rng: &mut Rng| -> Vec<u8> {
            let parts: [&[u8]; 12] = [
                b"a",
                b",",
                b",",
                b"word",
                b"\"",
                b"\"x,\ny\"",
                b"\"\"",
                b" ",
                "\u{e9}".as_bytes(),
                b"1",
                b"\r",
                b"{",
            ];
            let n = rng.usize(..6);
            let mut line: Vec<u8> = (0..n)
                .flat_map(|_| parts[rng.usize(..12)])
                .copied()
                .collect();
            line.push(b'\n');
            line
        };
        // The same again and again, so that it is CSV now and then.
        let usual = line(&mut rng);
        let mut content = Vec::new();
        for _ in 0..rng.usize(1..14) {
            match rng.u8(..12) {
                0 => content.extend(line(&mut rng)),
                _ => content.extend_from_slice(&usual),
            }
        }
        match rng.u8(..10) {
            0 => content.extend(
                *rng.choice(&[&b"end"[..], b"a,", b"\xE9", b"\x1a", b"\0", b"\x01"])
                    .unwrap(),
            ),
            1 => drop(content.pop()),
            2 => content.insert(0, *rng.choice(b"[{+\xEF\xFF\x85 ").unwrap()),
            3 => content = content.repeat(1 + 70_000 / content.len()),
            _ => {}
        }
        pair.agree(&content, &format!("CSV {n}"));
    });
}
