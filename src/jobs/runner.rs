//! Trains queued jobs, one after the other, and looks after the others meanwhile.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, Instant, SystemTime};

use sha2::{Digest, Sha256};
use tokio::task::JoinHandle;

use super::spool;
use super::table::{Job, Table, Wish};
use super::{JobError, JobState, Progress};
use crate::executor::{spawn_training, training_pool};
use crate::model::{Artifact, ModelKey, TrainingReport, Version};
use crate::training::{Event, MemoryRows, Next, RowSource, Start, TrainError, train};

/// How often uploads are looked at for their age, and the store for whether it has become writable.
const TICK: Duration = Duration::from_millis(500);
/// Watchers hear of steps at most this often.
const NEWS_INTERVAL: Duration = Duration::from_millis(100);
/// How often, and after which pause, it is tried to write down how a job ended.
const SETTLE_TRIES: usize = 5;
const SETTLE_PAUSE: Duration = Duration::from_millis(500);
/// Newest versions that are searched for the one of a job that a crash caught.
const ADOPTION_SEARCH_MAX: usize = 1000;

/// How a job's training ended.
#[derive(Debug)]
pub(super) enum Outcome {
    /// A version was published.
    Published(Version, Box<TrainingReport>),
    /// It was cancelled.
    Cancelled,
    /// It was paused.
    Paused,
    /// The server stops; the job starts again.
    Stopped,
    /// It failed.
    Failed(String),
}

impl Outcome {
    /// Of a job whose training was stopped.
    pub(super) fn stopped(job: &Job) -> Self {
        match job.wish() {
            Wish::GoOn => Self::Stopped,
            Wish::Pause => Self::Paused,
            Wish::Cancel => Self::Cancelled,
        }
    }
}

/// Trains a job. Runs on a thread of its own.
pub(super) type Work = fn(&Table, &Job) -> Outcome;

/// The task that trains.
#[derive(Debug)]
pub(super) struct Runner {
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Runner {
    pub(super) fn start(table: Arc<Table>, work: Work) -> Self {
        Self { task: Mutex::new(Some(tokio::spawn(run(table, work)))) }
    }

    /// Waits until it has ended, after [`Table::close`].
    pub(super) async fn join(&self) {
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task {
            let _ = task.await;
        }
    }
}

async fn run(table: Arc<Table>, work: Work) {
    let mut running: Option<(Arc<Job>, tokio::sync::oneshot::Receiver<_>)> = None;
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        if running.is_none() && !table.is_closing() {
            running = start(&table, work).await;
        }
        let ended = match &mut running {
            None if table.is_closing() => return,
            None => tokio::select! {
                () = table.bell.notified() => None,
                _ = tick.tick() => { look_after(&table).await; None }
            },
            Some((_, outcome)) => tokio::select! {
                outcome = outcome => Some(outcome),
                _ = tick.tick() => { look_after(&table).await; None }
            },
        };
        if let Some(outcome) = ended
            && let Some((job, _)) = running.take()
        {
            let outcome = match outcome {
                Ok(Ok(outcome)) => outcome,
                Ok(Err(panicked)) => Outcome::Failed(format!("a fault of the server: {panicked}")),
                Err(_) => Outcome::Failed("a fault of the server: the training thread was lost".to_owned()),
            };
            let settled = Arc::clone(&table);
            let _ = tokio::task::spawn_blocking(move || settle(&settled, &job, outcome)).await;
        }
    }
}

/// Starts the next job that can start.
async fn start(
    table: &Arc<Table>,
    work: Work,
) -> Option<(Arc<Job>, tokio::sync::oneshot::Receiver<Result<Outcome, crate::executor::Panicked>>)> {
    while let Some(job) = table.next() {
        let (starting, at) = (Arc::clone(&job), Arc::clone(table));
        let started = tokio::task::spawn_blocking(move || starting.go(JobState::Running, |_| ()));
        match started.await {
            Ok(Ok(_)) => {}
            // Cancelled meanwhile, or its journal cannot be written.
            Ok(Err(JobError::IllegalMove(_))) | Err(_) => continue,
            Ok(Err(error)) => {
                let failed = Arc::clone(&job);
                let _ = tokio::task::spawn_blocking(move || at.fail(&failed, &error)).await;
                continue;
            }
        }
        tracing::info!(job = %job.id, model = %job.spec.spec().model_name, "training starts");
        let (trained, at) = (Arc::clone(&job), Arc::clone(table));
        match spawn_training("train", move || work(&at, &trained)) {
            Ok(outcome) => return Some((job, outcome)),
            Err(error) => {
                let (failed, at) = (Arc::clone(&job), Arc::clone(table));
                let reason = format!("no thread to train on: {error}");
                let _ = tokio::task::spawn_blocking(move || settle(&at, &failed, Outcome::Failed(reason))).await;
            }
        }
    }
    None
}

