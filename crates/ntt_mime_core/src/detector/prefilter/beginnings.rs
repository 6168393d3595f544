//! Rules whose first test compares for equality at a fixed place, all at once: a look at the bytes there rules most of
//! them out.

use super::check::number::{Number, OP_AND, OP_INVERSE, OPS_MASK};
use super::check::{HARMLESS, offset_of};
use super::format::{Entry, kind};
use super::tables::Hits;

/// A necessary condition of a test that compares for equality at a fixed place: there, under this mask, are these
/// bytes. Quick to try, on up to eight bytes; zeros count as being there beyond the end.
#[derive(Clone, Copy)]
pub struct Beginning {
    offset: usize,
    mask: u64,
    bytes: u64,
}

impl Beginning {
    /// That of a test, if it has one.
    pub fn of(entry: &Entry<'_>) -> Option<Beginning> {
        let offset = offset_of(entry, None)?;
        if entry.relation() != b'=' {
            return None;
        }
        let (mut mask, mut bytes) = ([0; 8], [0; 8]);
        if entry.kind() == kind::STRING {
            let n = entry.value_length().min(8);
            let cut = entry.range() != 0 && entry.range() < entry.value_length();
            if entry.str_flags() & !HARMLESS != 0 || cut || n == 0 {
                return None;
            }
            mask[..n].fill(0xFF);
            bytes[..n].copy_from_slice(&entry.value()[..n]);
        } else {
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
        }
        let mask = u64::from_le_bytes(mask);
        let bytes = u64::from_le_bytes(bytes);
        // What the mask takes away can't be asked for; such a test always fails, and is left to libmagic.
        (mask != 0 && bytes & !mask == 0).then_some(Beginning {
            offset,
            mask,
            bytes,
        })
    }
}

/// The beginnings of rules.
pub struct Beginnings {
    /// Those at the very start, by their first byte.
    by_first_byte: Vec<Vec<At>>,
    /// All others.
    elsewhere: Vec<At>,
}

struct At {
    offset: u32,
    rule: u32,
    mask: u64,
    bytes: u64,
}

impl Beginnings {
    /// Of rules, by number.
    pub fn new(all: Vec<(Beginning, u32)>) -> Beginnings {
        let mut by_first_byte: Vec<Vec<At>> = (0..256).map(|_| Vec::new()).collect();
        let mut elsewhere = Vec::new();
        for (
            Beginning {
                offset,
                mask,
                bytes,
            },
            rule,
        ) in all
        {
            let at = At {
                offset: offset as u32,
                rule,
                mask,
                bytes,
            };
            match offset == 0 && mask & 0xFF == 0xFF {
                true => by_first_byte[(bytes & 0xFF) as usize].push(at),
                false => elsewhere.push(at),
            }
        }
        elsewhere.sort_by_key(|at| at.offset);
        Beginnings {
            by_first_byte,
            elsewhere,
        }
    }

    /// Finds the rules that begin as these bytes do, or may do so if there are more of them: `len` in all.
    pub fn find(&self, bytes: &[u8], len: usize, hits: &mut Hits) {
        let Some(first) = bytes.first() else { return };
        let more = len > bytes.len();
        let word = word_at(bytes, 0);
        for at in &self.by_first_byte[usize::from(*first)] {
            if word & at.mask == at.bytes {
                hits.add(at.rule);
            }
        }
        let (mut offset, mut word) = (0, word);
        for at in &self.elsewhere {
            if more && at.offset as usize + 8 > bytes.len() {
                // It isn't there, and zeros are what libmagic sees then.
                let beyond = at.offset as usize >= len;
                if !beyond || at.bytes == 0 {
                    hits.add(at.rule);
                }
                continue;
            }
            if at.offset != offset {
                // They are in order.
                if at.offset as usize >= bytes.len() + 8 {
                    break;
                }
                offset = at.offset;
                word = word_at(bytes, offset as usize);
            }
            if word & at.mask == at.bytes {
                hits.add(at.rule);
            }
        }
    }
}

/// Eight bytes from there on, with zeros beyond the end.
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
