//! A rule followed to its end: what libmagic will say of it, as far as that can be told.
//!
//! This is `match`, `msetoffset` and `moffset` (src/softmagic.c, 5.44, 5.46, 5.47) for one rule, when only MIME types
//! are asked for, with tests that may also answer "perhaps". What isn't known for sure is never taken for granted: a
//! continuation behind such a test is one that *may* be reached.
//!
//! - A test that succeeds has the continuations of the next level tried, up to the next test of its own level.
//! - The first entry that is reached and has a MIME type ends the rule, and with it all of the walk.
//! - A description isn't printed, but ends the walk over the rules behind this one.
//! - `default` succeeds where nothing at its level has since the level was entered, or since `clear`.
//! - `use` follows a named rule, and succeeds if something in that does. What comes after it is followed still.
//! - An offset counts from the start of the file; from where the test before left off; or from the end of the file, and
//!   then those of the continuations count from there as well.

use std::collections::HashMap;

use super::Compiled;
use super::check::number::{Indirection, indirection};
use super::check::{Answer, Found, anywhere, check};
use super::end::End;
use super::format::{Entry, VALUE_BYTES, flag, kind};
use super::tables::Tables;

/// What comes of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speech {
    /// Nothing is said, and the walk goes on behind it.
    Never,
    /// The walk ends, without a MIME type.
    Silently,
    /// The walk ends with the MIME type of this entry.
    Surely(usize),
    /// It can't be told.
    Maybe,
}

/// `use` within `use` at most; the databases have three. libmagic stops with an error at 50.
const DEEPEST: usize = 5;

/// Named rules: where their entries begin and end.
pub struct Named(HashMap<Vec<u8>, (usize, usize)>);

