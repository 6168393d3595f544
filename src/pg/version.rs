//! Everything that differs between PostgreSQL 15 and 18, and what pgrx's bindings leave out.

use std::time::Duration;

use pgrx::pg_sys;
use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;

unsafe extern "C-unwind" {
    /// catalog/partition.h. The OIDs from the direct parent up to the root.
    fn get_partition_ancestors(relid: pg_sys::Oid) -> *mut pg_sys::List;
    /// utils/partcache.h. Builds and caches a partition's constraint.
    fn RelationGetPartitionQual(rel: pg_sys::Relation) -> *mut pg_sys::List;
    /// tcop/tcopprot.h. A backend's handler for SIGTERM. pgrx's binding of it is a Rust function, which can't be a
    /// signal handler.
    fn die(signal: std::ffi::c_int);
    /// libpq/libpq.h. False once the client has closed its end of the connection.
    fn pq_check_connection() -> bool;
    /// utils/timeout.h. Registers a timeout of this process; ends the process if there are too many.
    fn RegisterTimeout(id: u32, handler: unsafe extern "C-unwind" fn()) -> u32;
    /// utils/timeout.h. Fires at a given time, and then at an interval in milliseconds.
    fn enable_timeout_every(id: u32, first: pg_sys::TimestampTz, every: std::ffi::c_int);
    /// utils/timeout.h.
    fn disable_timeout(id: u32, keep_indicator: bool);
    /// utils/elog.h. Raises an error that was copied from elsewhere, or sends a message of any other level.
    fn ThrowErrorData(error: *mut pg_sys::ErrorData);
}

/// The name of one of our wait events in pg_stat_activity. Before PostgreSQL 17 all of an extension's are
/// "Extension".
#[cfg(not(any(feature = "pg17", feature = "pg18")))]
pub fn wait_event(_name: &'static std::ffi::CStr) -> u32 {
    pg_sys::PG_WAIT_EXTENSION
}

/// The name of one of our wait events in pg_stat_activity.
#[cfg(any(feature = "pg17", feature = "pg18"))]
pub fn wait_event(name: &'static std::ffi::CStr) -> u32 {
    // SAFETY: the name is copied; the same name gets the same number in all processes.
    unsafe { pg_sys::WaitEventExtensionNew(name.as_ptr()) }
}

/// Settings, besides `statement_timeout`, and the values with which a transaction isn't ended for its age.
#[cfg(not(any(feature = "pg17", feature = "pg18")))]
pub const NO_TIMEOUTS: [(&std::ffi::CStr, &std::ffi::CStr); 0] = [];

/// Settings, besides `statement_timeout`, and the values with which a transaction isn't ended for its age.
#[cfg(any(feature = "pg17", feature = "pg18"))]
pub const NO_TIMEOUTS: [(&std::ffi::CStr, &std::ffi::CStr); 1] = [(c"transaction_timeout", c"0")];

/// Distinguishes statements in statistics.
#[cfg(not(feature = "pg18"))]
pub type QueryId = u64;

/// Distinguishes statements in statistics.
#[cfg(feature = "pg18")]
pub type QueryId = i64;

/// Makes SIGTERM end this process as it ends a regular backend: at the next check for interrupts, even during a
/// statement.
pub fn die_of_sigterm() {
    handle(pg_sys::SIGTERM, die);
}

/// SIGQUIT, with which a server ends all its processes after a crash or in an immediate shutdown, does the same as in
/// any background worker. Before that it records that the current blob isn't to blame.
pub fn mark_clean_exit_at_sigquit() {
    unsafe extern "C-unwind" fn quit(_signal: std::ffi::c_int) {
        ntt_mime_core::in_flight::mark_clean_exit();
        // As in SignalHandlerForCrashExit in postmaster/interrupt.c, and for the same reasons. SAFETY:
        // async-signal-safe.
        unsafe { libc::_exit(2) };
    }
    handle(pg_sys::SIGQUIT, quit);
}

