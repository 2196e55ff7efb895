//! Initial weights.
//!
//! # From PCA
//! A linear model starts with the error of PCA, and other models start near it. This applies to the layers before the
//! first one that expands (has more outputs than inputs):
//!
//! - The first rows of the first matrix are the principal directions of the normalized training rows, in descending
//!   order of variance: as many as were fitted (the code length), without those of variance 0. Its other rows are
//!   random and orthonormal to them. Its biases subtract the mean row m and add it again: b = -W·m, c = m (logit(m) if
//!   the reconstruction is a sigmoid).
//! - Each following matrix passes these on: its first rows are those of the identity, the others are random and
//!   orthonormal to them.
//! - From the first layer that expands, and without PCA, all matrices are orthogonal. A layer that expands would spread
//!   its inputs over units that are no longer principal directions. See [`pca_note`].
//!
//! PCA uses a library that does not guarantee the order of sums: the same bits on one machine, but not on every
//! machine.

use super::params::Initialization;
use crate::model::{Autoencoder, ModelSpec, Normalizer, TiedLayer};
use crate::numeric::Activation;
use crate::numeric::linalg::{Pca, orthonormalize_rows};
use crate::numeric::matmul::Weights;
use crate::numeric::rng::{Stream, Use};

/// Floating-point operations of Gram-Schmidt above which orthogonal is not the default: about ten seconds.
pub(super) const ORTHOGONAL_FLOPS_MAX: f64 = 2e10;

/// Floating-point operations to make `rows` rows of the given width orthonormal.
pub(super) fn orthogonal_flops(rows: usize, width: usize) -> f64 {
    4.0 * (rows * rows) as f64 * width as f64
}

/// Whether orthogonal initial weights of this model are cheap enough to be the default.
pub fn orthogonal_is_cheap(spec: &ModelSpec) -> bool {
    let flops = |pair: &[usize]| orthogonal_flops(pair[0].min(pair[1]), pair[0].max(pair[1]));
    spec.raw().widths.windows(2).map(flops).sum::<f64>() <= ORTHOGONAL_FLOPS_MAX
}

/// Number of layers, from the first on, that can start from PCA: those before the first that expands.
fn pca_layers(spec: &ModelSpec) -> usize {
    spec.raw().widths.windows(2).take_while(|pair| pair[1] <= pair[0]).count()
}

/// A note if the initialization from PCA does not reach all layers.
pub fn pca_note(spec: &ModelSpec) -> Option<String> {
    let (reached, layers) = (pca_layers(spec), spec.layers());
    (reached < layers).then(|| {
        let pair = &spec.raw().widths[reached..reached + 2];
        let which = if reached == 0 { "in all layers".to_owned() } else { format!("from layer {} on", reached + 1) };
        format!("initialization: orthogonal, not from PCA, {which}: {} to {} expands", pair[0], pair[1])
    })
}

/// A model with random matrices (or matrices from `pca` of the normalized training rows, as above), zero biases and
/// gains of 1.
///
/// # Panics
/// If `pca` is of rows of another width.
pub fn model(
    spec: ModelSpec,
    normalizer: Normalizer,
    initialization: Initialization,
    seed: u64,
    pca: Option<&Pca>,
) -> Autoencoder {
    let pca = pca.filter(|_| initialization == Initialization::Pca && pca_layers(&spec) > 0);
    let directions = pca.map(leading).unwrap_or_default();
    let layers = spec.raw().widths.windows(2).enumerate().map(|(l, pair)| {
        let (inputs, outputs) = (pair[0], pair[1]);
        let stream = Stream::new(seed, 0, l as u64, Use::Weights);
        let values = match pca {
            Some(_) if l < pca_layers(&spec) => {
                let given = if l == 0 { directions.concat() } else { identity(directions.len(), inputs) };
                completed(given, outputs, inputs, stream)
            }
            _ => matrix(outputs, inputs, initialization, stream),
        };
        TiedLayer {
            weight: Weights::from_row_major(outputs, inputs, &values),
            encoder_bias: vec![0.0; outputs],
            decoder_bias: vec![0.0; inputs],
            gain: spec.has_gain(l).then(|| vec![1.0; outputs]),
        }
    });
    let mut layers: Vec<TiedLayer> = layers.collect();
    if let Some(pca) = pca {
        center(&mut layers[0], pca.mean(), spec.raw().decoder_activations[0]);
    }
    Autoencoder::new(spec, normalizer, layers)
}

/// The directions of `pca` with variance, in descending order.
pub(super) fn leading(pca: &Pca) -> Vec<Vec<f64>> {
    let directions = pca.directions();
    let growing = directions.chunks_exact(pca.mean().len());
    growing.rev().filter(|direction| direction.iter().any(|x| *x != 0.0)).map(<[f64]>::to_vec).collect()
}

