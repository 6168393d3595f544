//! Every error that a user can meet: its SQLSTATE ([`Error::sqlstate`]) and its text in PostgreSQL's wording (the
//! conversion into a [`Report`]). An error that was caught keeps the SQLSTATE with which it was raised. An error that
//! only a defect of ours can cause is raised by pgrx's `error!`, as an internal error.
//!
//! Messages start in lower case and have no full stop; details and hints are sentences.

use ntt_mime_core::detector_thread::StartError;
use pgrx::PgSqlErrorCode;

use crate::backfill::options::Procedure;
use crate::pg::report::Report;

/// An error to be raised. Names of relations are as returned by [`crate::pg::lock::plain_name`], unless stated
/// otherwise.
#[derive(Debug, Clone)]
pub enum Error {
    /// A blobid that isn't 64 lower-case hex digits.
    InvalidBlobId { detail: String },
    /// libmagic can't be used.
    Detector { detail: String },
    /// An existing blob could not be judged.
    Detection { detail: String },
    /// A CALL in a context where it can't commit.
    TransactionBlock { procedure: Procedure },
    /// An argument that must not be null.
    NullArgument { name: &'static str },
    /// An argument out of its range.
    Argument {
        name: &'static str,
        value: String,
        range: String,
    },
    /// Called on a standby.
    Recovery { procedure: Procedure },
    /// Neither the argument nor the setting names a target.
    NoTarget,
    /// There is no table of that name, which is given as it was written, in SQL.
    NoSuchTarget { name: String },
    /// There is no table with that OID, which was the argument.
    NoSuchTargetOid { oid: u32 },
    /// A temporary table, which workers can't see.
    TemporaryTarget { name: String },
    /// A table whose access method doesn't support TID range scans.
    AccessMethod { name: String },
    /// A target that isn't a table.
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
    /// A generated column.
    GeneratedColumn {
        target: String,
        column: &'static str,
    },
    /// The target, or a table above or below it, is partitioned by the type, so that filling a row could mean moving
    /// it.
    PartitionedByType { target: String, by: Option<String> },
    /// A table of which Citus keeps a copy on each node.
    ReferenceTable { name: String },
    /// A table for which Citus doesn't say to which shard a row belongs.
    AppendDistributed { name: String },
    /// A distributed table whose shards have several copies.
    ReplicatedShards { name: String },
    /// Filling a row would mean moving it to another shard.
    DistributedByType { name: String },
    /// A distributed table in a release of Citus whose shards can't be locked.
    UnknownCitus { name: String },
    /// A distributed table without shards on this node, and the statement that fills those on other nodes.
    NoShards {
        target: String,
        /// Whether the procedure exists that the statement calls.
        has_procedure: bool,
        statement: String,
    },
    /// No privilege to fill the target. Its name is quoted for SQL, so no quotes are added.
    NoPrivilege {
        target: String,
        role: String,
        /// Columns that the role may not read.
        to_read: Vec<&'static str>,
        /// Whether it may not update "mime_type" either.
        to_update: bool,
    },
    /// No privilege to look up the target in its schema.
    NoSchemaPrivilege { schema: String, role: String },
    /// Policies on a partitioned or distributed target don't apply to its leaves, which are what we update.
    RowSecurity {
        target: String,
        role: String,
        distributed: bool,
    },
    /// The store doesn't exist.
    BlobRoot { detail: String },
    /// The store existed when the run began.
    StoreGone { detail: String },
    /// A process can't record the blob that it examines.
    InFlightRecord { error: String, disk_full: bool },
    /// The detector thread can't be created.
    DetectorThread { error: String },
    /// The detector thread has ended.
    DetectorThreadEnded,
    /// The memory of the run cache can't be created or found.
    RunCache {
        error: String,
        full: bool,
        /// Why it couldn't be created in the usual way, if another way was tried.
        refused: Option<String>,
    },
    /// The target already has a run.
    AlreadyRunning {
        target: String,
        pid: Option<i32>,
        run_id: Option<i64>,
    },
    /// Not a single worker could be started.
    NoWorker,
    /// Others' locks have kept a run out of all leaves, of which some are named.
    KeptOut {
        target: String,
        names: Vec<String>,
        count: usize,
        verify: bool,
    },
    /// The target was dropped during the run.
    TargetDropped { target: String },
    /// A worker has loaded another version of the library than the leader.
    OtherVersion,
    /// A worker ended without reporting an error.
    WorkerTerminated,
    /// The run belongs to somebody else.
    NotOwner { run_id: i64 },
    /// One of the extension's own tables doesn't exist.
    NoOwnTable { name: String },
    /// Another table has the name of one of the extension's own.
    NotOurTable { name: String },
}

/// What to do about a quarantined blob.
pub const HOW_TO_RELEASE: &str =
    "To allow detection of a blob again, delete its row from ntt_mime.failure.";

/// What remains of a run that ends early.
const KEPT: &str = "Batches already committed are kept.";

impl Error {
    /// Raises the error.
    pub fn raise(self) -> ! {
        Report::from(self).raise()
    }

