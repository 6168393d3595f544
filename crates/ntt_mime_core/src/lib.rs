//! The parts of ntt_mime that don't need PostgreSQL, so that they can be tested and measured without a server.
//!
//! In the order in which data flows: [`blob_id`] a validated content hash; [`store`] opens the blob that it names;
//! [`detector`] judges it with libmagic; [`failure`] why that wasn't possible. [`detector_thread`] does that in a
//! thread of its own, and [`in_flight`] records the current blob in case it crashes the process. Then the structures
//! that the workers of a run share: [`task_queue`] hands out tasks; [`cache`] holds the results for blobs already
//! met, in its own [`memory`]; [`dictionary`] the distinct MIME types; [`undetected`] the blobs whose rows stay
//! pending.

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
