//! The arguments of a benchmark: `cargo bench --bench NAME -- [--quick] [--json] [FILTER]`.

use std::path::PathBuf;
use std::process::exit;

const USAGE: &str = "
Arguments: [--quick] [--json] [FILTER]
  FILTER   run only cases whose name contains this text
  --quick  finish in less than a minute; figures are noisier
  --json   print one object per line: bench, case, figure, unit, ceiling, ratio; ceiling and ratio can be null
  --help   print this text";

/// The parsed arguments.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// Print JSON.
    pub(crate) json: bool,
    /// Finish in less than a minute.
    pub(crate) quick: bool,
    /// Another build of the program to compare with.
    pub(crate) beside: Option<PathBuf>,
    filter: Option<String>,
}

impl Options {
    /// Reads this process's arguments. `about` describes the benchmark. Exits after `--help` or on invalid arguments.
    pub(crate) fn from_arguments(about: &str) -> Self {
        let options = Self::with_another_build(about);
        if options.beside.is_some() {
            eprintln!("this benchmark does not support --beside\n{USAGE}");
            exit(2);
        }
        options
    }

    /// Like [`Self::from_arguments`], for a benchmark that accepts `--beside PROGRAM`.
    pub(crate) fn with_another_build(about: &str) -> Self {
        match Self::parse(std::env::args().skip(1)) {
            Ok(Some(options)) => options,
            Ok(None) => {
                println!("{about}\n{USAGE}");
                exit(0);
            }
            Err(reason) => {
                eprintln!("{reason}\n{USAGE}");
                exit(2);
            }
        }
    }

    /// `None`: print the help.
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Option<Self>, String> {
        let mut options = Self::default();
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--json" => options.json = true,
                "--quick" => options.quick = true,
                "--beside" => {
                    options.beside = Some(arguments.next().ok_or("--beside needs the path of a program")?.into());
                }
                "--help" | "-h" => return Ok(None),
                // Cargo passes this to every benchmark.
                "--bench" => {}
                flag if flag.starts_with('-') => return Err(format!("unknown argument {flag:?}")),
                filter => {
                    if let Some(first) = options.filter.replace(filter.to_owned()) {
                        return Err(format!("two filters, {first:?} and {filter:?}, expected at most one"));
                    }
                }
            }
        }
        Ok(Some(options))
    }

    /// Whether the filter includes this case.
    pub(crate) fn wants(&self, case: &str) -> bool {
        self.filter.as_deref().is_none_or(|filter| case.contains(filter))
    }
}
