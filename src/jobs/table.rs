//! All jobs by id and by key, and every change of their states: on disk first, then in memory.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tokio::sync::{Notify, watch};

use super::journal::{Record, is_missing, unix_ms};
use super::spool::{self, Counts, Spool};
use super::upload::Upload;
use super::{Begun, IdempotencyKey, IllegalMove, JobError, JobId, JobSnapshot, JobState, JobsConfig};
use crate::executor::Floor;
use crate::registry::Registry;
use crate::store::StoreError;
use crate::store::disk::{ensure_folder, failed, remove, sync_folder};
use crate::training::CheckedTrainSpec;

/// A job in memory.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) id: JobId,
    pub(super) spec: CheckedTrainSpec,
    pub(super) folder: PathBuf,
    record: Mutex<Record>,
    news: watch::Sender<JobSnapshot>,
    /// Where rows go while it uploads; whoever appends holds it.
    pub(super) spool: Arc<tokio::sync::Mutex<Option<Spool>>>,
    /// Counts the streams that took the upload over; each holds the number that was its own.
    pub(super) stream: watch::Sender<u64>,
    /// What training is asked for.
    wish: AtomicU8,
    /// Whether it comes from before a restart, and may have run then: its version may be published already.
    pub(super) may_be_published: bool,
}

/// What whoever trains a job is asked to do, at the next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Wish {
    /// Go on.
    GoOn,
    /// Stop, and let it wait.
    Pause,
    /// Stop for good.
    Cancel,
}

#[derive(Clone, Copy, PartialEq)]
enum Durable {
    Yes,
    No,
}

/// All jobs.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) config: JobsConfig,
    pub(super) registry: Registry,
    pub(super) floor: Arc<Floor>,
    jobs: Mutex<Jobs>,
    /// Serialises what makes and forgets jobs, so that `jobs` is never held during disk work.
    making: Mutex<()>,
    spool_bytes: AtomicU64,
    pub(super) closing: AtomicBool,
    pub(super) bell: Notify,
}

