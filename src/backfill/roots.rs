//! The roots of the store that a run reads: are they those that runs have read before?
//!
//! A root that isn't mounted is an empty directory, or none. Its blobs would be recorded as missing, and passed over for a
//! day after it is back, so each root is looked at by itself:
//!
//! - What a run has read from each is in its row (`roots_read` in `options`). One that holds no blobs when a run is to
//!   begin, and from which a run on record has read, ends it.
//! - While a run goes on, one that is another directory than it was, or held blobs and holds none any more, ends it: before
//!   any blob of a batch is recorded as missing.
//!
//! A run that begins with an empty root leaves word of that as well (`roots_empty`): at that moment no run on record had
//! read from it. So from the newest run back, who looks for one that has needn't look further than that.

use std::collections::BTreeMap;

use ntt_mime_core::store::{RootIdentity, Store};

use super::options::{Job, Options};
use super::run_log;
use crate::errors::{Error, sentence};

/// The roots of a setting, in order.
fn of(setting: &str) -> impl Iterator<Item = &str> {
    setting.split(':')
}

/// Looks at the roots of a run that is to begin. Inside a transaction.
pub fn check_before(options: &Options) -> Result<Vec<RootIdentity>, Error> {
    let setting = options.blob_root.as_str();
    let store = Store::open(setting).map_err(|error| {
        let run = error
            .root()
            .and_then(|root| run_log::run_that_read(root, root));
        let read = run.map_or(String::new(), |run_id| {
            format!(" Run {run_id} read blobs there.")
        });
        Error::BlobRoot {
            detail: format!("{}{read}", sentence(&error)),
        }
    })?;
    let roots = store.identities();
    let all_empty = roots.iter().all(|(_, _, occupied)| !occupied);
    for (root, (_, _, occupied)) in of(setting).zip(&roots) {
        if *occupied {
            continue;
        }
        // Up to 0.2.0 runs recorded what they had read from all roots together.
        let before = if all_empty { setting } else { root };
        if let Some(run_id) = run_log::run_that_read(root, before) {
            return Err(Error::BlobRoot {
                detail: format!(
                    "\"{root}\" holds no blobs, and did when run {run_id} read from it."
                ),
            });
        }
    }
    Ok(roots)
}

/// Are they still there, those that were there when the run began?
pub fn check_during(job: &Job) -> Result<(), Error> {
    reopen(job).map(drop)
}

/// Opens the store in another process than the one that began the run, or once more.
pub fn reopen(job: &Job) -> Result<Store, Error> {
    Store::reopen(&job.options.blob_root, &job.roots).map_err(|error| Error::StoreGone {
        detail: sentence(&error),
    })
}

/// How many blobs have been read from each root, for the run's row: `counts` are in the order of the roots.
pub fn read_from(setting: &str, counts: impl Iterator<Item = u64>) -> BTreeMap<String, u64> {
    let mut read = BTreeMap::new();
    for (root, count) in of(setting).zip(counts) {
        // It may stand there twice.
        *read.entry(root.to_owned()).or_default() += count;
    }
    read
}

/// Those that held no blobs when the run began.
pub fn empty(setting: &str, roots: &[RootIdentity]) -> Vec<String> {
    let with_state = of(setting).zip(roots);
    let empty = with_state.filter(|(_, (_, _, occupied))| !occupied);
    empty.map(|(root, _)| root.to_owned()).collect()
}
