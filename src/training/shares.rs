//! Distributes work over the threads of a pool, to the same thread every time.
//!
//! With plain work stealing, a thread works on data that another core has just written: moments of a panel, activations
//! of a tape. Moving that data between caches takes longer than the arithmetic. So every job has an owner. Other
//! threads take it only when their own jobs are done, so that a busy core does not delay the rest.

use std::sync::{Mutex, PoisonError};

/// Calls `work` with each of `jobs` on the threads of the current pool. `cost` is the duration of a job, in any unit;
/// the same costs give the same owners. Without `parallel`, runs the jobs in order on this thread.
pub(super) fn share_out<J: Send>(jobs: Vec<J>, parallel: bool, cost: impl Fn(&J) -> usize, work: impl Fn(J) + Sync) {
    share_out_with(&mut Vec::new(), jobs, parallel, cost, |(): &mut (), job| work(job));
}

/// [`share_out`] with a value per thread: `kept` grows to one value for each thread.
pub(super) fn share_out_with<K: Default + Send, J: Send>(
    kept: &mut Vec<Mutex<K>>,
    jobs: Vec<J>,
    parallel: bool,
    cost: impl Fn(&J) -> usize,
    work: impl Fn(&mut K, J) + Sync,
) {
    let threads = rayon::current_num_threads();
    kept.resize_with(threads.max(kept.len()), Mutex::default);
    if !parallel || threads == 1 || jobs.len() == 1 {
        let kept = kept[0].get_mut().unwrap_or_else(PoisonError::into_inner);
        return jobs.into_iter().for_each(|job| work(kept, job));
    }
    let owners = owners(&jobs.iter().map(cost).collect::<Vec<_>>(), threads);
    let kept = &*kept;
    let jobs: Vec<Mutex<Option<J>>> = jobs.into_iter().map(|job| Mutex::new(Some(job))).collect();
    rayon::broadcast(|context| {
        let me = context.index();
        let mut kept = kept[me].lock().unwrap_or_else(PoisonError::into_inner);
        let own = (0..jobs.len()).filter(|i| owners[*i] == me);
        let others = (0..jobs.len()).filter(|i| owners[*i] != me).rev();
        for i in own.chain(others) {
            let job = jobs[i].lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(job) = job {
                work(&mut kept, job);
            }
        }
    });
}

/// The owner of each job: the most expensive job first, to the thread with the smallest load so far (Graham 1969).
fn owners(costs: &[usize], threads: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..costs.len()).collect();
    order.sort_by_key(|i| std::cmp::Reverse(costs[*i]));
    let (mut owners, mut loads) = (vec![0; costs.len()], vec![0; threads]);
    for i in order {
        let least = (0..threads).min_by_key(|thread| loads[*thread]).unwrap_or(0);
        (owners[i], loads[least]) = (least, loads[least] + costs[i]);
    }
    owners
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn every_job_is_done_once() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().expect("threads");
        for count in [0, 1, 2, 3, 10, 100] {
            let done: Vec<AtomicUsize> = (0..count).map(|_| AtomicUsize::new(0)).collect();
            let count_one = |i: usize| _ = done[i].fetch_add(1, Ordering::Relaxed);
            pool.install(|| share_out((0..count).collect(), true, |i| *i, count_one));
            assert!(done.iter().all(|times| times.load(Ordering::Relaxed) == 1), "{count} jobs");
        }
    }

    #[test]
    fn shares_are_even() {
        let costs = [8, 8, 8, 8, 8, 8, 8, 1, 5, 5, 5, 5, 2, 2];
        let owners = owners(&costs, 3);
        let loads: Vec<usize> = (0..3)
            .map(|me| costs.iter().zip(&owners).filter(|(_, owner)| **owner == me).map(|(cost, _)| cost).sum())
            .collect();
        assert!(loads.iter().max().expect("some") - loads.iter().min().expect("some") <= 3, "{loads:?}");
    }
}
