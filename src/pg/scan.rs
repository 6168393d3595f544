//! Reads rows of a leaf without a statement.
//!
//! Two columns of one table, one range of TIDs, one condition: there is nothing to plan. Planning takes as long as
//! reading some thousand rows and opens all indexes of the leaf, which is most of the cost of a leaf with nothing to
//! do. The caller does what else a SELECT does: it checks privileges on the target, and uses a statement where row
//! security applies.

use std::collections::HashSet;

use pgrx::pg_sys;

use super::lock::{LockedLeaf, plain_name, type_name};
use super::xids::Horizon;
use super::{encoding, xids};
use crate::errors::Error;

/// Which of the rows that have a blobid are read.
#[derive(Clone, Copy)]
pub enum Wanted<'a> {
    /// Those without a MIME type.
    Pending,
    /// Rows with a MIME type: if types are named, only these; and only row versions from before a moment.
    Typed(Option<&'a HashSet<String>>, &'a Horizon),
}

/// Calls `row` with TID, blobid and MIME type (if there is one) of up to `limit` rows between two TIDs, both
/// exclusive, in physical order. Returns the number of rows.
///
/// Must be called inside a transaction with a snapshot.
pub fn rows(
    leaf: &LockedLeaf,
    wanted: Wanted<'_>,
    (from, to): (pg_sys::ItemPointerData, pg_sys::ItemPointerData),
    limit: u32,
    mut row: impl FnMut(pg_sys::ItemPointerData, &str, Option<&str>),
) -> u32 {
    let typed = matches!(wanted, Wanted::Typed(..));
    let next = match wanted {
        Wanted::Pending => 0,
        Wanted::Typed(..) => xids::next(),
    };
    let (blobid, mime_type) = (column(leaf, c"blobid"), column(leaf, c"mime_type"));
    let last = blobid.max(mime_type);
    let (mut first_tid, mut last_tid) = (from, to);
    let mut rows = 0;
    // SAFETY: an open, locked relation. The slot is of its kind, and has as many values as have been requested. After
    // an error, the transaction's abort releases what the scan holds.
    unsafe {
        // The scan's own bounds are inclusive.
        pg_sys::ItemPointerInc(&mut first_tid);
        pg_sys::ItemPointerDec(&mut last_tid);
        let relation = leaf.relation();
        let slot = pg_sys::table_slot_create(relation, std::ptr::null_mut());
        let scan = begin(relation, &mut first_tid, &mut last_tid);
        let forward = pg_sys::ScanDirection::ForwardScanDirection;
        while rows < limit && pg_sys::table_scan_getnextslot_tidrange(scan, forward, slot) {
            pgrx::check_for_interrupts!();
            pg_sys::slot_getsomeattrs(slot, last.into());
            let is_null = |column: i16| *(*slot).tts_isnull.add(column as usize - 1);
            if is_null(mime_type) == typed || is_null(blobid) {
                continue;
            }
            let value = |column: i16| *(*slot).tts_values.add(column as usize - 1);
            let place = (*slot).tts_tid;
            let is_wanted = match wanted {
                Wanted::Pending => {
                    encoding::with_text(value(blobid), |blobid| row(place, blobid, None));
                    true
                }
                Wanted::Typed(_, horizon) if horizon.is_before(xmin(slot), next) => false,
                Wanted::Typed(types, _) => encoding::with_text(value(mime_type), |mime_type| {
                    let is_wanted = types.is_none_or(|types| types.contains(mime_type));
                    if is_wanted {
                        encoding::with_text(value(blobid), |blobid| {
                            row(place, blobid, Some(mime_type))
                        });
                    }
                    is_wanted
                }),
            };
            rows += u32::from(is_wanted);
        }
        pg_sys::table_endscan(scan);
        pg_sys::ExecDropSingleTupleTableSlot(slot);
    }
    rows
}

