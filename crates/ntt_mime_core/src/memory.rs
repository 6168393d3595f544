//! Memory that one process creates and others map, and that disappears with the last of them, however they end.
//!
//! PostgreSQL's dynamic shared memory is a file in a tmpfs that somebody has to remove. A process that is killed
//! between creating such a file and registering it leaves it behind until the machine restarts, and the longer it
//! takes to fill the file, the likelier that is. So large memory that needs no name is an anonymous file,
//! memfd_create(2): the kernel frees it with its last descriptor and mapping. Its pages are zero, and a page is
//! allocated when it is first touched. Whether memory is reserved for all of them depends on `vm.overcommit_memory`,
//! as for a process's own memory.
//!
//! Other processes find it through its creator's descriptor in `/proc`, which the system lets processes of the same
//! user open.
//!
//! On some systems a filter forbids memfd_create(2), or `/proc` isn't mounted. Errors name the call that failed, for
//! whoever set the system up. A file that only one process needs, for bytes to be judged, is then created on disk, in
//! a directory that is [set for that](set_folder). For shared memory the caller has to find another way.

use std::ffi::CStr;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{MemfdFlags, Mode, OFlags};
use rustix::mm::{MapFlags, ProtFlags};

use crate::store::in_words;

/// The directory for files that can't be in memory.
static FOLDER: OnceLock<PathBuf> = OnceLock::new();

/// Sets the directory for anonymous files if the system provides none in memory: one whose files nobody misses. It is
/// created when it is needed. Only the first call counts.
pub fn set_folder(folder: PathBuf) {
    let _ = FOLDER.set(folder);
}

/// An empty anonymous file, for this process alone: in memory, or in the directory for that.
pub fn file() -> io::Result<File> {
    match in_memory(c"ntt_mime") {
        Ok(file) => Ok(file),
        Err(refused) => match FOLDER.get() {
            None => Err(refused),
            Some(folder) => file_in(folder).map_err(|error| {
                let (kind, error) = (error.kind(), in_words(error));
                let folder = folder.display();
                let both = format!("{refused}; could not create a file in \"{folder}\": {error}");
                io::Error::new(kind, both)
            }),
        },
    }
}

/// A file without a name, which looks to libmagic like one in a store: an ordinary file. (Files in memory are created
/// as executable, and for some ELF files libmagic takes that into account.)
pub fn file_of(content: &[u8]) -> io::Result<File> {
    let mut file = file()?;
    rustix::fs::fchmod(&file, Mode::from(0o644))?;
    file.write_all(content)?;
    Ok(file)
}

/// `name` is shown in `/proc/<pid>/maps`.
fn in_memory(name: &CStr) -> io::Result<File> {
    rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC)
        .map(File::from)
        .map_err(|error| named("could not call memfd_create", error.into()))
}

fn file_in(folder: &Path) -> io::Result<File> {
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    if let Ok(file) = rustix::fs::open(folder, flags, Mode::RUSR | Mode::WUSR) {
        return Ok(File::from(file));
    }
    // Not every file system supports files that never had a name. If this process is killed before the file has lost
    // its name, the next run removes it by that name (see `in_flight::left_behind`).
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let path = folder.join(format!("new.bytes.{number}.{}", std::process::id()));
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)?;
    fs::remove_file(&path)?;
    Ok(file)
}

/// The same error, with the name of what failed.
pub(crate) fn named(what: &str, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {}", in_words(error)))
}

/// Memory created by this process, which needn't map it.
pub struct Memory {
    file: File,
    handle: Handle,
}

/// How other processes find it, as long as its creator lives and keeps it.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Handle {
    pid: u32,
    descriptor: i32,
    bytes: u64,
    /// Device and inode, which distinguish it from a file that a later process has under the same numbers.
    identity: [u64; 2],
}

impl Memory {
    /// Creates `bytes` zeroed bytes that other processes can find; an error if they couldn't. `name` is shown in
    /// `/proc/<pid>/maps`.
    pub fn create(name: &CStr, bytes: usize) -> io::Result<Memory> {
        let file = in_memory(name)?;
        file.set_len(bytes as u64)?;
        let handle = Handle {
            pid: std::process::id(),
            descriptor: file.as_raw_fd(),
            bytes: bytes as u64,
            identity: identity(&file)?,
        };
        handle.find()?;
        Ok(Memory { file, handle })
    }

    pub fn handle(&self) -> Handle {
        debug_assert_eq!(self.file.as_raw_fd(), self.handle.descriptor);
        self.handle
    }
}

