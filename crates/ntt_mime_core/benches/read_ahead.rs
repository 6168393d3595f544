//! Files a second from a cold store: detector threads with and without reading ahead, beside plain readers of heads.
//!
//!     cargo bench -p ntt_mime_core --bench read_ahead -- STORE COLD [BLOBS [ROUNDS]]
//!
//! STORE has blobs as the extension reads them; BLOBS of them are taken (3,000), ROUNDS times (3), by all in turn.
//! COLD says how the store is made cold before each:
//!
//! - `slow` shows it through benches/slow_disk.py: a disk that serves 16 requests at a time, in 3 ms each;
//! - `drop` makes Linux drop its caches, all of them, which disturbs whatever else the machine does;
//! - `hot` doesn't, after a first round that doesn't count: what reading ahead costs where it is of no use;
//! - anything else is a command, such as `umount /mnt && mount /mnt`.
//!
//! All but `hot` as root. Medians, and ratios to 16 plain readers; the processor time shows what the machine has to do
//! with it: on a disk so fast that readers keep all processors busy, who judges too can't keep up with them.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ntt_mime_core::blob_id::BlobId;
use ntt_mime_core::detector::{Detector, DetectorConfig};
use ntt_mime_core::detector_thread::DetectorThread;
use ntt_mime_core::store::Store;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::Advice;

const HEAD_BYTES: usize = 16 * 1024;
const CONFIG: DetectorConfig = DetectorConfig {
    head_bytes: HEAD_BYTES,
    prefilter: true,
};

/// Blobs of an order, and of what one hints at ahead.
const LOT: usize = 200;
const HINTS: usize = 16;

type Answers = Mutex<BTreeMap<BlobId, String>>;

#[derive(Clone, Copy)]
enum Contestant {
    /// Threads that read heads, and do nothing with them.
    Plain(usize),
    /// Threads that open a few blobs ahead of the one they judge, with a hint that they will be read.
    Hinting(usize),
    /// Detector threads, each with so many blobs in flight.
    DetectorThreads(usize, usize),
}

use Contestant::{DetectorThreads, Hinting, Plain};

const CONTESTANTS: [(&str, Contestant); 9] = [
    ("16 plain readers", Plain(16)),
    ("1 plain reader", Plain(1)),
    ("2 detectors that hint", Hinting(2)),
    ("1 detector thread, read_ahead 0", DetectorThreads(1, 0)),
    ("1 detector thread, read_ahead 16", DetectorThreads(1, 16)),
    ("2 detector threads, read_ahead 0", DetectorThreads(2, 0)),
    ("2 detector threads, read_ahead 8", DetectorThreads(2, 8)),
    ("2 detector threads, read_ahead 16", DetectorThreads(2, 16)),
    ("2 detector threads, read_ahead 32", DetectorThreads(2, 32)),
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let arguments: Vec<&str> = arguments.into_iter().filter(|a| *a != "--bench").collect();
    let [store, cold, numbers @ ..] = arguments.as_slice() else {
        println!("usage: read_ahead STORE slow|drop|hot|COMMAND [BLOBS [ROUNDS]]");
        return;
    };
    let number = |at: usize, default| {
        numbers
            .get(at)
            .map_or(default, |n| n.parse().expect("a number"))
    };
    let (blobs, rounds) = (number(0, 3000), number(1, 3));
    let store = fs::canonicalize(store).expect("a store");
    let ids = some_of(&store, blobs);
    let cold = Cold::new(cold, store);
    // Whoever comes first on a hot store has to heat it.
    let uncounted = usize::from(matches!(cold.way, Way::Hot));
    let mut times = [const { Vec::new() }; CONTESTANTS.len()];
    let mut answers = BTreeMap::new();
    for round in 0..rounds + uncounted {
        for ((name, contestant), times) in CONTESTANTS.iter().zip(&mut times) {
            let root = cold.make();
            let (of_this, begun, busy) = (Answers::default(), Instant::now(), processor_time());
            contestant.work(&root, &ids, &of_this);
            let (took, busy) = (begun.elapsed(), processor_time() - busy);
            for (id, answer) in of_this.into_inner().expect("none has panicked") {
                let known = answers.entry(id).or_insert_with(|| answer.clone());
                assert_eq!(*known, answer, "{name}: {id}");
            }
            if round >= uncounted {
                times.push((took, busy));
            }
        }
    }
    println!("{} blobs, medians of {rounds}:", ids.len());
    let medians = times.map(|mut times| {
        times.sort_unstable();
        times[times.len() / 2]
    });
    for ((name, _), (took, busy)) in CONTESTANTS.iter().zip(medians) {
        println!(
            "{name:28} {:7.0} files/s, ratio {:.2}, processor {:4.0} us a file",
            ids.len() as f64 / took.as_secs_f64(),
            medians[0].0.as_secs_f64() / took.as_secs_f64(),
            busy.as_secs_f64() * 1e6 / ids.len() as f64,
        );
    }
}

/// Blobs of a store in an arbitrary order, the same each time.
fn some_of(store: &Path, blobs: usize) -> Vec<BlobId> {
    let files = walkdir::WalkDir::new(store).into_iter();
    let files = files.map(|entry| entry.expect("a store that can be read"));
    let files = files.filter(|entry| entry.file_type().is_file());
    let mut ids: Vec<BlobId> = files
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    ids.sort_unstable_by_key(|id| *id.as_bytes());
    fastrand::seed(1);
    fastrand::shuffle(&mut ids);
    ids.truncate(blobs);
    assert!(!ids.is_empty(), "no blobs in {}", store.display());
    ids
}

