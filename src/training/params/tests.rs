//! Tests of rejected parameters, by field, and of the defaults.

use proptest::prelude::*;

use super::checks::{BATCH_ROWS_MAX, TIME_BUDGET};
use super::*;
use crate::model::{ModelSpec, SpecError};
use crate::training::value_kind::ValueKind;
use crate::training::{OptimizerKind, ParamError};

fn spec(widths: &[usize]) -> TrainSpec {
    TrainSpec::new("digits".parse().expect("a name"), widths.to_vec())
}

#[track_caller]
fn check_refused(change: impl FnOnce(&mut TrainSpec), field: &str, text: &str) {
    let mut wrong = spec(&[64, 32, 8]);
    change(&mut wrong);
    let error = wrong.check().expect_err("refused");
    assert_eq!((error.field(), error.to_string().as_str()), (field, text));
}

#[track_caller]
fn check_allowed(change: impl FnOnce(&mut TrainSpec)) -> CheckedTrainSpec {
    let mut good = spec(&[64, 32, 8]);
    change(&mut good);
    good.check().expect("allowed")
}

#[test]
fn defaults_are_elu_inside_and_linear_at_the_ends() {
    let checked = check_allowed(|_| ());
    let elu = Activation::Elu { alpha: 1.0 };
    let model = checked.model_spec(checked.normalization(ValueKind::Any));
    assert_eq!(model.raw().encoder_activations, [elu, Activation::Linear]);
    assert_eq!(model.raw().decoder_activations, [Activation::Linear, elu]);
    assert_eq!(model.raw().loss, Loss::SquaredError);
    assert_eq!(model.raw().normalization, NormalizationKind::Standardize);
    assert_eq!(checked.normalization(ValueKind::Pixels { eight_bits: true }), NormalizationKind::UnitInterval);
    assert_eq!(checked.initialization(), Initialization::Orthogonal);
}

#[test]
fn cross_entropy_ends_in_a_sigmoid_and_never_standardizes() {
    let checked = check_allowed(|spec| spec.loss = Some(Loss::BinaryCrossEntropy));
    let model = checked.model_spec(checked.normalization(ValueKind::Any));
    assert_eq!(model.raw().decoder_activations[0], Activation::Sigmoid);
    assert_eq!(model.raw().normalization, NormalizationKind::MinMax);
    check_refused(
        |spec| {
            spec.loss = Some(Loss::BinaryCrossEntropy);
            spec.output_activation = Some(Activation::Linear);
        },
        "output_activation",
        "output_activation is Linear, expected the sigmoid under binary cross-entropy",
    );
    check_refused(
        |spec| {
            spec.loss = Some(Loss::BinaryCrossEntropy);
            spec.decoder_activations = vec![Some(Activation::Tanh), None];
        },
        "decoder_activations",
        "binary cross-entropy needs the sigmoid as decoder_activations[0], got Tanh",
    );
    check_refused(
        |spec| {
            spec.loss = Some(Loss::BinaryCrossEntropy);
            spec.normalization = Some(NormalizationKind::Standardize);
        },
        "normalization",
        &SpecError::CrossEntropyStandardize.to_string(),
    );
}

#[test]
fn activation_lists_fill_their_gaps_with_defaults() {
    let checked = check_allowed(|spec| {
        spec.hidden_activation = Some(Activation::Relu);
        spec.encoder_activations = vec![Some(Activation::Gelu), None];
    });
    let model = checked.model_spec(NormalizationKind::None);
    assert_eq!(model.raw().encoder_activations, [Activation::Gelu, Activation::Linear]);
    assert_eq!(model.raw().decoder_activations, [Activation::Linear, Activation::Relu]);
    check_refused(
        |spec| spec.decoder_activations = vec![None; 3],
        "decoder_activations",
        "decoder_activations has 3 entries, expected 2, one per layer",
    );
    check_refused(
        |spec| {
            spec.encoder_activations = vec![None; 2];
            spec.code_activation = Some(Activation::Tanh);
        },
        "code_activation",
        "code_activation is set together with encoder_activations, expected one of them",
    );
}

