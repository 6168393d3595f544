//! Detection in a backend: one warm detector, and the store as it is at the current statement.
//!
//! The detector is opened at first use, since that takes milliseconds and megabytes, and kept for
//! the life of the backend. The store's directories are opened anew in each statement, so that a
//! session of many hours sees a store that has been mounted again, and a changed setting.

use std::cell::RefCell;

use ntt_mime_core::blob_id::BlobId;
use ntt_mime_core::detector::{Detection, Detector, DetectorError};
use ntt_mime_core::failure::{Failure, FailureReason};
use ntt_mime_core::store::Store;
use pgrx::{PgLogLevel, PgSqlErrorCode, ereport, pg_sys};

use crate::errors::Error;
use crate::settings;

thread_local! {
    static STATE: RefCell<State> = const { RefCell::new(State::new()) };
}

struct State {
    detector: Option<Detector>,
    store: Option<StatementStore>,
    warnings: Vec<String>,
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
            warnings: Vec::new(),
        }
    }

    fn detector(&mut self) -> Result<&mut Detector, DetectorError> {
        let config = settings::detector();
        if self.detector.is_none() {
            let mut detector = Detector::new(config)?;
            self.warnings = detector.self_check();
            self.warnings
                .extend(ntt_mime_core::detector::known_bad_release());
            self.detector = Some(detector);
        }
        let detector = self.detector.as_mut().expect("just set");
        detector.set_config(config);
        Ok(detector)
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

fn unusable(error: DetectorError) -> Error {
    Error::Detector {
        detail: error.to_string(),
    }
}

/// Fails if libmagic can't be used.
pub fn check_detector() -> Result<(), Error> {
    STATE.with_borrow_mut(|state| state.detector().map(|_| ()).map_err(unusable))
}

/// What a look at a blob gives.
pub struct Look {
    pub path: String,
    pub size: Option<u64>,
    pub result: Result<Detection, Failure>,
}

/// Finds and judges a blob.
pub fn look_at(id: &BlobId) -> Result<Look, Error> {
    STATE.with_borrow_mut(|state| {
        let store = &state.store().store;
        let path = store.path_of(id).to_string_lossy().into_owned();
        let opened = store.open_blob(id);
        Ok(match opened {
            Err(failure) => Look {
                path,
                size: None,
                result: Err(failure),
            },
            Ok(blob) => Look {
                path: blob.path().to_string_lossy().into_owned(),
                size: Some(blob.size()),
                result: state.detector().map_err(unusable)?.detect_blob(&blob),
            },
        })
    })
}

/// The type of a blob; None, with a warning, if it has none.
pub fn mime_type_of_blob(id: &BlobId) -> Result<Option<String>, Error> {
    // One borrow at a time, and none while a warning is raised: that may run other code.
    let result = STATE.with_borrow_mut(|state| {
        let opened = state.store().store.open_blob(id);
        match opened {
            Err(failure) => Ok(Err(failure)),
            Ok(blob) => Ok(state.detector().map_err(unusable)?.detect_blob(&blob)),
        }
    })?;
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
    STATE.with_borrow_mut(|state| {
        let result = state.detector().map_err(unusable)?.detect_bytes(content);
        let detection = result.map_err(|failure| Error::Detection {
            detail: failure.detail,
        })?;
        Ok(detection.mime_type)
    })
}

/// What the detector has to say against itself.
pub fn warnings() -> Result<(Vec<String>, bool), Error> {
    STATE.with_borrow_mut(|state| {
        let active = state.detector().map_err(unusable)?.prefilter_active();
        Ok((state.warnings.clone(), active))
    })
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
