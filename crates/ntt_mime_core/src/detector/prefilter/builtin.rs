//! The tests of libmagic that aren't rules, and what it says when nothing is found.
//!
//! `file_buffer` (src/funcs.c, 5.44, 5.46, 5.47) tries tar, JSON, CSV, OLE and, from 5.45 on, SIMH tapes before the
//! rules, and in the end says octet-stream of what isn't text, and plain text of what is (`file_default`,
//! `file_ascmagic_with_encoding` in src/ascmagic.c). What it finds in ELF files counts only if a rule matches.

use super::format::Compiled;

/// Of a file that isn't text.
pub const DATA: &str = "application/octet-stream";

/// Of text.
pub const PLAIN: &str = "text/plain";

/// The first version of the database whose libmagic knows SIMH tapes.
const KNOWS_TAPES: u32 = 20;

/// Can it be told that none of these tests succeeds on these bytes, which are all that libmagic looks at?
pub fn none_succeeds(compiled: &Compiled, bytes: &[u8], text: bool) -> bool {
    // Of a single byte libmagic says nothing but that it is short.
    bytes.len() > 1
        && !(may_be_tar(bytes)
            || may_be_json(bytes)
            || text && may_be_csv(bytes)
            || bytes.starts_with(b"\xD0\xCF\x11\xE0")
            || compiled.version() >= KNOWS_TAPES && may_be_tape(bytes))
}

/// `is_tar` in src/is_tar.c compares a checksum with what stands there in octal digits, which isn't 0 in a header:
/// blanks are counted in.
fn may_be_tar(bytes: &[u8]) -> bool {
    const HEADER: usize = 512;
    const CHECKSUM: std::ops::Range<usize> = 148..156;
    if bytes.len() < HEADER {
        return false;
    }
    // What isspace(3) takes for blank outside ASCII depends on the locale.
    let mut field = bytes[CHECKSUM].iter();
    let first = field.find(|byte| !byte.is_ascii_whitespace() && **byte != 0x0B);
    first.is_none_or(|byte| (b'0'..=b'7').contains(byte) || !byte.is_ascii())
}

/// `json_parse` in src/is_json.c: only objects and arrays count.
fn may_be_json(bytes: &[u8]) -> bool {
    let first = bytes.iter().find(|byte| !b" \n\r\t".contains(byte));
    first.is_some_and(|byte| b"{[".contains(byte))
}

/// `csv_parse` in src/is_csv.c: a first line without a comma isn't one. Quotes could hide its end.
fn may_be_csv(bytes: &[u8]) -> bool {
    memchr::memchr3(b'\n', b',', b'"', bytes).is_some_and(|at| bytes[at] != b'\n')
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
