//! The target of a run: finding it, checking it, and listing its leaves without locking any.

use std::collections::HashMap;
use std::ffi::CStr;

use pgrx::datum::DatumWithOid;
use pgrx::{Spi, pg_sys};

use crate::errors::{Error, NAMED};
use crate::pg::identity::{current_user, may_use_schema, role_name};
use crate::pg::lock::{self, method_scans_tid_ranges, plain_name, qualified_name};

/// A table that can be filled.
#[derive(Debug, Clone)]
pub struct Target {
    pub oid: pg_sys::Oid,
    /// Qualified and quoted.
    pub name: String,
    /// Qualified, for messages that put it between quotes.
    pub plain_name: String,
    pub partitioned: bool,
    /// Do its policies apply to the caller?
    pub row_security: bool,
    /// Characters that fit into `mime_type`, if that is bounded.
    pub mime_type_limit: Option<usize>,
}

/// A leaf as listed: its oid and, from the last VACUUM or ANALYZE, its number of blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListedLeaf {
    pub oid: u32,
    pub blocks: u32,
}

/// As PostgreSQL's utils/rls.h numbers it.
const RLS_ENABLED: std::ffi::c_int = 2;

/// Everything about the target in one look at the catalogs, without a lock on it.
const DESCRIBE: &str = "
SELECT c.relkind::pg_catalog.text,
       c.relpersistence::pg_catalog.text,
       b.atttypid, pg_catalog.format_type(b.atttypid, b.atttypmod),
       m.atttypid, pg_catalog.format_type(m.atttypid, m.atttypmod), m.atttypmod,
       pg_catalog.row_security_active(c.oid),
       a.amhandler::pg_catalog.oid
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
  LEFT JOIN pg_catalog.pg_attribute b
    ON b.attrelid OPERATOR(pg_catalog.=) c.oid AND b.attname OPERATOR(pg_catalog.=) 'blobid'
   AND NOT b.attisdropped
  LEFT JOIN pg_catalog.pg_attribute m
    ON m.attrelid OPERATOR(pg_catalog.=) c.oid AND m.attname OPERATOR(pg_catalog.=) 'mime_type'
   AND NOT m.attisdropped
  LEFT JOIN pg_catalog.pg_am a ON a.oid OPERATOR(pg_catalog.=) c.relam AND c.relkind OPERATOR(pg_catalog.=) 'r'
 WHERE c.oid OPERATOR(pg_catalog.=) $1";

/// The leaves of a partitioned table at any depth, the largest first. Reads the catalogs only:
/// `pg_partition_tree` would lock every leaf.
const LIST_LEAVES: &str = "
WITH RECURSIVE tree(oid, relkind, relpages, relam) AS (
    SELECT c.oid, c.relkind, c.relpages, c.relam
      FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
     WHERE i.inhparent = $1 AND NOT i.inhdetachpending
    UNION ALL
    SELECT c.oid, c.relkind, c.relpages, c.relam
      FROM tree t JOIN pg_catalog.pg_inherits i ON i.inhparent = t.oid
      JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
     WHERE t.relkind = 'p' AND NOT i.inhdetachpending)
SELECT t.oid, greatest(t.relpages, 0), CASE t.relkind WHEN 'r' THEN a.amhandler::pg_catalog.oid END
  FROM tree t LEFT JOIN pg_catalog.pg_am a ON a.oid = t.relam
 WHERE t.relkind <> 'p' ORDER BY t.relpages DESC, t.oid";

/// Finds the target by its oid or by the name in `ntt_mime.target`, and checks that the caller can
/// fill it. Inside a transaction with a snapshot.
pub fn resolve(argument: Option<pg_sys::Oid>) -> Result<Target, Error> {
    let oid = match argument {
        Some(oid) => oid,
        None => {
            let name = crate::settings::target();
            if name.trim().is_empty() {
                return Err(Error::NoTarget);
            }
            by_name(&name).ok_or(Error::NoSuchTarget { name })?
        }
    };
    describe(oid).unwrap_or(Err(Error::NoSuchTargetOid { oid: oid.to_u32() }))
}

