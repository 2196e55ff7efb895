//! Whether tying keeps a model from overfitting: tied beside untied, on few rows.

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
Autoencoders of one architecture, tied and untied (an experiment: halfhitch serves no untied models), trained on few rows:
784-256-30 on 100, 300, 1000 and 3000 images of MNIST, 64-32-8 on 100, 300 and 1000 digits of `examples/data`. Both begin
with the same weights, the untied decoder with copies of them or, `untied apart`, with others of its own, and see the same
mini-batches of 50 as often; Adam at one constant rate. ELU units, a linear code and a linear output, squared error of the
values from 0 to 1: what is trained is what is measured, and what PCA leaves least of among linear models.
Errors by row, means and standard deviations over seeds, each with its own training rows, first weights and order (of the
digits 1000 are all that there are). Held-out rows are the same for all: every other test image, and 797 digits. They are
measured at the end of the first ten epochs, and then of epochs each a tenth later than the one before; the best of these is
what stopping early could reach at most, told by the held-out rows themselves. Where a ceiling would stand is PCA of the same
training rows with as many components. Last, tied beside untied; the ratio is the median of the seeds' ratios.
With --quick a tenth of the epochs, two seeds instead of three, and no 3000 images.
MNIST wants the folder `mnist` of the data for tests: beside the project, in ../shared/data, or where HALFHITCH_DATA says.";

/// Every number of rows is a multiple of it.
const BATCH: usize = 50;
const RATE: f32 = 1e-3;

/// What is trained on what.
struct Set {
    name: &'static str,
    widths: &'static [usize],
    /// How many rows, how many epochs of them.
    sizes: &'static [(usize, usize)],
    /// `None` where they are not there.
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

/// Whether the decoder is one with the encoder, and how it begins.
#[derive(Clone, Copy)]
enum Kind {
    Tied,
    Untied,
    /// The decoder has first weights of its own.
    Apart,
}

const KINDS: [(Kind, &str); 3] = [(Kind::Tied, "tied"), (Kind::Untied, "untied"), (Kind::Apart, "untied apart")];

/// Squared errors by row.
struct Found {
    training: f64,
    held_out: f64,
    best: f64,
    best_epoch: usize,
}

/// What it is, whether it stands beside that of PCA, and where it is.
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
            report.note(&format!("{name}: skipped, there is no folder `{name}` of the data for tests"));
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

/// What PCA of the training rows leaves of the held-out ones.
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

/// `found`: the kinds of a seed, seed by seed.
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
                report.against(&case, mean, &format!("{what}, beside PCA's"), pca);
            } else {
                report.figure(&case, mean, what);
            }
            report.figure(&case, deviation, &format!("{what}, sd"));
        }
        let epoch = median(of(i).map(|found| found.best_epoch as f64));
        report.against(&case, epoch, "epoch of the best, of all", epochs as f64);
    }
    for (i, (_, kind)) in KINDS.iter().enumerate().skip(1) {
        let case = format!("{name} tied beside {kind}");
        for (what, _, value) in figures {
            let mean = |kind: usize| of(kind).map(value).sum::<f64>() / of(kind).count() as f64;
            let ratio = median(of(0).zip(of(i)).map(|(tied, untied)| value(tied) / value(untied)));
            report.line(&Line { case: &case, figure: mean(0), unit: what, ceiling: Some(mean(i)), ratio: Some(ratio) });
        }
    }
}
