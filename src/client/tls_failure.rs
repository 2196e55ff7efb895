//! Explanations of TLS errors.

use std::io;
use std::path::PathBuf;

use tokio_rustls::rustls::{AlertDescription, CertificateError, Error as TlsError};

use super::failure::Failure;
use super::target::Target;
use crate::model::text::shown_list;

impl Target {
    /// A failure for a TLS error: the certificate of the server or of this client, or the protocol.
    pub(super) fn refused_by_tls(&self, error: &TlsError) -> Failure {
        let host = &self.host;
        let shown = |path: &Option<PathBuf>| path.as_deref().map_or(String::new(), |path| path.display().to_string());
        let theirs =
            |text: String| Failure::Refused(format!("the certificate of the server at {host}:{} {text}", self.port));
        match error {
            TlsError::InvalidCertificate(wrong) => theirs(self.wrong_certificate(wrong)),
            TlsError::AlertReceived(AlertDescription::CertificateRequired) => {
                self.refused("requires a client certificate: add --client-certificate FILE --client-key FILE")
            }
            TlsError::AlertReceived(
                alert @ (AlertDescription::UnknownCA
                | AlertDescription::BadCertificate
                | AlertDescription::CertificateUnknown
                | AlertDescription::CertificateExpired
                | AlertDescription::CertificateRevoked
                | AlertDescription::UnsupportedCertificate
                | AlertDescription::AccessDenied
                | AlertDescription::DecryptError),
            ) => match &self.files.certificate {
                Some(_) => self.refused(&format!(
                    "rejects the client certificate {} ({alert:?}): expected a valid one from its tls_client_ca",
                    shown(&self.files.certificate)
                )),
                None => self.refused(&format!(
                    "ended the TLS handshake ({alert:?}): it may require --client-certificate and --client-key"
                )),
            },
            TlsError::AlertReceived(AlertDescription::ProtocolVersion | AlertDescription::HandshakeFailure)
            | TlsError::PeerIncompatible(_) => self
                .refused(&format!("and this client share no TLS version or cipher ({error}): expected TLS 1.2 or 1.3")),
            TlsError::AlertReceived(AlertDescription::NoApplicationProtocol) | TlsError::NoApplicationProtocol => {
                self.refused("speaks TLS, but not HTTP/2: is it a gRPC server, or a proxy that forwards gRPC?")
            }
            other => self.refused(&format!("ended the TLS handshake: {other}")),
        }
    }

    /// What is wrong with the certificate, as the end of the sentence "the certificate of the server at HOST:PORT ...".
    fn wrong_certificate(&self, wrong: &CertificateError) -> String {
        let days = |seconds: u64| match seconds / 86_400 {
            0 => "less than a day".to_owned(),
            1 => "1 day".to_owned(),
            days => format!("{days} days"),
        };
        let names = |presented: &[String]| {
            if presented.is_empty() {
                format!(
                    "names no host (it has no subject alternative names): create one with openssl and -addext \
                     subjectAltName={}",
                    if self.host.parse::<std::net::IpAddr>().is_ok() {
                        format!("IP:{}", self.host)
                    } else {
                        format!("DNS:{}", self.host)
                    }
                )
            } else {
                format!(
                    "is for {}, not for {:?}: use one of those names in --server, or create a certificate for this one",
                    shown_list(presented.iter().map(|name| plain_name(name))),
                    self.host
                )
            }
        };
        let unknown_authority = || match &self.files.ca {
            Some(ca) => format!(
                "is not from an authority in --ca {}: name the file of its authority; if it is self-signed, name \
                 that certificate",
                ca.display()
            ),
            None => "is not from an authority that this system trusts: name its authority with --ca FILE; if it \
                     is self-signed, name the certificate itself"
                .to_owned(),
        };
        match wrong {
            // `BadSignature`: an authority of that name is known, but has another key.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => unknown_authority(),
            CertificateError::NotValidForNameContext { presented, .. } => names(presented),
            CertificateError::NotValidForName => names(&[]),
            CertificateError::ExpiredContext { time, not_after } => format!(
                "expired {} ago: renew it, or check this machine's clock",
                days(time.as_secs().saturating_sub(not_after.as_secs()))
            ),
            CertificateError::Expired => "has expired: renew it, or check this machine's clock".to_owned(),
            CertificateError::NotValidYetContext { time, not_before } => format!(
                "is valid only in {}: check this machine's clock",
                days(not_before.as_secs().saturating_sub(time.as_secs()))
            ),
            CertificateError::NotValidYet => "is not valid yet: check this machine's clock".to_owned(),
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
                "is not for servers: expected the extended key usage serverAuth, or none".to_owned()
            }
            other => {
                let text = format!("{other:?}");
                if text.contains("CaUsedAsEndEntity") {
                    format!("is the certificate of an authority, and {}", unknown_authority().trim_start_matches("is "))
                } else if text.contains("UnsupportedCertVersion") {
                    "has X.509 version 1, which names no hosts: create one of version 3 (openssl req -x509 does)"
                        .to_owned()
                } else {
                    format!("is refused: {other}")
                }
            }
        }
    }
}

/// The plain name inside rustls' text `DnsName("localhost")`.
fn plain_name(name: &str) -> &str {
    let inside = name.split_once('(').map_or(name, |(_, inside)| inside);
    inside.trim_end_matches(')').trim_matches('"')
}

/// The TLS error inside an I/O error, if there is one.
pub(super) fn tls_error(error: &io::Error) -> Option<&TlsError> {
    error.get_ref()?.downcast_ref()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificate_names_are_shown_without_debug_syntax() {
        assert_eq!(plain_name("DnsName(\"localhost\")"), "localhost");
        assert_eq!(plain_name("IpAddress(127.0.0.1)"), "127.0.0.1");
        assert_eq!(plain_name("localhost"), "localhost");
    }
}
