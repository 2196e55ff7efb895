//! Settings of the server: flags, `HALFHITCH_*` variables and a TOML file, in that order of strength.
//!
//! Two steps: what was written ([`ServeArgs`], text), and what it means ([`Settings`], checked). This is the only module
//! that reads the environment.

use std::ffi::OsString;
use std::fmt::{self, Write as _};
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::batching::BatchingConfig;
use crate::executor::ExecutorConfig;
use crate::jobs::JobsConfig;
use crate::numeric::{Isa, IsaError, init};
use crate::registry::RegistryConfig;
use crate::server::{ServerConfig, TransportConfig, transport};
use crate::telemetry::LogFormat;

/// Where a server listens, and clients look for one, when nobody says otherwise.
pub const ADDRESS_DEFAULT: &str = "127.0.0.1:50051";

/// Variables with our prefix that are not settings of the server.
const OTHER_VARIABLES: [&str; 6] = [
    "HALFHITCH_CONFIG",
    "HALFHITCH_SERVER",
    "HALFHITCH_ISA",
    "HALFHITCH_DATA",
    "HALFHITCH_TEST_REQUESTS",
    "HALFHITCH_TEST_KILLS",
];

/// Flags of `halfhitch serve`, as written.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ServeArgs {
    /// A TOML file with the settings below, by their names with _ for - [variable: HALFHITCH_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print the settings that are in force and where each came from, and stop
    #[arg(long)]
    pub print_config: bool,
    /// Where to listen; port 0 takes a free one [default: 127.0.0.1:50051]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Option<String>,
    /// Folder of the models and of the jobs' rows; made if it is not there [default: halfhitch-store]
    #[arg(long, value_name = "FOLDER")]
    pub store: Option<String>,
    /// Folder whose files clients may train on, by paths relative to it; without one no file is read for them
    /// [default: none]
    #[arg(long, value_name = "FOLDER")]
    pub train_folder: Option<String>,
    /// Messages, windows, connections
    #[command(flatten)]
    pub transport: TransportArgs,
    /// Most rows computed together [default: 256]
    #[arg(long, value_name = "ROWS")]
    pub batch_rows_max: Option<String>,
    /// Most rows that wait to be computed [default: 65536]
    #[arg(long, value_name = "ROWS")]
    pub queue_rows_max: Option<String>,
    /// Most bytes that wait to be computed, with room for their answers [default: 256MiB]
    #[arg(long, value_name = "BYTES")]
    pub queue_bytes_max: Option<String>,
    /// Threads that serve [default: the number of cores]
    #[arg(long, value_name = "COUNT")]
    pub serving_threads: Option<String>,
    /// Threads that train, at the lowest priority [default: the number of cores]
    #[arg(long, value_name = "COUNT")]
    pub training_threads: Option<String>,
    /// Training gets at least this much of the time in which it could run, however much is to be served; 0 to 50
    /// [default: 5]
    #[arg(long, value_name = "PERCENT")]
    pub training_percent_min: Option<String>,
    /// Models in memory; the least recently used leave above this [default: 4GiB]
    #[arg(long, value_name = "BYTES")]
    pub resident_bytes_max: Option<String>,
    /// An upload without a chunk for this long expires [default: 3600]
    #[arg(long, value_name = "SECONDS")]
    pub upload_idle_seconds_max: Option<String>,
    /// Jobs that have not ended [default: 64]
    #[arg(long, value_name = "COUNT")]
    pub open_jobs_max: Option<String>,
    /// Ended jobs that are remembered [default: 1000]
    #[arg(long, value_name = "COUNT")]
    pub ended_jobs_max: Option<String>,
    /// Jobs that train at the same time [default: 2]
    #[arg(long, value_name = "COUNT")]
    pub running_jobs_max: Option<String>,
    /// A paused job that is not resumed for this long is cancelled [default: 604800]
    #[arg(long, value_name = "SECONDS")]
    pub paused_seconds_max: Option<String>,
    /// Rows of one job [default: 1000000000]
    #[arg(long, value_name = "ROWS")]
    pub job_rows_max: Option<String>,
    /// Rows and checkpoint of one job on disk [default: 32GiB]
    #[arg(long, value_name = "BYTES")]
    pub job_bytes_max: Option<String>,
    /// Rows and checkpoints of all jobs on disk [default: 64GiB]
    #[arg(long, value_name = "BYTES")]
    pub spool_bytes_max: Option<String>,
    /// What jobs leave free on the disk [default: 256MiB]
    #[arg(long, value_name = "BYTES")]
    pub disk_free_bytes_min: Option<String>,
    /// A job that trains writes down this often where it could go on [default: 30]
    #[arg(long, value_name = "SECONDS")]
    pub checkpoint_seconds: Option<String>,
    /// From SIGTERM until everything accepted must be answered [default: 25]
    #[arg(long, value_name = "SECONDS")]
    pub shutdown_grace_seconds: Option<String>,
    /// What to log: error, warn, info, debug, trace, or targets with levels [default: info]
    #[arg(long, value_name = "FILTER")]
    pub log: Option<String>,
    /// How to log: human or json [default: human]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
}

