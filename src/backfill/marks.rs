//! The table `ntt_mime.leaf`: marks, by which a run passes over leaves in which nothing can have become pending. And the
//! table `ntt_mime.verified_leaf`, by which a verification does so with leaves in which all rows have the detected type.
//!
//! A leaf gets a mark when a run has seen all of it and is done with it. The mark says what is pending there, nearly always
//! nothing, and holds all by which it can be told from outside that this is still so. The leaves are listed in one
//! statement that compares the marks with the catalogs and the server's counters, and returns the leaves without a valid
//! mark. Nothing of a leaf with one is read, neither a block nor its entry in the relation cache.
//!
//! # Why a valid mark is true
//!
//! A row can become pending in a leaf by being inserted or updated there, or without that: the leaf gets another file, or
//! the two columns become others. Files and columns are compared with the catalogs: the file by tablespace and number
//! (TRUNCATE, VACUUM FULL, CLUSTER, an ALTER TABLE that rewrites; COPY with FREEZE is for files of its own transaction
//! only), the columns by their numbers, which are never used twice: a column that is dropped and added again has another
//! one, and so has one that is renamed to its name. What is inserted or updated the server counts, whether the transaction
//! commits or not; the mark holds the counters as they were *before* the look, so that comes before the snapshot of any
//! look at the leaf. A backend publishes what it has counted after its transaction has left the array of running
//! transactions ([`crate::pg::stats`]). So:
//!
//! - What is counted in a mark was visible to the look.
//! - What wasn't visible to it (it went on, was prepared, was rolled back later, or committed a moment after) is counted
//!   later: then the counters aren't those of the mark any more. COMMIT PREPARED counts what its transaction has written,
//!   after that has become visible; a worker of logical replication counts as any backend does.
//! - Counters only grow, as long as the epoch is the same ([`crate::pg::epoch`]), so they never come back to what they were.
//!
//! A change can be noticed late, never lost. Late is until the writer's backend has published: as a rule at once, when
//! it becomes idle; after ten seconds if it had published within the second before, a minute if it goes on working, and
//! longer only if it commits in a procedure without end, or applies what logical replication brings and nothing else comes
//! but messages that there is nothing. What this session has not published yet is known here, and added. And where it
//! takes a second at most, all leaves are looked at if there is a session whose counters may be late
//! ([`super::leader`]), so that a small table needs no patience.
//!
//! What a run has written itself is subtracted, as for its own passes ([`super::leader`]): its workers know of each UPDATE
//! how many rows it has processed. Where something else is at the leaf that could make this another number than the server
//! counts (a rule, a trigger before each row), the leaf gets no mark from a look at which it was written to, but from the
//! next one. And marks are written when all workers have ended, and so have published; a leaf whose
//! counters aren't as the run has left them gets none.
//!
//! To look up two columns of each leaf takes longer than all the rest. So a mark also holds a number, the *shape*, that
//! stands for all on which the numbers of the columns depend ([`crate::pg::shape`]). As long as that is the same, so are these;
//! if it isn't, they are looked up.
//!
//! # What is left pending
//!
//! Rows of blobs that could not be detected stay pending, so a mark names these blobs. It is valid as long as each of
//! them is on record in `ntt_mime.failure` and would be passed over: whatever makes one to be tried again (time, an
//! argument, a setting, a row that was deleted or changed there, its detection in another leaf) has the leaf looked at. A
//! row that stays pending for another reason, a type that is too long for the column, a trigger that suppresses its update,
//! isn't on record, and its leaf has no mark. If rows were deleted, the number of those left isn't known: then this
//! counter has to be the same as well.
//!
//! # When there are no marks
//!
//! `track_counts` is off in the session of the run: what it did would not be counted, and in others it is likely off as
//! well. (Off elsewhere, in a session of a superuser's, it keeps changes from being counted, which nothing but a look can
//! find.) Row security applies to the caller, who sees only a part of the rows. Another access method than heap: what that
//! counts is its own affair. A `blobid` that is computed when it is read. A dry run writes none. Nothing in here can be
//! faked by a role that may run a backfill: it can't write to the table, switch counting off, or reset counters.
//!
//! # Marks of a verification
//!
//! A verification marks a leaf if it has compared all rows that have a type, and all have the detected one, in its very
//! spelling, those that it has corrected among them. A leaf with rows that differ has no mark: a later verification has to
//! find them, to correct them or to count them, and the blobs that they have in common with others' rows can't be counted
//! leaf by leaf. So a check that was cancelled goes on with the leaves that it hadn't come to and those with differences;
//! a correction that was cancelled goes on where it was.
//!
//! What holds of the marks above holds of these, with two differences. A verification doesn't look at rows that were
//! written after it began (its [`Horizon`](crate::pg::xids::Horizon)), which a look at the leaf would see. So what counts
//! is what was counted before that moment, of all leaves ([`super::leader`]): what was counted then was visible at the moment, what was not is counted later. And since new versions of rows that ALTER TABLE writes
//! into another file are counted by nobody, the file has to be the one that the leaf had then. Where the
//! moment isn't known to the transaction (too many subtransactions, or a snapshot that is older than it), there are no marks.
//!
//! Another detector may find other types: a mark is for one release of libmagic, one database by its content, one version
//! of this extension ([`crate::detect::identity`]). A worker that has loaded another one than the leader has seen, as after an
//! upgrade in this moment, leaves the run without marks, and so does an audit that finds a difference. The store is no part
//! of it: a blob is named by its content. With `only_types` a verification looks at a part of the rows, and passes
//! over what has been verified as a whole, but marks nothing. A sample has to have all leaves.
//!
//! A leaf of which blobs could not be detected is marked with these, and valid under the same conditions as above.
//!
//! # The tables
//!
//! They are unlogged: after a crash, in which counters are lost, they are empty, and so they are in a copy or a standby.
//!
//! # And because no argument is a proof
//!
//! A leaf whose last look is older than `ntt_mime.full_scan_after` is looked at all the same. So that these looks don't come
//! all at once, each leaf has a time of its own, from half of that to all of it, by its oid. A leaf in which
//! rows are found pending that its mark doesn't know of, though everything else is as the mark says, is told
//! of in a WARNING.

