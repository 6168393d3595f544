//! The report: tables in Markdown that read well as they are.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fmt::Write;
use std::time::Duration;

use ntt_mime_core::detector::{Detection, libmagic_release};

use crate::corpus::{Corpus, Sample};
use crate::measure::Measured;

pub struct Report<'a> {
    corpus: &'a Corpus,
    truth: &'a [String],
    /// The last is the rule in use.
    measured: &'a [Measured],
    differences: Vec<Difference<'a>>,
}

/// A file on which file(1) and the detector differ.
struct Difference<'a> {
    sample: &'a Sample,
    /// What file(1) says.
    truth: &'a str,
    /// What the detector says.
    ours: &'a str,
}

/// Figures of some files.
#[derive(Default)]
pub struct Share<'a> {
    pub files: usize,
    /// Files whose answers differ from file(1)'s.
    pub differ: usize,
    /// Different types, as file(1) names them.
    pub types: BTreeSet<&'a str>,
    /// Longer than 16 KiB.
    long: usize,
    /// Longer than 64 KiB.
    very_long: usize,
    size: u64,
    read: u64,
    looks: u64,
    read_time: Duration,
    detect_time: Duration,
}

impl<'a> Share<'a> {
    fn add(&mut self, sample: &Sample, truth: &'a str, answer: &Detection) {
        self.files += 1;
        self.differ += usize::from(truth != answer.mime_type);
        self.types.insert(truth);
        self.long += usize::from(sample.size > 16 * 1024);
        self.very_long += usize::from(sample.size > 64 * 1024);
        self.size += sample.size;
        self.read += answer.bytes_read;
        self.looks += u64::from(answer.reads);
        self.read_time += answer.read_time;
        self.detect_time += answer.detect_time;
    }

    /// Answers that agree, as a share of 1.
    pub fn agreement(&self) -> f64 {
        (self.files - self.differ) as f64 / self.files.max(1) as f64
    }

    pub fn bytes_a_file(&self) -> u64 {
        self.read / self.files.max(1) as u64
    }

    pub fn places_a_file(&self) -> f64 {
        self.looks as f64 / self.files.max(1) as f64
    }

    fn microseconds_a_file(&self, time: Duration) -> u128 {
        time.as_micros() / self.files.max(1) as u128
    }
}

impl fmt::Display for Share<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} of {} agree, {:.3} %. They are of {} types and have {} MB; {} are longer than 16 KiB, {} \
             than 64 KiB. Read: {} bytes a file, at {:.3} places.",
            self.files - self.differ,
            self.files,
            100.0 * self.agreement(),
            self.types.len(),
            self.size / 1_000_000,
            self.long,
            self.very_long,
            self.bytes_a_file(),
            self.places_a_file(),
        )
    }
}

impl<'a> Report<'a> {
    pub fn new(corpus: &'a Corpus, truth: &'a [String], measured: &'a [Measured]) -> Report<'a> {
        let mut report = Report {
            corpus,
            truth,
            measured,
            differences: Vec::new(),
        };
        report.differences = report
            .each(report.in_use())
            .filter(|(_, truth, answer)| *truth != answer.mime_type)
            .map(|(sample, truth, answer)| Difference {
                sample,
                truth,
                ours: &answer.mime_type,
            })
            .collect();
        report
    }

    /// Files, file(1)'s answers, and those of a rule.
    fn each(
        &self,
        answers: &'a [Detection],
    ) -> impl Iterator<Item = (&'a Sample, &'a str, &'a Detection)> + use<'a> {
        let truth = self.truth.iter().map(String::as_str);
        let all = self.corpus.files.iter().zip(truth).zip(answers);
        all.map(|((sample, truth), answer)| (sample, truth, answer))
    }

    fn in_use(&self) -> &'a [Detection] {
        &self.measured.last().expect("one at least").answers
    }

    /// Figures of some of the files.
    pub fn share(&self, belongs: impl Fn(&Sample) -> bool) -> Share<'a> {
        self.share_by(self.in_use(), belongs)
    }

    fn share_by(&self, answers: &'a [Detection], belongs: impl Fn(&Sample) -> bool) -> Share<'a> {
        let mut share = Share::default();
        for (sample, truth, answer) in self.each(answers).filter(|(sample, ..)| belongs(sample)) {
            share.add(sample, truth, answer);
        }
        share
    }

    /// A complaint for each difference.
    pub fn differences(&self) -> Vec<String> {
        let differences = self.differences.iter();
        differences
            .map(|it| {
                let name = &it.sample.name;
                format!(
                    "{name}: file(1) says {}, the detector {}",
                    it.truth, it.ours
                )
            })
            .collect()
    }

    /// All of it.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let natural = self.share(|sample| !sample.is_edge());
        let release = libmagic_release();
        let _ = writeln!(
            out,
            "\n## libmagic {release}: {:.3} %\n",
            100.0 * natural.agreement()
        );
        let _ = writeln!(out, "Files as an archive has them: {natural}");
        let edge = self.share(Sample::is_edge);
        if edge.files > 0 {
            let _ = writeln!(
                out,
                "\nFiles made to be hard (classes edge and old-disks): {edge}"
            );
            let _ = writeln!(out, "\nAll: {}", self.share(|_| true));
        }
        for table in [
            self.rules(),
            self.classes(),
            self.confusions(),
            self.listed(),
        ] {
            if !table.rows.is_empty() {
                let _ = write!(out, "\n{}", table.text());
            }
        }
        out
    }

