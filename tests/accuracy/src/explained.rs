//! Why some answers differ from file(1)'s.
//!
//! The detector reads the head of most files only, so on some it can't know what file(1) knows. Each
//! kind of such files has an entry here; a difference without one fails the test.

use std::fs::File;
use std::io::Read;

use crate::corpus::Sample;

/// A file on which file(1) and the detector differ.
pub struct Difference<'a> {
    pub sample: &'a Sample,
    /// What file(1) says.
    pub truth: &'a str,
    /// What the detector says.
    pub ours: &'a str,
}

struct Explanation {
    applies: fn(&Difference) -> bool,
    text: &'static str,
}

const EXPLANATIONS: &[Explanation] = &[
    Explanation {
        applies: |it| it.truth == "application/javascript" && it.has_beyond_head(b"use strict"),
        text: "\"use strict\" in quotes makes any text JavaScript to libmagic, wherever it stands; here it \
               stands beyond what is looked at",
    },
    Explanation {
        applies: |it| it.truth == "application/x-adobe-aco" && it.ours == UNNAMED,
        text: "chance: a rule for Adobe's colour tables follows a number of the file's to a place beyond \
               the head (Magdir/images); nothing in the head tells",
    },
    Explanation {
        applies: |it| it.truth == "text/csv" && it.ours == "text/plain" && it.has_few_lines(),
        text: "CSV so wide that fewer than three lines end within the first 64 KiB, the number from which on \
               libmagic 5.44 takes a text for CSV",
    },
];

const UNNAMED: &str = "application/octet-stream";

/// The reason for a difference, if it is known.
pub fn explanation(difference: &Difference) -> Option<&'static str> {
    let known = EXPLANATIONS.iter().find(|it| (it.applies)(difference));
    known.map(|it| it.text)
}

impl Difference<'_> {
    /// Do fewer than three lines end within the first 64 KiB?
    fn has_few_lines(&self) -> bool {
        let mut content = Vec::new();
        let read = File::open(&self.sample.path)
            .and_then(|file| file.take(64 * 1024).read_to_end(&mut content));
        read.is_ok() && content.iter().filter(|byte| **byte == b'\n').count() < 3
    }

    /// Do these bytes occur, after the first 16 KiB?
    fn has_beyond_head(&self, bytes: &[u8]) -> bool {
        let mut content = Vec::new();
        let read = File::open(&self.sample.path)
            .and_then(|file| file.take(7 << 20).read_to_end(&mut content));
        let rest = content.get(16 * 1024..).unwrap_or_default();
        read.is_ok() && rest.windows(bytes.len()).any(|window| window == bytes)
    }
}
