//! The result of a row has the same bits in any batch and with any instruction set.

use proptest::prelude::*;

use super::*;
use crate::model::spec::{Loss, NormalizationKind, RawModelSpec};
use crate::model::{Decoder, PseudoInverse};
use crate::numeric::kernels::on;
use crate::numeric::rng::{Stream, Use};
use crate::numeric::{Activation, Isa};

fn numbers(stream: &mut Stream, count: usize, size: f64) -> Vec<f32> {
    (0..count).map(|_| (stream.normal() * size) as f32).collect()
}

fn model(widths: &[usize], activation: Activation, gain: bool, normalized: bool, stream: &mut Stream) -> Autoencoder {
    let layers = widths.len() - 1;
    let (mut encoder_activations, mut decoder_activations) = (vec![activation; layers], vec![activation; layers]);
    encoder_activations[layers - 1] = Activation::Linear;
    decoder_activations[0] = Activation::Linear;
    let normalization = if normalized { NormalizationKind::Standardize } else { NormalizationKind::None };
    // A linear code has no gain: with a single layer, a gain is rejected.
    let gain = gain && layers > 1;
    let spec = ModelSpec::new(RawModelSpec {
        widths: widths.to_vec(),
        encoder_activations,
        decoder_activations,
        loss: Loss::SquaredError,
        normalization,
        gain,
        feature_names: vec![],
        missing_values: false,
        ordered_code: false,
    })
    .expect("a valid specification");
    let tied = widths.windows(2).enumerate().map(|(l, pair)| TiedLayer {
        weight: Weights::from_row_major(pair[1], pair[0], &numbers(stream, pair[0] * pair[1], 0.3)),
        encoder_bias: numbers(stream, pair[1], 0.3),
        decoder_bias: numbers(stream, pair[0], 0.3),
        gain: spec.has_gain(l).then(|| numbers(stream, pair[1], 0.5)),
    });
    let tied = tied.collect();
    let features = if normalized { widths[0] } else { 0 };
    let offset = numbers(stream, features, 1.0);
    let scale = numbers(stream, features, 1.0).iter().map(|value| 1.0 + value.abs()).collect();
    Autoencoder::new(spec, Normalizer { kind: normalization, offset, scale, fill: vec![], exact_offset: vec![] }, tied)
}

fn bits(lanes: &PanelMatrix, row: usize) -> Vec<u32> {
    (0..lanes.columns()).map(|column| lanes.at(row, column).to_bits()).collect()
}

/// `count` rows of `x`, starting at row `from`.
fn part(x: &PanelMatrix, from: usize, count: usize) -> PanelMatrix {
    let mut part = PanelMatrix::zeros(count, x.columns());
    for row in 0..count {
        for column in 0..x.columns() {
            *part.at_mut(row, column) = x.at(from + row, column);
        }
    }
    part
}

