//! Error and training time on MNIST, compared with the published table.

#[path = "../support/mod.rs"]
mod support;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use halfhitch::files::{self, ReadOptions};
use halfhitch::model::Artifact;
use halfhitch::numeric::init;
use halfhitch::training::{CheckedTrainSpec, Event, MemoryRows, Next, Observer, RowSource, Start, TrainSpec, train};
use support::{Line, Options, Report, data};

const ABOUT: &str = "\
Trains 784-1000-500-250-30 on the 60,000 training images of MNIST. The 10,000 test images are used once, for the
squared error (pixels / 255, summed over pixels, mean over images). The published table (Hinton and Salakhutdinov
2006) has 3.00 for an untied autoencoder, 8.01 for logistic PCA and 13.87 for PCA. `auto`: a caller gives only the
widths and a time budget. `recipe`: trains on all rows, with all other options as `auto` chose them. `auto` holds rows
back and also prints the time until the held-out error was below 8.01 and 3.00.
Needs the folder `mnist` of the test data: ../shared/data next to the project, or the folder in HALFHITCH_DATA.
A case takes ten minutes. With --quick it takes one; its smaller budget gives a much higher error.";

const WIDTHS: [usize; 5] = [784, 1000, 500, 250, 30];
const SEEDS: [u64; 3] = [1, 2, 3];
/// Error of the untied autoencoder in the published table.
const PUBLISHED: f64 = 3.00;
const LOGISTIC_PCA: f64 = 8.01;
/// Epochs of `recipe`: as many as `auto` does in six to thirteen minutes on two cores.
const EPOCHS: u32 = 80;

fn main() {
    let options = Options::from_arguments(ABOUT);
    let mut report = Report::new("recipes", &options);
    init(None).expect("the best of this machine");
    let folder = data::folder().map(|folder| folder.join("mnist")).filter(|folder| folder.is_dir());
    let Some(folder) = folder else {
        report.note("skipped: the folder `mnist` of the test data does not exist");
        return;
    };
    let training: Arc<dyn RowSource> = Arc::new(read(&folder.join("train-images-idx3-ubyte.gz")));
    let test = read(&folder.join("t10k-images-idx3-ubyte.gz"));
    let seconds = if options.quick { 30 } else { 480 };
    for seed in SEEDS {
        let case = format!("mnist-deep auto budget={seconds}s seed={seed}");
        if options.wants(&case) {
            let asked = TrainSpec { time_budget: Some(Duration::from_secs(seconds)), ..asked(seed) };
            run(&case, &asked.check().expect("valid"), &training, &test, &mut report);
        }
        let epochs = if options.quick { 1 } else { EPOCHS };
        let case = format!("mnist-deep recipe epochs={epochs} seed={seed}");
        if options.wants(&case) && !(options.quick && seed > 1) {
            let asked = TrainSpec { epochs: Some(epochs), validation_fraction: Some(0.0), ..asked(seed) };
            run(&case, &asked.check().expect("valid"), &training, &test, &mut report);
        }
        if options.quick {
            break;
        }
    }
}

fn asked(seed: u64) -> TrainSpec {
    let spec = TrainSpec::new("mnist".parse().expect("a name"), WIDTHS.to_vec());
    TrainSpec { seed, value_range: Some((0.0, 255.0)), ..spec }
}

fn read(path: &Path) -> MemoryRows {
    let mut reader = files::open(path, &ReadOptions::default()).expect("images");
    let mut values = Vec::new();
    while reader.next_rows(&mut values, 10_000).expect("images") > 0 {}
    MemoryRows::new(files::narrow(&values), reader.columns())
}

/// Records when the held-out error was first below each bound.
struct Watch {
    started: Instant,
    below: Vec<(f64, Option<Duration>)>,
}

impl Observer for Watch {
    fn look(&mut self, event: &Event) -> Next {
        let now = self.started.elapsed();
        if let Some(error) = event.squared_error.filter(|_| event.epoch_ended) {
            let passed = self.below.iter_mut().filter(|(bound, when)| when.is_none() && error < *bound);
            passed.for_each(|(_, when)| *when = Some(now));
            eprintln!("{:4.0} s  epoch {} of {}: {error:.3}", now.as_secs_f64(), event.epoch, event.epoch_count);
        }
        Next::GoOn
    }

    fn save(&mut self, _: &[u8]) -> Result<(), String> {
        Ok(())
    }

    fn elapsed(&mut self) -> Duration {
        self.started.elapsed()
    }
}

fn run(case: &str, spec: &CheckedTrainSpec, training: &Arc<dyn RowSource>, test: &MemoryRows, report: &mut Report) {
    let pool = rayon::ThreadPoolBuilder::new().build().expect("threads");
    let below = vec![(LOGISTIC_PCA, None), (PUBLISHED, None)];
    let mut watch = Watch { started: Instant::now(), below };
    let trained = train(spec, training, &[], test, Start::Fresh, &pool, &mut watch).expect("trains");
    let seconds = watch.started.elapsed().as_secs_f64();
    for note in &trained.report.notes {
        report.note(note);
    }
    let error = trained.report.test.as_ref().expect("test rows").squared_error;
    report.line(&Line {
        case,
        figure: error,
        unit: "test error, vs published",
        ceiling: Some(PUBLISHED),
        ratio: Some(error / PUBLISHED),
    });
    report.figure(case, seconds, "s in total");
    for (bound, when) in watch.below {
        if let Some(when) = when {
            report.figure(case, when.as_secs_f64(), &format!("s until the held-out error was {bound:.2}"));
        }
    }
    let artifact = Artifact { model: trained.model, report: None, statistics: None, sha256: String::new() };
    let untied: usize = 2 * WIDTHS.windows(2).map(|pair| 4 * pair[0] * pair[1]).sum::<usize>();
    report.against(case, artifact.to_bytes().len() as f64, "bytes, vs untied matrices", untied as f64);
}
