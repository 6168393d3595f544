//! How a worker fills a range of blocks: batch by batch, each read, detected, and updated.

use std::time::{Duration, Instant};

use super::{Worker, pace};
use crate::backfill::batch::{Batch, Found};
use crate::backfill::counters::{add, add_time};
use crate::backfill::leaf::{
    Filling, Leaf, LeafError, Tid, TidSet, Updated, block_of, start_of_block,
};
use crate::pg::latch::WaitEvent;
use crate::pg::rows::Wait;
use crate::pg::{identity, stats};

/// How often a batch is tried again after a deadlock or a serialization failure.
const RETRIES: u32 = 5;

impl Worker<'_> {
    /// Fills the pending rows of a range of blocks, batch by batch. `done` moves from the first block to the first
    /// one that isn't finished.
    ///
    /// While a batch is updated, the blobs of the next one are detected, if that pays: then only the longer of the
    /// two times counts.
    pub(super) fn fill_range(
        &mut self,
        leaf: &mut Leaf<'_>,
        index: usize,
        done: &mut u32,
        end: u32,
    ) -> Result<(), LeafError> {
        let (mut from, to) = (start_of_block(*done), start_of_block(end));
        self.give_way();
        if !self.is_stopping() {
            self.read(leaf, from, to)?;
        }
        while let Some(batch) = self.found(leaf)? {
            if self.shared.task_queue().is_set_aside(index) {
                break;
            }
            let last = batch.last.expect("a batch that was begun has rows");
            // Not before a pause: others may wait for what we have claimed.
            let early = batch.more
                && self.finder.works_ahead()
                && self.job.options.batch_delay_ms == 0
                && !self.has_to_rest()
                && !self.is_stopping();
            let ahead = match early {
                true => self.read(leaf, last, to),
                false => Ok(()),
            };
            if let Err(trouble) = self.fill(leaf, index, TidSet::Range(from, last), &batch) {
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
            self.shared.task_queue().advance(block - *done);
            *done = block;
            if early {
                continue;
            }
            self.pause();
            self.give_way();
            if !self.is_stopping() {
                self.read(leaf, from, to)?;
            }
        }
        self.record_unfinished(index);
        Ok(())
    }

    /// A worker that is stopping may not have reached the end of the leaf, or of a part of it.
    pub(super) fn record_unfinished(&self, index: usize) {
        if self.is_stopping() {
            self.shared.task_queue().leaf(index).set_unsure();
        }
    }

    /// Records the blobs of a batch whose rows stay pending.
    pub(super) fn record_undetected(&self, index: usize, batch: &Batch) {
        let undetected = self.shared.undetected();
        let all_recorded = batch.wanted.iter().all(|wanted| match wanted.found {
            Found::Mime(_) | Found::Text(_) => true,
            Found::Failed => undetected.add(index, &wanted.key.text()),
            Found::TooLong | Found::NotLookedAt => false,
        });
        if !all_recorded {
            self.shared.task_queue().leaf(index).set_unsure();
        }
    }

    /// Reads the pending rows of the next batch, and begins to detect its blobs.
    fn read(&mut self, leaf: &mut Leaf<'_>, from: Tid, to: Tid) -> Result<(), LeafError> {
        let limit = self.pace.rows();
        let mut batch = Batch::default();
        self.report(&format!("reading {}", leaf.name));
        let begun = Instant::now();
        leaf.scan(from, to, limit, |tid, blobid, now| {
            batch.add(tid, blobid, now)
        })?;
        add_time(&self.slot.counters.scan_us, begun.elapsed());
        batch.more = batch.rows >= u64::from(limit);
        match batch.rows {
            0 => Ok(()),
            _ => self.begin(batch),
        }
    }

    pub(super) fn begin(&mut self, batch: Batch) -> Result<(), LeafError> {
        add(&self.slot.counters.rows_scanned, batch.rows);
        self.finder.begin(batch).map_err(LeafError::Fatal)
    }

    /// The batch that was begun, if there is one and the run has not been stopped meanwhile.
    pub(super) fn found(&mut self, leaf: &Leaf<'_>) -> Result<Option<Batch>, LeafError> {
        self.report(&format!("detecting blobs of {}", leaf.name));
        self.finder.finish().map_err(LeafError::Fatal)
    }

    /// Updates the rows of a batch.
    pub(super) fn fill(
        &mut self,
        leaf: &mut Leaf<'_>,
        index: usize,
        tids: TidSet<'_>,
        batch: &Batch,
    ) -> Result<(), LeafError> {
        if let Some(verify) = &self.job.options.verify {
            return self.check(leaf, index, batch, verify);
        }
        self.shared.task_queue().count_found(index, batch.rows);
        self.record_undetected(index, batch);
        let (blobids, mime_types, expected) = batch.filled(self.shared.dictionary());
        let filling = Filling {
            tids,
            blobids: &blobids,
            mime_types: &mime_types,
            now: &[],
            expected,
        };
        let updated = match self.job.options.dry_run || blobids.is_empty() {
            true => Ok(Updated::default()),
            false => self.update_and_count(leaf, index, filling, batch.rows),
        };
        let task_queue = self.shared.task_queue();
        match updated {
            Ok(updated) => {
                let left = batch.rows.saturating_sub(updated.filled + updated.gone);
                task_queue.add_left(index, left, updated.missed);
                stats::publish();
                Ok(())
            }
            Err(trouble) => {
                if matches!(trouble, LeafError::Blocked) {
                    task_queue.add_left(index, batch.rows, false);
                }
                Err(trouble)
            }
        }
    }

    /// Updates the rows of a batch, whose number is given, and records the result in the task queue.
    pub(super) fn update_and_count(
        &mut self,
        leaf: &mut Leaf<'_>,
        index: usize,
        filling: Filling<'_>,
        rows: u64,
    ) -> Result<Updated, LeafError> {
        let task_queue = self.shared.task_queue();
        let updated = match self.update(leaf, filling, rows) {
            Ok(updated) => updated,
            // These rows have to wait for another pass; those after them may be free.
            Err(LeafError::RowsLocked | LeafError::Retry) => {
                task_queue.set_locked(index);
                Updated::default()
            }
            // Those after them aren't free either.
            Err(LeafError::Blocked) => {
                task_queue.set_locked(index);
                return Err(LeafError::Blocked);
            }
            Err(trouble) => return Err(trouble),
        };
        let done_with = updated.filled + updated.gone + updated.kept_pending;
        let missed = filling.expected.saturating_sub(done_with);
        add(&self.slot.counters.rows_retried, missed);
        task_queue.add_kept(index, updated.kept_pending);
        Ok(updated)
    }

    /// Updates one batch with the given number of rows.
    fn update(
        &mut self,
        leaf: &mut Leaf<'_>,
        filling: Filling<'_>,
        rows: u64,
    ) -> Result<Updated, LeafError> {
        self.report(&format!("updating {}", leaf.name));
        self.patience.in_pass(self.shared.task_queue().generation());
        let counters = &self.slot.counters;
        let mut attempt = 0;
        loop {
            if !self.patience.may_try(leaf.trigger_functions()) {
                return Err(LeafError::Blocked);
            }
            let wait = self.patience.wait();
            let timeout = self.patience.timeout(leaf.trigger_functions());
            self.limit_lock_waits(timeout);
            let begun = Instant::now();
            let result = leaf.update(filling, wait);
            let took = begun.elapsed();
            self.limit_lock_waits(self.job.options.lock_timeout());
            let trouble = match result {
                Ok(updated) => {
                    add(&counters.rows_updated, updated.filled);
                    add_time(&counters.commit_us, updated.commit_time);
                    let update_time = took.saturating_sub(updated.commit_time);
                    add_time(&counters.update_us, update_time);
                    self.patience.came_through(leaf.trigger_functions());
                    if took > timeout.max(pace::LONG) {
                        self.patience.use_up();
                    }
                    if updated.awaited {
                        add(&counters.waited_for, 1);
                    }
                    self.pace.adjust(took, rows, self.shared.waited_for());
                    return Ok(updated);
                }
                Err(trouble) => trouble,
            };
            add_time(&counters.update_us, took);
            match trouble {
                LeafError::RowsLocked if wait == Wait::ForRows => self.patience.use_up(),
                LeafError::Retry if attempt < RETRIES => {
                    attempt += 1;
                    self.wait(Duration::from_millis(20) * attempt, WaitEvent::Delay);
                }
                LeafError::Blocked => {
                    // The next attempt may again write in vain.
                    self.pace.expect_little();
                    self.patience.block(leaf.trigger_functions());
                    return Err(LeafError::Blocked);
                }
                trouble => return Err(trouble),
            }
        }
    }

    /// Sets how long our statements wait for a lock.
    fn limit_lock_waits(&mut self, time: Duration) {
        if time != self.lock_timeout {
            self.lock_timeout = time;
            identity::set_lock_timeout(time);
        }
    }
}
