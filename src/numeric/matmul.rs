//! Every matrix product of the program.
//!
//! W is in memory once, in panels of 16 outputs ([`Weights`]). Activations are in panels of 16 rows ([`PanelMatrix`]).
//! Encode and decode read the same bytes. Callers spread rows or outputs over threads; no sum crosses threads.
//!
//! # Order
//! Each number of a result is one chain of fused multiply-adds, s ← fma(w, x, s) from s = 0, each rounded once:
//!
//! - [`Weights::encode`]: y\[n, o\] over the inputs i = 0, 1, 2, ...
//! - [`Weights::decode`]: y\[n, i\] over the outputs o = 0, 1, 2, ...
//! - [`Panel::replace`] and [`Panel::add`]: dW\[o, i\] over the rows n = 0, 1, 2, ...; `add` starts from the value that
//!   is there.
//!
//! The bias is added after the last step, and the activation is applied to that. So the bits of a row depend on the row
//! and W alone: not on the number of rows, its position, its neighbors, the threads or the instruction set. `kernels`
//! computes these chains in several ways; the tests compare each with a plain loop, bit for bit.

use super::floats::Floats;
use super::kernels::{self, Direction, Outer, PANEL, Product};
use super::{Activation, PanelMatrix, vectorized};

/// A weight matrix W of shape (outputs, inputs). Both directions of a tied layer read this one copy.
///
/// Memory layout: `[outputs / 16][inputs][16]`; the last panel is only as wide as the remaining outputs.
#[derive(Clone, Debug, PartialEq)]
pub struct Weights {
    values: Floats,
    outputs: usize,
    inputs: usize,
}

/// Panels whose distance is a multiple of this many floats map to the same cache sets. Decoding goes from panel to
/// panel, and would evict each panel before its next use.
const ALIASING_FLOATS: usize = 2048;
/// Such panels are moved apart by 16 cache lines, if that adds little memory.
const GAP_FLOATS: usize = PANEL * PANEL;
const GAP_INPUTS_MIN: usize = 512;

/// Floats from one panel to the next.
fn stride(inputs: usize) -> usize {
    let panel = PANEL * inputs;
    if inputs >= GAP_INPUTS_MIN && panel.is_multiple_of(ALIASING_FLOATS) { panel + GAP_FLOATS } else { panel }
}

/// Floats of all panels for `outputs` outputs, with the gaps between them.
fn length(outputs: usize, inputs: usize) -> usize {
    let (full, rest) = (outputs / PANEL, outputs % PANEL);
    let gap = stride(inputs) - PANEL * inputs;
    full * stride(inputs) + rest * inputs - if rest == 0 && full > 0 { gap } else { 0 }
}

impl Weights {
    /// All zeros.
    pub fn zeros(outputs: usize, inputs: usize) -> Self {
        Self { values: Floats::zeros(length(outputs, inputs)), outputs, inputs }
    }

    /// From row-major (outputs, inputs) values, the order of the model file.
    ///
    /// # Panics
    /// If there are not `outputs * inputs` values.
    pub fn from_row_major(outputs: usize, inputs: usize, values: &[f32]) -> Self {
        assert_eq!(values.len(), outputs * inputs, "outputs x inputs values");
        let mut weights = Self::zeros(outputs, inputs);
        let panels = weights.values.as_mut_slice().chunks_mut(stride(inputs).max(1));
        for (panel, rows) in panels.zip(values.chunks((PANEL * inputs).max(1))) {
            let width = rows.len() / inputs;
            for (o, row) in rows.chunks_exact(inputs).enumerate() {
                for (i, value) in row.iter().enumerate() {
                    panel[i * width + o] = *value;
                }
            }
        }
        weights
    }

    /// Rows of W.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Columns of W.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// W\[output, input\].
    ///
    /// # Panics
    /// If the indexes are out of range.
    pub fn at(&self, output: usize, input: usize) -> f32 {
        self.panels()[self.place(output, input)]
    }

    /// W\[output, input\], mutable.
    ///
    /// # Panics
    /// If the indexes are out of range.
    pub fn at_mut(&mut self, output: usize, input: usize) -> &mut f32 {
        let place = self.place(output, input);
        &mut self.panels_mut()[place]
    }

