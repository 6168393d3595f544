//! The leader: the backend that executes CALL.
//!
//! It checks everything before it changes anything. Then it only waits, adds up counters and commits, once a second.
//! Between two commits it holds neither a snapshot nor a lock on any table. However it ends, its workers end: by the
//! flag in shared memory, which they check between two blobs, and by SIGTERM if they don't see that soon enough.
//!
//! This file has its life, from the checks to the end. `workers` has what it does with its workers, `passes` the
//! order of passes, `leaves` what it knows about the leaves, `others` what others have done, `errors` leaves with
//! errors of their own, `kept` rows that stay pending after their update, `marked` leaves that needn't be read,
//! `report` its messages and the run's row, `verification` those of a verification.
//!
//! If no leaf has to be read, the run ends at once: without workers, shared memory, or libmagic.

mod errors;
mod kept;
mod leaves;
mod marked;
mod others;
mod passes;
mod report;
mod verification;
mod workers;

use std::collections::{BTreeSet, HashSet};
use std::time::{Duration, Instant};

use ntt_mime_core::failure::FailureReason;
use ntt_mime_core::in_flight::{self, LeftBehind};
use ntt_mime_core::store::RootIdentity;
use pgrx::{PgLogLevel, pg_sys};

use self::leaves::{Leaves, Unfinished};
use self::others::Moment;
use self::passes::PassEnd;
use self::report::UnfinishedLeaves;
use super::cache_memory::CacheMemory;
use super::differences;
use super::marks::Marks;
use super::options::{Arguments, Job, Options};
use super::progress::Share;
use super::room::Room;
use super::roots;
use super::run_log::{self, NewFailure};
use super::shared::{self, Shared, Stop};
use super::target::{self, ListedLeaf, Others, PassedOver, Target};
use crate::errors::{Error, HOW_TO_RELEASE, NAMED, counted, counted_with, which};
use crate::pg::bgworker::{self, Handle};
use crate::pg::dsm::Segment;
use crate::pg::latch;
use crate::pg::lock::{self, SessionLock};
use crate::pg::report::{Report, not_waiting_for_client, send_line};
use crate::pg::tx;
use crate::pg::xids::Horizon;
use crate::pg::{identity, in_flight_records, stats};

/// How often the run's row is updated. The view promises two seconds.
const RECORD_EVERY: Duration = Duration::from_secs(1);

/// How often the leader tries to record how a run ended; each attempt waits five seconds if somebody has locked the
/// table.
const FINAL_ATTEMPTS: u32 = 12;

/// How often the leader tries to record how a run failed.
const RECORD_ATTEMPTS: u32 = 2;

/// The result row of CALL.
#[derive(Default)]
pub struct Summary {
    pub run_id: i64,
    pub blobs: i64,
    /// Only for a verification.
    pub rows_checked: i64,
    pub rows_different: i64,
    /// Filled, or corrected.
    pub rows_updated: i64,
    pub failures: i64,
    pub elapsed: Duration,
}

/// Executes a run from start to end. Errors found before it starts are raised. Errors of the run are returned, after
/// its workers have been stopped and its row has been written.
pub fn run(arguments: &Arguments) -> Result<Summary, Report> {
    run_checked(check(arguments).unwrap_or_else(|error| error.raise()))
}

/// The same; None if there is nothing to fill on this node, because everything is on others.
pub fn run_on_node(arguments: &Arguments) -> Result<Option<Summary>, Report> {
    match check(arguments) {
        Ok(checked) => run_checked(checked).map(Some),
        Err(Error::NoShards { .. }) => Ok(None),
        Err(error) => error.raise(),
    }
}

fn run_checked((options, target, roots): Checked) -> Result<Summary, Report> {
    let leader = Leader::begin(options, target, roots);
    let leader = std::cell::RefCell::new(leader);
    tx::with_clean_up(
        || leader.borrow_mut().work(),
        |error| not_waiting_for_client(|| leader.borrow_mut().fail(error)),
    )
}

/// What a run begins with.
type Checked = (Options, Target, Vec<RootIdentity>);