use std::collections::HashSet;
use std::ffi::CStr;

use ntt_mime_core::task_queue::LeafState;
use pgrx::datum::DatumWithOid;
use pgrx::{Spi, pg_sys};

use super::options::{Options, Verify};
use super::run_log::write;
use super::target::{TREE, Target};
use crate::pg::encoding::{array_value, text_value};
use crate::pg::identity::Use::{Reads, Writes};
use crate::pg::identity::{self, Use, as_owner};
use crate::pg::{epoch, shape, stats};

/// What marks say of their leaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// Nothing can have become pending.
    Filled,
    /// All rows have the type that this detector finds.
    Verified { detector: i64 },
}

impl Kind {
    /// The name of their table.
    fn table(self) -> &'static CStr {
        match self {
            Kind::Filled => c"leaf",
            Kind::Verified { .. } => c"verified_leaf",
        }
    }

    /// The same with its schema.
    fn qualified(self) -> &'static str {
        match self {
            Kind::Filled => "ntt_mime.leaf",
            Kind::Verified { .. } => "ntt_mime.verified_leaf",
        }
    }

    fn detector(self) -> Option<i64> {
        match self {
            Kind::Filled => None,
            Kind::Verified { detector } => Some(detector),
        }
    }
}

/// A statement below for one kind, where {marks} is its table. What is between {verified: and } is for verifications.
fn sql(template: &str, kind: Kind) -> String {
    let verified = kind.detector().is_some();
    let mut parts = template.split("{verified:");
    let mut sql = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (only, rest) = part.split_once('}').expect("our own templates");
        sql.push_str(if verified { only } else { "" });
        sql.push_str(rest);
    }
    sql.replace("{marks}", kind.qualified())
}

