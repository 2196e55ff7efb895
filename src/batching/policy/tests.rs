use proptest::prelude::*;

use super::*;

/// A cost so low that time never limits a batch.
const FREE: f64 = 1e-12;

fn push<K: Clone + Eq + Hash, T: Clone>(queues: &mut FairQueue<K, T>, key: K, queued: T, rows: usize) -> u64 {
    queues.push(key, queued, rows, Urgency::Interactive)
}

fn next<K: Clone + Eq + Hash, T: Clone>(queues: &mut FairQueue<K, T>, rows_max: usize) -> Turn<T> {
    queues.next(rows_max, |_, _| FREE, |_| true)
}

fn requests<T>(pieces: Vec<Piece<T>>) -> Vec<T> {
    pieces.into_iter().map(|piece| piece.queued).collect()
}

fn rows<T>(turn: &Turn<T>) -> usize {
    turn.batch.iter().map(|piece| piece.rows.len()).sum()
}

/// Checks how requests of these sizes in one queue form batches: (request, rows) for each batch.
#[track_caller]
fn check_batches(sizes: &[usize], rows_max: usize, expected: &[&[(usize, Range<usize>)]]) {
    let mut queues = FairQueue::new();
    for (queued, rows) in sizes.iter().enumerate() {
        push(&mut queues, "line", queued, *rows);
    }
    let mut batches = Vec::new();
    while !queues.is_empty() {
        let turn = next(&mut queues, rows_max);
        batches.push(turn.batch.into_iter().map(|piece| (piece.queued, piece.rows)).collect::<Vec<_>>());
    }
    assert_eq!(batches, expected);
}

#[test]
fn small_requests_share_a_batch() {
    check_batches(&[3, 4, 1], 16, &[&[(0, 0..3), (1, 0..4), (2, 0..1)]]);
}

#[test]
fn a_request_that_does_not_fit_is_split() {
    check_batches(&[12, 20, 2], 16, &[&[(0, 0..12), (1, 0..4)], &[(1, 4..20)], &[(2, 0..2)]]);
}

#[test]
fn a_large_request_is_served_over_several_batches() {
    check_batches(&[70], 32, &[&[(0, 0..32)], &[(0, 32..64)], &[(0, 64..70)]]);
}

#[test]
fn nothing_waiting_gives_no_batch() {
    let turn = next(&mut FairQueue::<u8, u8>::new(), 16);
    assert!(turn.batch.is_empty() && turn.dropped.is_empty());
}

#[track_caller]
fn check_room(rows_max: usize, waiting: usize, row_seconds: f64, expected: usize) {
    assert_eq!(room(rows_max, waiting, row_seconds), expected);
}

#[test]
fn batch_size_follows_the_quantum_within_limits() {
    let turn = QUANTUM.as_secs_f64();
    check_room(256, 10_000, turn / 100.5, 96);
    check_room(256, 100, turn / 100.5, 100);
    check_room(256, 10_000, FREE, 256);
    check_room(256, 7, FREE, 7);
    check_room(256, 10_000, 1.0, CUT_ROWS_MIN);
    check_room(16, 10_000, 1.0, 16);
    check_room(256, 10_000, f64::MIN_POSITIVE, 256);
    check_room(256, 10_000, f64::INFINITY, CUT_ROWS_MIN);
}

#[test]
fn queues_take_turns() {
    let mut queues = FairQueue::new();
    for (key, queued) in [("a", 0), ("a", 1), ("b", 2), ("a", 3), ("c", 4)] {
        push(&mut queues, key, queued, 64);
    }
    // Each batch uses a whole turn.
    let seconds = QUANTUM.as_secs_f64() / 64.0;
    let order: Vec<usize> = (0..5).map(|_| queues.next(64, |_, _| seconds, |_| true).batch[0].queued).collect();
    assert_eq!(order, [0, 2, 4, 1, 3]);
}

#[test]
fn queues_get_equal_compute_time() {
    let mut queues = FairQueue::new();
    // Rows of the second queue cost 500 times as much, and both queues are saturated.
    let seconds = |key: &&str, (): &()| if *key == "small" { 1e-7 } else { 5e-5 };
    let mut served: HashMap<&str, f64> = HashMap::new();
    for key in ["small", "large"] {
        queues.push(key, (), 10_000_000, Urgency::Interactive);
    }
    for _ in 0..10_000 {
        let before = queues.rows_before(&"small", Urgency::Interactive);
        let count = rows(&queues.next(256, seconds, |()| true)) as f64;
        let key = if queues.rows_before(&"small", Urgency::Interactive) < before { "small" } else { "large" };
        *served.entry(key).or_default() += count * seconds(&key, &());
    }
    let ratio = served["small"] / served["large"];
    assert!((0.99..1.01).contains(&ratio), "{served:?}");
}

