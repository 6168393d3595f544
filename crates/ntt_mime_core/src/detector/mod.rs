//! The detector: takes a blob and returns its MIME type, as `file --mime-type` gives it for the whole file.
//!
//! libmagic judges through a descriptor, not a buffer: OLE documents are distinguished by sectors far from the head,
//! and position-independent executables by their dynamic section, and libmagic itself seeks and reads those if it has
//! a descriptor. MAGIC_PARAM_BYTES_MAX limits how much else it reads. Where the prefilter is active, it knows what
//! the rules read and provides that; where it isn't, `plan` decides when more has to be read.
//!
//! What libmagic will read is read here first. So a disk error is reported as such, with the system's message; the
//! times for reading and for judging are known separately; and libmagic has something to judge at once. When it reads
//! the same again, it is in memory.

mod cookie;
mod csv;
mod database;
mod errors;
mod json;
mod judge;
mod limits;
mod looks;
mod plan;
mod prefilter;
mod reads;
mod release;
mod selfcheck;
#[cfg(test)]
mod tests;

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use crate::failure::{Failure, FailureReason};
use crate::memory;
use crate::store::{Blob, in_words};
pub use database::{MagicDatabase, magic_database};
pub use errors::DetectorError;
use errors::{LookError, believed};
use judge::{By, Judge, Look};
/// The number of bytes from the start that distinguish text from other content.
pub(crate) use limits::ENCODING_MAX as TEXT;
use looks::{Buffers, Looks, read_at, wanted};
pub use plan::{Json, Steps};
pub use selfcheck::{KnownFile, known_files};

/// What rules read at a file's end, in bytes, before any of them matches.
pub(crate) const END: usize = 64;

/// The type of an empty file. (file(1) checks the inode of an empty file first and says `inode/x-empty`; this is what
/// libmagic says about empty content.)
pub const EMPTY: &str = "application/x-empty";

/// How to detect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DetectorConfig {
    /// Bytes of the first read; less than 512 counts as 512, more than 7 MiB as 7 MiB.
    pub head_bytes: usize,
    /// Rule out what cannot match before libmagic is called.
    pub prefilter: bool,
}

impl DetectorConfig {
    /// Bytes of the first read, within the limits.
    pub(crate) fn first_look(&self) -> usize {
        plan::first_look(self.head_bytes)
    }
}

/// An answer, and what it took.
#[derive(Clone, Debug)]
pub struct Detection {
    pub mime_type: String,
    /// Bytes of the file that were read, each counted once, and what libmagic read elsewhere by itself, as far as the
    /// system counts it (`reads.rs`). What it reads twice elsewhere counts twice, but the sum is never more than the
    /// file's size.
    pub bytes_read: u64,
    /// The number of places of the file that were read, where what follows the head belongs to it: 0 for an empty
    /// file, 1 for most. Without the prefilter, the number of reads.
    pub reads: u32,
    /// 1 if the prefilter spared libmagic the file, or left it few of its rules.
    pub prefiltered: u32,
    /// 1 if libmagic had to use all rules because the prefilter could not decide.
    pub fallbacks: u32,
    /// Time for reading.
    pub read_time: Duration,
    /// Time for the prefilter and libmagic.
    pub detect_time: Duration,
}

/// A warm libmagic. Neither Send nor Sync: it belongs to the thread that opened it, a session's or a detector thread.
pub struct Detector {
    config: DetectorConfig,
    steps: Steps,
    judge: Judge,
    buffers: Buffers,
}

impl Detector {
    /// Opens libmagic and loads its database, which takes milliseconds and megabytes.
    pub fn new(config: DetectorConfig) -> Result<Detector, DetectorError> {
        Detector::with_steps(config, Steps::IN_USE)
    }

    /// A detector that leaves out steps of the plan, to measure what they are good for.
    pub fn with_steps(config: DetectorConfig, steps: Steps) -> Result<Detector, DetectorError> {
        Ok(Detector {
            config,
            steps,
            judge: Judge::open().map_err(|error| DetectorError(error.to_string()))?,
            buffers: Buffers::default(),
        })
    }

    /// Builds the prefilter now, for callers with many blobs. It takes some milliseconds; otherwise the first few
    /// detections do without.
    pub fn prepare(&mut self) {
        if self.config.prefilter {
            self.judge.prepare();
        }
    }

    /// Changes its configuration; costs nothing.
    pub fn set_config(&mut self, config: DetectorConfig) {
        self.config = config;
    }

    /// Whether rules are ruled out before libmagic is called, from the next detection on.
    pub fn prefilter_active(&mut self) -> bool {
        self.prepare();
        self.config.prefilter && self.judge.has_filter()
    }

    /// The type of a blob. A file that is truncated meanwhile is judged by what is left of it.
    pub fn detect_blob(&mut self, blob: &Blob) -> Result<Detection, Failure> {
        #[cfg(feature = "poison")]
        crate::poison::take_effect(&blob.id());
        let found = self.detect(blob.as_fd(), blob.size());
        #[cfg(feature = "poison")]
        let found = found.map(|found| match crate::poison::is_lied_about(&blob.id()) {
            true if self.config.prefilter => Detection {
                mime_type: crate::poison::LIE.to_owned(),
                ..found
            },
            _ => found,
        });
        found.map_err(|error| error.about(&format!("\"{}\"", blob.path().display())))
    }

    /// The type of a blob by the whole file, as far as file(1) reads, and all of libmagic's rules; and how many bytes
    /// were read for it.
    pub fn detect_whole(&mut self, blob: &Blob) -> (Result<String, Failure>, u64) {
        let (said, read) = self.whole(blob.as_fd(), blob.size());
        let said = said.map_err(|error| error.about(&format!("\"{}\"", blob.path().display())));
        (said, read)
    }

