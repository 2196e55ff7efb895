//! What tying is worth in speed: the same step with one matrix a pair, and with two. An experiment; nothing else in the
//! program is untied.

use std::time::Instant;

use halfhitch::numeric::matmul::{Panel, Weights, panel_floats, panels};
use halfhitch::numeric::update::Adam;
use halfhitch::numeric::{Activation, Lanes, losses};

use super::support::median;

/// Rows that go forward and backward together, as in training.
const TAPE_ROWS: usize = 64;
const ELU: Activation = Activation::Elu { alpha: 1.0 };

/// A matrix with its gradient and its moments.
struct Matrix {
    weights: Weights,
    gradient: Vec<f32>,
    first: Vec<f32>,
    second: Vec<f32>,
}

/// A layer of the encoder and its mirror in the decoder.
struct Pair {
    encoder: Matrix,
    /// Of the shape of `encoder`, read the other way; none where they are tied.
    decoder: Option<Matrix>,
    encoder_bias: Vec<f32>,
    decoder_bias: Vec<f32>,
}

/// What a few rows leave behind.
#[derive(Default)]
struct Tape {
    h: Vec<Lanes>,
    g: Vec<Lanes>,
    encoder_delta: Vec<Lanes>,
    decoder_delta: Vec<Lanes>,
}

/// An autoencoder with ELU between and cross-entropy at the end. Biases stand still: they cost both the same.
pub(super) struct Experiment {
    pairs: Vec<Pair>,
    tapes: Vec<Tape>,
    batch: usize,
}

impl Matrix {
    fn new(outputs: usize, inputs: usize) -> Self {
        let scale = (inputs as f32).sqrt().recip();
        let values: Vec<f32> =
            (0..outputs * inputs).map(|i| (((i * 7_919) % 1_009) as f32 / 504.5 - 1.0) * scale).collect();
        let weights = Weights::from_row_major(outputs, inputs, &values);
        let zeros = vec![0.0; weights.panels().len()];
        Self { gradient: zeros.clone(), first: zeros.clone(), second: zeros, weights }
    }

    /// Panel by panel: the gradient, as `fill` says, and the update.
    fn step(&mut self, adam: Adam, mut fill: impl FnMut(&mut Panel<'_>)) {
        let (outputs, inputs) = (self.weights.outputs(), self.weights.inputs());
        let floats = panel_floats(inputs);
        let weights = self.weights.panels_mut().chunks_mut(floats);
        let moments = self.first.chunks_mut(floats).zip(self.second.chunks_mut(floats));
        for ((mut panel, w), (m, v)) in panels(&mut self.gradient, outputs, inputs).zip(weights).zip(moments) {
            fill(&mut panel);
            adam.apply(w, panel.values_mut(), m, v);
        }
    }
}

impl Pair {
    fn decoder(&self) -> &Weights {
        &self.decoder.as_ref().unwrap_or(&self.encoder).weights
    }
}

impl Experiment {
    pub(super) fn new(widths: &[usize], batch: usize, tied: bool) -> Self {
        let pairs: Vec<Pair> = widths
            .windows(2)
            .map(|pair| Pair {
                encoder: Matrix::new(pair[1], pair[0]),
                decoder: (!tied).then(|| Matrix::new(pair[1], pair[0])),
                encoder_bias: vec![0.0; pair[1]],
                decoder_bias: vec![0.0; pair[0]],
            })
            .collect();
        let tapes = (0..batch).step_by(TAPE_ROWS).map(|first| {
            let rows = TAPE_ROWS.min(batch - first);
            let lanes = || vec![Lanes::default(); pairs.len()];
            let mut tape = Tape { h: lanes(), g: lanes(), encoder_delta: lanes(), decoder_delta: lanes() };
            tape.h.push(Lanes::default());
            tape.h[0].reset(rows, widths[0]);
            tape.h[0].values_mut().iter_mut().enumerate().for_each(|(i, x)| *x = (i % 97) as f32 / 97.0);
            tape
        });
        Self { tapes: tapes.collect(), pairs, batch }
    }

