//! The table `ntt_mime.leaf` of marks, by which a run skips leaves in which nothing can have become pending. And the
//! table `ntt_mime.verified_leaf`, by which a verification skips leaves in which all rows have the detected type.
//!
//! A leaf gets a mark when a run has read all of it and finished it. The mark says what is pending there, nearly
//! always nothing, and has everything that is needed to tell from outside that this is still so. The leaves are
//! listed by one statement, which compares the marks with the catalogs and the server's counters, and returns the
//! leaves without a valid mark. If a leaf has a valid mark, nothing of it is read, neither a block nor its entry in
//! the relation cache.
//!
//! # Why a valid mark is true
//!
//! A row can become pending in a leaf by being inserted or updated there, or otherwise if the leaf gets another file
//! or other columns. Files and columns are compared with the catalogs: the file by tablespace and relfilenumber
//! (TRUNCATE, VACUUM FULL, CLUSTER, an ALTER TABLE that rewrites; COPY with FREEZE works only on files of its own
//! transaction), the columns by their numbers, which are never reused: a column that is dropped and added again has
//! another number, and so has one that is renamed to its name. The server counts inserts and updates, whether the
//! transaction commits or not. The mark has the counters as they were *before* the leaf was read, that is, before the
//! snapshot of any read of it. A backend publishes its counts after its transaction has left the array of running
//! transactions ([`crate::pg::stats`]). So:
//!
//! - What is counted in a mark was visible when the leaf was read.
//! - What wasn't visible then (because it was in progress, prepared, rolled back later, or committed a moment after)
//!   is counted later: then the counters differ from the mark. COMMIT PREPARED counts what its transaction has
//!   written, after that has become visible; a worker of logical replication counts as any backend does.
//! - Counters only grow as long as the epoch is the same ([`crate::pg::epoch`]), so they never return to an earlier
//!   value.
//!
//! A change can be noticed late, but never lost. Late means until the writer's backend has published: usually at
//! once, when it becomes idle; after ten seconds if it has published within the second before; after a minute if it
//! goes on working; and longer only if it commits in a procedure without end, or applies logical replication and
//! receives nothing further but keepalive messages. What this session has not published yet is known here, and added.
//! And if reading all leaves takes a second at most, they are all read while a session's counters may be late
//! ([`super::leader`]), so that nobody has to wait for a small table.
//!
//! What a run has written itself is subtracted, as it is between its own passes ([`super::leader`]): for each UPDATE
//! its workers know how many rows it has processed. If something on the leaf could make the server count another
//! number (a rule, a row-level BEFORE trigger), a pass that has written to the leaf gives it no mark, but the next
//! pass that doesn't will. Marks are written when all workers have ended, and so have published their counts; a leaf
//! whose counters are not as the run has left them gets none.
//!
//! Looking up two columns of each leaf would take longer than everything else. So a mark also has a number, the
//! *shape*, that stands for everything on which the column numbers depend ([`crate::pg::shape`]). While it is the
//! same, so are the numbers; otherwise they are looked up.
//!
//! # What is left pending
//!
//! Rows whose blobs could not be detected stay pending, so a mark names these blobs. It is valid as long as each of
//! them is recorded in `ntt_mime.failure` and would be skipped. Whatever makes one due again (time, an argument, a
//! setting, a row that was deleted or changed there, its detection in another leaf) also makes the leaf be read. A
//! row that stays pending for another reason, such as a type that is too long for the column or a trigger that
//! suppresses its update, isn't recorded, and its leaf has no mark. After rows have been deleted, the number of those
//! left isn't known, so the counter of deleted rows must be the same as well.
//!
//! # When there are no marks
//!
//! - `track_counts` is off in the session of the run: what it does would not be counted, and it is probably off in
//!   other sessions as well. (If a superuser's session has turned it off only for itself, its changes aren't counted,
//!   and nothing but reading the leaf can find them.)
//! - Row security applies to the caller, who sees only a part of the rows.
//! - The access method isn't heap: what it counts is up to it.
//! - `blobid` is computed when it is read.
//! - A dry run writes no marks.
//!
//! A role that may run a backfill can't forge any of this: it can't write to the table, turn counting off, or reset
//! counters.
//!
//! # Marks of a verification
//!
//! A verification marks a leaf if it has compared all rows that have a type, and all have the detected one in exactly
//! the same spelling, including those that it has corrected. A leaf with rows that differ gets no mark: a later
//! verification has to find them, to correct or to count them, and the blobs that they share with rows of other
//! leaves can't be counted leaf by leaf. So a check that was cancelled goes on with the leaves that it hadn't reached
//! and those with differences; a correction that was cancelled goes on where it was.
//!
//! What is said above also holds for these marks, with two differences. A verification ignores rows that were written
//! after it began (see [`Horizon`](crate::pg::xids::Horizon)), although they are visible when it reads the leaf. So
//! the counters that matter are those of all leaves before that moment ([`super::leader`]): what was counted then was
//! visible at that moment, and what wasn't is counted later. And nobody counts the new row versions that ALTER TABLE
//! writes into another file, so the file must be the one that the leaf had at that moment. Where the transaction
//! can't know the moment (too many subtransactions, or an older snapshot), there are no marks.
//!
//! Another detector may find other types, so a mark is valid for one release of libmagic, one magic database by its
//! content, and one version of this extension ([`crate::detect::identity`]). If a worker has loaded another one than
//! the leader, as during an upgrade, the run writes no marks; nor does it after an audit that finds a difference. The
//! store doesn't matter: a blob is named by its content. With `only_types` a verification checks a part of the rows;
//! it skips leaves that have been verified as a whole, but marks none. A sample is taken of all leaves.
//!
//! If blobs of a leaf could not be detected, its mark names them, and is valid under the same conditions as above.
//!
//! # The tables
//!
//! They are unlogged: after a crash, in which counters are lost, they are empty, and so they are in a copy or a
//! standby.
//!
//! # Because an argument is no proof
//!
//! A leaf that was last read longer than `ntt_mime.full_scan_after` ago is read anyway. So that this doesn't happen
//! to all leaves at once, each has its own time between half of that and all of it, derived from its OID. If rows are
//! found pending that a valid mark doesn't know of, a WARNING names the leaf.

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

