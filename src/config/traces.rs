//! The settings of traces together with the variables of OpenTelemetry.

use super::layers::Layers;
use super::standard_traces::{TRACES_PATH, check_endpoint, guessed};
use super::values::Values;
use super::{ConfigError, Source};
use crate::telemetry::traces::Protocol;

/// Name of the setting.
const ENDPOINT: &str = "otlp_endpoint";
/// The URLs that are allowed, in words.
pub(super) const ENDPOINT_EXPECTED: &str =
    "http://HOST:PORT or https://HOST:PORT of a collector, without user and password";

/// Whether a name is allowed as a service name: 1 to 255 characters.
pub(super) fn is_service_name(name: &str) -> bool {
    (1..=255).contains(&name.chars().count())
}

/// Checks the URL of the collector and chooses the protocol.
///
/// # Errors
/// [`ConfigError::Value`] for a wrong URL. Variables of OpenTelemetry are not the reason: a mistake in them is only a
/// warning.
pub(super) fn settle(layers: &mut Layers<'_>, values: &mut Values) -> Result<(), ConfigError> {
    let text = std::mem::take(&mut values.otlp_endpoint);
    let origin = layers.origin(ENDPOINT);
    let traces = &mut values.server.traces;
    traces.attributes.clone_from(&layers.standard.attributes);
    traces.export_timeout = layers.standard.timeout.unwrap_or(traces.export_timeout);
    if text.is_empty() {
        traces.protocol = layers.standard.protocol.unwrap_or_default();
        return Ok(());
    }
    let Ok(url) = check_endpoint(&text) else {
        // A URL with `@` may contain a password.
        let got = if text.contains('@') { "(not shown)".to_owned() } else { text };
        return Err(layers.refused(ENDPOINT, got, ENDPOINT_EXPECTED));
    };
    traces.protocol = layers.standard.protocol.unwrap_or_else(|| guessed(&url));
    let is_ours = !matches!(&origin, Source::Variable(name) if name.starts_with("OTEL_"));
    if let Some(variable) = layers.standard.off {
        if is_ours {
            layers.warnings.push(format!("variable {variable} turns traces off: otlp_endpoint is not used"));
        }
        layers.replace(ENDPOINT, "", Source::Variable(variable.to_owned()));
        return Ok(());
    }
    let has_path = url.path() != "/" || url.query().is_some();
    let endpoint = if is_ours && !has_path && traces.protocol == Protocol::HttpProtobuf {
        format!("{}{TRACES_PATH}", text.trim_end_matches('/'))
    } else {
        text
    };
    layers.replace(ENDPOINT, &endpoint, origin);
    traces.otlp_endpoint = Some(endpoint);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;
    use crate::config::tests::{args, variables};
    use crate::telemetry::traces::TracesConfig;

    fn traces(flags: &[(&'static str, &str)], set: &[(&str, &str)]) -> Result<TracesConfig, ConfigError> {
        Settings::from(&args(flags), &variables(set)).map(|settings| settings.server.traces)
    }

    #[test]
    fn tracing_is_off_by_default() {
        assert_eq!(traces(&[], &[]).expect("defaults"), TracesConfig::default());
        assert_eq!(TracesConfig::default().otlp_endpoint, None);
    }

    #[test]
    fn our_settings_override_otel_variables() {
        let theirs = [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317"), ("OTEL_SERVICE_NAME", "embeddings")];
        let config = traces(&[], &theirs).expect("valid");
        assert_eq!(config.otlp_endpoint.as_deref(), Some("http://collector:4317"));
        assert_eq!(config.service_name, "embeddings");
        let ours = [&theirs[..], &[("HALFHITCH_OTLP_ENDPOINT", "")]].concat();
        assert_eq!(traces(&[], &ours).expect("valid").otlp_endpoint, None, "taken back");
        let off = [&theirs[..], &[("OTEL_SDK_DISABLED", "true")]].concat();
        assert_eq!(traces(&[], &off).expect("valid").otlp_endpoint, None, "turned off");
        assert_eq!(traces(&[("otlp_service_name", "mine")], &theirs).expect("valid").service_name, "mine");
    }

    #[track_caller]
    fn check_refused(name: &'static str, wrong: &str, texts: &[&str]) {
        let error = traces(&[(name, wrong)], &[]).expect_err("refused").to_string();
        for text in texts {
            assert!(error.contains(text), "{error:?} does not say {text:?}");
        }
    }

    #[test]
    fn errors_name_the_invalid_setting() {
        for wrong in ["collector:4317", "http://", "ftp://a:1", "http://a b:1"] {
            check_refused("otlp_endpoint", wrong, &["otlp_endpoint", wrong, "http://HOST:PORT"]);
        }
        for wrong in ["-0.1", "1.1", "NaN", "half", ""] {
            check_refused("trace_ratio", wrong, &["trace_ratio", "a number from 0 to 1"]);
        }
        check_refused("traces_per_second_max", "0", &["traces_per_second_max", "from 1 to 100000"]);
        for wrong in ["", &"x".repeat(256)] {
            check_refused("otlp_service_name", wrong, &["otlp_service_name", "a name of 1 to 255 characters"]);
        }
    }

    #[test]
    fn invalid_otel_variables_are_not_rejected() {
        for (name, value) in [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://collector"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a b"),
            ("OTEL_SERVICE_NAME", "x".repeat(300).as_str()),
            ("OTEL_TRACES_SAMPLER", "jaeger_remote"),
            ("OTEL_RESOURCE_ATTRIBUTES", "%"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon"),
            ("OTEL_TRACES_EXPORTER", "zipkin"),
        ] {
            traces(&[], &[(name, value)]).unwrap_or_else(|error| panic!("{name}={value}: {error}"));
        }
    }

    #[test]
    fn the_endpoint_determines_the_protocol() {
        for (url, protocol) in [
            ("http://c:4317", Protocol::Grpc),
            ("https://c:4317", Protocol::Grpc),
            ("http://c:4318/v1/traces", Protocol::HttpProtobuf),
            ("https://c/v1/traces", Protocol::HttpProtobuf),
        ] {
            let config = traces(&[("otlp_endpoint", url)], &[]).expect("valid");
            assert_eq!((config.otlp_endpoint.as_deref(), config.protocol), (Some(url), protocol));
        }
    }

    #[test]
    fn a_password_is_not_shown() {
        let error = traces(&[("otlp_endpoint", "http://me:secret@host:1")], &[]).expect_err("refused").to_string();
        assert!(!error.contains("secret"), "{error}");
    }
}
