//! Which magic database libmagic uses, and how large it is.
//!
//! libmagic has a list of paths separated by `:`, from the environment variable MAGIC or built in. It uses the
//! compiled form of each if there is one (`mkdbname` in its apprentice.c), otherwise the text. In Debian's list are a
//! text with nothing but comments, /etc/magic, and the real database.
//!
//! A compiled database starts with four 32-bit numbers in the byte order of the machine that made it: a magic number,
//! the version of the format, and the number of entries in each of its two sets. All entries have the same size,
//! which depends on the version, and the first contains these numbers (`check_buffer` in apprentice.c, releases 5.44
//! to 5.48).

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::cookie;

/// The first number of a compiled database.
pub const MAGIC_NUMBER: u32 = 0xF11E_041C;

/// No text database is larger: all of libmagic's own sources are 4 MB.
const LARGEST_TEXT: u64 = 64 * 1024 * 1024;

/// The database in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MagicDatabase {
    /// The files from which libmagic takes it, separated by `:`, or where it would look if there are none.
    pub path: String,
    /// The number of rules in all of them, including continuations; None if unknown.
    pub entries: Option<u32>,
}

/// The database that libmagic would load now.
pub fn magic_database() -> MagicDatabase {
    let list = cookie::database_path().unwrap_or_default();
    database_of(&list)
}

/// The compiled database that libmagic would load now, if it is the only source of rules.
pub fn only_compiled() -> Option<String> {
    let sources = sources_of(&cookie::database_path()?);
    let (compiled, texts): (Vec<Source>, Vec<Source>) = sources
        .into_iter()
        .partition(|source| matches!(source, Source::Compiled(_)));
    let silent = texts.iter().all(|text| text.entries() == Some(0));
    match compiled.as_slice() {
        [Source::Compiled(path)] if silent => Some(path.clone()),
        _ => None,
    }
}

fn sources_of(list: &str) -> Vec<Source> {
    // libmagic stops at an empty path.
    let paths = list.split(':').take_while(|path| !path.is_empty());
    paths.filter_map(Source::find).collect()
}

fn database_of(list: &str) -> MagicDatabase {
    let sources = sources_of(list);
    if sources.is_empty() {
        return MagicDatabase {
            path: list.to_owned(),
            entries: None,
        };
    }
    let files: Vec<&str> = sources.iter().map(Source::path).collect();
    MagicDatabase {
        path: files.join(":"),
        entries: sources
            .iter()
            .try_fold(0u32, |sum, source| sum.checked_add(source.entries()?)),
    }
}

/// The form in which libmagic uses one path of the list.
enum Source {
    Compiled(String),
    Text(String),
}

impl Source {
    /// As `mkdbname` does it when libmagic is asked for MIME types.
    fn find(path: &str) -> Option<Source> {
        let stem = path.strip_suffix(".mgc").unwrap_or(path);
        let compiled = [format!("{stem}.mime.mgc"), format!("{stem}.mgc")]
            .into_iter()
            .find(|candidate| File::open(candidate).is_ok());
        match compiled {
            Some(compiled) => Some(Source::Compiled(compiled)),
            None => Path::new(path)
                .exists()
                .then(|| Source::Text(path.to_owned())),
        }
    }

    fn path(&self) -> &str {
        match self {
            Source::Compiled(path) | Source::Text(path) => path,
        }
    }

    fn entries(&self) -> Option<u32> {
        let mut file = File::open(self.path()).ok()?;
        let metadata = file.metadata().ok()?;
        match self {
            Source::Compiled(_) => {
                let mut header = [0; 16];
                file.read_exact(&mut header).ok()?;
                entries_of_header(&header, metadata.len())
            }
            // Counting a directory of texts isn't worthwhile.
            Source::Text(_) if !metadata.is_file() || metadata.len() > LARGEST_TEXT => None,
            Source::Text(_) => {
                let mut text = Vec::new();
                file.read_to_end(&mut text).ok()?;
                Some(entries_of_text(&text))
            }
        }
    }
}

