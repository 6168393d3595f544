//! Acting as the caller of a run, or as the owner of the extension's own tables.
//!
//! A role that may run a backfill has no privileges on `ntt_mime.run` and `ntt_mime.failure`; the extension writes to
//! them on its behalf. A procedure with transaction control cannot be SECURITY DEFINER, so the switch is made here,
//! for single statements of our own, in the way of PostgreSQL's own maintenance commands (see `vacuum_rel` in
//! commands/vacuum.c).
//!
//! Our statements find these tables by name, and a name can come to refer to another table: the extension may be
//! dropped while a run goes on, and somebody may create a table of the same name, with triggers. So each time, a
//! table is locked first, and must then be a member of the extension. Under the lock it can be neither dropped nor
//! renamed, and only a superuser can make a table a member, so it is safe to write to. The work is a
//! security-restricted operation: no part of it, such as a deferred trigger, is left to be executed as the caller.
//!
//! Before a table, the extension itself is locked. A transaction of a run may touch several of these tables, and DROP
//! EXTENSION locks all of them, in an order that follows from how they depend on each other: they could wait for each
//! other's tables, and PostgreSQL would cancel either. But what drops a member has to drop the extension, and locks
//! that first (RemoveObjects in commands/dropcmds.c, findDependentObjects in catalog/dependency.c). So it waits there,
//! before it holds any lock that a run could need.

use std::ffi::CStr;

use pgrx::pg_sys;

use super::citus;
use crate::errors::Error;

/// Forbids SET ROLE, and anything that would outlast the work; both flags are from PostgreSQL's miscadmin.h.
const RESTRICTED: i32 =
    (pg_sys::SECURITY_LOCAL_USERID_CHANGE | pg_sys::SECURITY_RESTRICTED_OPERATION) as i32;

