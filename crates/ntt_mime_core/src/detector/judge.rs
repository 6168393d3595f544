//! Who judges: libmagic with all its rules, or with what the [prefilter](super::prefilter) leaves of them.

use std::os::fd::BorrowedFd;

use super::cookie::{Cookie, MagicError};
use super::database;
use super::prefilter::end::End;
use super::prefilter::format::Compiled;
use super::prefilter::{Prefilter, Stage, Verdict, found_something};
use super::reads::ReadCounter;

/// Looks after which a prefilter is made: it takes as long as some dozens of looks without one.
const WORTH_IT: u32 = 20;

pub struct Judge {
    cookie: Cookie,
    filter: Filter,
    /// Looks without a prefilter.
    looks: u32,
    reads: ReadCounter,
}

enum Filter {
    /// It isn't worth it yet.
    Later,
    Ready(Box<Prefilter>),
    /// There can't be one.
    Refused,
}

/// What is looked at.
pub struct Look<'a> {
    pub file: BorrowedFd<'a>,
    pub size: u64,
    /// Bytes that libmagic may look at.
    pub limit: usize,
    /// Those bytes.
    pub head: &'a [u8],
}

/// Which rules were tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    AllRules,
    /// Those that the prefilter left, if any.
    FewerRules,
    /// All rules, since the prefilter wasn't sure.
    Fallback,
}

/// What came of it.
pub struct Judgement {
    pub by: By,
    pub said: Result<String, MagicError>,
    /// Bytes that libmagic has read, as far as the system counts them.
    pub read: Option<u64>,
    /// Bytes at the end of the file that were read for the prefilter.
    pub end: Vec<u8>,
}

impl Judge {
    /// Opens libmagic with its database.
    pub fn open() -> Result<Judge, MagicError> {
        Ok(Judge {
            cookie: Cookie::open()?,
            filter: Filter::Later,
            looks: 0,
            reads: ReadCounter::of_this_thread(),
        })
    }

    /// Makes the prefilter, unless that has been tried before.
    pub fn prepare(&mut self) {
        if matches!(self.filter, Filter::Later) {
            self.filter = match make_filter() {
                Some(filter) => Filter::Ready(Box::new(filter)),
                None => Filter::Refused,
            };
        }
    }

    /// Is there a prefilter?
    pub fn has_filter(&self) -> bool {
        matches!(self.filter, Filter::Ready(_))
    }

    /// Judges with a prefilter, if there is one or it is time for one.
    pub fn filtered(&mut self, look: &Look<'_>) -> Judgement {
        self.looks = self.looks.saturating_add(1);
        if self.looks > WORTH_IT {
            self.prepare();
        }
        let Filter::Ready(filter) = &mut self.filter else {
            return self.whole(look);
        };
        let head = look.head;
        let mut read_end = |buffer: &mut [u8]| {
            let n = buffer.len();
            let read = super::read_at(look.file, buffer, look.size - n as u64);
            read.is_ok_and(|read| read == n)
        };
        let whole = look.size == head.len() as u64;
        let mut end = End::new(head.len(), whole, &mut read_end);
        let mut stage = Stage::Builtin;
        let (by, said, read) = loop {
            let (by, cookie, next) = match filter.judge(stage, head, &mut end) {
                Verdict::Known(said) => break (By::FewerRules, Ok(said.to_owned()), Some(0)),
                Verdict::Try(cookie, next) => (By::FewerRules, cookie, Some(next)),
                Verdict::Ask(cookie) => (By::FewerRules, cookie, None),
                Verdict::Unsure => (By::Fallback, &mut self.cookie, None),
            };
            let (said, read) = self
                .reads
                .during(|| cookie.descriptor(look.file, look.limit));
            match (&said, next) {
                (Ok(said), Some(next)) if !found_something(said) => stage = next,
                _ => break (by, said, read),
            }
        };
        Judgement {
            by,
            said,
            read,
            end: end.read_bytes().unwrap_or_default().to_vec(),
        }
    }

    /// Judges with all rules.
    pub fn whole(&mut self, look: &Look<'_>) -> Judgement {
        let (said, read) = self
            .reads
            .during(|| self.cookie.descriptor(look.file, look.limit));
        Judgement {
            by: By::AllRules,
            said,
            read,
            end: Vec::new(),
        }
    }
}

/// None if the database isn't one that is understood, or there are rules besides.
fn make_filter() -> Option<Prefilter> {
    let path = database::only_compiled()?;
    Prefilter::new(Compiled::open(&path).ok()?)
}
