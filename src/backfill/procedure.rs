//! The SQL surface of the backfill: the procedure and the function that cancels it.
//!
//! `ntt_backfill_mime` commits, so it is a bare C-language function: pgrx's argument handling keeps
//! borrowed data across the call, which must not live across a commit.
//!
//! `ntt_backfill_mime_on_node` does the same for who runs a command on many nodes, as Citus' `run_command_on_all_nodes` does:
//! it returns one column, and a node that has none of the target's shards isn't an error.

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

/// The same of the other procedure.
#[unsafe(no_mangle)]
pub extern "C" fn pg_finfo_ntt_backfill_mime_on_node() -> &'static pg_sys::Pg_finfo_record {
    pg_finfo_ntt_backfill_mime()
}

/// `CALL ntt_backfill_mime(…)`; for the arguments see sql/procedures.sql.
///
/// # Safety
/// Called by PostgreSQL's function manager only.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn ntt_backfill_mime(
    fcinfo: pg_sys::FunctionCallInfo,
) -> pg_sys::Datum {
    // SAFETY: as promised to us.
    unsafe { call(fcinfo, Results::Row) }
}

/// `CALL ntt_backfill_mime_on_node(…)`, with the same arguments.
///
/// # Safety
/// Called by PostgreSQL's function manager only.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn ntt_backfill_mime_on_node(
    fcinfo: pg_sys::FunctionCallInfo,
) -> pg_sys::Datum {
    // SAFETY: as promised to us.
    unsafe { call(fcinfo, Results::Json) }
}

/// What a procedure's INOUT arguments are.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Results {
    /// Each result by itself.
    Row,
    /// All of them in one jsonb.
    Json,
}

/// # Safety
/// A call by PostgreSQL's function manager.
unsafe fn call(fcinfo: pg_sys::FunctionCallInfo, results: Results) -> pg_sys::Datum {
    let mut error = std::ptr::null_mut();
    // SAFETY: as promised to us; `guarded` has dropped all that it had when it returns, and this
    // frame has nothing to drop.
    unsafe {
        let row = guarded(fcinfo, results, &mut error);
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
    results: Results,
    error: &mut *mut pg_sys::ErrorData,
) -> pg_sys::Datum {
    // SAFETY: a valid call with the arguments of the declaration. Those that are read are passed by value, so nothing
    // borrowed crosses a commit.
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
            schema: pg_sys::get_func_namespace((*(*fcinfo).flinfo).fn_oid),
        }
    };
    tx::enter_nonatomic();
    let result = match results {
        Results::Row => leader::run(&arguments).map(Some),
        Results::Json => leader::run_on_node(&arguments),
    };
    tx::leave_nonatomic();
    match result {
        // SAFETY: back in the memory context in which we were called.
        Ok(summary) => unsafe {
            match (results, summary) {
                (Results::Row, Some(summary)) => result_row(fcinfo, row_of(&summary)),
                (_, summary) => result_row(fcinfo, [json_of(summary)]),
            }
        },
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

fn row_of(summary: &Summary) -> [Option<pg_sys::Datum>; 5] {
    let micros = summary.elapsed.as_micros() as i64;
    let elapsed = pgrx::datum::Interval::from_micros(micros);
    [
        summary.run_id.into_datum(),
        summary.blobs.into_datum(),
        summary.rows_updated.into_datum(),
        summary.failures.into_datum(),
        elapsed.into_datum(),
    ]
}

/// The same under the names of the other procedure's arguments.
fn json_of(summary: Option<Summary>) -> Option<pg_sys::Datum> {
    let json = match summary {
        Some(summary) => serde_json::json!({
            "run_id": summary.run_id,
            "blobs": summary.blobs,
            "rows_updated": summary.rows_updated,
            "failures": summary.failures,
            // As an interval is written.
            "elapsed": format!("{:.3} seconds", summary.elapsed.as_secs_f64()),
        }),
        None => serde_json::json!({ "skipped": "no shard of the table is on this node" }),
    };
    pgrx::JsonB(json).into_datum()
}

/// The values of the INOUT arguments, none of which is null, as a composite value.
///
/// # Safety
/// As many values, and of the types, as the called procedure has INOUT arguments.
unsafe fn result_row<const N: usize>(
    fcinfo: pg_sys::FunctionCallInfo,
    values: [Option<pg_sys::Datum>; N],
) -> pg_sys::Datum {
    let mut values = values.map(|value| value.unwrap_or(pg_sys::Datum::null()));
    let mut nulls = [false; N];
    // SAFETY: the procedure's INOUT arguments make a row of exactly these types.
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
