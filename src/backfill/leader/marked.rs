//! Leaves that needn't be read, because nothing can have become pending in them, or in a verification different from
//! the detected type ([`marks`](crate::backfill::marks)); what a run does that has no others, and what a run leaves
//! for the next one.

use pgrx::pg_sys::Oid;

use super::leaves::{TIME_PER_BLOCK, TIME_TO_VERIFY_BLOCK, time_to_look};
use super::others::may_be_late;
use super::passes::LOOK_AT_ALL;
use super::{FINAL_ATTEMPTS, Leader, Summary};
use crate::backfill::shared::Shared;
use crate::backfill::target::{self, ListedLeaf, Listing, PassedOver};
use crate::errors::{Error, NAMED, counted, which};
use crate::pg::bgworker::Handle;
use crate::pg::lock::plain_name;
use crate::pg::report::Report;
use crate::pg::tx;
use crate::pg::{identity, stats};

impl Leader {
    /// The leaves in which there may be something to do when the run begins.
    ///
    /// Somebody may have changed some of the skipped leaves since they were read, without having published it. As at
    /// the end of a pass (`passes`), all leaves are read in that case if that takes no longer than [`LOOK_AT_ALL`].
    pub(super) fn list_leaves_at_first(&mut self) -> Vec<ListedLeaf> {
        let leaves = self.list_leaves();
        let &PassedOver {
            leaves: passed_over,
            blocks,
            since,
            ..
        } = &self.passed_over;
        let per_block = match self.options.verify {
            Some(_) => TIME_TO_VERIFY_BLOCK,
            None => TIME_PER_BLOCK,
        };
        let time = time_to_look(passed_over, blocks, per_block);
        if passed_over > 0
            && time <= LOOK_AT_ALL
            && tx::in_subtransaction(|| may_be_late(since))
            && let Some(marks) = &mut self.marks
        {
            marks.distrust();
            return self.list_leaves();
        }
        leaves
    }

    /// Lists the leaves, using marks if possible. If somebody has locked the tables of marks, that doesn't hold up
    /// the run: then all leaves are listed.
    pub(super) fn list_with_marks(&mut self) -> Listing {
        let always = self.leaves.oids();
        let (target, warned_of) = (&self.target, &mut self.warned_of);
        if let Some(marks) = &self.marks {
            let listing = tx::unless_locked(|| {
                identity::as_owner(&marks.reads(), || {
                    target::leaves(target, warned_of, Some(marks), &always)
                })
            });
            match listing {
                Some(listing) => return listing,
                None => self.marks = None,
            }
        }
        tx::in_subtransaction(|| {
            identity::as_owner(&[], || target::leaves(target, warned_of, None, &[]))
        })
    }

    /// The only row of a run that has nothing to do. It becomes visible in its final form.
    pub(super) fn write_row_without_work(&mut self) {
        let oid = self.target.oid;
        if tx::in_subtransaction(|| plain_name(oid)).is_none() {
            let target = self.target.plain_name.clone();
            Error::TargetDropped { target }.raise();
        }
        if self.options.updates() || self.options.dry_run {
            self.forget_leaf_errors();
        }
        self.remove_marks_of_dropped();
        self.undetected_elsewhere = self.count_undetected_elsewhere();
        let row = self.row_without_work();
        if !(1..FINAL_ATTEMPTS).any(|_| self.try_write(&row)) {
            self.write(&row);
        }
        self.finished = true;
    }

    pub(super) fn finish_without_work(&mut self) -> Summary {
        let row = self.row_without_work();
        self.release();
        let elapsed = self.started.elapsed();
        match self.options.verify {
            Some(_) => self.tell_of_verification(&row, elapsed, Vec::new(), true),
            None => self.tell(&row, elapsed, 0, true),
        }
        self.warn(&row, &[], 0);
        Summary {
            run_id: self.run_id,
            blobs: row.blobs as i64,
            failures: row.totals.failures as i64,
            elapsed,
            ..Summary::default()
        }
    }

