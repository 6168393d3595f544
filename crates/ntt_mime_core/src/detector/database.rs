//! Which magic database libmagic uses, and how large it is.
//!
//! A compiled database starts with four 32-bit numbers: a magic number, the format's version, and the
//! number of entries of each of its two sets (`apprentice_map` and `check_buffer` in libmagic's
//! apprentice.c, releases 5.44 to 5.47). It is written in the byte order of the machine that made it.

use std::fs::File;
use std::io::Read;

use super::cookie;

const MAGIC_NUMBER: u32 = 0xF11E_041C;

/// The database in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MagicDatabase {
    /// One path, or several with `:` between; empty if libmagic finds none.
    pub path: String,
    /// Entries of those that are compiled; None if none is, or one can't be counted. (Debian's
    /// /etc/magic, the first of two, is a text of comments.)
    pub entries: Option<u32>,
}

/// The database that libmagic would load now.
pub fn magic_database() -> MagicDatabase {
    let path = cookie::database_path().unwrap_or_default();
    let entries = path
        .split(':')
        .filter_map(entries_of)
        .try_fold(0u32, u32::checked_add)
        .filter(|entries| *entries > 0);
    MagicDatabase { path, entries }
}

/// Entries of one database. libmagic appends ".mgc" where the path doesn't end in it.
fn entries_of(path: &str) -> Option<u32> {
    let compiled = match path.ends_with(".mgc") {
        true => path.to_owned(),
        false => format!("{path}.mgc"),
    };
    let mut header = [0; 16];
    File::open(compiled).ok()?.read_exact(&mut header).ok()?;
    parse_header(&header)
}

fn parse_header(header: &[u8; 16]) -> Option<u32> {
    let word = |n: usize| {
        let bytes = [0, 1, 2, 3].map(|i| header[4 * n + i]);
        u32::from_ne_bytes(bytes)
    };
    let in_order: fn(u32) -> u32 = match word(0) {
        MAGIC_NUMBER => |word| word,
        other if other.swap_bytes() == MAGIC_NUMBER => u32::swap_bytes,
        _ => return None,
    };
    in_order(word(2)).checked_add(in_order(word(3)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(words: [u32; 4], order: fn(u32) -> [u8; 4]) -> [u8; 16] {
        let bytes: Vec<u8> = words.iter().flat_map(|word| order(*word)).collect();
        bytes.try_into().unwrap()
    }

    #[test]
    fn both_byte_orders_are_understood() {
        let words = [MAGIC_NUMBER, 18, 1000, 234];
        assert_eq!(parse_header(&header(words, u32::to_le_bytes)), Some(1234));
        assert_eq!(parse_header(&header(words, u32::to_be_bytes)), Some(1234));
    }

    #[test]
    fn anything_else_is_refused() {
        assert_eq!(parse_header(&[0; 16]), None);
        let words = [MAGIC_NUMBER, 18, u32::MAX, 1];
        assert_eq!(parse_header(&header(words, u32::to_le_bytes)), None);
        assert_eq!(entries_of("/nonexistent"), None);
    }

    #[test]
    fn this_machine_has_one() {
        let database = magic_database();
        assert!(!database.path.is_empty());
        assert!(
            database.entries.is_some_and(|entries| entries > 1000),
            "{database:?}"
        );
    }
}
