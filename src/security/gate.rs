//! Who comes in: a connection's peer, a call's credential, its method.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use super::callers::{Addresses, CallerLimits, Held};
use super::credentials::Presented;
use super::files::Watched;
use super::roles::{Need, method};
use super::told::now_ns;
use super::{Caller, Credentials, CredentialsError, Refusal};

/// The other side of a connection.
#[derive(Debug)]
pub struct Peer {
    /// Where it calls from.
    pub address: Option<IpAddr>,
    certificate: Option<Presented>,
    /// Who it is as long as it does not say.
    caller: Caller,
    called: AtomicBool,
}

impl Peer {
    /// Whether it has made a call.
    pub fn has_called(&self) -> bool {
        self.called.load(Ordering::Relaxed)
    }
}

/// A call that may go on.
#[derive(Debug)]
pub struct Admitted {
    /// Whose it is.
    pub caller: Caller,
    /// To be kept until it has ended.
    pub held: Option<Held>,
    /// Whether messages come without end.
    pub takes_stream: bool,
}

/// Decides. Without a file of credentials everything is allowed.
#[derive(Debug)]
pub struct Gate {
    known: Option<RwLock<Arc<Credentials>>>,
    path: PathBuf,
    limits: CallerLimits,
    addresses: Addresses,
}

impl Gate {
    /// With the credentials of a file, which is read once.
    ///
    /// # Errors
    /// If it is not as it has to be.
    pub fn open(path: Option<PathBuf>, limits: CallerLimits) -> Result<(Self, Option<Watched>), CredentialsError> {
        let addresses = Addresses::default();
        let Some(path) = path else {
            return Ok((Self { known: None, path: PathBuf::new(), limits, addresses }, None));
        };
        let mut watched = Watched::new(vec![path.clone()]);
        let files = watched.changed().transpose()?.unwrap_or_default();
        let known = Credentials::parse(files.first().map_or(&[], Vec::as_slice), &path, limits, None)?;
        Ok((Self { known: Some(RwLock::new(Arc::new(known))), path, limits, addresses }, Some(watched)))
    }

    /// Whether everything is allowed.
    pub fn is_open(&self) -> bool {
        self.known.is_none()
    }

    /// Puts other contents of the file in force.
    ///
    /// # Errors
    /// If they are not as they have to be; then nothing changes.
    pub fn replace(&self, text: &[u8]) -> Result<(usize, usize), CredentialsError> {
        let Some(known) = &self.known else { return Ok((0, 0)) };
        let before = Arc::clone(&known.read().unwrap_or_else(PoisonError::into_inner));
        let after = Credentials::parse(text, &self.path, self.limits, Some(&before))?;
        let counts = after.counts();
        *known.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(after);
        Ok(counts)
    }

    /// A connection from there, whose certificate was checked.
    pub fn peer(&self, address: Option<IpAddr>, certificate: Option<Presented>) -> Peer {
        let usage = address.map(|address| self.addresses.caller(address, now_ns())).unwrap_or_default();
        let name = address.map_or_else(|| "somebody".into(), |address| address.to_canonical().to_string());
        let caller = Caller::new(name.into(), Arc::default(), usage, self.limits);
        Peer { address, certificate, caller, called: AtomicBool::new(false) }
    }

    /// Lets a call in, or says why not.
    pub fn admit(&self, path: &str, token: Option<&[u8]>, peer: &Peer) -> Result<Admitted, Refusal> {
        if !peer.called.load(Ordering::Relaxed) {
            peer.called.store(true, Ordering::Relaxed);
        }
        let method = method(path);
        let caller = self.caller(path, method.need, token, peer)?;
        // Probes are not to fail because of others.
        let held = if method.need == Need::Nothing { None } else { caller.begin(now_ns())? };
        Ok(Admitted { caller, held, takes_stream: method.takes_stream })
    }

    fn caller(&self, path: &str, need: Need, token: Option<&[u8]>, peer: &Peer) -> Result<Caller, Refusal> {
        let (Some(known), false) = (&self.known, need == Need::Nothing) else { return Ok(peer.caller.clone()) };
        let known = known.read().unwrap_or_else(PoisonError::into_inner);
        let now = SystemTime::now();
        let (caller, roles) = match (token, &peer.certificate) {
            // Whoever shows a token is judged by it.
            (Some(token), _) => known.by_token(token, now)?,
            (None, Some(certificate)) => known.by_certificate(certificate, now)?,
            (None, None) => return Err(Refusal::Unknown),
        };
        if need.is_met_by(roles) {
            return Ok(caller.clone());
        }
        let method = path.chars().take(120).collect();
        Err(Refusal::Method { caller: Arc::clone(&caller.name), method, expected: need.expected() })
    }
}
