//! One query id for all updates of runs, and one for all their reads.
//!
//! The statements of a run name each leaf, so PostgreSQL takes them for as many different ones as there are leaves.
//! Extensions that collect statistics by query id (pg_stat_statements, pg_stat_kcache) would have a row for each,
//! which evicts other rows, and nobody could see the cost of a run as a whole. So our statements get the id of their
//! kind instead of their own. An id only says what is to be counted together; PostgreSQL doesn't use it for anything
//! else.
//!
//! Extensions that keep a text for each id take it from the first statement with that id: when it has been planned
//! (`pgss_planner` in contrib/pg_stat_statements), or when it ends (`pgss_ExecutorEnd`). That would be the text of an
//! arbitrary leaf's statement, so at these two moments a statement has the text of its kind. In between, while it
//! starts and runs, it has its own text, which pgaudit logs and errors quote.
//!
//! The ids are hashes of the texts, so a release with other texts has other ids.

use std::cell::Cell;
use std::ffi::CStr;

use pgrx::pg_sys;
use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;

use super::version::QueryId;

/// What is counted together.
struct Kind {
    id: QueryId,
    text: &'static CStr,
}

impl Kind {
    const fn new(text: &'static CStr) -> Kind {
        Kind {
            id: hash(text.to_bytes()) as QueryId,
            text,
        }
    }

    /// The kind of a statement.
    const fn of(command: pg_sys::CmdType::Type) -> &'static Kind {
        match command {
            pg_sys::CmdType::CMD_SELECT => &READS,
            _ => &UPDATES,
        }
    }
}

static READS: Kind = Kind::new(
    c"/* ntt_mime: reads of all leaves */ \
      SELECT ctid, blobid FROM ONLY leaf \
      WHERE ctid > $1 AND ctid < $2 AND mime_type IS NULL AND blobid IS NOT NULL LIMIT $3",
);

static UPDATES: Kind = Kind::new(
    c"/* ntt_mime: updates of all leaves */ \
      UPDATE ONLY leaf SET mime_type = found.mime_type \
      FROM ROWS FROM (unnest($1), unnest($2)) AS found(blobid, mime_type) \
      WHERE leaf.ctid > $3 AND leaf.ctid <= $4 AND leaf.blobid = found.blobid AND leaf.mime_type IS NULL",
);

/// 64-bit FNV-1a.
const fn hash(bytes: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325;
    let mut at = 0;
    while at < bytes.len() {
        hash = (hash ^ bytes[at] as u64).wrapping_mul(0x0100_0000_01b3);
        at += 1;
    }
    hash
}

/// Set while one of our statements is analyzed: its own id would be discarded, and if it has constants,
/// pg_stat_statements would make a row for it at that point.
pub const NONE_OF_ITS_OWN: (&CStr, &CStr) = (c"compute_query_id", c"off");

/// Whether anybody wants query ids, as `IsQueryIdEnabled` in PostgreSQL decides it. Must not be called while
/// [`NONE_OF_ITS_OWN`] is in force.
pub fn wanted() -> bool {
    use pg_sys::ComputeQueryIdType::{COMPUTE_QUERY_ID_OFF, COMPUTE_QUERY_ID_ON};
    // SAFETY: reads backend-local variables.
    let (setting, enabled) = unsafe { (pg_sys::compute_query_id, pg_sys::query_id_enabled) };
    match setting as u32 {
        COMPUTE_QUERY_ID_OFF => false,
        COMPUTE_QUERY_ID_ON => true,
        _ => enabled,
    }
}

/// Gives one of our queries the id of its kind if ids are `wanted`, or if an extension that computes ids by itself
/// has given it one.
///
/// # Safety
/// `query` must be an analyzed query that nobody else uses.
pub unsafe fn assign(query: *mut pg_sys::Query, wanted: bool) {
    // SAFETY: the caller's promise.
    unsafe {
        if wanted || (*query).queryId != 0 {
            (*query).queryId = Kind::of((*query).commandType).id;
        }
    }
}

/// Plans one of our statements under the text of its kind.
///
/// # Safety
/// `source` must belong to one statement, and outlive `plan`.
pub unsafe fn while_planning<T>(
    source: *mut pg_sys::CachedPlanSource,
    plan: impl FnOnce() -> T,
) -> T {
    // SAFETY: the caller's promise. The text is only read; after an error the static text remains, which does no
    // harm.
    unsafe {
        let query = pgrx::PgList::<pg_sys::Query>::from_pg((*source).query_list).get_ptr(0);
        let own = (*source).query_string;
        if let Some(query) = query.filter(|query| (**query).queryId != 0) {
            (*source).query_string = Kind::of((*query).commandType).text.as_ptr();
        }
        let planned = plan();
        (*source).query_string = own;
        planned
    }
}

thread_local! {
    /// The next hook in the chain.
    static NEXT: Cell<pg_sys::ExecutorEnd_hook_type> = const { Cell::new(None) };
}

/// Makes our statements end under the text of their kind in this process. Called once, when all libraries have been
/// loaded, so that it runs before their hooks.
pub fn install() {
    // SAFETY: a variable of this process, which PostgreSQL reads only in its main thread, where this runs.
    unsafe {
        NEXT.set(pg_sys::ExecutorEnd_hook);
        pg_sys::ExecutorEnd_hook = Some(on_executor_end);
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn on_executor_end(query: *mut pg_sys::QueryDesc) {
    // SAFETY: PostgreSQL's own arguments, passed on. The text is only read, and is static.
    unsafe {
        let id = (*(*query).plannedstmt).queryId;
        if let Some(kind) = [&READS, &UPDATES].into_iter().find(|kind| kind.id == id) {
            (*query).sourceText = kind.text.as_ptr();
        }
        match NEXT.get() {
            // A bare C function, unlike pgrx's bindings of PostgreSQL: its errors must not jump over our frames.
            Some(next) => pg_guard_ffi_boundary(|| next(query)),
            None => pg_sys::standard_ExecutorEnd(query),
        }
    }
}
