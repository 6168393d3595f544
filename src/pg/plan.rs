//! Prepared statements on one leaf, planned once and in the way we want.
//!
//! For most of them ([`BY_TID`]) the planner's settings decide between a TID range scan, a sequential scan, and an
//! index scan that touches every page in random order. They are set while *our* statement is planned and reset before
//! it runs, so that the user's triggers, which run inside our statement, are planned under the user's settings. A
//! generic plan (CURSOR_OPT_GENERIC_PLAN) makes that possible: it is built once, here, and only executed later.
//! PostgreSQL builds another one when it finds that necessary, for example after an ANALYZE of the leaf. That one
//! would be built without our settings, and with all privileges checked for the caller. So before each execution we
//! check whether it would do that, or has done it, and if so prepare the statement again.
//!
//! Only privileges on the target are checked, as when PostgreSQL expands a partitioned table to its partitions:
//! neither those on a leaf ([`version::ask_as`]) nor on its schema. Looking up a name requires the latter, so a
//! statement on a partition is analyzed as the partition's owner. That executes nothing, and rules of the partition,
//! which are applied then, are the owner's own. Planning, which may compute constants with anybody's functions, and
//! execution happen as the caller.

use std::ffi::{CStr, CString};
use std::ptr::NonNull;

use pgrx::{PgSqlErrorCode, ereport, pg_sys};

use super::{encoding, identity, lock, query_id, version};

/// Settings under which a statement is planned.
type Planner = &'static [(&'static CStr, &'static CStr)];

/// Only TID scans, TID range scans and hash joins are enabled.
pub const BY_TID: Planner = &[
    (c"enable_seqscan", c"off"),
    (c"enable_indexscan", c"off"),
    (c"enable_indexonlyscan", c"off"),
    (c"enable_bitmapscan", c"off"),
    (c"enable_nestloop", c"off"),
    (c"enable_mergejoin", c"off"),
    (c"enable_tidscan", c"on"),
    (c"enable_hashjoin", c"on"),
    (c"jit", c"off"),
];

/// By an index, if there is a suitable one.
pub const BY_INDEX: Planner = &[
    (c"enable_seqscan", c"off"),
    (c"jit", c"off"),
    (c"max_parallel_workers_per_gather", c"0"),
];

/// By the user's settings, except for what costs more than it saves in a statement that runs once for each leaf.
pub const BY_COST: Planner = &[(c"jit", c"off"), (c"max_parallel_workers_per_gather", c"0")];

/// The table that a statement names.
#[derive(Clone, Copy)]
pub struct Named {
    pub oid: pg_sys::Oid,
    /// It is a partition, named instead of the partitioned table to which it belongs.
    pub partition: bool,
}

impl Named {
    /// The role as which a statement on the partition is analyzed: its owner, unless the owner can't look it up
    /// either.
    fn analyst(self) -> pg_sys::Oid {
        let (owner, schema) = lock::owner_and_schema(self.oid);
        match identity::may_use_schema(owner, schema) {
            true => owner,
            false => identity::one_who_may(),
        }
    }

    /// Settings for each time that its statement is analyzed or planned, by us or again by PostgreSQL.
    fn settings(self) -> Planner {
        // With "on" the planner would read a partition's constraint, and wait for locks on the tables above it.
        const EXCLUSION: (&CStr, &CStr) = (c"constraint_exclusion", c"partition");
        match self.partition {
            // With "off" a partition's own policies, which we remove, would raise an error.
            true => &[
                EXCLUSION,
                query_id::NONE_OF_ITS_OWN,
                (c"row_security", c"on"),
            ],
            false => &[EXCLUSION, query_id::NONE_OF_ITS_OWN],
        }
    }
}

/// A prepared statement on one leaf. Outlives transactions; freed when dropped.
pub struct LeafPlan {
    plan: NonNull<pg_sys::_SPI_plan>,
    sql: CString,
    arguments: &'static [pg_sys::Oid],
    leaf: Named,
    planner: Planner,
    /// PostgreSQL's count of the plans that it has built, when ours was built.
    generation: i32,
}

