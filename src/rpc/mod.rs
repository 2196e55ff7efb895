//! The gRPC layer: thin handlers, conversions that never panic, and one table of status codes.

pub mod auth;
pub mod autoencoder;
mod bulk;
pub mod compression;
pub mod convert;
pub mod deadline;
mod early;
pub mod in_flight;
mod incremental;
pub mod inference;
pub mod jobs;
pub mod limits;
pub mod models;
pub mod observe;
pub mod only_grpc;
mod refusals;
pub mod status;
mod stream;
mod train_messages;
mod transfers;

pub use crate::pb;

/// The handlers of the three `halfhitch.v1` services and of the Open Inference Protocol.
#[derive(Clone, Debug)]
pub struct Api {
    service: crate::service::Service,
    imports: std::sync::Arc<tokio::sync::Semaphore>,
    exports: std::sync::Arc<tokio::sync::Semaphore>,
}

impl Api {
    /// Creates the handlers.
    pub fn new(service: crate::service::Service) -> Self {
        let places = || std::sync::Arc::new(tokio::sync::Semaphore::new(transfers::TRANSFERS_MAX));
        Self { service, imports: places(), exports: places() }
    }
}
