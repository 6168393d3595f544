//! What libmagic would have of a file if it were given everything: `struct buffer` (src/buffer.h of libmagic).
//!
//! file(1) passes the first `FILE_BYTES_MAX` bytes of a file to the rules (`fbuf`, `flen`), and as many of its last
//! ones when a rule asks for the end (`ebuf`, `elen`). The rules read hardly any of that. So here these bytes have
//! the length that they would have there, and what isn't in memory is read when it is needed: a few bytes at that
//! place, or a range that many rules are known to read ([`Buffer::new`]'s `clusters`). Nothing is ever missing except
//! what is beyond the end of the file.
//!
//! On a disk each place is a seek, and a few kilobytes more cost next to nothing. So a place not far after what has
//! been read from the start is read together with everything in between ([`NEAR`]).
//!
//! What has been read stays in memory, and doesn't move, until the buffer is dropped, so that slices of it can be
//! kept.

use std::cell::{Cell, OnceCell, RefCell};
use std::ops::Range;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::text::Start;

/// The number of bytes that are read around a place.
const PIECE: u64 = 512;

/// A place that is no further than this after what has been read from the start isn't a place of its own: for a disk,
/// reading what is between is faster than a seek. With a head of 16 KiB, a file of 64 KiB is one place, including its
/// end.
pub const NEAR: u64 = 48 << 10;

/// Reads the file at a position, as far as the file goes; returns the number of bytes.
pub type Reader<'a> = dyn Fn(&mut [u8], u64) -> Result<usize, Errno> + 'a;

/// The bytes of a file.
pub struct Buffer<'a> {
    /// Its first bytes, which are in memory.
    head: &'a [u8],
    size: u64,
    flen: usize,
    read: Option<&'a Reader<'a>>,
    clusters: &'a [Range<usize>],
    pieces: OnceCell<Box<Piece>>,
    /// What has been read, in order and without overlaps; the first range begins at the start.
    covered: RefCell<Vec<Range<u64>>>,
    bytes_read: Cell<u64>,
    places: Cell<u32>,
    time: Cell<Duration>,
    error: Cell<Option<Errno>>,
    /// There were fewer bytes than the file's size says.
    cut_short: Cell<bool>,
    /// Whether reading is limited to what is near; and whether something else would have been needed.
    near_only: Cell<bool>,
    refused: Cell<bool>,
    start: Start,
}

/// Bytes that have been read elsewhere.
struct Piece {
    begins: u64,
    bytes: Vec<u8>,
    next: OnceCell<Box<Piece>>,
}

