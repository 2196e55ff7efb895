//! Nested dropout: training truncates codes at random, so that their first numbers carry the most information (Rippel,
//! Gelbart and Adams 2014).
//!
//! For a share of the rows only the first m of the k units of the code are decoded, with m uniform from 1 to k - 1. The
//! loss is then a mean over all lengths to which a code can be truncated. The paper uses a geometric distribution. It
//! leaves almost no rows for the last units of a long code, which the paper compensates by freezing the first units,
//! one after the other. Here the last units get the rows that are not truncated, and the share does not depend on k.

use super::recipe::Regularization;
use crate::numeric::rng::{Stream, Use};

/// Chooses where codes are truncated.
#[derive(Clone, Copy, Debug)]
pub(super) struct NestedDropout {
    /// Share of the rows whose codes are truncated.
    share: f64,
    /// Code length.
    units: u64,
}

impl NestedDropout {
    pub(super) fn new(asked: &Regularization, code_length: usize) -> Self {
        Self { share: asked.nested_dropout, units: code_length as u64 }
    }

    pub(super) fn is_none(&self) -> bool {
        self.share == 0.0
    }

    /// Number of decoded units for the code of row `number` in an epoch: a function of these and of the seed.
    pub(super) fn kept(&self, number: u64, epoch: u32, seed: u64) -> usize {
        let mut stream = Stream::new(seed, u64::from(epoch), number, Use::NestedDropout);
        let kept = if stream.uniform() < self.share { 1 + stream.below(self.units - 1) } else { self.units };
        kept as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_lengths_follow_the_requested_distribution() {
        let dropout = NestedDropout { share: 0.6, units: 5 };
        let mut counts = [0.0; 6];
        (0..20_000).for_each(|row| counts[dropout.kept(row, 2, 7)] += 1.0);
        let expected = [0.0, 0.15, 0.15, 0.15, 0.15, 0.4];
        for (kept, (count, expected)) in counts.into_iter().zip(expected).enumerate() {
            // Four standard errors.
            assert!((count / 2e4f64 - expected).abs() <= 4.0 * (expected / 2e4f64).sqrt(), "{kept}: {count}");
        }
        let cuts = |epoch, seed| (0..50).map(|row| dropout.kept(row, epoch, seed)).collect::<Vec<_>>();
        assert_eq!(cuts(1, 7), cuts(1, 7));
        assert!(cuts(1, 7) != cuts(2, 7) && cuts(1, 7) != cuts(1, 8));
    }
}
