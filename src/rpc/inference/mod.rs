//! The Open Inference Protocol, version 2: the same use cases for clients of this protocol.

mod describe;
mod tensors;

use std::time::{Duration, Instant};

use tonic::{Request, Response, Status, Streaming};

use self::describe::Face;
use super::Api;
use super::auth::{CallerOf, caller};
use super::deadline::deadline;
use super::limits::translate_status;
use super::observe::RequestContext;
use super::pb::inference as pb;
use super::pb::inference::grpc_inference_service_server::GrpcInferenceService;
use super::pb::inference::infer_parameter::ParameterChoice;
use super::status::uncounted_status;
use super::stream::{Ending, ResponseStream, driven};
use crate::service::{
    AllowedModel, Decoder, ModelEntry, ModelKey, ModelName, Output, Readiness, Selector, ServiceError, Version,
    VersionDescription, shown,
};

/// Supported extensions of the protocol.
const EXTENSIONS: [&str; 5] =
    ["model_repository", "model_configuration", "schedule_policy", "parameters", "statistics"];

/// Parses a requested name into model and operation.
fn model(name: &str) -> Result<(ModelName, Face), ServiceError> {
    let (model, face) = Face::of(name)?;
    match model.parse() {
        Ok(model) => Ok((model, face)),
        // No model can have this name. Clients of the protocol know this error text.
        Err(_) => Err(unknown(name)),
    }
}

fn unknown(name: &str) -> ServiceError {
    let shown = shown(name);
    ServiceError::UnknownToProtocol(format!("Request for unknown model: {shown:?} is not found"))
}

/// Parses a requested version: a number, an alias, or empty.
fn selector(text: &str) -> Result<Selector, ServiceError> {
    if text.is_empty() {
        return Ok(Selector::Latest);
    }
    if let Ok(number) = text.parse::<u64>() {
        let version = Version::new(number).map_err(|error| ServiceError::invalid("version", error))?;
        return Ok(Selector::Version(version));
    }
    Ok(Selector::Alias(text.parse().map_err(|error| ServiceError::invalid("version", error))?))
}

#[tonic::async_trait]
impl GrpcInferenceService for Api {
    type ModelStreamInferStream = ResponseStream<pb::ModelStreamInferResponse>;

    async fn server_live(&self, _: Request<pb::ServerLiveRequest>) -> Result<Response<pb::ServerLiveResponse>, Status> {
        Ok(Response::new(pb::ServerLiveResponse { live: true }))
    }

    async fn server_ready(
        &self,
        _: Request<pb::ServerReadyRequest>,
    ) -> Result<Response<pb::ServerReadyResponse>, Status> {
        Ok(Response::new(pb::ServerReadyResponse { ready: self.service.lifecycle().now().is_ready() }))
    }

    async fn model_ready(
        &self,
        request: Request<pb::ModelReadyRequest>,
    ) -> Result<Response<pb::ModelReadyResponse>, Status> {
        let caller = caller(request.extensions());
        let pb::ModelReadyRequest { name, version } = request.into_inner();
        let (model, _) = model(&name)?;
        let model = AllowedModel::check(&caller, model)?;
        self.service.resolve_served(&model, &selector(&version)?)?;
        Ok(Response::new(pb::ModelReadyResponse { ready: self.service.lifecycle().now().is_ready() }))
    }

    async fn server_metadata(
        &self,
        _: Request<pb::ServerMetadataRequest>,
    ) -> Result<Response<pb::ServerMetadataResponse>, Status> {
        Ok(Response::new(pb::ServerMetadataResponse {
            name: env!("CARGO_PKG_NAME").to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            extensions: EXTENSIONS.map(str::to_owned).to_vec(),
        }))
    }

