//! Detection in a backend: one warm detector, and the store as of the current statement.
//!
//! The detector is opened at first use, since that takes milliseconds and megabytes, and kept for the life of the
//! backend. Each statement opens the store's directories anew and reads what is in quarantine, so that a long session
//! notices a store that has been mounted again, and a changed setting. The directories are closed at the end of the
//! transaction: an idle session must not keep a file system from being unmounted.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::File;
use std::sync::Arc;

use ntt_mime_core::blob_id::BlobId;
use ntt_mime_core::detector::{
    Detection, Detector, DetectorConfig, libmagic_release, magic_database,
};
use ntt_mime_core::failure::{Failure, FailureReason};
use ntt_mime_core::in_flight::{self, BackendKind, InFlightRecord};
use ntt_mime_core::memory;
use ntt_mime_core::store::{Blob, Store};
use pgrx::{PgSqlErrorCode, pg_sys};
use sha2::{Digest, Sha256};

use crate::backfill::run_log;
use crate::errors::{Error, in_words, sentence};
use crate::pg::{in_flight_records, report::Report};
use crate::settings;

thread_local! {
    static STATE: RefCell<State> = const { RefCell::new(State::new()) };
}

struct State {
    detector: Option<Detector>,
    store: Option<StatementStore>,
    complaints: Vec<String>,
    /// None if it can't be kept: an answer is worth more than a precaution.
    in_flight: Option<Arc<InFlightRecord>>,
}

/// The store, for the duration of one statement.
struct StatementStore {
    statement: i64,
    setting: String,
    store: Store,
    /// Blobs that must not be opened, and why.
    quarantined: HashMap<BlobId, String>,
    /// Reasons for which this statement has already raised a WARNING.
    warned: Vec<FailureReason>,
}

impl State {
    const fn new() -> State {
        State {
            detector: None,
            store: None,
            complaints: Vec::new(),
            in_flight: None,
        }
    }

    /// The detector, if it has been opened, with the current settings.
    fn detector(&mut self) -> Option<&mut Detector> {
        let detector = self.detector.as_mut()?;
        detector.set_config(settings::detector());
        Some(detector)
    }

    /// The store of this statement; None if it hasn't been opened yet.
    fn store(&mut self) -> Option<&mut StatementStore> {
        let setting = settings::blob_root();
        let current = |s: &&mut StatementStore| s.statement == statement() && s.setting == setting;
        self.store.as_mut().filter(current)
    }
}

/// Identifies the current statement within this session.
fn statement() -> i64 {
    // SAFETY: reads a backend-local variable.
    unsafe { pg_sys::GetCurrentStatementStartTimestamp() }
}

/// Calls `work` with the store of this statement, which is opened at first use. Nothing is borrowed while the
/// quarantine is read, because that runs a query.
fn with_store<T>(work: impl FnOnce(&mut StatementStore) -> T) -> T {
    if STATE.with_borrow_mut(|state| state.store().is_none()) {
        let setting = settings::blob_root();
        let store = StatementStore {
            statement: statement(),
            store: Store::open_lenient(&setting),
            setting,
            quarantined: quarantined(),
            warned: Vec::new(),
        };
        STATE.with_borrow_mut(|state| state.store = Some(store));
        close_at_end_of_transaction();
    }
    STATE.with_borrow_mut(|state| work(state.store().expect("just opened")))
}

fn close_at_end_of_transaction() {
    use pgrx::PgXactCallbackEvent::{Abort, Commit, ParallelAbort, ParallelCommit, Prepare};
    for end in [Commit, Abort, ParallelCommit, ParallelAbort, Prepare] {
        pgrx::register_xact_callback(end, || {
            STATE.with(|state| {
                if let Ok(mut state) = state.try_borrow_mut() {
                    state.store = None;
                }
            });
        });
    }
}

/// The blobs in quarantine: those in `ntt_mime.failure`, and those that have crashed a process and wait for the next
/// run to write them there. A standby also has its own.
fn quarantined() -> HashMap<BlobId, String> {
    let crashes = in_flight::crashes(&in_flight_records::folder(), in_flight_records::database());
    let crashes = crashes
        .into_iter()
        .map(|(id, signal)| (id, in_flight::crash_detail("a process", signal)));
    let recorded = run_log::quarantined().into_iter();
    let recorded = recorded.filter_map(|(text, detail)| Some((text.parse().ok()?, detail)));
    crashes.chain(recorded).collect()
}

