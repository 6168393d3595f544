//! What the rules for text will see.
//!
//! libmagic tries them on the text in UTF-8, whatever its encoding is (`file_ascmagic` and `encode_utf8` in
//! src/ascmagic.c, `file_encoding` in src/encoding.c; 5.41 to 5.47): zeros at the end are cut off, and what is beyond
//! 64 KiB; then encodings are tried in this order: ASCII, of which UTF-7 is a part, UTF-8 with a byte order mark,
//! UTF-8, UTF-32, UTF-16, ISO 8859, other extensions of ASCII, EBCDIC. Content in none of these is not text, and the
//! rules for text aren't tried.

use std::cell::{Cell, OnceCell};

use super::buffer::Buffer;
use super::wide::Wide;
use crate::detector::limits::ENCODING_MAX;
use crate::detector::release::Library;

/// What a file is to the rules for text.
#[derive(Debug, PartialEq, Eq)]
pub enum Text<'a> {
    /// They aren't tried.
    Binary,
    /// They are tried on this, unless it is empty.
    Utf8(&'a [u8]),
    /// It would have to be converted in a way that isn't implemented here, or its encoding is unknown.
    Unknown,
}

/// Classes of bytes like those of libmagic's `text_chars`, as bits, so that one pass over a file collects them.
const PLAIN: u8 = 1;
/// In ISO 8859 and other extensions of ASCII.
const HIGH: u8 = 2;
/// In text of releases in which Control-Z counts as text.
const LATELY: u8 = 4;
/// In no text.
const NEVER: u8 = 8;
/// In no text once it is read as EBCDIC.
const EBCDIC_NEVER: u8 = 16;

const fn class(byte: u8) -> u8 {
    match byte {
        // NEL, 0x85, is plain, and yet not ASCII.
        0x07..=0x0D | 0x1B | 0x20..=0x7E | 0x85 => PLAIN,
        0x1A => LATELY,
        0x80.. => HIGH,
        _ => NEVER,
    }
}

/// Bytes that no text has when it is read as EBCDIC (`ebcdic_to_ascii`): such a file isn't EBCDIC.
#[rustfmt::skip]
const NOT_EBCDIC: [u8; 55] = [
    0x00, 0x01, 0x02, 0x03, 0x04, 0x06, 0x07, 0x08, 0x09, 0x0A, 0x0E, 0x0F, 0x10, 0x11, 0x12, 0x13,
    0x14, 0x17, 0x18, 0x19, 0x1A, 0x1B, 0x1C, 0x1D, 0x1E, 0x1F, 0x20, 0x21, 0x22, 0x23, 0x24, 0x26,
    0x28, 0x29, 0x2A, 0x2B, 0x2C, 0x2D, 0x2E, 0x30, 0x31, 0x32, 0x33, 0x34, 0x35, 0x36, 0x37, 0x38,
    0x39, 0x3A, 0x3B, 0x3C, 0x3D, 0x3E, 0xE1,
];

const CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        classes[byte] = class(byte as u8);
        byte += 1;
    }
    let mut i = 0;
    while i < NOT_EBCDIC.len() {
        classes[NOT_EBCDIC[i] as usize] |= EBCDIC_NEVER;
        i += 1;
    }
    classes
};

/// The classes that occur. For EBCDIC they are only known if there are bytes that no other text has. For content that
/// isn't text in any encoding, these two are enough. Whether Control-Z occurs in text depends on the release; EBCDIC
/// has other bytes there.
fn classes_of(library: &Library, bytes: &[u8]) -> u8 {
    match all_classes_of(bytes) {
        seen if seen & LATELY == 0 => seen,
        seen if library.control_z_is_text => seen & !LATELY | PLAIN,
        seen => seen & !LATELY | NEVER | EBCDIC_NEVER,
    }
}

