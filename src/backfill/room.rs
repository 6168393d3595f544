//! How many workers of a run may work at the same time, beside other sessions.
//!
//! As long as other sessions leave enough processors, all workers do. When the processors are all taken, each other
//! session that is at work takes the place of one worker, but one worker always goes on. So a session shares its
//! processor neither with a worker nor with what keeps that one busy, and a commit, which needs several processes one
//! after another, doesn't wait for a processor each time.
//!
//! The leader counts other sessions several times a second. A single count says little, since most transactions take
//! some milliseconds, so their average over about a second decides. The workers check the limit between two batches,
//! when they hold no lock and have claimed no blobs, and those that are too many rest. One that is waiting for a task or
//! for somebody's lock makes room for another ([`super::shared`] knows who is at work). A worker's nice value would do the same within a batch as well, while it holds locks for which the others
//! wait; and it means nothing where Linux shares processors between sessions (`kernel.sched_autogroup_enabled`).

/// How much a count changes the average, with [`super::leader`]'s twenty counts a second.
const WEIGHT: f64 = 0.05;

/// The part of a processor that other sessions may take before a worker rests.
const IGNORED: f64 = 0.25;

/// What a run's leader knows about other sessions.
pub struct Room {
    processors: u32,
    /// How many are at work on average.
    others: f64,
}

impl Room {
    /// With the processors that this process may use.
    pub fn on_this_machine() -> Room {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Room {
            processors: processors as u32,
            others: 0.0,
        }
    }

    /// So many other sessions are at work now.
    pub fn count(&mut self, others: u32) {
        self.others += WEIGHT * (f64::from(others) - self.others);
    }

    /// How many of this many workers may work at the same time.
    pub fn workers(&self, workers: u32) -> u32 {
        let room = f64::from(workers.max(self.processors)) + IGNORED - self.others;
        // Saturating: not below 0.
        (room as u32).clamp(1, workers.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of the workers may work beside so many others.
    fn beside(others: f64, workers: u32, processors: u32) -> u32 {
        Room { processors, others }.workers(workers)
    }

    #[test]
    fn all_workers_work_while_there_are_processors_for_them() {
        assert_eq!(beside(0.0, 2, 2), 2);
        assert_eq!(beside(0.2, 2, 2), 2);
        assert_eq!(beside(8.0, 8, 16), 8);
        // As many as were asked for, on slow disks for example.
        assert_eq!(beside(0.0, 16, 2), 16);
    }

    #[test]
    fn each_other_session_takes_the_place_of_one() {
        assert_eq!(beside(0.3, 2, 2), 1);
        assert_eq!(beside(9.5, 8, 16), 6);
        assert_eq!(beside(1.0, 4, 2), 3);
    }

    #[test]
    fn one_always_goes_on() {
        assert_eq!(beside(100.0, 8, 2), 1);
        assert_eq!(beside(100.0, 1, 1), 1);
    }

    #[test]
    fn what_counts_is_the_average_of_about_a_second() {
        let mut room = Room {
            processors: 2,
            others: 0.0,
        };
        room.count(4);
        assert_eq!(room.workers(2), 2);
        (0..20).for_each(|_| room.count(4));
        assert_eq!(room.workers(2), 1);
        (0..100).for_each(|_| room.count(0));
        assert_eq!(room.workers(2), 2);
    }
}
