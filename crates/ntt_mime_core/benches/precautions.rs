//! What the precautions cost: an in-flight record of each blob, and a thread that looks at blobs for its owner.
//!
//! `cargo bench -p ntt_mime_core`. Both ways in turn, on the same files, in one run; medians of the rounds.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ntt_mime_core::blob_id::BlobId;
use ntt_mime_core::detector::{Detector, DetectorConfig};
use ntt_mime_core::detector_thread::DetectorThread;
use ntt_mime_core::in_flight::{BackendKind, InFlightRecord};
use ntt_mime_core::store::Store;
use rustix::event::{PollFd, PollFlags, poll};

const CONFIG: DetectorConfig = DetectorConfig {
    head_bytes: 16 * 1024,
    prefilter: true,
};
const BLOBS: usize = 2000;
const LOTS: [usize; 3] = [1, 20, 1000];
const ROUNDS: usize = 7;

fn main() {
    let folder = tempfile::tempdir().expect("a folder");
    let in_flight =
        InFlightRecord::begin(folder.path(), 1, BackendKind::Worker).expect("an in-flight record");
    println!(
        "an in-flight record: {:.1} ns a blob",
        record_ns(&in_flight)
    );

    let root = tempfile::tempdir().expect("a folder");
    let ids: Vec<BlobId> = (0..BLOBS).map(|n| put(root.path(), n)).collect();
    let store = || Store::open(root.path().to_str().expect("a plain name")).expect("a store");
    let mut detector = Detector::new(CONFIG).expect("libmagic");
    let direct_store = store();
    let mut detector_thread =
        DetectorThread::start(store(), CONFIG, 16, 0, Some(Arc::new(in_flight))).expect("a thread");
    let mut direct = Vec::new();
    let mut detected = [const { Vec::new() }; LOTS.len()];
    for _ in 0..ROUNDS {
        direct.push(timed(|| {
            for id in &ids {
                let blob = direct_store.open_blob(id).expect("it is there");
                black_box(detector.detect_blob(&blob)).expect("it has a type");
            }
        }));
        for (lot, times) in LOTS.iter().zip(&mut detected) {
            times.push(timed(|| {
                ids.chunks(*lot)
                    .for_each(|ids| examine(&mut detector_thread, ids));
            }));
        }
    }
    let us = |time: Duration| time.as_secs_f64() * 1e6 / BLOBS as f64;
    let direct = us(median(direct));
    println!(
        "opened and judged directly: {direct:.1} us a blob (PDF heads, the cheapest there are)"
    );
    for (lot, times) in LOTS.iter().zip(detected) {
        let time = us(median(times));
        println!(
            "by the detector thread in lots of {lot}: {time:.1} us a blob, ratio {:.3}",
            time / direct
        );
    }
}

fn put(root: &std::path::Path, n: usize) -> BlobId {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&(n as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes());
    let id = BlobId::from_bytes(bytes);
    let path = root.join(id.relative_path());
    std::fs::create_dir_all(path.parent().expect("two folders")).expect("a folder");
    std::fs::write(path, format!("%PDF-1.4\n% {n}\n")).expect("a file");
    id
}

/// As a worker does, but for its latch.
fn examine(detector_thread: &mut DetectorThread, ids: &[BlobId]) {
    detector_thread.submit(ids.to_vec());
    let mut done = 0;
    while done < ids.len() {
        let wakeup_fd = detector_thread.wakeup_fd();
        let mut heard = [PollFd::new(&wakeup_fd, PollFlags::IN)];
        poll(&mut heard, None).expect("poll");
        done += detector_thread.drain().len();
    }
}

fn record_ns(in_flight: &InFlightRecord) -> f64 {
    const RECORDS: u32 = 10_000_000;
    let id = BlobId::from_bytes([7; 32]);
    let time = timed(|| {
        for n in 0..RECORDS {
            in_flight.during(black_box(&id), || black_box(n));
        }
    });
    time.as_secs_f64() * 1e9 / f64::from(RECORDS)
}

fn timed(work: impl FnOnce()) -> Duration {
    let begun = Instant::now();
    work();
    begun.elapsed()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
