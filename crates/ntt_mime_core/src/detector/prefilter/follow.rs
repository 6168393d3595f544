//! A rule followed to its end: what libmagic will say of it, as far as that can be told.
//!
//! This is `match`, `msetoffset` and `moffset` (src/softmagic.c, 5.41 to 5.47) for one rule, when only MIME types are
//! asked for, with tests that may also answer "perhaps". It has the states that `match` has, by their names, each as
//! [`Answer`]: `Yes` and `No` are sure, `Maybe` is not. What isn't known for sure is never taken for granted: a
//! continuation behind such a test is one that *may* be reached.
//!
//! - `cont_level` is the length of `levels`, less one. A test that succeeds has the continuations of the next level
//!   tried, up to the next test of its own level.
//! - `handle_annotation`: the first entry that is reached and has a MIME type ends the rule, and with it all of the walk.
//! - `found_match` is set by a description, which isn't printed. Where it is set when the last continuation has been
//!   tried, the walk ends, whoever set it: it outlives a rule that is given up before (`goto flush`), so it is handed on
//!   from rule to rule. A rule is given up if its first test fails; if that succeeds and leaves off beyond the end of what
//!   there is (`moffset`); or if a continuation counts from before the start (`msetoffset`).
//! - `got_match` is of each level, and reset when the level is entered (`file_check_mem`), by `clear`, and by a
//!   continuation that succeeds and leaves off beyond the end. `default` succeeds where it isn't set.
//! - `returnval` is whether anything has been printed; it matters to `use` in 5.41 only.
//! - `use` follows a named rule, with a `found_match` of its own, and succeeds if that is set. What comes after it is
//!   followed still, though something may have been printed.
//! - `indirect` walks over all rules on a part of the file, and succeeds if that prints something.
//! - An offset counts from the start of the file; from where the test before left off; or from the end of the file, and
//!   then those of the continuations count from there as well (`eoffset`).
//! - `need_separator`, `printed_something` and `firstline` say what is put between two things that are printed. Where a
//!   second would be, libmagic is left to say so.
//!
//! While it is followed, a rule tells how much of the file libmagic has to see to come to the same end: [`Reach`].

use std::collections::HashMap;
use std::ops::Range;

use super::buffer::Bytes;
use super::check::number::{Indirection, indirection};
use super::check::{Answer, Found, check, reach};
use super::format::{Entry, VALUE_BYTES, flag, kind};
use super::walk::{self, Context};

/// Is a MIME type printed?
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
    /// Is it followed to its end, where `found_match` decides whether the walk goes on?
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

/// How many bytes from the start, and from the end, libmagic has to be given to come to the same end with a rule as if
/// it had been given all of the file.
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

/// `use` within `use` at most; the databases have three. libmagic stops with an error at 50.
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
                // The first of a name counts (`file_magicfind`).
                if entry.kind() == kind::NAME {
                    named.insert(entry.text().to_vec(), (number, end));
                }
                end = number;
            }
        }
        Named(named)
    }
}

/// What a rule is followed on.
pub struct Follower<'a, 'c> {
    pub context: &'c Context<'a>,
    /// `fbuf`.
    pub front: Bytes<'a>,
    /// `ebuf`; None where it can't be told.
    pub back: Option<Bytes<'a>>,
    /// The rule that is followed, by number.
    pub rule: usize,
    /// `indirect` rules that this is within.
    pub indirect_depth: usize,
    pub reach: Reach,
    /// All rules have to be there for libmagic to say what comes of it.
    pub needs_all_rules: bool,
    /// Memory that is used again and again.
    levels: Vec<Level>,
}

/// Where a test looks.
#[derive(Clone, Copy)]
enum Place {
    /// At a place of `fbuf`, and what `ms->offset` is there: the same, but for what is added within a named rule.
    Front(usize, usize),
    /// At a place of `ebuf`.
    Back(usize),
    /// It isn't followed here.
    Untold,
    /// Before the start: nothing more of this rule is tried.
    Nowhere,
    /// Where an offset would be that isn't there: the test is missed.
    Missing,
}

