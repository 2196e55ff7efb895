//! A thread that pulls batches, computes them and answers each caller.

use std::time::Instant;

use super::queue::{Batch, Queue};
use super::{BatchError, Operation};
use crate::executor::catch;
use crate::numeric::Lanes;
use crate::registry::LoadedModel;

/// A batch's buffer above this is given back when the batch is done, so that an idle thread holds little.
const KEPT_VALUES_MAX: usize = 1 << 18;

/// Results of a batch.
#[derive(Debug)]
pub(super) struct Computed {
    /// (n, columns of the answer)
    pub(super) values: Lanes,
    /// Reconstruct only: squared errors per row, normalised and in input units.
    pub(super) errors: Option<(Vec<f32>, Vec<f32>)>,
}

/// The arithmetic of a batch.
pub(super) type Compute = dyn Fn(&LoadedModel, Operation, &Lanes) -> Computed + Send + Sync;

/// The real arithmetic.
pub(super) fn compute(model: &LoadedModel, operation: Operation, rows: &Lanes) -> Computed {
    let model = &model.artifact.model;
    match operation {
        Operation::Encode => Computed { values: model.encode(rows), errors: None },
        Operation::Decode => Computed { values: model.decode(rows), errors: None },
        Operation::Reconstruct => {
            let done = model.reconstruct(rows);
            Computed { values: done.rows, errors: Some((done.squared_errors, done.squared_errors_input_units)) }
        }
    }
}

/// Serves batches until the queue is closed and empty.
pub(super) fn run(queue: &Queue, compute: &Compute) {
    let mut rows = Lanes::default();
    while let Some(mut batch) = queue.next() {
        let started = Instant::now();
        // A request that cannot be computed is refused here, before it is part of anything.
        batch.members.retain(|(request, piece)| match request.rows.check_finite_rows(piece.clone()) {
            Ok(()) => true,
            Err(error) => {
                request.fail(BatchError::Matrix(error));
                false
            }
        });
        if batch.members.is_empty() {
            continue;
        }
        if catch(|| serve(&batch, &mut rows, compute)).is_err() {
            for (request, _) in &batch.members {
                request.fail(BatchError::WorkerLost);
            }
            rows = Lanes::default();
        }
        queue.served(batch.rows(), started.elapsed());
        if rows.values().len() > KEPT_VALUES_MAX {
            rows = Lanes::default();
        }
    }
}

fn serve(batch: &Batch, rows: &mut Lanes, compute: &Compute) {
    let columns = batch.operation.columns(&batch.model).0;
    rows.reset(batch.rows(), columns);
    let mut first = 0;
    for (request, piece) in &batch.members {
        request.rows.load_into(piece.clone(), rows, first);
        first += piece.len();
    }
    let computed = compute(&batch.model, batch.operation, rows);
    let mut first = 0;
    for (request, piece) in &batch.members {
        request.put(piece.clone(), &computed, first);
        first += piece.len();
    }
}
