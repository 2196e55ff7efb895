//! What models look like to clients of the protocol.

use std::time::Duration;

use super::tensors::dimension;
use crate::rpc::pb::inference as pb;
use crate::service::{Counts, ModelKey, ModelSpec, Operation, ServiceError, VersionPolicy, shown};

/// What runs models, in the words of the protocol.
const PLATFORM: &str = "halfhitch";
/// Rows of a question, as stock clients know them.
const BATCH_ROWS_MAX: i32 = 65_536;

/// One of the faces of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Face {
    Encode,
    Decode,
    Reconstruct,
}

impl Face {
    pub(super) const ALL: [Self; 3] = [Self::Encode, Self::Decode, Self::Reconstruct];

    /// The name of a model as it is asked for, cut into the model's own and its face.
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

    /// A model's name with it.
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

    /// The tensor that goes in.
    pub(super) fn input(self) -> &'static str {
        if self == Self::Decode { "CODE" } else { "X" }
    }

    /// Name and width of what goes in and of what comes out.
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
        // Stock clients want the rows in front where a model takes several.
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

/// What was counted of a face of a version.
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