    /// The same for any open regular file.
    pub fn detect_whole_file(
        &mut self,
        file: BorrowedFd<'_>,
        size: u64,
    ) -> Result<String, Failure> {
        let (said, _) = self.whole(file, size);
        said.map_err(|error| error.about("the file"))
    }

    fn whole(&mut self, file: BorrowedFd<'_>, size: u64) -> (Result<String, LookError>, u64) {
        let look = Look {
            file,
            size,
            head: &[],
        };
        let given = wanted(size, cookie::bytes_max()) as u64;
        let (said, read) = self.judge.whole(&look, cookie::bytes_max());
        let said = said.map_err(LookError::from).and_then(believed);
        (said, read.unwrap_or(given).min(size))
    }

    /// The type of any open regular file of `size` bytes; the same as that of a blob with this content.
    pub fn detect_file(&mut self, file: BorrowedFd<'_>, size: u64) -> Result<Detection, Failure> {
        self.detect(file, size)
            .map_err(|error| error.about("the file"))
    }

    /// The type of some bytes: the same answer as for a file with this content, since libmagic gets one, in memory.
    pub fn detect_bytes(&mut self, content: &[u8]) -> Result<Detection, Failure> {
        let file = memory::file_of(content).map_err(|error| {
            let detail = format!("could not make a file of them: {}", in_words(error));
            Failure::new(FailureReason::Error, detail)
        })?;
        self.detect(file.as_fd(), content.len() as u64)
            .map_err(|error| error.about("the bytes in hand"))
    }

    /// What is wrong with the loaded libmagic, a sentence for each problem: what it gets wrong among a few tiny known
    /// files, and known problems of its release. Takes a millisecond or two.
    pub fn complaints(&mut self) -> Vec<String> {
        let mut complaints = selfcheck::run(self);
        let release = cookie::version();
        complaints.extend(release::complaint(release, release::KNOWN_BAD));
        complaints
    }

    /// Why nothing can be ruled out before libmagic is called, as a sentence, if that is so although it is requested.
    pub fn no_prefilter(&self) -> Option<String> {
        let why = self.judge.no_prefilter()?;
        self.config.prefilter.then(|| why.to_string())
    }

    fn detect(&mut self, file: BorrowedFd<'_>, size: u64) -> Result<Detection, LookError> {
        self.buffers.head.clear();
        self.buffers.shrink();
        let mut looks = Looks::new(file, size, &mut self.buffers);
        let mut detection = Detection {
            mime_type: EMPTY.to_owned(),
            bytes_read: 0,
            reads: 0,
            prefiltered: 0,
            fallbacks: 0,
            read_time: Duration::ZERO,
            detect_time: Duration::ZERO,
        };
        let first = self.config.first_look();
        looks.read_to(first)?;
        if looks.buffers.head.is_empty() {
            return Ok(detection);
        }
        let filtered = self.config.prefilter && self.judge.has_filter();
        match filtered && sees(&mut self.judge, &mut looks, &mut detection, first)? {
            true => {}
            false => goes_by_plan(
                &mut self.judge,
                &self.steps,
                &mut looks,
                &mut detection,
                first,
            )?,
        }
        detection.read_time += looks.time;
        Ok(detection)
    }
}

/// Judges with the prefilter; false if there is none.
fn sees(
    judge: &mut Judge,
    looks: &mut Looks<'_>,
    detection: &mut Detection,
    first: usize,
) -> Result<bool, LookError> {
    let head = looks.buffers.head.as_slice();
    // If the file is truncated meanwhile, its size is what is left of it.
    let size = match head.len() < wanted(looks.size, first) {
        true => head.len() as u64,
        false => looks.size,
    };
    let look = Look {
        file: looks.file,
        size,
        head,
    };
    let begun = Instant::now();
    let Some(judgement) = judge.filtered(&look) else {
        return Ok(false);
    };
    let judgement = judgement.map_err(LookError::Reading)?;
    detection.read_time = judgement.read_time;
    detection.detect_time = begun.elapsed().saturating_sub(judgement.read_time);
    detection.mime_type = believed(judgement.said?)?;
    detection.reads = 1 + judgement.places;
    match judgement.by {
        By::FewerRules => detection.prefiltered = 1,
        By::Fallback => detection.fallbacks = 1,
    }
    detection.bytes_read = size.min(head.len() as u64 + judgement.elsewhere);
    Ok(true)
}

/// Judges with all rules, with reads as long as the plan says.
fn goes_by_plan(
    judge: &mut Judge,
    steps: &Steps,
    looks: &mut Looks<'_>,
    detection: &mut Detection,
    first: usize,
) -> Result<(), LookError> {
    let mut limit = first;
    let mut elsewhere = 0;
    loop {
        let begun = Instant::now();
        let look = Look {
            file: looks.file,
            size: looks.size,
            head: &looks.buffers.head,
        };
        let (said, read) = judge.whole(&look, limit);
        detection.detect_time += begun.elapsed();
        detection.mime_type = believed(said?)?;
        detection.reads += 1;
        // libmagic read what we had read, and more; a longer read will include that, and more.
        let more = read.map_or(0, |read| {
            read.saturating_sub(looks.buffers.head.len() as u64)
        });
        elsewhere = more.max(elsewhere);
        looks.end_was_asked_for = read.is_none() || more > 0;
        match plan::next(steps, &detection.mime_type, looks, limit)? {
            None => break,
            Some(longer) => limit = longer,
        }
        looks.read_to(limit)?;
    }
    detection.bytes_read = looks.size.min(looks.bytes_read() + elsewhere);
    Ok(())
}

/// The release of libmagic that is loaded, such as "5.44".
pub fn libmagic_release() -> String {
    release::name(cookie::version())
}
