//! Tests with missing values.

use super::*;
use crate::training::Regularization;

/// Rows near a plane, with some values missing.
fn gaps(rows: usize, features: usize) -> Vec<f32> {
    let mut values = plane(rows, features, 2);
    values.iter_mut().step_by(5).for_each(|value| *value = f32::NAN);
    values
}

#[test]
fn missing_values_are_left_out_of_losses_and_figures() {
    let missing =
        TrainSpec { missing_values: true, epochs: Some(40), validation_fraction: Some(0.2), ..spec(&[6, 4, 2]) };
    let values = gaps(500, 6);
    let one = run(missing.clone(), &values, 1).expect("trains");
    assert_eq!(bits(&one.model), bits(&run(missing.clone(), &values, 2).expect("trains").model));
    let figures = one.report.validation.expect("rows were held out");
    // Six standardized features, with a fifth of the values missing.
    let spread = figures.squared_error / (1.0 - figures.explained_variance);
    assert!((spread / 4.8 - 1.0).abs() < 0.15, "{spread}");
    assert!(figures.explained_variance > 0.8, "{figures:?}");
    assert!(figures.pca_explained_variance > 0.5 && figures.pca_explained_variance < 1.0, "{figures:?}");
    let notes = &one.report.notes;
    assert!(notes.iter().any(|note| note.starts_with("missing values: 19.88 %")), "{notes:?}");
    assert!(notes.iter().any(|note| note.starts_with("masking: 0.3")), "{notes:?}");
    assert!(one.statistics.is_some_and(|statistics| statistics.calibration.len() == 100));
    // The request can set the share of masked values.
    let asked = TrainSpec { regularization: Regularization { masking: 0.1, ..Default::default() }, ..missing };
    let notes = run(asked, &values, 1).expect("trains").report.notes;
    assert!(!notes.iter().any(|note| note.starts_with("masking")), "{notes:?}");
}

#[test]
fn complete_rows_train_alike_with_missing_values_allowed() {
    let masked = Regularization { masking: 0.2, ..Default::default() };
    let plain = TrainSpec { regularization: masked, ..spec(&[6, 4, 2]) };
    let missing = TrainSpec { missing_values: true, ..plain.clone() };
    let values = plane(300, 6, 2);
    // Standardized features have a mean near 0, the value of masked numbers without missing values.
    let [a, b] = [plain, missing].map(|spec| run(spec, &values, 1).expect("trains").model);
    let near = a.layers()[0]
        .weight
        .to_row_major()
        .iter()
        .zip(b.layers()[0].weight.to_row_major())
        .all(|(a, b)| (a - b).abs() < 1e-3);
    assert!(near);
    assert!(b.normalizer().takes_missing() && !a.normalizer().takes_missing());
}

#[test]
fn a_feature_that_is_always_missing_is_refused_by_its_number() {
    let mut values = plane(50, 4, 2);
    values.iter_mut().skip(2).step_by(4).for_each(|value| *value = f32::NAN);
    let missing = TrainSpec { missing_values: true, ..spec(&[4, 2]) };
    assert_eq!(run(missing, &values, 1).expect_err("refused"), TrainError::NoValues { feature: "column 3".to_owned() });
}

#[test]
fn missing_values_need_a_base_that_takes_them() {
    let base = |takes| {
        let first = TrainSpec { missing_values: takes, ..spec(&[6, 4, 2]) };
        Arc::new(run(first, &plane(300, 6, 2), 1).expect("trains").model)
    };
    let going_on = TrainSpec { missing_values: true, ..spec(&[6, 4, 2]) }.check().expect("valid");
    assert!(going_on.with_base(base(true).spec()).is_ok());
    let refused = going_on.with_base(base(false).spec()).expect_err("refused");
    assert_eq!(
        refused.to_string(),
        "missing_values is set, which needs a base that accepts them, got a base trained without missing values"
    );
    let start = Start::Model(base(true));
    let trained = go(&going_on, &gaps(300, 6), &[], start, 1, &mut |_: &Event| Next::GoOn).expect("trains");
    assert!(trained.model.normalizer().takes_missing() && is_finite(&trained.model));
}

#[test]
fn options_combine_with_missing_values_and_a_base() {
    let values = gaps(300, 8);
    let mut asked = TrainSpec { missing_values: true, gain: true, ..spec(&[8, 12, 6, 3]) };
    (asked.code_activation, asked.epochs) = (Some(Activation::Tanh), Some(4));
    asked.regularization = Regularization { orthogonality: 1.0, nested_dropout: 0.5, l2: 0.01, ..Default::default() };
    (asked.optimizer.retraction_steps, asked.optimizer.gradient_norm_max) = (7, Some(1.0));
    let first = run(asked.clone(), &values, 1).expect("trains").model;
    assert!(bits(&first) == bits(&run(asked.clone(), &values, 2).expect("trains").model));
    let base = Arc::new(first);
    let going_on = TrainSpec { code_activation: None, gain: false, ..asked }.check().expect("valid");
    let start = Start::Model(Arc::clone(&base));
    let trained = go(&going_on, &values, &[], start, 1, &mut |_: &Event| Next::GoOn).expect("trains");
    for model in [&*base, &trained.model] {
        assert!(is_finite(model) && model.spec().raw().ordered_code);
        assert!(defects::of(model).into_iter().all(|defect| defect < 1e-4));
    }
    assert!(bits(&base) != bits(&trained.model));
}
