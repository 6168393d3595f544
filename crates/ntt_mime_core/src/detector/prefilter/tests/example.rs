//! Contents on which a rule succeeds, made from the rule.

use fastrand::Rng;
use regex_syntax::hir::{Class, Hir, HirKind, Look};

use super::super::check::number::Number;
use super::super::check::offset_of;
use super::super::check::string::is_space;
use super::super::format::{Compiled, Entry, flag, kind, str_flag};
use super::super::{Rule, regex::translate};

/// Furthest from the start that an example puts something: behind the furthest place that a rule looks at by itself.
const LONGEST: usize = 420_000;

/// A content for a rule: what its first test looks for, and, if asked for, what some of its continuations do. None if
/// the rule looks too far away.
pub fn example(
    compiled: &Compiled,
    rule: &Rule,
    with_continuations: bool,
    rng: &mut Rng,
) -> Option<Vec<u8>> {
    let entry = compiled.entry(rule.first);
    let filler = if rule.text { b' ' } else { 0 };
    let mut content = Vec::new();
    let mark = mark(&entry, rng)?;
    if entry.flag() & flag::OFFNEGATIVE != 0 {
        content.resize(100, filler);
        let back = usize::try_from(entry.offset()).ok()?;
        content.resize(content.len() + back.max(mark.len()), filler);
        let at = content.len() - back.max(mark.len());
        content[at..at + mark.len()].copy_from_slice(&mark);
        return Some(content);
    }
    let mut start = offset_of(&entry, None).unwrap_or(0);
    // As far away as a search goes, or just not: that is where it is easily wrong.
    if with_continuations {
        start += within_range(&entry, rng);
    }
    let mut end = put(&mut content, start, &mark, filler)?;
    if with_continuations {
        for number in rule.first + 1..rule.end {
            let entry = compiled.entry(number);
            if rng.u8(..3) == 0 {
                continue;
            }
            if entry.flag() & flag::INDIR != 0 {
                end = put_behind_pointer(&mut content, &entry, end, filler, rng).unwrap_or(end);
                continue;
            }
            if let (Some(at), Some(mark)) = (
                offset_of(&entry, Some(end)),
                super::example::mark(&entry, rng),
            ) {
                let at = at + within_range(&entry, rng);
                end = put(&mut content, at, &mark, filler).unwrap_or(end);
            }
        }
        if let Some(size) = size_asked_for(compiled, rule, rng) {
            content.resize(size, filler);
            return Some(content);
        }
    }
    // More than the rule asks for: some look a byte further, and a regular expression doesn't see the last.
    content.extend(std::iter::repeat_n(
        if rule.text { b'\n' } else { filler },
        rng.usize(1..40),
    ));
    Some(content)
}

/// How far into its range a search finds something: as far as it goes, or just not, since that is where it is easily
/// wrong; or anywhere.
fn within_range(entry: &Entry<'_>, rng: &mut Rng) -> usize {
    if entry.kind() != kind::SEARCH || entry.range() >= LONGEST {
        return 0;
    }
    match rng.u8(..4) {
        0 => 0,
        1 => rng.usize(..=entry.range()),
        _ => entry.range().saturating_sub(rng.usize(..3)) + rng.usize(..2),
    }
}

/// The size of the file that a rule asks for, or one that is just not.
fn size_asked_for(compiled: &Compiled, rule: &Rule, rng: &mut Rng) -> Option<usize> {
    let entries = (rule.first..rule.end).map(|number| compiled.entry(number));
    let sizes: Vec<usize> = entries
        .filter(|entry| {
            entry.kind() == super::library().offset && entry.flag() & flag::OFFNEGATIVE != 0
        })
        .map(|entry| entry.number() as usize)
        .filter(|size| (2..LONGEST).contains(size))
        .collect();
    Some((rng.choice(sizes)? + 1).saturating_sub(rng.usize(..3)))
}

