//! What workers count, in shared memory, and where the run's row shows it: one list, from which the rest follows.
//!
//! In the row, a counter is the column or the key in `options` with its name. Times are counted in microseconds, and the
//! row has milliseconds: `scan_us` becomes the column `scan_ms`.

use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::Value;

use super::sample::Sums;

/// Where the run's row has the sum of a counter.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum In {
    Column,
    Options,
    /// Nowhere, at least not by itself.
    Nothing,
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident: $place:ident),* $(,)?) => {
        /// What a worker counts. Only it adds; anybody may read.
        #[repr(C)]
        #[derive(Default)]
        pub struct Counters { $($(#[$doc])* pub $name: AtomicU64,)* }

        /// The sum of all workers' counters.
        #[derive(Default, Clone, Debug)]
        pub struct Totals { $($(#[$doc])* pub $name: u64,)* }

        impl Totals {
            pub fn add(&mut self, counters: &Counters) {
                $(self.$name += counters.$name.load(Ordering::Relaxed);)*
            }

            /// The sums that belong there, as JSON.
            pub fn of(&self, place: In) -> impl Iterator<Item = (String, Value)> {
                let all = [$((stringify!($name), In::$place, self.$name)),*];
                let there = all.into_iter().filter(move |(_, of, _)| *of == place);
                there.map(|(name, _, sum)| match name.strip_suffix("_us") {
                    Some(name) => (format!("{name}_ms"), Value::from(sum as f64 / 1000.0)),
                    None => (name.to_owned(), Value::from(sum)),
                })
            }
        }
    };
}

counters! {
    /// Pending rows read.
    rows_scanned: Column,
    /// Rows filled.
    rows_updated: Column,
    /// Pending rows that the update skipped because others had changed or locked them.
    rows_retried: Column,
    /// Files read.
    detections: Column,
    /// Distinct blobs of a batch whose type the run knew already.
    cache_hits: Column,
    /// Distinct blobs that could not be detected.
    failures: Column,
    /// Among these, blobs that could be detected, but whose type is too long for the column.
    too_long: Nothing,
    bytes_read: Column,
    /// Looks for which the prefilter made libmagic, or most of its rules, unnecessary.
    prefiltered: Options,
    /// Looks with all rules because the prefilter could not decide.
    prefilter_fallbacks: Options,
    /// Blobs that were judged a second time, from the whole file and with all rules.
    audited: Options,
    /// Among these, blobs that had another type the second time.
    audit_differences: Options,
    /// Only in a verification: rows whose type was compared with that of their blob; among these, rows with another type,
    /// and rows with the same type in another spelling.
    rows_checked: Nothing,
    rows_different: Nothing,
    rows_spelled_otherwise: Nothing,
    /// Only for a sample: its blocks, and all blocks of the leaves that were read; sums over its blocks, see [`Sums`].
    sample_blocks: Nothing,
    sample_of_blocks: Nothing,
    sample_rows_squared: Nothing,
    sample_different_squared: Nothing,
    sample_product: Nothing,
    scan_us: Column,
    read_us: Column,
    detect_us: Column,
    update_us: Column,
    commit_us: Column,
    /// Batches for which another session waited when they were about to be committed.
    waited_for: Options,
    /// The worker's transaction ids that have ended, as of the end of its pass.
    transaction_ids: Nothing,
    /// Time of waiting for other workers, for the leader, or between batches.
    idle_us: Options,
    /// Among this, time in which the worker rested because other sessions were at work.
    rested_us: Options,
    /// All of the worker's time since it connected: the times above, and little else.
    worker_us: Options,
}

impl Counters {
    /// The counters of a verification's sums, each with its value.
    pub fn of_sums(&self, sums: Sums) -> impl Iterator<Item = (&AtomicU64, u64)> {
        [
            (&self.rows_checked, sums.rows),
            (&self.rows_different, sums.different),
            (&self.sample_blocks, sums.blocks),
            (&self.sample_of_blocks, sums.of_blocks),
            (&self.sample_rows_squared, sums.rows_squared),
            (&self.sample_different_squared, sums.different_squared),
            (&self.sample_product, sums.product),
        ]
        .into_iter()
    }
}

/// Adds to a counter.
pub fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Ordering::Relaxed);
}

/// Takes back what has been added to a counter.
pub fn take_back(counter: &AtomicU64, amount: u64) {
    counter.fetch_sub(amount, Ordering::Relaxed);
}

/// Adds a time to a counter of microseconds.
pub fn add_time(counter: &AtomicU64, time: std::time::Duration) {
    add(counter, time.as_micros() as u64);
}
