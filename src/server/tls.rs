//! TLS: from files in PEM to what accepts a handshake, and what a client's certificate says.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, UnixTime};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::server::danger::ClientCertVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig, crypto};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::security::credentials::{Fingerprint, Presented};
use crate::security::files::Unreadable;
use crate::security::gate::CertificateCheck;

/// Which files. All are read again when they change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsConfig {
    /// The server's certificate and those between it and its authority, in PEM.
    pub certificate: PathBuf,
    /// Its private key, in PEM.
    pub key: PathBuf,
    /// Authorities whose certificates clients show; `None`: clients show none.
    pub client_ca: Option<PathBuf>,
    /// What those authorities have revoked.
    pub client_crl: Option<PathBuf>,
    /// Clients may come without one.
    pub client_optional: bool,
}

/// Why files make no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// One cannot be read.
    #[error("TLS file {0}")]
    Unreadable(#[from] Unreadable),
    /// One holds something else.
    #[error("{path:?} has {got}, expected {expected} in PEM")]
    Content {
        /// Which.
        path: PathBuf,
        /// What came.
        got: String,
        /// What is needed.
        expected: &'static str,
    },
    /// Certificate and key do not belong together, or are of a kind that is not known.
    #[error("{certificate:?} and {key:?} cannot be used together: {reason}")]
    Pair {
        /// The one.
        certificate: PathBuf,
        /// The other.
        key: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Clients' certificates cannot be checked with these.
    #[error("{path:?} cannot be used to check clients: {reason}")]
    Clients {
        /// The authorities.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// What accepts handshakes, and what checks the certificates of clients if there are to be any.
type Built = (Arc<ServerConfig>, Option<Arc<dyn CertificateCheck>>);

impl TlsConfig {
    /// All files, in the order in which [`Self::build`] takes their contents.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        let clients = self.client_ca.iter().chain(&self.client_crl);
        [&self.certificate, &self.key].into_iter().chain(clients).cloned().collect()
    }

    /// Of the contents of all files.
    pub(super) fn build(&self, files: &[Vec<u8>]) -> Result<Built, TlsError> {
        let mut files = files.iter().map(Vec::as_slice);
        let mut next = || files.next().unwrap_or_default();
        let chain: Vec<CertificateDer<'static>> = all(next(), &self.certificate, "certificates")?;
        // The value is a secret: do not quote it.
        let key = PrivateKeyDer::from_pem_slice(next()).map_err(|_| TlsError::Content {
            path: self.key.clone(),
            got: "no private key".to_owned(),
            expected: "an unencrypted private key (PKCS#8, PKCS#1 or SEC1)",
        })?;
        let provider = Arc::new(crypto::ring::default_provider());
        let pair =
            |reason: String| TlsError::Pair { certificate: self.certificate.clone(), key: self.key.clone(), reason };
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| pair(error.to_string()))?;
        let (builder, clients) = match &self.client_ca {
            None => (builder.with_no_client_auth(), None),
            Some(path) => {
                let clients = |reason: String| TlsError::Clients { path: path.clone(), reason };
                let mut roots = RootCertStore::empty();
                for authority in all(next(), path, "certificates")? {
                    roots.add(authority).map_err(|error| clients(error.to_string()))?;
                }
                let mut verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                if let Some(path) = &self.client_crl {
                    let lists: Vec<CertificateRevocationListDer<'static>> = all(next(), path, "revocation lists")?;
                    verifier = verifier.with_crls(lists);
                }
                if self.client_optional {
                    verifier = verifier.allow_unauthenticated();
                }
                let verifier = verifier.build().map_err(|error| clients(error.to_string()))?;
                (builder.with_client_cert_verifier(Arc::clone(&verifier)), Some(Arc::new(Clients(verifier)) as _))
            }
        };
        let mut config = builder.with_single_cert(chain, key).map_err(|error| pair(error.to_string()))?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok((Arc::new(config), clients))
    }
}

/// Checks the certificates of clients, as their handshakes do.
#[derive(Debug)]
pub(super) struct Clients(Arc<dyn ClientCertVerifier>);

impl CertificateCheck for Clients {
    fn is_good(&self, chain: &[Vec<u8>]) -> bool {
        let chain: Vec<CertificateDer<'_>> = chain.iter().map(|certificate| certificate.as_slice().into()).collect();
        let verified = |(own, others): (&CertificateDer<'_>, &[CertificateDer<'_>])| {
            self.0.verify_client_cert(own, others, UnixTime::now()).is_ok()
        };
        chain.split_first().is_some_and(verified)
    }
}

/// All sections of one kind, at least one.
fn all<T: PemObject>(pem: &[u8], path: &std::path::Path, expected: &'static str) -> Result<Vec<T>, TlsError> {
    let content = |got: String| TlsError::Content { path: path.to_owned(), got, expected };
    let found: Vec<T> =
        T::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|error| content(format!("no PEM ({error})")))?;
    if found.is_empty() { Err(content("none".to_owned())) } else { Ok(found) }
}

/// What a certificate says that its authority has signed; `None` if it is not understood, and then it is nobody's.
pub(super) fn presented(chain: &[CertificateDer<'_>]) -> Option<Presented> {
    let certificate = chain.first()?;
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let names = parsed.subject_alternative_name().ok()?.map(|extension| &extension.value.general_names);
    let dns = names.into_iter().flatten().filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        _ => None,
    });
    let mut common_names = parsed.subject().iter_common_name();
    let ends = u64::try_from(parsed.validity().not_after.timestamp()).ok()?;
    Some(Presented {
        fingerprint: Fingerprint::of(certificate),
        dns: dns.collect(),
        common_name: common_names.next().and_then(|name| name.as_str().ok()).map(str::to_owned),
        ends: SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(ends))?,
        chain: chain.iter().map(|certificate| certificate.to_vec()).collect(),
    })
}