fn all_classes_of(bytes: &[u8]) -> u8 {
    let never = |byte: &u8| CLASSES[usize::from(*byte)] & EBCDIC_NEVER != 0;
    let mut seen = 0;
    for piece in bytes.chunks(256) {
        // Without the table, so that many bytes are processed at a time. Most text is no more than this.
        let simple = |byte: &u8| matches!(*byte, b' '..=b'~' | b'\t' | b'\n' | b'\r');
        if piece.iter().fold(true, |all, byte| all & simple(byte)) {
            seen |= PLAIN;
            continue;
        }
        seen = piece.iter().fold(seen, |seen, byte| seen | class(*byte));
        if seen & NEVER != 0 && bytes.iter().any(never) {
            return seen | EBCDIC_NEVER;
        }
    }
    seen
}

/// Whether none of these bytes keeps a file from being text in a one-byte encoding or UTF-8, in any release.
/// Control-Z does, so that libmagic decides.
pub fn is_surely_text(bytes: &[u8]) -> bool {
    // Without the table, so that many bytes are processed at a time.
    let strange = |byte: &u8| class(*byte) & (NEVER | LATELY) != 0;
    let mut pieces = bytes.chunks(256);
    pieces.all(|piece| !piece.iter().fold(false, |any, byte| any | strange(byte)))
}

/// Which classes of bytes the start of a file has: the part in memory, and the part by which libmagic determines the
/// encoding. Computed once.
#[derive(Default)]
pub struct Start {
    head: OnceCell<Seen>,
    first: OnceCell<Seen>,
    /// Whether this many bytes are text in UTF-16 or UTF-32.
    wide: Cell<Option<(usize, bool)>>,
}

/// The classes of some bytes.
#[derive(Clone, Copy)]
struct Seen {
    /// How many there are.
    len: usize,
    /// The same without the zeros at their end.
    trimmed: usize,
    /// The classes of those.
    classes: u8,
}

impl Seen {
    fn of(library: &Library, bytes: &[u8]) -> Seen {
        let trimmed = length_without_zeros(bytes);
        Seen {
            len: bytes.len(),
            trimmed,
            classes: classes_of(library, &bytes[..trimmed]),
        }
    }

    /// With the zeros at the end.
    fn with_zeros(&self) -> u8 {
        match self.trimmed < self.len {
            true => self.classes | CLASSES[0],
            false => self.classes,
        }
    }

    /// For the part in memory.
    fn of_head(library: &Library, buffer: &Buffer<'_>) -> Seen {
        let head = buffer.head();
        let seen = || Seen::of(library, &head[..head.len().min(ENCODING_MAX)]);
        *buffer.start().head.get_or_init(seen)
    }

    /// For the part that determines the encoding.
    fn of_first(library: &Library, buffer: &Buffer<'_>) -> Seen {
        *buffer.start().first.get_or_init(|| {
            let head = Seen::of_head(library, buffer);
            let first = buffer.first(ENCODING_MAX);
            let rest = Seen::of(library, first.get(head.len..).unwrap_or_default());
            match rest.trimmed {
                0 => Seen {
                    len: first.len(),
                    ..head
                },
                more => Seen {
                    len: first.len(),
                    trimmed: head.len + more,
                    classes: head.with_zeros() | rest.classes,
                },
            }
        })
    }
}

/// Whether libmagic considers a file text when it first classifies it (`file_encoding`). Tests may depend on it. None
/// if unknown here.
pub fn is_text(library: &Library, buffer: &Buffer<'_>) -> Option<bool> {
    let is_text = |seen: Seen| match is_wide(library, buffer, seen.len) {
        true => Some(true),
        false => text_by_classes(seen.with_zeros()),
    };
    // What isn't text by its start isn't text with what follows either.
    match is_text(Seen::of_head(library, buffer)) {
        Some(false) => Some(false),
        _ => is_text(Seen::of_first(library, buffer)),
    }
}

/// Whether it isn't text in any encoding, judging by the part in memory, whatever follows, with zeros at its end and
/// without.
pub fn is_binary(library: &Library, buffer: &Buffer<'_>) -> bool {
    is_surely_binary(library, buffer, Seen::of_head(library, buffer))
}

/// The same for the first bytes of a file.
pub fn looks_like_text(library: &Library, bytes: &[u8]) -> Option<bool> {
    let bytes = &bytes[..bytes.len().min(ENCODING_MAX)];
    match Wide::of(bytes).is_some_and(|wide| wide.is_text(library, bytes)) {
        true => Some(true),
        false => text_by_classes(classes_of(library, bytes)),
    }
}

