//! A sample of a target's blocks, and what it says of the whole.
//!
//! Each block is chosen by itself with the same chance, by a hash of the leaf, its number and a seed: so nobody has to know
//! all blocks, workers agree without a word, and who looks again at a leaf looks at the same blocks. The rows of a
//! block are no sample of rows, since neighbours are often alike: a directory of files of one kind. So the
//! share of rows that differ is estimated as a ratio of sums over blocks, and its error from how the blocks differ (Cochran,
//! Sampling Techniques, 3rd ed. 1977, 6.4 and 9A.3), not as if rows had been drawn.
//!
//! The interval is Wilson's for as many rows as would, drawn one by one, have the error that the blocks show (as
//! Korn and Graubard have it for surveys, 1998): it stays between 0 and 1, and says something when nothing was
//! found. What is rare may not be in the sample at all, and then the blocks in it seem more alike than all are: so one more
//! block is reckoned with that is different as a whole, as one success and one failure are added to a small sample of
//! a share (Agresti and Coull 1998). The quantile is larger than the 1.96 of 95 %, since blocks are far from normally distributed where few of them have all
//! the differences.

use serde::Serialize;

/// 98 % of a normal distribution lie within so many standard deviations. The interval is said to hold in 19 of 20 samples.
const QUANTILE: f64 = 2.326;

/// Which blocks are in the sample.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Hashes below it are chosen.
    below: u64,
    seed: u64,
}

impl Sample {
    /// `percent` of the blocks; None if that is all of them.
    pub fn new(percent: f64, seed: u64) -> Option<Sample> {
        let below = (percent / 100.0 * u64::MAX as f64) as u64;
        (percent < 100.0).then_some(Sample { below, seed })
    }

    /// Is a block of a leaf in it?
    pub fn has(&self, leaf: u32, block: u32) -> bool {
        let place = u64::from(leaf) << 32 | u64::from(block);
        mixed(mixed(place) ^ self.seed) < self.below
    }

    /// How many blocks of a range are, end exclusive.
    pub fn count(&self, leaf: u32, start: u32, end: u32) -> u64 {
        (start..end).filter(|block| self.has(leaf, *block)).count() as u64
    }
}

/// SplitMix64's finalizer (Steele, Lea and Flood 2014): every bit of the result depends on every bit of what is given.
fn mixed(value: u64) -> u64 {
    let value = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let value = (value ^ value >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ value >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ value >> 31
}

/// Sums over the blocks of a sample: of rows checked in a block (m) and of those that differ (d).
#[derive(Default, Clone, Copy, Debug)]
pub struct Sums {
    /// Blocks looked at, those without a row included, and all there were.
    pub blocks: u64,
    pub of_blocks: u64,
    pub rows: u64,
    pub different: u64,
    /// Of m², of d², of m·d.
    pub rows_squared: u64,
    pub different_squared: u64,
    pub product: u64,
}

/// What a sample says of all rows. Shares are of 1.
#[derive(Serialize, Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// Blocks looked at, of so many.
    pub blocks: u64,
    pub of_blocks: u64,
    /// Of rows that differ.
    pub share: f64,
    /// Between these the true share lies in 19 of 20 samples.
    pub share_low: f64,
    pub share_high: f64,
    /// Rows that would be checked, and those that would differ.
    pub rows: u64,
    pub rows_different: u64,
    pub rows_different_low: u64,
    pub rows_different_high: u64,
}

impl Sums {
    /// Adds what a block has.
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

    /// None if no row was in the sample.
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
        // Squares of what a block has more than its rows let expect, and more than blocks have in the mean.
        let of_one_more = (m / n * (1.0 - share)).powi(2);
        let of_share = (dd - 2.0 * share * md + share * share * mm).max(0.0) + of_one_more;
        let of_rows = (dd - d * d / n).max(0.0) + of_one_more;
        let freedom = (n - 1.0).max(1.0);
        let variance = left_out * n * of_share / freedom / (m * m);
        let t = QUANTILE + (QUANTILE.powi(3) + QUANTILE) / (4.0 * freedom);
        let drawn_one_by_one = match share * (1.0 - share) {
            // All or none: nothing says how blocks differ, so each is worth one row.
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

/// Wilson's interval for a share that was found in `n` drawings.
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

    /// Sums over the blocks that a sample has of `blocks`, each its rows and how many differ.
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
        // Differences come in heaps: whole stretches of blocks have none, others nothing else.
        let heaps = |number: u64| {
            let m = 60 + mixed(number) % 60;
            let d = match mixed(number / 40 + 1_000_000) % 12 {
                0 => m,
                1 => m / 10,
                _ => u64::from(mixed(number + 77).is_multiple_of(50)),
            };
            (m, d)
        };
        // Few blocks have them all, as after an UPDATE, which puts new versions of rows together.
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
        // One block tells hardly anything.
        let one = Sums {
            of_blocks: 1000,
            ..sums(&[(50, 25)], None)
        };
        let one = one.estimate().expect("rows");
        assert!(one.share_low < 0.1 && one.share_high > 0.9, "{one:?}");
    }
}
