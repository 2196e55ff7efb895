//! Compressed messages in both directions, and the limit on the decompressed size.

use std::io::Write;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use halfhitch::rpc::pb;
use halfhitch::server::{SecurityConfig, ServerConfig};
use tonic::codec::CompressionEncoding::{self, Gzip, Zstd};
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::support::raw::{DATA, END_HEADERS, END_STREAM, HEADERS, Raw, call, frame, header};
use crate::support::{
    AutoencoderClient, TestServer, collected, matrix, newest, sample, served, spec, temporary_store, train,
};

const ENCODE: &str = "/halfhitch.v1.AutoencoderService/Encode";

async fn client(server: &TestServer, encoding: CompressionEncoding) -> AutoencoderClient {
    server.autoencoder().await.send_compressed(encoding).accept_compressed(encoding)
}

fn request(rows: usize) -> pb::EncodeRequest {
    pb::EncodeRequest { model: newest("m"), rows: Some(matrix(6, &sample(rows, 6, 1))), ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_call_kinds_support_gzip_and_zstd() {
    let store = temporary_store();
    let server = served(store.path(), "m", &[6, 2]).await;
    let mut plain = server.autoencoder().await;
    for encoding in [Gzip, Zstd] {
        let mut packed = client(&server, encoding).await;
        // In one batch and in several.
        for rows in [1, 3, 30_000] {
            let expected = plain.encode(request(rows)).await.expect("encodes");
            assert!(expected.metadata().get("grpc-encoding").is_none());
            let answer = packed.encode(request(rows)).await.expect("encodes");
            assert_eq!(answer.metadata().get("grpc-encoding").expect("compressed"), &encoding.to_string());
            assert_eq!(answer.into_inner(), expected.into_inner());
        }
        let message =
            |rows| pb::EncodeStreamRequest { model: newest("m"), rows: request(rows).rows, ..Default::default() };
        let messages = || tokio_stream::iter([message(2), message(5000), message(7)]);
        let (expected, end) = collected(plain.encode_stream(messages()).await.expect("opens").into_inner()).await;
        end.expect("ends well");
        let (answers, end) = collected(packed.encode_stream(messages()).await.expect("opens").into_inner()).await;
        end.expect("ends well");
        assert_eq!(answers, expected);
        let trained = train(&mut packed, spec("n", &[6, 3]), &sample(300, 6, 2)).await.expect("trains");
        let again = train(&mut plain, spec("n", &[6, 3]), &sample(300, 6, 2)).await.expect("trains");
        let digest = |result: pb::TrainResult| result.training_report.expect("a report").data_sha256;
        assert_eq!(digest(trained), digest(again));
        let mut models = server.models().await.send_compressed(encoding).accept_compressed(encoding);
        assert!(
            !models.list_models(pb::ListModelsRequest::default()).await.expect("lists").into_inner().models.is_empty()
        );
        let mut jobs = server.jobs().await.send_compressed(encoding).accept_compressed(encoding);
        jobs.list_jobs(pb::ListJobsRequest::default()).await.expect("lists");
        let mut health =
            HealthClient::new(server.channel().await).send_compressed(encoding).accept_compressed(encoding);
        health.check(HealthCheckRequest::default()).await.expect("is told");
    }
    server.stop().await;
}

/// Most clients announce support for compressed responses; that does not mean that they want them.
#[tokio::test(flavor = "multi_thread")]
async fn responses_are_compressed_only_if_requests_are() {
    let store = temporary_store();
    let server = served(store.path(), "m", &[6, 2]).await;
    let mut understands = server.autoencoder().await.accept_compressed(Gzip).accept_compressed(Zstd);
    let answer = understands.encode(request(100)).await.expect("encodes");
    assert!(answer.metadata().get("grpc-encoding").is_none());
    // A client that sends compressed requests but does not accept compressed responses.
    let mut sends = server.autoencoder().await.send_compressed(Gzip);
    let answer = sends.encode(request(100)).await.expect("encodes");
    assert!(answer.metadata().get("grpc-encoding").is_none());
    server.stop().await;
}

async fn start(store: &Path, change: impl FnOnce(&mut ServerConfig)) -> TestServer {
    served(store, "m", &[6, 2]).await.stop().await;
    let mut config = ServerConfig::new(store.to_owned());
    change(&mut config);
    TestServer::start_with(config).await
}

#[track_caller]
fn check_refused(result: Result<tonic::Response<pb::EncodeResponse>, Status>, texts: &[&str]) {
    let status = result.expect_err("refused");
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    for text in texts {
        assert!(status.message().contains(text), "{:?} does not say {text:?}", status.message());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_message_limit_applies_to_decompressed_bytes() {
    let store = temporary_store();
    let server = start(store.path(), |config| config.transport.message_bytes_max = 64 << 10).await;
    // 240 KB of zeros, compressed to a few hundred bytes.
    let zeros = || pb::EncodeRequest { rows: Some(matrix(6, &vec![0.0; 60_000])), ..request(1) };
    for encoding in [Gzip, Zstd] {
        let mut packed = client(&server, encoding).await;
        check_refused(packed.encode(zeros()).await, &["when decompressed", "65536", "send the rows in parts"]);
        let message = pb::EncodeStreamRequest { model: newest("m"), rows: zeros().rows, ..Default::default() };
        let answers = packed.encode_stream(tokio_stream::iter([message])).await.expect("opens").into_inner();
        let (_, end) = collected(answers).await;
        let status = end.expect_err("refused");
        assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
        assert!(status.message().starts_with("message 1: "), "{status:?}");
        packed.encode(request(1000)).await.expect("what fits is served");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn caller_byte_limits_count_decompressed_bytes() {
    let store = temporary_store();
    let limits = halfhitch::security::CallerLimits { bytes_max: 100_000, ..Default::default() };
    let server =
        start(store.path(), |config| config.security = SecurityConfig { caller: limits, ..SecurityConfig::default() })
            .await;
    let zeros = |numbers: usize| pb::EncodeRequest { rows: Some(matrix(6, &vec![0.0; numbers])), ..request(1) };
    let mut packed = client(&server, Gzip).await;
    packed.encode(zeros(6000)).await.expect("within the limit");
    check_refused(packed.encode(zeros(60_000)).await, &["bytes_max"]);
    server.stop().await;
}

/// Sends a message, and returns the response headers as text.
async fn answered(raw: &mut Raw, stream: u32, encoding: &str, message: &[u8]) -> String {
    let block = [call(ENCODE), header("grpc-encoding", encoding)].concat();
    raw.send(&frame(HEADERS, END_HEADERS, stream, &block)).await;
    let mut bytes = vec![1];
    bytes.extend((message.len() as u32).to_be_bytes());
    bytes.extend(message);
    raw.send(&frame(DATA, END_STREAM, stream, &bytes)).await;
    loop {
        let frame = raw.frame().await.expect("answered");
        if frame.kind == HEADERS && frame.stream == stream {
            return String::from_utf8_lossy(&frame.payload).into_owned();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn undecodable_messages_do_not_stop_the_server() {
    let store = temporary_store();
    let server = served(store.path(), "m", &[6, 2]).await;
    let mut raw = Raw::connect(server.address()).await;
    raw.settle().await;
    let mut packed = GzEncoder::new(Vec::new(), Compression::default());
    packed.write_all(&[7; 1000]).expect("memory");
    let packed = packed.finish().expect("memory");
    // HPACK may compress the header text, so the test checks only that the server keeps serving.
    for (stream, encoding, message) in
        [(1, "deflate", &packed[..]), (3, "gzip", &[1, 2, 3]), (5, "zstd", &packed[..]), (7, "gzip", &packed[..])]
    {
        answered(&mut raw, stream, encoding, message).await;
    }
    server.autoencoder().await.encode(request(1)).await.expect("others are served");
    drop(raw);
    server.stop().await;
}
