//! Waiting for something to become true, without guessing how long it takes.

use std::thread;
use std::time::{Duration, Instant};

/// Nothing that comes soon takes longer, on a loaded machine either.
pub const SOON: Duration = Duration::from_secs(30);

/// Polls until `closure` says true; panics after `timeout`, naming `what` never came.
#[track_caller]
pub fn wait_until(timeout: Duration, what: &str, mut closure: impl FnMut() -> bool) {
    wait_for(timeout, what, || closure().then_some(()));
}

/// Polls until `closure` has a value and returns it; panics after `timeout`, naming `what` never came.
#[track_caller]
pub fn wait_for<T>(timeout: Duration, what: &str, mut closure: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = closure() {
            return value;
        }
        assert!(
            started.elapsed() < timeout,
            "waited {timeout:?} in vain for {what}"
        );
        thread::sleep(Duration::from_millis(30));
    }
}
