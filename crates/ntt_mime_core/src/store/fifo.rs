//! For tests that something is never opened: a thread that notices when a FIFO is opened.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, TryRecvError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};

/// Longer than anything takes, even on a loaded machine.
const FOREVER: Duration = Duration::from_secs(60);

/// A thread that opens a FIFO for writing, which blocks until somebody opens it for reading.
pub struct FifoWriter {
    path: PathBuf,
    /// The id of the thread, as in /proc.
    id: i32,
    opened: Receiver<()>,
    thread: JoinHandle<()>,
}

impl FifoWriter {
    /// Creates the FIFO, and waits until the thread is blocked in open().
    pub fn start(path: &Path) -> FifoWriter {
        mknodat(CWD, path, FileType::Fifo, Mode::from(0o644), 0).unwrap();
        let (began, begins) = mpsc::channel();
        let (sender, opened) = mpsc::channel();
        let thread = std::thread::spawn({
            let path = path.to_owned();
            move || {
                began.send(rustix::thread::gettid()).unwrap();
                let file = rustix::fs::open(&path, OFlags::WRONLY, Mode::empty());
                sender.send(()).unwrap();
                drop(file);
            }
        });
        let writer = FifoWriter {
            path: path.to_owned(),
            id: begins.recv().unwrap().as_raw_nonzero().get(),
            opened,
            thread,
        };
        let begun = Instant::now();
        while !writer.waits() {
            assert!(begun.elapsed() < FOREVER, "the writer never waits");
            std::thread::sleep(Duration::from_millis(1));
        }
        writer
    }

    /// Whether nobody has opened the FIFO yet. The thread sleeps only in open(): once woken, it runs until it has
    /// reported that.
    pub fn waits(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/self/task/{}/stat", self.id));
        let sleeps = stat.is_ok_and(|stat| stat.contains(") S "));
        sleeps && self.opened.try_recv() == Err(TryRecvError::Empty)
    }

    /// Opens the FIFO, so that the thread ends.
    pub fn end(self) {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK;
        let _reader = rustix::fs::open(&self.path, flags, Mode::empty()).unwrap();
        self.opened.recv_timeout(FOREVER).unwrap();
        self.thread.join().unwrap();
    }
}