fn handle(signal: u32, handler: unsafe extern "C-unwind" fn(std::ffi::c_int)) {
    // From PostgreSQL 18 on `pqsignal` is a macro, because client programs have a different function.
    #[cfg(not(feature = "pg18"))]
    use pg_sys::pqsignal;
    #[cfg(feature = "pg18")]
    use pg_sys::pqsignal_be as pqsignal;
    // SAFETY: the handlers above, which are async-signal-safe in any process with a PGPROC.
    unsafe { pqsignal(signal as i32, Some(handler)) };
}

/// Whether this session's client is still connected. True if there is no client, as in one of pg_cron's background
/// workers.
pub fn client_is_there() -> bool {
    // SAFETY: MyProcPort is NULL in a process without a client. The boundary turns PostgreSQL's errors into Rust's
    // unwinding.
    unsafe { pg_sys::MyProcPort.is_null() || pg_guard_ffi_boundary(|| pq_check_connection()) }
}

/// Whether a message of some hundred bytes can be sent to the client at once. It can't be if the client doesn't read.
/// True if there is no client.
pub fn client_reads() -> bool {
    // SAFETY: MyProcPort is NULL in a process without a client. The socket is the first field of a Port
    // (libpq/libpq-be.h), which isn't in the bindings.
    let socket = unsafe {
        let port = pg_sys::MyProcPort.cast::<std::ffi::c_int>();
        if port.is_null() {
            return true;
        }
        *port
    };
    let mut asked = libc::pollfd {
        fd: socket,
        events: libc::POLLOUT,
        revents: 0,
    };
    // Linux calls a socket writable when a good part of its buffer is free. SAFETY: one entry, which outlives the
    // call. An error is left to whoever writes.
    unsafe { libc::poll(&mut asked, 1, 0) != 0 }
}

/// `USER_TIMEOUT` of PostgreSQL's utils/timeout.h.
const USER_TIMEOUT: u32 = match cfg!(any(feature = "pg17", feature = "pg18")) {
    false => 12,
    true => 13,
};

/// Registers a timeout of this process, at which a signal handler calls `handler`. Must be called once; returns the
/// timeout's id.
pub fn register_timeout(handler: extern "C-unwind" fn()) -> u32 {
    // SAFETY: every process that has a database has set up its timeouts at its start.
    unsafe { RegisterTimeout(USER_TIMEOUT, handler) }
}

/// Starts our timeout: it fires after `first`, and then at intervals of `every`.
pub fn start_timeout(timeout: u32, first: Duration, every: Duration) {
    // SAFETY: a registered timeout.
    unsafe {
        let first = pg_sys::GetCurrentTimestamp() + first.as_micros() as i64;
        enable_timeout_every(timeout, first, every.as_millis() as std::ffi::c_int);
    }
}

/// Stops it. Raises no error.
pub fn stop_timeout(timeout: u32) {
    // SAFETY: a registered timeout.
    unsafe { disable_timeout(timeout, false) };
}

/// Raises an error with its SQLSTATE unchanged; pgrx knows only the SQLSTATEs of its enumeration.
///
/// # Safety
/// Leaves by longjmp, not by unwinding: between here and PostgreSQL's function manager there must be no Rust frame
/// with anything to drop.
pub unsafe fn throw(error: *mut pg_sys::ErrorData) -> ! {
    // SAFETY: the caller's promise.
    unsafe { ThrowErrorData(error) };
    unreachable!("an error does not return")
}

/// Sends a message below the level of an error.
///
/// # Safety
/// The level is below ERROR, and the texts are C strings or NULL.
pub unsafe fn send(message: *mut pg_sys::ErrorData) {
    // SAFETY: the caller's promise. The boundary turns PostgreSQL's errors into Rust's unwinding.
    unsafe { pg_guard_ffi_boundary(|| ThrowErrorData(message)) }
}

/// The OIDs of the partitioned tables above a partition.
///
/// # Safety
/// Inside a transaction. The result can change unless `leaf` is locked.
pub unsafe fn partition_ancestors(leaf: pg_sys::Oid) -> *mut pg_sys::List {
    // SAFETY: the caller's promise. The boundary turns PostgreSQL's errors into Rust's unwinding.
    unsafe { pg_guard_ffi_boundary(|| get_partition_ancestors(leaf)) }
}

