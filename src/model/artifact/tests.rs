//! Tests of the model file: round trips, canonical form, damaged and foreign files.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::model::spec::{RawModelSpec, tests::raw};
use crate::model::{EpochLosses, Invariants, NormalizationKind, Normalizer, SpecError, TiedLayer};
use crate::numeric::Activation;
use crate::numeric::matmul::Weights;

/// Distinct finite numbers.
fn numbers(count: usize, seed: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 31 + seed * 17) % 101) as f32 / 7.0 - 5.0).collect()
}

fn model(raw: RawModelSpec) -> Autoencoder {
    let spec = ModelSpec::new(raw).expect("valid");
    let widths = spec.raw().widths.clone();
    let layer = |l: usize| TiedLayer {
        weight: Weights::from_row_major(widths[l + 1], widths[l], &numbers(widths[l] * widths[l + 1], l)),
        encoder_bias: numbers(widths[l + 1], 100 + l),
        decoder_bias: numbers(widths[l], 200 + l),
        gain: spec.has_gain(l).then(|| numbers(widths[l + 1], 300 + l)),
    };
    let layers = (0..spec.layers()).map(layer).collect();
    let kind = spec.raw().normalization;
    let vector = |values: Vec<f32>| if kind == NormalizationKind::None { Vec::new() } else { values };
    let features = spec.features();
    let fill = if spec.raw().missing_values { numbers(features, 500) } else { Vec::new() };
    let (offset, scale) = (vector(numbers(features, 400)), vector(vec![0.5; features]));
    let normalizer = Normalizer { kind, offset, scale, fill, exact_offset: vec![] };
    Autoencoder::new(spec, normalizer, layers)
}

fn report() -> TrainingReport {
    TrainingReport {
        epochs: vec![EpochLosses {
            squared_error: Some(0.3),
            defects: vec![1e-3, 0.5],
            ..EpochLosses::new(1, 0.1, Some(1e-7))
        }],
        best_epoch: 1,
        seed: u64::MAX,
        notes: vec!["a \"note\"\n".to_owned()],
        ..TrainingReport::default()
    }
}

/// A small model with every kind of tensor.
fn artifact() -> Artifact {
    let mut raw = raw(&[5, 3, 2]);
    raw.gain = true;
    raw.encoder_activations[0] = Activation::LeakyRelu { slope: 0.01 };
    raw.feature_names = ["a", "b", "größe", "\"", "e"].map(str::to_owned).to_vec();
    Artifact { model: model(raw), report: Some(Arc::new(report())), statistics: None, sha256: String::new() }
}

/// The same model, trained on 64-bit rows.
fn wide_artifact() -> Artifact {
    let artifact = artifact();
    let shift: Vec<f64> = (0..5).map(|j| 1e12 + 0.1 + f64::from(j)).collect();
    Artifact { model: artifact.model.with_shift(&shift), ..artifact }
}

#[test]
fn wide_offsets_survive_a_round_trip_and_damage_is_refused() {
    let wide = wide_artifact();
    let bytes = wide.to_bytes();
    let read = Artifact::from_bytes(&bytes).expect("its own file");
    assert_eq!(read.model, wide.model);
    assert!(read.model.normalizer().is_wide());
    assert_eq!(read.to_bytes(), bytes, "one spelling");
    assert_eq!(Artifact::import(&bytes).expect("its own file").model, wide.model);
    for index in (0..100).chain(bytes.len() - 200..bytes.len()) {
        let mut flipped = bytes.clone();
        flipped[index] ^= 1 << (index % 8);
        assert!(Artifact::from_bytes(&flipped).is_err(), "byte {index}");
    }
    // All other tensors are F32.
    let text = String::from_utf8_lossy(&artifact().to_bytes()).into_owned();
    assert!(!text.contains("F64"), "rows of 32 bits have the file that they had");
}

/// Writes a file as another program would: tensors by name, metadata as given.
fn foreign(metadata: Option<&Value>, tensors: &BTreeMap<String, (Vec<usize>, &str, Vec<u8>)>) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    if let Some(metadata) = metadata {
        header.insert("__metadata__".into(), json!({"format": "pt", "halfhitch": metadata.to_string()}));
    }
    let mut data = Vec::new();
    for (name, (shape, dtype, bytes)) in tensors {
        let end = data.len() + bytes.len();
        header.insert(name.clone(), json!({"dtype": dtype, "shape": shape, "data_offsets": [data.len(), end]}));
        data.extend_from_slice(bytes);
    }
    let header = Value::from(header).to_string();
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat()
}

