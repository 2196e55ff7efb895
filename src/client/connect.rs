//! Makes connections, with or without TLS, and explains why one cannot be made.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::client::{WebPkiServerVerifier, verify_server_name};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::ParsedCertificate;
use tokio_rustls::rustls::{
    AlertDescription, CertificateError, ClientConfig, ConfigBuilder, DigitallySignedStruct, RootCertStore,
    SignatureScheme, WantsVerifier, crypto,
};
use tokio_rustls::rustls::{Error as TlsError, InconsistentKeys};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::ClientError;
use crate::model::text::shown_list;

/// Timeout of name resolution, of a connection and of a TLS handshake.
const CONNECT_WAIT_MAX: Duration = Duration::from_secs(10);
/// Timeout of a probe that finds out which protocol the server speaks.
const PROBE_WAIT_MAX: Duration = Duration::from_secs(2);
/// Default port of a halfhitch server.
const PORT_DEFAULT: u16 = 50051;
/// The HTTP/2 connection preface (RFC 9113, 3.4), with an empty SETTINGS frame.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// Explanation for a server that speaks HTTP/1.
const SPEAKS_HTTP1: &str = "speaks HTTP/1, not HTTP/2: is it a gRPC server, or a proxy that forwards gRPC? \
                            (the port of --admin-listen is for metrics, not for calls)";

/// Why a connection could not be made.
#[derive(Clone, Debug)]
pub(super) enum Failure {
    /// No server listens or responds.
    NoServer(String),
    /// A server responds, but this client cannot use it; the text says why and what to do.
    Refused(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::NoServer(text) | Self::Refused(text)) = self;
        f.write_str(text)
    }
}

impl Error for Failure {}

/// The newest reason why a connection failed or ended. The transport above keeps only the text of an error.
#[derive(Clone, Debug, Default)]
pub(super) struct LastFailure(Arc<Mutex<Option<Failure>>>);

impl LastFailure {
    pub(super) fn get(&self) -> Option<Failure> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, failure: Option<Failure>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = failure;
    }
}

/// Files of TLS: the authority of the server, and the certificate and key of this client.
#[derive(Clone, Debug, Default)]
pub(super) struct Files {
    pub(super) ca: Option<PathBuf>,
    pub(super) certificate: Option<PathBuf>,
    pub(super) key: Option<PathBuf>,
}

/// Makes connections to one server.
#[derive(Clone)]
pub(super) struct Connector {
    host: String,
    port: u16,
    /// Whether the URL names the port.
    has_port: bool,
    url: String,
    tls: Option<Arc<ClientConfig>>,
    files: Files,
    last_failure: LastFailure,
}

/// `HOST:PORT` is short for `http://HOST:PORT`, or for `https://HOST:PORT` where files for TLS are given.
pub(super) fn with_scheme(server: &str, has_tls_files: bool) -> String {
    if server.contains("://") {
        return server.to_owned();
    }
    format!("{}://{server}", if has_tls_files { "https" } else { "http" })
}

