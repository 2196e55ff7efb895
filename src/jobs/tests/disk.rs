//! Full disks and damaged files.

use super::*;

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_fails_only_its_job_and_frees_its_rows() {
    let folder = folder();
    let server = Server::open(folder.path(), train_and_publish).await;
    let (mut other, untouched, _) = server.uploading(spec(), "other").await;
    other.append(1, RowRole::Training, rows(30, 0)).await.expect("appends");
    let (mut upload, failing, _) = server.uploading(spec(), "full").await;
    upload.append(1, RowRole::Training, rows(5, 0)).await.expect("appends");
    let job = server.jobs.manager.registry.job(&failing.id).expect("known");
    let full = std::fs::File::options().read(true).write(true).open("/dev/full").expect("Linux has it");
    lock::lock(&job.spool).as_mut().expect("uploads").set_rows(Box::new(store::FolderRows::of(full)));
    let error = upload.append(2, RowRole::Training, rows(5, 0)).await.expect_err("the disk is full");
    assert!(matches!(error, JobError::DiskFull { .. }), "{error}");
    let ended = server.jobs.snapshot(&failing.id).expect("known");
    assert_eq!(ended.state, JobState::Failed);
    let text = ended.failure.expect("a reason");
    assert!(
        text.contains(failing.id.as_str()) && text.contains("is full") && text.contains("free disk space"),
        "{text}"
    );
    assert!(!file_of(folder.path(), &job.id, "rows.spool").exists(), "its rows are gone");
    assert!(matches!(upload.append(2, RowRole::Training, rows(5, 0)).await, Err(JobError::Ended { .. })));
    drop((upload, job));
    other.finish(1, 30).await.expect("goes on");
    assert_eq!(server.until(&untouched.id, JobState::Succeeded).await.state, JobState::Succeeded);
    server.crash().await;
    let server = Server::open(folder.path(), train_and_publish).await;
    assert_eq!(server.jobs.snapshot(&failing.id).expect("remembered").failure, Some(text));
    server.crash().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reserve_makes_pause_and_cancel_durable_on_a_full_disk() {
    use super::faults::{Fault, plan};
    let folder = folder();
    let server = Server::open(folder.path(), until_stopped).await;
    let running = server.finished(spec(), "", 4).await;
    server.until(&running, JobState::Running).await;
    let queued = server.finished(spec(), "", 4).await;
    let (mut upload, uploading, _) = server.uploading(spec(), "").await;
    upload.append(1, RowRole::Training, rows(5, 0)).await.expect("appends");
    plan(folder.path(), Some(Fault::DiskFull));
    assert_eq!(server.jobs.pause(&running).await.expect("the reserve provides the space").state, JobState::Paused);
    server.jobs.cancel(&uploading.id).await.expect("the reserve provides the space");
    server.jobs.cancel(&queued).await.expect("the reserve provides the space");
    plan(folder.path(), None);
    drop(upload);
    server.crash().await;
    let server = Server::open(folder.path(), until_stopped).await;
    let state = |id| server.jobs.snapshot(id).expect("remembered").state;
    assert_eq!(state(&running), JobState::Paused, "reported changes are on disk");
    assert_eq!((state(&uploading.id), state(&queued)), (JobState::Cancelled, JobState::Cancelled));
    plan(folder.path(), Some(Fault::DiskFull));
    server.jobs.cancel(&running).await.expect("the reserve provides the space");
    for id in [&running, &queued, &uploading.id] {
        assert!(!file_of(folder.path(), id, "rows.spool").exists(), "its space is free");
    }
    plan(folder.path(), None);
    server.crash().await;
}

/// If even the reserve is not enough, no response reports a change that is not on disk.
#[tokio::test(flavor = "multi_thread")]
async fn a_pause_that_cannot_be_saved_is_rejected() {
    use super::faults::{Fault, plan};
    for fault in [Fault::DiskFullWithoutReserve, Fault::Denied] {
        let folder = folder();
        let server = Server::open(folder.path(), until_stopped).await;
        let running = server.finished(spec(), "", 4).await;
        server.until(&running, JobState::Running).await;
        let queued = server.finished(spec(), "", 4).await;
        plan(folder.path(), Some(fault));
        for (id, state) in [(&running, JobState::Running), (&queued, JobState::Queued)] {
            let refused = server.jobs.pause(id).await.expect_err("the journal cannot be written");
            let expected = matches!(
                (fault, &refused),
                (Fault::Denied, JobError::Store(StoreError::Denied { .. }))
                    | (_, JobError::Store(StoreError::DiskFull { .. }))
            );
            assert!(expected, "{refused:?}");
            assert_eq!(server.jobs.snapshot(id).expect("known").state, state, "nothing has changed");
        }
        plan(folder.path(), None);
        assert_eq!(server.jobs.pause(&running).await.expect("there is room").state, JobState::Paused);
        server.crash().await;
        let server = Server::open(folder.path(), until_stopped).await;
        assert_eq!(server.jobs.snapshot(&running).expect("remembered").state, JobState::Paused);
        server.crash().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_job_frees_its_rows_to_record_the_failure() {
    use super::faults::{Fault, plan};
    let folder = folder();
    let server = Server::open(folder.path(), until_stopped).await;
    let (mut upload, job, _) = server.uploading(spec(), "key").await;
    upload.append(1, RowRole::Training, rows(5, 0)).await.expect("appends");
    plan(folder.path(), Some(Fault::DiskFullWithoutReserve));
    let (manager, failing) =
        (Arc::clone(&server.jobs.manager), server.jobs.manager.registry.job(&job.id).expect("known"));
    tokio::task::spawn_blocking(move || manager.fail(&failing, &JobError::NoTrainingRows)).await.expect("no panic");
    plan(folder.path(), None);
    drop(upload);
    server.crash().await;
    let server = Server::open(folder.path(), until_stopped).await;
    let after = server.jobs.snapshot(&job.id).expect("remembered");
    assert_eq!((after.state, after.failure), (JobState::Failed, Some(JobError::NoTrainingRows.to_string().into())));
    server.crash().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn corrupt_rows_fail_only_their_job() {
    let folder = folder();
    let server = Server::open(folder.path(), until_stopped).await;
    let first = server.finished(spec(), "", 30).await;
    let second = server.finished(spec(), "", 30).await;
    server.until(&first, JobState::Running).await;
    server.crash().await;
    let path = file_of(folder.path(), &first, "rows.spool");
    let mut bytes = std::fs::read(&path).expect("reads");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).expect("writes");
    let server = Server::open(folder.path(), train_and_publish).await;
    let failed = server.until(&first, JobState::Failed).await;
    assert!(failed.failure.as_ref().is_some_and(|text| text.contains("checksum")), "{failed:?}");
    assert_eq!(server.until(&second, JobState::Succeeded).await.state, JobState::Succeeded);
    server.crash().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_checkpoint_fails_its_job_alone() {
    for damage in [|bytes: &mut Vec<u8>| bytes[40] ^= 1, |bytes: &mut Vec<u8>| bytes.truncate(30)] {
        let folder = folder();
        let server = Server::open(folder.path(), until_stopped).await;
        let first = server.finished(spec(), "", 30).await;
        let second = server.finished(spec(), "", 30).await;
        server.until(&first, JobState::Running).await;
        let job = server.jobs.manager.registry.job(&first).expect("known");
        server.jobs.manager.save_checkpoint(&job, &[1; 50]).expect("there is room");
        let path = file_of(folder.path(), &first, "checkpoint");
        drop(job);
        server.crash().await;
        let mut bytes = std::fs::read(&path).expect("reads");
        damage(&mut bytes);
        std::fs::write(&path, bytes).expect("writes");
        let server = Server::open(folder.path(), train_and_publish).await;
        let failed = server.until(&first, JobState::Failed).await;
        assert!(failed.data_lost, "{failed:?}");
        let text = failed.failure.expect("a reason");
        assert!(
            text.contains("the checkpoint of job") && text.contains("is damaged") && text.contains("train again"),
            "{text}"
        );
        assert!(!path.exists(), "nothing stays of it");
        assert_eq!(server.until(&second, JobState::Succeeded).await.version, Some(Version::FIRST));
        server.crash().await;
    }
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn non_regular_files_are_damage_named_by_role() {
    use std::os::unix::fs::symlink;
    let put = |kind: &str, path: &Path| {
        let _ = std::fs::remove_file(path);
        match kind {
            "a named pipe" => {
                let fifo = rustix::fs::FileType::Fifo;
                rustix::fs::mknodat(rustix::fs::CWD, path, fifo, 0o600.into(), 0).expect("a pipe");
            }
            "a folder" => std::fs::create_dir(path).expect("a folder"),
            _ => symlink("/dev/zero", path).expect("a link"),
        }
    };
    for kind in ["a named pipe", "a folder", "a symbolic link"] {
        for (file, role) in [
            ("rows.spool", "the rows of job"),
            ("checkpoint", "the checkpoint of job"),
            ("held_out", "the held-out rows"),
        ] {
            let folder = folder();
            let server = Server::open(folder.path(), until_stopped).await;
            let queued = server.finished(spec(), "", 30).await;
            server.until(&queued, JobState::Running).await;
            server.crash().await;
            put(kind, &file_of(folder.path(), &queued, file));
            let server = Server::open(folder.path(), train_and_publish).await;
            let ended = server.until(&queued, JobState::Failed).await;
            let text = ended.failure.unwrap_or_else(|| panic!("{file} is {kind}"));
            assert!(text.contains(role) && text.contains(kind), "{text}");
            assert!(!text.contains(&folder.path().display().to_string()), "{text}");
            server.crash().await;
        }
        let folder = folder();
        let server = Server::open(folder.path(), until_stopped).await;
        let (_, uploading, _) = server.uploading(spec(), "key").await;
        let other = server.finished(spec(), "", 4).await;
        server.crash().await;
        put(kind, &file_of(folder.path(), &uploading.id, "rows.spool"));
        put(kind, &file_of(folder.path(), &other, "job.json"));
        let server = Server::open(folder.path(), until_stopped).await;
        let text = server.jobs.snapshot(&uploading.id).expect("known").failure.expect("it failed");
        assert!(text.contains("the rows of job") && text.contains(kind), "{text}");
        let error = server.jobs.snapshot(&other).expect_err("its journal cannot be read");
        let text = error.to_string();
        assert!(matches!(error, JobError::Store(StoreError::NotAFile { .. })), "{text}");
        assert!(text.contains("the journal of job") && text.contains(kind), "{text}");
        server.crash().await;
    }
}
