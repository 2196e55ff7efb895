//! Keeps the rows of matrices orthonormal (the columns, if a matrix has more rows than columns): softly, by a term of
//! the loss, or exactly, by retraction. Both use one product,
//!
//! P(W) = (W·Wᵀ - I)·W = W·(Wᵀ·W - I).
//!
//! The form with the smaller Gram matrix G is computed by the kernels, block by block of rows of W, with the same bits
//! on any number of threads.
//!
//! - The term λ·‖G - I‖² (Frobenius), summed over all matrices, has the derivative 4λ·P(W).
//! - The Newton-Schulz steps W ← W - P(W)/2 keep the singular vectors and bring every singular value s between 0 and √3
//!   to 1, by s ← (3s - s³)/2. The limit is the nearest matrix with orthonormal rows, the orthogonal factor of the
//!   polar decomposition (Higham 2008, chapter 8).

use std::sync::Mutex;

use super::params::CheckedTrainSpec;
use super::shares::share_out_with;
use crate::model::Autoencoder;
use crate::numeric::PanelMatrix;
use crate::numeric::matmul::{self, Panel, Weights, panel_count};
use crate::numeric::update::squared_norm;

/// ‖G - I‖ below which no singular value is above √2: then each step brings all of them nearer to 1.
const NEAR: f64 = 1.0;
/// ‖G - I‖ / √n below which one more step reaches f32 precision, since each step squares it.
const LAST: f64 = 1e-4;
/// Largest number of steps. Each step grows small singular values by half: those 10,000 times smaller than the largest
/// reach 1. Singular values near 0 stay away from 1; then there is no nearest matrix.
const STEPS_MAX: u32 = 30;

/// The orthogonality term and the retraction; buffers are reused from step to step.
#[derive(Debug)]
pub(super) struct Orthogonality {
    /// λ; 0 means no term.
    strength: f32,
    /// Steps between retractions; 0 means none.
    every: u64,
    parallel: bool,
    /// P(W) of each layer.
    pulls: Vec<Pull>,
    /// One buffer per thread.
    rooms: Vec<Mutex<Scratch>>,
}

/// P(W).
#[derive(Debug, Default)]
struct Pull {
    blocks: Vec<Block>,
    /// Wᵀ·W - I, if W has more rows than columns.
    excess: Option<Weights>,
}

/// Rows of P(W), in the same blocks as the panels of the gradient.
#[derive(Debug, Default)]
struct Block {
    rows: PanelMatrix,
    /// The sum of squares of these rows of W·Wᵀ - I, if W has at most as many rows as columns.
    squares: f64,
}

/// A block of rows of W, and of W·Wᵀ - I.
#[derive(Debug, Default)]
struct Scratch {
    rows: PanelMatrix,
    excess: PanelMatrix,
}

impl Orthogonality {
    pub(super) fn new(spec: &CheckedTrainSpec, parallel: bool) -> Self {
        let strength = spec.regularization().orthogonality as f32;
        let every = u64::from(spec.spec().optimizer.retraction_steps);
        Self { strength, every, parallel, pulls: Vec::new(), rooms: Vec::new() }
    }

    /// Computes the derivatives that [`Orthogonality::add_slope`] adds, before the step changes W.
    pub(super) fn prepare(&mut self, model: &Autoencoder) {
        if self.strength == 0.0 {
            return;
        }
        self.pulls.resize_with(model.layers().len(), Pull::default);
        for (pull, layer) in self.pulls.iter_mut().zip(model.layers()) {
            pull.compute(&layer.weight, &mut self.rooms, self.parallel);
        }
    }

    /// Adds the derivative of the term to a panel of the gradient of the matrix of layer `l`.
    pub(super) fn add_slope(&self, l: usize, panel: &mut Panel<'_>) {
        if self.strength > 0.0 {
            let index = panel.index();
            panel.add_rows(4.0 * self.strength, &self.pulls[l].blocks[index].rows);
        }
    }

    /// Whether to retract after `steps_done` steps.
    pub(super) fn is_due(&self, steps_done: u64) -> bool {
        self.every > 0 && steps_done.is_multiple_of(self.every)
    }

    /// Whether to retract at the end of an epoch, after `steps_done` steps, so that the measured and published matrices
    /// are orthonormal. Not if the last step has just retracted.
    pub(super) fn is_due_at_end(&self, steps_done: u64) -> bool {
        self.every > 0 && !self.is_due(steps_done)
    }

    /// Replaces every matrix by the nearest one with orthonormal rows (columns, if it has more rows than columns). A
    /// matrix whose Gram matrix is not finite stays unchanged.
    pub(super) fn retract(&mut self, model: &mut Autoencoder) {
        self.pulls.resize_with(model.layers().len(), Pull::default);
        for (pull, layer) in self.pulls.iter_mut().zip(model.layers_mut()) {
            pull.retract(&mut layer.weight, &mut self.rooms, self.parallel);
        }
    }
}

