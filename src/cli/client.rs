//! Shared by all client commands: connections, error texts, model references and matrices.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;
use tower::service_fn;

use super::CliError;
use super::connect::{Connector, Failure, Files, LastFailure, with_scheme};
use crate::config::{ClientSettings, Token};
use crate::files::{narrow, needs_f64};
use crate::model::{Matrix, Values};
use crate::rpc::pb::autoencoder_service_client::AutoencoderServiceClient;
use crate::rpc::pb::job_service_client::JobServiceClient;
use crate::rpc::pb::model_service_client::ModelServiceClient;
use crate::rpc::{convert, pb};

/// What every client command needs: server, output format, credentials.
#[derive(Clone, Debug)]
pub(super) struct Context {
    pub(super) url: String,
    pub(super) json: bool,
    settings: ClientSettings,
    last_failure: LastFailure,
}

/// A connection that adds the token, if there is one, to every call.
pub(super) type Connection = InterceptedService<Channel, Bearer>;

/// Adds a token to the headers of a call.
#[derive(Clone, Debug)]
pub(super) struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

/// Reads a file of credentials.
fn read(flag: &str, path: &Path) -> Result<String, CliError> {
    std::fs::read_to_string(path)
        .map_err(|error| CliError::Failed(format!("{flag} {}: {error}, expected a readable text file", path.display())))
}

