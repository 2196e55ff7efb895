use std::sync::{Arc, LazyLock};

use ndarray::{Axis, ShapeBuilder, Slice};
use proptest::prelude::*;

use super::blocks::BLOCK_ROWS;
use super::*;
use crate::model::{Loss, Matrix, Values};
use crate::numeric::matmul::Weights;
use crate::training::{self, Event, MemoryRows, Next, RowSource, Start, TrainSpec};

const FEATURES: usize = 6;
const CODE: usize = 3;

static PLAIN: LazyLock<Model> = LazyLock::new(|| trained(false));
static WITH_GAPS: LazyLock<Model> = LazyLock::new(|| trained(true));
/// A model of rows of 64 bits.
static WIDE: LazyLock<Model> = LazyLock::new(|| {
    let shift: Vec<f64> = (0..FEATURES).map(|j| j as f64 + 0.1).collect();
    let Artifact { model, statistics, .. } = trained(true).artifact;
    Model::from(Artifact { model: model.with_shift(&shift), report: None, statistics, sha256: String::new() })
});

/// Rows near a curve, which `seed` shifts.
fn rows(count: usize, seed: u64) -> Array2<f32> {
    Array2::from_shape_fn((count, FEATURES), |(i, j)| {
        let t = (i as f32 + 0.37 * seed as f32) * 0.61;
        (t * (j + 1) as f32 * 0.23).sin() + 0.3 * (1.7 * t + j as f32).cos()
    })
}

/// Some rows with every seventh value missing.
fn rows_with_gaps(count: usize, seed: u64) -> Array2<f32> {
    let mut rows = rows(count, seed);
    rows.iter_mut().step_by(7).for_each(|value| *value = f32::NAN);
    rows
}

fn spec() -> TrainSpec {
    let mut spec = TrainSpec::new("m".parse().expect("a name"), vec![FEATURES, 8, CODE]);
    spec.epochs = Some(2);
    spec
}

fn trained(missing_values: bool) -> Model {
    let rows = if missing_values { rows_with_gaps(300, 1) } else { rows(300, 1) };
    Model::train(rows.view(), &TrainSpec { missing_values, ..spec() }).expect("trains")
}

