//! One caller's rows, from the moment they are accepted to their answer.

use std::ops::Range;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::load::{Claim, Load, Size};
use super::policy::Urgency;
use super::reply::{Assembly, Computed, ResponseForm};
use super::sync::Mutex;
use super::timing::{Batch, Timing};
use super::{BatchError, Operation, Output, lock};
use crate::model::score::FIGURES;
use crate::model::{Form, Matrix, MatrixError, Missing, ModelKey, Scorer, Space};
use crate::numeric::PanelMatrix;
use crate::registry::LoadedModel;

/// Larger requests are looked through for NaN on the compute threads: an async thread has some 50 µs for all it does.
pub(super) const SMALL_BYTES_MAX: usize = 16 << 10;

/// What a batch has in common.
pub(super) type Key = (ModelKey, Operation, Space);

/// What a caller wants.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) model: Arc<LoadedModel>,
    pub(super) operation: Operation,
    pub(super) rows: Matrix,
    /// The form of the answer.
    pub(super) answer: Form,
    pub(super) deadline: Option<Instant>,
    pub(super) urgency: Urgency,
}

impl Request {
    /// Refuses a wrong width, a deadline that has passed, and NaN in the rows if there are few.
    pub(super) fn check(&self, now: Instant) -> Result<(), BatchError> {
        let expected = columns(&self.model, self.operation);
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

    /// Refuses infinities, and NaN unless the model takes missing values and these are rows for it.
    fn check_values(&self) -> Result<(), MatrixError> {
        let takes = self.model.artifact.model.spec().raw().missing_values && !self.operation.decodes();
        self.rows.check_values(Missing::from(takes))
    }

    /// Whether it was looked through for NaN by [`Request::check`].
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

    /// How its result becomes its answer.
    pub(super) fn response_form(&self) -> ResponseForm<'_> {
        let is_denormalized = self.space() == Space::Normalized && self.operation.answers_rows();
        ResponseForm {
            normalizer: is_denormalized.then(|| self.model.artifact.model.normalizer()),
            given: (is_denormalized && self.operation == Operation::Impute).then_some(&self.rows),
        }
    }

    /// Copies the rows of `range` into `batch` from row `first` on.
    pub(super) fn load_into(&self, range: Range<usize>, batch: &mut PanelMatrix, first: usize) {
        match self.space() {
            Space::Normalized if !self.operation.decodes() => {
                let normalizer = self.model.artifact.model.normalizer();
                self.rows.load_normalized_into(range, batch, first, normalizer);
            }
            // Codes are normalized as they are.
            Space::Normalized | Space::Input => self.rows.load_into(range, batch, first),
        }
    }

    pub(super) fn size(&self) -> Size {
        size(&self.model, self.operation, self.rows.rows(), self.rows.bytes(), self.answer)
    }
}

/// Columns of the rows that are asked about.
pub(super) fn columns(model: &LoadedModel, operation: Operation) -> usize {
    let spec = model.artifact.model.spec();
    match operation {
        Operation::Encode
        | Operation::Reconstruct
        | Operation::ReconstructPseudoInverse
        | Operation::Score
        | Operation::Explain
        | Operation::Impute => spec.features(),
        Operation::Decode | Operation::DecodePseudoInverse => spec.code_length(),
    }
}

/// Size of a request of this many rows, with its response in the form `answer`.
pub(super) fn size(model: &LoadedModel, operation: Operation, rows: usize, matrix_bytes: usize, answer: Form) -> Size {
    let spec = model.artifact.model.spec();
    let of_answer = |columns: usize| columns * answer.number_bytes();
    let answer_bytes = match operation {
        Operation::Encode => of_answer(spec.code_length()),
        Operation::Decode | Operation::DecodePseudoInverse | Operation::Impute => of_answer(spec.features()),
        // Two errors beside each row.
        Operation::Reconstruct | Operation::ReconstructPseudoInverse => of_answer(spec.features()) + 8,
        Operation::Explain => of_answer(spec.features() + FIGURES),
        Operation::Score => of_answer(FIGURES),
    };
    let once: usize = spec.raw().widths.windows(2).map(|pair| pair[0] * pair[1]).sum();
    let inverse = || model.inverse().map_or(once, |inverse| inverse.multiply_adds(&model.artifact.model));
    let whitening = model.scorer().map_or(0, Scorer::multiply_adds);
    let row_work = match operation {
        Operation::Encode | Operation::Decode => once,
        Operation::Reconstruct | Operation::Impute => 2 * once,
        Operation::DecodePseudoInverse => inverse(),
        Operation::ReconstructPseudoInverse => once + inverse(),
        Operation::Score => 2 * once + whitening,
        // There, there again and back.
        Operation::Explain => 6 * once + 3 * whitening,
    };
    let bytes = rows.saturating_mul(answer_bytes).saturating_add(matrix_bytes);
    Size { rows, bytes, row_work }
}

fn has_passed(deadline: Option<Instant>, now: Instant) -> bool {
    deadline.is_some_and(|deadline| deadline <= now)
}

/// What a caller gets.
pub(super) type BatchResult = Result<Output, BatchError>;

/// A question that was accepted.
#[derive(Debug)]
pub(super) struct QueuedRequest {
    request: Request,
    claim: Claim,
    /// Found out by the first thread that needs it.
    checked: OnceLock<Result<(), MatrixError>>,
    /// Taken by the answer. Locked for a moment only, also under the queue's lock.
    sender: Mutex<Option<oneshot::Sender<BatchResult>>>,
    /// Locked while rows are copied; never under the queue's lock.
    assembly: Mutex<Assembly>,
    accepted: Instant,
    timing: Mutex<Option<Timing>>,
}

impl QueuedRequest {
    /// A question that [`Request::check`] has let pass.
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

    /// Whether somebody waits for an answer that can still be in time.
    pub(super) fn is_wanted(&self, now: Instant) -> bool {
        !self.has_expired(now) && lock(&self.sender).as_ref().is_some_and(|sender| !sender.is_closed())
    }

    /// Whether its answer would come too late.
    pub(super) fn has_expired(&self, now: Instant) -> bool {
        has_passed(self.request.deadline, now)
    }

    /// How long ago it was accepted.
    pub(super) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.accepted)
    }

    /// As [`Request::check_values`].
    pub(super) fn check_values(&self) -> Result<(), MatrixError> {
        self.checked.get_or_init(|| self.request.check_values()).clone()
    }

    /// Adds rows (see [`Assembly::add`]) of a batch that began at `started`, and answers if they were the last.
    pub(super) fn add(&self, rows: Range<usize>, computed: &Computed, first: usize, started: Instant, batch: &Batch) {
        if lock(&self.sender).is_none() {
            return; // Another piece has failed it.
        }
        self.claim.rows_done(rows.len());
        let queued = started.saturating_duration_since(self.accepted);
        lock(&self.timing).get_or_insert_with(|| Timing::after(queued)).add(batch);
        let whole = lock(&self.assembly).add(rows, computed, first, self.request.response_form());
        if let Some(answer) = whole {
            self.answer(answer);
        }
    }

    /// The first answer is the one that counts; a caller that left gets none.
    pub(super) fn answer(&self, answer: BatchResult) {
        let sender = lock(&self.sender).take();
        if let Some(sender) = sender {
            // Before the answer is out: whoever has it finds room for the next request.
            self.claim.release();
            let timing = lock(&self.timing).unwrap_or_default();
            let _ = sender.send(answer.map(|output| Output { timing, ..output }));
        }
    }
}
