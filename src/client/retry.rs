//! Retries of calls that a full server rejects.

use std::time::Duration;

use tonic::Code;
use tonic_types::StatusExt;

use super::HasStatus;

/// Maximum retries of a call while the server is full.
const FULL_RETRIES_MAX: u32 = 12;
/// Minimum retry delay before the first retry; it doubles up to seven times.
const FULL_PAUSE: Duration = Duration::from_millis(10);

/// Makes a call, and retries it after RESOURCE_EXHAUSTED with a retry delay.
pub(crate) async fn patiently<T, E: HasStatus, F: Future<Output = Result<T, E>>>(
    attempt: impl Fn() -> F,
) -> Result<T, E> {
    patiently_from(FULL_PAUSE, attempt).await
}

async fn patiently_from<T, E: HasStatus, F: Future<Output = Result<T, E>>>(
    pause: Duration,
    attempt: impl Fn() -> F,
) -> Result<T, E> {
    let mut retries = 0;
    loop {
        let error = match attempt().await {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        let full = error.status().filter(|status| status.code() == Code::ResourceExhausted);
        let delay = full.and_then(|status| status.get_error_details().retry_info()?.retry_delay);
        let Some(delay) = delay.filter(|_| retries < FULL_RETRIES_MAX) else { return Err(error) };
        tokio::time::sleep(delay.max(pause * 2u32.pow(retries.min(7)))).await;
        retries += 1;
    }
}

#[cfg(test)]
mod tests {
    use tonic::Status;

    use super::*;
    use crate::client::ClientError;

    #[tokio::test]
    async fn only_a_full_server_with_a_retry_delay_is_retried() {
        let tries = std::cell::Cell::new(0);
        let attempt = |code: Code, delay: Option<Duration>, refusals: u32| {
            tries.set(tries.get() + 1);
            let mut details = tonic_types::ErrorDetails::new();
            details.set_retry_info(delay);
            let refused = tries.get() <= refusals;
            async move {
                if refused { Err(ClientError::from(Status::with_error_details(code, "full", details))) } else { Ok(()) }
            }
        };
        let soon = Some(Duration::from_millis(1));
        for (code, delay, refusals, answers, expected_tries) in [
            (Code::ResourceExhausted, soon, 3, true, 4),
            (Code::ResourceExhausted, soon, u32::MAX, false, 1 + FULL_RETRIES_MAX),
            (Code::ResourceExhausted, None, 3, false, 1),
            (Code::InvalidArgument, soon, 3, false, 1),
        ] {
            tries.set(0);
            assert_eq!(patiently_from(Duration::ZERO, || attempt(code, delay, refusals)).await.is_ok(), answers);
            assert_eq!(tries.get(), expected_tries);
        }
    }
}
