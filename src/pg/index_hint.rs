//! Keeps an UPDATE from searching indexes for dead entries that cannot be there.
//!
//! When an UPDATE doesn't change a B-tree's columns, PostgreSQL (14 and later) tells the index so
//! (`index_unchanged_by_update` in executor/execIndexing.c). Before a full index page is split, it is then searched
//! for entries of dead row versions (`_bt_bottomupdel_pass` in access/nbtree/nbtdedup.c, "Bottom-Up deletion" in its
//! README). That pays where rows are updated again and again. A backfill updates each row once, so the version that
//! an entry duplicates is the one that this very transaction has just replaced, and it is still alive for everybody
//! else. The search visits heap pages and frees nothing, and takes a quarter of a batch's time.
//!
//! The executor decides this once for each index of a statement and stores the answer beside the index
//! (`ii_CheckedUnchanged`, `ii_IndexUnchanged`). So we store it for our own statement, between its start and its
//! first row. This has no visible effect: no further column is assigned, no trigger on other columns fires, no
//! privilege is needed, entries that are known to be dead are still removed from a full page, and statements of the
//! user's triggers are not affected.
//!
//! Only a process that calls [`install`] has the hook: the workers of a run.

use std::cell::Cell;

use pgrx::pg_sys;
use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;

thread_local! {
    /// The leaf whose UPDATE this process is about to start.
    static LEAF: Cell<Option<pg_sys::Oid>> = const { Cell::new(None) };
    /// The next hook in the chain.
    static NEXT: Cell<pg_sys::ExecutorStart_hook_type> = const { Cell::new(None) };
}

/// Enables [`for_update_of`] in this process. Called once, when the process starts.
pub fn install() {
    // SAFETY: a variable of this process, which PostgreSQL reads only in its main thread, where this runs.
    unsafe {
        NEXT.set(pg_sys::ExecutorStart_hook);
        pg_sys::ExecutorStart_hook = Some(on_executor_start);
    }
}

/// Runs `work`, whose first statement is an UPDATE of `leaf`.
pub fn for_update_of<T>(leaf: pg_sys::Oid, work: impl FnOnce() -> T) -> T {
    struct Reset;
    impl Drop for Reset {
        fn drop(&mut self) {
            LEAF.set(None);
        }
    }
    // The statement may fail before it starts.
    let _reset = Reset;
    LEAF.set(Some(leaf));
    work()
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn on_executor_start(
    query: *mut pg_sys::QueryDesc,
    flags: std::ffi::c_int,
) {
    // Taken before anything can fail, and before the statements of triggers run.
    let leaf = LEAF.take();
    // SAFETY: PostgreSQL's own arguments, passed on.
    unsafe {
        match NEXT.get() {
            // A bare C function, unlike pgrx's bindings of PostgreSQL: its errors must not jump over our frames.
            Some(next) => pg_guard_ffi_boundary(|| next(query, flags)),
            None => pg_sys::standard_ExecutorStart(query, flags),
        }
    }
    if let Some(leaf) = leaf {
        // SAFETY: the statement has been started.
        unsafe { say_that_indexes_change(query, leaf) };
    }
}

/// # Safety
/// `query` must have been started but not run yet.
unsafe fn say_that_indexes_change(query: *mut pg_sys::QueryDesc, leaf: pg_sys::Oid) {
    // SAFETY: the executor's state nodes have the types that their tags say. Indexes opened here are closed with the
    // result relation at the end of the statement; ExecUpdatePrologue in executor/nodeModifyTable.c opens them only
    // if they are not open yet.
    unsafe {
        let state = (*query).planstate;
        if !pgrx::is_a(state.cast(), pg_sys::NodeTag::T_ModifyTableState) {
            return;
        }
        let state: *mut pg_sys::ModifyTableState = state.cast();
        let result = (*state).resultRelInfo;
        let is_ours = (*state).operation == pg_sys::CmdType::CMD_UPDATE
            && (*state).mt_nrels == 1
            && (*(*result).ri_RelationDesc).rd_id == leaf;
        if !is_ours || !(*result).ri_IndexRelationDescs.is_null() {
            return;
        }
        let context = pg_sys::MemoryContextSwitchTo((*(*query).estate).es_query_cxt);
        pg_sys::ExecOpenIndices(result, false);
        pg_sys::MemoryContextSwitchTo(context);
        for number in 0..(*result).ri_NumIndices as usize {
            let info = *(*result).ri_IndexRelationInfo.add(number);
            (*info).ii_CheckedUnchanged = true;
            (*info).ii_IndexUnchanged = false;
        }
    }
}
