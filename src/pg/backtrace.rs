//! Keeps stack traces out of errors, whatever the server's environment says.
//!
//! If RUST_BACKTRACE is set, Rust's standard library collects the stack frames of each panic. pgrx implements every
//! error as a panic, and puts the frames into the DETAIL (`detail_with_backtrace` in its panic.rs). They tell a user
//! nothing, and others how the server is laid out. If somebody wants them in the log, PostgreSQL has its own setting,
//! `backtrace_functions`.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::env;

/// The variables that the standard library reads; the first that is set counts. It reads them once in a process.
const VARIABLES: [&str; 2] = ["RUST_LIB_BACKTRACE", "RUST_BACKTRACE"];

/// Must be called when the library is loaded, before anything can fail.
pub fn keep_out_of_errors() {
    if VARIABLES.iter().all(|name| env::var_os(name).is_none()) {
        return;
    }
    let [name, _] = VARIABLES;
    let before = env::var_os(name);
    // SAFETY: PostgreSQL loads a library in the only thread of a process that it has started, and sets variables
    // there itself.
    unsafe { env::set_var(name, "0") };
    let status = Backtrace::capture().status();
    debug_assert_eq!(status, BacktraceStatus::Disabled);
    // Programs that the server starts get the original environment. SAFETY: as above.
    unsafe {
        match before {
            Some(value) => env::set_var(name, value),
            None => env::remove_var(name),
        }
    }
}
