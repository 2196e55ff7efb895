//! Rows in bulk: every message from one version, and where there is no room now, bulk waits.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{sleep, timeout_at};

use super::{Aligned, Decoder, NamedRows, Served, Service, ServiceError, check_code_length};
use crate::batching::{BatchError, BatchingConfig, Operation, Urgency};
use crate::model::{AnswerFormat, ColumnMap, Matrix, ModelKey, ModelName, Selector};

/// A refused message comes back no later than this: other room may become free earlier than was said.
const RETRY_AFTER_MAX: Duration = Duration::from_millis(100);

/// What bulk may take of the queue: half of its rows and half of its bytes, of all streams together. Whoever does not
/// wait finds the rest.
///
/// First come, first served; a message that is larger than all of it has it alone.
#[derive(Debug)]
pub(super) struct BulkQuota {
    rows_max: usize,
    bytes_max: usize,
    shares: Semaphore,
}

/// Rows and bytes in one measure: a message takes as large a share of the room as the larger of its two parts.
const SHARES: u32 = 1 << 16;

impl BulkQuota {
    pub(super) fn new(queue: BatchingConfig) -> Self {
        Self {
            rows_max: queue.queue_rows_max.div_ceil(2),
            bytes_max: queue.queue_bytes_max.div_ceil(2),
            shares: Semaphore::new(SHARES as usize),
        }
    }

    /// Waits for a place, which is free again when it is dropped.
    async fn place(&self, rows: usize, bytes: usize) -> Result<SemaphorePermit<'_>, ServiceError> {
        // Never closed.
        self.shares.acquire_many(self.share(rows, bytes)).await.map_err(|_| BatchError::ShuttingDown.into())
    }

    fn share(&self, rows: usize, bytes: usize) -> u32 {
        let share = |part: usize, whole: usize| (part as u128 * u128::from(SHARES)).div_ceil(whole as u128);
        let larger = share(rows, self.rows_max).max(share(bytes, self.bytes_max));
        u32::try_from(larger).unwrap_or(SHARES).clamp(1, SHARES)
    }
}

/// What a stream is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BulkTask {
    /// Rows to codes.
    Encode {
        /// Only the first numbers of each code, so many; 0: all of them.
        code_length: u32,
    },
    /// Codes to rows.
    Decode(Decoder),
}

impl BulkTask {
    /// What is computed.
    pub fn operation(self) -> Operation {
        match self {
            Self::Encode { .. } => Operation::Encode,
            Self::Decode(decoder) => decoder.decoding(),
        }
    }

    /// The field that says more than the stream's name does.
    pub fn field(self) -> &'static str {
        match self {
            Self::Encode { .. } => "code_length",
            Self::Decode(_) => "decoder",
        }
    }

    /// The length that codes are cut to; 0 if they are not.
    fn code_length(self) -> u32 {
        match self {
            Self::Encode { code_length } => code_length,
            Self::Decode(_) => 0,
        }
    }
}

/// A task of one version, for many messages.
///
/// It holds the version's name and not its matrices: an idle stream keeps no model in memory.
#[derive(Clone, Debug)]
pub struct Bulk {
    service: Service,
    key: ModelKey,
    task: BulkTask,
    answer_columns: usize,
    code_length: usize,
}

impl Service {
    /// Chooses the version that serves all of a stream, and loads it, with all that the stream needs: what is found out here
    /// takes no room that others wait for.
    pub async fn bulk(
        &self,
        name: &ModelName,
        selector: &Selector,
        task: BulkTask,
        deadline: Option<Instant>,
    ) -> Result<Bulk, ServiceError> {
        let operation = task.operation();
        let key = self.choose(name, selector, operation)?;
        let model = patiently(deadline, || self.ready(&key, operation)).await?;
        if task.code_length() > 0 {
            check_code_length(&model, task.code_length())?;
        }
        let spec = model.artifact.model.spec();
        let answer_columns = match task {
            BulkTask::Encode { .. } => spec.code_length(),
            BulkTask::Decode(_) => spec.features(),
        };
        Ok(Bulk { service: self.clone(), key, task, answer_columns, code_length: spec.code_length() })
    }
}

impl Bulk {
    /// What a message takes in memory together with its answer.
    pub fn bytes(&self, rows: &Matrix, answer: AnswerFormat) -> usize {
        let size = rows.form().number_bytes();
        // What the version says is not known here: it is one of the two largest.
        let answer_size = match answer {
            AnswerFormat::AsRequest => size.max(2),
            AnswerFormat::Form(form) => form.number_bytes(),
            AnswerFormat::AsTrained => 8,
        };
        // Short codes are completed.
        let columns = rows.columns().max(if self.task.operation().decodes() { self.code_length } else { 0 });
        rows.rows().saturating_mul(self.answer_columns * answer_size + columns * size)
    }

