//! The SQL surface of the backfill and of the verification: the procedures, and the function that cancels a run.
//!
//! The procedures commit, so they are bare C-language functions: pgrx's argument handling keeps
//! borrowed data across the call, which must not live across a commit.
//!
//! `ntt_backfill_mime_on_node` and `ntt_verify_mime_on_node` do the same for who runs a command on many nodes, as Citus'
//! `run_command_on_all_nodes` does: they return one column, and a node that has none of the target's shards isn't an error.

use pgrx::prelude::*;
use pgrx::{IntoDatum, pg_sys};

use super::leader::{self, Summary};
use super::options::{Arguments, Procedure, TaskArguments};
use super::shared::Shared;
use super::{differences, run_log};
use crate::errors::Error;
use crate::pg::dsm::Segment;
use crate::pg::{encoding, identity, tx, version};

/// A procedure of C's: version-1 calling convention, as `PG_FUNCTION_INFO_V1` says it in C, and what it does.
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
            // SAFETY: as promised to us.
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

/// The trigger that removes the differences of runs whose rows are removed.
///
/// # Safety
/// Called by PostgreSQL's function manager only.
#[pg_guard]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn ntt_remove_differences(
    _fcinfo: pg_sys::FunctionCallInfo,
) -> pg_sys::Datum {
    differences::remove_orphans();
    // What a trigger after a statement gives is ignored, but has to be no null by its mark.
    pg_sys::Datum::null()
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
/// A call by PostgreSQL's function manager of that procedure.
unsafe fn call(
    fcinfo: pg_sys::FunctionCallInfo,
    procedure: Procedure,
    results: Results,
) -> pg_sys::Datum {
    let mut error = std::ptr::null_mut();
    // SAFETY: as promised to us; `guarded` has dropped all that it had when it returns, and this
    // frame has nothing to drop.
    unsafe {
        let row = guarded(fcinfo, procedure, results, &mut error);
        if !error.is_null() {
            version::throw(error);
        }
        row
    }
}

/// A procedure, with Rust's panics turned into PostgreSQL's errors. An error of the run itself is
/// left in `error`.
#[pg_guard]
unsafe extern "C-unwind" fn guarded(
    fcinfo: pg_sys::FunctionCallInfo,
    procedure: Procedure,
    results: Results,
    error: &mut *mut pg_sys::ErrorData,
) -> pg_sys::Datum {
    // SAFETY: a valid call with the arguments of the declaration; what is passed by reference is copied, so
    // nothing borrowed crosses a commit.
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
        // SAFETY: back in the memory context in which we were called.
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

/// The results that count something, with their names.
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

/// The same under the names of the other procedure's arguments.
fn json_of(procedure: Procedure, summary: Option<Summary>) -> Option<pg_sys::Datum> {
    let json = match summary {
        Some(summary) => {
            let numbers = numbers(procedure, &summary).into_iter();
            let mut json: serde_json::Map<String, serde_json::Value> = numbers
                .map(|(name, number)| (name.to_owned(), number.into()))
                .collect();
            // As an interval is written.
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
/// As many values, and of the types, as the called procedure has INOUT arguments.
unsafe fn result_row(
    fcinfo: pg_sys::FunctionCallInfo,
    values: Vec<Option<pg_sys::Datum>>,
) -> pg_sys::Datum {
    let value = |value: Option<pg_sys::Datum>| value.unwrap_or(pg_sys::Datum::null());
    let mut values: Vec<pg_sys::Datum> = values.into_iter().map(value).collect();
    let mut nulls = vec![false; values.len()];
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
