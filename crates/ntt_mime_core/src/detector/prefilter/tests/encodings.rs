//! Texts in the encodings that have marks, and what comes near them: what a rule for text looks for in UTF-16, UTF-32 or UTF-7, with
//! units that releases are of different minds about, cut anywhere, before zeros, and with Control-Z.
//!
//! A slice, the same every time; NTT_MIME_DIFFERENCES and NTT_MIME_DIFFERENCES_FROM as for the other generated contents.

use fastrand::Rng;

use super::super::Rule;
use super::super::format::Compiled;
use super::example::example;
use super::{database, in_slice, library, rules_of};

/// In an ordinary test run.
const GENERATED: usize = 2_000;

/// Units that not every text has.
const UNITS: [u32; 22] = [
    0, 1, 7, 0x1A, 0x1B, 0x7F, 0x80, 0x85, 0xA0, 0xFF, 0x20AC, 0xD800, 0xD83D, 0xDBFF, 0xDC00,
    0xDE00, 0xDFFF, 0xFDD0, 0xFEFF, 0xFFFD, 0xFFFE, 0xFFFF,
];

/// Those that only UTF-32 has.
const LONG_UNITS: [u32; 6] = [
    0x1_0000,
    0x10_FFFF,
    0x20_0000,
    0x400_0000,
    0x7FFF_FFFF,
    0x8000_0000,
];

#[test]
fn texts_in_other_encodings_have_the_same_type() {
    let compiled = database();
    let rules = rules_of(&compiled, library());
    let of_text: Vec<&Rule> = rules.iter().filter(|rule| rule.text).collect();
    in_slice(GENERATED, 0x57F1, |pair, n, rng| {
        let rule = of_text[(n * 7919) % of_text.len()];
        let content = generated(&compiled, rule, rng);
        pair.agree(&content, &format!("text {n}, entry {}", rule.first));
    });
}

fn generated(compiled: &Compiled, rule: &Rule, rng: &mut Rng) -> Vec<u8> {
    let mut text: Vec<u32> = match rng.u8(..8) {
        0 => Vec::new(),
        1 => b"a,b,c\nd,e,f\n".repeat(rng.usize(1..8)),
        _ => example(compiled, rule, rng.u8(..4) > 0, rng).unwrap_or_default(),
    }
    .into_iter()
    // Where a rule leaves it open.
    .map(|byte| u32::from(if byte == 0 { b' ' } else { byte }))
    .collect();
    if rng.bool() {
        // On either side of what is in hand, and of what an encoding is told by.
        let length = *rng
            .choice(&[40, 8 << 10, 16 << 10, 32 << 10, 40 << 10])
            .expect("some");
        let length: usize = length + rng.usize(..24);
        let words = b"some words and more of them\n".iter().cycle();
        let more = length.saturating_sub(text.len());
        text.extend(words.take(more).map(|byte| u32::from(*byte)));
    }
    let encoding = rng.u8(..10);
    for _ in 0..rng.u8(..3) {
        let unit = match encoding {
            6.. if rng.bool() => *rng.choice(&LONG_UNITS).expect("some"),
            _ => *rng.choice(&UNITS).expect("some"),
        };
        let at = match rng.u8(..3) {
            0 => text.len(),
            1 => rng.usize(..=text.len().min(40)),
            _ => rng.usize(..=text.len()),
        };
        text.insert(at, unit);
        if rng.bool() {
            // The other half of a pair.
            text.insert(at + 1, 0xDC00 + rng.u32(..0x400));
        }
    }
    let marked = || std::iter::once(0xFEFF).chain(text.iter().copied());
    let mut content: Vec<u8> = match encoding {
        0 => b"+/v8".iter().copied().chain(bytes_of(&text)).collect(),
        1 => bytes_of(&text).collect(),
        2 | 3 => marked()
            .flat_map(|unit| (unit as u16).to_le_bytes())
            .collect(),
        4 | 5 => marked()
            .flat_map(|unit| (unit as u16).to_be_bytes())
            .collect(),
        6 | 7 => marked().flat_map(u32::to_le_bytes).collect(),
        _ => marked().flat_map(u32::to_be_bytes).collect(),
    };
    match rng.u8(..8) {
        // Cut within a unit, or right behind the mark.
        0 => content.truncate(content.len().saturating_sub(rng.usize(1..4))),
        1 => content.truncate(rng.usize(..12)),
        // Zeros, and perhaps something behind them.
        2 | 3 => {
            let zeros = match rng.bool() {
                true => rng.usize(1..8),
                false => rng.usize(1..70_000),
            };
            content.resize(content.len() + zeros, 0);
            if rng.u8(..4) == 0 {
                content.push(b'x');
            }
        }
        // A byte too many, so that all units behind it are others.
        4 => {
            let at = rng.usize(..=content.len());
            content.insert(at, rng.u8(..));
        }
        _ => {}
    }
    content
}

fn bytes_of(text: &[u32]) -> impl Iterator<Item = u8> {
    text.iter().map(|unit| *unit as u8)
}
