//! The SQL on one leaf: reading its pending rows, and filling them.
//!
//! Both statements are range scans over TIDs: a batch is read in physical order and updated in the
//! same range, joined by a hash on the batch's few distinct blobids. (Joining on an array of TIDs
//! plans as a full scan of the leaf, a batch; going by an index on blobid writes pages in random
//! order, with a full-page image each.) See [`crate::pg::plan`] for how they are planned.
//!
//! The leaf is locked by oid first and named afterwards, so that a rename, or another table under
//! the old name, can't lead us astray, and it is checked under the lock that it still is a leaf.

use pgrx::pg_sys;

use super::options::Job;
use crate::pg::lock::LockedLeaf;
use crate::pg::plan::{self, LeafPlan};
use crate::pg::tx;

/// A row's place: block and offset.
pub type Tid = pg_sys::ItemPointerData;

/// The place before the first row of a block.
pub fn start_of_block(block: u32) -> Tid {
    Tid {
        ip_blkid: pg_sys::BlockIdData {
            bi_hi: (block >> 16) as u16,
            bi_lo: (block & 0xFFFF) as u16,
        },
        ip_posid: 0,
    }
}

/// The block of a place.
pub fn block_of(tid: Tid) -> u32 {
    u32::from(tid.ip_blkid.bi_hi) << 16 | u32::from(tid.ip_blkid.bi_lo)
}

/// Why a leaf, or a part of it, can't be worked on.
#[derive(Debug)]
pub enum Trouble {
    /// It has been dropped or detached, or never was a table.
    Gone,
    /// Somebody holds a lock that we need.
    Locked,
    /// Try again: a deadlock or a serialization failure.
    Retry,
    /// The run can't go on.
    Fatal(tx::PgError),
}

impl From<tx::PgError> for Trouble {
    fn from(error: tx::PgError) -> Trouble {
        match error.sqlstate().as_str() {
            "55P03" => Trouble::Locked,
            "40P01" | "40001" => Trouble::Retry,
            _ => Trouble::Fatal(error),
        }
    }
}

fn scan_sql(leaf: &str) -> String {
    format!(
        "SELECT ctid, blobid FROM ONLY {leaf} \
          WHERE ctid OPERATOR(pg_catalog.>) $1 AND ctid OPERATOR(pg_catalog.<) $2 \
            AND mime_type IS NULL AND blobid IS NOT NULL LIMIT $3"
    )
}

const SCAN_ARGUMENTS: [pg_sys::Oid; 3] = [pg_sys::TIDOID, pg_sys::TIDOID, pg_sys::INT8OID];

fn update_sql(leaf: &str) -> String {
    format!(
        "UPDATE ONLY {leaf} AS leaf SET mime_type = found.mime_type \
           FROM ROWS FROM (pg_catalog.unnest($3), pg_catalog.unnest($4)) AS found(blobid, mime_type) \
          WHERE leaf.ctid OPERATOR(pg_catalog.>) $1 AND leaf.ctid OPERATOR(pg_catalog.<=) $2 \
            AND leaf.blobid OPERATOR(pg_catalog.=) found.blobid AND leaf.mime_type IS NULL"
    )
}

/// For a range in which somebody holds rows: takes those that are free.
fn update_free_sql(leaf: &str) -> String {
    format!(
        "WITH free AS (SELECT ctid FROM ONLY {leaf} AS leaf \
                        WHERE ctid OPERATOR(pg_catalog.>) $1 AND ctid OPERATOR(pg_catalog.<=) $2 \
                          AND mime_type IS NULL AND blobid IS NOT NULL \
                          FOR NO KEY UPDATE SKIP LOCKED) \
         UPDATE ONLY {leaf} AS leaf SET mime_type = found.mime_type \
           FROM ROWS FROM (pg_catalog.unnest($3), pg_catalog.unnest($4)) AS found(blobid, mime_type), free \
          WHERE leaf.ctid OPERATOR(pg_catalog.>) $1 AND leaf.ctid OPERATOR(pg_catalog.<=) $2 \
            AND leaf.ctid OPERATOR(pg_catalog.=) free.ctid \
            AND leaf.blobid OPERATOR(pg_catalog.=) found.blobid AND leaf.mime_type IS NULL"
    )
}

const UPDATE_ARGUMENTS: [pg_sys::Oid; 4] = [
    pg_sys::TIDOID,
    pg_sys::TIDOID,
    pg_sys::TEXTARRAYOID,
    pg_sys::TEXTARRAYOID,
];

/// How often an update is begun again because the partition constraint has gone from the relation
/// cache meanwhile. After that it goes ahead, with a lock on the parent for this one batch.
const CONSTRAINT_ATTEMPTS: u32 = 10;

/// A leaf that a worker is at, with its statements.
pub struct Leaf<'a> {
    job: &'a Job,
    pub oid: pg_sys::Oid,
    /// Qualified and quoted, as of the last look.
    pub name: String,
    scan: Option<LeafPlan>,
    update: Option<LeafPlan>,
    update_free: Option<LeafPlan>,
}

/// What an update did.
pub struct Updated {
    pub rows: u64,
    pub commit_time: std::time::Duration,
}

enum Step<T> {
    Done(T),
    Gone,
    ConstraintMissing,
}

