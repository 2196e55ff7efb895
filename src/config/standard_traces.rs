//! Trace settings from OpenTelemetry's environment variables, by its own rules
//! (<https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/> and
//! <https://opentelemetry.io/docs/specs/otel/protocol/exporter/>).
//!
//! Operators set these variables for all programs of a machine, so a wrong value does not stop this server. It causes a
//! warning that names the variable and its value, and counts as unset.

use std::time::Duration;

use http::Uri;

use crate::telemetry::traces::Protocol;

/// The path of traces, appended to the base URL of an OTLP/HTTP collector.
pub(super) const TRACES_PATH: &str = "/v1/traces";
/// Default ports of collectors: gRPC, HTTP.
const PORTS: (u16, u16) = (4317, 4318);
/// Longest export timeout.
const TIMEOUT_MS_MAX: u64 = 60_000;
/// Variables of the exporter that have no effect here.
const UNUSED: [&str; 6] = [
    "OTEL_EXPORTER_OTLP_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_CLIENT_KEY",
    "OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY",
];

/// The values of these variables, parsed.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct StandardTraces {
    /// The variable that turns traces off, if one does.
    pub(super) off: Option<&'static str>,
    /// The collector's URL, and the variable that set it.
    pub(super) endpoint: Option<(String, &'static str)>,
    /// The protocol, if it is set.
    pub(super) protocol: Option<Protocol>,
    /// Timeout of one export.
    pub(super) timeout: Option<Duration>,
    /// Share of the calls without a `traceparent` that are traced, and the variable that set it.
    pub(super) ratio: Option<(f64, &'static str)>,
    /// Service name in traces, and the variable that set it.
    pub(super) service_name: Option<(String, &'static str)>,
    /// Further resource attributes.
    pub(super) attributes: Vec<(String, String)>,
    /// One text for each value that could not be used.
    pub(super) warnings: Vec<String>,
}

/// Variables by name; an empty variable counts as unset.
struct Variables<'a> {
    all: &'a [(String, String)],
    warnings: Vec<String>,
}

impl Variables<'_> {
    fn get(&self, name: &'static str) -> Option<(&str, &'static str)> {
        let (_, text) = self.all.iter().find(|(other, _)| other == name)?;
        let text = text.trim();
        (!text.is_empty()).then_some((text, name))
    }

    /// The first variable of `names` that is set.
    fn first(&self, names: [&'static str; 2]) -> Option<(String, &'static str)> {
        names.into_iter().find_map(|name| self.get(name)).map(|(text, name)| (text.to_owned(), name))
    }

    fn warn(&mut self, name: &str, text: &str, what: &str) {
        // A value with `@` may contain a password.
        let text = if text.contains('@') { "(not shown)" } else { text };
        self.warnings.push(format!("variable {name} is {text:?}, {what}"));
    }

    fn is_true(&mut self, name: &'static str) -> bool {
        let Some((text, _)) = self.get(name) else { return false };
        let text = text.to_owned();
        if !text.eq_ignore_ascii_case("true") && !text.eq_ignore_ascii_case("false") {
            self.warn(name, &text, "expected true or false: it counts as false");
        }
        text.eq_ignore_ascii_case("true")
    }
}

impl StandardTraces {
    pub(super) fn of(variables: &[(String, String)]) -> Self {
        let mut variables = Variables { all: variables, warnings: Vec::new() };
        let mut found = Self::default();
        found.read_exporter(&mut variables);
        found.read_service(&mut variables);
        found.read_sampler(&mut variables);
        if found.endpoint.is_some() {
            for name in UNUSED {
                if let Some((text, _)) = variables.get(name) {
                    let text = text.to_owned();
                    let what = "which has no effect here: the authorities of this system verify collectors";
                    variables.warn(name, &text, what);
                }
            }
        }
        found.warnings = variables.warnings;
        found
    }

    /// The value that these variables give a setting of the server, and the variable that it comes from.
    pub(super) fn value(&self, setting: &str) -> Option<(String, &'static str)> {
        match setting {
            "otlp_endpoint" => self.endpoint.clone(),
            "otlp_service_name" => self.service_name.clone(),
            "trace_ratio" => self.ratio.map(|(ratio, variable)| (ratio.to_string(), variable)),
            _ => None,
        }
    }

    fn read_exporter(&mut self, variables: &mut Variables<'_>) {
        if variables.is_true("OTEL_SDK_DISABLED") {
            self.off = Some("OTEL_SDK_DISABLED");
        }
        let exporter = variables.get("OTEL_TRACES_EXPORTER").map(|(text, _)| text.to_ascii_lowercase());
        if let Some(text) = &exporter {
            let names: Vec<&str> = text.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
            if names.iter().any(|name| !matches!(*name, "otlp" | "none")) {
                variables.warn("OTEL_TRACES_EXPORTER", text, "expected otlp or none: no other exporter is built in");
            }
            if !names.contains(&"otlp") {
                self.off = self.off.or(Some("OTEL_TRACES_EXPORTER"));
            }
        }
        self.protocol = protocol(variables);
        let names = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];
        let asked = exporter.is_some() && self.off.is_none();
        if let Some((text, name)) = variables.first(names) {
            let is_base = name == names[1];
            match endpoint(&text, is_base, &mut self.protocol, variables, name) {
                Ok(url) => self.endpoint = Some((url, name)),
                Err(reason) => variables.warn(name, &text, &format!("{reason}: nothing is traced")),
            }
        } else if asked {
            // By the specification, an exporter without an endpoint uses the collector on this machine.
            let protocol = *self.protocol.get_or_insert(Protocol::HttpProtobuf);
            let url = match protocol {
                Protocol::Grpc => format!("http://localhost:{}", PORTS.0),
                Protocol::HttpProtobuf => format!("http://localhost:{}{TRACES_PATH}", PORTS.1),
            };
            self.endpoint = Some((url, "OTEL_TRACES_EXPORTER"));
        }
        if let Some((text, name)) = variables.first(["OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT"])
        {
            match text.parse() {
                Ok(ms @ 1..=TIMEOUT_MS_MAX) => self.timeout = Some(Duration::from_millis(ms)),
                _ => variables.warn(name, &text, &format!("expected milliseconds from 1 to {TIMEOUT_MS_MAX}")),
            }
        }
    }

    fn read_service(&mut self, variables: &mut Variables<'_>) {
        if let Some((text, name)) = variables.get("OTEL_RESOURCE_ATTRIBUTES") {
            let text = text.to_owned();
            match attributes(&text) {
                Some(attributes) => self.attributes = attributes,
                // The specification discards the whole variable then.
                None => variables.warn(name, &text, "expected KEY=VALUE,KEY=VALUE"),
            }
        }
        let of_attributes = self.attributes.iter().position(|(key, _)| key == "service.name");
        let of_attributes = of_attributes.map(|place| (self.attributes.remove(place).1, "OTEL_RESOURCE_ATTRIBUTES"));
        let own = variables.get("OTEL_SERVICE_NAME").map(|(text, name)| (text.to_owned(), name));
        if let Some((text, name)) = own.or(of_attributes) {
            if (1..=255).contains(&text.chars().count()) {
                self.service_name = Some((text, name));
            } else {
                variables.warn(name, &text, "expected a name of 1 to 255 characters");
            }
        }
    }

    fn read_sampler(&mut self, variables: &mut Variables<'_>) {
        let Some((text, name)) = variables.get("OTEL_TRACES_SAMPLER") else { return };
        let text = text.to_owned();
        let ratio = match text.to_ascii_lowercase().as_str() {
            "always_on" | "parentbased_always_on" => 1.0,
            "always_off" | "parentbased_always_off" => 0.0,
            "traceidratio" | "parentbased_traceidratio" => {
                match variables.get("OTEL_TRACES_SAMPLER_ARG").map(|(text, name)| (text.to_owned(), name)) {
                    None => 1.0,
                    Some((arg, arg_name)) => match arg.parse() {
                        Ok(ratio) if (0.0..=1.0).contains(&ratio) => ratio,
                        _ => return variables.warn(arg_name, &arg, "expected a number from 0 to 1"),
                    },
                }
            }
            _ => {
                let expected = "expected always_on, always_off or traceidratio, or one of these after parentbased_";
                return variables.warn(name, &text, expected);
            }
        };
        self.ratio = Some((ratio, name));
    }
}

