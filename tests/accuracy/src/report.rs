//! The report: tables in Markdown that read well as they are.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::time::Duration;

use ntt_mime_core::detector::{Detection, libmagic_release};

use crate::corpus::Corpus;
use crate::explained::{Difference, explanation};
use crate::measure::Measured;

pub struct Report<'a> {
    corpus: &'a Corpus,
    truth: &'a [String],
    /// The last is the rule in use.
    measured: &'a [Measured],
    differences: Vec<Difference<'a>>,
}

impl<'a> Report<'a> {
    pub fn new(corpus: &'a Corpus, truth: &'a [String], measured: &'a [Measured]) -> Report<'a> {
        let answers = &measured.last().expect("one at least").answers;
        let all = corpus.files.iter().zip(truth).zip(answers);
        let differences = all
            .filter(|((_, truth), answer)| **truth != answer.mime_type)
            .map(|((sample, truth), answer)| Difference {
                sample,
                truth,
                ours: &answer.mime_type,
            })
            .collect();
        Report {
            corpus,
            truth,
            measured,
            differences,
        }
    }

    pub fn files(&self) -> usize {
        self.corpus.files.len()
    }

    /// Different types, as file(1) names them.
    pub fn types(&self) -> usize {
        self.truth.iter().collect::<BTreeSet<_>>().len()
    }

    /// Answers of the rule in use that agree.
    pub fn passed(&self) -> usize {
        self.files() - self.differences.len()
    }

    /// The same as a share of 1.
    pub fn agreement(&self) -> f64 {
        share(self.passed(), self.files())
    }

    /// Mean of the rule in use.
    pub fn bytes_a_file(&self) -> u64 {
        let sum: u64 = self.in_use().iter().map(|answer| answer.bytes_read).sum();
        sum / self.files() as u64
    }

    /// A complaint for each difference that nobody has explained.
    pub fn complaints(&self) -> Vec<String> {
        let unexplained = self
            .differences
            .iter()
            .filter(|it| explanation(it).is_none());
        unexplained
            .map(|it| {
                let name = &it.sample.name;
                format!(
                    "{name}: file(1) says {}, the detector {}",
                    it.truth, it.ours
                )
            })
            .collect()
    }

    fn in_use(&self) -> &[Detection] {
        &self.measured.last().expect("one at least").answers
    }

    /// All of it.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let bytes: u64 = self.corpus.files.iter().map(|file| file.size).sum();
        let longer = |limit| {
            self.corpus
                .files
                .iter()
                .filter(|file| file.size > limit)
                .count()
        };
        let _ = writeln!(
            out,
            "\nlibmagic {}: {} of {} files agree with file(1), {:.3} %. They are of {} types and have \
             {} MB;\n{} are longer than 16 KiB, {} than 64 KiB. Read: {} bytes a file.\n",
            libmagic_release(),
            self.passed(),
            self.files(),
            100.0 * self.agreement(),
            self.types(),
            bytes / 1_000_000,
            longer(16 * 1024),
            longer(64 * 1024),
            self.bytes_a_file(),
        );
        for table in [
            self.rules(),
            self.classes(),
            self.confusions(),
            self.listed(),
        ] {
            if !table.rows.is_empty() {
                let _ = writeln!(out, "{}", table.text());
            }
        }
        out
    }

    /// A line for each file, with tabs between.
    pub fn answers(&self) -> String {
        let mut out = String::new();
        let all = self.corpus.files.iter().zip(self.truth).zip(self.in_use());
        for ((sample, truth), answer) in all {
            let _ = writeln!(
                out,
                "{}\t{}\t{truth}\t{}\t{}\t{}",
                sample.name, sample.size, answer.mime_type, answer.bytes_read, answer.reads
            );
        }
        out
    }

    fn rules(&self) -> Table {
        let mut table = Table::new(
            "lrrrrrr",
            &[
                "rule",
                "differ",
                "agree %",
                "bytes a file",
                "looks",
                "µs to read",
                "µs to judge",
            ],
        );
        for Measured { rule, answers } in self.measured {
            let pairs = answers.iter().zip(self.truth);
            let agree = pairs
                .filter(|(answer, truth)| answer.mime_type == **truth)
                .count();
            let bytes: u64 = answers.iter().map(|answer| answer.bytes_read).sum();
            let looks: u64 = answers.iter().map(|answer| u64::from(answer.reads)).sum();
            let reading: Duration = answers.iter().map(|answer| answer.read_time).sum();
            let judging: Duration = answers.iter().map(|answer| answer.detect_time).sum();
            let count = self.files();
            table.row([
                rule.name.to_owned(),
                (count - agree).to_string(),
                format!("{:.3}", 100.0 * share(agree, count)),
                (bytes / count as u64).to_string(),
                format!("{:.2}", looks as f64 / count as f64),
                (reading.as_micros() / count as u128).to_string(),
                (judging.as_micros() / count as u128).to_string(),
            ]);
        }
        table
    }

    fn classes(&self) -> Table {
        #[derive(Default)]
        struct Class<'b> {
            files: usize,
            differ: usize,
            bytes: u64,
            types: BTreeSet<&'b str>,
        }
        let mut classes = BTreeMap::<&str, Class>::new();
        let all = self.corpus.files.iter().zip(self.truth).zip(self.in_use());
        for ((sample, truth), answer) in all {
            let class = classes.entry(&sample.class).or_default();
            class.files += 1;
            class.differ += usize::from(*truth != answer.mime_type);
            class.bytes += answer.bytes_read;
            class.types.insert(truth);
        }
        let mut table = Table::new(
            "lrrrrr",
            &[
                "class",
                "files",
                "types",
                "differ",
                "agree %",
                "bytes a file",
            ],
        );
        for (name, class) in classes {
            table.row([
                name.to_owned(),
                class.files.to_string(),
                class.types.len().to_string(),
                class.differ.to_string(),
                format!(
                    "{:.3}",
                    100.0 * share(class.files - class.differ, class.files)
                ),
                (class.bytes / class.files as u64).to_string(),
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
        let mut table = Table::new("lrl", &["file that differs", "bytes", "why"]);
        for difference in &self.differences {
            table.row([
                difference.sample.name.clone(),
                difference.sample.size.to_string(),
                explanation(difference)
                    .unwrap_or("NOT EXPLAINED")
                    .to_owned(),
            ]);
        }
        table
    }
}

fn share(part: usize, whole: usize) -> f64 {
    part as f64 / whole as f64
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