    /// Its SQLSTATE.
    pub fn sqlstate(&self) -> PgSqlErrorCode {
        use Error as E;
        use PgSqlErrorCode as C;
        match self {
            E::InvalidBlobId { .. } | E::NullArgument { .. } | E::Argument { .. } => {
                C::ERRCODE_INVALID_PARAMETER_VALUE
            }
            E::Detector { .. } => C::ERRCODE_CONFIG_FILE_ERROR,
            E::Detection { .. } => C::ERRCODE_EXTERNAL_ROUTINE_EXCEPTION,
            E::TransactionBlock { .. } => C::ERRCODE_INVALID_TRANSACTION_TERMINATION,
            E::Recovery { .. } => C::ERRCODE_READ_ONLY_SQL_TRANSACTION,
            E::NoTarget
            | E::NoSuchTarget { .. }
            | E::NoSuchTargetOid { .. }
            | E::TargetDropped { .. }
            | E::NoOwnTable { .. } => C::ERRCODE_UNDEFINED_TABLE,
            E::TemporaryTarget { .. }
            | E::WrongKind { .. }
            | E::WrongType { .. }
            | E::GeneratedColumn { .. } => C::ERRCODE_WRONG_OBJECT_TYPE,
            E::AccessMethod { .. }
            | E::PartitionedByType { .. }
            | E::ReferenceTable { .. }
            | E::AppendDistributed { .. }
            | E::ReplicatedShards { .. }
            | E::DistributedByType { .. }
            | E::UnknownCitus { .. }
            | E::RowSecurity { .. } => C::ERRCODE_FEATURE_NOT_SUPPORTED,
            E::NoSuchColumn { .. } => C::ERRCODE_UNDEFINED_COLUMN,
            E::NoShards { .. } | E::OtherVersion | E::NotOurTable { .. } => {
                C::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE
            }
            E::NoPrivilege { .. } | E::NoSchemaPrivilege { .. } | E::NotOwner { .. } => {
                C::ERRCODE_INSUFFICIENT_PRIVILEGE
            }
            E::BlobRoot { .. } | E::StoreGone { .. } => C::ERRCODE_UNDEFINED_FILE,
            E::InFlightRecord { disk_full, .. } => match disk_full {
                true => C::ERRCODE_DISK_FULL,
                false => C::ERRCODE_IO_ERROR,
            },
            E::DetectorThread { .. } | E::DetectorThreadEnded => C::ERRCODE_SYSTEM_ERROR,
            E::RunCache { full, .. } => match full {
                true => C::ERRCODE_OUT_OF_MEMORY,
                false => C::ERRCODE_SYSTEM_ERROR,
            },
            E::AlreadyRunning { .. } => C::ERRCODE_OBJECT_IN_USE,
            E::KeptOut { .. } => C::ERRCODE_LOCK_NOT_AVAILABLE,
            E::NoWorker => C::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
            E::WorkerTerminated => C::ERRCODE_ADMIN_SHUTDOWN,
        }
    }

