//! Reports: errors, caught or to be raised, and messages to the client and the server's log.
//!
//! There is one record for both, as in PostgreSQL (`ErrorData` in utils/elog.h), and everything about it is here: it
//! is caught ([`catch`]), raised ([`Report::raise`], [`Report::into_error_data`]), sent ([`Report::send`]), and left
//! in shared memory by a worker for the leader ([`Report::shortened`]).
//!
//! PostgreSQL serves interrupts after each message, and it is an error if the client can't show a message, so any
//! message may raise an error. With pgrx's own means (`ereport!`, `ErrorReport::report`) such an error jumps over all
//! Rust frames, with locks and memory that these should have released. Here it is raised like every other error.

use std::ffi::{CStr, CString, c_char};
use std::panic::AssertUnwindSafe;
use std::ptr::null_mut;

use pgrx::memcxt::PgMemoryContexts::CurrentMemoryContext;
use pgrx::pg_sys::panic::{CaughtError, ErrorReport};
use pgrx::{PgLogLevel, PgSqlErrorCode, PgTryBuilder, function_name, pg_sys};

use super::encoding::{readable, sayable};
use super::version;

/// An error or a message.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Report {
    /// As PostgreSQL packs it (`MAKE_SQLSTATE` in utils/elog.h). Not pgrx's enumeration: a user's trigger may raise
    /// any SQLSTATE, and the caller should see that one.
    code: i32,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
    /// Where it occurred, line by line from the inside out.
    pub context: Option<String>,
    /// It was raised in the function of a trigger.
    in_trigger: bool,
    /// It was a defect of ours.
    panic: bool,
}

impl Report {
    /// A report without detail and hint.
    pub fn new(code: PgSqlErrorCode, message: impl Into<String>) -> Report {
        Report {
            code: code as i32,
            message: message.into(),
            detail: None,
            hint: None,
            context: None,
            in_trigger: false,
            panic: false,
        }
    }

    /// A message without a specific SQLSTATE.
    pub fn plain(message: impl Into<String>) -> Report {
        Report::new(PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION, message)
    }

    /// A warning without a specific SQLSTATE.
    pub fn warning(message: impl Into<String>) -> Report {
        Report::new(PgSqlErrorCode::ERRCODE_WARNING, message)
    }

    pub fn set_detail(self, detail: impl Into<String>) -> Report {
        let detail = Some(detail.into());
        Report { detail, ..self }
    }

    pub fn set_hint(self, hint: impl Into<String>) -> Report {
        let hint = Some(hint.into());
        Report { hint, ..self }
    }

    /// Adds a line to the context: what was being done.
    pub fn while_doing(mut self, what: &str) -> Report {
        self.context = Some(match self.context {
            Some(inner) => format!("{inner}\n{what}"),
            None => what.to_owned(),
        });
        self
    }

    /// The error as JSON of at most `bytes`; its texts are shortened if necessary.
    pub fn shortened(&self, bytes: usize) -> Vec<u8> {
        let mut limit = bytes / 4;
        loop {
            let cut = |text: &str| text.chars().take(limit).collect::<String>();
            let short = Report {
                code: self.code,
                message: cut(&self.message),
                detail: self.detail.as_deref().map(cut),
                hint: self.hint.as_deref().map(cut),
                // Its end names the leaf and the worker.
                context: self.context.as_ref().map(|text| {
                    let skipped = text.chars().count().saturating_sub(limit);
                    text.chars().skip(skipped).collect()
                }),
                ..*self
            };
            let json = serde_json::to_vec(&short).unwrap_or_default();
            if json.len() <= bytes {
                return json;
            }
            limit /= 2;
        }
    }

    /// The five characters of the SQLSTATE.
    pub fn sqlstate(&self) -> String {
        (0..5)
            .map(|i| char::from((self.code >> (6 * i) & 0x3F) as u8 + b'0'))
            .collect()
    }

