//! The prefilter: libmagic's answers without most of its work.
//!
//! libmagic tries its rules one after another, 3,548 of them in release 5.44, and nearly all fail at their first
//! test. Which ones must fail is found out here for all at once, and the few others are followed in their order. If
//! one of them is sure to be what libmagic answers with, or none is left, the answer is known; if not, libmagic is
//! given a database of those that may matter, and answers itself.
//!
//! # What is looked at
//!
//! All of the file, as libmagic would have it ([`buffer`]): what isn't in hand is read where a rule looks at it, and a
//! rule looks at it only if none that comes before it is the answer. So it is the answer that file(1) has on all of the
//! file, on any database that is understood here. Where libmagic has to be asked, it is given as many bytes from the start
//! as the rules that are left can look at ([`follow::Reach`]) and as it takes to tell text from binary content; a rule of
//! which that isn't known has it given all that file(1) gives it.
//!
//! # Why the answers are the same
//!
//! `match` (src/softmagic.c, 5.41 to 5.47) walks over the entries of a database. An entry of level 0 begins a
//! rule; if its test fails, the walk goes on with the next rule, and nothing is kept: what it has written into
//! `magic_set` (`offset`, `search`, `ms_value`, `c.li`) is written anew before it is read, by the first test of the
//! next rule. So a rule whose first test fails can be left out. If it succeeds, its continuations are tried
//! ([`follow`]). There are three ways for that to end, when only MIME types are asked for: an entry with a MIME type is
//! reached, and ends everything; or `found_match` is set, by an entry with a description, which isn't printed, so that
//! the walk ends behind this rule; or it isn't, and the walk goes on just as if the rule weren't there. A rule that is
//! given up on its way leaves `found_match` to the next one as it is ([`walk`]).
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
//! used whenever something isn't followed here: a text in EBCDIC; a rule that may match and
//! applies all rules to another part of the file (`indirect`), if what comes of that isn't sure; a set of rules that is
//! too large.
//!
//! libmagic answers with the first rule that matches and has a MIME type, after a few [tests of its own](builtin). So
//! if the rules that come first are enough for an answer other than the two that it has for want of anything better,
//! it is the answer of all: [`Stage`].
//!
//! # Releases
//!
//! libmagic differs in all this from release to release. What is known is in one table,
//! [`LIBRARIES`](crate::detector::release::LIBRARIES), of pairs of a release and a version of the database; there is no
//! prefilter for any other pair. libmagic and the prefilter read one mapping of the database, so they can't have two.
//! What ctype.h says of a byte is said in the C locale ([`cookie`](crate::detector::cookie)).
//!
//! # How libmagic gets them
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
    /// There is a regular expression in it.
    regex: bool,
    /// It may look at the end of the file, by itself or by what it applies.
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
    /// The early rules, as below, that come before any that looks at a place far from what has been read: to ask libmagic
    /// is less than a seek.
    Near,
    /// The rules for binary content, and those for text that come before any that take a look at all of the text.
    Early,
    All,
}

/// Is it more than what libmagic says when nothing is found?
pub fn found_something(said: &str) -> bool {
    said != DATA && said != PLAIN
}

/// How a file is to be judged. With what is asked of libmagic comes how many bytes it is to be given.
pub enum Verdict<'a> {
    /// What libmagic would try first of all that can succeed is sure to, or nothing can, and then it says this.
    Known(&'a str),
    /// By libmagic with the rules that may match.
    Ask(Question<'a>),
    /// By libmagic with those of them that come first. If it [finds something](found_something), that is the answer,
    /// for it stops at the first that matches; otherwise the next stage tells.
    Try(Question<'a>, Stage),
    /// By libmagic with all rules.
    Unsure(usize),
}

/// What libmagic is asked.
pub struct Question<'a> {
    /// One with these rules.
    pub cookie: &'a mut Cookie,
    /// How many bytes it is to be given.
    pub limit: usize,
    /// Tests that it needn't try: see [`builtin`].
    pub without: Tests,
    /// It may read more than these bytes, by the descriptor.
    pub may_read_elsewhere: bool,
}

impl<'a> Question<'a> {
    /// One of which nothing is known.
    pub fn open(cookie: &'a mut Cookie, limit: usize) -> Question<'a> {
        Question {
            cookie,
            limit,
            without: Tests::NONE,
            may_read_elsewhere: true,
        }
    }
}

/// All tests that are known to leave nothing behind.
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

    /// Where rules look beyond the head of most files: ranges that are better read as a whole.
    pub fn clusters(&self) -> Rc<[Range<usize>]> {
        Rc::clone(&self.clusters)
    }

    /// How a file is to be judged. To begin with the first stage.
    pub fn judge(&mut self, stage: Stage, buffer: &Buffer<'_>) -> Verdict<'_> {
        let head = buffer.head().len();
        // Of a single byte libmagic says nothing but that it is short.
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
            // The other tests can't succeed, or have been tried in the first stage.
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
        // Rules for both kinds of content are tried in both walks, and come once.
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

    /// Collects the rules that may match, as far as they belong to a stage, and how many bytes libmagic has to be given for
    /// them.
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
                // Unless it says something else: see `plain_mime_type`.
                reach.add(walk.add_last());
                return (WalkOutcome::Entry(entry), needed(reach));
            }
            Ending::All => return (WalkOutcome::All, flen),
            Ending::Far => return (WalkOutcome::First(Stage::Early), needed(reach)),
            Ending::Here | Ending::Through => {}
        }
        // Whether that is enough for it to tell text from binary content, too, matters if it comes to that.
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
                // Text is in hand.
                if stage != Stage::All && walk.candidates.len() > before {
                    reach.bytes = reach.bytes.max(ENCODING_MAX);
                    return (WalkOutcome::First(Stage::All), needed(reach));
                }
                tables.search_text(text, hits);
                ending = walk.over(hits.iter(first_searched..u32::MAX));
            }
            sure = walk.sure;
            // Text is converted from the bytes that tell that it is one.
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

/// Does libmagic read elsewhere in a file that begins like this, whatever rules it has: that of OLE, and of ELF?
fn reads_elsewhere(buffer: &Buffer<'_>) -> bool {
    let head = buffer.head();
    head.starts_with(b"\xD0\xCF\x11\xE0") || head.starts_with(b"\x7FELF")
}

/// As far from the start as rules look that are tried on hardly any file.
const FURTHEST: usize = 8 << 20;

/// Places with less than this between them are read as one.
const GAP: usize = 4 << 10;

/// Where first tests look, beyond what is in hand of most files.
fn clusters_of(compiled: &Compiled, rules: &[Rule]) -> Vec<Range<usize>> {
    // More than any of these tests looks at.
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
