//! Rules for how much of a file to look at.
//!
//! The one in use is the prefilter's, which has none: it reads what libmagic's rules look at. The plan is what there is
//! without it.

use std::fs::File;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use ntt_mime_core::detector::{Detection, Detector, DetectorConfig, Json, Steps};

use crate::buffer::Buffers;
use crate::corpus::Sample;

const KIB: usize = 1024;
const WHOLE: usize = 7 * KIB * KIB;

/// A rule, and how it is called in the table.
#[derive(Clone)]
pub struct Rule {
    pub name: &'static str,
    how: How,
}

#[derive(Clone, Copy)]
enum How {
    /// One head of this size, in a buffer.
    Buffer(usize),
    /// Looks through a descriptor, the first at so many bytes, with all of libmagic's rules.
    Descriptor(usize, Steps),
    /// With the prefilter, which has so many bytes to begin with.
    Prefilter(usize),
}

/// The rule that the extension has.
pub fn in_use() -> Rule {
    rule("in use", How::Prefilter(16 * KIB))
}

/// From the simplest to the one in use, which is the last.
pub fn all() -> Vec<Rule> {
    use How::{Buffer, Descriptor};
    let used = Steps::IN_USE;
    let head = |bytes| Descriptor(bytes, Steps::HEAD);
    let but = |steps| Descriptor(16 * KIB, steps);
    let unnamed = Steps {
        unnamed: true,
        ..Steps::HEAD
    };
    let bracket = Steps {
        json: Json::Bracket,
        ..unnamed
    };
    vec![
        rule("a buffer of 2 kB", Buffer(2 * KIB)),
        rule("a buffer of 16 kB", Buffer(16 * KIB)),
        rule("2 kB", head(2 * KIB)),
        rule("16 kB", head(16 * KIB)),
        rule("64 kB", head(64 * KIB)),
        rule("1 MB", head(KIB * KIB)),
        rule("7 MB", head(WHOLE)),
        rule("16 kB, unnamed 64 kB", but(unnamed)),
        rule("16 kB, unnamed 64 kB, brackets 7 MB", but(bracket)),
        rule(
            "the plan, without JSON",
            but(Steps {
                json: Json::Never,
                ..used
            }),
        ),
        rule("the plan, without text", but(Steps { text: 0, ..used })),
        rule(
            "the plan, text to 32 kB",
            but(Steps {
                text: 32 * KIB,
                ..used
            }),
        ),
        rule(
            "the plan, without archives",
            but(Steps {
                archives: false,
                ..used
            }),
        ),
        rule(
            "the plan, without marks",
            but(Steps {
                marked: false,
                ..used
            }),
        ),
        rule(
            "the plan, and unnamed 64 kB",
            but(Steps {
                unnamed: true,
                ..used
            }),
        ),
        rule("the plan, from 4 kB", Descriptor(4 * KIB, used)),
        rule("the plan, from 64 kB", Descriptor(64 * KIB, used)),
        rule("the plan", Descriptor(16 * KIB, used)),
        rule("in use, from 4 kB", How::Prefilter(4 * KIB)),
        rule("in use, from 64 kB", How::Prefilter(64 * KIB)),
        in_use(),
    ]
}

fn rule(name: &'static str, how: How) -> Rule {
    Rule { name, how }
}

/// A rule at work, in one thread.
pub enum Contestant {
    Buffers(Buffers),
    Detector(Box<Detector>),
}

impl Rule {
    pub fn start(&self) -> Result<Contestant, String> {
        let (head_bytes, prefilter, steps) = match self.how {
            How::Buffer(head) => return Ok(Contestant::Buffers(Buffers::open(head)?)),
            How::Descriptor(head_bytes, steps) => (head_bytes, false, steps),
            How::Prefilter(head_bytes) => (head_bytes, true, Steps::IN_USE),
        };
        let config = DetectorConfig {
            head_bytes,
            prefilter,
        };
        let detector = Detector::with_steps(config, steps);
        let mut detector = detector.map_err(|error| error.to_string())?;
        detector.prepare();
        Ok(Contestant::Detector(Box::new(detector)))
    }
}

impl Contestant {
    pub fn judge(&mut self, sample: &Sample) -> Result<Detection, String> {
        let failed = |what: String| format!("{}: {what}", sample.name);
        match self {
            Contestant::Buffers(buffers) => {
                let begun = Instant::now();
                let answer = buffers.judge(&sample.path);
                let (mime_type, bytes_read) = answer.map_err(|error| failed(error.to_string()))?;
                Ok(Detection {
                    mime_type,
                    bytes_read,
                    reads: 1,
                    prefiltered: 0,
                    fallbacks: 0,
                    read_time: Duration::ZERO,
                    detect_time: begun.elapsed(),
                })
            }
            Contestant::Detector(detector) => {
                let file = File::open(&sample.path).map_err(|error| failed(error.to_string()))?;
                let answer = detector.detect_file(file.as_fd(), sample.size);
                answer.map_err(|failure| failed(failure.detail))
            }
        }
    }

    /// The type of a file's content in hand; only a detector has that.
    pub fn judge_content(&mut self, sample: &Sample) -> Result<Detection, String> {
        let Contestant::Detector(detector) = self else {
            return Err("buffers are not asked for whole contents".to_owned());
        };
        let failed = |what: String| format!("{}: {what}", sample.name);
        let content = std::fs::read(&sample.path).map_err(|error| failed(error.to_string()))?;
        let answer = detector.detect_bytes(&content);
        answer.map_err(|failure| failed(failure.detail))
    }
}
