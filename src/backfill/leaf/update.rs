//! How the rows of a batch are filled, and how it is known how many of them are.
//!
//! Normally this is one UPDATE of the range in which the batch was read, and the number of rows that it has processed
//! is the number of rows filled. There are two exceptions, each with its own way.
//!
//! **Something else changes the rows.** A trigger may suppress the update of a row or set `mime_type` to null again,
//! a rule may replace the UPDATE, a policy may allow rows to be seen but not updated. Then that number means nothing.
//! Two checks make sure that the normal way is only taken where the number is right. Before the UPDATE, the leaf is
//! checked under its lock: if it has a row-level BEFORE trigger or a rule, or row security applies, the normal way
//! isn't taken. After it, PostgreSQL's counts are checked, which include everything that a transaction inserts,
//! updates and deletes in a table: if they differ from what the UPDATE has processed, something else has changed the
//! leaf, usually a trigger that fires afterwards. Then the batch is rolled back and filled in the other way. Its rows
//! are locked first, so that nobody else can change them; then they are updated; then each is read again. Rows that
//! have a type are counted, the others are *kept pending*. If the update has left new versions of these, it is rolled
//! back and repeated without them: a row that can't be filled stays as it is. So the leaf doesn't grow by rows that
//! are rewritten in vain, and no pass meets a pending row twice in two places.
//!
//! A correction, which replaces one type by another, always takes the second way, because for rows that differ it
//! must be known which were corrected. Its rows are those that still have the type with which they were read.
//!
//! **Others have locked rows.** An UPDATE waits for them, one by one, and a row that isn't freed in time costs the
//! whole batch. To avoid waiting, the rows are locked first, and those that others have locked are skipped; the
//! UPDATE that follows finds no other lock on its rows. This also shows whose lock a statement has waited for: if it
//! was the UPDATE that follows, it can't have waited for one of its own rows, so it was something that the UPDATE
//! causes, such as a row that a trigger wants to update.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::time::Duration;

use pgrx::pg_sys;

use super::{LOCK_NOT_AVAILABLE, Leaf, LeafError, Tid};
use crate::pg::encoding::texts;
use crate::pg::lock::{self, LockedLeaf};
use crate::pg::plan::{self, LeafPlan};
use crate::pg::report::Report;
use crate::pg::rows::{self, Expected, Wait};
use crate::pg::triggers::{self, Changes};
use crate::pg::tx;
use crate::pg::{index_hint, scan, stats};

/// Fills the rows of a place ($3, or after $3 up to $4) whose blobid is one of $1, with the type at the same position
/// of $2. An array of TIDs in the WHERE clause, without a join, is planned as a TID scan. The comparison is byte by
/// byte, since in another collation an upper-case text, which isn't a blobid, may be equal to one.
fn update_sql(leaf: &str, tids: TidSet<'_>) -> String {
    let condition = match tids {
        TidSet::Range(..) => {
            "leaf.ctid OPERATOR(pg_catalog.>) $3 AND leaf.ctid OPERATOR(pg_catalog.<=) $4"
        }
        TidSet::Few(_) => "leaf.ctid OPERATOR(pg_catalog.=) ANY ($3)",
    };
    format!(
        "UPDATE ONLY {leaf} AS leaf SET mime_type = found.mime_type \
           FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2)) AS found(blobid, mime_type) \
          WHERE {condition} \
            AND leaf.blobid COLLATE pg_catalog.\"C\" OPERATOR(pg_catalog.=) found.blobid \
            AND leaf.mime_type IS NULL"
    )
}

/// Replaces $4 by the type at the same position of $2, in those of the rows at $3 whose blobid is that of $1.
fn correct_sql(leaf: &str) -> String {
    format!(
        "UPDATE ONLY {leaf} AS leaf SET mime_type = found.mime_type \
           FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($4)) \
                AS found(blobid, mime_type, now) \
          WHERE leaf.ctid OPERATOR(pg_catalog.=) ANY ($3) \
            AND leaf.blobid COLLATE pg_catalog.\"C\" OPERATOR(pg_catalog.=) found.blobid \
            AND leaf.mime_type COLLATE pg_catalog.\"C\" OPERATOR(pg_catalog.=) found.now"
    )
}