    async fn model_metadata(
        &self,
        request: Request<pb::ModelMetadataRequest>,
    ) -> Result<Response<pb::ModelMetadataResponse>, Status> {
        let caller = caller(request.extensions());
        let pb::ModelMetadataRequest { name, version } = request.into_inner();
        let (model, face) = model(&name)?;
        let model = AllowedModel::check(&caller, model)?;
        let selector = selector(&version)?;
        let described = self.described(&model, &selector).await?;
        let versions = match selector {
            Selector::Latest => {
                let entry = self.service.model(&model)?;
                let served = entry.versions.keys().filter(|version| self.service.is_served(&entry, **version));
                served.map(ToString::to_string).collect()
            }
            Selector::Version(_) | Selector::Alias(_) => vec![described.key.version.to_string()],
        };
        Ok(Response::new(describe::metadata(name, face, &described.spec, versions)))
    }

    async fn model_config(
        &self,
        request: Request<pb::ModelConfigRequest>,
    ) -> Result<Response<pb::ModelConfigResponse>, Status> {
        let caller = caller(request.extensions());
        let pb::ModelConfigRequest { name, version } = request.into_inner();
        let (model, face) = model(&name)?;
        let model = AllowedModel::check(&caller, model)?;
        let described = self.described(&model, &selector(&version)?).await?;
        let config = describe::config(name, face, &described.spec, self.service.policy(model.name()));
        Ok(Response::new(pb::ModelConfigResponse { config: Some(config) }))
    }

    async fn model_infer(
        &self,
        request: Request<pb::ModelInferRequest>,
    ) -> Result<Response<pb::ModelInferResponse>, Status> {
        let (context, caller) = (RequestContext::of(request.extensions()), caller(request.extensions()));
        let deadline = deadline(request.extensions());
        Ok(Response::new(infer(self, &caller, request.into_inner(), &context, deadline, false).await?))
    }

    async fn model_stream_infer(
        &self,
        request: Request<Streaming<pb::ModelInferRequest>>,
    ) -> Result<Response<Self::ModelStreamInferStream>, Status> {
        let (context, caller) = (RequestContext::of(request.extensions()), caller(request.extensions()));
        let deadline = deadline(request.extensions());
        let (api, mut requests) = (self.clone(), request.into_inner());
        Ok(Response::new(driven(|answers| async move {
            let lifecycle = api.service.lifecycle().clone();
            loop {
                let question = tokio::select! {
                    // An open stream must not delay the shutdown.
                    () = lifecycle.reaches(Readiness::Stopping) => {
                        let error = ServiceError::ShuttingDown("responses already sent are valid, send the rest again");
                        return Err(error.into());
                    }
                    question = requests.message() => question.map_err(|status| Ending::Status(translate_status(status)))?,
                };
                let Some(question) = question else { break };
                let (model_name, id) = (question.model_name.clone(), question.id.clone());
                let answer = match infer(&api, &caller, question, &context, deadline, true).await {
                    Ok(answer) => pb::ModelStreamInferResponse { infer_response: Some(answer), ..Default::default() },
                    Err(error) => pb::ModelStreamInferResponse {
                        // `uncounted_status` and not `status`: the call continues, so it is not counted as refused.
                        error_message: uncounted_status(error).message().to_owned(),
                        infer_response: Some(pb::ModelInferResponse { model_name, id, ..Default::default() }),
                    },
                };
                answers.send(answer).await?;
            }
            Ok(())
        })))
    }

    async fn model_statistics(
        &self,
        request: Request<pb::ModelStatisticsRequest>,
    ) -> Result<Response<pb::ModelStatisticsResponse>, Status> {
        let caller = caller(request.extensions());
        let pb::ModelStatisticsRequest { name, version } = request.into_inner();
        let usages = self.service.usages(&caller);
        let lines = |key: &ModelKey, face: Face| {
            // A version without requests has no counters.
            let usage = usages.iter().find(|(counted, _)| counted == key);
            let counts = usage.map(|(_, usage)| usage.counts(face.operation() as usize)).unwrap_or_default();
            describe::statistics(key, face, &counts)
        };
        let model_stats = if name.is_empty() {
            usages.iter().flat_map(|(key, _)| Face::ALL.map(|face| lines(key, face))).collect()
        } else {
            let (model, face) = model(&name)?;
            let model = AllowedModel::check(&caller, model)?;
            if version.is_empty() {
                let of = |version: &Version| ModelKey { name: model.name().clone(), version: *version };
                self.service.model(&model)?.versions.keys().map(|version| lines(&of(version), face)).collect()
            } else {
                vec![lines(&self.service.resolve(&model, &selector(&version)?)?, face)]
            }
        };
        Ok(Response::new(pb::ModelStatisticsResponse { model_stats }))
    }

