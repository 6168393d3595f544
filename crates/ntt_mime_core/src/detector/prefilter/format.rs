//! The compiled magic database as libmagic maps it: the entries of its rules, read in place.
//!
//! The file is an array of `struct magic` (src/file.h of libmagic). In place of the first are the magic number, the
//! version, and how many entries each of the two sets has: rules, then named rules (`check_buffer` in
//! src/apprentice.c). The layout depends on the version:
//!
//! | version | bytes an entry | what differs |
//! |---:|---:|---|
//! | 16, 18 | 376 | `cont_level` is the first word, `flag` a byte after it |
//! | 20, 21 | 432 | `flag` is the first word, `cont_level` a byte after it; `ext` is longer |
//!
//! Which release has which version is in [`LIBRARIES`](crate::detector::release::LIBRARIES).
//!
//! An administrator may replace the file by anything. Whatever isn't exactly as expected is refused, and nothing that
//! is read from the file is used as an index without a bounds check.

use std::fs::File;
use std::os::unix::fs::MetadataExt;

use crate::detector::database::MAGIC_NUMBER;
use crate::memory::Mapping;

/// No database is larger: those of the releases above have 8 to 11 MB.
const LARGEST: u64 = 64 << 20;

/// The positions of the fields that move. All others are in the same place in every version.
#[derive(Debug, PartialEq, Eq)]
struct Layout {
    version: u32,
    entry_bytes: usize,
    /// `flag` is the first word and `cont_level` the third byte, or the other way round.
    flag_first: bool,
}

const LAYOUTS: [Layout; 4] = [
    Layout {
        version: 16,
        entry_bytes: 376,
        flag_first: false,
    },
    Layout {
        version: 18,
        entry_bytes: 376,
        flag_first: false,
    },
    Layout {
        version: 20,
        entry_bytes: 432,
        flag_first: true,
    },
    Layout {
        version: 21,
        entry_bytes: 432,
        flag_first: true,
    },
];

/// `flag`: `BINTEST`, `TEXTTEST` and so on.
pub mod flag {
    pub const INDIR: u16 = 0x01;
    pub const OFFADD: u16 = 0x02;
    pub const INDIROFFADD: u16 = 0x04;
    pub const UNSIGNED: u16 = 0x08;
    pub const BINTEST: u16 = 0x20;
    pub const TEXTTEST: u16 = 0x40;
    pub const OFFNEGATIVE: u16 = 0x80;
    /// Since version 20.
    pub const OFFPOSITIVE: u16 = 0x100;
}

/// `str_flags`.
pub mod str_flag {
    pub const COMPACT_WHITESPACE: u32 = 1 << 0;
    pub const COMPACT_OPTIONAL_WHITESPACE: u32 = 1 << 1;
    pub const IGNORE_LOWERCASE: u32 = 1 << 2;
    pub const IGNORE_UPPERCASE: u32 = 1 << 3;
    pub const TEXTTEST: u32 = 1 << 5;
    pub const BINTEST: u32 = 1 << 6;
    pub const LINE_COUNT: u32 = 1 << 11;
    /// For a string with its length before it: the length has one byte, and all bits for its size.
    pub const PSTRING_1: u32 = 1 << 7;
    pub const PSTRING_LEN: u32 = 0b1_1111 << 7;
    /// For a search or a regular expression: where continuations are relative to.
    pub const OFFSET_START: u32 = 1 << 4;
    /// It has taken effect when the database was compiled.
    pub const TRIM: u32 = 1 << 13;
    pub const FULL_WORD: u32 = 1 << 14;
    pub const IGNORE_CASE: u32 = IGNORE_LOWERCASE | IGNORE_UPPERCASE;
}

/// `type`: what a test compares.
pub mod kind {
    pub const BYTE: u8 = 1;
    pub const SHORT: u8 = 2;
    pub const LONG: u8 = 4;
    pub const STRING: u8 = 5;
    pub const DATE: u8 = 6;
    pub const DEFAULT: u8 = 3;
    pub const BESHORT: u8 = 7;
    pub const BELONG: u8 = 8;
    pub const BEDATE: u8 = 9;
    pub const LESHORT: u8 = 10;
    pub const LELONG: u8 = 11;
    pub const LEDATE: u8 = 12;
    pub const LDATE: u8 = 14;
    pub const BELDATE: u8 = 15;
    pub const LELDATE: u8 = 16;
    pub const PSTRING: u8 = 13;
    pub const REGEX: u8 = 17;
    pub const BESTRING16: u8 = 18;
    pub const LESTRING16: u8 = 19;
    pub const SEARCH: u8 = 20;
    pub const QUAD: u8 = 24;
    pub const LEQUAD: u8 = 25;
    pub const BEQUAD: u8 = 26;
    pub const BEID3: u8 = 39;
    pub const LEID3: u8 = 40;
    pub const INDIRECT: u8 = 41;
    pub const NAME: u8 = 45;
    pub const USE: u8 = 46;
    pub const CLEAR: u8 = 47;
    pub const DER: u8 = 48;
    pub const GUID: u8 = 49;

