//! Training steps compared with the FMA peak of the same threads.

#[path = "../support/mod.rs"]
mod support;
mod untied;

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use halfhitch::model::Loss;
use halfhitch::numeric::kernels::ceiling;
use halfhitch::numeric::{init, isa};
use halfhitch::training::{
    CheckedTrainSpec, Event, Initialization, MemoryRows, Next, Observer, RowSource, Start, TrainSpec, train,
};
use support::{Line, Options, Report, median};

const ABOUT: &str = "\
Training steps: gather and normalize a mini-batch, forward pass, backward pass, AdamW update. Prints samples per
second, and GFLOP/s of the matrix products, compared with the FMA peak of the same number of threads. The products are
the forward pass through both sides, the backward pass through both (except to the input rows), and the gradient of
both uses. Each round measures both in turn; the ratio is the median over the rounds. At the end, the same step is
measured tied and untied (an experiment): one matrix per pair saves memory traffic in the optimizer.";

/// Name, widths, loss.
const MODELS: [(&str, &[usize], Loss); 3] = [
    ("mnist-deep", &[784, 1000, 500, 250, 30], Loss::BinaryCrossEntropy),
    ("embed", &[1536, 384], Loss::SquaredError),
    ("telemetry", &[64, 32, 8], Loss::SquaredError),
];
const BATCHES: [u32; 4] = [32, 128, 512, 2048];
/// More rows than any batch, and more than the caches hold.
const ROWS: usize = 8192;
/// Steps of a peak measurement; each is 12 vector FMAs.
const PEAK_STEPS: usize = 300_000;

fn main() {
    let options = Options::from_arguments(ABOUT);
    let mut report = Report::new("training", &options);
    init(None).expect("the best of this machine");
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut threads: Vec<usize> = vec![1, cores];
    threads.dedup();
    for (name, widths, loss) in MODELS {
        let rows: Arc<dyn RowSource> = Arc::new(MemoryRows::new(numbers(ROWS * widths[0]), widths[0]));
        for batch in BATCHES {
            for &threads in &threads {
                let case = format!("{name} batch={batch} threads={threads}");
                if options.wants(&case) {
                    let rounds = measure(&specification(widths, loss, batch), &rows, threads, options.quick);
                    print(&case, widths, &rounds, &mut report);
                }
            }
        }
    }
    compare(&options, &mut report);
}

/// Compares tied and untied on one thread, in turn; the ceiling column shows the untied speed.
fn compare(options: &Options, report: &mut Report) {
    let (name, widths, _) = MODELS[0];
    for batch in [32, 128, 512] {
        let case = format!("{name} tied vs untied batch={batch} threads=1");
        if options.wants(&case) {
            let (rounds, seconds) = if options.quick { (3, 0.15) } else { (7, 0.6) };
            let (tied, untied, ratio) = untied::compare(widths, batch, rounds, seconds);
            let (figure, ceiling, ratio) = (tied, Some(untied), Some(ratio));
            report.line(&Line { case: &case, figure, unit: "samples/s, vs untied", ceiling, ratio });
        }
    }
}

/// A specification that never finishes.
fn specification(widths: &[usize], loss: Loss, batch_rows: u32) -> CheckedTrainSpec {
    let mut spec = TrainSpec::new("bench".parse().expect("a name"), widths.to_vec());
    (spec.loss, spec.batch_rows, spec.epochs) = (Some(loss), Some(batch_rows), Some(100_000));
    spec.validation_fraction = Some(0.0);
    spec.value_range = Some((0.0, 1.0));
    // The cheapest initialization.
    (spec.optimizer.learning_rate, spec.initialization) = (Some(1e-4), Some(Initialization::Glorot));
    spec.check().expect("a specification")
}

/// The results of a round.
struct Round {
    samples_per_second: f64,
    /// FMA peak of all threads together, in FLOP/s.
    peak: f64,
}

/// Times the steps, and the FMA peak between them.
struct Watch {
    wanted: usize,
    at_least: Duration,
    /// Start of this round, and the number of rows before it.
    since: Option<(Instant, u64)>,
    rounds: Vec<Round>,
}

impl Observer for Watch {
    fn look(&mut self, event: &Event) -> Next {
        if event.epoch_ended || event.step == 0 {
            return Next::GoOn;
        }
        let Some((since, rows)) = self.since else {
            self.since = Some((Instant::now(), event.rows_processed));
            return Next::GoOn;
        };
        let elapsed = since.elapsed();
        if elapsed >= self.at_least {
            let samples_per_second = (event.rows_processed - rows) as f64 / elapsed.as_secs_f64();
            self.rounds.push(Round { samples_per_second, peak: peak() });
            self.since = None;
        }
        if self.rounds.len() == self.wanted { Next::Stop } else { Next::GoOn }
    }

    fn save(&mut self, _: &[u8]) -> Result<(), String> {
        Ok(())
    }

    fn elapsed(&mut self) -> Duration {
        Duration::ZERO
    }
}

/// FMA peak of all threads of this pool together, in FLOP/s.
fn peak() -> f64 {
    let rates = rayon::broadcast(|_| {
        let started = Instant::now();
        let (sum, flops) = ceiling::multiply_adds(isa(), PEAK_STEPS);
        black_box(sum);
        flops / started.elapsed().as_secs_f64()
    });
    rates.iter().sum()
}

fn measure(spec: &CheckedTrainSpec, rows: &Arc<dyn RowSource>, threads: usize, quick: bool) -> Vec<Round> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
    let (wanted, at_least) = if quick { (3, 150) } else { (7, 600) };
    let mut watch = Watch { wanted, at_least: Duration::from_millis(at_least), since: None, rounds: Vec::new() };
    let none = MemoryRows::new(Vec::new(), spec.features());
    // The watch stops the training; that is not an error.
    let _ = train(spec, rows, &[], &none, Start::Fresh, &pool, &mut watch);
    assert_eq!(watch.rounds.len(), wanted, "training went on until all rounds were measured");
    watch.rounds
}

/// Floating-point operations of the products of a step, per row.
fn flops(widths: &[usize]) -> f64 {
    let sizes: Vec<usize> = widths.windows(2).map(|pair| pair[0] * pair[1]).collect();
    let all: usize = sizes.iter().sum();
    // Forward, backward and gradient of both uses of each matrix, without the backward pass to the input rows.
    (12 * all - 2 * sizes[0]) as f64
}

fn print(case: &str, widths: &[usize], rounds: &[Round], report: &mut Report) {
    let flops = flops(widths);
    let over = |f: &dyn Fn(&Round) -> f64| median(rounds.iter().map(f));
    report.figure(case, over(&|round| round.samples_per_second), "samples/s");
    report.line(&Line {
        case,
        figure: over(&|round| round.samples_per_second * flops / 1e9),
        unit: "GFLOP/s",
        ceiling: Some(over(&|round| round.peak / 1e9)),
        ratio: Some(over(&|round| round.samples_per_second * flops / round.peak)),
    });
}

/// Deterministic numbers from 0 to 1.
fn numbers(count: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 7_919) % 100_003) as f32 / 100_003.0).collect()
}
