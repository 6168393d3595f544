//! Tests of strings of all kinds: at a position, searched for, of 16-bit characters, with their length before them;
//! and the regions against which regular expressions are matched.

use memchr::memmem;

use super::super::buffer::Bytes;
use super::super::format::{Entry, VALUE_BYTES, flag, kind, str_flag};
use super::{Answer, Found, HARMLESS, UNDERSTOOD};
use crate::detector::limits::REGEX_MAX;

/// A string at an offset.
pub fn string(entry: &Entry<'_>, bytes: Bytes<'_>, offset: usize) -> Found {
    let flags = entry.str_flags();
    let wanted = entry.value_length();
    let plain = flags & !HARMLESS == 0 && b"=!".contains(&entry.relation());
    // A string of the maximum length loses its last byte (`mconvert`).
    if flags & !UNDERSTOOD != 0 || wanted >= VALUE_BYTES {
        return Answer::Maybe.into();
    }
    // `mcopy` copies no more than the range, if there is one.
    if entry.range() != 0 && !(plain && entry.range() >= wanted) {
        return Answer::Maybe.into();
    }
    let rest = match plain {
        true => bytes.get(offset, wanted),
        false => bytes.get(offset, VALUE_BYTES - 1),
    };
    if offset > bytes.len() || rest.len() < wanted {
        return Found::missed(entry);
    }
    let value = &entry.value()[..wanted];
    // `mcopy` copies as many bytes as a value can have, with zeros after the end of the file, and `mconvert` ends it
    // with a zero.
    let mut copy = [0; VALUE_BYTES];
    copy[..rest.len()].copy_from_slice(rest);
    if flags & !HARMLESS == 0 {
        let order = rest[..wanted].cmp(value);
        let unsigned = entry.flag() & flag::UNSIGNED != 0;
        let yes = match entry.relation() {
            b'=' => return Found::at(order.is_eq(), offset + wanted),
            b'!' => return Found::at(order.is_ne(), offset + wanted),
            b'x' => true,
            b'>' if !unsigned => order.is_gt(),
            b'<' if !unsigned => order.is_lt(),
            _ => return Answer::Maybe.into(),
        };
        // `moffset` depends on what is there then: a C string, or a line if the value is empty.
        let lines = entry.value()[0] == 0;
        let ends = |byte: &u8| *byte == 0 || lines && b"\r\n".contains(byte);
        let length = copy.iter().position(ends).unwrap_or(VALUE_BYTES - 1);
        return Found::at(yes, offset + length);
    }
    if entry.relation() != b'=' {
        return Answer::Maybe.into();
    }
    match equals(value, &copy, flags, true) {
        Answer::Yes => Found::at(true, offset + wanted),
        answer => answer.into(),
    }
}

/// A string within a range from an offset, or its absence.
pub fn search(entry: &Entry<'_>, bytes: Bytes<'_>, offset: usize) -> Found {
    let flags = entry.str_flags();
    let wanted = entry.value_length();
    if flags & !UNDERSTOOD != 0 || wanted == 0 || wanted > VALUE_BYTES {
        return Answer::Maybe.into();
    }
    match entry.relation() {
        b'=' => search_for(entry, bytes, offset),
        b'!' if offset.saturating_add(wanted) > bytes.len() => Found::missed(entry),
        // If nothing is found, `search.offset` stays where the search began.
        b'!' => match search_for(entry, bytes, offset).answer {
            Answer::No if flags & str_flag::OFFSET_START == 0 => Found::at(true, offset + wanted),
            Answer::No => Found::at(true, offset),
            found => (!found).into(),
        },
        _ => Answer::Maybe.into(),
    }
}