fn protocol(variables: &mut Variables<'_>) -> Option<Protocol> {
    let names = ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"];
    let (text, name) = variables.first(names)?;
    match text.to_ascii_lowercase().as_str() {
        "grpc" => Some(Protocol::Grpc),
        "http/protobuf" => Some(Protocol::HttpProtobuf),
        "http/json" => {
            variables.warn(name, &text, "expected grpc or http/protobuf: http/protobuf is used");
            Some(Protocol::HttpProtobuf)
        }
        _ => {
            variables.warn(name, &text, "expected grpc or http/protobuf");
            None
        }
    }
}

/// The URL of the collector. If `protocol` is `None`, the port or path of the URL decides it.
fn endpoint(
    text: &str,
    is_base: bool,
    protocol: &mut Option<Protocol>,
    variables: &mut Variables<'_>,
    name: &'static str,
) -> Result<String, String> {
    let url = if text.contains("://") {
        text.to_owned()
    } else {
        let insecure = variables
            .first(["OTEL_EXPORTER_OTLP_TRACES_INSECURE", "OTEL_EXPORTER_OTLP_INSECURE"])
            .map(|(text, _)| text);
        let scheme = if insecure.is_some_and(|text| text.eq_ignore_ascii_case("false")) { "https" } else { "http" };
        variables.warn(name, text, &format!("which has no scheme: it is taken as {scheme}://{text}"));
        format!("{scheme}://{text}")
    };
    let uri = check_endpoint(&url)?;
    let path = uri.path().trim_end_matches('/');
    let chosen = *protocol.get_or_insert_with(|| guessed(&uri));
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let scheme = uri.scheme_str().unwrap_or("http");
    Ok(match chosen {
        Protocol::Grpc => {
            if !path.is_empty() {
                variables.warn(name, text, "whose path is ignored over gRPC");
            }
            format!("{scheme}://{authority}")
        }
        Protocol::HttpProtobuf if is_base && !path.ends_with(TRACES_PATH) => {
            format!("{scheme}://{authority}{path}{TRACES_PATH}")
        }
        Protocol::HttpProtobuf => {
            if is_base {
                variables.warn(name, text, &format!("which already ends with {TRACES_PATH}: nothing is appended"));
            }
            url
        }
    })
}

