//! Serving thread: takes a batch, computes it and completes its requests.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::operation::of_model;
use super::policy::Piece;
use super::queue::{Queue, Wait};
use super::request::QueuedRequest;
use super::timing::Batch;
use super::{BatchError, Operation};
use crate::executor::{MinCpuShare, catch};
use crate::model::Space;
use crate::model::computed::Computed;
use crate::numeric::{BufferPool, PanelMatrix};
use crate::registry::LoadedModel;

/// How long an idle thread keeps the matrices of its last batches for reuse.
const SPARE_KEPT: Duration = Duration::from_millis(50);

type Arithmetic = dyn Fn(&LoadedModel, Operation, Space, &PanelMatrix, &mut BufferPool) -> Computed + Send + Sync;

/// The arithmetic of a batch; tests can replace it.
pub(super) struct Compute(Box<Arithmetic>);

impl Compute {
    pub(super) fn new(
        compute: impl Fn(&LoadedModel, Operation, Space, &PanelMatrix, &mut BufferPool) -> Computed + Send + Sync + 'static,
    ) -> Self {
        Self(Box::new(compute))
    }

    /// The models' own arithmetic.
    pub(super) fn of_models() -> Self {
        Self::new(of_model)
    }
}

impl fmt::Debug for Compute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Compute")
    }
}

/// Serves until the queue is closed and empty.
pub(super) fn run(queue: &Queue, min_share: &MinCpuShare, compute: &Compute) {
    let mut buffers = BufferPool::default();
    loop {
        let Some(pieces) = queue.take(Instant::now()) else {
            match queue.wait(SPARE_KEPT) {
                Wait::Work => {}
                Wait::Quiet => {
                    buffers = BufferPool::default();
                    if queue.wait(Duration::MAX) == Wait::End {
                        return;
                    }
                }
                Wait::End => return,
            }
            continue;
        };
        let served = catch(|| serve(queue, compute, &pieces, &mut buffers));
        if let Err(panicked) = served {
            buffers = BufferPool::default();
            if let Some(piece) = pieces.first() {
                let request = piece.queued.request();
                let (model, operation) = (&request.model.key, request.operation);
                tracing::error!(id = panicked.id, %model, ?operation, requests = pieces.len(), "a batch was lost");
            }
            for piece in &pieces {
                queue.fail(piece, BatchError::WorkerLost);
            }
        }
        // Pause here, between batches, where this thread holds no request. Requests that arrive now wake another
        // thread.
        min_share.give_way(Instant::now());
    }
}

/// A piece of the batch. `first` is its first row in the batch.
struct Member<'a> {
    piece: &'a Piece<Arc<QueuedRequest>>,
    first: usize,
}

impl Member<'_> {
    fn rows_of_batch(&self) -> Range<usize> {
        self.first..self.first + self.piece.rows.len()
    }
}

/// Computes one batch, and completes the requests whose last rows are in it.
fn serve(queue: &Queue, compute: &Compute, pieces: &[Piece<Arc<QueuedRequest>>], buffers: &mut BufferPool) {
    let started = Instant::now();
    let mut members = Vec::with_capacity(pieces.len());
    let mut rows = 0;
    for piece in pieces {
        match piece.queued.check_values() {
            Ok(()) => {
                members.push(Member { piece, first: rows });
                rows += piece.rows.len();
            }
            Err(error) => queue.fail(piece, error.into()),
        }
    }
    let Some(first) = members.first() else { return };
    let request = first.piece.queued.request();
    let mut batch = buffers.take();
    batch.reset(rows, request.rows.columns());
    for member in &members {
        let rows_of_request = member.piece.rows.clone();
        member.piece.queued.request().load_into(rows_of_request, &mut batch, member.first);
    }
    let assembled = Instant::now();

    let computed = (compute.0)(&request.model, request.operation, request.space(), &batch, buffers);
    assert_eq!(computed.values.rows(), rows, "a result for every row of the batch");
    let computed_at = Instant::now();
    let [assembly, compute] =
        [(started, assembled), (assembled, computed_at)].map(|(from, until)| until.saturating_duration_since(from));
    let (number, operation, requests) = (queue.count(rows), request.operation, members.len());
    let done = Batch { number, operation, rows, requests, assembly, compute, computed_at };
    request.model.usage().batch(request.operation as usize, rows);
    done.measure(&request.model.measures().kinds[request.operation as usize]);

    // Almost always everything is finite, which one fast pass over the batch confirms.
    let all_finite = computed.is_finite();
    for member in &members {
        let Member { piece, first } = member;
        let bad_row = if all_finite { None } else { computed.first_not_finite(member.rows_of_batch()) };
        match bad_row {
            None => piece.queued.add(piece.rows.clone(), &computed, *first, started, &done),
            Some(row) => queue.fail(piece, BatchError::ResultNotFinite { row: piece.rows.start + row - first }),
        }
    }
    queue.record(&request.key(), Instant::now(), rows * request.size().row_work, started.elapsed());
    buffers.put(batch);
    buffers.put(computed.values);
}