/// May a role fill the target? It needs what `UPDATE target SET mime_type = … WHERE blobid = … AND mime_type IS NULL` asks
/// for. Inside a transaction.
pub fn check_rights(
    target: pg_sys::Oid,
    role: pg_sys::Oid,
    partitioned: bool,
) -> Result<(), Error> {
    let (_, schema) = lock::owner_and_schema(target);
    // Without a schema there is no target any more, as is told below.
    if schema != pg_sys::InvalidOid && !may_use_schema(role, schema) {
        let (schema, role) = (lock::schema_name(schema), role_name(role));
        return Err(Error::NoSchemaPrivilege { schema, role });
    }
    let (select, update) = (pg_sys::ACL_SELECT, pg_sys::ACL_UPDATE);
    let to_read: Vec<&str> = [c"blobid", c"mime_type"]
        .into_iter()
        .filter(|column| !is_granted(target, role, column, select))
        .filter_map(|column| column.to_str().ok())
        .collect();
    let may_update = is_granted(target, role, c"mime_type", update);
    if !to_read.is_empty() || !may_update {
        let (target, role) = (qualified_name(target).unwrap_or_default(), role_name(role));
        return Err(Error::NoPrivilege {
            target,
            role,
            to_read,
            to_update: !may_update,
        });
    }
    // SAFETY: a look-up in catalog caches, by oids.
    let policies = partitioned.then(|| unsafe { pg_sys::check_enable_rls(target, role, true) });
    if policies == Some(RLS_ENABLED) {
        let (target, role) = (plain_name(target).unwrap_or_default(), role_name(role));
        return Err(Error::RowSecurity { target, role });
    }
    Ok(())
}

/// Has a role a right on a table, or on a column of it? Not on one that isn't there. An error if the table isn't.
fn is_granted(table: pg_sys::Oid, role: pg_sys::Oid, column: &CStr, right: u32) -> bool {
    let right = right as pg_sys::AclMode;
    let granted = |result| result == pg_sys::AclResult::ACLCHECK_OK;
    // SAFETY: look-ups in catalog caches, by oids and a C string.
    unsafe {
        let number = pg_sys::get_attnum(table, column.as_ptr());
        granted(pg_sys::pg_class_aclcheck(table, role, right))
            || number > 0 && granted(pg_sys::pg_attribute_aclcheck(table, number, role, right))
    }
}

fn by_name(name: &str) -> Option<pg_sys::Oid> {
    Spi::connect(|client| {
        let table = client.select(
            "SELECT pg_catalog.to_regclass(pg_catalog.convert_from($1, 'UTF8'))::pg_catalog.oid",
            Some(1),
            &[DatumWithOid::from(name.as_bytes())],
        );
        table.and_then(|table| table.first().get_one::<pg_sys::Oid>())
    })
    .unwrap_or_default()
}

fn describe(oid: pg_sys::Oid) -> Option<Result<Target, Error>> {
    let read = |client: &pgrx::spi::SpiClient<'_>| -> pgrx::spi::Result<_> {
        let table = client.select(DESCRIBE, Some(1), &[DatumWithOid::from(oid)])?;
        let row = table.first();
        if row.is_empty() {
            return Ok(None);
        }
        Ok(Some(Described {
            name: qualified_name(oid).unwrap_or_default(),
            plain_name: plain_name(oid).unwrap_or_default(),
            kind: row.get::<String>(1)?.unwrap_or_default(),
            persistence: row.get::<String>(2)?.unwrap_or_default(),
            blobid: (row.get(3)?, row.get(4)?),
            mime_type: (row.get(5)?, row.get(6)?),
            mime_typmod: row.get::<i32>(7)?.unwrap_or(-1),
            row_security: row.get::<bool>(8)?.unwrap_or(false),
            access_method: row.get::<pg_sys::Oid>(9)?,
        }))
    };
    let described = Spi::connect(|client| read(client)).ok().flatten()?;
    Some(described.check(oid))
}

