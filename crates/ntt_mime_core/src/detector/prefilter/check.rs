//! One test against bytes: can it succeed?
//!
//! This follows `mget`, `mconvert` and `magiccheck` in libmagic's src/softmagic.c (5.44, 5.46, 5.47), for the kinds
//! of test that are common, and says [`Answer::Maybe`] to everything else. Where a test looks is told by
//! [`follow`](super::follow).

use std::ops::Not;

use memchr::memmem;

use super::format::{Entry, VALUE_BYTES, flag, kind, str_flag};

/// What is known of a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Answer {
    /// It fails, whatever comes before.
    No,
    /// It can't be told here.
    Maybe,
    /// It succeeds, if it is reached.
    Yes,
}

impl Not for Answer {
    type Output = Answer;

    fn not(self) -> Answer {
        match self {
            Answer::No => Answer::Yes,
            Answer::Maybe => Answer::Maybe,
            Answer::Yes => Answer::No,
        }
    }
}

impl Answer {
    fn exactly(yes: bool) -> Answer {
        if yes { Answer::Yes } else { Answer::No }
    }

    /// For what depends on more than the bytes: it can be ruled out, but not relied upon.
    fn at_most(yes: bool) -> Answer {
        if yes { Answer::Maybe } else { Answer::No }
    }
}

/// Flags that say for what files a test is, which is known by other means.
const WHEN: u32 = str_flag::TEXTTEST | str_flag::BINTEST;

/// Flags of strings that are understood here.
const UNDERSTOOD: u32 = HARMLESS
    | str_flag::COMPACT_WHITESPACE
    | str_flag::COMPACT_OPTIONAL_WHITESPACE
    | str_flag::IGNORE_CASE
    | str_flag::FULL_WORD;

/// Flags that don't change what a test succeeds on.
const HARMLESS: u32 = WHEN | str_flag::OFFSET_START | str_flag::TRIM;

/// What is known of a test, and from where those count that are relative to it (`moffset`), if that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    pub answer: Answer,
    pub end: Option<usize>,
}

impl Found {
    fn at(yes: bool, end: usize) -> Found {
        Found {
            answer: Answer::exactly(yes),
            end: yes.then_some(end),
        }
    }
}

impl From<Answer> for Found {
    fn from(answer: Answer) -> Found {
        Found { answer, end: None }
    }
}

/// Where the test looks, if that can be told (`msetoffset`): at a place that counts from the start, as a rule's first
/// test does and its continuations too unless they say otherwise; or from `parent`, where the test before left off.
pub fn offset_of(entry: &Entry<'_>, parent: Option<usize>) -> Option<usize> {
    if entry.flag() & (flag::INDIR | flag::INDIROFFADD | flag::OFFNEGATIVE) != 0 {
        return None;
    }
    let from = match entry.flag() & flag::OFFADD {
        0 => 0,
        _ => i64::try_from(parent?).ok()?,
    };
    usize::try_from(from + i64::from(entry.offset())).ok()
}

/// Can the test at this offset succeed on these bytes, which are all that libmagic looks at? `regex` answers for a
/// regular expression, and says where it matches.
pub fn check(
    entry: &Entry<'_>,
    bytes: &[u8],
    offset: usize,
    regex: impl FnOnce(&[u8]) -> (Answer, Option<(usize, usize)>),
) -> Found {
    match entry.kind() {
        kind::STRING => string(entry, bytes, offset),
        kind::SEARCH => search(entry, bytes, offset),
        kind::LESTRING16 | kind::BESTRING16 => string16(entry, bytes, offset),
        kind::GUID if entry.relation() == b'=' => {
            match bytes.get(offset..offset.saturating_add(16)) {
                Some(guid) => Answer::exactly(entry.value().starts_with(guid)).into(),
                None => Answer::No.into(),
            }
        }
        kind::DER => der(entry, bytes, offset),
        kind::PSTRING => pascal_string(entry, bytes, offset).into(),
        // "nbytes < offset" fails; so does an unlucky comparison.
        kind::REGEX if entry.relation() == b'=' => match bytes.get(offset..) {
            Some(rest) => {
                let (answer, place) = regex(region(entry, rest));
                let end =
                    place.map(
                        |(start, end)| match entry.str_flags() & str_flag::OFFSET_START {
                            0 => offset + end,
                            _ => offset + start,
                        },
                    );
                Found { answer, end }
            }
            None => Answer::No.into(),
        },
        _ => number(entry, bytes, offset),
    }
}

