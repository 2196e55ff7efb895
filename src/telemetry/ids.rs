//! Pseudorandom numbers that are unique in a process: ids of requests, traces and spans.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use opentelemetry::trace::{SpanId, TraceId};

use crate::numeric::rng::{GOLDEN, mix};

/// Two random keys of this process. Secret: with them, ids could be guessed.
static KEYS: LazyLock<[u64; 2]> = LazyLock::new(|| uuid::Uuid::new_v4().as_u64_pair().into());
static NEXT: AtomicU64 = AtomicU64::new(0);

/// A number that no other call of this function returns. Never 0.
pub fn unique() -> u64 {
    loop {
        // Distinct counts have distinct multiples, and these have distinct hashes.
        let number = mix(KEYS[0].wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed).wrapping_mul(GOLDEN)));
        if number != 0 {
            return number;
        }
    }
}

/// A new trace id.
pub fn trace_id() -> TraceId {
    TraceId::from((u128::from(unique()) << 64) | u128::from(unique()))
}

/// A new span id.
pub fn span_id() -> SpanId {
    SpanId::from(unique())
}

/// Trace and span id of a batch, computed from its number: all calls in the batch compute the same ids, so no table is
/// kept.
pub fn of_batch(number: u64) -> (TraceId, SpanId) {
    let at = number.wrapping_mul(GOLDEN);
    let [high, low] = [mix(KEYS[1].wrapping_add(at)), mix(KEYS[1].wrapping_sub(at) ^ GOLDEN)];
    (TraceId::from((u128::from(high) << 64) | u128::from(low)), SpanId::from(high.max(1)))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn unique_numbers_never_repeat() {
        let numbers: HashSet<u64> = (0..10_000).map(|_| unique()).collect();
        assert_eq!(numbers.len(), 10_000);
        assert!(!numbers.contains(&0));
    }

    #[test]
    fn each_batch_has_its_own_trace_position() {
        assert_eq!(of_batch(7), of_batch(7));
        let places: HashSet<(TraceId, SpanId)> = (0..10_000).map(of_batch).collect();
        assert_eq!(places.len(), 10_000);
        assert!(!places.iter().any(|(trace, span)| *trace == TraceId::INVALID || *span == SpanId::INVALID));
    }
}
