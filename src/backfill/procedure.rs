//! The SQL surface of the backfill and of the verification: the procedures, and the function that cancels a run.
//!
//! The procedures commit, so they are bare C-language functions: pgrx's argument handling keeps borrowed data during
//! the call, and such data must not outlive a commit.
//!
//! `ntt_backfill_mime_on_node` and `ntt_verify_mime_on_node` do the same for callers that run a command on many
//! nodes, such as Citus' `run_command_on_all_nodes`. They return one column, and a node without any of the target's
//! shards isn't an error.

use pgrx::prelude::*;
use pgrx::{IntoDatum, pg_sys};

use super::leader::{self, Summary};
use super::options::{Arguments, Procedure, TaskArguments};
use super::shared::Shared;
use super::{differences, run_log};
use crate::errors::Error;
use crate::pg::dsm::Segment;
use crate::pg::{encoding, identity, tx, version};

/// A C-language procedure: its declaration with calling convention version 1, as by `PG_FUNCTION_INFO_V1` in C, and
/// its body.
macro_rules! procedure {
    ($name:ident, $info:ident, $procedure:expr, $results:expr) => {
        #[unsafe(no_mangle)]
        pub extern "C" fn $info() -> &'static pg_sys::Pg_finfo_record {
            &INFO
        }

        /// For the arguments see sql/procedures.sql.
        ///
        /// # Safety
        /// Called by PostgreSQL's function manager only.
        #[unsafe(no_mangle)]
        pub unsafe extern "C-unwind" fn $name(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
            // SAFETY: the caller's promise.
            unsafe { call(fcinfo, $procedure, $results) }
        }
    };
}

static INFO: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };

procedure!(
    ntt_backfill_mime,
    pg_finfo_ntt_backfill_mime,
    Procedure::Backfill,
    Results::Row
);
procedure!(
    ntt_verify_mime,
    pg_finfo_ntt_verify_mime,
    Procedure::Verify,
    Results::Row
);
procedure!(
    ntt_backfill_mime_on_node,
    pg_finfo_ntt_backfill_mime_on_node,
    Procedure::Backfill,
    Results::Json
);
procedure!(
    ntt_verify_mime_on_node,
    pg_finfo_ntt_verify_mime_on_node,
    Procedure::Verify,
    Results::Json
);

#[unsafe(no_mangle)]
pub extern "C" fn pg_finfo_ntt_remove_differences() -> &'static pg_sys::Pg_finfo_record {
    &INFO
}

/// The trigger that removes the differences of removed runs.
///
/// # Safety
/// Called by PostgreSQL's function manager only.
#[pg_guard]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn ntt_remove_differences(
    _fcinfo: pg_sys::FunctionCallInfo,
) -> pg_sys::Datum {
    differences::remove_orphans();
    // The result of a statement-level AFTER trigger is ignored, but must not be marked as null.
    pg_sys::Datum::null()
}

/// The INOUT arguments of a procedure.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Results {
    /// One for each result.
    Row,
    /// One jsonb with all results.
    Json,
}

/// # Safety
/// A call of that procedure by PostgreSQL's function manager.
unsafe fn call(
    fcinfo: pg_sys::FunctionCallInfo,
    procedure: Procedure,
    results: Results,
) -> pg_sys::Datum {
    let mut error = std::ptr::null_mut();
    // SAFETY: the caller's promise; `guarded` has dropped everything when it returns, and this frame has nothing to
    // drop.
    unsafe {
        let row = guarded(fcinfo, procedure, results, &mut error);
        if !error.is_null() {
            version::throw(error);
        }
        row
    }
}

