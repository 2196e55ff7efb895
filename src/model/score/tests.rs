use super::*;
use crate::model::{Invariants, Loss, ModelSpec, NormalizationKind, Normalizer, TiedLayer, spec::RawModelSpec};
use crate::numeric::Activation;
use crate::numeric::rng::{Stream, Use};

fn random(count: usize, seed: u64) -> Vec<f32> {
    let mut stream = Stream::new(seed, 0, 0, Use::Weights);
    (0..count).map(|_| stream.normal() as f32).collect()
}

/// Six features through five units to a code of three.
fn model(hidden: Activation, loss: Loss, gain: bool) -> Autoencoder {
    let output = if loss == Loss::BinaryCrossEntropy { Activation::Sigmoid } else { hidden };
    // Cross-entropy requires data in [0, 1].
    let kind =
        if loss == Loss::BinaryCrossEntropy { NormalizationKind::MinMax } else { NormalizationKind::Standardize };
    let spec = ModelSpec::new(RawModelSpec {
        widths: vec![6, 5, 3],
        encoder_activations: vec![hidden, Activation::Linear],
        decoder_activations: vec![output, hidden],
        loss,
        normalization: kind,
        gain,
        feature_names: vec![],
        missing_values: false,
        ordered_code: false,
    })
    .expect("a model");
    let layer = |l: usize, outputs: usize, inputs: usize| TiedLayer {
        weight: Weights::from_row_major(
            outputs,
            inputs,
            &random(outputs * inputs, l as u64 + 1).iter().map(|w| 0.4 * w).collect::<Vec<_>>(),
        ),
        encoder_bias: random(outputs, 11).iter().map(|b| 0.1 * b).collect(),
        decoder_bias: random(inputs, 12).iter().map(|b| 0.1 * b).collect(),
        gain: spec.has_gain(l).then(|| random(outputs, 13).iter().map(|g| 1.0 + 0.1 * g).collect()),
    };
    let layers = vec![layer(0, 5, 6), layer(1, 3, 5)];
    let offset = vec![0.5, -1.0, 0.0, 2.0, 0.0, 0.0];
    let normalizer =
        Normalizer { kind, offset, scale: vec![1.0, 2.0, 0.5, 1.0, 1.0, 1.0], fill: vec![], exact_offset: vec![] };
    Autoencoder::new(spec, normalizer, layers)
}

fn statistics(code_covariance: Vec<f32>) -> Statistics {
    Statistics {
        code_rows: 1_000_000_000,
        residual_variance: 0.25,
        code_mean: vec![0.1, -0.2, 0.3],
        code_covariance,
        curvature: vec![1.0; 6],
        calibration: vec![1.0],
        invariants: Invariants::default(),
    }
}

fn lanes(rows: usize, values: &[f32]) -> PanelMatrix {
    let mut lanes = PanelMatrix::zeros(rows, values.len() / rows);
    lanes.load(0, values);
    lanes
}

const COVARIANCE: [f32; 9] = [2.0, 0.3, 0.1, 0.3, 1.0, -0.2, 0.1, -0.2, 0.5];

#[test]
fn a_score_matches_the_definition() {
    // Independent units of variance 4, 1 and 1/4.
    let model = model(Activation::Linear, Loss::SquaredError, false);
    let mut of = statistics(vec![4.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.25]);
    let scorer = Scorer::new(&of).expect("definite");
    let (rows, buffers) = (lanes(20, &random(120, 3)), &mut BufferPool::default());
    let scores = scorer.score(&model, &rows, buffers);
    let codes = model.encode(&rows, buffers);
    let errors = model.reconstruct(&rows, crate::model::Decoder::Transpose, buffers).squared_errors;
    for (row, error) in errors.iter().enumerate() {
        let centered: Vec<f32> = (0..3).map(|unit| codes.at(row, unit) - of.code_mean[unit]).collect();
        let expected = centered[0].powi(2) / 4.0 + centered[1].powi(2) + centered[2].powi(2) * 4.0;
        let distance = scores.at(row, 1);
        assert!((distance - expected).abs() < 1e-5 * expected.max(1.0), "{distance} {expected}");
        assert_eq!(scores.at(row, 0).to_bits(), error.to_bits());
        let combined = scorer.combined([*error, distance, scores.at(row, 2)]);
        assert!((combined - (distance + error / 0.25)).abs() < 1e-4 * combined.max(1.0));
        assert_eq!(scores.at(row, 2), 0.0, "nothing is known that never changes");
    }
    // A constant unit has the residual variance as its floor.
    of.code_covariance[0] = 0.0;
    let floored = Scorer::new(&of).expect("definite").score(&model, &rows, buffers);
    for row in 0..20 {
        let first = (codes.at(row, 0) - of.code_mean[0]).powi(2) / 0.25;
        let expected = first + (codes.at(row, 1) + 0.2).powi(2) + (codes.at(row, 2) - 0.3).powi(2) * 4.0;
        assert!((floored.at(row, 1) - expected).abs() < 1e-5 * expected.max(1.0));
    }
}

