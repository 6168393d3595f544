//! What a leaf's triggers and rules may turn an UPDATE into.
//!
//! An UPDATE reports how many rows it has changed. Whether those rows now have the type that it assigned is another
//! question: a row-level BEFORE trigger may suppress or alter the change, a rule may replace the UPDATE by another
//! statement, and a trigger that fires later may undo it. The relation cache shows which of these exist. What they
//! did can be seen in the counts that PostgreSQL keeps of a transaction's changes to a table ([`changes`]), or by
//! reading the rows again ([`super::rows`]).

use pgrx::pg_sys;

use super::lock::LockedLeaf;

/// What fires on an UPDATE of a leaf.
#[derive(Default, Clone)]
pub struct OnUpdate {
    /// There is a row-level BEFORE trigger or a rule, which may turn the UPDATE into something else.
    pub may_alter: bool,
    /// There is a user-defined trigger that fires at the commit unless it is told to fire earlier.
    pub deferrable: bool,
    /// The functions of user-defined triggers, or of PostgreSQL's own if there are no others.
    pub functions: Vec<pg_sys::Oid>,
}

impl OnUpdate {
    /// The triggers and rules of a leaf. They can't change while the leaf is locked.
    pub fn of(leaf: &LockedLeaf) -> OnUpdate {
        let mut found = OnUpdate {
            may_alter: has_rule(leaf),
            ..OnUpdate::default()
        };
        let mut internal = Vec::new();
        // SAFETY: an open, locked relation. Its trigger descriptor is NULL or has as many triggers as it says.
        let triggers = unsafe {
            let descriptor = (*leaf.relation()).trigdesc;
            match descriptor.is_null() {
                true => return found,
                false => std::slice::from_raw_parts(
                    (*descriptor).triggers,
                    (*descriptor).numtriggers as usize,
                ),
            }
        };
        let is = |kind: i16, bit: u32| u32::from(kind as u16) & bit != 0;
        for trigger in triggers {
            let kind = trigger.tgtype;
            if !is(kind, pg_sys::TRIGGER_TYPE_UPDATE) || !fires(trigger.tgenabled) {
                continue;
            }
            if trigger.tgisinternal {
                internal.push(trigger.tgfoid);
                continue;
            }
            found.functions.push(trigger.tgfoid);
            found.deferrable |= trigger.tgdeferrable;
            found.may_alter |=
                is(kind, pg_sys::TRIGGER_TYPE_BEFORE) && is(kind, pg_sys::TRIGGER_TYPE_ROW);
        }
        if found.functions.is_empty() {
            found.functions = internal;
        }
        found
    }
}

fn has_rule(leaf: &LockedLeaf) -> bool {
    // SAFETY: an open, locked relation. Its rules are NULL or as many as it says.
    unsafe {
        let rules = (*leaf.relation()).rd_rules;
        if rules.is_null() {
            return false;
        }
        let rules = std::slice::from_raw_parts((*rules).rules, (*rules).numLocks as usize);
        rules
            .iter()
            .any(|rule| (**rule).event == pg_sys::CmdType::CMD_UPDATE && fires((**rule).enabled))
    }
}

/// Whether a trigger with this `tgenabled`, or a rule with this `ev_enabled`, fires in this session. Both columns have
/// the same values (TriggerEnabled in commands/trigger.c, matchRules in rewrite/rewriteHandler.c).
fn fires(enabled: std::ffi::c_char) -> bool {
    // SAFETY: a setting of this process.
    let role = unsafe { pg_sys::SessionReplicationRole } as u32;
    match enabled as u8 {
        pg_sys::TRIGGER_DISABLED => false,
        pg_sys::TRIGGER_FIRES_ON_ORIGIN => role != pg_sys::SESSION_REPLICATION_ROLE_REPLICA,
        pg_sys::TRIGGER_FIRES_ON_REPLICA => role == pg_sys::SESSION_REPLICATION_ROLE_REPLICA,
        _ => true,
    }
}

/// Fires the triggers that have been deferred until the commit, and makes them immediate for the rest of the
/// transaction.
pub fn fire_deferred() {
    let mut statement = pg_sys::ConstraintsSetStmt {
        type_: pg_sys::NodeTag::T_ConstraintsSetStmt,
        constraints: std::ptr::null_mut(),
        deferred: false,
    };
    // SAFETY: inside a transaction; this is SET CONSTRAINTS ALL IMMEDIATE as PostgreSQL parses it.
    unsafe { pg_sys::AfterTriggerSetState(&mut statement) };
}

/// Rows that a transaction has inserted, updated and deleted in a table.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Changes {
    pub inserted: i64,
    pub updated: i64,
    pub deleted: i64,
}

/// What this transaction has changed in a leaf so far, by whatever means; None if changes aren't counted
/// (`track_counts`).
pub fn changes(leaf: &LockedLeaf) -> Option<Changes> {
    // SAFETY: an open relation. Its counts are allocated on first use, and so are those of the transaction
    // (utils/activity/pgstat_relation.c). Outside any subtransaction they have a single level.
    unsafe {
        let relation = leaf.relation();
        if !(*relation).pgstat_enabled {
            return None;
        }
        let table = (*relation).pgstat_info;
        if table.is_null() || (*table).trans.is_null() {
            return Some(Changes::default());
        }
        let counts = (*table).trans;
        Some(Changes {
            inserted: (*counts).tuples_inserted,
            updated: (*counts).tuples_updated,
            deleted: (*counts).tuples_deleted,
        })
    }
}
