//! `AutoencoderService`.

use tonic::{Request, Response, Status, Streaming};

use super::Api;
use super::auth::{CallerOf, caller};
use super::bulk;
use super::convert;
use super::deadline::deadline;
use super::incremental;
use super::jobs::follow;
use super::observe::RequestContext;
use super::pb;
use super::pb::autoencoder_service_server::AutoencoderService;
use super::pb::train_request::Message as RequestMessage;
use super::pb::train_response::Message as ResponseMessage;
use super::stream::{Ending, ResponseSender, ResponseStream, driven};
use super::train_messages::{accepted, acknowledged, align, answer, next, out_of_order, result_of};
use crate::service::{
    Aligned, AllowedModel, AllowedTraining, Begun, Features, JobSnapshot, JobState, ScoreOptions, Served, Service,
    ServiceError, Upload, Watcher,
};

#[tonic::async_trait]
impl AutoencoderService for Api {
    type TrainStream = ResponseStream<pb::TrainResponse>;
    type EncodeStreamStream = ResponseStream<pb::EncodeStreamResponse>;
    type DecodeStreamStream = ResponseStream<pb::DecodeStreamResponse>;

    async fn train(
        &self,
        request: Request<Streaming<pb::TrainRequest>>,
    ) -> Result<Response<Self::TrainStream>, Status> {
        let (service, caller) = (self.service.clone(), caller(request.extensions()));
        let requests = request.into_inner();
        Ok(Response::new(driven(|responses| train(service, caller, requests, responses))))
    }

    async fn encode(&self, request: Request<pb::EncodeRequest>) -> Result<Response<pb::EncodeResponse>, Status> {
        let (context, caller) = (RequestContext::of(request.extensions()), caller(request.extensions()));
        let deadline = deadline(request.extensions());
        let pb::EncodeRequest { model, rows, code_length, answer_format } = request.into_inner();
        let (name, selector) = convert::model_ref(model)?;
        let model = AllowedModel::check(&caller, name)?;
        let rows = convert::named_rows("rows", rows)?;
        context.asks(model.name(), rows.matrix().rows());
        let _held = caller.hold_message(rows.matrix())?;
        let (selector, Aligned { rows, columns }) = self.service.align_served(&model, selector, rows).await?;
        let answer = convert::answer_format(answer_format)?;
        let served = self.service.encode(&model, &selector, rows, code_length, answer, deadline).await?;
        context.served(served.version, served.output.timing);
        Ok(Response::new(pb::EncodeResponse {
            version: served.version.number(),
            codes: Some(convert::matrix_answer(served.output.matrix)),
            notes: columns.notes,
        }))
    }

    async fn decode(&self, request: Request<pb::DecodeRequest>) -> Result<Response<pb::DecodeResponse>, Status> {
        let (context, caller) = (RequestContext::of(request.extensions()), caller(request.extensions()));
        let deadline = deadline(request.extensions());
        let pb::DecodeRequest { model, codes, decoder, answer_format } = request.into_inner();
        let (name, selector) = convert::model_ref(model)?;
        let model = AllowedModel::check(&caller, name)?;
        let codes = convert::matrix("codes", codes)?;
        context.asks(model.name(), codes.rows());
        let _held = caller.hold_message(&codes)?;
        let (decoder, answer) = (convert::decoder(decoder)?, convert::answer_format(answer_format)?);
        let served = self.service.decode(&model, &selector, codes, decoder, answer, deadline).await?;
        context.served(served.version, served.output.timing);
        Ok(Response::new(pb::DecodeResponse {
            pseudo_inverse: served.inverted.map(convert::inverted),
            version: served.version.number(),
            rows: Some(convert::matrix_answer(served.output.matrix)),
        }))
    }

    async fn reconstruct(
        &self,
        request: Request<pb::ReconstructRequest>,
    ) -> Result<Response<pb::ReconstructResponse>, Status> {
        let (context, caller) = (RequestContext::of(request.extensions()), caller(request.extensions()));
        let deadline = deadline(request.extensions());
        let pb::ReconstructRequest { model, rows, decoder, answer_format } = request.into_inner();
        let (name, selector) = convert::model_ref(model)?;
        let model = AllowedModel::check(&caller, name)?;
        let rows = convert::named_rows("rows", rows)?;
        context.asks(model.name(), rows.matrix().rows());
        let _held = caller.hold_message(rows.matrix())?;
        let (selector, Aligned { rows, columns }) = self.service.align_served(&model, selector, rows).await?;
        let (decoder, answer) = (convert::decoder(decoder)?, convert::answer_format(answer_format)?);
        let served = self.service.reconstruct(&model, &selector, rows, decoder, answer, deadline).await?;
        context.served(served.version, served.output.timing);
        let notes = columns.notes.clone();
        let (rows, names) = columns.restore(served.output.matrix).await?;
        Ok(Response::new(pb::ReconstructResponse {
            pseudo_inverse: served.inverted.map(convert::inverted),
            version: served.version.number(),
            rows: Some(pb::Matrix { column_names: names, ..convert::matrix_answer(rows) }),
            notes,
            squared_errors: served.output.squared_errors,
            squared_errors_input_units: served.output.squared_errors_input_units,
        }))
    }