/// Follows on [`TREE`]. $4 is the epoch, $5 the database's tablespace, $6 and $8 the settings `full_scan_after` and
/// `retry_failures_after` in seconds, $7 the argument `retry_failed`, $9 leaves that are returned whatever their marks say,
/// $10 the detector.
/// Leaves that are passed over and have rows left are returned as well, by their oids alone.
/// The last row is about all the leaves that are passed over, and has no oid: their number, their rows left, their blocks, and
/// when the first of them was looked at, in seconds since 1970; and how many marks there are of other tables.
const LIST: &str = "
, present AS (SELECT pg_catalog.clock_timestamp() AS time)
, parted AS MATERIALIZED (
SELECT l.*, (l.unchanged AND l.recent AND NOT l.again
       AND (l.rows_left = 0
            OR NOT EXISTS (
               SELECT FROM {marks} m, pg_catalog.unnest(m.blobids) AS left_over (blobid)
                WHERE m.leaf_oid = l.oid AND NOT EXISTS (
                      SELECT FROM ntt_mime.failure f
                       WHERE f.blobid = left_over.blobid
                         AND (f.reason = 'quarantined'
                              OR NOT $7
                              AND f.last_seen > (SELECT time FROM present) - pg_catalog.make_interval(secs => $8))))))
           IS TRUE AS passed_over
  FROM (
SELECT t.*, m.leaf_oid IS NOT NULL AS marked, m.tuples_written, m.rows_left, m.blocks, m.looked_at,
       again.oid IS NOT NULL AS again,
       (m.leaf_oid IS NOT NULL AND t.relkind = 'r' AND t.relam = 2 AND m.epoch = $4{verified: AND m.detector = $10}
       AND m.relfilenode = t.relfilenode
       AND m.reltablespace = CASE t.reltablespace WHEN 0 THEN $5 ELSE t.reltablespace END
       AND pg_catalog.pg_stat_get_tuples_inserted(t.oid) + pg_catalog.pg_stat_get_tuples_updated(t.oid)
           + pg_catalog.pg_stat_get_xact_tuples_inserted(t.oid) + pg_catalog.pg_stat_get_xact_tuples_updated(t.oid)
           = m.tuples_written
       AND (m.rows_left = 0
            OR pg_catalog.pg_stat_get_tuples_deleted(t.oid) + pg_catalog.pg_stat_get_xact_tuples_deleted(t.oid)
               = m.tuples_deleted)
       AND (m.shape = t.shape
            OR 'blobid' = (SELECT a.attname FROM pg_catalog.pg_attribute a
                            WHERE a.attrelid = t.oid AND a.attnum = m.blobid_attnum)
               AND 'mime_type' = (SELECT a.attname FROM pg_catalog.pg_attribute a
                                   WHERE a.attrelid = t.oid AND a.attnum = m.mime_type_attnum)))
           IS TRUE AS unchanged,
       m.looked_at <= (SELECT time FROM present)
       AND m.looked_at > (SELECT time FROM present) - pg_catalog.make_interval(
               secs => $6 * (0.5 + (pg_catalog.hashoid(t.oid) & 1023) / 2048.0)) AS recent
  FROM tree t LEFT JOIN {marks} m ON m.leaf_oid = t.oid
  LEFT JOIN pg_catalog.unnest($9) AS again (oid) ON again.oid = t.oid
 WHERE t.relkind <> 'p'
OFFSET 0) AS l)
SELECT p.oid, p.relpages, CASE p.relkind WHEN 'r' THEN a.amhandler::pg_catalog.oid END,
       p.relfilenode, p.reltablespace, p.marked,
       CASE WHEN p.unchanged THEN p.tuples_written END, CASE WHEN p.unchanged THEN p.rows_left END,
       NULL::bigint, NULL::bigint, NULL::float8
  FROM parted p LEFT JOIN pg_catalog.pg_am a ON a.oid = p.relam
 WHERE NOT p.passed_over
UNION ALL
SELECT p.oid, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
  FROM parted p WHERE p.passed_over AND p.rows_left > 0
UNION ALL
SELECT NULL, NULL, NULL, NULL, NULL, NULL,
       count(*) FILTER (WHERE p.passed_over),
       coalesce(sum(p.rows_left) FILTER (WHERE p.passed_over), 0)::bigint,
       coalesce(sum(p.blocks) FILTER (WHERE p.passed_over), 0)::bigint,
       (SELECT count(*) FROM {marks}) - count(*) FILTER (WHERE p.marked),
       pg_catalog.date_part('epoch', min(p.looked_at) FILTER (WHERE p.passed_over))
  FROM parted p";

/// A run over another target may be at the same leaves: in the order of their oids.
const RECORD: &str = "
INSERT INTO {marks} AS l
       (leaf_oid, reltablespace, relfilenode, blobid_attnum, mime_type_attnum, shape, tuples_written, tuples_deleted,
        rows_left, blocks, blobids, looked_at, epoch{verified:, detector})
