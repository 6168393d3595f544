//! A rule on all files.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ntt_mime_core::detector::Detection;

use crate::corpus::{Corpus, Sample};
use crate::rules::{self, Rule};

/// A rule, and what it answered on each file of the corpus, in their order.
pub struct Measured {
    pub rule: Rule,
    pub answers: Vec<Detection>,
}

impl Measured {
    pub fn new(rule: Rule, corpus: &Corpus) -> Result<Measured, String> {
        let answers = in_parallel(
            corpus.files.len(),
            || rule.start(),
            |contestant, n| {
                let contestant = contestant.as_mut().map_err(|error| error.clone())?;
                Ok(contestant.judge(&corpus.files[n]).unwrap_or_else(no_answer))
            },
        );
        Ok(Measured {
            rule,
            answers: answers.into_iter().collect::<Result<_, String>>()?,
        })
    }
}

/// What stands for a type if there was none.
pub const NO_ANSWER: &str = "no answer";

fn no_answer(error: String) -> Detection {
    eprintln!("{error}");
    Detection {
        mime_type: NO_ANSWER.to_owned(),
        bytes_read: 0,
        reads: 0,
        prefiltered: 0,
        fallbacks: 0,
        read_time: Duration::ZERO,
        detect_time: Duration::ZERO,
    }
}

/// Larger contents than this nobody has in hand: a bytea has a gigabyte at most.
const LARGEST_IN_HAND: u64 = 64 * 1024 * 1024;

/// A complaint for each file that has another type, or takes another number of looks, with its whole
/// content in hand.
pub fn differing_in_hand(corpus: &Corpus, answers: &[Detection]) -> Result<Vec<String>, String> {
    let rule = rules::in_use();
    let complaints = in_parallel(
        corpus.files.len(),
        || rule.start(),
        |contestant, n| {
            let contestant = contestant.as_mut().map_err(|error| error.clone())?;
            let sample: &Sample = &corpus.files[n];
            if sample.size > LARGEST_IN_HAND {
                return Ok(None);
            }
            let of_file = &answers[n];
            let in_hand = contestant.judge_content(sample).unwrap_or_else(no_answer);
            let same = (&in_hand.mime_type, in_hand.reads) == (&of_file.mime_type, of_file.reads);
            Ok((!same).then(|| {
                format!(
                    "{}: {} in a file, {} in hand",
                    sample.name, of_file.mime_type, in_hand.mime_type
                )
            }))
        },
    );
    let complaints: Result<Vec<Option<String>>, String> = complaints.into_iter().collect();
    Ok(complaints?.into_iter().flatten().collect())
}

/// Does `work` for the numbers up to `count`, in as many threads as there are processors, each with
/// a `state` of its own. The results are in the order of the numbers.
pub fn in_parallel<S, T: Send>(
    count: usize,
    state: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, usize) -> T + Sync,
) -> Vec<T> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::with_capacity(count));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut state = state();
                let mut mine = Vec::new();
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= count {
                        break;
                    }
                    mine.push((n, work(&mut state, n)));
                }
                results.lock().expect("no thread panicked").extend(mine);
            });
        }
    });
    let mut results = results.into_inner().expect("no thread panicked");
    results.sort_by_key(|(n, _)| *n);
    results.into_iter().map(|(_, result)| result).collect()
}
