//! The only door from async to CPU work: threads that serve, threads that train, and panics made errors.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Once};
use std::thread::{Builder, JoinHandle};

use thread_priority::{ThreadPriority, set_current_thread_priority};
use tokio::sync::oneshot;

/// Most threads of either kind.
pub const THREADS_MAX: usize = 1024;

/// How many threads do what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExecutorConfig {
    /// Threads that serve batches, 1 to [`THREADS_MAX`].
    pub serving_threads: usize,
    /// Threads that train, 1 to [`THREADS_MAX`].
    pub training_threads: usize,
}

/// A number of threads that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{setting} is {got}, expected 1 to {THREADS_MAX}")]
pub struct BadThreads {
    /// `serving_threads` or `training_threads`.
    pub setting: &'static str,
    /// What came.
    pub got: usize,
}

impl Default for ExecutorConfig {
    /// As many of each as the machine has cores: training gives way by its priority.
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get().min(THREADS_MAX));
        Self { serving_threads: cores, training_threads: cores }
    }
}

impl ExecutorConfig {
    /// Refuses numbers of threads that cannot be.
    pub fn check(&self) -> Result<(), BadThreads> {
        for (setting, got) in [("serving_threads", self.serving_threads), ("training_threads", self.training_threads)] {
            if !(1..=THREADS_MAX).contains(&got) {
                return Err(BadThreads { setting, got });
            }
        }
        Ok(())
    }
}

/// A panic in CPU work, made an error.
#[derive(Clone, Debug, thiserror::Error)]
#[error("a worker panicked: {message}")]
pub struct Panicked {
    /// The panic's text.
    pub message: String,
}

/// Runs `work`; a panic becomes an error, logged under an opaque id. What `work` was changing may be half changed: callers
/// throw it away.
pub fn catch<T>(work: impl FnOnce() -> T) -> Result<T, Panicked> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| {
        let message = panic
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "no message".to_owned());
        let id = uuid::Uuid::new_v4().simple().to_string();
        tracing::error!(%id, %message, "a worker panicked");
        Panicked { message }
    })
}

/// Named threads that each run one body until it returns.
#[derive(Debug)]
pub struct ServingThreads {
    threads: Vec<JoinHandle<()>>,
}

impl ServingThreads {
    /// Starts `count` threads, thread i runs `body(i)`.
    pub fn spawn(count: usize, body: impl Fn(usize) + Send + Sync + 'static) -> io::Result<Self> {
        let body = Arc::new(body);
        let threads = (0..count)
            .map(|index| {
                let body = Arc::clone(&body);
                Builder::new().name(format!("serve-{index}")).spawn(move || body(index))
            })
            .collect::<io::Result<_>>()?;
        Ok(Self { threads })
    }

    /// Waits until every body has returned.
    pub fn join(self) {
        for thread in self.threads {
            // A panic was caught where it happened; one that was not has been printed by the runtime.
            let _ = thread.join();
        }
    }
}

/// A rayon pool whose threads run at the lowest scheduling priority.
pub fn training_pool(threads: usize) -> io::Result<rayon::ThreadPool> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(|index| format!("train-{index}"))
        .start_handler(|_| give_way())
        .build()
        .map_err(io::Error::other)
}

/// Runs `work` on a named thread of its own at the lowest priority; the receiver gets its result or the panic.
pub fn spawn_training<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<oneshot::Receiver<Result<T, Panicked>>> {
    let (sender, receiver) = oneshot::channel();
    Builder::new().name(name.to_owned()).spawn(move || {
        give_way();
        // Nobody may wait any more.
        let _ = sender.send(catch(work));
    })?;
    Ok(receiver)
}

/// Lowers this thread below everything that serves.
fn give_way() {
    static WARNED: Once = Once::new();
    if let Err(error) = set_current_thread_priority(ThreadPriority::Min) {
        WARNED.call_once(|| tracing::warn!(?error, "training threads run at normal priority"));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn a_panic_becomes_an_error_with_its_text() {
        assert_eq!(catch(|| 7).expect("no panic"), 7);
        assert_eq!(catch(|| panic!("at {}", 3)).expect_err("a panic").message, "at 3");
    }

    #[test]
    fn every_thread_runs_once_and_is_joined() {
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        let threads = ServingThreads::spawn(4, move |index| {
            counted.fetch_add(index + 1, Ordering::SeqCst);
        });
        threads.expect("threads").join();
        assert_eq!(count.load(Ordering::SeqCst), 10);
    }

    #[tokio::test]
    async fn training_answers_or_tells_of_its_panic() {
        let answer = spawn_training("test", || 5).expect("a thread").await.expect("answers");
        assert_eq!(answer.expect("no panic"), 5);
        let answer = spawn_training("test", || -> u8 { panic!("lost") }).expect("a thread").await.expect("answers");
        assert_eq!(answer.expect_err("a panic").message, "lost");
    }

    #[test]
    fn a_training_pool_computes() {
        assert_eq!(training_pool(2).expect("threads").install(|| 3 + 4), 7);
    }

    #[test]
    fn no_threads_are_refused() {
        let config = ExecutorConfig { serving_threads: 0, ..ExecutorConfig::default() };
        assert_eq!(config.check(), Err(BadThreads { setting: "serving_threads", got: 0 }));
        assert_eq!(ExecutorConfig::default().check(), Ok(()));
    }
}
