//! The values of all settings while they are read, and how the type of a field parses the text of a setting.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::ADDRESS_DEFAULT;
use crate::model::ModelReference;
use crate::server::ServerConfig;
use crate::store::VersionPolicies;
use crate::telemetry::LogFormat;

/// The values of all settings. Its default holds the built-in defaults, most of them from the configurations of the
/// modules. `otlp_endpoint`, `tls` and `retention` go to `server` when their group is checked.
#[derive(Clone, Debug)]
pub(super) struct Values {
    pub(super) listen: SocketAddr,
    pub(super) log: String,
    pub(super) log_format: LogFormat,
    pub(super) server: ServerConfig,
    /// URL of the trace collector, as written; empty: none.
    pub(super) otlp_endpoint: String,
    pub(super) tls: TlsValues,
    pub(super) retention: RetentionValues,
}

/// The settings of TLS, each alone.
#[derive(Clone, Debug, Default)]
pub(super) struct TlsValues {
    pub(super) certificate: Option<PathBuf>,
    pub(super) key: Option<PathBuf>,
    pub(super) client_ca: Option<PathBuf>,
    pub(super) client_crl: Option<PathBuf>,
    pub(super) client_optional: bool,
}

/// The settings of retention, each alone.
#[derive(Clone, Copy, Debug)]
pub(super) struct RetentionValues {
    /// Number of newest versions to keep; 0: all.
    pub(super) versions: usize,
    pub(super) days: u64,
}

impl Default for Values {
    fn default() -> Self {
        Self {
            listen: ADDRESS_DEFAULT,
            log: "info".to_owned(),
            log_format: LogFormat::Human,
            server: ServerConfig::new(PathBuf::from("halfhitch-store")),
            otlp_endpoint: String::new(),
            tls: TlsValues::default(),
            retention: RetentionValues { versions: 0, days: 30 },
        }
    }
}

/// A field that a number fills. `N` is the type of the number in the text of the setting.
pub(super) trait NumberField<N> {
    fn number(&self) -> N;
    fn of(number: N) -> Self;
}

impl NumberField<Self> for u64 {
    fn number(&self) -> Self {
        *self
    }

    fn of(number: Self) -> Self {
        number
    }
}

impl NumberField<u64> for u32 {
    fn number(&self) -> u64 {
        (*self).into()
    }

    fn of(number: u64) -> Self {
        number as Self
    }
}

impl NumberField<u64> for usize {
    fn number(&self) -> u64 {
        *self as u64
    }

    fn of(number: u64) -> Self {
        number as Self
    }
}

/// Whole seconds.
impl NumberField<u64> for Duration {
    fn number(&self) -> u64 {
        self.as_secs()
    }

    fn of(number: u64) -> Self {
        Self::from_secs(number)
    }
}

/// Whole seconds; 0 is `None`.
impl NumberField<u64> for Option<Duration> {
    fn number(&self) -> u64 {
        self.map_or(0, |duration| duration.as_secs())
    }

    fn of(number: u64) -> Self {
        (number > 0).then(|| Duration::from_secs(number))
    }
}

impl NumberField<Self> for f64 {
    fn number(&self) -> Self {
        *self
    }

    fn of(number: Self) -> Self {
        number
    }
}

/// Seconds.
impl NumberField<f64> for Duration {
    fn number(&self) -> f64 {
        self.as_secs_f64()
    }

    fn of(number: f64) -> Self {
        Self::from_secs_f64(number)
    }
}

/// A field that a text fills.
pub(super) trait TextField: Sized {
    /// The value of a text; `None` if the text is not allowed.
    fn parse(text: &str) -> Option<Self>;
    /// A text that [`Self::parse`] turns into this value.
    fn text(&self) -> String;
}

impl TextField for String {
    fn parse(text: &str) -> Option<Self> {
        Some(text.to_owned())
    }

    fn text(&self) -> String {
        self.clone()
    }
}

/// Any text but the empty one.
impl TextField for PathBuf {
    fn parse(text: &str) -> Option<Self> {
        (!text.is_empty()).then(|| Self::from(text))
    }

    fn text(&self) -> String {
        self.display().to_string()
    }
}

impl TextField for SocketAddr {
    fn parse(text: &str) -> Option<Self> {
        text.parse().ok()
    }

    fn text(&self) -> String {
        self.to_string()
    }
}

impl TextField for bool {
    fn parse(text: &str) -> Option<Self> {
        text.parse().ok()
    }

    fn text(&self) -> String {
        self.to_string()
    }
}

/// The empty text is `None`.
impl<T: TextField> TextField for Option<T> {
    fn parse(text: &str) -> Option<Self> {
        if text.is_empty() { Some(None) } else { T::parse(text).map(Some) }
    }

    fn text(&self) -> String {
        self.as_ref().map_or_else(String::new, T::text)
    }
}

impl TextField for LogFormat {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "human" => Some(Self::Human),
            "json" => Some(Self::Json),
            _ => None,
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Human => "human".to_owned(),
            Self::Json => "json".to_owned(),
        }
    }
}

/// Models, separated by commas.
impl TextField for Vec<ModelReference> {
    fn parse(text: &str) -> Option<Self> {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        parts.map(|part| part.parse().ok()).collect()
    }

    fn text(&self) -> String {
        self.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
    }
}

impl TextField for VersionPolicies {
    fn parse(text: &str) -> Option<Self> {
        text.parse().ok()
    }

    fn text(&self) -> String {
        let by_name = self.by_name.iter().map(|(name, policy)| format!(",{name}={policy}"));
        by_name.fold(self.of_others.to_string(), |text, policy| text + &policy)
    }
}
