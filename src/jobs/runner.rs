//! Job runner: trains queued jobs, at most `running_jobs_max` at a time, and does periodic housekeeping.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, Instant, SystemTime};

use tokio::task::{JoinHandle, JoinSet};

use super::job::{Job, PauseOutcome, StopRequest};
use super::job_observer::JobObserver;
use super::lock::lock;
use super::manager::JobManager;
use super::spool::Counts;
use super::store::Blob;
use super::{EndReason, JobError, JobState, base, held_out, import, rows};
use crate::executor::{self, spawn_training, training_pool};
use crate::model::{Artifact, ModelKey, TrainingReport, Version, sample};
use crate::store::StoreError;
use crate::training::{
    CheckedTrainSpec, CheckpointError, RowSource, SourceError, Start, TrainError, gate, held_out as held_out_rows,
    train,
};

/// Interval of housekeeping: expiring jobs, checking whether the store became writable, and filling the disk reserve.
const TICK: Duration = Duration::from_millis(500);
/// Number of attempts to write a job's final state, and the pause after each.
const SETTLE_TRIES: usize = 5;
const SETTLE_PAUSE: Duration = Duration::from_millis(500);
/// Maximum number of newest versions to search for the one that an interrupted job published.
const ADOPTION_SEARCH_MAX: usize = 1000;

/// How a job's training ended.
#[derive(Debug)]
pub(super) enum Outcome {
    /// A version was published.
    Published(Version, Box<TrainingReport>),
    /// The model is not better than its base, so it was not published. The journal already records the reason.
    KeptBack,
    /// A cancel request stopped it.
    Cancelled,
    /// A pause request stopped it.
    Paused,
    /// The server is shutting down; the job resumes at the next start.
    Stopped,
    /// Training failed, for this reason.
    Failed(String),
    /// Training failed because one of the job's files is damaged or missing.
    DataLost(String),
}

impl Outcome {
    /// The outcome of a job whose training was stopped, by its stop request.
    pub(super) fn stopped(job: &Job) -> Self {
        match job.stop_request() {
            StopRequest::GoOn => Self::Stopped,
            StopRequest::Pause => Self::Paused,
            StopRequest::Cancel => Self::Cancelled,
        }
    }
}

/// Function that trains a job, on a thread of its own.
pub(super) type Work = fn(&JobManager, &Job) -> Outcome;

/// The task that runs jobs.
#[derive(Debug)]
pub(super) struct Runner {
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Runner {
    pub(super) fn start(manager: Arc<JobManager>, work: Work) -> Self {
        Self { task: Mutex::new(Some(tokio::spawn(run(manager, work)))) }
    }

    /// Waits until the task has ended. Call [`JobManager::close`] first.
    pub(super) async fn join(&self) {
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task {
            let _ = task.await;
        }
    }
}

async fn run(manager: Arc<JobManager>, work: Work) {
    let mut running = JoinSet::new();
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        while running.len() < manager.config.running_jobs_max
            && !manager.is_closing()
            && let Some(job) = manager.scheduler.next(&manager.registry)
        {
            running.spawn(see_through(Arc::clone(&manager), job, work));
        }
        if manager.is_closing() && running.is_empty() {
            return;
        }
        tokio::select! {
            () = manager.scheduler.woken() => {}
            Some(_) = running.join_next() => {}
            _ = tick.tick() => look_after(&manager).await,
        }
    }
}

/// Runs one job, if it can still start, and records its outcome.
async fn see_through(manager: Arc<JobManager>, job: Arc<Job>, work: Work) {
    let id = job.id.clone();
    run_one(Arc::clone(&manager), job, work).await;
    manager.scheduler.has_stopped(&id);
}

async fn run_one(manager: Arc<JobManager>, job: Arc<Job>, work: Work) {
    let (starting, at) = (Arc::clone(&job), Arc::clone(&manager));
    let started = executor::blocking(move || match starting.start() {
        Ok(()) => true,
        // The job was cancelled or paused in the meantime.
        Err(JobError::IllegalMove(_)) => false,
        Err(error) => {
            at.fail(&starting, &error.of_job(&starting.id));
            false
        }
    });
    if !started.await.unwrap_or(false) {
        return;
    }
    tracing::info!(job = %job.id, model = %job.spec.spec().model_name, "training starts");
    loop {
        let (trained, at) = (Arc::clone(&job), Arc::clone(&manager));
        let outcome = match spawn_training("train", move || work(&at, &trained)) {
            Ok(outcome) => match outcome.await {
                Ok(Ok(outcome)) => outcome,
                Ok(Err(panicked)) => Outcome::Failed(format!("internal server error: {panicked}")),
                Err(_) => Outcome::Failed("internal server error: the training thread was lost".to_owned()),
            },
            Err(error) => Outcome::Failed(format!("cannot start a training thread: {error}")),
        };
        let (settled, at) = (Arc::clone(&job), Arc::clone(&manager));
        // If the pause could not be persisted, the job is not paused: training resumes from its checkpoint.
        match executor::blocking(move || settle(&at, &settled, outcome)).await {
            Ok(Settled::GoesOn) if !manager.is_closing() => {}
            _ => return,
        }
    }
}

