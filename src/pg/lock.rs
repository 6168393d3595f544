//! Advisory locks of a run, and locks on leaves.
//!
//! The advisory locks are session-level locks with two keys. They vanish with the leader's process, however it ends,
//! so they show who runs, and not the rows of `ntt_mime.run`. They are of a kind that SQL functions can't take, so
//! nobody can prevent runs with locks of their own.

use std::ffi::{CStr, c_char};

use pgrx::pg_sys;

use super::encoding::from_server_c;
use super::files;

/// First key of the lock on a target; the second is the target's oid. One run has a target at a time, and its lock names the
/// process (tested in `errors::`).
pub const TARGET_CLASS: u32 = 0x4E54_5431;

/// First key of the lock that says that a run is alive; the second is its run_id, the lower 32 bits. The lock on the
/// target doesn't say that: where a run could not write its end, its process may be at another run of that target by now.
/// The view `ntt_mime.progress` of each release looks for it (tested in `sessions::`).
pub const RUN_CLASS: u32 = 0x4E54_5433;

/// First key of the lock by which a leader tells its shared memory handle; the second is the handle. With it
/// `ntt_cancel_backfill` finds that memory from another session: `ntt_mime.run` has no column for it (tested in `sessions::`).
pub const HANDLE_CLASS: u32 = 0x4E54_5432;

/// The `objsubid` in pg_locks. PostgreSQL's own functions use 1 (one key) and 2 (two keys), see SET_LOCKTAG_INT64 and
/// SET_LOCKTAG_INT32 in its lockfuncs.c.
const KIND: u16 = 3;

/// From PostgreSQL's storage/lock.h.
const DEFAULT_LOCKMETHOD: u8 = 1;
const USER_LOCKMETHOD: u8 = 2;

/// A session-level advisory lock, released when dropped.
pub struct SessionLock(pg_sys::LOCKTAG);

impl SessionLock {
    /// Takes the lock unless somebody has it, including another run of this session.
    pub fn try_acquire(class: u32, key: u32) -> Option<SessionLock> {
        // SAFETY: reads a backend-local variable; the lock functions get a well-formed tag.
        unsafe {
            let tag = pg_sys::LOCKTAG {
                locktag_field1: pg_sys::MyDatabaseId.to_u32(),
                locktag_field2: class,
                locktag_field3: key,
                locktag_field4: KIND,
                locktag_type: pg_sys::LockTagType::LOCKTAG_ADVISORY as u8,
                locktag_lockmethodid: USER_LOCKMETHOD,
            };
            let mode = pg_sys::ExclusiveLock as i32;
            match pg_sys::LockAcquire(&tag, mode, true, true) {
                pg_sys::LockAcquireResult::LOCKACQUIRE_OK => Some(SessionLock(tag)),
                pg_sys::LockAcquireResult::LOCKACQUIRE_ALREADY_HELD => {
                    // The call incremented its count; the first holder keeps it.
                    pg_sys::LockRelease(&tag, mode, true);
                    None
                }
                _ => None,
            }
        }
    }
}

impl Drop for SessionLock {
    fn drop(&mut self) {
        // SAFETY: releases what `try_acquire` took; PostgreSQL does so itself at process exit.
        unsafe { pg_sys::LockRelease(&self.0, pg_sys::ExclusiveLock as i32, true) };
    }
}

/// Whether anybody waits for the end of the current transaction, for example for a row that it has changed. Others
/// who want the same row may wait for the first waiter instead.
pub fn is_own_transaction_awaited() -> bool {
    // SAFETY: inside a transaction. A transaction with an id holds the lock on it, and that lock is in the shared
    // table, where LockHasWaiters looks (storage/lmgr/lock.c: only locks on relations may be elsewhere).
    unsafe {
        let xid = pg_sys::GetTopTransactionIdIfAny();
        let tag = pg_sys::LOCKTAG {
            locktag_field1: xid.into_inner(),
            locktag_field2: 0,
            locktag_field3: 0,
            locktag_field4: 0,
            locktag_type: pg_sys::LockTagType::LOCKTAG_TRANSACTION as u8,
            locktag_lockmethodid: DEFAULT_LOCKMETHOD,
        };
        xid != pg_sys::InvalidTransactionId
            && pg_sys::LockHasWaiters(&tag, pg_sys::ExclusiveLock as i32, false)
    }
}

/// A leaf locked for the current transaction.
pub struct LockedLeaf {
    relation: pg_sys::Relation,
}

