//! Descriptions of models for clients of the protocol.

use std::time::Duration;

use super::tensors::dimension;
use crate::rpc::pb::inference as pb;
use crate::service::{Counts, ModelKey, ModelSpec, Operation, ServiceError, VersionPolicy, shown};

/// Platform and backend of all models.
const PLATFORM: &str = "halfhitch";
/// Maximum rows per request, as reported to clients.
const BATCH_ROWS_MAX: i32 = 65_536;

/// The operation of a model name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Face {
    Encode,
    Decode,
    Reconstruct,
}

impl Face {
    pub(super) const ALL: [Self; 3] = [Self::Encode, Self::Decode, Self::Reconstruct];

    /// Splits a requested name into the model's name and the operation.
    pub(super) fn of(name: &str) -> Result<(&str, Self), ServiceError> {
        match name.split_once(':') {
            None => Ok((name, Self::Encode)),
            Some((name, word)) => Ok((name, Self::parse(word)?)),
        }
    }

    pub(super) fn parse(word: &str) -> Result<Self, ServiceError> {
        Self::ALL.into_iter().find(|face| face.word() == word).ok_or_else(|| {
            let shown = shown(word);
            ServiceError::invalid("operation", format!("is {shown:?}, expected encode, decode or reconstruct"))
        })
    }

    fn word(self) -> &'static str {
        match self {
            Self::Encode => "encode",
            Self::Decode => "decode",
            Self::Reconstruct => "reconstruct",
        }
    }

    /// The protocol's name of a model with this operation.
    pub(super) fn name(self, model: &str) -> String {
        if self == Self::Encode { model.to_owned() } else { format!("{model}:{}", self.word()) }
    }

    pub(super) fn operation(self) -> Operation {
        match self {
            Self::Encode => Operation::Encode,
            Self::Decode => Operation::Decode,
            Self::Reconstruct => Operation::Reconstruct,
        }
    }

    /// Name of the input tensor.
    pub(super) fn input(self) -> &'static str {
        if self == Self::Decode { "CODE" } else { "X" }
    }

    /// Names and widths of the input tensor and of the output tensors.
    fn tensors(self, spec: &ModelSpec) -> ((&'static str, i64), Vec<(&'static str, i64)>) {
        let (x, code) = (dimension(spec.features()), dimension(spec.code_length()));
        match self {
            Self::Encode => ((self.input(), x), vec![("CODE", code)]),
            Self::Decode => ((self.input(), code), vec![("X", x)]),
            Self::Reconstruct => ((self.input(), x), vec![("X_HAT", x), ("ERROR", 1)]),
        }
    }
}

pub(super) fn metadata(name: String, face: Face, spec: &ModelSpec, versions: Vec<String>) -> pb::ModelMetadataResponse {
    let (input, outputs) = face.tensors(spec);
    let tensor = |(name, columns): (&str, i64)| pb::model_metadata_response::TensorMetadata {
        name: name.to_owned(),
        datatype: "FP32".to_owned(),
        // Standard clients expect the rows as the first dimension if a model is batched.
        shape: vec![-1, columns],
    };
    pb::ModelMetadataResponse {
        name,
        versions,
        platform: PLATFORM.to_owned(),
        inputs: vec![tensor(input)],
        outputs: outputs.into_iter().map(tensor).collect(),
        ..pb::ModelMetadataResponse::default()
    }
}

pub(super) fn config(name: String, face: Face, spec: &ModelSpec, policy: VersionPolicy) -> pb::ModelConfig {
    let ((input, columns), outputs) = face.tensors(spec);
    let data_type = pb::DataType::TypeFp32.into();
    pb::ModelConfig {
        name,
        platform: PLATFORM.to_owned(),
        version_policy: Some(version_policy(policy)),
        max_batch_size: BATCH_ROWS_MAX,
        input: vec![pb::ModelInput { name: input.to_owned(), data_type, dims: vec![columns] }],
        output: outputs
            .into_iter()
            .map(|(name, columns)| pb::ModelOutput { name: name.to_owned(), data_type, dims: vec![columns] })
            .collect(),
        scheduling_choice: Some(pb::model_config::SchedulingChoice::DynamicBatching(
            pb::ModelDynamicBatching::default(),
        )),
        backend: PLATFORM.to_owned(),
    }
}

fn version_policy(policy: VersionPolicy) -> pb::ModelVersionPolicy {
    use pb::model_version_policy::{All, Latest, PolicyChoice, Specific};
    let choice = match policy {
        VersionPolicy::All => PolicyChoice::All(All {}),
        VersionPolicy::Latest(count) => {
            PolicyChoice::Latest(Latest { num_versions: u32::try_from(count).unwrap_or(u32::MAX) })
        }
        VersionPolicy::Pinned(versions) => PolicyChoice::Specific(Specific {
            versions: versions.iter().filter_map(|version| i64::try_from(version.number()).ok()).collect(),
        }),
    };
    pb::ModelVersionPolicy { policy_choice: Some(choice) }
}

/// Converts the counters of one version and operation.
pub(super) fn statistics(key: &ModelKey, face: Face, counts: &Counts) -> pb::ModelStatistics {
    let duration = |count, time: Duration| {
        Some(pb::StatisticDuration { count, ns: u64::try_from(time.as_nanos()).unwrap_or(u64::MAX) })
    };
    let answered = counts.answered;
    pb::ModelStatistics {
        name: face.name(key.name.as_str()),
        version: key.version.to_string(),
        last_inference: counts.last_ms,
        inference_count: counts.rows,
        execution_count: counts.batches,
        inference_stats: Some(pb::InferStatistics {
            success: duration(answered, counts.answered_time),
            fail: duration(counts.failed, counts.failed_time),
            queue: duration(answered, counts.queued),
            compute_input: duration(answered, counts.assembly),
            compute_infer: duration(answered, counts.compute),
            compute_output: duration(answered, Duration::ZERO),
        }),
    }
}