/// Everything that can be checked before anything is changed.
fn check(arguments: &Arguments) -> Result<Checked, Error> {
    let procedure = arguments.procedure();
    // SAFETY: reads shared state that is set once at startup or promotion, or raises an error.
    unsafe {
        if pg_sys::RecoveryInProgress() {
            return Err(Error::Recovery { procedure });
        }
        pg_sys::PreventCommandIfReadOnly(procedure.c_name().as_ptr());
    }
    let options = Options::new(arguments)?;
    let target = target::resolve(
        arguments.target,
        options.asks_for_update(),
        arguments.call(),
    )?;
    let roots = roots::check_before(&options)?;
    Ok((options, target, roots))
}

struct Leader {
    options: Options,
    target: Target,
    roots: Vec<RootIdentity>,
    started: Instant,
    run_id: i64,
    locks: Vec<SessionLock>,
    segment: Option<Segment>,
    /// The memory of the run cache. Workers use it; it doesn't outlive this.
    cache: Option<CacheMemory>,
    handles: Vec<Handle>,
    /// Since when there has been no worker where there should be one.
    without_workers: Option<Instant>,
    /// Decides which leaves needn't be read; None if that can't be decided.
    marks: Option<Marks>,
    /// The leaves that needn't be read, as of the latest listing.
    passed_over: PassedOver,
    /// Blobs that could not be detected and have rows only in these leaves; known at the end.
    undetected_elsewhere: u64,
    leaves: Leaves,
    /// The generation of the pass of which the blobs that could not be detected are known.
    taken_of: u32,
    passes: u32,
    /// How many of these passes were made because of what others had done, and how many of those read all leaves.
    passes_for_others: u32,
    passes_over_all: u32,
    /// Rows that had been filled when the pass began.
    filled_before: u64,
    /// All leaves have been read after this moment.
    since: Moment,
    /// While the leader waits after a pass.
    pass_end: Option<PassEnd>,
    /// Ids of this backend's transactions that have ended.
    own_ids: u64,
    /// Others have been at work, and what they have done isn't counted.
    uncounted: bool,
    last_record: Instant,
    last_notice: Instant,
    /// Tables that belong to the target but aren't filled.
    warned_of: HashSet<u32>,
    share: Share,
    /// Once the leader has counted other sessions.
    room: Option<Room>,
    /// Its row has been written for the last time.
    finished: bool,
}

impl Leader {
    fn begin(options: Options, target: Target, roots: Vec<RootIdentity>) -> Leader {
        let now = Instant::now();
        Leader {
            options,
            target,
            roots,
            started: now,
            run_id: 0,
            locks: Vec::new(),
            segment: None,
            cache: None,
            handles: Vec::new(),
            without_workers: None,
            marks: None,
            passed_over: PassedOver::default(),
            undetected_elsewhere: 0,
            leaves: Leaves::default(),
            taken_of: 0,
            passes: 0,
            passes_for_others: 0,
            passes_over_all: 0,
            filled_before: 0,
            since: Moment::unknown(),
            pass_end: None,
            own_ids: 0,
            uncounted: false,
            last_record: now,
            last_notice: now,
            warned_of: HashSet::new(),
            share: Share::default(),
            room: None,
            finished: false,
        }
    }

    fn work(&mut self) -> Result<Summary, Report> {
        match not_waiting_for_client(|| self.start())? {
            true => {
                self.wait_for_workers()?;
                self.finish()
            }
            false => Ok(self.finish_without_work()),
        }
    }

    /// Everything before the workers' first results. False if there is nothing for them to do.
    fn start(&mut self) -> Result<bool, Report> {
        self.lock_target();
        // Before this transaction has an id, and before anything is listed.
        self.since = self.moment();
        let left_behind = self.read_in_flight_records()?;
        self.marks = tx::in_subtransaction(|| Marks::new(&self.options, &self.target));
        let leaves = self.list_leaves_at_first();
        let nothing_to_do = leaves.is_empty();
        if !nothing_to_do {
            crate::detect::check_detector()?;
        }
        let failures_on_record = self.write_run_row(&left_behind);
        if nothing_to_do {
            self.write_row_without_work();
            left_behind.into_iter().for_each(LeftBehind::remove);
            return Ok(false);
        }
        self.leaves.begin(&leaves);
        if self.options.verify.is_some() {
            // Before the moment from which rows are left to whoever writes them.
            tx::in_subtransaction(|| self.leaves.count(|oid| stats::counted(oid.into())));
        }
        // Before the row becomes visible, so that every visible run can be cancelled.
        let handle = self.make_shared_memory(failures_on_record, leaves.len());
        tx::commit_and_begin();
        // Committed: the in-flight records are no longer needed.
        left_behind.into_iter().for_each(LeftBehind::remove);
        self.start_workers(handle);
        self.log_start(leaves.len());
        self.open_pass(leaves);
        self.record("running", None);
        Ok(true)
    }

