//! One request, from acceptance to response.

use std::ops::Range;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::load::{Claim, Load, Size};
use super::policy::Urgency;
use super::reply::{Assembly, ResponseForm};
use super::sync::{Mutex, lock};
use super::timing::{Batch, Timing};
use super::{BatchError, Operation, Output};
use crate::model::computed::Computed;
use crate::model::{Form, Matrix, MatrixError, Missing, ModelKey, Space};
use crate::numeric::PanelMatrix;
use crate::registry::LoadedModel;

/// Maximum matrix bytes of a small request. Larger requests are checked for NaN on the serving threads, because an
/// async thread should not work for more than about 50 µs.
pub(super) const SMALL_BYTES_MAX: usize = 16 << 10;

/// What all requests of a batch have in common.
pub(super) type Key = (ModelKey, Operation, Space);

/// A caller's request.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) model: Arc<LoadedModel>,
    pub(super) operation: Operation,
    pub(super) rows: Matrix,
    /// Number format of the response.
    pub(super) answer: Form,
    pub(super) deadline: Option<Instant>,
    pub(super) urgency: Urgency,
}

impl Request {
    /// Rejects a wrong number of columns, a passed deadline and, for small requests, values that are not allowed.
    pub(super) fn check(&self, now: Instant) -> Result<(), BatchError> {
        let expected = self.operation.columns(&self.model);
        let what = if self.operation.decodes() { "the code" } else { "the input" };
        if self.rows.columns() != expected {
            return Err(BatchError::Columns { what, got: self.rows.columns(), expected });
        }
        if has_passed(self.deadline, now) {
            return Err(BatchError::DeadlineExceeded);
        }
        if self.is_small() {
            self.check_values()?;
        }
        Ok(())
    }

    /// Rejects infinities. Rejects NaN unless these are rows and the model accepts missing values.
    fn check_values(&self) -> Result<(), MatrixError> {
        let takes = self.model.artifact.model.spec().raw().missing_values && !self.operation.decodes();
        self.rows.check_values(Missing::from(takes))
    }

    /// Whether [`Request::check`] checks the values.
    pub(super) fn is_small(&self) -> bool {
        self.rows.bytes() <= SMALL_BYTES_MAX
    }

    pub(super) fn key(&self) -> Key {
        (self.model.key.clone(), self.operation, self.space())
    }

    /// The space of its rows in a batch.
    pub(super) fn space(&self) -> Space {
        self.operation.space(&self.model, self.rows.form(), self.answer)
    }

    /// How its result is converted to its response.
    pub(super) fn response_form(&self) -> ResponseForm<'_> {
        let is_denormalized = self.space() == Space::Normalized && self.operation.answers_rows();
        ResponseForm {
            normalizer: is_denormalized.then(|| self.model.artifact.model.normalizer()),
            given: (is_denormalized && self.operation.keeps_values()).then_some(&self.rows),
        }
    }

    /// Copies the rows of `range` into `batch` from row `first` on.
    pub(super) fn load_into(&self, range: Range<usize>, batch: &mut PanelMatrix, first: usize) {
        match self.space() {
            Space::Normalized if !self.operation.decodes() => {
                let normalizer = self.model.artifact.model.normalizer();
                self.rows.load_normalized_into(range, batch, first, normalizer);
            }
            // Codes have no other space.
            Space::Normalized | Space::Input => self.rows.load_into(range, batch, first),
        }
    }

    pub(super) fn size(&self) -> Size {
        self.operation.size(&self.model, self.rows.rows(), self.rows.bytes(), self.answer)
    }
}

fn has_passed(deadline: Option<Instant>, now: Instant) -> bool {
    deadline.is_some_and(|deadline| deadline <= now)
}

/// Result or error of a request.
pub(super) type BatchResult = Result<Output, BatchError>;

/// An accepted request.
#[derive(Debug)]
pub(super) struct QueuedRequest {
    request: Request,
    claim: Claim,
    /// Result of the value check, made by the first thread that needs it.
    checked: OnceLock<Result<(), MatrixError>>,
    /// Taken when the response is sent. Locked only briefly, also under the queue's lock.
    sender: Mutex<Option<oneshot::Sender<BatchResult>>>,
    /// Locked while rows are copied; never under the queue's lock.
    assembly: Mutex<Assembly>,
    accepted: Instant,
    timing: Mutex<Option<Timing>>,
}

impl QueuedRequest {
    /// Wraps a request that passed [`Request::check`].
    pub(super) fn new(request: Request, loads: [Arc<Load>; 2]) -> (Arc<Self>, oneshot::Receiver<BatchResult>) {
        let (sender, receiver) = oneshot::channel();
        let queued = Self {
            claim: Claim::new(loads, request.size()),
            checked: if request.is_small() { OnceLock::from(Ok(())) } else { OnceLock::new() },
            sender: Mutex::new(Some(sender)),
            accepted: Instant::now(),
            timing: Mutex::default(),
            assembly: Mutex::new(Assembly::new(request.rows.rows(), request.answer)),
            request,
        };
        (Arc::new(queued), receiver)
    }

    pub(super) fn request(&self) -> &Request {
        &self.request
    }

    /// Whether the caller still waits and the deadline has not passed.
    pub(super) fn is_wanted(&self, now: Instant) -> bool {
        !self.has_expired(now) && lock(&self.sender).as_ref().is_some_and(|sender| !sender.is_closed())
    }

    /// Whether its deadline has passed.
    pub(super) fn has_expired(&self, now: Instant) -> bool {
        has_passed(self.request.deadline, now)
    }

    /// Time since it was accepted.
    pub(super) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.accepted)
    }

    /// Result of [`Request::check_values`], computed once.
    pub(super) fn check_values(&self) -> Result<(), MatrixError> {
        self.checked.get_or_init(|| self.request.check_values()).clone()
    }

    /// Adds rows of a batch that started at `started` (see [`Assembly::add`]), and sends the response if it is
    /// complete.
    pub(super) fn add(&self, rows: Range<usize>, computed: &Computed, first: usize, started: Instant, batch: &Batch) {
        if lock(&self.sender).is_none() {
            return; // The request was completed before, for example because another piece failed.
        }
        self.claim.rows_done(rows.len());
        let queued = started.saturating_duration_since(self.accepted);
        lock(&self.timing).get_or_insert_with(|| Timing::after(queued)).add(batch);
        let whole = lock(&self.assembly).add(rows, computed, first, self.request.response_form());
        if let Some(answer) = whole {
            self.answer(answer);
        }
    }

    /// Sends the response. Only the first one counts; a caller that left gets none.
    pub(super) fn answer(&self, answer: BatchResult) {
        let sender = lock(&self.sender).take();
        if let Some(sender) = sender {
            // Release before sending, so that a caller with a response finds room for its next request.
            self.claim.release();
            let timing = lock(&self.timing).unwrap_or_default();
            let _ = sender.send(answer.map(|output| Output { timing, ..output }));
        }
    }
}