impl LockedLeaf {
    /// Waits, up to `lock_timeout`, for a lock of the given mode on a table; None if the table no longer exists. The
    /// lock is held until the end of the transaction.
    pub fn open(oid: pg_sys::Oid, mode: u32) -> Option<LockedLeaf> {
        // SAFETY: inside a transaction. The relation is closed on drop; the lock is kept.
        let relation = unsafe { pg_sys::try_relation_open(oid, mode as i32) };
        // Not then_some(): that would create, and drop, a leaf without a relation.
        (!relation.is_null()).then(|| LockedLeaf { relation })
    }

    fn form(&self) -> &pg_sys::FormData_pg_class {
        // SAFETY: an open relation has its pg_class row.
        unsafe { &*(*self.relation).rd_rel }
    }

    /// Whether it is an ordinary table, partition or not.
    pub fn is_table(&self) -> bool {
        self.form().relkind as u8 == pg_sys::RELKIND_RELATION
    }

    /// Whether TID range scans are possible. An access method need not support them (access/tableam.h).
    pub fn has_tid_ranges(&self) -> bool {
        // SAFETY: an open relation.
        scans_tid_ranges(unsafe { (*self.relation).rd_tableam })
    }

    /// Whether it is a heap, PostgreSQL's own kind of table.
    pub fn is_heap(&self) -> bool {
        self.form().relam == pg_sys::HEAP_TABLE_AM_OID
    }

    /// The partitioned tables that are above it at this moment, from its parent up; none if it isn't a partition.
    pub fn tables_above(&self) -> Vec<pg_sys::Oid> {
        // While it is locked, it can't be detached.
        match self.form().relispartition {
            true => ancestors(self.oid()),
            false => Vec::new(),
        }
    }

    /// Its qualified and quoted name. It can't change while we hold the lock, except for the schema's name.
    pub fn qualified_name(&self) -> String {
        qualified_name(self.oid()).unwrap_or_default()
    }

    /// The relation: open as long as this lives, and locked until the end of the transaction.
    pub fn relation(&self) -> pg_sys::Relation {
        self.relation
    }

    /// Its OID.
    pub fn oid(&self) -> pg_sys::Oid {
        // SAFETY: an open relation.
        unsafe { (*self.relation).rd_id }
    }

    /// The file that contains its rows, see [`files::identity`].
    pub fn file(&self) -> u64 {
        // SAFETY: an open relation with storage (it is a table).
        let (tablespace, number) = unsafe { super::version::file_of(self.relation) };
        files::identity(tablespace, number)
    }

    /// Its size in blocks.
    pub fn blocks(&self) -> u32 {
        // SAFETY: an open relation with storage (it is a table).
        unsafe {
            pg_sys::RelationGetNumberOfBlocksInFork(self.relation, pg_sys::ForkNumber::MAIN_FORKNUM)
        }
    }

    /// Locks its indexes as an UPDATE does, and loads them into this backend's relation cache. A new lock makes a
    /// transaction process invalidations, which may discard the partition constraint; here that happens before we
    /// check for it.
    pub fn lock_indexes(&self) {
        self.any_index(pg_sys::RowExclusiveLock, |_| false);
    }

    /// Whether it has an index of exactly the rows whose `column` is null. The planner doesn't know how few these
    /// are: it assumes that the nulls of one column are spread evenly over another's values.
    pub fn has_index_of_nulls(&self, column: &CStr) -> bool {
        // SAFETY: a catalog lookup inside a transaction.
        let column = unsafe { pg_sys::get_attnum(self.oid(), column.as_ptr()) };
        // SAFETY: the nodes of a predicate have the types that their tags say.
        let is_of_nulls = |condition: *mut pg_sys::Node| unsafe {
            let test: *mut pg_sys::NullTest = condition.cast();
            pgrx::is_a(condition, pg_sys::NodeTag::T_NullTest)
                && (*test).nulltesttype == pg_sys::NullTestType::IS_NULL
                && pgrx::is_a((*test).arg.cast(), pg_sys::NodeTag::T_Var)
                && (*(*test).arg.cast::<pg_sys::Var>()).varattno == column
        };
        self.any_index(pg_sys::AccessShareLock, |index| {
            // SAFETY: an open index.
            let (usable, predicate) = unsafe {
                let usable = (*(*index).rd_index).indisvalid;
                (usable, pg_sys::RelationGetIndexPredicate(index))
            };
            // SAFETY: a predicate is a list of nodes.
            let conditions = unsafe { pgrx::PgList::<pg_sys::Node>::from_pg(predicate) };
            usable && conditions.iter_ptr().any(is_of_nulls)
        })
    }

