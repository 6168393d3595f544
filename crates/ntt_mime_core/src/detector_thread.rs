//! The detector thread: a thread that opens and judges blobs, so that its owner never waits inside libmagic.
//!
//! libmagic can't be interrupted: 64 kB of line feeds take it more than a second, and a malicious file takes it as
//! long as its maker likes. A background worker that called it directly would not respond to a cancel request or to a
//! shutdown of the server meanwhile. So a worker leaves detection to this thread, and waits where it can be woken.
//! When the worker has to end, it ends, and the thread with it. A blob that takes more processor time than any honest
//! file is [`DetectorThread::overdue`]: the owner records it and goes on with a new detector thread.
//!
//! The thread knows nothing of PostgreSQL, and must not: it blocks the signals that a server process gets, and
//! touches nothing but the files, its own libmagic and the queue of results. What it needs from memory that others
//! may unmap (the shared memory of a run), its owner does for it.
//!
//! It also audits: one of so many blobs that it judges with the prefilter, chosen by its id, is judged again from the
//! whole file and with all rules, and that result counts.
//!
//! Requests and results are passed in lots, so that one switch of threads serves many blobs. On a slow store, further
//! threads fetch the blobs of a lot in advance (`read_ahead`).

mod nice;
mod read_ahead;
mod waits;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::thread::JoinHandleExt;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::EventfdFlags;
use rustix::io::retry_on_intr;

use crate::blob_id::BlobId;
use crate::detector::{Detection, Detector, DetectorConfig, DetectorError};
use crate::failure::{Failure, FailureReason};
use crate::in_flight::{self, InFlightRecord};
use crate::memory::named;
use crate::store::{Blob, Store, StoreError};
pub use nice::NICEST;
use read_ahead::{ReadAhead, ReaderPool};
use waits::Waits;

/// Processor time for one blob after which it is [`DetectorThread::overdue`]. The worst of the files known to be
/// slow, 64 kB of line feeds, takes 1 to 2 seconds; ordinary files take milliseconds.
pub const OVERDUE: Duration = match cfg!(feature = "poison") {
    false => Duration::from_secs(30),
    true => Duration::from_secs(2),
};

/// The number of results after which the owner is woken before its lot is complete: others may be waiting for them.
const LOT: usize = 64;

/// The result for a blob.
pub struct Detected {
    /// Its index in the lot.
    pub number: usize,
    pub result: Result<Detection, DetectError>,
    /// The index of the root in which it was found, if it was opened.
    pub root: Option<usize>,
    /// The result of the audit, if it was audited. `result` then is libmagic's answer.
    pub audit: Option<Audit>,
    /// The time for opening and reading it.
    pub read_time: Duration,
    /// The time for everything.
    pub look_time: Duration,
}

/// The result of an audit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Audit {
    Agrees,
    /// The detector's answer, and libmagic's for the whole file with all its rules.
    Differs {
        detector: String,
        libmagic: String,
    },
}

/// Why a blob has no type.
#[derive(Debug)]
pub enum DetectError {
    /// For a reason of its own.
    Blob(Failure),
    /// The store as a whole has disappeared, so nothing is known about any blob.
    Store(StoreError),
}

/// Why a detector thread can't start.
#[derive(Debug)]
pub enum StartError {
    Detector(DetectorError),
    /// No thread could be created.
    System(std::io::Error),
}

/// The owner's end. When dropped, it lets the thread finish the current blob and doesn't wait for it.
pub struct DetectorThread {
    requests: Sender<Vec<BlobId>>,
    mailbox: Arc<Mailbox>,
    thread: JoinHandle<()>,
    readers: Arc<ReaderPool>,
    watched: Option<Watched>,
    /// What libmagic gets wrong on known files, see [`Detector::complaints`].
    pub complaints: Vec<String>,
}

/// What both ends share.
struct Mailbox {
    done: Mutex<Vec<Detected>>,
    /// Readable when there are results to take.
    wakeup_fd: OwnedFd,
    /// Twice the number of blobs begun so far, less one while one of them is being judged.
    looks: AtomicU64,
    /// The index of the current blob in its lot.
    at: AtomicU64,
    leave: AtomicBool,
    /// One of this many blobs is audited; 0: none.
    audit_interval: AtomicU32,
    /// The prefilter must no longer be used.
    without_prefilter: AtomicBool,
}

/// The blob that was being judged when the owner last checked.
struct Watched {
    look: u64,
    /// Processor time of the thread at that moment.
    since: Duration,
}

