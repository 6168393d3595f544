//! Each rule of the store is tested with both ways of opening: openat2, and step by step.

use super::*;
use std::fs;
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::sync::mpsc;

use rustix::fs::{CWD, makedev, mknodat};

use super::fifo::FifoWriter;

struct TestStore {
    directory: tempfile::TempDir,
}

fn id(n: u8) -> BlobId {
    BlobId::from_bytes([n; 32])
}

/// The same setting, opened for both ways.
fn both(setting: &str) -> [Store; 2] {
    let stepwise = Store::open_lenient(setting);
    stepwise.openat2_refused.store(true, Ordering::Relaxed);
    [Store::open_lenient(setting), stepwise]
}

impl TestStore {
    fn new() -> TestStore {
        let directory = tempfile::tempdir().unwrap();
        // Some tests give up root's rights.
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        TestStore { directory }
    }

    fn root(&self) -> String {
        self.directory.path().to_str().unwrap().to_owned()
    }

    /// The path of a blob; creates the directories above it.
    fn place(&self, id: &BlobId) -> PathBuf {
        let path = self.directory.path().join(id.relative_path());
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    fn put(&self, id: &BlobId, content: &str) -> PathBuf {
        let path = self.place(id);
        fs::write(&path, content).unwrap();
        path
    }

    /// Opening fails in the same way with both.
    fn failure(&self, id: &BlobId) -> (FailureReason, String) {
        let [a, b] = both(&self.root()).map(|store| store.open_blob(id).unwrap_err());
        assert_eq!(a, b);
        (a.reason, a.detail)
    }
}

fn content(blob: &Blob) -> String {
    let mut text = String::new();
    let file = blob.as_fd().try_clone_to_owned().unwrap();
    fs::File::from(file).read_to_string(&mut text).unwrap();
    text
}

/// Runs `work` without root's rights, which tests in containers often have. On Linux a thread may give up its own.
fn unprivileged<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            if rustix::process::geteuid().is_root() {
                let nobody = rustix::process::Uid::from_raw(65534);
                rustix::thread::set_thread_res_uid(None, nobody, None).unwrap();
            }
            work()
        });
        thread.join().unwrap()
    })
}

#[test]
fn this_machine_has_openat2() {
    // Otherwise the tests below would try the same way twice.
    let [direct, _] = both(&TestStore::new().root());
    if direct.openat2_refused.load(Ordering::Relaxed) {
        eprintln!("openat2 is refused here, so it stays untested");
    }
}

#[test]
fn a_blob_is_opened_from_the_first_root_that_has_it() {
    let (a, b) = (TestStore::new(), TestStore::new());
    a.put(&id(1), "first");
    b.put(&id(1), "second");
    b.put(&id(2), "only second");
    for store in both(&format!("{}:{}", a.root(), b.root())) {
        let blob = store.open_blob(&id(1)).unwrap();
        assert_eq!((content(&blob).as_str(), blob.size()), ("first", 5));
        assert_eq!(blob.path(), a.place(&id(1)));
        let blob = store.open_blob(&id(2)).unwrap();
        assert_eq!(content(&blob), "only second");
        assert_eq!(store.path_of(&id(2)), b.place(&id(2)));
        assert_eq!(store.path_of(&id(3)), a.place(&id(3)));
        let failure = store.open_blob(&id(3)).unwrap_err();
        assert_eq!(failure.reason, FailureReason::Missing);
        let path = a.place(&id(3));
        assert_eq!(
            failure.detail,
            format!("no file \"{}\", nor below \"{}\"", path.display(), b.root())
        );
    }
}

#[test]
fn a_failure_in_one_root_is_no_end_and_is_not_forgotten() {
    let (a, b) = (TestStore::new(), TestStore::new());
    fs::create_dir(a.place(&id(1))).unwrap();
    b.put(&id(1), "good");
    fs::create_dir(b.place(&id(2))).unwrap();
    for store in both(&format!("{}:{}", a.root(), b.root())) {
        assert_eq!(content(&store.open_blob(&id(1)).unwrap()), "good");
        let failure = store.open_blob(&id(2)).unwrap_err();
        assert_eq!(failure.reason, FailureReason::NotAFile);
        assert!(failure.detail.contains(&b.root()), "{}", failure.detail);
    }
}

