//! Dynamic shared memory: one segment for each run, created by the leader and attached by its workers.
//!
//! It works without shared_preload_libraries. The segment is mapped at different addresses in different processes, so
//! it must not contain pointers.

use std::ptr::NonNull;

use pgrx::pg_sys;

/// A mapping of a segment, unmapped when dropped or when the process ends.
pub struct Segment {
    segment: NonNull<pg_sys::dsm_segment>,
    handle: pg_sys::dsm_handle,
    /// Another mapping of this process owns it, and unmaps it.
    borrowed: bool,
}

impl Segment {
    /// Creates a segment of `bytes` zeroed bytes. It lives as long as any process has it mapped.
    pub fn create(bytes: usize) -> Segment {
        // SAFETY: without flags dsm_create raises an error rather than return NULL. The mapping is pinned so that it
        // outlives the transaction, and zeroed because PostgreSQL doesn't promise that.
        unsafe {
            let segment = pg_sys::dsm_create(bytes, 0);
            pg_sys::dsm_pin_mapping(segment);
            let address = pg_sys::dsm_segment_address(segment).cast::<u8>();
            std::ptr::write_bytes(address, 0, bytes);
            Segment {
                handle: pg_sys::dsm_segment_handle(segment),
                segment: NonNull::new_unchecked(segment),
                borrowed: false,
            }
        }
    }

    /// Maps a segment that another process created; None if it no longer exists. PostgreSQL maps a segment only once
    /// in a process. If it is mapped already, as in a worker whose trigger cancels the run, that mapping is used, and
    /// must outlive this one.
    pub fn attach(handle: u32) -> Option<Segment> {
        // SAFETY: dsm_attach returns NULL for a segment that no longer exists; it needs no resource owner, since the
        // mapping is pinned right away.
        unsafe {
            if let Some(segment) = NonNull::new(pg_sys::dsm_find_mapping(handle)) {
                return Some(Segment {
                    segment,
                    handle,
                    borrowed: true,
                });
            }
            let segment = NonNull::new(pg_sys::dsm_attach(handle))?;
            pg_sys::dsm_pin_mapping(segment.as_ptr());
            Some(Segment {
                segment,
                handle,
                borrowed: false,
            })
        }
    }

    /// Registers `callback` to be called when the segment is detached from this process, at its exit at the latest.
    pub fn on_detach(&self, callback: fn(&Segment)) {
        // SAFETY: a Datum can hold a function pointer; see `detached`.
        unsafe {
            let argument = pg_sys::Datum::from(callback as usize);
            pg_sys::on_dsm_detach(self.segment.as_ptr(), Some(detached), argument);
        }
    }

    /// What another process needs to attach the segment.
    pub fn handle(&self) -> u32 {
        self.handle
    }

    /// Its address in this process.
    pub fn address(&self) -> NonNull<u8> {
        // SAFETY: mapped as long as `self` lives; the address is page aligned and not NULL.
        unsafe { NonNull::new_unchecked(pg_sys::dsm_segment_address(self.segment.as_ptr()).cast()) }
    }

    /// Its size in bytes.
    pub fn bytes(&self) -> usize {
        // SAFETY: mapped as long as `self` lives.
        unsafe { pg_sys::dsm_segment_map_length(self.segment.as_ptr()) }
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn detached(segment: *mut pg_sys::dsm_segment, callback: pg_sys::Datum) {
    // SAFETY: `callback` is the function that `on_detach` registered, and the segment is still mapped while detach
    // callbacks run. The view is marked as borrowed because it must not detach the segment again.
    unsafe {
        let callback: fn(&Segment) = std::mem::transmute(callback.value());
        callback(&Segment {
            handle: pg_sys::dsm_segment_handle(segment),
            segment: NonNull::new_unchecked(segment),
            borrowed: true,
        });
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        // Not while a Rust panic or an error is propagated: PostgreSQL then unmaps it at the end of the process.
        if !self.borrowed && !std::thread::panicking() {
            // SAFETY: detached once, here.
            unsafe { pg_sys::dsm_detach(self.segment.as_ptr()) };
        }
    }
}
