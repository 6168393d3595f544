//! Who acts: the caller of a run, and the owner of the extension's own tables.
//!
//! A role that may run a backfill has no right on `ntt_mime.run` and `ntt_mime.failure`; the extension
//! writes them on its behalf. A procedure with transaction control cannot be SECURITY DEFINER, so the
//! switch is made here, for single statements of our own, the way PostgreSQL's own maintenance
//! commands do it (see `vacuum_rel` in commands/vacuum.c).

use pgrx::{PgSqlErrorCode, ereport, pg_sys};

/// `SECURITY_LOCAL_USERID_CHANGE` of PostgreSQL's miscadmin.h: no SET ROLE in there.
const LOCAL_USERID_CHANGE: i32 = pg_sys::SECURITY_LOCAL_USERID_CHANGE as i32;

/// Runs `work` as the owner of `ntt_mime.run`, with a search path that nobody else controls.
///
/// Must run inside a (sub)transaction whose abort, on an error, restores user and settings.
pub fn as_owner<T>(work: impl FnOnce() -> T) -> T {
    let owner = history_owner();
    let (mut user, mut context) = (pg_sys::InvalidOid, 0);
    // SAFETY: both are restored below, and by (sub)transaction abort if `work` raises an error
    // (AbortSubTransaction and AbortTransaction call SetUserIdAndSecContext themselves); the setting
    // is local to the nesting level that is closed here or by the abort.
    unsafe {
        pg_sys::GetUserIdAndSecContext(&mut user, &mut context);
        pg_sys::SetUserIdAndSecContext(owner, context | LOCAL_USERID_CHANGE);
        let level = pg_sys::NewGUCNestLevel();
        for (name, value) in [
            (c"search_path", c"pg_catalog, pg_temp"),
            (c"row_security", c"off"),
            // Bookkeeping must not queue behind somebody who has locked our tables for long.
            (c"lock_timeout", c"5s"),
        ] {
            set_option(name, value, pg_sys::GucAction::GUC_ACTION_SAVE);
        }
        let value = work();
        pg_sys::AtEOXact_GUC(true, level);
        pg_sys::SetUserIdAndSecContext(user, context);
        value
    }
}

/// Sets a parameter of this process at the given level, as its own superuser would.
pub fn set_option(name: &std::ffi::CStr, value: &std::ffi::CStr, action: pg_sys::GucAction::Type) {
    // SAFETY: plain C strings that outlive the call; a bad name or value raises an error.
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

fn history_owner() -> pg_sys::Oid {
    // SAFETY: catalog look-ups inside a transaction; the tuple is released before its copy is used.
    unsafe {
        let schema = pg_sys::get_namespace_oid(c"ntt_mime".as_ptr(), true);
        let table = if schema == pg_sys::InvalidOid {
            pg_sys::InvalidOid
        } else {
            pg_sys::get_relname_relid(c"run".as_ptr(), schema)
        };
        let tuple = pg_sys::SearchSysCache1(
            pg_sys::SysCacheIdentifier::RELOID as i32,
            pg_sys::Datum::from(table),
        );
        if tuple.is_null() {
            ereport!(
                ERROR,
                PgSqlErrorCode::ERRCODE_UNDEFINED_TABLE,
                "relation \"ntt_mime.run\" does not exist",
                "Extension ntt_mime is not installed in this database, or only in part."
            );
        }
        let form = pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_class>();
        let owner = (*form).relowner;
        pg_sys::ReleaseSysCache(tuple);
        owner
    }
}

/// The role whose rights count now.
pub fn current_user() -> pg_sys::Oid {
    // SAFETY: reads a backend-local variable.
    unsafe { pg_sys::GetUserId() }
}

/// The role that logged in: what a worker connects as.
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

/// Has the current user the rights of `role`, as its member or as a superuser?
pub fn acts_for(role: pg_sys::Oid) -> bool {
    // SAFETY: catalog look-ups inside a transaction.
    unsafe { pg_sys::has_privs_of_role(pg_sys::GetUserId(), role) }
}

/// Is the current user a superuser?
pub fn is_superuser() -> bool {
    // SAFETY: a catalog look-up inside a transaction.
    unsafe { pg_sys::superuser() }
}
