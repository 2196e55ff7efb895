//! A change in a column that was constant in training is an alarm, for any code length.

use std::sync::Arc;

use halfhitch::model::score::FIGURES;
use halfhitch::model::{Artifact, Autoencoder, NormalizationKind, Scorer, Statistics};
use halfhitch::numeric::rng::{Stream, Use};
use halfhitch::numeric::{Activation, BufferPool, PanelMatrix};
use halfhitch::training::{Event, Initialization, MemoryRows, Next, OptimizerSpec, Start, TrainSpec, train};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

/// Five sensors of rank 3 with noise, four constants, a total, and one sensor in another unit.
const FEATURES: usize = 11;
const CONSTANTS: [(usize, f32); 4] = [(1, 0.0), (3, 1.0), (5, 50.25), (8, -3e5)];
const TOTAL: usize = 9;
const OTHER_UNIT: usize = 10;
const RATE: f64 = 0.01;

fn plant(rows: usize, seed: u64) -> Vec<f32> {
    let mut stream = Stream::new(seed, 0, 0, Use::Weights);
    let mut values = Vec::with_capacity(rows * FEATURES);
    for _ in 0..rows {
        let z = [(); 3].map(|()| stream.normal());
        let mut sensor = |i: usize| {
            let mixed = z.iter().enumerate().map(|(j, z)| z * (((5 * i + 3 * j) % 7) as f64 - 2.5)).sum::<f64>();
            (20.0 + mixed + 0.1 * stream.normal()) as f32
        };
        let [a, b, c, d, e] = [0, 1, 2, 3, 4].map(&mut sensor);
        let [(_, zero), (_, one), (_, fifty), (_, large)] = CONSTANTS;
        values.extend([a, zero, b, one, c, fifty, d, e, large, a + b + c, 1.8 * d + 32.0]);
    }
    values
}

/// Trains on 600 rows, of which 100 are held out.
fn trained(
    code: usize,
    hidden: Option<Activation>,
    kind: NormalizationKind,
    missing: bool,
) -> (Autoencoder, Statistics) {
    let widths = if hidden.is_some() { vec![FEATURES, 6, code] } else { vec![FEATURES, code] };
    let spec = TrainSpec {
        hidden_activation: hidden,
        normalization: Some(kind),
        initialization: Some(Initialization::Pca),
        // The test needs only the PCA start: without normalization, further steps would diverge.
        optimizer: OptimizerSpec { learning_rate: Some(1e-7), ..OptimizerSpec::default() },
        epochs: Some(2),
        missing_values: missing,
        ..TrainSpec::new("plant".parse().expect("a name"), widths)
    };
    let spec = spec.check().expect("valid");
    let rows = Arc::new(MemoryRows::new(plant(600, 1), FEATURES));
    let none = MemoryRows::new(Vec::new(), FEATURES);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a thread");
    let mut go_on = |_: &Event| Next::GoOn;
    let trained = train(&spec, &(rows as _), &[], &none, Start::Fresh, &pool, &mut go_on).expect("trains");
    let statistics = trained.statistics.expect("a short code");
    assert_eq!(statistics.calibration.len(), 100);
    // Through the file format, as a server loads it.
    let artifact = Artifact { model: trained.model, report: None, statistics: Some(statistics), sha256: String::new() };
    let read = Artifact::from_bytes(&artifact.to_bytes()).expect("reads");
    assert_eq!(read.statistics, artifact.statistics);
    (read.model, read.statistics.expect("kept"))
}

/// Score of a row, whether it is an alarm, and the index of its first reason.
fn judged(model: &Autoencoder, statistics: &Statistics, row: &[f32]) -> (f32, bool, usize) {
    let scorer = Scorer::new(statistics).expect("statistics");
    let mut lanes = PanelMatrix::zeros(1, FEATURES);
    lanes.load(0, row);
    let explained = scorer.explain(model, &lanes, &mut BufferPool::default());
    let score = scorer.combined([0, 1, 2].map(|j| explained.at(0, j)));
    let size = |j: usize| explained.at(0, FIGURES + j).abs();
    let first = (0..FEATURES).max_by(|a, b| size(*a).total_cmp(&size(*b))).expect("features");
    (score, score > statistics.threshold(RATE).expect("100 held-out rows"), first)
}