#[test]
fn numbers_outside_their_range_are_named() {
    check_refused(
        |spec| spec.epochs = Some(0),
        "epochs",
        "epochs is 0, expected 1 to 100000 (or unset, to choose from the data)",
    );
    check_refused(|spec| spec.batch_rows = Some(65_537), "batch_rows", "batch_rows is 65537, expected 1 to 65536");
    check_refused(|spec| spec.patience_epochs = Some(0), "patience_epochs", "patience_epochs is 0, expected 1 or more");
    check_refused(
        |spec| spec.validation_fraction = Some(0.91),
        "validation_fraction",
        "validation_fraction is 0.91, expected 0 to 0.9",
    );
    for rate in [0.0, -1.0, 1.01, f64::NAN, f64::INFINITY] {
        check_refused(
            |spec| spec.optimizer.learning_rate = Some(rate),
            "optimizer.learning_rate",
            &format!("optimizer.learning_rate is {rate}, expected above 0 and at most 1"),
        );
    }
    check_refused(
        |spec| spec.optimizer.weight_decay = f64::NAN,
        "optimizer.weight_decay",
        "optimizer.weight_decay is NaN, expected 0 to 1",
    );
    check_refused(
        |spec| spec.optimizer.warmup_fraction = Some(-0.1),
        "optimizer.warmup_fraction",
        "optimizer.warmup_fraction is -0.1, expected 0 to 1",
    );
}

#[test]
fn a_mini_batch_fits_into_memory() {
    check_allowed(|spec| spec.batch_rows = Some(BATCH_ROWS_MAX));
    let wide = |spec: &mut TrainSpec| (spec.widths, spec.batch_rows) = (vec![65_536, 2, 65_536], Some(1171));
    let text = "batch_rows is 1171, expected at most 1170 for these widths: \
                more would take over 4 GiB in the forward and backward passes";
    check_refused(wide, "batch_rows", text);
    // Widths that only the base defines.
    let widest = ModelSpec::new(
        check_allowed(|spec| spec.widths = vec![65_536, 2]).spec().raw_model_spec(NormalizationKind::None),
    );
    let mut later = spec(&[]);
    later.base = Some(Base { name: later.model_name.clone(), selector: Selector::Latest, or_fresh: false });
    later.batch_rows = Some(BATCH_ROWS_MAX);
    let later = later.check().expect("allowed as far as is known");
    let refused = later.with_base(&widest.expect("a shape"));
    assert_eq!(refused, Err(ParamError::BatchTooLarge { got: BATCH_ROWS_MAX, expected: 2340 }));
    // The default always fits, even for the widest model.
    check_allowed(|spec| {
        spec.widths = [65_536, 1].repeat(8);
        spec.widths.push(65_536);
        spec.batch_rows = Some(128);
    });
}

#[test]
fn a_recipe_is_checked_by_field() {
    for momentum in [-0.1, 0.999_999_9, f64::NAN] {
        check_refused(
            |spec| spec.optimizer.momentum = Some(momentum),
            "optimizer.momentum",
            &format!("optimizer.momentum is {momentum}, expected 0 to 0.999999"),
        );
    }
    check_refused(
        |spec| {
            spec.optimizer.kind = OptimizerKind::Sgd;
            spec.optimizer.beta2 = Some(0.9);
        },
        "optimizer.beta2",
        "optimizer.beta2 is set, which needs AdamW, got SGD",
    );
    for norm in [0.0, f64::INFINITY, f64::NAN] {
        check_refused(
            |spec| spec.optimizer.gradient_norm_max = Some(norm),
            "optimizer.gradient_norm_max",
            &format!("optimizer.gradient_norm_max is {norm}, expected a finite number above 0"),
        );
    }
    check_refused(
        |spec| {
            spec.optimizer.find_learning_rate = true;
            spec.optimizer.learning_rate = Some(0.1);
        },
        "optimizer.find_learning_rate",
        "optimizer.find_learning_rate is set together with optimizer.learning_rate, expected one of them",
    );
    check_refused(
        |spec| spec.optimizer.retraction_steps = 1_000_001,
        "optimizer.retraction_steps",
        "optimizer.retraction_steps is 1000001, expected 0 to 1000000",
    );
    let loss = |spec: CheckedTrainSpec| spec.model_spec(NormalizationKind::UnitInterval).raw().loss;
    assert_eq!(loss(check_allowed(|_| ())), Loss::BinaryCrossEntropy);
    assert_eq!(loss(check_allowed(|spec| spec.optimizer.retraction_steps = 7)), Loss::SquaredError);
    assert!(check_allowed(|_| ()).may_be_linear());
    assert!(!check_allowed(|spec| spec.optimizer.retraction_steps = 7).may_be_linear());
    assert!(!check_allowed(|spec| spec.regularization.orthogonality = 0.1).may_be_linear());
    assert!(!check_allowed(|spec| spec.regularization.nested_dropout = 0.5).may_be_linear());
    check_allowed(|spec| {
        spec.optimizer.beta2 = Some(0.0);
        spec.optimizer.find_learning_rate = true;
    });
}