/// The code, the decoded code, the reconstruction and its errors of every row.
fn results(model: &Autoencoder, x: &PanelMatrix) -> Vec<Vec<u32>> {
    // Reused buffers must not affect the results.
    let mut buffers = BufferPool::default();
    let codes = model.encode(x, &mut buffers);
    let decoded = model.decode(&codes, Decoder::Transpose, &mut buffers);
    let reconstruction = model.reconstruct(x, Decoder::Transpose, &mut buffers);
    // A random matrix may be singular, without a pseudo-inverse.
    let inverse = PseudoInverse::of(model).ok();
    let inverted = inverse.map(|inverse| model.decode(&codes, Decoder::PseudoInverse(&inverse), &mut buffers));
    (0..x.rows())
        .map(|row| {
            let errors = [
                reconstruction.squared_errors[row].to_bits(),
                reconstruction.squared_errors_input_units[row].to_bits(),
            ];
            let inverted = inverted.as_ref().map_or(vec![], |rows| bits(rows, row));
            [bits(&codes, row), bits(&decoded, row), bits(&reconstruction.rows, row), errors.to_vec(), inverted]
                .concat()
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn a_row_has_the_same_bits_in_any_batch_on_any_isa(
        widths in prop::collection::vec(1_usize..80, 2..6),
        activation in prop::sample::select(&Activation::EACH[..]),
        (gain, normalized) in (any::<bool>(), any::<bool>()),
        rows in 1_usize..70,
        cuts in prop::collection::vec(1_usize..40, 1..6),
        seed in any::<u64>(),
    ) {
        let mut stream = Stream::new(seed, 0, 0, Use::Weights);
        let model = model(&widths, activation, gain, normalized, &mut stream);
        let mut x = PanelMatrix::zeros(rows, widths[0]);
        for row in 0..rows {
            for column in 0..widths[0] {
                *x.at_mut(row, column) = stream.normal() as f32;
            }
        }
        let expected = on(Isa::Portable, || results(&model, &x));
        for isa in Isa::available() {
            prop_assert_eq!(&on(isa, || results(&model, &x)), &expected, "{} rows together, {}", rows, isa);
            let (mut from, mut cuts) = (0, cuts.iter().cycle());
            while from < rows {
                let count = cuts.next().copied().unwrap_or(1).min(rows - from);
                let got = on(isa, || results(&model, &part(&x, from, count)));
                prop_assert_eq!(&got[..], &expected[from..from + count], "rows {}..{}, {}", from, from + count, isa);
                from += count;
            }
        }
    }
}

/// The same model, with fill values for missing values.
fn with_missing(model: &Autoencoder, fill: Vec<f32>) -> Autoencoder {
    let raw = RawModelSpec { missing_values: true, ..model.spec().raw().clone() };
    let normalizer = Normalizer { fill, ..model.normalizer().clone() };
    Autoencoder::new(ModelSpec::new(raw).expect("valid"), normalizer, model.layers().to_vec())
}

#[test]
fn a_missing_value_is_read_as_the_mean_and_has_no_error() {
    for normalized in [false, true] {
        let mut stream = Stream::new(3, 0, 0, Use::Weights);
        let plain = model(&[20, 9, 4], Activation::Elu { alpha: 1.0 }, false, normalized, &mut stream);
        let fill = numbers(&mut stream, 20, 0.5);
        let model = with_missing(&plain, fill.clone());
        let buffers = &mut BufferPool::default();
        let (rows, missing) = (37, |row: usize, column: usize| (row * 7 + column * 3).is_multiple_of(4) || row == 5);
        let (mut whole, mut gaps, mut filled) =
            (PanelMatrix::zeros(rows, 20), PanelMatrix::zeros(rows, 20), PanelMatrix::zeros(rows, 20));
        for row in 0..rows {
            for (column, fill) in fill.iter().enumerate() {
                let value = stream.normal() as f32;
                *whole.at_mut(row, column) = value;
                *gaps.at_mut(row, column) = if missing(row, column) { f32::NAN } else { value };
                // An input with this normalized value.
                let mut one = PanelMatrix::zeros(1, 20);
                *one.at_mut(0, column) = *fill;
                model.normalizer().undo(&mut one);
                *filled.at_mut(row, column) = if missing(row, column) { one.at(0, column) } else { value };
            }
        }
        let near =
            |a: &PanelMatrix, b: &PanelMatrix| a.values().iter().zip(b.values()).all(|(a, b)| (a - b).abs() < 1e-4);
        assert!(near(&model.encode(&gaps, buffers), &plain.encode(&filled, buffers)));
        // Without missing values, the results are the same.
        let (same, plain_codes) = (model.encode(&whole, buffers), plain.encode(&whole, buffers));
        assert!((0..rows).all(|row| bits(&same, row) == bits(&plain_codes, row)));

        let found = model.reconstruct(&gaps, Decoder::Transpose, buffers);
        let (codes, errors) = model.encode_with_errors(&gaps, buffers);
        assert!((0..rows).all(|row| bits(&codes, row) == bits(&model.encode(&gaps, &mut BufferPool::default()), row)));
        for (row, error) in errors.iter().enumerate() {
            let left = (0..20).filter(|column| !missing(row, *column));
            let expected: f32 = left.map(|column| (found.rows.at(row, column) - gaps.at(row, column)).powi(2)).sum();
            let got = found.squared_errors_input_units[row];
            assert!((got - expected).abs() <= 1e-4 * expected, "row {row}: {got} {expected}");
            assert_eq!(found.squared_errors[row].to_bits(), error.to_bits());
        }
        assert_eq!(found.squared_errors[5], 0.0, "nothing is there to be wrong about");

        let imputed = model.impute(&gaps, buffers);
        for row in 0..rows {
            for column in 0..20 {
                let expected = if missing(row, column) { found.rows.at(row, column) } else { gaps.at(row, column) };
                assert_eq!(imputed.at(row, column).to_bits(), expected.to_bits());
            }
            assert_eq!(bits(&model.impute(&part(&gaps, row, 1), buffers), 0), bits(&imputed, row), "alone");
        }
    }
}
