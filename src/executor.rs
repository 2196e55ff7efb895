//! CPU threads: serving threads that pull batches, training threads at the lowest priority, and blocking work of async
//! callers. A panic becomes an error.

mod blocking;
#[cfg(test)]
#[path = "../tests/it/support/eventually.rs"]
pub(crate) mod eventually;
mod min_cpu_share;

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Once};
use std::thread::{Builder, JoinHandle};

use thread_priority::{Error as PriorityError, ThreadPriority};
use tokio::sync::oneshot;

pub use blocking::{TaskLost, blocking, blocking_or_panic};
pub use min_cpu_share::MinCpuShare;

/// Most threads of one kind.
pub const THREADS_MAX: usize = 1024;

/// Largest value of [`ExecutorConfig::training_percent_min`], in percent.
pub const TRAINING_PERCENT_MIN_MAX: usize = 50;

/// Numbers of threads, and the minimum CPU share of training.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExecutorConfig {
    /// Threads that serve batches, 1 to [`THREADS_MAX`].
    pub serving_threads: usize,
    /// Threads that train, 1 to [`THREADS_MAX`].
    pub training_threads: usize,
    /// Minimum percentage of CPU time that training gets while it has work, 0 to [`TRAINING_PERCENT_MIN_MAX`].
    pub training_percent_min: usize,
}

/// A setting out of its range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{setting} is {got}, expected {expected}")]
pub struct BadExecutor {
    /// Name of the setting.
    pub setting: &'static str,
    /// Value of the setting.
    pub got: usize,
    /// The allowed range.
    pub expected: String,
}

impl Default for ExecutorConfig {
    /// One serving and one training thread per core. Training runs on the CPU time that serving leaves, but gets at
    /// least 5 %.
    fn default() -> Self {
        Self { serving_threads: cores(), training_threads: cores(), training_percent_min: 5 }
    }
}

impl ExecutorConfig {
    /// Refuses settings out of their range.
    pub fn check(&self) -> Result<(), BadExecutor> {
        for (setting, got) in [("serving_threads", self.serving_threads), ("training_threads", self.training_threads)] {
            check_count(setting, got)?;
        }
        if self.training_percent_min > TRAINING_PERCENT_MIN_MAX {
            let (setting, got) = ("training_percent_min", self.training_percent_min);
            return Err(BadExecutor { setting, got, expected: format!("0 to {TRAINING_PERCENT_MIN_MAX}") });
        }
        Ok(())
    }

    /// The minimum CPU share of training; [`io::ErrorKind::InvalidInput`] for an invalid configuration.
    pub fn min_share(&self) -> io::Result<MinCpuShare> {
        self.check().map_err(invalid)?;
        Ok(MinCpuShare::new(self.training_percent_min as f64 / 100.0, cores()))
    }
}

/// Cores that this process may use, 1 to [`THREADS_MAX`].
fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX)
}

fn check_count(setting: &'static str, got: usize) -> Result<(), BadExecutor> {
    let good = (1..=THREADS_MAX).contains(&got);
    if good { Ok(()) } else { Err(BadExecutor { setting, got, expected: format!("1 to {THREADS_MAX}") }) }
}

/// A caught panic of CPU work.
#[derive(Clone, Debug, thiserror::Error)]
#[error("a worker panicked: {message}")]
pub struct Panicked {
    /// Text of the panic.
    pub message: String,
    /// Opaque id of the panic's log line.
    pub id: String,
}

impl Panicked {
    fn new(payload: &(dyn Any + Send)) -> Self {
        let text = payload.downcast_ref::<&str>().copied();
        let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        let id = uuid::Uuid::new_v4().simple().to_string();
        Self { message: text.unwrap_or("no message").to_owned(), id }
    }
}

/// Runs `work`; logs a panic under an opaque id and returns it as an error.
///
/// After a panic, data that `work` was changing may be inconsistent: the caller must drop it.
pub fn catch<T>(work: impl FnOnce() -> T) -> Result<T, Panicked> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|payload| {
        let panicked = Panicked::new(payload.as_ref());
        tracing::error!(id = panicked.id, reason = panicked.message, "a worker panicked");
        panicked
    })
}

/// Named threads that each run `body(index)`; [`ServingThreads::join`] joins them.
///
/// Dropping this type does not stop the threads: they run until their bodies return.
#[derive(Debug)]
pub struct ServingThreads {
    handles: Vec<JoinHandle<()>>,
}

