//! Tests of the whole training on small data: bits, defaults, and failures.

use std::time::Duration;

use super::*;
use crate::model::{Decoder, NormalizationKind};
use crate::numeric::linalg::orthonormalize_rows;
use crate::numeric::rng::{Stream, Use};
use crate::numeric::{Activation, BufferPool, PanelMatrix};
use crate::training::shift::WideRows;
use crate::training::{MemoryRows, Regularization, TrainSpec};

fn plane(rows: usize, features: usize, hidden: usize) -> Vec<f32> {
    let mut stream = Stream::new(11, 0, 0, Use::Sample);
    let basis: Vec<f64> = (0..hidden * features).map(|_| stream.normal()).collect();
    let mut values = Vec::new();
    for _ in 0..rows {
        let z: Vec<f64> = (0..hidden).map(|_| stream.normal()).collect();
        for j in 0..features {
            let on_plane: f64 = (0..hidden).map(|i| z[i] * basis[i * features + j]).sum();
            values.push((3.0 + on_plane + 0.3 * stream.normal()) as f32);
        }
    }
    values
}

fn spec(widths: &[usize]) -> TrainSpec {
    TrainSpec { epochs: Some(3), seed: 1, ..TrainSpec::new("test".parse().expect("a name"), widths.to_vec()) }
}

fn pool(threads: usize) -> rayon::ThreadPool {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads")
}

fn run(spec: TrainSpec, values: &[f32], threads: usize) -> Result<Trained, TrainError> {
    let spec = spec.check().expect("a valid specification");
    go(&spec, values, &[], Start::Fresh, threads, &mut |_: &Event| Next::GoOn)
}

fn go(
    spec: &CheckedTrainSpec,
    values: &[f32],
    test: &[f32],
    start: Start,
    threads: usize,
    observer: &mut dyn Observer,
) -> Result<Trained, TrainError> {
    let rows = |values: &[f32]| MemoryRows::new(values.to_vec(), spec.features());
    let training: Arc<dyn RowSource> = Arc::new(rows(values));
    train(spec, &training, &[], &rows(test), start, &pool(threads), observer)
}

fn bits(model: &Autoencoder) -> Vec<u32> {
    let layers = model.layers().iter();
    layers
        .flat_map(|layer| [&layer.weight.to_row_major()[..], &layer.encoder_bias, &layer.decoder_bias].concat())
        .map(f32::to_bits)
        .collect()
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    for hidden in [Activation::Elu { alpha: 1.0 }, Activation::Gelu] {
        let mut spec = spec(&[120, 150, 140, 20]);
        spec.hidden_activation = Some(hidden);
        spec.batch_rows = Some(256);
        spec.epochs = Some(2);
        let values = plane(600, 120, 9);
        let one = run(spec.clone(), &values, 1).expect("trains");
        for threads in [2, 5] {
            let more = run(spec.clone(), &values, threads).expect("trains");
            assert_eq!(bits(&one.model), bits(&more.model), "{hidden:?}, {threads} threads");
            assert_eq!(one.report, more.report);
        }
    }
}

/// On the training rows, no linear model is better than PCA.
#[test]
fn a_linear_model_reaches_the_error_of_pca() {
    let mut spec = spec(&[10, 3]);
    spec.epochs = Some(150);
    spec.normalization = Some(NormalizationKind::Standardize);
    spec.validation_fraction = Some(0.0);
    let values = plane(600, 10, 3);
    let checked = spec.check().expect("valid");
    let go_on = &mut |_: &Event| Next::GoOn;
    let trained = go(&checked, &values, &values, Start::Fresh, 1, go_on).expect("trains");
    let figures = trained.report.test.expect("test rows");
    let ratio = figures.squared_error / figures.pca_squared_error;
    assert!((0.9999..1.01).contains(&ratio), "ratio to PCA {ratio}");
}

#[test]
fn every_default_is_noted() {
    let mut asked = spec(&[6, 2]);
    asked.epochs = None;
    let trained = run(asked, &plane(40, 6, 2), 1).expect("trains");
    for word in ["normalization", "batch size", "epochs", "learning rate", "validation"] {
        assert!(trained.report.notes.iter().any(|note| note.starts_with(word)), "{word}: {:?}", trained.report.notes);
    }
    assert_eq!(trained.report.epochs.len(), 500);
}

#[test]
fn the_best_weights_are_kept() {
    let mut asked = spec(&[8, 6, 2]);
    (asked.epochs, asked.hidden_activation) = (Some(40), Some(Activation::Elu { alpha: 1.0 }));
    let trained = run(asked, &plane(60, 8, 2), 1).expect("trains");
    let losses: Vec<f64> = trained.report.epochs.iter().filter_map(|epoch| epoch.validation_loss).collect();
    let best = losses.iter().copied().fold(f64::INFINITY, f64::min);
    let kept = trained.report.validation.expect("validation rows").loss;
    assert!((kept - best).abs() < 1e-12, "{kept} is not the best of {losses:?}");
    assert_eq!(losses[trained.report.best_epoch as usize - 1].to_bits(), best.to_bits());
}

