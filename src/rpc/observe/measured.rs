//! Where calls are counted.

use std::sync::Arc;

use crate::service::Service;
use crate::telemetry::measures::ServerMeasures;

/// Where calls are counted.
#[derive(Debug)]
pub struct Measured {
    /// Finds the metrics of a model.
    pub service: Service,
    /// Counts calls without a known model.
    pub server: Arc<ServerMeasures>,
}
