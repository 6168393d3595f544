//! The shared memory of a run: a segment. What changes while others look is written and read through atomics; the
//! rest is written before they can look.
//!
//! ```text
//! Header | WorkerSlot × workers | LeafEntry × leaves | blobs read × roots | undetected | job (JSON) | settings
//! ```
//!
//! The sizes stand in the header, so that a worker, or a session that wants to cancel the run, can
//! find everything by itself. Only the list of leaves grows with the table, by 96 bytes for each leaf that there is
//! something to do in; the rest is bounded by `workers`. What the run knows of its blobs lies apart, since it is large: in memory of
//! `ntt_mime.cache_size`, which only workers map ([`super::cache_memory`]).

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

/// Says that a segment is one of ours, of this layout. Changes whenever the layout does.
const MAGIC: u64 = u64::from_be_bytes(*b"ntt_runC");

/// Alignment of each part: a cache line, so that parts don't share one.
const ALIGN: usize = 64;

/// Leaves that may be added while a run goes on, beyond a quarter more.
const SPARE_LEAVES: usize = 1024;

/// Of the list of blobs that could not be detected: 64-bit words, so room for some thirty thousand a pass.
const UNDETECTED_WORDS: usize = (2 << 20) / size_of::<u64>();

const ERROR_BYTES: usize = 4096;

/// How a run is to go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Stop {
    /// On it goes.
    No = 0,
    /// Finish the current batch, then end: somebody has asked for it, or `max_blobs` is reached.
    AfterBatch = 1,
    /// End at once: the leader is gone or has been interrupted.
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
    /// All is done but for the last commit, which may have to wait for a synchronous standby.
    ending: AtomicU32,
    /// Somebody has called ntt_cancel_backfill: that is to wait no longer.
    wait_no_longer: AtomicU32,
    limit_reached: AtomicU32,
    /// A worker has put a blob into quarantine.
    quarantined: AtomicU32,
    /// An audit has found a difference.
    audit_differed: AtomicU32,
    /// A worker has another detector than the leader believes.
    other_detector: AtomicU32,
    /// How far the first error of a leaf's own has been written: 0 there is none, 1 somebody is at it, 2 it is there.
    leaf_error_state: AtomicU32,
    leaf_error_bytes: AtomicU32,
    leaf_error: std::cell::UnsafeCell<[u8; ERROR_BYTES]>,
    blobs: AtomicU64,
    /// Of the places that `max_blobs` gives, those that are taken.
    places_taken: AtomicU64,
    /// Of these, those that are taken for good.
    places_kept: AtomicU64,
    task_queue: TaskQueueHeader,
    cache: CacheHeader,
    cache_handle: CacheHandle,
    undetected: UndetectedHeader,
    dictionary: Dictionary,
}

/// Where a worker stands, as it says itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum WorkerState {
    /// Not there yet.
    Starting = 0,
    Ready = 1,
    /// Ended as it should.
    Done = 2,
    /// Ended with an error.
    Failed = 3,
    /// Ended for another worker to take its place.
    Retired = 4,
}

