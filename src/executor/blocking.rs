//! Work that blocks or computes for long, off the async threads.

use tokio::task::{JoinError, spawn_blocking};

/// Blocking work that returned nothing: it panicked, or the runtime shut down before it began.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct TaskLost(JoinError);

/// Starts `work` on a thread for blocking work at once, and returns a future of its result. The work runs to its end
/// even if the future is dropped.
///
/// # Panics
/// Outside of a tokio runtime.
pub fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> impl Future<Output = Result<T, TaskLost>> + Send + 'static {
    let task = spawn_blocking(work);
    async { task.await.map_err(TaskLost) }
}

/// As [`blocking`], for callers that cannot continue without the result: panics if the work panics.
pub async fn blocking_or_panic<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match blocking(work).await {
        Ok(result) => result,
        Err(TaskLost(error)) => std::panic::resume_unwind(error.into_panic()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn blocking_work_returns_its_result_or_its_panic() {
        assert_eq!(blocking(|| 6 * 7).await.expect("no panic"), 42);
        let lost = blocking::<()>(|| panic!("no disk")).await.expect_err("a panic");
        assert!(lost.to_string().ends_with("panicked with message \"no disk\""), "{lost}");
    }

    #[tokio::test]
    async fn blocking_work_runs_even_if_its_future_is_dropped() {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        drop(blocking(move || sender.send(7)));
        assert_eq!(receiver.await, Ok(7));
    }

    #[tokio::test]
    #[should_panic(expected = "no disk")]
    async fn a_panic_of_blocking_work_is_passed_on() {
        blocking_or_panic::<()>(|| panic!("no disk")).await;
    }
}
