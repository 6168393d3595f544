//! Reading a file while it is being judged: its head once, as far as it is needed, and what is read elsewhere.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use rustix::io::{Errno, retry_on_intr};

use super::errors::LookError;
use super::plan::View;

/// How much memory for heads is kept from file to file, in bytes. Of few files more is read.
const KEPT: usize = 1024 * 1024;

/// Memory that is reused.
#[derive(Default)]
pub struct Buffers {
    /// The head of the current file, as far as it has been read.
    pub head: Vec<u8>,
    /// Where else something has been read, and how much.
    peeks: Vec<(u64, usize)>,
}

impl Buffers {
    /// Frees what a large file needed.
    pub fn shrink(&mut self) {
        self.head.shrink_to(KEPT);
    }
}

/// A file while it is being judged.
pub struct Looks<'a> {
    pub file: BorrowedFd<'a>,
    pub size: u64,
    pub buffers: &'a mut Buffers,
    /// See [`View::end_was_asked_for`]. What libmagic reads for OLE and ELF counts as if it were the end.
    pub end_was_asked_for: bool,
    /// Time for reading.
    pub time: Duration,
}

impl<'a> Looks<'a> {
    pub fn new(file: BorrowedFd<'a>, size: u64, buffers: &'a mut Buffers) -> Looks<'a> {
        buffers.head.clear();
        buffers.peeks.clear();
        Looks {
            file,
            size,
            buffers,
            end_was_asked_for: true,
            time: Duration::ZERO,
        }
    }

    /// Bytes that have been read here. Reading at a place again, or what was read later, doesn't count.
    pub fn bytes_read(&self) -> u64 {
        let seen = self.buffers.head.len() as u64;
        let peeks = self.buffers.peeks.iter();
        let elsewhere = peeks.filter(|(offset, _)| *offset >= seen);
        seen + elsewhere.map(|(_, length)| *length as u64).sum::<u64>()
    }

    /// Reads up to `end`, from where it has already been read.
    pub fn read_to(&mut self, end: usize) -> Result<(), LookError> {
        let begun = Instant::now();
        let end = wanted(self.size, end);
        let head = &mut self.buffers.head;
        let have = head.len();
        if have < end {
            head.resize(end, 0);
            let read =
                read_at(self.file, &mut head[have..], have as u64).map_err(LookError::Reading)?;
            head.truncate(have + read);
        }
        self.time += begun.elapsed();
        Ok(())
    }
}

impl View for Looks<'_> {
    type Error = LookError;

    fn size(&self) -> u64 {
        self.size
    }

    fn head(&mut self, end: usize) -> Result<&[u8], LookError> {
        self.read_to(end)?;
        let head = &self.buffers.head;
        Ok(&head[..head.len().min(end)])
    }

    fn end_was_asked_for(&self) -> bool {
        self.end_was_asked_for
    }

    fn peek(&mut self, offset: u64, buffer: &mut [u8]) -> Result<usize, LookError> {
        let begun = Instant::now();
        let have = read_at(self.file, buffer, offset).map_err(LookError::Reading)?;
        if !self.buffers.peeks.contains(&(offset, have)) {
            self.buffers.peeks.push((offset, have));
        }
        self.time += begun.elapsed();
        Ok(have)
    }
}

/// The number of bytes to be read.
pub fn wanted(size: u64, limit: usize) -> usize {
    usize::try_from(size).map_or(limit, |size| size.min(limit))
}

/// Fills the buffer from an offset on, as far as the file goes; returns how far that was.
pub fn read_at(file: BorrowedFd<'_>, buffer: &mut [u8], offset: u64) -> Result<usize, Errno> {
    let mut have = 0;
    while have < buffer.len() {
        let rest = &mut buffer[have..];
        let read = retry_on_intr(|| rustix::io::pread(file, &mut *rest, offset + have as u64));
        match read? {
            0 => break,
            n => have += n,
        }
    }
    Ok(have)
}
