//! Disk quotas of jobs: per job, for all jobs, and the free space to keep. Unlike the quotas of calls, no guard returns
//! the bytes: they stay on the disk after the call, and after a restart.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::{JobError, JobsConfig};
use crate::store::disk::free_bytes;

/// Disk usage of all jobs, and its limits.
#[derive(Debug)]
pub(super) struct Quota {
    folder: PathBuf,
    bytes_max: u64,
    job_bytes_max: u64,
    free_bytes_min: u64,
    taken: AtomicU64,
}

/// Bytes of the quota that one job uses.
#[derive(Debug, Default)]
pub(super) struct Share(AtomicU64);

impl Quota {
    pub(super) fn new(config: &JobsConfig) -> Self {
        Self {
            folder: config.folder.clone(),
            bytes_max: config.spool_bytes_max,
            job_bytes_max: config.job_bytes_max,
            free_bytes_min: config.disk_free_bytes_min,
            taken: AtomicU64::new(0),
        }
    }

    /// Reserves `bytes` more for a job.
    ///
    /// # Errors
    /// [`JobError::JobTooLarge`], [`JobError::DiskReserve`] or [`JobError::SpoolFull`]. `retry_after` gives the delay
    /// for the last two.
    pub(super) fn reserve(
        &self,
        share: &Share,
        bytes: u64,
        retry_after: impl FnOnce() -> Duration,
    ) -> Result<(), JobError> {
        let taken = share.0.load(Ordering::Relaxed).saturating_add(bytes);
        if taken > self.job_bytes_max {
            return Err(JobError::JobTooLarge { bytes: taken, bytes_max: self.job_bytes_max });
        }
        if let Some(free) = free_bytes(&self.folder).filter(|free| free.saturating_sub(bytes) < self.free_bytes_min) {
            return Err(JobError::DiskReserve { free, free_min: self.free_bytes_min, retry_after: retry_after() });
        }
        self.add(share, bytes);
        let taken = self.taken.load(Ordering::Relaxed);
        if taken > self.bytes_max {
            self.release(share, bytes);
            return Err(JobError::SpoolFull { bytes: taken, bytes_max: self.bytes_max, retry_after: retry_after() });
        }
        Ok(())
    }

    /// Counts `bytes` that a job already has on disk.
    pub(super) fn add(&self, share: &Share, bytes: u64) {
        share.0.fetch_add(bytes, Ordering::Relaxed);
        self.taken.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Releases `bytes` of a job.
    pub(super) fn release(&self, share: &Share, bytes: u64) {
        let subtract = |counter: &AtomicU64, bytes: u64| {
            let _ = counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |had| Some(had.saturating_sub(bytes)));
        };
        subtract(&share.0, bytes);
        subtract(&self.taken, bytes);
    }

    /// Releases all bytes of a job.
    pub(super) fn release_all(&self, share: &Share) {
        let bytes = share.0.swap(0, Ordering::Relaxed);
        self.taken.fetch_sub(bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quota(change: impl FnOnce(&mut JobsConfig)) -> Quota {
        let mut config = JobsConfig::new(std::env::temp_dir());
        config.disk_free_bytes_min = 0;
        (config.spool_bytes_max, config.job_bytes_max) = (100, 60);
        change(&mut config);
        Quota::new(&config)
    }

    const SOON: Duration = Duration::from_secs(3);

    #[test]
    fn quotas_limit_one_job_and_all_jobs_and_can_be_released() {
        let quota = quota(|_| ());
        let (one, two) = (Share::default(), Share::default());
        quota.reserve(&one, 60, || SOON).expect("fits");
        let refused = quota.reserve(&one, 1, || SOON);
        assert!(matches!(refused, Err(JobError::JobTooLarge { bytes: 61, bytes_max: 60 })), "{refused:?}");
        let refused = quota.reserve(&two, 41, || SOON);
        assert!(
            matches!(refused, Err(JobError::SpoolFull { bytes: 101, bytes_max: 100, retry_after: SOON })),
            "{refused:?}"
        );
        quota.reserve(&two, 40, || SOON).expect("what is refused takes nothing");
        quota.release(&one, 10);
        quota.reserve(&two, 10, || SOON).expect("is free again");
        quota.release_all(&one);
        quota.release_all(&one);
        quota.reserve(&two, 10, || SOON).expect("is free again");
        assert_eq!(quota.taken.load(Ordering::Relaxed), 60);
    }

    #[cfg(unix)]
    #[test]
    fn a_reserve_stays_free_on_the_disk() {
        let quota = quota(|config| config.disk_free_bytes_min = u64::MAX);
        let refused = quota.reserve(&Share::default(), 1, || SOON);
        assert!(matches!(refused, Err(JobError::DiskReserve { free_min: u64::MAX, .. })), "{refused:?}");
    }
}
