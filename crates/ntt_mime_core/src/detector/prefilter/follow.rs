//! Evaluates a rule to its end: what libmagic will print for it, as far as that can be known.
//!
//! This is `match`, `msetoffset` and `moffset` (src/softmagic.c, 5.41 to 5.47) for one rule, when only MIME types are
//! requested, with tests that may also answer "perhaps". It has the state variables of `match`, under their names,
//! each as an [`Answer`]: `Yes` and `No` are certain, `Maybe` is not. Nothing uncertain is ever taken for certain: a
//! continuation after an uncertain test is one that *may* be reached.
//!
//! - `cont_level` is the length of `levels`, less one. If a test succeeds, the continuations of the next level are
//!   tried, up to the next test of its own level.
//! - `handle_annotation`: the first entry that is reached and has a MIME type ends the rule, and with it the whole
//!   walk.
//! - `found_match` is set by a description, which isn't printed. If it is set when the last continuation has been
//!   tried, the walk ends, whichever entry has set it. It survives a rule that is abandoned before that (`goto
//!   flush`), so it is passed on from rule to rule. A rule is abandoned if its first test fails; if that test
//!   succeeds and its match ends beyond the end of the buffer (`moffset`); or if the offset of a continuation is
//!   before the start (`msetoffset`).
//! - `got_match` exists for each level, and is reset when the level is entered (`file_check_mem`), by `clear`, and by
//!   a continuation that succeeds and whose match ends beyond the end. `default` succeeds if it isn't set.
//! - `returnval` says whether anything has been printed; it matters only to `use` in 5.41.
//! - `use` evaluates a named rule, with its own `found_match`, and succeeds if that is set. What follows is still
//!   evaluated, although something may have been printed.
//! - `indirect` walks over all rules for a part of the file, and succeeds if that prints something.
//! - An offset is relative to the start of the file, to the end of the previous match, or to the end of the file. In
//!   the last case the offsets of continuations are relative to that end as well (`eoffset`).
//! - `need_separator`, `printed_something` and `firstline` decide what is put between two printed parts. If there
//!   would be a second part, that is left to libmagic.
//!
//! During its evaluation, a rule records how much of the file libmagic must see to come to the same end: [`Reach`].

use std::collections::HashMap;
use std::ops::Range;

use super::buffer::Bytes;
use super::check::number::{Indirection, indirection};
use super::check::{Answer, Found, check, reach};
use super::format::{Entry, VALUE_BYTES, flag, kind};
use super::walk::{self, Context};

/// Whether a MIME type is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mime {
    No,
    Maybe,
    /// That of this entry, and nothing else.
    Surely(usize),
}

/// How a rule ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub mime: Mime,
    /// Whether it is evaluated to its end, where `found_match` decides whether the walk goes on.
    pub completes: Answer,
}

impl Outcome {
    /// The first test fails.
    const FAILS: Outcome = Outcome {
        mime: Mime::No,
        completes: Answer::No,
    };

    const UNTOLD: Outcome = Outcome {
        mime: Mime::Maybe,
        completes: Answer::Maybe,
    };
}

/// How many bytes from the start, and from the end, libmagic must be given to come to the same end with a rule as
/// with the whole file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    pub bytes: usize,
    /// All of it.
    pub all: bool,
}

impl Reach {
    pub const NONE: Reach = Reach {
        bytes: 0,
        all: false,
    };

    pub fn add(&mut self, other: Reach) {
        self.bytes = self.bytes.max(other.bytes);
        self.all |= other.all;
    }
}

/// The maximum depth of nested `use`; the databases have three levels. libmagic stops with an error at 50.
const DEEPEST: usize = 5;

/// Named rules: where their entries begin and end.
pub struct Named(HashMap<Vec<u8>, (usize, usize)>);

impl Named {
    pub fn new(compiled: &super::format::Compiled) -> Named {
        let all = compiled.rules()..compiled.rules() + compiled.named();
        let mut named = HashMap::new();
        let mut end = all.end;
        for number in all.rev() {
            let entry = compiled.entry(number);
            if entry.level() == 0 {
                // The first rule of a name counts (`file_magicfind`).
                if entry.kind() == kind::NAME {
                    named.insert(entry.text().to_vec(), (number, end));
                }
                end = number;
            }
        }
        Named(named)
    }
}

