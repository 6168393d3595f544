//! Why a blob has no MIME type.
//!
//! A run records a [`Failure`] in `ntt_mime.failure` and goes on; `ntt_detect_mime` warns and answers
//! NULL. So a failure of one blob is a value here, never an abort.

use std::fmt;
use std::str::FromStr;

use crate::blob_id::InvalidBlobId;

/// The reasons, as `ntt_mime.failure.reason` and the status of `ntt_inspect_blob` spell them. The
/// numbers are those used in shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum FailureReason {
    /// No blob lies there.
    Missing = 1,
    /// Something lies there, or may, but the system doesn't let us read it.
    Unreadable = 2,
    /// A directory, symbolic link, FIFO, socket or device lies there.
    NotAFile = 3,
    /// The blobid isn't 64 lower-case hexadecimal digits.
    Invalid = 4,
    /// libmagic failed, or gave an answer that isn't a MIME type or doesn't fit into the column.
    Error = 5,
    /// A process, a run's worker or a session, died while it looked at the blob, or the look had no end; nobody looks
    /// again.
    Quarantined = 6,
}

impl FailureReason {
    pub const ALL: [FailureReason; 6] = [
        FailureReason::Missing,
        FailureReason::Unreadable,
        FailureReason::NotAFile,
        FailureReason::Invalid,
        FailureReason::Error,
        FailureReason::Quarantined,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            FailureReason::Missing => "missing",
            FailureReason::Unreadable => "unreadable",
            FailureReason::NotAFile => "not_a_file",
            FailureReason::Invalid => "invalid",
            FailureReason::Error => "error",
            FailureReason::Quarantined => "quarantined",
        }
    }

    pub fn from_u8(number: u8) -> Option<FailureReason> {
        Self::ALL.into_iter().find(|reason| *reason as u8 == number)
    }
}

impl fmt::Display for FailureReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for FailureReason {
    type Err = UnknownFailureReason;

    fn from_str(text: &str) -> Result<FailureReason, UnknownFailureReason> {
        Self::ALL
            .into_iter()
            .find(|reason| reason.as_str() == text)
            .ok_or(UnknownFailureReason)
    }
}

/// The text names no [`FailureReason`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownFailureReason;

impl fmt::Display for UnknownFailureReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("unknown failure reason")
    }
}

impl std::error::Error for UnknownFailureReason {}

/// What went wrong with one blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub reason: FailureReason,
    /// For people, in the style of PostgreSQL's primary messages: lower-case start, no full stop.
    pub detail: String,
}

impl Failure {
    pub fn new(reason: FailureReason, detail: impl Into<String>) -> Failure {
        Failure {
            reason,
            detail: detail.into(),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl std::error::Error for Failure {}

impl From<InvalidBlobId> for Failure {
    /// The sentence, as a detail without its full stop.
    fn from(error: InvalidBlobId) -> Failure {
        let sentence = error.to_string();
        Failure::new(FailureReason::Invalid, sentence.trim_end_matches('.'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_survive_both_spellings() {
        for reason in FailureReason::ALL {
            assert_eq!(FailureReason::from_u8(reason as u8), Some(reason));
            assert_eq!(reason.as_str().parse(), Ok(reason));
            assert_eq!(reason.to_string(), reason.as_str());
        }
        assert_eq!(FailureReason::from_u8(0), None);
        assert_eq!(FailureReason::from_u8(7), None);
        assert_eq!("".parse::<FailureReason>(), Err(UnknownFailureReason));
        assert_eq!(
            "Missing".parse::<FailureReason>(),
            Err(UnknownFailureReason)
        );
    }
}
