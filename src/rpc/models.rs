//! `ModelService`.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::Api;
use super::auth::caller;
use super::convert;
use super::limits::translate_status;
use super::pb;
use super::pb::import_model_version_request::Message as ImportMessage;
use super::pb::model_service_server::ModelService;
use super::stream::ResponseStream;
use super::transfers::TRANSFERS_MAX;
use crate::service::{Aligned, AllowedModel, FILE_BYTES_MAX, InspectionRows, ServiceError, Version};

/// Maximum wait for a free transfer slot.
const TURN_MAX: Duration = Duration::from_secs(10);
/// Maximum wait for the client to send or read one chunk.
const PIECE_MAX: Duration = Duration::from_secs(30);

/// Chunk size of an exported file in bytes.
const EXPORT_CHUNK_BYTES: usize = 1 << 20;

#[tonic::async_trait]
impl ModelService for Api {
    type ExportModelVersionStream = ResponseStream<pb::ExportModelVersionResponse>;

    async fn list_models(
        &self,
        request: Request<pb::ListModelsRequest>,
    ) -> Result<Response<pb::ListModelsResponse>, Status> {
        let caller = caller(request.extensions());
        let pb::ListModelsRequest { page_size, page_token } = request.into_inner();
        let after = convert::page_token(&page_token)?;
        let (models, next) = convert::page(
            self.service
                .models(&caller)
                .into_iter()
                .skip_while(|model| after.as_ref().is_some_and(|last| model.name <= *last)),
            page_size,
            |model| model.name.to_string(),
        );
        let models = models.iter().map(convert::model).collect();
        Ok(Response::new(pb::ListModelsResponse { models, next_page_token: next }))
    }

    async fn list_model_versions(
        &self,
        request: Request<pb::ListModelVersionsRequest>,
    ) -> Result<Response<pb::ListModelVersionsResponse>, Status> {
        let caller = caller(request.extensions());
        let pb::ListModelVersionsRequest { name, page_size, page_token } = request.into_inner();
        let model = AllowedModel::check(&caller, convert::model_name("name", &name)?)?;
        let after = convert::version_token(&page_token)?;
        let entry = self.service.model(&model)?;
        let newest_first = entry.versions.keys().rev().copied();
        let (versions, next) = convert::page(
            newest_first.skip_while(|version| after.is_some_and(|last| *version >= last)),
            page_size,
            |version: &Version| version.to_string(),
        );
        let versions = self.service.describe_all(&model, versions).await?;
        let versions = versions.into_iter().map(|one| convert::version(one, convert::Report::Without)).collect();
        Ok(Response::new(pb::ListModelVersionsResponse { versions, next_page_token: next }))
    }

    async fn get_model_version(
        &self,
        request: Request<pb::GetModelVersionRequest>,
    ) -> Result<Response<pb::GetModelVersionResponse>, Status> {
        let caller = caller(request.extensions());
        let (name, selector) = convert::model_ref(request.into_inner().model)?;
        let model = AllowedModel::check(&caller, name)?;
        let description = self.service.describe(&model, &selector).await?;
        let version = Some(convert::version(description, convert::Report::With));
        Ok(Response::new(pb::GetModelVersionResponse { version }))
    }

    async fn inspect_model(
        &self,
        request: Request<pb::InspectModelRequest>,
    ) -> Result<Response<pb::InspectModelResponse>, Status> {
        let caller = caller(request.extensions());
        let pb::InspectModelRequest { model, rows, validation_sample } = request.into_inner();
        let (name, selector) = convert::model_ref(model)?;
        let model = AllowedModel::check(&caller, name)?;
        let (mut selector, mut notes) = (selector, Vec::new());
        let rows = match (rows, validation_sample) {
            (None, false) => InspectionRows::None,
            (None, true) => InspectionRows::Sample,
            (Some(rows), false) => {
                let rows = convert::named_rows("rows", Some(rows))?;
                let (chosen, Aligned { rows, columns }) = self.service.align_any(&model, selector, rows).await?;
                (selector, notes) = (chosen, columns.notes);
                InspectionRows::Sent(rows)
            }
            (Some(_), true) => {
                let reason = "is set together with rows, expected one of them";
                return Err(ServiceError::invalid("validation_sample", reason).into());
            }
        };
        let seen = self.service.inspect(&model, &selector, rows).await?;
        Ok(Response::new(pb::InspectModelResponse { notes, ..convert::inspection(seen) }))
    }