/// The input for which a rule is evaluated.
pub struct Follower<'a, 'c> {
    pub context: &'c Context<'a>,
    /// `fbuf`.
    pub front: Bytes<'a>,
    /// `ebuf`; None if unknown.
    pub back: Option<Bytes<'a>>,
    /// The number of the current rule.
    pub rule: usize,
    /// The number of `indirect` rules within which this is.
    pub indirect_depth: usize,
    pub reach: Reach,
    /// libmagic needs all rules to produce the result.
    pub needs_all_rules: bool,
    /// Memory that is reused.
    levels: Vec<Level>,
}

/// Where a test reads.
#[derive(Clone, Copy)]
enum Place {
    /// A position in `fbuf`, and the value of `ms->offset` there: the same, except for what is added within a named
    /// rule.
    Front(usize, usize),
    /// A position in `ebuf`.
    Back(usize),
    /// It isn't determined here.
    Untold,
    /// Before the start: the rest of this rule isn't tried.
    Nowhere,
    /// The offset would be read from a position that doesn't exist: the test is skipped.
    Missing,
}

/// A level of continuations. Everything in it assumes that the level is reached.
struct Level {
    /// Whether it is certainly reached.
    sure: bool,
    got_match: Answer,
    /// `off` of `struct level_info`: where the last successful test's match ended, if known.
    off: Option<usize>,
}

impl Level {
    fn entered(sure: bool) -> Level {
        Level {
            sure,
            got_match: Answer::No,
            off: None,
        }
    }
}

/// What offsets are currently relative to (`eoffset`, and the buffer that is read).
#[derive(Clone, Copy, Default)]
struct Origin {
    back: bool,
    eoffset: usize,
}

/// The parameters with which a rule is used.
#[derive(Clone, Copy)]
struct Use {
    /// Added to all offsets, for a named rule.
    base: usize,
    /// Numbers have the opposite byte order.
    flip: bool,
    depth: usize,
}

/// The result of a test.
struct Tried {
    found: Found,
    /// What is printed by what it applies.
    mime: Mime,
    /// `found_match` of what it applies.
    found_match: Answer,
}

impl<'a, 'c> Follower<'a, 'c> {
    pub fn new(
        context: &'c Context<'a>,
        front: Bytes<'a>,
        back: Option<Bytes<'a>>,
    ) -> Follower<'a, 'c> {
        Follower {
            context,
            front,
            back,
            rule: 0,
            indirect_depth: 0,
            reach: Reach::NONE,
            needs_all_rules: false,
            levels: Vec::new(),
        }
    }

    /// Evaluates the rule from entry `first` up to, but not including, `end`. `found_match` is as the previous rules
    /// have left it, and afterwards as this one leaves it.
    pub fn follow_rule(&mut self, first: usize, end: usize, found_match: &mut Answer) -> Outcome {
        self.reach = Reach::NONE;
        self.needs_all_rules = false;
        let by_itself = Use {
            base: 0,
            flip: false,
            depth: 0,
        };
        self.follow(first, end, by_itself, found_match)
    }

    fn follow(&mut self, first: usize, end: usize, used: Use, found_match: &mut Answer) -> Outcome {
        let mut levels = std::mem::take(&mut self.levels);
        levels.clear();
        levels.push(Level::entered(true));
        let outcome = self.follow_levels(first..end, used, found_match, &mut levels);
        self.levels = levels;
        outcome
    }