/// Flags of the transport, as written.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct TransportArgs {
    /// Largest message taken in [default: 16MiB]
    #[arg(long, value_name = "BYTES")]
    pub message_bytes_max: Option<String>,
    /// What a client may send of one call before it is read; more is faster over long distances [default: 1MiB]
    #[arg(long, value_name = "BYTES")]
    pub stream_window_bytes: Option<String>,
    /// The same for all calls of a connection together, at least as much as for one [default: 4MiB]
    #[arg(long, value_name = "BYTES")]
    pub connection_window_bytes: Option<String>,
    /// Largest HTTP/2 frame taken in: larger ones cost less for bulk, and hold up other calls for longer [default: 1MiB]
    #[arg(long, value_name = "BYTES")]
    pub frame_bytes_max: Option<String>,
    /// Calls in flight on one connection; clients hold back what is more [default: 1024]
    #[arg(long, value_name = "COUNT")]
    pub streams_per_connection_max: Option<String>,
    /// Ask a connection that was silent for this long whether it is alive; 0: never [default: 30]
    #[arg(long, value_name = "SECONDS")]
    pub keepalive_interval_seconds: Option<String>,
    /// Close a connection that has not answered that for this long [default: 20]
    #[arg(long, value_name = "SECONDS")]
    pub keepalive_timeout_seconds: Option<String>,
    /// Ask clients to connect anew after this long, give or take 10 %, so that load spreads over servers that came later;
    /// calls under way go on to their end, one that crosses with the notice has to be sent again; 0: never [default: 0]
    #[arg(long, value_name = "SECONDS")]
    pub connection_age_seconds_max: Option<String>,
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The command line.
    Flag,
    /// A variable of the environment.
    Variable(String),
    /// The file.
    File(PathBuf),
    /// Nobody said anything.
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

/// Why settings are refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Instructions that cannot be used.
    #[error("variable HALFHITCH_ISA: {0}")]
    Instructions(IsaError),
    /// A value.
    #[error("setting {setting} ({origin}) is {got:?}, expected {expected}")]
    Value {
        /// Its name.
        setting: &'static str,
        /// Where it came from.
        origin: Source,
        /// What came.
        got: String,
        /// What is allowed.
        expected: String,
    },
    /// The file cannot be read.
    #[error("settings file {path}: {source}")]
    Unreadable {
        /// Which.
        path: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("settings file {path} is not TOML: {reason}")]
    Syntax {
        /// Which.
        path: String,
        /// Where and what.
        reason: String,
    },
    /// A key that no setting has.
    #[error("settings file {path} has the unknown key {key:?}, expected one of: {known}")]
    UnknownKey {
        /// Which.
        path: String,
        /// What came.
        key: String,
        /// All settings.
        known: String,
    },
}

