//! How the rows of a batch are filled, and how many of them are.
//!
//! Ordinarily it is one UPDATE of the range in which the batch was read, and the number of rows that it has
//! processed is the number of rows filled. Two things are beyond that, and each has its way.
//!
//! **What else is done to the rows.** A trigger may suppress the update of a row or set `mime_type` to null again, a
//! rule may do something else in place of the UPDATE, a policy may let rows be seen and not be updated. Then the number
//! says nothing. That the ordinary way is taken only where it does say all is seen to twice. Before: by what is on the
//! leaf, under its lock. A trigger before each row, a rule, or row security, and it isn't taken. Afterwards: PostgreSQL
//! counts what a transaction inserts, updates and deletes in a table, whoever does it, and if that isn't exactly what
//! the UPDATE has processed, something else has been at the leaf, a trigger that fires afterwards as a rule. Then the
//! batch is rolled back and filled the other way: its rows are locked first, so that nobody else can change them;
//! then they are updated; then each is looked at. What has a type is counted, what hasn't is *kept pending*. If the
//! update has left new versions of these, it is rolled back and done without them: a row that can't be filled stays as
//! it is. So the leaf doesn't grow by rows that are rewritten in vain, and a pending row isn't met twice in a pass in
//! two places.
//!
//! A correction, which puts a type in the place of another, always goes the second way, since of rows that differ it has to be
//! known which were corrected; its rows are those that still have the type with which they were read.
//!
//! **Rows that others have locked.** An UPDATE waits for them, one by one, and a row that isn't freed in time costs
//! the whole batch. Who doesn't want to wait locks the rows first, and passes by those that somebody has; the UPDATE
//! that follows finds nobody else's lock on its rows. This tells us also whose lock a statement has waited for: if it is
//! one of the UPDATE that follows, it is none of a row's, but of what the UPDATE sets off, such as a row that a trigger
//! wants to update.

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

/// Fills the rows of a place ($3, or after $3 up to $4) whose blobid is one of $1, with the type at the same
/// position of $2. An array of TIDs in the WHERE clause, not joined to, plans as a scan of these.
/// Byte by byte, since to another collation an upper-case text, which is no blobid, may equal one.
fn update_sql(leaf: &str, place: TidSet<'_>) -> String {
    let place = match place {
        TidSet::Range(..) => {
            "leaf.ctid OPERATOR(pg_catalog.>) $3 AND leaf.ctid OPERATOR(pg_catalog.<=) $4"
        }
        TidSet::Few(_) => "leaf.ctid OPERATOR(pg_catalog.=) ANY ($3)",
    };
    format!(
        "UPDATE ONLY {leaf} AS leaf SET mime_type = found.mime_type \
           FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2)) AS found(blobid, mime_type) \
          WHERE {place} \
            AND leaf.blobid COLLATE pg_catalog.\"C\" OPERATOR(pg_catalog.=) found.blobid \
            AND leaf.mime_type IS NULL"
    )
}

/// Puts the type at the same position of $2 in the place of $4, in those of the rows at $3 whose blobid is that of $1.
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

/// Looks at rows again whose places are known.
fn look_again_sql(leaf: &str) -> String {
    format!(
        "SELECT ctid, blobid, mime_type FROM ONLY {leaf} WHERE ctid OPERATOR(pg_catalog.=) ANY ($1) \
            AND blobid IS NOT NULL"
    )
}

const LOOK_AGAIN_ARGUMENTS: [pg_sys::Oid; 1] = [pg_sys::TIDARRAYOID];

/// How often an update is begun again because the partition constraint has gone from the relation
/// cache meanwhile. After that it goes ahead, with a lock on the parent for this one batch, if that is free.
const CONSTRAINT_ATTEMPTS: u32 = 100;

/// How often it is tried to build that.
const BUILD_ATTEMPTS: u32 = 10;

/// How often a batch is rolled back since a trigger has changed rows and left them pending. What a trigger does is
/// mostly the same each time, so once is enough; if it isn't, the batch is committed as it has come out.
const WITHOUT_CHANGED_ATTEMPTS: u32 = 3;

/// Where the rows of a batch are.
#[derive(Clone, Copy)]
pub enum TidSet<'a> {
    /// After one place, up to another inclusive.
    Range(Tid, Tid),
    /// Here and there.
    Few(&'a [Tid]),
}

/// What the rows of a batch are to be filled with.
#[derive(Clone, Copy)]
pub struct Filling<'a> {
    pub place: TidSet<'a>,
    pub blobids: &'a [String],
    /// Of the blob at the same position.
    pub mime_types: &'a [&'a str],
    /// In a correction, the type that rows of that blob have now; of rows that are pending, nothing.
    pub now: &'a [&'a str],
    /// Rows that were so when the batch was read, and are to have one of these types.
    pub expected: u64,
}

impl Filling<'_> {
    /// Are types to be put in the place of others?
    fn is_correction(&self) -> bool {
        !self.now.is_empty()
    }
}

