//! Turns in which jobs are created and removed, one at a time.

use std::sync::{Arc, Mutex};

/// Locks of the creation of jobs.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// Serializes the creation and removal of jobs, so that the registry is not locked during that disk work.
    pub(super) making: Mutex<()>,
    /// Async lock for creating jobs: callers wait here instead of on a thread for `making`, and can leave while they
    /// wait.
    pub(super) creating: Arc<tokio::sync::Mutex<()>>,
    /// Async lock for checking the server files of a new job.
    pub(super) checking: Arc<tokio::sync::Mutex<()>>,
}
