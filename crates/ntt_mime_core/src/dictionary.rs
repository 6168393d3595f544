//! The distinct MIME types of a run, shared by its workers, with a count of blobs for each.
//!
//! A few hundred types at most occur in practice (libmagic's database names about 800), so a type
//! travels as a 16-bit [`MimeId`] and its text lies once in a fixed array. Like the run cache it is
//! plain memory touched through atomics, zeroed when new; entries are only ever appended.
//!
//! When it is full, or a type is longer than an entry, [`Dictionary::intern`] answers `None` and the
//! caller goes on without sharing that result: slower, never wrong.

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Types that fit.
pub const CAPACITY: usize = 2048;

/// Bytes of text that fit into an entry. `varchar(255)` is what the target usually has.
pub const MAX_LENGTH: usize = 255;

/// A MIME type of this run: an index into its dictionary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MimeId(u16);

impl MimeId {
    pub(crate) fn from_index(index: u16) -> MimeId {
        MimeId(index)
    }

    pub(crate) fn index(self) -> u16 {
        self.0
    }
}

#[repr(C)]
struct Entry {
    blobs: AtomicU64,
    length: UnsafeCell<u8>,
    text: UnsafeCell<[u8; MAX_LENGTH]>,
}

/// The dictionary itself, for placing in shared memory. All zero is an empty dictionary.
#[repr(C)]
pub struct Dictionary {
    /// Entries that are whole. Stored with Release after the entry's text.
    len: AtomicU32,
    /// 1 while somebody appends.
    appending: AtomicU32,
    entries: [Entry; CAPACITY],
}

// SAFETY: `length` and `text` of entry i are written only by the holder of `appending`, only while
// `len <= i`, and read only after `len > i` was loaded with Acquire; after that they never change.
unsafe impl Sync for Dictionary {}

impl Dictionary {
    /// The id of `mime_type`, adding it if it is new.
    pub fn intern(&self, mime_type: &str) -> Option<MimeId> {
        if mime_type.is_empty() || mime_type.len() > MAX_LENGTH {
            return None;
        }
        let seen = self.len();
        if let Some(id) = self.find(mime_type, 0, seen) {
            return Some(id);
        }
        while self
            .appending
            .compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed)
            .is_err()
        {
            std::hint::spin_loop();
        }
        let id = self.append(mime_type, seen);
        self.appending.store(0, Ordering::Release);
        id
    }

    /// Only for the holder of `appending`. `seen` entries are known not to match.
    fn append(&self, mime_type: &str, seen: usize) -> Option<MimeId> {
        let len = self.len();
        if let Some(id) = self.find(mime_type, seen, len) {
            return Some(id);
        }
        let entry = self.entries.get(len)?;
        // SAFETY: see `Sync`: entry `len` isn't visible to anybody yet and we hold `appending`.
        unsafe {
            *entry.length.get() = mime_type.len() as u8;
            (&mut *entry.text.get())[..mime_type.len()].copy_from_slice(mime_type.as_bytes());
        }
        self.len.store(len as u32 + 1, Ordering::Release);
        Some(MimeId(len as u16))
    }

    fn find(&self, mime_type: &str, from: usize, to: usize) -> Option<MimeId> {
        (from..to)
            .find(|i| self.text(*i) == mime_type)
            .map(|i| MimeId(i as u16))
    }

    fn text(&self, index: usize) -> &str {
        let entry = &self.entries[index];
        // SAFETY: callers pass only indexes below a `len` loaded with Acquire, see `Sync`.
        let (length, text) = unsafe { (*entry.length.get(), &*entry.text.get()) };
        // Written from a `&str`; an empty text could only come from memory overwritten by others.
        std::str::from_utf8(&text[..usize::from(length)]).unwrap_or_default()
    }

    /// The text of a type.
    pub fn get(&self, id: MimeId) -> &str {
        assert!(usize::from(id.0) < self.len(), "MimeId of another run");
        self.text(usize::from(id.0))
    }

    /// Counts one distinct blob of this type.
    pub fn count(&self, id: MimeId) {
        self.entries[usize::from(id.0)]
            .blobs
            .fetch_add(1, Ordering::Relaxed);
    }

    /// Each type with its number of distinct blobs, in the order in which they were met.
    pub fn counts(&self) -> impl Iterator<Item = (&str, u64)> {
        (0..self.len()).map(|i| (self.text(i), self.entries[i].blobs.load(Ordering::Relaxed)))
    }

    /// Types met.
    fn len(&self) -> usize {
        (self.len.load(Ordering::Acquire) as usize).min(CAPACITY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn empty() -> Box<Dictionary> {
        // SAFETY: all zero is a valid empty dictionary; boxed, since it is too big for a stack.
        unsafe { Box::<Dictionary>::new_zeroed().assume_init() }
    }

    #[test]
    fn the_same_type_has_the_same_id() {
        let d = empty();
        let text = d.intern("text/plain").unwrap();
        let pdf = d.intern("application/pdf").unwrap();
        assert_ne!(text, pdf);
        assert_eq!(d.intern("text/plain"), Some(text));
        assert_eq!((d.get(text), d.get(pdf)), ("text/plain", "application/pdf"));
        d.count(pdf);
        d.count(pdf);
        let counts: Vec<_> = d.counts().collect();
        assert_eq!(counts, [("text/plain", 0), ("application/pdf", 2)]);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let d = empty();
        assert_eq!(d.intern(&"x".repeat(MAX_LENGTH + 1)), None);
        assert_eq!(d.intern(""), None);
        let longest = "y".repeat(MAX_LENGTH);
        let id = d.intern(&longest).unwrap();
        assert_eq!(d.get(id), longest);
        for n in 1..CAPACITY {
            assert!(d.intern(&format!("a/{n}")).is_some());
        }
        assert_eq!(d.intern("one/more"), None);
        assert_eq!(d.intern(&longest), Some(id));
    }

    #[test]
    fn concurrent_workers_agree_on_ids() {
        let d = empty();
        let ids: Vec<Vec<MimeId>> = std::thread::scope(|scope| {
            let handles: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        (0..500)
                            .map(|n| d.intern(&format!("type/{n}")).unwrap())
                            .collect()
                    })
                })
                .collect();
            handles.into_iter().map(|h| h.join().unwrap()).collect()
        });
        assert_eq!(d.len(), 500);
        for mine in &ids {
            for (n, id) in mine.iter().enumerate() {
                assert_eq!(d.get(*id), format!("type/{n}"));
            }
        }
    }
}
