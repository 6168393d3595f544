//! The rows of one batch, and how a worker finds the MIME type of each distinct blob in them.
//!
//! All of it happens outside any transaction, but for a look at known failures and the record of
//! new ones, each in a short transaction of its own.

use std::collections::HashMap;

use ntt_mime_core::blob_id::BlobId;
use ntt_mime_core::cache::{Lookup, Outcome, RunCache, SlotIndex};
use ntt_mime_core::detector::Detector;
use ntt_mime_core::dictionary::{Dictionary, MimeId};
use ntt_mime_core::failure::{Failure, FailureReason};
use ntt_mime_core::store::Store;
use sha2::{Digest, Sha256};

use super::history::{self, KnownFailure, NewFailure};
use super::leaf::Tid;
use super::options::Job;
use super::shared::{Counters, Shared, Stop, add, add_time};
use crate::pg::{latch, tx};

/// The blobid of a row: of a blob, or text that isn't one.
#[derive(PartialEq, Eq, Hash, Clone)]
enum Key {
    Blob(BlobId),
    Invalid(String),
}

/// What came of a blob.
enum Found {
    /// Not looked at: the run ends before.
    Not,
    Mime(MimeId),
    /// A type that did not fit into the dictionary.
    Text(String),
    Failed,
}

struct Wanted {
    key: Key,
    rows: u64,
    found: Found,
}

/// Pending rows of one range, and their distinct blobs.
#[derive(Default)]
pub struct Chunk {
    wanted: Vec<Wanted>,
    by_key: HashMap<Key, usize>,
    pub rows: u64,
    pub last: Option<Tid>,
}

impl Chunk {
    pub fn push(&mut self, tid: Tid, blobid: &str) {
        let key = match BlobId::parse(blobid) {
            Ok(id) => Key::Blob(id),
            Err(_) => Key::Invalid(blobid.to_owned()),
        };
        let wanted = &mut self.wanted;
        let at = *self.by_key.entry(key).or_insert_with_key(|key| {
            wanted.push(Wanted {
                key: key.clone(),
                rows: 0,
                found: Found::Not,
            });
            wanted.len() - 1
        });
        wanted[at].rows += 1;
        self.rows += 1;
        self.last = Some(tid);
    }

    /// The blobids with a type, their types, and the number of rows that wait for them.
    pub fn filled<'d>(&'d self, dictionary: &'d Dictionary) -> (Vec<String>, Vec<&'d str>, u64) {
        let (mut blobids, mut mime_types, mut rows) = (Vec::new(), Vec::new(), 0);
        for wanted in &self.wanted {
            let mime_type = match &wanted.found {
                Found::Mime(id) => dictionary.get(*id),
                Found::Text(text) => text,
                Found::Not | Found::Failed => continue,
            };
            if let Key::Blob(id) = &wanted.key {
                blobids.push(id.to_string());
                mime_types.push(mime_type);
                rows += wanted.rows;
            }
        }
        (blobids, mime_types, rows)
    }
}

/// A worker's means of detecting: where it reads, what it reads with, and what is known already.
pub struct Finder<'a> {
    job: &'a Job,
    shared: Shared<'a>,
    number: u16,
    cache: RunCache<'a>,
    counters: &'a Counters,
    store: Store,
    detector: Detector,
}

/// A blob of a chunk that this worker has to look at, with its place in the cache if it has one.
struct Todo {
    at: usize,
    slot: Option<SlotIndex>,
}

/// A blob of a chunk that another worker is at, and its place in the cache.
struct Waiting {
    at: usize,
    slot: SlotIndex,
}

/// What a chunk changes in `ntt_mime.failure`, and what is on record there of its blobs.
#[derive(Default)]
struct Records {
    known: HashMap<String, KnownFailure>,
    failed: Vec<NewFailure>,
    mended: Vec<String>,
}