#[test]
fn sparse_queues_leave_unused_time_to_others() {
    let mut queues = FairQueue::new();
    let seconds = QUANTUM.as_secs_f64() / 64.0;
    push(&mut queues, "flood", "flood", 64 * 100);
    let mut batches = 0;
    for _ in 0..30 {
        push(&mut queues, "sparse", "sparse", 1);
        // The new request waits for at most one turn of the other queue.
        let order: Vec<&str> = (0..2).map(|_| queues.next(256, |_, _| seconds, |_| true).batch[0].queued).collect();
        assert!(order.contains(&"sparse"), "{order:?}");
        batches += 1;
    }
    assert_eq!(queues.rows_before(&"flood", Urgency::Interactive), 64 * (100 - batches), "the rest is flood's");
}

#[test]
fn rows_that_cost_many_quanta_are_served() {
    let mut queues = FairQueue::new();
    push(&mut queues, "slow", 0, 640);
    push(&mut queues, "quick", 1, 64 * 1000);
    let seconds = |key: &&str, _: &i32| if *key == "slow" { 1.0 } else { QUANTUM.as_secs_f64() / 64.0 };
    let mut slow = 0;
    for _ in 0..200 {
        slow += usize::from(queues.next(256, seconds, |_| true).batch[0].queued == 0);
    }
    assert!((3..=4).contains(&slow), "once, and again after {DEFICIT_QUANTA_MAX} turns each time: {slow}");
}

#[test]
fn interactive_requests_precede_bulk() {
    let mut queues = FairQueue::new();
    for queued in 0..3 {
        queues.push("a", queued, 64, Urgency::Bulk);
    }
    push(&mut queues, "a", 3, 64);
    assert_eq!(queues.rows_before(&"a", Urgency::Interactive), 64);
    assert_eq!(queues.rows_before(&"a", Urgency::Bulk), 4 * 64);
    let order: Vec<i32> = (0..4).map(|_| next(&mut queues, 64).batch[0].queued).collect();
    assert_eq!(order, [3, 0, 1, 2]);
}

#[test]
fn interactive_load_does_not_starve_bulk() {
    for rows_max in [16, 64, 256] {
        let mut queues = FairQueue::new();
        queues.push("a", "bulk", 100_000, Urgency::Bulk);
        queues.push("a", "other", 1_000_000, Urgency::Interactive);
        let (mut bulk, mut others, mut others_in_a_row) = (0, 0, 0);
        while others < 50_000 {
            for piece in next(&mut queues, rows_max).batch {
                if piece.queued == "bulk" {
                    bulk += piece.rows.len();
                    others_in_a_row = 0;
                } else {
                    others += piece.rows.len();
                    others_in_a_row += piece.rows.len();
                }
                assert!(others_in_a_row <= ROWS_PER_BULK_ROW * CUT_ROWS_MIN + rows_max);
            }
        }
        let share = bulk as f64 * ROWS_PER_BULK_ROW as f64 / others as f64;
        assert!((0.98..=1.02).contains(&share), "{bulk} rows of bulk, {others} of others");
    }
}

#[test]
fn bulk_earns_nothing_while_its_queue_is_empty() {
    let mut queues = FairQueue::new();
    push(&mut queues, "a", 0, 64 * 100);
    for _ in 0..50 {
        next(&mut queues, 64);
    }
    queues.push("a", 1, 64, Urgency::Bulk);
    assert_eq!(next(&mut queues, 64).batch[0].queued, 0);
}

#[test]
fn both_urgencies_share_a_batch() {
    let mut queues = FairQueue::new();
    queues.push("a", 0, 5, Urgency::Bulk);
    push(&mut queues, "a", 1, 3);
    let batch: Vec<_> = next(&mut queues, 16).batch.into_iter().map(|piece| (piece.queued, piece.rows)).collect();
    assert_eq!(batch, [(1, 0..3), (0, 0..5)]);
    assert!(queues.is_empty() && queues.by_key.is_empty());
}

#[test]
fn unwanted_requests_take_no_room() {
    let mut queues = FairQueue::new();
    for queued in 0..4 {
        push(&mut queues, "a", queued, 4);
    }
    push(&mut queues, "b", 4, 4);
    let turn = queues.next(16, |_, _| QUANTUM.as_secs_f64(), |queued| *queued % 2 == 1);
    let batch: Vec<_> = turn.batch.iter().map(|piece| piece.queued).collect();
    assert_eq!((batch, requests(turn.dropped)), (vec![1, 3], vec![0, 2]));
    // A queue with only unwanted requests passes its turn to the next.
    push(&mut queues, "c", 5, 4);
    let turn = queues.next(16, |_, _| FREE, |queued| *queued == 5);
    assert_eq!((turn.batch[0].queued, requests(turn.dropped)), (5, vec![4]));
    assert!(queues.is_empty());
}

