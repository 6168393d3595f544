//! Decides how many rows a worker's next batch has.
//!
//! A session that wants a row that a batch has updated, or anything else that its transaction holds, waits until the
//! batch is committed. As long as there is no such session, a batch may take up to [`LONG`]: the longer it is, the
//! less each row costs. So before its commit each batch checks whether anybody waits for it
//! ([`crate::pg::lock::is_own_transaction_awaited`]). If so, the next batches of all workers of the run are a quarter
//! as long, down to [`SHORT`], and then grow slowly. On a busy table their length thus becomes one at which hardly
//! anybody waits. Whether somebody waits is a matter of chance, and the probability grows with a batch's length. So
//! each wait counts for all workers, since their batches meet the same sessions.
//!
//! This alone doesn't keep the promise about waits: the first session that waits may have to do so for all of a long
//! batch.

use std::time::Duration;

/// An update that takes longer makes the next batches smaller, whatever the batch size: others may wait for the leaf,
/// for example to create a partition beside a default partition. They are promised less than a second.
pub const LONG: Duration = Duration::from_millis(500);

/// Batches that take less aren't made smaller, since nobody notices such a short wait, while each batch has a fixed
/// cost.
const SHORT: Duration = Duration::from_millis(20);

/// Rows of a worker's first batch, when nothing is known yet about the cost of a row with its triggers.
const FIRST: u32 = 100;

/// The pace of one worker.
pub struct Pace {
    rows: u32,
    /// The requested maximum.
    most: u32,
    /// The number of batches of the run for which somebody had waited, when this worker last checked.
    waited_for: u64,
    /// Somebody has waited, so batches grow slowly.
    careful: bool,
}

impl Pace {
    /// For a run with batches of at most `most` rows. If nothing is updated, all batches have that many.
    pub fn new(most: u32, updates: bool) -> Pace {
        Pace {
            rows: match updates {
                true => FIRST.min(most),
                false => most,
            },
            most,
            waited_for: 0,
            careful: false,
        }
    }

    /// The maximum number of rows of the next batch.
    pub fn rows(&self) -> u32 {
        self.rows
    }

    /// The next batch may write in vain.
    pub fn expect_little(&mut self) {
        self.rows = 1;
    }

    /// A batch with this number of rows took this long; `waited_for` is the number of batches of the run for which
    /// somebody has waited so far, including this one.
    pub fn adjust(&mut self, took: Duration, rows: u64, waited_for: u64) {
        let awaited = waited_for > self.waited_for;
        self.waited_for = waited_for;
        let full = rows >= u64::from(self.rows);
        if awaited {
            self.careful = true;
        }
        if awaited && took > SHORT {
            let short = rows as f64 * SHORT.as_secs_f64() / took.as_secs_f64();
            let quarter = self.rows / 4;
            self.rows = quarter.max(short as u32).clamp(1, self.rows);
        } else if took > LONG {
            self.rows = (self.rows / 2).max(1);
        } else if took >= LONG / 4 {
            // They have become as long as those of a run for which nobody waits.
            self.careful = false;
        } else if full && !awaited {
            let more = match self.careful {
                true => (self.rows / 8).max(1),
                false => self.rows,
            };
            self.rows = self.rows.saturating_add(more).min(self.most);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// A worker whose rows take 50 µs each, after its batches have reached their final size.
    fn at_final_size(most: u32) -> Pace {
        let mut pace = Pace::new(most, true);
        (0..20).for_each(|_| next(&mut pace, 0));
        pace
    }

    fn next(pace: &mut Pace, waited_for: u64) {
        let rows = pace.rows();
        pace.adjust(rows * MS / 20, u64::from(rows), waited_for);
    }

    #[test]
    fn batches_double_until_they_take_an_eighth_of_a_second() {
        assert_eq!(Pace::new(50, true).rows(), 50);
        assert_eq!(Pace::new(50_000, false).rows(), 50_000);
        assert_eq!(at_final_size(50_000).rows(), 3200);
        assert_eq!(at_final_size(1000).rows(), 1000);
    }

    #[test]
    fn a_long_batch_makes_the_next_ones_smaller() {
        let mut pace = at_final_size(50_000);
        pace.adjust(501 * MS, 3200, 0);
        assert_eq!(pace.rows(), 1600);
    }

    #[test]
    fn whoever_waits_makes_batches_short_and_they_grow_slowly() {
        let mut pace = at_final_size(50_000);
        let mut rows = Vec::new();
        for waited_for in [1, 2, 3, 3, 3, 4] {
            next(&mut pace, waited_for);
            rows.push(pace.rows());
        }
        assert_eq!(rows, [800, 400, 400, 450, 506, 400]);
        // It was a while ago: as before.
        let batches = (1..100).find(|_| {
            next(&mut pace, 4);
            pace.rows() > 2500
        });
        assert_eq!(batches, Some(16));
        next(&mut pace, 4);
        assert!(!pace.careful);
    }

    #[test]
    fn a_wait_for_another_worker_counts() {
        let mut pace = at_final_size(50_000);
        next(&mut pace, 7);
        assert_eq!(pace.rows(), 800);
        next(&mut pace, 7);
        assert_eq!(pace.rows(), 900);
    }

    #[test]
    fn short_batches_stay_as_they_are() {
        let mut pace = Pace::new(50_000, true);
        next(&mut pace, 1);
        assert_eq!(pace.rows(), 100);
        // It is the rest of a leaf.
        let mut pace = at_final_size(50_000);
        pace.adjust(MS, 3, 1);
        assert_eq!(pace.rows(), 3200);
        pace.adjust(100 * MS, 3, 2);
        assert_eq!(pace.rows(), 800);
    }

    #[test]
    fn there_is_always_a_row() {
        let mut pace = at_final_size(50_000);
        pace.expect_little();
        pace.adjust(1000 * MS, 1, 1);
        assert_eq!(pace.rows(), 1);
        pace.adjust(1000 * MS, 0, 1);
        assert_eq!(pace.rows(), 1);
    }
}
