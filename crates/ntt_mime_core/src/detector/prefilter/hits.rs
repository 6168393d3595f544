//! A set of rules: those that are to be tried on a file.

use std::ops::Range;

/// Rules to look at, by number.
pub struct Hits {
    words: Vec<u64>,
}

impl Hits {
    pub fn new(rules: usize) -> Hits {
        Hits {
            words: vec![0; rules.div_ceil(64)],
        }
    }

    pub fn clear(&mut self) {
        self.words.fill(0);
    }

    /// One more.
    pub fn add(&mut self, rule: u32) {
        self.words[rule as usize / 64] |= 1 << (rule % 64);
    }

    /// Those among these, in the order of the rules.
    pub fn iter(&self, among: Range<u32>) -> impl Iterator<Item = usize> {
        self.words.iter().enumerate().flat_map(move |(at, word)| {
            let mut word = *word & bits_before(among.end, at) & !bits_before(among.start, at);
            std::iter::from_fn(move || {
                let bit = word.trailing_zeros() as usize;
                word &= word.wrapping_sub(1);
                (bit < 64).then_some(at * 64 + bit)
            })
        })
    }
}

/// The bits of rules before this one, in a word of hits.
fn bits_before(rule: u32, word: usize) -> u64 {
    match (rule as usize).saturating_sub(word * 64) {
        bits @ 0..64 => (1 << bits) - 1,
        _ => u64::MAX,
    }
}
