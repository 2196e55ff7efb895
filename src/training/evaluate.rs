//! What a model does on rows that it was not trained on.

use rayon::prelude::*;

use super::source::SourceError;
use super::yardstick::Measured;
use crate::model::gradient::{TAPE_ROWS, Tape};
use crate::model::{Autoencoder, Evaluation, Loss};

/// Calls its argument with rows (row-major), some at a time.
pub(super) type EachRows<'a> = &'a dyn Fn(&mut dyn FnMut(&[f32]) -> Result<(), SourceError>) -> Result<(), SourceError>;

#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    rows: u64,
    loss: f64,
    squared: f64,
    input_units: f64,
    floor: f64,
}

/// What the model does on some rows, beside PCA's figures on them. Adds in the order of the rows: the same bits on any
/// number of threads.
pub(super) fn evaluate(
    model: &Autoencoder,
    each: EachRows<'_>,
    pca: &Measured,
    parallel: bool,
) -> Result<Evaluation, SourceError> {
    let width = TAPE_ROWS * model.spec().features();
    let mut sums = Sums::default();
    let mut add = |part: Sums| {
        sums.rows += part.rows;
        sums.loss += part.loss;
        sums.squared += part.squared;
        sums.input_units += part.input_units;
        sums.floor += part.floor;
    };
    let mut tape = Tape::new(model.layers().len());
    each(&mut |rows| {
        if parallel {
            let new = || Tape::new(model.layers().len());
            let parts: Vec<Sums> =
                rows.par_chunks(width).map_init(new, |tape, rows| measure(model, tape, rows)).collect();
            parts.into_iter().for_each(&mut add);
        } else {
            rows.chunks(width).map(|rows| measure(model, &mut tape, rows)).for_each(&mut add);
        }
        Ok(())
    })?;
    let count = sums.rows as f64;
    let squared_error = sums.squared / count;
    Ok(Evaluation {
        rows: sums.rows,
        loss: sums.loss / count,
        squared_error,
        squared_error_input_units: sums.input_units / count,
        pca_squared_error: pca.squared_error,
        pca_squared_error_input_units: pca.squared_error_input_units,
        explained_variance: explained(squared_error, pca.spread),
        pca_explained_variance: explained(pca.squared_error, pca.spread),
        loss_floor: (model.spec().raw().loss == Loss::BinaryCrossEntropy).then_some(sums.floor / count),
    })
}

/// Squared errors, normalised space, row by row, of `rows_max` rows at most.
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
    model.normaliser().apply(lanes);
    if model.normaliser().takes_missing() {
        model.normaliser().fill_missing(tape.changed_mut());
    }
    tape.forward(model, count);
}

fn measure(model: &Autoencoder, tape: &mut Tape, rows: &[f32]) -> Sums {
    let features = model.spec().features();
    forward(model, tape, rows);
    let mut sums = Sums { rows: (rows.len() / features) as u64, loss: tape.loss(), ..Sums::default() };
    let cross_entropy = model.spec().raw().loss == Loss::BinaryCrossEntropy;
    tape.each_reconstructed(model, |_, column, x, x_hat| {
        let error = f64::from(x) - f64::from(x_hat);
        sums.squared += error * error;
        sums.input_units += (error * f64::from(model.normaliser().unit(column))).powi(2);
        if cross_entropy {
            sums.floor += entropy(f64::from(x));
        }
    });
    sums
}

/// 1 - error / spread; rows without any spread are explained if there is no error.
pub(super) fn explained(squared_error: f64, spread: f64) -> f64 {
    if spread > 0.0 { 1.0 - squared_error / spread } else { f64::from(u8::from(squared_error == 0.0)) }
}

/// Of a target in [0, 1], in nats.
fn entropy(x: f64) -> f64 {
    // Held-out rows may leave the range of the training rows a little.
    let x = x.clamp(0.0, 1.0);
    let part = |p: f64| if p > 0.0 { -p * libm::log(p) } else { 0.0 };
    part(x) + part(1.0 - x)
}
