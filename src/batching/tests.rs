//! The queue and its threads, with an arithmetic that the test controls.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use super::worker::Computed;
use super::*;
use crate::model::spec::{Loss, ModelSpec, NormalisationKind, RawModelSpec};
use crate::model::{Artifact, Autoencoder, MatrixError, ModelKey, Normaliser, TiedLayer, Values, Version};
use crate::numeric::matmul::Weights;
use crate::numeric::{Activation, Lanes};

/// A model of 2 features and a code of 1, never used to compute.
fn model(name: &str) -> Arc<LoadedModel> {
    let spec = ModelSpec::new(RawModelSpec {
        widths: vec![2, 1],
        encoder_activations: vec![Activation::Linear],
        decoder_activations: vec![Activation::Linear],
        loss: Loss::SquaredError,
        normalisation: NormalisationKind::None,
        gain: false,
        feature_names: vec![],
    })
    .expect("valid");
    let layer = TiedLayer {
        weight: Weights::from_row_major(1, 2, vec![1.0, 0.0]),
        encoder_bias: vec![0.0],
        decoder_bias: vec![0.0; 2],
        gain: None,
    };
    let normaliser = Normaliser { kind: NormalisationKind::None, offset: vec![], scale: vec![] };
    let key = ModelKey { name: name.parse().expect("a name"), version: Version::FIRST };
    let artifact =
        Artifact { model: Autoencoder::new(spec, normaliser, vec![layer]), report: None, sha256: String::new() };
    Arc::new(LoadedModel { key, artifact, file_bytes: 0 })
}

fn rows(values: &[f32]) -> Matrix {
    Matrix::new((values.len() / 2) as u32, 2, Values::Floats(values.to_vec())).expect("whole rows")
}

fn floats(output: Output) -> Vec<f32> {
    match output.matrix.into_values() {
        Values::Floats(values) => values,
        Values::Float32Le(_) => panic!("asked in floats"),
    }
}

/// The first feature as the code.
fn echo(_: &LoadedModel, _: Operation, rows: &Lanes) -> Computed {
    let mut values = Lanes::zeros(rows.rows(), 1);
    values.column_mut(0).copy_from_slice(rows.column(0));
    Computed { values, errors: None }
}

fn config() -> BatchingConfig {
    BatchingConfig { batch_rows_max: 16, queue_rows_max: 1000, queue_bytes_max: 1 << 20 }
}

fn started(config: BatchingConfig, threads: usize, compute: Arc<Compute>) -> Batcher {
    Batcher::start_with(config, threads, compute).expect("threads")
}

/// An arithmetic that waits at a gate: `entered` tells of each batch's rows, `open` lets one through.
struct Gate {
    entered: Mutex<mpsc::Receiver<usize>>,
    open: mpsc::Sender<()>,
}

fn gated() -> (Gate, Arc<Compute>) {
    let (tell, entered) = mpsc::channel();
    let (open, opened) = mpsc::channel();
    let (tell, opened) = (Mutex::new(tell), Mutex::new(opened));
    let compute = move |model: &LoadedModel, operation, rows: &Lanes| {
        tell.lock().expect("no panic").send(rows.rows()).expect("the test listens");
        opened.lock().expect("no panic").recv().expect("the test opens");
        echo(model, operation, rows)
    };
    (Gate { entered: Mutex::new(entered), open }, Arc::new(compute))
}

impl Gate {
    fn entered(&self) -> usize {
        self.entered.lock().expect("no panic").recv().expect("a batch comes")
    }
    fn open(&self) {
        self.open.send(()).expect("the worker waits");
    }
}

