//! Tests of training that starts from the weights of another model.

use super::*;

#[test]
fn training_continues_from_a_model() {
    let mut asked = spec(&[8, 6, 2]);
    (asked.epochs, asked.hidden_activation) = (Some(30), Some(Activation::Elu { alpha: 1.0 }));
    let values = plane(300, 8, 2);
    let first = run_with(asked.clone(), &values);
    let before = first.report.validation.expect("validation rows").loss;
    asked.epochs = Some(3);
    let checked = asked.clone().check().expect("valid");
    let go_on = &mut |_: &Event| Next::GoOn;
    let second = go(&checked, &values, &[], Start::Model(Arc::new(first.model)), 1, go_on).expect("trains");
    let after = second.report.validation.expect("validation rows").loss;
    assert!(after < 1.1 * before, "{after} after {before}");
    let fresh = run_with(asked, &values).report.validation.expect("validation rows").loss;
    assert!(after < 0.8 * fresh, "{after}, from nothing {fresh}");
    let of_base = second.report.base_validation.expect("measured before the first step").loss;
    assert!((of_base - before).abs() < 1e-9 * before, "{of_base}, the base's report says {before}");
}

#[test]
fn a_resumed_training_that_diverges_restarts_from_its_base() {
    let values = plane(300, 8, 2);
    let asked = TrainSpec { epochs: Some(20), ..spec(&[8, 6, 2]) };
    let base = Arc::new(run_with(asked, &values).model);
    let checked = TrainSpec { epochs: Some(2), ..spec(&[8, 6, 2]) }.check().expect("valid");
    let mut once = Interrupted { every: 4, kept: None };
    let stopped = go(&checked, &values, &[], Start::Model(Arc::clone(&base)), 1, &mut once);
    assert_eq!(stopped.expect_err("stopped"), TrainError::Stopped);
    let bytes = once.kept.expect("saved");
    let training: Arc<dyn RowSource> = Arc::new(MemoryRows::new(values.clone(), 8));
    let mut resumed = Trainer::resume(&checked, &training, &[], &bytes, Some(Arc::clone(&base))).expect("resumes");
    resumed.begin_again(&TrainError::NoRows);
    assert_eq!(bits(&resumed.model), bits(&base));
}

#[test]
fn rows_outside_the_unit_interval_of_a_base_are_refused() {
    let mut asked = spec(&[5, 2]);
    (asked.loss, asked.normalization) = (Some(Loss::BinaryCrossEntropy), Some(NormalizationKind::MinMax));
    let base = run(asked, &plane(50, 5, 2), 1).expect("trains").model;
    let mut values = plane(50, 5, 2);
    values[11] = 50.0;
    let checked = TrainSpec { validation_fraction: Some(0.0), ..spec(&[5, 2]) }.check().expect("valid");
    let go_on = &mut |_: &Event| Next::GoOn;
    let error = go(&checked, &values, &[], Start::Model(Arc::new(base)), 1, go_on).expect_err("refused");
    assert!(matches!(&error, TrainError::OutsideBase { row: 3, feature, .. } if feature == "column 2"), "{error}");
}

#[test]
fn the_last_training_decides_whether_codes_are_ordered() {
    let values = plane(100, 8, 2);
    let mut asked = spec(&[8, 6, 3]);
    let mut go_from = |base: Option<Autoencoder>, nested_dropout| {
        asked.regularization.nested_dropout = nested_dropout;
        let start = base.map_or(Start::Fresh, |base| Start::Model(Arc::new(base)));
        let checked = asked.clone().check().expect("valid");
        go(&checked, &values, &[], start, 1, &mut |_: &Event| Next::GoOn).expect("trains").model
    };
    let first = go_from(None, 0.5);
    assert!(first.spec().raw().ordered_code);
    let second = go_from(Some(first), 0.0);
    assert!(!second.spec().raw().ordered_code);
    assert!(go_from(Some(second), 0.5).spec().raw().ordered_code);
}
