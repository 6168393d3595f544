//! In-flight records of processes that die in earnest: each test runs itself once more as the process that is to die.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{PoisonError, RwLock};

use ntt_mime_core::blob_id::BlobId;
use ntt_mime_core::in_flight::{self, BackendKind, Death, InFlightRecord};

const DATABASE: u32 = 5;

/// How the process of a test is to die.
const HOW: &str = "NTT_MIME_TEST_DEATH";
const FOLDER: &str = "NTT_MIME_TEST_FOLDER";

fn blob() -> BlobId {
    BlobId::from_bytes([0xab; 32])
}

fn other_blob() -> BlobId {
    BlobId::from_bytes([0xcd; 32])
}

/// Not a test of its own: the process that dies.
#[test]
fn dies() {
    let (Ok(how), Ok(folder)) = (std::env::var(HOW), std::env::var(FOLDER)) else {
        return;
    };
    let kind = match how.starts_with("session") {
        true => BackendKind::Session,
        false => BackendKind::Worker,
    };
    // As in a server process. (Rust's runtime has a handler for the first, which bears a signal from outside.)
    // SAFETY: the default action, and a handler that only counts.
    unsafe {
        libc::signal(libc::SIGSEGV, libc::SIG_DFL);
        libc::signal(libc::SIGFPE, count_signal as *const () as usize);
    }
    let in_flight = InFlightRecord::begin(Path::new(&folder), DATABASE, kind).unwrap();
    // SAFETY: none is claimed; these are made to end the process.
    let die = |how: &str| unsafe {
        match how.trim_start_matches("session ") {
            "segv" => std::ptr::without_provenance_mut::<u8>(8).write_volatile(1),
            "abort" => std::process::abort(),
            "kill" => drop(libc::raise(libc::SIGKILL)),
            "fpe" => drop(libc::raise(libc::SIGFPE)),
            "overflow" => drop(endless(1)),
            "segv from outside" => {
                let pid = std::process::id().to_string();
                let mut kill = Command::new("kill");
                kill.args(["-SEGV", &pid]).status().unwrap();
                std::thread::sleep(std::time::Duration::from_secs(10));
            }
            "clean_exit" => {
                in_flight::mark_clean_exit();
                libc::raise(libc::SIGKILL);
            }
            other => panic!("{other}"),
        }
    };
    match how.as_str() {
        "segv elsewhere" => {
            in_flight.during(&blob(), || ());
            die("segv");
        }
        "fpe after others" => {
            for n in 1..=2 {
                die("fpe");
                assert_eq!(COUNTED.load(Ordering::Relaxed), n);
            }
            in_flight.during(&blob(), || die("fpe"));
        }
        "segv in another thread" => {
            in_flight.during(&blob(), || {
                std::thread::scope(|scope| scope.spawn(|| die("segv")).join().unwrap());
            });
        }
        // The test's own thread isn't the main one, which has a place of its own in the in-flight record: a child whose first
        // thread is this one takes that.
        how if how.ends_with("beside another look") => {
            // SAFETY: the child does nothing that another thread's state could matter to.
            if unsafe { libc::fork() } != 0 {
                // SAFETY: waits for the only child.
                unsafe { libc::wait(std::ptr::null_mut()) };
                return;
            }
            let in_flight = InFlightRecord::begin(Path::new(&folder), DATABASE, kind).unwrap();
            in_flight.during(&other_blob(), || {
                let look = || in_flight.during(&blob(), || die(how.split(' ').next().unwrap()));
                std::thread::scope(|scope| scope.spawn(look).join().unwrap());
            });
        }
        "end" => {
            in_flight.during(&blob(), || ());
            in_flight.end();
        }
        how => in_flight.during(&blob(), || die(how)),
    }
}

/// Signals that have come to the handler that was there before.
static COUNTED: AtomicU32 = AtomicU32::new(0);

extern "C" fn count_signal(_signal: std::ffi::c_int) {
    COUNTED.fetch_add(1, Ordering::Relaxed);
}

#[allow(unconditional_recursion, reason = "it is to have no end")]
fn endless(depth: u64) -> u64 {
    let frame = [depth; 64];
    std::hint::black_box(&frame)[0] + endless(depth + 1)
}

/// Held to begin a process: until that executes its program it has all our files, and so keeps their locks, also of
/// those that we close meanwhile. Whoever looks at one in-flight record twice holds it for reading.
static BEGINNING: RwLock<()> = RwLock::new(());

/// Lets a process die over the blob.
fn die(folder: &Path, how: &str) -> ExitStatus {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "dies", "--test-threads=1"])
        .env(HOW, how)
        .env(FOLDER, folder)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    begin(&mut command).wait().unwrap()
}

