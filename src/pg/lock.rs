//! Advisory locks of a run, and locks on leaves.
//!
//! The advisory locks are of the session level and have two keys. They vanish with the leader's process
//! in whatever way it ends, so they, not the rows of `ntt_mime.run`, tell who runs. They are of a kind that
//! SQL's functions don't take, so nobody can hold runs off with locks of his own.

use std::ffi::{CStr, c_char};

use pgrx::pg_sys;

use super::encoding::from_server_c;
use super::files;

/// First key of the lock on a target; the second is the target's oid.
pub const TARGET_CLASS: u32 = 0x4E54_5431;

/// First key of the lock that says that a run is alive; the second is its run_id, the lower 32 bits.
/// The view `ntt_mime.progress` looks for it.
pub const RUN_CLASS: u32 = 0x4E54_5433;

/// First key of the lock by which a leader tells its shared memory handle; the second is the handle.
pub const HANDLE_CLASS: u32 = 0x4E54_5432;

/// What pg_locks shows as `objsubid`. PostgreSQL's own functions take 1 (one key) and 2 (two keys), see
/// SET_LOCKTAG_INT64 and SET_LOCKTAG_INT32 in its lockfuncs.c.
const KIND: u16 = 3;

/// Of PostgreSQL's storage/lock.h.
const DEFAULT_LOCKMETHOD: u8 = 1;
const USER_LOCKMETHOD: u8 = 2;

/// A session-level advisory lock, released when dropped.
pub struct SessionLock(pg_sys::LOCKTAG);

impl SessionLock {
    /// Takes the lock unless somebody, another run of this session included, has it.
    pub fn try_acquire(class: u32, key: u32) -> Option<SessionLock> {
        // SAFETY: reads a backend-local variable; the lock functions take a well-formed tag.
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
                    // Counted up by the call; the one who had it first keeps it.
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
        // SAFETY: releases what `try_acquire` took; at process exit PostgreSQL does so itself.
        unsafe { pg_sys::LockRelease(&self.0, pg_sys::ExclusiveLock as i32, true) };
    }
}

