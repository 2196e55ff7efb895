//! Disk work off the async threads.

use super::JobError;

/// Runs disk work off the async threads. The work runs to its end even if the caller drops the future.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, JobError> + Send + 'static,
) -> Result<T, JobError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(JobError::TaskLost(error.to_string())))
}
