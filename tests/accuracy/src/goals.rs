//! What the project promises of its answers.

use crate::report::{Report, Share};

const FILES: usize = 20_000;
const TYPES: usize = 150;
const AGREEMENT: f64 = 0.9998;
const BYTES: u64 = 24 * 1024;
const PLACES: f64 = 1.3;

/// On a corpus of which nobody knows what it holds, such as a machine's own files, one in so many may
/// differ.
const ONE_IN: usize = 2000;

/// A complaint for each goal that isn't reached, or can't be judged by so small a corpus. The mean that
/// is read is that of files as an archive has them; agreement is asked for with and without the others.
pub fn missed(report: &Report) -> Vec<String> {
    let mut missed = report.differences();
    let mut goal = |reached: bool, complaint: String| {
        if !reached {
            missed.push(complaint);
        }
    };
    let natural = report.share(|sample| !sample.is_edge());
    let (files, types) = (natural.files, natural.types.len());
    goal(
        files >= FILES,
        format!("{files} files, {FILES} are needed to tell"),
    );
    goal(
        types >= TYPES,
        format!("{types} types, {TYPES} are needed to tell"),
    );
    for share in [&natural, &report.share(|_| true)] {
        let agreement = share.agreement();
        goal(
            agreement >= AGREEMENT,
            format!(
                "{:.3} % of {} answers agree, the goal is {:.2} %",
                100.0 * agreement,
                share.files,
                100.0 * AGREEMENT
            ),
        );
    }
    let bytes = natural.bytes_a_file();
    goal(
        bytes <= BYTES,
        format!("{bytes} bytes are read a file, the goal is {BYTES}"),
    );
    let places = natural.places_a_file();
    goal(
        places <= PLACES,
        format!("{places:.3} places are read a file, the goal is {PLACES}"),
    );
    missed
}

/// Complaints about a corpus of any files: if too many differ, all that do.
pub fn missed_anywhere(report: &Report) -> Vec<String> {
    let Share { files, differ, .. } = report.share(|_| true);
    match differ * ONE_IN > files {
        true => report.differences(),
        false => Vec::new(),
    }
}
