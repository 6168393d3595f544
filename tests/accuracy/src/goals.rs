//! What the project promises of its answers.

use crate::report::Report;

const FILES: usize = 20_000;
const TYPES: usize = 150;
const AGREEMENT: f64 = 0.9998;
const BYTES: u64 = 16 * 1024;

/// A complaint for each goal that isn't reached, or can't be judged by so small a corpus.
pub fn missed(report: &Report) -> Vec<String> {
    let mut missed = Vec::new();
    let mut goal = |reached: bool, complaint: String| {
        if !reached {
            missed.push(complaint);
        }
    };
    let (files, types) = (report.files(), report.types());
    goal(
        files >= FILES,
        format!("{files} files, {FILES} are needed to tell"),
    );
    goal(
        types >= TYPES,
        format!("{types} types, {TYPES} are needed to tell"),
    );
    let agreement = report.agreement();
    goal(
        agreement >= AGREEMENT,
        format!(
            "{:.3} % of the answers agree, the goal is {:.2} %",
            100.0 * agreement,
            100.0 * AGREEMENT
        ),
    );
    let bytes = report.bytes_a_file();
    goal(
        bytes <= BYTES,
        format!("{bytes} bytes are read a file, the goal is {BYTES}"),
    );
    missed
}
