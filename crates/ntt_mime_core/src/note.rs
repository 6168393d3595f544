//! Notes: the blob that a process is looking at, for those who find the process dead.
//!
//! A file that crashes libmagic takes its process down, and the whole server with it, and no code of
//! ours runs afterwards. So each process that detects keeps a *note* where it outlives the process: a
//! small file in a folder of the server's data directory, mapped into memory, so that noting a blob
//! costs a few stores. Who comes next reads the notes of the dead ([`left_behind`]) and quarantines
//! what they were looking at.
//!
//! Processes die for other reasons too, and a blob that happened to be at hand then must not be
//! blamed. Therefore:
//!
//! - A crash says so itself: handlers of the signals by which the processor and the C library end a
//!   process mark the note, and then let the process die as it would have. They blame the blob only
//!   when the signal came from within, to the thread that was looking.
//! - A process that was killed from outside (SIGKILL, by a person or for want of memory) has no such
//!   mark. The first time the blob is only *suspected*; if the next process to look at it is killed
//!   too, it is blamed ([`Death::KilledTwice`]). A run that succeeds clears suspicions.
//! - A server that ends all its processes at once, because another one crashed or in an immediate
//!   shutdown, sends SIGQUIT. Workers answer that with [`excuse`], and nothing is suspected.
//!
//! Whether a process is dead is told by a lock on its file, which the system releases in any case; a
//! process ID in a file proves nothing.
//!
//! The folder's name begins with `pgsql_tmp`, so pg_basebackup and pg_rewind leave it out
//! (`PG_TEMP_FILE_PREFIX` in PostgreSQL's common/file_utils.h, "Excluded files" in the chapter "File
//! System Level Backup"); only what lies in `base/pgsql_tmp` is removed after a crash, not this.

use std::ffi::{c_int, c_void};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};

use crate::blob_id::BlobId;

/// The folder of the notes, below the server's data directory.
pub const FOLDER: &str = "pgsql_tmp_ntt_mime";

/// Says that a file is a note, of this layout.
const MAGIC: u32 = u32::from_be_bytes(*b"ntN1");

/// Bytes of a note's file: as much as is mapped. All of it is written before it is mapped: a page for
/// which the disk has no room would kill the process that touches it.
const FILE_BYTES: usize = 4096;

/// Age at which a file without a lock won't be locked any more.
const UNFINISHED: Duration = Duration::from_secs(60);

/// Signals by which a process dies of what it does itself.
const CRASHES: [(c_int, &str); 6] = [
    (libc::SIGSEGV, "SIGSEGV"),
    (libc::SIGBUS, "SIGBUS"),
    (libc::SIGABRT, "SIGABRT"),
    (libc::SIGFPE, "SIGFPE"),
    (libc::SIGILL, "SIGILL"),
    (libc::SIGSYS, "SIGSYS"),
];

/// The signals that tell of a crash. A thread must not block them: the system would end the process
/// without asking the handler.
pub fn crash_signals() -> impl Iterator<Item = c_int> {
    CRASHES.iter().map(|(signal, _)| *signal)
}

/// Stack of the handlers: a thread whose own stack is used up crashes, too.
const HANDLER_STACK_BYTES: usize = 64 * 1024;

/// What kind of process keeps a note.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Keeper {
    /// A worker of a run. To be killed over a blob makes that suspect.
    Worker = 1,
    /// A session. It may be killed for anything, so only a crash counts.
    Session = 2,
}

/// What is mapped.
#[repr(C)]
struct Page {
    magic: AtomicU32,
    keeper: AtomicU32,
    /// The thread that is looking at a blob; 0 while nobody is.
    thread: AtomicI32,
    /// The signal that ended it while it was looking, or 0.
    signal: AtomicU32,
    /// The process was told to go for no fault of the blob.
    excused: AtomicU32,
    _unused: AtomicU32,
    blob: [AtomicU64; 4],
}

/// The page of this process, for its signal handlers.
static PAGE: AtomicPtr<Page> = AtomicPtr::new(std::ptr::null_mut());

/// The note of this process. There is one, for all the life of the process: what it maps is never
/// unmapped, since a thread may still be writing to it when the process ends.
pub struct Note {
    page: &'static Page,
    path: PathBuf,
    /// Locked as long as the process lives.
    _file: File,
}

