//! The first weights.

use super::params::Initialisation;
use crate::model::{Autoencoder, ModelSpec, Normaliser, TiedLayer};
use crate::numeric::linalg::orthonormalise_rows;
use crate::numeric::matmul::Weights;
use crate::numeric::rng::{Stream, Use};

/// Floating-point operations of Gram-Schmidt above which orthogonal is not chosen by default: some ten seconds.
const ORTHOGONAL_FLOPS_MAX: f64 = 2e10;

/// Whether orthogonal first weights of this model take no more than moments.
pub fn orthogonal_is_cheap(spec: &ModelSpec) -> bool {
    let flops = |pair: &[usize]| {
        let (small, large) = (pair[0].min(pair[1]) as f64, pair[0].max(pair[1]) as f64);
        4.0 * small * small * large
    };
    spec.raw().widths.windows(2).map(flops).sum::<f64>() <= ORTHOGONAL_FLOPS_MAX
}

/// A model with random matrices, zero biases and gains of 1.
pub fn model(spec: ModelSpec, normaliser: Normaliser, initialisation: Initialisation, seed: u64) -> Autoencoder {
    let layers = spec.raw().widths.windows(2).enumerate().map(|(l, pair)| {
        let (inputs, outputs) = (pair[0], pair[1]);
        let stream = Stream::new(seed, 0, l as u64, Use::Weights);
        TiedLayer {
            weight: Weights::from_row_major(outputs, inputs, &matrix(outputs, inputs, initialisation, stream)),
            encoder_bias: vec![0.0; outputs],
            decoder_bias: vec![0.0; inputs],
            gain: spec.has_gain(l).then(|| vec![1.0; outputs]),
        }
    });
    let layers = layers.collect();
    Autoencoder::new(spec, normaliser, layers)
}

/// Row-major (outputs, inputs).
fn matrix(outputs: usize, inputs: usize, initialisation: Initialisation, mut stream: Stream) -> Vec<f32> {
    let count = outputs * inputs;
    match initialisation {
        Initialisation::He => {
            let deviation = (2.0 / inputs as f64).sqrt();
            (0..count).map(|_| (deviation * stream.normal()) as f32).collect()
        }
        Initialisation::Glorot => {
            // Uniform on (-a, a) has variance a² / 3.
            let bound = (6.0 / (inputs + outputs) as f64).sqrt();
            (0..count).map(|_| (bound * (2.0 * stream.uniform() - 1.0)) as f32).collect()
        }
        Initialisation::Orthogonal => {
            let mut values: Vec<f64> = (0..count).map(|_| stream.normal()).collect();
            if outputs <= inputs {
                orthonormalise_rows(&mut values, inputs);
                values.into_iter().map(|value| value as f32).collect()
            } else {
                // A layer that expands gets orthonormal columns: the rows of the transpose.
                orthonormalise_rows(&mut values, outputs);
                (0..count).map(|i| values[(i % inputs) * outputs + i / inputs] as f32).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variance(values: &[f32]) -> f64 {
        values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / values.len() as f64
    }

    fn draw(outputs: usize, inputs: usize, initialisation: Initialisation) -> Vec<f32> {
        matrix(outputs, inputs, initialisation, Stream::new(1, 0, 0, Use::Weights))
    }

    #[test]
    fn variances_are_as_published() {
        let he = variance(&draw(200, 100, Initialisation::He));
        assert!((he / 0.02 - 1.0).abs() < 0.05, "{he}");
        let glorot = variance(&draw(200, 100, Initialisation::Glorot));
        assert!((glorot / (2.0 / 300.0) - 1.0).abs() < 0.05, "{glorot}");
    }

    #[test]
    fn the_smaller_side_is_orthonormal() {
        for (outputs, inputs) in [(5, 12), (12, 5), (6, 6)] {
            let w = draw(outputs, inputs, Initialisation::Orthogonal);
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