    /// The rows of a message in the order of the model's features: by the names of their columns, or, where they have none, as
    /// `known`, which is how an earlier message was matched.
    pub async fn align(&self, rows: NamedRows, known: Option<&Arc<ColumnMap>>) -> Result<Aligned, ServiceError> {
        match known {
            Some(map) if !rows.is_named() => self.service.align_again(&self.key, Arc::clone(map), rows).await,
            _ => self.service.align(&self.key, rows).await,
        }
    }

    /// One message: as the call for a single one, but it waits until there is room.
    pub async fn compute(
        &self,
        rows: Matrix,
        answer: AnswerFormat,
        deadline: Option<Instant>,
    ) -> Result<Served, ServiceError> {
        let Self { service, key, task, .. } = self;
        let _place = by(deadline, service.room.place(rows.rows(), self.bytes(&rows, answer))).await??;
        // The copy is one of a pointer, except of rows in the convenient form.
        let attempt = || service.compute(key, task.operation(), rows.clone(), answer, deadline, Urgency::Bulk);
        service.cut(patiently(deadline, attempt).await?, task.code_length()).await
    }
}

/// Tries again for as long as there is only no room now.
async fn patiently<T, F>(deadline: Option<Instant>, attempt: impl Fn() -> F) -> Result<T, ServiceError>
where
    F: Future<Output = Result<T, ServiceError>>,
{
    loop {
        match by(deadline, attempt()).await? {
            Err(error) if let Some(delay) = error.retry_after() => {
                by(deadline, sleep(delay.min(RETRY_AFTER_MAX))).await?;
            }
            done => return done,
        }
    }
}

async fn by<T>(deadline: Option<Instant>, work: impl Future<Output = T>) -> Result<T, ServiceError> {
    match deadline {
        None => Ok(work.await),
        Some(deadline) => timeout_at(deadline.into(), work).await.map_err(|_| BatchError::DeadlineExceeded.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(queue_rows_max: usize, queue_bytes_max: usize) -> BulkQuota {
        BulkQuota::new(BatchingConfig { queue_rows_max, queue_bytes_max, ..BatchingConfig::default() })
    }

    #[track_caller]
    fn check_share(rows: usize, bytes: usize, expected: u32) {
        assert_eq!(room(2_000, 200_000).share(rows, bytes), expected, "{rows} rows, {bytes} bytes");
    }

    #[test]
    fn a_share_is_of_half_the_queue() {
        check_share(1_000, 1, SHARES);
        check_share(500, 50_000, SHARES / 2);
        check_share(1, 25_000, SHARES / 4);
        check_share(1, 1, 66);
    }

    #[test]
    fn the_largest_and_the_smallest_message_have_a_share() {
        check_share(usize::MAX, usize::MAX, SHARES);
        assert_eq!(room(usize::MAX, usize::MAX).share(1, 1), 1);
        assert_eq!(room(1, 1).share(1, 1), SHARES);
    }

    #[tokio::test]
    async fn a_place_is_free_again_when_it_is_dropped() {
        let room = room(100, 1 << 20);
        let first = room.place(50, 1).await.expect("all of it");
        let second = tokio::time::timeout(Duration::from_millis(10), room.place(1, 1)).await;
        assert!(second.is_err(), "there is no room");
        drop(first);
        drop(room.place(50, 1).await.expect("all of it again"));
    }

    #[tokio::test]
    async fn what_is_only_full_now_is_tried_again_until_the_deadline() {
        let full = || {
            let retry_after = Duration::from_millis(1);
            BatchError::Full { waiting_rows: 1, waiting_bytes: 1, rows_max: 1, bytes_max: 1, retry_after }
        };
        let tries = std::cell::Cell::new(0);
        let attempt = || {
            tries.set(tries.get() + 1);
            let tries = tries.get();
            async move { if tries < 4 { Err(full().into()) } else { Ok(tries) } }
        };
        assert_eq!(patiently(None, attempt).await.expect("there is room at last"), 4);
        let soon = Instant::now() + Duration::from_millis(20);
        let late = patiently::<(), _>(Some(soon), || async { Err(full().into()) }).await;
        assert!(matches!(late, Err(ServiceError::Batch(BatchError::DeadlineExceeded))), "{late:?}");
        let lost = patiently::<(), _>(None, || async { Err(BatchError::WorkerLost.into()) }).await;
        assert!(matches!(lost, Err(ServiceError::Batch(BatchError::WorkerLost))), "{lost:?}");
    }
}
