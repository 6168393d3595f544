//! The shared memory of a run, one segment. What changes while several processes use it is accessed through atomics;
//! the rest is written before others can see it.
//!
//! ```text
//! Header | WorkerSlot × workers | LeafEntry × leaves | blobs read × roots | undetected | job (JSON) | settings
//! ```
//!
//! The header has the sizes, so that a worker, or a session that wants to cancel the run, can find everything by
//! itself. Only the list of leaves grows with the table, by 96 bytes for each leaf in which there is something to do;
//! the rest is bounded by `workers`. What the run knows about its blobs is kept separately, since it is large: in
//! memory of `ntt_mime.cache_size`, which only workers map ([`super::cache_memory`]).

use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};

use ntt_mime_core::cache::{CacheHeader, RunCache};
use ntt_mime_core::dictionary::Dictionary;
use ntt_mime_core::task_queue::{LeafEntry, TaskQueue, TaskQueueHeader};
use ntt_mime_core::undetected::{Undetected, UndetectedHeader};

use super::cache_memory::{CacheHandle, CacheMapping, CacheMemory};
use super::counters::{Counters, Totals};
use super::options::Job;
use crate::pg::dsm::Segment;
use crate::pg::report::Report;

/// Identifies a segment as ours, with this layout. Changes whenever the layout does.
const MAGIC: u64 = u64::from_be_bytes(*b"ntt_runD");

/// Alignment of each part: a cache line, so that no two parts share one.
const ALIGN: usize = 64;

/// How many leaves may be added during a run, in addition to a quarter more.
const SPARE_LEAVES: usize = 1024;

/// The size of the list of blobs that could not be detected, in 64-bit words: room for some thirty thousand in a
/// pass.
const UNDETECTED_WORDS: usize = (2 << 20) / size_of::<u64>();

const ERROR_BYTES: usize = 4096;

/// Whether, and how, a run is to stop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Stop {
    /// It goes on.
    No = 0,
    /// Finish the current batch, then end: somebody has requested it, or `max_blobs` is reached.
    AfterBatch = 1,
    /// End at once: the leader has gone or has been interrupted.
    Now = 2,
}

#[repr(C)]
struct Header {
    magic: u64,
    run_id: i64,
    workers: u64,
    leaves: u64,
    roots: u64,
    job_bytes: u64,
    settings_bytes: u64,
    leader_pid: AtomicI32,
    stop: AtomicU32,
    /// Somebody called ntt_cancel_backfill.
    cancelled: AtomicU32,
    /// Everything is done except the last commit, which may have to wait for a synchronous standby.
    ending: AtomicU32,
    /// Somebody has called ntt_cancel_backfill: that commit must not wait any longer.
    wait_no_longer: AtomicU32,
    limit_reached: AtomicU32,
    /// A worker has quarantined a blob.
    quarantined: AtomicU32,
    /// An audit has found a difference.
    audit_differed: AtomicU32,
    /// A worker uses another detector than the leader assumes.
    other_detector: AtomicU32,
    /// How many workers may work at the same time.
    workers_allowed: AtomicU32,
    /// The state of the first error of a leaf: 0 there is none, 1 somebody is writing it, 2 it is complete.
    leaf_error_state: AtomicU32,
    leaf_error_bytes: AtomicU32,
    leaf_error: std::cell::UnsafeCell<[u8; ERROR_BYTES]>,
    blobs: AtomicU64,
    /// How much of `max_blobs` has been taken.
    places_taken: AtomicU64,
    /// How much of that has been taken for good.
    places_kept: AtomicU64,
    task_queue: TaskQueueHeader,
    cache: CacheHeader,
    cache_handle: CacheHandle,
    undetected: UndetectedHeader,
    dictionary: Dictionary,
}

/// The state of a worker, set by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum WorkerState {
    /// Not running yet.
    Starting = 0,
    Ready = 1,
    /// Ended normally.
    Done = 2,
    /// Ended with an error.
    Failed = 3,
    /// Ended so that another worker takes its place.
    Retired = 4,
}