#[test]
fn any_change_of_a_constant_is_an_alarm_at_any_code_length() {
    let kinds = [NormalizationKind::Standardize, NormalizationKind::None, NormalizationKind::MinMax];
    let models: Vec<_> = (1..=FEATURES).map(|code| trained(code, None, kinds[code % 3], false)).collect();
    let rows = plant(50, 2);
    let change = (0..FEATURES, 0..CONSTANTS.len(), 0..50_usize, -6.0..7.0_f64, any::<bool>());
    let mut runner = TestRunner::new(Config { failure_persistence: None, cases: 2000, ..Config::default() });
    let property = runner.run(&change, |(code, constant, row, exponent, up)| {
        let (model, statistics) = &models[code];
        let (column, value) = CONSTANTS[constant];
        let mut row = rows[row * FEATURES..][..FEATURES].to_vec();
        let by = 10f64.powf(exponent) * f64::from(value.abs()).max(1.0);
        row[column] = (f64::from(value) + if up { by } else { -by }) as f32;
        let (score, alarm, first) = judged(model, statistics, &row);
        prop_assert!(alarm && score.is_finite(), "code {}, column {column} by {by}: {score}", code + 1);
        prop_assert_eq!(first, column, "code {}, by {}", code + 1, by);
        Ok(())
    });
    property.expect("holds");
}

#[test]
fn a_broken_relation_is_an_alarm_at_any_code_length() {
    let rows = plant(50, 3);
    for code in 1..=FEATURES {
        let (model, statistics) = trained(code, None, NormalizationKind::Standardize, false);
        assert_eq!(statistics.invariants.centers.len(), 2, "a total and another unit");
        for (i, row) in rows.chunks_exact(FEATURES).enumerate() {
            let column = if i % 2 == 0 { TOTAL } else { OTHER_UNIT };
            let mut changed = row.to_vec();
            // A thousandth of the columns' spread of about 5.
            changed[column] += if i % 4 < 2 { 5e-3 } else { -5e-3 };
            assert!(judged(&model, &statistics, &changed).1, "code {code}, column {column}");
        }
    }
}

#[test]
fn usual_rows_rarely_raise_alarms() {
    for code in [1, 4, FEATURES] {
        let (model, statistics) = trained(code, None, NormalizationKind::Standardize, false);
        let mut lanes = PanelMatrix::zeros(400, FEATURES);
        lanes.load(0, &plant(400, 4));
        let scorer = Scorer::new(&statistics).expect("statistics");
        let figures = scorer.score(&model, &lanes, &mut BufferPool::default());
        let threshold = statistics.threshold(RATE).expect("100 held-out rows");
        let alarms = (0..400).filter(|row| scorer.combined([0, 1, 2].map(|j| figures.at(*row, j))) > threshold).count();
        assert!((0..400).all(|row| figures.at(row, 2) == 0.0), "code {code}");
        // Expected: 4. The 99.99 % bound of the beta-binomial with 100 held-out rows is 36.
        assert!(alarms < 37, "code {code}: {alarms}");
    }
}

#[test]
fn nonlinear_models_detect_changes_and_ignore_missing_values() {
    for code in [2, 5] {
        let (model, statistics) =
            trained(code, Some(Activation::Elu { alpha: 1.0 }), NormalizationKind::Standardize, true);
        let row = &plant(1, 5)[..];
        let (usual, ..) = judged(&model, &statistics, row);
        for (column, value) in CONSTANTS {
            let mut changed = row.to_vec();
            changed[column] = value + 1e-3 * value.abs().max(1.0);
            let (_, alarm, first) = judged(&model, &statistics, &changed);
            assert!(alarm && first == column, "code {code}, column {column}: {alarm} {first}");
            changed[column] = f32::NAN;
            let (score, ..) = judged(&model, &statistics, &changed);
            // A missing value adds no error.
            assert!(score <= 1.001 * usual, "what is missing is no change: {score} {usual}");
        }
    }
}
