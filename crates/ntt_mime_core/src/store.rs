//! The content-addressed store: opens the blob that a blob id names, and nothing else.
//!
//! Each root is opened once, as a descriptor that only serves to look things up; blobs are opened
//! relative to it. Below a root no symbolic link is followed, at any level, and only regular files
//! are opened: what a path leads to is looked at before it is opened (opening a FIFO or a device can
//! have effects) and again afterwards (it may have been exchanged).
//!
//! Files are opened without updating their access time where the kernel permits that, which is to
//! the owner of a file only.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use crate::blob_id::BlobId;
use crate::failure::{Failure, FailureReason};

/// Why a store can't be used. Displays without a full stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreError {
    /// No directory is named.
    Empty,
    /// A relative path.
    NotAbsolute { root: String },
    /// Something else than a directory.
    NotADirectory { root: String },
    /// It can't be opened; the reason in the system's own words.
    Unusable { root: String, error: String },
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreError::Empty => write!(f, "no directory is named"),
            StoreError::NotAbsolute { root } => write!(f, "\"{root}\" is not an absolute path"),
            StoreError::NotADirectory { root } => write!(f, "\"{root}\" is not a directory"),
            StoreError::Unusable { root, error } => {
                write!(f, "could not open directory \"{root}\": {error}")
            }
        }
    }
}

impl std::error::Error for StoreError {}

struct Root {
    path: PathBuf,
    directory: OwnedFd,
}

/// A store with its roots open.
pub struct Store {
    roots: Vec<Root>,
    /// Roots that can't be used, of a store opened leniently.
    unusable: Vec<StoreError>,
    /// Where a blob would lie if there were one.
    first_path: PathBuf,
    /// The kernel has refused O_NOATIME or openat2 before; asking each time would double the cost.
    noatime_refused: AtomicBool,
    openat2_refused: AtomicBool,
}

/// A blob, open for reading.
pub struct Blob {
    file: OwnedFd,
    size: u64,
    root: PathBuf,
    id: BlobId,
}

impl Blob {
    /// Its size in bytes when it was opened.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Where it lies.
    pub fn path(&self) -> PathBuf {
        self.root.join(self.id.relative_path())
    }

    /// Its descriptor, at the start of the file.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Store {
    /// Opens all roots of a setting: absolute directories, `:` between. Any that can't be used is an
    /// error: a store that isn't mounted must not look like one whose blobs are missing.
    pub fn open(setting: &str) -> Result<Store, StoreError> {
        let mut store = Store::open_lenient(setting);
        match store.unusable.is_empty() {
            true => Ok(store),
            false => Err(store.unusable.swap_remove(0)),
        }
    }

    /// Opens the roots that can be opened; the others are told of when a blob isn't found.
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
            match open_root(root) {
                Ok(root) => store.roots.push(root),
                Err(error) => store.unusable.push(error),
            }
        }
        store
    }

    /// Where the blob lies, or would lie under the first root.
    pub fn path_of(&self, id: &BlobId) -> PathBuf {
        let relative = id.relative_path();
        let exists = |root: &&Root| {
            let flags = AtFlags::SYMLINK_NOFOLLOW;
            rustix::fs::statat(&root.directory, relative.as_str(), flags).is_ok()
        };
        let root = self.roots.iter().find(exists).map(|root| &root.path);
        root.unwrap_or(&self.first_path).join(&relative)
    }

    /// Opens a blob. The first root that has it wins; if none can give it, what went wrong in the
    /// first one that has something of that name is told.
    pub fn open_blob(&self, id: &BlobId) -> Result<Blob, Failure> {
        let relative = id.relative_path();
        let mut failure = None;
        for root in &self.roots {
            match self.open_in(root, &relative) {
                Ok(Some((file, size))) => {
                    return Ok(Blob {
                        file,
                        size,
                        root: root.path.clone(),
                        id: *id,
                    });
                }
                Ok(None) => {}
                Err(error) => {
                    failure.get_or_insert(error);
                }
            }
        }
        Err(failure.unwrap_or_else(|| self.not_found(&relative)))
    }

    fn not_found(&self, relative: &str) -> Failure {
        match self.unusable.first() {
            Some(error) => Failure {
                reason: FailureReason::Unreadable,
                detail: error.to_string(),
            },
            None => Failure {
                reason: FailureReason::Missing,
                detail: format!("no file \"{}\"", self.first_path.join(relative).display()),
            },
        }
    }

    /// Opens a file below one root; None if there is none.
    fn open_in(&self, root: &Root, relative: &str) -> Result<Option<(OwnedFd, u64)>, Failure> {
        let fail = |reason, what: &str| {
            let path = root.path.join(relative);
            Failure {
                reason,
                detail: format!("\"{}\": {what}", path.display()),
            }
        };
        let unreadable = |error: Errno| fail(FailureReason::Unreadable, &in_words(error));
        let seen = match rustix::fs::statat(&root.directory, relative, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(seen) => seen,
            Err(Errno::NOENT) => return Ok(None),
            // A file where a directory should be.
            Err(Errno::NOTDIR) => {
                return Err(fail(FailureReason::NotAFile, "not below a directory"));
            }
            Err(error) => return Err(unreadable(error)),
        };
        if let Some(kind) = other_kind(&seen) {
            return Err(fail(FailureReason::NotAFile, kind));
        }
        let file = match self.open_regular(root, relative) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP | Errno::XDEV | Errno::NOTDIR) => {
                return Err(fail(FailureReason::NotAFile, "below a symbolic link"));
            }
            Err(error) => return Err(unreadable(error)),
        };
        let now = rustix::fs::fstat(&file).map_err(unreadable)?;
        match other_kind(&now) {
            Some(kind) => Err(fail(FailureReason::NotAFile, kind)),
            None => Ok(Some((file, now.st_size as u64))),
        }
    }

    fn open_regular(&self, root: &Root, relative: &str) -> Result<OwnedFd, Errno> {
        if !self.noatime_refused.load(Ordering::Relaxed) {
            match self.open_below(root, relative, OFlags::NOATIME) {
                Err(Errno::PERM) => self.noatime_refused.store(true, Ordering::Relaxed),
                result => return result,
            }
        }
        self.open_below(root, relative, OFlags::empty())
    }

    fn open_below(&self, root: &Root, relative: &str, more: OFlags) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDONLY
            | OFlags::CLOEXEC
            | OFlags::NOFOLLOW
            | OFlags::NONBLOCK
            | OFlags::NOCTTY
            | more;
        if !self.openat2_refused.load(Ordering::Relaxed) {
            let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH;
            let directory = &root.directory;
            match rustix::fs::openat2(directory, relative, flags, Mode::empty(), resolve) {
                // Before Linux 5.6, and where a sandbox doesn't know the call.
                Err(Errno::NOSYS) => self.openat2_refused.store(true, Ordering::Relaxed),
                result => return result,
            }
        }
        open_stepwise(root.directory.as_fd(), relative, flags)
    }
}

