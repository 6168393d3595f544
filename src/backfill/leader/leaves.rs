//! What the leader knows about the leaves, and which of them have to be read again.
//!
//! Each pass reports the state of the leaves that it has read. A leaf is read again for a reason, and each reason has
//! its own bound, so that a run ends whatever others do:
//!
//! - Others' locks prevented reading it or some of its rows: [`LOCKED_LOOKS`].
//! - It got another file while it was being worked on. It is then read from the beginning, which repeats little,
//!   since rows that are filled are only read. As long as the run makes progress it is read again, at most
//!   [`REWRITTEN_LOOKS`] times. So a table that is rewritten again and again is filled in pieces.
//! - Others have changed it since, or created it: see [`Leaves::compare`]. The number of passes for that reason is
//!   bounded as well.
//!
//! A leaf that has raised an error of its own isn't read again. A WARNING, or the run's own error, names the leaves
//! that are not finished then, and the number of rows left is unknown.

use std::collections::HashMap;
use std::time::Duration;

use ntt_mime_core::task_queue::LeafState;

use crate::backfill::marks::Done;
use crate::backfill::target::{ListedLeaf, Unchanged};
use crate::pg::stats::Counted;

/// How often a leaf is read while others' locks, or their changes to its rows, prevent filling all rows.
const LOCKED_LOOKS: u8 = 3;

/// How often a leaf is read that gets another file each time, if the run fills rows meanwhile; and how often in
/// succession if it doesn't.
const REWRITTEN_LOOKS: u8 = 20;
const REWRITTEN_IN_VAIN: u8 = 3;

/// The time for a leaf in which nothing is pending, and for each of its blocks: measured, with a reserve. It is less
/// with several workers.
const TIME_PER_LEAF: Duration = Duration::from_micros(100);
pub(super) const TIME_PER_BLOCK: Duration = Duration::from_micros(50);

/// The time for a block in a verification: the blobs of some sixty rows have to be detected.
pub(super) const TIME_TO_VERIFY_BLOCK: Duration = Duration::from_millis(4);

/// The time that one worker would need for so many leaves with so many blocks in all.
pub(super) fn time_to_look(leaves: u64, blocks: u64, per_block: Duration) -> Duration {
    TIME_PER_LEAF.mul_f64(leaves as f64) + per_block.mul_f64(blocks as f64)
}

/// What is known about a leaf.
#[derive(Default, Clone)]
struct Seen {
    state: LeafState,
    /// An earlier run has left a mark for it; and what the mark says, if the leaf seemed unchanged when it was
    /// listed.
    marked: bool,
    unchanged: Option<Unchanged>,
    /// Rows were found pending that its mark doesn't know of, and no writes had been counted: the number of rows
    /// written that had been counted.
    unknown_found: Option<u64>,
    /// Rows that the run has written in it in all passes, and in those before the current one.
    own: u64,
    own_before: u64,
    /// In a verification: its file when the run began, and what had been counted by then.
    at_first: Option<(u64, Counted)>,
    listed_file: u64,
    /// The blobs, as of the last time it was read, whose rows stay pending because they could not be detected.
    undetected: Vec<String>,
    /// How often reading it ended with a lock in the way.
    locked: u8,
    /// How often reading it ended with another file, and how many of the last of these filled nothing.
    rewritten: u8,
    in_vain: u8,
    /// The last pass showed that it has to be read again.
    again: bool,
    /// Others have changed it since it was read.
    changed: bool,
}

/// Why a leaf isn't finished.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Unfinished {
    Locked,
    Rewritten,
    /// It has raised an error of its own.
    SetAside,
    Changed,
    /// It came too late, or the run ended before.
    NotLookedAt,
}

impl Seen {
    fn new(listed: &ListedLeaf) -> Seen {
        Seen {
            state: LeafState {
                oid: listed.oid,
                ..LeafState::default()
            },
            marked: listed.marked,
            unchanged: listed.unchanged,
            listed_file: listed.file,
            ..Seen::default()
        }
    }

