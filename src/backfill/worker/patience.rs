//! How long a worker waits for what others have locked while it updates rows.
//!
//! A wait for one row is bounded by `lock_timeout`, but there may be thousands of rows. So what is bounded here is a
//! worker's total wait in a *pass*: the first row that isn't freed in time uses it up, and from then on all locked
//! rows are skipped at once ([`Wait::ForNobody`]). Skipped rows are read again in the next pass, which has its own,
//! shorter wait, because its purpose is to fill what others have freed meanwhile. A batch that took longer than the
//! timeout without an error may have waited for many rows in turn, and uses up the wait as well.
//!
//! Something that a trigger wants to lock, usually the one row of a table of counts, is different: the batch can't do
//! without it, and the next leaf's trigger wants the same. So the leaf is left, and leaves with a trigger of the same
//! function aren't tried for a moment. Then one of them is tried, with a batch of one row and a tenth of the wait, so
//! that little is written in vain, and less and less often. As soon as one succeeds, everything is as before.

use std::time::{Duration, Instant};

use pgrx::pg_sys::Oid;

use crate::pg::rows::Wait;

/// How long leaves with the triggers that had to wait aren't tried, at first.
const FIRST_BACK_OFF: Duration = Duration::from_millis(100);

/// The fraction of a wait for another attempt.
const ATTEMPT_SHARE: u32 = 10;

/// The patience of one worker, in one pass after another.
pub struct Patience {
    lock_timeout: Duration,
    /// The generation of the task queue.
    generation: u32,
    /// 1 for the first.
    pass: u32,
    waits_for_rows: bool,
    blocked: Option<Blocked>,
}

/// Something that triggers need is locked.
struct Blocked {
    /// The functions of triggers that may need it.
    functions: Vec<Oid>,
    try_at: Instant,
    back_off: Duration,
}

impl Patience {
    pub fn new(lock_timeout: Duration) -> Patience {
        Patience {
            lock_timeout,
            generation: 0,
            pass: 0,
            waits_for_rows: true,
            blocked: None,
        }
    }

    /// The pass with this generation of the task queue is in progress.
    pub fn in_pass(&mut self, generation: u32) {
        if generation != self.generation {
            self.generation = generation;
            self.pass = generation / 2;
            self.waits_for_rows = true;
            self.blocked = None;
        }
    }

    /// What to do about rows that others have locked.
    pub fn wait(&self) -> Wait {
        match self.waits_for_rows {
            true => Wait::ForRows,
            false => Wait::ForNobody,
        }
    }

    /// How long to wait for a lock when updating a leaf with triggers of these functions.
    pub fn timeout(&self, functions: &[Oid]) -> Duration {
        let share = match self.blocked_for(functions) {
            Some(_) => self.pass * ATTEMPT_SHARE,
            None => self.pass,
        };
        // PostgreSQL's unit is milliseconds, and 0 disables the timeout.
        (self.lock_timeout / share.max(1)).max(Duration::from_millis(1))
    }

    /// Whether a leaf with triggers of these functions may be tried now.
    pub fn may_try(&self, functions: &[Oid]) -> bool {
        let blocked = self.blocked_for(functions);
        blocked.is_none_or(|blocked| Instant::now() >= blocked.try_at)
    }

    /// A row wasn't freed in time.
    pub fn use_up(&mut self) {
        self.waits_for_rows = false;
    }

    /// What an update of a leaf with triggers of these functions needs wasn't freed in time.
    pub fn block(&mut self, functions: &[Oid]) {
        let first = FIRST_BACK_OFF.min(self.lock_timeout);
        let blocked = self.blocked.get_or_insert_with(|| Blocked {
            functions: Vec::new(),
            try_at: Instant::now(),
            back_off: first / 2,
        });
        blocked.back_off = (blocked.back_off * 2).min(self.lock_timeout.max(first));
        blocked.try_at = Instant::now() + blocked.back_off;
        for function in functions {
            if !blocked.functions.contains(function) {
                blocked.functions.push(*function);
            }
        }
    }

    /// An update of a leaf with triggers of these functions succeeded.
    pub fn came_through(&mut self, functions: &[Oid]) {
        if self.blocked_for(functions).is_some() {
            self.blocked = None;
        }
    }

    fn blocked_for(&self, functions: &[Oid]) -> Option<&Blocked> {
        let concerns = |blocked: &&Blocked| {
            let known = &blocked.functions;
            functions.iter().any(|function| known.contains(function))
        };
        self.blocked.as_ref().filter(concerns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_millis(1000);
    const SOME: [Oid; 2] = [Oid::from_u32(20_001), Oid::from_u32(20_002)];
    const OTHER: [Oid; 1] = [Oid::from_u32(20_003)];

    fn in_pass(generation: u32) -> Patience {
        let mut patience = Patience::new(TIMEOUT);
        patience.in_pass(generation);
        patience
    }

    #[test]
    fn one_row_uses_up_a_pass() {
        let mut patience = in_pass(2);
        assert_eq!(patience.wait(), Wait::ForRows);
        patience.use_up();
        patience.in_pass(2);
        assert_eq!(patience.wait(), Wait::ForNobody);
        patience.in_pass(4);
        assert_eq!(patience.wait(), Wait::ForRows);
    }

    #[test]
    fn a_later_pass_waits_for_less() {
        let mut patience = in_pass(2);
        assert_eq!(patience.timeout(&[]), TIMEOUT);
        patience.in_pass(4);
        assert_eq!(patience.timeout(&[]), TIMEOUT / 2);
        patience.in_pass(6);
        assert_eq!(patience.timeout(&SOME), TIMEOUT / 3);
    }

    #[test]
    fn triggers_of_one_function_are_kept_waiting_together() {
        let mut patience = in_pass(2);
        patience.block(&SOME[..1]);
        assert!(!patience.may_try(&SOME));
        assert!(patience.may_try(&SOME[1..]) && patience.may_try(&OTHER) && patience.may_try(&[]));
        assert_eq!(patience.timeout(&SOME), TIMEOUT / 10);
        assert_eq!(patience.timeout(&OTHER), TIMEOUT);
        // Another leaf says nothing about these.
        patience.came_through(&OTHER);
        assert!(!patience.may_try(&SOME));
        patience.came_through(&SOME);
        assert!(patience.may_try(&SOME));
        assert_eq!(patience.timeout(&SOME), TIMEOUT);
    }

    #[test]
    fn they_are_tried_again_and_ever_more_rarely() {
        let mut patience = in_pass(2);
        let mut waits = Vec::new();
        for _ in 0..6 {
            patience.block(&SOME);
            let blocked = patience.blocked.as_mut().unwrap();
            waits.push(blocked.back_off.as_millis());
            blocked.try_at = Instant::now();
            assert!(patience.may_try(&SOME));
        }
        assert_eq!(waits, [100, 200, 400, 800, 1000, 1000]);
        patience.in_pass(4);
        assert!(patience.may_try(&SOME));
    }

    #[test]
    fn no_wait_is_for_ever() {
        let mut patience = Patience::new(Duration::from_millis(1));
        patience.in_pass(2);
        patience.block(&SOME);
        assert_eq!(patience.timeout(&SOME), Duration::from_millis(1));
    }
}
