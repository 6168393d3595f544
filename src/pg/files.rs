//! The files in which tables are: which one it is, and how large.

use std::collections::HashMap;

use pgrx::pg_sys;

use super::encoding::from_server_c;

/// A file as one number, by its tablespace and its number there as pg_class has them: there the database's own tablespace
/// has no oid. Not 0.
pub fn identity(tablespace: pg_sys::Oid, number: pg_sys::Oid) -> u64 {
    u64::from(oid_of(tablespace).to_u32()) << 32 | u64::from(number.to_u32())
}

fn oid_of(tablespace: pg_sys::Oid) -> pg_sys::Oid {
    match tablespace {
        // SAFETY: set once at connection start.
        pg_sys::InvalidOid => unsafe { pg_sys::MyDatabaseTableSpace },
        other => other,
    }
}

/// Sizes of tables in files of this database, asked for without a lock: `pg_relation_size` takes one.
#[derive(Default)]
pub struct Sizes {
    /// The folder of the database in each tablespace, relative to the data directory, in which server processes are.
    folders: HashMap<pg_sys::Oid, String>,
}

impl Sizes {
    /// Blocks of a file, as pg_class has it; 0 if there is no such file any more.
    pub fn blocks(&mut self, tablespace: pg_sys::Oid, number: pg_sys::Oid) -> u32 {
        let tablespace = oid_of(tablespace);
        let folder = self.folders.entry(tablespace).or_insert_with(|| {
            // SAFETY: a palloc'ed C string.
            unsafe {
                let path = pg_sys::GetDatabasePath(pg_sys::MyDatabaseId, tablespace);
                from_server_c(path).unwrap_or_default()
            }
        });
        let path = format!("{folder}/{}", number.to_u32());
        // In files of 1 GB each, as a rule, the first without a number of its own.
        let segments = std::iter::once(path.clone()).chain((1..).map(|n| format!("{path}.{n}")));
        let mut blocks: u64 = 0;
        for segment in segments {
            let bytes = std::fs::metadata(segment).map_or(0, |file| file.len());
            blocks += bytes / u64::from(pg_sys::BLCKSZ);
            if bytes < u64::from(pg_sys::RELSEG_SIZE) * u64::from(pg_sys::BLCKSZ) {
                break;
            }
        }
        u32::try_from(blocks).unwrap_or(u32::MAX)
    }
}
