//! The gradient of a tied-weight autoencoder: both uses of each matrix, summed once.
//!
//! With δᵉ_l the derivative of the loss by the pre-activations of encoder layer l, δᵈ_l the same for the decoder layer that
//! uses W_lᵀ, h_l and g_l as in [`Autoencoder`], and u_l = γ_l∘g_{l+1} what that decoder layer reads:
//!
//! ∂L/∂W_l = δᵉ_lᵀ h_l + u_lᵀ δᵈ_l (rows of a batch are samples).
//!
//! # The same bits at any number of threads
//! A mini-batch is cut into [`Tape`]s of a fixed number of rows, each computed alone. The gradient of a matrix is cut into
//! panels of a fixed number of outputs; each of its numbers is one chain over the tapes in the order of their rows. Nothing
//! is added across threads.

use rayon::prelude::*;

use super::Autoencoder;
use super::autoencoder::scale_columns;
use super::spec::Loss;
use crate::numeric::Lanes;
use crate::numeric::matmul::{self, Panel};

/// Rows of a tape.
pub const TAPE_ROWS: usize = 64;

/// A number for each parameter of a model: its gradient, or a moment of it.
#[derive(Clone, Debug)]
pub struct Gradient {
    /// In the order of encoding.
    pub layers: Vec<LayerGradient>,
}

/// A number for each parameter of a tied layer, in the same shapes.
#[derive(Clone, Debug)]
pub struct LayerGradient {
    /// (d_{l+1}, d_l), in the layout of [`Weights::panels`](crate::numeric::matmul::Weights::panels).
    pub weight: Vec<f32>,
    /// (d_{l+1},)
    pub encoder_bias: Vec<f32>,
    /// (d_l,)
    pub decoder_bias: Vec<f32>,
    /// (d_{l+1},), where the layer has one.
    pub gain: Option<Vec<f32>>,
}

impl Gradient {
    /// Zeros in the shapes of a model's parameters.
    pub fn zeros(model: &Autoencoder) -> Self {
        let layers = model.layers().iter().map(|layer| LayerGradient {
            weight: vec![0.0; layer.weight.panels().len()],
            encoder_bias: vec![0.0; layer.encoder_bias.len()],
            decoder_bias: vec![0.0; layer.decoder_bias.len()],
            gain: layer.gain.as_ref().map(|gain| vec![0.0; gain.len()]),
        });
        Self { layers: layers.collect() }
    }

    /// All numbers, by name.
    pub fn tensors(&self) -> Vec<(String, &[f32])> {
        let mut tensors = Vec::new();
        for (l, layer) in self.layers.iter().enumerate() {
            tensors.push((format!("{l}.weight"), &layer.weight[..]));
            tensors.push((format!("{l}.encoder_bias"), &layer.encoder_bias[..]));
            tensors.push((format!("{l}.decoder_bias"), &layer.decoder_bias[..]));
            tensors.extend(layer.gain.as_deref().map(|gain| (format!("{l}.gain"), gain)));
        }
        tensors
    }

    /// The same, to write.
    pub fn tensors_mut(&mut self) -> Vec<(String, &mut [f32])> {
        let mut tensors = Vec::new();
        for (l, layer) in self.layers.iter_mut().enumerate() {
            tensors.push((format!("{l}.weight"), &mut layer.weight[..]));
            tensors.push((format!("{l}.encoder_bias"), &mut layer.encoder_bias[..]));
            tensors.push((format!("{l}.decoder_bias"), &mut layer.decoder_bias[..]));
            tensors.extend(layer.gain.as_deref_mut().map(|gain| (format!("{l}.gain"), gain)));
        }
        tensors
    }

    /// Sums the tapes of a mini-batch into this gradient, which is overwritten.
    pub fn collect<'a>(&mut self, tapes: impl Iterator<Item = &'a Tape>, parallel: bool) {
        let tapes: Vec<&Tape> = tapes.collect();
        let mut panels = Vec::new();
        for (l, layer) in self.layers.iter_mut().enumerate() {
            layer.encoder_bias.fill(0.0);
            layer.decoder_bias.fill(0.0);
            for tape in &tapes {
                add(&mut layer.encoder_bias, &tape.encoder_bias[l]);
                add(&mut layer.decoder_bias, &tape.decoder_bias[l]);
            }
            if let Some(gain) = &mut layer.gain {
                gain.fill(0.0);
                tapes.iter().for_each(|tape| add(gain, &tape.gain[l]));
            }
            let (outputs, inputs) = (layer.encoder_bias.len(), layer.decoder_bias.len());
            panels.extend(matmul::panels(&mut layer.weight, outputs, inputs).map(|panel| (l, panel)));
        }
        let fill = |(l, panel): &mut (usize, Panel<'_>)| {
            for (i, tape) in tapes.iter().enumerate() {
                let l = *l;
                if i == 0 {
                    panel.replace(&tape.encoder_delta[l], &tape.h[l]);
                } else {
                    panel.add(&tape.encoder_delta[l], &tape.h[l]);
                }
                panel.add(tape.decoder_input(l), &tape.decoder_delta[l]);
            }
        };
        if parallel {
            panels.par_iter_mut().for_each(fill);
        } else {
            panels.iter_mut().for_each(fill);
        }
    }
}

