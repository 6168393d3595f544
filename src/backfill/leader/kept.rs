//! Rows that stay pending although the run has updated them: how many there are, in which leaves, and why.
//!
//! A trigger, a rule or a policy keeps them pending, otherwise they would have a type. Which of these it was isn't
//! known, so everything of the kind that a leaf has is named.

use std::cmp::Reverse;

use pgrx::datum::DatumWithOid;
use pgrx::{Spi, pg_sys};

use super::Leader;
use crate::errors::{NAMED, counted, counted_with};
use crate::pg::lock::plain_name;
use crate::pg::report::Report;
use crate::pg::{identity, tx};

/// What may keep rows of a leaf ($1) pending, if it is part of a target whose policies apply to the role ($2): rules,
/// row-level BEFORE triggers, policies; or if there are none, triggers that fire afterwards.
const CAUSES: &str = "
SELECT c.cause
  FROM (SELECT pg_catalog.min(a.rank) OVER () AS first, a.*
  FROM (SELECT 1 AS rank, 'rule \"' || r.rulename || '\"' AS cause, r.rulename AS name
          FROM pg_catalog.pg_rewrite r
         WHERE r.ev_class = $1 AND r.ev_type = '2' AND r.ev_enabled <> 'D'
        UNION ALL
        SELECT CASE t.tgtype & 3 WHEN 3 THEN 1 ELSE 2 END, 'trigger \"' || t.tgname || '\"', t.tgname
          FROM pg_catalog.pg_trigger t
         WHERE t.tgrelid = $1 AND NOT t.tgisinternal AND t.tgtype & 16 <> 0 AND t.tgenabled <> 'D'
        UNION ALL
        SELECT 1, 'row-level security', '' WHERE $2) AS a) AS c
 WHERE c.rank = c.first ORDER BY c.name";

/// Rows that stay pending after their update.
#[derive(Default)]
pub(super) struct KeptPending {
    /// In a verification they keep their earlier type.
    verify: bool,
    rows: u64,
    /// Some of their leaves: those with most of these rows, each with their number and the possible causes.
    leaves: Vec<(String, u64, Vec<String>)>,
    /// The number of all such leaves.
    count: usize,
}

impl Leader {
    /// The rows that have stayed pending after their update, as of the last time they were read. Reads the catalogs,
    /// so a commit must follow.
    pub(super) fn kept_pending(&self) -> KeptPending {
        let mut kept = self.leaves.kept_pending();
        if kept.is_empty() {
            return KeptPending::default();
        }
        kept.sort_unstable_by_key(|(oid, rows)| (Reverse(*rows), *oid));
        let policies = self.target.row_security;
        let describe = |(oid, rows): (u32, u64)| {
            let oid = pg_sys::Oid::from(oid);
            plain_name(oid).map(|name| (name, rows, causes(oid, policies)))
        };
        let rows = kept.iter().map(|(_, rows)| rows).sum();
        let count = kept.len();
        kept.truncate(NAMED);
        // All the work is done, so the run must not fail because of a missing name.
        let look = || identity::as_owner(&[], || kept.into_iter().filter_map(describe).collect());
        let leaves = tx::if_possible(look).unwrap_or_default();
        KeptPending {
            verify: self.options.verify.is_some(),
            rows,
            leaves,
            count,
        }
    }
}

fn causes(leaf: pg_sys::Oid, policies: bool) -> Vec<String> {
    let arguments = [DatumWithOid::from(leaf), DatumWithOid::from(policies)];
    Spi::connect(|client| -> pgrx::spi::Result<Vec<String>> {
        let rows = client.select(CAUSES, Some(NAMED as i64), &arguments)?;
        rows.map(|row| Ok(row.get::<String>(1)?.unwrap_or_default()))
            .collect()
    })
    .unwrap_or_default()
}

impl KeptPending {
    /// Raises a WARNING if there are any.
    pub(super) fn warn(&self) {
        if self.rows == 0 {
            return;
        }
        let message = match self.verify {
            false => {
                let rows = counted_with(self.rows, "row", ("is", "are"));
                format!("{rows} still pending after their update")
            }
            true => {
                let rows = counted_with(self.rows, "row", ("does", "do"));
                format!("{rows} not have the detected type after the update")
            }
        };
        let mut report = Report::warning(message);
        if let Some(detail) = self.detail() {
            report = report.set_detail(detail);
        }
        report
            .set_hint(match self.verify {
                false => "A trigger, a rule or a policy may suppress the update of a row, or set mime_type to null again.",
                true => "A trigger, a rule or a policy may suppress the update of a row, or set mime_type to something else.",
            })
            .warn();
    }

    fn detail(&self) -> Option<String> {
        if self.leaves.is_empty() {
            return None;
        }
        let mut parts: Vec<String> = self.leaves.iter().map(describe).collect();
        let more = (self.count - self.leaves.len()) as u64;
        if more > 0 {
            parts.push(format!("the others in {}", counted(more, "more leaf")));
        }
        Some(format!("{}.", parts.join("; ")))
    }
}

fn describe((name, rows, causes): &(String, u64, Vec<String>)) -> String {
    let which = match causes.is_empty() {
        true => String::new(),
        false => format!(", which has {}", causes.join(", ")),
    };
    format!("{} in leaf \"{name}\"{which}", counted(*rows, "row"))
}
