//! Listens, serves, stops: everything of the program that outlives a request.

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
use crate::executor::ExecutorConfig;
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

/// How often the store's folder is looked at for what another server did.
const REFRESH_INTERVAL: Duration = Duration::from_millis(500);
/// Open files that are no connections: models, jobs, the folder.
const OTHER_FILES_MAX: u64 = 256;
/// How often use is noted and versions that need not be kept are removed.
const TIDY_INTERVAL: Duration = Duration::from_mins(1);
/// Training that is stopped in a hurry has this long to write down where it can go on.
const HURRIED_GRACE: Duration = Duration::from_secs(2);
/// How long the end waits for a collector of traces.
const TRACES_GRACE: Duration = Duration::from_secs(2);

/// What a server is told. Each layer checks its own part.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Folder of the models (and of the jobs' rows).
    pub store: PathBuf,
    /// Messages, windows, connections.
    pub transport: TransportConfig,
    /// Who may come in, and how much of the server one may have.
    pub security: SecurityConfig,
    /// Bounds of the batching layer.
    pub batching: BatchingConfig,
    /// Threads.
    pub executor: ExecutorConfig,
    /// Bounds of the jobs.
    pub jobs: JobsConfig,
    /// Bounds of the models in memory.
    pub registry: RegistryConfig,
    /// Models in memory, versions served and kept.
    pub upkeep: UpkeepConfig,
    /// From a signal to drain until no new connection is accepted; part of the grace.
    pub drain: Duration,
    /// What is traced.
    pub traces: TracesConfig,
    /// Where operators ask for metrics and probes; none: nowhere.
    pub admin_listen: Option<SocketAddr>,
    /// From the signal to stop until everything that was accepted must have been answered.
    pub shutdown_grace: Duration,
}

