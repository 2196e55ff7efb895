//! Updates the parameters of a model from their gradient: `AdamW`, or SGD with Nesterov momentum.
//!
//! Every number is updated on its own, and norms are added in a fixed order: the same bits on any number of threads and
//! with any instruction set.

mod restore;
mod state;
#[cfg(test)]
mod tests;

use std::sync::Mutex;

use rayon::prelude::*;

pub(super) use state::Scalars;
use state::{Rule, Tensor};

use super::recipe::{OptimizerKind, OptimizerSpec};
use super::shares::{share_out, share_out_with};
use crate::model::gradient::{Gradient, LayerGradient, l2_slope};
use crate::model::{Autoencoder, TiedLayer};
use crate::numeric::matmul::{Panel, has_gaps, panel_floats};
use crate::numeric::update::{Adam, Nesterov, squared_norm};
use crate::numeric::{Floats, vectorized};

/// Default β₁ of `AdamW`, and default momentum of SGD.
const MOMENTUM: f64 = 0.9;
/// Default β₂ of `AdamW`.
const BETA2: f64 = 0.999;
/// Parameters that one thread updates at a time.
const CHUNK: usize = 1 << 14;

/// An optimizer and its state.
#[derive(Debug)]
pub(super) struct Optimizer {
    /// In the order of the parameters: see [`each_mut`].
    tensors: Vec<Tensor>,
    scalars: Scalars,
    momentum: f32,
    /// β₁ of `AdamW`.
    beta1: f64,
    beta2: f64,
    /// Decoupled weight decay.
    decay: f32,
    norm_max: Option<f64>,
    /// Buffer for the gradient of a panel, one per thread: it stays in the cache.
    panels: Vec<Mutex<Vec<f32>>>,
}

/// The arguments of one step.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    /// Learning rate.
    pub(super) rate: f64,
    /// Coefficient of the term 2·l2·‖W‖² of the loss.
    pub(super) l2: f32,
    /// Whether the threads of the pool share the work.
    pub(super) parallel: bool,
}

/// The scalars of one step, without decay.
#[derive(Clone, Copy)]
struct Numbers {
    adam: Adam,
    nesterov: Nesterov,
}

/// A panel of a matrix, to be updated.
struct Part<'a> {
    l: usize,
    index: usize,
    outputs: usize,
    inputs: usize,
    weights: &'a mut [f32],
    kept: Kept<'a>,
}

/// The optimizer state of a panel of a matrix.
enum Kept<'a> {
    Adam(&'a mut [f32], &'a mut [f32]),
    Nesterov(&'a mut [f32]),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Which {
    All,
    Vectors,
}

impl Optimizer {
    /// An optimizer before its first step.
    pub(super) fn new(model: &Autoencoder, spec: &OptimizerSpec) -> Self {
        let momentum = spec.momentum.unwrap_or(MOMENTUM);
        let rule = |len| match spec.kind {
            OptimizerKind::AdamW => Rule::Adam { first: Floats::zeros(len), second: Floats::zeros(len) },
            OptimizerKind::Sgd => Rule::Nesterov { velocity: Floats::zeros(len) },
        };
        let tensors = model.layers().iter().enumerate().flat_map(|(l, layer)| {
            let parts = parts(layer).into_iter().flatten();
            parts.map(move |(part, values)| Tensor {
                name: format!("{l}.{}", part.name()),
                is_matrix: part == TensorKind::Weight,
                panel: if part == TensorKind::Weight { panel_floats(layer.weight.inputs()) } else { usize::MAX },
                rule: rule(values.len()),
            })
        });
        Self {
            tensors: tensors.collect(),
            scalars: Scalars::default(),
            momentum: momentum as f32,
            beta1: momentum,
            beta2: spec.beta2.unwrap_or(BETA2),
            decay: spec.weight_decay as f32,
            norm_max: spec.gradient_norm_max,
            panels: Vec::new(),
        }
    }