    /// Whether somebody's lock has prevented it, so that it may be tried again.
    pub fn is_of_locks(&self) -> bool {
        // lock_not_available, deadlock_detected
        matches!(self.sqlstate().as_str(), "55P03" | "40P01")
    }

    /// Whether memory, or space for it, was insufficient.
    pub fn is_of_memory(&self) -> bool {
        // insufficient_resources
        self.sqlstate().starts_with("53")
    }

    /// Whether it was raised in the function of a trigger.
    pub fn is_of_trigger(&self) -> bool {
        self.in_trigger
    }

    /// Whether it concerns what was being done, and not the state of the server or the session, or a defect of ours.
    /// The class of its SQLSTATE shows that: 57 is operator intervention, 53 lack of resources, 58 a system error, 25
    /// an invalid transaction state, 08 the connection.
    pub fn is_of_the_statement(&self) -> bool {
        let others = ["57", "53", "58", "25", "08"];
        !self.panic && !others.contains(&&self.sqlstate()[..2])
    }

    /// Raises it as an error with one of the SQLSTATEs that pgrx knows, to be caught by [`catch`] or by pgrx.
    pub fn raise(self) -> ! {
        let code = PgSqlErrorCode::from(self.code);
        let mut report = ErrorReport::new(code, readable(self.message), function_name!());
        if let Some(detail) = self.detail {
            report = report.set_detail(readable(detail));
        }
        if let Some(hint) = self.hint {
            report = report.set_hint(readable(hint));
        }
        report.report(PgLogLevel::ERROR);
        unreachable!("an ERROR does not return")
    }

    /// The error as PostgreSQL's own structure, in the current memory context: for [`super::version::throw`], which
    /// requires that nothing of Rust's is left to clean up.
    pub fn into_error_data(self) -> *mut pg_sys::ErrorData {
        let data = self.error_data(PgLogLevel::ERROR, |text| {
            let text = readable(text.replace('\0', ""));
            // SAFETY: the current memory context exists and is the caller's, who outlives the error.
            unsafe { CurrentMemoryContext.pstrdup(&text) }
        });
        CurrentMemoryContext.leak_and_drop_on_delete(data)
    }

    /// Sends it at a level below ERROR. If client or database have another encoding than UTF-8, characters outside
    /// ASCII are escaped, so that the message can't fail because of one.
    pub fn send(&self, level: PgLogLevel) {
        let mut texts = Vec::new();
        let mut data = self.error_data(level, |text| {
            let text = CString::new(sayable(text)).unwrap_or_default();
            let pointer = text.as_ptr().cast_mut();
            texts.push(text);
            pointer
        });
        // SAFETY: C strings that outlive the call, which copies them.
        unsafe { version::send(&mut data) };
    }

    /// Sends it as a WARNING.
    pub fn warn(&self) {
        self.send(PgLogLevel::WARNING);
    }

    /// PostgreSQL's own structure, with texts that `copy` creates.
    fn error_data(
        &self,
        level: PgLogLevel,
        mut copy: impl FnMut(&str) -> *mut c_char,
    ) -> pg_sys::ErrorData {
        let mut copy_if_any = |text: &Option<String>| text.as_deref().map_or(null_mut(), &mut copy);
        pg_sys::ErrorData {
            elevel: level as i32,
            sqlerrcode: self.code,
            detail: copy_if_any(&self.detail),
            hint: copy_if_any(&self.hint),
            context: copy_if_any(&self.context),
            message: copy(&self.message),
            ..Default::default()
        }
    }
}

/// Sends a message of one line, without a specific SQLSTATE.
pub fn send_line(level: PgLogLevel, text: String) {
    Report::plain(text).send(level);
}

