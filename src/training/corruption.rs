//! Denoising: rows are corrupted before they are encoded, and compared with the original (Vincent et al. 2008).

use super::recipe::Regularization;
use crate::numeric::PanelMatrix;
use crate::numeric::rng::{Stream, Use};

/// The corruption of rows, in the normalized space. All zeros: none.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Corruption {
    /// Probability that a number is set to 0, or to the fill value if the model accepts missing values.
    pub(super) masking: f64,
    /// Factor of the numbers that are not masked.
    pub(super) scale: f32,
    /// Standard deviation of the added noise.
    pub(super) gaussian: f64,
}

impl Corruption {
    pub(super) fn new(asked: &Regularization) -> Self {
        // `Regularization::check` rejects both at once.
        let masking = asked.masking.max(asked.input_dropout);
        Self { masking, scale: (1.0 / (1.0 - asked.input_dropout)) as f32, gaussian: asked.gaussian }
    }

    pub(super) fn is_none(&self) -> bool {
        self.masking == 0.0 && self.gaussian == 0.0
    }

    /// Corrupts row `index` of `rows`, which is row `number` of all, in an epoch: a function of these and of the seed.
    /// Missing values (NaN) stay missing. `fill` has the fill values of missing ones; empty if no value may be missing.
    pub(super) fn apply(&self, rows: &mut PanelMatrix, index: usize, number: u64, epoch: u32, seed: u64, fill: &[f32]) {
        if self.is_none() {
            return;
        }
        let mut stream = Stream::new(seed, u64::from(epoch), number, Use::Corruption);
        for column in 0..rows.columns() {
            let value = rows.at_mut(index, column);
            if self.gaussian > 0.0 {
                *value += (self.gaussian * bell(&mut stream)) as f32;
            }
            if self.masking > 0.0 {
                let masked = fill.get(column).copied().unwrap_or(0.0);
                // Scales around the fill value, so that a masked number does not contribute to the sum.
                *value = if stream.uniform() < self.masking { masked } else { (*value - masked) * self.scale + masked };
            }
        }
    }
}

/// A nearly normal random number with mean 0 and variance 1: the heads of 128 coins, spread evenly between integers (de
/// Moivre 1733). Kurtosis -0.016, none beyond 11 deviations; exact in integers. It takes a tenth of the time of a
/// logarithm, which would take as long as the rest of a step.
fn bell(stream: &mut Stream) -> f64 {
    const COINS: f64 = 128.0;
    let heads = stream.bits().count_ones() + stream.bits().count_ones();
    (f64::from(heads) - COINS / 2.0 + stream.uniform() - 0.5) / (COINS / 4.0 + 1.0 / 12.0).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn corrupted(corruption: Corruption, number: u64, epoch: u32) -> Vec<f32> {
        let mut rows = PanelMatrix::zeros(2, 10_000);
        rows.load(0, &vec![1.0; 20_000]);
        corruption.apply(&mut rows, 1, number, epoch, 3, &[]);
        assert_eq!(rows.at(0, 5), 1.0, "other rows are left alone");
        (0..10_000).map(|j| rows.at(1, j)).collect()
    }

    #[test]
    fn masks_and_noise_have_the_requested_strength() {
        let masked = corrupted(Corruption { masking: 0.3, scale: 1.0, gaussian: 0.0 }, 7, 1);
        let zeros = masked.iter().filter(|x| **x == 0.0).count() as f64 / 1e4;
        // Four standard errors.
        assert!((zeros - 0.3).abs() < 4.0 * (0.21f64 / 1e4).sqrt(), "{zeros}");
        assert!(masked.iter().all(|x| *x == 0.0 || *x == 1.0));
        let scaled = corrupted(Corruption { masking: 0.5, scale: 2.0, gaussian: 0.0 }, 7, 1);
        let mean = scaled.iter().map(|x| f64::from(*x)).sum::<f64>() / 1e4;
        assert!((mean - 1.0).abs() < 4.0 / 100.0, "{mean}");
        let noisy = corrupted(Corruption { masking: 0.0, scale: 1.0, gaussian: 0.5 }, 7, 1);
        let variance = noisy.iter().map(|x| f64::from(x - 1.0).powi(2)).sum::<f64>() / 1e4;
        assert!((variance / 0.25 - 1.0).abs() < 4.0 * (2.0f64 / 1e4).sqrt(), "{variance}");
    }

    #[test]
    fn noise_is_nearly_normal() {
        let mut stream = Stream::new(9, 0, 0, Use::Corruption);
        let draws: Vec<f64> = (0..100_000).map(|_| bell(&mut stream)).collect();
        let moment = |k| draws.iter().map(|x| x.powi(k)).sum::<f64>() / 1e5;
        // Four standard errors of each, and the shares within one and two deviations.
        assert!(moment(1).abs() < 0.013 && (moment(2) - 1.0).abs() < 0.018, "{} {}", moment(1), moment(2));
        assert!((moment(4) - 3.0).abs() < 0.13, "{}", moment(4));
        for (bound, share) in [(1.0, 0.6827), (2.0, 0.9545)] {
            let within = draws.iter().filter(|x| x.abs() < bound).count() as f64 / 1e5;
            assert!((within - share).abs() < 0.006, "{within} within {bound}");
        }
    }

    #[test]
    fn each_epoch_corrupts_each_row_differently() {
        let corruption = Corruption { masking: 0.5, scale: 1.0, gaussian: 0.1 };
        let one = corrupted(corruption, 7, 1);
        assert_eq!(one, corrupted(corruption, 7, 1));
        assert_ne!(one, corrupted(corruption, 8, 1));
        assert_ne!(one, corrupted(corruption, 7, 2));
    }
}
