//! Why a blob has no MIME type.
//!
//! A run records a [`Failure`] in `ntt_mime.failure` and goes on; `ntt_detect_mime` raises a WARNING and returns
//! NULL. So a blob's failure is a value here, and never aborts anything.

use std::fmt;
use std::str::FromStr;

use crate::blob_id::InvalidBlobId;

/// The reasons, spelled as in `ntt_mime.failure.reason` and in the status of `ntt_inspect_blob`. The numbers are
/// those used in shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum FailureReason {
    /// There is no such blob.
    Missing = 1,
    /// It exists, or may exist, but the system doesn't let us read it.
    Unreadable = 2,
    /// There is a directory, symbolic link, FIFO, socket or device in its place.
    NotAFile = 3,
    /// The blobid isn't 64 lower-case hexadecimal digits.
    Invalid = 4,
    /// libmagic failed, or its answer isn't a MIME type or doesn't fit into the column.
    Error = 5,
    /// A process, a worker or a session, died while it was detecting the blob, or the detection did not end. The blob
    /// is not opened again.
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

/// The text isn't the name of a [`FailureReason`].
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
    /// For people, in the style of PostgreSQL's primary messages: it starts in lower case, and has no full stop.
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
    /// The sentence without its full stop.
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
