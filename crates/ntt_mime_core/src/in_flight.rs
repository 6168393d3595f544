//! In-flight records: the blob that a process is examining, for those who find the process dead.
//!
//! A file that crashes libmagic takes its process down, and the whole server with it, and none of our code runs
//! afterwards. So each process that detects keeps an *in-flight record* that outlives it: a small file in a directory
//! below the server's data directory, mapped into memory, so that recording a blob takes only a few stores. Whoever
//! comes next reads the in-flight records of dead processes ([`left_behind()`]) and quarantines the blobs that they
//! were examining.
//!
//! Processes also die for other reasons, and then the current blob must not be blamed. Therefore:
//!
//! - A crash identifies itself: handlers of the signals by which the processor and the C library end a process mark
//!   the in-flight record, and then let the process die as it would have. They blame the blob only if the signal came
//!   from within, to the thread that was examining it.
//! - A process that was killed from outside (SIGKILL, by a person or for lack of memory) has no such mark. The first
//!   time, the blob only becomes *suspect*; if the next process that examines it is killed too, it is blamed
//!   ([`Death::KilledTwice`]). A process that detects it and survives clears it ([`clear_suspect`]).
//! - A server that ends all its processes at once, because another one crashed or in an immediate shutdown, sends
//!   SIGQUIT. Workers respond with [`mark_clean_exit`], and no blob becomes suspect.
//!
//! A lock on the file shows whether its process is dead, since the system always releases it; a process ID in a file
//! would prove nothing.
//!
//! The directory's name begins with `pgsql_tmp`, so pg_basebackup and pg_rewind leave it out (`PG_TEMP_FILE_PREFIX`
//! in PostgreSQL's common/file_utils.h, "Excluded files" in the chapter "File System Level Backup"). PostgreSQL
//! doesn't remove it after a crash, which it does only with what is in `base/pgsql_tmp`.

mod left_behind;
mod signals;

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicU32, AtomicU64, Ordering, fence};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};

pub use self::left_behind::{
    Death, LeftBehind, clear_suspect, crash_detail, crashes, left_behind, suspects,
};
pub use self::signals::{crash_signals, use_handler_stack};
use crate::blob_id::BlobId;
use crate::memory::named;

/// The directory of the in-flight records, below the server's data directory.
pub const FOLDER: &str = "pgsql_tmp_ntt_mime";

/// Identifies an in-flight record with this layout.
const MAGIC: u32 = u32::from_be_bytes(*b"ntN2");

/// The size of an in-flight record's file, all of which is mapped. It is written completely before it is mapped: a
/// page for which the disk has no room would kill the process that touches it.
const FILE_BYTES: usize = 4096;

/// The kind of process that keeps an in-flight record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum BackendKind {
    /// A worker of a run. If it is killed, its blob becomes suspect.
    Worker = 1,
    /// A session. It may be killed for any reason, so only a crash counts.
    Session = 2,
}

/// The mapped part.
#[repr(C)]
struct Page {
    magic: AtomicU32,
    kind: AtomicU32,
    /// The process was told to end, which is not the blob's fault.
    clean_exit: AtomicU32,
    _unused: AtomicU32,
    /// One for the process's main thread, one for another: while a worker's detector thread examines a blob, a
    /// trigger in the worker may ask for a type as well.
    slots: [Slot; 2],
}

/// What one thread is examining.
#[repr(C)]
struct Slot {
    /// The thread; 0 if there is none.
    thread: AtomicI32,
    /// The signal that ended the thread while it was examining a blob, or 0.
    signal: AtomicU32,
    blob: [AtomicU64; 4],
}

/// The page of this process, for its signal handlers.
static PAGE: AtomicPtr<Page> = AtomicPtr::new(std::ptr::null_mut());

/// The in-flight record of this process. There is one, for the whole life of the process: it is never unmapped, since
/// a thread may still be writing to it when the process ends.
pub struct InFlightRecord {
    page: &'static Page,
    path: PathBuf,
    /// Locked as long as the process lives.
    _file: File,
}

