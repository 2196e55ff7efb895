//! Settings of traces.

use http::Uri;

use super::layers::Layers;
use super::{ConfigError, Source};
use crate::telemetry::traces::{TRACES_PER_SECOND_MAX, TracesConfig};

/// Flags of traces, as written.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct TracesArgs {
    /// OpenTelemetry collector that traces go to, over gRPC, for example http://127.0.0.1:4317; empty: nothing is traced
    /// [default: OTEL_EXPORTER_OTLP_ENDPOINT of the environment, or empty]
    #[arg(long, value_name = "URL")]
    pub otlp_endpoint: Option<String>,
    /// What traces call this service [default: OTEL_SERVICE_NAME of the environment, or halfhitch]
    #[arg(long, value_name = "NAME")]
    pub otlp_service_name: Option<String>,
    /// Share of the calls that are traced whose callers say nothing of it, 0 to 1; a caller's `traceparent` is followed
    /// [default: 0.01]
    #[arg(long, value_name = "SHARE")]
    pub trace_ratio: Option<String>,
    /// Calls a second that are traced at most, whoever asks for it [default: 100]
    #[arg(long, value_name = "COUNT")]
    pub traces_per_second_max: Option<String>,
}

impl Layers<'_> {
    pub(super) fn traces(&mut self, args: &TracesArgs, defaults: &TracesConfig) -> Result<TracesConfig, ConfigError> {
        Ok(TracesConfig {
            otlp_endpoint: self.or_variable(
                "otlp_endpoint",
                args.otlp_endpoint.as_ref(),
                "OTEL_EXPORTER_OTLP_ENDPOINT",
                defaults.otlp_endpoint.as_deref().unwrap_or_default(),
                "http://HOST:PORT of a collector, without user and password",
                |text| if text.is_empty() { Some(None) } else { is_endpoint(text).then(|| Some(text.to_owned())) },
            )?,
            service_name: self.or_variable(
                "otlp_service_name",
                args.otlp_service_name.as_ref(),
                "OTEL_SERVICE_NAME",
                &defaults.service_name,
                "a name of 1 to 255 characters",
                |text| (1..=255).contains(&text.chars().count()).then(|| text.to_owned()),
            )?,
            trace_ratio: self.take(
                "trace_ratio",
                args.trace_ratio.as_ref(),
                &defaults.trace_ratio.to_string(),
                "a number from 0 to 1",
                |text| text.parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio)),
            )?,
            traces_per_second_max: self.count(
                "traces_per_second_max",
                args.traces_per_second_max.as_ref(),
                defaults.traces_per_second_max.into(),
                1,
                TRACES_PER_SECOND_MAX.into(),
            )? as u32,
        })
    }

    /// A setting that a variable without our prefix may have too, weaker than all of ours.
    fn or_variable<T>(
        &mut self,
        name: &'static str,
        flag: Option<&String>,
        variable: &str,
        default: &str,
        expected: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, ConfigError> {
        let (mut text, mut origin) = self.text(name, flag, default);
        if origin == Source::Default
            && let Some((_, theirs)) = self.variables.iter().find(|(other, text)| other == variable && !text.is_empty())
        {
            (text, origin) = (theirs.clone(), Source::Variable(variable.to_owned()));
        }
        let Some(value) = parse(&text) else {
            // It may have a password.
            let got = if text.contains('@') { "(not shown)".to_owned() } else { text };
            return Err(ConfigError::Value { setting: name, origin, got, expected: expected.to_owned() });
        };
        self.told.push((name, toml::Value::String(text).to_string(), origin));
        Ok(value)
    }
}

/// A host and a port, spoken to without TLS.
fn is_endpoint(text: &str) -> bool {
    let Ok(uri) = text.parse::<Uri>() else { return false };
    let has_place = uri.authority().is_some_and(|place| !place.host().is_empty() && !place.as_str().contains('@'));
    uri.scheme_str() == Some("http") && has_place && uri.path() == "/" && uri.query().is_none()
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
    fn nothing_is_traced_unless_somebody_says_so() {
        assert_eq!(traces(TracesArgs::default(), &[]).expect("defaults"), TracesConfig::default());
        assert_eq!(TracesConfig::default().otlp_endpoint, None);
    }

    #[test]
    fn the_variables_of_the_standard_are_weaker_than_ours() {
        let theirs = [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317"), ("OTEL_SERVICE_NAME", "embeddings")];
        let config = traces(TracesArgs::default(), &theirs).expect("valid");
        assert_eq!(config.otlp_endpoint.as_deref(), Some("http://collector:4317"));
        assert_eq!(config.service_name, "embeddings");
        let ours = [&theirs[..], &[("HALFHITCH_OTLP_ENDPOINT", "")]].concat();
        assert_eq!(traces(TracesArgs::default(), &ours).expect("valid").otlp_endpoint, None, "taken back");
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
    fn what_cannot_be_meant_is_named() {
        for wrong in ["collector:4317", "https://collector:4317", "http://", "http://a:1/path", "http://a b:1"] {
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
    fn a_password_is_not_shown() {
        let args = TracesArgs { otlp_endpoint: Some("http://me:secret@host:1".to_owned()), ..TracesArgs::default() };
        let error = traces(args, &[]).expect_err("refused").to_string();
        assert!(!error.contains("secret"), "{error}");
    }
}
