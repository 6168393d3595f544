//! What differs between PostgreSQL 15 and 18, and what pgrx's bindings leave out: all in one place.

use std::time::Duration;

use pgrx::pg_sys;
use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;

unsafe extern "C-unwind" {
    /// catalog/partition.h. The oids from the direct parent up to the root.
    fn get_partition_ancestors(relid: pg_sys::Oid) -> *mut pg_sys::List;
    /// utils/partcache.h. Builds and caches a partition's constraint.
    fn RelationGetPartitionQual(rel: pg_sys::Relation) -> *mut pg_sys::List;
    /// tcop/tcopprot.h. A backend's handler of SIGTERM; pgrx's binding of it is a Rust function,
    /// which can't be a signal handler.
    fn die(signal: std::ffi::c_int);
    /// libpq/libpq.h. False once the client has closed its end of the connection.
    fn pq_check_connection() -> bool;
    /// utils/timeout.h. Takes a timeout of a process's own; ends the process if there are too many.
    fn RegisterTimeout(id: u32, handler: unsafe extern "C-unwind" fn()) -> u32;
    /// utils/timeout.h. From a time on, so often; in milliseconds.
    fn enable_timeout_every(id: u32, first: pg_sys::TimestampTz, every: std::ffi::c_int);
    /// utils/timeout.h.
    fn disable_timeout(id: u32, keep_indicator: bool);
    /// utils/elog.h. Raises an error that was copied from elsewhere, or sends a message of any other level.
    fn ThrowErrorData(error: *mut pg_sys::ErrorData);
}

/// What pg_stat_activity calls a kind of wait of ours; before PostgreSQL 17 all of an extension's are "Extension".
#[cfg(not(any(feature = "pg17", feature = "pg18")))]
pub fn wait_event(_name: &'static std::ffi::CStr) -> u32 {
    pg_sys::PG_WAIT_EXTENSION
}

/// What pg_stat_activity calls a kind of wait of ours.
#[cfg(any(feature = "pg17", feature = "pg18"))]
pub fn wait_event(name: &'static std::ffi::CStr) -> u32 {
    // SAFETY: the name is copied; the same name gets the same number in all processes.
    unsafe { pg_sys::WaitEventExtensionNew(name.as_ptr()) }
}

/// Settings, and their values, by which a transaction isn't ended for its age, besides `statement_timeout`.
#[cfg(not(any(feature = "pg17", feature = "pg18")))]
pub const NO_TIMEOUTS: [(&std::ffi::CStr, &std::ffi::CStr); 0] = [];

/// Settings, and their values, by which a transaction isn't ended for its age, besides `statement_timeout`.
#[cfg(any(feature = "pg17", feature = "pg18"))]
pub const NO_TIMEOUTS: [(&std::ffi::CStr, &std::ffi::CStr); 1] = [(c"transaction_timeout", c"0")];

/// What tells statements from others in statistics.
#[cfg(not(feature = "pg18"))]
pub type QueryId = u64;

/// What tells statements from others in statistics.
#[cfg(feature = "pg18")]
pub type QueryId = i64;

/// Has SIGTERM end this process as it ends a regular backend: at the next check for interrupts, in the
/// midst of a statement too.
pub fn die_of_sigterm() {
    handle(pg_sys::SIGTERM, die);
}

/// Has SIGQUIT, by which a server ends all its processes at once after a crash or in an immediate
/// shutdown, do the same as in any background worker, after a word that the blob at hand isn't to blame.
pub fn mark_clean_exit_at_sigquit() {
    unsafe extern "C-unwind" fn quit(_signal: std::ffi::c_int) {
        ntt_mime_core::in_flight::mark_clean_exit();
        // As SignalHandlerForCrashExit in postmaster/interrupt.c, and for its reasons.
        // SAFETY: async-signal-safe.
        unsafe { libc::_exit(2) };
    }
    handle(pg_sys::SIGQUIT, quit);
}

fn handle(signal: u32, handler: unsafe extern "C-unwind" fn(std::ffi::c_int)) {
    // From PostgreSQL 18 on `pqsignal` is a macro, since programs have a function of their own.
    #[cfg(not(feature = "pg18"))]
    use pg_sys::pqsignal;
    #[cfg(feature = "pg18")]
    use pg_sys::pqsignal_be as pqsignal;
    // SAFETY: the handlers above, async-signal-safe in any process with a PGPROC.
    unsafe { pqsignal(signal as i32, Some(handler)) };
}

/// Is the client of this session still there? True where there is none: in a background worker of
/// pg_cron's, say.
pub fn client_is_there() -> bool {
    // SAFETY: MyProcPort is NULL in a process without a client; the boundary turns PostgreSQL's errors into
    // Rust's unwinding.
    unsafe { pg_sys::MyProcPort.is_null() || pg_guard_ffi_boundary(|| pq_check_connection()) }
}

/// Can the client be sent a message of some hundred bytes at once? It can't if it doesn't read. True where there is no
/// client.
pub fn client_reads() -> bool {
    // SAFETY: MyProcPort is NULL in a process without a client; the socket is the first field of a Port
    // (libpq/libpq-be.h), of which the bindings know nothing.
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
    // Linux calls a socket writable when there is room for a good part of what it may hold.
    // SAFETY: one entry, which outlives the call. An error is for whoever writes to find.
    unsafe { libc::poll(&mut asked, 1, 0) != 0 }
}

