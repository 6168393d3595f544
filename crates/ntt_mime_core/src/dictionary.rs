//! The distinct MIME types of a run, shared by its workers, with a count of blobs for each.
//!
//! In practice there are a few hundred types at most (libmagic's database names about 800), so a type is passed on as
//! a 16-bit [`MimeId`], and its text is stored once in a fixed array. Like the run cache it is plain memory that is
//! accessed through atomics, and zeroed when new; entries are only ever appended.
//!
//! If it is full, or a type is longer than an entry, [`Dictionary::intern`] returns `None` and the caller goes on
//! without sharing that result: slower, but never wrong.

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// The maximum number of types.
pub const CAPACITY: usize = 2048;

/// Maximum length of a type in bytes. The target usually has `varchar(255)`.
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

/// The dictionary itself, to be placed in shared memory. All zeros is an empty dictionary.
#[repr(C)]
pub struct Dictionary {
    /// The number of complete entries. Stored with Release after the entry's text.
    len: AtomicU32,
    /// 1 while somebody is appending.
    appending: AtomicU32,
    entries: [Entry; CAPACITY],
}

// SAFETY: `length` and `text` of entry i are written only by the holder of `appending` and only while `len <= i`, and
// read only after `len > i` was loaded with Acquire. After that they never change.
unsafe impl Sync for Dictionary {}

impl Dictionary {
    /// The id of `mime_type`, which is added if it is new.
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

    /// Only for the holder of `appending`. The first `seen` entries are known not to match.
    fn append(&self, mime_type: &str, seen: usize) -> Option<MimeId> {
        let len = self.len();
        if let Some(id) = self.find(mime_type, seen, len) {
            return Some(id);
        }
        let entry = self.entries.get(len)?;
        // SAFETY: see `Sync`: nobody can see entry `len` yet, and we hold `appending`.
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
        // Written from a `&str`; the text can be invalid, and shown as empty, only if others have overwritten the
        // memory.
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

    /// Each type with its number of distinct blobs, in the order in which types were first met.
    pub fn counts(&self) -> impl Iterator<Item = (&str, u64)> {
        (0..self.len()).map(|i| (self.text(i), self.entries[i].blobs.load(Ordering::Relaxed)))
    }

    /// The number of types.
    fn len(&self) -> usize {
        (self.len.load(Ordering::Acquire) as usize).min(CAPACITY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn empty() -> Box<Dictionary> {
        // SAFETY: all zeros is a valid empty dictionary. Boxed, since it is too large for a stack.
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