#[test]
fn slopes_match_finite_differences() {
    let cases = [
        (Activation::Linear, Loss::SquaredError, false),
        (Activation::Tanh, Loss::SquaredError, true),
        (Activation::Gelu, Loss::SquaredError, false),
        (Activation::Elu { alpha: 1.0 }, Loss::BinaryCrossEntropy, false),
    ];
    for (hidden, loss, gain) in cases {
        let model = model(hidden, loss, gain);
        let scorer = Scorer::new(&statistics(COVARIANCE.to_vec())).expect("definite");
        let rows = 70;
        let values: Vec<f32> = random(rows * 6, 4).iter().map(|x| 0.5 + 0.2 * x).collect();
        let combined = |values: &[f32]| -> Vec<f64> {
            let scores = scorer.score(&model, &lanes(rows, values), &mut BufferPool::default());
            (0..rows).map(|row| f64::from(scores.at(row, 1)) + f64::from(scores.at(row, 0)) / 0.25).collect()
        };
        let mut slopes = vec![0.0f32; rows * 6];
        scorer.each_slope(&model, &lanes(rows, &values), |row, feature, slope| slopes[row * 6 + feature] = slope);
        for feature in 0..6 {
            // A step in the normalized space.
            let step = 2e-2 * model.normalizer().unit(feature);
            let moved = |by: f32| {
                let mut moved = values.clone();
                moved.iter_mut().skip(feature).step_by(6).for_each(|x| *x += by);
                combined(&moved)
            };
            let (up, down) = (moved(step), moved(-step));
            for row in 0..rows {
                let expected = 0.5 * (up[row] - down[row]) / 4e-2;
                let slope = f64::from(slopes[row * 6 + feature]);
                assert!(
                    (slope - expected).abs() < 2e-2 * expected.abs().max(0.5),
                    "{hidden:?} row {row} feature {feature}: {slope} {expected}"
                );
            }
        }
    }
}

#[test]
fn a_row_has_the_same_figures_in_every_batch() {
    let model = model(Activation::Tanh, Loss::SquaredError, true);
    let scorer = Scorer::new(&statistics(COVARIANCE.to_vec())).expect("definite");
    let values = random(100 * 6, 5);
    let buffers = &mut BufferPool::default();
    let together = scorer.explain(&model, &lanes(100, &values), buffers);
    let scores = scorer.score(&model, &lanes(100, &values), buffers);
    for row in 0..100 {
        let alone = scorer.explain(&model, &lanes(1, &values[row * 6..][..6]), buffers);
        for column in 0..FIGURES + 6 {
            assert_eq!(alone.at(0, column).to_bits(), together.at(row, column).to_bits(), "row {row} column {column}");
        }
        assert_eq!(scores.at(row, 0).to_bits(), together.at(row, 0).to_bits());
        assert_eq!(scores.at(row, 1).to_bits(), together.at(row, 1).to_bits());
    }
}

#[test]
fn an_extreme_feature_contributes_the_most() {
    let model = model(Activation::Linear, Loss::SquaredError, false);
    let scorer = Scorer::new(&statistics(COVARIANCE.to_vec())).expect("definite");
    for feature in 0..6 {
        let mut row = model.normalizer().offset.clone();
        row[feature] -= 50.0;
        let explained = scorer.explain(&model, &lanes(1, &row), &mut BufferPool::default());
        let contributions: Vec<f32> = (0..6).map(|j| explained.at(0, FIGURES + j)).collect();
        let first = (0..6).max_by(|a, b| contributions[*a].abs().total_cmp(&contributions[*b].abs()));
        assert_eq!(first, Some(feature), "{contributions:?}");
        assert!(contributions[feature] < 0.0, "too small a value");
    }
}

