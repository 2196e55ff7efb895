//! The server: opens the store, listens, serves and shuts down.

mod admin;
mod connections;
mod direct;
mod frames;
mod guarded_stream;
mod health;
mod lingering;
mod orders;
mod page;
mod process;
mod reflection;
pub mod security;
pub mod tls;
pub mod transport;
mod write_coalescer;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};
use tonic::codec::CompressionEncoding;
use tonic::service::Routes;

use crate::batching::{Batcher, BatchingConfig, Stats};
use crate::executor::{ExecutorConfig, blocking_or_panic};
use crate::jobs::{JobError, Jobs, JobsConfig};
use crate::numeric::isa;
use crate::registry::{Registry, RegistryConfig};
use crate::rpc::observe::Measured;
use crate::rpc::{Api, pb};
use crate::service::{Lifecycle, Readiness, Service, Upkeep, UpkeepConfig};
use crate::store::local::LocalStore;
use crate::store::{ModelStore, StoreError};
use crate::telemetry::measures::ServerMeasures;
use crate::telemetry::traces::{Traces, TracesConfig};
pub use orders::{Orders, Stop};
pub use security::{Security, SecurityConfig, SecurityError};
pub use tls::TlsConfig;
pub use transport::{BadTransport, TransportConfig};

/// Interval at which the store's folder is checked for changes by another server.
const REFRESH_INTERVAL: Duration = Duration::from_millis(500);
/// Open files to allow besides connections: models, jobs, folders.
const OTHER_FILES_MAX: u64 = 256;
/// Interval at which the use of versions is recorded and versions beyond the retention limits are removed.
const TIDY_INTERVAL: Duration = Duration::from_mins(1);
/// Time for training to save its checkpoint after a further stop signal.
const HURRIED_GRACE: Duration = Duration::from_secs(2);
/// How long the shutdown waits for the trace collector.
const TRACES_GRACE: Duration = Duration::from_secs(2);

/// Settings of a server. Each layer checks its own part.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Folder of the models and jobs.
    pub store: PathBuf,
    /// Settings of HTTP/2 and limits of connections, calls and messages.
    pub transport: TransportConfig,
    /// Credentials, TLS and limits per caller.
    pub security: SecurityConfig,
    /// Limits of the batching layer.
    pub batching: BatchingConfig,
    /// Numbers of threads, and the minimum CPU share of training.
    pub executor: ExecutorConfig,
    /// Limits of training jobs.
    pub jobs: JobsConfig,
    /// Limits of the models in memory.
    pub registry: RegistryConfig,
    /// Models to keep in memory, and the version and retention policies.
    pub upkeep: UpkeepConfig,
    /// Time from a drain signal until the server stops accepting connections; part of `shutdown_grace`.
    pub drain: Duration,
    /// Settings of traces.
    pub traces: TracesConfig,
    /// Address of the admin port for metrics and probes; `None`: no admin port.
    pub admin_listen: Option<SocketAddr>,
    /// Time from the stop signal until all accepted calls must be complete.
    pub shutdown_grace: Duration,
}

impl ServerConfig {
    /// The defaults, with the store in folder `store`.
    pub fn new(store: PathBuf) -> Self {
        Self {
            jobs: JobsConfig::new(store.join("jobs")),
            store,
            transport: TransportConfig::default(),
            security: SecurityConfig::default(),
            batching: BatchingConfig::default(),
            executor: ExecutorConfig::default(),
            registry: RegistryConfig::default(),
            upkeep: UpkeepConfig::default(),
            drain: Duration::from_secs(3),
            traces: TracesConfig::default(),
            admin_listen: None,
            shutdown_grace: Duration::from_secs(25),
        }
    }
}