/// The tensors of [`artifact`], for tests that change them.
fn foreign_tensors() -> BTreeMap<String, (Vec<usize>, &'static str, Vec<u8>)> {
    let artifact = artifact();
    let bytes = artifact.to_bytes();
    let shapes = tensors::shapes(&read_header(&bytes, Origin::Store).expect("valid").1);
    let file = SafeTensors::deserialize(&bytes).expect("valid");
    let data = |name: &str| file.tensor(name).expect("there").data().to_vec();
    shapes.into_iter().map(|(name, shape)| (name.clone(), (shape, "F32", data(&name)))).collect()
}

fn foreign_metadata() -> Value {
    json!({"specification": artifact().model.spec()})
}

#[track_caller]
fn check_import_refused(
    change: impl FnOnce(&mut Value, &mut BTreeMap<String, (Vec<usize>, &'static str, Vec<u8>)>),
    expected: &str,
) {
    let (mut metadata, mut tensors) = (foreign_metadata(), foreign_tensors());
    change(&mut metadata, &mut tensors);
    let error = Artifact::import(&foreign(Some(&metadata), &tensors)).expect_err("refused");
    assert!(error.to_string().contains(expected), "{error}");
}

/// Replaces text of the header by text of the same length.
fn exchanged(bytes: &[u8], from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len(), "the header's length stays");
    let at = bytes.windows(from.len()).position(|window| window == from.as_bytes()).expect("there");
    let mut changed = bytes.to_vec();
    changed[at..at + from.len()].copy_from_slice(to.as_bytes());
    changed
}

#[test]
fn an_artifact_survives_a_round_trip_byte_for_byte() {
    let original = artifact();
    let bytes = original.to_bytes();
    let read = Artifact::from_bytes(&bytes).expect("valid");
    assert_eq!(read.model, original.model);
    assert_eq!(read.report, original.report);
    assert_eq!(read.sha256.len(), 64);
    assert_eq!(read.to_bytes(), bytes);
    assert_eq!(Artifact::import(&bytes).expect("valid").sha256, read.sha256);
    assert_eq!(read.model.spec().tensor_bytes() as usize, bytes.len() - header_bytes(&bytes).expect("a header"));
}

fn with_statistics() -> Artifact {
    let original = artifact();
    let (features, code) = (original.model.spec().features(), original.model.spec().code_length());
    let statistics = Statistics {
        code_rows: 100,
        residual_variance: 0.25,
        code_mean: vec![0.5; code],
        code_covariance: (0..code * code).map(|place| if place / code == place % code { 2.0 } else { 0.5 }).collect(),
        curvature: vec![1.0; features],
        calibration: vec![1.0, 2.0, 2.0, 5.5],
        invariants: Invariants {
            constants: vec![(0, 0.0), (features - 1, 1.5)],
            relations: vec![0.5; features],
            centers: vec![-1.0],
            deviations: vec![1e-6],
        },
    };
    Artifact { statistics: Some(statistics), ..original }
}

#[test]
fn missing_value_fills_survive_a_round_trip() {
    use NormalizationKind::{MinMax, None, Standardize, UnitInterval};
    for normalization in [None, Standardize, MinMax, UnitInterval] {
        let mut raw = raw(&[5, 3]);
        (raw.normalization, raw.missing_values) = (normalization, true);
        let original =
            Artifact { model: model(raw), report: Option::None, statistics: Option::None, sha256: String::new() };
        let bytes = original.to_bytes();
        let read = Artifact::from_bytes(&bytes).expect("valid");
        assert_eq!(read.model, original.model);
        assert!(read.model.normalizer().takes_missing());
        assert_eq!(read.model.spec().tensor_bytes() as usize, bytes.len() - header_bytes(&bytes).expect("a header"));
    }
}

#[test]
fn statistics_are_kept() {
    let original = with_statistics();
    let bytes = original.to_bytes();
    let read = Artifact::from_bytes(&bytes).expect("valid");
    assert_eq!(read.statistics, original.statistics);
    assert_eq!(read.to_bytes(), bytes);
    assert_eq!(Artifact::import(&bytes).expect("valid").statistics, original.statistics);
    assert_eq!(Artifact::from_bytes(&artifact().to_bytes()).expect("valid").statistics, None);
}

#[test]
fn invalid_statistics_are_refused() {
    type Change = fn(&mut Statistics);
    let cases: [(Change, &str); 5] = [
        (|s| s.calibration = vec![0.0; 4097], "`calibration_rows` is 4097, expected at most 4096"),
        (|s| s.calibration = vec![2.0, 1.0], "`statistics.calibration` is not ascending"),
        (|s| s.curvature[0] = -1.0, "`statistics.curvature` has a negative number"),
        (|s| s.code_covariance[1] = 7.0, "`statistics.code_covariance` is not symmetric"),
        (|s| s.residual_variance = -0.5, "`residual_variance` is -0.5, expected at least 0"),
    ];
    for (change, expected) in cases {
        let mut wrong = with_statistics();
        change(wrong.statistics.as_mut().expect("some"));
        let bytes = wrong.to_bytes();
        for error in [Artifact::from_bytes(&bytes), Artifact::import(&bytes)].map(|read| read.expect_err("refused")) {
            assert_eq!(error.to_string(), format!("statistics: {expected}"));
        }
    }
    let mut wrong = with_statistics();
    wrong.statistics.as_mut().expect("some").code_mean[0] = f32::NAN;
    let error = Artifact::from_bytes(&wrong.to_bytes()).expect_err("refused");
    assert!(error.to_string().contains("statistics.code_mean has NaN at index 0"), "{error}");
}

#[test]
fn every_normalization_and_depth_survives() {
    use NormalizationKind::{MinMax, None, Standardize, UnitInterval};
    for (layers, normalization) in [(1, None), (2, Standardize), (11, MinMax), (16, UnitInterval)] {
        let mut raw = raw(&vec![3; layers + 1]);
        (raw.normalization, raw.ordered_code) = (normalization, layers == 2);
        let original =
            Artifact { model: model(raw), report: Option::None, statistics: Option::None, sha256: String::new() };
        let read = Artifact::from_bytes(&original.to_bytes()).expect("valid");
        assert_eq!(read.model, original.model);
        assert_eq!(read.report, Option::None);
    }
}

#[test]
fn a_listing_needs_only_the_header() {
    let bytes = artifact().to_bytes();
    let length = header_bytes(&bytes[..8]).expect("a length");
    let (spec, read, sha256) = Artifact::peek(&bytes[..length]).expect("valid");
    assert_eq!(spec, *artifact().model.spec());
    assert_eq!(read, Some(report()));
    assert_eq!(sha256, Artifact::from_bytes(&bytes).expect("valid").sha256);
    assert_eq!(
        Artifact::peek(&bytes[..length - 1]).expect_err("incomplete"),
        ArtifactError::Truncated { got: length as u64 - 1, expected: length as u64 }
    );
}

#[test]
fn the_metadata_is_canonical_json() {
    let bytes = artifact().to_bytes();
    let header = Header::read(&bytes).expect("valid");
    let text = header.metadata.expect("there");
    assert!(text.starts_with(r#"{"format_version":1,"report":{"batch_rows":0,"#), "{text}");
    assert!(text.contains(r#"{"kind":"leaky_relu","slope":0.01}"#), "{text}");
}

#[test]
fn every_flipped_bit_and_changed_header_byte_is_refused() {
    let bytes = artifact().to_bytes();
    let length = header_bytes(&bytes).expect("a header");
    for at in 0..bytes.len() {
        let mut flipped = bytes.clone();
        // In the header every other byte; in the data, which only the checksum protects, every bit.
        let changes: Vec<u8> = if at < length { (1..=255).collect() } else { (0..8).map(|bit| 1 << bit).collect() };
        for change in changes {
            flipped[at] = bytes[at] ^ change;
            assert!(Artifact::from_bytes(&flipped).is_err(), "byte {at} is {:#04x}", flipped[at]);
            // An import may fail or give a valid model, but must not panic.
            let _ = Artifact::import(&flipped);
        }
    }
}

#[test]
fn every_truncation_and_anything_appended_is_refused() {
    let bytes = artifact().to_bytes();
    for length in 0..bytes.len() {
        let error = Artifact::from_bytes(&bytes[..length]).expect_err("truncated");
        assert!(matches!(error, ArtifactError::Truncated { .. }), "{length}: {error}");
        assert_eq!(Artifact::import(&bytes[..length]).expect_err("truncated"), error);
    }
    let (got, expected) = (bytes.len() as u64 + 1, bytes.len() as u64);
    let longer = [bytes, vec![0]].concat();
    assert_eq!(Artifact::from_bytes(&longer).expect_err("longer"), ArtifactError::TrailingBytes { got, expected });
}

#[test]
fn a_false_header_length_is_refused_before_allocation() {
    let mut bytes = artifact().to_bytes();
    bytes[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    let error = Artifact::import(&bytes).expect_err("refused");
    assert_eq!(error, ArtifactError::HeaderLength { got: u64::MAX, max: HEADER_BYTES_MAX });
    bytes[..8].copy_from_slice(&(HEADER_BYTES_MAX as u64).to_le_bytes());
    assert!(matches!(Artifact::import(&bytes), Err(ArtifactError::Truncated { .. })));
}

#[test]
fn swapped_tensors_of_the_same_shape_are_refused() {
    // Names, shapes and data stay the same, so the checksum alone would not detect the change.
    let raw = raw(&[3, 3, 3]);
    let bytes = Artifact { model: model(raw), report: None, statistics: None, sha256: String::new() }.to_bytes();
    let swapped = exchanged(&bytes, "encoder.0.bias", "encoder.9.bias");
    let swapped = exchanged(&swapped, "encoder.1.bias", "encoder.0.bias");
    let swapped = exchanged(&swapped, "encoder.9.bias", "encoder.1.bias");
    assert!(SafeTensors::deserialize(&swapped).is_ok(), "valid to others");
    let error = Artifact::from_bytes(&swapped).expect_err("refused");
    assert_eq!(error, ArtifactError::NotCanonical { what: "the tensors are not in the order of their names" });
}

#[test]
fn a_changed_report_is_refused() {
    let bytes = artifact().to_bytes();
    let error = Artifact::from_bytes(&exchanged(&bytes, r#"best_epoch\":1"#, r#"best_epoch\":2"#));
    assert!(matches!(error, Err(ArtifactError::Checksum { .. })), "{error:?}");
    let error = Artifact::import(&exchanged(&bytes, r#"best_epoch\":1"#, r#"best_epoch\":2"#));
    assert!(matches!(error, Err(ArtifactError::Checksum { .. })), "{error:?}");
}

#[test]
fn an_unknown_format_version_is_named() {
    let bytes = exchanged(&artifact().to_bytes(), r#"format_version\":1"#, r#"format_version\":2"#);
    let error = Artifact::from_bytes(&bytes).expect_err("refused");
    assert_eq!(error.to_string(), "the format version is 2, expected 1");
}

#[test]
fn a_file_from_elsewhere_needs_only_the_specification() {
    let bytes = foreign(Some(&foreign_metadata()), &foreign_tensors());
    let read = Artifact::import(&bytes).expect("valid");
    assert_eq!((&read.model, &read.report, read.sha256.as_str()), (&artifact().model, &None, ""));
    assert_eq!(Artifact::from_bytes(&bytes).expect_err("no checksum"), ArtifactError::NoChecksum);
    let published = Artifact::from_bytes(&read.to_bytes()).expect("valid");
    assert_eq!(published.model, read.model);
}

#[test]
fn a_file_without_metadata_says_what_to_add() {
    let error = Artifact::import(&foreign(None, &foreign_tensors())).expect_err("refused");
    assert!(error.to_string().contains(r#"add `__metadata__` with "halfhitch" and JSON such as {"spec"#), "{error}");
}

#[test]
fn wrong_tensors_are_named() {
    check_import_refused(
        |_, tensors| drop(tensors.remove("decoder.0.gain")),
        "tensor decoder.0.gain is missing, expected shape [3]",
    );
    check_import_refused(
        |_, tensors| drop(tensors.insert("decoder.1.gain".into(), (vec![2], "F32", vec![0; 8]))),
        "tensor \"decoder.1.gain\" is not part of the specification, expected decoder.0.bias, ",
    );
    check_import_refused(
        |_, tensors| tensors.get_mut("encoder.0.weight").expect("there").0 = vec![5, 3],
        "tensor encoder.0.weight has shape [5, 3], expected [3, 5]",
    );
    check_import_refused(
        |_, tensors| drop(tensors.insert("encoder.1.bias".into(), (vec![2], "F16", vec![0; 4]))),
        "tensor encoder.1.bias has type F16, expected F32",
    );
    check_import_refused(
        |_, tensors| tensors.get_mut("encoder.1.bias").expect("there").1 = "Q3_K",
        "tensor encoder.1.bias has type Q3_K, expected F32",
    );
}

#[test]
fn invalid_tensor_values_are_named() {
    for (wrong, text) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf")] {
        check_import_refused(
            |_, tensors| {
                tensors.get_mut("encoder.0.weight").expect("there").2[8..12].copy_from_slice(&wrong.to_le_bytes());
            },
            &format!("tensor encoder.0.weight has {text} at index 2 (row-major), expected a finite number"),
        );
    }
    for wrong in [0.0_f32, -1.0, -0.0] {
        check_import_refused(
            |_, tensors| {
                tensors.get_mut("normalisation.scale").expect("there").2[4..8].copy_from_slice(&wrong.to_le_bytes());
            },
            &format!("normalisation.scale is {wrong} for feature 2, expected a number above 0"),
        );
    }
    let mut poisoned = artifact();
    let mut layers = poisoned.model.layers().to_vec();
    layers[1].decoder_bias[0] = f32::NAN;
    poisoned.model = Autoencoder::new(poisoned.model.spec().clone(), poisoned.model.normalizer().clone(), layers);
    assert!(matches!(Artifact::from_bytes(&poisoned.to_bytes()), Err(ArtifactError::NotFinite { .. })));
}

#[test]
fn wrong_metadata_is_explained() {
    check_import_refused(|metadata, _| *metadata = json!({"spec": {}}), "unknown field `spec`");
    check_import_refused(|metadata, _| *metadata = json!([1]), "the metadata \"halfhitch\" is not valid");
    check_import_refused(
        |metadata, _| metadata["format_version"] = json!("1"),
        "the format version is \"1\", expected 1",
    );
    check_import_refused(
        |metadata, _| metadata["specification"]["widths"] = json!([5, 3]),
        &SpecError::ActivationCount { field: "encoder_activations", got: 2, expected: 1 }.to_string(),
    );
    check_import_refused(|metadata, _| metadata["sha256"] = json!("abc"), "expected abc");
}

#[test]
fn too_many_tensors_or_dimensions_are_refused() {
    check_import_refused(
        |_, tensors| tensors.extend((0..100).map(|i| (format!("t{i}"), (vec![0], "F32", Vec::new())))),
        "more than 76 tensors",
    );
    check_import_refused(
        |_, tensors| tensors.get_mut("encoder.0.bias").expect("there").0 = vec![1; 9],
        "more than 8 dimensions",
    );
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(Artifact::from_bytes(&bytes).is_err());
        prop_assert!(Artifact::import(&bytes).is_err());
        prop_assert!(Artifact::peek(&bytes).is_err());
    }

    #[test]
    fn arbitrary_headers_are_refused(header in "\\{(\"[a-z_\\.]{0,12}\":(\\{|\\[|[0-9]{1,20}|\"F32\"|\\}|,)?){0,9}\\}?") {
        let bytes = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &[0; 64]].concat();
        prop_assert!(Artifact::import(&bytes).is_err());
    }

    #[test]
    fn a_damaged_stretch_is_refused(at: prop::sample::Index, damage in prop::collection::vec(any::<u8>(), 1..64)) {
        let bytes = artifact().to_bytes();
        let mut damaged = bytes.clone();
        let at = at.index(bytes.len());
        for (byte, damage) in damaged[at..].iter_mut().zip(&damage) {
            *byte = *damage;
        }
        prop_assert_eq!(Artifact::from_bytes(&damaged).is_ok(), damaged == bytes);
        if let Ok(imported) = Artifact::import(&damaged) {
            prop_assert!(Artifact::from_bytes(&imported.to_bytes()).is_ok());
        }
    }

    #[test]
    fn any_finite_numbers_survive(
        widths in prop::collection::vec(1_usize..6, 2..5),
        slope in 0.0_f32..1.0,
        values in prop::collection::vec(any::<f32>().prop_filter("finite", |x| x.is_finite()), 36),
    ) {
        let mut raw = raw(&widths);
        raw.decoder_activations[0] = Activation::LeakyRelu { slope };
        let template = model(raw);
        let mut layers = template.layers().to_vec();
        for layer in &mut layers {
            for (weight, value) in layer.weight.panels_mut().iter_mut().zip(&values) {
                *weight = *value;
            }
        }
        let model = Autoencoder::new(template.spec().clone(), template.normalizer().clone(), layers);
        let original = Artifact { model, report: None, statistics: None, sha256: String::new() };
        let read = Artifact::from_bytes(&original.to_bytes()).expect("valid");
        prop_assert_eq!(read.model, original.model);
    }
}
