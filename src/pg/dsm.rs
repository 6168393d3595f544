//! Dynamic shared memory: one segment a run, made by the leader, attached by its workers.
//!
//! Works without shared_preload_libraries. The segment is mapped at different addresses in different
//! processes, so nothing in it may be a pointer.

use std::ptr::NonNull;

use pgrx::pg_sys;

/// A mapping of a segment, unmapped when dropped or when the process ends.
pub struct Segment {
    segment: NonNull<pg_sys::dsm_segment>,
    handle: pg_sys::dsm_handle,
    /// Another one of this process has mapped it, and unmaps it.
    borrowed: bool,
}

impl Segment {
    /// Makes a segment of `bytes` zeroed bytes. It lives as long as anybody has it mapped.
    pub fn create(bytes: usize) -> Segment {
        // SAFETY: dsm_create raises an error rather than return NULL without flags; the mapping is
        // pinned so that it outlives the transaction, and zeroed because PostgreSQL doesn't promise it.
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

    /// Maps a segment that another process made; None when it is gone. PostgreSQL maps it once in a process: where it
    /// is mapped already, as in a worker whose trigger cancels the run, that mapping serves, which has to outlive this.
    pub fn attach(handle: u32) -> Option<Segment> {
        // SAFETY: dsm_attach returns NULL for a segment that doesn't exist any more; it needs no
        // resource owner when the mapping is pinned right away.
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

    /// Has `callback` called when the segment is detached from this process, at its exit at the latest.
    pub fn on_detach(&self, callback: fn(&Segment)) {
        // SAFETY: a function pointer survives the trip through a Datum; see `detached`.
        unsafe {
            let argument = pg_sys::Datum::from(callback as usize);
            pg_sys::on_dsm_detach(self.segment.as_ptr(), Some(detached), argument);
        }
    }

    /// What another process needs to attach.
    pub fn handle(&self) -> u32 {
        self.handle
    }

    /// Where it is mapped here.
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
    // SAFETY: `callback` is the function that `on_detach` registered; the segment is still mapped
    // while detach callbacks run. The view must not detach it again, hence borrowed.
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
        // Not while a Rust panic or an error passes through: PostgreSQL unmaps at process exit.
        if !self.borrowed && !std::thread::panicking() {
            // SAFETY: detached once, here.
            unsafe { pg_sys::dsm_detach(self.segment.as_ptr()) };
        }
    }
}
