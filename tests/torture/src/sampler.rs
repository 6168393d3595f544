//! What the backends of runs hold, looked at again and again from another session.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ntt_mime_integration::Session;

const EVERY: Duration = Duration::from_millis(15);

const BACKENDS: &str = "
    SELECT pid, coalesce(extract(epoch FROM clock_timestamp() - xact_start), 0)::float8,
           coalesce(xact_start::text, ''), coalesce(backend_xmin::text, '')
      FROM pg_stat_activity WHERE backend_type = 'ntt_mime worker' OR pid = $1";

/// Locks on the target and its leaves. A look at pg_locks takes its time, and a backend may end one transaction and begin
/// another meanwhile: only what one transaction holds is held at once.
const LOCKS: &str = "
    SELECT l.pid, l.virtualtransaction, l.mode, c.relkind = 'p', c.oid
      FROM pg_locks l JOIN pg_class c ON c.oid = l.relation JOIN pg_stat_activity a USING (pid)
     WHERE l.locktype = 'relation' AND l.granted AND (a.backend_type = 'ntt_mime worker' OR l.pid = $1)
       AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
       AND c.relkind IN ('r', 'p') AND c.relnamespace = 'public'::regnamespace AND c.relname LIKE 'inode%'";

#[derive(Default)]
pub struct Sampled {
    pub samples: usize,
    /// Samples of a backend that was updating a leaf.
    pub writing: usize,
    pub oldest_transaction: Duration,
    /// How long one backend has held back the horizon.
    pub oldest_xmin: Duration,
    /// Leaves that one transaction had locked.
    pub most_leaves: usize,
    pub leaf_modes: BTreeMap<String, usize>,
    pub parent_modes: BTreeMap<String, usize>,
    /// Samples of a backend that had the parent locked while it was updating a leaf.
    pub parent_while_writing: usize,
    /// Transactions in which that was seen.
    pub parent_while_writing_in: HashSet<String>,
}

#[derive(Default)]
struct Held {
    leaves: HashSet<u32>,
    parents: usize,
    writing: bool,
}

/// Looks until `done`, at the workers and at `leader`.
pub fn sample_until(done: &AtomicBool, mut s: Session, leader: i32) -> Sampled {
    let mut sampled = Sampled::default();
    // Since when a backend has shown the same transaction with the same xmin.
    let mut horizons: HashMap<i32, (String, Instant)> = HashMap::new();
    let backends = s.prepare(BACKENDS).expect("a query");
    let locks = s.prepare(LOCKS).expect("a query");
    while !done.load(Ordering::SeqCst) {
        let (mut now, mut transactions) = (HashMap::new(), HashMap::new());
        for row in s.query(&backends, &[&leader]).expect("reads") {
            let (pid, age): (i32, f64) = (row.get(0), row.get(1));
            let (transaction, xmin): (String, String) = (row.get(2), row.get(3));
            sampled.oldest_transaction = sampled
                .oldest_transaction
                .max(Duration::try_from_secs_f64(age).unwrap_or_default());
            transactions.insert(pid, format!("{pid} {transaction}"));
            if xmin.is_empty() {
                continue;
            }
            let state = transaction + &xmin;
            let since = match horizons.remove(&pid) {
                Some((known, since)) if known == state => since,
                _ => Instant::now(),
            };
            sampled.oldest_xmin = sampled.oldest_xmin.max(since.elapsed());
            now.insert(pid, (state, since));
        }
        horizons = now;
        let mut held: HashMap<(i32, String), Held> = HashMap::new();
        for row in s.query(&locks, &[&leader]).expect("reads") {
            let (holder, mode): (_, String) = ((row.get(0), row.get(1)), row.get(2));
            let (parent, table): (bool, u32) = (row.get(3), row.get(4));
            let held = held.entry(holder).or_default();
            if parent {
                held.parents += 1;
                *sampled.parent_modes.entry(mode).or_default() += 1;
            } else {
                held.leaves.insert(table);
                held.writing |= mode == "RowExclusiveLock";
                *sampled.leaf_modes.entry(mode).or_default() += 1;
            }
        }
        for ((pid, _), held) in &held {
            sampled.writing += usize::from(held.writing);
            sampled.most_leaves = sampled.most_leaves.max(held.leaves.len());
            if held.writing && held.parents > 0 {
                sampled.parent_while_writing += 1;
                sampled
                    .parent_while_writing_in
                    .extend(transactions.get(pid).cloned());
            }
        }
        sampled.samples += 1;
        std::thread::sleep(EVERY);
    }
    sampled
}