impl<'a> Buffer<'a> {
    /// A file of `size` bytes, of which `head` is in memory, and of which libmagic would get `most` from the start.
    /// `clusters` are in order and don't overlap.
    pub fn new(
        head: &'a [u8],
        size: u64,
        most: usize,
        read: &'a Reader<'a>,
        clusters: &'a [Range<usize>],
    ) -> Buffer<'a> {
        let flen = usize::try_from(size).map_or(most, |size| size.min(most));
        Buffer {
            read: Some(read),
            clusters,
            ..Buffer::in_hand(head, size, flen)
        }
    }

    /// Bytes that are all in memory, and have no separate end for which rules can ask.
    pub fn of_text(text: &'a [u8]) -> Buffer<'a> {
        Buffer::in_hand(text, text.len() as u64, text.len())
    }

    fn in_hand(head: &'a [u8], size: u64, flen: usize) -> Buffer<'a> {
        Buffer {
            head,
            size,
            flen,
            read: None,
            clusters: &[],
            pieces: OnceCell::new(),
            covered: RefCell::new(std::iter::once(0..head.len() as u64).collect()),
            bytes_read: Cell::new(0),
            places: Cell::new(0),
            time: Cell::new(Duration::ZERO),
            error: Cell::new(None),
            cut_short: Cell::new(false),
            near_only: Cell::new(false),
            refused: Cell::new(false),
            start: Start::default(),
        }
    }

    /// The first bytes, which were in memory from the beginning.
    pub fn head(&self) -> &'a [u8] {
        self.head
    }

    /// What is known about its first bytes.
    pub fn start(&self) -> &Start {
        &self.start
    }

    /// How many bytes libmagic has from the start.
    pub fn flen(&self) -> usize {
        self.flen
    }

    /// How many it has from the end; None if rules can't ask for the end.
    pub fn elen(&self) -> Option<usize> {
        self.read.is_some().then_some(self.flen)
    }

    /// The first `n` bytes of the file as one slice, or all that libmagic has.
    pub fn first(&self, n: usize) -> &[u8] {
        let n = n.min(self.flen);
        match n <= self.head.len() {
            true => &self.head[..n],
            false => self.get(0, n),
        }
    }

    /// `n` bytes of the file from a position on, or as many as there are.
    pub fn get(&self, at: u64, n: usize) -> &[u8] {
        let n = match self.size.checked_sub(at) {
            Some(left) if n > 0 => usize::try_from(left).map_or(n, |left| left.min(n)),
            _ => return &[],
        };
        if n == 0 {
            return &[];
        }
        if let Ok(from) = usize::try_from(at)
            && let Some(found) = self.head.get(from..from.saturating_add(n))
        {
            return found;
        }
        let mut slot = &self.pieces;
        while let Some(piece) = slot.get() {
            if let Some(found) = piece.get(at, n) {
                return found;
            }
            slot = &piece.next;
        }
        let range = self.range_of(at..at + n as u64);
        if self.near_only.get() && self.is_apart(&range) {
            self.refused.set(true);
            return &[];
        }
        let piece = self.piece(range);
        let piece = slot.get_or_init(|| Box::new(piece));
        // None if the file is truncated or unreadable; the caller learns that from `error` and `is_cut_short`.
        piece.get(at, n).unwrap_or_default()
    }

    /// Calls `look`, which reads the file, unless a place would have to be read for it that has not been read before
    /// and isn't near.
    pub fn near_only<T>(&self, look: impl FnOnce() -> T) -> Option<T> {
        self.near_only.set(true);
        let found = look();
        self.near_only.set(false);
        (!self.refused.replace(false)).then_some(found)
    }

    /// The range that is read when these bytes are needed.
    fn range_of(&self, wanted: Range<u64>) -> Range<u64> {
        let cluster = self.clusters.iter().find(|cluster| {
            (cluster.start as u64) < wanted.end && wanted.start < cluster.end as u64
        });
        let mut range = match cluster {
            Some(cluster) => {
                wanted.start.min(cluster.start as u64)..wanted.end.max(cluster.end as u64)
            }
            None => (wanted.start & !(PIECE - 1))..wanted.end.next_multiple_of(PIECE),
        };
        range.end = range.end.min(self.size);
        let prefix = self.covered.borrow()[0].end;
        if range.start > prefix && range.start - prefix <= NEAR {
            range.start = prefix;
        } else if wanted.start >= prefix {
            range.start = range.start.max(prefix);
        }
        range
    }

    /// Whether this would be a place of its own.
    fn is_apart(&self, range: &Range<u64>) -> bool {
        let covered = self.covered.borrow();
        covered
            .iter()
            .all(|one| one.end < range.start || range.end < one.start)
    }

    /// Reads bytes.
    fn piece(&self, range: Range<u64>) -> Piece {
        let mut bytes = vec![0; (range.end - range.start) as usize];
        let begun = Instant::now();
        let mut have = 0;
        while have < bytes.len() {
            let from = range.start + have as u64;
            let rest = &mut bytes[have..];
            let copied = self.copy(from, rest);
            if copied > 0 {
                have += copied;
                continue;
            }
            let read = match self.read {
                Some(read) => read(rest, from),
                None => Ok(0),
            };
            match read {
                Ok(read) if read == rest.len() => have += read,
                Ok(read) => {
                    self.cut_short.set(true);
                    have += read;
                    break;
                }
                Err(error) => {
                    self.error.set(Some(error));
                    break;
                }
            }
        }
        self.time.set(self.time.get() + begun.elapsed());
        bytes.truncate(have);
        self.cover(range.start..range.start + have as u64);
        Piece {
            begins: range.start,
            bytes,
            next: OnceCell::new(),
        }
    }

    /// Copies from what is in memory at a position.
    fn copy(&self, from: u64, to: &mut [u8]) -> usize {
        let mut slot = &self.pieces;
        let mut found = usize::try_from(from)
            .ok()
            .and_then(|at| self.head.get(at..));
        while found.is_none_or(<[u8]>::is_empty) {
            let Some(piece) = slot.get() else { return 0 };
            let at = from.checked_sub(piece.begins);
            found = at.and_then(|at| piece.bytes.get(usize::try_from(at).ok()?..));
            slot = &piece.next;
        }
        let found = found.unwrap_or_default();
        let n = found.len().min(to.len());
        to[..n].copy_from_slice(&found[..n]);
        n
    }

    /// Records what has been read, and whether that is a place of its own.
    fn cover(&self, range: Range<u64>) {
        if self.is_apart(&range) {
            self.places.set(self.places.get() + 1);
        }
        let mut covered = self.covered.borrow_mut();
        let apart = |one: &Range<u64>| one.end < range.start || range.end < one.start;
        let before: u64 = covered.iter().map(|one| one.end - one.start).sum();
        let mut whole = range.clone();
        covered.retain(|one| {
            let apart = apart(one);
            if !apart {
                whole = whole.start.min(one.start)..whole.end.max(one.end);
            }
            apart
        });
        covered.push(whole);
        covered.sort_by_key(|one| one.start);
        let after: u64 = covered.iter().map(|one| one.end - one.start).sum();
        self.bytes_read.set(self.bytes_read.get() + after - before);
    }

    /// The number of bytes that were read, besides the head.
    pub fn bytes_read(&self) -> u64 {
        self.bytes_read.get()
    }

    /// The number of places at which they were read.
    pub fn places(&self) -> u32 {
        self.places.get()
    }

    /// The time that took.
    pub fn time(&self) -> Duration {
        self.time.get()
    }

    /// The error of reading, if there was one.
    pub fn error(&self) -> Option<Errno> {
        self.error.get()
    }

    /// Whether the file turned out to be shorter than its size said.
    pub fn is_cut_short(&self) -> bool {
        self.cut_short.get()
    }
}

