//! Moves the parameters of a model by their gradient: `AdamW`, SGD with Nesterov momentum, or Muon.
//!
//! Every number is moved by itself (Muon: by fixed-order products), and norms are added in a fixed order: the same bits on
//! any number of threads and with any instructions.

mod muon;
mod state;
#[cfg(test)]
mod tests;

use rayon::prelude::*;

pub use state::{RestoreError, Scalars};

use self::muon::{Block, Muon};
use super::recipe::{OptimiserKind, OptimiserSpec};
use crate::model::gradient::{Gradient, LayerGradient};
use crate::model::{Autoencoder, TiedLayer};
use crate::numeric::Floats;
use crate::numeric::update::{Adam, Nesterov, squared_norm};

/// β₂ of `AdamW`, unless another is asked for.
const BETA2: f64 = 0.999;
/// Parameters that one thread moves at a time.
const CHUNK: usize = 1 << 14;

/// A method and what it keeps from step to step.
#[derive(Debug)]
pub struct Optimiser {
    /// In the order of the parameters: see [`each_mut`].
    tensors: Vec<Tensor>,
    scalars: Scalars,
    momentum: f32,
    /// β₁ of `AdamW`, also of that beside Muon.
    beta1: f64,
    beta2: f64,
    /// Decoupled.
    decay: f32,
    norm_max: Option<f64>,
    /// Room for [`Muon`], used again from matrix to matrix.
    blocks: Vec<Block>,
}

/// The state of one tensor of parameters.
#[derive(Debug)]
struct Tensor {
    /// For example `0.weight`.
    name: String,
    /// Decay is for matrices.
    is_matrix: bool,
    rule: Rule,
}

#[derive(Debug)]
enum Rule {
    Adam { first: Floats, second: Floats },
    Nesterov { velocity: Floats },
    Muon(Box<Muon>),
}

impl Optimiser {
    /// At rest.
    pub fn new(model: &Autoencoder, spec: &OptimiserSpec) -> Self {
        let momentum = spec.momentum.unwrap_or(spec.kind.momentum_default());
        let adam = |len| Rule::Adam { first: Floats::zeros(len), second: Floats::zeros(len) };
        let rule = |layer: &TiedLayer, part: Part, len| match (spec.kind, part) {
            (OptimiserKind::Muon, Part::Weight) => {
                Rule::Muon(Box::new(Muon::new(layer.weight.outputs(), layer.weight.inputs())))
            }
            (OptimiserKind::AdamW | OptimiserKind::Muon, _) => adam(len),
            (OptimiserKind::Sgd, _) => Rule::Nesterov { velocity: Floats::zeros(len) },
        };
        let tensors = model.layers().iter().enumerate().flat_map(|(l, layer)| {
            let parts = parts(layer).into_iter().flatten();
            parts.map(move |(part, values)| Tensor {
                name: format!("{l}.{}", part.name()),
                is_matrix: part == Part::Weight,
                rule: rule(layer, part, values.len()),
            })
        });
        Self {
            tensors: tensors.collect(),
            scalars: Scalars::default(),
            momentum: momentum as f32,
            beta1: if spec.kind == OptimiserKind::AdamW { momentum } else { OptimiserKind::AdamW.momentum_default() },
            beta2: spec.beta2.unwrap_or(BETA2),
            decay: spec.weight_decay as f32,
            norm_max: spec.gradient_norm_max,
            blocks: Vec::new(),
        }
    }

    /// Moves every parameter against its gradient.
    pub fn step(&mut self, model: &mut Autoencoder, gradient: &Gradient, rate: f64, parallel: bool) {
        let scale = self.scale(gradient, parallel);
        self.scalars.start_1 *= self.beta1;
        self.scalars.start_2 *= self.beta2;
        let correction = |start: f64| (1.0 / (1.0 - start)) as f32;
        let (correction1, correction2) = (correction(self.scalars.start_1), correction(self.scalars.start_2));
        let (beta1, beta2) = (self.beta1 as f32, self.beta2 as f32);
        let (momentum, rate) = (self.momentum, rate as f32);
        for (tensor, (w, g)) in self.tensors.iter_mut().zip(each_mut(model, gradient)) {
            let decay = if tensor.is_matrix { self.decay } else { 0.0 };
            let nesterov = Nesterov { scale, momentum, rate, decay };
            match &mut tensor.rule {
                Rule::Adam { first, second } => {
                    let step = Adam { scale, beta1, beta2, correction1, correction2, rate, decay };
                    let (m, v) = (first.as_mut_slice(), second.as_mut_slice());
                    if parallel && w.len() > CHUNK {
                        w.par_chunks_mut(CHUNK)
                            .zip(g.par_chunks(CHUNK))
                            .zip(m.par_chunks_mut(CHUNK).zip(v.par_chunks_mut(CHUNK)))
                            .for_each(|((w, g), (m, v))| step.apply(w, g, m, v));
                    } else {
                        step.apply(w, g, m, v);
                    }
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
                Rule::Muon(muon) => muon.step(nesterov, w, g, &mut self.blocks, parallel),
            }
        }
    }

    /// What the gradient is multiplied with, so that its norm over all parameters is not above the greatest that is
    /// allowed. A norm that is no number changes nothing: such a gradient shows in the weights.
    fn scale(&self, gradient: &Gradient, parallel: bool) -> f32 {
        let Some(norm_max) = self.norm_max else { return 1.0 };
        let tensors = gradient.layers.iter().flat_map(|layer| gradients(layer).into_iter().flatten());
        let squares = tensors.map(|tensor| squared_norm(tensor, parallel));
        let norm = squares.sum::<f64>().sqrt();
        if norm > norm_max { (norm_max / norm) as f32 } else { 1.0 }
    }
}

/// The tensors of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Weight,
    EncoderBias,
    DecoderBias,
    Gain,
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Self::Weight => "weight",
            Self::EncoderBias => "encoder_bias",
            Self::DecoderBias => "decoder_bias",
            Self::Gain => "gain",
        }
    }
}

/// The order in which all below go through a layer.
fn parts(layer: &TiedLayer) -> [Option<(Part, &[f32])>; 4] {
    [
        Some((Part::Weight, layer.weight.panels())),
        Some((Part::EncoderBias, &layer.encoder_bias[..])),
        Some((Part::DecoderBias, &layer.decoder_bias[..])),
        layer.gain.as_deref().map(|gain| (Part::Gain, gain)),
    ]
}

fn gradients(layer: &LayerGradient) -> [Option<&[f32]>; 4] {
    [Some(&layer.weight[..]), Some(&layer.encoder_bias[..]), Some(&layer.decoder_bias[..]), layer.gain.as_deref()]
}

/// Every tensor, to move, with its gradient.
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
