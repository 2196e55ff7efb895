//! Measures how well scores find anomalies, and whether the alarm rate matches the requested rate, on labeled tables.

#[path = "../support/mod.rs"]
mod support;

use std::path::Path;
use std::sync::Arc;

use halfhitch::model::score::FIGURES;
use halfhitch::model::{Autoencoder, Scorer, Statistics};
use halfhitch::numeric::rng::{Stream, Use};
use halfhitch::numeric::{Activation, BufferPool, PanelMatrix, init};
use halfhitch::training::{
    Event, Initialization, MemoryRows, Next, Regularization, RowSource, Start, TrainSpec, train,
};
use support::{Options, Report, data};

const ABOUT: &str = "\
Tables of ADBench, split into 60 % for training (with unlabeled anomalies) and 40 % for scoring, in 20 seeded splits.
Prints the area under the ROC curve (AUC; 1: every anomaly scores higher than every other row), averaged over the
splits, for three scores: the anomaly score, the reconstruction error alone, and probabilistic PCA with half the
features as code length (trained without trimming). The model is linear; its code length is two thirds of the
features; a tenth of each mini-batch is trimmed. PyOD's autoencoder has a published mean of 0.895 over the six sets.
Then the model is trained and calibrated on rows labeled normal. Prints the share of normal test rows that are alarms
at two false-alarm rates, and the number of splits in which it is within the 99 % bounds of the beta-binomial
distribution, which the rate of split conformal alarms follows. For contaminated rows: the number of splits in which
it is not above the upper bound. Last, a column of each normal test row is shifted by ten standard deviations: the
share of these rows whose first reason is that column.
Needs the folder `adbench` of the test data: ../shared/data next to the project, or the folder in HALFHITCH_DATA.";

/// The sets of the published mean.
const SIX: [&str; 6] = ["6_cardio", "18_Ionosphere", "20_letter", "31_satimage-2", "32_shuttle", "40_vowels"];
const OTHERS: [&str; 2] = ["28_pendigits", "38_thyroid"];
const RATES: [f64; 2] = [0.01, 0.05];
const TRIM: f64 = 0.1;
const PUBLISHED: f64 = 0.895;

fn main() {
    let options = Options::from_arguments(ABOUT);
    let mut report = Report::new("anomalies", &options);
    init(None).expect("the best of this machine");
    let folder = data::folder().map(|folder| folder.join("adbench")).filter(|folder| folder.is_dir());
    let Some(folder) = folder else {
        report.note("skipped: the folder `adbench` of the test data does not exist");
        return;
    };
    let cuts = if options.quick { 2 } else { 20 };
    let (mut all, mut sets) = ([0.0; 3], 0);
    for name in SIX.into_iter().chain(OTHERS) {
        if !options.wants(name) {
            continue;
        }
        let table = Table::read(&folder.join(format!("{name}.npz")));
        let found: Vec<[f64; 3]> = (1..=cuts).map(|seed| areas(&table, seed)).collect();
        let mean = |i: usize| found.iter().map(|of| of[i]).sum::<f64>() / found.len() as f64;
        let means = [mean(0), mean(1), mean(2)];
        report.against(name, means[0], "AUC of the score, vs the reconstruction error", means[1]);
        report.against(name, means[0], "AUC of the score, vs PPCA with half the features", means[2]);
        if SIX.contains(&name) {
            sets += 1;
            all.iter_mut().zip(means).for_each(|(sum, mean)| *sum += mean);
        }
        alarms(name, &table, cuts, &mut report);
        let share = (1..=cuts).map(|seed| named(&table, seed)).sum::<f64>() / cuts as f64;
        report.figure(name, share, "of rows: the broken column is the first reason");
    }
    if sets == SIX.len() {
        let [score, error, half] = all.map(|sum| sum / sets as f64);
        report.against("six", score, "mean AUC of the score, vs published", PUBLISHED);
        report.against("six", score, "mean AUC of the score, vs the reconstruction error", error);
        report.against("six", score, "mean AUC of the score, vs PPCA with half the features", half);
    }
}

struct Table {
    values: Vec<f32>,
    features: usize,
    anomalies: Vec<bool>,
}

impl Table {
    fn read(path: &Path) -> Self {
        let (values, features, anomalies) = data::labeled(path);
        Self { values, features, anomalies }
    }

    fn row(&self, i: usize) -> &[f32] {
        &self.values[i * self.features..][..self.features]
    }

