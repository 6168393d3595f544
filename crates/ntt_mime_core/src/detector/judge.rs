//! Decides who judges a file: libmagic with all its rules, or with those that the [prefilter](super::prefilter)
//! leaves.
//!
//! Both use one mapping of the database: the file is mapped when a cookie is opened, and if the prefilter may be
//! used, libmagic is given that mapping. So a later upgrade of the package affects neither.

use std::fmt;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::rc::Rc;
use std::time::Duration;

use rustix::io::Errno;

use super::cookie::{self, Cookie, MagicError};
use super::database;
use super::prefilter::buffer::Buffer;
use super::prefilter::format::Compiled;
use super::prefilter::{Prefilter, Question, Stage, Verdict, found_something};
use super::reads::ReadCounter;
use super::release::{self, Library};

/// The number of small files after which a prefilter is built: building it takes as long as judging some dozens of
/// these without it.
const WORTH_IT: u32 = 20;

pub struct Judge {
    /// Dropped before the mapping from which it may read.
    cookie: Cookie,
    filter: Filter,
    reads: ReadCounter,
    /// Files that were judged without a prefilter.
    looks: u32,
    _database: Option<Rc<Compiled>>,
}

enum Filter {
    /// It hasn't been built yet.
    Later(Rc<Compiled>, &'static Library),
    Ready(Box<Prefilter>),
    /// It can't be built.
    Refused(NoPrefilter),
}

/// Why there is no prefilter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoPrefilter {
    /// There are rules besides those of one compiled database, or there is no compiled database.
    OtherRules,
    /// It isn't one of the pairs in [`release::LIBRARIES`].
    Unknown { release: i32, database: Option<u32> },
    /// The database is faulty.
    Unfit,
}

impl fmt::Display for NoPrefilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = match self {
            NoPrefilter::OtherRules => {
                "the magic database is not one compiled file alone".to_owned()
            }
            NoPrefilter::Unknown { release, database } => {
                let database = match database {
                    Some(version) => format!("a magic database of version {version}"),
                    None => "a magic database of another version".to_owned(),
                };
                format!(
                    "libmagic {} with {database} is not known to it",
                    release::name(*release)
                )
            }
            NoPrefilter::Unfit => "the magic database cannot be used".to_owned(),
        };
        write!(f, "The prefilter is not active: {why}.")
    }
}

/// The file to be judged.
pub struct Look<'a> {
    pub file: BorrowedFd<'a>,
    pub size: u64,
    /// The first bytes.
    pub head: &'a [u8],
}

/// Which rules were tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// Those that the prefilter left, if any.
    FewerRules,
    /// All rules, because the prefilter could not decide.
    Fallback,
}

/// The result.
pub struct Judgement {
    pub by: By,
    pub said: Result<String, MagicError>,
    /// Bytes that were read elsewhere than in the head, each counted once as far as that is known.
    pub elsewhere: u64,
    /// The number of places at which they were read.
    pub places: u32,
    /// The time for reading them.
    pub read_time: Duration,
}

impl Judge {
    /// Opens libmagic with its database.
    pub fn open() -> Result<Judge, MagicError> {
        let (cookie, filter, database) = match known_database() {
            Ok((compiled, library)) => match cookie_of(&compiled) {
                Some(cookie) => (
                    cookie,
                    Filter::Later(Rc::clone(&compiled), library),
                    Some(compiled),
                ),
                None => (Cookie::open()?, Filter::Refused(NoPrefilter::Unfit), None),
            },
            Err(why) => (Cookie::open()?, Filter::Refused(why), None),
        };
        Ok(Judge {
            cookie,
            filter,
            reads: ReadCounter::of_this_thread(),
            looks: 0,
            _database: database,
        })
    }

    /// Builds the prefilter, unless that has been tried before.
    pub fn prepare(&mut self) {
        if let Filter::Later(compiled, library) = &self.filter {
            // It fails only if the crates fail, for which they have no reason.
            self.filter = match Prefilter::new(Rc::clone(compiled), library) {
                Some(filter) => Filter::Ready(Box::new(filter)),
                None => Filter::Refused(NoPrefilter::Unfit),
            };
        }
    }

    /// Whether there is a prefilter, or can be one.
    pub fn has_filter(&self) -> bool {
        !matches!(self.filter, Filter::Refused(_))
    }

