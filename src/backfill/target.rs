//! The target of a run: finding it, checking it, and listing its leaves without locking any.

use std::collections::{HashMap, HashSet};
use std::ffi::CStr;

use pgrx::datum::DatumWithOid;
use pgrx::{Spi, pg_sys};

use super::citus::{self, Call};
use super::marks::Marks;
use crate::errors::{Error, NAMED};
use crate::pg::citus::seeing_shards;
use crate::pg::encoding::text_value;
use crate::pg::files;
use crate::pg::identity::{current_user, may_use_schema, role_name};
use crate::pg::lock::{self, method_scans_tid_ranges, plain_name, qualified_name};
use crate::pg::{shape, stats};

/// The column that is filled.
pub const FILLED: &CStr = c"mime_type";

/// A table that can be filled.
#[derive(Debug, Clone)]
pub struct Target {
    pub oid: pg_sys::Oid,
    /// Qualified and quoted.
    pub name: String,
    /// Qualified, for messages that put it in quotes.
    pub plain_name: String,
    pub partitioned: bool,
    /// What it is to Citus when the run begins.
    pub citus: citus::Kind,
    /// The call for other nodes.
    call: Call,
    /// Whether its policies apply to the caller.
    pub row_security: bool,
    /// The maximum length of `mime_type` in characters, if it is bounded.
    pub mime_type_limit: Option<usize>,
}

/// How a target is filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FilledBy {
    Itself,
    Partitions,
    Shards,
}

/// A leaf as listed: its OID, its number of blocks, from the last VACUUM or ANALYZE if there was one, and the file in
/// which it is stored, as [`crate::pg::lock::LockedLeaf::file`] returns it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ListedLeaf {
    pub oid: u32,
    pub blocks: u32,
    pub file: u64,
    /// An earlier run has read it.
    pub marked: bool,
    /// What that run found, if the leaf seems unchanged since.
    pub unchanged: Option<Unchanged>,
}

/// What an earlier run has found in a leaf that seems unchanged since.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Unchanged {
    /// Rows that the server has counted as written.
    pub written: u64,
    /// Rows left pending.
    pub rows_left: u64,
}

/// The current leaves.
#[derive(Default)]
pub struct Listing {
    /// Leaves in which there may be something to do, the largest first.
    pub leaves: Vec<ListedLeaf>,
    /// Tables that aren't filled.
    pub others: Others,
    pub passed_over: PassedOver,
}

/// The leaves in which nothing can have become pending since they were read.
#[derive(Debug, Clone, Default)]
pub struct PassedOver {
    pub leaves: u64,
    /// Rows that are pending there.
    pub rows_left: u64,
    /// The OIDs of those leaves that have some.
    pub with_rows_left: Vec<u32>,
    /// Their blocks.
    pub blocks: u64,
    /// When the first of them was read, in seconds since 1970.
    pub since: f64,
    /// Marks of tables that aren't leaves of the target, or no longer exist.
    pub other_marks: u64,
}

/// From PostgreSQL's utils/rls.h.
const RLS_ENABLED: std::ffi::c_int = 2;

/// Reads everything about the target from the catalogs at once, without locking it.
const DESCRIBE: &str = "
SELECT c.relkind::pg_catalog.text,
       c.relpersistence::pg_catalog.text,
       b.atttypid, m.atttypid, m.atttypmod,
       pg_catalog.row_security_active(c.oid),
       a.amhandler::pg_catalog.oid,
       m.attgenerated::pg_catalog.text OPERATOR(pg_catalog.<>) ''
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

/// The tables below the tables $1 at any depth, and those tables themselves, without the tables $2 and what is below
/// them. Each has its shape ([`crate::pg::shape`]); $3 is the target's. Reads only the catalogs: `pg_partition_tree`
/// would lock every leaf.
pub const TREE: &str = "
WITH RECURSIVE tree(oid, relkind, relpages, relam, relfilenode, reltablespace, shape) AS (
    SELECT c.oid, c.relkind, c.relpages, c.relam, c.relfilenode, c.reltablespace, $3
      FROM pg_catalog.pg_class c WHERE c.oid = ANY ($1)
    UNION ALL
    SELECT c.oid, c.relkind, c.relpages, c.relam, c.relfilenode, c.reltablespace,
           pg_catalog.hashint8extended(c.xmin::text::bigint, t.shape)
      FROM tree t JOIN pg_catalog.pg_inherits i ON i.inhparent = t.oid
      JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
     WHERE t.relkind = 'p' AND NOT i.inhdetachpending AND c.oid <> ALL ($2))";