    /// Updates every parameter against its gradient.
    ///
    /// `gradient` has the gradients of biases and gains. `fill(l, panel)` writes the gradient of the matrix of layer l,
    /// panel by panel, on the threads of the caller's pool if `step.parallel`. Without a limit for the norm of the
    /// whole gradient, a panel is updated while its gradient is in the cache.
    pub(super) fn step(
        &mut self,
        model: &mut Autoencoder,
        gradient: &mut Gradient,
        fill: &(dyn Fn(usize, &mut Panel<'_>) + Sync),
        step: Step,
    ) {
        if self.norm_max.is_none() {
            let numbers = self.begin(step.rate, 1.0);
            self.move_matrices(model, fill, step, numbers);
            self.move_tensors(model, gradient, step.parallel, numbers, Which::Vectors);
        } else {
            for (l, layer) in model.layers().iter().enumerate() {
                let work = |(mut panel, weights): (Panel<'_>, &[f32])| {
                    fill(l, &mut panel);
                    penalize(panel.values_mut(), weights, step.l2);
                };
                let weights = layer.weight.panels().chunks(panel_floats(layer.weight.inputs()));
                share_out(gradient.panels(l).zip(weights).collect(), step.parallel, |(_, w)| w.len(), work);
            }
            let numbers = self.begin(step.rate, self.scale(gradient, step.parallel));
            self.move_tensors(model, gradient, step.parallel, numbers, Which::All);
        }
    }

    /// The scalars of the next step.
    fn begin(&mut self, rate: f64, scale: f32) -> Numbers {
        self.scalars.start_1 *= self.beta1;
        self.scalars.start_2 *= self.beta2;
        let correction = |start: f64| (1.0 / (1.0 - start)) as f32;
        let (correction1, correction2) = (correction(self.scalars.start_1), correction(self.scalars.start_2));
        let (beta1, beta2, rate) = (self.beta1 as f32, self.beta2 as f32, rate as f32);
        Numbers {
            adam: Adam { scale, beta1, beta2, correction1, correction2, rate, decay: 0.0 },
            nesterov: Nesterov { scale, momentum: self.momentum, rate, decay: 0.0 },
        }
    }

    /// Updates the matrices panel by panel: gradient, penalty, update.
    fn move_matrices(
        &mut self,
        model: &mut Autoencoder,
        fill: &(dyn Fn(usize, &mut Panel<'_>) + Sync),
        step: Step,
        numbers: Numbers,
    ) {
        let Numbers { mut adam, mut nesterov } = numbers;
        (adam.decay, nesterov.decay) = (self.decay, self.decay);
        let matrices = self.tensors.iter_mut().filter(|tensor| tensor.is_matrix);
        let layers = model.layers_mut().iter_mut().zip(matrices).enumerate();
        let mut jobs = Vec::new();
        for (l, (layer, tensor)) in layers {
            let (outputs, inputs) = (layer.weight.outputs(), layer.weight.inputs());
            let floats = panel_floats(inputs);
            let weights = layer.weight.panels_mut().chunks_mut(floats).enumerate();
            let part = move |index, weights, kept| Part { l, index, outputs, inputs, weights, kept };
            match &mut tensor.rule {
                Rule::Adam { first, second } => {
                    let (first, second) = (first.as_mut_slice(), second.as_mut_slice());
                    let kept = first.chunks_mut(floats).zip(second.chunks_mut(floats));
                    jobs.extend(weights.zip(kept).map(|((i, w), (m, v))| part(i, w, Kept::Adam(m, v))));
                }
                Rule::Nesterov { velocity } => {
                    let kept = velocity.as_mut_slice().chunks_mut(floats);
                    jobs.extend(weights.zip(kept).map(|((i, w), u)| part(i, w, Kept::Nesterov(u))));
                }
            }
        }
        let work = |gradient: &mut Vec<f32>, part: Part<'_>| {
            gradient.resize(part.weights.len(), 0.0);
            if has_gaps(part.inputs) {
                // The gaps between the panels of W stay zero, whatever another matrix has left in the buffer.
                gradient.fill(0.0);
            }
            fill(part.l, &mut Panel::new(gradient, part.index, part.outputs, part.inputs));
            penalize(gradient, part.weights, step.l2);
            match part.kept {
                Kept::Adam(m, v) => adam.tamed(gradient, v).apply(part.weights, gradient, m, v),
                Kept::Nesterov(u) => nesterov.apply(part.weights, gradient, u),
            }
        };
        share_out_with(&mut self.panels, jobs, step.parallel, |part| part.weights.len(), work);
    }

    /// Updates tensor by tensor, each with its whole gradient.
    fn move_tensors(
        &mut self,
        model: &mut Autoencoder,
        gradient: &Gradient,
        parallel: bool,
        numbers: Numbers,
        which: Which,
    ) {
        for (tensor, (w, g)) in self.tensors.iter_mut().zip(each_mut(model, gradient)) {
            if which == Which::Vectors && tensor.is_matrix {
                continue;
            }
            let Numbers { mut adam, mut nesterov } = numbers;
            if tensor.is_matrix {
                (adam.decay, nesterov.decay) = (self.decay, self.decay);
            }
            match &mut tensor.rule {
                Rule::Adam { first, second } => {
                    let (m, v) = (first.as_mut_slice(), second.as_mut_slice());
                    // The same split as panel by panel.
                    let chunk = tensor.panel.min(w.len().max(1));
                    let mut jobs = Vec::new();
                    for ((w, g), (m, v)) in
                        w.chunks_mut(chunk).zip(g.chunks(chunk)).zip(m.chunks_mut(chunk).zip(v.chunks_mut(chunk)))
                    {
                        jobs.push((w, g, m, v));
                    }
                    share_out(jobs, parallel, |(w, ..)| w.len(), |(w, g, m, v)| adam.tamed(g, v).apply(w, g, m, v));
                }
                Rule::Nesterov { velocity } => {
                    let u = velocity.as_mut_slice();
                    if parallel && w.len() > CHUNK {
                        w.par_chunks_mut(CHUNK)
                            .zip(g.par_chunks(CHUNK).zip(u.par_chunks_mut(CHUNK)))
                            .for_each(|(w, (g, u))| nesterov.apply(w, g, u));
                    } else {
                        nesterov.apply(w, g, u);
                    }
                }
            }
        }
    }

    /// The factor of the gradient that limits its norm over all parameters. A NaN norm changes nothing: such a gradient
    /// shows in the weights.
    fn scale(&self, gradient: &Gradient, parallel: bool) -> f32 {
        let Some(norm_max) = self.norm_max else { return 1.0 };
        let tensors = gradient.layers.iter().flat_map(|layer| gradients(layer).into_iter().flatten());
        let squares = tensors.map(|tensor| squared_norm(tensor, parallel));
        let norm = squares.sum::<f64>().sqrt();
        if norm > norm_max { (norm_max / norm) as f32 } else { 1.0 }
    }
}

/// Adds the derivative of the L2 term.
fn penalize(gradient: &mut [f32], weights: &[f32], l2: f32) {
    if l2 > 0.0 {
        vectorized(move || gradient.iter_mut().zip(weights).for_each(move |(g, w)| *g += l2_slope(l2, *w)));
    }
}

/// The tensors of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TensorKind {
    Weight,
    EncoderBias,
    DecoderBias,
    Gain,
}

impl TensorKind {
    fn name(self) -> &'static str {
        match self {
            Self::Weight => "weight",
            Self::EncoderBias => "encoder_bias",
            Self::DecoderBias => "decoder_bias",
            Self::Gain => "gain",
        }
    }
}

/// The tensors of a layer, in the order that all functions below use.
fn parts(layer: &TiedLayer) -> [Option<(TensorKind, &[f32])>; 4] {
    [
        Some((TensorKind::Weight, layer.weight.panels())),
        Some((TensorKind::EncoderBias, &layer.encoder_bias[..])),
        Some((TensorKind::DecoderBias, &layer.decoder_bias[..])),
        layer.gain.as_deref().map(|gain| (TensorKind::Gain, gain)),
    ]
}

fn gradients(layer: &LayerGradient) -> [Option<&[f32]>; 4] {
    [Some(&layer.weight[..]), Some(&layer.encoder_bias[..]), Some(&layer.decoder_bias[..]), layer.gain.as_deref()]
}

/// Every tensor, mutable, with its gradient.
fn each_mut<'a>(
    model: &'a mut Autoencoder,
    gradient: &'a Gradient,
) -> impl Iterator<Item = (&'a mut [f32], &'a [f32])> {
    let layers = model.layers_mut().iter_mut().zip(&gradient.layers);
    layers.flat_map(|(layer, gradient)| {
        let values = [
            Some(layer.weight.panels_mut()),
            Some(&mut layer.encoder_bias[..]),
            Some(&mut layer.decoder_bias[..]),
            layer.gain.as_deref_mut(),
        ];
        values.into_iter().flatten().zip(gradients(gradient).into_iter().flatten())
    })
}
