//! The period within which the server's counters of a table can be compared.
//!
//! Counters only grow, with these exceptions: they start again in another database or another server, they are lost
//! in a crash, they are not part of a copy or a standby, and they can be reset. An epoch is one number for all of
//! that: as long as it is the same, counters have only been incremented.
//!
//! - The system identifier, the timeline and the start of the server: they change for a copy that is written to
//!   separately, for a promoted standby, after `pg_upgrade`, and at each restart, before which somebody may have
//!   restored a data directory.
//! - The database: `CREATE DATABASE … TEMPLATE` copies tables with their OIDs and files, but without counters.
//! - The time of the last reset of this database's counters, all of them or those of one table, which PostgreSQL
//!   records here as well (`pgstat_reset` in utils/activity/pgstat.c); and that of the whole server's, which is set
//!   after a crash.

use pgrx::pg_sys;
use sha2::{Digest, Sha256};

use super::stats;

/// The current epoch.
pub fn now() -> i64 {
    let (database, server) = stats::reset_times();
    // SAFETY: reads what is set at the server's start, or with the connection; no run starts during recovery.
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