    fn place(&self, output: usize, input: usize) -> usize {
        assert!(output < self.outputs && input < self.inputs, "W[{output}, {input}] exists");
        let panel = output / PANEL;
        let width = PANEL.min(self.outputs - panel * PANEL);
        panel * stride(self.inputs) + input * width + output % PANEL
    }

    /// Copies the rows of W that belong to [`Panel`] `index` into `rows` (n, inputs), for products of W with itself.
    /// Returns the number of the first row.
    ///
    /// # Panics
    /// If there is no such panel.
    pub fn copy_block(&self, index: usize, rows: &mut PanelMatrix) -> usize {
        let first = index * PANEL_OUTPUTS;
        assert!(first < self.outputs, "a panel of the matrix");
        rows.reset(PANEL_OUTPUTS.min(self.outputs - first), self.inputs);
        // 16 outputs of W lie in memory as 16 rows of a batch do.
        let panels = self.panels()[index * panel_floats(self.inputs)..].chunks(stride(self.inputs));
        for (target, source) in rows.values_mut().chunks_mut(PANEL * self.inputs).zip(panels) {
            target.copy_from_slice(&source[..target.len()]);
        }
        first
    }

    /// A copy in row-major order, the order of the model file.
    pub fn to_row_major(&self) -> Vec<f32> {
        let rows = (0..self.outputs).flat_map(|o| (0..self.inputs).map(move |i| (o, i)));
        rows.map(|(o, i)| self.at(o, i)).collect()
    }

    /// The numbers in panel order, with the zeros in the gaps: for operations on every number.
    pub fn panels(&self) -> &[f32] {
        self.values.as_slice()
    }

    /// The numbers in panel order, mutable, for the optimizer. The zeros in the gaps must stay finite.
    pub fn panels_mut(&mut self) -> &mut [f32] {
        self.values.as_mut_slice()
    }

    /// `Y = X·Wᵀ`. Shapes: `x` (n, inputs) → `y` (n, outputs), which is overwritten.
    ///
    /// # Panics
    /// If the shapes disagree.
    pub fn encode(&self, x: &PanelMatrix, y: &mut PanelMatrix) {
        self.product(Direction::Encode, x, None, Activation::Linear, y);
    }

    /// `Y = f(X·Wᵀ + b)`. Shapes: `x` (n, inputs), `bias` (outputs,) → `y` (n, outputs), which is overwritten.
    ///
    /// # Panics
    /// If the shapes disagree.
    pub fn encode_layer(&self, x: &PanelMatrix, bias: &[f32], activation: Activation, y: &mut PanelMatrix) {
        self.product(Direction::Encode, x, Some(bias), activation, y);
    }

    /// `Y = X·W`. Shapes: `x` (n, outputs) → `y` (n, inputs), which is overwritten.
    ///
    /// # Panics
    /// If the shapes disagree.
    pub fn decode(&self, x: &PanelMatrix, y: &mut PanelMatrix) {
        self.product(Direction::Decode, x, None, Activation::Linear, y);
    }

    /// `Y = f(X·W + c)`. Shapes: `x` (n, outputs), `bias` (inputs,) → `y` (n, inputs), which is overwritten.
    ///
    /// # Panics
    /// If the shapes disagree.
    pub fn decode_layer(&self, x: &PanelMatrix, bias: &[f32], activation: Activation, y: &mut PanelMatrix) {
        self.product(Direction::Decode, x, Some(bias), activation, y);
    }

    fn product(
        &self,
        direction: Direction,
        x: &PanelMatrix,
        bias: Option<&[f32]>,
        activation: Activation,
        y: &mut PanelMatrix,
    ) {
        let (x_columns, y_columns) = match direction {
            Direction::Encode => (self.inputs, self.outputs),
            Direction::Decode => (self.outputs, self.inputs),
        };
        assert_eq!(x.columns(), x_columns, "X is as wide as W");
        y.reset(x.rows(), y_columns);
        kernels::product(&mut Product {
            direction,
            w: self.values.as_slice(),
            w_stride: stride(self.inputs),
            outputs: self.outputs,
            inputs: self.inputs,
            rows: x.rows(),
            x: x.values(),
            y: y.values_mut(),
            bias,
            activation,
        });
    }
}

/// Outputs of a [`Panel`].
const PANEL_OUTPUTS: usize = 128;

/// A block of outputs of the gradient of a matrix, in the layout of [`Weights::panels`].
#[derive(Debug)]
pub struct Panel<'a> {
    values: &'a mut [f32],
    first: usize,
    outputs: usize,
    inputs: usize,
}

