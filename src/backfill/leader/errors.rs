//! Leaves that have raised an error of their own: the run ends with the first such error, and `ntt_mime.leaf_error`
//! names all of these leaves ([`leaf_errors`]).

use std::collections::HashSet;

use super::Leader;
use super::leaves::Unfinished;
use crate::backfill::leaf_errors::{self, OnRecord};
use crate::backfill::target::ListedLeaf;
use crate::errors::counted_with;
use crate::pg::report::Report;
use crate::pg::tx;

impl Leader {
    /// The leaves in the order in which they are tried: those that raised an error in an earlier run come last.
    pub(super) fn with_errors_last(&self, mut leaves: Vec<ListedLeaf>) -> Vec<ListedLeaf> {
        let on_record = self.leaf_errors_on_record();
        if !on_record.is_empty() {
            let oids: HashSet<u32> = on_record.iter().map(|leaf| leaf.oid).collect();
            // Otherwise their order is kept.
            leaves.sort_by_key(|leaf| oids.contains(&leaf.oid));
        }
        leaves
    }

    /// None if somebody has locked the table: that must not hold up the run.
    fn leaf_errors_on_record(&self) -> Vec<OnRecord> {
        tx::unless_locked(|| leaf_errors::on_record(&self.target.name)).unwrap_or_default()
    }

    /// The first error of a leaf, and the number of leaves with errors.
    pub(super) fn error_of_leaves(&self) -> Option<Report> {
        let mut error = self.shared().leaf_error()?;
        let count = self.leaves.unfinished(Unfinished::SetAside).len() as u64;
        let leaves = counted_with(count, "leaf", ("was", "were"));
        let recorded = !self.options.dry_run && tx::in_subtransaction(leaf_errors::are_recorded);
        let mut detail = match count {
            1 => format!("{leaves} set aside because of an error of its own."),
            _ => format!("{leaves} set aside because of errors of their own."),
        };
        if recorded {
            detail.push_str(" See ntt_mime.leaf_error.");
        }
        error.detail = Some(match error.detail {
            Some(own) => format!("{own}\n{detail}"),
            None => detail,
        });
        Some(error)
    }

    /// Removes from the table what the run has finished without an error, and what isn't a leaf any more. A commit
    /// must follow.
    pub(super) fn forget_leaf_errors(&self) {
        let done_with = |leaf: &OnRecord| match self.leaves.is_done_with(leaf.oid) {
            Some(done_with) => done_with,
            // A leaf that a verification skips may have pending rows, and an error from a run that was to fill them.
            None => leaf.of_target && self.options.verify.is_none() || !leaf.exists,
        };
        let on_record = self.leaf_errors_on_record();
        let oids: Vec<u32> = on_record
            .iter()
            .filter(|leaf| done_with(leaf))
            .map(|leaf| leaf.oid)
            .collect();
        if !oids.is_empty() {
            // If somebody's lock prevents that, the next run does it.
            tx::unless_locked(|| leaf_errors::forget(&oids));
        }
    }
}