impl Note {
    /// Begins the note of this process in `folder`, which is made if it isn't there, and takes over the
    /// signals by which it may crash. `database` is the oid of the database that is to know.
    ///
    /// The handlers run on a stack of their own in this thread; another thread that is to look at blobs
    /// calls [`use_handler_stack`] itself.
    pub fn begin(folder: &Path, database: u32, keeper: Keeper) -> io::Result<Note> {
        match fs::DirBuilder::new().mode(0o700).create(folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let name = format!("{database}.{}", std::process::id());
        // Under another name until it is locked: a file without a lock is a dead one's.
        let unfinished = folder.join(format!("new.{name}"));
        let path = folder.join(name);
        let begun = begin_file(&unfinished, &path, keeper);
        if begun.is_err() {
            let _ = fs::remove_file(&unfinished);
        }
        let (file, page) = begun?;
        PAGE.store(std::ptr::from_ref(page).cast_mut(), Ordering::Release);
        use_handler_stack();
        take_over_signals();
        Ok(Note {
            page,
            path,
            _file: file,
        })
    }

    /// Runs `look`, which looks at the blob, under the note that it does.
    pub fn during<T>(&self, id: &BlobId, look: impl FnOnce() -> T) -> T {
        let thread = this_thread();
        for (cell, bytes) in self.page.blob.iter().zip(id.as_bytes().chunks_exact(8)) {
            let word = u64::from_ne_bytes(bytes.try_into().expect("eight bytes"));
            cell.store(word, Ordering::Relaxed);
        }
        self.page.thread.store(thread, Ordering::Release);
        let _looking = Looking {
            page: self.page,
            thread,
        };
        look()
    }

    /// Ends the note: the process goes in an orderly way.
    pub fn end(&self) {
        // If it can't be removed it stays as one of nobody's interest.
        self.page.excused.store(1, Ordering::Relaxed);
        let _ = fs::remove_file(&self.path);
    }
}

/// While it lives, the note says that a blob is looked at.
struct Looking {
    page: &'static Page,
    thread: i32,
}

impl Drop for Looking {
    fn drop(&mut self) {
        // Not if another thread has taken over from this one meanwhile, as the examiner's may.
        let noted = &self.page.thread;
        let _ = noted.compare_exchange(self.thread, 0, Ordering::Release, Ordering::Relaxed);
    }
}

fn begin_file(unfinished: &Path, path: &Path, keeper: Keeper) -> io::Result<(File, &'static Page)> {
    let mut file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(unfinished)?;
    file.write_all(&[0; FILE_BYTES])?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    // SAFETY: a new mapping of a file that has the bytes, which nobody cuts short; see `Note` for how
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
    page.keeper.store(keeper as u32, Ordering::Relaxed);
    fs::rename(unfinished, path)?;
    Ok((file, page))
}

/// Says that this process is being ended for no fault of the blob at hand. Safe in a signal handler.
pub fn excuse() {
    // SAFETY: null, or a page that is mapped for good.
    if let Some(page) = unsafe { PAGE.load(Ordering::Acquire).as_ref() } {
        page.excused.store(1, Ordering::Relaxed);
    }
}

fn this_thread() -> i32 {
    thread_local! {
        // The system call takes longer than all else that noting takes.
        // SAFETY: no preconditions.
        static ID: i32 = unsafe { libc::gettid() };
    }
    ID.with(|id| *id)
}

/// Gives this thread a stack for its signal handlers, unless it has one.
pub fn use_handler_stack() {
    // SAFETY: plain system calls with valid arguments; the new stack is leaked, since a signal may come
    // until the very end of the thread.
    unsafe {
        let mut present: libc::stack_t = std::mem::zeroed();
        let known = libc::sigaltstack(std::ptr::null(), &mut present) == 0;
        if !known || present.ss_flags & libc::SS_DISABLE == 0 {
            return;
        }
        let memory = Box::leak(vec![0u8; HANDLER_STACK_BYTES].into_boxed_slice());
        let stack = libc::stack_t {
            ss_sp: memory.as_mut_ptr().cast(),
            ss_flags: 0,
            ss_size: memory.len(),
        };
        libc::sigaltstack(&stack, std::ptr::null_mut());
    }
}

/// What was there before our handlers, in the order of [`CRASHES`].
static EARLIER: [AtomicPtr<libc::sigaction>; CRASHES.len()] =
    [const { AtomicPtr::new(std::ptr::null_mut()) }; CRASHES.len()];

fn take_over_signals() {
    for ((signal, _), earlier) in CRASHES.iter().zip(&EARLIER) {
        // SAFETY: plain system calls; the handler is async-signal-safe, and what it needs is stored
        // before it is in place. Leaked, a few bytes once a process.
        unsafe {
            let mut present: libc::sigaction = std::mem::zeroed();
            if libc::sigaction(*signal, std::ptr::null(), &mut present) != 0 {
                continue;
            }
            if present.sa_sigaction == crashed as *const () as usize {
                continue;
            }
            earlier.store(Box::leak(Box::new(present)), Ordering::Release);
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = crashed as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            libc::sigaction(*signal, &action, std::ptr::null_mut());
        }
    }
}

/// The handler. Async-signal-safe: atomics and system calls only.
///
/// It returns with an earlier action in force; the instruction at fault, or abort(), then raises the
/// signal again. One that somebody else has sent isn't raised again by itself.
extern "C" fn crashed(signal: c_int, info: *mut libc::siginfo_t, _context: *mut c_void) {
    // SAFETY: the system passes valid information; PAGE and EARLIER hold null or what lives for good.
    unsafe {
        let from_processor = (*info).si_code > 0;
        let from_within = from_processor
            || (*info).si_code == libc::SI_TKILL && (*info).si_pid() == libc::getpid();
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = libc::SIG_DFL;
        let looking = PAGE
            .load(Ordering::Acquire)
            .as_ref()
            .filter(|page| page.thread.load(Ordering::Relaxed) == libc::gettid());
        match looking.filter(|_| from_within) {
            // PostgreSQL would make an error of SIGFPE and jump out of libmagic: not there.
            Some(page) => page.signal.store(signal as u32, Ordering::Release),
            None => {
                let number = CRASHES.iter().position(|(known, _)| *known == signal);
                let earlier = number.and_then(|i| EARLIER[i].load(Ordering::Acquire).as_ref());
                action = earlier.copied().unwrap_or(action);
            }
        }
        libc::sigaction(signal, &action, std::ptr::null_mut());
        if !from_processor {
            libc::raise(signal);
        }
    }
}

/// How a process died that was looking at a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// It crashed.
    Crashed { signal: &'static str },
    /// It was killed, and so was one before it, at the same blob.
    KilledTwice,
}

/// A blob that a dead process of this database was looking at.
#[derive(Debug)]
pub struct LeftBehind {
    pub blob: BlobId,
    pub death: Death,
    pub pid: u32,
    path: PathBuf,
    /// Locked, so that no other run takes the same note.
    _file: File,
}

/// What is said of a blob at which a process crashed.
pub fn crash_detail(process: &str, signal: &str) -> String {
    format!("{process} was ended by {signal} while it looked at the blob")
}

impl LeftBehind {
    /// What happened, in words.
    pub fn detail(&self) -> String {
        let process = format!("process {}", self.pid);
        match self.death {
            Death::Crashed { signal } => crash_detail(&process, signal),
            Death::KilledTwice => {
                format!("{process}, and one before it, was killed while it looked at the blob")
            }
        }
    }

