//! The `halfhitch` program: parses the command line, runs the command and prints its error.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use halfhitch::cli::{self, Cli};

fn main() -> ExitCode {
    match cli::run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Standard error may be closed: ignore the failure.
            let _ = writeln!(std::io::stderr(), "halfhitch: {error}");
            error.exit_code()
        }
    }
}
