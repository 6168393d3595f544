//! File descriptors that PostgreSQL doesn't open itself, but has to know of: what it keeps open of tables is fitted
//! to the limits of the process (the comment at the head of storage/file/fd.c).

use pgrx::pg_sys;

/// What is left to others in this process: PostgreSQL takes one itself for each wait on a socket, and a user's
/// trigger may call what opens a connection.
const SPARE: usize = 8;

/// Takes into account up to `count` more descriptors, for the rest of this process's life; returns how many it may
/// use. PostgreSQL grants others a third of what there is.
pub fn reserve(count: usize) -> usize {
    // SAFETY: counts in backend-local variables, and closes some of PostgreSQL's own files if that is needed.
    let granted = (0..count + SPARE)
        .take_while(|_| unsafe { pg_sys::AcquireExternalFD() })
        .count();
    let spared = granted.min(SPARE);
    // SAFETY: as many as have been taken at least.
    (0..spared).for_each(|_| unsafe { pg_sys::ReleaseExternalFD() });
    granted - spared
}