    /// The error that the memory of the run cache couldn't be created or found.
    pub fn run_cache(error: std::io::Error) -> Error {
        use std::io::ErrorKind::{OutOfMemory, StorageFull};
        Error::RunCache {
            full: matches!(error.kind(), OutOfMemory | StorageFull),
            error: in_words(&error),
            refused: None,
        }
    }
}

/// The text of each error.
impl From<Error> for Report {
    fn from(error: Error) -> Report {
        let code = error.sqlstate();
        match error {
            Error::InvalidBlobId { detail } => Report::new(code, "invalid blobid")
                .set_detail(detail),
            Error::Detector { detail } => Report::new(code, "could not initialize libmagic")
                .set_detail(stopped(format!("libmagic reported: {detail}")))
                .set_hint(
                    "Install libmagic's database (on Debian, package libmagic-mgc), or correct the environment \
                     variable MAGIC of the server.",
                ),
            Error::Detection { detail } => Report::new(code, "could not detect the MIME type")
                .set_detail(sentence(&detail)),
            Error::TransactionBlock { procedure } => Report::new(code, format!("{} cannot run inside a transaction block, a function, a procedure, or a DO block", procedure.name()))
                .set_hint("It commits batch by batch: CALL it as a statement of its own, with autocommit on."),
            Error::NullArgument { name } => Report::new(code, format!("argument \"{name}\" must not be null")),
            Error::Argument { name, value, range } => Report::new(code, format!("invalid value for argument \"{name}\": {value}"))
                .set_detail(format!("It must be {range}.")),
            Error::Recovery { procedure } => Report::new(code, format!("cannot execute {} during recovery", procedure.name()))
                .set_hint("Run it on the primary; ntt_detect_mime works on a standby too."),
            Error::NoTarget => Report::new(code, "no target table specified")
                .set_hint("Set ntt_mime.target, or pass the argument target."),
            Error::NoSuchTarget { name } => Report::new(code, format!("relation \"{}\" does not exist", unquoted(&name)))
                .set_hint(
                    "Check ntt_mime.target or the argument target, and qualify the name if its schema is not in search_path.",
                ),
            Error::NoSuchTargetOid { oid } => Report::new(code, format!("relation with OID {oid} does not exist")),
            Error::TemporaryTarget { name } => Report::new(code, format!("cannot fill temporary table \"{name}\""))
                .set_detail("Background workers cannot access temporary tables of other sessions."),
            Error::AccessMethod { name } => Report::new(code, format!("cannot fill table \"{name}\""))
                .set_detail("Its access method does not support TID range scans."),
            Error::WrongKind { name, kind } => Report::new(code, format!("\"{name}\" is not a table"))
                .set_detail(format!(
                    "It is {kind}; the target is a plain or a partitioned table."
                )),
            Error::NoSuchColumn { target, column } => Report::new(code, format!("column \"{column}\" of relation \"{target}\" does not exist"))
                .set_detail("The target must have the columns \"blobid\" and \"mime_type\"."),
            Error::WrongType {
                target,
                column,
                found,
            } => Report::new(code, format!("column \"{column}\" of relation \"{target}\" must be of type text or character varying"))
                .set_detail(format!("It is of type {found}.")),
            Error::GeneratedColumn { target, column } => Report::new(code, format!("column \"{column}\" of relation \"{target}\" is a generated column"))
                .set_hint("A run can fill only an ordinary column, without an expression."),
            Error::PartitionedByType { target, by } => Report::new(
                code,
                format!(
                    "cannot fill table \"{target}\" because {} is partitioned by column \"mime_type\"",
                    by.map_or("it".to_owned(), |by| format!("\"{by}\""))
                ),
            )
            .set_detail(
                "A run updates each partition separately, and a row may belong to another partition once it is filled.",
            )
            .set_hint("Use UPDATE on the partitioned table, which moves rows, with the result of ntt_detect_mime()."),
            Error::ReferenceTable { name } => Report::new(code, format!("cannot fill reference table \"{name}\""))
                .set_detail("Citus keeps a copy of it on each node, and a run would change the copy of one node only."),
            Error::AppendDistributed { name } => Report::new(code, format!("cannot fill append-distributed table \"{name}\""))
                .set_detail("Citus may keep several copies of its shards, and a run would change the copy of one node only."),
            Error::ReplicatedShards { name } => Report::new(code, format!("cannot fill distributed table \"{name}\" because its shards are replicated"))
                .set_detail("Citus keeps several copies of a shard, and a run would change the copy of one node only."),
            Error::DistributedByType { name } => Report::new(code, format!("cannot fill table \"{name}\" because it is distributed by column \"mime_type\""))
                .set_detail("A run updates each shard separately, and a row would belong to another shard once it is filled."),
            Error::UnknownCitus { name } => Report::new(code, format!("cannot fill distributed table \"{name}\" with this version of Citus"))
                .set_detail("There is no function pg_catalog.lock_shard_metadata(integer, bigint[])."),
            Error::NoShards {
                target,
                has_procedure,
                statement,
            } => Report::new(code, format!("no shard of distributed table \"{target}\" is on this node"))
                .set_detail("A run fills the shards of the node on which it is called.")
                .set_hint(format!(
                    "To run it on all nodes, {}execute: {statement};",
                    match has_procedure {
                        true => "",
                        false => "update the extension there by ALTER EXTENSION ntt_mime UPDATE, then ",
                    }
                )),
            Error::NoPrivilege {
                target,
                role,
                to_read,
                to_update,
            } => {
                let read = match to_read.as_slice() {
                    [] => None,
                    [column] => Some(format!("SELECT privilege on column \"{column}\"")),
                    columns => Some(format!(
                        "SELECT privilege on columns \"{}\"",
                        columns.join("\" and \"")
                    )),
                };
                let update =
                    to_update.then(|| "UPDATE privilege on column \"mime_type\"".to_owned());
                let needed: Vec<String> = read.into_iter().chain(update).collect();
                let needed = needed.join(" and the ");
                Report::new(code, format!("permission denied for table {target}"))
                    .set_detail(format!("Role \"{role}\" must have the {needed} of the table."))
            }
            Error::NoSchemaPrivilege { schema, role } => Report::new(code, format!("permission denied for schema {schema}"))
                .set_detail(format!(
                    "Role \"{role}\" must have the USAGE privilege on the schema of the target."
                )),
            Error::RowSecurity {
                target,
                role,
                distributed,
            } => {
                let (kind, leaves) = match distributed {
                    false => ("partitioned", "leaf partitions"),
                    true => ("distributed", "shards"),
                };
                Report::new(code, format!("cannot fill {kind} table \"{target}\" because row-level security applies to role \"{role}\""))
                .set_detail(format!(
                    "A run works on the {leaves}, to which the policies of the {kind} table do not apply."
                ))
            }
            .set_hint("Run it as the table's owner or as a role with BYPASSRLS."),
            Error::BlobRoot { detail } => Report::new(code, "ntt_mime.blob_root does not name the directories of a blob store")
                .set_detail(detail)
                .set_hint("Mount the store, let the server's account search it, or correct ntt_mime.blob_root."),
            Error::StoreGone { detail } => Report::new(code, "blob store is no longer accessible")
                .set_detail(format!(
                    "{detail} {KEPT} No blob is recorded as missing because of this."
                ))
                .set_hint("Mount the store again, then call the procedure again."),
            Error::InFlightRecord { error, .. } => Report::new(
                code,
                format!("could not access in-flight records in directory \"{}\": {error}", ntt_mime_core::in_flight::FOLDER),
            )
            .set_detail(
                "In this directory below the data directory, processes record which blob they are examining, so that \
                 a blob that crashes a process can be quarantined.",
            ),
            Error::DetectorThread { error } => Report::new(code, format!("could not start detection thread: {error}")),
            Error::DetectorThreadEnded => Report::new(code, "detection thread ended unexpectedly")
                .set_hint("See the server log for details."),
            Error::RunCache {
                error,
                full,
                refused,
            } => {
                let report = Report::new(code, format!("could not allocate shared memory for the run: {error}"));
                // Knowing what prevented the usual way helps more than a smaller cache.
                match (refused, full) {
                    (Some(refused), _) => report.set_detail(sentence(&refused)).set_hint(
                        "You might need to let the server do that, to give it more room in /dev/shm, or to reduce \
                         ntt_mime.cache_size.",
                    ),
                    (None, true) => {
                        report.set_hint("You might need to reduce ntt_mime.cache_size.")
                    }
                    (None, false) => report,
                }
            }
            Error::AlreadyRunning {
                target,
                pid,
                run_id,
            } => {
                let known = [
                    pid.map(|pid| format!("pid {pid}")),
                    // It isn't committed yet in the first moments of a run.
                    run_id.map(|run_id| format!("run_id {run_id}")),
                ];
                let known: Vec<String> = known.into_iter().flatten().collect();
                let known = match known.is_empty() {
                    true => String::new(),
                    false => format!(" ({})", known.join(", ")),
                };
                Report::new(code, format!("a backfill or verification of \"{target}\" is already running{known}"))
                .set_hint("See ntt_mime.progress; ntt_cancel_backfill(run_id) stops a run.")
            }
            Error::KeptOut {
                target,
                names,
                count,
                verify,
            } => {
                let (fill, filled) = match verify {
                    false => ("fill", "filled"),
                    true => ("check", "checked"),
                };
                let report = Report::new(code, format!("could not {fill} table \"{target}\" because of locks held by others"))
                .set_hint(
                    "See pg_locks for who holds them. Call the procedure again when they are released, or increase \
                     ntt_mime.lock_timeout.",
                );
                match which(&names, count) {
                    // A plain table is its own leaf.
                    Some(_) if names == [target] => report,
                    Some(which) => report.set_detail(format!(
                        "None of its {} was {filled}. {which}",
                        counted(count as u64, "leaf")
                    )),
                    None => report,
                }
            }
            Error::TargetDropped { target } => Report::new(code, format!("relation \"{target}\" does not exist"))
                .set_detail("It was dropped while the run was going on."),
            Error::NoWorker => Report::new(code, "could not start any background worker")
                .set_hint(
                    "You might need to increase max_worker_processes, or to wait until other background workers have \
                     ended. The server log has the reason if workers could not connect or start.",
                ),
            Error::OtherVersion => Report::new(code, "run was started by another version of ntt_mime")
                .set_hint("Reconnect the session that calls ntt_backfill_mime()."),
            Error::WorkerTerminated => Report::new(code, "a background worker of the run was terminated")
                .set_detail(KEPT)
                .set_hint("Call the procedure again; it continues where this run ended."),
            Error::NotOwner { run_id } => Report::new(code, format!("must be owner of run {run_id}"))
                .set_detail(
                    "Only superusers and roles with the privileges of the role that started the run can cancel it.",
                ),
            Error::NoOwnTable { name } => Report::new(code, format!("relation \"{name}\" does not exist"))
                .set_detail("Extension ntt_mime is not installed in this database, or only in part."),
            Error::NotOurTable { name } => Report::new(code, format!("table \"{name}\" is not a member of extension \"ntt_mime\""))
                .set_detail("Somebody else may have made it in place of the extension's own, so it is not used.")
                .set_hint("See who owns it, drop or rename it, then create the extension again."),
        }
    }
}

impl From<std::io::Error> for Error {
    /// The only files that we write on the server are in-flight records.
    fn from(error: std::io::Error) -> Error {
        Error::InFlightRecord {
            disk_full: error.kind() == std::io::ErrorKind::StorageFull,
            error: in_words(&error),
        }
    }
}

impl From<StartError> for Error {
    fn from(error: StartError) -> Error {
        match error {
            StartError::Detector(error) => Error::Detector {
                detail: error.to_string(),
            },
            StartError::System(error) => Error::DetectorThread {
                error: in_words(&error),
            },
        }
    }
}

/// The text of PostgreSQL's %m.
pub fn in_words(error: &std::io::Error) -> String {
    ntt_mime_core::store::in_words(error)
}

/// Turns a text in the style of a message into a sentence.
pub fn sentence(words: &impl std::fmt::Display) -> String {
    let words = words.to_string();
    let mut characters = words.chars();
    match characters.next() {
        // A name isn't capitalized.
        Some(_) if words.starts_with("libmagic") => stopped(words),
        Some(first) => stopped(first.to_uppercase().chain(characters).collect()),
        None => String::new(),
    }
}

/// Adds a full stop unless the text ends with punctuation, as some of libmagic's messages do.
fn stopped(mut words: String) -> String {
    if !words.ends_with(['.', '!', '?']) {
        words.push('.');
    }
    words
}

/// A relation's name for a message, which puts it in quotes, from a name in SQL: without its own quotes, and in lower
/// case where there are none, as PostgreSQL reads it. A name whose quotes don't match is invalid, and stays as it is.
fn unquoted(name: &str) -> String {
    let mut plain = String::new();
    let mut in_quotes = false;
    let mut characters = name.trim().chars().peekable();
    while let Some(c) = characters.next() {
        match c {
            '"' if in_quotes && characters.next_if_eq(&'"').is_some() => plain.push('"'),
            '"' => in_quotes = !in_quotes,
            c if in_quotes => plain.push(c),
            c => plain.push(c.to_ascii_lowercase()),
        }
    }
    match in_quotes {
        true => name.to_owned(),
        false => plain,
    }
}

/// How many of the counted objects a message names.
pub const NAMED: usize = 3;

/// A sentence that names the objects that a message counts; `names` are at most [`NAMED`] of them. None if there are
/// none.
pub fn which(names: &[String], count: usize) -> Option<String> {
    let verb = match (names.len(), count) {
        (0, _) => return None,
        (1, 1) => "It is",
        (named, count) if named == count => "They are",
        _ => "They include",
    };
    let names: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
    Some(format!("{verb} {}.", names.join(", ")))
}

/// A count with its noun and verb: "1 blob has", "2 blobs have".
pub fn counted_with(count: impl Into<u64>, noun: &str, (one, many): (&str, &str)) -> String {
    let count = count.into();
    let verb = if count == 1 { one } else { many };
    format!("{} {verb}", counted(count, noun))
}

/// A count with its noun: "1 blob", "2 blobs". A noun in -f, such as leaf, becomes one in -ves.
pub fn counted(count: impl Into<u64>, noun: &str) -> String {
    match (count.into(), noun.strip_suffix('f')) {
        (1, _) => format!("1 {noun}"),
        (count, Some(stem)) => format!("{count} {stem}ves"),
        (count, None) => format!("{count} {noun}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::{counted, counted_with, sentence, unquoted, which};

    #[test]
    fn one_is_not_many() {
        assert_eq!(counted(0u64, "blob"), "0 blobs");
        assert_eq!(counted(1u64, "leaf"), "1 leaf");
        assert_eq!(counted(2u64, "leaf"), "2 leaves");
        assert_eq!(counted(2u64, "background worker"), "2 background workers");
        let has = ("has", "have");
        assert_eq!(counted_with(1u64, "blob", has), "1 blob has");
        assert_eq!(counted_with(2u64, "leaf", has), "2 leaves have");
    }

    #[test]
    fn a_sentence_begins_with_a_capital_unless_a_name_comes_first() {
        assert_eq!(sentence(&"no file \"a\""), "No file \"a\".");
        assert_eq!(sentence(&"libmagic gave no type"), "libmagic gave no type.");
        assert_eq!(sentence(&""), "");
    }

    #[test]
    fn a_sentence_has_one_end() {
        assert_eq!(sentence(&"no magic files!"), "No magic files!");
        assert_eq!(sentence(&"libmagic gave up."), "libmagic gave up.");
    }

    #[test]
    fn a_name_between_quotes_has_none_of_its_own() {
        assert_eq!(unquoted("Public.inode"), "public.inode");
        assert_eq!(
            unquoted(r#" "My Schema"."My Table" "#),
            "My Schema.My Table"
        );
        assert_eq!(unquoted(r#"a."say ""hi""""#), r#"a.say "hi""#);
        assert_eq!(unquoted(r#""Blob"#), r#""Blob"#);
        assert_eq!(unquoted(""), "");
    }

    #[test]
    fn a_message_says_which_ones_it_counts() {
        let names = ["public.a", "public.My b"].map(str::to_owned);
        assert_eq!(which(&[], 2), None);
        assert_eq!(which(&names[..1], 1).unwrap(), r#"It is "public.a"."#);
        assert_eq!(
            which(&names, 2).unwrap(),
            r#"They are "public.a", "public.My b"."#
        );
        assert_eq!(
            which(&names, 3).unwrap(),
            r#"They include "public.a", "public.My b"."#
        );
    }
}
