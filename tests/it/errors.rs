//! Every error has its status code, and names what was expected and what was received.

use std::sync::Arc;
use std::time::Duration;

use halfhitch::batching::{Batcher, BatchingConfig};
use halfhitch::jobs::{Jobs, JobsConfig};
use halfhitch::registry::{Registry, RegistryConfig};
use halfhitch::rpc::deadline::InTime;
use halfhitch::rpc::pb::autoencoder_service_client::AutoencoderServiceClient;
use halfhitch::rpc::pb::autoencoder_service_server::AutoencoderServiceServer;
use halfhitch::rpc::{Api, pb};
use halfhitch::server::ServerConfig;
use halfhitch::service::{Lifecycle, Service};
use halfhitch::store::{LocalStore, ModelStore};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;

use crate::support::{TestServer, alias, matrix, newest, sample, served, temporary_store, untrained, version};

#[track_caller]
fn check<T: std::fmt::Debug>(result: Result<T, Status>, code: Code, texts: &[&str]) -> Status {
    let status = result.expect_err("refused");
    assert_eq!(status.code(), code, "{status:?}");
    for text in texts {
        assert!(status.message().contains(text), "{:?} does not say {text:?}", status.message());
    }
    if code == Code::InvalidArgument {
        assert!(status.get_error_details().bad_request().is_some(), "{status:?} names no field");
    }
    status
}

/// The field that an error names.
fn field(status: &Status) -> String {
    status.get_error_details().bad_request().expect("details").field_violations[0].field.clone()
}