#[test]
fn events_report_rows_and_the_best_validation_loss() {
    let mut asked = spec(&[8, 6, 2]);
    (asked.epochs, asked.batch_rows) = (Some(20), Some(7));
    let checked = asked.check().expect("valid");
    let (mut rows, mut lowest) = (0, None::<f64>);
    let mut look = |event: &Event| {
        rows += event.step_rows;
        assert_eq!(rows, event.rows_processed);
        if event.epoch_ended {
            let loss = event.validation_loss.expect("held-out rows");
            lowest = Some(lowest.map_or(loss, |lowest| lowest.min(loss)));
        }
        assert_eq!(event.best_validation_loss, lowest);
        Next::GoOn
    };
    let trained = go(&checked, &plane(60, 8, 2), &[], Start::Fresh, 1, &mut look).expect("trains");
    assert_eq!(rows, 20 * trained.report.training_rows);
}

#[test]
fn patience_ends_training_early() {
    let mut asked = spec(&[6, 4, 2]);
    (asked.epochs, asked.patience_epochs) = (Some(400), Some(3));
    asked.optimizer.learning_rate = Some(0.05);
    let trained = run(asked, &plane(50, 6, 2), 1).expect("trains");
    assert!(trained.report.epochs.len() < 400);
    assert_eq!(trained.report.epochs.len() as u32, trained.report.best_epoch + 3);
}

#[test]
fn patience_survives_a_resume_at_the_end_of_an_epoch() {
    let mut asked = spec(&[6, 4, 2]);
    (asked.epochs, asked.patience_epochs, asked.batch_rows) = (Some(400), Some(3), Some(50));
    asked.optimizer.learning_rate = Some(0.05);
    let checked = asked.check().expect("valid");
    let values = plane(50, 6, 2);
    let whole = go(&checked, &values, &[], Start::Fresh, 1, &mut |_: &Event| Next::GoOn).expect("trains");
    // An epoch has a single step: every checkpoint is at the end of an epoch.
    let mut start = Start::Fresh;
    for _ in 0..2000 {
        let mut once = AtEnds { kept: None };
        match go(&checked, &values, &[], start, 1, &mut once) {
            Err(TrainError::Stopped) => start = Start::Checkpoint(once.kept.expect("saved"), None),
            Err(error) => panic!("{error}"),
            Ok(trained) => {
                assert_eq!(trained.report, whole.report);
                assert_eq!(bits(&trained.model), bits(&whole.model));
                return;
            }
        }
    }
    panic!("it never ended");
}

/// An observer that stops at the end of every epoch.
struct AtEnds {
    kept: Option<Vec<u8>>,
}

impl Observer for AtEnds {
    fn look(&mut self, event: &Event) -> Next {
        if event.epoch_ended { Next::SaveAndStop } else { Next::GoOn }
    }

    fn save(&mut self, checkpoint: &[u8]) -> Result<(), String> {
        self.kept = Some(checkpoint.to_vec());
        Ok(())
    }

    fn elapsed(&mut self) -> Duration {
        Duration::ZERO
    }
}

/// A held-out row of enormous values makes every validation loss infinite or NaN.
#[test]
fn non_finite_validation_losses_choose_the_last_epoch() {
    let mut asked = spec(&[6, 4, 2]);
    (asked.hidden_activation, asked.normalization) = (Some(Activation::Tanh), Some(NormalizationKind::None));
    let mut values = plane(50, 6, 2);
    let found = run(asked.clone(), &values, 1).expect("trains");
    assert!(found.report.epochs.iter().all(|epoch| epoch.validation_loss.is_some_and(f64::is_finite)));
    let cut = Split::new(50, 6, 10, asked.seed);
    let (first, row) = (cut.partition(0).1, cut.block(0).0);
    values[(row as usize + first[0] as usize) * 6] = 3e38;
    let checked = asked.check().expect("valid");
    let go_on = &mut |_: &Event| Next::GoOn;
    let trained = go(&checked, &values, &[], Start::Fresh, 1, go_on).expect("trains");
    assert!(trained.report.epochs.iter().all(|epoch| epoch.validation_loss.is_some_and(|loss| !loss.is_finite())));
    assert_eq!(trained.report.best_epoch, 3, "the last");
    // The PCA figures are not finite either, and the checkpoint stores them.
    let mut once = Interrupted { every: 2, kept: None };
    go(&checked, &values, &[], Start::Fresh, 1, &mut once).expect_err("stopped");
    let from = Start::Checkpoint(once.kept.expect("saved"), None);
    let resumed = go(&checked, &values, &[], from, 1, &mut |_: &Event| Next::GoOn).expect("goes on");
    assert_eq!(bits(&resumed.model), bits(&trained.model));
}

#[test]
fn an_outlier_row_is_not_a_divergence() {
    let mut asked = spec(&[3, 2]);
    (asked.batch_rows, asked.validation_fraction) = (Some(1), Some(0.0));
    asked.optimizer.learning_rate = Some(1e-6);
    let mut values = plane(30_000, 3, 1);
    values[300] = 1e9;
    run(asked, &values, 1).expect("trains");
}