    fn step(&mut self) {
        for tape in &mut self.tapes {
            forward_and_backward(tape, &self.pairs, self.batch);
        }
        let adam =
            Adam { scale: 1.0, beta1: 0.9, beta2: 0.999, correction1: 1.0, correction2: 1.0, rate: 1e-6, decay: 0.0 };
        let tapes = &self.tapes;
        let of_encoder = |l: usize, tape: &Tape, panel: &mut Panel<'_>, first: bool| {
            let (u, v) = (&tape.encoder_delta[l], &tape.h[l]);
            if first { panel.replace(u, v) } else { panel.add(u, v) }
        };
        let of_decoder = |l: usize, tape: &Tape, panel: &mut Panel<'_>, first: bool| {
            let (u, v) = (tape.g.get(l + 1).unwrap_or(&tape.h[l + 1]), &tape.decoder_delta[l]);
            if first { panel.replace(u, v) } else { panel.add(u, v) }
        };
        for (l, pair) in self.pairs.iter_mut().enumerate() {
            match &mut pair.decoder {
                None => pair.encoder.step(adam, |panel| {
                    for (i, tape) in tapes.iter().enumerate() {
                        of_encoder(l, tape, panel, i == 0);
                        of_decoder(l, tape, panel, false);
                    }
                }),
                Some(decoder) => {
                    let each = tapes.iter().enumerate();
                    pair.encoder
                        .step(adam, |panel| each.clone().for_each(|(i, tape)| of_encoder(l, tape, panel, i == 0)));
                    decoder.step(adam, |panel| each.clone().for_each(|(i, tape)| of_decoder(l, tape, panel, i == 0)));
                }
            }
        }
    }

    /// Samples a second over at least `seconds`.
    pub(super) fn speed(&mut self, seconds: f64) -> f64 {
        self.step();
        let (mut steps, started) = (0, Instant::now());
        loop {
            self.step();
            steps += 1;
            let elapsed = started.elapsed().as_secs_f64();
            if elapsed >= seconds {
                return (steps * self.batch) as f64 / elapsed;
            }
        }
    }
}

fn forward_and_backward(tape: &mut Tape, pairs: &[Pair], batch: usize) {
    let last = pairs.len() - 1;
    for (l, pair) in pairs.iter().enumerate() {
        let (done, next) = tape.h.split_at_mut(l + 1);
        let activation = if l == last { Activation::Linear } else { ELU };
        pair.encoder.weights.encode_layer(&done[l], &pair.encoder_bias, activation, &mut next[0]);
    }
    for (l, pair) in pairs.iter().enumerate().rev() {
        let (g, done) = tape.g.split_at_mut(l + 1);
        let input = done.first().unwrap_or(&tape.h[pairs.len()]);
        let activation = if l == 0 { Activation::Linear } else { ELU };
        pair.decoder().decode_layer(input, &pair.decoder_bias, activation, &mut g[l]);
    }
    let mut sums = Vec::new();
    losses::cross_entropy(&tape.h[0], &tape.g[0], 1.0 / batch as f32, &mut tape.decoder_delta[0]);
    for (l, pair) in pairs.iter().enumerate() {
        let (known, next) = tape.decoder_delta.split_at_mut(l + 1);
        losses::column_sums(&known[l], &mut sums);
        if l == last {
            pair.decoder().encode(&known[l], &mut tape.encoder_delta[l]);
        } else {
            pair.decoder().encode(&known[l], &mut next[0]);
            ELU.multiply_slope(&mut next[0], &tape.g[l + 1]);
        }
    }
    for l in (0..pairs.len()).rev() {
        losses::column_sums(&tape.encoder_delta[l], &mut sums);
        if l > 0 {
            let (target, known) = tape.encoder_delta.split_at_mut(l);
            pairs[l].encoder.weights.decode(&known[0], &mut target[l - 1]);
            ELU.multiply_slope(&mut target[l - 1], &tape.h[l]);
        }
    }
}

/// Medians over rounds: tied, untied, and their ratio.
pub(super) fn compare(widths: &[usize], batch: usize, rounds: usize, seconds: f64) -> (f64, f64, f64) {
    let (mut tied, mut untied) = (Experiment::new(widths, batch, true), Experiment::new(widths, batch, false));
    let rounds: Vec<(f64, f64)> = (0..rounds).map(|_| (tied.speed(seconds), untied.speed(seconds))).collect();
    let over = |f: fn(&(f64, f64)) -> f64| median(rounds.iter().map(f));
    (over(|round| round.0), over(|round| round.1), over(|round| round.0 / round.1))
}
