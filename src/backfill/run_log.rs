//! The tables `ntt_mime.run` and `ntt_mime.failure`.
//!
//! They are written as their owner ([`as_owner`]), whoever started the run. The run's row has one writer, the leader.
//! Failures are recorded by the workers, in the order of their keys, so that two of them can't deadlock. Everything
//! here runs inside a (sub)transaction with a snapshot.

use std::collections::{BTreeMap, HashMap};
use std::ffi::CStr;

use ntt_mime_core::blob_id::BlobId;
use ntt_mime_core::failure::FailureReason;
use pgrx::datum::DatumWithOid;
use pgrx::{Spi, pg_sys};
use serde::Serialize;
use serde_json::{Map, Value};

use super::counters::{In, Totals};
use super::options::Options;
use super::sample::Estimate;
use crate::pg::encoding::{array_value, json_value, readable_value, text_value};
use crate::pg::identity::Use::{Reads, Writes};
use crate::pg::identity::as_owner;
use crate::pg::{lock, plan};

const RUN: &CStr = c"run";
const FAILURE: &CStr = c"failure";

/// The maximum length of a blobid that is recorded as it is: a longer one can't be a key of a B-tree index.
const MAX_KEY: usize = 256;

/// Marks runs whose leader no longer exists: nobody holds their advisory lock any more.
const MARK_INTERRUPTED: &str = "
UPDATE ntt_mime.run r
   SET status = 'interrupted', finished_at = coalesce(finished_at, clock_timestamp()),
       error = coalesce(error, 'its backend vanished, or could not write how it ended')
 WHERE r.status = 'running'
   AND NOT EXISTS (
       SELECT FROM pg_catalog.pg_locks l
        WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 3
          AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d
                             WHERE d.datname = pg_catalog.current_database())
          AND l.classid = $1 AND l.objid = (r.run_id & 4294967295)::pg_catalog.oid)";

/// Uses an index, so the time is computed once.
const REMOVE_OLD: &str = "
DELETE FROM ntt_mime.run
 WHERE status <> 'running'
   AND coalesce(finished_at, started_at) < (SELECT clock_timestamp() - pg_catalog.make_interval(secs => $1))";

/// Removes the run before $1 on the same target and of the same kind, if that also found nothing to do, and left the
/// same number of rows. If somebody has locked its row, it stays. Tables of versions up to 0.2.0 have no column
/// `kind`.
const REMOVE_IDLE: &str = "
WITH previous AS MATERIALIZED (
    SELECT p.*
      FROM ntt_mime.run r,
           LATERAL (SELECT o.run_id,
                           o.status = 'succeeded' AND o.rows_scanned = 0 AND o.rows_updated = 0
                           AND o.failures = r.failures AND o.rows_left = r.rows_left AS idle
                      FROM ntt_mime.run o
                     WHERE o.run_id < r.run_id AND o.target = r.target
                       AND pg_catalog.to_jsonb(o) -> 'kind' IS NOT DISTINCT FROM pg_catalog.to_jsonb(r) -> 'kind'
                       AND o.options -> 'dry_run' = r.options -> 'dry_run'
                     ORDER BY o.run_id DESC LIMIT 1) AS p
     WHERE r.run_id = $1)
DELETE FROM ntt_mime.run d
 USING (SELECT l.run_id FROM ntt_mime.run l
         WHERE l.run_id = (SELECT run_id FROM previous WHERE idle) FOR UPDATE SKIP LOCKED) AS removed
 WHERE d.run_id = removed.run_id";

const INSERT_RUN: &str = "
INSERT INTO ntt_mime.run (target, status, started_at, pid, role_name, options, workers, libmagic)
VALUES ($1, 'running', pg_catalog.now(), $2, $3, $4::pg_catalog.jsonb, $5, $6) RETURNING run_id";

/// For a verification, which versions up to 0.2.0 don't have.
const INSERT_VERIFICATION: &str = "
INSERT INTO ntt_mime.run (target, status, pid, role_name, options, workers, libmagic, kind)
VALUES ($1, 'running', $2, $3, $4::pg_catalog.jsonb, $5, $6, 'verify') RETURNING run_id";

const RUN_OF_PID: &str = "
SELECT max(run_id) FROM ntt_mime.run WHERE status = 'running' AND pid = $1";

