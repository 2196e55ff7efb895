//! The use cases, independent of the protocol.
//!
//! A use case of a model takes an [`AllowedModel`] or the caller, so that no handler can forget the caller's rights.
//!
//! Re-exports the types that the use cases need, so that a protocol depends on this module only.

pub mod allowed;
mod blocking;
pub mod bulk;
mod bulk_quota;
pub mod columns;
pub mod error;
pub mod incremental;
pub mod inspect;
pub mod jobs;
pub mod models;
pub mod readiness;
pub mod score;
pub mod upkeep;

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{Mutex, Semaphore};

pub use crate::batching::{Batch, BatchError, Batcher, Operation, Output, Timing};
use crate::batching::{BatchingConfig, Urgency};
pub use crate::files::{DialectError, Format as FileFormat, ReadOptions, TextOptions};
pub use crate::jobs::{
    Acknowledged, Begun, IdempotencyKey, IllegalMove, JobError, JobId, JobSnapshot, JobState, Jobs, Priority, Progress,
    Round, RowRole, ServerFiles, Upload, Watcher,
};
pub use crate::model::report::{EpochLosses, Evaluation, TrainingReport};
pub use crate::model::spec::{Loss, ModelSpec, NormalizationKind};
pub use crate::model::text::{first_chars, shown};
pub use crate::model::{
    Alias, AnswerFormat, ArtifactError, ColumnMap, Comparison, Form, IdError, LayerInspection, Matrix, MatrixError,
    ModelKey, ModelName, ModelReference, Selector, Values, Version,
};
pub use crate::numeric::Activation;
use crate::registry::LoadedModel;
pub use crate::registry::Registry;
pub use crate::registry::usage::{Counts, Usage};
pub use crate::store::{ModelEntry, Retention, StoreError, VersionPolicies, VersionPolicy};
pub use crate::training::{
    Base, Initialization, OptimizerKind, OptimizerSpec, ParamError, Regularization, Schedule, TrainSpec,
};
pub use allowed::{AllowedModel, AllowedTraining, Features};
use blocking::blocking;
pub use bulk::{Bulk, BulkTask};
use bulk_quota::BulkQuota;
pub use columns::{Aligned, AlignedColumns, ChunkColumns, NamedRows};
pub use error::{Kind, ServiceError};
pub use incremental::{Cadence, RoundStream, StreamBegun, Taken};
pub use inspect::{Inspected, InspectionRows};
pub use jobs::RoundJob;
pub use models::VersionDescription;
pub use readiness::{Lifecycle, Readiness};
pub use score::{ScoreOptions, Scored};
pub use upkeep::{Upkeep, UpkeepConfig};

/// Maximum size of an imported model file in bytes: the maximum number of parameters, and room for the header.
pub const FILE_BYTES_MAX: u64 = (crate::model::spec::PARAMETERS_MAX * 4 + (16 << 20)) as u64;

/// Larger matrices are copied on a blocking thread.
const COPIED_AT_ONCE_BYTES_MAX: usize = 64 << 10;

/// Maximum inspections that run or wait at once; more are refused. Each holds its rows in memory.
const INSPECTIONS_MAX: usize = 4;

/// Every use case of the server. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Service {
    registry: Registry,
    batcher: Batcher,
    jobs: Jobs,
    lifecycle: Lifecycle,
    room: Arc<BulkQuota>,
    inspections: Arc<Semaphore>,
    inspecting: Arc<Mutex<()>>,
}

/// The result of a request for rows or codes.
#[derive(Debug)]
pub struct Served {
    /// The version that served it.
    pub version: Version,
    /// The results, in the requested form.
    pub output: Output,
    /// Accuracy of the pseudo-inverse, if it was the decoder.
    pub inverted: Option<Inverted>,
}

/// How codes are decoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Decoder {
    /// The transpose of each matrix, as trained.
    #[default]
    Transpose,
    /// The pseudo-inverse of each matrix.
    PseudoInverse,
}

impl Decoder {
    fn decoding(self) -> Operation {
        match self {
            Self::Transpose => Operation::Decode,
            Self::PseudoInverse => Operation::DecodePseudoInverse,
        }
    }
}