/// What goes on beside training.
async fn look_after(table: &Arc<Table>) {
    let table = Arc::clone(table);
    let done = tokio::task::spawn_blocking(move || {
        if let Err(error) = table.activate() {
            tracing::warn!(%error, "the jobs' folder cannot be read");
        }
        table.expire(SystemTime::now());
    });
    let _ = done.await;
}

/// Writes down how a job ended. Where the disk refuses, it is tried again; at last those who wait are told, and a restart settles it (a published version is found again by its job's id).
fn settle(table: &Table, job: &Job, outcome: Outcome) {
    let (next, failure, published) = match outcome {
        Outcome::Stopped => return,
        // Who cancels meanwhile is stronger.
        Outcome::Paused if job.settle_as_paused() => return,
        Outcome::Paused => (JobState::Cancelled, None, None),
        Outcome::Published(version, report) => {
            tracing::info!(job = %job.id, %version, "published");
            (JobState::Succeeded, None, Some((version, report)))
        }
        Outcome::Cancelled => (JobState::Cancelled, None, None),
        Outcome::Failed(reason) => {
            tracing::warn!(job = %job.id, %reason, "training failed");
            (JobState::Failed, Some(reason), None)
        }
    };
    // Before anybody is told: who hears that a job has ended finds its rows gone. A crash in between finds a version that was
    // published, or a job that fails for want of rows.
    table.drop_rows(job);
    for _ in 0..SETTLE_TRIES {
        let written = job.go(next, |record| {
            record.failure.clone_from(&failure);
            if let Some((version, report)) = &published {
                record.version = Some(*version);
                record.report = Some(report.as_ref().clone());
            }
        });
        match written {
            Ok(_) => return,
            Err(error) => tracing::error!(job = %job.id, %error, "how a job ended cannot be written down yet"),
        }
        std::thread::sleep(SETTLE_PAUSE);
    }
    let what = published.map_or(String::new(), |(version, _)| format!("version {version} was published, but "));
    let reason = failure.unwrap_or_else(|| format!("{what}how the job ended cannot be written down"));
    job.end_in_memory(JobState::Failed, reason);
}

/// Reads the rows, trains, publishes.
pub(super) fn train_and_publish(table: &Table, job: &Job) -> Outcome {
    if job.may_be_published
        && let Some((version, report)) = published_already(table, job)
    {
        return Outcome::Published(version, report);
    }
    match attempt(table, job) {
        Ok(outcome) => outcome,
        Err(error) => Outcome::Failed(error.to_string()),
    }
}

