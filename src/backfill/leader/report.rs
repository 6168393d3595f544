//! What a leader reports about its run: the row in `ntt_mime.run`, NOTICEs, the server's log, the process title.

use std::time::Duration;

use pgrx::pg_sys::Oid;
use pgrx::{PgLogLevel, PgSqlErrorCode};

use super::Leader;
use super::leaves::{Leaves, Unfinished};
use crate::backfill::counters::Totals;
use crate::backfill::progress::{self, Progress};
use crate::backfill::roots;
use crate::backfill::run_log::{self, Additions, RunRow};
use crate::errors::{NAMED, counted, counted_with, which};
use crate::pg::lock::plain_name;
use crate::pg::report::{Report, send_line};
use crate::pg::{bgworker, identity, tx};

/// Where to look if blobs could not be detected.
pub(super) const WHERE_FAILURES_ARE: &str =
    "Table ntt_mime.failure has the blobs that could not be detected.";

impl Leader {
    /// A line in the server's log. The options are in the run's row.
    pub(super) fn log_start(&self, leaves: usize) {
        let line = format!(
            "ntt_mime {} {} on {} started: {}, {}, batches of up to {}",
            self.kind(),
            self.run_id,
            self.target.name,
            counted(self.handles.len() as u64, "worker"),
            counted(leaves as u64, "leaf"),
            counted(self.options.batch_size, "row"),
        );
        send_line(PgLogLevel::LOG, line);
    }

    /// The name of this kind of run in messages.
    pub(super) fn kind(&self) -> &'static str {
        match self.options.dry_run {
            _ if self.options.verify.is_some() => "verification",
            true => "dry run",
            false => "run",
        }
    }

    /// The current run row.
    pub(super) fn row(&self, status: &'static str, error: Option<String>) -> RunRow {
        if self.segment.is_none() {
            return RunRow {
                status,
                error,
                ..RunRow::default()
            };
        }
        let shared = self.shared();
        let mut totals = shared.totals();
        totals.failures += self.undetected_elsewhere;
        let task_queue = shared.task_queue();
        let (blocks_done, mut blocks_total) = task_queue.blocks();
        blocks_total = blocks_total.max(blocks_done);
        if status == "running" {
            blocks_total = self.share.total_to_tell(blocks_done, blocks_total);
        }
        let total = (self.leaves.len() as u64 + self.passed_over.leaves) as i64;
        let left_open = match (status, self.passes) {
            ("running", 1) => i64::from(task_queue.open_leaves()),
            ("running", _) => 0,
            _ => self.leaves.count_unfinished() as i64,
        };
        RunRow {
            status,
            workers: self.handles.len() as i32,
            leaves_total: total,
            leaves_done: total - left_open,
            blocks_total,
            blocks_done,
            totals,
            blobs: shared.blobs() + self.undetected_elsewhere,
            rows_left: None,
            mime_counts: shared
                .dictionary()
                .counts()
                .map(|(mime_type, blobs)| (mime_type.to_owned(), blobs))
                .collect(),
            options: Additions {
                roots_read: roots::read_from(&self.options.blob_root, shared.reads()),
                roots_empty: roots::empty(&self.options.blob_root, &self.roots),
                leaves_skipped: self.passed_over.leaves,
                marks_wrong: 0,
                verified: self.verified(false),
            },
            error,
        }
    }

    /// The run row of a run that has nothing to do.
    pub(super) fn row_without_work(&self) -> RunRow {
        let leaves = self.passed_over.leaves;
        RunRow {
            status: "succeeded",
            leaves_total: leaves as i64,
            leaves_done: leaves as i64,
            rows_left: self
                .options
                .verify
                .is_none()
                .then_some(self.passed_over.rows_left),
            blobs: self.undetected_elsewhere,
            totals: Totals {
                failures: self.undetected_elsewhere,
                ..Totals::default()
            },
            options: Additions {
                roots_empty: roots::empty(&self.options.blob_root, &self.roots),
                leaves_skipped: leaves,
                verified: self.verified(false),
                ..Additions::default()
            },
            ..RunRow::default()
        }
    }

    pub(super) fn record(&self, status: &'static str, error: Option<String>) -> RunRow {
        let row = self.row(status, error);
        match status {
            // If somebody's lock has prevented it, it is written a second later.
            "running" => _ = self.try_write(&row),
            _ => self.write(&row),
        }
        let elapsed = self.started.elapsed();
        let title = Progress { row: &row, elapsed }.title();
        bgworker::report_title(&format!("CALL, ntt_mime run {}: {title}", self.run_id));
        row
    }

    /// Writes the run row.
    pub(super) fn write(&self, row: &RunRow) {
        tx::in_subtransaction(|| run_log::update(self.run_id, row));
        self.commit(row.status);
    }

    /// The same; false if somebody's lock prevented it, after five seconds.
    pub(super) fn try_write(&self, row: &RunRow) -> bool {
        let written = tx::unless_locked(|| run_log::update(self.run_id, row)).is_some();
        match written {
            true => self.commit(row.status),
            false => tx::commit_and_begin(),
        }
        written
    }

    /// Commits a row with that status. Only the last one waits for a synchronous standby, and not for long if the run
    /// has been cancelled.
    fn commit(&self, status: &str) {
        match status {
            _ if self.segment.is_none() => tx::commit_and_begin(),
            "running" => tx::commit_and_begin(),
            "cancelled" => tx::commit_when_cancelled(),
            _ => tx::commit_at_last(self.shared().end()),
        }
    }

    pub(super) fn notice(&self) {
        let row = self.row("running", None);
        let elapsed = self.started.elapsed();
        send_line(PgLogLevel::NOTICE, Progress { row: &row, elapsed }.line());
    }

    /// How the run has ended: a line for the server's log, and a message for the caller.
    pub(super) fn summary(&self, row: &RunRow, elapsed: Duration, complete: bool) -> Report {
        let summary = Progress { row, elapsed }.summary(complete);
        let summary = format!("{} {} {summary}", self.kind(), self.run_id);
        send_line(PgLogLevel::LOG, format!("ntt_mime {summary}"));
        Report::plain(summary)
    }

    /// Reports how the run has ended.
    pub(super) fn tell(&self, row: &RunRow, elapsed: Duration, too_long: u64, complete: bool) {
        let mut report = self.summary(row, elapsed, complete);
        if let Some(shares) = progress::shares(&row.totals) {
            report = report.set_detail(shares);
        }
        // A dry run records none.
        if row.totals.failures > too_long && !self.options.dry_run {
            report = report.set_hint(WHERE_FAILURES_ARE);
        }
        report.send(PgLogLevel::NOTICE);
    }

    /// Raises WARNINGs about leaves that the run has not finished, and about blobs whose type doesn't fit into the
    /// column.
    pub(super) fn warn(&self, row: &RunRow, unfinished: &[UnfinishedLeaves], too_long: u64) {
        if too_long > 0 {
            Report::new(
                PgSqlErrorCode::ERRCODE_STRING_DATA_RIGHT_TRUNCATION,
                format!(
                    "{} too long a type for column \"mime_type\"",
                    counted_with(too_long, "blob", ("has", "have"))
                ),
            )
            .set_detail("Their rows were left as they are.")
            .set_hint("Change the column's type to text, or to varchar(255).")
            .warn();
        }
        let differences = row.totals.audit_differences;
        if differences > 0 {
            Report::warning(format!(
                    "libmagic gave another type for {} of {} that were audited",
                    differences,
                    counted(row.totals.audited, "blob"),
                ),
            )
            .set_detail(
                "libmagic's types were used, and the run went on without its prefilter. The server's log has the blobs.",
            )
            .set_hint("Turn ntt_mime.prefilter off until this is fixed. Report it, with the blobs if you can.")
            .warn();
        }
        let done = match &self.options.verify {
            Some(verify) if verify.correct => "corrected",
            Some(_) => "checked",
            None => "filled",
        };
        unfinished.iter().for_each(|leaves| leaves.warn(done));
        if self.uncounted {
            Report::warning(
                "rows that others changed during the run may not have been read".to_owned(),
            )
            .set_detail("Whether there are any is not known because track_counts is off.")
            .set_hint("The next run will read all rows.")
            .warn();
        }
    }

    /// The leaves that the run has not finished, by reason, and those with errors of their own if it doesn't end with
    /// such an error. Reads the catalogs, so a commit must follow.
    pub(super) fn unfinished(&self) -> Vec<UnfinishedLeaves> {
        let mut whys = vec![Unfinished::Locked, Unfinished::Rewritten];
        if self.shared().is_cancelled() {
            whys.push(Unfinished::SetAside);
        }
        if self.is_complete() {
            whys.extend([Unfinished::Changed, Unfinished::NotLookedAt]);
        }
        whys.into_iter()
            .map(|why| UnfinishedLeaves::new(why, &self.leaves))
            .filter(|leaves| leaves.count > 0)
            .collect()
    }
}

