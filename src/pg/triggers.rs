//! What a leaf's triggers and rules may make of an UPDATE.
//!
//! An UPDATE tells how many rows it has changed. Whether these have the type now that it gave them is another question:
//! a trigger before each row may suppress the change of a row or make another one of it, a rule may put another
//! statement into the place of the UPDATE, and a trigger that fires afterwards may undo it. What there is of these can
//! be seen in the relation cache; what happened, in the counts that PostgreSQL keeps of a transaction's changes of a
//! table ([`changes`]), or by looking at the rows ([`super::rows`]).

use pgrx::pg_sys;

use super::lock::LockedLeaf;

/// What fires at an UPDATE of a leaf.
#[derive(Default, Clone)]
pub struct OnUpdate {
    /// A trigger before each row, or a rule: it may make something else of the UPDATE.
    pub may_alter: bool,
    /// A trigger of the user's that fires at the commit unless it is told to earlier.
    pub deferrable: bool,
    /// The functions of triggers: those of the user, or PostgreSQL's own if there are no others.
    pub functions: Vec<pg_sys::Oid>,
}

impl OnUpdate {
    /// Of a leaf, as of now; it can't change while the leaf is locked.
    pub fn of(leaf: &LockedLeaf) -> OnUpdate {
        let mut found = OnUpdate {
            may_alter: has_rule(leaf),
            ..OnUpdate::default()
        };
        let mut internal = Vec::new();
        // SAFETY: an open, locked relation; its trigger descriptor is NULL or has as many triggers as it says.
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
    // SAFETY: an open, locked relation; its rules are NULL or as many as it says.
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

/// Does what has this mark fire in this session? Triggers and rules have the same marks (TriggerEnabled in
/// commands/trigger.c, matchRules in rewrite/rewriteHandler.c).
fn fires(mark: std::ffi::c_char) -> bool {
    // SAFETY: a setting of this process.
    let role = unsafe { pg_sys::SessionReplicationRole } as u32;
    match mark as u8 {
        pg_sys::TRIGGER_DISABLED => false,
        pg_sys::TRIGGER_FIRES_ON_ORIGIN => role != pg_sys::SESSION_REPLICATION_ROLE_REPLICA,
        pg_sys::TRIGGER_FIRES_ON_REPLICA => role == pg_sys::SESSION_REPLICATION_ROLE_REPLICA,
        _ => true,
    }
}

/// Has triggers that can wait until the commit fire now, and from now on at once.
pub fn fire_deferred() {
    let mut statement = pg_sys::ConstraintsSetStmt {
        type_: pg_sys::NodeTag::T_ConstraintsSetStmt,
        constraints: std::ptr::null_mut(),
        deferred: false,
    };
    // SAFETY: inside a transaction; SET CONSTRAINTS ALL IMMEDIATE, as PostgreSQL parses it.
    unsafe { pg_sys::AfterTriggerSetState(&mut statement) };
}

/// Rows that a transaction has inserted, updated and deleted in a table.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Changes {
    pub inserted: i64,
    pub updated: i64,
    pub deleted: i64,
}

/// What this transaction has changed in a leaf so far, in whatever way; None if nobody counts (`track_counts`).
pub fn changes(leaf: &LockedLeaf) -> Option<Changes> {
    // SAFETY: an open relation. Its counts are made when they are first needed, those of the transaction likewise
    // (utils/activity/pgstat_relation.c); outside any subtransaction there is one level of them.
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
