//! Tests of valid and arbitrary messages, and of the fields that errors name.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::pb;
use crate::service::{Initialization, JobId, OptimizerKind, OptimizerSpec, Regularization, Schedule, Selector};

#[test]
fn a_page_names_its_last_entry_until_there_is_no_more() {
    let entries = || ["a", "b", "c"].into_iter();
    let token = |entry: &&str| (*entry).to_owned();
    assert_eq!(page(entries(), 2, token), (vec!["a", "b"], "b".to_owned()));
    assert_eq!(page(entries(), 3, token), (vec!["a", "b", "c"], String::new()));
    assert_eq!(page(entries(), 0, token), (vec!["a", "b", "c"], String::new()));
    assert_eq!(page(std::iter::empty(), 5, token), (vec![], String::new()));
}

#[test]
fn a_reference_without_selector_means_the_newest() {
    let reference = pb::ModelRef { name: "digits".into(), selector: None };
    assert_eq!(model_ref(Some(reference)).expect("valid").1, Selector::Latest);
}

#[track_caller]
fn check_field(result: Result<impl std::fmt::Debug, ServiceError>, expected: &str) {
    match result {
        Err(error) => assert_eq!(error.field().as_deref(), Some(expected), "{error}"),
        Ok(value) => panic!("accepted {value:?}"),
    }
}

#[test]
fn errors_name_the_invalid_field() {
    let reference = |name: &str, selector| Some(pb::ModelRef { name: name.into(), selector });
    check_field(model_ref(None), "model");
    check_field(model_ref(reference("../x", None)), "model.name");
    check_field(model_ref(reference("x", Some(pb::model_ref::Selector::Version(0)))), "model.version");
    check_field(model_ref(reference("x", Some(pb::model_ref::Selector::Alias("7".into())))), "model.alias");
    check_field(matrix("rows", None), "rows");
    check_field(matrix("rows", Some(pb::Matrix { rows: 1, columns: 1, ..pb::Matrix::default() })), "rows");
    check_field(page_token::<JobId>("x"), "page_token");
    check_field(version_token("0"), "page_token");
    check_field(row_role(77), "chunk.role");
    let spec = pb::TrainSpec { model_name: "m".into(), loss: 99, ..Default::default() };
    check_field(train_spec(spec), "spec.loss");
    let spec = pb::TrainSpec { model_name: "m".into(), hidden_activation: -1, ..Default::default() };
    check_field(train_spec(spec), "spec.hidden_activation");
    let optimizing =
        |optimizer| pb::TrainSpec { model_name: "m".into(), optimizer: Some(optimizer), ..Default::default() };
    check_field(train_spec(optimizing(pb::Optimizer { kind: 9, ..Default::default() })), "spec.optimizer.kind");
    let schedule = pb::Optimizer { schedule: -1, ..Default::default() };
    check_field(train_spec(optimizing(schedule)), "spec.optimizer.schedule");
    let time_budget = Some(prost_types::Duration { seconds: -1, nanos: 0 });
    let spec = pb::TrainSpec { model_name: "m".into(), time_budget, ..Default::default() };
    check_field(train_spec(spec), "spec.time_budget");
    for (field, files) in [
        ("separator", pb::ServerFiles { separator: "ab".into(), ..Default::default() }),
        ("decimal", pb::ServerFiles { decimal: "x".into(), ..Default::default() }),
        ("thousands", pb::ServerFiles { thousands: "x".into(), ..Default::default() }),
        ("encoding", pb::ServerFiles { encoding: "klingon".into(), ..Default::default() }),
        ("missing_marks", pb::ServerFiles { missing_marks: vec!["x".into()], ..Default::default() }),
        ("separator", pb::ServerFiles { separator: ",".into(), decimal: ",".into(), ..Default::default() }),
    ] {
        check_field(server_files(files, false), &format!("spec.files.{field}"));
    }
    check_field(server_files(pb::ServerFiles { format: 99, ..Default::default() }, false), "spec.files.format");
}

