//! The content-addressed store: opens the blob that a blob id names, and nothing else.
//!
//! Files in the store are untrusted, and so is anything else there. Each root is opened once, as a descriptor that
//! only serves lookups; blobs are opened relative to it. Below a root no symbolic link is followed, at any level, and
//! only regular files are opened. A path is checked before it is opened, since opening a FIFO or a device can have
//! side effects, and again afterwards, since the file may have been exchanged in between.
//!
//! Opening a blob takes three system calls and allocates no memory. Which component of a path is at fault is
//! determined only after a failure. Access times are not updated where the kernel permits that, which is only for the
//! owner of a file.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::{Errno, retry_on_intr};

use crate::blob_id::BlobId;
use crate::failure::{Failure, FailureReason};

/// How often a file is checked again that is exchanged while it is being opened.
const ATTEMPTS: u32 = 3;

/// Why a store can't be used. Displayed without a full stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreError {
    /// The setting names no directory.
    Empty,
    /// A relative path.
    NotAbsolute { root: String },
    /// It is something other than a directory.
    NotADirectory { root: String },
    /// Its path leads to another directory than before: something has been mounted, unmounted or replaced.
    Exchanged { root: String },
    /// It held blobs and now holds none: the file system with the blobs has been unmounted, or they have been
    /// removed.
    Emptied { root: String },
    /// It can't be opened; the reason in the system's own words.
    Unusable { root: String, error: String },
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreError::Empty => write!(f, "no directory is named"),
            StoreError::NotAbsolute { root } => write!(f, "\"{root}\" is not an absolute path"),
            StoreError::NotADirectory { root } => write!(f, "\"{root}\" is not a directory"),
            StoreError::Exchanged { root } => {
                write!(
                    f,
                    "directory \"{root}\" is no longer the one that was opened"
                )
            }
            StoreError::Emptied { root } => {
                write!(f, "directory \"{root}\" holds no blobs any more")
            }
            StoreError::Unusable { root, error } => {
                write!(f, "could not open directory \"{root}\": {error}")
            }
        }
    }
}

impl StoreError {
    /// The root in question, as written in the setting.
    pub fn root(&self) -> Option<&str> {
        match self {
            StoreError::Empty => None,
            StoreError::NotAbsolute { root }
            | StoreError::NotADirectory { root }
            | StoreError::Exchanged { root }
            | StoreError::Emptied { root }
            | StoreError::Unusable { root, .. } => Some(root),
        }
    }
}

impl std::error::Error for StoreError {}

/// A store with its roots open.
#[derive(Debug)]
pub struct Store {
    roots: Vec<Root>,
    /// The roots that can't be used, if the store was opened leniently.
    unusable: Vec<StoreError>,
    /// The first root of the setting, usable or not: where a blob would be if it existed.
    first_path: PathBuf,
    /// The kernel has refused O_NOATIME or openat2 before; trying each time would double the cost.
    noatime_refused: AtomicBool,
    openat2_refused: AtomicBool,
}

/// Identifies a root: its device and inode number, and whether it held any blobs.
pub type RootIdentity = (u64, u64, bool);

#[derive(Debug)]
struct Root {
    /// Shared with the blobs opened below it, so that they don't need copies.
    path: Arc<Path>,
    directory: OwnedFd,
    /// The directory to which the path led when it was opened.
    stat: Stat,
}

/// A blob, open for reading.
#[derive(Debug)]
pub struct Blob {
    file: OwnedFd,
    size: u64,
    root: Arc<Path>,
    /// The index of its root among all roots.
    root_number: usize,
    id: BlobId,
}

impl Blob {
    /// Its size in bytes when it was opened.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Its name.
    pub fn id(&self) -> BlobId {
        self.id
    }

    /// Its path.
    pub fn path(&self) -> PathBuf {
        self.root.join(self.id.relative_path())
    }

    /// The index of its root among the usable roots of the setting.
    pub fn root_number(&self) -> usize {
        self.root_number
    }

    /// Its descriptor. The position is undefined: seek before reading.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Store {
    /// Opens all roots of a setting: absolute directories, separated by `:`. It is an error if one can't be used: a
    /// store that isn't mounted must not look like one whose blobs are missing.
    pub fn open(setting: &str) -> Result<Store, StoreError> {
        let mut store = Store::open_lenient(setting);
        match store.unusable.is_empty() {
            true => Ok(store),
            false => Err(store.unusable.swap_remove(0)),
        }
    }