/// One number that stands for everything that decides a blob's type: this version, the release of libmagic that this
/// process has loaded, the contents of the magic database that libmagic would load now, and the size of the first
/// read. None if the database can't be read, or doesn't consist of files only.
///
/// The prefilter is not part of it, since it changes no answer; nor is the store, since a blob is named by its
/// content.
pub fn identity(config: DetectorConfig) -> Option<i64> {
    let mut hash = Sha256::new();
    for part in [env!("CARGO_PKG_VERSION"), &libmagic_release()] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.update((config.head_bytes as u64).to_le_bytes());
    for path in magic_database().path.split(':') {
        let mut file = File::open(path).ok()?;
        let metadata = file.metadata().ok().filter(|metadata| metadata.is_file())?;
        hash.update(metadata.len().to_le_bytes());
        std::io::copy(&mut file, &mut DigestWriter(&mut hash)).ok()?;
    }
    let hash: [u8; 32] = hash.finalize().into();
    Some(i64::from_le_bytes(std::array::from_fn(|at| hash[at])))
}

/// Hashes what is written to it.
struct DigestWriter<'h>(&'h mut Sha256);

impl std::io::Write for DigestWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Raises a WARNING about what libmagic gets wrong, if anything. Must be called once in each backend.
pub fn complain(complaints: &[String]) {
    if complaints.is_empty() {
        return;
    }
    let message = format!(
        "libmagic {} gives wrong types for known files",
        libmagic_release()
    );
    let report = Report::warning(message)
        .set_detail(complaints.join("\n"))
        .set_hint(
            "Check that libmagic and its magic database are of the same release, and check the environment \
             variable MAGIC of the server.",
        );
    report.warn();
}

/// Raises a WARNING that bytes can't be judged; returns that as a sentence.
fn complain_of_memory(error: &std::io::Error) -> String {
    let message = "cannot check libmagic or detect the type of given bytes".to_owned();
    let detail = sentence(&in_words(error));
    let report = Report::warning(message)
        .set_detail(detail.clone())
        .set_hint("Allow the server to call memfd_create, or to write into its data directory.");
    report.warn();
    detail
}

/// Makes sure that bytes can be judged if the system provides no files in memory. Must be called before a detector is
/// opened.
pub fn prepare_for_bytes() {
    memory::set_folder(in_flight_records::folder());
}

/// Raises a WARNING about a blob to which libmagic, with the whole file and all rules, gives another type than the
/// detector.
pub fn warn_of_audit(blobid: &str, detector: &str, libmagic: &str) {
    let message =
        format!("blob \"{blobid}\" has another type according to all of libmagic's rules");
    Report::warning(message)
        .set_detail(format!(
            "For the whole file, libmagic {} gives \"{libmagic}\"; the detector gave \"{detector}\".",
            libmagic_release()
        ))
        .set_hint(
            "The type that libmagic gives is used, and the run goes on without its prefilter.",
        )
        .warn();
}

/// Calls `work` with this backend's detector, which is opened at first use. Nothing is borrowed while that may raise
/// a WARNING, since a WARNING can run other code.
fn with_detector<T>(
    work: impl FnOnce(&mut Detector, Option<&InFlightRecord>) -> T,
) -> Result<T, Error> {
    if STATE.with_borrow(|state| state.detector.is_none()) {
        prepare_for_bytes();
        let mut detector =
            Detector::new(settings::detector()).map_err(|error| Error::Detector {
                detail: error.to_string(),
            })?;
        let mut complaints = detector.complaints();
        complain(&complaints);
        if let Err(error) = memory::file() {
            complaints.push(complain_of_memory(&error));
        }
        let in_flight = in_flight_records::of_this_process(BackendKind::Session).ok();
        STATE.with_borrow_mut(|state| {
            state.detector = Some(detector);
            state.complaints = complaints;
            state.in_flight = in_flight;
        });
    }
    Ok(STATE.with_borrow_mut(|state| {
        let in_flight = state.in_flight.clone();
        work(state.detector().expect("just opened"), in_flight.as_deref())
    }))
}

/// Fails if libmagic can't be used.
pub fn check_detector() -> Result<(), Error> {
    with_detector(|_, _| ())
}

