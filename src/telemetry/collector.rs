//! HTTP/1.1 client for a trace collector. It opens one connection per export: exports are rare.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{HOST, HeaderValue};
use http::{Request, Response, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use opentelemetry_http::{HttpClient, HttpError};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};

/// Largest response of the collector, in bytes. A response only reports how many spans were rejected.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// The HTTP client of the OTLP exporter.
#[derive(Clone, Debug)]
pub(super) struct HttpExporterClient {
    /// Set if the collector's URL begins with `https:`.
    tls: Option<Arc<ClientConfig>>,
}

impl HttpExporterClient {
    /// A client for the collector at `endpoint`; uses TLS if the URL begins with `https:`.
    ///
    /// # Errors
    /// If the system's trust store has no CA certificate to verify the collector with.
    pub(super) fn new(endpoint: &str) -> Result<Self, String> {
        if !endpoint.starts_with("https:") {
            return Ok(Self { tls: None });
        }
        let mut roots = RootCertStore::empty();
        let (added, _) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if added == 0 {
            return Err("the system trust store has no CA certificates".to_owned());
        }
        let config = ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?;
        Ok(Self { tls: Some(Arc::new(config.with_root_certificates(roots).with_no_client_auth())) })
    }

    async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let uri = request.uri().clone();
        let host = uri.host().ok_or("the collector URL has no host")?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = uri.port_u16().unwrap_or(if self.tls.is_some() { 443 } else { 80 });
        let stream = TcpStream::connect((host.as_str(), port)).await?;
        match &self.tls {
            None => exchange(stream, &uri, request).await,
            Some(tls) => {
                let name = ServerName::try_from(host)?;
                let stream = TlsConnector::from(Arc::clone(tls)).connect(name, stream).await?;
                exchange(stream, &uri, request).await
            }
        }
    }
}

/// Sends one request and reads its response.
async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    uri: &Uri,
    request: Request<Bytes>,
) -> Result<Response<Bytes>, HttpError> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let (mut parts, body) = request.into_parts();
    parts.uri = uri.path_and_query().map_or_else(|| Uri::from_static("/"), |path| Uri::from(path.clone()));
    if let Some(place) = uri.authority() {
        parts.headers.insert(HOST, HeaderValue::from_str(place.as_str())?);
    }
    let answer = async {
        let answer = sender.send_request(Request::from_parts(parts, Full::new(body))).await?;
        let (parts, body) = answer.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await?.to_bytes();
        Ok::<_, HttpError>(Response::from_parts(parts, body))
    };
    tokio::pin!(answer, connection);
    tokio::select! {
        answer = &mut answer => answer,
        ended = &mut connection => {
            ended?;
            // The connection has ended: a response that arrived completely is ready now.
            tokio::time::timeout(std::time::Duration::ZERO, answer)
                .await
                .unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()))
        }
    }
}

#[async_trait::async_trait]
impl HttpClient for HttpExporterClient {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        self.send(request).await
    }
}
