//! Defaults for a caller who gives only a code length: held-out error is never much worse than that of PCA.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use halfhitch::files::{self, ReadOptions};
use halfhitch::numeric::rng::{Stream, Use};
use halfhitch::training::{Event, MemoryRows, Next, RowSource, Start, TrainSpec, train};

use crate::support::data;

/// Maximum relative excess over PCA's error.
const WORSE_MAX: f64 = 0.02;

/// Returns row-major values and the row width.
fn read(name: &str, bytes: impl Read + Send + 'static, options: &ReadOptions) -> (Vec<f32>, usize) {
    let mut reader = files::read(name, bytes, options).expect("a file of rows");
    let mut values = Vec::new();
    while reader.next_rows(&mut values, 4096).expect("rows") > 0 {}
    (files::narrow(&values), reader.columns())
}

/// Trains on four fifths of the rows, and compares with PCA on the rest.
#[track_caller]
fn check(name: &str, values: &[f32], features: usize, hidden: &[usize], code: usize) {
    let mut order: Vec<usize> = (0..values.len() / features).collect();
    Stream::new(20, 0, 0, Use::Sample).shuffle(&mut order);
    let row = |i: &usize| &values[i * features..(i + 1) * features];
    let test = order.split_off(order.len() * 4 / 5);
    let rows = |order: &[usize]| MemoryRows::new(order.iter().flat_map(row).copied().collect(), features);
    let (training, test): (Arc<dyn RowSource>, _) = (Arc::new(rows(&order)), rows(&test));

    let widths = [&[features], hidden, &[code]].concat();
    let spec = TrainSpec { seed: 1, ..TrainSpec::new("auto".parse().expect("a name"), widths.clone()) };
    let spec = spec.check().expect("a specification");
    let pool = rayon::ThreadPoolBuilder::new().build().expect("threads");
    let trained =
        train(&spec, &training, &[], &test, Start::Fresh, &pool, &mut |_: &Event| Next::GoOn).expect("trains");
    let figures = trained.report.test.expect("test rows");
    let ratio = figures.squared_error / figures.pca_squared_error;
    println!("{name} {widths:?}: {ratio:.3} of PCA's error");
    for note in &trained.report.notes {
        println!("  {note}");
    }
    assert!(ratio < 1.0 + WORSE_MAX, "{name} {widths:?}: {ratio} of PCA's error: {:?}", trained.report.notes);
    for choice in ["normalization", "loss", "batch size", "learning rate", "epochs", "validation"] {
        assert!(trained.report.notes.iter().any(|note| note.starts_with(choice)), "{name}: {choice} is not told");
    }
}

#[test]
fn defaults_are_at_most_2_percent_worse_than_pca_on_digits() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/data/digits.csv.gz");
    let bytes = std::fs::File::open(&path).expect("the digits");
    let (values, columns) = read("digits.csv.gz", bytes, &ReadOptions::default());
    // The last column is the label.
    let values: Vec<f32> = values.chunks_exact(columns).flat_map(|row| &row[..64]).copied().collect();
    check("digits", &values, 64, &[], 8);
    check("digits", &values, 64, &[32], 8);
}

#[test]
fn defaults_are_at_most_2_percent_worse_on_a_small_table() {
    let Some(folder) = data::folder() else { return eprintln!("skipped: no data for tests") };
    let (values, features, _) = data::labeled(&folder.join("adbench/18_Ionosphere.npz"));
    check("Ionosphere", &values, features, &[24], 8);
}

#[test]
#[ignore = "takes minutes: cargo test --release --test it auto -- --ignored --nocapture"]
fn defaults_are_at_most_2_percent_worse_on_all_data_sets() {
    let folder = data::folder().expect("data for tests");
    for set in ["adbench", "embeddings"] {
        let mut paths: Vec<PathBuf> =
            std::fs::read_dir(folder.join(set)).expect("sets").map(|entry| entry.expect("an entry").path()).collect();
        paths.sort();
        for path in paths {
            let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
            let (values, features, _) = data::labeled(&path);
            let code = (features / 4).clamp(2, 32);
            check(&name, &values, features, &[], code);
            check(&name, &values, features, &[usize::midpoint(features, code)], code);
            check(&name, &values, features, &[2 * features, features], code);
        }
    }
}
