//! Reading ahead: plain threads that have the system fetch blobs from a slow disk before the detector thread gets there.
//!
//! What counts on a cold store is how many reads are in flight. The detector thread has one, and then judges while the disk
//! is idle. So it has *readers*: each opens a blob of the order at hand as the detector thread will, by the same rules, reads
//! what it will probably look at, throws that away and closes the file. When the detector thread comes to the blob, all of it
//! is in the system's cache. Nothing is handed over: no descriptor outlives a read, a reader that is late or stuck
//! keeps nobody waiting, and what goes wrong is for the detector thread to find. Readers make system calls on files and
//! nothing else.
//!
//! A store that is in memory pays nothing. Readers aren't started before the detector thread has had to wait for files
//! itself, more than 100 µs each on average, and they rest again when they don't have to wait any more.
//!
//! Why threads: most of the time of a small file goes to finding it, and Linux has no way to open a file without
//! waiting but another thread (io_uring has some of its own for this). Hints alone, `posix_fadvise` on the next
//! files by one thread that opens them itself, don't help with that. Why they read, and the hint isn't enough: who
//! doesn't wait for what he asked for soon has more in flight than was meant, and the detector thread's own reads wait
//! behind all of it.
//!
//! Mixed files of 37 kB on average, 2 processors busy with other things as well, a disk that serves 16 requests at a
//! time in 3 ms each; `cargo bench -p ntt_mime_core --bench read_ahead -- STORE slow`:
//!
//! | | files/s | beside 16 plain readers |
//! |---|---:|---:|
//! | 16 threads that read heads and do nothing with them | 1,330 | 1 |
//! | one such thread | 90 | 0.07 |
//! | 2 detectors that open 16 files ahead, with a hint | 173 | 0.13 |
//! | 2 detector threads without reading ahead | 148 | 0.11 |
//! | 2 detector threads with 8, 16, 32 blobs in flight each | 1,051, 1,191, 1,047 | 0.79, 0.90, 0.79 |
//!
//! A disk so fast that plain readers keep the processors busy can't be matched so: to judge costs processor time, too.

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

/// Time waited for a disk to open and read a blob, on average, from which on a store counts as slow. For tests of what
/// comes then, every store is slow.
const SLOW: Duration = match cfg!(feature = "poison") {
    false => Duration::from_micros(100),
    true => Duration::ZERO,
};

/// The same below which it counts as quick again.
const QUICK: Duration = Duration::from_micros(SLOW.as_micros() as u64 / 2);

/// A longer wait counts as this: the odd blob that isn't in memory is no sign of a slow store.
const LONGEST: Duration = Duration::from_millis(2);

/// Blobs that the average goes back, roughly.
const MEMORY: f64 = 32.0;

/// Blobs that may be fetched before the detector thread gets there, for each in flight: some take longer than others, and
/// those behind them needn't wait.
const LEAD: usize = 4;

/// What a reader reads at a time.
const PIECE: usize = 16 * 1024;

/// Enough for a piece, and for the words about a blob that can't be opened.
const STACK_BYTES: usize = 128 * 1024;

/// Makes the system fetch a blob; has a piece of memory to read into.
type Fetch = dyn Fn(&BlobId, &mut [u8; PIECE]) + Send + Sync;

/// The detector thread's end.
pub struct ReadAhead {
    pool: Arc<ReaderPool>,
    /// Readers that there may be.
    depth: usize,
    started: bool,
    /// The store is slow, and the readers are at work.
    awake: bool,
    /// How long a blob was waited for lately, in µs: by the detector thread as long as the readers rest, by these otherwise.
    average: f64,
    /// The order at hand.
    blobs: Arc<Vec<BlobId>>,
    /// How far the readers may go in it.
    end: usize,
}

/// What the readers share.
pub struct ReaderPool {
    fetch: Box<Fetch>,
    requests: Mutex<Requests>,
    news: Condvar,
    /// Where the detector thread is in its order.
    at: AtomicUsize,
    /// Blobs fetched since the detector thread last asked, and how long they were waited for, in ns.
    fetched: AtomicU64,
    waited: AtomicU64,
}

#[derive(Default)]
struct Requests {
    blobs: Arc<Vec<BlobId>>,
    /// The first that nobody has begun to fetch.
    next: usize,
    /// The first that is not to be fetched yet.
    end: usize,
    /// Readers that have nothing to do.
    idle: usize,
    leave: bool,
}

impl ReadAhead {
    /// With at most `depth` blobs of this store in flight; 0: without. `head_bytes` are looked at first.
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

    /// Those who read, for others to send them home.
    pub fn pool(&self) -> Arc<ReaderPool> {
        Arc::clone(&self.pool)
    }

    /// The detector thread has a new order.
    pub fn take_request(&mut self, blobs: &Arc<Vec<BlobId>>) {
        self.blobs = Arc::clone(blobs);
        if self.awake {
            self.begin_order();
        }
    }

    /// The detector thread comes to a blob of its order.
    pub fn come_to(&mut self, number: usize) {
        if !self.awake {
            return;
        }
        self.pool.at.store(number, Ordering::Relaxed);
        let all = self.blobs.len();
        let end = all.min(number + 1 + LEAD * self.depth);
        // In steps, so that readers who have gone as far as they may aren't woken for each blob.
        if end == self.end || end < all && end < self.end + self.depth {
            return;
        }
        self.end = end;
        self.heed_readers();
        self.pool.go_on_to(if self.awake { end } else { 0 });
    }

    /// So long the detector thread has waited for that blob.
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

    /// While readers are at work their times count: the detector thread finds everything in memory.
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

    /// The readers aren't joined at the end: one that a hung file system doesn't let go must not keep anybody else.
    fn start(&self) {
        with_signals_blocked(|| {
            for _ in 0..self.depth {
                let pool = Arc::clone(&self.pool);
                let reader = std::thread::Builder::new()
                    .name("ntt_mime read".to_owned())
                    .stack_size(STACK_BYTES);
                // With fewer of them it takes longer, that is all.
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
    /// Sends the readers home, each when it is done with the blob at hand. Doesn't wait for them.
    pub fn leave(&self) {
        self.requests().leave = true;
        self.news.notify_all();
    }

    /// Never locked for longer than a look at them takes.
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

    /// What a reader does.
    fn work(&self) {
        let mut piece = [0; PIECE];
        while let Some(id) = self.next() {
            let (mut waits, begun) = (Waits::begin(), Instant::now());
            // A defect is one blob's matter: the detector thread reads it for itself.
            let _ = catch_unwind(AssertUnwindSafe(|| (self.fetch)(&id, &mut piece)));
            let waited = waits.waited_of(begun.elapsed()).min(LONGEST);
            self.waited
                .fetch_add(waited.as_nanos() as u64, Ordering::Relaxed);
            self.fetched.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits for a blob to fetch; None: time to leave.
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

/// Has the system keep in memory what the detector thread will probably look at: the head, as much as tells text from other
/// content if there is nothing but text in the head, and the end.
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
