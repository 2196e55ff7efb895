//! The gradient of a tied-weight autoencoder: the sum over both uses of each matrix.
//!
//! With δᵉ_l the derivative of the loss by the pre-activations of encoder layer l, δᵈ_l the same for the decoder layer
//! that uses W_lᵀ, h_l and g_l as in [`Autoencoder`], and u_l = γ_l∘g_{l+1} the input of that decoder layer:
//!
//! ∂L/∂W_l = δᵉ_lᵀ h_l + u_lᵀ δᵈ_l (rows of a batch are samples).
//!
//! # The same bits at any number of threads
//! A mini-batch is cut into [`Tape`]s of a fixed number of rows; each is computed alone. The gradient of a matrix is
//! cut into panels of a fixed number of outputs. Each of its numbers is one chain over the tapes in the order of their
//! rows. No sum crosses threads.

use super::Autoencoder;
use super::autoencoder::scale_columns;
use super::spec::Loss;
use crate::numeric::matmul::{self, Panel};
use crate::numeric::{Activation, PanelMatrix, losses};

/// Largest number of rows of a tape.
pub const TAPE_ROWS: usize = 64;

/// One number per parameter of a model: the gradient, or a moment of it.
#[derive(Clone, Debug)]
pub struct Gradient {
    /// In the order of encoding.
    pub layers: Vec<LayerGradient>,
}

/// One number per parameter of a tied layer, in the same shapes.
#[derive(Clone, Debug)]
pub struct LayerGradient {
    /// (d_{l+1}, d_l), in the layout of [`Weights::panels`](crate::numeric::matmul::Weights::panels).
    pub weight: Vec<f32>,
    /// (d_{l+1},).
    pub encoder_bias: Vec<f32>,
    /// (d_l,).
    pub decoder_bias: Vec<f32>,
    /// (d_{l+1},), if the layer has a gain.
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

    /// All tensors, by name.
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

    /// All tensors, mutable, by name.
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

    /// Sums the tapes of a mini-batch into the gradients of biases and gains, which are overwritten.
    pub fn collect_vectors<'a>(&mut self, tapes: &(impl Iterator<Item = &'a Tape> + Clone)) {
        for (l, layer) in self.layers.iter_mut().enumerate() {
            layer.encoder_bias.fill(0.0);
            layer.decoder_bias.fill(0.0);
            for tape in tapes.clone() {
                add(&mut layer.encoder_bias, &tape.encoder_bias[l]);
                add(&mut layer.decoder_bias, &tape.decoder_bias[l]);
            }
            if let Some(gain) = &mut layer.gain {
                gain.fill(0.0);
                tapes.clone().for_each(|tape| add(gain, &tape.gain[l]));
            }
        }
    }

    /// Cuts the gradient of the matrix of layer `l` into panels.
    ///
    /// # Panics
    /// If the layer does not exist.
    pub fn panels(&mut self, l: usize) -> impl Iterator<Item = Panel<'_>> {
        let layer = &mut self.layers[l];
        let (outputs, inputs) = (layer.encoder_bias.len(), layer.decoder_bias.len());
        matmul::panels(&mut layer.weight, outputs, inputs)
    }
}

/// Sums both uses of the matrix of layer `l` over the tapes of a mini-batch into a panel of its gradient, which is
/// overwritten.
///
/// # Panics
/// If the layer does not exist, or the panel is not of its matrix.
pub fn fill<'a>(panel: &mut Panel<'_>, tapes: impl Iterator<Item = &'a Tape>, l: usize) {
    for (i, tape) in tapes.enumerate() {
        if i == 0 {
            panel.replace(&tape.encoder_delta[l], &tape.h[l]);
        } else {
            panel.add(&tape.encoder_delta[l], &tape.h[l]);
        }
        panel.add(tape.decoder_input(l), &tape.decoder_delta[l]);
    }
}

/// The derivative by a weight of the `l2` term of the loss, 2·l2·‖W‖².
#[inline]
pub fn l2_slope(l2: f32, weight: f32) -> f32 {
    4.0 * l2 * weight
}

fn add(sum: &mut [f32], values: &[f32]) {
    sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
}

