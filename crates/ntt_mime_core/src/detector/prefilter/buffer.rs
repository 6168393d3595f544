//! What libmagic would have of a file, were it given all of it: `struct buffer` (src/buffer.h of libmagic).
//!
//! file(1) hands the first `FILE_BYTES_MAX` bytes of a file to the rules (`fbuf`, `flen`), and as many of its last ones
//! once a rule asks for the end (`ebuf`, `elen`). The rules look at hardly any of it. So here these bytes have the
//! length that they would have there, and what isn't in hand is read when somebody looks at it: a few bytes at that
//! place, or a range that is known to be looked at as a whole by many rules ([`Buffer::new`]'s `clusters`). Nothing
//! that is asked for is ever missing but what lies beyond the end of the file.
//!
//! On a disk each place is a seek, and a few kilobytes more are next to nothing. So what lies not far behind what has been
//! read from the start is read with all that is between ([`NEAR`]).
//!
//! What has been read stays where it is until the buffer is dropped, so that a slice of it can be kept.

use std::cell::{Cell, OnceCell, RefCell};
use std::ops::Range;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::text::Start;

/// Bytes that are read around a place.
const PIECE: u64 = 512;

/// A place that is no further behind what has been read from the start is no place of its own: to read what is between
/// takes a disk less than to seek. With a head of 16 KiB, a file of 64 KiB is one place, its end included.
pub const NEAR: u64 = 48 << 10;

/// Reads the file at a place, as far as it goes; says how many bytes that were.
pub type Reader<'a> = dyn Fn(&mut [u8], u64) -> Result<usize, Errno> + 'a;

/// The bytes of a file.
pub struct Buffer<'a> {
    /// Its first bytes, which are in hand.
    head: &'a [u8],
    size: u64,
    flen: usize,
    read: Option<&'a Reader<'a>>,
    clusters: &'a [Range<usize>],
    pieces: OnceCell<Box<Piece>>,
    /// What has been read, in order and apart; the first is what there is from the start.
    covered: RefCell<Vec<Range<u64>>>,
    bytes_read: Cell<u64>,
    places: Cell<u32>,
    time: Cell<Duration>,
    error: Cell<Option<Errno>>,
    /// Fewer bytes were there than the file's size promises.
    cut_short: Cell<bool>,
    /// Nothing is read that is a place of its own; and something would have had to be.
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
    /// A file of `size` bytes, of which `head` is in hand, and libmagic is given `most` at the start. `clusters` are in
    /// order and don't overlap.
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

    /// Bytes that are all in hand, and have no end of their own that rules may ask for.
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

    /// The first bytes, which were in hand from the beginning.
    pub fn head(&self) -> &'a [u8] {
        self.head
    }

    /// What is known of the bytes that it begins with.
    pub fn start(&self) -> &Start {
        &self.start
    }

    /// How many bytes libmagic has from the start.
    pub fn flen(&self) -> usize {
        self.flen
    }

    /// How many it has from the end; None if there is no end to ask for.
    pub fn elen(&self) -> Option<usize> {
        self.read.is_some().then_some(self.flen)
    }

    /// The first bytes of the file, in one piece: `n` of them, or all that libmagic has.
    pub fn first(&self, n: usize) -> &[u8] {
        let n = n.min(self.flen);
        match n <= self.head.len() {
            true => &self.head[..n],
            false => self.get(0, n),
        }
    }

    /// Bytes of the file from a place on: `n`, or as many as it has.
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
        // None if it was cut short, or unreadable; whoever asked finds out by `error` and `is_cut_short`.
        piece.get(at, n).unwrap_or_default()
    }

    /// Does something that looks at the file, unless a place would have to be read for it that is none of those that have
    /// been read, nor near.
    pub fn near_only<T>(&self, look: impl FnOnce() -> T) -> Option<T> {
        self.near_only.set(true);
        let found = look();
        self.near_only.set(false);
        (!self.refused.replace(false)).then_some(found)
    }

    /// What is read where these bytes are wanted.
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

    /// Would this be a place of its own?
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

    /// Copies what is in hand from a place on.
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

    /// Takes down what has been read, and whether that is a place of its own.
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

    /// Bytes that were read, beside the head.
    pub fn bytes_read(&self) -> u64 {
        self.bytes_read.get()
    }

    /// Places that these are from.
    pub fn places(&self) -> u32 {
        self.places.get()
    }

    /// Time that this took.
    pub fn time(&self) -> Duration {
        self.time.get()
    }

    /// What went wrong.
    pub fn error(&self) -> Option<Errno> {
        self.error.get()
    }

    /// Did the file turn out to be shorter than it was?
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

/// A part of a file that a test looks at as if it were all: `fbuf`, `ebuf`, or what an `indirect` rule hands on.
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

    /// What is left of these from an offset on.
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
