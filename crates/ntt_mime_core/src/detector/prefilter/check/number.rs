//! Tests of numbers, and offsets that are numbers in the file.

use super::super::buffer::Bytes;
use super::super::format::{Entry, flag, kind};
use super::{Answer, Found, Library};

/// The representation of a number.
pub struct Number {
    pub bytes: usize,
    pub big_endian: bool,
}

impl Number {
    /// How a test of this kind reads it; with `flip`, in the opposite byte order if the kind specifies one
    /// (`cvt_flip`).
    pub fn of(kind: u8, flip: bool) -> Option<Number> {
        let mut number = Number::plain(kind)?;
        let named = !matches!(
            kind,
            kind::BYTE | kind::SHORT | kind::LONG | kind::DATE | kind::LDATE | kind::QUAD
        );
        number.big_endian ^= flip && named;
        Some(number)
    }

    fn plain(kind: u8) -> Option<Number> {
        let native = cfg!(target_endian = "big");
        let (bytes, big_endian) = match kind {
            kind::BYTE => (1, native),
            kind::SHORT => (2, native),
            kind::BESHORT => (2, true),
            kind::LESHORT => (2, false),
            kind::LONG | kind::DATE | kind::LDATE => (4, native),
            kind::BELONG | kind::BEDATE | kind::BELDATE => (4, true),
            kind::LELONG | kind::LEDATE | kind::LELDATE => (4, false),
            kind::QUAD => (8, native),
            kind::BEQUAD => (8, true),
            kind::LEQUAD => (8, false),
            _ => return None,
        };
        Some(Number { bytes, big_endian })
    }

    /// The number; None if there aren't enough bytes.
    fn read(&self, bytes: &[u8]) -> Option<u64> {
        let n = self.bytes;
        let bytes = bytes.get(..n)?;
        let mut word = [0; 8];
        Some(match self.big_endian {
            true => {
                word[8 - n..].copy_from_slice(bytes);
                u64::from_be_bytes(word)
            }
            false => {
                word[..n].copy_from_slice(bytes);
                u64::from_le_bytes(word)
            }
        })
    }

    /// Interprets it as a signed number of that many bytes.
    fn signed(&self, value: u64) -> i64 {
        let shift = 64 - 8 * self.bytes as u32;
        ((value << shift) as i64) >> shift
    }
}

pub const OP_AND: u8 = 0;
const OP_OR: u8 = 1;
const OP_XOR: u8 = 2;
const OP_ADD: u8 = 3;
const OP_MINUS: u8 = 4;
const OP_MULTIPLY: u8 = 5;
const OP_DIVIDE: u8 = 6;
const OP_MODULO: u8 = 7;
pub const OPS_MASK: u8 = 0x07;
pub const OP_INVERSE: u8 = 0x40;
const OP_INDIRECT: u8 = 0x80;
const OP_SIGNED: u8 = 0x20;

/// Where an offset that is read from the bytes leads (`mget`, `do_ops`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Indirection {
    To(usize),
    /// The bytes don't exist, or contain an impossible value.
    Nowhere,
    /// It isn't evaluated here.
    Untold,
}

/// Evaluates an indirect offset that is read from here.
pub fn indirection(
    library: &Library,
    entry: &Entry<'_>,
    bytes: Bytes<'_>,
    offset: usize,
    flip: bool,
) -> Indirection {
    // 5.41 doesn't check for values that are out of bounds (`do_ops`).
    let out_of_bounds = match library.checks_offsets {
        true => Indirection::Nowhere,
        false => Indirection::Untold,
    };
    let op = entry.in_op();
    let (kind, id3) = match entry.in_kind() {
        kind::BEID3 => (kind::BELONG, true),
        kind::LEID3 => (kind::LELONG, true),
        kind => (kind, false),
    };
    // `cvt_flip` doesn't change the kinds of ID3.
    let Some(number) = Number::of(kind, flip && !id3).filter(|number| number.bytes <= 4) else {
        return Indirection::Untold;
    };
    let Some(value) = number.read(bytes.get(offset, number.bytes)) else {
        return Indirection::Nowhere;
    };
    let value = match id3 {
        // Seven bits a byte (`cvt_id3`).
        true => (0..4).fold(0, |sum, n| sum | (value >> (8 * n) & 0x7F) << (7 * n)),
        false => value,
    };
    let value = match op & OP_SIGNED {
        0 => value as i64,
        _ => number.signed(value),
    };
    let mut by = i64::from(entry.in_offset());
    if op & OP_INDIRECT != 0 {
        // The operand for the number is itself read from the bytes, at a distance of `in_offset`.
        let Some(at) = usize::try_from(offset as i64 + by).ok().filter(|_| !id3) else {
            return Indirection::Untold;
        };
        let Some(second) = number.read(bytes.get(at, number.bytes)) else {
            return Indirection::Nowhere;
        };
        by = match op & OP_SIGNED {
            0 => second as i64,
            _ => number.signed(second),
        };
    }
    let least = i64::from(i32::MIN);
    let most = i64::from(u32::MAX);
    if value >= most || value <= least || by >= most || by <= least {
        return out_of_bounds;
    }
    let to = match op & OPS_MASK {
        _ if op & OP_INVERSE != 0 => return Indirection::Untold,
        _ if by == 0 => value,
        OP_AND => value & by,
        OP_OR => value | by,
        OP_XOR => value ^ by,
        OP_ADD => value + by,
        OP_MINUS => value - by,
        OP_MULTIPLY => value * by,
        _ => return Indirection::Untold,
    };
    match to >= most {
        true => out_of_bounds,
        // A negative one is a large one.
        false => Indirection::To(to as u32 as usize),
    }
}

