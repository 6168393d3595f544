//! Tables that Citus distributes over nodes.
//!
//! A distributed table is empty on every node: its rows are in *shards*, separate tables on the node that has the
//! active *placement* of the shard. So the leaves of a run on a distributed table are the placements on its node, or
//! their partitions: a partition of a distributed table is distributed itself, and its shards are partitions of the
//! shards of the table above. Each node fills its own shards, and needs to know nothing about the others.
//!
//! A shard can leave the node at any time, when it is moved, or split into others. Its table stays for a while, and
//! what is written to it is lost. Citus protects its own writes from that by a lock on the shard, which whoever takes
//! a shard away must hold exclusively. We take the same lock for each batch, before anything else, and then check
//! whether the placement is still here. If so, what the batch writes is copied, or replicated, to wherever the shard
//! goes. The checks are made for the leaf, under its lock, not once for the target: a table can become distributed
//! while a run fills it, and is no longer a leaf then. The commit is flushed to disk before the lock is released,
//! because replication of a shard depends on that.
//!
//! If Citus keeps several copies of a table, each copy would be filled by itself, and nothing would keep others from
//! changing the rows in between. Such tables are refused.

use std::cell::OnceCell;

use pgrx::datum::DatumWithOid;
use pgrx::spi::OwnedPreparedStatement;
use pgrx::{Spi, pg_sys};

use crate::errors::Error;
use crate::pg::citus as pg;
use crate::pg::encoding::text_value;
use crate::pg::identity::as_owner;
use crate::pg::lock::{plain_name, qualified_name};

/// How Citus keeps a table: the distribution method and the replication model (the columns of `pg_dist_partition`),
/// the distribution column, and whether a shard has several placements.
const DESCRIBE: &str = "
SELECT p.partmethod::text, p.repmodel::text, column_to_column_name(p.logicalrelid, p.partkey),
       EXISTS (SELECT FROM pg_dist_shard s JOIN pg_dist_placement a ON a.shardid = s.shardid AND a.shardstate = 1
                WHERE s.logicalrelid = p.logicalrelid GROUP BY s.shardid HAVING count(*) > 1)
  FROM pg_dist_partition p WHERE p.logicalrelid = $1";

/// The shards of a table whose active placement is on this node.
const SHARDS_HERE: &str = "
SELECT c.oid
  FROM pg_dist_shard s
  JOIN pg_dist_placement a ON a.shardid = s.shardid AND a.shardstate = 1
  JOIN pg_dist_local_group g ON g.groupid = a.groupid
  JOIN pg_class t ON t.oid = s.logicalrelid,
       parse_ident(shard_name(s.logicalrelid, s.shardid)) n(parts)
  JOIN pg_class c ON c.relname = n.parts[cardinality(n.parts)]::name
 WHERE s.logicalrelid = $1 AND c.relnamespace = t.relnamespace";

/// What Citus knows about a relation ($1): whether it is a table whose rows are elsewhere; and if it is a shard, its
/// table and number, whether this node has its active placement, and whether it belongs to a target ($2). A shard's
/// name ends with its number.
const LOOK_AT: &str = "
SELECT EXISTS (SELECT FROM pg_dist_partition p WHERE p.logicalrelid = c.oid),
       shard.logicalrelid::oid, shard.shardid, shard.is_here,
       shard.logicalrelid = $2 OR EXISTS (SELECT FROM pg_partition_ancestors(shard.logicalrelid) a WHERE a.relid = $2)
  FROM pg_class c
  LEFT JOIN LATERAL (
       SELECT s.logicalrelid, s.shardid,
              EXISTS (SELECT FROM pg_dist_placement a JOIN pg_dist_local_group g ON g.groupid = a.groupid
                       WHERE a.shardid = s.shardid AND a.shardstate = 1) AS is_here
         FROM pg_dist_shard s
         JOIN pg_class t ON t.oid = s.logicalrelid AND t.relnamespace = c.relnamespace,
              parse_ident(shard_name(s.logicalrelid, s.shardid)) n(parts)
        WHERE s.shardid = substring(c.relname::text from '_([0-9]{1,18})$')::bigint
          AND c.relname = n.parts[cardinality(n.parts)]::name) shard ON true
 WHERE c.oid = $1";

/// The distribution method and the replication model of a table of which each node has a full copy.
const REFERENCE: (&str, &str) = ("n", "t");
const APPEND: &str = "a";

/// A procedure call, for the statement that makes it on all nodes.
#[derive(Debug, Clone)]
pub struct Call {
    /// Its name, qualified and quoted.
    pub procedure: String,
    /// All but the target, each with its name.
    pub arguments: Vec<String>,
}

/// What a target is to Citus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A table that Citus doesn't distribute.
    Local,
    Distributed,
    /// A shard of a distributed table; it may have left this node.
    Shard {
        is_here: bool,
    },
}

