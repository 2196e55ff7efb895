//! The real server as a process on its own core.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::{Cores, Failure, Owned};

/// Longer than the server's grace period, which is longer than any request of a benchmark.
const STOP_WAIT_MAX: Duration = Duration::from_secs(40);

/// `halfhitch serve` on a free port.
#[derive(Debug)]
pub(crate) struct RunningServer {
    pub(crate) process: Owned,
    pub(crate) address: SocketAddr,
    log: PathBuf,
}

/// The server's counts, from the log line on its stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Requests with a result.
    pub(crate) answered: u64,
    /// Requests with an error.
    pub(crate) refused: u64,
    /// Batches computed.
    pub(crate) batches: u64,
    /// Rows in these batches.
    pub(crate) rows: u64,
}

impl RunningServer {
    /// Starts the server on `store` with additional flags. Its log goes to `scratch`.
    pub(crate) fn start(cores: Cores, store: &Path, scratch: &Path, flags: &[String]) -> Result<Self, Failure> {
        Self::start_program(Path::new(env!("CARGO_BIN_EXE_halfhitch")), cores, store, scratch, flags)
    }

    /// Like [`Self::start`], for another build of the server.
    pub(crate) fn start_program(
        program: &Path,
        cores: Cores,
        store: &Path,
        scratch: &Path,
        flags: &[String],
    ) -> Result<Self, Failure> {
        let log = scratch.join("server.log");
        let mut command = cores.server_command(program);
        for (name, _) in std::env::vars_os() {
            // Remove the user's settings from the environment, except for the instruction set.
            let name = name.to_string_lossy();
            if name.starts_with("HALFHITCH_") && name != "HALFHITCH_ISA" {
                command.env_remove(&*name);
            }
        }
        command.args(["serve", "--listen", "127.0.0.1:0", "--log-format", "json", "--store"]).arg(store).args(flags);
        command.stderr(File::create(&log)?);
        let (process, address) = Owned::server(command)?;
        Ok(Self { process, address, log })
    }

    /// Stops the server gracefully, and reads its counts from its log.
    pub(crate) fn stop(self) -> Result<Counts, Failure> {
        let status = self.process.terminate(STOP_WAIT_MAX)?;
        if !status.success() {
            return Err(format!("the server ended with {status}").into());
        }
        let log = fs::read_to_string(&self.log)?;
        let last = log.lines().rev().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let stopped = last.into_iter().find(|line| line["fields"]["message"] == "stopped");
        let fields = &stopped.ok_or("the server's log does not say that it stopped")?["fields"];
        let count = |name: &str| fields[name].as_u64().ok_or(format!("the server's last line has no {name}"));
        Ok(Counts {
            answered: count("answered")?,
            refused: count("refused")?,
            batches: count("batches")?,
            rows: count("rows")?,
        })
    }
}
