//! Contents as files have them: texts of many kinds, and binary ones behind well-known heads, in sizes on both sides of
//! what is read first. Made from a seed, so that a test says the same on every machine.
//!
//! NTT_MIME_DIFFERENCE_FILES=/some/folder takes the files of that folder instead.

use std::path::PathBuf;

use fastrand::Rng;
use walkdir::{DirEntry, WalkDir};

use crate::detector::known_files;

/// In an ordinary test run.
const CONTENTS: usize = 400;

/// Sizes about which contents are made, unless they are empty.
const SIZES: [usize; 6] = [100, 900, 5 << 10, 17 << 10, 66 << 10, 200 << 10];

/// What a file begins with, and the line that it repeats: `~` stands for a word, `#` for a number.
const TEXTS: [(&str, &str); 24] = [
    ("", "~ ~ ~ ~, ~ ~ ~. ~ ~ ~ ~ ~ #.\n"),
    ("", "~ ~ ~ ~ ~ ~ ~ ~ ~ ~ ~ ~ ~ ~ ~ ~ ~ ~ ~ "),
    ("", "~ ~ ~ ~\r\n"),
    ("#!/bin/sh\n# ~\n", "if [ -e ~ ]; then ~ # >~; fi\n"),
    (
        "#!/usr/bin/env python3\nimport ~\n",
        "def ~(~):\n    return ~ + #\n",
    ),
    (
        "",
        "import ~\nclass ~:\n    def ~(self):\n        self.~ = #\n",
    ),
    (
        "/* ~ ~ */\n#include <~.h>\n",
        "static int ~(int ~)\n{\n\treturn # + ~;\n}\n",
    ),
    ("", "#define ~ #\nextern struct ~ *~;\n"),
    (
        "#include <~>\n",
        "namespace ~ { class ~ { public: virtual ~ ~(); }; }\n",
    ),
    ("package ~;\n", "public class ~ { private ~ ~ = #; }\n"),
    ("<?php\n", "function ~($~) { return #; }\n"),
    (
        "use strict;\npackage ~;\n",
        "sub ~ { my ($~) = @_; return # }\n",
    ),
    (
        "'use strict';\n",
        "const ~ = require('~');\nfunction ~(~) { }\n",
    ),
    (
        "<!DOCTYPE html>\n<html><head><title>~</title></head><body>\n",
        "<p>~ ~ <a href=\"~\">~</a> #</p>\n",
    ),
    ("<?xml version=\"1.0\"?>\n<~>\n", "<~ id=\"#\">~</~>\n"),
    (
        "<svg xmlns=\"http://www.w3.org/2000/svg\">\n",
        "<path d=\"M # #\"/>\n",
    ),
    ("[", "{\"~\": #, \"~\": [\"~\", null]},\n"),
    ("~,~,~\n", "~,#,~\n"),
    (
        "From: ~@~\nTo: ~@~\nSubject: ~ ~\nDate: ~\n\n",
        "> ~ ~ ~\n~ ~ ~ #\n",
    ),
    ("--- ~\n+++ ~\n@@ -1 +1 @@\n", "-~ #\n+~ #\n"),
    (
        "\\documentclass{~}\n\\begin{document}\n",
        "\\section{~}\n~ ~ $#$\n",
    ),
    ("{\\rtf1\\ansi ", "\\par ~ ~ #\n"),
    ("%!PS-Adobe-3.0\n", "/~ { # # moveto } def\n"),
    ("all: ~\n", "~: ~\n\t~ -o # $<\n"),
];

const HEADS: [&[u8]; 18] = [
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\x01\0\0\0\x01\0\x08\x02\0\0\0",
    b"\xff\xd8\xff\xe1\0\x40Exif\0\0MM\0*",
    b"GIF89a\x40\0\x40\0",
    b"II*\0\x08\0\0\0\x0c\0",
    b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n",
    b"PK\x03\x04\x14\0\0\0\x08\0",
    b"\x1f\x8b\x08\0\0\0\0\0\0\x03",
    b"BZh91AY&SY",
    b"\xfd7zXZ\0\0\x04",
    b"7z\xbc\xaf'\x1c\0\x04",
    b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x03\0\x3e\0\x01\0\0\0",
    b"MZ\x90\0\x03\0\0\0\x04\0\0\0\xff\xff",
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
    b"RIFF\x24\x08\0\0WAVEfmt ",
    b"ID3\x03\0\0\0\0\x0fvTIT2",
    b"\0\0\0\x18ftypmp42\0\0\0\0",
    b"SQLite format 3\0\x10\0",
    b"\0\x01\0\0\0\x0f\0\x80\0\x03\0\x70",
];

