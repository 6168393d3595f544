//! A blob that takes for ever: `cargo test -p ntt_mime_core --features poison --test poison`.
#![cfg(feature = "poison")]

use std::time::{Duration, Instant};

use ntt_mime_core::blob_id::BlobId;
use ntt_mime_core::detector::DetectorConfig;
use ntt_mime_core::detector_thread::DetectorThread;
use ntt_mime_core::store::Store;

#[test]
fn a_blob_that_takes_for_ever_is_overdue() {
    let root = tempfile::tempdir().unwrap();
    let ids: Vec<BlobId> = (0..3).map(|n| BlobId::from_bytes([n; 32])).collect();
    for id in &ids {
        let path = root.path().join(id.relative_path());
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, b"%PDF-1.4\n").unwrap();
    }
    // SAFETY: the only test of this process, and no other thread yet.
    unsafe { std::env::set_var("NTT_MIME_POISON", format!("hang:{}", ids[1])) };
    let store = Store::open(root.path().to_str().unwrap()).unwrap();
    let config = DetectorConfig {
        head_bytes: 16 * 1024,
        prefilter: true,
    };
    let mut detector_thread =
        DetectorThread::start(store, config, 16, 0, None).unwrap_or_else(|e| panic!("{e:?}"));
    detector_thread.submit(ids);
    let begun = Instant::now();
    let overdue = loop {
        match detector_thread.overdue() {
            None if begun.elapsed() > Duration::from_secs(60) => panic!("not in a minute"),
            None => std::thread::sleep(Duration::from_millis(50)),
            Some(at) => break at,
        }
    };
    assert_eq!(overdue, 1);
    assert_eq!(detector_thread.drain().len(), 1);
    assert!(!detector_thread.has_died());
}