/// What a worker says about itself.
#[repr(C, align(64))]
pub struct WorkerSlot {
    state: AtomicU32,
    pid: AtomicI32,
    /// The generation of the task queue whose end the worker has seen.
    pass_seen: AtomicU32,
    error_bytes: AtomicU32,
    /// 1 while the worker waits for something to do, or rests.
    idle: AtomicU32,
    /// 1 if it waited for somebody's lock when the leader last checked.
    locked_out: AtomicU32,
    pub counters: Counters,
    error: std::cell::UnsafeCell<[u8; ERROR_BYTES]>,
}

/// A view of a run's shared memory.
#[derive(Clone, Copy)]
pub struct Shared<'a> {
    header: &'a Header,
    slots: &'a [WorkerSlot],
    leaves: &'a [LeafEntry],
    /// Blobs read from each root of the store.
    reads: &'a [AtomicU64],
    undetected: &'a [AtomicU64],
    job: &'a [u8],
    settings: &'a [u8],
}

// SAFETY: see `WorkerSlot::fail` and `WorkerSlot::error`.
unsafe impl Sync for WorkerSlot {}

struct Layout {
    slots: usize,
    leaves: usize,
    reads: usize,
    undetected: usize,
    job: usize,
    settings: usize,
    end: usize,
}

impl Header {
    /// Offsets of the parts; None if they don't fit into memory.
    fn layout(&self) -> Option<Layout> {
        let after = |at: usize, n: u64, size: usize| {
            let bytes = usize::try_from(n).ok()?.checked_mul(size)?;
            at.checked_add(bytes)?.checked_next_multiple_of(ALIGN)
        };
        let slots = after(0, 1, size_of::<Header>())?;
        let leaves = after(slots, self.workers, size_of::<WorkerSlot>())?;
        let reads = after(leaves, self.leaves, size_of::<LeafEntry>())?;
        let undetected = after(reads, self.roots, size_of::<AtomicU64>())?;
        let job = after(undetected, UNDETECTED_WORDS as u64, size_of::<AtomicU64>())?;
        let settings = after(job, self.job_bytes, 1)?;
        let end = after(settings, self.settings_bytes, 1)?;
        Some(Layout {
            slots,
            leaves,
            reads,
            undetected,
            job,
            settings,
            end,
        })
    }
}

/// Creates the shared memory of a run whose target now has `leaves` leaves, and whose cache is in `cache`.
pub fn create(
    job: &Job,
    leaves: usize,
    cache: &CacheMemory,
    settings: &[u8],
) -> std::io::Result<Segment> {
    let job_text = serde_json::to_vec(job).expect("a job is plain data");
    // SAFETY: all zeros is a valid header (integers, atomics, an empty dictionary). Boxed, since the dictionary is
    // too large for a stack.
    let mut header = unsafe { Box::<Header>::new_zeroed().assume_init() };
    header.magic = MAGIC;
    header.run_id = job.run_id;
    header.workers = u64::from(job.options.workers);
    header.leaves = (leaves + leaves / 4 + SPARE_LEAVES) as u64;
    header.roots = job.roots.len() as u64;
    header.cache = CacheHeader::new()?;
    header.cache_handle = cache.handle();
    *header.workers_allowed.get_mut() = u32::MAX;
    header.job_bytes = job_text.len() as u64;
    header.settings_bytes = settings.len() as u64;
    *header.leader_pid.get_mut() = crate::pg::latch::my_pid();
    let layout = header.layout().expect("sizes bounded by their settings");
    let segment = Segment::create(layout.end);
    let base = segment.address().as_ptr();
    // SAFETY: the segment has `layout.end` bytes, nobody else knows it yet, and all zeros is valid for all its other
    // parts.
    unsafe {
        std::ptr::copy_nonoverlapping(&*header, base.cast::<Header>(), 1);
        std::ptr::copy_nonoverlapping(job_text.as_ptr(), base.add(layout.job), job_text.len());
        std::ptr::copy_nonoverlapping(settings.as_ptr(), base.add(layout.settings), settings.len());
    }
    Ok(segment)
}

