//! TLS: builds the acceptor from PEM files, verifies client certificates and extracts their names.

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

/// TLS files and options. The files are read again when they change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsConfig {
    /// The server's certificate and its intermediate certificates, in PEM.
    pub certificate: PathBuf,
    /// The server's private key, in PEM.
    pub key: PathBuf,
    /// Authorities that sign client certificates; `None`: no client certificates.
    pub client_ca: Option<PathBuf>,
    /// Revocation lists of those authorities.
    pub client_crl: Option<PathBuf>,
    /// Whether clients may connect without a certificate.
    pub client_optional: bool,
}

/// Why TLS cannot be set up from the files.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("TLS file {0}")]
    Unreadable(#[from] Unreadable),
    /// A file has the wrong content.
    #[error("{path:?} has {got}, expected {expected} in PEM")]
    Content {
        /// The file.
        path: PathBuf,
        /// What it contains, in words.
        got: String,
        /// What it must contain.
        expected: &'static str,
    },
    /// Certificate and key do not match, or their type is not supported.
    #[error("{certificate:?} and {key:?} cannot be used together: {reason}")]
    Pair {
        /// The certificate file.
        certificate: PathBuf,
        /// The key file.
        key: PathBuf,
        /// The error of the TLS library.
        reason: String,
    },
    /// The authorities or revocation lists cannot be used to verify client certificates.
    #[error("{path:?} cannot be used to verify client certificates: {reason}")]
    Clients {
        /// The file of authorities.
        path: PathBuf,
        /// The error of the TLS library.
        reason: String,
    },
}

/// The TLS configuration, and the check of client certificates if they are enabled.
type Built = (Arc<ServerConfig>, Option<Arc<dyn CertificateCheck>>);

impl TlsConfig {
    /// All files, in the order that [`Self::build`] expects their contents in.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        let clients = self.client_ca.iter().chain(&self.client_crl);
        [&self.certificate, &self.key].into_iter().chain(clients).cloned().collect()
    }

    /// Builds the TLS configuration from the contents of all files.
    pub(super) fn build(&self, files: &[Vec<u8>]) -> Result<Built, TlsError> {
        let mut files = files.iter().map(Vec::as_slice);
        let mut next = || files.next().unwrap_or_default();
        let chain: Vec<CertificateDer<'static>> = all(next(), &self.certificate, "certificates")?;
        // The key is a secret: do not quote it.
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

/// Checks client certificates by the same rules as the handshake.
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

/// Parses all PEM sections of one kind, at least one.
fn all<T: PemObject>(pem: &[u8], path: &std::path::Path, expected: &'static str) -> Result<Vec<T>, TlsError> {
    let content = |got: String| TlsError::Content { path: path.to_owned(), got, expected };
    let found: Vec<T> =
        T::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|error| content(format!("no PEM ({error})")))?;
    if found.is_empty() { Err(content("none".to_owned())) } else { Ok(found) }
}

/// Extracts the identity from a verified client certificate. `None` if it cannot be parsed; it then identifies no
/// caller.
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