/// Runs a procedure, and turns Rust's panics into PostgreSQL's errors. An error of the run itself is returned in
/// `error`.
#[pg_guard]
unsafe extern "C-unwind" fn guarded(
    fcinfo: pg_sys::FunctionCallInfo,
    procedure: Procedure,
    results: Results,
    error: &mut *mut pg_sys::ErrorData,
) -> pg_sys::Datum {
    // SAFETY: a valid call with the declared arguments. What is passed by reference is copied, so nothing borrowed
    // outlives a commit.
    let arguments = unsafe {
        if !may_commit(fcinfo) {
            Error::TransactionBlock { procedure }.raise();
        }
        let (target, task) = match procedure {
            Procedure::Backfill => {
                let task = TaskArguments::Backfill {
                    dry_run: pgrx::pg_getarg(fcinfo, 3),
                    retry_failed: pgrx::pg_getarg(fcinfo, 5),
                };
                (4, task)
            }
            Procedure::Verify => {
                let only_types = pgrx::pg_getarg_datum(fcinfo, 5);
                let task = TaskArguments::Verify {
                    sample_percent: pgrx::pg_getarg(fcinfo, 3),
                    correct: pgrx::pg_getarg(fcinfo, 4),
                    only_types: only_types.map(|types| encoding::texts_of(types)),
                };
                (6, task)
            }
        };
        Arguments {
            batch_size: pgrx::pg_getarg(fcinfo, 0),
            workers: pgrx::pg_getarg(fcinfo, 1),
            max_blobs: pgrx::pg_getarg(fcinfo, 2),
            target: pgrx::pg_getarg(fcinfo, target),
            task,
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
        // SAFETY: the current memory context is the one in which we were called.
        Ok(summary) => unsafe {
            match (results, summary) {
                (Results::Row, Some(summary)) => result_row(fcinfo, row_of(procedure, &summary)),
                (_, summary) => result_row(fcinfo, vec![json_of(procedure, summary)]),
            }
        },
        Err(raised) => {
            *error = raised.into_error_data();
            pg_sys::Datum::null()
        }
    }
}

/// Whether a CALL that may commit has called us. A CALL in a DO block or a procedure doesn't count: the rollback
/// after an error would destroy the state that it needs.
unsafe fn may_commit(fcinfo: pg_sys::FunctionCallInfo) -> bool {
    // SAFETY: the context is NULL or a node; only a CallContext is read.
    unsafe {
        let context = (*fcinfo).context;
        !context.is_null()
            && (*context).type_ == pg_sys::NodeTag::T_CallContext
            && !(*context.cast::<pg_sys::CallContext>()).atomic
            && !pg_sys::SPI_inside_nonatomic_context()
    }
}

/// The numeric results, with their names.
fn numbers(procedure: Procedure, summary: &Summary) -> Vec<(&'static str, i64)> {
    let mut numbers = vec![("run_id", summary.run_id), ("blobs", summary.blobs)];
    match procedure {
        Procedure::Backfill => numbers.push(("rows_updated", summary.rows_updated)),
        Procedure::Verify => numbers.extend([
            ("rows_checked", summary.rows_checked),
            ("rows_different", summary.rows_different),
            ("rows_corrected", summary.rows_updated),
        ]),
    }
    numbers.push(("failures", summary.failures));
    numbers
}

fn row_of(procedure: Procedure, summary: &Summary) -> Vec<Option<pg_sys::Datum>> {
    let micros = summary.elapsed.as_micros() as i64;
    let elapsed = pgrx::datum::Interval::from_micros(micros);
    let numbers = numbers(procedure, summary).into_iter();
    let numbers = numbers.map(|(_, number)| number.into_datum());
    numbers.chain([elapsed.into_datum()]).collect()
}

/// All results as jsonb, under the names of the other procedure's arguments.
fn json_of(procedure: Procedure, summary: Option<Summary>) -> Option<pg_sys::Datum> {
    let json = match summary {
        Some(summary) => {
            let numbers = numbers(procedure, &summary).into_iter();
            let mut json: serde_json::Map<String, serde_json::Value> = numbers
                .map(|(name, number)| (name.to_owned(), number.into()))
                .collect();
            // In the format of an interval.
            let elapsed = format!("{:.3} seconds", summary.elapsed.as_secs_f64());
            json.insert("elapsed".to_owned(), elapsed.into());
            json.into()
        }
        None => serde_json::json!({ "skipped": "no shard of the table is on this node" }),
    };
    pgrx::JsonB(json).into_datum()
}

/// The values of the INOUT arguments, none of which is null, as a composite value.
///
/// # Safety
/// There are as many values, and of the same types, as the called procedure has INOUT arguments.
unsafe fn result_row(
    fcinfo: pg_sys::FunctionCallInfo,
    values: Vec<Option<pg_sys::Datum>>,
) -> pg_sys::Datum {
    let value = |value: Option<pg_sys::Datum>| value.unwrap_or(pg_sys::Datum::null());
    let mut values: Vec<pg_sys::Datum> = values.into_iter().map(value).collect();
    let mut nulls = vec![false; values.len()];
    // SAFETY: the procedure's INOUT arguments form a row of exactly these types.
    unsafe {
        let mut descriptor = std::ptr::null_mut();
        pg_sys::get_call_result_type(fcinfo, std::ptr::null_mut(), &mut descriptor);
        let descriptor = pg_sys::BlessTupleDesc(descriptor);
        let tuple = pg_sys::heap_form_tuple(descriptor, values.as_mut_ptr(), nulls.as_mut_ptr());
        pg_sys::HeapTupleHeaderGetDatum((*tuple).t_data)
    }
}

/// Asks a run to stop after its current batches. Returns true if it was running.
#[pg_extern(sql = false)]
fn ntt_cancel_backfill(run_id: i64) -> bool {
    let Some(run) = run_log::running(run_id) else {
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
