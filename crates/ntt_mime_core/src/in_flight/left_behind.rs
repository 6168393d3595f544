//! The records that dead processes have left: which blobs are to blame, and which are suspect.

use std::collections::HashSet;
use std::ffi::c_int;
use std::fs::{self, File};
use std::io;
use std::mem::offset_of;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};

use super::signals::CRASHES;
use super::{BackendKind, MAGIC, Page, Slot};
use crate::blob_id::BlobId;

/// Age from which a file without a lock won't be locked any more.
const UNFINISHED: Duration = Duration::from_secs(60);

/// Age at which a suspicion is dropped: nobody has examined the blob since.
const SUSPICION: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// How a process died while it was examining a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// It crashed.
    Crashed { signal: &'static str },
    /// It was killed, and so was an earlier one, while examining the same blob.
    KilledTwice,
}

/// A blob that a dead process of this database was examining.
#[derive(Debug)]
pub struct LeftBehind {
    pub blob: BlobId,
    pub death: Death,
    pub pid: u32,
    path: PathBuf,
    /// Locked, so that no other run takes the same in-flight record.
    _file: Arc<File>,
}

/// The detail for a blob that crashed a process.
pub fn crash_detail(process: &str, signal: &str) -> String {
    format!("{process} was terminated by {signal} while it looked at the blob")
}

impl LeftBehind {
    /// What happened, as text.
    pub fn detail(&self) -> String {
        let process = format!("process {}", self.pid);
        match self.death {
            Death::Crashed { signal } => crash_detail(&process, signal),
            Death::KilledTwice => {
                format!("{process} and one before it were killed while they looked at the blob")
            }
        }
    }

    /// Removes the in-flight record, because the blob is in quarantine.
    pub fn remove(self) {
        // A record that can't be removed is read again, which does no harm.
        let _ = fs::remove_file(&self.path);
        if let Some(folder) = self.path.parent() {
            let database = database_of(&self.path).unwrap_or_default();
            clear_suspect(folder, database, &self.blob);
        }
    }
}

/// Reads and cleans up the in-flight records of dead processes. Returns the blobs that have crashed processes of
/// `database`. A blob during whose examination a worker was killed for the first time becomes suspect and is not
/// among them.
///
/// `databases` are the OIDs of existing databases: in-flight records of others are of no use.
pub fn left_behind(folder: &Path, database: u32, databases: &[u32]) -> io::Result<Vec<LeftBehind>> {
    let mut found = Vec::new();
    for entry in entries(folder)? {
        let entry = entry?;
        let path = entry.path();
        let Some(of) = database_of(&path) else {
            remove_unfinished(&entry);
            continue;
        };
        if of != database && databases.contains(&of) {
            continue;
        }
        if suspect(&path).is_some() {
            if of != database || is_older(&entry, SUSPICION) {
                let _ = fs::remove_file(&path);
            }
            continue;
        }
        let Some((file, seen)) = dead(&path) else {
            continue;
        };
        let file = Arc::new(file);
        let verdicts: Vec<_> = seen.verdicts().filter(|_| of == database).collect();
        let before = found.len();
        for (blob, signal) in &verdicts {
            let death = match signal {
                Some(signal) => Death::Crashed { signal },
                None if suspicion(folder, database, blob).exists() => Death::KilledTwice,
                None => continue,
            };
            found.push(LeftBehind {
                blob: *blob,
                death,
                pid: pid_of(&path),
                path: path.clone(),
                _file: Arc::clone(&file),
            });
        }
        // If there are two current blobs, one that was suspect before clears the other. And the in-flight record is
        // removed first: if it were read again, it would count as a second death.
        if found.len() == before && fs::remove_file(&path).is_ok() {
            for (blob, _) in &verdicts {
                File::create(suspicion(folder, database, blob))?;
            }
        }
    }
    Ok(found)
}

/// The suspect blobs of a database.
pub fn suspects(folder: &Path, database: u32) -> HashSet<BlobId> {
    let entries = entries(folder).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    paths
        .filter(|path| database_of(path) == Some(database))
        .filter_map(|path| suspect(&path))
        .collect()
}

/// Clears a suspect blob, because a process has detected it and survived, or because it is in quarantine.
pub fn clear_suspect(folder: &Path, database: u32, blob: &BlobId) {
    let _ = fs::remove_file(suspicion(folder, database, blob));
}

/// Blobs that have crashed processes of `database` and wait for the next run to quarantine them, with the signals'
/// names. Changes nothing, so that a standby can use it as well.
pub fn crashes(folder: &Path, database: u32) -> Vec<(BlobId, &'static str)> {
    let mut found = Vec::new();
    for entry in entries(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if database_of(&path) != Some(database) || suspect(&path).is_some() {
            continue;
        }
        // No process survives the mark, so it doesn't matter whether it is dead already.
        let Ok(seen) = File::open(&path).and_then(|file| Seen::read(&file)) else {
            continue;
        };
        let crashes = seen
            .verdicts()
            .filter_map(|(blob, signal)| Some((blob, signal?)));
        found.extend(crashes);
    }
    found
}

