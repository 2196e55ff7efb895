//! Order of queued jobs: by priority, then round-robin over model names, then oldest first.

use std::cmp::Reverse;

use super::Priority;
use crate::model::ModelName;

/// The properties of a queued job that decide its place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting<'a> {
    pub(super) name: &'a ModelName,
    pub(super) priority: Priority,
}

/// Index of the next job to start in `waiting`, which is in order of arrival; `None` if it is empty.
///
/// Among the jobs of the highest priority, model names take turns. A name that never started is first, then the name
/// whose last start is longest ago. `last_start` is the number of that start. Within a name, and between equal names,
/// the oldest job is next.
pub(super) fn next<'a>(
    waiting: impl Iterator<Item = Waiting<'a>>,
    last_start: impl Fn(&ModelName) -> Option<u64>,
) -> Option<usize> {
    let place = |(place, job): (usize, Waiting<'a>)| (Reverse(job.priority), last_start(job.name), place);
    waiting.enumerate().map(place).min().map(|(_, _, place)| place)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn named(text: &str) -> ModelName {
        text.parse().expect("a name")
    }

    /// Indices of the jobs in the order in which they start, one at a time.
    fn order(jobs: &[(&str, i32)]) -> Vec<usize> {
        let mut waiting: Vec<(usize, ModelName, Priority)> = jobs
            .iter()
            .enumerate()
            .map(|(number, (name, priority))| (number, named(name), Priority::try_from(*priority).expect("in range")))
            .collect();
        let mut starts = BTreeMap::new();
        let mut started = Vec::new();
        while let Some(place) =
            next(waiting.iter().map(|(_, name, priority)| Waiting { name, priority: *priority }), |name| {
                starts.get(name).copied()
            })
        {
            let (number, name, _) = waiting.remove(place);
            starts.insert(name, started.len() as u64);
            started.push(number);
        }
        started
    }

    #[track_caller]
    fn check(jobs: &[(&str, i32)], expected: &[usize]) {
        assert_eq!(order(jobs), expected, "{jobs:?}");
    }

    #[test]
    fn an_empty_queue_starts_nothing() {
        check(&[], &[]);
    }

    #[test]
    fn the_oldest_job_of_a_name_is_first() {
        check(&[("a", 0), ("a", 0), ("a", 0)], &[0, 1, 2]);
    }

    #[test]
    fn names_take_turns_regardless_of_job_counts() {
        check(&[("a", 0), ("a", 0), ("a", 0), ("b", 0), ("b", 0), ("c", 0)], &[0, 3, 5, 1, 4, 2]);
    }

    #[test]
    fn a_higher_priority_is_first_and_takes_its_names_turn() {
        check(&[("a", 0), ("b", 0), ("a", 3)], &[2, 1, 0]);
        check(&[("a", -10), ("b", 10), ("c", 0)], &[1, 2, 0]);
    }

    #[test]
    fn new_names_start_before_names_that_ran() {
        let (old, new) = (named("old"), named("new"));
        let waiting = [&old, &new].map(|name| Waiting { name, priority: Priority::default() });
        assert_eq!(next(waiting.into_iter(), |name| (*name == old).then_some(0)), Some(1));
    }

    proptest! {
        /// Every job starts, and a lower priority never starts before a higher one. While two names wait with the same
        /// priority, neither starts twice before the other starts.
        #[test]
        fn turns_are_fair(jobs in proptest::collection::vec((0usize..4, -2i32..=2), 0..40)) {
            let named: Vec<(&str, i32)> = jobs.iter().map(|(name, priority)| (["a", "b", "c", "d"][*name], *priority)).collect();
            let order = order(&named);
            let mut sorted = order.clone();
            sorted.sort_unstable();
            prop_assert_eq!(sorted, (0..jobs.len()).collect::<Vec<_>>());
            for pair in order.windows(2) {
                prop_assert!(named[pair[0]].1 >= named[pair[1]].1);
                if named[pair[0]] == named[pair[1]] {
                    prop_assert!(pair[0] < pair[1]);
                    // The same name twice in a row: no other name of this priority waited.
                    let at = order.iter().position(|job| *job == pair[1]).expect("started");
                    prop_assert!(order[at..].iter().all(|job| named[*job].1 < named[pair[1]].1 || named[*job].0 == named[pair[1]].0));
                }
            }
        }
    }
}