impl DetectorThread {
    /// Starts the thread, with its own libmagic. Takes milliseconds. While the store is slow, up to `read_ahead`
    /// blobs are fetched in advance. `nice`, 0 to [`NICEST`], is added to the nice value of all of its threads.
    pub fn start(
        store: Store,
        config: DetectorConfig,
        read_ahead: usize,
        nice: i32,
        in_flight: Option<Arc<InFlightRecord>>,
    ) -> Result<DetectorThread, StartError> {
        let wakeup_fd = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|error| {
            StartError::System(named("could not call eventfd", error.into()))
        })?;
        let mailbox = Arc::new(Mailbox {
            done: Mutex::new(Vec::new()),
            wakeup_fd,
            looks: AtomicU64::new(0),
            at: AtomicU64::new(0),
            leave: AtomicBool::new(false),
            audit_interval: AtomicU32::new(0),
            without_prefilter: AtomicBool::new(false),
        });
        let store = Arc::new(store);
        let read_ahead = ReadAhead::new(Arc::clone(&store), config.first_look(), read_ahead);
        let readers = read_ahead.pool();
        let (requests, inbox) = channel();
        let (report, ready) = channel();
        let thread = {
            let mailbox = Arc::clone(&mailbox);
            let work = move || {
                in_flight::use_handler_stack();
                nice::become_nicer(nice);
                // Here, because a libmagic cookie belongs to the thread that opens it.
                let begun = Detector::new(config).map(|mut detector| {
                    // There will be many blobs.
                    detector.prepare();
                    let complaints = detector.complaints();
                    (detector, complaints)
                });
                match begun {
                    Ok((detector, complaints)) => {
                        let told = report.send(Ok(complaints));
                        if told.is_ok() {
                            Thread {
                                store,
                                config,
                                detector,
                                read_ahead,
                                in_flight,
                                mailbox,
                            }
                            .work(&inbox);
                        }
                    }
                    // If nobody is listening any more, nobody needs to know.
                    Err(error) => drop(report.send(Err(error))),
                }
            };
            with_signals_blocked(|| {
                std::thread::Builder::new()
                    .name("ntt_mime look".to_owned())
                    .spawn(work)
            })
            .map_err(StartError::System)?
        };
        let complaints = ready
            .recv()
            .map_err(|_| StartError::System(std::io::Error::other("the thread died")))?
            .map_err(StartError::Detector)?;
        Ok(DetectorThread {
            requests,
            mailbox,
            thread,
            readers,
            watched: None,
            complaints,
        })
    }

    /// From now on, one of this many blobs that are judged with the prefilter is audited; 0: none.
    pub fn audit_every(&self, interval: u32) {
        self.mailbox
            .audit_interval
            .store(interval, Ordering::Relaxed);
    }

    /// From the next blob on, libmagic uses all its rules.
    pub fn give_up_prefilter(&self) {
        self.mailbox
            .without_prefilter
            .store(true, Ordering::Relaxed);
    }

    /// Requests detection of blobs, in this order. One lot at a time: the next may be submitted when all results of
    /// this one have been taken.
    pub fn submit(&mut self, blobs: Vec<BlobId>) {
        // If the thread has died, `has_died` says so.
        let _ = self.requests.send(blobs);
    }

    /// Takes the results so far, and resets the wakeup fd.
    pub fn drain(&mut self) -> Vec<Detected> {
        let mut count = [0; 8];
        // EAGAIN if nothing was signaled.
        let _ = retry_on_intr(|| rustix::io::read(&self.mailbox.wakeup_fd, &mut count));
        std::mem::take(
            &mut *self
                .mailbox
                .done
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }

    /// Becomes readable when there are results to take.
    pub fn wakeup_fd(&self) -> BorrowedFd<'_> {
        self.mailbox.wakeup_fd.as_fd()
    }

    /// The index of a blob in its lot that has taken more than [`OVERDUE`], if there is one. Must be called from time
    /// to time. Processor time counts, since a slow disk is not the blob's fault.
    pub fn overdue(&mut self) -> Option<usize> {
        let look = self.mailbox.looks.load(Ordering::Acquire);
        if look.is_multiple_of(2) {
            self.watched = None;
            return None;
        }
        let now = self.processor_time()?;
        match &self.watched {
            Some(watched) if watched.look == look => {
                let at = self.mailbox.at.load(Ordering::Acquire) as usize;
                let still = self.mailbox.looks.load(Ordering::Acquire) == look;
                (still && now.saturating_sub(watched.since) > OVERDUE).then_some(at)
            }
            _ => {
                self.watched = Some(Watched { look, since: now });
                None
            }
        }
    }

    fn processor_time(&self) -> Option<Duration> {
        let mut clock = 0;
        let mut time = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: the thread isn't joined or detached as long as its handle lives; both calls only fill their
        // arguments.
        let known = unsafe {
            libc::pthread_getcpuclockid(self.thread.as_pthread_t(), &mut clock) == 0
                && libc::clock_gettime(clock, &mut time) == 0
        };
        known.then(|| Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
    }

    /// Whether the thread has ended by a defect of its own.
    pub fn has_died(&self) -> bool {
        self.thread.is_finished()
    }
}

impl Drop for DetectorThread {
    fn drop(&mut self) {
        self.mailbox.leave.store(true, Ordering::Relaxed);
        // The thread itself would make them leave only once it has finished the current blob.
        self.readers.leave();
    }
}

/// The thread's end.
struct Thread {
    store: Arc<Store>,
    config: DetectorConfig,
    detector: Detector,
    read_ahead: ReadAhead,
    in_flight: Option<Arc<InFlightRecord>>,
    mailbox: Arc<Mailbox>,
}

