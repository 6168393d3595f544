//! Workers and what they leave behind, seen from outside the server, since a fault may take every session.

use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;

/// How often is looked.
const EVERY: Duration = Duration::from_millis(10);

/// Segments from this size on are a run's, which has `ntt_mime.cache_size` in it. The server's statistics take smaller
/// ones, and keep them.
const RUN_SEGMENT: u64 = 16 << 20;

/// The folder of notes about blobs that are being detected, below the data folder.
const NOTES: &str = "pgsql_tmp_ntt_mime";

/// The workers of the server whose data folder this is.
pub fn workers(data: &Path) -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let title = fs::read(entry.path().join("cmdline")).ok()?;
            let title = String::from_utf8_lossy(&title);
            let ours = || fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd == data);
            (title.contains("ntt_mime worker") && ours()).then_some(pid)
        })
        .collect()
}

/// Looks for workers from its making until it is asked.
pub struct Watch {
    stop: Arc<AtomicBool>,
    last_seen: Arc<Mutex<Option<Instant>>>,
    thread: JoinHandle<()>,
}

impl Watch {
    pub fn begin(data: &Path) -> Watch {
        let stop = Arc::new(AtomicBool::new(false));
        let last_seen = Arc::new(Mutex::new(None));
        let (data, stopped, seen): (PathBuf, _, _) =
            (data.to_owned(), Arc::clone(&stop), Arc::clone(&last_seen));
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::SeqCst) {
                if !workers(&data).is_empty() {
                    *seen.lock().expect("last_seen") = Some(Instant::now());
                }
                std::thread::sleep(EVERY);
            }
        });
        Watch {
            stop,
            last_seen,
            thread,
        }
    }

    /// When the last worker was seen, if any was.
    pub fn end(self) -> Option<Instant> {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().expect("it only looks");
        *self.last_seen.lock().expect("last_seen")
    }
}

/// Shared memory of runs that exists now.
pub fn run_segments() -> Vec<String> {
    let Ok(entries) = fs::read_dir("/dev/shm") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter(|entry| entry.metadata().is_ok_and(|meta| meta.len() >= RUN_SEGMENT))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with("PostgreSQL."))
        .collect()
}

/// Notes of processes that are gone: a process that lives holds its note's lock.
pub fn stale_notes(data: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(data.join(NOTES)) else {
        return Vec::new();
    };
    entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            let Ok(file) = fs::File::open(path) else {
                return false;
            };
            rustix::fs::flock(file.as_fd(), FlockOperation::NonBlockingLockExclusive).is_ok()
        })
        .collect()
}

/// Anonymous memory of a process, in kB.
pub fn anonymous_memory(pid: i32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("RssAnon:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}
