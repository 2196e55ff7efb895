//! The kernels compared with the limits of the machine: the FMA peak and, for one row, the speed of reading weights.

#[path = "../support/mod.rs"]
mod support;

use std::hint::black_box;
use std::time::Instant;

use halfhitch::numeric::kernels::ceiling;
use halfhitch::numeric::matmul::Weights;
use halfhitch::numeric::{Isa, PanelMatrix, init};
use support::{Line, Options, Report, median};

const ABOUT: &str = "\
Products of one layer on one thread, without bias and activation, in both directions from one copy of W. Every
instruction set with vectors that this machine supports is measured. Each round measures the FMA peak and the product
in turn; the ratio is the median over the rounds. For one row it also prints GB/s of weights, compared with plain
reads of as many bytes.";

/// Inputs and outputs of layers.
const SHAPES: [(usize, usize); 7] =
    [(784, 1000), (1000, 500), (500, 250), (250, 30), (1536, 384), (64, 32), (2048, 2048)];
const ROWS: [usize; 8] = [1, 4, 8, 16, 24, 64, 256, 1024];
const DIRECTIONS: [&str; 2] = ["encode", "decode"];
/// Steps of a peak measurement; each is 12 vector FMAs.
const PEAK_STEPS: usize = 100_000;

fn main() {
    let options = Options::from_arguments(ABOUT);
    let mut report = Report::new("roofline", &options);
    let (rounds, seconds) = if options.quick { (5, 0.002) } else { (9, 0.02) };
    for isa in Isa::available().filter(|isa| *isa != Isa::Portable) {
        // All remaining instruction sets are available on this machine.
        init(Some(isa)).expect("available");
        for (inputs, outputs) in SHAPES {
            let weights = Weights::from_row_major(outputs, inputs, &numbers(outputs * inputs));
            for rows in ROWS {
                for direction in DIRECTIONS {
                    let case = format!("{direction} {inputs}x{outputs} rows={rows} threads=1 isa={isa}");
                    if options.wants(&case) {
                        measure(&case, isa, direction, &weights, rows, rounds, seconds, &mut report);
                    }
                }
            }
        }
    }
}

/// The figure of one round, its ceiling, and their ratio.
struct Round {
    figure: f64,
    ceiling: f64,
}

#[expect(clippy::too_many_arguments, reason = "a case and how to measure it")]
fn measure(
    case: &str,
    isa: Isa,
    direction: &str,
    weights: &Weights,
    rows: usize,
    rounds: usize,
    seconds: f64,
    report: &mut Report,
) {
    let (x_columns, encode) = match direction {
        "encode" => (weights.inputs(), true),
        _ => (weights.outputs(), false),
    };
    let mut x = PanelMatrix::zeros(rows, x_columns);
    x.load(0, &numbers(rows * x_columns));
    let mut y = PanelMatrix::default();
    let mut product = || {
        if encode {
            weights.encode(black_box(&x), &mut y);
        } else {
            weights.decode(black_box(&x), &mut y);
        }
        black_box(y.values());
    };
    let flops = 2.0 * (rows * weights.inputs() * weights.outputs()) as f64;
    let bytes = 4.0 * (weights.inputs() * weights.outputs()) as f64;
    let (mut peaks, mut reads) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let started = Instant::now();
        let (sum, peak_flops) = ceiling::multiply_adds(isa, PEAK_STEPS);
        black_box(sum);
        let peak = peak_flops / started.elapsed().as_secs_f64();
        let rate = 1.0 / time(&mut product, seconds);
        peaks.push(Round { figure: flops * rate / 1e9, ceiling: peak / 1e9 });
        if rows == 1 {
            let read = 1.0 / time(|| _ = black_box(ceiling::read(isa, black_box(weights.panels()))), seconds);
            let rate = rate.max(1.0 / time(&mut product, seconds));
            reads.push(Round { figure: bytes * rate / 1e9, ceiling: bytes * read / 1e9 });
        }
    }
    print(case, "GFLOP/s", &peaks, report);
    if rows == 1 {
        print(case, "GB/s of weights", &reads, report);
    }
}

fn print(case: &str, unit: &str, rounds: &[Round], report: &mut Report) {
    report.line(&Line {
        case,
        figure: median(rounds.iter().map(|round| round.figure)),
        unit,
        ceiling: Some(median(rounds.iter().map(|round| round.ceiling))),
        ratio: Some(median(rounds.iter().map(|round| round.figure / round.ceiling))),
    });
}

/// Seconds per run, measured over at least `seconds`.
fn time(mut run: impl FnMut(), seconds: f64) -> f64 {
    run();
    let (mut runs, started) = (0.0, Instant::now());
    loop {
        run();
        runs += 1.0;
        let elapsed = started.elapsed().as_secs_f64();
        if elapsed >= seconds {
            return elapsed / runs;
        }
    }
}

/// Deterministic numbers from -0.5 to 0.5.
fn numbers(count: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 7_919) % 1_009) as f32 / 1_009.0 - 0.5).collect()
}
