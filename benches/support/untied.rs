//! The untied experiment: an autoencoder whose decoder can have its own matrices. It uses the program's kernels and
//! measures the effect of tying; nothing else in the program is untied. Tests and benchmarks share this file.
#![allow(dead_code, reason = "each of them uses a part of this")]

use halfhitch::model::Loss;
use halfhitch::numeric::linalg::orthonormalize_rows;
use halfhitch::numeric::matmul::{Panel, Weights, panel_floats, panels};
use halfhitch::numeric::rng::{Stream, Use};
use halfhitch::numeric::update::Adam;
use halfhitch::numeric::{Activation, PanelMatrix, losses};

/// Rows of a forward and backward pass, as in training.
pub(crate) const TAPE_ROWS: usize = 64;
/// Activation of all layers except the code and the reconstruction, which are linear (logits for cross-entropy).
pub(crate) const HIDDEN: Activation = Activation::Elu { alpha: 1.0 };
const BETA1: f64 = 0.9;
const BETA2: f64 = 0.999;

/// The relation between the matrices of encoder and decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tying {
    /// One matrix per pair, updated with the gradients of both of its uses.
    Tied,
    /// Two matrices that start equal, each updated with both gradients: they stay equal and behave like one.
    KeptEqual,
    /// Two matrices, each updated with its own gradient.
    Untied,
}

/// Parameters with their gradient and Adam's moments.
pub(crate) struct Moved<T> {
    pub(crate) values: T,
    pub(crate) gradient: Vec<f32>,
    first: Vec<f32>,
    second: Vec<f32>,
}

/// A layer of the encoder and its mirror in the decoder.
pub(crate) struct Pair {
    pub(crate) encoder: Moved<Weights>,
    /// The decoder matrix, in the shape of `encoder` and used transposed; `None` if tied.
    pub(crate) decoder: Option<Moved<Weights>>,
    pub(crate) encoder_bias: Moved<Vec<f32>>,
    pub(crate) decoder_bias: Moved<Vec<f32>>,
}

/// A network with ELU in the hidden layers and a linear code.
pub(crate) struct Network {
    pub(crate) pairs: Vec<Pair>,
    tying: Tying,
    loss: Loss,
    tapes: Vec<Tape>,
    batch: usize,
    steps: i32,
}

/// Intermediate results of a few rows, for the gradient.
struct Tape {
    h: Vec<PanelMatrix>,
    g: Vec<PanelMatrix>,
    encoder_delta: Vec<PanelMatrix>,
    decoder_delta: Vec<PanelMatrix>,
    /// Sums over the rows.
    encoder_bias: Vec<Vec<f32>>,
    decoder_bias: Vec<Vec<f32>>,
    loss: f64,
}

/// The uses of a matrix that its gradient covers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Of {
    Encoder,
    Decoder,
    Both,
}

/// Random first weights with orthonormal rows (columns, where a layer expands): the program's default.
pub(crate) fn orthonormal(widths: &[usize], seed: u64) -> Vec<Weights> {
    let layers = widths.windows(2).enumerate().map(|(l, pair)| {
        let (inputs, outputs) = (pair[0], pair[1]);
        let (rows, columns) = (inputs.min(outputs), inputs.max(outputs));
        let mut stream = Stream::new(seed, 0, l as u64, Use::Weights);
        let mut values: Vec<f64> = (0..rows * columns).map(|_| stream.normal()).collect();
        orthonormalize_rows(&mut values, columns);
        let at = |o: usize, i: usize| if outputs <= inputs { values[o * columns + i] } else { values[i * columns + o] };
        let values: Vec<f32> = (0..outputs * inputs).map(|k| at(k / inputs, k % inputs) as f32).collect();
        Weights::from_row_major(outputs, inputs, &values)
    });
    layers.collect()
}

impl<T> Moved<T> {
    fn new(values: T, count: usize) -> Self {
        Self { values, gradient: vec![0.0; count], first: vec![0.0; count], second: vec![0.0; count] }
    }
}

impl Moved<Weights> {
    fn matrix(weights: &Weights) -> Self {
        Self::new(weights.clone(), weights.panels().len())
    }

