//! The wait of a commit for a synchronous standby.
//!
//! A standby that is away keeps each commit that is to be synchronous waiting until it is back or somebody cancels
//! the wait. A leader that waited so once a second could neither tell how its run gets on nor be cancelled, so it commits
//! its progress with [`locally`]: flushed here, which is what makes it true, and no more. Only the last row waits as
//! `synchronous_commit` of the session has it, and with it all that the run has written before.
//!
//! That wait is PostgreSQL's own (`SyncRepWaitForLSN` in replication/syncrep.c). It can be cancelled by an interrupt alone,
//! says then by a WARNING that the transaction has been committed here but perhaps not there, and goes on. A
//! run that has been cancelled mustn't wait for somebody to do that a second time: [`for_a_second`] does it, and
//! [`unless_told_otherwise`] when `ntt_cancel_backfill` comes during the last wait.

use std::cell::OnceCell;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering};
use std::time::Duration;

use pgrx::pg_sys;

use super::{identity, version};

/// How long a run that has been cancelled waits for a standby: one that is there has answered by then.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often it is asked whether to wait any longer, after that.
const ASK_EVERY: Duration = Duration::from_millis(250);

/// Who waits no longer than [`PATIENCE`].
static NO_LONGER: AtomicU32 = AtomicU32::new(1);

/// What tells that the wait is to end, while there may be one.
static TOLD: AtomicPtr<AtomicU32> = AtomicPtr::new(std::ptr::null_mut());

/// The wait has been ended by us.
static ENDED: AtomicBool = AtomicBool::new(false);

/// Runs `commit`, the commit of the transaction that is open, which then waits for no standby. What the session has set
/// is in force again afterwards.
pub fn locally<T>(commit: impl FnOnce() -> T) -> T {
    let action = pg_sys::GucAction::GUC_ACTION_LOCAL;
    identity::set_option(c"synchronous_commit", c"local", action);
    commit()
}

/// Runs `commit`, which waits for a standby as the session has it, but for a second only.
pub fn for_a_second<T>(commit: impl FnOnce() -> T) -> T {
    unless_told_otherwise(&NO_LONGER, commit)
}

/// Runs `commit`, which waits for a standby as the session has it, until `told` isn't zero any more.
pub fn unless_told_otherwise<T>(told: &AtomicU32, commit: impl FnOnce() -> T) -> T {
    /// However the commit ends.
    struct Asking(u32);
    impl Drop for Asking {
        fn drop(&mut self) {
            version::stop_timeout(self.0);
            TOLD.store(std::ptr::null_mut(), Ordering::SeqCst);
            // Had the standby answered in the same moment, it would be taken for a cancel request of what comes next.
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

/// What PostgreSQL calls our timeout in this process.
fn timeout() -> u32 {
    thread_local! {
        static TIMEOUT: OnceCell<u32> = const { OnceCell::new() };
    }
    TIMEOUT.with(|timeout| *timeout.get_or_init(|| version::register_timeout(ask)))
}

/// A signal handler's work: cancels the wait, if we are in it, and it is to end.
extern "C-unwind" fn ask() {
    // SAFETY: flags of this process, and its own PGPROC, which is there as long as it commits; what TOLD points to
    // outlives it (see `unless_told_otherwise`).
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