    /// A line for each file, with tabs between.
    pub fn answers(&self) -> String {
        let mut out = String::new();
        for (sample, truth, answer) in self.each(self.in_use()) {
            let _ = writeln!(
                out,
                "{}\t{}\t{truth}\t{}\t{}\t{}",
                sample.name, sample.size, answer.mime_type, answer.bytes_read, answer.reads
            );
        }
        out
    }

    /// All columns are about files as an archive has them, except the one about hard files.
    fn rules(&self) -> Table {
        let mut table = Table::new(
            "lrrrrrrr",
            &[
                "rule",
                "differ",
                "agree %",
                "hard ones that differ",
                "bytes a file",
                "places",
                "µs to read",
                "µs to judge",
            ],
        );
        for Measured { rule, answers } in self.measured {
            let natural = self.share_by(answers, |sample| !sample.is_edge());
            let edge = self.share_by(answers, Sample::is_edge);
            table.row([
                rule.name.to_owned(),
                natural.differ.to_string(),
                format!("{:.3}", 100.0 * natural.agreement()),
                edge.differ.to_string(),
                natural.bytes_a_file().to_string(),
                format!("{:.3}", natural.places_a_file()),
                natural.microseconds_a_file(natural.read_time).to_string(),
                natural.microseconds_a_file(natural.detect_time).to_string(),
            ]);
        }
        table
    }

    fn classes(&self) -> Table {
        let mut classes = BTreeMap::<&str, Share>::new();
        for (sample, truth, answer) in self.each(self.in_use()) {
            let class = classes.entry(&sample.class).or_default();
            class.add(sample, truth, answer);
        }
        let mut table = Table::new(
            "lrrrrrrrrr",
            &[
                "class",
                "files",
                "> 16 KiB",
                "> 64 KiB",
                "types",
                "differ",
                "agree %",
                "bytes a file",
                "places",
                "µs to judge",
            ],
        );
        for (name, class) in classes {
            table.row([
                name.to_owned(),
                class.files.to_string(),
                class.long.to_string(),
                class.very_long.to_string(),
                class.types.len().to_string(),
                class.differ.to_string(),
                format!("{:.3}", 100.0 * class.agreement()),
                class.bytes_a_file().to_string(),
                format!("{:.3}", class.places_a_file()),
                class.microseconds_a_file(class.detect_time).to_string(),
            ]);
        }
        table
    }

    fn confusions(&self) -> Table {
        let mut counts = BTreeMap::<(&str, &str), usize>::new();
        for difference in &self.differences {
            *counts
                .entry((difference.truth, difference.ours))
                .or_default() += 1;
        }
        let mut table = Table::new("llr", &["file(1) says", "the detector says", "files"]);
        for ((truth, ours), count) in counts {
            table.row([truth.to_owned(), ours.to_owned(), count.to_string()]);
        }
        table
    }

    fn listed(&self) -> Table {
        let mut table = Table::new("lr", &["file that differs", "bytes"]);
        for difference in &self.differences {
            table.row([
                difference.sample.name.clone(),
                difference.sample.size.to_string(),
            ]);
        }
        table
    }
}

struct Table {
    /// `l` or `r` for each column.
    alignment: &'static str,
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    fn new(alignment: &'static str, head: &[&str]) -> Table {
        Table {
            alignment,
            head: head.iter().map(|cell| (*cell).to_owned()).collect(),
            rows: Vec::new(),
        }
    }

    fn row<const N: usize>(&mut self, cells: [String; N]) {
        assert_eq!(N, self.head.len());
        self.rows
            .push(cells.map(|cell| cell.replace('|', "\\|")).into());
    }

    fn text(&self) -> String {
        let lines = || std::iter::once(&self.head).chain(&self.rows);
        let width = |column: usize| {
            let cells = lines().map(|line| line[column].chars().count());
            cells.max().unwrap_or_default()
        };
        let columns: Vec<(char, usize)> = self
            .alignment
            .chars()
            .enumerate()
            .map(|(n, side)| (side, width(n)))
            .collect();
        let mut out = String::new();
        for (n, line) in lines().enumerate() {
            for (cell, (side, width)) in line.iter().zip(&columns) {
                let _ = match side {
                    'r' => write!(out, "| {cell:>width$} "),
                    _ => write!(out, "| {cell:<width$} "),
                };
            }
            out += "|\n";
            if n == 0 {
                for (side, width) in &columns {
                    let rule = "-".repeat(width + 1);
                    out += &match side {
                        'r' => format!("|{rule}:"),
                        _ => format!("|{rule}-"),
                    };
                }
                out += "|\n";
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_markdown_that_reads_well() {
        let mut table = Table::new("lr", &["what", "n"]);
        table.row(["a|b".to_owned(), "10".to_owned()]);
        let expected = "| what |  n |\n|------|---:|\n| a\\|b | 10 |\n";
        assert_eq!(table.text(), expected);
    }
}
