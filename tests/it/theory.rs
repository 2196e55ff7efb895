//! Known properties of tied weights, reproduced by the trainer: a linear model gets orthonormal rows; L2 in the loss
//! breaks this predictably; saturating units need a gain.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use halfhitch::files::{self, ReadOptions};
use halfhitch::model::inspect::{Inspection, inspect};
use halfhitch::model::{Decoder, Loss, Matrix, NormalizationKind, Values, canonicalize, orthonormalize_code};
use halfhitch::numeric::linalg::{Pca, RowsInTurn, covariance, orthonormalize_rows};
use halfhitch::numeric::rng::{Stream, Use};
use halfhitch::numeric::{Activation, BufferPool, PanelMatrix};
use halfhitch::training::{Event, MemoryRows, Next, RowSource, Start, TrainSpec, Trained, train};

use crate::support::data;

/// The digits, 64 pixels from 0 to 16, without labels.
fn digits() -> Vec<f32> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/data/digits.csv.gz");
    let options = ReadOptions { drop_columns: vec!["65".to_owned()], ..ReadOptions::default() };
    let mut reader = files::open(&path, &options).expect("the digits");
    let mut values = Vec::new();
    while reader.next_rows(&mut values, 4096).expect("rows") > 0 {}
    assert_eq!(values.len(), 1797 * 64);
    files::narrow(&values)
}

fn trained(spec: TrainSpec, values: &[f32]) -> Trained {
    let features = spec.widths[0];
    let rows: Arc<dyn RowSource> = Arc::new(MemoryRows::new(values.to_vec(), features));
    let none = MemoryRows::new(Vec::new(), features);
    let pool = rayon::ThreadPoolBuilder::new().build().expect("threads");
    let spec = TrainSpec { validation_fraction: Some(0.0), ..spec }.check().expect("a specification");
    train(&spec, &rows, &[], &none, Start::Fresh, &pool, &mut |_: &Event| Next::GoOn).expect("trains")
}

fn seen(trained: &Trained, values: &[f32]) -> Inspection {
    let features = trained.model.spec().features();
    let rows = u32::try_from(values.len() / features).expect("few");
    let rows = Matrix::new(rows, features as u32, Values::Floats(values.to_vec())).expect("a matrix");
    inspect(&trained.model, Some(&rows)).expect("small matrices")
}

/// A linear model with squared error, on the digits divided by 16.
fn linear(code: usize) -> TrainSpec {
    TrainSpec {
        hidden_activation: Some(Activation::Linear),
        code_activation: Some(Activation::Linear),
        output_activation: Some(Activation::Linear),
        loss: Some(Loss::SquaredError),
        normalization: Some(NormalizationKind::UnitInterval),
        value_range: Some((0.0, 16.0)),
        epochs: Some(500),
        seed: 1,
        ..TrainSpec::new("linear".parse().expect("a name"), vec![64, code])
    }
}

/// The 60,000 training images, if they are available.
fn mnist() -> Option<Vec<f32>> {
    let path = data::folder()?.join("mnist/train-images-idx3-ubyte.gz");
    let mut reader = files::open(&path, &ReadOptions::default()).expect("images");
    let mut images = Vec::new();
    while reader.next_rows(&mut images, 10_000).expect("images") > 0 {}
    Some(files::narrow(&images))
}

/// The same for these images, divided by 255.
fn linear_mnist(code: usize) -> TrainSpec {
    TrainSpec { widths: vec![784, code], value_range: Some((0.0, 255.0)), epochs: Some(60), ..linear(code) }
}