/// What has become of the rows.
#[derive(Default, Debug)]
pub struct Updated {
    /// They have a type now, and had none; or the one that is detected, and had another.
    pub filled: u64,
    /// In a correction, where these were.
    pub corrected: Vec<Tid>,
    /// They have been locked and updated, and are pending all the same.
    pub kept_pending: u64,
    /// They have gone from the leaf by what the update has set off.
    pub gone: u64,
    /// Some that should have been filled may be left: others have changed them, or have them.
    pub missed: bool,
    /// Others have some of them.
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
    /// The partition constraint isn't at hand.
    NoConstraint,
    /// Something else has been at the leaf.
    Meddled,
    /// These rows have been changed and are pending.
    Changed(Vec<Tid>),
}

/// What a transaction that fills a batch is at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Locking the leaf, and seeing that it may be updated.
    Before,
    /// Planning, for which its indexes are locked.
    Planning,
    /// Reading the rows and locking them.
    Rows,
    /// Updating rows that it hasn't locked before.
    Update,
    /// Updating rows that are its own.
    OwnRows,
}

thread_local! {
    /// Functions of triggers of leaves at which something else has been: one that does so on a leaf does so on others.
    static MEDDLING: RefCell<HashSet<pg_sys::Oid>> = RefCell::default();
}

impl Leaf<'_> {
    /// Fills the rows of a batch that are pending still.
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

    /// Fills them in one transaction, but for those at `without`.
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
            // Planning and locks on indexes come first: they may cost us the constraint.
            locked.lock_indexes();
            // Corrections are few, as a rule, and it has to be known which came to be.
            let may_be_altered = self.has_to_look_at_rows(&locked);
            let look = filling.is_correction() || may_be_altered;
            if may_be_altered {
                // What is counted as written may be another number than that of rows processed.
                self.entry.mark_unsure();
            }
            let one_by_one = look || wait == Wait::ForNobody;
            let kind = match (one_by_one, filling.place) {
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
            // It may have been moved or dropped in this moment; the next pass knows.
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

    /// Is the number of rows that an UPDATE has processed not all there is to know?
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
        let filled = match filling.place {
            TidSet::Range(mut from, mut to) => {
                let place = [(&raw mut from).into(), (&raw mut to).into()];
                self.run_update(Kind::Range, filling, &place)
            }
            TidSet::Few(tids) => self.run_update(Kind::Few, filling, &[plan::tid_array(tids)]),
        };
        self.see_alone(locked, before, filled)?;
        Ok(Updated {
            filled,
            // Others may have put rows of the same blobs into the place meanwhile. They are filled as well.
            missed: filled != filling.expected,
            written: filled,
            ..Updated::default()
        })
    }

    /// Sees that nothing but our UPDATE has changed the leaf in this transaction, after all that it sets off.
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

    /// Locks the rows that are pending still, but for those at `without`.
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
        match filling.place {
            TidSet::Range(from, last) => {
                // The end is exclusive there.
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

    /// Calls `row` for rows at these places.
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
            // SAFETY: what the statement selects; the columns' types have been checked under the lock.
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
                // What is counted as written is another number than that of rows processed.
                self.entry.mark_unsure();
            }
        }
        updated.kept_pending += fates.as_before + fates.changed.len() as u64;
        updated.gone = fates.gone;
        Ok(updated)
    }

    /// Counts what an update of ours has written, so that the leader can tell it from what others do. The server counts rows
    /// as written whether the transaction is committed or not; of one that is, those are ours that our statement wrote,
    /// and not what a trigger did besides.
    fn count_own(&self, written: u64) {
        if stats::are_kept() {
            self.entry.count_own(written);
        }
    }

    /// In a transaction of its own, so that the locks above the leaf last no longer. Nothing is waited for while
    /// another table is locked, since others wait for that then: a table above that isn't free is waited for alone, as
    /// the first thing of another transaction. And it is waited for in vain once a pass: it is the same one for many leaves.
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
                    self.task_queue.mark_busy(table.to_u32());
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

    fn run_update(&mut self, kind: Kind, filling: Filling<'_>, place: &[pg_sys::Datum]) -> u64 {
        plan::with_spi(|| {
            let blobids = texts(filling.blobids.iter().map(String::as_str));
            let mut arguments = vec![blobids, texts(filling.mime_types.iter().copied())];
            arguments.extend(place);
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

/// Is it the last attempt?
#[derive(Clone, Copy)]
struct Last {
    /// Of those to find the partition constraint at hand.
    constraint: bool,
    /// Of those to leave pending rows as they are.
    changed: bool,
}

/// The rows that a batch has locked.
#[derive(Default)]
struct Rows {
    tids: Vec<Tid>,
    /// In a correction, of each its position in what it is filled with.
    positions: Vec<usize>,
    missed: bool,
    held: bool,
    /// Rows that have been left out.
    without: u64,
    /// What has become of each has to be looked at.
    look: bool,
    /// Rows that have been changed and are pending stay so.
    accept_changed: bool,
}

/// What an error means, by what was being done when it came.
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
