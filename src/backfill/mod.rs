//! The backfill, `CALL ntt_backfill_mime(…)`, and the verification, `CALL ntt_verify_mime(…)`: a run of the same kind
//! over rows that have a type already.
//!
//! ```text
//!  leader (the backend that runs CALL)            workers (dynamic background workers)
//!  ------------------------------------           -------------------------------------------
//!  check arguments, target, rights, store         connect as the caller, with its settings
//!  advisory lock on the target                    take a task: a range of blocks of one leaf
//!  list the leaves that may have changed           | short transaction: read pending rows (TIDs)
//!    none? the last row of ntt_mime.run, the end   |
//!  row in ntt_mime.run, COMMIT                     | no transaction: detect distinct blobs,
//!  leaves ──► task queue (shared memory) ──────────►    |   each once a run ◄──► cache, dictionary
//!  every second: counters ◄── shared counters ◄──  | short transaction: UPDATE ONLY leaf
//!    to ntt_mime.run, COMMIT; NOTICEs              | next batch …
//!  pass over? look again at what was missed       next task …
//!  marks of leaves that are done with             end when the task queue is closed
//!  last row of ntt_mime.run, result row
//! ```
//!
//! Nobody holds a snapshot, a transaction or a lock on a table while waiting or while reading files.
//! Where each thing is: [`options`] what a run is asked to do, [`target`] the table and its leaves, [`citus`] of
//! a distributed table, [`roots`] what has to
//! be there of the store, [`shared`] the shared memory, [`cache_memory`] that of the run cache, [`leader`], [`worker`],
//! [`batch`] the rows of one batch, [`finder`] how the types of their blobs are found, [`leaf`] what is done to one leaf,
//! [`run_log`] the tables `run` and `failure`, [`leaf_errors`] that of leaves with errors,
//! [`marks`] that of leaves that needn't be looked at, [`differences`] what a verification finds, [`sample`] the blocks that
//! one looks at and what they tell of the others, [`progress`] what the caller
//! reads meanwhile, [`procedure`] the SQL surface.

pub mod batch;
pub mod cache_memory;
pub mod citus;
pub mod differences;
pub mod finder;
pub mod leader;
pub mod leaf;
pub mod leaf_errors;
pub mod marks;
pub mod options;
pub mod procedure;
pub mod progress;
pub mod roots;
pub mod run_log;
pub mod sample;
pub mod shared;
pub mod target;
pub mod worker;
