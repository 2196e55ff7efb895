//! Settings of traces.

use super::layers::Layers;
use super::standard_traces::{StandardTraces, TRACES_PATH, check_endpoint, guessed};
use super::{ConfigError, Source};
use crate::telemetry::traces::{Protocol, TRACES_PER_SECOND_MAX, TracesConfig};

/// Flags of traces, as written.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct TracesArgs {
    /// URL of the OpenTelemetry collector, over gRPC or HTTP, for example http://127.0.0.1:4317 (gRPC) or
    /// http://127.0.0.1:4318/v1/traces (HTTP); empty disables traces [default: as the OTEL_* variables of the
    /// environment say, or empty]
    #[arg(long, value_name = "URL")]
    pub otlp_endpoint: Option<String>,
    /// Service name in traces, 1 to 255 characters [default: OTEL_SERVICE_NAME of the environment, or halfhitch]
    #[arg(long, value_name = "NAME")]
    pub otlp_service_name: Option<String>,
    /// Share of the calls without a `traceparent` header that are traced, 0 to 1; a `traceparent` of the caller decides
    /// for its call [default: 0.01]
    #[arg(long, value_name = "SHARE")]
    pub trace_ratio: Option<String>,
    /// Maximum calls traced per second, also of those that callers want traced, 1 to 100000 [default: 100]
    #[arg(long, value_name = "COUNT")]
    pub traces_per_second_max: Option<String>,
}

