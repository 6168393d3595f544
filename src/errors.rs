//! Every error that a user can meet, with its SQLSTATE and PostgreSQL's wording.
//!
//! Messages start in lower case and have no full stop; details and hints are sentences.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::{PgLogLevel, PgSqlErrorCode, function_name};

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
}

impl From<Error> for ErrorReport {
    fn from(error: Error) -> ErrorReport {
        use PgSqlErrorCode as C;
        let report = |code, message: String| ErrorReport::new(code, message, function_name!());
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
