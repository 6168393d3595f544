//! What the sessions of the server are doing right now.

use pgrx::pg_sys;

/// The class of a wait event, in its number.
const WAIT_CLASS: u32 = 0xFF00_0000;

/// A process that is connected to a database.
pub struct Process {
    pub pid: i32,
    /// The number of the event for which it waits; 0 for none.
    wait: u32,
}

impl Process {
    /// Whether it executes something, or waits for something that takes processors or the disk and will soon be there.
    /// A process that waits for its client, for a lock, for another process or for a time doesn't.
    pub fn is_at_work(&self) -> bool {
        matches!(
            self.wait & WAIT_CLASS,
            0 | pg_sys::PG_WAIT_LWLOCK | pg_sys::PG_WAIT_IO
        )
    }

    /// Whether it waits for a lock on a table, a row or the like.
    pub fn is_locked_out(&self) -> bool {
        self.wait & WAIT_CLASS == pg_sys::PG_WAIT_LOCK
    }
}

/// Calls `each` with the processes of all sessions, this one's included, and with background workers. Left out are the
/// server's own processes, and autovacuum's workers, which have limits of their own.
///
/// The statement behind pg_stat_activity copies what all sessions are executing, which is too much for a question that
/// is asked many times a second. Nothing is locked here, so a process that begins or ends meanwhile may be left out.
pub fn of_sessions(mut each: impl FnMut(Process)) {
    // SAFETY: the array lives in shared memory as long as the server. Its fields are read as other processes change
    // them, each in one piece (PostgreSQL's own readers of wait_event_info do the same), and only compared.
    unsafe {
        let all = pg_sys::ProcGlobal;
        for n in 0..(*all).allProcCount as usize {
            let process = (*all).allProcs.add(n);
            let pid = (&raw const (*process).pid).read_volatile();
            let wait = (&raw const (*process).wait_event_info).read_volatile();
            let flags = (&raw const (*process).statusFlags).read_volatile();
            let database = (&raw const (*process).databaseId).read_volatile();
            let is_autovacuum = u32::from(flags) & pg_sys::PROC_IS_AUTOVACUUM != 0;
            if pid != 0 && database != pg_sys::InvalidOid && !is_autovacuum {
                each(Process { pid, wait });
            }
        }
    }
}