/// Whether this many bytes at the beginning of a file are text in UTF-16 or UTF-32, as far as they go.
fn is_wide(library: &Library, buffer: &Buffer<'_>, len: usize) -> bool {
    let Some(wide) = Wide::of(buffer.first(len)) else {
        return false;
    };
    // With fewer bytes, the byte order mark may be another one.
    const MARK: usize = 4;
    match buffer.start().wide.get() {
        Some((before, true)) if MARK <= len && len <= before => true,
        Some((before, false)) if MARK <= before && before <= len => false,
        _ => {
            let is_text = wide.is_text(library, buffer.first(len));
            buffer.start().wide.set(Some((len, is_text)));
            is_text
        }
    }
}

/// Whether bytes that aren't UTF-16 or UTF-32 are text in some encoding, if these classes occur in them. None if that
/// would be EBCDIC.
fn text_by_classes(seen: u8) -> Option<bool> {
    match seen & NEVER {
        0 => Some(true),
        _ if seen & EBCDIC_NEVER == 0 => None,
        _ => Some(false),
    }
}

/// What a file is to the rules for text, and how many bytes of it libmagic must see to say the same. `scratch` is for
/// converted text.
///
/// `file_ascmagic` (src/ascmagic.c) removes zeros from the end of what libmagic has, but doesn't make an even length
/// odd, and `file_encoding` reads the first 64 KiB of what is left. So if these end with zeros, what follows decides.
pub fn text_of<'a>(
    library: &Library,
    buffer: &'a Buffer<'a>,
    scratch: &'a mut Vec<u8>,
) -> (Text<'a>, usize) {
    let flen = buffer.flen();
    let head = Seen::of_head(library, buffer);
    if is_surely_binary(library, buffer, head) {
        return (Text::Binary, head.len);
    }
    let first = buffer.first(ENCODING_MAX);
    let mut needed = first.len();
    let whole = Seen::of_first(library, buffer);
    if is_surely_binary(library, buffer, whole) {
        return (Text::Binary, first.len());
    }
    let Seen {
        mut trimmed,
        classes: mut seen,
        ..
    } = whole;
    if first.len() < flen {
        match trimmed == first.len() {
            true => trimmed = flen,
            false => match first_after_zeros(buffer, first.len()) {
                // Zeros within a text.
                Some(at) => (needed, trimmed) = (at + 1, flen),
                None => needed = flen,
            },
        }
    }
    // "If we have fewer than 2 bytes, give up." (`file_ascmagic_with_encoding`)
    if trimmed < 2 {
        return (Text::Binary, needed);
    }
    let end = match trimmed & 1 == 1 && flen & 1 == 0 {
        true => trimmed + 1,
        false => trimmed,
    };
    let looked_at = &first[..end.min(first.len())];
    if looked_at.last() == Some(&0) {
        seen |= CLASSES[0];
    }
    (text_in(library, looked_at, seen, scratch), needed)
}

/// No encoding has such bytes, without the zeros at their end, in whatever comes after them.
fn is_surely_binary(library: &Library, buffer: &Buffer<'_>, seen: Seen) -> bool {
    text_by_classes(seen.classes) == Some(false) && !is_wide(library, buffer, seen.trimmed)
}

fn length_without_zeros(bytes: &[u8]) -> usize {
    let last = bytes.iter().rposition(|byte| *byte != 0);
    last.map_or(0, |last| last + 1)
}

/// The first byte from a position on that isn't zero.
fn first_after_zeros(buffer: &Buffer<'_>, from: usize) -> Option<usize> {
    const STEP: usize = 64 * 1024;
    let mut at = from;
    while at < buffer.flen() {
        let n = STEP.min(buffer.flen() - at);
        let piece = buffer.get(at as u64, n);
        if let Some(found) = piece.iter().position(|byte| *byte != 0) {
            return Some(at + found);
        }
        if piece.len() < n {
            return None;
        }
        at += n;
    }
    None
}