    fn lock_target(&mut self) {
        let oid = self.target.oid;
        match SessionLock::try_acquire(lock::TARGET_CLASS, oid.to_u32()) {
            Some(held) => self.locks.push(held),
            None => {
                let (pid, run_id) = tx::in_subtransaction(|| run_log::holder_of_target(oid));
                let target = self.target.plain_name.clone();
                Error::AlreadyRunning {
                    target,
                    pid,
                    run_id,
                }
                .raise()
            }
        }
    }

    /// Reads the records of processes that no longer exist: blobs to be quarantined.
    fn read_in_flight_records(&self) -> Result<Vec<LeftBehind>, Report> {
        let databases = tx::in_subtransaction(run_log::databases);
        let left = in_flight::left_behind(
            &in_flight_records::folder(),
            in_flight_records::database(),
            &databases,
        );
        Ok(left.map_err(Error::from)?)
    }

    /// Writes the row of this run, and quarantines blobs, even in a dry run: it wasn't this run that failed on them.
    /// Returns whether any failure is recorded.
    fn write_run_row(&mut self, left_behind: &[LeftBehind]) -> bool {
        let role = identity::role_name(identity::current_user());
        let libmagic = ntt_mime_core::detector::libmagic_release();
        let (run_id, failures) = tx::in_subtransaction(|| {
            run_log::expire_runs();
            let run_id = run_log::begin(&self.target.name, &role, &self.options, &libmagic);
            let failed: Vec<NewFailure> = left_behind.iter().map(quarantined).collect();
            run_log::record_failures(run_id, &failed, &[]);
            (run_id, run_log::any_failure())
        });
        if !left_behind.is_empty() {
            warn_of_quarantined(left_behind);
        }
        self.run_id = run_id;
        let key = (run_id & 0xFFFF_FFFF) as u32;
        self.locks
            .extend(SessionLock::try_acquire(lock::RUN_CLASS, key));
        failures
    }

    /// The leaves in which there may be something to do, and those that the run has read.
    fn list_leaves(&mut self) -> Vec<ListedLeaf> {
        let listing = self.list_with_marks();
        self.passed_over = listing.passed_over;
        if listing.others.count > 0 {
            warn_of_others(&listing.others, self.target.partitioned);
        }
        self.with_errors_last(listing.leaves)
    }

    /// Creates the memory that the run shares with its workers; returns its handle.
    fn make_shared_memory(&mut self, failures_on_record: bool, leaves: usize) -> u32 {
        let horizon = self.options.verify.as_ref().map(|_| {
            let (horizon, exact) = tx::in_subtransaction(Horizon::now);
            if let Some(marks) = self.marks.as_mut().filter(|_| !exact) {
                marks.record_none();
            }
            horizon
        });
        let records = self.marks.as_ref().filter(|marks| marks.records());
        let job = Job {
            run_id: self.run_id,
            options: self.options.clone(),
            target: self.target.oid.to_u32(),
            partitioned: self.target.partitioned,
            row_security: self.target.row_security,
            role: identity::current_user().to_u32(),
            mime_type_limit: self.target.mime_type_limit,
            roots: self.roots.clone(),
            failures_on_record,
            detector: records.and_then(Marks::detector),
            horizon,
            session: bgworker::Session::current(),
        };
        let settings = bgworker::serialize_settings();
        let cache =
            CacheMemory::create(self.options.cache_bytes).unwrap_or_else(|error| error.raise());
        let segment = shared::create(&job, leaves, &cache, &settings)
            .unwrap_or_else(|error| Error::run_cache(error).raise());
        let handle = segment.handle();
        abandon_on_exit(&segment);
        self.segment = Some(segment);
        self.cache = Some(cache);
        self.locks
            .extend(SessionLock::try_acquire(lock::HANDLE_CLASS, handle));
        handle
    }

