//! A sample of a target's blocks, and what it says about the whole.
//!
//! Each block is chosen independently with the same probability, by a hash of the leaf, its number and a seed. So
//! nobody has to know all blocks, workers agree without communicating, and whoever reads a leaf again reads the same
//! blocks. The rows of a block are not a random sample of rows, because neighbours are often alike: a directory of
//! files of one kind. So the share of rows that differ is estimated as a ratio of sums over blocks, and its error
//! from how the blocks differ (Cochran, Sampling Techniques, 3rd ed. 1977, 6.4 and 9A.3), not as if rows had been
//! drawn.
//!
//! The interval is Wilson's, for the number of rows that would have the error that the blocks show if they were drawn
//! one by one (as in Korn and Graubard's method for surveys, 1998). It stays between 0 and 1, and says something even
//! if nothing was found. What is rare may not be in the sample at all, and then its blocks seem more alike than all
//! blocks are. So one more block is added that differs as a whole, as one success and one failure are added to a
//! small sample of a share (Agresti and Coull 1998). The quantile is larger than the 1.96 of 95 %, since blocks are
//! far from normally distributed when few of them have all the differences.

use serde::Serialize;

/// 98 % of a normal distribution lie within this many standard deviations. The interval is said to hold in 19 of 20
/// samples.
const QUANTILE: f64 = 2.326;

/// Decides which blocks are in the sample.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Blocks whose hash is below this are chosen.
    below: u64,
    seed: u64,
}

impl Sample {
    /// `percent` of the blocks; None if that is all of them.
    pub fn new(percent: f64, seed: u64) -> Option<Sample> {
        let below = (percent / 100.0 * u64::MAX as f64) as u64;
        (percent < 100.0).then_some(Sample { below, seed })
    }

    /// Whether a block of a leaf is in the sample.
    pub fn has(&self, leaf: u32, block: u32) -> bool {
        let place = u64::from(leaf) << 32 | u64::from(block);
        mixed(mixed(place) ^ self.seed) < self.below
    }

    /// The number of blocks of a range that are in the sample; `end` is exclusive.
    pub fn count(&self, leaf: u32, start: u32, end: u32) -> u64 {
        (start..end).filter(|block| self.has(leaf, *block)).count() as u64
    }
}

/// SplitMix64's finalizer (Steele, Lea and Flood 2014): every bit of the result depends on every bit of the argument.
fn mixed(value: u64) -> u64 {
    let value = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let value = (value ^ value >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ value >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ value >> 31
}

/// Sums over the blocks of a sample, of the rows checked in a block (m) and of those that differ (d).
#[derive(Default, Clone, Copy, Debug)]
pub struct Sums {
    /// Blocks read, including those without rows, and all blocks that there were.
    pub blocks: u64,
    pub of_blocks: u64,
    pub rows: u64,
    pub different: u64,
    /// Sums of m², of d², and of m·d.
    pub rows_squared: u64,
    pub different_squared: u64,
    pub product: u64,
}

/// What a sample says about all rows. Shares are fractions of 1.
#[derive(Serialize, Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// Blocks read, and all blocks.
    pub blocks: u64,
    pub of_blocks: u64,
    /// The share of rows that differ.
    pub share: f64,
    /// The true share is between these in 19 of 20 samples.
    pub share_low: f64,
    pub share_high: f64,
    /// Rows that would be checked, and rows that would differ.
    pub rows: u64,
    pub rows_different: u64,
    pub rows_different_low: u64,
    pub rows_different_high: u64,
}

impl Sums {
    /// Adds the rows of a block.
    pub fn add_block(&mut self, rows: u64, different: u64) {
        self.rows += rows;
        self.different += different;
        self.rows_squared += rows * rows;
        self.different_squared += different * different;
        self.product += rows * different;
    }

    pub fn add(&mut self, other: Sums) {
        self.blocks += other.blocks;
        self.of_blocks += other.of_blocks;
        self.rows += other.rows;
        self.different += other.different;
        self.rows_squared += other.rows_squared;
        self.different_squared += other.different_squared;
        self.product += other.product;
    }

    /// None if there was no row in the sample.
    pub fn estimate(&self) -> Option<Estimate> {
        if self.blocks == 0 || self.rows == 0 {
            return None;
        }
        let [n, all] = [self.blocks, self.of_blocks.max(self.blocks)].map(|n| n as f64);
        let [m, d] = [self.rows, self.different].map(|n| n as f64);
        let [mm, dd, md] =
            [self.rows_squared, self.different_squared, self.product].map(|n| n as f64);
        let left_out = 1.0 - n / all;
        let share = d / m;
        // Squares of the excess of a block over what its rows let expect, and over the mean of the blocks.
        let of_one_more = (m / n * (1.0 - share)).powi(2);
        let of_share = (dd - 2.0 * share * md + share * share * mm).max(0.0) + of_one_more;
        let of_rows = (dd - d * d / n).max(0.0) + of_one_more;
        let freedom = (n - 1.0).max(1.0);
        let variance = left_out * n * of_share / freedom / (m * m);
        let t = QUANTILE + (QUANTILE.powi(3) + QUANTILE) / (4.0 * freedom);
        let drawn_one_by_one = match share * (1.0 - share) {
            // All or none: nothing shows how blocks differ, so each counts as one row.
            0.0 => n.min(m) / left_out.max(f64::MIN_POSITIVE),
            spread if variance > 0.0 => (spread / variance).min(m / left_out),
            _ if left_out == 0.0 => f64::INFINITY,
            _ => 1.0,
        };
        let (share_low, share_high) = match left_out == 0.0 {
            true => (share, share),
            false => wilson(share, drawn_one_by_one, t),
        };
        let rows = m * all / n;
        let different = d * all / n;
        let deviation = t * all * (left_out * of_rows / freedom / n).sqrt();
        let low = (different - deviation).min(share_low * rows).max(d);
        let high = (different + deviation).max(share_high * rows).max(d);
        Some(Estimate {
            blocks: self.blocks,
            of_blocks: self.of_blocks.max(self.blocks),
            share,
            share_low,
            share_high,
            rows: rows.round() as u64,
            rows_different: different.round() as u64,
            rows_different_low: low.floor() as u64,
            rows_different_high: high.ceil() as u64,
        })
    }
}

