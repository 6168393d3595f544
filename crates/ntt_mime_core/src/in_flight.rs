//! In-flight records: the blob that a process is looking at, for those who find the process dead.
//!
//! A file that crashes libmagic takes its process down, and the whole server with it, and no code of
//! ours runs afterwards. So each process that detects keeps an *in-flight record* where it outlives the process: a
//! small file in a folder of the server's data directory, mapped into memory, so that recording a blob
//! costs a few stores. Who comes next reads the in-flight records of the dead ([`left_behind()`]) and quarantines
//! what they were looking at.
//!
//! Processes die for other reasons too, and a blob that happened to be at hand then must not be
//! blamed. Therefore:
//!
//! - A crash says so itself: handlers of the signals by which the processor and the C library end a
//!   process mark the in-flight record, and then let the process die as it would have. They blame the blob only
//!   when the signal came from within, to the thread that was looking.
//! - A process that was killed from outside (SIGKILL, by a person or for want of memory) has no such
//!   mark. The first time the blob is only *suspected*; if the next process to look at it is killed
//!   too, it is blamed ([`Death::KilledTwice`]). Whoever judges it and lives clears it ([`clear_suspect`]).
//! - A server that ends all its processes at once, because another one crashed or in an immediate
//!   shutdown, sends SIGQUIT. Workers answer that with [`mark_clean_exit`], and nothing is suspected.
//!
//! Whether a process is dead is told by a lock on its file, which the system releases in any case; a
//! process ID in a file proves nothing.
//!
//! The folder's name begins with `pgsql_tmp`, so pg_basebackup and pg_rewind leave it out
//! (`PG_TEMP_FILE_PREFIX` in PostgreSQL's common/file_utils.h, "Excluded files" in the chapter "File
//! System Level Backup"); only what lies in `base/pgsql_tmp` is removed after a crash, not this.

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

/// The folder of the in-flight records, below the server's data directory.
pub const FOLDER: &str = "pgsql_tmp_ntt_mime";

/// Says that a file is an in-flight record, of this layout.
const MAGIC: u32 = u32::from_be_bytes(*b"ntN2");

/// Bytes of an in-flight record's file: as much as is mapped. All of it is written before it is mapped: a page for
/// which the disk has no room would kill the process that touches it.
const FILE_BYTES: usize = 4096;

/// What kind of process keeps an in-flight record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum BackendKind {
    /// A worker of a run. To be killed over a blob makes that suspect.
    Worker = 1,
    /// A session. It may be killed for anything, so only a crash counts.
    Session = 2,
}

/// What is mapped.
#[repr(C)]
struct Page {
    magic: AtomicU32,
    kind: AtomicU32,
    /// The process was told to go for no fault of the blob.
    clean_exit: AtomicU32,
    _unused: AtomicU32,
    /// Of the process's main thread, and of another one: while a worker's detector thread looks at blobs, a trigger in the
    /// worker may ask for a type, too.
    slots: [Slot; 2],
}

/// What one thread is looking at.
#[repr(C)]
struct Slot {
    /// The thread; 0 while nobody is looking.
    thread: AtomicI32,
    /// The signal that ended it while it was looking, or 0.
    signal: AtomicU32,
    blob: [AtomicU64; 4],
}

/// The page of this process, for its signal handlers.
static PAGE: AtomicPtr<Page> = AtomicPtr::new(std::ptr::null_mut());

/// The in-flight record of this process. There is one, for all the life of the process: what it maps is never
/// unmapped, since a thread may still be writing to it when the process ends.
pub struct InFlightRecord {
    page: &'static Page,
    path: PathBuf,
    /// Locked as long as the process lives.
    _file: File,
}

impl InFlightRecord {
    /// Begins the in-flight record of this process in `folder`, which is made if it isn't there, and takes over the
    /// signals by which it may crash. `database` is the oid of the database that is to know.
    ///
    /// The handlers run on a stack of their own in this thread; another thread that is to look at blobs
    /// calls [`use_handler_stack`] itself.
    pub fn begin(folder: &Path, database: u32, kind: BackendKind) -> io::Result<InFlightRecord> {
        match fs::DirBuilder::new().mode(0o700).create(folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        // With the time, since a dead process may have had the same number, and its in-flight record may be unread.
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |since| since.as_nanos());
        let name = format!("{database}.{now}.{}", std::process::id());
        // Under another name until it is locked: a file without a lock is a dead one's.
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

    /// Runs `look`, which looks at the blob, under the in-flight record that it does.
    pub fn during<T>(&self, id: &BlobId, look: impl FnOnce() -> T) -> T {
        let thread = this_thread();
        let slot = &self.page.slots[usize::from(!is_main(thread))];
        // Nobody's while it is written: a detector thread that was given up may still stand there with its blob.
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

    /// Ends the in-flight record: the process goes in an orderly way.
    pub fn end(&self) {
        // If it can't be removed it stays as one of nobody's interest.
        self.page.clean_exit.store(1, Ordering::Relaxed);
        let _ = fs::remove_file(&self.path);
    }
}

/// While it lives, the in-flight record says that a blob is looked at.
struct Looking {
    slot: &'static Slot,
    thread: i32,
}

impl Drop for Looking {
    fn drop(&mut self) {
        // Not if another thread has taken over from this one meanwhile, as the detector thread's may.
        let noted = &self.slot.thread;
        let _ = noted.compare_exchange(self.thread, 0, Ordering::Release, Ordering::Relaxed);
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
    // SAFETY: a new mapping of a file that has the bytes, which nobody cuts short; see `InFlightRecord` for how
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
    // SAFETY: mapped for good and page aligned; all zero is a valid page, of atomics only.
    let page: &'static Page = unsafe { page.as_ref() };
    page.magic.store(MAGIC, Ordering::Relaxed);
    page.kind.store(kind as u32, Ordering::Relaxed);
    fs::rename(unfinished, path)?;
    Ok((file, page))
}

/// Says that this process is being ended for no fault of the blob at hand. Safe in a signal handler.
pub fn mark_clean_exit() {
    // SAFETY: null, or a page that is mapped for good.
    if let Some(page) = unsafe { PAGE.load(Ordering::Acquire).as_ref() } {
        page.clean_exit.store(1, Ordering::Relaxed);
    }
}

fn this_thread() -> i32 {
    thread_local! {
        // The system call takes longer than all else that recording takes.
        // SAFETY: no preconditions.
        static ID: i32 = unsafe { libc::gettid() };
    }
    ID.with(|id| *id)
}

fn is_main(thread: i32) -> bool {
    static PROCESS: std::sync::OnceLock<u32> = std::sync::OnceLock::new();
    // Linux gives a process the id of its first thread.
    *PROCESS.get_or_init(std::process::id) == thread as u32
}
