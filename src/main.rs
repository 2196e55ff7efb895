//! The program: reads the command, runs it, says what went wrong.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use halfhitch::cli::{self, Cli};

fn main() -> ExitCode {
    match cli::run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Standard error may be closed.
            let _ = writeln!(std::io::stderr(), "halfhitch: {error}");
            error.exit_code()
        }
    }
}
