//! Spares an UPDATE the search for index entries that it cannot find.
//!
//! When an UPDATE leaves a B-tree's columns as they are, PostgreSQL (14 and later) tells the index so
//! (`index_unchanged_by_update` in executor/execIndexing.c), and an index page that is full is searched for
//! entries of row versions that are dead already before it is split (`_bt_bottomupdel_pass` in
//! access/nbtree/nbtdedup.c, "Bottom-Up deletion" in its README). That pays where rows are updated again
//! and again. A backfill updates each row once, so the version that an entry duplicates is the one that this
//! very transaction has just replaced: alive for everybody else. The search visits heap pages and frees nothing,
//! at a quarter of what a batch costs.
//!
//! The executor asks that question once for each index of a statement and keeps the answer beside the
//! index (`ii_CheckedUnchanged`, `ii_IndexUnchanged`). So we answer it for our own statement, between its
//! start and its first row. Nobody sees anything of it: no column is assigned that wasn't, no trigger of
//! other columns fires, no privilege is needed, entries that are known to be dead are still removed
//! from a full page, and statements of the user's triggers are left alone.
//!
//! Only a process that calls [`install`] has the hook, which is a worker of a run.

use std::cell::Cell;

use pgrx::pg_sys;
use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;

thread_local! {
    /// The leaf whose UPDATE is about to be started by this process.
    static LEAF: Cell<Option<pg_sys::Oid>> = const { Cell::new(None) };
    /// Who else wants to know of statements that start.
    static NEXT: Cell<pg_sys::ExecutorStart_hook_type> = const { Cell::new(None) };
}

/// Makes [`for_update_of`] work in this process. Once, at its start.
pub fn install() {
    // SAFETY: this process's own variable, which PostgreSQL reads in its main thread only: here.
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
    // An error may come before the start of the statement.
    let _reset = Reset;
    LEAF.set(Some(leaf));
    work()
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn on_executor_start(
    query: *mut pg_sys::QueryDesc,
    flags: std::ffi::c_int,
) {
    // Taken before anything can fail, and before the statements of triggers.
    let leaf = LEAF.take();
    // SAFETY: what PostgreSQL gave us, passed on as it would have.
    unsafe {
        match NEXT.get() {
            // A bare function of C, unlike pgrx's of PostgreSQL: its errors must not jump over our frames.
            Some(next) => pg_guard_ffi_boundary(|| next(query, flags)),
            None => pg_sys::standard_ExecutorStart(query, flags),
        }
    }
    if let Some(leaf) = leaf {
        // SAFETY: a statement that has been started.
        unsafe { say_that_indexes_change(query, leaf) };
    }
}

/// # Safety
/// `query` must have been started and not run yet.
unsafe fn say_that_indexes_change(query: *mut pg_sys::QueryDesc, leaf: pg_sys::Oid) {
    // SAFETY: the executor's state has the types that its tags tell; indexes opened here are closed with the
    // result relation at the end of the statement, and ExecUpdatePrologue in executor/nodeModifyTable.c
    // opens them only if nobody has.
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