/// `USER_TIMEOUT` of PostgreSQL's utils/timeout.h.
const USER_TIMEOUT: u32 = match cfg!(any(feature = "pg17", feature = "pg18")) {
    false => 12,
    true => 13,
};

/// Takes a timeout of this process's own, at which `handler` is called, by a signal handler. Once; returns its number.
pub fn register_timeout(handler: extern "C-unwind" fn()) -> u32 {
    // SAFETY: timeouts are set up at the start of each process that has a database.
    unsafe { RegisterTimeout(USER_TIMEOUT, handler) }
}

/// Starts a timeout of ours: after that time, and from then on so often.
pub fn start_timeout(timeout: u32, first: Duration, every: Duration) {
    // SAFETY: one that has been registered.
    unsafe {
        let first = pg_sys::GetCurrentTimestamp() + first.as_micros() as i64;
        enable_timeout_every(timeout, first, every.as_millis() as std::ffi::c_int);
    }
}

/// Stops it. Raises no error.
pub fn stop_timeout(timeout: u32) {
    // SAFETY: one that has been registered.
    unsafe { disable_timeout(timeout, false) };
}

/// Raises an error with its SQLSTATE as it is; pgrx's way knows those of its enumeration only.
///
/// # Safety
/// Leaves by longjmp, not by unwinding: between here and PostgreSQL's function manager there must be
/// no Rust frame with anything to drop.
pub unsafe fn throw(error: *mut pg_sys::ErrorData) -> ! {
    // SAFETY: the caller's promise.
    unsafe { ThrowErrorData(error) };
    unreachable!("an error does not return")
}

/// Sends a message that is no error.
///
/// # Safety
/// The level is below ERROR, and the texts are C strings or NULL.
pub unsafe fn send(message: *mut pg_sys::ErrorData) {
    // SAFETY: the caller's promise; the boundary turns PostgreSQL's errors into Rust's unwinding.
    unsafe { pg_guard_ffi_boundary(|| ThrowErrorData(message)) }
}

/// The oids of the partitioned tables above a partition.
///
/// # Safety
/// Inside a transaction. What is found can change, unless a lock is held on `leaf`.
pub unsafe fn partition_ancestors(leaf: pg_sys::Oid) -> *mut pg_sys::List {
    // SAFETY: the caller's promise; the boundary turns PostgreSQL's errors into Rust's unwinding.
    unsafe { pg_guard_ffi_boundary(|| get_partition_ancestors(leaf)) }
}

/// Rows of a table that this process has inserted or updated, or tried to, and those that it has deleted, and has not
/// published yet; of transactions that are over.
///
/// # Safety
/// Outside a transaction.
pub unsafe fn pending_writes(table: pg_sys::Oid) -> (u64, u64) {
    // SAFETY: NULL, or what this process has counted; from PostgreSQL 16 on a copy of it.
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

/// The file in which an open relation has its rows: its tablespace and its number there. While the relation is locked it
/// stays the same.
///
/// # Safety
/// `relation` must be open, and of a kind that has a file.
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

/// Builds a partition's constraint into the relation cache. Locks its parents for the transaction.
///
/// # Safety
/// `relation` must be open.
pub unsafe fn build_partition_constraint(relation: pg_sys::Relation) {
    // SAFETY: as above.
    unsafe { pg_guard_ffi_boundary(|| RelationGetPartitionQual(relation)) };
}

/// Has a role USAGE on a schema?
///
/// # Safety
/// Inside a transaction; there is such a schema.
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

/// Tells a kept plan that the search path now in force is the one that it was analyzed with. PostgreSQL analyzes a
/// statement again under another search path, lest a name in it mean another thing; those of ours are all qualified.
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
    // SAFETY: the caller's promise; what is made lives as long as the analyzed statement that it belongs to.
    unsafe {
        if !is_current((*source).search_path) {
            (*source).search_path = current((*source).query_context);
        }
    }
}

/// Has `query` ask as one who has them for the rights that it needs on a relation, and, if that is a partition, go
/// without its own policies.
///
/// PostgreSQL checks rights on a partitioned table against that table only, not against the
/// partitions its planner expands it to (`expand_single_inheritance_child` in optimizer/util/inherit.c
/// gives these no required permissions), and of policies it applies the partitioned table's. We name the leaf
/// ourselves, and its rows by their places, which are columns of the system's that nobody is granted; so we ask for the rights
/// on the target beforehand, and here as somebody who passes. Not for nothing: by what a statement asks for
/// auditing extensions tell what it does. Up to PostgreSQL 15 that stands in the range table entry, from 16 on in a list of
/// its own.
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
                // Or the plan would be one for a role.
                (*query).hasRowSecurity = false;
            }
        });
    }
}

/// Takes the locks that PostgreSQL takes before it plans or runs an analyzed statement again. New ones make it
/// take note of what others have changed: here that comes before we look whether the statement is still valid.
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

/// Calls `work` with a query and the queries in its WITH and FROM clauses. Those in expressions, which only rules could
/// bring into ours, are left out.
unsafe fn each_query(query: *mut pg_sys::Query, work: &mut impl FnMut(*mut pg_sys::Query)) {
    // SAFETY: the lists of a Query hold nodes of the given types; the query of a common table expression
    // is a Query once it has been analyzed.
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