SELECT n.oid, n.reltablespace, n.relfilenode, n.blobid, n.mime_type, n.shape, n.written, n.deleted, n.rows_left, n.blocks,
       left_over.blobids, pg_catalog.to_timestamp($13), $14{verified:, $15}
  FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3), pg_catalog.unnest($4),
                  pg_catalog.unnest($5), pg_catalog.unnest($6), pg_catalog.unnest($7), pg_catalog.unnest($8), pg_catalog.unnest($9),
                  pg_catalog.unnest($10))
       AS n (oid, reltablespace, relfilenode, blobid, mime_type, shape, written, deleted, rows_left, blocks)
  LEFT JOIN (SELECT b.oid, pg_catalog.array_agg(b.blobid) AS blobids
               FROM ROWS FROM (pg_catalog.unnest($11), pg_catalog.unnest($12)) AS b (oid, blobid)
              GROUP BY b.oid) AS left_over ON left_over.oid = n.oid
 ORDER BY n.oid
    ON CONFLICT (leaf_oid) DO UPDATE
   SET reltablespace = excluded.reltablespace, relfilenode = excluded.relfilenode,
       blobid_attnum = excluded.blobid_attnum, mime_type_attnum = excluded.mime_type_attnum, shape = excluded.shape,
       tuples_written = excluded.tuples_written, tuples_deleted = excluded.tuples_deleted,
       rows_left = excluded.rows_left, blocks = excluded.blocks, blobids = excluded.blobids, looked_at = excluded.looked_at,
       epoch = excluded.epoch{verified:, detector = excluded.detector}";

/// The blobs that could not be detected whose rows are left in leaves ($1), but for some ($2).
const COUNT_UNDETECTED: &str = "
SELECT count(DISTINCT left_over.blobid)
  FROM {marks} m, pg_catalog.unnest(m.blobids) AS left_over (blobid)
 WHERE m.leaf_oid = ANY ($1)
   AND NOT EXISTS (SELECT FROM pg_catalog.unnest($2) AS known (blobid) WHERE known.blobid = left_over.blobid)";

const REMOVE: &str = "
DELETE FROM {marks} d
 USING (SELECT l.leaf_oid FROM {marks} l WHERE l.leaf_oid = ANY ($1) ORDER BY l.leaf_oid FOR UPDATE) AS o
 WHERE d.leaf_oid = o.leaf_oid";

/// What somebody holds is left to another run.
const REMOVE_DROPPED: &str = "
DELETE FROM {marks} d
 USING (SELECT l.leaf_oid FROM {marks} l
         WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = l.leaf_oid AND c.relkind = 'r')
           FOR UPDATE SKIP LOCKED) AS o
 WHERE d.leaf_oid = o.leaf_oid";

/// Leaves that are written in one statement.
const LEAVES_PER_STATEMENT: usize = 10_000;

/// What tells, in a run, which marks are valid.
#[derive(Debug)]
pub struct Marks {
    kind: Kind,
    /// The run may write some.
    records: bool,
    epoch: i64,
    /// When it was asked for, in seconds since 1970: before any look.
    time: f64,
    full_scan_after: f64,
    retry_failed: bool,
    retry_failures_after: f64,
}

/// A leaf that a run is done with.
pub struct Done<'l> {
    pub state: LeafState,
    /// The blobs whose rows are left.
    pub blobids: &'l [String],
}

impl Marks {
    /// None if the run has to go without. Inside a transaction.
    pub fn new(options: &Options, target: &Target) -> Option<Marks> {
        let kind = match &options.verify {
            None => Kind::Filled,
            Some(verify) if verify.sample_percent < 100.0 => return None,
            Some(_) => Kind::Verified {
                detector: crate::detect::identity(options.detector())?,
            },
        };
        let whole = |verify: &Verify| verify.only_types.is_none();
        let usable =
            stats::are_kept() && !target.row_security && identity::has_own_table(kind.table());
        usable.then(|| Marks {
            kind,
            records: !options.dry_run && options.verify.as_ref().is_none_or(whole),
            epoch: epoch::now(),
            time: std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .map_or(0.0, |time| time.as_secs_f64()),
            full_scan_after: options.full_scan_after_s as f64,
            retry_failed: options.retry_failed,
            retry_failures_after: options.retry_failures_after_s as f64,
        })
    }

    /// No mark is to be believed in this run.
    pub fn distrust(&mut self) {
        self.full_scan_after = 0.0;
    }

    /// This run writes none.
    pub fn record_none(&mut self) {
        self.records = false;
    }

    /// Does this run write any?
    pub fn records(&self) -> bool {
        self.records
    }

    /// The detector that marks are for; None of a backfill's.
    pub fn detector(&self) -> Option<i64> {
        self.kind.detector()
    }

    /// The tables that [`Marks::list_sql`] reads.
    pub fn reads(&self) -> [Use; 2] {
        [Reads(self.kind.table()), Reads(c"failure")]
    }

    /// The statement that lists leaves.
    pub fn list_sql(&self) -> String {
        format!("{TREE}{}", sql(LIST, self.kind))
    }

