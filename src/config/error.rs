//! Errors of settings.

use super::Source;
use crate::numeric::IsaError;

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
