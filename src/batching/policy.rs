//! What forms a batch: pure, so that it can be tested without threads.

/// How many rows to take from each of the waiting requests, front first: all of a request while there is room, then a part
/// of the next. `waiting` holds the rows that each request still wants, none of them 0.
pub(super) fn cut(waiting: impl IntoIterator<Item = usize>, rows_max: usize) -> Vec<usize> {
    let mut room = rows_max;
    let mut taken = Vec::new();
    for rows in waiting {
        if room == 0 {
            break;
        }
        let take = rows.min(room);
        room -= take;
        taken.push(take);
    }
    taken
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check_cut(waiting: &[usize], rows_max: usize, expected: &[usize]) {
        assert_eq!(cut(waiting.iter().copied(), rows_max), expected);
    }

    #[test]
    fn small_requests_share_a_batch() {
        check_cut(&[1, 2, 3], 16, &[1, 2, 3]);
    }

    #[test]
    fn the_last_request_that_fits_in_part_is_split() {
        check_cut(&[10, 10, 5], 16, &[10, 6]);
    }

    #[test]
    fn a_request_larger_than_a_batch_is_taken_in_parts() {
        check_cut(&[1000], 256, &[256]);
    }

    #[test]
    fn nothing_waiting_is_no_batch() {
        check_cut(&[], 8, &[]);
    }

    proptest! {
        /// Cutting until nothing is left takes every row once and in order, in batches that are full but for the last.
        #[test]
        fn every_row_is_taken_once(requests in proptest::collection::vec(1usize..600, 0..30), rows_max in 1usize..300) {
            let total: usize = requests.iter().sum();
            let mut left: std::collections::VecDeque<(usize, usize)> = requests.iter().copied().enumerate().collect();
            let mut served = vec![0; requests.len()];
            let mut batches = 0;
            while !left.is_empty() {
                let taken = cut(left.iter().map(|(_, rows)| *rows), rows_max);
                let rows: usize = taken.iter().sum();
                prop_assert!(rows > 0 && rows <= rows_max && taken.iter().all(|rows| *rows > 0));
                prop_assert!(rows == rows_max || taken.len() == left.len());
                batches += 1;
                for take in taken {
                    let (index, wanted) = left.pop_front().expect("taken from something");
                    served[index] += take;
                    if take < wanted {
                        left.push_front((index, wanted - take));
                    }
                }
            }
            prop_assert_eq!(served, requests);
            prop_assert_eq!(batches, total.div_ceil(rows_max));
        }
    }
}