/// Name, value as TOML, where it came from.
type Told = (&'static str, String, Source);

/// What is in force, checked.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where to listen.
    pub listen: SocketAddr,
    /// The server's own.
    pub server: ServerConfig,
    /// What to log.
    pub log: String,
    /// How to log.
    pub log_format: LogFormat,
    /// Things to tell the operator.
    pub warnings: Vec<String>,
    /// Name, value as TOML, source.
    told: Vec<Told>,
}

impl Settings {
    /// Reads this process's environment and the file, if one is named.
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
        let mut layers = Layers { variables, path: path.unwrap_or_default(), file, told: Vec::new() };

        let listen = layers.take(
            "listen",
            args.listen.as_ref(),
            ADDRESS_DEFAULT,
            "an address and a port, for example 0.0.0.0:50051",
            |text| text.parse::<SocketAddr>().ok(),
        )?;
        let store = layers.take("store", args.store.as_ref(), "halfhitch-store", "a folder", |text| {
            (!text.is_empty()).then(|| PathBuf::from(text))
        })?;
        let train_folder = layers.take("train_folder", args.train_folder.as_ref(), "", "a folder", |text| {
            Some((!text.is_empty()).then(|| PathBuf::from(text)))
        })?;
        let defaults = ServerConfig::new(store.clone());
        let transport = layers.transport(&args.transport, &defaults.transport)?;
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
                "upload_idle_seconds_max",
                args.upload_idle_seconds_max.as_ref(),
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
                "paused_seconds_max",
                args.paused_seconds_max.as_ref(),
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
        let shutdown_grace = Duration::from_secs(layers.count(
            "shutdown_grace_seconds",
            args.shutdown_grace_seconds.as_ref(),
            defaults.shutdown_grace.as_secs(),
            0,
            86_400,
        )?);
        let log = layers.take("log", args.log.as_ref(), "info", "a filter", |text| Some(text.to_owned()))?;
        let log_format =
            layers.take("log_format", args.log_format.as_ref(), "human", "human or json", |text| match text {
                "human" => Some(LogFormat::Human),
                "json" => Some(LogFormat::Json),
                _ => None,
            })?;
        let (told, warnings) = layers.finish()?;
        let server = ServerConfig { store, transport, batching, executor, jobs, registry, shutdown_grace };
        Ok(Self { listen, server, log, log_format, warnings, told })
    }

    /// All settings as a TOML file, each with where it came from: it can be fed back with `--config`.
    pub fn print(&self) -> String {
        let width = self.told.iter().map(|(name, value, _)| name.len() + value.len()).max().unwrap_or(0) + 3;
        self.told.iter().fold(String::new(), |mut text, (name, value, source)| {
            let setting = format!("{name} = {value}");
            let _ = writeln!(text, "{setting:width$}  # {source}");
            text
        })
    }
}

/// Where clients look for the server: the flag, `HALFHITCH_SERVER`, or the default.
pub fn server_url(flag: Option<String>) -> String {
    flag.or_else(|| std::env::var("HALFHITCH_SERVER").ok()).unwrap_or_else(|| format!("http://{ADDRESS_DEFAULT}"))
}

/// Chooses the instructions of all products: those that `HALFHITCH_ISA` names, or the fastest of this machine. The results
/// are the same bits with any.
///
/// # Errors
/// If it names none, or some that this machine does not have.
pub fn choose_instructions() -> Result<Isa, ConfigError> {
    instructions(std::env::var_os("HALFHITCH_ISA"))
}

fn instructions(named: Option<OsString>) -> Result<Isa, ConfigError> {
    let named = named.map(|name| name.to_string_lossy().parse()).transpose();
    named.and_then(init).map_err(ConfigError::Instructions)
}

