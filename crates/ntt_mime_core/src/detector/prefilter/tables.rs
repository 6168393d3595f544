//! All rules at once: which of them have to be checked.
//!
//! The result may contain rules that can't match, but never misses one that can: [`check`](super::check) tests each
//! afterwards.

use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};
use regex::bytes::{Regex, RegexBuilder};
use regex_automata::hybrid::dfa;
use regex_automata::{Anchored, Input};

use super::Rule;
use super::beginnings::{Beginning, Beginnings};
use super::check::string::is_space;
use super::check::{Answer, offset_of};
use super::format::{Compiled, Entry, VALUE_BYTES, flag, kind, str_flag};
use super::hits::Hits;
use super::regex::{SHORTEST_NEEDLE, is_refused, required, translate};
use crate::detector::limits::REGEX_MAX;
use crate::detector::release::Library;

/// Searches with a range up to this are tried one by one: they read hardly anything.
const SHORT_RANGE: usize = 64;

/// Searches with a greater range, or without one, are tried one by one, so that the automaton needn't go that far.
const LONG_RANGE: usize = 8192;

/// Rules by what they need.
pub struct Tables {
    binary: Beginnings,
    text: Beginnings,
    /// Rules for which there is no fast check.
    other_binary: Vec<u32>,
    other_text: Vec<u32>,
    /// The first rule that is found by the following.
    first_searched: u32,
    needles: AhoCorasick,
    /// By the number of the needle.
    rules_of_needle: Vec<Vec<u32>>,
    /// The number of bytes that are searched for needles.
    needle_bytes: usize,
    /// Searches among these in which blanks stand for any number of them, so that their needles may be further in.
    blanks: Blanks,
    /// By the number of their entry.
    regexes: HashMap<u32, RegexEntry>,
    /// The first rule with an offset from the end.
    first_for_end: Option<usize>,
}

/// Searches for values in which blanks stand for any number of them.
///
/// A match begins within the search's range and has, besides blanks, no more bytes than the value. So if its needle
/// is beyond the bytes that are searched for it, there is hardly anything but blanks between the range and the end of
/// these bytes.
#[derive(Default)]
struct Blanks {
    rules: Vec<u32>,
    /// Where the longest range ends.
    range_end: usize,
}

impl Blanks {
    /// Whether a match of one of them may extend beyond these bytes.
    fn may_reach_beyond(&self, head: &[u8]) -> bool {
        let between = head.get(self.range_end..).unwrap_or_default();
        let mut others = between.iter().filter(|byte| !is_space(**byte));
        !self.rules.is_empty() && others.nth(VALUE_BYTES).is_none()
    }
}

/// The regular expression of an entry.
struct RegexEntry {
    source: String,
    /// A match is certainly also one of regexec's. (regcomp may refuse an expression with bytes outside ASCII.)
    exact: bool,
    /// Built when it is needed.
    own: OnceCell<Option<Own>>,
}

impl RegexEntry {
    fn new(entry: &Entry<'_>, library: &Library) -> Option<RegexEntry> {
        if entry.kind() != kind::REGEX || entry.relation() != b'=' {
            return None;
        }
        // libmagic reports an error then.
        if is_refused(entry.text(), library.refused) {
            return None;
        }
        let ignore_case = entry.str_flags() & str_flag::IGNORE_CASE != 0;
        Some(RegexEntry {
            source: translate(entry.text(), ignore_case)?,
            exact: entry.text().is_ascii(),
            own: OnceCell::new(),
        })
    }

    fn own(&self) -> Option<&Own> {
        let made = self.own.get_or_init(|| Own::new(&self.source));
        made.as_ref()
    }
}

impl Tables {
    /// None if the crates fail, for which they have no reason.
    pub fn new(compiled: &Compiled, rules: &[Rule], library: &Library) -> Option<Tables> {
        let mut builder = Builder::default();
        for (number, rule) in rules.iter().enumerate() {
            builder.add(number as u32, rule, &compiled.entry(rule.first), library);
        }
        builder.first_for_end = rules.iter().position(|rule| {
            let entry = compiled.entry(rule.first);
            rule.binary && rule.only_for_text.is_none() && entry.flag() & flag::OFFNEGATIVE != 0
        });
        let silent = |rule: &&Rule| !compiled.entry(rule.first).has_mime_type();
        let continuations = rules
            .iter()
            .filter(silent)
            .flat_map(|rule| rule.first + 1..rule.end);
        let named = compiled.rules()..compiled.rules() + compiled.named();
        for number in continuations.chain(named) {
            let regex = RegexEntry::new(&compiled.entry(number), library);
            let regex = regex.map(|regex| (number as u32, regex));
            builder.regexes.extend(regex);
        }
        builder.finish()
    }