fn add(sum: &mut [f32], values: &[f32]) {
    sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
}

/// Everything that forward and backward of a few rows leave behind. Its buffers are used again from batch to batch.
#[derive(Clone, Debug, Default)]
pub struct Tape {
    /// h_0 (the normalised rows) to h_K (the code).
    h: Vec<Lanes>,
    /// g_0 (x̂; logits under cross-entropy) to g_{K-1}.
    g: Vec<Lanes>,
    /// What decoder layer l reads, where that is not g_{l+1} itself.
    gained: Vec<Lanes>,
    /// f' by layer, where it cannot be had from the outputs.
    encoder_slope: Vec<Option<Lanes>>,
    decoder_slope: Vec<Option<Lanes>>,
    /// δᵉ_l (n, d_{l+1}) and δᵈ_l (n, d_l).
    encoder_delta: Vec<Lanes>,
    decoder_delta: Vec<Lanes>,
    /// Sums over the rows.
    encoder_bias: Vec<Vec<f32>>,
    decoder_bias: Vec<Vec<f32>>,
    gain: Vec<Vec<f32>>,
    loss: f64,
}

impl Tape {
    /// For a model of `layers` layers.
    pub fn new(layers: usize) -> Self {
        Self {
            h: vec![Lanes::default(); layers + 1],
            g: vec![Lanes::default(); layers],
            gained: vec![Lanes::default(); layers],
            encoder_slope: vec![None; layers],
            decoder_slope: vec![None; layers],
            encoder_delta: vec![Lanes::default(); layers],
            decoder_delta: vec![Lanes::default(); layers],
            encoder_bias: vec![Vec::new(); layers],
            decoder_bias: vec![Vec::new(); layers],
            gain: vec![Vec::new(); layers],
            loss: 0.0,
        }
    }

    /// Where the normalised rows (n, d_0) go.
    pub fn rows_mut(&mut self) -> &mut Lanes {
        &mut self.h[0]
    }

    /// The normalised rows (n, d_0).
    pub fn rows(&self) -> &Lanes {
        &self.h[0]
    }

    /// After [`Tape::forward`]: the sum of the loss over the rows, in nats under cross-entropy.
    pub fn loss(&self) -> f64 {
        self.loss
    }

    /// After [`Tape::forward`]: calls `found(row, column, x, x̂)` for every number, normalised, in an order that depends on the shape alone.
    pub fn each_reconstructed(&self, model: &Autoencoder, mut found: impl FnMut(usize, usize, f32, f32)) {
        let activation = model.spec().raw().decoder_activations[0];
        let logits = model.spec().raw().loss == Loss::BinaryCrossEntropy;
        for ((first, rows, x), (_, _, g)) in self.h[0].panels().zip(self.g[0].panels()) {
            for (place, (x, g)) in x.iter().zip(g).enumerate() {
                let x_hat = if logits { activation.value(*g) } else { *g };
                found(first + place % rows, place / rows, *x, x_hat);
            }
        }
    }

    /// Encodes and decodes the rows, keeping every activation, and takes the loss.
    pub fn forward(&mut self, model: &Autoencoder) {
        let (raw, layers) = (model.spec().raw(), model.layers());
        for (l, layer) in layers.iter().enumerate() {
            let (done, next) = self.h.split_at_mut(l + 1);
            layer.weight.encode(&done[l], &mut next[0]);
            let activation = raw.encoder_activations[l];
            keep_slope(&mut self.encoder_slope[l], activation, &next[0], &layer.encoder_bias);
            activation.apply_with_bias(&mut next[0], &layer.encoder_bias);
        }
        for (l, layer) in layers.iter().enumerate().rev() {
            let (g, done) = self.g.split_at_mut(l + 1);
            let input = done.first().unwrap_or(&self.h[layers.len()]);
            let input = match &layer.gain {
                None => input,
                Some(gain) => {
                    self.gained[l].clone_from(input);
                    scale_columns(&mut self.gained[l], gain);
                    &self.gained[l]
                }
            };
            layer.weight.decode(input, &mut g[l]);
            let mut activation = raw.decoder_activations[l];
            if l == 0 && raw.loss == Loss::BinaryCrossEntropy {
                // The loss is taken on the logits, where it cannot overflow.
                activation = crate::numeric::Activation::Linear;
            }
            keep_slope(&mut self.decoder_slope[l], activation, &g[l], &layer.decoder_bias);
            activation.apply_with_bias(&mut g[l], &layer.decoder_bias);
        }
        self.loss = match raw.loss {
            Loss::SquaredError => pairs(&self.h[0], &self.g[0], |x, g| f64::from((g - x) * (g - x))),
            Loss::BinaryCrossEntropy => pairs(&self.h[0], &self.g[0], cross_entropy),
        };
    }

