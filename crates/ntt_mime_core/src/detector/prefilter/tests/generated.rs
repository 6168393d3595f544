//! Contents made from the rules, in the dimensions in which differences have once been: how far a pointer leads, how many
//! blanks there are, where a file is cut, what byte stands in a text, and what stands before and behind a mark.
//!
//! A slice, the same every time. NTT_MIME_DIFFERENCES=1000000 makes as many, and NTT_MIME_DIFFERENCES_FROM=970000 begins
//! with that one.

use fastrand::Rng;

use super::super::Rule;
use super::super::format::{Compiled, flag};
use super::example::example;
use super::{database, in_slice, library, rules_of};

/// In an ordinary test run.
const GENERATED: usize = 6_000;

/// Contents are made no longer than this by putting them together.
const LONGEST: usize = 450_000;

#[test]
fn generated_contents_have_the_same_type() {
    let compiled = database();
    let rules = rules_of(&compiled, library());
    in_slice(GENERATED, 0x6E4E, |pair, n, rng| {
        // Rules in turn, so that each is met.
        let rule = &rules[(n * 7919) % rules.len()];
        let content = generated(&compiled, &rules, rule, rng);
        pair.agree(&content, &format!("content {n}, entry {}", rule.first));
    });
}

fn generated(compiled: &Compiled, rules: &[Rule], rule: &Rule, rng: &mut Rng) -> Vec<u8> {
    let mut content = example(compiled, rule, rng.u8(..4) > 0, rng).unwrap_or_default();
    let what = match rng.u8(..12) {
        _ if rule.text && rng.bool() => 3,
        what => what,
    };
    match what {
        // As short as it makes a difference.
        0 | 1 => content.truncate(rng.usize(2..=64)),
        // Where its marks end.
        2 => {
            let end = content.iter().rposition(|byte| *byte != 0).unwrap_or(0);
            content.truncate(end + rng.usize(..4));
        }
        // Another byte in a text.
        3 | 4 => {
            let text: &[u8] = b"some words and more of them\n";
            if rng.bool() {
                content.extend(text.repeat(rng.usize(1..3000)));
            }
            // Some encodings have a mark.
            if rng.u8(..4) == 0 {
                let marks: [&[u8]; 4] = [b"+/v8", b"+/v9", b"\xEF\xBB\xBF", b"\xFF\xFE"];
                let mark = marks[rng.usize(..marks.len())];
                content.splice(..0, mark.iter().copied());
            }
            let at = rng.usize(..=content.len());
            // At the start, rather, where it is not further than 64 kB.
            let at = if rng.bool() { at.min(40) } else { at };
            // Those that releases and encodings have been of different minds about.
            let byte = match rng.bool() {
                true => *rng.choice(&[0x85, 0x85, 0x1A, 0x80]).expect("some"),
                false => rng.u8(..),
            };
            match content.get_mut(at) {
                Some(there) => *there = byte,
                None => content.push(byte),
            }
        }
        // Another rule's content before it, behind it, or over it where it has zeros or blanks.
        5..8 => {
            let other = &rules[rng.usize(..rules.len())];
            let other = example(compiled, other, rng.bool(), rng).unwrap_or_default();
            let n = content.len().max(other.len());
            let filler = if rule.text { b' ' } else { 0 };
            content.resize(n, filler);
            for (byte, over) in content.iter_mut().zip(&other) {
                if *byte == filler {
                    *byte = *over;
                }
            }
        }
        // The same one after another.
        8 => {
            let other = &rules[rng.usize(..rules.len())];
            let other = example(compiled, other, rng.bool(), rng).unwrap_or_default();
            content.extend(other);
        }
        // Short, with what another rule looks for at the end.
        9 | 10 => {
            content.truncate(rng.usize(2..=24));
            let of_end: Vec<&Rule> = rules
                .iter()
                .filter(|rule| compiled.entry(rule.first).flag() & flag::OFFNEGATIVE != 0)
                .collect();
            let other = rng.choice(of_end);
            let other = other.and_then(|other| example(compiled, other, false, rng));
            let other = other.unwrap_or_default();
            let begin = other.iter().position(|byte| *byte != 0);
            content.extend(&other[begin.unwrap_or(other.len())..]);
        }
        // Longer, so that what counts from the end or by the size is met.
        _ => {
            let filler = *rng.choice(&[0, b' ', b'\n', 0x55, 0xFF]).expect("some");
            // Blanks are what takes libmagic longest.
            let most = if filler.is_ascii_whitespace() { 11 } else { 19 };
            let more = 1 << rng.usize(4..most);
            let n = (content.len() + rng.usize(..more)).min(LONGEST);
            content.resize(n.max(content.len()), filler);
        }
    }
    content.truncate(LONGEST);
    content
}
