//! Mutated files: nothing that content can be makes the detector break its promises.
//!
//! The same slice every time. NTT_MIME_MUTATIONS=1000000 makes more of it, and NTT_MIME_MUTATIONS_FROM=970000 begins with
//! that one; the fuzz targets in fuzz/ search on their own.

mod mutate;
mod promises;

use mutate::Mutator;
use promises::Promises;

/// A few seconds.
const MUTATIONS: usize = 10_000;

#[test]
fn mutated_files_break_no_promise() {
    let number = |name: &str, default| {
        std::env::var(name).map_or(default, |count| count.parse().expect("a number"))
    };
    let from = number("NTT_MIME_MUTATIONS_FROM", 0);
    let count = number("NTT_MIME_MUTATIONS", MUTATIONS);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for thread in 0..threads {
            scope.spawn(move || {
                let mut promises = Promises::new();
                for n in (from + thread..from + count).step_by(threads) {
                    let content = Mutator::new(n as u64).content();
                    let kept = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                        promises.keep(&content);
                    }));
                    if kept.is_err() {
                        let path = std::env::temp_dir().join(format!("ntt_mime_mutation_{n}"));
                        std::fs::write(&path, &content).expect("the temporary folder takes it");
                        panic!("mutation {n} breaks a promise: {}", path.display());
                    }
                }
            });
        }
    });
}

#[test]
fn mutations_are_the_same_every_time_and_of_many_kinds() {
    let contents = |_| {
        (0..500)
            .map(|n| Mutator::new(n).content())
            .collect::<Vec<_>>()
    };
    let (first, second) = (contents(()), contents(()));
    assert!(first == second);
    let longer = |limit| first.iter().filter(|content| content.len() > limit).count();
    assert!(longer(16 * 1024) > 50 && longer(64 * 1024) > 10 && longer(512) < 450);
}
