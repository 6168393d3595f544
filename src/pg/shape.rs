//! Everything on which the column numbers of a leaf depend, as one number: its *shape*.
//!
//! A column of a partition can't be dropped or renamed by itself, only together with the column of the topmost table
//! that has it, and so of the target, to which the leaf belongs. And which tables are in between can't change without
//! one of them, or the leaf, getting a new row in `pg_class`, as a table does that is detached or attached. So the
//! leaf's columns are unchanged if these are unchanged: the numbers of the columns in the target, and the xmin of the
//! `pg_class` rows of all tables below it down to the leaf. Other commands, such as GRANT, also give a table a new
//! row; then nothing is known.
//!
//! The statement that lists the leaves (`TREE` in [`crate::backfill::target`]) computes the same number. Here it is
//! computed for a leaf that is locked: while it is, nobody can alter the columns of the tables above.
//!
//! For a shard of Citus nothing is known: its columns are altered by a different transaction than those of its table.

use pgrx::pg_sys;

/// The shape of a target: its OID, and the numbers of the two columns.
pub fn of_target(target: pg_sys::Oid) -> i64 {
    // SAFETY: catalog look-ups inside a transaction.
    let [blobid, mime_type] =
        [c"blobid", c"mime_type"].map(|name| unsafe { pg_sys::get_attnum(target, name.as_ptr()) });
    let [blobid, mime_type] = [blobid, mime_type].map(|number| u64::from(number as u16));
    (blobid << 48 | mime_type << 32 | u64::from(target.to_u32())) as i64
}

/// The shape of a locked leaf of a target. `above` are the partitioned tables above the leaf, from its parent up.
/// None if the target isn't among them.
pub fn of_leaf(leaf: pg_sys::Oid, above: &[pg_sys::Oid], target: pg_sys::Oid) -> Option<i64> {
    if leaf == target {
        return Some(of_target(target));
    }
    let between = above.iter().position(|table| *table == target)?;
    let below = above[..between].iter().rev().chain([&leaf]);
    below.copied().try_fold(of_target(target), below_table)
}

/// The shape of a table, given the shape of its parent.
fn below_table(shape: i64, table: pg_sys::Oid) -> Option<i64> {
    let row = i64::from(catalog_row(table)?);
    let hash = pg_sys::Oid::from(pg_sys::F_HASHINT8EXTENDED);
    // SAFETY: a function that takes two bigints and returns one.
    let below =
        unsafe { pg_sys::OidFunctionCall2Coll(hash, pg_sys::InvalidOid, row.into(), shape.into()) };
    Some(below.value() as i64)
}

/// The xmin of a table's row in pg_class, as its system column shows it.
fn catalog_row(table: pg_sys::Oid) -> Option<u32> {
    use pg_sys::SysCacheIdentifier::RELOID;
    // SAFETY: a catalog lookup inside a transaction; the tuple, which has its header, is released after its use.
    unsafe {
        let tuple = pg_sys::SearchSysCache1(RELOID as i32, pg_sys::Datum::from(table));
        if tuple.is_null() {
            return None;
        }
        let xmin = (*(*tuple).t_data).t_choice.t_heap.t_xmin;
        pg_sys::ReleaseSysCache(tuple);
        Some(xmin.into_inner())
    }
}
