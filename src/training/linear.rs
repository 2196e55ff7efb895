//! PCA as a model: what a caller who left the choice to us gets where nothing bent is better on held-out rows.

use super::init::{centre, leading};
use crate::model::spec::RawModelSpec;
use crate::model::{Autoencoder, Loss, ModelSpec, Normaliser, TiedLayer};
use crate::numeric::Activation;
use crate::numeric::linalg::Pca;
use crate::numeric::matmul::Weights;

/// Rows on which both are compared, at most.
pub(super) const COMPARED_ROWS_MAX: usize = 100_000;
/// By how many standard errors a bent model must be better.
const DEVIATIONS: f64 = 2.0;

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

/// Whether a linear model is to be taken instead, by the squared errors of both on the same held-out rows: a note that says
/// why. A bent model has to be better by twice the standard error of the mean difference, row against row.
///
/// # Panics
/// If there is not one error of each for each row.
pub(super) fn is_enough(bent: &[f64], linear: &[f64]) -> Option<String> {
    assert_eq!(bent.len(), linear.len(), "both on the same rows");
    let count = bent.len() as f64;
    let mean = |values: &[f64]| values.iter().sum::<f64>() / count;
    let gains: Vec<f64> = linear.iter().zip(bent).map(|(linear, bent)| linear - bent).collect();
    let gain = mean(&gains);
    let variance = gains.iter().map(|one| (one - gain).powi(2)).sum::<f64>() / (count - 1.0).max(1.0);
    let needed = DEVIATIONS * (variance / count).sqrt();
    if gain > needed {
        return None;
    }
    Some(format!(
        "activations: linear throughout, from PCA: on {count} held-out rows its squared error is {:.4}, that of the trained \
         model {:.4}; chance alone makes a difference of {needed:.4}",
        mean(linear),
        mean(bent)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bent_model_must_be_better_by_more_than_chance() {
        let linear: Vec<f64> = (0..100).map(|i| 1.0 + f64::from(i % 10)).collect();
        let scaled = |share: f64| linear.iter().map(|error| share * error).collect::<Vec<_>>();
        assert_eq!(is_enough(&scaled(0.95), &linear), None, "a little better everywhere");
        assert!(is_enough(&scaled(1.0), &linear).is_some());
        assert!(is_enough(&scaled(1.05), &linear).is_some());
        // As good in the mean but for chance: better by a half here, worse there.
        let mixed: Vec<f64> =
            linear.iter().enumerate().map(|(i, e)| if i % 2 == 0 { 0.5 * e } else { 1.45 * e }).collect();
        assert!(is_enough(&mixed, &linear).is_some());
        assert!(is_enough(&[f64::NAN; 3], &[1.0; 3]).is_some());
        assert!(is_enough(&[0.5], &[1.0]).is_none_or(|note| note.contains("linear")));
    }
}