fn encode(model: Option<pb::ModelRef>, rows: Option<pb::Matrix>) -> pb::EncodeRequest {
    pb::EncodeRequest { model, rows, ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_name_what_is_wrong_with_a_request() {
    let store = temporary_store();
    let server = served(store.path(), "here", &[6, 2]).await;
    let mut client = server.autoencoder().await;
    let rows = sample(2, 6, 1);
    let good = || Some(matrix(6, &rows));

    let result = client.encode(encode(newest("nowhere"), good())).await;
    check(result, Code::NotFound, &["nowhere"]);
    let result = client.encode(encode(version("here", 9), good())).await;
    check(result, Code::NotFound, &["version 9", "newest version is 1", "here"]);
    let result = client.encode(encode(alias("here", "prod"), good())).await;
    check(result, Code::NotFound, &["prod"]);
    let result = client.encode(encode(newest("No Such"), good())).await;
    check(result, Code::InvalidArgument, &["No Such"]);
    let result = client.encode(encode(None, good())).await;
    check(result, Code::InvalidArgument, &["model"]);
    let result = client.encode(encode(newest("here"), None)).await;
    check(result, Code::InvalidArgument, &["rows"]);
    let result = client.encode(encode(newest("here"), Some(matrix(5, &rows[..10])))).await;
    let status = check(result, Code::InvalidArgument, &["5", "6"]);
    assert_eq!(field(&status), "rows");
    let mut wrong = matrix(6, &rows);
    wrong.rows = 3;
    let result = client.encode(encode(newest("here"), Some(wrong))).await;
    check(result, Code::InvalidArgument, &["48", "72"]);
    let mut overflowing = matrix(6, &rows);
    (overflowing.rows, overflowing.columns) = (u32::MAX, u32::MAX);
    let result = client.encode(encode(newest("here"), Some(overflowing))).await;
    check(result, Code::InvalidArgument, &["48"]);
    let empty = pb::Matrix {
        rows: 0,
        columns: 6,
        values: Some(pb::matrix::Values::Float32Le(Vec::new().into())),
        ..Default::default()
    };
    let result = client.encode(encode(newest("here"), Some(empty))).await;
    check(result, Code::InvalidArgument, &["0 rows"]);
    for broken in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut values = rows.clone();
        values[8] = broken;
        let result = client.encode(encode(newest("here"), Some(matrix(6, &values)))).await;
        check(result, Code::InvalidArgument, &["row 2", "column 3"]);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn decode_requires_a_version_and_matching_codes() {
    let store = temporary_store();
    let server = served(store.path(), "codes", &[6, 2]).await;
    let mut client = server.autoencoder().await;
    let codes = || Some(matrix(2, &[0.1, 0.2]));
    let result =
        client.decode(pb::DecodeRequest { model: newest("codes"), codes: codes(), ..Default::default() }).await;
    check(result, Code::InvalidArgument, &["version", "newest", "1"]);
    let result =
        client.decode(pb::DecodeRequest { model: newest("nowhere"), codes: codes(), ..Default::default() }).await;
    check(result, Code::NotFound, &["nowhere"]);
    let wide = Some(matrix(3, &[0.1, 0.2, 0.3]));
    let result =
        client.decode(pb::DecodeRequest { model: version("codes", 1), codes: wide, ..Default::default() }).await;
    let status = check(result, Code::InvalidArgument, &["3", "2"]);
    assert_eq!(field(&status), "codes");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_above_the_limit_is_resource_exhausted() {
    let store = temporary_store();
    let mut config = ServerConfig::new(store.path().to_owned());
    config.transport.message_bytes_max = 10_000;
    let server = TestServer::start_with(config).await;
    let rows = matrix(6, &sample(1000, 6, 1));
    let result = server.autoencoder().await.encode(encode(newest("any"), Some(rows))).await;
    check(result, Code::ResourceExhausted, &["10000 bytes"]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_can_never_fit_the_queue_is_refused_at_once() {
    let store = temporary_store();
    served(store.path(), "narrow", &[6, 2]).await.stop().await;
    let mut config = ServerConfig::new(store.path().to_owned());
    config.batching.queue_rows_max = 100;
    config.batching.batch_rows_max = 64;
    let server = TestServer::start_with(config).await;
    let rows = matrix(6, &sample(101, 6, 1));
    let result = server.autoencoder().await.encode(encode(newest("narrow"), Some(rows))).await;
    check(result, Code::ResourceExhausted, &["101", "100"]);
    server.stop().await;
}

/// Concurrent callers exceed a small queue several times: rejected callers receive a retry delay.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_returns_a_retry_delay() {
    let store = temporary_store();
    let opened = LocalStore::open(store.path()).expect("opens");
    opened.publish(&"full".parse().expect("a name"), &untrained(&[1024, 2048, 8])).expect("publishes");
    drop(opened);
    let mut config = ServerConfig::new(store.path().to_owned());
    config.batching.queue_rows_max = 100;
    let server = TestServer::start_with(config).await;
    let client = server.autoencoder().await;
    let rows = matrix(1024, &sample(90, 1024, 1));
    // Repeatedly send more than the connection's windows hold: rejected messages must be read too.
    let callers: Vec<_> = (0..16 * 8)
        .map(|_| {
            let (mut client, question) = (client.clone(), encode(newest("full"), Some(rows.clone())));
            tokio::spawn(async move { client.encode(question).await })
        })
        .collect();
    let (mut served, mut refused) = (0, 0);
    for caller in callers {
        let answer = caller.await.expect("no panic");
        if answer.is_ok() {
            served += 1;
            continue;
        }
        refused += 1;
        let status = check(answer, Code::ResourceExhausted, &["the queue is full", "100 rows"]);
        let details = status.get_error_details();
        let delay = details.retry_info().and_then(|info| info.retry_delay).expect("RetryInfo with a delay");
        assert!(!delay.is_zero() && delay <= Duration::from_secs(10), "{delay:?}");
    }
    assert!(served > 0 && refused > 0, "{served} served, {refused} refused");
    client.clone().encode(encode(newest("full"), Some(rows))).await.expect("there is room again");
    server.stop().await;
}

/// Without a connection, because the client's own timer would fire first.
#[tokio::test(flavor = "multi_thread")]
async fn a_passed_deadline_is_deadline_exceeded() {
    let store = temporary_store();
    served(store.path(), "late", &[6, 2]).await.stop().await;
    let store = Arc::new(LocalStore::open(store.path()).expect("opens"));
    let registry = Registry::new(store, RegistryConfig::default());
    let batcher = Batcher::start(BatchingConfig::default(), 1, Arc::default()).expect("threads");
    let folder = temporary_store();
    let jobs =
        Jobs::open(JobsConfig::new(folder.path().join("jobs")), registry.clone(), Arc::default()).expect("opens");
    let api = Api::new(Service::new(registry, batcher, jobs.clone(), Lifecycle::default()));
    for (timeout, expected) in [("0n", Err(Code::DeadlineExceeded)), ("20S", Ok(1))] {
        let mut request = Request::new(encode(newest("late"), Some(matrix(6, &sample(2, 6, 1)))));
        request.extensions_mut().insert(halfhitch::security::Caller::unrestricted());
        request.metadata_mut().insert("grpc-timeout", timeout.parse().expect("a header"));
        let server = InTime::new(AutoencoderServiceServer::new(api.clone()));
        let answer = AutoencoderServiceClient::new(server).encode(request).await;
        assert_eq!(answer.map(|answer| answer.into_inner().version).map_err(|status| status.code()), expected);
    }
    jobs.shut_down().await;
}
