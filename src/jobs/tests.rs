//! Tests of jobs in a real folder, with training that the tests control. A crash is simulated by dropping everything,
//! which writes nothing, and opening the folder again.

use std::path::Path;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;

use super::job::{Job, StopRequest};
use super::registry::JobRegistry;
use super::runner::{Outcome, Runner, Work, train_and_publish};
use super::*;
use crate::model::{Matrix, Selector, Values, Version};
use crate::registry::RegistryConfig;
use crate::store::{LocalStore, StoreError};
use crate::training::{Base, TrainSpec};

/// Faults that tests inject into state changes of jobs.
pub(super) mod faults {
    use std::any::Any;
    use std::collections::HashMap;
    use std::io;
    use std::panic::resume_unwind;
    use std::path::{Path, PathBuf};
    use std::sync::{Mutex, PoisonError};

    use super::super::journal::Step;
    use super::super::reserve::RESERVE_BYTES;
    use crate::store::StoreError;
    use crate::store::disk::failed;

    #[derive(Clone, Copy, Debug, PartialEq)]
    pub(in crate::jobs) enum Fault {
        /// The process dies at this step. It panics, so that no clean-up after an error runs. A journal's size is
        /// ignored.
        CrashAt(Step),
        /// The disk is full, except for the space that the reserve releases.
        DiskFull,
        /// The disk is full and the reserve is used up, until the rows of the job are removed.
        DiskFullWithoutReserve,
        /// Access is denied.
        Denied,
    }

    static PLANS: Mutex<Option<HashMap<PathBuf, Fault>>> = Mutex::new(None);
    static HOLDS: Mutex<Option<HashMap<PathBuf, u64>>> = Mutex::new(None);

    /// From now on, training of jobs in `folder` blocks after this many steps until it is stopped.
    pub(in crate::jobs) fn hold(folder: &Path, steps: Option<u64>) {
        let mut holds = HOLDS.lock().unwrap_or_else(PoisonError::into_inner);
        let holds = holds.get_or_insert_default();
        match steps {
            Some(steps) => holds.insert(folder.to_owned(), steps),
            None => holds.remove(folder),
        };
    }

    /// Whether training of the job in `folder` must block after `step` steps.
    pub(in crate::jobs) fn holds(folder: &Path, step: u64) -> bool {
        let holds = HOLDS.lock().unwrap_or_else(PoisonError::into_inner);
        folder.parent().and_then(|jobs| holds.as_ref()?.get(jobs)).is_some_and(|&steps| step >= steps)
    }

    /// Injects a fault for jobs of the store in `store` from now on.
    pub(in crate::jobs) fn plan(store: &Path, fault: Option<Fault>) {
        let mut plans = PLANS.lock().unwrap_or_else(PoisonError::into_inner);
        let plans = plans.get_or_insert_default();
        match fault {
            Some(fault) => plans.insert(store.to_owned(), fault),
            None => plans.remove(store),
        };
    }

    pub(in crate::jobs) fn at(folder: &Path, step: Step) -> Result<(), StoreError> {
        let store = folder.parent().and_then(Path::parent).unwrap_or(folder);
        let fault =
            PLANS.lock().unwrap_or_else(PoisonError::into_inner).as_ref().and_then(|plans| plans.get(store).copied());
        let is_same = |planned| std::mem::discriminant(&planned) == std::mem::discriminant(&step);
        let refuse = |kind: io::ErrorKind| Err(failed("cannot write", &folder.join("job.json"))(kind.into()));
        let free = RESERVE_BYTES - std::fs::metadata(store.join(".reserve")).map_or(0, |data| data.len());
        match (fault, step) {
            (Some(Fault::CrashAt(planned)), _) if is_same(planned) => {
                resume_unwind(Box::new("a planned crash") as Box<dyn Any + Send>)
            }
            (Some(Fault::DiskFull), Step::JournalBegun(bytes)) if bytes > free => refuse(io::ErrorKind::StorageFull),
            (Some(Fault::DiskFullWithoutReserve), Step::JournalBegun(_)) if folder.join("rows.spool").exists() => {
                refuse(io::ErrorKind::StorageFull)
            }
            (Some(Fault::Denied), Step::JournalBegun(_)) => refuse(io::ErrorKind::PermissionDenied),
            _ => Ok(()),
        }
    }
}

