//! Configuration of TLS: the authorities that this client trusts, and its own certificate.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::client::{WebPkiServerVerifier, verify_server_name};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::ParsedCertificate;
use tokio_rustls::rustls::{
    CertificateError, ClientConfig, ConfigBuilder, DigitallySignedStruct, Error as TlsError, InconsistentKeys,
    RootCertStore, SignatureScheme, WantsVerifier, crypto,
};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::ClientError;

/// Files of TLS: the authority of the server, and the certificate and key of this client.
#[derive(Clone, Debug, Default)]
pub(super) struct Files {
    pub(super) ca: Option<PathBuf>,
    pub(super) certificate: Option<PathBuf>,
    pub(super) key: Option<PathBuf>,
}

pub(super) fn builder() -> Result<ConfigBuilder<ClientConfig, WantsVerifier>, ClientError> {
    ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| ClientError::Failed(format!("TLS cannot be used: {error}")))
}

pub(super) fn tls(files: &Files) -> Result<ClientConfig, ClientError> {
    let mut roots = RootCertStore::empty();
    let ours = match &files.ca {
        Some(path) => {
            let all = certificates("--ca", path)?;
            // A certificate that is not an authority may be the server's own.
            all.iter().for_each(|certificate| _ = roots.add(certificate.clone()));
            all
        }
        None => {
            let found = rustls_native_certs::load_native_certs();
            let (added, _) = roots.add_parsable_certificates(found.certs);
            if added == 0 {
                return Err(ClientError::Failed(
                    "this system has no certificate authorities: name that of the server with --ca FILE".to_owned(),
                ));
            }
            Vec::new()
        }
    };
    let by_authority = if roots.is_empty() {
        None
    } else {
        let provider = Arc::new(crypto::ring::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
        Some(verifier.map_err(|error| ClientError::Failed(format!("--ca cannot be used: {error}")))?)
    };
    let verifier = Verifier { by_authority, ours };
    let builder = builder()?.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match (&files.certificate, &files.key) {
        (Some(certificate), Some(key)) => {
            let chain = certificates("--client-certificate", certificate)?;
            builder.with_client_auth_cert(chain, private_key(key)?).map_err(|error| {
                ClientError::Failed(match error {
                    TlsError::InconsistentKeys(InconsistentKeys::KeyMismatch) => format!(
                        "--client-key {} is not the key of --client-certificate {}",
                        key.display(),
                        certificate.display()
                    ),
                    other => format!("--client-key {} cannot be used: {other}", key.display()),
                })
            })?
        }
        (None, None) => builder.with_no_client_auth(),
        _ => {
            return Err(ClientError::Invalid(
                "--client-certificate and --client-key must be given together: one of them is missing".to_owned(),
            ));
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

fn bytes_of(flag: &str, path: &Path) -> Result<Vec<u8>, ClientError> {
    std::fs::read(path).map_err(|error| ClientError::Failed(format!("{flag} {}: {error}", path.display())))
}

/// What a file without a PEM block should be, or how to convert it from DER.
fn instead(bytes: &[u8], what: &str, path: &Path) -> String {
    let path = path.display();
    // DER starts with the tag of a sequence.
    if bytes.first() == Some(&0x30) {
        return format!("it is DER: convert it with `openssl {what} -inform der -in {path} -out {path}.pem`");
    }
    "a file that has -----BEGIN".to_owned()
}

fn certificates(flag: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, ClientError> {
    let bytes = bytes_of(flag, path)?;
    let failed = |text: String| ClientError::Failed(format!("{flag} {}: {text}", path.display()));
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let all = all.map_err(|error| failed(format!("it is damaged: {error}")))?;
    if all.is_empty() {
        let instead = instead(&bytes, "x509", path);
        return Err(failed(format!("it has no certificate, expected one in PEM: {instead} CERTIFICATE-----")));
    }
    Ok(all)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, ClientError> {
    let bytes = bytes_of("--client-key", path)?;
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|_| {
        let shown = path.display();
        // The value is a secret: do not quote it.
        let text = if bytes.windows(9).any(|part| part == b"ENCRYPTED") {
            format!("it is encrypted: decrypt it with `openssl pkey -in {shown} -out {shown}.plain`")
        } else {
            let instead = instead(&bytes, "pkey", path);
            format!("it has no private key, expected one in PEM: {instead} PRIVATE KEY-----")
        };
        ClientError::Failed(format!("--client-key {shown}: {text}"))
    })
}

/// Trusts certificates that an authority has issued, and the named certificates themselves. A self-signed server
/// certificate is therefore trusted if --ca names it, even if it may not act as an authority.
#[derive(Debug)]
pub(super) struct Verifier {
    pub(super) by_authority: Option<Arc<WebPkiServerVerifier>>,
    pub(super) ours: Vec<CertificateDer<'static>>,
}

impl Verifier {
    /// Checks the host name and the dates of a named certificate, as openssl does.
    fn check_ours(
        certificate: &CertificateDer<'_>,
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        let (_, parsed) = X509Certificate::from_der(certificate)
            .map_err(|_| TlsError::InvalidCertificate(CertificateError::BadEncoding))?;
        let at = |time: x509_parser::time::ASN1Time| {
            UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(time.timestamp()).unwrap_or(0)))
        };
        let (not_before, not_after) = (at(parsed.validity().not_before), at(parsed.validity().not_after));
        if now < not_before {
            return Err(TlsError::InvalidCertificate(CertificateError::NotValidYetContext { time: now, not_before }));
        }
        if now > not_after {
            return Err(TlsError::InvalidCertificate(CertificateError::ExpiredContext { time: now, not_after }));
        }
        verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
        Ok(ServerCertVerified::assertion())
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        if self.ours.iter().any(|ours| ours.as_ref() == end_entity.as_ref()) {
            return Self::check_ours(end_entity, server_name, now);
        }
        match &self.by_authority {
            Some(verifier) => verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now),
            None => Err(TlsError::InvalidCertificate(CertificateError::UnknownIssuer)),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let algorithms = crypto::ring::default_provider().signature_verification_algorithms;
        crypto::verify_tls12_signature(message, certificate, signature, &algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let algorithms = crypto::ring::default_provider().signature_verification_algorithms;
        crypto::verify_tls13_signature(message, certificate, signature, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
