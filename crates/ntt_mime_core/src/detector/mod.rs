//! The detector: a blob in, its MIME type out, as `file --mime-type` gives it for the whole file.
//!
//! libmagic judges, through a descriptor rather than a buffer: OLE documents are told apart by
//! sectors far from the head, and position-independent executables by their dynamic section; libmagic
//! seeks and reads those itself, if it has a descriptor. How much it may look at otherwise is bounded
//! by MAGIC_PARAM_BYTES_MAX, and `plan` decides when an answer calls for a longer look.
//!
//! What libmagic will look at is read here first. So an error of the disk surface as such, with the
//! system's words; the time it takes to read is told apart from that to judge; and what comes before
//! libmagic has something to look at. When libmagic reads the same again, it is in memory.

mod cookie;
mod database;
mod json;
mod plan;
mod reads;
mod release;
mod selfcheck;
#[cfg(test)]
mod tests;

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, Mode};
use rustix::io::{Errno, retry_on_intr};

use crate::failure::{Failure, FailureReason};
use crate::store::{Blob, in_words};
use cookie::{Cookie, MagicError};
pub use database::{MagicDatabase, magic_database};
use plan::Next;
pub use plan::Steps;
use reads::ReadCounter;
pub use selfcheck::{KnownFile, known_files};

/// The type of nothing at all. (file(1) looks at the inode of an empty file first and says
/// `inode/x-empty`; this is what libmagic says of empty content.)
pub const EMPTY: &str = "application/x-empty";

/// Longest MIME type that is believed: what `varchar(255)` holds.
const MAX_MIME_TYPE: usize = 255;

/// How much is read at a time beyond the head.
const CHUNK: usize = 128 * 1024;

/// How to detect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DetectorConfig {
    /// Bytes of the first look; less than 512 counts as 512, more than 7 MiB as 7 MiB.
    pub head_bytes: usize,
    /// Rule out what cannot match before libmagic looks.
    pub prefilter: bool,
}

/// libmagic can't be used: where it looked for its database, and why that won't do, in its own words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DetectorError(String);

impl fmt::Display for DetectorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for DetectorError {}

/// An answer, and what it took.
#[derive(Clone, Debug)]
pub struct Detection {
    pub mime_type: String,
    /// Bytes of the file that were read: the looks, each byte once, and what libmagic read elsewhere
    /// by itself, as far as the system [counts it](reads). What it reads twice elsewhere counts twice,
    /// but all together never for more than the file has.
    pub bytes_read: u64,
    /// Looks taken: 0 for an empty file, 1 for most, 3 at most.
    pub reads: u32,
    /// Time to get what is looked at into memory.
    pub read_time: Duration,
    /// Time that libmagic took.
    pub detect_time: Duration,
}

/// A warm libmagic. Neither Send nor Sync: one a backend.
pub struct Detector {
    config: DetectorConfig,
    steps: Steps,
    cookie: Cookie,
    reads: ReadCounter,
    /// The head of the file at hand, as far as it has been read.
    head: Vec<u8>,
    /// What is read beyond that passes through here; empty until it is needed.
    beyond: Vec<u8>,
}

impl Detector {
    /// Opens libmagic and loads its database, which takes milliseconds and megabytes.
    pub fn new(config: DetectorConfig) -> Result<Detector, DetectorError> {
        Detector::with_steps(config, Steps::default())
    }

    /// One that leaves steps of the plan out, to show what they are good for.
    pub fn with_steps(config: DetectorConfig, steps: Steps) -> Result<Detector, DetectorError> {
        Ok(Detector {
            config,
            steps,
            reads: ReadCounter::of_this_thread(),
            cookie: Cookie::open().map_err(|error| DetectorError(error.to_string()))?,
            head: Vec::new(),
            beyond: Vec::new(),
        })
    }

    /// How it detects.
    pub fn config(&self) -> DetectorConfig {
        self.config
    }

    /// Changes how it detects; costs nothing.
    pub fn set_config(&mut self, config: DetectorConfig) {
        self.config = config;
    }

    /// Is anything ruled out before libmagic looks? Not in this release.
    pub fn prefilter_active(&self) -> bool {
        false
    }

    /// The type of a blob. A file that is cut short meanwhile is judged by what is left of it.
    pub fn detect_blob(&mut self, blob: &Blob) -> Result<Detection, Failure> {
        self.detect(blob.as_fd(), blob.size())
            .map_err(|error| error.about(&format!("\"{}\"", blob.path().display())))
    }

    /// The type of any open regular file of `size` bytes; the same as of a blob with this content.
    pub fn detect_file(&mut self, file: BorrowedFd<'_>, size: u64) -> Result<Detection, Failure> {
        self.detect(file, size)
            .map_err(|error| error.about("the file"))
    }

    /// The type of bytes in hand: the same answer as for a file with this content, since libmagic
    /// gets one, in memory.
    pub fn detect_bytes(&mut self, content: &[u8]) -> Result<Detection, Failure> {
        let file = in_memory(content).map_err(|error| {
            let detail = format!("could not make a file in memory: {}", in_words(error));
            Failure::new(FailureReason::Error, detail)
        })?;
        self.detect(file.as_fd(), content.len() as u64)
            .map_err(|error| error.about("the bytes in hand"))
    }

    /// What is wrong with the libmagic that is loaded, a sentence each: what it gets wrong of a handful
    /// of tiny known files, and what its release is known for. Takes a millisecond or two.
    pub fn complaints(&mut self) -> Vec<String> {
        let mut complaints = selfcheck::run(self);
        complaints.extend(release::known_bad(cookie::version()));
        complaints
    }

