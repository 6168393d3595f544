//! The server's counters of changes to a table, which tell a run what others do at the same time.
//!
//! A backend counts its own changes and publishes the counts when it is idle outside a transaction: at most once a
//! second, and otherwise after ten seconds. So what it has committed is counted late, but it is counted. And it is
//! visible to others earlier: PostgreSQL leaves the array of running transactions (`ProcArrayEndTransaction` in
//! `CommitTransaction`, access/transam/xact.c) long before it is idle. So if a counter is read first and a snapshot
//! is taken then, the snapshot sees all rows that are in the counter; and rows that the snapshot doesn't see will
//! change the counter later.

use pgrx::pg_sys;

use super::version;

/// What has been done to a table since its counters were created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Rows inserted plus rows updated.
    pub written: u64,
    pub deleted: u64,
}

/// What has been published about a table by now.
pub fn counted(table: pg_sys::Oid) -> Counted {
    // The user's setting of stats_fetch_consistency may instead ask for the counters as of this transaction's first
    // access, or even for all tables' counters as of that moment.
    let _now = Now::begin();
    // SAFETY: a copy of a plain struct, or NULL if nothing has been counted.
    unsafe {
        let entry = pg_sys::pgstat_fetch_stat_tabentry(table);
        let Some(counters) = entry.as_ref() else {
            return Counted::default();
        };
        let counted = Counted {
            written: (counters.tuples_inserted + counters.tuples_updated) as u64,
            deleted: counters.tuples_deleted as u64,
        };
        pg_sys::pfree(entry.cast());
        counted
    }
}

/// When the counters of this database, and those of the server, were last reset, in PostgreSQL's microseconds; 0 if
/// never.
pub fn reset_times() -> (i64, i64) {
    let _now = Now::begin();
    // SAFETY: copies of plain structs, or NULL.
    unsafe {
        let database = pg_sys::pgstat_fetch_stat_dbentry(pg_sys::MyDatabaseId);
        let server = pg_sys::pgstat_fetch_stat_bgwriter();
        (
            database
                .as_ref()
                .map_or(0, |database| database.stat_reset_timestamp),
            server
                .as_ref()
                .map_or(0, |server| server.stat_reset_timestamp),
        )
    }
}

/// Runs `work`, whose statements see the current counters.
pub fn as_of_now<T>(work: impl FnOnce() -> T) -> T {
    let _now = Now::begin();
    work()
}

/// While this lives, the current counters are read.
struct Now(std::ffi::c_int);

impl Now {
    fn begin() -> Now {
        let none = pg_sys::PgStat_FetchConsistency::PGSTAT_FETCH_CONSISTENCY_NONE;
        // SAFETY: a variable of this process; PostgreSQL reads it whenever it reads a counter.
        unsafe {
            let before = pg_sys::pgstat_fetch_consistency;
            pg_sys::pgstat_fetch_consistency = none as std::ffi::c_int;
            Now(before)
        }
    }
}

impl Drop for Now {
    fn drop(&mut self) {
        // SAFETY: as above.
        unsafe { pg_sys::pgstat_fetch_consistency = self.0 };
    }
}

/// What this process has done to a table, or tried to do, and has not published yet, without the transaction that is
/// in progress.
pub fn unpublished_here(table: pg_sys::Oid) -> Counted {
    // SAFETY: reads this process's own counters.
    let (written, deleted) = unsafe { version::pending_writes(table) };
    Counted { written, deleted }
}

/// The rows inserted or updated among these.
pub fn written_here(table: pg_sys::Oid) -> u64 {
    unpublished_here(table).written
}

/// Publishes this process's counts, as a regular backend does when it becomes idle. Otherwise autovacuum would not
/// learn of our dead rows. Must be called outside a transaction.
pub fn publish() {
    // SAFETY: outside a transaction, as pgstat_report_stat requires; it limits its own rate.
    unsafe { pg_sys::pgstat_report_stat(false) };
}

/// Publishes all of them at once.
pub fn publish_now() {
    // SAFETY: as above.
    unsafe { pg_sys::pgstat_report_stat(true) };
}

/// Whether this process counts at all. `track_counts` is a superuser's setting, for the server or for a session.
pub fn are_kept() -> bool {
    // SAFETY: reads a setting.
    unsafe { pg_sys::pgstat_track_counts }
}