impl Handle {
    /// Opens it. NotFound if its creator has ended, or has released it.
    fn find(&self) -> io::Result<File> {
        let path = format!("/proc/{}/fd/{}", self.pid, self.descriptor);
        let file = OpenOptions::new().read(true).write(true).open(&path);
        let file = file.map_err(|error| named(&format!("could not open \"{path}\""), error))?;
        match identity(&file)? == self.identity {
            true => Ok(file),
            false => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

/// Memory of another process or of this one, or a file, mapped here until it is dropped.
pub struct Mapping {
    /// Dangling if there are no bytes, since nothing can't be mapped.
    address: NonNull<u8>,
    bytes: usize,
}

impl Mapping {
    /// Maps memory that was created elsewhere. NotFound if its creator has ended, or has released it.
    pub fn open(handle: &Handle) -> io::Result<Mapping> {
        let bytes = handle.bytes as usize;
        if bytes == 0 {
            return Ok(Mapping {
                address: NonNull::<Aligned>::dangling().cast(),
                bytes,
            });
        }
        let file = handle.find()?;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        Mapping::of(&file, bytes, protection, MapFlags::SHARED)
    }

    /// Maps the first `bytes` of a file, at least one, for reading. Whoever truncates the file meanwhile kills the
    /// processes that go on reading.
    pub fn of_file(file: &File, bytes: usize) -> io::Result<Mapping> {
        Mapping::of(file, bytes, ProtFlags::READ, MapFlags::PRIVATE)
    }

    fn of(
        file: &File,
        bytes: usize,
        protection: ProtFlags,
        flags: MapFlags,
    ) -> io::Result<Mapping> {
        // SAFETY: a new mapping, at an address that the kernel chooses.
        let address =
            unsafe { rustix::mm::mmap(std::ptr::null_mut(), bytes, protection, flags, file, 0)? };
        let address = NonNull::new(address.cast()).expect("mmap succeeded");
        Ok(Mapping { address, bytes })
    }

    /// Page aligned, unless it is empty.
    pub fn address(&self) -> NonNull<u8> {
        self.address
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if self.bytes > 0 {
            // SAFETY: mapped by `of`, unmapped once. It can fail only for invalid arguments.
            let _ = unsafe { rustix::mm::munmap(self.address.as_ptr().cast(), self.bytes) };
        }
    }
}

/// The alignment that an empty mapping pretends to have.
#[repr(align(64))]
struct Aligned;

fn identity(file: &File) -> io::Result<[u64; 2]> {
    let metadata = file.metadata()?;
    Ok([metadata.dev(), metadata.ino()])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

    fn bytes(mapping: &Mapping) -> &[AtomicU8] {
        // SAFETY: mapped for as long as it is borrowed, and every byte is valid.
        unsafe { std::slice::from_raw_parts(mapping.address().cast().as_ptr(), mapping.bytes()) }
    }

    #[test]
    fn all_who_map_it_see_the_same() {
        let memory = Memory::create(c"test", 100_000).unwrap();
        let (one, other) = (
            Mapping::open(&memory.handle()).unwrap(),
            Mapping::open(&memory.handle()).unwrap(),
        );
        assert!(bytes(&one).iter().all(|b| b.load(Relaxed) == 0));
        bytes(&one)[99_999].store(7, Relaxed);
        assert_eq!(bytes(&other)[99_999].load(Relaxed), 7);
        drop(memory);
        assert_eq!(
            bytes(&other)[99_999].load(Relaxed),
            7,
            "it outlives its maker"
        );
    }

    #[test]
    fn what_has_taken_its_place_is_not_mapped() {
        let memory = Memory::create(c"test", 4096).unwrap();
        let handle = memory.handle();
        let not_found = |handle: &Handle| Mapping::open(handle).err().map(|error| error.kind());
        let second = Memory::create(c"test", 4096).unwrap();
        let taken = Handle {
            descriptor: second.handle().descriptor,
            ..handle
        };
        assert_eq!(not_found(&taken), Some(io::ErrorKind::NotFound));
        drop(second);
        drop(memory);
        assert_eq!(not_found(&handle), Some(io::ErrorKind::NotFound));
    }

    #[test]
    fn a_file_on_disk_has_no_name_either() {
        let directory = tempfile::tempdir().unwrap();
        let folder = directory.path().join("made when it is needed");
        for _ in 0..2 {
            let mut file = file_in(&folder).unwrap();
            std::io::Write::write_all(&mut file, b"bytes").unwrap();
            assert_eq!(file.metadata().unwrap().len(), 5);
            assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
        }
        let nowhere = directory.path().join("not/there");
        assert_eq!(
            file_in(&nowhere).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
    }

    #[test]
    fn nothing_at_all_can_be_shared() {
        let memory = Memory::create(c"test", 0).unwrap();
        assert_eq!(Mapping::open(&memory.handle()).unwrap().bytes(), 0);
    }
}