    fn follow_levels(
        &mut self,
        entries: Range<usize>,
        used: Use,
        found_match: &mut Answer,
        levels: &mut Vec<Level>,
    ) -> Outcome {
        let compiled = self.context.compiled;
        let mut origin = Origin::default();
        let mut said = Mime::No;
        // Whether it has gone on so far.
        let mut completes = Answer::Yes;
        for number in entries {
            let entry = compiled.entry(number);
            let at = usize::from(entry.level());
            if at >= levels.len() {
                continue;
            }
            levels.truncate(at + 1);
            let parent = at.checked_sub(1).map(|above| levels[above].off);
            let sure = levels[at].sure && completes == Answer::Yes;
            // What follows it is relative to the same end.
            let turns = match entry.flag() & (flag::OFFNEGATIVE | flag::OFFPOSITIVE) {
                flag::OFFPOSITIVE => origin.back,
                sign => sign != 0,
            };
            let place = self.place(&entry, parent, &mut origin, used);
            match place {
                Place::Untold if turns => return self.untold(found_match),
                _ if turns && !sure => return self.untold(found_match),
                Place::Nowhere => {
                    return Outcome {
                        mime: said,
                        completes: Answer::No,
                    };
                }
                _ => {}
            }
            self.record_reach(&entry, place);
            let mut tried = self.tried(number, place, levels[at].got_match, used);
            // In 5.41 it requires that something was printed.
            if entry.kind() == kind::USE
                && !self.context.library.use_by_description
                && tried.found.answer == Answer::Yes
                && tried.mime == Mime::No
            {
                tried.found.answer = match said {
                    Mime::No => Answer::No,
                    _ => Answer::Maybe,
                };
            }
            let within = match sure {
                true => tried.found_match,
                false => tried.found_match.min(Answer::Maybe),
            };
            *found_match = within.max(*found_match);
            let mut answer = tried.found.answer;
            if entry.is_conditional() && answer == Answer::Yes {
                answer = Answer::Maybe;
            }
            match tried.mime {
                Mime::No => {}
                Mime::Surely(_) if sure && said == Mime::No => said = tried.mime,
                _ => said = Mime::Maybe,
            }
            if answer == Answer::No {
                // If the first test fails, so does the rule.
                match at {
                    0 => return Outcome::FAILS,
                    _ => continue,
                }
            }
            let sure = sure && answer == Answer::Yes;
            let got_match = levels[at].got_match;
            levels[at].got_match = match entry.kind() {
                kind::CLEAR if answer == Answer::Yes => Answer::No,
                kind::CLEAR => Answer::Maybe,
                _ => got_match.max(answer),
            };
            if entry.has_mime_type() {
                *found_match = (*found_match).max(answer_of(sure));
                match (sure, said) {
                    (true, Mime::No) => {
                        return Outcome {
                            mime: Mime::Surely(number),
                            completes: Answer::Yes,
                        };
                    }
                    (true, _) => {
                        return Outcome {
                            mime: Mime::Maybe,
                            completes: Answer::Yes,
                        };
                    }
                    // If it is reached, nothing after it is.
                    (false, _) => {
                        said = Mime::Maybe;
                        completes = Answer::Maybe;
                    }
                }
            }
            if entry.describes() {
                *found_match = (*found_match).max(answer_of(sure));
            }
            let off = match entry.kind() {
                // It also moves the end of the previous match, if there are as many bytes as it says (`der_offs` in
                // src/der.c).
                kind::DER if at > 0 => {
                    levels[at - 1].off = None;
                    Moffset::Untold
                }
                _ => self.moffset(&entry, &tried.found, place, used),
            };
            let mut sure = sure;
            match off {
                Moffset::To(off) => levels[at].off = Some(off),
                Moffset::Beyond if at == 0 => {
                    return Outcome {
                        mime: said,
                        completes: Answer::No,
                    };
                }
                Moffset::Beyond => {
                    levels[at].got_match = match answer {
                        Answer::Yes => Answer::No,
                        _ => got_match.min(Answer::Maybe),
                    };
                    continue;
                }
                Moffset::Untold => {
                    levels[at].off = None;
                    levels[at].got_match = levels[at].got_match.min(Answer::Maybe);
                    sure = false;
                    if at == 0 {
                        completes = Answer::Maybe;
                    }
                }
            }
            if at == 0 && answer == Answer::Maybe {
                completes = Answer::Maybe;
            }
            levels.push(Level::entered(sure));
        }
        Outcome {
            mime: said,
            completes,
        }
    }

    /// Nothing more is known about a rule.
    fn untold(&mut self, found_match: &mut Answer) -> Outcome {
        self.reach.all = true;
        *found_match = (*found_match).max(Answer::Maybe);
        Outcome::UNTOLD
    }

    /// Records how far a test reads.
    fn record_reach(&mut self, entry: &Entry<'_>, place: Place) {
        let offset_kind = entry.kind() == self.context.library.offset;
        match place {
            Place::Front(at, _) => {
                // If an offset is read from the file, it was recorded there.
                match reach(entry) {
                    Some(reach) => self.reach_to(at.saturating_add(reach)),
                    None => self.reach.all = true,
                }
            }
            Place::Back(_) if offset_kind => self.reach.all = true,
            Place::Back(at) => {
                let len = self.back.map_or(0, |back| back.len());
                self.reach_to(len.saturating_sub(at));
            }
            Place::Untold => self.reach.all = true,
            Place::Missing | Place::Nowhere => {}
        }
    }

    /// What is beyond the end doesn't exist for libmagic either, however much it is given.
    fn reach_to(&mut self, bytes: usize) {
        // Within the part to which an `indirect` rule is applied, positions aren't those of the file.
        self.reach.all |= self.indirect_depth > 0;
        self.reach.bytes = self.reach.bytes.max(bytes.min(self.front.len()));
    }