impl Pull {
    /// Brings every singular value of W to 1.
    fn retract(&mut self, weights: &mut Weights, rooms: &mut Vec<Mutex<Scratch>>, parallel: bool) {
        let mut defect = self.compute(weights, rooms, parallel);
        if !defect.is_finite() {
            return;
        }
        if defect > NEAR {
            // No eigenvalue of G exceeds 1 + ‖G - I‖, so after scaling no singular value exceeds 1.
            let scale = (1.0 / (1.0 + defect)).sqrt() as f32;
            weights.panels_mut().iter_mut().for_each(|w| *w *= scale);
            defect = self.compute(weights, rooms, parallel);
        }
        let last = LAST * (weights.outputs().min(weights.inputs()) as f64).sqrt();
        for _ in 0..STEPS_MAX {
            let (outputs, inputs) = (weights.outputs(), weights.inputs());
            for (mut panel, block) in matmul::panels(weights.panels_mut(), outputs, inputs).zip(&self.blocks) {
                panel.add_rows(-0.5, &block.rows);
            }
            if defect < last {
                break;
            }
            defect = self.compute(weights, rooms, parallel);
        }
    }

    /// Computes P(W); returns ‖G - I‖, Frobenius.
    fn compute(&mut self, weights: &Weights, rooms: &mut Vec<Mutex<Scratch>>, parallel: bool) -> f64 {
        self.blocks.resize_with(panel_count(weights.outputs()), Block::default);
        if weights.outputs() <= weights.inputs() {
            self.by_rows(weights, rooms, parallel);
            self.blocks.iter().map(|block| block.squares).sum::<f64>().sqrt()
        } else {
            self.by_columns(weights, rooms, parallel);
            self.excess.as_ref().map_or(0.0, |excess| squared_norm(excess.panels(), parallel).sqrt())
        }
    }

    /// (W·Wᵀ - I)·W.
    fn by_rows(&mut self, weights: &Weights, rooms: &mut Vec<Mutex<Scratch>>, parallel: bool) {
        let work = |room: &mut Scratch, (index, block): (usize, &mut Block)| {
            let first = weights.copy_block(index, &mut room.rows);
            weights.encode(&room.rows, &mut room.excess);
            (0..room.rows.rows()).for_each(|row| *room.excess.at_mut(row, first + row) -= 1.0);
            block.squares = squared_norm(room.excess.values(), false);
            weights.decode(&room.excess, &mut block.rows);
        };
        share_out_with(rooms, self.blocks.iter_mut().enumerate().collect(), parallel, |_| 1, work);
    }

    /// W·(Wᵀ·W - I).
    fn by_columns(&mut self, weights: &Weights, rooms: &mut Vec<Mutex<Scratch>>, parallel: bool) {
        let (count, inputs) = (self.blocks.len(), weights.inputs());
        let excess = self.excess.get_or_insert_with(|| Weights::zeros(inputs, inputs));
        let work = |room: &mut Scratch, mut panel: Panel<'_>| {
            for index in 0..count {
                weights.copy_block(index, &mut room.rows);
                if index == 0 {
                    panel.replace(&room.rows, &room.rows);
                } else {
                    panel.add(&room.rows, &room.rows);
                }
            }
        };
        let panels = matmul::panels(excess.panels_mut(), inputs, inputs).collect();
        share_out_with(rooms, panels, parallel, |_| 1, work);
        (0..inputs).for_each(|i| *excess.at_mut(i, i) -= 1.0);
        let excess = &*excess;
        let work = |room: &mut Scratch, (index, block): (usize, &mut Block)| {
            weights.copy_block(index, &mut room.rows);
            // The matrix is symmetric, so encode equals decode.
            excess.encode(&room.rows, &mut block.rows);
        };
        share_out_with(rooms, self.blocks.iter_mut().enumerate().collect(), parallel, |_| 1, work);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numeric::linalg::{Gram, orthonormalize_rows};
    use crate::numeric::rng::{Stream, Use};

    fn random(outputs: usize, inputs: usize, size: f64) -> Weights {
        let mut stream = Stream::new(6, 0, 0, Use::Weights);
        let values: Vec<f32> = (0..outputs * inputs).map(|_| (size * stream.normal()) as f32).collect();
        Weights::from_row_major(outputs, inputs, &values)
    }

    /// ‖G - I‖² from its definition; `w` is row-major.
    fn term(w: &[f64], outputs: usize, inputs: usize) -> f64 {
        let size = outputs.min(inputs);
        let at = |o: usize, i: usize| w[o * inputs + i];
        let gram = |a: usize, b: usize| -> f64 {
            if outputs <= inputs {
                (0..inputs).map(|i| at(a, i) * at(b, i)).sum()
            } else {
                (0..outputs).map(|o| at(o, a) * at(o, b)).sum()
            }
        };
        let places = (0..size).flat_map(|a| (0..size).map(move |b| (a, b)));
        places.map(|(a, b)| (gram(a, b) - f64::from(u8::from(a == b))).powi(2)).sum()
    }

