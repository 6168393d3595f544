//! What workers count, in shared memory, and where it stands in the run's row: one list, from which the rest follows.
//!
//! A counter that stands in the row is the column, or the key in `options`, of its name. Times are counted in microseconds
//! and stand there in milliseconds: `scan_us` is the column `scan_ms`.

use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::Value;

use super::sample::Sums;

/// Where the sum of a counter stands in the run's row.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum In {
    Column,
    Options,
    /// Not there by itself.
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

            /// Those that stand there, as JSON.
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
    /// Pending rows that the update passed by, since others had changed or locked them.
    rows_retried: Column,
    /// Files read.
    detections: Column,
    /// Distinct blobs of a batch that the run knew already.
    cache_hits: Column,
    /// Distinct blobs that could not be detected.
    failures: Column,
    /// Of these, blobs that could, but whose type is too long for the column.
    too_long: Nothing,
    bytes_read: Column,
    /// Looks that the prefilter has spared libmagic, all of it or most of its rules.
    prefiltered: Options,
    /// Looks with all rules since it wasn't sure.
    prefilter_fallbacks: Options,
    /// Blobs judged again from all of them and with all rules.
    audited: Options,
    /// Of these, those that had another type then.
    audit_differences: Options,
    /// Of a verification: rows whose type was compared with that of their blob; of these, those that have another type, and
    /// those that have the same, spelled otherwise.
    rows_checked: Nothing,
    rows_different: Nothing,
    rows_spelled_otherwise: Nothing,
    /// Of a sample: blocks in it, and all blocks of what was looked at; sums over its blocks, see [`Sums`].
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
    /// Batches that somebody waited for when they were about to be committed.
    waited_for: Options,
    /// Transaction ids of the worker that are over, as of the end of its pass.
    transaction_ids: Nothing,
    /// Waiting for other workers, for the leader, or between batches.
    idle_us: Options,
    /// All of the worker's time, from when it is connected: the times above, and little else.
    worker_us: Options,
}

impl Counters {
    /// Those of a verification's sums, each with its number.
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
