//! Reading ahead: plain threads that make the system fetch blobs from a slow disk before the detector thread needs
//! them.
//!
//! On a cold store, throughput depends on how many reads are in flight. The detector thread has one, and then judges
//! while the disk is idle. So it has *readers*: each opens a blob of the current lot as the detector thread will, by
//! the same rules, reads what that will probably read, discards it and closes the file. When the detector thread
//! reaches the blob, all of it is in the system's cache. Nothing is handed over: no descriptor outlives a read, a
//! reader that is late or stuck delays nobody, and errors are left for the detector thread to find. Readers make
//! system calls on files and do nothing else.
//!
//! A store that is in memory costs nothing extra. Readers aren't started before the detector thread has had to wait
//! for files itself, more than 100 µs each on average, and they rest when there is nothing to wait for any more.
//!
//! Why threads: most of the time of a small file is spent finding it, and Linux can't open a file without waiting,
//! except in another thread (io_uring uses its own threads for that). Hints alone, `posix_fadvise` on the next files
//! by one thread that opens them itself, don't help with that. Why the threads read, and don't just give the hint:
//! without waiting for what it has requested, a thread soon has more in flight than intended, and the detector
//! thread's own reads wait behind all of it.
//!
//! Mixed files of 37 kB on average, 2 processors that are also busy with other things, a disk that serves 16 requests
//! at a time in 3 ms each; `cargo bench -p ntt_mime_core --bench read_ahead -- STORE slow`:
//!
//! | | files/s | relative to 16 plain readers |
//! |---|---:|---:|
//! | 16 threads that read heads and do nothing with them | 1,330 | 1 |
//! | one such thread | 90 | 0.07 |
//! | 2 detectors that open 16 files ahead, with a hint | 173 | 0.13 |
//! | 2 detector threads without reading ahead | 148 | 0.11 |
//! | 2 detector threads with 8, 16, 32 blobs in flight each | 1,051, 1,191, 1,047 | 0.79, 0.90, 0.79 |
//!
//! This can't be reached on a disk that is so fast that plain readers keep the processors busy: judging takes
//! processor time as well.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::io::retry_on_intr;

use super::waits::Waits;
use super::with_signals_blocked;
use crate::blob_id::BlobId;
use crate::detector::{END, TEXT};
use crate::store::Store;

/// The average time spent waiting for the disk to open and read a blob from which a store counts as slow. For tests
/// of reading ahead, every store is slow.
const SLOW: Duration = match cfg!(feature = "poison") {
    false => Duration::from_micros(100),
    true => Duration::ZERO,
};

/// The average below which it counts as fast again.
const QUICK: Duration = Duration::from_micros(SLOW.as_micros() as u64 / 2);

/// A longer wait counts as this: a single blob that isn't in memory doesn't mean that the store is slow.
const LONGEST: Duration = Duration::from_millis(2);

/// Roughly the number of blobs over which the average is taken.
const MEMORY: f64 = 32.0;

/// For each blob in flight, how many may be fetched before the detector thread reaches them: some take longer than
/// others, and those after them needn't wait.
const LEAD: usize = 4;

/// How much a reader reads at a time.
const PIECE: usize = 16 * 1024;

/// Enough for a piece, and for the description of a blob that can't be opened.
const STACK_BYTES: usize = 128 * 1024;

/// Makes the system fetch a blob; the buffer is for reading it.
type Fetch = dyn Fn(&BlobId, &mut [u8; PIECE]) + Send + Sync;

/// The detector thread's end.
pub struct ReadAhead {
    pool: Arc<ReaderPool>,
    /// The maximum number of readers.
    depth: usize,
    started: bool,
    /// The store is slow, and the readers are working.
    awake: bool,
    /// The recent average wait for a blob, in µs: that of the detector thread while the readers rest, otherwise
    /// theirs.
    average: f64,
    /// The current lot.
    blobs: Arc<Vec<BlobId>>,
    /// How far the readers may go in it.
    end: usize,
}