const CORRECT_ARGUMENTS: [pg_sys::Oid; 4] = [
    pg_sys::TEXTARRAYOID,
    pg_sys::TEXTARRAYOID,
    pg_sys::TIDARRAYOID,
    pg_sys::TEXTARRAYOID,
];

const UPDATE_RANGE_ARGUMENTS: [pg_sys::Oid; 4] = [
    pg_sys::TEXTARRAYOID,
    pg_sys::TEXTARRAYOID,
    pg_sys::TIDOID,
    pg_sys::TIDOID,
];

const UPDATE_FEW_ARGUMENTS: [pg_sys::Oid; 3] = [
    pg_sys::TEXTARRAYOID,
    pg_sys::TEXTARRAYOID,
    pg_sys::TIDARRAYOID,
];

/// Reads rows again whose TIDs are known.
fn look_again_sql(leaf: &str) -> String {
    format!(
        "SELECT ctid, blobid, mime_type FROM ONLY {leaf} WHERE ctid OPERATOR(pg_catalog.=) ANY ($1) \
            AND blobid IS NOT NULL"
    )
}

const LOOK_AGAIN_ARGUMENTS: [pg_sys::Oid; 1] = [pg_sys::TIDARRAYOID];

/// How often an update is begun again because the partition constraint has meanwhile been removed from the relation
/// cache. After that it goes on, with a lock on the parent for this one batch if that is free.
const CONSTRAINT_ATTEMPTS: u32 = 100;

/// How often building the constraint is tried.
const BUILD_ATTEMPTS: u32 = 10;

/// How often a batch is rolled back because a trigger has changed rows and left them pending. A trigger mostly does
/// the same each time, so once is enough; otherwise the batch is committed with its result.
const WITHOUT_CHANGED_ATTEMPTS: u32 = 3;

/// The rows of a batch.
#[derive(Clone, Copy)]
pub enum TidSet<'a> {
    /// The rows after one TID, up to another, inclusive.
    Range(Tid, Tid),
    /// Single rows.
    Few(&'a [Tid]),
}

/// What the rows of a batch are to be filled with.
#[derive(Clone, Copy)]
pub struct Filling<'a> {
    pub tids: TidSet<'a>,
    pub blobids: &'a [String],
    /// For the blob at the same position.
    pub mime_types: &'a [&'a str],
    /// In a correction, the current type of rows of that blob; empty for pending rows.
    pub now: &'a [&'a str],
    /// The number of rows that were in that state when the batch was read, and are to get one of these types.
    pub expected: u64,
}

impl Filling<'_> {
    /// Whether types are to be replaced by others.
    fn is_correction(&self) -> bool {
        !self.now.is_empty()
    }
}

/// What has become of the rows.
#[derive(Default, Debug)]
pub struct Updated {
    /// They had no type and have one now; or they had another type and have the detected one.
    pub filled: u64,
    /// In a correction, the TIDs that these rows had.
    pub corrected: Vec<Tid>,
    /// They have been locked and updated, and are still pending.
    pub kept_pending: u64,
    /// They have been removed from the leaf by something that the update has caused.
    pub gone: u64,
    /// Some that should have been filled may be left: others have changed or locked them.
    pub missed: bool,
    /// Others have locked some of them.
    pub held: bool,
    /// Row versions that our statement has written, whatever has become of them.
    written: u64,
    /// Somebody waited for the transaction when it was about to be committed.
    pub awaited: bool,
    pub commit_time: Duration,
}

/// Why a transaction that was to fill a batch was rolled back without an error.
enum Undone {
    /// The leaf can't be worked on.
    Trouble(LeafError),
    /// The partition constraint isn't in the cache.
    NoConstraint,
    /// Something else has changed the leaf.
    Meddled,
    /// These rows have been changed and are pending.
    Changed(Vec<Tid>),
}

