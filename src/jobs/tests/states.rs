//! State changes: publish, cancel, pause, resume, fail.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn rows_become_a_published_version() {
    let folder = folder();
    let server = Server::open(folder.path(), train_and_publish).await;
    let id = server.finished(spec(), "", 40).await;
    let ended = server.until(&id, JobState::Succeeded).await;
    assert_eq!((ended.state, ended.version), (JobState::Succeeded, Some(Version::FIRST)), "{ended:?}");
    let report = ended.report.expect("a report");
    assert_eq!((report.job_id.as_str(), report.data_sha256.len()), (id.as_str(), 64));
    assert!(server.jobs.manager.models.store().entry(&"model".parse().expect("a name")).is_some());
    server.crash().await;
    let spool = file_of(folder.path(), &id, "rows.spool");
    assert!(!spool.exists(), "the rows are removed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_can_be_cancelled_in_every_state_but_ended() {
    let folder = folder();
    let server = Server::open(folder.path(), until_stopped).await;
    let running = server.finished(spec(), "", 4).await;
    server.until(&running, JobState::Running).await;
    let queued = server.finished(spec(), "", 4).await;
    assert_eq!(server.jobs.snapshot(&queued).expect("known").state, JobState::Queued);
    let (mut upload, uploading, _) = server.uploading(spec(), "").await;
    for id in [&queued, &uploading.id, &running] {
        let cancelled = server.jobs.cancel(id).await.expect("has not ended");
        assert_eq!(cancelled.state, JobState::Cancelled);
        let again = server.jobs.cancel(id).await;
        assert!(matches!(again, Err(JobError::IllegalMove(_))), "{again:?}");
        assert!(!file_of(folder.path(), id, "rows.spool").exists() || id == &running);
    }
    assert!(matches!(upload.taken_over().await, JobError::Ended { .. }));
    assert!(matches!(upload.append(1, RowRole::Training, rows(1, 0)).await, Err(JobError::Ended { .. })));
    let unknown = server.jobs.cancel(&JobId::new()).await;
    assert!(matches!(unknown, Err(JobError::Unknown(_))));
    server.crash().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_waits_or_runs_can_be_paused_and_resumed() {
    let folder = folder();
    let server = Server::open(folder.path(), until_stopped).await;
    let running = server.finished(spec(), "", 4).await;
    server.until(&running, JobState::Running).await;
    let queued = server.finished(spec(), "", 4).await;
    for id in [&queued, &running] {
        assert_eq!(server.jobs.pause(id).await.expect("waits or runs").state, JobState::Paused);
        let again = server.jobs.pause(id).await;
        assert!(matches!(again, Err(JobError::IllegalMove(_))), "{again:?}");
    }
    let third = server.finished(spec(), "", 4).await;
    server.until(&third, JobState::Running).await;
    server.jobs.cancel(&third).await.expect("runs");
    assert_eq!(server.jobs.resume(&queued).await.expect("is paused").state, JobState::Queued);
    let again = server.jobs.resume(&queued).await;
    assert!(matches!(again, Err(JobError::IllegalMove(_))), "{again:?}");
    server.until(&queued, JobState::Running).await;
    let resumed = server.jobs.resume(&queued).await;
    assert!(matches!(resumed, Err(JobError::IllegalMove(_))), "a running job is not queued twice: {resumed:?}");
    server.crash().await;

    let server = Server::open(folder.path(), train_and_publish).await;
    assert_eq!(server.until(&queued, JobState::Succeeded).await.state, JobState::Succeeded);
    assert_eq!(server.jobs.snapshot(&running).expect("known").state, JobState::Paused, "a restart changes nothing");
    server.jobs.resume(&running).await.expect("is paused");
    assert_eq!(server.until(&running, JobState::Succeeded).await.state, JobState::Succeeded);
    server.crash().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rejected_pauses_and_resumes_name_the_remedy() {
    let folder = folder();
    let server = Server::open(folder.path(), failing).await;
    let (_upload, uploading, _) = server.uploading(spec(), "").await;
    let ended = server.finished(spec(), "", 4).await;
    server.until(&ended, JobState::Failed).await;
    for (outcome, advice) in [
        (server.jobs.pause(&uploading.id).await, "finish its upload first"),
        (server.jobs.resume(&uploading.id).await, "finish its upload first"),
        (server.jobs.pause(&ended).await, "train again"),
        (server.jobs.resume(&ended).await, "train again"),
    ] {
        let error = outcome.expect_err("refused").to_string();
        assert!(error.contains(advice), "{error:?} does not say {advice:?}");
    }
    assert!(matches!(server.jobs.pause(&JobId::new()).await, Err(JobError::Unknown(_))));
    assert!(matches!(server.jobs.resume(&JobId::new()).await, Err(JobError::Unknown(_))));
    server.crash().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_job_can_be_cancelled() {
    let folder = folder();
    let server = Server::open(folder.path(), until_stopped).await;
    let id = server.finished(spec(), "", 4).await;
    server.until(&id, JobState::Running).await;
    server.jobs.pause(&id).await.expect("runs");
    assert_eq!(server.jobs.cancel(&id).await.expect("is paused").state, JobState::Cancelled);
    assert!(!file_of(folder.path(), &id, "rows.spool").exists());
    server.crash().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_job_expires() {
    let folder = folder();
    let server = Server::open(folder.path(), until_stopped).await;
    let id = server.finished(spec(), "", 4).await;
    server.until(&id, JobState::Running).await;
    let paused = server.jobs.pause(&id).await.expect("runs").updated;
    let week = server.jobs.manager.config.paused_max;
    for (now, state) in [
        (paused + week - Duration::from_secs(1), JobState::Paused),
        (paused + week + Duration::from_secs(1), JobState::Cancelled),
    ] {
        let manager = Arc::clone(&server.jobs.manager);
        tokio::task::spawn_blocking(move || manager.expire(now)).await.expect("no panic");
        assert_eq!(server.jobs.snapshot(&id).expect("known").state, state);
    }
    let reason = server.jobs.snapshot(&id).expect("known").failure.expect("a reason");
    assert!(reason.contains("paused, and not resumed"), "{reason}");
    assert!(!file_of(folder.path(), &id, "rows.spool").exists(), "the rows are removed");
    server.crash().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_and_panics_end_a_job_with_their_reason() {
    for (work, reason) in [(failing as Work, "it rained"), (panicking, "a bug")] {
        let folder = folder();
        let server = Server::open(folder.path(), work).await;
        let id = server.finished(spec(), "key", 4).await;
        let ended = server.until(&id, JobState::Failed).await;
        assert_eq!(ended.state, JobState::Failed);
        assert!(ended.failure.as_ref().is_some_and(|text| text.contains(reason)), "{ended:?}");
        server.crash().await;
        let server = Server::open(folder.path(), work).await;
        let after = server.jobs.snapshot(&id).expect("remembered");
        assert_eq!((after.state, after.failure), (JobState::Failed, ended.failure));
        server.crash().await;
    }
}