impl LeafPlan {
    /// Prepares and plans `sql`, whose only table is `leaf`, without requiring any privileges on `leaf` of the caller
    /// (see [`version::ask_as`]). Must be called inside a transaction with an SPI connection, with `leaf` locked in
    /// the mode that `sql` needs.
    pub fn prepare(
        sql: &str,
        arguments: &'static [pg_sys::Oid],
        leaf: Named,
        planner: Planner,
    ) -> LeafPlan {
        LeafPlan::prepare_c(encoding::to_server(sql), arguments, leaf, planner)
    }

    fn prepare_c(
        sql: CString,
        arguments: &'static [pg_sys::Oid],
        leaf: Named,
        planner: Planner,
    ) -> LeafPlan {
        let wants_id = query_id::wanted();
        // SAFETY: the string outlives the call, and the argument array is only read. The plan is kept before it is
        // used.
        unsafe {
            let level = pg_sys::NewGUCNestLevel();
            for (name, value) in planner.iter().chain(leaf.settings()) {
                identity::set_option(name, value, pg_sys::GucAction::GUC_ACTION_SAVE);
            }
            let analyze = || {
                pg_sys::SPI_prepare_cursor(
                    sql.as_ptr(),
                    arguments.len() as i32,
                    arguments.as_ptr().cast_mut(),
                    pg_sys::CURSOR_OPT_GENERIC_PLAN as i32,
                )
            };
            let plan = match leaf.partition {
                true => identity::as_role(leaf.analyst(), analyze),
                false => analyze(),
            };
            let code = pg_sys::SPI_result;
            let Some(kept) = NonNull::new(plan) else {
                ereport!(
                    ERROR,
                    PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
                    format!("could not prepare a statement: SPI error {code}")
                );
            };
            pg_sys::SPI_keepplan(plan);
            let mut prepared = LeafPlan {
                plan: kept,
                sql,
                arguments,
                leaf,
                planner,
                generation: 0,
            };
            let who = identity::one_who_may();
            for source in prepared.sources().iter_ptr() {
                for query in queries(source).iter_ptr() {
                    version::ask_as(query, leaf.oid, leaf.partition, who);
                    query_id::assign(query, wants_id);
                }
                if leaf.partition {
                    // It must not be analyzed again because of them either.
                    (*source).dependsOnRLS = false;
                }
            }
            prepared.generation = prepared.plan_now();
            pg_sys::AtEOXact_GUC(true, level);
            prepared
        }
    }

    fn sources(&self) -> pgrx::PgList<pg_sys::CachedPlanSource> {
        // SAFETY: a kept plan. The list belongs to the plan and is only read.
        unsafe { pgrx::PgList::from_pg(pg_sys::SPI_plan_get_plan_sources(self.plan.as_ptr())) }
    }

    /// Whether PostgreSQL would use the statement as we have analyzed it. Makes the same checks as its
    /// RevalidateCachedQuery (utils/cache/plancache.c), which would otherwise analyze it again by itself, as the
    /// caller.
    fn is_analyzed(&self) -> bool {
        // SAFETY: sources of a kept plan, inside a transaction.
        self.sources().iter_ptr().all(|source| unsafe {
            for query in queries(source).iter_ptr() {
                version::lock_relations(query);
            }
            version::rebase_search_path(source);
            (*source).is_valid
        })
    }

    /// Makes PostgreSQL build a plan unless there is a valid one. Returns the number of plans built so far.
    fn plan_now(&self) -> i32 {
        // SAFETY: the level is closed here, or by the transaction's abort.
        unsafe {
            let level = pg_sys::NewGUCNestLevel();
            for (name, value) in self.leaf.settings() {
                identity::set_option(name, value, pg_sys::GucAction::GUC_ACTION_SAVE);
            }
            for source in self.sources().iter_ptr() {
                version::rebase_search_path(source);
            }
            self.with_plan(|_| ());
            pg_sys::AtEOXact_GUC(true, level);
        }
        // SAFETY: as above.
        let generation = |source: *mut pg_sys::CachedPlanSource| unsafe { (*source).generation };
        self.sources().iter_ptr().map(generation).sum()
    }

