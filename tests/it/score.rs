//! Anomaly scores, alarms and reasons, and versions that have none.

use halfhitch::rpc::pb;
use halfhitch::store::{LocalStore, ModelStore};
use tonic::Code;

use crate::support::process::{ServerProcess, halfhitch};
use crate::support::{
    TestServer, float_matrix, matrix, newest, sample, spec, temporary_store, train, untrained, version,
};

const FEATURES: usize = 8;

/// Trains a model with feature names, with 100 rows held out.
async fn trained(server: &TestServer, name: &str) {
    let mut spec = spec(name, &[FEATURES as u32, 3]);
    spec.epochs = 30;
    spec.feature_names = (0..FEATURES).map(|j| format!("sensor {j}")).collect();
    train(&mut server.autoencoder().await, spec, &sample(1000, FEATURES, 7)).await.expect("trains");
}

fn question(name: &str, rows: &[f32], reasons: u32, rate: Option<f64>) -> pb::ScoreRequest {
    pb::ScoreRequest { model: newest(name), rows: Some(matrix(FEATURES, rows)), reasons, false_alarm_rate: rate }
}

#[tokio::test(flavor = "multi_thread")]
async fn usual_rows_are_rarely_alarms_and_a_broken_feature_is_named() {
    let store = temporary_store();
    let server = TestServer::start(store.path()).await;
    trained(&server, "m").await;
    let mut client = server.autoencoder().await;
    let mut rows = sample(400, FEATURES, 9);
    let usual = client.score(question("m", &rows, 0, Some(0.05))).await.expect("scores").into_inner();
    assert_eq!((usual.version, usual.scores.len(), usual.p_values.len(), usual.reasons.len()), (1, 400, 400, 0));
    let threshold = usual.threshold.expect("a rate was given");
    for row in 0..400 {
        let (error, distance, score) = (usual.squared_errors[row], usual.code_distances[row], usual.scores[row]);
        let expected = f64::from(distance).powi(2) + f64::from(error) / usual.residual_variance;
        assert!((f64::from(score) - expected).abs() < 1e-3 * expected, "{score} {expected}");
        assert_eq!(usual.alarms[row], usual.p_values[row] <= 0.05 + 1e-12);
        assert_eq!(usual.alarms[row], score > threshold);
    }
    // Expected: 20. The 99.99 % bound of the beta-binomial with 100 held-out rows is 63.
    let alarms = usual.alarms.iter().filter(|alarm| **alarm).count();
    assert!(alarms < 64, "{alarms} of 400 usual rows");

    for (i, row) in rows.chunks_exact_mut(FEATURES).enumerate() {
        row[i % FEATURES] -= 20.0;
    }
    let broken = client.score(question("m", &rows, 3, Some(0.05))).await.expect("scores").into_inner();
    assert!(broken.alarms.iter().all(|alarm| *alarm), "20 is far");
    for (i, reasons) in broken.reasons.iter().enumerate() {
        let [first, second, third] = &reasons.features[..] else { panic!("three were asked for: {reasons:?}") };
        assert_eq!((first.feature as usize, &first.name), (i % FEATURES, &format!("sensor {}", i % FEATURES)));
        assert!(first.contribution < 0.0, "the value is too small: {reasons:?}");
        assert!(second.contribution.abs() >= third.contribution.abs(), "{reasons:?}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_scores_the_same_alone_and_among_others() {
    let store = temporary_store();
    let server = TestServer::start(store.path()).await;
    trained(&server, "m").await;
    let mut client = server.autoencoder().await;
    let rows = sample(70, FEATURES, 3);
    let together = client.score(question("m", &rows, 100, None)).await.expect("scores").into_inner();
    assert!(together.alarms.is_empty() && together.threshold.is_none());
    assert!(together.reasons.iter().all(|reasons| reasons.features.len() == FEATURES), "as many as there are");
    for row in 0..70 {
        let mut alone = question("m", &[], 100, None);
        alone.rows = Some(float_matrix(FEATURES, &rows[row * FEATURES..][..FEATURES]));
        let alone = client.score(alone).await.expect("scores").into_inner();
        assert_eq!(alone.scores[0].to_bits(), together.scores[row].to_bits());
        assert_eq!(alone.p_values[0].to_bits(), together.p_values[row].to_bits());
        assert_eq!(alone.reasons[0], together.reasons[row]);
        let without = client.score(question("m", &rows[row * FEATURES..][..FEATURES], 0, None)).await;
        assert_eq!(without.expect("scores").into_inner().scores[0].to_bits(), together.scores[row].to_bits());
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_score_requests_are_rejected() {
    let store = temporary_store();
    let foreign = "foreign".parse().expect("a name");
    LocalStore::open(store.path()).expect("opens").publish(&foreign, &untrained(&[8, 3])).expect("publishes");
    let server = TestServer::start(store.path()).await;
    trained(&server, "m").await;
    let mut all = spec("all", &[FEATURES as u32, 3]);
    all.validation_fraction = Some(0.0);
    train(&mut server.autoencoder().await, all, &sample(200, FEATURES, 7)).await.expect("trains");
    let mut client = server.autoencoder().await;
    let rows = sample(2, FEATURES, 1);
    for name in ["foreign", "all"] {
        let refused = client.score(question(name, &rows, 0, None)).await.expect_err("no statistics");
        assert_eq!(refused.code(), Code::FailedPrecondition);
        assert!(refused.message().contains(name) && refused.message().contains("train it again"), "{refused}");
    }
    let cases = [
        (question("m", &rows, 101, None), "reasons: is 101, expected at most 100"),
        (question("m", &sample(40_000, FEATURES, 1), 8, None), "expected at most 262144 in all"),
        (question("m", &rows, 0, Some(1.5)), "false_alarm_rate: is 1.5, expected 0 to 1"),
        (question("m", &rows, 0, Some(f64::NAN)), "false_alarm_rate: is NaN, expected 0 to 1"),
        (question("m", &rows, 0, Some(0.009)), "false_alarm_rate: is 0.009, expected at least 0.0099"),
        (question("m", &[f32::NAN; 8], 0, None), "NaN"),
        (
            pb::ScoreRequest { rows: Some(matrix(7, &[0.0; 7])), ..question("m", &rows, 0, None) },
            "7 columns, the input of the model has 8",
        ),
        (pb::ScoreRequest { rows: None, ..question("m", &rows, 0, None) }, "rows"),
    ];
    for (question, expected) in cases {
        let refused = client.score(question).await.expect_err(expected);
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        assert!(refused.message().contains(expected), "{refused}");
    }
    let nowhere = pb::ScoreRequest { model: version("m", 9), ..question("m", &rows, 0, None) };
    assert_eq!(client.score(nowhere).await.expect_err("no such version").code(), Code::NotFound);
    server.stop().await;
}

#[test]
fn a_file_is_scored() {
    let store = temporary_store();
    let server = ServerProcess::start(store.path());
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, rows: &[f32]| {
        let lines =
            rows.chunks_exact(FEATURES).map(|row| row.iter().map(f32::to_string).collect::<Vec<_>>().join(",") + "\n");
        let path = folder.path().join(name);
        std::fs::write(&path, lines.collect::<String>()).expect("writes");
        path.to_str().expect("text").to_owned()
    };
    let training = write("training.csv", &sample(1000, FEATURES, 7));
    let mut rows = sample(20, FEATURES, 9);
    rows[5 * FEATURES + 2] += 30.0;
    let rows = write("rows.csv", &rows);
    let run = |arguments: &[&str]| {
        let output = halfhitch().args(["--server", &server.url()]).args(arguments).output().expect("it runs");
        (
            output.status.success(),
            String::from_utf8(output.stdout).expect("text"),
            String::from_utf8(output.stderr).expect("text"),
        )
    };
    let (trained, _, said) = run(&["train", "m", &training, "--code", "3", "--epochs", "20"]);
    assert!(trained, "{said}");
    let (scored, lines, said) = run(&["score", "m", &rows, "--false-alarm-rate", "0.01", "--only-alarms"]);
    assert!(scored, "{said}");
    let lines: Vec<Vec<&str>> = lines.lines().map(|line| line.split(',').collect()).collect();
    assert_eq!(lines[0][..7], ["row", "score", "p_value", "squared_error", "code_distance", "alarm", "reason_1"]);
    let broken = lines.iter().find(|line| line[0] == "6").expect("the sixth row is an alarm");
    assert_eq!((broken[5], broken[6]), ("1", "3"), "column 3 of row 6");
    assert!(lines.len() < 5, "few others: {lines:?}");
    assert!(said.contains("20 rows scored by version 1 against 100 held-out rows"), "{said}");
    let (scored, _, said) = run(&["score", "m", &rows, "--false-alarm-rate", "0.0001"]);
    assert!(!scored && said.contains("expected at least"), "{said}");
    let (scored, _, said) = run(&["score", "m", &rows, "--only-alarms"]);
    assert!(!scored && said.contains("--false-alarm-rate"), "{said}");
}
