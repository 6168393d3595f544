//! The few places where PostgreSQL's C API is called directly; everything above is safe Rust.
//!
//! One file a concern: [`backtrace`] that errors have none, [`citus`] whether Citus is there, [`tx`] transactions, [`identity`] who acts, [`dsm`] shared memory,
//! [`bgworker`] background workers, [`lock`] advisory and relation locks, [`latch`] waiting, [`scan`] reading
//! a leaf's pending rows, [`rows`] locking rows and finding them again, [`triggers`] what fires at an UPDATE, [`plan`]
//! prepared statements on one leaf, [`query_id`] as what these are counted,
//! [`index_hint`] what their indexes are told, [`descriptors`] of files that others open, [`in_flight_records`] the in-flight record of this
//! process, [`files`] in which tables are, [`encoding`] text in other encodings than
//! UTF-8, [`report`] errors, NOTICEs, WARNINGs and the log, [`standby`] a
//! commit's wait for a synchronous standby, [`stats`] the server's counters,
//! [`epoch`] when they can be compared, [`shape`] what columns' numbers depend on, [`xids`] whether others have changed
//! anything, [`version`] what differs between PostgreSQL releases.

pub mod backtrace;
pub mod bgworker;
pub mod citus;
pub mod descriptors;
pub mod dsm;
pub mod encoding;
pub mod epoch;
pub mod files;
pub mod identity;
pub mod in_flight_records;
pub mod index_hint;
pub mod latch;
pub mod lock;
pub mod plan;
pub mod query_id;
pub mod report;
pub mod rows;
pub mod scan;
pub mod shape;
pub mod standby;
pub mod stats;
pub mod triggers;
pub mod tx;
pub mod version;
pub mod xids;