/// What openat2 does in one call: opens each component without following it.
fn open_stepwise(root: BorrowedFd<'_>, relative: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    let step = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut parts = relative.split('/').peekable();
    let mut directory: Option<OwnedFd> = None;
    while let Some(part) = parts.next() {
        let at = directory.as_ref().map_or(root, AsFd::as_fd);
        let last = parts.peek().is_none();
        let opened = rustix::fs::openat(at, part, if last { flags } else { step }, Mode::empty())?;
        if last {
            return Ok(opened);
        }
        directory = Some(opened);
    }
    Err(Errno::NOENT)
}

fn open_root(root: &str) -> Result<Root, StoreError> {
    let path = Path::new(root);
    if !path.is_absolute() {
        return Err(StoreError::NotAbsolute {
            root: root.to_owned(),
        });
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(directory) => Ok(Root {
            path: path.to_owned(),
            directory,
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

/// What it is, unless it is a regular file.
fn other_kind(stat: &Stat) -> Option<&'static str> {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => None,
        FileType::Directory => Some("a directory"),
        FileType::Symlink => Some("a symbolic link"),
        FileType::Fifo => Some("a FIFO"),
        FileType::Socket => Some("a socket"),
        FileType::CharacterDevice | FileType::BlockDevice => Some("a device"),
        FileType::Unknown => Some("not a regular file"),
    }
}

/// The system's own words, without Rust's addition of the number.
pub(crate) fn in_words(error: Errno) -> String {
    let text = std::io::Error::from(error).to_string();
    match text.rfind(" (os error") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::Read;
    use std::os::unix::fs::symlink;

    struct TestStore {
        directory: tempfile::TempDir,
    }

    fn id(n: u8) -> BlobId {
        BlobId::from_bytes([n; 32])
    }

    impl TestStore {
        fn new() -> TestStore {
            let directory = tempfile::tempdir().unwrap();
            TestStore { directory }
        }

        fn root(&self) -> String {
            self.directory.path().to_str().unwrap().to_owned()
        }

        /// Where a blob lies, with the directories above it made.
        fn place(&self, id: &BlobId) -> PathBuf {
            let path = self.directory.path().join(id.relative_path());
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            path
        }

        fn put(&self, id: &BlobId, content: &str) {
            fs::write(self.place(id), content).unwrap();
        }

        fn reason(&self, id: &BlobId) -> (FailureReason, String) {
            match Store::open(&self.root()).unwrap().open_blob(id) {
                Err(failure) => (failure.reason, failure.detail),
                Ok(_) => panic!("must not be opened"),
            }
        }
    }

    fn content(blob: &Blob) -> String {
        let mut text = String::new();
        let file = blob.as_fd().try_clone_to_owned().unwrap();
        fs::File::from(file).read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn a_blob_is_opened_from_the_first_root_that_has_it() {
        let (a, b) = (TestStore::new(), TestStore::new());
        a.put(&id(1), "first");
        b.put(&id(1), "second");
        b.put(&id(2), "only second");
        let store = Store::open(&format!("{}:{}", a.root(), b.root())).unwrap();
        let blob = store.open_blob(&id(1)).unwrap();
        assert_eq!((content(&blob).as_str(), blob.size()), ("first", 5));
        assert_eq!(blob.path(), a.place(&id(1)));
        let blob = store.open_blob(&id(2)).unwrap();
        assert_eq!(content(&blob), "only second");
        assert_eq!(store.path_of(&id(2)), b.place(&id(2)));
        assert_eq!(
            store.open_blob(&id(3)).err().unwrap().reason,
            FailureReason::Missing
        );
    }

    #[test]
    fn a_blob_in_the_second_root_is_found_past_a_failure_in_the_first() {
        let (a, b) = (TestStore::new(), TestStore::new());
        fs::create_dir(a.place(&id(1))).unwrap();
        b.put(&id(1), "good");
        let store = Store::open(&format!("{}:{}", a.root(), b.root())).unwrap();
        assert_eq!(content(&store.open_blob(&id(1)).unwrap()), "good");
    }

    #[test]
    fn only_regular_files_are_opened() {
        let store = TestStore::new();
        fs::create_dir(store.place(&id(1))).unwrap();
        symlink("/etc/passwd", store.place(&id(2))).unwrap();
        std::os::unix::net::UnixListener::bind(store.place(&id(3))).ok();
        let (reason, detail) = store.reason(&id(1));
        assert_eq!(reason, FailureReason::NotAFile);
        assert!(detail.ends_with("a directory"), "{detail}");
        let (reason, detail) = store.reason(&id(2));
        assert_eq!(reason, FailureReason::NotAFile);
        assert!(detail.ends_with("a symbolic link"), "{detail}");
    }

    #[test]
    fn a_fifo_is_never_opened() {
        let store = TestStore::new();
        let path = store.place(&id(4));
        let status = std::process::Command::new("mkfifo").arg(&path).status();
        assert!(status.unwrap().success());
        assert_eq!(store.reason(&id(4)).0, FailureReason::NotAFile);
        // Had anybody opened it for reading, an attempt to write without waiting would succeed once.
        let flags = OFlags::WRONLY | OFlags::NONBLOCK;
        let error = rustix::fs::open(&path, flags, Mode::empty()).unwrap_err();
        assert_eq!(error, Errno::NXIO);
    }

    #[test]
    fn no_symbolic_link_is_followed_below_the_root() {
        let (store, elsewhere) = (TestStore::new(), TestStore::new());
        elsewhere.put(&id(5), "outside");
        let outside = elsewhere.directory.path().join("05");
        symlink(outside, store.directory.path().join("05")).unwrap();
        let (reason, detail) = store.reason(&id(5));
        assert_eq!(reason, FailureReason::NotAFile);
        assert!(detail.ends_with("below a symbolic link"), "{detail}");
        let stepwise = Store::open(&store.root()).unwrap();
        stepwise.openat2_refused.store(true, Ordering::Relaxed);
        let failure = stepwise.open_blob(&id(5)).err().unwrap();
        assert_eq!(failure.reason, FailureReason::NotAFile);
    }

    #[test]
    fn stepwise_opening_finds_the_same() {
        let directory = TestStore::new();
        directory.put(&id(6), "six");
        let store = Store::open(&directory.root()).unwrap();
        store.openat2_refused.store(true, Ordering::Relaxed);
        assert_eq!(content(&store.open_blob(&id(6)).unwrap()), "six");
        assert_eq!(
            store.open_blob(&id(7)).err().unwrap().reason,
            FailureReason::Missing
        );
    }

    #[test]
    fn a_root_itself_may_be_a_symbolic_link() {
        let (target, link) = (TestStore::new(), TestStore::new());
        target.put(&id(8), "eight");
        let root = link.directory.path().join("store");
        symlink(target.directory.path(), &root).unwrap();
        let store = Store::open(root.to_str().unwrap()).unwrap();
        assert_eq!(content(&store.open_blob(&id(8)).unwrap()), "eight");
    }

    #[test]
    fn unusable_roots_are_told() {
        let good = TestStore::new();
        let file = good.directory.path().join("file");
        fs::write(&file, "").unwrap();
        let error = |setting: &str| Store::open(setting).err().unwrap().to_string();
        assert_eq!(error(""), "no directory is named");
        assert_eq!(error("blobs"), "\"blobs\" is not an absolute path");
        let text = error(&format!("{}:{}", good.root(), file.display()));
        assert_eq!(text, format!("\"{}\" is not a directory", file.display()));
        let text = error("/nonexistent/store");
        let expected = "could not open directory \"/nonexistent/store\": No such file or directory";
        assert_eq!(text, expected);
        assert_eq!(
            error(&format!("{}:", good.root())),
            "\"\" is not an absolute path"
        );
    }

    #[test]
    fn with_a_root_unusable_nothing_is_said_to_be_missing() {
        let good = TestStore::new();
        good.put(&id(9), "nine");
        let store = Store::open_lenient(&format!("/nonexistent:{}", good.root()));
        assert_eq!(content(&store.open_blob(&id(9)).unwrap()), "nine");
        let failure = store.open_blob(&id(1)).err().unwrap();
        assert_eq!(failure.reason, FailureReason::Unreadable);
        assert!(
            failure.detail.contains("/nonexistent"),
            "{}",
            failure.detail
        );
    }
}