impl<'a> Shared<'a> {
    /// A view of a segment; None if it isn't the shared memory of a run of this release.
    pub fn view(segment: &'a Segment) -> Option<Shared<'a>> {
        let base = segment.address().as_ptr();
        if segment.bytes() < size_of::<Header>() {
            return None;
        }
        // SAFETY: page aligned, mapped as long as `segment` lives, and large enough, as just checked, for the header
        // and, before each part is accessed, for the parts. Everything shared is changed through atomics; magic and
        // sizes are written before the segment is made known.
        unsafe {
            let header = &*base.cast::<Header>();
            if header.magic != MAGIC {
                return None;
            }
            let layout = header.layout().filter(|l| l.end <= segment.bytes())?;
            let part = |at: usize| base.add(at);
            use std::slice::from_raw_parts as slice;
            Some(Shared {
                header,
                slots: slice(part(layout.slots).cast(), header.workers as usize),
                leaves: slice(part(layout.leaves).cast(), header.leaves as usize),
                reads: slice(part(layout.reads).cast(), header.roots as usize),
                undetected: slice(part(layout.undetected).cast(), UNDETECTED_WORDS),
                job: slice(part(layout.job), header.job_bytes as usize),
                settings: slice(part(layout.settings), header.settings_bytes as usize),
            })
        }
    }

    /// The run's job.
    pub fn job(&self) -> serde_json::Result<Job> {
        serde_json::from_slice(self.job)
    }

    /// The leader's settings, see [`crate::pg::bgworker::serialize_settings`].
    pub fn settings(&self) -> &[u8] {
        self.settings
    }

    pub fn run_id(&self) -> i64 {
        self.header.run_id
    }

    pub fn leader_pid(&self) -> i32 {
        self.header.leader_pid.load(Ordering::Relaxed)
    }

    pub fn task_queue(&self) -> TaskQueue<'a> {
        TaskQueue::new(&self.header.task_queue, self.leaves)
    }

