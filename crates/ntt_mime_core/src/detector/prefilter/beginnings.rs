//! Rules whose first test compares for equality at a fixed position, all at once: reading the bytes there rules out
//! most of them.

use std::collections::BTreeMap;

use super::check::number::{Number, OP_AND, OP_INVERSE, OPS_MASK};
use super::check::string::{DER_LONG_FORM, DER_SEQUENCE, DER_TAG, is_space};
use super::check::{HARMLESS, UNDERSTOOD, offset_of};
use super::format::{Entry, kind, str_flag};
use super::hits::Hits;

/// A necessary condition for a test that compares for equality at a fixed position: under this mask, these bytes are
/// there. Fast to check, with up to eight bytes; beyond the end there are assumed to be zeros.
#[derive(Clone, Copy)]
pub struct Beginning {
    offset: usize,
    mask: u64,
    bytes: u64,
}

impl Beginning {
    /// The conditions of a test, one of which is necessary. Empty if none is known.
    pub fn of(entry: &Entry<'_>) -> Vec<Beginning> {
        let Some(offset) = offset_of(entry, None) else {
            return Vec::new();
        };
        if entry.relation() != b'=' {
            return Vec::new();
        }
        let (word, places) = match entry.kind() {
            kind::STRING | kind::SEARCH => (of_string(entry), places(entry)),
            kind::DER => return of_sequence(entry, offset),
            _ => (of_number(entry), 1),
        };
        let Some((mask, bytes)) = word else {
            return Vec::new();
        };
        let mask = u64::from_le_bytes(mask);
        let bytes = u64::from_le_bytes(bytes);
        // The value has bits that the mask removes; such a test always fails, and is left to libmagic.
        if mask == 0 || bytes & !mask != 0 {
            return Vec::new();
        }
        let at = |place| Beginning {
            offset: offset + place,
            mask,
            bytes,
        };
        (0..places).map(at).collect()
    }
}

/// The number of positions at which a string may begin, from the test's offset on: in one case more than `search_in`
/// tries. 0 if there are too many.
fn places(entry: &Entry<'_>) -> usize {
    const MOST: usize = 16;
    match entry.kind() {
        kind::SEARCH if (1..MOST).contains(&entry.range()) => entry.range() + 1,
        kind::SEARCH => 0,
        _ => 1,
    }
}

/// The mask and the bytes of a string. Up to its first blank, if blanks stand for any number of them, it is compared
/// byte by byte (`equals` in [`string`](super::check::string)), letters perhaps in either case.
fn of_string(entry: &Entry<'_>) -> Option<([u8; 8], [u8; 8])> {
    const BLANKS: u32 = str_flag::COMPACT_WHITESPACE | str_flag::COMPACT_OPTIONAL_WHITESPACE;
    let flags = entry.str_flags();
    let plain = flags & !HARMLESS == 0;
    let string = entry.kind() == kind::STRING;
    let cut = match plain {
        true => entry.range() != 0 && entry.range() < entry.value_length(),
        false => entry.range() != 0,
    };
    if flags & !UNDERSTOOD != 0 || string && cut {
        return None;
    }
    let value = entry.value().get(..entry.value_length())?;
    let end = match flags & BLANKS {
        0 => value.len(),
        _ => value
            .iter()
            .position(|byte| is_space(*byte))
            .unwrap_or(value.len()),
    };
    let (mut mask, mut bytes) = ([0; 8], [0; 8]);
    for (n, byte) in value[..end.min(8)].iter().enumerate() {
        mask[n] = match flags & str_flag::IGNORE_CASE != 0 && byte.is_ascii_alphabetic() {
            true => !0x20,
            false => 0xFF,
        };
        bytes[n] = byte & mask[n];
    }
    Some((mask, bytes))
}

/// An element of DER is a sequence, or has a tag that isn't evaluated (`der` in [`string`](super::check::string)).
fn of_sequence(entry: &Entry<'_>, offset: usize) -> Vec<Beginning> {
    let tag = |bytes| Beginning {
        offset,
        mask: u64::from(DER_TAG),
        bytes,
    };
    match entry.text() {
        b"seq" => vec![tag(u64::from(DER_SEQUENCE)), tag(u64::from(DER_LONG_FORM))],
        _ => Vec::new(),
    }
}

