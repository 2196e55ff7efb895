//! Accepts connections and passes each to one of several tonic servers, which differ in the maximum connection age.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{try_join, try_join_all};
use http::Request;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::sleep;
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::service::Routes;
use tower::layer::layer_fn;
use tower::util::MapResponseLayer;

use super::direct::{BusyServices, Direct};
use super::guarded_stream::{GuardedStream, Patience};
use super::lingering::Lingering;
use super::security::Security;
use super::transport::TransportConfig;
use super::write_coalescer::WriteCoalescer;
use crate::methods::Method;
use crate::rpc::auth::Auth;
use crate::rpc::deadline::InTime;
use crate::rpc::in_flight::InFlight;
use crate::rpc::limits;
use crate::rpc::observe::{Measured, Observe};
use crate::rpc::only_grpc::OnlyGrpc;
use crate::security::FairQuota;
use crate::security::log_throttle::LogThrottle;
use crate::service::Readiness;
use crate::telemetry::measures::ServerMeasures;
use crate::telemetry::traces::Traces;

/// Number of different maximum ages, within 10 % of the setting. Connections get them in turn, so that clients that
/// connected together do not all reconnect together. tonic supports one age per server, so there is a server for each.
const AGES: u32 = 16;
/// Capacity of each server's channel of accepted connections. A server takes them at once.
const ACCEPTED_WAITING_MAX: usize = 16;
/// Pause after a failed accept, usually for lack of file descriptors.
const ACCEPT_RETRY_AFTER: Duration = Duration::from_millis(100);

/// Maximum number of connections in their handshake. If there are more, the oldest are closed.
const GREETING_AT_ONCE_MAX: usize = 1024;

type Accepted = Result<WriteCoalescer<GuardedStream>, io::Error>;

/// Serves `routes` on `listener` until the lifecycle is stopping. Then it accepts nothing more, and returns when all
/// connections are closed.
#[expect(clippy::too_many_arguments, reason = "all parts of a server, passed once")]
pub(super) async fn serve<F>(
    listener: TcpListener,
    transport: TransportConfig,
    security: Security,
    routes: Routes,
    rows: Arc<BusyServices<F>>,
    traces: Traces,
    measured: Arc<Measured>,
    lifecycle: watch::Receiver<Readiness>,
) -> Result<(), tonic::transport::Error>
where
    F: Fn(Request<Body>, Option<Method>) -> Request<Body> + Send + Sync + 'static,
{
    let in_flight = Arc::new(InFlight::new(
        transport.calls_max,
        transport.in_flight_bytes_max,
        transport.message_bytes_max,
        transport.message_wait_max,
    ));
    let (senders, servers): (Vec<_>, Vec<_>) = ages(transport.connection_age_max)
        .into_iter()
        .map(|age| {
            let (sender, accepted) = mpsc::channel(ACCEPTED_WAITING_MAX);
            let (traces, measured) = (traces.clone(), Arc::clone(&measured));
            let router = transport
                .builder(age)
                .layer(layer_fn(OnlyGrpc::new))
                .layer(layer_fn(move |inner| Observe::new(inner, traces.clone(), Arc::clone(&measured))))
                .layer(layer_fn(InTime::new))
                .layer(MapResponseLayer::new(limits::translate_response::<Body>))
                .layer(layer_fn({
                    let (gate, in_flight) = (Arc::clone(security.gate()), Arc::clone(&in_flight));
                    move |inner| Auth::new(inner, Arc::clone(&gate), Arc::clone(&in_flight))
                }))
                .layer(layer_fn({
                    let rows = Arc::clone(&rows);
                    move |routes| Direct::new(routes, rows.clone())
                }))
                .add_routes(routes.clone());
            let lifecycle = lifecycle.clone();
            (sender, router.serve_with_incoming_shutdown(ReceiverStream::new(accepted), stopped(lifecycle)))
        })
        .unzip();
    let accepting = async {
        tokio::select! {
            () = stopped(lifecycle) => {}
            () = accept(listener, &transport, &security, senders, &measured.server) => {}
        }
        Ok(())
    };
    try_join(accepting, try_join_all(servers)).await.map(|_| ())
}

async fn stopped(mut lifecycle: watch::Receiver<Readiness>) {
    // An error means that the server itself was dropped: stop too.
    let _ = lifecycle.wait_for(|now| *now == Readiness::Stopping).await;
}