fn string(entry: &Entry<'_>, bytes: &[u8], offset: usize) -> Found {
    let flags = entry.str_flags();
    let wanted = entry.value_length();
    // A string of the greatest length loses its last byte on the way (`mconvert`).
    if entry.range() != 0 || flags & !UNDERSTOOD != 0 || wanted >= VALUE_BYTES {
        return Answer::Maybe.into();
    }
    let Some(rest) = bytes.get(offset..).filter(|rest| rest.len() >= wanted) else {
        // What is missed matches a relation of '!'.
        return Answer::at_most(entry.relation() == b'!').into();
    };
    let value = &entry.value()[..wanted];
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
        return Answer::exactly(yes).into();
    }
    if entry.relation() != b'=' {
        return Answer::Maybe.into();
    }
    // `mcopy` copies as much as a value has, zeros where the file has ended, and `mconvert` ends it with a zero.
    let mut copy = [0; VALUE_BYTES];
    let n = rest.len().min(VALUE_BYTES - 1);
    copy[..n].copy_from_slice(&rest[..n]);
    match equals(value, &copy, flags) {
        Answer::Yes => Found::at(true, offset + wanted),
        answer => answer.into(),
    }
}

fn search(entry: &Entry<'_>, bytes: &[u8], offset: usize) -> Found {
    let flags = entry.str_flags();
    let wanted = entry.value_length();
    if entry.relation() != b'=' || flags & !UNDERSTOOD != 0 || wanted == 0 || wanted > VALUE_BYTES {
        return Answer::Maybe.into();
    }
    let Some(rest) = bytes.get(offset..).filter(|rest| rest.len() >= wanted) else {
        return Answer::No.into();
    };
    let value = &entry.value()[..wanted];
    let range = entry.range();
    let found = |place: Option<usize>| match (place, flags & str_flag::OFFSET_START) {
        (None, _) => Answer::No.into(),
        (Some(place), 0) => Found::at(true, offset + place + wanted),
        (Some(place), _) => Found::at(true, offset + place),
    };
    if flags == 0 {
        // The last place is `range` itself: memmem gets "range + length" bytes.
        let end = match range.checked_add(wanted) {
            Some(end) if range > 0 => end.min(rest.len()),
            _ => rest.len(),
        };
        return found(memmem::find(&rest[..end], value));
    }
    // Here it is the place before `range`.
    let places = rest.len() - wanted + 1;
    let places = if range == 0 {
        places
    } else {
        places.min(range)
    };
    if flags & !HARMLESS == 0 {
        return found(memmem::find(&rest[..places - 1 + wanted], value));
    }
    let matches = |at: usize| equals(value, &rest[at..], flags);
    // The first place that may be one is one, or none can be told.
    let first_of = |places: &mut dyn Iterator<Item = usize>| {
        let mut answers = places.map(|place| (matches(place), place));
        match answers.find(|(answer, _)| *answer != Answer::No) {
            Some((Answer::Yes, place)) => found(Some(place)),
            Some((answer, _)) => answer.into(),
            None => Answer::No.into(),
        }
    };
    let first = value[0];
    // Letters have two forms, and may have others outside ASCII: see `equals`.
    if first.is_ascii() && !is_space(first) && !b"iI".contains(&first) {
        let (lower, upper) = (first.to_ascii_lowercase(), first.to_ascii_uppercase());
        return first_of(&mut memchr::memchr2_iter(lower, upper, &rest[..places]));
    }
    first_of(&mut (0..places))
}

/// `file_strncmp`, with both told to end where their slices do. It can't tell what libmagic reads beyond the end, nor
/// what letters and spaces are outside ASCII, which depends on the locale of the process.
fn equals(value: &[u8], bytes: &[u8], flags: u32) -> Answer {
    let (mut a, mut b) = (0, 0);
    let mut unsure = false;
    // Without one of the two, no more is looked at than the value is long, which `bytes` has.
    let whitespace = str_flag::COMPACT_WHITESPACE | str_flag::COMPACT_OPTIONAL_WHITESPACE;
    let end = match flags & whitespace {
        0 => value.len().min(bytes.len()),
        _ => bytes.len(),
    };
    let at = |b: usize| bytes.get(b).copied();
    // One step a byte of the value at most: "while (--len > 0)".
    for _ in 0..value.len() {
        if b >= end {
            return Answer::No;
        }
        // What comes after the value is zero.
        let wanted = value.get(a).copied().unwrap_or(0);
        if !wanted.is_ascii() {
            return Answer::Maybe;
        }
        // In Turkish locales these have counterparts outside ASCII.
        if !bytes[b].is_ascii() && flags & str_flag::IGNORE_CASE != 0 && b"iI".contains(&wanted) {
            (a, b) = (a + 1, b + 1);
            unsure = true;
            continue;
        }
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
                return Answer::at_most(!bytes[b].is_ascii());
            }
            b += 1;
            if !is_space(value.get(a).copied().unwrap_or(0)) {
                b += spaces(&bytes[b..end]);
                if at(b).is_some_and(|next| !next.is_ascii()) {
                    return Answer::Maybe;
                }
            }
        } else if flags & str_flag::COMPACT_OPTIONAL_WHITESPACE != 0 && is_space(wanted) {
            a += 1;
            b += spaces(&bytes[b..end]);
            if at(b).is_some_and(|next| !next.is_ascii()) {
                return Answer::Maybe;
            }
        } else {
            if bytes[b] != wanted {
                return Answer::No;
            }
            (a, b) = (a + 1, b + 1);
        }
    }
    match at(b) {
        _ if unsure => Answer::Maybe,
        _ if flags & str_flag::FULL_WORD == 0 => Answer::Yes,
        Some(next) if next.is_ascii() => Answer::exactly(next == 0 || is_space(next)),
        _ => Answer::Maybe,
    }
}

