//! `grpc.health.v1`: readiness of the server, for probes over gRPC.
//!
//! Valid names are `""` (the whole server), each of its services, and `models/NAME`, `models/NAME@VERSION` and
//! `models/NAME@ALIAS`. A model is healthy if the server is ready and serves that version.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use futures_util::stream::unfold;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::{Health as HealthApi, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::service::{ModelReference, Readiness, Service, shown};

/// Names of the services.
const SERVICES: [&str; 5] = [
    "",
    "halfhitch.v1.AutoencoderService",
    "halfhitch.v1.ModelService",
    "halfhitch.v1.JobService",
    "inference.GRPCInferenceService",
];
/// Prefix of model names; no service name starts with it.
const MODELS: &str = "models/";
/// Maximum number of concurrent watchers.
const WATCHERS_MAX: usize = 4096;
/// Interval at which a watcher of a model checks that it is still served.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// Implementation of the health service.
#[derive(Clone, Debug)]
pub(super) struct Health {
    service: Service,
    /// Slots of watchers. They are limited because health needs no credential.
    watchers: Arc<Semaphore>,
}

impl Health {
    pub(super) fn over(service: Service) -> HealthServer<Self> {
        // A watcher keeps its request in memory, and a name is short.
        let watchers = Arc::new(Semaphore::new(WATCHERS_MAX));
        HealthServer::new(Self { service, watchers }).max_decoding_message_size(1 << 10)
    }

    fn status(&self, name: &str) -> ServingStatus {
        let is_known = match name.strip_prefix(MODELS) {
            None => SERVICES.contains(&name),
            Some(model) => self.has_model(model),
        };
        match (is_known, self.service.lifecycle().now()) {
            (false, _) => ServingStatus::ServiceUnknown,
            (true, Readiness::Ready) => ServingStatus::Serving,
            (true, _) => ServingStatus::NotServing,
        }
    }

    fn has_model(&self, model: &str) -> bool {
        let reference: Result<ModelReference, _> = model.parse();
        reference.is_ok_and(|model| self.service.serves(&model))
    }

    /// Waits for a status other than `last`; `None` once the server is stopping.
    async fn next(&self, name: &str, last: Option<ServingStatus>) -> Option<ServingStatus> {
        let mut lifecycle = self.service.lifecycle().watch();
        loop {
            let now = *lifecycle.borrow_and_update();
            let status = self.status(name);
            if last != Some(status) {
                return Some(status);
            }
            if now == Readiness::Stopping {
                return None;
            }
            if name.starts_with(MODELS) {
                let _ = timeout(LOOK_INTERVAL, lifecycle.changed()).await;
            } else if lifecycle.changed().await.is_err() {
                return None;
            }
        }
    }
}

fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

#[tonic::async_trait]
impl HealthApi for Health {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        let name = request.into_inner().service;
        match self.status(&name) {
            // The protocol requires NOT_FOUND for Check only.
            ServingStatus::ServiceUnknown => {
                let shown = shown(&name);
                let known = SERVICES[1..].join(", ");
                Err(Status::not_found(format!(
                    "unknown service {shown:?}, expected an empty name, one of {known}, or models/NAME, \
                     models/NAME@VERSION or models/NAME@ALIAS of an existing model"
                )))
            }
            status => Ok(Response::new(response(status))),
        }
    }

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let Ok(place) = Arc::clone(&self.watchers).try_acquire_owned() else {
            let text = format!("{WATCHERS_MAX} health watchers are open, the most allowed; call Check instead");
            return Err(Status::resource_exhausted(text));
        };
        let (health, name) = (self.clone(), request.into_inner().service);
        let statuses = unfold((health, name, place, None), |(health, name, place, last)| async move {
            let status = health.next(&name, last).await?;
            Some((Ok(response(status)), (health, name, place, Some(status))))
        });
        Ok(Response::new(Box::pin(statuses)))
    }
}
