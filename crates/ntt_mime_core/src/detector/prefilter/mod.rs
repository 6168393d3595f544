//! The prefilter: libmagic's answers without most of its work.
//!
//! libmagic tries its rules one after another, 3,548 of them in release 5.44, and nearly all fail at their first
//! test. Here it is determined for all rules at once which of them must fail, and the few others are evaluated in
//! their order. If one of them is certain to give libmagic's answer, or none is left, the answer is known. Otherwise
//! libmagic is given a database of those that may matter, and answers itself.
//!
//! # What is read
//!
//! The whole file is considered, as libmagic would have it ([`buffer`]), but what isn't in memory is read only when a
//! rule needs it, and a rule needs it only if none before it gives the answer. So the result is file(1)'s answer for
//! the whole file, with any database that is understood here. If libmagic has to be called, it is given as many bytes
//! from the start as the remaining rules can read ([`follow::Reach`]) and as it takes to distinguish text from binary
//! content. If that isn't known for a rule, libmagic is given everything that file(1) gives it.
//!
//! # Why the answers are the same
//!
//! `match` (src/softmagic.c, 5.41 to 5.47) walks over the entries of a database. An entry of level 0 begins a rule;
//! if its test fails, the walk goes on with the next rule, and nothing remains: what it has written into `magic_set`
//! (`offset`, `search`, `ms_value`, `c.li`) is overwritten by the first test of the next rule before it is read. So a
//! rule whose first test fails can be left out. If it succeeds, its continuations are tried ([`follow`]). When only
//! MIME types are requested, that can end in three ways: an entry with a MIME type is reached, which ends everything;
//! or `found_match` is set by an entry with a description, which isn't printed, so that the walk ends after this
//! rule; or it isn't set, and the walk goes on just as if the rule didn't exist. A rule that is abandoned halfway
//! passes `found_match` on to the next one unchanged ([`walk`]).
//!
//! Each test is known to fail, known to succeed, or *undecided*:
//!
//! - strings and numbers at a known offset are compared as `mget`, `mconvert` and `magiccheck` do ([`check`]); for
//!   the first tests of rules, a table by their first bytes is checked before ([`beginnings`]);
//! - so are searches; long ones of rules for text only if an automaton ([`tables`]) has found the longest piece of
//!   theirs without white space, in any case;
//! - regular expressions are matched in the same language by another engine ([`regex`]); those of rules for text only
//!   if the same automaton has found a piece that is part of every match;
//! - rules for text are tried on the text as libmagic converts it ([`text`]).
//!
//! A rule with an undecided test is kept, unless nothing that it may lead to prints anything. A rule that is kept is
//! left to libmagic, together with all rules after it up to the first that certainly ends the walk. The whole
//! database is used whenever something isn't implemented here: a text in EBCDIC; a rule that may match and applies
//! all rules to another part of the file (`indirect`), if the result of that isn't certain; a set of rules that is
//! too large.
//!
//! libmagic answers with the first rule that matches and has a MIME type, after a few [tests of its own](builtin). So
//! if the first rules are enough for an answer other than its two default answers, that is the answer of all rules:
//! [`Stage`].
//!
//! # Releases
//!
//! In all this, libmagic's releases differ. What is known is in one table,
//! [`LIBRARIES`](crate::detector::release::LIBRARIES), of pairs of a release and a version of the database; there is
//! no prefilter for any other pair. libmagic and the prefilter read one mapping of the database, so they can't use
//! different ones. What ctype.h says about a byte is that of the C locale ([`cookie`](crate::detector::cookie)).
//!
//! # How libmagic gets the remaining rules
//!
//! See [`subset`].

pub mod beginnings;
pub mod buffer;
mod builtin;
pub mod check;
pub mod follow;
pub mod format;
mod hits;
pub mod regex;
pub mod subset;
pub mod tables;
#[cfg(test)]
mod tests;
pub mod text;
mod walk;
mod wide;

use std::ops::Range;

use std::rc::Rc;

