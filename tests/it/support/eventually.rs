//! Waits for a condition that another thread, task or process brings about.

use std::fmt::Debug;
use std::time::{Duration, Instant};

/// Much longer than any condition takes, also on a busy machine.
const WAIT_MAX: Duration = Duration::from_mins(1);
/// Pause between two attempts.
const PAUSE: Duration = Duration::from_millis(5);

/// Repeats `attempt` until it succeeds, and returns its value. Panics with `what` and the last error after a minute.
pub(crate) async fn eventually<T, E: Debug>(what: &str, mut attempt: impl AsyncFnMut() -> Result<T, E>) -> T {
    let until = Instant::now() + WAIT_MAX;
    loop {
        match attempt().await {
            Ok(value) => return value,
            Err(error) => assert!(Instant::now() < until, "{what}: not within {WAIT_MAX:?}: {error:?}"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// [`eventually`] for a thread without a runtime.
#[track_caller]
pub(crate) fn eventually_blocking<T, E: Debug>(what: &str, mut attempt: impl FnMut() -> Result<T, E>) -> T {
    let until = Instant::now() + WAIT_MAX;
    loop {
        match attempt() {
            Ok(value) => return value,
            Err(error) => assert!(Instant::now() < until, "{what}: not within {WAIT_MAX:?}: {error:?}"),
        }
        std::thread::sleep(PAUSE);
    }
}
