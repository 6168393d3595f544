//! The SQL surface of the backfill: the procedure and the function that cancels it.
//!
//! `ntt_backfill_mime` commits, so it is a bare C-language function: pgrx's argument handling keeps
//! borrowed data across the call, which must not live across a commit.

use pgrx::prelude::*;
use pgrx::{IntoDatum, pg_sys};

use super::history;
use super::leader::{self, Summary};
use super::options::Arguments;
use super::shared::Shared;
use crate::errors::Error;
use crate::pg::dsm::Segment;
use crate::pg::{identity, tx, version};

/// Version-1 calling convention, as `PG_FUNCTION_INFO_V1` says it in C.
#[unsafe(no_mangle)]
pub extern "C" fn pg_finfo_ntt_backfill_mime() -> &'static pg_sys::Pg_finfo_record {
    const INFO: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };
    &INFO
}

/// `CALL ntt_backfill_mime(…)`; for the arguments see sql/procedures.sql.
///
/// # Safety
/// Called by PostgreSQL's function manager only.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn ntt_backfill_mime(
    fcinfo: pg_sys::FunctionCallInfo,
) -> pg_sys::Datum {
    let mut error = std::ptr::null_mut();
    // SAFETY: as promised to us; `guarded` has dropped all that it had when it returns, and this
    // frame has nothing to drop.
    unsafe {
        let row = guarded(fcinfo, &mut error);
        if !error.is_null() {
            version::throw(error);
        }
        row
    }
}

/// The procedure, with Rust's panics turned into PostgreSQL's errors. An error of the run itself is
/// left in `error`.
#[pg_guard]
unsafe extern "C-unwind" fn guarded(
    fcinfo: pg_sys::FunctionCallInfo,
    error: &mut *mut pg_sys::ErrorData,
) -> pg_sys::Datum {
    // SAFETY: a valid call with the eleven arguments of the declaration; all are passed by value, so
    // nothing borrowed crosses a commit.
    let arguments = unsafe {
        if !may_commit(fcinfo) {
            Error::TransactionBlock.raise();
        }
        Arguments {
            batch_size: pgrx::pg_getarg(fcinfo, 0),
            workers: pgrx::pg_getarg(fcinfo, 1),
            max_blobs: pgrx::pg_getarg(fcinfo, 2),
            dry_run: pgrx::pg_getarg(fcinfo, 3),
            target: pgrx::pg_getarg(fcinfo, 4),
            retry_failed: pgrx::pg_getarg(fcinfo, 5),
        }
    };
    tx::enter_nonatomic();
    let result = leader::run(&arguments);
    tx::leave_nonatomic();
    match result {
        // SAFETY: back in the memory context in which we were called.
        Ok(summary) => unsafe { result_row(fcinfo, &summary) },
        Err(raised) => {
            *error = raised.into_error_data();
            pg_sys::Datum::null()
        }
    }
}

/// Were we called by a CALL that may commit? Not by one in a DO block or a procedure: the rollback
/// after an error would pull the ground from under it.
unsafe fn may_commit(fcinfo: pg_sys::FunctionCallInfo) -> bool {
    // SAFETY: the context is NULL or a node; only a CallContext is looked into.
    unsafe {
        let context = (*fcinfo).context;
        !context.is_null()
            && (*context).type_ == pg_sys::NodeTag::T_CallContext
            && !(*context.cast::<pg_sys::CallContext>()).atomic
            && !pg_sys::SPI_inside_nonatomic_context()
    }
}

/// The values of the INOUT arguments as a composite value.
unsafe fn result_row(fcinfo: pg_sys::FunctionCallInfo, summary: &Summary) -> pg_sys::Datum {
    let micros = summary.elapsed.as_micros() as i64;
    let elapsed = pgrx::datum::Interval::from_micros(micros);
    let mut values = [
        summary.run_id.into_datum(),
        summary.blobs.into_datum(),
        summary.rows_updated.into_datum(),
        summary.failures.into_datum(),
        elapsed.into_datum(),
    ]
    .map(|value| value.unwrap_or(pg_sys::Datum::null()));
    let mut nulls = [false; 5];
    // SAFETY: the procedure's INOUT arguments make a row of exactly these five types.
    unsafe {
        let mut descriptor = std::ptr::null_mut();
        pg_sys::get_call_result_type(fcinfo, std::ptr::null_mut(), &mut descriptor);
        let descriptor = pg_sys::BlessTupleDesc(descriptor);
        let tuple = pg_sys::heap_form_tuple(descriptor, values.as_mut_ptr(), nulls.as_mut_ptr());
        pg_sys::HeapTupleHeaderGetDatum((*tuple).t_data)
    }
}

/// Asks a run to stop after its current batches; true when it was running.
#[pg_extern(sql = false)]
fn ntt_cancel_backfill(run_id: i64) -> bool {
    let Some(run) = history::running(run_id) else {
        return false;
    };
    if !run.role.is_some_and(identity::acts_for) && !identity::is_superuser() {
        Error::NotOwner { run_id }.raise();
    }
    let Some(segment) = run.handle.and_then(Segment::attach) else {
        return false;
    };
    match Shared::view(&segment).filter(|shared| shared.run_id() == run_id) {
        Some(shared) => shared.cancel(),
        None => false,
    }
}