impl ServingThreads {
    /// Starts `count` threads, 1 to [`THREADS_MAX`]. If the system refuses one, the threads already started keep
    /// running: the caller must make their bodies return.
    pub fn spawn(count: usize, body: impl Fn(usize) + Send + Sync + 'static) -> io::Result<Self> {
        check_count("serving_threads", count).map_err(invalid)?;
        let body = Arc::new(body);
        let handles = (0..count)
            .map(|index| {
                let body = Arc::clone(&body);
                Builder::new().name(format!("serve-{index}")).spawn(move || {
                    do_not_interrupt();
                    body(index);
                })
            })
            .collect::<io::Result<_>>()?;
        Ok(Self { handles })
    }

    /// Waits until every `body` has returned.
    pub fn join(self) {
        for handle in self.handles {
            if let Err(payload) = handle.join() {
                let Panicked { message, id } = Panicked::new(payload.as_ref());
                tracing::error!(id, reason = message, "a serving thread ended early");
            }
        }
    }
}

/// A rayon pool of 1 to [`THREADS_MAX`] threads at the lowest scheduling priority; `min_share` guarantees them CPU
/// time.
pub fn training_pool(threads: usize, min_share: Arc<MinCpuShare>) -> io::Result<rayon::ThreadPool> {
    check_count("training_threads", threads).map_err(invalid)?;
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(|index| format!("train-{index}"))
        .start_handler(move |_| {
            lower_priority();
            min_share.watch_this_thread();
        })
        .build()
        .map_err(io::Error::other)
}

/// Runs `work` on a new thread `name` at the lowest scheduling priority; the receiver gets its result or the panic.
///
/// # Panics
/// If `name` contains a NUL.
pub fn spawn_training<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<oneshot::Receiver<Result<T, Panicked>>> {
    let (sender, receiver) = oneshot::channel();
    Builder::new().name(name.to_owned()).spawn(move || {
        lower_priority();
        // The receiver may be gone; then the result is dropped.
        let _ = sender.send(catch(work));
    })?;
    Ok(receiver)
}

fn invalid(error: BadExecutor) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, error)
}

/// Sets `SCHED_BATCH` for this thread: when woken, it does not preempt a running thread. Its share of CPU time stays
/// the same.
///
/// Computing and receiving threads both use it, since they share cores. A receiving thread keeps receiving, so batches
/// grow; a computing thread keeps its caches and finds more rows in the next batch. If the system refuses, serving is
/// slightly slower.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub fn do_not_interrupt() {
    use rustix::process::{getpriority_process, setpriority_process};
    use thread_priority::{
        NormalThreadSchedulePolicy, ThreadPriorityValue, ThreadSchedulePolicy, set_thread_priority_and_policy,
        thread_native_id,
    };
    // The crate also sets the nice value: its priority 49 of 99 means nice 0. The earlier nice value is restored below.
    let nice = getpriority_process(None);
    let middle = ThreadPriorityValue::try_from(49).map_or(ThreadPriority::Min, ThreadPriority::Crossplatform);
    let batch = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Batch);
    let _ = set_thread_priority_and_policy(thread_native_id(), middle, batch);
    let _ = nice.and_then(|nice| setpriority_process(None, nice));
}

/// Does nothing: only Linux has `SCHED_BATCH`.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub fn do_not_interrupt() {}

/// Lowers the priority of this thread. A refusal is only logged, once: training also works at normal priority.
fn lower_priority() {
    static WARNED: Once = Once::new();
    if let Err(error) = lowest_priority() {
        WARNED.call_once(|| tracing::warn!(%error, "training threads keep the normal priority"));
    }
}