#[test]
fn subnormal_rows_train_without_divergence() {
    for scale in [1e-45, 1e-40, 1e-38, 1e-30] {
        for normalization in [None, Some(NormalizationKind::None), Some(NormalizationKind::Standardize)] {
            let mut asked = spec(&[5, 2]);
            asked.normalization = normalization;
            let values: Vec<f32> = plane(200, 5, 2).into_iter().map(|x| x * scale).collect();
            let trained = run(asked, &values, 1).unwrap_or_else(|error| panic!("{scale}, {normalization:?}: {error}"));
            assert!(is_finite(&trained.model), "{scale}");
        }
    }
}

#[test]
fn few_rows_and_constant_rows_train() {
    for (rows, values) in [(1, plane(1, 5, 2)), (2, plane(2, 5, 2)), (9, vec![4.0; 45])] {
        let trained = run(spec(&[5, 4, 3]), &values, 1).expect("trains");
        assert!(is_finite(&trained.model), "{rows} rows");
        assert_eq!(trained.report.training_rows, rows - rows / 4, "a fifth is held back, from 3 rows on");
    }
}

/// An observer that saves the state after every `every` steps, and stops then.
struct Interrupted {
    every: u64,
    kept: Option<Vec<u8>>,
}

impl Observer for Interrupted {
    fn look(&mut self, event: &Event) -> Next {
        if event.step > 0 && event.step.is_multiple_of(self.every) && self.kept.is_none() {
            Next::SaveAndStop
        } else {
            Next::GoOn
        }
    }

    fn save(&mut self, checkpoint: &[u8]) -> Result<(), String> {
        self.kept = Some(checkpoint.to_vec());
        Ok(())
    }

    fn elapsed(&mut self) -> Duration {
        Duration::ZERO
    }
}

/// 64-bit rows: times, ids and a wave.
fn wide_rows() -> Vec<f64> {
    (0..200).map(f64::from).flat_map(|i| [1.7e9 + 2.0 * i, 1e12 + 1.0 + i, (i / 9.0).sin(), 0.25 * i]).collect()
}

fn go_wide(
    spec: &CheckedTrainSpec,
    rows: &[f64],
    start: Start,
    threads: usize,
    observer: &mut dyn Observer,
) -> Result<Trained, TrainError> {
    let training: Arc<dyn RowSource> = Arc::new(WideRows { values: rows.to_vec(), features: 4 });
    let none = MemoryRows::new(Vec::new(), 4);
    train(spec, &training, &[], &none, start, &pool(threads), observer)
}

#[test]
fn float64_rows_train_like_their_shifted_rows() {
    let checked = spec(&[4, 3, 2]).check().expect("valid");
    let rows = wide_rows();
    let go_on = &mut |_: &Event| Next::GoOn;
    let wide = go_wide(&checked, &rows, Start::Fresh, 1, go_on).expect("trains");
    let by: Vec<f64> = (0..2).map(|j| wide.model.normalizer().exact_offset_of(j)).collect();
    assert!((by[0] - 1.7e9 - 199.0).abs() < 20.0 && (by[1] - 1e12 - 100.0).abs() < 10.0, "{by:?}");
    assert!(wide.model.normalizer().is_wide());
    // The rows minus the medians of the first two columns, in 32 bits: the model learns the same.
    let medians = [rows[4 * 100], rows[4 * 100 + 1], 0.0, 0.0];
    let shifted: Vec<f32> = rows.iter().enumerate().map(|(i, value)| (value - medians[i % 4]) as f32).collect();
    let narrow = go(&checked, &shifted, &[], Start::Fresh, 2, go_on).expect("trains");
    assert_eq!(bits(&wide.model), bits(&narrow.model));
    assert_eq!((&wide.report.epochs, &wide.report.validation), (&narrow.report.epochs, &narrow.report.validation));
    assert_eq!(wide.model.normalizer().scale, narrow.model.normalizer().scale);
    assert!(!narrow.model.normalizer().is_wide());
}

#[test]
fn float64_rows_resume_from_a_checkpoint_with_the_same_bits() {
    let checked = TrainSpec { batch_rows: Some(16), ..spec(&[4, 3, 2]) }.check().expect("valid");
    let rows = wide_rows();
    let go_on = &mut |_: &Event| Next::GoOn;
    let base = Arc::new(go_wide(&checked, &rows, Start::Fresh, 1, go_on).expect("trains").model);
    for base in [None, Some(base)] {
        let begin = || base.clone().map_or(Start::Fresh, Start::Model);
        let whole = go_wide(&checked, &rows, begin(), 1, go_on).expect("trains");
        let mut start = begin();
        let mut interrupted = 0;
        let resumed = loop {
            let mut once = Interrupted { every: 7, kept: None };
            match go_wide(&checked, &rows, start, 2, &mut once) {
                Err(TrainError::Stopped) => {
                    interrupted += 1;
                    assert!(interrupted < 1000, "it never ended");
                    start = Start::Checkpoint(once.kept.expect("saved"), base.clone());
                }
                Err(error) => panic!("{error}"),
                Ok(trained) => break trained,
            }
        };
        assert!(interrupted > 2);
        assert_eq!(bits(&resumed.model), bits(&whole.model));
        assert_eq!(resumed.model.normalizer(), whole.model.normalizer());
        assert_eq!(resumed.report, whole.report);
        if let Some(base) = &base {
            assert_eq!(resumed.model.normalizer(), base.normalizer(), "a base keeps its offsets");
        }
    }
}

