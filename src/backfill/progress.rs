//! What the caller of a run reads while it goes on.

use std::cell::Cell;
use std::time::Duration;

use super::counters::Totals;
use super::run_log::RunRow;
use crate::errors::counted;

/// How often a NOTICE is printed.
pub const NOTICE_EVERY: Duration = Duration::from_secs(5);

/// The largest share of blocks that has been reported.
///
/// There may be more blocks than expected: in a leaf that has grown since it was analyzed, or in another pass. A
/// percentage that falls is of no use, so it stays the same until the blocks done have caught up. The total is
/// reported so that it matches, because the view `ntt_mime.progress` divides the two.
#[derive(Default)]
pub struct Share(Cell<f64>);

impl Share {
    /// The total number of blocks to report, when `done` of `total` are done.
    pub fn total_to_tell(&self, done: i64, total: i64) -> i64 {
        let share = done as f64 / total.max(1) as f64;
        if share >= self.0.get() {
            self.0.set(share);
            return total;
        }
        // Rounded so that the share becomes slightly larger rather than smaller.
        let told = ((done as f64 / self.0.get()) as i64).clamp(done, total);
        self.0.set(done as f64 / told as f64);
        told
    }
}

/// Rates and the time left, computed from the counters and the time since the start.
pub struct Progress<'a> {
    pub row: &'a RunRow,
    pub elapsed: Duration,
}

impl Progress<'_> {
    /// The share of the blocks that are done, 0 to 1.
    fn fraction(&self) -> f64 {
        match self.row.blocks_total {
            0 => 0.0,
            total => (self.row.blocks_done as f64 / total as f64).clamp(0.0, 1.0),
        }
    }

    fn time_left(&self) -> Option<Duration> {
        let fraction = self.fraction();
        // The first moments say nothing yet.
        (fraction > 0.001).then(|| self.elapsed.mul_f64((1.0 - fraction) / fraction))
    }

    /// For a process title, which has little room.
    pub fn title(&self) -> String {
        format!("{:.1}%, {}", self.fraction() * 100.0, self.rows())
    }

    /// One line: percent, blobs, rows, rate, time left.
    pub fn line(&self) -> String {
        let rate = self.rate();
        let left = match self.time_left() {
            Some(left) => format!(", about {} left", human(left)),
            None => String::new(),
        };
        format!(
            "{:.1}% done, {}, {}, {rate:.0} blobs/s{left}",
            self.fraction() * 100.0,
            self.blobs(),
            self.rows(),
        )
    }

    /// The summary at the end of the run, after its name. `complete` means that nothing has ended it early.
    pub fn summary(&self, complete: bool) -> String {
        let row = self.row;
        let rows_left = match row.rows_left {
            None | Some(0) => String::new(),
            Some(rows) => format!(", {rows} still pending"),
        };
        let leaves_left = match row.leaves_total - row.leaves_done {
            left if left == 0 || !complete => String::new(),
            left => format!(
                ", {left} of {} not finished",
                counted(row.leaves_total as u64, "leaf")
            ),
        };
        let comma = match rows_left.is_empty() && leaves_left.is_empty() {
            true => "",
            false => ",",
        };
        format!(
            "{}: {}, {}{rows_left}{leaves_left}{comma} in {}, {:.0} blobs/s",
            row.status,
            self.blobs(),
            self.rows(),
            human(self.elapsed),
            self.rate(),
        )
    }

    /// What has become of rows.
    fn rows(&self) -> String {
        let updated = self.row.totals.rows_updated;
        let Some(verified) = self.row.options.verified else {
            return format!("{} filled", counted(updated, "row"));
        };
        let corrected = match updated {
            0 => String::new(),
            updated => format!(", {updated} corrected"),
        };
        format!(
            "{} checked, {} different{corrected}",
            counted(verified.rows_checked, "row"),
            verified.rows_different,
        )
    }

    fn blobs(&self) -> String {
        let blobs = counted(self.row.blobs, "blob");
        match self.row.totals.failures {
            0 => blobs,
            failures => format!("{blobs} ({failures} failed)"),
        }
    }

    /// Blobs per second.
    fn rate(&self) -> f64 {
        self.row.blobs as f64 / self.elapsed.as_secs_f64().max(0.001)
    }
}

