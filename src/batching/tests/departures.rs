//! Tests with ten thousand callers, most of which leave before they have a response.

use std::collections::HashSet;

use super::*;
use crate::numeric::rng::{Stream, Use};

const CALLERS: u32 = 10_000;

fn ask(batcher: &Batcher, model: &Arc<LoadedModel>, id: u32, rows: usize) -> Submission {
    let (batcher, model) = (batcher.clone(), Arc::clone(model));
    Box::pin(async move {
        batcher
            .submit(
                model,
                Operation::Encode,
                matrix(FEATURES, &vec![id as f32; rows]),
                Form::Floats,
                None,
                Urgency::Interactive,
            )
            .await
    })
}

/// Checks that nothing is left behind: no queue space and no request.
#[track_caller]
fn check_nothing_is_left(batcher: &Batcher, model: &Arc<LoadedModel>) {
    batcher.drain();
    let stats = batcher.stats();
    assert_eq!((stats.waiting_rows, stats.waiting_bytes), (0, 0));
    assert_eq!(Arc::strong_count(model), 1, "every request has released the model");
}

/// A caller that leaves between two batches is in the batch that is being computed, or in none.
#[tokio::test]
async fn departed_requests_are_in_no_later_batch() {
    let (model, (gate, compute)) = (model(1), Gate::new());
    let batcher = Batcher::start_with(small_batches(), 1, Arc::default(), compute, false).expect("starts");
    let random = &mut Stream::new(1, 0, 0, Use::Shuffle);
    let comes = |id: u32, rows: usize| {
        let mut submission = ask(&batcher, &model, id, rows);
        assert!(admit(&mut submission).is_none(), "it waits");
        (id, rows, submission)
    };
    let (mut stay, mut undecided, mut gone) = (vec![comes(0, 1)], Vec::new(), HashSet::new());
    gate.entered();
    let mut id = 0;
    while id < CALLERS {
        // The first caller of every round stays, so that there is a next batch.
        for n in 0..=random.below(30) {
            id += 1;
            let model_queue = if n == 0 { &mut stay } else { &mut undecided };
            model_queue.push(comes(id, 1 + random.below(20) as usize));
        }
        gone.extend(undecided.extract_if(.., |_| random.below(2) == 0).map(|(id, ..)| id));
        gate.release();
        let batch = gate.entered();
        assert!(!batch.iter().any(|id| gone.contains(&(*id as u32))), "{batch:?} contains a caller that left");
    }
    drop(gate); // Every batch passes now.
    assert!(gone.len() as u32 > CALLERS / 2, "{} of {CALLERS} left", gone.len());
    for (id, rows, submission) in stay.into_iter().chain(undecided) {
        let output = submission.await.expect("an answer");
        check_echo(&output, Operation::Encode, &model, &vec![id as f32; rows]);
    }
    check_nothing_is_left(&batcher, &model);
}

/// The same with all callers at once, on several threads.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn departures_do_not_affect_other_requests() {
    let model = model(1);
    let batcher = Batcher::start_with(small_batches(), 3, Arc::default(), Compute::new(echo), false).expect("starts");
    let callers: Vec<_> = (0..CALLERS)
        .map(|id| {
            let (batcher, model) = (batcher.clone(), Arc::clone(&model));
            let mut random = Stream::new(2, 0, u64::from(id), Use::Shuffle);
            let (rows, leaves_after) = (1 + random.below(40) as usize, random.below(100));
            tokio::spawn(async move {
                let request = ask(&batcher, &model, id, rows);
                if id % 4 == 0 {
                    let output = request.await.expect("an answer");
                    check_echo(&output, Operation::Encode, &model, &vec![id as f32; rows]);
                    return true;
                }
                let leave = async {
                    for _ in 0..leaves_after {
                        tokio::task::yield_now().await;
                    }
                };
                tokio::select! {
                    output = request => {
                        let output = output.expect("an answer");
                        check_echo(&output, Operation::Encode, &model, &vec![id as f32; rows]);
                        true
                    }
                    () = leave => false,
                }
            })
        })
        .collect();
    let mut answered = 0;
    for caller in callers {
        answered += u32::from(caller.await.expect("no panic"));
    }
    assert!((CALLERS / 4..CALLERS).contains(&answered), "{answered} of {CALLERS} were answered");
    check_nothing_is_left(&batcher, &model);
}
