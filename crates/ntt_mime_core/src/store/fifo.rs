//! For tests of what is never opened: a thread that sees a FIFO being opened.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, TryRecvError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};

/// Nothing that happens takes longer, on a loaded machine either.
const FOREVER: Duration = Duration::from_secs(60);

/// A thread that has a FIFO opened for writing, which lasts until somebody opens it for reading.
pub struct FifoWriter {
    path: PathBuf,
    /// Of the thread, as /proc has it.
    id: i32,
    opened: Receiver<()>,
    thread: JoinHandle<()>,
}

impl FifoWriter {
    /// Makes the FIFO, and waits for the thread to wait in open().
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

    /// Has nobody opened the FIFO yet? The thread sleeps in open() alone: one that has been woken is running until it has
    /// sent word.
    pub fn waits(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/self/task/{}/stat", self.id));
        let sleeps = stat.is_ok_and(|stat| stat.contains(") S "));
        sleeps && self.opened.try_recv() == Err(TryRecvError::Empty)
    }

    /// Opens the FIFO, which the thread sees.
    pub fn end(self) {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK;
        let _reader = rustix::fs::open(&self.path, flags, Mode::empty()).unwrap();
        self.opened.recv_timeout(FOREVER).unwrap();
        self.thread.join().unwrap();
    }
}