use self::buffer::{Buffer, Bytes};
use self::builtin::{Builtin, builtin};
use self::check::offset_of;
use self::follow::{Named, Reach};
use self::format::{Compiled, flag, kind, str_flag};
use self::hits::Hits;
use self::subset::Subsets;
use self::tables::Tables;
use self::text::{Text, is_binary, text_of};
use self::walk::{Context, Ending, Walk};
use super::cookie::{Cookie, Tests};
use super::limits::{DATA, ENCODING_MAX, PLAIN};
use super::release::Library;

/// All rules, by number.
const ALL: Range<u32> = 0..u32::MAX;

/// A rule: an entry of level 0 and its continuations.
pub struct Rule {
    first: usize,
    end: usize,
    binary: bool,
    text: bool,
    /// Its first test is tried only if libmagic considers the file text, or only if not.
    only_for_text: Option<bool>,
    /// It has a regular expression.
    regex: bool,
    /// It may read the end of the file, by itself or by what it applies.
    asks_for_end: bool,
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
    /// Nothing; then this is the answer, unless a test that isn't a rule finds something.
    Nothing(&'static str),
    /// The rule that was collected last: this entry of it matches before anything else can, and has a MIME type.
    Entry(usize),
    /// Some of the first rules were collected.
    First(Stage),
    /// The rules that were collected.
    These,
    /// It isn't known.
    All,
}

/// The stages of the work. Early ones take little of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The tests before the rules: JSON and the like.
    Builtin,
    /// Those of the early rules, as below, that come before any that reads at a place far from what has been read:
    /// calling libmagic is faster than a seek.
    Near,
    /// The rules for binary content, and those for text that come before any that search the whole text.
    Early,
    All,
}

/// Whether it is more than libmagic's answer when nothing is found.
pub fn found_something(said: &str) -> bool {
    said != DATA && said != PLAIN
}