    /// Those that are tried only for text, or only for other content, if their flags say so (`IS_STRING`). OCTAL,
    /// whose number depends on the release, also belongs to them.
    pub const STRINGS: [u8; 9] = [
        STRING, PSTRING, BESTRING16, LESTRING16, REGEX, SEARCH, INDIRECT, NAME, USE,
    ];
}

/// Bytes of `value`, `MAXstring`.
pub const VALUE_BYTES: usize = 128;

/// Bytes of `mimetype`, `MAXMIME`.
const MIME_TYPE_BYTES: usize = 80;

/// Why a file isn't used, for messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused(pub &'static str);

/// A compiled database.
pub struct Compiled {
    bytes: Bytes,
    layout: &'static Layout,
    rules: usize,
    named: usize,
}

enum Bytes {
    /// Mapped privately: the kernel shares it among all processes that map it, and with libmagic.
    Mapped(Mapping),
    #[cfg(test)]
    Owned(Vec<u8>),
}

// SAFETY: a read-only mapping. Threads of tests share one.
#[cfg(test)]
unsafe impl Sync for Bytes {}

impl Compiled {
    /// Maps a file.
    pub fn open(path: &str) -> Result<Compiled, Refused> {
        let file = File::open(path).map_err(|_| Refused("it cannot be opened"))?;
        let size = file.metadata().map_or(0, |metadata| metadata.size());
        if !(1..=LARGEST).contains(&size) {
            return Err(Refused("its size is not one that a database has"));
        }
        let mapped = Mapping::of_file(&file, size as usize);
        let mapped = mapped.map_err(|_| Refused("it cannot be mapped"))?;
        Compiled::check(Bytes::Mapped(mapped))
    }

    /// Uses bytes in memory instead of a file.
    #[cfg(test)]
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Compiled, Refused> {
        Compiled::check(Bytes::Owned(bytes))
    }

    fn check(bytes: Bytes) -> Result<Compiled, Refused> {
        let content = bytes.as_slice();
        let header = content
            .first_chunk::<16>()
            .ok_or(Refused("it is too short"))?;
        let (words, _) = header.as_chunks::<4>();
        let [number, version, rules, named] =
            std::array::from_fn(|word| u32::from_ne_bytes(words[word]));
        if number != MAGIC_NUMBER {
            return Err(Refused("it is not a database of this machine's byte order"));
        }
        let layout = LAYOUTS.iter().find(|layout| layout.version == version);
        let layout = layout.ok_or(Refused("its version is not known here"))?;
        let entries = (rules as usize)
            .checked_add(named as usize)
            .and_then(|entries| entries.checked_add(1));
        if rules == 0
            || entries.and_then(|n| n.checked_mul(layout.entry_bytes)) != Some(content.len())
        {
            return Err(Refused("its size is not what it says itself"));
        }
        let compiled = Compiled {
            bytes,
            layout,
            rules: rules as usize,
            named: named as usize,
        };
        if compiled.entry(0).level() != 0 {
            return Err(Refused("it begins with a continuation"));
        }
        Ok(compiled)
    }

    /// The version of its format.
    pub fn version(&self) -> u32 {
        self.layout.version
    }

    /// The size of an entry in bytes.
    pub fn entry_bytes(&self) -> usize {
        self.layout.entry_bytes
    }

    /// The number of entries of rules, including continuations.
    pub fn rules(&self) -> usize {
        self.rules
    }

    /// The number of entries of named rules, which come after the others.
    pub fn named(&self) -> usize {
        self.named
    }

    /// All of it, as it was mapped.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.as_slice()
    }

    /// One entry. Panics if there is none with that number.
    pub fn entry(&self, number: usize) -> Entry<'_> {
        let bytes = self.entries(number, 1);
        Entry {
            bytes,
            layout: self.layout,
        }
    }

    /// The bytes of `n` entries from `first` on.
    pub fn entries(&self, first: usize, n: usize) -> &[u8] {
        let size = self.layout.entry_bytes;
        &self.bytes.as_slice()[(first + 1) * size..(first + 1 + n) * size]
    }
}