impl Thread {
    fn work(mut self, inbox: &Receiver<Vec<BlobId>>) {
        while let Ok(blobs) = inbox.recv() {
            let last = blobs.len().saturating_sub(1);
            let blobs = Arc::new(blobs);
            self.read_ahead.take_request(&blobs);
            let mut waits = Waits::begin();
            for (number, id) in blobs.iter().enumerate() {
                if self.mailbox.leave.load(Ordering::Relaxed) {
                    return;
                }
                self.read_ahead.come_to(number);
                self.mailbox.at.store(number as u64, Ordering::Relaxed);
                self.mailbox.looks.fetch_add(1, Ordering::Release);
                let detected = self.detect(number, id);
                self.mailbox.looks.fetch_add(1, Ordering::Release);
                let waited = waits.waited_of(detected.read_time);
                self.read_ahead.record(number, waited);
                self.put(detected, number == last);
            }
        }
    }

    fn put(&self, detected: Detected, last: bool) {
        let mut done = self
            .mailbox
            .done
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        done.push(detected);
        let ring = last || done.len() == LOT;
        drop(done);
        if ring {
            // It fails only after 2^64 signals.
            let _ = rustix::io::write(&self.mailbox.wakeup_fd, &1u64.to_ne_bytes());
        }
    }

    fn detect(&mut self, number: usize, id: &BlobId) -> Detected {
        if self.config.prefilter && self.mailbox.without_prefilter.load(Ordering::Relaxed) {
            self.config.prefilter = false;
            self.detector.set_config(self.config);
        }
        let audited = self.is_chosen(id);
        let (store, detector) = (&self.store, &mut self.detector);
        let begun = Instant::now();
        let (mut open_time, mut root) = (Duration::ZERO, None);
        let mut audit = None;
        let mut look = || {
            let blob = store.open_blob(id);
            open_time = begun.elapsed();
            let blob = blob?;
            root = Some(blob.root_number());
            let found = detector.detect_blob(&blob)?;
            match audited && found.reads > 0 {
                true => {
                    // Counted as another blob, with its own time limit: what the first detection took doesn't count.
                    self.mailbox.looks.fetch_add(2, Ordering::Release);
                    let (found, result) = audit_of(detector, &blob, found);
                    audit = Some(result);
                    found
                }
                false => Ok(found),
            }
        };
        let result = match &self.in_flight {
            Some(in_flight) => in_flight.during(id, &mut look),
            None => look(),
        };
        let read_time = result.as_ref().map_or(Duration::ZERO, |d| d.read_time);
        Detected {
            number,
            result: result.map_err(|failure| self.trouble(failure)),
            root,
            audit,
            read_time: open_time + read_time,
            look_time: begun.elapsed(),
        }
    }

    /// Whether this blob is to be audited. The same in all runs with the same interval: an id is a hash, and its last
    /// bytes are as good as random.
    fn is_chosen(&self, id: &BlobId) -> bool {
        let interval = self.mailbox.audit_interval.load(Ordering::Relaxed);
        let [.., a, b, c, d, e, f, g, h] = *id.as_bytes();
        let number = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
        self.config.prefilter && interval > 0 && number.is_multiple_of(u64::from(interval))
    }

    /// Whether it is the blob's failure, or the store has disappeared.
    fn trouble(&self, failure: Failure) -> DetectError {
        use FailureReason::{Missing, Unreadable};
        match failure.reason {
            Missing | Unreadable => match self.store.check() {
                Ok(()) => DetectError::Blob(failure),
                Err(error) => DetectError::Store(error),
            },
            _ => DetectError::Blob(failure),
        }
    }
}

/// Judges a blob again, from the whole file and with all rules. That result counts, even if it is an error.
fn audit_of(
    detector: &mut Detector,
    blob: &Blob,
    found: Detection,
) -> (Result<Detection, Failure>, Audit) {
    let (said, read) = detector.detect_whole(blob);
    // Each byte counts once: the first detection's bytes are read again, and more.
    let found = Detection {
        bytes_read: found.bytes_read.max(read),
        ..found
    };
    let libmagic = match &said {
        Ok(mime_type) if *mime_type == found.mime_type => return (Ok(found), Audit::Agrees),
        Ok(mime_type) => mime_type.clone(),
        Err(failure) => failure.detail.clone(),
    };
    let differs = Audit::Differs {
        detector: found.mime_type.clone(),
        libmagic,
    };
    let found = said.map(|mime_type| Detection { mime_type, ..found });
    (found, differs)
}

/// Runs `work` with all signals blocked except those of a crash, so that a thread created in it inherits that:
/// signals to a server process are for its main thread.
fn with_signals_blocked<T>(work: impl FnOnce() -> T) -> T {
    // SAFETY: plain calls on valid sets; the mask is restored before anything else runs.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        let mut before: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut set);
        for signal in in_flight::crash_signals() {
            libc::sigdelset(&mut set, signal);
        }
        libc::pthread_sigmask(libc::SIG_SETMASK, &set, &mut before);
        let result = work();
        libc::pthread_sigmask(libc::SIG_SETMASK, &before, std::ptr::null_mut());
        result
    }
}
