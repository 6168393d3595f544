//! Counts the bytes that libmagic reads by itself.
//!
//! Given a descriptor, libmagic reads more than the head: as much again at the end of a file, for the rules that
//! count from there (`buffer_fill` in its buffer.c), the sectors of OLE documents (readcdf.c) and the tables of ELF
//! files (readelf.c). It doesn't report that, but the kernel counts what each thread has read: `rchar` in
//! /proc/thread-self/io, proc(5). Reading that takes 1.5 µs.

use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};

/// The kernel's count of what this thread has read, from any file.
pub struct ReadCounter {
    /// None if there is no /proc, or the kernel doesn't count.
    file: Option<OwnedFd>,
}

impl ReadCounter {
    /// The counter of the calling thread; of no use to another thread.
    pub fn of_this_thread() -> ReadCounter {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        ReadCounter {
            file: rustix::fs::open(c"/proc/thread-self/io", flags, Mode::empty()).ok(),
        }
    }

    /// The number of bytes that `work` read; None if unknown.
    pub fn during<T>(&mut self, work: impl FnOnce() -> T) -> (T, Option<u64>) {
        let before = self.look();
        let result = work();
        let after = self.look();
        // Reading the counter is counted as well, once it is over.
        let read = before.zip(after).and_then(|((before, taken), (after, _))| {
            after.checked_sub(before)?.checked_sub(taken)
        });
        (result, read)
    }

    /// The count, and the number of bytes that it took to read it.
    fn look(&mut self) -> Option<(u64, u64)> {
        let mut text = [0; 256];
        let taken = rustix::io::pread(self.file.as_ref()?, &mut text, 0).ok()?;
        Some((rchar(&text[..taken])?, taken as u64))
    }
}

fn rchar(text: &[u8]) -> Option<u64> {
    let mut lines = text.split(|byte| *byte == b'\n');
    let number = lines.find_map(|line| line.strip_prefix(b"rchar: "))?;
    std::str::from_utf8(number).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn counts_what_is_read_meanwhile_and_nothing_else() {
        let mut counter = ReadCounter::of_this_thread();
        let mut zeros = std::fs::File::open("/dev/zero").unwrap();
        for length in [0, 1, 4096, 100_000] {
            let mut buffer = vec![0; length];
            let ((), read) = counter.during(|| zeros.read_exact(&mut buffer).unwrap());
            assert_eq!(read, Some(length as u64));
            // Reads between two uses of the counter don't count.
            zeros.read_exact(&mut buffer).unwrap();
        }
    }

    #[test]
    fn a_kernel_that_does_not_count_is_no_error() {
        let mut counter = ReadCounter { file: None };
        assert_eq!(counter.during(|| 7), (7, None));
        assert_eq!(rchar(b"wchar: 3\nrchar: 12\n"), Some(12));
        assert_eq!(rchar(b"wchar: 3\n"), None);
        assert_eq!(rchar(b"rchar: many\n"), None);
    }
}
