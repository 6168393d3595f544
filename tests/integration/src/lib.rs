//! The harness of the integration tests: what a test needs to try the extension as its users do.
//!
//! `#[pg_test]` runs inside one transaction that is rolled back, so nothing that commits, cancels or starts
//! background workers can be seen there. These tests talk to real servers from real sessions instead:
//!
//! * [`cluster`] starts private servers, and keeps one that all tests share;
//! * [`database`] gives each test a database of its own, with roles of its own;
//! * [`session`] is a connection that keeps its notices, and can CALL in the background;
//! * [`silent`] is a connection that asks and does not read;
//! * [`store`] makes content-addressed stores, [`mod@corpus`] fills one with real files of this machine;
//! * [`judge`] asks file(1), which the extension has to agree with;
//! * [`inode`] makes the user's tables, and compares them before and after a run;
//! * [`opens`] counts how often files are opened, from outside the server;
//! * [`parallel`] makes queries parallel, and sees that they are;
//! * [`errors`] and [`wait`] hold the assertions that nearly every test needs.
//!
//! The crate can't depend on the extension: that is a `cdylib` full of symbols only a server has. The tests use the
//! extension that is installed in the PostgreSQL they find (`PG_CONFIG`, or Debian's place for version `PG`, 15).

pub mod cluster;
pub mod corpus;
pub mod database;
pub mod errors;
pub mod inode;
pub mod judge;
pub mod opens;
pub mod parallel;
pub mod scratch;
pub mod server;
pub mod session;
pub mod silent;
pub mod store;
pub mod wait;

pub use cluster::Cluster;
pub use corpus::corpus;
pub use database::TestDb;
pub use errors::assert_error;
pub use session::{Background, Notice, Outcome, Session, assert_same_rows};
pub use store::Store;
pub use wait::{SOON, wait_for, wait_until};
