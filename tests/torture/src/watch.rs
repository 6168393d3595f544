//! Workers and what they leave behind, watched from outside the server, since a fault may end every session.

use std::fs;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;

/// The interval between samples.
const EVERY: Duration = Duration::from_millis(10);

/// How the segment of a run begins (`MAGIC` in src/backfill/shared.rs), without its last letter, which is that of the
/// layout.
const RUN_SEGMENT: u64 = u64::from_be_bytes(*b"\0ntt_run");

/// The name of a run's cache memory among the descriptors of a process.
const RUN_CACHE: &str = "/memfd:ntt_mime run cache";

/// The folder of in-flight records of blobs that are being detected, below the data folder.
const IN_FLIGHT: &str = "pgsql_tmp_ntt_mime";

/// The processes of the server whose data folder this is.
fn processes(data: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|process| fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd == data))
        .collect()
}

/// The workers of the server whose data folder this is.
pub fn workers(data: &Path) -> Vec<i32> {
    let pid_of = |process: PathBuf| {
        let title = fs::read(process.join("cmdline")).ok()?;
        let worker = String::from_utf8_lossy(&title).contains("ntt_mime worker");
        let pid = process.file_name()?.to_str()?.parse().ok()?;
        worker.then_some(pid)
    };
    processes(data).into_iter().filter_map(pid_of).collect()
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

/// Shared memory of runs that exists now: segments that have a name, and caches that a process still holds.
pub fn run_memory(data: &Path) -> Vec<String> {
    let entries = fs::read_dir("/dev/shm").into_iter().flatten().flatten();
    let is_segment = |path: &PathBuf| {
        let mut beginning = [0; 8];
        let read = fs::File::open(path).and_then(|mut file| file.read_exact(&mut beginning));
        // One that has nothing in it yet was left by somebody who was just making it.
        let beginning = u64::from_ne_bytes(beginning);
        read.is_ok() && (beginning >> 8 == RUN_SEGMENT || beginning == 0)
    };
    let segments = entries.map(|entry| entry.path()).filter(is_segment);
    let caches = processes(data).into_iter().filter(|process| {
        let descriptors = fs::read_dir(process.join("fd"))
            .into_iter()
            .flatten()
            .flatten();
        let mut links = descriptors.filter_map(|entry| fs::read_link(entry.path()).ok());
        links.any(|link| link.to_string_lossy().starts_with(RUN_CACHE))
    });
    let found = segments.chain(caches);
    found.map(|path| path.display().to_string()).collect()
}

/// In-flight records of processes that are gone: a process that lives holds its record's lock.
pub fn stale_records(data: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(data.join(IN_FLIGHT)) else {
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
