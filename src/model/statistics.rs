//! Statistics of the training and held-out rows that a model stores for anomaly scores; it stores no rows.

use crate::model::{Invariants, ModelSpec};

/// Largest code length with statistics: the covariance is a square matrix.
pub const STATISTICS_CODE_MAX: usize = 1024;

/// Largest number of calibration scores.
pub const CALIBRATION_ROWS_MAX: usize = 4096;

/// Statistics of codes of length k and rows of d features, in the normalized space.
#[derive(Clone, Debug, PartialEq)]
pub struct Statistics {
    /// Number of training rows whose codes were examined.
    pub code_rows: u64,
    /// Mean squared error of held-out rows per residual dimension, of which there are d - k, at least 1.
    pub residual_variance: f64,
    /// Mean code: (k,).
    pub code_mean: Vec<f32>,
    /// Covariance of the codes: (k, k), row-major, symmetric.
    pub code_covariance: Vec<f32>,
    /// (d,): ½ ∂²score/∂x² per feature, mean over some held-out rows. How steeply the score rises when only this
    /// feature moves.
    pub curvature: Vec<f32>,
    /// Scores of held-out rows, ascending: at most [`CALIBRATION_ROWS_MAX`]. Empty if no rows were held out: then rows
    /// cannot be scored, and the other statistics of held-out rows are 0.
    pub calibration: Vec<f32>,
    /// Invariants of the rows; empty in files of versions before they were computed.
    pub invariants: Invariants,
}

impl Statistics {
    /// Whether a model with this specification can have statistics.
    pub fn are_possible(spec: &ModelSpec) -> bool {
        spec.code_length() <= STATISTICS_CODE_MAX
    }

    /// Size in memory, in bytes.
    pub fn bytes(&self) -> usize {
        let Self { code_mean, code_covariance, curvature, calibration, invariants, .. } = self;
        4 * (code_mean.len() + code_covariance.len() + curvature.len() + calibration.len()) + invariants.bytes()
    }

    /// d - k, at least 1.
    pub fn residual_dimensions(spec: &ModelSpec) -> usize {
        spec.features().saturating_sub(spec.code_length()).max(1)
    }

    /// Whether codes have mean 0 and uncorrelated units in descending order of variance: see [`super::canonical`]. Then
    /// the first numbers of a code are the best few.
    pub fn are_canonical(&self) -> bool {
        let k = self.code_mean.len();
        let variances = (0..k).map(|i| self.code_covariance[i * k + i]);
        self.code_mean.iter().all(|mean| *mean == 0.0)
            && variances.is_sorted_by(|a, b| a >= b)
            && self.code_covariance.iter().enumerate().all(|(place, value)| place / k == place % k || *value == 0.0)
    }

    /// The probability that a row like the held-out ones scores at least as high, (1 + #{calibration ≥ score}) / (n +
    /// 1): split conformal prediction (Vovk, Gammerman and Shafer 2005; Bates et al. 2023).
    pub fn p_value(&self, score: f32) -> f64 {
        let below = self.calibration.partition_point(|calibration| *calibration < score);
        (self.calibration.len() - below + 1) as f64 / (self.calibration.len() + 1) as f64
    }

    /// The score above which a row is an alarm. Of rows like the held-out ones, at most the share `false_alarm_rate`
    /// scores above it: their p-values are at most that rate.
    ///
    /// # Errors
    /// The smallest possible rate with this many calibration scores, 1 / (n + 1), if it is above `false_alarm_rate`.
    pub fn threshold(&self, false_alarm_rate: f64) -> Result<f32, f64> {
        let count = self.calibration.len();
        let least = 1.0 / (count as f64 + 1.0);
        // A rate of exactly 1 / (n + 1) may be rounded slightly below it.
        let places = (false_alarm_rate * (count as f64 + 1.0) + 1e-9).floor() as usize;
        match count.checked_sub(places) {
            _ if places == 0 => Err(least),
            Some(place) => Ok(self.calibration[place]),
            None => Ok(f32::NEG_INFINITY),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statistics(calibration: Vec<f32>) -> Statistics {
        Statistics {
            code_rows: 1,
            residual_variance: 1.0,
            code_mean: vec![0.0],
            code_covariance: vec![1.0],
            curvature: vec![1.0],
            calibration,
            invariants: Invariants::default(),
        }
    }

    #[test]
    fn p_values_count_rows_that_score_at_least_as_high() {
        let of = statistics(vec![1.0, 2.0, 2.0, 3.0]);
        for (score, expected) in [(0.0, 1.0), (1.0, 1.0), (1.5, 0.8), (2.0, 0.8), (2.5, 0.4), (3.0, 0.4), (9.0, 0.2)] {
            assert!((of.p_value(score) - expected).abs() < 1e-15, "{score}: {}", of.p_value(score));
        }
    }

    #[test]
    fn an_alarm_is_a_p_value_of_at_most_the_rate() {
        let of = statistics((1..=99).map(|i| i as f32).collect());
        for rate in [0.01, 0.02, 0.05, 0.5, 0.995] {
            let threshold = of.threshold(rate).expect("enough rows");
            for score in (0..=200).map(|i| i as f32 / 2.0) {
                assert_eq!(score > threshold, of.p_value(score) <= rate + 1e-12, "{score} at {rate}");
            }
        }
        assert_eq!(of.threshold(0.009), Err(0.01));
        assert_eq!(of.threshold(0.0), Err(0.01));
    }
}