/// The first `rows` rows of the identity, row-major.
pub(super) fn identity(rows: usize, columns: usize) -> Vec<f64> {
    (0..rows * columns).map(|at| f64::from(u8::from(at / columns == at % columns))).collect()
}

/// Row-major (outputs, inputs), outputs ≤ inputs: the orthonormal rows `given`, as far as they fit, and random rows
/// orthonormal to them.
pub(super) fn completed(mut given: Vec<f64>, outputs: usize, inputs: usize, mut stream: Stream) -> Vec<f32> {
    given.truncate(outputs * inputs);
    given.extend((given.len()..outputs * inputs).map(|_| stream.normal()));
    orthonormalize_rows(&mut given, inputs);
    given.into_iter().map(|value| value as f32).collect()
}

/// Sets the biases that subtract the mean row and add it again.
pub(super) fn center(first: &mut TiedLayer, mean: &[f64], output: Activation) {
    assert_eq!(mean.len(), first.decoder_bias.len(), "PCA of rows as wide as the model's");
    for (o, bias) in first.encoder_bias.iter_mut().enumerate() {
        let along: f64 = mean.iter().enumerate().map(|(i, mean)| f64::from(first.weight.at(o, i)) * mean).sum();
        *bias = -along as f32;
    }
    for (bias, mean) in first.decoder_bias.iter_mut().zip(mean) {
        *bias = match output {
            // A feature that is always 0 or 1 has no finite logit: clamp to what f32 still distinguishes from 0 and 1.
            Activation::Sigmoid => {
                let mean = mean.clamp(1e-6, 1.0 - 1e-6);
                libm::log(mean / (1.0 - mean)) as f32
            }
            _ => *mean as f32,
        };
    }
}

