//! Computes the statistics that a finished model stores for anomaly scores: of codes and of held-out rows.

use super::batches::{Split, ValidationRows, each_training_row};
use super::error::TrainError;
use super::relations;
use super::source::RowSource;
use super::trim::lowest;
use crate::model::gradient::TAPE_ROWS;
use crate::model::statistics::CALIBRATION_ROWS_MAX;
use crate::model::{Autoencoder, Invariants, Normalizer, Scorer, Statistics};
use crate::numeric::linalg::covariance;
use crate::numeric::{BufferPool, PanelMatrix};

/// Training rows whose codes are examined for any code length: sixteen for each number of the longest code.
const CODE_ROWS_ALWAYS: u64 = 16_384;
/// More rows than that are examined up to this number of multiply-adds for the covariance: some seconds.
const COVARIANCE_WORK_MAX: u64 = 10_000_000_000;
/// Largest number of training rows whose codes are examined.
const CODE_ROWS_MAX: u64 = 1_000_000;
/// Largest size of the codes, or of the held-out rows, that are kept temporarily, in bytes.
const BYTES_MAX: usize = 32 << 20;
/// Held-out rows whose curvatures are averaged, if the model is not linear.
const CURVATURE_ROWS: usize = 8;
/// Up to this number of features, each is moved alone; above it, explanations use the largest slopes.
const CURVATURE_FEATURES_MAX: usize = 4096;
/// The same limit in floating-point operations of the forward and backward pass of one row, times features: some
/// minutes.
const CURVATURE_WORK_MAX: u64 = 1_000_000_000_000;
/// Number of times that outliers are selected anew and left out.
const TRIM_ROUNDS: usize = 3;

/// The statistics of a model: of the codes of training rows, and of held-out rows if there are any. The share `trim` of
/// the rows that score highest is left out (except from the calibration), because they may be bad. `None` if the code
/// is too long, or if a number is not finite.
pub(super) fn statistics(
    model: &Autoencoder,
    source: &dyn RowSource,
    split: &Split,
    held_back: &ValidationRows,
    trim: f64,
    go_on: &mut dyn FnMut() -> Result<(), TrainError>,
) -> Result<Option<Statistics>, TrainError> {
    let spec = model.spec();
    if !Statistics::are_possible(spec) {
        return Ok(None);
    }
    let buffers = &mut BufferPool::default();
    let k = spec.code_length() as u64;
    let code_rows_max = (COVARIANCE_WORK_MAX / (k * k)).clamp(CODE_ROWS_ALWAYS, CODE_ROWS_MAX);
    let mut of_training = Sample::new(model, split.training_rows(), code_rows_max, spec.code_length());
    let mut common = Common::new(split.training_rows(), spec.features());
    each_training_row(source, split, &mut |_, row| {
        of_training.take(row, buffers);
        common.take(row);
        go_on()
    })?;
    of_training.flush(buffers);
    let mut held_out = Vec::new();
    let mut turns = Turns::new(held_back.count(), CALIBRATION_ROWS_MAX as u64, spec.features());
    held_back.each(&mut |rows| {
        for row in rows.chunks_exact(spec.features()) {
            common.widen(row);
            if turns.next() {
                held_out.extend_from_slice(row);
            }
        }
        go_on()
    })?;
    let count = held_out.len() / spec.features();

    let Sample { codes, errors, .. } = of_training;
    if count == 0 {
        let found = of_codes(model, &codes, &vec![true; errors.len()]);
        return Ok(is_finite(&found).then_some(found));
    }
    let invariants = common.invariants(model.normalizer(), &held_out, source.shift());
    let of_held_out = each_part(model, &held_out, |rows| model.encode_with_errors(rows, buffers).1);
    let dimensions = Statistics::residual_dimensions(spec) as f64;
    let (mut trained, mut held) = (vec![true; errors.len()], vec![true; count]);
    let mut rounds = if trim > 0.0 { TRIM_ROUNDS } else { 0 };
    let (mut found, scorer) = loop {
        let kept = of_held_out.iter().zip(&held).filter(|(_, held)| **held);
        let (sum, rows) = kept.fold((0.0, 0.0), |(sum, rows), (error, _)| (sum + f64::from(*error), rows + 1.0));
        let found = Statistics {
            residual_variance: sum / rows / dimensions,
            invariants: invariants.clone(),
            ..of_codes(model, &codes, &trained)
        };
        let Some(scorer) = Scorer::uncalibrated(&found).filter(|_| found.residual_variance.is_finite()) else {
            return Ok(None);
        };
        if rounds == 0 {
            break (found, scorer);
        }
        rounds -= 1;
        let combined = |code_distances: Vec<f32>, errors: &[f32]| -> Vec<f32> {
            // Training rows have no changes of invariants.
            let of_one = |(distance, error): (f32, &f32)| scorer.combined([*error, distance, 0.0]);
            code_distances.into_iter().zip(errors).map(of_one).collect()
        };
        trained = lowest(&combined(scorer.squared_distances_of(&codes), &errors), trim);
        held = lowest(&scores(&scorer, model, &held_out, buffers), trim);
    };
    found.curvature = curvatures(&scorer, model, &held_out, &held, go_on)?;
    found.calibration = scores(&scorer, model, &held_out, buffers);
    found.calibration.sort_unstable_by(f32::total_cmp);
    Ok(is_finite(&found).then_some(found))
}

