//! Encode, Decode and Reconstruct, and how the server stops.

use halfhitch::rpc::pb;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::support::{TestServer, float_matrix, matrix, newest, numbers, sample, served, temporary_store, version};

#[tokio::test(flavor = "multi_thread")]
async fn responses_use_the_format_of_the_request() {
    let store = temporary_store();
    let server = served(store.path(), "forms", &[6, 2]).await;
    let mut client = server.autoencoder().await;
    let rows = sample(3, 6, 1);
    let mut encode = async |rows| {
        let question = pb::EncodeRequest { model: newest("forms"), rows: Some(rows), ..Default::default() };
        client.encode(question).await.expect("encodes").into_inner().codes
    };
    let bytes = encode(matrix(6, &rows)).await;
    let floats = encode(float_matrix(6, &rows)).await;
    assert!(matches!(bytes.as_ref().expect("codes").values, Some(pb::matrix::Values::Float32Le(_))));
    assert!(matches!(floats.as_ref().expect("codes").values, Some(pb::matrix::Values::Floats(_))));
    assert_eq!(numbers(bytes), numbers(floats));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mixed_callers_get_their_own_rows_back() {
    let store = temporary_store();
    let server = served(store.path(), "mixed", &[10, 6, 3]).await;
    let client = server.autoencoder().await;
    let callers: Vec<_> = (0..48u64)
        .map(|i| {
            let mut client = client.clone();
            tokio::spawn(async move {
                let rows = sample(1 + (i as usize * 37) % 300, 10, i);
                let question =
                    pb::EncodeRequest { model: newest("mixed"), rows: Some(matrix(10, &rows)), ..Default::default() };
                let codes = client.encode(question).await.expect("encodes").into_inner();
                let question = pb::DecodeRequest {
                    model: version("mixed", codes.version),
                    codes: codes.codes,
                    ..Default::default()
                };
                let decoded = numbers(client.decode(question).await.expect("decodes").into_inner().rows);
                let question = pb::ReconstructRequest {
                    model: newest("mixed"),
                    rows: Some(matrix(10, &rows)),
                    ..Default::default()
                };
                let answer = client.reconstruct(question).await.expect("reconstructs").into_inner();
                assert_eq!(answer.squared_errors.len(), rows.len() / 10);
                assert_eq!(numbers(answer.rows), decoded);
            })
        })
        .collect();
    for caller in callers {
        caller.await.expect("no caller fails");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_overflows_fails_alone() {
    let store = temporary_store();
    let server = served(store.path(), "huge", &[6, 2]).await;
    let client = server.autoencoder().await;
    let callers: Vec<_> = (0..32)
        .map(|i| {
            let mut client = client.clone();
            tokio::spawn(async move {
                let row = if i == 7 { vec![f32::MAX; 6] } else { sample(1, 6, i) };
                let question =
                    pb::ReconstructRequest { model: newest("huge"), rows: Some(matrix(6, &row)), ..Default::default() };
                (i, client.reconstruct(question).await)
            })
        })
        .collect();
    for caller in callers {
        match caller.await.expect("no panic") {
            (7, result) => assert_eq!(result.expect_err("not representable").code(), Code::OutOfRange),
            (_, result) => assert!(result.is_ok(), "{result:?}"),
        }
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn health_is_reported_for_the_server_and_each_service() {
    let store = temporary_store();
    let server = TestServer::start(store.path()).await;
    let mut health = HealthClient::new(server.channel().await);
    for service in ["", "halfhitch.v1.AutoencoderService", "halfhitch.v1.ModelService", "halfhitch.v1.JobService"] {
        let answer = health.check(HealthCheckRequest { service: service.to_owned() }).await.expect("known");
        assert_eq!(answer.into_inner().status(), ServingStatus::Serving, "{service}");
    }
    let unknown = health.check(HealthCheckRequest { service: "nobody".to_owned() }).await;
    assert_eq!(unknown.expect_err("unknown").code(), Code::NotFound);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn published_models_are_served_after_a_restart() {
    let store = temporary_store();
    let server = served(store.path(), "stays", &[6, 2]).await;
    let rows = sample(5, 6, 8);
    let question = || pb::EncodeRequest { model: newest("stays"), rows: Some(matrix(6, &rows)), ..Default::default() };
    let before = server.autoencoder().await.encode(question()).await.expect("encodes").into_inner();
    server.stop().await;
    let server = TestServer::start(store.path()).await;
    let after = server.autoencoder().await.encode(question()).await.expect("encodes").into_inner();
    assert_eq!(before, after);
    server.stop().await;
}
