//! Muon (Jordan et al. 2024): momentum whose matrices are made orthogonal, so that a step is as large in every direction.
//!
//! The orthogonal matrix U·Vᵀ nearest to U·S·Vᵀ is approached by Newton and Schulz's iteration with the quintic polynomial
//! X ← αX + β(XXᵀ)X + γ(XXᵀ)²X: 5 steps from ‖X‖ = 1 (Frobenius) bring all but the smallest singular values to between
//! 0.7 and 1.2, which is near enough.
//!
//! # Scale
//! A step is 0.2·√(max(outputs, inputs)) times that matrix (Liu et al. 2025, Moonlight), whose numbers then have a root mean
//! square near 0.2, as those of `AdamW` steps do: one learning rate serves both, here the matrices and the biases beside
//! them, and the rates chosen for `AdamW` fit. It is also the same for W and for Wᵀ, and a tied matrix is used as both;
//! Jordan's √(max(1, outputs / inputs)) would depend on which of the two is called the matrix.

use rayon::prelude::*;

use crate::numeric::Lanes;
use crate::numeric::matmul::{Side, Weights, panels};
use crate::numeric::update::{Nesterov, squared_norm};

/// The quintic polynomial of Jordan et al.: steep at 0, and not convergent at 1.
const POLYNOMIAL: (f32, f32, f32) = (3.4445, -4.7750, 2.0315);
const ITERATIONS: usize = 5;
/// Of the root mean square of a step's numbers.
const RMS: f32 = 0.2;
/// Rows that one thread multiplies at a time.
const BLOCK_ROWS: usize = 128;

/// The state of one matrix.
#[derive(Debug)]
pub(super) struct Muon {
    velocity: Weights,
    /// Room for the direction of a step.
    direction: Weights,
    /// Room for XᵀX on the smaller side.
    gram: Weights,
}

/// Some rows of X, the longer side of the matrix being its rows, and room for two products.
#[derive(Debug, Default)]
pub(super) struct Block {
    x: Lanes,
    y: Lanes,
    z: Lanes,
}

impl Muon {
    pub(super) fn new(outputs: usize, inputs: usize) -> Self {
        let small = outputs.min(inputs);
        let zeros = Weights::zeros(outputs, inputs);
        Self { velocity: zeros.clone(), direction: zeros, gram: Weights::zeros(small, small) }
    }

    /// In the layout of [`Weights::panels`].
    pub(super) fn velocity(&self) -> &[f32] {
        self.velocity.panels()
    }

    pub(super) fn velocity_mut(&mut self) -> &mut [f32] {
        self.velocity.panels_mut()
    }

    /// Moves the matrix `w` with gradient `g`, both in the layout of [`Weights::panels`]: u ← μu + g′, then against the
    /// orthogonal matrix near g′ + μu.
    pub(super) fn step(&mut self, step: Nesterov, w: &mut [f32], g: &[f32], blocks: &mut Vec<Block>, parallel: bool) {
        let Nesterov { scale, momentum, rate, decay } = step;
        let moved = self.velocity.panels_mut().iter_mut().zip(self.direction.panels_mut());
        for ((u, d), g) in moved.zip(g) {
            let g = scale * g;
            *u = momentum * *u + g;
            *d = g + momentum * *u;
        }
        orthogonalise(&mut self.direction, &mut self.gram, blocks, parallel);
        let size = RMS * (self.direction.outputs().max(self.direction.inputs()) as f32).sqrt();
        for (w, d) in w.iter_mut().zip(self.direction.panels()) {
            *w -= rate * (size * d + decay * *w);
        }
    }
}

/// A shorter direction is rounding: to make more of it would leave the numbers.
const NORM_MIN: f64 = 1e-30;

/// Makes `w` near orthogonal; zeros, and what is hardly more, stay. `gram` is square, of the smaller side.
///
/// With X (n, m) the matrix or its transpose, n ≥ m, the polynomial is X ← αX + (βX + γXG)G, G = XᵀX: all products are the
/// fixed-order ones, cut by the shape alone.
fn orthogonalise(w: &mut Weights, gram: &mut Weights, blocks: &mut Vec<Block>, parallel: bool) {
    let (outputs, inputs) = (w.outputs(), w.inputs());
    let (side, rows, columns) =
        if outputs >= inputs { (Side::Outputs, outputs, inputs) } else { (Side::Inputs, inputs, outputs) };
    let norm = squared_norm(w.panels(), parallel).sqrt();
    if norm < NORM_MIN {
        return;
    }
    let shrink = (1.0 / norm) as f32;
    w.panels_mut().iter_mut().for_each(|value| *value *= shrink);
    let used = rows.div_ceil(BLOCK_ROWS);
    if blocks.len() < used {
        blocks.resize_with(used, Block::default);
    }
    let blocks = &mut blocks[..used];
    for (i, block) in blocks.iter_mut().enumerate() {
        let first = i * BLOCK_ROWS;
        block.x.reset(BLOCK_ROWS.min(rows - first), columns);
        w.read(side, first, &mut block.x);
    }
    let (alpha, beta, gamma) = POLYNOMIAL;
    for _ in 0..ITERATIONS {
        let mut parts: Vec<_> = panels(gram.panels_mut(), columns, columns).collect();
        for_each(&mut parts, parallel, |part| {
            for (i, Block { x, .. }) in blocks.iter().enumerate() {
                if i == 0 { part.replace(x, x) } else { part.add(x, x) }
            }
        });
        let gram = &*gram;
        for_each(blocks, parallel, |Block { x, y, z }| {
            // (n, m)·(m, m): G is its own transpose.
            gram.encode(x, y);
            y.values_mut().iter_mut().zip(x.values()).for_each(|(y, x)| *y = beta * x + gamma * *y);
            gram.encode(y, z);
            x.values_mut().iter_mut().zip(z.values()).for_each(|(x, z)| *x = alpha * *x + z);
        });
    }
    for (i, block) in blocks.iter().enumerate() {
        w.write(side, i * BLOCK_ROWS, &block.x);
    }
}

