//! PCA as a model: what a caller who left the choice to us gets where nothing bent is better on held-out rows.

use super::init::{centre, leading};
use crate::model::spec::RawModelSpec;
use crate::model::{Autoencoder, Evaluation, Loss, ModelSpec, Normaliser, TiedLayer};
use crate::numeric::Activation;
use crate::numeric::linalg::Pca;
use crate::numeric::matmul::Weights;

/// By how much a bent model must be better, as a share of the error, on many rows.
const MARGIN: f64 = 0.02;

/// The linear model of the same widths and normalisation that encodes by `pca`: the first rows of the first matrix are the
/// principal directions, the other matrices hand them on, and whatever else there is stays 0. Where every width has room for
/// the code, its squared error is PCA's.
pub(super) fn model(like: &ModelSpec, normaliser: Normaliser, pca: &Pca) -> Autoencoder {
    let like = like.raw();
    let layers = like.widths.len() - 1;
    let spec = ModelSpec::new(RawModelSpec {
        encoder_activations: vec![Activation::Linear; layers],
        decoder_activations: vec![Activation::Linear; layers],
        loss: Loss::SquaredError,
        gain: false,
        ..like.clone()
    })
    .expect("the same shape with fewer conditions");
    let directions = leading(pca);
    let tied = like.widths.windows(2).enumerate().map(|(l, pair)| {
        let (inputs, outputs) = (pair[0], pair[1]);
        let mut values = vec![0.0; outputs * inputs];
        for (o, row) in values.chunks_exact_mut(inputs).take(directions.len()).enumerate() {
            if l == 0 {
                row.iter_mut().zip(&directions[o]).for_each(|(value, direction)| *value = *direction as f32);
            } else if o < inputs {
                row[o] = 1.0;
            }
        }
        TiedLayer {
            weight: Weights::from_row_major(outputs, inputs, &values),
            encoder_bias: vec![0.0; outputs],
            decoder_bias: vec![0.0; inputs],
            gain: None,
        }
    });
    let mut tied: Vec<TiedLayer> = tied.collect();
    centre(&mut tied[0], pca.mean(), Activation::Linear);
    Autoencoder::new(spec, normaliser, tied)
}

/// Whether a linear model is to be taken instead, by both models' figures on the same held-out rows: a note that says why.
///
/// On n rows a mean of squares is known to about 1/√n of itself; a bent model has to be better by that and [`MARGIN`].
pub(super) fn is_enough(bent: &Evaluation, linear: &Evaluation) -> Option<String> {
    let margin = MARGIN + 1.0 / (linear.rows as f64).sqrt();
    let (of_bent, of_linear) = (bent.squared_error, linear.squared_error);
    if of_bent < of_linear * (1.0 - margin) {
        return None;
    }
    Some(format!(
        "activations: linear throughout, from PCA: on {} held-out rows its squared error is {of_linear:.4}, that of the \
         trained model {of_bent:.4}, which is not better by {:.0} %",
        linear.rows,
        100.0 * margin
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(rows: u64, squared_error: f64) -> Evaluation {
        Evaluation {
            rows,
            loss: 0.0,
            squared_error,
            squared_error_input_units: 0.0,
            pca_squared_error: 0.0,
            pca_squared_error_input_units: 0.0,
            explained_variance: 0.0,
            pca_explained_variance: 0.0,
            loss_floor: None,
        }
    }

    #[test]
    fn a_bent_model_must_be_better_by_more_than_chance() {
        for (rows, bent, linear) in [(10_000, 0.96, false), (10_000, 0.98, true), (25, 0.7, false), (25, 0.8, true)] {
            let note = is_enough(&figures(rows, bent), &figures(rows, 1.0));
            assert_eq!(note.is_some(), linear, "{bent} of {rows} rows: {note:?}");
        }
        assert!(is_enough(&figures(100, f64::NAN), &figures(100, 1.0)).is_some());
    }
}
