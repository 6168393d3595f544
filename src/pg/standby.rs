//! Waiting for a synchronous standby when a transaction commits.
//!
//! If the standby is away, each synchronous commit waits until it is back or somebody cancels the wait. A leader that
//! waited like that once a second could not report progress and could not be cancelled. So it commits its progress
//! with [`locally`]: flushed to the local disk, which makes it true, and no more. Only the last row waits as the
//! session's `synchronous_commit` says, and everything that the run wrote before is then on the standby as well.
//!
//! That wait is PostgreSQL's own (`SyncRepWaitForLSN` in replication/syncrep.c). Only an interrupt can cancel it. It
//! then raises a WARNING that the transaction has been committed here but perhaps not on the standby, and goes on. A
//! run that has been cancelled must not wait for a second cancel: [`for_a_second`] ends the wait by itself, and
//! [`unless_told_otherwise`] does when `ntt_cancel_backfill` is called during the last wait.

use std::cell::OnceCell;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering};
use std::time::Duration;

use pgrx::pg_sys;

use super::{identity, version};

/// How long a cancelled run waits for a standby: one that is there has answered by then.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often it checks, after that, whether to go on waiting.
const ASK_EVERY: Duration = Duration::from_millis(250);

/// A counter that makes the wait end after [`PATIENCE`].
static NO_LONGER: AtomicU32 = AtomicU32::new(1);

/// The counter that ends the wait when it isn't zero, while there may be a wait.
static TOLD: AtomicPtr<AtomicU32> = AtomicPtr::new(std::ptr::null_mut());

/// Whether the wait was ended by us.
static ENDED: AtomicBool = AtomicBool::new(false);

/// Commits with `commit`, which ends the open transaction, without waiting for a standby. Restores the session's
/// setting afterwards.
pub fn locally<T>(commit: impl FnOnce() -> T) -> T {
    let action = pg_sys::GucAction::GUC_ACTION_LOCAL;
    identity::set_option(c"synchronous_commit", c"local", action);
    commit()
}

/// Commits with `commit`, and waits for a standby as the session's setting says, but for a second at most.
pub fn for_a_second<T>(commit: impl FnOnce() -> T) -> T {
    unless_told_otherwise(&NO_LONGER, commit)
}

/// Commits with `commit`, and waits for a standby as the session's setting says, until `told` is no longer zero.
pub fn unless_told_otherwise<T>(told: &AtomicU32, commit: impl FnOnce() -> T) -> T {
    /// Disables the timeout, however the commit ends.
    struct Asking(u32);
    impl Drop for Asking {
        fn drop(&mut self) {
            version::stop_timeout(self.0);
            TOLD.store(std::ptr::null_mut(), Ordering::SeqCst);
            // If the standby answered at the same moment, the flag would cancel the next statement.
            if ENDED.swap(false, Ordering::SeqCst) {
                // SAFETY: a flag of this process.
                unsafe { pg_sys::QueryCancelPending = 0 };
            }
        }
    }
    TOLD.store(std::ptr::from_ref(told).cast_mut(), Ordering::SeqCst);
    let timeout = timeout();
    let _asking = Asking(timeout);
    version::start_timeout(timeout, PATIENCE, ASK_EVERY);
    commit()
}

/// The id of our timeout in this process.
fn timeout() -> u32 {
    thread_local! {
        static TIMEOUT: OnceCell<u32> = const { OnceCell::new() };
    }
    TIMEOUT.with(|timeout| *timeout.get_or_init(|| version::register_timeout(ask)))
}

/// Runs in a signal handler: cancels the wait, if there is one and it is to end.
extern "C-unwind" fn ask() {
    // SAFETY: flags of this process, and its own PGPROC, which exists as long as it commits. What TOLD points to
    // outlives the wait (see `unless_told_otherwise`).
    unsafe {
        let waiting = (*pg_sys::MyProc).syncRepState == pg_sys::SYNC_REP_WAITING as i32;
        let told = TOLD.load(Ordering::SeqCst).as_ref();
        if waiting && told.is_some_and(|told| told.load(Ordering::SeqCst) != 0) {
            ENDED.store(true, Ordering::SeqCst);
            pg_sys::QueryCancelPending = 1;
            pg_sys::InterruptPending = 1;
        }
    }
}
