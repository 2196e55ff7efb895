//! Tests of the whole training on small data: bits, epochs and failures.

mod base;
mod defaults;
mod missing_values;
mod regularization;
mod resume;
mod wide_rows;

use std::time::Duration;

use super::epochs::is_finite;
use super::*;
use crate::model::{EpochLosses, Loss, NormalizationKind};
use crate::numeric::Activation;
use crate::numeric::rng::{Stream, Use};
use crate::training::batches::Split;
use crate::training::{Event, MemoryRows, Next, TrainSpec, defects};

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

fn run_with(spec: TrainSpec, values: &[f32]) -> Trained {
    run(spec, values, 1).expect("trains")
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
fn training_without_rows_is_refused() {
    assert_eq!(run(spec(&[5, 2]), &[], 1).expect_err("refused"), TrainError::NoRows);
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
