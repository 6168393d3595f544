//! What differs between releases of libmagic, in one place.
//!
//! Supported and tested are those of Debian, 5.44 (Debian 12), 5.46 (13) and 5.47 (14), and of Ubuntu, 5.41 (22.04) and
//! 5.45 (24.04). Any other works too, at its own limits and with all of its rules: the
//! [prefilter](super::prefilter) is only for those of which it is known what they do ([`LIBRARIES`]). The
//! [self-check](super::selfcheck) tells if one is far off.
//!
//! # What doesn't differ, though it is known to
//!
//! 5.46 and, much more so, 5.47 have a bad name: they lose the offsets that count from the end of a
//! file when there is no descriptor (`msetoffset` in softmagic.c), and so misjudge archives and heads of
//! binary files. That concerns `magic_buffer`, which is not used here; through a descriptor they differ
//! from their own file(1) no more than 5.44 does.

use std::ffi::c_int;

use magic_sys as ffi;

use super::limits::{ENCODING_MAX, REGEX_MAX};

/// A limit on the work that content can cause, as a parameter of `magic_setparam`, and its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    pub parameter: c_int,
    pub value: usize,
}

const fn limit(parameter: c_int, value: usize) -> Limit {
    Limit { parameter, value }
}

/// The limits that all releases share, from file.h of 5.44 to 5.48.
///
/// They are those of file(1), since another limit would give another answer for some file. They are set so that they
/// hold whatever a packager, or a later release under a number that we know, has made of the defaults. None limits
/// time: the worst known content (64 kB of line feeds) takes a second within all of them.
const LIMITS: [Limit; 6] = [
    // "indirect" rules: content that contains other content, such as a TIFF within a TIFF.
    limit(ffi::MAGIC_PARAM_INDIR_MAX, 50),
    // Program and section headers of ELF files, each of which takes at least one read.
    limit(ffi::MAGIC_PARAM_ELF_PHNUM_MAX, 2048),
    limit(ffi::MAGIC_PARAM_ELF_SHNUM_MAX, 32768),
    // Notes in all of these headers together.
    limit(ffi::MAGIC_PARAM_ELF_NOTES_MAX, 256),
    // For text: what they limit is described where they are defined.
    limit(ffi::MAGIC_PARAM_REGEX_MAX, REGEX_MAX),
    limit(ffi::MAGIC_PARAM_ENCODING_MAX, ENCODING_MAX),
];

/// Uses of named rules that one file may cause: a limit on recursion in the rules. Each release's database is written
/// for its own.
const NAME_MAX: [(i32, usize); 6] = [
    (541, 50),
    (544, 50),
    (545, 50),
    (546, 100),
    (547, 150),
    (548, 150),
];

/// Size of the section of names in an ELF file, which is read as a whole. From 5.45 on; magic-sys defines
/// MAGIC_PARAM_ELF_SHSIZE_MAX only for users that require 5.45.
const ELF_SHSIZE_MAX: Limit = limit(8, 128 * 1024 * 1024);

/// The limits to be set in a release, by its number (544 is 5.44). MAGIC_PARAM_BYTES_MAX isn't among them, since the
/// plan sets it; nor is MAGIC_PARAM_MAGWARN_MAX, which concerns authors of rules.
///
/// Where releases differ, an unknown release keeps its own limits.
pub fn limits(release: i32) -> impl Iterator<Item = Limit> {
    let names = NAME_MAX.iter().find(|(number, _)| *number == release);
    let names = names.map(|(_, value)| limit(ffi::MAGIC_PARAM_NAME_MAX, *value));
    let sections = (release >= 545).then_some(ELF_SHSIZE_MAX);
    LIMITS.into_iter().chain(names).chain(sections)
}

