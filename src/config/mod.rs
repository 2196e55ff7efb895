//! Settings of the server, from flags, `HALFHITCH_*` variables and a TOML file. Flags win over variables, and variables
//! win over the file.
//!
//! Settings are read in two steps: [`ServeArgs`] holds the text as written, [`Settings`] holds the checked values. No
//! other module reads the environment.

mod allocator;
mod client;
mod layers;
mod lifecycle;
mod security;
mod standard_traces;
mod traces;
mod transport;

use std::ffi::OsString;
use std::fmt::{self, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use allocator::settle_allocator;
pub use client::ClientArgs;
use layers::{Layers, read};
pub use lifecycle::LifecycleArgs;
pub use security::SecurityArgs;
pub use traces::TracesArgs;
pub use transport::TransportArgs;

use crate::batching::BatchingConfig;
use crate::executor::ExecutorConfig;
use crate::jobs::JobsConfig;
use crate::numeric::{Isa, IsaError, init};
use crate::registry::RegistryConfig;
use crate::server::ServerConfig;
use crate::telemetry::LogFormat;

/// Default address of the server: `serve` listens here, and clients connect here.
pub const ADDRESS_DEFAULT: &str = "127.0.0.1:50051";

/// Flags of `halfhitch serve`, as written.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ServeArgs {
    /// TOML file with the settings below; names as the flags, with _ in place of - [variable: HALFHITCH_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print the settings in force and the source of each, then exit
    #[arg(long)]
    pub print_config: bool,
    /// Address and port to listen on; port 0 picks a free port [default: 127.0.0.1:50051]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Option<String>,
    /// Address and port of /metrics, /livez and /readyz over HTTP, for operators; port 0 picks a free port, which the
    /// log names [default: none]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub admin_listen: Option<String>,
    /// Folder of the models and of the rows of jobs; created if missing [default: halfhitch-store]
    #[arg(long, value_name = "FOLDER")]
    pub store: Option<String>,
    /// Folder whose files clients may train on, by paths relative to it; without it, clients cannot train on server
    /// files [default: none]
    #[arg(long, value_name = "FOLDER")]
    pub train_folder: Option<String>,
    /// Messages, flow-control windows, connections
    #[command(flatten)]
    pub transport: TransportArgs,
    /// Traces
    #[command(flatten)]
    pub traces: TracesArgs,
    /// Credentials, TLS, limits per caller
    #[command(flatten)]
    pub security: SecurityArgs,
    /// Maximum rows in one batch, 1 to 65536 [default: 256]
    #[arg(long, value_name = "ROWS")]
    pub batch_rows_max: Option<String>,
    /// Maximum rows that wait to be computed, 1 to 4294967296 [default: 65536]
    #[arg(long, value_name = "ROWS")]
    pub queue_rows_max: Option<String>,
    /// Maximum bytes of queued requests and their responses, 1KiB to 1024GiB [default: 256MiB]
    #[arg(long, value_name = "BYTES")]
    pub queue_bytes_max: Option<String>,
    /// Threads that serve requests, 1 to 1024 [default: the number of cores]
    #[arg(long, value_name = "COUNT")]
    pub serving_threads: Option<String>,
    /// Threads that train, at the lowest priority, 1 to 1024 [default: the number of cores]
    #[arg(long, value_name = "COUNT")]
    pub training_threads: Option<String>,
    /// Minimum share of CPU time for training while requests are served, in percent of the time in which it could run,
    /// 0 to 50 [default: 5]
    #[arg(long, value_name = "PERCENT")]
    pub training_percent_min: Option<String>,
    /// Maximum bytes of models in memory; the least recently used are evicted [default: 4GiB]
    #[arg(long, value_name = "BYTES")]
    pub resident_bytes_max: Option<String>,
    /// Cancel an upload that receives no chunk for this long, 1 to 31536000 [default: 3600]
    #[arg(long, value_name = "SECONDS")]
    pub upload_idle_timeout_seconds: Option<String>,
    /// Maximum jobs that are queued, running or paused, 1 to 100000; one caller gets at most four fifths [default: 64]
    #[arg(long, value_name = "COUNT")]
    pub open_jobs_max: Option<String>,
    /// Maximum open uploads, 1 to 100000; one caller gets at most four fifths [default: 256]
    #[arg(long, value_name = "COUNT")]
    pub open_uploads_max: Option<String>,
    /// Number of ended jobs to remember, 1 to 100000 [default: 1000]
    #[arg(long, value_name = "COUNT")]
    pub ended_jobs_max: Option<String>,
    /// Maximum jobs that train at the same time, 1 to 64 [default: 2]
    #[arg(long, value_name = "COUNT")]
    pub running_jobs_max: Option<String>,
    /// Cancel a paused job that is not resumed for this long, 1 to 315360000 [default: 604800]
    #[arg(long, value_name = "SECONDS")]
    pub paused_timeout_seconds: Option<String>,
    /// Maximum rows of one job [default: 1000000000]
    #[arg(long, value_name = "ROWS")]
    pub job_rows_max: Option<String>,
    /// Maximum bytes on disk of one job: its rows and its checkpoint [default: 32GiB]
    #[arg(long, value_name = "BYTES")]
    pub job_bytes_max: Option<String>,
    /// Maximum bytes on disk of all jobs: rows and checkpoints [default: 64GiB]
    #[arg(long, value_name = "BYTES")]
    pub spool_bytes_max: Option<String>,
    /// Bytes that jobs leave free on the disk [default: 256MiB]
    #[arg(long, value_name = "BYTES")]
    pub disk_free_bytes_min: Option<String>,
    /// Interval between two checkpoints of a running job, 0.01 to 86400 [default: 30]
    #[arg(long, value_name = "SECONDS")]
    pub checkpoint_seconds: Option<String>,
    /// Startup, shutdown, version policy and retention
    #[command(flatten)]
    pub lifecycle: LifecycleArgs,
    /// What to log: error, warn, info, debug, trace, or targets with levels, for example halfhitch=debug,warn [default:
    /// info]
    #[arg(long, value_name = "FILTER")]
    pub log: Option<String>,
    /// Format of the log: human or json [default: human]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
}

