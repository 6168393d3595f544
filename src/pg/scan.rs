//! Reads the pending rows of a leaf without a statement.
//!
//! Two columns of one table, one range of TIDs, one condition: there is nothing to plan. Planning costs as
//! much as reading some thousand rows and opens all indexes of the leaf, which is most of what a leaf
//! with nothing to do would cost. What a SELECT does besides, its caller has seen to: privileges are checked on
//! the target, and where row security applies a statement is used.

use pgrx::pg_sys;

use super::encoding;
use super::lock::LockedLeaf;
use crate::errors::Error;

/// Calls `row` with place and blobid of up to `limit` rows between two places, both exclusive, in physical order,
/// that have a blobid and no MIME type; returns how many there were.
///
/// Inside a transaction with a snapshot.
pub fn pending(
    leaf: &LockedLeaf,
    (from, to): (pg_sys::ItemPointerData, pg_sys::ItemPointerData),
    limit: u32,
    mut row: impl FnMut(pg_sys::ItemPointerData, &str),
) -> u32 {
    let (blobid, mime_type) = (column(leaf, c"blobid"), column(leaf, c"mime_type"));
    let last = blobid.max(mime_type);
    let (mut first_tid, mut last_tid) = (from, to);
    let mut rows = 0;
    // SAFETY: an open, locked relation; the slot is of its kind, and has as many values as have been asked for.
    // After an error, the transaction's abort releases what the scan holds.
    unsafe {
        // The scan's own bounds are inclusive.
        pg_sys::ItemPointerInc(&mut first_tid);
        pg_sys::ItemPointerDec(&mut last_tid);
        let relation = leaf.relation();
        let slot = pg_sys::table_slot_create(relation, std::ptr::null_mut());
        let scan = pg_sys::table_beginscan_tidrange(
            relation,
            pg_sys::GetActiveSnapshot(),
            &mut first_tid,
            &mut last_tid,
        );
        let forward = pg_sys::ScanDirection::ForwardScanDirection;
        while rows < limit && pg_sys::table_scan_getnextslot_tidrange(scan, forward, slot) {
            pgrx::check_for_interrupts!();
            pg_sys::slot_getsomeattrs(slot, last.into());
            let is_null = |column: i16| *(*slot).tts_isnull.add(column as usize - 1);
            if !is_null(mime_type) || is_null(blobid) {
                continue;
            }
            let datum = *(*slot).tts_values.add(blobid as usize - 1);
            let stored: *mut pg_sys::varlena = datum.cast_mut_ptr();
            let text = pg_sys::pg_detoast_datum_packed(stored);
            let bytes = pgrx::varlena::varlena_to_byte_slice(text);
            row((*slot).tts_tid, &encoding::from_server(bytes));
            if text != stored {
                pg_sys::pfree(text.cast());
            }
            rows += 1;
        }
        pg_sys::table_endscan(scan);
        pg_sys::ExecDropSingleTupleTableSlot(slot);
    }
    rows
}

/// The number of a column of text. It was there when the run began; somebody may have changed the table since.
fn column(leaf: &LockedLeaf, name: &'static std::ffi::CStr) -> i16 {
    let target = || leaf.qualified_name();
    let column = name.to_str().unwrap_or_default();
    // SAFETY: catalog look-ups inside a transaction.
    unsafe {
        let number = pg_sys::get_attnum(leaf.oid(), name.as_ptr());
        if number < 1 {
            let target = target();
            Error::NoSuchColumn { target, column }.raise();
        }
        match pg_sys::get_atttype(leaf.oid(), number) {
            pg_sys::TEXTOID | pg_sys::VARCHAROID => number,
            other => {
                let target = target();
                let found = pg_sys::format_type_be(other);
                let found = encoding::from_server_c(found).unwrap_or_default();
                Error::WrongType {
                    target,
                    column,
                    found,
                }
                .raise()
            }
        }
    }
}
