//! Channels to one server, with TLS and credentials.

use std::net::IpAddr;
use std::path::Path;

use http::Uri;
use hyper_util::rt::TokioIo;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use tower::service_fn;

use super::connect::Connector;
use super::failure::{Failure, LastFailure};
use super::target::with_scheme;
use super::tls::Files;
use super::{ClientError, ClientSettings, Token};
use crate::pb::autoencoder_service_client::AutoencoderServiceClient;
use crate::pb::job_service_client::JobServiceClient;
use crate::pb::model_service_client::ModelServiceClient;

/// Makes channels to one server, and explains why one cannot be made or has ended.
#[derive(Clone, Debug)]
pub(crate) struct Channels {
    url: String,
    settings: ClientSettings,
    last_failure: LastFailure,
}

/// A connection that adds the token, if there is one, to every call.
pub type Connection = InterceptedService<Channel, Bearer>;

/// Adds a token to the headers of a call.
#[derive(Clone, Debug)]
pub struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

/// Reads a file of credentials.
fn read(flag: &str, path: &Path) -> Result<String, ClientError> {
    std::fs::read_to_string(path).map_err(|error| {
        ClientError::Failed(format!("{flag} {}: {error}, expected a readable text file", path.display()))
    })
}

/// Whether a host is this machine.
fn is_this_machine(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Maximum size of a response in bytes.
const ANSWER_BYTES_MAX: usize = 256 << 20;

impl Channels {
    pub(crate) fn new(settings: ClientSettings) -> Self {
        let has_tls_files = settings.ca.is_some() || settings.certificate.is_some();
        Self { url: with_scheme(&settings.url, has_tls_files), settings, last_failure: LastFailure::default() }
    }

    /// The address of the server.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// The token, if there is one and it may be sent.
    fn bearer(&self, uri: &Uri) -> Result<Bearer, ClientError> {
        let ClientSettings { token, token_file, insecure_token, .. } = &self.settings;
        let token = match (token, token_file) {
            (Some(token), _) => token.clone(),
            (None, Some(path)) => Token::new(&read("--token-file", path)?),
            (None, None) => return Ok(Bearer(None)),
        };
        let stays_here = uri.host().is_some_and(is_this_machine);
        if uri.scheme_str() != Some("https") && !stays_here && !insecure_token {
            return Err(ClientError::Invalid(format!(
                "the token is not sent unencrypted to {}: use https, or --insecure-token if the network is trusted",
                self.url
            )));
        }
        let mut value = MetadataValue::try_from(format!("Bearer {}", token.reveal())).map_err(|_| {
            ClientError::Invalid("the token has characters that are not allowed in a header".to_owned())
        })?;
        value.set_sensitive(true);
        Ok(Bearer(Some(value)))
    }

    pub(crate) async fn channel(&self) -> Result<Connection, ClientError> {
        let uri = self.uri()?;
        let connector = self.connector(&uri)?;
        let bearer = self.bearer(&uri)?;
        // The connector encrypts, so the transport above it uses plain http.
        let plain = Uri::builder().scheme("http").authority(uri.authority().map_or("", |place| place.as_str()));
        let plain = plain.path_and_query("/").build().map_err(|error| self.no_url(&error))?;
        let endpoint = Endpoint::from(plain)
            .origin(uri)
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(4 << 20);
        let connect = service_fn(move |_: Uri| {
            let connector = connector.clone();
            async move { connector.connect().await.map(TokioIo::new) }
        });
        let channel = endpoint.connect_with_connector(connect).await.map_err(|error| {
            self.failure().unwrap_or_else(|| ClientError::NoServer { url: self.url.clone(), reason: innermost(&error) })
        })?;
        Ok(InterceptedService::new(channel, bearer))
    }

    fn no_url(&self, error: &dyn std::fmt::Display) -> ClientError {
        ClientError::Invalid(format!(
            "--server {:?} is not a URL ({error}), expected one like http://host:50051",
            self.url
        ))
    }

    fn uri(&self) -> Result<Uri, ClientError> {
        let uri: Uri = self.url.parse().map_err(|error: http::uri::InvalidUri| self.no_url(&error))?;
        match uri.host() {
            None | Some("") => Err(self.no_url(&"it names no host")),
            Some(_) if uri.port_u16().is_none() && uri.authority().is_some_and(|place| has_port(place.as_str())) => {
                Err(self.no_url(&"its port is not a number from 0 to 65535"))
            }
            Some(_) => Ok(uri),
        }
    }

    fn connector(&self, uri: &Uri) -> Result<Connector, ClientError> {
        let ClientSettings { ca, certificate, key, .. } = &self.settings;
        let files = Files { ca: ca.clone(), certificate: certificate.clone(), key: key.clone() };
        Connector::new(&self.url, uri, files, self.last_failure.clone())
    }

    /// Why the newest connection failed, if the connector knows more than the transport.
    fn failure(&self) -> Option<ClientError> {
        Some(match self.last_failure.get()? {
            Failure::NoServer(reason) => ClientError::NoServer { url: self.url.clone(), reason },
            Failure::Refused(text) => ClientError::Failed(text),
        })
    }

    /// The cause of a broken connection if it can be found, else the same error.
    pub(crate) async fn clarified(&self, error: ClientError) -> ClientError {
        let ClientError::Status(status) = &error else { return error };
        if std::error::Error::source(status.as_ref()).is_none() {
            return error;
        }
        if let Some(failure) = self.failure() {
            return failure;
        }
        let Ok(connector) = self.uri().and_then(|uri| self.connector(&uri)) else { return error };
        match connector.explain().await {
            Some(Failure::Refused(text)) => ClientError::Failed(text),
            Some(Failure::NoServer(_)) | None => error,
        }
    }

    pub(crate) async fn autoencoder(&self) -> Result<AutoencoderServiceClient<Connection>, ClientError> {
        Ok(AutoencoderServiceClient::new(self.channel().await?).max_decoding_message_size(ANSWER_BYTES_MAX))
    }

    pub(crate) async fn models(&self) -> Result<ModelServiceClient<Connection>, ClientError> {
        Ok(ModelServiceClient::new(self.channel().await?).max_decoding_message_size(ANSWER_BYTES_MAX))
    }

    pub(crate) async fn jobs(&self) -> Result<JobServiceClient<Connection>, ClientError> {
        Ok(JobServiceClient::new(self.channel().await?).max_decoding_message_size(ANSWER_BYTES_MAX))
    }
}

/// Whether the authority has text after the host that should be a port.
fn has_port(authority: &str) -> bool {
    let host_end = authority.rfind(']').map_or(0, |end| end + 1);
    authority[host_end..].rsplit_once(':').is_some_and(|(_, port)| !port.is_empty())
}

/// The text of the innermost cause.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
