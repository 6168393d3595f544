//! From one pass over the leaves to the next, and to the last.
//!
//! After a pass it is known what was locked or missed in it, and whether others have changed the leaves since
//! (`others`). What others have changed is read again, so that what a run reports at its end is true at that time: a
//! row that was moved into a finished leaf is filled, or known to be pending.
//!
//! If others have committed something, but nobody can have unpublished counters, the counters tell which leaves have
//! changed. If somebody can, all leaves are read again, provided that this takes no longer than [`LOOK_AT_ALL`]: then
//! it doesn't matter whose counters are late. If it would take longer, the leader waits for the counters, for a tenth
//! of the time that the run has taken, and relies on them then. So a short run over a large table, most of which
//! needn't be read, may miss what a session has done in the run's last seconds, if that session had published just
//! before and has done nothing since.
//!
//! If `track_counts` is off, all leaves are read once more, however long that takes. If others were at work even
//! then, the number of rows left is unknown.
//!
//! While others are always at work this would not end, hence [`PASSES_FOR_OTHERS`]. A leaf that they have changed
//! after that counts as not finished, and the number of rows left is unknown.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::others::Moment;
use super::{Leader, shared_of};
use crate::backfill::shared::WorkerState;
use crate::backfill::target::ListedLeaf;
use crate::pg::latch;
use crate::pg::stats;
use crate::pg::tx;
use pgrx::pg_sys::Oid;

/// The maximum number of passes that are made because of what others have done.
const PASSES_FOR_OTHERS: u32 = 5;

/// The maximum number of these in which all leaves are read.
const PASSES_OVER_ALL: u32 = 2;

/// The maximum time for reading all leaves merely because somebody's counters may be late.
pub(super) const LOOK_AT_ALL: Duration = Duration::from_secs(1);

/// How long the leader waits for counters: this fraction of the time that the run has taken, within these bounds. A
/// session that does one thing after another publishes once a second; one that does nothing afterwards publishes
/// after ten seconds.
const PART_TO_WAIT: u32 = 10;
const LEAST_TO_WAIT: Duration = Duration::from_millis(1500);
const MOST_TO_WAIT: Duration = Duration::from_secs(12);

/// The end of a pass.
pub(super) struct PassEnd {
    at: Instant,
    moment: Moment,
    /// Processes that may not have published counters for what they have committed since all leaves were read.
    unpublished: Vec<i32>,
    /// Others have been at work, and what they do isn't counted.
    uncounted: bool,
}

impl Leader {
    /// The current moment, with what the run has done so far.
    pub(super) fn moment(&mut self) -> Moment {
        self.own_ids += crate::pg::xids::take_own();
        let workers = match self.segment {
            Some(_) => self.shared().totals().transaction_ids,
            None => 0,
        };
        Moment::now(self.own_ids + workers)
    }

    pub(super) fn open_pass(&mut self, leaves: Vec<ListedLeaf>) {
        let expected = |leaf: &ListedLeaf| self.leaves.blocks(leaf.oid).unwrap_or(leaf.blocks);
        let expected: Vec<_> = leaves
            .iter()
            .map(|leaf| (leaf.oid, expected(leaf)))
            .collect();
        let shared = self.shared();
        shared.task_queue().set_workers(self.handles.len() as u32);
        shared.task_queue().open_pass(expected);
        self.leaves.begin_pass();
        self.passes += 1;
        self.filled_before = self.shared().totals().rows_updated;
        self.wake_workers();
    }

    /// Whether all workers have seen that the pass is over.
    pub(super) fn pass_is_over(&self) -> bool {
        let shared = self.shared();
        let task_queue = shared.task_queue();
        let generation = task_queue.generation();
        task_queue.open_leaves() == 0
            && self.handles.iter().enumerate().all(|(number, handle)| {
                let slot = shared.worker(number);
                match slot.state() {
                    WorkerState::Ready => slot.pass_seen() == generation,
                    WorkerState::Starting => handle.has_stopped(),
                    WorkerState::Done | WorkerState::Failed | WorkerState::Retired => true,
                }
            })
    }

    /// After a pass: opens the next one, or closes the task queue if nothing has to be read again. Or waits for
    /// others' counters, and is then called again.
    pub(super) fn next_pass(&mut self) {
        let Some(again) = self.choose_leaves() else {
            return;
        };
        match again.is_empty() {
            true => {
                self.shared().task_queue().close();
                self.wake_workers();
            }
            false => self.open_pass(again),
        }
    }

    /// Takes the workers' records of blobs that could not be detected, once in a pass, when nobody is working.
    pub(super) fn take_undetected(&mut self) {
        let shared = shared_of(&self.segment);
        let task_queue = shared.task_queue();
        if self.taken_of == task_queue.generation() {
            return;
        }
        self.taken_of = task_queue.generation();
        let mut blobids: HashMap<u32, Vec<String>> = HashMap::new();
        shared.undetected().each(|leaf, blobid| {
            let oid = task_queue.leaf(leaf).oid();
            blobids.entry(oid).or_default().push(blobid);
        });
        shared.undetected().clear();
        let leaves = task_queue.leaves().map(|state| state.oid);
        self.leaves.take_undetected(leaves, blobids);
    }

