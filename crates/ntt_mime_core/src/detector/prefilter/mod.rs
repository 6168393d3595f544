//! The prefilter: libmagic's answers without most of its work.
//!
//! libmagic tries its rules one after another, 3,548 of them in release 5.44, and nearly all fail at their first
//! test. Which ones must fail is found out here for all at once, and the few others are followed in their order. If
//! one of them is sure to be what libmagic answers with, or none is left, the answer is known; if not, libmagic is
//! given a database of those that may matter, and answers itself.
//!
//! # Why the answers are the same
//!
//! `match` (src/softmagic.c, 5.44, 5.46 and 5.47) walks over the entries of a database. An entry of level 0 begins a
//! rule; if its test fails, the walk goes on with the next rule, and nothing is kept: what it has written into
//! `magic_set` (`offset`, `search`, `ms_value`, `c.li`) is written anew before it is read, by the first test of the
//! next rule. So a rule whose first test fails can be left out. If it succeeds, its continuations are tried
//! ([`follow`]). There are three ways for that to end, when only MIME types are asked for: an entry with a MIME type is
//! reached, and ends everything; or only entries with a description, which isn't printed but sets `found_match`, so
//! that the walk ends behind this rule; or nothing with either, and the walk goes on just as if the rule weren't there.
//!
//! Each test is known to fail, known to succeed, or *undecided*:
//!
//! - strings and numbers at an offset that can be told are compared as `mget`, `mconvert` and `magiccheck` do
//!   ([`check`]), the first tests of rules after a look at a table by their first bytes ([`beginnings`]);
//! - so are searches, the long ones of rules for text only if an automaton ([`tables`]) has seen the longest piece of
//!   theirs that has no white space in it, in any case;
//! - regular expressions are matched in the same language by another engine ([`regex`]), those of rules for text only
//!   if the same automaton has seen a piece that is part of any match;
//! - rules for text are tried on the text as libmagic converts it ([`text`]).
//!
//! An undecided test keeps its rule, unless nothing that it may lead to says anything; and a rule that is kept is
//! libmagic's to judge, with all that come after it up to the first that is sure to end the walk. The whole database is
//! used whenever something isn't followed here: a text in UTF-7, UTF-16, UTF-32 or EBCDIC; a rule that may match and
//! applies all rules to another part of the file (`indirect`); a set of rules that is too large.
//!
//! libmagic answers with the first rule that matches and has a MIME type, after a few [tests of its own](builtin). So
//! if the rules that come first are enough for an answer other than the two that it has for want of anything better,
//! it is the answer of all: [`Stage`].
//!
//! # How libmagic gets them
//!
//! See [`subset`].

pub mod beginnings;
mod builtin;
pub mod check;
pub mod end;
pub mod follow;
pub mod format;
pub mod regex;
pub mod subset;
pub mod tables;
#[cfg(test)]
mod tests;
pub mod text;

use std::cell::OnceCell;
use std::ops::Range;

use self::end::End;
use self::follow::{Follower, Named, Speech};
use self::format::{Compiled, flag, kind, str_flag};
use self::subset::Subsets;
use self::tables::{Hits, Tables};
use self::text::{Text, looks_like_text, text_of};
use super::cookie::Cookie;
use super::limits::{DATA, PLAIN};

/// Of rules, by number.
const ALL: Range<u32> = 0..u32::MAX;

/// A rule: an entry of level 0 and its continuations.
pub struct Rule {
    first: usize,
    end: usize,
    binary: bool,
    text: bool,
    /// Its first test is tried only if libmagic takes the file for text, or only if not.
    only_for_text: Option<bool>,
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
enum WalkOutcome {
    /// None at all; then this is said, if nothing else than rules finds something.
    Nothing(&'static str),
    /// One that was collected last, of which this entry matches before anything else can, and has a MIME type.
    Entry(usize),
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
    said != DATA && said != PLAIN
}

/// How a file is to be judged.
pub enum Verdict<'a> {
    /// What libmagic would try first of all that can succeed is sure to, or nothing can, and then it says this.
    Known(&'a str),
    /// By libmagic with the rules that may match.
    Ask(&'a mut Cookie),
    /// By libmagic with those of them that come first. If it [finds something](found_something), that is the answer,
    /// for it stops at the first that matches; otherwise the next stage tells.
    Try(&'a mut Cookie, Stage),
    /// By libmagic with all rules.
    Unsure,
}

/// Rules out what can't match.
pub struct Prefilter {
    compiled: Compiled,
    rules: Vec<Rule>,
    tables: Tables,
    named: Named,
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
            named: Named::new(&compiled),
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
                WalkOutcome::First(Stage::Early)
            }
            Stage::Builtin | Stage::Early => self.collect(true, bytes, end),
            Stage::All => self.collect(false, bytes, end),
        };
        match outcome {
            // The other tests can't succeed, or have been tried in the first stage. Of a single byte libmagic says
            // nothing but that it is short.
            WalkOutcome::Nothing(said) if bytes.len() > 1 => return Verdict::Known(said),
            WalkOutcome::Entry(entry) => {
                let said = self.compiled.entry(entry).plain_mime_type();
                if let Some(said) = said.filter(|_| bytes.len() > 1) {
                    return Verdict::Known(said);
                }
            }
            WalkOutcome::All => return Verdict::Unsure,
            _ => {}
        }
        // Rules for both kinds of content are tried in both walks, and come once.
        self.candidates.sort_unstable();
        self.candidates.dedup();
        let cookie = self
            .subsets
            .cookie(&self.compiled, &self.rules, &self.candidates);
        match (cookie, outcome) {
            (None, _) => Verdict::Unsure,
            (Some(cookie), WalkOutcome::First(next)) => Verdict::Try(cookie, next),
            (Some(cookie), _) => Verdict::Ask(cookie),
        }
    }

