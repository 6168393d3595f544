//! Blobs that crash or stop the process that examines them, for tests of what follows.
//!
//! Only in a library built with the feature `poison`, and only for blobs named in the server's environment variable
//! `NTT_MIME_POISON`: `crash:<blobid>`, `abort:<blobid>`, `hang:<blobid>` or `overflow:<blobid>`, separated by
//! commas. For `lie:<blobid>` the prefilter gives a wrong type. In such a library every store also counts as slow and
//! is read ahead.

use std::sync::OnceLock;

use crate::blob_id::BlobId;

/// The prefilter's answer for a blob about which it is to be wrong.
pub const LIE: &str = "application/x-lie";

/// Whether the prefilter is to be wrong about it.
pub fn is_lied_about(id: &BlobId) -> bool {
    effect_of(id) == Some("lie")
}

/// What is to happen with a blob, if anything.
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
