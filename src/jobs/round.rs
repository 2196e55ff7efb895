//! Rounds of a stream whose rows never end: each is a job of its own, and knows where in the stream it begins.

use serde::{Deserialize, Serialize};

use super::IdempotencyKey;

/// Which part of a stream a job is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Round {
    /// The client's key: that of the whole stream.
    pub stream: IdempotencyKey,
    /// From 1.
    pub number: u64,
    /// Chunks of the stream in the rounds before.
    pub chunks_before: u64,
    /// Rows of the stream in the rounds before, of both roles.
    pub rows_before: u64,
}

impl Round {
    /// Bytes of a stream's key, at most: those of its rounds are longer.
    pub const STREAM_KEY_BYTES_MAX: usize = 100;

    /// Why a round was cancelled for which no row came; its stream has ended well.
    pub const LEFT: &str = "the stream ended, and no row came for another round";

    /// The first round of a stream.
    pub fn first(stream: IdempotencyKey) -> Self {
        Self { stream, number: 1, chunks_before: 0, rows_before: 0 }
    }

    /// The round after this one, which had so much.
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

    /// Whether `other` is a round of the same stream before this one.
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
    fn keys_of_rounds_are_keys() {
        let longest: IdempotencyKey = "k".repeat(Round::STREAM_KEY_BYTES_MAX).parse().expect("a key");
        let round = Round { number: u64::MAX, ..Round::first(longest) };
        assert!(round.key().to_string().parse::<IdempotencyKey>().is_ok());
    }
}
