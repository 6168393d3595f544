//! The table `ntt_mime.leaf_error`: leaves that have raised an error of their own.
//!
//! If the update of a leaf raises an error, by a trigger or a constraint, or the leaf can't be read, it is set aside
//! for the rest of the run, and named here. A run tries these leaves last, so that a limited run reaches the others
//! first, and removes those that it has finished without an error. Before `ALTER EXTENSION … UPDATE` the table may
//! not exist: then nothing is recorded.
//!
//! A leaf is identified by its OID, whatever its name is by then. After a dump has been restored, the OIDs are those
//! of other tables or of none, and the first run that finishes removes the rows.

use std::ffi::CStr;

use pgrx::datum::DatumWithOid;
use pgrx::{Spi, pg_sys};

use super::run_log::write;
use crate::pg::encoding::{readable_value, text_value};
use crate::pg::identity::Use::{Reads, Writes};
use crate::pg::identity::{self, as_owner};
use crate::pg::lock::qualified_name;
use crate::pg::report::Report;

const LEAF_ERROR: &CStr = c"leaf_error";

/// What an error says could not be written.
const WHAT: &str = "ntt_mime.leaf_error";

const RECORD: &str = "
INSERT INTO ntt_mime.leaf_error AS e
       (target, leaf, leaf_oid, sqlstate, message, detail, hint, context, first_run_id, last_run_id)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $9)
    ON CONFLICT (target, leaf) DO UPDATE
   SET leaf_oid = excluded.leaf_oid, sqlstate = excluded.sqlstate, message = excluded.message,
       detail = excluded.detail, hint = excluded.hint, context = excluded.context,
       attempts = e.attempts + 1, last_run_id = excluded.last_run_id, last_seen = pg_catalog.now()";

const ON_RECORD: &str = "
SELECT e.leaf_oid, e.target = $1, EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = e.leaf_oid)
  FROM ntt_mime.leaf_error e";

const FORGET: &str = "
DELETE FROM ntt_mime.leaf_error WHERE leaf_oid = ANY ($1)";

/// A recorded leaf.
pub struct OnRecord {
    pub oid: u32,
    /// Whether it was recorded as a leaf of the given target.
    pub of_target: bool,
    /// Whether there is a table with that OID.
    pub exists: bool,
}

/// Whether the table exists. Must be called inside a transaction.
pub fn are_recorded() -> bool {
    identity::has_own_table(LEAF_ERROR)
}

/// Records the error of a leaf, given by its OID and its qualified name. Must be called inside a transaction with a
/// snapshot.
pub fn record(run_id: i64, target: pg_sys::Oid, (oid, name): (pg_sys::Oid, &str), error: &Report) {
    let target = qualified_name(target).filter(|_| are_recorded());
    let Some(target) = target else {
        return;
    };
    let words = |words: &Option<String>| match words {
        Some(words) => readable_value(words),
        None => DatumWithOid::null_oid(pg_sys::TEXTOID),
    };
    let arguments = [
        text_value(&target),
        text_value(name),
        DatumWithOid::from(oid),
        text_value(&error.sqlstate()),
        readable_value(&error.message),
        words(&error.detail),
        words(&error.hint),
        words(&error.context),
        DatumWithOid::from(run_id),
    ];
    as_owner(&[Writes(LEAF_ERROR)], || write(WHAT, RECORD, &arguments));
}

/// The recorded leaves, including those of other targets. Must be called inside a (sub)transaction with a snapshot.
pub fn on_record(target: &str) -> Vec<OnRecord> {
    if !are_recorded() {
        return Vec::new();
    }
    let arguments = [text_value(target)];
    let read = |client: &pgrx::spi::SpiClient<'_>| -> pgrx::spi::Result<Vec<OnRecord>> {
        let rows = client.select(ON_RECORD, None, &arguments)?;
        rows.map(|row| {
            Ok(OnRecord {
                oid: row.get::<pg_sys::Oid>(1)?.map_or(0, pg_sys::Oid::to_u32),
                of_target: row.get::<bool>(2)?.unwrap_or(false),
                exists: row.get::<bool>(3)?.unwrap_or(false),
            })
        })
        .collect()
    };
    as_owner(&[Reads(LEAF_ERROR)], || Spi::connect(|client| read(client)))
        .unwrap_or_else(|error| pgrx::error!("could not read ntt_mime.leaf_error: {error}"))
}

/// Removes the rows of leaves.
pub fn forget(oids: &[u32]) {
    let oids: Vec<pg_sys::Oid> = oids.iter().copied().map(pg_sys::Oid::from).collect();
    as_owner(&[Writes(LEAF_ERROR)], || {
        write(WHAT, FORGET, &[DatumWithOid::from(oids)]);
    });
}