/// What the first test of a rule looks for, with so many blanks wherever it takes any number; None if it doesn't.
pub fn with_long_blanks(compiled: &Compiled, rule: &Rule, blanks: usize) -> Option<Vec<u8>> {
    let entry = compiled.entry(rule.first);
    let any = [kind::STRING, kind::SEARCH].contains(&entry.kind());
    let value = entry.value().get(..entry.value_length())?;
    if !any || entry.str_flags() & BLANKS == 0 || !value.iter().any(|byte| is_space(*byte)) {
        return None;
    }
    let mut content = Vec::new();
    for byte in value {
        content.push(*byte);
        if is_space(*byte) {
            content.extend(std::iter::repeat_n(b' ', blanks));
        }
    }
    content.extend(b"\"x\" words\n");
    Some(content)
}

/// Where pointers are made to lead: near, within the head, beyond it, and far beyond.
const TARGETS: [usize; 8] = [40, 600, 8_000, 16_380, 20_000, 40_000, 66_000, 200_000];

/// Puts what a test looks for somewhere, and a pointer there where the test reads it.
fn put_behind_pointer(
    content: &mut Vec<u8>,
    entry: &Entry<'_>,
    parent: usize,
    filler: u8,
    rng: &mut Rng,
) -> Option<usize> {
    let number = Number::of(entry.in_kind(), false)?;
    let from = match entry.flag() & flag::OFFADD {
        0 => 0,
        _ => parent as i64,
    };
    let at = usize::try_from(from + i64::from(entry.offset())).ok()?;
    let to = rng.choice(TARGETS)? + rng.usize(..64);
    let base = match entry.flag() & flag::INDIROFFADD {
        0 => 0,
        _ => parent as i64,
    };
    let by = i64::from(entry.in_offset());
    // `FILE_OPADD`, `FILE_OPMINUS` and `FILE_OPMULTIPLY`.
    let pointer = match (by, entry.in_op() & 7) {
        (0, _) => to as i64 - base,
        (_, 3) => to as i64 - base - by,
        (_, 4) => to as i64 - base + by,
        (_, 5) => (to as i64 - base) / by,
        _ => return None,
    };
    let word = match number.big_endian {
        true => pointer.to_be_bytes()[8 - number.bytes..].to_vec(),
        false => pointer.to_le_bytes()[..number.bytes].to_vec(),
    };
    let mark = mark(entry, rng)?;
    put(content, at, &word, filler)?;
    put(content, to, &mark, filler)
}

fn put(content: &mut Vec<u8>, at: usize, mark: &[u8], filler: u8) -> Option<usize> {
    let end = at + mark.len();
    if end > LONGEST {
        return None;
    }
    if content.len() < end {
        content.resize(end, filler);
    }
    content[at..end].copy_from_slice(mark);
    Some(end)
}