impl Piece {
    fn get(&self, at: u64, n: usize) -> Option<&[u8]> {
        let from = usize::try_from(at.checked_sub(self.begins)?).ok()?;
        self.bytes.get(from..from.checked_add(n)?)
    }
}

/// A part of a file that a test reads as if it were the whole: `fbuf`, `ebuf`, or what an `indirect` rule passes on.
#[derive(Clone, Copy)]
pub struct Bytes<'a> {
    buffer: &'a Buffer<'a>,
    begins: u64,
    len: usize,
}

impl<'a> Bytes<'a> {
    /// What libmagic has from the start.
    pub fn front(buffer: &'a Buffer<'a>) -> Bytes<'a> {
        Bytes {
            buffer,
            begins: 0,
            len: buffer.flen,
        }
    }

    /// The last `len` bytes of the file.
    pub fn back(buffer: &'a Buffer<'a>, len: usize) -> Bytes<'a> {
        Bytes {
            buffer,
            begins: buffer.size - len as u64,
            len,
        }
    }

    /// What is left of these bytes from an offset on.
    pub fn from(&self, offset: usize) -> Bytes<'a> {
        let offset = offset.min(self.len);
        Bytes {
            begins: self.begins + offset as u64,
            len: self.len - offset,
            ..*self
        }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// `n` bytes from an offset on, or as many as there are.
    pub fn get(&self, offset: usize, n: usize) -> &'a [u8] {
        let left = self.len.saturating_sub(offset);
        match left.min(n) {
            0 => &[],
            n => self.buffer.get(self.begins + offset as u64, n),
        }
    }
}
