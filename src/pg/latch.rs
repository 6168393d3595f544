//! Waiting in a way that serves interrupts, and ends the process when the postmaster dies.

use std::cell::OnceCell;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use pgrx::{check_for_interrupts, pg_sys};

use super::version;

/// What a process waits for, as shown in the column `wait_event` of pg_stat_activity from PostgreSQL 17 on.
#[derive(Clone, Copy)]
pub enum WaitEvent {
    /// The leader waits for its workers.
    Workers,
    /// A worker waits for its detector thread.
    Detection,
    /// A worker waits for the result of a blob that another worker is detecting.
    OtherWorker,
    /// A worker waits for a task.
    Task,
    /// A worker pauses between two batches, or before it tries one again.
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

/// Waits until this process's latch is set or the time is over, then serves interrupts: a cancel or termination
/// request is raised from here.
pub fn wait(time: Duration, event: WaitEvent) {
    let events = pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH;
    // SAFETY: MyLatch belongs to this process for its whole life.
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

/// The same, but also returns when `wakeup_fd` becomes readable.
pub fn wait_for(wakeup_fd: BorrowedFd<'_>, time: Duration, event: WaitEvent) {
    let events = pg_sys::WL_LATCH_SET
        | pg_sys::WL_SOCKET_READABLE
        | pg_sys::WL_TIMEOUT
        | pg_sys::WL_EXIT_ON_PM_DEATH;
    // SAFETY: as above; the descriptor is open during the call.
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

/// Wakes another backend if it exists. If another process has its pid by now, that one is woken needlessly, which is
/// harmless to any process of PostgreSQL.
pub fn wake(pid: i32) {
    // SAFETY: takes and releases ProcArrayLock; PGPROC entries are never unmapped.
    unsafe {
        let proc = pg_sys::BackendPidGetProc(pid);
        if !proc.is_null() {
            pg_sys::SetLatch(&mut (*proc).procLatch);
        }
    }
}

/// Checks whether the client is still connected. If not, the next check for interrupts ends this session, as with
/// `client_connection_check_interval`. Otherwise that would be noticed only when the next message is sent.
pub fn look_after_client() {
    if !super::version::client_is_there() {
        // SAFETY: flags of this process, the same ones that PostgreSQL's own check in ProcessInterrupts
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

/// Runs `work`, which reports something that is over: a cancel request comes too late from here on, and is discarded.
pub fn too_late_to_cancel<T>(work: impl FnOnce() -> T) -> T {
    let value = without_cancel(work);
    // SAFETY: this process's own flag, which its signal handler sets.
    unsafe { pg_sys::QueryCancelPending = 0 };
    value
}

/// Runs `work` with cancel requests deferred until it ends; termination requests are still served.
pub fn without_cancel<T>(work: impl FnOnce() -> T) -> T {
    // SAFETY: the equivalent of HOLD_CANCEL_INTERRUPTS() and RESUME_CANCEL_INTERRUPTS() in PostgreSQL's miscadmin.h;
    // an error resets the counter by itself.
    unsafe {
        pg_sys::QueryCancelHoldoffCount += 1;
        let value = work();
        pg_sys::QueryCancelHoldoffCount -= 1;
        value
    }
}
