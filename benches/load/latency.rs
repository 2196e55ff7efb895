//! Percentiles of times.

/// The value that a share `q` (0 to 1) of `sorted` does not exceed.
///
/// # Panics
/// If there is none.
pub(crate) fn percentile(sorted: &[f64], q: f64) -> f64 {
    let rank = (q * sorted.len() as f64).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}