/// Where the value of a setting came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The command line.
    Flag,
    /// An environment variable, by name.
    Variable(String),
    /// The settings file, by path.
    File(PathBuf),
    /// The built-in default.
    Default,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => f.write_str("flag"),
            Self::Variable(name) => write!(f, "variable {name}"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Default => f.write_str("default"),
        }
    }
}

/// Why the settings are invalid.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// `HALFHITCH_ISA` names an unknown instruction set, or one that this machine lacks.
    #[error("variable HALFHITCH_ISA: {0}")]
    Instructions(IsaError),
    /// A setting has a value that is not allowed.
    #[error("setting {setting} ({origin}) is {got:?}, expected {expected}")]
    Value {
        /// The setting's name.
        setting: &'static str,
        /// Where the value came from.
        origin: Source,
        /// The value.
        got: String,
        /// The values that are allowed.
        expected: String,
    },
    /// The settings file cannot be read.
    #[error("settings file {path}: {source}")]
    Unreadable {
        /// Path of the file.
        path: String,
        /// The error of the system.
        source: std::io::Error,
    },
    /// The settings file is not TOML.
    #[error("settings file {path} is not TOML: {reason}")]
    Syntax {
        /// Path of the file.
        path: String,
        /// The parser's message, with the position.
        reason: String,
    },
    /// The settings file has a key that is not a setting.
    #[error("settings file {path} has the unknown key {key:?}, expected one of: {known}")]
    UnknownKey {
        /// Path of the file.
        path: String,
        /// The unknown key.
        key: String,
        /// All settings, separated by commas.
        known: String,
    },
}

/// A setting in force: name, value as TOML, source.
type EffectiveSetting = (&'static str, String, Source);

/// The settings in force, checked.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Address to listen on.
    pub listen: SocketAddr,
    /// Settings of the server itself.
    pub server: ServerConfig,
    /// Filter of the log: a level, or targets with levels.
    pub log: String,
    /// Format of the log.
    pub log_format: LogFormat,
    /// Path of the settings file, if one is used.
    pub path: Option<PathBuf>,
    /// Warnings for the operator; `serve` logs them at startup.
    pub warnings: Vec<String>,
    /// All settings in the order of the printed file.
    told: Vec<EffectiveSetting>,
}

impl Settings {
    /// Reads this process's environment and, if one is named, the settings file.
    ///
    /// # Errors
    /// [`ConfigError`] for a file that cannot be read, an unknown key or a value that is not allowed.
    pub fn load(args: &ServeArgs) -> Result<Self, ConfigError> {
        let variables: Vec<(String, String)> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        Self::from(args, &variables)
    }

