//! libmagic with some of the rules.
//!
//! `magic_load_buffers` takes compiled databases in memory and doesn't copy them (`apprentice_buf` and `add_mlist` in
//! src/apprentice.c, releases 5.44, 5.46, 5.47; `MAP_TYPE_USER`). So a libmagic cookie is opened once with room for
//! some rules, and from then on rules are copied into its room before each call, which takes only as long as copying
//! their bytes. The rest of the room is filled with entries that are neither for binary files nor for text, which
//! `match` skips.
//!
//! The only thing that libmagic keeps of an entry is its compiled regular expression, by its position
//! (`magic_rxcomp`). So rules with regular expressions have their own places in the room, and a cookie is kept for
//! each combination of them that occurs, within limits. The rules between them go into the gaps:
//!
//! ```text
//! header | gap: rules, then fillers | rule with a regex | gap | rule with a regex | gap
//! ```
//!
//! Named rules are the same for all, and are in a second database, of which there is one copy. Rules use each other
//! by name across databases (`file_magicfind`).

use std::ffi::c_void;
use std::ptr::NonNull;

use super::Rule;
use super::format::Compiled;
use crate::detector::cookie::Cookie;
use crate::detector::database::MAGIC_NUMBER;

/// Numbers of entries that a gap may have. The smallest sufficient one is used.
const GAPS: [usize; 4] = [24, 96, 384, 1536];

/// Memory for all rooms together.
const BYTES: usize = 2 << 20;

/// The number of subsets that are kept.
const KEPT: usize = 8;

/// The maximum number of rules with regular expressions in one subset.
const REGEX_RULES: usize = 12;

pub struct Subsets {
    /// The most recently used come last. Dropped before what they point to.
    kept: Vec<Subset>,
    /// The database of named rules.
    named: Room,
    /// Bytes of all rooms.
    bytes: usize,
    /// The rules with regular expressions that are needed now.
    key: Vec<u32>,
}

/// A libmagic cookie and its room.
struct Subset {
    /// Dropped before what it points to.
    cookie: Cookie,
    room: Room,
    /// The rules with regular expressions.
    key: Vec<u32>,
    /// The number of entries of each gap.
    gap_entries: usize,
    /// Where each gap begins, and how many of its entries are in use.
    gaps: Vec<Gap>,
}

#[derive(Clone, Copy)]
struct Gap {
    begin: usize,
    used: usize,
}

/// Memory that libmagic reads and to which we write from time to time, but never at the same time: only raw pointers.
struct Room {
    address: NonNull<u64>,
    words: usize,
}

impl Room {
    fn zeroed(bytes: usize) -> Room {
        let boxed = vec![0u64; bytes.div_ceil(8)].into_boxed_slice();
        let words = boxed.len();
        let address = NonNull::new(Box::into_raw(boxed).cast()).expect("a box");
        Room { address, words }
    }

    fn write(&mut self, at: usize, bytes: &[u8]) {
        assert!(at + bytes.len() <= self.words * 8);
        // SAFETY: within the allocation, as just checked; no libmagic call is in progress.
        unsafe {
            let to = self.address.as_ptr().cast::<u8>().add(at);
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len());
        }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let slice = std::ptr::slice_from_raw_parts_mut(self.address.as_ptr(), self.words);
        // SAFETY: what `zeroed` took apart.
        drop(unsafe { Box::from_raw(slice) });
    }
}

impl Subsets {
    pub fn new(compiled: &Compiled) -> Subsets {
        let named_bytes = (compiled.named() + 1) * compiled.entry_bytes();
        let mut named = Room::zeroed(named_bytes);
        named.write(0, &header(compiled, 0, compiled.named()));
        named.write(
            compiled.entry_bytes(),
            compiled.entries(compiled.rules(), compiled.named()),
        );
        Subsets {
            kept: Vec::new(),
            named,
            bytes: 0,
            key: Vec::new(),
        }
    }

