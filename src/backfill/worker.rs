//! A worker: takes tasks from the task queue until it is closed. What it does with the rows of a leaf is in `fill`.
//!
//! A worker whose detector thread is stuck in a blob (see [`Finder`]) finishes its current range and retires: the
//! stuck thread ends with its process, and the leader starts another worker. A worker that has become large because
//! of the many leaves that it has seen also retires.

mod fill;
mod pace;
mod patience;
mod verify;

use std::rc::Rc;
use std::time::{Duration, Instant};

use ntt_mime_core::in_flight::BackendKind;
use ntt_mime_core::task_queue::Task;
use pgrx::pg_sys;

use self::pace::Pace;
use self::patience::Patience;
use self::verify::Findings;
use super::batch::Batch;
use super::cache_memory::CacheMapping;
use super::counters::{add, add_time};
use super::finder::Finder;
use super::leaf::{Leaf, LeafError, Opened, Selection, TidSet, start_of_block};
use super::leaf_errors;
use super::options::Job;
use super::shared::{Shared, Stop, WorkerSlot, WorkerState};
use crate::errors::Error;
use crate::pg::latch::{self, WaitEvent};
use crate::pg::report::Report;
use crate::pg::tx;
use crate::pg::{
    bgworker, dsm, identity, in_flight_records, index_hint, query_id, stats, version, xids,
};

/// Size of a worker's catalog caches from which on it empties them. A leaf with eleven indexes takes 0.1 MB.
const CATALOG_CACHE_BYTES: usize = match cfg!(feature = "poison") {
    false => 64 << 20,
    true => 4 << 20,
};

/// Memory from which on a worker retires. What it can't free grows with the number of its leaves: PL/pgSQL keeps a
/// compiled copy of a trigger's function for each trigger, and so for each leaf, until the process ends. A small
/// function takes 0.1 MB.
const WORKER_BYTES: usize = match cfg!(feature = "poison") {
    false => 128 << 20,
    true => 12 << 20,
};

/// The number of leaves after which its memory is measured again, which takes longer the more there is.
const LEAVES_PER_QUESTION: u32 = 50;

/// How often a worker tries to record the error of a leaf; each attempt waits five seconds if somebody has locked the
/// table.
const RECORD_ATTEMPTS: u32 = 3;

/// How long an idle worker waits for others before it checks the task queue again.
const IDLE: Duration = Duration::from_millis(20);

/// The library's entry point for background workers. The upper half of `argument` is the handle of the run's shared
/// memory, the lower half the number of the worker.
#[pgrx::pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn ntt_mime_worker_main(argument: pg_sys::Datum) {
    bgworker::become_interruptible();
    let (handle, number) = from_argument(argument);
    // If the segment is gone, the run is over, and there is nothing to do.
    let Some(segment) = dsm::Segment::attach(handle) else {
        return;
    };
    // The leader writes all of it before it starts a worker. But it goes on using the library that its session has
    // loaded, while a worker loads the current file. Where the leader would look for an error isn't known then, so
    // the error goes to the server's log.
    let Some(shared) = Shared::view(&segment) else {
        Error::OtherVersion.raise();
    };
    let slot = shared.worker(number);
    let mut name = "ntt_mime worker".to_owned();
    let mut settings = shared.settings().to_vec();
    let result = match shared.job() {
        Ok(job) => {
            name = name_of(number, job.run_id);
            tx::returning_errors(|| {
                bgworker::restore_session_state(&job.session, &mut settings)?;
                work(&job, shared, number, slot)
            })
        }
        // It is of another version but has the same layout: the leader will understand the error.
        Err(_) => Err(Error::OtherVersion.into()),
    };
    match result {
        Ok(state) => slot.set_state(state),
        Err(error) => slot.fail(&error.while_doing(&name)),
    }
    latch::wake(shared.leader_pid());
}

/// An error that occurred while the worker was working on a leaf.
fn in_leaf(leaf: &Leaf<'_>, error: Report) -> Report {
    match leaf.name.is_empty() {
        // It has no name before it has been locked.
        true => error,
        false => error.while_doing(&format!("filling leaf {}", leaf.name)),
    }
}