    /// Splits the rows that are `wanted`, in a seeded order: 60 % and the rest.
    fn cut(&self, seed: u64, wanted: impl Fn(usize) -> bool) -> (Vec<usize>, Vec<usize>) {
        let mut order: Vec<usize> = (0..self.anomalies.len()).filter(|i| wanted(*i)).collect();
        Stream::new(seed, 0, 0, Use::Sample).shuffle(&mut order);
        let test = order.split_off(order.len() * 6 / 10);
        (order, test)
    }

    fn rows(&self, of: &[usize]) -> Vec<f32> {
        of.iter().flat_map(|i| self.row(*i)).copied().collect()
    }
}

struct Judge {
    model: Autoencoder,
    statistics: Statistics,
    scorer: Scorer,
}

impl Judge {
    fn train(table: &Table, rows: &[usize], code: usize, trim: f64, seed: u64) -> Self {
        let spec = TrainSpec::new("anomalies".parse().expect("a name"), vec![table.features, code]);
        let spec = TrainSpec {
            seed,
            hidden_activation: Some(Activation::Linear),
            output_activation: Some(Activation::Linear),
            initialization: Some(Initialization::Pca),
            // Provides rows for calibration.
            validation_fraction: Some(0.2),
            regularization: Regularization { trim, ..Regularization::default() },
            ..spec
        };
        let spec = spec.check().expect("valid");
        let source: Arc<dyn RowSource> = Arc::new(MemoryRows::new(table.rows(rows), table.features));
        let none = MemoryRows::new(Vec::new(), table.features);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a thread");
        let mut go_on = |_: &Event| Next::GoOn;
        let trained = train(&spec, &source, &[], &none, Start::Fresh, &pool, &mut go_on).expect("trains");
        let statistics = trained.statistics.expect("rows were held out");
        let scorer = Scorer::new(&statistics).expect("a covariance");
        Self { model: trained.model, statistics, scorer }
    }

    /// Score and squared error of each row.
    fn scores(&self, values: &[f32]) -> Vec<(f32, f32)> {
        let figures = self.scorer.score(&self.model, &self.lanes(values), &mut BufferPool::default());
        let of = |row| (self.scorer.combined([0, 1, 2].map(|j| figures.at(row, j))), figures.at(row, 0));
        (0..figures.rows()).map(of).collect()
    }

    fn lanes(&self, values: &[f32]) -> PanelMatrix {
        let features = self.model.spec().features();
        let mut lanes = PanelMatrix::zeros(values.len() / features, features);
        lanes.load(0, values);
        lanes
    }
}

fn two_thirds(features: usize) -> usize {
    (2 * features).div_ceil(3)
}

/// AUC of the score, of the squared error, and of the PPCA score.
fn areas(table: &Table, seed: u64) -> [f64; 3] {
    let (training, test) = table.cut(seed, |_| true);
    let labels: Vec<bool> = test.iter().map(|i| table.anomalies[*i]).collect();
    let values = table.rows(&test);
    let robust = Judge::train(table, &training, two_thirds(table.features), TRIM, seed).scores(&values);
    let half = Judge::train(table, &training, (table.features / 2).max(1), 0.0, seed).scores(&values);
    let of = |scores: Vec<f32>| area(&scores, &labels);
    [
        of(robust.iter().map(|of| of.0).collect()),
        of(robust.iter().map(|of| of.1).collect()),
        of(half.iter().map(|of| of.0).collect()),
    ]
}

/// The probability that an anomaly scores higher than another row, ties counted half (Hanley and McNeil 1982).
fn area(scores: &[f32], anomalies: &[bool]) -> f64 {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*a].total_cmp(&scores[*b]));
    let (mut ranks, mut first) = (0.0, 0);
    while first < order.len() {
        let same = order[first..].iter().take_while(|i| scores[**i] == scores[order[first]]).count();
        let rank = first as f64 + f64::midpoint(same as f64, 1.0);
        ranks += rank * order[first..first + same].iter().filter(|i| anomalies[**i]).count() as f64;
        first += same;
    }
    let positive = anomalies.iter().filter(|anomaly| **anomaly).count() as f64;
    let negative = anomalies.len() as f64 - positive;
    (ranks - positive * (positive + 1.0) / 2.0) / (positive * negative)
}

