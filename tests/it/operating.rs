//! Compares the help and the operator's guide with the program: every setting with its default, every metric, every
//! cause.

use std::collections::BTreeMap;
use std::thread::available_parallelism;

use clap::CommandFactory;
use halfhitch::cli::Cli;
use halfhitch::telemetry::measures::Cause;
use halfhitch::telemetry::metrics;

use crate::support::process::halfhitch;

const GUIDE: &str = include_str!("../../docs/operating.md");
/// Options that are not settings themselves.
const NO_SETTINGS: [&str; 3] = ["config", "print-config", "help"];

/// The cells of the table with this header.
fn table(head: &str) -> Vec<Vec<&'static str>> {
    let (_, table) = GUIDE.split_once(head).unwrap_or_else(|| panic!("no table {head:?}"));
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    rows.map(|row| row.trim_matches('|').split(" | ").map(str::trim).collect()).collect()
}

/// The names in a cell.
fn names(cell: &'static str) -> impl Iterator<Item = &'static str> {
    cell.split('`').skip(1).step_by(2)
}

/// Converts a default of the help to the form of `--print-config`.
fn meant(text: &str) -> String {
    // Where another variable can set the default first.
    let text = text.rsplit_once(", or ").map_or(text, |(_, last)| last);
    let units = [("KiB", 10), ("MiB", 20), ("GiB", 30)];
    let bytes = units.iter().find_map(|(unit, shift)| {
        let count: u64 = text.strip_suffix(unit)?.parse().ok()?;
        Some((count << shift).to_string())
    });
    match text {
        "none" | "empty" => String::new(),
        "the number of cores" => available_parallelism().expect("known").to_string(),
        _ => bytes.unwrap_or_else(|| text.to_owned()),
    }
}

/// The defaults from `--print-config`.
fn defaults() -> BTreeMap<String, String> {
    let printed = halfhitch().args(["serve", "--print-config"]).output().expect("runs").stdout;
    let printed: toml::Table = String::from_utf8(printed).expect("text").parse().expect("TOML");
    let text = |value: toml::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    printed.into_iter().map(|(name, value)| (name, text(value))).collect()
}

#[test]
fn help_lists_the_settings_with_their_defaults() {
    let command = Cli::command();
    let serve = command.find_subcommand("serve").expect("there is one");
    let settings = serve.get_arguments().filter(|argument| !argument.is_global_set());
    let told: BTreeMap<String, String> = settings
        .filter_map(|argument| Some((argument.get_long()?, argument.get_help()?.to_string())))
        .filter(|(name, _)| !NO_SETTINGS.contains(name))
        .map(|(name, help)| {
            let (_, default) =
                help.rsplit_once("[default: ").unwrap_or_else(|| panic!("{name} has no default: {help}"));
            (name.replace('-', "_"), meant(default.trim_end_matches(']')))
        })
        .collect();
    assert_eq!(told, defaults());
    for flag in ["--config", "--print-config"] {
        assert!(GUIDE.contains(&format!("{flag}`")), "{flag}");
    }
}

#[test]
fn the_guide_lists_every_metric() {
    let told: BTreeMap<&str, &str> =
        table("| metric | type |").iter().map(|row| (row[0].trim_matches('`'), row[1])).collect();
    let all: BTreeMap<&str, &str> = metrics::ALL.iter().map(|metric| (metric.name, metric.kind())).collect();
    assert_eq!(told, all);
}

#[test]
fn the_guide_lists_every_cause() {
    let told: Vec<&str> = table("| code | cause |").iter().flat_map(|row| names(row[1])).collect();
    for cause in Cause::ALL {
        assert!(told.contains(&cause.word()), "{}", cause.word());
    }
}