/// The name of a worker, in its process title and in the context of its errors.
pub fn name_of(number: usize, run_id: i64) -> String {
    format!("ntt_mime worker {} of run {run_id}", number + 1)
}

/// Packs the argument of [`ntt_mime_worker_main`].
pub fn to_argument(handle: u32, number: usize) -> pg_sys::Datum {
    pg_sys::Datum::from(u64::from(handle) << 32 | number as u64)
}

fn from_argument(argument: pg_sys::Datum) -> (u32, usize) {
    let bits = argument.value() as u64;
    ((bits >> 32) as u32, (bits & 0xFFFF_FFFF) as usize)
}

/// Returns how the worker ended.
fn work(
    job: &Job,
    shared: Shared<'_>,
    number: usize,
    slot: &WorkerSlot,
) -> Result<WorkerState, Report> {
    let begun = Instant::now();
    apply_own_settings(job);
    index_hint::install();
    query_id::install();
    let in_flight = in_flight_records::of_this_process(BackendKind::Worker).map_err(Error::from)?;
    let memory = CacheMapping::open(shared.cache_handle())?;
    let finder = Finder::new(job, shared, &memory, number, in_flight)?;
    // After libmagic has loaded it: what is there now either is what was loaded, or differs from what the leader has
    // seen.
    if job.detector.is_some() && job.detector != crate::detect::identity(job.options.detector()) {
        shared.tell_of_other_detector();
    }
    slot.begin();
    let mut worker = Worker {
        job,
        number,
        shared,
        slot,
        finder,
        selection: Rc::new(Selection::of(job)),
        findings: Findings::default(),
        pace: Pace::new(job.options.batch_size, job.options.updates()),
        patience: Patience::new(job.options.lock_timeout()),
        lock_timeout: job.options.lock_timeout(),
        leaves_seen: 0,
        large: false,
    };
    worker.run(begun)
}

/// Settings of a worker that don't come from its leader's session.
fn apply_own_settings(job: &Job) {
    identity::set_lock_timeout(job.options.lock_timeout());
    for (name, value) in [
        // Whoever detects a deadlock has to give way. That costs us little, so we check early: sessions that wait for
        // one of our rows usually check after a second.
        (c"deadlock_timeout", c"100ms"),
        // A row that others have changed is read again, see `Leaf::update`; with one snapshot for the whole
        // transaction that would be an error.
        (c"default_transaction_isolation", c"read committed"),
        // If the last batches are lost in a crash, they are merely done again. The row in ntt_mime.run never claims
        // more than is on disk, since the leader commits it synchronously.
        (c"synchronous_commit", c"off"),
        (c"statement_timeout", c"0"),
        // Our statements are planned once for each leaf; "force_custom_plan" would plan them again for each batch.
        (c"plan_cache_mode", c"auto"),
    ]
    .into_iter()
    .chain(version::NO_TIMEOUTS)
    {
        identity::set_option(name, value, pg_sys::GucAction::GUC_ACTION_SET);
    }
}

struct Worker<'a> {
    job: &'a Job,
    number: usize,
    shared: Shared<'a>,
    slot: &'a WorkerSlot,
    finder: Finder<'a>,
    selection: Rc<Selection>,
    /// Of a verification.
    findings: Findings,
    pace: Pace,
    patience: Patience,
    /// The current setting.
    lock_timeout: Duration,
    leaves_seen: u32,
    /// It takes more memory than it should.
    large: bool,
}

/// The leaf on which a worker is working.
struct Current<'a> {
    index: usize,
    generation: u32,
    leaf: Leaf<'a>,
}

