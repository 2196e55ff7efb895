//! Every matrix product of the program.
//!
//! Activations are column-major and padded to a multiple of 16 rows ([`Lanes`]), W is row-major (outputs, inputs), and
//! one copy of it serves both directions. The products go through faer, single-threaded: callers spread rows or outputs
//! over threads, and nothing is ever added across threads.
//!
//! # Order
//! Each number of a result is a sum over the reduction index whose order depends on the shape of W alone: not on the
//! number of rows (any multiple of 16), nor on a row's position or neighbours. So a row has the same bits in every
//! batch; the test `a_row_has_the_same_bits_in_every_batch` prints any size for which it has not.

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};

use super::Lanes;

/// A weight matrix W of shape (outputs, inputs). Both directions of a tied layer read this one copy.
#[derive(Clone, Debug, PartialEq)]
pub struct Weights {
    values: Vec<f32>,
    outputs: usize,
    inputs: usize,
}

impl Weights {
    /// From row-major (outputs, inputs) values.
    ///
    /// # Panics
    /// If there are not `outputs * inputs` of them.
    pub fn from_row_major(outputs: usize, inputs: usize, values: Vec<f32>) -> Self {
        assert_eq!(values.len(), outputs * inputs, "outputs x inputs values");
        Self { values, outputs, inputs }
    }

    /// Rows of W.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Columns of W.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// W in row-major order, as the file holds it.
    pub fn row_major(&self) -> &[f32] {
        &self.values
    }

    /// The same, for the optimiser.
    pub fn row_major_mut(&mut self) -> &mut [f32] {
        &mut self.values
    }

    /// `Y = X·Wᵀ`. Shapes: `x` (n, inputs) → `y` (n, outputs), which is overwritten.
    ///
    /// # Panics
    /// If the shapes disagree.
    pub fn encode(&self, x: &Lanes, y: &mut Lanes) {
        assert_eq!(x.columns(), self.inputs, "X has one column per input of W");
        y.reset(x.rows(), self.outputs);
        matmul(columns_mut(y), Accum::Replace, columns(x), self.matrix().transpose(), 1.0, Par::Seq);
    }

    /// `Y = X·W`. Shapes: `x` (n, outputs) → `y` (n, inputs), which is overwritten.
    ///
    /// # Panics
    /// If the shapes disagree.
    pub fn decode(&self, x: &Lanes, y: &mut Lanes) {
        assert_eq!(x.columns(), self.outputs, "X has one column per output of W");
        y.reset(x.rows(), self.inputs);
        matmul(columns_mut(y), Accum::Replace, columns(x), self.matrix(), 1.0, Par::Seq);
    }

    fn matrix(&self) -> MatRef<'_, f32> {
        MatRef::from_row_major_slice(&self.values, self.outputs, self.inputs)
    }
}

/// A panel of outputs of a gradient: rows `first..first + count` of a matrix of the shape of W, row-major.
#[derive(Debug)]
pub struct Panel<'a> {
    /// (count, inputs), row-major.
    pub values: &'a mut [f32],
    /// First output.
    pub first: usize,
    /// Number of inputs.
    pub inputs: usize,
}

impl Panel<'_> {
    /// `dW = Uᵀ·V` on this panel. Shapes: `u` (n, outputs), `v` (n, inputs). Padding rows of `u` or of `v` must be zero.
    pub fn replace(&mut self, u: &Lanes, v: &Lanes) {
        self.product(Accum::Replace, u, v);
    }

    /// `dW += Uᵀ·V` on this panel.
    pub fn add(&mut self, u: &Lanes, v: &Lanes) {
        self.product(Accum::Add, u, v);
    }

    fn product(&mut self, accumulate: Accum, u: &Lanes, v: &Lanes) {
        assert_eq!(u.stride(), v.stride(), "as many rows in U as in V");
        assert_eq!(v.columns(), self.inputs, "V has one column per input");
        let count = self.values.len() / self.inputs;
        let u = columns(u).subcols(self.first, count);
        let target = MatMut::from_row_major_slice_mut(self.values, count, self.inputs);
        matmul(target, accumulate, u.transpose(), columns(v), 1.0, Par::Seq);
    }
}

/// The whole padded matrix, for faer.
fn columns(x: &Lanes) -> MatRef<'_, f32> {
    MatRef::from_column_major_slice(x.values(), x.stride(), x.columns())
}

