//! What is done to one leaf: reading its pending rows, and filling them (`update`).
//!
//! Both work on ranges of TIDs. A batch is read in physical order, without a statement ([`crate::pg::scan`]), and
//! updated in the same range, by a hash join with the batch's few distinct blobids. (A join with an array of TIDs
//! would be planned as a full scan of the leaf for every batch. An index on blobid would write pages in random order,
//! with a full-page image for each.) If few rows are pending and an index can find them, the leaf isn't read from end
//! to end: the rows are looked up there, and updated by their TIDs. See [`crate::pg::plan`] for how statements are
//! planned.
//!
//! The leaf is locked by its OID first, and only then is its name looked up, so that it doesn't matter if it is
//! renamed, or another table gets the old name. Under the lock it is checked that it is still a leaf, and in the file
//! in which this pass first found it: in another file TIDs refer to other rows, those that were read and those still
//! to be read. Such a leaf is left, and read from the beginning in the next pass.
//!
//! A small leaf takes two transactions, one that reads and one that updates. With a hundred thousand of them that is
//! the main cost. If there is anything to update, the first transaction ends with building the partition's
//! constraint. That locks the parent for the rest of the transaction, which is over at once.

mod update;

use std::collections::HashSet;
use std::rc::Rc;

use ntt_mime_core::task_queue::{LeafEntry, TaskQueue};
use pgrx::pg_sys;

pub use self::update::{Filling, TidSet, Updated};
use super::citus;
use super::options::Job;
use super::sample::Sample;
use super::target::{self, FilledBy};
use crate::pg::encoding::texts;
use crate::pg::lock::{self, LockedLeaf};
use crate::pg::plan::{self, LeafPlan, Named};
use crate::pg::report::Report;
pub use crate::pg::rows::{Tid, block_of, start_of_block};
use crate::pg::triggers::OnUpdate;
use crate::pg::xids::{self, Horizon};
use crate::pg::{citus as pg_citus, scan, shape, stats, tx};

/// Why a leaf, or a part of it, can't be worked on.
#[derive(Debug)]
pub enum LeafError {
    /// It has been dropped or detached, or never was a table.
    Gone,
    /// It has another file than at first in this pass.
    Rewritten,
    /// Somebody holds a conflicting lock on it, or on a table above it.
    Locked,
    /// Somebody holds some of its rows.
    RowsLocked,
    /// Somebody holds something else that its update needs, such as a row that a trigger wants to change.
    Blocked,
    /// Try again: a deadlock or a serialization failure.
    Retry,
    /// It has raised an error of its own: for example, a trigger or a constraint has, or its file can't be read.
    Refused(Report),
    /// The run can't go on.
    Fatal(Report),
}

/// The SQLSTATE of a lock timeout.
const LOCK_NOT_AVAILABLE: &str = "55P03";

impl From<Report> for LeafError {
    fn from(error: Report) -> LeafError {
        match error.sqlstate().as_str() {
            LOCK_NOT_AVAILABLE => LeafError::Locked,
            "40P01" | "40001" => LeafError::Retry,
            _ => LeafError::Fatal(error),
        }
    }
}

impl LeafError {
    /// For an error that was raised after the leaf had been locked and everything that doesn't concern the leaf had
    /// been checked.
    fn when_locked(error: Report) -> LeafError {
        match error.into() {
            LeafError::Fatal(error) if error.is_of_the_statement() => LeafError::Refused(error),
            trouble => trouble,
        }
    }
}

/// For targets with row security, and for a blobid that is computed instead of stored. $4: types, one of which a row
/// must have; null for any.
fn scan_sql(leaf: &str, selection: &Selection) -> String {
    let is_wanted = match selection.horizon.is_some() {
        false => "mime_type IS NULL",
        true => {
            "mime_type IS NOT NULL \
             AND ($4 IS NULL OR mime_type COLLATE pg_catalog.\"C\" OPERATOR(pg_catalog.=) ANY ($4))"
        }
    };
    format!(
        "SELECT ctid, blobid, mime_type, xmin FROM ONLY {leaf} \
          WHERE ctid OPERATOR(pg_catalog.>) $1 AND ctid OPERATOR(pg_catalog.<) $2 \
            AND blobid IS NOT NULL AND {is_wanted} LIMIT $3"
    )
}

const SCAN_ARGUMENTS: [pg_sys::Oid; 4] = [
    pg_sys::TIDOID,
    pg_sys::TIDOID,
    pg_sys::INT8OID,
    pg_sys::TEXTARRAYOID,
];

/// For an index that can find the pending rows.
fn scan_few_sql(leaf: &str) -> String {
    format!(
        "SELECT ctid, blobid, mime_type FROM ONLY {leaf} \
          WHERE mime_type IS NULL AND blobid IS NOT NULL LIMIT $1"
    )
}

