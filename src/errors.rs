//! Every error that a user can meet, with its SQLSTATE and PostgreSQL's wording.
//!
//! Messages start in lower case and have no full stop; details and hints are sentences.

use ntt_mime_core::examiner::StartError;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::{PgLogLevel, PgSqlErrorCode, function_name};

use crate::pg::encoding::readable;
use crate::pg::tx::PgError;

/// An error to be raised.
#[derive(Debug, Clone)]
pub enum Error {
    /// A blobid that isn't 64 lower-case hex digits.
    InvalidBlobId { detail: String },
    /// libmagic can't be used.
    Detector { detail: String },
    /// A blob that is there could not be judged.
    Detection { detail: String },
    /// A CALL where its commits aren't possible.
    TransactionBlock,
    /// An argument out of its range.
    Argument {
        name: &'static str,
        value: String,
        range: String,
    },
    /// On a standby.
    Recovery,
    /// No table of that name.
    NoSuchTarget { name: String },
    /// A target that is no table.
    WrongKind { name: String, kind: &'static str },
    /// A target without one of its columns.
    NoSuchColumn {
        target: String,
        column: &'static str,
    },
    /// A column that doesn't hold text.
    WrongType {
        target: String,
        column: &'static str,
        found: String,
    },
    /// No right to update the target.
    NoPrivilege { target: String, role: String },
    /// Policies on a partitioned target don't apply to its leaves, on which we work.
    RowSecurity { target: String, role: String },
    /// The store isn't there.
    BlobRoot { detail: String },
    /// The store was there when the run began.
    StoreGone { detail: String },
    /// A process can't leave word of the blob at hand.
    Note { detail: String, disk_full: bool },
    /// The thread that looks at blobs can't be made, or has ended.
    Examiner { detail: String },
    /// A run's memory of its blobs can't be made or found.
    RunCache { detail: String, full: bool },
    /// Another run has the target.
    AlreadyRunning {
        target: String,
        pid: Option<i32>,
        run_id: Option<i64>,
    },
    /// Not a single worker.
    NoWorker,
    /// A worker ended without a word.
    WorkerTerminated,
    /// Somebody else's run.
    NotOwner { run_id: i64 },
}

impl Error {
    /// Raises the error.
    pub fn raise(self) -> ! {
        let report = ErrorReport::from(self);
        report.report(PgLogLevel::ERROR);
        unreachable!("an ERROR does not return")
    }

    /// That a run's memory of its blobs couldn't be made or found.
    pub fn run_cache(error: std::io::Error) -> Error {
        use std::io::ErrorKind::{OutOfMemory, StorageFull};
        Error::RunCache {
            full: matches!(error.kind(), OutOfMemory | StorageFull),
            detail: sentence(&error),
        }
    }
}

/// An error in words.
struct Report {
    code: PgSqlErrorCode,
    message: String,
    detail: Option<String>,
    hint: Option<String>,
}

impl Report {
    fn set_detail(self, detail: impl Into<String>) -> Report {
        let detail = Some(detail.into());
        Report { detail, ..self }
    }

