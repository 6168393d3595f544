//! The task queue from which the workers of a run take their tasks.
//!
//! A task is a range of blocks of one leaf. The leader writes the leaves of a *pass* into the task queue, the largest
//! first. Workers take leaves in that order and divide them themselves: whoever opens a leaf first sets its number of
//! blocks, and from then on anybody may take its next range in one atomic step. So many workers share a large leaf
//! without any planning, a leaf's size is determined only when it is its turn, and the leader needs no lock on any
//! leaf.
//!
//! A range of blocks is valid in one file only. PostgreSQL gives a table another file when it is truncated,
//! clustered, vacuumed in full, moved to another tablespace or altered in a way that changes its rows. Then what was
//! read of a block is elsewhere, and nobody has read what is in it now. So ranges belong to the file in which the
//! leaf was found: whoever opens the leaf first stores it, and everybody after that compares
//! ([`LeafEntry::is_in_file`]).
//!
//! It is plain memory that is accessed through atomics, and zeroed when new, like the other shared parts of a run.

use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};

/// Maximum number of blocks of a task: 8 MB of heap, some tens of thousands of rows. Small enough to be scanned in
/// one short transaction.
pub const BLOCKS_PER_TASK: u32 = 1024;

/// Minimum number of blocks of a task: some thousand rows. A smaller leaf is for one worker.
pub const LEAST_BLOCKS_PER_TASK: u32 = 32;

/// How many tables above leaves can be remembered as busy. If there are more, all count as busy; most targets have
/// one.
const BUSY_TABLES: usize = 16;

const UNSIZED: u32 = 0;
const SIZED: u32 = 1;

/// Why a leaf has to be read again in the next pass.
const AGAIN_MISSED: u32 = 1;
const AGAIN_LOCKED: u32 = 2;
/// It turned out not to be a leaf of the target any more.
const GONE: u32 = 4;
/// Not all of its pending rows have been read.
const UNSEEN: u32 = 8;
/// It was found in another file than at first in this pass.
const REWRITTEN: u32 = 16;
/// Nothing of it is left to do in this pass.
const DONE: u32 = 32;
/// It has raised an error of its own.
const SET_ASIDE: u32 = 64;
/// What is known about it doesn't allow telling later whether it is unchanged.
const UNSURE: u32 = 128;

/// One leaf in the task queue.
#[repr(C)]
#[derive(Default)]
pub struct LeafEntry {
    oid: AtomicU32,
    sized: AtomicU32,
    blocks: AtomicU32,
    /// The first block that nobody has taken; at least `blocks` if none is left.
    next_block: AtomicU32,
    blocks_done: AtomicU32,
    flags: AtomicU32,
    rows_left: AtomicU64,
    rows_kept: AtomicU64,
    /// The file in which it was first found in this pass; 0 before that.
    file: AtomicU64,
    /// The rows that the server had counted as written, and as deleted, when the leaf was opened.
    written: AtomicU64,
    deleted: AtomicU64,
    /// Rows that the run has written since, or tried to.
    own: AtomicU64,
    /// Pending rows read.
    rows_found: AtomicU64,
    /// The numbers of both columns, that of `blobid` in the upper half.
    columns: AtomicU32,
    /// The shape on which these depend; 0 if unknown.
    shape: AtomicU64,
}

impl LeafEntry {
    /// Its OID.
    pub fn oid(&self) -> u32 {
        self.oid.load(Ordering::Relaxed)
    }

    /// Whether the leaf, which the caller has locked and found in `file` (not 0), is still in the file in which it
    /// was first found in this pass. True if nobody has found it before.
    pub fn is_in_file(&self, file: u64) -> bool {
        let found = self
            .file
            .compare_exchange(0, file, Ordering::AcqRel, Ordering::Acquire);
        match found {
            Ok(_) => true,
            Err(first) => first == file,
        }
    }

    /// Stores what the server has counted for the leaf. Must be called by whoever opens it, before reading any row.
    pub fn set_counters(&self, written: u64, deleted: u64) {
        self.written.store(written, Ordering::Relaxed);
        self.deleted.store(deleted, Ordering::Relaxed);
    }

    /// Counts rows that the run has written, or has tried to: the server counts these as well.
    pub fn count_own(&self, written: u64) {
        self.own.fetch_add(written, Ordering::Relaxed);
    }