/// Whether a matrix with that many inputs has gaps between its panels: floats that belong to no number of it.
pub fn has_gaps(inputs: usize) -> bool {
    stride(inputs) > PANEL * inputs
}

/// Floats of a [`Panel`] in the layout of [`Weights::panels`]; the last one of a matrix may have fewer.
pub fn panel_floats(inputs: usize) -> usize {
    (PANEL_OUTPUTS / PANEL * stride(inputs)).max(1)
}

/// How many [`Panel`]s a matrix with that many outputs has.
pub fn panel_count(outputs: usize) -> usize {
    outputs.div_ceil(PANEL_OUTPUTS)
}

/// Cuts the gradient of a matrix of shape (outputs, inputs), in the layout of [`Weights::panels`], into panels of
/// [`panel_floats`] for the threads. The cuts depend on the shape alone.
pub fn panels(values: &mut [f32], outputs: usize, inputs: usize) -> impl Iterator<Item = Panel<'_>> {
    let chunks = values.chunks_mut(panel_floats(inputs)).enumerate();
    chunks.map(move |(index, values)| Panel::new(values, index, outputs, inputs))
}

impl<'a> Panel<'a> {
    /// Panel `index` of a matrix of shape (outputs, inputs), over memory of its own with as many floats as the panel
    /// has.
    ///
    /// # Panics
    /// If there is no such panel.
    pub fn new(values: &'a mut [f32], index: usize, outputs: usize, inputs: usize) -> Self {
        let first = index * PANEL_OUTPUTS;
        assert!(first < outputs, "a panel of the matrix");
        Self { values, first, outputs, inputs }
    }

    /// Index of this panel in its matrix.
    pub fn index(&self) -> usize {
        self.first / PANEL_OUTPUTS
    }

    /// Its numbers, in the layout of [`Weights::panels`].
    pub fn values_mut(&mut self) -> &mut [f32] {
        self.values
    }

    /// `dW = Uᵀ·V` on this panel. Shapes: `u` (n, outputs), `v` (n, inputs).
    ///
    /// # Panics
    /// If the shapes disagree.
    pub fn replace(&mut self, u: &PanelMatrix, v: &PanelMatrix) {
        self.product(false, u, v);
    }

    /// `dW += Uᵀ·V` on this panel.
    ///
    /// # Panics
    /// If the shapes disagree.
    pub fn add(&mut self, u: &PanelMatrix, v: &PanelMatrix) {
        self.product(true, u, v);
    }

    /// `dW += factor·R` on this panel. Shape: `rows` (outputs of the panel, inputs).
    ///
    /// # Panics
    /// If the shapes disagree.
    pub fn add_rows(&mut self, factor: f32, rows: &PanelMatrix) {
        let count = PANEL_OUTPUTS.min(self.outputs - self.first);
        assert_eq!((rows.rows(), rows.columns()), (count, self.inputs), "a row for each output");
        let panels = self.values.chunks_mut(stride(self.inputs)).zip(rows.values().chunks(PANEL * self.inputs));
        for (target, source) in panels {
            vectorized(|| target.iter_mut().zip(source).for_each(|(sum, value)| *sum += factor * value));
        }
    }