/// All results of the forward and backward pass for a few rows. The buffers are reused from batch to batch.
#[derive(Clone, Debug, Default)]
pub struct Tape {
    /// h_0 (the normalized rows) to h_K (the code).
    h: Vec<PanelMatrix>,
    /// The target of the reconstruction, if it differs from h_0; NaN where a value is missing.
    clean: Option<PanelMatrix>,
    /// Per row: number of units of the code that are decoded. Empty: all units of every row.
    kept: Vec<usize>,
    /// 1 / rows of the batch.
    share: f32,
    /// g_0 (x̂; logits under cross-entropy) to g_{K-1}.
    g: Vec<PanelMatrix>,
    /// The input of decoder layer l, if it differs from g_{l+1}.
    gained: Vec<PanelMatrix>,
    /// f' per layer, if the outputs do not give it.
    encoder_slope: Vec<Option<PanelMatrix>>,
    decoder_slope: Vec<Option<PanelMatrix>>,
    /// δᵉ_l (n, d_{l+1}) and δᵈ_l (n, d_l).
    encoder_delta: Vec<PanelMatrix>,
    decoder_delta: Vec<PanelMatrix>,
    /// Sums over the rows.
    encoder_bias: Vec<Vec<f32>>,
    decoder_bias: Vec<Vec<f32>>,
    gain: Vec<Vec<f32>>,
    loss: f64,
}

impl Tape {
    /// A tape for a model of `layers` layers.
    pub fn new(layers: usize) -> Self {
        Self {
            h: vec![PanelMatrix::default(); layers + 1],
            clean: None,
            kept: Vec::new(),
            share: 1.0,
            g: vec![PanelMatrix::default(); layers],
            gained: vec![PanelMatrix::default(); layers],
            encoder_slope: vec![None; layers],
            decoder_slope: vec![None; layers],
            encoder_delta: vec![PanelMatrix::default(); layers],
            decoder_delta: vec![PanelMatrix::default(); layers],
            encoder_bias: vec![Vec::new(); layers],
            decoder_bias: vec![Vec::new(); layers],
            gain: vec![Vec::new(); layers],
            loss: 0.0,
        }
    }

    /// The buffer for the normalized rows (n, d_0).
    pub fn rows_mut(&mut self) -> &mut PanelMatrix {
        &mut self.h[0]
    }

    /// The normalized rows, mutable. Their present values become the target of the reconstruction, except missing ones
    /// (NaN).
    pub fn changed_mut(&mut self) -> &mut PanelMatrix {
        self.clean.get_or_insert_default().clone_from(&self.h[0]);
        &mut self.h[0]
    }

    /// Truncates codes: of each row only the first `kept` units of the code are decoded. The others are 0 and have no
    /// gradient.
    pub fn cut_codes(&mut self, kept: impl Iterator<Item = usize>) {
        self.kept.clear();
        self.kept.extend(kept);
    }

    /// The normalized rows (n, d_0).
    pub fn rows(&self) -> &PanelMatrix {
        &self.h[0]
    }

    /// After [`Tape::forward`]: the sum of the loss over the rows, in nats under cross-entropy.
    pub fn loss(&self) -> f64 {
        self.loss
    }

    /// After [`Tape::forward`]: calls `found(row, column, x, x̂)` for every number that is not missing, in the
    /// normalized space. The order depends on the shape alone.
    pub fn each_reconstructed(&self, model: &Autoencoder, mut found: impl FnMut(usize, usize, f32, f32)) {
        let activation = model.spec().raw().decoder_activations[0];
        let logits = model.spec().raw().loss == Loss::BinaryCrossEntropy;
        for ((first, rows, x), (_, _, g)) in self.target().panels().zip(self.g[0].panels()) {
            for (place, (x, g)) in x.iter().zip(g).enumerate().filter(|(_, (x, _))| !x.is_nan()) {
                let x_hat = if logits { activation.value(*g) } else { *g };
                found(first + place % rows, place / rows, *x, x_hat);
            }
        }
    }

