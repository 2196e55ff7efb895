//! Jobs, and what their requests set.

use super::models::{Report, report};
use super::times::{duration, timestamp};
use super::unknown_enum;
use crate::pb;
use crate::service::{JobSnapshot, JobState, Priority, Progress, RowRole, ServiceError, Version};

/// Converts a job.
pub fn job(snapshot: JobSnapshot, with: Report) -> pb::Job {
    let state = match snapshot.state {
        JobState::Uploading => pb::JobState::Uploading,
        JobState::Queued => pb::JobState::Queued,
        JobState::Running => pb::JobState::Running,
        JobState::Paused => pb::JobState::Paused,
        JobState::Succeeded => pb::JobState::Succeeded,
        JobState::Failed => pb::JobState::Failed,
        JobState::Cancelled => pb::JobState::Cancelled,
    };
    pb::Job {
        id: snapshot.id.to_string(),
        model_name: snapshot.model_name.to_string(),
        state: state.into(),
        priority: snapshot.priority.number(),
        create_time: Some(timestamp(snapshot.created)),
        update_time: Some(timestamp(snapshot.updated)),
        upload_expire_time: snapshot.upload_expires.map(timestamp),
        chunk_count: snapshot.chunks,
        row_count: snapshot.training_rows,
        test_row_count: snapshot.test_rows,
        progress: snapshot.progress.as_ref().map(progress),
        version: snapshot.version.map_or(0, Version::number),
        training_report: snapshot.report.as_deref().filter(|_| with == Report::With).map(report),
        failure: snapshot.failure.map(String::from).unwrap_or_default(),
        kept_back: snapshot.kept_back.unwrap_or_default(),
        round: snapshot.round.map_or(0, |round| round.number),
        idempotency_key: snapshot.idempotency_key.map(|key| key.to_string()).unwrap_or_default(),
    }
}

fn progress(progress: &Progress) -> pb::Progress {
    pb::Progress {
        epoch: progress.epoch,
        epoch_count: progress.epoch_count,
        training_loss: progress.training_loss,
        validation_loss: progress.validation_loss,
        rows_per_second: progress.rows_per_second,
        time_left: progress.time_left.and_then(duration),
        explained_variance: progress.explained_variance,
        pca_explained_variance: progress.pca_explained_variance,
        step: progress.step,
        step_count: progress.step_count,
        serving_paused: duration(progress.serving_paused),
    }
}

/// Converts the priority of a job.
pub fn priority(number: i32) -> Result<Priority, ServiceError> {
    Priority::try_from(number).map_err(ServiceError::from)
}

/// Converts the role of a chunk's rows.
pub fn row_role(number: i32) -> Result<RowRole, ServiceError> {
    match pb::RowRole::try_from(number).map_err(|_| unknown_enum("chunk.role", number))? {
        pb::RowRole::Unspecified | pb::RowRole::Training => Ok(RowRole::Training),
        pb::RowRole::Test => Ok(RowRole::Test),
    }
}
