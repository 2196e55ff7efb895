//! Compares the gradient with finite differences of an independent loss: plain loops in f64 over the same parameters.

use super::*;
use crate::model::TiedLayer;
use crate::model::normalization::Normalizer;
use crate::model::spec::{ModelSpec, NormalizationKind, RawModelSpec};
use crate::numeric::Activation;
use crate::numeric::matmul::Weights;
use crate::numeric::rng::{Stream, Use};

const ROWS: usize = 5;

fn model(widths: &[usize], hidden: Activation, code: Activation, loss: Loss, gain: bool) -> Autoencoder {
    let mut stream = Stream::new(9, 0, 0, Use::Weights);
    let layers = widths.len() - 1;
    let mut encoder_activations = vec![hidden; layers];
    encoder_activations[layers - 1] = code;
    let mut decoder_activations = vec![hidden; layers];
    decoder_activations[0] = if loss == Loss::BinaryCrossEntropy { Activation::Sigmoid } else { Activation::Linear };
    let spec = ModelSpec::new(RawModelSpec {
        widths: widths.to_vec(),
        encoder_activations,
        decoder_activations,
        loss,
        normalization: NormalizationKind::None,
        gain,
        feature_names: vec![],
        missing_values: false,
        ordered_code: false,
    })
    .expect("a valid specification");
    let mut random =
        |count: usize, size: f64| -> Vec<f32> { (0..count).map(|_| (stream.normal() * size) as f32).collect() };
    let tied = widths.windows(2).enumerate().map(|(l, pair)| TiedLayer {
        weight: Weights::from_row_major(pair[1], pair[0], &random(pair[0] * pair[1], 0.5)),
        encoder_bias: random(pair[1], 0.3),
        decoder_bias: random(pair[0], 0.3),
        gain: spec.has_gain(l).then(|| random(pair[1], 0.5).iter().map(|g| 1.0 + g).collect()),
    });
    let tied = tied.collect();
    Autoencoder::new(spec, Normalizer::none(), tied)
}

/// f from its definition, in f64.
fn apply(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::Linear => x,
        Activation::Relu => x.max(0.0),
        Activation::LeakyRelu { slope } => {
            if x > 0.0 {
                x
            } else {
                f64::from(slope) * x
            }
        }
        Activation::Elu { alpha } => {
            if x > 0.0 {
                x
            } else {
                f64::from(alpha) * x.exp_m1()
            }
        }
        Activation::Gelu => x * 0.5 * libm::erfc(-x / std::f64::consts::SQRT_2),
        Activation::Tanh => x.tanh(),
        Activation::Sigmoid => 1.0 / (1.0 + (-x).exp()),
    }
}

/// A layer's parameters in f64.
#[derive(Clone)]
struct Plain {
    weight: Vec<f64>,
    encoder_bias: Vec<f64>,
    decoder_bias: Vec<f64>,
    gain: Vec<f64>,
}

fn plain(model: &Autoencoder) -> Vec<Plain> {
    let wide = |values: &[f32]| values.iter().map(|v| f64::from(*v)).collect::<Vec<_>>();
    let layers = model.layers().iter().map(|layer| Plain {
        weight: wide(&layer.weight.to_row_major()),
        encoder_bias: wide(&layer.encoder_bias),
        decoder_bias: wide(&layer.decoder_bias),
        gain: layer.gain.as_deref().map_or(vec![1.0; layer.encoder_bias.len()], wide),
    });
    layers.collect()
}

/// A tensor of a layer.
type Part = fn(&mut Plain) -> &mut Vec<f64>;

/// Terms of the loss besides the reconstruction error.
#[derive(Clone, Copy, Debug)]
struct Penalty {
    l2: f32,
    activity_l2: f32,
    /// Whether codes are truncated.
    nested: bool,
}

const NONE: Penalty = Penalty { l2: 0.0, activity_l2: 0.0, nested: false };

/// Covers every length, and whole codes.
fn kept(row: usize, code_length: usize) -> usize {
    1 + row % code_length
}

