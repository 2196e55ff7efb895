//! Keeps the rows of matrices near orthonormal (the columns, where they expand) by a term of the loss, λ·‖G - I‖² (Frobenius) over
//! all matrices W, G being the smaller Gram matrix of each.
//!
//! Its slope is 4λ·P(W) with P(W) = (W·Wᵀ - I)·W = W·(Wᵀ·W - I), of which the one with the smaller Gram matrix is computed: by the
//! kernels, block by block of rows of W, on any number of threads with the same bits.

use std::sync::Mutex;

use super::recipe::Regularisation;
use super::shares::share_out_with;
use crate::model::Autoencoder;
use crate::numeric::Lanes;
use crate::numeric::matmul::{self, Panel, Weights, panel_count};

/// What keeps matrices orthonormal; used again from step to step.
#[derive(Debug)]
pub(super) struct Orthogonality {
    /// λ; 0: there is no term.
    strength: f32,
    parallel: bool,
    /// By layer.
    pulls: Vec<Pull>,
    /// One for each thread.
    rooms: Vec<Mutex<Room>>,
}

/// P(W).
#[derive(Debug, Default)]
struct Pull {
    /// Its rows, cut as the panels of the gradient are.
    blocks: Vec<Lanes>,
    /// Wᵀ·W - I, where W expands.
    excess: Option<Weights>,
}

/// A block of rows of W, and of W·Wᵀ - I.
#[derive(Debug, Default)]
struct Room {
    rows: Lanes,
    excess: Lanes,
}

impl Orthogonality {
    pub(super) fn new(regularisation: &Regularisation, parallel: bool) -> Self {
        Self { strength: regularisation.orthogonality as f32, parallel, pulls: Vec::new(), rooms: Vec::new() }
    }

    /// Makes the slopes ready that [`Orthogonality::add_slope`] adds: the step changes W under their hands.
    pub(super) fn prepare(&mut self, model: &Autoencoder) {
        if self.strength == 0.0 {
            return;
        }
        self.pulls.resize_with(model.layers().len(), Pull::default);
        for (pull, layer) in self.pulls.iter_mut().zip(model.layers()) {
            pull.compute(&layer.weight, &mut self.rooms, self.parallel);
        }
    }

    /// Adds the slope of the term to a panel of the gradient of the matrix of layer `l`.
    pub(super) fn add_slope(&self, l: usize, panel: &mut Panel<'_>) {
        if self.strength > 0.0 {
            let index = panel.index();
            panel.add_rows(4.0 * self.strength, &self.pulls[l].blocks[index]);
        }
    }
}

impl Pull {
    /// Becomes that of W.
    fn compute(&mut self, weights: &Weights, rooms: &mut Vec<Mutex<Room>>, parallel: bool) {
        self.blocks.resize_with(panel_count(weights.outputs()), Lanes::default);
        if weights.outputs() <= weights.inputs() {
            self.by_rows(weights, rooms, parallel);
        } else {
            self.by_columns(weights, rooms, parallel);
        }
    }

    /// (W·Wᵀ - I)·W.
    fn by_rows(&mut self, weights: &Weights, rooms: &mut Vec<Mutex<Room>>, parallel: bool) {
        let work = |room: &mut Room, (index, pull): (usize, &mut Lanes)| {
            let first = weights.copy_block(index, &mut room.rows);
            weights.encode(&room.rows, &mut room.excess);
            (0..room.rows.rows()).for_each(|row| *room.excess.at_mut(row, first + row) -= 1.0);
            weights.decode(&room.excess, pull);
        };
        share_out_with(rooms, self.blocks.iter_mut().enumerate().collect(), parallel, |_| 1, work);
    }

    /// W·(Wᵀ·W - I).
    fn by_columns(&mut self, weights: &Weights, rooms: &mut Vec<Mutex<Room>>, parallel: bool) {
        let (count, inputs) = (self.blocks.len(), weights.inputs());
        let excess = self.excess.get_or_insert_with(|| Weights::zeros(inputs, inputs));
        let work = |room: &mut Room, mut panel: Panel<'_>| {
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
        let work = |room: &mut Room, (index, pull): (usize, &mut Lanes)| {
            weights.copy_block(index, &mut room.rows);
            // It is symmetric.
            excess.encode(&room.rows, pull);
        };
        share_out_with(rooms, self.blocks.iter_mut().enumerate().collect(), parallel, |_| 1, work);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numeric::rng::{Stream, Use};

    fn random(outputs: usize, inputs: usize, size: f64) -> Weights {
        let mut stream = Stream::new(6, 0, 0, Use::Weights);
        let values: Vec<f32> = (0..outputs * inputs).map(|_| (size * stream.normal()) as f32).collect();
        Weights::from_row_major(outputs, inputs, &values)
    }

    /// ‖G - I‖² by definition; `w` is row-major.
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

    /// As much as the gradient's own: see its tests.
    #[test]
    fn the_slope_is_that_of_the_term() {
        for (outputs, inputs) in [(3, 7), (7, 3), (5, 5), (1, 4), (130, 2)] {
            let w = random(outputs, inputs, 0.5);
            let mut pull = Pull::default();
            pull.compute(&w, &mut Vec::new(), false);
            let mut slope = Weights::zeros(outputs, inputs);
            matmul::panels(slope.panels_mut(), outputs, inputs).for_each(|mut panel| {
                let index = panel.index();
                panel.add_rows(4.0, &pull.blocks[index]);
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
                pull.blocks.iter().flat_map(|block| block.values().iter().map(|x| x.to_bits())).collect::<Vec<_>>()
            };
            let one = of(1);
            assert!(one == of(2) && one == of(3), "{outputs}x{inputs}");
        }
    }
}