/// Waits (bounded) until as many rows wait as expected: submitting is a task of its own.
async fn until_waiting(batcher: &Batcher, rows: usize) {
    for _ in 0..100_000 {
        if batcher.inner.queue.waiting().0 == rows {
            return;
        }
        tokio::task::yield_now().await;
        std::thread::yield_now();
    }
    panic!("{} rows wait, expected {rows}", batcher.inner.queue.waiting().0);
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_get_their_own_rows_back() {
    let room = BatchingConfig { queue_rows_max: 100_000, ..config() };
    let batcher = started(room, 3, Arc::new(echo));
    let models = [model("a"), model("b")];
    let callers: Vec<_> = (0..200usize)
        .map(|i| {
            let (batcher, model) = (batcher.clone(), Arc::clone(&models[i % 2]));
            tokio::spawn(async move {
                let values: Vec<f32> = (0..=i % 40).flat_map(|row| [(i * 100 + row) as f32, 0.0]).collect();
                let output = batcher.submit(model, Operation::Encode, rows(&values), None).await.expect("served");
                let expected: Vec<f32> = values.iter().step_by(2).copied().collect();
                assert_eq!(floats(output), expected);
            })
        })
        .collect();
    for caller in callers {
        caller.await.expect("no panic");
    }
    assert_eq!(batcher.inner.queue.waiting(), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_wait_share_a_batch() {
    let (gate, compute) = gated();
    let batcher = started(config(), 1, compute);
    let submit = |value: f32| {
        let (batcher, model) = (batcher.clone(), model("a"));
        tokio::spawn(async move { batcher.submit(model, Operation::Encode, rows(&[value, 0.0]), None).await })
    };
    let first = submit(0.0);
    assert_eq!(gate.entered(), 1);
    let others: Vec<_> = (1..=10u8).map(|i| submit(f32::from(i))).collect();
    until_waiting(&batcher, 10).await;
    gate.open();
    assert_eq!(gate.entered(), 10, "all that waited, in one batch");
    gate.open();
    first.await.expect("no panic").expect("served");
    for (i, other) in others.into_iter().enumerate() {
        assert_eq!(floats(other.await.expect("no panic").expect("served")), [(i + 1) as f32]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_model_does_not_keep_a_small_one_waiting() {
    let (gate, compute) = gated();
    let batcher = started(config(), 1, compute);
    let large = {
        let batcher = batcher.clone();
        tokio::spawn(async move { batcher.submit(model("large"), Operation::Encode, rows(&[0.0; 200]), None).await })
    };
    assert_eq!(gate.entered(), 16);
    let small = {
        let batcher = batcher.clone();
        tokio::spawn(async move { batcher.submit(model("small"), Operation::Encode, rows(&[7.0, 0.0]), None).await })
    };
    until_waiting(&batcher, 85).await;
    gate.open();
    // The large request waited first, the small one's turn is next.
    let mut sizes = vec![gate.entered()];
    for _ in 0..6 {
        gate.open();
        sizes.push(gate.entered());
    }
    gate.open();
    assert!(sizes.iter().position(|rows| *rows == 1).expect("the small one") <= 1, "{sizes:?}");
    assert_eq!(floats(small.await.expect("no panic").expect("served")), [7.0]);
    assert_eq!(floats(large.await.expect("no panic").expect("served")), [0.0; 100]);
}

#[tokio::test(flavor = "multi_thread")]
async fn departed_callers_are_not_computed() {
    let (gate, compute) = gated();
    let batcher = started(config(), 1, compute);
    let submit = |count: usize| {
        let batcher = batcher.clone();
        tokio::spawn(
            async move { batcher.submit(model("a"), Operation::Encode, rows(&vec![1.0; count * 2]), None).await },
        )
    };
    let first = submit(1);
    assert_eq!(gate.entered(), 1);
    let leaves = submit(5);
    until_waiting(&batcher, 5).await;
    let stays = submit(3);
    until_waiting(&batcher, 8).await;
    leaves.abort();
    assert!(leaves.await.expect_err("aborted").is_cancelled());
    gate.open();
    assert_eq!(gate.entered(), 3, "only the one that stayed");
    gate.open();
    first.await.expect("no panic").expect("served");
    stays.await.expect("no panic").expect("served");
}

#[tokio::test(flavor = "multi_thread")]
async fn deadlines_are_kept_in_the_queue() {
    let (gate, compute) = gated();
    let batcher = started(config(), 1, compute);
    let first = {
        let batcher = batcher.clone();
        tokio::spawn(async move { batcher.submit(model("a"), Operation::Encode, rows(&[1.0, 0.0]), None).await })
    };
    assert_eq!(gate.entered(), 1);
    let soon = Instant::now() + Duration::from_millis(5);
    let late = batcher.submit(model("a"), Operation::Encode, rows(&[2.0; 8]), Some(soon)).await;
    assert_eq!(late, Err(BatchError::DeadlineExceeded));
    let past = Instant::now();
    let late = batcher.submit(model("a"), Operation::Encode, rows(&[2.0, 0.0]), Some(past)).await;
    assert_eq!(late, Err(BatchError::DeadlineExceeded));
    gate.open();
    first.await.expect("no panic").expect("served");
    let next = {
        let batcher = batcher.clone();
        tokio::spawn(async move { batcher.submit(model("a"), Operation::Encode, rows(&[3.0, 0.0]), None).await })
    };
    assert_eq!(gate.entered(), 1, "the expired rows are not computed");
    gate.open();
    next.await.expect("no panic").expect("served");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_refuses_at_once_and_makes_room_for_those_who_left() {
    let (gate, compute) = gated();
    let batcher = started(BatchingConfig { queue_rows_max: 10, ..config() }, 1, compute);
    let submit = |count: usize| {
        let batcher = batcher.clone();
        tokio::spawn(
            async move { batcher.submit(model("a"), Operation::Encode, rows(&vec![1.0; count * 2]), None).await },
        )
    };
    let first = submit(1);
    assert_eq!(gate.entered(), 1);
    let waits = submit(8);
    until_waiting(&batcher, 8).await;
    let refused = batcher.submit(model("a"), Operation::Encode, rows(&[1.0; 6]), None).await;
    match refused {
        Err(BatchError::Full { waiting_rows: 8, rows_max: 10, retry_after, .. }) => {
            assert!((RETRY.0..=RETRY.1).contains(&retry_after), "{retry_after:?}");
        }
        other => panic!("{other:?}"),
    }
    let never = batcher.submit(model("a"), Operation::Encode, rows(&[1.0; 22]), None).await;
    assert!(matches!(never, Err(BatchError::TooLarge { rows: 11, rows_max: 10, .. })), "{never:?}");
    waits.abort();
    assert!(waits.await.is_err());
    let fits = submit(3);
    until_waiting(&batcher, 3).await;
    gate.open();
    assert_eq!(gate.entered(), 3);
    gate.open();
    first.await.expect("no panic").expect("served");
    fits.await.expect("no panic").expect("served");
}

const RETRY: (Duration, Duration) = (Duration::from_millis(1), Duration::from_secs(10));

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_fails_its_batch_and_the_thread_goes_on() {
    let compute = |model: &LoadedModel, operation: Operation, rows: &Lanes| {
        assert!(rows.at(0, 0) >= 0.0, "a bug");
        echo(model, operation, rows)
    };
    let batcher = started(config(), 1, Arc::new(compute));
    let lost = batcher.submit(model("a"), Operation::Encode, rows(&[-1.0, 0.0]), None).await;
    assert_eq!(lost, Err(BatchError::WorkerLost));
    let served = batcher.submit(model("a"), Operation::Encode, rows(&[4.0, 0.0]), None).await;
    assert_eq!(floats(served.expect("served")), [4.0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_members_numbers_do_not_touch_its_batch_mates() {
    let (gate, compute) = gated();
    let batcher = started(config(), 1, compute);
    let submit = |values: Vec<f32>| {
        let batcher = batcher.clone();
        tokio::spawn(async move { batcher.submit(model("a"), Operation::Encode, rows(&values), None).await })
    };
    let first = submit(vec![0.0, 0.0]);
    assert_eq!(gate.entered(), 1);
    let nan = submit(vec![1.0, 0.0, 1.0, f32::NAN]);
    until_waiting(&batcher, 2).await;
    let good = submit(vec![5.0, 0.0]);
    until_waiting(&batcher, 3).await;
    gate.open();
    assert_eq!(gate.entered(), 1, "the broken request never joins the batch");
    gate.open();
    first.await.expect("no panic").expect("served");
    match nan.await.expect("no panic") {
        Err(BatchError::Matrix(MatrixError::NotFinite { row: 1, column: 1, .. })) => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(floats(good.await.expect("no panic").expect("served")), [5.0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_is_not_finite_names_its_row() {
    let compute = |model: &LoadedModel, operation: Operation, rows: &Lanes| {
        let mut computed = echo(model, operation, rows);
        for value in computed.values.column_mut(0) {
            *value = if *value == 9.0 { f32::INFINITY } else { *value };
        }
        computed
    };
    let batcher = started(config(), 1, Arc::new(compute));
    // 20 rows are two batches: the row of the request is named, not that of the batch.
    let mut values = vec![0.0; 40];
    values[36] = 9.0;
    let broken = batcher.submit(model("a"), Operation::Encode, rows(&values), None).await;
    assert_eq!(broken, Err(BatchError::ResultNotFinite { row: 18 }));
}

#[tokio::test(flavor = "multi_thread")]
async fn draining_answers_what_was_accepted_and_refuses_the_rest() {
    let (gate, compute) = gated();
    let batcher = started(config(), 1, compute);
    let accepted: Vec<_> = (0..5)
        .map(|_| {
            let batcher = batcher.clone();
            tokio::spawn(async move { batcher.submit(model("a"), Operation::Encode, rows(&[1.0; 40]), None).await })
        })
        .collect();
    assert_eq!(gate.entered(), 16);
    until_waiting(&batcher, 84).await;
    batcher.inner.queue.close();
    let refused = batcher.submit(model("a"), Operation::Encode, rows(&[1.0, 0.0]), None).await;
    assert_eq!(refused, Err(BatchError::ShuttingDown));
    for _ in 0..7 {
        gate.open();
    }
    let drained = batcher.clone();
    tokio::task::spawn_blocking(move || {
        drained.drain();
        drained.drain();
    })
    .await
    .expect("no panic");
    for caller in accepted {
        assert_eq!(floats(caller.await.expect("no panic").expect("answered")), [1.0; 20]);
    }
}

/// Counts its end.
struct Counted(Arc<AtomicUsize>);
impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_threads_end_with_the_last_handle() {
    let ended = Arc::new(AtomicUsize::new(0));
    let counted = Counted(Arc::clone(&ended));
    let batcher = started(
        config(),
        2,
        Arc::new(move |model: &LoadedModel, operation, rows: &Lanes| {
            let _ = &counted;
            echo(model, operation, rows)
        }),
    );
    drop(batcher.clone());
    assert_eq!(ended.load(Ordering::SeqCst), 0);
    tokio::task::spawn_blocking(move || drop(batcher)).await.expect("no panic");
    assert_eq!(ended.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_wrong_width_is_refused_before_it_waits() {
    let batcher = started(config(), 1, Arc::new(echo));
    let wide = Matrix::new(1, 3, Values::Floats(vec![0.0; 3])).expect("whole");
    let refused = batcher.submit(model("a"), Operation::Encode, wide.clone(), None).await;
    assert_eq!(refused, Err(BatchError::Columns { what: "the input", got: 3, expected: 2 }));
    let refused = batcher.submit(model("a"), Operation::Decode, wide, None).await;
    assert_eq!(refused, Err(BatchError::Columns { what: "the code", got: 3, expected: 1 }));
}

#[test]
fn bounds_that_admit_nothing_are_refused() {
    let none = BatchingConfig { batch_rows_max: 0, ..BatchingConfig::default() };
    assert_eq!(none.check(), Err(BadBatching { setting: "batch_rows_max" }));
    assert_eq!(BatchingConfig::default().check(), Ok(()));
}