impl Named {
    pub fn new(compiled: &Compiled) -> Named {
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
pub struct Follower<'a, 'e> {
    pub compiled: &'a Compiled,
    pub tables: &'a Tables,
    pub named: &'a Named,
    /// All that libmagic looks at.
    pub bytes: &'a [u8],
    /// The end of the file, unless text is looked at that has been converted.
    pub end: Option<&'a mut End<'e>>,
}

/// Where a test looks.
#[derive(Clone, Copy)]
enum Place {
    /// At this offset from the start.
    Front(usize),
    /// At this offset of the last bytes, of which there are as many as there are at the start.
    Back(usize),
    /// Wherever something says that is read from the file.
    Somewhere,
    /// It isn't followed here.
    Untold,
    /// Before the start: nothing more of this rule is tried.
    Nowhere,
    /// Where an offset would be that isn't there: the test is missed.
    Missing,
}

/// Where a level of continuations stands. All of it supposes that the level is reached.
struct Level {
    /// Is it sure to be reached?
    sure: bool,
    /// Has something succeeded here?
    success: Answer,
    /// Where the last test that succeeded left off, if that is known.
    end: Option<usize>,
}

impl Level {
    fn entered(sure: bool) -> Level {
        Level {
            sure,
            success: Answer::No,
            end: None,
        }
    }
}

/// How offsets are counted at the moment (`eoffset`, and which buffer is looked at).
#[derive(Clone, Copy, Default)]
struct Origin {
    back: bool,
    offset: usize,
}

impl Follower<'_, '_> {
    /// Follows the rule that begins at an entry and ends before another.
    pub fn rule(&mut self, first: usize, end: usize) -> Speech {
        self.follow(first, end, 0, 0)
    }

    /// `base` is added to all offsets, for a named rule.
    fn follow(&mut self, first: usize, end: usize, base: usize, depth: usize) -> Speech {
        let mut origin = Origin::default();
        let mut levels = vec![Level::entered(true)];
        let mut described = Answer::No;
        let mut said = None;
        for number in first..end {
            let entry = self.compiled.entry(number);
            let at = usize::from(entry.level());
            if at >= levels.len() {
                continue;
            }
            levels.truncate(at + 1);
            let parent = at.checked_sub(1).map(|above| levels[above].end);
            let sure = levels[at].sure;
            // What comes after it counts from there.
            let turns = match entry.flag() & (flag::OFFNEGATIVE | flag::OFFPOSITIVE) {
                flag::OFFPOSITIVE => origin.back,
                sign => sign != 0,
            };
            let place = self.place(&entry, parent, &mut origin, base);
            match place {
                Place::Untold if turns => return Speech::Maybe,
                _ if turns && !sure => return Speech::Maybe,
                Place::Nowhere => break,
                _ => {}
            }
            let (mut found, nested) = self.tried(number, place, levels[at].success, depth);
            if entry.is_conditional() && found.answer == Answer::Yes {
                found.answer = Answer::Maybe;
            }
            if found.answer == Answer::No {
                // Without its first test there is no rule.
                match at {
                    0 => return Speech::Never,
                    _ => continue,
                }
            }
            levels[at].success = match entry.kind() {
                kind::CLEAR if found.answer == Answer::Yes => Answer::No,
                kind::CLEAR => Answer::Maybe,
                _ => levels[at].success.max(found.answer),
            };
            let sure = sure && found.answer == Answer::Yes;
            if entry.has_mime_type() {
                return match sure && said.is_none() && nested == Speech::Never {
                    true => Speech::Surely(number),
                    false => Speech::Maybe,
                };
            }
            match nested {
                Speech::Surely(entry) if sure && said.is_none() => said = Some(entry),
                Speech::Surely(_) | Speech::Maybe => return Speech::Maybe,
                _ => {}
            }
            if entry.kind() == kind::INDIRECT {
                return Speech::Maybe;
            }
            if entry.describes() || nested == Speech::Silently {
                described = described.max(match sure {
                    true => Answer::Yes,
                    false => Answer::Maybe,
                });
            }
            // It moves where the test before has left off, too (`der_offs` in src/der.c).
            if entry.kind() == kind::DER && at > 0 {
                levels[at - 1].end = None;
            }
            // Those that keep the base have it added again where they are used.
            let added = match entry.kind() {
                kind::NAME => 0,
                kind::SEARCH | kind::REGEX if self.compiled.searches_keep_base() => 0,
                _ => base,
            };
            // If that is out of what is looked at, its continuations aren't tried.
            let end = found.end.and_then(|end| end.checked_sub(added));
            levels[at].end = end.filter(|end| *end <= self.bytes.len());
            let sure = sure && levels[at].end.is_some();
            levels.push(Level::entered(sure));
        }
        match (said, described) {
            (Some(entry), _) => Speech::Surely(entry),
            (None, Answer::Yes) => Speech::Silently,
            (None, Answer::Maybe) => Speech::Maybe,
            (None, Answer::No) => Speech::Never,
        }
    }

    /// Where a test looks. `parent` is where the one before left off, for a continuation, if that is known.
    fn place(
        &mut self,
        entry: &Entry<'_>,
        parent: Option<Option<usize>>,
        origin: &mut Origin,
        base: usize,
    ) -> Place {
        if entry.flag() & flag::OFFPOSITIVE != 0 {
            *origin = Origin::default();
        }
        let mut offset = match entry.flag() & flag::OFFNEGATIVE {
            0 => origin.offset as i64 + i64::from(entry.offset()),
            _ => match self.turned(entry, parent.is_some(), origin, base) {
                Ok(offset) => offset,
                Err(place) => return place,
            },
        };
        if entry.flag() & flag::OFFADD != 0 {
            match parent {
                Some(Some(parent)) => offset += parent as i64,
                _ => return self.somewhere(origin.back),
            }
        }
        let Ok(offset) = usize::try_from(offset) else {
            return Place::Untold;
        };
        if entry.flag() & flag::INDIR != 0 {
            return match base {
                0 => self.indirect(entry, parent, origin.back, offset),
                _ => self.somewhere(origin.back),
            };
        }
        // With a base, libmagic's checks for the end and its places to go on from are not all of one mind.
        match base > 0 && offset + base + VALUE_BYTES > self.bytes.len() {
            true => Place::Untold,
            false => self.of_buffer(origin.back, base + offset),
        }
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
        let length = self.end.as_ref().map(|end| end.length());
        let (Some(length), 0, Ok(back)) = (length, base, usize::try_from(entry.offset())) else {
            // An error, or the end of a text that has been converted.
            return Err(Place::Untold);
        };
        let offset = length.checked_sub(back).ok_or(Place::Nowhere)?;
        *origin = Origin { back: true, offset };
        Ok(offset as i64)
    }

    /// Anywhere in one of the two buffers, if all of it is in hand.
    fn somewhere(&self, back: bool) -> Place {
        match self.of_buffer(back, 0) {
            Place::Back(_) => Place::Untold,
            _ => Place::Somewhere,
        }
    }

    /// A place in one of the two buffers. If all of the file is in both they are the same.
    fn of_buffer(&self, back: bool, offset: usize) -> Place {
        match &self.end {
            Some(end) if back && !end.is_front() => Place::Back(offset),
            _ => Place::Front(offset),
        }
    }

    /// Where a test looks whose offset is read from a place.
    fn indirect(
        &mut self,
        entry: &Entry<'_>,
        parent: Option<Option<usize>>,
        back: bool,
        offset: usize,
    ) -> Place {
        let to = match self.of_buffer(back, offset) {
            Place::Back(offset) => match self.last(offset) {
                Some((last, at)) => indirection(entry, last, at),
                None => Indirection::Untold,
            },
            _ => indirection(entry, self.bytes, offset),
        };
        let to = match to {
            Indirection::To(to) => to,
            Indirection::Nowhere => return Place::Missing,
            Indirection::Untold => return self.somewhere(back),
        };
        if entry.flag() & flag::INDIROFFADD == 0 {
            return self.of_buffer(back, to);
        }
        match parent {
            None => Place::Missing,
            Some(None) => self.somewhere(back),
            // Numbers of 32 bits.
            Some(Some(parent)) => match (to as u32).wrapping_add(parent as u32) {
                0 => Place::Missing,
                to => self.of_buffer(back, to as usize),
            },
        }
    }

    /// The last bytes that are in hand, if those at this offset of the end are among them, and where.
    fn last(&mut self, offset: usize) -> Option<(&[u8], usize)> {
        let end = self.end.as_mut()?;
        let length = end.length();
        let last = end.bytes()?;
        let at = offset.checked_sub(length - last.len())?;
        Some((last, at))
    }

    /// The test of an entry, or what comes of what it uses. `success` is that of the tests before it at its level.
    fn tried(
        &mut self,
        number: usize,
        place: Place,
        success: Answer,
        depth: usize,
    ) -> (Found, Speech) {
        let entry = self.compiled.entry(number);
        let here = |answer| Found {
            answer,
            end: match place {
                Place::Front(offset) => Some(offset),
                _ => None,
            },
        };
        let mut nested = Speech::Never;
        let found = match entry.kind() {
            _ if matches!(place, Place::Missing) => match entry.relation() {
                b'!' => Answer::Maybe.into(),
                _ => Answer::No.into(),
            },
            // An offset that is read from the file may not be there.
            kind::DEFAULT | kind::CLEAR
                if entry.relation() != b'x'
                    || matches!(place, Place::Somewhere | Place::Untold) =>
            {
                Answer::Maybe.into()
            }
            kind::DEFAULT => here(!success),
            kind::CLEAR => here(Answer::Yes),
            kind::NAME => Found {
                answer: Answer::Yes,
                end: Some(0),
            },
            kind::USE => {
                nested = self.used(&entry, place, depth);
                here(match nested {
                    Speech::Never => Answer::No,
                    Speech::Maybe => Answer::Maybe,
                    _ => Answer::Yes,
                })
            }
            _ => self.test(number, &entry, place),
        };
        (found, nested)
    }

    fn test(&mut self, number: usize, entry: &Entry<'_>, place: Place) -> Found {
        // Where it leaves off is asked by continuations, and a MIME type has none.
        let where_too = !entry.has_mime_type();
        let tables = self.tables;
        let regex = |region: &[u8]| tables.regex(number, region, where_too);
        match place {
            Place::Front(offset) => check(entry, self.bytes, offset, regex),
            Place::Back(offset) => match self.last(offset) {
                None => Answer::Maybe.into(),
                Some((last, at)) => {
                    let found = check(entry, last, at, regex);
                    Found {
                        answer: found.answer,
                        end: found.end.map(|end| end - at + offset),
                    }
                }
            },
            Place::Untold => Answer::Maybe.into(),
            Place::Somewhere => anywhere(entry, self.bytes, regex).into(),
            Place::Nowhere | Place::Missing => Answer::No.into(),
        }
    }

    /// What comes of the named rule that an entry uses.
    fn used(&mut self, entry: &Entry<'_>, place: Place, depth: usize) -> Speech {
        // "^" turns the byte order around.
        let named = self.named.0.get(entry.text()).copied();
        let (Place::Front(base), Some((first, end))) = (place, named) else {
            return Speech::Maybe;
        };
        if depth == DEEPEST || entry.relation() != b'=' && entry.relation() != b'x' {
            return Speech::Maybe;
        }
        if base > self.bytes.len() {
            return Speech::Never;
        }
        self.follow(first, end, base, depth + 1)
    }
}