#[test]
fn shrinking_keeps_the_trace() {
    let mut values = [2.0, 0.5, 0.5, 1.0];
    shrink(&mut values, 2, 5.0);
    assert!(
        (values[0] + values[3] - 3.0).abs() < 1e-12 && values[1] < 0.5 && values[1].to_bits() == values[2].to_bits()
    );
    // With many rows, the shrinkage is negligible.
    let mut values = [2.0, 0.5, 0.5, 1.0];
    shrink(&mut values, 2, 1e12);
    assert!((values[1] - 0.5).abs() < 1e-9);
}

#[test]
fn constant_units_get_a_variance_floor() {
    let model = model(Activation::Linear, Loss::SquaredError, false);
    let rows = lanes(1, &[1.0; 6]);
    for residual_variance in [0.25, 0.0] {
        let of = Statistics { residual_variance, ..statistics(vec![0.0; 9]) };
        let scorer = Scorer::new(&of).expect("a floor");
        let explained = scorer.explain(&model, &rows, &mut BufferPool::default());
        let codes = model.encode(&rows, &mut BufferPool::default());
        let square = |unit: usize| f64::from(codes.at(0, unit) - of.code_mean[unit]).powi(2);
        let expected = (0..3).map(square).sum::<f64>() / residual_variance.max(RESIDUAL_VARIANCE_MIN);
        assert!((f64::from(explained.at(0, 1)) / expected - 1.0).abs() < 1e-3, "{} {expected}", explained.at(0, 1));
        assert!(explained.values().iter().all(|value| value.is_finite()));
    }
}

#[test]
fn a_slightly_indefinite_covariance_still_scores() {
    // Two units that are equal except for the last place.
    let nearly = 1f32.next_up();
    let of = statistics(vec![1.0, nearly, 0.0, nearly, 1.0, 0.0, 0.0, 0.0, 1.0]);
    let scorer = Scorer::new(&of).expect("a ridge");
    let scores = scorer.score(
        &model(Activation::Linear, Loss::SquaredError, false),
        &lanes(1, &[1.0; 6]),
        &mut BufferPool::default(),
    );
    assert!(scores.values().iter().all(|value| value.is_finite()));
}

#[test]
fn an_extreme_row_has_the_greatest_score_and_names_its_column() {
    let cases = [
        (Activation::Linear, Loss::SquaredError, false),
        (Activation::Tanh, Loss::SquaredError, true),
        (Activation::Gelu, Loss::SquaredError, false),
        (Activation::Elu { alpha: 1.0 }, Loss::BinaryCrossEntropy, false),
    ];
    for (hidden, loss, gain) in cases {
        let model = model(hidden, loss, gain);
        let scorer = Scorer::new(&statistics(COVARIANCE.to_vec())).expect("definite");
        let values: Vec<f32> = random(40 * 6, 4).iter().map(|x| 0.5 + 0.2 * x).collect();
        let buffers = &mut BufferPool::default();
        let clean = scorer.explain(&model, &lanes(40, &values), buffers);
        for extreme in [1e20, -1e30, f32::MAX, f32::MIN, f32::INFINITY] {
            let mut values = values.clone();
            values[17 * 6 + 4] = extreme;
            let explained = scorer.explain(&model, &lanes(40, &values), buffers);
            assert!(explained.values().iter().all(|value| value.is_finite()), "{hidden:?} {extreme}");
            let score = |row: usize| scorer.combined([0, 1, 2].map(|j| explained.at(row, j)));
            assert_eq!(score(17), f32::MAX, "{hidden:?} {extreme}");
            let contribution = |j: usize| explained.at(17, FIGURES + j);
            let first = (0..6).max_by(|a, b| contribution(*a).abs().total_cmp(&contribution(*b).abs()));
            assert_eq!((first, contribution(4) > 0.0), (Some(4), extreme > 0.0), "{hidden:?} {extreme}");
            for row in (0..40).filter(|row| *row != 17) {
                for column in 0..FIGURES + 6 {
                    assert_eq!(explained.at(row, column).to_bits(), clean.at(row, column).to_bits());
                }
            }
        }
    }
}
