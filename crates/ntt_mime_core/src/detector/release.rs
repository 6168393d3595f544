//! What differs between releases of libmagic, in one place.
//!
//! Supported and tested are those that Debian ships: 5.44 (Debian 12), 5.46 (13) and 5.47 (14). Any
//! other works too, at its own limits; the [self-check](super::selfcheck) tells if it is far off.
//!
//! # What doesn't differ, though it is known to
//!
//! 5.46 and, much more so, 5.47 have a bad name: they lose the offsets that count from the end of a
//! file when there is no descriptor (`msetoffset` in softmagic.c), and so misjudge archives and heads of
//! binary files. That concerns `magic_buffer`, which is not used here; through a descriptor they differ
//! from their own file(1) no more than 5.44 does. Control-Z counts as text from 5.48 on (`text_chars` in
//! encoding.c), JSON is recognised by its bytes after white space in all of them, and 5.46 needs the end
//! of a ZIP archive among what it looks at: the [plan](super::plan) allows for all of that always, at
//! the price of a longer look that was not needed.

use std::ffi::c_int;

use magic_sys as ffi;

use super::limits::{ENCODING_MAX, REGEX_MAX};

/// A bound on the work that content can cause, as `magic_setparam` knows it, and its value.
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
/// They are those of file(1), since another limit is another answer on some file; what is wanted is that
/// they hold whatever a packager, or a later release under a number that we know, has made of the
/// defaults. None is a bound on time: the worst known content (64 kB of line feeds) takes a second
/// within all of them.
const LIMITS: [Limit; 6] = [
    // "indirect" rules: content that refers to itself, such as a TIFF within a TIFF.
    limit(ffi::MAGIC_PARAM_INDIR_MAX, 50),
    // Headers of programs and of sections in ELF files, each a read or more of its own.
    limit(ffi::MAGIC_PARAM_ELF_PHNUM_MAX, 2048),
    limit(ffi::MAGIC_PARAM_ELF_SHNUM_MAX, 32768),
    // Notes in all of these headers together.
    limit(ffi::MAGIC_PARAM_ELF_NOTES_MAX, 256),
    // Of text: what they bound is said where they are defined.
    limit(ffi::MAGIC_PARAM_REGEX_MAX, REGEX_MAX),
    limit(ffi::MAGIC_PARAM_ENCODING_MAX, ENCODING_MAX),
];

/// Uses of named rules that one file may cause: a bound on recursion in the rules. The database of a
/// release is written for its own.
const NAME_MAX: [(i32, usize); 5] = [(544, 50), (545, 50), (546, 100), (547, 150), (548, 150)];

/// Size of the section of an ELF file that holds names: it is read whole. From 5.45 on; magic-sys has
/// MAGIC_PARAM_ELF_SHSIZE_MAX only for those who need 5.45 at least.
const ELF_SHSIZE_MAX: Limit = limit(8, 128 * 1024 * 1024);

/// The limits to set in a release, by its number (544 is 5.44). MAGIC_PARAM_BYTES_MAX isn't among them,
/// that is the plan's; nor MAGIC_PARAM_MAGWARN_MAX, which concerns those who write rules.
///
/// A release that isn't known keeps its own limits where releases differ.
pub fn limits(release: i32) -> impl Iterator<Item = Limit> {
    let names = NAME_MAX.iter().find(|(number, _)| *number == release);
    let names = names.map(|(_, value)| limit(ffi::MAGIC_PARAM_NAME_MAX, *value));
    let sections = (release >= 545).then_some(ELF_SHSIZE_MAX);
    LIMITS.into_iter().chain(names).chain(sections)
}

/// Releases that answer wrongly *in the way that we ask*, and what is wrong with them: none among 5.44
/// to 5.48.
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