    /// Removes the note: the blob is in quarantine.
    pub fn settle(self) {
        // A note that stays is read again, which does no harm.
        let _ = fs::remove_file(&self.path);
        if let Some(folder) = self.path.parent() {
            let database = database_of(&self.path).unwrap_or_default();
            let _ = fs::remove_file(suspicion(folder, database, &self.blob));
        }
    }
}

/// Reads and tidies up the notes of dead processes: what has crashed processes of `database`. A blob
/// over which a worker was killed for the first time becomes suspect and is not among them.
///
/// `databases` are the oids of those that exist: notes of others are of no use to anybody.
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
        if is_suspicion(&path) {
            if of != database {
                let _ = fs::remove_file(&path);
            }
            continue;
        }
        let Some((file, seen)) = dead(&path) else {
            continue;
        };
        match seen.verdict().filter(|_| of == database) {
            Some((blob, Some(signal))) => found.push(LeftBehind {
                blob,
                death: Death::Crashed { signal },
                pid: pid_of(&path),
                path,
                _file: file,
            }),
            Some((blob, None)) => {
                let suspicion = suspicion(folder, database, &blob);
                if suspicion.exists() {
                    found.push(LeftBehind {
                        blob,
                        death: Death::KilledTwice,
                        pid: pid_of(&path),
                        path,
                        _file: file,
                    });
                } else {
                    File::create(suspicion)?;
                    fs::remove_file(path)?;
                }
            }
            None => {
                let _ = fs::remove_file(path);
            }
        }
    }
    Ok(found)
}

