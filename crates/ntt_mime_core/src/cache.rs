//! The results of a run, shared by its workers: which blobs have been met, and the result for each.
//!
//! It is in memory that several processes map ([`memory`](crate::memory)), so it is a fixed array of plain slots that
//! are accessed only through atomics: no pointers, no allocations, no locks. It uses open addressing with linear
//! probing. A slot is never freed or moved, so a key stays where it was found, and a probe that reaches an empty slot
//! proves that the key is absent.
//!
//! Promises:
//! * a blob is *claimed* by exactly one worker, which must then either store an outcome ([`RunCache::resolve`]) or
//!   give the claim back ([`RunCache::release`], [`RunCache::release_unmet`]);
//! * a full cache is slower, but never wrong: [`Lookup::Full`] tells the worker to detect without the cache.
//!
//! A key is a fingerprint of the blob id: 128 bits of SipHash with a secret that each run draws, so that the memory
//! holds nearly twice as many blobs as with whole ids. The probability that two of ten million blobs have the same
//! fingerprint is 10⁻²⁵ (n² / 2¹²⁹), and nobody can construct such ids without knowing the secret.

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use rustix::rand::{GetRandomFlags, getrandom};
use siphasher::sip128::SipHasher13;

use crate::blob_id::BlobId;
use crate::dictionary::MimeId;
use crate::failure::FailureReason;

/// The number of probes after which a lookup gives up. Hardly ever reached, since fingerprints are uniformly
/// distributed.
const MAX_PROBES: usize = 1024;

/// The percentage of slots that may be used: above it linear probing becomes slow.
const MAX_LOAD_PERCENT: usize = 85;

const TAG_SHIFT: u32 = 24;
const TAG_EMPTY: u32 = 0;
/// The key is being written; it can be compared once the tag has changed.
const TAG_WRITING: u32 = 1;
/// A worker is detecting it.
const TAG_CLAIMED: u32 = 2;
/// The low bits hold the outcome.
const TAG_KNOWN: u32 = 3;
/// The worker that had claimed it gave up; the next one that asks reclaims it. The payload says whether the blob
/// counts as met.
const TAG_RELEASED: u32 = 4;

/// Given back as if nobody had met it.
const UNMET: u32 = 1;

/// The state of a slot while a worker is detecting its blob.
const CLAIMED: u32 = TAG_CLAIMED << TAG_SHIFT;

const FAILURE_BIT: u32 = 1 << 16;

/// One slot. All zeros is an empty slot, so zeroed memory is an empty cache.
#[repr(C)]
#[derive(Default)]
pub struct Slot {
    state: AtomicU32,
    key: Key<AtomicU32>,
}

/// A blob's fingerprint.
type Key<Word = u32> = [Word; 4];

/// The part of the cache besides the slots.
#[repr(C)]
pub struct CacheHeader {
    used: AtomicU64,
    /// The secret of this run's fingerprints.
    secret: [u8; 16],
}

impl CacheHeader {
    /// The header of an empty cache, with its own secret.
    pub fn new() -> io::Result<CacheHeader> {
        let mut secret = [0; 16];
        // Such a short read is never incomplete (getrandom(2)).
        getrandom(&mut secret, GetRandomFlags::empty())?;
        Ok(CacheHeader {
            used: AtomicU64::new(0),
            secret,
        })
    }

    fn key(&self, id: &BlobId) -> Key {
        let hash = SipHasher13::new_with_key(&self.secret).hash(id.as_bytes());
        let word = |n: usize| (hash.as_u128() >> (32 * n)) as u32;
        std::array::from_fn(word)
    }
}

/// The result for a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Detected; the type is in the run's dictionary.
    Mime(MimeId),
    /// It can't be detected in this run.
    Failed(FailureReason),
}

impl Outcome {
    fn encode(self) -> u32 {
        match self {
            Outcome::Mime(id) => u32::from(id.index()),
            Outcome::Failed(reason) => FAILURE_BIT | reason as u32,
        }
    }

    fn decode(bits: u32) -> Outcome {
        if bits & FAILURE_BIT == 0 {
            Outcome::Mime(MimeId::from_index(bits as u16))
        } else {
            Outcome::Failed(FailureReason::from_u8(bits as u8).unwrap_or(FailureReason::Error))
        }
    }
}

/// The position of a key, which never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotIndex(usize);

/// The result of [`RunCache::claim`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// Met before, with this outcome.
    Known(Outcome),
    /// Met for the first time in the run: the caller has to find the outcome.
    Claimed(SlotIndex),
    /// Met before, and given back by another worker: the caller has to find the outcome.
    Reclaimed(SlotIndex),
    /// Another worker is detecting it.
    Busy(SlotIndex),
    /// Not in the cache, which is full: the caller finds the outcome without it.
    Full,
}

/// A view of a cache in shared memory. Cheap to create; each process creates its own.
pub struct RunCache<'a> {
    header: &'a CacheHeader,
    slots: &'a [Slot],
}

impl<'a> RunCache<'a> {
    /// The number of slots that fit into `bytes`.
    pub fn capacity_for(bytes: usize) -> usize {
        bytes / size_of::<Slot>()
    }