    fn product(&mut self, add: bool, u: &PanelMatrix, v: &PanelMatrix) {
        assert_eq!(u.rows(), v.rows(), "as many rows in U as in V");
        kernels::outer(&mut Outer {
            w: self.values,
            w_stride: stride(self.inputs),
            count: PANEL_OUTPUTS.min(self.outputs - self.first),
            first: self.first,
            outputs: self.outputs,
            inputs: self.inputs,
            rows: u.rows(),
            u: u.values(),
            v: v.values(),
            add,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numeric::rng::{Stream, Use};

    fn random(rows: usize, columns: usize, seed: u64) -> Vec<f32> {
        let mut stream = Stream::new(seed, 0, 0, Use::Weights);
        (0..rows * columns).map(|_| stream.normal() as f32).collect()
    }

    fn lanes(rows: usize, columns: usize, row_major: &[f32]) -> PanelMatrix {
        let mut lanes = PanelMatrix::zeros(rows, columns);
        lanes.load(0, row_major);
        lanes
    }

    /// Shapes of W, with odd sizes.
    const SHAPES: [(usize, usize); 8] =
        [(7, 13), (1, 784), (100, 1), (3, 3000), (32, 64), (8, 32), (250, 500), (129, 301)];

    #[test]
    fn both_directions_agree_with_a_plain_loop() {
        for (outputs, inputs) in SHAPES {
            let w = Weights::from_row_major(outputs, inputs, &random(outputs, inputs, 1));
            let (x, c) = (random(5, inputs, 2), random(5, outputs, 3));
            let (mut y, mut z) = (PanelMatrix::default(), PanelMatrix::default());
            w.encode(&lanes(5, inputs, &x), &mut y);
            w.decode(&lanes(5, outputs, &c), &mut z);
            let weight = |o: usize, i: usize| f64::from(w.at(o, i));
            for row in 0..5 {
                for o in 0..outputs {
                    let expected: f64 = (0..inputs).map(|i| weight(o, i) * f64::from(x[row * inputs + i])).sum();
                    // f32 sums of `inputs` terms of size 1: the error grows like the square root of the number of
                    // roundings.
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
            let w = Weights::from_row_major(outputs, inputs, &random(outputs, inputs, 1));
            let (x, c) = (random(1, inputs, 2), random(1, outputs, 3));
            let (mut y, mut z) = (PanelMatrix::default(), PanelMatrix::default());
            w.encode(&lanes(1, inputs, &x), &mut y);
            w.decode(&lanes(1, outputs, &c), &mut z);
            for rows in (1..=50).chain([64, 80, 127, 128, 129, 256, 272]) {
                for position in [0, rows / 2, rows - 1] {
                    let mut batch = lanes(rows, inputs, &random(rows, inputs, rows as u64));
                    batch.load(position, &x);
                    let mut result = PanelMatrix::default();
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
    fn blocks_of_rows_are_copied_and_added() {
        // With a panel that is not full, and with gaps between panels.
        for (outputs, inputs) in [(300, 7), (128, 1024), (5, 3)] {
            let w = Weights::from_row_major(outputs, inputs, &random(outputs, inputs, 1));
            let (mut sum, mut rows, mut seen) = (w.clone(), PanelMatrix::default(), 0);
            for panel in panels(sum.panels_mut(), outputs, inputs) {
                let (index, mut panel) = (panel.index(), panel);
                assert_eq!(w.copy_block(index, &mut rows), seen);
                for row in 0..rows.rows() {
                    assert!((0..inputs).all(|i| rows.at(row, i) == w.at(seen + row, i)));
                }
                panel.add_rows(0.5, &rows);
                seen += rows.rows();
            }
            assert_eq!(seen, outputs);
            assert!((0..outputs).all(|o| (0..inputs).all(|i| sum.at(o, i) == 1.5 * w.at(o, i))));
        }
    }

    #[test]
    fn a_gradient_is_a_sum_over_rows() {
        for (outputs, inputs, rows) in [(6, 3, 20), (1, 1, 1), (130, 21, 16), (300, 515, 70), (16, 1024, 129)] {
            let (u, v) = (random(rows, outputs, 4), random(rows, inputs, 5));
            let (ul, vl) = (lanes(rows, outputs, &u), lanes(rows, inputs, &v));
            let mut gradient = Weights::zeros(outputs, inputs);
            for mut panel in panels(gradient.panels_mut(), outputs, inputs) {
                panel.replace(&ul, &vl);
                panel.add(&ul, &vl);
            }
            for o in 0..outputs {
                for i in 0..inputs {
                    let chain =
                        |from| (0..rows).fold(from, |sum, n| u[n * outputs + o].mul_add(v[n * inputs + i], sum));
                    assert_eq!(gradient.at(o, i).to_bits(), chain(chain(0.0f32)).to_bits(), "{outputs}x{inputs}");
                }
            }
        }
    }

    #[test]
    fn row_major_values_survive_a_round_trip() {
        for (outputs, inputs) in SHAPES.into_iter().chain([(17, 512), (48, 1024), (16, 2048), (33, 2048)]) {
            let values = random(outputs, inputs, 9);
            let w = Weights::from_row_major(outputs, inputs, &values);
            assert_eq!(w.to_row_major(), values);
            // The gaps are small.
            let floats = w.panels().len();
            assert!(floats as f64 <= 1.04 * values.len() as f64, "{outputs}x{inputs} takes {floats} floats");
        }
    }
}
