//! One test against bytes: can it succeed?
//!
//! This follows `mget`, `mconvert` and `magiccheck` in libmagic's src/softmagic.c (5.44, 5.46, 5.47), for the kinds
//! of test that are common, and says [`Answer::Maybe`] to everything else. Where a test looks is told by
//! [`follow`](super::follow).

pub mod number;
pub mod string;

use std::ops::Not;

use memchr::memmem;

use self::number::number;
use self::string::{der, pascal_string, region, search, string, string16};
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