/// Where the workers' time went, in percent, as a sentence; None if there was none.
pub fn shares(totals: &Totals) -> Option<String> {
    let parts = [
        ("reading rows", totals.scan_us),
        ("reading blobs", totals.read_us),
        ("detection", totals.detect_us),
        ("update", totals.update_us),
        ("commit", totals.commit_us),
        ("waiting", totals.idle_us),
    ];
    let all = totals.worker_us;
    let percent =
        |(name, us): &(&str, u64)| format!("{name} {:.0}%", 100.0 * *us as f64 / all as f64);
    let shares: Vec<String> = parts.iter().map(percent).collect();
    (all > 0).then(|| format!("The workers' time: {}.", shares.join(", ")))
}

/// A time in its two largest units.
pub fn human(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0 => format!("{} ms", time.as_millis()),
        1..60 => format!("{:.1} s", time.as_secs_f64()),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86400, seconds % 86400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_rate_and_time_left() {
        let row = RunRow {
            blocks_done: 250,
            blocks_total: 1000,
            blobs: 5000,
            totals: Totals {
                rows_updated: 20_000,
                ..Totals::default()
            },
            ..RunRow::default()
        };
        let progress = Progress {
            row: &row,
            elapsed: Duration::from_secs(10),
        };
        assert_eq!(
            progress.line(),
            "25.0% done, 5000 blobs, 20000 rows filled, 500 blobs/s, about 30.0 s left"
        );
        assert_eq!(progress.title(), "25.0%, 20000 rows filled");
        let row = RunRow {
            status: "succeeded",
            totals: Totals {
                failures: 3,
                ..row.totals.clone()
            },
            ..row.clone()
        };
        let summary = |row: &RunRow| Progress { row, ..progress }.summary(true);
        assert_eq!(
            summary(&row),
            "succeeded: 5000 blobs (3 failed), 20000 rows filled in 10.0 s, 500 blobs/s"
        );
        let row = RunRow {
            rows_left: Some(7),
            ..row.clone()
        };
        assert_eq!(
            summary(&row),
            "succeeded: 5000 blobs (3 failed), 20000 rows filled, 7 still pending, in 10.0 s, 500 blobs/s"
        );
        let row = RunRow {
            rows_left: None,
            leaves_total: 30,
            leaves_done: 27,
            ..row.clone()
        };
        assert_eq!(
            summary(&row),
            "succeeded: 5000 blobs (3 failed), 20000 rows filled, 3 of 30 leaves not finished, in 10.0 s, 500 blobs/s"
        );
        let limited = Progress {
            row: &row,
            ..progress
        };
        assert_eq!(
            limited.summary(false),
            "succeeded: 5000 blobs (3 failed), 20000 rows filled in 10.0 s, 500 blobs/s"
        );
    }

    #[test]
    fn the_share_that_is_told_never_falls() {
        let share = Share::default();
        assert_eq!(share.total_to_tell(0, 0), 0);
        assert_eq!(share.total_to_tell(0, 50), 50);
        let mut last = 0.0;
        // Leaves turn out to be larger, another pass begins, and in the end everything is done.
        for (done, total) in [
            (10, 100),
            (20, 777),
            (60, 777),
            (777, 777),
            (777, 1500),
            (1501, 1554),
        ] {
            let told = share.total_to_tell(done, total);
            let now = done as f64 / told as f64;
            assert!(
                now >= last && told >= done && told <= total,
                "{done} of {told}"
            );
            last = now;
        }
        assert_eq!(share.total_to_tell(1554, 1554), 1554);
    }

    #[test]
    fn shares_are_of_the_workers_time() {
        let mut totals = Totals::default();
        assert_eq!(shares(&totals), None);
        totals.update_us = 600_000;
        totals.detect_us = 250_000;
        totals.worker_us = 1_000_000;
        totals.idle_us = 100_000;
        assert_eq!(
            shares(&totals).unwrap(),
            "The workers' time: reading rows 0%, reading blobs 0%, detection 25%, update 60%, commit 0%, \
             waiting 10%."
        );
    }

    #[test]
    fn nothing_is_promised_before_anything_is_known() {
        let row = RunRow::default();
        let progress = Progress {
            row: &row,
            elapsed: Duration::ZERO,
        };
        assert_eq!(
            progress.line(),
            "0.0% done, 0 blobs, 0 rows filled, 0 blobs/s"
        );
    }

    #[test]
    fn times_read_well() {
        let of = |s| human(Duration::from_secs(s));
        assert_eq!(of(59), "59.0 s");
        assert_eq!(of(61), "1 min 1 s");
        assert_eq!(of(7260), "2 h 1 min");
        assert_eq!(of(90_000), "1 d 1 h");
        assert_eq!(human(Duration::from_millis(12)), "12 ms");
    }
}
