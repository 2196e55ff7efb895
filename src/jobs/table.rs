//! All jobs by id and by key, and every change of their states: on disk first, then in memory.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use tokio::sync::{Notify, OwnedMutexGuard};

use super::ahead::AllAhead;
use super::job::{Job, lock};
use super::journal::{Record, is_missing};
use super::queue::{self, Waiting};
use super::quota::Quota;
use super::spool::{self, Spool};
use super::upload::{self, Upload};
use super::{
    Begun, IdempotencyKey, JobError, JobId, JobSnapshot, JobState, JobsConfig, Priority, Round, ServerFiles, base,
    checkpoint, held_out,
};
use crate::executor::Floor;
use crate::model::{ModelKey, ModelName};
use crate::registry::Registry;
use crate::store::StoreError;
use crate::store::disk::{ensure_folder, failed, remove, sync_folder};
use crate::telemetry::measures::TrainingMeasures;
use crate::training::CheckedTrainSpec;

/// Jobs that run say when they end; this is said where none does, and the most.
const RETRY_AFTER: Duration = Duration::from_secs(10);
const RETRY_AFTER_MAX: Duration = Duration::from_mins(1);

/// All jobs.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) config: JobsConfig,
    pub(super) registry: Registry,
    pub(super) floor: Arc<Floor>,
    jobs: Mutex<Jobs>,
    /// Serialises what makes and forgets jobs, so that `jobs` is never held during disk work.
    making: Mutex<()>,
    /// Whose turn it is to begin an upload: who has left meanwhile takes no thread to wait for `making`.
    pub(super) turn: Arc<tokio::sync::Mutex<()>>,
    /// Whose turn it is to look at the files that a job names.
    pub(super) looking: Arc<tokio::sync::Mutex<()>>,
    pub(super) quota: Quota,
    pub(super) measures: Arc<TrainingMeasures>,
    pub(super) ahead: AllAhead,
    pub(super) closing: AtomicBool,
    pub(super) bell: Notify,
}

#[derive(Debug, Default)]
struct Jobs {
    by_id: BTreeMap<JobId, Arc<Job>>,
    by_key: HashMap<IdempotencyKey, JobId>,
    /// In the order in which they came.
    waiting: Vec<JobId>,
    /// Those that [`Table::next`] gave and that have not stopped.
    started: HashSet<JobId>,
    /// How many jobs have started, and when the last of a name did.
    starts: u64,
    last_start: HashMap<ModelName, u64>,
    active: bool,
}