    /// Its arguments from $3 on.
    pub fn list_arguments(&self, target: &Target, always: &[u32]) -> Vec<DatumWithOid<'static>> {
        // SAFETY: set once at connection start.
        let tablespace = unsafe { pg_sys::MyDatabaseTableSpace };
        let mut arguments = vec![
            DatumWithOid::from(shape::of_target(target.oid)),
            DatumWithOid::from(self.epoch),
            DatumWithOid::from(tablespace),
            DatumWithOid::from(self.full_scan_after),
            DatumWithOid::from(self.retry_failed),
            DatumWithOid::from(self.retry_failures_after),
            DatumWithOid::from(oids(always.iter().copied())),
        ];
        arguments.extend(self.kind.detector().map(DatumWithOid::from));
        arguments
    }

    /// Writes marks, and removes those of other leaves. Inside a (sub)transaction with a snapshot.
    pub fn record(&self, done: &[Done<'_>], without: &[u32]) {
        as_owner(&[Writes(self.kind.table())], || {
            for leaves in done.chunks(LEAVES_PER_STATEMENT) {
                self.write(leaves);
            }
            for leaves in without.chunks(LEAVES_PER_STATEMENT) {
                let leaves = DatumWithOid::from(oids(leaves.iter().copied()));
                self.execute(REMOVE, &[leaves]);
            }
        });
    }

    fn write(&self, leaves: &[Done<'_>]) {
        let states = || leaves.iter().map(|leaf| leaf.state);
        let numbers = |number: fn(LeafState) -> u64| -> DatumWithOid<'static> {
            let numbers: Vec<i64> = states().map(|state| number(state) as i64).collect();
            DatumWithOid::from(numbers)
        };
        let columns = |number: fn((i16, i16)) -> i16| -> DatumWithOid<'static> {
            let columns: Vec<i16> = states().map(|state| number(state.columns)).collect();
            DatumWithOid::from(columns)
        };
        let known = |shape: u64| (shape != 0).then_some(shape as i64);
        let shapes: Vec<Option<i64>> = states().map(|state| known(state.shape)).collect();
        let left = leaves.iter().flat_map(|leaf| {
            let blobids: HashSet<&str> = leaf.blobids.iter().map(String::as_str).collect();
            blobids.into_iter().map(|blobid| (leaf.state.oid, blobid))
        });
        let (of, blobids): (Vec<u32>, Vec<&str>) = left.unzip();
        let mut arguments = vec![
            DatumWithOid::from(oids(states().map(|state| state.oid))),
            DatumWithOid::from(oids(states().map(|state| (state.file >> 32) as u32))),
            DatumWithOid::from(oids(states().map(|state| state.file as u32))),
            columns(|(blobid, _)| blobid),
            columns(|(_, mime_type)| mime_type),
            DatumWithOid::from(shapes),
            numbers(|state| state.written),
            numbers(|state| state.deleted),
            numbers(|state| state.rows_left),
            numbers(|state| state.blocks.into()),
            DatumWithOid::from(oids(of.into_iter())),
            array_value(blobids, text_value),
            DatumWithOid::from(self.time),
            DatumWithOid::from(self.epoch),
        ];
        arguments.extend(self.kind.detector().map(DatumWithOid::from));
        self.execute(RECORD, &arguments);
    }

    fn execute(&self, template: &str, arguments: &[DatumWithOid<'_>]) {
        write(self.kind.qualified(), &sql(template, self.kind), arguments);
    }

    /// How many blobs could not be detected whose rows are left in these leaves, but for those that are `known`. Inside a
    /// (sub)transaction with a snapshot.
    pub fn count_undetected<'t>(
        &self,
        leaves: &[u32],
        known: impl IntoIterator<Item = &'t str>,
    ) -> u64 {
        let arguments = [
            DatumWithOid::from(oids(leaves.iter().copied())),
            array_value(known, text_value),
        ];
        let count = |client: &pgrx::spi::SpiClient<'_>| {
            client
                .select(
                    sql(COUNT_UNDETECTED, self.kind).as_str(),
                    Some(1),
                    &arguments,
                )?
                .first()
                .get_one::<i64>()
        };
        as_owner(&[Reads(self.kind.table())], || {
            Spi::connect(|client| count(client))
        })
        .unwrap_or_else(|error| pgrx::error!("could not read {}: {error}", self.kind.qualified()))
        .unwrap_or(0) as u64
    }

    /// Removes marks of tables that are no more. Inside a (sub)transaction with a snapshot.
    pub fn remove_dropped(&self) {
        as_owner(&[Writes(self.kind.table())], || {
            self.execute(REMOVE_DROPPED, &[])
        });
    }
}

fn oids(oids: impl Iterator<Item = u32>) -> Vec<pg_sys::Oid> {
    oids.map(pg_sys::Oid::from).collect()
}