#[test]
fn interruptions_do_not_change_the_bits() {
    let mut asked = spec(&[8, 6, 2]);
    (asked.epochs, asked.batch_rows, asked.gain) = (Some(4), Some(16), true);
    asked.validation_fraction = Some(0.05);
    asked.hidden_activation = Some(Activation::Tanh);
    let checked = asked.clone().check().expect("valid");
    let values = plane(100, 8, 2);
    let whole = run(asked, &values, 1).expect("trains");
    for every in 1..=24 {
        let (mut start, mut interruptions) = (Start::Fresh, 0);
        let trained = loop {
            // At least one step is done before the next stop, however often it stops.
            let mut observer = Interrupted { every, kept: None };
            match go(&checked, &values, &[], start, 1, &mut observer) {
                Ok(trained) => break trained,
                Err(TrainError::Stopped) => {
                    start = Start::Checkpoint(observer.kept.expect("saved"), None);
                    interruptions += 1;
                }
                Err(error) => panic!("{error}"),
            }
        };
        assert!(interruptions >= 24 / every, "{interruptions} interruptions every {every} steps");
        assert_eq!(bits(&trained.model), bits(&whole.model), "stopped every {every} steps");
        assert_eq!(trained.report, whole.report, "stopped every {every} steps");
    }
}

