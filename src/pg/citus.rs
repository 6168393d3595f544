//! What of Citus a session has to do with before any statement: whether it is there, that it shows its shards, and its
//! lock on one.
//!
//! Citus hides shards from the queries of ordinary sessions by adding a condition to each that reads `pg_class`. Look-ups
//! in catalog caches see them.

use std::ffi::CStr;

use pgrx::{IntoDatum, pg_sys};

use super::identity;

/// The table of distributed tables, and its index of their OIDs.
const TABLES: &CStr = c"pg_dist_partition";
const TABLES_INDEX: &CStr = c"pg_dist_partition_logical_relid_index";

/// The setting by which Citus hides shards.
pub const HIDES_SHARDS: &CStr = c"citus.override_table_visibility";

/// The function by which Citus itself locks a shard on another node, of a lock mode and shards. What the lock is depends on
/// the release of Citus, and on whether the table is colocated with others.
const LOCK: &CStr = c"lock_shard_metadata";
const LOCK_ARGUMENTS: [pg_sys::Oid; 2] = [pg_sys::INT4OID, pg_sys::INT8ARRAYOID];

/// Is Citus there, in this database? A look-up in a cache of catalogs, inside a transaction. Nobody but PostgreSQL and
/// Citus has tables in that schema.
pub fn is_there() -> bool {
    find(TABLES) != pg_sys::InvalidOid
}

/// Has Citus a table for a distributed one, so that its rows are elsewhere? An error where Citus isn't there. Takes some
/// microseconds: it is asked of each leaf under each lock.
pub fn is_distributed(table: pg_sys::Oid) -> bool {
    let (tables, index) = (find(TABLES), find(TABLES_INDEX));
    // SAFETY: an open relation, and an index of its first key's column, or none; all is closed again. What the scan
    // sees is what is committed now.
    unsafe {
        let column = pg_sys::get_attnum(tables, c"logicalrelid".as_ptr());
        let relation = pg_sys::table_open(tables, pg_sys::AccessShareLock as i32);
        let mut key = pg_sys::ScanKeyData::default();
        pg_sys::ScanKeyInit(
            &mut key,
            column,
            pg_sys::BTEqualStrategyNumber as u16,
            pg_sys::F_OIDEQ.into(),
            table.into(),
        );
        let by_index = index != pg_sys::InvalidOid;
        let none = std::ptr::null_mut();
        let scan = pg_sys::systable_beginscan(relation, index, by_index, none, 1, &mut key);
        let found = !pg_sys::systable_getnext(scan).is_null();
        pg_sys::systable_endscan(scan);
        pg_sys::table_close(relation, pg_sys::AccessShareLock as i32);
        found
    }
}

/// A table or an index of Citus', by its name.
fn find(name: &CStr) -> pg_sys::Oid {
    let catalog = pg_sys::Oid::from(pg_sys::PG_CATALOG_NAMESPACE);
    // SAFETY: a C string.
    unsafe { pg_sys::get_relname_relid(name.as_ptr(), catalog) }
}

/// Runs `work` with shards to be seen in catalogs. Inside a (sub)transaction whose abort, on an error, restores settings.
pub fn seeing_shards<T>(work: impl FnOnce() -> T) -> T {
    if !is_there() {
        return work();
    }
    // SAFETY: the level is closed here, or by the (sub)transaction's abort.
    unsafe {
        let level = pg_sys::NewGUCNestLevel();
        identity::set_option(HIDES_SHARDS, c"off", pg_sys::GucAction::GUC_ACTION_SAVE);
        let value = work();
        pg_sys::AtEOXact_GUC(true, level);
        value
    }
}

/// Locks a shard as Citus does for whatever writes to it, until the end of the transaction: while it is locked, it isn't
/// moved away, split or copied. Waits up to `lock_timeout`. An error as well if there is no such shard any more. Takes no
/// snapshot.
///
/// Who moves it away by logical replication waits, once it has this lock alone, until all is replicated that has been
/// *written* to the WAL by then. What was committed asynchronously isn't written yet; so this transaction's commit won't be
/// asynchronous, whatever `synchronous_commit` says.
pub fn lock_shard(shard: i64) {
    let function = lock_function().unwrap_or_else(|| {
        pgrx::error!("function pg_catalog.lock_shard_metadata(integer, bigint[]) does not exist")
    });
    let mode = pg_sys::ShareLock as i32;
    let shards = vec![shard].into_datum().expect("an array is never null");
    // It is for the table's owner.
    identity::as_role(identity::one_who_may(), || {
        // SAFETY: a function of these two arguments.
        unsafe { pg_sys::OidFunctionCall2Coll(function, pg_sys::InvalidOid, mode.into(), shards) };
    });
    // SAFETY: a flag of this process, for the transaction.
    unsafe { pg_sys::ForceSyncCommit() };
}

/// Has Citus the function that [`lock_shard`] needs?
pub fn can_lock_shards() -> bool {
    lock_function().is_some()
}

fn lock_function() -> Option<pg_sys::Oid> {
    // SAFETY: a list of two names, and as many types as are told; a catalog look-up inside a transaction.
    let function = unsafe {
        let mut names = std::ptr::null_mut();
        for name in [c"pg_catalog", LOCK] {
            let name = pg_sys::pstrdup(name.as_ptr());
            names = pg_sys::lappend(names, pg_sys::makeString(name).cast());
        }
        pg_sys::LookupFuncName(names, 2, LOCK_ARGUMENTS.as_ptr(), true)
    };
    (function != pg_sys::InvalidOid).then_some(function)
}
