//! Gram-Schmidt on the code layer: first the figures, then on request a new version.

use halfhitch::rpc::pb;
use tonic::Code;

use crate::cli::succeeds;
use crate::support::files::csv;
use crate::support::process::ServerProcess;
use crate::support::{
    TestServer, float_matrix, matrix, newest, numbers, sample, spec, temporary_store, train, version,
};

fn question(name: &str, rows: &[f32], publish: bool) -> pb::OrthonormalizeModelVersionRequest {
    pb::OrthonormalizeModelVersionRequest { model: newest(name), rows: Some(matrix(8, rows)), publish }
}

async fn error(server: &TestServer, number: u64, rows: &[f32]) -> f64 {
    let question = pb::ReconstructRequest {
        model: version("m", number),
        rows: Some(float_matrix(8, rows)),
        decoder: 0,
        ..Default::default()
    };
    let answer = server.autoencoder().await.reconstruct(question).await.expect("reconstructs").into_inner();
    answer.squared_errors.iter().map(|error| f64::from(*error)).sum::<f64>() / answer.squared_errors.len() as f64
}

#[tokio::test(flavor = "multi_thread")]
async fn reported_figures_match_the_published_version() {
    let store = temporary_store();
    let server = TestServer::start(store.path()).await;
    train(&mut server.autoencoder().await, spec("m", &[8, 6, 4]), &sample(300, 8, 7)).await.expect("trains");
    let mut models = server.models().await;
    let rows = sample(100, 8, 3);
    let looked = models.orthonormalize_model_version(question("m", &rows, false)).await.expect("looks").into_inner();
    assert!(looked.published.is_none() && looked.version == 1);
    let listed =
        models.list_model_versions(pb::ListModelVersionsRequest { name: "m".into(), ..Default::default() }).await;
    assert_eq!(listed.expect("lists").into_inner().versions.len(), 1, "nothing has changed");

    let made = models.orthonormalize_model_version(question("m", &rows, true)).await.expect("makes one").into_inner();
    let published = made.published.expect("it was told to");
    let report = published.training_report.expect("that of its base");
    assert!(report.validation.is_none() && report.test.is_none(), "figures of another model");
    assert!(
        report.notes.iter().any(|note| note.contains("Gram-Schmidt") && note.contains("m version 1")),
        "{report:?}"
    );
    assert_eq!(
        (looked.squared_error, looked.orthonormal_squared_error),
        (made.squared_error, made.orthonormal_squared_error)
    );
    for (number, said) in [(1, made.squared_error), (2, made.orthonormal_squared_error)] {
        let got = error(&server, number, &rows).await;
        assert!((got - said).abs() < 1e-5 * said, "version {number}: {got}, said {said}");
    }
    let seen = models
        .inspect_model(pb::InspectModelRequest { model: version("m", 2), rows: None, ..Default::default() })
        .await;
    assert!(seen.expect("looks").into_inner().layers[1].defect_largest < 1e-5);
    // The scores are gone; the codes can still be made canonical.
    let mut client = server.autoencoder().await;
    let score = pb::ScoreRequest { model: newest("m"), rows: Some(matrix(8, &rows)), ..Default::default() };
    assert_eq!(client.score(score).await.expect_err("no calibration").code(), Code::FailedPrecondition);
    let canonical = pb::CanonicalizeModelVersionRequest { model: newest("m") };
    models.canonicalize_model_version(canonical).await.expect("makes one");
    let codes = pb::EncodeRequest {
        model: version("m", 3),
        rows: Some(matrix(8, &rows)),
        code_length: 2,
        ..Default::default()
    };
    assert_eq!(numbers(client.encode(codes).await.expect("encodes").into_inner().codes).len(), 200);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_orthonormalizations_are_rejected() {
    let store = temporary_store();
    let server = TestServer::start(store.path()).await;
    let mut client = server.autoencoder().await;
    train(&mut client, spec("m", &[8, 4]), &sample(300, 8, 7)).await.expect("trains");
    let bent = pb::TrainSpec { code_activation: pb::Activation::Tanh.into(), ..spec("bent", &[8, 4]) };
    train(&mut client, bent, &sample(300, 8, 7)).await.expect("trains");
    train(&mut client, spec("wide", &[8, 10]), &sample(300, 8, 7)).await.expect("trains");
    let mut models = server.models().await;
    let rows = sample(2, 8, 1);
    for (name, code, why) in [
        ("bent", Code::FailedPrecondition, "expected linear"),
        ("wide", Code::FailedPrecondition, "its code layer has 10 outputs and 8 inputs"),
        ("nowhere", Code::NotFound, "nowhere"),
    ] {
        let refused = models.orthonormalize_model_version(question(name, &rows, true)).await.expect_err("refused");
        assert!(refused.code() == code && refused.message().contains(why), "{refused}");
    }
    let mut nan = rows.clone();
    nan[3] = f32::NAN;
    for wrong in [None, Some(matrix(4, &rows)), Some(matrix(8, &nan))] {
        let question = pb::OrthonormalizeModelVersionRequest { rows: wrong, ..question("m", &rows, true) };
        let refused = models.orthonormalize_model_version(question).await.expect_err("refused");
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    }
    server.stop().await;
}

#[test]
fn the_command_says_what_would_change() {
    let store = temporary_store();
    let server = ServerProcess::start(store.path());
    csv(&store.path().join("rows.csv"), 8, &sample(300, 8, 7));
    let run = |args: &[&str]| succeeds(&server, store.path(), args);
    run(&["train", "m", "rows.csv", "--code", "3", "--epochs", "5"]);
    let said = run(&["models", "orthonormalize", "m", "rows.csv"]);
    assert!(said.contains("reconstruction error of 300 rows") && said.contains("nothing was published"), "{said}");
    let said = run(&["models", "orthonormalize", "m", "rows.csv", "--publish"]);
    assert!(said.contains("m version 2 is published"), "{said}");
}