/// A number at an offset.
pub fn number(
    library: &Library,
    entry: &Entry<'_>,
    bytes: Bytes<'_>,
    offset: usize,
    flip: bool,
) -> Found {
    let Some(number) = Number::of(entry.kind(), flip) else {
        return Answer::Maybe.into();
    };
    let n = number.bytes;
    let there = bytes.get(offset, n);
    let value = match number.read(there) {
        Some(value) => value,
        // Eight bytes are never missing: `mget` has no such case, and `mcopy` puts zeros in their place.
        None if n == 8 => {
            let mut word = [0; 8];
            word[..there.len()].copy_from_slice(there);
            number.read(&word).expect("eight bytes")
        }
        None => return Found::missed(entry),
    };
    compare(library, entry, &number, value, offset + n)
}

/// The position itself, as a number (`FILE_OFFSET`).
pub fn offset(library: &Library, entry: &Entry<'_>, at: usize) -> Found {
    let number = Number {
        bytes: 8,
        big_endian: false,
    };
    compare(library, entry, &number, at as u64, at)
}

/// Compares a number in the way of the entry.
fn compare(library: &Library, entry: &Entry<'_>, number: &Number, value: u64, end: usize) -> Found {
    let n = number.bytes;
    // Casts to the type's width, like `DO_CVT`, by removing the excess at the end.
    let width = 8 * n as u32;
    let cut = |value: u64| value & (u64::MAX >> (64 - width));
    let mask = entry.mask();
    let value = match entry.mask_op() & OPS_MASK {
        _ if mask == 0 => value,
        OP_AND => value & mask,
        OP_OR => value | mask,
        OP_XOR => value ^ mask,
        OP_ADD => value.wrapping_add(mask),
        OP_MINUS => value.wrapping_sub(mask),
        OP_MULTIPLY => value.wrapping_mul(mask),
        // Signed from 5.47 on, if either operand is signed.
        OP_DIVIDE | OP_MODULO
            if library.signed_division
                && entry.flag() & flag::UNSIGNED == 0
                && (number.signed(value) < 0 || number.signed(mask) < 0) =>
        {
            return Answer::Maybe.into();
        }
        OP_DIVIDE if cut(mask) != 0 => value / cut(mask),
        OP_MODULO if cut(mask) != 0 => value % cut(mask),
        _ => return Answer::Maybe.into(),
    };
    let value = match entry.mask_op() & OP_INVERSE {
        0 => cut(value),
        _ => cut(!value),
    };
    let unsigned = entry.flag() & flag::UNSIGNED != 0;
    // `file_signextend`.
    let value = match unsigned {
        true => value,
        false => number.signed(value) as u64,
    };
    let wanted = entry.number();
    let signed = |value: u64| value as i64;
    let yes = match entry.relation() {
        b'x' => true,
        b'!' => value != wanted,
        b'=' => value == wanted,
        b'>' if unsigned => value > wanted,
        b'>' => signed(value) > signed(wanted),
        b'<' if unsigned => value < wanted,
        b'<' => signed(value) < signed(wanted),
        b'&' => value & wanted == wanted,
        b'^' => value & wanted != wanted,
        _ => return Answer::Maybe.into(),
    };
    Found::at(yes, end)
}