impl<'a> Leaf<'a> {
    pub fn new(job: &'a Job, oid: u32) -> Leaf<'a> {
        Leaf {
            job,
            oid: pg_sys::Oid::from(oid),
            name: String::new(),
            scan: None,
            update: None,
            update_free: None,
        }
    }

    /// Its size in blocks.
    pub fn blocks(&mut self) -> Result<u32, Trouble> {
        let blocks = tx::transaction(|| {
            self.lock(pg_sys::AccessShareLock)
                .map(|locked| locked.blocks())
        })?;
        blocks.ok_or(Trouble::Gone)
    }

    /// Reads up to `limit` pending rows between two places, both exclusive, in physical order.
    pub fn scan(
        &mut self,
        from: Tid,
        to: Tid,
        limit: u32,
        mut row: impl FnMut(Tid, &str),
    ) -> Result<(), Trouble> {
        let done = tx::transaction(|| {
            let _locked = self.lock(pg_sys::AccessShareLock)?;
            plan::with_spi(|| {
                let (oid, name) = (self.oid, &self.name);
                let plan = self.scan.get_or_insert_with(|| {
                    LeafPlan::prepare(&scan_sql(name), &SCAN_ARGUMENTS, oid)
                });
                let (mut from, mut to) = (from, to);
                let arguments = &mut [
                    pg_sys::Datum::from(&raw mut from),
                    pg_sys::Datum::from(&raw mut to),
                    pg_sys::Datum::from(i64::from(limit)),
                ];
                let rows = plan.execute(arguments, true);
                plan::each_tid_and_text(rows, &mut row);
            });
            Some(())
        })?;
        done.ok_or(Trouble::Gone)
    }

    /// Fills the pending rows after `from`, up to `to` inclusive, whose blobid is among `blobids`.
    /// With `free_only`, passes by rows that others hold.
    pub fn update(
        &mut self,
        (from, to): (Tid, Tid),
        blobids: &[String],
        mime_types: &[&str],
        free_only: bool,
    ) -> Result<Updated, Trouble> {
        for attempt in 1.. {
            let insist = attempt == CONSTRAINT_ATTEMPTS;
            let (step, commit_time) = tx::transaction_timed(|| {
                let Some(locked) = self.lock(pg_sys::RowExclusiveLock) else {
                    return Step::Gone;
                };
                // Planning and locks on indexes come first: they may cost us the constraint.
                locked.lock_indexes();
                plan::with_spi(|| {
                    self.update_plan(free_only).make_ready();
                    if !insist && !locked.has_partition_constraint_cached() {
                        return Step::ConstraintMissing;
                    }
                    let arguments = (from, to, blobids, mime_types);
                    Step::Done(self.run_update(arguments, free_only))
                })
            })?;
            match step {
                Step::Done(rows) => return Ok(Updated { rows, commit_time }),
                Step::Gone => return Err(Trouble::Gone),
                Step::ConstraintMissing => tx::transaction(|| {
                    if let Some(locked) = self.lock(pg_sys::AccessShareLock) {
                        locked.cache_partition_constraint();
                    }
                })?,
            }
        }
        unreachable!("the last attempt returns")
    }

    fn update_plan(&mut self, free_only: bool) -> &mut LeafPlan {
        let (oid, name) = (self.oid, &self.name);
        let (plan, sql): (_, fn(&str) -> String) = match free_only {
            false => (&mut self.update, update_sql),
            true => (&mut self.update_free, update_free_sql),
        };
        plan.get_or_insert_with(|| LeafPlan::prepare(&sql(name), &UPDATE_ARGUMENTS, oid))
    }

    fn run_update(
        &mut self,
        (from, to, blobids, mime_types): (Tid, Tid, &[String], &[&str]),
        free_only: bool,
    ) -> u64 {
        use pgrx::IntoDatum;
        let (mut from, mut to) = (from, to);
        let blobids: Vec<&str> = blobids.iter().map(String::as_str).collect();
        let array = |texts: Vec<&str>| texts.into_datum().expect("an array is never null");
        self.update_plan(free_only).execute(
            &mut [
                pg_sys::Datum::from(&raw mut from),
                pg_sys::Datum::from(&raw mut to),
                array(blobids),
                array(mime_types.to_vec()),
            ],
            false,
        )
    }

    /// Locks the leaf for the current transaction, makes sure that it still is one, and learns its
    /// name; None if it isn't.
    fn lock(&mut self, mode: u32) -> Option<LockedLeaf> {
        let target = pg_sys::Oid::from(self.job.target);
        let locked = LockedLeaf::open(self.oid, mode)?;
        let is_leaf = match self.job.partitioned {
            true => locked.is_leaf_of(target),
            false => self.oid == target,
        };
        if !is_leaf || !locked.is_table() {
            return None;
        }
        let name = locked.qualified_name();
        if name != self.name {
            // Statements are bound to the name that they were written with.
            self.name = name;
            self.scan = None;
            self.update = None;
            self.update_free = None;
        }
        Some(locked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_split_into_halves_as_postgresql_does() {
        let tid = start_of_block(0x0123_4567);
        assert_eq!((tid.ip_blkid.bi_hi, tid.ip_blkid.bi_lo), (0x0123, 0x4567));
        assert_eq!((block_of(tid), tid.ip_posid), (0x0123_4567, 0));
    }
}
