//! Anomaly scores: how unusual a row is for a model, and which features explain it.
//!
//! With e = x - x̂ in the normalized space, c the code, m and Σ the mean and covariance of codes, and σ² the residual
//! variance:
//!
//! score = (c - m)ᵀ Σ⁻¹ (c - m) + ‖e‖² / σ² + changes
//!
//! For a linear model this is, except for a constant and the changes, -2 times the log likelihood under probabilistic
//! PCA (Tipping and Bishop 1999). A row scores high if its code is far from the other codes, or if it is far from its
//! reconstruction. Changes are those of constant columns and of relations: see [`super::invariants`].
//!
//! The distance uses every direction of the code. Σ is shrunk (Chen et al. 2010), so that every combination of units
//! that vary has a variance. A unit that never varied gets a floor. The floor is the residual variance, which under
//! probabilistic PCA is the smallest variance of any direction of the code, and at least the rounding error of 32-bit
//! codes.
//!
//! The explanations are reconstruction-based contributions (Alcala and Qin 2009). With g = ½ ∂score/∂x and h = ½
//! ∂²score/∂x², feature j contributes `g_j² / h_j`: the fall of the score if this feature alone took its most usual
//! value. This is exact for a linear model and approximate for others, where h is a mean over held-out rows. If one
//! feature of a usual row is moved far enough, it has the largest contribution.
//!
//! If the values of a row are so large that its figures overflow, its score is the largest, [`f32::MAX`], and its
//! explanation is the features with the largest normalized values. This never changes the results of other rows.

use super::gradient::{TAPE_ROWS, Tape};
use super::invariants::Checks;
use super::{Autoencoder, Statistics};
use crate::numeric::linalg::inverse_factor;
use crate::numeric::matmul::Weights;
use crate::numeric::{BufferPool, PanelMatrix};

/// A unit with this share of the largest variance, or less, counts as constant.
const DEAD: f64 = 1e-12;
/// Largest relative rounding error of a code, a sum of 32-bit floats.
const CODE_ROUNDING: f64 = 1e-6;
/// Share of the mean variance that is added to Σ if it has no inverse otherwise.
const RIDGE: f64 = 1e-6;
/// Lower bound of the residual variance: reconstruction without error gives no scale.
const RESIDUAL_VARIANCE_MIN: f64 = 1e-10;
/// Lower bound of a feature's curvature, as a share of the mean: otherwise a feature with almost no effect would
/// explain everything.
const CURVATURE_MIN: f64 = 1e-6;

/// The step of a feature, in the normalized space, to measure the change of its slope.
const STEP: f32 = 0.01;

/// Number of figures of a row: squared error in the normalized space, squared Mahalanobis distance of the code, and
/// changes of invariants. Each is finite.
pub const FIGURES: usize = 3;

/// Computes scores of rows.
#[derive(Clone, Debug)]
pub struct Scorer {
    mean: Vec<f32>,
    /// M of Σ⁻¹ = MᵀM: (k, k).
    whitening: Weights,
    /// 1 / σ².
    precision: f32,
    /// h: (d,).
    curvature: Vec<f32>,
    checks: Checks,
}

impl Scorer {
    /// From the statistics of a model. `None` if the covariance has no inverse, or no rows were held out.
    pub fn new(statistics: &Statistics) -> Option<Self> {
        if statistics.calibration.is_empty() {
            return None;
        }
        Self::uncalibrated(statistics)
    }