    /// A cookie with these rules, which must be in order; None if they would be too many.
    pub fn cookie(
        &mut self,
        compiled: &Compiled,
        rules: &[Rule],
        wanted: &[u32],
    ) -> Option<&mut Cookie> {
        // The number of rules that each gap has to hold.
        self.key.clear();
        let (mut most, mut here) = (0, 0);
        for number in wanted {
            let rule = &rules[*number as usize];
            if rule.regex {
                self.key.push(*number);
                most = most.max(here);
                here = 0;
            } else {
                here += rule.entries();
            }
        }
        most = most.max(here);
        let gap_entries = GAPS.into_iter().find(|gap| *gap >= most)?;
        if self.key.len() > REGEX_RULES {
            return None;
        }
        let found = self
            .kept
            .iter()
            .rposition(|subset| subset.gap_entries == gap_entries && subset.key == self.key);
        let subset = match found {
            Some(at) => self.kept.remove(at),
            None => self.make(compiled, rules, gap_entries)?,
        };
        self.kept.push(subset);
        let subset = self.kept.last_mut()?;
        subset.fill(compiled, rules, wanted);
        Some(&mut subset.cookie)
    }

    /// How many subsets are kept, and how many bytes their rooms have.
    #[cfg(test)]
    pub fn size(&self) -> (usize, usize) {
        (self.kept.len(), self.bytes)
    }

    fn make(&mut self, compiled: &Compiled, rules: &[Rule], gap_entries: usize) -> Option<Subset> {
        let size = compiled.entry_bytes();
        let fixed: usize = self.key.iter().map(|n| rules[*n as usize].entries()).sum();
        let entries = (self.key.len() + 1) * gap_entries + fixed;
        let bytes = (entries + 1) * size;
        if bytes > BYTES {
            return None;
        }
        while self.bytes + bytes > BYTES || self.kept.len() >= KEPT {
            let oldest = self.kept.remove(0);
            self.bytes -= oldest.room.words * 8;
        }
        let mut room = Room::zeroed(bytes);
        room.write(0, &header(compiled, entries, 0));
        let mut gaps = Vec::new();
        let mut at = 1;
        for number in &self.key {
            gaps.push(Gap { begin: at, used: 0 });
            at += gap_entries;
            let rule = &rules[*number as usize];
            let n = rule.entries();
            room.write(at * size, compiled.entries(rule.first, n));
            at += n;
        }
        gaps.push(Gap { begin: at, used: 0 });
        let named_bytes = (compiled.named() + 1) * size;
        let mut buffers = [room.address.cast::<c_void>(), self.named.address.cast()];
        let mut sizes = [bytes, named_bytes];
        // SAFETY: the buffers outlive the cookie, which `Subset` and `Subsets` drop first, and don't move. They hold
        // whole entries after a header with their number.
        let cookie = unsafe { Cookie::with_buffers(&mut buffers, &mut sizes) }.ok()?;
        self.bytes += room.words * 8;
        Some(Subset {
            cookie,
            room,
            key: self.key.clone(),
            gap_entries,
            gaps,
        })
    }
}

impl Subset {
    /// Copies rules into the gaps.
    fn fill(&mut self, compiled: &Compiled, rules: &[Rule], wanted: &[u32]) {
        let size = compiled.entry_bytes();
        let mut gaps = self.gaps.iter_mut();
        let mut gap = gaps
            .next()
            .expect("there is one more than there are rules with a regex");
        let mut used = 0;
        for number in wanted {
            let rule = &rules[*number as usize];
            if rule.regex {
                clear(&mut self.room, size, gap, used);
                gap = gaps.next().expect("as many as before");
                used = 0;
                continue;
            }
            let n = rule.entries();
            self.room
                .write((gap.begin + used) * size, compiled.entries(rule.first, n));
            used += n;
        }
        clear(&mut self.room, size, gap, used);
    }
}

/// Turns the entries that were in use and no longer are into fillers: all zeros in the fields that `match` reads.
fn clear(room: &mut Room, size: usize, gap: &mut Gap, used: usize) {
    for entry in used..gap.used {
        room.write((gap.begin + entry) * size, &[0; 12]);
    }
    gap.used = used;
}

/// The header of a database.
fn header(compiled: &Compiled, rules: usize, named: usize) -> Vec<u8> {
    let words = [MAGIC_NUMBER, compiled.version(), rules as u32, named as u32];
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}
