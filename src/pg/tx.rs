//! Transactions and errors.
//!
//! A leader runs inside the transaction that PostgreSQL opened for CALL and may only end it through
//! SPI ([`commit_and_begin`], see "Transaction Management" in the SPI chapter of the manual); a
//! worker opens and ends its own ([`transaction`]). Either way an error becomes a [`PgError`] that
//! Rust code can look at, after the work that raised it has been rolled back.

use std::ffi::CStr;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::AtomicU32;
use std::time::{Duration, Instant};

use pgrx::pg_sys::panic::CaughtError;
use pgrx::{PgSqlErrorCode, PgTryBuilder, pg_sys};

use super::encoding::readable;
use super::{standby, xids};

/// An error that PostgreSQL raised, caught; or one to be raised.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct PgError {
    /// As PostgreSQL packs it (`MAKE_SQLSTATE` in utils/elog.h). Not pgrx's enumeration: a user's
    /// trigger may raise any SQLSTATE, and the caller is to see that one.
    code: i32,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
    /// Where it came about, line by line from the inside out.
    pub context: Option<String>,
    /// It was raised by the function of a trigger, or by what that did.
    in_trigger: bool,
    /// It was a defect of ours.
    panic: bool,
}

impl PgError {
    /// An error without detail and hint.
    pub fn new(code: PgSqlErrorCode, message: String) -> PgError {
        PgError {
            code: code as i32,
            message,
            detail: None,
            hint: None,
            context: None,
            in_trigger: false,
            panic: false,
        }
    }

    /// Adds a line to the context: what was being done around it.
    pub fn while_doing(mut self, what: &str) -> PgError {
        self.context = Some(match self.context {
            Some(inner) => format!("{inner}\n{what}"),
            None => what.to_owned(),
        });
        self
    }