    /// [`Scorer::new`] without calibration scores, to compute them.
    pub(crate) fn uncalibrated(statistics: &Statistics) -> Option<Self> {
        let k = statistics.code_mean.len();
        let covariance: Vec<f64> = statistics.code_covariance.iter().map(|value| f64::from(*value)).collect();
        let residual_variance = statistics.residual_variance.max(RESIDUAL_VARIANCE_MIN);
        let largest = (0..k).map(|i| covariance[i * k + i]).fold(0.0, f64::max);
        let live: Vec<usize> = (0..k).filter(|i| is_live(covariance[i * k + i], largest)).collect();
        let n = live.len();
        let mut shrunk: Vec<f64> =
            live.iter().flat_map(|i| live.iter().map(move |j| (i, j))).map(|(i, j)| covariance[i * k + j]).collect();
        shrink(&mut shrunk, n, statistics.code_rows as f64);
        let mut rows = vec![0.0f32; k * k];
        if n > 0 {
            let ridge = RIDGE * (0..n).map(|i| shrunk[i * n + i]).sum::<f64>() / n as f64;
            let factor = inverse_factor(&shrunk, n, 0.0).or_else(|| inverse_factor(&shrunk, n, ridge))?;
            for (row, factor) in rows.chunks_exact_mut(k).zip(factor.chunks_exact(n)) {
                live.iter().zip(factor).for_each(|(unit, value)| row[*unit] = *value as f32);
            }
        }
        let dead = (0..k).filter(|unit| !live.contains(unit));
        for (row, unit) in rows.chunks_exact_mut(k).skip(n).zip(dead) {
            let size = largest + f64::from(statistics.code_mean[unit]).powi(2);
            let floor = residual_variance.max(CODE_ROUNDING * CODE_ROUNDING * size);
            row[unit] = (1.0 / floor.sqrt()) as f32;
        }
        let whitening = rows.iter().all(|value| value.is_finite()).then(|| Weights::from_row_major(k, k, &rows))?;
        let curvature = &statistics.curvature;
        let mean = curvature.iter().map(|value| f64::from(*value)).sum::<f64>() / curvature.len().max(1) as f64;
        let least = ((mean * CURVATURE_MIN) as f32).max(f32::MIN_POSITIVE);
        Some(Self {
            mean: statistics.code_mean.clone(),
            whitening,
            precision: (1.0 / residual_variance) as f32,
            curvature: curvature.iter().map(|value| value.max(least)).collect(),
            checks: Checks::new(
                &statistics.invariants,
                curvature.len(),
                statistics.calibration.last().copied().unwrap_or(0.0),
            ),
        })
    }

    /// The score of a row from its figures: finite, at most [`f32::MAX`].
    pub fn combined(&self, [squared_error, squared_distance, changes]: [f32; FIGURES]) -> f32 {
        saturated(squared_error.mul_add(self.precision, squared_distance) + changes)
    }

    /// The [`FIGURES`] of rows (n, d) in the units of the input: (n, 3). A row's figures have the same bits in every
    /// batch.
    ///
    /// # Panics
    /// If the rows are not as wide as the model, or the model is not the one of the statistics.
    pub fn score(&self, model: &Autoencoder, rows: &PanelMatrix, buffers: &mut BufferPool) -> PanelMatrix {
        let mut x = buffers.take();
        model.normalizer().apply_to(rows, &mut x);
        let scores = self.score_normalized(model, &x, buffers);
        buffers.put(x);
        scores
    }

    /// [`Scorer::score`] of rows in the normalized space, NaN where a value is missing.
    ///
    /// # Panics
    /// As [`Scorer::score`].
    pub fn score_normalized(&self, model: &Autoencoder, x: &PanelMatrix, buffers: &mut BufferPool) -> PanelMatrix {
        let (codes, squared_errors) = model.encode_normalized_with_errors(x, buffers);
        let distances = self.squared_distances(&codes);
        let changes = self.checks.terms(model.normalizer(), x);
        buffers.put(codes);
        let mut scores = buffers.take();
        scores.reset(x.rows(), FIGURES);
        for (row, ((error, distance), changes)) in squared_errors.into_iter().zip(distances).zip(changes).enumerate() {
            for (place, figure) in [error, distance, changes].into_iter().enumerate() {
                *scores.at_mut(row, place) = saturated(figure);
            }
        }
        scores
    }

    /// The figures and the contribution of each feature: (n, 3 + d). A contribution has the sign of g: positive if a
    /// smaller value would make the row more usual. A missing value contributes nothing.
    ///
    /// # Panics
    /// As [`Scorer::score`].
    pub fn explain(&self, model: &Autoencoder, rows: &PanelMatrix, buffers: &mut BufferPool) -> PanelMatrix {
        let mut x = buffers.take();
        model.normalizer().apply_to(rows, &mut x);
        let explained = self.explain_normalized(model, &x, buffers);
        buffers.put(x);
        explained
    }

