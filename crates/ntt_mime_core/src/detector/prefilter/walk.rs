//! A walk over the rules like that of libmagic's `match`: which of them may matter, and how it ends.

use std::cell::{Cell, OnceCell};

use super::buffer::{Buffer, Bytes};
use super::check::Answer;
pub use super::follow::Follower;
use super::follow::{Mime, Named, Reach};
use super::format::Compiled;
use super::hits::Hits;
use super::tables::Tables;
use super::text::is_text;
use super::{ALL, Rule};
use crate::detector::release::Library;

/// The maximum nesting of `indirect`, and the maximum number of them for a file. libmagic stops with an error at 50.
const DEEPEST: usize = 4;
const INDIRECT: u32 = 40;

/// How much of the file is classified first where `indirect` begins.
const GLANCE: usize = 4096;

/// What is needed to evaluate rules.
pub struct Context<'a> {
    pub library: &'static Library,
    pub compiled: &'a Compiled,
    pub rules: &'a [Rule],
    pub tables: &'a Tables,
    pub named: &'a Named,
    /// The file.
    pub buffer: &'a Buffer<'a>,
    /// Whether libmagic considers it text. None if unknown here.
    is_text: OnceCell<Option<bool>>,
    /// Uses of `indirect` so far.
    indirect: Cell<u32>,
}

impl<'a> Context<'a> {
    pub fn new(
        library: &'static Library,
        compiled: &'a Compiled,
        rules: &'a [Rule],
        tables: &'a Tables,
        named: &'a Named,
        buffer: &'a Buffer<'a>,
    ) -> Context<'a> {
        Context {
            library,
            compiled,
            rules,
            tables,
            named,
            buffer,
            is_text: OnceCell::new(),
            indirect: Cell::new(0),
        }
    }

    fn is_text(&self) -> Option<bool> {
        *self
            .is_text
            .get_or_init(|| is_text(self.library, self.buffer))
    }
}

/// How a walk over the rules ends, as far as that is certain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// At this entry, with its MIME type, and nothing before it can have one.
    Entry(usize),
    /// At the rule that was collected last, or before. Perhaps without a MIME type: then the rules for text are
    /// tried.
    Here,
    /// Perhaps only after the last rule.
    Through,
    /// Unknown without all rules.
    All,
    /// The next rule reads at a place that is far from all that have been read, and those that were collected may be
    /// enough.
    Far,
}

/// A walk that collects the rules that may matter.
pub struct Walk<'a, 'c> {
    follower: Follower<'a, 'c>,
    pub candidates: &'c mut Vec<u32>,
    /// No rule that was collected can have a MIME type.
    pub sure: bool,
    /// The walk may have ended, without a MIME type, at a rule that was collected.
    may_have_ended: bool,
    /// `found_match`, as the rules so far have left it.
    found_match: Answer,
    /// What libmagic must see for those that were collected.
    pub reach: Reach,
    /// It must end before it goes [`Far`](Ending::Far).
    pub stays_near: bool,
}

impl<'a, 'c> Walk<'a, 'c> {
    /// Over rules that are applied to `front`; if they can ask for the end of the file, that is `back`.
    pub fn new(
        context: &'c Context<'a>,
        front: Bytes<'a>,
        back: Option<Bytes<'a>>,
        candidates: &'c mut Vec<u32>,
    ) -> Walk<'a, 'c> {
        Walk {
            follower: Follower::new(context, front, back),
            candidates,
            sure: true,
            may_have_ended: false,
            found_match: Answer::No,
            reach: Reach::NONE,
            stays_near: false,
        }
    }

    /// Adds the rule that was evaluated last, which ended the walk; returns what libmagic must see for it.
    pub fn add_last(&mut self) -> Reach {
        self.candidates.push(self.follower.rule as u32);
        self.follower.reach
    }