    /// Encodes and decodes the rows, keeps every activation, and computes the loss and its derivative. The rows are a
    /// part of a batch of `batch_rows` rows.
    ///
    /// # Panics
    /// If [`Tape::cut_codes`] got another number of rows.
    pub fn forward(&mut self, model: &Autoencoder, batch_rows: usize) {
        let (raw, layers) = (model.spec().raw(), model.layers());
        for (l, layer) in layers.iter().enumerate() {
            let (done, next) = self.h.split_at_mut(l + 1);
            let (input, output, bias) = (&done[l], &mut next[0], &layer.encoder_bias);
            let activation = raw.encoder_activations[l];
            if activation.has_slope_from_output() {
                layer.weight.encode_layer(input, bias, activation, output);
            } else {
                layer.weight.encode(input, output);
                keep_slope(&mut self.encoder_slope[l], activation, output, bias);
                activation.apply_with_bias(output, bias);
            }
        }
        cut(&mut self.h[layers.len()], &self.kept);
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
            let mut activation = raw.decoder_activations[l];
            if l == 0 && raw.loss == Loss::BinaryCrossEntropy {
                // The loss uses the logits, so that it cannot overflow.
                activation = Activation::Linear;
            }
            let (output, bias) = (&mut g[l], &layer.decoder_bias);
            if activation.has_slope_from_output() {
                layer.weight.decode_layer(input, bias, activation, output);
            } else {
                layer.weight.decode(input, output);
                keep_slope(&mut self.decoder_slope[l], activation, output, bias);
                activation.apply_with_bias(output, bias);
            }
        }
        self.share = 1.0 / batch_rows as f32;
        let (x, g, delta) = (self.clean.as_ref().unwrap_or(&self.h[0]), &self.g[0], &mut self.decoder_delta[0]);
        self.loss = match raw.loss {
            Loss::SquaredError => losses::squared_error(x, g, self.share, delta),
            Loss::BinaryCrossEntropy => losses::cross_entropy(x, g, self.share, delta),
        };
    }

    /// After [`Tape::forward`]: per row, the squared derivative of the loss by x̂ (by the logits under cross-entropy).
    /// It grows like the squared error.
    pub fn squared_slopes(&self) -> Vec<f32> {
        self.decoder_delta[0].squares_by_row()
    }

    /// Before [`Tape::backward`]: restricts the loss to the mean over the rows that are `kept`, which are a share of 1
    /// / `scale` of the batch.
    ///
    /// # Panics
    /// If `kept` does not have one entry per row.
    pub fn count_only(&mut self, kept: &[bool], scale: f32) {
        let delta = &mut self.decoder_delta[0];
        assert_eq!(kept.len(), delta.rows(), "one for each row");
        for (row, kept) in kept.iter().enumerate() {
            for column in 0..delta.columns() {
                let value = delta.at_mut(row, column);
                *value = if *kept { *value * scale } else { 0.0 };
            }
        }
    }

    /// After [`Tape::forward`]: computes the derivatives of the batch mean of the loss plus `activity_l2`·‖code‖².
    pub fn backward(&mut self, model: &Autoencoder, activity_l2: f32) {
        if model.spec().raw().loss == Loss::SquaredError {
            let activation = model.spec().raw().decoder_activations[0];
            multiply_slope(&mut self.decoder_delta[0], activation, &self.g[0], self.decoder_slope[0].as_ref());
        }
        self.back_to_code(model);
        if activity_l2 > 0.0 {
            let slope = 2.0 * activity_l2 * self.share;
            let last = model.layers().len() - 1;
            let (target, code) = (&mut self.encoder_delta[last], &self.h[last + 1]);
            target.values_mut().iter_mut().zip(code.values()).for_each(|(d, code)| *d += slope * code);
        }
        cut(&mut self.encoder_delta[model.layers().len() - 1], &self.kept);
        self.back_from_code(model);
    }

    /// From δᵈ_0 to the derivative by the code, which is stored in δᵉ_{K-1}.
    fn back_to_code(&mut self, model: &Autoencoder) {
        let (raw, layers) = (model.spec().raw(), model.layers());
        let last = layers.len() - 1;
        for (l, layer) in layers.iter().enumerate() {
            let (known, next) = self.decoder_delta.split_at_mut(l + 1);
            let delta = &known[l];
            losses::column_sums(delta, &mut self.decoder_bias[l]);
            // The input of decoder layer l is g_{l+1}, or the code.
            let (target, outputs) =
                if l == last { (&mut self.encoder_delta[l], &self.h[l + 1]) } else { (&mut next[0], &self.g[l + 1]) };
            layer.weight.encode(delta, target);
            if let Some(gain) = &layer.gain {
                losses::column_dots(target, Some(outputs), &mut self.gain[l]);
                scale_columns(target, gain);
            }
            if l < last {
                multiply_slope(target, raw.decoder_activations[l + 1], outputs, self.decoder_slope[l + 1].as_ref());
            }
        }
    }

    /// From the derivative by the code to all δᵉ.
    fn back_from_code(&mut self, model: &Autoencoder) {
        let (raw, layers) = (model.spec().raw(), model.layers());
        for l in (0..layers.len()).rev() {
            if l + 1 < layers.len() {
                let (target, known) = self.encoder_delta.split_at_mut(l + 1);
                layers[l + 1].weight.decode(&known[0], &mut target[l]);
            }
            let (delta, slope) = (&mut self.encoder_delta[l], self.encoder_slope[l].as_ref());
            multiply_slope(delta, raw.encoder_activations[l], &self.h[l + 1], slope);
            losses::column_sums(delta, &mut self.encoder_bias[l]);
        }
    }

    /// After [`Tape::forward`]: ½ ∂/∂x of ‖x - x̂‖²·`precision` + a(code), where `pull` (n, d_K) is ½ ∂a/∂code. Shape
    /// (n, d_0), in the normalized space; 0 where x is missing. Overwrites the gradients in the tape.
    pub(super) fn score_slopes(&mut self, model: &Autoencoder, pull: &PanelMatrix, precision: f32) -> PanelMatrix {
        let (raw, layers) = (model.spec().raw(), model.layers());
        let activation = raw.decoder_activations[0];
        let logits = raw.loss == Loss::BinaryCrossEntropy;
        let mut x_hat = self.g[0].clone();
        if logits {
            x_hat.map_from(&self.g[0], |logit| activation.value(logit));
        }
        let mut error = PanelMatrix::default();
        error.clone_from(self.target());
        for (error, x_hat) in error.values_mut().iter_mut().zip(x_hat.values()) {
            *error = if error.is_nan() { 0.0 } else { (*error - x_hat) * precision };
        }
        self.decoder_delta[0].map_from(&error, |error| -error);
        let slope = if logits { None } else { self.decoder_slope[0].as_ref() };
        multiply_slope(&mut self.decoder_delta[0], activation, &x_hat, slope);
        self.back_to_code(model);
        let by_code = &mut self.encoder_delta[layers.len() - 1];
        by_code.values_mut().iter_mut().zip(pull.values()).for_each(|(d, pull)| *d += pull);
        self.back_from_code(model);
        let mut slopes = PanelMatrix::default();
        layers[0].weight.decode(&self.encoder_delta[0], &mut slopes);
        slopes.values_mut().iter_mut().zip(error.values()).for_each(|(slope, error)| *slope += error);
        if let Some(x) = &self.clean {
            let missing = slopes.values_mut().iter_mut().zip(x.values()).filter(|(_, x)| x.is_nan());
            missing.for_each(|(slope, _)| *slope = 0.0);
        }
        slopes
    }

    /// The target of the reconstruction.
    fn target(&self) -> &PanelMatrix {
        self.clean.as_ref().unwrap_or(&self.h[0])
    }

    /// After [`Tape::forward`]: the code (n, d_K).
    pub(super) fn code(&self) -> &PanelMatrix {
        &self.h[self.h.len() - 1]
    }

    /// After [`Tape::forward`]: the output of encoder layer l (n, d_{l+1}).
    pub(super) fn encoded(&self, l: usize) -> &PanelMatrix {
        &self.h[l + 1]
    }

    /// The input of decoder layer l: γ_l∘g_{l+1}, g_{l+1}, or the code.
    fn decoder_input(&self, l: usize) -> &PanelMatrix {
        if self.gain[l].is_empty() { self.g.get(l + 1).unwrap_or(&self.h[l + 1]) } else { &self.gained[l] }
    }
}

/// Sets the columns of each row from its `kept` on to 0. Does nothing if `kept` is empty.
fn cut(codes: &mut PanelMatrix, kept: &[usize]) {
    assert!(kept.is_empty() || kept.len() == codes.rows(), "as many rows as codes that are cut");
    for (row, kept) in kept.iter().enumerate() {
        (*kept..codes.columns()).for_each(|column| *codes.at_mut(row, column) = 0.0);
    }
}

fn keep_slope(slope: &mut Option<PanelMatrix>, activation: Activation, product: &PanelMatrix, bias: &[f32]) {
    let slope = slope.get_or_insert_default();
    slope.clone_from(product);
    slope.each_column_mut(|j, part| part.iter_mut().for_each(|x| *x = activation.slope_at(*x + bias[j])));
}

fn multiply_slope(delta: &mut PanelMatrix, activation: Activation, outputs: &PanelMatrix, slope: Option<&PanelMatrix>) {
    match slope {
        Some(slope) => delta.values_mut().iter_mut().zip(slope.values()).for_each(|(d, s)| *d *= s),
        None => activation.multiply_slope(delta, outputs),
    }
}

#[cfg(test)]
mod tests;