/// How a file is to be judged. If libmagic is to be called, also how many bytes it must be given.
pub enum Verdict<'a> {
    /// The first of libmagic's tests that can succeed is certain to, or none can; then this is the answer.
    Known(&'a str),
    /// By libmagic with the rules that may match.
    Ask(Question<'a>),
    /// By libmagic with the first of these rules. If it [finds something](found_something), that is the answer, since
    /// it stops at the first match; otherwise the next stage follows.
    Try(Question<'a>, Stage),
    /// By libmagic with all rules.
    Unsure(usize),
}

/// What libmagic is called with.
pub struct Question<'a> {
    /// A cookie with these rules.
    pub cookie: &'a mut Cookie,
    /// How many bytes it must be given.
    pub limit: usize,
    /// Tests that it needn't make: see [`builtin`].
    pub without: Tests,
    /// It may read more than these bytes through the descriptor.
    pub may_read_elsewhere: bool,
}

impl<'a> Question<'a> {
    /// A call about which nothing is known.
    pub fn open(cookie: &'a mut Cookie, limit: usize) -> Question<'a> {
        Question {
            cookie,
            limit,
            without: Tests::NONE,
            may_read_elsewhere: true,
        }
    }
}

/// All tests that are known to have no effect if they fail.
const TESTS: Tests = BEFORE_RULES.and(Tests::ENCODING).and(Tests::TEXT);

/// Those of them that come before the rules.
const BEFORE_RULES: Tests = Tests::TAR
    .and(Tests::JSON)
    .and(Tests::CSV)
    .and(Tests::OLE)
    .and(Tests::TAPES);

/// Rules out what can't match.
pub struct Prefilter {
    library: &'static Library,
    compiled: Rc<Compiled>,
    rules: Vec<Rule>,
    tables: Tables,
    named: Named,
    subsets: Subsets,
    hits: Hits,
    converted: Vec<u8>,
    candidates: Vec<u32>,
    clusters: Rc<[Range<usize>]>,
}

impl Prefilter {
    /// Reads the rules of a database, which takes some milliseconds.
    pub fn new(compiled: Rc<Compiled>, library: &'static Library) -> Option<Prefilter> {
        let rules = rules_of(&compiled, library);
        let tables = Tables::new(&compiled, &rules, library)?;
        Some(Prefilter {
            library,
            hits: Hits::new(rules.len()),
            subsets: Subsets::new(&compiled),
            named: Named::new(&compiled),
            tables,
            clusters: clusters_of(&compiled, &rules).into(),
            rules,
            compiled,
            converted: Vec::new(),
            candidates: Vec::new(),
        })
    }

    /// Where rules read beyond the head of most files: ranges that are better read as a whole.
    pub fn clusters(&self) -> Rc<[Range<usize>]> {
        Rc::clone(&self.clusters)
    }

    /// How a file is to be judged. To be called with the first stage first.
    pub fn judge(&mut self, stage: Stage, buffer: &Buffer<'_>) -> Verdict<'_> {
        let head = buffer.head().len();
        // About a single byte libmagic only says that it is short.
        if buffer.flen() < 2 {
            return Verdict::Known(DATA);
        }
        let mut tried = Tests::NONE;
        let (outcome, needed) = match stage {
            Stage::Builtin => match builtin(self.library, buffer) {
                Builtin::Says(said) => return Verdict::Known(said),
                Builtin::May(tests, needed) => {
                    tried = tests;
                    self.candidates.clear();
                    (WalkOutcome::First(Stage::Near), needed)
                }
                Builtin::Fail => self.collect(Stage::Near, buffer),
            },
            stage => self.collect(stage, buffer),
        };
        let limit = needed.max(head).min(buffer.flen());
        match outcome {
            // The other tests can't succeed, or have been made in the first stage.
            WalkOutcome::Nothing(said) => return Verdict::Known(said),
            WalkOutcome::Entry(entry) => {
                let said = self.compiled.entry(entry).plain_mime_type();
                if let Some(said) = said {
                    return Verdict::Known(said);
                }
            }
            WalkOutcome::All => return Verdict::Unsure(buffer.flen()),
            _ => {}
        }
        // Rules for both kinds of content are tried in both walks, and must be listed once.
        self.candidates.sort_unstable();
        self.candidates.dedup();
        let cookie = self
            .subsets
            .cookie(&self.compiled, &self.rules, &self.candidates);
        let Some(cookie) = cookie else {
            return Verdict::Unsure(buffer.flen());
        };
        let without = match tried {
            Tests::NONE if is_binary(self.library, buffer) => TESTS,
            Tests::NONE => BEFORE_RULES,
            tried => TESTS.but(tried),
        };
        let without = match self.library.tapes {
            true => without,
            false => without.but(Tests::TAPES),
        };
        let mut rules = self.candidates.iter().map(|n| &self.rules[*n as usize]);
        let question = Question {
            cookie,
            limit,
            without,
            may_read_elsewhere: reads_elsewhere(buffer) || rules.any(|rule| rule.asks_for_end),
        };
        match outcome {
            WalkOutcome::First(next) => Verdict::Try(question, next),
            _ => Verdict::Ask(question),
        }
    }

    /// Collects the rules that may match, as far as they belong to a stage, and how many bytes libmagic must be given
    /// for them.
    fn collect(&mut self, stage: Stage, buffer: &Buffer<'_>) -> (WalkOutcome, usize) {
        let Prefilter {
            library,
            compiled,
            rules,
            tables,
            named,
            hits,
            candidates,
            converted,
            ..
        } = self;
        candidates.clear();
        hits.clear();
        let flen = buffer.flen();
        let needed = |reach: Reach| if reach.all { flen } else { reach.bytes };
        tables.find_binary(buffer.head(), flen, hits);
        let context = Context::new(library, compiled, rules, tables, named, buffer);
        let front = Bytes::front(buffer);
        let back = buffer.elen().map(|elen| Bytes::back(buffer, elen));
        let mut walk = Walk::new(&context, front, back, candidates);
        walk.stays_near = stage == Stage::Near;
        let ending = walk.over(hits.iter(ALL));
        let mut reach = walk.reach;
        let mut sure = walk.sure;
        match ending {
            Ending::Entry(entry) => {
                // Unless it prints something else: see `plain_mime_type`.
                reach.add(walk.add_last());
                return (WalkOutcome::Entry(entry), needed(reach));
            }
            Ending::All => return (WalkOutcome::All, flen),
            Ending::Far => return (WalkOutcome::First(Stage::Early), needed(reach)),
            Ending::Here | Ending::Through => {}
        }
        // Whether that is also enough for libmagic to distinguish text from binary content matters only if it is
        // called.
        let (text, classified) = text_of(library, buffer, converted);
        let needed = |reach| needed(reach).max(classified);
        let (text, said) = match text {
            Text::Binary => (None, DATA),
            Text::Utf8(text) => (Some(text), PLAIN),
            Text::Unknown => return (WalkOutcome::All, flen),
        };
        if let Some(text) = text.filter(|text| !text.is_empty()) {
            hits.clear();
            tables.find_text(text, hits);
            let first_searched = tables.first_searched();
            let before = candidates.len();
            let of_text = Buffer::of_text(text);
            let mut walk = Walk::new(&context, Bytes::front(&of_text), None, candidates);
            walk.sure = sure;
            let mut ending = walk.over(hits.iter(0..first_searched));
            if let Ending::Through = ending {
                // Text is in memory.
                if stage != Stage::All && walk.candidates.len() > before {
                    reach.bytes = reach.bytes.max(ENCODING_MAX);
                    return (WalkOutcome::First(Stage::All), needed(reach));
                }
                tables.search_text(text, hits);
                ending = walk.over(hits.iter(first_searched..u32::MAX));
            }
            sure = walk.sure;
            // Text is converted from the bytes that identify it as text.
            match ending {
                Ending::Entry(entry) => {
                    walk.add_last();
                    return (WalkOutcome::Entry(entry), needed(reach));
                }
                Ending::All => return (WalkOutcome::All, flen),
                Ending::Here | Ending::Through | Ending::Far => {}
            }
        }
        match sure {
            true => (WalkOutcome::Nothing(said), 0),
            false => (WalkOutcome::These, needed(reach)),
        }
    }
}

/// Whether libmagic's code for OLE or ELF reads elsewhere in a file with this beginning, whatever rules it has.
fn reads_elsewhere(buffer: &Buffer<'_>) -> bool {
    let head = buffer.head();
    head.starts_with(b"\xD0\xCF\x11\xE0") || head.starts_with(b"\x7FELF")
}

/// As far from the start as rules read that are tried on hardly any file.
const FURTHEST: usize = 8 << 20;

/// Places with less than this between them are read as one.
const GAP: usize = 4 << 10;

/// Where first tests read beyond the part of most files that is in memory.
fn clusters_of(compiled: &Compiled, rules: &[Rule]) -> Vec<Range<usize>> {
    // More than any of these tests reads.
    const LENGTH: usize = 32;
    let mut places: Vec<usize> = rules
        .iter()
        .filter(|rule| rule.binary)
        .filter_map(|rule| offset_of(&compiled.entry(rule.first), None))
        .filter(|place| (8 << 10..FURTHEST).contains(place))
        .collect();
    places.sort_unstable();
    let mut clusters: Vec<Range<usize>> = Vec::new();
    for place in places {
        match clusters.last_mut() {
            Some(last) if place <= last.end + GAP => last.end = last.end.max(place + LENGTH),
            _ => clusters.push(place..place + LENGTH),
        }
    }
    clusters
}

fn rules_of(compiled: &Compiled, library: &Library) -> Vec<Rule> {
    let begins: Vec<usize> = (0..compiled.rules())
        .filter(|n| compiled.entry(*n).level() == 0)
        .collect();
    let ends = begins.iter().skip(1).copied().chain([compiled.rules()]);
    let rule = |(first, end): (usize, usize)| {
        let entry = compiled.entry(first);
        let when = entry.str_flags() & (str_flag::TEXTTEST | str_flag::BINTEST);
        Rule {
            first,
            end,
            binary: entry.flag() & flag::BINTEST != 0,
            text: entry.flag() & flag::TEXTTEST != 0,
            only_for_text: match when {
                _ if !kind::STRINGS.contains(&entry.kind()) && entry.kind() != library.octal => {
                    None
                }
                str_flag::TEXTTEST => Some(true),
                str_flag::BINTEST => Some(false),
                _ => None,
            },
            regex: (first..end).any(|n| compiled.entry(n).kind() == kind::REGEX),
            asks_for_end: (first..end).any(|n| {
                let entry = compiled.entry(n);
                let applies = [kind::USE, kind::INDIRECT].contains(&entry.kind());
                applies || entry.flag() & flag::OFFNEGATIVE != 0
            }),
        }
    };
    begins.iter().copied().zip(ends).map(rule).collect()
}