#[test]
fn a_linear_model_becomes_pca_with_orthonormal_rows() {
    let digits = digits();
    for code in [8, 30] {
        let seen = seen(&trained(linear(code), &digits), &digits);
        let (layer, figures) = (&seen.layers[0], seen.comparison.expect("rows"));
        let inverse = figures.pseudo_inverse.clone().expect("it has one");
        println!(
            "k = {code}: {:.6} of PCA's error, defect {:.1e}, transpose {:.6} pseudo-inverse {inverse:.6}",
            figures.transpose / figures.pca,
            layer.defect.frobenius,
            figures.transpose
        );
        assert!(figures.transpose < 1.001 * figures.pca, "k = {code}: {figures:?}");
        assert!(layer.defect.frobenius < 1e-3, "k = {code}: {:?}", layer.defect);
        assert!((figures.transpose / inverse - 1.0).abs() < 1e-4, "k = {code}");
    }
}

#[test]
fn gram_schmidt_keeps_information_but_changes_reconstructions() {
    let digits = digits();
    let mut spec = linear(8);
    spec.regularization.l2 = 0.05;
    let before = trained(spec, &digits);
    let (model, report) = (orthonormalize_code(&before.model, None).expect("linear").0, before.report.clone());
    let after = Trained { model, report, statistics: None };
    let [old, new] = [&before, &after].map(|of| seen(of, &digits).comparison.expect("rows"));
    let [old_inverse, new_inverse] = [&old, &new].map(|of| of.pseudo_inverse.clone().expect("it has one"));
    println!("with the pseudo-inverse {old_inverse:.5} -> {new_inverse:.5}, PCA {:.5}", old.pca);
    println!("with the transpose {:.5} -> {:.5}", old.transpose, new.transpose);
    assert!((new_inverse / old_inverse - 1.0).abs() < 1e-4, "the same information");
    assert!((new.transpose / old.transpose - 1.0).abs() > 0.01, "another reconstruction");
}

/// Mean squared error of a row, in input units, after decoding codes cut to their first `m` numbers.
fn cut_short(trained: &Trained, values: &[f32], m: usize) -> f64 {
    let features = trained.model.spec().features();
    let rows = values.len() / features;
    let mut lanes = PanelMatrix::zeros(rows, features);
    lanes.load(0, values);
    let buffers = &mut BufferPool::default();
    let mut codes = trained.model.encode(&lanes, buffers);
    codes.each_column_mut(|j, part| {
        if j >= m {
            part.fill(0.0);
        }
    });
    let decoded = trained.model.decode(&codes, Decoder::Transpose, buffers);
    let scale = f64::from(trained.model.normalizer().unit(0));
    let squares = lanes.values().iter().zip(decoded.values()).map(|(a, b)| (f64::from(a - b) / scale).powi(2));
    squares.sum::<f64>() / rows as f64
}

/// The model itself, and the model with canonical codes.
fn canonical(trained: Trained) -> (Trained, Trained) {
    let (model, statistics) = canonicalize(&trained.model, trained.statistics.as_ref()).expect("a linear code");
    let report = trained.report.clone();
    (trained, Trained { model, report, statistics: Some(statistics) })
}

#[track_caller]
fn check_cut_short(trained: &Trained, values: &[f32], range: f64, lengths: &[usize]) {
    let features = trained.model.spec().features();
    let table = Table(values.iter().map(|value| f64::from(*value) / range).collect(), features);
    let k = trained.model.spec().code_length();
    let along = variances(&table, k);
    let mean: Vec<f64> =
        (0..features).map(|j| table.0.iter().skip(j).step_by(features).sum::<f64>() / table.rows() as f64).collect();
    let spread = table.0.chunks_exact(features).flat_map(|row| row.iter().zip(&mean).map(|(x, m)| (x - m).powi(2)));
    let spread = spread.sum::<f64>() / table.rows() as f64;
    for m in lengths {
        let (error, pca) = (cut_short(trained, values, *m), spread - along[..*m].iter().sum::<f64>());
        println!("k = {k}, cut to {m}: {error:.4}, {:.5} of PCA's with {m}", error / pca);
        assert!(error < 1.01 * pca, "cut to {m}: {error}, PCA has {pca}");
    }
}