/// From this size on the system's allocator shall give memory back at once, in bytes.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const GIVEN_BACK_BYTES_MIN: &str = "1048576";
/// What each of its arenas keeps of the smaller ones, for the next: without it every message would ask the system anew, which
/// costs a fifth of the time of four callers with requests of 400 KB. Less than this is not enough for them.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const KEPT_BYTES: &str = "4194304";
/// How many small pieces of each size a thread keeps. The kept ones lie between the pieces of messages and pin the pages of
/// these: with the seven of the default, a server that answered 17 rows of 2048 entries keeps 1.1 MB more; two serve 64-32-8
/// no slower, one costs it a sixth.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const KEPT_SMALL: &str = "glibc.malloc.tcache_count=2";

/// Starts this process anew, under the same id, with an allocator that gives memory back.
///
/// The GNU allocator raises the size from which it does so with every large piece that is freed, up to 32 MiB, and then keeps
/// what training used: 113 MB instead of 12 MB after a job on MNIST. Fixing the size is a matter of one variable that is read
/// before `main`, or of unsafe code; so it is the variable. Where it is set already, or where the system has another
/// allocator, nothing happens; where the new start fails, the process goes on as it is.
pub fn settle_allocator() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        use std::os::unix::process::CommandExt;
        const VARIABLE: &str = "MALLOC_MMAP_THRESHOLD_";
        const TUNABLES: &str = "GLIBC_TUNABLES";
        if std::env::var_os(VARIABLE).is_none()
            && let Ok(program) = std::env::current_exe()
        {
            // Each keeps for itself what a large message took: few keep little, and fewer than cores suffice.
            let arenas = std::thread::available_parallelism().map_or(1, |cores| cores.get().div_ceil(2));
            // Of two settings of one name the later counts: what is set already stays the stronger.
            let mut tunables = OsString::from(KEPT_SMALL);
            if let Some(set) = std::env::var_os(TUNABLES) {
                tunables.push(":");
                tunables.push(set);
            }
            let mut arguments = std::env::args_os();
            let mut again = std::process::Command::new(program);
            if let Some(name) = arguments.next() {
                again.arg0(name);
            }
            // Comes back only if it failed.
            let _ = again
                .args(arguments)
                .env(VARIABLE, GIVEN_BACK_BYTES_MIN)
                .env("MALLOC_TRIM_THRESHOLD_", KEPT_BYTES)
                .env("MALLOC_ARENA_MAX", arenas.to_string())
                .env(TUNABLES, tunables)
                .exec();
        }
    }
}

fn read(path: &Path) -> Result<toml::Table, ConfigError> {
    let shown = path.display().to_string();
    let text =
        std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable { path: shown.clone(), source })?;
    text.parse().map_err(|error: toml::de::Error| ConfigError::Syntax { path: shown, reason: error.to_string() })
}

/// The three places, strongest first.
struct Layers<'a> {
    variables: &'a [(String, String)],
    path: PathBuf,
    file: toml::Table,
    told: Vec<Told>,
}

