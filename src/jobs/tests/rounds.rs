//! Rounds of a stream.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_round_expires_only_without_its_stream() {
    let folder = folder();
    let server = Server::open(folder.path(), until_stopped).await;
    let key: IdempotencyKey = "rounds".parse().expect("a key");
    let owner = Owner::default();
    let checked = || spec().check().expect("valid");
    let begin = async || server.jobs.begin_round(checked(), &key, Priority::default(), &owner).await;
    let Ok((_, Begun::Uploading { mut upload, snapshot, .. })) = begin().await else { panic!("a new stream") };
    upload.append(1, RowRole::Training, rows(40, 0)).await.expect("appends");
    let late = SystemTime::now() + 10 * JobsConfig::new(folder.path().to_owned()).upload_idle_max;
    for (upload, state) in [(Some(upload), JobState::Uploading), (None, JobState::Cancelled)] {
        let manager = Arc::clone(&server.jobs.manager);
        tokio::task::spawn_blocking(move || manager.expire(late)).await.expect("no panic");
        assert_eq!(server.jobs.snapshot(&snapshot.id).expect("known").state, state);
        drop(upload);
    }
    let error = begin().await.expect_err("its rows are gone");
    assert!(matches!(&error, JobError::Ended { .. }) && error.to_string().contains("expired"), "{error}");
    server.crash().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_between_rounds_keeps_the_held_out_rows() {
    let folder = folder();
    let server = Server::open(folder.path(), until_stopped).await;
    let (key, checked) = ("key".parse().expect("a key"), spec().check().expect("valid"));
    let begun = server.jobs.begin_round(checked, &key, Priority::default(), &Owner::default()).await.expect("begins");
    let (round, Begun::Uploading { mut upload, snapshot, .. }) = begun else { panic!("{begun:?}") };
    upload.append(1, RowRole::Training, rows(40, 0)).await.expect("appends");
    // The first half of ending a round: the next round exists, but this one is still uploading.
    let manager = Arc::clone(&server.jobs.manager);
    let next = {
        let job = manager.registry.job(&snapshot.id).expect("known");
        let counts = job.spool.lock().expect("free").as_ref().expect("a spool").counts();
        let handed_on = held_out::hand_on(&job, counts).expect("reads");
        assert_eq!(handed_on.len(), 8 * 3, "a fifth");
        manager.next_round(&job, &round.next(1, 40), &handed_on).expect("makes").id.clone()
    };
    drop((upload, manager));
    server.crash().await;

    let server = Server::open(folder.path(), until_stopped).await;
    let store = server.jobs.manager.shared.store.as_ref();
    assert_eq!(server.until(&snapshot.id, JobState::Running).await.state, JobState::Running);
    let given = held_out::read(store, &next, 3).expect("reads");
    assert_eq!(given.len(), 8 * 3);
    let checked = spec().check().expect("valid");
    let (round, begun) =
        server.jobs.begin_round(checked, &key, Priority::default(), &Owner::default()).await.expect("begins");
    assert_eq!((round.number, round.chunks_before, round.rows_before), (2, 1, 40));
    let Begun::Uploading { mut upload, .. } = begun else { panic!("{begun:?}") };
    upload.append(1, RowRole::Training, rows(40, 5)).await.expect("appends");
    let (second, round) = upload.cut().await.expect("cuts");
    assert_eq!((second.state, round.number, round.rows_before), (JobState::Queued, 3, 80));
    let given = held_out::read(store, &upload_id(&server, &key, 3), 3).expect("reads");
    assert_eq!(given.len(), 16 * 3, "its own and those of the previous round");
    // It can start only when the round before has ended.
    assert_eq!(server.jobs.snapshot(&second.id).expect("known").state, JobState::Queued);
    server.jobs.cancel(&snapshot.id).await.expect("runs");
    assert_eq!(server.until(&second.id, JobState::Running).await.state, JobState::Running);
    server.crash().await;
}

/// If a second stream resumes while the first one ends a round, the first one does not take the next round back.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_resumes_between_rounds_owns_the_next_round() {
    let folder = folder();
    let server = Server::open(folder.path(), until_stopped).await;
    let key: IdempotencyKey = "key".parse().expect("a key");
    let owner = Owner::default();
    let checked = || spec().check().expect("valid");
    let begin = async || server.jobs.begin_round(checked(), &key, Priority::default(), &owner).await;
    let Ok((round, Begun::Uploading { upload: mut old, snapshot, .. })) = begin().await else { panic!("new") };
    old.append(1, RowRole::Training, rows(40, 0)).await.expect("appends");
    // The next round exists, and the old stream has not reached it yet.
    let manager = Arc::clone(&server.jobs.manager);
    let job = manager.registry.job(&snapshot.id).expect("known");
    manager.next_round(&job, &round.next(1, 40), &[]).expect("makes");
    let next = manager.registry.newest_round(&key, &owner).expect("made");
    let turn = Arc::clone(&manager.turns.creating).lock_owned().await;
    let key = (Some(next.key()), owner.clone());
    let begun = manager.begin(&checked(), None, key, Priority::default(), Some(next), turn);
    let Ok(Begun::Uploading { upload: mut new, .. }) = begun else { panic!("{begun:?}") };
    let error = old.cut().await.expect_err("too late");
    assert!(matches!(error, JobError::TakenOver(_)), "{error}");
    new.append(1, RowRole::Training, rows(40, 5)).await.expect("still has it");
    server.crash().await;
}

fn upload_id(server: &Server, stream: &IdempotencyKey, number: u64) -> JobId {
    let rounds = server.jobs.rounds(stream, &Owner::default());
    let found = rounds.iter().find(|job| job.round.as_ref().is_some_and(|round| round.number == number));
    found.expect("a round").id.clone()
}
