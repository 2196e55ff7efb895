//! Inline computation of tiny requests on the caller's thread: handing them to another thread would take longer than
//! computing them.

use std::time::{Duration, Instant};

use super::operation::of_model;
use super::queue::Queue;
use super::reply::Assembly;
use super::request::{BatchResult, Request};
use super::timing::{Batch, Timing};
use super::{BatchError, Output};
use crate::executor::catch;
use crate::numeric::{BufferPool, PanelMatrix};

/// Maximum work of an inline request: about 5 µs with AVX-512, less than the two wake-ups that it saves. An async
/// thread should not compute for more than about 50 µs.
const MULTIPLY_ADDS_MAX: usize = 200_000;

/// Whether a checked request is small enough to compute inline.
pub(super) fn is_tiny(request: &Request) -> bool {
    request.is_small() && request.size().work() <= MULTIPLY_ADDS_MAX
}

/// Computes the response of a tiny request. It is bit-identical to the response from any batch.
pub(super) fn answer(queue: &Queue, request: &Request) -> BatchResult {
    if queue.is_closed() {
        return Err(BatchError::ShuttingDown);
    }
    let (rows, started) = (request.rows.rows(), Instant::now());
    let computed = catch(|| {
        let mut batch = PanelMatrix::zeros(rows, request.rows.columns());
        request.load_into(0..rows, &mut batch, 0);
        let assembled = Instant::now();
        let computed = of_model(&request.model, request.operation, request.space(), &batch, &mut BufferPool::default());
        (computed, assembled)
    });
    let (computed, assembled) = computed.map_err(|_| BatchError::WorkerLost)?;
    let computed_at = Instant::now();
    let [assembly, compute] =
        [(started, assembled), (assembled, computed_at)].map(|(from, until)| until.saturating_duration_since(from));
    let mut timing = Timing::after(Duration::ZERO);
    let (number, operation) = (queue.count(rows), request.operation);
    let done = Batch { number, operation, rows, requests: 1, assembly, compute, computed_at };
    timing.add(&done);
    done.measure(&request.model.measures().kinds[operation as usize]);
    request.model.usage().batch(request.operation as usize, rows);
    if !computed.is_finite()
        && let Some(row) = computed.first_not_finite(0..rows)
    {
        return Err(BatchError::ResultNotFinite { row });
    }
    let whole = Assembly::new(rows, request.answer).add(0..rows, &computed, 0, request.response_form());
    whole.unwrap_or(Err(BatchError::WorkerLost)).map(|output| Output { timing, ..output })
}