/// Follows [`TREE`]: the leaves. A table that isn't partitioned is its own leaf. Columns as in [`super::marks`].
const LIST_LEAVES: &str = "
SELECT t.oid, t.relpages, CASE t.relkind WHEN 'r' THEN a.amhandler::pg_catalog.oid END,
       t.relfilenode, t.reltablespace, NULL::bool, NULL::bigint, NULL::bigint, NULL::bigint, NULL::bigint, NULL::float8
  FROM tree t LEFT JOIN pg_catalog.pg_am a ON a.oid = t.relam
 WHERE t.relkind <> 'p'";

/// The partitioned tables above the target, and the target.
const LIST_ABOVE: &str = "
SELECT a.relid::pg_catalog.oid FROM pg_catalog.pg_partition_ancestors($1) a";

/// The partitioned tables below the target, and the target. Compared with leaves there are few.
const LIST_BELOW: &str = "
SELECT p.partrelid
  FROM pg_catalog.pg_partitioned_table p
 WHERE EXISTS (SELECT FROM pg_catalog.pg_partition_ancestors(p.partrelid) a WHERE a.relid OPERATOR(pg_catalog.=) $1)";

/// The tables that inherit from a table that isn't partitioned.
const LIST_CHILDREN: &str = "
WITH RECURSIVE tree(oid) AS (
    SELECT i.inhrelid FROM pg_catalog.pg_inherits i WHERE i.inhparent = $1
    UNION
    SELECT i.inhrelid FROM tree t JOIN pg_catalog.pg_inherits i ON i.inhparent = t.oid)
SELECT t.oid FROM tree t ORDER BY t.oid";

/// Finds the target by its OID or by the name in `ntt_mime.target`, and checks that the caller can fill it on this
/// node, or read it if it isn't to be updated. `call` is the call for other nodes. Must be called inside a
/// transaction with a snapshot.
pub fn resolve(argument: Option<pg_sys::Oid>, updates: bool, call: Call) -> Result<Target, Error> {
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
    let described = seeing_shards(|| describe(oid));
    let described = described.ok_or(Error::NoSuchTargetOid { oid: oid.to_u32() })?;
    described.check(oid, updates, call)
}

/// Checks that a role may read the target, and fill it if it `updates`. It needs the privileges that `UPDATE target
/// SET mime_type = … WHERE blobid = … AND mime_type IS NULL` needs, or a SELECT of both columns. Must be called
/// inside a transaction.
pub fn check_rights(
    target: pg_sys::Oid,
    role: pg_sys::Oid,
    by: FilledBy,
    updates: bool,
) -> Result<(), Error> {
    let (_, schema) = lock::owner_and_schema(target);
    // If the schema no longer exists, neither does the target, which is reported below.
    if schema != pg_sys::InvalidOid && !may_use_schema(role, schema) {
        let (schema, role) = (lock::schema_name(schema), role_name(role));
        return Err(Error::NoSchemaPrivilege { schema, role });
    }
    let (select, update) = (pg_sys::ACL_SELECT, pg_sys::ACL_UPDATE);
    let to_read: Vec<&str> = [c"blobid", FILLED]
        .into_iter()
        .filter(|column| !is_granted(target, role, column, select))
        .filter_map(|column| column.to_str().ok())
        .collect();
    let may_update = !updates || is_granted(target, role, FILLED, update);
    if !to_read.is_empty() || !may_update {
        let (target, role) = (qualified_name(target).unwrap_or_default(), role_name(role));
        return Err(Error::NoPrivilege {
            target,
            role,
            to_read,
            to_update: !may_update,
        });
    }
    // SAFETY: a lookup in catalog caches, by OIDs.
    let policies = unsafe { pg_sys::check_enable_rls(target, role, true) };
    if by != FilledBy::Itself && policies == RLS_ENABLED {
        let (target, role) = (plain_name(target).unwrap_or_default(), role_name(role));
        return Err(Error::RowSecurity {
            target,
            role,
            distributed: by == FilledBy::Shards,
        });
    }
    Ok(())
}

/// Whether a role has a privilege on a table, or on a column of it. False if the column doesn't exist; an error if
/// the table doesn't.
fn is_granted(table: pg_sys::Oid, role: pg_sys::Oid, column: &CStr, right: u32) -> bool {
    let right = right as pg_sys::AclMode;
    let granted = |result| result == pg_sys::AclResult::ACLCHECK_OK;
    // SAFETY: lookups in catalog caches, by OIDs and a C string.
    unsafe {
        let number = pg_sys::get_attnum(table, column.as_ptr());
        granted(pg_sys::pg_class_aclcheck(table, role, right))
            || number > 0 && granted(pg_sys::pg_attribute_aclcheck(table, number, role, right))
    }
}