    /// Updates panel by panel, while the panel's gradient is in the cache.
    fn step(&mut self, adam: Adam, tapes: &[Tape], l: usize, of: Of) {
        let (outputs, inputs) = (self.values.outputs(), self.values.inputs());
        let floats = panel_floats(inputs);
        let weights = self.values.panels_mut().chunks_mut(floats);
        let moments = self.first.chunks_mut(floats).zip(self.second.chunks_mut(floats));
        for ((mut panel, w), (m, v)) in panels(&mut self.gradient, outputs, inputs).zip(weights).zip(moments) {
            fill(&mut panel, tapes, l, of);
            adam.apply(w, panel.values_mut(), m, v);
        }
    }
}

impl Moved<Vec<f32>> {
    fn zeros(count: usize) -> Self {
        Self::new(vec![0.0; count], count)
    }

    fn step<'a>(&mut self, adam: Adam, sums: impl Iterator<Item = &'a Vec<f32>>) {
        self.gradient.fill(0.0);
        sums.for_each(|sums| self.gradient.iter_mut().zip(sums).for_each(|(sum, value)| *sum += value));
        adam.apply(&mut self.values, &self.gradient, &mut self.first, &mut self.second);
    }
}

/// Sums the tapes into a panel of a gradient, overwriting it, in the order of [`halfhitch::model::gradient::fill`].
fn fill(panel: &mut Panel<'_>, tapes: &[Tape], l: usize, of: Of) {
    for (i, tape) in tapes.iter().enumerate() {
        if of != Of::Decoder {
            let (u, v) = (&tape.encoder_delta[l], &tape.h[l]);
            if i == 0 { panel.replace(u, v) } else { panel.add(u, v) }
        }
        if of != Of::Encoder {
            let (u, v) = (tape.g.get(l + 1).unwrap_or(&tape.h[l + 1]), &tape.decoder_delta[l]);
            if i == 0 && of == Of::Decoder { panel.replace(u, v) } else { panel.add(u, v) }
        }
    }
}

impl Pair {
    fn decoder(&self) -> &Weights {
        &self.decoder.as_ref().unwrap_or(&self.encoder).values
    }
}

impl Network {
    /// A network with these first weights and zero moments; an untied decoder starts from copies of them.
    pub(crate) fn new(first: &[Weights], tying: Tying, loss: Loss) -> Self {
        let pairs = first.iter().map(|weights| Pair {
            encoder: Moved::matrix(weights),
            decoder: (tying != Tying::Tied).then(|| Moved::matrix(weights)),
            encoder_bias: Moved::zeros(weights.outputs()),
            decoder_bias: Moved::zeros(weights.inputs()),
        });
        Self { pairs: pairs.collect(), tying, loss, tapes: Vec::new(), batch: 0, steps: 0 }
    }

    /// An untied network whose decoder starts from other weights.
    pub(crate) fn apart(encoder: &[Weights], decoder: &[Weights], loss: Loss) -> Self {
        let mut network = Self::new(encoder, Tying::Untied, loss);
        let pairs = network.pairs.iter_mut().zip(decoder);
        pairs.for_each(|(pair, weights)| pair.decoder = Some(Moved::matrix(weights)));
        network
    }

    /// Loads the row-major rows for the next steps.
    pub(crate) fn load(&mut self, rows: &[f32]) {
        let features = self.pairs[0].encoder.values.inputs();
        self.batch = rows.len() / features;
        self.tapes.resize_with(self.batch.div_ceil(TAPE_ROWS), || Tape::new(self.pairs.len()));
        for (tape, rows) in self.tapes.iter_mut().zip(rows.chunks(TAPE_ROWS * features)) {
            tape.h[0].reset(rows.len() / features, features);
            tape.h[0].load(0, rows);
        }
    }