/// Begins a scan between two TIDs, both inclusive.
///
/// It does what `table_beginscan_tidrange` does, and, with SO_ALLOW_STRAT, what a sequential scan does in addition:
/// blocks of a table that is larger than a quarter of `shared_buffers` go through a ring of a few buffers (`initscan`
/// in access/heap/heapam.c), so that they don't evict what others need. PostgreSQL's own TID range scans don't,
/// because their ranges are assumed to be small. Ours, one after another, cover the whole table. A batch that is
/// updated is read a second time, from the operating system's cache, which costs little compared with the update.
///
/// # Safety
/// An open relation, locked, whose access method supports TID range scans; inside a transaction with a snapshot.
unsafe fn begin(
    relation: pg_sys::Relation,
    first: pg_sys::ItemPointer,
    last: pg_sys::ItemPointer,
) -> pg_sys::TableScanDesc {
    use pg_sys::ScanOptions::{SO_ALLOW_PAGEMODE, SO_ALLOW_STRAT, SO_TYPE_TIDRANGESCAN};
    // SAFETY: the caller's promise; an access method that supports TID range scans has all of these functions.
    unsafe {
        let method = &*(*relation).rd_tableam;
        let begin = method.scan_begin.expect("every access method has it");
        let set_range = method.scan_set_tidrange.expect("it scans ranges");
        let scan = begin(
            relation,
            pg_sys::GetActiveSnapshot(),
            0,
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            SO_TYPE_TIDRANGESCAN | SO_ALLOW_PAGEMODE | SO_ALLOW_STRAT,
        );
        set_range(scan, first, last);
        scan
    }
}

/// The transaction id that wrote a row version.
///
/// # Safety
/// A slot that has one.
unsafe fn xmin(slot: *mut pg_sys::TupleTableSlot) -> u32 {
    // SAFETY: the caller's promise. This is what slot_getsysattr does, which is an inline function.
    unsafe {
        let mut is_null = false;
        let get = (*(*slot).tts_ops)
            .getsysattr
            .expect("every kind of slot has one");
        get(slot, pg_sys::MinTransactionIdAttributeNumber, &mut is_null).value() as u32
    }
}

/// Raises an error if the columns of the leaf are no longer what they were when the run began; somebody may have
/// altered the table.
pub fn check_columns(leaf: &LockedLeaf) {
    column(leaf, c"blobid");
    column(leaf, c"mime_type");
}

/// Whether a column's value is computed when it is read and not stored in the row (PostgreSQL 18 and later).
pub fn is_computed(leaf: &LockedLeaf, name: &std::ffi::CStr) -> bool {
    const VIRTUAL: u8 = b'v'; // ATTRIBUTE_GENERATED_VIRTUAL in PostgreSQL's catalog/pg_attribute.h
    // SAFETY: a catalog look-up inside a transaction; the tuple is released after its use.
    unsafe {
        let tuple = pg_sys::SearchSysCacheAttName(leaf.oid(), name.as_ptr());
        if tuple.is_null() {
            return false;
        }
        let form = pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_attribute>();
        let generated = (*form).attgenerated as u8;
        pg_sys::ReleaseSysCache(tuple);
        generated == VIRTUAL
    }
}

/// The number of a text column. It existed when the run began, but somebody may have altered the table since.
pub fn column(leaf: &LockedLeaf, name: &'static std::ffi::CStr) -> i16 {
    // SAFETY: catalog look-ups inside a transaction.
    let (number, kind) = unsafe {
        let number = pg_sys::get_attnum(leaf.oid(), name.as_ptr());
        (number, pg_sys::get_atttype(leaf.oid(), number))
    };
    if number > 0 && [pg_sys::TEXTOID, pg_sys::VARCHAROID].contains(&kind) {
        return number;
    }
    let target = plain_name(leaf.oid()).unwrap_or_default();
    let column = name.to_str().unwrap_or_default();
    if number < 1 {
        Error::NoSuchColumn { target, column }.raise()
    }
    Error::WrongType {
        target,
        column,
        found: type_name(kind),
    }
    .raise()
}