/// The most likely protocol of a collector: HTTP for port 4318 or a path that ends in `/v1/traces`, else gRPC.
pub(super) fn guessed(uri: &Uri) -> Protocol {
    if uri.port_u16() == Some(PORTS.1) || uri.path().trim_end_matches('/').ends_with(TRACES_PATH) {
        Protocol::HttpProtobuf
    } else {
        Protocol::Grpc
    }
}

/// Parses the URL of a collector.
///
/// A clause that says what is wrong with the URL, and what is expected.
pub(super) fn check_endpoint(text: &str) -> Result<Uri, String> {
    let expected = "expected http://HOST:PORT or https://HOST:PORT of a collector";
    let uri: Uri = text.parse().map_err(|error| format!("which is not a URL ({error}), {expected}"))?;
    let authority = uri.authority().ok_or_else(|| format!("which names no host, {expected}"))?;
    if authority.host().is_empty() {
        return Err(format!("which names no host, {expected}"));
    }
    if authority.as_str().contains('@') {
        return Err(format!(
            "which has a user and a password, {expected}, and OTEL_EXPORTER_OTLP_HEADERS for credentials"
        ));
    }
    let behind_host = authority.as_str().rsplit(']').next().unwrap_or_default();
    if behind_host.contains(':') && authority.port_u16().is_none() {
        return Err(format!("whose port is not a number from 0 to 65535, {expected}"));
    }
    match uri.scheme_str() {
        Some("http" | "https") => Ok(uri),
        _ => Err(format!("whose scheme is unknown, {expected}")),
    }
}

