//! The only door from async to CPU work: serving threads that pull, a training pool at the lowest priority.

use std::sync::Arc;

/// How many threads do what. TODO(C): `check`, defaults from `available_parallelism`.
#[derive(Clone, Debug)]
pub struct ExecutorConfig {
    /// Threads that serve batches.
    pub serving_threads: usize,
    /// Threads that train.
    pub training_threads: usize,
}

/// A panic in CPU work, made an error.
#[derive(Clone, Debug, thiserror::Error)]
#[error("a worker panicked: {message}")]
pub struct Panicked {
    /// The panic's text.
    pub message: String,
}

/// Runs `work`; a panic becomes an error.
pub fn catch<T>(work: impl FnOnce() -> T) -> Result<T, Panicked> {
    let _ = work;
    todo!()
}

/// Named threads that each run `body(index)`; joined by [`ServingThreads::join`].
#[derive(Debug)]
pub struct ServingThreads {}

impl ServingThreads {
    /// Starts them.
    pub fn spawn(count: usize, body: impl Fn(usize) + Send + Sync + 'static) -> std::io::Result<Self> {
        let _ = (count, body);
        todo!()
    }
    /// Waits until every `body` has returned.
    pub fn join(self) {
        todo!()
    }
}

/// A rayon pool whose threads run at the lowest scheduling priority.
pub fn training_pool(threads: usize) -> std::io::Result<Arc<rayon::ThreadPool>> {
    let _ = threads;
    todo!()
}

/// Runs `work` on a named thread of its own at the lowest priority; the receiver gets its result or the panic.
pub fn spawn_training<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> std::io::Result<tokio::sync::oneshot::Receiver<Result<T, Panicked>>> {
    let _ = (name, work);
    todo!()
}
