//! Contents on which a rule succeeds, made from the rule.

use fastrand::Rng;
use regex_syntax::hir::{Class, Hir, HirKind, Look};

use super::super::check::offset_of;
use super::super::format::{Compiled, Entry, flag, kind, str_flag};
use super::super::{Rule, regex::translate};

/// Furthest from the start that an example puts something.
const LONGEST: usize = 70_000;

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
    if with_continuations && entry.kind() == kind::SEARCH && entry.range() < LONGEST {
        start += entry.range().saturating_sub(rng.usize(..3)) + rng.usize(..2);
    }
    let mut end = put(&mut content, start, &mark, filler)?;
    if with_continuations {
        for number in rule.first + 1..rule.end {
            let entry = compiled.entry(number);
            if rng.u8(..3) == 0 {
                continue;
            }
            if let (Some(at), Some(mark)) = (
                offset_of(&entry, Some(end)),
                super::example::mark(&entry, rng),
            ) {
                end = put(&mut content, at, &mark, filler).unwrap_or(end);
            }
        }
    }
    // More than the rule asks for: some look a byte further, and a regular expression doesn't see the last.
    content.extend(std::iter::repeat_n(
        if rule.text { b'\n' } else { filler },
        rng.usize(1..40),
    ));
    Some(content)
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
