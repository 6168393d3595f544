//! The rows of one batch, and their distinct blobs.

use std::collections::HashMap;

use ntt_mime_core::blob_id::{BlobId, InvalidBlobId};
use ntt_mime_core::cache::Outcome;
use ntt_mime_core::dictionary::{Dictionary, MimeId};
use sha2::{Digest, Sha256};

use super::leaf::Tid;
use super::run_log;

/// The blobid of a row: a valid one, or any other text.
#[derive(PartialEq, Eq, Hash, Clone)]
pub enum BlobKey {
    Blob(BlobId),
    Invalid(Box<Invalid>),
}

/// A text that isn't a valid blobid, reduced to what is needed: it may be long, and there may be many.
#[derive(PartialEq, Eq, Hash, Clone)]
pub struct Invalid {
    /// Its key in the run cache, where it has an entry as well, so that it is recorded once in a run.
    entry: BlobId,
    /// The text that is recorded.
    recorded: String,
    /// What is wrong with it.
    pub error: InvalidBlobId,
}

/// The result for a blob.
pub enum Found {
    /// Not detected, because the run ends first.
    NotLookedAt,
    Mime(MimeId),
    /// A type that did not fit into the dictionary.
    Text(String),
    /// A type that doesn't fit into the column.
    TooLong,
    Failed,
}

/// A distinct blob of a batch, and how many rows wait for it.
pub struct Wanted {
    pub key: BlobKey,
    pub rows: u64,
    pub found: Found,
}

/// A row whose type is to be compared.
#[derive(Clone, Copy)]
pub struct TypedRow {
    pub tid: Tid,
    /// The index of its blob in [`Batch::wanted`], and of its type in [`Batch::types`].
    pub blob: u32,
    pub now: u32,
}

/// Rows of one range, and their distinct blobs.
#[derive(Default)]
pub struct Batch {
    pub wanted: Vec<Wanted>,
    by_key: HashMap<BlobKey, usize>,
    /// Rows that have a type, in physical order, and their distinct types.
    pub typed: Vec<TypedRow>,
    pub types: Vec<String>,
    by_type: HashMap<String, u32>,
    pub rows: u64,
    pub last: Option<Tid>,
    /// There may be more rows after the last one.
    pub more: bool,
}

impl Batch {
    /// Adds a row: of a verification if it has a type, otherwise a pending one.
    pub fn add(&mut self, tid: Tid, blobid: &str, mime_type: Option<&str>) {
        let blob = self.push(tid, blobid) as u32;
        let Some(mime_type) = mime_type else {
            return;
        };
        let now = match self.by_type.get(mime_type) {
            Some(at) => *at,
            None => {
                let at = self.types.len() as u32;
                self.types.push(mime_type.to_owned());
                self.by_type.insert(mime_type.to_owned(), at);
                at
            }
        };
        self.typed.push(TypedRow { tid, blob, now });
    }

    /// Adds a row; returns the index of its blob.
    fn push(&mut self, tid: Tid, blobid: &str) -> usize {
        let key = match BlobId::parse(blobid) {
            Ok(id) => BlobKey::Blob(id),
            Err(error) => BlobKey::Invalid(Box::new(Invalid::new(blobid, error))),
        };
        let wanted = &mut self.wanted;
        let at = *self.by_key.entry(key).or_insert_with_key(|key| {
            wanted.push(Wanted {
                key: key.clone(),
                rows: 0,
                found: Found::NotLookedAt,
            });
            wanted.len() - 1
        });
        wanted[at].rows += 1;
        self.rows += 1;
        self.last = Some(tid);
        at
    }

    /// The blobids with a type, their types, and the number of rows that wait for them.
    pub fn filled<'d>(&'d self, dictionary: &'d Dictionary) -> (Vec<String>, Vec<&'d str>, u64) {
        let (mut blobids, mut mime_types, mut rows) = (Vec::new(), Vec::new(), 0);
        for wanted in &self.wanted {
            let Some(mime_type) = wanted.mime_type(dictionary) else {
                continue;
            };
            if let BlobKey::Blob(id) = &wanted.key {
                blobids.push(id.to_string());
                mime_types.push(mime_type);
                rows += wanted.rows;
            }
        }
        (blobids, mime_types, rows)
    }
}

impl Wanted {
    /// Its type, if it has been detected and fits into the column.
    pub fn mime_type<'d>(&'d self, dictionary: &'d Dictionary) -> Option<&'d str> {
        match &self.found {
            Found::Mime(id) => Some(dictionary.get(*id)),
            Found::Text(text) => Some(text),
            Found::NotLookedAt | Found::TooLong | Found::Failed => None,
        }
    }
}

impl BlobKey {
    /// Its key in the run cache.
    pub fn in_cache(&self) -> BlobId {
        match self {
            BlobKey::Blob(id) => *id,
            BlobKey::Invalid(invalid) => invalid.entry,
        }
    }

    /// The id, if it is a blob.
    pub fn id(&self) -> Option<BlobId> {
        match self {
            BlobKey::Blob(id) => Some(*id),
            BlobKey::Invalid(_) => None,
        }
    }

    /// The text under which failures are recorded.
    pub fn text(&self) -> String {
        match self {
            BlobKey::Blob(id) => id.to_string(),
            BlobKey::Invalid(invalid) => invalid.recorded.clone(),
        }
    }
}

/// The key in the run cache for a blob together with a type that one of its rows has.
pub fn pair_in_cache(key: &BlobKey, mime_type: &str) -> BlobId {
    let mut hash = Sha256::new();
    hash.update(b"a blob and a type\0");
    hash.update(key.text().as_bytes());
    hash.update(b"\0");
    hash.update(mime_type.as_bytes());
    BlobId::from_bytes(hash.finalize().into())
}

impl Invalid {
    fn new(text: &str, error: InvalidBlobId) -> Invalid {
        let mut hash = Sha256::new();
        hash.update(b"not a blobid\0");
        hash.update(text.as_bytes());
        Invalid {
            entry: BlobId::from_bytes(hash.finalize().into()),
            recorded: run_log::failure_key(text),
            error,
        }
    }
}

impl From<Outcome> for Found {
    fn from(outcome: Outcome) -> Found {
        match outcome {
            Outcome::Mime(id) => Found::Mime(id),
            Outcome::Failed(_) => Found::Failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_batch_knows_its_distinct_blobs() {
        let mut batch = Batch::default();
        let place = super::super::leaf::start_of_block(1);
        let id = "ab".repeat(32);
        for text in [id.as_str(), "nonsense", id.as_str(), "NONSENSE", "nonsense"] {
            batch.push(place, text);
        }
        assert_eq!((batch.rows, batch.wanted.len()), (5, 3));
        assert_eq!(batch.wanted.iter().map(|w| w.rows).sum::<u64>(), 5);
        let entries: HashSet<BlobId> = batch.wanted.iter().map(|w| w.key.in_cache()).collect();
        assert_eq!(entries.len(), 3);
    }
}
