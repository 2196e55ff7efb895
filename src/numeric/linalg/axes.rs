//! Principal axes.

use faer::{MatRef, Side};

/// Eigenvalues of a symmetric matrix (n, n; row-major) in descending order, and the eigenvectors as rows of a rotation
/// (n, n; row-major). The number of largest magnitude in each eigenvector is positive. `None` if the computation does
/// not converge.
pub fn symmetric_axes(values: &[f64], n: usize) -> Option<(Vec<f64>, Vec<f64>)> {
    let eigen = MatRef::from_row_major_slice(values, n, n).self_adjoint_eigen(Side::Lower).ok()?;
    // faer returns them in ascending order.
    let eigenvalues: Vec<f64> = (0..n).rev().map(|j| eigen.S()[j]).collect();
    let mut axes = Vec::with_capacity(n * n);
    for j in (0..n).rev() {
        let axis: Vec<f64> = (0..n).map(|i| eigen.U()[(i, j)]).collect();
        let largest =
            axis.iter().copied().fold(0.0, |most: f64, value| if value.abs() > most.abs() { value } else { most });
        axes.extend(axis.iter().map(|value| value * largest.signum()));
    }
    axes.iter().chain(&eigenvalues).all(|value| value.is_finite()).then_some((eigenvalues, axes))
}

/// Eigenvalues of a symmetric matrix (n, n; row-major) in descending order. `None` if they do not converge.
pub fn symmetric_eigenvalues(values: &[f64], n: usize) -> Option<Vec<f64>> {
    let mut eigenvalues = MatRef::from_row_major_slice(values, n, n).self_adjoint_eigenvalues(Side::Lower).ok()?;
    eigenvalues.reverse();
    eigenvalues.iter().all(|value| value.is_finite()).then_some(eigenvalues)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_are_eigenvectors() {
        let values = [2.0, 1.0, 0.0, 1.0, 2.0, 0.5, 0.0, 0.5, 5.0];
        let (eigenvalues, axes) = symmetric_axes(&values, 3).expect("converges");
        let alone = symmetric_eigenvalues(&values, 3).expect("converges");
        assert!(alone.iter().zip(&eigenvalues).all(|(a, b)| (a - b).abs() < 1e-12), "{alone:?}");
        assert!(eigenvalues.is_sorted_by(|a, b| a >= b), "{eigenvalues:?}");
        for (eigenvalue, axis) in eigenvalues.iter().zip(axes.chunks_exact(3)) {
            for i in 0..3 {
                let product: f64 = (0..3).map(|j| values[i * 3 + j] * axis[j]).sum();
                assert!((product - eigenvalue * axis[i]).abs() < 1e-12);
            }
            assert!((axis.iter().map(|x| x * x).sum::<f64>() - 1.0).abs() < 1e-12);
            assert!(axis.iter().fold(0.0f64, |most, x| if x.abs() > most.abs() { *x } else { most }) > 0.0);
        }
    }
}