/// Accuracy of decoding with the pseudo-inverse.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Inverted {
    /// The greatest condition number of any matrix.
    pub condition: f64,
    /// Whether a matrix was regularized to invert it.
    pub regularized: bool,
    /// Whether the model is not linear: the decoder does not invert the encoder's activations.
    pub approximate: bool,
}

impl Service {
    /// Creates the service from the layers below.
    pub fn new(registry: Registry, batcher: Batcher, jobs: Jobs, lifecycle: Lifecycle) -> Self {
        let room = Arc::new(BulkQuota::new(batcher.config()));
        let inspections = Arc::new(Semaphore::new(INSPECTIONS_MAX));
        Self { registry, batcher, jobs, lifecycle, room, inspections, inspecting: Arc::default() }
    }

    /// The lifecycle of the server.
    pub fn lifecycle(&self) -> &Lifecycle {
        &self.lifecycle
    }

    /// Encodes rows (n, d_0) into codes (n, d_K). If `code_length` is not 0, codes are cut to this length.
    pub async fn encode(
        &self,
        model: &AllowedModel,
        selector: &Selector,
        rows: Matrix,
        code_length: u32,
        answer: AnswerFormat,
        deadline: Option<Instant>,
    ) -> Result<Served, ServiceError> {
        let key = self.choose(model, selector, Operation::Encode)?;
        if code_length > 0 {
            check_code_length(&*self.loaded(&key).await?, code_length)?;
        }
        let served = self.compute(&key, Operation::Encode, rows, answer, deadline, Urgency::Interactive).await?;
        self.cut(served, code_length).await
    }

    /// Decodes codes (n, d_K) into rows (n, d_0). The selector must name a version or alias.
    pub async fn decode(
        &self,
        model: &AllowedModel,
        selector: &Selector,
        codes: Matrix,
        decoder: Decoder,
        answer: AnswerFormat,
        deadline: Option<Instant>,
    ) -> Result<Served, ServiceError> {
        let operation = decoder.decoding();
        let key = self.choose(model, selector, operation)?;
        self.compute(&key, operation, codes, answer, deadline, Urgency::Interactive).await
    }

    /// Encodes and decodes rows (n, d_0), and returns the reconstruction error of each row.
    pub async fn reconstruct(
        &self,
        model: &AllowedModel,
        selector: &Selector,
        rows: Matrix,
        decoder: Decoder,
        answer: AnswerFormat,
        deadline: Option<Instant>,
    ) -> Result<Served, ServiceError> {
        let operation = match decoder {
            Decoder::Transpose => Operation::Reconstruct,
            Decoder::PseudoInverse => Operation::ReconstructPseudoInverse,
        };
        let key = self.choose(model, selector, operation)?;
        self.compute(&key, operation, rows, answer, deadline, Urgency::Interactive).await
    }

    /// Fills in the missing values of rows (n, d_0).
    pub async fn impute(
        &self,
        model: &AllowedModel,
        selector: &Selector,
        rows: Matrix,
        answer: AnswerFormat,
        deadline: Option<Instant>,
    ) -> Result<Served, ServiceError> {
        let key = self.choose(model, selector, Operation::Impute)?;
        if !self.loaded(&key).await?.artifact.model.normalizer().takes_missing() {
            return Err(ServiceError::NoMissingValues { key });
        }
        self.compute(&key, Operation::Impute, rows, answer, deadline, Urgency::Interactive).await
    }

    /// Whether the queues are so full that large requests may be refused.
    pub fn is_busy(&self) -> bool {
        self.batcher.is_busy()
    }

    /// The error for a request that has not arrived yet and whose matrix takes `matrix_bytes`, if the queue has no
    /// room for it. `None` also if anything else is wrong with the request.
    pub fn refuse_early(
        &self,
        model: &AllowedModel,
        selector: &Selector,
        operation: Operation,
        matrix_bytes: usize,
    ) -> Option<ServiceError> {
        let key = self.choose(model, selector, operation).ok()?;
        let loaded = self.registry.resident(&key)?;
        self.batcher.refuse_early(&loaded, operation, matrix_bytes).map(ServiceError::from)
    }

