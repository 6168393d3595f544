//! What a verification finds: types that differ from the detected ones, counted for each pair of old and new type.
//!
//! Two types are *the same* if they are equal byte by byte. They are *spelled otherwise* if they differ only in case,
//! in blanks around them, or in what follows a semicolon (`text/xml; charset=utf-8`, `TEXT/XML`: in RFC 2045 types
//! and subtypes match regardless of case, and parameters are not part of them). Otherwise they are *different*,
//! including aliases like `text/xml` and `application/xml`.
//!
//! Workers add what they have found to `ntt_mime.difference` from time to time ([`add`]), so that it can be read
//! while the run goes on, and little is lost when a run is killed. A count may have to be taken back, see
//! `worker/verify.rs`, so what is added may be negative. A column of nonsense has as many pairs as rows: if there are
//! more than [`MOST_PAIRS`], the leader keeps the most frequent and adds up the others in one row without types
//! ([`trim`]).

use std::collections::HashMap;
use std::ffi::CStr;

use pgrx::Spi;
use pgrx::datum::DatumWithOid;

use super::run_log::{failure_key, write};
use crate::pg::encoding::{array_value, text_value};
use crate::pg::identity::Use::{Reads, Writes};
use crate::pg::identity::as_owner;

const DIFFERENCE: &CStr = c"difference";

/// What an error says could not be written.
const WHAT: &str = "ntt_mime.difference";

/// Pairs of a run that are kept in the end.
pub const MOST_PAIRS: usize = 10_000;

/// How many of these a NOTICE names.
const NAMED_PAIRS: i64 = 5;

/// In the order of the key, so that two workers can't deadlock.
const ADD: &str = "
INSERT INTO ntt_mime.difference AS d (run_id, old_type, new_type, blobs, rows, example_blobid, spelling_only)
SELECT $1, n.*
  FROM ROWS FROM (pg_catalog.unnest($2), pg_catalog.unnest($3), pg_catalog.unnest($4), pg_catalog.unnest($5),
                  pg_catalog.unnest($6), pg_catalog.unnest($7))
       AS n(old_type, new_type, blobs, rows, example_blobid, spelling_only)
 ORDER BY n.old_type, n.new_type
    ON CONFLICT (run_id, old_type, new_type) DO UPDATE
   SET blobs = d.blobs + excluded.blobs, rows = d.rows + excluded.rows";

/// If there are more than $3: rows that a worker is writing, or somebody else is reading, stay until the next time.
const TRIM: &str = "
WITH too_many AS MATERIALIZED (
    SELECT pg_catalog.count(*) > $3 AS yes FROM ntt_mime.difference WHERE run_id = $1),
rare AS MATERIALIZED (
    SELECT l.old_type, l.new_type
      FROM ntt_mime.difference l
     WHERE l.run_id = $1 AND l.old_type IS NOT NULL
       AND (l.old_type, l.new_type) IN (
           SELECT r.old_type, r.new_type FROM ntt_mime.difference r
            WHERE r.run_id = $1 AND r.old_type IS NOT NULL AND (SELECT yes FROM too_many)
            ORDER BY r.rows DESC, r.old_type, r.new_type OFFSET $2)
       FOR UPDATE SKIP LOCKED),
removed AS (
    DELETE FROM ntt_mime.difference d USING rare
     WHERE d.run_id = $1 AND d.old_type = rare.old_type AND d.new_type = rare.new_type
    RETURNING d.blobs, d.rows)
INSERT INTO ntt_mime.difference AS d (run_id, blobs, rows)
SELECT $1, pg_catalog.sum(blobs), pg_catalog.sum(rows) FROM removed HAVING pg_catalog.count(*) > 0
    ON CONFLICT (run_id, old_type, new_type) DO UPDATE
   SET blobs = d.blobs + excluded.blobs, rows = d.rows + excluded.rows";

/// Removes rows of runs that are no longer recorded.
const REMOVE_ORPHANS: &str = "
DELETE FROM ntt_mime.difference d
 WHERE NOT EXISTS (SELECT FROM ntt_mime.run r WHERE r.run_id = d.run_id)";

/// Removes pairs that have been taken back completely.
const REMOVE_EMPTY: &str = "DELETE FROM ntt_mime.difference WHERE run_id = $1 AND rows <= 0";

const MOST_FREQUENT: &str = "
SELECT old_type, new_type, rows FROM ntt_mime.difference
 WHERE run_id = $1 AND old_type IS NOT NULL AND NOT spelling_only
 ORDER BY rows DESC, old_type, new_type LIMIT $2";

/// How a type compares with the detected one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Comparison {
    Same,
    SpelledOtherwise,
    Different,
}

/// Compares the type of a row with that of its blob.
pub fn compare(old: &str, new: &str) -> Comparison {
    let essence = |text: &str| {
        let before = text.split(';').next().unwrap_or_default();
        before.trim().to_ascii_lowercase()
    };
    match old == new {
        true => Comparison::Same,
        false if essence(old) == essence(new) => Comparison::SpelledOtherwise,
        false => Comparison::Different,
    }
}

/// A type that rows have, and the detected one.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Pair {
    pub old: String,
    pub new: String,
}

