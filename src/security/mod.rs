//! Who may do what: credentials, roles, and what one caller may use at a time. No transport.

pub mod callers;
pub mod credentials;
pub mod date;
mod fair_quota;
pub mod files;
pub mod gate;
pub mod log_throttle;
pub mod roles;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

pub use callers::{CallerLimits, CallerQuotaGuard, Usage};
pub use credentials::{Credentials, CredentialsError};
pub use fair_quota::{FairQuota, QuotaGuard};
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
    /// As much is under way as this server takes, of everybody or of one address.
    #[error("this server has reached {limit}, {max}, or this address its four fifths of it: come back in a while")]
    NoRoom {
        /// The limit.
        limit: &'static str,
        /// What it is.
        max: u64,
    },
    /// The rest of a message did not come.
    #[error(
        "{got_bytes} bytes of a message came, expected {}, and {message_wait_max:?} is as long as this server waits for the \
         rest of it (message_timeout_seconds)",
        message_bytes.map_or_else(|| "its prefix".to_owned(), |bytes| bytes.to_string())
    )]
    TooSlow {
        /// What has come of it.
        got_bytes: usize,
        /// What was to come, once that was told.
        message_bytes: Option<usize>,
        /// How long it was waited for.
        message_wait_max: Duration,
    },
}

/// Until when a credential is in force. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Term {
    is_over: Arc<AtomicBool>,
    ends: Option<SystemTime>,
}

impl Term {
    /// Until then, if it is not ended before.
    pub fn until(ends: Option<SystemTime>) -> Self {
        Self { is_over: Arc::default(), ends }
    }

    /// Whether it lasts.
    pub fn lasts(&self) -> bool {
        !self.is_over.load(Ordering::Relaxed) && self.ends.is_none_or(|ends| SystemTime::now() < ends)
    }

    fn end(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

/// Whoever makes a call. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Caller(Arc<Known>);

#[derive(Clone, Debug)]
struct Known {
    name: Arc<str>,
    /// Beginnings of the names of its models; empty: all.
    models: Arc<[String]>,
    usage: Arc<Usage>,
    limits: CallerLimits,
    term: Term,
    /// Of the connection's certificate.
    certificate: Option<Term>,
    /// The network of the address, of a caller without a credential.
    network: Option<IpAddr>,
}

impl Caller {
    /// Known as `name`.
    pub fn new(name: Arc<str>, models: Arc<[String]>, usage: Arc<Usage>, limits: CallerLimits, term: Term) -> Self {
        Self(Arc::new(Known { name, models, usage, limits, term, certificate: None, network: None }))
    }

    /// The same, known by its address alone.
    #[must_use]
    fn without_credential(mut self, address: Option<IpAddr>) -> Self {
        // An address that is not known is one of its own.
        let network = address.map_or(Ipv4Addr::UNSPECIFIED.into(), callers::network);
        Arc::make_mut(&mut self.0).network = Some(network);
        self
    }

    /// The scope of what it names (idempotency keys): the name of its credential; empty for callers without one, who have one
    /// scope together.
    pub fn scope(&self) -> &str {
        if self.0.network.is_some() { "" } else { &self.0.name }
    }

    /// Whose share it takes of what there is: that of its credential, or of its network.
    pub fn share(&self) -> String {
        self.0.network.map_or_else(|| self.0.name.to_string(), |network| network.to_string())
    }

    /// The same, as long as its certificate is good.
    #[must_use]
    fn with_certificate(mut self, term: Term) -> Self {
        Arc::make_mut(&mut self.0).certificate = Some(term);
        self
    }

    /// Whether its credential still says who it is.
    pub fn is_in_force(&self) -> bool {
        self.0.term.lasts() && self.0.certificate.as_ref().is_none_or(Term::lasts)
    }

    /// One of whom nothing is known and to whom nothing is forbidden: for handlers that stand behind no gate.
    pub fn anybody() -> Self {
        Self::new("anybody".into(), Arc::default(), Arc::default(), CallerLimits::default(), Term::default())
            .without_credential(None)
    }

    /// One who may use no model.
    pub fn nobody() -> Self {
        // No name of a model begins so.
        let models = ["/".to_owned()].into();
        Self::new("nobody".into(), models, Arc::default(), CallerLimits::default(), Term::default())
    }

    /// How it is called in logs and errors.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Whether a model is one of those that it may use.
    pub fn may_use(&self, model: &str) -> bool {
        self.0.models.is_empty() || self.0.models.iter().any(|prefix| model.starts_with(&**prefix))
    }

    /// Refuses a model that it may not use, whether or not there is one of that name.
    pub fn check_model(&self, model: &str) -> Result<(), Refusal> {
        if self.may_use(model) {
            return Ok(());
        }
        Err(Refusal::Model { caller: Arc::clone(&self.0.name), model: model.chars().take(80).collect() })
    }

    /// One more request, for as long as what is returned lives.
    pub fn begin(&self, now_ns: u64) -> Result<Option<CallerQuotaGuard>, Refusal> {
        self.0.usage.begin(&self.0.name, &self.0.limits, now_ns)
    }

    /// Rows and bytes of a request, for as long as what is returned lives; none where neither is limited.
    pub fn hold(&self, rows: u64, bytes: u64) -> Result<Option<CallerQuotaGuard>, Refusal> {
        self.0.usage.hold(&self.0.name, &self.0.limits, rows, bytes)
    }

    /// Whether bytes count for it.
    pub fn has_bytes_max(&self) -> bool {
        self.0.limits.bytes_max > 0
    }
}