/// What a test looks for.
fn mark(entry: &Entry<'_>, rng: &mut Rng) -> Option<Vec<u8>> {
    let value = entry.value().get(..entry.value_length())?.to_vec();
    let number = |bytes: usize, big_endian: bool| {
        let mut number = entry.number();
        // What a mask takes away may be anything.
        if entry.mask() != 0 && entry.mask_op() == 0 {
            number |= rng.clone().u64(..) & !entry.mask();
        }
        match entry.relation() {
            b'>' => number = number.wrapping_add(1),
            b'<' | b'!' => number = number.wrapping_sub(1),
            _ => {}
        }
        match big_endian {
            true => number.to_be_bytes()[8 - bytes..].to_vec(),
            false => number.to_le_bytes()[..bytes].to_vec(),
        }
    };
    Some(match entry.kind() {
        kind::STRING | kind::SEARCH if entry.str_flags() & BLANKS != 0 => with_blanks(&value, rng),
        kind::STRING | kind::SEARCH => value,
        kind::PSTRING => [vec![value.len() as u8], value].concat(),
        kind::LESTRING16 => value.iter().flat_map(|byte| [*byte, 0]).collect(),
        kind::BESTRING16 => value.iter().flat_map(|byte| [0, *byte]).collect(),
        kind::GUID => entry.value()[..16].to_vec(),
        kind::DER => vec![0x30, 0x20, 0x30, 0x10],
        kind::REGEX => {
            let ignore_case = entry.str_flags() & str_flag::IGNORE_CASE != 0;
            let source = translate(entry.text(), ignore_case)?;
            let hir = regex_syntax::ParserBuilder::new()
                .utf8(false)
                .build()
                .parse(&source)
                .ok()?;
            let mut out = Vec::new();
            write(&hir, rng, &mut out);
            out
        }
        kind::BYTE => number(1, false),
        kind::SHORT | kind::LESHORT => number(2, false),
        kind::BESHORT => number(2, true),
        kind::LONG | kind::LELONG | kind::DATE | kind::LEDATE | kind::LDATE | kind::LELDATE => {
            number(4, false)
        }
        kind::BELONG | kind::BEDATE | kind::BELDATE => number(4, true),
        kind::QUAD | kind::LEQUAD => number(8, false),
        kind::BEQUAD => number(8, true),
        _ => Vec::new(),
    })
}

/// Flags with which a blank stands for several.
const BLANKS: u32 = str_flag::COMPACT_WHITESPACE | str_flag::COMPACT_OPTIONAL_WHITESPACE;

/// The value with a run of blanks where it has one, of any length.
fn with_blanks(value: &[u8], rng: &mut Rng) -> Vec<u8> {
    let mut out = Vec::new();
    for byte in value {
        out.push(*byte);
        if is_space(*byte) && rng.bool() {
            // 1 to 20,000, most of them short: libmagic takes long over blanks.
            let most = match rng.u8(..16) {
                0 => 20_000,
                _ => 1 << rng.usize(..10),
            };
            let blank = if rng.u8(..8) == 0 { *byte } else { b' ' };
            out.extend(std::iter::repeat_n(blank, rng.usize(1..=most)));
        }
    }
    out
}

/// Writes something that a regular expression matches.
fn write(hir: &Hir, rng: &mut Rng, out: &mut Vec<u8>) {
    match hir.kind() {
        HirKind::Empty => {}
        HirKind::Literal(literal) => out.extend(&*literal.0),
        HirKind::Class(Class::Bytes(class)) => {
            // Letters and signs rather than control characters, where there is a choice.
            let ranges: Vec<_> = class
                .ranges()
                .iter()
                .map(|range| (range.start(), range.end()))
                .collect();
            let readable = ranges
                .iter()
                .find(|(start, end)| *end > b' ' && *start < 0x7F);
            if let Some((start, end)) = readable.or(ranges.first()) {
                out.push(rng.u8((*start).max(b' ').min(*end)..=(*end).min(b'~').max(*start)));
            }
        }
        HirKind::Class(Class::Unicode(class)) => {
            out.extend(class.ranges().first().map(|range| range.start() as u8))
        }
        HirKind::Look(Look::StartLF) if out.last().is_some_and(|byte| *byte != b'\n') => {
            out.push(b'\n')
        }
        HirKind::Look(Look::EndLF) => out.push(b'\n'),
        HirKind::Look(_) => {}
        HirKind::Repetition(repetition) => {
            let most = repetition
                .max
                .unwrap_or(repetition.min + 2)
                .min(repetition.min + 2);
            for _ in 0..rng.u32(repetition.min..=most) {
                write(&repetition.sub, rng, out);
            }
        }
        HirKind::Capture(capture) => write(&capture.sub, rng, out),
        HirKind::Concat(parts) => parts.iter().for_each(|part| write(part, rng, out)),
        HirKind::Alternation(parts) => write(&parts[rng.usize(..parts.len())], rng, out),
    }
}