/// Does anybody wait for the end of the current transaction, such as one who wants a row that it has changed? Others who
/// want the same row may wait for that one.
pub fn is_own_transaction_awaited() -> bool {
    // SAFETY: inside a transaction; who has an id holds the lock on it from then on, and that lock is in the shared table,
    // where LockHasWaiters looks (storage/lmgr/lock.c: only locks on relations may not be).
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
    /// Waits, up to `lock_timeout`, for a lock of the given mode on a table; None if it is gone. The
    /// lock stays until the end of the transaction.
    pub fn open(oid: pg_sys::Oid, mode: u32) -> Option<LockedLeaf> {
        // SAFETY: inside a transaction; the relation is closed on drop, the lock kept.
        let relation = unsafe { pg_sys::try_relation_open(oid, mode as i32) };
        // Not then_some(): that would make, and drop, a leaf without a relation.
        (!relation.is_null()).then(|| LockedLeaf { relation })
    }

    fn form(&self) -> &pg_sys::FormData_pg_class {
        // SAFETY: an open relation has its pg_class row.
        unsafe { &*(*self.relation).rd_rel }
    }

    /// An ordinary table, partition or not?
    pub fn is_table(&self) -> bool {
        self.form().relkind as u8 == pg_sys::RELKIND_RELATION
    }

    /// Can ranges of its rows be scanned? An access method need not offer that (access/tableam.h).
    pub fn has_tid_ranges(&self) -> bool {
        // SAFETY: an open relation.
        scans_tid_ranges(unsafe { (*self.relation).rd_tableam })
    }

    /// Is it a heap, PostgreSQL's own kind of table?
    pub fn is_heap(&self) -> bool {
        self.form().relam == pg_sys::HEAP_TABLE_AM_OID
    }

    /// The partitioned tables above it at this moment, from its parent up; none if it is no partition.
    pub fn tables_above(&self) -> Vec<pg_sys::Oid> {
        // Locked, it can't be detached meanwhile.
        match self.form().relispartition {
            true => ancestors(self.oid()),
            false => Vec::new(),
        }
    }

    /// Its name, qualified and quoted; can't change while we hold the lock, but for its schema's.
    pub fn qualified_name(&self) -> String {
        qualified_name(self.oid()).unwrap_or_default()
    }

    /// Open, and locked until the end of the transaction, as long as this lives.
    pub fn relation(&self) -> pg_sys::Relation {
        self.relation
    }

    /// Its oid.
    pub fn oid(&self) -> pg_sys::Oid {
        // SAFETY: an open relation.
        unsafe { (*self.relation).rd_id }
    }

    /// The file in which its rows are, see [`files::identity`].
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

    /// Locks its indexes as an UPDATE does, and brings them into this backend's relation cache. A lock that
    /// is new to a transaction makes it take note of what others have changed, which may throw the partition
    /// constraint out again; taken here, it comes before our look at that.
    pub fn lock_indexes(&self) {
        self.any_index(pg_sys::RowExclusiveLock, |_| false);
    }

    /// Has it an index of rows whose `column` is null, and of no others? The planner doesn't know how few
    /// these are: it takes a column's nulls to be spread evenly over another's.
    pub fn has_index_of_nulls(&self, column: &CStr) -> bool {
        // SAFETY: a catalog look-up inside a transaction.
        let column = unsafe { pg_sys::get_attnum(self.oid(), column.as_ptr()) };
        // SAFETY: the nodes of a predicate have the types that their tags tell.
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

    /// Opens its indexes one after the other, until `look` says yes. Their locks last until the end of the
    /// transaction.
    fn any_index(&self, mode: u32, look: impl Fn(pg_sys::Relation) -> bool) -> bool {
        // SAFETY: an open relation; what is opened is closed.
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

    /// Has this backend its partition constraint at hand? While it hasn't, the first UPDATE builds
    /// it under a lock on the parent that lasts until the end of the transaction.
    pub fn has_partition_constraint_cached(&self) -> bool {
        // SAFETY: an open relation.
        !self.form().relispartition || unsafe { (*self.relation).rd_partcheckvalid }
    }

    /// Builds the partition constraint into this backend's relation cache, unless it is there; false if that would mean
    /// to wait for a lock on a table above. Who has one there may be waiting for us: DDL locks a parent before its
    /// partitions.
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

/// The partitioned tables above a table, from its parent up; none if it is no partition, or gone.
fn ancestors(oid: pg_sys::Oid) -> Vec<pg_sys::Oid> {
    // SAFETY: catalog look-ups inside a transaction; the list is freed with its memory context.
    unsafe {
        let ancestors = super::version::partition_ancestors(oid);
        let ancestors = pgrx::PgList::<pg_sys::Oid>::from_pg(ancestors);
        (0..ancestors.len())
            .filter_map(|i| ancestors.get_oid(i))
            .collect()
    }
}

/// Locks a table for reading, for the rest of the transaction, unless that would mean to wait.
pub fn lock_if_free(oid: pg_sys::Oid) -> bool {
    // SAFETY: inside a transaction; of a table that is gone it is a lock on nothing.
    unsafe { pg_sys::ConditionalLockRelationOid(oid, pg_sys::AccessShareLock as i32) }
}

/// The same, waiting up to `lock_timeout`.
pub fn lock(oid: pg_sys::Oid) {
    // SAFETY: as above.
    unsafe { pg_sys::LockRelationOid(oid, pg_sys::AccessShareLock as i32) };
}

/// Locks the tables above a partition for reading, for the rest of the transaction; the first one for which that would
/// mean to wait is the error.
pub fn lock_ancestors_if_free(leaf: pg_sys::Oid) -> Result<(), pg_sys::Oid> {
    let busy = ancestors(leaf).into_iter().find(|oid| !lock_if_free(*oid));
    busy.map_or(Ok(()), Err)
}

/// Is a column of a table part of its partition key, as it is or in an expression? No, if the table isn't partitioned. That
/// can't change as long as the table is there.
pub fn is_partitioned_by(table: pg_sys::Oid, column: &CStr) -> bool {
    use pg_sys::SysCacheIdentifier::PARTRELID;
    // Of pg_partitioned_table (catalog/pg_partitioned_table.h), which bindings leave out.
    const PARTATTRS: pg_sys::AttrNumber = 5;
    const PARTEXPRS: pg_sys::AttrNumber = 8;
    // SAFETY: catalog look-ups inside a transaction, of values of the types int2vector and pg_node_tree; the tuple is
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

/// Of a table access method: can it scan ranges of TIDs?
fn scans_tid_ranges(method: *const pg_sys::TableAmRoutine) -> bool {
    // SAFETY: null, or a struct that lives as long as the server.
    unsafe { method.as_ref() }.is_some_and(|method| {
        method.scan_set_tidrange.is_some() && method.scan_getnextslot_tidrange.is_some()
    })
}

/// Likewise, by the function that `pg_am.amhandler` names.
pub fn method_scans_tid_ranges(handler: pg_sys::Oid) -> bool {
    // SAFETY: PostgreSQL calls the function, and raises an error if it isn't one of the kind.
    scans_tid_ranges(unsafe { pg_sys::GetTableAmRoutine(handler) })
}

impl Drop for LockedLeaf {
    fn drop(&mut self) {
        // After an error the transaction's abort closes it.
        if !std::thread::panicking() {
            // SAFETY: opened in `open`; NoLock keeps the lock for the transaction.
            unsafe { pg_sys::relation_close(self.relation, pg_sys::NoLock as i32) };
        }
    }
}

/// The owner of a relation, and the schema that it is in; neither when it is gone.
pub fn owner_and_schema(oid: pg_sys::Oid) -> (pg_sys::Oid, pg_sys::Oid) {
    // SAFETY: a catalog look-up inside a transaction; the tuple is released after its use.
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

/// A relation's name, qualified and quoted for use in SQL; None when it is gone.
pub fn qualified_name(oid: pg_sys::Oid) -> Option<String> {
    let (schema, name) = names(oid)?;
    // SAFETY: two C strings.
    unsafe { from_server_c(pg_sys::quote_qualified_identifier(schema, name)) }
}

/// A name in a schema, qualified and quoted for use in SQL.
pub fn qualify(schema: pg_sys::Oid, name: &'static str) -> String {
    // SAFETY: a catalog look-up inside a transaction, whose result is a palloc'ed copy or NULL.
    let schema = unsafe { pg_sys::get_namespace_name(schema) };
    // SAFETY: a C string, or NULL for none.
    let schema = (!schema.is_null())
        .then(|| unsafe { from_server_c(pg_sys::quote_identifier(schema).cast_mut()) });
    match schema.flatten() {
        Some(schema) => format!("{schema}.{name}"),
        None => name.to_owned(),
    }
}

/// A relation's name, qualified, for a message that puts it between quotes: it has none of its own then, as in
/// PostgreSQL's messages. None when it is gone.
pub fn plain_name(oid: pg_sys::Oid) -> Option<String> {
    let (schema, name) = names(oid)?;
    // SAFETY: two C strings.
    let (schema, name) = unsafe { (from_server_c(schema)?, from_server_c(name)?) };
    Some(format!("{schema}.{name}"))
}

/// A schema's name, as a message has it; its oid when it is gone.
pub fn schema_name(oid: pg_sys::Oid) -> String {
    // SAFETY: a catalog look-up inside a transaction, whose result is a palloc'ed copy or NULL.
    let name = unsafe { from_server_c(pg_sys::get_namespace_name(oid)) };
    name.unwrap_or_else(|| oid.to_u32().to_string())
}

/// A type's name, as PostgreSQL puts it.
pub fn type_name(oid: pg_sys::Oid) -> String {
    // SAFETY: a catalog look-up inside a transaction, whose result is a C string.
    unsafe { from_server_c(pg_sys::format_type_be(oid)) }.unwrap_or_default()
}

/// The names of a relation's schema and of itself; None when it is gone.
fn names(oid: pg_sys::Oid) -> Option<(*mut c_char, *mut c_char)> {
    // SAFETY: catalog look-ups inside a transaction; both names are palloc'ed copies or NULL.
    let (schema, name) = unsafe {
        let name = pg_sys::get_rel_name(oid);
        let schema = pg_sys::get_namespace_name(pg_sys::get_rel_namespace(oid));
        (schema, name)
    };
    (!schema.is_null() && !name.is_null()).then_some((schema, name))
}
