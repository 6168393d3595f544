//! A lower priority for threads that look at blobs, so that others at work on the machine go first.
//!
//! Linux has a priority for each thread, which the threads that it starts inherit. Those of a detector thread hold no lock of
//! PostgreSQL's, so whoever is served before them never waits for them, but for their own worker. That one keeps its
//! priority: it holds locks on rows and on buffers, for which others would wait while it didn't get a processor.

/// The largest nice value.
pub const NICEST: i32 = 19;

/// From ioprio_set(2) and Linux's include/uapi/linux/ioprio.h.
const IOPRIO_WHO_PROCESS: libc::c_int = 1;
const IOPRIO_CLASS_SHIFT: libc::c_int = 13;
const IOPRIO_CLASS_BE: libc::c_int = 2;
const IOPRIO_CLASS_IDLE: libc::c_int = 3;
const IOPRIO_LOWEST_BE: libc::c_int = 7;

/// Adds `nice` to the calling thread's nice value, and has its reads come after those of others: at 19 whenever nobody
/// else has any, otherwise last among the ordinary ones. 0 leaves all as it is. What the system doesn't allow is done
/// without: it is a courtesy.
pub fn become_nicer(nice: i32) {
    if nice <= 0 {
        return;
    }
    // To Linux, no process is the calling thread (setpriority(2), C library/kernel differences).
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
