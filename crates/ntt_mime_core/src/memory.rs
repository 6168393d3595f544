//! Memory that one process makes and others map, and that is gone with the last of them, however they end.
//!
//! PostgreSQL's dynamic shared memory is a file of a tmpfs that somebody has to remove. A process killed
//! between making such a file and having it registered leaves it behind until the machine restarts, and the
//! longer the file takes to fill, the likelier that is. What is large and needs no name is therefore a file
//! without one, memfd_create(2): the kernel frees it with its last descriptor and mapping. Its pages are
//! zero, and none is allocated before it is touched; whether memory is promised for all of them is up to
//! `vm.overcommit_memory`, as for a process's own.
//!
//! Others find it through the descriptor of its maker in `/proc`, which the system lets processes of the same
//! user open.
//!
//! There are systems where a filter forbids memfd_create(2), or `/proc` isn't mounted. Errors name the call that
//! failed, so that whoever set the system up knows. What only one process needs, a file for bytes in hand, is made
//! on disk then, in a folder that is [set for that](set_folder); memory to be shared is for the caller to find elsewhere.

use std::ffi::CStr;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{MemfdFlags, Mode, OFlags};
use rustix::mm::{MapFlags, ProtFlags};

use crate::store::in_words;

/// Where files are made that can't be in memory.
static FOLDER: OnceLock<PathBuf> = OnceLock::new();

/// Says where files without a name are made where the system makes none in memory: a folder of files that nobody
/// misses. It is made when it is needed. The first call counts.
pub fn set_folder(folder: PathBuf) {
    let _ = FOLDER.set(folder);
}

/// An empty file without a name, of this process alone: in memory, or in the folder for that.
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

/// `name` is for people, in `/proc/<pid>/maps`.
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
    // Not each file system makes files that never had a name. If we are killed before this one has lost its name, the
    // next run removes it, by the name that it has (see `in_flight::left_behind`).
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

/// The same error, which says what failed.
pub(crate) fn named(what: &str, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {}", in_words(error)))
}

/// Memory made by this process, which needn't map it.
pub struct Memory {
    file: File,
    place: Handle,
}

/// Where other processes find it, as long as its maker lives and has it.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Handle {
    pid: u32,
    descriptor: i32,
    bytes: u64,
    /// Device and inode: what tells it from a file that a later process has under the same numbers.
    identity: [u64; 2],
}

impl Memory {
    /// Makes `bytes` zeroed bytes, which others will find: where they couldn't, there is an error. `name` is for people,
    /// in `/proc/<pid>/maps`.
    pub fn create(name: &CStr, bytes: usize) -> io::Result<Memory> {
        let file = in_memory(name)?;
        file.set_len(bytes as u64)?;
        let place = Handle {
            pid: std::process::id(),
            descriptor: file.as_raw_fd(),
            bytes: bytes as u64,
            identity: identity(&file)?,
        };
        place.find()?;
        Ok(Memory { file, place })
    }

    pub fn place(&self) -> Handle {
        debug_assert_eq!(self.file.as_raw_fd(), self.place.descriptor);
        self.place
    }
}

impl Handle {
    /// Opens it. NotFound if its maker is gone, or has let go of it.
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

/// The memory of another process or of this one, or a file, mapped here until it is dropped.
pub struct Mapping {
    /// Dangling for no bytes at all, which can't be mapped.
    address: NonNull<u8>,
    bytes: usize,
}

impl Mapping {
    /// Maps what was made elsewhere. NotFound if its maker is gone, or has let go of it.
    pub fn open(place: &Handle) -> io::Result<Mapping> {
        let bytes = place.bytes as usize;
        if bytes == 0 {
            return Ok(Mapping {
                address: NonNull::<Aligned>::dangling().cast(),
                bytes,
            });
        }
        let file = place.find()?;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        Mapping::of(&file, bytes, protection, MapFlags::SHARED)
    }

    /// Maps the first `bytes` of a file, more than none, to be read only. Whoever makes the file shorter meanwhile
    /// kills those who read on.
    pub fn of_file(file: &File, bytes: usize) -> io::Result<Mapping> {
        Mapping::of(file, bytes, ProtFlags::READ, MapFlags::PRIVATE)
    }

    fn of(
        file: &File,
        bytes: usize,
        protection: ProtFlags,
        flags: MapFlags,
    ) -> io::Result<Mapping> {
        // SAFETY: a new mapping; the address is the kernel's to choose.
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
            // SAFETY: mapped by `of`, unmapped once. It can only fail for arguments that are wrong.
            let _ = unsafe { rustix::mm::munmap(self.address.as_ptr().cast(), self.bytes) };
        }
    }
}

/// What a mapping of nothing pretends to be aligned for.
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
        // SAFETY: mapped for as long as it is borrowed, and any byte is one.
        unsafe { std::slice::from_raw_parts(mapping.address().cast().as_ptr(), mapping.bytes()) }
    }

    #[test]
    fn all_who_map_it_see_the_same() {
        let memory = Memory::create(c"test", 100_000).unwrap();
        let (one, other) = (
            Mapping::open(&memory.place()).unwrap(),
            Mapping::open(&memory.place()).unwrap(),
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
        let place = memory.place();
        let not_found = |place: &Handle| Mapping::open(place).err().map(|error| error.kind());
        let second = Memory::create(c"test", 4096).unwrap();
        let taken = Handle {
            descriptor: second.place().descriptor,
            ..place
        };
        assert_eq!(not_found(&taken), Some(io::ErrorKind::NotFound));
        drop(second);
        drop(memory);
        assert_eq!(not_found(&place), Some(io::ErrorKind::NotFound));
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
        assert_eq!(Mapping::open(&memory.place()).unwrap().bytes(), 0);
    }
}
