//! One query id for all updates of runs, and one for all their reads.
//!
//! A run names each leaf itself, so PostgreSQL takes its statements for as many different ones as there are leaves.
//! Whoever collects statistics by query id (pg_stat_statements, pg_stat_kcache) would have a row for each, which push
//! out the rows of others, and nobody could see what a run takes as a whole. So a statement of ours gets
//! the id of its kind instead of one of its own. An id only says what is to be counted together: PostgreSQL
//! goes by it nowhere.
//!
//! Whoever keeps a text with an id takes it from the first statement that comes along: when it has been planned
//! (`pgss_planner` in contrib/pg_stat_statements), or when it ends (`pgss_ExecutorEnd`). That would be one
//! leaf's, picked by chance, so at these two moments a statement has the text of its kind. In
//! between, while it starts and runs, it has its own: pgaudit logs that one, and errors quote it.
//!
//! The ids are made of the texts, so a release that words them anew has others.

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

    /// That of a statement.
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

/// For the time in which a statement of ours is analyzed: its own id would be thrown away, and of one with
/// constants in it pg_stat_statements makes a row then already.
pub const NONE_OF_ITS_OWN: (&CStr, &CStr) = (c"compute_query_id", c"off");

/// Does anybody want query ids? As `IsQueryIdEnabled` of PostgreSQL has it. To be asked without
/// [`NONE_OF_ITS_OWN`].
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

/// Gives a query of ours the id of its kind if ids are `wanted`, or a library that makes them by itself has given it
/// one.
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

/// Plans a statement of ours under the text of its kind.
///
/// # Safety
/// `source` must be one statement's, and stay while `plan` runs.
pub unsafe fn while_planning<T>(
    source: *mut pg_sys::CachedPlanSource,
    plan: impl FnOnce() -> T,
) -> T {
    // SAFETY: the caller's promise. The text is only read; after an error the static one stays, which is
    // as good.
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
    /// Who else wants to know of statements that end.
    static NEXT: Cell<pg_sys::ExecutorEnd_hook_type> = const { Cell::new(None) };
}

/// Has statements of ours end under the text of their kind in this process. Once, when all libraries have been
/// loaded, so that this comes before their hooks.
pub fn install() {
    // SAFETY: this process's own variable, which PostgreSQL reads in its main thread only: here.
    unsafe {
        NEXT.set(pg_sys::ExecutorEnd_hook);
        pg_sys::ExecutorEnd_hook = Some(on_executor_end);
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn on_executor_end(query: *mut pg_sys::QueryDesc) {
    // SAFETY: what PostgreSQL gave us, passed on as it would have; the text is only read, and static.
    unsafe {
        let id = (*(*query).plannedstmt).queryId;
        if let Some(kind) = [&READS, &UPDATES].into_iter().find(|kind| kind.id == id) {
            (*query).sourceText = kind.text.as_ptr();
        }
        match NEXT.get() {
            // A bare function of C, unlike pgrx's of PostgreSQL: its errors must not jump over our frames.
            Some(next) => pg_guard_ffi_boundary(|| next(query)),
            None => pg_sys::standard_ExecutorEnd(query),
        }
    }
}