    /// Does the same in another process, or at another time, for the store with these roots ([`Store::identities`]).
    /// If it has been unmounted since, that is [`StoreError::Exchanged`] or [`StoreError::Emptied`].
    pub fn reopen(setting: &str, identities: &[RootIdentity]) -> Result<Store, StoreError> {
        let store = Store::open(setting)?;
        for (root, (device, inode, occupied)) in store.roots.iter().zip(identities) {
            let name = || root.path.display().to_string();
            if identity(&root.stat) != (*device, *inode) {
                return Err(StoreError::Exchanged { root: name() });
            }
            if *occupied && !root.is_occupied() {
                return Err(StoreError::Emptied { root: name() });
            }
        }
        Ok(store)
    }

    /// The identities of its roots: as they were opened, and whether there are blobs in them now.
    pub fn identities(&self) -> Vec<RootIdentity> {
        let of = |root: &Root| {
            let (device, inode) = identity(&root.stat);
            (device, inode, root.is_occupied())
        };
        self.roots.iter().map(of).collect()
    }

    /// Opens the roots that can be opened. The others are reported when a blob isn't found.
    pub fn open_lenient(setting: &str) -> Store {
        let mut store = Store {
            roots: Vec::new(),
            unusable: Vec::new(),
            first_path: PathBuf::from(setting.split(':').next().unwrap_or_default()),
            noatime_refused: AtomicBool::new(false),
            openat2_refused: AtomicBool::new(false),
        };
        if setting.trim().is_empty() {
            store.unusable.push(StoreError::Empty);
            return store;
        }
        for root in setting.split(':') {
            match Root::open(root) {
                Ok(root) => store.roots.push(root),
                Err(error) => store.unusable.push(error),
            }
        }
        // Tried once here, because an EPERM would be ambiguous later: a sandbox that doesn't know the system call may
        // return it, and so does the kernel when O_NOATIME isn't permitted.
        let supported = store.roots.first().is_none_or(Root::supports_openat2);
        store.openat2_refused = AtomicBool::new(!supported);
        store
    }

    /// Checks that this is still the store that was opened, with all roots. Must be called when a blob isn't found or
    /// can't be read: a store that has been unmounted, or has become unreadable, must not look like one whose blobs
    /// are missing.
    pub fn check(&self) -> Result<(), StoreError> {
        match self.unusable.first() {
            Some(error) => Err(error.clone()),
            None => self.roots.iter().try_for_each(Root::check),
        }
    }

    /// The path of a blob, or the one that it would have below the first root.
    pub fn path_of(&self, id: &BlobId) -> PathBuf {
        let relative = id.relative_path_bytes();
        let root = self.roots.iter().find(|root| root.look(&relative).is_ok());
        root.map_or(self.first_path.as_path(), |root| &root.path)
            .join(id.relative_path())
    }

    /// Opens a blob. The first root that has it wins. If none does, the error is that of the first root that has
    /// something of that name. A blob is missing only if all roots could be searched and none has it.
    pub fn open_blob(&self, id: &BlobId) -> Result<Blob, Failure> {
        let relative = id.relative_path_bytes();
        let mut first_obstacle = None;
        for (root_number, root) in self.roots.iter().enumerate() {
            match self.open_in(root, &relative) {
                Ok((file, size)) => {
                    return Ok(Blob {
                        file,
                        size,
                        root: Arc::clone(&root.path),
                        root_number,
                        id: *id,
                    });
                }
                Err(Obstacle::Missing) => {}
                Err(obstacle) => {
                    first_obstacle.get_or_insert((root, obstacle));
                }
            }
        }
        Err(match first_obstacle {
            Some((root, obstacle)) => obstacle.describe(root, id),
            None => self.not_found(id),
        })
    }

    /// No root that could be searched has it.
    fn not_found(&self, id: &BlobId) -> Failure {
        if let Err(error) = self.check() {
            return Failure::new(FailureReason::Unreadable, error.to_string());
        }
        let first = self.first_path.join(id.relative_path());
        let mut detail = format!("no file \"{}\"", first.display());
        for other in self.roots.iter().skip(1) {
            detail += &format!(", nor below \"{}\"", other.path.display());
        }
        Failure::new(FailureReason::Missing, detail)
    }

