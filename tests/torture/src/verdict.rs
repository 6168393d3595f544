//! What must be true after runs: about the rows, and about the rows in the run log.

use std::time::Duration;

use ntt_mime_integration::{Outcome, Session};

use crate::caller::Ending;
use crate::fault::Fault;
use crate::ground::Ground;
use crate::round::Found;

/// How the target is now.
#[derive(Clone, Copy)]
pub struct State {
    /// Rows that have a type and had none.
    pub filled: i64,
    /// Rows that are pending and can be filled.
    pub to_fill: i64,
    pub pending: i64,
}

impl State {
    pub fn now(s: &mut Session) -> State {
        let row = s
            .query_one(
                "SELECT count(*) FILTER (WHERE filled), count(*) FILTER (WHERE lost), count(*) FILTER (WHERE pending)
                   FROM verdict",
                &[],
            )
            .expect("the verdict");
        State {
            filled: row.get(0),
            to_fill: row.get(1),
            pending: row.get(2),
        }
    }
}

/// What had been before the run that was struck.
#[derive(Clone, Copy)]
pub struct Before {
    /// The last run.
    run_id: i64,
    filled: i64,
}

impl Before {
    pub fn now(s: &mut Session) -> Before {
        Before {
            run_id: s.count("SELECT coalesce(max(run_id), 0) FROM ntt_mime.run"),
            filled: State::now(s).filled,
        }
    }
}

/// Every row, by comparison with its image from before and with file(1)'s answer.
pub fn judge(s: &mut Session, ground: &Ground, found: &mut Found) {
    let row = s
        .query_one(
            "SELECT count(*) FILTER (WHERE lost), count(*) FILTER (WHERE wrong),
                    count(*) FILTER (WHERE other_columns), count(*) FILTER (WHERE changed),
                    (SELECT count(*) FROM (SELECT FROM audit GROUP BY ino
                                           HAVING count(*) > 1 OR bool_or(old_mime IS NOT NULL)) twice),
                    (SELECT count(*) FROM audit),
                    (SELECT count(*) FROM ntt_mime.failure WHERE reason = 'quarantined'),
                    (SELECT count(*) FROM ntt_mime.failure JOIN truth USING (blobid) WHERE mime IS NOT NULL)
               FROM verdict",
            &[],
        )
        .expect("the verdict");
    let [
        lost,
        wrong,
        other,
        changed,
        double,
        audited,
        quarantined,
        innocent,
    ] = std::array::from_fn(|i| row.get::<_, i64>(i));
    found.lost = lost;
    found.wrong = wrong;
    found.double = double;
    found.other_columns = other;
    found.quarantined = quarantined;
    for (count, what) in [
        (lost, "rows lost"),
        (wrong, "rows wrong"),
        (double, "rows changed twice"),
        (other, "rows with changes in other columns"),
        (quarantined, "blobs quarantined"),
        (
            innocent,
            "blobs recorded as failures, though file(1) knows them",
        ),
        (
            (changed - audited).abs(),
            "rows changed in other ways than by one UPDATE",
        ),
    ] {
        if count > 0 {
            found.violation(format!("{count} {what} of {}", ground.to_fill));
        }
    }
}

/// A run that ended as it should, between two states; the rows that it says it left.
pub fn check_run(
    s: &mut Session,
    run: &Outcome,
    before: State,
    after: State,
    found: &mut Found,
) -> Option<i64> {
    let row = s
        .query_one(
            "SELECT status, rows_updated, rows_left FROM ntt_mime.run WHERE run_id = $1",
            &[&run.run_id],
        )
        .expect("it has a row");
    let (status, updated, left): (String, i64, Option<i64>) = (row.get(0), row.get(1), row.get(2));
    let filled = after.filled - before.filled;
    if status != "succeeded" || updated != filled || run.rows_updated != filled {
        found.untrue(format!(
            "run {} filled {filled} rows; {status}, with {updated} rows; CALL said {}",
            run.run_id, run.rows_updated
        ));
    }
    if left.is_some_and(|left| left != after.pending) {
        found.untrue(format!(
            "run {}: rows_left is {left:?}, {} are pending",
            run.run_id, after.pending
        ));
    }
    left
}

