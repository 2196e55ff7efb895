//! The arguments of a benchmark: `cargo bench --bench NAME -- [--quick] [--json] [FILTER]`.

use std::path::PathBuf;
use std::process::exit;

const USAGE: &str = "
Arguments: [--quick] [--json] [FILTER]
  FILTER   only cases whose name contains this
  --quick  less than a minute in all; noisier
  --json   one object a line: bench, case, figure, unit, ceiling, ratio; ceiling and ratio are null where there is none
  --help   this text";

/// What was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// For programs rather than people.
    pub(crate) json: bool,
    /// Less than a minute.
    pub(crate) quick: bool,
    /// Another build of the program, to be measured beside this one.
    pub(crate) beside: Option<PathBuf>,
    filter: Option<String>,
}

impl Options {
    /// Reads this process's arguments. `about` says what the benchmark does; help and mistakes end the process.
    pub(crate) fn from_arguments(about: &str) -> Self {
        let options = Self::with_another_build(about);
        if options.beside.is_some() {
            eprintln!("this benchmark has no --beside\n{USAGE}");
            exit(2);
        }
        options
    }

    /// The same for a benchmark that has `--beside PROGRAM`.
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

    /// `None`: help is wanted.
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Option<Self>, String> {
        let mut options = Self::default();
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--json" => options.json = true,
                "--quick" => options.quick = true,
                "--beside" => {
                    options.beside = Some(arguments.next().ok_or("--beside wants the path of a program")?.into());
                }
                "--help" | "-h" => return Ok(None),
                // Cargo says this to every benchmark.
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

    /// Whether this case was asked for.
    pub(crate) fn wants(&self, case: &str) -> bool {
        self.filter.as_deref().is_none_or(|filter| case.contains(filter))
    }
}