    /// Collects the rules that may match; if asked for, the early ones only, if there are any for text among them.
    fn collect(&mut self, early: bool, bytes: &[u8], end: &mut End<'_>) -> WalkOutcome {
        let Prefilter {
            compiled,
            rules,
            tables,
            named,
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
            named,
            candidates,
            sure: true,
            whole: bytes,
            is_text: OnceCell::new(),
        };
        match walk.over(hits.iter(ALL), bytes, Some(end)) {
            Ending::Entry(entry) => return WalkOutcome::Entry(entry),
            Ending::Indirect => return WalkOutcome::All,
            Ending::Here | Ending::Through => {}
        }
        let (text, said) = match text_of(bytes, &mut self.converted) {
            Text::Binary => (None, DATA),
            Text::Utf8(text) => (Some(text), PLAIN),
            Text::Unknown => return WalkOutcome::All,
        };
        if let Some(text) = text {
            hits.clear();
            tables.find_text(text, hits);
            let first_searched = tables.first_searched();
            let before = walk.candidates.len();
            let mut ending = walk.over(hits.iter(0..first_searched), text, None);
            if let Ending::Through = ending {
                if early && walk.candidates.len() > before {
                    return WalkOutcome::First(Stage::All);
                }
                tables.search_text(text, hits);
                ending = walk.over(hits.iter(first_searched..u32::MAX), text, None);
            }
            match ending {
                Ending::Entry(entry) => return WalkOutcome::Entry(entry),
                Ending::Indirect => return WalkOutcome::All,
                Ending::Here | Ending::Through => {}
            }
        }
        match walk.sure {
            true => WalkOutcome::Nothing(said),
            false => WalkOutcome::These,
        }
    }
}

/// How a walk over the rules ends, as far as it is sure.
enum Ending {
    /// At this entry, with its MIME type, and nothing before it can have one.
    Entry(usize),
    /// At the rule that was collected last, or before. Perhaps without a MIME type: then the rules for text are tried.
    Here,
    /// Perhaps behind the last rule only.
    Through,
    /// Not without all rules.
    Indirect,
}

/// A walk over the rules as libmagic's `match` goes, which collects those that may match.
struct Walk<'a> {
    compiled: &'a Compiled,
    rules: &'a [Rule],
    tables: &'a Tables,
    named: &'a Named,
    candidates: &'a mut Vec<u32>,
    /// Nothing that was collected may have a MIME type.
    sure: bool,
    /// All that libmagic looks at, and whether it takes it for text.
    whole: &'a [u8],
    is_text: OnceCell<Option<bool>>,
}

impl Walk<'_> {
    /// Adds the rules that may match among these: rules for binary content if there is an `end`, for text otherwise.
    fn over(
        &mut self,
        rules: impl Iterator<Item = usize>,
        bytes: &[u8],
        end: Option<&mut End<'_>>,
    ) -> Ending {
        let mut follower = Follower {
            compiled: self.compiled,
            tables: self.tables,
            named: self.named,
            bytes,
            end,
        };
        for number in rules {
            let rule = &self.rules[number];
            let mut speech = follower.rule(rule.first, rule.end);
            if let Some(wanted) = rule.only_for_text
                && speech != Speech::Never
            {
                let is_text = *self.is_text.get_or_init(|| looks_like_text(self.whole));
                speech = match is_text {
                    None => Speech::Maybe,
                    Some(is_text) if is_text != wanted => continue,
                    Some(_) => speech,
                };
            }
            if speech == Speech::Never {
                continue;
            }
            if speech == Speech::Maybe && rule.indirect {
                return Ending::Indirect;
            }
            self.candidates.push(number as u32);
            match speech {
                Speech::Surely(entry) if self.sure => return Ending::Entry(entry),
                Speech::Surely(_) | Speech::Silently => return Ending::Here,
                Speech::Maybe | Speech::Never => self.sure = false,
            }
        }
        Ending::Through
    }
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
        Rule {
            first,
            end,
            binary: entry.flag() & flag::BINTEST != 0,
            text: entry.flag() & flag::TEXTTEST != 0,
            only_for_text: match when {
                _ if !kind::STRINGS.contains(&entry.kind()) => None,
                str_flag::TEXTTEST => Some(true),
                str_flag::BINTEST => Some(false),
                _ => None,
            },
            // A MIME type ends it before its continuations.
            indirect: !entry.has_mime_type()
                && (first..end).any(|n| tables::is_indirect(compiled, n, &indirect_names)),
            regex: (first..end).any(|n| compiled.entry(n).kind() == kind::REGEX),
        }
    };
    begins.iter().copied().zip(ends).map(rule).collect()
}