    async fn score(&self, request: Request<pb::ScoreRequest>) -> Result<Response<pb::ScoreResponse>, Status> {
        let (context, caller) = (RequestContext::of(request.extensions()), caller(request.extensions()));
        let deadline = deadline(request.extensions());
        let pb::ScoreRequest { model, rows, reasons, false_alarm_rate } = request.into_inner();
        let (name, selector) = convert::model_ref(model)?;
        let model = AllowedModel::check(&caller, name)?;
        let rows = convert::named_rows("rows", rows)?;
        context.asks(model.name(), rows.matrix().rows());
        let _held = caller.hold_message(rows.matrix())?;
        let (selector, Aligned { rows, columns }) = self.service.align_served(&model, selector, rows).await?;
        let options = ScoreOptions { reasons, false_alarm_rate };
        let scored = self.service.score(&model, &selector, rows, options, deadline).await?;
        context.served(scored.version, scored.timing);
        Ok(Response::new(pb::ScoreResponse { notes: columns.notes, ..convert::scored(scored) }))
    }

    async fn impute(&self, request: Request<pb::ImputeRequest>) -> Result<Response<pb::ImputeResponse>, Status> {
        let (context, caller) = (RequestContext::of(request.extensions()), caller(request.extensions()));
        let deadline = deadline(request.extensions());
        let pb::ImputeRequest { model, rows, answer_format } = request.into_inner();
        let (name, selector) = convert::model_ref(model)?;
        let model = AllowedModel::check(&caller, name)?;
        let rows = convert::named_rows("rows", rows)?;
        context.asks(model.name(), rows.matrix().rows());
        let _held = caller.hold_message(rows.matrix())?;
        let (selector, Aligned { rows, columns }) = self.service.align_served(&model, selector, rows).await?;
        let answer = convert::answer_format(answer_format)?;
        let served = self.service.impute(&model, &selector, rows, answer, deadline).await?;
        context.served(served.version, served.output.timing);
        let notes = columns.notes.clone();
        let (rows, names) = columns.restore(served.output.matrix).await?;
        Ok(Response::new(pb::ImputeResponse {
            version: served.version.number(),
            rows: Some(pb::Matrix { column_names: names, ..convert::matrix_answer(rows) }),
            notes,
        }))
    }

    async fn encode_stream(
        &self,
        request: Request<Streaming<pb::EncodeStreamRequest>>,
    ) -> Result<Response<Self::EncodeStreamStream>, Status> {
        let answer = |served: Served, notes: Vec<String>| pb::EncodeStreamResponse {
            version: served.version.number(),
            codes: Some(convert::matrix_answer(served.output.matrix)),
            notes,
        };
        Ok(Response::new(bulk::answers(&self.service, request, answer)))
    }

    async fn decode_stream(
        &self,
        request: Request<Streaming<pb::DecodeStreamRequest>>,
    ) -> Result<Response<Self::DecodeStreamStream>, Status> {
        let answer = |served: Served, _: Vec<String>| pb::DecodeStreamResponse {
            pseudo_inverse: served.inverted.map(convert::inverted),
            version: served.version.number(),
            rows: Some(convert::matrix_answer(served.output.matrix)),
        };
        Ok(Response::new(bulk::answers(&self.service, request, answer)))
    }
}