fn spaces(bytes: &[u8]) -> usize {
    let end = bytes.iter().position(|byte| !is_space(*byte));
    end.unwrap_or(bytes.len())
}

/// isspace(3), as far as all locales agree.
pub fn is_space(byte: u8) -> bool {
    byte == b' ' || (b'\t'..=b'\r').contains(&byte)
}

/// A string of 16-bit characters, of which the low bytes are compared; those are blanks where only they are zero
/// (`mcopy`). What is beyond the end isn't known.
fn string16(entry: &Entry<'_>, bytes: &[u8], offset: usize) -> Found {
    let wanted = entry.value_length();
    if entry.relation() != b'=' || wanted >= VALUE_BYTES {
        return Answer::Maybe.into();
    }
    let big_endian = usize::from(entry.kind() == kind::BESTRING16);
    // Of what isn't there at all, zeros are compared.
    if offset >= bytes.len() && entry.value()[0] != 0 {
        return Answer::No.into();
    }
    for (n, value) in entry.value()[..wanted].iter().enumerate() {
        let low = offset + 2 * n + big_endian;
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
fn pascal_string(entry: &Entry<'_>, bytes: &[u8], offset: usize) -> Answer {
    let wanted = entry.value_length();
    let one_byte = entry.str_flags() & str_flag::PSTRING_LEN == str_flag::PSTRING_1;
    if entry.relation() != b'=' || !one_byte || wanted >= VALUE_BYTES || entry.range() != 0 {
        return Answer::Maybe;
    }
    let Some(text) = bytes.get(offset..).filter(|rest| rest.len() >= wanted) else {
        return Answer::No;
    };
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

/// An element of ASN.1's DER (`gettag`, `getlength` and `der_cmp` in src/der.c): a sequence of any length, or what isn't
/// followed here.
fn der(entry: &Entry<'_>, bytes: &[u8], offset: usize) -> Found {
    const SEQUENCE: u8 = 0x10;
    if entry.text() != b"seq" {
        return Answer::Maybe.into();
    }
    let rest = bytes.get(offset..).unwrap_or_default();
    let (Some(tag), Some(length)) = (rest.first(), rest.get(1)) else {
        return Answer::No.into();
    };
    // Tags of more than one byte have another name.
    if tag & 0x1F != SEQUENCE {
        return Answer::No.into();
    }
    let digits = usize::from(length & 0x7F);
    let header = match length & 0x80 {
        0 => 2,
        _ => 2 + digits,
    };
    if 2 + digits >= rest.len() {
        return Answer::No.into();
    }
    let number = rest[2..header]
        .iter()
        .fold(0_u64, |number, digit| number << 8 | u64::from(*digit));
    if header > 2 && (digits > 7 || header as u64 + number > rest.len() as u64) {
        return Answer::at_most(digits > 7).into();
    }
    Found::at(true, offset + header + entry.offset().max(0) as usize)
}

/// Is what this test looks for anywhere among the bytes? For one that doesn't look at a fixed place, but among them.
pub fn anywhere(
    entry: &Entry<'_>,
    bytes: &[u8],
    regex: impl FnOnce(&[u8]) -> (Answer, Option<(usize, usize)>),
) -> Answer {
    let value = entry.value().get(..entry.value_length());
    match (entry.kind(), value) {
        _ if entry.relation() != b'=' => Answer::Maybe,
        (kind::STRING | kind::SEARCH, Some(value)) if entry.str_flags() & !HARMLESS == 0 => {
            let cut = value.len() >= VALUE_BYTES;
            Answer::at_most(cut || memmem::find(bytes, value).is_some())
        }
        // An anchor would hold at the start or the end of what the test looks at.
        (kind::REGEX, _) if !entry.text().iter().any(|byte| b"^$".contains(byte)) => {
            Answer::at_most(regex(bytes).0 != Answer::No)
        }
        _ => Answer::Maybe,
    }
}

/// The bytes that a regular expression is matched against (`mcopy`): up to a number of bytes or lines.
fn region<'a>(entry: &Entry<'_>, rest: &'a [u8]) -> &'a [u8] {
    let lines = entry.str_flags() & str_flag::LINE_COUNT != 0;
    let bytes = match (entry.range(), lines) {
        (0, _) => rest.len(),
        (range, true) => range.saturating_mul(80),
        (range, false) => range,
    };
    let bytes = bytes.min(rest.len()).min(super::REGEX_MAX);
    let mut region = &rest[..bytes];
    if lines && entry.range() > 0 {
        region = first_lines(region, entry.range());
    }
    // What regexec(3) sees of it: the last byte gives way to the zero that ends a C string, and an earlier zero ends it,
    // too (`magiccheck`).
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

/// How a number is written.
struct Number {
    bytes: usize,
    big_endian: bool,
}

impl Number {
    fn of(kind: u8) -> Option<Number> {
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

    /// The number that is there; None if the bytes aren't.
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

    /// One with a sign of that many bytes.
    fn signed(&self, value: u64) -> i64 {
        let shift = 64 - 8 * self.bytes as u32;
        ((value << shift) as i64) >> shift
    }
}

const OP_AND: u8 = 0;
const OP_OR: u8 = 1;
const OP_XOR: u8 = 2;
const OP_ADD: u8 = 3;
const OP_MINUS: u8 = 4;
const OP_MULTIPLY: u8 = 5;
const OP_DIVIDE: u8 = 6;
const OP_MODULO: u8 = 7;
const OPS_MASK: u8 = 0x07;
const OP_INVERSE: u8 = 0x40;
const OP_INDIRECT: u8 = 0x80;
const OP_SIGNED: u8 = 0x20;

/// Where an offset leads that is read from the bytes (`mget`, `do_ops`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Indirection {
    To(usize),
    /// The bytes aren't there, or say what can't be.
    Nowhere,
    /// It isn't followed here.
    Untold,
}

/// Follows an indirect offset that is read from here.
pub fn indirection(entry: &Entry<'_>, bytes: &[u8], offset: usize) -> Indirection {
    let op = entry.in_op();
    let Some(number) = Number::of(entry.in_kind()).filter(|number| number.bytes <= 4) else {
        return Indirection::Untold;
    };
    let Some(value) = number.read(bytes.get(offset..).unwrap_or_default()) else {
        return Indirection::Nowhere;
    };
    let value = match op & OP_SIGNED {
        0 => value as i64,
        _ => number.signed(value),
    };
    let by = i64::from(entry.in_offset());
    let least = i64::from(i32::MIN);
    let most = i64::from(u32::MAX);
    if value >= most || value <= least || by <= least {
        return Indirection::Nowhere;
    }
    let to = match op & OPS_MASK {
        _ if op & (OP_INDIRECT | OP_INVERSE) != 0 => return Indirection::Untold,
        _ if by == 0 => value,
        OP_ADD => value + by,
        OP_MINUS => value - by,
        OP_MULTIPLY => value * by,
        _ => return Indirection::Untold,
    };
    match to >= most {
        true => Indirection::Nowhere,
        // A negative one is a large one.
        false => Indirection::To(to as u32 as usize),
    }
}

fn number(entry: &Entry<'_>, bytes: &[u8], offset: usize) -> Found {
    let Some(number) = Number::of(entry.kind()) else {
        return Answer::Maybe.into();
    };
    let n = number.bytes;
    let Some(value) = number.read(bytes.get(offset..).unwrap_or_default()) else {
        // Eight bytes are never missed: `mget` has no such case, and looks at zeros. And what is missed matches
        // a relation of '!'.
        return match n < 8 && entry.relation() != b'!' {
            true => Answer::No.into(),
            false => Answer::Maybe.into(),
        };
    };
    // Casts to the type's width, as `DO_CVT` does them, by cutting the rest off at the end.
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
    Found::at(yes, offset + n)
}

/// A necessary condition of a test that compares for equality at a fixed place: there, under this mask, are these
/// bytes. Quick to try, on up to eight bytes; zeros count as being there beyond the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beginning {
    pub offset: usize,
    pub mask: u64,
    pub bytes: u64,
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
            if entry.str_flags() & !HARMLESS != 0 || entry.range() != 0 || n == 0 {
                return None;
            }
            mask[..n].fill(0xFF);
            bytes[..n].copy_from_slice(&entry.value()[..n]);
        } else {
            let Number {
                bytes: n,
                big_endian,
            } = Number::of(entry.kind())?;
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
