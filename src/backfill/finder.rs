//! How a worker finds the MIME type of each distinct blob of a batch.
//!
//! A [`DetectorThread`], a thread of this process, opens and judges the files. Here the worker waits for its results
//! where an interrupt can reach it. All of this happens outside any transaction, except that known failures are read
//! and new ones recorded, each in a short transaction of its own.
//!
//! Between [`Finder::begin`] and [`Finder::finish`] the worker may do something else, such as updating the rows of
//! the previous batch: the detector thread works by itself. It has one batch at a time.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ntt_mime_core::blob_id::BlobId;
use ntt_mime_core::cache::{Lookup, Outcome, RunCache, SlotIndex};
use ntt_mime_core::detector::Detection;
use ntt_mime_core::detector_thread::{Audit, DetectError, Detected, DetectorThread, OVERDUE};
use ntt_mime_core::failure::{Failure, FailureReason};
use ntt_mime_core::in_flight::{self, InFlightRecord};

use super::batch::{Batch, BlobKey, Found, Wanted, pair_in_cache};
use super::cache_memory::CacheMapping;
use super::counters::{Counters, add, add_time};
use super::options::Job;
use super::roots;
use super::run_log::{self, KnownFailure, NewFailure};
use super::shared::{Shared, Stop};
use crate::errors::{Error, HOW_TO_RELEASE, sentence};
use crate::pg::latch::{self, WaitEvent};
use crate::pg::report::Report;
use crate::pg::{descriptors, in_flight_records, tx};

/// How long a worker waits for its detector thread before it takes the results so far and checks the thread.
const LOOK_AFTER: Duration = Duration::from_millis(100);

/// How often records are read or written again while somebody has locked them; each attempt waits five seconds
/// ([`crate::pg::identity::as_owner`]).
const LOCK_ATTEMPTS: u32 = 12;

/// Descriptors that a blob needs while it is read ahead: one for its file, and one for its directory if it is opened
/// step by step.
const DESCRIPTORS: usize = 2;

/// A worker's means of detecting: its detector thread, and what is already known.
pub struct Finder<'a> {
    job: &'a Job,
    shared: Shared<'a>,
    cache: RunCache<'a>,
    counters: &'a Counters,
    detector_thread: DetectorThread,
    /// How many blobs it may read ahead.
    read_ahead: usize,
    in_flight: Arc<InFlightRecord>,
    /// Blobs during whose detection a worker was killed.
    suspects: HashSet<BlobId>,
    /// What the detector thread is working on.
    search: Option<Search>,
    /// The times of the current batch.
    times: Times,
    /// Whether there are enough processors for the workers and their detector threads.
    processors_to_spare: bool,
    /// A detector thread of this process is stuck in a blob. It ends only with the process.
    pub lost_detector_thread: bool,
}

/// A batch whose blobs are being detected.
struct Search {
    batch: Batch,
    todo: Vec<Todo>,
    waiting: Vec<Waiting>,
    records: Records,
}

/// How the time of a batch is spent.
#[derive(Default)]
struct Times {
    /// The detector thread's time for opening and reading blobs.
    read: Duration,
    /// The detector thread's time for everything that it does.
    look: Duration,
    /// This thread's time waiting for other workers.
    wait: Duration,
}

impl Times {
    /// The fraction of its time that the detector thread spends opening and reading.
    fn read_share(&self) -> f64 {
        match self.look.is_zero() {
            true => 0.0,
            false => (self.read.as_secs_f64() / self.look.as_secs_f64()).min(1.0),
        }
    }
}

/// A blob of a batch that this worker has to detect, with its slot in the cache if it has one.
struct Todo {
    at: usize,
    slot: Option<SlotIndex>,
    /// The run meets it for the first time, so it is to be counted.
    new: bool,
}

/// A blob of a batch that another worker is detecting, and its slot in the cache.
struct Waiting {
    at: usize,
    slot: SlotIndex,
}

/// What a batch changes in `ntt_mime.failure`, and what is recorded there about its blobs.
#[derive(Default)]
struct Records {
    known: HashMap<String, KnownFailure>,
    failed: Vec<NewFailure>,
    resolved: Vec<String>,
}

