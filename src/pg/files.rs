//! The files of tables: their identity and their size.

use std::collections::HashMap;

use pgrx::pg_sys;

use super::encoding::from_server_c;

/// Identifies a file by one number, made of its tablespace and its relfilenumber as pg_class has them; for the
/// database's own tablespace pg_class has 0. The result is never 0.
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

/// Sizes of tables' files in this database, read without a lock: `pg_relation_size` takes one.
#[derive(Default)]
pub struct Sizes {
    /// The directory of the database in each tablespace, relative to the data directory, which is the working
    /// directory of server processes.
    folders: HashMap<pg_sys::Oid, String>,
}

impl Sizes {
    /// The number of blocks of a file, named as in pg_class; 0 if the file no longer exists.
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
        // Usually in segments of 1 GB each; the first has no number.
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