impl<'a> Finder<'a> {
    pub fn new(
        job: &'a Job,
        shared: Shared<'a>,
        number: u16,
        store: Store,
        detector: Detector,
    ) -> Finder<'a> {
        Finder {
            job,
            shared,
            number,
            cache: shared.cache(),
            counters: &shared.worker(usize::from(number)).counters,
            store,
            detector,
        }
    }

    /// Finds the type of each distinct blob of a chunk. False if the run was stopped meanwhile, so
    /// that the chunk is not to be used.
    pub fn find(&mut self, chunk: &mut Chunk) -> Result<bool, tx::PgError> {
        let (mut todo, waiting) = self.look_up(chunk);
        let mut records = Records {
            known: self.pass_over_known(chunk, &mut todo)?,
            ..Records::default()
        };
        for Todo { at, slot } in todo {
            if self.stopped_now() {
                return Ok(false);
            }
            self.detect(&mut chunk.wanted[at], slot, &mut records);
        }
        for Waiting { at, slot } in waiting {
            match self.wait_for(slot) {
                None => return Ok(false),
                Some(Lookup::Known(outcome)) => {
                    add(&self.counters.cache_hits, 1);
                    chunk.wanted[at].found = found(outcome);
                }
                Some(_) => self.detect(&mut chunk.wanted[at], Some(slot), &mut records),
            }
        }
        let Records { failed, mended, .. } = records;
        let nothing_new = failed.is_empty() && mended.is_empty();
        if !nothing_new && !self.job.options.dry_run {
            tx::transaction(|| history::record_failures(self.job.run_id, failed, mended))?;
        }
        Ok(true)
    }

    /// Takes from the cache what is known; returns what is to be done here and what others are at.
    fn look_up(&self, chunk: &mut Chunk) -> (Vec<Todo>, Vec<Waiting>) {
        let (mut todo, mut waiting) = (Vec::new(), Vec::new());
        for (at, wanted) in chunk.wanted.iter_mut().enumerate() {
            let id = match &wanted.key {
                Key::Blob(id) => *id,
                Key::Invalid(text) => stand_in(text),
            };
            let max = self.job.options.max_blobs;
            let mut take = |slot| todo.push(Todo { at, slot });
            match self.cache.claim(&id, self.number) {
                Lookup::Known(outcome) => {
                    add(&self.counters.cache_hits, 1);
                    wanted.found = found(outcome);
                }
                Lookup::Busy(slot) => waiting.push(Waiting { at, slot }),
                Lookup::TakenOver(slot) if self.shared.limit_reached() => self.cache.release(slot),
                Lookup::TakenOver(slot) => take(Some(slot)),
                Lookup::Claimed(slot) if !self.shared.count_blob(max) => self.cache.release(slot),
                Lookup::Claimed(slot) => take(Some(slot)),
                Lookup::Full if !self.shared.count_blob(max) => {}
                Lookup::Full => take(None),
            }
        }
        (todo, waiting)
    }

    /// Looks for recorded failures among what is to be done; passes over those that are recent.
    fn pass_over_known(
        &self,
        chunk: &mut Chunk,
        todo: &mut Vec<Todo>,
    ) -> Result<HashMap<String, KnownFailure>, tx::PgError> {
        if !self.job.failures_on_record || todo.is_empty() {
            return Ok(HashMap::new());
        }
        let texts: Vec<String> = todo
            .iter()
            .map(|todo| chunk.wanted[todo.at].key.text())
            .collect();
        let known = tx::transaction(|| history::known_failures(&self.job.options, texts))?;
        todo.retain(|todo| {
            let wanted = &mut chunk.wanted[todo.at];
            let recent = known
                .get(&wanted.key.text())
                .filter(|failure| failure.pass_over);
            if let Some(failure) = recent {
                self.conclude(wanted, todo.slot, Outcome::Failed(failure.reason));
            }
            recent.is_none()
        });
        Ok(known)
    }

    fn detect(&mut self, wanted: &mut Wanted, slot: Option<SlotIndex>, records: &mut Records) {
        match self.mime_type(&wanted.key) {
            Ok(mime_type) => {
                records.note_detected(&wanted.key);
                match self.shared.dictionary().intern(&mime_type) {
                    Some(id) => self.conclude(wanted, slot, Outcome::Mime(id)),
                    None => {
                        wanted.found = Found::Text(mime_type);
                        if let Some(slot) = slot {
                            self.cache.release(slot);
                        }
                    }
                }
            }
            Err(failure) => {
                self.conclude(wanted, slot, Outcome::Failed(failure.reason));
                records.failed.push(NewFailure {
                    blobid: wanted.key.text(),
                    reason: failure.reason,
                    detail: failure.detail,
                });
            }
        }
    }

    fn mime_type(&mut self, key: &Key) -> Result<String, Failure> {
        let id = match key {
            Key::Blob(id) => id,
            Key::Invalid(text) => {
                let error = BlobId::parse(text).expect_err("a valid one has the other kind of key");
                return Err(error.into());
            }
        };
        let begun = std::time::Instant::now();
        let blob = self.store.open_blob(id);
        add_time(&self.counters.read_us, begun.elapsed());
        let detection = self.detector.detect_blob(&blob?)?;
        add(&self.counters.detections, 1);
        add(&self.counters.bytes_read, detection.bytes_read);
        add_time(&self.counters.read_us, detection.read_time);
        add_time(&self.counters.detect_us, detection.detect_time);
        match self.job.mime_type_limit {
            Some(limit) if detection.mime_type.chars().count() > limit => Err(Failure {
                reason: FailureReason::Error,
                detail: format!(
                    "\"{}\" is too long for a mime_type of {limit} characters",
                    detection.mime_type
                ),
            }),
            _ => Ok(detection.mime_type),
        }
    }

    fn conclude(&self, wanted: &mut Wanted, slot: Option<SlotIndex>, outcome: Outcome) {
        match outcome {
            Outcome::Mime(id) => self.shared.dictionary().count(id),
            Outcome::Failed(_) => add(&self.counters.failures, 1),
        }
        wanted.found = found(outcome);
        if let Some(slot) = slot {
            self.cache.resolve(slot, outcome);
        }
    }

    /// Waits until the worker that is at a blob has its outcome. Every worker first does all that it
    /// has claimed and waits only then, so no two can wait for each other. None: stopped.
    fn wait_for(&self, slot: SlotIndex) -> Option<Lookup> {
        loop {
            match self.cache.poll(slot, self.number) {
                Lookup::Busy(_) if self.stopped_now() => return None,
                Lookup::Busy(_) => latch::wait(std::time::Duration::from_millis(1)),
                lookup => return Some(lookup),
            }
        }
    }

    fn stopped_now(&self) -> bool {
        pgrx::check_for_interrupts!();
        self.shared.stopping() == Stop::Now
    }
}

