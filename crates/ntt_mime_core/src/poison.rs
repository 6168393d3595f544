//! Blobs that crash or stop the process which looks at them, for tests of what comes after.
//!
//! Only in a library built with the feature `poison`, and only for blobs that the environment variable
//! `NTT_MIME_POISON` of the server names: `crash:<blobid>`, `abort:<blobid>`, `hang:<blobid>` or
//! `overflow:<blobid>`, with commas between. Of `lie:<blobid>` the prefilter gives a wrong type. Besides, every store is taken for a slow one there and read ahead.

use std::sync::OnceLock;

use crate::blob_id::BlobId;

/// What the prefilter says of a blob that it is to be wrong about.
pub const LIE: &str = "application/x-lie";

/// Is the prefilter to be wrong about it?
pub fn is_lied_about(id: &BlobId) -> bool {
    effect_of(id) == Some("lie")
}

/// What is to come of a blob, if anything.
fn effect_of(id: &BlobId) -> Option<&'static str> {
    static POISONS: OnceLock<Vec<(String, BlobId)>> = OnceLock::new();
    let poisons = POISONS.get_or_init(|| {
        let named = std::env::var("NTT_MIME_POISON").unwrap_or_default();
        let each = named.split(',').filter_map(|poison| poison.split_once(':'));
        each.filter_map(|(effect, id)| Some((effect.to_owned(), id.parse().ok()?)))
            .collect()
    });
    let effect = poisons.iter().find(|(_, poisoned)| poisoned == id);
    effect.map(|(effect, _)| effect.as_str())
}

/// Does to this process what the blob is said to do, if anything.
pub fn take_effect(id: &BlobId) {
    match effect_of(id) {
        // SAFETY: none at all: this is to end in SIGSEGV.
        Some("crash") => unsafe { std::ptr::without_provenance_mut::<u8>(8).write_volatile(1) },
        Some("abort") => std::process::abort(),
        Some("hang") => loop {
            std::hint::spin_loop();
        },
        Some("overflow") => drop(endless(1)),
        _ => {}
    }
}

/// Uses up the stack.
#[allow(unconditional_recursion, reason = "it is to have no end")]
fn endless(depth: u64) -> u64 {
    let frame = [depth; 64];
    std::hint::black_box(&frame)[0] + endless(depth + 1)
}
