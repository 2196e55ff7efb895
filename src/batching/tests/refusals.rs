//! Tests of what is refused: late, too large or malformed requests, and invalid limits.

use super::*;

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
