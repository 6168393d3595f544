//! Any content at all, through the detector: it must keep its promises.
//!
//!     cargo +nightly fuzz run detect -- -max_len=100000 -timeout=20 -max_total_time=600
//!
//! The tool sees which ways the content takes through our code, not through libmagic's, which is the
//! system's and isn't instrumented; give it files to begin with (`make fuzz` does).

#![no_main]

use std::cell::RefCell;

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/hostile/promises.rs"]
mod promises;

thread_local! {
    static PROMISES: RefCell<promises::Promises> = RefCell::new(promises::Promises::new());
}

fuzz_target!(|content: &[u8]| {
    PROMISES.with_borrow_mut(|promises| promises.keep(content));
});