    async fn repository_index(
        &self,
        request: Request<pb::RepositoryIndexRequest>,
    ) -> Result<Response<pb::RepositoryIndexResponse>, Status> {
        let caller = caller(request.extensions());
        let pb::RepositoryIndexRequest { repository_name, ready: only_ready } = request.into_inner();
        repository(&repository_name)?;
        let index = |entry: &ModelEntry, version: Version| {
            let (state, reason) = if self.service.is_served(entry, version) {
                ("READY", String::new())
            } else {
                ("UNAVAILABLE", format!("the version policy is {}", self.service.policy(&entry.name)))
            };
            pb::repository_index_response::ModelIndex {
                name: entry.name.to_string(),
                version: version.to_string(),
                state: state.to_owned(),
                reason,
            }
        };
        let mut models = Vec::new();
        for entry in self.service.models(&caller) {
            models.extend(entry.versions.keys().map(|version| index(&entry, *version)));
        }
        models.retain(|model| !only_ready || model.state == "READY");
        Ok(Response::new(pb::RepositoryIndexResponse { models }))
    }

    async fn repository_model_load(
        &self,
        request: Request<pb::RepositoryModelLoadRequest>,
    ) -> Result<Response<pb::RepositoryModelLoadResponse>, Status> {
        let caller = caller(request.extensions());
        let pb::RepositoryModelLoadRequest { repository_name, model_name, parameters } = request.into_inner();
        repository(&repository_name)?;
        if let Some(parameter) = parameters.keys().next() {
            let shown = shown(parameter);
            let message = format!("has {shown:?}, expected none: models come from Train or ImportModelVersion");
            return Err(ServiceError::invalid("parameters", message).into());
        }
        let (model, _) = model(&model_name)?;
        let model = AllowedModel::check(&caller, model)?;
        self.service.warm(&model).await?;
        Ok(Response::new(pb::RepositoryModelLoadResponse {}))
    }

    async fn repository_model_unload(
        &self,
        request: Request<pb::RepositoryModelUnloadRequest>,
    ) -> Result<Response<pb::RepositoryModelUnloadResponse>, Status> {
        let caller = caller(request.extensions());
        let pb::RepositoryModelUnloadRequest { repository_name, model_name, .. } = request.into_inner();
        repository(&repository_name)?;
        let (model, _) = model(&model_name)?;
        let model = AllowedModel::check(&caller, model)?;
        self.service.unload(&model)?;
        Ok(Response::new(pb::RepositoryModelUnloadResponse {}))
    }
}

fn repository(name: &str) -> Result<(), ServiceError> {
    if name.is_empty() {
        return Ok(());
    }
    let shown = shown(name);
    Err(ServiceError::invalid("repository_name", format!("is {shown:?}, expected it empty: there is one repository")))
}

impl Api {
    /// Describes a version, if it is served.
    async fn described(&self, model: &AllowedModel, selector: &Selector) -> Result<VersionDescription, ServiceError> {
        let key = self.service.resolve_served(model, selector)?;
        self.service.describe(model, &Selector::Version(key.version)).await
    }
}