fn by_name(name: &str) -> Option<pg_sys::Oid> {
    Spi::connect(|client| {
        let table = client.select(
            "SELECT pg_catalog.to_regclass($1)::pg_catalog.oid",
            Some(1),
            &[text_value(name)],
        );
        table.and_then(|table| table.first().get_one::<pg_sys::Oid>())
    })
    .unwrap_or_default()
}

fn describe(oid: pg_sys::Oid) -> Option<Described> {
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
            blobid: row.get(3)?,
            mime_type: row.get(4)?,
            mime_typmod: row.get::<i32>(5)?.unwrap_or(-1),
            row_security: row.get::<bool>(6)?.unwrap_or(false),
            access_method: row.get::<pg_sys::Oid>(7)?,
            generated: row.get::<bool>(8)?.unwrap_or(false),
        }))
    };
    Spi::connect(|client| read(client)).ok().flatten()
}

struct Described {
    name: String,
    plain_name: String,
    kind: String,
    persistence: String,
    /// The types of the columns, if they exist.
    blobid: Option<pg_sys::Oid>,
    mime_type: Option<pg_sys::Oid>,
    mime_typmod: i32,
    row_security: bool,
    /// The handler of a plain table's access method.
    access_method: Option<pg_sys::Oid>,
    /// Whether its `mime_type` is generated.
    generated: bool,
}

impl Described {
    fn check(self, oid: pg_sys::Oid, updates: bool, call: Call) -> Result<Target, Error> {
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
        self.check_column("blobid", self.blobid)?;
        self.check_column("mime_type", self.mime_type)?;
        if self.generated {
            return Err(Error::GeneratedColumn {
                target: self.plain_name,
                column: "mime_type",
            });
        }
        let partitioned = self.kind == "p";
        let citus = citus::kind(oid)?;
        let by = match citus {
            citus::Kind::Distributed => FilledBy::Shards,
            _ if partitioned => FilledBy::Partitions,
            _ => FilledBy::Itself,
        };
        check_rights(oid, current_user(), by, updates)?;
        check_partitioning(oid, &self.plain_name, &[LIST_ABOVE, LIST_BELOW])?;
        citus::roots(oid, None, &call)?;
        let limit = self.mime_typmod - pg_sys::VARHDRSZ as i32;
        Ok(Target {
            oid,
            name: self.name,
            plain_name: self.plain_name,
            partitioned,
            citus,
            call,
            row_security: self.row_security,
            mime_type_limit: usize::try_from(limit).ok(),
        })
    }

    fn check_column(&self, column: &'static str, kind: Option<pg_sys::Oid>) -> Result<(), Error> {
        match kind {
            Some(pg_sys::TEXTOID | pg_sys::VARCHAROID) => Ok(()),
            Some(kind) => Err(Error::WrongType {
                target: self.plain_name.clone(),
                column,
                found: lock::type_name(kind),
            }),
            None => Err(Error::NoSuchColumn {
                target: self.plain_name.clone(),
                column,
            }),
        }
    }
}

/// An error if one of the tables that `lists` return is partitioned by the type: filling a row could mean moving it
/// to another partition.
fn check_partitioning(target: pg_sys::Oid, name: &str, lists: &[&str]) -> Result<(), Error> {
    let by_type = lists.iter().find_map(|list| by_type(list, target).pop());
    by_type.map_or(Ok(()), |by| {
        Err(Error::PartitionedByType {
            target: name.to_owned(),
            by: (by != target).then(|| plain_name(by).unwrap_or_default()),
        })
    })
}

/// The tables of a list that are partitioned by the type.
fn by_type(list: &str, target: pg_sys::Oid) -> Vec<pg_sys::Oid> {
    let mut tables = oids(list, target);
    tables.retain(|table| lock::is_partitioned_by(*table, FILLED));
    tables
}

fn oids(sql: &str, target: pg_sys::Oid) -> Vec<pg_sys::Oid> {
    Spi::connect(|client| -> pgrx::spi::Result<Vec<pg_sys::Oid>> {
        let rows = client.select(sql, None, &[DatumWithOid::from(target)])?;
        let mut oids = Vec::new();
        for row in rows {
            oids.extend(row.get::<pg_sys::Oid>(1)?);
        }
        Ok(oids)
    })
    .unwrap_or_else(|error| pgrx::error!("could not list tables: {error}"))
}

/// Tables that somehow belong to the target and aren't filled.
#[derive(Default)]
pub struct Others {
    pub count: usize,
    /// The names of the first [`NAMED`] of them, for messages that put them in quotes.
    pub names: Vec<String>,
}

