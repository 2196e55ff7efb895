//! `halfhitch serve`: runs the server, and applies signals and changed settings.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;

use super::CliError;
use crate::config::{ServeArgs, Settings};
use crate::security::files::Watched;
use crate::server::{Orders, Security, Stop};
use crate::service::UpkeepConfig;
use crate::{executor, server, telemetry};

/// Interval between two checks of the settings file.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Capacity of the queue of stop signals; further signals would change nothing.
const STOPS_WAITING_MAX: usize = 8;

pub(super) fn run(args: &ServeArgs) -> Result<(), CliError> {
    let settings = Settings::load(args)?;
    if args.print_config {
        super::print::out(format_args!("{}", settings.print()));
        return Ok(());
    }
    crate::config::settle_allocator();
    telemetry::init(settings.log_format, &settings.log).map_err(|error| CliError::Usage(error.to_string()))?;
    for warning in &settings.warnings {
        tracing::warn!("{warning}");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .on_thread_start(executor::do_not_interrupt)
        .build()
        .map_err(|error| CliError::Failed(format!("cannot start the async runtime: {error}")))?;
    let served = runtime.block_on(async move {
        let failed = |what: &str, error: io::Error| CliError::Failed(format!("{what}: {error}"));
        let listener = TcpListener::bind(settings.listen).await.map_err(|error| {
            failed(&format!("cannot listen on {} (choose another with --listen)", settings.listen), error)
        })?;
        let address = listener.local_addr().map_err(|error| failed("cannot read the local address", error))?;
        let signals = Signals::listen().map_err(|error| failed("cannot listen for signals", error))?;
        let (upkeep, upkeep_changes) = watch::channel(settings.server.upkeep.clone());
        let opened =
            server::open(settings.server.clone()).await.map_err(|error| CliError::Failed(error.to_string()))?;
        let (stops, stop_requests) = mpsc::channel(STOPS_WAITING_MAX);
        let scheme = if settings.server.security.tls.is_some() { "https" } else { "http" };
        let security = opened.security().clone();
        let following = Following { args: args.clone(), started_with: settings, upkeep, security };
        let read_again = Arc::new(Notify::new());
        tokio::spawn(signals.follow(stops, Arc::clone(&read_again)));
        tokio::spawn(following.follow(read_again));
        // A parent process may wait for this line, or may have closed its end of the pipe.
        let mut output = io::stdout();
        let _ = writeln!(output, "halfhitch {} listens on {scheme}://{address}", env!("CARGO_PKG_VERSION"));
        let _ = output.flush();
        let orders = Orders::new(ReceiverStream::new(stop_requests), upkeep_changes);
        opened.serve(listener, orders).await.map_err(|error| CliError::Failed(error.to_string()))
    });
    // Blocking tasks without a caller, such as an inspection, must not outlast the shutdown grace.
    runtime.shutdown_timeout(Duration::from_millis(100));
    served
}

/// The signals that this process handles.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// Turns SIGTERM and SIGINT into stop orders, and SIGHUP into a reload.
    async fn follow(mut self, stops: mpsc::Sender<Stop>, read_again: Arc<Notify>) {
        loop {
            let stop = tokio::select! {
                _ = self.terminate.recv() => Stop::Drain,
                // Ctrl-C in a terminal: skip draining.
                _ = self.interrupt.recv() => Stop::Now,
                _ = self.hang_up.recv() => {
                    read_again.notify_one();
                    continue;
                }
            };
            // A full queue already holds enough stop orders.
            let _ = stops.try_send(stop);
        }
    }
}

/// Applies the settings that can change while the server runs.
struct Following {
    args: ServeArgs,
    started_with: Settings,
    upkeep: watch::Sender<UpkeepConfig>,
    security: Security,
}

impl Following {
    /// Reloads the settings on SIGHUP and when their file changes. Runs apart from the signal handler, so that a disk
    /// that hangs does not keep the server from stopping.
    async fn follow(self, read_again: Arc<Notify>) {
        let mut file = Watched::new(self.started_with.path.clone().into_iter().collect());
        let _ = file.changed();
        loop {
            let is_signaled = timeout(LOOK_INTERVAL, read_again.notified()).await.is_ok();
            let look = move || {
                let changed = if is_signaled { file.changed() } else { file.settled() };
                (file, changed.is_some_and(|read| read.is_ok()))
            };
            let Ok((looked, changed)) = executor::blocking(look).await else { return };
            file = looked;
            if is_signaled {
                tracing::info!("SIGHUP: reloading the settings");
            } else if changed {
                tracing::info!("the settings file has changed: reloading the settings");
            } else {
                continue;
            }
            self.read_again().await;
        }
    }

    /// Applies changed settings. Invalid settings change nothing.
    async fn read_again(&self) {
        // `reload` logs its own errors.
        let security = self.security.clone();
        let _ = executor::blocking(move || security.reload()).await;
        let args = self.args.clone();
        let read = executor::blocking(move || Settings::load(&args)).await;
        let settings = match read {
            Ok(Ok(settings)) => settings,
            Ok(Err(error)) => {
                tracing::error!(%error, "the new settings are invalid; the previous settings stay in force");
                return;
            }
            Err(lost) => {
                tracing::error!(%lost, "the settings could not be read; the previous settings stay in force");
                return;
            }
        };
        let fixed = self.started_with.fixed_differences(&settings);
        if !fixed.is_empty() {
            tracing::warn!(settings = fixed.join(", "), "changed settings take effect only after a restart");
        }
        let changed = self.upkeep.send_if_modified(|upkeep| {
            let differs = *upkeep != settings.server.upkeep;
            upkeep.clone_from(&settings.server.upkeep);
            differs
        });
        if changed {
            tracing::info!(upkeep = ?settings.server.upkeep, "changed settings are in force");
        }
    }
}