impl Table {
    pub(super) fn new(config: JobsConfig, registry: Registry, floor: Arc<Floor>) -> Self {
        Self {
            quota: Quota::new(&config),
            measures: Arc::default(),
            ahead: AllAhead::default(),
            config,
            registry,
            floor,
            jobs: Mutex::default(),
            making: Mutex::default(),
            turn: Arc::default(),
            looking: Arc::default(),
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
                        job.put_back();
                        queued.push((0, id));
                    } else if job.state() == JobState::Queued {
                        queued.push((lock(&job.record).updated_unix_ms.max(1), id));
                    }
                    self.insert(job);
                }
                Ok(None) => {}
                Err(error) => tracing::error!(path = %path.display(), %error, "a job cannot be read: left alone"),
            }
        }
        queued.sort();
        let mut jobs = lock(&self.jobs);
        jobs.waiting.extend(queued.into_iter().map(|(_, id)| id));
        jobs.active = true;
        drop(jobs);
        // What a crash left between two rounds.
        self.finish_cut_rounds();
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
            if !matches!(name, "job.json" | "rows.spool" | "checkpoint" | "held_out") {
                remove(&path)?;
            }
        }
        let columns = record.columns();
        let state = record.state;
        if state.has_ended() {
            remove(&spool::path(&folder))?;
            remove(&checkpoint::path(&folder))?;
            remove(&held_out::path(&folder))?;
            return Job::new(record, folder, None, false, Arc::clone(&self.measures)).map(Some);
        }
        if state == JobState::Uploading {
            let job = match Spool::recover(&folder, columns) {
                Ok(spool) => {
                    let counts = spool.counts();
                    let written = spool::path(&folder).metadata().and_then(|data| data.modified()).ok();
                    let job = Job::new(record, folder, Some(spool), false, Arc::clone(&self.measures))?;
                    let given = held_out::path(&job.folder).metadata().map_or(0, |data| data.len());
                    self.quota.add(&job.share, counts.bytes + given);
                    let last = written.unwrap_or_else(SystemTime::now);
                    job.tell_counts(counts, last.checked_add(self.config.upload_idle_max));
                    job
                }
                // Nothing that another start would find better.
                Err(error) if matches!(error, JobError::Damaged { .. }) || is_missing(&error) => {
                    let job = Job::new(record, folder, None, false, Arc::clone(&self.measures))?;
                    self.fail(&job, &error);
                    job
                }
                Err(error) => return Err(error),
            };
            return Ok(Some(job));
        }
        if record.waits_for_import() {
            // What was copied is forgotten: the files may have changed.
            remove(&spool::path(&folder))?;
            tracing::info!(job = %id, "its rows are copied from files anew");
        }
        let bytes = |path: PathBuf| path.metadata().map_or(0, |data| data.len());
        let bytes = bytes(spool::path(&folder)) + bytes(checkpoint::path(&folder)) + bytes(held_out::path(&folder));
        // QUEUED too: it may have run before the last restart but one.
        let job = Job::new(record, folder, None, true, Arc::clone(&self.measures))?;
        self.quota.add(&job.share, bytes);
        Ok(Some(job))
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

    /// Versions that jobs begin with that have not ended, as far as they exist.
    pub(super) fn bases(&self) -> BTreeSet<ModelKey> {
        let open: Vec<_> = {
            let jobs = lock(&self.jobs);
            jobs.by_id.values().filter(|job| !job.told_state().has_ended()).cloned().collect()
        };
        open.iter().filter_map(|job| base::needed(self, job)).collect()
    }

    /// Whether the key has a job.
    pub(super) fn knows(&self, key: Option<&IdempotencyKey>) -> bool {
        key.is_some_and(|key| lock(&self.jobs).by_key.contains_key(key))
    }

    /// Looks at the files that a job names, as far as that is possible without reading them.
    pub(super) fn check_files(&self, files: &ServerFiles, columns: usize) -> Result<(), JobError> {
        let rows = files.check(self.config.train_folder.as_deref(), columns)?;
        let (rows_max, bytes_max) = (self.config.job_rows_max, self.config.job_bytes_max);
        if rows > rows_max {
            return Err(JobError::TooManyRows { rows, rows_max });
        }
        let bytes = rows.saturating_mul(columns as u64 * 4);
        if bytes > bytes_max {
            return Err(JobError::JobTooLarge { bytes, bytes_max });
        }
        Ok(())
    }

    pub(super) fn begin(
        self: &Arc<Self>,
        spec: &CheckedTrainSpec,
        files: Option<ServerFiles>,
        key: Option<IdempotencyKey>,
        priority: Priority,
        round: Option<Round>,
        turn: OwnedMutexGuard<()>,
    ) -> Result<Begun, JobError> {
        self.activate()?;
        let making = lock(&self.making);
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
        let known = key.as_ref().and_then(|key| self.of_key(key));
        let job = match (known, key) {
            (Some(job), Some(key)) if job.spec != *spec || job.round != round || lock(&job.record).files != files => {
                return Err(JobError::KeyTaken { key: key.to_string(), job: job.id.clone() });
            }
            (Some(job), _) => job,
            (None, key) => self.make(spec, files, key, priority, round, &[])?,
        };
        drop((making, turn));
        // Whoever sends rows now gets to finish the chunk that it is writing.
        let spool = lock(&job.spool);
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

    fn of_key(&self, key: &IdempotencyKey) -> Option<Arc<Job>> {
        let jobs = lock(&self.jobs);
        jobs.by_id.get(jobs.by_key.get(key)?).cloned()
    }

    /// The newest round of a stream that is remembered.
    pub(super) fn newest_round(&self, stream: &IdempotencyKey) -> Option<Round> {
        let jobs = lock(&self.jobs);
        let rounds = jobs.by_id.values().filter_map(|job| job.round.as_ref());
        rounds.filter(|round| round.stream == *stream).max_by_key(|round| round.number).cloned()
    }

    /// Makes the round after that of `job`, which had so much, and gives it the held-out rows; finds it, if that was done
    /// before.
    pub(super) fn next_round(&self, job: &Job, round: &Round, held_out: &[f64]) -> Result<Arc<Job>, JobError> {
        let _making = lock(&self.making);
        let key = round.key();
        match self.of_key(&key) {
            Some(known) if known.round.as_ref() == Some(round) && known.spec == job.spec => Ok(known),
            Some(known) => Err(JobError::KeyTaken { key: key.to_string(), job: known.id.clone() }),
            None => self.make(&job.spec, None, Some(key), job.priority, Some(round.clone()), held_out),
        }
    }

    /// Ends the uploads of rounds whose next round is there: a crash came between the two.
    pub(super) fn finish_cut_rounds(&self) {
        let rounds: Vec<Arc<Job>> =
            lock(&self.jobs).by_id.values().filter(|job| job.round.is_some()).cloned().collect();
        let has_next = |job: &Job| {
            rounds.iter().any(|other| match (&other.round, &job.round) {
                (Some(other), Some(round)) => other.is_after(round),
                _ => false,
            })
        };
        for job in rounds.iter().filter(|job| job.told_state() == JobState::Uploading && has_next(job)) {
            let mut spool = lock(&job.spool);
            // Whoever cuts it holds the spool until it is done.
            if job.state() != JobState::Uploading {
                continue;
            }
            if let Err(error) = upload::queue(self, job, &mut spool) {
                tracing::warn!(job = %job.id, %error, "the upload of a round cannot be ended");
            }
        }
    }

    /// Whether a round before that of `job` has its rows, and has not ended: rounds build on each other.
    fn waits_for_a_round(by_id: &BTreeMap<JobId, Arc<Job>>, job: &Job) -> bool {
        job.round.as_ref().is_some_and(|round| {
            by_id.values().any(|other| {
                other.round.as_ref().is_some_and(|other| round.is_after(other)) && !other.told_state().has_ended()
            })
        })
    }

    fn make(
        &self,
        spec: &CheckedTrainSpec,
        files: Option<ServerFiles>,
        key: Option<IdempotencyKey>,
        priority: Priority,
        round: Option<Round>,
        held_out: &[f64],
    ) -> Result<Arc<Job>, JobError> {
        let open = lock(&self.jobs).by_id.values().filter(|job| !job.state().has_ended()).count();
        if open >= self.config.open_jobs_max {
            return Err(JobError::TooManyJobs {
                open_jobs_max: self.config.open_jobs_max,
                retry_after: self.retry_after(),
            });
        }
        let columns = base::columns(self, spec)?;
        self.forget_oldest()?;
        let id = JobId::new();
        let folder = self.config.folder.join(id.as_str());
        ensure_folder(&folder)?;
        let make = || {
            // Rows from files have their spool once they are copied.
            let spool = if files.is_none() { Some(Spool::create(&folder, columns)?) } else { None };
            let mut record = Record::new(id, spec.spec().clone(), files, key, priority, SystemTime::now());
            record.columns = Some(columns);
            record.round = round;
            let given = held_out::write(&folder, held_out)?;
            record.write(&folder)?;
            sync_folder(&self.config.folder)?;
            let bytes = spool.as_ref().map_or(0, |spool| spool.counts().bytes) + given;
            let job = Job::new(record, folder.clone(), spool, false, Arc::clone(&self.measures))?;
            self.quota.reserve(&job.share, bytes, || self.retry_after())?;
            Ok(job)
        };
        let job = make().inspect_err(|_: &JobError| {
            let _ = remove(&folder);
        })?;
        let uploads = job.state() == JobState::Uploading;
        if uploads {
            job.tell(|snapshot| snapshot.upload_expires = SystemTime::now().checked_add(self.config.upload_idle_max));
        }
        let job = self.insert(job);
        if !uploads {
            self.enqueue(job.id.clone());
        }
        Ok(job)
    }

    /// Forgets ended jobs beyond the limit, oldest first.
    fn forget_oldest(&self) -> Result<(), JobError> {
        let ended: Vec<Arc<Job>> =
            lock(&self.jobs).by_id.values().filter(|job| job.state().has_ended()).cloned().collect();
        let surplus = (ended.len() + 1).saturating_sub(self.config.ended_jobs_max.max(1));
        for job in &ended[..surplus.min(ended.len())] {
            remove(&job.folder)?;
            // Where its rows could not be removed before.
            self.quota.release_all(&job.share);
            let mut jobs = lock(&self.jobs);
            jobs.by_id.remove(&job.id);
            jobs.by_key.retain(|_, id| *id != job.id);
        }
        let mut jobs = lock(&self.jobs);
        let Jobs { by_id, last_start, .. } = &mut *jobs;
        if last_start.len() > by_id.len() {
            last_start.retain(|name, _| by_id.values().any(|job| job.spec.spec().model_name == *name));
        }
        Ok(())
    }

    /// Takes `bytes` more of the disk for a job, or refuses.
    pub(super) fn reserve(&self, job: &Job, bytes: u64) -> Result<(), JobError> {
        self.quota.reserve(&job.share, bytes, || self.retry_after())
    }

    /// When a job that runs may have ended, and its rows are gone.
    fn retry_after(&self) -> Duration {
        let jobs = lock(&self.jobs);
        let running = jobs.by_id.values().filter(|job| job.told_state() == JobState::Running);
        let left = running.filter_map(|job| job.snapshot().progress?.time_left).min();
        left.unwrap_or(RETRY_AFTER).clamp(Duration::from_secs(1), RETRY_AFTER_MAX)
    }

    /// Puts a job whose rows are all here in line.
    pub(super) fn enqueue(&self, id: JobId) {
        let mut jobs = lock(&self.jobs);
        // One that was paused and resumed comes last.
        jobs.waiting.retain(|other| *other != id);
        jobs.waiting.push(id);
        drop(jobs);
        self.bell.notify_one();
    }

    /// The next job to train, in the order of [`queue::next`].
    pub(super) fn next(&self) -> Option<Arc<Job>> {
        let mut jobs = lock(&self.jobs);
        let Jobs { by_id, waiting, started, starts, last_start, .. } = &mut *jobs;
        // Others were cancelled or paused meanwhile.
        waiting.retain(|id| by_id.get(id).is_some_and(|job| job.told_state() == JobState::Queued));
        // What runs may publish the version that another job of its name has to be better than.
        let runs = |name: &ModelName| {
            started.iter().filter_map(|id| by_id.get(id)).any(|job| job.spec.spec().model_name == *name)
        };
        let waits_for_its_name = |job: &Job| {
            let spec = job.spec.spec();
            spec.publish_if_better && runs(&spec.model_name)
        };
        let may_start = |job: &&Arc<Job>| !Self::waits_for_a_round(by_id, job) && !waits_for_its_name(job);
        let candidates: Vec<&Arc<Job>> = waiting.iter().filter_map(|id| by_id.get(id)).filter(may_start).collect();
        let place = queue::next(
            candidates.iter().map(|job| Waiting { name: &job.spec.spec().model_name, priority: job.priority }),
            |name| last_start.get(name).copied(),
        )?;
        let job = Arc::clone(candidates.get(place)?);
        waiting.retain(|id| *id != job.id);
        started.insert(job.id.clone());
        *starts += 1;
        last_start.insert(job.spec.spec().model_name.clone(), *starts);
        Some(job)
    }

    /// A job that [`Table::next`] gave does not run any more.
    pub(super) fn has_stopped(&self, id: &JobId) {
        lock(&self.jobs).started.remove(id);
    }

    /// Writes down where a job's training can go on.
    ///
    /// # Errors
    /// Those of the quota, which harm nothing: the checkpoint before stays. Others, a full disk above all, are to fail the
    /// job.
    pub(super) fn save_checkpoint(&self, job: &Job, bytes: &[u8]) -> Result<(), JobError> {
        let path = checkpoint::path(&job.folder);
        let before = path.metadata().map_or(0, |data| data.len());
        let bytes_now = checkpoint::bytes_on_disk(bytes);
        // Both are there for a moment.
        self.reserve(job, bytes_now)?;
        match checkpoint::write(&job.folder, bytes) {
            Ok(()) => self.quota.release(&job.share, before),
            Err(error) => {
                self.quota.release(&job.share, bytes_now);
                return Err(error.in_folder(&job.folder));
            }
        }
        Ok(())
    }

    /// Cancels a job that does not run and says true; tells one that runs to stop and says false.
    pub(super) fn cancel(&self, id: &JobId) -> Result<bool, JobError> {
        let job = self.job(id)?;
        let spool = lock(&job.spool);
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

    /// Ends a job that cannot go on. Its rows go first: where the disk is full, there is room for its journal then.
    pub(super) fn fail(&self, job: &Job, error: &JobError) {
        self.fail_upload(job, &mut lock(&job.spool), error);
    }

    /// The same for whoever holds the spool.
    pub(super) fn fail_upload(&self, job: &Job, spool: &mut Option<Spool>, error: &JobError) {
        tracing::warn!(job = %job.id, %error, "a job failed");
        *spool = None;
        self.remove_rows(job);
        let text = error.to_string();
        if let Err(error) = job.go(JobState::Failed, |record| record.failure = Some(text.clone())) {
            tracing::error!(job = %job.id, %error, "that it failed cannot be written down");
            job.end_in_memory(JobState::Failed, text);
        }
    }

    /// Removes the rows and the checkpoint of a job that has ended.
    pub(super) fn drop_rows(&self, job: &Job) {
        *lock(&job.spool) = None;
        self.remove_rows(job);
    }

    fn remove_rows(&self, job: &Job) {
        let files = [spool::path(&job.folder), checkpoint::path(&job.folder), held_out::path(&job.folder)];
        let removed = files.iter().try_for_each(|path| remove(path));
        match removed {
            Ok(()) => self.quota.release_all(&job.share),
            Err(error) => tracing::warn!(job = %job.id, %error, "the rows of an ended job stay on disk"),
        }
    }

    /// Cancels uploads that nobody has sent a chunk to for too long, and jobs that nobody has resumed.
    pub(super) fn expire(&self, now: SystemTime) {
        let open: Vec<Arc<Job>> = lock(&self.jobs).by_id.values().cloned().collect();
        for job in open {
            let gone = match job.told_state() {
                JobState::Uploading => self.expire_upload(&job, now),
                JobState::Paused => self.expire_paused(&job, now),
                _ => Ok(false),
            };
            match gone {
                Ok(true) => self.drop_rows(&job),
                Ok(false) => {}
                Err(error) => tracing::warn!(job = %job.id, %error, "a job that expired cannot be ended"),
            }
        }
    }

    fn expire_upload(&self, job: &Job, now: SystemTime) -> Result<bool, JobError> {
        let expired = || {
            // A stream of rounds that is connected may wait for rounds, not for its client; its rows may be few and far between.
            let waits = job.round.is_some() && job.stream.receiver_count() > 0;
            !waits && job.snapshot().upload_expires.is_some_and(|at| at <= now)
        };
        // Not to wait for a chunk that is being written.
        if !expired() {
            return Ok(false);
        }
        let _spool = lock(&job.spool);
        if job.state() != JobState::Uploading || !expired() {
            return Ok(false);
        }
        let idle = self.config.upload_idle_max;
        job.cancel_unless_running(Some(format!("the upload expired: no chunk came for {idle:?}")))
    }

    fn expire_paused(&self, job: &Job, now: SystemTime) -> Result<bool, JobError> {
        let Some(since) = now.checked_sub(self.config.paused_max) else { return Ok(false) };
        let reason = format!("it was paused, and not resumed for {:?}", self.config.paused_max);
        job.cancel_if_paused_before(since, reason)
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
        jobs.waiting.clear();
    }
}
