//! The signals of a crash: their handlers record which thread was examining which blob.

use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicPtr, Ordering};

use super::PAGE;

/// Signals that end a process because of what it does itself.
pub(super) const CRASHES: [(c_int, &str); 6] = [
    (libc::SIGSEGV, "SIGSEGV"),
    (libc::SIGBUS, "SIGBUS"),
    (libc::SIGABRT, "SIGABRT"),
    (libc::SIGFPE, "SIGFPE"),
    (libc::SIGILL, "SIGILL"),
    (libc::SIGSYS, "SIGSYS"),
];

/// The signals of a crash. A thread must not block them: the system would end the process without calling the
/// handler.
pub fn crash_signals() -> impl Iterator<Item = c_int> {
    CRASHES.iter().map(|(signal, _)| *signal)
}

/// Stack size of the handlers. They need their own stack, because a thread also crashes when its stack is exhausted.
const HANDLER_STACK_BYTES: usize = 64 * 1024;

/// Gives this thread a stack for its signal handlers, unless it has one.
pub fn use_handler_stack() {
    // SAFETY: plain system calls with valid arguments. The new stack is leaked, since a signal may come until the
    // very end of the thread.
    unsafe {
        let mut present: libc::stack_t = std::mem::zeroed();
        let known = libc::sigaltstack(std::ptr::null(), &mut present) == 0;
        if !known || present.ss_flags & libc::SS_DISABLE == 0 {
            return;
        }
        let memory = Box::leak(vec![0u8; HANDLER_STACK_BYTES].into_boxed_slice());
        let stack = libc::stack_t {
            ss_sp: memory.as_mut_ptr().cast(),
            ss_flags: 0,
            ss_size: memory.len(),
        };
        libc::sigaltstack(&stack, std::ptr::null_mut());
    }
}

/// The handlers that were installed before ours, in the order of [`CRASHES`].
static EARLIER: [AtomicPtr<libc::sigaction>; CRASHES.len()] =
    [const { AtomicPtr::new(std::ptr::null_mut()) }; CRASHES.len()];

pub(super) fn install_handlers() {
    for ((signal, _), earlier) in CRASHES.iter().zip(&EARLIER) {
        // Only once: ours stay, and a handler that has replaced them may call them.
        if !earlier.load(Ordering::Acquire).is_null() {
            continue;
        }
        // SAFETY: plain system calls. The handler is async-signal-safe, and what it needs is stored before it is
        // installed. A few bytes are leaked once in a process.
        unsafe {
            let mut present: libc::sigaction = std::mem::zeroed();
            if libc::sigaction(*signal, std::ptr::null(), &mut present) != 0 {
                continue;
            }
            earlier.store(Box::leak(Box::new(present)), Ordering::Release);
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_flags = libc::SA_ONSTACK;
            if is_callable(&present) {
                // Called by ours, it finds everything as it has requested. PostgreSQL's handler for SIGFPE raises an
                // error, and must be on the thread's own stack, whose depth it measures.
                action = present;
            }
            action.sa_sigaction = crashed as *const () as usize;
            action.sa_flags |= libc::SA_SIGINFO;
            libc::sigaction(*signal, &action, std::ptr::null_mut());
        }
    }
}

/// Whether it is a handler, and one that can be called repeatedly.
fn is_callable(action: &libc::sigaction) -> bool {
    let none = [libc::SIG_DFL, libc::SIG_IGN].contains(&action.sa_sigaction);
    !none && action.sa_flags & libc::SA_RESETHAND == 0
}

/// Calls the handler of an action, which may jump away instead of returning.
///
/// # Safety
///
/// The action is [callable](is_callable), and the arguments come from the system.
unsafe fn call(
    action: &libc::sigaction,
    signal: c_int,
    info: *mut libc::siginfo_t,
    context: *mut c_void,
) {
    type Informed = extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void);
    type Plain = extern "C" fn(c_int);
    let handler = action.sa_sigaction;
    // SAFETY: a function of one kind or the other, depending on its flags.
    unsafe {
        match action.sa_flags & libc::SA_SIGINFO {
            0 => std::mem::transmute::<usize, Plain>(handler)(signal),
            _ => std::mem::transmute::<usize, Informed>(handler)(signal, info, context),
        }
    }
}

/// The handler. Async-signal-safe: atomics and system calls only.
///
/// If the signal isn't a crash while a blob is examined, the previous handler is called and ours stays installed:
/// PostgreSQL turns SIGFPE into an error and goes on, and the next one may be libmagic's.
///
/// If there is no previous handler, ours returns with the previous action in force. The faulting instruction, or
/// abort(), then raises the signal again. If somebody else has sent the signal, it isn't raised again.
extern "C" fn crashed(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the system passes valid information. PAGE and EARLIER are null or point to what is never freed.
    unsafe {
        let from_processor = (*info).si_code > 0;
        let from_within = from_processor
            || (*info).si_code == libc::SI_TKILL && (*info).si_pid() == libc::getpid();
        let looking = PAGE.load(Ordering::Acquire).as_ref().and_then(|page| {
            let this = libc::gettid();
            let mut slots = page.slots.iter();
            slots.find(|slot| slot.thread.load(Ordering::Relaxed) == this)
        });
        let number = CRASHES.iter().position(|(known, _)| *known == signal);
        let earlier = number.and_then(|i| EARLIER[i].load(Ordering::Acquire).as_ref());
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = libc::SIG_DFL;
        match (looking.filter(|_| from_within), earlier) {
            // PostgreSQL's handler would jump out of libmagic, so it isn't called here.
            (Some(slot), _) => slot.signal.store(signal as u32, Ordering::Release),
            // If it jumps away from here, no destructor is skipped.
            (None, Some(earlier)) if is_callable(earlier) => {
                return call(earlier, signal, info, context);
            }
            (None, Some(earlier)) => action = *earlier,
            (None, None) => {}
        }
        libc::sigaction(signal, &action, std::ptr::null_mut());
        if !from_processor {
            libc::raise(signal);
        }
    }
}