    /// Calls `look` with the plan, which is built if there is no valid one; None if that isn't possible.
    fn with_plan<T>(&self, look: impl FnOnce(*const pg_sys::PlannedStmt) -> T) -> Option<T> {
        // SAFETY: a kept plan of one statement. The cached plan is valid until it is released for the owner for which
        // SPI_plan_get_cached_plan took it.
        unsafe {
            let source = self.sources().get_ptr(0)?;
            let get = || pg_sys::SPI_plan_get_cached_plan(self.plan.as_ptr());
            let cached = query_id::while_planning(source, get);
            if cached.is_null() {
                return None;
            }
            let statements = pgrx::PgList::<pg_sys::PlannedStmt>::from_pg((*cached).stmt_list);
            let looked = statements.get_ptr(0).map(|statement| look(statement));
            pg_sys::ReleaseCachedPlan(cached, pg_sys::CurrentResourceOwner);
            looked
        }
    }

    /// Whether the plan uses an index of the leaf instead of reading all of it.
    pub fn goes_by_index(&self) -> bool {
        let by_index = self.with_plan(|statement| {
            // SAFETY: plan nodes have the types that their tags say.
            unsafe {
                let mut node = (*statement).planTree;
                while pgrx::is_a(node.cast(), pg_sys::NodeTag::T_Limit) {
                    node = (*node).lefttree;
                }
                use pg_sys::NodeTag::{T_BitmapHeapScan, T_IndexOnlyScan, T_IndexScan};
                [T_BitmapHeapScan, T_IndexOnlyScan, T_IndexScan]
                    .into_iter()
                    .any(|tag| pgrx::is_a(node.cast(), tag))
            }
        });
        by_index.unwrap_or(false)
    }

    /// Makes sure that the statement is planned, and in the way we want. The conditions are those of
    /// [`LeafPlan::prepare`].
    pub fn make_ready(&mut self) {
        if !self.is_analyzed() || self.plan_now() != self.generation {
            *self = LeafPlan::prepare_c(self.sql.clone(), self.arguments, self.leaf, self.planner);
        }
    }

    /// Executes the statement, and returns the number of rows processed. Results, if any, are in SPI's tuple table.
    /// Must be called inside a transaction with an SPI connection, with the leaf locked as for [`LeafPlan::prepare`]:
    /// then nothing can invalidate the plan between our check and its execution.
    pub fn execute(&mut self, arguments: &[pg_sys::Datum], read_only: bool) -> u64 {
        let arguments: Vec<_> = arguments.iter().copied().map(Some).collect();
        self.execute_with_nulls(&arguments, read_only)
    }

    /// The same; None is null.
    pub fn execute_with_nulls(
        &mut self,
        arguments: &[Option<pg_sys::Datum>],
        read_only: bool,
    ) -> u64 {
        self.make_ready();
        let value = |argument: &Option<pg_sys::Datum>| argument.unwrap_or(pg_sys::Datum::null());
        let mut values: Vec<pg_sys::Datum> = arguments.iter().map(value).collect();
        // 'n' for each argument that is null, as SPI has it.
        let null = |argument: &Option<_>| if argument.is_none() { b'n' } else { b' ' };
        let nulls: Vec<u8> = arguments.iter().map(null).collect();
        // SAFETY: the caller passes as many arguments as were prepared, of the right types.
        unsafe {
            let code = pg_sys::SPI_execute_plan(
                self.plan.as_ptr(),
                values.as_mut_ptr(),
                nulls.as_ptr().cast(),
                read_only,
                0,
            );
            if code < 0 {
                ereport!(
                    ERROR,
                    PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
                    format!("could not run a prepared statement: SPI error {code}")
                );
            }
            pg_sys::SPI_processed
        }
    }
}

impl Drop for LeafPlan {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: kept in `prepare`, freed once, here.
            unsafe { pg_sys::SPI_freeplan(self.plan.as_ptr()) };
        }
    }
}