impl<'a> Worker<'a> {
    /// Works until there are no tasks left. Its time is counted from `since` on.
    fn run(&mut self, mut since: Instant) -> Result<WorkerState, Report> {
        let task_queue = self.shared.task_queue();
        let mut current: Option<Current<'a>> = None;
        loop {
            let now = Instant::now();
            add_time(&self.slot.counters.worker_us, now - since);
            since = now;
            if self.finder.lost_detector_thread || self.large {
                self.write_findings(true)?;
                self.publish();
                return Ok(WorkerState::Retired);
            }
            let generation = task_queue.generation();
            match task_queue.take(current.as_ref().map(|c| c.index)) {
                Task::Closed => {
                    self.write_findings(true)?;
                    return Ok(WorkerState::Done);
                }
                Task::Wait => {
                    self.report("waiting for the other workers");
                    self.wait(IDLE, WaitEvent::Task);
                }
                Task::PassDone => {
                    current = None;
                    self.wait_for_next_pass(generation)?;
                }
                Task::Open(index) => {
                    let leaf = self.arrive(&mut current, index, generation);
                    if let Err(trouble) = self.open(leaf, index) {
                        self.record_error(index, leaf, trouble)?;
                        task_queue.skip(index);
                    }
                }
                Task::Range {
                    leaf: index,
                    start,
                    end,
                } => {
                    let leaf = self.arrive(&mut current, index, generation);
                    let mut done = start;
                    let result = self.fill_range(leaf, index, &mut done, end);
                    let mut blocks = end - start;
                    match result {
                        // Perhaps not all of the range has been read.
                        Ok(()) if self.is_stopping() => continue,
                        Ok(()) => self.count_sampled(leaf, start, end),
                        Err(trouble) => {
                            self.record_error(index, leaf, trouble)?;
                            blocks += task_queue.abandon(index);
                        }
                    }
                    task_queue.finish(index, blocks, done - start);
                }
            }
            if task_queue.open_leaves() == 0 {
                latch::wake(self.shared.leader_pid());
            }
        }
    }

