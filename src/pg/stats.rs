//! The server's counters of what has been done to a table, by which a run learns what others do beside it.
//!
//! A backend counts for itself, and publishes what it has counted when it is idle outside a transaction: at most once a
//! second, and otherwise after ten seconds, so what it has committed is counted late, but is counted. And it is visible
//! to others before: PostgreSQL leaves the array of running transactions (`ProcArrayEndTransaction` in `CommitTransaction`,
//! access/transam/xact.c) long before it is idle. So who reads a counter first, and takes a snapshot then, sees
//! all rows that are counted there; and of rows that the snapshot doesn't see the counter tells later, being another one.

use pgrx::pg_sys;

use super::version;

/// What has been done to a table since its counters were made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Rows inserted, and rows updated.
    pub written: u64,
    pub deleted: u64,
}

/// What has been published of a table by now.
pub fn counted(table: pg_sys::Oid) -> Counted {
    // What the user's setting of stats_fetch_consistency may ask for instead is the counters as they were when this
    // transaction looked first, or even those of all tables at that moment.
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

/// When counters of this database, and of the server, were reset last, in PostgreSQL's microseconds; 0 if they never were.
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

/// Runs `work`, to whose statements counters are those of now.
pub fn as_of_now<T>(work: impl FnOnce() -> T) -> T {
    let _now = Now::begin();
    work()
}

/// As long as this lives, counters are those of now.
struct Now(std::ffi::c_int);

impl Now {
    fn begin() -> Now {
        let none = pg_sys::PgStat_FetchConsistency::PGSTAT_FETCH_CONSISTENCY_NONE;
        // SAFETY: this process's own variable; PostgreSQL looks at it whenever it reads a counter.
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

/// What this process has done to a table, or tried to, and has not published yet. What a transaction does that goes on
/// isn't counted.
pub fn unpublished_here(table: pg_sys::Oid) -> Counted {
    // SAFETY: reads this process's own counters.
    let (written, deleted) = unsafe { version::pending_writes(table) };
    Counted { written, deleted }
}

/// Of that, rows inserted or updated.
pub fn written_here(table: pg_sys::Oid) -> u64 {
    unpublished_here(table).written
}

/// Publishes what this process has counted, as a regular backend does when it becomes idle. Without it autovacuum would
/// not hear of our dead rows. Outside a transaction.
pub fn publish() {
    // SAFETY: outside a transaction, as pgstat_report_stat demands; it limits its own rate.
    unsafe { pg_sys::pgstat_report_stat(false) };
}

/// The same at once, all of it.
pub fn publish_now() {
    // SAFETY: as above.
    unsafe { pg_sys::pgstat_report_stat(true) };
}

/// Does this process count at all? `track_counts` is a superuser's setting, for the server or for a session.
pub fn are_kept() -> bool {
    // SAFETY: reads a setting.
    unsafe { pg_sys::pgstat_track_counts }
}
