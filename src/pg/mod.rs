//! The only modules that call PostgreSQL's C API directly; everything above them is safe Rust.
//!
//! * Processes and memory: [`bgworker`] background workers, [`dsm`] shared memory, [`latch`] waiting,
//!   [`in_flight_records`] the in-flight record of this process, [`descriptors`] of files that others open;
//! * transactions: [`tx`] transactions, [`standby`] a commit's wait for a synchronous standby, [`xids`] whether
//!   others have changed anything;
//! * tables: [`lock`] advisory and relation locks, [`scan`] reading a leaf's pending rows, [`rows`] locking rows and
//!   finding them again, [`files`] in which tables are stored, [`shape`] what column numbers depend on, [`triggers`]
//!   what fires on an UPDATE, [`plan`] prepared statements on one leaf, [`query_id`] under which these are counted,
//!   [`index_hint`] what their indexes are told, [`citus`] shards;
//! * statistics: [`stats`] the server's counters, [`epoch`] when they can be compared, [`activity`] what others do;
//! * messages: [`report`] errors, NOTICEs, WARNINGs and the log, [`encoding`] text in encodings other than UTF-8,
//!   [`backtrace`] which keeps stack traces out of errors;
//! * [`identity`] the acting role, [`version`] what differs between PostgreSQL releases.

pub mod activity;
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
