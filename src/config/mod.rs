//! Settings of the server, from flags, `HALFHITCH_*` variables and a TOML file. Flags win over variables, and variables
//! win over the file.
//!
//! The file `table.rs` has one entry for each setting of the server. From it come the flag and its help, the variable,
//! the key of the file, the default, the check, the line of `--print-config` and the page `docs/settings.md`.
//!
//! Settings are read in two steps: [`ServeArgs`] holds the text as written, [`Settings`] holds the checked values. No
//! other module reads the environment.

mod allocator;
mod client;
mod flags;
mod layers;
#[cfg(test)]
mod reference;
mod security;
mod setting;
mod standard_traces;
mod table;
mod traces;
mod values;

use std::ffi::OsString;
use std::fmt::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

pub use allocator::settle_allocator;
pub use client::{ClientArgs, ClientSettings, Token};
pub use flags::SettingFlags;
use layers::{Layers, read};
use table::GROUPS;
use values::Values;

use crate::numeric::{Isa, IsaError, init};
use crate::server::ServerConfig;
use crate::telemetry::LogFormat;

/// Default address of the server, 127.0.0.1:50051: `serve` listens here, and clients connect here.
pub const ADDRESS_DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 50_051);

/// Flags of `halfhitch serve`, as written.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ServeArgs {
    /// TOML file with the settings below; names as the flags, with _ in place of - [variable: HALFHITCH_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print the settings in force and the source of each, then exit
    #[arg(long)]
    pub print_config: bool,
    /// Settings
    #[command(flatten)]
    pub settings: SettingFlags,
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

    fn from(args: &ServeArgs, variables: &[(String, String)]) -> Result<Self, ConfigError> {
        let variable = |name: &str| variables.iter().find(|(other, _)| other == name).map(|(_, value)| value.clone());
        let path = args.config.clone().or_else(|| variable("HALFHITCH_CONFIG").map(PathBuf::from));
        let file = path.as_deref().map_or_else(|| Ok(toml::Table::new()), read)?;
        let mut layers = Layers::new(&args.settings, variables, path.clone().unwrap_or_default(), file);
        let mut values = Values::default();
        for group in GROUPS {
            for setting in group.settings {
                layers.take(setting, &mut values)?;
            }
            (group.check)(&mut layers, &mut values)?;
        }
        let (told, warnings) = layers.finish()?;
        let Values { listen, log, log_format, server, .. } = values;
        Ok(Self { listen, server, log, log_format, path, warnings, told })
    }

    /// Names of the settings that differ from `other` and take effect only after a restart.
    pub fn fixed_differences(&self, other: &Self) -> Vec<&'static str> {
        let reloaded = GROUPS.iter().filter(|group| group.reloads).flat_map(|group| group.settings);
        let reloaded: Vec<&str> = reloaded.map(|setting| setting.name).collect();
        let differs = |(name, value, _): &&EffectiveSetting| {
            other.told.iter().any(|(theirs, told, _)| name == theirs && value != told)
        };
        let changed = self.told.iter().filter(differs).map(|(name, ..)| *name);
        changed.filter(|name| !reloaded.contains(name)).collect()
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