/// Leaves that a run has not finished, for one reason.
pub(super) struct UnfinishedLeaves {
    why: Unfinished,
    pub count: usize,
    /// The names of some of them.
    pub names: Vec<String>,
}

impl UnfinishedLeaves {
    /// Reads the catalogs.
    pub fn new(why: Unfinished, leaves: &Leaves) -> UnfinishedLeaves {
        let mut oids = leaves.unfinished(why);
        let count = oids.len();
        if count == 0 {
            return UnfinishedLeaves {
                why,
                count,
                names: Vec::new(),
            };
        }
        oids.truncate(NAMED);
        // A leaf that has been dropped meanwhile has no name any more. As the owner, because that limits how long we
        // wait for a catalog. All the work is done, so the run must not fail because of a missing name.
        let named = || oids.into_iter().map(Oid::from).filter_map(plain_name);
        let names = tx::if_possible(|| identity::as_owner(&[], || named().collect()));
        UnfinishedLeaves {
            why,
            count,
            names: names.unwrap_or_default(),
        }
    }

    /// `done`: what hasn't been done to them.
    fn warn(&self, done: &str) {
        let leaves = counted_with(self.count as u64, "leaf", ("was", "were"));
        let they_were = match self.count {
            1 => "it was",
            _ => "they were",
        };
        let message = match self.why {
            Unfinished::Locked => {
                format!("{leaves} not {done} completely because of locks held by others")
            }
            Unfinished::Rewritten => {
                format!("{leaves} not {done} completely because {they_were} rewritten meanwhile")
            }
            Unfinished::SetAside => {
                let errors = match self.count {
                    1 => "an error of its own",
                    _ => "errors of their own",
                };
                format!("{leaves} not {done} completely because of {errors}")
            }
            Unfinished::Changed => {
                format!("{leaves} changed by others after {they_were} read")
            }
            Unfinished::NotLookedAt => format!("{leaves} added too late to be read"),
        };
        let hint = match self.why {
            Unfinished::Changed | Unfinished::NotLookedAt => "The next run will read them.",
            _ => "The next run will try again.",
        };
        let mut report = Report::warning(message).set_hint(hint);
        if let Some(which) = which(&self.names, self.count) {
            report = report.set_detail(which);
        }
        report.warn();
    }
}
