//! Rounds of an endless stream: each round is a separate job that records where in the stream it starts.

use serde::{Deserialize, Serialize};

use super::IdempotencyKey;

/// Position of a job in its stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Round {
    /// The client's key of the whole stream.
    pub stream: IdempotencyKey,
    /// Number of the round, from 1.
    pub number: u64,
    /// Chunks in all earlier rounds of the stream.
    pub chunks_before: u64,
    /// Rows in all earlier rounds of the stream, training and test rows together.
    pub rows_before: u64,
}

impl Round {
    /// Maximum bytes of a stream's key. The keys of its rounds append `#` and a number.
    pub const STREAM_KEY_BYTES_MAX: usize = 100;

    /// The first round of a stream.
    pub fn first(stream: IdempotencyKey) -> Self {
        Self { stream, number: 1, chunks_before: 0, rows_before: 0 }
    }

    /// The next round, if this one has `chunks` chunks and `rows` rows.
    pub(super) fn next(&self, chunks: u64, rows: u64) -> Self {
        Self {
            stream: self.stream.clone(),
            number: self.number + 1,
            chunks_before: self.chunks_before + chunks,
            rows_before: self.rows_before + rows,
        }
    }

    /// The key of this round's job.
    pub(super) fn key(&self) -> IdempotencyKey {
        IdempotencyKey(format!("{}#{}", self.stream, self.number))
    }

    /// Whether `other` is an earlier round of the same stream.
    pub(super) fn is_after(&self, other: &Self) -> bool {
        self.stream == other.stream && self.number > other.number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_follow_each_other_without_a_gap() {
        let first = Round::first("key".parse().expect("a key"));
        let second = first.next(3, 100);
        let third = second.next(2, 50);
        assert_eq!((third.number, third.chunks_before, third.rows_before), (3, 5, 150));
        assert_eq!(third.key().to_string(), "key#3");
        assert!(third.is_after(&first) && !first.is_after(&third) && !third.is_after(&third));
    }

    #[test]
    fn round_keys_are_valid_keys() {
        let longest: IdempotencyKey = "k".repeat(Round::STREAM_KEY_BYTES_MAX).parse().expect("a key");
        let round = Round { number: u64::MAX, ..Round::first(longest) };
        assert!(round.key().to_string().parse::<IdempotencyKey>().is_ok());
    }
}