    /// The error with its texts shortened, so that it takes at most `bytes` as JSON.
    pub fn shortened(&self, bytes: usize) -> Vec<u8> {
        let mut limit = bytes / 4;
        loop {
            let cut = |text: &str| text.chars().take(limit).collect::<String>();
            let short = PgError {
                code: self.code,
                message: cut(&self.message),
                detail: self.detail.as_deref().map(cut),
                hint: self.hint.as_deref().map(cut),
                // Its end tells the leaf and the worker.
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

    fn from_caught(caught: &CaughtError) -> PgError {
        let report = match caught {
            CaughtError::PostgresError(report)
            | CaughtError::ErrorReport(report)
            | CaughtError::RustPanic {
                ereport: report, ..
            } => report,
        };
        let mut error = PgError::new(report.sql_error_code(), report.message().to_owned());
        if let CaughtError::PostgresError(_) = caught {
            let last = LAST.with_borrow(Clone::clone);
            error.code = last.code;
            // Lossy where the database isn't in UTF-8, as pgrx has the other texts.
            let context = last.context;
            error.context = context.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
            error.in_trigger = last.in_trigger;
        }
        error.panic = matches!(caught, CaughtError::RustPanic { .. });
        error.detail = report.detail().map(str::to_owned);
        error.hint = report.hint().map(str::to_owned);
        error
    }

    /// The five characters of the SQLSTATE.
    pub fn sqlstate(&self) -> String {
        (0..5)
            .map(|i| char::from((self.code >> (6 * i) & 0x3F) as u8 + b'0'))
            .collect()
    }

    /// Has somebody's lock prevented it, so that it may be tried again?
    pub fn is_of_locks(&self) -> bool {
        // lock_not_available, deadlock_detected
        matches!(self.sqlstate().as_str(), "55P03" | "40P01")
    }

    /// Is it that memory, or the room for it, doesn't suffice?
    pub fn is_of_memory(&self) -> bool {
        // insufficient_resources
        self.sqlstate().starts_with("53")
    }

    /// Was it raised by the function of a trigger, or by what that did?
    pub fn is_of_trigger(&self) -> bool {
        self.in_trigger
    }

    /// Is it one of what was being done, and not of the server's state, of the session, or of our own? That is told by
    /// the class of its SQLSTATE: 57 is an operator's intervention, 53 lack of resources, 58 the system's, 25 an
    /// invalid state of the transaction, 08 the connection.
    pub fn is_of_the_statement(&self) -> bool {
        let others = ["57", "53", "58", "25", "08"];
        !self.panic && !others.contains(&&self.sqlstate()[..2])
    }

    /// The error as PostgreSQL's own structure, in the current memory context: for
    /// [`super::version::throw`], which needs that nothing of Rust's is left to clean up.
    pub fn into_error_data(self) -> *mut pg_sys::ErrorData {
        use pgrx::memcxt::PgMemoryContexts::CurrentMemoryContext;
        // SAFETY: the current memory context exists; it is the caller's, who outlives the error.
        let copy =
            |text: &str| unsafe { CurrentMemoryContext.pstrdup(&readable(text.replace('\0', ""))) };
        let data = pg_sys::ErrorData {
            elevel: pgrx::PgLogLevel::ERROR as i32,
            sqlerrcode: self.code,
            message: copy(&self.message),
            detail: self.detail.as_deref().map_or(std::ptr::null_mut(), copy),
            hint: self.hint.as_deref().map_or(std::ptr::null_mut(), copy),
            context: self.context.as_deref().map_or(std::ptr::null_mut(), copy),
            ..Default::default()
        };
        CurrentMemoryContext.leak_and_drop_on_delete(data)
    }
}

/// What pgrx doesn't tell of an error: it knows the SQLSTATEs of its enumeration only, and no context.
#[derive(Clone, Default)]
struct Last {
    code: i32,
    context: Option<Vec<u8>>,
    in_trigger: bool,
}

thread_local! {
    /// Of the last error that PostgreSQL raised inside [`catch`].
    static LAST: std::cell::RefCell<Last> = const { std::cell::RefCell::new(Last { code: 0, context: None, in_trigger: false }) };
}

/// An error context callback that adds no context: it looks at what the others have added, who came before.
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn note_last(_unused: *mut std::ffi::c_void) {
    // SAFETY: PostgreSQL calls this while it raises a message, which CopyErrorData() copies; not into the context that
    // is current then, which is for the message itself.
    let last = unsafe {
        let current = pg_sys::MemoryContextSwitchTo(pg_sys::TopMemoryContext);
        let copy = pg_sys::CopyErrorData();
        let is_error = (*copy).elevel >= pgrx::PgLogLevel::ERROR as i32;
        let context = (*copy).context;
        // As it is: to convert it would mean to look into catalogs while an error is being raised.
        let context = (!context.is_null()).then(|| CStr::from_ptr(context).to_bytes().to_vec());
        let code = (*copy).sqlerrcode;
        pg_sys::FreeErrorData(copy);
        pg_sys::MemoryContextSwitchTo(current);
        // The stack is still as it was when the error came about, and so is the depth of triggers. It has no arguments.
        let depth = pg_sys::pg_trigger_depth(std::ptr::null_mut()).value();
        // A message on the way out of an error is not the one to remember.
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

/// An error caught, as we see it and as pgrx does.
struct Caught {
    error: PgError,
    original: CaughtError,
}

impl Caught {
    fn new(original: CaughtError) -> Box<Caught> {
        let error = PgError::from_caught(&original);
        Box::new(Caught { error, original })
    }
}

/// Runs `work`; an error or a panic in it is caught. The transaction, or subtransaction, in which it
/// was raised is still to be rolled back by the caller.
fn catch<T>(work: impl FnOnce() -> T) -> Result<T, Box<Caught>> {
    // SAFETY: the callback is taken off the stack before its memory goes, however `work` ends.
    unsafe {
        let previous = pg_sys::error_context_stack;
        let mut callback = pg_sys::ErrorContextCallback {
            previous,
            callback: Some(note_last),
            arg: std::ptr::null_mut(),
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

/// Runs `work`; if it fails or raises an error, rolls the transaction back, begins a new one and runs
/// `clean_up`.
///
/// For a leader between [`enter_nonatomic`] and [`leave_nonatomic`]. `work` must not leave a snapshot
/// behind when it fails, which holds if all its queries go through [`in_subtransaction`].
pub fn with_clean_up<T>(
    work: impl FnOnce() -> Result<T, PgError>,
    clean_up: impl FnOnce(&PgError),
) -> Result<T, PgError> {
    let result = catch(work).unwrap_or_else(|caught| Err(caught.error));
    if let Err(error) = &result {
        // SAFETY: we are in a non-atomic SPI connection and not in a subtransaction, as
        // SPI_rollback() demands; the error has been copied and flushed by pgrx.
        unsafe { pg_sys::SPI_rollback() };
        clean_up(error);
    }
    result
}

/// Runs all of a background worker's work; an error raised in it outside any [`transaction`], such as that
/// of a cancel request, is returned like one raised inside.
pub fn returning_errors<T>(work: impl FnOnce() -> Result<T, PgError>) -> Result<T, PgError> {
    catch(work).unwrap_or_else(|caught| {
        // SAFETY: valid in any state of a transaction, and where there is none.
        unsafe { pg_sys::AbortCurrentTransaction() };
        Err(caught.error)
    })
}

/// Runs `work` in a transaction of its own, with a snapshot. On an error it is rolled back.
///
/// Only where no transaction is open: in a background worker.
pub fn transaction<T>(work: impl FnOnce() -> T) -> Result<T, PgError> {
    transaction_without_snapshot(|| {
        take_snapshot();
        work()
    })
}

/// Likewise, with no snapshot until `work` takes one ([`take_snapshot`]), if it does.
pub fn transaction_without_snapshot<T>(work: impl FnOnce() -> T) -> Result<T, PgError> {
    transaction_timed(work).map(|(value, _)| value)
}

/// Like [`transaction_without_snapshot`]; tells also how long the commit took.
pub fn transaction_timed<T>(work: impl FnOnce() -> T) -> Result<(T, Duration), PgError> {
    end(in_transaction(work))
}

/// Begins a transaction and runs `work` in it. It is still to be ended.
fn in_transaction<T>(work: impl FnOnce() -> T) -> Result<T, Box<Caught>> {
    catch(|| {
        // SAFETY: no transaction is open; the snapshot is popped before the commit, and an error
        // between the two is cleaned up by the abort below.
        unsafe {
            pg_sys::SetCurrentStatementStartTimestamp();
            pg_sys::StartTransactionCommand();
        }
        let value = work();
        unsafe {
            if pg_sys::ActiveSnapshotSet() {
                pg_sys::PopActiveSnapshot();
            }
        }
        value
    })
}

/// Like [`transaction_timed`], but what `work` returns as an error rolls the transaction back as well.
pub fn transaction_or_rollback<T, E>(
    work: impl FnOnce() -> Result<T, E>,
) -> Result<Result<(T, Duration), E>, PgError> {
    match in_transaction(work) {
        Ok(Err(refused)) => {
            roll_back();
            Ok(Err(refused))
        }
        Ok(Ok(value)) => end(Ok(value)).map(Ok),
        Err(caught) => end(Err(caught)).map(Ok),
    }
}

/// Takes the snapshot of a transaction, once in each: when everything is locked that will be looked at. One
/// from before a wait for a lock doesn't have the rows that were written meanwhile by who held it, and of TRUNCATE
/// and of ALTER TABLE, which make new files, no rows at all; and it would hold back vacuum while we wait.
pub fn take_snapshot() {
    // SAFETY: inside a transaction; popped at its end.
    unsafe { pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot()) };
}

/// Runs `work` with a snapshot that lasts no longer.
pub fn with_snapshot<T>(work: impl FnOnce() -> T) -> T {
    take_snapshot();
    let value = work();
    // SAFETY: taken above.
    unsafe { pg_sys::PopActiveSnapshot() };
    value
}

/// Rolls back the transaction of a background worker.
fn roll_back() {
    let ids = xids::own();
    // SAFETY: valid in any state of a transaction, including one that has failed.
    unsafe { pg_sys::AbortCurrentTransaction() };
    xids::count(ids);
}

/// Ends the transaction in which `result` came about, and tells how long the commit took. An error,
/// that of the commit included, rolls it back.
fn end<T>(result: Result<T, Box<Caught>>) -> Result<(T, Duration), PgError> {
    let begun = Instant::now();
    result
        .and_then(|value| {
            let ids = xids::own();
            // SAFETY: the transaction is open and has no active snapshot any more.
            catch(|| unsafe { pg_sys::CommitTransactionCommand() })?;
            xids::count(ids);
            Ok((value, begun.elapsed()))
        })
        .map_err(|caught| {
            roll_back();
            caught.error
        })
}

/// Runs `work` in a subtransaction with a snapshot; on an error, rolls it back and raises it again.
///
/// This is how a leader runs queries: an error in one, a cancel request included, must not leave the
/// query's snapshot behind, or the rollback in [`with_clean_up`] would be refused.
pub fn in_subtransaction<T>(work: impl FnOnce() -> T) -> T {
    try_in_subtransaction(work).unwrap_or_else(|caught| caught.original.rethrow())
}

/// Likewise, for what its caller can do without: None if there was an error, be it a cancel request.
pub fn if_possible<T>(work: impl FnOnce() -> T) -> Option<T> {
    try_in_subtransaction(work).ok()
}

/// Likewise, where there is another way: what was raised, if anything was.
pub fn attempt<T>(work: impl FnOnce() -> T) -> Result<T, PgError> {
    try_in_subtransaction(work).map_err(|caught| caught.error)
}

/// Likewise, for what can be done another time: None if somebody's lock or a deadlock prevented it; any other error is
/// raised again.
pub fn unless_locked<T>(work: impl FnOnce() -> T) -> Option<T> {
    match try_in_subtransaction(work) {
        Ok(value) => Some(value),
        Err(caught) if caught.error.is_of_locks() => None,
        Err(caught) => caught.original.rethrow(),
    }
}

fn try_in_subtransaction<T>(work: impl FnOnce() -> T) -> Result<T, Box<Caught>> {
    // SAFETY: the pattern of plpgsql's exec_stmt_block: remember memory context and resource owner,
    // begin, then either release or roll back, and restore both.
    unsafe {
        let context = pg_sys::CurrentMemoryContext;
        let owner = pg_sys::CurrentResourceOwner;
        pg_sys::BeginInternalSubTransaction(std::ptr::null());
        pg_sys::MemoryContextSwitchTo(context);
        let result = catch(|| {
            // What is allocated goes with the subtransaction, or at the next commit: the caller's context lasts as
            // long as the CALL does.
            pg_sys::MemoryContextSwitchTo(pg_sys::CurTransactionContext);
            // Between commits of a procedure there is no snapshot unless somebody takes one.
            pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
            let value = work();
            pg_sys::PopActiveSnapshot();
            value
        });
        pg_sys::MemoryContextSwitchTo(context);
        match result {
            Ok(_) => pg_sys::ReleaseCurrentSubTransaction(),
            Err(_) => pg_sys::RollbackAndReleaseCurrentSubTransaction(),
        }
        pg_sys::MemoryContextSwitchTo(context);
        pg_sys::CurrentResourceOwner = owner;
        result
    }
}

/// Begins the part of a procedure that may commit.
pub fn enter_nonatomic() {
    // SAFETY: called from a procedure whose CallContext is non-atomic, checked by the caller.
    unsafe { pg_sys::SPI_connect_ext(pg_sys::SPI_OPT_NONATOMIC as i32) };
}

/// Ends it.
pub fn leave_nonatomic() {
    // SAFETY: pairs with `enter_nonatomic`.
    unsafe { pg_sys::SPI_finish() };
}

/// Commits and begins a new transaction, which has neither snapshot nor lock nor transaction id
/// until something needs one. Only between [`enter_nonatomic`] and [`leave_nonatomic`].
///
/// Flushed to this server's disk whatever `synchronous_commit` says, and with it what the workers have committed before, so
/// that a run's row never claims more than a crash would leave; but it waits for no standby.
pub fn commit_and_begin() {
    standby::locally(commit_as_set);
}

/// Likewise, for the last thing that a run writes: waits for a synchronous standby as well
/// if `synchronous_commit` says so, until `told` isn't zero any more.
pub fn commit_at_last(told: &AtomicU32) {
    standby::unless_told_otherwise(told, commit_as_set);
}

/// Likewise, but for a second only: for a run that has been cancelled.
pub fn commit_when_cancelled() {
    standby::for_a_second(commit_as_set);
}

fn commit_as_set() {
    let ids = xids::own();
    // SAFETY: we are in a non-atomic SPI connection, outside any subtransaction.
    unsafe {
        pg_sys::ForceSyncCommit();
        pg_sys::SPI_commit();
        xids::count(ids);
        // Under `default_transaction_isolation = serializable`, runs on two targets would fail each other: both read and
        // write ntt_mime.run. It may be set until there is a snapshot, see check_transaction_isolation() in
        // PostgreSQL's commands/variable.c.
        pg_sys::XactIsoLevel = pg_sys::XACT_READ_COMMITTED as i32;
    }
}