#[test]
fn a_withdrawn_request_leaves_its_queue() {
    for urgency in [Urgency::Interactive, Urgency::Bulk] {
        let mut queues = FairQueue::new();
        let tickets: Vec<u64> = (0..3).map(|queued| queues.push("a", queued, 20, urgency)).collect();
        assert_eq!(queues.withdraw(&"a", tickets[1]).map(|piece| piece.queued), Some(1));
        assert_eq!(queues.withdraw(&"a", tickets[1]).map(|piece| piece.queued), None, "once");
        assert_eq!(next(&mut queues, 16).batch[0].queued, 0);
        assert_eq!(queues.rows_before(&"a", urgency), 24);
        assert_eq!(queues.withdraw(&"a", tickets[0]).map(|piece| piece.queued), Some(0), "its remaining rows");
        assert_eq!(queues.withdraw(&"b", tickets[2]).map(|piece| piece.queued), None, "another queue");
        assert_eq!(queues.withdraw(&"a", tickets[2]).map(|piece| piece.queued), Some(2));
        assert!(queues.is_empty() && queues.by_key.is_empty(), "no empty queue stays");
    }
}

proptest! {
    #[test]
    fn every_row_appears_once_and_in_order(
        requests in prop::collection::vec((0_u8..4, 1_usize..70, any::<bool>()), 1..40),
        rows_max in 1_usize..5,
        early in 0_usize..40,
    ) {
        let mut queues = FairQueue::new();
        let rows_max = rows_max * LANES;
        let seconds = |key: &u8, _: &usize| [FREE, 1e-5, 1e-4, 1.0][usize::from(*key)];
        let mut seen = vec![0; requests.len()];
        let mut last_of: HashMap<(u8, bool), usize> = HashMap::new();
        let come = |queues: &mut FairQueue<u8, usize>, (queued, (key, rows, bulk)): (usize, &(u8, usize, bool))| {
            let urgency = if *bulk { Urgency::Bulk } else { Urgency::Interactive };
            queues.push(*key, queued, *rows, urgency);
        };
        // Some requests arrive before the first batch, and one more after every batch.
        let mut coming = requests.iter().enumerate();
        coming.by_ref().take(early).for_each(|queued| come(&mut queues, queued));
        loop {
            let turn = queues.next(rows_max, seconds, |_| true);
            prop_assert!(turn.dropped.is_empty());
            let rows = rows(&turn);
            prop_assert!(rows <= rows_max, "{rows} rows in a batch of at most {rows_max}");
            for piece in &turn.batch {
                prop_assert!(!piece.rows.is_empty());
                prop_assert_eq!(piece.rows.start, seen[piece.queued], "in order, without a gap");
                seen[piece.queued] = piece.rows.end;
                let (key, _, bulk) = requests[piece.queued];
                prop_assert_eq!(key, requests[turn.batch[0].queued].0, "one queue per batch");
                let last = last_of.entry((key, bulk)).or_insert(0);
                prop_assert!(*last <= piece.queued, "first come, first served");
                *last = piece.queued;
            }
            // A batch consists of whole panels while the queue has more rows.
            if let Some(first) = turn.batch.first() && queues.by_key.contains_key(&requests[first.queued].0) {
                prop_assert!(rows.is_multiple_of(LANES), "{rows} rows");
            }
            match coming.next() {
                Some(queued) => come(&mut queues, queued),
                None if queues.is_empty() => break,
                None => prop_assert!(!turn.batch.is_empty()),
            }
        }
        for (seen, (_, rows, _)) in seen.iter().zip(&requests) {
            prop_assert_eq!(seen, rows);
        }
        prop_assert!(queues.by_key.is_empty());
    }

    /// For any row costs, the compute time of saturated queues differs by at most two turns, and two batches of the
    /// most expensive rows.
    #[test]
    fn no_queue_starves(costs in prop::collection::vec(1e-8_f64..1e-4, 2..8)) {
        let mut queues = FairQueue::new();
        let seconds = |key: &usize, _: &usize| costs[*key];
        for key in 0..costs.len() {
            push(&mut queues, key, key, 1_000_000_000);
        }
        let mut used = vec![0.0_f64; costs.len()];
        for _ in 0..2_000 {
            let turn = queues.next(256, seconds, |_| true);
            used[turn.batch[0].queued] += rows(&turn) as f64 * costs[turn.batch[0].queued];
        }
        let most = used.iter().copied().fold(0.0, f64::max);
        let least = used.iter().copied().fold(f64::INFINITY, f64::min);
        let batch = CUT_ROWS_MIN as f64 * costs.iter().copied().fold(0.0, f64::max);
        prop_assert!(most - least <= 2.0 * (QUANTUM.as_secs_f64() + batch), "{used:?}");
    }
}
