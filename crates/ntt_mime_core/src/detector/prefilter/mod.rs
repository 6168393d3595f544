//! The prefilter: libmagic's answers without most of its work.
//!
//! libmagic tries its rules one after another, 3,548 of them in release 5.44, and nearly all fail at their first
//! test. Which ones must fail is found out here for all at once, and libmagic is given a database of the others, in
//! their order. It is libmagic that answers, unless there is nothing left that could: then its answer is known.
//!
//! # Why the answers are the same
//!
//! `match` (src/softmagic.c, 5.44, 5.46 and 5.47) walks over the entries of a database. An entry of level 0 begins a
//! rule; if its test fails, the walk goes on with the next rule, and nothing is kept: what it has written into
//! `magic_set` (`offset`, `search`, `ms_value`, `c.li`) is written anew before it is read, by the first test of the
//! next rule. So a rule whose first test fails can be left out. If it succeeds and the rule has neither description
//! nor MIME type there, its continuations are tried; if none that can be reached has one either, nothing has been
//! said, `found_match` stays 0, and the walk goes on just so. Such a rule can be left out, too. A rule that *says*
//! something ends the walk, with a MIME type or without: such a rule is left out only if its first test fails.
//!
//! What is left out must therefore be known to fail, and that is decided
//!
//! - for strings and numbers at a fixed offset, by comparing ([`check`]), the most common ones after a look at a
//!   table by their first bytes ([`Tables`]);
//! - for searches, by comparing as libmagic does, long ones only if an automaton has seen the longest piece of theirs
//!   that has no white space in it, in any case;
//! - for regular expressions by an automaton of all of them, in the same language ([`regex`]);
//! - for continuations likewise, where the rule itself says nothing;
//! - for rules for text on the text as libmagic converts it ([`text`]).
//!
//! Everything else is *undecided* and stays. The whole database is used whenever something isn't followed here: a
//! text in UTF-16, UTF-32 or EBCDIC; more than 64 KiB of text; a rule that may match and applies all rules to another
//! part of the file (`indirect`); a set of rules that is too large.
//!
//! The rules before the first that is sure to end the walk are all that it sees, so what comes after that isn't even
//! looked at.
//!
//! libmagic answers with the first rule that matches and has a MIME type, after a few [tests of its own](builtin). So
//! if the rules that come first are enough for an answer other than the two that it has for want of anything better,
//! it is the answer of all: [`Stage`].
//!
//! # How libmagic gets them
//!
//! See [`subset`].

mod builtin;
pub mod check;
pub mod end;
pub mod format;
pub mod regex;
pub mod subset;
pub mod tables;
#[cfg(test)]
mod tests;
pub mod text;

use self::check::{Answer, Found, anywhere, check, offset_of};
use self::end::End;
use self::format::{Compiled, flag, kind, str_flag};
use self::subset::Subsets;
use self::tables::{Hits, Tables};
use self::text::{Text, text_of};
use super::cookie::Cookie;

/// Bytes that a regular expression is matched against (FILE_REGEX_MAX in src/file.h).
const REGEX_MAX: usize = 8192;

/// Bytes by which the encoding of a text is told, beyond which it is cut off (FILE_ENCODING_MAX in src/file.h).
const ENCODING_MAX: usize = 64 * 1024;

/// A rule: an entry of level 0 and its continuations.
pub struct Rule {
    first: usize,
    end: usize,
    binary: bool,
    text: bool,
    /// It says something as soon as its first test succeeds, and that ends libmagic's walk.
    speaks: bool,
    /// With a MIME type, which ends everything.
    answers: bool,
    /// Its first test is tried whether libmagic takes the file for text or not.
    always_tried: bool,
    /// It may have all rules applied to another part of the file.
    indirect: bool,
    /// There is a regular expression in it.
    regex: bool,
}

impl Rule {
    /// How many entries it has.
    fn entries(&self) -> usize {
        self.end - self.first
    }
}

/// What may match.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// None at all; then this is said, if nothing else than rules finds something.
    Nothing(&'static str),
    /// Some that come first were collected.
    First(Stage),
    /// The rules that were collected.
    These,
    /// It can't be told.
    All,
}

/// Where the work stands. What comes early is found with little of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The tests that come before the rules: JSON and the like.
    Builtin,
    /// The rules for binary content, and those for text that come before any that take a look at all of the text.
    Early,
    All,
}

/// Is it more than what libmagic says when nothing is found?
pub fn found_something(said: &str) -> bool {
    said != builtin::DATA && said != builtin::PLAIN
}

