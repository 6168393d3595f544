//! The integration tests: one binary, so that all share a server and a corpus; one module a topic.
//!
//! `cargo test -p ntt_mime_integration sessions::` runs one topic. Much of the time is spent waiting, so more threads
//! than cores (`RUST_TEST_THREADS=6`) end sooner. `NTT_ITEST_KEEP=1` keeps the folders in the temporary directory.

mod audit;
mod awaited;
mod backfill;
mod citus;
mod cron;
mod detect;
mod dump;
mod encodings;
mod errors;
mod failures;
mod few;
mod harness;
mod isolation;
mod locales;
mod locks;
mod many_leaves;
mod marks;
mod moves;
mod narrow;
mod neighbours;
mod odd_tables;
mod paths;
mod privileges;
mod quarantine;
mod read_ahead;
mod refused;
mod replication;
mod resting;
mod rewrites;
mod roots;
mod row_locks;
mod run_log;
mod sessions;
mod shutdown;
mod triggers;
mod upgrade;
mod verify;
mod watching;