/// What a leaf is to Citus.
#[derive(Debug, Clone, Copy, Default)]
pub struct Standing {
    /// Its rows are elsewhere: it is the table by whose name a distributed table is known.
    pub distributed: bool,
    pub shard: Option<Shard>,
}

/// A shard, as of the latest check.
#[derive(Debug, Clone, Copy)]
pub struct Shard {
    pub id: i64,
    table: pg_sys::Oid,
    /// Whether this node has its active placement.
    pub is_here: bool,
    /// Whether it belongs to the target.
    pub is_of_target: bool,
}

impl Call {
    /// The error that no shard of a table is on this node.
    fn nothing_here(&self, table: pg_sys::Oid) -> Error {
        let target = qualified_name(table).unwrap_or_default();
        let arguments = self.arguments.iter().map(String::as_str);
        let target = format!("target => {}", quoted(&target));
        let arguments: Vec<&str> = arguments.chain([target.as_str()]).collect();
        let call = format!("CALL {}({})", self.procedure, arguments.join(", "));
        Error::NoShards {
            target: plain_name(table).unwrap_or_default(),
            has_procedure: as_owner(&[], || self.is_there()),
            statement: format!(
                "SELECT * FROM pg_catalog.run_command_on_all_nodes({})",
                quoted_long(&call)
            ),
        }
    }

    /// Whether the procedure exists: not if the extension's SQL objects are those of an earlier version. Must be
    /// called as the extension's owner.
    fn is_there(&self) -> bool {
        let found = Spi::connect(|client| {
            let procedure = [text_value(&self.procedure)];
            let sql = "SELECT pg_catalog.to_regproc($1) IS NOT NULL";
            let table = client.select(sql, Some(1), &procedure)?;
            table.first().get_one::<bool>()
        });
        found.ok().flatten().unwrap_or(false)
    }
}

/// An SQL string literal that is valid whatever `standard_conforming_strings` is.
pub fn quoted(text: &str) -> String {
    match text.contains('\\') {
        false => format!("'{}'", text.replace('\'', "''")),
        true => format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''")),
    }
}

/// The same, in dollar quotes if possible, so that quotes within it need no escaping.
fn quoted_long(text: &str) -> String {
    match text.contains('$') {
        false => format!("$${text}$$"),
        true => quoted(text),
    }
}

/// What a target, given by its OID, is to Citus; an error if it can't be filled. Must be called inside a
/// (sub)transaction.
pub fn kind(target: pg_sys::Oid) -> Result<Kind, Error> {
    if !pg::is_there() {
        return Ok(Kind::Local);
    }
    let standing = as_owner(&[], || look_at(target, target));
    let (table, kind) = match standing.shard {
        _ if standing.distributed => (target, Kind::Distributed),
        Some(Shard { table, is_here, .. }) => (table, Kind::Shard { is_here }),
        None => return Ok(Kind::Local),
    };
    as_owner(&[], || check(table))?;
    Ok(kind)
}

/// The topmost tables that are to be filled on this node. `was` is what the target was when the run began, if it has
/// begun. If a distributed table has no shard here, that is an error, unless it had some when the run began. Must be
/// called inside a (sub)transaction.
pub fn roots(
    target: pg_sys::Oid,
    was: Option<Kind>,
    call: &Call,
) -> Result<(Kind, Vec<pg_sys::Oid>), Error> {
    let kind = kind(target)?;
    let roots = match kind {
        Kind::Local | Kind::Shard { is_here: true } => vec![target],
        Kind::Shard { is_here: false } => Vec::new(),
        Kind::Distributed => as_owner(&[], || shards_here(target)),
    };
    let had_some = matches!(was, Some(Kind::Distributed | Kind::Shard { .. }));
    match roots.is_empty() && !had_some {
        true => {
            let table = as_owner(&[], || look_at(target, target)).shard;
            Err(call.nothing_here(table.map_or(target, |shard| shard.table)))
        }
        false => Ok((kind, roots)),
    }
}

/// What a leaf of a target is to Citus. Must be called inside a transaction with a snapshot.
pub fn standing(leaf: pg_sys::Oid, target: pg_sys::Oid) -> Standing {
    if !pg::is_there() {
        return Standing::default();
    }
    // Most leaves can't be shards, and this is called thousands of times.
    match plain_name(leaf).is_some_and(|name| may_be_a_shard(&name)) {
        true => as_owner(&[], || look_at(leaf, target)),
        false => Standing {
            distributed: pg::is_distributed(leaf),
            shard: None,
        },
    }
}

/// Whether a table has a shard's name, which ends with the shard's number.
fn may_be_a_shard(name: &str) -> bool {
    let digit = |c: char| c.is_ascii_digit();
    let number = name.trim_end_matches(digit);
    number.len() < name.len() && number.ends_with('_')
}