    /// [`Scorer::explain`] of rows in the normalized space, NaN where a value is missing.
    ///
    /// # Panics
    /// As [`Scorer::score`].
    pub fn explain_normalized(&self, model: &Autoencoder, x: &PanelMatrix, buffers: &mut BufferPool) -> PanelMatrix {
        let features = model.spec().features();
        // Not from the tape below, which has the figures too: these have the same bits as a score without explanation.
        let scores = self.score_normalized(model, x, buffers);
        let mut explained = buffers.take();
        explained.reset(x.rows(), FIGURES + features);
        for row in 0..x.rows() {
            (0..FIGURES).for_each(|j| *explained.at_mut(row, j) = scores.at(row, j));
        }
        self.each_slope_normalized(model, x, |row, feature, slope| {
            let contribution = (slope.abs() / self.curvature[feature].sqrt()).powi(2);
            *explained.at_mut(row, FIGURES + feature) = contribution.copysign(slope);
        });
        self.checks.each_contribution(model.normalizer(), x, |row, feature, contribution| {
            // The sign of the invariants' contribution wins: it is the larger part.
            let value = explained.at_mut(row, FIGURES + feature);
            *value = (contribution.abs() + f64::from(value.abs())).copysign(contribution) as f32;
        });
        for row in 0..x.rows() {
            let beyond = (0..FIGURES + features).any(|j| explained.at(row, j).abs().total_cmp(&f32::MAX).is_ge());
            if beyond {
                explain_by_size(x, row, &mut explained);
            }
        }
        buffers.put(scores);
        explained
    }

    /// Calls `found(row, feature, g)` with g = ½ ∂score/∂x in the normalized space, for every number of `rows`.
    #[cfg(test)]
    pub(crate) fn each_slope(&self, model: &Autoencoder, rows: &PanelMatrix, found: impl FnMut(usize, usize, f32)) {
        let mut x = PanelMatrix::default();
        model.normalizer().apply_to(rows, &mut x);
        self.each_slope_normalized(model, &x, found);
    }

    /// Calls `found(row, feature, g)` for rows in the normalized space. g excludes the changes of invariants.
    fn each_slope_normalized(&self, model: &Autoencoder, x: &PanelMatrix, mut found: impl FnMut(usize, usize, f32)) {
        let features = model.spec().features();
        let mut tape = Tape::new(model.layers().len());
        let mut values = vec![0.0; TAPE_ROWS * features];
        for first in (0..x.rows()).step_by(TAPE_ROWS) {
            let count = TAPE_ROWS.min(x.rows() - first);
            let values = &mut values[..count * features];
            x.store(first..first + count, values);
            let slopes = self.slopes(model, &mut tape, values);
            for row in 0..count {
                for feature in 0..features {
                    found(first + row, feature, slopes.at(row, feature));
                }
            }
        }
    }

    /// h per feature: the mean over `rows` (in the units of the input), from differences of g.
    pub(crate) fn curvatures(&self, model: &Autoencoder, rows: &PanelMatrix) -> Vec<f64> {
        let (features, count) = (model.spec().features(), rows.rows());
        let mut tape = Tape::new(model.layers().len());
        let mut lanes = PanelMatrix::default();
        model.normalizer().apply_to(rows, &mut lanes);
        model.normalizer().fill_missing(&mut lanes);
        let mut x = vec![0.0; count * features];
        lanes.store(0..count, &mut x);
        // For a linear model any step is exact, and a larger step has less rounding error.
        let step = if model.spec().is_linear() { 8.0 } else { STEP };
        let mut curvatures = vec![0.0; features];
        for x in x.chunks_exact(features) {
            let base = self.slopes(model, &mut tape, x);
            for first in (0..features).step_by(TAPE_ROWS) {
                let moved = TAPE_ROWS.min(features - first);
                let mut values = x.repeat(moved);
                for (place, row) in values.chunks_exact_mut(features).enumerate() {
                    row[first + place] += step;
                }
                let slopes = self.slopes(model, &mut tape, &values);
                for place in 0..moved {
                    let by = values[place * features + first + place] - x[first + place];
                    let rise = slopes.at(place, first + place) - base.at(0, first + place);
                    curvatures[first + place] += f64::from(rise) / f64::from(by) / count as f64;
                }
            }
        }
        curvatures
    }