#[test]
fn canonical_codes_can_be_truncated() {
    let digits = digits();
    let (plain, turned) = canonical(trained(linear(30), &digits));
    let (before, after) = (cut_short(&plain, &digits, 30), cut_short(&turned, &digits, 30));
    assert!((after / before - 1.0).abs() < 1e-5, "{before} {after}");
    check_cut_short(&turned, &digits, 16.0, &(1..=30).collect::<Vec<_>>());
    // Cutting codes that are not canonical loses much more.
    assert!(cut_short(&plain, &digits, 8) > 1.2 * cut_short(&turned, &digits, 8));
}

#[test]
#[ignore = "takes a minute: cargo test --release --test it mnist_codes -- --ignored --nocapture"]
fn mnist_codes_can_be_truncated() {
    let Some(images) = mnist() else { return eprintln!("skipped: no data for tests") };
    let (plain, turned) = canonical(trained(linear_mnist(30), &images));
    let mut lanes = PanelMatrix::zeros(60_000, 784);
    lanes.load(0, &images);
    let buffers = &mut BufferPool::default();
    let [before, after] = [&plain, &turned].map(|of| of.model.reconstruct(&lanes, Decoder::Transpose, buffers).rows);
    let largest = before.values().iter().zip(after.values()).map(|(a, b)| (a - b).abs()).fold(0.0f32, f32::max);
    let size = before.values().iter().fold(0.0f32, |most, value| most.max(value.abs()));
    println!("a reconstructed pixel changes by at most {:.1e} of the largest", largest / size);
    assert!(largest < 1e-5 * size, "{largest} of {size}");
    let codes = turned.model.encode(&lanes, buffers);
    let mut values = vec![0.0; 60_000 * 30];
    codes.store(0..60_000, &mut values);
    let covariance = covariance(&values, 30, |_| true).1;
    let off = |i: usize, j: usize| covariance[i * 30 + j].abs() / (covariance[i * 31] * covariance[j * 31]).sqrt();
    let largest = (0..30).flat_map(|i| (0..i).map(move |j| (i, j))).map(|(i, j)| off(i, j)).fold(0.0, f64::max);
    println!("codes are correlated by at most {largest:.1e}");
    assert!(largest < 1e-3, "{largest}");
    check_cut_short(&turned, &images, 255.0, &(1..=30).collect::<Vec<_>>());
}

/// Row-major values, and the row width.
struct Table(Vec<f64>, usize);

impl RowsInTurn for Table {
    fn rows(&self) -> usize {
        self.0.len() / self.1
    }
    fn columns(&self) -> usize {
        self.1
    }
    fn each(&self, found: &mut dyn FnMut(&[f64]) -> ControlFlow<()>) -> ControlFlow<()> {
        self.0.chunks_exact(self.1).try_for_each(found)
    }
}

/// The `k` greatest variances along principal directions, in descending order.
fn variances(table: &Table, k: usize) -> Vec<f64> {
    let pca = Pca::fit(table, k, &mut || ControlFlow::Continue(())).expect("goes on");
    let directions = pca.directions();
    let mut sums = vec![0.0; k];
    pca.residuals(table, |centered, _| {
        for (sum, direction) in sums.iter_mut().zip(directions.chunks_exact(table.1).rev()) {
            *sum += direction.iter().zip(centered).map(|(w, x)| w * x).sum::<f64>().powi(2);
        }
    });
    sums.into_iter().map(|sum| sum / table.rows() as f64).collect()
}