/// From the newest run back to the first that says anything about root $1, a JSON string: whether it read from it, or
/// that the root was empty before. Runs of versions up to 0.2.0 recorded what they had read below their `blob_root`,
/// $2.
const RUN_THAT_READ: &str = "
SELECT CASE WHEN said.has_read THEN said.run_id END
  FROM (SELECT r.run_id, has_read
          FROM ntt_mime.run r,
               LATERAL (SELECT CASE WHEN r.options ? 'roots_read'
                                    THEN coalesce((r.options -> 'roots_read' ->> ($1::pg_catalog.jsonb #>> '{}'))::bigint > 0, false)
                                    ELSE r.bytes_read > 0 AND r.options -> 'blob_root' = $2::pg_catalog.jsonb
                                END) AS read (has_read)
         WHERE has_read OR r.options -> 'roots_empty' @> $1::pg_catalog.jsonb
         ORDER BY r.run_id DESC LIMIT 1) AS said";

const HOLDER: &str = "
SELECT l.pid FROM pg_catalog.pg_locks l
 WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 3
   AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d
                      WHERE d.datname = pg_catalog.current_database())
   AND l.classid = $1 AND l.objid = $2";

/// Which of the texts are recorded, by their positions in $1.
const KNOWN_FAILURES: &str = "
SELECT n.place, f.reason,
       f.reason = 'quarantined'
       OR NOT $2 AND f.last_seen > clock_timestamp() - pg_catalog.make_interval(secs => $3)
  FROM pg_catalog.unnest($1) WITH ORDINALITY AS n(blobid, place)
  JOIN ntt_mime.failure f ON f.blobid = n.blobid";

/// Uses an index of its own, since every statement that detects executes it.
const QUARANTINED: &CStr = c"
SELECT blobid, detail FROM ntt_mime.failure WHERE reason = 'quarantined'";

/// A blob may be listed twice, for example if two processes crashed on it.
const RECORD_FAILURES: &str = "
INSERT INTO ntt_mime.failure AS f (blobid, reason, detail, first_run_id, last_run_id)
SELECT DISTINCT ON (n.blobid) n.blobid, n.reason, n.detail, $1, $1
  FROM ROWS FROM (pg_catalog.unnest($2), pg_catalog.unnest($3), pg_catalog.unnest($4))
       AS n(blobid, reason, detail)
 ORDER BY n.blobid
    ON CONFLICT (blobid) DO UPDATE
   SET reason = excluded.reason, detail = excluded.detail, attempts = f.attempts + 1,
       last_run_id = excluded.last_run_id, last_seen = pg_catalog.now()
 WHERE f.reason <> 'quarantined' OR excluded.reason = 'quarantined'";

const FORGET_FAILURES: &str = "
DELETE FROM ntt_mime.failure f
 USING (SELECT blobid FROM ntt_mime.failure WHERE blobid = ANY ($1)
         ORDER BY blobid FOR UPDATE) AS resolved
 WHERE f.blobid = resolved.blobid AND f.reason <> 'quarantined'";

/// The columns of `ntt_mime.run` that change during a run, under the columns' names.
#[derive(Serialize, Default, Clone, Debug)]
pub struct RunRow {
    pub status: &'static str,
    pub workers: i32,
    pub leaves_total: i64,
    pub leaves_done: i64,
    pub blocks_total: i64,
    pub blocks_done: i64,
    /// Comes to the columns, and to the options.
    #[serde(skip)]
    pub totals: Totals,
    pub blobs: u64,
    /// Unknown until everything has been read.
    pub rows_left: Option<u64>,
    pub mime_counts: BTreeMap<String, u64>,
    /// Added to the options of the run.
    #[serde(skip)]
    pub options: Additions,
    pub error: Option<String>,
}

impl RunRow {
    /// Whether a run that ended like this found nothing to do, and was not kept from doing anything.
    fn is_idle(&self) -> bool {
        let found = [self.totals.rows_scanned, self.totals.rows_updated];
        self.status == "succeeded" && found == [0; 2] && self.rows_left.is_some()
    }

    /// All columns, and what comes to the options.
    fn columns(&self) -> (Map<String, Value>, Map<String, Value>) {
        let of = |data: Value| match data {
            Value::Object(members) => members,
            _ => unreachable!("of a struct"),
        };
        let plain = "plain data";
        let mut columns = of(serde_json::to_value(self).expect(plain));
        columns.extend(self.totals.of(In::Column));
        let mut options = of(serde_json::to_value(&self.options).expect(plain));
        options.extend(self.totals.of(In::Options));
        (columns, options)
    }
}

/// What is not in the columns of a run.
#[derive(Serialize, Default, Clone, Debug)]
pub struct Additions {
    /// Blobs read from each root of the store; see [`super::roots`].
    pub roots_read: BTreeMap<String, u64>,
    /// Roots that held no blobs when the run began.
    pub roots_empty: Vec<String>,
    /// Leaves that were skipped because nothing can have become pending there, or in a verification different from
    /// the detected type; see [`super::marks`].
    pub leaves_skipped: u64,
    /// Leaves in which that turned out to be wrong.
    pub marks_wrong: u64,
    #[serde(flatten)]
    pub verified: Option<Verified>,
}

/// What a verification has found.
#[derive(Serialize, Clone, Copy, Debug)]
pub struct Verified {
    /// Rows whose type has been compared with that of their blob.
    pub rows_checked: u64,
    /// Of these, those with another type, and those with the same type in another spelling.
    pub rows_different: u64,
    pub rows_spelled_otherwise: u64,
    /// What a sample says about all rows.
    pub estimate: Option<Estimate>,
}

/// As JSON.
fn json(data: &(impl Serialize + ?Sized)) -> DatumWithOid<'static> {
    json_value(&serde_json::to_string(data).expect("plain data"))
}

/// Executes a statement that writes to the extension's tables; an error calls them `what`.
pub(super) fn write(what: &str, sql: &str, arguments: &[DatumWithOid<'_>]) {
    Spi::connect_mut(|client| client.update(sql, None, arguments).map(|_| ()))
        .unwrap_or_else(|error| pgrx::error!("could not write {what}: {error}"));
}

fn run_sql(sql: &str, arguments: &[DatumWithOid<'_>]) {
    write("the run log", sql, arguments);
}

/// Marks runs that have been interrupted and removes those that are too old.
pub fn expire_runs() {
    as_owner(&[Writes(RUN)], || {
        let class = pg_sys::Oid::from(lock::RUN_CLASS);
        run_sql(MARK_INTERRUPTED, &[DatumWithOid::from(class)]);
        let age = crate::settings::run_history().as_secs_f64();
        run_sql(REMOVE_OLD, &[DatumWithOid::from(age)]);
    });
}

/// Writes the row of a new run; returns its run_id.
pub fn begin(target: &str, role: &str, options: &Options, libmagic: &str) -> i64 {
    let arguments = [
        text_value(target),
        DatumWithOid::from(crate::pg::latch::my_pid()),
        text_value(role),
        json(options),
        DatumWithOid::from(options.workers as i32),
        text_value(libmagic),
    ];
    let insert = match options.verify {
        Some(_) => INSERT_VERIFICATION,
        None => INSERT_RUN,
    };
    as_owner(&[Writes(RUN)], || {
        Spi::connect_mut(|client| {
            client
                .update(insert, Some(1), &arguments)
                .and_then(|table| table.first().get_one::<i64>())
        })
    })
    .ok()
    .flatten()
    .unwrap_or_else(|| pgrx::error!("could not begin a run"))
}

/// Updates the row of a run. If the run has found nothing to do, and the one before it neither, its row replaces the
/// earlier one: a schedule of once a minute leaves one row, not hundreds of thousands.
pub fn update(run_id: i64, row: &RunRow) {
    let (columns, options) = row.columns();
    let names: Vec<&str> = columns.keys().map(String::as_str).collect();
    // The pid, since an extension that has been dropped and made again while a run goes on begins anew with its numbers.
    let update = format!(
        "
UPDATE ntt_mime.run r
   SET ({}) = (n.{}), options = r.options || $3::pg_catalog.jsonb,
       finished_at = CASE WHEN n.status = 'running' THEN NULL ELSE clock_timestamp() END
  FROM pg_catalog.jsonb_populate_record(NULL::ntt_mime.run, $2::pg_catalog.jsonb) n
 WHERE r.run_id = $1 AND r.pid = pg_catalog.pg_backend_pid()",
        names.join(", "),
        names.join(", n.")
    );
    let arguments = [DatumWithOid::from(run_id), json(&columns), json(&options)];
    as_owner(&[Writes(RUN)], || {
        run_sql(&update, &arguments);
        if row.is_idle() {
            run_sql(REMOVE_IDLE, &arguments[..1]);
        }
    });
}

/// Who holds one of our advisory locks, and which run of that process is going on.
pub fn holder_of_target(target: pg_sys::Oid) -> (Option<i32>, Option<i64>) {
    let pid = lock_holder(lock::TARGET_CLASS, target.to_u32());
    let run_id = pid.and_then(|pid| {
        as_owner(&[Reads(RUN)], || {
            one::<i64>(RUN_OF_PID, &[DatumWithOid::from(pid)])
        })
    });
    (pid, run_id)
}

/// The last recorded run that has read blobs from this root; for versions up to 0.2.0, the last one with this
/// `blob_root`.
pub fn run_that_read(root: &str, blob_root: &str) -> Option<i64> {
    as_owner(&[Reads(RUN)], || {
        one::<i64>(RUN_THAT_READ, &[json(root), json(blob_root)])
    })
}

fn lock_holder(class: u32, key: u32) -> Option<i32> {
    let arguments = [
        DatumWithOid::from(pg_sys::Oid::from(class)),
        DatumWithOid::from(pg_sys::Oid::from(key)),
    ];
    as_owner(&[], || one::<i32>(HOLDER, &arguments))
}

fn one<T: pgrx::FromDatum + pgrx::IntoDatum>(
    sql: &str,
    arguments: &[DatumWithOid<'_>],
) -> Option<T> {
    Spi::connect(|client| {
        let table = client.select(sql, Some(1), arguments)?.first();
        if table.is_empty() {
            Ok(None)
        } else {
            table.get_one::<T>()
        }
    })
    .ok()
    .flatten()
}

/// A run that is going on: who started it, and the handle of its shared memory.
pub struct Running {
    /// None if the role no longer exists.
    pub role: Option<pg_sys::Oid>,
    pub handle: Option<u32>,
}

const RUNNING: &str = "
SELECT (SELECT a.oid FROM pg_catalog.pg_roles a WHERE a.rolname::pg_catalog.text = r.role_name),
       (SELECT h.objid FROM pg_catalog.pg_locks h
         WHERE h.locktype = 'advisory' AND h.granted AND h.objsubid = 3 AND h.pid = r.pid
           AND h.database = l.database AND h.classid = $2 LIMIT 1)
  FROM ntt_mime.run r
  LEFT JOIN pg_catalog.pg_locks l
    ON l.locktype = 'advisory' AND l.granted AND l.objsubid = 3 AND l.pid = r.pid
   AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d
                      WHERE d.datname = pg_catalog.current_database())
   AND l.classid = $3 AND l.objid = (r.run_id & 4294967295)::pg_catalog.oid
 WHERE r.run_id = $1";

/// Looks up a run to be cancelled. None: there is no such run.
pub fn running(run_id: i64) -> Option<Running> {
    let arguments = [
        DatumWithOid::from(run_id),
        DatumWithOid::from(pg_sys::Oid::from(lock::HANDLE_CLASS)),
        DatumWithOid::from(pg_sys::Oid::from(lock::RUN_CLASS)),
    ];
    as_owner(&[Reads(RUN)], || {
        Spi::connect(|client| -> pgrx::spi::Result<Option<Running>> {
            let row = client.select(RUNNING, Some(1), &arguments)?.first();
            if row.is_empty() {
                return Ok(None);
            }
            Ok(Some(Running {
                role: row.get::<pg_sys::Oid>(1)?,
                handle: row.get::<pg_sys::Oid>(2)?.map(|oid| oid.to_u32()),
            }))
        })
    })
    .unwrap_or_else(|error| pgrx::error!("could not read ntt_mime.run: {error}"))
}

/// The OIDs of all databases.
pub fn databases() -> Vec<u32> {
    const DATABASES: &str = "SELECT pg_catalog.array_agg(oid) FROM pg_catalog.pg_database";
    let oids = one::<Vec<pg_sys::Oid>>(DATABASES, &[]).unwrap_or_default();
    oids.into_iter().map(pg_sys::Oid::to_u32).collect()
}

/// The blobs in quarantine, each with its detail.
pub fn quarantined() -> Vec<(String, String)> {
    let mut found = Vec::new();
    as_owner(&[Reads(FAILURE)], || {
        plan::each_two_texts(QUARANTINED, |blobid, detail| found.push((blobid, detail)))
    });
    found
}

/// Whether any failure is recorded.
pub fn any_failure() -> bool {
    as_owner(&[Reads(FAILURE)], || {
        one::<bool>("SELECT true FROM ntt_mime.failure", &[])
    })
    .unwrap_or(false)
}

/// A recorded failure.
pub struct KnownFailure {
    pub reason: FailureReason,
    /// It is recent, or permanent, and must not be tried in this run.
    pub pass_over: bool,
}

/// A failure to be recorded.
pub struct NewFailure {
    pub blobid: String,
    pub reason: FailureReason,
    pub detail: String,
}

impl NewFailure {
    /// Whether a root that isn't mounted would look like this.
    pub fn may_be_of_store(&self) -> bool {
        use FailureReason::{Missing, Unreadable};
        matches!(self.reason, Missing | Unreadable)
    }
}

/// The recorded failures among `blobids`.
pub fn known_failures(options: &Options, blobids: &[String]) -> HashMap<String, KnownFailure> {
    let arguments = [
        array_value(blobids.iter().map(String::as_str), text_value),
        DatumWithOid::from(options.retry_failed),
        DatumWithOid::from(options.retry_failures_after_s as f64),
    ];
    let mut known = HashMap::new();
    as_owner(&[Reads(FAILURE)], || {
        Spi::connect(|client| -> pgrx::spi::Result<()> {
            for row in client.select(KNOWN_FAILURES, None, &arguments)? {
                // Counted from 1.
                let place = row.get::<i64>(1)?.unwrap_or_default() as usize;
                let reason = row.get::<String>(2)?.unwrap_or_default();
                let failure = KnownFailure {
                    reason: reason.parse().unwrap_or(FailureReason::Error),
                    pass_over: row.get::<bool>(3)?.unwrap_or(false),
                };
                known.extend(
                    blobids
                        .get(place.wrapping_sub(1))
                        .map(|text| (text.clone(), failure)),
                );
            }
            Ok(())
        })
    })
    .unwrap_or_else(|error| pgrx::error!("could not read ntt_mime.failure: {error}"));
    known
}

/// Records failures, and removes those of blobs that have been detected. What is in quarantine stays there.
pub fn record_failures(run_id: i64, failed: &[NewFailure], resolved: &[String]) {
    as_owner(&[Writes(FAILURE)], || {
        if !failed.is_empty() {
            let blobids = failed.iter().map(|f| f.blobid.as_str());
            let reasons = failed.iter().map(|f| f.reason.as_str());
            let details = failed.iter().map(|f| f.detail.as_str());
            let arguments = [
                DatumWithOid::from(run_id),
                array_value(blobids, text_value),
                array_value(reasons, text_value),
                array_value(details, readable_value),
            ];
            run_sql(RECORD_FAILURES, &arguments);
        }
        if !resolved.is_empty() {
            let resolved = resolved.iter().map(String::as_str);
            run_sql(FORGET_FAILURES, &[array_value(resolved, text_value)]);
        }
    });
}

/// The key under which a text that isn't a blobid is recorded: the text, or its beginning and a hash.
pub fn failure_key(text: &str) -> String {
    use sha2::{Digest, Sha256};
    if text.len() <= MAX_KEY {
        return text.to_owned();
    }
    let beginning: String = text.chars().take(MAX_KEY / 8).collect();
    let hash = BlobId::from_bytes(Sha256::digest(text.as_bytes()).into());
    format!("{beginning}... (sha256 {hash})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_keys_are_cut_and_stay_distinct() {
        let long = "é".repeat(1000);
        let key = failure_key(&long);
        assert!(key.len() < MAX_KEY && key.starts_with('é'));
        assert_ne!(key, failure_key(&(long + "x")));
        assert_eq!(failure_key("short"), "short");
    }
}
