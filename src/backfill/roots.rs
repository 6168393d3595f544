//! The roots of the store that a run reads, and whether they are the ones that earlier runs have read.
//!
//! A root that isn't mounted is an empty directory, or doesn't exist. Its blobs would be recorded as missing, and
//! skipped for a day even after it is back. So each root is checked by itself:
//!
//! - What a run has read from each root is in its row (`roots_read` in `options`). If a root holds no blobs when a
//!   run begins, and a recorded run has read from it, the run ends.
//! - While a run goes on, it ends if a root has become a different directory, or had blobs and has none any more.
//!   That is checked before any blob of a batch is recorded as missing.
//!
//! A run that begins with an empty root records that as well (`roots_empty`): at that moment no recorded run had read
//! from it. So a search for a run that has, from the newest run back, can stop there.

use std::collections::BTreeMap;

use ntt_mime_core::store::{RootIdentity, Store};

use super::options::{Job, Options};
use super::run_log;
use crate::errors::{Error, sentence};

/// The roots of a setting, in order.
fn of(setting: &str) -> impl Iterator<Item = &str> {
    setting.split(':')
}

/// Checks the roots of a run that is about to begin. Must be called inside a transaction.
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

/// Checks that the roots are the same as when the run began.
pub fn check_during(job: &Job) -> Result<(), Error> {
    reopen(job).map(drop)
}

/// Opens the store in another process than the one that began the run, or opens it again.
pub fn reopen(job: &Job) -> Result<Store, Error> {
    Store::reopen(&job.options.blob_root, &job.roots).map_err(|error| Error::StoreGone {
        detail: sentence(&error),
    })
}

/// The number of blobs read from each root, for the run's row; `counts` are in the order of the roots.
pub fn read_from(setting: &str, counts: impl Iterator<Item = u64>) -> BTreeMap<String, u64> {
    let mut read = BTreeMap::new();
    for (root, count) in of(setting).zip(counts) {
        // A root may be listed twice.
        *read.entry(root.to_owned()).or_default() += count;
    }
    read
}

/// The roots that held no blobs when the run began.
pub fn empty(setting: &str, roots: &[RootIdentity]) -> Vec<String> {
    let with_state = of(setting).zip(roots);
    let empty = with_state.filter(|(_, (_, _, occupied))| !occupied);
    empty.map(|(root, _)| root.to_owned()).collect()
}