    /// Where a test reads. For a continuation, `parent` is where the previous match ended, if known.
    fn place(
        &mut self,
        entry: &Entry<'_>,
        parent: Option<Option<usize>>,
        origin: &mut Origin,
        used: Use,
    ) -> Place {
        if entry.flag() & flag::OFFPOSITIVE != 0 {
            *origin = Origin::default();
        }
        let mut offset = match entry.flag() & flag::OFFNEGATIVE {
            0 => origin.eoffset as i64 + i64::from(entry.offset()),
            _ => match self.turned(entry, parent.is_some(), origin, used.base) {
                Ok(offset) => offset,
                Err(place) => return place,
            },
        };
        if entry.flag() & flag::OFFADD != 0 {
            match parent {
                Some(Some(parent)) => offset += parent as i64,
                _ => return Place::Untold,
            }
        }
        let Ok(offset) = usize::try_from(offset) else {
            return Place::Untold;
        };
        if entry.flag() & flag::INDIR != 0 {
            return self.indirect(entry, parent, origin.back, offset, used);
        }
        self.of_buffer(origin.back, used.base + offset, offset, used)
    }

    /// The offset of a test relative to the end, and of what follows it; or, if it is relative to the previous match,
    /// backwards, and what follows it is relative to the start again.
    fn turned(
        &self,
        entry: &Entry<'_>,
        continues: bool,
        origin: &mut Origin,
        base: usize,
    ) -> Result<i64, Place> {
        if continues && entry.flag() & (flag::OFFADD | flag::INDIROFFADD) != 0 {
            *origin = Origin::default();
            return Ok(-i64::from(entry.offset()));
        }
        let elen = self.back.map(|back| back.len());
        let (Some(elen), 0, Ok(back)) = (elen, base, usize::try_from(entry.offset())) else {
            // An error, or the end of a text that has been converted.
            return Err(Place::Untold);
        };
        let eoffset = elen.checked_sub(back).ok_or(Place::Nowhere)?;
        *origin = Origin {
            back: true,
            eoffset,
        };
        Ok(eoffset as i64)
    }

    /// A position in one of the two buffers.
    fn of_buffer(&self, back: bool, at: usize, offset: usize, used: Use) -> Place {
        match back {
            true => Place::Back(at),
            // With a base, libmagic's checks of the end and its starting points for continuations are inconsistent.
            false if used.base > 0 && at.max(offset) + VALUE_BYTES > self.front.len() => {
                Place::Untold
            }
            false => Place::Front(at, offset),
        }
    }

    /// Where a test reads whose offset is itself read from the file.
    fn indirect(
        &mut self,
        entry: &Entry<'_>,
        parent: Option<Option<usize>>,
        back: bool,
        offset: usize,
        used: Use,
    ) -> Place {
        let bytes = match (back, self.back) {
            (true, Some(end)) => {
                // Where it leads depends on where the end begins.
                self.reach.all = true;
                end
            }
            (true, None) => return Place::Untold,
            (false, _) => self.front,
        };
        let at = used.base + offset;
        if used.base > 0 && at + VALUE_BYTES > bytes.len() {
            return Place::Untold;
        }
        if !back {
            self.reach_to(
                at.saturating_add(VALUE_BYTES + entry.in_offset().unsigned_abs() as usize),
            );
        }
        let to = match indirection(self.context.library, entry, bytes, at, used.flip) {
            Indirection::To(to) => to,
            Indirection::Nowhere => return Place::Missing,
            Indirection::Untold => return Place::Untold,
        };
        let to = match entry.flag() & flag::INDIROFFADD {
            0 => to,
            _ => match parent {
                None => return Place::Missing,
                Some(None) => return Place::Untold,
                // Numbers of 32 bits.
                Some(Some(parent)) => match (to as u32).wrapping_add(parent as u32) {
                    0 => return Place::Missing,
                    to => to as usize,
                },
            },
        };
        // `mget` doesn't add the base to the result.
        self.of_buffer(back, to, to, used)
    }