const WORDS: [&str; 20] = [
    "the", "of", "witness", "bridge", "said", "a", "river", "in", "March", "they", "record",
    "main", "value", "data", "x", "index", "städte", "naïve", "TITLE", "report",
];

/// The contents, each with its name.
pub fn contents() -> Vec<(String, Vec<u8>)> {
    if let Some(folder) = std::env::var_os("NTT_MIME_DIFFERENCE_FILES") {
        return files(PathBuf::from(folder));
    }
    (0..CONTENTS)
        .map(|n| (format!("content {n}"), content(n)))
        .collect()
}

fn content(n: usize) -> Vec<u8> {
    let mut rng = Rng::with_seed(0xF11E + n as u64);
    let about = *rng.choice(&SIZES).expect("some");
    let length = rng.usize(about / 2..about + about / 2);
    // Kinds in turn, so that each is met in several sizes.
    let kinds = TEXTS.len() + HEADS.len() + 4;
    match n % kinds {
        kind if kind < TEXTS.len() => text(TEXTS[kind], length, &mut rng),
        kind if kind < TEXTS.len() + HEADS.len() => {
            binary(HEADS[kind - TEXTS.len()], length, &mut rng)
        }
        kind => match kind - TEXTS.len() - HEADS.len() {
            0 => vec![0; length],
            1 => {
                let mut known = known_files();
                let which = rng.usize(..known.len());
                std::mem::take(&mut known[which].content).into_owned()
            }
            2 => binary(b"", length, &mut rng),
            // Nothing, or a text that zeros follow.
            _ if rng.bool() => Vec::new(),
            _ => {
                let mut content = text(TEXTS[0], length / 2, &mut rng);
                content.resize(length, 0);
                content
            }
        },
    }
}

fn text((head, line): (&str, &str), length: usize, rng: &mut Rng) -> Vec<u8> {
    let mut text = filled(head, rng);
    while text.len() < length {
        let more = filled(line, rng);
        text.push_str(&more);
    }
    match rng.u8(..8) {
        0 => [0xFF, 0xFE]
            .into_iter()
            .chain(text.encode_utf16().flat_map(u16::to_le_bytes))
            .collect(),
        // Latin-1.
        1 => text.chars().map(|c| c as u8).collect(),
        2 => [b"\xEF\xBB\xBF", text.as_bytes()].concat(),
        _ => text.into_bytes(),
    }
}

fn filled(pattern: &str, rng: &mut Rng) -> String {
    let mut text = String::new();
    for c in pattern.chars() {
        match c {
            '~' => text.push_str(rng.choice(&WORDS).expect("some")),
            '#' => text.push_str(&rng.u32(..100_000).to_string()),
            c => text.push(c),
        }
    }
    text
}

/// Noise behind a head, in which there are zeros and words.
fn binary(head: &[u8], length: usize, rng: &mut Rng) -> Vec<u8> {
    let mut content = head.to_vec();
    while content.len() < length {
        match rng.u8(..4) {
            0 => content.resize(content.len() + rng.usize(1..200), 0),
            1 => content.extend(filled("~ ~ #", rng).bytes()),
            _ => content.extend((0..rng.usize(1..400)).map(|_| rng.u8(..))),
        }
    }
    content
}

/// Files of a folder, in the order of their names.
fn files(folder: PathBuf) -> Vec<(String, Vec<u8>)> {
    let all = WalkDir::new(folder)
        .sort_by_file_name()
        .into_iter()
        .flatten();
    let small = |entry: &DirEntry| entry.metadata().is_ok_and(|file| file.len() < 16 << 20);
    let files = all.filter(|entry| entry.file_type().is_file() && small(entry));
    files
        .filter_map(|entry| {
            let content = std::fs::read(entry.path()).ok()?;
            Some((entry.path().display().to_string(), content))
        })
        .collect()
}