/// Removes an in-flight record that its process never finished, once the process can no longer be doing that.
fn remove_unfinished(entry: &fs::DirEntry) {
    let path = entry.path();
    let pid = i32::try_from(pid_of(&path)).ok().and_then(Pid::from_raw);
    let is_dead = pid.is_some_and(|pid| test_kill_process(pid) == Err(Errno::SRCH));
    // Another process may have its number by now.
    if is_dead || is_older(entry, UNFINISHED) {
        let _ = fs::remove_file(path);
    }
}

fn is_older(entry: &fs::DirEntry, limit: Duration) -> bool {
    let age = entry.metadata().and_then(|file| file.modified());
    let age = age.ok().and_then(|written| written.elapsed().ok());
    age.is_some_and(|age| age > limit)
}

/// The content of an in-flight record.
struct Seen {
    bytes: [u8; size_of::<Page>()],
}

impl Seen {
    fn read(file: &File) -> io::Result<Seen> {
        let mut bytes = [0; size_of::<Page>()];
        file.read_exact_at(&mut bytes, 0)?;
        Ok(Seen { bytes })
    }

    fn word(&self, offset: usize) -> u32 {
        let bytes = self.bytes[offset..offset + 4].try_into();
        u32::from_ne_bytes(bytes.expect("four bytes"))
    }

    /// The blobs that are to blame, with the signal if there was a crash: the one that crashed the process, or
    /// otherwise all that were being examined.
    fn verdicts(&self) -> impl Iterator<Item = (BlobId, Option<&'static str>)> {
        let known = self.word(offset_of!(Page, magic)) == MAGIC;
        let worker = self.word(offset_of!(Page, kind)) == BackendKind::Worker as u32;
        let clean_exit = self.word(offset_of!(Page, clean_exit)) != 0;
        let slots = [0, 1].map(|number| self.slot(number).filter(|_| known));
        let crashed = slots.iter().flatten().any(|(_, signal)| signal.is_some());
        let blamed = move |(_, signal): &(BlobId, Option<&'static str>)| match crashed {
            true => signal.is_some(),
            false => worker && !clean_exit,
        };
        slots.into_iter().flatten().filter(blamed)
    }

    /// The blob that a thread was examining, if any, and the signal by which it crashed.
    fn slot(&self, number: usize) -> Option<(BlobId, Option<&'static str>)> {
        let start = offset_of!(Page, slots) + number * size_of::<Slot>();
        if self.word(start + offset_of!(Slot, thread)) == 0 {
            return None;
        }
        let at = start + offset_of!(Slot, blob);
        let blob = BlobId::from_bytes(self.bytes[at..at + 32].try_into().expect("32 bytes"));
        let signal = self.word(start + offset_of!(Slot, signal)) as c_int;
        let name = CRASHES.iter().find(|(known, _)| *known == signal);
        Some((blob, name.map(|(_, name)| *name)))
    }
}

/// The in-flight record at `path`, locked, if its process is dead and no other run has removed the record meanwhile.
fn dead(path: &Path) -> Option<(File, Seen)> {
    let file = File::open(path).ok()?;
    flock(&file, FlockOperation::NonBlockingLockExclusive).ok()?;
    file.metadata().ok().filter(|file| file.nlink() > 0)?;
    let seen = Seen::read(&file).ok()?;
    Some((file, seen))
}

fn entries(folder: &Path) -> io::Result<impl Iterator<Item = io::Result<fs::DirEntry>>> {
    match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None.into_iter().flatten()),
        result => Ok(Some(result?).into_iter().flatten()),
    }
}

/// Files are named `<database>.<time>.<pid>`, with the prefix `new.` until they are locked, and
/// `<database>.suspect.<blobid>`.
fn parts(path: &Path) -> Vec<&str> {
    let name = path.file_name().and_then(|name| name.to_str());
    name.unwrap_or_default().split('.').collect()
}

fn database_of(path: &Path) -> Option<u32> {
    parts(path).first()?.parse().ok()
}

fn pid_of(path: &Path) -> u32 {
    let last = parts(path).last().and_then(|pid| pid.parse().ok());
    last.unwrap_or_default()
}

/// The suspect blob for which a file stands.
fn suspect(path: &Path) -> Option<BlobId> {
    match parts(path)[..] {
        [_, "suspect", blob] => blob.parse().ok(),
        _ => None,
    }
}

fn suspicion(folder: &Path, database: u32, blob: &BlobId) -> PathBuf {
    folder.join(format!("{database}.suspect.{blob}"))
}