fn begin(command: &mut Command) -> Child {
    let _beginning = BEGINNING.write().unwrap_or_else(PoisonError::into_inner);
    command.spawn().unwrap()
}

fn left_behind(folder: &Path) -> Vec<(BlobId, Death)> {
    let left = in_flight::left_behind(folder, DATABASE, &[DATABASE]).unwrap();
    left.into_iter()
        .map(|left| {
            let of = (left.blob, left.death);
            left.remove();
            of
        })
        .collect()
}

fn files(folder: &Path) -> usize {
    std::fs::read_dir(folder).unwrap().count()
}

fn crashed(signal: &'static str) -> Vec<(BlobId, Death)> {
    vec![(blob(), Death::Crashed { signal })]
}

#[test]
fn a_crash_blames_the_blob_at_once() {
    for (how, number, signal) in [
        ("segv", libc::SIGSEGV, "SIGSEGV"),
        ("overflow", libc::SIGSEGV, "SIGSEGV"),
        ("abort", libc::SIGABRT, "SIGABRT"),
        ("session segv", libc::SIGSEGV, "SIGSEGV"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        // It dies as it would have died without us, so that whoever waits for it sees why.
        assert_eq!(die(folder.path(), how).signal(), Some(number), "{how}");
        assert_eq!(
            in_flight::crashes(folder.path(), DATABASE),
            [(blob(), signal)],
            "{how}"
        );
        assert_eq!(left_behind(folder.path()), crashed(signal), "{how}");
        assert_eq!(files(folder.path()), 0);
    }
}

#[test]
fn to_be_killed_makes_suspect_and_to_be_killed_again_blames() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(die(folder.path(), "kill").signal(), Some(libc::SIGKILL));
    assert_eq!(in_flight::crashes(folder.path(), DATABASE), []);
    assert_eq!(left_behind(folder.path()), []);
    assert_eq!(files(folder.path()), 1, "the suspicion");
    assert_eq!(left_behind(folder.path()), [], "once a death");
    die(folder.path(), "kill");
    assert_eq!(left_behind(folder.path()), [(blob(), Death::KilledTwice)]);
    assert_eq!(files(folder.path()), 0);
}

#[test]
fn who_judges_a_suspect_and_lives_clears_it() {
    let folder = tempfile::tempdir().unwrap();
    die(folder.path(), "kill");
    assert_eq!(left_behind(folder.path()), []);
    assert!(in_flight::suspects(folder.path(), DATABASE + 1).is_empty());
    assert_eq!(
        in_flight::suspects(folder.path(), DATABASE),
        [blob()].into()
    );
    in_flight::clear_suspect(folder.path(), DATABASE, &other_blob());
    in_flight::clear_suspect(folder.path(), DATABASE + 1, &blob());
    assert_eq!(files(folder.path()), 1);
    in_flight::clear_suspect(folder.path(), DATABASE, &blob());
    assert_eq!(files(folder.path()), 0);
    die(folder.path(), "kill");
    assert_eq!(left_behind(folder.path()), [], "suspect for the first time");
}

#[test]
fn a_suspicion_is_forgotten_when_nobody_has_looked_for_long() {
    let folder = tempfile::tempdir().unwrap();
    die(folder.path(), "kill");
    left_behind(folder.path());
    let path = std::fs::read_dir(folder.path()).unwrap().next().unwrap();
    let file = std::fs::File::options()
        .write(true)
        .open(path.unwrap().path());
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(31 * 24 * 60 * 60);
    file.unwrap().set_modified(old).unwrap();
    assert_eq!(left_behind(folder.path()), []);
    assert_eq!(files(folder.path()), 0);
}

#[test]
fn of_two_threads_the_one_that_crashed_blames_its_blob() {
    let folder = tempfile::tempdir().unwrap();
    die(folder.path(), "segv beside another look");
    assert_eq!(left_behind(folder.path()), crashed("SIGSEGV"));
    assert_eq!(files(folder.path()), 0);
}

#[test]
fn of_two_threads_that_were_killed_both_blobs_are_suspect() {
    let folder = tempfile::tempdir().unwrap();
    die(folder.path(), "kill beside another look");
    assert_eq!(left_behind(folder.path()), []);
    let both = [blob(), other_blob()].into();
    assert_eq!(in_flight::suspects(folder.path(), DATABASE), both);
}

