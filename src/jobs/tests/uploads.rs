//! Uploads: chunks, keys, streams that take over, and uploads that expire.

use proptest::prelude::*;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_chunks_survive_and_the_upload_goes_on() {
    let folder = folder();
    let server = Server::open(folder.path(), until_stopped).await;
    let (mut upload, first, last) = server.uploading(spec(), "key").await;
    assert_eq!(last, 0);
    assert_eq!(upload.append(1, RowRole::Training, rows(5, 0)).await.expect("appends"), [at(1, 5)]);
    assert_eq!(upload.append(2, RowRole::Test, rows(2, 5)).await.expect("appends"), [at(2, 7)]);
    drop(upload);
    server.crash().await;
    let server = Server::open(folder.path(), until_stopped).await;
    let (mut upload, again, last) = server.uploading(spec(), "key").await;
    assert_eq!((again.id, last, again.training_rows, again.test_rows), (first.id.clone(), 2, 5, 2));
    assert_eq!(upload.append(2, RowRole::Test, rows(2, 5)).await.expect("again"), [at(2, 7)]);
    for (role, other) in [(RowRole::Training, rows(2, 5)), (RowRole::Test, rows(2, 6)), (RowRole::Test, rows(3, 5))] {
        let differs = upload.append(2, role, other).await;
        assert!(matches!(differs, Err(JobError::ChunkDiffers { number: 2 })), "{differs:?}");
    }
    let zero = upload.append(0, RowRole::Training, rows(1, 0)).await;
    assert!(matches!(zero, Err(JobError::ChunkZero { expected: 3 })), "{zero:?}");
    upload.finish(2, 7).await.expect("finishes");
    assert_eq!(server.until(&first.id, JobState::Running).await.state, JobState::Running);
    match server.begin(spec(), "key").await.expect("known") {
        Begun::Complete { snapshot, last_chunk } => assert_eq!((snapshot.id, last_chunk), (first.id, 2)),
        other => panic!("{other:?}"),
    }
    server.crash().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_belongs_to_one_specification_and_its_last_stream() {
    let folder = folder();
    let server = Server::open(folder.path(), until_stopped).await;
    let (mut first, snapshot, _) = server.uploading(spec(), "key").await;
    let other = TrainSpec { seed: 9, ..spec() };
    assert!(matches!(server.begin(other, "key").await, Err(JobError::KeyTaken { job, .. }) if job == snapshot.id));
    let (mut second, ..) = server.uploading(spec(), "key").await;
    assert!(matches!(first.taken_over().await, JobError::TakenOver(id) if id == snapshot.id));
    assert!(matches!(first.append(1, RowRole::Training, rows(1, 0)).await, Err(JobError::TakenOver(_))));
    assert!(matches!(first.finish(0, 0).await, Err(JobError::TakenOver(_))));
    second.append(1, RowRole::Training, rows(1, 0)).await.expect("has it now");
    server.crash().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn inconsistent_uploads_are_rejected() {
    let folder = folder();
    let server = Server::open(folder.path(), until_stopped).await;
    let (mut upload, ..) = server.uploading(spec(), "sums").await;
    let wide = Matrix::new(1, 4, Values::Floats(vec![0.0; 4])).expect("whole");
    let refused = upload.append(1, RowRole::Training, wide).await;
    assert!(matches!(refused, Err(JobError::Columns { got: 4, expected: 3 })), "{refused:?}");
    let broken = Matrix::new(1, 3, Values::Floats(vec![0.0, f32::NAN, 0.0])).expect("whole");
    assert!(matches!(upload.append(1, RowRole::Training, broken).await, Err(JobError::Matrix(_))));
    upload.append(1, RowRole::Test, rows(2, 0)).await.expect("appends");
    let refused = upload.finish(1, 2).await;
    assert!(matches!(refused, Err(JobError::NoTrainingRows)), "{refused:?}");
    let (mut upload, _, last) = server.uploading(spec(), "sums").await;
    assert_eq!(last, 1, "a refused finish loses nothing");
    upload.append(2, RowRole::Training, rows(3, 0)).await.expect("appends");
    let refused = upload.finish(2, 6).await;
    assert!(matches!(refused, Err(JobError::CountsDiffer { rows: 6, rows_here: 5, .. })), "{refused:?}");
    server.crash().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn early_chunks_are_stored_after_their_predecessors() {
    let folder = folder();
    let server = Server::open(folder.path(), until_stopped).await;
    let (mut upload, snapshot, _) = server.uploading(spec(), "ahead").await;
    assert_eq!(upload.append(3, RowRole::Test, rows(3, 3)).await.expect("is kept"), []);
    assert_eq!(upload.append(2, RowRole::Training, rows(2, 2)).await.expect("is kept"), []);
    assert_eq!(upload.append(3, RowRole::Test, rows(3, 3)).await.expect("is kept once"), []);
    let differs = upload.append(3, RowRole::Test, rows(3, 4)).await;
    assert!(matches!(differs, Err(JobError::ChunkDiffers { number: 3 })), "{differs:?}");
    let wide = Matrix::new(1, 4, Values::Floats(vec![0.0; 4])).expect("whole");
    assert!(matches!(upload.append(4, RowRole::Test, wide).await, Err(JobError::Columns { .. })), "at once");
    let early = upload.append(1, RowRole::Training, rows(1, 1)).await.expect("is next");
    assert_eq!(early, [at(1, 1), at(2, 3), at(3, 6)]);
    assert_eq!(upload.append(5, RowRole::Training, rows(1, 1)).await.expect("is kept"), []);
    drop(upload);
    let (upload, again, last) = server.uploading(spec(), "ahead").await;
    assert_eq!((again.id, last), (snapshot.id, 3), "buffered chunks are dropped with their stream");
    upload.finish(3, 6).await.expect("finishes");
    server.crash().await;
}

/// The holder of a spool lock already has a thread, so any number of waiting threads cannot block it.
#[test]
fn many_uploads_need_few_threads() {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).max_blocking_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let folder = folder();
        let server = Server::open(folder.path(), until_stopped).await;
        let mut clients = tokio::task::JoinSet::new();
        for client in 0..60 {
            let jobs = server.jobs.clone();
            clients.spawn(async move {
                for _ in 0..4 {
                    let key = format!("{}", client % 6).parse().expect("a key");
                    let begun = jobs
                        .begin(spec().check().expect("valid"), Some(key), Priority::default(), Owner::default())
                        .await;
                    let Ok(Begun::Uploading { mut upload, last_chunk, .. }) = begun else { panic!("{begun:?}") };
                    match upload.append(last_chunk + 1, RowRole::Training, rows(3, 0)).await {
                        Ok(_) | Err(JobError::TakenOver(_)) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            });
        }
        let all = tokio::time::timeout(Duration::from_mins(1), clients.join_all());
        all.await.expect("no task waits forever");
        server.crash().await;
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_upload_expires() {
    let folder = folder();
    let server = Server::open(folder.path(), until_stopped).await;
    let (mut upload, snapshot, _) = server.uploading(spec(), "slow").await;
    let expires = snapshot.upload_expires.expect("an upload");
    for (now, state) in [
        (expires - Duration::from_secs(1), JobState::Uploading),
        (expires + Duration::from_secs(1), JobState::Cancelled),
    ] {
        let manager = Arc::clone(&server.jobs.manager);
        tokio::task::spawn_blocking(move || manager.expire(now)).await.expect("no panic");
        assert_eq!(server.jobs.snapshot(&snapshot.id).expect("known").state, state);
    }
    let error = upload.taken_over().await;
    assert!(error.to_string().contains("expired"), "{error}");
    assert!(matches!(server.begin(spec(), "slow").await, Ok(Begun::Complete { .. })));
    server.crash().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_abandoned_upload_without_a_row_expires_within_minutes() {
    let folder = folder();
    let server = Server::open(folder.path(), until_stopped).await;
    let (attached, first, _) = server.uploading(spec(), "attached").await;
    let (mut with_rows, second, _) = server.uploading(spec(), "with rows").await;
    with_rows.append(1, RowRole::Training, rows(2, 0)).await.expect("appends");
    let (without, third, _) = server.uploading(spec(), "without").await;
    drop((with_rows, without));
    let manager = Arc::clone(&server.jobs.manager);
    let later = SystemTime::now() + Duration::from_mins(2);
    tokio::task::spawn_blocking(move || manager.expire(later)).await.expect("no panic");
    let state = |id| server.jobs.snapshot(id).expect("known").state;
    assert_eq!((state(&first.id), state(&second.id)), (JobState::Uploading, JobState::Uploading));
    assert_eq!(state(&third.id), JobState::Cancelled);
    drop(attached);
    server.crash().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_ends_watchers_and_uploads() {
    let folder = folder();
    let server = Server::open(folder.path(), until_stopped).await;
    let id = server.finished(spec(), "", 4).await;
    server.until(&id, JobState::Running).await;
    let (mut upload, ..) = server.uploading(spec(), "open").await;
    let mut news = server.jobs.watch(&id).expect("known");
    server.jobs.shut_down().await;
    assert!(matches!(upload.taken_over().await, JobError::ShuttingDown));
    assert!(matches!(upload.append(1, RowRole::Training, rows(1, 0)).await, Err(JobError::ShuttingDown)));
    assert!(matches!(server.begin(spec(), "").await, Err(JobError::ShuttingDown)));
    while news.changed().await.is_ok() {}
    server.jobs.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_different_owners_are_independent() {
    let folder = folder();
    let mut server = Server::open(folder.path(), until_stopped).await;
    let (a, b) = (Owner::new("a", "a"), Owner::new("b", "b"));
    let key: IdempotencyKey = "shared".parse().expect("a key");
    let begin = async |server: &Server, spec: TrainSpec, owner: &Owner| {
        let checked = spec.check().expect("valid");
        let begun = server.jobs.begin(checked, Some(key.clone()), Priority::default(), owner.clone()).await;
        match begun.expect("a job of its own") {
            Begun::Uploading { snapshot, .. } | Begun::Complete { snapshot, .. } => snapshot.id,
        }
    };
    let other = || TrainSpec { seed: 9, ..spec() };
    let of_a = begin(&server, spec(), &a).await;
    let of_b = begin(&server, other(), &b).await;
    let of_nobody = begin(&server, TrainSpec { seed: 10, ..spec() }, &Owner::default()).await;
    assert!(of_a != of_b && of_b != of_nobody);
    for _ in 0..2 {
        // Each caller finds its own job again, also after a restart.
        assert_eq!(begin(&server, spec(), &a).await, of_a);
        assert_eq!(begin(&server, other(), &b).await, of_b);
        server.crash().await;
        server = Server::open(folder.path(), until_stopped).await;
    }
    // The same holds for streams of rounds.
    let rounds = async |owner: &Owner| {
        let stream = "stream".parse().expect("a key");
        let checked = spec().check().expect("valid");
        let (_, begun) = server.jobs.begin_round(checked, &stream, Priority::default(), owner).await.expect("begins");
        match begun {
            Begun::Uploading { snapshot, .. } | Begun::Complete { snapshot, .. } => snapshot.id,
        }
    };
    let (first, second) = (rounds(&a).await, rounds(&b).await);
    assert_ne!(first, second);
    assert_eq!(rounds(&a).await, first);
    assert_eq!(server.jobs.rounds(&"stream".parse().expect("a key"), &b).len(), 1);
    server.crash().await;
}

/// Reads the training rows on disk.
fn kept(server: &Server, id: &JobId) -> Vec<f32> {
    use crate::training::RowSource as _;
    let told = server.jobs.snapshot(id).expect("known");
    let (chunks, training_rows, test_rows) = (told.chunks, told.training_rows, told.test_rows);
    let counts = spool::Counts { chunks, training_rows, test_rows, bytes: 0 };
    let job = server.jobs.manager.registry.job(id).expect("known");
    let received = rows::open(job.store(), id, 3, counts, &|| true).expect("whole").expect("not stopped");
    let mut values = vec![0.0; training_rows as usize * 3];
    received.training.read(0, &mut values).expect("reads");
    values
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// For any order of chunks, exactly the acknowledged chunks are on disk, each number once.
    #[test]
    fn any_order_of_chunks_keeps_exactly_the_acknowledged_rows(numbers in proptest::collection::vec(0u64..9, 1..25)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let folder = folder();
            let server = Server::open(folder.path(), until_stopped).await;
            let (mut upload, snapshot, _) = server.uploading(spec(), "order").await;
            let (mut came, mut stored) = (BTreeSet::new(), 0u64);
            for number in numbers {
                let outcome = upload.append(number, RowRole::Training, rows(1 + number as usize, number as usize)).await;
                if number == 0 {
                    outcome.expect_err("numbers begin with 1");
                    continue;
                }
                came.insert(number);
                let next = (1..=u64::MAX).find(|number| !came.contains(number)).expect("they did not all come");
                let expected: Vec<u64> = if number <= stored { vec![number] } else { (stored + 1..next).collect() };
                stored = next - 1;
                let acknowledged: Vec<u64> = outcome.expect("is taken").iter().map(|one| one.number).collect();
                assert_eq!(acknowledged, expected, "chunk {number} of {came:?}");
            }
            let expected: Vec<f32> = (1..=stored)
                .flat_map(|number| rows(1 + number as usize, number as usize).into_values().to_f32())
                .collect();
            assert_eq!(kept(&server, &snapshot.id), expected);
            server.crash().await;
        });
    }
}