#[test]
fn only_regular_files_are_opened() {
    let store = TestStore::new();
    fs::create_dir(store.place(&id(1))).unwrap();
    symlink("/etc/passwd", store.place(&id(2))).unwrap();
    symlink("nowhere", store.place(&id(3))).unwrap();
    let make = |n, kind, device| mknodat(CWD, store.place(&id(n)), kind, Mode::from(0o644), device);
    make(4, FileType::Socket, 0).unwrap();
    make(5, FileType::Fifo, 0).unwrap();
    let mut expected = vec![
        (1, "a directory"),
        (2, "a symbolic link"),
        (3, "a symbolic link"),
        (4, "a socket"),
        (5, "a FIFO"),
    ];
    match make(6, FileType::CharacterDevice, makedev(1, 3)) {
        Ok(()) => expected.push((6, "a device")),
        Err(error) => eprintln!("no device node can be made here, so none is tried: {error}"),
    }
    for (n, kind) in expected {
        let (reason, detail) = store.failure(&id(n));
        assert_eq!(reason, FailureReason::NotAFile);
        let path = store.place(&id(n));
        assert_eq!(detail, format!("\"{}\" is {kind}", path.display()));
    }
}

#[test]
fn a_fifo_is_never_opened() {
    let store = TestStore::new();
    let path = store.place(&id(4));
    let writer = FifoWriter::start(&path);
    for _ in 0..100 {
        assert_eq!(store.failure(&id(4)).0, FailureReason::NotAFile);
    }
    assert!(writer.waits(), "somebody has opened it");
    writer.end();
}

#[test]
fn no_symbolic_link_is_followed_below_the_root() {
    for depth in ["05", "05/05"] {
        let (store, elsewhere) = (TestStore::new(), TestStore::new());
        elsewhere.put(&id(5), "outside");
        let link = store.directory.path().join(depth);
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        symlink(elsewhere.directory.path().join(depth), &link).unwrap();
        let expected = (
            FailureReason::NotAFile,
            format!("\"{}\" is a symbolic link", link.display()),
        );
        assert_eq!(store.failure(&id(5)), expected);
        // It isn't missing either if the link leads nowhere.
        fs::remove_dir_all(elsewhere.directory.path().join("05")).unwrap();
        assert_eq!(store.failure(&id(5)), expected);
    }
}

#[test]
fn a_file_in_a_directorys_place_is_told() {
    let store = TestStore::new();
    let path = store.directory.path().join("05");
    fs::write(&path, "").unwrap();
    let expected = format!("\"{}\" is a file, not a directory", path.display());
    assert_eq!(store.failure(&id(5)), (FailureReason::NotAFile, expected));
}

