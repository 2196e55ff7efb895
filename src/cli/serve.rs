//! `halfhitch serve`.

use std::io::Write;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use super::CliError;
use crate::config::{ServeArgs, Settings};
use crate::{executor, server, telemetry};

pub(super) fn run(args: &ServeArgs) -> Result<(), CliError> {
    let settings = Settings::load(args)?;
    if args.print_config {
        print!("{}", settings.print());
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
        .map_err(|error| CliError::Failed(format!("no runtime: {error}")))?;
    runtime.block_on(async move {
        let failed = |what: &str, error: std::io::Error| CliError::Failed(format!("{what}: {error}"));
        let listener = TcpListener::bind(settings.listen).await.map_err(|error| {
            failed(&format!("cannot listen on {} (choose another with --listen)", settings.listen), error)
        })?;
        let address = listener.local_addr().map_err(|error| failed("the address is not known", error))?;
        let mut terminate =
            signal(SignalKind::terminate()).map_err(|error| failed("SIGTERM cannot be listened for", error))?;
        let shutdown = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
        };
        let opened = server::open(settings.server).await.map_err(|error| CliError::Failed(error.to_string()))?;
        // Whoever started this may wait for the line; it may also have closed its end.
        let mut output = std::io::stdout();
        let _ = writeln!(output, "halfhitch {} listens on http://{address}", env!("CARGO_PKG_VERSION"));
        let _ = output.flush();
        opened.serve(listener, shutdown).await.map_err(|error| CliError::Failed(error.to_string()))
    })
}
