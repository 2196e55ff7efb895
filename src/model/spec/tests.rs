//! Tests of rejected specifications, and valid ones for the tests of other modules.

use super::*;

/// A valid specification: ELU in hidden layers, linear code and output.
pub(crate) fn raw(widths: &[usize]) -> RawModelSpec {
    let layers = widths.len() - 1;
    let mut encoder_activations = vec![Activation::Elu { alpha: 1.0 }; layers];
    encoder_activations[layers - 1] = Activation::Linear;
    let mut decoder_activations = vec![Activation::Elu { alpha: 1.0 }; layers];
    decoder_activations[0] = Activation::Linear;
    RawModelSpec {
        widths: widths.to_vec(),
        encoder_activations,
        decoder_activations,
        loss: Loss::SquaredError,
        normalization: NormalizationKind::Standardize,
        gain: false,
        feature_names: Vec::new(),
        missing_values: false,
        ordered_code: false,
    }
}

/// No normalization, a linear code and output, and the given activation in hidden layers.
pub(crate) fn plain(widths: &[usize], hidden: Activation) -> ModelSpec {
    let mut raw = raw(widths);
    raw.normalization = NormalizationKind::None;
    let layers = widths.len() - 1;
    raw.encoder_activations[..layers - 1].fill(hidden);
    raw.decoder_activations[1..].fill(hidden);
    ModelSpec::new(raw).expect("a specification")
}

#[track_caller]
fn check_refused(change: impl FnOnce(&mut RawModelSpec), expected: &SpecError, text: &str) {
    let mut wrong = raw(&[4, 3, 2]);
    change(&mut wrong);
    let error = ModelSpec::new(wrong).expect_err("refused");
    assert_eq!(&error, expected);
    assert_eq!(error.to_string(), text);
}

#[test]
fn sixteen_layers_are_allowed_and_seventeen_are_not() {
    assert!(ModelSpec::new(raw(&[3; 17])).is_ok());
    assert_eq!(ModelSpec::new(raw(&[3; 18])), Err(SpecError::WidthCount { got: 18 }));
    check_refused(
        |raw| raw.widths = vec![4],
        &SpecError::WidthCount { got: 1 },
        "widths has 1 numbers, expected 2 to 17 (from the input to the code)",
    );
}

#[test]
fn a_width_is_from_1_to_65536() {
    check_refused(
        |raw| raw.widths[1] = 0,
        &SpecError::Width { index: 1, got: 0 },
        "widths[1] is 0, expected 1 to 65536",
    );
    assert_eq!(ModelSpec::new(raw(&[65_537, 1])), Err(SpecError::Width { index: 0, got: 65_537 }));
    assert!(ModelSpec::new(raw(&[65_536, 1])).is_ok());
}

#[test]
fn parameters_are_bounded() {
    let error = ModelSpec::new(raw(&[65_536; 17])).expect_err("2^36 parameters");
    assert!(matches!(error, SpecError::Parameters { got } if got > 1 << 36), "{error}");
}

#[test]
fn activations_match_the_layers_and_have_valid_parameters() {
    check_refused(
        |raw| raw.encoder_activations.truncate(1),
        &SpecError::ActivationCount { field: "encoder_activations", got: 1, expected: 2 },
        "encoder_activations has 1 entries, expected 2, one per layer",
    );
    for slope in [1.0, -0.1, f32::NAN, f32::INFINITY] {
        let mut wrong = raw(&[4, 2]);
        wrong.decoder_activations[0] = Activation::LeakyRelu { slope };
        assert!(matches!(ModelSpec::new(wrong), Err(SpecError::ActivationParameter { index: 0, .. })), "{slope}");
    }
    for alpha in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        let mut wrong = raw(&[4, 2]);
        wrong.encoder_activations[0] = Activation::Elu { alpha };
        assert!(matches!(ModelSpec::new(wrong), Err(SpecError::ActivationParameter { index: 0, .. })), "{alpha}");
    }
}

#[test]
fn cross_entropy_needs_a_sigmoid_and_unit_interval_data() {
    check_refused(
        |raw| raw.loss = Loss::BinaryCrossEntropy,
        &SpecError::CrossEntropyOutput { got: Activation::Linear },
        "binary cross-entropy needs the sigmoid as decoder_activations[0], got Linear",
    );
    let mut bce = raw(&[4, 2]);
    bce.loss = Loss::BinaryCrossEntropy;
    bce.decoder_activations[0] = Activation::Sigmoid;
    assert_eq!(ModelSpec::new(bce.clone()), Err(SpecError::CrossEntropyStandardize));
    bce.normalization = NormalizationKind::MinMax;
    assert!(ModelSpec::new(bce).is_ok());
}

