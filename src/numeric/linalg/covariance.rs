//! Mean and covariance of rows.

use super::dot;
use crate::numeric::vectorized;

/// Rows that are multiplied at a time.
const BLOCK: usize = 256;

/// Mean (columns,) and covariance (columns, columns; row-major) of the selected rows of `rows` (n, columns; row-major).
/// `counts` selects a row by its index. Both are computed in f64 in one fixed order. The covariance is divided by the
/// number of selected rows; without any, both are zero.
///
/// # Panics
/// If `rows` is not a whole number of rows.
pub fn covariance(rows: &[f32], columns: usize, counts: impl Fn(usize) -> bool) -> (Vec<f64>, Vec<f64>) {
    assert!(rows.len().is_multiple_of(columns), "whole rows");
    let chosen: Vec<&[f32]> =
        rows.chunks_exact(columns).enumerate().filter(|(i, _)| counts(*i)).map(|(_, row)| row).collect();
    let mut mean = vec![0.0; columns];
    for row in &chosen {
        mean.iter_mut().zip(*row).for_each(|(mean, value)| *mean += f64::from(*value));
    }
    let share = if chosen.is_empty() { 0.0 } else { 1.0 / chosen.len() as f64 };
    mean.iter_mut().for_each(|mean| *mean *= share);
    let mut covariance = vec![0.0; columns * columns];
    let mut block = Vec::with_capacity(columns * BLOCK);
    for rows in chosen.chunks(BLOCK) {
        // Column-major, so that the sums run over adjacent numbers.
        block.clear();
        for (j, mean) in mean.iter().enumerate() {
            block.extend(rows.iter().map(|row| f64::from(row[j]) - mean));
        }
        vectorized(|| {
            for (i, a) in block.chunks_exact(rows.len()).enumerate() {
                for (j, b) in block.chunks_exact(rows.len()).take(i + 1).enumerate() {
                    covariance[i * columns + j] += dot(a, b);
                }
            }
        });
    }
    for i in 0..columns {
        for j in 0..=i {
            let value = covariance[i * columns + j] * share;
            covariance[i * columns + j] = value;
            covariance[j * columns + i] = value;
        }
    }
    (mean, covariance)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numeric::rng::{Stream, Use};

    #[test]
    fn covariance_matches_the_definition() {
        let (rows, columns) = (600, 7);
        let mut stream = Stream::new(5, 0, 0, Use::Weights);
        let values: Vec<f32> = (0..rows * columns).map(|i| (stream.normal() + (i % columns) as f64) as f32).collect();
        let counts = |i: usize| !i.is_multiple_of(3);
        let (mean, covariance) = covariance(&values, columns, counts);
        let chosen: Vec<usize> = (0..rows).filter(|i| counts(*i)).collect();
        let at = |i: usize, j: usize| f64::from(values[i * columns + j]);
        let count = chosen.len() as f64;
        for i in 0..columns {
            let expected = chosen.iter().map(|row| at(*row, i)).sum::<f64>() / count;
            assert!((mean[i] - expected).abs() < 1e-12);
            for j in 0..columns {
                let product = |row: &usize| (at(*row, i) - mean[i]) * (at(*row, j) - mean[j]);
                let expected = chosen.iter().map(product).sum::<f64>() / count;
                assert!((covariance[i * columns + j] - expected).abs() < 1e-12, "[{i}, {j}]");
            }
        }
    }

    #[test]
    fn covariance_of_no_rows_is_zero() {
        assert_eq!(covariance(&[1.0, 2.0], 2, |_| false), (vec![0.0; 2], vec![0.0; 4]));
    }
}