    fn shared(&self) -> Shared<'_> {
        shared_of(&self.segment)
    }

    fn take_leaf_states(&mut self) {
        if self.segment.is_some() {
            if self.workers_have_ended() {
                self.take_undetected();
            }
            let shared = shared_of(&self.segment);
            self.leaves.update(shared.task_queue().leaves());
        }
    }

    /// Whether the run has come to its end by itself, neither cancelled nor ended by `max_blobs`.
    fn is_complete(&self) -> bool {
        let shared = self.shared();
        !shared.is_cancelled() && !shared.limit_reached()
    }

    /// Why the run has achieved nothing, if so, although all workers have ended normally.
    fn nothing_done(&self) -> Option<Error> {
        if !self.is_complete() {
            return None;
        }
        let target = self.target.plain_name.clone();
        let oid = self.target.oid;
        // Nothing may have been read from the catalogs since.
        tx::commit_and_begin();
        if tx::in_subtransaction(|| lock::plain_name(oid)).is_none() {
            return Some(Error::TargetDropped { target });
        }
        let totals = self.shared().totals();
        let done = totals.rows_updated + totals.rows_checked > 0;
        if done || self.passed_over.leaves > 0 || !self.leaves.all_locked() {
            return None;
        }
        let leaves = UnfinishedLeaves::new(Unfinished::Locked, &self.leaves);
        Some(Error::KeptOut {
            target,
            names: leaves.names,
            count: leaves.count,
            verify: self.options.verify.is_some(),
        })
    }

    /// All workers have ended normally. If the run has achieved nothing, that is its error; otherwise the first error
    /// of a leaf, if there is one.
    fn finish(&mut self) -> Result<Summary, Report> {
        self.take_leaf_states();
        let complete = self.is_complete();
        if complete {
            self.undetected_elsewhere = self.count_undetected_elsewhere();
        }
        let shared = self.shared();
        let cancelled = shared.is_cancelled();
        let nothing_done = self.nothing_done();
        let verify = self.options.verify.is_some();
        let rows_left_known = complete && !verify && !self.uncounted && nothing_done.is_none();
        let unfinished = match nothing_done {
            Some(_) => Vec::new(),
            None => self.unfinished(),
        };
        let of_leaves = || self.error_of_leaves().filter(|_| !cancelled);
        let error = nothing_done.map(Report::from).or_else(of_leaves);
        let status = match &error {
            _ if cancelled => "cancelled",
            Some(_) => "failed",
            None => "succeeded",
        };
        let mut row = self.row(status, error.as_ref().map(in_short));
        row.options.verified = self.verified(complete && error.is_none());
        // Rows of a leaf that we could not get into can't be counted.
        if rows_left_known {
            let elsewhere = self.passed_over.rows_left;
            row.rows_left = self.leaves.rows_left().map(|rows| rows + elsewhere);
        }
        if complete && self.options.updates() {
            self.forget_leaf_errors();
        }
        let wrong = self.wrong_marks();
        row.options.marks_wrong = wrong.count as u64;
        self.record_marks()?;
        let report = verify.then(|| self.finish_differences());
        let kept = self.kept_pending();
        let too_long = shared.totals().too_long;
        not_waiting_for_client(|| {
            if !(1..FINAL_ATTEMPTS).any(|_| self.try_write(&row)) {
                self.write(&row);
            }
        });
        // From here on the run's status is what its row says, whatever arrives while its end is reported.
        self.finished = true;
        self.release();
        let elapsed = self.started.elapsed();
        // A cancel that arrives only now must not turn a recorded success into an error.
        latch::too_late_to_cancel(|| {
            match report {
                Some(report) => self.tell_of_verification(&row, elapsed, report, complete),
                None => self.tell(&row, elapsed, too_long, complete),
            }
            self.warn(&row, &unfinished, too_long);
            kept.warn();
            wrong.warn();
        });
        match error {
            Some(error) => Err(error),
            None => Ok(Summary {
                run_id: self.run_id,
                blobs: row.blobs as i64,
                rows_checked: row.options.verified.map_or(0, |rows| rows.rows_checked) as i64,
                rows_different: row.options.verified.map_or(0, |rows| rows.rows_different) as i64,
                rows_updated: row.totals.rows_updated as i64,
                failures: row.totals.failures as i64,
                elapsed,
            }),
        }
    }

    /// An error has ended the run; this backend's cancel request counts as one.
    fn fail(&mut self, error: &Report) {
        // A second Ctrl-C must not leave workers behind, nor a row with status "running".
        latch::without_cancel(|| self.stop_workers());
        let sqlstate = error.sqlstate();
        let status = match sqlstate.as_str() {
            // query_canceled: pg_cancel_backend, Ctrl-C, statement_timeout.
            "57014" => "cancelled",
            _ => "failed",
        };
        if self.run_id != 0 && !self.finished {
            self.take_leaf_states();
            let text = in_short(error);
            let record = || {
                // The leaves that are finished needn't be read again. If that can't be recorded, they will be.
                tx::if_possible(|| self.record_marks());
                if self.segment.is_some() && self.options.verify.is_some() {
                    tx::unless_locked(|| differences::finish(self.run_id));
                }
                self.record(status, Some(text.clone()));
                Ok(())
            };
            // An interrupt that arrived meanwhile has an effect once; somebody's lock on the table may block again.
            let _ = (0..RECORD_ATTEMPTS).any(|_| tx::with_clean_up(record, |_| ()).is_ok());
            // PostgreSQL serves interrupts after each message, and another cancel must not end this.
            latch::without_cancel(|| {
                let line = format!("ntt_mime {} {} {status}: {text}", self.kind(), self.run_id);
                send_line(PgLogLevel::LOG, line);
            });
        }
        self.release();
    }

    fn release(&mut self) {
        self.locks.clear();
        self.handles.clear();
        self.segment = None;
        self.cache = None;
    }
}