/// How a file is to be judged.
pub enum Verdict<'a> {
    /// Nothing that libmagic would try can succeed, and then it says this.
    Known(&'static str),
    /// By libmagic with the rules that may match.
    Ask(&'a mut Cookie),
    /// By libmagic with those of them that come first. If it [finds something](found_something), that is the answer, for
    /// it stops at the first that matches; otherwise the next stage tells.
    Try(&'a mut Cookie, Stage),
    /// By libmagic with all rules.
    Unsure,
}

/// Rules out what can't match.
pub struct Prefilter {
    compiled: Compiled,
    rules: Vec<Rule>,
    tables: Tables,
    subsets: Subsets,
    hits: Hits,
    converted: Vec<u8>,
    candidates: Vec<u32>,
}

impl Prefilter {
    /// Reads the rules of a database, which takes some milliseconds.
    pub fn new(compiled: Compiled) -> Option<Prefilter> {
        let rules = rules_of(&compiled);
        let tables = Tables::new(&compiled, &rules)?;
        Some(Prefilter {
            hits: Hits::new(rules.len()),
            subsets: Subsets::new(&compiled),
            tables,
            rules,
            compiled,
            converted: Vec::new(),
            candidates: Vec::new(),
        })
    }

    /// How a file is to be judged that begins like this, if that is all that libmagic will look at there, and ends like
    /// that. To begin with the first stage.
    pub fn judge(&mut self, stage: Stage, bytes: &[u8], end: &mut End<'_>) -> Verdict<'_> {
        let outcome = match stage {
            Stage::Builtin if builtin::may_succeed(&self.compiled, bytes) => {
                self.candidates.clear();
                Outcome::First(Stage::Early)
            }
            Stage::Builtin | Stage::Early => self.collect(true, bytes, end),
            Stage::All => self.collect(false, bytes, end),
        };
        match outcome {
            // The other tests can't succeed, or have been tried in the first stage. Of a single byte libmagic says
            // nothing but that it is short.
            Outcome::Nothing(said) if bytes.len() > 1 => return Verdict::Known(said),
            Outcome::All => return Verdict::Unsure,
            _ => {}
        }
        let cookie = self
            .subsets
            .cookie(&self.compiled, &self.rules, &self.candidates);
        match (cookie, outcome) {
            (None, _) => Verdict::Unsure,
            (Some(cookie), Outcome::First(next)) => Verdict::Try(cookie, next),
            (Some(cookie), _) => Verdict::Ask(cookie),
        }
    }

    /// Collects the rules that may match; if asked for, the early ones only, if there are any for text among them.
    fn collect(&mut self, early: bool, bytes: &[u8], end: &mut End<'_>) -> Outcome {
        let Prefilter {
            compiled,
            rules,
            tables,
            hits,
            candidates,
            ..
        } = self;
        candidates.clear();
        hits.clear();
        tables.find_binary(bytes, hits);
        let mut walk = Walk {
            compiled,
            rules,
            tables,
            candidates,
        };
        match walk.over(hits, bytes, Some(end)) {
            Ending::Answered => return Outcome::These,
            Ending::Indirect => return Outcome::All,
            Ending::Silent => {}
        }
        let (text, said) = match text_of(bytes, &mut self.converted) {
            Text::Binary => (None, builtin::DATA),
            Text::Utf8(text) => (Some(text), builtin::PLAIN),
            Text::Unknown => return Outcome::All,
        };
        if let Some(text) = text {
            if early {
                hits.clear();
                tables.find_early_text(text, hits);
                let before = walk.candidates.len();
                if matches!(walk.over(hits, text, None), Ending::Indirect) {
                    return Outcome::All;
                }
                if walk.candidates.len() > before {
                    candidates.sort_unstable();
                    candidates.dedup();
                    return Outcome::First(Stage::All);
                }
            }
            hits.clear();
            match early {
                // The others have been walked over.
                true => tables.find_late_text(text, hits),
                false => tables.find_text(text, hits),
            }
            if matches!(walk.over(hits, text, None), Ending::Indirect) {
                return Outcome::All;
            }
            // Rules for both are tried in both walks, and come once.
            candidates.sort_unstable();
            candidates.dedup();
        }
        // Of a single byte, zeros behind it left aside, libmagic doesn't say that it is text.
        let long_enough = text.is_none_or(|text| text.len() > 1);
        match candidates.is_empty() && long_enough {
            true => Outcome::Nothing(said),
            false => Outcome::These,
        }
    }
}

/// How a walk over the rules ends, as far as it is sure.
enum Ending {
    /// With a MIME type.
    Answered,
    /// Perhaps without one.
    Silent,
    /// Not without all rules.
    Indirect,
}

/// A walk over the rules as libmagic's `match` goes, which collects those that may match.
struct Walk<'a> {
    compiled: &'a Compiled,
    rules: &'a [Rule],
    tables: &'a Tables,
    candidates: &'a mut Vec<u32>,
}

impl Walk<'_> {
    /// Adds the rules that may match among those that were hit: the rules for binary content if there is an `end`, for
    /// text otherwise.
    fn over(&mut self, hits: &Hits, bytes: &[u8], mut end: Option<&mut End<'_>>) -> Ending {
        for number in hits.iter() {
            let rule = &self.rules[number];
            // The tables have tried the regular expressions of rules for text.
            let settled = end.is_none() && rule.speaks;
            let found = match &mut end {
                Some(end) if self.counts_from_end(rule.first) => {
                    self.test_end(rule.first, end).into()
                }
                _ => self.test(rule.first, settled, None, bytes),
            };
            if found.answer == Answer::No || !rule.speaks && !self.may_speak(rule, found.end, bytes)
            {
                continue;
            }
            if rule.indirect {
                return Ending::Indirect;
            }
            self.candidates.push(number as u32);
            if found.answer == Answer::Yes && rule.speaks && rule.always_tried {
                return if rule.answers {
                    Ending::Answered
                } else {
                    Ending::Silent
                };
            }
        }
        Ending::Silent
    }

    /// The test of an entry. `parent` is where the test before it left off, if it is a continuation and that is known.
    fn test(&self, number: usize, settled: bool, parent: Option<usize>, bytes: &[u8]) -> Found {
        let entry = self.compiled.entry(number);
        let regex = |region: &[u8]| self.tables.regex(number, settled, region);
        match offset_of(&entry, parent) {
            Some(offset) => check(&entry, bytes, offset, regex),
            None if self.counts_from_end(number) => Answer::Maybe.into(),
            None => anywhere(&entry, bytes, regex).into(),
        }
    }

    fn counts_from_end(&self, number: usize) -> bool {
        self.compiled.entry(number).flag() & flag::OFFNEGATIVE != 0
    }

    /// The first test of a rule that looks at the end of the file (`msetoffset`).
    fn test_end(&self, number: usize, end: &mut End<'_>) -> Answer {
        let entry = self.compiled.entry(number);
        let elsewhere = flag::INDIR | flag::OFFADD | flag::INDIROFFADD;
        let Some(back) = usize::try_from(entry.offset())
            .ok()
            .filter(|_| entry.flag() & elsewhere == 0)
        else {
            return Answer::Maybe;
        };
        if back > end.length() {
            return Answer::No;
        }
        let at = |bytes: &[u8]| bytes.len().checked_sub(back);
        match end.bytes().map(|bytes| (bytes, at(bytes))) {
            Some((bytes, Some(offset))) => {
                check(&entry, bytes, offset, |_| (Answer::Maybe, None)).answer
            }
            _ => Answer::Maybe,
        }
    }

    /// Can a continuation be reached that says something? `end` is where the rule's first test left off.
    fn may_speak(&self, rule: &Rule, end: Option<usize>, bytes: &[u8]) -> bool {
        // From such an entry on, the others look at the end of the file.
        if (rule.first..rule.end).any(|number| self.counts_from_end(number)) {
            return true;
        }
        // Where the last test of each level left off that may have succeeded: as many as tests are tried at now.
        let mut ends = vec![end];
        for number in rule.first + 1..rule.end {
            let level = usize::from(self.compiled.entry(number).level());
            if level > ends.len() {
                continue;
            }
            ends.truncate(level);
            let parent = ends.last().copied().flatten();
            let found = self.test(number, false, parent, bytes);
            if found.answer == Answer::No {
                continue;
            }
            if says_something(self.compiled, number) {
                return true;
            }
            ends.push(found.end);
        }
        false
    }
}

/// Is anything said if the test of this entry succeeds, there or in what it uses?
fn says_something(compiled: &Compiled, number: usize) -> bool {
    let entry = compiled.entry(number);
    let uses = matches!(entry.kind(), kind::USE | kind::INDIRECT | kind::NAME);
    uses || entry.describes() || entry.has_mime_type()
}

fn rules_of(compiled: &Compiled) -> Vec<Rule> {
    let begins: Vec<usize> = (0..compiled.rules())
        .filter(|n| compiled.entry(*n).level() == 0)
        .collect();
    let ends = begins.iter().skip(1).copied().chain([compiled.rules()]);
    let indirect_names = tables::names_that_are_indirect(compiled);
    let rule = |(first, end): (usize, usize)| {
        let entry = compiled.entry(first);
        let when = entry.str_flags() & (str_flag::TEXTTEST | str_flag::BINTEST);
        let is_string = matches!(entry.kind(), kind::STRING | kind::SEARCH | kind::REGEX);
        let always_tried =
            !is_string || when == 0 || when == str_flag::TEXTTEST | str_flag::BINTEST;
        let speaks = entry.describes() || entry.has_mime_type() || says_something(compiled, first);
        Rule {
            first,
            end,
            binary: entry.flag() & flag::BINTEST != 0,
            text: entry.flag() & flag::TEXTTEST != 0,
            speaks,
            answers: entry.has_mime_type(),
            always_tried,
            // A MIME type ends it before its continuations.
            indirect: !entry.has_mime_type()
                && (first..end).any(|n| tables::is_indirect(compiled, n, &indirect_names)),
            regex: (first..end).any(|n| compiled.entry(n).kind() == kind::REGEX),
        }
    };
    begins.iter().copied().zip(ends).map(rule).collect()
}