impl InFlightRecord {
    /// Creates the in-flight record of this process in `folder`, which is created if necessary, and installs handlers
    /// for the signals of a crash. `database` is the OID of the database to which it belongs.
    ///
    /// In this thread the handlers run on a separate stack; another thread that examines blobs must call
    /// [`use_handler_stack`] itself.
    pub fn begin(folder: &Path, database: u32, kind: BackendKind) -> io::Result<InFlightRecord> {
        match fs::DirBuilder::new().mode(0o700).create(folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        // With the time, since a dead process may have had the same number, and its in-flight record may not have
        // been read yet.
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |since| since.as_nanos());
        let name = format!("{database}.{now}.{}", std::process::id());
        // Under another name until it is locked: a file without a lock counts as that of a dead process.
        let unfinished = folder.join(format!("new.{name}"));
        let path = folder.join(name);
        let begun = begin_file(&unfinished, &path, kind);
        if begun.is_err() {
            let _ = fs::remove_file(&unfinished);
        }
        let (file, page) = begun?;
        PAGE.store(std::ptr::from_ref(page).cast_mut(), Ordering::Release);
        use_handler_stack();
        signals::install_handlers();
        Ok(InFlightRecord {
            page,
            path,
            _file: file,
        })
    }

    /// Runs `look`, which examines the blob, and records that meanwhile.
    pub fn during<T>(&self, id: &BlobId, look: impl FnOnce() -> T) -> T {
        let thread = this_thread();
        let slot = &self.page.slots[usize::from(!is_main(thread))];
        // Nobody's while it is being written: it may still show the blob of a detector thread that was given up.
        slot.thread.store(0, Ordering::Relaxed);
        fence(Ordering::Release);
        for (cell, bytes) in slot.blob.iter().zip(id.as_bytes().chunks_exact(8)) {
            let word = u64::from_ne_bytes(bytes.try_into().expect("eight bytes"));
            cell.store(word, Ordering::Relaxed);
        }
        slot.thread.store(thread, Ordering::Release);
        let _looking = Looking { slot, thread };
        look()
    }

    /// Ends the in-flight record, because the process exits cleanly.
    pub fn end(&self) {
        // If it can't be removed, it stays, marked as irrelevant.
        self.page.clean_exit.store(1, Ordering::Relaxed);
        let _ = fs::remove_file(&self.path);
    }
}

/// While it lives, the in-flight record shows that a blob is being examined.
struct Looking {
    slot: &'static Slot,
    thread: i32,
}

impl Drop for Looking {
    fn drop(&mut self) {
        // Not if another thread has replaced this one meanwhile, as may happen to a detector thread.
        let recorded = &self.slot.thread;
        let _ = recorded.compare_exchange(self.thread, 0, Ordering::Release, Ordering::Relaxed);
    }
}

fn begin_file(
    unfinished: &Path,
    path: &Path,
    kind: BackendKind,
) -> io::Result<(File, &'static Page)> {
    let mut file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(unfinished)?;
    file.write_all(&[0; FILE_BYTES])?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)
        .map_err(|error| named("could not call flock", error.into()))?;
    // SAFETY: a new mapping of a file that has these bytes, and that nobody truncates; see `InFlightRecord` for how
    // long it lives.
    let address = unsafe {
        rustix::mm::mmap(
            std::ptr::null_mut(),
            FILE_BYTES,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::SHARED,
            &file,
            0,
        )?
    };
    let page = NonNull::new(address.cast::<Page>()).ok_or(Errno::NOMEM)?;
    // SAFETY: mapped for good and page aligned; all zeros is a valid page, which consists of atomics only.
    let page: &'static Page = unsafe { page.as_ref() };
    page.magic.store(MAGIC, Ordering::Relaxed);
    page.kind.store(kind as u32, Ordering::Relaxed);
    fs::rename(unfinished, path)?;
    Ok((file, page))
}

/// Records that the end of this process is not the fault of the current blob. Safe in a signal handler.
pub fn mark_clean_exit() {
    // SAFETY: null, or a page that is mapped for good.
    if let Some(page) = unsafe { PAGE.load(Ordering::Acquire).as_ref() } {
        page.clean_exit.store(1, Ordering::Relaxed);
    }
}

fn this_thread() -> i32 {
    thread_local! {
        // The system call takes longer than everything else that recording takes. SAFETY: no preconditions.
        static ID: i32 = unsafe { libc::gettid() };
    }
    ID.with(|id| *id)
}

fn is_main(thread: i32) -> bool {
    static PROCESS: std::sync::OnceLock<u32> = std::sync::OnceLock::new();
    // Linux gives a process the id of its first thread.
    *PROCESS.get_or_init(std::process::id) == thread as u32
}