    /// Finds the rules that may match binary content. libmagic has `len` bytes, of which these are the first; rules
    /// that read beyond these are included.
    pub fn find_binary(&self, bytes: &[u8], len: usize, hits: &mut Hits) {
        self.binary.find(bytes, len, hits);
        self.other_binary.iter().for_each(|rule| hits.add(*rule));
    }

    /// Finds the rules that may match text, except those for which the whole text is searched.
    pub fn find_text(&self, text: &[u8], hits: &mut Hits) {
        self.text.find(text, text.len(), hits);
        self.other_text.iter().for_each(|rule| hits.add(*rule));
    }

    /// Finds the other rules that may match text.
    pub fn search_text(&self, text: &[u8], hits: &mut Hits) {
        let head = &text[..text.len().min(self.needle_bytes)];
        for found in self.needles.find_overlapping_iter(head) {
            let rules = &self.rules_of_needle[found.pattern().as_usize()];
            rules.iter().for_each(|rule| hits.add(*rule));
        }
        if text.len() > head.len() && self.blanks.may_reach_beyond(head) {
            self.blanks.rules.iter().for_each(|rule| hits.add(*rule));
        }
    }

    /// Whether a rule before this one asks for the end of every file.
    pub fn asks_for_end_before(&self, rule: usize) -> bool {
        self.first_for_end.is_some_and(|first| first < rule)
    }

    /// The first rule for which the whole text is searched.
    pub fn first_searched(&self) -> u32 {
        self.first_searched
    }

    /// Whether the regular expression of this entry matches in `region`, against which libmagic matches it; and
    /// where, on request.
    pub fn regex(
        &self,
        number: usize,
        region: &[u8],
        where_too: bool,
    ) -> (Answer, Option<(usize, usize)>) {
        let regex = self.regexes.get(&(number as u32));
        let Some((regex, own)) = regex.and_then(|regex| Some((regex, regex.own()?))) else {
            return (Answer::Maybe, None);
        };
        let yes = match regex.exact {
            true => Answer::Yes,
            false => Answer::Maybe,
        };
        match where_too {
            false if own.regex.is_match(region) => (yes, None),
            false => (Answer::No, None),
            true => match own.find(region) {
                None => (Answer::No, None),
                Some((start, end)) => (yes, end.map(|end| (start, end))),
            },
        }
    }
}

/// A single regular expression.
struct Own {
    regex: Regex,
    /// Finds the longest match that begins at a position, as POSIX requires. `regex` prefers others.
    longest: dfa::DFA,
    cache: RefCell<dfa::Cache>,
}

/// Memory that an engine may use for cached states of one expression, in bytes.
const CACHE: usize = 128 * 1024;

fn build(source: &str) -> Option<Regex> {
    let mut builder = RegexBuilder::new(source);
    builder.unicode(false).dfa_size_limit(CACHE).build().ok()
}

impl Own {
    fn new(source: &str) -> Option<Own> {
        let regex = build(source)?;
        let longest = dfa::Builder::new()
            .configure(
                dfa::Config::new()
                    .match_kind(regex_automata::MatchKind::All)
                    .cache_capacity(CACHE)
                    .skip_cache_capacity_check(true),
            )
            .syntax(
                regex_automata::util::syntax::Config::new()
                    .unicode(false)
                    .utf8(false),
            )
            .thompson(regex_automata::nfa::thompson::Config::new().utf8(false))
            .build(source)
            .ok()?;
        let cache = RefCell::new(longest.create_cache());
        Some(Own {
            regex,
            longest,
            cache,
        })
    }

    /// The start of the leftmost match, and the end of the longest one that begins there, unless the engine gives up.
    fn find(&self, region: &[u8]) -> Option<(usize, Option<usize>)> {
        let start = self.regex.find(region)?.start();
        let input = Input::new(region).range(start..).anchored(Anchored::Yes);
        let end = self
            .longest
            .try_search_fwd(&mut self.cache.borrow_mut(), &input);
        Some((start, end.ok().flatten().map(|end| end.offset())))
    }
}