impl Records {
    /// A blob on record as a failure has been detected.
    fn note_detected(&mut self, key: &Key) {
        // Nearly always nothing is on record, and the text of the key isn't worth making.
        if self.known.is_empty() {
            return;
        }
        let text = key.text();
        if self.known.contains_key(&text) {
            self.mended.push(text);
        }
    }
}

impl Key {
    fn text(&self) -> String {
        match self {
            Key::Blob(id) => id.to_string(),
            Key::Invalid(text) => history::failure_key(text),
        }
    }
}

fn found(outcome: Outcome) -> Found {
    match outcome {
        Outcome::Mime(id) => Found::Mime(id),
        Outcome::Failed(_) => Found::Failed,
    }
}

/// A key for the cache in place of a blobid that isn't one, so that it, too, is recorded once a run.
fn stand_in(text: &str) -> BlobId {
    let mut hash = Sha256::new();
    hash.update(b"not a blobid\0");
    hash.update(text.as_bytes());
    BlobId::from_bytes(hash.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_knows_its_distinct_blobs() {
        let mut chunk = Chunk::default();
        let place = super::super::leaf::start_of_block(1);
        let id = "ab".repeat(32);
        for text in [id.as_str(), "nonsense", id.as_str(), "NONSENSE", "nonsense"] {
            chunk.push(place, text);
        }
        assert_eq!((chunk.rows, chunk.wanted.len()), (5, 3));
        assert_eq!(chunk.wanted.iter().map(|w| w.rows).sum::<u64>(), 5);
        assert_ne!(stand_in("nonsense"), stand_in("NONSENSE"));
    }
}