#[test]
fn one_that_was_suspect_before_clears_the_other() {
    let folder = tempfile::tempdir().unwrap();
    die(folder.path(), "kill");
    left_behind(folder.path());
    die(folder.path(), "kill beside another look");
    // Also if the run that reads the records ends before it removes them.
    let _nobody_begins = BEGINNING.read().unwrap_or_else(PoisonError::into_inner);
    for _ in 0..2 {
        let left = in_flight::left_behind(folder.path(), DATABASE, &[DATABASE]).unwrap();
        let blamed: Vec<_> = left.iter().map(|left| (left.blob, left.death)).collect();
        assert_eq!(blamed, [(blob(), Death::KilledTwice)]);
    }
    assert_eq!(
        in_flight::suspects(folder.path(), DATABASE),
        [blob()].into()
    );
}

#[test]
fn a_handler_that_was_there_is_called_each_time_but_for_a_blob() {
    let folder = tempfile::tempdir().unwrap();
    let died = die(folder.path(), "fpe after others");
    assert_eq!(died.signal(), Some(libc::SIGFPE));
    assert_eq!(left_behind(folder.path()), crashed("SIGFPE"));
}

#[test]
fn two_processes_may_crash_at_one_blob() {
    let folder = tempfile::tempdir().unwrap();
    die(folder.path(), "segv");
    die(folder.path(), "abort");
    let mut left = left_behind(folder.path());
    left.sort_by_key(|(_, death)| format!("{death:?}"));
    assert_eq!(left, [crashed("SIGABRT"), crashed("SIGSEGV")].concat());
    assert_eq!(files(folder.path()), 0);
}

#[test]
fn other_deaths_blame_nobody() {
    for how in [
        "session kill",
        "segv from outside",
        "segv elsewhere",
        "clean_exit",
    ] {
        let folder = tempfile::tempdir().unwrap();
        assert!(die(folder.path(), how).signal().is_some(), "{how}");
        let left = left_behind(folder.path());
        match how {
            // By a signal from somebody else it was killed, and killed only.
            "segv from outside" => assert_eq!((left, files(folder.path())), (vec![], 1)),
            _ => assert_eq!((left, files(folder.path())), (vec![], 0), "{how}"),
        }
    }
}

#[test]
fn a_crash_of_another_thread_is_not_a_crash_over_the_blob() {
    let folder = tempfile::tempdir().unwrap();
    die(folder.path(), "segv in another thread");
    assert_eq!(in_flight::crashes(folder.path(), DATABASE), []);
    assert_eq!(left_behind(folder.path()), []);
}

#[test]
fn who_ends_in_an_orderly_way_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    assert!(die(folder.path(), "end").success());
    assert_eq!(files(folder.path()), 0);
    let nowhere = folder.path().join("nowhere");
    assert!(
        in_flight::left_behind(&nowhere, DATABASE, &[])
            .unwrap()
            .is_empty()
    );
}

#[test]
fn the_living_are_left_alone_and_other_databases_too() {
    let folder = tempfile::tempdir().unwrap();
    let in_flight = InFlightRecord::begin(folder.path(), DATABASE, BackendKind::Worker).unwrap();
    in_flight.during(&blob(), || {
        assert_eq!(left_behind(folder.path()), []);
        assert_eq!(files(folder.path()), 1);
    });
    in_flight.end();
    die(folder.path(), "segv");
    let other = DATABASE + 1;
    assert_eq!(in_flight::crashes(folder.path(), other), []);
    let left = in_flight::left_behind(folder.path(), other, &[DATABASE, other]).unwrap();
    assert!(left.is_empty() && files(folder.path()) == 1);
    // Its database has been dropped.
    let left = in_flight::left_behind(folder.path(), other, &[other]).unwrap();
    assert!(left.is_empty() && files(folder.path()) == 0);
}

#[test]
fn a_record_that_was_never_finished_goes_with_its_process() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = begin(&mut Command::new("true"));
    child.wait().unwrap();
    let (dead, living) = (child.id(), std::process::id());
    for pid in [dead, living] {
        let name = format!("new.{DATABASE}.1.{pid}");
        std::fs::write(folder.path().join(name), "").unwrap();
    }
    assert_eq!(left_behind(folder.path()), []);
    let left = folder.path().join(format!("new.{DATABASE}.1.{living}"));
    assert!(left.exists());
    assert_eq!(files(folder.path()), 1);
}

#[test]
fn damaged_notes_say_nothing() {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in [
        (format!("{DATABASE}.1"), &b""[..]),
        (format!("{DATABASE}.2"), &[0xff; 4096][..]),
        (format!("{DATABASE}.3"), &[0; 4096][..]),
        ("nonsense".to_owned(), &b"x"[..]),
    ] {
        std::fs::write(folder.path().join(name), content).unwrap();
    }
    assert_eq!(in_flight::crashes(folder.path(), DATABASE), []);
    assert_eq!(left_behind(folder.path()), []);
}