/// The mean loss over the rows, written independently from the definition.
fn loss(model: &Autoencoder, layers: &[Plain], rows: &[f32], penalty: Penalty) -> f64 {
    let raw = model.spec().raw();
    let features = raw.widths[0];
    let mut sum = 0.0;
    for (row, x) in rows.chunks_exact(features).enumerate() {
        let x: Vec<f64> = x.iter().map(|v| f64::from(*v)).collect();
        let mut h = x.clone();
        for (l, layer) in layers.iter().enumerate() {
            let inputs = raw.widths[l];
            h = (0..raw.widths[l + 1])
                .map(|o| {
                    let z: f64 = (0..inputs).map(|i| layer.weight[o * inputs + i] * h[i]).sum();
                    apply(raw.encoder_activations[l], z + layer.encoder_bias[o])
                })
                .collect();
        }
        if penalty.nested {
            let kept = kept(row, h.len());
            h[kept..].fill(0.0);
        }
        sum += f64::from(penalty.activity_l2) * h.iter().map(|code| code * code).sum::<f64>();
        for (l, layer) in layers.iter().enumerate().rev() {
            let inputs = raw.widths[l];
            h = (0..inputs)
                .map(|i| {
                    let z: f64 =
                        (0..raw.widths[l + 1]).map(|o| layer.weight[o * inputs + i] * layer.gain[o] * h[o]).sum();
                    apply(raw.decoder_activations[l], z + layer.decoder_bias[i])
                })
                .collect();
        }
        sum += match raw.loss {
            Loss::SquaredError => x.iter().zip(&h).map(|(x, y)| (x - y).powi(2)).sum::<f64>(),
            Loss::BinaryCrossEntropy => {
                x.iter().zip(&h).map(|(x, y)| -x * y.ln() - (1.0 - x) * (1.0 - y).ln()).sum::<f64>()
            }
        };
    }
    let squares: f64 = layers.iter().flat_map(|layer| &layer.weight).map(|w| w * w).sum();
    sum / (rows.len() / features) as f64 + 2.0 * f64::from(penalty.l2) * squares
}

fn rows(features: usize) -> Vec<f32> {
    let mut stream = Stream::new(4, 0, 0, Use::Sample);
    (0..ROWS * features).map(|_| stream.uniform() as f32).collect()
}

fn gradient(model: &Autoencoder, rows: &[f32], tapes: usize, penalty: Penalty) -> (f64, Gradient) {
    let features = model.spec().features();
    let tapes: Vec<Tape> = rows
        .chunks(ROWS.div_ceil(tapes) * features)
        .enumerate()
        .map(|(index, part)| {
            let mut tape = Tape::new(model.layers().len());
            tape.rows_mut().reset(part.len() / features, features);
            tape.rows_mut().load(0, part);
            if penalty.nested {
                let first = index * ROWS.div_ceil(tapes);
                let rows = first..first + part.len() / features;
                tape.cut_codes(rows.map(|row| kept(row, model.spec().code_length())));
            }
            tape.forward(model, ROWS);
            tape.backward(model, penalty.activity_l2);
            tape
        })
        .collect();
    let mut gradient = Gradient::zeros(model);
    gradient.collect_vectors(&tapes.iter());
    for (l, layer) in model.layers().iter().enumerate() {
        gradient.panels(l).for_each(|mut panel| fill(&mut panel, tapes.iter(), l));
        let pairs = gradient.layers[l].weight.iter_mut().zip(layer.weight.panels());
        pairs.for_each(|(gradient, weight)| *gradient += l2_slope(penalty.l2, *weight));
    }
    (tapes.iter().map(Tape::loss).sum::<f64>() / ROWS as f64, gradient)
}

/// Central differences with a step of 1e-5 are exact to about 1e-9. The gradient is in f32: through a few layers,
/// rounding of values of size 1 gives errors of about 1e-6 of the largest entry. A tolerance of 1e-4 has a margin and
/// detects every mistake.
#[track_caller]
fn check(widths: &[usize], hidden: Activation, code: Activation, kind: Loss, gain: bool) {
    check_with(widths, hidden, code, kind, gain, NONE);
}

