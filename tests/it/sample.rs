//! Held-out rows that a version stores on request (`validation_sample_rows`).

use halfhitch::rpc::pb;
use tonic::Code;

use crate::cli::succeeds;
use crate::support::files::csv;
use crate::support::process::ServerProcess;
use crate::support::{TestServer, matrix, newest, sample, spec, temporary_store, train, version};

fn inspect(of: Option<pb::ModelRef>) -> pb::InspectModelRequest {
    pb::InspectModelRequest { model: of, rows: None, validation_sample: true }
}

#[tokio::test(flavor = "multi_thread")]
async fn inspect_uses_the_stored_validation_sample() {
    let store = temporary_store();
    let server = TestServer::start(store.path()).await;
    let rows = sample(400, 8, 7);
    let keeping = pb::TrainSpec { validation_sample_rows: 50, validation_fraction: Some(0.25), ..spec("m", &[8, 3]) };
    let result = train(&mut server.autoencoder().await, keeping, &rows).await.expect("trains");
    let mut models = server.models().await;
    let seen = models.inspect_model(inspect(version("m", 1))).await.expect("looks").into_inner().comparison;
    let seen = seen.expect("measured");
    assert_eq!(seen.rows, 50, "of 100 that were held out");
    let validation = result.training_report.and_then(|report| report.validation).expect("held out");
    let ratio = seen.transpose_squared_error / validation.squared_error;
    assert!((0.5..2.0).contains(&ratio), "half of the same rows: {ratio}");

    // The sample is all held-out rows, so the error equals that of training.
    let all = pb::TrainSpec { validation_sample_rows: 4096, validation_fraction: Some(0.25), ..spec("m", &[8, 3]) };
    let result = train(&mut server.autoencoder().await, all, &rows).await.expect("trains");
    let seen =
        models.inspect_model(inspect(newest("m"))).await.expect("looks").into_inner().comparison.expect("measured");
    let validation = result.training_report.and_then(|report| report.validation).expect("held out");
    assert_eq!((seen.rows, validation.rows), (100, 100));
    assert!((seen.transpose_squared_error / validation.squared_error - 1.0).abs() < 1e-4);
    server.stop().await;

    let server = TestServer::start(store.path()).await;
    let mut models = server.models().await;
    models.inspect_model(inspect(version("m", 2))).await.expect("after a restart");
    // A damaged sample is reported and affects nothing else.
    let path = store.path().join("models/m/2/validation_sample.safetensors");
    let mut bytes = std::fs::read(&path).expect("there");
    *bytes.last_mut().expect("not empty") ^= 1;
    std::fs::write(&path, bytes).expect("writes");
    let refused = models.inspect_model(inspect(version("m", 2))).await.expect_err("damaged");
    assert_eq!(refused.code(), Code::DataLoss);
    models.inspect_model(inspect(version("m", 1))).await.expect("the other is whole");
    let delete = pb::DeleteModelVersionRequest { name: "m".into(), version: 2 };
    models.delete_model_version(delete).await.expect("deletes");
    assert!(!path.exists());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_or_invalid_validation_samples_are_rejected() {
    let store = temporary_store();
    let server = TestServer::start(store.path()).await;
    let mut client = server.autoencoder().await;
    let rows = sample(400, 8, 7);
    train(&mut client, spec("m", &[8, 3]), &rows).await.expect("trains");
    assert!(!store.path().join("models/m/1/validation_sample.safetensors").exists(), "only where it is asked for");
    let mut models = server.models().await;
    let refused = models.inspect_model(inspect(newest("m"))).await.expect_err("none is kept");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("--validation-sample"), "{refused}");
    let both = pb::InspectModelRequest { rows: Some(matrix(8, &rows)), ..inspect(newest("m")) };
    let refused = models.inspect_model(both).await.expect_err("one of them");
    assert_eq!(refused.code(), Code::InvalidArgument);
    for (wrong, text) in [
        (pb::TrainSpec { validation_sample_rows: 4097, ..spec("n", &[8, 3]) }, "is 4097, expected 0 to 4096"),
        (
            pb::TrainSpec { validation_sample_rows: 5, validation_fraction: Some(0.0), ..spec("n", &[8, 3]) },
            "needs validation rows",
        ),
    ] {
        let refused = train(&mut client, wrong, &rows).await.expect_err("refused");
        assert!(refused.code() == Code::InvalidArgument && refused.message().contains(text), "{refused}");
    }
    server.stop().await;
}

#[test]
fn the_command_measures_on_the_sample() {
    let store = temporary_store();
    let server = ServerProcess::start(store.path());
    csv(&store.path().join("rows.csv"), 8, &sample(300, 8, 7));
    let run = |args: &[&str]| succeeds(&server, store.path(), args);
    run(&["train", "m", "rows.csv", "--code", "3", "--epochs", "5", "--validation-sample", "40"]);
    let said = run(&["inspect", "m", "--validation-sample"]);
    assert!(said.contains("40 rows"), "{said}");
}
