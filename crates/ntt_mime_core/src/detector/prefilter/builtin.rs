//! libmagic's tests that aren't rules.
//!
//! `file_buffer` (src/funcs.c, 5.41 to 5.47) tries tar, JSON, CSV, OLE and, from 5.45 on, SIMH tapes before the
//! rules. JSON and CSV are decided here; libmagic is only asked about them if tar, which comes first, may succeed, or
//! if it isn't known whether the file is text. What it finds in ELF files counts only if a rule matches. OLE
//! documents and ELF files are read through the descriptor where they extend beyond what libmagic has been given
//! (`cdf_read` in cdf.c, readelf.c), so their beginning is enough.
//!
//! # What is left out
//!
//! For each of these tests, and for each of the two that distinguish text from binary content, there is a flag with
//! which `file_buffer` skips it (MAGIC_NO_CHECK_TAR and so on). A test that fails has no further effect, so one that
//! is certain to fail may as well be left out. `file_buffer` is the same in 5.41 to 5.47, except for tapes. Nothing
//! else depends on these flags.
//!
//! - Before the rules, libmagic is only asked to make the tests that [may succeed](builtin). Among them, only CSV
//!   depends on what `file_encoding` has found (`looks_text`).
//! - Once they have failed, they are left out when libmagic is asked about rules. It is then given as much as these
//!   rules need, while the tests must be decided by the whole file.
//! - `file_encoding` is called for `looks_text`, which is 0 for what isn't text in any encoding, as it is initially.
//!   It is also called by `file_ascmagic`, for the content without zeros at its end, which then prints nothing
//!   (MAGIC_NO_CHECK_TEXT). So both are left out for a file whose head is [certainly binary](super::text::is_binary),
//!   whatever follows it.

use super::buffer::Buffer;
use super::check::string::is_space;
use super::text::{is_binary, is_text, looks_like_text};
use crate::detector::cookie::Tests;
use crate::detector::csv::{self, CsvVerdict};
use crate::detector::json::{self, Dialect, JsonVerdict};
use crate::detector::limits::ENCODING_MAX;
use crate::detector::release::Library;

/// The result of these tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Builtin {
    /// They fail.
    Fail,
    /// One of them gives this answer.
    Says(&'static str),
    /// One of these may succeed. libmagic must be given this many bytes for them to have the same result as with the
    /// whole file.
    May(Tests, usize),
}

/// The result of the tests before the rules.
pub fn builtin(library: &Library, buffer: &Buffer<'_>) -> Builtin {
    let (mut may, mut needed) = (Tests::NONE, 0);
    let mut add = |test: Tests, bytes: Option<usize>| {
        if let Some(bytes) = bytes {
            may = may.and(test);
            needed = needed.max(bytes);
        }
        may
    };
    let tar = may_be_tar(buffer.first(HEADER)).then_some(HEADER);
    let tar = add(Tests::TAR, tar);
    let before_csv = match json(library, buffer) {
        Some(said) if tar == Tests::NONE => return Builtin::Says(said),
        Some(_) => add(Tests::JSON, Some(buffer.flen())),
        None => tar,
    };
    let ole = buffer.first(4).starts_with(b"\xD0\xCF\x11\xE0");
    let tape = library.tapes && may_be_tape(library, buffer);
    match csv(library, buffer) {
        Csv::No => {}
        Csv::Yes(_) if before_csv == Tests::NONE => return Builtin::Says(CSV),
        // No other test depends on whether it is text.
        Csv::Yes(bytes) | Csv::Maybe(bytes) => {
            add(Tests::CSV.and(Tests::ENCODING), Some(bytes));
        }
    }
    add(Tests::TAPES, tape.then_some(buffer.flen()));
    add(Tests::OLE, ole.then_some(HEADER));
    match may {
        Tests::NONE => Builtin::Fail,
        may => Builtin::May(may, needed),
    }
}

/// How much of what may be JSON is read before all of it is.
const SOME: usize = 256 << 10;

