//! A leader's workers: starting them, watching them, ending them.

use std::time::{Duration, Instant};

use super::{Leader, RECORD_EVERY, shared_of};
use crate::backfill::progress;
use crate::backfill::room::Room;
use crate::backfill::shared::{Stop, WorkerState};
use crate::backfill::worker;
use crate::errors::Error;
use crate::pg::activity;
use crate::pg::bgworker::Handle;
use crate::pg::latch::{self, WaitEvent};
use crate::pg::report::{Report, not_waiting_for_client};

/// How often the leader looks after its workers, and counts other sessions.
const TICK: Duration = Duration::from_millis(50);

/// How long workers may take to see the flag before they get SIGTERM.
const STOP_GRACE: Duration = Duration::from_millis(300);

/// How long the leader waits for workers after SIGTERM before it goes on without them.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// How long the leader tries to replace workers that have retired when there are no others. Parallel queries take
/// worker slots for short times.
const REPLACE_LIMIT: Duration = Duration::from_secs(10);

impl Leader {
    pub(super) fn start_workers(&mut self, handle: u32) {
        let wanted = self.options.workers as usize;
        for number in 0..wanted {
            match self.start_worker(handle, number) {
                Some(handle) => self.handles.push(handle),
                None => break,
            }
        }
        if self.handles.is_empty() {
            Error::NoWorker.raise();
        }
        if self.handles.len() < wanted {
            let got = self.handles.len();
            let report = Report::warning(format!(
                "only {got} of {wanted} background workers could be started"
            ))
            .set_detail("The run goes on with fewer.")
            .set_hint("You might need to increase max_worker_processes.");
            report.warn();
        }
    }

    pub(super) fn wake_workers(&self) {
        for slot in self.shared().workers() {
            if slot.state() == WorkerState::Ready {
                latch::wake(slot.pid());
            }
        }
    }

    /// The leader's main loop: waits, adds up counters, opens further passes, until all workers have ended.
    pub(super) fn wait_for_workers(&mut self) -> Result<(), Report> {
        while not_waiting_for_client(|| self.look_after_run())? {
            latch::wait(TICK, WaitEvent::Workers);
        }
        Ok(())
    }

    /// Does what is to be done at the moment; false once all workers have ended normally.
    fn look_after_run(&mut self) -> Result<bool, Report> {
        let ended = self.watch_workers()?;
        self.make_room();
        if ended == self.handles.len() {
            if self.shared().task_queue().is_closed() {
                return Ok(false);
            }
            // All have had to retire, and others have taken the slots meanwhile.
            let since = *self.without_workers.get_or_insert_with(Instant::now);
            if since.elapsed() > REPLACE_LIMIT {
                Error::NoWorker.raise();
            }
        } else {
            self.without_workers = None;
        }
        if !self.shared().task_queue().is_closed() && self.pass_is_over() {
            self.next_pass();
        }
        if self.last_record.elapsed() >= RECORD_EVERY {
            self.last_record = Instant::now();
            self.record("running", None);
            latch::look_after_client();
        }
        if self.last_notice.elapsed() >= progress::NOTICE_EVERY {
            self.last_notice = Instant::now();
            self.notice();
            self.trim_differences();
        }
        Ok(true)
    }

    /// Lets as many workers work as there is room for beside other sessions.
    fn make_room(&mut self) {
        if self.options.nice == 0 || self.options.workers < 2 {
            return;
        }
        let shared = shared_of(&self.segment);
        let mut others = 0;
        activity::of_sessions(|process| {
            let mut slots = shared.workers().iter();
            match slots.find(|slot| slot.pid() == process.pid) {
                Some(slot) => slot.set_locked_out(process.is_locked_out()),
                None if process.pid == shared.leader_pid() => {}
                None => others += u32::from(process.is_at_work()),
            }
        });
        let room = self.room.get_or_insert_with(Room::on_this_machine);
        room.count(others);
        shared.allow_workers(room.workers(self.options.workers));
    }

    /// Checks the workers; returns how many have ended, or the error that ended one.
    fn watch_workers(&mut self) -> Result<usize, Report> {
        let mut ended = 0;
        let mut never_ready = 0;
        for number in 0..self.handles.len() {
            // In this order: a worker sets its state before it stops.
            let stopped = self.handles[number].has_stopped();
            let shared = self.shared();
            let slot = shared.worker(number);
            match slot.state() {
                WorkerState::Failed => return Err(slot.error()),
                WorkerState::Ready if stopped => Error::WorkerTerminated.raise(),
                WorkerState::Starting if stopped => never_ready += 1,
                // Only then is its slot free for the next run.
                WorkerState::Done if stopped => {}
                WorkerState::Retired if stopped && !self.replace_worker(number) => {}
                _ => continue,
            }
            ended += 1;
        }
        if never_ready == self.handles.len() {
            Error::NoWorker.raise();
        }
        Ok(ended)
    }

    /// Starts a worker in place of one that has retired; false if there is nothing left to do for it, or no free slot
    /// at the moment.
    fn replace_worker(&mut self, number: usize) -> bool {
        if self.shared().task_queue().is_closed() {
            return false;
        }
        let segment = self.segment.as_ref().expect("made before any worker");
        let handle = segment.handle();
        // Before it starts: from then on it sets the state itself.
        self.shared()
            .worker(number)
            .set_state(WorkerState::Starting);
        match self.start_worker(handle, number) {
            Some(started) => {
                self.handles[number] = started;
                true
            }
            None => {
                self.shared().worker(number).set_state(WorkerState::Retired);
                false
            }
        }
    }

    fn start_worker(&self, segment: u32, number: usize) -> Option<Handle> {
        let name = worker::name_of(number, self.run_id);
        let argument = worker::to_argument(segment, number);
        Handle::start(&name, c"ntt_mime_worker_main", argument)
    }

    pub(super) fn stop_workers(&self) {
        if self.segment.is_none() {
            return;
        }
        let shared = self.shared();
        shared.stop(Stop::Now);
        self.wake_workers();
        let begun = Instant::now();
        let mut terminated = false;
        while !self.handles.iter().all(Handle::has_stopped) {
            if !terminated && begun.elapsed() > STOP_GRACE {
                terminated = true;
                self.handles.iter().for_each(Handle::terminate);
            }
            if begun.elapsed() > STOP_LIMIT {
                return;
            }
            latch::wait(Duration::from_millis(20), WaitEvent::Workers);
        }
    }
}