    /// Blobs that could not be detected and have rows only in skipped leaves. They count like those that are skipped
    /// one by one. A commit must follow.
    pub(super) fn count_undetected_elsewhere(&self) -> u64 {
        let leaves = &self.passed_over.with_rows_left;
        match &self.marks {
            Some(marks) if !leaves.is_empty() => {
                let known = self.leaves.undetected();
                tx::unless_locked(|| marks.count_undetected(leaves, known)).unwrap_or(0)
            }
            _ => 0,
        }
    }

    pub(super) fn workers_have_ended(&self) -> bool {
        self.handles.iter().all(Handle::has_stopped)
    }

    /// Records which leaves the run has finished, for the next run. A commit must follow.
    pub(super) fn record_marks(&self) -> Result<(), Report> {
        let Some(marks) = &self.marks else {
            return Ok(());
        };
        // A worker that is still running has not published all its counts.
        if !marks.records() || !self.workers_have_ended() || !self.detector_is_known() {
            return Ok(());
        }
        let record = || {
            let counted = |oid| stats::counted(Oid::from(oid));
            let unpublished = |oid| stats::unpublished_here(Oid::from(oid));
            let (done, without) = self.leaves.to_be_marked(counted, unpublished);
            marks.record(&done, &without);
        };
        match tx::attempt(record) {
            // The run has done its work. The next one will read more leaves.
            Err(error) if !error.is_of_locks() && !error.is_of_memory() => return Err(error),
            _ => {}
        }
        self.remove_marks_of_dropped();
        Ok(())
    }

    /// Whether all workers have used the detector for which marks are, and it has been right as far as is known.
    /// Irrelevant in a backfill.
    fn detector_is_known(&self) -> bool {
        let found_otherwise = |shared: Shared<'_>| {
            shared.had_other_detector() || shared.totals().audit_differences > 0
        };
        self.options.verify.is_none() || self.segment.is_some() && !found_otherwise(self.shared())
    }

    fn remove_marks_of_dropped(&self) {
        if let Some(marks) = &self.marks
            && marks.records()
            && self.passed_over.other_marks > 0
        {
            tx::unless_locked(|| marks.remove_dropped());
        }
    }

    /// Leaves in which rows were pending, or different, that their marks didn't know of. None while it isn't certain
    /// that everything that was done to them has been counted. A commit must follow.
    pub(super) fn wrong_marks(&self) -> WrongMarks {
        let counted = |oid| stats::counted(Oid::from(oid));
        let mut leaves = self.leaves.with_wrong_marks(counted);
        if leaves.is_empty() || tx::if_possible(|| may_be_late(0.0)).unwrap_or(true) {
            return WrongMarks::default();
        }
        let count = leaves.len();
        leaves.truncate(NAMED);
        let named = || leaves.into_iter().map(Oid::from).filter_map(plain_name);
        let names = tx::if_possible(|| identity::as_owner(&[], || named().collect()));
        WrongMarks {
            verify: self.options.verify.is_some(),
            count,
            names: names.unwrap_or_default(),
        }
    }
}

/// Leaves whose marks have turned out to be wrong.
#[derive(Default)]
pub(super) struct WrongMarks {
    verify: bool,
    pub count: usize,
    /// The names of some of them.
    names: Vec<String>,
}

impl WrongMarks {
    /// Raises a WARNING if there are any.
    pub fn warn(&self) {
        if self.count == 0 {
            return;
        }
        let leaves = counted(self.count as u64, "leaf");
        let seemed = match self.count {
            1 => "it seemed",
            _ => "they seemed",
        };
        let (what, run) = match self.verify {
            false => ("pending rows", "an earlier run"),
            true => ("rows with another type", "an earlier verification"),
        };
        let mut report = Report::warning(format!(
            "{leaves} had {what} although {seemed} unchanged since {run}"
        ));
        if let Some(which) = which(&self.names, self.count) {
            report = report.set_detail(which);
        }
        report
            .set_hint(
                "The server does not count what a session writes with track_counts off. If there was none, report it.",
            )
            .warn();
    }
}