#[test]
fn a_gain_is_never_on_a_linear_code() {
    let mut deep = raw(&[4, 3, 2]);
    deep.gain = true;
    let spec = ModelSpec::new(deep.clone()).expect("valid");
    assert_eq!([spec.has_gain(0), spec.has_gain(1)], [true, false]);
    deep.encoder_activations[1] = Activation::Tanh;
    assert!(ModelSpec::new(deep).expect("valid").has_gain(1));
    let mut flat = raw(&[4, 2]);
    flat.gain = true;
    assert_eq!(ModelSpec::new(flat), Err(SpecError::GainWithoutEffect));
}

#[test]
fn saturating_hidden_units_without_a_gain_are_noticed() {
    let mut deep = raw(&[4, 3, 2]);
    deep.decoder_activations[0] = Activation::Sigmoid;
    assert!(!ModelSpec::new(deep.clone()).expect("valid").saturates_without_gain());
    deep.decoder_activations[1] = Activation::Tanh;
    assert!(ModelSpec::new(deep.clone()).expect("valid").saturates_without_gain());
    deep.gain = true;
    assert!(!ModelSpec::new(deep).expect("valid").saturates_without_gain());
}

#[test]
fn feature_names_are_none_or_one_per_feature_and_differ() {
    let names = |list: [&str; 4]| list.map(str::to_owned).to_vec();
    let mut good = raw(&[4, 2]);
    good.feature_names = names(["a", "b", "größe", ""]);
    assert!(ModelSpec::new(good).is_ok());
    check_refused(
        |raw| raw.feature_names = vec!["a".into()],
        &SpecError::FeatureNameCount { got: 1, expected: 4 },
        "feature_names has 1 names, expected none or 4, one per feature",
    );
    check_refused(
        |raw| raw.feature_names = names(["a", "b", "a", "d"]),
        &SpecError::FeatureNameTwice { index: 2, first: 0, got: "a".into() },
        "feature_names[2] is \"a\" as is feature_names[0], expected different names",
    );
    check_refused(
        |raw| raw.feature_names = names(["a", "b\n", "c", "d"]),
        &SpecError::FeatureNameControl { index: 1, got: "b\n".into() },
        "feature_names[1] is \"b\\n\", expected no control characters",
    );
    check_refused(
        |raw| raw.feature_names = names(["a", &"b".repeat(201), "c", "d"]),
        &SpecError::FeatureNameBytes { index: 1, got: 201 },
        "feature_names[1] has 201 bytes, expected at most 200",
    );
    let mut wide = raw(&[65_536, 1]);
    wide.feature_names = (0..65_536).map(|i| format!("{i:0>100}")).collect();
    assert_eq!(ModelSpec::new(wide), Err(SpecError::FeatureNamesBytes { got: 6_553_600 }));
}

#[test]
fn tensor_bytes_count_every_tensor_once() {
    let mut deep = raw(&[4, 3, 2]);
    let bytes = |raw: &RawModelSpec| ModelSpec::new(raw.clone()).expect("valid").tensor_bytes();
    // Matrices 12 + 6, encoder biases 3 + 2, decoder biases 4 + 3, normalization 2 x 4.
    assert_eq!(bytes(&deep), 4 * (18 + 5 + 7 + 8));
    deep.normalization = NormalizationKind::None;
    assert_eq!(bytes(&deep), 4 * (18 + 5 + 7));
    deep.gain = true;
    assert_eq!(bytes(&deep), 4 * (18 + 5 + 7 + 3));
    assert_eq!(ModelSpec::new(deep).expect("valid").untied_tensor_bytes(), 4 * (18 + 18 + 5 + 7 + 3));
}

#[test]
fn tying_halves_the_published_deep_autoencoder() {
    let spec = ModelSpec::new(raw(&[784, 1000, 500, 250, 30])).expect("valid");
    let share = spec.tensor_bytes() as f64 / spec.untied_tensor_bytes() as f64;
    assert!(share <= 0.502, "{share}");
    assert_eq!(spec.tensor_bytes(), 5_689_528);
}

#[test]
fn deserializing_checks_too() {
    let spec = ModelSpec::new(raw(&[4, 3, 2])).expect("valid");
    let text = serde_json::to_string(&spec).expect("serializes");
    assert_eq!(serde_json::from_str::<ModelSpec>(&text).expect("valid"), spec);
    let error = serde_json::from_str::<ModelSpec>(&text.replace("[4,3,2]", "[4,0,2]")).expect_err("refused");
    assert!(error.to_string().starts_with("widths[1] is 0"), "{error}");
}