/// Whether a job continues after its outcome was recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Settled {
    /// The job stops for now.
    Stopped,
    /// Training continues.
    GoesOn,
}

/// Periodic housekeeping, independent of training.
async fn look_after(manager: &Arc<JobManager>) {
    let manager = Arc::clone(manager);
    let done = executor::blocking(move || {
        manager.try_activate();
        manager.expire(SystemTime::now());
        manager.shared.store.look_after();
    });
    let _ = done.await;
}

/// Records a job's outcome: writes the journal, removes the rows, then notifies watchers. If the disk fails, it
/// retries; after the last attempt the job ends in memory only, and a restart settles it (a published version is found
/// by its job id).
fn settle(manager: &JobManager, job: &Job, outcome: Outcome) -> Settled {
    let data_lost = matches!(outcome, Outcome::DataLost(_));
    let (next, failure, published) = match outcome {
        Outcome::Stopped => return Settled::Stopped,
        Outcome::Paused => match job.settle_as_paused() {
            PauseOutcome::Paused => return Settled::Stopped,
            PauseOutcome::Refused => return Settled::GoesOn,
            // A concurrent cancel wins over the pause.
            PauseOutcome::Cancelled => (JobState::Cancelled, None, None),
        },
        Outcome::Published(version, report) => {
            tracing::info!(job = %job.id, %version, "published");
            (JobState::Succeeded, None, Some((version, report)))
        }
        Outcome::KeptBack => {
            tracing::info!(job = %job.id, "kept back");
            (JobState::Succeeded, None, None)
        }
        Outcome::Cancelled => (JobState::Cancelled, None, None),
        Outcome::Failed(reason) | Outcome::DataLost(reason) => {
            tracing::warn!(job = %job.id, %reason, "training failed");
            (JobState::Failed, Some(reason), None)
        }
    };
    let mut spool = lock(&job.spool);
    *spool = None;
    let end = || {
        job.end(
            next,
            |record| {
                record.failure = failure.clone().map(EndReason::Other);
                record.data_lost = data_lost;
                if let Some((version, report)) = &published {
                    record.version = Some(*version);
                    record.report = Some(report.as_ref().clone());
                }
            },
            || manager.remove_rows(job),
        )
    };
    let mut is_full = false;
    for _ in 0..SETTLE_TRIES {
        match end() {
            Ok(_) => return Settled::Stopped,
            Err(error) => {
                tracing::error!(job = %job.id, %error, "cannot persist the job's final state; retrying");
                is_full = matches!(error, JobError::Store(StoreError::DiskFull { .. }));
            }
        }
        // After publishing, the rows are not needed. Without a version, they are removed only as the last resort.
        if published.is_some() && is_full {
            manager.remove_rows(job);
        }
        std::thread::sleep(SETTLE_PAUSE);
    }
    if is_full {
        // Even the disk reserve was not enough: remove the rows to make room for the journal.
        manager.remove_rows(job);
        if end().is_ok() {
            return Settled::Stopped;
        }
    }
    drop(spool);
    let what = published.map_or(String::new(), |(version, _)| format!("version {version} was published, but "));
    let reason = failure.unwrap_or_else(|| format!("{what}the job's final state cannot be written to the disk"));
    job.end_in_memory(JobState::Failed, reason);
    Settled::Stopped
}

/// Imports the rows from server files if needed, verifies them, trains, and publishes a version.
pub(super) fn train_and_publish(manager: &JobManager, job: &Job) -> Outcome {
    if job.may_be_published
        && let Some((version, report)) = published_already(manager, job)
    {
        return Outcome::Published(version, report);
    }
    // The server stopped after this outcome was recorded and before the job ended.
    if lock(&job.record).kept_back.is_some() {
        return Outcome::KeptBack;
    }
    match attempt(manager, job) {
        Ok(outcome) => outcome,
        Err(error) if error.is_damage() => Outcome::DataLost(error.to_string()),
        Err(error) => Outcome::Failed(error.of_job(&job.id).to_string()),
    }
}

