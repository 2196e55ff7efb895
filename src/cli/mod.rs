//! The command line: clients of the same gRPC API, one file a command.

#![deny(clippy::print_stdout, clippy::print_stderr, reason = "they panic when a pipe is closed: see print.rs")]

#[macro_use]
mod print;

mod client;
mod connect;
mod curve;
mod data;
mod draw;
mod duration;
mod follow;
mod health;
mod impute;
mod inspect;
mod jobs;
mod live;
mod models;
mod picture;
mod quickstart;
mod reading;
mod report;
mod report_page;
mod rows;
mod score;
mod serve;
mod token;
mod train;
mod writing;

use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::files::FileError;
pub use client::CliError;
use print::{OutputClosed, OutputFailed};

/// Train and serve tied-weight autoencoders over gRPC.
///
/// Decoder layers use the transposes of the encoder's matrices, so a model stores half of them. One process trains and
/// serves; everything here is also an RPC.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Begin with:\n  halfhitch quickstart                      see it work on handwritten digits\n  halfhitch serve                           start a server on 127.0.0.1:50051\n  halfhitch train NAME rows.npy --code 8    train a model of your rows\n  halfhitch encode NAME rows.npy -o codes.npy"
)]
pub struct Cli {
    #[command(flatten)]
    client: crate::config::ClientArgs,
    /// Answer in JSON, one object a line, for programs
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start the server
    Serve(Box<crate::config::ServeArgs>),
    /// Train, encode and decode handwritten digits, all in one go and with nothing to prepare
    Quickstart(quickstart::QuickstartArgs),
    /// Train a model of rows in files
    Train(Box<train::TrainArgs>),
    /// Rows to codes
    Encode(rows::EncodeArgs),
    /// Codes back to rows; the version must be named
    Decode(rows::DecodeArgs),
    /// Rows to codes and back, with the error of each row
    Reconstruct(rows::ReconstructArgs),
    /// Fill in what is missing of rows
    Impute(rows::ImputeArgs),
    /// How unusual rows are, with p-values, alarms and the features behind them
    Score(score::ScoreArgs),
    /// How orthonormal the matrices of a model are, and what decodes best: transpose, pseudo-inverse or PCA
    Inspect(inspect::InspectArgs),
    /// One HTML page about a model: how it was trained, its matrices, its errors, and rows beside their reconstructions
    Report(Box<report_page::ReportArgs>),
    /// List, show, move and remove published models
    #[command(subcommand)]
    Models(models::ModelsCommand),
    /// List, show, watch and cancel training jobs
    #[command(subcommand)]
    Jobs(jobs::JobsCommand),
    /// Make a token for a client, and the entry of the server's credentials file that makes it known
    Token(token::TokenArgs),
    /// Ask the server whether it is ready: exit code 0 if it is
    Health(health::HealthArgs),
}

/// Runs the command.
///
/// # Errors
/// What went wrong, with what to do next.
pub fn run(cli: Cli) -> Result<(), CliError> {
    match catch_unwind(AssertUnwindSafe(|| dispatch(cli))) {
        // `| head -1` has what it wants.
        Ok(Err(error)) if error.is_closed_output() => Ok(()),
        Ok(ended) => ended,
        Err(payload) if payload.is::<OutputClosed>() => Ok(()),
        Err(payload) => match payload.downcast::<OutputFailed>() {
            Ok(failed) => Err(CliError::Failed(format!("standard output: {}", failed.0))),
            Err(panic) => resume_unwind(panic),
        },
    }
}

fn dispatch(cli: Cli) -> Result<(), CliError> {
    crate::config::choose_instructions()?;
    if let Command::Serve(args) = &cli.command {
        return serve::run(args);
    }
    if let Command::Token(args) = &cli.command {
        return token::run(args, cli.json);
    }
    if let Command::Quickstart(args) = &cli.command {
        return quickstart::run(args, cli.json);
    }
    reading::tell_in_json(cli.json);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::Failed(format!("no runtime: {error}")))?;
    let context = client::Context::new(crate::config::ClientSettings::load(cli.client), cli.json);
    runtime.block_on(async move {
        let done = match cli.command {
            Command::Serve(_) | Command::Quickstart(_) | Command::Token(_) => Ok(()),
            Command::Train(args) => train::run(&context, *args).await,
            Command::Encode(args) => rows::encode(&context, args).await,
            Command::Decode(args) => rows::decode(&context, args).await,
            Command::Reconstruct(args) => rows::reconstruct(&context, args).await,
            Command::Impute(args) => impute::run(&context, args).await,
            Command::Score(args) => score::run(&context, args).await,
            Command::Inspect(args) => inspect::run(&context, args).await,
            Command::Report(args) => report_page::run(&context, *args).await,
            Command::Models(command) => models::run(&context, command).await,
            Command::Jobs(command) => jobs::run(&context, command).await,
            Command::Health(args) => health::run(&context, args).await,
        };
        match done {
            Ok(()) => Ok(()),
            Err(error) => Err(context.clarified(error).await),
        }
    })
}

/// What the exit code is: 2 for a mistake in the command, 130 for one that was interrupted, 1 for everything else.
impl CliError {
    /// For `main`.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Usage(_) => ExitCode::from(2),
            // 128 and the number of SIGINT, as shells do.
            Self::Interrupted(_) => ExitCode::from(130),
            _ => ExitCode::FAILURE,
        }
    }

    /// Whether the reader of standard output has gone.
    fn is_closed_output(&self) -> bool {
        let Self::File(FileError::Io { path, source }) = self else { return false };
        path == "-" && source.kind() == ErrorKind::BrokenPipe
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_commands_are_consistent() {
        super::Cli::command().debug_assert();
    }
}
