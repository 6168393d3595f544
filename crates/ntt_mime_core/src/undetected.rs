//! The blobids of blobs that could not be detected, each with the leaf that has rows of it: which rows stay pending,
//! as far as that is known at the end of a pass.
//!
//! Workers add to a list of a fixed size, in any order, and more than once if a leaf has rows of a blob in several
//! batches. The leader reads it when the pass is over, and empties it. If there is no room, [`Undetected::add`] says
//! so.
//!
//! It is plain memory that is accessed through atomics, and zeroed when new, like the other shared parts of a run.

use std::sync::atomic::{AtomicU64, Ordering};

const WORD: usize = size_of::<u64>();

/// The part of the list besides its entries.
#[repr(C)]
#[derive(Default)]
pub struct UndetectedHeader {
    /// The number of words in use.
    used: AtomicU64,
}

/// A view of the list in shared memory. An entry is a word with the leaf's number and the length of the text in
/// bytes, followed by the text.
#[derive(Clone, Copy)]
pub struct Undetected<'a> {
    header: &'a UndetectedHeader,
    words: &'a [AtomicU64],
}

impl<'a> Undetected<'a> {
    /// A list over zeroed or already used memory.
    pub fn new(header: &'a UndetectedHeader, words: &'a [AtomicU64]) -> Undetected<'a> {
        Undetected { header, words }
    }

    /// Adds a text, which must not be empty, for the leaf with that number in the task queue. False if there is no
    /// room.
    pub fn add(&self, leaf: usize, text: &str) -> bool {
        let bytes = text.as_bytes();
        let words = 1 + bytes.len().div_ceil(WORD);
        let room = self.words.len() as u64;
        let taken = |used: u64| Some(used + words as u64).filter(|end| *end <= room);
        let used = &self.header.used;
        let Ok(at) = used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken) else {
            return false;
        };
        let place = &self.words[at as usize..at as usize + words];
        place[0].store((leaf as u64) << 32 | bytes.len() as u64, Ordering::Relaxed);
        for (word, part) in place[1..].iter().zip(bytes.chunks(WORD)) {
            let mut padded = [0; WORD];
            padded[..part.len()].copy_from_slice(part);
            word.store(u64::from_le_bytes(padded), Ordering::Relaxed);
        }
        true
    }

    /// Calls `entry` with each leaf and text. Only for the leader, when every worker has seen the end of the pass.
    pub fn each(&self, mut entry: impl FnMut(usize, String)) {
        let used = self.header.used.load(Ordering::Relaxed) as usize;
        let mut rest = &self.words[..used.min(self.words.len())];
        while let Some((head, after)) = rest.split_first() {
            let head = head.load(Ordering::Relaxed);
            let length = (head & 0xFFFF_FFFF) as usize;
            let (text, others) = after.split_at(length.div_ceil(WORD).min(after.len()));
            let mut bytes: Vec<u8> = text
                .iter()
                .flat_map(|word| word.load(Ordering::Relaxed).to_le_bytes())
                .collect();
            bytes.truncate(length);
            entry(
                (head >> 32) as usize,
                String::from_utf8_lossy(&bytes).into_owned(),
            );
            rest = others;
        }
    }

    /// Empties the list. Only for the leader, as above.
    pub fn clear(&self) {
        self.header.used.store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(list: &Undetected<'_>) -> Vec<(usize, String)> {
        let mut found = Vec::new();
        list.each(|leaf, text| found.push((leaf, text)));
        found
    }

    #[test]
    fn what_was_added_is_read_until_it_is_emptied() {
        let header = UndetectedHeader::default();
        let words: Vec<AtomicU64> = (0..12).map(|_| AtomicU64::new(0)).collect();
        let list = Undetected::new(&header, &words);
        assert!(entries(&list).is_empty());
        let texts = ["x", "é", "12345678", "123456789"];
        for (leaf, text) in texts.into_iter().enumerate() {
            assert!(list.add(leaf + 7, text), "{text}");
        }
        let expected = texts.into_iter().map(str::to_owned).enumerate();
        let expected: Vec<_> = expected.map(|(leaf, text)| (leaf + 7, text)).collect();
        assert_eq!(entries(&list), expected);
        // 9 of 12 words are taken.
        assert!(!list.add(1, &"y".repeat(17)));
        assert_eq!(entries(&list), expected);
        assert!(list.add(1, &"y".repeat(16)));
        assert!(!list.add(1, "z"));
        assert_eq!(entries(&list).last(), Some(&(1, "y".repeat(16))));
        list.clear();
        assert!(entries(&list).is_empty());
        assert!(list.add(2, "z"));
        assert_eq!(entries(&list), [(2, "z".to_owned())]);
    }
}
