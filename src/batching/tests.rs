//! Tests of the whole batching layer, with arithmetic that echoes, blocks, panics or overflows on command.

mod departures;
pub(super) mod either;
mod failures;
mod interleavings;
mod refusals;

use std::pin::Pin;
use std::sync::mpsc::{Receiver, RecvError, Sender, channel};
use std::task::Poll;
use std::time::Duration;

use super::*;
use crate::executor::eventually::eventually;
use crate::model::computed::Computed;
use crate::model::normalization::Normalizer;
use crate::model::spec::RawModelSpec;
use crate::model::{
    Artifact, Autoencoder, Loss, ModelKey, ModelSpec, NormalizationKind, Space, TiedLayer, Values, Version,
};
use crate::numeric::matmul::Weights;
use crate::numeric::{Activation, BufferPool, PanelMatrix};

const FEATURES: usize = 3;
const CODE: usize = 2;

/// Values in the first column that make the echo panic, or return infinity for the row.
const PANICS: f32 = -1.0;
const OVERFLOWS: f32 = -2.0;

fn model(version: u64) -> Arc<LoadedModel> {
    let spec = ModelSpec::new(RawModelSpec {
        widths: vec![FEATURES, CODE],
        encoder_activations: vec![Activation::Linear],
        decoder_activations: vec![Activation::Linear],
        loss: Loss::SquaredError,
        normalization: NormalizationKind::None,
        gain: false,
        feature_names: vec![],
        missing_values: false,
        ordered_code: false,
    })
    .expect("a specification");
    let normalizer = Normalizer::none();
    let layer = TiedLayer {
        weight: Weights::from_row_major(CODE, FEATURES, &[1.0, 2.0, 3.0, -1.0, 0.5, 0.25]),
        encoder_bias: vec![0.5, -0.5],
        decoder_bias: vec![1.0, 2.0, 3.0],
        gain: None,
    };
    let key = ModelKey { name: "echo".parse().expect("a name"), version: Version::new(version).expect("a version") };
    let model = Autoencoder::new(spec, normalizer, vec![layer]);
    Arc::new(LoadedModel::new(key, Artifact { model, report: None, statistics: None, sha256: String::new() }, 0))
}

fn widths(operation: Operation) -> (usize, usize) {
    match operation {
        Operation::Encode => (FEATURES, CODE),
        Operation::Decode | Operation::DecodePseudoInverse => (CODE, FEATURES),
        Operation::Reconstruct | Operation::ReconstructPseudoInverse | Operation::Impute => (FEATURES, FEATURES),
        Operation::Score | Operation::Explain => (FEATURES, 2),
    }
}

/// Offset that the echo adds to every number; it differs by version and operation.
fn offset(model: &LoadedModel, operation: Operation) -> f32 {
    let operation = match operation {
        Operation::Encode => 0.25,
        Operation::Decode | Operation::DecodePseudoInverse => 0.5,
        Operation::Reconstruct | Operation::ReconstructPseudoInverse => 0.75,
        Operation::Score | Operation::Explain => 0.875,
        Operation::Impute => 0.125,
    };
    operation + 100_000.0 * model.key.version.number() as f32
}

/// Echo: every number of a row is the row's first number plus the offset; the row's error is its first number.
fn echo(model: &LoadedModel, operation: Operation, _: Space, batch: &PanelMatrix, _: &mut BufferPool) -> Computed {
    let firsts = batch.column(0);
    assert!(!firsts.contains(&PANICS), "told to panic");
    let mut values = PanelMatrix::zeros(batch.rows(), widths(operation).1);
    for j in 0..values.columns() {
        for (row, first) in firsts.iter().enumerate() {
            *values.at_mut(row, j) = if *first == OVERFLOWS { f32::INFINITY } else { first + offset(model, operation) };
        }
    }
    let squared_errors = if operation == Operation::Reconstruct { firsts } else { vec![] };
    let squared_errors_input_units = squared_errors.iter().map(|error| error * 2.0).collect();
    Computed { values, squared_errors, squared_errors_input_units }
}

/// An echo that reports the first column of every batch before computing it, and then waits for a release.
struct Gate {
    batches: Receiver<Vec<f32>>,
    go: Sender<()>,
}

