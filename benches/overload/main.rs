//! Overload: throughput, responses and memory with far more work than the server can do.

#[path = "../load/mod.rs"]
mod load;
#[path = "../support/mod.rs"]
mod support;

mod answer;
mod bulk;
mod callers;
mod closed;
mod fair;
mod memory;
mod open;
mod rolling;
mod training;

use std::process::ExitCode;

use load::{Cores, Failure, publish};
use support::{Options, Report};

const ABOUT: &str = "\
closed: ten times the callers that saturate the server, 64 rows per request, two large models, deadlines of 2 s.
Rejected callers wait for the retry delay in RetryInfo. Prints throughput against the saturated maximum, p99 of
accepted requests against the deadline, every status, memory (last third against middle third), and the p99 of a small
model's callers, alone and under the flood. The queue limit is lowered so that the flood fills it.
bulk: streams with more rows than the server can process, together with single rows of a few callers (their p99), then
with more single calls than the server can process. Prints rows/s of the streams.
fair: a small and a large model, each with more callers than the server can process. Prints rows/s of each against
half of its rate alone.
training: a training job together with more callers than the server can process, then with a few. Prints steps/s
against the job alone, the share of its runnable time that it ran, and the loss of the callers.
open: single rows at rising rates, deadlines of 50 ms; every fifth caller cancels at a random instant. Prints results
against offered requests.
rolling: two servers on one store are replaced one after the other at 3,000 single rows per second. The client uses
the servers that are ready and never retries. Prints p99 against that without replacement, failed requests, and
received responses against the servers' counts. A lost request voids the run.
An error under load that the API does not document voids the run.";

fn main() -> ExitCode {
    let options = Options::from_arguments(ABOUT);
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("overload: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), Failure> {
    let mut report = Report::new("overload", options);
    let cores = Cores::take();
    report.note(&cores.describe());
    let store = tempfile::tempdir()?;
    publish(store.path())?;
    // One thread, because the clients have one core.
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let mut closed = Ok(());
        if options.wants(&closed::case_name()) {
            closed = closed::run(cores, store.path(), options.quick, &mut report).await;
        }
        let mut fair = Ok(());
        if options.wants(&fair::case_name()) {
            fair = fair::run(cores, store.path(), options.quick, &mut report).await;
        }
        let mut bulk = Ok(());
        if options.wants(&bulk::case_name()) {
            bulk = bulk::run(cores, store.path(), options.quick, &mut report).await;
        }
        let mut training = Ok(());
        if options.wants(&training::case_name()) {
            training = training::run(cores, store.path(), options.quick, &mut report).await;
        }
        let mut rolling = Ok(());
        if options.wants(&rolling::case_name()) {
            rolling = rolling::run(cores, store.path(), options, &mut report).await;
        }
        closed
            .and(fair)
            .and(bulk)
            .and(training)
            .and(rolling)
            .and(open::run(cores, store.path(), options, &mut report).await)
    })
}
