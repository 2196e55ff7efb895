//! Disk work off the async threads.

use super::JobError;
use crate::executor;

/// Runs disk work off the async threads. The work runs to its end even if the caller drops the future.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, JobError> + Send + 'static,
) -> Result<T, JobError> {
    executor::blocking(work).await.unwrap_or_else(|lost| Err(JobError::TaskLost(lost.to_string())))
}
