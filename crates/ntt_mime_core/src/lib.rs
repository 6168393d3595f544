//! What ntt_mime does without PostgreSQL, so that it is tested and measured without a server.
//!
//! In the order in which data flows: [`blob_id`] a validated content hash, [`store`] opens the blob
//! it names, [`detector`] judges it with libmagic, [`failure`] why that wasn't possible. [`detector_thread`]
//! does that in a thread of its own, [`in_flight`] keeps in mind what is at hand, should it crash. Then the
//! structures that the workers of a run share: [`task_queue`] hands out tasks, [`cache`] knows the blobs
//! already met and lies in [`memory`] of its own, [`dictionary`] the distinct MIME types, [`undetected`] the blobs whose
//! rows stay pending.

pub mod blob_id;
pub mod cache;
pub mod detector;
pub mod detector_thread;
pub mod dictionary;
pub mod failure;
pub mod in_flight;
pub mod memory;
#[cfg(feature = "poison")]
pub mod poison;
pub mod store;
pub mod task_queue;
pub mod undetected;