/// What a release does its own way, with the one version of the database that it takes. Both have to be as they stand
/// here: the number of a version says nothing of the release that made it, nor the other way round. From src/softmagic.c,
/// src/encoding.c, src/is_simh.c, src/is_json.c and src/is_csv.c of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Library {
    /// 544 is 5.44.
    pub release: i32,
    /// The version of the database (`VERSIONNO` in file.h).
    pub database: u32,
    /// The number of the type OCTAL (`FILE_OCTAL`); 255 if it doesn't exist.
    pub octal: u8,
    /// The number of the type OFFSET (`FILE_OFFSET`).
    pub offset: u8,
    /// It recognizes SIMH tapes.
    pub tapes: bool,
    /// Four bits of the length of a tape record must be zero.
    pub strict_tapes: bool,
    /// In a named rule, the end of a search or of a regular expression is relative to the start of the file, not to
    /// the position where the rule is used, as it is after all other tests (`moffset`).
    pub searches_keep_base: bool,
    /// `/` and `%` of signed numbers are signed (`DO_CVT`).
    pub signed_division: bool,
    /// An offset that is read from the file is refused if it is out of range (`do_ops`).
    pub checks_offsets: bool,
    /// `use` succeeds if the named rule has matched a description, even if nothing was printed (the end of `FILE_USE`
    /// in `mget`).
    pub use_by_description: bool,
    /// The end of the file that the rules of an `indirect` rule see is as long as what they are applied to, not as
    /// that of the whole file (`FILE_INDIRECT` in `mget`).
    pub indirect_has_own_end: bool,
    /// Which characters may not follow each other in a regular expression (`check_regex` in funcs.c).
    pub refused: Refused,
    /// JSON is read by the stricter parser, up to its end ([`Dialect`](super::json::Dialect)).
    pub strict_json: bool,
    /// Control-Z is in text (`text_chars` in encoding.c).
    pub control_z_is_text: bool,
    /// Two units of UTF-16 may stand for one character, and some for none (`looks_ucs16` in encoding.c).
    pub pairs_of_units: bool,
    /// The minimum numbers of lines, and of commas in a line, for CSV (`csv_parse`).
    pub csv_lines: usize,
    pub csv_commas: usize,
}

/// What `check_regex` refuses, which is an error for the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    Nothing,
    /// The same repetition operator twice, and bytes that aren't printable.
    Twice,
    /// Two repetition operators, one at the start, too many repetitions, and bytes that aren't printable.
    AnyTwo,
}

/// The pairs of a release and a database that are supported and tested here.
pub const LIBRARIES: [Library; 5] = [
    Library {
        release: 541,
        database: 16,
        octal: 255,
        offset: 50,
        tapes: false,
        strict_tapes: false,
        searches_keep_base: true,
        signed_division: false,
        checks_offsets: false,
        use_by_description: false,
        indirect_has_own_end: false,
        refused: Refused::Nothing,
        strict_json: false,
        control_z_is_text: false,
        pairs_of_units: false,
        csv_lines: 3,
        csv_commas: 1,
    },
    OF_544,
    Library {
        release: 545,
        tapes: true,
        indirect_has_own_end: true,
        csv_lines: 2,
        ..OF_544
    },
    OF_546,
    Library {
        release: 547,
        database: 21,
        octal: 61,
        offset: 52,
        strict_tapes: true,
        signed_division: true,
        refused: Refused::AnyTwo,
        control_z_is_text: true,
        ..OF_546
    },
];

const OF_544: Library = Library {
    release: 544,
    database: 18,
    octal: 59,
    offset: 50,
    tapes: false,
    strict_tapes: false,
    searches_keep_base: true,
    signed_division: false,
    checks_offsets: true,
    use_by_description: true,
    indirect_has_own_end: false,
    refused: Refused::Twice,
    strict_json: true,
    control_z_is_text: false,
    pairs_of_units: true,
    csv_lines: 3,
    csv_commas: 1,
};

const OF_546: Library = Library {
    release: 546,
    database: 20,
    tapes: true,
    searches_keep_base: false,
    indirect_has_own_end: true,
    csv_lines: 2,
    csv_commas: 2,
    ..OF_544
};

/// What is known about a release with a database.
pub fn library(release: i32, database: u32) -> Option<&'static Library> {
    let mut all = LIBRARIES.iter();
    all.find(|known| (known.release, known.database) == (release, database))
}

/// How many bytes of a file file(1) of a release reads: FILE_BYTES_MAX in file.h.
pub fn bytes_max(release: i32) -> usize {
    match release {
        ..544 => 1 << 20,
        _ => 7 << 20,
    }
}

/// Releases that give wrong answers *in the way that we use them*, and what is wrong with them: none among 5.44 to
/// 5.48.
pub const KNOWN_BAD: &[(i32, &str)] = &[];

/// A sentence about a release, if it is among these.
pub fn complaint(release: i32, bad: &[(i32, &str)]) -> Option<String> {
    let (_, what) = bad.iter().find(|(number, _)| *number == release)?;
    Some(format!("libmagic {}: {what}.", name(release)))
}

/// A release as people write it, such as "5.44".
pub fn name(release: i32) -> String {
    format!("{}.{:02}", release / 100, release % 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_releases_are_known_by_number() {
        let bad = [(599, "it guesses")];
        let said = Some("libmagic 5.99: it guesses.".to_owned());
        assert_eq!(complaint(599, &bad), said);
        assert_eq!(complaint(544, &bad), None);
    }

    #[test]
    fn a_release_that_is_not_known_keeps_its_own_limit_of_names() {
        let names = |release| {
            let is = |limit: &Limit| limit.parameter == ffi::MAGIC_PARAM_NAME_MAX;
            limits(release).find(is).map(|limit| limit.value)
        };
        assert_eq!(
            (names(544), names(547), names(549)),
            (Some(50), Some(150), None)
        );
    }
}