/// Serves one request.
async fn infer(
    api: &Api,
    caller: &CallerOf,
    mut question: pb::ModelInferRequest,
    context: &RequestContext,
    deadline: Option<Instant>,
    of_stream: bool,
) -> Result<pb::ModelInferResponse, ServiceError> {
    let (name, mut face) = model(&question.model_name)?;
    let model = AllowedModel::check(caller, name)?;
    if let Some(operation) = text(&question, "operation")? {
        if face != Face::Encode {
            return Err(ServiceError::invalid("parameters", "`operation` is set, but the name has one already"));
        }
        face = Face::parse(operation)?;
    }
    let selector = selector(&question.model_version)?;
    let deadline = match (timeout(&question)?, deadline) {
        (Some(timeout), Some(deadline)) => Some(deadline.min(timeout)),
        (timeout, deadline) => timeout.or(deadline),
    };
    // Recorded before the rows are checked, so that an invalid request is counted for its model.
    context.asks(model.name(), 0);
    let rows = tensors::matrix(&mut question, face.input())?;
    context.add_rows(rows.rows());
    // The bytes of a unary call were counted on arrival.
    let _held =
        if of_stream { caller.hold(rows.rows() as u64, rows.bytes() as u64)? } else { caller.hold_message(&rows)? };
    let (service, answer) = (&api.service, tensors::answer_format(&question)?);
    let served = match face {
        Face::Encode => service.encode(&model, &selector, rows, 0, answer, deadline).await?,
        Face::Decode => service.decode(&model, &selector, rows, Decoder::Transpose, answer, deadline).await?,
        Face::Reconstruct => service.reconstruct(&model, &selector, rows, Decoder::Transpose, answer, deadline).await?,
    };
    context.served(served.version, served.output.timing);
    let Output { matrix, squared_errors, .. } = served.output;
    let outputs = match face {
        Face::Encode => vec![tensors::output("CODE", matrix)],
        Face::Decode => vec![tensors::output("X", matrix)],
        Face::Reconstruct => vec![tensors::output("X_HAT", matrix), tensors::column(tensors::ERROR, &squared_errors)],
    };
    let (outputs, raw_output_contents) = wanted(&question, outputs)?.into_iter().unzip();
    Ok(pb::ModelInferResponse {
        model_name: question.model_name,
        model_version: served.version.to_string(),
        id: question.id,
        outputs,
        raw_output_contents,
        ..pb::ModelInferResponse::default()
    })
}

/// The outputs that the request names, in its order; all if it names none.
fn wanted<T>(
    question: &pb::ModelInferRequest,
    mut outputs: Vec<(pb::model_infer_response::InferOutputTensor, T)>,
) -> Result<Vec<(pb::model_infer_response::InferOutputTensor, T)>, ServiceError> {
    if question.outputs.is_empty() {
        return Ok(outputs);
    }
    let mut chosen = Vec::new();
    for asked in &question.outputs {
        let Some(place) = outputs.iter().position(|(output, _)| output.name == asked.name) else {
            let shown = shown(&asked.name);
            let there: Vec<&str> = outputs.iter().map(|(output, _)| output.name.as_str()).collect();
            let message = format!("is {shown:?}, expected one of {}, each once", there.join(", "));
            return Err(ServiceError::invalid("outputs.name", message));
        };
        chosen.push(outputs.remove(place));
    }
    Ok(chosen)
}

/// The value of a string parameter, if it is set.
fn text<'a>(question: &'a pb::ModelInferRequest, name: &str) -> Result<Option<&'a str>, ServiceError> {
    match question.parameters.get(name).map(|parameter| &parameter.parameter_choice) {
        None => Ok(None),
        Some(Some(ParameterChoice::StringParam(text))) => Ok(Some(text)),
        Some(_) => Err(ServiceError::invalid("parameters", format!("`{name}` is not a string, expected one"))),
    }
}

/// The deadline from the parameter `timeout`; 0: none.
fn timeout(question: &pb::ModelInferRequest) -> Result<Option<Instant>, ServiceError> {
    let microseconds = match question.parameters.get("timeout").map(|parameter| &parameter.parameter_choice) {
        None => 0,
        Some(Some(ParameterChoice::Int64Param(number))) => u64::try_from(*number).unwrap_or(0),
        Some(Some(ParameterChoice::Uint64Param(number))) => *number,
        Some(_) => {
            return Err(ServiceError::invalid("parameters", "`timeout` is not an integer, expected microseconds"));
        }
    };
    let timeout = (microseconds > 0).then(|| Duration::from_micros(microseconds));
    Ok(timeout.and_then(|timeout| Instant::now().checked_add(timeout)))
}
