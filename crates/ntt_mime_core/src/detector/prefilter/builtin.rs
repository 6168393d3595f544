//! The tests of libmagic that aren't rules.
//!
//! `file_buffer` (src/funcs.c, 5.44, 5.46, 5.47) tries tar, JSON, CSV, OLE and, from 5.45 on, SIMH tapes before the
//! rules. What it finds in ELF files counts only if a rule matches.

use super::check::string::is_space;
use super::format::Compiled;
use crate::detector::{csv, json};

/// The first version of the database whose libmagic knows SIMH tapes.
const KNOWS_TAPES: u32 = 20;

/// Might one of these tests succeed on these bytes, which are all that libmagic looks at? They come before the rules.
pub fn may_succeed(compiled: &Compiled, bytes: &[u8]) -> bool {
    may_be_tar(bytes)
        || json::may_be_json(bytes)
        || csv::may_be_csv(bytes)
        || bytes.starts_with(b"\xD0\xCF\x11\xE0")
        || compiled.version() >= KNOWS_TAPES && may_be_tape(bytes)
}

/// `is_tar` in src/is_tar.c: the header's checksum, with itself counted as blanks, stands in it in octal digits.
fn may_be_tar(bytes: &[u8]) -> bool {
    const HEADER: usize = 512;
    const CHECKSUM: std::ops::Range<usize> = 148..156;
    let Some(header) = bytes.get(..HEADER) else {
        return false;
    };
    let field = &header[CHECKSUM];
    let digits = match field.iter().position(|byte| !is_space(*byte)) {
        // No sum is 0: blanks are counted in.
        None => return false,
        // What isspace(3) takes for blank outside ASCII depends on the locale.
        Some(first) if !field[first].is_ascii() => return true,
        Some(first) => &field[first..],
    };
    let octal = digits
        .iter()
        .take_while(|byte| (b'0'..=b'7').contains(byte));
    let wanted = octal.fold(0, |sum, digit| sum << 3 | u32::from(digit - b'0'));
    let sum = |bytes: &[u8]| bytes.iter().map(|byte| u32::from(*byte)).sum::<u32>();
    wanted == sum(header) - sum(field) + 8 * u32::from(b' ')
}

/// `simh_parse` in src/is_simh.c (5.46, 5.47): the length of a record stands before it and after it.
fn may_be_tape(bytes: &[u8]) -> bool {
    let Some(first) = bytes.first_chunk::<4>() else {
        return false;
    };
    let length = u32::from_le_bytes(*first);
    if length == u32::MAX {
        return true;
    }
    // Bits that aren't used.
    if length & 0x0F00_0000 != 0 {
        return false;
    }
    let even = (length & 0x00FF_FFFF).next_multiple_of(2) as usize;
    even == 0 || bytes.len() >= 4 + even + 4
}
