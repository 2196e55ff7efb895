//! What whoever runs the server tells it while it runs.

use std::fmt;
use std::pin::Pin;

use futures_util::stream::{Stream, StreamExt, once};
use tokio::sync::watch;

use crate::service::UpkeepConfig;

/// How to stop. Every further one hurries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Be not ready, but go on serving for a while: whoever sends clients here needs a moment to notice.
    Drain,
    /// Take nothing new from now on.
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
    /// Stops when `stops` says so, or ends; keeps models as `upkeep` says at the time.
    pub fn new(stops: impl Stream<Item = Stop> + Send + 'static, upkeep: watch::Receiver<UpkeepConfig>) -> Self {
        let stops = stops.chain(once(async { Stop::Now })).chain(futures_util::stream::pending());
        Self { stops: Box::pin(stops), upkeep }
    }

    /// Stops when `shutdown` resolves; nothing else changes.
    pub fn until(shutdown: impl Future<Output = ()> + Send + 'static, upkeep: UpkeepConfig) -> Self {
        // A receiver goes on knowing the last value when its sender is gone.
        let (_, upkeep) = watch::channel(upkeep);
        let stop = async {
            shutdown.await;
            Stop::Now
        };
        Self { stops: Box::pin(once(stop).chain(futures_util::stream::pending())), upkeep }
    }

    /// The next stop.
    pub(super) async fn stop(&mut self) -> Stop {
        // It never ends.
        self.stops.next().await.unwrap_or(Stop::Now)
    }
}
