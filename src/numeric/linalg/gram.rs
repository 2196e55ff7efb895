//! The Gram matrix of W: the distance of its rows from orthonormal, and the factor of its pseudo-inverse.

use faer::{MatRef, Side};

use super::dot;
use crate::numeric::matmul::Weights;
use crate::numeric::vectorized;

/// Columns of W that are multiplied at a time.
const BLOCK: usize = 256;

/// W·Wᵀ, or Wᵀ·W if W has more rows than columns: the smaller of the two. In f64, summed in one fixed order.
#[derive(Clone, Debug)]
pub struct Gram {
    /// Row-major (n, n).
    values: Vec<f64>,
    size: usize,
    of_rows: bool,
}

/// Distance of a Gram matrix G of n rows from the identity.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Defect {
    /// ‖G - I‖, the Frobenius norm.
    pub frobenius: f64,
    /// ‖G - I‖ / √n: the root mean square over the rows. Comparable between layers.
    pub per_row: f64,
    /// The largest |G - I| of all elements.
    pub largest: f64,
}

impl Gram {
    /// The Gram matrix of W: (outputs, outputs), or (inputs, inputs) if that is smaller.
    pub fn of(weights: &Weights) -> Self {
        let of_rows = weights.outputs() <= weights.inputs();
        let (size, length) =
            if of_rows { (weights.outputs(), weights.inputs()) } else { (weights.inputs(), weights.outputs()) };
        let at = |i: usize, j: usize| f64::from(if of_rows { weights.at(i, j) } else { weights.at(j, i) });
        let mut values = vec![0.0; size * size];
        let mut block = vec![0.0; size * BLOCK.min(length)];
        for first in (0..length).step_by(BLOCK) {
            let width = BLOCK.min(length - first);
            for i in 0..size {
                for j in 0..width {
                    block[i * width + j] = at(i, first + j);
                }
            }
            let block = &block[..size * width];
            vectorized(|| {
                for (i, a) in block.chunks_exact(width).enumerate() {
                    for (j, b) in block.chunks_exact(width).take(i + 1).enumerate() {
                        values[i * size + j] += dot(a, b);
                    }
                }
            });
        }
        for i in 0..size {
            for j in 0..i {
                values[j * size + i] = values[i * size + j];
            }
        }
        Self { values, size, of_rows }
    }

    /// n: the smaller side of W.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Whether it is W·Wᵀ, that is, W has at most as many outputs as inputs.
    pub fn is_of_rows(&self) -> bool {
        self.of_rows
    }

    /// Distance of W from orthonormal rows (from orthonormal columns, if it has more rows than columns).
    pub fn defect(&self) -> Defect {
        let (mut sum, mut largest) = (0.0, 0.0f64);
        for (place, value) in self.values.iter().enumerate() {
            let unit = f64::from(u8::from(place / self.size == place % self.size));
            sum += (value - unit) * (value - unit);
            largest = largest.max((value - unit).abs());
        }
        let frobenius = sum.sqrt();
        Defect { frobenius, per_row: frobenius / (self.size as f64).sqrt(), largest }
    }

    /// The singular values of W in descending order: the square roots of the eigenvalues. Values below about 1e-8 of
    /// the largest are noise. `None` if the eigenvalues do not converge.
    pub fn singular_values(&self) -> Option<Vec<f64>> {
        let gram = MatRef::from_row_major_slice(&self.values, self.size, self.size);
        let mut eigenvalues = gram.self_adjoint_eigenvalues(Side::Lower).ok()?;
        eigenvalues.reverse();
        Some(eigenvalues.into_iter().map(|value| value.max(0.0).sqrt()).collect())
    }

    /// M = L⁻¹ of the Cholesky factor L·Lᵀ = G + `ridge`·I: see [`inverse_factor`].
    pub fn inverse_factor(&self, ridge: f64) -> Option<Vec<f64>> {
        inverse_factor(&self.values, self.size, ridge)
    }
}