/// The statistics of those codes (row-major) that `count` selects, without those of held-out rows.
fn of_codes(model: &Autoencoder, codes: &[f32], count: &[bool]) -> Statistics {
    let (mean, covariance) = covariance(codes, model.spec().code_length(), |row| count[row]);
    Statistics {
        code_rows: count.iter().filter(|counts| **counts).count() as u64,
        residual_variance: 0.0,
        code_mean: mean.into_iter().map(|value| value as f32).collect(),
        code_covariance: covariance.into_iter().map(|value| value as f32).collect(),
        curvature: vec![0.0; model.spec().features()],
        calibration: Vec::new(),
        invariants: Invariants::default(),
    }
}

fn is_finite(found: &Statistics) -> bool {
    let all = found.calibration.iter().chain(&found.curvature).chain(&found.code_covariance).chain(&found.code_mean);
    all.copied().all(f32::is_finite)
}

/// Calls `figures` with a few rows of `values` (row-major) at a time, so that memory does not grow with the rows.
fn each_part(model: &Autoencoder, values: &[f32], mut figures: impl FnMut(&PanelMatrix) -> Vec<f32>) -> Vec<f32> {
    let features = model.spec().features();
    let mut lanes = PanelMatrix::default();
    let part = |values: &[f32]| {
        lanes.reset(values.len() / features, features);
        lanes.load(0, values);
        figures(&lanes)
    };
    values.chunks(TAPE_ROWS * features).flat_map(part).collect()
}

/// Curvature per feature, as a mean over a few of the `held` rows. All 1 if there are too many features.
fn curvatures(
    scorer: &Scorer,
    model: &Autoencoder,
    rows: &[f32],
    held: &[bool],
    go_on: &mut dyn FnMut() -> Result<(), TrainError>,
) -> Result<Vec<f32>, TrainError> {
    let features = model.spec().features();
    let work = model.spec().flops_per_row().saturating_mul(features as u64);
    if features > CURVATURE_FEATURES_MAX || work > CURVATURE_WORK_MAX {
        return Ok(vec![1.0; features]);
    }
    let wanted = if model.spec().is_linear() { 1 } else { CURVATURE_ROWS };
    let chosen = rows.chunks_exact(features).zip(held).filter(|(_, held)| **held).map(|(row, _)| row).take(wanted);
    let (mut sums, mut count, mut one) = (vec![0.0; features], 0.0, PanelMatrix::zeros(1, features));
    for row in chosen {
        go_on()?;
        one.load(0, row);
        sums.iter_mut().zip(scorer.curvatures(model, &one)).for_each(|(sum, value)| *sum += value);
        count += 1.0;
    }
    Ok(sums.into_iter().map(|sum: f64| (sum / count).max(0.0) as f32).collect())
}

fn scores(scorer: &Scorer, model: &Autoencoder, rows: &[f32], buffers: &mut BufferPool) -> Vec<f32> {
    each_part(model, rows, |rows| {
        let scores = scorer.score(model, rows, buffers);
        let of = (0..rows.rows()).map(|row| scorer.combined([0, 1, 2].map(|j| scores.at(row, j)))).collect();
        buffers.put(scores);
        of
    })
}

/// Finds [`Invariants`] in a stream of rows.
struct Common {
    /// Smallest and largest value per feature, in the units of the input.
    ranges: Vec<(f32, f32)>,
    turns: Option<Turns>,
    /// Complete training rows, row-major, in the units of the input.
    sample: Vec<f32>,
}

impl Common {
    /// For `rows` training rows.
    fn new(rows: u64, features: usize) -> Self {
        let wanted = relations::wanted_rows(rows, features);
        Self {
            ranges: vec![(f32::INFINITY, f32::NEG_INFINITY); features],
            turns: (wanted > 0).then(|| Turns::new(rows, wanted, features)),
            sample: Vec::new(),
        }
    }

