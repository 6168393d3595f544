//! Rows by their TIDs: locking them, and finding out what has become of them.

use pgrx::pg_sys;

use super::lock::LockedLeaf;
use super::{encoding, scan};

/// The place of a row: block and offset.
pub type Tid = pg_sys::ItemPointerData;

/// The TID before the first row of a block.
pub fn start_of_block(block: u32) -> Tid {
    Tid {
        ip_blkid: pg_sys::BlockIdData {
            bi_hi: (block >> 16) as u16,
            bi_lo: (block & 0xFFFF) as u16,
        },
        ip_posid: 0,
    }
}

/// The block of a TID.
pub fn block_of(tid: Tid) -> u32 {
    u32::from(tid.ip_blkid.bi_hi) << 16 | u32::from(tid.ip_blkid.bi_lo)
}

/// What to do about a row that another transaction has locked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wait {
    /// Wait for it, up to `lock_timeout`.
    ForRows,
    /// Skip it.
    ForNobody,
}

/// The result of locking some rows.
#[derive(Default)]
pub struct LockedRows {
    pub tids: Vec<Tid>,
    /// Rows that were skipped because another transaction holds them.
    pub held: u64,
    /// Rows that others have changed or removed since the snapshot.
    pub changed: u64,
}

/// Locks rows as an UPDATE of `mime_type` does. Must be called inside a transaction with a snapshot that sees the
/// rows.
pub fn lock(leaf: &LockedLeaf, tids: Vec<Tid>, wait: Wait) -> LockedRows {
    let mode = lock_mode(leaf);
    let policy = match wait {
        Wait::ForRows => pg_sys::LockWaitPolicy::LockWaitBlock,
        Wait::ForNobody => pg_sys::LockWaitPolicy::LockWaitSkip,
    };
    let mut locked = LockedRows::default();
    with_slot(leaf, |slot| {
        for mut tid in tids {
            pgrx::check_for_interrupts!();
            let mut failure = pg_sys::TM_FailureData::default();
            let place = tid;
            // SAFETY: an open, locked relation and a slot of its kind. The snapshot sees the row, so it can't have
            // been removed physically.
            let result = unsafe {
                pg_sys::table_tuple_lock(
                    leaf.relation(),
                    &mut tid,
                    pg_sys::GetActiveSnapshot(),
                    slot,
                    pg_sys::GetCurrentCommandId(false),
                    mode,
                    policy,
                    0,
                    &mut failure,
                )
            };
            match result {
                pg_sys::TM_Result::TM_Ok => locked.tids.push(place),
                pg_sys::TM_Result::TM_WouldBlock => locked.held += 1,
                _ => locked.changed += 1,
            }
        }
    });
    locked
}

/// The mode in which an UPDATE of `mime_type` locks a row: see ExecUpdateLockMode in executor/nodeModifyTable.c.
fn lock_mode(leaf: &LockedLeaf) -> pg_sys::LockTupleMode::Type {
    // SAFETY: an open, locked relation; the bitmap is a copy in the current memory context.
    let is_key = unsafe {
        let keys = pg_sys::RelationGetIndexAttrBitmap(
            leaf.relation(),
            pg_sys::IndexAttrBitmapKind::INDEX_ATTR_BITMAP_KEY,
        );
        let number = pg_sys::get_attnum(leaf.oid(), c"mime_type".as_ptr());
        let member = i32::from(number) - pg_sys::FirstLowInvalidHeapAttributeNumber;
        pg_sys::bms_is_member(member, keys)
    };
    match is_key {
        true => pg_sys::LockTupleMode::LockTupleExclusive,
        false => pg_sys::LockTupleMode::LockTupleNoKeyExclusive,
    }
}

/// The type that rows should have after an update.
#[derive(Clone, Copy)]
pub enum Expected<'a> {
    /// Any type.
    AType,
    /// The type at the same position.
    Types(&'a [&'a str]),
}

/// What has become of rows.
#[derive(Default)]
pub struct Fates {
    /// Rows that have the expected type: the TIDs that they had before.
    pub filled: Vec<Tid>,
    /// Rows that don't have it and are unchanged.
    pub as_before: u64,
    /// Rows that don't have it and have been changed: the TIDs that they had before.
    pub changed: Vec<Tid>,
    /// Rows that no longer exist, or no longer have a blobid.
    pub gone: u64,
}

/// Finds out what this transaction has made of rows that it has locked. Each is followed to its latest version.
pub fn fates(leaf: &LockedLeaf, tids: &[Tid], expected: Expected<'_>) -> Fates {
    let blobid = scan::column(leaf, c"blobid");
    let mime_type = scan::column(leaf, c"mime_type");
    // A virtual generated column isn't stored in the row.
    let computed = scan::is_computed(leaf, c"blobid");
    let last = blobid.max(mime_type);
    let mut fates = Fates::default();
    with_slot(leaf, |slot| {
        // SAFETY: inside a transaction; a new snapshot sees what all earlier statements have done. Scan and snapshot
        // are released here, or by the abort after an error. The slot has as many values as have been requested.
        unsafe {
            pg_sys::CommandCounterIncrement();
            pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
            let snapshot = pg_sys::GetActiveSnapshot();
            let scan = pg_sys::table_beginscan_tid(leaf.relation(), snapshot);
            for (at, tid) in tids.iter().enumerate() {
                pgrx::check_for_interrupts!();
                let mut latest = *tid;
                pg_sys::table_tuple_get_latest_tid(scan, &mut latest);
                let there = pg_sys::table_tuple_fetch_row_version(
                    leaf.relation(),
                    &mut latest,
                    snapshot,
                    slot,
                );
                if !there {
                    fates.gone += 1;
                    continue;
                }
                pg_sys::slot_getsomeattrs(slot, last.into());
                let is_null = |column: i16| *(*slot).tts_isnull.add(column as usize - 1);
                let value = *(*slot).tts_values.add(mime_type as usize - 1);
                let is_as_expected = !is_null(mime_type)
                    && match expected {
                        Expected::AType => true,
                        Expected::Types(types) => {
                            encoding::with_text(value, |now| now == types[at])
                        }
                    };
                if is_as_expected {
                    fates.filled.push(*tid);
                } else if is_null(blobid) && !computed {
                    fates.gone += 1;
                } else if same(*tid, latest) {
                    fates.as_before += 1;
                } else {
                    fates.changed.push(*tid);
                }
            }
            pg_sys::table_endscan(scan);
            pg_sys::PopActiveSnapshot();
        }
    });
    fates
}

/// The TID as a number, in physical order.
pub fn number(tid: Tid) -> u64 {
    u64::from(block_of(tid)) << 16 | u64::from(tid.ip_posid)
}

fn same(a: Tid, b: Tid) -> bool {
    number(a) == number(b)
}

/// Runs `work` with a slot for rows of the leaf.
fn with_slot<T>(leaf: &LockedLeaf, work: impl FnOnce(*mut pg_sys::TupleTableSlot) -> T) -> T {
    // SAFETY: an open relation. The slot is dropped here, or after an error with its memory and its pin by the abort.
    unsafe {
        let slot = pg_sys::table_slot_create(leaf.relation(), std::ptr::null_mut());
        let value = work(slot);
        pg_sys::ExecDropSingleTupleTableSlot(slot);
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_split_into_halves_as_postgresql_does() {
        let tid = start_of_block(0x0123_4567);
        assert_eq!((tid.ip_blkid.bi_hi, tid.ip_blkid.bi_lo), (0x0123, 0x4567));
        assert_eq!((block_of(tid), tid.ip_posid), (0x0123_4567, 0));
    }
}