impl Layers<'_> {
    /// The text of a setting and where it came from.
    fn text(&mut self, name: &'static str, flag: Option<&String>, default: &str) -> (String, Source) {
        let from_file = self.file.remove(name).map(|value| match value {
            toml::Value::String(text) => text,
            other => other.to_string(),
        });
        if let Some(text) = flag {
            return (text.clone(), Source::Flag);
        }
        let variable = format!("HALFHITCH_{}", name.to_uppercase());
        if let Some((_, text)) = self.variables.iter().find(|(other, _)| *other == variable) {
            return (text.clone(), Source::Variable(variable));
        }
        match from_file {
            Some(text) => (text, Source::File(self.path.clone())),
            None => (default.to_owned(), Source::Default),
        }
    }

    fn take<T>(
        &mut self,
        name: &'static str,
        flag: Option<&String>,
        default: &str,
        expected: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, ConfigError> {
        let (text, origin) = self.text(name, flag, default);
        let Some(value) = parse(&text) else {
            return Err(ConfigError::Value { setting: name, origin, got: text, expected: expected.to_owned() });
        };
        self.told.push((name, toml::Value::String(text).to_string(), origin));
        Ok(value)
    }

    fn number(
        &mut self,
        name: &'static str,
        flag: Option<&String>,
        default: u64,
        range: RangeInclusive<u64>,
        parse: impl FnOnce(&str) -> Option<u64>,
        unit: &str,
    ) -> Result<u64, ConfigError> {
        let (text, origin) = self.text(name, flag, &default.to_string());
        match parse(&text).filter(|number| range.contains(number)) {
            Some(number) => {
                self.told.push((name, number.to_string(), origin));
                Ok(number)
            }
            None => {
                let expected = format!("{unit} from {} to {}", range.start(), range.end());
                Err(ConfigError::Value { setting: name, origin, got: text, expected })
            }
        }
    }

    fn count(
        &mut self,
        name: &'static str,
        flag: Option<&String>,
        default: u64,
        min: u64,
        max: u64,
    ) -> Result<u64, ConfigError> {
        self.number(name, flag, default, min..=max, |text| text.parse().ok(), "a whole number")
    }

    fn bytes(
        &mut self,
        name: &'static str,
        flag: Option<&String>,
        default: u64,
        min: u64,
        max: u64,
    ) -> Result<u64, ConfigError> {
        self.number(name, flag, default, min..=max, parse_bytes, "bytes (KiB, MiB, GiB are understood)")
    }

    /// Seconds and parts of them.
    fn decimal_seconds(
        &mut self,
        name: &'static str,
        flag: Option<&String>,
        default: Duration,
        range: RangeInclusive<f64>,
    ) -> Result<Duration, ConfigError> {
        let (text, origin) = self.text(name, flag, &default.as_secs_f64().to_string());
        let Some(seconds) = text.parse::<f64>().ok().filter(|seconds| range.contains(seconds)) else {
            let expected = format!("a number from {} to {}", range.start(), range.end());
            return Err(ConfigError::Value { setting: name, origin, got: text, expected });
        };
        self.told.push((name, seconds.to_string(), origin));
        Ok(Duration::from_secs_f64(seconds))
    }

    /// Seconds; 0 for none.
    fn seconds(
        &mut self,
        name: &'static str,
        flag: Option<&String>,
        default: Option<Duration>,
        range: &RangeInclusive<u64>,
    ) -> Result<Option<Duration>, ConfigError> {
        let seconds = self.count(name, flag, default.map_or(0, |default| default.as_secs()), 0, *range.end())?;
        Ok((seconds > 0).then(|| Duration::from_secs(seconds)))
    }

    fn transport(&mut self, args: &TransportArgs, defaults: &TransportConfig) -> Result<TransportConfig, ConfigError> {
        let bytes = |layers: &mut Self, name, flag: &Option<String>, default: u32, range: &RangeInclusive<u32>| {
            let (min, max) = (u64::from(*range.start()), u64::from(*range.end()));
            layers.bytes(name, flag.as_ref(), default.into(), min, max).map(|bytes| bytes as u32)
        };
        let windows = &transport::WINDOW_BYTES;
        let streams = &transport::STREAMS_PER_CONNECTION_MAX;
        let config = TransportConfig {
            message_bytes_max: self.bytes(
                "message_bytes_max",
                args.message_bytes_max.as_ref(),
                defaults.message_bytes_max as u64,
                *transport::MESSAGE_BYTES_MAX.start() as u64,
                *transport::MESSAGE_BYTES_MAX.end() as u64,
            )? as usize,
            stream_window_bytes: bytes(
                self,
                "stream_window_bytes",
                &args.stream_window_bytes,
                defaults.stream_window_bytes,
                windows,
            )?,
            connection_window_bytes: bytes(
                self,
                "connection_window_bytes",
                &args.connection_window_bytes,
                defaults.connection_window_bytes,
                windows,
            )?,
            frame_bytes_max: bytes(
                self,
                "frame_bytes_max",
                &args.frame_bytes_max,
                defaults.frame_bytes_max,
                &transport::FRAME_BYTES_MAX,
            )?,
            streams_per_connection_max: self.count(
                "streams_per_connection_max",
                args.streams_per_connection_max.as_ref(),
                defaults.streams_per_connection_max.into(),
                u64::from(*streams.start()),
                u64::from(*streams.end()),
            )? as u32,
            keepalive_interval: self.seconds(
                "keepalive_interval_seconds",
                args.keepalive_interval_seconds.as_ref(),
                defaults.keepalive_interval,
                &transport::KEEPALIVE_SECONDS,
            )?,
            keepalive_timeout: Duration::from_secs(self.count(
                "keepalive_timeout_seconds",
                args.keepalive_timeout_seconds.as_ref(),
                defaults.keepalive_timeout.as_secs(),
                *transport::KEEPALIVE_SECONDS.start(),
                *transport::KEEPALIVE_SECONDS.end(),
            )?),
            connection_age_max: self.seconds(
                "connection_age_seconds_max",
                args.connection_age_seconds_max.as_ref(),
                defaults.connection_age_max,
                &transport::CONNECTION_AGE_SECONDS,
            )?,
        };
        config.check().map_err(|bad| self.refused(bad.setting, bad.got, &bad.expected))?;
        Ok(config)
    }

    /// A value that the layer it belongs to refuses.
    fn refused(&self, setting: &'static str, got: String, expected: &str) -> ConfigError {
        let origin =
            self.told.iter().find(|(name, ..)| *name == setting).map_or(Source::Default, |(.., origin)| origin.clone());
        ConfigError::Value { setting, origin, got, expected: expected.to_owned() }
    }

    /// Nothing may be left over: a key that no setting has is a mistake.
    fn finish(self) -> Result<(Vec<Told>, Vec<String>), ConfigError> {
        let names: Vec<&str> = self.told.iter().map(|(name, ..)| *name).collect();
        if let Some(key) = self.file.keys().next() {
            return Err(ConfigError::UnknownKey {
                path: self.path.display().to_string(),
                key: key.clone(),
                known: names.join(", "),
            });
        }
        let known = |variable: &str| {
            OTHER_VARIABLES.contains(&variable)
                || names.iter().any(|name| variable == format!("HALFHITCH_{}", name.to_uppercase()))
        };
        let unknown = self.variables.iter().filter(|(name, _)| name.starts_with("HALFHITCH_") && !known(name));
        let warnings =
            unknown.map(|(name, _)| format!("variable {name} is not a setting and changes nothing")).collect();
        Ok((self.told, warnings))
    }
}

