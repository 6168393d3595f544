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
//!  end of a pass: what was missed? next pass      next task …
//!  marks of leaves that are finished              end when the task queue is closed
//!  last row of ntt_mime.run, result row
//! ```
//!
//! No process holds a snapshot, a transaction or a lock on a table while it waits or reads files.
//!
//! The modules: [`procedure`] the SQL surface; [`options`] what a run is asked to do; [`target`] the table and its
//! leaves, [`citus`] those of a distributed table; [`roots`] checks of the store; [`leader`]; [`worker`]; [`batch`]
//! the rows of one batch, [`finder`] how the types of their blobs are found, [`leaf`] what is done to one leaf;
//! [`room`] how many workers may work beside other sessions;
//! [`shared`] the shared memory, [`counters`] what is counted there, [`cache_memory`] that of the run cache; [`run_log`] the tables `run` and `failure`,
//! [`leaf_errors`] the table of leaves with errors, [`marks`] the table of leaves that needn't be read;
//! [`differences`] what a verification finds, [`sample`] the blocks that it reads as a sample, and what they say
//! about the others; [`progress`] what the caller reads meanwhile.

pub mod batch;
pub mod cache_memory;
pub mod citus;
pub mod counters;
pub mod differences;
pub mod finder;
pub mod leader;
pub mod leaf;
pub mod leaf_errors;
pub mod marks;
pub mod options;
pub mod procedure;
pub mod progress;
pub mod room;
pub mod roots;
pub mod run_log;
pub mod sample;
pub mod shared;
pub mod target;
pub mod worker;
