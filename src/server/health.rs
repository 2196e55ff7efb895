//! Readiness: one type, told through `grpc.health.v1`.
//!
//! The law: not ready until everything is open; never ready again once stopping.

use tonic_health::ServingStatus;
use tonic_health::pb::health_server::{Health as HealthApi, HealthServer};
use tonic_health::server::{HealthReporter, health_reporter};

/// Names under which a prober may ask: the server as a whole, and each service.
const NAMES: [&str; 5] = [
    "",
    "halfhitch.v1.AutoencoderService",
    "halfhitch.v1.ModelService",
    "halfhitch.v1.JobService",
    "inference.GRPCInferenceService",
];

/// Whether this server wants requests.
#[derive(Clone, Debug)]
pub struct Health {
    reporter: HealthReporter,
}

impl Health {
    /// Not ready, and the service that says so.
    pub fn new() -> (Self, HealthServer<impl HealthApi>) {
        let (reporter, service) = health_reporter();
        (Self { reporter }, service)
    }

    /// Everything is open.
    pub async fn ready(&self) {
        self.set(ServingStatus::Serving).await;
    }

    /// Stopping: for good.
    pub async fn not_ready(&self) {
        self.set(ServingStatus::NotServing).await;
    }

    async fn set(&self, status: ServingStatus) {
        for name in NAMES {
            self.reporter.set_service_status(name, status).await;
        }
    }
}
