//! Who judges: libmagic with all its rules, or with what the [prefilter](super::prefilter) leaves of them.
//!
//! Both have one mapping of the database: when a cookie is opened the file is mapped, and if the prefilter may come to
//! use it, libmagic is given that mapping. So a package that is upgraded later changes nothing for either.

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

/// Small files after which a prefilter is made: it takes as long as some dozens of looks at these without one.
const WORTH_IT: u32 = 20;

pub struct Judge {
    /// Dropped before the mapping that it may read.
    cookie: Cookie,
    filter: Filter,
    reads: ReadCounter,
    /// Files that were judged without a prefilter.
    looks: u32,
    _database: Option<Rc<Compiled>>,
}

enum Filter {
    /// It isn't made yet.
    Later(Rc<Compiled>, &'static Library),
    Ready(Box<Prefilter>),
    /// There can't be one.
    Refused(NoPrefilter),
}

/// Why there is no prefilter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoPrefilter {
    /// There are rules besides those of one compiled database, or none that is.
    OtherRules,
    /// Not one of the pairs of [`release::LIBRARIES`].
    Unknown { release: i32, database: Option<u32> },
    /// Something is wrong with it.
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

/// What is looked at.
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
    /// All rules, since the prefilter wasn't sure.
    Fallback,
}

/// What came of it.
pub struct Judgement {
    pub by: By,
    pub said: Result<String, MagicError>,
    /// Bytes that were read beside the head, each once as far as that is known.
    pub elsewhere: u64,
    /// Places that these are from.
    pub places: u32,
    /// Time that it took to read them.
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

    /// Makes the prefilter, unless that has been tried before.
    pub fn prepare(&mut self) {
        if let Filter::Later(compiled, library) = &self.filter {
            // Refused only if the crates refuse, which they have no reason to.
            self.filter = match Prefilter::new(Rc::clone(compiled), library) {
                Some(filter) => Filter::Ready(Box::new(filter)),
                None => Filter::Refused(NoPrefilter::Unfit),
            };
        }
    }

    /// Is there a prefilter, or can there be one?
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

    /// Judges with a prefilter, if there can be one, it is worth it, and the file stays as long as it is: as if libmagic were given all that file(1) gives it. Errors are
    /// those of reading the file.
    pub fn filtered(&mut self, look: &Look<'_>) -> Option<Result<Judgement, Errno>> {
        // Of a file that is in hand whole libmagic has the same answer.
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
        // What libmagic read beyond what it was given at the start.
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
            // To count costs as much as some questions.
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
        // Somebody is writing to it; libmagic looks at what is left.
        if buffer.is_cut_short() {
            return None;
        }
        Some(Ok(Judgement {
            by,
            said,
            elsewhere: buffer.bytes_read() + further,
            // A small file is in memory whole.
            places: buffer.places() + u32::from(further > 0 && look.size > head.len() as u64),
            read_time: buffer.time(),
        }))
    }

    /// Judges with all rules, by the first `limit` bytes.
    pub fn whole(
        &mut self,
        look: &Look<'_>,
        limit: usize,
    ) -> (Result<String, MagicError>, Option<u64>) {
        self.reads
            .during(|| self.cookie.descriptor(look.file, limit))
    }
}

/// The database that libmagic would load, if the prefilter is made for it and this release.
fn known_database() -> Result<(Rc<Compiled>, &'static Library), NoPrefilter> {
    let path = database::only_compiled().ok_or(NoPrefilter::OtherRules)?;
    let release = cookie::version();
    let unknown = |database| NoPrefilter::Unknown { release, database };
    let compiled = Compiled::open(&path).map_err(|_| unknown(None))?;
    let version = compiled.version();
    let library = release::library(release, version).ok_or(unknown(Some(version)))?;
    Ok((Rc::new(compiled), library))
}

/// A libmagic that reads a database where it is mapped.
fn cookie_of(compiled: &Compiled) -> Option<Cookie> {
    let bytes = compiled.bytes();
    let mut buffers = [NonNull::from(bytes).cast()];
    // SAFETY: the mapping lives at least as long as the cookie: `Judge` keeps it, and drops the cookie first. It holds what its header says, as `Compiled` has seen to, and is only read: it is of this machine's
    // byte order.
    unsafe { Cookie::with_buffers(&mut buffers, &mut [bytes.len()]) }.ok()
}
