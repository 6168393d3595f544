//! File descriptors that PostgreSQL doesn't open itself, but has to know of: what it keeps open of tables is fitted
//! to the limits of the process (the comment at the head of storage/file/fd.c).

use pgrx::pg_sys;

/// Takes into account up to `count` more descriptors, for the rest of this process's life; returns how many it may
/// use. PostgreSQL grants others a third of what there is.
pub fn reserve(count: usize) -> usize {
    // SAFETY: counts in backend-local variables, and closes some of PostgreSQL's own files if that is needed.
    (0..count)
        .take_while(|_| unsafe { pg_sys::AcquireExternalFD() })
        .count()
}