    /// Opens a file below one root.
    fn open_in(&self, root: &Root, relative: &[u8]) -> Result<(OwnedFd, u64), Obstacle> {
        let blame = |error| root.find_obstacle(relative, error);
        for _ in 0..ATTEMPTS {
            let seen = root.look(relative).map_err(blame)?;
            if !is_file(&seen) {
                return Err(Obstacle::of_kind(&seen, relative.len()));
            }
            let file = self.open_regular(root, relative).map_err(blame)?;
            let opened = rustix::fs::fstat(&file).map_err(blame)?;
            if is_file(&opened) && is_same(&seen, &opened) {
                return Ok((file, u64::try_from(opened.st_size).unwrap_or(0)));
            }
        }
        Err(Obstacle::Unsteady)
    }

    fn open_regular(&self, root: &Root, relative: &[u8]) -> Result<OwnedFd, Errno> {
        if !self.noatime_refused.load(Ordering::Relaxed) {
            match self.open_below(root, relative, OFlags::NOATIME) {
                Err(Errno::PERM) => self.noatime_refused.store(true, Ordering::Relaxed),
                result => return result,
            }
        }
        self.open_below(root, relative, OFlags::empty())
    }

    fn open_below(&self, root: &Root, relative: &[u8], more: OFlags) -> Result<OwnedFd, Errno> {
        // NONBLOCK and NOCTTY in case that it has just been exchanged for a FIFO or a terminal.
        let flags = OFlags::RDONLY
            | OFlags::CLOEXEC
            | OFlags::NOFOLLOW
            | OFlags::NONBLOCK
            | OFlags::NOCTTY
            | more;
        if self.openat2_refused.load(Ordering::Relaxed) {
            open_stepwise(root.directory.as_fd(), relative, flags)
        } else {
            retry_on_intr(|| {
                rustix::fs::openat2(&root.directory, relative, flags, Mode::empty(), BELOW)
            })
        }
    }
}

/// No symbolic link is followed, and nothing leads out of the directory.
const BELOW: ResolveFlags = ResolveFlags::NO_SYMLINKS.union(ResolveFlags::BENEATH);

/// For lookups, not for reading.
const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

impl Root {
    fn open(root: &str) -> Result<Root, StoreError> {
        let path = Path::new(root);
        if !path.is_absolute() {
            return Err(StoreError::NotAbsolute {
                root: root.to_owned(),
            });
        }
        let opened = rustix::fs::open(path, DIRECTORY, Mode::empty()).and_then(|directory| {
            // Unlike opening it, this requires the right to search the directory.
            let stat = rustix::fs::statat(&directory, c".", AtFlags::empty())?;
            Ok((directory, stat))
        });
        match opened {
            Ok((directory, stat)) => Ok(Root {
                path: Arc::from(path),
                directory,
                stat,
            }),
            Err(Errno::NOTDIR) => Err(StoreError::NotADirectory {
                root: root.to_owned(),
            }),
            Err(error) => Err(StoreError::Unusable {
                root: root.to_owned(),
                error: in_words(error),
            }),
        }
    }

    /// Whether it has a directory for blobs, or something with such a name. An empty mount point has none, nor has
    /// one with a file that says that nothing is mounted. If a root can't be listed, which isn't required otherwise,
    /// it is assumed to have some.
    fn is_occupied(&self) -> bool {
        let is_shard = |name: &[u8]| {
            name.len() == 2 && name.iter().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'))
        };
        match std::fs::read_dir(&self.path) {
            Ok(mut list) => list.any(|entry| {
                entry.is_ok_and(|entry| is_shard(entry.file_name().as_encoded_bytes()))
            }),
            Err(_) => true,
        }
    }

    /// False before Linux 5.6, and in a sandbox that doesn't know the call.
    fn supports_openat2(&self) -> bool {
        rustix::fs::openat2(&self.directory, c".", DIRECTORY, Mode::empty(), BELOW).is_ok()
    }

    /// Checks that its path still leads to the directory that was opened, and that this can be searched.
    fn check(&self) -> Result<(), StoreError> {
        let root = self.path.display().to_string();
        // A path below it: unlike a stat of the directory itself, this requires the right to search it.
        match rustix::fs::stat(&*self.path.join(".")) {
            Ok(now) if is_same(&now, &self.stat) => Ok(()),
            Ok(_) => Err(StoreError::Exchanged { root }),
            Err(error) => Err(StoreError::Unusable {
                root,
                error: in_words(error),
            }),
        }
    }

