//! One test against bytes: can it succeed?
//!
//! This follows `mget`, `mconvert` and `magiccheck` in libmagic's src/softmagic.c (5.44, 5.46, 5.47), for the kinds
//! of test that are common, and says [`Answer::Maybe`] to everything else. Where a test looks is told by
//! [`follow`](super::follow).

pub mod number;
pub mod string;

use std::ops::Not;

use self::number::number;
use self::string::{der, pascal_string, region, search, string, string16};
use super::buffer::Bytes;
use super::format::{Entry, VALUE_BYTES, flag, kind, str_flag};
use crate::detector::limits::REGEX_MAX;
use crate::detector::release::Library;

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
pub const UNDERSTOOD: u32 = HARMLESS
    | str_flag::COMPACT_WHITESPACE
    | str_flag::COMPACT_OPTIONAL_WHITESPACE
    | str_flag::IGNORE_CASE
    | str_flag::FULL_WORD;

/// Flags that don't change what a test succeeds on.
pub const HARMLESS: u32 = WHEN | str_flag::OFFSET_START | str_flag::TRIM;

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

    /// What comes of a test whose bytes aren't all there: `mget` says 0, which matches a relation of '!'. What that
    /// leaves behind isn't followed here.
    pub fn missed(entry: &Entry<'_>) -> Found {
        Answer::at_most(entry.relation() == b'!').into()
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

/// Does the test at this offset succeed on these bytes, and from where do its continuations count? With `flip`, numbers
/// are in the other byte order. `regex` answers for a regular expression, and says where it matches.
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
        // "nbytes < offset" fails; so does an unlucky comparison.
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

/// How far a test looks at an offset, at most: bytes from there on that decide it. None if the end of what libmagic has
/// decides it, too.
pub fn reach(entry: &Entry<'_>) -> Option<usize> {
    let blanks = str_flag::COMPACT_WHITESPACE | str_flag::COMPACT_OPTIONAL_WHITESPACE;
    // Longer than all values, and the byte after a whole word.
    const MOST: usize = 8 * VALUE_BYTES;
    match entry.kind() {
        kind::SEARCH => match entry.range() {
            0 => None,
            _ if entry.str_flags() & blanks != 0 => None,
            range => range.checked_add(MOST),
        },
        kind::REGEX => Some(REGEX_MAX + 1),
        // They compare with what there is in all, are that, or go on from there.
        kind::DER | kind::INDIRECT => None,
        _ => Some(MOST),
    }
}