/// An error if a table can't be filled on each node separately. Must be called as the extension's owner.
fn check(table: pg_sys::Oid) -> Result<(), Error> {
    let described = Spi::connect(|client| -> pgrx::spi::Result<_> {
        let row = client.select(DESCRIBE, Some(1), &[DatumWithOid::from(table)])?;
        let row = row.first();
        match row.is_empty() {
            true => Ok(None),
            false => Ok(Some((
                row.get::<String>(1)?.unwrap_or_default(),
                row.get::<String>(2)?.unwrap_or_default(),
                row.get::<String>(3)?.unwrap_or_default(),
                row.get::<bool>(4)?.unwrap_or(false),
            ))),
        }
    })
    .unwrap_or_else(|error| pgrx::error!("could not read pg_dist_partition: {error}"));
    // It existed a moment ago; if it no longer does, neither do its shards.
    let Some((method, copies, column, replicated)) = described else {
        return Ok(());
    };
    let name = plain_name(table).unwrap_or_default();
    if (method.as_str(), copies.as_str()) == REFERENCE {
        return Err(Error::ReferenceTable { name });
    }
    if method == APPEND {
        return Err(Error::AppendDistributed { name });
    }
    if replicated {
        return Err(Error::ReplicatedShards { name });
    }
    if column == "mime_type" {
        return Err(Error::DistributedByType { name });
    }
    match pg::can_lock_shards() {
        true => Ok(()),
        false => Err(Error::UnknownCitus { name }),
    }
}

/// Must be called as the extension's owner.
fn shards_here(table: pg_sys::Oid) -> Vec<pg_sys::Oid> {
    Spi::connect(|client| -> pgrx::spi::Result<Vec<pg_sys::Oid>> {
        let mut shards = Vec::new();
        for row in client.select(SHARDS_HERE, None, &[DatumWithOid::from(table)])? {
            shards.extend(row.get::<pg_sys::Oid>(1)?);
        }
        Ok(shards)
    })
    .unwrap_or_else(|error| pgrx::error!("could not list shards: {error}"))
}

/// Must be called as the extension's owner.
fn look_at(relation: pg_sys::Oid, target: pg_sys::Oid) -> Standing {
    thread_local! {
        /// Never freed: the process may end where PostgreSQL can no longer do that.
        static PREPARED: OnceCell<&'static OwnedPreparedStatement> = const { OnceCell::new() };
    }
    let arguments = [DatumWithOid::from(relation), DatumWithOid::from(target)];
    Spi::connect(|client| -> pgrx::spi::Result<Standing> {
        let prepared = match PREPARED.with(|prepared| prepared.get().copied()) {
            Some(prepared) => prepared,
            None => {
                let types = [pg_sys::PgOid::from(pg_sys::OIDOID); 2];
                let prepared: &_ = Box::leak(Box::new(client.prepare(LOOK_AT, &types)?.keep()));
                PREPARED.with(|cell| *cell.get_or_init(|| prepared))
            }
        };
        let row = client.select(prepared, Some(1), &arguments)?;
        let row = row.first();
        if row.is_empty() {
            return Ok(Standing::default());
        }
        let (table, id) = (row.get::<pg_sys::Oid>(2)?, row.get::<i64>(3)?);
        let (is_here, is_of_target) = (row.get::<bool>(4)?, row.get::<bool>(5)?);
        Ok(Standing {
            distributed: row.get::<bool>(1)?.unwrap_or(false),
            shard: id.map(|id| Shard {
                id,
                table: table.unwrap_or(pg_sys::InvalidOid),
                is_here: is_here.unwrap_or(false),
                is_of_target: is_of_target.unwrap_or(false),
            }),
        })
    })
    .unwrap_or_else(|error| pgrx::error!("could not read pg_dist_shard: {error}"))
}

#[cfg(test)]
mod tests {
    use super::{may_be_a_shard, quoted, quoted_long};

    #[test]
    fn a_shard_has_a_number_at_its_end() {
        assert!(may_be_a_shard("public.blob_102008"));
        assert!(!may_be_a_shard("public.blob"));
        assert!(!may_be_a_shard("public.inode_m0"));
        assert!(!may_be_a_shard("public.inode_"));
    }

    #[test]
    fn literals_are_read_as_they_were_meant() {
        assert_eq!(quoted("public.blob"), "'public.blob'");
        assert_eq!(quoted("public.\"it's\""), "'public.\"it''s\"'");
        assert_eq!(quoted("public.\"a\\b\""), "E'public.\"a\\\\b\"'");
        assert_eq!(quoted_long("CALL a('b')"), "$$CALL a('b')$$");
        assert_eq!(quoted_long("CALL \"a$\"('b')"), "'CALL \"a$\"(''b'')'");
    }
}
