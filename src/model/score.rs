//! How unusual a row is for a model, and why.
//!
//! With e = x - x̂ in the normalized space, c the code, m and Σ mean and covariance of codes and σ² the residual variance:
//!
//! score = (c - m)ᵀ Σ⁻¹ (c - m) + ‖e‖² / σ² + changes
//!
//! which for a linear model is, but for a constant and the changes, -2 times the log likelihood under probabilistic PCA (Tipping
//! and Bishop 1999): far from the other codes, or far from what codes can say. Changes are those of columns and relations that
//! never changed: see [`super::invariants`].
//!
//! No direction of the code is left out. Σ is shrunk (Chen et al. 2010), so that every combination of units that change has
//! variance. A unit that never changed has the floor: the residual variance, which under probabilistic PCA is the least variance
//! of any direction of the code, and at least what rounding makes of 32-bit codes.
//!
//! The reasons are reconstruction-based contributions (Alcala and Qin 2009): with g = ½ ∂score/∂x and h = ½ ∂²score/∂x²,
//! feature j contributes `g_j² / h_j`. That is by how much the score would fall if this feature alone took its most usual value:
//! exactly for a linear model, and about so for others, where h is a mean over held-out rows. If one feature of a usual row is
//! moved far enough, it is the first reason.
//!
//! A row whose values are so large that the figures leave the floats has the greatest score, [`f32::MAX`], and its reasons are
//! the features with the largest normalized values. It never changes what other rows get.

use super::gradient::{TAPE_ROWS, Tape};
use super::invariants::Checks;
use super::{Autoencoder, Statistics};
use crate::numeric::linalg::inverse_factor;
use crate::numeric::matmul::Weights;
use crate::numeric::{BufferPool, PanelMatrix};

/// A unit whose variance is this share of the largest, or less, never changes.
const DEAD: f64 = 1e-12;
/// What rounding makes of a code, relative, at most: a sum of 32-bit floats.
const CODE_ROUNDING: f64 = 1e-6;
/// Share of the mean variance that is added to Σ where it has no inverse otherwise.
const RIDGE: f64 = 1e-6;
/// So little residual variance is none: what is reconstructed without error gives no scale.
const RESIDUAL_VARIANCE_MIN: f64 = 1e-10;
/// Least share of the mean curvature that a feature counts with: one that hardly matters would be a reason for everything.
const CURVATURE_MIN: f64 = 1e-6;

/// What a feature is moved by to see how its slope changes, in the normalized space.
const STEP: f32 = 0.01;

/// Figures of a row: squared error in the normalized space, squared Mahalanobis distance of the code, and changes of what never
/// changed. Each is finite.
pub const FIGURES: usize = 3;

/// Scores rows.
#[derive(Clone, Debug)]
pub struct Scorer {
    mean: Vec<f32>,
    /// M of Σ⁻¹ = MᵀM: (k, k).
    whitening: Weights,
    /// 1 / σ²
    precision: f32,
    /// (d,): h.
    curvature: Vec<f32>,
    checks: Checks,
}

impl Scorer {
    /// From what the model keeps; `None` where the covariance has no inverse, or no rows were held out.
    pub fn new(statistics: &Statistics) -> Option<Self> {
        if statistics.calibration.is_empty() {
            return None;
        }
        Self::uncalibrated(statistics)
    }

    /// The same, to find the scores of held-out rows with.
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

    /// The score of a row, from its figures: finite, at most [`f32::MAX`].
    pub fn combined(&self, [squared_error, squared_distance, changes]: [f32; FIGURES]) -> f32 {
        saturated(squared_error.mul_add(self.precision, squared_distance) + changes)
    }

    /// The [`FIGURES`] of rows (n, d) in the units of the input: (n, 3). A row's figures have the same bits in every batch.
    ///
    /// # Panics
    /// If the rows are not as wide as the model, or it is another model's.
    pub fn score(&self, model: &Autoencoder, rows: &PanelMatrix, buffers: &mut BufferPool) -> PanelMatrix {
        let mut x = buffers.take();
        model.normalizer().apply_to(rows, &mut x);
        let scores = self.score_normalized(model, &x, buffers);
        buffers.put(x);
        scores
    }

    /// The same of rows in the normalized space, NaN where a value is missing.
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

    /// The same, and what each feature contributes: (n, 3 + d). A contribution has the sign of g: positive where a smaller value
    /// would make the row more usual. What is missing contributes nothing.
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

    /// The same of rows in the normalized space, NaN where a value is missing.
    ///
    /// # Panics
    /// As [`Scorer::score`].
    pub fn explain_normalized(&self, model: &Autoencoder, x: &PanelMatrix, buffers: &mut BufferPool) -> PanelMatrix {
        let features = model.spec().features();
        // Not from the tape below, though it has them too: these have the bits that a score without reasons has.
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
            // The sign of what never changed counts: it is the greater.
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

    /// The same of rows in the normalized space; changes of what never changed are left out.
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

    /// h by feature, mean over `rows` in the units of the input, from differences of g.
    pub(crate) fn curvatures(&self, model: &Autoencoder, rows: &PanelMatrix) -> Vec<f64> {
        let (features, count) = (model.spec().features(), rows.rows());
        let mut tape = Tape::new(model.layers().len());
        let mut lanes = PanelMatrix::default();
        model.normalizer().apply_to(rows, &mut lanes);
        model.normalizer().fill_missing(&mut lanes);
        let mut x = vec![0.0; count * features];
        lanes.store(0..count, &mut x);
        // Exact at any distance where the model is linear, and the further the less of it is rounding.
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

    /// What it takes in memory.
    pub fn bytes(&self) -> usize {
        4 * (self.whitening.panels().len() + self.mean.len() + self.curvature.len()) + self.checks.bytes()
    }

    /// Multiply-adds of a row besides those of the model.
    pub fn multiply_adds(&self) -> usize {
        self.whitening.outputs() * self.whitening.inputs() + self.checks.multiply_adds()
    }

    fn centered(&self, codes: &PanelMatrix) -> PanelMatrix {
        let mut centered = PanelMatrix::default();
        centered.map_from(codes, |unit, value| value - self.mean[unit]);
        centered
    }

    /// Of codes (n, k; row-major).
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

/// A figure that left the floats is the greatest of them.
fn saturated(figure: f32) -> f32 {
    if figure.is_finite() { figure } else { f32::MAX }
}

/// Contributions in proportion to the squares of the normalized values, the largest of which is the greatest float.
fn explain_by_size(x: &PanelMatrix, row: usize, explained: &mut PanelMatrix) {
    let value = |feature: usize| {
        let value = x.at(row, feature);
        // Infinite: a 64-bit value beyond 32 bits. The others are then nothing beside it.
        if value.is_nan() { 0.0 } else { f64::from(value).clamp(-1e300, 1e300) }
    };
    let largest = (0..x.columns()).map(|feature| value(feature).abs()).fold(0.0, f64::max);
    for feature in 0..x.columns() {
        let share = if largest > 0.0 { value(feature) / largest } else { 0.0 };
        *explained.at_mut(row, FIGURES + feature) = (share.abs() * share * f64::from(f32::MAX)) as f32;
    }
}

/// Whether a unit of such a variance, beside the `largest`, ever changes.
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