fn for_each<T: Send>(items: &mut [T], parallel: bool, work: impl Fn(&mut T) + Sync + Send) {
    if parallel {
        items.par_iter_mut().for_each(work);
    } else {
        items.iter_mut().for_each(work);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numeric::Isa;
    use crate::numeric::kernels::on;
    use crate::numeric::rng::{Stream, Use};

    fn random(outputs: usize, inputs: usize) -> Vec<f32> {
        let mut stream = Stream::new(1, 0, 0, Use::Weights);
        (0..outputs * inputs).map(|_| stream.normal() as f32).collect()
    }

    fn orthogonal(outputs: usize, inputs: usize, values: &[f32], parallel: bool) -> Vec<f32> {
        let mut w = Weights::from_row_major(outputs, inputs, values);
        let small = outputs.min(inputs);
        orthogonalise(&mut w, &mut Weights::zeros(small, small), &mut Vec::new(), parallel);
        w.to_row_major()
    }

    /// The iteration in f64, plain loops, X (n, m).
    fn reference(n: usize, m: usize, values: &[f32]) -> Vec<f64> {
        let mut x: Vec<f64> = values.iter().map(|value| f64::from(*value)).collect();
        let norm = x.iter().map(|value| value * value).sum::<f64>().sqrt();
        x.iter_mut().for_each(|value| *value /= norm);
        let product = |x: &[f64], g: &[f64]| -> Vec<f64> {
            (0..n * m).map(|at| (0..m).map(|k| x[at / m * m + k] * g[k * m + at % m]).sum()).collect()
        };
        let (alpha, beta, gamma) = (3.4445, -4.7750, 2.0315);
        for _ in 0..ITERATIONS {
            let g: Vec<f64> =
                (0..m * m).map(|at| (0..n).map(|row| x[row * m + at / m] * x[row * m + at % m]).sum()).collect();
            let once = product(&x, &g);
            let inner: Vec<f64> = x.iter().zip(&once).map(|(x, y)| beta * x + gamma * y).collect();
            let twice = product(&inner, &g);
            x.iter_mut().zip(twice).for_each(|(x, z)| *x = alpha * *x + z);
        }
        x
    }

    #[test]
    fn it_is_the_iteration_of_the_paper() {
        for (outputs, inputs) in [(40, 17), (150, 130), (33, 33), (5, 1)] {
            let values = random(outputs, inputs);
            let expected = reference(outputs, inputs, &values);
            for (got, expected) in orthogonal(outputs, inputs, &values, false).iter().zip(&expected) {
                // Five steps of sums of 150 roundings, and the polynomial multiplies errors by 3.4 a step.
                assert!((f64::from(*got) - expected).abs() < 2e-3, "{got} {expected} of {outputs}x{inputs}");
            }
        }
    }

    #[test]
    fn a_transpose_gives_the_transpose() {
        for (outputs, inputs) in [(40, 17), (150, 130), (300, 600)] {
            let values = random(outputs, inputs);
            let turned: Vec<f32> =
                (0..inputs * outputs).map(|at| values[at % outputs * inputs + at / outputs]).collect();
            let (a, b) = (orthogonal(outputs, inputs, &values, false), orthogonal(inputs, outputs, &turned, false));
            for (at, value) in b.iter().enumerate() {
                let other = a[at % outputs * inputs + at / outputs];
                assert!((value - other).abs() < 1e-4, "{value} {other}");
            }
        }
    }

    /// In every direction nearly as long: |xᵀW|² of random unit x is a mean of squared singular values.
    #[test]
    fn steps_are_as_large_in_every_direction() {
        let (outputs, inputs) = (60, 200);
        // Directions of very different size.
        let mut values = random(outputs, inputs);
        for (o, row) in values.chunks_exact_mut(inputs).enumerate() {
            row.iter_mut().for_each(|value| *value *= 1.0 + 9.0 * (o as f32 / 60.0));
        }
        let w = orthogonal(outputs, inputs, &values, false);
        for row in w.chunks_exact(inputs) {
            let square: f64 = row.iter().map(|value| f64::from(*value).powi(2)).sum();
            assert!((0.45..1.45).contains(&square), "{square}");
        }
    }

    #[test]
    fn it_has_the_same_bits_on_any_number_of_threads_and_path() {
        for (outputs, inputs) in [(300, 140), (30, 250), (512, 600)] {
            let values = random(outputs, inputs);
            let once = orthogonal(outputs, inputs, &values, false);
            let same = |other: Vec<f32>| other.iter().zip(&once).all(|(a, b)| a.to_bits() == b.to_bits());
            for isa in Isa::available().filter(|isa| *isa != Isa::Portable || outputs * inputs < 10_000) {
                assert!(same(on(isa, || orthogonal(outputs, inputs, &values, false))), "{isa}");
            }
            for threads in [1, 2, 5] {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
                assert!(same(pool.install(|| orthogonal(outputs, inputs, &values, true))), "{threads} threads");
            }
        }
    }

    #[test]
    fn without_a_gradient_only_decay_moves() {
        let mut muon = Muon::new(4, 6);
        let mut w = vec![2.0; 24];
        let step = Nesterov { scale: 1.0, momentum: 0.95, rate: 0.1, decay: 0.5 };
        muon.step(step, &mut w, &[0.0; 24], &mut Vec::new(), false);
        assert!(w.iter().all(|w| (w - 1.9).abs() < 1e-6), "{w:?}");
    }
}
