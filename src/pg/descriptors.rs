//! File descriptors that PostgreSQL doesn't open itself but must know of, because it keeps as many files of tables
//! open as the limits of the process allow (see the comment at the top of storage/file/fd.c).

use pgrx::pg_sys;

/// Left to others in this process: PostgreSQL itself takes one for each wait on a socket, and a user's trigger may
/// open a connection.
const SPARE: usize = 8;

/// Reserves up to `count` more descriptors for the rest of this process's life; returns how many it may use.
/// PostgreSQL grants others a third of all descriptors.
pub fn reserve(count: usize) -> usize {
    // SAFETY: changes backend-local counters, and closes some of PostgreSQL's own files if necessary.
    let granted = (0..count + SPARE)
        .take_while(|_| unsafe { pg_sys::AcquireExternalFD() })
        .count();
    let spared = granted.min(SPARE);
    // SAFETY: at least as many have been acquired.
    (0..spared).for_each(|_| unsafe { pg_sys::ReleaseExternalFD() });
    granted - spared
}
