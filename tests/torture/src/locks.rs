//! How much does a session delay a run if it keeps rows locked, and the row that the target's triggers update? Runs
//! over a larger table, without such a session and with one. Times are reported; what must be true afterwards is
//! asserted.

use std::time::{Duration, Instant};

use ntt_mime_integration::{Session, session};

use crate::ground::{BATCH, Ground};
use crate::locker::{Held, Locker, Manners, ROWS};
use crate::material::Material;
use crate::options::Options;
use crate::report::{seconds, table};
use crate::round::Found;
use crate::verdict::{State, check_run, judge};

/// Rows a blob: a run takes some seconds, many times `ntt_mime.lock_timeout`.
const COPIES: usize = 200;

/// In the short form.
const FEW_COPIES: usize = 5;

/// Runs with the session.
const RUNS: usize = 5;

/// A loader's transactions. The trigger's row it has for a twentieth of the time.
const MANNERS: Manners = Manners {
    rows_for: Duration::from_secs(4),
    trigger_for: Duration::from_millis(500),
    pause: Duration::from_secs(1),
};

pub struct Locks {
    rows: i64,
    without: Vec<Duration>,
    with: Vec<Duration>,
    held: Held,
    pub violations: Vec<String>,
}

pub fn run(options: &Options, material: &Material) -> Locks {
    let (copies, runs) = match options.short {
        true => (FEW_COPIES, 1),
        false => (COPIES, RUNS),
    };
    let ground = Ground::large(material, copies);
    let manners = match options.short {
        true => Manners::for_runs_of(ground.length.get()),
        false => MANNERS,
    };
    let mut locked = Locks {
        rows: ground.to_fill,
        without: ground.lengths.clone(),
        with: Vec::new(),
        held: Held::default(),
        violations: Vec::new(),
    };
    let mut rng = fastrand::Rng::with_seed(options.seed);
    for _ in 0..runs {
        if let Err(words) = locked.run_once(&ground, manners, rng.fork()) {
            locked.violations.push(words);
        }
    }
    locked
}

impl Locks {
    /// One run with the session, and one after it for what it left.
    fn run_once(
        &mut self,
        ground: &Ground,
        manners: Manners,
        rng: fastrand::Rng,
    ) -> Result<(), String> {
        ground.fresh_database();
        let (mut s, mut found) = (ground.connect(), Found::default());
        let locker = Locker::begin(ground.connect(), manners, rng);
        let begun = Instant::now();
        let checked = call(&mut s, &mut found);
        self.with.push(begun.elapsed());
        self.held.add(locker.end()?);
        checked?;
        call(&mut s, &mut found)?;
        judge(&mut s, ground, &mut found);
        self.violations.extend(found.violations);
        Ok(())
    }

    /// Nothing but what is true: times are told, not asserted.
    pub fn goals(&self) -> Vec<(String, bool)> {
        let wrong = self.violations.len();
        vec![(
            format!("beside a session that locks rows: {wrong} violations"),
            wrong == 0,
        )]
    }

    pub fn table(&self) -> String {
        let longest = |runs: &[Duration]| runs.iter().max().copied().unwrap_or_default();
        let (without, with) = (longest(&self.without), longest(&self.with));
        let held = &self.held;
        let share = |part: Duration| part.as_secs_f64() / held.of.as_secs_f64().max(f64::EPSILON);
        let rows = [
            ("rows to fill", self.rows.to_string()),
            (
                "without the session: runs, longest",
                format!("{}, {}", self.without.len(), seconds(without)),
            ),
            (
                "with it: runs, longest",
                format!("{}, {}", self.with.len(), seconds(with)),
            ),
            (
                "times the longest without",
                format!("{:.2}", with.as_secs_f64() / without.as_secs_f64()),
            ),
            (
                "its transactions, rows that it had locked, for how much of the time",
                format!(
                    "{}, {}, {:.0} %",
                    held.times,
                    held.rows,
                    100.0 * share(held.rows_for)
                ),
            ),
            (
                "the trigger's row locked, for how much of the time",
                format!("{:.0} %", 100.0 * share(held.trigger_for)),
            ),
        ];
        let rows: Vec<Vec<String>> = rows
            .into_iter()
            .map(|(what, value)| vec![what.to_owned(), value])
            .collect();
        let head = format!("beside a session that keeps {ROWS} rows and the trigger's row locked");
        table(&[&head, "measured"], &rows)
    }
}

fn call(s: &mut Session, found: &mut Found) -> Result<(), String> {
    let before = State::now(s);
    let outcome = s.call(BATCH).map_err(|error| session::describe(&error))?;
    let after = State::now(s);
    check_run(s, &outcome, before, after, found);
    Ok(())
}
