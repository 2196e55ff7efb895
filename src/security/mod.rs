//! Access control: credentials, roles, and quotas of callers. Independent of the transport.

pub mod callers;
pub mod credentials;
pub mod date;
mod fair_quota;
pub mod files;
pub mod gate;
pub mod log_throttle;
mod refusal;
pub mod roles;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

pub use callers::{CallerLimits, CallerQuotaGuard, Usage};
pub use credentials::{Credentials, CredentialsError};
pub use fair_quota::{FairQuota, QuotaGuard};
pub use refusal::Refusal;
pub use roles::{Need, Role, Roles};

use crate::text::first_chars;

/// Validity of a credential: it ends at a time or by revocation. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Term {
    is_over: Arc<AtomicBool>,
    ends: Option<SystemTime>,
}

impl Term {
    /// Valid until `ends` unless revoked before; without `ends`, until revoked.
    pub fn until(ends: Option<SystemTime>) -> Self {
        Self { is_over: Arc::default(), ends }
    }

    /// Whether the credential is still valid.
    pub fn lasts(&self) -> bool {
        !self.is_over.load(Ordering::Relaxed) && self.ends.is_none_or(|ends| SystemTime::now() < ends)
    }

    fn end(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

/// The identity of a caller, with its quotas. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Caller(Arc<Known>);

#[derive(Clone, Debug)]
struct Known {
    name: Arc<str>,
    /// Allowed prefixes of model names; empty: all models.
    models: Arc<[String]>,
    usage: Arc<Usage>,
    limits: CallerLimits,
    term: Term,
    /// Validity of the connection's certificate.
    certificate: Option<Term>,
    /// The network of the caller's address; set only for callers without a credential.
    network: Option<IpAddr>,
}

impl Caller {
    /// A caller with the name of its credential or address.
    pub fn new(name: Arc<str>, models: Arc<[String]>, usage: Arc<Usage>, limits: CallerLimits, term: Term) -> Self {
        Self(Arc::new(Known { name, models, usage, limits, term, certificate: None, network: None }))
    }

    /// Marks the caller as identified by its address alone.
    #[must_use]
    fn without_credential(mut self, address: Option<IpAddr>) -> Self {
        // All unknown addresses count as one network.
        let network = address.map_or(Ipv4Addr::UNSPECIFIED.into(), callers::network);
        Arc::make_mut(&mut self.0).network = Some(network);
        self
    }

    /// The scope of the caller's idempotency keys: the name of its credential. Callers without a credential share one
    /// scope, the empty name.
    pub fn scope(&self) -> &str {
        if self.0.network.is_some() { "" } else { &self.0.name }
    }

    /// The key of the caller's share of a fair quota: the name of its credential, or its network.
    pub fn share(&self) -> String {
        self.0.network.map_or_else(|| self.0.name.to_string(), |network| network.to_string())
    }

    /// Ties the caller to the validity of its certificate.
    #[must_use]
    fn with_certificate(mut self, term: Term) -> Self {
        Arc::make_mut(&mut self.0).certificate = Some(term);
        self
    }

    /// Whether the credential and the certificate are still valid.
    pub fn is_in_force(&self) -> bool {
        self.0.term.lasts() && self.0.certificate.as_ref().is_none_or(Term::lasts)
    }

    /// An anonymous caller without restrictions, for handlers without a [`Gate`](gate::Gate).
    pub fn unrestricted() -> Self {
        Self::new("anybody".into(), Arc::default(), Arc::default(), CallerLimits::default(), Term::default())
            .without_credential(None)
    }

    /// A caller that may use no model.
    pub fn without_rights() -> Self {
        // No model name begins with a slash.
        let models = ["/".to_owned()].into();
        Self::new("nobody".into(), models, Arc::default(), CallerLimits::default(), Term::default())
    }

    /// The caller's name in logs and errors.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Whether the caller may use a model of this name.
    pub fn may_use(&self, model: &str) -> bool {
        self.0.models.is_empty() || self.0.models.iter().any(|prefix| model.starts_with(&**prefix))
    }

    /// Refuses a model that the caller may not use, whether or not the model exists.
    pub fn check_model(&self, model: &str) -> Result<(), Refusal> {
        if self.may_use(model) {
            return Ok(());
        }
        Err(Refusal::Model { caller: Arc::clone(&self.0.name), model: first_chars(model, 80).to_owned() })
    }

    /// Counts one more request, until the guard is dropped. `None` without a limit on requests.
    pub fn begin(&self, now_ns: u64) -> Result<Option<CallerQuotaGuard>, Refusal> {
        self.0.usage.begin(&self.0.name, &self.0.limits, now_ns)
    }

    /// Counts rows and bytes of a request, until the guard is dropped. `None` without a limit on either.
    pub fn hold(&self, rows: u64, bytes: u64) -> Result<Option<CallerQuotaGuard>, Refusal> {
        self.0.usage.hold(&self.0.name, &self.0.limits, rows, bytes)
    }

    /// Whether the caller's bytes in flight are limited.
    pub fn has_bytes_max(&self) -> bool {
        self.0.limits.bytes_max > 0
    }
}