fn bits(values: &Array2<f32>) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Calls `check` with views of equal rows and different strides.
fn each_layout(rows: &Array2<f32>, mut check: impl FnMut(ArrayView2<'_, f32>)) {
    check(rows.view());
    let mut turned = Array2::zeros(rows.raw_dim().f());
    turned.assign(rows);
    check(turned.view());
    let transposed = rows.t().as_standard_layout().into_owned();
    check(transposed.t());
    let mut sparse = Array2::from_elem((2 * rows.nrows() + 1, 3 * rows.ncols()), f32::INFINITY);
    let mut every = sparse.view_mut();
    every.slice_axis_inplace(Axis(0), Slice::new(1, None, 2));
    every.slice_axis_inplace(Axis(1), Slice::new(0, None, 3));
    every.assign(rows);
    let mut every = sparse.view();
    every.slice_axis_inplace(Axis(0), Slice::new(1, None, 2));
    every.slice_axis_inplace(Axis(1), Slice::new(0, None, 3));
    check(every);
    let mut reversed = rows.clone();
    reversed.invert_axis(Axis(0));
    reversed.invert_axis(Axis(1));
    let mut reversed = reversed.as_standard_layout().into_owned();
    reversed.invert_axis(Axis(0));
    reversed.invert_axis(Axis(1));
    check(reversed.view());
}

/// Row-major values of all rows of a batch.
fn values_of(batch: &PanelMatrix) -> Vec<u32> {
    let mut values = vec![0.0; batch.rows() * batch.columns()];
    batch.store(0..batch.rows(), &mut values);
    values.iter().map(|value| value.to_bits()).collect()
}

/// The rows as one batch of a server.
fn batch_of(model: &Model, rows: &Array2<f32>) -> PanelMatrix {
    let values: Vec<f32> = rows.iter().copied().collect();
    let matrix = Matrix::new(rows.nrows() as u32, rows.ncols() as u32, Values::from_f32(&values)).expect("a matrix");
    let mut batch = PanelMatrix::zeros(rows.nrows(), rows.ncols());
    match model.space() {
        Space::Input => matrix.load_into(0..rows.nrows(), &mut batch, 0),
        Space::Normalized => {
            matrix.load_normalized_into(0..rows.nrows(), &mut batch, 0, model.autoencoder().normalizer());
        }
    }
    batch
}

#[track_caller]
fn check_same_bits(model: &Model, rows: &Array2<f32>) {
    let batch = batch_of(model, rows);
    let (of_batch, space, mut buffers) = (model.autoencoder(), model.space(), BufferPool::default());
    let codes = of_batch.encode_in(space, &batch, &mut buffers);
    let inverse = Decoder::PseudoInverse(model.pseudo_inverse().expect("no matrix is singular"));
    let [reconstructed, inverted] =
        [Decoder::Transpose, inverse].map(|decoder| of_batch.reconstruct_in(space, &batch, decoder, &mut buffers));
    let scorer = model.scorer.as_ref().expect("rows were held out");
    let figures = match space {
        Space::Input => scorer.score(of_batch, &batch, &mut buffers),
        Space::Normalized => scorer.score_normalized(of_batch, &batch, &mut buffers),
    };
    let explained = match space {
        Space::Input => scorer.explain(of_batch, &batch, &mut buffers),
        Space::Normalized => scorer.explain_normalized(of_batch, &batch, &mut buffers),
    };
    each_layout(rows, |view| {
        assert_eq!(bits(&model.encode(view).expect("encodes")), values_of(&codes));
        for (found, of_batch_alone) in
            [(model.reconstruct(view), &reconstructed), (model.reconstruct_pseudo_inverse(view), &inverted)]
        {
            let found = found.expect("reconstructs");
            assert_eq!(found.squared_errors.to_vec(), of_batch_alone.squared_errors);
            assert_eq!(found.squared_errors_input_units.to_vec(), of_batch_alone.squared_errors_input_units);
            for ((row, column), value) in found.rows.indexed_iter() {
                let computed = of_batch_alone.rows.at(row, column);
                let expected = match space {
                    Space::Input => computed,
                    Space::Normalized => of_batch.normalizer().denormalized(column, computed) as f32,
                };
                assert_eq!(value.to_bits(), expected.to_bits(), "row {row}, column {column}");
            }
        }
        let scores = model.score(view).expect("scores");
        for row in 0..rows.nrows() {
            let [error, distance, changes] = [0, 1, 2].map(|place| figures.at(row, place));
            assert_eq!(scores.squared_errors[row].to_bits(), error.to_bits());
            assert_eq!(scores.code_distances[row].to_bits(), distance.sqrt().to_bits());
            assert_eq!(scores.scores[row].to_bits(), scorer.combined([error, distance, changes]).to_bits());
            assert!(scores.p_values[row] > 0.0 && scores.p_values[row] <= 1.0);
        }
        let explanation = model.explain(view).expect("explains");
        assert_eq!(explanation.scores, scores);
        for ((row, feature), contribution) in explanation.contributions.indexed_iter() {
            assert_eq!(contribution.to_bits(), explained.at(row, FIGURES + feature).to_bits());
        }
    });
    let codes = model.encode(rows.view()).expect("encodes");
    let decoded = bits(&model.decode(codes.view()).expect("decodes"));
    assert_eq!(decoded, bits(&model.reconstruct(rows.view()).expect("reconstructs").rows));
    each_layout(&codes, |view| assert_eq!(bits(&model.decode(view).expect("decodes")), decoded));
    let decoded = model.reconstruct_pseudo_inverse(rows.view()).expect("reconstructs").rows;
    each_layout(&codes, |view| {
        assert_eq!(bits(&model.decode_pseudo_inverse(view).expect("decodes")), bits(&decoded));
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn every_layout_has_the_bits_of_one_batch(count in 1_usize..40, seed in 0_u64..1000) {
        check_same_bits(&PLAIN, &rows(count, seed));
        check_same_bits(&WITH_GAPS, &rows_with_gaps(count, seed));
        check_same_bits(&WIDE, &rows_with_gaps(count, seed));
    }

    #[test]
    fn other_widths_are_refused(count in 0_usize..20, columns in 0_usize..12) {
        let rows = Array2::zeros((count, columns));
        let fits = |got: Result<(), ModelError>, expected: usize| match got {
            Ok(()) => columns == expected,
            Err(ModelError::Columns { got, expected: right, .. }) => got == columns && right == expected && got != right,
            Err(_) => false,
        };
        prop_assert!(fits(PLAIN.encode(rows.view()).map(drop), FEATURES));
        prop_assert!(fits(PLAIN.reconstruct(rows.view()).map(drop), FEATURES));
        prop_assert!(fits(PLAIN.reconstruct_pseudo_inverse(rows.view()).map(drop), FEATURES));
        prop_assert!(fits(PLAIN.score(rows.view()).map(drop), FEATURES));
        prop_assert!(fits(PLAIN.explain(rows.view()).map(drop), FEATURES));
        prop_assert!(fits(WITH_GAPS.impute(rows.view()).map(drop), FEATURES));
        prop_assert!(fits(PLAIN.decode(rows.view()).map(drop), CODE));
        prop_assert!(fits(PLAIN.decode_pseudo_inverse(rows.view()).map(drop), CODE));
    }

    #[test]
    fn imputation_changes_only_missing_values(count in 1_usize..40, seed in 0_u64..1000) {
        let given = rows_with_gaps(count, seed);
        for model in [&*WITH_GAPS, &*WIDE] {
            let reconstructed = model.reconstruct(given.view()).expect("reconstructs").rows;
            each_layout(&given, |view| {
                let whole = model.impute(view).expect("imputes");
                for (index, value) in given.indexed_iter() {
                    let expected = if value.is_nan() { reconstructed[index] } else { *value };
                    assert_eq!(whole[index].to_bits(), expected.to_bits(), "{index:?}");
                }
            });
        }
    }

    #[test]
    fn the_first_value_that_is_not_allowed_is_named(
        (count, at) in (1_usize..40).prop_flat_map(|count| (Just(count), 0..count * FEATURES)),
        wrong in prop::sample::select(vec![f32::NAN, f32::INFINITY, f32::NEG_INFINITY]),
    ) {
        let mut rows = rows(count, 1);
        rows.iter_mut().skip(at).for_each(|value| *value = wrong);
        let expected = format!("value at row {}, column {} is {wrong}", at / FEATURES + 1, at % FEATURES + 1);
        each_layout(&rows, |view| {
            let error = PLAIN.encode(view).expect_err("refused").to_string();
            assert!(error.starts_with(&expected), "{error}");
            assert_eq!(WITH_GAPS.encode(view).is_ok(), wrong.is_nan());
        });
        prop_assert!(Model::train(rows.view(), &spec()).expect_err("refused").to_string().starts_with(&expected));
    }
}

#[test]
fn blocks_are_joined_in_order() {
    check_same_bits(&PLAIN, &rows(2 * BLOCK_ROWS + 17, 3));
    check_same_bits(&WIDE, &rows_with_gaps(BLOCK_ROWS + 1, 3));
}

#[test]
fn no_rows_give_no_results() {
    let (none, no_codes) = (Array2::zeros((0, FEATURES)), Array2::zeros((0, CODE)));
    assert_eq!(PLAIN.encode(none.view()).expect("encodes").dim(), (0, CODE));
    assert_eq!(PLAIN.decode(no_codes.view()).expect("decodes").dim(), (0, FEATURES));
    let found = PLAIN.reconstruct(none.view()).expect("reconstructs");
    assert_eq!((found.rows.dim(), found.squared_errors.len()), ((0, FEATURES), 0));
    assert_eq!(PLAIN.score(none.view()).expect("scores").p_values.len(), 0);
    assert_eq!(PLAIN.explain(none.view()).expect("explains").contributions.dim(), (0, FEATURES));
    assert_eq!(WITH_GAPS.impute(none.view()).expect("imputes").dim(), (0, FEATURES));
    let error = Model::train(none.view(), &spec()).expect_err("refused");
    assert!(matches!(error, ModelError::Train(training::TrainError::NoRows)), "{error}");
}

#[test]
fn a_row_that_is_too_large_is_named() {
    let row = BLOCK_ROWS + 44;
    let mut rows = rows(2 * BLOCK_ROWS, 1);
    rows.row_mut(row).fill(f32::MAX);
    match PLAIN.reconstruct(rows.view()) {
        Err(ModelError::ResultNotFinite { row: named }) => assert_eq!(named, row),
        other => panic!("{other:?}"),
    }
}

#[test]
fn codes_are_truncated_and_decoded_if_they_are_ordered() {
    let Artifact { model, statistics, .. } = trained(false).artifact;
    let model = model.with_ordered_code(true);
    let model = Model::from(Artifact { model, report: None, statistics, sha256: String::new() });
    let rows = rows(20, 1);
    let truncated = model.encode_truncated(rows.view(), CODE - 1).expect("encodes");
    let mut codes = model.encode(rows.view()).expect("encodes");
    codes.column_mut(CODE - 1).fill(0.0);
    let mut short = codes.view();
    short.slice_axis_inplace(Axis(1), Slice::from(..CODE - 1));
    assert_eq!(truncated, short);
    assert_eq!(bits(&model.decode(short).expect("decodes")), bits(&model.decode(codes.view()).expect("decodes")));
    for code_length in [0, CODE + 1] {
        let error = model.encode_truncated(rows.view(), code_length).expect_err("refused");
        assert!(
            matches!(error, ModelError::CodeLength { got, code_length_max: CODE } if got == code_length),
            "{error}"
        );
    }
    assert!(matches!(PLAIN.encode_truncated(rows.view(), 1), Err(ModelError::NotOrdered)));
    assert!(matches!(PLAIN.decode(short), Err(ModelError::Columns { got: 2, expected: CODE, .. })));
}

#[test]
fn missing_statistics_and_options_of_servers_are_typed_errors() {
    let rows = rows(100, 1);
    let spec_without = TrainSpec { validation_fraction: Some(0.0), ..spec() };
    let unscored = Model::train(rows.view(), &spec_without).expect("trains");
    assert!(matches!(unscored.score(rows.view()), Err(ModelError::NoStatistics)));
    assert!(matches!(unscored.explain(rows.view()), Err(ModelError::NoStatistics)));
    assert!(matches!(unscored.impute(rows.view()), Err(ModelError::NoMissingValues)));
    let sampled = TrainSpec { validation_sample_rows: 5, ..spec() };
    let error = Model::train(rows.view(), &sampled).expect_err("refused");
    assert!(matches!(error, ModelError::NeedsServer { field: "validation_sample_rows" }), "{error}");
    let wrong = TrainSpec { epochs: Some(0), ..spec() };
    assert!(matches!(Model::train(rows.view(), &wrong), Err(ModelError::Spec(_))));
    let narrow = TrainSpec { widths: vec![5, 2], ..spec() };
    assert!(matches!(Model::train(rows.view(), &narrow), Err(ModelError::Columns { got: 6, expected: 5, .. })));
}

#[test]
fn training_from_a_model_keeps_its_specification() {
    let rows = rows(300, 2);
    let free = TrainSpec { widths: Vec::new(), ..spec() };
    let trained = Model::train_from(&PLAIN, rows.view(), &free).expect("trains");
    assert_eq!(trained.spec(), PLAIN.spec());
    assert!(trained.report().is_some_and(|report| report.base_validation.is_some()));
    let other_widths = TrainSpec { widths: vec![FEATURES, 9, CODE], ..spec() };
    let own_loss = TrainSpec { loss: Some(Loss::SquaredError), ..free.clone() };
    for wrong in [other_widths, own_loss] {
        assert!(matches!(Model::train_from(&PLAIN, rows.view(), &wrong), Err(ModelError::Spec(_))));
    }
    let gated = TrainSpec { publish_if_better: true, ..free };
    let error = Model::train_from(&PLAIN, rows.view(), &gated).expect_err("refused");
    assert!(matches!(error, ModelError::NeedsServer { field: "publish_if_better" }), "{error}");
}

#[test]
fn training_from_a_model_takes_gaps_only_if_asked() {
    let base = trained(true);
    let mut rows = rows(300, 2);
    rows[[7, 1]] = f32::NAN;
    let mut asked = TrainSpec { widths: Vec::new(), missing_values: false, ..spec() };
    let error = Model::train_from(&base, rows.view(), &asked).expect_err("refused");
    assert!(matches!(error, ModelError::Values(_)), "{error}");
    asked.missing_values = true;
    Model::train_from(&base, rows.view(), &asked).expect("trains");
}

#[test]
fn a_singular_matrix_has_no_pseudo_inverse() {
    let Artifact { mut model, statistics, .. } = trained(false).artifact;
    let layer = &mut model.layers_mut()[0];
    let (outputs, inputs) = (layer.weight.outputs(), layer.weight.inputs());
    layer.weight = Weights::from_row_major(outputs, inputs, &vec![0.5; outputs * inputs]);
    let model = Model::from(Artifact { model, report: None, statistics, sha256: String::new() });
    let error = model.decode_pseudo_inverse(Array2::zeros((1, CODE)).view()).expect_err("singular");
    assert!(matches!(error, ModelError::NoInverse(InverseError::Singular { layer: 1, .. })), "{error}");
}

#[test]
fn a_saved_model_is_the_same_model() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("m.safetensors");
    PLAIN.save(&path).expect("saves");
    let read = Model::load(&path).expect("loads");
    let rows = rows(50, 9);
    assert_eq!(bits(&read.encode(rows.view()).expect("encodes")), bits(&PLAIN.encode(rows.view()).expect("encodes")));
    assert_eq!(read.score(rows.view()).expect("scores"), PLAIN.score(rows.view()).expect("scores"));
    assert_eq!((read.report(), read.spec()), (PLAIN.report(), PLAIN.spec()));
    let before = std::fs::read(&path).expect("reads");
    read.save(&path).expect("replaces the file");
    assert_eq!(std::fs::read(&path).expect("reads"), before);

    std::fs::write(&path, &before[..before.len() - 1]).expect("writes");
    let error = Model::load(&path).expect_err("truncated");
    assert!(matches!(error, ModelError::Artifact { .. }) && error.to_string().contains("m.safetensors"), "{error}");
    let error = Model::load(folder.path().join("none")).expect_err("no file");
    assert!(matches!(error, ModelError::File(FileError::Io { .. })), "{error}");
    assert!(matches!(PLAIN.save(folder.path()), Err(ModelError::File(_))), "a folder is no file");
}

#[test]
fn training_has_the_bits_of_any_number_of_threads() {
    let rows = rows(300, 1);
    let values: Vec<f32> = rows.iter().copied().collect();
    let source: Arc<dyn RowSource> = Arc::new(MemoryRows::new(values, FEATURES));
    let no_test = MemoryRows::new(Vec::new(), FEATURES);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a thread");
    let checked = spec().check().expect("valid");
    let mut observer = |_: &Event| Next::GoOn;
    let expected = training::train(&checked, &source, &[], &no_test, Start::Fresh, &pool, &mut observer);
    let expected = expected.expect("trains");
    each_layout(&rows, |view| {
        let model = Model::train(view, &spec()).expect("trains");
        assert_eq!(model.autoencoder(), &expected.model);
        assert_eq!(model.artifact().statistics, expected.statistics);
        let report = model.report().expect("a report");
        assert_eq!((&report.epochs, &report.notes), (&expected.report.epochs, &expected.report.notes));
        assert_eq!(Some(&report.data_sha256), PLAIN.report().map(|report| &report.data_sha256));
    });
}
