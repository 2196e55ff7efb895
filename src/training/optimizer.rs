//! `AdamW` (Loshchilov and Hutter 2019): Adam with decoupled weight decay, on the matrices alone.

use std::collections::HashMap;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::model::Autoencoder;
use crate::model::gradient::Gradient;

const BETA_1: f64 = 0.9;
const BETA_2: f64 = 0.999;
const EPSILON: f32 = 1e-8;
/// Parameters that one thread updates at a time.
const CHUNK: usize = 1 << 14;

/// Moments of every parameter.
#[derive(Debug)]
pub struct AdamW {
    first: Gradient,
    second: Gradient,
    /// β₁ᵗ and β₂ᵗ: how much of the moments is still their start at zero.
    start_1: f64,
    start_2: f64,
    weight_decay: f32,
}

/// The single numbers that an optimiser keeps.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scalars {
    /// β₁ᵗ
    start_1: f64,
    /// β₂ᵗ
    start_2: f64,
}

/// The numbers of one step.
#[derive(Clone, Copy)]
struct Step {
    rate: f32,
    correction_1: f32,
    correction_2: f32,
}

impl AdamW {
    /// Moments of zero.
    pub fn new(model: &Autoencoder, weight_decay: f64) -> Self {
        let zeros = Gradient::zeros(model);
        Self { first: zeros.clone(), second: zeros, start_1: 1.0, start_2: 1.0, weight_decay: weight_decay as f32 }
    }

    /// All numbers that are kept from step to step, by name.
    pub fn tensors(&self) -> Vec<(String, &[f32])> {
        let moments = [("first", &self.first), ("second", &self.second)];
        moments
            .into_iter()
            .flat_map(|(moment, gradient)| {
                gradient.tensors().into_iter().map(move |(name, values)| (format!("{moment}.{name}"), values))
            })
            .collect()
    }

    /// The single numbers that are kept from step to step.
    pub fn scalars(&self) -> Scalars {
        Scalars { start_1: self.start_1, start_2: self.start_2 }
    }

    /// Becomes what [`AdamW::scalars`] and [`AdamW::tensors`] gave, of the same model.
    ///
    /// # Errors
    /// In words, which tensor is missing or of another length.
    pub fn restore(&mut self, scalars: Scalars, tensors: Vec<(String, Vec<f32>)>) -> Result<(), String> {
        let mut tensors: HashMap<String, Vec<f32>> = tensors.into_iter().collect();
        for (moment, gradient) in [("first", &mut self.first), ("second", &mut self.second)] {
            for (name, values) in gradient.tensors_mut() {
                let name = format!("{moment}.{name}");
                match tensors.remove(&name) {
                    Some(kept) if kept.len() == values.len() => values.copy_from_slice(&kept),
                    Some(kept) => {
                        return Err(format!("{name} has {} numbers, expected {}", kept.len(), values.len()));
                    }
                    None => return Err(format!("{name} is missing")),
                }
            }
        }
        (self.start_1, self.start_2) = (scalars.start_1, scalars.start_2);
        Ok(())
    }

    /// Moves every parameter against its gradient. Element by element: the same bits on any number of threads.
    pub fn step(&mut self, model: &mut Autoencoder, gradient: &Gradient, rate: f64, parallel: bool) {
        self.start_1 *= BETA_1;
        self.start_2 *= BETA_2;
        let step = Step {
            rate: rate as f32,
            correction_1: (1.0 / (1.0 - self.start_1)) as f32,
            correction_2: (1.0 / (1.0 - self.start_2)) as f32,
        };
        let decay = self.weight_decay;
        let moments = self.first.layers.iter_mut().zip(&mut self.second.layers);
        for ((layer, gradient), (first, second)) in model.layers_mut().iter_mut().zip(&gradient.layers).zip(moments) {
            let weights = layer.weight.panels_mut();
            if parallel {
                weights
                    .par_chunks_mut(CHUNK)
                    .zip(gradient.weight.par_chunks(CHUNK))
                    .zip(first.weight.par_chunks_mut(CHUNK).zip(second.weight.par_chunks_mut(CHUNK)))
                    .for_each(|((w, g), (m, v))| update(w, g, m, v, step, decay));
            } else {
                update(weights, &gradient.weight, &mut first.weight, &mut second.weight, step, decay);
            }
            let (m, v) = (&mut first.encoder_bias, &mut second.encoder_bias);
            update(&mut layer.encoder_bias, &gradient.encoder_bias, m, v, step, 0.0);
            let (m, v) = (&mut first.decoder_bias, &mut second.decoder_bias);
            update(&mut layer.decoder_bias, &gradient.decoder_bias, m, v, step, 0.0);
            if let (Some(gain), Some(gradient), Some(m), Some(v)) =
                (&mut layer.gain, &gradient.gain, &mut first.gain, &mut second.gain)
            {
                update(gain, gradient, m, v, step, 0.0);
            }
        }
    }
}

fn update(weights: &mut [f32], gradient: &[f32], first: &mut [f32], second: &mut [f32], step: Step, decay: f32) {
    const B1: f32 = BETA_1 as f32;
    const B2: f32 = BETA_2 as f32;
    for (((w, g), m), v) in weights.iter_mut().zip(gradient).zip(first).zip(second) {
        *m = B1 * *m + (1.0 - B1) * g;
        *v = B2 * *v + (1.0 - B2) * g * g;
        let direction = (*m * step.correction_1) / ((*v * step.correction_2).sqrt() + EPSILON);
        *w -= step.rate * (direction + decay * *w);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(rate: f32, t: i32) -> Step {
        Step {
            rate,
            correction_1: (1.0 / (1.0 - BETA_1.powi(t))) as f32,
            correction_2: (1.0 / (1.0 - BETA_2.powi(t))) as f32,
        }
    }

    #[test]
    fn the_first_step_has_the_size_of_the_rate() {
        let (mut w, mut m, mut v) = ([1.0, 1.0], [0.0; 2], [0.0; 2]);
        update(&mut w, &[1e-3, -50.0], &mut m, &mut v, step(0.1, 1), 0.0);
        assert!((w[0] - 0.9).abs() < 1e-4 && (w[1] - 1.1).abs() < 1e-6, "{w:?}");
    }

    #[test]
    fn decay_shrinks_without_a_gradient() {
        let (mut w, mut m, mut v) = ([2.0], [0.0], [0.0]);
        update(&mut w, &[0.0], &mut m, &mut v, step(0.1, 1), 0.5);
        assert!((w[0] - 1.9).abs() < 1e-6, "{w:?}");
    }

    #[test]
    fn it_finds_the_lowest_point_of_a_bowl() {
        let (mut w, mut m, mut v) = ([3.0, -2.0], [0.0; 2], [0.0; 2]);
        for t in 1..2000 {
            let gradient = [2.0 * (w[0] - 1.0), 20.0 * (w[1] - 0.5)];
            update(&mut w, &gradient, &mut m, &mut v, step(0.01, t), 0.0);
        }
        assert!((w[0] - 1.0).abs() < 1e-3 && (w[1] - 0.5).abs() < 1e-3, "{w:?}");
    }
}