impl Gate {
    fn new() -> (Self, Compute) {
        let (entered, batches) = channel();
        let (go, wait) = channel();
        let wait = Mutex::new(wait);
        let compute = Compute::new(move |model, operation, space, batch, buffers| {
            let _ = entered.send(batch.column(0));
            // Once the gate is dropped, every batch passes.
            let _: Result<(), _> = lock(&wait).recv();
            echo(model, operation, space, batch, buffers)
        });
        (Self { batches, go }, compute)
    }

    /// Waits for the next batch; returns its first column.
    #[track_caller]
    fn entered(&self) -> Vec<f32> {
        self.batches.recv().expect("a batch")
    }

    fn release(&self) {
        self.go.send(()).expect("a thread");
    }
}

fn small_batches() -> BatchingConfig {
    BatchingConfig { batch_rows_max: 16, ..BatchingConfig::default() }
}

fn echoing(threads: usize) -> Batcher {
    Batcher::start_with(small_batches(), threads, Arc::default(), Compute::new(echo), false).expect("starts")
}

/// A batcher with one thread behind a gate, busy with a batch of one row, 0.
fn busy(config: BatchingConfig) -> (Batcher, Gate, Submission) {
    let (gate, compute) = Gate::new();
    let batcher = Batcher::start_with(config, 1, Arc::default(), compute, false).expect("starts");
    let mut first = submission(&batcher, Operation::Encode, matrix(FEATURES, &[0.0]), None);
    assert!(admit(&mut first).is_none());
    assert_eq!(gate.entered(), [0.0]);
    (batcher, gate, first)
}

/// Rows that each repeat one number.
fn matrix(columns: usize, firsts: &[f32]) -> Matrix {
    let values = firsts.iter().flat_map(|first| std::iter::repeat_n(*first, columns)).collect();
    Matrix::new(firsts.len() as u32, columns as u32, Values::Floats(values)).expect("a matrix")
}

fn as_bytes(matrix: &Matrix) -> Matrix {
    let Values::Floats(floats) = matrix.values() else { panic!("floats") };
    let bytes: Vec<u8> = floats.iter().flat_map(|value| value.to_le_bytes()).collect();
    let (rows, columns) = (matrix.rows() as u32, matrix.columns() as u32);
    Matrix::new(rows, columns, Values::Float32Le(bytes.into())).expect("a matrix")
}

fn numbers(matrix: &Matrix) -> Vec<f32> {
    matrix.values().to_f32()
}

type Submission = Pin<Box<dyn Future<Output = Result<Output, BatchError>> + Send>>;

fn submission(batcher: &Batcher, operation: Operation, rows: Matrix, deadline: Option<Instant>) -> Submission {
    let batcher = batcher.clone();
    let form = rows.form();
    Box::pin(async move { batcher.submit(model(1), operation, rows, form, deadline, Urgency::Interactive).await })
}

/// Polls a submission once, so that it is rejected or queued. Returns its result, if it has one.
#[track_caller]
fn admit(submission: &mut Submission) -> Option<Result<Output, BatchError>> {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match submission.as_mut().poll(&mut context) {
        Poll::Ready(answer) => Some(answer),
        Poll::Pending => None,
    }
}

#[track_caller]
fn queued(batcher: &Batcher, rows: Matrix) -> Submission {
    let mut submission = submission(batcher, Operation::Encode, rows, None);
    assert!(admit(&mut submission).is_none(), "it waits");
    submission
}

#[track_caller]
fn refused(batcher: &Batcher, operation: Operation, rows: Matrix) -> BatchError {
    let mut submission = submission(batcher, operation, rows, None);
    admit(&mut submission).expect("at once").expect_err("refused")
}

