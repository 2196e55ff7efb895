//! The command line. Each command has its own file; all but `serve` and `token` are clients of the gRPC API.

#![deny(clippy::print_stdout, clippy::print_stderr, reason = "they panic when a pipe is closed: see print.rs")]

#[macro_use]
mod print;

mod cancel;
mod client;
mod curve;
mod data;
mod draw;
mod duration;
mod error;
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
mod train_args;
mod uploading;
mod writing;

use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::files::FileError;
pub use error::CliError;
use print::{OutputClosed, OutputFailed};

/// Train and serve tied-weight autoencoders over gRPC.
///
/// Decoder layers use the transposes of the encoder's matrices, so a model stores half as many weights. One process
/// trains and serves. The client commands call the same gRPC API as any other client.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Start with:\n  halfhitch quickstart                      train and use a model of handwritten digits\n  halfhitch serve                           start a server on 127.0.0.1:50051\n  halfhitch train NAME rows.npy --code 8    train a model on your rows\n  halfhitch encode NAME rows.npy -o codes.npy"
)]
pub struct Cli {
    #[command(flatten)]
    client: crate::config::ClientArgs,
    /// Print results as JSON, one object per line
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start the server
    Serve(Box<crate::config::ServeArgs>),
    /// Train a model of handwritten digits, encode and decode them; needs no server and no files
    Quickstart(quickstart::QuickstartArgs),
    /// Train a model on rows in files
    Train(Box<train_args::TrainArgs>),
    /// Encode rows to codes
    Encode(rows::EncodeArgs),
    /// Decode codes to rows; name the version or alias that made the codes
    Decode(rows::DecodeArgs),
    /// Encode and decode rows, and report the error of each row
    Reconstruct(rows::ReconstructArgs),
    /// Fill in missing values of rows
    Impute(impute::ImputeArgs),
    /// Score how unusual rows are: p-values, alarms and the features that contribute most
    Score(score::ScoreArgs),
    /// Show how orthonormal the matrices of a model are, and compare decoders: transpose, pseudo-inverse, PCA
    Inspect(inspect::InspectArgs),
    /// Write one HTML page about a model: its training, matrices and errors, and rows beside their reconstructions
    Report(Box<report_page::ReportArgs>),
    /// List, show, import, export, alias and delete published models
    #[command(subcommand)]
    Models(models::ModelsCommand),
    /// List, show, watch, pause, resume and cancel training jobs
    #[command(subcommand)]
    Jobs(jobs::JobsCommand),
    /// Create a token for a client, and its entry for the credentials file of the server
    Token(token::TokenArgs),
    /// Check whether the server is ready: exit code 0 if it is
    Health(health::HealthArgs),
}

/// Runs the command.
///
/// [`CliError`]: what went wrong and what to do next.
pub fn run(cli: Cli) -> Result<(), CliError> {
    crate::files::output::remove_unfinished_at_interrupt();
    match catch_unwind(AssertUnwindSafe(|| dispatch(cli))) {
        // A closed output is not an error: `| head -1` has read its line.
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
    reading::print_notes_in_json(cli.json);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::Failed(format!("cannot start the async runtime: {error}")))?;
    let context = client::Context::new(crate::client::ClientSettings::load(cli.client), cli.json);
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

/// Exit codes: 2 for a mistake in the command, 130 after an interrupt, 1 for every other error.
impl CliError {
    /// The exit code of the process.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Usage(_) => ExitCode::from(2),
            // 128 plus the number of SIGINT, as shells do.
            Self::Interrupted(_) => ExitCode::from(130),
            _ => ExitCode::FAILURE,
        }
    }

    /// Whether the reader of standard output has closed it.
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
