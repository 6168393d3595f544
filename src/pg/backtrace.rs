//! Errors have no backtraces, whatever the environment of the server says.
//!
//! Where RUST_BACKTRACE is set, Rust's standard library collects the frames of each panic, and pgrx, to which every error is
//! one on its way, puts them into the DETAIL (`detail_with_backtrace` in its panic.rs). They tell a user nothing,
//! and others how the server is laid out. PostgreSQL has a setting of its own for who wants them in the log,
//! `backtrace_functions`.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::env;

/// What the standard library goes by, the first that is set. It looks once a process.
const VARIABLES: [&str; 2] = ["RUST_LIB_BACKTRACE", "RUST_BACKTRACE"];

/// To be called when the library is loaded, before anything can fail.
pub fn keep_out_of_errors() {
    if VARIABLES.iter().all(|name| env::var_os(name).is_none()) {
        return;
    }
    let [name, _] = VARIABLES;
    let before = env::var_os(name);
    // SAFETY: PostgreSQL loads a library in the only thread of a process that is of its making, and sets variables
    // there itself.
    unsafe { env::set_var(name, "0") };
    let status = Backtrace::capture().status();
    debug_assert_eq!(status, BacktraceStatus::Disabled);
    // The programs that a server starts find the environment as it was.
    // SAFETY: as above.
    unsafe {
        match before {
            Some(value) => env::set_var(name, value),
            None => env::remove_var(name),
        }
    }
}
