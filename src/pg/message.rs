//! Messages that are no errors: to the client and to the server's log.
//!
//! PostgreSQL serves interrupts after each message, and what the client can't show is an error, so that any of them
//! may end in one. pgrx's own ways (`ereport!`, `ErrorReport::report`) let it jump over all frames of Rust's, with
//! locks and memory that these should have released; here it comes as every other error does.

use std::ffi::{CString, c_char};
use std::ptr::null_mut;

use pgrx::{PgLogLevel, PgSqlErrorCode, pg_sys};

use super::{encoding, version};

/// A message to be sent. Where client or database have another encoding than UTF-8, its characters outside ASCII are
/// escaped: it must not fail for one.
pub struct Message {
    code: PgSqlErrorCode,
    text: String,
    detail: Option<String>,
    hint: Option<String>,
}

impl Message {
    pub fn new(code: PgSqlErrorCode, text: String) -> Message {
        Message {
            code,
            text,
            detail: None,
            hint: None,
        }
    }

    pub fn set_detail(self, detail: impl Into<String>) -> Message {
        let detail = Some(detail.into());
        Message { detail, ..self }
    }

    pub fn set_hint(self, hint: impl Into<String>) -> Message {
        let hint = Some(hint.into());
        Message { hint, ..self }
    }

    /// Sends it at a level below ERROR.
    pub fn send(&self, level: PgLogLevel) {
        let text = |text: &str| CString::new(encoding::sayable(text)).unwrap_or_default();
        let message = text(&self.text);
        let (detail, hint) = (self.detail.as_deref(), self.hint.as_deref());
        let (detail, hint) = (detail.map(text), hint.map(text));
        let pointer = |text: &Option<CString>| -> *mut c_char {
            text.as_ref()
                .map_or(null_mut(), |text| text.as_ptr().cast_mut())
        };
        let mut data = pg_sys::ErrorData {
            elevel: level as i32,
            sqlerrcode: self.code as i32,
            message: message.as_ptr().cast_mut(),
            detail: pointer(&detail),
            hint: pointer(&hint),
            ..Default::default()
        };
        // SAFETY: C strings that outlive the call, which copies them.
        unsafe { version::send(&mut data) };
    }
}

/// Sends a message of one line, without a condition of its own.
pub fn line(level: PgLogLevel, text: String) {
    Message::new(PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION, text).send(level);
}

/// Runs `work` without ever waiting for the client: what PostgreSQL says meanwhile goes to the server's log alone while the
/// client doesn't read. A process that waits to send something can't be cancelled, and nothing in it goes on
/// (`ProcessClientWriteInterrupt` in tcop/postgres.c).
pub fn not_waiting_for_client<T>(work: impl FnOnce() -> T) -> T {
    struct Restore(pg_sys::CommandDest::Type);
    impl Drop for Restore {
        fn drop(&mut self) {
            // SAFETY: this process's own variable.
            unsafe { pg_sys::whereToSendOutput = self.0 };
        }
    }
    let _restore = (!version::client_reads()).then(|| {
        // SAFETY: as above.
        unsafe {
            let restore = Restore(pg_sys::whereToSendOutput);
            pg_sys::whereToSendOutput = pg_sys::CommandDest::DestNone;
            restore
        }
    });
    work()
}