const SCAN_FEW_ARGUMENTS: [pg_sys::Oid; 1] = [pg_sys::INT8OID];

/// The number of blocks from which on it is worth asking whether an index can find a leaf's pending rows: reading
/// fewer takes little longer than planning.
const WORTH_AN_INDEX: u32 = 64;

/// The rows that a run reads.
pub struct Selection {
    /// Only in a verification: rows that have a type, instead of those that have none, and only versions that existed
    /// when it began. So no row is read twice, wherever the run itself or others put new versions of it, and what
    /// others change meanwhile is left to them.
    horizon: Option<Horizon>,
    /// If types are named, only rows with one of them.
    only: Option<HashSet<String>>,
    /// The blocks, if not all.
    sample: Option<Sample>,
}

impl Selection {
    pub fn of(job: &Job) -> Selection {
        let verify = job.options.verify.as_ref();
        let only = verify.and_then(|verify| verify.only_types.as_ref());
        Selection {
            horizon: job.horizon.clone(),
            only: only.map(|types| types.iter().cloned().collect()),
            sample: verify
                .and_then(|verify| Sample::new(verify.sample_percent, verify.sample_seed)),
        }
    }

    /// The number of blocks of a range of a leaf that are read, `end` being exclusive; None if all are.
    pub fn sampled(&self, leaf: pg_sys::Oid, start: u32, end: u32) -> Option<u64> {
        let sample = self.sample.as_ref();
        sample.map(|sample| sample.count(leaf.to_u32(), start, end))
    }

    fn wanted(&self) -> scan::Wanted<'_> {
        match &self.horizon {
            Some(horizon) => scan::Wanted::Typed(self.only.as_ref(), horizon),
            None => scan::Wanted::Pending,
        }
    }
}

/// The leaf on which a worker is working, with its statements.
pub struct Leaf<'a> {
    job: &'a Job,
    selection: Rc<Selection>,
    task_queue: TaskQueue<'a>,
    entry: &'a LeafEntry,
    pub oid: pg_sys::Oid,
    /// Qualified and quoted, as of the last lock.
    pub name: String,
    /// Whether it is a shard of the target, as of the last lock.
    is_shard: bool,
    /// A lock on it is being requested from Citus.
    locking_shard: bool,
    scan: Option<LeafPlan>,
    /// Each is prepared when it is first needed: for a range, for a few rows, and for rows that have another type.
    updates: [Option<LeafPlan>; 3],
    /// What fires when it is updated, as of the last lock.
    on_update: OnUpdate,
    /// Something other than our update has changed it in one of our transactions.
    meddled: bool,
    /// The partitioned tables above it, from its parent up, as of the last lock.
    above: Vec<pg_sys::Oid>,
}

/// The result of opening a leaf.
pub enum Opened {
    /// It has to be read in ranges of its blocks.
    Blocks(u32),
    /// It has few pending rows, all of which have been read, because it is so small.
    Small(u32),
    /// It has few pending rows, all of which have been read through an index.
    Few(u32),
}

