//! Content-addressed stores: `ROOT/aa/bb/<64 hex digits>`, readable by the server's account.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use sha2::{Digest, Sha256};

use crate::scratch;

/// A store in the scratch folder.
pub struct Store {
    root: PathBuf,
}

impl Store {
    #[allow(
        clippy::new_without_default,
        reason = "it makes a folder: that is no default"
    )]
    pub fn new() -> Store {
        Store {
            root: scratch::folder("store"),
        }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn root_str(&self) -> &str {
        self.root
            .to_str()
            .expect("scratch folders have plain names")
    }

    /// Where the blob lies or would lie.
    pub fn path(&self, blobid: &str) -> PathBuf {
        self.root
            .join(&blobid[0..2])
            .join(&blobid[2..4])
            .join(blobid)
    }

    /// Stores `content` under its hash, which is returned.
    pub fn put(&self, content: &[u8]) -> String {
        let blobid = blobid_of(content);
        self.put_as(&blobid, content);
        blobid
    }

    /// Stores `content` under a name that needn't be its hash: as damaged stores do, and to have the same blob in
    /// two roots with different content.
    pub fn put_as(&self, blobid: &str, content: &[u8]) {
        let path = self.place(blobid);
        fs::write(&path, content).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        set_mode(&path, 0o644);
    }

    /// Makes the folders for a blob and returns its path, where nothing is yet.
    pub fn place(&self, blobid: &str) -> PathBuf {
        let path = self.path(blobid);
        let folder = path.parent().expect("two folders above");
        fs::create_dir_all(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        set_mode(folder, 0o755);
        set_mode(folder.parent().expect("one folder above"), 0o755);
        path
    }

    /// A blob that the server's account may not read.
    pub fn put_unreadable(&self, content: &[u8]) -> String {
        let blobid = self.put(content);
        self.set_mode(&blobid, 0o000);
        blobid
    }

    pub fn set_mode(&self, blobid: &str, mode: u32) {
        set_mode(&self.path(blobid), mode);
    }

    pub fn remove(&self, blobid: &str) {
        fs::remove_file(self.path(blobid)).expect("the blob is there");
    }

    /// `n` small blobs of a few kinds with contents of their own, for tests that need many and not real ones.
    pub fn put_synthetic(&self, n: usize) -> Vec<String> {
        (0..n)
            .map(|i| {
                let content = match i % 5 {
                    0 => format!("%PDF-1.4\n% number {i}\n"),
                    1 => format!("{{\"number\": {i}, \"kind\": \"json\"}}\n"),
                    2 => format!("#!/bin/sh\necho {i}\n"),
                    3 => format!("<?xml version=\"1.0\"?>\n<number>{i}</number>\n"),
                    _ => format!("A few words of plain text, number {i} of them.\n"),
                };
                self.put(content.as_bytes())
            })
            .collect()
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if std::env::var_os("NTT_ITEST_KEEP").is_none() {
            let _ = fs::remove_dir_all(&self.root);
        }
    }
}

/// Makes a FIFO, or a device if we may; anybody may read it.
pub fn make_node(path: &Path, kind: FileType, device: u64) -> rustix::io::Result<()> {
    mknodat(CWD, path, kind, Mode::from_raw_mode(0o666), device)?;
    // Whatever the umask.
    set_mode(path, 0o666);
    Ok(())
}

/// The name of `content` in a store. The user's stores use BLAKE3; any 64 hex digits do.
pub fn blobid_of(content: &[u8]) -> String {
    Sha256::digest(content)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// A well-formed blobid that is in no store.
pub fn absent_blobid(n: usize) -> String {
    blobid_of(format!("a blob that was never stored, number {n}").as_bytes())
}

/// Sets the mode of a file or folder.
pub fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}
