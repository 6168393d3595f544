//! Waiting, so that interrupts are served and the death of the postmaster ends the process.

use std::cell::OnceCell;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use pgrx::{check_for_interrupts, pg_sys};

use super::version;

/// What a process waits for, as the column `wait_event` of pg_stat_activity tells from PostgreSQL 17 on.
#[derive(Clone, Copy)]
pub enum WaitEvent {
    /// A leader for its workers.
    Workers,
    /// A worker for its detector thread.
    Detection,
    /// A worker for the outcome of a blob that another one is at.
    OtherWorker,
    /// A worker for something to do.
    Task,
    /// A worker between two batches, or before it tries one again.
    Delay,
}

impl WaitEvent {
    const NAMES: [&std::ffi::CStr; 5] = [
        c"NttMimeWorkers",
        c"NttMimeDetection",
        c"NttMimeOtherWorker",
        c"NttMimeTask",
        c"NttMimeDelay",
    ];

    fn id(self) -> u32 {
        thread_local! {
            static IDS: [OnceCell<u32>; 5] = const { [const { OnceCell::new() }; 5] };
        }
        let kind = self as usize;
        IDS.with(|ids| *ids[kind].get_or_init(|| version::wait_event(Self::NAMES[kind])))
    }
}

/// Waits until somebody sets this process's latch or the time is over, then serves interrupts: a
/// cancel or terminate request is raised from here.
pub fn wait(time: Duration, event: WaitEvent) {
    let events = pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH;
    // SAFETY: MyLatch belongs to this process for all its life.
    unsafe {
        pg_sys::WaitLatch(
            pg_sys::MyLatch,
            events as i32,
            time.as_millis() as _,
            event.id(),
        );
        pg_sys::ResetLatch(pg_sys::MyLatch);
    }
    check_for_interrupts!();
}

/// The same, until `wakeup_fd` becomes readable.
pub fn wait_for(wakeup_fd: BorrowedFd<'_>, time: Duration, event: WaitEvent) {
    let events = pg_sys::WL_LATCH_SET
        | pg_sys::WL_SOCKET_READABLE
        | pg_sys::WL_TIMEOUT
        | pg_sys::WL_EXIT_ON_PM_DEATH;
    // SAFETY: as above; the descriptor is open for the length of the call.
    unsafe {
        pg_sys::WaitLatchOrSocket(
            pg_sys::MyLatch,
            events as i32,
            wakeup_fd.as_raw_fd(),
            time.as_millis() as _,
            event.id(),
        );
        pg_sys::ResetLatch(pg_sys::MyLatch);
    }
    check_for_interrupts!();
}

/// Wakes another backend if it is there. A process that has taken over its pid is woken needlessly,
/// which every process of PostgreSQL bears.
pub fn wake(pid: i32) {
    // SAFETY: takes and releases ProcArrayLock; PGPROC entries are never unmapped.
    unsafe {
        let proc = pg_sys::BackendPidGetProc(pid);
        if !proc.is_null() {
            pg_sys::SetLatch(&mut (*proc).procLatch);
        }
    }
}

/// Sees whether the client is still there; if not, the next check for interrupts ends this session, as it
/// would with `client_connection_check_interval`. Otherwise only the next message to it would tell.
pub fn look_after_client() {
    if !super::version::client_is_there() {
        // SAFETY: flags of this process, those that PostgreSQL's own check in ProcessInterrupts
        // (tcop/postgres.c) sets.
        unsafe {
            pg_sys::ClientConnectionLost = 1;
            pg_sys::InterruptPending = 1;
        }
    }
}

/// This process's id.
pub fn my_pid() -> i32 {
    // SAFETY: set once at process start.
    unsafe { pg_sys::MyProcPid }
}

/// Tells of something that is over: a request to cancel it comes too late from here on, and is forgotten.
pub fn too_late_to_cancel<T>(work: impl FnOnce() -> T) -> T {
    let value = without_cancel(work);
    // SAFETY: this process's own flag, which its signal handler sets.
    unsafe { pg_sys::QueryCancelPending = 0 };
    value
}

/// Runs `work` with cancel requests put off until after it; requests to terminate are still served.
pub fn without_cancel<T>(work: impl FnOnce() -> T) -> T {
    // SAFETY: HOLD_CANCEL_INTERRUPTS() and its counterpart of PostgreSQL's miscadmin.h; an error
    // resets the counter itself.
    unsafe {
        pg_sys::QueryCancelHoldoffCount += 1;
        let value = work();
        pg_sys::QueryCancelHoldoffCount -= 1;
        value
    }
}
