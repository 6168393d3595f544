//! The signals by which a process crashes: their handlers tell who was looking at what.

use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicPtr, Ordering};

use super::PAGE;

/// Signals by which a process dies of what it does itself.
pub(super) const CRASHES: [(c_int, &str); 6] = [
    (libc::SIGSEGV, "SIGSEGV"),
    (libc::SIGBUS, "SIGBUS"),
    (libc::SIGABRT, "SIGABRT"),
    (libc::SIGFPE, "SIGFPE"),
    (libc::SIGILL, "SIGILL"),
    (libc::SIGSYS, "SIGSYS"),
];

/// The signals that tell of a crash. A thread must not block them: the system would end the process
/// without asking the handler.
pub fn crash_signals() -> impl Iterator<Item = c_int> {
    CRASHES.iter().map(|(signal, _)| *signal)
}

/// Stack of the handlers: a thread whose own stack is used up crashes, too.
const HANDLER_STACK_BYTES: usize = 64 * 1024;

/// Gives this thread a stack for its signal handlers, unless it has one.
pub fn use_handler_stack() {
    // SAFETY: plain system calls with valid arguments; the new stack is leaked, since a signal may come
    // until the very end of the thread.
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

/// What was there before our handlers, in the order of [`CRASHES`].
static EARLIER: [AtomicPtr<libc::sigaction>; CRASHES.len()] =
    [const { AtomicPtr::new(std::ptr::null_mut()) }; CRASHES.len()];

pub(super) fn install_handlers() {
    for ((signal, _), earlier) in CRASHES.iter().zip(&EARLIER) {
        // Once: ours stay, and a handler put over them since may call them.
        if !earlier.load(Ordering::Acquire).is_null() {
            continue;
        }
        // SAFETY: plain system calls; the handler is async-signal-safe, and what it needs is stored
        // before it is in place. Leaked, a few bytes once a process.
        unsafe {
            let mut present: libc::sigaction = std::mem::zeroed();
            if libc::sigaction(*signal, std::ptr::null(), &mut present) != 0 {
                continue;
            }
            earlier.store(Box::leak(Box::new(present)), Ordering::Release);
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_flags = libc::SA_ONSTACK;
            if is_callable(&present) {
                // Called from ours it finds all as it has asked for. PostgreSQL's for SIGFPE raises an error: it
                // must be on the thread's own stack, whose depth it measures.
                action = present;
            }
            action.sa_sigaction = crashed as *const () as usize;
            action.sa_flags |= libc::SA_SIGINFO;
            libc::sigaction(*signal, &action, std::ptr::null_mut());
        }
    }
}

/// Is it a handler, and one that may be called again and again?
fn is_callable(action: &libc::sigaction) -> bool {
    let none = [libc::SIG_DFL, libc::SIG_IGN].contains(&action.sa_sigaction);
    !none && action.sa_flags & libc::SA_RESETHAND == 0
}

/// Calls the handler of an action, which may jump away instead of returning.
///
/// # Safety
///
/// The action is [callable](is_callable), and what is handed on comes from the system.
unsafe fn call(
    action: &libc::sigaction,
    signal: c_int,
    info: *mut libc::siginfo_t,
    context: *mut c_void,
) {
    type Informed = extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void);
    type Plain = extern "C" fn(c_int);
    let handler = action.sa_sigaction;
    // SAFETY: a function of the one kind or the other, by its flags.
    unsafe {
        match action.sa_flags & libc::SA_SIGINFO {
            0 => std::mem::transmute::<usize, Plain>(handler)(signal),
            _ => std::mem::transmute::<usize, Informed>(handler)(signal, info, context),
        }
    }
}

/// The handler. Async-signal-safe: atomics and system calls only.
///
/// What isn't a crash over a blob goes to the handler that was there before, and ours stays: PostgreSQL makes an error
/// of SIGFPE and goes on, and the next one may be libmagic's.
///
/// Where there is none, ours returns with the earlier action in force; the instruction at fault, or abort(), then
/// raises the signal again. One that somebody else has sent isn't raised again by itself.
extern "C" fn crashed(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the system passes valid information; PAGE and EARLIER hold null or what lives for good.
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
            // PostgreSQL would jump out of libmagic: not there.
            (Some(slot), _) => slot.signal.store(signal as u32, Ordering::Release),
            // No destructor is skipped if it jumps away from here.
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
