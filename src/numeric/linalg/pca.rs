//! PCA, the baseline for models: in f64, through faer.

use std::ops::ControlFlow;

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatMut, MatRef, Par, Side};

/// Rows that are centered and multiplied at a time.
const BLOCK_ROWS: usize = 512;
/// Largest number of floating-point operations of a fit: about two seconds on one core.
const FIT_FLOPS_MAX: f64 = 1e11;
/// Largest matrix whose eigenvectors are computed.
const EIGEN_SIZE_MAX: usize = 2048;

/// The principal subspace of some rows: their mean, and the `k` orthonormal directions of largest variance.
#[derive(Clone, Debug)]
pub struct Pca {
    mean: Vec<f64>,
    /// (d, k)
    directions: Mat<f64>,
}

/// Rows of width d that can be read more than once.
pub trait RowsInTurn {
    /// Number of rows.
    fn rows(&self) -> usize;
    /// Width d.
    fn columns(&self) -> usize;
    /// Calls `found` with each row (d,) in order until it breaks. Also breaks if the rows cannot be read.
    fn each(&self, found: &mut dyn FnMut(&[f64]) -> ControlFlow<()>) -> ControlFlow<()>;
}

/// The number of rows, of `rows` rows of width `columns`, that a fit can afford; the caller samples that many.
pub fn affordable_rows(rows: usize, columns: usize) -> usize {
    let d = columns as f64;
    let by_covariance = if columns <= EIGEN_SIZE_MAX { (FIT_FLOPS_MAX / (2.0 * d * d)) as usize } else { 0 };
    // With fewer rows than columns, the Gram matrix of the rows is the smaller one.
    let by_gram = ((FIT_FLOPS_MAX / (2.0 * d)).sqrt() as usize).min(EIGEN_SIZE_MAX);
    rows.min(by_covariance.max(by_gram))
}

impl Pca {
    /// Fits `k` directions (fewer if there are fewer rows or columns): covariance in f64, eigenvectors through faer.
    /// `None` if `go_on` or `source` breaks, or if the eigenvectors do not converge.
    ///
    /// # Panics
    /// If there are no rows.
    pub fn fit(source: &dyn RowsInTurn, k: usize, go_on: &mut dyn FnMut() -> ControlFlow<()>) -> Option<Self> {
        let (rows, columns) = (source.rows(), source.columns());
        assert!(rows > 0, "a mean needs rows");
        let mut mean = vec![0.0; columns];
        let read = source.each(&mut |row| {
            mean.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
            ControlFlow::Continue(())
        });
        if read.is_break() {
            return None;
        }
        mean.iter_mut().for_each(|sum| *sum /= rows as f64);
        let k = k.min(columns).min(rows);
        let directions =
            if rows < columns { by_gram(source, &mean, k, go_on)? } else { by_covariance(source, &mean, k, go_on)? };
        Some(Self { mean, directions })
    }

    /// Restores a fit from [`Pca::mean`] and [`Pca::directions`].
    ///
    /// # Panics
    /// If the directions are not a whole number of columns as long as the mean.
    pub fn from_parts(mean: Vec<f64>, directions: &[f64]) -> Self {
        let columns = mean.len();
        assert!(directions.len().is_multiple_of(columns), "whole directions");
        let directions = MatRef::from_column_major_slice(directions, columns, directions.len() / columns).to_owned();
        Self { mean, directions }
    }

    /// The mean (d,) of the rows that the fit used.
    pub fn mean(&self) -> &[f64] {
        &self.mean
    }

    /// The k orthonormal directions, one after another, each (d,), in ascending order of variance. A direction without
    /// variance may be zero.
    pub fn directions(&self) -> Vec<f64> {
        self.directions.col_iter().flat_map(|column| column.iter().copied()).collect()
    }