/// The phases of a transaction that fills a batch.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Locking the leaf, and checking that it may be updated.
    Before,
    /// Planning, for which its indexes are locked.
    Planning,
    /// Reading the rows and locking them.
    Rows,
    /// Updating rows that it hasn't locked before.
    Update,
    /// Updating rows that it has locked.
    OwnRows,
}

thread_local! {
    /// Functions of triggers on leaves that something else has changed: a function that does so on one leaf does so
    /// on others.
    static MEDDLING: RefCell<HashSet<pg_sys::Oid>> = RefCell::default();
}

impl Leaf<'_> {
    /// Fills those rows of a batch that are still pending.
    pub fn update(&mut self, filling: Filling<'_>, wait: Wait) -> Result<Updated, LeafError> {
        let mut constraint_attempts = 0;
        let mut without = Vec::new();
        let mut changed_attempts = 0;
        loop {
            constraint_attempts += 1;
            let last = Last {
                constraint: constraint_attempts >= CONSTRAINT_ATTEMPTS,
                changed: changed_attempts == WITHOUT_CHANGED_ATTEMPTS,
            };
            match self.try_update(filling, wait, &without, last)? {
                Ok(updated) => return Ok(updated),
                Err(Undone::Trouble(trouble)) => return Err(trouble),
                Err(Undone::NoConstraint) if last.constraint => return Err(LeafError::Locked),
                Err(Undone::NoConstraint) => self.build_constraint()?,
                Err(Undone::Meddled) => {
                    let functions = self.on_update.functions.iter();
                    MEDDLING.with_borrow_mut(|known| known.extend(functions));
                    self.meddled = true;
                }
                Err(Undone::Changed(tids)) => {
                    changed_attempts += 1;
                    without.extend(tids);
                }
            }
        }
    }

    /// Fills them in one transaction, except those at `without`.
    fn try_update(
        &mut self,
        filling: Filling<'_>,
        wait: Wait,
        without: &[Tid],
        last: Last,
    ) -> Result<Result<Updated, Undone>, LeafError> {
        let phase = Cell::new(Phase::Before);
        let before = stats::written_here(self.oid);
        let done = tx::transaction_or_rollback(|| {
            let locked = self
                .lock(pg_sys::RowExclusiveLock)
                .map_err(Undone::Trouble)?;
            phase.set(Phase::Planning);
            // Planning and locking the indexes come first, because they may remove the constraint from the cache.
            locked.lock_indexes();
            // Corrections are usually few, and it must be known which succeeded.
            let may_be_altered = self.has_to_look_at_rows(&locked);
            let look = filling.is_correction() || may_be_altered;
            if may_be_altered {
                // The number counted as written may differ from the number of rows processed.
                self.entry.set_unsure();
            }
            let one_by_one = look || wait == Wait::ForNobody;
            let kind = match (one_by_one, filling.tids) {
                _ if filling.is_correction() => Kind::Correct,
                (false, TidSet::Range(..)) => Kind::Range,
                _ => Kind::Few,
            };
            plan::with_spi(|| self.update_plan(kind).make_ready());
            let ready = match last.constraint {
                true => locked.cache_partition_constraint(),
                false => locked.has_partition_constraint_cached(),
            };
            if !ready {
                return Err(Undone::NoConstraint);
            }
            let updated = match one_by_one {
                false => {
                    phase.set(Phase::Update);
                    self.update_at_once(&locked, filling)
                }
                true => {
                    phase.set(Phase::Rows);
                    let rows = self.lock_rows(&locked, filling, wait, without);
                    phase.set(Phase::OwnRows);
                    let rows = Rows {
                        without: without.len() as u64,
                        look,
                        accept_changed: last.changed,
                        ..rows
                    };
                    self.update_one_by_one(&locked, filling, rows)
                }
            };
            updated.map(|updated| Updated {
                awaited: lock::is_own_transaction_awaited(),
                ..updated
            })
        });
        self.count_own(match &done {
            Ok(Ok((updated, _))) => updated.written,
            _ => stats::written_here(self.oid).saturating_sub(before),
        });
        match done {
            Ok(Ok((updated, commit_time))) => Ok(Ok(Updated {
                commit_time,
                ..updated
            })),
            Ok(Err(undone)) => Ok(Err(undone)),
            // It may just have been moved or dropped; the next pass will know.
            Err(error)
                if std::mem::take(&mut self.locking_shard)
                    && error.is_of_the_statement()
                    && !error.is_of_locks() =>
            {
                Err(LeafError::Locked)
            }
            Err(error) => Err(trouble(error, phase.get())),
        }
    }

    /// Whether more must be known than the number of rows that an UPDATE has processed.
    fn has_to_look_at_rows(&self, locked: &LockedLeaf) -> bool {
        let meddling = |functions: &[pg_sys::Oid]| {
            MEDDLING.with_borrow(|known| functions.iter().any(|function| known.contains(function)))
        };
        self.on_update.may_alter
            || self.job.row_security
            || self.meddled
            || meddling(&self.on_update.functions)
            || triggers::changes(locked).is_none()
    }

    fn update_at_once(
        &mut self,
        locked: &LockedLeaf,
        filling: Filling<'_>,
    ) -> Result<Updated, Undone> {
        let before = triggers::changes(locked).ok_or(Undone::Meddled)?;
        let filled = match filling.tids {
            TidSet::Range(mut from, mut to) => {
                let bounds = [(&raw mut from).into(), (&raw mut to).into()];
                self.run_update(Kind::Range, filling, &bounds)
            }
            TidSet::Few(tids) => self.run_update(Kind::Few, filling, &[plan::tid_array(tids)]),
        };
        self.see_alone(locked, before, filled)?;
        Ok(Updated {
            filled,
            // Others may meanwhile have added rows of the same blobs in that range. These are filled as well.
            missed: filled != filling.expected,
            written: filled,
            ..Updated::default()
        })
    }

    /// Checks that nothing but our UPDATE has changed the leaf in this transaction, after everything that it causes.
    fn see_alone(&self, locked: &LockedLeaf, before: Changes, updated: u64) -> Result<(), Undone> {
        if self.on_update.deferrable {
            triggers::fire_deferred();
        }
        let alone = Changes {
            updated: before.updated + updated as i64,
            ..before
        };
        match triggers::changes(locked) == Some(alone) {
            true => Ok(()),
            false => Err(Undone::Meddled),
        }
    }

    /// Locks the rows that are still pending, except those at `without`.
    fn lock_rows(
        &mut self,
        locked: &LockedLeaf,
        filling: Filling<'_>,
        wait: Wait,
        without: &[Tid],
    ) -> Rows {
        let now = |at: usize| filling.now.get(at).copied();
        let blobids = filling.blobids.iter().map(String::as_str).enumerate();
        let wanted: HashMap<(&str, Option<&str>), usize> = blobids
            .map(|(at, blobid)| ((blobid, now(at)), at))
            .collect();
        let without: HashSet<u64> = without.iter().map(|tid| rows::number(*tid)).collect();
        let mut tids = Vec::new();
        let mut positions = HashMap::new();
        let mut row = |tid, blobid: &str, now: Option<&str>| {
            let position = wanted.get(&(blobid, now));
            if let Some(position) = position.filter(|_| !without.contains(&rows::number(tid))) {
                tids.push(tid);
                if filling.is_correction() {
                    positions.insert(rows::number(tid), *position);
                }
            }
        };
        match filling.tids {
            TidSet::Range(from, last) => {
                // There, the end is exclusive.
                let mut to = last;
                to.ip_posid += 1;
                self.read(locked, (from, to), u32::MAX, &mut row);
            }
            TidSet::Few(tids) => self.look_again(locked, tids, &mut row),
        }
        let found = tids.len() + without.len();
        let locked_rows = rows::lock(locked, tids, wait);
        let position = |tid: &Tid| positions.get(&rows::number(*tid)).copied();
        Rows {
            positions: locked_rows.tids.iter().filter_map(position).collect(),
            missed: locked_rows.held > 0
                || locked_rows.changed > 0
                || found as u64 != filling.expected,
            held: locked_rows.held > 0,
            tids: locked_rows.tids,
            ..Rows::default()
        }
    }

    /// Calls `row` for rows at these TIDs.
    fn look_again(
        &mut self,
        locked: &LockedLeaf,
        tids: &[Tid],
        mut row: impl FnMut(Tid, &str, Option<&str>),
    ) {
        scan::check_columns(locked);
        plan::with_spi(|| {
            let sql = look_again_sql(&self.name);
            let mut plan =
                LeafPlan::prepare(&sql, &LOOK_AGAIN_ARGUMENTS, self.named(), plan::BY_TID);
            let rows = plan.execute(&[plan::tid_array(tids)], true);
            // SAFETY: the columns that the statement selects; their types have been checked under the lock.
            unsafe { plan::each_row(rows, |tid, blobid, now, _| row(tid, blobid, now)) };
        });
    }

    /// Updates rows that are locked.
    fn update_one_by_one(
        &mut self,
        locked: &LockedLeaf,
        filling: Filling<'_>,
        rows: Rows,
    ) -> Result<Updated, Undone> {
        let mut updated = Updated {
            kept_pending: rows.without,
            missed: rows.missed,
            held: rows.held,
            ..Updated::default()
        };
        if rows.tids.is_empty() {
            return Ok(updated);
        }
        let before = triggers::changes(locked);
        let places = plan::tid_array(&rows.tids);
        let processed = match filling.is_correction() {
            false => self.run_update(Kind::Few, filling, &[places]),
            true => {
                let now = texts(filling.now.iter().copied());
                self.run_update(Kind::Correct, filling, &[places, now])
            }
        };
        updated.written = processed;
        if let Some(before) = before.filter(|_| !rows.look) {
            self.see_alone(locked, before, processed)?;
            if processed != rows.tids.len() as u64 {
                return Err(Undone::Meddled);
            }
            updated.filled = processed;
            return Ok(updated);
        }
        triggers::fire_deferred();
        let types: Vec<&str> = rows
            .positions
            .iter()
            .map(|at| filling.mime_types[*at])
            .collect();
        let expected = match filling.is_correction() {
            true => Expected::Types(&types),
            false => Expected::AType,
        };
        let fates = rows::fates(locked, &rows.tids, expected);
        if !fates.changed.is_empty() && !rows.accept_changed {
            return Err(Undone::Changed(fates.changed));
        }
        updated.filled = fates.filled.len() as u64;
        if filling.is_correction() {
            updated.corrected = fates.filled;
            let alone = |before: Changes| Changes {
                updated: before.updated + processed as i64,
                ..before
            };
            if triggers::changes(locked) != before.map(alone) {
                // The number counted as written differs from the number of rows processed.
                self.entry.set_unsure();
            }
        }
        updated.kept_pending += fates.as_before + fates.changed.len() as u64;
        updated.gone = fates.gone;
        Ok(updated)
    }

    /// Counts what one of our updates has written, so that the leader can distinguish it from what others do. The
    /// server counts rows as written whether the transaction is committed or not. If it is committed, the rows that
    /// our statement wrote are ours, but not what a trigger did in addition.
    fn count_own(&self, written: u64) {
        if stats::are_kept() {
            self.entry.count_own(written);
        }
    }

    /// In a transaction of its own, so that the locks above the leaf are released at its end. It never waits while
    /// another table is locked, since others would then wait for that one: if a table above isn't free, it is waited
    /// for alone, as the first step of another transaction. And such a wait is tried in vain only once in a pass,
    /// since many leaves have the same table above.
    fn build_constraint(&mut self) -> Result<(), LeafError> {
        let mut wait_for = None;
        for _ in 0..BUILD_ATTEMPTS {
            let locked = tx::transaction_without_snapshot(|| {
                if let Some(table) = wait_for {
                    lock::lock(table);
                }
                lock::lock_ancestors_if_free(self.oid)?;
                let free = lock::lock_if_free(self.oid);
                if free && let Ok(locked) = self.lock(pg_sys::AccessShareLock) {
                    locked.cache_partition_constraint();
                }
                Ok(free)
            });
            let locked: Result<bool, pg_sys::Oid> = locked.map_err(|error| {
                let trouble = LeafError::from(error);
                if let (Some(table), LeafError::Locked) = (wait_for, &trouble) {
                    self.task_queue.set_busy(table.to_u32());
                }
                trouble
            })?;
            match locked {
                Ok(true) => return Ok(()),
                Err(table) if !self.task_queue.is_busy(table.to_u32()) => wait_for = Some(table),
                Ok(false) | Err(_) => break,
            }
        }
        Err(LeafError::Locked)
    }

    fn update_plan(&mut self, kind: Kind) -> &mut LeafPlan {
        let (leaf, name) = (self.named(), &self.name);
        self.updates[kind as usize].get_or_insert_with(|| match kind {
            Kind::Range => {
                let sql = update_sql(name, TidSet::Range(Tid::default(), Tid::default()));
                LeafPlan::prepare(&sql, &UPDATE_RANGE_ARGUMENTS, leaf, plan::BY_TID)
            }
            Kind::Few => {
                let sql = update_sql(name, TidSet::Few(&[]));
                LeafPlan::prepare(&sql, &UPDATE_FEW_ARGUMENTS, leaf, plan::BY_TID)
            }
            Kind::Correct => {
                LeafPlan::prepare(&correct_sql(name), &CORRECT_ARGUMENTS, leaf, plan::BY_TID)
            }
        })
    }

    fn run_update(&mut self, kind: Kind, filling: Filling<'_>, tids: &[pg_sys::Datum]) -> u64 {
        plan::with_spi(|| {
            let blobids = texts(filling.blobids.iter().map(String::as_str));
            let mut arguments = vec![blobids, texts(filling.mime_types.iter().copied())];
            arguments.extend(tids);
            let leaf = self.oid;
            let plan = self.update_plan(kind);
            index_hint::for_update_of(leaf, || plan.execute(&arguments, false))
        })
    }
}