fn search_for(entry: &Entry<'_>, bytes: Bytes<'_>, offset: usize) -> Found {
    let wanted = entry.value_length();
    // The byte after a whole word is also read.
    let near = match entry.range() {
        0 => usize::MAX,
        range => range.saturating_add(wanted + 1),
    };
    let rest = bytes.get(offset, near);
    let whole = offset.saturating_add(rest.len()) >= bytes.len();
    match search_in(entry, rest, offset, whole) {
        Some(found) => found,
        // A run of blanks may have any length.
        None => {
            let rest = bytes.get(offset, usize::MAX);
            search_in(entry, rest, offset, true).unwrap_or(Answer::Maybe.into())
        }
    }
}

/// The same for bytes that others follow, unless they are the `whole`: None if the result depends on those.
fn search_in(entry: &Entry<'_>, rest: &[u8], offset: usize, whole: bool) -> Option<Found> {
    let flags = entry.str_flags();
    let wanted = entry.value_length();
    if rest.len() < wanted {
        return Some(Answer::No.into());
    }
    let value = &entry.value()[..wanted];
    let range = entry.range();
    let found = |place: Option<usize>| match (place, flags & str_flag::OFFSET_START) {
        (None, _) => Answer::No.into(),
        (Some(place), 0) => Found::at(true, offset + place + wanted),
        (Some(place), _) => Found::at(true, offset + place),
    };
    if flags == 0 {
        // The last position is `range` itself: memmem gets "range + length" bytes.
        let end = match range.checked_add(wanted) {
            Some(end) if range > 0 => end.min(rest.len()),
            _ => rest.len(),
        };
        return Some(found(memmem::find(&rest[..end], value)));
    }
    // Here it is the position before `range`.
    let places = rest.len() - wanted + 1;
    let places = if range == 0 {
        places
    } else {
        places.min(range)
    };
    if flags & !HARMLESS == 0 {
        return Some(found(memmem::find(&rest[..places - 1 + wanted], value)));
    }
    let matches = |at: usize| equals(value, &rest[at..], flags, whole);
    // If the first possible position is a match, that is the one; otherwise it isn't known.
    let first_of = |places: &mut dyn Iterator<Item = usize>| {
        let mut answers = places.map(|place| (matches(place), place));
        match answers.find(|(answer, _)| *answer != Answer::No) {
            Some((Answer::Yes, place)) => Some(found(Some(place))),
            Some(_) => None,
            None => Some(Answer::No.into()),
        }
    };
    let first = value[0];
    if !is_space(first) {
        let (lower, upper) = (first.to_ascii_lowercase(), first.to_ascii_uppercase());
        return first_of(&mut memchr::memchr2_iter(lower, upper, &rest[..places]));
    }
    let mut next = 0;
    let mut places = std::iter::from_fn(|| {
        let place = next;
        next += match any_of_a_run(value, flags) {
            true => spaces(&rest[place.min(rest.len())..]).max(1),
            false => 1,
        };
        (place < places).then_some(place)
    });
    first_of(&mut places)
}

/// Whether a value that begins with a blank matches at all positions of a run of blanks, or at none. It does if the
/// first blank of the value stands for the whole rest of the run, so that what follows is compared with what follows
/// the run. Without this, a long run would take quadratic time.
fn any_of_a_run(value: &[u8], flags: u32) -> bool {
    match flags & str_flag::COMPACT_WHITESPACE {
        0 => flags & str_flag::COMPACT_OPTIONAL_WHITESPACE != 0,
        _ => value.get(1).is_some_and(|next| !is_space(*next)),
    }
}