    /// Projects each row of `source` and calls `residual(x - mean, x - x̂)` in order.
    pub fn residuals(&self, source: &dyn RowsInTurn, mut residual: impl FnMut(&[f64], &[f64])) {
        let columns = source.columns();
        let (mut centered, mut left) = (vec![0.0; columns], vec![0.0; columns]);
        blocks(source, &self.mean, |_, block| {
            // (n, d)·(d, k)·(k, d)
            let projected = block * &self.directions;
            let back = &projected * self.directions.transpose();
            for row in 0..block.nrows() {
                for column in 0..columns {
                    centered[column] = block[(row, column)];
                    left[column] = block[(row, column)] - back[(row, column)];
                }
                residual(&centered, &left);
            }
            ControlFlow::Continue(())
        });
    }
}

/// Calls `work(first row, centered block)` block by block. False if `work` or the source breaks.
fn blocks(
    source: &dyn RowsInTurn,
    mean: &[f64],
    mut work: impl FnMut(usize, MatRef<'_, f64>) -> ControlFlow<()>,
) -> bool {
    let columns = source.columns();
    let mut values = Vec::with_capacity(BLOCK_ROWS.min(source.rows()) * columns);
    let mut first = 0;
    let mut flush = |values: &mut Vec<f64>| {
        let rows = values.len() / columns;
        let said = work(first, MatRef::from_row_major_slice(values, rows, columns));
        first += rows;
        values.clear();
        said
    };
    let read = source.each(&mut |row| {
        values.extend(row.iter().zip(mean).map(|(value, mean)| value - mean));
        if values.len() == BLOCK_ROWS * columns { flush(&mut values) } else { ControlFlow::Continue(()) }
    });
    read.is_continue() && (values.is_empty() || flush(&mut values).is_continue())
}

/// Eigenvectors of the covariance (d, d).
fn by_covariance(
    source: &dyn RowsInTurn,
    mean: &[f64],
    k: usize,
    go_on: &mut dyn FnMut() -> ControlFlow<()>,
) -> Option<Mat<f64>> {
    let columns = source.columns();
    let mut covariance = Mat::<f64>::zeros(columns, columns);
    let whole = blocks(source, mean, |_, block| {
        matmul(covariance.as_mut(), Accum::Add, block.transpose(), block, 1.0, Par::Seq);
        go_on()
    });
    if !whole {
        return None;
    }
    let vectors = covariance.self_adjoint_eigen(Side::Lower).ok()?;
    // The eigenvalues ascend: take the last k.
    Some(vectors.U().subcols(columns - k, k).to_owned())
}

/// The same from the Gram matrix (n, n), for fewer rows than columns: if G u = λ u then Xᵀu / √λ is a direction.
fn by_gram(
    source: &dyn RowsInTurn,
    mean: &[f64],
    k: usize,
    go_on: &mut dyn FnMut() -> ControlFlow<()>,
) -> Option<Mat<f64>> {
    let (rows, columns) = (source.rows(), source.columns());
    let mut centered = Mat::<f64>::zeros(rows, columns);
    let whole = blocks(source, mean, |first, block| {
        centered.as_mut().subrows_mut(first, block.nrows()).copy_from(block);
        go_on()
    });
    if !whole {
        return None;
    }
    let mut gram = Mat::<f64>::zeros(rows, rows);
    matmul(gram.as_mut(), Accum::Replace, centered.as_ref(), centered.as_ref().transpose(), 1.0, Par::Seq);
    let eigen = gram.self_adjoint_eigen(Side::Lower).ok()?;
    let largest = eigen.S()[rows - 1].max(0.0);
    let mut directions = Mat::<f64>::zeros(columns, k);
    for j in 0..k {
        let value = eigen.S()[rows - k + j];
        // Directions without variance stay zero: a projection on them is zero.
        if value > largest * 1e-12 && value > 0.0 {
            let u = eigen.U().col(rows - k + j);
            let direction = MatMut::from_column_major_slice_mut(
                directions.as_mut().col_mut(j).try_as_col_major_mut()?.as_slice_mut(),
                columns,
                1,
            );
            matmul(direction, Accum::Replace, centered.as_ref().transpose(), u.as_mat(), 1.0 / value.sqrt(), Par::Seq);
        }
    }
    Some(directions)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numeric::rng::{Stream, Use};

    struct Table {
        values: Vec<f64>,
        columns: usize,
    }

    impl RowsInTurn for Table {
        fn rows(&self) -> usize {
            self.values.len() / self.columns
        }
        fn columns(&self) -> usize {
            self.columns
        }
        fn each(&self, found: &mut dyn FnMut(&[f64]) -> ControlFlow<()>) -> ControlFlow<()> {
            self.values.chunks_exact(self.columns).try_for_each(found)
        }
    }

    /// Rows on a plane of `k` dimensions in `columns` dimensions, away from the origin, with a little noise.
    fn plane(rows: usize, columns: usize, k: usize, noise: f64) -> Table {
        let mut stream = Stream::new(1, 0, 0, Use::Weights);
        let basis: Vec<f64> = (0..k * columns).map(|_| stream.normal()).collect();
        let mut values = Vec::new();
        for _ in 0..rows {
            let z: Vec<f64> = (0..k).map(|_| stream.normal()).collect();
            for j in 0..columns {
                let on_plane: f64 = (0..k).map(|i| z[i] * basis[i * columns + j]).sum();
                values.push(5.0 + on_plane + noise * stream.normal());
            }
        }
        Table { values, columns }
    }

    fn mean_residual(pca: &Pca, table: &Table) -> f64 {
        let mut sum = 0.0;
        pca.residuals(table, |_, left| sum += left.iter().map(|v| v * v).sum::<f64>());
        sum / table.rows() as f64
    }

    #[track_caller]
    fn fitted(table: &Table, k: usize) -> Pca {
        Pca::fit(table, k, &mut || ControlFlow::Continue(())).expect("goes on")
    }

    #[test]
    fn rank_three_rows_need_three_directions() {
        for (rows, columns) in [(700, 9), (7, 40)] {
            let table = plane(rows, columns, 3, 0.0);
            assert!(mean_residual(&fitted(&table, 3), &table) < 1e-20, "{rows} x {columns}");
            assert!(mean_residual(&fitted(&table, 2), &table) > 1e-2, "{rows} x {columns}");
        }
    }

    #[test]
    fn covariance_and_gram_agree() {
        let wide = plane(30, 40, 5, 0.3);
        let by_gram = mean_residual(&fitted(&wide, 4), &wide);
        let mean = fitted(&wide, 4).mean().to_vec();
        let directions = by_covariance(&wide, &mean, 4, &mut || ControlFlow::Continue(())).expect("goes on");
        let by_covariance = mean_residual(&Pca { mean, directions }, &wide);
        assert!((by_gram - by_covariance).abs() < 1e-9 * by_covariance, "{by_gram} {by_covariance}");
    }

    #[test]
    fn excess_directions_reproduce_every_row() {
        let table = plane(4, 6, 2, 0.5);
        assert!(mean_residual(&fitted(&table, 6), &table) < 1e-20);
        let constant = Table { values: vec![2.0; 12], columns: 3 };
        assert!(mean_residual(&fitted(&constant, 2), &constant) < 1e-20);
    }

    #[test]
    fn a_fit_can_be_stopped() {
        let table = plane(50, 5, 2, 0.1);
        assert!(Pca::fit(&table, 2, &mut || ControlFlow::Break(())).is_none());
    }

    #[test]
    fn affordable_rows_shrink_with_the_width() {
        assert_eq!(affordable_rows(60_000, 784), 60_000);
        assert!(affordable_rows(1_000_000, 784) < 100_000);
        assert!(affordable_rows(1_000_000, 65_536) > 500);
        assert!(affordable_rows(1_000_000, 65_536) <= EIGEN_SIZE_MAX);
    }
}
