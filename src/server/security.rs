//! Credentials and certificates of a running server: opened at the start, read again when they change.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use super::blocking;
use super::tls::{TlsConfig, TlsError};
use crate::security::files::{Unreadable, Watched};
use crate::security::gate::Gate;
use crate::security::{CallerLimits, CredentialsError};
use crate::service::Readiness;

/// How often the files are looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Who may come in, and how much of the server one may have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SecurityConfig {
    /// The file of tokens and certificates; `None`: everybody may do everything.
    pub credentials: Option<PathBuf>,
    /// Encryption; `None`: none.
    pub tls: Option<TlsConfig>,
    /// What a caller may have, whose credential says nothing else.
    pub caller: CallerLimits,
}

/// Why security could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum SecurityError {
    /// The credentials.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// The certificates.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// Both, in force. Cheap to clone.
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

/// The files of each, to be looked at.
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
    /// Reads all files. What is wrong with them at the start is an error; later it is told, and what was stays.
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

    /// Who comes in.
    pub fn gate(&self) -> &Arc<Gate> {
        &self.inner.gate
    }

    /// Takes handshakes with the certificate of now; `None` where nothing is encrypted.
    pub(super) fn acceptor(&self) -> Option<TlsAcceptor> {
        let (_, acceptor) = self.inner.tls.as_ref()?;
        Some(acceptor.read().unwrap_or_else(PoisonError::into_inner).0.clone())
    }

    /// Looks at all files, and puts in force what has changed and is as it has to be. Blocks on the disk.
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
                Err(error) => tracing::error!(%error, "the new credentials are refused; those before stay in force"),
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
                Err(error) => tracing::error!(%error, "the new certificates are refused; those before stay in force"),
            }
        }
    }

    /// Says loudly what is open to everybody at an address that others can reach.
    pub(super) fn warn(&self, address: SocketAddr) {
        if is_loopback(address.ip()) {
            return;
        }
        if self.inner.tls.is_none() {
            tracing::warn!(
                %address,
                "NOT ENCRYPTED: everybody on the way can read and change what is sent, tokens too; \
                 set tls_certificate and tls_key, or listen on 127.0.0.1"
            );
        }
        if self.inner.gate.is_open() {
            tracing::warn!(
                %address,
                "OPEN TO EVERYBODY: whoever reaches this address may train, read and delete every model; \
                 set credentials, or listen on 127.0.0.1"
            );
        }
    }

    /// Looks at the files now and then until the server stops.
    pub(super) async fn watch(self, mut lifecycle: watch::Receiver<Readiness>) {
        if self.inner.tls.is_none() && self.inner.gate.is_open() {
            return;
        }
        let stopped = |now: &Readiness| *now >= Readiness::Stopping;
        while tokio::time::timeout(LOOK_INTERVAL, lifecycle.wait_for(stopped)).await.is_err() {
            let security = self.clone();
            blocking(move || security.look(Watched::settled)).await;
        }
    }
}

fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}
