//! Accepts connections and hands each to a server, which decides how old it becomes.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{try_join, try_join_all};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::Routes;
use tower::layer::layer_fn;
use tower::util::MapResponseLayer;

use super::gathering::Gathering;
use super::lingering::Lingering;
use super::transport::TransportConfig;
use crate::rpc::deadline::InTime;
use crate::rpc::limits;
use crate::rpc::observe::{Measured, Observe};
use crate::service::Readiness;
use crate::telemetry::measures::ServerMeasures;
use crate::telemetry::traces::Traces;

/// Ages that connections reach in turn, all within 10 % of the setting: clients that came together, after a restart for
/// example, do not all come back together. tonic knows one age a server, so there is a server for each.
const AGES: u32 = 16;
/// Accepted connections that wait for their server: it takes them at once.
const ACCEPTED_WAITING_MAX: usize = 16;
/// Where the system has no room for another connection (no file descriptor, most often), it is asked again after this.
const ACCEPT_RETRY_AFTER: Duration = Duration::from_millis(100);

type Accepted = Result<Gathering<Lingering>, io::Error>;

/// Serves `routes` on `listener` until it is told to stop; then accepts nothing and returns when all connections are
/// closed.
pub(super) async fn serve(
    listener: TcpListener,
    transport: TransportConfig,
    routes: Routes,
    traces: Traces,
    measured: Measured,
    lifecycle: watch::Receiver<Readiness>,
) -> Result<(), tonic::transport::Error> {
    let (senders, servers): (Vec<_>, Vec<_>) = ages(transport.connection_age_max)
        .into_iter()
        .map(|age| {
            let (sender, accepted) = mpsc::channel(ACCEPTED_WAITING_MAX);
            let (traces, measured) = (traces.clone(), measured.clone());
            let router = transport
                .builder(age)
                .layer(layer_fn(move |inner| Observe::new(inner, traces.clone(), measured.clone())))
                .layer(layer_fn(InTime::new))
                .layer(MapResponseLayer::new(limits::translate_response::<tonic::body::Body>))
                .add_routes(routes.clone());
            let lifecycle = lifecycle.clone();
            (sender, router.serve_with_incoming_shutdown(ReceiverStream::new(accepted), stopped(lifecycle)))
        })
        .unzip();
    let accepting = async {
        tokio::select! {
            () = stopped(lifecycle) => {}
            () = accept(listener, senders, &measured.server) => {}
        }
        Ok(())
    };
    try_join(accepting, try_join_all(servers)).await.map(|_| ())
}

async fn stopped(mut lifecycle: watch::Receiver<Readiness>) {
    // An error means that the server itself was dropped: stop too.
    let _ = lifecycle.wait_for(|now| *now == Readiness::Stopping).await;
}

/// Hands connections out in turn, until nobody takes them.
async fn accept(listener: TcpListener, servers: Vec<mpsc::Sender<Accepted>>, measures: &Arc<ServerMeasures>) {
    let mut told = false;
    for server in servers.iter().cycle() {
        let connection = loop {
            match listener.accept().await {
                Ok((connection, _)) => break connection,
                // The client was gone before it was accepted.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    // Once until it is over: it would be said ten times a second.
                    if !told {
                        tracing::warn!(%error, "a connection cannot be accepted; it is tried again");
                    }
                    told = true;
                    sleep(ACCEPT_RETRY_AFTER).await;
                }
            }
        };
        told = false;
        if let Err(error) = connection.set_nodelay(true) {
            tracing::debug!(%error, "a connection goes on without TCP_NODELAY");
        }
        if server.send(Ok(Gathering::new(Lingering::new(connection, Arc::clone(measures))))).await.is_err() {
            return;
        }
    }
}

fn ages(age_max: Option<Duration>) -> Vec<Option<Duration>> {
    let Some(age) = age_max else { return vec![None] };
    (0..AGES).map(|i| Some(age.mul_f64(0.9 + 0.2 * f64::from(i) / f64::from(AGES - 1)))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_lie_within_a_tenth() {
        let ages: Vec<f64> = ages(Some(Duration::from_secs(100))).iter().flatten().map(Duration::as_secs_f64).collect();
        assert_eq!((ages.len(), ages[0], ages[15]), (16, 90.0, 110.0));
        assert!(ages.is_sorted() && ages.windows(2).all(|pair| pair[1] - pair[0] < 1.5), "{ages:?}");
    }

    #[test]
    fn without_an_age_there_is_one_server() {
        assert_eq!(ages(None), [None]);
    }
}