/// Rows of a table that this process has inserted or updated, or tried to, and rows that it has deleted, that it has
/// not published yet; only those of transactions that have ended.
///
/// # Safety
/// Outside a transaction.
pub unsafe fn pending_writes(table: pg_sys::Oid) -> (u64, u64) {
    // SAFETY: NULL, or this process's counters; from PostgreSQL 16 on a copy of them.
    unsafe {
        let status = pg_sys::find_tabstat_entry(table);
        if status.is_null() {
            return (0, 0);
        }
        #[cfg(feature = "pg15")]
        let (written, deleted) = {
            let counts = (*status).t_counts;
            (
                counts.t_tuples_inserted + counts.t_tuples_updated,
                counts.t_tuples_deleted,
            )
        };
        #[cfg(not(feature = "pg15"))]
        let (written, deleted) = {
            let counts = (*status).counts;
            (
                counts.tuples_inserted + counts.tuples_updated,
                counts.tuples_deleted,
            )
        };
        #[cfg(not(feature = "pg15"))]
        pg_sys::pfree(status.cast());
        (written as u64, deleted as u64)
    }
}

/// The file with the rows of an open relation: its tablespace and its relfilenumber. It doesn't change while the
/// relation is locked.
///
/// # Safety
/// `relation` must be open, and of a kind that has storage.
pub unsafe fn file_of(relation: pg_sys::Relation) -> (pg_sys::Oid, pg_sys::Oid) {
    // SAFETY: the caller's promise.
    unsafe {
        #[cfg(feature = "pg15")]
        {
            let file = (*relation).rd_node;
            (file.spcNode, file.relNode)
        }
        #[cfg(not(feature = "pg15"))]
        {
            let file = (*relation).rd_locator;
            (file.spcOid, file.relNumber)
        }
    }
}

/// Builds a partition's constraint in the relation cache. Locks its parents until the end of the transaction.
///
/// # Safety
/// `relation` must be open.
pub unsafe fn build_partition_constraint(relation: pg_sys::Relation) {
    // SAFETY: as above.
    unsafe { pg_guard_ffi_boundary(|| RelationGetPartitionQual(relation)) };
}

/// Whether a role has USAGE on a schema.
///
/// # Safety
/// Inside a transaction; the schema exists.
pub unsafe fn may_use_schema(role: pg_sys::Oid, schema: pg_sys::Oid) -> bool {
    let mode = pg_sys::ACL_USAGE as pg_sys::AclMode;
    // SAFETY: the caller's promise.
    #[cfg(feature = "pg15")]
    let result = unsafe { pg_sys::pg_namespace_aclcheck(schema, role, mode) };
    // SAFETY: the caller's promise.
    #[cfg(not(feature = "pg15"))]
    let result =
        unsafe { pg_sys::object_aclcheck(pg_sys::NamespaceRelationId, schema, role, mode) };
    result == pg_sys::AclResult::ACLCHECK_OK
}

/// Makes a kept plan believe that it was analyzed with the current search path. PostgreSQL analyzes a statement again
/// under another search path, because a name in it might mean something else; all names in our statements are
/// qualified.
///
/// # Safety
/// A complete plan source, inside a transaction.
pub unsafe fn rebase_search_path(source: *mut pg_sys::CachedPlanSource) {
    // From PostgreSQL 17 on these have other names.
    #[cfg(not(any(feature = "pg17", feature = "pg18")))]
    use pg_sys::{
        GetOverrideSearchPath as current, OverrideSearchPathMatchesCurrent as is_current,
    };
    #[cfg(any(feature = "pg17", feature = "pg18"))]
    use pg_sys::{
        GetSearchPathMatcher as current, SearchPathMatchesCurrentEnvironment as is_current,
    };
    // SAFETY: the caller's promise. What is allocated lives as long as the analyzed statement to which it belongs.
    unsafe {
        if !is_current((*source).search_path) {
            (*source).search_path = current((*source).query_context);
        }
    }
}