/// Why a server could not start, or why it ended.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The store cannot be opened.
    #[error("store {}: {source}", folder.display())]
    Store {
        /// The store's folder, as configured.
        folder: PathBuf,
        /// The error of the store.
        source: StoreError,
    },
    /// The jobs folder cannot be opened.
    #[error("the jobs of store {}: {source}", folder.display())]
    Jobs {
        /// The store's folder, as configured.
        folder: PathBuf,
        /// The error of the jobs.
        source: Box<JobError>,
    },
    /// The system cannot start the threads.
    #[error("cannot start threads: {0}")]
    Threads(io::Error),
    /// The folder of server files cannot be read.
    #[error("setting train_folder is {folder:?}, expected a readable folder: {source}")]
    TrainFolder {
        /// The configured folder.
        folder: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// The admin port cannot be opened.
    #[error("setting admin_listen is {address}, expected an address to listen on: {source}")]
    Admin {
        /// The configured address.
        address: SocketAddr,
        /// The error of the system.
        source: io::Error,
    },
    /// A transport setting is out of range.
    #[error(transparent)]
    Setting(#[from] BadTransport),
    /// Credentials or certificates cannot be used.
    #[error(transparent)]
    Security(#[from] SecurityError),
    /// The transport failed while serving.
    #[error("serving failed: {0}")]
    Transport(#[from] tonic::transport::Error),
}

/// Opens a server and serves until `shutdown` resolves: see [`open`] and [`Opened::serve`].
pub async fn run(
    listener: TcpListener,
    config: ServerConfig,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), ServerError> {
    let orders = Orders::until(shutdown, config.upkeep.clone());
    open(config).await?.serve(listener, orders).await
}

/// An opened server: the store is open and the threads run.
#[derive(Debug)]
pub struct Opened {
    registry: Registry,
    batcher: Batcher,
    jobs: Jobs,
    transport: TransportConfig,
    security: Security,
    drain: Duration,
    traces: Traces,
    admin: Option<TcpListener>,
    shutdown_grace: Duration,
}

/// Opens everything that can fail before the first request.
pub async fn open(config: ServerConfig) -> Result<Opened, ServerError> {
    config.transport.check()?;
    // A failure of tracing must not stop the server.
    let traces = Traces::start(&config.traces).unwrap_or_else(|error| {
        tracing::warn!(%error, "nothing is traced");
        Traces::default()
    });
    let security = config.security.clone();
    let security = blocking_or_panic(move || Security::open(security)).await?;
    if let Some(folder) = config.jobs.train_folder.clone() {
        blocking_or_panic(move || match std::fs::read_dir(&folder) {
            Ok(_) => Ok(()),
            Err(source) => Err(ServerError::TrainFolder { folder, source }),
        })
        .await?;
    }
    let folder = config.store.clone();
    let store =
        blocking_or_panic(move || LocalStore::open(&folder).map_err(|source| ServerError::Store { folder, source }))
            .await?;
    let store: Arc<dyn ModelStore> = Arc::new(store);
    let registry = Registry::new(store, config.registry);
    tracing::info!(instructions = %isa(), "instructions for matrix products");
    let connections_max = config.transport.connections_max as u64;
    if let Some(files_max) = process::raise_open_files().filter(|max| *max < connections_max + OTHER_FILES_MAX) {
        tracing::warn!(
            files_max,
            connections_max,
            "the limit of open files is too low for connections_max: raise `ulimit -n`, or lower connections_max"
        );
    }
    let min_share = Arc::new(config.executor.min_share().map_err(ServerError::Threads)?);
    let batcher = Batcher::start(config.batching, config.executor.serving_threads, Arc::clone(&min_share));
    let batcher = batcher.map_err(ServerError::Threads)?;
    let jobs = {
        let (registry, jobs, folder) = (registry.clone(), config.jobs.clone(), config.store.clone());
        let opened = move || {
            Jobs::open(jobs, registry, min_share)
                .map_err(|source| ServerError::Jobs { folder, source: Box::new(source) })
        };
        blocking_or_panic(opened).await?
    };
    let admin = match config.admin_listen {
        Some(address) => {
            let listener = TcpListener::bind(address).await.map_err(|source| ServerError::Admin { address, source })?;
            let address = listener.local_addr().map_err(|source| ServerError::Admin { address, source })?;
            tracing::info!(%address, "metrics at /metrics, probes at /livez and /readyz");
            Some(listener)
        }
        None => None,
    };
    let ServerConfig { transport, drain, shutdown_grace, .. } = config;
    Ok(Opened { registry, batcher, jobs, transport, security, drain, traces, admin, shutdown_grace })
}

impl Opened {
    /// Address of the admin port, if there is one.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.as_ref()?.local_addr().ok()
    }

    /// Credentials and certificates; [`Security::reload`] reads them again.
    pub fn security(&self) -> &Security {
        &self.security
    }

    /// Serves on `listener` until a stop order, then shuts down in order. It becomes not ready, drains, stops accepting
    /// connections, saves a checkpoint of running training, completes accepted calls, and returns. Training resumes at
    /// the next start. A further stop order skips the current step.
    pub async fn serve(self, listener: TcpListener, mut orders: Orders) -> Result<(), ServerError> {
        let Self { registry, batcher, jobs, transport, security, drain, traces, admin, shutdown_grace } = self;
        let lifecycle = Lifecycle::default();
        let service = Service::new(registry.clone(), batcher.clone(), jobs.clone(), lifecycle.clone());
        let api = Api::new(service.clone());

        let measures = Arc::new(ServerMeasures::default());
        let admin = admin.map(|listener| {
            let figures = page::Figures {
                registry: registry.clone(),
                batcher: batcher.clone(),
                jobs: jobs.clone(),
                lifecycle: lifecycle.clone(),
                server: Arc::clone(&measures),
                traces: traces.clone(),
            };
            AbortOnDrop(tokio::spawn(admin::serve(listener, figures, lifecycle.clone())))
        });
        let measured = Arc::new(Measured { service: service.clone(), server: measures });
        let upkeep = orders.upkeep.borrow().clone();
        registry.set_policies(upkeep.policies);
        if upkeep.warm_models.is_empty() {
            // There is no model to wait for.
            lifecycle.advance(Readiness::Ready);
        }
        let keeper = tokio::spawn(keep(service.clone(), registry, orders.upkeep.clone()));

        if let Ok(address) = listener.local_addr() {
            security.warn(address);
        }
        let looker = tokio::spawn(security.clone().watch(lifecycle.watch()));
        let _trimmer = AbortOnDrop(tokio::spawn(process::give_memory_back()));

        let rows = Arc::new(direct::BusyServices::new(&api, api.early(), transport.message_bytes_max));
        let routes = routes(&service, api, transport.message_bytes_max);
        let serving = tokio::spawn(connections::serve(
            listener,
            transport,
            security.clone(),
            routes,
            rows,
            traces.clone(),
            measured,
            lifecycle.watch(),
        ));
        tokio::pin!(serving);

        let (stop, outcome) = tokio::select! {
            // The transport ended by itself: an error, or a bug.
            ended = &mut serving => (Stop::Now, Some(joined(ended))),
            stop = orders.stop() => (stop, None),
        };
        let until = Instant::now() + shutdown_grace;
        let mut hurried = false;
        let outcome = match outcome {
            Some(ended) => ended,
            None => {
                lifecycle.advance(Readiness::Draining);
                if stop == Stop::Drain && !drain.is_zero() {
                    tracing::info!(?drain, "draining: not ready, but still serving; a second signal ends draining");
                    let drained = until.min(Instant::now() + drain);
                    let _ = timeout_at(drained, orders.stop()).await;
                }
                tracing::info!("shutting down");
                lifecycle.advance(Readiness::Stopping);
                let closed = async {
                    // Closes the streams that watch jobs, which would otherwise keep their connections open.
                    if timeout_at(until, jobs.shut_down()).await.is_err() {
                        tracing::warn!("training did not stop in time: its job resumes from its last checkpoint");
                    }
                    timeout_at(until, &mut serving).await
                };
                tokio::select! {
                    ended = closed => match ended {
                        Ok(ended) => joined(ended),
                        Err(_) => {
                            tracing::warn!(grace = ?shutdown_grace, "some connections did not close in time");
                            Ok(())
                        }
                    },
                    _ = orders.stop() => {
                        tracing::warn!("further stop signal: closing the remaining connections");
                        hurried = true;
                        Ok(())
                    }
                }
            }
        };
        serving.abort();
        lifecycle.advance(Readiness::Stopping);
        let until = if hurried { until.min(Instant::now() + HURRIED_GRACE) } else { until };
        let _ = timeout_at(until, jobs.shut_down()).await;
        let drained = batcher.clone();
        let _ = timeout_at(until, blocking_or_panic(move || drained.drain())).await;
        let _ = timeout_at(until, keeper).await;
        let _ = timeout_at(until, looker).await;
        traces.shut_down(TRACES_GRACE).await;
        let Stats { answered, refused, batches, rows, cancelled_rows, .. } = batcher.stats();
        tracing::info!(answered, refused, batches, rows, cancelled_rows, "stopped");
        // The admin port stays open until here, so that probes see the whole shutdown.
        drop(admin);
        Ok(outcome?)
    }
}

/// Routes of all gRPC services except those of [`direct`].
fn routes(service: &Service, api: Api, bytes_max: usize) -> Routes {
    /// Enables gzip and zstd in both directions.
    macro_rules! compressed {
        ($server:expr) => {
            $server
                .accept_compressed(CompressionEncoding::Gzip)
                .accept_compressed(CompressionEncoding::Zstd)
                .send_compressed(CompressionEncoding::Gzip)
                .send_compressed(CompressionEncoding::Zstd)
        };
    }
    let (reflection, older_reflection) = reflection::services();
    let models = pb::model_service_server::ModelServiceServer::new(api.clone()).max_decoding_message_size(bytes_max);
    let jobs = pb::job_service_server::JobServiceServer::new(api).max_decoding_message_size(bytes_max);
    Routes::new(compressed!(health::Health::over(service.clone())))
        .add_service(compressed!(reflection))
        .add_service(compressed!(older_reflection))
        .add_service(compressed!(models))
        .add_service(compressed!(jobs))
}

/// Periodic maintenance. It checks the store's folder for changes by another server, loads the warm models and then
/// sets the server ready, records the use of versions, and removes versions beyond the retention limits.
async fn keep(service: Service, registry: Registry, mut config: watch::Receiver<UpkeepConfig>) {
    let lifecycle = service.lifecycle();
    let mut upkeep = Upkeep::default();
    let (mut is_logged, mut tidied) = (false, None::<Instant>);
    loop {
        let now = config.borrow_and_update().clone();
        registry.set_policies(now.policies.clone());
        tokio::select! {
            () = lifecycle.reaches(Readiness::Stopping) => return,
            warm = upkeep.warm(&service, &now.warm_models) => {
                if warm {
                    lifecycle.advance(Readiness::Ready);
                }
            }
        }
        if tidied.is_none_or(|then| then.elapsed() >= TIDY_INTERVAL) {
            tidied = Some(Instant::now());
            let service = service.clone();
            upkeep = blocking_or_panic(move || {
                upkeep.tidy(&service, &now, SystemTime::now());
                upkeep
            })
            .await;
        }
        tokio::select! {
            () = lifecycle.reaches(Readiness::Stopping) => return,
            // An error means that the sender is gone; the branch is then disabled.
            // After a change, removal waits a full interval, so that a mistake can be corrected first.
            Ok(()) = config.changed() => tidied = Some(Instant::now()),
            () = sleep(REFRESH_INTERVAL) => {}
        }
        let store = Arc::clone(registry.store());
        match blocking_or_panic(move || store.refresh()).await {
            Ok(changed) => {
                is_logged = false;
                if changed {
                    tracing::info!(writable = registry.store().is_writable(), "the store's folder has changed");
                    registry.forget_deleted();
                }
            }
            // Log this once, because it would repeat twice a second.
            Err(error) if !is_logged => {
                is_logged = true;
                tracing::warn!(%error, "cannot read the store's folder; known models are still served");
            }
            Err(_) => {}
        }
    }
}

/// A task that is aborted when its owner is dropped.
#[derive(Debug)]
struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn joined(
    ended: Result<Result<(), tonic::transport::Error>, tokio::task::JoinError>,
) -> Result<(), tonic::transport::Error> {
    match ended {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Ok(()),
    }
}