/// What bytes are in which these classes occur, up to the limit of `file_encoding`.
fn text_in<'a>(library: &Library, bytes: &'a [u8], seen: u8, scratch: &'a mut Vec<u8>) -> Text<'a> {
    // They have bytes that no encoding before them has.
    if let Some(wide) = Wide::of(bytes)
        && wide.is_text(library, bytes)
    {
        return match wide.convert(library, bytes, scratch) {
            Some(()) => Text::Utf8(scratch),
            None => Text::Unknown,
        };
    }
    // ASCII, to libmagic: including NEL, 0x85 (`looks_ascii`), which has to be converted.
    if seen & !EBCDIC_NEVER == PLAIN {
        return match is_utf7(bytes) {
            // It isn't converted (`looks_utf7`), and so no rules are tried.
            true => Text::Utf8(&[]),
            false if bytes.is_ascii() => Text::Utf8(bytes),
            false => converted(bytes, scratch),
        };
    }
    match text_by_classes(seen) {
        None => return Text::Unknown,
        Some(false) => return Text::Binary,
        Some(true) => {}
    }
    let (body, marked) = match bytes.strip_prefix(b"\xEF\xBB\xBF") {
        Some(rest) if !rest.is_empty() => (rest, true),
        _ => (bytes, false),
    };
    // libmagic's definition of UTF-8 is the standard's, and so is Rust's: its tables are Go's.
    match std::str::from_utf8(body) {
        Ok(_) => return Text::Utf8(body),
        // Cut off within a character, which is left out. If it is the only one, the text isn't UTF-8, unless it has a
        // byte order mark.
        Err(error) if error.error_len().is_none() => {
            let whole = &body[..error.valid_up_to()];
            if marked || !whole.is_ascii() {
                return Text::Utf8(whole);
            }
        }
        Err(_) if marked => return Text::Unknown,
        Err(_) => {}
    }
    // ISO 8859 or an extension of it.
    converted(bytes, scratch)
}

/// Bytes that are taken for the first characters of Unicode (`encode_utf8`).
fn converted<'a>(bytes: &[u8], scratch: &'a mut Vec<u8>) -> Text<'a> {
    scratch.clear();
    scratch.reserve(bytes.len() + bytes.len() / 4);
    for byte in bytes {
        match byte {
            ..0x80 => scratch.push(*byte),
            _ => scratch.extend([0xC0 | byte >> 6, 0x80 | byte & 0x3F]),
        }
    }
    Text::Utf8(scratch)
}