    fn set_hint(self, hint: impl Into<String>) -> Report {
        let hint = Some(hint.into());
        Report { hint, ..self }
    }
}

impl From<Error> for ErrorReport {
    fn from(error: Error) -> ErrorReport {
        let words = Report::from(error);
        let mut report = ErrorReport::new(words.code, readable(words.message), function_name!());
        if let Some(detail) = words.detail {
            report = report.set_detail(readable(detail));
        }
        match words.hint {
            Some(hint) => report.set_hint(hint),
            None => report,
        }
    }
}

impl From<Error> for PgError {
    fn from(error: Error) -> PgError {
        let words = Report::from(error);
        let mut error = PgError::new(words.code, words.message);
        error.detail = words.detail;
        error.hint = words.hint;
        error
    }
}

impl From<Error> for Report {
    fn from(error: Error) -> Report {
        use PgSqlErrorCode as C;
        let report = |code, message: String| Report {
            code,
            message,
            detail: None,
            hint: None,
        };
        match error {
            Error::InvalidBlobId { detail } => report(
                C::ERRCODE_INVALID_PARAMETER_VALUE,
                "invalid blobid".to_owned(),
            )
            .set_detail(detail),
            Error::Detector { detail } => report(
                C::ERRCODE_CONFIG_FILE_ERROR,
                "could not open the magic database".to_owned(),
            )
            .set_detail(detail)
            .set_hint(
                "Install libmagic's database (package libmagic-mgc), or mend what the environment \
                 variable MAGIC of the server names.",
            ),
            Error::Detection { detail } => report(
                C::ERRCODE_EXTERNAL_ROUTINE_EXCEPTION,
                "could not detect the MIME type".to_owned(),
            )
            .set_detail(detail),
            Error::TransactionBlock => report(
                C::ERRCODE_INVALID_TRANSACTION_TERMINATION,
                "ntt_backfill_mime cannot run inside a transaction block, a function or a DO block".to_owned(),
            )
            .set_hint("It commits batch by batch: CALL it by itself, with autocommit on."),
            Error::Argument { name, value, range } => report(
                C::ERRCODE_INVALID_PARAMETER_VALUE,
                format!("invalid value for argument \"{name}\": {value}"),
            )
            .set_detail(format!("It must be {range}.")),
            Error::Recovery => report(
                C::ERRCODE_READ_ONLY_SQL_TRANSACTION,
                "cannot run ntt_backfill_mime during recovery".to_owned(),
            )
            .set_hint("Run it on the primary; ntt_detect_mime works on a standby too."),
            Error::NoSuchTarget { name } => report(
                C::ERRCODE_UNDEFINED_TABLE,
                format!("relation \"{name}\" does not exist"),
            )
            .set_hint("Give the argument target, or set ntt_mime.target."),
            Error::WrongKind { name, kind } => report(
                C::ERRCODE_WRONG_OBJECT_TYPE,
                format!("\"{name}\" is not a table"),
            )
            .set_detail(format!(
                "It is {kind}; the target is a plain or a partitioned table."
            )),
            Error::NoSuchColumn { target, column } => report(
                C::ERRCODE_UNDEFINED_COLUMN,
                format!("column \"{column}\" of relation \"{target}\" does not exist"),
            )
            .set_detail("The target has a column blobid and a column mime_type."),
            Error::WrongType {
                target,
                column,
                found,
            } => report(
                C::ERRCODE_WRONG_OBJECT_TYPE,
                format!("column \"{column}\" of relation \"{target}\" is of type {found}"),
            )
            .set_detail("It must be of type text or character varying."),
            Error::NoPrivilege { target, role } => report(
                C::ERRCODE_INSUFFICIENT_PRIVILEGE,
                format!("permission denied for table {target}"),
            )
            .set_detail(format!(
                "Role \"{role}\" has no UPDATE privilege on its column mime_type."
            )),
            Error::RowSecurity { target, role } => report(
                C::ERRCODE_FEATURE_NOT_SUPPORTED,
                format!("row-level security of the partitioned table \"{target}\" applies to role \"{role}\""),
            )
            .set_detail("A run works on the leaf partitions, where these policies don't apply.")
            .set_hint("Run it as the table's owner or as a role with BYPASSRLS."),
            Error::BlobRoot { detail } => report(
                C::ERRCODE_UNDEFINED_FILE,
                "ntt_mime.blob_root does not name the directories of a blob store".to_owned(),
            )
            .set_detail(detail)
            .set_hint("Mount the store, or set ntt_mime.blob_root."),
            Error::StoreGone { detail } => report(
                C::ERRCODE_UNDEFINED_FILE,
                "the blob store is no longer there".to_owned(),
            )
            .set_detail(detail)
            .set_hint(
                "Mount the store again. Batches that were committed before stay, and no blob was \
                 recorded as missing for it.",
            ),
            Error::Note { detail, disk_full } => report(
                match disk_full {
                    true => C::ERRCODE_DISK_FULL,
                    false => C::ERRCODE_IO_ERROR,
                },
                "could not note which blob is being looked at".to_owned(),
            )
            .set_detail(detail)
            .set_hint(format!(
                "The notes lie in the folder \"{}\" of the data directory.",
                ntt_mime_core::note::FOLDER
            )),
            Error::Examiner { detail } => report(
                C::ERRCODE_SYSTEM_ERROR,
                "could not run the thread that looks at blobs".to_owned(),
            )
            .set_detail(detail),
            Error::RunCache { detail, full } => report(
                match full {
                    true => C::ERRCODE_OUT_OF_MEMORY,
                    false => C::ERRCODE_SYSTEM_ERROR,
                },
                "could not share memory for the blobs that a run knows".to_owned(),
            )
            .set_detail(detail)
            .set_hint("Its size is ntt_mime.cache_size."),
            Error::AlreadyRunning {
                target,
                pid,
                run_id,
            } => {
                let known = |value: Option<String>| value.unwrap_or_else(|| "unknown".to_owned());
                report(
                    C::ERRCODE_OBJECT_IN_USE,
                    format!(
                        "a backfill of \"{target}\" is already running (pid {}, run_id {})",
                        known(pid.map(|pid| pid.to_string())),
                        known(run_id.map(|run_id| run_id.to_string())),
                    ),
                )
                .set_hint("See ntt_mime.progress; ntt_cancel_backfill(run_id) stops a run.")
            }
            Error::NoWorker => report(
                C::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
                "could not start any background worker".to_owned(),
            )
            .set_hint(
                "Raise max_worker_processes, or wait until others have ended their background \
                 workers; the server log tells if workers failed to start.",
            ),
            Error::WorkerTerminated => report(
                C::ERRCODE_ADMIN_SHUTDOWN,
                "a background worker of the backfill was terminated".to_owned(),
            )
            .set_detail("Batches that were committed before stay.")
            .set_hint("Run it again: it goes on where this run was."),
            Error::NotOwner { run_id } => report(
                C::ERRCODE_INSUFFICIENT_PRIVILEGE,
                format!("must be owner of run {run_id}"),
            )
            .set_detail("A run is cancelled by the role that started it or by a superuser."),
        }
    }
}

impl From<std::io::Error> for Error {
    /// The only files of the server's own that we write are notes.
    fn from(error: std::io::Error) -> Error {
        Error::Note {
            disk_full: error.kind() == std::io::ErrorKind::StorageFull,
            detail: sentence(&error),
        }
    }
}

impl From<StartError> for Error {
    fn from(error: StartError) -> Error {
        match error {
            StartError::Detector(error) => Error::Detector {
                detail: error.to_string(),
            },
            StartError::System(error) => Error::Examiner {
                detail: sentence(&error),
            },
        }
    }
}

/// What is said in the style of a message, as a sentence.
pub fn sentence(words: &impl std::fmt::Display) -> String {
    let words = words.to_string();
    let mut characters = words.chars();
    match characters.next() {
        Some(first) => first
            .to_uppercase()
            .chain(characters)
            .chain(['.'])
            .collect(),
        None => String::new(),
    }
}