    #[expect(clippy::too_many_lines, reason = "a table: every setting once")]
    fn from(args: &ServeArgs, variables: &[(String, String)]) -> Result<Self, ConfigError> {
        let variable = |name: &str| variables.iter().find(|(other, _)| other == name).map(|(_, value)| value.clone());
        let path = args.config.clone().or_else(|| variable("HALFHITCH_CONFIG").map(PathBuf::from));
        let file = path.as_deref().map_or_else(|| Ok(toml::Table::new()), read)?;
        let mut layers =
            Layers { variables, path: path.clone().unwrap_or_default(), file, told: Vec::new(), warnings: Vec::new() };

        let listen = layers.take(
            "listen",
            args.listen.as_ref(),
            ADDRESS_DEFAULT,
            "an address and a port, for example 0.0.0.0:50051",
            |text| text.parse::<SocketAddr>().ok(),
        )?;
        let admin_listen = layers.take(
            "admin_listen",
            args.admin_listen.as_ref(),
            "",
            "an address and a port, for example 0.0.0.0:9464, or nothing",
            |text| if text.is_empty() { Some(None) } else { text.parse::<SocketAddr>().ok().map(Some) },
        )?;
        let store = layers.take("store", args.store.as_ref(), "halfhitch-store", "a folder", |text| {
            (!text.is_empty()).then(|| PathBuf::from(text))
        })?;
        let train_folder = layers.take("train_folder", args.train_folder.as_ref(), "", "a folder", |text| {
            Some((!text.is_empty()).then(|| PathBuf::from(text)))
        })?;
        let defaults = ServerConfig::new(store.clone());
        let transport = layers.transport(&args.transport, &defaults.transport)?;
        let traces = layers.traces(&args.traces, &defaults.traces)?;
        let security = layers.security(&args.security)?;
        let batching = BatchingConfig {
            batch_rows_max: layers.count(
                "batch_rows_max",
                args.batch_rows_max.as_ref(),
                defaults.batching.batch_rows_max as u64,
                1,
                65_536,
            )? as usize,
            queue_rows_max: layers.count(
                "queue_rows_max",
                args.queue_rows_max.as_ref(),
                defaults.batching.queue_rows_max as u64,
                1,
                1 << 32,
            )? as usize,
            queue_bytes_max: layers.bytes(
                "queue_bytes_max",
                args.queue_bytes_max.as_ref(),
                defaults.batching.queue_bytes_max as u64,
                1 << 10,
                1 << 40,
            )? as usize,
        };
        if let Err(bad) = batching.check() {
            return Err(layers.refused(bad.setting, bad.got.to_string(), bad.expected));
        }
        let threads_max = crate::executor::THREADS_MAX as u64;
        let executor = ExecutorConfig {
            serving_threads: layers.count(
                "serving_threads",
                args.serving_threads.as_ref(),
                defaults.executor.serving_threads as u64,
                1,
                threads_max,
            )? as usize,
            training_threads: layers.count(
                "training_threads",
                args.training_threads.as_ref(),
                defaults.executor.training_threads as u64,
                1,
                threads_max,
            )? as usize,
            training_percent_min: layers.count(
                "training_percent_min",
                args.training_percent_min.as_ref(),
                defaults.executor.training_percent_min as u64,
                0,
                crate::executor::TRAINING_PERCENT_MIN_MAX as u64,
            )? as usize,
        };
        let registry = RegistryConfig {
            resident_bytes_max: layers.bytes(
                "resident_bytes_max",
                args.resident_bytes_max.as_ref(),
                defaults.registry.resident_bytes_max,
                0,
                1 << 50,
            )?,
        };
        let jobs = JobsConfig {
            folder: store.join("jobs"),
            upload_idle_max: Duration::from_secs(layers.count(
                "upload_idle_timeout_seconds",
                args.upload_idle_timeout_seconds.as_ref(),
                defaults.jobs.upload_idle_max.as_secs(),
                1,
                365 * 86_400,
            )?),
            open_jobs_max: layers.count(
                "open_jobs_max",
                args.open_jobs_max.as_ref(),
                defaults.jobs.open_jobs_max as u64,
                1,
                100_000,
            )? as usize,
            open_uploads_max: layers.count(
                "open_uploads_max",
                args.open_uploads_max.as_ref(),
                defaults.jobs.open_uploads_max as u64,
                1,
                100_000,
            )? as usize,
            ended_jobs_max: layers.count(
                "ended_jobs_max",
                args.ended_jobs_max.as_ref(),
                defaults.jobs.ended_jobs_max as u64,
                1,
                100_000,
            )? as usize,
            running_jobs_max: layers.count(
                "running_jobs_max",
                args.running_jobs_max.as_ref(),
                defaults.jobs.running_jobs_max as u64,
                1,
                64,
            )? as usize,
            paused_max: Duration::from_secs(layers.count(
                "paused_timeout_seconds",
                args.paused_timeout_seconds.as_ref(),
                defaults.jobs.paused_max.as_secs(),
                1,
                10 * 365 * 86_400,
            )?),
            job_rows_max: layers.count(
                "job_rows_max",
                args.job_rows_max.as_ref(),
                defaults.jobs.job_rows_max,
                1,
                1 << 40,
            )?,
            job_bytes_max: layers.bytes(
                "job_bytes_max",
                args.job_bytes_max.as_ref(),
                defaults.jobs.job_bytes_max,
                1 << 10,
                1 << 50,
            )?,
            disk_free_bytes_min: layers.bytes(
                "disk_free_bytes_min",
                args.disk_free_bytes_min.as_ref(),
                defaults.jobs.disk_free_bytes_min,
                0,
                1 << 50,
            )?,
            checkpoint_every: layers.decimal_seconds(
                "checkpoint_seconds",
                args.checkpoint_seconds.as_ref(),
                defaults.jobs.checkpoint_every,
                0.01..=86_400.0,
            )?,
            spool_bytes_max: layers.bytes(
                "spool_bytes_max",
                args.spool_bytes_max.as_ref(),
                defaults.jobs.spool_bytes_max,
                1 << 10,
                1 << 50,
            )?,
            training_threads: executor.training_threads,
            train_folder,
        };
        let upkeep = layers.upkeep(&args.lifecycle)?;
        let (drain, shutdown_grace) = layers.stopping(&args.lifecycle, &defaults)?;
        let log = layers.take("log", args.log.as_ref(), "info", "a filter", |text| Some(text.to_owned()))?;
        let log_format =
            layers.take("log_format", args.log_format.as_ref(), "human", "human or json", |text| match text {
                "human" => Some(LogFormat::Human),
                "json" => Some(LogFormat::Json),
                _ => None,
            })?;
        let (told, warnings) = layers.finish()?;
        let server = ServerConfig {
            store,
            transport,
            security,
            batching,
            executor,
            jobs,
            registry,
            upkeep,
            drain,
            traces,
            admin_listen,
            shutdown_grace,
        };
        Ok(Self { listen, server, log, log_format, path, warnings, told })
    }