#[test]
fn regularization_is_checked_by_field() {
    type Change = fn(&mut Regularization);
    let wrong: [(Change, &str, &str); 9] = [
        (|r| r.nested_dropout = 0.96, "regularization.nested_dropout", "0 to 0.95"),
        (|r| r.nested_dropout = f64::NAN, "regularization.nested_dropout", "0 to 0.95"),
        (|r| r.l2 = -1.0, "regularization.l2", "0 to 1000"),
        (|r| r.activity_l2 = f64::NAN, "regularization.activity_l2", "0 to 1000"),
        (|r| r.orthogonality = -0.1, "regularization.orthogonality", "0 to 1000"),
        (|r| r.orthogonality = f64::INFINITY, "regularization.orthogonality", "0 to 1000"),
        (|r| r.masking = 0.96, "regularization.masking", "0 to 0.95"),
        (|r| r.gaussian = 10.5, "regularization.gaussian", "0 to 10"),
        (|r| r.input_dropout = 1.0, "regularization.input_dropout", "0 to 0.95"),
    ];
    for (change, field, expected) in wrong {
        let mut wrong = spec(&[64, 8]);
        change(&mut wrong.regularization);
        let error = wrong.check().expect_err("refused");
        assert_eq!(error.field(), field);
        assert!(error.to_string().ends_with(&format!(", expected {expected}")), "{error}");
    }
    check_refused(
        |spec| (spec.regularization.masking, spec.regularization.input_dropout) = (0.1, 0.2),
        "regularization.input_dropout",
        "regularization.input_dropout is set together with regularization.masking, expected one of them",
    );
    check_refused(
        |spec| (spec.regularization.trim, spec.patience_epochs) = (0.1, Some(5)),
        "patience_epochs",
        "patience_epochs is set together with regularization.trim, expected one of them",
    );
    check_refused(
        |spec| (spec.regularization.trim, spec.regularization.nested_dropout) = (0.1, 0.5),
        "regularization.nested_dropout",
        "regularization.nested_dropout is set together with regularization.trim, expected one of them",
    );
    check_refused(
        |spec| (spec.widths, spec.regularization.nested_dropout) = (vec![8, 1], 0.5),
        "regularization.nested_dropout",
        "regularization.nested_dropout is set, which needs a code of at least 2 numbers, got 1",
    );
    let noisy = check_allowed(|spec| (spec.regularization.masking, spec.regularization.gaussian) = (0.95, 10.0));
    assert!(noisy.spec().regularization.corrupts());
    assert!(!check_allowed(|spec| spec.regularization.l2 = 1.0).spec().regularization.corrupts());
}

#[test]
fn options_must_fit_the_widths_also_those_of_a_base() {
    let wide = |spec: &mut TrainSpec| (spec.widths, spec.batch_rows) = (vec![5000, 4097, 8], Some(64));
    let orthonormal = |spec: &mut TrainSpec| spec.regularization.orthogonality = 0.1;
    let text = "regularization.orthogonality is set, which needs matrices whose smaller side is at most 4096, got 4097";
    let both = |spec: &mut TrainSpec| {
        wide(spec);
        orthonormal(spec);
    };
    check_refused(both, "regularization.orthogonality", text);
    let retracted = |spec: &mut TrainSpec| {
        wide(spec);
        spec.optimizer.retraction_steps = 10;
    };
    check_refused(
        retracted,
        "optimizer.retraction_steps",
        &text.replace("regularization.orthogonality", "optimizer.retraction_steps"),
    );
    let base = check_allowed(wide).model_spec(NormalizationKind::None);
    let mut later = spec(&[]);
    later.base = Some(Base { name: later.model_name.clone(), selector: Selector::Latest, or_fresh: false });
    orthonormal(&mut later);
    let refused = later.check().expect("allowed as far as is known").with_base(&base).expect_err("refused");
    assert_eq!(refused.to_string(), text);
}

#[test]
fn a_time_budget_replaces_epochs() {
    check_allowed(|spec| spec.time_budget = Some(Duration::from_secs(1)));
    check_allowed(|spec| spec.time_budget = Some(*TIME_BUDGET.end()));
    for (budget, shown) in [(Duration::from_millis(999), "999ms"), (Duration::from_secs(2_592_001), "2592001s")] {
        check_refused(
            |spec| spec.time_budget = Some(budget),
            "time_budget",
            &format!("time_budget is {shown}, expected 1 second to 30 days"),
        );
    }
    check_refused(
        |spec| (spec.time_budget, spec.epochs) = (Some(Duration::from_mins(10)), Some(3)),
        "time_budget",
        "time_budget is set together with epochs, expected one of them",
    );
}