impl Bytes {
    fn as_slice(&self) -> &[u8] {
        match self {
            // SAFETY: mapped as long as `self` lives. Whoever truncates the file meanwhile also breaks libmagic's own
            // mapping.
            Bytes::Mapped(mapped) => unsafe {
                std::slice::from_raw_parts(mapped.address().as_ptr(), mapped.bytes())
            },
            #[cfg(test)]
            Bytes::Owned(bytes) => bytes,
        }
    }
}

/// One entry: a test, and what is printed if it succeeds.
#[derive(Clone, Copy)]
pub struct Entry<'a> {
    bytes: &'a [u8],
    layout: &'static Layout,
}

impl<'a> Entry<'a> {
    fn field<const N: usize>(&self, at: usize) -> [u8; N] {
        let bytes = self.bytes[at..at + N].try_into();
        bytes.expect("that many bytes")
    }

    /// `cont_level`: 0 begins a rule, higher levels continue it.
    pub fn level(&self) -> u16 {
        match self.layout.flag_first {
            true => u16::from(self.bytes[2]),
            false => u16::from_ne_bytes(self.field(0)),
        }
    }

    pub fn flag(&self) -> u16 {
        match self.layout.flag_first {
            true => u16::from_ne_bytes(self.field(0)),
            false => u16::from(self.bytes[2]),
        }
    }

    /// `reln`: how to compare, as a character.
    pub fn relation(&self) -> u8 {
        self.bytes[4]
    }

    /// `vallen`: the length of a string's [`value`](Self::value) in bytes.
    pub fn value_length(&self) -> usize {
        usize::from(self.bytes[5])
    }

    pub fn kind(&self) -> u8 {
        self.bytes[6]
    }

    /// `in_type`: the kind of number from which an offset is read.
    pub fn in_kind(&self) -> u8 {
        self.bytes[7]
    }

    /// `in_op`: how `in_offset` is applied to that number.
    pub fn in_op(&self) -> u8 {
        self.bytes[8]
    }

    pub fn in_offset(&self) -> i32 {
        i32::from_ne_bytes(self.field(16))
    }

    pub fn mask_op(&self) -> u8 {
        self.bytes[9]
    }

    pub fn offset(&self) -> i32 {
        i32::from_ne_bytes(self.field(12))
    }

    /// `str_range`: how far a search goes, in bytes or lines; 0 for no bound.
    pub fn range(&self) -> usize {
        u32::from_ne_bytes(self.field(24)) as usize
    }

    pub fn str_flags(&self) -> u32 {
        u32::from_ne_bytes(self.field(28))
    }

    /// `num_mask`, which is in the same place as the two fields before.
    pub fn mask(&self) -> u64 {
        u64::from_ne_bytes(self.field(24))
    }

    pub fn value(&self) -> &'a [u8; VALUE_BYTES] {
        self.bytes[32..32 + VALUE_BYTES]
            .try_into()
            .expect("as long")
    }

    /// `value` as a number.
    pub fn number(&self) -> u64 {
        u64::from_ne_bytes(self.field(32))
    }

    /// Whether it has a description.
    pub fn describes(&self) -> bool {
        self.bytes[160] != 0
    }

    /// Whether it has a MIME type.
    pub fn has_mime_type(&self) -> bool {
        self.bytes[224] != 0
    }

    /// The MIME type, if libmagic prints it unchanged: for `${`, `varexpand` in src/softmagic.c prints something that
    /// depends on the file's mode.
    pub fn plain_mime_type(&self) -> Option<&'a str> {
        let field = &self.bytes[224..224 + MIME_TYPE_BYTES];
        let end = field.iter().position(|byte| *byte == 0)?;
        let plain = |byte: &u8| byte.is_ascii_graphic() && *byte != b'$';
        let whole = end > 0 && field[..end].iter().all(plain);
        whole.then(|| std::str::from_utf8(&field[..end]).ok())?
    }

    /// Whether it is tried only if others have failed (`cond`).
    pub fn is_conditional(&self) -> bool {
        self.bytes[10] != 0
    }

    /// The value up to its first zero: a regular expression, or a name.
    pub fn text(&self) -> &'a [u8] {
        let value = self.value();
        let end = value.iter().position(|byte| *byte == 0);
        &value[..end.unwrap_or(VALUE_BYTES)]
    }
}
