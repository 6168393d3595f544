//! What the leader knows of the leaves, and which of them are to be looked at again.
//!
//! Each pass tells how the leaves stand that it has looked at. A leaf comes again for a reason, and each reason has a
//! bound of its own, so that a run ends whatever others do:
//!
//! - Others' locks kept us out of it or of some of its rows: [`LOCKED_LOOKS`].
//! - It was given another file while it was worked on. It begins anew there, which repeats little, since the rows that
//!   are filled are only read again: as long as the run gets on it comes again, [`REWRITTEN_LOOKS`] times at most. So a
//!   table that is rewritten again and again is filled in pieces.
//!
//! One that has raised an error of its own doesn't come again. What isn't done with then is told in a WARNING, or by the
//! run's own error.

use std::collections::HashMap;

use ntt_mime_core::board::LeafState;

/// How often a leaf is looked at while others' locks, or changes of its rows, prevent that all are filled.
const LOCKED_LOOKS: u8 = 3;

/// How often a leaf is looked at that is given another file each time, if the run fills rows meanwhile; otherwise as
/// often as one that is locked.
const REWRITTEN_LOOKS: u8 = 20;

/// What is known of a leaf.
#[derive(Default, Clone, Copy)]
pub(super) struct Seen {
    pub state: LeafState,
    /// Looks that ended with a lock in the way.
    locked: u8,
    /// Looks that ended with another file.
    rewritten: u8,
}

/// Why a leaf isn't done with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Unfinished {
    /// The run has ended before.
    NotLookedAt,
    Locked,
    Rewritten,
    /// It has raised an error of its own.
    SetAside,
}

impl Seen {
    pub fn unfinished(&self) -> Option<Unfinished> {
        match self.state {
            state if state.gone => None,
            state if state.set_aside => Some(Unfinished::SetAside),
            state if state.locked => Some(Unfinished::Locked),
            state if state.rewritten => Some(Unfinished::Rewritten),
            state if !state.done => Some(Unfinished::NotLookedAt),
            _ => None,
        }
    }

    /// After a pass: is another look of use? `got_on`: the pass has filled rows.
    fn comes_again(&self, got_on: bool) -> bool {
        let state = self.state;
        let rewritten_looks = match got_on {
            true => REWRITTEN_LOOKS,
            false => LOCKED_LOOKS,
        };
        !state.gone
            && !state.set_aside
            && ((state.locked || state.missed) && self.locked < LOCKED_LOOKS
                || state.rewritten && self.rewritten < rewritten_looks)
    }
}

/// The leaves of a run, by their oids.
#[derive(Default)]
pub(super) struct Leaves(HashMap<u32, Seen>);

