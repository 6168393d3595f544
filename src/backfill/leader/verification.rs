//! What a leader reports about a verification.

use std::time::Duration;

use pgrx::PgLogLevel;

use super::report::WHERE_FAILURES_ARE;
use super::{FINAL_ATTEMPTS, Leader};
use crate::backfill::counters::Totals;
use crate::backfill::differences;
use crate::backfill::progress::human;
use crate::backfill::run_log::{RunRow, Verified};
use crate::backfill::sample::Sums;
use crate::errors::{counted, counted_with};
use crate::pg::tx;

/// The maximum number of type pairs that are kept while a run goes on.
const MOST_PAIRS_MEANWHILE: usize = 2 * differences::MOST_PAIRS;

/// The most frequent pairs of an old and a new type, with their rows.
pub(super) type MostFrequent = Vec<(String, String, i64)>;

impl Leader {
    /// What has been found so far; None in a backfill. `finished` means that everything has been read, so that a
    /// sample says something about the whole.
    pub(super) fn verified(&self, finished: bool) -> Option<Verified> {
        let verify = self.options.verify.as_ref()?;
        let totals = match self.segment {
            Some(_) => self.shared().totals(),
            None => Totals::default(),
        };
        let sums = Sums {
            blocks: totals.sample_blocks,
            of_blocks: totals.sample_of_blocks,
            rows: totals.rows_checked,
            different: totals.rows_different,
            rows_squared: totals.sample_rows_squared,
            different_squared: totals.sample_different_squared,
            product: totals.sample_product,
        };
        let is_sample = finished && verify.sample_percent < 100.0;
        Some(Verified {
            rows_checked: totals.rows_checked,
            rows_different: totals.rows_different,
            rows_spelled_otherwise: totals.rows_spelled_otherwise,
            estimate: is_sample.then(|| sums.estimate()).flatten(),
        })
    }

    /// Limits the number of the run's recorded differences while it goes on.
    pub(super) fn trim_differences(&self) {
        if self.options.verify.is_some() {
            // If somebody's lock prevents that, it is done the next time.
            tx::unless_locked(|| differences::trim(self.run_id, MOST_PAIRS_MEANWHILE));
            tx::commit_and_begin();
        }
    }

    /// Brings the run's recorded differences into their final form.
    pub(super) fn finish_differences(&self) -> MostFrequent {
        let finish = || {
            differences::finish(self.run_id);
            differences::most_frequent(self.run_id)
        };
        (0..FINAL_ATTEMPTS)
            .find_map(|_| tx::unless_locked(finish))
            .unwrap_or_default()
    }

    /// Reports how the verification has ended, and what it has found.
    pub(super) fn tell_of_verification(
        &self,
        row: &RunRow,
        elapsed: Duration,
        most_frequent: MostFrequent,
        complete: bool,
    ) {
        let mut message = self.summary(row, elapsed, complete);
        let details: Vec<String> = [
            self.estimate_in_words(row, elapsed),
            in_words(&most_frequent),
            spelling_in_words(row),
            skipped_in_words(row),
        ]
        .into_iter()
        .flatten()
        .collect();
        if !details.is_empty() {
            message = message.set_detail(details.join("\n"));
        }
        let failures = (row.totals.failures > 0).then(|| WHERE_FAILURES_ARE.to_owned());
        let hints: Vec<String> = self.what_next(row).into_iter().chain(failures).collect();
        if !hints.is_empty() {
            message = message.set_hint(hints.join(" "));
        }
        message.send(PgLogLevel::NOTICE);
    }

    fn estimate_in_words(&self, row: &RunRow, elapsed: Duration) -> Option<String> {
        let estimate = row.options.verified?.estimate?;
        let percent = |share: f64| format!("{:.2}", 100.0 * share);
        let part = estimate.blocks as f64 / estimate.of_blocks as f64;
        Some(format!(
            "The sample had {} of {} blocks. Of all {}, about {} are different: {} %, between {} and {} % in 19 of 20 samples. \
             A check of all would take up to {}.",
            estimate.blocks,
            estimate.of_blocks,
            counted(estimate.rows, "row"),
            estimate.rows_different,
            percent(estimate.share),
            percent(estimate.share_low),
            percent(estimate.share_high),
            human(elapsed.div_f64(part)),
        ))
    }

    /// What to do about the remaining differences.
    fn what_next(&self, row: &RunRow) -> Option<String> {
        let verify = self.options.verify.as_ref()?;
        let verified = row.options.verified?;
        let stay = verified
            .rows_different
            .saturating_sub(row.totals.rows_updated);
        if verified.rows_different == 0 {
            return None;
        }
        let all = format!(
            "Table ntt_mime.difference has all of them, with run_id {}.",
            self.run_id
        );
        match verify.correct || stay == 0 {
            true => Some(all),
            false => {
                let rows = counted(verified.rows_different, "row");
                Some(format!(
                    "{all} With correct => true, {rows} would get the detected type."
                ))
            }
        }
    }
}

fn in_words(most_frequent: &MostFrequent) -> Option<String> {
    let pairs: Vec<String> = most_frequent
        .iter()
        .map(|(old, new, rows)| {
            format!(
                "\"{old}\" instead of \"{new}\": {}",
                counted(*rows as u64, "row")
            )
        })
        .collect();
    (!pairs.is_empty()).then(|| format!("{}.", pairs.join("; ")))
}

fn skipped_in_words(row: &RunRow) -> Option<String> {
    let leaves = row.options.leaves_skipped;
    let were = counted_with(leaves, "leaf", ("was", "were"));
    let it_has = if leaves == 1 { "it has" } else { "they have" };
    (leaves > 0).then(|| {
        format!("{were} skipped: an earlier verification found all rows to have the detected type, and {it_has} not changed since.")
    })
}

fn spelling_in_words(row: &RunRow) -> Option<String> {
    let rows = row.options.verified?.rows_spelled_otherwise;
    let rows_have = counted_with(rows, "row", ("has", "have"));
    (rows > 0).then(|| {
        format!("{rows_have} the detected type in another spelling, which is corrected only where only_types names it.")
    })
}
