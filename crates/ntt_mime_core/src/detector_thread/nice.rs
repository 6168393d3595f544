//! A lower priority for threads that read and detect blobs, so that other work on the machine goes first.
//!
//! Linux has a priority for each thread, which the threads that it starts inherit. A detector thread and its readers
//! hold no lock of PostgreSQL's, so nobody else waits for them, except their own worker. The worker keeps its
//! priority: it holds locks on rows and on buffers, for which others would have to wait while it got no processor
//! time.

/// The largest nice value.
pub const NICEST: i32 = 19;

/// From ioprio_set(2) and Linux's include/uapi/linux/ioprio.h.
const IOPRIO_WHO_PROCESS: libc::c_int = 1;
const IOPRIO_CLASS_SHIFT: libc::c_int = 13;
const IOPRIO_CLASS_BE: libc::c_int = 2;
const IOPRIO_CLASS_IDLE: libc::c_int = 3;
const IOPRIO_LOWEST_BE: libc::c_int = 7;

/// Adds `nice` to the calling thread's nice value, and lowers the priority of its reads: at 19 they are served only
/// when nobody else reads, otherwise last among ordinary reads. 0 changes nothing. It is a courtesy, so what the
/// system refuses is ignored.
pub fn become_nicer(nice: i32) {
    if nice <= 0 {
        return;
    }
    // For Linux, no process means the calling thread (setpriority(2), C library/kernel differences).
    if let Ok(now) = rustix::process::getpriority_process(None) {
        let _ = rustix::process::setpriority_process(None, (now + nice).min(NICEST));
    }
    let priority = match nice >= NICEST {
        true => IOPRIO_CLASS_IDLE << IOPRIO_CLASS_SHIFT,
        false => IOPRIO_CLASS_BE << IOPRIO_CLASS_SHIFT | IOPRIO_LOWEST_BE,
    };
    // SAFETY: three numbers.
    unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, priority) };
}
