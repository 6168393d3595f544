//! Rules for how much of a file to look at.

use std::fs::File;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use ntt_mime_core::detector::{Detection, Detector, DetectorConfig, Steps};

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
    /// Looks through a descriptor, the first at so many bytes.
    Descriptor(usize, Steps),
}

/// The rule that the extension has.
pub fn in_use() -> Rule {
    rule("the rule in use", How::Descriptor(16 * KIB, Steps::All))
}

/// From the simplest to the one in use, which is the last.
pub fn all() -> Vec<Rule> {
    use How::{Buffer, Descriptor};
    vec![
        rule("2 KiB, buffer", Buffer(2 * KIB)),
        rule("16 KiB, buffer", Buffer(16 * KIB)),
        rule("2 KiB", Descriptor(2 * KIB, Steps::Head)),
        rule("16 KiB", Descriptor(16 * KIB, Steps::Head)),
        rule("64 KiB", Descriptor(64 * KIB, Steps::Head)),
        rule("1 MiB", Descriptor(KIB * KIB, Steps::Head)),
        rule("all (7 MiB)", Descriptor(WHOLE, Steps::Head)),
        rule("16 KiB + unnamed", Descriptor(16 * KIB, Steps::Unnamed)),
        rule(
            "16 KiB + unnamed + bracket",
            Descriptor(16 * KIB, Steps::Bracket),
        ),
        rule("4 KiB, else as in use", Descriptor(4 * KIB, Steps::All)),
        rule("64 KiB, else as in use", Descriptor(64 * KIB, Steps::All)),
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
        let contestant = match self.how {
            How::Buffer(head) => Contestant::Buffers(Buffers::open(head)?),
            How::Descriptor(head_bytes, steps) => {
                let config = DetectorConfig {
                    head_bytes,
                    prefilter: false,
                };
                let detector = Detector::with_steps(config, steps);
                Contestant::Detector(Box::new(detector.map_err(|error| error.to_string())?))
            }
        };
        Ok(contestant)
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
