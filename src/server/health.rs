//! `grpc.health.v1`: where the server stands, for the probes that ask over gRPC.
//!
//! Names that can be asked for: `""`, the server as a whole; each of its services; and `models/NAME`,
//! `models/NAME@VERSION`, `models/NAME@ALIAS`, which can be served as long as they exist.

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

/// Services by name.
const SERVICES: [&str; 5] = [
    "",
    "halfhitch.v1.AutoencoderService",
    "halfhitch.v1.ModelService",
    "halfhitch.v1.JobService",
    "inference.GRPCInferenceService",
];
/// What a model's name begins with: no service is called so.
const MODELS: &str = "models/";
/// Watchers at a time.
const WATCHERS_MAX: usize = 4096;
/// How often a watcher of a model looks whether it is still there.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// The health service over the use cases.
#[derive(Clone, Debug)]
pub(super) struct Health {
    service: Service,
    /// Places of watchers: they need no credential.
    watchers: Arc<Semaphore>,
}

impl Health {
    pub(super) fn over(service: Service) -> HealthServer<Self> {
        // A watcher keeps its question: a name is short.
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
        reference.is_ok_and(|model| self.service.resolve_served(&model.name, &model.selector).is_ok())
    }

    /// The next status that is not `told`; none when there will be no other, because the server stops.
    async fn next(&self, name: &str, told: Option<ServingStatus>) -> Option<ServingStatus> {
        let mut lifecycle = self.service.lifecycle().watch();
        loop {
            let now = *lifecycle.borrow_and_update();
            let status = self.status(name);
            if told != Some(status) {
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
            // So the protocol wants it, of Check alone.
            ServingStatus::ServiceUnknown => {
                let shown = shown(&name);
                let known = SERVICES[1..].join(", ");
                Err(Status::not_found(format!(
                    "nothing here is called {shown:?}, expected nothing, one of {known}, or models/NAME, \
                     models/NAME@VERSION or models/NAME@ALIAS of a model that exists"
                )))
            }
            status => Ok(Response::new(response(status))),
        }
    }

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let Ok(place) = Arc::clone(&self.watchers).try_acquire_owned() else {
            let text = format!("{WATCHERS_MAX} watch already, the most that this server tells; ask with Check instead");
            return Err(Status::resource_exhausted(text));
        };
        let (health, name) = (self.clone(), request.into_inner().service);
        let told = unfold((health, name, place, None), |(health, name, place, told)| async move {
            let status = health.next(&name, told).await?;
            Some((Ok(response(status)), (health, name, place, Some(status))))
        });
        Ok(Response::new(Box::pin(told)))
    }
}