/// Parses `KEY=VALUE,KEY=VALUE` with percent-encoded values; `None` if any part is malformed.
fn attributes(text: &str) -> Option<Vec<(String, String)>> {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    parts
        .map(|part| {
            let (key, value) = part.split_once('=')?;
            let key = key.trim();
            (!key.is_empty()).then_some(())?;
            Some((key.to_owned(), percent_decoded(value.trim())?))
        })
        .collect()
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let mut digit = || char::from(bytes.next()?).to_digit(16);
            decoded.push((16 * digit()? + digit()?) as u8);
        } else {
            decoded.push(byte);
        }
    }
    String::from_utf8(decoded).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> StandardTraces {
        let variables: Vec<_> = variables.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        StandardTraces::of(&variables)
    }

    const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
    const TRACES_ENDPOINT: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
    const PROTOCOL: &str = "OTEL_EXPORTER_OTLP_PROTOCOL";

    #[track_caller]
    fn check_endpoint_of(variables: &[(&str, &str)], url: &str, protocol: Protocol, warnings: &[&str]) {
        let found = of(variables);
        assert_eq!(found.endpoint.map(|(url, _)| url).as_deref(), Some(url));
        assert_eq!(found.protocol, Some(protocol));
        assert_eq!(found.warnings.len(), warnings.len(), "{:?}", found.warnings);
        for (warning, text) in found.warnings.iter().zip(warnings) {
            assert!(warning.contains(text), "{warning:?} does not say {text:?}");
        }
    }

    #[test]
    fn endpoints_follow_the_otlp_rules() {
        use Protocol::{Grpc, HttpProtobuf};
        check_endpoint_of(&[(ENDPOINT, "http://c:4317")], "http://c:4317", Grpc, &[]);
        check_endpoint_of(&[(ENDPOINT, "https://c:4317/")], "https://c:4317", Grpc, &[]);
        check_endpoint_of(&[(ENDPOINT, "http://c:4318")], "http://c:4318/v1/traces", HttpProtobuf, &[]);
        let http = (PROTOCOL, "http/protobuf");
        check_endpoint_of(&[(ENDPOINT, "http://c:80/otel/"), http], "http://c:80/otel/v1/traces", HttpProtobuf, &[]);
        check_endpoint_of(&[(TRACES_ENDPOINT, "http://c/x"), http], "http://c/x", HttpProtobuf, &[]);
        let both = [(ENDPOINT, "http://c:1"), (TRACES_ENDPOINT, "http://d:2")];
        check_endpoint_of(&both, "http://d:2", Grpc, &[]);
        let grpc = (PROTOCOL, "grpc");
        check_endpoint_of(&[(ENDPOINT, "http://c:4318/x"), grpc], "http://c:4318", Grpc, &["ignored over gRPC"]);
    }

    #[test]
    fn common_deviations_from_the_standard_are_accepted() {
        use Protocol::{Grpc, HttpProtobuf};
        check_endpoint_of(&[(ENDPOINT, "c:4317")], "http://c:4317", Grpc, &["taken as http://c:4317"]);
        let secure = [(ENDPOINT, "c:4317"), ("OTEL_EXPORTER_OTLP_INSECURE", "false")];
        check_endpoint_of(&secure, "https://c:4317", Grpc, &["taken as https://c:4317"]);
        let whole = [(ENDPOINT, "http://c:4318/v1/traces")];
        check_endpoint_of(&whole, "http://c:4318/v1/traces", HttpProtobuf, &["already ends with /v1/traces"]);
        let json = [(ENDPOINT, "http://c:4318"), (PROTOCOL, "http/json")];
        check_endpoint_of(&json, "http://c:4318/v1/traces", HttpProtobuf, &["http/protobuf is used"]);
        let odd = [(ENDPOINT, "http://c:4317"), (PROTOCOL, "thrift")];
        check_endpoint_of(&odd, "http://c:4317", Grpc, &["\"thrift\", expected grpc or http/protobuf"]);
        let of_traces =
            [(ENDPOINT, "http://c:4317"), (PROTOCOL, "grpc"), ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf")];
        check_endpoint_of(&of_traces, "http://c:4317/v1/traces", HttpProtobuf, &[]);
    }

    #[test]
    fn invalid_endpoints_cause_a_warning() {
        for wrong in
            ["http://", "dns:///c:4317", "ftp://c", "http://a b:1", "://", "http://me:secret@c:1", "c:99999999"]
        {
            let found = of(&[(ENDPOINT, wrong)]);
            assert_eq!(found.endpoint, None, "{wrong}");
            let text = found.warnings.join(" ");
            assert!(text.contains(ENDPOINT) && text.contains("nothing is traced"), "{text}");
            assert!(!text.contains("secret"), "{text}");
        }
        assert_eq!(of(&[(ENDPOINT, "")]), StandardTraces::default());
        assert_eq!(of(&[]), StandardTraces::default());
    }

    #[test]
    fn traces_can_be_turned_off() {
        let endpoint = (ENDPOINT, "http://c:4317");
        assert_eq!(of(&[endpoint, ("OTEL_SDK_DISABLED", "TRUE")]).off, Some("OTEL_SDK_DISABLED"));
        assert_eq!(of(&[endpoint, ("OTEL_SDK_DISABLED", "false")]).off, None);
        assert_eq!(of(&[endpoint, ("OTEL_SDK_DISABLED", "1")]).warnings.len(), 1, "only true is true");
        assert_eq!(of(&[endpoint, ("OTEL_TRACES_EXPORTER", "none")]).off, Some("OTEL_TRACES_EXPORTER"));
        let console = of(&[endpoint, ("OTEL_TRACES_EXPORTER", "console")]);
        assert_eq!((console.off, console.warnings.len()), (Some("OTEL_TRACES_EXPORTER"), 1));
        let both = of(&[endpoint, ("OTEL_TRACES_EXPORTER", "otlp,console")]);
        assert_eq!((both.off, both.warnings.len()), (None, 1));
    }

    #[test]
    fn an_exporter_without_an_endpoint_uses_localhost() {
        let found = of(&[("OTEL_TRACES_EXPORTER", "otlp")]);
        assert_eq!(found.endpoint.expect("the default").0, "http://localhost:4318/v1/traces");
        let found = of(&[("OTEL_TRACES_EXPORTER", "otlp"), (PROTOCOL, "grpc")]);
        assert_eq!(found.endpoint.expect("the default").0, "http://localhost:4317");
    }

    #[test]
    fn the_service_name_and_attributes_are_read() {
        let attributes = ("OTEL_RESOURCE_ATTRIBUTES", "service.name=a, deployment.environment=pro%20d,x=1");
        let found = of(&[attributes]);
        assert_eq!(found.service_name, Some(("a".to_owned(), "OTEL_RESOURCE_ATTRIBUTES")));
        let pairs = [("deployment.environment", "pro d"), ("x", "1")];
        assert_eq!(found.attributes, pairs.map(|(key, value)| (key.to_owned(), value.to_owned())));
        let named = of(&[attributes, ("OTEL_SERVICE_NAME", "b")]);
        assert_eq!(named.service_name, Some(("b".to_owned(), "OTEL_SERVICE_NAME")));
        for wrong in ["a", "=b", "a=%zz", "a=1,b"] {
            let found = of(&[("OTEL_RESOURCE_ATTRIBUTES", wrong)]);
            assert_eq!((found.attributes.len(), found.warnings.len()), (0, 1), "{wrong}");
        }
    }

    #[test]
    fn samplers_become_a_ratio() {
        let ratio = |sampler: &str, arg: &str| {
            let found = of(&[("OTEL_TRACES_SAMPLER", sampler), ("OTEL_TRACES_SAMPLER_ARG", arg)]);
            (found.ratio.map(|(ratio, _)| ratio), found.warnings.len())
        };
        assert_eq!(ratio("always_on", ""), (Some(1.0), 0));
        assert_eq!(ratio("parentbased_always_off", ""), (Some(0.0), 0));
        assert_eq!(ratio("parentbased_traceidratio", "0.25"), (Some(0.25), 0));
        assert_eq!(ratio("traceidratio", ""), (Some(1.0), 0));
        assert_eq!(ratio("traceidratio", "2"), (None, 1));
        assert_eq!(ratio("xray", ""), (None, 1));
    }

    #[test]
    fn a_timeout_is_in_milliseconds() {
        let timeout = |text: &str| of(&[("OTEL_EXPORTER_OTLP_TIMEOUT", text)]).timeout;
        assert_eq!(timeout("250"), Some(Duration::from_millis(250)));
        for wrong in ["0", "-1", "10s", "999999999"] {
            assert_eq!(timeout(wrong), None, "{wrong}");
        }
    }
}