    async fn delete_model_version(
        &self,
        request: Request<pb::DeleteModelVersionRequest>,
    ) -> Result<Response<pb::DeleteModelVersionResponse>, Status> {
        let caller = caller(request.extensions());
        let pb::DeleteModelVersionRequest { name, version } = request.into_inner();
        let model = AllowedModel::check(&caller, convert::model_name("name", &name)?)?;
        let version = convert::version_number("version", version)?;
        self.service.delete_version(model, version).await?;
        Ok(Response::new(pb::DeleteModelVersionResponse {}))
    }

    async fn set_alias(&self, request: Request<pb::SetAliasRequest>) -> Result<Response<pb::SetAliasResponse>, Status> {
        let caller = caller(request.extensions());
        let pb::SetAliasRequest { name, alias, version, expected_version } = request.into_inner();
        let model = AllowedModel::check(&caller, convert::model_name("name", &name)?)?;
        let alias = convert::alias("alias", &alias)?;
        let version = convert::version_number("version", version)?;
        let expected = match expected_version {
            None => None,
            Some(0) => Some(None),
            Some(number) => Some(Some(convert::version_number("expected_version", number)?)),
        };
        let before = self.service.set_alias(model, version, alias.clone(), expected).await?;
        Ok(Response::new(pb::SetAliasResponse {
            alias: Some(pb::Alias { alias: alias.to_string(), version: version.number() }),
            previous_version: before.map_or(0, Version::number),
        }))
    }

    async fn delete_alias(
        &self,
        request: Request<pb::DeleteAliasRequest>,
    ) -> Result<Response<pb::DeleteAliasResponse>, Status> {
        let caller = caller(request.extensions());
        let pb::DeleteAliasRequest { name, alias, expected_version } = request.into_inner();
        let model = AllowedModel::check(&caller, convert::model_name("name", &name)?)?;
        let alias = convert::alias("alias", &alias)?;
        let expected =
            expected_version.map(|number| convert::version_number("expected_version", number)).transpose()?;
        self.service.delete_alias(model, alias, expected).await?;
        Ok(Response::new(pb::DeleteAliasResponse {}))
    }

    async fn import_model_version(
        &self,
        request: Request<Streaming<pb::ImportModelVersionRequest>>,
    ) -> Result<Response<pb::ImportModelVersionResponse>, Status> {
        let caller = caller(request.extensions());
        let mut messages = request.into_inner();
        let Some(ImportMessage::Target(target)) = next(&mut messages).await? else {
            return Err(ServiceError::invalid("message", "expected `target` first").into());
        };
        let model = AllowedModel::check(&caller, convert::model_name("target.name", &target.name)?)?;
        let _turn = turn(&self.imports).await?;
        let mut file = Vec::new();
        while let Some(message) = in_time(next(&mut messages)).await?? {
            let ImportMessage::Chunk(chunk) = message else {
                return Err(ServiceError::invalid("message", "expected a `chunk`, got a second `target`").into());
            };
            if (file.len() + chunk.len()) as u64 > FILE_BYTES_MAX {
                return Err(ServiceError::FileTooLarge { bytes_max: FILE_BYTES_MAX }.into());
            }
            file.extend_from_slice(&chunk);
        }
        let description = self.service.import(model, file).await?;
        let version = Some(convert::version(description, convert::Report::With));
        Ok(Response::new(pb::ImportModelVersionResponse { version }))
    }