/// A snapshot of a job in some state.
pub(super) fn snapshot(state: JobState) -> JobSnapshot {
    JobSnapshot {
        id: JobId::new(),
        model_name: "model".parse().expect("a name"),
        state,
        created: SystemTime::UNIX_EPOCH,
        updated: SystemTime::UNIX_EPOCH,
        priority: Priority::default(),
        upload_expires: None,
        chunks: 0,
        training_rows: 0,
        test_rows: 0,
        progress: None,
        version: None,
        report: None,
        failure: None,
        data_lost: false,
        kept_back: None,
        idempotency_key: None,
        round: None,
    }
}

/// Training that runs until it is stopped.
fn until_stopped(table: &JobRegistry, job: &Job) -> Outcome {
    loop {
        if table.is_closing() || job.stop_request() != StopRequest::GoOn {
            return Outcome::stopped(job);
        }
        std::thread::yield_now();
    }
}

fn failing(_: &JobRegistry, _: &Job) -> Outcome {
    Outcome::Failed("it rained".to_owned())
}

fn panicking(_: &JobRegistry, _: &Job) -> Outcome {
    panic!("a bug")
}

struct Server {
    jobs: Jobs,
}

impl Server {
    async fn open_with(folder: &Path, work: Work, change: impl FnOnce(&mut JobsConfig)) -> Self {
        let store = LocalStore::open(folder).expect("a store");
        let jobs = folder.join("jobs");
        let mut config = JobsConfig { training_threads: 1, running_jobs_max: 1, ..JobsConfig::new(jobs) };
        change(&mut config);
        let registry = Registry::new(Arc::new(store), RegistryConfig::default());
        let table = Arc::new(JobRegistry::new(config, registry, Arc::default()));
        let opened = Arc::clone(&table);
        tokio::task::spawn_blocking(move || opened.activate()).await.expect("no panic").expect("opens");
        let runner = Arc::new(Runner::start(Arc::clone(&table), work));
        Self { jobs: Jobs { table, runner } }
    }

    async fn open(folder: &Path, work: Work) -> Self {
        Self::open_with(folder, work, |_| ()).await
    }

    /// Simulates a kill: running jobs stop, and nothing is written about them.
    async fn crash(self) {
        self.jobs.shut_down().await;
    }

    async fn uploading(&self, spec: TrainSpec, key: &str) -> (Upload, JobSnapshot, u64) {
        match self.begin(spec, key).await.expect("begins") {
            Begun::Uploading { upload, snapshot, last_chunk } => (upload, snapshot, last_chunk),
            Begun::Complete { snapshot, .. } => panic!("complete: {snapshot:?}"),
        }
    }

    async fn begin(&self, spec: TrainSpec, key: &str) -> Result<Begun, JobError> {
        let key = (!key.is_empty()).then(|| key.parse().expect("a key"));
        self.jobs.begin(spec.check().expect("valid"), key, Priority::default(), Owner::default()).await
    }

    async fn finished(&self, spec: TrainSpec, key: &str, count: usize) -> JobId {
        let (mut upload, snapshot, _) = self.uploading(spec, key).await;
        upload.append(1, RowRole::Training, rows(count, 0)).await.expect("appends");
        upload.finish(1, count as u64).await.expect("finishes");
        snapshot.id
    }

    async fn until(&self, id: &JobId, state: JobState) -> JobSnapshot {
        let mut news = self.jobs.watch(id).expect("known");
        news.wait_for(|job| job.state == state || job.state.has_ended()).await.expect("news").clone()
    }
}