/// A table of the extension in schema `ntt_mime`, and what is done with it.
#[derive(Clone, Copy)]
pub enum Use {
    Reads(&'static CStr),
    Writes(&'static CStr),
}

/// Runs `work` as the owner of the extension's tables, with a search path that nobody else controls, and with shards
/// of Citus visible in catalogs. `uses` lists all of these tables that it touches.
///
/// Must run inside a (sub)transaction, whose abort restores user and settings after an error.
pub fn as_owner<T>(uses: &[Use], work: impl FnOnce() -> T) -> T {
    // SAFETY: the setting is local to the nesting level, which is closed here or by the abort of the
    // (sub)transaction.
    unsafe {
        let level = pg_sys::NewGUCNestLevel();
        for (name, value) in [
            (c"search_path", c"pg_catalog, pg_temp"),
            (c"row_security", c"off"),
            // Bookkeeping must not wait for a session that has locked our tables for a long time.
            (c"lock_timeout", c"5s"),
            // Compiling a statement would take longer than ours take to execute.
            (c"jit", c"off"),
        ] {
            set_option(name, value, pg_sys::GucAction::GUC_ACTION_SAVE);
        }
        if citus::is_there() {
            set_option(
                citus::HIDES_SHARDS,
                c"off",
                pg_sys::GucAction::GUC_ACTION_SAVE,
            );
        }
        let mut owner = None;
        if !uses.is_empty() {
            let extension = lock_extension();
            for table in uses {
                owner = Some(lock_own_table(*table, extension));
            }
        }
        // If no table is touched, any of them can tell the owner.
        let owner = owner.unwrap_or_else(|| owner_of(find(c"run"), c"run"));
        let value = as_role(owner, work);
        pg_sys::AtEOXact_GUC(true, level);
        value
    }
}

/// Runs `work` as another role, as a security-restricted operation.
///
/// Must run inside a (sub)transaction, whose abort restores the user after an error.
pub fn as_role<T>(role: pg_sys::Oid, work: impl FnOnce() -> T) -> T {
    let (mut user, mut context) = (pg_sys::InvalidOid, 0);
    // SAFETY: both are restored below, or by the abort of the (sub)transaction if `work` raises an error
    // (AbortSubTransaction and AbortTransaction call SetUserIdAndSecContext themselves).
    unsafe {
        pg_sys::GetUserIdAndSecContext(&mut user, &mut context);
        pg_sys::SetUserIdAndSecContext(role, context | RESTRICTED);
        let value = work();
        pg_sys::SetUserIdAndSecContext(user, context);
        value
    }
}

/// Sets a parameter of this process at the given level, as its own superuser would.
pub fn set_option(name: &std::ffi::CStr, value: &std::ffi::CStr, action: pg_sys::GucAction::Type) {
    // SAFETY: plain C strings that outlive the call; an invalid name or value raises an error.
    unsafe {
        pg_sys::set_config_option(
            name.as_ptr(),
            value.as_ptr(),
            pg_sys::GucContext::PGC_SUSET,
            pg_sys::GucSource::PGC_S_SESSION,
            action,
            true,
            0,
            false,
        );
    }
}

/// Sets how long a statement of this process waits for a lock.
pub fn set_lock_timeout(time: std::time::Duration) {
    let value = std::ffi::CString::new(format!("{}ms", time.as_millis())).unwrap_or_default();
    set_option(c"lock_timeout", &value, pg_sys::GucAction::GUC_ACTION_SET);
}

/// Keeps the extension from being dropped until the end of the transaction, and returns its OID; InvalidOid if it
/// doesn't exist.
fn lock_extension() -> pg_sys::Oid {
    let mode = pg_sys::AccessShareLock as i32;
    // SAFETY: catalog lookups and locks inside a transaction.
    unsafe {
        let find = || pg_sys::get_extension_oid(c"ntt_mime".as_ptr(), true);
        let mut extension = find();
        // While we waited for the lock, it may have been dropped and created again.
        while extension != pg_sys::InvalidOid {
            pg_sys::LockDatabaseObject(pg_sys::ExtensionRelationId, extension, 0, mode);
            let now = find();
            if now == extension {
                break;
            }
            pg_sys::UnlockDatabaseObject(pg_sys::ExtensionRelationId, extension, 0, mode);
            extension = now;
        }
        extension
    }
}

/// Locks a table of the extension, which is locked, in the mode that its use needs, until the end of the transaction.
/// Returns its owner.
fn lock_own_table(table: Use, extension: pg_sys::Oid) -> pg_sys::Oid {
    let (name, mode) = match table {
        Use::Reads(name) => (name, pg_sys::AccessShareLock),
        Use::Writes(name) => (name, pg_sys::RowExclusiveLock),
    };
    // As in RangeVarGetRelidExtended in catalog/namespace.c: while we waited for the lock, the name may have come to
    // refer to another table.
    let mut oid = find(name);
    loop {
        // SAFETY: inside a transaction.
        unsafe { pg_sys::LockRelationOid(oid, mode as i32) };
        let now = find(name);
        if now == oid {
            break;
        }
        // SAFETY: locked above.
        unsafe { pg_sys::UnlockRelationOid(oid, mode as i32) };
        oid = now;
    }
    // SAFETY: a catalog lookup inside a transaction.
    let owned_by = unsafe { pg_sys::getExtensionOfObject(pg_sys::RelationRelationId, oid) };
    let is_member = extension != pg_sys::InvalidOid && owned_by == extension;
    if !is_member {
        Error::NotOurTable {
            name: of_ours(name),
        }
        .raise();
    }
    owner_of(oid, name)
}

/// Whether a table with this name exists in schema `ntt_mime`. A table that a later version added may be missing.
/// Must be called inside a transaction.
pub fn has_own_table(name: &CStr) -> bool {
    look_up(name) != pg_sys::InvalidOid
}

fn look_up(name: &CStr) -> pg_sys::Oid {
    // SAFETY: catalog look-ups inside a transaction.
    unsafe {
        match pg_sys::get_namespace_oid(c"ntt_mime".as_ptr(), true) {
            pg_sys::InvalidOid => pg_sys::InvalidOid,
            schema => pg_sys::get_relname_relid(name.as_ptr(), schema),
        }
    }
}

/// Finds a table of schema `ntt_mime` by its name.
fn find(name: &CStr) -> pg_sys::Oid {
    let table = look_up(name);
    if table == pg_sys::InvalidOid {
        Error::NoOwnTable {
            name: of_ours(name),
        }
        .raise();
    }
    table
}

fn owner_of(table: pg_sys::Oid, name: &CStr) -> pg_sys::Oid {
    match super::lock::owner_and_schema(table) {
        (pg_sys::InvalidOid, _) => Error::NoOwnTable {
            name: of_ours(name),
        }
        .raise(),
        (owner, _) => owner,
    }
}

/// The qualified name, for a message.
fn of_ours(name: &CStr) -> String {
    format!("ntt_mime.{}", name.to_string_lossy())
}

/// The role whose privileges are in force.
pub fn current_user() -> pg_sys::Oid {
    // SAFETY: reads a backend-local variable.
    unsafe { pg_sys::GetUserId() }
}

/// The role that logged in, as which workers connect.
pub fn authenticated_user() -> pg_sys::Oid {
    // SAFETY: reads a backend-local variable.
    unsafe { pg_sys::GetAuthenticatedUserId() }
}

/// The role of the session, before any SET ROLE.
pub fn session_user() -> pg_sys::Oid {
    // SAFETY: reads a backend-local variable.
    unsafe { pg_sys::GetSessionUserId() }
}

/// A role's name.
pub fn role_name(role: pg_sys::Oid) -> String {
    // SAFETY: GetUserNameFromId returns a palloc'ed C string, or NULL with noerr.
    unsafe {
        let name = pg_sys::GetUserNameFromId(role, true);
        super::encoding::from_server_c(name).unwrap_or_else(|| role.to_u32().to_string())
    }
}

/// Whether the current user has the privileges of `role`, as its member or as a superuser.
pub fn acts_for(role: pg_sys::Oid) -> bool {
    // SAFETY: catalog look-ups inside a transaction.
    unsafe { pg_sys::has_privs_of_role(pg_sys::GetUserId(), role) }
}

/// A role that may do anything with a table. That is the superuser that initdb created. If it has lost that
/// attribute, which PostgreSQL 15 permits, it is the extension's owner, who had to be a superuser to create it.
pub fn one_who_may() -> pg_sys::Oid {
    let bootstrap = pg_sys::Oid::from(pg_sys::BOOTSTRAP_SUPERUSERID);
    // SAFETY: a catalog look-up inside a transaction.
    match unsafe { pg_sys::superuser_arg(bootstrap) } {
        true => bootstrap,
        false => owner_of(find(c"run"), c"run"),
    }
}

/// Whether a role may look up objects in a schema. False also if the schema no longer exists.
pub fn may_use_schema(role: pg_sys::Oid, schema: pg_sys::Oid) -> bool {
    // SAFETY: catalog look-ups inside a transaction.
    unsafe {
        pg_sys::SearchSysCacheExists(
            pg_sys::SysCacheIdentifier::NAMESPACEOID as i32,
            pg_sys::Datum::from(schema),
            pg_sys::Datum::null(),
            pg_sys::Datum::null(),
            pg_sys::Datum::null(),
        ) && super::version::may_use_schema(role, schema)
    }
}

/// Whether the current user is a superuser.
pub fn is_superuser() -> bool {
    // SAFETY: a catalog look-up inside a transaction.
    unsafe { pg_sys::superuser() }
}
