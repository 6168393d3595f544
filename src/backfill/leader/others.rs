//! What others have done since a moment of the run.
//!
//! That decides whether a leaf has to be looked at again: a loader may have put rows into one that the run was done with,
//! an UPDATE of the partition key moved them there. Three things are asked, from the surest to the cheapest:
//!
//! 1. Has anybody else committed anything? [`Moment::is_last`] knows by transaction ids ([`crate::pg::xids`]). If not,
//!    each leaf is as the run has left it.
//! 2. Which leaves have counters that are not what the run has made of them ([`crate::pg::stats`])? That is exact for all
//!    whose counters have been published.
//! 3. Who may have committed something that isn't published yet ([`Moment::unpublished`])? Nobody, if all sessions of
//!    this database have been doing nothing, or what they do now, since the moment. A process that has ended
//!    has published all. If it is nobody, the counters are exact; otherwise they may be late.

use pgrx::datum::DatumWithOid;
use pgrx::{Spi, pg_sys};

use crate::pg::identity::as_owner;
use crate::pg::{latch, tx, xids};

/// A session that becomes idle this long, in seconds, after a transaction of its has published it: it does so at most
/// once in that time (`PGSTAT_MIN_INTERVAL` in PostgreSQL's utils/activity/pgstat.c).
const PUBLISHED_WHEN_IDLE: f64 = 1.0;

/// The processes of this database, but for some ($1), that may have committed something between one moment ($2) and
/// another ($3) and have not published it. A session that has been idle for ten seconds has (`PGSTAT_IDLE_INTERVAL`), and
/// one that became idle outside a transaction a second after the second moment. A transaction that has begun before the
/// first one and goes on, which it does if it is idle, or has a snapshot or an id, has not committed; what came
/// before it is older. Of processes that tell nothing, nothing is known. The kinds left out change no table, or
/// are somebody's else who is in the list.
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
    /// Transaction ids that are over; None if that can't be told.
    over: Option<u32>,
    /// Of these, the run's own.
    own: u64,
    /// Microseconds, as PostgreSQL has it.
    clock: pg_sys::TimestampTz,
}

impl Moment {
    /// Of which nothing is known.
    pub fn unknown() -> Moment {
        Moment {
            over: None,
            own: 0,
            clock: 0,
        }
    }

    /// Now, `own` being the number of the run's transaction ids that are over.
    pub fn now(own: u64) -> Moment {
        // The clock first: what was committed before is seen by whoever looks afterwards.
        // SAFETY: reads the clock.
        let clock = unsafe { pg_sys::GetCurrentTimestamp() };
        let over = tx::in_subtransaction(xids::over);
        Moment { over, own, clock }
    }

    /// Has nobody else, in this cluster, committed anything between this moment and `now`? False if that isn't known.
    pub fn is_last(&self, now: &Moment) -> bool {
        match (self.over, now.over) {
            (Some(then), Some(over)) => xids::since(then, over) == now.own - self.own,
            _ => false,
        }
    }

    /// Processes, other than `ours`, that may have committed something between this moment and `then` which isn't in the
    /// counters yet.
    pub fn unpublished(&self, then: &Moment, ours: &[i32]) -> Vec<i32> {
        tx::in_subtransaction(|| unpublished(self.epoch(), then.epoch(), ours))
    }

    /// Seconds since 1970.
    fn epoch(&self) -> f64 {
        const DAYS: u32 = pg_sys::POSTGRES_EPOCH_JDATE - pg_sys::UNIX_EPOCH_JDATE;
        self.clock as f64 / 1e6 + f64::from(DAYS) * f64::from(pg_sys::SECS_PER_DAY)
    }
}

/// Are there sessions, other than this one, that may have committed something since a time, in seconds since 1970,
/// which isn't in the counters yet? Inside a subtransaction.
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
