//! The cost of gRPC and batching: the real server compared with a bare echo server and the model's own arithmetic.

#[path = "../load/mod.rs"]
mod load;
#[path = "../support/mod.rs"]
mod support;

mod beside;
mod case;
mod drive;
mod echo;
mod h2load;
mod raw;
mod tonic_client;

use std::process::ExitCode;

use case::Case;
use drive::{Driver, Shape};
use load::{Cores, EMBED, Failure, MNIST_DEEP, TELEMETRY, publish};
use support::{Options, Report};

const ABOUT: &str = "\
Requests to the real server, compared with a bare echo server with the same bytes (echo) and the model's own
arithmetic on the same core (compute). Each round measures all three in turn; figures are medians over the rounds. A
request costs at least both:
  ceiling of requests/s = 1 / (1 / echo + 1 / compute)
Compute uses batches of the request's rows; for single rows, batches of as many rows as there are callers. The ratio
is the median over the rounds. A run is void if server and client count different numbers of responses.
Uses h2load (Debian: nghttp2-client) where it is installed.

--beside PROGRAM also measures another build of this program, such as that of the previous commit, in turn on the same
core. The ceiling column shows its figures; the ratio is the median over pairs of neighboring bursts.";

fn main() -> ExitCode {
    let outcome = echo::run_if_asked().unwrap_or_else(|| {
        let options = Options::with_another_build(ABOUT);
        run(&options)
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("serving: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), Failure> {
    let mut report = Report::new("serving", options);
    let (cores, driver) = (Cores::take(), Driver::choose());
    report.note(&cores.describe());
    if driver == Driver::Tonic {
        report.note("h2load is not installed: using a client in Rust, which is itself the limit for small messages");
    }
    if let Some(other) = &options.beside {
        for case in cases().iter().filter(|case| options.wants(&case.name())) {
            beside::measure(case, other, (cores, driver), options.quick, &mut report)?;
        }
        return Ok(());
    }
    let store = tempfile::tempdir()?;
    publish(store.path())?;
    for case in cases().iter().filter(|case| options.wants(&case.name())) {
        let figures = case.measure(cores, driver, store.path(), options.quick)?;
        figures.print(&case.name(), case.rows, &mut report);
    }
    Ok(())
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for model in [MNIST_DEEP, EMBED, TELEMETRY] {
        for (rows, callers) in [(1, 1), (1, 16), (1, 64), (64, 4)] {
            for connections in [1, 4] {
                if connections <= callers {
                    cases.push(Case { model, rows, shape: Shape { callers, connections } });
                }
            }
        }
    }
    cases
}
