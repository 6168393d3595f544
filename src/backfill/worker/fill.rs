//! How a worker fills a range of blocks: batch by batch, each read, looked at, and updated.

use std::time::{Duration, Instant};

use super::Worker;
use crate::backfill::batch::Batch;
use crate::backfill::leaf::{Leaf, LeafError, Place, Rows, Tid, block_of, start_of_block};
use crate::backfill::shared::{add, add_time};
use crate::pg::bgworker;
use crate::pg::latch::WaitEvent;

/// An update that takes longer makes the next batches smaller, whatever the batch size: others wait
/// for the rows it holds, and for the leaf, such as one who creates a partition beside a default one.
/// They are promised less than a second.
const LONG_BATCH: Duration = Duration::from_millis(500);

/// How often a batch is tried again after a deadlock or a serialization failure.
const RETRIES: u32 = 5;

/// What has become of the rows of a batch whose blobs have a type.
#[derive(Default)]
struct Filled {
    expected: u64,
    updated: u64,
    /// Those that somebody held were passed by.
    free_only: bool,
}

impl Filled {
    /// Others may have put rows of the same blobs into the place meanwhile. They are filled as well, and would make up
    /// in number for some that were held or have moved.
    fn may_have_missed(&self) -> bool {
        self.free_only || self.updated != self.expected
    }
}

impl Worker<'_> {
    /// Fills the pending rows of a range of blocks, batch by batch. `done` moves from the first block
    /// to the first one that isn't done with.
    ///
    /// While a batch is updated, the blobs of the next one are looked at, where that pays: then only the longer of the
    /// two times counts.
    pub(super) fn fill_range(
        &mut self,
        leaf: &mut Leaf<'_>,
        index: usize,
        done: &mut u32,
        end: u32,
    ) -> Result<(), LeafError> {
        let (mut from, to) = (start_of_block(*done), start_of_block(end));
        if !self.is_stopping() {
            self.read(leaf, from, to)?;
        }
        while let Some(batch) = self.found(leaf)? {
            let last = batch.last.expect("a batch that was begun has rows");
            // Not before a pause: others may wait for what we have claimed.
            let early = batch.more
                && self.finder.works_ahead()
                && self.job.options.batch_delay_ms == 0
                && !self.is_stopping();
            let ahead = match early {
                true => self.read(leaf, last, to),
                false => Ok(()),
            };
            if let Err(trouble) = self.fill(leaf, index, Place::Range(from, last), &batch) {
                // Others may wait for what we have begun.
                self.found(leaf)?;
                return Err(trouble);
            }
            ahead?;
            if !batch.more {
                break;
            }
            from = last;
            let block = block_of(last).clamp(*done, end);
            self.shared.board().advance(block - *done);
            *done = block;
            self.pause();
            if !early && !self.is_stopping() {
                self.read(leaf, from, to)?;
            }
        }
        Ok(())
    }

    /// Reads the pending rows of the next batch, and has its blobs looked at.
    fn read(&mut self, leaf: &mut Leaf<'_>, from: Tid, to: Tid) -> Result<(), LeafError> {
        let limit = self.batch_rows;
        let mut batch = Batch::default();
        self.report(&format!("reading {}", leaf.name));
        let begun = Instant::now();
        leaf.scan(from, to, limit, |tid, blobid| batch.push(tid, blobid))?;
        add_time(&self.slot.counters.scan_us, begun.elapsed());
        batch.more = batch.rows == u64::from(limit);
        match batch.rows {
            0 => Ok(()),
            _ => self.begin(batch),
        }
    }

    pub(super) fn begin(&mut self, batch: Batch) -> Result<(), LeafError> {
        add(&self.slot.counters.rows_scanned, batch.rows);
        self.finder.begin(batch).map_err(LeafError::Fatal)
    }

    /// The batch that was begun, if one was, and unless the run has been stopped meanwhile.
    pub(super) fn found(&mut self, leaf: &Leaf<'_>) -> Result<Option<Batch>, LeafError> {
        self.report(&format!("detecting blobs of {}", leaf.name));
        self.finder.finish().map_err(LeafError::Fatal)
    }

    /// Updates the rows of a batch.
    pub(super) fn fill(
        &mut self,
        leaf: &mut Leaf<'_>,
        index: usize,
        place: Place<'_>,
        batch: &Batch,
    ) -> Result<(), LeafError> {
        let (board, counters) = (self.shared.board(), &self.slot.counters);
        let filled = match self.job.options.dry_run {
            true => Filled::default(),
            false => match self.update(leaf, place, batch) {
                Ok(filled) => filled,
                // These rows have to wait for another pass; what comes after them may be free.
                Err(LeafError::RowsLocked | LeafError::Retry) => {
                    board.note_locked(index);
                    Filled::default()
                }
                Err(trouble) => return Err(trouble),
            },
        };
        let missed = filled.expected.saturating_sub(filled.updated);
        add(&counters.rows_retried, missed);
        let left = batch.rows.saturating_sub(filled.updated);
        board.note_left(index, left, filled.may_have_missed());
        bgworker::report_statistics();
        Ok(())
    }

    /// Updates one batch.
    fn update(
        &mut self,
        leaf: &mut Leaf<'_>,
        place: Place<'_>,
        batch: &Batch,
    ) -> Result<Filled, LeafError> {
        let (blobids, mime_types, expected) = batch.filled(self.shared.dictionary());
        if blobids.is_empty() {
            return Ok(Filled::default());
        }
        self.report(&format!("updating {}", leaf.name));
        let counters = &self.slot.counters;
        let mut rows = Rows {
            place,
            free_only: false,
        };
        let mut attempt = 0;
        loop {
            let begun = Instant::now();
            let result = leaf.update(rows, &blobids, &mime_types);
            let took = begun.elapsed();
            match result {
                Ok(updated) => {
                    add(&counters.rows_updated, updated.rows);
                    add_time(&counters.commit_us, updated.commit_time);
                    let update_time = took.saturating_sub(updated.commit_time);
                    add_time(&counters.update_us, update_time);
                    self.adapt(took, batch.rows);
                    return Ok(Filled {
                        expected,
                        updated: updated.rows,
                        free_only: rows.free_only,
                    });
                }
                Err(trouble) => {
                    add_time(&counters.update_us, took);
                    match trouble {
                        LeafError::RowsLocked if !rows.free_only => rows.free_only = true,
                        LeafError::Retry if attempt < RETRIES => {
                            attempt += 1;
                            self.wait(Duration::from_millis(20) * attempt, WaitEvent::Delay);
                        }
                        trouble => return Err(trouble),
                    }
                }
            }
        }
    }

    /// Chooses the size of the next batch by what the last one took.
    fn adapt(&mut self, took: Duration, rows: u64) {
        let max = self.job.options.batch_size;
        if took > LONG_BATCH {
            self.batch_rows = (self.batch_rows / 2).max(1);
        } else if took < LONG_BATCH / 4 && rows >= u64::from(self.batch_rows) {
            self.batch_rows = self.batch_rows.saturating_mul(2).min(max);
        }
    }
}