    /// The leaves that have to be read again; None if that isn't known yet.
    fn choose_leaves(&mut self) -> Option<Vec<ListedLeaf>> {
        if self.options.verify.is_some() {
            return Some(self.choose_unseen());
        }
        let filled = self.shared().totals().rows_updated > self.filled_before;
        let end = match self.pass_end.take() {
            Some(end) => self.wait_for_counters(end)?,
            None => {
                self.take_undetected();
                let shared = shared_of(&self.segment);
                self.leaves.end_pass(shared.task_queue().leaves(), filled);
                let moment = self.moment();
                let alone = self.since.is_last(&moment);
                // Rows that the run has filled may have had triggers that changed other leaves.
                if alone && !filled && !self.leaves.any_comes_again() {
                    return Some(Vec::new());
                }
                let uncounted = !alone && !stats::are_kept();
                let unpublished = match alone || uncounted {
                    true => Vec::new(),
                    false => self.unpublished(&moment),
                };
                PassEnd {
                    at: Instant::now(),
                    moment,
                    unpublished,
                    uncounted,
                }
            }
        };
        // What is committed from here on may be missing in what is listed and counted now.
        let moment = self.moment();
        let listed = self.list_leaves();
        let counted = |oid| stats::counted(Oid::from(oid));
        tx::in_subtransaction(|| self.leaves.compare(&listed, counted));
        tx::commit_and_begin();
        let more = !self.options.dry_run && self.passes_for_others < PASSES_FOR_OTHERS;
        let all = more
            && self.passes_over_all < PASSES_OVER_ALL
            && match self.leaves.time_to_look() <= LOOK_AT_ALL {
                true => !end.unpublished.is_empty() || end.uncounted,
                false => end.uncounted && self.passes_over_all == 0,
            };
        if all {
            self.passes_for_others += 1;
            self.passes_over_all += 1;
            self.since = moment;
            let all = listed.into_iter();
            return Some(
                all.filter(|leaf| !self.leaves.is_given_up(leaf.oid))
                    .collect(),
            );
        }
        let changed = |leaf: &ListedLeaf| more && self.leaves.has_changed(leaf.oid);
        let locked = |leaf: &ListedLeaf| !self.options.dry_run && self.leaves.comes_again(leaf.oid);
        self.passes_for_others += u32::from(listed.iter().any(changed));
        let again: Vec<ListedLeaf> = listed
            .into_iter()
            .filter(|leaf| changed(leaf) || locked(leaf))
            .collect();
        if again.is_empty() && !end.unpublished.is_empty() && !self.has_waited(&end) {
            self.pass_end = Some(end);
            return None;
        }
        self.uncounted = end.uncounted;
        Some(again)
    }

    /// After a pass of a verification. Each row is compared as it was when it was read, and what others do afterwards
    /// doesn't matter. So only leaves that were locked or rewritten, or had locked rows, come again.
    fn choose_unseen(&mut self) -> Vec<ListedLeaf> {
        let corrected = self.shared().totals().rows_updated > self.filled_before;
        self.take_undetected();
        let shared = shared_of(&self.segment);
        self.leaves
            .end_pass(shared.task_queue().leaves(), corrected);
        if !self.leaves.any_comes_again() {
            return Vec::new();
        }
        // What was skipped stays skipped, whatever others have done to it since the run began.
        let passed_over = self.passed_over.clone();
        let listed = self.list_leaves();
        self.passed_over = passed_over;
        tx::commit_and_begin();
        let again = listed.into_iter();
        again
            .filter(|leaf| self.leaves.comes_again(leaf.oid))
            .collect()
    }

    /// Goes on waiting for others' counters if some may be late and there is time.
    fn wait_for_counters(&mut self, mut end: PassEnd) -> Option<PassEnd> {
        let unpublished = self.unpublished(&end.moment);
        end.unpublished.retain(|pid| unpublished.contains(pid));
        if end.unpublished.is_empty() || self.has_waited(&end) {
            return Some(end);
        }
        self.pass_end = Some(end);
        None
    }

    /// Whether it has waited long enough.
    fn has_waited(&self, end: &PassEnd) -> bool {
        let taken = end.at - self.started;
        end.at.elapsed() >= (taken / PART_TO_WAIT).clamp(LEAST_TO_WAIT, MOST_TO_WAIT)
    }

    fn unpublished(&self, then: &Moment) -> Vec<i32> {
        let workers = self.shared().workers().iter().map(|slot| slot.pid());
        let ours: Vec<i32> = workers.chain([latch::my_pid()]).collect();
        let unpublished = self.since.unpublished(then, &ours);
        tx::commit_and_begin();
        unpublished
    }
}
