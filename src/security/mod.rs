//! Who may do what: credentials, roles, and what one caller may use at a time. No transport.

pub mod callers;
pub mod credentials;
pub mod date;
pub mod files;
pub mod gate;
pub mod roles;
pub mod told;

use std::sync::Arc;
use std::time::Duration;

pub use callers::{CallerLimits, Held, Usage};
pub use credentials::{Credentials, CredentialsError};
pub use roles::{Need, Role, Roles};

/// Why a call is refused. None of them says which part of a credential was wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No credential, or one that is not, or no longer, in force.
    #[error(
        "this server serves nobody whom it does not know, expected a valid credential: `authorization: Bearer TOKEN`, or a client certificate"
    )]
    Unknown,
    /// The caller is known, and may not do this.
    #[error("{caller} may not call {method}, expected {expected}")]
    Method {
        /// Its name.
        caller: Arc<str>,
        /// What it asked for.
        method: String,
        /// Who may.
        expected: &'static str,
    },
    /// The caller is known, and may not use this model. It is said of models that do not exist as well.
    #[error("{caller} may not use the model {model:?}, expected a name that begins as its credential says")]
    Model {
        /// Its name.
        caller: Arc<str>,
        /// What it asked for.
        model: String,
    },
    /// The caller has as much under way as one may.
    #[error("{caller} has reached {limit}, {max}: {got} would be under way")]
    TooMuch {
        /// Its name.
        caller: Arc<str>,
        /// The limit.
        limit: &'static str,
        /// What it would have.
        got: u64,
        /// What it may have.
        max: u64,
        /// When it is worth coming back.
        retry_after: Duration,
    },
    /// The caller asks too often.
    #[error("{caller} has reached requests_per_second_max, {max}")]
    TooOften {
        /// Its name.
        caller: Arc<str>,
        /// What it may.
        max: u64,
        /// When it is worth coming back.
        retry_after: Duration,
    },
}

/// Whoever makes a call. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Caller {
    name: Arc<str>,
    /// Beginnings of the names of its models; empty: all.
    models: Arc<[String]>,
    usage: Arc<Usage>,
    limits: CallerLimits,
}

impl Caller {
    /// Known as `name`.
    pub fn new(name: Arc<str>, models: Arc<[String]>, usage: Arc<Usage>, limits: CallerLimits) -> Self {
        Self { name, models, usage, limits }
    }

    /// One of whom nothing is known and to whom nothing is forbidden: for handlers that stand behind no gate.
    pub fn anybody() -> Self {
        Self::new("anybody".into(), Arc::default(), Arc::default(), CallerLimits::default())
    }

    /// One who may use no model.
    pub fn nobody() -> Self {
        // No name of a model begins so.
        Self::new("nobody".into(), ["/".to_owned()].into(), Arc::default(), CallerLimits::default())
    }

    /// How it is called in logs and errors.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether a model is one of those that it may use.
    pub fn may_use(&self, model: &str) -> bool {
        self.models.is_empty() || self.models.iter().any(|prefix| model.starts_with(&**prefix))
    }

    /// Refuses a model that it may not use, whether or not there is one of that name.
    pub fn check_model(&self, model: &str) -> Result<(), Refusal> {
        if self.may_use(model) {
            return Ok(());
        }
        Err(Refusal::Model { caller: Arc::clone(&self.name), model: model.chars().take(80).collect() })
    }

    /// One more request, for as long as what is returned lives.
    pub fn begin(&self, now_ns: u64) -> Result<Option<Held>, Refusal> {
        self.usage.begin(&self.name, &self.limits, now_ns)
    }

    /// Rows and bytes of a request, for as long as what is returned lives; none where neither is limited.
    pub fn hold(&self, rows: u64, bytes: u64) -> Result<Option<Held>, Refusal> {
        self.usage.hold(&self.name, &self.limits, rows, bytes)
    }

    /// Whether bytes count for it.
    pub fn has_bytes_max(&self) -> bool {
        self.limits.bytes_max > 0
    }
}
