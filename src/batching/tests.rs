//! Tests of the whole batching layer, with arithmetic that echoes, blocks, panics or overflows on command.

mod departures;
pub(super) mod either;
mod interleavings;

use std::pin::Pin;
use std::sync::mpsc::{Receiver, RecvError, Sender, channel};
use std::task::Poll;
use std::time::Duration;

use super::*;
use crate::model::computed::Computed;
use crate::model::normalization::Normalizer;
use crate::model::spec::RawModelSpec;
use crate::model::{
    Artifact, Autoencoder, Loss, MatrixError, ModelKey, ModelSpec, NormalizationKind, Space, TiedLayer, Values, Version,
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

#[test]
fn expired_requests_are_dropped_when_their_turn_comes() {
    let queue = Queue::new(small_batches(), 1);
    let now = Instant::now();
    let admitted: Vec<_> = [None, Some(now + Duration::from_secs(5)), Some(now + Duration::from_secs(50))]
        .into_iter()
        .zip([1.0, 2.0, 3.0])
        .map(|(deadline, first)| {
            let rows = matrix(FEATURES, &[first]);
            let urgency = Urgency::Interactive;
            let request = Request {
                model: model(1),
                operation: Operation::Encode,
                rows,
                answer: Form::Floats,
                deadline,
                urgency,
            };
            queue.admit(request).expect("room")
        })
        .collect();
    let batch = queue.take(now + Duration::from_secs(5)).expect("a batch");
    let tickets: Vec<u64> = batch.iter().map(|piece| piece.ticket).collect();
    assert_eq!(tickets, [admitted[0].ticket, admitted[2].ticket]);
    let [_, mut expired, _] = <[Admitted; 3]>::try_from(admitted).expect("three");
    assert_eq!(expired.answer.try_recv().expect("answered").expect_err("late"), BatchError::DeadlineExceeded);
    assert_eq!(queue.waiting().0, 2);
}

#[test]
fn unreachable_deadlines_fail_at_once() {
    let queue = Queue::new(BatchingConfig::default(), 1);
    let now = Instant::now();
    let request = |rows: usize, ms: Option<u64>| Request {
        model: model(1),
        operation: Operation::Encode,
        rows: matrix(FEATURES, &vec![1.0; rows]),
        answer: Form::Floats,
        deadline: ms.map(|ms| now + Duration::from_millis(ms)),
        urgency: Urgency::Interactive,
    };
    queue.admit(request(1_000, None)).expect("room");
    queue.admit(request(1, Some(1_000))).expect("nothing was measured yet");
    queue.record(&request(1, None).key(), now, 100 * FEATURES * CODE, Duration::from_secs(1));
    let refused = queue.admit(request(1, Some(19_000))).expect_err("10 s of work are queued before it");
    assert_eq!(refused, BatchError::DeadlineExceeded);
    queue.admit(request(1, Some(21_000))).expect("the margin covers twice the predicted wait");
    queue.admit(request(1, None)).expect("without a deadline it is queued");
    let other = Request { operation: Operation::Reconstruct, ..request(1, Some(400)) };
    queue.admit(other).expect("its queue is empty, and queues take turns");
}

#[tokio::test]
async fn deadlines_hold_while_the_serving_thread_is_busy() {
    let (batcher, gate, first) = busy(small_batches());
    let deadline = Some(Instant::now() + Duration::from_millis(5));
    let late = submission(&batcher, Operation::Encode, matrix(FEATURES, &[1.0]), deadline).await;
    assert_eq!(late.expect_err("late"), BatchError::DeadlineExceeded);
    assert_eq!(batcher.stats().waiting_rows, 1, "its place is free");
    let past = submission(&batcher, Operation::Encode, matrix(FEATURES, &[1.0]), Some(Instant::now())).await;
    assert_eq!(past.expect_err("late"), BatchError::DeadlineExceeded);
    gate.release();
    first.await.expect("an answer");
    assert_eq!(batcher.stats().rows, 1);
}

#[tokio::test]
async fn a_full_queue_rejects_with_a_retry_delay() {
    let (batcher, gate, first) = busy(BatchingConfig { queue_rows_max: 10, ..small_batches() });
    let waits = queued(&batcher, matrix(FEATURES, &[1.0; 6]));
    match refused(&batcher, Operation::Encode, matrix(FEATURES, &[2.0; 4])) {
        BatchError::Full { waiting_rows: 7, rows_max: 10, waiting_bytes, retry_after, .. } => {
            assert_eq!(waiting_bytes, 7 * (FEATURES + CODE) * 4, "questions and answers");
            assert!((Duration::from_millis(1)..=Duration::from_secs(10)).contains(&retry_after), "{retry_after:?}");
        }
        other => panic!("{other}"),
    }
    let fits = queued(&batcher, matrix(FEATURES, &[2.0; 3]));
    gate.release();
    gate.release();
    for submission in [first, waits, fits] {
        submission.await.expect("an answer");
    }
    // A caller with a response finds the space of its request free.
    let again = queued(&batcher, matrix(FEATURES, &[3.0; 10]));
    gate.release();
    again.await.expect("an answer");
}

/// The sizes are above [`request::SMALL_BYTES_MAX`], because smaller requests are never rejected early.
#[test]
fn requests_without_space_are_rejected_early() {
    let (_gate, compute) = Gate::new();
    let config = BatchingConfig { queue_rows_max: 100_000, ..small_batches() };
    let batcher = Batcher::start_with(config, 1, Arc::default(), compute, false).expect("starts");
    let model = model(1);
    let bytes = |rows: usize| rows * FEATURES * 4;
    let early = |rows: usize| batcher.refuse_early(&model, Operation::Encode, bytes(rows));
    assert!(!batcher.is_busy());
    assert_eq!(early(10_000), None);
    let _waits = queued(&batcher, matrix(FEATURES, &vec![1.0; 60_000]));
    assert!(batcher.is_busy());
    assert_eq!(early(20_000), None, "there is room");
    match early(45_000) {
        Some(BatchError::Full { waiting_rows, rows_max: 100_000, .. }) => assert!(waiting_rows >= 59_984),
        other => panic!("{other:?}"),
    }
    assert_eq!(batcher.stats().refused, 1);
    let _waits = queued(&batcher, matrix(FEATURES, &vec![1.0; 20_000]));
    assert!(matches!(early(5_000), Some(BatchError::Full { .. })), "the queue has used its share");
    assert_eq!(batcher.refuse_early(&model, Operation::Decode, bytes(5_000)), None, "another queue has not");
    assert_eq!(early(request::SMALL_BYTES_MAX / bytes(1)), None, "a small request may need no room");
}

#[tokio::test]
async fn queued_bytes_are_limited() {
    let row_bytes = (FEATURES + CODE) * 4;
    let (batcher, gate, first) = busy(BatchingConfig { queue_bytes_max: 4 * row_bytes, ..small_batches() });
    let error = refused(&batcher, Operation::Encode, matrix(FEATURES, &[1.0; 4]));
    assert!(matches!(error, BatchError::Full { waiting_rows: 1, .. }), "{error}");
    let error = refused(&batcher, Operation::Encode, matrix(FEATURES, &[1.0; 5]));
    let expected = BatchError::TooLarge { rows: 5, bytes: 100, rows_max: 65_536, bytes_max: 80 };
    assert_eq!(error, expected, "never admissible");
    gate.release();
    first.await.expect("an answer");
}

#[test]
fn a_wrong_width_is_rejected_before_queueing() {
    let batcher = echoing(1);
    let expected = BatchError::Columns { what: "the code", got: FEATURES, expected: CODE };
    assert_eq!(refused(&batcher, Operation::Decode, matrix(FEATURES, &[1.0])), expected);
    for operation in [Operation::Encode, Operation::Reconstruct] {
        let expected = BatchError::Columns { what: "the input", got: CODE, expected: FEATURES };
        assert_eq!(refused(&batcher, operation, matrix(CODE, &[1.0])), expected);
    }
}

#[tokio::test]
async fn a_panic_fails_its_batch_alone() {
    let (batcher, gate, first) = busy(small_batches());
    let members: Vec<_> = [1.0, PANICS, 3.0].map(|row| queued(&batcher, matrix(FEATURES, &[row]))).into();
    gate.release();
    gate.release();
    first.await.expect("an answer");
    for member in members {
        assert_eq!(member.await.expect_err("lost"), BatchError::WorkerLost);
    }
    let next = queued(&batcher, matrix(FEATURES, &[4.0]));
    gate.release();
    next.await.expect("the thread goes on");
    assert_eq!(batcher.stats().waiting_bytes, 0);
}

#[tokio::test]
async fn a_panic_fails_the_whole_of_a_split_request() {
    let batcher = echoing(1);
    let mut firsts = vec![1.0; 500];
    firsts[100] = PANICS;
    let lost = batcher
        .submit(model(1), Operation::Encode, matrix(FEATURES, &firsts), Form::Floats, None, Urgency::Interactive)
        .await;
    assert_eq!(lost.expect_err("lost"), BatchError::WorkerLost);
    batcher.drain();
    let stats = batcher.stats();
    assert_eq!(stats.rows, 96, "six batches before it, and none after");
    assert_eq!((stats.waiting_rows, stats.waiting_bytes), (0, 0));
}

#[tokio::test]
async fn a_non_finite_value_fails_only_its_own_request() {
    let not_finite = |row| MatrixError::NotFinite { row, column: 0, value: f32::INFINITY };
    let (batcher, gate, first) = busy(BatchingConfig::default());
    // A small request is checked before it is queued.
    let mut firsts = vec![1.0; 2_000];
    firsts[7] = f32::INFINITY;
    let error = refused(&batcher, Operation::Encode, matrix(FEATURES, &firsts[..10]));
    assert_eq!(error, BatchError::Matrix(not_finite(7)));
    // A large request is checked before it joins a batch, wherever the bad value is.
    firsts[7] = 1.0;
    firsts[1_999] = f32::INFINITY;
    let before = queued(&batcher, matrix(FEATURES, &[2.0]));
    let wrong = queued(&batcher, matrix(FEATURES, &firsts));
    let after = queued(&batcher, matrix(FEATURES, &[3.0]));
    for _ in 0..3 {
        gate.release();
    }
    assert_eq!(wrong.await.expect_err("refused"), BatchError::Matrix(not_finite(1_999)));
    for mate in [first, before, after] {
        mate.await.expect("an answer");
    }
    assert_eq!(batcher.stats().rows, 3, "no row of it was computed");
}

#[tokio::test]
async fn a_non_finite_result_fails_only_its_own_request() {
    let (batcher, gate, first) = busy(small_batches());
    let before = queued(&batcher, matrix(FEATURES, &[1.0, 2.0]));
    let mut firsts = [3.0; 20];
    firsts[17] = OVERFLOWS;
    let wrong = queued(&batcher, matrix(FEATURES, &firsts));
    let after = queued(&batcher, matrix(FEATURES, &[4.0]));
    for _ in 0..3 {
        gate.release();
    }
    assert_eq!(wrong.await.expect_err("too large"), BatchError::ResultNotFinite { row: 17 });
    check_echo(&before.await.expect("an answer"), Operation::Encode, &model(1), &[1.0, 2.0]);
    check_echo(&after.await.expect("an answer"), Operation::Encode, &model(1), &[4.0]);
    first.await.expect("an answer");
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
    for _ in 0..10_000 {
        if !min_share.is_owed(Instant::now()) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(!min_share.is_owed(Instant::now()), "the thread paused");
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

#[track_caller]
fn check_bounds(config: BatchingConfig, expected: &str) {
    assert_eq!(config.check().expect_err("refused").to_string(), expected);
    assert_eq!(Batcher::start(config, 1, Arc::default()).expect_err("refused").kind(), io::ErrorKind::InvalidInput);
}

#[test]
fn invalid_limits_are_rejected() {
    let default = BatchingConfig::default();
    assert_eq!(default.check(), Ok(()));
    for got in [0, 8, 100, 65_552] {
        let expected = format!("batch_rows_max is {got}, expected a multiple of 16 from 16 to 65536 rows");
        check_bounds(BatchingConfig { batch_rows_max: got, ..default }, &expected);
    }
    check_bounds(BatchingConfig { queue_rows_max: 0, ..default }, "queue_rows_max is 0, expected at least 1 row");
    check_bounds(BatchingConfig { queue_bytes_max: 0, ..default }, "queue_bytes_max is 0, expected at least 1 byte");
    assert_eq!(Batcher::start(default, 0, Arc::default()).expect_err("refused").kind(), io::ErrorKind::InvalidInput);
}