    /// Opens its indexes one after the other, until `look` returns true. Their locks are held until the end of the
    /// transaction.
    fn any_index(&self, mode: u32, look: impl Fn(pg_sys::Relation) -> bool) -> bool {
        // SAFETY: an open relation; each index that is opened is closed.
        unsafe {
            let list = pg_sys::RelationGetIndexList(self.relation);
            let indexes = pgrx::PgList::<pg_sys::Oid>::from_pg(list);
            (0..indexes.len())
                .filter_map(|i| indexes.get_oid(i))
                .any(|oid| {
                    let index = pg_sys::index_open(oid, mode as i32);
                    let found = look(index);
                    pg_sys::index_close(index, pg_sys::NoLock as i32);
                    found
                })
        }
    }

    /// Whether this backend has its partition constraint in the cache. If not, the first UPDATE builds it under a
    /// lock on the parent, which is held until the end of the transaction.
    pub fn has_partition_constraint_cached(&self) -> bool {
        // SAFETY: an open relation.
        !self.form().relispartition || unsafe { (*self.relation).rd_partcheckvalid }
    }

    /// Builds the partition constraint in this backend's relation cache, unless it is there already; false if that
    /// would have to wait for a lock on a table above. Whoever has such a lock may be waiting for us: DDL locks a
    /// parent before its partitions.
    pub fn cache_partition_constraint(&self) -> bool {
        if !self.has_partition_constraint_cached() {
            if lock_ancestors_if_free(self.oid()).is_err() {
                return false;
            }
            // SAFETY: an open relation.
            unsafe { super::version::build_partition_constraint(self.relation) };
        }
        true
    }
}

/// The partitioned tables above a table, from its parent up; none if it isn't a partition, or no longer exists.
fn ancestors(oid: pg_sys::Oid) -> Vec<pg_sys::Oid> {
    // SAFETY: catalog lookups inside a transaction; the list is freed with its memory context.
    unsafe {
        let ancestors = super::version::partition_ancestors(oid);
        let ancestors = pgrx::PgList::<pg_sys::Oid>::from_pg(ancestors);
        (0..ancestors.len())
            .filter_map(|i| ancestors.get_oid(i))
            .collect()
    }
}

/// Locks a table for reading until the end of the transaction, unless it would have to wait.
pub fn lock_if_free(oid: pg_sys::Oid) -> bool {
    // SAFETY: inside a transaction. If the table no longer exists, the lock has no effect.
    unsafe { pg_sys::ConditionalLockRelationOid(oid, pg_sys::AccessShareLock as i32) }
}

/// The same, waiting up to `lock_timeout`.
pub fn lock(oid: pg_sys::Oid) {
    // SAFETY: as above.
    unsafe { pg_sys::LockRelationOid(oid, pg_sys::AccessShareLock as i32) };
}

/// Locks the tables above a partition for reading until the end of the transaction. The error is the first table for
/// which it would have to wait.
pub fn lock_ancestors_if_free(leaf: pg_sys::Oid) -> Result<(), pg_sys::Oid> {
    let busy = ancestors(leaf).into_iter().find(|oid| !lock_if_free(*oid));
    busy.map_or(Ok(()), Err)
}

/// Whether a column of a table is part of its partition key, directly or in an expression. False if the table isn't
/// partitioned. The answer can't change as long as the table exists.
pub fn is_partitioned_by(table: pg_sys::Oid, column: &CStr) -> bool {
    use pg_sys::SysCacheIdentifier::PARTRELID;
    // From pg_partitioned_table (catalog/pg_partitioned_table.h), which the bindings leave out.
    const PARTATTRS: pg_sys::AttrNumber = 5;
    const PARTEXPRS: pg_sys::AttrNumber = 8;
    // SAFETY: catalog lookups inside a transaction, of values of the types int2vector and pg_node_tree; the tuple is
    // released after their use.
    unsafe {
        let number = pg_sys::get_attnum(table, column.as_ptr());
        let tuple = pg_sys::SearchSysCache1(PARTRELID as i32, pg_sys::Datum::from(table));
        if tuple.is_null() {
            return false;
        }
        let mut null = false;
        let mut value = |attribute| {
            let value = pg_sys::SysCacheGetAttr(PARTRELID as i32, tuple, attribute, &mut null);
            (!null).then_some(value)
        };
        let by_itself = value(PARTATTRS).is_some_and(|columns| {
            let columns: *const pg_sys::int2vector = columns.cast_mut_ptr();
            let count = (*columns).dim1 as usize;
            (*columns).values.as_slice(count).contains(&number)
        });
        let in_expression = value(PARTEXPRS).is_some_and(|expressions| {
            let text = pg_sys::text_to_cstring(expressions.cast_mut_ptr());
            let mut columns = std::ptr::null_mut();
            pg_sys::pull_varattnos(pg_sys::stringToNode(text).cast(), 1, &mut columns);
            let offset = i32::from(number) - pg_sys::FirstLowInvalidHeapAttributeNumber;
            pg_sys::bms_is_member(offset, columns)
        });
        pg_sys::ReleaseSysCache(tuple);
        by_itself || in_expression
    }
}

