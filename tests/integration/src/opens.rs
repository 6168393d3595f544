//! Counts how often files are opened, by inotify: from outside the server, whatever its counters say.
//!
//! `O_PATH` descriptors, which can't be read from, don't count.

use std::collections::BTreeMap;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::inotify;
use rustix::io::Errno;

/// A watch on some files, counting from its making on.
pub struct Opens {
    inotify: OwnedFd,
    paths: BTreeMap<i32, PathBuf>,
    counts: BTreeMap<PathBuf, usize>,
}

impl Opens {
    pub fn watch<P: AsRef<Path>>(paths: impl IntoIterator<Item = P>) -> Opens {
        let inotify = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC)
            .expect("inotify");
        let mut watched = BTreeMap::new();
        let mut counts = BTreeMap::new();
        for path in paths {
            let path = path.as_ref();
            let id = inotify::add_watch(&inotify, path, inotify::WatchFlags::OPEN)
                .unwrap_or_else(|e| panic!("cannot watch {}: {e}", path.display()));
            watched.insert(id, path.to_owned());
            counts.insert(path.to_owned(), 0);
        }
        Opens {
            inotify,
            paths: watched,
            counts,
        }
    }

    /// How often each file has been opened so far.
    pub fn counts(&mut self) -> &BTreeMap<PathBuf, usize> {
        let mut buffer = [MaybeUninit::uninit(); 64 * 1024];
        let mut reader = inotify::Reader::new(&self.inotify, &mut buffer);
        loop {
            match reader.next() {
                Ok(event) => {
                    assert!(
                        !event.events().contains(inotify::ReadFlags::QUEUE_OVERFLOW),
                        "too many events"
                    );
                    if let Some(path) = self.paths.get(&event.wd()) {
                        *self.counts.get_mut(path).expect("counted from the start") += 1;
                    }
                }
                Err(Errno::WOULDBLOCK) => return &self.counts,
                Err(e) => panic!("inotify: {e}"),
            }
        }
    }
}
