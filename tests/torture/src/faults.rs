//! All rounds, taking turns through the faults, and their results.

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use crate::fault::{FAULTS, Fault, Place};
use crate::ground::Ground;
use crate::material::Material;
use crate::options::Options;
use crate::report::{Log, seconds};
use crate::round::{Found, round};

/// What came of the rounds of a fault.
#[derive(Default)]
pub struct Tally {
    pub rounds: usize,
    pub struck: usize,
    pub lost: i64,
    pub wrong: i64,
    pub double: i64,
    pub other_columns: i64,
    pub untrue: usize,
    pub rows_left_known: usize,
    pub rows_left_null: usize,
    pub quarantined: i64,
    pub left_behind: usize,
    /// Rounds in which something else was not as it should be.
    pub otherwise: usize,
    pub failed_rounds: usize,
    pub workers_gone: Duration,
    /// How CALL ended, and how often so.
    pub endings: BTreeMap<String, usize>,
}

impl Tally {
    fn add(&mut self, found: &Found) {
        self.rounds += 1;
        self.struck += usize::from(found.struck);
        self.lost += found.lost;
        self.wrong += found.wrong;
        self.double += found.double;
        self.other_columns += found.other_columns;
        self.untrue += found.untrue;
        self.rows_left_known += found.rows_left_known;
        self.rows_left_null += found.rows_left_null;
        self.quarantined += found.quarantined;
        self.left_behind += found.left_behind;
        self.workers_gone = self
            .workers_gone
            .max(found.workers_gone.unwrap_or_default());
        *self.endings.entry(found.ending.clone()).or_default() += 1;
        let counted = found.untrue
            + found.left_behind
            + [
                found.lost,
                found.wrong,
                found.double,
                found.other_columns,
                found.quarantined,
            ]
            .iter()
            .filter(|count| **count > 0)
            .count();
        self.otherwise += usize::from(found.violations.len() > counted);
        self.failed_rounds += usize::from(!found.violations.is_empty());
    }
}

/// The servers, made when they are first needed and again after one has been lost.
struct Grounds<'m> {
    material: &'m Material,
    may_mount: bool,
    usual: Option<Ground>,
    small: Option<Ground>,
}

impl Grounds<'_> {
    fn get(&mut self, place: Place) -> &Ground {
        let (slot, make): (_, fn(&Material, bool) -> _) = match place {
            Place::Server => (&mut self.usual, Ground::new),
            Place::SmallDisk => (&mut self.small, |material, _| Ground::small(material)),
        };
        if slot.is_none() {
            let ground = make(self.material, self.may_mount).expect("mounting is permitted");
            println!("  a run takes {} here", seconds(ground.length.get()));
            *slot = Some(ground);
        }
        slot.as_ref().expect("just made")
    }

    fn discard(&mut self, place: Place) {
        let ground = match place {
            Place::Server => self.usual.take(),
            Place::SmallDisk => self.small.take(),
        };
        // A server that can't be stopped is left to the end of the process.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(ground)));
    }
}

/// Rounds until the time is up and each fault had its number of them.
pub fn run(
    options: &Options,
    material: &Material,
    may_mount: bool,
    until: Instant,
    log: &mut Log,
) -> Vec<(&'static Fault, Tally)> {
    let mut rng = fastrand::Rng::with_seed(options.seed);
    let mut tallies: Vec<(&'static Fault, Tally)> = FAULTS
        .iter()
        .filter(|fault| options.wants(fault.name))
        .filter(|fault| {
            let possible = may_mount || !fault.mounts;
            if !possible {
                println!(
                    "SKIPPED, since nothing can be mounted without root: {}",
                    fault.name
                );
            }
            possible
        })
        .map(|fault| (fault, Tally::default()))
        .collect();
    let mut grounds = Grounds {
        material,
        may_mount,
        usual: None,
        small: None,
    };
    let mut number = 0;
    for turn in 0.. {
        for (fault, tally) in &mut tallies {
            if turn >= options.each && Instant::now() >= until {
                return tallies;
            }
            number += 1;
            let begun = Instant::now();
            let result = catch_unwind(AssertUnwindSafe(|| {
                round(grounds.get(fault.place), material, fault, &mut rng)
            }));
            let found = result.unwrap_or_else(|panic| {
                grounds.discard(fault.place);
                Found {
                    ending: "?".to_owned(),
                    violations: vec![format!("the round broke off: {}", words_of(&*panic))],
                    ..Found::default()
                }
            });
            tally.add(&found);
            println!(
                "round {number}: {} after {}, CALL: {}{}, workers gone after {}; {} in all: {}",
                fault.name,
                seconds(found.delay),
                found.ending,
                if found.struck { "" } else { " (not struck)" },
                found.workers_gone.map_or("-".to_owned(), seconds),
                seconds(begun.elapsed()),
                if found.violations.is_empty() {
                    "ok"
                } else {
                    "FAILED"
                }
            );
            for violation in &found.violations {
                log.violation(&format!("round {number}, {}: {violation}", fault.name));
            }
        }
        if tallies.is_empty() {
            break;
        }
    }
    tallies
}

/// What a panic said.
pub fn words_of(panic: &(dyn Any + Send)) -> String {
    let words = panic.downcast_ref::<String>().map(String::as_str);
    words
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("a panic without words")
        .to_owned()
}