/// Whether a table access method supports TID range scans.
fn scans_tid_ranges(method: *const pg_sys::TableAmRoutine) -> bool {
    // SAFETY: null, or a struct that lives as long as the server.
    unsafe { method.as_ref() }.is_some_and(|method| {
        method.scan_set_tidrange.is_some() && method.scan_getnextslot_tidrange.is_some()
    })
}

/// The same, for the function in `pg_am.amhandler`.
pub fn method_scans_tid_ranges(handler: pg_sys::Oid) -> bool {
    // SAFETY: PostgreSQL calls the function, and raises an error if it isn't a table access method handler.
    scans_tid_ranges(unsafe { pg_sys::GetTableAmRoutine(handler) })
}

impl Drop for LockedLeaf {
    fn drop(&mut self) {
        // After an error, the transaction's abort closes it.
        if !std::thread::panicking() {
            // SAFETY: opened in `open`; NoLock keeps the lock for the transaction.
            unsafe { pg_sys::relation_close(self.relation, pg_sys::NoLock as i32) };
        }
    }
}

/// A relation's owner and schema; neither if it no longer exists.
pub fn owner_and_schema(oid: pg_sys::Oid) -> (pg_sys::Oid, pg_sys::Oid) {
    // SAFETY: a catalog lookup inside a transaction; the tuple is released after its use.
    unsafe {
        let tuple = pg_sys::SearchSysCache1(
            pg_sys::SysCacheIdentifier::RELOID as i32,
            pg_sys::Datum::from(oid),
        );
        if tuple.is_null() {
            return (pg_sys::InvalidOid, pg_sys::InvalidOid);
        }
        let form = pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_class>();
        let found = ((*form).relowner, (*form).relnamespace);
        pg_sys::ReleaseSysCache(tuple);
        found
    }
}

/// A relation's name, qualified and quoted for use in SQL; None if it no longer exists.
pub fn qualified_name(oid: pg_sys::Oid) -> Option<String> {
    let (schema, name) = names(oid)?;
    // SAFETY: two C strings.
    unsafe { from_server_c(pg_sys::quote_qualified_identifier(schema, name)) }
}

/// A name in a schema, qualified and quoted for use in SQL.
pub fn qualify(schema: pg_sys::Oid, name: &'static str) -> String {
    // SAFETY: a catalog lookup inside a transaction, whose result is a palloc'ed copy or NULL.
    let schema = unsafe { pg_sys::get_namespace_name(schema) };
    // SAFETY: a C string, or NULL for none.
    let schema = (!schema.is_null())
        .then(|| unsafe { from_server_c(pg_sys::quote_identifier(schema).cast_mut()) });
    match schema.flatten() {
        Some(schema) => format!("{schema}.{name}"),
        None => name.to_owned(),
    }
}

/// A relation's qualified name for a message that puts it in quotes: it is not quoted itself, as in PostgreSQL's
/// messages. None if it no longer exists.
pub fn plain_name(oid: pg_sys::Oid) -> Option<String> {
    let (schema, name) = names(oid)?;
    // SAFETY: two C strings.
    let (schema, name) = unsafe { (from_server_c(schema)?, from_server_c(name)?) };
    Some(format!("{schema}.{name}"))
}

/// A schema's name for a message; its OID if it no longer exists.
pub fn schema_name(oid: pg_sys::Oid) -> String {
    // SAFETY: a catalog lookup inside a transaction, whose result is a palloc'ed copy or NULL.
    let name = unsafe { from_server_c(pg_sys::get_namespace_name(oid)) };
    name.unwrap_or_else(|| oid.to_u32().to_string())
}

/// A type's name, as PostgreSQL formats it.
pub fn type_name(oid: pg_sys::Oid) -> String {
    // SAFETY: a catalog lookup inside a transaction, whose result is a C string.
    unsafe { from_server_c(pg_sys::format_type_be(oid)) }.unwrap_or_default()
}

/// The names of a relation's schema and of the relation; None if it no longer exists.
fn names(oid: pg_sys::Oid) -> Option<(*mut c_char, *mut c_char)> {
    // SAFETY: catalog lookups inside a transaction; both names are palloc'ed copies or NULL.
    let (schema, name) = unsafe {
        let name = pg_sys::get_rel_name(oid);
        let schema = pg_sys::get_namespace_name(pg_sys::get_rel_namespace(oid));
        (schema, name)
    };
    (!schema.is_null() && !name.is_null()).then_some((schema, name))
}
