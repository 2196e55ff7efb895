//! Measures the cost of decoding with the pseudo-inverse, compared with the transpose.

#[path = "../load/mod.rs"]
mod load;
#[path = "../support/mod.rs"]
mod support;

use std::hint::black_box;
use std::time::{Duration, Instant};

use halfhitch::model::{Autoencoder, Decoder, PseudoInverse};
use halfhitch::numeric::{BufferPool, PanelMatrix, init};
use load::{EMBED, MNIST_DEEP, TELEMETRY};
use support::{Line, Options, Report, median};

const ABOUT: &str = "\
Decodes codes on one thread, without a server, with the transpose and with the pseudo-inverse in turn. The ceiling
column shows the speed of the transpose; the ratio is the median over the rounds. Then the bytes of each decoder: the
tensors, with each matrix counted once, and the additional factors of the pseudo-inverse. Last, the time to compute
these factors, once per version.";

/// Rows of a batch: a single caller, a small batch, a large batch.
const ROWS: [usize; 3] = [1, 16, 256];

fn main() {
    let options = Options::from_arguments(ABOUT);
    let mut report = Report::new("decoders", &options);
    init(None).expect("the best of this machine");
    let (rounds, at_least) = if options.quick { (3, 100) } else { (7, 400) };
    for benchmark in [MNIST_DEEP, EMBED, TELEMETRY] {
        let name = benchmark.name;
        let cases = ROWS.map(|rows| (rows, format!("{name} rows={rows}")));
        let of_bytes = format!("{name} bytes");
        if !cases.iter().any(|(_, case)| options.wants(case)) && !options.wants(&of_bytes) {
            continue;
        }
        let model = benchmark.build();
        let started = Instant::now();
        let inverse = PseudoInverse::of(&model).expect("random matrices have full rank");
        let made = started.elapsed();
        for (rows, case) in cases.into_iter().filter(|(_, case)| options.wants(case)) {
            let codes = model.encode(&benchmark.batch(rows), &mut BufferPool::default());
            let pairs = measure(&model, &inverse, &codes, rounds, Duration::from_millis(at_least));
            print(&case, &pairs, &mut report);
        }
        if options.wants(&of_bytes) {
            let tensors = model.spec().tensor_bytes() as f64;
            report.figure(&of_bytes, tensors, "bytes, transpose");
            report.against(&of_bytes, tensors + inverse.bytes() as f64, "bytes, pseudo-inverse", tensors);
            report.figure(&of_bytes, made.as_secs_f64() * 1e3, "ms to compute the factors, once");
        }
    }
}

/// Rows per second with the transpose and with the pseudo-inverse, for each round.
fn measure(
    model: &Autoencoder,
    inverse: &PseudoInverse,
    codes: &PanelMatrix,
    rounds: usize,
    at_least: Duration,
) -> Vec<(f64, f64)> {
    let buffers = &mut BufferPool::default();
    let mut rate = |decoder| {
        let (started, mut rows) = (Instant::now(), 0);
        while started.elapsed() < at_least {
            let decoded = model.decode(codes, decoder, buffers);
            buffers.put(black_box(decoded));
            rows += codes.rows();
        }
        rows as f64 / started.elapsed().as_secs_f64()
    };
    (0..rounds).map(|_| (rate(Decoder::Transpose), rate(Decoder::PseudoInverse(inverse)))).collect()
}

fn print(case: &str, pairs: &[(f64, f64)], report: &mut Report) {
    let transpose = median(pairs.iter().map(|(transpose, _)| *transpose));
    report.figure(case, transpose, "rows/s, transpose");
    report.line(&Line {
        case,
        figure: median(pairs.iter().map(|(_, inverse)| *inverse)),
        unit: "rows/s, pseudo-inverse",
        ceiling: Some(transpose),
        ratio: Some(median(pairs.iter().map(|(transpose, inverse)| inverse / transpose))),
    });
}