/// The result of opening and judging a blob.
pub struct Look {
    pub path: String,
    pub size: Option<u64>,
    pub result: Result<Detection, Failure>,
}

/// Finds and judges a blob.
pub fn look_at(id: &BlobId) -> Result<Look, Error> {
    let opened = with_store(|store| store.open(id));
    Ok(match opened {
        Err(failure) => Look {
            path: with_store(|store| store.store.path_of(id))
                .to_string_lossy()
                .into_owned(),
            size: None,
            result: Err(failure),
        },
        Ok(blob) => Look {
            path: blob.path().to_string_lossy().into_owned(),
            size: Some(blob.size()),
            result: judge(&blob)?,
        },
    })
}

/// The type of a blob; None, with a WARNING, if it has none.
pub fn mime_type_of_blob(id: &BlobId) -> Result<Option<String>, Error> {
    let result = match with_store(|store| store.open(id)) {
        Err(failure) => Err(failure),
        Ok(blob) => judge(&blob)?,
    };
    match result {
        Ok(detection) => Ok(Some(detection.mime_type)),
        Err(failure) => {
            warn(id, &failure);
            Ok(None)
        }
    }
}

/// Judges a blob, and records it in this process's in-flight record meanwhile.
fn judge(blob: &Blob) -> Result<Result<Detection, Failure>, Error> {
    with_detector(|detector, in_flight| match in_flight {
        Some(in_flight) => in_flight.during(&blob.id(), || detector.detect_blob(blob)),
        None => detector.detect_blob(blob),
    })
}

impl StatementStore {
    /// Opens a blob, unless it is in quarantine.
    fn open(&self, id: &BlobId) -> Result<Blob, Failure> {
        match self.quarantined.get(id) {
            Some(detail) => Err(Failure::new(FailureReason::Quarantined, detail)),
            None => self.store.open_blob(id),
        }
    }
}

/// The type of some bytes.
pub fn mime_type_of_bytes(content: &[u8]) -> Result<String, Error> {
    let result = with_detector(|detector, _| detector.detect_bytes(content))?;
    let detection = result.map_err(|failure| Error::Detection {
        detail: failure.detail,
    })?;
    Ok(detection.mime_type)
}

/// The detector's complaints about itself, and whether its prefilter is active.
pub fn complaints() -> Result<(Vec<String>, bool), Error> {
    let (active, inactive) =
        with_detector(|detector, _| (detector.prefilter_active(), detector.no_prefilter()))?;
    let mut complaints = STATE.with_borrow(|state| state.complaints.clone());
    complaints.extend(inactive);
    Ok((complaints, active))
}

/// Raises a WARNING, once for each statement and reason. A parallel worker is silent, because each of them would
/// raise it again.
fn warn(id: &BlobId, failure: &Failure) {
    let reason = failure.reason;
    let first = with_store(|store| {
        let first = !store.warned.contains(&reason);
        if first {
            store.warned.push(reason);
        }
        first
    });
    // SAFETY: reads a backend-local variable.
    if !first || unsafe { pg_sys::ParallelWorkerNumber } >= 0 {
        return;
    }
    let code = match reason {
        FailureReason::Missing => PgSqlErrorCode::ERRCODE_UNDEFINED_FILE,
        FailureReason::Unreadable => PgSqlErrorCode::ERRCODE_IO_ERROR,
        FailureReason::NotAFile => PgSqlErrorCode::ERRCODE_WRONG_OBJECT_TYPE,
        _ => PgSqlErrorCode::ERRCODE_WARNING,
    };
    let what = match reason {
        FailureReason::Missing => "is missing",
        FailureReason::Unreadable => "cannot be read",
        FailureReason::NotAFile => "is not a regular file",
        FailureReason::Quarantined => "is in quarantine",
        _ => "could not be detected",
    };
    let hint = match reason {
        FailureReason::Missing | FailureReason::Unreadable => {
            "Check ntt_mime.blob_root, and that the account of the server can read the store."
        }
        FailureReason::Quarantined => {
            "To allow detection again, delete its row from ntt_mime.failure."
        }
        _ => "Use ntt_inspect_blob() for details.",
    };
    let detail = format!(
        "{} Further warnings of this kind are suppressed in this statement.",
        sentence(&failure.detail)
    );
    let report = Report::new(code, format!("blob \"{id}\" {what}"))
        .set_detail(detail)
        .set_hint(hint);
    report.warn();
}
