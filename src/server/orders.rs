//! Orders from the operator to a running server: stop signals and changed settings.

use std::fmt;
use std::pin::Pin;

use futures_util::stream::{Stream, StreamExt, once};
use tokio::sync::watch;

use crate::service::UpkeepConfig;

/// How to stop. A further stop skips the current step of the shutdown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Become not ready, but keep serving for a while, so that load balancers have time to notice.
    Drain,
    /// Stop accepting connections now.
    Now,
}

/// Orders to a running server.
pub struct Orders {
    stops: Pin<Box<dyn Stream<Item = Stop> + Send>>,
    pub(super) upkeep: watch::Receiver<UpkeepConfig>,
}

impl fmt::Debug for Orders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Orders").finish_non_exhaustive()
    }
}

impl Orders {
    /// Stops for each item of `stops`, and when `stops` ends. `upkeep` gives the current upkeep settings.
    pub fn new(stops: impl Stream<Item = Stop> + Send + 'static, upkeep: watch::Receiver<UpkeepConfig>) -> Self {
        let stops = stops.chain(once(async { Stop::Now })).chain(futures_util::stream::pending());
        Self { stops: Box::pin(stops), upkeep }
    }

    /// Stops when `shutdown` resolves; `upkeep` never changes.
    pub fn until(shutdown: impl Future<Output = ()> + Send + 'static, upkeep: UpkeepConfig) -> Self {
        // A receiver keeps the last value after its sender is dropped.
        let (_, upkeep) = watch::channel(upkeep);
        let stop = async {
            shutdown.await;
            Stop::Now
        };
        Self { stops: Box::pin(once(stop).chain(futures_util::stream::pending())), upkeep }
    }

    /// Waits for the next stop order.
    pub(super) async fn stop(&mut self) -> Stop {
        // The stream never ends.
        self.stops.next().await.unwrap_or(Stop::Now)
    }
}
