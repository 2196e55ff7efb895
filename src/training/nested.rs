//! Nested dropout: codes are cut at random while a model trains, so that what matters most comes first in them (Rippel, Gelbart
//! and Adams 2014).
//!
//! Of a share of the rows only the first m of the k units of the code are decoded, m from 1 to k - 1, each as likely: the loss is
//! a mean over all lengths that a code can be cut to. The geometric distribution of the paper leaves the last units of a long code
//! next to no rows, which it makes up for by freezing the first ones, one after the other; of this one they see the rows that are
//! not cut, and a share that does not depend on how long the code is needs no choice anew for each k.

use super::recipe::Regularization;
use crate::numeric::rng::{Stream, Use};

/// Where codes are cut.
#[derive(Clone, Copy, Debug)]
pub(super) struct NestedDropout {
    /// Of the rows whose codes are.
    share: f64,
    /// Of a code.
    units: u64,
}

impl NestedDropout {
    pub(super) fn new(asked: &Regularization, code_length: usize) -> Self {
        Self { share: asked.nested_dropout, units: code_length as u64 }
    }

    pub(super) fn is_none(&self) -> bool {
        self.share == 0.0
    }

    /// How many units are decoded of the code of row `number` in an epoch: a function of these and of the seed.
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
    fn every_length_is_as_likely_and_as_many_are_whole_as_asked() {
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