fn attempt(manager: &JobManager, job: &Job) -> Result<Outcome, JobError> {
    let started = Instant::now();
    let go_on = || !manager.is_closing() && job.stop_request() == StopRequest::GoOn;
    if !import::import(manager, job, &go_on)? {
        return Ok(Outcome::stopped(job));
    }
    let told = job.snapshot();
    let acknowledged =
        Counts { chunks: told.chunks, training_rows: told.training_rows, test_rows: told.test_rows, bytes: 0 };
    let Some(received) = rows::open(job.store(), &job.id, job.columns, acknowledged, &go_on)? else {
        return Ok(Outcome::stopped(job));
    };
    let base::Settled { spec, base } = base::settle(&manager.models, job)?;
    let model = base.as_ref().map(|(_, model)| Arc::clone(model));
    let anew = || model.clone().map_or(Start::Fresh, Start::Model);
    let start = match job.store().read_blob(&job.id, Blob::Checkpoint)? {
        Some(checkpoint) => Start::Checkpoint(checkpoint, model.clone()),
        None => anew(),
    };
    // Each job needs its own pool: in a shared pool, a thread that waits inside a step of one job can pick up work of
    // another job, and returns only when that is done.
    let pool = match training_pool(manager.config.training_threads, Arc::clone(&manager.min_share)) {
        Ok(pool) => pool,
        Err(error) => return Ok(Outcome::Failed(format!("cannot start training threads: {error}"))),
    };
    let held_out = held_out::read(job.store(), &job.id, job.columns)?;
    let training: Arc<dyn RowSource> = Arc::new(received.training);
    let mut overseer = JobObserver::new(manager, job);
    let mut trained = train(&spec, &training, &held_out, &received.test, start, &pool, &mut overseer);
    if let Err(TrainError::Checkpoint(error @ CheckpointError::Software { .. })) = &trained {
        tracing::warn!(job = %job.id, %error, "training restarts from the beginning");
        trained = train(&spec, &training, &held_out, &received.test, anew(), &pool, &mut overseer);
    }
    let mut trained = match trained {
        Ok(trained) => trained,
        Err(TrainError::Stopped) => return Ok(Outcome::stopped(job)),
        Err(error) => return Ok(Outcome::Failed(error.to_string())),
    };
    trained.report.data_sha256 = received.sha256;
    trained.report.duration_seconds = started.elapsed().as_secs_f64();
    trained.report.job_id = job.id.to_string();
    trained.report.notes.extend(lock(&job.record).file_notes.iter().cloned());
    trained.report.base = base.map(|(key, _)| key);
    if job.spec.spec().publish_if_better
        && let Some(reason) = gate::kept_back(&trained.report)
    {
        // Record this before the rows are removed: a restart could not find it out again.
        job.write_down(|record| (record.kept_back, record.report) = (Some(reason), Some(trained.report)))?;
        return Ok(Outcome::KeptBack);
    }
    let artifact = Artifact {
        model: trained.model,
        report: Some(Arc::new(trained.report.clone())),
        statistics: trained.statistics,
        sha256: String::new(),
    };
    let sample = sample_of(job, &spec, training.as_ref())?;
    let (name, store) = (&job.spec.spec().model_name, manager.models.store());
    let version = store.publish_files(name, &artifact.to_bytes(), sample.as_deref())?;
    Ok(Outcome::Published(version, Box::new(trained.report)))
}

/// Encodes the validation sample to store with the version; `None` if it has no rows.
fn sample_of(job: &Job, spec: &CheckedTrainSpec, training: &dyn RowSource) -> Result<Option<Vec<u8>>, JobError> {
    let rows_max = sample::affordable(spec.spec().validation_sample_rows, spec.features(), training.is_wide());
    let unreadable = |error: SourceError| JobError::Damaged {
        role: format!("the rows of job {}", job.id),
        reason: error.to_string(),
    };
    let rows = if rows_max > 0 { held_out_rows(spec, training, rows_max).map_err(unreadable)? } else { Vec::new() };
    Ok((!rows.is_empty()).then(|| sample::to_bytes(&rows, spec.features())))
}

/// Finds the version that this job published before a crash, when its journal does not name it yet.
fn published_already(manager: &JobManager, job: &Job) -> Option<(Version, Box<TrainingReport>)> {
    let store = manager.models.store();
    let name = &job.spec.spec().model_name;
    let entry = store.entry(name)?;
    for version in entry.versions.keys().rev().take(ADOPTION_SEARCH_MAX) {
        let key = ModelKey { name: name.clone(), version: *version };
        let header = store.read_header(&key).map_err(|error| error.to_string());
        let report = match header.and_then(|header| Artifact::peek(&header).map_err(|error| error.to_string())) {
            Ok((_, report, _)) => report,
            Err(error) => {
                // Most likely another job's version: the version that we published was complete.
                tracing::warn!(%key, %error, "cannot read a version while searching for the one that a job published");
                None
            }
        };
        if let Some(report) = report.filter(|report| report.job_id == job.id.as_str()) {
            return Some((*version, Box::new(report)));
        }
    }
    None
}
