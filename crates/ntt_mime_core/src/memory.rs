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

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::ptr::NonNull;

use rustix::fs::MemfdFlags;
use rustix::mm::{MapFlags, ProtFlags};

/// Memory made by this process, which needn't map it.
pub struct Memory {
    file: File,
    place: Place,
}

/// Where other processes find it, as long as its maker lives and has it.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Place {
    pid: u32,
    descriptor: i32,
    bytes: u64,
    /// Device and inode: what tells it from a file that a later process has under the same numbers.
    identity: [u64; 2],
}

impl Memory {
    /// Makes `bytes` zeroed bytes. `name` is for people, in `/proc/<pid>/maps`.
    pub fn create(name: &str, bytes: usize) -> io::Result<Memory> {
        let file = File::from(rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC)?);
        file.set_len(bytes as u64)?;
        let place = Place {
            pid: std::process::id(),
            descriptor: file.as_raw_fd(),
            bytes: bytes as u64,
            identity: identity(&file)?,
        };
        Ok(Memory { file, place })
    }

    pub fn place(&self) -> Place {
        debug_assert_eq!(self.file.as_raw_fd(), self.place.descriptor);
        self.place
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
    pub fn open(place: &Place) -> io::Result<Mapping> {
        let bytes = place.bytes as usize;
        if bytes == 0 {
            return Ok(Mapping {
                address: NonNull::<Aligned>::dangling().cast(),
                bytes,
            });
        }
        let path = format!("/proc/{}/fd/{}", place.pid, place.descriptor);
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        if identity(&file)? != place.identity {
            return Err(io::ErrorKind::NotFound.into());
        }
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
        let memory = Memory::create("test", 100_000).unwrap();
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
        let memory = Memory::create("test", 4096).unwrap();
        let place = memory.place();
        let not_found = |place: &Place| Mapping::open(place).err().map(|error| error.kind());
        let second = Memory::create("test", 4096).unwrap();
        let taken = Place {
            descriptor: second.place().descriptor,
            ..place
        };
        assert_eq!(not_found(&taken), Some(io::ErrorKind::NotFound));
        drop(second);
        drop(memory);
        assert_eq!(not_found(&place), Some(io::ErrorKind::NotFound));
    }

    #[test]
    fn nothing_at_all_can_be_shared() {
        let memory = Memory::create("test", 0).unwrap();
        assert_eq!(Mapping::open(&memory.place()).unwrap().bytes(), 0);
    }
}