/// Forgets which blobs of a database are suspect: a run has looked at all of them, and lived.
pub fn clear_suspicions(folder: &Path, database: u32) {
    for entry in entries(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if is_suspicion(&path) && database_of(&path) == Some(database) {
            let _ = fs::remove_file(path);
        }
    }
}

/// Blobs that have crashed processes of `database` and wait for the next run to put them into
/// quarantine, with the signals' names. Changes nothing, so that a standby can ask, too.
pub fn crashes(folder: &Path, database: u32) -> Vec<(BlobId, &'static str)> {
    let mut found = Vec::new();
    for entry in entries(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if database_of(&path) != Some(database) || is_suspicion(&path) {
            continue;
        }
        // Nobody outlives the mark, so it doesn't matter whether it is dead already.
        let seen = File::open(&path).and_then(|file| Seen::read(&file));
        if let Ok(Some((blob, Some(signal)))) = seen.map(|seen| seen.verdict()) {
            found.push((blob, signal));
        }
    }
    found
}

/// Removes a note that its keeper never finished, once it can't be at it any more.
fn remove_unfinished(entry: &fs::DirEntry) {
    let age = entry.metadata().and_then(|file| file.modified());
    let age = age.ok().and_then(|begun| begun.elapsed().ok());
    if age.is_some_and(|age| age > UNFINISHED) {
        let _ = fs::remove_file(entry.path());
    }
}

/// What a note says.
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

    /// The blob that is to blame, with the signal if there was a crash; None if nobody is.
    fn verdict(&self) -> Option<(BlobId, Option<&'static str>)> {
        use std::mem::offset_of;
        let looking = self.word(offset_of!(Page, thread)) != 0;
        if self.word(offset_of!(Page, magic)) != MAGIC || !looking {
            return None;
        }
        let at = offset_of!(Page, blob);
        let blob = BlobId::from_bytes(self.bytes[at..at + 32].try_into().expect("32 bytes"));
        let signal = self.word(offset_of!(Page, signal)) as c_int;
        if let Some((_, name)) = CRASHES.iter().find(|(known, _)| *known == signal) {
            return Some((blob, Some(name)));
        }
        let worker = self.word(offset_of!(Page, keeper)) == Keeper::Worker as u32;
        let excused = self.word(offset_of!(Page, excused)) != 0;
        (worker && !excused).then_some((blob, None))
    }
}

/// The note at `path`, locked, if its keeper is dead.
fn dead(path: &Path) -> Option<(File, Seen)> {
    let file = File::open(path).ok()?;
    flock(&file, FlockOperation::NonBlockingLockExclusive).ok()?;
    let seen = Seen::read(&file).ok()?;
    Some((file, seen))
}

fn entries(folder: &Path) -> io::Result<impl Iterator<Item = io::Result<fs::DirEntry>>> {
    match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None.into_iter().flatten()),
        result => Ok(Some(result?).into_iter().flatten()),
    }
}

/// Files are called `<database>.<pid>`, `new.<database>.<pid>` until they are locked, and
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

fn is_suspicion(path: &Path) -> bool {
    parts(path).get(1) == Some(&"suspect")
}

fn suspicion(folder: &Path, database: u32, blob: &BlobId) -> PathBuf {
    folder.join(format!("{database}.suspect.{blob}"))
}