/// Random values of a matrix, row-major (outputs, inputs).
fn matrix(outputs: usize, inputs: usize, initialization: Initialization, mut stream: Stream) -> Vec<f32> {
    let count = outputs * inputs;
    match initialization {
        Initialization::He => {
            let deviation = (2.0 / inputs as f64).sqrt();
            (0..count).map(|_| (deviation * stream.normal()) as f32).collect()
        }
        Initialization::Glorot => {
            // Uniform on (-a, a) has variance a² / 3.
            let bound = (6.0 / (inputs + outputs) as f64).sqrt();
            (0..count).map(|_| (bound * (2.0 * stream.uniform() - 1.0)) as f32).collect()
        }
        // Orthogonal, or a layer that PCA does not reach.
        Initialization::Orthogonal | Initialization::Pca => {
            let mut values: Vec<f64> = (0..count).map(|_| stream.normal()).collect();
            if outputs <= inputs {
                orthonormalize_rows(&mut values, inputs);
                values.into_iter().map(|value| value as f32).collect()
            } else {
                // A layer that expands gets orthonormal columns: the rows of the transpose.
                orthonormalize_rows(&mut values, outputs);
                (0..count).map(|i| values[(i % inputs) * outputs + i / inputs] as f32).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use super::*;
    use crate::model::Decoder;
    use crate::model::NormalizationKind;
    use crate::numeric::linalg::RowsInTurn;
    use crate::numeric::{BufferPool, PanelMatrix};
    use crate::training::TrainSpec;

    fn variance(values: &[f32]) -> f64 {
        values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / values.len() as f64
    }

    fn draw(outputs: usize, inputs: usize, initialization: Initialization) -> Vec<f32> {
        matrix(outputs, inputs, initialization, Stream::new(1, 0, 0, Use::Weights))
    }

    #[test]
    fn variances_are_as_published() {
        let he = variance(&draw(200, 100, Initialization::He));
        assert!((he / 0.02 - 1.0).abs() < 0.05, "{he}");
        let glorot = variance(&draw(200, 100, Initialization::Glorot));
        assert!((glorot / (2.0 / 300.0) - 1.0).abs() < 0.05, "{glorot}");
    }

    struct Table(Vec<f64>, usize);

    impl RowsInTurn for Table {
        fn rows(&self) -> usize {
            self.0.len() / self.1
        }
        fn columns(&self) -> usize {
            self.1
        }
        fn each(&self, found: &mut dyn FnMut(&[f64]) -> ControlFlow<()>) -> ControlFlow<()> {
            self.0.chunks_exact(self.1).try_for_each(found)
        }
    }

    /// Rows away from the origin, with another variance in every column.
    fn table(rows: usize, columns: usize) -> Table {
        let mut stream = Stream::new(5, 0, 0, Use::Sample);
        let mix: Vec<f64> = (0..columns * columns).map(|_| stream.normal()).collect();
        let mut values = Vec::new();
        for _ in 0..rows {
            let z: Vec<f64> = (0..columns).map(|i| stream.normal() / (1.0 + i as f64)).collect();
            values.extend((0..columns).map(|j| 3.0 + (0..columns).map(|i| z[i] * mix[i * columns + j]).sum::<f64>()));
        }
        Table(values, columns)
    }

    fn from_pca(widths: &[usize], activation: Activation, pca: &Pca) -> Autoencoder {
        let mut spec = TrainSpec::new("test".parse().expect("a name"), widths.to_vec());
        spec.hidden_activation = Some(activation);
        let spec = spec.check().expect("valid").model_spec(NormalizationKind::None);
        let normalizer = Normalizer::none();
        model(spec, normalizer, Initialization::Pca, 1, Some(pca))
    }

    fn fitted(table: &Table, k: usize) -> Pca {
        Pca::fit(table, k, &mut || ControlFlow::Continue(())).expect("goes on")
    }

    #[test]
    fn a_linear_model_starts_with_the_error_of_pca() {
        let table = table(300, 12);
        for (widths, k) in [(&[12, 4][..], 4), (&[12, 9, 4], 4), (&[12, 12, 7, 6, 3], 3)] {
            let pca = fitted(&table, k);
            let mut expected = 0.0;
            pca.residuals(&table, |_, left| expected += left.iter().map(|x| x * x).sum::<f64>());
            let model = from_pca(widths, Activation::Linear, &pca);
            let mut rows = PanelMatrix::zeros(300, 12);
            rows.load(0, &table.0.iter().map(|x| *x as f32).collect::<Vec<_>>());
            let errors = model.reconstruct(&rows, Decoder::Transpose, &mut BufferPool::default()).squared_errors;
            let got: f64 = errors.into_iter().map(f64::from).sum();
            assert!((got / expected - 1.0).abs() < 1e-4, "{got} {expected} of {widths:?}");
        }
    }

    #[test]
    fn matrices_from_pca_are_orthonormal_directions_first() {
        let pca = fitted(&table(300, 12), 3);
        let model = from_pca(&[12, 9, 7, 3], Activation::Relu, &pca);
        let directions = pca.directions();
        for l in 0..3 {
            let (w, inputs) = (&model.layers()[l].weight, model.layers()[l].weight.inputs());
            for o in 0..3 {
                for i in 0..inputs {
                    // The directions are in ascending order of variance.
                    let expected = if l == 0 { directions[(2 - o) * 12 + i] } else { f64::from(u8::from(o == i)) };
                    assert!((f64::from(w.at(o, i)) - expected).abs() < 1e-6, "layer {l}");
                }
            }
            for a in 0..w.outputs() {
                for b in 0..w.outputs() {
                    let product: f64 = (0..inputs).map(|i| f64::from(w.at(a, i) * w.at(b, i))).sum();
                    assert!((product - f64::from(u8::from(a == b))).abs() < 1e-6, "layer {l}");
                }
            }
        }
    }

    #[test]
    fn expanding_layers_are_orthogonal_and_noted() {
        let pca = fitted(&table(300, 12), 3);
        let model = from_pca(&[12, 20, 3], Activation::Relu, &pca);
        let note = pca_note(model.spec()).expect("a note");
        assert_eq!(note, "initialization: orthogonal, not from PCA, in all layers: 12 to 20 expands");
        assert!(model.layers()[0].encoder_bias.iter().all(|bias| *bias == 0.0));
        let orthogonal = draw(20, 12, Initialization::Orthogonal);
        assert_eq!(model.layers()[0].weight.to_row_major(), orthogonal);
        let later = from_pca(&[12, 8, 9, 3], Activation::Relu, &pca);
        let note = pca_note(later.spec()).expect("a note");
        assert_eq!(note, "initialization: orthogonal, not from PCA, from layer 2 on: 8 to 9 expands");
        assert_eq!(pca_note(from_pca(&[12, 12, 3], Activation::Relu, &pca).spec()), None);
    }

    /// Directions without variance are zero and are not used.
    #[test]
    fn few_rows_give_few_directions() {
        let pca = fitted(&table(3, 12), 5);
        let model = from_pca(&[12, 5], Activation::Linear, &pca);
        let w = &model.layers()[0].weight;
        for o in 0..5 {
            let norm: f64 = (0..12).map(|i| f64::from(w.at(o, i)).powi(2)).sum();
            assert!((norm - 1.0).abs() < 1e-6, "row {o}: {norm}");
        }
    }

    #[test]
    fn the_smaller_side_is_orthonormal() {
        for (outputs, inputs) in [(5, 12), (12, 5), (6, 6)] {
            let w = draw(outputs, inputs, Initialization::Orthogonal);
            let small = outputs.min(inputs);
            for a in 0..small {
                for b in 0..small {
                    let product: f64 = if outputs <= inputs {
                        (0..inputs).map(|i| f64::from(w[a * inputs + i] * w[b * inputs + i])).sum()
                    } else {
                        (0..outputs).map(|o| f64::from(w[o * inputs + a] * w[o * inputs + b])).sum()
                    };
                    assert!((product - f64::from(u8::from(a == b))).abs() < 1e-6, "{outputs}x{inputs}");
                }
            }
        }
    }
}