    /// Whether the run has opened it.
    fn was_opened(&self) -> bool {
        self.state.file != 0
    }

    fn unfinished(&self) -> Option<Unfinished> {
        match self.state {
            state if state.gone => None,
            state if state.set_aside => Some(Unfinished::SetAside),
            state if state.locked => Some(Unfinished::Locked),
            state if state.rewritten => Some(Unfinished::Rewritten),
            state if !(state.done || self.marked && self.changed) => Some(Unfinished::NotLookedAt),
            _ if self.changed => Some(Unfinished::Changed),
            _ => None,
        }
    }

    /// Stores its state after a pass. `got_on` means that the pass has filled rows.
    fn end_pass(&mut self, state: LeafState, got_on: bool) {
        if let Some(unchanged) = self.unchanged.take() {
            let counted = state.written - state.own;
            let unknown = state.rows_found > unchanged.rows_left && counted == unchanged.written;
            self.unknown_found = unknown.then_some(counted);
        }
        self.update(state);
        self.changed = false;
        self.locked += u8::from(state.locked || state.missed);
        self.rewritten += u8::from(state.rewritten);
        self.in_vain = match state.rewritten && !got_on {
            true => self.in_vain + 1,
            false => 0,
        };
        let rewritten_too_often =
            self.rewritten >= REWRITTEN_LOOKS || self.in_vain >= REWRITTEN_IN_VAIN;
        self.again = !state.gone
            && !state.set_aside
            && ((state.locked || state.missed) && self.locked < LOCKED_LOOKS
                || state.rewritten && !rewritten_too_often);
    }

    /// Stores its state in the current pass.
    fn update(&mut self, state: LeafState) {
        self.state = state;
        self.own = self.own_before + state.own;
    }

    /// What its mark says: in a verification, what had been counted when the run began, and the leaf's file at that
    /// time.
    fn as_marked(&self) -> Option<LeafState> {
        let Some((file, counted)) = self.at_first else {
            return Some(self.state);
        };
        (self.state.file == file).then_some(LeafState {
            written: counted.written + self.own,
            deleted: counted.deleted,
            ..self.state
        })
    }

    /// Compares with what is listed and counted now. If rows are pending, it also matters whether rows have been
    /// deleted: they may have moved to another leaf.
    fn is_as_left(&self, listed: &ListedLeaf, counted: Counted) -> bool {
        let state = self.state;
        state.done
            && state.file == listed.file
            && state.written == counted.written
            && (state.rows_left == 0 || state.deleted == counted.deleted)
    }
}

impl Seen {
    /// Its mark, if everything for it is known and nothing has changed since.
    fn mark(&self, counted: Counted) -> Option<LeafState> {
        let state = self.as_marked()?;
        let seen = state.done && self.was_opened() && self.unfinished().is_none() && !state.gone;
        let nothing_missed = !state.missed && !state.unseen && !state.unsure;
        let told_by_blobids = state.rows_left == 0 || !self.undetected.is_empty();
        let sure = seen
            && nothing_missed
            && state.rows_kept == 0
            && told_by_blobids
            && state.written == counted.written
            && (state.rows_left == 0 || state.deleted == counted.deleted);
        sure.then_some(state)
    }
}

/// The leaves of a run, in the order of their OIDs.
#[derive(Default)]
pub(super) struct Leaves(Vec<Seen>);

impl Leaves {
    fn find(&self, oid: u32) -> Option<usize> {
        let found = self.0.binary_search_by_key(&oid, |seen| seen.state.oid);
        found.ok()
    }

    /// Adds leaves that are new to the run, in any order.
    fn add(&mut self, new: Vec<Seen>) {
        if !new.is_empty() {
            self.0.extend(new);
            self.0.sort_unstable_by_key(|seen| seen.state.oid);
        }
    }

    /// The leaves that exist when the run begins.
    pub fn begin(&mut self, listed: &[ListedLeaf]) {
        self.add(listed.iter().map(Seen::new).collect());
    }