/// The statements into which a statement was rewritten.
///
/// # Safety
/// A complete plan source.
unsafe fn queries(source: *mut pg_sys::CachedPlanSource) -> pgrx::PgList<pg_sys::Query> {
    // SAFETY: the list belongs to the plan.
    unsafe { pgrx::PgList::from_pg((*source).query_list) }
}

/// Runs `work` with an SPI connection.
pub fn with_spi<T>(work: impl FnOnce() -> T) -> T {
    // SAFETY: connected and finished here. After an error, the abort of the (sub)transaction ends the connection.
    unsafe {
        pg_sys::SPI_connect();
        let value = work();
        pg_sys::SPI_finish();
        value
    }
}

/// Calls `row` with the columns of each row of SPI's tuple table: a TID, two texts, which are valid until the next
/// row and of which the second may be null, and the id of a transaction if there is a fourth column.
///
/// # Safety
/// The columns have the types tid, text (or varchar) and xid, and only the second text is null.
pub unsafe fn each_row(
    rows: u64,
    mut row: impl FnMut(pg_sys::ItemPointerData, &str, Option<&str>, Option<u32>),
) {
    // SAFETY: the caller's promise.
    unsafe {
        let table = pg_sys::SPI_tuptable;
        for i in 0..rows as usize {
            let tuple = *(*table).vals.add(i);
            let mut null = false;
            let mut value = |column: i32| {
                if column > (*(*table).tupdesc).natts {
                    return None;
                }
                let value = pg_sys::SPI_getbinval(tuple, (*table).tupdesc, column, &mut null);
                (!null).then_some(value)
            };
            let (tid, first, second) = (value(1), value(2), value(3));
            let xid = value(4).map(|xid| xid.value() as u32);
            let tid = *tid
                .expect("no null")
                .cast_mut_ptr::<pg_sys::ItemPointerData>();
            encoding::with_text(first.expect("no null"), |first| match second {
                None => row(tid, first, None, xid),
                Some(second) => {
                    encoding::with_text(second, |second| row(tid, first, Some(second), xid));
                }
            });
        }
        pg_sys::SPI_freetuptable(table);
    }
}

/// Executes a query with two text columns, and calls `row` with each of its rows; null becomes the empty string. This
/// also works where nothing may be changed, as in a parallel plan: pgrx's client checks whether the transaction has
/// changed anything, and then increments its command counter.
pub fn each_two_texts(sql: &CStr, mut row: impl FnMut(String, String)) {
    // SAFETY: a C string. The results belong to SPI and are read before they are freed; each value is a C string or
    // NULL.
    with_spi(|| unsafe {
        let code = pg_sys::SPI_execute(sql.as_ptr(), true, 0);
        if code != pg_sys::SPI_OK_SELECT as i32 {
            ereport!(
                ERROR,
                PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
                format!("could not run a query: SPI error {code}")
            );
        }
        let table = pg_sys::SPI_tuptable;
        for i in 0..pg_sys::SPI_processed as usize {
            let text = |column| {
                let value = pg_sys::SPI_getvalue(*(*table).vals.add(i), (*table).tupdesc, column);
                encoding::from_server_c(value).unwrap_or_default()
            };
            row(text(1), text(2));
        }
        pg_sys::SPI_freetuptable(table);
    })
}

/// An array of TIDs, in the current memory context.
pub fn tid_array(tids: &[pg_sys::ItemPointerData]) -> pg_sys::Datum {
    let mut elements: Vec<pg_sys::Datum> =
        tids.iter().map(|tid| (&raw const *tid).into()).collect();
    // SAFETY: size and alignment are those of the type tid in pg_type; the elements are copied.
    unsafe {
        let array = pg_sys::construct_array(
            elements.as_mut_ptr(),
            elements.len() as i32,
            pg_sys::TIDOID,
            size_of::<pg_sys::ItemPointerData>() as i32,
            false,
            pg_sys::TYPALIGN_SHORT as std::ffi::c_char,
        );
        pg_sys::Datum::from(array)
    }
}
