//! Messages of a `Train` stream, with or without rounds.

use tonic::Streaming;

use super::convert;
use super::limits::translate_status;
use super::pb;
use super::pb::train_request::Message as RequestMessage;
use super::pb::train_response::Message as ResponseMessage;
use super::stream::Ending;
use crate::service::{
    Acknowledged, ChunkColumns, Features, JobSnapshot, JobState, Matrix, NamedRows, Service, ServiceError, Version,
};

/// The next message; `None` if the client has closed its side.
pub(super) async fn next(requests: &mut Streaming<pb::TrainRequest>) -> Result<Option<RequestMessage>, Ending> {
    match requests.message().await {
        Ok(None) => Ok(None),
        Ok(Some(pb::TrainRequest { message: Some(message) })) => Ok(Some(message)),
        Ok(Some(pb::TrainRequest { message: None })) => {
            Err(ServiceError::invalid("message", "nothing is set, expected `spec`, `chunk` or `finish`").into())
        }
        Err(status) => Err(Ending::Status(translate_status(status))),
    }
}

pub(super) fn out_of_order(expected: &str, came: Option<&RequestMessage>) -> ServiceError {
    let came = match came {
        Some(RequestMessage::Spec(_)) => "a second `spec`",
        Some(RequestMessage::Chunk(_)) => "a `chunk`",
        Some(RequestMessage::Finish(_)) => "`finish`",
        None => "the end of the stream (acknowledged chunks are kept: reconnect with the same idempotency key)",
    };
    ServiceError::invalid("message", format!("expected {expected}, got {came}"))
}

pub(super) fn answer(message: ResponseMessage) -> pb::TrainResponse {
    pb::TrainResponse { message: Some(message) }
}

pub(super) fn accepted(snapshot: JobSnapshot, last_chunk_number: u64) -> pb::TrainResponse {
    let job = convert::job(snapshot, convert::Report::Without);
    answer(ResponseMessage::Accepted(pb::TrainAccepted { job: Some(job), last_chunk_number }))
}

pub(super) fn acknowledged(Acknowledged { number, rows }: Acknowledged, note: Option<String>) -> pb::TrainResponse {
    let notes = note.into_iter().collect();
    answer(ResponseMessage::Acknowledged(pb::ChunkAcknowledged { number, row_count: rows, notes }))
}

/// Reorders the rows of a chunk into the features, and returns a note for the client. Feature names are looked up at
/// the first chunk with column names.
pub(super) async fn align(
    service: &Service,
    features: &Features,
    columns: &mut Option<ChunkColumns>,
    rows: NamedRows,
) -> Result<(Matrix, Option<String>), ServiceError> {
    if !rows.is_named() {
        return Ok((rows.into_matrix(), None));
    }
    let columns = match columns {
        Some(columns) => columns,
        None => {
            let names = service.feature_names(features).await?;
            columns.insert(ChunkColumns::new(names))
        }
    };
    columns.align(rows).await
}

/// The result of a job that has ended.
pub(super) fn result_of(ended: JobSnapshot) -> pb::TrainResult {
    let failure = match ended.state {
        JobState::Succeeded => String::new(),
        state => format!("the job {}: {}", state.ended_as(), ended.failure.as_deref().unwrap_or("no reason given")),
    };
    pb::TrainResult {
        model_name: ended.model_name.to_string(),
        version: ended.version.map_or(0, Version::number),
        training_report: ended.report.as_deref().map(convert::report),
        kept_back: ended.kept_back.unwrap_or_default(),
        job_id: ended.id.to_string(),
        failure,
        round: ended.round.map_or(0, |round| round.number),
    }
}