    /// What is at a path, without following it. Symbolic links among the directories above *are* followed here, which
    /// is harmless: the file isn't opened if there are any.
    fn look(&self, relative: &[u8]) -> Result<Stat, Errno> {
        retry_on_intr(|| rustix::fs::statat(&self.directory, relative, AtFlags::SYMLINK_NOFOLLOW))
    }

    /// Determines which component of a path is the obstacle, after `error` for the whole path.
    fn find_obstacle(&self, relative: &[u8], error: Errno) -> Obstacle {
        let slashes = relative
            .iter()
            .enumerate()
            .filter(|(_, byte)| **byte == b'/');
        for (end, _) in slashes {
            match self.look(&relative[..end]) {
                Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {}
                Ok(stat) => return Obstacle::of_kind(&stat, end),
                Err(Errno::NOENT) => return Obstacle::Missing,
                Err(error) => return Obstacle::System { error, end },
            }
        }
        let end = relative.len();
        match (error, self.look(relative)) {
            (Errno::NOENT, _) => Obstacle::Missing,
            (_, Ok(stat)) if !is_file(&stat) => Obstacle::of_kind(&stat, end),
            _ => Obstacle::System { error, end },
        }
    }
}

/// Why a root doesn't have a usable blob. `end` is the length of the part of the relative path that is at fault; the
/// text is only made if no other root has the blob.
#[derive(Debug)]
enum Obstacle {
    Missing,
    Kind { kind: FileType, end: usize },
    System { error: Errno, end: usize },
    Unsteady,
}

impl Obstacle {
    fn of_kind(stat: &Stat, end: usize) -> Obstacle {
        let kind = FileType::from_raw_mode(stat.st_mode);
        Obstacle::Kind { kind, end }
    }

    fn describe(&self, root: &Root, id: &BlobId) -> Failure {
        let relative = id.relative_path();
        let path = |end: usize| root.path.join(&relative[..end]).display().to_string();
        let whole = relative.len();
        match *self {
            Obstacle::Missing => Failure::new(
                FailureReason::Missing,
                format!("no file \"{}\"", path(whole)),
            ),
            Obstacle::Kind { kind, end } => {
                let instead = match end == whole || kind == FileType::Symlink {
                    true => "",
                    false => ", not a directory",
                };
                Failure::new(
                    FailureReason::NotAFile,
                    format!("\"{}\" is {}{instead}", path(end), name_of(kind)),
                )
            }
            Obstacle::System { error, end } => Failure::new(
                FailureReason::Unreadable,
                format!("could not open \"{}\": {}", path(end), in_words(error)),
            ),
            Obstacle::Unsteady => Failure::new(
                FailureReason::Unreadable,
                format!(
                    "\"{}\" was exchanged while it was being opened",
                    path(whole)
                ),
            ),
        }
    }
}

/// What openat2 does in one system call: opens each component without following it.
fn open_stepwise(root: BorrowedFd<'_>, relative: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let mut directory: Option<OwnedFd> = None;
    let mut rest = relative;
    loop {
        let at = directory.as_ref().map_or(root, AsFd::as_fd);
        let slash = rest.iter().position(|byte| *byte == b'/');
        let (part, flags) = match slash {
            Some(slash) => (&rest[..slash], DIRECTORY | OFlags::NOFOLLOW),
            None => (rest, flags),
        };
        let opened = retry_on_intr(|| rustix::fs::openat(at, part, flags, Mode::empty()))?;
        match slash {
            Some(slash) => rest = &rest[slash + 1..],
            None => return Ok(opened),
        }
        directory = Some(opened);
    }
}

fn is_file(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
}

fn identity(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

fn is_same(a: &Stat, b: &Stat) -> bool {
    identity(a) == identity(b)
}

fn name_of(kind: FileType) -> &'static str {
    match kind {
        FileType::RegularFile => "a file",
        FileType::Directory => "a directory",
        FileType::Symlink => "a symbolic link",
        FileType::Fifo => "a FIFO",
        FileType::Socket => "a socket",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        FileType::Unknown => "not a regular file",
    }
}

/// The system's own words, without the error number that Rust adds.
pub fn in_words(error: impl fmt::Display) -> String {
    let text = error.to_string();
    match text.rfind(" (os error") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

#[cfg(test)]
pub mod fifo;
#[cfg(test)]
mod tests;