/// Wilson's interval for a share that was found in `n` draws.
fn wilson(share: f64, n: f64, quantile: f64) -> (f64, f64) {
    let square = quantile * quantile / n;
    let middle = share + square / 2.0;
    let half = quantile * (share * (1.0 - share) / n + square / (4.0 * n)).sqrt();
    let bound = |value: f64| (value / (1.0 + square)).clamp(0.0, 1.0);
    (bound(middle - half), bound(middle + half))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sums over those of `blocks` that are in the sample; each is given by its rows and how many differ.
    fn sums(blocks: &[(u64, u64)], sample: Option<Sample>) -> Sums {
        let mut sums = Sums {
            of_blocks: blocks.len() as u64,
            ..Sums::default()
        };
        for (number, (m, d)) in blocks.iter().enumerate() {
            if sample.is_none_or(|sample| sample.has(7, number as u32)) {
                sums.blocks += 1;
                sums.add_block(*m, *d);
            }
        }
        sums
    }

    #[test]
    fn a_sample_has_its_share_of_blocks_and_another_seed_others() {
        let of = |seed| Sample::new(1.0, seed).expect("not all");
        let chosen = |seed| of(seed).count(5, 0, 1_000_000);
        assert!((9_600..10_400).contains(&chosen(1)), "{}", chosen(1));
        let both = (0..1_000_000).filter(|b| of(1).has(5, *b) && of(2).has(5, *b));
        assert!(both.count() < 200);
        let leaves = (0..1_000_000).filter(|leaf| of(1).has(*leaf, 0));
        assert!((9_600..10_400).contains(&leaves.count()));
        assert!(Sample::new(100.0, 1).is_none());
    }

    #[test]
    fn the_truth_lies_within_the_interval() {
        // Differences come in stretches: whole ranges of blocks have none, others nothing else.
        let heaps = |number: u64| {
            let m = 60 + mixed(number) % 60;
            let d = match mixed(number / 40 + 1_000_000) % 12 {
                0 => m,
                1 => m / 10,
                _ => u64::from(mixed(number + 77).is_multiple_of(50)),
            };
            (m, d)
        };
        // A few blocks have them all, as after an UPDATE, which puts new row versions together.
        let clumps = |number: u64| {
            let m = [1, 3, 60, 60, 60][mixed(number) as usize % 5];
            let d = match mixed(number + 5_000_000) % 1000 {
                0..65 => m,
                _ => 0,
            };
            (m, d)
        };
        let even = |number: u64| (50, mixed(number) % 8);
        let of = |all: u64, block: &dyn Fn(u64) -> (u64, u64)| -> Vec<(u64, u64)> {
            (0..all).map(block).collect()
        };
        for (what, blocks) in [
            ("heaps", of(30_000, &heaps)),
            ("few heaps", of(2_700, &heaps)),
            ("clumps", of(30_000, &clumps)),
            ("few clumps", of(2_700, &clumps)),
            ("even", of(2_700, &even)),
        ] {
            let all = sums(&blocks, None).estimate().expect("rows");
            assert_eq!((all.share_low, all.share_high), (all.share, all.share));
            let trials = 1_000;
            let (mut share, mut rows) = (0, 0);
            for seed in 0..trials {
                let sample = Sample::new(1.0, mixed(seed));
                let found = sums(&blocks, sample).estimate().expect("rows");
                share += u64::from((found.share_low..=found.share_high).contains(&all.share));
                let range = found.rows_different_low..=found.rows_different_high;
                rows += u64::from(range.contains(&all.rows_different));
            }
            assert!(share * 20 >= trials * 19, "{what}: {share} of {trials}");
            assert!(rows * 20 >= trials * 19, "{what}: {rows} of {trials}");
        }
    }

    #[test]
    fn nothing_found_is_not_nothing_there() {
        let blocks = vec![(50, 0); 1000];
        let sample = Sample::new(5.0, 3);
        let found = sums(&blocks, sample).estimate().expect("rows");
        assert_eq!((found.share, found.share_low), (0.0, 0.0));
        assert!(
            found.share_high > 0.01 && found.share_high < 0.2,
            "{found:?}"
        );
        assert!(found.rows_different_high > 500);
        assert!(sums(&[(0, 0)], None).estimate().is_none());
        assert!(Sums::default().estimate().is_none());
        // A single block says hardly anything.
        let one = Sums {
            of_blocks: 1000,
            ..sums(&[(50, 25)], None)
        };
        let one = one.estimate().expect("rows");
        assert!(one.share_low < 0.1 && one.share_high > 0.9, "{one:?}");
    }
}
