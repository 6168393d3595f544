//! Within which bounds the server's counters of a table can be compared.
//!
//! Counters only grow, but for what this is about: they begin anew in another database or another server, they are lost in
//! a crash, stay behind in a copy or a standby, and can be reset. An epoch is one number for all of that: as long as it is
//! the same, counters have not been anything but counted up.
//!
//! - The system's identifier, the timeline and the start of the server: a copy that is written to by itself, a standby that
//!   has been promoted, `pg_upgrade` and each restart, before which a data directory may have been put back, are others.
//! - The database: `CREATE DATABASE … TEMPLATE` copies tables with their oids and files, and no counters.
//! - The time when counters of this database were reset last: all of them, or of one table, which PostgreSQL notes here as
//!   well (`pgstat_reset` in utils/activity/pgstat.c); and the time of the whole server's, which is noted after a crash.

use pgrx::pg_sys;
use sha2::{Digest, Sha256};

use super::stats;

/// The epoch that goes on now.
pub fn now() -> i64 {
    let (database, server) = stats::reset_times();
    // SAFETY: reads what is set at the server's start, or with the connection; no run is begun in recovery.
    let (system, timeline, started, oid) = unsafe {
        (
            pg_sys::GetSystemIdentifier(),
            pg_sys::GetWALInsertionTimeLine(),
            pg_sys::PgStartTime,
            pg_sys::MyDatabaseId.to_u32(),
        )
    };
    let mut hash = Sha256::new();
    hash.update(system.to_le_bytes());
    for part in [u64::from(timeline), u64::from(oid)] {
        hash.update(part.to_le_bytes());
    }
    for time in [started, database, server] {
        hash.update(time.to_le_bytes());
    }
    let hash: [u8; 32] = hash.finalize().into();
    i64::from_le_bytes(std::array::from_fn(|at| hash[at]))
}