/// A job must resume after an upgrade, so names in the file stay.
#[test]
fn checkpoints_keep_the_spelling_of_their_first_version() {
    let mut observer = Interrupted { every: 2, kept: None };
    let checked = spec(&[8, 6, 2]).check().expect("valid");
    go(&checked, &plane(100, 8, 2), &[], Start::Fresh, 1, &mut observer).expect_err("stopped");
    let bytes = observer.kept.expect("saved");
    let text = String::from_utf8_lossy(&bytes);
    assert!(text.contains(r#"\"optimiser\":"#) && text.contains(r#""optimiser."#), "{}", &text[..2000]);
}

#[test]
fn mismatched_and_damaged_checkpoints_are_refused() {
    let values = plane(100, 8, 2);
    let checked = spec(&[8, 6, 2]).check().expect("valid");
    let mut observer = Interrupted { every: 2, kept: None };
    let stopped = go(&checked, &values, &[], Start::Fresh, 1, &mut observer);
    assert_eq!(stopped.expect_err("stopped"), TrainError::Stopped);
    let bytes = observer.kept.expect("saved");
    let resume = |spec: &CheckedTrainSpec, values: &[f32], bytes: &[u8]| {
        let go_on = &mut |_: &Event| Next::GoOn;
        go(spec, values, &[], Start::Checkpoint(bytes.to_vec(), None), 1, go_on).map(|_| ())
    };
    assert_eq!(resume(&checked, &values, &bytes), Ok(()));
    let other = TrainSpec { seed: 5, ..spec(&[8, 6, 2]) }.check().expect("valid");
    assert_eq!(resume(&other, &values, &bytes), Err(CheckpointError::Specification.into()));
    let fewer = resume(&checked, &values[..80], &bytes);
    assert_eq!(fewer, Err(CheckpointError::Rows { got: 100, expected: 10 }.into()));
    for cut in [0, 7, 100, bytes.len() / 2, bytes.len() - 1] {
        let error = resume(&checked, &values, &bytes[..cut]).expect_err("refused");
        assert!(matches!(error, TrainError::Checkpoint(CheckpointError::Unreadable(_))), "{error}");
    }
}

#[test]
fn an_observer_stops_training() {
    let checked = spec(&[5, 2]).check().expect("valid");
    let values = plane(50, 5, 2);
    for after in [0, 1, 4] {
        let mut calls = 0;
        let mut observer = |_: &Event| {
            calls += 1;
            if calls > after { Next::Stop } else { Next::GoOn }
        };
        let stopped = go(&checked, &values, &[], Start::Fresh, 1, &mut observer);
        assert_eq!(stopped.expect_err("stopped"), TrainError::Stopped);
    }
}

#[test]
fn divergence_names_the_step_and_the_rate() {
    let mut asked = spec(&[5, 4, 2]);
    asked.optimizer.learning_rate = Some(1.0);
    asked.normalization = Some(NormalizationKind::None);
    asked.validation_fraction = Some(0.0);
    asked.epochs = Some(200);
    let values: Vec<f32> = plane(50, 5, 2).into_iter().map(|x| x * 1e20).collect();
    match run(asked, &values, 1) {
        Err(TrainError::Diverged { step, learning_rate, .. }) => {
            assert!(step >= 1);
            assert!((learning_rate - 1.0).abs() < 1e-12);
        }
        other => panic!("{:?}", other.map(|trained| trained.report.epochs.len())),
    }
}

#[test]
fn cross_entropy_refuses_values_outside_the_unit_interval() {
    let mut asked = spec(&[5, 2]);
    asked.loss = Some(Loss::BinaryCrossEntropy);
    asked.normalization = Some(NormalizationKind::None);
    asked.validation_fraction = Some(0.0);
    let mut values = vec![0.5; 50];
    values[23] = 1.5;
    let error = run(asked.clone(), &values, 1).expect_err("refused");
    assert_eq!(error, TrainError::OutsideUnitInterval { row: 5, feature: "column 4".to_owned(), value: 1.5 });
    values[23] = 1.0;
    let trained = run(asked, &values, 1).expect("trains");
    assert!(trained.report.validation.is_none());
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
fn the_kind_of_values_is_detected() {
    let of = |rows: &[[f32; 4]]| {
        let (mut learner, mut seen) = (Learner::new(4), SeenValues::default());
        rows.iter().for_each(|row| {
            learner.add(row);
            seen.add(row);
        });
        seen.kind(&learner, 4)
    };
    assert_eq!(of(&[[0.0, 255.0, 0.0, 9.0], [0.0, 20.0, 200.0, 180.0]]), ValueKind::Any, "four bytes are a table");
    assert_eq!(of(&[[0.0, 1.0, 0.0, 0.2], [0.0, 0.3, 0.9, 0.7]]), ValueKind::Unit);
    assert_eq!(of(&[[0.0, 1.0, 0.0, 1.0], [1.0, 0.0, 1.0, 1.0]]), ValueKind::Unit);
    assert_eq!(of(&[[0.0, -1.0, 0.0, 1.0], [1.0, 0.0, 1.0, 1.0]]), ValueKind::Any);
    // An age, children, a size, rooms.
    assert_eq!(of(&[[44.0, 1.0, 180.0, 3.0], [70.0, 3.0, 165.0, 5.0]]), ValueKind::Any);
    assert_eq!(of(&[[0.01, 0.9, 0.02, 0.001], [0.0, 0.1, 0.03, 0.002]]), ValueKind::Any);
    assert_eq!(of(&[[7.0; 4]; 2]), ValueKind::Any, "constant");
}

#[test]
fn pixels_are_many_columns_that_use_most_of_one_range() {
    let of = |columns: usize, value: &dyn Fn(usize, usize) -> usize| {
        let (mut learner, mut seen) = (Learner::new(columns), SeenValues::default());
        for i in 0..50 {
            let row: Vec<f32> = (0..columns).map(|j| value(i, j) as f32).collect();
            learner.add(&row);
            seen.add(&row);
        }
        seen.kind(&learner, columns)
    };
    let spread = |i: usize, j: usize| 37 * i * (j + 3) + 11 * j;
    assert_eq!(of(784, &|i, j| spread(i, j) % 256), ValueKind::Pixels { eight_bits: true });
    assert_eq!(of(784, &|i, j| if j < 100 { 0 } else { spread(i, j) % 256 }), ValueKind::Pixels { eight_bits: true });
    assert_eq!(of(64, &|i, j| spread(i, j) % 17), ValueKind::Pixels { eight_bits: false }, "the digits");
    assert_eq!(of(32, &|i, j| spread(i, j) % 16), ValueKind::Any, "too few columns");
    assert_eq!(of(100, &|i, j| 1 + spread(i, j) % 10), ValueKind::Any, "grades");
    assert_eq!(of(100, &|i, j| (j + 1) * 2 - spread(i, j) % 2), ValueKind::Any, "ranges of their own");
    assert_eq!(of(100, &|i, j| 100 + spread(i, j) % 100), ValueKind::Any, "never dark");
}

#[test]
fn saturating_units_without_a_gain_get_a_note() {
    let mut asked = spec(&[6, 4, 2]);
    asked.hidden_activation = Some(Activation::Tanh);
    let warned = |spec: TrainSpec| {
        let trained = run(spec, &plane(50, 6, 2), 1).expect("trains");
        trained.report.notes.iter().any(|note| note.contains("gain"))
    };
    assert!(warned(asked.clone()));
    asked.gain = true;
    assert!(!warned(asked));
}

#[test]
fn training_without_rows_is_refused() {
    assert_eq!(run(spec(&[5, 2]), &[], 1).expect_err("refused"), TrainError::NoRows);
}

/// A clock that advances by the same time at each reading.
struct Ticking {
    tick: Duration,
    now: Duration,
    saved: u32,
}

impl Observer for Ticking {
    fn look(&mut self, _: &Event) -> Next {
        Next::GoOn
    }

    fn save(&mut self, _: &[u8]) -> Result<(), String> {
        self.saved += 1;
        Ok(())
    }

    fn elapsed(&mut self) -> Duration {
        self.now += self.tick;
        self.now
    }
}

#[test]
fn a_time_budget_becomes_a_number_of_epochs_once() {
    let mut asked = spec(&[8, 6, 2]);
    (asked.epochs, asked.batch_rows, asked.validation_fraction) = (None, Some(10), Some(0.2));
    asked.time_budget = Some(Duration::from_secs(100));
    let values = plane(50, 8, 2);
    let run = |tick: f64| {
        let mut clock = Ticking { tick: Duration::from_secs_f64(tick), now: Duration::ZERO, saved: 0 };
        let checked = asked.clone().check().expect("valid");
        let trained = go(&checked, &values, &[], Start::Fresh, 1, &mut clock).expect("trains");
        assert_eq!(clock.saved, 1, "what was measured is kept");
        trained
    };
    // Four steps per epoch and a validation, one second each.
    let by_budget = run(1.0);
    let epochs = by_budget.report.epochs.len();
    assert!((17..=19).contains(&epochs), "{epochs}: {:?}", by_budget.report.notes);
    assert!(by_budget.report.notes.iter().any(|note| note.starts_with("epochs: ") && note.contains("100s")));
    assert_eq!(run(30.0).report.epochs.len(), 1);
    // The same number of epochs gives the same bits.
    let by_number = TrainSpec { time_budget: None, epochs: Some(epochs as u32), ..asked.clone() };
    assert_eq!(bits(&run_with(by_number, &values).model), bits(&by_budget.model));
}

fn run_with(spec: TrainSpec, values: &[f32]) -> Trained {
    run(spec, values, 1).expect("trains")
}

#[test]
fn a_learning_rate_is_found_and_trains() {
    let mut asked = spec(&[8, 6, 2]);
    (asked.epochs, asked.batch_rows, asked.optimizer.find_learning_rate) = (Some(20), Some(10), true);
    let trained = run_with(asked, &plane(200, 8, 2));
    let note = trained.report.notes.iter().find(|note| note.starts_with("learning rate: ")).expect("told");
    assert!(note.contains("sweep"), "{note}");
    assert!(trained.report.learning_rate > 1e-4 && trained.report.learning_rate < 1.0, "{note}");
    let losses = &trained.report.epochs;
    assert!(losses[19].training_loss < 0.5 * losses[0].training_loss, "{note}: {losses:?}");
}

#[test]
fn linear_and_nonlinear_data_are_distinguished() {
    // On a plane with noise, PCA is optimal.
    let mut asked = spec(&[10, 8, 3]);
    asked.epochs = Some(30);
    let trained = run_with(asked.clone(), &plane(400, 10, 3));
    let figures = trained.report.validation.expect("validation rows");
    assert!(figures.squared_error < 1.0001 * figures.pca_squared_error, "{figures:?}");
    assert!(trained.model.spec().raw().encoder_activations.iter().all(|f| *f == Activation::Linear));
    assert!(
        trained.report.notes.iter().any(|note| note.starts_with("activations: linear")),
        "{:?}",
        trained.report.notes
    );
    let of_what_was_left = |note: &&String| note.starts_with("hidden activation");
    assert_eq!(trained.report.notes.iter().find(of_what_was_left), None);
    assert_eq!(trained.report.notes.iter().filter(|note| note.starts_with("loss: squared error")).count(), 1);
    // A request for a nonlinear activation is honored.
    let bent = TrainSpec { hidden_activation: Some(Activation::Tanh), ..asked };
    assert_eq!(run_with(bent, &plane(400, 10, 3)).model.spec().raw().encoder_activations[0], Activation::Tanh);
    // A parabola has one dimension, but is not a line.
    let parabola: Vec<f32> = (0..2000).map(|i| i as f32 * 0.001 - 1.0).flat_map(|t| [t, t * t]).collect();
    let mut asked = spec(&[2, 32, 16, 1]);
    asked.epochs = Some(60);
    let figures = run_with(asked, &parabola).report.validation.expect("validation rows");
    assert!(figures.squared_error < 0.5 * figures.pca_squared_error, "{figures:?}");
}

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
fn a_large_loss_increase_is_a_collapse_and_noise_is_not() {
    let checked = spec(&[8, 6, 2]).check().expect("valid");
    let training: Arc<dyn RowSource> = Arc::new(MemoryRows::new(plane(300, 8, 2), 8));
    let mut trainer = Trainer::prepare(&checked, &training, &[], None, &mut |_: &Event| Next::GoOn).expect("prepares");
    trainer.state.loss_start = Some(8.0);
    assert!(!trainer.has_collapsed(1e9), "the first epoch");
    let epoch = |epoch, training_loss| EpochLosses::new(epoch, training_loss, None);
    trainer.state.report.epochs = vec![epoch(1, 2.0), epoch(2, 0.4), epoch(3, 0.5)];
    assert!(!trainer.has_collapsed(1.1) && trainer.has_collapsed(1.3));
    // If the lowest loss is almost 0, a loss many times higher is still small.
    trainer.state.report.epochs = vec![epoch(1, 2.0), epoch(2, 1e-9)];
    assert!(!trainer.has_collapsed(0.7) && trainer.has_collapsed(0.9));
}

#[test]
fn older_rows_join_validation_up_to_the_held_out_count() {
    let values = plane(300, 8, 2);
    let (older, fraction) = (plane(100, 8, 3), Some(0.1));
    let checked = TrainSpec { validation_fraction: fraction, ..spec(&[8, 6, 2]) }.check().expect("valid");
    let training: Arc<dyn RowSource> = Arc::new(MemoryRows::new(values.clone(), 8));
    let measured = |held_out: &[f32]| {
        let test = MemoryRows::new(Vec::new(), 8);
        let go_on = &mut |_: &Event| Next::GoOn;
        let held_out: Vec<f64> = held_out.iter().copied().map(f64::from).collect();
        let trained = train(&checked, &training, &held_out, &test, Start::Fresh, &pool(1), go_on).expect("trains");
        trained.report.validation.expect("validation rows")
    };
    assert_eq!(measured(&[]).rows, 30);
    assert_eq!(measured(&older[..20 * 8]).rows, 50);
    assert_eq!(measured(&older), measured(&older[..30 * 8]));
}

#[test]
fn regularization_changes_the_model_and_is_deterministic() {
    let mut asked = spec(&[120, 150, 20]);
    (asked.epochs, asked.batch_rows) = (Some(2), Some(128));
    let values = plane(300, 120, 9);
    let plain = bits(&run(asked.clone(), &values, 1).expect("trains").model);
    let changes: [fn(&mut TrainSpec); 9] = [
        |spec| spec.regularization.nested_dropout = 0.5,
        |spec| spec.optimizer.retraction_steps = 2,
        |spec| spec.regularization.orthogonality = 0.1,
        |spec| spec.regularization.l2 = 0.01,
        |spec| spec.regularization.activity_l2 = 0.1,
        |spec| spec.regularization.masking = 0.2,
        |spec| spec.regularization.gaussian = 0.2,
        |spec| spec.regularization.input_dropout = 0.2,
        |spec| spec.regularization.trim = 0.2,
    ];
    for (i, change) in changes.iter().enumerate() {
        let mut changed = asked.clone();
        change(&mut changed);
        let one = bits(&run(changed.clone(), &values, 1).expect("trains").model);
        assert!(one != plain, "change {i}");
        assert!(one == bits(&run(changed, &values, 3).expect("trains").model), "change {i}");
    }
}

/// With one layer that expands, and others that do not.
#[test]
fn the_orthogonality_penalty_reduces_defects() {
    let mut asked = spec(&[8, 12, 6, 3]);
    (asked.epochs, asked.batch_rows, asked.initialization) = (Some(60), Some(32), Some(Initialization::He));
    let values = plane(300, 8, 3);
    let largest =
        |asked: &TrainSpec| defects::of(&run_with(asked.clone(), &values).model).into_iter().fold(0.0, f64::max);
    let plain = largest(&asked);
    asked.regularization.orthogonality = 10.0;
    let drawn = largest(&asked);
    assert!(drawn < 0.05 * plain && drawn < 0.05, "{drawn}, without {plain}");
    // Also with a limit of the gradient norm, which needs the whole gradient first.
    asked.optimizer.gradient_norm_max = Some(1e30);
    let looked_at = largest(&asked);
    assert!(looked_at.to_bits() == drawn.to_bits(), "{looked_at}");
}

#[test]
fn retracted_matrices_are_orthonormal_after_every_epoch() {
    let mut asked = spec(&[8, 12, 6, 3]);
    (asked.epochs, asked.batch_rows, asked.initialization) = (Some(8), Some(32), Some(Initialization::He));
    // A retraction at the end of an epoch must not repeat one that the last step has just done.
    for every in [1, 3, 1000] {
        asked.optimizer.retraction_steps = every;
        let trained = run_with(asked.clone(), &plane(300, 8, 3));
        let largest = |defects: &[f64]| defects.iter().copied().fold(0.0, f64::max);
        assert!(largest(&defects::of(&trained.model)) < 1e-4, "every {every} steps");
        let losses = &trained.report.epochs;
        assert!(losses.iter().all(|epoch| largest(&epoch.defects) < 1e-4), "{losses:?}");
        assert!(losses[7].training_loss < 0.7 * losses[0].training_loss, "{losses:?}");
    }
}

#[test]
fn regularized_training_resumes_with_the_same_bits() {
    let mut asked = spec(&[8, 12, 6, 2]);
    (asked.epochs, asked.batch_rows, asked.validation_fraction) = (Some(3), Some(16), Some(0.05));
    (asked.optimizer.retraction_steps, asked.regularization.orthogonality) = (4, 0.5);
    asked.regularization.nested_dropout = 0.7;
    let checked = asked.clone().check().expect("valid");
    let values = plane(100, 8, 2);
    let whole = run(asked, &values, 2).expect("trains");
    // Between retractions, at retractions, and at the ends of epochs of six steps.
    for every in [1, 3, 4, 6] {
        let mut start = Start::Fresh;
        let trained = loop {
            let mut observer = Interrupted { every, kept: None };
            match go(&checked, &values, &[], start, 1, &mut observer) {
                Ok(trained) => break trained,
                Err(error) => assert_eq!(error, TrainError::Stopped),
            }
            start = Start::Checkpoint(observer.kept.expect("saved"), None);
        };
        assert_eq!(bits(&trained.model), bits(&whole.model), "stopped every {every} steps");
        assert_eq!(trained.report, whole.report, "stopped every {every} steps");
    }
}

#[test]
fn nested_dropout_orders_codes_by_importance() {
    // Directions of very different variance, rotated so that none is a feature.
    let mut stream = Stream::new(13, 0, 0, Use::Sample);
    let mut axes: Vec<f64> = (0..64).map(|_| stream.normal()).collect();
    orthonormalize_rows(&mut axes, 8);
    let deviations = [8.0, 4.0, 2.0, 1.0, 0.1, 0.1, 0.1, 0.1];
    let mut values = Vec::new();
    for _ in 0..400 {
        let z = deviations.map(|deviation| deviation * stream.normal());
        values.extend((0..8).map(|j| (0..8).map(|i| z[i] * axes[i * 8 + j]).sum::<f64>() as f32));
    }
    // The error with the first m numbers of the codes, and the others 0.
    let error = |model: &Autoencoder, m: usize| {
        let (mut rows, buffers) = (PanelMatrix::zeros(400, 8), &mut BufferPool::default());
        rows.load(0, &values);
        let mut codes = model.encode(&rows, buffers);
        codes.each_column_mut(|unit, part| part.iter_mut().for_each(|x| *x = if unit < m { *x } else { 0.0 }));
        let rebuilt = model.decode(&codes, Decoder::Transpose, buffers);
        let squares = rows.values().iter().zip(rebuilt.values()).map(|(a, b)| f64::from(a - b).powi(2));
        squares.sum::<f64>() / 400.0
    };
    for (widths, hidden) in [(&[8, 4][..], Activation::Linear), (&[8, 12, 4], Activation::Elu { alpha: 1.0 })] {
        let mut asked = spec(widths);
        (asked.epochs, asked.batch_rows, asked.hidden_activation) = (Some(150), Some(32), Some(hidden));
        asked.normalization = Some(NormalizationKind::None);
        let plain = run_with(asked.clone(), &values).model;
        asked.regularization.nested_dropout = 0.8;
        let nested = run_with(asked, &values).model;
        assert!(nested.spec().raw().ordered_code && !plain.spec().raw().ordered_code);
        let [of_plain, of_nested] = [&plain, &nested].map(|model| [1, 2, 3, 4].map(|m| error(model, m)));
        for m in 0..3 {
            assert!(of_nested[m] < 0.6 * of_plain[m], "{widths:?}: {of_nested:?}, without {of_plain:?}");
            // PCA leaves the variances of the remaining directions.
            let pca: f64 = deviations[m + 1..].iter().map(|deviation| deviation * deviation).sum();
            assert!(of_nested[m] < 1.5 * pca, "{widths:?}: {of_nested:?}, PCA {pca}");
        }
    }
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

#[test]
fn trimming_reduces_the_effect_of_bad_rows() {
    let mut asked = spec(&[6, 2]);
    (asked.epochs, asked.batch_rows) = (Some(200), Some(100));
    asked.normalization = Some(NormalizationKind::None);
    asked.hidden_activation = Some(Activation::Linear);
    // One row of ten is noise many times as large.
    let (clean, mut stream) = (plane(400, 6, 3), Stream::new(8, 0, 0, Use::Sample));
    let mut values = clean.clone();
    for row in values.chunks_exact_mut(6).step_by(10) {
        row.iter_mut().for_each(|x| *x = (20.0 * stream.normal()) as f32);
    }
    let error = |asked: TrainSpec| {
        let trained = run_with(asked, &values);
        let mut rows = PanelMatrix::zeros(400, 6);
        rows.load(0, &clean);
        let errors = trained.model.reconstruct(&rows, Decoder::Transpose, &mut BufferPool::default()).squared_errors;
        (errors.iter().map(|error| f64::from(*error)).sum::<f64>() / 400.0, trained.statistics.expect("held out"))
    };
    let (plain, of_plain) = error(asked.clone());
    asked.regularization.trim = 0.15;
    let (robust, of_robust) = error(asked);
    assert!(robust < 0.1 * plain, "{robust} of {plain}");
    // The bad rows do not affect the usual error either.
    assert!(of_robust.residual_variance < 0.1 * of_plain.residual_variance);
    assert!(
        of_robust.code_covariance[0] + of_robust.code_covariance[3]
            < 0.5 * (of_plain.code_covariance[0] + of_plain.code_covariance[3])
    );
}

/// Theory: the share 1 - l2 / variance of each principal direction is kept.
#[test]
fn l2_shrinks_a_linear_model_as_predicted() {
    let mut asked = spec(&[4, 2]);
    (asked.epochs, asked.batch_rows, asked.validation_fraction) = (Some(400), Some(200), Some(0.0));
    (asked.normalization, asked.regularization.l2) = (Some(NormalizationKind::None), 0.5);
    asked.optimizer.learning_rate = Some(0.02);
    // Independent, with variances 4, 2, 0.01 and 0.01.
    let mut stream = Stream::new(5, 0, 0, Use::Sample);
    let deviations = [2.0, 2.0f64.sqrt(), 0.1, 0.1];
    let values: Vec<f32> = (0..200 * 4).map(|i| (deviations[i % 4] * stream.normal()) as f32).collect();
    let trained = run_with(asked, &values);
    let variance = |j: usize| {
        let column: Vec<f64> = values.iter().skip(j).step_by(4).map(|x| f64::from(*x)).collect();
        let mean = column.iter().sum::<f64>() / 200.0;
        column.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 200.0
    };
    // The directions are nearly the axes, and the trace of WᵀW is that of WWᵀ.
    let w = trained.model.layers()[0].weight.to_row_major();
    let trace: f64 = w.iter().map(|w| f64::from(*w).powi(2)).sum();
    let expected = (1.0 - 0.5 / variance(0)) + (1.0 - 0.5 / variance(1));
    assert!((trace - expected).abs() < 0.01 * expected, "{trace}, expected {expected}");
}

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
