//! What others have done since a moment of the run.
//!
//! That decides whether a leaf has to be read again: a loader may have added rows to a leaf that the run had
//! finished, or an UPDATE of the partition key may have moved rows into it. There are three questions, from the most
//! certain to the cheapest:
//!
//! 1. Has anybody else committed anything? [`Moment::is_last`] knows by transaction ids ([`crate::pg::xids`]). If
//!    not, each leaf is as the run has left it.
//! 2. Which leaves have counters that differ from what the run has done ([`crate::pg::stats`])? The answer is exact
//!    for everything that has been published.
//! 3. Who may have committed something that isn't published yet ([`Moment::unpublished`])? Nobody, if all sessions of
//!    this database have since done nothing, or only what they are doing now. A process that has ended has published
//!    everything. If there is nobody, the counters are exact; otherwise they may be late.

use pgrx::datum::DatumWithOid;
use pgrx::{Spi, pg_sys};

use crate::pg::identity::as_owner;
use crate::pg::{latch, tx, xids};

/// A session that becomes idle this many seconds after one of its transactions has published it: it publishes at most
/// once in that time (`PGSTAT_MIN_INTERVAL` in PostgreSQL's utils/activity/pgstat.c).
const PUBLISHED_WHEN_IDLE: f64 = 1.0;

/// The processes of this database, except $1, that may have committed something between the moments $2 and $3 and not
/// published it. A session that has been idle for ten seconds has published (`PGSTAT_IDLE_INTERVAL`), and so has one
/// that became idle outside a transaction a second after $3. A transaction that began before $2 and is still in
/// progress (it is if it is idle in transaction, or has a snapshot or an id) has not committed, and what the session
/// did before is older. Nothing is known about processes that report no activity. The kinds of processes left out
/// change no table, or act for a process that is in the list.
const UNPUBLISHED: &str = "
SELECT a.pid
  FROM pg_catalog.pg_stat_activity a
 WHERE a.datname = pg_catalog.current_database() AND a.pid <> ALL ($1)
   AND a.backend_type NOT IN ('autovacuum worker', 'parallel worker', 'walsender')
   AND CASE
       WHEN a.state = 'idle'
       THEN a.state_change < pg_catalog.to_timestamp($2) OR a.state_change > pg_catalog.to_timestamp($3 + $4)
            OR a.state_change < pg_catalog.clock_timestamp() - pg_catalog.make_interval(secs => 11)
       WHEN a.state IN ('idle in transaction', 'idle in transaction (aborted)')
       THEN a.xact_start < pg_catalog.to_timestamp($2)
       WHEN a.state IN ('active', 'fastpath function call')
       THEN a.xact_start < pg_catalog.to_timestamp($2) AND (a.backend_xid IS NOT NULL OR a.backend_xmin IS NOT NULL)
       END IS NOT TRUE";

/// A moment of the run, between two transactions of its leader.
#[derive(Clone, Copy)]
pub(super) struct Moment {
    /// The number of transaction ids that have ended; None if unknown.
    over: Option<u32>,
    /// The run's own ids among these.
    own: u64,
    /// PostgreSQL's timestamp, in microseconds.
    clock: pg_sys::TimestampTz,
}

impl Moment {
    /// A moment about which nothing is known.
    pub fn unknown() -> Moment {
        Moment {
            over: None,
            own: 0,
            clock: 0,
        }
    }

    /// The current moment; `own` is the number of the run's transaction ids that have ended.
    pub fn now(own: u64) -> Moment {
        // The clock is read first: what was committed earlier is visible to whoever looks afterwards. SAFETY: reads
        // the clock.
        let clock = unsafe { pg_sys::GetCurrentTimestamp() };
        let over = tx::in_subtransaction(xids::over);
        Moment { over, own, clock }
    }

    /// Whether nobody else in this cluster has committed anything between this moment and `now`. False if unknown.
    pub fn is_last(&self, now: &Moment) -> bool {
        match (self.over, now.over) {
            (Some(then), Some(over)) => xids::since(then, over) == now.own - self.own,
            _ => false,
        }
    }

    /// Processes, other than `ours`, that may have committed something between this moment and `then` that isn't in
    /// the counters yet.
    pub fn unpublished(&self, then: &Moment, ours: &[i32]) -> Vec<i32> {
        tx::in_subtransaction(|| unpublished(self.epoch(), then.epoch(), ours))
    }

    /// Seconds since 1970.
    fn epoch(&self) -> f64 {
        const DAYS: u32 = pg_sys::POSTGRES_EPOCH_JDATE - pg_sys::UNIX_EPOCH_JDATE;
        self.clock as f64 / 1e6 + f64::from(DAYS) * f64::from(pg_sys::SECS_PER_DAY)
    }
}

/// Whether there are sessions, other than this one, that may have committed something since a time, in seconds since
/// 1970, that isn't in the counters yet. Must be called inside a subtransaction.
pub fn may_be_late(since: f64) -> bool {
    let now = Moment {
        // SAFETY: reads the clock.
        clock: unsafe { pg_sys::GetCurrentTimestamp() },
        ..Moment::unknown()
    };
    !unpublished(since, now.epoch(), &[latch::my_pid()]).is_empty()
}

fn unpublished(since: f64, then: f64, ours: &[i32]) -> Vec<i32> {
    let arguments = [
        DatumWithOid::from(ours.to_vec()),
        DatumWithOid::from(since),
        DatumWithOid::from(then),
        DatumWithOid::from(PUBLISHED_WHEN_IDLE),
    ];
    let select = || {
        Spi::connect(|client| -> pgrx::spi::Result<Vec<i32>> {
            let rows = client.select(UNPUBLISHED, None, &arguments)?;
            rows.map(|row| Ok(row.get::<i32>(1)?.unwrap_or(0)))
                .collect()
        })
    };
    as_owner(&[], select)
        .unwrap_or_else(|error| pgrx::error!("could not read pg_stat_activity: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(over: Option<u32>, own: u64) -> Moment {
        Moment {
            over,
            own,
            clock: 0,
        }
    }

    #[test]
    fn own_transactions_are_no_others() {
        let then = moment(Some(1000), 5);
        assert!(then.is_last(&moment(Some(1000), 5)));
        assert!(then.is_last(&moment(Some(1007), 12)));
        assert!(!then.is_last(&moment(Some(1008), 12)));
        assert!(!then.is_last(&moment(None, 12)));
        assert!(!moment(None, 0).is_last(&then));
    }

    #[test]
    fn seconds_are_those_of_to_timestamp() {
        assert_eq!(moment(None, 0).epoch(), 946_684_800.0);
    }
}
