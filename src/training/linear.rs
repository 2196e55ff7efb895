//! PCA as a model: used if the caller left the choice open and no nonlinear model beats PCA on held-out rows.

use super::init::{ORTHOGONAL_FLOPS_MAX, center, completed, identity, leading, orthogonal_flops};
use crate::model::spec::RawModelSpec;
use crate::model::{Autoencoder, Loss, ModelSpec, Normalizer, TiedLayer};
use crate::numeric::Activation;
use crate::numeric::linalg::Pca;
use crate::numeric::matmul::Weights;
use crate::numeric::rng::{Stream, Use};

/// Largest number of rows for the comparison.
pub(super) const COMPARED_ROWS_MAX: usize = 100_000;
/// Standard errors by which a nonlinear model must be better.
const DEVIATIONS: f64 = 2.0;

/// The linear model of the same widths and normalization that encodes by `pca`. The first rows of the first matrix are
/// the principal directions, and the other matrices pass them on. If every width has room for the code, its squared
/// error is that of PCA. Further hidden units get random directions up to the rank of the matrix, so that every matrix
/// has orthonormal rows or columns, and a pseudo-inverse. If these are too expensive, they stay 0.
pub(super) fn model(like: &ModelSpec, normalizer: Normalizer, pca: &Pca, seed: u64) -> Autoencoder {
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
        let rank = inputs.min(outputs);
        let mut values: Vec<f32> = if l > 0 {
            identity(rank, inputs).into_iter().map(|value| value as f32).collect()
        } else if orthogonal_flops(rank, inputs) <= ORTHOGONAL_FLOPS_MAX {
            completed(directions.concat(), rank, inputs, Stream::new(seed, 0, 0, Use::Weights))
        } else {
            directions.concat().into_iter().map(|value| value as f32).take(rank * inputs).collect()
        };
        values.resize(outputs * inputs, 0.0);
        TiedLayer {
            weight: Weights::from_row_major(outputs, inputs, &values),
            encoder_bias: vec![0.0; outputs],
            decoder_bias: vec![0.0; inputs],
            gain: None,
        }
    });
    let mut tied: Vec<TiedLayer> = tied.collect();
    center(&mut tied[0], pca.mean(), Activation::Linear);
    Autoencoder::new(spec, normalizer, tied)
}

/// Whether to use the linear model, from the squared errors of both models on the same held-out rows. Returns a note
/// with the reason, or `None`. A nonlinear model must be better by twice the standard error of the mean paired
/// difference.
///
/// # Panics
/// If the two do not have one error for each row.
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
        "activations: linear in all layers, from PCA: on {count} held-out rows its squared error is {:.4}, that of \
         the trained model {:.4}; a difference of up to {needed:.4} may be chance",
        mean(linear),
        mean(bent)
    ))
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use super::*;
    use crate::model::spec::tests::plain;
    use crate::model::{Decoder, PseudoInverse};
    use crate::numeric::linalg::{Gram, RowsInTurn};
    use crate::numeric::{BufferPool, PanelMatrix};

    /// 25 rows of 8 features.
    struct Rows(Vec<f64>);

    impl RowsInTurn for Rows {
        fn rows(&self) -> usize {
            self.0.len() / 8
        }
        fn columns(&self) -> usize {
            8
        }
        fn each(&self, found: &mut dyn FnMut(&[f64]) -> ControlFlow<()>) -> ControlFlow<()> {
            self.0.chunks_exact(8).try_for_each(found)
        }
    }

    #[test]
    fn every_matrix_is_orthonormal_and_the_error_is_that_of_pca() {
        let table = Rows((0..200).map(|i| f64::from(i * i % 37) - f64::from(i % 7) * 0.3).collect());
        let pca = Pca::fit(&table, 2, &mut || ControlFlow::Continue(())).expect("goes on");
        let mut expected = 0.0;
        pca.residuals(&table, |_, left| expected += left.iter().map(|x| x * x).sum::<f64>());
        for widths in [&[8, 2][..], &[8, 6, 3, 2], &[8, 20, 10, 2], &[8, 4, 5, 2]] {
            let normalizer = Normalizer::none();
            let model = model(&plain(widths, Activation::Relu), normalizer, &pca, 1);
            for layer in model.layers() {
                assert!(Gram::of(&layer.weight).defect().largest < 1e-5, "{widths:?}");
            }
            let inverse = PseudoInverse::of(&model).expect("it has one");
            let mut rows = PanelMatrix::zeros(25, 8);
            rows.load(0, &table.0.iter().map(|x| *x as f32).collect::<Vec<_>>());
            for decoder in [Decoder::Transpose, Decoder::PseudoInverse(&inverse)] {
                let errors = model.reconstruct(&rows, decoder, &mut BufferPool::default()).squared_errors;
                let got: f64 = errors.into_iter().map(f64::from).sum();
                assert!((got / expected - 1.0).abs() < 1e-4, "{widths:?} {decoder:?}: {got} {expected}");
            }
        }
    }

    #[test]
    fn a_nonlinear_model_must_be_better_by_more_than_chance() {
        let linear: Vec<f64> = (0..100).map(|i| 1.0 + f64::from(i % 10)).collect();
        let scaled = |share: f64| linear.iter().map(|error| share * error).collect::<Vec<_>>();
        assert_eq!(is_enough(&scaled(0.95), &linear), None, "a little better everywhere");
        assert!(is_enough(&scaled(1.0), &linear).is_some());
        assert!(is_enough(&scaled(1.05), &linear).is_some());
        // Equal in the mean up to chance: half the error on some rows, more on others.
        let mixed: Vec<f64> =
            linear.iter().enumerate().map(|(i, e)| if i % 2 == 0 { 0.5 * e } else { 1.45 * e }).collect();
        assert!(is_enough(&mixed, &linear).is_some());
        assert!(is_enough(&[f64::NAN; 3], &[1.0; 3]).is_some());
        assert!(is_enough(&[0.5], &[1.0]).is_none_or(|note| note.contains("linear")));
    }
}
