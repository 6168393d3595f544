//! Has anybody else changed anything? Told by transaction ids.
//!
//! Whoever writes has a transaction id. A snapshot knows all that have been given out and are over: those before its
//! `xmax` that aren't among the running ones it lists. So the number of ids that are over ([`over`]), of two moments,
//! tells how many have come to their end between; less those of our own transactions ([`take_own`]) it is how many of
//! others. If it is none, nobody else has committed anything between the two, in this whole cluster, and nothing about
//! that depends on when a process publishes its counters.
//!
//! What is counted too little of our own (ids of subtransactions that were rolled back, or too many for PostgreSQL to
//! keep track of) only makes it look as if somebody else had been there.

use std::cell::Cell;

use pgrx::pg_sys;
use serde::{Deserialize, Serialize};

thread_local! {
    /// Ids of this process's transactions that are over.
    static OWN: Cell<u64> = const { Cell::new(0) };
}

/// How many ids the transaction has that is about to end: to be counted once it has ([`count`]).
pub fn own() -> u64 {
    // SAFETY: reads this process's own state, which is cleared with the transaction's end.
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

/// The ids counted since this was asked last.
pub fn take_own() -> u64 {
    OWN.replace(0)
}

/// How many ids are over as of the current transaction's snapshot: to be compared with another such number, see
/// [`since`]. None if that can't be told. Inside a transaction with a snapshot, and without an id of its own.
pub fn over() -> Option<u32> {
    // SAFETY: the active snapshot is valid as long as it is active, and its arrays have so many elements.
    unsafe {
        let snapshot = &*pg_sys::GetActiveSnapshot();
        let own = pg_sys::GetTopTransactionIdIfAny() != pg_sys::InvalidTransactionId;
        if snapshot.suboverflowed || snapshot.takenDuringRecovery || own {
            return None;
        }
        let xmax = snapshot.xmax.into_inner();
        // Of running transactions it may list subtransactions that have begun since.
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

/// A moment, by which row versions that are written later are told from those that were there.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub struct Horizon {
    /// The first id that hadn't been given out.
    next: u32,
    /// Ids before it whose transactions weren't over.
    running: Vec<u32>,
}

impl Horizon {
    /// That of the current transaction's snapshot; and whether all that is over at this moment lies before it. Inside a
    /// transaction with one.
    pub fn now() -> (Horizon, bool) {
        // SAFETY: the active snapshot is valid as long as it is active, and its arrays have so many elements.
        unsafe {
            let snapshot = &*pg_sys::GetActiveSnapshot();
            if snapshot.suboverflowed {
                // Not all are listed, but none that is over lies behind the first that isn't.
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
            // Else it is the snapshot with which the transaction began (IsolationUsesXactSnapshot in access/xact.h).
            let is_of_now = pg_sys::XactIsoLevel < pg_sys::XACT_REPEATABLE_READ as i32;
            (horizon, is_of_now)
        }
    }

    /// Has a row version been written after that moment, whose `xmin`, as it was written, is this? No id from `next` on has
    /// been given out. One that was frozen keeps its id: of 2^32 ids ago, which is taken for a later one if it happens to
    /// be among those that were given out since.
    pub fn is_before(&self, xmin: u32, next: u32) -> bool {
        xmin.wrapping_sub(self.next) < next.wrapping_sub(self.next) || self.running.contains(&xmin)
    }
}

/// The first id that hasn't been given out.
pub fn next() -> u32 {
    // SAFETY: reads shared memory.
    let next = unsafe { pg_sys::ReadNextFullTransactionId() };
    next.value as u32
}

/// How many ids have come to their end between two moments.
pub fn since(then: u32, now: u32) -> u64 {
    u64::from(now.wrapping_sub(then))
}

/// Of two ids, which are compared in a circle (`TransactionIdPrecedes` in access/transam/transam.c).
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
