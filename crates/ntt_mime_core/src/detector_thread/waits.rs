//! Distinguishes the time that a thread has waited for a disk from the time in which it got no processor.
//!
//! On a busy machine any work may take milliseconds. But a thread that has to wait for a disk gives up its processor
//! voluntarily, and the kernel counts that for each thread: `ru_nvcsw` of getrusage(2).

use std::time::Duration;

/// For a shorter time the kernel isn't asked, since that takes time too.
const SHORT: Duration = Duration::from_micros(20);

/// For the thread that creates it.
pub struct Waits {
    before: libc::c_long,
}

impl Waits {
    pub fn begin() -> Waits {
        Waits { before: so_far() }
    }

    /// How much of the time that some work took counts as waiting: none if the thread hasn't waited since this was
    /// created or last asked, otherwise all. To keep system calls rare, it isn't reset for each piece of work: a wait
    /// in between counts if the work took long as well.
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
    // SAFETY: fills its argument; all zeros is a valid value, which remains if the call fails.
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