impl<'a> Leaf<'a> {
    /// The leaf with this number in the task queue.
    pub fn new(
        job: &'a Job,
        selection: Rc<Selection>,
        task_queue: TaskQueue<'a>,
        index: usize,
    ) -> Leaf<'a> {
        let entry = task_queue.leaf(index);
        Leaf {
            job,
            selection,
            task_queue,
            entry,
            oid: pg_sys::Oid::from(entry.oid()),
            name: String::new(),
            is_shard: false,
            locking_shard: false,
            scan: None,
            updates: Default::default(),
            on_update: OnUpdate::default(),
            meddled: false,
            above: Vec::new(),
        }
    }

    /// The functions of triggers that fire when it is updated, as of the last lock.
    pub fn trigger_functions(&self) -> &[pg_sys::Oid] {
        &self.on_update.functions
    }

    /// Determines its size in blocks and what has been counted for it. Calls `row` for its pending rows if they are
    /// fewer than `limit` and either the leaf is small or an index can find them: an index of rows without a MIME
    /// type, or another one that PostgreSQL estimates to be cheaper than reading the leaf. If the result is
    /// [`Opened::Blocks`], the caller must discard these rows.
    pub fn open(
        &mut self,
        limit: u32,
        mut row: impl FnMut(Tid, &str, Option<&str>),
    ) -> Result<Opened, LeafError> {
        let (entry, oid) = (self.entry, self.oid);
        let count = || {
            let counted = stats::counted(oid);
            entry.set_counters(counted.written, counted.deleted);
        };
        self.reading(count, |leaf, locked| {
            leaf.record_shape(locked);
            let blocks = locked.blocks();
            let (read, opened): (_, fn(u32) -> Opened) = match blocks {
                0 => (Some(0), Opened::Small),
                1..WORTH_AN_INDEX => {
                    let range = (start_of_block(0), start_of_block(blocks));
                    let rows = leaf.read(locked, range, limit, &mut row);
                    (Some(rows), Opened::Small)
                }
                _ if leaf.selection.horizon.is_some() => (None, Opened::Few),
                _ => (leaf.read_by_index(locked, limit, &mut row), Opened::Few),
            };
            leaf.get_ready_to_update(locked, read.unwrap_or(0));
            match read.is_some_and(|rows| rows < limit) {
                true => opened(blocks),
                false => Opened::Blocks(blocks),
            }
        })
    }

    /// Stores what its mark needs besides its counters, and whether it can have one ([`super::marks`]).
    fn record_shape(&self, locked: &LockedLeaf) {
        let [blobid, mime_type] =
            [c"blobid", target::FILLED].map(|name| scan::column(locked, name));
        let shape = match self.is_shard {
            true => None,
            false => shape::of_leaf(self.oid, &self.above, self.job.target.into()),
        };
        self.entry
            .set_shape((blobid, mime_type), shape.unwrap_or(0) as u64);
        let tells_by_counters = locked.is_heap()
            && stats::are_kept()
            && !self.job.row_security
            && !scan::is_computed(locked, c"blobid");
        if !tells_by_counters {
            self.entry.set_unsure();
        }
    }

    /// Reads up to `limit` rows between two TIDs, both exclusive, in physical order, each with its TID, its blobid
    /// and its type. For a sample, whole blocks are read until there are that many rows, and `from` is the end of a
    /// block.
    pub fn scan(
        &mut self,
        from: Tid,
        to: Tid,
        limit: u32,
        row: impl FnMut(Tid, &str, Option<&str>),
    ) -> Result<(), LeafError> {
        let nothing = || ();
        self.reading(nothing, |leaf, locked| {
            let rows = leaf.read(locked, (from, to), limit, row);
            leaf.get_ready_to_update(locked, rows);
        })
    }

    /// Runs `work` in a transaction of its own, with the leaf locked for reading, and something else before it takes
    /// its snapshot.
    fn reading<T>(
        &mut self,
        before: impl FnOnce(),
        work: impl FnOnce(&mut Self, &LockedLeaf) -> T,
    ) -> Result<T, LeafError> {
        let is_locked = std::cell::Cell::new(false);
        let done = tx::transaction_without_snapshot(|| {
            let locked = self.lock_and(pg_sys::AccessShareLock, before)?;
            is_locked.set(true);
            Ok(work(self, &locked))
        });
        done.map_err(|error| match is_locked.get() {
            true => LeafError::when_locked(error),
            false => error.into(),
        })?
    }

    /// The last step of a transaction that has read this many pending rows. If it isn't possible now, the update does
    /// it.
    fn get_ready_to_update(&self, locked: &LockedLeaf, rows: u32) {
        if rows > 0 && self.job.options.updates() {
            locked.cache_partition_constraint();
        }
    }

    fn read(
        &mut self,
        locked: &LockedLeaf,
        (from, to): (Tid, Tid),
        limit: u32,
        mut row: impl FnMut(Tid, &str, Option<&str>),
    ) -> u32 {
        let Some(sample) = self.selection.sample else {
            return self.read_range(locked, (from, to), limit, row);
        };
        let oid = self.oid.to_u32();
        let first = block_of(from) + u32::from(from.ip_posid != 0);
        let mut rows = 0;
        for block in (first..block_of(to)).filter(|block| sample.has(oid, *block)) {
            if rows >= limit {
                break;
            }
            let range = (start_of_block(block), start_of_block(block + 1));
            rows += self.read_range(locked, range, u32::MAX, &mut row);
        }
        rows
    }

    fn read_range(
        &mut self,
        locked: &LockedLeaf,
        (mut from, mut to): (Tid, Tid),
        limit: u32,
        mut row: impl FnMut(Tid, &str, Option<&str>),
    ) -> u32 {
        if !self.job.row_security && !scan::is_computed(locked, c"blobid") {
            return scan::rows(locked, self.selection.wanted(), (from, to), limit, row);
        }
        scan::check_columns(locked);
        plan::with_spi(|| {
            let (leaf, name, selection) = (self.named(), &self.name, &self.selection);
            let plan = self.scan.get_or_insert_with(|| {
                let sql = scan_sql(name, selection);
                LeafPlan::prepare(&sql, &SCAN_ARGUMENTS, leaf, plan::BY_TID)
            });
            let types = selection.only.as_ref();
            let types = types.map(|types| texts(types.iter().map(String::as_str)));
            let arguments = &mut [
                Some(pg_sys::Datum::from(&raw mut from)),
                Some(pg_sys::Datum::from(&raw mut to)),
                Some(pg_sys::Datum::from(i64::from(limit))),
                types,
            ];
            let rows = plan.execute_with_nulls(arguments, true);
            let next = xids::next();
            let horizon = selection.horizon.as_ref();
            let is_later = |xmin: Option<u32>| {
                let both = horizon.zip(xmin);
                both.is_some_and(|(horizon, xmin)| horizon.is_before(xmin, next))
            };
            let row = |tid, blobid: &str, now: Option<&str>, xmin| {
                if !is_later(xmin) {
                    row(tid, blobid, now);
                }
            };
            // SAFETY: the columns that SCAN selects; their types have been checked under the lock.
            unsafe { plan::each_row(rows, row) };
            rows as u32
        })
    }

    /// Reads up to `limit` pending rows through an index; None if none would help.
    fn read_by_index(
        &mut self,
        locked: &LockedLeaf,
        limit: u32,
        mut row: impl FnMut(Tid, &str, Option<&str>),
    ) -> Option<u32> {
        let planner = match locked.has_index_of_nulls(c"mime_type") {
            true => plan::BY_INDEX,
            false => plan::BY_COST,
        };
        scan::check_columns(locked);
        plan::with_spi(|| {
            let sql = scan_few_sql(&self.name);
            let mut plan = LeafPlan::prepare(&sql, &SCAN_FEW_ARGUMENTS, self.named(), planner);
            if !plan.goes_by_index() {
                return None;
            }
            let rows = plan.execute(&[pg_sys::Datum::from(i64::from(limit))], true);
            // SAFETY: as in `read`.
            unsafe { plan::each_row(rows, |tid, blobid, now, _| row(tid, blobid, now)) };
            Some(rows as u32)
        })
    }

    fn named(&self) -> Named {
        Named {
            oid: self.oid,
            partition: self.job.partitioned || self.is_shard,
        }
    }

    /// Locks the leaf for the current transaction; makes sure that it still is a leaf, in the file to which the work
    /// refers, and that its target may still be filled; looks up its name; and takes the transaction's snapshot.
    fn lock(&mut self, mode: u32) -> Result<LockedLeaf, LeafError> {
        self.lock_and(mode, || ())
    }

    /// The same, with something to do between the lock and the snapshot.
    fn lock_and(&mut self, mode: u32, work: impl FnOnce()) -> Result<LockedLeaf, LeafError> {
        let target = pg_sys::Oid::from(self.job.target);
        if mode == pg_sys::RowExclusiveLock {
            self.lock_shard();
        }
        let locked = LockedLeaf::open(self.oid, mode).ok_or(LeafError::Gone)?;
        work();
        tx::take_snapshot();
        let above = locked.tables_above();
        let standing = citus::standing(self.oid, target);
        self.is_shard = standing.shard.is_some_and(|shard| shard.is_of_target);
        let has_its_rows =
            !standing.distributed && standing.shard.is_none_or(|shard| shard.is_here);
        let is_leaf = has_its_rows
            && match self.job.partitioned {
                _ if self.is_shard => true,
                true => above.contains(&target),
                false => self.oid == target,
            };
        // Meanwhile it may also have got below a table that is partitioned by the column that we fill.
        let is_by_type = |table: &pg_sys::Oid| lock::is_partitioned_by(*table, target::FILLED);
        let is_ours = is_leaf && !above.iter().any(is_by_type);
        if !is_ours || !locked.is_table() || !locked.has_tid_ranges() {
            return Err(LeafError::Gone);
        }
        if !self.entry.is_in_file(locked.file()) {
            return Err(LeafError::Rewritten);
        }
        // Privileges can be revoked, and policies created, at any time.
        let by = match self.job.partitioned {
            _ if self.is_shard => FilledBy::Shards,
            true => FilledBy::Partitions,
            false => FilledBy::Itself,
        };
        let updates = self.job.options.asks_for_update();
        target::check_rights(target, self.job.role.into(), by, updates)
            .unwrap_or_else(|error| error.raise());
        let name = locked.qualified_name();
        if name != self.name {
            // Statements depend on the name with which they were written.
            self.name = name;
            self.scan = None;
            self.updates = Default::default();
        }
        self.on_update = OnUpdate::of(&locked);
        self.above = above;
        Ok(locked)
    }

    /// If it is a shard, keeps it in its place until the end of the transaction. That happens before its own lock, as
    /// in Citus' own writes. If it isn't possible because the shard has just disappeared, `locking_shard` stays set.
    fn lock_shard(&mut self) {
        self.locking_shard = false;
        if !pg_citus::is_there() {
            return;
        }
        let standing = tx::with_snapshot(|| citus::standing(self.oid, self.job.target.into()));
        if let Some(shard) = standing.shard {
            self.locking_shard = true;
            pg_citus::lock_shard(shard.id);
            self.locking_shard = false;
        }
    }
}
