//! Readers of a store that is as slow, and as broken, as a test wants it.

use super::*;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::mpsc;

use crate::store::fifo::FifoWriter;

const DEPTH: usize = 4;
const FOREVER: Duration = Duration::from_secs(60);

fn id(n: usize) -> BlobId {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&n.to_le_bytes());
    BlobId::from_bytes(bytes)
}

fn number(id: &BlobId) -> usize {
    usize::from_le_bytes(id.as_bytes()[..8].try_into().unwrap())
}

fn order(blobs: usize) -> Arc<Vec<BlobId>> {
    Arc::new((0..blobs).map(id).collect())
}

/// How often each blob has been fetched.
#[derive(Clone, Default)]
struct Fetched(Arc<Mutex<BTreeMap<usize, u32>>>);

impl Fetched {
    fn add(&self, id: &BlobId) {
        *self.0.lock().unwrap().entry(number(id)).or_default() += 1;
    }

    fn numbers(&self) -> Vec<usize> {
        self.0.lock().unwrap().keys().copied().collect()
    }
}

/// `work` is what happens at a blob, when it is on record.
fn readers(
    fetched: &Fetched,
    depth: usize,
    work: impl Fn(usize) + Send + Sync + 'static,
) -> ReadAhead {
    let fetched = fetched.clone();
    let fetch = move |id: &BlobId, _: &mut [u8; PIECE]| {
        fetched.add(id);
        work(number(id));
    };
    ReadAhead::by(Box::new(fetch), depth)
}

/// The detector thread is at a blob, and has waited for its file.
fn wait_at(ahead: &mut ReadAhead, number: usize) {
    ahead.come_to(number);
    for _ in 0..100 {
        ahead.record(number, LONGEST);
    }
    assert!(ahead.awake);
}