/// An UPDATE, by where its rows are.
#[derive(Clone, Copy)]
enum Kind {
    Range = 0,
    Few = 1,
    Correct = 2,
}

/// Whether this is the last attempt.
#[derive(Clone, Copy)]
struct Last {
    /// To find the partition constraint in the cache.
    constraint: bool,
    /// To leave pending rows as they are.
    changed: bool,
}

/// The rows that a batch has locked.
#[derive(Default)]
struct Rows {
    tids: Vec<Tid>,
    /// In a correction, for each its position in the filling.
    positions: Vec<usize>,
    missed: bool,
    held: bool,
    /// Rows that have been left out.
    without: u64,
    /// Each row has to be read again to see what has become of it.
    look: bool,
    /// Rows that have been changed and are pending stay so.
    accept_changed: bool,
}

/// What an error means, depending on the phase in which it occurred.
fn trouble(error: Report, phase: Phase) -> LeafError {
    if error.sqlstate() != LOCK_NOT_AVAILABLE {
        return match phase {
            Phase::Before => error.into(),
            _ => LeafError::when_locked(error),
        };
    }
    match phase {
        Phase::Before | Phase::Planning => LeafError::Locked,
        Phase::Update if error.is_of_trigger() => LeafError::Blocked,
        Phase::OwnRows => LeafError::Blocked,
        _ => LeafError::RowsLocked,
    }
}