fn attempt(table: &Table, job: &Job) -> Result<Outcome, JobError> {
    let started = Instant::now();
    let features = job.spec.features();
    let told = job.snapshot();
    let (rows, counts) = spool::read_all(&job.folder, features, told.training_rows)?;
    if (counts.chunks, counts.training_rows, counts.test_rows) != (told.chunks, told.training_rows, told.test_rows) {
        return Err(JobError::Damaged {
            path: spool::path(&job.folder).display().to_string(),
            reason: format!(
                "it holds {} chunks with {} rows, {} chunks with {} rows were acknowledged",
                counts.chunks,
                counts.rows(),
                told.chunks,
                told.training_rows + told.test_rows
            ),
        });
    }
    let data_sha256 = digest(&rows.training, &rows.test);
    let pool = match training_pool(table.config.training_threads, Arc::clone(&table.floor)) {
        Ok(pool) => pool,
        Err(error) => return Ok(Outcome::Failed(format!("no threads to train on: {error}"))),
    };
    let mut news = News { last: None, started: None };
    let training: Arc<dyn RowSource> = Arc::new(MemoryRows::new(rows.training, features));
    let test = MemoryRows::new(rows.test, features);
    let trained = train(&job.spec, &training, &test, Start::Fresh, &pool, &mut |event: &Event| {
        news.tell(job, event);
        if table.is_closing() || job.wish() != Wish::GoOn { Next::Stop } else { Next::GoOn }
    });
    let mut trained = match trained {
        Ok(trained) => trained,
        Err(TrainError::Stopped) => return Ok(Outcome::stopped(job)),
        Err(error) => return Ok(Outcome::Failed(error.to_string())),
    };
    trained.report.data_sha256 = data_sha256;
    trained.report.duration_seconds = started.elapsed().as_secs_f64();
    trained.report.job_id = job.id.to_string();
    let artifact =
        Artifact { model: trained.model, report: Some(Arc::new(trained.report.clone())), sha256: String::new() };
    let version = table.registry.store().publish(&job.spec.spec().model_name, &artifact)?;
    Ok(Outcome::Published(version, Box::new(trained.report)))
}

/// The version that this job published before a crash kept it from saying so.
fn published_already(table: &Table, job: &Job) -> Option<(Version, Box<TrainingReport>)> {
    let store = table.registry.store();
    let name = &job.spec.spec().model_name;
    let entry = store.entry(name)?;
    for version in entry.versions.keys().rev().take(ADOPTION_SEARCH_MAX) {
        let key = ModelKey { name: name.clone(), version: *version };
        let header = store.read_header(&key).map_err(|error| error.to_string());
        let report = match header.and_then(|header| Artifact::peek(&header).map_err(|error| error.to_string())) {
            Ok((_, report, _)) => report,
            Err(error) => {
                // Most likely not ours: ours was complete.
                tracing::warn!(%key, %error, "a version cannot be read while a job looks for its own");
                None
            }
        };
        if let Some(report) = report.filter(|report| report.job_id == job.id.as_str()) {
            return Some((*version, Box::new(report)));
        }
    }
    None
}

/// SHA-256 of the training rows and then the test rows, each after their count.
fn digest(training: &[f32], test: &[f32]) -> String {
    let mut hasher = Sha256::new();
    for values in [training, test] {
        hasher.update((values.len() as u64).to_le_bytes());
        for block in values.chunks(1 << 14) {
            let bytes: Vec<u8> = block.iter().flat_map(|value| value.to_le_bytes()).collect();
            hasher.update(&bytes);
        }
    }
    hasher.finalize().iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Turns training's events into what watchers are told.
struct News {
    last: Option<Instant>,
    /// When the first step was done, and how many rows and steps were done then.
    started: Option<(Instant, u64, u64)>,
}

impl News {
    fn tell(&mut self, job: &Job, event: &Event) {
        let now = Instant::now();
        let due = self.last.is_none_or(|last| now - last >= NEWS_INTERVAL);
        if !due && !event.epoch_ended {
            return;
        }
        self.last = Some(now);
        if event.step > 0 {
            // From the first step on: what comes before is no measure of the speed.
            self.started.get_or_insert((now, event.rows_processed, event.step));
        }
        let (since, rows, steps) = self.started.unwrap_or((now, event.rows_processed, event.step));
        let seconds = (now - since).as_secs_f64();
        let (rows, steps) = (event.rows_processed - rows, event.step - steps);
        let rate = |count: u64| if seconds > 0.0 { count as f64 / seconds } else { 0.0 };
        let left = (event.step_count - event.step.min(event.step_count)) as f64;
        let time_left = (steps > 0).then(|| Duration::try_from_secs_f64(left / rate(steps)).ok()).flatten();
        let progress = Progress {
            epoch: event.epoch,
            epoch_count: event.epoch_count,
            step: event.step,
            step_count: event.step_count,
            training_loss: event.training_loss,
            validation_loss: event.validation_loss,
            explained_variance: event.explained_variance,
            pca_explained_variance: event.pca_explained_variance,
            rows_per_second: rate(rows),
            time_left,
        };
        job.tell(|snapshot| snapshot.progress = Some(progress));
    }
}
