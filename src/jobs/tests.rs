//! Tests of jobs in a real folder, with training that the tests control. A crash is simulated by dropping everything,
//! which writes nothing, and opening the folder again.

mod disk;
pub(super) mod faults;
mod limits;
mod order;
mod restarts;
mod rounds;
mod states;
mod uploads;

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::job::{Job, StopRequest};
use super::manager::JobManager;
use super::runner::{Outcome, Runner, Work, train_and_publish};
use super::store::JobStore;
use super::*;
use crate::model::{Matrix, Selector, Values, Version};
use crate::registry::RegistryConfig;
use crate::store::{LocalStore, StoreError};
use crate::training::{Base, TrainSpec};

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
fn until_stopped(manager: &JobManager, job: &Job) -> Outcome {
    loop {
        if manager.is_closing() || job.stop_request() != StopRequest::GoOn {
            return Outcome::stopped(job);
        }
        std::thread::yield_now();
    }
}

fn failing(_: &JobManager, _: &Job) -> Outcome {
    Outcome::Failed("it rained".to_owned())
}

fn panicking(_: &JobManager, _: &Job) -> Outcome {
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
        let store = Arc::new(JobsFolder::new(&config.folder));
        let manager = Arc::new(JobManager::new(config, registry, Arc::default(), store));
        let opened = Arc::clone(&manager);
        tokio::task::spawn_blocking(move || opened.activate()).await.expect("no panic").expect("opens");
        let runner = Arc::new(Runner::start(Arc::clone(&manager), work));
        Self { jobs: Jobs { manager, runner } }
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

/// The storage of one job, which has no record yet.
pub(super) struct OneJob {
    folder: tempfile::TempDir,
    pub(super) store: JobsFolder,
    pub(super) id: JobId,
}

impl OneJob {
    pub(super) fn new() -> Self {
        let folder = folder();
        let jobs = folder.path().join("jobs");
        std::fs::create_dir(&jobs).expect("a folder");
        let (store, id) = (JobsFolder::new(&jobs), JobId::new());
        store.begin(&id).expect("begins");
        Self { folder, store, id }
    }

    /// Path of its rows.
    pub(super) fn rows(&self) -> PathBuf {
        file_of(self.folder.path(), &self.id, "rows.spool")
    }
}

/// Path of a file of a job, in the store in `folder`.
fn file_of(folder: &Path, id: &JobId, file: &str) -> PathBuf {
    folder.join("jobs").join(id.as_str()).join(file)
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}