    /// Why there is none.
    pub fn no_prefilter(&self) -> Option<&NoPrefilter> {
        match &self.filter {
            Filter::Refused(why) => Some(why),
            _ => None,
        }
    }

    /// Judges with a prefilter, as if libmagic were given everything that file(1) gives it. None if there can't be a
    /// prefilter, if it isn't worthwhile, or if the file is truncated meanwhile. Errors are those of reading the
    /// file.
    pub fn filtered(&mut self, look: &Look<'_>) -> Option<Result<Judgement, Errno>> {
        // For a file that is completely in memory, libmagic's answer is the same.
        let in_hand = look.size <= look.head.len() as u64;
        if in_hand && self.looks < WORTH_IT && matches!(self.filter, Filter::Later(..)) {
            self.looks += 1;
            return None;
        }
        self.prepare();
        let Filter::Ready(filter) = &mut self.filter else {
            return None;
        };
        let head = look.head;
        let read = |buffer: &mut [u8], at: u64| super::read_at(look.file, buffer, at);
        let clusters = filter.clusters();
        let buffer = Buffer::new(head, look.size, cookie::bytes_max(), &read, &clusters);
        let mut stage = Stage::Builtin;
        // What libmagic read beyond what it was given.
        let mut further = 0;
        let (by, said) = loop {
            let (by, question, next) = match filter.judge(stage, &buffer) {
                Verdict::Known(said) => break (By::FewerRules, Ok(said.to_owned())),
                Verdict::Try(question, next) => (By::FewerRules, question, Some(next)),
                Verdict::Ask(question) => (By::FewerRules, question, None),
                Verdict::Unsure(limit) => {
                    let cookie = &mut self.cookie;
                    (By::Fallback, Question::open(cookie, limit), None)
                }
            };
            if buffer.error().is_some() {
                break (by, Ok(String::new()));
            }
            let Question {
                cookie,
                limit,
                without,
                may_read_elsewhere,
            } = question;
            buffer.first(limit);
            cookie.leave_out(without);
            let mut ask = || cookie.descriptor(look.file, limit);
            // Counting takes as long as some of libmagic's answers.
            let said = match may_read_elsewhere && !in_hand {
                false => ask(),
                true => {
                    let (said, read) = self.reads.during(ask);
                    let given = limit as u64;
                    further = further.max(read.map_or(0, |read| read.saturating_sub(given)));
                    said
                }
            };
            match (&said, next) {
                (Ok(said), Some(next)) if !found_something(said) => stage = next,
                _ => break (by, said),
            }
        };
        if let Some(error) = buffer.error() {
            return Some(Err(error));
        }
        // Somebody is writing to it; libmagic judges what is left.
        if buffer.is_cut_short() {
            return None;
        }
        Some(Ok(Judgement {
            by,
            said,
            elsewhere: buffer.bytes_read() + further,
            // A small file is in memory as a whole.
            places: buffer.places() + u32::from(further > 0 && look.size > head.len() as u64),
            read_time: buffer.time(),
        }))
    }

    /// Judges the first `limit` bytes with all rules.
    pub fn whole(
        &mut self,
        look: &Look<'_>,
        limit: usize,
    ) -> (Result<String, MagicError>, Option<u64>) {
        self.reads
            .during(|| self.cookie.descriptor(look.file, limit))
    }
}

/// The database that libmagic would load, if the prefilter supports it together with this release.
fn known_database() -> Result<(Rc<Compiled>, &'static Library), NoPrefilter> {
    let path = database::only_compiled().ok_or(NoPrefilter::OtherRules)?;
    let release = cookie::version();
    let unknown = |database| NoPrefilter::Unknown { release, database };
    let compiled = Compiled::open(&path).map_err(|_| unknown(None))?;
    let version = compiled.version();
    let library = release::library(release, version).ok_or(unknown(Some(version)))?;
    Ok((Rc::new(compiled), library))
}

/// A libmagic cookie that reads the mapped database.
fn cookie_of(compiled: &Compiled) -> Option<Cookie> {
    let bytes = compiled.bytes();
    let mut buffers = [NonNull::from(bytes).cast()];
    // SAFETY: the mapping lives at least as long as the cookie: `Judge` keeps it, and drops the cookie first.
    // `Compiled` has checked that it holds what its header says. It is only read, because it has this machine's byte
    // order.
    unsafe { Cookie::with_buffers(&mut buffers, &mut [bytes.len()]) }.ok()
}