    /// Adds a training row.
    fn take(&mut self, row: &[f32]) {
        self.widen(row);
        let wanted = self.turns.as_mut().is_some_and(Turns::next);
        if wanted && row.iter().all(|value| value.is_finite()) {
            self.sample.extend_from_slice(row);
        }
    }

    /// Extends the ranges by any row.
    fn widen(&mut self, row: &[f32]) {
        // Comparisons with NaN (a missing value) are false.
        for ((least, greatest), value) in self.ranges.iter_mut().zip(row) {
            *least = if value < least { *value } else { *least };
            *greatest = if value > greatest { *value } else { *greatest };
        }
    }

    /// `held_out` (row-major, in the units of the input): rows in which relations must hold, too. `by`: the number that
    /// was subtracted from each feature before.
    fn invariants(self, normalizer: &Normalizer, held_out: &[f32], by: Option<&[f64]>) -> Invariants {
        let features = self.ranges.len();
        let constant = self.ranges.iter().enumerate().filter(|(_, (least, greatest))| least == greatest);
        let mut found = Invariants {
            constants: constant.map(|(j, (value, _))| (j, normalizer.value(j, *value))).collect(),
            ..Invariants::default()
        };
        if !self.sample.is_empty() {
            let normalized = |rows: &[f32]| -> Vec<f32> {
                let complete = rows.chunks_exact(features).filter(|row| row.iter().all(|value| value.is_finite()));
                complete.flat_map(|row| row.iter().enumerate().map(|(j, x)| normalizer.value(j, *x))).collect()
            };
            // 32-bit rows are rounded before `by` is subtracted from them.
            let subtracted = |j: usize| by.map_or(0.0, |by| (by[j] / f64::from(normalizer.unit(j))).abs() as f32);
            let shifts: Vec<f32> = (0..features).map(|j| normalizer.shift(j) + subtracted(j)).collect();
            relations::find(&mut found, &normalized(&self.sample), &normalized(held_out), &shifts);
        }
        found
    }
}

/// Selects every `step`-th row: few enough rows, spread over all.
struct Turns {
    step: u64,
    seen: u64,
}

impl Turns {
    /// Selects at most `rows_max` of `rows` rows, and as many as fit [`BYTES_MAX`] with `columns` numbers each.
    fn new(rows: u64, rows_max: u64, columns: usize) -> Self {
        let fit = (BYTES_MAX / (4 * columns)).max(1) as u64;
        Self { step: rows.div_ceil(rows_max.min(fit)).max(1), seen: 0 }
    }

    fn next(&mut self) -> bool {
        self.seen += 1;
        (self.seen - 1).is_multiple_of(self.step)
    }
}

/// Codes and squared errors of some rows.
struct Sample<'a> {
    model: &'a Autoencoder,
    turns: Turns,
    waiting: Vec<f32>,
    /// Row-major.
    codes: Vec<f32>,
    errors: Vec<f32>,
}

impl<'a> Sample<'a> {
    fn new(model: &'a Autoencoder, rows: u64, rows_max: u64, columns: usize) -> Self {
        let turns = Turns::new(rows, rows_max, columns);
        Self { model, turns, waiting: Vec::new(), codes: Vec::new(), errors: Vec::new() }
    }

    fn take(&mut self, row: &[f32], buffers: &mut BufferPool) {
        if self.turns.next() {
            self.waiting.extend_from_slice(row);
            if self.waiting.len() == TAPE_ROWS * row.len() {
                self.flush(buffers);
            }
        }
    }

    fn flush(&mut self, buffers: &mut BufferPool) {
        let features = self.model.spec().features();
        let mut lanes = PanelMatrix::zeros(self.waiting.len() / features, features);
        lanes.load(0, &self.waiting);
        self.waiting.clear();
        let (codes, errors) = self.model.encode_with_errors(&lanes, buffers);
        let first = self.codes.len();
        self.codes.resize(first + codes.rows() * codes.columns(), 0.0);
        codes.store(0..codes.rows(), &mut self.codes[first..]);
        self.errors.extend(errors);
        buffers.put(codes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selected_rows_span_all_rows() {
        for (rows, rows_max) in [(10, 20), (20, 20), (21, 20), (1000, 16), (1, 1)] {
            let mut turns = Turns::new(rows, rows_max, 1);
            let taken: Vec<u64> = (0..rows).filter(|_| turns.next()).collect();
            assert!(taken.len() as u64 <= rows_max && !taken.is_empty(), "{taken:?}");
            let last = taken.last().expect("some");
            assert!(rows - last <= rows.div_ceil(rows_max), "{taken:?} of {rows}");
        }
    }
}