impl Others {
    fn of(tables: Vec<pg_sys::Oid>, known: &mut HashSet<u32>) -> Others {
        let new = tables
            .into_iter()
            .filter(|table| known.insert(table.to_u32()));
        let new: Vec<_> = new.collect();
        // A table that has been dropped meanwhile has no name any more.
        let names = new
            .iter()
            .take(NAMED)
            .filter_map(|table| plain_name(*table));
        Others {
            names: names.collect(),
            count: new.len(),
        }
    }
}

/// The current leaves: those without a valid mark, and those that are `always` to be listed. And the tables that
/// aren't filled, except those already `known`: of a partitioned target, partitions that are foreign tables, whose
/// access method doesn't support TID range scans, or that are partitioned by the type; of another target, the tables
/// that inherit from it. Must be called inside a subtransaction, with a safe search path, and with the tables of
/// [`super::marks::Marks::reads`] locked if there are `marks`.
pub fn leaves(
    target: &Target,
    known: &mut HashSet<u32>,
    marks: Option<&Marks>,
    always: &[u32],
) -> Listing {
    // It may have become a partition since the run began.
    check_partitioning(target.oid, &target.plain_name, &[LIST_ABOVE])
        .unwrap_or_else(|error| error.raise());
    let mut leaves = Vec::new();
    let mut passed_over = PassedOver::default();
    let mut methods = HashMap::new();
    let mut sizes = files::Sizes::default();
    let (citus, roots) = citus::roots(target.oid, Some(target.citus), &target.call)
        .unwrap_or_else(|error| error.raise());
    let mut others = match (target.partitioned, citus) {
        (true, _) => by_type(LIST_BELOW, target.oid),
        (false, citus::Kind::Distributed) => Vec::new(),
        (false, _) => oids(LIST_CHILDREN, target.oid),
    };
    let mut arguments = vec![
        DatumWithOid::from(roots),
        DatumWithOid::from(others.clone()),
    ];
    let sql = match marks {
        Some(marks) => {
            arguments.extend(marks.list_arguments(target, always));
            marks.list_sql()
        }
        None => {
            arguments.push(DatumWithOid::from(shape::of_target(target.oid)));
            format!("{TREE}{LIST_LEAVES}")
        }
    };
    let mut list = |client: &pgrx::spi::SpiClient<'_>| -> pgrx::spi::Result<()> {
        for row in client.select(sql.as_str(), None, &arguments)? {
            let number = |column| -> pgrx::spi::Result<Option<u64>> {
                Ok(row.get::<i64>(column)?.map(|number| number as u64))
            };
            let (written, rows_left) = (number(7)?, number(8)?);
            let Some(oid) = row.get::<pg_sys::Oid>(1)? else {
                passed_over = PassedOver {
                    with_rows_left: std::mem::take(&mut passed_over.with_rows_left),
                    leaves: written.unwrap_or(0),
                    rows_left: rows_left.unwrap_or(0),
                    blocks: number(9)?.unwrap_or(0),
                    other_marks: number(10)?.unwrap_or(0),
                    since: row.get::<f64>(11)?.unwrap_or(0.0),
                };
                continue;
            };
            let Some(pages) = row.get::<i32>(2)? else {
                passed_over.with_rows_left.push(oid.to_u32());
                continue;
            };
            let usable = row.get::<pg_sys::Oid>(3)?.is_some_and(|method| {
                let usable = methods.entry(method);
                *usable.or_insert_with(|| method_scans_tid_ranges(method))
            });
            if usable {
                let [number, tablespace] = [4, 5]
                    .map(|column| row.get::<pg_sys::Oid>(column))
                    .map(|oid| oid.map(|oid| oid.unwrap_or(pg_sys::InvalidOid)));
                let (number, tablespace) = (number?, tablespace?);
                let blocks = match pages {
                    // As for a table that is empty, or was never analyzed.
                    ..=0 => sizes.blocks(tablespace, number),
                    blocks => blocks as u32,
                };
                leaves.push(ListedLeaf {
                    oid: oid.to_u32(),
                    blocks,
                    file: files::identity(tablespace, number),
                    marked: row.get::<bool>(6)?.unwrap_or(false),
                    unchanged: written
                        .zip(rows_left)
                        .map(|(written, rows_left)| Unchanged { written, rows_left }),
                });
            } else {
                others.push(oid);
            }
        }
        Ok(())
    };
    stats::as_of_now(|| Spi::connect(|client| list(client)))
        .unwrap_or_else(|error| pgrx::error!("could not list the leaves: {error}"));
    leaves.sort_unstable_by_key(|leaf| (std::cmp::Reverse(leaf.blocks), leaf.oid));
    Listing {
        leaves,
        others: Others::of(others, known),
        passed_over,
    }
}