/// None if these aren't the first bytes of a compiled database of `size` bytes.
fn entries_of_header(header: &[u8; 16], size: u64) -> Option<u32> {
    let (words, _) = header.as_chunks::<4>();
    let read = match MAGIC_NUMBER {
        number if u32::from_le_bytes(words[0]) == number => u32::from_le_bytes,
        number if u32::from_be_bytes(words[0]) == number => u32::from_be_bytes,
        _ => return None,
    };
    let entries = read(words[2]).checked_add(read(words[3]))?;
    let whole = entries > 0 && size.is_multiple_of(u64::from(entries) + 1);
    whole.then_some(entries)
}

/// Each line is a rule, except comments and lines that belong to the previous one (`!:mime`, for example).
fn entries_of_text(text: &[u8]) -> u32 {
    let lines = text.split(|byte| *byte == b'\n');
    let entries = lines
        .filter(|line| !line.trim_ascii().is_empty())
        .filter(|line| !line.starts_with(b"#") && !line.starts_with(b"!:"));
    u32::try_from(entries.count()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn header(words: [u32; 4], order: fn(u32) -> [u8; 4]) -> [u8; 16] {
        let bytes: Vec<u8> = words.iter().flat_map(|word| order(*word)).collect();
        bytes.try_into().unwrap()
    }

    #[test]
    fn both_byte_orders_are_understood() {
        let words = [MAGIC_NUMBER, 18, 1000, 234];
        let size = 1235 * 376;
        for order in [u32::to_le_bytes, u32::to_be_bytes] {
            assert_eq!(entries_of_header(&header(words, order), size), Some(1234));
        }
    }

    #[test]
    fn anything_else_is_refused() {
        let count = |words, size| entries_of_header(&header(words, u32::to_le_bytes), size);
        assert_eq!(count([0; 4], 376), None);
        assert_eq!(count([MAGIC_NUMBER, 18, u32::MAX, 1], 376), None);
        assert_eq!(count([MAGIC_NUMBER, 18, 0, 0], 376), None);
        assert_eq!(count([MAGIC_NUMBER, 18, 1000, 234], 1235 * 376 - 1), None);
    }

    #[test]
    fn the_files_are_those_that_libmagic_takes() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
        let compiled = |name: &str, entries: u32| {
            let mut content = header([MAGIC_NUMBER, 18, entries, 1], u32::to_ne_bytes).to_vec();
            content.resize((entries as usize + 2) * 16, 0);
            fs::write(path(name), content).unwrap();
        };
        let text = "# comment\n\n0\tstring\tx\tx\n>1\tbyte\t1\ty\n!:mime\ta/b\n";
        fs::write(path("local"), text).unwrap();
        compiled("magic.mgc", 10);
        compiled("other.mgc", 20);
        let database = |list: &[&str]| {
            let list: Vec<String> = list.iter().map(|name| path(name)).collect();
            let MagicDatabase { path, entries } = database_of(&list.join(":"));
            let root = directory.path().to_str().unwrap();
            (path.replace(&format!("{root}/"), ""), entries)
        };
        let is = |path: &str, entries| (path.to_owned(), entries);
        assert_eq!(database(&["magic"]), is("magic.mgc", Some(11)));
        assert_eq!(database(&["magic.mgc"]), is("magic.mgc", Some(11)));
        assert_eq!(
            database(&["local", "magic", "gone", "other"]),
            is("local:magic.mgc:other.mgc", Some(2 + 11 + 21))
        );
        compiled("magic.mime.mgc", 30);
        assert_eq!(database(&["magic"]), is("magic.mime.mgc", Some(31)));
        assert_eq!(database(&["gone"]), is("gone", None));
        fs::write(path("bad.mgc"), "nothing of the sort").unwrap();
        assert_eq!(database(&["bad", "other"]), is("bad.mgc:other.mgc", None));
        fs::create_dir(path("folder")).unwrap();
        assert_eq!(database(&["folder"]), is("folder", None));
        assert_eq!(
            database_of(""),
            MagicDatabase {
                path: String::new(),
                entries: None
            }
        );
    }

    #[test]
    fn this_machine_has_one() {
        let database = magic_database();
        assert!(database.path.contains('/'), "{database:?}");
        assert!(
            database.entries.is_some_and(|entries| entries > 1000),
            "{database:?}"
        );
    }
}
