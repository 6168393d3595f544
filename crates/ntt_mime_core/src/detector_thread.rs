//! The detector thread: a thread that opens and judges blobs, so that its owner never waits inside libmagic.
//!
//! libmagic can't be interrupted: 64 kB of line feeds take it more than a second, and a file made for
//! the purpose takes it as long as its maker likes. A background worker that called it directly would
//! be deaf for that time, to a cancel request and to the shutdown of its server. So a worker leaves the
//! looking to this thread and waits where it can be woken; when it has to go, it goes, and the thread
//! with it. A blob that takes more processor time than any honest file is [`DetectorThread::overdue`]: its
//! owner records it and goes on with a new detector thread.
//!
//! The thread knows nothing of PostgreSQL, as it must not: it blocks the signals that a server process
//! gets, and touches nothing but the files, its own libmagic and the queue of results. What it needs
//! from memory that others may unmap (the shared memory of a run), its owner does.
//!
//! It also audits: of so many blobs that it judges with the prefilter, one, chosen by its id, is judged again from all of
//! it and by all rules, and that is then its answer.
//!
//! Requests and results travel in lots, so that a change of threads is paid for once for many blobs. On a slow store
//! more threads fetch the blobs of a lot before it gets there (`read_ahead`).

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

/// Processor time of one blob after which it is [`DetectorThread::overdue`]. The worst of the files known to
/// be slow, 64 kB of line feeds, takes 1 to 2 seconds; ordinary ones take milliseconds.
pub const OVERDUE: Duration = match cfg!(feature = "poison") {
    false => Duration::from_secs(30),
    true => Duration::from_secs(2),
};

/// Results after which the owner is woken before its lot is complete: others may wait for them.
const LOT: usize = 64;

/// A blob that has been looked at.
pub struct Detected {
    /// Its place in the order.
    pub number: usize,
    pub result: Result<Detection, DetectError>,
    /// The place of the root that it was found in, if it was opened.
    pub root: Option<usize>,
    /// If it was audited. What is in `result` is libmagic's answer then.
    pub audit: Option<Audit>,
    /// Time that opening and reading it took.
    pub read_time: Duration,
    /// Time that all of the look took.
    pub look_time: Duration,
}

/// What came of an audit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Audit {
    Agrees,
    /// What the detector said, and what libmagic says of the whole file with all its rules.
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
    /// The store as a whole has gone, so nothing can be said of any blob.
    Store(StoreError),
}

/// A detector thread that can't begin.
#[derive(Debug)]
pub enum StartError {
    Detector(DetectorError),
    /// No thread could be made.
    System(std::io::Error),
}

/// The owner's end. Dropped, it leaves the thread to finish the blob at hand, and doesn't wait for it.
pub struct DetectorThread {
    requests: Sender<Vec<BlobId>>,
    mailbox: Arc<Mailbox>,
    thread: JoinHandle<()>,
    readers: Arc<ReaderPool>,
    watched: Option<Watched>,
    /// What libmagic gets wrong of known files, see [`Detector::complaints`].
    pub complaints: Vec<String>,
}

/// What both ends see.
struct Mailbox {
    done: Mutex<Vec<Detected>>,
    /// Readable when there is something to collect.
    wakeup_fd: OwnedFd,
    /// Twice the blobs begun so far, less one while one is being looked at.
    looks: AtomicU64,
    /// Its place in the order.
    at: AtomicU64,
    leave: AtomicBool,
    /// Of so many blobs one is audited; 0: none.
    audit_interval: AtomicU32,
    /// The prefilter isn't to be used any more.
    without_prefilter: AtomicBool,
}

/// The look that was under way when the owner last asked.
struct Watched {
    look: u64,
    /// Processor time of the thread at that moment.
    since: Duration,
}

impl DetectorThread {
    /// Starts the thread, with a libmagic of its own. Takes milliseconds. While the store is slow, it has up to
    /// `read_ahead` blobs in flight before it gets there. All of its threads are nicer by `nice`, 0 to [`NICEST`].
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
                // Here, since a libmagic belongs to the thread that opens it.
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
                    // Nobody to tell: then nobody needs to know.
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

    /// Of so many blobs that are judged with the prefilter, one is audited from now on; 0: none.
    pub fn audit_every(&self, interval: u32) {
        self.mailbox
            .audit_interval
            .store(interval, Ordering::Relaxed);
    }

    /// From the next blob on, libmagic judges with all its rules.
    pub fn give_up_prefilter(&self) {
        self.mailbox
            .without_prefilter
            .store(true, Ordering::Relaxed);
    }

    /// Asks for looks at blobs, in this order. One lot at a time: the next one when all of this has been
    /// collected.
    pub fn submit(&mut self, blobs: Vec<BlobId>) {
        // If the thread has died, `has_died` says so.
        let _ = self.requests.send(blobs);
    }

    /// Takes what is done, and resets the wakeup fd.
    pub fn drain(&mut self) -> Vec<Detected> {
        let mut count = [0; 8];
        // EAGAIN when it hasn't rung.
        let _ = retry_on_intr(|| rustix::io::read(&self.mailbox.wakeup_fd, &mut count));
        std::mem::take(
            &mut *self
                .mailbox
                .done
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }

    /// Becomes readable when there is something to collect, for waiting.
    pub fn wakeup_fd(&self) -> BorrowedFd<'_> {
        self.mailbox.wakeup_fd.as_fd()
    }

    /// The place in its order of a blob that has taken more than [`OVERDUE`], if one has. To be asked
    /// every now and then. Processor time, since a disk may be slow for no fault of a blob.
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
        // SAFETY: the thread isn't joined or detached as long as its handle lives; both calls only fill
        // what they are given.
        let known = unsafe {
            libc::pthread_getcpuclockid(self.thread.as_pthread_t(), &mut clock) == 0
                && libc::clock_gettime(clock, &mut time) == 0
        };
        known.then(|| Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
    }

    /// Has the thread ended by a defect of its own?
    pub fn has_died(&self) -> bool {
        self.thread.is_finished()
    }
}

impl Drop for DetectorThread {
    fn drop(&mut self) {
        self.mailbox.leave.store(true, Ordering::Relaxed);
        // By itself the thread would send them home only once it is done with the blob at hand.
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
            // It fails only if it has been rung 2^64 times.
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
                    // A look of its own, with as much time as any has: what the first took doesn't count.
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

    /// Is this a blob to be audited? The same in all runs with the same interval: an id is a hash, and its last bytes are
    /// as good as chance.
    fn is_chosen(&self, id: &BlobId) -> bool {
        let interval = self.mailbox.audit_interval.load(Ordering::Relaxed);
        let [.., a, b, c, d, e, f, g, h] = *id.as_bytes();
        let number = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
        self.config.prefilter && interval > 0 && number.is_multiple_of(u64::from(interval))
    }

    /// Is it the blob's failure, or has the store gone?
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

/// Judges a blob again, by all of it and all rules. What that gives is what counts, be it an error.
fn audit_of(
    detector: &mut Detector,
    blob: &Blob,
    found: Detection,
) -> (Result<Detection, Failure>, Audit) {
    let (said, read) = detector.detect_whole(blob);
    // Each byte once: what the first look has read is read again, and more.
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

/// Runs `work` with all signals blocked but those that tell of a crash, for a thread made in it to
/// inherit: signals to a server process are for its main thread.
fn with_signals_blocked<T>(work: impl FnOnce() -> T) -> T {
    // SAFETY: plain calls on valid sets; the mask is put back before anything else runs.
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
