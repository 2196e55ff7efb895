//! Measures whether tying reduces overfitting: tied and untied models on few rows.

mod rows;
#[path = "../support/mod.rs"]
mod support;

use std::ops::ControlFlow;

use halfhitch::model::Loss;
use halfhitch::numeric::linalg::{Pca, RowsInTurn};
use halfhitch::numeric::rng::{Stream, Use};
use halfhitch::numeric::{PanelMatrix, init};
use rayon::prelude::*;

use rows::{Rows, Table, digits, mnist};
use support::untied::{Network, Tying, orthonormal};
use support::{Line, Options, Report, mean_and_deviation, median};

const ABOUT: &str = "\
Autoencoders of the same architecture, tied and untied (an experiment: halfhitch serves no untied models), trained on
few rows: 784-256-30 on 100, 300, 1000 and 3000 images of MNIST, 64-32-8 on 100, 300 and 1000 digits of
`examples/data`. Both start from the same weights: the untied decoder starts from copies of them or, in `untied
apart`, from other weights of its own. Both see the same mini-batches of 50, equally often; Adam with one constant
rate. ELU units, a linear code, a linear output, and the squared error of values from 0 to 1. Training minimizes the
measured error, which PCA minimizes among linear models.
Errors are per row: means and standard deviations over seeds. Each seed has its own training rows, first weights and
order (1000 digits are all there are). Held-out rows are the same for all: every other test image, and 797 digits.
They are measured after each of the first ten epochs, and then at epochs each a tenth later than the last. The best of
these is an upper bound for early stopping, because the held-out rows themselves choose it. The ceiling column shows
PCA of the same training rows with the same number of components. Last, tied against untied; the ratio is the median
over the seeds.
With --quick: a tenth of the epochs, two seeds instead of three, and no 3000 images.
MNIST needs the folder `mnist` of the test data: ../shared/data next to the project, or the folder in HALFHITCH_DATA.";

/// Rows of a mini-batch; divides every number of rows.
const BATCH: usize = 50;
const RATE: f32 = 1e-3;

/// A data set and the architecture for it.
struct Set {
    name: &'static str,
    widths: &'static [usize],
    /// Number of rows, and number of epochs on them.
    sizes: &'static [(usize, usize)],
    /// Reads the rows; `None` if they are not available.
    read: fn() -> Option<Rows>,
}

const SETS: [Set; 2] = [
    Set {
        name: "mnist",
        widths: &[784, 256, 30],
        sizes: &[(100, 2000), (300, 1500), (1000, 600), (3000, 500)],
        read: mnist,
    },
    Set {
        name: "digits",
        widths: &[64, 32, 8],
        sizes: &[(100, 5000), (300, 3000), (1000, 1000)],
        read: || Some(digits()),
    },
];

/// Whether the decoder is tied to the encoder, and its first weights.
#[derive(Clone, Copy)]
enum Kind {
    Tied,
    Untied,
    /// Untied; the decoder starts from other weights than the encoder.
    Apart,
}

const KINDS: [(Kind, &str); 3] = [(Kind::Tied, "tied"), (Kind::Untied, "untied"), (Kind::Apart, "untied apart")];

/// Squared errors per row.
struct Found {
    training: f64,
    held_out: f64,
    best: f64,
    best_epoch: usize,
}

