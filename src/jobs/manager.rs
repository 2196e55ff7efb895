//! What the jobs of a server share: settings, models, registry, scheduler and limits.
//!
//! The methods are in the files of their subjects: `creation.rs` and `opening.rs` begin jobs, `ending.rs` and
//! `expiry.rs` end them, and `recovery.rs` reads them after a restart.
//!
//! # Order of locks
//! A thread takes these locks in this order: a job's spool, `turns.making`, the scheduler, the registry, a job's record,
//! the locks of the store. Under `making`, only recovery waits for a spool, and no upload is open then.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::job::{Job, Shared};
use super::quota::Quota;
use super::registry::JobRegistry;
use super::reorder_buffer::ReorderBuffers;
use super::scheduler::Scheduler;
use super::store::{Blob, JobStore, blob};
use super::turns::Turns;
use super::watch::Watchers;
use super::{JobError, JobState, JobsConfig, base};
use crate::executor::MinCpuShare;
use crate::model::ModelKey;
use crate::registry::Registry;
use crate::telemetry::measures::TrainingMeasures;

/// Retry delay if no running job has an estimated end, and the maximum retry delay.
const RETRY_AFTER: Duration = Duration::from_secs(10);
const RETRY_AFTER_MAX: Duration = Duration::from_mins(1);

/// All jobs of a server, and what they share.
#[derive(Debug)]
pub(super) struct JobManager {
    pub(super) config: JobsConfig,
    pub(super) models: Registry,
    pub(super) min_share: Arc<MinCpuShare>,
    pub(super) registry: JobRegistry,
    pub(super) scheduler: Scheduler,
    pub(super) turns: Turns,
    pub(super) limits: Limits,
    pub(super) shared: Shared,
    /// Why the last attempt to read the jobs failed, so that each reason is logged once.
    pub(super) refusal: Mutex<String>,
    closing: AtomicBool,
}

/// Limits of all jobs together, with their use.
#[derive(Debug)]
pub(super) struct Limits {
    /// Bytes on disk.
    pub(super) quota: Quota,
    pub(super) watchers: Watchers,
    /// Bytes of chunks that arrived early.
    pub(super) ahead: ReorderBuffers,
}

impl JobManager {
    pub(super) fn new(
        config: JobsConfig,
        models: Registry,
        min_share: Arc<MinCpuShare>,
        store: Arc<dyn JobStore>,
    ) -> Self {
        let limits =
            Limits { quota: Quota::new(&config), watchers: Watchers::default(), ahead: ReorderBuffers::default() };
        Self {
            limits,
            shared: Shared { measures: Arc::<TrainingMeasures>::default(), store },
            config,
            models,
            min_share,
            registry: JobRegistry::default(),
            scheduler: Scheduler::default(),
            turns: Turns::default(),
            refusal: Mutex::default(),
            closing: AtomicBool::new(false),
        }
    }

    /// Whether the server shuts down.
    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// Rejects new work from now on, and wakes the streams and the runner.
    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::Release);
        self.registry.with_jobs(|by_id| by_id.values().for_each(|job| job.stream.send_modify(|_| ())));
        self.scheduler.wake();
    }

    /// Drops all jobs from memory, which closes their watchers' channels.
    pub(super) fn forget_all(&self) {
        self.scheduler.clear();
        self.registry.clear();
    }

    /// Base versions of jobs that have not ended, if they exist.
    pub(super) fn bases(&self) -> BTreeSet<ModelKey> {
        let open = self.registry.select(|job| !job.told_state().has_ended());
        open.iter().filter_map(|job| base::needed(&self.models, job)).collect()
    }

    /// Reserves `bytes` more of the disk quota for a job.
    pub(super) fn reserve(&self, job: &Job, bytes: u64) -> Result<(), JobError> {
        self.limits.quota.reserve(&job.share, bytes, || self.retry_after())
    }

    /// Retry delay: the shortest estimated time until a running job ends and frees its rows, from 1 s to 1 min.
    pub(super) fn retry_after(&self) -> Duration {
        let left = self.registry.with_jobs(|by_id| {
            let running = by_id.values().filter(|job| job.told_state() == JobState::Running);
            running.filter_map(|job| job.snapshot().progress?.time_left).min()
        });
        left.unwrap_or(RETRY_AFTER).clamp(Duration::from_secs(1), RETRY_AFTER_MAX)
    }

    /// Saves a checkpoint of a job, within its quota.
    ///
    /// # Errors
    /// Those of the quota, and those of writing the file. The previous checkpoint stays in both cases.
    pub(super) fn save_checkpoint(&self, job: &Job, bytes: &[u8]) -> Result<(), JobError> {
        let bytes_now = blob::bytes_on_disk(bytes);
        // The old and the new checkpoint exist at the same time for a moment.
        self.reserve(job, bytes_now)?;
        match job.store().write_blob(&job.id, Blob::Checkpoint, bytes) {
            Ok(before) => self.limits.quota.release(&job.share, before),
            Err(error) => {
                self.limits.quota.release(&job.share, bytes_now);
                return Err(error.of_job(&job.id));
            }
        }
        Ok(())
    }
}
