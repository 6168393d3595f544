//! Files that nobody made on purpose: known ones, damaged.

use fastrand::Rng;
use ntt_mime_core::detector::known_files;

/// Marks that rules look for, and some that decide how far the detector looks.
const MARKS: &[&[u8]] = &[
    b"PK\x03\x04",
    b"PK\x05\x06",
    b"\x7fELF",
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
    b"\x01CD001\x01",
    b"ustar",
    b"%PDF-1.7",
    b"\xef\xbb\xbf",
    b"\xff\xfe",
    b"{",
    b"[",
    b"\"",
    b"}",
    b"]",
    b"\"use strict\"",
    b"<html",
    b"#!/bin/sh",
    b"BEGIN:VCARD",
    b"\0",
    b"\x1a",
    b"\n\n\n\n",
    b"\xff\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"II*\0",
    b"RIFF",
    b"ID3\x04\0\0\0\0\x01\0",
    b"ID3\x04\0\0\0\0\x7f\x7f",
    b"\xe9\xf0\x7f",
];

/// Longest content: beyond the second look of 64 kB.
const LONGEST: usize = 100_000;

pub struct Mutator {
    rng: Rng,
}

impl Mutator {
    pub fn new(seed: u64) -> Mutator {
        Mutator {
            rng: Rng::with_seed(seed),
        }
    }

    /// A known file after a few changes.
    pub fn content(&mut self) -> Vec<u8> {
        let mut content = self.known();
        // Marks at the very start are what rules go by.
        if self.rng.u8(..4) == 0 {
            let mark = *self.rng.choice(MARKS).expect("there are some");
            content.splice(..0, mark.iter().copied());
        }
        for _ in 0..=self.rng.usize(..6) {
            self.change(&mut content);
            content.truncate(LONGEST);
        }
        content
    }

    fn known(&mut self) -> Vec<u8> {
        let mut files = known_files();
        let chosen = self.rng.usize(..files.len());
        std::mem::take(&mut files[chosen].content).into_owned()
    }

    fn change(&mut self, content: &mut Vec<u8>) {
        let at = self.rng.usize(..=content.len());
        match self.rng.u8(..8) {
            0 => content.truncate(at),
            1 => {
                if let Some(byte) = content.get_mut(at) {
                    *byte ^= 1 << self.rng.u8(..8);
                }
            }
            2 => {
                if let Some(byte) = content.get_mut(at) {
                    *byte = self.rng.u8(..);
                }
            }
            // Two files in one.
            3 => {
                let other = self.known();
                let from = self.rng.usize(..=other.len());
                content.truncate(at);
                content.extend(&other[from..]);
            }
            4 => {
                let mark = *self.rng.choice(MARKS).expect("there are some");
                content.splice(
                    at..(at + mark.len()).min(content.len()),
                    mark.iter().copied(),
                );
            }
            5 => {
                let mark = *self.rng.choice(MARKS).expect("there are some");
                content.splice(at..at, mark.iter().copied());
            }
            // Long ones: something again and again, or a hole.
            6 => {
                let mut piece = content[at..].to_vec();
                piece.truncate(2000);
                let times = self.rng.usize(..200);
                let middle = piece.repeat(times);
                content.splice(at..at, middle);
            }
            _ => {
                let hole = vec![0; self.rng.usize(..40_000)];
                content.splice(at..at, hole);
            }
        }
    }
}
