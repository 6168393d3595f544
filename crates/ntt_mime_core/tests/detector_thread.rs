//! The detector thread beside a detector that is called directly, and what it does when something is in its way.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ntt_mime_core::blob_id::BlobId;
use ntt_mime_core::detector::{Detector, DetectorConfig};
use ntt_mime_core::detector_thread::{DetectError, Detected, DetectorThread};
use ntt_mime_core::failure::FailureReason;
use ntt_mime_core::in_flight::{BackendKind, InFlightRecord};
use ntt_mime_core::store::Store;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

const CONFIG: DetectorConfig = DetectorConfig {
    head_bytes: 16 * 1024,
    prefilter: true,
};

fn id(n: u8) -> BlobId {
    BlobId::from_bytes([n; 32])
}

fn put(root: &Path, id: &BlobId, content: &[u8]) {
    let path = root.join(id.relative_path());
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

fn open(root: &Path) -> Store {
    Store::open(root.to_str().unwrap()).unwrap()
}

fn start(root: &Path, in_flight: Option<Arc<InFlightRecord>>) -> DetectorThread {
    start_ahead(root, 16, in_flight)
}

/// With so many blobs in flight.
fn start_ahead(
    root: &Path,
    read_ahead: usize,
    in_flight: Option<Arc<InFlightRecord>>,
) -> DetectorThread {
    let detector_thread = DetectorThread::start(open(root), CONFIG, read_ahead, 0, in_flight)
        .unwrap_or_else(|e| panic!("{e:?}"));
    assert_eq!(detector_thread.complaints, Vec::<String>::new());
    detector_thread
}

/// Requests and waits as a worker does: until it is woken.
fn detect(detector_thread: &mut DetectorThread, ids: Vec<BlobId>) -> Vec<Detected> {
    let (wanted, begun) = (ids.len(), Instant::now());
    detector_thread.submit(ids);
    let mut done = Vec::new();
    while done.len() < wanted {
        assert!(begun.elapsed() < Duration::from_secs(60) && !detector_thread.has_died());
        let wakeup_fd = detector_thread.wakeup_fd();
        let mut heard = [PollFd::new(&wakeup_fd, PollFlags::IN)];
        let timeout = Timespec {
            tv_sec: 60,
            tv_nsec: 0,
        };
        let any = poll(&mut heard, Some(&timeout)).unwrap();
        assert_eq!(any, 1, "results without a wakeup");
        done.extend(detector_thread.drain());
    }
    assert!(detector_thread.drain().is_empty());
    done
}

#[test]
fn it_gives_the_answers_of_a_detector_in_the_order_asked_for() {
    let root = tempfile::tempdir().unwrap();
    let folder = tempfile::tempdir().unwrap();
    for n in 0..=200 {
        let content = match n % 4 {
            0 => format!("%PDF-1.7\n{n}"),
            1 => format!("{{\"n\": {n}}}"),
            2 => format!("<?xml version=\"1.0\"?><n>{n}</n>"),
            _ => String::new(),
        };
        put(root.path(), &id(n), content.as_bytes());
    }
    let in_flight = Arc::new(InFlightRecord::begin(folder.path(), 1, BackendKind::Worker).unwrap());
    let mut detector = Detector::new(CONFIG).unwrap();
    let store = open(root.path());
    let known = |id: &BlobId| id.as_bytes()[0] <= 200;
    for read_ahead in [0, 1, 128] {
        let mut detector_thread =
            start_ahead(root.path(), read_ahead, Some(Arc::clone(&in_flight)));
        for round in 0..3 {
            let ids: Vec<BlobId> = (0..=200u8).map(|n| id(n ^ round)).filter(known).collect();
            let done = detect(&mut detector_thread, ids.clone());
            for (number, (id, detected)) in ids.iter().zip(done).enumerate() {
                let directly = detector.detect_blob(&store.open_blob(id).unwrap()).unwrap();
                let detection = detected.result.unwrap();
                assert_eq!(detected.number, number);
                assert_eq!(detection.mime_type, directly.mime_type);
                assert_eq!(detection.bytes_read, directly.bytes_read);
            }
        }
        assert_eq!(detector_thread.overdue(), None);
    }
}

#[test]
fn a_blob_without_a_file_is_its_own_failure() {
    let root = tempfile::tempdir().unwrap();
    put(root.path(), &id(1), b"%PDF-1.4\n");
    fs::create_dir_all(root.path().join(id(2).relative_path())).unwrap();
    let mut detector_thread = start(root.path(), None);
    let done = detect(&mut detector_thread, vec![id(1), id(2), id(3)]);
    let reasons: BTreeMap<usize, FailureReason> = done
        .into_iter()
        .filter_map(|detected| match detected.result {
            Ok(_) => None,
            Err(DetectError::Blob(failure)) => Some((detected.number, failure.reason)),
            Err(DetectError::Store(error)) => panic!("{error}"),
        })
        .collect();
    let expected = [(1, FailureReason::NotAFile), (2, FailureReason::Missing)];
    assert_eq!(reasons, expected.into());
}

#[test]
fn a_store_that_has_gone_is_not_a_failure_of_its_blobs() {
    let parent = tempfile::tempdir().unwrap();
    let root = parent.path().join("store");
    put(&root, &id(1), b"%PDF-1.4\n");
    let mut detector_thread = start(&root, None);
    fs::rename(&root, parent.path().join("unmounted")).unwrap();
    fs::create_dir(&root).unwrap();
    // What can still be read through the open directory is right; what isn't there proves nothing.
    let done = detect(&mut detector_thread, vec![id(1), id(2)]);
    assert!(done[0].result.is_ok());
    assert!(matches!(done[1].result, Err(DetectError::Store(_))));
}

#[test]
fn its_owner_does_not_wait_for_it_to_end() {
    let root = tempfile::tempdir().unwrap();
    // Half a second of libmagic's time at least, each.
    for n in 0..20 {
        put(
            root.path(),
            &id(n),
            "\n".repeat(60_000 + usize::from(n)).as_bytes(),
        );
    }
    let mut detector_thread = start(root.path(), None);
    detector_thread.submit((0..20).map(id).collect());
    let begun = Instant::now();
    drop(detector_thread);
    assert!(begun.elapsed() < Duration::from_millis(200));
}

#[test]
fn what_an_audit_reads_is_counted_once() {
    let root = tempfile::tempdir().unwrap();
    let mut content = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec();
    content.resize(300_000, 7);
    put(root.path(), &id(1), &content);
    let mut detector_thread = start(root.path(), None);
    let mut bytes_read = |interval| {
        detector_thread.audit_every(interval);
        let detected = detect(&mut detector_thread, vec![id(1)]).remove(0);
        assert_eq!(detected.audit.is_some(), interval > 0);
        let found = detected.result.unwrap_or_else(|error| panic!("{error:?}"));
        assert_eq!(found.mime_type, "image/png");
        found.bytes_read
    };
    assert!(bytes_read(0) < 100_000);
    assert_eq!(bytes_read(1), 300_000);
}
