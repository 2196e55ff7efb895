//! One training step: forward and backward pass of a mini-batch, and the update of the weights.

use super::batches::{Batch, BatchLoader};
use super::corruption::Corruption;
use super::nested::NestedDropout;
use super::optimizer::{Optimizer, Step};
use super::orthogonality::Orthogonality;
use super::params::CheckedTrainSpec;
use super::shares::share_out;
use super::trim::lowest;
use crate::model::Autoencoder;
use crate::model::gradient::{Gradient, TAPE_ROWS, Tape, fill};
use crate::numeric::matmul::Panel;

/// Floating-point operations of a tape below which a step runs on one thread.
const PARALLEL_FLOPS_MIN: u64 = 4_000_000;

/// Whether threads share the work of a step.
pub(super) fn is_parallel(model: &Autoencoder) -> bool {
    model.spec().flops_per_row() * TAPE_ROWS as u64 >= PARALLEL_FLOPS_MIN
}

/// The state of steps besides model and optimizer; buffers are reused from step to step.
#[derive(Debug)]
pub(super) struct Steps {
    /// Tapes, each with a buffer for rows before they are transposed.
    tapes: Vec<(Tape, Vec<f32>)>,
    /// Number of tapes of the last measured batch.
    used: usize,
    gradient: Gradient,
    corruption: Corruption,
    nested: NestedDropout,
    orthogonality: Orthogonality,
    activity_l2: f32,
    l2: f32,
    trim: f64,
    seed: u64,
    parallel: bool,
}

impl Steps {
    pub(super) fn new(model: &Autoencoder, spec: &CheckedTrainSpec) -> Self {
        let (regularization, parallel) = (spec.regularization(), is_parallel(model));
        Self {
            tapes: Vec::new(),
            used: 0,
            gradient: Gradient::zeros(model),
            corruption: Corruption::new(&regularization),
            nested: NestedDropout::new(&regularization, model.spec().code_length()),
            orthogonality: Orthogonality::new(spec, parallel),
            activity_l2: regularization.activity_l2 as f32,
            l2: regularization.l2 as f32,
            trim: regularization.trim,
            seed: spec.spec().seed,
            parallel,
        }
    }

    /// Forward and backward pass of a mini-batch of an epoch, tape by tape. Returns the sum of the reconstruction loss
    /// over its rows.
    pub(super) fn measure(&mut self, model: &Autoencoder, loader: &BatchLoader, batch: &Batch, epoch: u32) -> f64 {
        self.used = batch.len().div_ceil(TAPE_ROWS);
        // The last batch of an epoch is smaller; the other tapes are kept.
        let room = self.used.max(self.tapes.len());
        self.tapes.resize_with(room, || (Tape::new(model.layers().len()), Vec::new()));
        let tapes = &mut self.tapes[..self.used];
        let (corruption, nested) = (self.corruption, self.nested);
        let (activity_l2, trim, seed) = (self.activity_l2, self.trim, self.seed);
        let work = |(index, (tape, scratch)): (usize, &mut (Tape, Vec<f32>))| {
            let first = index * TAPE_ROWS;
            let count = TAPE_ROWS.min(batch.len() - first);
            loader.gather(batch, first, count, model.normalizer(), scratch, tape.rows_mut());
            let normalizer = model.normalizer();
            if !corruption.is_none() || normalizer.takes_missing() {
                let rows = tape.changed_mut();
                (0..count).for_each(|i| corruption.apply(rows, i, batch.row(first + i), epoch, seed, &normalizer.fill));
                normalizer.fill_missing(rows);
            }
            if !nested.is_none() {
                tape.cut_codes((0..count).map(|i| nested.kept(batch.row(first + i), epoch, seed)));
            }
            tape.forward(model, batch.len());
            if trim == 0.0 {
                tape.backward(model, activity_l2);
            }
        };
        share_out(tapes.iter_mut().enumerate().collect(), self.parallel, |_| 1, work);
        if trim > 0.0 {
            let errors: Vec<Vec<f32>> = tapes.iter().map(|(tape, _)| tape.squared_slopes()).collect();
            let kept = lowest(&errors.concat(), trim);
            let scale = batch.len() as f32 / kept.iter().filter(|kept| **kept).count() as f32;
            let work = |((tape, _), kept): (&mut (Tape, Vec<f32>), &[bool])| {
                tape.count_only(kept, scale);
                tape.backward(model, activity_l2);
            };
            let jobs = tapes.iter_mut().zip(kept.chunks(TAPE_ROWS)).collect();
            share_out(jobs, self.parallel, |_| 1, work);
        }
        tapes.iter().map(|(tape, _)| tape.loss()).sum()
    }

    /// Updates the weights by the gradient from [`Steps::measure`], after `done` steps; retracts the matrices if that
    /// is due.
    pub(super) fn apply(&mut self, model: &mut Autoencoder, optimizer: &mut Optimizer, rate: f64, done: u64) {
        let tapes = &self.tapes[..self.used];
        self.orthogonality.prepare(model);
        self.gradient.collect_vectors(&tapes.iter().map(|(tape, _)| tape));
        let step = Step { rate, l2: self.l2, parallel: self.parallel };
        let slopes = |l: usize, panel: &mut Panel<'_>| {
            fill(panel, tapes.iter().map(|(tape, _)| tape), l);
            self.orthogonality.add_slope(l, panel);
        };
        optimizer.step(model, &mut self.gradient, &slopes, step);
        if self.orthogonality.is_due(done + 1) {
            self.orthogonality.retract(model);
        }
    }

    /// Ends an epoch after `done` steps, before anything is measured: retracts the matrices if that is due.
    pub(super) fn end_epoch(&mut self, model: &mut Autoencoder, done: u64) {
        if self.orthogonality.is_due_at_end(done) {
            self.orthogonality.retract(model);
        }
    }
}