struct Described {
    name: String,
    plain_name: String,
    kind: String,
    persistence: String,
    blobid: (Option<pg_sys::Oid>, Option<String>),
    mime_type: (Option<pg_sys::Oid>, Option<String>),
    mime_typmod: i32,
    row_security: bool,
    /// The handler of a plain table's.
    access_method: Option<pg_sys::Oid>,
}

impl Described {
    fn check(self, oid: pg_sys::Oid) -> Result<Target, Error> {
        let kind = match (self.kind.as_str(), self.persistence.as_str()) {
            ("r" | "p", "t") => {
                let name = self.plain_name;
                return Err(Error::TemporaryTarget { name });
            }
            ("r" | "p", _) => None,
            ("v", _) => Some("a view"),
            ("m", _) => Some("a materialized view"),
            ("f", _) => Some("a foreign table"),
            ("i" | "I", _) => Some("an index"),
            ("S", _) => Some("a sequence"),
            ("c", _) => Some("a composite type"),
            _ => Some("another kind of relation"),
        };
        if let Some(kind) = kind {
            let name = self.plain_name;
            return Err(Error::WrongKind { name, kind });
        }
        if self
            .access_method
            .is_some_and(|method| !method_scans_tid_ranges(method))
        {
            let name = self.plain_name;
            return Err(Error::AccessMethod { name });
        }
        self.check_column("blobid", &self.blobid)?;
        self.check_column("mime_type", &self.mime_type)?;
        let partitioned = self.kind == "p";
        check_rights(oid, current_user(), partitioned)?;
        let limit = self.mime_typmod - pg_sys::VARHDRSZ as i32;
        Ok(Target {
            oid,
            name: self.name,
            plain_name: self.plain_name,
            partitioned,
            row_security: self.row_security,
            mime_type_limit: usize::try_from(limit).ok(),
        })
    }

    fn check_column(
        &self,
        column: &'static str,
        (type_oid, type_name): &(Option<pg_sys::Oid>, Option<String>),
    ) -> Result<(), Error> {
        match type_oid {
            Some(pg_sys::TEXTOID | pg_sys::VARCHAROID) => Ok(()),
            Some(_) => Err(Error::WrongType {
                target: self.plain_name.clone(),
                column,
                found: type_name.clone().unwrap_or_default(),
            }),
            None => Err(Error::NoSuchColumn {
                target: self.plain_name.clone(),
                column,
            }),
        }
    }
}

/// Partitions that can't be filled: foreign tables, and tables whose access method can't scan ranges of rows.
#[derive(Default)]
pub struct Others {
    pub count: usize,
    /// Of the first [`NAMED`] of them, as messages have them between quotes.
    pub names: Vec<String>,
}

/// The leaves as they are now, the largest first, and the partitions that can't be filled. Inside a subtransaction,
/// under a safe search path.
pub fn leaves(target: &Target) -> (Vec<ListedLeaf>, Others) {
    let mut others = Others::default();
    if !target.partitioned {
        let oid = target.oid.to_u32();
        return (vec![ListedLeaf { oid, blocks: 0 }], others);
    }
    let mut leaves = Vec::new();
    let mut methods = HashMap::new();
    Spi::connect(|client| -> pgrx::spi::Result<()> {
        let rows = client.select(LIST_LEAVES, None, &[DatumWithOid::from(target.oid)])?;
        for row in rows {
            let oid = row.get::<pg_sys::Oid>(1)?.unwrap_or(pg_sys::InvalidOid);
            let usable = row.get::<pg_sys::Oid>(3)?.is_some_and(|method| {
                let usable = methods.entry(method);
                *usable.or_insert_with(|| method_scans_tid_ranges(method))
            });
            if usable {
                leaves.push(ListedLeaf {
                    oid: oid.to_u32(),
                    blocks: row.get::<i32>(2)?.unwrap_or(0) as u32,
                });
            } else {
                if others.count < NAMED {
                    // One that has been dropped meanwhile has no name any more.
                    others.names.extend(plain_name(oid));
                }
                others.count += 1;
            }
        }
        Ok(())
    })
    .unwrap_or_else(|error| pgrx::error!("could not list the leaves: {error}"));
    (leaves, others)
}