/// A whole number, or one with KiB, MiB or GiB.
fn parse_bytes(text: &str) -> Option<u64> {
    let (digits, shift) = [("KiB", 10), ("MiB", 20), ("GiB", 30)]
        .into_iter()
        .find_map(|(unit, shift)| Some((text.strip_suffix(unit)?.trim_end(), shift)))
        .unwrap_or((text, 0));
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn with_file(text: &str) -> (tempfile::TempDir, ServeArgs) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("halfhitch.toml");
        std::fs::write(&path, text).expect("writes");
        (folder, ServeArgs { config: Some(path), ..ServeArgs::default() })
    }

    #[test]
    fn everything_has_a_default() {
        let settings = Settings::from(&ServeArgs::default(), &[]).expect("defaults");
        assert_eq!(settings.listen.to_string(), ADDRESS_DEFAULT);
        assert_eq!(settings.server.batching, BatchingConfig::default());
        assert!(settings.told.iter().all(|(_, _, source)| *source == Source::Default));
    }

    #[test]
    fn a_flag_is_stronger_than_a_variable_and_that_than_the_file() {
        let (_folder, mut args) = with_file("batch_rows_max = 32\nqueue_rows_max = 33\nopen_jobs_max = 34\n");
        let variables = variables(&[("HALFHITCH_BATCH_ROWS_MAX", "64"), ("HALFHITCH_QUEUE_ROWS_MAX", "65")]);
        args.batch_rows_max = Some("128".to_owned());
        let settings = Settings::from(&args, &variables).expect("valid");
        assert_eq!(settings.server.batching.batch_rows_max, 128);
        assert_eq!(settings.server.batching.queue_rows_max, 65);
        assert_eq!(settings.server.jobs.open_jobs_max, 34);
        let printed = settings.print();
        let line = |name: &str| printed.lines().find(|line| line.starts_with(name)).expect("printed").to_owned();
        assert!(line("batch_rows_max").ends_with("# flag"), "{printed}");
        assert!(line("queue_rows_max").ends_with("# variable HALFHITCH_QUEUE_ROWS_MAX"), "{printed}");
        assert!(line("open_jobs_max").contains("# file "), "{printed}");
    }

    #[test]
    fn what_is_printed_can_be_fed_back() {
        let mut args = ServeArgs::default();
        args.transport.message_bytes_max = Some("3MiB".to_owned());
        let printed = Settings::from(&args, &[]).expect("valid").print();
        let (_folder, args) = with_file(&printed);
        let again = Settings::from(&args, &[]).expect("valid");
        assert_eq!(again.server.transport.message_bytes_max, 3 << 20);
        assert!(again.told.iter().all(|(_, _, source)| matches!(source, Source::File(_))));
    }

    #[test]
    fn files_are_read_for_clients_only_where_a_folder_is_named() {
        assert_eq!(Settings::from(&ServeArgs::default(), &[]).expect("defaults").server.jobs.train_folder, None);
        let (_folder, mut args) = with_file("train_folder = \"from-file\"\n");
        let set = |args: &ServeArgs, pairs: &[(&str, &str)]| {
            Settings::from(args, &variables(pairs)).expect("valid").server.jobs.train_folder
        };
        assert_eq!(set(&args, &[]), Some("from-file".into()));
        let variable = ("HALFHITCH_TRAIN_FOLDER", "from-variable");
        assert_eq!(set(&args, &[variable]), Some("from-variable".into()));
        args.train_folder = Some("from-flag".to_owned());
        assert_eq!(set(&args, &[variable]), Some("from-flag".into()));
        args.train_folder = Some(String::new());
        assert_eq!(set(&args, &[variable]), None, "a flag can take it back");
    }

    #[test]
    fn checkpoints_may_be_parts_of_a_second_apart() {
        let every = |text: &str| {
            let args = ServeArgs { checkpoint_seconds: Some(text.to_owned()), ..ServeArgs::default() };
            Settings::from(&args, &[]).map(|settings| settings.server.jobs.checkpoint_every)
        };
        assert_eq!(every("0.25").expect("valid"), Duration::from_millis(250));
        assert_eq!(every("86400").expect("valid"), Duration::from_hours(24));
        for wrong in ["0", "-1", "NaN", "inf", "1e9", "soon", ""] {
            let error = every(wrong).expect_err("refused").to_string();
            assert!(error.contains("a number from 0.01 to 86400"), "{error}");
        }
    }

    #[test]
    fn the_transport_is_set_like_everything_else() {
        let defaults = Settings::from(&ServeArgs::default(), &[]).expect("defaults");
        assert_eq!(defaults.server.transport, TransportConfig::default());
        let (_folder, mut args) = with_file("stream_window_bytes = \"2MiB\"\nframe_bytes_max = 16384\n");
        args.transport.connection_window_bytes = Some("8MiB".to_owned());
        args.transport.streams_per_connection_max = Some("7".to_owned());
        let variables = variables(&[
            ("HALFHITCH_KEEPALIVE_INTERVAL_SECONDS", "0"),
            ("HALFHITCH_KEEPALIVE_TIMEOUT_SECONDS", "5"),
            ("HALFHITCH_CONNECTION_AGE_SECONDS_MAX", "600"),
        ]);
        let expected = TransportConfig {
            stream_window_bytes: 2 << 20,
            connection_window_bytes: 8 << 20,
            frame_bytes_max: 1 << 14,
            streams_per_connection_max: 7,
            keepalive_interval: None,
            keepalive_timeout: Duration::from_secs(5),
            connection_age_max: Some(Duration::from_mins(10)),
            ..TransportConfig::default()
        };
        assert_eq!(Settings::from(&args, &variables).expect("valid").server.transport, expected);
    }

    #[track_caller]
    fn check_error(args: &ServeArgs, variables: &[(String, String)], texts: &[&str]) {
        let error = Settings::from(args, variables).expect_err("refused").to_string();
        for text in texts {
            assert!(error.contains(text), "{error:?} does not say {text:?}");
        }
    }

    #[test]
    fn mistakes_name_the_setting_its_place_and_what_was_expected() {
        let flag = |args: ServeArgs| args;
        check_error(
            &flag(ServeArgs { listen: Some("nowhere".to_owned()), ..ServeArgs::default() }),
            &[],
            &["listen", "flag", "nowhere", "an address and a port"],
        );
        check_error(
            &ServeArgs::default(),
            &variables(&[("HALFHITCH_SERVING_THREADS", "0")]),
            &["serving_threads", "variable HALFHITCH_SERVING_THREADS", "\"0\"", "from 1 to 1024"],
        );
        check_error(
            &ServeArgs::default(),
            &variables(&[("HALFHITCH_FRAME_BYTES_MAX", "16MiB")]),
            &["frame_bytes_max", "variable HALFHITCH_FRAME_BYTES_MAX", "from 16384 to 16777215"],
        );
        let (_folder, args) = with_file("connection_window_bytes = \"512KiB\"\n");
        check_error(&args, &[], &["connection_window_bytes", "file ", "at least stream_window_bytes, 1048576"]);
        let (_folder, args) = with_file("keepalive_timeout_seconds = 0\n");
        check_error(&args, &[], &["keepalive_timeout_seconds", "from 1 to 86400"]);
        let (_folder, args) = with_file("batch_rows_max = -1\n");
        check_error(&args, &[], &["batch_rows_max", "file ", "\"-1\""]);
        let (_folder, args) = with_file("batch_rows = 1\n");
        check_error(&args, &[], &["unknown key", "batch_rows", "batch_rows_max"]);
        let (_folder, args) = with_file("batch_rows_max = \n");
        check_error(&args, &[], &["not TOML"]);
        let gone = ServeArgs { config: Some("/nowhere/at/all.toml".into()), ..ServeArgs::default() };
        check_error(&gone, &[], &["/nowhere/at/all.toml"]);
    }

    #[test]
    fn instructions_are_named_or_found_out() {
        assert!(instructions(None).expect("the fastest").is_available());
        let error = instructions(Some("AVX512".into())).expect_err("refused").to_string();
        assert_eq!(error, "variable HALFHITCH_ISA: instruction set is `AVX512`, expected avx512, avx2 or portable");
    }

    #[test]
    fn an_unknown_variable_is_warned_of() {
        let settings = Settings::from(&ServeArgs::default(), &variables(&[("HALFHITCH_LISTN", "x"), ("PATH", "y")]));
        assert_eq!(settings.expect("valid").warnings.len(), 1);
    }

    #[test]
    fn bytes_have_units() {
        assert_eq!(parse_bytes("17"), Some(17));
        assert_eq!(parse_bytes("2KiB"), Some(2048));
        assert_eq!(parse_bytes("3 GiB"), Some(3 << 30));
        for bad in ["", "KiB", "-1", "1.5MiB", "99999999999999GiB"] {
            assert_eq!(parse_bytes(bad), None, "{bad}");
        }
    }
}