/// M = L⁻¹ of the Cholesky factor L·Lᵀ = G + `ridge`·I of a symmetric matrix G (n, n; row-major), so that MᵀM is its
/// inverse. M is row-major (n, n), lower triangular. `None` if the matrix is not positive definite.
///
/// Row by row with inner products (Golub and Van Loan 2013, 4.2), then forward substitution.
pub fn inverse_factor(values: &[f64], n: usize, ridge: f64) -> Option<Vec<f64>> {
    let mut factor = vec![0.0; n * n];
    for i in 0..n {
        let (done, rest) = factor.split_at_mut(i * n);
        let row = &mut rest[..n];
        let definite = vectorized(|| {
            for j in 0..i {
                let other = &done[j * n..][..=j];
                row[j] = (values[i * n + j] - dot(&row[..j], &other[..j])) / other[j];
            }
            let square = values[i * n + i] + ridge - dot(&row[..i], &row[..i]);
            row[i] = square.sqrt();
            square > 0.0 && square.is_finite()
        });
        if !definite {
            return None;
        }
    }
    // L·M = I. The columns of M are stored as rows here, so that the sums run over adjacent numbers.
    let mut turned = vec![0.0; n * n];
    for (j, column) in turned.chunks_exact_mut(n).enumerate() {
        vectorized(|| {
            for i in j..n {
                let row = &factor[i * n..][..=i];
                let unit = f64::from(u8::from(i == j));
                column[i] = (unit - dot(&row[j..i], &column[j..i])) / row[i];
            }
        });
    }
    for (i, row) in factor.chunks_exact_mut(n).enumerate() {
        row.iter_mut().enumerate().for_each(|(j, value)| *value = turned[j * n + i]);
    }
    Some(factor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numeric::linalg::orthonormalize_rows;
    use crate::numeric::rng::{Stream, Use};

    fn random(rows: usize, columns: usize) -> Vec<f64> {
        let mut stream = Stream::new(3, 0, 0, Use::Weights);
        (0..rows * columns).map(|_| stream.normal()).collect()
    }

    fn weights(outputs: usize, inputs: usize, values: &[f64]) -> Weights {
        Weights::from_row_major(outputs, inputs, &values.iter().map(|value| *value as f32).collect::<Vec<_>>())
    }

    #[test]
    fn the_gram_matrix_has_the_smaller_side() {
        for (outputs, inputs) in [(3, 700), (700, 3), (5, 5), (1, 1), (17, 40)] {
            let w = weights(outputs, inputs, &random(outputs, inputs));
            let gram = Gram::of(&w);
            assert_eq!((gram.size(), gram.is_of_rows()), (outputs.min(inputs), outputs <= inputs));
            for i in 0..gram.size() {
                for j in 0..gram.size() {
                    let product =
                        |k| if outputs <= inputs { (w.at(i, k), w.at(j, k)) } else { (w.at(k, i), w.at(k, j)) };
                    let expected: f64 =
                        (0..outputs.max(inputs)).map(product).map(|(a, b)| f64::from(a) * f64::from(b)).sum();
                    assert!(
                        (gram.values[i * gram.size() + j] - expected).abs() < 1e-9,
                        "{outputs}x{inputs} [{i}, {j}]"
                    );
                }
            }
        }
    }

    #[test]
    fn orthonormal_rows_have_no_defect() {
        let mut values = random(12, 30);
        orthonormalize_rows(&mut values, 30);
        let gram = Gram::of(&weights(12, 30, &values));
        assert!(gram.defect().largest < 1e-6, "{:?}", gram.defect());
        let ones = gram.singular_values().expect("converges");
        assert!(ones.len() == 12 && ones.iter().all(|value| (value - 1.0).abs() < 1e-6), "{ones:?}");
    }

    #[test]
    fn a_defect_is_a_distance_from_the_identity() {
        // G = diag(4, 1): it differs by 3 in one element.
        let gram = Gram::of(&weights(2, 3, &[2.0, 0.0, 0.0, 0.0, 1.0, 0.0]));
        let Defect { frobenius, per_row, largest } = gram.defect();
        assert_eq!((frobenius, largest), (3.0, 3.0));
        assert!((per_row - 3.0 / 2f64.sqrt()).abs() < 1e-15);
        assert_eq!(gram.singular_values().expect("converges"), [2.0, 1.0]);
    }

    #[test]
    fn the_factor_reproduces_the_inverse() {
        for (outputs, inputs) in [(9, 50), (50, 9), (1, 4), (33, 33)] {
            let gram = Gram::of(&weights(outputs, inputs, &random(outputs, inputs)));
            let (n, factor) = (gram.size(), gram.inverse_factor(0.0).expect("definite"));
            for i in 0..n {
                for j in 0..n {
                    // (MᵀM·G)[i, j]
                    let inverse = |k: usize| (0..n).map(|l| factor[l * n + i] * factor[l * n + k]).sum::<f64>();
                    let product: f64 = (0..n).map(|k| inverse(k) * gram.values[k * n + j]).sum();
                    let unit = f64::from(u8::from(i == j));
                    assert!((product - unit).abs() < 1e-6, "{outputs}x{inputs} [{i}, {j}]: {product}");
                    assert!(j <= i || factor[i * n + j] == 0.0, "lower triangular");
                }
            }
        }
    }

    #[test]
    fn a_singular_matrix_has_no_factor_without_a_ridge() {
        let gram = Gram::of(&weights(2, 3, &[1.0, 2.0, 3.0, 2.0, 4.0, 6.0]));
        assert!(gram.inverse_factor(0.0).is_none());
        assert!(gram.inverse_factor(1e-6).is_some());
        let values = gram.singular_values().expect("converges");
        assert!(values[1] < 1e-6 * values[0], "{values:?}");
    }
}