    /// Names of the settings that differ from `other` and take effect only after a restart.
    pub fn fixed_differences(&self, other: &Self) -> Vec<&'static str> {
        let is_fixed = |name: &str| !lifecycle::RELOADED.contains(&name);
        let differs = |(name, value, _): &&EffectiveSetting| {
            other.told.iter().any(|(theirs, told, _)| name == theirs && value != told)
        };
        self.told.iter().filter(|(name, ..)| is_fixed(name)).filter(differs).map(|(name, ..)| *name).collect()
    }

    /// All settings as a TOML file, each with its source in a comment. `--config` can read the text back.
    pub fn print(&self) -> String {
        let width = self.told.iter().map(|(name, value, _)| name.len() + value.len()).max().unwrap_or(0) + 3;
        self.told.iter().fold(String::new(), |mut text, (name, value, source)| {
            let setting = format!("{name} = {value}");
            let _ = writeln!(text, "{setting:width$}  # {source}");
            text
        })
    }
}

/// Selects the instruction set of all matrix products: the one that `HALFHITCH_ISA` names, or the fastest that this
/// machine has. Every choice gives bit-identical results.
///
/// # Errors
/// [`ConfigError::Instructions`] if the variable names an unknown instruction set, or one that this machine lacks.
pub fn choose_instructions() -> Result<Isa, ConfigError> {
    instructions(std::env::var_os("HALFHITCH_ISA"))
}

fn instructions(named: Option<OsString>) -> Result<Isa, ConfigError> {
    let named = named.map(|name| name.to_string_lossy().parse()).transpose();
    named.and_then(init).map_err(ConfigError::Instructions)
}

#[cfg(test)]
mod tests;
