//! Tells by transaction ids whether anybody else has changed anything.
//!
//! Every transaction that writes has an id. A snapshot shows which of the assigned ids have ended: those before its
//! `xmax` that aren't in its list of running ones. So the difference between the numbers of ended ids ([`over`]) at
//! two moments is the number of transactions that ended in between. Without our own ([`take_own`]) it is the number
//! of others. If that is zero, nobody else in the whole cluster has committed anything in between, and this doesn't
//! depend on when a process publishes its counters.
//!
//! If too few of our own are counted (ids of subtransactions that were rolled back, or more than PostgreSQL can keep
//! track of), it merely looks as if somebody else had changed something.

use std::cell::Cell;

use pgrx::pg_sys;
use serde::{Deserialize, Serialize};

thread_local! {
    /// Ids of transactions of this process that have ended.
    static OWN: Cell<u64> = const { Cell::new(0) };
}

/// The number of ids of the transaction that is about to end, to be passed to [`count`] once it has ended.
pub fn own() -> u64 {
    // SAFETY: reads this process's own state, which is cleared when the transaction ends.
    unsafe {
        let top = pg_sys::GetTopTransactionIdIfAny() != pg_sys::InvalidTransactionId;
        match pg_sys::MyProc.as_ref() {
            Some(process) if top => 1 + u64::from(process.subxidStatus.count),
            _ => 0,
        }
    }
}

/// Counts ids of a transaction of this process that has ended.
pub fn count(ids: u64) {
    OWN.set(OWN.get() + ids);
}

/// Returns the number of ids counted since the last call.
pub fn take_own() -> u64 {
    OWN.replace(0)
}

/// The number of ids that have ended as of the current transaction's snapshot, to be compared with another such
/// number by [`since`]. None if that can't be known. Must be called inside a transaction with a snapshot and without
/// an id of its own.
pub fn over() -> Option<u32> {
    // SAFETY: the active snapshot is valid as long as it is active, and its arrays have the given number of elements.
    unsafe {
        let snapshot = &*pg_sys::GetActiveSnapshot();
        let own = pg_sys::GetTopTransactionIdIfAny() != pg_sys::InvalidTransactionId;
        if snapshot.suboverflowed || snapshot.takenDuringRecovery || own {
            return None;
        }
        let xmax = snapshot.xmax.into_inner();
        // For a running transaction, the list may include subtransactions that began later.
        let running = |ids: *mut pg_sys::TransactionId, count: usize| {
            (0..count)
                .filter(|i| precedes((*ids.add(*i)).into_inner(), xmax))
                .count() as u32
        };
        let running = running(snapshot.xip, snapshot.xcnt as usize)
            + running(snapshot.subxip, snapshot.subxcnt as usize);
        Some(xmax.wrapping_sub(running))
    }
}

/// A moment, which separates row versions that existed from those written later.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub struct Horizon {
    /// The first id that had not been assigned.
    next: u32,
    /// Ids before it whose transactions had not ended.
    running: Vec<u32>,
}

impl Horizon {
    /// The horizon of the current transaction's snapshot, and whether everything that has ended by now lies before
    /// it. Must be called inside a transaction with a snapshot.
    pub fn now() -> (Horizon, bool) {
        // SAFETY: the active snapshot is valid as long as it is active, and its arrays have the given number of
        // elements.
        unsafe {
            let snapshot = &*pg_sys::GetActiveSnapshot();
            if snapshot.suboverflowed {
                // Not all are listed, but none that has ended lies after the first that hasn't.
                let horizon = Horizon {
                    next: snapshot.xmin.into_inner(),
                    running: Vec::new(),
                };
                return (horizon, false);
            }
            let ids = |ids: *mut pg_sys::TransactionId, count: usize| {
                (0..count).map(move |i| (*ids.add(i)).into_inner())
            };
            let running = ids(snapshot.xip, snapshot.xcnt as usize);
            let horizon = Horizon {
                next: snapshot.xmax.into_inner(),
                running: running
                    .chain(ids(snapshot.subxip, snapshot.subxcnt as usize))
                    .collect(),
            };
            // Otherwise it is the snapshot with which the transaction began (IsolationUsesXactSnapshot in
            // access/xact.h).
            let is_of_now = pg_sys::XactIsoLevel < pg_sys::XACT_REPEATABLE_READ as i32;
            (horizon, is_of_now)
        }
    }

    /// Whether a row version with this `xmin` was written after that moment. No id from `next` on has been assigned.
    /// A frozen version keeps its id: if that was assigned 2^32 ids ago, and again after the moment, the version is
    /// taken for one that was written later.
    pub fn is_before(&self, xmin: u32, next: u32) -> bool {
        xmin.wrapping_sub(self.next) < next.wrapping_sub(self.next) || self.running.contains(&xmin)
    }
}

/// The first id that hasn't been assigned.
pub fn next() -> u32 {
    // SAFETY: reads shared memory.
    let next = unsafe { pg_sys::ReadNextFullTransactionId() };
    next.value as u32
}

/// The number of ids that ended between two moments.
pub fn since(then: u32, now: u32) -> u64 {
    u64::from(now.wrapping_sub(then))
}

/// Compares two ids, which wrap around (`TransactionIdPrecedes` in access/transam/transam.c).
fn precedes(one: u32, other: u32) -> bool {
    (one.wrapping_sub(other) as i32) < 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_go_round() {
        assert!(precedes(5, 6) && !precedes(6, 6) && !precedes(7, 6));
        assert!(precedes(u32::MAX - 2, 10));
        assert_eq!(since(u32::MAX - 2, 10), 13);
    }

    #[test]
    fn versions_are_later_by_who_wrote_them() {
        let horizon = Horizon {
            next: u32::MAX - 1,
            running: vec![u32::MAX - 10],
        };
        for (xmin, later) in [
            (u32::MAX - 2, false),
            (u32::MAX - 10, true),
            (u32::MAX - 1, true),
            (3, true),
            (9, true),
            (10, false),
            (1_000_000, false),
        ] {
            assert_eq!(horizon.is_before(xmin, 10), later, "{xmin}");
        }
    }
}