/// Runs `work` without ever waiting for the client: while the client doesn't read, messages go to the server's log
/// only. A process that waits to send something can't be cancelled, and makes no progress
/// (`ProcessClientWriteInterrupt` in tcop/postgres.c).
pub fn not_waiting_for_client<T>(work: impl FnOnce() -> T) -> T {
    struct Restore(pg_sys::CommandDest::Type);
    impl Drop for Restore {
        fn drop(&mut self) {
            // SAFETY: a variable of this process.
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

/// What pgrx doesn't keep of an error: it only knows the SQLSTATEs of its enumeration, and no context.
#[derive(Clone, Default)]
struct Last {
    code: i32,
    context: Option<Vec<u8>>,
    in_trigger: bool,
}

thread_local! {
    /// The last error that PostgreSQL raised inside [`catch`].
    static LAST: std::cell::RefCell<Last> = const { std::cell::RefCell::new(Last { code: 0, context: None, in_trigger: false }) };
}

/// An error context callback that adds no context: it reads what the other callbacks, which ran before it, have
/// added.
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn remember_last(_unused: *mut std::ffi::c_void) {
    // SAFETY: PostgreSQL calls this while it raises a message, which CopyErrorData() copies; not into the current
    // context, which is for the message itself.
    let last = unsafe {
        let current = pg_sys::MemoryContextSwitchTo(pg_sys::TopMemoryContext);
        let copy = pg_sys::CopyErrorData();
        let is_error = (*copy).elevel >= PgLogLevel::ERROR as i32;
        let context = (*copy).context;
        // Not converted: that would require catalog lookups while an error is being raised.
        let context = (!context.is_null()).then(|| CStr::from_ptr(context).to_bytes().to_vec());
        let code = (*copy).sqlerrcode;
        pg_sys::FreeErrorData(copy);
        pg_sys::MemoryContextSwitchTo(current);
        // The stack is still as it was when the error occurred, and so is the trigger depth. The function takes no
        // arguments.
        let depth = pg_sys::pg_trigger_depth(null_mut()).value();
        // A message sent while an error is handled must not be remembered in its place.
        is_error.then_some(Last {
            code,
            context,
            in_trigger: depth > 0,
        })
    };
    if let Some(last) = last {
        LAST.replace(last);
    }
}

/// A caught error, as our record and as pgrx's.
pub struct Caught {
    pub error: Report,
    pub original: CaughtError,
}

impl Caught {
    fn new(original: CaughtError) -> Box<Caught> {
        let error = Caught::error(&original);
        Box::new(Caught { error, original })
    }

    fn error(caught: &CaughtError) -> Report {
        let report = match caught {
            CaughtError::PostgresError(report)
            | CaughtError::ErrorReport(report)
            | CaughtError::RustPanic {
                ereport: report, ..
            } => report,
        };
        let mut error = Report::new(report.sql_error_code(), report.message().to_owned());
        if let CaughtError::PostgresError(_) = caught {
            let last = LAST.with_borrow(Clone::clone);
            error.code = last.code;
            // Lossy if the database isn't in UTF-8, as pgrx's other texts are.
            let context = last.context;
            error.context = context.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
            error.in_trigger = last.in_trigger;
        }
        error.panic = matches!(caught, CaughtError::RustPanic { .. });
        error.detail = report.detail().map(str::to_owned);
        error.hint = report.hint().map(str::to_owned);
        error
    }
}

/// Runs `work`, and catches an error or a panic in it. The caller has to roll back the transaction or subtransaction
/// in which it was raised.
pub fn catch<T>(work: impl FnOnce() -> T) -> Result<T, Box<Caught>> {
    // SAFETY: the callback is removed from the stack before its memory is freed, however `work` ends.
    unsafe {
        let previous = pg_sys::error_context_stack;
        let mut callback = pg_sys::ErrorContextCallback {
            previous,
            callback: Some(remember_last),
            arg: null_mut(),
        };
        pg_sys::error_context_stack = &mut callback;
        let result = PgTryBuilder::new(AssertUnwindSafe(|| Ok(work())))
            .catch_others(|caught| Err(Caught::new(caught)))
            .catch_rust_panic(|caught| Err(Caught::new(caught)))
            .execute();
        pg_sys::error_context_stack = previous;
        result
    }
}