    /// One Adam step on the mean loss over the rows; returns the sum of the loss before the step.
    pub(crate) fn step(&mut self, rate: f32) -> f64 {
        for tape in &mut self.tapes {
            tape.forward(&self.pairs);
            tape.backward(&self.pairs, self.loss, self.batch);
        }
        self.steps += 1;
        let correction = |beta: f64| (1.0 - beta.powi(self.steps)).recip() as f32;
        let (correction1, correction2) = (correction(BETA1), correction(BETA2));
        let (beta1, beta2) = (BETA1 as f32, BETA2 as f32);
        let adam = Adam { scale: 1.0, beta1, beta2, correction1, correction2, rate, decay: 0.0 };
        let (of_encoder, of_decoder) =
            if self.tying == Tying::Untied { (Of::Encoder, Of::Decoder) } else { (Of::Both, Of::Both) };
        let tapes = &self.tapes;
        for (l, pair) in self.pairs.iter_mut().enumerate() {
            pair.encoder.step(adam, tapes, l, of_encoder);
            if let Some(decoder) = &mut pair.decoder {
                decoder.step(adam, tapes, l, of_decoder);
            }
            pair.encoder_bias.step(adam, tapes.iter().map(|tape| &tape.encoder_bias[l]));
            pair.decoder_bias.step(adam, tapes.iter().map(|tape| &tape.decoder_bias[l]));
        }
        tapes.iter().map(|tape| tape.loss).sum()
    }

    /// Mean squared error of these rows.
    pub(crate) fn squared_error(&self, rows: &[PanelMatrix]) -> f64 {
        let mut tape = Tape::new(self.pairs.len());
        let mut delta = PanelMatrix::default();
        let (mut sum, mut count) = (0.0, 0);
        for rows in rows {
            tape.h[0].clone_from(rows);
            tape.forward(&self.pairs);
            if self.loss == Loss::BinaryCrossEntropy {
                tape.g[0].values_mut().iter_mut().for_each(|logit| *logit = Activation::Sigmoid.value(*logit));
            }
            sum += losses::squared_error(rows, &tape.g[0], 1.0, &mut delta);
            count += rows.rows();
        }
        sum / count as f64
    }
}

impl Tape {
    fn new(layers: usize) -> Self {
        let lanes = |count| vec![PanelMatrix::default(); count];
        Self {
            h: lanes(layers + 1),
            g: lanes(layers),
            encoder_delta: lanes(layers),
            decoder_delta: lanes(layers),
            encoder_bias: vec![Vec::new(); layers],
            decoder_bias: vec![Vec::new(); layers],
            loss: 0.0,
        }
    }

    fn forward(&mut self, pairs: &[Pair]) {
        let last = pairs.len() - 1;
        for (l, pair) in pairs.iter().enumerate() {
            let (done, next) = self.h.split_at_mut(l + 1);
            let activation = if l == last { Activation::Linear } else { HIDDEN };
            pair.encoder.values.encode_layer(&done[l], &pair.encoder_bias.values, activation, &mut next[0]);
        }
        for (l, pair) in pairs.iter().enumerate().rev() {
            let (g, done) = self.g.split_at_mut(l + 1);
            let input = done.first().unwrap_or(&self.h[pairs.len()]);
            let activation = if l == 0 { Activation::Linear } else { HIDDEN };
            pair.decoder().decode_layer(input, &pair.decoder_bias.values, activation, &mut g[l]);
        }
    }

    fn backward(&mut self, pairs: &[Pair], loss: Loss, batch: usize) {
        let last = pairs.len() - 1;
        let (x, g, share) = (&self.h[0], &self.g[0], 1.0 / batch as f32);
        self.loss = match loss {
            Loss::SquaredError => losses::squared_error(x, g, share, &mut self.decoder_delta[0]),
            Loss::BinaryCrossEntropy => losses::cross_entropy(x, g, share, &mut self.decoder_delta[0]),
        };
        for (l, pair) in pairs.iter().enumerate() {
            let (known, next) = self.decoder_delta.split_at_mut(l + 1);
            losses::column_sums(&known[l], &mut self.decoder_bias[l]);
            if l == last {
                pair.decoder().encode(&known[l], &mut self.encoder_delta[l]);
            } else {
                pair.decoder().encode(&known[l], &mut next[0]);
                HIDDEN.multiply_slope(&mut next[0], &self.g[l + 1]);
            }
        }
        for l in (0..pairs.len()).rev() {
            losses::column_sums(&self.encoder_delta[l], &mut self.encoder_bias[l]);
            if l > 0 {
                let (target, known) = self.encoder_delta.split_at_mut(l);
                pairs[l].encoder.values.decode(&known[0], &mut target[l - 1]);
                HIDDEN.multiply_slope(&mut target[l - 1], &self.h[l]);
            }
        }
    }
}