/// How a store is made cold.
struct Cold {
    store: PathBuf,
    way: Way,
}

enum Way {
    Hot,
    Drop,
    Slow(tempfile::TempDir),
    Command(String),
}

impl Cold {
    fn new(how: &str, store: PathBuf) -> Cold {
        let way = match how {
            "hot" => Way::Hot,
            "drop" => Way::Drop,
            "slow" => Way::Slow(tempfile::tempdir().expect("a folder")),
            command => Way::Command(command.to_owned()),
        };
        Cold { store, way }
    }

    /// Returns where it is to be read now.
    fn make(&self) -> PathBuf {
        match &self.way {
            Way::Hot => {}
            Way::Drop => fs::write("/proc/sys/vm/drop_caches", "3").expect("root"),
            Way::Slow(folder) => {
                unmount(folder.path());
                let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../benches/slow_disk.py");
                let mut mount = Command::new("python3");
                mount.arg(script).arg(&self.store).arg(folder.path());
                assert!(mount.status().expect("python3").success());
                return folder.path().to_owned();
            }
            Way::Command(command) => {
                let status = Command::new("sh").arg("-c").arg(command).status();
                assert!(status.expect("sh").success());
            }
        }
        self.store.clone()
    }
}

impl Drop for Cold {
    fn drop(&mut self) {
        if let Way::Slow(folder) = &self.way {
            unmount(folder.path());
        }
    }
}

/// Threads that nobody waits for may still have it open for a moment.
fn unmount(folder: &Path) {
    let mounted = || {
        fs::read_to_string("/proc/mounts").is_ok_and(|all| all.contains(&*folder.to_string_lossy()))
    };
    while mounted() {
        let _ = Command::new("umount").arg("-q").arg(folder).status();
        std::thread::sleep(Duration::from_millis(10));
    }
}

impl Contestant {
    fn work(self, root: &Path, ids: &[BlobId], answers: &Answers) {
        let (threads, lots) = match self {
            Plain(threads) => (threads, ids.chunks(1)),
            Hinting(threads) => (threads, ids.chunks(LOT)),
            DetectorThreads(threads, _) => (threads, ids.chunks(LOT)),
        };
        let lots: Vec<&[BlobId]> = lots.collect();
        let next = AtomicUsize::new(0);
        let store = || Store::open(root.to_str().expect("a plain name")).expect("a store");
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    let mine = std::iter::from_fn(|| {
                        lots.get(next.fetch_add(1, Ordering::Relaxed)).copied()
                    });
                    match self {
                        Plain(_) => read_plainly(&store(), mine),
                        Hinting(_) => hint(&store(), mine, answers),
                        DetectorThreads(_, depth) => examine(store(), depth, mine, answers),
                    }
                });
            }
        });
    }
}

fn read_plainly<'a>(store: &Store, lots: impl Iterator<Item = &'a [BlobId]>) {
    let mut head = vec![0; HEAD_BYTES];
    for id in lots.flatten() {
        let blob = store.open_blob(id).expect("it is there");
        rustix::io::pread(blob.as_fd(), &mut head, 0).expect("it can be read");
    }
}

fn hint<'a>(store: &Store, lots: impl Iterator<Item = &'a [BlobId]>, answers: &Answers) {
    let mut detector = Detector::new(CONFIG).expect("libmagic");
    detector.prepare();
    let mut rest = lots.flatten();
    let mut opened = VecDeque::new();
    let mut found = BTreeMap::new();
    loop {
        opened.extend(rest.by_ref().take(HINTS - opened.len()).map(|id| {
            let blob = store.open_blob(id).expect("it is there");
            let head = NonZeroU64::new(HEAD_BYTES as u64);
            rustix::fs::fadvise(blob.as_fd(), 0, head, Advice::WillNeed).expect("a hint");
            (*id, blob)
        }));
        let Some((id, blob)) = opened.pop_front() else {
            break;
        };
        let detection = detector.detect_blob(&blob).expect("it has a type");
        found.insert(id, detection.mime_type);
    }
    answers.lock().expect("none has panicked").extend(found);
}

/// As a worker does, but for its latch.
fn examine<'a>(
    store: Store,
    depth: usize,
    lots: impl Iterator<Item = &'a [BlobId]>,
    answers: &Answers,
) {
    let mut detector_thread =
        DetectorThread::start(store, CONFIG, depth, 0, None).expect("a thread");
    let mut found = BTreeMap::new();
    for lot in lots {
        detector_thread.submit(lot.to_vec());
        let mut done = 0;
        while done < lot.len() {
            let wakeup_fd = detector_thread.wakeup_fd();
            let mut heard = [PollFd::new(&wakeup_fd, PollFlags::IN)];
            poll(&mut heard, None).expect("poll");
            for detected in detector_thread.drain() {
                done += 1;
                let detection = detected.result.expect("it has a type");
                found.insert(lot[detected.number], detection.mime_type);
            }
        }
    }
    answers.lock().expect("none has panicked").extend(found);
}

/// Of this process.
fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