    fn detect(&mut self, file: BorrowedFd<'_>, size: u64) -> Result<Detection, Trouble> {
        let mut detection = Detection {
            mime_type: EMPTY.to_owned(),
            bytes_read: 0,
            reads: 0,
            read_time: Duration::ZERO,
            detect_time: Duration::ZERO,
        };
        let mut limit = plan::first_look(self.config.head_bytes);
        self.head.clear();
        let mut seen = self.read(file, 0, wanted(size, limit), &mut detection.read_time)?;
        if seen == 0 {
            return Ok(detection);
        }
        let mut elsewhere = 0;
        loop {
            let begun = Instant::now();
            let (answer, read) = self.reads.during(|| self.cookie.descriptor(file, limit));
            detection.detect_time += begun.elapsed();
            detection.mime_type = believed(answer?)?;
            detection.reads += 1;
            // It read what we had read, and more.
            elsewhere += read.map_or(0, |read| read.saturating_sub(seen as u64));
            detection.bytes_read = size.min(seen as u64 + elsewhere);
            let next = plan::next(self.steps, &detection.mime_type, &self.head, limit, size);
            let (Next::Look(longer) | Next::LookUnlessText(longer)) = next else {
                return Ok(detection);
            };
            seen = self.read(file, seen, wanted(size, longer), &mut detection.read_time)?;
            detection.bytes_read = size.min(seen as u64 + elsewhere);
            let more = self.head.get(limit..).unwrap_or_default();
            if matches!(next, Next::LookUnlessText(_)) && plan::is_text(more) {
                return Ok(detection);
            }
            limit = longer;
        }
    }

    /// Reads a file up to `end`, `from` where it has been read already, and tells how far it got. What
    /// lies beyond the second look isn't kept: it is enough to have it in the system's memory.
    fn read(
        &mut self,
        file: BorrowedFd<'_>,
        from: usize,
        end: usize,
        time: &mut Duration,
    ) -> Result<usize, Trouble> {
        let begun = Instant::now();
        let kept = end.min(self.keeps());
        let mut have = self.head.len();
        self.head.resize(kept.max(have), 0);
        while have < kept {
            match read_at(file, &mut self.head[have..], have)? {
                0 => break,
                n => have += n,
            }
        }
        self.head.truncate(have);
        have = have.max(from);
        if have >= kept && have < end {
            self.beyond.resize(CHUNK, 0);
            while have < end {
                let chunk = CHUNK.min(end - have);
                match read_at(file, &mut self.beyond[..chunk], have)? {
                    0 => break,
                    n => have += n,
                }
            }
        }
        *time += begun.elapsed();
        Ok(have)
    }

    /// Bytes of a file that are kept.
    fn keeps(&self) -> usize {
        plan::first_look(self.config.head_bytes).max(plan::SECOND)
    }
}

/// Bytes that a look goes for.
fn wanted(size: u64, limit: usize) -> usize {
    usize::try_from(size).map_or(limit, |size| size.min(limit))
}

fn read_at(file: BorrowedFd<'_>, buffer: &mut [u8], offset: usize) -> Result<usize, Trouble> {
    retry_on_intr(|| rustix::io::pread(file, &mut *buffer, offset as u64)).map_err(Trouble::Reading)
}

/// What can go wrong with a file that is open.
enum Trouble {
    Reading(Errno),
    Judging(MagicError),
    /// Something that is no MIME type, as far as it can be shown.
    Nonsense(String),
}

impl From<MagicError> for Trouble {
    fn from(error: MagicError) -> Trouble {
        match error.reading() {
            Some(errno) => Trouble::Reading(errno),
            None => Trouble::Judging(error),
        }
    }
}

impl Trouble {
    fn about(&self, what: &str) -> Failure {
        match self {
            Trouble::Reading(errno) => Failure::new(
                FailureReason::Unreadable,
                format!("could not read {what}: {}", in_words(*errno)),
            ),
            Trouble::Judging(error) => Failure::new(
                FailureReason::Error,
                format!("libmagic could not judge {what}: {error}"),
            ),
            Trouble::Nonsense(answer) => Failure::new(
                FailureReason::Error,
                format!("libmagic gave no MIME type for {what} but \"{answer}\""),
            ),
        }
    }
}

/// libmagic's answer, if it is fit for a column of MIME types.
///
/// Of damaged ELF files it says more than was asked for, such as "application/x-sharedlib, corrupted
/// program header size" (readelf.c of 5.44 to 5.48 doesn't look whether a MIME type is wanted). The type
/// is what stands before the comma.
fn believed(answer: String) -> Result<String, Trouble> {
    let mime_type = answer.split(", ").next().unwrap_or_default();
    let sane = mime_type.len() <= MAX_MIME_TYPE
        && mime_type.contains('/')
        && mime_type.bytes().all(|byte| byte.is_ascii_graphic());
    if sane {
        return Ok(mime_type.to_owned());
    }
    let start: String = answer.chars().take(100).collect();
    Err(Trouble::Nonsense(start.escape_default().to_string()))
}

/// A file without a name, as libmagic would find one in a store: an ordinary one. (Files in memory
/// are born executable, and libmagic goes by that with some ELF files.)
fn in_memory(content: &[u8]) -> Result<OwnedFd, Errno> {
    let file = rustix::fs::memfd_create(c"ntt_mime", MemfdFlags::CLOEXEC)?;
    rustix::fs::fchmod(&file, Mode::from(0o644))?;
    let mut rest = content;
    while !rest.is_empty() {
        let written = retry_on_intr(|| rustix::io::write(&file, rest))?;
        rest = &rest[written..];
    }
    Ok(file)
}

/// The release of libmagic that is loaded, such as "5.44".
pub fn libmagic_release() -> String {
    release::name(cookie::version())
}