    /// Stores what has been counted for each leaf when a verification begins.
    pub fn count(&mut self, counted: impl Fn(u32) -> Counted) {
        for seen in &mut self.0 {
            seen.at_first = Some((seen.listed_file, counted(seen.state.oid)));
        }
    }

    /// Another pass is about to be opened.
    pub fn begin_pass(&mut self) {
        for seen in &mut self.0 {
            seen.own_before = seen.own;
        }
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether the run has finished it. None if it is unknown, or no longer exists.
    pub fn is_done_with(&self, oid: u32) -> Option<bool> {
        let seen = self.find(oid).map(|at| &self.0[at]);
        let there = seen.filter(|seen| !seen.state.gone);
        there.map(|seen| seen.unfinished().is_none())
    }

    /// Stores the states of leaves in a pass that goes on, or has ended.
    pub fn update(&mut self, states: impl Iterator<Item = LeafState>) {
        for state in states {
            if let Some(at) = self.find(state.oid) {
                let gone = self.0[at].state.gone;
                self.0[at].update(state);
                self.0[at].state.gone |= gone;
            }
        }
    }

    /// Stores the blobs whose rows stay pending, for leaves of a pass.
    pub fn take_undetected(
        &mut self,
        leaves: impl Iterator<Item = u32>,
        mut blobids: HashMap<u32, Vec<String>>,
    ) {
        for oid in leaves {
            if let Some(at) = self.find(oid) {
                self.0[at].undetected = blobids.remove(&oid).unwrap_or_default();
            }
        }
    }

    /// The same at the end of a pass, once in each pass. `got_on` means that it has filled rows.
    pub fn end_pass(&mut self, states: impl Iterator<Item = LeafState>, got_on: bool) {
        self.0.iter_mut().for_each(|seen| seen.again = false);
        for state in states {
            if let Some(at) = self.find(state.oid) {
                self.0[at].end_pass(state, got_on);
            }
        }
    }

    /// Compares what is known about the leaves with those that are listed now, and with what has been counted for
    /// each: some are new, some no longer exist, and some have been changed since they were read.
    pub fn compare(&mut self, listed: &[ListedLeaf], counted: impl Fn(u32) -> Counted) {
        let mut still_there = vec![false; self.0.len()];
        let mut new = Vec::new();
        for leaf in listed {
            let Some(at) = self.find(leaf.oid) else {
                new.push(Seen {
                    changed: true,
                    ..Seen::new(leaf)
                });
                continue;
            };
            still_there[at] = true;
            let seen = &mut self.0[at];
            // A leaf that was gone has come back. One that could not be read is known not to be finished.
            seen.changed =
                seen.state.gone || !seen.state.unseen && !seen.is_as_left(leaf, counted(leaf.oid));
            seen.state.gone = false;
        }
        for (seen, still_there) in self.0.iter_mut().zip(still_there) {
            if !still_there {
                seen.state.gone = true;
            }
        }
        self.add(new);
    }

    /// Whether any leaf has to be read again because of what the last pass found there.
    pub fn any_comes_again(&self) -> bool {
        self.0.iter().any(|seen| seen.again)
    }

    /// Whether a leaf has to be read again because of what the last pass found there.
    pub fn comes_again(&self, oid: u32) -> bool {
        self.find(oid).is_some_and(|at| self.0[at].again)
    }

    /// Whether it has been tried often enough without being finished.
    pub fn is_given_up(&self, oid: u32) -> bool {
        let given_up = |seen: &Seen| seen.state.unseen && !seen.again;
        self.find(oid).is_some_and(|at| given_up(&self.0[at]))
    }

    /// Whether others have changed it since it was read.
    pub fn has_changed(&self, oid: u32) -> bool {
        self.find(oid).is_some_and(|at| self.0[at].changed)
    }

    /// The number of blocks that a leaf had when it was read; None if it hasn't been.
    pub fn blocks(&self, oid: u32) -> Option<u32> {
        let seen = self.find(oid).map(|at| self.0[at].state);
        seen.filter(|state| state.file != 0)
            .map(|state| state.blocks)
    }

    /// The time that one worker would need to read all of them once more.
    pub fn time_to_look(&self) -> Duration {
        let still_there = self.0.iter().filter(|seen| !seen.state.gone);
        let (leaves, blocks) = still_there.fold((0, 0), |(leaves, blocks), seen| {
            (leaves + 1, blocks + u64::from(seen.state.blocks))
        });
        time_to_look(leaves, blocks, TIME_PER_BLOCK)
    }

    /// The number of rows pending in all of them; None if not all are known.
    pub fn rows_left(&self) -> Option<u64> {
        let still_there = || self.0.iter().filter(|seen| !seen.state.gone);
        let known = |seen: &Seen| seen.state.done && !seen.state.unseen && !seen.changed;
        still_there()
            .all(known)
            .then(|| still_there().map(|seen| seen.state.rows_left).sum())
    }

    /// Whether others' locks have kept the run out of all of them.
    pub fn all_locked(&self) -> bool {
        let mut still_there = self.0.iter().filter(|seen| !seen.state.gone).peekable();
        still_there.peek().is_some()
            && still_there.all(|seen| seen.state.locked && seen.state.unseen)
    }

    /// The leaves for which it is known what is pending in them, given what has been counted: what the run has left,
    /// and what this process has not published yet, but which the run has seen. And the leaves that it has read for
    /// which that isn't known.
    pub fn to_be_marked(
        &self,
        counted: impl Fn(u32) -> Counted,
        unpublished: impl Fn(u32) -> Counted,
    ) -> (Vec<Done<'_>>, Vec<u32>) {
        let (mut done, mut without) = (Vec::new(), Vec::new());
        for seen in self.0.iter().filter(|seen| !seen.state.gone) {
            let oid = seen.state.oid;
            if let Some(mut state) = seen.mark(counted(oid)) {
                let here = unpublished(oid);
                state.written += here.written;
                state.deleted += here.deleted;
                done.push(Done {
                    state,
                    blobids: &seen.undetected,
                });
            } else if seen.marked && (seen.was_opened() || seen.state.set_aside) {
                without.push(oid);
            }
        }
        (done, without)
    }

    /// The leaves in which rows were pending that their marks didn't know of, although nobody but the run has written
    /// to them, as far as has been counted by now.
    pub fn with_wrong_marks(&self, counted: impl Fn(u32) -> Counted) -> Vec<u32> {
        let wrong = |seen: &&Seen| {
            let unexplained = |before| counted(seen.state.oid).written == before + seen.own;
            !seen.state.gone && seen.unknown_found.is_some_and(unexplained)
        };
        self.0
            .iter()
            .filter(wrong)
            .map(|seen| seen.state.oid)
            .collect()
    }

    /// The blobs that could not be detected and whose rows stay pending.
    pub fn undetected(&self) -> impl Iterator<Item = &str> {
        self.0
            .iter()
            .flat_map(|seen| seen.undetected.iter().map(String::as_str))
    }

    /// All known leaves.
    pub fn oids(&self) -> Vec<u32> {
        self.0.iter().map(|seen| seen.state.oid).collect()
    }

    /// The number of leaves that aren't finished.
    pub fn count_unfinished(&self) -> usize {
        let unfinished = |seen: &&Seen| seen.unfinished().is_some();
        self.0.iter().filter(unfinished).count()
    }

    /// The leaves that aren't finished for a given reason, the oldest first.
    pub fn unfinished(&self, why: Unfinished) -> Vec<u32> {
        let of_them = self.0.iter().filter(|seen| seen.unfinished() == Some(why));
        of_them.map(|seen| seen.state.oid).collect()
    }

    /// The leaves with rows that are pending although they have been updated, and how many.
    pub fn kept_pending(&self) -> Vec<(u32, u64)> {
        let kept = |seen: &Seen| {
            let (oid, rows) = (seen.state.oid, seen.state.rows_kept);
            (!seen.state.gone && rows > 0).then_some((oid, rows))
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
        blocks: 10,
        file: 1,
        written: 100,
        deleted: 5,
        own: 10,
        rows_found: 12,
        columns: (1, 2),
        shape: 0,
        unsure: false,
    };

    const LOCKED: LeafState = LeafState {
        locked: true,
        unseen: true,
        ..CLEAN
    };

    const REWRITTEN: LeafState = LeafState {
        rewritten: true,
        unseen: true,
        ..CLEAN
    };

    const LISTED: ListedLeaf = ListedLeaf {
        oid: 7,
        blocks: 10,
        file: 1,
        marked: false,
        unchanged: None,
    };

    fn counted(written: u64, deleted: u64) -> impl Fn(u32) -> Counted {
        move |_| Counted { written, deleted }
    }

    fn leaves_after(state: LeafState) -> Leaves {
        let mut leaves = Leaves::default();
        leaves.begin(&[LISTED]);
        leaves.end_pass([state].into_iter(), true);
        leaves
    }

    fn looks(state: LeafState, got_on: bool) -> usize {
        let mut leaves = Leaves::default();
        leaves.begin(&[LISTED]);
        let again = || {
            leaves.end_pass([state].into_iter(), got_on);
            leaves.comes_again(7)
        };
        let looks = std::iter::repeat_with(again).take(100);
        1 + looks.take_while(|again| *again).count()
    }

    #[test]
    fn each_reason_to_look_again_has_a_bound() {
        let gone = LeafState {
            gone: true,
            ..REWRITTEN
        };
        assert_eq!(looks(CLEAN, true), 1);
        assert_eq!(looks(LOCKED, true), 3);
        assert_eq!(looks(REWRITTEN, true), 20);
        assert_eq!(looks(REWRITTEN, false), 3);
        assert_eq!(looks(gone, true), 1);
        let set_aside = LeafState {
            set_aside: true,
            missed: true,
            ..LOCKED
        };
        assert_eq!(looks(set_aside, true), 1);
    }

    #[test]
    fn what_was_not_read_leaves_the_rest_unknown() {
        let mut leaves = leaves_after(REWRITTEN);
        assert_eq!(leaves.rows_left(), None);
        assert_eq!(leaves.unfinished(Unfinished::Rewritten), [7]);
        assert!(leaves.unfinished(Unfinished::Locked).is_empty());
        leaves.end_pass([CLEAN].into_iter(), true);
        assert_eq!(leaves.rows_left(), Some(2));
        let gone = LeafState {
            gone: true,
            ..REWRITTEN
        };
        leaves.end_pass([gone].into_iter(), true);
        assert_eq!(leaves.rows_left(), Some(0));
        assert_eq!(leaves.count_unfinished(), 0);
    }

    #[test]
    fn what_others_changed_is_not_done_with() {
        let changed = |state: LeafState, listed: ListedLeaf, written, deleted| {
            let mut leaves = leaves_after(state);
            leaves.compare(&[listed], counted(written, deleted));
            let changed = leaves.has_changed(7);
            assert_eq!(leaves.rows_left().is_none(), changed);
            assert_eq!(
                leaves.unfinished(Unfinished::Changed).len(),
                usize::from(changed)
            );
            changed
        };
        let moved = ListedLeaf { file: 2, ..LISTED };
        let filled = LeafState {
            rows_left: 0,
            ..CLEAN
        };
        assert!(!changed(CLEAN, LISTED, 100, 5));
        assert!(changed(CLEAN, LISTED, 101, 5));
        assert!(changed(CLEAN, LISTED, 100, 6));
        assert!(changed(CLEAN, moved, 100, 5));
        // Rows that were deleted where nothing is pending can't have been pending.
        assert!(!changed(filled, LISTED, 100, 6));
        // The counters have been reset.
        assert!(changed(filled, LISTED, 0, 0));
        // It has to be read again for another reason, which must not count as this one too.
        let locked = LeafState { file: 0, ..LOCKED };
        let mut leaves = leaves_after(locked);
        leaves.compare(&[LISTED], counted(100, 5));
        assert!(!leaves.has_changed(7) && leaves.comes_again(7));
        assert!(!leaves.is_given_up(7));
        (0..2).for_each(|_| leaves.end_pass([locked].into_iter(), true));
        assert!(!leaves.comes_again(7) && leaves.is_given_up(7));
    }

    #[test]
    fn kept_out_of_all_is_not_kept_out_of_some() {
        let gone = LeafState {
            oid: 8,
            gone: true,
            ..CLEAN
        };
        assert!(!Leaves::default().all_locked());
        let mut leaves = leaves_after(LOCKED);
        assert!(leaves.all_locked());
        let other = ListedLeaf { oid: 8, ..LISTED };
        leaves.begin(&[other]);
        assert!(!leaves.all_locked());
        leaves.end_pass([gone].into_iter(), false);
        assert!(leaves.all_locked());
        // Some of its rows were locked.
        let rows_locked = LeafState {
            locked: true,
            ..CLEAN
        };
        assert!(!leaves_after(rows_locked).all_locked());
    }

    #[test]
    fn a_mark_is_for_what_is_known() {
        let marked = |change: fn(&mut LeafState), written, blobid: bool| {
            let mut state = CLEAN;
            change(&mut state);
            let mut leaves = leaves_after(state);
            let blobids = blobid.then(|| (7, vec!["x".to_owned()]));
            leaves.take_undetected([7].into_iter(), blobids.into_iter().collect());
            let here = Counted {
                written: 3,
                deleted: 0,
            };
            let (done, _) = leaves.to_be_marked(counted(written, 5), |_| here);
            done.first()
                .map(|done| (done.state.written, done.blobids.len()))
        };
        let nothing: fn(&mut LeafState) = |_| ();
        assert_eq!(marked(nothing, 100, true), Some((103, 1)));
        assert_eq!(
            marked(|state| state.rows_left = 0, 100, false),
            Some((103, 0))
        );
        // Others have changed it; and rows are left for an unknown reason.
        assert_eq!(marked(nothing, 101, true), None);
        assert_eq!(marked(nothing, 100, false), None);
        let unknown: [fn(&mut LeafState); 10] = [
            |state| state.done = false,
            |state| state.missed = true,
            |state| state.locked = true,
            |state| state.gone = true,
            |state| state.unseen = true,
            |state| state.rewritten = true,
            |state| state.set_aside = true,
            |state| state.unsure = true,
            |state| state.rows_kept = 1,
            |state| state.file = 0,
        ];
        for change in unknown {
            assert_eq!(marked(change, 100, true), None);
        }
    }

    #[test]
    fn rows_beneath_a_mark_are_told_if_nobody_has_written_them() {
        let wrong = |rows_found, before, now| {
            let mut leaves = Leaves::default();
            let unchanged = Some(Unchanged {
                written: before,
                rows_left: 2,
            });
            leaves.begin(&[ListedLeaf {
                marked: true,
                unchanged,
                ..LISTED
            }]);
            let state = LeafState {
                rows_found,
                ..CLEAN
            };
            leaves.end_pass([state].into_iter(), true);
            !leaves.with_wrong_marks(counted(now, 5)).is_empty()
        };
        // The run has written 10 of 100 rows.
        assert!(wrong(3, 90, 100));
        assert!(!wrong(2, 90, 100));
        // Somebody had written, or had done so as is known by now.
        assert!(!wrong(3, 89, 100));
        assert!(!wrong(3, 90, 101));
    }

    #[test]
    fn leaves_come_and_go() {
        let mut leaves = leaves_after(CLEAN);
        let new = ListedLeaf { oid: 3, ..LISTED };
        leaves.compare(&[new], counted(100, 5));
        assert_eq!(leaves.len(), 2);
        assert!(leaves.has_changed(3) && !leaves.has_changed(7));
        assert_eq!(leaves.unfinished(Unfinished::NotLookedAt), [3]);
        assert_eq!(leaves.rows_left(), None);
        leaves.compare(&[LISTED], counted(100, 5));
        assert!(leaves.has_changed(7));
        leaves.end_pass([CLEAN].into_iter(), true);
        assert_eq!(leaves.rows_left(), Some(2));
        assert_eq!(leaves.count_unfinished(), 0);
    }
}