/// `file_strncmp` in the C locale, limited to the two slices. It doesn't know what libmagic sees beyond these, except
/// that blanks aren't compared with what is beyond the `whole`.
fn equals(value: &[u8], bytes: &[u8], flags: u32, whole: bool) -> Answer {
    let (mut a, mut b) = (0, 0);
    // Without either of the two, no more bytes are read than the value has, and `bytes` has that many.
    let whitespace = str_flag::COMPACT_WHITESPACE | str_flag::COMPACT_OPTIONAL_WHITESPACE;
    let any_length = flags & whitespace != 0;
    let end = match any_length {
        false => value.len().min(bytes.len()),
        true => bytes.len(),
    };
    let at = |b: usize| bytes.get(b).copied();
    // At most one step for each byte of the value: "while (--len > 0)".
    for _ in 0..value.len() {
        if b >= end {
            return Answer::at_most(!whole);
        }
        // What follows the value is zero.
        let wanted = value.get(a).copied().unwrap_or(0);
        if flags & str_flag::IGNORE_LOWERCASE != 0 && wanted.is_ascii_lowercase() {
            if bytes[b].to_ascii_lowercase() != wanted {
                return Answer::No;
            }
            (a, b) = (a + 1, b + 1);
        } else if flags & str_flag::IGNORE_UPPERCASE != 0 && wanted.is_ascii_uppercase() {
            if bytes[b].to_ascii_uppercase() != wanted {
                return Answer::No;
            }
            (a, b) = (a + 1, b + 1);
        } else if flags & str_flag::COMPACT_WHITESPACE != 0 && is_space(wanted) {
            a += 1;
            if !is_space(bytes[b]) {
                return Answer::No;
            }
            b += 1;
            if !is_space(value.get(a).copied().unwrap_or(0)) {
                b += spaces(&bytes[b..end]);
            }
        } else if flags & str_flag::COMPACT_OPTIONAL_WHITESPACE != 0 && is_space(wanted) {
            a += 1;
            b += spaces(&bytes[b..end]);
        } else {
            if bytes[b] != wanted {
                return Answer::No;
            }
            (a, b) = (a + 1, b + 1);
        }
    }
    match at(b) {
        _ if flags & str_flag::FULL_WORD == 0 => Answer::Yes,
        Some(next) => Answer::exactly(next == 0 || is_space(next)),
        None => Answer::Maybe,
    }
}

fn spaces(bytes: &[u8]) -> usize {
    let end = bytes.iter().position(|byte| !is_space(*byte));
    end.unwrap_or(bytes.len())
}

/// isspace(3) in the C locale.
pub fn is_space(byte: u8) -> bool {
    byte == b' ' || (b'\t'..=b'\r').contains(&byte)
}

/// A string of 16-bit characters, of which the low bytes are compared; they are replaced by blanks if only they are
/// zero (`mcopy`). What is beyond the end isn't known.
pub fn string16(entry: &Entry<'_>, bytes: Bytes<'_>, offset: usize) -> Found {
    let wanted = entry.value_length();
    if entry.relation() != b'=' || wanted >= VALUE_BYTES {
        return Answer::Maybe.into();
    }
    let big_endian = usize::from(entry.kind() == kind::BESTRING16);
    // Beyond the end, zeros are compared.
    if offset >= bytes.len() && entry.value()[0] != 0 {
        return Answer::No.into();
    }
    let bytes = bytes.get(offset, 2 * wanted + 2);
    for (n, value) in entry.value()[..wanted].iter().enumerate() {
        let low = 2 * n + big_endian;
        let Some(mut there) = bytes.get(low).copied() else {
            return Answer::Maybe.into();
        };
        let high = match big_endian {
            0 => bytes.get(low + 1).copied(),
            _ => Some(bytes[low - 1]),
        };
        if there == 0 && high.is_some_and(|high| high != 0) {
            there = b' ';
        }
        if there != *value {
            return Answer::No.into();
        }
    }
    Found::at(true, offset + wanted)
}

/// A string that has its length before it, in one byte. It is moved to where it is compared, and ended with a zero
/// (`mconvert`); what is beyond that isn't known.
pub fn pascal_string(entry: &Entry<'_>, bytes: Bytes<'_>, offset: usize) -> Answer {
    let wanted = entry.value_length();
    let one_byte = entry.str_flags() & str_flag::PSTRING_LEN == str_flag::PSTRING_1;
    if entry.relation() != b'=' || !one_byte || wanted >= VALUE_BYTES || entry.range() != 0 {
        return Answer::Maybe;
    }
    let text = bytes.get(offset, VALUE_BYTES + 1);
    if text.len() < wanted {
        return Answer::No;
    }
    let Some((length, text)) = text.split_first() else {
        return Answer::Maybe;
    };
    let length = usize::from(*length).min(text.len());
    let there = text[..length].iter().chain([&0]);
    let value = &entry.value()[..wanted];
    Answer::at_most(
        value
            .iter()
            .zip(there)
            .all(|(wanted, there)| wanted == there),
    )
}

