//! Percentiles of latencies.

/// The smallest value of `sorted` that a share `q` (0 to 1) of the values does not exceed.
///
/// # Panics
/// If `sorted` is empty.
pub(crate) fn percentile(sorted: &[f64], q: f64) -> f64 {
    let rank = (q * sorted.len() as f64).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}