/// A level of continuations. All of it supposes that the level is reached.
struct Level {
    /// Is it sure to be reached?
    sure: bool,
    got_match: Answer,
    /// `off` of `struct level_info`: where the last test that succeeded left off, if that is known.
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

/// How offsets are counted at the moment (`eoffset`, and which buffer is looked at).
#[derive(Clone, Copy, Default)]
struct Origin {
    back: bool,
    eoffset: usize,
}

/// What a rule is used with.
#[derive(Clone, Copy)]
struct Use {
    /// Added to all offsets, for a named rule.
    base: usize,
    /// Numbers are in the other byte order.
    flip: bool,
    depth: usize,
}

/// What comes of a test.
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

    /// Follows the rule that begins at an entry and ends before another. `found_match` is as the rules before have left
    /// it, and then as this one does.
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
        // Has it gone on so far?
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
            // What comes after it counts from there.
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
            self.note_reach(&entry, place);
            let mut tried = self.tried(number, place, levels[at].got_match, used);
            // In 5.41 it takes something printed.
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
                // Without its first test there is no rule.
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
                    // If it is reached, nothing more is.
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
                // It moves where the test before has left off, too, if there is as much as it says (`der_offs` in
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

    /// Nothing more can be said of a rule.
    fn untold(&mut self, found_match: &mut Answer) -> Outcome {
        self.reach.all = true;
        *found_match = (*found_match).max(Answer::Maybe);
        Outcome::UNTOLD
    }

    /// Takes down how far a test looks.
    fn note_reach(&mut self, entry: &Entry<'_>, place: Place) {
        let offset_kind = entry.kind() == self.context.library.offset;
        match place {
            Place::Front(at, _) => {
                // An offset that is read from the file was looked at where it is.
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

    /// What is beyond the end isn't there for libmagic either, however much it is given.
    fn reach_to(&mut self, bytes: usize) {
        // Within what an `indirect` rule looks at, places aren't those of the file.
        self.reach.all |= self.indirect_depth > 0;
        self.reach.bytes = self.reach.bytes.max(bytes.min(self.front.len()));
    }

    /// Where a test looks. `parent` is where the one before left off, for a continuation, if that is known.
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

    /// The offset of a test that counts from the end, and what comes after it too; or, if it counts from the test
    /// before, backwards, and what comes after it from the start again.
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

    /// A place in one of the two buffers.
    fn of_buffer(&self, back: bool, at: usize, offset: usize, used: Use) -> Place {
        match back {
            true => Place::Back(at),
            // With a base, libmagic's checks for the end and its places to go on from are not all of one mind.
            false if used.base > 0 && at.max(offset) + VALUE_BYTES > self.front.len() => {
                Place::Untold
            }
            false => Place::Front(at, offset),
        }
    }

    /// Where a test looks whose offset is read from a place.
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
        // `mget` doesn't add the base to where it leads.
        self.of_buffer(back, to, to, used)
    }

    /// The test of an entry, or what comes of what it applies.
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
            // An offset that is read from the file may not be there.
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
        // Where it leaves off is asked by continuations, and a MIME type has none.
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

    /// What comes of the named rule that an entry uses: what is printed, and its `found_match`.
    fn used(&mut self, entry: &Entry<'_>, place: Place, used: Use) -> (Mime, Answer) {
        // "^" turns the byte order around.
        let (name, flip) = match entry.text().strip_prefix(b"^") {
            Some(name) => (name, !used.flip),
            None => (entry.text(), used.flip),
        };
        let named = self.context.named.0.get(name).copied();
        // `mget` adds the base once more, which is in the place already unless that was read from the file.
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

    /// What all rules say of what begins where an entry looks.
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

    /// Where a test leaves off that has succeeded, and whether that is within what is looked at.
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
