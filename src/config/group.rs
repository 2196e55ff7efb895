//! Groups of settings.

use super::ConfigError;
use super::layers::Layers;
use super::setting::Setting;
use super::values::Values;

/// Settings of one subject.
#[derive(Debug)]
pub(super) struct Group {
    /// Heading in the help and in the reference page.
    pub(super) title: &'static str,
    /// Whether a change takes effect while the server runs. Then all values are stored in
    /// [`UpkeepConfig`](crate::service::UpkeepConfig).
    pub(super) reloads: bool,
    /// The settings, in the order of `--print-config`.
    pub(super) settings: &'static [Setting],
    /// Checks and combines settings that depend on each other; called when all settings of the group are stored.
    pub(super) check: fn(&mut Layers<'_>, &mut Values) -> Result<(), ConfigError>,
}
