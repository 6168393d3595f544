//! One scratch folder a test process, for clusters, stores and lists, removed when the process ends.
//!
//! Statics aren't dropped in Rust, so an `atexit` handler does it. A process that was killed can't; the next one to
//! start removes what it left.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

const PREFIX: &str = "ntt-itest-";

/// A new empty folder in the process's scratch folder, with `name` in its name, readable by every account.
pub fn folder(name: &str) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let path = root().join(format!("{name}-{}", NEXT.fetch_add(1, Ordering::Relaxed)));
    fs::create_dir(&path).unwrap_or_else(|e| panic!("cannot make {}: {e}", path.display()));
    open_to_all(&path);
    path
}

fn root() -> &'static Path {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| {
        let base = std::env::temp_dir();
        remove_leftovers(&base);
        let dir = tempfile::Builder::new()
            .prefix(&format!("{PREFIX}{}-", process::id()))
            .tempdir_in(&base)
            .expect("the temporary folder can be written to")
            .keep();
        open_to_all(&dir);
        // SAFETY: `remove` is a plain function that lives as long as the process, and touches only what is still
        // valid while exit handlers run: the file system and a `OnceLock` that nothing writes any more.
        unsafe { libc::atexit(remove) };
        dir
    })
}

extern "C" fn remove() {
    crate::cluster::stop_shared();
    if std::env::var_os("NTT_ITEST_KEEP").is_none() {
        // A server of a test that failed may be writing its last files yet.
        for _ in 0..20 {
            if fs::remove_dir_all(root()).is_ok() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
    }
}

fn remove_leftovers(base: &Path) {
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let owner = name
            .to_str()
            .and_then(|n| n.strip_prefix(PREFIX))
            .and_then(|n| n.split('-').next())
            .and_then(|n| n.parse::<u32>().ok());
        if owner.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            // Somebody else's leftovers can't be removed by us, and needn't be.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn open_to_all(dir: &Path) {
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).expect("we own the folder");
}
