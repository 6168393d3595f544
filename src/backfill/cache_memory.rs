//! The memory of a run's cache: anonymous memory ([`ntt_mime_core::memory`]) if possible.
//!
//! If the system doesn't provide that, or has no `/proc` through which workers would find it, the cache is in a
//! segment of PostgreSQL's dynamic shared memory. That works too, but all of it is allocated at once, in an area that
//! the system may have limited (`/dev/shm`, often small in containers), and a process that is killed at the wrong
//! moment leaves it behind.

use std::ptr::NonNull;

use ntt_mime_core::memory::{Handle, Mapping, Memory};
use pgrx::PgLogLevel;

use crate::errors::{Error, in_words, sentence};
use crate::pg::dsm::Segment;
use crate::pg::report::Report;
use crate::pg::tx;

/// The leader's cache memory, which exists as long as this does.
pub enum CacheMemory {
    Unnamed(Memory),
    Segment(Segment),
}

/// How workers find it.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct CacheHandle {
    unnamed: Handle,
    /// The handle of a segment, or 0.
    segment: u32,
}

impl CacheMemory {
    /// Creates `bytes` zeroed bytes. Must be called inside a transaction.
    pub fn create(bytes: usize) -> Result<CacheMemory, Error> {
        let refused = match Memory::create(c"ntt_mime run cache", bytes) {
            Ok(memory) => return Ok(CacheMemory::Unnamed(memory)),
            Err(error) => error,
        };
        match tx::attempt(|| Segment::create(bytes)) {
            Ok(segment) => {
                let message = "run cache is in dynamic shared memory".to_owned();
                Report::plain(message)
                    .set_detail(sentence(&in_words(&refused)))
                    .send(PgLogLevel::LOG);
                Ok(CacheMemory::Segment(segment))
            }
            Err(error) => Err(Error::RunCache {
                full: error.is_of_memory(),
                error: error.message,
                refused: Some(in_words(&refused)),
            }),
        }
    }

    pub fn handle(&self) -> CacheHandle {
        match self {
            CacheMemory::Unnamed(memory) => CacheHandle {
                unnamed: memory.handle(),
                segment: 0,
            },
            CacheMemory::Segment(segment) => CacheHandle {
                segment: segment.handle(),
                ..CacheHandle::default()
            },
        }
    }
}

/// The cache memory in a worker.
pub enum CacheMapping {
    Unnamed(Mapping),
    Segment(Segment),
}

impl CacheMapping {
    pub fn open(handle: &CacheHandle) -> Result<CacheMapping, Error> {
        let gone = || std::io::ErrorKind::NotFound.into();
        match handle.segment {
            0 => Mapping::open(&handle.unnamed).map(CacheMapping::Unnamed),
            handle => Segment::attach(handle)
                .map(CacheMapping::Segment)
                .ok_or_else(gone),
        }
        .map_err(Error::run_cache)
    }

    /// Page aligned, unless it is empty.
    pub fn address(&self) -> NonNull<u8> {
        match self {
            CacheMapping::Unnamed(mapping) => mapping.address(),
            CacheMapping::Segment(segment) => segment.address(),
        }
    }

    pub fn bytes(&self) -> usize {
        match self {
            CacheMapping::Unnamed(mapping) => mapping.bytes(),
            CacheMapping::Segment(segment) => segment.bytes(),
        }
    }
}