/// What marks say about their leaves.
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

    /// The same, qualified with its schema.
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

/// A statement below, for one kind of mark: `{marks}` is its table, and what is between `{verified:` and `}` is only
/// for verifications.
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

/// Follows [`TREE`]. $4 is the epoch, $5 the database's tablespace, $6 and $8 the settings `full_scan_after` and
/// `retry_failures_after` in seconds, $7 the argument `retry_failed`, $9 leaves that are returned whatever their
/// marks say, $10 the detector. Leaves that are skipped and have rows left are returned as well, with nothing but
/// their OIDs. The last row is about all skipped leaves, and has no OID: their number, their rows left, their blocks,
/// when the first of them was read, in seconds since 1970, and how many marks belong to other tables.
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

/// A run over another target may be at the same leaves, so all write in the order of their OIDs.
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

/// Counts the blobs that could not be detected and whose rows are left in leaves ($1), without those in $2.
const COUNT_UNDETECTED: &str = "
SELECT count(DISTINCT left_over.blobid)
  FROM {marks} m, pg_catalog.unnest(m.blobids) AS left_over (blobid)
 WHERE m.leaf_oid = ANY ($1)
   AND NOT EXISTS (SELECT FROM pg_catalog.unnest($2) AS known (blobid) WHERE known.blobid = left_over.blobid)";

const REMOVE: &str = "
DELETE FROM {marks} d
 USING (SELECT l.leaf_oid FROM {marks} l WHERE l.leaf_oid = ANY ($1) ORDER BY l.leaf_oid FOR UPDATE) AS o
 WHERE d.leaf_oid = o.leaf_oid";

/// Rows that somebody has locked are left to another run.
const REMOVE_DROPPED: &str = "
DELETE FROM {marks} d
 USING (SELECT l.leaf_oid FROM {marks} l
         WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = l.leaf_oid AND c.relkind = 'r')
           FOR UPDATE SKIP LOCKED) AS o
 WHERE d.leaf_oid = o.leaf_oid";

/// Leaves that are written by one statement.
const LEAVES_PER_STATEMENT: usize = 10_000;

/// How a run decides which marks are valid.
#[derive(Debug)]
pub struct Marks {
    kind: Kind,
    /// Whether the run may write marks.
    records: bool,
    epoch: i64,
    /// The time of the decision, in seconds since 1970: before any leaf is read.
    time: f64,
    full_scan_after: f64,
    retry_failed: bool,
    retry_failures_after: f64,
}

/// A leaf that a run has finished.
pub struct Done<'l> {
    pub state: LeafState,
    /// The blobs whose rows are left.
    pub blobids: &'l [String],
}

impl Marks {
    /// None if the run has to do without marks. Must be called inside a transaction.
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

    /// Makes this run believe no mark.
    pub fn distrust(&mut self) {
        self.full_scan_after = 0.0;
    }

    /// Makes this run write no marks.
    pub fn record_none(&mut self) {
        self.records = false;
    }

    /// Whether this run writes marks.
    pub fn records(&self) -> bool {
        self.records
    }

    /// The detector to which marks belong; None for a backfill's.
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

    /// The arguments of that statement from $3 on.
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

    /// Writes marks, and removes those of other leaves. Must be called inside a (sub)transaction with a snapshot.
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

    /// Counts the blobs that could not be detected and whose rows are left in these leaves, without those that are
    /// `known`. Must be called inside a (sub)transaction with a snapshot.
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

    /// Removes marks of tables that no longer exist. Must be called inside a (sub)transaction with a snapshot.
    pub fn remove_dropped(&self) {
        as_owner(&[Writes(self.kind.table())], || {
            self.execute(REMOVE_DROPPED, &[])
        });
    }
}

fn oids(oids: impl Iterator<Item = u32>) -> Vec<pg_sys::Oid> {
    oids.map(pg_sys::Oid::from).collect()
}
