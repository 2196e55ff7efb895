//! Registry of all jobs, by id and by key. It creates, queues, expires, ends and forgets jobs, on disk first and then
//! in memory.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;

use super::job::{Job, Shared};
use super::journal::{Record, Step, at};
use super::lock::lock;
use super::queue::{self, Waiting};
use super::quota::Quota;
use super::reorder_buffer::ReorderBuffers;
use super::reserve::DiskReserve;
use super::spool::{self, Spool};
use super::watch::Watchers;
use super::{
    EndReason, IdempotencyKey, JobError, JobId, JobSnapshot, JobState, JobsConfig, Owner, Priority, Round, ServerFiles,
    base, checkpoint, held_out,
};
use crate::executor::MinCpuShare;
use crate::model::{ModelKey, ModelName};
use crate::registry::Registry;
use crate::store::StoreError;
use crate::store::disk::{ensure_folder, failed, remove, sync_folder};
use crate::store::role::role;
use crate::telemetry::measures::TrainingMeasures;
use crate::training::CheckedTrainSpec;

/// Retry delay if no running job has an estimated end, and the maximum retry delay.
const RETRY_AFTER: Duration = Duration::from_secs(10);
const RETRY_AFTER_MAX: Duration = Duration::from_mins(1);
/// An upload without a stream is cancelled after this long, if its client would lose nothing.
const ABANDONED_MAX: Duration = Duration::from_mins(1);
/// One caller may hold this multiple of the free places, so a caller alone leaves a fifth to others.
const TIMES_FREE_MAX: usize = 4;

/// All jobs.
#[derive(Debug)]
pub(super) struct JobRegistry {
    pub(super) config: JobsConfig,
    pub(super) registry: Registry,
    pub(super) min_share: Arc<MinCpuShare>,
    jobs: Mutex<Jobs>,
    /// Serializes the creation and removal of jobs, so that `jobs` is not locked during that disk work.
    pub(super) making: Mutex<()>,
    /// Async lock for creating jobs: callers wait here instead of on a thread for `making`, and can leave while they
    /// wait.
    pub(super) turn: Arc<tokio::sync::Mutex<()>>,
    /// Async lock for checking the server files of a new job.
    pub(super) looking: Arc<tokio::sync::Mutex<()>>,
    pub(super) quota: Quota,
    pub(super) measures: Arc<TrainingMeasures>,
    pub(super) shared: Shared,
    pub(super) watchers: Watchers,
    /// Why the last attempt to read the folder failed, so that each reason is logged once.
    refusal: Mutex<String>,
    pub(super) ahead: ReorderBuffers,
    pub(super) closing: AtomicBool,
    pub(super) wakeup: Notify,
}

#[derive(Debug, Default)]
struct Jobs {
    by_id: BTreeMap<JobId, Arc<Job>>,
    /// By owner scope and key: owners do not share keys.
    by_key: HashMap<(String, IdempotencyKey), JobId>,
    /// Jobs whose journals cannot be read, with the error.
    unreadable: HashMap<JobId, JobError>,
    /// Queued jobs, in order of arrival.
    waiting: Vec<JobId>,
    /// Jobs that [`JobRegistry::next`] returned and that have not stopped.
    started: HashSet<JobId>,
    /// Number of starts so far, and for each model name the number of its last start.
    starts: u64,
    last_start: HashMap<ModelName, u64>,
    active: bool,
}

impl JobRegistry {
    pub(super) fn new(config: JobsConfig, registry: Registry, min_share: Arc<MinCpuShare>) -> Self {
        let measures = Arc::<TrainingMeasures>::default();
        let reserve = Arc::new(DiskReserve::new(&config.folder));
        Self {
            quota: Quota::new(&config),
            shared: Shared { measures: Arc::clone(&measures), reserve },
            measures,
            watchers: Watchers::default(),
            refusal: Mutex::default(),
            ahead: ReorderBuffers::default(),
            config,
            registry,
            min_share,
            jobs: Mutex::default(),
            making: Mutex::default(),
            turn: Arc::default(),
            looking: Arc::default(),
            closing: AtomicBool::new(false),
            wakeup: Notify::new(),
        }
    }