    /// The blobs of this pass that could not be detected.
    pub fn undetected(&self) -> Undetected<'a> {
        Undetected::new(&self.header.undetected, self.undetected)
    }

    /// How to find the memory of the run cache.
    pub fn cache_handle(&self) -> &'a CacheHandle {
        &self.header.cache_handle
    }

    /// The run cache, in the memory that was found.
    pub fn cache(&self, memory: &'a CacheMapping) -> RunCache<'a> {
        // SAFETY: mapped as long as `memory` is borrowed, zeroed when it was created, and used for nothing else.
        unsafe { RunCache::at(&self.header.cache, memory.address(), memory.bytes()) }
    }

    pub fn dictionary(&self) -> &'a Dictionary {
        &self.header.dictionary
    }

    /// The slot of a worker. Panics if there is none with that number, which a worker can't have.
    pub fn worker(&self, number: usize) -> &'a WorkerSlot {
        &self.slots[number]
    }

    pub fn workers(&self) -> &'a [WorkerSlot] {
        self.slots
    }

    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        self.slots.iter().for_each(|s| totals.add(&s.counters));
        totals
    }

    /// Batches of all workers for which somebody has waited.
    pub fn waited_for(&self) -> u64 {
        let counters = self.slots.iter().map(|slot| &slot.counters);
        counters.map(|c| c.waited_for.load(Ordering::Relaxed)).sum()
    }

    /// Sets how many workers may work at the same time. The others rest when they have finished their batch.
    pub fn allow_workers(&self, workers: u32) {
        self.header
            .workers_allowed
            .store(workers, Ordering::Relaxed);
    }

    /// Whether as many workers as may are working, without this one. A worker that has ended, or that waits for a
    /// task or for somebody's lock, makes room, so one of those that rest goes on; if two see that at the same time,
    /// both do, until their next batch.
    pub fn is_full_without(&self, number: usize) -> bool {
        let others = self.slots.iter().enumerate().filter(|(n, _)| *n != number);
        let working = others.filter(|(_, slot)| slot.is_working()).count();
        working as u32 >= self.header.workers_allowed.load(Ordering::Relaxed)
    }

    /// Counts a blob that has been read from a root of the store.
    pub fn count_read(&self, root: usize) {
        if let Some(reads) = self.reads.get(root) {
            reads.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many blobs have been read from each root.
    pub fn reads(&self) -> impl Iterator<Item = u64> {
        self.reads.iter().map(|reads| reads.load(Ordering::Relaxed))
    }

    /// Asks the workers to stop. A stronger request is not replaced by a weaker one.
    pub fn stop(&self, how: Stop) {
        self.header.stop.fetch_max(how as u32, Ordering::SeqCst);
        self.task_queue().close();
    }

    pub fn stopping(&self) -> Stop {
        match self.header.stop.load(Ordering::Relaxed) {
            0 => Stop::No,
            1 => Stop::AfterBatch,
            _ => Stop::Now,
        }
    }

    /// Declares that everything is done except the last commit. The returned value becomes nonzero when that must no
    /// longer wait for a standby.
    pub fn end(&self) -> &'a AtomicU32 {
        self.header.ending.store(1, Ordering::SeqCst);
        &self.header.wait_no_longer
    }

    /// Cancels the run from another session; false if it is already ending and doesn't wait for anything.
    pub fn cancel(&self) -> bool {
        let over = self.task_queue().is_closed() && !self.is_cancelled();
        if over && self.header.ending.load(Ordering::SeqCst) == 0 {
            return false;
        }
        self.header.wait_no_longer.store(1, Ordering::SeqCst);
        if over {
            return true;
        }
        self.header.cancelled.store(1, Ordering::SeqCst);
        self.stop(Stop::AfterBatch);
        crate::pg::latch::wake(self.leader_pid());
        true
    }

    pub fn is_cancelled(&self) -> bool {
        self.header.cancelled.load(Ordering::SeqCst) != 0
    }

    /// Counts one more distinct blob that the run has met.
    pub fn count_blob(&self) {
        self.header.blobs.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes one of `max` places for blobs to be detected; false if there is none. The taker must either keep it
    /// ([`Shared::keep_place`]) or give it back.
    pub fn take_place(&self, max: u64) -> bool {
        let more = |taken| (taken < max).then_some(taken + 1);
        let taken = &self.header.places_taken;
        taken
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .is_ok()
    }

    /// The blob for which a place was taken counts towards `max_blobs`.
    pub fn keep_place(&self) {
        self.header.places_kept.fetch_add(1, Ordering::Relaxed);
    }

    /// The blob doesn't count.
    pub fn give_place_back(&self) {
        self.header.places_taken.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether one of the `max` places is free now. None if that isn't decided yet.
    pub fn has_place(&self, max: u64) -> Option<bool> {
        if self.header.places_kept.load(Ordering::Relaxed) >= max {
            return Some(false);
        }
        (self.header.places_taken.load(Ordering::Relaxed) < max).then_some(true)
    }

    /// Ends the run, because `max_blobs` have been detected.
    pub fn end_at_limit(&self) {
        self.header.limit_reached.store(1, Ordering::Relaxed);
        self.stop(Stop::AfterBatch);
    }

    /// Stores the first error of a leaf for the leader to raise at the end; later ones are discarded.
    pub fn tell_of_leaf_error(&self, error: &Report) {
        let state = &self.header.leaf_error_state;
        let first = state.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Relaxed);
        if first.is_err() {
            return;
        }
        let text = error.shortened(ERROR_BYTES);
        // SAFETY: only the winner of the exchange writes, once, before the state says that the error is complete.
        unsafe { (&mut *self.header.leaf_error.get())[..text.len()].copy_from_slice(&text) };
        let bytes = &self.header.leaf_error_bytes;
        bytes.store(text.len() as u32, Ordering::Relaxed);
        state.store(2, Ordering::Release);
    }

    /// The first error of a leaf.
    pub fn leaf_error(&self) -> Option<Report> {
        if self.header.leaf_error_state.load(Ordering::Acquire) != 2 {
            return None;
        }
        let bytes = self.header.leaf_error_bytes.load(Ordering::Relaxed) as usize;
        // SAFETY: it is complete, after which nobody writes any more.
        let text = unsafe { &(&*self.header.leaf_error.get())[..bytes.min(ERROR_BYTES)] };
        Some(serde_json::from_slice(text).expect("written by tell_of_leaf_error"))
    }

    /// Tells the other workers that a blob has been quarantined.
    pub fn tell_of_quarantine(&self) {
        self.header.quarantined.store(1, Ordering::Relaxed);
    }

    /// Whether a worker of this run has quarantined a blob.
    pub fn any_quarantined(&self) -> bool {
        self.header.quarantined.load(Ordering::Relaxed) != 0
    }

    /// Tells the other workers that libmagic gave another type than the prefilter.
    pub fn tell_of_audit_difference(&self) {
        self.header.audit_differed.store(1, Ordering::Relaxed);
    }

    /// Whether an audit of this run has found a difference, so that the prefilter must no longer be used.
    pub fn audit_has_differed(&self) -> bool {
        self.header.audit_differed.load(Ordering::Relaxed) != 0
    }

    /// Tells the leader that a worker uses another detector than [`Job::detector`] says.
    pub fn tell_of_other_detector(&self) {
        self.header.other_detector.store(1, Ordering::Relaxed);
    }

    /// Whether a worker of this run has used another one.
    pub fn had_other_detector(&self) -> bool {
        self.header.other_detector.load(Ordering::Relaxed) != 0
    }

    /// Distinct blobs met.
    pub fn blobs(&self) -> u64 {
        self.header.blobs.load(Ordering::Relaxed)
    }

    /// Whether `max_blobs` ended the run.
    pub fn limit_reached(&self) -> bool {
        self.header.limit_reached.load(Ordering::Relaxed) != 0
    }
}

impl WorkerSlot {
    pub fn state(&self) -> WorkerState {
        match self.state.load(Ordering::Acquire) {
            0 => WorkerState::Starting,
            1 => WorkerState::Ready,
            2 => WorkerState::Done,
            4 => WorkerState::Retired,
            _ => WorkerState::Failed,
        }
    }

    pub fn set_state(&self, state: WorkerState) {
        self.state.store(state as u32, Ordering::Release);
    }

    pub fn begin(&self) {
        self.pid
            .store(crate::pg::latch::my_pid(), Ordering::Relaxed);
        self.set_state(WorkerState::Ready);
    }

    pub fn pid(&self) -> i32 {
        self.pid.load(Ordering::Relaxed)
    }

    /// The worker begins, or ends, to wait for something to do.
    pub fn set_idle(&self, idle: bool) {
        self.idle.store(u32::from(idle), Ordering::Relaxed);
    }

    /// The leader has seen whether the worker waits for somebody's lock.
    pub fn set_locked_out(&self, locked_out: bool) {
        self.locked_out
            .store(u32::from(locked_out), Ordering::Relaxed);
    }

    fn is_working(&self) -> bool {
        let waits = |why: &AtomicU32| why.load(Ordering::Relaxed) != 0;
        self.state() == WorkerState::Ready && !waits(&self.idle) && !waits(&self.locked_out)
    }

    /// The worker has seen that the pass with this generation is over, and doesn't access the task queue until the
    /// next one is open.
    pub fn see_pass_end(&self, generation: u32) {
        self.pass_seen.store(generation, Ordering::SeqCst);
    }

    pub fn pass_seen(&self) -> u32 {
        self.pass_seen.load(Ordering::SeqCst)
    }

    /// Stores the error that ends the worker for the leader to raise.
    pub fn fail(&self, error: &Report) {
        let text = error.shortened(ERROR_BYTES);
        // SAFETY: only the slot's worker writes, once, before the state says Failed.
        unsafe { (&mut *self.error.get())[..text.len()].copy_from_slice(&text) };
        self.error_bytes.store(text.len() as u32, Ordering::Relaxed);
        self.set_state(WorkerState::Failed);
    }

    /// The error that ended the worker, once its state is Failed.
    pub fn error(&self) -> Report {
        let bytes = (self.error_bytes.load(Ordering::Relaxed) as usize).min(ERROR_BYTES);
        // SAFETY: the state was loaded as Failed (Acquire), after which nobody writes any more.
        let text = unsafe { &(&*self.error.get())[..bytes] };
        serde_json::from_slice(text).expect("written by WorkerSlot::fail")
    }
}