    /// Stores the numbers of its columns `blobid` and `mime_type`, and the shape on which these depend, or 0. Must be
    /// called by whoever opens it.
    pub fn set_shape(&self, (blobid, mime_type): (i16, i16), shape: u64) {
        let both = u32::from(blobid as u16) << 16 | u32::from(mime_type as u16);
        self.columns.store(both, Ordering::Relaxed);
        self.shape.store(shape, Ordering::Relaxed);
    }

    /// Records that what is known about it doesn't allow telling later whether it is unchanged.
    pub fn set_unsure(&self) {
        self.flags.fetch_or(UNSURE, Ordering::Relaxed);
    }
}

/// The part of the task queue besides the leaves.
#[repr(C)]
#[derive(Default)]
pub struct TaskQueueHeader {
    /// Odd while the leader writes, even while workers may take tasks; 0 before the first pass.
    generation: AtomicU32,
    len: AtomicU32,
    next: AtomicU32,
    /// Leaves of this pass that aren't finished.
    open: AtomicU32,
    /// The number of workers among which a leaf is shared.
    workers: AtomicU32,
    /// No further task may be taken.
    closed: AtomicU32,
    /// OIDs of tables above leaves for which somebody has waited in vain in this pass; 0 for none.
    busy: [AtomicU32; BUSY_TABLES],
    /// Blocks of all passes so far: the expected number for leaves that nobody has opened, otherwise the actual one.
    blocks_total: AtomicI64,
    blocks_done: AtomicI64,
}

/// What a worker does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Open this leaf and set its size with [`TaskQueue::size`].
    Open(usize),
    /// Work on this range of blocks; `end` is exclusive.
    Range { leaf: usize, start: u32, end: u32 },
    /// There is nothing to take now, but others are still working and may leave something.
    Wait,
    /// The pass is over.
    PassDone,
    /// The run is over.
    Closed,
}

/// The state of a leaf after a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct LeafState {
    pub oid: u32,
    /// The pass is over for it.
    pub done: bool,
    /// Rows were pending that the update did not change although their blob was detected.
    pub missed: bool,
    /// Somebody else's lock prevented work on all or a part of it.
    pub locked: bool,
    /// It isn't a leaf of the target any more.
    pub gone: bool,
    /// Not all of its rows have been read in this pass, so there may be more left than `rows_left`.
    pub unseen: bool,
    /// It has got another file meanwhile.
    pub rewritten: bool,
    /// It has raised an error of its own, and the run doesn't touch it any more.
    pub set_aside: bool,
    /// Pending rows that were read in this pass and not filled.
    pub rows_left: u64,
    /// Of these, rows that have been updated and are still pending: a trigger or a rule keeps them so.
    pub rows_kept: u64,
    /// Its blocks.
    pub blocks: u32,
    /// The file in which it was; 0 if nobody has opened it.
    pub file: u64,
    /// The values that the server's counters of rows written and deleted must have if nobody else has changed the
    /// leaf since it was opened.
    pub written: u64,
    pub deleted: u64,
    /// Of the rows written, those that the run has written itself.
    pub own: u64,
    /// Pending rows read in this pass.
    pub rows_found: u64,
    /// The numbers of the columns `blobid` and `mime_type` when it was opened.
    pub columns: (i16, i16),
    /// The shape on which these depend; 0 if unknown.
    pub shape: u64,
    /// What is known about it doesn't allow telling later whether it is unchanged.
    pub unsure: bool,
}

/// How many of the remaining blocks of a leaf make up the next task. Toward the end tasks become small, like those of
/// PostgreSQL's parallel scans (heap/heapam.c), so that no worker has much left while the others have nothing: each
/// gets at most half of its share of the remainder.
fn blocks_of_task(left: u32, workers: u32) -> u32 {
    let share = match workers {
        0 | 1 => left,
        workers => left / workers.saturating_mul(2),
    };
    share
        .clamp(LEAST_BLOCKS_PER_TASK, BLOCKS_PER_TASK)
        .min(left)
}

/// A view of a task queue in shared memory.
#[derive(Clone, Copy)]
pub struct TaskQueue<'a> {
    header: &'a TaskQueueHeader,
    leaves: &'a [LeafEntry],
}