#[derive(Default)]
struct Builder {
    binary: Vec<(Beginning, u32)>,
    text: Vec<(Beginning, u32)>,
    other_binary: Vec<u32>,
    other_text: Vec<u32>,
    needles: HashMap<Vec<u8>, Vec<u32>>,
    needle_bytes: usize,
    blanks: Blanks,
    regexes: HashMap<u32, RegexEntry>,
    first_for_end: Option<usize>,
}

impl Builder {
    fn add(&mut self, number: u32, rule: &Rule, entry: &Entry<'_>, library: &Library) {
        let beginnings = Beginning::of(entry);
        let begins = || beginnings.iter().map(|beginning| (*beginning, number));
        if rule.binary {
            self.binary.extend(begins());
            if beginnings.is_empty() {
                self.other_binary.push(number);
            }
        }
        let regex = RegexEntry::new(entry, library);
        if rule.text {
            let needles = || match &regex {
                Some(regex) => needles_of_regex(entry, &regex.source),
                None => needle(entry),
            };
            self.text.extend(begins());
            if beginnings.is_empty() {
                match needles() {
                    Some((needles, end)) => {
                        self.needle_bytes = self.needle_bytes.max(end);
                        if regex.is_none() && has_blanks(entry) {
                            self.blanks.rules.push(number);
                            self.blanks.range_end = self.blanks.range_end.max(end);
                        }
                        for needle in needles {
                            self.needles.entry(needle).or_default().push(number);
                        }
                    }
                    None => self.other_text.push(number),
                }
            }
        }
        let regex = regex.map(|regex| (rule.first as u32, regex));
        self.regexes.extend(regex);
    }

    fn finish(self) -> Option<Tables> {
        let (needles, rules_of_needle): (Vec<_>, Vec<_>) = self.needles.into_iter().unzip();
        let searched = rules_of_needle.iter().flatten();
        Some(Tables {
            first_searched: searched.copied().min().unwrap_or(u32::MAX),
            binary: Beginnings::new(self.binary),
            text: Beginnings::new(self.text),
            other_binary: self.other_binary,
            other_text: self.other_text,
            needles: AhoCorasick::builder()
                .match_kind(MatchKind::Standard)
                .ascii_case_insensitive(true)
                .kind(Some(AhoCorasickKind::DFA))
                .build(needles)
                .ok()?,
            rules_of_needle,
            // Hardly any text has only blanks within this length.
            needle_bytes: self
                .needle_bytes
                .max(self.blanks.range_end + 8 * VALUE_BYTES),
            blanks: self.blanks,
            regexes: self.regexes,
            first_for_end: self.first_for_end,
        })
    }
}

/// What is found wherever a search succeeds: its longest piece without white space; and up to which position, unless
/// [`Blanks`] are in between. None if it is better tried separately.
fn needle(entry: &Entry<'_>) -> Option<(Vec<Vec<u8>>, usize)> {
    let offset = offset_of(entry, None)?;
    let range = entry.range();
    let searched = entry.kind() == kind::SEARCH && entry.relation() == b'=';
    if !searched || range <= SHORT_RANGE || range > LONG_RANGE {
        return None;
    }
    let value = entry.value().get(..entry.value_length())?;
    if !value.is_ascii() {
        return None;
    }
    let pieces = value.split(|byte| is_space(*byte));
    let longest = pieces.max_by_key(|piece| piece.len())?;
    let needles = vec![longest.to_ascii_lowercase()];
    (longest.len() >= SHORTEST_NEEDLE).then_some((needles, offset + range + value.len()))
}

/// Whether the value has a blank that stands for any number of them.
fn has_blanks(entry: &Entry<'_>) -> bool {
    let any_number = str_flag::COMPACT_WHITESPACE | str_flag::COMPACT_OPTIONAL_WHITESPACE;
    let value = &entry.value()[..entry.value_length().min(VALUE_BYTES)];
    entry.str_flags() & any_number != 0 && value.iter().any(|byte| is_space(*byte))
}

/// Pieces of which one is found wherever a regular expression matches, and up to which position.
fn needles_of_regex(entry: &Entry<'_>, source: &str) -> Option<(Vec<Vec<u8>>, usize)> {
    let offset = offset_of(entry, None)?;
    let needles = required(source)?;
    Some((needles, offset + REGEX_MAX))
}
