//! Detection in a backend: one warm detector, and the store as it is at the current statement.
//!
//! The detector is opened at first use, since that takes milliseconds and megabytes, and kept for
//! the life of the backend. The store's directories are opened anew in each statement, so that a
//! session of many hours sees a store that has been mounted again, and a changed setting.

use std::cell::RefCell;

use ntt_mime_core::blob_id::BlobId;
use ntt_mime_core::detector::{
    Detection, Detector, DetectorConfig, DetectorError, libmagic_release,
};
use ntt_mime_core::failure::{Failure, FailureReason};
use ntt_mime_core::store::Store;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::{PgLogLevel, PgSqlErrorCode, ereport, function_name, pg_sys};

use crate::errors::Error;
use crate::settings;

thread_local! {
    static STATE: RefCell<State> = const { RefCell::new(State::new()) };
}

struct State {
    detector: Option<Detector>,
    store: Option<StatementStore>,
    complaints: Vec<String>,
}

/// The store, for as long as one statement runs.
struct StatementStore {
    statement: i64,
    setting: String,
    store: Store,
    /// Reasons that this statement has warned of.
    warned: Vec<FailureReason>,
}

impl State {
    const fn new() -> State {
        State {
            detector: None,
            store: None,
            complaints: Vec::new(),
        }
    }

    /// The detector, if it has been opened, as it is set now.
    fn detector(&mut self) -> Option<&mut Detector> {
        let detector = self.detector.as_mut()?;
        detector.set_config(settings::detector());
        Some(detector)
    }

    fn store(&mut self) -> &mut StatementStore {
        // SAFETY: reads a backend-local variable.
        let statement = unsafe { pg_sys::GetCurrentStatementStartTimestamp() };
        let setting = settings::blob_root();
        let current = |s: &StatementStore| s.statement == statement && s.setting == setting;
        if !self.store.as_ref().is_some_and(current) {
            self.store = Some(StatementStore {
                statement,
                store: Store::open_lenient(&setting),
                setting,
                warned: Vec::new(),
            });
        }
        self.store.as_mut().expect("just set")
    }
}

/// Opens a detector and checks it. A WARNING tells what it gets wrong, so this is to be called once a
/// backend.
pub fn open(config: DetectorConfig) -> Result<(Detector, Vec<String>), DetectorError> {
    let mut detector = Detector::new(config)?;
    let complaints = detector.complaints();
    if !complaints.is_empty() {
        let message = format!(
            "libmagic {} does not answer as it should",
            libmagic_release()
        );
        ErrorReport::new(PgSqlErrorCode::ERRCODE_WARNING, message, function_name!())
            .set_detail(complaints.join("\n"))
            .set_hint(
                "Check that packages libmagic1 and libmagic-mgc are of one release, and what the \
             environment variable MAGIC of the server names.",
            )
            .report(PgLogLevel::WARNING);
    }
    Ok((detector, complaints))
}

/// Does something with this backend's detector, which is opened at first use. Nothing is borrowed
/// while that may warn: a warning can run other code.
fn with_detector<T>(work: impl FnOnce(&mut Detector) -> T) -> Result<T, Error> {
    if STATE.with_borrow(|state| state.detector.is_none()) {
        let (detector, complaints) =
            open(settings::detector()).map_err(|error| Error::Detector {
                detail: error.to_string(),
            })?;
        STATE.with_borrow_mut(|state| {
            state.detector = Some(detector);
            state.complaints = complaints;
        });
    }
    Ok(STATE.with_borrow_mut(|state| work(state.detector().expect("just opened"))))
}

/// Fails if libmagic can't be used.
pub fn check_detector() -> Result<(), Error> {
    with_detector(|_| ())
}

/// What a look at a blob gives.
pub struct Look {
    pub path: String,
    pub size: Option<u64>,
    pub result: Result<Detection, Failure>,
}

/// Finds and judges a blob.
pub fn look_at(id: &BlobId) -> Result<Look, Error> {
    let opened = STATE.with_borrow_mut(|state| {
        let store = &state.store().store;
        let opened = store.open_blob(id);
        opened.map_err(|failure| (store.path_of(id), failure))
    });
    Ok(match opened {
        Err((path, failure)) => Look {
            path: path.to_string_lossy().into_owned(),
            size: None,
            result: Err(failure),
        },
        Ok(blob) => Look {
            path: blob.path().to_string_lossy().into_owned(),
            size: Some(blob.size()),
            result: with_detector(|detector| detector.detect_blob(&blob))?,
        },
    })
}

/// The type of a blob; None, with a warning, if it has none.
pub fn mime_type_of_blob(id: &BlobId) -> Result<Option<String>, Error> {
    let opened = STATE.with_borrow_mut(|state| state.store().store.open_blob(id));
    let result = match opened {
        Err(failure) => Err(failure),
        Ok(blob) => with_detector(|detector| detector.detect_blob(&blob))?,
    };
    match result {
        Ok(detection) => Ok(Some(detection.mime_type)),
        Err(failure) => {
            warn(id, &failure);
            Ok(None)
        }
    }
}

/// The type of bytes in hand.
pub fn mime_type_of_bytes(content: &[u8]) -> Result<String, Error> {
    let result = with_detector(|detector| detector.detect_bytes(content))?;
    let detection = result.map_err(|failure| Error::Detection {
        detail: failure.detail,
    })?;
    Ok(detection.mime_type)
}

/// What the detector has to say against itself, and whether its prefilter is at work.
pub fn complaints() -> Result<(Vec<String>, bool), Error> {
    let active = with_detector(|detector| detector.prefilter_active())?;
    let complaints = STATE.with_borrow(|state| state.complaints.clone());
    Ok((complaints, active))
}

/// Warns once a statement and reason. A parallel worker is silent: each of them would warn again.
fn warn(id: &BlobId, failure: &Failure) {
    let reason = failure.reason;
    let first = STATE.with_borrow_mut(|state| {
        let warned = &mut state.store().warned;
        let first = !warned.contains(&reason);
        if first {
            warned.push(reason);
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
        _ => "could not be judged",
    };
    ereport!(
        PgLogLevel::WARNING,
        code,
        format!("blob {id} {what}"),
        format!(
            "{}; further ones of this statement are not reported.",
            failure.detail
        )
    );
}