/// An error as it appears in the row of a run.
fn in_short(error: &Report) -> String {
    format!("{}: {}", error.sqlstate(), error.message)
}

/// The shared memory of a run, once it exists.
fn shared_of(segment: &Option<Segment>) -> Shared<'_> {
    let segment = segment.as_ref().expect("made before any worker");
    Shared::view(segment).expect("written by ourselves")
}

/// The failure to be recorded for a blob that a dead process was examining.
fn quarantined(left: &LeftBehind) -> NewFailure {
    NewFailure {
        blobid: left.blob.to_string(),
        reason: FailureReason::Quarantined,
        detail: left.detail(),
    }
}

fn warn_of_others(others: &Others, partitioned: bool) {
    let (what, why) = match partitioned {
        true => (
            "partition",
            "Foreign tables, tables whose access method does not support TID range scans, and tables that are partitioned \
             by column \"mime_type\" are not filled.",
        ),
        false => (
            "child table",
            "Tables that inherit from the target are not filled with it.",
        ),
    };
    let detail = match which(&others.names, others.count) {
        Some(which) => format!("{which} {why}"),
        None => why.to_owned(),
    };
    let report = Report::warning(format!("skipped {}", counted(others.count as u64, what)))
        .set_detail(detail);
    let report = match partitioned {
        true => report,
        false => report.set_hint("Run the backfill on each of them."),
    };
    report.warn();
}

fn warn_of_quarantined(left_behind: &[LeftBehind]) {
    // More than one process may have died from a blob.
    let blobs: BTreeSet<String> = left_behind
        .iter()
        .map(|left| format!("\"{}\"", left.blob))
        .collect();
    let others = match blobs.len() > NAMED {
        true => " and others",
        false => "",
    };
    let blobs_have = counted_with(blobs.len() as u64, "blob", ("has", "have"));
    let named: Vec<String> = blobs.into_iter().take(NAMED).collect();
    let report = Report::warning(format!("{blobs_have} been put into quarantine"))
        .set_detail(format!(
            "Server processes died while examining {}{others}.",
            named.join(", ")
        ))
        .set_hint(HOW_TO_RELEASE);
    report.warn();
}

/// Makes the workers end when this process does, in whatever way: a FATAL error, such as that of
/// pg_terminate_backend, doesn't pass through Rust code. PostgreSQL then detaches the segment. At the end of a run we
/// detach it ourselves, when no worker is left. Nothing in here can fail.
fn abandon_on_exit(segment: &Segment) {
    segment.on_detach(|segment| {
        if let Some(shared) = Shared::view(segment) {
            shared.stop(Stop::Now);
        }
        bgworker::terminate_all();
    });
}
