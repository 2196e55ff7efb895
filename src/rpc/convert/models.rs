//! Models, versions and training reports.

use super::specs::spec_answer;
use super::times::timestamp;
use crate::pb;
use crate::service::{EpochLosses, Evaluation, ModelEntry, TrainingReport, VersionDescription};

/// Whether a response includes the training report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// Include the report.
    With,
    /// Leave it out, so that listings stay small.
    Without,
}

/// Converts a model for a listing.
pub fn model(entry: &ModelEntry) -> pb::Model {
    pb::Model {
        name: entry.name.to_string(),
        latest_version: entry.versions.keys().next_back().map_or(0, |version| version.number()),
        version_count: entry.versions.len() as u64,
        aliases: entry
            .aliases
            .iter()
            .map(|(alias, version)| pb::Alias { alias: alias.to_string(), version: version.number() })
            .collect(),
    }
}

/// Converts a version.
pub fn version(description: VersionDescription, with: Report) -> pb::ModelVersion {
    let report = description.report.as_ref().filter(|_| with == Report::With);
    pb::ModelVersion {
        name: description.key.name.to_string(),
        version: description.key.version.number(),
        aliases: description.aliases.iter().map(ToString::to_string).collect(),
        create_time: Some(timestamp(description.published)),
        spec: Some(spec_answer(&description.spec)),
        training_report: report.map(self::report),
        file_bytes: description.file_bytes,
        tensor_bytes: description.spec.tensor_bytes(),
        untied_tensor_bytes: description.spec.untied_tensor_bytes(),
        sha256: description.sha256,
    }
}

/// Converts a training report.
pub fn report(report: &TrainingReport) -> pb::TrainingReport {
    pb::TrainingReport {
        epochs: report.epochs.iter().map(epoch_losses).collect(),
        best_epoch: report.best_epoch,
        validation: report.validation.as_ref().map(evaluation),
        test: report.test.as_ref().map(evaluation),
        training_rows: report.training_rows,
        pca_rows: report.pca_rows,
        data_sha256: report.data_sha256.clone(),
        seed: report.seed,
        duration_seconds: report.duration_seconds,
        software: report.software.clone(),
        job_id: report.job_id.clone(),
        batch_rows: report.batch_rows,
        learning_rate: report.learning_rate,
        notes: report.notes.clone(),
        base_model_name: report.base.as_ref().map(|base| base.name.to_string()).unwrap_or_default(),
        base_version: report.base.as_ref().map_or(0, |base| base.version.number()),
        base_validation: report.base_validation.as_ref().map(evaluation),
        feature_explained_variance: report
            .feature_explained_variance
            .iter()
            .map(|share| share.unwrap_or(f32::NAN))
            .collect(),
    }
}

fn epoch_losses(losses: &EpochLosses) -> pb::EpochLosses {
    pb::EpochLosses {
        epoch: losses.epoch,
        training_loss: losses.training_loss,
        validation_loss: losses.validation_loss,
        squared_error: losses.squared_error,
        defects: losses.defects.clone(),
    }
}

fn evaluation(evaluation: &Evaluation) -> pb::Evaluation {
    pb::Evaluation {
        rows: evaluation.rows,
        loss: evaluation.loss,
        squared_error: evaluation.squared_error,
        squared_error_input_units: evaluation.squared_error_input_units,
        pca_squared_error: evaluation.pca_squared_error,
        pca_squared_error_input_units: evaluation.pca_squared_error_input_units,
        explained_variance: evaluation.explained_variance,
        pca_explained_variance: evaluation.pca_explained_variance,
        loss_floor: evaluation.loss_floor,
    }
}
