//! The parts of Citus that a session needs before it can run any statement: whether it is installed, how to see its
//! shards, and its lock on a shard.
//!
//! Citus hides shards from ordinary sessions by adding a condition to each query on `pg_class`. Lookups in catalog
//! caches see them.

use std::ffi::CStr;

use pgrx::{IntoDatum, pg_sys};

use super::identity;

/// Citus' table of distributed tables, and the index on its OIDs.
const TABLES: &CStr = c"pg_dist_partition";
const TABLES_INDEX: &CStr = c"pg_dist_partition_logical_relid_index";

/// The setting with which Citus hides shards.
pub const HIDES_SHARDS: &CStr = c"citus.override_table_visibility";

/// The function by which Citus locks a shard on another node; it takes a lock mode and shards. Which lock that is
/// depends on the release of Citus, and on whether the table is colocated with others.
const LOCK: &CStr = c"lock_shard_metadata";
const LOCK_ARGUMENTS: [pg_sys::Oid; 2] = [pg_sys::INT4OID, pg_sys::INT8ARRAYOID];

/// Whether Citus is installed in this database, by a lookup in a catalog cache, inside a transaction. Only PostgreSQL
/// and Citus have tables in that schema.
pub fn is_there() -> bool {
    find(TABLES) != pg_sys::InvalidOid
}

/// Whether Citus distributes this table, so that its rows are elsewhere. An error if Citus isn't installed. Takes
/// some microseconds, because each leaf is checked under each lock.
pub fn is_distributed(table: pg_sys::Oid) -> bool {
    let (tables, index) = (find(TABLES), find(TABLES_INDEX));
    // SAFETY: an open relation and an index on its first key column, or none; both are closed again. The scan sees
    // what is committed now.
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

/// Finds a table or an index of Citus by its name.
fn find(name: &CStr) -> pg_sys::Oid {
    let catalog = pg_sys::Oid::from(pg_sys::PG_CATALOG_NAMESPACE);
    // SAFETY: a C string.
    unsafe { pg_sys::get_relname_relid(name.as_ptr(), catalog) }
}

/// Runs `work` with shards visible in catalogs. Must run inside a (sub)transaction, whose abort restores settings
/// after an error.
pub fn seeing_shards<T>(work: impl FnOnce() -> T) -> T {
    if !is_there() {
        return work();
    }
    // SAFETY: the level is closed here, or by the abort of the (sub)transaction.
    unsafe {
        let level = pg_sys::NewGUCNestLevel();
        identity::set_option(HIDES_SHARDS, c"off", pg_sys::GucAction::GUC_ACTION_SAVE);
        let value = work();
        pg_sys::AtEOXact_GUC(true, level);
        value
    }
}

/// Locks a shard, until the end of the transaction, in the way Citus does for every write to it. While it is locked,
/// it cannot be moved, split or copied. Waits up to `lock_timeout`, and raises an error if the shard no longer
/// exists. Takes no snapshot.
///
/// To move a shard by logical replication, Citus takes this lock exclusively, and then waits until everything has
/// been replicated that is *written* to the WAL by then. An asynchronous commit may not have been written yet, so
/// this transaction's commit is made synchronous, whatever `synchronous_commit` says.
pub fn lock_shard(shard: i64) {
    let function = lock_function().unwrap_or_else(|| {
        pgrx::error!("function pg_catalog.lock_shard_metadata(integer, bigint[]) does not exist")
    });
    let mode = pg_sys::ShareLock as i32;
    let shards = vec![shard].into_datum().expect("an array is never null");
    // It requires the table's owner.
    identity::as_role(identity::one_who_may(), || {
        // SAFETY: a function with these two arguments.
        unsafe { pg_sys::OidFunctionCall2Coll(function, pg_sys::InvalidOid, mode.into(), shards) };
    });
    // SAFETY: a flag of this process, for the transaction.
    unsafe { pg_sys::ForceSyncCommit() };
}

/// Whether Citus has the function that [`lock_shard`] needs.
pub fn can_lock_shards() -> bool {
    lock_function().is_some()
}

fn lock_function() -> Option<pg_sys::Oid> {
    // SAFETY: a list of two names, and the given number of types; a catalog lookup inside a transaction.
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
