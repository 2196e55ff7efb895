//! Admission of calls, by the connection's certificate, the call's credential and its method.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::time::SystemTime;

use super::callers::{Addresses, CallerLimits, CallerQuotaGuard};
use super::credentials::Presented;
use super::files::Watched;
use super::log_throttle::now_ns;
use super::roles::Need;
use super::{Caller, Credentials, CredentialsError, Refusal, Term};
use crate::methods::Method;
use crate::text::first_chars;

/// Checks certificates as TLS handshakes do, with the current authorities and revocation lists.
pub trait CertificateCheck: std::fmt::Debug + Send + Sync {
    /// Whether a certificate chain is valid. The chain is in DER, the client's own certificate first.
    fn is_good(&self, chain: &[Vec<u8>]) -> bool;
}

/// The client certificate of one connection.
#[derive(Debug)]
struct Certificate {
    presented: Presented,
    term: Term,
}

/// The client side of a connection.
#[derive(Debug)]
pub struct Peer {
    /// IP address of the client, if known.
    pub address: Option<IpAddr>,
    certificate: Option<Certificate>,
    /// The caller of calls without a credential.
    caller: Caller,
    called: AtomicBool,
    answers: AtomicU32,
}

impl Peer {
    /// Counts a response and returns the number of earlier ones.
    pub fn answer(&self) -> u32 {
        self.answers.fetch_add(1, Ordering::Relaxed)
    }

    /// Whether the connection has made a call.
    pub fn has_called(&self) -> bool {
        self.called.load(Ordering::Relaxed)
    }
}

/// An admitted call.
#[derive(Debug)]
pub struct Admitted {
    /// The caller.
    pub caller: Caller,
    /// The caller's quota of one request; keep it until the call ends.
    pub held: Option<CallerQuotaGuard>,
    /// Whether the client may send an unbounded stream of messages.
    pub takes_stream: bool,
    /// Whether the call is a health check.
    pub is_probe: bool,
}

/// Decides whether a call is admitted. Without a credentials file, every call is.
#[derive(Debug)]
pub struct Gate {
    known: Option<RwLock<Arc<Credentials>>>,
    path: PathBuf,
    limits: CallerLimits,
    addresses: Addresses,
    certificates: Mutex<Certificates>,
}

/// Certificates of open connections, and their checker.
#[derive(Debug, Default)]
struct Certificates {
    check: Option<Arc<dyn CertificateCheck>>,
    open: Vec<Weak<Peer>>,
    /// Number of entries at which closed connections are removed.
    look_at: usize,
}

/// Below this number of entries, closed connections are not removed.
const LOOK_AT_MIN: usize = 1024;

impl Gate {
    /// Reads the credentials file at `path` once; without a path, every call is admitted. Also returns the watcher of
    /// the file.
    ///
    /// # Errors
    /// If the file cannot be read or is invalid.
    pub fn open(path: Option<PathBuf>, limits: CallerLimits) -> Result<(Self, Option<Watched>), CredentialsError> {
        let (addresses, certificates) = <(Addresses, Mutex<Certificates>)>::default();
        let Some(path) = path else {
            return Ok((Self { known: None, path: PathBuf::new(), limits, addresses, certificates }, None));
        };
        let mut watched = Watched::new(vec![path.clone()]);
        let files = watched.changed().transpose()?.unwrap_or_default();
        let known = Credentials::parse(files.first().map_or(&[], Vec::as_slice), &path, limits, None)?;
        let known = Some(RwLock::new(Arc::new(known)));
        Ok((Self { known, path, limits, addresses, certificates }, Some(watched)))
    }

    /// Whether every call is admitted, because there is no credentials file.
    pub fn is_open(&self) -> bool {
        self.known.is_none()
    }

    /// Applies new contents of the credentials file. Entries that are removed or changed are revoked. Returns the
    /// numbers of tokens and certificates.
    ///
    /// # Errors
    /// If the contents are invalid; then nothing changes.
    pub fn replace(&self, text: &[u8]) -> Result<(usize, usize), CredentialsError> {
        let Some(known) = &self.known else { return Ok((0, 0)) };
        let before = Arc::clone(&known.read().unwrap_or_else(PoisonError::into_inner));
        let after = Credentials::parse(text, &self.path, self.limits, Some(&before))?;
        let counts = after.counts();
        before.end_all_but(&after);
        *known.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(after);
        Ok(counts)
    }

