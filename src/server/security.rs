//! Credentials and certificates of a running server: read at the start, and again when the files change.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use super::tls::{TlsConfig, TlsError};
use crate::executor::blocking_or_panic;
use crate::security::files::{Unreadable, Watched};
use crate::security::gate::Gate;
use crate::security::{CallerLimits, CredentialsError};
use crate::service::Readiness;

/// Interval at which the files are checked for changes.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Credentials, TLS and limits per caller.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SecurityConfig {
    /// File of tokens and certificates; `None`: every caller may do everything.
    pub credentials: Option<PathBuf>,
    /// TLS; `None`: no encryption.
    pub tls: Option<TlsConfig>,
    /// Default limits of a caller; its credential can set others.
    pub caller: CallerLimits,
}

/// Why security could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum SecurityError {
    /// The credentials cannot be used.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// The certificates cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// The current credentials and certificates. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Security {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    gate: Arc<Gate>,
    tls: Option<(TlsConfig, RwLock<TlsAcceptorShown>)>,
    files: Mutex<Files>,
}

/// The watched files.
#[derive(Debug)]
struct Files {
    credentials: Option<Watched>,
    tls: Option<Watched>,
}

struct TlsAcceptorShown(TlsAcceptor);

impl std::fmt::Debug for TlsAcceptorShown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TlsAcceptor(..)")
    }
}

impl Security {
    /// Reads all files. Unlike here, an invalid file after the start is only logged, and the previous content stays in
    /// force.
    pub fn open(config: SecurityConfig) -> Result<Self, SecurityError> {
        let (gate, credentials) = Gate::open(config.credentials, config.caller)?;
        let mut watched = config.tls.as_ref().map(|tls| Watched::new(tls.files()));
        let tls = match (config.tls, &mut watched) {
            (Some(tls), Some(watched)) => {
                let files = watched.changed().transpose().map_err(TlsError::from)?.unwrap_or_default();
                let (acceptor, clients) = tls.build(&files)?;
                if let Some(clients) = clients {
                    gate.check_certificates(&clients);
                }
                Some((tls, RwLock::new(TlsAcceptorShown(acceptor.into()))))
            }
            _ => None,
        };
        let files = Mutex::new(Files { credentials, tls: watched });
        Ok(Self { inner: Arc::new(Inner { gate: Arc::new(gate), tls, files }) })
    }

    /// The gate that authenticates callers.
    pub fn gate(&self) -> &Arc<Gate> {
        &self.inner.gate
    }

    /// The TLS acceptor with the current certificate; `None` without TLS.
    pub(super) fn acceptor(&self) -> Option<TlsAcceptor> {
        let (_, acceptor) = self.inner.tls.as_ref()?;
        Some(acceptor.read().unwrap_or_else(PoisonError::into_inner).0.clone())
    }

    /// Reads all changed files, and applies those that are valid. Blocks on the disk.
    pub fn reload(&self) {
        self.look(Watched::changed);
    }

    fn look(&self, changed: impl Fn(&mut Watched) -> Option<Result<Vec<Vec<u8>>, Unreadable>>) {
        let mut files = self.inner.files.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(changed) = files.credentials.as_mut().and_then(&changed) {
            let replaced = changed
                .map_err(CredentialsError::from)
                .and_then(|files| self.inner.gate.replace(files.first().map_or(&[], Vec::as_slice)));
            match replaced {
                Ok((tokens, certificates)) => tracing::info!(tokens, certificates, "new credentials are in force"),
                Err(error) => tracing::error!(%error, "new credentials are invalid; the previous ones stay in force"),
            }
        }
        if let (Some((config, acceptor)), Some(watched)) = (&self.inner.tls, &mut files.tls)
            && let Some(changed) = changed(watched)
        {
            match changed.map_err(TlsError::from).and_then(|files| config.build(&files)) {
                Ok((built, clients)) => {
                    *acceptor.write().unwrap_or_else(PoisonError::into_inner) = TlsAcceptorShown(built.into());
                    if let Some(clients) = clients {
                        self.inner.gate.check_certificates(&clients);
                    }
                    tracing::info!("new certificates are in force");
                }
                Err(error) => tracing::error!(%error, "new certificates are invalid; the previous ones stay in force"),
            }
        }
    }

    /// Warns if a non-loopback address is served without TLS or without credentials.
    pub(super) fn warn(&self, address: SocketAddr) {
        if is_loopback(address.ip()) {
            return;
        }
        if self.inner.tls.is_none() {
            tracing::warn!(
                %address,
                "NOT ENCRYPTED: anyone on the network path can read and change the traffic, including tokens; \
                 set tls_certificate and tls_key, or listen on 127.0.0.1"
            );
        }
        if self.inner.gate.is_open() {
            tracing::warn!(
                %address,
                "OPEN TO EVERYBODY: anyone who can reach this address can train, read and delete every model; \
                 set credentials, or listen on 127.0.0.1"
            );
        }
    }

    /// Checks the files periodically until the server stops.
    pub(super) async fn watch(self, mut lifecycle: watch::Receiver<Readiness>) {
        if self.inner.tls.is_none() && self.inner.gate.is_open() {
            return;
        }
        let stopped = |now: &Readiness| *now >= Readiness::Stopping;
        while tokio::time::timeout(LOOK_INTERVAL, lifecycle.wait_for(stopped)).await.is_err() {
            let security = self.clone();
            blocking_or_panic(move || security.look(Watched::settled)).await;
        }
    }
}

fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}