    /// Whether the jobs folder has been read.
    pub(super) fn is_active(&self) -> bool {
        lock(&self.jobs).active
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// Calls [`JobRegistry::activate`] from a periodic task. Each failure reason is logged once.
    pub(super) fn try_activate(&self) {
        let reason = self.activate().map_or_else(|error| error.to_string(), |()| String::new());
        let mut told = lock(&self.refusal);
        if *told != reason && !reason.is_empty() {
            tracing::warn!(%reason, "cannot use the jobs folder");
        }
        *told = reason;
    }

    /// Reads the jobs folder, if this server holds the write lock and has not read it yet.
    pub(super) fn activate(&self) -> Result<(), JobError> {
        let _making = lock(&self.making);
        if lock(&self.jobs).active || !self.registry.store().is_writable() {
            return Ok(());
        }
        let folder = &self.config.folder;
        ensure_folder(folder)?;
        // The folder's name must survive a crash, too.
        folder.parent().map_or(Ok(()), sync_folder)?;
        self.shared.reserve.fill();
        let mut queued = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(failed("cannot list", folder))? {
            let path = entry.map_err(failed("cannot list", folder))?.path();
            let Some(id) = path.file_name().and_then(|name| name.to_str()?.parse::<JobId>().ok()) else {
                tracing::warn!(path = %path.display(), "not a job folder: ignored");
                continue;
            };
            match self.recover(&id, path.clone()) {
                Ok(Some(job)) => {
                    if job.state() == JobState::Running {
                        // It was running when the server stopped, so it runs first.
                        job.put_back();
                        queued.push((0, id));
                    } else if job.state() == JobState::Queued {
                        queued.push((lock(&job.record).updated_unix_ms.max(1), id));
                    }
                    self.insert(job);
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::error!(path = %path.display(), %error, "cannot read a job: ignored");
                    let missing = || {
                        let reason = "it is missing, but the job has rows; remove the job's folder if unneeded";
                        JobError::Damaged { role: format!("the journal of job {id}"), reason: reason.to_owned() }
                    };
                    let error = if error.is_missing() { missing() } else { error };
                    lock(&self.jobs).unreadable.insert(id, error);
                }
            }
        }
        queued.sort();
        let mut jobs = lock(&self.jobs);
        jobs.waiting.extend(queued.into_iter().map(|(_, id)| id));
        jobs.active = true;
        drop(jobs);
        // A crash between two rounds may have left an open upload.
        self.finish_cut_rounds();
        self.wakeup.notify_one();
        Ok(())
    }

    /// Reads one job after a restart. `None`: the folder had neither a journal nor rows, and was removed.
    fn recover(&self, id: &JobId, folder: PathBuf) -> Result<Option<Job>, JobError> {
        let record = match Record::read(&folder) {
            Ok(record) => record,
            // The journal is written before the first chunk. Rows without a journal are unexpected, so do not remove
            // them.
            Err(error) if error.is_missing() && !spool::holds_chunks(&folder) => {
                remove(&folder)?;
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        if record.id != *id {
            let reason = format!("it is the journal of job {}", record.id);
            return Err(JobError::Damaged { role: role(&folder), reason });
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
            return Job::new(record, folder, None, false, self.shared.clone()).map(Some);
        }
        if state == JobState::Uploading {
            let job = match Spool::recover(&folder, columns) {
                Ok(spool) => {
                    let counts = spool.counts();
                    let written = spool::path(&folder).metadata().and_then(|data| data.modified()).ok();
                    let job = Job::new(record, folder, Some(spool), false, self.shared.clone())?;
                    let given = held_out::path(&job.folder).metadata().map_or(0, |data| data.len());
                    self.quota.add(&job.share, counts.bytes + given);
                    let last = written.unwrap_or_else(SystemTime::now);
                    job.tell_counts(counts, last.checked_add(self.config.upload_idle_max));
                    job
                }
                // Another restart would not help.
                Err(error) if error.is_damage() => {
                    let job = Job::new(record, folder, None, false, self.shared.clone())?;
                    self.fail(&job, &error);
                    job
                }
                Err(error) => return Err(error),
            };
            return Ok(Some(job));
        }
        if record.waits_for_import() {
            // Remove the partial copy: the files may have changed.
            remove(&spool::path(&folder))?;
            tracing::info!(job = %id, "rows will be copied from files again");
        }
        let bytes = |path: PathBuf| path.metadata().map_or(0, |data| data.len());
        let bytes = bytes(spool::path(&folder)) + bytes(checkpoint::path(&folder)) + bytes(held_out::path(&folder));
        // A QUEUED job may also have published: it may have run before an earlier restart.
        let job = Job::new(record, folder, None, true, self.shared.clone())?;
        self.quota.add(&job.share, bytes);
        Ok(Some(job))
    }

    fn insert(&self, job: Job) -> Arc<Job> {
        let job = Arc::new(job);
        let mut jobs = lock(&self.jobs);
        if let Some(key) = lock(&job.record).key.clone() {
            jobs.by_key.insert((job.owner.scope().to_owned(), key), job.id.clone());
        }
        jobs.by_id.insert(job.id.clone(), Arc::clone(&job));
        job
    }

    pub(super) fn job(&self, id: &JobId) -> Result<Arc<Job>, JobError> {
        let jobs = lock(&self.jobs);
        let unknown = || jobs.unreadable.get(id).cloned().unwrap_or_else(|| JobError::Unknown(id.to_string()));
        jobs.by_id.get(id).cloned().ok_or_else(unknown)
    }

    pub(super) fn list(&self) -> Vec<JobSnapshot> {
        lock(&self.jobs).by_id.values().rev().map(|job| job.snapshot()).collect()
    }

    /// Base versions of jobs that have not ended, if they exist.
    pub(super) fn bases(&self) -> BTreeSet<ModelKey> {
        let open: Vec<_> = {
            let jobs = lock(&self.jobs);
            jobs.by_id.values().filter(|job| !job.told_state().has_ended()).cloned().collect()
        };
        open.iter().filter_map(|job| base::needed(&self.registry, job)).collect()
    }

    /// Whether a job with this key of the owner exists.
    pub(super) fn knows(&self, key: Option<&IdempotencyKey>, owner: &Owner) -> bool {
        key.is_some_and(|key| self.of_key(key, owner).is_some())
    }

    /// Checks the server files of a new job without reading all their rows.
    pub(super) fn check_files(
        &self,
        files: &ServerFiles,
        columns: usize,
        features: Vec<String>,
    ) -> Result<(), JobError> {
        let rows = files.check(self.config.train_folder.as_deref(), columns, features)?;
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

    pub(super) fn of_key(&self, key: &IdempotencyKey, owner: &Owner) -> Option<Arc<Job>> {
        let jobs = lock(&self.jobs);
        jobs.by_id.get(jobs.by_key.get(&(owner.scope().to_owned(), key.clone()))?).cloned()
    }

    /// The newest remembered round of an owner's stream.
    pub(super) fn newest_round(&self, stream: &IdempotencyKey, owner: &Owner) -> Option<Round> {
        let rounds = self.rounds(stream, owner).into_iter().filter_map(|job| job.round);
        rounds.max_by_key(|round| round.number)
    }

    /// The remembered rounds of an owner's stream.
    pub(super) fn rounds(&self, stream: &IdempotencyKey, owner: &Owner) -> Vec<JobSnapshot> {
        let of_stream = |job: &&Arc<Job>| {
            job.owner.scope() == owner.scope() && job.round.as_ref().is_some_and(|round| round.stream == *stream)
        };
        lock(&self.jobs).by_id.values().filter(of_stream).map(|job| job.snapshot()).collect()
    }

    /// Creates the job of `round`, the round after that of `job`, with the held-out rows. Returns the existing job if
    /// it was created before.
    pub(super) fn next_round(&self, job: &Job, round: &Round, held_out: &[f64]) -> Result<Arc<Job>, JobError> {
        let _making = lock(&self.making);
        let key = round.key();
        match self.of_key(&key, &job.owner) {
            Some(known) if known.round.as_ref() == Some(round) && known.spec == job.spec => Ok(known),
            Some(known) => Err(JobError::KeyTaken { key: key.to_string(), job: known.id.clone() }),
            None => {
                let key = (Some(key), job.owner.clone());
                self.make(&job.spec, None, key, job.priority, Some(round.clone()), held_out)
            }
        }
    }

    /// Ends the uploads of rounds whose next round already exists, which happens after a crash between the two steps.
    pub(super) fn finish_cut_rounds(&self) {
        let rounds: Vec<Arc<Job>> =
            lock(&self.jobs).by_id.values().filter(|job| job.round.is_some()).cloned().collect();
        let has_next = |job: &Job| rounds.iter().any(|other| is_later_round(other, job));
        for job in rounds.iter().filter(|job| job.told_state() == JobState::Uploading && has_next(job)) {
            let mut spool = lock(&job.spool);
            // The stream that ends this round holds the spool until it is done.
            if job.state() != JobState::Uploading {
                continue;
            }
            if let Err(error) = self.queue_upload(job, &mut spool) {
                tracing::warn!(job = %job.id, %error, "cannot end the upload of a round");
            }
        }
    }

    /// Whether an earlier round of the stream of `job` has not ended: rounds build on each other.
    fn waits_for_a_round(by_id: &BTreeMap<JobId, Arc<Job>>, job: &Job) -> bool {
        job.round.is_some() && by_id.values().any(|other| is_later_round(job, other) && !other.told_state().has_ended())
    }

    /// Checks that another job fits. One caller alone cannot take more than four fifths of the places. An abandoned
    /// upload without rows is cancelled if its place is needed.
    fn check_room(&self, owner: &Owner, uploads: bool) -> Result<(), JobError> {
        let (open_jobs_max, open_uploads_max) = (self.config.open_jobs_max, self.config.open_uploads_max);
        let has_room = |uploading: bool, max: usize| {
            let jobs = lock(&self.jobs);
            let of_kind = jobs.by_id.values().filter(|job| {
                let state = job.told_state();
                !state.has_ended() && (state == JobState::Uploading) == uploading
            });
            let (all, own) = of_kind
                .fold((0, 0), |(all, own), job| (all + 1, own + usize::from(job.owner.share() == owner.share())));
            let free = max.saturating_sub(all);
            free > 0 && own < free.saturating_mul(TIMES_FREE_MAX)
        };
        if !has_room(false, open_jobs_max) {
            return Err(JobError::TooManyJobs { open_jobs_max, retry_after: self.retry_after() });
        }
        while uploads && !has_room(true, open_uploads_max) {
            if !self.cancel_abandoned() {
                return Err(JobError::TooManyUploads { open_uploads_max, retry_after: self.retry_after() });
            }
        }
        Ok(())
    }

    /// Cancels the oldest upload that has no rows and no stream; returns false if there is none.
    fn cancel_abandoned(&self) -> bool {
        let uploads: Vec<Arc<Job>> = {
            let jobs = lock(&self.jobs);
            jobs.by_id.values().filter(|job| job.told_state() == JobState::Uploading).cloned().collect()
        };
        let reason = "the upload was abandoned: its stream ended before the first chunk, and others needed its place";
        uploads.iter().filter(|job| job.round.is_none() && job.snapshot().chunks == 0).any(|job| {
            // A locked spool means that rows are being written.
            let Ok(mut spool) = job.spool.try_lock() else { return false };
            if job.stream.receiver_count() > 0 || job.state() != JobState::Uploading || job.snapshot().chunks > 0 {
                return false;
            }
            let cancelled =
                job.cancel_unless_running(Some(EndReason::Other(reason.to_owned())), || self.let_go(job, &mut spool));
            cancelled.unwrap_or(false)
        })
    }

    pub(super) fn make(
        &self,
        spec: &CheckedTrainSpec,
        files: Option<ServerFiles>,
        (key, owner): (Option<IdempotencyKey>, Owner),
        priority: Priority,
        round: Option<Round>,
        held_out: &[f64],
    ) -> Result<Arc<Job>, JobError> {
        self.check_room(&owner, files.is_none())?;
        let (columns, names) = base::columns(&self.registry, spec)?;
        self.forget_oldest()?;
        let id = JobId::new();
        let folder = self.config.folder.join(id.as_str());
        ensure_folder(&folder)?;
        let make = || {
            // For rows from server files, the import creates the spool.
            let spool = if files.is_none() { Some(Spool::create(&folder, columns)?) } else { None };
            let mut record = Record::new(id, spec.spec().clone(), files, key, priority, SystemTime::now());
            record.columns = Some(columns);
            record.column_names = names;
            record.owner = owner;
            record.round = round;
            let given = held_out::write(&folder, held_out)?;
            record.write(&folder)?;
            sync_folder(&self.config.folder)?;
            let bytes = spool.as_ref().map_or(0, |spool| spool.counts().bytes) + given;
            let job = Job::new(record, folder.clone(), spool, false, self.shared.clone())?;
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
            // Needed if its rows could not be removed before.
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

    /// Reserves `bytes` more of the disk quota for a job.
    pub(super) fn reserve(&self, job: &Job, bytes: u64) -> Result<(), JobError> {
        self.quota.reserve(&job.share, bytes, || self.retry_after())
    }

    /// Retry delay: the shortest estimated time until a running job ends and frees its rows, from 1 s to 1 min.
    fn retry_after(&self) -> Duration {
        let jobs = lock(&self.jobs);
        let running = jobs.by_id.values().filter(|job| job.told_state() == JobState::Running);
        let left = running.filter_map(|job| job.snapshot().progress?.time_left).min();
        left.unwrap_or(RETRY_AFTER).clamp(Duration::from_secs(1), RETRY_AFTER_MAX)
    }

    /// Adds a job to the end of the queue and wakes the runner.
    pub(super) fn enqueue(&self, id: JobId) {
        let mut jobs = lock(&self.jobs);
        // A job that was paused and resumed goes to the end.
        jobs.waiting.retain(|other| *other != id);
        jobs.waiting.push(id);
        drop(jobs);
        self.wakeup.notify_one();
    }

    /// Takes the next job to train, in the order of [`queue::next`].
    pub(super) fn next(&self) -> Option<Arc<Job>> {
        let mut jobs = lock(&self.jobs);
        let Jobs { by_id, waiting, started, starts, last_start, .. } = &mut *jobs;
        // Some may have been cancelled or paused in the meantime.
        waiting.retain(|id| by_id.get(id).is_some_and(|job| job.told_state() == JobState::Queued));
        // A running job may publish the version that a later job of the same model must be better than.
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

    /// Records that a job from [`JobRegistry::next`] no longer runs.
    pub(super) fn has_stopped(&self, id: &JobId) {
        lock(&self.jobs).started.remove(id);
    }

    /// Whether a job has started and not stopped.
    #[cfg(test)]
    pub(super) fn has_started(&self, id: &JobId) -> bool {
        lock(&self.jobs).started.contains(id)
    }

    /// Whether any job is queued, or has started and not stopped.
    #[cfg(test)]
    pub(super) fn has_waiting_or_started(&self) -> bool {
        let jobs = lock(&self.jobs);
        !jobs.waiting.is_empty() || !jobs.started.is_empty()
    }

    /// Saves a checkpoint of a job, within its quota.
    ///
    /// # Errors
    /// Those of the quota, and those of writing the file. The previous checkpoint stays in both cases.
    pub(super) fn save_checkpoint(&self, job: &Job, bytes: &[u8]) -> Result<(), JobError> {
        let path = checkpoint::path(&job.folder);
        let before = path.metadata().map_or(0, |data| data.len());
        let bytes_now = checkpoint::bytes_on_disk(bytes);
        // The old and the new checkpoint exist at the same time for a moment.
        self.reserve(job, bytes_now)?;
        match checkpoint::write(&job.folder, bytes) {
            Ok(()) => self.quota.release(&job.share, before),
            Err(error) => {
                self.quota.release(&job.share, bytes_now);
                return Err(error.of_job(&job.id));
            }
        }
        Ok(())
    }

    /// Ends an upload whose spool the caller has locked; the job becomes QUEUED.
    pub(super) fn queue_upload(&self, job: &Job, spool: &mut Option<Spool>) -> Result<JobSnapshot, JobError> {
        let counts = spool.as_ref().map(Spool::counts).unwrap_or_default();
        if counts.training_rows == 0 {
            return Err(JobError::NoTrainingRows);
        }
        let snapshot = job.go(JobState::Queued, |record| {
            record.chunks = counts.chunks;
            record.training_rows = counts.training_rows;
            record.test_rows = counts.test_rows;
        })?;
        // No more rows are written, so close the file.
        *spool = None;
        self.enqueue(job.id.clone());
        Ok(snapshot)
    }

    /// Cancels a job that is not running and returns true. For a running job it only requests the stop and returns
    /// false.
    pub(super) fn cancel(&self, id: &JobId) -> Result<bool, JobError> {
        let job = self.job(id)?;
        let mut spool = lock(&job.spool);
        job.cancel_unless_running(None, || self.let_go(&job, &mut spool))
    }

    /// Puts a paused job back in the queue.
    pub(super) fn resume(&self, id: &JobId) -> Result<JobSnapshot, JobError> {
        let snapshot = self.job(id)?.resume()?;
        self.enqueue(id.clone());
        Ok(snapshot)
    }

    /// Fails a job.
    pub(super) fn fail(&self, job: &Job, error: &JobError) {
        self.fail_upload(job, &mut lock(&job.spool), error);
    }

    /// Fails a job whose spool the caller has locked. It writes the journal before it removes the rows. If the disk is
    /// full and even the reserve is not enough, it removes the rows first to make room for the journal.
    pub(super) fn fail_upload(&self, job: &Job, spool: &mut Option<Spool>, error: &JobError) {
        tracing::warn!(job = %job.id, %error, "a job failed");
        *spool = None;
        let text = error.to_string();
        let change = |record: &mut Record| {
            record.failure = Some(EndReason::Other(text.clone()));
            record.data_lost = error.is_damage();
        };
        let end = || job.end(JobState::Failed, change, || self.remove_rows(job));
        let ended = end().or_else(|error| match error {
            JobError::Store(StoreError::DiskFull { .. }) => {
                self.remove_rows(job);
                end()
            }
            other => Err(other),
        });
        if let Err(error) = ended {
            tracing::error!(job = %job.id, %error, "cannot persist the job's final state");
            job.end_in_memory(JobState::Failed, text);
        }
    }

    /// Closes the spool of a job that has ended, and removes its files.
    fn let_go(&self, job: &Job, spool: &mut Option<Spool>) {
        *spool = None;
        self.remove_rows(job);
    }

    /// Removes the rows, checkpoint and held-out rows of a job that has ended, or that needs the space to end. The
    /// spool must be closed.
    pub(super) fn remove_rows(&self, job: &Job) {
        let removed = remove(&spool::path(&job.folder))
            .and_then(|()| at(&job.folder, Step::RowsRemoved))
            .and_then(|()| remove(&checkpoint::path(&job.folder)))
            .and_then(|()| remove(&held_out::path(&job.folder)))
            .and_then(|()| at(&job.folder, Step::FilesRemoved));
        match removed {
            Ok(()) => self.quota.release_all(&job.share),
            Err(error) => tracing::warn!(job = %job.id, %error, "cannot remove the rows of an ended job"),
        }
    }

    /// Cancels expired uploads, and jobs that were paused for too long.
    pub(super) fn expire(&self, now: SystemTime) {
        let open: Vec<Arc<Job>> = lock(&self.jobs).by_id.values().cloned().collect();
        for job in open {
            let ended = match job.told_state() {
                JobState::Uploading => self.expire_upload(&job, now),
                JobState::Paused => self.expire_paused(&job, now),
                _ => Ok(false),
            };
            if let Err(error) = ended {
                tracing::warn!(job = %job.id, %error, "cannot end an expired job");
            }
        }
    }

    fn expire_upload(&self, job: &Job, now: SystemTime) -> Result<bool, JobError> {
        // Check before locking, so as not to wait for a chunk that is being written.
        if self.expiry(job, now).is_none() {
            return Ok(false);
        }
        let mut spool = lock(&job.spool);
        if job.state() != JobState::Uploading {
            return Ok(false);
        }
        let Some(reason) = self.expiry(job, now) else { return Ok(false) };
        job.cancel_unless_running(Some(EndReason::Other(reason)), || self.let_go(job, &mut spool))
    }

    /// The reason for cancelling an upload, if it has expired.
    fn expiry(&self, job: &Job, now: SystemTime) -> Option<String> {
        let is_attached = job.stream.receiver_count() > 0;
        // A connected stream of rounds may be waiting for running rounds, and its rows may be rare. It never expires.
        if is_attached && job.round.is_some() {
            return None;
        }
        let snapshot = job.snapshot();
        if snapshot.upload_expires.is_some_and(|at| at <= now) {
            return Some(format!("the upload expired: no chunk was received for {:?}", self.config.upload_idle_max));
        }
        // Without a key it cannot be resumed; without chunks, resuming it gains nothing over a new upload.
        let loses_nothing = snapshot.chunks == 0 || snapshot.idempotency_key.is_none();
        let abandoned_max = ABANDONED_MAX.min(self.config.upload_idle_max);
        let abandoned_at = lock(&job.detached).checked_add(abandoned_max)?;
        (!is_attached && loses_nothing && abandoned_at <= now)
            .then(|| format!("the upload expired: its stream ended {abandoned_max:?} ago, and no rows would be lost"))
    }

    fn expire_paused(&self, job: &Job, now: SystemTime) -> Result<bool, JobError> {
        let Some(since) = now.checked_sub(self.config.paused_max) else { return Ok(false) };
        let reason = format!("it was paused, and not resumed for {:?}", self.config.paused_max);
        let mut spool = lock(&job.spool);
        job.cancel_if_paused_before(since, reason, || self.let_go(job, &mut spool))
    }

    /// Rejects new work from now on, and wakes the streams and the runner.
    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::Release);
        for job in lock(&self.jobs).by_id.values() {
            job.stream.send_modify(|_| ());
        }
        self.wakeup.notify_one();
    }

    /// Drops all jobs from memory, which closes their watchers' channels.
    pub(super) fn forget_all(&self) {
        let mut jobs = lock(&self.jobs);
        jobs.by_id.clear();
        jobs.by_key.clear();
        jobs.waiting.clear();
    }
}

/// Whether `later` is a later round than `earlier` of the same stream and owner.
fn is_later_round(later: &Job, earlier: &Job) -> bool {
    match (&later.round, &earlier.round) {
        (Some(round), Some(before)) => later.owner.scope() == earlier.owner.scope() && round.is_after(before),
        _ => false,
    }
}