/// What the readers share.
pub struct ReaderPool {
    fetch: Box<Fetch>,
    requests: Mutex<Requests>,
    news: Condvar,
    /// The detector thread's index in the lot.
    at: AtomicUsize,
    /// Blobs fetched since the detector thread last asked, and how long they were waited for, in ns.
    fetched: AtomicU64,
    waited: AtomicU64,
}

#[derive(Default)]
struct Requests {
    blobs: Arc<Vec<BlobId>>,
    /// The first blob that nobody has begun to fetch.
    next: usize,
    /// The first blob that must not be fetched yet.
    end: usize,
    /// Readers that have nothing to do.
    idle: usize,
    leave: bool,
}

impl ReadAhead {
    /// At most `depth` blobs of this store are in flight; 0 disables reading ahead. `head_bytes` are read first.
    pub fn new(store: Arc<Store>, head_bytes: usize, depth: usize) -> ReadAhead {
        let fetch = move |id: &BlobId, piece: &mut [u8; PIECE]| {
            fetch(&store, id, head_bytes as u64, piece);
        };
        ReadAhead::by(Box::new(fetch), depth)
    }

    fn by(fetch: Box<Fetch>, depth: usize) -> ReadAhead {
        ReadAhead {
            pool: Arc::new(ReaderPool {
                fetch,
                requests: Mutex::default(),
                news: Condvar::new(),
                at: AtomicUsize::new(0),
                fetched: AtomicU64::new(0),
                waited: AtomicU64::new(0),
            }),
            depth,
            started: false,
            awake: false,
            average: 0.0,
            blobs: Arc::default(),
            end: 0,
        }
    }

    /// The readers, for others that make them leave.
    pub fn pool(&self) -> Arc<ReaderPool> {
        Arc::clone(&self.pool)
    }

    /// The detector thread has a new lot.
    pub fn take_request(&mut self, blobs: &Arc<Vec<BlobId>>) {
        self.blobs = Arc::clone(blobs);
        if self.awake {
            self.begin_order();
        }
    }

    /// The detector thread reaches a blob of its lot.
    pub fn come_to(&mut self, number: usize) {
        if !self.awake {
            return;
        }
        self.pool.at.store(number, Ordering::Relaxed);
        let all = self.blobs.len();
        let end = all.min(number + 1 + LEAD * self.depth);
        // In steps, so that readers that have reached the limit aren't woken for each blob.
        if end == self.end || end < all && end < self.end + self.depth {
            return;
        }
        self.end = end;
        self.heed_readers();
        self.pool.go_on_to(if self.awake { end } else { 0 });
    }

    /// Records how long the detector thread has waited for a blob.
    pub fn record(&mut self, number: usize, waited: Duration) {
        if self.depth == 0 || self.awake {
            return;
        }
        self.count(waited.min(LONGEST), 1);
        if self.average < SLOW.as_micros() as f64 {
            return;
        }
        self.awake = true;
        if !self.started {
            self.started = true;
            self.start();
        }
        self.begin_order();
        self.come_to(number);
    }

    fn begin_order(&mut self) {
        self.end = 0;
        self.pool.at.store(0, Ordering::Relaxed);
        let mut requests = self.pool.requests();
        requests.blobs = Arc::clone(&self.blobs);
        requests.next = 0;
        requests.end = 0;
    }

    /// While readers are working, their times count: the detector thread finds everything in memory.
    fn heed_readers(&mut self) {
        let fetched = self.pool.fetched.swap(0, Ordering::Relaxed);
        let waited = Duration::from_nanos(self.pool.waited.swap(0, Ordering::Relaxed));
        if let Ok(fetched @ 1..) = u32::try_from(fetched) {
            self.count(waited / fetched, fetched);
            self.awake = self.average >= QUICK.as_micros() as f64;
        }
    }

