//! Evaluates a model on rows that it was not trained on.

use rayon::prelude::*;

use super::pca_baseline::Measured;
use super::source::SourceError;
use crate::model::gradient::{TAPE_ROWS, Tape};
use crate::model::{Autoencoder, Evaluation, Loss};

/// Calls its argument with rows (row-major), several at a time.
pub(super) type EachRows<'a> = &'a dyn Fn(&mut dyn FnMut(&[f32]) -> Result<(), SourceError>) -> Result<(), SourceError>;

#[derive(Clone, Debug, Default)]
struct Sums {
    rows: u64,
    loss: f64,
    squared: f64,
    input_units: f64,
    min_share: f64,
    /// Per feature: squared error, and squared distance to a mean. Empty if not requested.
    by_feature: Vec<(f64, f64)>,
}

impl Sums {
    fn add(&mut self, part: Self) {
        self.rows += part.rows;
        self.loss += part.loss;
        self.squared += part.squared;
        self.input_units += part.input_units;
        self.min_share += part.min_share;
        if self.by_feature.is_empty() {
            self.by_feature = part.by_feature;
        } else {
            let both = self.by_feature.iter_mut().zip(part.by_feature);
            both.for_each(|(sum, part)| (sum.0, sum.1) = (sum.0 + part.0, sum.1 + part.1));
        }
    }
}

/// Evaluates a model on some rows, beside the errors of PCA on them. Adds in the order of the rows: the same bits on
/// any number of threads.
pub(super) fn evaluate(
    model: &Autoencoder,
    each: EachRows<'_>,
    pca: &Measured,
    parallel: bool,
) -> Result<Evaluation, SourceError> {
    Ok(sums(model, each, None, parallel)?.evaluation(model, pca))
}

/// [`evaluate`] with the explained share of each feature: 1 - squared error / squared distance to `mean` (d,;
/// normalized space). `None` if a feature does not vary.
pub(super) fn evaluate_features(
    model: &Autoencoder,
    each: EachRows<'_>,
    pca: &Measured,
    mean: &[f64],
    parallel: bool,
) -> Result<(Evaluation, Vec<Option<f32>>), SourceError> {
    let mut sums = sums(model, each, Some(mean), parallel)?;
    let share = |(error, spread): (f64, f64)| {
        let share = 1.0 - error / spread;
        // Four digits keep a report of 65,536 features short.
        let digits = if share.abs() < 1e6 { (share * 1e4).round() / 1e4 } else { share };
        (spread > 0.0).then_some(digits as f32).filter(|share| share.is_finite())
    };
    let shares = std::mem::take(&mut sums.by_feature).into_iter().map(share).collect();
    Ok((sums.evaluation(model, pca), shares))
}

/// The sums over all rows; with sums per feature if `mean` is given.
fn sums(model: &Autoencoder, each: EachRows<'_>, mean: Option<&[f64]>, parallel: bool) -> Result<Sums, SourceError> {
    let width = TAPE_ROWS * model.spec().features();
    let mut sums = Sums::default();
    let mut add = |part: Sums| sums.add(part);
    let mut tape = Tape::new(model.layers().len());
    each(&mut |rows| {
        if parallel {
            let new = || Tape::new(model.layers().len());
            let parts: Vec<Sums> =
                rows.par_chunks(width).map_init(new, |tape, rows| measure(model, tape, rows, mean)).collect();
            parts.into_iter().for_each(&mut add);
        } else {
            rows.chunks(width).map(|rows| measure(model, &mut tape, rows, mean)).for_each(&mut add);
        }
        Ok(())
    })?;
    Ok(sums)
}

impl Sums {
    fn evaluation(&self, model: &Autoencoder, pca: &Measured) -> Evaluation {
        let count = self.rows as f64;
        let squared_error = self.squared / count;
        Evaluation {
            rows: self.rows,
            loss: self.loss / count,
            squared_error,
            squared_error_input_units: self.input_units / count,
            pca_squared_error: pca.squared_error,
            pca_squared_error_input_units: pca.squared_error_input_units,
            explained_variance: explained(squared_error, pca.spread),
            pca_explained_variance: explained(pca.squared_error, pca.spread),
            loss_floor: (model.spec().raw().loss == Loss::BinaryCrossEntropy).then_some(self.min_share / count),
        }
    }
}

/// Squared errors in the normalized space, row by row, of at most `rows_max` rows.
pub(super) fn row_errors(model: &Autoencoder, each: EachRows<'_>, rows_max: usize) -> Result<Vec<f64>, SourceError> {
    let features = model.spec().features();
    let mut tape = Tape::new(model.layers().len());
    let mut errors = Vec::new();
    each(&mut |rows| {
        for rows in rows.chunks(TAPE_ROWS * features) {
            let first = errors.len();
            if first >= rows_max {
                break;
            }
            forward(model, &mut tape, rows);
            errors.resize(first + rows.len() / features, 0.0);
            tape.each_reconstructed(model, |row, _, x, x_hat| {
                errors[first + row] += (f64::from(x) - f64::from(x_hat)).powi(2);
            });
        }
        Ok(())
    })?;
    Ok(errors)
}

fn forward(model: &Autoencoder, tape: &mut Tape, rows: &[f32]) {
    let features = model.spec().features();
    let (lanes, count) = (tape.rows_mut(), rows.len() / features);
    lanes.reset(count, features);
    lanes.load(0, rows);
    model.normalizer().apply(lanes);
    if model.normalizer().takes_missing() {
        model.normalizer().fill_missing(tape.changed_mut());
    }
    tape.forward(model, count);
}

fn measure(model: &Autoencoder, tape: &mut Tape, rows: &[f32], mean: Option<&[f64]>) -> Sums {
    let features = model.spec().features();
    forward(model, tape, rows);
    let mut sums = Sums { rows: (rows.len() / features) as u64, loss: tape.loss(), ..Sums::default() };
    sums.by_feature = mean.map_or_else(Vec::new, |mean| vec![(0.0, 0.0); mean.len()]);
    let cross_entropy = model.spec().raw().loss == Loss::BinaryCrossEntropy;
    tape.each_reconstructed(model, |_, column, x, x_hat| {
        let error = f64::from(x) - f64::from(x_hat);
        sums.squared += error * error;
        sums.input_units += (error * f64::from(model.normalizer().unit(column))).powi(2);
        if cross_entropy {
            sums.min_share += entropy(f64::from(x));
        }
        if let Some(mean) = mean {
            let (errors, spread) = &mut sums.by_feature[column];
            *errors += error * error;
            *spread += (f64::from(x) - mean[column]).powi(2);
        }
    });
    sums
}

/// 1 - error / spread. Rows without spread count as explained if there is no error.
pub(super) fn explained(squared_error: f64, spread: f64) -> f64 {
    if spread > 0.0 { 1.0 - squared_error / spread } else { f64::from(u8::from(squared_error == 0.0)) }
}

/// Entropy of a target in [0, 1], in nats.
fn entropy(x: f64) -> f64 {
    // Held-out rows may leave the range of the training rows slightly.
    let x = x.clamp(0.0, 1.0);
    let part = |p: f64| if p > 0.0 { -p * libm::log(p) } else { 0.0 };
    part(x) + part(1.0 - x)
}