/// The answer for JSON, which is what has been parsed to its end, or two values in a row.
fn json(library: &Library, buffer: &Buffer<'_>) -> Option<&'static str> {
    let dialect = match library.strict_json {
        true => Dialect::Of544,
        false => Dialect::Of541,
    };
    let mut seen = buffer.head();
    loop {
        let whole = seen.len() == buffer.flen();
        match json::verdict(dialect, seen) {
            JsonVerdict::No => return None,
            JsonVerdict::Yes(said) => return Some(said),
            JsonVerdict::Whole(said) if whole => return Some(said),
            JsonVerdict::More if whole => return None,
            _ => {}
        }
        let more = buffer.first(if seen.len() < SOME {
            SOME
        } else {
            buffer.flen()
        });
        if more.len() <= seen.len() {
            return None;
        }
        seen = more;
    }
}

/// The answer for CSV.
const CSV: &str = "text/csv";

/// With how much libmagic must see to say the same, if it may be CSV.
enum Csv {
    No,
    Yes(usize),
    /// It isn't known.
    Maybe(usize),
}

/// How much is checked before anything else.
const START: usize = 512;

/// CSV is decided by its first ten lines, whatever their length, if it is text.
fn csv(library: &Library, buffer: &Buffer<'_>) -> Csv {
    let mut seen = buffer.head();
    // That is enough for most files.
    let start = &seen[..seen.len().min(START)];
    if csv::verdict(start) == CsvVerdict::Final(false) || is_binary(library, buffer) {
        return Csv::No;
    }
    loop {
        match csv::verdict(seen) {
            CsvVerdict::Final(false) => return Csv::No,
            CsvVerdict::So(_) if seen.len() < buffer.flen() => {
                if looks_like_text(library, seen) == Some(false) {
                    return Csv::No;
                }
                let more = buffer.first((2 * seen.len()).max(ENCODING_MAX));
                if more.len() <= seen.len() {
                    return Csv::No;
                }
                seen = more;
            }
            _ => break,
        }
    }
    if !csv::is_csv(seen, library.csv_lines, library.csv_commas) {
        return Csv::No;
    }
    let bytes = seen.len().max(ENCODING_MAX.min(buffer.flen()));
    match is_text(library, buffer) {
        Some(true) => Csv::Yes(bytes),
        Some(false) => Csv::No,
        None => Csv::Maybe(bytes),
    }
}

/// Bytes of a header of tar, and of OLE.
const HEADER: usize = 512;

/// `is_tar` in src/is_tar.c: the header contains its checksum, computed with itself as blanks, in octal digits.
fn may_be_tar(bytes: &[u8]) -> bool {
    const CHECKSUM: std::ops::Range<usize> = 148..156;
    let Some(header) = bytes.get(..HEADER) else {
        return false;
    };
    let field = &header[CHECKSUM];
    let digits = match field.iter().position(|byte| !is_space(*byte)) {
        // No sum is 0, since the blanks are included.
        None => return false,
        // Whether isspace(3) is true outside ASCII depends on the locale.
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

/// The number of records of a tape that are read before the rest is left to libmagic.
const RECORDS: usize = 16;

/// The number of zeros between records that end the reading of a tape.
const TAPE_MARKS: usize = 10;

/// `simh_parse` in src/is_simh.c: the length of each record precedes and follows it, and there may be tape marks,
/// which are zeros, between records.
fn may_be_tape(library: &Library, buffer: &Buffer<'_>) -> bool {
    let (mut at, mut marks, mut records) = (0, 0, 0);
    while records < RECORDS {
        let Some(record) = record_length(library, buffer, at) else {
            return false;
        };
        at += 4;
        match record {
            Length::Beyond => break,
            Length::EndOfMedium => break,
            Length::Bytes(0) => {
                marks += 1;
                if marks == TAPE_MARKS {
                    break;
                }
                continue;
            }
            Length::Bytes(bytes) => at += bytes,
        }
        match record_length(library, buffer, at) {
            None => return false,
            Some(Length::Beyond) => break,
            Some(again) if again != record => return false,
            Some(_) => records += 1,
        }
        at += 4;
    }
    records > 0
}

#[derive(PartialEq, Eq)]
enum Length {
    Bytes(u64),
    EndOfMedium,
    /// There are no more.
    Beyond,
}

/// `getlen`; None if it has unused bits set.
fn record_length(library: &Library, buffer: &Buffer<'_>, at: u64) -> Option<Length> {
    if at + 4 > buffer.flen() as u64 {
        return Some(Length::Beyond);
    }
    let Some(word) = buffer.get(at, 4).first_chunk::<4>() else {
        return Some(Length::Beyond);
    };
    let word = u32::from_le_bytes(*word);
    if word == u32::MAX {
        return Some(Length::EndOfMedium);
    }
    if library.strict_tapes && word & 0x0F00_0000 != 0 {
        return None;
    }
    let even = (word & 0x00FF_FFFF).next_multiple_of(2);
    Some(Length::Bytes(even.into()))
}
