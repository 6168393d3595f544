//! The tables, and the file that violations are written to.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::fault::Fault;
use crate::faults::Tally;

/// Violations, as they come.
pub struct Log {
    file: fs::File,
    pub path: PathBuf,
    pub violations: Vec<String>,
}

impl Log {
    pub fn create(path: &Path) -> std::io::Result<Log> {
        Ok(Log {
            file: fs::File::create(path)?,
            path: path.to_owned(),
            violations: Vec::new(),
        })
    }

    pub fn violation(&mut self, words: &str) {
        println!("  VIOLATION: {words}");
        self.violations.push(words.to_owned());
        if let Err(error) = writeln!(self.file, "{words}") {
            println!("  (not written to {}: {error})", self.path.display());
        }
    }
}

pub fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}

pub fn milliseconds(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1000.0)
}

/// A Markdown table, the first column to the left, the others to the right.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut text = format!("| {} |\n", head.join(" | "));
    let rules: Vec<&str> = (0..head.len())
        .map(|i| if i == 0 { "---" } else { "---:" })
        .collect();
    let _ = writeln!(text, "| {} |", rules.join(" | "));
    for row in rows {
        let _ = writeln!(text, "| {} |", row.join(" | "));
    }
    text
}

pub fn faults(tallies: &[(&'static Fault, Tally)]) -> String {
    let head = [
        "fault at a random moment",
        "rounds",
        "struck a run",
        "rows lost",
        "wrong",
        "double",
        "other columns",
        "run log untrue",
        "`rows_left` compared, null",
        "quarantined",
        "left behind",
        "otherwise amiss",
        "CALL ended",
        "workers gone after, longest",
    ];
    let mut rows: Vec<Vec<String>> = tallies
        .iter()
        .map(|(fault, tally)| row(fault.name, tally))
        .collect();
    rows.push(row("**all**", &sum(tallies)));
    table(&head, &rows)
}

fn row(name: &str, tally: &Tally) -> Vec<String> {
    let endings: Vec<String> = tally
        .endings
        .iter()
        .map(|(ending, count)| format!("{ending} {count}"))
        .collect();
    vec![
        name.to_owned(),
        tally.rounds.to_string(),
        tally.struck.to_string(),
        tally.lost.to_string(),
        tally.wrong.to_string(),
        tally.double.to_string(),
        tally.other_columns.to_string(),
        tally.untrue.to_string(),
        format!("{}, {}", tally.rows_left_known, tally.rows_left_null),
        tally.quarantined.to_string(),
        tally.left_behind.to_string(),
        tally.otherwise.to_string(),
        endings.join(", "),
        seconds(tally.workers_gone),
    ]
}

fn sum(tallies: &[(&'static Fault, Tally)]) -> Tally {
    let mut all = Tally::default();
    for (_, tally) in tallies {
        all.rounds += tally.rounds;
        all.struck += tally.struck;
        all.lost += tally.lost;
        all.wrong += tally.wrong;
        all.double += tally.double;
        all.other_columns += tally.other_columns;
        all.untrue += tally.untrue;
        all.rows_left_known += tally.rows_left_known;
        all.rows_left_null += tally.rows_left_null;
        all.quarantined += tally.quarantined;
        all.left_behind += tally.left_behind;
        all.otherwise += tally.otherwise;
        all.workers_gone = all.workers_gone.max(tally.workers_gone);
        for (ending, count) in &tally.endings {
            *all.endings.entry(ending.clone()).or_default() += count;
        }
    }
    all
}

/// The page that shows the tables, and the lines between which it does.
const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reliability.md");
const BEGIN: &str = "<!-- torture: begin -->";
const END: &str = "<!-- torture: end -->";

/// Puts the tables into the page.
pub fn write(tables: &str) -> Result<(), String> {
    let page = fs::read_to_string(PAGE).map_err(|error| format!("{PAGE}: {error}"))?;
    let (before, rest) = page
        .split_once(BEGIN)
        .ok_or(format!("no line \"{BEGIN}\" in it"))?;
    let (_, after) = rest
        .split_once(END)
        .ok_or(format!("no line \"{END}\" in it"))?;
    let page = format!("{before}{BEGIN}\n\n{tables}\n{END}{after}");
    fs::write(PAGE, page).map_err(|error| format!("{PAGE}: {error}"))
}