    /// The derivatives of the mean loss over `batch_rows` rows by everything, after [`Tape::forward`].
    pub fn backward(&mut self, model: &Autoencoder, batch_rows: usize) {
        let (raw, layers) = (model.spec().raw(), model.layers());
        let share = 1.0 / batch_rows as f32;
        output_delta(raw.loss, share, &self.h[0], &self.g[0], &mut self.decoder_delta[0]);
        if raw.loss == Loss::SquaredError {
            let activation = raw.decoder_activations[0];
            multiply_slope(&mut self.decoder_delta[0], activation, &self.g[0], self.decoder_slope[0].as_ref());
        }
        let last = layers.len() - 1;
        for (l, layer) in layers.iter().enumerate() {
            let (known, next) = self.decoder_delta.split_at_mut(l + 1);
            let delta = &known[l];
            column_sums(delta, &mut self.decoder_bias[l]);
            // What decoder layer l reads is g_{l+1}, or the code.
            let (target, outputs) =
                if l == last { (&mut self.encoder_delta[l], &self.h[l + 1]) } else { (&mut next[0], &self.g[l + 1]) };
            layer.weight.encode(delta, target);
            if let Some(gain) = &layer.gain {
                column_dots(target, outputs, &mut self.gain[l]);
                scale_columns(target, gain);
            }
            if l == last {
                multiply_slope(target, raw.encoder_activations[l], outputs, self.encoder_slope[l].as_ref());
            } else {
                multiply_slope(target, raw.decoder_activations[l + 1], outputs, self.decoder_slope[l + 1].as_ref());
            }
        }
        for l in (0..layers.len()).rev() {
            column_sums(&self.encoder_delta[l], &mut self.encoder_bias[l]);
            if l > 0 {
                let (target, known) = self.encoder_delta.split_at_mut(l);
                layers[l].weight.decode(&known[0], &mut target[l - 1]);
                let activation = raw.encoder_activations[l - 1];
                multiply_slope(&mut target[l - 1], activation, &self.h[l], self.encoder_slope[l - 1].as_ref());
            }
        }
    }

    /// What decoder layer l reads: γ_l∘g_{l+1}, g_{l+1}, or the code.
    fn decoder_input(&self, l: usize) -> &Lanes {
        if self.gain[l].is_empty() { self.g.get(l + 1).unwrap_or(&self.h[l + 1]) } else { &self.gained[l] }
    }
}

fn keep_slope(slope: &mut Option<Lanes>, activation: crate::numeric::Activation, product: &Lanes, bias: &[f32]) {
    if activation.has_slope_from_output() {
        return;
    }
    let slope = slope.get_or_insert_default();
    slope.clone_from(product);
    slope.each_column_mut(|j, part| part.iter_mut().for_each(|x| *x = activation.slope_at(*x + bias[j])));
}

fn multiply_slope(delta: &mut Lanes, activation: crate::numeric::Activation, outputs: &Lanes, slope: Option<&Lanes>) {
    match slope {
        Some(slope) => delta.values_mut().iter_mut().zip(slope.values()).for_each(|(d, s)| *d *= s),
        None => activation.multiply_slope(delta, outputs),
    }
}

/// Sum of `f(x, g)` over all numbers.
fn pairs(x: &Lanes, g: &Lanes, f: impl Fn(f32, f32) -> f64) -> f64 {
    x.values().iter().zip(g.values()).map(|(x, g)| f(*x, *g)).sum()
}

/// -x ln σ(z) - (1-x) ln(1-σ(z)) = max(z, 0) - x z + ln(1 + exp(-|z|)).
fn cross_entropy(x: f32, z: f32) -> f64 {
    f64::from(z.max(0.0) - x * z) + f64::from(libm::log1pf(libm::expf(-z.abs())))
}

/// The derivative of the loss by x̂ (by the logits under cross-entropy), times `share`.
fn output_delta(loss: Loss, share: f32, x: &Lanes, g: &Lanes, delta: &mut Lanes) {
    delta.reset(x.rows(), x.columns());
    let numbers = delta.values_mut().iter_mut().zip(x.values()).zip(g.values());
    match loss {
        Loss::SquaredError => numbers.for_each(|((d, x), g)| *d = 2.0 * share * (g - x)),
        Loss::BinaryCrossEntropy => {
            numbers.for_each(|((d, x), g)| *d = share * (crate::numeric::Activation::Sigmoid.value(*g) - x));
        }
    }
}

/// Sums of the columns, panel after panel.
fn column_sums(delta: &Lanes, sums: &mut Vec<f32>) {
    sums.clear();
    sums.resize(delta.columns(), 0.0);
    for (_, rows, panel) in delta.panels() {
        sums.iter_mut().zip(panel.chunks_exact(rows)).for_each(|(sum, part)| *sum += part.iter().sum::<f32>());
    }
}

/// Sums of the columns of a∘b.
fn column_dots(a: &Lanes, b: &Lanes, sums: &mut Vec<f32>) {
    sums.clear();
    sums.resize(a.columns(), 0.0);
    for ((_, rows, a), (_, _, b)) in a.panels().zip(b.panels()) {
        let parts = a.chunks_exact(rows).zip(b.chunks_exact(rows));
        sums.iter_mut().zip(parts).for_each(|(sum, (a, b))| *sum += a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>());
    }
}

#[cfg(test)]
mod tests;
