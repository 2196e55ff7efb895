//! Bulk encoding and decoding: all messages of a stream use one version, and wait when the queue has no room.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout_at};

use super::{Aligned, AllowedModel, Decoder, NamedRows, Served, Service, ServiceError, check_code_length};
use crate::batching::{BatchError, Operation, Urgency};
use crate::model::{AnswerFormat, ColumnMap, Matrix, ModelKey, Selector};

/// Maximum wait before a retry: room may become free earlier than the retry delay in the error.
const RETRY_AFTER_MAX: Duration = Duration::from_millis(100);

/// The task of a bulk stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BulkTask {
    /// Encodes rows into codes.
    Encode {
        /// Keep only this many first numbers of each code; 0: all.
        code_length: u32,
    },
    /// Decodes codes into rows.
    Decode(Decoder),
}

impl BulkTask {
    /// The operation to compute.
    pub fn operation(self) -> Operation {
        match self {
            Self::Encode { .. } => Operation::Encode,
            Self::Decode(decoder) => decoder.decoding(),
        }
    }

    /// The request field that sets the task's option.
    pub fn field(self) -> &'static str {
        match self {
            Self::Encode { .. } => "code_length",
            Self::Decode(_) => "decoder",
        }
    }

    /// The length to cut codes to; 0: codes are not cut.
    fn code_length(self) -> u32 {
        match self {
            Self::Encode { code_length } => code_length,
            Self::Decode(_) => 0,
        }
    }
}

/// A bulk task bound to one version.
///
/// It holds the version's name and not its matrices, so an idle stream keeps no model in memory.
#[derive(Clone, Debug)]
pub struct Bulk {
    service: Service,
    key: ModelKey,
    task: BulkTask,
    answer_columns: usize,
    code_length: usize,
}

impl Service {
    /// Resolves the version for all messages of a stream, and loads it with everything that the task needs. Errors
    /// found here use no quota.
    pub async fn bulk(
        &self,
        model: &AllowedModel,
        selector: &Selector,
        task: BulkTask,
        deadline: Option<Instant>,
    ) -> Result<Bulk, ServiceError> {
        let operation = task.operation();
        let key = self.choose(model, selector, operation)?;
        let loaded = patiently(deadline, || self.ready(&key, operation)).await?;
        if task.code_length() > 0 {
            check_code_length(&loaded, task.code_length())?;
        }
        let spec = loaded.artifact.model.spec();
        let answer_columns = match task {
            BulkTask::Encode { .. } => spec.code_length(),
            BulkTask::Decode(_) => spec.features(),
        };
        Ok(Bulk { service: self.clone(), key, task, answer_columns, code_length: spec.code_length() })
    }
}

impl Bulk {
    /// Memory of a message and its response, in bytes.
    pub fn bytes(&self, rows: &Matrix, answer: AnswerFormat) -> usize {
        let size = rows.form().number_bytes();
        // `AsTrained` depends on the version, which is not loaded here: 8 bytes is the larger of its two forms.
        let answer_size = match answer {
            AnswerFormat::AsRequest => size.max(2),
            AnswerFormat::Form(form) => form.number_bytes(),
            AnswerFormat::AsTrained => 8,
        };
        // Short codes are extended to full length.
        let columns = rows.columns().max(if self.task.operation().decodes() { self.code_length } else { 0 });
        rows.rows().saturating_mul(self.answer_columns * answer_size + columns * size)
    }

    /// Reorders the columns of a message into the model's features. Columns without names use `known`, the match of
    /// an earlier message of the stream.
    pub async fn align(&self, rows: NamedRows, known: Option<&Arc<ColumnMap>>) -> Result<Aligned, ServiceError> {
        match known {
            Some(map) if !rows.is_named() => self.service.align_again(&self.key, Arc::clone(map), rows).await,
            _ => self.service.align(&self.key, rows).await,
        }
    }

    /// Computes one message. Unlike the unary call, it waits until the queue has room.
    pub async fn compute(
        &self,
        rows: Matrix,
        answer: AnswerFormat,
        deadline: Option<Instant>,
    ) -> Result<Served, ServiceError> {
        let Self { service, key, task, .. } = self;
        let _place = by(deadline, service.room.place(rows.rows(), self.bytes(&rows, answer))).await??;
        // The clone copies a pointer, except for rows in the form `Floats`.
        let attempt = || service.compute(key, task.operation(), rows.clone(), answer, deadline, Urgency::Bulk);
        service.cut(patiently(deadline, attempt).await?, task.code_length()).await
    }
}

/// Retries while the error has a retry delay.
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

    #[tokio::test]
    async fn full_queues_are_retried_until_the_deadline() {
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