/// The tag bits of the first byte of a DER element, the tag of a sequence, and the value that begins a longer tag.
pub const DER_TAG: u8 = 0x1F;
pub const DER_SEQUENCE: u8 = 0x10;
pub const DER_LONG_FORM: u8 = 0x1F;

/// An element of ASN.1's DER (`gettag`, `getlength` and `der_cmp` in src/der.c): a sequence of any length, or
/// something that isn't evaluated here.
pub fn der(entry: &Entry<'_>, bytes: Bytes<'_>, offset: usize) -> Found {
    if entry.text() != b"seq" {
        return Answer::Maybe.into();
    }
    let len = bytes.len().saturating_sub(offset);
    let rest = bytes.get(offset, 2 + 127);
    let (Some(tag), Some(length)) = (rest.first(), rest.get(1)) else {
        return Answer::No.into();
    };
    match tag & DER_TAG {
        DER_SEQUENCE => {}
        // A longer tag isn't evaluated: the sum in it may be anything, modulo 2^32.
        DER_LONG_FORM => return Answer::Maybe.into(),
        _ => return Answer::No.into(),
    }
    let digits = usize::from(length & 0x7F);
    let header = match length & 0x80 {
        0 => 2,
        _ => 2 + digits,
    };
    if 2 + digits >= len {
        return Answer::No.into();
    }
    // Only the last eight bytes remain of it.
    let number = rest[2..header]
        .iter()
        .fold(0_u64, |number, digit| number << 8 | u64::from(*digit));
    let most = u64::from(u32::MAX);
    if header > 2 {
        let too_long = match number > most - header as u64 {
            true => true,
            false => header as u64 + number > len as u64,
        };
        if too_long {
            return Answer::No.into();
        }
    }
    Found::at(true, offset + header + entry.offset().max(0) as usize)
}

/// The bytes against which a regular expression is matched (`mcopy`): up to a number of bytes or lines.
pub fn region<'a>(entry: &Entry<'_>, rest: &'a [u8]) -> &'a [u8] {
    let lines = entry.str_flags() & str_flag::LINE_COUNT != 0;
    let bytes = match (entry.range(), lines) {
        (0, _) => rest.len(),
        (range, true) => range.saturating_mul(80),
        (range, false) => range,
    };
    let bytes = bytes.min(rest.len()).min(REGEX_MAX);
    let mut region = &rest[..bytes];
    if lines && entry.range() > 0 {
        region = first_lines(region, entry.range());
    }
    // What regexec(3) sees of it: the last byte is replaced by the zero that ends a C string, and an earlier zero
    // also ends it (`magiccheck`).
    let region = &region[..region.len().saturating_sub(1)];
    &region[..memchr::memchr(0, region).unwrap_or(region.len())]
}

/// The loop over lines in `mcopy`.
fn first_lines(region: &[u8], lines: usize) -> &[u8] {
    let end = region.len();
    let (mut left, mut at, mut last) = (lines, 0, end);
    while left > 0 && at < end {
        let rest = &region[at..];
        let Some(found) = memchr::memchr(b'\n', rest).or_else(|| memchr::memchr(b'\r', rest))
        else {
            break;
        };
        let mut b = at + found;
        if b + 1 < end && region[b] == b'\r' && region[b + 1] == b'\n' {
            b += 1;
        }
        if b + 1 < end && region[b] == b'\n' {
            b += 1;
        }
        last = b;
        left -= 1;
        at = b + 1;
    }
    if left > 0 { region } else { &region[..last] }
}