    /// Resolves the version. Decoding needs a version or alias: codes decoded with another version would be wrong
    /// without an error.
    fn choose(
        &self,
        model: &AllowedModel,
        selector: &Selector,
        operation: Operation,
    ) -> Result<ModelKey, ServiceError> {
        let key = self.registry.resolve_served(model.name(), selector)?;
        if operation.decodes() && *selector == Selector::Latest {
            return Err(ServiceError::VersionRequired { name: key.name, newest: key.version });
        }
        Ok(key)
    }

    async fn compute(
        &self,
        key: &ModelKey,
        operation: Operation,
        rows: Matrix,
        answer: AnswerFormat,
        deadline: Option<Instant>,
        urgency: Urgency,
    ) -> Result<Served, ServiceError> {
        let model = self.ready(key, operation).await?;
        let form = answer.form(rows.form(), &model.artifact.model);
        let code_length = model.artifact.model.spec().code_length();
        let is_short = operation.decodes() && rows.columns() < code_length && model.artifact.has_ordered_codes();
        // The missing numbers of a short code are 0: the mean of canonical codes, and the value in training of
        // ordered codes.
        let rows = if is_short { self.resized(rows, code_length).await? } else { rows };
        let inverted = model.inverse().filter(|_| operation.needs_inverse()).map(|inverse| {
            let (condition, regularized) = inverse.condition();
            Inverted { condition, regularized, approximate: !model.artifact.model.spec().is_linear() }
        });
        let output = self.batcher.submit(model, operation, rows, form, deadline, urgency).await;
        let output = output.map_err(|error| match error {
            BatchError::Columns { .. } | BatchError::Matrix(_) => ServiceError::invalid(operation.field(), error),
            other => other.into(),
        })?;
        Ok(Served { version: key.version, output, inverted })
    }

    /// Cuts codes to `code_length`; 0: codes stay as they are.
    async fn cut(&self, mut served: Served, code_length: u32) -> Result<Served, ServiceError> {
        if code_length > 0 {
            served.output.matrix = self.resized(served.output.matrix, code_length as usize).await?;
        }
        Ok(served)
    }

    /// Codes of length `code_length`: cut, or extended with zeros. Refused if they do not fit the queue.
    async fn resized(&self, codes: Matrix, code_length: usize) -> Result<Matrix, ServiceError> {
        let BatchingConfig { queue_rows_max: rows_max, queue_bytes_max: bytes_max, .. } = self.batcher.config();
        let (rows, bytes) = (codes.rows(), codes.rows().saturating_mul(codes.form().number_bytes() * code_length));
        // Checked before the memory is allocated.
        if rows > rows_max || bytes > bytes_max {
            return Err(BatchError::TooLarge { rows, bytes, rows_max, bytes_max }.into());
        }
        if bytes <= COPIED_AT_ONCE_BYTES_MAX {
            return Ok(codes.resized(code_length));
        }
        blocking("a task that copies codes", move || Ok(codes.resized(code_length))).await
    }

    /// Loads the version, and its pseudo-inverse if the operation needs it.
    async fn ready(&self, key: &ModelKey, operation: Operation) -> Result<Arc<LoadedModel>, ServiceError> {
        let model = self.loaded(key).await?;
        if operation.needs_inverse() {
            self.registry
                .load_inverse(&model)
                .await?
                .map_err(|error| ServiceError::NoInverse { key: key.clone(), error })?;
        }
        Ok(model)
    }

    async fn loaded(&self, key: &ModelKey) -> Result<Arc<LoadedModel>, ServiceError> {
        match self.registry.resident(key) {
            Some(model) => Ok(model),
            None => Ok(self.registry.load(key).await?),
        }
    }
}

/// Checks that the version's codes can be cut to `code_length` numbers, at least 1.
fn check_code_length(model: &LoadedModel, code_length: u32) -> Result<(), ServiceError> {
    let most = model.artifact.model.spec().code_length();
    if code_length as usize > most {
        let message = format!("is {code_length}, expected at most {most}: the length of its codes");
        return Err(ServiceError::invalid("code_length", message));
    }
    if !model.artifact.has_ordered_codes() {
        return Err(ServiceError::NotOrdered(model.key.clone()));
    }
    Ok(())
}