/// What has been found of a pair.
#[derive(Default, Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Distinct blobs.
    pub blobs: i64,
    pub rows: i64,
    /// One of the blobs.
    pub example: String,
}

/// What a worker has found and not yet written.
#[derive(Default)]
pub struct Differences(HashMap<Pair, Found>);

impl Differences {
    /// Adds rows of a blob. `new_blob` means that it is the blob's first difference of this pair.
    pub fn add(&mut self, pair: Pair, rows: i64, new_blob: bool, example: impl FnOnce() -> String) {
        let found = self.0.entry(pair).or_default();
        found.rows += rows;
        found.blobs += i64::from(new_blob);
        if found.example.is_empty() {
            found.example = example();
        }
    }

    /// Takes rows back. Their blobs stay counted, so that they are counted once.
    pub fn take_back(&mut self, pair: Pair, rows: i64) {
        self.0.entry(pair).or_default().rows -= rows;
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }
}

/// Adds differences to those of the run. Must be called inside a transaction with a snapshot.
pub fn add(run_id: i64, differences: &Differences) {
    if differences.is_empty() {
        return;
    }
    let all = || differences.0.iter();
    // The text may be too long for a key.
    let old: Vec<String> = all().map(|(pair, _)| failure_key(&pair.old)).collect();
    let spelled =
        |(pair, _): (&Pair, &Found)| compare(&pair.old, &pair.new) == Comparison::SpelledOtherwise;
    let arguments = [
        DatumWithOid::from(run_id),
        array_value(old.iter().map(String::as_str), text_value),
        array_value(all().map(|(pair, _)| pair.new.as_str()), text_value),
        DatumWithOid::from(all().map(|(_, found)| found.blobs).collect::<Vec<i64>>()),
        DatumWithOid::from(all().map(|(_, found)| found.rows).collect::<Vec<i64>>()),
        array_value(all().map(|(_, found)| found.example.as_str()), text_value),
        DatumWithOid::from(all().map(spelled).collect::<Vec<bool>>()),
    ];
    as_owner(&[Writes(DIFFERENCE)], || write(WHAT, ADD, &arguments));
}

/// If a run has more than `limit` pairs, keeps the most frequent and adds up the others. Must be called inside a
/// subtransaction with a snapshot.
pub fn trim(run_id: i64, limit: usize) {
    let arguments = [run_id, MOST_PAIRS as i64, limit as i64].map(DatumWithOid::from);
    as_owner(&[Writes(DIFFERENCE)], || write(WHAT, TRIM, &arguments));
}

/// At the end of a run: removes pairs that have come to nothing, and keeps the most frequent. The same conditions
/// apply.
pub fn finish(run_id: i64) {
    as_owner(&[Writes(DIFFERENCE)], || {
        write(WHAT, REMOVE_EMPTY, &[DatumWithOid::from(run_id)]);
    });
    trim(run_id, MOST_PAIRS);
}

/// Removes rows of runs that are no longer recorded. Called by a trigger on `ntt_mime.run`.
pub fn remove_orphans() {
    as_owner(&[Writes(DIFFERENCE)], || write(WHAT, REMOVE_ORPHANS, &[]));
}

/// The most frequent pairs of different types, and their rows. The same conditions apply.
pub fn most_frequent(run_id: i64) -> Vec<(String, String, i64)> {
    let arguments = [run_id, NAMED_PAIRS].map(DatumWithOid::from);
    as_owner(&[Reads(DIFFERENCE)], || {
        Spi::connect(|client| -> pgrx::spi::Result<_> {
            let mut pairs = Vec::new();
            for row in client.select(MOST_FREQUENT, None, &arguments)? {
                let text = |column| row.get::<String>(column).map(Option::unwrap_or_default);
                pairs.push((text(1)?, text(2)?, row.get::<i64>(3)?.unwrap_or_default()));
            }
            Ok(pairs)
        })
    })
    .unwrap_or_else(|error| pgrx::error!("could not read ntt_mime.difference: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_blanks_and_parameters_are_spelling() {
        use Comparison::{Different, Same, SpelledOtherwise};
        let detected = "text/xml";
        for (now, expected) in [
            ("text/xml", Same),
            ("TEXT/XML", SpelledOtherwise),
            ("text/xml; charset=utf-8", SpelledOtherwise),
            (" text/xml\n", SpelledOtherwise),
            ("Text/XML ;x", SpelledOtherwise),
            ("application/xml", Different),
            ("text/xml2", Different),
            ("text/ xml", Different),
            ("", Different),
            (";", Different),
        ] {
            assert_eq!(compare(now, detected), expected, "{now:?}");
        }
    }

    #[test]
    fn what_is_taken_back_leaves_its_blobs() {
        let pair = || Pair {
            old: "a/b".to_owned(),
            new: "c/d".to_owned(),
        };
        let mut differences = Differences::default();
        differences.add(pair(), 3, true, || "first".to_owned());
        differences.add(pair(), 2, false, || unreachable!());
        differences.take_back(pair(), 5);
        let found = &differences.0[&pair()];
        assert_eq!((found.blobs, found.rows), (1, 0));
        assert_eq!(found.example, "first");
    }
}
