//! The server that a client connects to.

use std::time::Duration;

use http::Uri;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use super::ClientError;
use super::failure::Failure;
use super::tls::Files;

/// Timeout of name resolution, of a connection and of a TLS handshake.
pub(super) const CONNECT_WAIT_MAX: Duration = Duration::from_secs(10);
/// Default port of a halfhitch server.
const PORT_DEFAULT: u16 = 50051;

/// The server of a URL, and the files for TLS with it.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) host: String,
    pub(super) port: u16,
    /// Whether the URL names the port.
    has_port: bool,
    url: String,
    pub(super) is_encrypted: bool,
    pub(super) files: Files,
}

/// `HOST:PORT` is short for `http://HOST:PORT`, or for `https://HOST:PORT` where files for TLS are given.
pub(super) fn with_scheme(server: &str, has_tls_files: bool) -> String {
    if server.contains("://") {
        return server.to_owned();
    }
    format!("{}://{server}", if has_tls_files { "https" } else { "http" })
}

impl Target {
    /// The server of a URL whose scheme is http or https.
    pub(super) fn new(url: &str, uri: &Uri, files: Files) -> Result<Self, ClientError> {
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
        let (has_port, url) = (port.is_some(), url.to_owned());
        let port = port.unwrap_or(if is_encrypted { 443 } else { 80 });
        Ok(Self { host, port, has_port, url, is_encrypted, files })
    }

    /// Opens a TCP connection to the first address that accepts one.
    pub(super) async fn tcp(&self) -> Result<TcpStream, Failure> {
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
    pub(super) fn refused(&self, what: &str) -> Failure {
        Failure::Refused(format!("the server at {}:{} {what}", self.host, self.port))
    }

    /// The same URL with the other scheme.
    pub(super) fn other_url(&self) -> String {
        let (ours, other) = if self.is_encrypted { ("https", "http") } else { ("http", "https") };
        self.url.replacen(ours, other, 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_without_a_scheme_has_one() {
        assert_eq!(with_scheme("127.0.0.1:50051", false), "http://127.0.0.1:50051");
        assert_eq!(with_scheme("host:50051", true), "https://host:50051");
        assert_eq!(with_scheme("[::1]:50051", false), "http://[::1]:50051");
        assert_eq!(with_scheme("https://host", false), "https://host");
    }
}