/// Accepts connections, does their handshakes and passes them to the servers in turn, until a server no longer takes
/// them.
async fn accept(
    listener: TcpListener,
    transport: &TransportConfig,
    security: &Security,
    servers: Vec<mpsc::Sender<Accepted>>,
    measures: &Arc<ServerMeasures>,
) {
    let mut is_logged = false;
    let mut greeting = Greeting::new(transport, security.clone(), Arc::clone(measures));
    let mut next = servers.iter().cycle();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((connection, address)) => {
                    is_logged = false;
                    if let Some(server) = next.next() {
                        greeting.begin(connection, address, server.clone());
                    }
                }
                // The client closed the connection before it was accepted.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    // Log it once until an accept succeeds, because it would repeat ten times a second.
                    if !is_logged {
                        tracing::warn!(%error, "cannot accept a connection; retrying");
                    }
                    is_logged = true;
                    sleep(ACCEPT_RETRY_AFTER).await;
                }
            },
            Some(ended) = greeting.tasks.join_next(), if !greeting.tasks.is_empty() => {
                if matches!(ended, Ok(Greeted::ServerStopped)) {
                    return;
                }
            }
        }
    }
}

/// Connections in their handshake, each in its own task. Dropping this ends them.
struct Greeting {
    tasks: JoinSet<Greeted>,
    /// Handshakes in order of arrival.
    waiting: VecDeque<AbortHandle>,
    places: FairQuota,
    security: Security,
    measures: Arc<ServerMeasures>,
    patience: Patience,
    header_bytes_max: u64,
}

/// Result of a handshake.
enum Greeted {
    /// A server took the connection.
    Handed,
    /// The connection is closed.
    Left,
    /// The server no longer takes connections.
    ServerStopped,
}

impl Greeting {
    fn new(transport: &TransportConfig, security: Security, measures: Arc<ServerMeasures>) -> Self {
        Self {
            tasks: JoinSet::new(),
            waiting: VecDeque::new(),
            places: FairQuota::new(transport.connections_max as u64),
            security,
            measures,
            patience: Patience { greeting: transport.greeting_max, first_call: transport.first_call_max },
            header_bytes_max: transport.header_bytes_max.into(),
        }
    }

    fn begin(&mut self, connection: TcpStream, address: SocketAddr, server: mpsc::Sender<Accepted>) {
        static FULL: LogThrottle = LogThrottle::never();
        static CROWDED: LogThrottle = LogThrottle::never();
        static BAD: LogThrottle = LogThrottle::never();
        let Some(place) = self.places.take(address.ip(), 1) else {
            FULL.once(|unsaid| {
                tracing::warn!(%address, unsaid, "rejected a connection: connections_max is reached, or the share of its address");
            });
            return;
        };
        if let Err(error) = connection.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY; the connection continues without it");
        }
        while self.waiting.front().is_some_and(AbortHandle::is_finished) {
            self.waiting.pop_front();
        }
        if self.waiting.len() >= GREETING_AT_ONCE_MAX {
            self.waiting.retain(|task| !task.is_finished());
        }
        if self.waiting.len() >= GREETING_AT_ONCE_MAX
            && let Some(oldest) = self.waiting.pop_front()
        {
            oldest.abort();
            CROWDED.once(|unsaid| {
                tracing::warn!(unsaid, "closed a connection before its handshake was complete: too many are waiting");
            });
        }
        let (acceptor, gate) = (self.security.acceptor(), Arc::clone(self.security.gate()));
        let connection = Lingering::new(connection, Arc::clone(&self.measures));
        let (patience, header_bytes_max) = (self.patience, self.header_bytes_max);
        let task = self.tasks.spawn(async move {
            match GuardedStream::greet(connection, acceptor, &gate, place, patience, header_bytes_max).await {
                Ok(wire) => match server.send(Ok(WriteCoalescer::new(wire))).await {
                    Ok(()) => Greeted::Handed,
                    Err(_) => Greeted::ServerStopped,
                },
                // The client closed early, for example to check that the port is open.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Greeted::Left,
                Err(error) => {
                    BAD.once(
                        |unsaid| tracing::warn!(%address, %error, unsaid, "closed a connection during its handshake"),
                    );
                    Greeted::Left
                }
            }
        });
        self.waiting.push_back(task);
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
    fn connection_ages_vary_by_ten_percent() {
        let ages: Vec<f64> = ages(Some(Duration::from_secs(100))).iter().flatten().map(Duration::as_secs_f64).collect();
        assert_eq!((ages.len(), ages[0], ages[15]), (16, 90.0, 110.0));
        assert!(ages.is_sorted() && ages.windows(2).all(|pair| pair[1] - pair[0] < 1.5), "{ages:?}");
    }

    #[test]
    fn without_an_age_there_is_one_server() {
        assert_eq!(ages(None), [None]);
    }
}
