//! Whether one test can succeed on some bytes.
//!
//! This follows `mget`, `mconvert` and `magiccheck` in libmagic's src/softmagic.c (5.44, 5.46, 5.47) for the common
//! kinds of tests, and returns [`Answer::Maybe`] for everything else. [`follow`](super::follow) determines where a
//! test reads.

pub mod number;
pub mod string;

use std::ops::Not;

use self::number::number;
use self::string::{der, pascal_string, region, search, string, string16};
use super::buffer::Bytes;
use super::format::{Entry, VALUE_BYTES, flag, kind, str_flag};
use crate::detector::limits::REGEX_MAX;
use crate::detector::release::Library;

/// What is known about a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Answer {
    /// It fails, whatever comes before.
    No,
    /// It isn't decided here.
    Maybe,
    /// It succeeds if it is reached.
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

    /// For something that depends on more than the bytes: it can be ruled out, but not relied upon.
    fn at_most(yes: bool) -> Answer {
        if yes { Answer::Maybe } else { Answer::No }
    }
}

/// Flags that say for which files a test is; that is known by other means.
const WHEN: u32 = str_flag::TEXTTEST | str_flag::BINTEST;

/// Flags of strings that are understood here.
pub const UNDERSTOOD: u32 = HARMLESS
    | str_flag::COMPACT_WHITESPACE
    | str_flag::COMPACT_OPTIONAL_WHITESPACE
    | str_flag::IGNORE_CASE
    | str_flag::FULL_WORD;

/// Flags that don't change where a test succeeds.
pub const HARMLESS: u32 = WHEN | str_flag::OFFSET_START | str_flag::TRIM;

/// What is known about a test, and what relative offsets after it are relative to (`moffset`), if known.
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

    /// The result of a test whose bytes don't all exist: `mget` returns 0, which matches a relation of '!'. The
    /// further effects of that are not evaluated here.
    pub fn missed(entry: &Entry<'_>) -> Found {
        Answer::at_most(entry.relation() == b'!').into()
    }
}

impl From<Answer> for Found {
    fn from(answer: Answer) -> Found {
        Found { answer, end: None }
    }
}

/// Where the test reads, if known (`msetoffset`): at a position relative to the start, as a rule's first test does,
/// and its continuations unless they say otherwise; or relative to `parent`, where the previous match ended.
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

/// Whether the test at this offset succeeds on these bytes, and what its continuations are relative to. With `flip`,
/// numbers have the opposite byte order. `regex` decides a regular expression, and returns where it matches.
pub fn check(
    library: &Library,
    entry: &Entry<'_>,
    bytes: Bytes<'_>,
    offset: usize,
    flip: bool,
    regex: impl FnOnce(&[u8]) -> (Answer, Option<(usize, usize)>),
) -> Found {
    match entry.kind() {
        kind::STRING => string(entry, bytes, offset),
        kind::SEARCH => search(entry, bytes, offset),
        kind::LESTRING16 | kind::BESTRING16 => string16(entry, bytes, offset),
        kind::GUID if entry.relation() == b'=' => match bytes.get(offset, 16) {
            guid if guid.len() == 16 => {
                Found::at(entry.value().starts_with(guid), offset + guid.len())
            }
            _ => Answer::No.into(),
        },
        kind::DER => der(entry, bytes, offset),
        kind::PSTRING => pascal_string(entry, bytes, offset).into(),
        // "nbytes < offset" fails, and so may a comparison.
        kind::REGEX if entry.relation() == b'=' && offset <= bytes.len() => {
            let (answer, place) = regex(region(entry, bytes.get(offset, REGEX_MAX)));
            let end = place.map(
                |(start, end)| match entry.str_flags() & str_flag::OFFSET_START {
                    0 => offset + end,
                    _ => offset + start,
                },
            );
            Found { answer, end }
        }
        kind::REGEX if entry.relation() == b'=' => Answer::No.into(),
        _ => number(library, entry, bytes, offset, flip),
    }
}

/// How far a test at an offset reads at most: the number of bytes from there on that decide it. None if it also
/// depends on where libmagic's buffer ends.
pub fn reach(entry: &Entry<'_>) -> Option<usize> {
    let blanks = str_flag::COMPACT_WHITESPACE | str_flag::COMPACT_OPTIONAL_WHITESPACE;
    // Longer than all values, including the byte after a whole word.
    const MOST: usize = 8 * VALUE_BYTES;
    match entry.kind() {
        kind::SEARCH => match entry.range() {
            0 => None,
            _ if entry.str_flags() & blanks != 0 => None,
            range => range.checked_add(MOST),
        },
        kind::REGEX => Some(REGEX_MAX + 1),
        // They compare with the total size, are that size, or go on from there.
        kind::DER | kind::INDIRECT => None,
        _ => Some(MOST),
    }
}