impl Leaves {
    /// Leaves that a pass is to look at.
    pub fn expect(&mut self, oids: impl Iterator<Item = u32>) {
        for oid in oids {
            self.0.entry(oid).or_default();
        }
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_known(&self, oid: u32) -> bool {
        self.0.contains_key(&oid)
    }

    /// Has it raised an error of its own?
    pub fn is_set_aside(&self, oid: u32) -> bool {
        self.0.get(&oid).is_some_and(|seen| seen.state.set_aside)
    }

    /// Is the run done with it, so that nothing is known against it? None if it isn't known, or has gone.
    pub fn is_done_with(&self, oid: u32) -> Option<bool> {
        let there = self.0.get(&oid).filter(|seen| !seen.state.gone);
        there.map(|seen| seen.unfinished().is_none())
    }

    /// Takes over how leaves stand in a pass that goes on, or has ended.
    pub fn update(&mut self, states: impl Iterator<Item = LeafState>) {
        for state in states {
            self.0.entry(state.oid).or_default().state = state;
        }
    }

    /// The same at the end of a pass; the leaves of it that come again. Once a pass.
    pub fn end_pass(&mut self, states: impl Iterator<Item = LeafState>, got_on: bool) -> Vec<u32> {
        let mut again = Vec::new();
        for state in states {
            let seen = self.0.entry(state.oid).or_default();
            seen.state = state;
            seen.locked += u8::from(state.locked || state.missed);
            seen.rewritten += u8::from(state.rewritten);
            if seen.comes_again(got_on) {
                again.push(state.oid);
            }
        }
        again
    }

    /// Rows known to be pending in all of them; None if not all have been read.
    pub fn rows_left(&self) -> Option<u64> {
        let still_there = || self.0.values().filter(|seen| !seen.state.gone);
        let all_read = !still_there().any(|seen| seen.state.unseen);
        all_read.then(|| still_there().map(|seen| seen.state.rows_left).sum())
    }

    /// How many aren't done with.
    pub fn count_unfinished(&self) -> usize {
        let seen = self.0.values();
        seen.filter(|seen| seen.unfinished().is_some()).count()
    }

    /// Those that aren't done with for a reason, the oldest first.
    pub fn unfinished(&self, why: Unfinished) -> Vec<u32> {
        let of_them = |(_, seen): &(&u32, &Seen)| seen.unfinished() == Some(why);
        let mut oids: Vec<u32> = self.0.iter().filter(of_them).map(|(oid, _)| *oid).collect();
        oids.sort_unstable();
        oids
    }

    /// Those with rows that are pending although they have been updated, and how many.
    pub fn kept_pending(&self) -> Vec<(u32, u64)> {
        let kept = |(oid, seen): (&u32, &Seen)| {
            let rows = seen.state.rows_kept;
            (!seen.state.gone && rows > 0).then_some((*oid, rows))
        };
        self.0.iter().filter_map(kept).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLEAN: LeafState = LeafState {
        oid: 7,
        done: true,
        missed: false,
        locked: false,
        gone: false,
        unseen: false,
        rewritten: false,
        set_aside: false,
        rows_left: 2,
        rows_kept: 0,
    };

    fn looks(state: LeafState, got_on: bool) -> usize {
        let mut leaves = Leaves::default();
        leaves.expect([7].into_iter());
        let again = || leaves.end_pass([state].into_iter(), got_on);
        1 + std::iter::repeat_with(again)
            .take(100)
            .take_while(|again| *again == [7])
            .count()
    }

    #[test]
    fn each_reason_to_look_again_has_a_bound() {
        let locked = LeafState {
            locked: true,
            unseen: true,
            ..CLEAN
        };
        let rewritten = LeafState {
            rewritten: true,
            unseen: true,
            ..CLEAN
        };
        let gone = LeafState {
            gone: true,
            ..rewritten
        };
        assert_eq!(looks(CLEAN, true), 1);
        assert_eq!(looks(locked, true), 3);
        assert_eq!(looks(rewritten, true), 20);
        assert_eq!(looks(rewritten, false), 3);
        assert_eq!(looks(gone, true), 1);
        let set_aside = LeafState {
            set_aside: true,
            missed: true,
            ..locked
        };
        assert_eq!(looks(set_aside, true), 1);
    }

    #[test]
    fn what_was_not_read_leaves_the_rest_unknown() {
        let mut leaves = Leaves::default();
        let unseen = LeafState {
            oid: 8,
            rewritten: true,
            unseen: true,
            ..CLEAN
        };
        leaves.end_pass([CLEAN, unseen].into_iter(), true);
        assert_eq!(leaves.rows_left(), None);
        assert_eq!(leaves.unfinished(Unfinished::Rewritten), [8]);
        assert!(leaves.unfinished(Unfinished::Locked).is_empty());
        let again = LeafState { oid: 8, ..CLEAN };
        leaves.end_pass([again].into_iter(), true);
        assert_eq!(leaves.rows_left(), Some(4));
        let gone = LeafState {
            gone: true,
            unseen: true,
            ..again
        };
        leaves.end_pass([gone].into_iter(), true);
        assert_eq!(leaves.rows_left(), Some(2));
        assert_eq!(leaves.count_unfinished(), 0);
    }
}