impl<'a> Finder<'a> {
    pub fn new(
        job: &'a Job,
        shared: Shared<'a>,
        memory: &'a CacheMapping,
        number: usize,
        in_flight: Arc<InFlightRecord>,
    ) -> Result<Finder<'a>, Error> {
        let counters = &shared.worker(number).counters;
        let begun = Instant::now();
        let read_ahead = descriptors::reserve(job.options.read_ahead * DESCRIPTORS) / DESCRIPTORS;
        crate::detect::prepare_for_bytes();
        let detector_thread = start_detector_thread(job, read_ahead, &in_flight)?;
        add_time(&counters.detect_us, begun.elapsed());
        crate::detect::complain(&detector_thread.complaints);
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Finder {
            job,
            shared,
            cache: shared.cache(memory),
            counters,
            detector_thread,
            read_ahead,
            in_flight,
            suspects: in_flight::suspects(
                &in_flight_records::folder(),
                in_flight_records::database(),
            ),
            search: None,
            times: Times::default(),
            processors_to_spare: 2 * job.options.workers as usize <= processors,
            lost_detector_thread: false,
        })
    }

    /// Whether it pays to begin a batch while the rows of the previous one are updated. It does on a slow store, and
    /// when a detector thread takes no processor time from anybody. With as many workers as processors, updates would
    /// be interrupted while others wait for what they have locked: 98,000 mixed blobs took 1.11 times as long with
    /// two workers on two processors, and 0.84 times as long with one.
    pub fn works_ahead(&self) -> bool {
        self.processors_to_spare || self.times.read_share() > 0.5
    }

    /// Begins to find the type of each distinct blob of a batch.
    pub fn begin(&mut self, mut batch: Batch) -> Result<(), Report> {
        let begun = Instant::now();
        self.times = Times::default();
        let (mut todo, waiting) = self.look_up(&mut batch);
        let mut records = Records::default();
        self.prepare(&mut batch, &mut todo, &mut records)?;
        self.submit(&batch, &todo);
        self.search = Some(Search {
            batch,
            todo,
            waiting,
            records,
        });
        add_time(&self.counters.detect_us, begun.elapsed());
        Ok(())
    }

    /// The batch that was begun, with the types of its blobs. None if none was begun, or if the run has been stopped
    /// meanwhile, so that the batch must not be used.
    pub fn finish(&mut self) -> Result<Option<Batch>, Report> {
        let Some(search) = self.search.take() else {
            return Ok(None);
        };
        let begun = Instant::now();
        let found = self.finish_search(search);
        // The detector thread may have worked while this thread did something else. The rest of its work, for which
        // this thread has to wait, is divided into reading and detection in the same proportion.
        let here = begun.elapsed().saturating_sub(self.times.wait);
        let read_time = here.mul_f64(self.times.read_share());
        add_time(&self.counters.idle_us, self.times.wait);
        add_time(&self.counters.read_us, read_time);
        add_time(&self.counters.detect_us, here - read_time);
        found
    }

    fn finish_search(&mut self, search: Search) -> Result<Option<Batch>, Report> {
        let Search {
            mut batch,
            mut todo,
            mut waiting,
            mut records,
        } = search;
        loop {
            if !self.drain(&mut batch, todo, &mut records)? {
                return Ok(None);
            }
            for Waiting { at, slot } in waiting {
                let Some(lookup) = self.wait_for(slot) else {
                    return Ok(None);
                };
                let mut todo = self.take_up(&mut batch.wanted[at], at, lookup);
                self.prepare(&mut batch, &mut todo, &mut records)?;
                self.submit(&batch, &todo);
                if !self.drain(&mut batch, todo, &mut records)? {
                    return Ok(None);
                }
            }
            match self.wait_for_place(&batch) {
                None => return Ok(None),
                Some(false) => break,
                Some(true) => {}
            }
            (todo, waiting) = self.look_up(&mut batch);
            self.prepare(&mut batch, &mut todo, &mut records)?;
            self.submit(&batch, &todo);
        }
        let Records {
            failed, resolved, ..
        } = records;
        // After the detection: what it found missing was missing while the store was still the same.
        if failed.iter().any(NewFailure::may_be_of_store) {
            roots::check_during(self.job)?;
        }
        let nothing_new = failed.is_empty() && resolved.is_empty();
        if !nothing_new && !self.job.options.dry_run {
            let run_id = self.job.run_id;
            let record = || run_log::record_failures(run_id, &failed, &resolved);
            if self.with_lock_retry(record)?.is_none() {
                return Ok(None);
            }
        }
        Ok(Some(batch))
    }

    /// Takes from the cache what is known about blobs that have no result yet. Returns what is to be done here and
    /// what other workers are doing.
    fn look_up(&self, batch: &mut Batch) -> (Vec<Todo>, Vec<Waiting>) {
        let (mut todo, mut waiting) = (Vec::new(), Vec::new());
        let wanted = batch.wanted.iter_mut().enumerate();
        for (at, wanted) in wanted.filter(|(_, w)| matches!(w.found, Found::NotLookedAt)) {
            match self.cache.claim(&wanted.key.in_cache()) {
                Lookup::Busy(slot) => waiting.push(Waiting { at, slot }),
                lookup => todo.extend(self.take_up(wanted, at, lookup)),
            }
        }
        (todo, waiting)
    }

    /// Takes what the cache knows about a blob, or returns what is to be detected here.
    fn take_up(&self, wanted: &mut Wanted, at: usize, lookup: Lookup) -> Vec<Todo> {
        let todo = |slot, new| vec![Todo { at, slot, new }];
        match lookup {
            Lookup::Known(outcome) => {
                add(&self.counters.cache_hits, 1);
                wanted.found = outcome.into();
                Vec::new()
            }
            Lookup::Reclaimed(slot) if self.shared.limit_reached() => {
                self.cache.release(slot);
                Vec::new()
            }
            Lookup::Reclaimed(slot) => todo(Some(slot), false),
            Lookup::Claimed(slot) => todo(Some(slot), true),
            Lookup::Full => todo(None, true),
            Lookup::Busy(_) => unreachable!("its callers wait"),
        }
    }

    /// Removes blobs that must not be opened from the list.
    fn prepare(
        &self,
        batch: &mut Batch,
        todo: &mut Vec<Todo>,
        records: &mut Records,
    ) -> Result<(), Report> {
        self.pass_over_known(batch, todo, records)?;
        todo.retain(|todo| self.is_within_limit(todo));
        todo.retain(|todo| {
            let wanted = &mut batch.wanted[todo.at];
            let is_blob = self.is_blob(wanted, todo.slot, records);
            if !is_blob {
                self.count_place(todo, wanted);
            }
            is_blob
        });
        Ok(())
    }

    /// Counts a new blob, unless `max_blobs` is used up: then nobody may detect it for now. Skipped blobs aren't
    /// counted, or a run would get no further than the failures of earlier runs.
    fn is_within_limit(&self, todo: &Todo) -> bool {
        if !todo.new {
            return true;
        }
        let max = self.job.options.max_blobs;
        let within = max.is_none_or(|max| self.shared.take_place(max));
        match (within, todo.slot) {
            (true, _) => self.shared.count_blob(),
            (false, Some(slot)) => self.cache.release_unmet(slot),
            (false, None) => {}
        }
        within
    }

    /// The result of a new blob decides whether it counts towards `max_blobs`: not if its type doesn't fit into the
    /// column. That isn't recorded anywhere, so the next run meets the blob again; if it counted, a run could get no
    /// further than blobs of that kind.
    fn count_place(&self, todo: &Todo, wanted: &Wanted) {
        if !todo.new || self.job.options.max_blobs.is_none() {
            return;
        }
        match wanted.found {
            Found::TooLong => self.shared.give_place_back(),
            _ => self.shared.keep_place(),
        }
    }

    /// Whether blobs of the batch found `max_blobs` used up, and may now be detected. If other workers may still give
    /// back what they have counted, it waits for them. They complete everything that they have counted before they
    /// wait, so no two can wait for each other. If nothing will be given back, the run ends. None: stopped.
    fn wait_for_place(&mut self, batch: &Batch) -> Option<bool> {
        let Some(max) = self.job.options.max_blobs else {
            return Some(false);
        };
        let not_looked_at = |wanted: &Wanted| matches!(wanted.found, Found::NotLookedAt);
        if !batch.wanted.iter().any(not_looked_at) {
            return Some(false);
        }
        let begun = Instant::now();
        let place = loop {
            if self.stopped_now() {
                break None;
            }
            match self.shared.has_place(max) {
                Some(free) => break Some(free),
                None if self.shared.stopping() != Stop::No => break Some(false),
                None => latch::wait(Duration::from_millis(1), WaitEvent::OtherWorker),
            }
        };
        self.times.wait += begun.elapsed();
        if place == Some(false) && self.shared.stopping() == Stop::No {
            self.shared.end_at_limit();
        }
        place.map(|free| free && self.shared.stopping() == Stop::No)
    }

    /// Reads or writes records in a transaction of its own. Tries again for a while if somebody has locked them: a
    /// run of hours must not end because of that. None if the run is stopped meanwhile.
    pub fn with_lock_retry<T>(&self, work: impl Fn() -> T) -> Result<Option<T>, Report> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            match tx::transaction(&work) {
                Err(error) if error.is_of_locks() => {
                    pgrx::check_for_interrupts!();
                    if self.shared.stopping() != Stop::No {
                        return Ok(None);
                    }
                    if attempt == LOCK_ATTEMPTS {
                        return Err(error);
                    }
                }
                result => return result.map(Some),
            }
        }
    }

    /// Makes the detector thread detect blobs of a batch.
    fn submit(&mut self, batch: &Batch, todo: &[Todo]) {
        let ids = todo
            .iter()
            .filter_map(|todo| batch.wanted[todo.at].key.id());
        if !todo.is_empty() {
            if self.shared.audit_has_differed() {
                self.detector_thread.give_up_prefilter();
            }
            self.detector_thread.submit(ids.collect());
        }
    }

    /// Takes the results of submitted blobs. False if the run was stopped meanwhile.
    fn drain(
        &mut self,
        batch: &mut Batch,
        mut todo: Vec<Todo>,
        records: &mut Records,
    ) -> Result<bool, Report> {
        while !todo.is_empty() {
            let mut done = 0;
            while done < todo.len() {
                latch::wait_for(
                    self.detector_thread.wakeup_fd(),
                    LOOK_AFTER,
                    WaitEvent::Detection,
                );
                if self.stopped_now() {
                    return Ok(false);
                }
                // Checked before the results are drained: when a blob is overdue, those before it have been finished.
                let dead = self.detector_thread.has_died();
                let overdue = self.detector_thread.overdue();
                for detected in self.detector_thread.drain() {
                    let todo = &todo[detected.number];
                    let wanted = &mut batch.wanted[todo.at];
                    self.take(wanted, todo.slot, detected, records)?;
                    self.count_place(todo, wanted);
                    done += 1;
                }
                if let Some(number) = overdue.filter(|number| *number == done) {
                    let todo = &todo[number];
                    let wanted = &mut batch.wanted[todo.at];
                    self.give_up_on(wanted, todo.slot)?;
                    self.count_place(todo, wanted);
                    done += 1;
                    break;
                }
                if dead && done < todo.len() {
                    return Err(Error::DetectorThreadEnded.into());
                }
            }
            todo.drain(..done);
            // If any are left, they were lost with a detector thread.
            self.submit(batch, &todo);
        }
        Ok(true)
    }

    /// Removes blobs from the list that are recorded as recent or permanent failures; remembers the others that are
    /// recorded.
    fn pass_over_known(
        &self,
        batch: &mut Batch,
        todo: &mut Vec<Todo>,
        records: &mut Records,
    ) -> Result<(), Report> {
        // With a full cache, only the records show what this run has quarantined.
        let any = self.job.failures_on_record || self.shared.any_quarantined();
        if !any || todo.is_empty() {
            return Ok(());
        }
        let texts: Vec<String> = todo
            .iter()
            .map(|todo| batch.wanted[todo.at].key.text())
            .collect();
        let known = self.with_lock_retry(|| run_log::known_failures(&self.job.options, &texts))?;
        let Some(known) = known else {
            // Others may wait for what we have claimed.
            let slots = todo.drain(..).filter_map(|todo| todo.slot);
            slots.for_each(|slot| self.cache.release_unmet(slot));
            return Ok(());
        };
        todo.retain(|todo| {
            let wanted = &mut batch.wanted[todo.at];
            let recent = known
                .get(&wanted.key.text())
                .filter(|failure| failure.pass_over);
            if let Some(failure) = recent {
                if todo.new {
                    self.shared.count_blob();
                }
                self.conclude(wanted, todo.slot, Outcome::Failed(failure.reason));
            }
            recent.is_none()
        });
        records.known.extend(known);
        Ok(())
    }

    /// Whether there is a blob to detect. A text that isn't a blobid is a failure without that.
    fn is_blob(&self, wanted: &mut Wanted, slot: Option<SlotIndex>, records: &mut Records) -> bool {
        let BlobKey::Invalid(invalid) = &wanted.key else {
            return true;
        };
        let failure = invalid.error.clone().into();
        self.fail(wanted, slot, failure, records);
        false
    }

    /// Takes a result of the detector thread.
    fn take(
        &mut self,
        wanted: &mut Wanted,
        slot: Option<SlotIndex>,
        detected: Detected,
        records: &mut Records,
    ) -> Result<(), Report> {
        self.times.read += detected.read_time;
        self.times.look += detected.look_time;
        if let Some(root) = detected.root {
            self.shared.count_read(root);
        }
        if let Some(audit) = &detected.audit {
            self.take_audit(&wanted.key, audit);
        }
        match detected.result {
            Ok(detection) => {
                self.count(&detection);
                self.clear_suspect(&wanted.key);
                records.add_detected(&wanted.key);
                let mime_type = detection.mime_type;
                if !self.fits(&mime_type) {
                    // Not recorded: records are about blobs, whatever the target.
                    add(&self.counters.too_long, 1);
                    self.conclude(wanted, slot, Outcome::Failed(FailureReason::Error));
                    wanted.found = Found::TooLong;
                    return Ok(());
                }
                match self.shared.dictionary().intern(&mime_type) {
                    Some(id) => self.conclude(wanted, slot, Outcome::Mime(id)),
                    None => {
                        wanted.found = Found::Text(mime_type);
                        if let Some(slot) = slot {
                            self.cache.release(slot);
                        }
                    }
                }
            }
            Err(DetectError::Blob(failure)) => self.fail(wanted, slot, failure, records),
            Err(DetectError::Store(error)) => {
                let detail = sentence(&error);
                return Err(Error::StoreGone { detail }.into());
            }
        }
        Ok(())
    }

    /// Counts the result of an audit. If libmagic's answer differs, it is the one that counts, and all workers go on
    /// without their prefilters.
    fn take_audit(&self, key: &BlobKey, audit: &Audit) {
        add(&self.counters.audited, 1);
        if let Audit::Differs { detector, libmagic } = audit {
            add(&self.counters.audit_differences, 1);
            self.shared.tell_of_audit_difference();
            crate::detect::warn_of_audit(&key.text(), detector, libmagic);
        }
    }

    fn count(&self, detection: &Detection) {
        add(&self.counters.detections, 1);
        add(&self.counters.bytes_read, detection.bytes_read);
        add(&self.counters.prefiltered, detection.prefiltered.into());
        add(
            &self.counters.prefilter_fallbacks,
            detection.fallbacks.into(),
        );
    }

    /// Whether the run asks for the first time about this pair of a blob and a type that a row of it has. A full
    /// cache may have forgotten an earlier time.
    pub fn is_first_of_pair(&self, key: &BlobKey, mime_type: &str) -> bool {
        match self.cache.claim(&pair_in_cache(key, mime_type)) {
            Lookup::Claimed(slot) | Lookup::Reclaimed(slot) => {
                // Its presence is all that matters.
                self.cache
                    .resolve(slot, Outcome::Failed(FailureReason::Error));
                true
            }
            Lookup::Full => true,
            Lookup::Known(_) | Lookup::Busy(_) => false,
        }
    }

    /// Whether a type can be used. One that doesn't fit into the column can't be filled, only compared.
    fn fits(&self, mime_type: &str) -> bool {
        self.job.options.verify.is_some() || self.job.has_room_for(mime_type)
    }

    fn fail(
        &self,
        wanted: &mut Wanted,
        slot: Option<SlotIndex>,
        failure: Failure,
        records: &mut Records,
    ) {
        self.conclude(wanted, slot, Outcome::Failed(failure.reason));
        records.failed.push(NewFailure {
            blobid: wanted.key.text(),
            reason: failure.reason,
            detail: failure.detail,
        });
    }

    /// Quarantines a blob that the detector thread doesn't finish, and starts another detector thread.
    fn give_up_on(&mut self, wanted: &mut Wanted, slot: Option<SlotIndex>) -> Result<(), Report> {
        let failure = NewFailure {
            blobid: wanted.key.text(),
            reason: FailureReason::Quarantined,
            detail: format!(
                "libmagic did not finish within {} s of processor time",
                OVERDUE.as_secs()
            ),
        };
        let dry_run = self.job.options.dry_run;
        let action = match dry_run {
            true => "would be put",
            false => "has been put",
        };
        let report = Report::warning(format!(
            "blob \"{}\" {action} into quarantine",
            failure.blobid
        ))
        .set_detail(sentence(&failure.detail));
        // A dry run leaves no row to delete.
        let report = match dry_run {
            true => report,
            false => report.set_hint(HOW_TO_RELEASE),
        };
        report.warn();
        // At once, not with the other failures of the batch: it has cost enough to find out.
        if !dry_run {
            let run_id = self.job.run_id;
            self.with_lock_retry(|| {
                run_log::record_failures(run_id, std::slice::from_ref(&failure), &[])
            })?;
            self.shared.tell_of_quarantine();
        }
        self.conclude(wanted, slot, Outcome::Failed(FailureReason::Quarantined));
        self.detector_thread = start_detector_thread(self.job, self.read_ahead, &self.in_flight)?;
        self.lost_detector_thread = true;
        Ok(())
    }

    /// A suspect blob has been detected, and this process has survived.
    fn clear_suspect(&mut self, key: &BlobKey) {
        let Some(id) = key.id().filter(|_| !self.suspects.is_empty()) else {
            return;
        };
        if self.suspects.remove(&id) {
            in_flight::clear_suspect(
                &in_flight_records::folder(),
                in_flight_records::database(),
                &id,
            );
        }
    }

    fn conclude(&self, wanted: &mut Wanted, slot: Option<SlotIndex>, outcome: Outcome) {
        match outcome {
            Outcome::Mime(id) => self.shared.dictionary().count(id),
            Outcome::Failed(_) => add(&self.counters.failures, 1),
        }
        wanted.found = outcome.into();
        if let Some(slot) = slot {
            self.cache.resolve(slot, outcome);
        }
    }

    /// Waits until the worker that is detecting a blob has the result. Every worker first completes everything that
    /// it has claimed and waits only then, so no two can wait for each other. None: stopped.
    fn wait_for(&mut self, slot: SlotIndex) -> Option<Lookup> {
        let begun = Instant::now();
        let lookup = loop {
            match self.cache.poll(slot) {
                Lookup::Busy(_) if self.stopped_now() => break None,
                Lookup::Busy(_) => latch::wait(Duration::from_millis(1), WaitEvent::OtherWorker),
                lookup => break Some(lookup),
            }
        };
        self.times.wait += begun.elapsed();
        lookup
    }

    fn stopped_now(&self) -> bool {
        pgrx::check_for_interrupts!();
        self.shared.stopping() == Stop::Now
    }
}

impl Records {
    /// A blob that is recorded as a failure has been detected.
    fn add_detected(&mut self, key: &BlobKey) {
        // Nearly always nothing is recorded, and building the text of the key isn't worthwhile.
        if self.known.is_empty() {
            return;
        }
        let text = key.text();
        if self.known.contains_key(&text) {
            self.resolved.push(text);
        }
    }
}

fn start_detector_thread(
    job: &Job,
    read_ahead: usize,
    in_flight: &Arc<InFlightRecord>,
) -> Result<DetectorThread, Error> {
    // Opened again: the store may have disappeared meanwhile.
    let store = roots::reopen(job)?;
    let detector_thread = DetectorThread::start(
        store,
        job.options.detector(),
        read_ahead,
        job.options.nice,
        Some(Arc::clone(in_flight)),
    )?;
    detector_thread.audit_every(job.options.audit_interval);
    Ok(detector_thread)
}
