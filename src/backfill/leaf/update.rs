//! How the rows of a batch are filled: the UPDATE of a leaf.

use pgrx::pg_sys;

use super::{Leaf, LeafError, Tid};
use crate::pg::plan::{self, LeafPlan};
use crate::pg::{index_hint, lock, tx};

/// Fills the rows of a place ($3, or after $3 up to $4) whose blobid is one of $1, with the type at the same
/// position of $2. An array of TIDs in the WHERE clause, not joined to, plans as a scan of these.
/// Byte by byte, since to another collation an upper-case text, which is no blobid, may equal one.
/// `free_only` is for a place where somebody holds rows: it takes those that are free.
fn update_sql(leaf: &str, rows: Rows<'_>) -> String {
    let place = match rows.place {
        Place::Range(..) => {
            "leaf.ctid OPERATOR(pg_catalog.>) $3 AND leaf.ctid OPERATOR(pg_catalog.<=) $4"
        }
        Place::Few(_) => "leaf.ctid OPERATOR(pg_catalog.=) ANY ($3)",
    };
    let with_free = format!(
        "WITH free AS (SELECT ctid FROM ONLY {leaf} AS leaf \
                        WHERE {place} AND mime_type IS NULL AND blobid IS NOT NULL \
                          FOR NO KEY UPDATE SKIP LOCKED) "
    );
    let (with, from, condition) = match rows.free_only {
        false => ("", "", ""),
        true => (
            with_free.as_str(),
            ", free",
            " AND leaf.ctid OPERATOR(pg_catalog.=) free.ctid",
        ),
    };
    format!(
        "{with}UPDATE ONLY {leaf} AS leaf SET mime_type = found.mime_type \
           FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2)) AS found(blobid, mime_type){from} \
          WHERE {place}{condition} \
            AND leaf.blobid COLLATE pg_catalog.\"C\" OPERATOR(pg_catalog.=) found.blobid \
            AND leaf.mime_type IS NULL"
    )
}

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

/// How often an update is begun again because the partition constraint has gone from the relation
/// cache meanwhile. After that it goes ahead, with a lock on the parent for this one batch, if that is free.
const CONSTRAINT_ATTEMPTS: u32 = 10;

/// The rows of a batch.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    pub place: Place<'a>,
    /// Pass by those that somebody holds.
    pub free_only: bool,
}

#[derive(Clone, Copy)]
pub enum Place<'a> {
    /// After one place, up to another inclusive.
    Range(Tid, Tid),
    /// Here and there.
    Few(&'a [Tid]),
}

/// What an update did.
pub struct Updated {
    pub rows: u64,
    pub commit_time: std::time::Duration,
}

impl Leaf<'_> {
    /// Fills the rows that are pending still and whose blobid is among `blobids`, each with the type
    /// at the same place.
    pub fn update(
        &mut self,
        rows: Rows<'_>,
        blobids: &[String],
        mime_types: &[&str],
    ) -> Result<Updated, LeafError> {
        for attempt in 1.. {
            let last = attempt == CONSTRAINT_ATTEMPTS;
            let entered = std::cell::Cell::new(false);
            let (updated, commit_time) = tx::transaction_timed(|| {
                let locked = self.lock(pg_sys::RowExclusiveLock)?;
                // Planning and locks on indexes come first: they may cost us the constraint.
                locked.lock_indexes();
                plan::with_spi(|| {
                    self.update_plan(rows).make_ready();
                    let ready = match last {
                        true => locked.cache_partition_constraint(),
                        false => locked.has_partition_constraint_cached(),
                    };
                    entered.set(true);
                    Ok::<_, LeafError>(ready.then(|| self.run_update(rows, blobids, mime_types)))
                })
            })
            .map_err(|error| match error.into() {
                LeafError::Locked if entered.get() => LeafError::RowsLocked,
                trouble => trouble,
            })?;
            match updated? {
                Some(rows) => return Ok(Updated { rows, commit_time }),
                None if last => return Err(LeafError::Locked),
                None => self.build_constraint()?,
            }
        }
        unreachable!("the last attempt returns")
    }

    /// In a transaction of its own, so that the locks above the leaf last no longer. Nothing is waited for while
    /// another table is locked, since others wait for that then: a table above that isn't free is waited for alone, as
    /// the first thing of another transaction.
    fn build_constraint(&mut self) -> Result<(), LeafError> {
        let mut wait_for = None;
        for _ in 0..CONSTRAINT_ATTEMPTS {
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
            })?;
            match locked {
                Ok(true) => return Ok(()),
                Ok(false) => break,
                Err(table) => wait_for = Some(table),
            }
        }
        Err(LeafError::Locked)
    }

    fn update_plan(&mut self, rows: Rows<'_>) -> &mut LeafPlan {
        let (kind, arguments): (_, &'static [pg_sys::Oid]) = match rows.place {
            Place::Range(..) => (0, &UPDATE_RANGE_ARGUMENTS),
            Place::Few(_) => (1, &UPDATE_FEW_ARGUMENTS),
        };
        let (leaf, name) = (self.named(), &self.name);
        self.updates[kind][usize::from(rows.free_only)].get_or_insert_with(|| {
            LeafPlan::prepare(&update_sql(name, rows), arguments, leaf, plan::BY_TID)
        })
    }

    fn run_update(&mut self, rows: Rows<'_>, blobids: &[String], mime_types: &[&str]) -> u64 {
        use pgrx::IntoDatum;
        let array = |texts: Vec<&str>| texts.into_datum().expect("an array is never null");
        let blobids = array(blobids.iter().map(String::as_str).collect());
        let mime_types = array(mime_types.to_vec());
        let leaf = self.oid;
        let plan = self.update_plan(rows);
        let mut run = |arguments: &mut [pg_sys::Datum]| {
            index_hint::for_update_of(leaf, || plan.execute(arguments, false))
        };
        match rows.place {
            Place::Range(mut from, mut to) => {
                let (from, to) = (&raw mut from, &raw mut to);
                run(&mut [blobids, mime_types, from.into(), to.into()])
            }
            Place::Few(tids) => run(&mut [blobids, mime_types, plan::tid_array(tids)]),
        }
    }
}
