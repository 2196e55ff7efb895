//! Far more work than the server can do: what it does get done, what it says to the rest, and what it keeps.

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
closed: ten times as many callers as saturate the server, 64 rows a request of two large models, each with a deadline of
2 s; who is refused waits as RetryInfo says. Throughput beside the saturated maximum, p99 of accepted requests beside the
deadline, every status, memory (last third beside middle third), and the p99 of a small model's callers, alone and in the
flood. The bound of the queue is lowered so that the flood fills it.
bulk: streams with more rows than can be served, beside single rows of a few callers (their p99), and beside more single calls
than can be served: rows/s of the streams.
fair: a small model and a large one, each with more callers than it can serve: rows/s of each beside half of what it does
alone.
training: a job beside more callers than can be served, and beside a few: its steps/s beside those when it has the server for
itself, its share of the time in which it could run; what the callers lose.
open: single rows at rising rates, deadlines of 50 ms, every fifth caller leaves at a random instant: results beside
requests offered.
rolling: two servers on one folder are replaced one after the other while 3,000 single rows a second come, from a client
that asks those that are ready and asks nothing twice: p99 beside that of the quiet servers, requests without an answer,
answers that came beside those that the servers count. A lost request voids the run.
An answer that the API does not promise under load voids the run.";

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
    // One thread: the clients have one core.
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