/// Sets `SCHED_IDLE`, or nice 19 if that is refused.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn lowest_priority() -> Result<(), PriorityError> {
    use thread_priority::{
        NormalThreadSchedulePolicy, ThreadSchedulePolicy, set_thread_priority_and_policy, thread_native_id,
        thread_schedule_policy,
    };
    let idle = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);
    let set = set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, idle);
    // After the policy, the call sets nice to 0, which fails in a process that was started with a higher value. The
    // policy is set nevertheless.
    if set.is_ok() || thread_schedule_policy().is_ok_and(|policy| policy == idle) {
        return Ok(());
    }
    let normal = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Other);
    set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, normal)
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn lowest_priority() -> Result<(), PriorityError> {
    thread_priority::set_current_thread_priority(ThreadPriority::Min)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn a_panic_becomes_an_error_with_its_text() {
        assert_eq!(catch(|| 7).expect("no panic"), 7);
        assert_eq!(catch(|| panic!("plain")).expect_err("a panic").message, "plain");
        let formatted = catch(|| panic!("row {}", 3)).expect_err("a panic");
        assert_eq!(formatted.to_string(), "a worker panicked: row 3");
        assert_eq!(catch(|| std::panic::panic_any(5)).expect_err("a panic").message, "no message");
    }

    #[test]
    fn every_serving_thread_runs_its_body_and_is_joined() {
        let sum = Arc::new(AtomicUsize::new(0));
        let shared = Arc::clone(&sum);
        let threads = ServingThreads::spawn(4, move |index| {
            assert_eq!(std::thread::current().name(), Some(format!("serve-{index}").as_str()));
            shared.fetch_add(index + 1, Ordering::SeqCst);
        });
        threads.expect("starts").join();
        assert_eq!(sum.load(Ordering::SeqCst), 10);
    }

    #[test]
    fn joining_survives_a_body_that_panics() {
        ServingThreads::spawn(2, |index| assert_eq!(index, 1)).expect("starts").join();
    }

    #[test]
    fn counts_of_threads_are_bounded() {
        assert_eq!(ExecutorConfig::default().check(), Ok(()));
        for got in [0, THREADS_MAX + 1] {
            let config = ExecutorConfig { training_threads: got, ..ExecutorConfig::default() };
            let expected = format!("training_threads is {got}, expected 1 to 1024");
            assert_eq!(config.check().expect_err("refused").to_string(), expected);
            assert_eq!(training_pool(got, Arc::default()).expect_err("refused").kind(), io::ErrorKind::InvalidInput);
            assert_eq!(ServingThreads::spawn(got, |_| {}).expect_err("refused").kind(), io::ErrorKind::InvalidInput);
        }
        let config = ExecutorConfig { training_percent_min: 51, ..ExecutorConfig::default() };
        assert_eq!(config.check().expect_err("refused").to_string(), "training_percent_min is 51, expected 0 to 50");
    }

    #[test]
    fn training_work_returns_its_result_or_its_panic() {
        let result = spawn_training("train", || 6 * 7).expect("starts").blocking_recv().expect("sent");
        assert_eq!(result.expect("no panic"), 42);
        let result = spawn_training("train", || panic!("diverged")).expect("starts").blocking_recv().expect("sent");
        let result: Result<(), Panicked> = result;
        assert_eq!(result.expect_err("a panic").message, "diverged");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn training_threads_have_idle_priority() {
        use thread_priority::{NormalThreadSchedulePolicy, ThreadSchedulePolicy, thread_schedule_policy};
        if lowest_priority_is_refused_here() {
            eprintln!("skipped: this system does not let threads lower their priority");
            return;
        }
        let idle = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);
        let pool = training_pool(2, Arc::default()).expect("a pool");
        for policy in pool.broadcast(|_| thread_schedule_policy().expect("a policy")) {
            assert_eq!(policy, idle);
        }
        let alone = spawn_training("train", || thread_schedule_policy().expect("a policy")).expect("starts");
        assert_eq!(alone.blocking_recv().expect("sent").expect("no panic"), idle);
        assert_ne!(thread_schedule_policy().expect("a policy"), idle, "the caller keeps its own");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn serving_threads_use_batch_policy_and_keep_their_priority() {
        use rustix::process::getpriority_process;
        use thread_priority::{NormalThreadSchedulePolicy, ThreadSchedulePolicy, thread_schedule_policy};
        if lowest_priority_is_refused_here() {
            eprintln!("skipped: this system does not let threads change their policy");
            return;
        }
        let before = getpriority_process(None).expect("a nice value");
        let threads = ServingThreads::spawn(1, move |_| {
            let batch = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Batch);
            assert_eq!(thread_schedule_policy().expect("a policy"), batch);
            assert_eq!(getpriority_process(None).expect("a nice value"), before);
        });
        for handle in threads.expect("starts").handles {
            handle.join().expect("as it should be");
        }
    }

    /// Some sandboxes allow one policy only.
    #[cfg(target_os = "linux")]
    fn lowest_priority_is_refused_here() -> bool {
        use thread_priority::{NormalThreadSchedulePolicy, ThreadSchedulePolicy, thread_schedule_policy};
        let idle = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);
        let on_its_own = std::thread::spawn(move || {
            let _ = lowest_priority();
            thread_schedule_policy().is_ok_and(|policy| policy == idle)
        });
        !on_its_own.join().expect("no panic")
    }
}