#[test]
fn what_may_not_be_read_is_unreadable() {
    let store = TestStore::new();
    let file = store.put(&id(1), "secret");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o000)).unwrap();
    store.put(&id(2), "behind a closed door");
    let door = store.directory.path().join("02");
    fs::set_permissions(&door, fs::Permissions::from_mode(0o000)).unwrap();
    unprivileged(|| {
        for (n, path) in [(1, &file), (2, &door.join("02"))] {
            let expected = format!("could not open \"{}\": Permission denied", path.display());
            let failure = store.failure(&id(n));
            assert_eq!(failure, (FailureReason::Unreadable, expected));
        }
        // And a usable blob in another root still wins.
        let other = TestStore::new();
        other.put(&id(1), "copy");
        for store in both(&format!("{}:{}", store.root(), other.root())) {
            assert_eq!(content(&store.open_blob(&id(1)).unwrap()), "copy");
        }
    });
    fs::set_permissions(&door, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_root_that_may_not_be_searched_is_unusable() {
    let store = TestStore::new();
    let root = store.directory.path();
    fs::set_permissions(root, fs::Permissions::from_mode(0o600)).unwrap();
    let error = unprivileged(|| Store::open(&store.root()).unwrap_err());
    let expected = StoreError::Unusable {
        root: store.root(),
        error: "Permission denied".to_owned(),
    };
    assert_eq!(error, expected);
    fs::set_permissions(root, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn files_of_other_owners_are_read_too() {
    // O_NOATIME is refused for these, and then never tried again.
    let directory = TestStore::new();
    directory.put(&id(1), "one");
    directory.put(&id(2), "two");
    if !rustix::process::geteuid().is_root() {
        eprintln!("only root can be somebody else here, so this stays untested");
        return;
    }
    unprivileged(|| {
        for store in both(&directory.root()) {
            for (n, text) in [(1, "one"), (2, "two")] {
                assert_eq!(content(&store.open_blob(&id(n)).unwrap()), text);
                assert!(store.noatime_refused.load(Ordering::Relaxed));
            }
        }
    });
}

#[test]
fn missing_blobs_are_missing_at_every_depth() {
    let store = TestStore::new();
    let there = store.put(&id(7), "seven");
    let mut neighbour = [7; 32];
    neighbour[31] = 8;
    let mut cousin = [7; 32];
    cousin[1] = 8;
    for bytes in [neighbour, cousin, [8; 32]] {
        let id = BlobId::from_bytes(bytes);
        let path = store.directory.path().join(id.relative_path());
        let expected = format!("no file \"{}\"", path.display());
        assert_eq!(store.failure(&id), (FailureReason::Missing, expected));
    }
    fs::remove_file(there).unwrap();
    assert_eq!(store.failure(&id(7)).0, FailureReason::Missing);
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

/// A directory for both, a root without blobs, and a place to which it can be moved.
fn empty_root() -> (TestStore, PathBuf, PathBuf) {
    let parent = TestStore::new();
    let root = parent.directory.path().join("store");
    let aside = parent.directory.path().join("aside");
    fs::create_dir(&root).unwrap();
    (parent, root, aside)
}

#[test]
fn a_root_that_was_exchanged_is_not_one_without_blobs() {
    let (_parent, root, aside) = empty_root();
    for store in both(root.to_str().unwrap()) {
        let missing = store.open_blob(&id(1)).unwrap_err();
        assert_eq!(missing.reason, FailureReason::Missing);
        fs::rename(&root, &aside).unwrap();
        fs::create_dir(&root).unwrap();
        let failure = store.open_blob(&id(1)).unwrap_err();
        let expected = format!(
            "directory \"{}\" is no longer the one that was opened",
            root.display()
        );
        assert_eq!(
            (failure.reason, failure.detail),
            (FailureReason::Unreadable, expected)
        );
        fs::remove_dir(&root).unwrap();
        fs::rename(&aside, &root).unwrap();
        assert_eq!(store.open_blob(&id(1)).unwrap_err(), missing);
    }
}

#[test]
fn a_store_that_is_opened_again_is_the_same_or_none() {
    let (_parent, root, aside) = empty_root();
    let setting = root.to_str().unwrap();
    let identities = Store::open(setting).unwrap().identities();
    assert!(Store::reopen(setting, &identities).is_ok());
    // As when it is unmounted, and the empty mount point below appears.
    fs::rename(&root, &aside).unwrap();
    fs::create_dir(&root).unwrap();
    let again = Store::reopen(setting, &identities);
    assert!(matches!(again, Err(StoreError::Exchanged { .. })));
}

#[test]
fn a_root_that_held_blobs_has_to_hold_some() {
    let (_parent, root, _aside) = empty_root();
    let other = root.with_extension("other");
    fs::create_dir(&other).unwrap();
    let setting = format!("{}:{}", root.display(), other.display());
    let occupied = || -> Vec<bool> {
        let identities = Store::open(&setting).unwrap().identities();
        identities
            .into_iter()
            .map(|(.., occupied)| occupied)
            .collect()
    };
    // Only names of directories for blobs count.
    for name in ["NOT MOUNTED", "lost+found", "0", "AB", "abc"] {
        fs::create_dir(root.join(name)).unwrap();
    }
    assert_eq!(occupied(), [false, false]);
    let empty = Store::open(&setting).unwrap().identities();
    fs::create_dir(root.join("a0")).unwrap();
    assert_eq!(occupied(), [true, false]);
    assert!(Store::reopen(&setting, &empty).is_ok());
    let full = Store::open(&setting).unwrap().identities();
    fs::remove_dir(root.join("a0")).unwrap();
    fs::create_dir(other.join("a0")).unwrap();
    let again = Store::reopen(&setting, &full).unwrap_err();
    assert_eq!(again.root(), root.to_str());
    assert!(matches!(again, StoreError::Emptied { .. }));
}

#[test]
fn a_store_knows_whether_it_is_still_there() {
    let (_parent, root, aside) = empty_root();
    let store = Store::open(root.to_str().unwrap()).unwrap();
    assert_eq!(store.check(), Ok(()));
    fs::rename(&root, &aside).unwrap();
    assert!(matches!(store.check(), Err(StoreError::Unusable { .. })));
    fs::create_dir(&root).unwrap();
    assert!(matches!(store.check(), Err(StoreError::Exchanged { .. })));
    fs::remove_dir(&root).unwrap();
    fs::rename(&aside, &root).unwrap();
    assert_eq!(store.check(), Ok(()));
    // A directory that can be listed, but not searched.
    fs::set_permissions(&root, fs::Permissions::from_mode(0o600)).unwrap();
    if !rustix::process::geteuid().is_root() {
        assert!(matches!(store.check(), Err(StoreError::Unusable { .. })));
    }
    fs::set_permissions(&root, fs::Permissions::from_mode(0o700)).unwrap();
}

#[test]
fn descriptors_are_not_inherited_and_links_are_no_matter() {
    let directory = TestStore::new();
    let path = directory.put(&id(1), "linked");
    fs::hard_link(&path, directory.directory.path().join("other name")).unwrap();
    for store in both(&directory.root()) {
        let blob = store.open_blob(&id(1)).unwrap();
        assert_eq!(content(&blob), "linked");
        for fd in [blob.as_fd(), store.roots[0].directory.as_fd()] {
            let flags = rustix::io::fcntl_getfd(fd).unwrap();
            assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
        }
    }
}

#[test]
fn unusable_roots_are_told() {
    let good = TestStore::new();
    let file = good.directory.path().join("file");
    fs::write(&file, "").unwrap();
    let error = |setting: &str| Store::open(setting).unwrap_err().to_string();
    assert_eq!(error(""), "no directory is named");
    assert_eq!(error(" "), "no directory is named");
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
    fs::create_dir(good.place(&id(2))).unwrap();
    for store in both(&format!("/nonexistent:{}", good.root())) {
        assert_eq!(content(&store.open_blob(&id(9)).unwrap()), "nine");
        let failure = store.open_blob(&id(1)).unwrap_err();
        assert_eq!(failure.reason, FailureReason::Unreadable);
        assert_eq!(
            failure.detail,
            "could not open directory \"/nonexistent\": No such file or directory"
        );
        // What is known about the blob itself says more.
        let failure = store.open_blob(&id(2)).unwrap_err();
        assert_eq!(failure.reason, FailureReason::NotAFile);
        let path = Path::new("/nonexistent").join(id(1).relative_path());
        assert_eq!(store.path_of(&id(1)), path);
    }
    for setting in ["", "relative"] {
        let failure = Store::open_lenient(setting).open_blob(&id(1)).unwrap_err();
        assert_eq!(failure.reason, FailureReason::Unreadable);
    }
}

#[test]
fn blobs_exchanged_all_the_time_are_opened_or_told() {
    // A loader replaces files by renaming over them, and worse things may happen.
    let directory = TestStore::new();
    let path = directory.put(&id(3), "old");
    let (stop, stopped) = mpsc::channel::<()>();
    let exchanger = std::thread::spawn({
        let other = directory.directory.path().join("other");
        let path = path.clone();
        move || {
            while stopped.try_recv() == Err(mpsc::TryRecvError::Empty) {
                fs::write(&other, "new").unwrap();
                fs::rename(&other, &path).unwrap();
                symlink("/etc/passwd", &other).unwrap();
                fs::rename(&other, &path).unwrap();
            }
        }
    });
    for store in both(&directory.root()) {
        for _ in 0..5_000 {
            match store.open_blob(&id(3)) {
                Ok(blob) => assert_eq!(content(&blob).len(), 3),
                Err(failure) => assert_ne!(failure.reason, FailureReason::Missing),
            }
        }
    }
    stop.send(()).unwrap();
    exchanger.join().unwrap();
}
