//! Limits: rows and bytes of a job, bytes of all jobs, and the shares of callers.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn spool_and_upload_limits_are_enforced() {
    let folder = folder();
    let server = Server::open_with(folder.path(), until_stopped, |config| {
        config.open_uploads_max = 2;
        config.spool_bytes_max = 200;
    })
    .await;
    let (mut upload, ..) = server.uploading(spec(), "a").await;
    let refused = upload.append(1, RowRole::Training, rows(20, 0)).await;
    assert!(matches!(refused, Err(JobError::SpoolFull { bytes_max: 200, .. })), "{refused:?}");
    upload.append(1, RowRole::Training, rows(5, 0)).await.expect("fits");
    let _second = server.uploading(spec(), "b").await;
    let refused = server.begin(spec(), "c").await;
    assert!(matches!(refused, Err(JobError::TooManyUploads { open_uploads_max: 2, .. })), "{refused:?}");
    server.crash().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn job_limits_reject_chunks_without_losing_rows() {
    let folder = folder();
    let server = Server::open_with(folder.path(), until_stopped, |config| {
        config.job_rows_max = 7;
        config.job_bytes_max = 200;
    })
    .await;
    let (mut upload, ..) = server.uploading(spec(), "rows").await;
    upload.append(1, RowRole::Training, rows(5, 0)).await.expect("fits");
    let refused = upload.append(2, RowRole::Test, rows(3, 0)).await;
    assert!(matches!(refused, Err(JobError::TooManyRows { rows: 8, rows_max: 7 })), "{refused:?}");
    upload.append(2, RowRole::Test, rows(2, 0)).await.expect("fits");
    upload.finish(2, 7).await.expect("finishes");
    server.crash().await;

    let server = Server::open_with(folder.path(), until_stopped, |config| config.job_bytes_max = 200).await;
    let (mut upload, ..) = server.uploading(spec(), "bytes").await;
    upload.append(1, RowRole::Training, rows(13, 0)).await.expect("takes 12 + 20 + 156 bytes");
    let refused = upload.append(2, RowRole::Test, rows(1, 0)).await;
    assert!(matches!(refused, Err(JobError::JobTooLarge { bytes: 220, bytes_max: 200 })), "{refused:?}");
    server.crash().await;
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn a_reserve_stays_free_on_the_disk() {
    let folder = folder();
    let server = Server::open_with(folder.path(), until_stopped, |config| config.disk_free_bytes_min = u64::MAX).await;
    let refused = server.begin(spec(), "").await;
    assert!(matches!(refused, Err(JobError::DiskReserve { .. })), "{refused:?}");
    assert_eq!(server.jobs.list(), []);
    let left = std::fs::read_dir(folder.path().join("jobs")).expect("lists").count();
    assert_eq!(left, 0, "a rejected job leaves nothing on disk");
    server.crash().await;
}

/// The quota's count must equal the bytes on disk after every way in which a job can end.
#[tokio::test(flavor = "multi_thread")]
async fn ended_jobs_release_their_bytes() {
    let folder = folder();
    let room = 12 + 20 + 4 * 12;
    let only_one = |config: &mut JobsConfig| config.spool_bytes_max = room;
    let server = Server::open_with(folder.path(), until_stopped, only_one).await;
    for _ in 0..2 {
        let (mut upload, uploading, _) = server.uploading(spec(), "").await;
        upload.append(1, RowRole::Training, rows(4, 0)).await.expect("there is room");
        server.jobs.cancel(&uploading.id).await.expect("uploads");
        let running = server.finished(spec(), "", 4).await;
        server.until(&running, JobState::Running).await;
        server.jobs.pause(&running).await.expect("runs");
        server.jobs.cancel(&running).await.expect("is paused");
        let running = server.finished(spec(), "", 4).await;
        server.until(&running, JobState::Running).await;
        server.jobs.cancel(&running).await.expect("runs");
    }
    let waits = server.finished(spec(), "", 4).await;
    server.crash().await;
    let server = Server::open_with(folder.path(), until_stopped, only_one).await;
    let refused = server.begin(spec(), "").await;
    assert!(matches!(refused, Err(JobError::SpoolFull { .. })), "what is on disk is counted: {refused:?}");
    server.until(&waits, JobState::Running).await;
    server.jobs.cancel(&waits).await.expect("runs");
    server.finished(spec(), "", 4).await;
    server.crash().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_oldest_ended_jobs_are_forgotten() {
    let folder = folder();
    let server = Server::open_with(folder.path(), failing, |config| config.ended_jobs_max = 2).await;
    let mut ids = Vec::new();
    for _ in 0..4 {
        let id = server.finished(spec(), "", 4).await;
        server.until(&id, JobState::Failed).await;
        ids.push(id);
    }
    assert!(matches!(server.jobs.snapshot(&ids[0]), Err(JobError::Unknown(_))));
    let known: Vec<JobId> = server.jobs.list().into_iter().map(|job| job.id).collect();
    assert_eq!(known.first(), ids.last(), "newest first");
    assert!(known.len() <= 3, "{known:?}");
    assert!(!folder.path().join("jobs").join(ids[0].as_str()).exists());
    server.crash().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_caller_leaves_a_fifth_of_the_uploads_to_others() {
    let folder = folder();
    let server = Server::open_with(folder.path(), until_stopped, |config| config.open_uploads_max = 10).await;
    let begin = async |owner: &Owner| {
        server.jobs.begin(spec().check().expect("valid"), None, Priority::default(), owner.clone()).await
    };
    let (one, other) = (Owner::new("", "10.0.0.1"), Owner::new("", "10.0.0.2"));
    let mut held = Vec::new();
    loop {
        match begin(&one).await {
            Ok(Begun::Uploading { upload, .. }) => held.push(upload),
            Err(error @ JobError::TooManyUploads { open_uploads_max: 10, .. }) => {
                assert!(error.retry_after().is_some());
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(held.len(), 8);
    let Ok(Begun::Uploading { mut upload, .. }) = begin(&other).await else { panic!("others have room") };
    upload.append(1, RowRole::Training, rows(2, 0)).await.expect("appends");
    // Uploads whose streams ended without rows give up their places.
    held.clear();
    for _ in 0..30 {
        begin(&one).await.expect("an abandoned upload makes room");
    }
    assert_eq!(upload.append(2, RowRole::Training, rows(2, 0)).await.expect("is not touched").len(), 1);
    drop(upload);
    for _ in 0..30 {
        begin(&other).await.expect("an abandoned upload makes room");
    }
    let with_rows = server.jobs.list().into_iter().filter(|job| job.chunks > 0).map(|job| job.state);
    assert_eq!(with_rows.collect::<Vec<_>>(), [JobState::Uploading], "an upload with rows keeps its place");
    server.crash().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_caller_leaves_a_fifth_of_the_open_jobs_to_others() {
    let folder = folder();
    let server = Server::open_with(folder.path(), until_stopped, |config| config.open_jobs_max = 5).await;
    let queue = async |owner: &Owner| {
        let begun = server.jobs.begin(spec().check().expect("valid"), None, Priority::default(), owner.clone()).await?;
        let Begun::Uploading { mut upload, .. } = begun else { panic!("new") };
        upload.append(1, RowRole::Training, rows(2, 0)).await?;
        upload.finish(1, 2).await
    };
    let (one, other) = (Owner::new("one", "one"), Owner::new("other", "other"));
    for _ in 0..4 {
        queue(&one).await.expect("there is room");
    }
    let refused = queue(&one).await;
    assert!(matches!(refused, Err(JobError::TooManyJobs { open_jobs_max: 5, .. })), "{refused:?}");
    queue(&other).await.expect("others have room");
    assert!(queue(&other).await.is_err(), "all are taken");
    server.crash().await;
}