/// Serves a `Train` stream, from specification to result.
async fn train(
    service: Service,
    caller: CallerOf,
    mut requests: Streaming<pb::TrainRequest>,
    responses: ResponseSender<pb::TrainResponse>,
) -> Result<(), Ending> {
    let mut spec = match next(&mut requests).await? {
        Some(RequestMessage::Spec(spec)) => spec,
        other => return Err(out_of_order("`spec` first", other.as_ref()).into()),
    };
    let priority = convert::priority(spec.priority)?;
    let incremental = spec.incremental.take();
    let missing = spec.missing_values;
    let files = spec.files.take().map(|files| convert::server_files(files, missing)).transpose()?;
    let (spec, key) = convert::train_spec(spec)?;
    let training = AllowedTraining::check(&caller, spec)?;
    if let Some(incremental) = incremental {
        if files.is_some() {
            let reason = "are set together with incremental, expected one of them: its rows come from the client";
            return Err(ServiceError::invalid("spec.files", reason).into());
        }
        let cadence = convert::cadence(incremental)?;
        return incremental::train(service, caller, (training, cadence, key, priority), requests, responses).await;
    }
    let features = training.features();
    if let Some(files) = files {
        let job = service.train_on_files(training, files, key, priority).await?;
        let watcher = service.watch_job(&caller, &job.id)?;
        responses.send(accepted(job.clone(), job.chunks)).await?;
        return tokio::select! {
            ended = see_through(watcher, &responses) => ended,
            refused = no_rows(&mut requests) => Err(refused),
        };
    }
    let watcher = match service.train(training, key, priority).await? {
        Begun::Uploading { upload, snapshot, last_chunk } => {
            responses.send(accepted(snapshot, last_chunk)).await?;
            let job = receive(upload, (&service, features), &caller, &mut requests, &responses).await?;
            service.follow_upload(&job)?
        }
        // All rows are here already; further messages of the client are not read.
        Begun::Complete { snapshot, last_chunk } => {
            let watcher = service.watch_job(&caller, &snapshot.id)?;
            responses.send(accepted(snapshot, last_chunk)).await?;
            watcher
        }
    };
    see_through(watcher, &responses).await
}

/// Sends progress of a job that needs no more rows from the client until it has ended, then its result.
async fn see_through(watcher: Watcher, responses: &ResponseSender<pb::TrainResponse>) -> Result<(), Ending> {
    let news = |job| answer(ResponseMessage::Progress(convert::job(job, convert::Report::Without)));
    let ended = follow(watcher, responses, news).await?;
    responses.send(result(ended)?).await
}

/// Resolves if the client sends rows for a job with `spec.files`, or if reading fails.
async fn no_rows(requests: &mut Streaming<pb::TrainRequest>) -> Ending {
    loop {
        match next(requests).await {
            Ok(Some(RequestMessage::Finish(pb::TrainFinish { chunk_count: 0, row_count: 0 }))) => {}
            Ok(None) => return std::future::pending().await,
            Ok(Some(RequestMessage::Finish(_))) => {
                return ServiceError::invalid("finish", "its counts must be 0: the server reads `spec.files`").into();
            }
            Ok(other) => {
                return out_of_order("only `finish`, because the server reads `spec.files`", other.as_ref()).into();
            }
            Err(ending) => return ending,
        }
    }
}

/// Stores and acknowledges the chunks of a stream until `finish`; returns the queued job.
async fn receive(
    mut upload: Upload,
    (service, features): (&Service, Features),
    caller: &CallerOf,
    requests: &mut Streaming<pb::TrainRequest>,
    responses: &ResponseSender<pb::TrainResponse>,
) -> Result<JobSnapshot, Ending> {
    let mut columns = None;
    loop {
        let question = tokio::select! {
            question = next(requests) => question?,
            error = upload.taken_over() => return Err(error.into()),
        };
        match question {
            Some(RequestMessage::Chunk(chunk)) => {
                let number = chunk.number;
                let role = convert::row_role(chunk.role)?;
                let rows = convert::named_rows("chunk.rows", chunk.rows)?;
                let _held = caller.hold(rows.matrix().rows() as u64, rows.matrix().bytes() as u64)?;
                let (rows, mut note) = align(service, &features, &mut columns, rows).await?;
                for one in upload.append(number, role, rows).await? {
                    responses.send(acknowledged(one, note.take())).await?;
                }
            }
            Some(RequestMessage::Finish(finish)) => {
                return Ok(upload.finish(finish.chunk_count, finish.row_count).await?);
            }
            other => return Err(out_of_order("a `chunk` or `finish`", other.as_ref()).into()),
        }
    }
}

/// The last response: a result for a job that succeeded, an error for any other.
fn result(ended: JobSnapshot) -> Result<pb::TrainResponse, ServiceError> {
    if ended.state == JobState::Succeeded {
        return Ok(answer(ResponseMessage::Result(result_of(ended))));
    }
    let reason = ended.failure.map_or(String::new(), |reason| format!(": {reason}"));
    let text = format!("job {} {}{reason}", ended.id, ended.state.ended_as());
    Err(if ended.data_lost { ServiceError::JobLost(text) } else { ServiceError::JobEnded(text) })
}