/// Requests as version 0.1.0 wrote them, before there were recipes.
#[test]
fn old_journals_are_read() {
    let text = r#"{"model_name":"digits","widths":[64,8],"hidden_activation":null,"code_activation":null,
        "output_activation":null,"encoder_activations":[],"decoder_activations":[],"loss":null,"normalisation":null,
        "value_range":null,"gain":false,"optimiser":{"learning_rate":0.01,"weight_decay":0.0,"warmup_fraction":null},
        "initialisation":"orthogonal","epochs":5,"batch_rows":null,"validation_fraction":null,"patience_epochs":null,
        "seed":7,"feature_names":[]}"#;
    let mut expected = spec(&[64, 8]);
    expected.optimizer.learning_rate = Some(0.01);
    (expected.initialization, expected.epochs, expected.seed) = (Some(Initialization::Orthogonal), Some(5), 7);
    assert_eq!(serde_json::from_str::<TrainSpec>(text).expect("reads"), expected);
}

#[test]
fn patience_needs_validation_rows() {
    check_refused(
        |spec| {
            spec.patience_epochs = Some(3);
            spec.validation_fraction = Some(0.0);
        },
        "patience_epochs",
        "patience_epochs is set, which needs validation rows, got validation_fraction 0",
    );
}

#[test]
fn a_value_range_ascends_and_needs_the_unit_interval() {
    let checked = check_allowed(|spec| spec.value_range = Some((0.0, 255.0)));
    assert_eq!(checked.normalization(ValueKind::Any), NormalizationKind::UnitInterval);
    for range in [(1.0, 1.0), (1.0, 0.0), (f32::NAN, 1.0), (0.0, f32::INFINITY), (f32::MIN, f32::MAX)] {
        let mut wrong = spec(&[4, 2]);
        wrong.value_range = Some(range);
        assert_eq!(wrong.check().expect_err("refused").field(), "value_range", "{range:?}");
    }
    check_refused(
        |spec| {
            spec.value_range = Some((0.0, 1.0));
            spec.normalization = Some(NormalizationKind::MinMax);
        },
        "value_range",
        "value_range is set, which needs normalization unit interval (or none chosen), got MinMax",
    );
}

#[test]
fn invalid_shapes_are_refused_as_in_a_file() {
    check_refused(
        |spec| spec.widths = Vec::new(),
        "widths",
        "widths has 0 numbers, expected 2 to 17 (from the input to the code)",
    );
    check_refused(
        |spec| {
            spec.widths = vec![64, 8];
            spec.gain = true;
        },
        "gain",
        &SpecError::GainWithoutEffect.to_string(),
    );
    check_refused(
        |spec| spec.feature_names = vec!["a".to_owned()],
        "feature_names",
        "feature_names has 1 names, expected none or 64, one per feature",
    );
    check_refused(
        |spec| spec.hidden_activation = Some(Activation::Elu { alpha: -1.0 }),
        "hidden_activation",
        "hidden_activation is of alpha -1, expected a finite number above 0",
    );
    check_refused(
        |spec| spec.widths = vec![65_536, 4_096],
        "widths",
        &format!("the widths make {} parameters, expected at most 134217728", (1_u64 << 28) + 3 * 65_536 + 4_096),
    );
}

proptest! {
    #[test]
    fn a_spec_survives_a_round_trip_through_json(
        rate in 0.0_f64..=1.0,
        decay in 0.0_f64..=1.0,
        slope in 0.0_f32..1.0,
        low in -1e30_f32..0.0,
        high in 1e-30_f32..1e30,
        seed: u64,
    ) {
        let mut original = spec(&[64, 32, 8]);
        original.optimizer.learning_rate = Some(rate);
        original.optimizer.weight_decay = decay;
        original.optimizer.beta2 = Some(rate);
        original.regularization = Regularization { l2: decay, gaussian: rate, ..Regularization::default() };
        original.time_budget = Some(Duration::from_nanos(seed));
        original.hidden_activation = Some(Activation::LeakyRelu { slope });
        original.encoder_activations = vec![None, Some(Activation::Elu { alpha: slope + 0.5 })];
        original.value_range = Some((low, high));
        original.seed = seed;
        let text = serde_json::to_string(&original).expect("serializes");
        prop_assert_eq!(serde_json::from_str::<TrainSpec>(&text).expect("reads"), original);
    }
}