#[test]
fn a_training_recipe_is_converted_completely() {
    let spec = pb::TrainSpec {
        model_name: "m".into(),
        widths: vec![8, 3],
        initialization: pb::Initialization::Pca.into(),
        optimizer: Some(pb::Optimizer {
            kind: pb::OptimizerKind::Adamw.into(),
            momentum: Some(0.0),
            beta2: Some(0.99),
            schedule: pb::Schedule::Constant.into(),
            gradient_norm_max: Some(1.5),
            find_learning_rate: true,
            retraction_steps: 100,
            ..Default::default()
        }),
        time_budget: Some(prost_types::Duration { seconds: 90, nanos: 500_000_000 }),
        regularization: Some(pb::Regularization {
            l2: 0.1,
            activity_l2: 0.0,
            masking: 0.0,
            gaussian: 0.4,
            input_dropout: 0.5,
            trim: 0.0,
            orthogonality: 0.7,
            nested_dropout: 0.6,
        }),
        ..Default::default()
    };
    let (spec, _) = train_spec(spec).expect("converts");
    let spec = spec.check().expect("valid").spec().clone();
    assert_eq!(spec.initialization, Some(Initialization::Pca));
    assert_eq!(
        spec.optimizer,
        OptimizerSpec {
            kind: OptimizerKind::AdamW,
            momentum: Some(0.0),
            beta2: Some(0.99),
            schedule: Schedule::Constant,
            gradient_norm_max: Some(1.5),
            find_learning_rate: true,
            retraction_steps: 100,
            ..OptimizerSpec::default()
        }
    );
    assert_eq!(spec.time_budget, Some(Duration::from_millis(90_500)));
    assert_eq!(
        spec.regularization,
        Regularization {
            l2: 0.1,
            activity_l2: 0.0,
            orthogonality: 0.7,
            masking: 0.0,
            gaussian: 0.4,
            input_dropout: 0.5,
            trim: 0.0,
            nested_dropout: 0.6
        }
    );
}

proptest! {
    /// No message of any content panics, and a matrix that is accepted has as many values as it says.
    #[test]
    fn accepted_matrices_have_all_their_values(rows in any::<u32>(), columns in any::<u32>(), bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let length = bytes.len();
        let values = Some(pb::matrix::Values::Float32Le(bytes.into()));
        if let Ok(matrix) = matrix("rows", Some(pb::Matrix { rows, columns, values, ..pb::Matrix::default() })) {
            prop_assert_eq!(matrix.rows() * matrix.columns() * 4, length);
        }
    }

    #[test]
    fn small_shapes_are_accepted_exactly_when_they_fit(rows in 0u32..6, columns in 0u32..6, count in 0usize..40) {
        let values = Some(pb::matrix::Values::Floats(pb::FloatList { values: vec![1.0; count] }));
        let fits = rows > 0 && columns > 0 && (rows * columns) as usize == count;
        prop_assert_eq!(matrix("rows", Some(pb::Matrix { rows, columns, values, ..pb::Matrix::default() })).is_ok(), fits);
    }

    /// Bytes that decode as any request convert without a panic.
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        use prost::Message as _;
        if let Ok(spec) = pb::TrainSpec::decode(bytes.as_slice()) {
            let _ = train_spec(spec).map(|(spec, _)| spec.check());
        }
        if let Ok(request) = pb::EncodeRequest::decode(bytes.as_slice()) {
            let _ = model_ref(request.model);
            let _ = matrix("rows", request.rows);
        }
    }

    /// A matrix comes back as it went, in the same form.
    #[test]
    fn responses_use_the_format_of_the_request(values in proptest::collection::vec(any::<f32>(), 1..30), as_bytes in any::<bool>()) {
        let form = if as_bytes {
            pb::matrix::Values::Float32Le(values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>().into())
        } else {
            pb::matrix::Values::Floats(pb::FloatList { values: values.iter().map(|v| if v.is_nan() { 0.0 } else { *v }).collect() })
        };
        let request = pb::Matrix { rows: 1, columns: values.len() as u32, values: Some(form), ..pb::Matrix::default() };
        let response = matrix_answer(matrix("rows", Some(request.clone())).expect("valid"));
        prop_assert_eq!(response, request);
    }
}