    /// Makes `index` the current leaf; keeps its statements if it already was.
    fn arrive<'c>(
        &mut self,
        current: &'c mut Option<Current<'a>>,
        index: usize,
        generation: u32,
    ) -> &'c mut Leaf<'a> {
        let same = |c: &Current<'_>| c.index == index && c.generation == generation;
        if !current.as_ref().is_some_and(same) {
            *current = None;
            self.leaves_seen += 1;
            if self.leaves_seen.is_multiple_of(LEAVES_PER_QUESTION) {
                bgworker::limit_catalog_caches(CATALOG_CACHE_BYTES);
                self.large = bgworker::memory_bytes() > WORKER_BYTES;
            }
            *current = Some(Current {
                index,
                generation,
                leaf: Leaf::new(
                    self.job,
                    Rc::clone(&self.selection),
                    self.shared.task_queue(),
                    index,
                ),
            });
        }
        &mut current.as_mut().expect("just set").leaf
    }

    fn wait_for_next_pass(&mut self, generation: u32) -> Result<(), Report> {
        let task_queue = self.shared.task_queue();
        self.write_findings(true)?;
        self.publish();
        self.slot.see_pass_end(generation);
        latch::wake(self.shared.leader_pid());
        self.report("waiting for the leader");
        while task_queue.generation() == generation && !task_queue.is_closed() {
            self.wait(IDLE, WaitEvent::Task);
        }
        self.see_pass();
        Ok(())
    }

    /// Publishes what others have to know about the worker's transactions: to PostgreSQL what they have done to which
    /// table, to the leader how many there were.
    fn publish(&self) {
        stats::publish_now();
        add(&self.slot.counters.transaction_ids, xids::take_own());
    }

    /// Records why a leaf was left; an error that isn't the leaf's ends the worker.
    fn record_error(
        &self,
        index: usize,
        leaf: &Leaf<'_>,
        trouble: LeafError,
    ) -> Result<(), Report> {
        let task_queue = self.shared.task_queue();
        match trouble {
            LeafError::Gone => task_queue.set_gone(index),
            LeafError::Rewritten => task_queue.set_rewritten(index),
            LeafError::Locked | LeafError::RowsLocked | LeafError::Blocked | LeafError::Retry => {
                task_queue.set_unseen(index)
            }
            LeafError::Refused(error) => self.set_aside(index, leaf, in_leaf(leaf, error))?,
            LeafError::Fatal(error) => return Err(in_leaf(leaf, error)),
        }
        Ok(())
    }

    /// Sets a leaf aside that has raised an error of its own, so that work goes on with the others.
    fn set_aside(&self, index: usize, leaf: &Leaf<'_>, error: Report) -> Result<(), Report> {
        // Another worker may have been working on another part of it.
        if !self.shared.task_queue().set_aside(index) {
            return Ok(());
        }
        let run_id = self.job.run_id;
        let name = name_of(self.number, run_id);
        self.shared
            .tell_of_leaf_error(&error.clone().while_doing(&name));
        if self.job.options.dry_run {
            return Ok(());
        }
        let target = pg_sys::Oid::from(self.job.target);
        let record = || leaf_errors::record(run_id, target, (leaf.oid, &leaf.name), &error);
        for _ in 0..RECORD_ATTEMPTS {
            match tx::transaction(record) {
                // The run can do without the record.
                Err(error) if error.is_of_locks() => {
                    pgrx::check_for_interrupts!();
                }
                result => return result,
            }
        }
        Ok(())
    }

    /// Opens a leaf: sets its size in the task queue, or does all of it if that is little.
    fn open(&mut self, leaf: &mut Leaf<'_>, index: usize) -> Result<(), LeafError> {
        let task_queue = self.shared.task_queue();
        let counters = &self.slot.counters;
        let (mut batch, mut tids) = (Batch::default(), Vec::new());
        self.give_way();
        self.report("opening a leaf");
        let begun = Instant::now();
        let opened = leaf.open(self.pace.rows(), |tid, blobid, now| {
            batch.add(tid, blobid, now);
            tids.push(tid);
        })?;
        add_time(&counters.scan_us, begun.elapsed());
        let (blocks, tids) = match (opened, batch.last) {
            (Opened::Blocks(blocks), _) => {
                task_queue.size(index, blocks);
                return Ok(());
            }
            (Opened::Small(blocks), last) => {
                let range = |last| TidSet::Range(start_of_block(0), last);
                (blocks, last.map(range))
            }
            (Opened::Few(blocks), last) => (blocks, last.map(|_| TidSet::Few(&tids))),
        };
        if let Some(tids) = tids {
            self.begin(batch)?;
            if let Some(batch) = self.found(leaf)? {
                match self.fill(leaf, index, tids, &batch) {
                    // That is on record, and there are no others.
                    Err(LeafError::Blocked) => {}
                    result => result?,
                }
            }
            self.pause();
        }
        self.record_unfinished(index);
        if self.is_stopping() {
            return Ok(());
        }
        if self.job.options.verify.is_some() {
            self.count_sampled(leaf, 0, blocks);
            self.close_checked(leaf, index);
        }
        task_queue.finish_whole(index, blocks);
        Ok(())
    }

    fn pause(&self) {
        let until = Instant::now() + self.job.options.batch_delay();
        if self.job.options.batch_delay_ms > 0 {
            self.report("pausing between batches");
        }
        while !self.is_stopping() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            self.wait(left.min(Duration::from_millis(200)), WaitEvent::Delay);
        }
    }

    /// Rests while other sessions need the processors, see [`super::room`]. The worker must hold no lock, and must not
    /// have begun a batch, since other workers may wait for its blobs.
    fn give_way(&self) {
        if !self.has_to_rest() {
            return;
        }
        let begun = Instant::now();
        self.report("resting because other sessions are at work");
        while self.has_to_rest() {
            self.wait(IDLE, WaitEvent::Delay);
        }
        add_time(&self.slot.counters.rested_us, begun.elapsed());
    }

    fn has_to_rest(&self) -> bool {
        !self.is_stopping() && self.shared.is_full_without(self.number)
    }

    fn is_stopping(&self) -> bool {
        self.shared.stopping() != Stop::No
    }

    fn wait(&self, time: Duration, event: WaitEvent) {
        let begun = Instant::now();
        self.slot.set_idle(true);
        latch::wait(time, event);
        self.slot.set_idle(false);
        add_time(&self.slot.counters.idle_us, begun.elapsed());
    }

    fn report(&self, what: &str) {
        bgworker::report_activity(self.job.run_id, what);
    }
}