    /// g of rows (n, d; row-major) in the normalized space.
    fn slopes(&self, model: &Autoencoder, tape: &mut Tape, x: &[f32]) -> PanelMatrix {
        let features = model.spec().features();
        let count = x.len() / features;
        tape.rows_mut().reset(count, features);
        tape.rows_mut().load(0, x);
        if model.normalizer().takes_missing() {
            model.normalizer().fill_missing(tape.changed_mut());
        }
        tape.forward(model, count);
        let (mut pull, mut white) = (self.centered(tape.code()), PanelMatrix::default());
        self.whitening.encode(&pull, &mut white);
        self.whitening.decode(&white, &mut pull);
        tape.score_slopes(model, &pull, self.precision)
    }

    /// Size in memory, in bytes.
    pub fn bytes(&self) -> usize {
        4 * (self.whitening.panels().len() + self.mean.len() + self.curvature.len()) + self.checks.bytes()
    }

    /// Multiply-adds per row besides those of the model.
    pub fn multiply_adds(&self) -> usize {
        self.whitening.outputs() * self.whitening.inputs() + self.checks.multiply_adds()
    }

    fn centered(&self, codes: &PanelMatrix) -> PanelMatrix {
        let mut centered = PanelMatrix::default();
        centered.map_columns_from(codes, [&self.mean], |value, [mean]| value - mean);
        centered
    }

    /// Squared distances of codes (n, k; row-major).
    pub(crate) fn squared_distances_of(&self, codes: &[f32]) -> Vec<f32> {
        let k = self.mean.len();
        let mut distances = Vec::with_capacity(codes.len() / k);
        for codes in codes.chunks(TAPE_ROWS * k) {
            let mut lanes = PanelMatrix::zeros(codes.len() / k, k);
            lanes.load(0, codes);
            distances.extend(self.squared_distances(&lanes));
        }
        distances
    }

    fn squared_distances(&self, codes: &PanelMatrix) -> Vec<f32> {
        let mut white = PanelMatrix::default();
        self.whitening.encode(&self.centered(codes), &mut white);
        white.squares_by_row()
    }
}

/// Replaces NaN and infinity by the largest float.
fn saturated(figure: f32) -> f32 {
    if figure.is_finite() { figure } else { f32::MAX }
}

/// Contributions in proportion to the squares of the normalized values; the largest becomes the largest float.
fn explain_by_size(x: &PanelMatrix, row: usize, explained: &mut PanelMatrix) {
    let value = |feature: usize| {
        let value = x.at(row, feature);
        // Infinite for a 64-bit value beyond the range of 32 bits; the other values are then negligible.
        if value.is_nan() { 0.0 } else { f64::from(value).clamp(-1e300, 1e300) }
    };
    let largest = (0..x.columns()).map(|feature| value(feature).abs()).fold(0.0, f64::max);
    for feature in 0..x.columns() {
        let share = if largest > 0.0 { value(feature) / largest } else { 0.0 };
        *explained.at_mut(row, FIGURES + feature) = (share.abs() * share * f64::from(f32::MAX)) as f32;
    }
}

/// Whether a unit with this variance varies, compared with the `largest` variance.
pub(super) fn is_live(variance: f64, largest: f64) -> bool {
    variance > largest * DEAD
}

/// Oracle approximating shrinkage of a covariance (n, n) of `rows` rows towards its mean variance (Chen et al. 2010).
fn shrink(covariance: &mut [f64], n: usize, rows: f64) {
    if n == 0 {
        return;
    }
    let size = n as f64;
    let mean = (0..n).map(|i| covariance[i * n + i]).sum::<f64>() / size;
    let square = covariance.iter().map(|value| value * value).sum::<f64>() / (size * size);
    let by = (rows + 1.0) * (square - mean * mean / size);
    let share = if by > 0.0 { ((square + mean * mean) / by).min(1.0) } else { 1.0 };
    for (place, value) in covariance.iter_mut().enumerate() {
        *value *= 1.0 - share;
        if place / n == place % n {
            *value += share * mean;
        }
    }
}

#[cfg(test)]
mod tests;