    /// The tolerance is that of the tests of the gradient.
    #[test]
    fn the_slope_matches_finite_differences() {
        for (outputs, inputs) in [(3, 7), (7, 3), (5, 5), (1, 4), (130, 2)] {
            let w = random(outputs, inputs, 0.5);
            let mut pull = Pull::default();
            pull.compute(&w, &mut Vec::new(), false);
            let mut slope = Weights::zeros(outputs, inputs);
            matmul::panels(slope.panels_mut(), outputs, inputs).for_each(|mut panel| {
                let index = panel.index();
                panel.add_rows(4.0, &pull.blocks[index].rows);
            });
            let mut plain: Vec<f64> = w.to_row_major().into_iter().map(f64::from).collect();
            let mut differences = Vec::new();
            for place in 0..plain.len() {
                let middle = plain[place];
                let mut at = |value| {
                    plain[place] = value;
                    term(&plain, outputs, inputs)
                };
                differences.push((at(middle + 1e-5) - at(middle - 1e-5)) / 2e-5);
                plain[place] = middle;
            }
            let largest = differences.iter().fold(0.0, |most: f64, value| most.max(value.abs()));
            for (place, (got, expected)) in slope.to_row_major().into_iter().zip(differences).enumerate() {
                let error = (f64::from(got) - expected).abs();
                assert!(error < 1e-4 * largest, "{outputs}x{inputs} [{place}]: {got}, expected {expected}");
            }
        }
    }

    #[test]
    fn any_number_of_threads_gives_the_same_bits() {
        for (outputs, inputs) in [(300, 520), (520, 300)] {
            let w = random(outputs, inputs, 0.05);
            let of = |threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
                let mut pull = Pull::default();
                pool.install(|| pull.compute(&w, &mut Vec::new(), true));
                pull.blocks.iter().flat_map(|block| block.rows.values().iter().map(|x| x.to_bits())).collect::<Vec<_>>()
            };
            let one = of(1);
            assert!(one == of(2) && one == of(3), "{outputs}x{inputs}");
        }
    }

    /// W = U·diag(s)·Vᵀ, of which U·Vᵀ is the nearest.
    #[test]
    fn a_retraction_finds_the_nearest_orthonormal_matrix() {
        for (outputs, inputs) in [(6, 40), (40, 6), (9, 9), (1, 5), (5, 1), (150, 170)] {
            let size = outputs.min(inputs);
            let axes = |rows: usize, seed| {
                let mut stream = Stream::new(seed, 0, 0, Use::Weights);
                let mut values: Vec<f64> = (0..size * rows).map(|_| stream.normal()).collect();
                orthonormalize_rows(&mut values, rows);
                values
            };
            let (u, v) = (axes(outputs, 1), axes(inputs, 2));
            let product = |scale: &dyn Fn(usize) -> f64| {
                let places = (0..outputs).flat_map(|o| (0..inputs).map(move |i| (o, i)));
                let at =
                    |(o, i)| (0..size).map(|k| scale(k) * u[k * outputs + o] * v[k * inputs + i]).sum::<f64>() as f32;
                Weights::from_row_major(outputs, inputs, &places.map(at).collect::<Vec<_>>())
            };
            let nearest = product(&|_| 1.0);
            // As after some steps, as after He initialization, and far away.
            let scales: [&dyn Fn(usize) -> f64; 4] = [
                &|k| 1.0 + 0.1 * (k % 3) as f64,
                &|k| 0.2 + 2.0 * k as f64 / size as f64,
                &|k| 1e2 / (1.0 + (k % 10) as f64).powi(2),
                &|_| 1e-3,
            ];
            for (i, scale) in scales.iter().enumerate() {
                let mut w = product(scale);
                Pull::default().retract(&mut w, &mut Vec::new(), false);
                assert!(Gram::of(&w).defect().per_row < 1e-5, "{outputs}x{inputs}, {i}: {:?}", Gram::of(&w).defect());
                let pairs = w.to_row_major().into_iter().zip(nearest.to_row_major());
                let apart = pairs.fold(0.0, |most: f32, (a, b)| most.max((a - b).abs()));
                assert!(apart < 1e-3, "{outputs}x{inputs}, {i}: {apart} from the nearest");
            }
        }
    }

    #[test]
    fn retraction_does_no_harm_to_degenerate_matrices() {
        let retracted = |mut w: Weights| {
            Pull::default().retract(&mut w, &mut Vec::new(), false);
            w
        };
        let zero = Weights::zeros(3, 8);
        assert_eq!(retracted(zero.clone()), zero);
        // The same row twice: one direction is shared.
        let twice = retracted(Weights::from_row_major(2, 3, &[1.0, 2.0, 2.0, 1.0, 2.0, 2.0]));
        assert!(twice.panels().iter().all(|w| w.is_finite() && w.abs() <= 1.0), "{twice:?}");
        for size in [1e30, f32::NAN, f32::INFINITY] {
            let (mut far, mut kept) = (random(3, 8, 1.0), random(3, 8, 1.0));
            (*far.at_mut(1, 1), *kept.at_mut(1, 1)) = (size, size);
            let bits = |w: &Weights| w.panels().iter().map(|w| w.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&retracted(far)), bits(&kept), "{size}");
        }
    }
}
