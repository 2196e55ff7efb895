//! Probes that find out which protocol a server speaks.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::Error as TlsError;
use tokio_rustls::rustls::pki_types::ServerName;

use super::target::Target;
use super::tls::{Verifier, builder};
use super::tls_failure::tls_error;

/// Timeout of a probe that finds out which protocol the server speaks.
pub(super) const PROBE_WAIT_MAX: Duration = Duration::from_secs(2);
/// The HTTP/2 connection preface (RFC 9113, 3.4), with an empty SETTINGS frame.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// Explanation for a server that speaks HTTP/1.
pub(super) const SPEAKS_HTTP1: &str = "speaks HTTP/1, not HTTP/2: is it a gRPC server, or a proxy that forwards gRPC? \
     (the port of --admin-listen is for metrics, not for calls)";

impl Target {
    /// Whether the server responds to the HTTP/2 preface on an unencrypted connection.
    pub(super) async fn speaks_plain(&self) -> bool {
        let ask = async {
            let mut stream = self.tcp().await.ok()?;
            stream.write_all(PREFACE).await.ok()?;
            let mut head = [0; 9];
            stream.read_exact(&mut head).await.ok()?;
            // Byte 3 is the type of the frame; the first frame must be SETTINGS, 4.
            Some(head[3] == 4)
        };
        timeout(PROBE_WAIT_MAX, ask).await.ok().flatten().unwrap_or(false)
    }

    /// Whether the server responds to a TLS handshake. Its certificate does not matter.
    pub(super) async fn speaks_tls(&self) -> bool {
        let ask = async {
            let stream = self.tcp().await.ok()?;
            let name = ServerName::try_from(self.host.clone()).ok()?;
            // The verifier trusts no certificate. A rejected certificate also proves that the server speaks TLS.
            let verifier = Verifier { by_authority: None, ours: Vec::new() };
            let config = builder().ok()?.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
            let connector = TlsConnector::from(Arc::new(config.with_no_client_auth()));
            match connector.connect(name, stream).await {
                Ok(_) => Some(true),
                Err(error) => tls_error(&error).map(|error| !matches!(error, TlsError::InvalidMessage(_))),
            }
        };
        timeout(PROBE_WAIT_MAX, ask).await.ok().flatten().unwrap_or(false)
    }

    /// Whether the server responds to an HTTP/1 request with HTTP/1.
    pub(super) async fn speaks_http1(&self) -> bool {
        let ask = async {
            let mut stream = self.tcp().await.ok()?;
            let request = format!("GET / HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", self.host);
            stream.write_all(request.as_bytes()).await.ok()?;
            let mut head = [0; 6];
            stream.read_exact(&mut head).await.ok()?;
            Some(&head == b"HTTP/1")
        };
        timeout(PROBE_WAIT_MAX, ask).await.ok().flatten().unwrap_or(false)
    }
}