    /// The result of an entry's test, or of what it applies.
    fn tried(&mut self, number: usize, place: Place, got_match: Answer, used: Use) -> Tried {
        let entry = self.context.compiled.entry(number);
        let here = |answer| Found {
            answer,
            end: match place {
                Place::Front(at, _) | Place::Back(at) => Some(at),
                _ => None,
            },
        };
        let known = matches!(place, Place::Front(..) | Place::Back(_));
        let mut tried = Tried {
            found: Answer::Maybe.into(),
            mime: Mime::No,
            found_match: Answer::No,
        };
        tried.found = match entry.kind() {
            _ if matches!(place, Place::Missing) => Found::missed(&entry),
            // If the offset is read from the file, it may not exist.
            kind::DEFAULT | kind::CLEAR if entry.relation() != b'x' || !known => {
                Answer::Maybe.into()
            }
            kind::DEFAULT => here(!got_match),
            kind::CLEAR => here(Answer::Yes),
            kind::NAME => Found {
                answer: Answer::Yes,
                end: Some(0),
            },
            kind if kind == self.context.library.offset => match place {
                Place::Front(at, _) | Place::Back(at) => {
                    super::check::number::offset(self.context.library, &entry, at)
                }
                _ => Answer::Maybe.into(),
            },
            kind::USE => {
                (tried.mime, tried.found_match) = self.used(&entry, place, used);
                here(tried.found_match)
            }
            kind::INDIRECT => {
                tried.mime = self.indirectly(place, used);
                let answer = match tried.mime {
                    Mime::No => Answer::No,
                    Mime::Maybe => Answer::Maybe,
                    Mime::Surely(_) => Answer::Yes,
                };
                tried.found_match = answer;
                here(answer)
            }
            _ => self.test(number, &entry, place, used),
        };
        tried
    }

    fn test(&mut self, number: usize, entry: &Entry<'_>, place: Place, used: Use) -> Found {
        // Only continuations need the end of the match, and a MIME type has none.
        let where_too = !entry.has_mime_type();
        let tables = self.context.tables;
        let regex = |region: &[u8]| tables.regex(number, region, where_too);
        let (bytes, at) = match (place, self.back) {
            (Place::Front(at, _), _) => (self.front, at),
            (Place::Back(at), Some(back)) => (back, at),
            _ => return Answer::Maybe.into(),
        };
        check(self.context.library, entry, bytes, at, used.flip, regex)
    }

    /// The result of the named rule that an entry uses: what is printed, and its `found_match`.
    fn used(&mut self, entry: &Entry<'_>, place: Place, used: Use) -> (Mime, Answer) {
        // "^" reverses the byte order.
        let (name, flip) = match entry.text().strip_prefix(b"^") {
            Some(name) => (name, !used.flip),
            None => (entry.text(), used.flip),
        };
        let named = self.context.named.0.get(name).copied();
        // `mget` adds the base again, which is already contained in the position unless that was read from the file.
        let (Place::Front(at, offset), Some((first, end))) = (place, named) else {
            self.reach.all = true;
            return (Mime::Maybe, Answer::Maybe);
        };
        if used.depth == DEEPEST
            || entry.relation() != b'=' && entry.relation() != b'x'
            || used.base > 0 && at == offset
        {
            self.reach.all = true;
            return (Mime::Maybe, Answer::Maybe);
        }
        if offset > self.front.len() {
            return (Mime::No, Answer::No);
        }
        let within = Use {
            base: at,
            flip,
            depth: used.depth + 1,
        };
        let mut found_match = Answer::No;
        let outcome = self.follow(first, end, within, &mut found_match);
        (outcome.mime, found_match)
    }

    /// What all rules print for what begins where an entry reads.
    fn indirectly(&mut self, place: Place, used: Use) -> Mime {
        let (said, by_all) = match place {
            Place::Front(at, _) if used.base == 0 => match at {
                0 => return Mime::No,
                at if at > self.front.len() => return Mime::No,
                at => walk::indirectly(self, at),
            },
            _ => (Mime::Maybe, true),
        };
        self.reach.all = true;
        self.needs_all_rules |= by_all;
        said
    }

    /// Where the match of a successful test ends, and whether that is within the buffer.
    fn moffset(&self, entry: &Entry<'_>, found: &Found, place: Place, used: Use) -> Moffset {
        let Some(end) = found.end else {
            return Moffset::Untold;
        };
        let keeps_base = self.context.library.searches_keep_base;
        let (added, len) = match place {
            Place::Back(_) => (0, self.back.map_or(0, |back| back.len())),
            Place::Front(..) | Place::Untold if entry.kind() == kind::NAME => (0, self.front.len()),
            Place::Front(at, offset) => match entry.kind() {
                kind::SEARCH | kind::REGEX if keeps_base => (0, self.front.len()),
                kind::SEARCH | kind::REGEX => (used.base, self.front.len()),
                _ => (at - offset, self.front.len()),
            },
            _ => return Moffset::Untold,
        };
        match end.checked_sub(added) {
            // Numbers of 32 bits, which are compared as sizes.
            None => Moffset::Beyond,
            Some(off) if off > len => Moffset::Beyond,
            Some(off) => Moffset::To(off),
        }
    }
}

enum Moffset {
    To(usize),
    Beyond,
    Untold,
}

fn answer_of(sure: bool) -> Answer {
    match sure {
        true => Answer::Yes,
        false => Answer::Maybe,
    }
}
