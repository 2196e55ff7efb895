//! Tests of panics and of values that are not finite.

use super::*;
use crate::model::MatrixError;

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