#[track_caller]
fn check_with(widths: &[usize], hidden: Activation, code: Activation, kind: Loss, gain: bool, penalty: Penalty) {
    let model = model(widths, hidden, code, kind, gain);
    let rows = rows(widths[0]);
    for tapes in [1, 2] {
        let (value, gradient) = gradient(&model, &rows, tapes, penalty);
        let mut layers = plain(&model);
        let expected = loss(&model, &layers, &rows, Penalty { nested: penalty.nested, ..NONE });
        let case = format!("{widths:?} {hidden:?} {code:?} {kind:?} gain {gain}");
        assert!((value - expected).abs() < 1e-5 * expected, "{case}: loss {value}, expected {expected}");
        for l in 0..layers.len() {
            let mut weight = Weights::zeros(widths[l + 1], widths[l]);
            weight.panels_mut().copy_from_slice(&gradient.layers[l].weight);
            let weight = weight.to_row_major();
            let parts: [(&str, Part, Option<&Vec<f32>>); 4] = [
                ("weight", |layer| &mut layer.weight, Some(&weight)),
                ("encoder bias", |layer| &mut layer.encoder_bias, Some(&gradient.layers[l].encoder_bias)),
                ("decoder bias", |layer| &mut layer.decoder_bias, Some(&gradient.layers[l].decoder_bias)),
                ("gain", |layer| &mut layer.gain, gradient.layers[l].gain.as_ref()),
            ];
            for (name, part, got) in parts {
                let Some(got) = got else { continue };
                let difference = |layers: &mut Vec<Plain>, i: usize| {
                    const STEP: f64 = 1e-5;
                    let middle = part(&mut layers[l])[i];
                    let mut at = |value| {
                        part(&mut layers[l])[i] = value;
                        loss(&model, layers, &rows, penalty)
                    };
                    let slope = (at(middle + STEP) - at(middle - STEP)) / (2.0 * STEP);
                    part(&mut layers[l])[i] = middle;
                    slope
                };
                let expected: Vec<f64> = (0..got.len()).map(|i| difference(&mut layers, i)).collect();
                let largest = expected.iter().fold(1e-3, |most: f64, value| most.max(value.abs()));
                for (i, (got, expected)) in got.iter().zip(&expected).enumerate() {
                    let error = (f64::from(*got) - expected).abs();
                    assert!(error < 1e-4 * largest, "{case}: {name} {l}[{i}] is {got}, expected {expected}");
                }
            }
        }
    }
}

#[test]
fn every_activation_has_the_right_gradient() {
    for hidden in Activation::EACH {
        check(&[6, 5, 4, 2], hidden, Activation::Linear, Loss::SquaredError, false);
        check(&[6, 4, 3], hidden, hidden, Loss::SquaredError, false);
    }
}

#[test]
fn cross_entropy_has_the_right_gradient() {
    for hidden in [Activation::Elu { alpha: 1.0 }, Activation::Gelu, Activation::Tanh] {
        check(&[6, 5, 3], hidden, Activation::Linear, Loss::BinaryCrossEntropy, false);
    }
    check(&[6, 3], Activation::Linear, Activation::Linear, Loss::BinaryCrossEntropy, false);
}

#[test]
fn a_gain_has_the_right_gradient() {
    for hidden in [Activation::Tanh, Activation::Sigmoid, Activation::Gelu] {
        check(&[6, 5, 4, 2], hidden, Activation::Linear, Loss::SquaredError, true);
        check(&[6, 4, 3], hidden, hidden, Loss::BinaryCrossEntropy, true);
        check(&[6, 3], hidden, hidden, Loss::SquaredError, true);
    }
}

#[test]
fn penalties_have_the_right_gradient() {
    for code in [Activation::Linear, Activation::Tanh] {
        let penalty = Penalty { l2: 0.1, activity_l2: 0.3, nested: false };
        check_with(&[6, 4, 3], Activation::Elu { alpha: 1.0 }, code, Loss::SquaredError, true, penalty);
    }
}

#[test]
fn truncated_codes_have_the_right_gradient() {
    for code in [Activation::Linear, Activation::Gelu, Activation::Sigmoid] {
        for penalty in [Penalty { nested: true, ..NONE }, Penalty { nested: true, activity_l2: 0.3, l2: 0.0 }] {
            check_with(&[6, 5, 4], Activation::Elu { alpha: 1.0 }, code, Loss::SquaredError, true, penalty);
            check_with(&[6, 3], Activation::Linear, code, Loss::BinaryCrossEntropy, false, penalty);
        }
    }
}

#[test]
fn expanding_layers_have_the_right_gradient() {
    check(&[4, 9, 6, 2], Activation::Elu { alpha: 1.0 }, Activation::Linear, Loss::SquaredError, false);
    check(&[2, 5], Activation::Linear, Activation::Linear, Loss::SquaredError, false);
}