    /// Applies new authorities and revocation lists, also to open connections.
    pub fn check_certificates(&self, check: &Arc<dyn CertificateCheck>) {
        let open: Vec<_> = {
            let mut certificates = self.certificates.lock().unwrap_or_else(PoisonError::into_inner);
            certificates.check = Some(Arc::clone(check));
            certificates.open.iter().filter_map(Weak::upgrade).collect()
        };
        for certificate in open.iter().filter_map(|peer| peer.certificate.as_ref()) {
            if !check.is_good(&certificate.presented.chain) {
                certificate.term.end();
            }
        }
    }

    /// Registers a connection. Its certificate was valid when the handshake began.
    pub fn peer(&self, address: Option<IpAddr>, certificate: Option<Presented>) -> Arc<Peer> {
        let usage = address.map(|address| self.addresses.caller(address, now_ns())).unwrap_or_default();
        let name = address.map_or_else(|| "somebody".into(), |address| address.to_canonical().to_string());
        let caller = Caller::new(name.into(), Arc::default(), usage, self.limits, Term::default());
        let caller = caller.without_credential(address);
        let certificate = certificate.map(|presented| {
            let term = Term::until(Some(presented.ends));
            Certificate { presented, term }
        });
        let peer =
            Arc::new(Peer { address, certificate, caller, called: AtomicBool::new(false), answers: AtomicU32::new(0) });
        if let Some(certificate) = &peer.certificate {
            // Register first, then check again: a concurrent change of the checker is seen by one of the two.
            if !self.watch(&peer).is_none_or(|check| check.is_good(&certificate.presented.chain)) {
                certificate.term.end();
            }
        }
        peer
    }

    fn watch(&self, peer: &Arc<Peer>) -> Option<Arc<dyn CertificateCheck>> {
        let mut certificates = self.certificates.lock().unwrap_or_else(PoisonError::into_inner);
        if certificates.open.len() >= certificates.look_at.max(LOOK_AT_MIN) {
            certificates.open.retain(|peer| peer.strong_count() > 0);
            certificates.look_at = 2 * certificates.open.len();
        }
        certificates.open.push(Arc::downgrade(peer));
        certificates.check.clone()
    }

    /// Admits a call, or returns why it is refused. `method`: that of `path`; `None` if the server has no such method.
    pub fn admit(
        &self,
        method: Option<Method>,
        path: &str,
        token: Option<&[u8]>,
        peer: &Peer,
    ) -> Result<Admitted, Refusal> {
        if !peer.called.load(Ordering::Relaxed) {
            peer.called.store(true, Ordering::Relaxed);
        }
        let need = Need::of(method);
        let caller = self.caller(path, need, token, peer)?;
        // Health checks do not count: they must not fail because of other calls.
        let is_probe = need == Need::Nothing;
        let held = if is_probe { None } else { caller.begin(now_ns())? };
        Ok(Admitted { caller, held, takes_stream: method.is_some_and(Method::takes_stream), is_probe })
    }

    fn caller(&self, path: &str, need: Need, token: Option<&[u8]>, peer: &Peer) -> Result<Caller, Refusal> {
        if need == Need::Nothing {
            return Ok(peer.caller.clone());
        }
        // The certificate is expired or revoked: a new handshake would fail.
        if peer.certificate.as_ref().is_some_and(|certificate| !certificate.term.lasts()) {
            return Err(Refusal::Unknown);
        }
        let certified = |caller: &Caller| match &peer.certificate {
            Some(certificate) => caller.clone().with_certificate(certificate.term.clone()),
            None => caller.clone(),
        };
        let Some(known) = &self.known else { return Ok(certified(&peer.caller)) };
        let known = known.read().unwrap_or_else(PoisonError::into_inner);
        let now = SystemTime::now();
        let (caller, roles) = match (token, &peer.certificate) {
            // A token takes precedence over the certificate.
            (Some(token), _) => known.by_token(token, now)?,
            (None, Some(certificate)) => known.by_certificate(&certificate.presented, now)?,
            (None, None) => return Err(Refusal::Unknown),
        };
        if need.is_met_by(roles) {
            return Ok(certified(caller));
        }
        let method = first_chars(path, 120).to_owned();
        Err(Refusal::Method { caller: Arc::clone(&caller.0.name), method, expected: need.expected() })
    }
}
