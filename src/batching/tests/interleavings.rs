//! Tests of callers, serving threads and the closing of the queue under many thread interleavings. The checker also
//! finds deadlocks and lost wake-ups.
//!
//! Half of the schedules come from Burckhardt et al., "A Randomized Scheduler with Probabilistic Guarantees of Finding
//! Bugs", ASPLOS 2010; the others are random.

use shuttle::future::block_on;
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::thread;

use super::*;

const SCHEDULES: usize = 20_000;
/// Number of ordering constraints that a bug of the expected kind depends on.
const DEPTH: usize = 4;

/// The checker's default is too small for unoptimized code.
const STACK_BYTES: usize = 1 << 19;

const SERVING_THREADS: usize = 2;
const CALLERS: usize = 4;

/// A batcher that runs on the checker's threads.
fn started(config: BatchingConfig, compute: Compute) -> (Batcher, Vec<thread::JoinHandle<()>>) {
    let (queue, compute) = (Arc::new(Queue::new(config, SERVING_THREADS)), Arc::new(compute));
    let min_share: Arc<MinCpuShare> = Arc::default();
    let threads = (0..SERVING_THREADS).map(|_| {
        let (queue, min_share, compute) = (Arc::clone(&queue), Arc::clone(&min_share), Arc::clone(&compute));
        thread::spawn(move || worker::run(&queue, &min_share, &compute))
    });
    let threads = threads.collect();
    let (answered, refused) = (AtomicU64::new(0), AtomicU64::new(0));
    let inner = Inner { config, inline: false, min_share, queue, answered, refused, threads: Mutex::new(None) };
    (Batcher { inner: Arc::new(inner) }, threads)
}

/// The scenario that must hold under every interleaving.
fn callers_come_and_leave() {
    // Little room, so that some requests are rejected; small batches, so that requests are split.
    let config = BatchingConfig { batch_rows_max: 16, queue_rows_max: 50, ..BatchingConfig::default() };
    let (batcher, threads) = started(config, Compute::new(echo));
    let model = model(1);
    let callers = (0..CALLERS).map(|caller| {
        let (batcher, model) = (batcher.clone(), Arc::clone(&model));
        thread::spawn(move || {
            let firsts: Vec<f32> = (0..5 + 6 * caller).map(|row| (100 * caller + row) as f32).collect();
            for operation in [Operation::Encode, Operation::Decode] {
                let rows = matrix(widths(operation).0, &firsts);
                let mut request = Box::pin(batcher.submit(
                    Arc::clone(&model),
                    operation,
                    rows,
                    Form::Floats,
                    None,
                    Urgency::Interactive,
                ));
                if caller == 1 {
                    // This caller leaves before the batch, during it, or when the response is ready.
                    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
                    let _ = request.as_mut().poll(&mut context);
                    thread::yield_now();
                    continue;
                }
                match block_on(request) {
                    Ok(output) => check_echo(&output, operation, &model, &firsts),
                    Err(BatchError::Full { .. } | BatchError::ShuttingDown) => {}
                    Err(other) => panic!("{other:?}"),
                }
            }
        })
    });
    let mut callers: Vec<_> = callers.collect();
    let last = callers.pop();
    callers.into_iter().for_each(|caller| caller.join().expect("no panic"));
    // Close while the last caller is still running.
    batcher.inner.queue.close();
    last.into_iter().for_each(|caller| caller.join().expect("no panic"));
    threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
    let stats = batcher.stats();
    assert_eq!((stats.waiting_rows, stats.waiting_bytes), (0, 0));
    assert_eq!(Arc::strong_count(&model), 1, "every request is gone");
}

fn check(scheduler: impl Scheduler + 'static) {
    let mut config = shuttle::Config::new();
    config.stack_size = STACK_BYTES;
    shuttle::Runner::new(scheduler, config).run(callers_come_and_leave);
}

#[test]
fn no_request_is_lost_in_any_order_of_steps() {
    // The checker's hook would add two lines about schedules to the panic of every other test.
    let hook = std::panic::take_hook();
    either::with_checker(|| {
        check(RandomScheduler::new(SCHEDULES));
        check(PctScheduler::new(DEPTH, SCHEDULES));
    });
    std::panic::set_hook(hook);
}
