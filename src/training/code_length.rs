//! The default code length: the number of principal components that explain a given share of the variance of the
//! training rows.
//!
//! The variances are eigenvalues of the covariance of the normalized rows. For wide rows they are eigenvalues of the
//! Gram matrix of an even sample, which are the same up to a factor.

use super::batches::{Split, each_training_row};
use super::source::{RowSource, SourceError};
use crate::model::Normalizer;
use crate::model::statistics::STATISTICS_CODE_MAX;
use crate::numeric::linalg::{covariance, dot, symmetric_eigenvalues};
use crate::numeric::rng::{Stream, Use};
use crate::numeric::vectorized;

/// Default share of the variance that a code explains.
pub(super) const EXPLAINED_SHARE_DEFAULT: f64 = 0.95;
/// Largest matrix whose eigenvalues are computed; a longer code would have no statistics either.
const SIZE_MAX: usize = STATISTICS_CODE_MAX;
/// Limit of the rows examined: multiply-adds of their covariance.
const WORK_MAX: u64 = 4_000_000_000;
const ROWS_MAX: u64 = 65_536;
/// Largest size of the rows that are kept temporarily, in bytes.
const BYTES_MAX: u64 = 64 << 20;

/// The chosen code length.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Choice {
    /// At least 1.
    pub(super) length: usize,
    /// Share of the variance of the examined rows that this number of principal components explains.
    pub(super) explained: f64,
    /// Number of rows examined.
    pub(super) rows: u64,
}

/// The smallest length from `least` to `most` that explains `share` of the variance, or `most`.
pub(super) fn choose(
    source: &dyn RowSource,
    split: &Split,
    normalizer: &Normalizer,
    share: f64,
    (least, most): (usize, usize),
    seed: u64,
) -> Result<Choice, SourceError> {
    let (features, count) = (source.features(), split.training_rows());
    let wide = features > SIZE_MAX;
    let by_work = if wide { SIZE_MAX as u64 } else { (WORK_MAX / (features * features) as u64).min(ROWS_MAX) };
    let wanted = by_work.min(BYTES_MAX / (4 * features as u64)).max(2);
    let chance = wanted as f64 / count as f64;
    let (mut rows, mut taken) = (Vec::new(), 0u64);
    each_training_row(source, split, &mut |row, values| {
        let chosen = wanted >= count || Stream::new(seed, 1, row, Use::Sample).uniform() < chance;
        if chosen && taken < wanted {
            rows.extend(values.iter().enumerate().map(|(j, x)| normalizer.value(j, *x)));
            taken += 1;
        }
        Ok::<_, SourceError>(())
    })?;
    let variances = if wide { by_gram(rows, features) } else { by_covariance(&rows, features) };
    let (length, explained) = length(&variances.unwrap_or_default(), share, least, most);
    Ok(Choice { length, explained, rows: taken })
}

/// The smallest number of `variances` (in descending order) with `share` of their sum, within the bounds, and the share
/// that it explains.
fn length(variances: &[f64], share: f64, least: usize, most: usize) -> (usize, f64) {
    let total: f64 = variances.iter().map(|variance| variance.max(0.0)).sum();
    let (mut sum, mut length) = (0.0, 0);
    for variance in variances.iter().take(most) {
        // Tolerates the rounding of the sum.
        if length >= least && sum >= (share - 1e-9) * total {
            break;
        }
        sum += variance.max(0.0);
        length += 1;
    }
    (length.max(least).min(most.max(1)), if total > 0.0 { sum / total } else { 1.0 })
}

fn by_covariance(rows: &[f32], features: usize) -> Option<Vec<f64>> {
    let (_, covariance) = covariance(rows, features, |_| true);
    symmetric_eigenvalues(&covariance, features)
}

/// For fewer rows (n, d) than columns: from the products of the centered rows (n, n).
fn by_gram(rows: Vec<f32>, features: usize) -> Option<Vec<f64>> {
    let n = rows.len() / features;
    let mut mean = vec![0.0; features];
    for row in rows.chunks_exact(features) {
        mean.iter_mut().zip(row).for_each(|(mean, x)| *mean += f64::from(*x) / n as f64);
    }
    let centered: Vec<f64> = rows
        .chunks_exact(features)
        .flat_map(|row| row.iter().zip(&mean).map(|(x, mean)| f64::from(*x) - mean))
        .collect();
    drop(rows);
    let mut products = vec![0.0; n * n];
    vectorized(|| {
        for (i, a) in centered.chunks_exact(features).enumerate() {
            for (j, b) in centered.chunks_exact(features).take(i + 1).enumerate() {
                let product = dot(a, b);
                (products[i * n + j], products[j * n + i]) = (product, product);
            }
        }
    });
    symmetric_eigenvalues(&products, n)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::training::MemoryRows;

    #[test]
    fn the_length_is_the_least_that_explains_the_share() {
        let variances = [6.0, 3.0, 0.9, 0.1, 0.0];
        for (share, expected) in [(0.5, 1), (0.6, 1), (0.61, 2), (0.9, 2), (0.95, 3), (0.99, 3), (0.999, 4), (1.0, 4)] {
            assert_eq!(length(&variances, share, 1, 5).0, expected, "{share}");
        }
        assert_eq!(length(&variances, 0.5, 2, 5).0, 2, "never shorter than the least");
        assert_eq!(length(&variances, 1.0, 1, 2), (2, 0.9));
        assert_eq!(length(&[0.0, 0.0], 0.95, 1, 2), (1, 1.0), "rows that are all the same");
        assert_eq!(length(&[], 0.95, 1, 2).0, 1);
    }

    /// Rows of rank 3 with a little noise.
    fn rows(count: usize, features: usize) -> MemoryRows {
        let mut stream = Stream::new(4, 0, 0, Use::Weights);
        let mut values = Vec::new();
        for _ in 0..count {
            let z = [(); 3].map(|()| stream.normal());
            for j in 0..features {
                let mixed: f64 = z.iter().enumerate().map(|(i, z)| z * (((7 * i + 5 * j) % 11) as f64 - 5.0)).sum();
                values.push((mixed + 0.01 * stream.normal()) as f32);
            }
        }
        MemoryRows::new(values, features)
    }

    #[test]
    fn rows_of_rank_three_have_a_code_of_three() {
        // Also wider than the limit for a covariance.
        for (count, features) in [(500, 10), (40, 10), (60, SIZE_MAX + 6)] {
            let split = Split::new(count as u64, features, 0, 1);
            let rows = rows(count, features);
            let choose = |share, bounds| choose(&rows, &split, &Normalizer::none(), share, bounds, 1).expect("reads");
            let found = choose(0.999, (1, features));
            assert_eq!((found.length, found.rows), (3, count as u64), "{found:?}");
            assert!(found.explained > 0.999 && found.explained < 1.0, "{found:?}");
            assert_eq!(choose(0.999, (1, 2)).length, 2);
        }
    }
}