    /// Walks over these rules, which come after the previous ones.
    pub fn over(&mut self, rules: impl Iterator<Item = usize>) -> Ending {
        let context = self.follower.context;
        for number in rules {
            let rule = &context.rules[number];
            let before = self.found_match;
            let mut found_match = before;
            self.follower.rule = number;
            let mut follow = || {
                self.follower
                    .follow_rule(rule.first, rule.end, &mut found_match)
            };
            let mut outcome = match self.stays_near && !self.sure && !self.reach.all {
                false => follow(),
                true => match context.buffer.near_only(follow) {
                    Some(outcome) => outcome,
                    None => return Ending::Far,
                },
            };
            let matters = outcome.mime != Mime::No
                || found_match > before
                || outcome.completes != Answer::No && found_match != Answer::No;
            if !matters {
                continue;
            }
            if let Some(wanted) = rule.only_for_text {
                match context.is_text() {
                    Some(is_text) if is_text != wanted => continue,
                    Some(_) => {}
                    None => {
                        outcome.completes = outcome.completes.min(Answer::Maybe);
                        found_match = match before {
                            Answer::Yes => before,
                            _ => found_match.min(Answer::Maybe),
                        };
                        if outcome.mime != Mime::No {
                            outcome.mime = Mime::Maybe;
                        }
                    }
                }
            }
            // Printed, but not the end: something else may be printed after it.
            if outcome.completes != Answer::Yes && outcome.mime != Mime::No {
                outcome.mime = Mime::Maybe;
            }
            match outcome.mime {
                Mime::Surely(entry) if self.sure && !self.may_have_ended => {
                    return Ending::Entry(entry);
                }
                Mime::No => {}
                _ => self.sure = false,
            }
            if self.follower.needs_all_rules {
                return Ending::All;
            }
            self.candidates.push(number as u32);
            self.reach.add(self.follower.reach);
            self.may_have_ended |= outcome.completes.min(found_match) != Answer::No;
            match (outcome.completes, found_match) {
                (Answer::Yes, Answer::Yes) => return Ending::Here,
                // If it goes on, there was none.
                (Answer::Yes, _) => self.found_match = Answer::No,
                _ => self.found_match = found_match,
            }
        }
        Ending::Through
    }
}

/// What all rules for binary content print for the bytes from an offset on (`FILE_INDIRECT` in `mget`), and whether
/// libmagic needs all of them to print the same: the rules that it is given are those that may match where the file
/// begins. Only if no rule prints anything do fewer rules print the same, whichever these are; and only if the end
/// that they see is the same, which, unless they have their own, depends on the rules before them.
pub fn indirectly(outer: &Follower<'_, '_>, offset: usize) -> (Mime, bool) {
    let context = outer.context;
    let uses = context.indirect.replace(context.indirect.get() + 1);
    if outer.indirect_depth == DEEPEST || uses >= INDIRECT {
        return (Mime::Maybe, true);
    }
    let front = outer.front.from(offset);
    let back = match (outer.back, context.library.indirect_has_own_end) {
        (Some(_), true) => Some(Bytes::back(context.buffer, front.len())),
        // The end of the whole file if it has been read before, as it has if a previous rule asked for it.
        (Some(back), false) if context.tables.asks_for_end_before(outer.rule) => Some(back),
        _ => None,
    };
    let mut hits = Hits::new(context.rules.len());
    context
        .tables
        .find_binary(front.get(0, GLANCE), front.len(), &mut hits);
    let mut candidates = Vec::new();
    let mut walk = Walk::new(context, front, back, &mut candidates);
    walk.follower.indirect_depth = outer.indirect_depth + 1;
    let ending = walk.over(hits.iter(ALL));
    let said = match ending {
        Ending::Entry(entry) => Mime::Surely(entry),
        Ending::Here | Ending::Through if walk.sure => Mime::No,
        _ => Mime::Maybe,
    };
    let prints_nothing = ending == Ending::Through && walk.candidates.is_empty();
    (
        said,
        !(prints_nothing && context.library.indirect_has_own_end),
    )
}
