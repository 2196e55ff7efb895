//! The sources of settings: flags, variables and the settings file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::setting::Setting;
use super::source::EffectiveSetting;
use super::standard_traces::StandardTraces;
use super::values::Values;
use super::{ConfigError, Source};

/// Variables with the prefix `HALFHITCH_` that are not settings of the server.
const OTHER_VARIABLES: [&str; 11] = [
    "HALFHITCH_TOKEN",
    "HALFHITCH_TOKEN_FILE",
    "HALFHITCH_CA",
    "HALFHITCH_CLIENT_CERTIFICATE",
    "HALFHITCH_CLIENT_KEY",
    "HALFHITCH_CONFIG",
    "HALFHITCH_SERVER",
    "HALFHITCH_ISA",
    "HALFHITCH_DATA",
    "HALFHITCH_TEST_REQUESTS",
    "HALFHITCH_TEST_KILLS",
];

pub(super) fn read(path: &Path) -> Result<toml::Table, ConfigError> {
    let shown = path.display().to_string();
    let text =
        std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable { path: shown.clone(), source })?;
    text.parse().map_err(|error: toml::de::Error| ConfigError::Syntax { path: shown, reason: error.to_string() })
}

/// The sources of settings. A flag wins over a variable, and a variable wins over the file. Variables of OpenTelemetry
/// win only over the default.
pub(super) struct Layers<'a> {
    flags: &'a BTreeMap<&'static str, String>,
    variables: &'a [(String, String)],
    path: PathBuf,
    file: toml::Table,
    /// Trace settings from the variables of OpenTelemetry.
    pub(super) standard: StandardTraces,
    /// The settings that were taken so far.
    effective: Vec<EffectiveSetting>,
    /// Warnings for the operator.
    pub(super) warnings: Vec<String>,
}

impl<'a> Layers<'a> {
    /// `flags` has the text of each flag by the name of its setting. `file` is the content of the settings file at
    /// `path`; both are empty without one.
    pub(super) fn new(
        flags: &'a BTreeMap<&'static str, String>,
        variables: &'a [(String, String)],
        path: PathBuf,
        file: toml::Table,
    ) -> Self {
        let mut standard = StandardTraces::of(variables);
        let warnings = std::mem::take(&mut standard.warnings);
        Self { flags, variables, path, file, standard, effective: Vec::new(), warnings }
    }

    /// Stores a setting: the value of its strongest source, or its default.
    ///
    /// # Errors
    /// [`ConfigError::Value`] if the value is not allowed.
    pub(super) fn take(&mut self, setting: &Setting, values: &mut Values) -> Result<(), ConfigError> {
        let (text, origin) = self.text(setting).unwrap_or_else(|| (setting.default_text(values), Source::Default));
        match setting.put(values, &text) {
            Ok(value) => {
                self.effective.push((setting.name, value, origin));
                Ok(())
            }
            Err(expected) => Err(ConfigError::Value { setting: setting.name, origin, got: text, expected }),
        }
    }

    /// The text of the strongest source that sets the setting.
    fn text(&self, setting: &Setting) -> Option<(String, Source)> {
        if let Some(text) = self.flags.get(setting.name) {
            return Some((text.clone(), Source::Flag));
        }
        let variable = setting.variable();
        if let Some((_, text)) = self.variables.iter().find(|(name, _)| *name == variable) {
            return Some((text.clone(), Source::Variable(variable)));
        }
        if let Some(value) = self.file.get(setting.name) {
            return Some((file_text(value), Source::File(self.path.clone())));
        }
        let (text, variable) = self.standard.value(setting.name)?;
        Some((text, Source::Variable(variable.to_owned())))
    }

    /// The source of a setting that was taken.
    pub(super) fn origin(&self, setting: &str) -> Source {
        self.effective.iter().find(|(name, ..)| *name == setting).map_or(Source::Default, |(.., origin)| origin.clone())
    }

    /// The error for a value that parses, but that a later check rejects.
    pub(super) fn refused(&self, setting: &'static str, got: String, expected: &str) -> ConfigError {
        ConfigError::Value { setting, origin: self.origin(setting), got, expected: expected.to_owned() }
    }

    /// Replaces the reported value and origin of a text setting, if the value in use differs from the written one.
    pub(super) fn replace(&mut self, setting: &str, text: &str, origin: Source) {
        if let Some((_, value, source)) = self.effective.iter_mut().find(|(name, ..)| *name == setting) {
            (*value, *source) = (toml::Value::from(text).to_string(), origin);
        }
    }

    /// Returns the settings that were taken, and the warnings. `settings` has all settings of the table.
    ///
    /// # Errors
    /// [`ConfigError::UnknownKey`] if the file has a key that is not a setting.
    pub(super) fn finish(
        mut self,
        settings: &[&'static Setting],
    ) -> Result<(Vec<EffectiveSetting>, Vec<String>), ConfigError> {
        if let Some(key) = self.file.keys().find(|key| settings.iter().all(|setting| setting.name != key.as_str())) {
            let known: Vec<&str> = settings.iter().map(|setting| setting.name).collect();
            return Err(ConfigError::UnknownKey {
                path: self.path.display().to_string(),
                key: key.clone(),
                known: known.join(", "),
            });
        }
        let known = |variable: &str| {
            OTHER_VARIABLES.contains(&variable) || settings.iter().any(|setting| variable == setting.variable())
        };
        let unknown = self.variables.iter().filter(|(name, _)| name.starts_with("HALFHITCH_") && !known(name));
        self.warnings.extend(unknown.map(|(name, _)| format!("variable {name} is not a setting and has no effect")));
        Ok((self.effective, self.warnings))
    }
}

/// The text of a value in the settings file. A list of texts means its parts, joined by commas.
fn file_text(value: &toml::Value) -> String {
    match value {
        toml::Value::String(text) => text.clone(),
        toml::Value::Array(parts) if parts.iter().all(toml::Value::is_str) => {
            parts.iter().filter_map(toml::Value::as_str).collect::<Vec<_>>().join(",")
        }
        other => other.to_string(),
    }
}