/// Whether a host is this machine.
fn is_this_machine(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Maximum size of a response in bytes.
const ANSWER_BYTES_MAX: usize = 256 << 20;

impl Context {
    pub(super) fn new(settings: ClientSettings, json: bool) -> Self {
        let has_tls_files = settings.ca.is_some() || settings.certificate.is_some();
        Self { url: with_scheme(&settings.url, has_tls_files), json, settings, last_failure: LastFailure::default() }
    }

    /// The token, if there is one and it may be sent.
    fn bearer(&self, uri: &Uri) -> Result<Bearer, CliError> {
        let ClientSettings { token, token_file, insecure_token, .. } = &self.settings;
        let token = match (token, token_file) {
            (Some(token), _) => token.clone(),
            (None, Some(path)) => Token::new(&read("--token-file", path)?),
            (None, None) => return Ok(Bearer(None)),
        };
        let stays_here = uri.host().is_some_and(is_this_machine);
        if uri.scheme_str() != Some("https") && !stays_here && !insecure_token {
            return Err(CliError::Usage(format!(
                "the token is not sent unencrypted to {}: use https, or --insecure-token if the network is trusted",
                self.url
            )));
        }
        let mut value = MetadataValue::try_from(format!("Bearer {}", token.reveal()))
            .map_err(|_| CliError::Usage("the token has characters that are not allowed in a header".to_owned()))?;
        value.set_sensitive(true);
        Ok(Bearer(Some(value)))
    }

    pub(super) async fn channel(&self) -> Result<Connection, CliError> {
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
            self.failure().unwrap_or_else(|| CliError::NoServer { url: self.url.clone(), reason: innermost(&error) })
        })?;
        Ok(InterceptedService::new(channel, bearer))
    }

    fn no_url(&self, error: &dyn std::fmt::Display) -> CliError {
        CliError::Usage(format!("--server {:?} is not a URL ({error}), expected one like http://host:50051", self.url))
    }

    fn uri(&self) -> Result<Uri, CliError> {
        let uri: Uri = self.url.parse().map_err(|error: http::uri::InvalidUri| self.no_url(&error))?;
        match uri.host() {
            None | Some("") => Err(self.no_url(&"it names no host")),
            Some(_) if uri.port_u16().is_none() && uri.authority().is_some_and(|place| has_port(place.as_str())) => {
                Err(self.no_url(&"its port is not a number from 0 to 65535"))
            }
            Some(_) => Ok(uri),
        }
    }

    fn connector(&self, uri: &Uri) -> Result<Connector, CliError> {
        let ClientSettings { ca, certificate, key, .. } = &self.settings;
        let files = Files { ca: ca.clone(), certificate: certificate.clone(), key: key.clone() };
        Connector::new(&self.url, uri, files, self.last_failure.clone())
    }

    /// Why the newest connection failed, if the connector knows more than the transport.
    fn failure(&self) -> Option<CliError> {
        Some(match self.last_failure.get()? {
            Failure::NoServer(reason) => CliError::NoServer { url: self.url.clone(), reason },
            Failure::Refused(text) => CliError::Failed(text),
        })
    }

    /// The cause of a broken connection if it can be found, else the same error.
    pub(super) async fn clarified(&self, error: CliError) -> CliError {
        let CliError::Status(status) = &error else { return error };
        if std::error::Error::source(status.as_ref()).is_none() {
            return error;
        }
        if let Some(failure) = self.failure() {
            return failure;
        }
        let Ok(connector) = self.uri().and_then(|uri| self.connector(&uri)) else { return error };
        match connector.explain().await {
            Some(Failure::Refused(text)) => CliError::Failed(text),
            Some(Failure::NoServer(_)) | None => error,
        }
    }

    pub(super) async fn autoencoder(&self) -> Result<AutoencoderServiceClient<Connection>, CliError> {
        Ok(AutoencoderServiceClient::new(self.channel().await?).max_decoding_message_size(ANSWER_BYTES_MAX))
    }

    pub(super) async fn models(&self) -> Result<ModelServiceClient<Connection>, CliError> {
        Ok(ModelServiceClient::new(self.channel().await?).max_decoding_message_size(ANSWER_BYTES_MAX))
    }

    pub(super) async fn jobs(&self) -> Result<JobServiceClient<Connection>, CliError> {
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

/// Maximum retries of a call while the server is full.
const FULL_RETRIES_MAX: u32 = 12;
/// Minimum retry delay before the first retry; it doubles up to seven times.
const FULL_PAUSE: Duration = Duration::from_millis(10);

/// Makes a call, and retries it after RESOURCE_EXHAUSTED with a retry delay.
pub(super) async fn patiently<T, F: Future<Output = Result<T, CliError>>>(
    attempt: impl Fn() -> F,
) -> Result<T, CliError> {
    patiently_from(FULL_PAUSE, attempt).await
}

async fn patiently_from<T, F: Future<Output = Result<T, CliError>>>(
    pause: Duration,
    attempt: impl Fn() -> F,
) -> Result<T, CliError> {
    let mut retries = 0;
    loop {
        let error = match attempt().await {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        let delay = match &error {
            CliError::Status(status) if status.code() == Code::ResourceExhausted => {
                status.get_error_details().retry_info().and_then(|info| info.retry_delay)
            }
            _ => None,
        };
        let Some(delay) = delay.filter(|_| retries < FULL_RETRIES_MAX) else { return Err(error) };
        tokio::time::sleep(delay.max(pause * 2u32.pow(retries.min(7)))).await;
        retries += 1;
    }
}

/// Parses `NAME`, `NAME@VERSION` or `NAME@ALIAS`; `NAME@latest` means `NAME`.
pub(super) fn model_ref(text: &str) -> Result<pb::ModelRef, CliError> {
    let (name, selector) = match text.split_once('@') {
        None | Some((_, "latest")) => (text.split('@').next().unwrap_or(text), None),
        Some((name, selector)) if !selector.is_empty() => match selector.parse() {
            Ok(version) => (name, Some(pb::model_ref::Selector::Version(version))),
            Err(_) => (name, Some(pb::model_ref::Selector::Alias(selector.to_owned()))),
        },
        Some(_) => {
            return Err(CliError::Usage(format!("model {text:?}: expected NAME, NAME@VERSION or NAME@ALIAS")));
        }
    };
    Ok(pb::ModelRef { name: name.to_owned(), selector })
}

/// A matrix of binary32 if that keeps all values (see [`needs_f64`]), else of binary64. Depends only on the values, so
/// that a resumed upload sends the same chunks.
pub(super) fn matrix(columns: usize, values: &[f64]) -> pb::Matrix {
    let values = if needs_f64(values) { Values::from_f64(values) } else { Values::from_f32(&narrow(values)) };
    matrix_of(columns, values)
}

/// A matrix of binary32.
pub(super) fn float_matrix(columns: usize, values: &[f32]) -> pb::Matrix {
    matrix_of(columns, Values::from_f32(values))
}

fn matrix_of(columns: usize, values: Values) -> pb::Matrix {
    let (size, values) = match values {
        Values::Float64Le(bytes) => (bytes.len() / 8, pb::matrix::Values::Float64Le(bytes)),
        Values::Float32Le(bytes) => (bytes.len() / 4, pb::matrix::Values::Float32Le(bytes)),
        other => {
            let values = other.to_f32();
            (values.len(), pb::matrix::Values::Floats(pb::FloatList { values }))
        }
    };
    pb::Matrix {
        rows: (size / columns.max(1)) as u32,
        columns: columns as u32,
        values: Some(values),
        ..Default::default()
    }
}

/// As [`matrix`], with column names; empty if the columns have none.
pub(super) fn named_matrix(columns: usize, values: &[f64], names: &[String]) -> pb::Matrix {
    pb::Matrix { column_names: names.to_vec(), ..matrix(columns, values) }
}

/// Prints the notes of a response to standard error.
pub(super) fn tell_notes(context: &Context, notes: &[String]) {
    for note in notes {
        if context.json {
            note_line!("{}", serde_json::json!({ "note": note }));
        } else {
            note_line!("note: {note}");
        }
    }
}

/// The matrix of a response, checked.
pub(super) fn answered(matrix: Option<pb::Matrix>) -> Result<Matrix, CliError> {
    let matrix = convert::matrix("matrix", matrix);
    matrix.map_err(|error| CliError::Failed(format!("the server's response is invalid: {error}")))
}

/// The values of a response as binary64, row-major, and the number of columns.
pub(super) fn numbers(matrix: Option<pb::Matrix>) -> Result<(Vec<f64>, usize), CliError> {
    let matrix = answered(matrix)?;
    Ok((matrix.values().to_f64(), matrix.columns()))
}

/// The values of a response as binary32, row-major, and the number of columns.
pub(super) fn float_numbers(matrix: Option<pb::Matrix>) -> Result<(Vec<f32>, usize), CliError> {
    let matrix = answered(matrix)?;
    Ok((matrix.values().to_f32(), matrix.columns()))
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::model::Form;
    use pb::model_ref::Selector;

    #[track_caller]
    fn check_ref(text: &str, name: &str, selector: Option<Selector>) {
        let got = model_ref(text).expect("a reference");
        assert_eq!((got.name.as_str(), got.selector), (name, selector));
    }

    #[test]
    fn models_are_named_with_or_without_a_version() {
        check_ref("digits", "digits", None);
        check_ref("digits@latest", "digits", None);
        check_ref("digits@3", "digits", Some(Selector::Version(3)));
        check_ref("digits@prod", "digits", Some(Selector::Alias("prod".into())));
        assert!(model_ref("digits@").is_err());
    }

    #[test]
    fn a_block_uses_the_smaller_lossless_format() {
        let form = |values: &[f64]| {
            let sent = answered(Some(matrix(1, values))).expect("a matrix");
            let kept: Vec<f64> = sent.values().to_f64();
            (sent.form(), kept)
        };
        let narrow = [0.5, -3.0, f64::NAN];
        assert_eq!(form(&narrow).0, Form::Float32Le);
        let wide = [0.5, 1_700_000_001.0];
        assert_eq!(form(&wide), (Form::Float64Le, wide.to_vec()));
    }

    #[tokio::test]
    async fn only_a_full_server_with_a_retry_delay_is_retried() {
        let tries = std::cell::Cell::new(0);
        let attempt = |code: Code, delay: Option<Duration>, refusals: u32| {
            tries.set(tries.get() + 1);
            let mut details = tonic_types::ErrorDetails::new();
            details.set_retry_info(delay);
            let refused = tries.get() <= refusals;
            async move {
                if refused { Err(CliError::from(Status::with_error_details(code, "full", details))) } else { Ok(()) }
            }
        };
        let soon = Some(Duration::from_millis(1));
        for (code, delay, refusals, answers, expected_tries) in [
            (Code::ResourceExhausted, soon, 3, true, 4),
            (Code::ResourceExhausted, soon, u32::MAX, false, 1 + FULL_RETRIES_MAX),
            (Code::ResourceExhausted, None, 3, false, 1),
            (Code::InvalidArgument, soon, 3, false, 1),
        ] {
            tries.set(0);
            assert_eq!(patiently_from(Duration::ZERO, || attempt(code, delay, refusals)).await.is_ok(), answers);
            assert_eq!(tries.get(), expected_tries);
        }
    }

    #[test]
    fn errors_show_the_status_details() {
        let mut details = tonic_types::ErrorDetails::new();
        details.set_retry_info(Some(Duration::from_millis(20)));
        let status = Status::with_error_details(Code::ResourceExhausted, "full", details);
        let text = CliError::from(status).to_string();
        assert!(text.starts_with("RESOURCE_EXHAUSTED: full") && text.contains("20ms"), "{text}");
    }
}