/// Trains with L2 in the loss; `range` is the greatest possible value.
#[track_caller]
fn check_shrunk(mut spec: TrainSpec, values: &[f32], range: f64) {
    const L2: f64 = 0.05;
    spec.regularization.l2 = L2;
    let (features, k) = (spec.widths[0], spec.widths[1]);
    let seen = seen(&trained(spec, values), values);
    let table = Table(values.iter().map(|value| f64::from(*value) / range).collect(), features);
    let predicted: Vec<f64> = variances(&table, k).iter().map(|variance| (1.0 - L2 / variance).max(0.0)).collect();
    for (singular, predicted) in seen.layers[0].singular_values.iter().zip(&predicted) {
        println!("eigenvalue {:.4}, predicted {predicted:.4}", singular * singular);
        assert!((singular * singular - predicted).abs() < 0.01 * predicted, "{predicted}");
    }
    let figures = seen.comparison.expect("rows");
    let inverse = figures.pseudo_inverse.clone().expect("it has one");
    println!(
        "of PCA's error: transpose {:.4}, pseudo-inverse {:.4}",
        figures.transpose / figures.pca,
        inverse / figures.pca
    );
    assert!(figures.transpose > inverse, "{figures:?}");
    assert!(inverse < 1.001 * figures.pca, "{figures:?}");
}

#[test]
fn l2_shrinks_eigenvalues_and_the_pseudo_inverse_repairs_it() {
    check_shrunk(linear(8), &digits(), 16.0);
}

#[test]
#[ignore = "takes some minutes: cargo test --release --test it mnist_eigenvalues -- --ignored --nocapture"]
fn mnist_eigenvalues_shrink_as_predicted() {
    let Some(images) = mnist() else { return eprintln!("skipped: no data for tests") };
    for code in [8, 30] {
        check_shrunk(linear_mnist(code), &images, 255.0);
    }
}

/// 2,000 normal rows of 20 features, with standard deviations from `greatest` down to a hundredth of it along random
/// directions.
fn toy(greatest: f64) -> Vec<f32> {
    const D: usize = 20;
    let mut stream = Stream::new(7, 0, 0, Use::Sample);
    let mut directions: Vec<f64> = (0..D * D).map(|_| stream.normal()).collect();
    orthonormalize_rows(&mut directions, D);
    let mut rows = Vec::new();
    for _ in 0..2000 {
        let along: Vec<f64> = (0..D).map(|i| greatest * stream.normal() * 10f64.powf(-(i as f64) / 9.5)).collect();
        rows.extend((0..D).map(|j| (0..D).map(|i| along[i] * directions[i * D + j]).sum::<f64>() as f32));
    }
    rows
}

#[test]
fn saturating_units_need_a_gain_and_produce_a_warning() {
    let run = |activation, gain, greatest| {
        let toy = toy(greatest);
        let spec = TrainSpec {
            encoder_activations: vec![Some(activation)],
            output_activation: Some(Activation::Linear),
            loss: Some(Loss::SquaredError),
            normalization: Some(NormalizationKind::None),
            gain,
            epochs: Some(300),
            seed: 1,
            ..TrainSpec::new("toy".parse().expect("a name"), vec![20, 5])
        };
        let trained = trained(spec, &toy);
        let figures = seen(&trained, &toy).comparison.expect("rows");
        let ratio = figures.transpose / figures.pca;
        let warned = trained.report.notes.iter().any(|note| note.contains("turn `gain` on"));
        println!(
            "deviations from {greatest}, {activation:?}{}: {ratio:.3} of PCA's error",
            if gain { " with gain" } else { "" }
        );
        (ratio, warned)
    };
    let elu = Activation::Elu { alpha: 1.0 };
    for bent in [Activation::Linear, Activation::Relu, elu, Activation::LeakyRelu { slope: 0.01 }] {
        let (ratio, warned) = run(bent, false, 1.0);
        assert!(ratio < 1.05 && !warned, "{bent:?}: {ratio}");
    }
    for saturating in [Activation::Tanh, Activation::Sigmoid] {
        for (greatest, at_least, at_most) in [(1.0, 1.3, 1.2), (2.0, 2.3, 1.2)] {
            let ((tied, warned), (gained, warned_with_gain)) =
                (run(saturating, false, greatest), run(saturating, true, greatest));
            assert!(tied > at_least && warned, "{saturating:?}: {tied}");
            assert!(gained < at_most && !warned_with_gain, "{saturating:?} with gain: {gained}");
        }
    }
}