#[track_caller]
fn check_echo(output: &Output, operation: Operation, model: &LoadedModel, firsts: &[f32]) {
    let columns = widths(operation).1;
    let expected: Vec<f32> =
        firsts.iter().flat_map(|first| std::iter::repeat_n(first + offset(model, operation), columns)).collect();
    assert_eq!((output.matrix.rows(), output.matrix.columns()), (firsts.len(), columns));
    assert_eq!(numbers(&output.matrix), expected);
    let errors: &[f32] = if operation == Operation::Reconstruct { firsts } else { &[] };
    assert_eq!(output.squared_errors, errors);
    assert_eq!(output.squared_errors_input_units, errors.iter().map(|error| error * 2.0).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_caller_gets_their_own_rows_back() {
    let batcher = echoing(3);
    let models: Vec<_> = (1..=3).map(model).collect();
    let callers: Vec<_> = (0..300_usize)
        .map(|caller| {
            let (batcher, model) = (batcher.clone(), Arc::clone(&models[caller % 3]));
            let operation = [Operation::Encode, Operation::Decode, Operation::Reconstruct][caller / 3 % 3];
            let firsts: Vec<f32> = (0..=caller * 7 % 50).map(|row| (caller * 100 + row) as f32).collect();
            tokio::spawn(async move {
                let rows = matrix(widths(operation).0, &firsts);
                let in_bytes = caller % 2 == 0;
                let rows = if in_bytes { as_bytes(&rows) } else { rows };
                let form = rows.form();
                let output = batcher
                    .submit(Arc::clone(&model), operation, rows, form, None, Urgency::Interactive)
                    .await
                    .expect("an answer");
                assert_eq!(
                    matches!(output.matrix.values(), Values::Float32Le(_)),
                    in_bytes,
                    "the format of the request"
                );
                check_echo(&output, operation, &model, &firsts);
            })
        })
        .collect();
    for caller in callers {
        caller.await.expect("no panic");
    }
    let stats = batcher.stats();
    assert_eq!((stats.waiting_rows, stats.waiting_bytes), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_request_is_split_and_reassembled() {
    for threads in [1, 4] {
        let batcher = echoing(threads);
        let firsts: Vec<f32> = (0..1_003).map(|row| row as f32).collect();
        let output = batcher
            .submit(
                model(1),
                Operation::Reconstruct,
                matrix(FEATURES, &firsts),
                Form::Floats,
                None,
                Urgency::Interactive,
            )
            .await;
        let output = output.expect("an answer");
        check_echo(&output, Operation::Reconstruct, &model(1), &firsts);
        let batch = output.timing.batch.expect("it was in one");
        assert_eq!((output.timing.batch_rows, batch.number, batch.requests), (16, 63, 1));
        let stats = batcher.stats();
        assert_eq!((stats.batches, stats.rows), (63, 1_003));
        let narrow = batcher
            .submit(
                model(1),
                Operation::Reconstruct,
                matrix(FEATURES - 1, &[1.0]),
                Form::Floats,
                None,
                Urgency::Interactive,
            )
            .await;
        assert!(narrow.is_err(), "{narrow:?}");
        let stats = batcher.stats();
        assert_eq!((stats.answered, stats.refused), (1, 1));
    }
}

#[tokio::test]
async fn results_are_bit_identical_in_any_batch() {
    let batcher = Batcher::start(small_batches(), 2, Arc::default()).expect("starts");
    let model = model(1);
    let firsts: Vec<f32> = (0..40).map(|row| row as f32 / 7.0).collect();
    let mut alone = PanelMatrix::zeros(1, FEATURES);
    let rows = matrix(FEATURES, &firsts);
    let codes = batcher
        .submit(Arc::clone(&model), Operation::Encode, rows.clone(), Form::Floats, None, Urgency::Interactive)
        .await
        .expect("codes");
    let back = batcher
        .submit(Arc::clone(&model), Operation::Decode, codes.matrix.clone(), Form::Floats, None, Urgency::Interactive)
        .await
        .expect("rows");
    let both = batcher
        .submit(Arc::clone(&model), Operation::Reconstruct, rows.clone(), Form::Floats, None, Urgency::Interactive)
        .await
        .expect("rows");
    assert_eq!(back.matrix, both.matrix);
    assert_eq!((both.squared_errors.len(), both.squared_errors_input_units.len()), (40, 40));
    for row in 0..40 {
        rows.load_into(row..row + 1, &mut alone, 0);
        let code = model.artifact.model.encode(&alone, &mut BufferPool::default());
        assert_eq!(numbers(&codes.matrix)[row * CODE..][..CODE], [code.at(0, 0), code.at(0, 1)], "row {row}");
    }
}

#[tokio::test]
async fn requests_during_a_batch_form_the_next_one() {
    let (batcher, gate, first) = busy(small_batches());
    let waiting: Vec<_> = (1..=10_u8).map(|row| queued(&batcher, matrix(FEATURES, &[f32::from(row)]))).collect();
    gate.release();
    gate.release();
    first.await.expect("an answer");
    for (row, submission) in (1..=10_u8).zip(waiting) {
        check_echo(&submission.await.expect("an answer"), Operation::Encode, &model(1), &[f32::from(row)]);
    }
    let stats = batcher.stats();
    assert_eq!((stats.batches, stats.rows), (2, 11));
}

#[tokio::test]
async fn departed_callers_are_not_computed() {
    let (batcher, gate, first) = busy(small_batches());
    let departs = queued(&batcher, matrix(FEATURES, &[1.0]));
    let stays = queued(&batcher, matrix(FEATURES, &[2.0]));
    assert_eq!(batcher.stats().waiting_rows, 3);
    drop(departs);
    assert_eq!(batcher.stats().waiting_rows, 2, "its space is free at once");
    gate.release();
    gate.release();
    first.await.expect("an answer");
    assert_eq!(gate.entered(), [2.0]);
    stays.await.expect("an answer");
}

#[tokio::test]
async fn remaining_rows_of_a_departed_caller_are_not_computed() {
    let (batcher, gate, first) = busy(small_batches());
    let firsts: Vec<f32> = (1_u8..=40).map(f32::from).collect();
    let departs = queued(&batcher, matrix(FEATURES, &firsts));
    let stays = queued(&batcher, matrix(FEATURES, &[99.0]));
    gate.release();
    assert_eq!(gate.entered(), firsts[..16]);
    drop(departs);
    gate.release();
    assert_eq!(gate.entered(), [99.0]);
    gate.release();
    first.await.expect("an answer");
    stays.await.expect("an answer");
    assert_eq!(batcher.stats().waiting_bytes, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn draining_serves_accepted_requests_and_rejects_new_ones() {
    let (batcher, gate, first) = busy(small_batches());
    let mut accepted = vec![first];
    accepted.extend((1..=40_u8).map(|row| queued(&batcher, matrix(FEATURES, &[f32::from(row)]))));
    batcher.inner.queue.close();
    assert_eq!(refused(&batcher, Operation::Encode, matrix(FEATURES, &[41.0])), BatchError::ShuttingDown);
    drop(gate);
    batcher.drain();
    for mut submission in accepted {
        admit(&mut submission).expect("answered already").expect("an answer");
    }
    batcher.drain();
    assert_eq!(refused(&batcher, Operation::Encode, matrix(FEATURES, &[41.0])), BatchError::ShuttingDown);
}

#[tokio::test]
async fn small_requests_queue_while_training_lacks_cpu_time() {
    let (min_share, (gate, compute)) = (Arc::new(MinCpuShare::in_debt(Duration::from_millis(1))), Gate::new());
    let batcher = Batcher::start_with(small_batches(), 1, Arc::clone(&min_share), compute, true).expect("starts");
    let mut waits = submission(&batcher, Operation::Encode, matrix(FEATURES, &[1.0]), None);
    assert!(admit(&mut waits).is_none());
    assert_eq!(gate.entered(), [1.0]);
    gate.release();
    waits.await.expect("an answer");
    // The thread that computed it pauses, and then training is owed nothing.
    let is_paid = async || if min_share.is_owed(Instant::now()) { Err("training is owed time") } else { Ok(()) };
    eventually("the thread pauses", is_paid).await;
    let at_once = submission(&batcher, Operation::Encode, matrix(FEATURES, &[1.0]), None);
    at_once.await.expect("an answer");
    assert_eq!(gate.batches.try_recv(), Err(std::sync::mpsc::TryRecvError::Empty), "computed inline");
}

#[test]
fn dropping_the_last_handle_ends_the_threads() {
    let (gate, compute) = Gate::new();
    let batcher = Batcher::start_with(small_batches(), 3, Arc::default(), compute, false).expect("starts");
    let other = batcher.clone();
    drop(batcher);
    assert_eq!(gate.batches.try_recv(), Err(std::sync::mpsc::TryRecvError::Empty), "one handle is left");
    drop(other);
    // The threads share the other end of this channel; it closes when the last of them returns.
    assert_eq!(gate.batches.recv(), Err(RecvError));
}
