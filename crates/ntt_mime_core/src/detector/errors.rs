//! What can go wrong with libmagic, with a file, and with libmagic's answer.

use std::fmt;

use rustix::io::Errno;

use super::cookie::MagicError;
use crate::failure::{Failure, FailureReason};
use crate::store::in_words;

/// The longest MIME type that is accepted: what `varchar(255)` holds.
const MAX_MIME_TYPE: usize = 255;

/// libmagic can't be used: where it looked for its database, and why that failed, in its own words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DetectorError(pub(super) String);

impl fmt::Display for DetectorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for DetectorError {}

/// What can go wrong with an open file.
pub enum LookError {
    Reading(Errno),
    Judging(MagicError),
    /// The answer isn't a MIME type; it is given as far as it can be shown.
    Nonsense(String),
}

impl From<MagicError> for LookError {
    fn from(error: MagicError) -> LookError {
        match error.reading() {
            Some(errno) => LookError::Reading(errno),
            None => LookError::Judging(error),
        }
    }
}

impl LookError {
    pub fn about(&self, what: &str) -> Failure {
        match self {
            LookError::Reading(errno) => Failure::new(
                FailureReason::Unreadable,
                format!("could not read {what}: {}", in_words(*errno)),
            ),
            LookError::Judging(error) => Failure::new(
                FailureReason::Error,
                format!("libmagic could not judge {what}: {error}"),
            ),
            LookError::Nonsense(answer) => Failure::new(
                FailureReason::Error,
                format!("libmagic gave no MIME type for {what} but \"{answer}\""),
            ),
        }
    }
}

/// libmagic's answer, if it is suitable for a column of MIME types.
///
/// For damaged ELF files it says more than was requested, such as "application/x-sharedlib, corrupted program header
/// size" (readelf.c of 5.44 to 5.48 doesn't check whether a MIME type is requested). The type is what precedes the
/// comma.
pub fn believed(answer: String) -> Result<String, LookError> {
    let mime_type = answer.split(", ").next().unwrap_or_default();
    let sane = mime_type.len() <= MAX_MIME_TYPE
        && mime_type.contains('/')
        && mime_type.bytes().all(|byte| byte.is_ascii_graphic());
    if sane {
        return Ok(mime_type.to_owned());
    }
    let start: String = answer.chars().take(100).collect();
    Err(LookError::Nonsense(start.escape_default().to_string()))
}
