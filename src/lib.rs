//! ntt_mime detects the MIME types of content-addressed files and fills them in, inside PostgreSQL.
//!
//! The modules, in the order in which data flows through them:
//!
//! * [`settings`]: the parameters `ntt_mime.*`;
//! * `ntt_mime_core` (crates/ntt_mime_core), which is independent of PostgreSQL: blob ids, the store, the detector,
//!   and the shared structures of a run;
//! * [`detect`]: this backend's detector and store; [`functions`]: the SQL functions on top of it;
//! * [`backfill`]: the procedures, their leader and their workers;
//! * [`errors`]: every error that a user can meet;
//! * [`pg`]: the only place where PostgreSQL's C API is called directly.
//!
//! The SQL objects are in sql/*.sql.

use pgrx::prelude::*;

pub mod backfill;
pub mod detect;
pub mod errors;
pub mod functions;
pub mod pg;
pub mod settings;

::pgrx::pg_module_magic!(name, version);

extension_sql_file!("../sql/tables.sql", name = "tables", bootstrap);
extension_sql_file!(
    "../sql/functions.sql",
    name = "functions",
    requires = ["tables"]
);
extension_sql_file!(
    "../sql/procedures.sql",
    name = "procedures",
    requires = ["functions"]
);
extension_sql_file!(
    "../sql/advice.sql",
    name = "advice",
    requires = ["procedures"]
);
extension_sql_file!("../sql/privileges.sql", name = "privileges", finalize);

#[pg_guard]
pub extern "C-unwind" fn _PG_init() {
    pg::backtrace::keep_out_of_errors();
    settings::define();
}

#[cfg(any(test, feature = "pg_test"))]
mod pg_tests;

/// Required by `cargo pgrx test` at the root of the crate.
#[cfg(test)]
pub mod pg_test {
    pub fn setup(_options: Vec<&str>) {}

    #[must_use]
    pub fn postgresql_conf_options() -> Vec<&'static str> {
        vec![]
    }
}