fn columns_mut(x: &mut Lanes) -> MatMut<'_, f32> {
    let (stride, columns) = (x.stride(), x.columns());
    MatMut::from_column_major_slice_mut(x.values_mut(), stride, columns)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numeric::rng::{Stream, Use};

    fn random(rows: usize, columns: usize, seed: u64) -> Vec<f32> {
        let mut stream = Stream::new(seed, 0, 0, Use::Weights);
        (0..rows * columns).map(|_| stream.normal() as f32).collect()
    }

    fn lanes(rows: usize, columns: usize, row_major: &[f32]) -> Lanes {
        let mut lanes = Lanes::zeros(rows, columns);
        lanes.load(0, row_major);
        lanes
    }

    /// Shapes of W, odd ones among them.
    const SHAPES: [(usize, usize); 8] =
        [(7, 13), (1, 784), (100, 1), (3, 3000), (32, 64), (8, 32), (250, 500), (129, 301)];

    #[test]
    fn both_directions_agree_with_a_plain_loop() {
        for (outputs, inputs) in SHAPES {
            let w = Weights::from_row_major(outputs, inputs, random(outputs, inputs, 1));
            let (x, c) = (random(5, inputs, 2), random(5, outputs, 3));
            let (mut y, mut z) = (Lanes::default(), Lanes::default());
            w.encode(&lanes(5, inputs, &x), &mut y);
            w.decode(&lanes(5, outputs, &c), &mut z);
            let weight = |o: usize, i: usize| f64::from(w.row_major()[o * inputs + i]);
            for row in 0..5 {
                for o in 0..outputs {
                    let expected: f64 = (0..inputs).map(|i| weight(o, i) * f64::from(x[row * inputs + i])).sum();
                    // f32 sums of `inputs` terms of size 1: an error grows like sqrt(inputs) roundings.
                    let tolerance = 2e-6 * (inputs as f64).sqrt() * 4.0;
                    assert!((f64::from(y.at(row, o)) - expected).abs() < tolerance, "{outputs}x{inputs} encode");
                }
                for i in 0..inputs {
                    let expected: f64 = (0..outputs).map(|o| weight(o, i) * f64::from(c[row * outputs + o])).sum();
                    let tolerance = 2e-6 * (outputs as f64).sqrt() * 4.0;
                    assert!((f64::from(z.at(row, i)) - expected).abs() < tolerance, "{outputs}x{inputs} decode");
                }
            }
        }
    }

    #[test]
    fn a_row_has_the_same_bits_in_every_batch() {
        let mut failed = Vec::new();
        for (outputs, inputs) in SHAPES {
            let w = Weights::from_row_major(outputs, inputs, random(outputs, inputs, 1));
            let (x, c) = (random(1, inputs, 2), random(1, outputs, 3));
            let (mut y, mut z) = (Lanes::default(), Lanes::default());
            w.encode(&lanes(1, inputs, &x), &mut y);
            w.decode(&lanes(1, outputs, &c), &mut z);
            for rows in (1..=50).chain([64, 80, 127, 128, 129, 256, 272]) {
                for position in [0, rows / 2, rows - 1] {
                    let mut batch = lanes(rows, inputs, &random(rows, inputs, rows as u64));
                    batch.load(position, &x);
                    let mut result = Lanes::default();
                    w.encode(&batch, &mut result);
                    if (0..outputs).any(|o| result.at(position, o).to_bits() != y.at(0, o).to_bits()) {
                        failed.push(("encode", outputs, inputs, rows, position));
                    }
                    let mut batch = lanes(rows, outputs, &random(rows, outputs, rows as u64));
                    batch.load(position, &c);
                    w.decode(&batch, &mut result);
                    if (0..inputs).any(|i| result.at(position, i).to_bits() != z.at(0, i).to_bits()) {
                        failed.push(("decode", outputs, inputs, rows, position));
                    }
                }
            }
        }
        assert!(failed.is_empty(), "other bits in (direction, outputs, inputs, rows, position): {failed:?}");
    }

    #[test]
    fn a_gradient_panel_is_a_sum_over_rows() {
        let (u, v) = (random(20, 6, 4), random(20, 3, 5));
        let (ul, vl) = (lanes(20, 6, &u), lanes(20, 3, &v));
        let mut values = vec![f32::NAN; 2 * 3];
        let mut panel = Panel { values: &mut values, first: 4, inputs: 3 };
        panel.replace(&ul, &vl);
        panel.add(&ul, &vl);
        for o in 0..2 {
            for i in 0..3 {
                let expected: f32 = 2.0 * (0..20).map(|n| u[n * 6 + 4 + o] * v[n * 3 + i]).sum::<f32>();
                assert!((values[o * 3 + i] - expected).abs() < 1e-4);
            }
        }
    }
}
