//! Time that a thread has waited for a disk, told from time for which others had its processor.
//!
//! On a busy machine any work may take milliseconds. But a thread that has to wait for a disk gives its processor up
//! itself, and the kernel counts that for each thread: `ru_nvcsw` of getrusage(2).

use std::time::Duration;

/// A shorter time isn't asked after, since that takes some of it.
const SHORT: Duration = Duration::from_micros(20);

/// Of the thread that begins it.
pub struct Waits {
    before: libc::c_long,
}

impl Waits {
    pub fn begin() -> Waits {
        Waits { before: so_far() }
    }

    /// How much of the time that some work took counts as waited: none, if the thread hasn't waited since this was
    /// begun or asked last, and all otherwise. So that asking is rare, it isn't begun anew for each piece of work: a
    /// wait in between counts, if the work took long as well.
    pub fn waited_of(&mut self, took: Duration) -> Duration {
        if took < SHORT {
            return Duration::ZERO;
        }
        let before = std::mem::replace(&mut self.before, so_far());
        match self.before == before {
            true => Duration::ZERO,
            false => took,
        }
    }
}

fn so_far() -> libc::c_long {
    // SAFETY: fills what it is given; all zero is a valid one, and what stays if it fails.
    unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_THREAD, &mut usage);
        usage.ru_nvcsw
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn work_is_no_wait_however_long_it_takes() {
        let (mut none, begun) = (0, Instant::now());
        for _ in 0..10 {
            let mut waits = Waits::begin();
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_millis(5) {
                std::hint::spin_loop();
            }
            none += usize::from(waits.waited_of(begun.elapsed()) == Duration::ZERO);
        }
        assert_eq!(none, 10, "after {:?}", begun.elapsed());
    }

    #[test]
    fn a_wait_is_told_once() {
        let mut waits = Waits::begin();
        let time = Duration::from_millis(1);
        std::thread::sleep(time);
        assert_eq!(waits.waited_of(Duration::from_micros(1)), Duration::ZERO);
        assert_eq!(waits.waited_of(time), time);
        assert_eq!(waits.waited_of(time), Duration::ZERO);
    }
}
