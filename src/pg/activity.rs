//! What other sessions of the server are doing right now.

use pgrx::pg_sys;

/// The class of a wait event, in its number.
const WAIT_CLASS: u32 = 0xFF00_0000;

/// How many processes of other sessions are working at this moment: they execute something, or wait for something
/// that takes processors or the disk and will soon be there. Those that wait for a client, for a lock, for another
/// process or for a time aren't, nor are autovacuum's workers, which have their own limits, and the server's own
/// processes. `is_ours` says whether a process, by its pid, belongs to the caller.
///
/// What pg_stat_activity shows is not enough for this: it copies all sessions' statements. Nothing is locked, so a
/// process that begins or ends meanwhile may be counted or not.
pub fn sessions_at_work(is_ours: impl Fn(i32) -> bool) -> u32 {
    // SAFETY: the array lives in shared memory as long as the server. Its fields are read as other processes change
    // them, each in one piece (PostgreSQL's own readers of wait_event_info do the same), and only compared.
    unsafe {
        let all = pg_sys::ProcGlobal;
        let processes = 0..(*all).allProcCount as usize;
        let at_work = processes.filter(|n| {
            let process = (*all).allProcs.add(*n);
            let pid = (&raw const (*process).pid).read_volatile();
            let wait = (&raw const (*process).wait_event_info).read_volatile();
            let flags = (&raw const (*process).statusFlags).read_volatile();
            let database = (&raw const (*process).databaseId).read_volatile();
            pid != 0
                && database != pg_sys::InvalidOid
                && u32::from(flags) & pg_sys::PROC_IS_AUTOVACUUM == 0
                && takes_processors(wait)
                && !is_ours(pid)
        });
        at_work.count() as u32
    }
}

/// Whether a process with this wait event, 0 for none, is at work.
fn takes_processors(wait: u32) -> bool {
    matches!(
        wait & WAIT_CLASS,
        0 | pg_sys::PG_WAIT_LWLOCK | pg_sys::PG_WAIT_IO
    )
}
