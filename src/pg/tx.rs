//! Transactions, and what happens to them after an error.
//!
//! A leader runs inside the transaction that PostgreSQL opened for CALL and may only end it through SPI
//! ([`commit_and_begin`], see "Transaction Management" in the SPI chapter of the manual). A worker opens and ends its
//! own ([`transaction`]). Either way, an error becomes a [`Report`] that Rust code can examine, after the work that
//! raised it has been rolled back.

use std::sync::atomic::AtomicU32;
use std::time::{Duration, Instant};

use pgrx::pg_sys;

use super::report::{Caught, Report, catch};
use super::{standby, xids};

/// Runs `work`; if it fails or raises an error, rolls back the transaction, begins a new one and runs `clean_up`.
///
/// For a leader between [`enter_nonatomic`] and [`leave_nonatomic`]. `work` must not leave a snapshot behind when it
/// fails, which is guaranteed if all its queries go through [`in_subtransaction`].
pub fn with_clean_up<T>(
    work: impl FnOnce() -> Result<T, Report>,
    clean_up: impl FnOnce(&Report),
) -> Result<T, Report> {
    let result = catch(work).unwrap_or_else(|caught| Err(caught.error));
    if let Err(error) = &result {
        // SAFETY: we are in a non-atomic SPI connection and not in a subtransaction, as SPI_rollback() requires. pgrx
        // has copied and flushed the error.
        unsafe { pg_sys::SPI_rollback() };
        clean_up(error);
    }
    result
}

/// Runs all the work of a background worker. An error that is raised outside any [`transaction`], such as that of a
/// cancel request, is returned like one raised inside.
pub fn returning_errors<T>(work: impl FnOnce() -> Result<T, Report>) -> Result<T, Report> {
    catch(work).unwrap_or_else(|caught| {
        // SAFETY: valid in any state of a transaction, and if there is none.
        unsafe { pg_sys::AbortCurrentTransaction() };
        Err(caught.error)
    })
}

/// Runs `work` in a transaction of its own, with a snapshot. An error rolls it back.
///
/// Only if no transaction is open: in a background worker.
pub fn transaction<T>(work: impl FnOnce() -> T) -> Result<T, Report> {
    transaction_without_snapshot(|| {
        take_snapshot();
        work()
    })
}

/// The same, without a snapshot until `work` takes one ([`take_snapshot`]).
pub fn transaction_without_snapshot<T>(work: impl FnOnce() -> T) -> Result<T, Report> {
    transaction_timed(work).map(|(value, _)| value)
}

/// Like [`transaction_without_snapshot`]; also returns how long the commit took.
pub fn transaction_timed<T>(work: impl FnOnce() -> T) -> Result<(T, Duration), Report> {
    end(in_transaction(work))
}

/// Begins a transaction and runs `work` in it. The caller has to end it.
fn in_transaction<T>(work: impl FnOnce() -> T) -> Result<T, Box<Caught>> {
    catch(|| {
        // SAFETY: no transaction is open. The snapshot is popped before the commit; after an error between the two,
        // the abort below cleans up.
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

/// Like [`transaction_timed`], but if `work` returns an error, that also rolls back the transaction.
pub fn transaction_or_rollback<T, E>(
    work: impl FnOnce() -> Result<T, E>,
) -> Result<Result<(T, Duration), E>, Report> {
    match in_transaction(work) {
        Ok(Err(refused)) => {
            roll_back();
            Ok(Err(refused))
        }
        Ok(Ok(value)) => end(Ok(value)).map(Ok),
        Err(caught) => end(Err(caught)).map(Ok),
    }
}

/// Takes the snapshot of a transaction, once in each, when everything has been locked that will be read. A snapshot
/// from before a wait for a lock wouldn't see the rows that the holder wrote meanwhile, and after TRUNCATE or an
/// ALTER TABLE that makes a new file, no rows at all. It would also hold back vacuum while we wait.
pub fn take_snapshot() {
    // SAFETY: inside a transaction; popped at its end.
    unsafe { pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot()) };
}

/// Runs `work` with a snapshot that is released afterwards.
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

/// Ends the transaction that produced `result`, and returns how long the commit took. An error, including one of the
/// commit, rolls it back.
fn end<T>(result: Result<T, Box<Caught>>) -> Result<(T, Duration), Report> {
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

/// Runs `work` in a subtransaction with a snapshot. An error rolls it back and is raised again.
///
/// This is how a leader runs queries: an error in one, including a cancel request, must not leave the query's
/// snapshot behind, or the rollback in [`with_clean_up`] would be refused.
pub fn in_subtransaction<T>(work: impl FnOnce() -> T) -> T {
    try_in_subtransaction(work).unwrap_or_else(|caught| caught.original.rethrow())
}

/// The same, for something that the caller can do without: None if there was an error, including a cancel request.
pub fn if_possible<T>(work: impl FnOnce() -> T) -> Option<T> {
    try_in_subtransaction(work).ok()
}

/// The same, if there is another way: returns the error, if there was one.
pub fn attempt<T>(work: impl FnOnce() -> T) -> Result<T, Report> {
    try_in_subtransaction(work).map_err(|caught| caught.error)
}

/// The same, for something that can be done later: None if somebody's lock or a deadlock prevented it. Any other
/// error is raised again.
pub fn unless_locked<T>(work: impl FnOnce() -> T) -> Option<T> {
    match try_in_subtransaction(work) {
        Ok(value) => Some(value),
        Err(caught) if caught.error.is_of_locks() => None,
        Err(caught) => caught.original.rethrow(),
    }
}

fn try_in_subtransaction<T>(work: impl FnOnce() -> T) -> Result<T, Box<Caught>> {
    // SAFETY: the pattern of plpgsql's exec_stmt_block: save memory context and resource owner, begin, then either
    // release or roll back, and restore both.
    unsafe {
        let context = pg_sys::CurrentMemoryContext;
        let owner = pg_sys::CurrentResourceOwner;
        pg_sys::BeginInternalSubTransaction(std::ptr::null());
        pg_sys::MemoryContextSwitchTo(context);
        let result = catch(|| {
            // What is allocated is freed with the subtransaction, or at the next commit: the caller's context lives
            // as long as the CALL.
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

/// Ends that part.
pub fn leave_nonatomic() {
    // SAFETY: pairs with `enter_nonatomic`.
    unsafe { pg_sys::SPI_finish() };
}

/// Commits and begins a new transaction, which has no snapshot, lock or transaction id until something needs one.
/// Only between [`enter_nonatomic`] and [`leave_nonatomic`].
///
/// The commit is flushed to this server's disk whatever `synchronous_commit` says, and with it what the workers have
/// committed before, so that a run's row never claims more than a crash would leave; but it doesn't wait for a
/// standby.
pub fn commit_and_begin() {
    standby::locally(commit_as_set);
}

/// The same, for the last thing that a run writes: also waits for a synchronous standby if `synchronous_commit` says
/// so, until `told` is no longer zero.
pub fn commit_at_last(told: &AtomicU32) {
    standby::unless_told_otherwise(told, commit_as_set);
}

/// The same, but waits for a second at most: for a run that has been cancelled.
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
        // Under `default_transaction_isolation = serializable`, runs on two targets would make each other fail: both
        // read and write ntt_mime.run. It may be set until there is a snapshot, see check_transaction_isolation() in
        // PostgreSQL's commands/variable.c.
        pg_sys::XactIsoLevel = pg_sys::XACT_READ_COMMITTED as i32;
    }
}
