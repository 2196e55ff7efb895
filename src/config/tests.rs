use std::collections::BTreeSet;
use std::time::Duration;

use super::setting::{Kind, parse_bytes};
use super::*;
use crate::batching::BatchingConfig;
use crate::server::TransportConfig;

pub(super) fn variables(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// Flags by the names of their settings.
pub(super) fn args(flags: &[(&'static str, &str)]) -> ServeArgs {
    let written = flags.iter().map(|(name, text)| (*name, (*text).to_owned()));
    ServeArgs { settings: SettingFlags(written.collect()), ..ServeArgs::default() }
}

impl ServeArgs {
    fn set(&mut self, name: &'static str, text: &str) {
        self.settings.0.insert(name, text.to_owned());
    }
}

fn with_file(text: &str) -> (tempfile::TempDir, ServeArgs) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("halfhitch.toml");
    std::fs::write(&path, text).expect("writes");
    (folder, ServeArgs { config: Some(path), ..ServeArgs::default() })
}

#[test]
fn everything_has_a_default() {
    let settings = Settings::from(&ServeArgs::default(), &[]).expect("defaults");
    assert_eq!(settings.listen, ADDRESS_DEFAULT);
    assert_eq!(settings.server.batching, BatchingConfig::default());
    assert!(settings.effective.iter().all(|(_, _, source)| *source == Source::Default));
}

#[test]
fn flags_override_variables_and_variables_override_files() {
    let (_folder, mut args) = with_file("batch_rows_max = 32\nqueue_rows_max = 33\nopen_jobs_max = 34\n");
    let variables = variables(&[("HALFHITCH_BATCH_ROWS_MAX", "64"), ("HALFHITCH_QUEUE_ROWS_MAX", "65")]);
    args.set("batch_rows_max", "128");
    let settings = Settings::from(&args, &variables).expect("valid");
    assert_eq!(settings.server.batching.batch_rows_max, 128);
    assert_eq!(settings.server.batching.queue_rows_max, 65);
    assert_eq!(settings.server.jobs.open_jobs_max, 34);
    let printed = settings.print();
    let line = |name: &str| printed.lines().find(|line| line.starts_with(name)).expect("printed").to_owned();
    assert!(line("batch_rows_max").ends_with("# flag"), "{printed}");
    assert!(line("queue_rows_max").ends_with("# variable HALFHITCH_QUEUE_ROWS_MAX"), "{printed}");
    assert!(line("open_jobs_max").contains("# file "), "{printed}");
}

#[test]
fn printed_settings_can_be_read_back() {
    let printed = Settings::from(&args(&[("message_bytes_max", "3MiB")]), &[]).expect("valid").print();
    let (_folder, args) = with_file(&printed);
    let again = Settings::from(&args, &[]).expect("valid");
    assert_eq!(again.server.transport.message_bytes_max, 3 << 20);
    assert!(again.effective.iter().all(|(_, _, source)| matches!(source, Source::File(_))));
}

#[test]
fn the_train_folder_is_unset_unless_a_setting_names_it() {
    assert_eq!(Settings::from(&ServeArgs::default(), &[]).expect("defaults").server.jobs.train_folder, None);
    let (_folder, mut args) = with_file("train_folder = \"from-file\"\n");
    let set = |args: &ServeArgs, pairs: &[(&str, &str)]| {
        Settings::from(args, &variables(pairs)).expect("valid").server.jobs.train_folder
    };
    assert_eq!(set(&args, &[]), Some("from-file".into()));
    let variable = ("HALFHITCH_TRAIN_FOLDER", "from-variable");
    assert_eq!(set(&args, &[variable]), Some("from-variable".into()));
    args.set("train_folder", "from-flag");
    assert_eq!(set(&args, &[variable]), Some("from-flag".into()));
    args.set("train_folder", "");
    assert_eq!(set(&args, &[variable]), None, "a flag can take it back");
}

#[test]
fn checkpoint_seconds_accepts_fractions() {
    let every = |text: &str| {
        Settings::from(&args(&[("checkpoint_seconds", text)]), &[])
            .map(|settings| settings.server.jobs.checkpoint_every)
    };
    assert_eq!(every("0.25").expect("valid"), Duration::from_millis(250));
    assert_eq!(every("86400").expect("valid"), Duration::from_hours(24));
    for wrong in ["0", "-1", "NaN", "inf", "1e9", "soon", ""] {
        let error = every(wrong).expect_err("refused").to_string();
        assert!(error.contains("a number from 0.01 to 86400"), "{error}");
    }
}

#[test]
fn names_are_unique_and_make_flags_and_variables() {
    let names: BTreeSet<&str> = settings().map(|setting| setting.name).collect();
    assert_eq!(names.len(), settings().count());
    for setting in settings() {
        assert_eq!(setting.flag(), setting.name.replace('_', "-"));
        assert_eq!(setting.variable(), format!("HALFHITCH_{}", setting.name.to_uppercase()));
    }
}

#[test]
fn every_number_has_its_range() {
    for setting in settings() {
        let (min, max, outside) = match &setting.kind {
            Kind::Count { range, .. } | Kind::Bytes { range, .. } => {
                let below = range.start().checked_sub(1).map(|below| below.to_string());
                (range.start().to_string(), range.end().to_string(), [below, Some((range.end() + 1).to_string())])
            }
            Kind::Decimal { range, .. } => {
                let outside = [range.start() - 0.001, range.end() + 0.001].map(|number| Some(number.to_string()));
                (range.start().to_string(), range.end().to_string(), outside)
            }
            Kind::Text { .. } => continue,
        };
        for text in [&min, &max] {
            let mut values = Values::default();
            assert_eq!(setting.put(&mut values, text).as_ref(), Ok(text), "{}", setting.name);
            assert_eq!(&setting.default_text(&values), text, "{} is stored at its place", setting.name);
        }
        for text in outside.iter().flatten().map(String::as_str).chain(["", "some", "NaN"]) {
            let expected = setting.put(&mut Values::default(), text).expect_err("refused");
            assert!(expected.ends_with(&format!("from {min} to {max}")), "{}: {expected}", setting.name);
        }
    }
}

#[test]
fn the_default_of_every_setting_is_valid_and_in_its_help() {
    let defaults = Values::default();
    for setting in settings() {
        let text = setting.default_text(&defaults);
        let stored = setting.put(&mut Values::default(), &text);
        assert!(stored.is_ok(), "{}: {stored:?}", setting.name);
        assert!(setting.flag_help(&defaults).ends_with(']'), "{}", setting.name);
    }
    let help = |name: &str| settings().find(|setting| setting.name == name).expect("known").flag_help(&defaults);
    assert!(help("message_bytes_max").ends_with("[range: 1KiB to 2GiB] [default: 16MiB]"));
    assert!(help("checkpoint_seconds").ends_with("[range: 0.01 to 86400] [default: 30]"));
    assert!(help("credentials").ends_with("everything [default: none]"));
    assert!(help("serving_threads").ends_with("[range: 1 to 1024] [default: the number of cores]"));
}

#[test]
fn only_the_settings_of_versions_change_without_a_restart() {
    let before = Settings::from(&ServeArgs::default(), &[]).expect("defaults");
    let changed = args(&[("version_policy", "latest:1"), ("retention_days", "1"), ("calls_max", "7")]);
    let after = Settings::from(&changed, &[]).expect("valid");
    assert_eq!(before.fixed_differences(&after), ["calls_max"]);
}

#[test]
fn tls_settings_need_each_other() {
    for (flags, missing) in [
        (&[("tls_key", "k")][..], "tls_certificate"),
        (&[("tls_certificate", "c")][..], "tls_key"),
        (&[("tls_client_ca", "a")][..], "tls_certificate"),
        (&[("tls_certificate", "c"), ("tls_key", "k"), ("tls_client_crl", "l")][..], "tls_client_ca"),
        (&[("tls_certificate", "c"), ("tls_key", "k"), ("tls_client_optional", "true")][..], "tls_client_ca"),
    ] {
        check_error(&args(flags), &[], &[&format!("setting {missing} (default) is \"\", expected a file, since")]);
    }
}

#[test]
fn transport_settings_come_from_all_sources() {
    let defaults = Settings::from(&ServeArgs::default(), &[]).expect("defaults");
    assert_eq!(defaults.server.transport, TransportConfig::default());
    let (_folder, mut args) = with_file("stream_window_bytes = \"2MiB\"\nframe_bytes_max = 16384\n");
    args.set("connection_window_bytes", "8MiB");
    args.set("streams_per_connection_max", "7");
    let variables = variables(&[
        ("HALFHITCH_KEEPALIVE_INTERVAL_SECONDS", "0"),
        ("HALFHITCH_KEEPALIVE_TIMEOUT_SECONDS", "5"),
        ("HALFHITCH_CONNECTION_AGE_SECONDS_MAX", "600"),
    ]);
    let expected = TransportConfig {
        stream_window_bytes: 2 << 20,
        connection_window_bytes: 8 << 20,
        frame_bytes_max: 1 << 14,
        streams_per_connection_max: 7,
        keepalive_interval: None,
        keepalive_timeout: Duration::from_secs(5),
        connection_age_max: Some(Duration::from_mins(10)),
        ..TransportConfig::default()
    };
    assert_eq!(Settings::from(&args, &variables).expect("valid").server.transport, expected);
}

#[track_caller]
fn check_error(args: &ServeArgs, variables: &[(String, String)], texts: &[&str]) {
    let error = Settings::from(args, variables).expect_err("refused").to_string();
    for text in texts {
        assert!(error.contains(text), "{error:?} does not say {text:?}");
    }
}

#[test]
fn errors_name_the_setting_its_source_and_the_expected_value() {
    check_error(&args(&[("listen", "nowhere")]), &[], &["listen", "flag", "nowhere", "an address and a port"]);
    check_error(
        &ServeArgs::default(),
        &variables(&[("HALFHITCH_SERVING_THREADS", "0")]),
        &["serving_threads", "variable HALFHITCH_SERVING_THREADS", "\"0\"", "from 1 to 1024"],
    );
    check_error(
        &ServeArgs::default(),
        &variables(&[("HALFHITCH_FRAME_BYTES_MAX", "16MiB")]),
        &["frame_bytes_max", "variable HALFHITCH_FRAME_BYTES_MAX", "from 16384 to 16777215"],
    );
    let (_folder, args) = with_file("connection_window_bytes = \"512KiB\"\n");
    check_error(&args, &[], &["connection_window_bytes", "file ", "at least stream_window_bytes, 1048576"]);
    let (_folder, args) = with_file("keepalive_timeout_seconds = 0\n");
    check_error(&args, &[], &["keepalive_timeout_seconds", "from 1 to 86400"]);
    let (_folder, args) = with_file("batch_rows_max = -1\n");
    check_error(&args, &[], &["batch_rows_max", "file ", "\"-1\"", "a multiple of 16 from 16 to 65536"]);
    let (_folder, args) = with_file("batch_rows = 1\n");
    check_error(&args, &[], &["unknown key", "batch_rows", "batch_rows_max"]);
    let (_folder, args) = with_file("batch_rows_max = \n");
    check_error(&args, &[], &["not TOML"]);
    let gone = ServeArgs { config: Some("/nowhere/at/all.toml".into()), ..ServeArgs::default() };
    check_error(&gone, &[], &["/nowhere/at/all.toml"]);
}

#[test]
fn the_instruction_set_is_named_or_detected() {
    assert!(instructions(None).expect("the fastest").is_available());
    let error = instructions(Some("AVX512".into())).expect_err("refused").to_string();
    assert_eq!(error, "variable HALFHITCH_ISA: instruction set is `AVX512`, expected avx512, avx2 or portable");
}

#[test]
fn an_unknown_variable_causes_a_warning() {
    let settings = Settings::from(&ServeArgs::default(), &variables(&[("HALFHITCH_LISTN", "x"), ("PATH", "y")]));
    assert_eq!(settings.expect("valid").warnings.len(), 1);
}

#[test]
fn bytes_have_units() {
    assert_eq!(parse_bytes("17"), Some(17));
    assert_eq!(parse_bytes("2KiB"), Some(2048));
    assert_eq!(parse_bytes("3 GiB"), Some(3 << 30));
    for bad in ["", "KiB", "-1", "1.5MiB", "99999999999999GiB"] {
        assert_eq!(parse_bytes(bad), None, "{bad}");
    }
}
