//! Settings of the server, from flags, `HALFHITCH_*` variables and a TOML file. Flags win over variables, and variables
//! win over the file.
//!
//! The file `table.rs` has one entry for each setting of the server. From it come the flag and its help, the variable,
//! the key of the file, the default, the check, the line of `--print-config` and the page `docs/settings.md`.
//!
//! Settings are read in two steps: [`ServeArgs`] holds the text as written, [`Settings`] holds the checked values. No
//! other module reads the environment.

mod address;
mod allocator;
mod client;
mod error;
mod flags;
mod group;
mod layers;
#[cfg(test)]
mod reference;
mod security;
mod setting;
mod source;
mod standard_traces;
mod table;
mod traces;
mod values;

use std::ffi::OsString;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;

pub(crate) use address::ADDRESS_DEFAULT;
pub(crate) use allocator::settle_allocator;
pub(crate) use client::ClientArgs;
pub(crate) use error::ConfigError;
pub(crate) use flags::SettingFlags;
use layers::{Layers, read};
use source::EffectiveSetting;
pub(crate) use source::Source;
use table::{GROUPS, settings};
use values::Values;

use crate::numeric::{Isa, init};
use crate::server::ServerConfig;
use crate::telemetry::LogFormat;

/// Flags of `halfhitch serve`, as written.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct ServeArgs {
    /// TOML file with the settings below; names as the flags, with _ in place of - [variable: HALFHITCH_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Print the settings in force and the source of each, then exit
    #[arg(long)]
    pub(crate) print_config: bool,
    /// Settings
    #[command(flatten)]
    pub(crate) settings: SettingFlags,
}

/// The settings in force, checked.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Address to listen on.
    pub(crate) listen: SocketAddr,
    /// Settings of the server itself.
    pub(crate) server: ServerConfig,
    /// Filter of the log: a level, or targets with levels.
    pub(crate) log: String,
    /// Format of the log.
    pub(crate) log_format: LogFormat,
    /// Path of the settings file, if one is used.
    pub(crate) path: Option<PathBuf>,
    /// Warnings for the operator; `serve` logs them at startup.
    pub(crate) warnings: Vec<String>,
    /// All settings in the order of the printed file.
    effective: Vec<EffectiveSetting>,
}

impl Settings {
    /// Reads this process's environment and, if one is named, the settings file.
    ///
    /// # Errors
    /// [`ConfigError`] for a file that cannot be read, an unknown key or a value that is not allowed.
    pub(crate) fn load(args: &ServeArgs) -> Result<Self, ConfigError> {
        let variables: Vec<(String, String)> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        Self::from(args, &variables)
    }

    fn from(args: &ServeArgs, variables: &[(String, String)]) -> Result<Self, ConfigError> {
        let variable = |name: &str| variables.iter().find(|(other, _)| other == name).map(|(_, value)| value.clone());
        let path = args.config.clone().or_else(|| variable("HALFHITCH_CONFIG").map(PathBuf::from));
        let file = path.as_deref().map_or_else(|| Ok(toml::Table::new()), read)?;
        let mut layers = Layers::new(&args.settings.0, variables, path.clone().unwrap_or_default(), file);
        let mut values = Values::default();
        for group in GROUPS {
            for setting in group.settings {
                layers.take(setting, &mut values)?;
            }
            (group.check)(&mut layers, &mut values)?;
        }
        let (effective, warnings) = layers.finish(&settings().collect::<Vec<_>>())?;
        let Values { listen, log, log_format, server, .. } = values;
        Ok(Self { listen, server, log, log_format, path, warnings, effective })
    }

    /// Names of the settings that differ from `other` and take effect only after a restart.
    pub(crate) fn fixed_differences(&self, other: &Self) -> Vec<&'static str> {
        let reloaded = GROUPS.iter().filter(|group| group.reloads).flat_map(|group| group.settings);
        let reloaded: Vec<&str> = reloaded.map(|setting| setting.name).collect();
        let differs = |(name, value, _): &&EffectiveSetting| {
            other.effective.iter().any(|(other, other_value, _)| name == other && value != other_value)
        };
        let changed = self.effective.iter().filter(differs).map(|(name, ..)| *name);
        changed.filter(|name| !reloaded.contains(name)).collect()
    }

    /// All settings as a TOML file, each with its source in a comment. `--config` can read the text back.
    pub(crate) fn print(&self) -> String {
        let width = self.effective.iter().map(|(name, value, _)| name.len() + value.len()).max().unwrap_or(0) + 3;
        self.effective.iter().fold(String::new(), |mut text, (name, value, source)| {
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
pub(crate) fn choose_instructions() -> Result<Isa, ConfigError> {
    instructions(std::env::var_os("HALFHITCH_ISA"))
}

fn instructions(named: Option<OsString>) -> Result<Isa, ConfigError> {
    let named = named.map(|name| name.to_string_lossy().parse()).transpose();
    named.and_then(init).map_err(ConfigError::Instructions)
}

#[cfg(test)]
mod tests;