impl Connector {
    /// A connector for the server of a URL.
    pub(super) fn new(url: &str, uri: &Uri, files: Files, last_failure: LastFailure) -> Result<Self, ClientError> {
        let is_encrypted = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            other => {
                let other = other.unwrap_or_default();
                return Err(ClientError::Invalid(format!(
                    "--server {url:?} begins with {other:?}, expected http:// or https://, for example http://host:{PORT_DEFAULT}"
                )));
            }
        };
        let host = uri.host().unwrap_or_default();
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host).to_owned();
        let port = uri.port_u16();
        let tls = if is_encrypted { Some(Arc::new(tls(&files)?)) } else { None };
        let (has_port, url) = (port.is_some(), url.to_owned());
        let port = port.unwrap_or(if is_encrypted { 443 } else { 80 });
        Ok(Self { host, port, has_port, url, tls, files, last_failure })
    }

    /// Makes a new connection.
    pub(super) async fn connect(self) -> Result<Connection, Failure> {
        let made = self.establish().await;
        match &made {
            Err(failure) => self.last_failure.set(Some(failure.clone())),
            // The transport reconnects by itself after a failure that `Connection::look` has seen. That failure still
            // counts.
            Ok(_) if matches!(self.last_failure.get(), Some(Failure::NoServer(_))) => self.last_failure.set(None),
            Ok(_) => {}
        }
        made
    }

    async fn establish(&self) -> Result<Connection, Failure> {
        let stream = self.tcp().await?;
        let Some(tls) = &self.tls else {
            return Ok(Connection { stream: Stream::Plain(stream), connector: self.clone(), has_read: false });
        };
        let name = ServerName::try_from(self.host.clone())
            .map_err(|_| Failure::Refused(format!("{:?} is not a host name that a certificate can have", self.host)))?;
        let handshake = TlsConnector::from(Arc::clone(tls)).connect(name, stream);
        let stream = match timeout(CONNECT_WAIT_MAX, handshake).await {
            Err(_) => return Err(self.refused("did not finish the TLS handshake within 10 s")),
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(self.no_handshake(&error).await),
        };
        if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
            return Err(self.refused("speaks TLS, but not HTTP/2: is it a gRPC server, or a proxy that forwards gRPC?"));
        }
        Ok(Connection { stream: Stream::Tls(Box::new(stream)), connector: self.clone(), has_read: false })
    }

    async fn tcp(&self) -> Result<TcpStream, Failure> {
        let (host, port) = (self.host.as_str(), self.port);
        let addresses = match timeout(CONNECT_WAIT_MAX, lookup_host((host, port))).await {
            Ok(Ok(addresses)) => addresses,
            Ok(Err(error)) => {
                return Err(Failure::Refused(format!(
                    "the host of {} is not found: {error}; check its spelling, or use its IP address",
                    self.url
                )));
            }
            Err(_) => return Err(Failure::NoServer("the name of the host was not resolved within 10 s".to_owned())),
        };
        let mut last = None;
        for address in addresses {
            match timeout(CONNECT_WAIT_MAX, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    // Responses are small and callers wait for them. Without TCP_NODELAY they arrive a little later.
                    let _ = stream.set_nodelay(true);
                    return Ok(stream);
                }
                Ok(Err(error)) => last = Some(error.to_string()),
                Err(_) => last = Some("no response within 10 s".to_owned()),
            }
        }
        let reason = last.unwrap_or_else(|| "the host has no address".to_owned());
        let hint = if self.has_port {
            String::new()
        } else {
            format!(" (the URL names no port, so {port} was tried; halfhitch listens on {PORT_DEFAULT} by default)")
        };
        Err(Failure::NoServer(format!("{reason}{hint}")))
    }

    /// A failure whose text is `what`, with the address of the server in front.
    fn refused(&self, what: &str) -> Failure {
        Failure::Refused(format!("the server at {}:{} {what}", self.host, self.port))
    }

    /// The same URL with the other scheme.
    fn other_url(&self) -> String {
        let (ours, other) = if self.tls.is_some() { ("https", "http") } else { ("http", "https") };
        self.url.replacen(ours, other, 1)
    }

    async fn no_handshake(&self, error: &io::Error) -> Failure {
        if let Some(error) = tls_error(error)
            && !matches!(error, TlsError::InvalidMessage(_))
        {
            return self.refused_by_tls(error);
        }
        if self.speaks_plain().await {
            return self.refused(&format!("speaks without TLS: use --server {}", self.other_url()));
        }
        self.refused(&format!("did not respond to the TLS handshake: {error}; is it a gRPC server with TLS?"))
    }

    /// Whether the server responds to the HTTP/2 preface on an unencrypted connection.
    async fn speaks_plain(&self) -> bool {
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
    async fn speaks_tls(&self) -> bool {
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
    async fn speaks_http1(&self) -> bool {
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

    /// Finds a TLS alert that rejects the client certificate: opens a connection, sends nothing and reads. TLS 1.3
    /// sends this alert after the handshake. Once the client has sent a request, the reset of the connection may
    /// discard the alert.
    async fn late_alert(&self) -> Option<Failure> {
        let ask = async {
            match self.establish().await {
                Ok(Connection { stream: Stream::Tls(mut stream), .. }) => match stream.read(&mut [0; 64]).await {
                    Err(error) => tls_error(&error).map(|error| self.refused_by_tls(error)),
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
        if self.speaks_tls().await {
            return Some(self.refused(&format!("speaks TLS: use --server {}", self.other_url())));
        }
        if !self.speaks_plain().await && self.speaks_http1().await {
            return Some(self.refused(SPEAKS_HTTP1));
        }
        None
    }

    /// A failure for a TLS error: the certificate of the server or of this client, or the protocol.
    fn refused_by_tls(&self, error: &TlsError) -> Failure {
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
fn tls_error(error: &io::Error) -> Option<&TlsError> {
    error.get_ref()?.downcast_ref()
}

fn builder() -> Result<ConfigBuilder<ClientConfig, WantsVerifier>, ClientError> {
    ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| ClientError::Failed(format!("TLS cannot be used: {error}")))
}

fn tls(files: &Files) -> Result<ClientConfig, ClientError> {
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
struct Verifier {
    by_authority: Option<Arc<WebPkiServerVerifier>>,
    ours: Vec<CertificateDer<'static>>,
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

/// A connection that records why it ended where the transport cannot know.
pub(super) struct Connection {
    stream: Stream,
    connector: Connector,
    has_read: bool,
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connection {
    /// Checks the first received bytes and TLS errors. A rejected client certificate causes a late TLS error.
    fn look(&mut self, read: &io::Result<()>, came: &[u8]) {
        let connector = &self.connector;
        let failure = match read {
            Err(error) => tls_error(error).map(|error| connector.refused_by_tls(error)),
            // A TLS alert of any minor version.
            Ok(()) if !self.has_read && connector.tls.is_none() && came.starts_with(&[0x15, 3]) => {
                Some(connector.refused(&format!("speaks TLS: use --server {}", connector.other_url())))
            }
            Ok(()) if !self.has_read && came.starts_with(b"HTTP/1") => Some(connector.refused(SPEAKS_HTTP1)),
            Ok(()) => None,
        };
        // The first bytes without an objection show that the server accepts this client: earlier failures are over.
        let is_first = !self.has_read && !came.is_empty();
        self.has_read |= is_first;
        if failure.is_some() || is_first {
            connector.last_failure.set(failure);
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let read = match &mut this.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        };
        if let Poll::Ready(read) = &read {
            this.look(read, &buffer.filled()[before..]);
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, parts),
            Stream::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, parts),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Plain(stream) => stream.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
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

    #[test]
    fn a_server_without_a_scheme_has_one() {
        assert_eq!(with_scheme("127.0.0.1:50051", false), "http://127.0.0.1:50051");
        assert_eq!(with_scheme("host:50051", true), "https://host:50051");
        assert_eq!(with_scheme("[::1]:50051", false), "http://[::1]:50051");
        assert_eq!(with_scheme("https://host", false), "https://host");
    }
}