/// The figure's name, whether to compare it with PCA, and its value.
type Figure = (&'static str, bool, fn(&Found) -> f64);

fn main() {
    let options = Options::from_arguments(ABOUT);
    let mut report = Report::new("overfitting", &options);
    init(None).expect("the best of this machine");
    let (seeds, hurry, most) = if options.quick { (2, 10, 1000) } else { (3, 1, usize::MAX) };
    for Set { name, widths, sizes, read } in SETS {
        let case = |count| format!("{name} {count} rows");
        let wanted = |(count, _): &&(usize, usize)| *count <= most && options.wants(&case(*count));
        let sizes: Vec<&(usize, usize)> = sizes.iter().filter(wanted).collect();
        if sizes.is_empty() {
            continue;
        }
        let Some(rows) = read() else {
            report.note(&format!("{name}: skipped, the folder `{name}` of the test data does not exist"));
            continue;
        };
        for (count, epochs) in sizes {
            let epochs = epochs / hurry;
            let training: Vec<Table> = (1..=seeds).map(|seed| rows.training(*count, seed)).collect();
            let pca = training.par_iter().map(|training| pca(training, &rows, widths[widths.len() - 1]));
            let pca: Vec<f64> = pca.collect();
            let jobs = (1..=seeds).zip(&training).flat_map(|job| KINDS.map(|(kind, _)| (job, kind)));
            let jobs: Vec<((u64, &Table), Kind)> = jobs.collect();
            let found = jobs.par_iter().map(|((seed, training), kind)| {
                let (held_out, network) = (rows.held_out(), network(widths, *kind, *seed));
                train(network, training, held_out, epochs, *seed)
            });
            print(&case(*count), epochs, mean_and_deviation(&pca).0, &found.collect::<Vec<_>>(), &mut report);
        }
    }
}

/// The held-out error of PCA fitted to the training rows.
fn pca(training: &Table, rows: &Rows, components: usize) -> f64 {
    let pca = Pca::fit(training, components, &mut || ControlFlow::Continue(()));
    rows.error_of(&pca.expect("a decomposition"))
}

fn network(widths: &[usize], kind: Kind, seed: u64) -> Network {
    let (first, loss) = (orthonormal(widths, seed), Loss::SquaredError);
    match kind {
        Kind::Tied => Network::new(&first, Tying::Tied, loss),
        Kind::Untied => Network::new(&first, Tying::Untied, loss),
        Kind::Apart => Network::apart(&first, &orthonormal(widths, seed + 1000), loss),
    }
}

fn train(mut network: Network, training: &Table, held_out: &[PanelMatrix], epochs: usize, seed: u64) -> Found {
    let mut order: Vec<usize> = (0..training.rows()).collect();
    let mut batch = Vec::new();
    let (mut best, mut best_epoch, mut look_at, mut last) = (f64::INFINITY, 0, 1, f64::NAN);
    for epoch in 1..=epochs {
        Stream::new(seed, epoch as u64, 0, Use::Shuffle).shuffle(&mut order);
        for chosen in order.chunks(BATCH) {
            batch.clear();
            chosen.iter().for_each(|row| batch.extend_from_slice(training.row(*row)));
            network.load(&batch);
            network.step(RATE);
        }
        if epoch == look_at || epoch == epochs {
            last = network.squared_error(held_out);
            if last < best {
                (best, best_epoch) = (last, epoch);
            }
            look_at = (epoch + 1).max((epoch as f64 * 1.1) as usize);
        }
    }
    Found { training: network.squared_error(&training.lanes()), held_out: last, best, best_epoch }
}

/// Prints the figures; `found` has all kinds of the first seed, then those of the next.
fn print(name: &str, epochs: usize, pca: f64, found: &[Found], report: &mut Report) {
    let of = |kind: usize| found.iter().skip(kind).step_by(KINDS.len());
    let figures: [Figure; 4] = [
        ("training error", false, |found| found.training),
        ("held-out error", true, |found| found.held_out),
        ("gap", false, |found| found.held_out - found.training),
        ("best held-out", true, |found| found.best),
    ];
    for (i, (_, kind)) in KINDS.iter().enumerate() {
        let case = format!("{name} {kind}");
        for (what, is_beside_pca, value) in figures {
            let (mean, deviation) = mean_and_deviation(&of(i).map(value).collect::<Vec<_>>());
            if is_beside_pca {
                report.against(&case, mean, &format!("{what}, vs PCA"), pca);
            } else {
                report.figure(&case, mean, what);
            }
            report.figure(&case, deviation, &format!("{what}, sd"));
        }
        let epoch = median(of(i).map(|found| found.best_epoch as f64));
        report.against(&case, epoch, "best epoch, of all", epochs as f64);
    }
    for (i, (_, kind)) in KINDS.iter().enumerate().skip(1) {
        let case = format!("{name} tied vs {kind}");
        for (what, _, value) in figures {
            let mean = |kind: usize| of(kind).map(value).sum::<f64>() / of(kind).count() as f64;
            let ratio = median(of(0).zip(of(i)).map(|(tied, untied)| value(tied) / value(untied)));
            report.line(&Line { case: &case, figure: mean(0), unit: what, ceiling: Some(mean(i)), ratio: Some(ratio) });
        }
    }
}