fn spec() -> TrainSpec {
    TrainSpec { epochs: Some(2), ..TrainSpec::new("model".parse().expect("a name"), vec![3, 2]) }
}

fn rows(count: usize, from: usize) -> Matrix {
    let values = (0..count * 3).map(|i| ((i + from) % 17) as f32).collect();
    Matrix::new(count as u32, 3, Values::Floats(values)).expect("whole rows")
}

fn at(number: u64, rows: u64) -> Acknowledged {
    Acknowledged { number, rows }
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_become_a_published_version() {
    let folder = folder();
    let server = Server::open(folder.path(), train_and_publish).await;
    let id = server.finished(spec(), "", 40).await;
    let ended = server.until(&id, JobState::Succeeded).await;
    assert_eq!((ended.state, ended.version), (JobState::Succeeded, Some(Version::FIRST)), "{ended:?}");
    let report = ended.report.expect("a report");
    assert_eq!((report.job_id.as_str(), report.data_sha256.len()), (id.as_str(), 64));
    assert!(server.jobs.table.registry.store().entry(&"model".parse().expect("a name")).is_some());
    server.crash().await;
    let spool = spool::path(&folder.path().join("jobs").join(id.as_str()));
    assert!(!spool.exists(), "the rows are removed");
}

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

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_fails_only_its_job_and_frees_its_rows() {
    let folder = folder();
    let server = Server::open(folder.path(), train_and_publish).await;
    let (mut other, untouched, _) = server.uploading(spec(), "other").await;
    other.append(1, RowRole::Training, rows(30, 0)).await.expect("appends");
    let (mut upload, failing, _) = server.uploading(spec(), "full").await;
    upload.append(1, RowRole::Training, rows(5, 0)).await.expect("appends");
    let job = server.jobs.table.job(&failing.id).expect("known");
    lock::lock(&job.spool).as_mut().expect("uploads").fill_the_disk();
    let error = upload.append(2, RowRole::Training, rows(5, 0)).await.expect_err("the disk is full");
    assert!(matches!(error, JobError::DiskFull { .. }), "{error}");
    let ended = server.jobs.snapshot(&failing.id).expect("known");
    assert_eq!(ended.state, JobState::Failed);
    let text = ended.failure.expect("a reason");
    assert!(
        text.contains(failing.id.as_str()) && text.contains("is full") && text.contains("free disk space"),
        "{text}"
    );
    assert!(!spool::path(&job.folder).exists(), "its rows are gone");
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
async fn several_jobs_run_at_once_and_the_others_wait_their_turn() {
    let folder = folder();
    let server = Server::open_with(folder.path(), until_stopped, |config| config.running_jobs_max = 2).await;
    let named = |name: &str| TrainSpec { model_name: name.parse().expect("a name"), ..spec() };
    let (a, b) = (server.finished(named("a"), "", 4).await, server.finished(named("a"), "", 4).await);
    server.until(&a, JobState::Running).await;
    server.until(&b, JobState::Running).await;
    let again = server.finished(named("a"), "", 4).await;
    let other = server.finished(named("b"), "", 4).await;
    let urgent = {
        let begun = server.jobs.begin(
            named("a").check().expect("valid"),
            None,
            Priority::try_from(3).expect("in range"),
            Owner::default(),
        );
        let Ok(Begun::Uploading { mut upload, snapshot, .. }) = begun.await else { panic!("a new job") };
        assert_eq!(snapshot.priority.number(), 3);
        upload.append(1, RowRole::Training, rows(4, 0)).await.expect("appends");
        upload.finish(1, 4).await.expect("finishes");
        snapshot.id
    };
    let running = || {
        let jobs = server.jobs.list();
        jobs.into_iter().filter(|job| job.state == JobState::Running).map(|job| job.id).collect::<Vec<_>>()
    };
    for (ends, starts) in [(&a, &urgent), (&b, &other), (&urgent, &again)] {
        assert_eq!(server.jobs.snapshot(starts).expect("known").state, JobState::Queued);
        server.jobs.cancel(ends).await.expect("runs");
        server.until(starts, JobState::Running).await;
        assert_eq!(running().len(), 2);
    }
    server.crash().await;
    let server = Server::open_with(folder.path(), until_stopped, |config| config.running_jobs_max = 2).await;
    for id in [&other, &again] {
        server.until(id, JobState::Running).await;
    }
    server.crash().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn publish_if_better_waits_for_jobs_of_the_same_name() {
    let folder = folder();
    let server = Server::open_with(folder.path(), until_stopped, |config| config.running_jobs_max = 2).await;
    let plain = server.finished(spec(), "", 4).await;
    server.until(&plain, JobState::Running).await;
    let name = spec().model_name;
    let base = Some(Base { name, selector: Selector::Latest, or_fresh: true });
    let better = server.finished(TrainSpec { base, publish_if_better: true, ..spec() }, "", 4).await;
    let other = TrainSpec { model_name: "other".parse().expect("a name"), ..spec() };
    let other = server.finished(other, "", 4).await;
    // It starts first, although it was queued later.
    server.until(&other, JobState::Running).await;
    assert_eq!(server.jobs.snapshot(&better).expect("known").state, JobState::Queued);
    server.jobs.cancel(&other).await.expect("runs");
    server.until(&other, JobState::Cancelled).await;
    assert_eq!(server.jobs.snapshot(&better).expect("known").state, JobState::Queued);
    server.jobs.cancel(&plain).await.expect("runs");
    server.until(&better, JobState::Running).await;
    server.crash().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_job_expires() {
    let folder = folder();
    let server = Server::open(folder.path(), until_stopped).await;
    let id = server.finished(spec(), "", 4).await;
    server.until(&id, JobState::Running).await;
    let paused = server.jobs.pause(&id).await.expect("runs").updated;
    let week = server.jobs.table.config.paused_max;
    for (now, state) in [
        (paused + week - Duration::from_secs(1), JobState::Paused),
        (paused + week + Duration::from_secs(1), JobState::Cancelled),
    ] {
        let table = Arc::clone(&server.jobs.table);
        tokio::task::spawn_blocking(move || table.expire(now)).await.expect("no panic");
        assert_eq!(server.jobs.snapshot(&id).expect("known").state, state);
    }
    let reason = server.jobs.snapshot(&id).expect("known").failure.expect("a reason");
    assert!(reason.contains("paused, and not resumed"), "{reason}");
    assert!(!spool::path(&folder.path().join("jobs").join(id.as_str())).exists(), "the rows are removed");
    server.crash().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn checkpoints_survive_restarts_and_count_toward_the_quota() {
    let folder = folder();
    let server = Server::open(folder.path(), until_stopped).await;
    let id = server.finished(spec(), "", 4).await;
    server.until(&id, JobState::Running).await;
    let (table, job) = (&server.jobs.table, server.jobs.table.job(&id).expect("known"));
    for bytes in [&[1; 50][..], &[2; 70]] {
        table.save_checkpoint(&job, bytes).expect("there is room");
    }
    let path = checkpoint::path(&job.folder);
    drop(job);
    server.crash().await;
    // 80 bytes of rows and 90 of the checkpoint.
    let server = Server::open_with(folder.path(), until_stopped, |config| config.spool_bytes_max = 80 + 90 + 12).await;
    server.until(&id, JobState::Running).await;
    let job = server.jobs.table.job(&id).expect("known");
    assert_eq!(checkpoint::read(&job.folder).expect("whole").as_deref(), Some(&[2; 70][..]));
    let refused = server.jobs.table.save_checkpoint(&job, &[3; 10]);
    assert!(matches!(refused, Err(JobError::SpoolFull { .. })), "{refused:?}");
    assert_eq!(checkpoint::read(&job.folder).expect("whole").as_deref(), Some(&[2; 70][..]), "the previous one stays");
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
    let path = checkpoint::path(&jobs.join(id.as_str()));
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

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_checkpoint_fails_its_job_alone() {
    for damage in [|bytes: &mut Vec<u8>| bytes[40] ^= 1, |bytes: &mut Vec<u8>| bytes.truncate(30)] {
        let folder = folder();
        let server = Server::open(folder.path(), until_stopped).await;
        let first = server.finished(spec(), "", 30).await;
        let second = server.finished(spec(), "", 30).await;
        server.until(&first, JobState::Running).await;
        let job = server.jobs.table.job(&first).expect("known");
        server.jobs.table.save_checkpoint(&job, &[1; 50]).expect("there is room");
        let path = checkpoint::path(&job.folder);
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
        assert!(!spool::path(&folder.path().join("jobs").join(id.as_str())).exists() || id == &running);
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
    assert!(!spool::path(&folder.path().join("jobs").join(id.as_str())).exists());
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
        let table = Arc::clone(&server.jobs.table);
        tokio::task::spawn_blocking(move || table.expire(now)).await.expect("no panic");
        assert_eq!(server.jobs.snapshot(&snapshot.id).expect("known").state, state);
    }
    let error = upload.taken_over().await;
    assert!(error.to_string().contains("expired"), "{error}");
    assert!(matches!(server.begin(spec(), "slow").await, Ok(Begun::Complete { .. })));
    server.crash().await;
}

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
        let table = Arc::clone(&server.jobs.table);
        tokio::task::spawn_blocking(move || table.expire(late)).await.expect("no panic");
        assert_eq!(server.jobs.snapshot(&snapshot.id).expect("known").state, state);
        drop(upload);
    }
    let error = begin().await.expect_err("its rows are gone");
    assert!(matches!(&error, JobError::Ended { .. }) && error.to_string().contains("expired"), "{error}");
    server.crash().await;
}

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
    fn publish_and_vanish(table: &JobRegistry, job: &Job) -> Outcome {
        match train_and_publish(table, job) {
            Outcome::Published(..) => until_stopped(table, job),
            other => other,
        }
    }
    let folder = folder();
    let server = Server::open(folder.path(), publish_and_vanish).await;
    let id = server.finished(spec(), "", 30).await;
    let name = "model".parse().expect("a name");
    while server.jobs.table.registry.store().entry(&name).is_none() {
        tokio::task::yield_now().await;
    }
    server.crash().await;
    // A second restart before it runs again must not forget that it may have published.
    Server::open(folder.path(), until_stopped).await.crash().await;
    let server = Server::open(folder.path(), train_and_publish).await;
    let ended = server.until(&id, JobState::Succeeded).await;
    assert_eq!(ended.version, Some(Version::FIRST), "{ended:?}");
    let entry = server.jobs.table.registry.store().entry(&name).expect("published");
    assert_eq!(entry.versions.len(), 1, "not trained twice");
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
    let path = spool::path(&folder.path().join("jobs").join(first.as_str()));
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
async fn a_reader_accepts_jobs_only_after_it_becomes_the_writer() {
    let folder = folder();
    let writer = Server::open(folder.path(), until_stopped).await;
    let reader = Server::open(folder.path(), until_stopped).await;
    let refused = reader.begin(spec(), "").await;
    assert!(matches!(refused, Err(JobError::Store(StoreError::ReadOnly { .. }))), "{refused:?}");
    writer.uploading(spec(), "mine").await;
    writer.crash().await;
    let store = Arc::clone(reader.jobs.table.registry.store());
    let took = tokio::task::spawn_blocking(move || store.refresh()).await.expect("no panic").expect("refreshes");
    assert!(took);
    let (_, snapshot, _) = reader.uploading(spec(), "mine").await;
    assert_eq!(reader.jobs.list().len(), 1, "the writer's job is known: {snapshot:?}");
    reader.crash().await;
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

/// Reads the training rows on disk.
fn kept(server: &Server, id: &JobId) -> Vec<f32> {
    use crate::training::RowSource as _;
    let told = server.jobs.snapshot(id).expect("known");
    let (chunks, training_rows, test_rows) = (told.chunks, told.training_rows, told.test_rows);
    let counts = spool::Counts { chunks, training_rows, test_rows, bytes: 0 };
    let job = server.jobs.table.job(id).expect("known");
    let received = rows::open(&job.folder, 3, counts, &|| true).expect("whole").expect("not stopped");
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

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_between_rounds_keeps_the_held_out_rows() {
    let folder = folder();
    let server = Server::open(folder.path(), until_stopped).await;
    let (key, checked) = ("key".parse().expect("a key"), spec().check().expect("valid"));
    let begun = server.jobs.begin_round(checked, &key, Priority::default(), &Owner::default()).await.expect("begins");
    let (round, Begun::Uploading { mut upload, snapshot, .. }) = begun else { panic!("{begun:?}") };
    upload.append(1, RowRole::Training, rows(40, 0)).await.expect("appends");
    // The first half of ending a round: the next round exists, but this one is still uploading.
    let table = Arc::clone(&server.jobs.table);
    let next = {
        let job = table.job(&snapshot.id).expect("known");
        let counts = job.spool.lock().expect("free").as_ref().expect("a spool").counts();
        let handed_on = held_out::hand_on(&job, counts).expect("reads");
        assert_eq!(handed_on.len(), 8 * 3, "a fifth");
        table.next_round(&job, &round.next(1, 40), &handed_on).expect("makes").id.clone()
    };
    drop((upload, table));
    server.crash().await;

    let server = Server::open(folder.path(), until_stopped).await;
    assert_eq!(server.until(&snapshot.id, JobState::Running).await.state, JobState::Running);
    let given = held_out::read(&folder.path().join("jobs").join(next.as_str()), 3).expect("reads");
    assert_eq!(given.len(), 8 * 3);
    let checked = spec().check().expect("valid");
    let (round, begun) =
        server.jobs.begin_round(checked, &key, Priority::default(), &Owner::default()).await.expect("begins");
    assert_eq!((round.number, round.chunks_before, round.rows_before), (2, 1, 40));
    let Begun::Uploading { mut upload, .. } = begun else { panic!("{begun:?}") };
    upload.append(1, RowRole::Training, rows(40, 5)).await.expect("appends");
    let (second, round) = upload.cut().await.expect("cuts");
    assert_eq!((second.state, round.number, round.rows_before), (JobState::Queued, 3, 80));
    let given = held_out::read(&folder.path().join("jobs").join(upload_id(&server, &key, 3)), 3).expect("reads");
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
    let table = Arc::clone(&server.jobs.table);
    let job = table.job(&snapshot.id).expect("known");
    table.next_round(&job, &round.next(1, 40), &[]).expect("makes");
    let next = table.newest_round(&key, &owner).expect("made");
    let turn = Arc::clone(&table.turn).lock_owned().await;
    let key = (Some(next.key()), owner.clone());
    let begun = table.begin(&checked(), None, key, Priority::default(), Some(next), turn);
    let Ok(Begun::Uploading { upload: mut new, .. }) = begun else { panic!("{begun:?}") };
    let error = old.cut().await.expect_err("too late");
    assert!(matches!(error, JobError::TakenOver(_)), "{error}");
    new.append(1, RowRole::Training, rows(40, 5)).await.expect("still has it");
    server.crash().await;
}

fn upload_id(server: &Server, stream: &IdempotencyKey, number: u64) -> String {
    let rounds = server.jobs.rounds(stream, &Owner::default());
    let found = rounds.iter().find(|job| job.round.as_ref().is_some_and(|round| round.number == number));
    found.expect("a round").id.to_string()
}

/// A crash at any step of a cancel leaves the job unchanged, or cancelled without rows, but never failed.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_any_step_of_a_cancel_leaves_all_or_nothing() {
    use super::journal::Step;
    use faults::{Fault, plan};
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
                while server.jobs.table.has_started(&job.id) {
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
            let spool = spool::path(&folder.path().join("jobs").join(job.id.as_str()));
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
    use super::journal::Step;
    use faults::{Fault, plan};
    for step in [Step::JournalBegun(0), Step::JournalWritten, Step::RowsRemoved, Step::FilesRemoved] {
        let folder = folder();
        let server = Server::open(folder.path(), until_stopped).await;
        let id = server.finished(spec(), "", 4).await;
        server.until(&id, JobState::Running).await;
        server.crash().await;
        plan(folder.path(), None);
        let server =
            Server::open_with(folder.path(), failing, |_| plan(folder.path(), Some(Fault::CrashAt(step)))).await;
        while server.jobs.table.has_waiting_or_started() {
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

#[tokio::test(flavor = "multi_thread")]
async fn the_reserve_makes_pause_and_cancel_durable_on_a_full_disk() {
    use faults::{Fault, plan};
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
        assert!(!spool::path(&folder.path().join("jobs").join(id.as_str())).exists(), "its space is free");
    }
    plan(folder.path(), None);
    server.crash().await;
}

/// If even the reserve is not enough, no response reports a change that is not on disk.
#[tokio::test(flavor = "multi_thread")]
async fn a_pause_that_cannot_be_saved_is_rejected() {
    use faults::{Fault, plan};
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
    use faults::{Fault, plan};
    let folder = folder();
    let server = Server::open(folder.path(), until_stopped).await;
    let (mut upload, job, _) = server.uploading(spec(), "key").await;
    upload.append(1, RowRole::Training, rows(5, 0)).await.expect("appends");
    plan(folder.path(), Some(Fault::DiskFullWithoutReserve));
    let (table, failing) = (Arc::clone(&server.jobs.table), server.jobs.table.job(&job.id).expect("known"));
    tokio::task::spawn_blocking(move || table.fail(&failing, &JobError::NoTrainingRows)).await.expect("no panic");
    plan(folder.path(), None);
    drop(upload);
    server.crash().await;
    let server = Server::open(folder.path(), until_stopped).await;
    let after = server.jobs.snapshot(&job.id).expect("remembered");
    assert_eq!((after.state, after.failure), (JobState::Failed, Some(JobError::NoTrainingRows.to_string())));
    server.crash().await;
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

#[tokio::test(flavor = "multi_thread")]
async fn an_abandoned_upload_without_a_row_expires_within_minutes() {
    let folder = folder();
    let server = Server::open(folder.path(), until_stopped).await;
    let (attached, first, _) = server.uploading(spec(), "attached").await;
    let (mut with_rows, second, _) = server.uploading(spec(), "with rows").await;
    with_rows.append(1, RowRole::Training, rows(2, 0)).await.expect("appends");
    let (without, third, _) = server.uploading(spec(), "without").await;
    drop((with_rows, without));
    let table = Arc::clone(&server.jobs.table);
    let later = SystemTime::now() + Duration::from_mins(2);
    tokio::task::spawn_blocking(move || table.expire(later)).await.expect("no panic");
    let state = |id| server.jobs.snapshot(id).expect("known").state;
    assert_eq!((state(&first.id), state(&second.id)), (JobState::Uploading, JobState::Uploading));
    assert_eq!(state(&third.id), JobState::Cancelled);
    drop(attached);
    server.crash().await;
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
            put(kind, &folder.path().join("jobs").join(queued.as_str()).join(file));
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
        put(kind, &folder.path().join("jobs").join(uploading.id.as_str()).join("rows.spool"));
        put(kind, &folder.path().join("jobs").join(other.as_str()).join("job.json"));
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