    fn count(&mut self, each: Duration, blobs: u32) {
        let kept = (1.0 - 1.0 / MEMORY).powf(blobs.into());
        self.average = self.average * kept + each.as_secs_f64() * 1e6 * (1.0 - kept);
    }

    /// The readers aren't joined at the end: if a file system hangs, only the reader that is stuck in it must wait.
    fn start(&self) {
        with_signals_blocked(|| {
            for _ in 0..self.depth {
                let pool = Arc::clone(&self.pool);
                let reader = std::thread::Builder::new()
                    .name("ntt_mime read".to_owned())
                    .stack_size(STACK_BYTES);
                // With fewer readers it only takes longer.
                if reader.spawn(move || pool.work()).is_err() {
                    break;
                }
            }
        });
    }
}

impl Drop for ReadAhead {
    fn drop(&mut self) {
        self.pool.leave();
    }
}

impl ReaderPool {
    /// Makes the readers leave, each when it has finished its current blob. Doesn't wait for them.
    pub fn leave(&self) {
        self.requests().leave = true;
        self.news.notify_all();
    }

    /// Locked only for a short access.
    fn requests(&self) -> MutexGuard<'_, Requests> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Blobs up to `end` may be fetched.
    fn go_on_to(&self, end: usize) {
        let mut requests = self.requests();
        requests.end = end;
        let (idle, blobs) = (requests.idle, end.saturating_sub(requests.next));
        drop(requests);
        if blobs >= idle {
            self.news.notify_all();
        } else {
            (0..blobs).for_each(|_| self.news.notify_one());
        }
    }

    /// The work of a reader.
    fn work(&self) {
        let mut piece = [0; PIECE];
        while let Some(id) = self.next() {
            let (mut waits, begun) = (Waits::begin(), Instant::now());
            // A defect concerns one blob: the detector thread reads it itself.
            let _ = catch_unwind(AssertUnwindSafe(|| (self.fetch)(&id, &mut piece)));
            let waited = waits.waited_of(begun.elapsed()).min(LONGEST);
            self.waited
                .fetch_add(waited.as_nanos() as u64, Ordering::Relaxed);
            self.fetched.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits for a blob to fetch; None means that it is time to leave.
    fn next(&self) -> Option<BlobId> {
        let mut requests = self.requests();
        while !requests.leave {
            // The detector thread may have overtaken all readers.
            let next = requests.next.max(self.at.load(Ordering::Relaxed) + 1);
            if next < requests.end {
                requests.next = next + 1;
                return requests.blobs.get(next).copied();
            }
            requests.idle += 1;
            requests = self
                .news
                .wait(requests)
                .unwrap_or_else(PoisonError::into_inner);
            requests.idle -= 1;
        }
        None
    }
}

/// Makes the system keep in memory what the detector thread will probably read: the head; if the head is all text, as
/// much as distinguishes text from binary content; and the end.
fn fetch(store: &Store, id: &BlobId, head_bytes: u64, piece: &mut [u8; PIECE]) {
    let Ok(blob) = store.open_blob(id) else {
        return;
    };
    let mut read = |offset: u64, bytes: u64| {
        let piece = &mut piece[..bytes.min(PIECE as u64) as usize];
        let read = retry_on_intr(|| rustix::io::pread(blob.as_fd(), &mut *piece, offset));
        let read = read.unwrap_or(0);
        (read as u64, memchr::memchr(0, &piece[..read]).is_some())
    };
    let (mut offset, mut end) = (0, blob.size().min(head_bytes));
    let mut text = true;
    while offset < end {
        let (bytes, zeros) = read(offset, end - offset);
        if bytes == 0 {
            return;
        }
        offset += bytes;
        text &= !zeros;
        if offset == end && text {
            end = end.max(blob.size().min(TEXT as u64));
        }
    }
    if offset < blob.size() {
        let end = blob.size().saturating_sub(END as u64).max(offset);
        read(end, END as u64);
    }
}

#[cfg(test)]
mod tests;