impl<'a> TaskQueue<'a> {
    /// A task queue over zeroed or already used memory.
    pub fn new(header: &'a TaskQueueHeader, leaves: &'a [LeafEntry]) -> TaskQueue<'a> {
        TaskQueue { header, leaves }
    }

    /// Writes the leaves of a pass, each with its OID and expected number of blocks, in the order in which they are
    /// to be taken, and opens the pass. Only for the leader, when every worker has seen the end of the previous pass.
    /// If there are more than fit, the rest is left out; returns how many there are.
    pub fn open_pass(&self, leaves: impl IntoIterator<Item = (u32, u32)>) -> usize {
        let h = self.header;
        let generation = h.generation.load(Ordering::Relaxed);
        h.generation.store(generation | 1, Ordering::Release);
        let mut len = 0;
        for (entry, (oid, blocks)) in self.leaves.iter().zip(leaves) {
            entry.oid.store(oid, Ordering::Relaxed);
            entry.sized.store(UNSIZED, Ordering::Relaxed);
            entry.blocks.store(blocks, Ordering::Relaxed);
            h.blocks_total
                .fetch_add(i64::from(blocks), Ordering::Relaxed);
            entry.next_block.store(0, Ordering::Relaxed);
            entry.blocks_done.store(0, Ordering::Relaxed);
            entry.flags.store(0, Ordering::Relaxed);
            entry.rows_left.store(0, Ordering::Relaxed);
            entry.file.store(0, Ordering::Relaxed);
            entry.rows_kept.store(0, Ordering::Relaxed);
            entry.set_counters(0, 0);
            entry.own.store(0, Ordering::Relaxed);
            entry.rows_found.store(0, Ordering::Relaxed);
            entry.set_shape((0, 0), 0);
            len += 1;
        }
        h.len.store(len, Ordering::Relaxed);
        h.next.store(0, Ordering::Relaxed);
        h.open.store(len, Ordering::Relaxed);
        for busy in &h.busy {
            busy.store(0, Ordering::Relaxed);
        }
        h.generation.store((generation | 1) + 1, Ordering::Release);
        len as usize
    }

    /// Sets the number of workers among which leaves are shared.
    pub fn set_workers(&self, workers: u32) {
        self.header.workers.store(workers, Ordering::Relaxed);
    }

    /// Identifies the open pass; changes with every [`TaskQueue::open_pass`].
    pub fn generation(&self) -> u32 {
        self.header.generation.load(Ordering::Acquire)
    }

    /// The generation of the open pass; None before the first one, and while the leader writes the next one.
    pub fn pass(&self) -> Option<u32> {
        let generation = self.generation();
        (generation != 0 && generation & 1 == 0).then_some(generation)
    }

    /// Hands out no further tasks.
    pub fn close(&self) {
        self.header.closed.store(1, Ordering::Release);
    }

    /// Whether the task queue has been closed.
    pub fn is_closed(&self) -> bool {
        self.header.closed.load(Ordering::Acquire) != 0
    }

    /// The number of leaves of this pass that aren't finished.
    pub fn open_leaves(&self) -> u32 {
        self.header.open.load(Ordering::Acquire)
    }

    /// Blocks that are done, and all blocks, over all passes so far.
    pub fn blocks(&self) -> (i64, i64) {
        let h = self.header;
        let load = |cell: &AtomicI64| cell.load(Ordering::Relaxed);
        (load(&h.blocks_done), load(&h.blocks_total))
    }

    /// The number of leaves of this pass.
    fn len(&self) -> usize {
        (self.header.len.load(Ordering::Acquire) as usize).min(self.leaves.len())
    }

    /// The next task for a worker that has worked on the leaf `current`, if on any: it goes on there, or else opens a
    /// new leaf, or else helps with one that others have opened.
    pub fn take(&self, current: Option<usize>) -> Task {
        if self.is_closed() {
            return Task::Closed;
        }
        if self.pass().is_none() {
            return Task::Wait;
        }
        let len = self.len();
        if let Some(task) = current
            .filter(|leaf| *leaf < len)
            .and_then(|leaf| self.take_range(leaf))
        {
            return task;
        }
        // Checked before adding, so that idle workers can't make the counter wrap around.
        if (self.header.next.load(Ordering::Relaxed) as usize) < len {
            let leaf = self.header.next.fetch_add(1, Ordering::AcqRel) as usize;
            if leaf < len {
                return Task::Open(leaf);
            }
        }
        if self.open_leaves() == 0 {
            return Task::PassDone;
        }
        (0..len)
            .find_map(|leaf| self.take_range(leaf))
            .unwrap_or(Task::Wait)
    }

    fn take_range(&self, leaf: usize) -> Option<Task> {
        let entry = &self.leaves[leaf];
        if entry.sized.load(Ordering::Acquire) != SIZED {
            return None;
        }
        let blocks = entry.blocks.load(Ordering::Relaxed);
        let workers = self.header.workers.load(Ordering::Relaxed);
        let after = |start: u32| start + blocks_of_task(blocks - start, workers);
        let start = entry
            .next_block
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, |next| {
                (next < blocks).then(|| after(next))
            })
            .ok()?;
        Some(Task::Range {
            leaf,
            start,
            end: after(start),
        })
    }

    /// A leaf's entry.
    pub fn leaf(&self, leaf: usize) -> &'a LeafEntry {
        &self.leaves[leaf]
    }

    /// Sets the number of blocks of a leaf that the caller was told to open. Returns whether that finishes the leaf,
    /// because it is empty.
    pub fn size(&self, leaf: usize, blocks: u32) -> bool {
        let entry = &self.leaves[leaf];
        let expected = entry.blocks.swap(blocks, Ordering::Relaxed);
        self.header
            .blocks_total
            .fetch_add(i64::from(blocks) - i64::from(expected), Ordering::Relaxed);
        entry.sized.store(SIZED, Ordering::Release);
        if blocks == 0 {
            self.close_leaf(leaf);
        }
        blocks == 0
    }

    /// The caller, who was told to open the leaf, has done all of it; nobody gets a range of it.
    pub fn finish_whole(&self, leaf: usize, blocks: u32) {
        self.abandon(leaf);
        if !self.size(leaf, blocks) {
            self.finish(leaf, blocks, 0);
        }
    }

    /// Counts blocks of a range that are done, while the rest of it is still being worked on.
    pub fn advance(&self, blocks: u32) {
        self.header
            .blocks_done
            .fetch_add(i64::from(blocks), Ordering::Relaxed);
    }

    /// A range is done, in whatever way; `advanced` of its blocks have been counted already. Returns whether that
    /// finishes its leaf.
    pub fn finish(&self, leaf: usize, blocks: u32, advanced: u32) -> bool {
        self.advance(blocks.saturating_sub(advanced));
        let entry = &self.leaves[leaf];
        let done = entry.blocks_done.fetch_add(blocks, Ordering::AcqRel) + blocks;
        let finished = blocks > 0 && done == entry.blocks.load(Ordering::Relaxed);
        if finished {
            self.close_leaf(leaf);
        }
        finished
    }

    /// Removes what is left of a leaf from the task queue: nobody needs to try further ranges in this pass. Returns
    /// the number of blocks skipped; the caller must still call [`TaskQueue::finish`] for them.
    pub fn abandon(&self, leaf: usize) -> u32 {
        let entry = &self.leaves[leaf];
        let blocks = entry.blocks.load(Ordering::Relaxed);
        let next = entry.next_block.swap(u32::MAX, Ordering::AcqRel);
        blocks.saturating_sub(next)
    }

    /// The leaf could not be opened at all: it is finished for this pass, whatever its size.
    pub fn skip(&self, leaf: usize) {
        self.size(leaf, 0);
    }

    fn close_leaf(&self, leaf: usize) {
        self.leaves[leaf].flags.fetch_or(DONE, Ordering::Relaxed);
        self.header.open.fetch_sub(1, Ordering::AcqRel);
    }

    /// Records rows that were pending when read and are not filled; `missed` means that some of them should have
    /// been.
    pub fn add_left(&self, leaf: usize, left: u64, missed: bool) {
        let entry = &self.leaves[leaf];
        entry.rows_left.fetch_add(left, Ordering::Relaxed);
        if missed {
            entry.flags.fetch_or(AGAIN_MISSED, Ordering::Relaxed);
        }
    }

    /// Counts pending rows that have been read.
    pub fn count_found(&self, leaf: usize, rows: u64) {
        self.leaves[leaf]
            .rows_found
            .fetch_add(rows, Ordering::Relaxed);
    }

    /// Records rows among those that are left that have been updated and are still pending.
    pub fn add_kept(&self, leaf: usize, rows: u64) {
        self.leaves[leaf]
            .rows_kept
            .fetch_add(rows, Ordering::Relaxed);
    }

    /// Records that somebody's lock prevented filling a part of it.
    pub fn set_locked(&self, leaf: usize) {
        self.leaves[leaf]
            .flags
            .fetch_or(AGAIN_LOCKED, Ordering::Relaxed);
    }

    /// Records that somebody's lock prevented reading all of it.
    pub fn set_unseen(&self, leaf: usize) {
        self.leaves[leaf]
            .flags
            .fetch_or(AGAIN_LOCKED | UNSEEN, Ordering::Relaxed);
    }

    /// Records that it has another file than at first in this pass, and has to be read from the beginning.
    pub fn set_rewritten(&self, leaf: usize) {
        self.leaves[leaf]
            .flags
            .fetch_or(REWRITTEN | UNSEEN, Ordering::Relaxed);
    }

    /// Records that it has raised an error of its own: nobody may go on with it. Returns whether this is its first
    /// error.
    pub fn set_aside(&self, leaf: usize) -> bool {
        let flags = &self.leaves[leaf].flags;
        flags.fetch_or(SET_ASIDE | UNSEEN, Ordering::Relaxed) & SET_ASIDE == 0
    }

    /// Whether there is a known reason why a leaf may have to be read again in another pass.
    pub fn comes_again(&self, leaf: usize) -> bool {
        let why = AGAIN_MISSED | AGAIN_LOCKED | UNSEEN | REWRITTEN;
        self.leaves[leaf].flags.load(Ordering::Relaxed) & why != 0
    }

    /// Whether it has raised an error of its own.
    pub fn is_set_aside(&self, leaf: usize) -> bool {
        self.leaves[leaf].flags.load(Ordering::Relaxed) & SET_ASIDE != 0
    }

    /// Records that this isn't a leaf of the target any more.
    pub fn set_gone(&self, leaf: usize) {
        self.leaves[leaf].flags.fetch_or(GONE, Ordering::Relaxed);
    }

    /// Records that somebody has waited in vain for a lock on a table above leaves: nobody else is to wait for it in
    /// this pass.
    pub fn set_busy(&self, oid: u32) {
        for busy in &self.header.busy {
            match busy.compare_exchange(0, oid, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return,
                Err(known) if known == oid => return,
                Err(_) => {}
            }
        }
    }

    /// Whether somebody has waited for that table in vain in this pass.
    pub fn is_busy(&self, oid: u32) -> bool {
        let mut known = self
            .header
            .busy
            .iter()
            .map(|busy| busy.load(Ordering::Acquire));
        let full = |known: u32| known != 0;
        known.clone().any(|known| known == oid) || known.all(full)
    }

    /// The states of the leaves. Only for the leader, when the pass is over.
    pub fn leaves(&self) -> impl Iterator<Item = LeafState> {
        self.leaves[..self.len()].iter().map(|entry| {
            let flags = entry.flags.load(Ordering::Relaxed);
            let own = entry.own.load(Ordering::Relaxed);
            let columns = entry.columns.load(Ordering::Relaxed);
            LeafState {
                oid: entry.oid.load(Ordering::Relaxed),
                done: flags & DONE != 0,
                missed: flags & AGAIN_MISSED != 0,
                locked: flags & AGAIN_LOCKED != 0,
                gone: flags & GONE != 0,
                unseen: flags & UNSEEN != 0,
                rewritten: flags & REWRITTEN != 0,
                set_aside: flags & SET_ASIDE != 0,
                rows_left: entry.rows_left.load(Ordering::Relaxed),
                rows_kept: entry.rows_kept.load(Ordering::Relaxed),
                blocks: entry.blocks.load(Ordering::Relaxed),
                file: entry.file.load(Ordering::Relaxed),
                written: entry.written.load(Ordering::Relaxed) + own,
                deleted: entry.deleted.load(Ordering::Relaxed),
                own,
                rows_found: entry.rows_found.load(Ordering::Relaxed),
                columns: ((columns >> 16) as i16, columns as i16),
                shape: entry.shape.load(Ordering::Relaxed),
                unsure: flags & UNSURE != 0,
            }
        })
    }
}

#[cfg(test)]
mod tests;