/// Whether it begins like UTF-7 (`looks_utf7`).
fn is_utf7(bytes: &[u8]) -> bool {
    bytes.len() > 4 && bytes.starts_with(b"+/v") && matches!(bytes[3], b'8' | b'9' | b'+' | b'/')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detector::release::LIBRARIES;

    fn assert_text(bytes: &[u8], expected: Text<'_>) {
        // With any part of it in hand.
        for head in [0, 1, bytes.len() / 2, bytes.len()] {
            let read = |buffer: &mut [u8], at: u64| {
                let n = buffer.len();
                buffer.copy_from_slice(&bytes[at as usize..at as usize + n]);
                Ok(n)
            };
            let size = bytes.len() as u64;
            let buffer = Buffer::new(&bytes[..head], size, bytes.len(), &read, &[]);
            let mut scratch = Vec::new();
            let start = &bytes[..bytes.len().min(40)];
            assert!(
                text_of(&LIBRARIES[1], &buffer, &mut scratch).0 == expected,
                "{start:02x?}, {head} in hand"
            );
        }
    }

    #[test]
    fn text_is_what_libmagic_converts_it_to() {
        assert_text(b"plain\n", Text::Utf8(b"plain\n"));
        assert_text("gr\u{fc}n".as_bytes(), Text::Utf8("gr\u{fc}n".as_bytes()));
        assert_text(b"\xEF\xBB\xBFmarked", Text::Utf8(b"marked"));
        assert_text(b"\xF8\x88\x80", Text::Utf8("\u{f8}\u{88}\u{80}".as_bytes()));
        assert_text(b"gr\xFCn", Text::Utf8("gr\u{fc}n".as_bytes()));
        // NEL is ASCII there.
        assert_text(b"a\x85b", Text::Utf8("a\u{85}b".as_bytes()));
        // Cut off within a character: left out, if there was another; else it is no UTF-8.
        assert_text(b"\xC3\xBC and \xC3", Text::Utf8("\u{fc} and ".as_bytes()));
        assert_text(b"and \xC3", Text::Utf8("and \u{c3}".as_bytes()));
        // Zeros at the end don't count, but for one that keeps the length even.
        assert_text(b"abc\0\0", Text::Utf8(b"abc"));
        assert_text(b"abcd\0\0", Text::Utf8(b"abcd"));
        assert_text(b"abc\0", Text::Binary);
        let long = vec![b'a'; ENCODING_MAX + 1];
        assert_text(&long, Text::Utf8(&long[1..]));
        // Zeros, and then more.
        let holed = [&long[1..], &[0; 100_000], b"x"].concat();
        assert_text(&holed, Text::Utf8(&long[1..]));
        assert_text(&holed[..holed.len() - 1], Text::Utf8(&long[1..]));
        let holed = [b"words\n", &[0; 100_000][..], b"x"].concat();
        assert_text(&holed, Text::Binary);
        assert_text(&holed[..holed.len() - 1], Text::Utf8(b"words\n"));
        assert_text(b"a", Text::Binary);
        assert_text(b"\x9e\0\0", Text::Binary);
        assert_text(b"\x01\x02\x00\x7f data", Text::Binary);
    }

    #[test]
    fn what_is_surely_text_has_nothing_strange_in_it() {
        assert!(is_surely_text(
            b"\x07\x08\t\n\x0b\x0c\r\x1b na\xc3\xafve \x80\x85\xff"
        ));
        for byte in [0, 6, 14, 26, 28, 31, 127] {
            let mut text = [b'x'; 1000];
            assert!(is_surely_text(&text));
            text[999] = byte;
            assert!(!is_surely_text(&text), "{byte}");
        }
    }

    #[test]
    fn other_encodings_are_told_by_their_marks() {
        for bytes in [
            &b"\xFF\xFEa\0\xFC\0"[..],
            b"\xFE\xFF\0a\0\xFC",
            b"\0\0\xFE\xFF\0\0\0a\0\0\0\xFC",
            // Zeros at the end are cut off, but for one that makes a unit whole.
            b"\xFF\xFEa\0\xFC\0\0\0",
        ] {
            assert_text(bytes, Text::Utf8("a\u{fc}".as_bytes()));
        }
        // With the zeros goes the last unit.
        assert_text(b"\xFF\xFE\0\0a\0\0\0b\0\0\0", Text::Utf8(b"a"));
        // What has such a mark and isn't it: an extension of ASCII, or nothing.
        assert_text(
            b"\xFE\xFF\xFF\xFEab",
            Text::Utf8("\u{fe}\u{ff}\u{ff}\u{fe}ab".as_bytes()),
        );
        assert_text(b"\xFF\xFEa\0\x01\0", Text::Binary);
        // Nothing is left of these.
        assert_text(b"\xFF\xFE", Text::Utf8(b""));
        assert_text(b"+/v8-text", Text::Utf8(b""));
        assert_text(b"+/v8-text\x85", Text::Utf8(b""));
        assert_text(b"+/v8", Text::Utf8(b"+/v8"));
    }

    #[test]
    fn control_z_is_in_text_by_the_release() {
        let is_text = LIBRARIES.map(|library| looks_like_text(&library, b"text\x1a"));
        assert_eq!(is_text, [false, false, false, false, true].map(Some));
    }

    #[test]
    fn what_is_converted_otherwise_is_not_known() {
        // EBCDIC: "text".
        assert_text(b"\xA3\x85\xA7\xA3\x25\x05", Text::Unknown);
        // A unit of 32 bits.
        assert_text(b"\xFF\xFE\0\0\xFF\xFF\xFF\xFF", Text::Unknown);
    }
}