    /// A cache in memory.
    ///
    /// # Safety
    ///
    /// There are `bytes` bytes for all of `'a`, which were zeroed when new, aligned to a page (or none at all,
    /// aligned to a slot), and which are used only as a cache with this header.
    pub unsafe fn at(header: &'a CacheHeader, address: NonNull<u8>, bytes: usize) -> RunCache<'a> {
        let n = RunCache::capacity_for(bytes);
        // SAFETY: the caller's promise. Any bytes are a valid slot, and all processes access them only through
        // atomics.
        let slots = unsafe { std::slice::from_raw_parts(address.cast().as_ptr(), n) };
        RunCache::new(header, slots)
    }

    /// A cache over zeroed or already used slots.
    pub fn new(header: &'a CacheHeader, slots: &'a [Slot]) -> RunCache<'a> {
        RunCache { header, slots }
    }

    /// Looks up `id`, and claims it for the caller if nobody has met it.
    pub fn claim(&self, id: &BlobId) -> Lookup {
        let n = self.slots.len();
        if n == 0 {
            return Lookup::Full;
        }
        let key = self.header.key(id);
        let mut at = (u64::from(key[0]) << 32 | u64::from(key[1])) as usize % n;
        for _ in 0..MAX_PROBES.min(n) {
            let slot = &self.slots[at];
            let mut state = slot.state.load(Ordering::Acquire);
            if tag(state) == TAG_EMPTY {
                if !self.reserve() {
                    return Lookup::Full;
                }
                let writing = TAG_WRITING << TAG_SHIFT;
                match slot.state.compare_exchange(
                    state,
                    writing,
                    Ordering::AcqRel,
                    Ordering::Acquire,
                ) {
                    Ok(_) => {
                        for (cell, word) in slot.key.iter().zip(key) {
                            cell.store(word, Ordering::Relaxed);
                        }
                        slot.state.store(CLAIMED, Ordering::Release);
                        return Lookup::Claimed(SlotIndex(at));
                    }
                    Err(now) => {
                        // Another worker has taken this slot, perhaps for the same key.
                        self.header.used.fetch_sub(1, Ordering::Relaxed);
                        state = now;
                    }
                }
            }
            while tag(state) == TAG_WRITING {
                std::hint::spin_loop();
                state = slot.state.load(Ordering::Acquire);
            }
            if slot.holds(&key) {
                return self.lookup_at(at, state);
            }
            at = if at + 1 == n { 0 } else { at + 1 };
        }
        Lookup::Full
    }

    fn lookup_at(&self, at: usize, mut state: u32) -> Lookup {
        loop {
            match tag(state) {
                TAG_KNOWN => return Lookup::Known(Outcome::decode(payload(state))),
                TAG_CLAIMED => return Lookup::Busy(SlotIndex(at)),
                _ => {
                    let slot = &self.slots[at].state;
                    match slot.compare_exchange(state, CLAIMED, Ordering::AcqRel, Ordering::Acquire)
                    {
                        Ok(_) if payload(state) == UNMET => return Lookup::Claimed(SlotIndex(at)),
                        Ok(_) => return Lookup::Reclaimed(SlotIndex(at)),
                        Err(now) => state = now,
                    }
                }
            }
        }
    }

    /// Whether there is room for one more key. It is counted first, so that the bound holds under concurrency.
    fn reserve(&self) -> bool {
        let limit = (self.slots.len() * MAX_LOAD_PERCENT / 100).max(1) as u64;
        if self.header.used.fetch_add(1, Ordering::Relaxed) < limit {
            return true;
        }
        self.header.used.fetch_sub(1, Ordering::Relaxed);
        false
    }

    /// Publishes the outcome of a blob that the caller has claimed.
    pub fn resolve(&self, at: SlotIndex, outcome: Outcome) {
        let state = (TAG_KNOWN << TAG_SHIFT) | outcome.encode();
        self.slots[at.0].state.store(state, Ordering::Release);
    }

    /// Gives a claim back without an outcome: the next worker that asks reclaims it.
    pub fn release(&self, at: SlotIndex) {
        self.slots[at.0]
            .state
            .store(TAG_RELEASED << TAG_SHIFT, Ordering::Release);
    }

    /// The same, as if nobody had met the blob: the next worker that asks gets [`Lookup::Claimed`].
    pub fn release_unmet(&self, at: SlotIndex) {
        self.slots[at.0]
            .state
            .store(TAG_RELEASED << TAG_SHIFT | UNMET, Ordering::Release);
    }

    /// Asks again after [`Lookup::Busy`]; claims a blob that has been given back.
    pub fn poll(&self, at: SlotIndex) -> Lookup {
        self.lookup_at(at.0, self.slots[at.0].state.load(Ordering::Acquire))
    }
}

impl Slot {
    fn holds(&self, key: &Key) -> bool {
        self.key
            .iter()
            .zip(key)
            .all(|(cell, word)| cell.load(Ordering::Relaxed) == *word)
    }
}

fn tag(state: u32) -> u32 {
    state >> TAG_SHIFT
}

fn payload(state: u32) -> u32 {
    state & ((1 << TAG_SHIFT) - 1)
}

#[cfg(test)]
mod tests;
