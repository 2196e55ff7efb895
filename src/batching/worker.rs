//! What a serving thread does: take a batch, compute it, answer everybody in it.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use super::policy::Piece;
use super::queue::Queue;
use super::reply::Computed;
use super::request::Request;
use super::{BatchError, Operation};
use crate::executor::catch;
use crate::numeric::Lanes;
use crate::registry::LoadedModel;

/// A thread without work keeps at most this much for its next batch.
const IDLE_BATCH_BYTES_MAX: usize = 1 << 20;

type Arithmetic = dyn Fn(&LoadedModel, Operation, &Lanes) -> Computed + Send + Sync;

/// The arithmetic of a batch: tests put their own here.
pub(super) struct Compute(Box<Arithmetic>);

impl Compute {
    pub(super) fn new(compute: impl Fn(&LoadedModel, Operation, &Lanes) -> Computed + Send + Sync + 'static) -> Self {
        Self(Box::new(compute))
    }

    /// The model's own.
    pub(super) fn of_models() -> Self {
        Self::new(of_model)
    }
}

/// The model's own arithmetic.
pub(super) fn of_model(model: &LoadedModel, operation: Operation, batch: &Lanes) -> Computed {
    let model = &model.artifact.model;
    match operation {
        Operation::Encode => model.encode(batch).into(),
        Operation::Decode => model.decode(batch).into(),
        Operation::Reconstruct => model.reconstruct(batch).into(),
    }
}

impl fmt::Debug for Compute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Compute")
    }
}

/// Serves until the queue is closed and empty.
pub(super) fn run(queue: &Queue, compute: &Compute) {
    let mut batch = Lanes::default();
    let mut batch_bytes_max = 0;
    loop {
        let Some(pieces) = queue.take(Instant::now()) else {
            if batch_bytes_max > IDLE_BATCH_BYTES_MAX {
                (batch, batch_bytes_max) = (Lanes::default(), 0);
            }
            if queue.wait() {
                continue;
            }
            return;
        };
        let served = catch(|| serve(queue, compute, &pieces, &mut batch));
        batch_bytes_max = batch_bytes_max.max(size_of_val(batch.values()));
        if let Err(panicked) = served {
            batch = Lanes::default();
            if let Some(piece) = pieces.first() {
                let question = piece.request.question();
                let (model, operation) = (&question.model.key, question.operation);
                tracing::error!(id = panicked.id, %model, ?operation, requests = pieces.len(), "a batch was lost");
            }
            for piece in &pieces {
                queue.fail(piece, BatchError::WorkerLost);
            }
        }
    }
}

/// A piece that is in the batch, from row `first` of it on.
struct Member<'a> {
    piece: &'a Piece<Arc<Request>>,
    first: usize,
}

impl Member<'_> {
    fn rows_of_batch(&self) -> Range<usize> {
        self.first..self.first + self.piece.rows.len()
    }
}

/// Computes one batch and answers the requests that end in it.
fn serve(queue: &Queue, compute: &Compute, pieces: &[Piece<Arc<Request>>], batch: &mut Lanes) {
    let mut members = Vec::with_capacity(pieces.len());
    let mut rows = 0;
    for piece in pieces {
        match piece.request.check_finite() {
            Ok(()) => {
                members.push(Member { piece, first: rows });
                rows += piece.rows.len();
            }
            Err(error) => queue.fail(piece, error.into()),
        }
    }
    let Some(first) = members.first() else { return };
    let question = first.piece.request.question();
    batch.reset(rows, question.rows.columns());
    for member in &members {
        let rows_of_request = member.piece.rows.clone();
        member.piece.request.question().rows.load_into(rows_of_request, batch, member.first);
    }

    let started = Instant::now();
    let computed = (compute.0)(&question.model, question.operation, batch);
    assert_eq!(computed.values.rows(), rows, "a result for every row of the batch");
    let ended = Instant::now();
    queue.count(rows);

    // Almost always all is well, and one quick look over the batch says so.
    let all_finite = computed.is_finite();
    for member in &members {
        let Member { piece, first } = member;
        let bad_row = if all_finite { None } else { computed.first_not_finite(member.rows_of_batch()) };
        match bad_row {
            None => piece.request.add(piece.rows.clone(), &computed, *first),
            Some(row) => queue.fail(piece, BatchError::ResultNotFinite { row: piece.rows.start + row - first }),
        }
    }
    queue.record(ended, rows, ended - started);
}