/// The same of one that nobody disturbed: it fills all that it can, and knows what it leaves.
pub fn check_undisturbed(s: &mut Session, run: &Outcome, before: State, found: &mut Found) {
    let after = State::now(s);
    let left = check_run(s, run, before, after, found);
    if after.to_fill > 0 || left.is_none() {
        found.untrue(format!(
            "nobody disturbed run {}, and of {} rows that it could fill it left {}; rows_left is {left:?}",
            run.run_id, before.to_fill, after.to_fill
        ));
    }
}

/// The run that was struck.
pub struct Struck<'r> {
    pub before: Before,
    /// The run after it, which isn't meant.
    pub second: i64,
    /// The state that it left.
    pub after: State,
    /// Has nobody else made rows pending since its last look?
    pub still: bool,
    pub fault: &'r Fault,
    pub ending: &'r Ending,
}

impl Struck<'_> {
    /// Is what its row says what happened?
    pub fn check(&self, s: &mut Session, ground: &Ground, found: &mut Found) {
        let (ending, fault) = (self.ending, self.fault);
        let filled = self.after.filled - self.before.filled;
        let rows = s
            .query(
                "SELECT status, coalesce(error, ''), rows_updated, rows_left, finished_at IS NOT NULL,
                        extract(epoch FROM finished_at - started_at)::float8
                   FROM ntt_mime.run WHERE run_id > $1 AND run_id < $2",
                &[&self.before.run_id, &self.second],
            )
            .expect("the run log");
        let row = match rows.as_slice() {
            [row] => row,
            // Struck before it could write its row, and so before it did anything.
            [] if !ending.is_ok() && filled == 0 => return,
            rows => return found.untrue(format!("{} rows for one run", rows.len())),
        };
        let (status, error): (String, String) = (row.get(0), row.get(1));
        let (updated, left): (i64, Option<i64>) = (row.get(2), row.get(3));
        let finished: bool = row.get(4);
        let here =
            format!("CALL ended with {ending}; {status} ({error}), {updated} of {filled} rows");
        let by_cancel_function = fault.name == "ntt_cancel_backfill";
        let expected = match ending {
            Ending::Succeeded(outcome) => {
                if outcome.rows_updated != filled {
                    found.untrue(format!("CALL's result is not what was committed: {here}"));
                }
                status == "succeeded" || by_cancel_function && status == "cancelled"
            }
            Ending::Failed { sqlstate, .. } => {
                let recorded = match sqlstate.as_str() {
                    "57014" => status == "cancelled",
                    _ => status == "failed",
                };
                recorded && error.starts_with(sqlstate.as_str())
                    // On a full disk there is no place for the in-flight record.
                    || sqlstate == "53100" && status == "interrupted"
            }
            // It may have done everything and have been about to say so.
            Ending::Lost(_) => {
                status == "interrupted" || status == "succeeded" && filled == updated
            }
        };
        // A cancelled run's CALL may return as if nothing had been.
        found.struck |= status == "cancelled";
        if !expected || !fault.statuses.contains(&status.as_str()) {
            found.untrue(format!("the wrong status: {here}"));
        }
        if status == "succeeded" && finished && fault.ends_run {
            ground.learn_length(Duration::try_from_secs_f64(row.get(5)).unwrap_or_default());
        }
        if !finished {
            found.untrue(format!("it has no end: {here}"));
        }
        let exact = status != "interrupted";
        if updated > filled || exact && updated != filled {
            found.untrue(format!("rows miscounted: {here}"));
        }
        match left {
            Some(left) if self.still => {
                found.rows_left_known += 1;
                if left != self.after.pending {
                    let pending = self.after.pending;
                    found.untrue(format!(
                        "rows_left is {left}, {pending} are pending: {here}"
                    ));
                }
            }
            Some(_) => (),
            None => found.rows_left_null += 1,
        }
    }
}
