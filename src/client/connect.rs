//! Makes connections, with or without TLS, and explains why one cannot be made.

use std::io;
use std::sync::Arc;

use http::Uri;
use tokio::io::AsyncReadExt;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, Error as TlsError};

use super::ClientError;
use super::failure::{Failure, LastFailure};
use super::probe::{PROBE_WAIT_MAX, SPEAKS_HTTP1};
use super::target::{CONNECT_WAIT_MAX, Target};
use super::tls::{Files, tls};
use super::tls_failure::tls_error;
use super::watched_stream::{Stream, WatchedStream};

/// Makes connections to one server.
#[derive(Clone)]
pub(super) struct Connector {
    target: Target,
    tls: Option<Arc<ClientConfig>>,
    last_failure: LastFailure,
}

impl Connector {
    /// A connector for the server of a URL.
    pub(super) fn new(url: &str, uri: &Uri, files: Files, last_failure: LastFailure) -> Result<Self, ClientError> {
        let target = Target::new(url, uri, files)?;
        let tls = if target.is_encrypted { Some(Arc::new(tls(&target.files)?)) } else { None };
        Ok(Self { target, tls, last_failure })
    }

    /// Makes a new connection.
    pub(super) async fn connect(self) -> Result<WatchedStream, Failure> {
        let made = self.establish().await;
        match &made {
            Err(failure) => self.last_failure.set(Some(failure.clone())),
            // The transport reconnects by itself after a failure that `WatchedStream::look` has seen. That failure
            // still counts.
            Ok(_) if matches!(self.last_failure.get(), Some(Failure::NoServer(_))) => self.last_failure.set(None),
            Ok(_) => {}
        }
        made
    }

    async fn establish(&self) -> Result<WatchedStream, Failure> {
        let stream = self.target.tcp().await?;
        let Some(tls) = &self.tls else {
            return Ok(self.watched(Stream::Plain(stream)));
        };
        let name = ServerName::try_from(self.target.host.clone()).map_err(|_| {
            Failure::Refused(format!("{:?} is not a host name that a certificate can have", self.target.host))
        })?;
        let handshake = TlsConnector::from(Arc::clone(tls)).connect(name, stream);
        let stream = match timeout(CONNECT_WAIT_MAX, handshake).await {
            Err(_) => return Err(self.target.refused("did not finish the TLS handshake within 10 s")),
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(self.no_handshake(&error).await),
        };
        if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
            return Err(self
                .target
                .refused("speaks TLS, but not HTTP/2: is it a gRPC server, or a proxy that forwards gRPC?"));
        }
        Ok(self.watched(Stream::Tls(Box::new(stream))))
    }

    async fn no_handshake(&self, error: &io::Error) -> Failure {
        if let Some(error) = tls_error(error)
            && !matches!(error, TlsError::InvalidMessage(_))
        {
            return self.target.refused_by_tls(error);
        }
        if self.target.speaks_plain().await {
            return self.target.refused(&format!("speaks without TLS: use --server {}", self.target.other_url()));
        }
        self.target.refused(&format!("did not respond to the TLS handshake: {error}; is it a gRPC server with TLS?"))
    }

    /// Finds a TLS alert that rejects the client certificate: opens a connection, sends nothing and reads. TLS 1.3
    /// sends this alert after the handshake. Once the client has sent a request, the reset of the connection may
    /// discard the alert.
    async fn late_alert(&self) -> Option<Failure> {
        let ask = async {
            match self.establish().await {
                Ok(WatchedStream { stream: Stream::Tls(mut stream), .. }) => match stream.read(&mut [0; 64]).await {
                    Err(error) => tls_error(&error).map(|error| self.target.refused_by_tls(error)),
                    Ok(_) => None,
                },
                Ok(_) => None,
                Err(failure) => Some(failure),
            }
        };
        timeout(PROBE_WAIT_MAX, ask).await.ok().flatten()
    }

    /// Explains why a call on a new connection failed. Probes the server on separate connections, because a reset may
    /// have discarded what it sent.
    pub(super) async fn explain(&self) -> Option<Failure> {
        if self.tls.is_some() {
            return self.late_alert().await;
        }
        if self.target.speaks_tls().await {
            return Some(self.target.refused(&format!("speaks TLS: use --server {}", self.target.other_url())));
        }
        if !self.target.speaks_plain().await && self.target.speaks_http1().await {
            return Some(self.target.refused(SPEAKS_HTTP1));
        }
        None
    }

    fn watched(&self, stream: Stream) -> WatchedStream {
        WatchedStream::new(stream, self.target.clone(), self.last_failure.clone())
    }
}