/// Prints how often normal rows are alarms.
fn alarms(name: &str, table: &Table, cuts: u64, report: &mut Report) {
    for rate in RATES {
        let (mut share, mut within, mut not_above, mut counted) = (0.0, 0, 0, 0);
        for seed in 1..=cuts {
            let (training, test) = table.cut(seed, |i| !table.anomalies[i]);
            let judge = Judge::train(table, &training, two_thirds(table.features), 0.0, seed);
            let Ok(threshold) = judge.statistics.threshold(rate) else { continue };
            let count = |scores: Vec<(f32, f32)>| scores.iter().filter(|score| score.0 > threshold).count();
            let alarms = count(judge.scores(&table.rows(&test)));
            let (least, most) = bounds(judge.statistics.calibration.len(), rate, test.len());
            (counted, share) = (counted + 1, share + alarms as f64 / test.len() as f64);
            within += usize::from((least..=most).contains(&alarms));

            let (training, test) = table.cut(seed, |_| true);
            let judge = Judge::train(table, &training, two_thirds(table.features), TRIM, seed);
            let Ok(threshold) = judge.statistics.threshold(rate) else { continue };
            let normal: Vec<usize> = test.into_iter().filter(|i| !table.anomalies[*i]).collect();
            let scores = judge.scores(&table.rows(&normal));
            let alarms = scores.iter().filter(|score| score.0 > threshold).count();
            not_above += usize::from(alarms <= bounds(judge.statistics.calibration.len(), rate, normal.len()).1);
        }
        if counted == 0 {
            report.note(&format!("{name}: too few rows are held out for a false-alarm rate of {rate}"));
            continue;
        }
        let case = format!("{name} alpha={rate}");
        report.against(&case, share / f64::from(counted), "of normal rows are alarms, vs alpha", rate);
        report.against(&case, within as f64, "splits are within the bounds, of", f64::from(counted));
        report.against(&case, not_above as f64, "contaminated splits are not above, of", f64::from(counted));
    }
}

/// The 99 % bounds of the number of alarms in `rows` normal rows, with n = `calibration` held-out rows: beta-binomial
/// with m = ⌊rate (n + 1)⌋ and n + 1 - m.
fn bounds(calibration: usize, rate: f64, rows: usize) -> (usize, usize) {
    let m = (rate * (calibration as f64 + 1.0) + 1e-9).floor();
    let (a, b, n) = (m, calibration as f64 + 1.0 - m, rows as f64);
    let beta = |a: f64, b: f64| libm::lgamma(a) + libm::lgamma(b) - libm::lgamma(a + b);
    let choose = |k: f64| libm::lgamma(n + 1.0) - libm::lgamma(k + 1.0) - libm::lgamma(n - k + 1.0);
    let (mut sum, mut least, mut most) = (0.0, None, rows);
    for count in 0..=rows {
        let k = count as f64;
        sum += libm::exp(choose(k) + beta(k + a, n - k + b) - beta(a, b));
        if sum > 0.005 {
            least.get_or_insert(count);
        }
        if sum >= 0.995 {
            most = count;
            break;
        }
    }
    (least.unwrap_or(0), most)
}

/// The share of modified normal test rows whose first reason is the modified column.
fn named(table: &Table, seed: u64) -> f64 {
    let (training, test) = table.cut(seed, |i| !table.anomalies[i]);
    let judge = Judge::train(table, &training, two_thirds(table.features), 0.0, seed);
    let column = |i: usize| (i + seed as usize) % table.features;
    let deviation = |j: usize| {
        let values = || training.iter().map(|i| f64::from(table.row(*i)[j]));
        let mean = values().sum::<f64>() / training.len() as f64;
        (values().map(|value| (value - mean).powi(2)).sum::<f64>() / training.len() as f64).sqrt().max(1e-6)
    };
    let deviations: Vec<f64> = (0..table.features).map(deviation).collect();
    let mut values = table.rows(&test);
    for (i, row) in values.chunks_exact_mut(table.features).enumerate() {
        row[column(i)] += 10.0 * deviations[column(i)] as f32;
    }
    let explained = judge.scorer.explain(&judge.model, &judge.lanes(&values), &mut BufferPool::default());
    let right = |row: &usize| {
        let contribution = |j: usize| explained.at(*row, FIGURES + j).abs();
        (0..table.features).max_by(|a, b| contribution(*a).total_cmp(&contribution(*b))) == Some(column(*row))
    };
    (0..test.len()).filter(right).count() as f64 / test.len() as f64
}