impl Layers<'_> {
    /// A mistake in our own settings is an error. The variables of OpenTelemetry are weaker, and a mistake in them is
    /// only a warning.
    pub(super) fn traces(&mut self, args: &TracesArgs, defaults: &TracesConfig) -> Result<TracesConfig, ConfigError> {
        let standard = StandardTraces::of(self.variables);
        self.warnings.extend(standard.warnings);
        let (otlp_endpoint, protocol) = {
            let (text, origin) = self.text("otlp_endpoint", args.otlp_endpoint.as_ref(), "");
            let ours = origin != Source::Default;
            let (mut text, origin, off) = match standard.endpoint {
                Some((url, variable)) if !ours => (url, Source::Variable(variable.to_owned()), standard.off),
                _ if !text.is_empty() => (text, origin, standard.off),
                _ => (text, origin, None),
            };
            let endpoint = if text.is_empty() {
                None
            } else {
                Some(check_endpoint(&text).map_err(|_| ConfigError::Value {
                    setting: "otlp_endpoint",
                    origin: origin.clone(),
                    // A URL with `@` may contain a password.
                    got: if text.contains('@') { "(not shown)".to_owned() } else { text.clone() },
                    expected:
                        "http://HOST:PORT or https://HOST:PORT of a collector, without user and password".to_owned(),
                })?)
            };
            let protocol = standard.protocol.or_else(|| endpoint.as_ref().map(guessed)).unwrap_or_default();
            let has_path = endpoint.as_ref().is_some_and(|uri| uri.path() != "/" || uri.query().is_some());
            if ours && !has_path && endpoint.is_some() && protocol == Protocol::HttpProtobuf {
                text = format!("{}{TRACES_PATH}", text.trim_end_matches('/'));
            }
            match off {
                Some(variable) => {
                    if ours {
                        self.warnings.push(format!("variable {variable} turns traces off: otlp_endpoint is not used"));
                    }
                    let origin = Source::Variable(variable.to_owned());
                    self.told.push(("otlp_endpoint", toml::Value::String(String::new()).to_string(), origin));
                    (None, protocol)
                }
                None => {
                    self.told.push(("otlp_endpoint", toml::Value::String(text.clone()).to_string(), origin));
                    (endpoint.map(|_| text), protocol)
                }
            }
        };
        let service_name = self.or_standard(
            "otlp_service_name",
            args.otlp_service_name.as_ref(),
            standard.service_name,
            &defaults.service_name,
        );
        let trace_ratio = self.or_standard(
            "trace_ratio",
            args.trace_ratio.as_ref(),
            standard.ratio.map(|(ratio, variable)| (ratio.to_string(), variable)),
            &defaults.trace_ratio.to_string(),
        );
        Ok(TracesConfig {
            otlp_endpoint,
            protocol,
            export_timeout: standard.timeout.unwrap_or(defaults.export_timeout),
            attributes: standard.attributes,
            service_name: self.taken("otlp_service_name", service_name, "a name of 1 to 255 characters", |text| {
                (1..=255).contains(&text.chars().count()).then(|| text.to_owned())
            })?,
            trace_ratio: self.taken("trace_ratio", trace_ratio, "a number from 0 to 1", |text| {
                text.parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio))
            })?,
            traces_per_second_max: self.count(
                "traces_per_second_max",
                args.traces_per_second_max.as_ref(),
                defaults.traces_per_second_max.into(),
                1,
                TRACES_PER_SECOND_MAX.into(),
            )? as u32,
        })
    }

    /// The text of a setting. A standard variable, without our prefix, counts only where none of our own sources sets
    /// it.
    fn or_standard(
        &mut self,
        name: &'static str,
        flag: Option<&String>,
        standard: Option<(String, &'static str)>,
        default: &str,
    ) -> (String, Source) {
        match (self.text(name, flag, default), standard) {
            ((_, Source::Default), Some((text, variable))) => (text, Source::Variable(variable.to_owned())),
            (ours, _) => ours,
        }
    }

    fn taken<T>(
        &mut self,
        name: &'static str,
        (text, origin): (String, Source),
        expected: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, ConfigError> {
        let Some(value) = parse(&text) else {
            return Err(ConfigError::Value { setting: name, origin, got: text, expected: expected.to_owned() });
        };
        self.told.push((name, toml::Value::String(text).to_string(), origin));
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ServeArgs, Settings};

    fn traces(args: TracesArgs, variables: &[(&str, &str)]) -> Result<TracesConfig, ConfigError> {
        let variables: Vec<_> = variables.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        let args = ServeArgs { traces: args, ..ServeArgs::default() };
        Settings::from(&args, &variables).map(|settings| settings.server.traces)
    }

    #[test]
    fn tracing_is_off_by_default() {
        assert_eq!(traces(TracesArgs::default(), &[]).expect("defaults"), TracesConfig::default());
        assert_eq!(TracesConfig::default().otlp_endpoint, None);
    }

    #[test]
    fn our_settings_override_otel_variables() {
        let theirs = [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317"), ("OTEL_SERVICE_NAME", "embeddings")];
        let config = traces(TracesArgs::default(), &theirs).expect("valid");
        assert_eq!(config.otlp_endpoint.as_deref(), Some("http://collector:4317"));
        assert_eq!(config.service_name, "embeddings");
        let ours = [&theirs[..], &[("HALFHITCH_OTLP_ENDPOINT", "")]].concat();
        assert_eq!(traces(TracesArgs::default(), &ours).expect("valid").otlp_endpoint, None, "taken back");
        let off = [&theirs[..], &[("OTEL_SDK_DISABLED", "true")]].concat();
        assert_eq!(traces(TracesArgs::default(), &off).expect("valid").otlp_endpoint, None, "turned off");
        let flags = TracesArgs { otlp_service_name: Some("mine".to_owned()), ..TracesArgs::default() };
        assert_eq!(traces(flags, &theirs).expect("valid").service_name, "mine");
    }

    #[track_caller]
    fn check_refused(args: TracesArgs, texts: &[&str]) {
        let error = traces(args, &[]).expect_err("refused").to_string();
        for text in texts {
            assert!(error.contains(text), "{error:?} does not say {text:?}");
        }
    }

    #[test]
    fn errors_name_the_invalid_setting() {
        for wrong in ["collector:4317", "http://", "ftp://a:1", "http://a b:1"] {
            let args = TracesArgs { otlp_endpoint: Some(wrong.to_owned()), ..TracesArgs::default() };
            check_refused(args, &["otlp_endpoint", wrong, "http://HOST:PORT"]);
        }
        for wrong in ["-0.1", "1.1", "NaN", "half", ""] {
            let args = TracesArgs { trace_ratio: Some(wrong.to_owned()), ..TracesArgs::default() };
            check_refused(args, &["trace_ratio", "a number from 0 to 1"]);
        }
        let args = TracesArgs { traces_per_second_max: Some("0".to_owned()), ..TracesArgs::default() };
        check_refused(args, &["traces_per_second_max", "from 1 to 100000"]);
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
            traces(TracesArgs::default(), &[(name, value)]).unwrap_or_else(|error| panic!("{name}={value}: {error}"));
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
            let args = TracesArgs { otlp_endpoint: Some(url.to_owned()), ..TracesArgs::default() };
            let config = traces(args, &[]).expect("valid");
            assert_eq!((config.otlp_endpoint.as_deref(), config.protocol), (Some(url), protocol));
        }
    }

    #[test]
    fn a_password_is_not_shown() {
        let args = TracesArgs { otlp_endpoint: Some("http://me:secret@host:1".to_owned()), ..TracesArgs::default() };
        let error = traces(args, &[]).expect_err("refused").to_string();
        assert!(!error.contains("secret"), "{error}");
    }
}
