//! Filesystems of our own: what is mounted here nobody else sees, and it goes with the process, however that ends.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use ntt_mime_integration::{scratch, server};
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_change, unmount,
};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Where PostgreSQL keeps its dynamic shared memory on Linux.
const SHM: &str = "/dev/shm";

/// Gives the process its own view of what is mounted, with a `/dev/shm` that holds our segments only. Before any other
/// thread is started. An error where that isn't permitted: then nothing can be mounted.
pub fn begin() -> io::Result<()> {
    // SAFETY: only the mount namespace is left, no table of file descriptors, so nothing that Rust owns is touched.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS)? };
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private)?;
    mount("tmpfs", SHM, "tmpfs", MountFlags::empty(), c"mode=1777")?;
    Ok(())
}

/// A small filesystem, to be filled up.
pub struct SmallDisk {
    pub folder: PathBuf,
}

impl SmallDisk {
    pub fn new(megabytes: u32) -> io::Result<SmallDisk> {
        let folder = scratch::folder("disk");
        let size = std::ffi::CString::new(format!("size={megabytes}m,mode=0755"))?;
        mount("tmpfs", &folder, "tmpfs", MountFlags::empty(), &*size)?;
        server::give_to_server(&folder);
        Ok(SmallDisk { folder })
    }

    /// Writes until no byte fits any more.
    pub fn fill(&self) -> io::Result<()> {
        let mut file = fs::File::create(self.filler())?;
        for block in [1 << 20, 4096, 1] {
            let zeros = vec![0; block];
            while file.write_all(&zeros).is_ok() {}
        }
        Ok(())
    }

    pub fn free(&self) -> io::Result<()> {
        fs::remove_file(self.filler())
    }

    fn filler(&self) -> PathBuf {
        self.folder.join("filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // It goes with the process at the latest.
        let _ = unmount(&self.folder, UnmountFlags::DETACH);
    }
}

/// A second way to a folder, which can be taken away.
pub struct Bind {
    folder: PathBuf,
    at: PathBuf,
}

impl Bind {
    pub fn new(folder: &Path) -> io::Result<Bind> {
        let at = scratch::folder("mounted");
        mount_bind(folder, &at)?;
        let folder = folder.to_owned();
        Ok(Bind { folder, at })
    }

    pub fn path(&self) -> &Path {
        &self.at
    }

    /// As `umount --lazy` does it: an empty folder is left, and descriptors that are open go on working.
    pub fn unmount(&self) -> io::Result<()> {
        Ok(unmount(&self.at, UnmountFlags::DETACH)?)
    }

    pub fn mount_again(&self) -> io::Result<()> {
        Ok(mount_bind(&self.folder, &self.at)?)
    }
}

impl Drop for Bind {
    fn drop(&mut self) {
        let _ = unmount(&self.at, UnmountFlags::DETACH);
    }
}