    async fn canonicalize_model_version(
        &self,
        request: Request<pb::CanonicalizeModelVersionRequest>,
    ) -> Result<Response<pb::CanonicalizeModelVersionResponse>, Status> {
        let caller = caller(request.extensions());
        let (name, selector) = convert::model_ref(request.into_inner().model)?;
        let model = AllowedModel::check(&caller, name)?;
        let (description, variances) = self.service.canonicalize(&model, &selector).await?;
        let version = Some(convert::version(description, convert::Report::With));
        let code_variances = variances.into_iter().map(f64::from).collect();
        Ok(Response::new(pb::CanonicalizeModelVersionResponse { version, code_variances }))
    }

    async fn orthonormalize_model_version(
        &self,
        request: Request<pb::OrthonormalizeModelVersionRequest>,
    ) -> Result<Response<pb::OrthonormalizeModelVersionResponse>, Status> {
        let caller = caller(request.extensions());
        let pb::OrthonormalizeModelVersionRequest { model, rows, publish } = request.into_inner();
        let (name, selector) = convert::model_ref(model)?;
        let model = AllowedModel::check(&caller, name)?;
        let rows = convert::named_rows("rows", rows)?;
        let (selector, Aligned { rows, columns }) = self.service.align_any(&model, selector, rows).await?;
        let made = self.service.orthonormalize(&model, &selector, rows, publish).await?;
        Ok(Response::new(pb::OrthonormalizeModelVersionResponse {
            version: made.key.version.number(),
            squared_error: made.before,
            orthonormal_squared_error: made.after,
            published: made.published.map(|description| convert::version(description, convert::Report::With)),
            notes: columns.notes,
        }))
    }

    async fn export_model_version(
        &self,
        request: Request<pb::ExportModelVersionRequest>,
    ) -> Result<Response<Self::ExportModelVersionStream>, Status> {
        let caller = caller(request.extensions());
        let (name, selector) = convert::model_ref(request.into_inner().model)?;
        let model = AllowedModel::check(&caller, name)?;
        let turn = turn(&self.exports).await?;
        let (key, file) = self.service.export(&model, &selector).await?;
        let version = key.version.number();
        let file_bytes = file.len() as u64;
        let (sender, responses) = mpsc::channel(1);
        // In a task of its own: the transport does not poll a stream whose client does not read, so its timeout would
        // never fire.
        tokio::spawn(async move {
            for chunk in file.chunks(EXPORT_CHUNK_BYTES) {
                // Copied, so that an unread chunk does not keep the whole file in memory.
                let chunk = Bytes::copy_from_slice(chunk);
                match in_time(sender.send(Ok(pb::ExportModelVersionResponse { version, file_bytes, chunk }))).await {
                    Ok(Ok(())) => {}
                    // The client has left.
                    Ok(Err(_)) => return,
                    Err(idle) => {
                        drop((turn, file));
                        let _ = sender.send(Err(idle.into())).await;
                        return;
                    }
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(responses))))
    }
}

/// Waits for a transfer slot.
async fn turn(places: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, ServiceError> {
    let place = timeout(TURN_MAX, Arc::clone(places).acquire_owned()).await;
    place
        .map_err(|_| ServiceError::TransfersFull { max: TRANSFERS_MAX })?
        .map_err(|_| ServiceError::ShuttingDown("no new transfers are accepted"))
}

/// Limits the time for one chunk, so that a slow client frees its slot.
async fn in_time<T>(piece: impl Future<Output = T>) -> Result<T, ServiceError> {
    timeout(PIECE_MAX, piece).await.map_err(|_| ServiceError::TransferIdle { wait_max: PIECE_MAX })
}

/// The next message; `None` at the end.
async fn next(messages: &mut Streaming<pb::ImportModelVersionRequest>) -> Result<Option<ImportMessage>, Status> {
    match messages.message().await {
        Ok(None) => Ok(None),
        Ok(Some(pb::ImportModelVersionRequest { message: Some(message) })) => Ok(Some(message)),
        Ok(Some(pb::ImportModelVersionRequest { message: None })) => {
            Err(ServiceError::invalid("message", "nothing is set, expected `target` or `chunk`").into())
        }
        Err(status) => Err(translate_status(status)),
    }
}