/// What a worker tells about itself.
#[repr(C, align(64))]
pub struct WorkerSlot {
    state: AtomicU32,
    pid: AtomicI32,
    /// The generation of the task queue whose end the worker has seen.
    pass_seen: AtomicU32,
    error_bytes: AtomicU32,
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

/// Makes the shared memory of a run whose target has `leaves` leaves now, and whose blobs are known in `cache`.
pub fn create(
    job: &Job,
    leaves: usize,
    cache: &CacheMemory,
    settings: &[u8],
) -> std::io::Result<Segment> {
    let job_text = serde_json::to_vec(job).expect("a job is plain data");
    // SAFETY: all zero is a valid header (integers, atomics, an empty dictionary); boxed, since the
    // dictionary is too big for a stack.
    let mut header = unsafe { Box::<Header>::new_zeroed().assume_init() };
    header.magic = MAGIC;
    header.run_id = job.run_id;
    header.workers = u64::from(job.options.workers);
    header.leaves = (leaves + leaves / 4 + SPARE_LEAVES) as u64;
    header.roots = job.roots.len() as u64;
    header.cache = CacheHeader::new()?;
    header.cache_handle = cache.handle();
    header.job_bytes = job_text.len() as u64;
    header.settings_bytes = settings.len() as u64;
    *header.leader_pid.get_mut() = crate::pg::latch::my_pid();
    let layout = header.layout().expect("sizes bounded by their settings");
    let segment = Segment::create(layout.end);
    let base = segment.address().as_ptr();
    // SAFETY: the segment has `layout.end` bytes, nobody else knows it yet, and all zero is valid
    // for all its other parts.
    unsafe {
        std::ptr::copy_nonoverlapping(&*header, base.cast::<Header>(), 1);
        std::ptr::copy_nonoverlapping(job_text.as_ptr(), base.add(layout.job), job_text.len());
        std::ptr::copy_nonoverlapping(settings.as_ptr(), base.add(layout.settings), settings.len());
    }
    Ok(segment)
}

impl<'a> Shared<'a> {
    /// Looks into a segment; None if it isn't the shared memory of a run of this release.
    pub fn view(segment: &'a Segment) -> Option<Shared<'a>> {
        let base = segment.address().as_ptr();
        if segment.bytes() < size_of::<Header>() {
            return None;
        }
        // SAFETY: page aligned, mapped as long as `segment` lives, large enough as just checked for
        // the header and, before each part is touched, for the parts. All shared mutation goes
        // through atomics; magic and sizes are written before the segment is made known.
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

    /// What the run is to do.
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

    /// Where the leader keeps the memory of the run cache.
    pub fn cache_handle(&self) -> &'a CacheHandle {
        &self.header.cache_handle
    }

    /// The run cache, in the memory that was found there.
    pub fn cache(&self, memory: &'a CacheMapping) -> RunCache<'a> {
        // SAFETY: mapped as long as `memory` is borrowed, zeroed when it was made, and used for nothing else.
        unsafe { RunCache::at(&self.header.cache, memory.address(), memory.bytes()) }
    }

    pub fn dictionary(&self) -> &'a Dictionary {
        &self.header.dictionary
    }

    /// One worker's slot. Panics if there is none of that number, which a worker can't have.
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

    /// Batches of all workers that somebody has waited for.
    pub fn waited_for(&self) -> u64 {
        let counters = self.slots.iter().map(|slot| &slot.counters);
        counters.map(|c| c.waited_for.load(Ordering::Relaxed)).sum()
    }

    /// Counts a blob that has been read from a root of the store.
    pub fn count_read(&self, root: usize) {
        if let Some(reads) = self.reads.get(root) {
            reads.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many have been read from each root.
    pub fn reads(&self) -> impl Iterator<Item = u64> {
        self.reads.iter().map(|reads| reads.load(Ordering::Relaxed))
    }

    /// Asks the workers to stop. A stronger request stays when a weaker one follows.
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

    /// Says that all is done but for the last commit. What this gives isn't zero any more once that is to wait no longer for
    /// a standby.
    pub fn end(&self) -> &'a AtomicU32 {
        self.header.ending.store(1, Ordering::SeqCst);
        &self.header.wait_no_longer
    }

    /// Cancels the run from another session; false if it is ending already, and waits for nobody.
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

    /// Takes one of the `max` places for blobs to be looked at; false if there is none. Who takes one keeps it
    /// ([`Shared::keep_place`]) or gives it back.
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

    /// It doesn't.
    pub fn give_place_back(&self) {
        self.header.places_taken.fetch_sub(1, Ordering::Relaxed);
    }

    /// Is one of the `max` places free now? None if that isn't decided yet.
    pub fn has_place(&self, max: u64) -> Option<bool> {
        if self.header.places_kept.load(Ordering::Relaxed) >= max {
            return Some(false);
        }
        (self.header.places_taken.load(Ordering::Relaxed) < max).then_some(true)
    }

    /// Ends the run, since `max_blobs` have been looked at.
    pub fn end_at_limit(&self) {
        self.header.limit_reached.store(1, Ordering::Relaxed);
        self.stop(Stop::AfterBatch);
    }

    /// Leaves the first error of a leaf's own for the leader to raise in the end; later ones are left out.
    pub fn tell_of_leaf_error(&self, error: &Report) {
        let state = &self.header.leaf_error_state;
        let first = state.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Relaxed);
        if first.is_err() {
            return;
        }
        let text = error.shortened(ERROR_BYTES);
        // SAFETY: only who has won the exchange writes, once, before the state says that it is there.
        unsafe { (&mut *self.header.leaf_error.get())[..text.len()].copy_from_slice(&text) };
        let bytes = &self.header.leaf_error_bytes;
        bytes.store(text.len() as u32, Ordering::Relaxed);
        state.store(2, Ordering::Release);
    }

    /// The first error of a leaf's own.
    pub fn leaf_error(&self) -> Option<Report> {
        if self.header.leaf_error_state.load(Ordering::Acquire) != 2 {
            return None;
        }
        let bytes = self.header.leaf_error_bytes.load(Ordering::Relaxed) as usize;
        // SAFETY: it is there, after which nobody writes any more.
        let text = unsafe { &(&*self.header.leaf_error.get())[..bytes.min(ERROR_BYTES)] };
        Some(serde_json::from_slice(text).expect("written by tell_of_leaf_error"))
    }

    /// Tells the other workers that a blob has been put into quarantine.
    pub fn tell_of_quarantine(&self) {
        self.header.quarantined.store(1, Ordering::Relaxed);
    }

    /// Has a worker of this run put a blob into quarantine?
    pub fn any_quarantined(&self) -> bool {
        self.header.quarantined.load(Ordering::Relaxed) != 0
    }

    /// Tells the other workers that libmagic gave another type than the prefilter.
    pub fn tell_of_audit_difference(&self) {
        self.header.audit_differed.store(1, Ordering::Relaxed);
    }

    /// Has an audit of this run found a difference, so that the prefilter is not to be used any more?
    pub fn audit_has_differed(&self) -> bool {
        self.header.audit_differed.load(Ordering::Relaxed) != 0
    }

    /// Tells the leader that a worker has another detector than [`Job::detector`] says.
    pub fn tell_of_other_detector(&self) {
        self.header.other_detector.store(1, Ordering::Relaxed);
    }

    /// Has a worker of this run had another one?
    pub fn had_other_detector(&self) -> bool {
        self.header.other_detector.load(Ordering::Relaxed) != 0
    }

    /// Distinct blobs met.
    pub fn blobs(&self) -> u64 {
        self.header.blobs.load(Ordering::Relaxed)
    }

    /// Did `max_blobs` end the run?
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

    /// The worker has seen that the pass of this generation is over, and touches the task queue no more
    /// until the next one is open.
    pub fn see_pass_end(&self, generation: u32) {
        self.pass_seen.store(generation, Ordering::SeqCst);
    }

    pub fn pass_seen(&self) -> u32 {
        self.pass_seen.load(Ordering::SeqCst)
    }

    /// Leaves the error that ends the worker for the leader to raise.
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