/// Makes `query` check the privileges that it needs on a relation for a role that has them, and, if the relation is a
/// partition, ignore the partition's own policies.
///
/// PostgreSQL checks privileges on a partitioned table against that table only, not against the partitions to which
/// the planner expands it (`expand_single_inheritance_child` in optimizer/util/inherit.c gives these no required
/// permissions), and it applies only the partitioned table's policies. We name the leaf ourselves, and its rows by
/// their TIDs, a system column on which nobody is granted privileges. So we check the privileges on the target
/// beforehand, and here those on the leaf for a role that passes. The check is not redundant: auditing extensions see
/// in it what a statement does. Up to PostgreSQL 15 the required privileges are in the range table entry, from 16 on
/// in a list of their own.
///
/// # Safety
/// `query` must be an analyzed and rewritten query that nobody else uses, inside a transaction.
pub unsafe fn ask_as(
    query: *mut pg_sys::Query,
    relation: pg_sys::Oid,
    is_partition: bool,
    who: pg_sys::Oid,
) {
    // SAFETY: the caller's promise.
    unsafe {
        each_query(query, &mut |query| {
            for entry in range_table(query).filter(|e| (**e).relid == relation) {
                #[cfg(feature = "pg15")]
                {
                    (*entry).checkAsUser = who;
                }
                if is_partition {
                    (*entry).securityQuals = std::ptr::null_mut();
                }
            }
            #[cfg(not(feature = "pg15"))]
            {
                let infos = (*query).rteperminfos;
                let infos = pgrx::PgList::<pg_sys::RTEPermissionInfo>::from_pg(infos);
                for info in infos.iter_ptr().filter(|i| (**i).relid == relation) {
                    (*info).checkAsUser = who;
                }
            }
            if is_partition {
                (*query).withCheckOptions = std::ptr::null_mut();
                // Otherwise the plan would depend on the role.
                (*query).hasRowSecurity = false;
            }
        });
    }
}

/// Takes the locks that PostgreSQL takes before it plans or executes an analyzed statement again. New locks make it
/// process invalidations; here that happens before we check whether the statement is still valid.
///
/// # Safety
/// As for [`ask_as`].
pub unsafe fn lock_relations(query: *mut pg_sys::Query) {
    // SAFETY: the caller's promise.
    unsafe {
        each_query(query, &mut |query| {
            for entry in range_table(query) {
                use pg_sys::RTEKind::{RTE_RELATION, RTE_SUBQUERY};
                let relation = (*entry).relid;
                let kind = (*entry).rtekind;
                if matches!(kind, RTE_RELATION | RTE_SUBQUERY) && relation != pg_sys::InvalidOid {
                    pg_sys::LockRelationOid(relation, (*entry).rellockmode);
                }
            }
        });
    }
}

/// Calls `work` with a query and the queries in its WITH and FROM clauses. Those in expressions, which only rules
/// could add to ours, are left out.
unsafe fn each_query(query: *mut pg_sys::Query, work: &mut impl FnMut(*mut pg_sys::Query)) {
    // SAFETY: the lists of a Query contain nodes of the given types. The query of a common table expression is a
    // Query once it has been analyzed.
    unsafe {
        work(query);
        let expressions = pgrx::PgList::<pg_sys::CommonTableExpr>::from_pg((*query).cteList);
        let in_with: Vec<_> = expressions
            .iter_ptr()
            .map(|expression| (*expression).ctequery.cast())
            .collect();
        let in_from: Vec<_> = range_table(query)
            .map(|entry| (*entry).subquery)
            .filter(|subquery| !subquery.is_null())
            .collect();
        for inner in in_with.into_iter().chain(in_from) {
            each_query(inner, work);
        }
    }
}

/// The entries of a query's range table.
unsafe fn range_table(
    query: *mut pg_sys::Query,
) -> impl Iterator<Item = *mut pg_sys::RangeTblEntry> {
    // SAFETY: a range table is a list of such entries.
    let entries = unsafe { pgrx::PgList::<pg_sys::RangeTblEntry>::from_pg((*query).rtable) };
    (0..entries.len()).filter_map(move |at| entries.get_ptr(at))
}