#[derive(Debug, Default)]
struct Jobs {
    by_id: BTreeMap<JobId, Arc<Job>>,
    by_key: HashMap<IdempotencyKey, JobId>,
    queue: VecDeque<JobId>,
    active: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it is held but for a fault of ours, and what is behind it stays consistent.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Job {
    fn new(record: Record, folder: PathBuf, spool: Option<Spool>, may_be_published: bool) -> Result<Self, JobError> {
        let spec = record.spec.clone().check()?;
        let snapshot = snapshot(&record);
        Ok(Self {
            id: record.id.clone(),
            spec,
            folder,
            record: Mutex::new(record),
            news: watch::Sender::new(snapshot),
            spool: Arc::new(tokio::sync::Mutex::new(spool)),
            stream: watch::Sender::new(0),
            wish: AtomicU8::new(Wish::GoOn as u8),
            may_be_published,
        })
    }

    pub(super) fn snapshot(&self) -> JobSnapshot {
        self.news.borrow().clone()
    }

    pub(super) fn watch(&self) -> watch::Receiver<JobSnapshot> {
        self.news.subscribe()
    }

    pub(super) fn state(&self) -> JobState {
        lock(&self.record).state
    }

    /// What its training is asked for.
    pub(super) fn wish(&self) -> Wish {
        match self.wish.load(Ordering::Acquire) {
            wish if wish == Wish::GoOn as u8 => Wish::GoOn,
            wish if wish == Wish::Pause as u8 => Wish::Pause,
            _ => Wish::Cancel,
        }
    }

    /// Asks its training to stop. Who cancels is stronger than who pauses.
    fn ask(&self, wish: Wish) {
        self.wish.fetch_max(wish as u8, Ordering::AcqRel);
    }

    /// Tells watchers of a change that needs no journal.
    pub(super) fn tell(&self, change: impl FnOnce(&mut JobSnapshot)) {
        self.news.send_modify(|snapshot| {
            change(snapshot);
            snapshot.updated = SystemTime::now();
        });
    }

    /// What is on disk now, for watchers.
    pub(super) fn tell_counts(&self, counts: Counts, expires: Option<SystemTime>) {
        self.tell(|snapshot| {
            snapshot.chunks = counts.chunks;
            snapshot.training_rows = counts.training_rows;
            snapshot.test_rows = counts.test_rows;
            snapshot.upload_expires = expires;
        });
    }

    /// Moves to another state: refused if there is no such move, else on disk before anybody hears of it.
    pub(super) fn go(&self, next: JobState, change: impl FnOnce(&mut Record)) -> Result<JobSnapshot, JobError> {
        self.go_from(lock(&self.record), next, change, Durable::Yes)
    }

    /// Cancels a job that does not train, and says whether it did: one that trains is stopped by its training.
    pub(super) fn cancel_unless_running(&self, reason: Option<String>) -> Result<bool, JobError> {
        let record = lock(&self.record);
        if record.state == JobState::Running {
            self.ask(Wish::Cancel);
            return Ok(false);
        }
        self.go_from(record, JobState::Cancelled, |record| record.failure = reason, Durable::Yes).map(|_| true)
    }

    /// Pauses a job that waits, and says whether it did: one that trains is told to stop.
    pub(super) fn pause(&self) -> Result<bool, JobError> {
        let record = lock(&self.record);
        if record.state == JobState::Running {
            self.ask(Wish::Pause);
            return Ok(false);
        }
        self.go_from(record, JobState::Paused, |_| (), Durable::Yes).map(|_| true)
    }

    /// Lets a paused job wait for its turn.
    pub(super) fn resume(&self) -> Result<JobSnapshot, JobError> {
        let record = lock(&self.record);
        if record.state != JobState::Paused {
            return Err(IllegalMove { from: record.state, to: JobState::Queued }.into());
        }
        // Whoever cancels holds the lock too: what is forgotten here is that it was paused.
        self.wish.store(Wish::GoOn as u8, Ordering::Release);
        self.go_from(record, JobState::Queued, |_| (), Durable::Yes)
    }

    /// Ends a job whose end cannot be written down: those who wait are told, and a restart settles it again.
    pub(super) fn end_in_memory(&self, next: JobState, failure: String) {
        // Refused only if it has ended.
        let _ = self.go_from(lock(&self.record), next, |record| record.failure = Some(failure), Durable::No);
    }

    /// Writes down that a job whose training was stopped waits until it is resumed, and says true; false for one that is to
    /// be cancelled. Where the disk refuses, it waits all the same, and starts again at the next start of the server.
    pub(super) fn settle_as_paused(&self) -> bool {
        let record = lock(&self.record);
        if self.wish() == Wish::Cancel {
            return false;
        }
        tracing::info!(job = %self.id, "paused");
        if let Err(error) = self.go_from(record, JobState::Paused, |_| (), Durable::Yes) {
            tracing::error!(job = %self.id, %error, "that a job is paused cannot be written down");
            // Refused only if it has ended.
            let _ = self.go_from(lock(&self.record), JobState::Paused, |_| (), Durable::No);
        }
        true
    }

    fn go_from(
        &self,
        mut record: MutexGuard<'_, Record>,
        next: JobState,
        change: impl FnOnce(&mut Record),
        durable: Durable,
    ) -> Result<JobSnapshot, JobError> {
        let mut changed = record.clone();
        changed.state = record.state.to(next)?;
        changed.updated_unix_ms = unix_ms(SystemTime::now());
        change(&mut changed);
        if durable == Durable::Yes {
            changed.write(&self.folder)?;
        }
        *record = changed;
        let mut told = snapshot(&record);
        self.news.send_modify(|current| {
            if !next.has_ended() && told.chunks == 0 {
                (told.chunks, told.training_rows, told.test_rows) =
                    (current.chunks, current.training_rows, current.test_rows);
            }
            told.progress = current.progress.take();
            *current = told;
        });
        drop(record);
        if next.has_ended() {
            // Wakes a stream that still uploads.
            self.stream.send_modify(|_| ());
        }
        Ok(self.snapshot())
    }

    /// Why a stream cannot go on with this upload.
    pub(super) fn ended_error(&self) -> JobError {
        let snapshot = self.snapshot();
        JobError::Ended { id: self.id.clone(), how: snapshot.state.ended_as(), reason: snapshot.failure }
    }
}

fn snapshot(record: &Record) -> JobSnapshot {
    JobSnapshot {
        id: record.id.clone(),
        model_name: record.spec.model_name.clone(),
        state: record.state,
        created: record.created(),
        updated: record.updated(),
        upload_expires: None,
        chunks: record.chunks,
        training_rows: record.training_rows,
        test_rows: record.test_rows,
        progress: None,
        version: record.version,
        report: record.report.clone().map(Arc::new),
        failure: record.failure.clone(),
        idempotency_key: record.key.clone(),
    }
}

impl Table {
    pub(super) fn new(config: JobsConfig, registry: Registry, floor: Arc<Floor>) -> Self {
        Self {
            config,
            registry,
            floor,
            jobs: Mutex::default(),
            making: Mutex::default(),
            spool_bytes: AtomicU64::new(0),
            closing: AtomicBool::new(false),
            bell: Notify::new(),
        }
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// Reads the folder, once this server may write to it.
    pub(super) fn activate(&self) -> Result<(), JobError> {
        let _making = lock(&self.making);
        if lock(&self.jobs).active || !self.registry.store().is_writable() {
            return Ok(());
        }
        let folder = &self.config.folder;
        ensure_folder(folder)?;
        let mut queued = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(failed("cannot list", folder))? {
            let path = entry.map_err(failed("cannot list", folder))?.path();
            let Some(id) = path.file_name().and_then(|name| name.to_str()?.parse::<JobId>().ok()) else {
                tracing::warn!(path = %path.display(), "not a job: left alone");
                continue;
            };
            match self.recover(&id, path.clone()) {
                Ok(Some(job)) => {
                    if job.state() == JobState::Running {
                        // It was caught while it ran: it is the first to run again.
                        job.go(JobState::Queued, |_| ())?;
                        queued.push((0, id));
                    } else if job.state() == JobState::Queued {
                        queued.push((lock(&job.record).updated_unix_ms, id));
                    }
                    self.insert(job);
                }
                Ok(None) => {}
                Err(error) => tracing::error!(path = %path.display(), %error, "a job cannot be read: left alone"),
            }
        }
        queued.sort();
        let mut jobs = lock(&self.jobs);
        jobs.queue.extend(queued.into_iter().map(|(_, id)| id));
        jobs.active = true;
        drop(jobs);
        self.bell.notify_one();
        Ok(())
    }

    /// One job as a crash, or a stop, left it. `None`: its upload had not even begun.
    fn recover(&self, id: &JobId, folder: PathBuf) -> Result<Option<Job>, JobError> {
        let record = match Record::read(&folder) {
            Ok(record) => record,
            // The journal is written before the first chunk is taken: rows without a journal are not ours to remove.
            Err(error) if is_missing(&error) && !spool::holds_chunks(&folder) => {
                remove(&folder)?;
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        if record.id != *id {
            let reason = format!("it is the journal of job {}", record.id);
            return Err(JobError::Damaged { path: folder.display().to_string(), reason });
        }
        for entry in std::fs::read_dir(&folder).map_err(failed("cannot list", &folder))? {
            let path = entry.map_err(failed("cannot list", &folder))?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if name != "job.json" && name != "rows.spool" {
                remove(&path)?;
            }
        }
        let columns = record.spec.widths.first().copied().unwrap_or_default();
        let state = record.state;
        if state.has_ended() {
            remove(&spool::path(&folder))?;
            return Job::new(record, folder, None, false).map(Some);
        }
        if state == JobState::Uploading {
            let job = match Spool::recover(&folder, columns) {
                Ok(spool) => {
                    let counts = spool.counts();
                    self.spool_bytes.fetch_add(counts.bytes, Ordering::Relaxed);
                    let written = spool::path(&folder).metadata().and_then(|data| data.modified()).ok();
                    let job = Job::new(record, folder, Some(spool), false)?;
                    let last = written.unwrap_or_else(SystemTime::now);
                    job.tell_counts(counts, last.checked_add(self.config.upload_idle_max));
                    job
                }
                Err(error) => {
                    let job = Job::new(record, folder, None, false)?;
                    self.fail(&job, &error);
                    job
                }
            };
            return Ok(Some(job));
        }
        let bytes = spool::path(&folder).metadata().map_or(0, |data| data.len());
        self.spool_bytes.fetch_add(bytes, Ordering::Relaxed);
        // QUEUED too: it may have run before the last restart but one.
        Job::new(record, folder, None, true).map(Some)
    }

    fn insert(&self, job: Job) -> Arc<Job> {
        let job = Arc::new(job);
        let mut jobs = lock(&self.jobs);
        if let Some(key) = lock(&job.record).key.clone() {
            jobs.by_key.insert(key, job.id.clone());
        }
        jobs.by_id.insert(job.id.clone(), Arc::clone(&job));
        job
    }

    pub(super) fn job(&self, id: &JobId) -> Result<Arc<Job>, JobError> {
        lock(&self.jobs).by_id.get(id).cloned().ok_or_else(|| JobError::Unknown(id.to_string()))
    }

    pub(super) fn list(&self) -> Vec<JobSnapshot> {
        lock(&self.jobs).by_id.values().rev().map(|job| job.snapshot()).collect()
    }

    pub(super) fn begin(
        self: &Arc<Self>,
        spec: &CheckedTrainSpec,
        key: Option<IdempotencyKey>,
    ) -> Result<Begun, JobError> {
        self.activate()?;
        let _making = lock(&self.making);
        if self.is_closing() {
            return Err(JobError::ShuttingDown);
        }
        if !lock(&self.jobs).active {
            return Err(StoreError::ReadOnly {
                folder: self.config.folder.parent().unwrap_or(&self.config.folder).display().to_string(),
                reason: "another server writes to it; train there, or stop it first".to_owned(),
            }
            .into());
        }
        let known = key.as_ref().and_then(|key| {
            let jobs = lock(&self.jobs);
            jobs.by_id.get(jobs.by_key.get(key)?).cloned()
        });
        let job = match (known, key) {
            (Some(job), Some(key)) if job.spec != *spec => {
                return Err(JobError::KeyTaken { key: key.to_string(), job: job.id.clone() });
            }
            (Some(job), _) => job,
            (None, key) => self.make(spec, key)?,
        };
        // Whoever sends rows now gets to finish the chunk that it is writing.
        let spool = job.spool.blocking_lock();
        let snapshot = job.snapshot();
        if snapshot.state != JobState::Uploading {
            return Ok(Begun::Complete { last_chunk: snapshot.chunks, snapshot });
        }
        let last_chunk = spool.as_ref().map_or(0, |spool| spool.counts().chunks);
        // While the spool is held: what the stream before could still have appended is counted.
        let upload = Upload::take_over(Arc::clone(self), Arc::clone(&job));
        drop(spool);
        Ok(Begun::Uploading { upload, snapshot, last_chunk })
    }

    fn make(&self, spec: &CheckedTrainSpec, key: Option<IdempotencyKey>) -> Result<Arc<Job>, JobError> {
        let open = lock(&self.jobs).by_id.values().filter(|job| !job.state().has_ended()).count();
        if open >= self.config.open_jobs_max {
            return Err(JobError::TooManyJobs { open_jobs_max: self.config.open_jobs_max });
        }
        self.forget_oldest()?;
        let id = JobId::new();
        let folder = self.config.folder.join(id.as_str());
        ensure_folder(&folder)?;
        let made = Spool::create(&folder, spec.features()).and_then(|spool| {
            let record = Record::new(id, spec.spec().clone(), key, SystemTime::now());
            record.write(&folder)?;
            sync_folder(&self.config.folder)?;
            Ok((record, spool))
        });
        let (record, spool) = made.inspect_err(|_| {
            let _ = remove(&folder);
        })?;
        self.spool_bytes.fetch_add(spool.counts().bytes, Ordering::Relaxed);
        let job = Job::new(record, folder, Some(spool), false)?;
        job.tell(|snapshot| snapshot.upload_expires = SystemTime::now().checked_add(self.config.upload_idle_max));
        Ok(self.insert(job))
    }

    /// Forgets ended jobs beyond the limit, oldest first.
    fn forget_oldest(&self) -> Result<(), JobError> {
        let ended: Vec<Arc<Job>> =
            lock(&self.jobs).by_id.values().filter(|job| job.state().has_ended()).cloned().collect();
        let surplus = (ended.len() + 1).saturating_sub(self.config.ended_jobs_max.max(1));
        for job in &ended[..surplus.min(ended.len())] {
            remove(&job.folder)?;
            let mut jobs = lock(&self.jobs);
            jobs.by_id.remove(&job.id);
            jobs.by_key.retain(|_, id| *id != job.id);
        }
        Ok(())
    }

    /// Takes `bytes` more of the disk that rows may use, or refuses.
    pub(super) fn reserve(&self, bytes: u64) -> Result<(), JobError> {
        let bytes_max = self.config.spool_bytes_max;
        let taken = self.spool_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if taken > bytes_max {
            self.release(bytes);
            return Err(JobError::SpoolFull { bytes: taken, bytes_max });
        }
        Ok(())
    }

    /// Gives them back.
    pub(super) fn release(&self, bytes: u64) {
        self.spool_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Puts a job whose rows are all here in line.
    pub(super) fn enqueue(&self, id: JobId) {
        lock(&self.jobs).queue.push_back(id);
        self.bell.notify_one();
    }

    /// The next job to train.
    pub(super) fn next(&self) -> Option<Arc<Job>> {
        let mut jobs = lock(&self.jobs);
        while let Some(id) = jobs.queue.pop_front() {
            if let Some(job) = jobs.by_id.get(&id) {
                return Some(Arc::clone(job));
            }
        }
        None
    }

    /// Cancels a job that does not run and says true; tells one that runs to stop and says false.
    pub(super) fn cancel(&self, id: &JobId) -> Result<bool, JobError> {
        let job = self.job(id)?;
        let spool = job.spool.blocking_lock();
        if !job.cancel_unless_running(None)? {
            return Ok(false);
        }
        drop(spool);
        self.drop_rows(&job);
        Ok(true)
    }

    /// Puts a paused job in line again.
    pub(super) fn resume(&self, id: &JobId) -> Result<JobSnapshot, JobError> {
        let snapshot = self.job(id)?.resume()?;
        self.enqueue(id.clone());
        Ok(snapshot)
    }

    /// Ends a job that cannot go on.
    pub(super) fn fail(&self, job: &Job, error: &JobError) {
        tracing::warn!(job = %job.id, %error, "a job failed");
        let text = error.to_string();
        if let Err(error) = job.go(JobState::Failed, |record| record.failure = Some(text)) {
            tracing::error!(job = %job.id, %error, "that it failed cannot be written down");
        }
        self.drop_rows(job);
    }

    /// Removes the rows of a job that has ended.
    pub(super) fn drop_rows(&self, job: &Job) {
        if let Some(spool) = job.spool.blocking_lock().take() {
            drop(spool);
        }
        let path = spool::path(&job.folder);
        let bytes = path.metadata().map_or(0, |data| data.len());
        match remove(&path) {
            Ok(()) => self.release(bytes),
            Err(error) => tracing::warn!(job = %job.id, %error, "the rows of an ended job stay on disk"),
        }
    }

    /// Cancels uploads that nobody has sent a chunk to for too long.
    pub(super) fn expire(&self, now: SystemTime) {
        let open: Vec<Arc<Job>> = lock(&self.jobs).by_id.values().cloned().collect();
        for job in open {
            let spool = job.spool.blocking_lock();
            let expired = job.snapshot().upload_expires.is_some_and(|at| at <= now);
            if job.state() != JobState::Uploading || !expired {
                continue;
            }
            let idle = self.config.upload_idle_max;
            let reason = format!("the upload expired: no chunk came for {idle:?}");
            let gone = job.cancel_unless_running(Some(reason));
            drop(spool);
            match gone {
                Ok(_) => self.drop_rows(&job),
                Err(error) => tracing::warn!(job = %job.id, %error, "an upload that expired cannot be ended"),
            }
        }
    }

    /// Takes nothing more, and tells everybody.
    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::Release);
        for job in lock(&self.jobs).by_id.values() {
            job.stream.send_modify(|_| ());
        }
        self.bell.notify_one();
    }

    /// Drops all jobs from memory: their watchers' channels close.
    pub(super) fn forget_all(&self) {
        let mut jobs = lock(&self.jobs);
        jobs.by_id.clear();
        jobs.by_key.clear();
        jobs.queue.clear();
    }
}
