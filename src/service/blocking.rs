//! Blocking work of the use cases.

use super::ServiceError;
use crate::executor;

/// Runs work that blocks or computes for long off the async threads. `task` names it in the error, as "a disk task".
///
/// # Errors
/// Those of `work`; [`ServiceError::Internal`] if it panicked.
pub(super) async fn blocking<T: Send + 'static>(
    task: &'static str,
    work: impl FnOnce() -> Result<T, ServiceError> + Send + 'static,
) -> Result<T, ServiceError> {
    let done = executor::blocking(work).await;
    done.unwrap_or_else(|lost| Err(ServiceError::Internal(format!("{task} failed: {lost}"))))
}
