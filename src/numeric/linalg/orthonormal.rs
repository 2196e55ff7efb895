//! Orthonormal rows for initial weights, in a fixed order of operations.

use super::dot;
use crate::numeric::vectorized;

/// Makes the rows of a row-major (rows, columns) matrix orthonormal, rows ≤ columns: modified Gram-Schmidt, twice
/// (Giraud, Langou and Rozložník 2005: twice is enough). In f64 and in one fixed order, since the result becomes
/// weights. A row in the span of earlier rows becomes zero.
///
/// # Panics
/// If there are more rows than columns.
pub fn orthonormalize_rows(values: &mut [f64], columns: usize) {
    let rows = values.len() / columns;
    assert!(rows <= columns, "at most as many orthonormal rows as columns");
    for i in 0..rows {
        let (done, rest) = values.split_at_mut(i * columns);
        let row = &mut rest[..columns];
        vectorized(|| {
            for _ in 0..2 {
                for other in done.chunks_exact(columns) {
                    let along = dot(row, other);
                    row.iter_mut().zip(other).for_each(|(value, other)| *value -= along * other);
                }
            }
            let norm = dot(row, row).sqrt();
            let scale = if norm > 1e-12 { 1.0 / norm } else { 0.0 };
            row.iter_mut().for_each(|value| *value *= scale);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numeric::rng::{Stream, Use};

    #[test]
    fn rows_become_orthonormal() {
        let mut stream = Stream::new(2, 0, 0, Use::Weights);
        let mut values: Vec<f64> = (0..12 * 30).map(|_| stream.normal()).collect();
        orthonormalize_rows(&mut values, 30);
        for (i, a) in values.chunks_exact(30).enumerate() {
            for (j, b) in values.chunks_exact(30).enumerate() {
                let expected = f64::from(u8::from(i == j));
                assert!((dot(a, b) - expected).abs() < 1e-14);
            }
        }
    }
}
