//! Restarts and crashes: what a job resumes with.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn queued_and_running_jobs_restart_after_a_crash() {
    let folder = folder();
    let server = Server::open(folder.path(), until_stopped).await;
    let id = server.finished(spec(), "", 30).await;
    let waits = server.finished(spec(), "", 20).await;
    server.until(&id, JobState::Running).await;
    server.crash().await;
    let server = Server::open(folder.path(), train_and_publish).await;
    assert_eq!(server.until(&id, JobState::Succeeded).await.version, Some(Version::FIRST));
    assert_eq!(server.until(&waits, JobState::Succeeded).await.version, Some(Version::FIRST.next()));
    server.crash().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_published_before_the_crash_is_adopted() {
    /// Publishes a version, and "crashes" before the outcome is recorded.
    fn publish_and_vanish(manager: &JobManager, job: &Job) -> Outcome {
        match train_and_publish(manager, job) {
            Outcome::Published(..) => until_stopped(manager, job),
            other => other,
        }
    }
    let folder = folder();
    let server = Server::open(folder.path(), publish_and_vanish).await;
    let id = server.finished(spec(), "", 30).await;
    let name = "model".parse().expect("a name");
    while server.jobs.manager.models.store().entry(&name).is_none() {
        tokio::task::yield_now().await;
    }
    server.crash().await;
    // A second restart before it runs again must not forget that it may have published.
    Server::open(folder.path(), until_stopped).await.crash().await;
    let server = Server::open(folder.path(), train_and_publish).await;
    let ended = server.until(&id, JobState::Succeeded).await;
    assert_eq!(ended.version, Some(Version::FIRST), "{ended:?}");
    let entry = server.jobs.manager.models.store().entry(&name).expect("published");
    assert_eq!(entry.versions.len(), 1, "not trained twice");
    server.crash().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_accepts_jobs_only_after_it_becomes_the_writer() {
    let folder = folder();
    let writer = Server::open(folder.path(), until_stopped).await;
    let reader = Server::open(folder.path(), until_stopped).await;
    let refused = reader.begin(spec(), "").await;
    assert!(matches!(refused, Err(JobError::Store(StoreError::ReadOnly { .. }))), "{refused:?}");
    writer.uploading(spec(), "mine").await;
    writer.crash().await;
    let store = Arc::clone(reader.jobs.manager.models.store());
    let took = tokio::task::spawn_blocking(move || store.refresh()).await.expect("no panic").expect("refreshes");
    assert!(took);
    let (_, snapshot, _) = reader.uploading(spec(), "mine").await;
    assert_eq!(reader.jobs.list().len(), 1, "the writer's job is known: {snapshot:?}");
    reader.crash().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn checkpoints_survive_restarts_and_count_toward_the_quota() {
    let folder = folder();
    let server = Server::open(folder.path(), until_stopped).await;
    let id = server.finished(spec(), "", 4).await;
    server.until(&id, JobState::Running).await;
    let (manager, job) = (&server.jobs.manager, server.jobs.manager.registry.job(&id).expect("known"));
    for bytes in [&[1; 50][..], &[2; 70]] {
        manager.save_checkpoint(&job, bytes).expect("there is room");
    }
    let path = file_of(folder.path(), &id, "checkpoint");
    drop(job);
    server.crash().await;
    // 80 bytes of rows and 90 of the checkpoint.
    let server = Server::open_with(folder.path(), until_stopped, |config| config.spool_bytes_max = 80 + 90 + 12).await;
    server.until(&id, JobState::Running).await;
    let job = server.jobs.manager.registry.job(&id).expect("known");
    let saved = || job.store().read_blob(&id, store::Blob::Checkpoint).expect("whole");
    assert_eq!(saved().as_deref(), Some(&[2; 70][..]));
    let refused = server.jobs.manager.save_checkpoint(&job, &[3; 10]);
    assert!(matches!(refused, Err(JobError::SpoolFull { .. })), "{refused:?}");
    assert_eq!(saved().as_deref(), Some(&[2; 70][..]), "the previous one stays");
    let (_upload, ..) = server.uploading(spec(), "").await;
    server.jobs.cancel(&id).await.expect("runs");
    assert!(!path.exists());
    server.finished(spec(), "", 5).await;
    server.crash().await;
}

/// Training that was paused, restarted and stopped with its server has bit-identical losses.
#[tokio::test(flavor = "multi_thread")]
async fn interrupted_training_continues_bit_identically() {
    let folder = folder();
    let jobs = folder.path().join("jobs");
    let mut server = Server::open(folder.path(), train_and_publish).await;
    let long = || TrainSpec { epochs: Some(300), ..spec() };
    faults::hold(&jobs, Some(100));
    let id = server.finished(long(), "", 60).await;
    let trains = async |server: &Server, step: u64| {
        let mut news = server.jobs.watch(&id).expect("known");
        let reached = |job: &JobSnapshot| job.progress.as_ref().is_some_and(|progress| progress.step >= step);
        let now = news.wait_for(|job| reached(job) || job.state.has_ended()).await.expect("news").clone();
        assert_eq!(now.state, JobState::Running, "{now:?}");
    };
    trains(&server, 100).await;
    server.jobs.pause(&id).await.expect("runs");
    let path = file_of(folder.path(), &id, "checkpoint");
    let saved = std::fs::read(&path).expect("the checkpoint exists");
    server.crash().await;
    faults::hold(&jobs, Some(200));
    server = Server::open(folder.path(), train_and_publish).await;
    server.jobs.resume(&id).await.expect("is paused");
    trains(&server, 200).await;
    server.crash().await;
    assert_ne!(std::fs::read(&path).expect("the checkpoint exists"), saved, "training went on from the checkpoint");
    faults::hold(&jobs, None);
    server = Server::open(folder.path(), train_and_publish).await;
    let ended = server.until(&id, JobState::Succeeded).await;
    assert!(!path.exists());
    let quiet = server.finished(long(), "", 60).await;
    let expected = server.until(&quiet, JobState::Succeeded).await.report.expect("a report");
    let report = ended.report.unwrap_or_else(|| panic!("{:?}", ended.failure));
    assert_eq!((&report.epochs, &report.data_sha256), (&expected.epochs, &expected.data_sha256));
    server.crash().await;
}

/// A crash at any step of a cancel leaves the job unchanged, or cancelled without rows, but never failed.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_any_step_of_a_cancel_leaves_all_or_nothing() {
    use super::faults::{Fault, plan};
    use crate::jobs::store::Step;
    for step in [Step::JournalBegun(0), Step::JournalWritten, Step::RowsRemoved, Step::FilesRemoved] {
        for wanted in [JobState::Uploading, JobState::Queued, JobState::Running, JobState::Paused] {
            let context = format!("crash at {step:?} of a job that is {}", wanted.name());
            let folder = folder();
            let server = Server::open_with(folder.path(), until_stopped, |_| ()).await;
            let (mut upload, job, _) = server.uploading(spec(), "key").await;
            upload.append(1, RowRole::Training, rows(5, 0)).await.expect("appends");
            let mut upload = Some(upload);
            if wanted == JobState::Queued {
                // It waits behind another job.
                let other = server.finished(spec(), "", 4).await;
                server.until(&other, JobState::Running).await;
            }
            if wanted != JobState::Uploading
                && let Some(upload) = upload.take()
            {
                upload.finish(1, 5).await.expect("finishes");
            }
            if matches!(wanted, JobState::Running | JobState::Paused) {
                server.until(&job.id, JobState::Running).await;
            }
            if wanted == JobState::Paused {
                server.jobs.pause(&job.id).await.expect("runs");
            }
            plan(folder.path(), Some(Fault::CrashAt(step)));
            if wanted == JobState::Running {
                // The settling task dies before it notifies watchers.
                let (jobs, id) = (server.jobs.clone(), job.id.clone());
                let asked = tokio::spawn(async move { jobs.cancel(&id).await });
                while server.jobs.manager.scheduler.has_started(&job.id) {
                    tokio::task::yield_now().await;
                }
                asked.abort();
            } else {
                server.jobs.cancel(&job.id).await.expect_err("it crashes");
            }
            plan(folder.path(), None);
            // It holds the store's lock.
            drop(upload);
            server.crash().await;
            let server = Server::open(folder.path(), until_stopped).await;
            let after = server.jobs.snapshot(&job.id).expect("remembered");
            let spool = file_of(folder.path(), &job.id, "rows.spool");
            if step == Step::JournalBegun(0) {
                assert!(!after.state.has_ended(), "{context}: {after:?}");
                assert!(spool.exists(), "{context}");
            } else {
                assert_eq!(after.state, JobState::Cancelled, "{context}: {after:?}");
                assert!(!spool.exists(), "{context}");
            }
            server.crash().await;
        }
    }
}

/// After a crash at any step, a failed job keeps its reason, or it runs again and fails with the same reason.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_while_a_job_fails_does_not_lose_the_reason() {
    use super::faults::{Fault, plan};
    use crate::jobs::store::Step;
    for step in [Step::JournalBegun(0), Step::JournalWritten, Step::RowsRemoved, Step::FilesRemoved] {
        let folder = folder();
        let server = Server::open(folder.path(), until_stopped).await;
        let id = server.finished(spec(), "", 4).await;
        server.until(&id, JobState::Running).await;
        server.crash().await;
        plan(folder.path(), None);
        let server =
            Server::open_with(folder.path(), failing, |_| plan(folder.path(), Some(Fault::CrashAt(step)))).await;
        while server.jobs.manager.scheduler.has_waiting_or_started() {
            tokio::task::yield_now().await;
        }
        plan(folder.path(), None);
        server.crash().await;
        let server = Server::open(folder.path(), failing).await;
        let after = server.until(&id, JobState::Failed).await;
        assert_eq!(after.failure.as_deref(), Some("it rained"), "crash at {step:?}");
        server.crash().await;
    }
}