impl ServerConfig {
    /// Every default, over a folder.
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

/// Why a server could not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The models' folder.
    #[error("store {}: {source}", folder.display())]
    Store {
        /// As it is set.
        folder: PathBuf,
        /// What is wrong.
        source: StoreError,
    },
    /// The jobs' folder.
    #[error("the jobs of store {}: {source}", folder.display())]
    Jobs {
        /// The store, as it is set.
        folder: PathBuf,
        /// What is wrong.
        source: Box<JobError>,
    },
    /// The system refused threads.
    #[error("threads cannot be started: {0}")]
    Threads(io::Error),
    /// The folder of files to train on.
    #[error("setting train_folder is {folder:?}, expected a folder that can be read: {source}")]
    TrainFolder {
        /// What is set.
        folder: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The operators' port.
    #[error("setting admin_listen is {address}, which cannot be listened on: {source}")]
    Admin {
        /// What is set.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// A setting of the transport.
    #[error(transparent)]
    Setting(#[from] BadTransport),
    /// Credentials or certificates.
    #[error(transparent)]
    Security(#[from] SecurityError),
    /// The network.
    #[error("serving failed: {0}")]
    Transport(#[from] tonic::transport::Error),
}

/// Opens and serves: see [`open`] and [`Opened::serve`].
pub async fn run(
    listener: TcpListener,
    config: ServerConfig,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), ServerError> {
    let orders = Orders::until(shutdown, config.upkeep.clone());
    open(config).await?.serve(listener, orders).await
}

/// A server whose folder is open and whose threads run.
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
    // The memory watch must not stop the server.
    let traces = Traces::start(&config.traces).unwrap_or_else(|error| {
        tracing::warn!(%error, "nothing is traced");
        Traces::default()
    });
    let security = config.security.clone();
    let security = blocking(move || Security::open(security)).await?;
    if let Some(folder) = config.jobs.train_folder.clone() {
        blocking(move || match std::fs::read_dir(&folder) {
            Ok(_) => Ok(()),
            Err(source) => Err(ServerError::TrainFolder { folder, source }),
        })
        .await?;
    }
    let folder = config.store.clone();
    let store =
        blocking(move || LocalStore::open(&folder).map_err(|source| ServerError::Store { folder, source })).await?;
    let store: Arc<dyn ModelStore> = Arc::new(store);
    let registry = Registry::new(store, config.registry);
    tracing::info!(instructions = %isa(), "matrix products");
    let connections_max = config.transport.connections_max as u64;
    if let Some(files_max) = process::raise_open_files().filter(|max| *max < connections_max + OTHER_FILES_MAX) {
        tracing::warn!(
            files_max,
            connections_max,
            "fewer files may be open than there may be connections: raise `ulimit -n`, or lower connections_max"
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
        blocking(opened).await?
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
    /// Where operators may ask.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.as_ref()?.local_addr().ok()
    }

    /// Credentials and certificates, to be read again when somebody says so.
    pub fn security(&self) -> &Security {
        &self.security
    }

    /// Serves on `listener` until it is told to stop, then stops in order: not ready, still serving for a while, no new
    /// connections, answers to what was accepted, training to a checkpoint (it goes on at the next start), return. A
    /// further order to stop ends the step that is under way.
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
            // Nothing is left to wait for.
            lifecycle.advance(Readiness::Ready);
        }
        let keeper = tokio::spawn(keep(service.clone(), registry, orders.upkeep.clone()));

        if let Ok(address) = listener.local_addr() {
            security.warn(address);
        }
        let looker = tokio::spawn(security.clone().watch(lifecycle.watch()));
        let _trimmer = AbortOnDrop(tokio::spawn(process::give_memory_back()));

        let rows = direct::BusyServices::new(&api, api.early(), transport.message_bytes_max);
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
            // The transport ended by itself: that is an error, or a fault of ours.
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
                    tracing::info!(?drain, "draining: not ready, and still serving; a second signal ends this");
                    let drained = until.min(Instant::now() + drain);
                    let _ = timeout_at(drained, orders.stop()).await;
                }
                tracing::info!("shutting down");
                lifecycle.advance(Readiness::Stopping);
                let closed = async {
                    // Ends the streams that watch jobs, which would otherwise keep their connections.
                    if timeout_at(until, jobs.shut_down()).await.is_err() {
                        tracing::warn!("training did not stop in time: its job goes on from its last checkpoint");
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
                        tracing::warn!("told to hurry: connections that did not close yet are closed");
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
        let _ = timeout_at(until, blocking(move || drained.drain())).await;
        let _ = timeout_at(until, keeper).await;
        let _ = timeout_at(until, looker).await;
        traces.shut_down(TRACES_GRACE).await;
        let Stats { answered, refused, batches, rows, cancelled_rows, .. } = batcher.stats();
        tracing::info!(answered, refused, batches, rows, cancelled_rows, "stopped");
        // Until now it was told what this server does.
        drop(admin);
        Ok(outcome?)
    }
}

/// Everything that is served over gRPC, but for [`direct`].
fn routes(service: &Service, api: Api, bytes_max: usize) -> Routes {
    /// Messages may be compressed in both directions.
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

/// Everything that is done now and then: looks at the store's folder for what another server did, has models in memory,
/// and so makes this server ready; notes use and removes what need not be kept.
async fn keep(service: Service, registry: Registry, mut config: watch::Receiver<UpkeepConfig>) {
    let lifecycle = service.lifecycle();
    let mut upkeep = Upkeep::default();
    let (mut told, mut tidied) = (false, None::<Instant>);
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
            upkeep = blocking(move || {
                upkeep.tidy(&service, &now, SystemTime::now());
                upkeep
            })
            .await;
        }
        tokio::select! {
            () = lifecycle.reaches(Readiness::Stopping) => return,
            // Whoever sends it may be gone: then nothing changes any more.
            // Nothing is removed at once: what was set by mistake can be set right.
            Ok(()) = config.changed() => tidied = Some(Instant::now()),
            () = sleep(REFRESH_INTERVAL) => {}
        }
        let store = Arc::clone(registry.store());
        match blocking(move || store.refresh()).await {
            Ok(changed) => {
                told = false;
                if changed {
                    tracing::info!(writable = registry.store().is_writable(), "the store's folder has changed");
                    registry.forget_deleted();
                }
            }
            // Once: the same folder fails the same way twice a second.
            Err(error) if !told => {
                told = true;
                tracing::warn!(%error, "the store's folder cannot be read; what is known goes on being served");
            }
            Err(_) => {}
        }
    }
}

/// A task that ends with its owner.
#[derive(Debug)]
struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Runs blocking work off the async threads; a panic in it goes on here.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
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