/// The mask and the bytes of a number.
fn of_number(entry: &Entry<'_>) -> Option<([u8; 8], [u8; 8])> {
    let (mut mask, mut bytes) = ([0; 8], [0; 8]);
    let Number {
        bytes: n,
        big_endian,
    } = Number::of(entry.kind(), false)?;
    let op = entry.mask_op();
    let kept = match (entry.mask(), op & OPS_MASK) {
        (0, _) => u64::MAX,
        (kept, OP_AND) => kept,
        _ => return None,
    };
    if op & OP_INVERSE != 0 {
        return None;
    }
    if big_endian {
        mask[..n].copy_from_slice(&kept.to_be_bytes()[8 - n..]);
        bytes[..n].copy_from_slice(&entry.number().to_be_bytes()[8 - n..]);
    } else {
        mask[..n].copy_from_slice(&kept.to_le_bytes()[..n]);
        bytes[..n].copy_from_slice(&entry.number().to_le_bytes()[..n]);
    }
    Some((mask, bytes))
}

/// The beginnings of rules.
pub struct Beginnings {
    /// Those at the very start, by their first byte.
    by_first_byte: Vec<Vec<At>>,
    /// All others, by position, in order.
    elsewhere: Vec<Position>,
}

struct At {
    rule: u32,
    mask: u64,
    bytes: u64,
}

impl At {
    fn fits(&self, word: u64) -> bool {
        word & self.mask == self.bytes
    }
}

/// Those at one position.
struct Position {
    offset: usize,
    /// The first bytes that occur among them, one bit each: at most positions, checking one byte is enough.
    first_bytes: [u64; 4],
    all: Vec<At>,
}

impl Position {
    fn add(&mut self, at: At) {
        for byte in 0..=u8::MAX {
            if u64::from(byte) & at.mask & 0xFF == at.bytes & 0xFF {
                self.first_bytes[usize::from(byte / 64)] |= 1 << (byte % 64);
            }
        }
        self.all.push(at);
    }

    fn may_begin_with(&self, byte: u8) -> bool {
        self.first_bytes[usize::from(byte / 64)] >> (byte % 64) & 1 == 1
    }
}

impl Beginnings {
    /// For rules, given by their numbers.
    pub fn new(all: Vec<(Beginning, u32)>) -> Beginnings {
        let mut by_first_byte: Vec<Vec<At>> = (0..256).map(|_| Vec::new()).collect();
        let mut elsewhere = BTreeMap::new();
        for (beginning, rule) in all {
            let Beginning {
                offset,
                mask,
                bytes,
            } = beginning;
            let at = At { rule, mask, bytes };
            if offset == 0 && mask & 0xFF == 0xFF {
                by_first_byte[(bytes & 0xFF) as usize].push(at);
                continue;
            }
            let place = || Position {
                offset,
                first_bytes: [0; 4],
                all: Vec::new(),
            };
            elsewhere.entry(offset).or_insert_with(place).add(at);
        }
        Beginnings {
            by_first_byte,
            elsewhere: elsewhere.into_values().collect(),
        }
    }

    /// Finds the rules that begin with these bytes, or may do so with those that follow: `len` in all.
    pub fn find(&self, bytes: &[u8], len: usize, hits: &mut Hits) {
        let Some(first) = bytes.first() else { return };
        let first = &self.by_first_byte[usize::from(*first)];
        find_at(first, word_at(bytes, 0), hits);
        for place in &self.elsewhere {
            let Some(byte) = bytes.get(place.offset) else {
                break;
            };
            if place.may_begin_with(*byte) {
                match place.offset + 8 > bytes.len() && bytes.len() < len {
                    true => place.all.iter().for_each(|at| hits.add(at.rule)),
                    false => find_at(&place.all, word_at(bytes, place.offset), hits),
                }
            }
        }
        let in_hand = |place: &Position| place.offset < bytes.len();
        for place in &self.elsewhere[self.elsewhere.partition_point(in_hand)..] {
            match place.offset < len {
                true => place.all.iter().for_each(|at| hits.add(at.rule)),
                // Where there is nothing, libmagic sees zeros.
                false => find_at(&place.all, 0, hits),
            }
        }
    }
}

/// Finds those at a position that match what is there.
fn find_at(all: &[At], word: u64, hits: &mut Hits) {
    for at in all {
        if at.fits(word) {
            hits.add(at.rule);
        }
    }
}

/// Eight bytes from a position on, with zeros beyond the end.
fn word_at(bytes: &[u8], offset: usize) -> u64 {
    match bytes.get(offset..offset + 8) {
        Some(word) => u64::from_le_bytes(word.try_into().expect("eight bytes")),
        None => {
            let rest = bytes.get(offset..).unwrap_or_default();
            let mut word = [0; 8];
            word[..rest.len()].copy_from_slice(rest);
            u64::from_le_bytes(word)
        }
    }
}