fn wait_until(what: &str, happened: impl Fn() -> bool) {
    let begun = Instant::now();
    while !happened() {
        assert!(begun.elapsed() < FOREVER, "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Whether the readers have gone as far as they may, except `stuck` of them that don't come back.
fn caught_up(ahead: &ReadAhead, stuck: usize) -> bool {
    let requests = ahead.pool.requests();
    let next = requests.next.max(ahead.pool.at.load(Ordering::Relaxed) + 1);
    requests.idle == ahead.depth - stuck && next >= requests.end
}

fn slow() {
    std::thread::sleep(Duration::from_millis(1));
}

#[test]
#[cfg(not(feature = "poison"))]
fn a_store_in_memory_starts_no_reader() {
    let fetched = Fetched::default();
    let mut ahead = readers(&fetched, DEPTH, |_| {});
    for _ in 0..10 {
        ahead.take_request(&order(1000));
        for number in 0..1000 {
            ahead.come_to(number);
            // Now and then a thread has to wait for its processor.
            let odd = number % 200 == 7;
            ahead.record(number, Duration::from_micros(if odd { 9000 } else { 10 }));
        }
    }
    assert!(!ahead.started);
    assert_eq!(Arc::strong_count(&ahead.pool), 1);
}

#[test]
fn without_depth_there_are_no_readers() {
    let fetched = Fetched::default();
    let mut ahead = readers(&fetched, 0, |_| {});
    ahead.take_request(&order(1000));
    for number in 0..1000 {
        ahead.come_to(number);
        ahead.record(number, LONGEST);
    }
    assert!(!ahead.started && fetched.numbers().is_empty());
}

#[test]
fn a_slow_store_is_read_ahead_by_so_much_and_each_blob_once() {
    let fetched = Fetched::default();
    let mut ahead = readers(&fetched, DEPTH, |_| slow());
    for _ in 0..3 {
        fetched.0.lock().unwrap().clear();
        ahead.take_request(&order(100));
        wait_at(&mut ahead, 0);
        for number in 0..100 {
            ahead.come_to(number);
            wait_until("they go on", || caught_up(&ahead, 0));
            let last = *fetched.numbers().last().unwrap();
            assert!(last > number || number == 99, "{last}");
            assert!(last <= number + LEAD * DEPTH, "{last}");
            ahead.record(number, Duration::ZERO);
        }
        assert_eq!(fetched.numbers(), (1..100).collect::<Vec<_>>());
        assert!(fetched.0.lock().unwrap().values().all(|times| *times == 1));
    }
}

#[test]
#[cfg(not(feature = "poison"))]
fn readers_rest_when_the_store_turns_out_to_be_in_memory() {
    let fetched = Fetched::default();
    let mut ahead = readers(&fetched, DEPTH, |_| {});
    ahead.take_request(&order(100_000));
    wait_at(&mut ahead, 0);
    let mut number = 0;
    while ahead.awake {
        number += 1;
        assert!(number < 100_000);
        ahead.come_to(number);
        std::thread::sleep(Duration::from_micros(100));
    }
    wait_until("they rest", || caught_up(&ahead, 0));
    let before = fetched.numbers();
    ahead.come_to(number + 1000);
    ahead.take_request(&order(1000));
    ahead.come_to(0);
    ahead.record(0, Duration::from_micros(10));
    assert!(caught_up(&ahead, 0));
    assert_eq!(fetched.numbers(), before);
}

#[test]
fn what_the_detector_thread_has_passed_is_not_fetched() {
    let fetched = Fetched::default();
    let (let_go, gate) = mpsc::channel();
    let gate = Mutex::new(gate);
    let mut ahead = readers(&fetched, 1, move |_| gate.lock().unwrap().recv().unwrap());
    ahead.take_request(&order(100));
    wait_at(&mut ahead, 0);
    wait_until("the reader is at a blob", || fetched.numbers() == [1]);
    for number in 1..50 {
        ahead.come_to(number);
    }
    let_go.send(()).unwrap();
    wait_until("it goes on", || fetched.numbers().len() > 1);
    assert_eq!(fetched.numbers()[..2], [1, 50]);
    for _ in 0..100 {
        let _ = let_go.send(());
    }
}

#[test]
fn nobody_waits_for_a_reader_that_is_stuck() {
    let fetched = Fetched::default();
    let (let_go, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let mut ahead = readers(&fetched, DEPTH, move |number| match number {
        5 => gate.lock().unwrap().recv().unwrap_or_default(),
        _ => slow(),
    });
    ahead.take_request(&order(100));
    wait_at(&mut ahead, 0);
    for number in 0..100 {
        ahead.come_to(number);
        wait_until("the others go on", || caught_up(&ahead, 1));
    }
    assert_eq!(fetched.numbers(), (1..100).collect::<Vec<_>>());
    let pool = ahead.pool();
    let begun = Instant::now();
    drop(ahead);
    assert!(begun.elapsed() < Duration::from_secs(1));
    wait_until("the others leave", || Arc::strong_count(&pool) == 2);
    drop(let_go);
    wait_until("it leaves", || Arc::strong_count(&pool) == 1);
}

#[test]
fn readers_leave_when_they_are_sent_home() {
    let fetched = Fetched::default();
    let mut ahead = readers(&fetched, DEPTH, |_| slow());
    ahead.take_request(&order(10_000));
    wait_at(&mut ahead, 0);
    let pool = ahead.pool();
    wait_until("they have begun", || !fetched.numbers().is_empty());
    pool.leave();
    wait_until("they leave", || Arc::strong_count(&pool) == 2);
    // That does the detector thread no harm, should it still be at it.
    for number in 0..1000 {
        ahead.come_to(number);
        ahead.record(number, LONGEST);
    }
    assert!(*fetched.numbers().last().unwrap() <= LEAD * DEPTH);
}

#[test]
fn a_defect_at_a_blob_is_not_the_end_of_its_reader() {
    let fetched = Fetched::default();
    let mut ahead = readers(&fetched, 2, |number| {
        slow();
        assert!(!number.is_multiple_of(3), "meant to be");
    });
    ahead.take_request(&order(50));
    wait_at(&mut ahead, 0);
    for number in 0..50 {
        ahead.come_to(number);
        wait_until("they go on", || caught_up(&ahead, 0));
    }
    assert_eq!(fetched.numbers(), (1..50).collect::<Vec<_>>());
}

fn fetch_all(root: &Path, blobs: usize) {
    let store = Store::open(root.to_str().unwrap()).unwrap();
    for n in 0..blobs {
        fetch(&store, &id(n), 16 * 1024, &mut [0; PIECE]);
    }
}

fn place(root: &Path, n: usize) -> std::path::PathBuf {
    let path = root.join(id(n).relative_path());
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    path
}

#[test]
fn content_of_any_length_is_fetched() {
    let root = tempfile::tempdir().unwrap();
    let lengths = [
        0, 1, 63, 64, 16_383, 16_384, 16_385, 16_447, 65_535, 65_536, 65_601, 300_000,
    ];
    for (n, length) in lengths.into_iter().enumerate() {
        fs::write(place(root.path(), 2 * n), vec![b'a'; length]).unwrap();
        fs::write(place(root.path(), 2 * n + 1), vec![0; length]).unwrap();
    }
    fetch_all(root.path(), 2 * lengths.len() + 1);
}

#[test]
fn a_fifo_is_never_opened_and_no_link_followed() {
    let root = tempfile::tempdir().unwrap();
    let (fifo, other) = (place(root.path(), 0), root.path().join("other"));
    let writers = [&fifo, &other].map(|path| FifoWriter::start(path));
    symlink(&other, place(root.path(), 1)).unwrap();
    fs::create_dir(place(root.path(), 2)).unwrap();
    for _ in 0..100 {
        fetch_all(root.path(), 3);
    }
    for writer in writers {
        assert!(writer.waits(), "somebody has opened it");
        writer.end();
    }
}
