//! Settings of the transport, as a plain HTTP/2 client sees them.

use std::error::Error;
use std::time::{Duration, Instant};

use halfhitch::rpc::pb;
use halfhitch::server::{self, ServerConfig, ServerError, TransportConfig};
use tokio::net::TcpListener;

use crate::support::raw::{GO_AWAY, PING, Raw, SETTINGS, WINDOW_BYTES_AT_FIRST, WINDOW_UPDATE};
use crate::support::{TestServer, matrix, newest, sample, served, temporary_store};

// Settings of RFC 9113, section 6.5.2.
const MAX_CONCURRENT_STREAMS: u16 = 3;
const INITIAL_WINDOW_SIZE: u16 = 4;
const MAX_FRAME_SIZE: u16 = 5;

async fn start(transport: TransportConfig) -> (tempfile::TempDir, TestServer) {
    let store = temporary_store();
    let server = TestServer::start_with(ServerConfig { transport, ..ServerConfig::new(store.path().to_owned()) }).await;
    (store, server)
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_receive_window_frame_and_stream_limits() {
    let (_store, server) = start(TransportConfig {
        stream_window_bytes: 200_000,
        connection_window_bytes: 300_000,
        frame_bytes_max: 20_000,
        streams_per_connection_max: 3,
        ..TransportConfig::default()
    })
    .await;
    let mut raw = Raw::connect(server.address()).await;
    let settings = raw.until(SETTINGS).await.payload;
    let setting = |id: u16| {
        settings.chunks(6).find_map(|entry| {
            let (name, value) = (u16::from_be_bytes([entry[0], entry[1]]), &entry[2..]);
            (name == id).then(|| u32::from_be_bytes([value[0], value[1], value[2], value[3]]))
        })
    };
    assert_eq!(setting(INITIAL_WINDOW_SIZE), Some(200_000));
    assert_eq!(setting(MAX_FRAME_SIZE), Some(20_000));
    assert_eq!(setting(MAX_CONCURRENT_STREAMS), Some(3));
    let update = raw.until(WINDOW_UPDATE).await.payload;
    assert_eq!(update, (300_000 - WINDOW_BYTES_AT_FIRST as u32).to_be_bytes());
    drop(raw);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_connection_is_pinged_and_closed() {
    let second = Duration::from_secs(1);
    let (_store, server) = start(TransportConfig {
        keepalive_interval: Some(second),
        keepalive_timeout: second,
        ..TransportConfig::default()
    })
    .await;
    let started = Instant::now();
    let mut raw = Raw::connect(server.address()).await;
    raw.until(PING).await;
    let asked = started.elapsed();
    raw.until_closed().await;
    let closed = started.elapsed();
    assert!((second..second * 4).contains(&asked), "asked after {asked:?}");
    assert!((second * 2..second * 8).contains(&closed), "closed after {closed:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_connection_receives_goaway() {
    let (_store, server) =
        start(TransportConfig { connection_age_max: Some(Duration::from_secs(1)), ..TransportConfig::default() }).await;
    let mut all: Vec<_> = Vec::new();
    for _ in 0..3 {
        all.push(Raw::connect(server.address()).await);
    }
    for mut raw in all {
        let started = Instant::now();
        raw.until(GO_AWAY).await;
        assert!(started.elapsed() < Duration::from_secs(8), "asked after {:?}", started.elapsed());
    }
    server.stop().await;
}

/// A call can cross with GOAWAY. Then the server did not serve it, the client's transport reports an error, and a retry
/// succeeds.
#[tokio::test(flavor = "multi_thread")]
async fn calls_succeed_while_connections_age() {
    let store = temporary_store();
    served(store.path(), "ages", &[6, 2]).await.stop().await;
    let mut config = ServerConfig::new(store.path().to_owned());
    config.transport.connection_age_max = Some(Duration::from_secs(1));
    let server = TestServer::start_with(config).await;
    let mut client = server.autoencoder().await;
    let question =
        pb::EncodeRequest { model: newest("ages"), rows: Some(matrix(6, &sample(2, 6, 1))), ..Default::default() };
    let mut crossed = 0;
    let until = Instant::now() + Duration::from_millis(3_500);
    while Instant::now() < until {
        if let Err(status) = client.encode(question.clone()).await {
            assert!(status.source().is_some(), "the server said {status:?}");
            crossed += 1;
            client.encode(question.clone()).await.expect("encodes on the next connection");
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert!(crossed <= 4, "{crossed} calls failed, a connection lives for 0.9 s at least");
    drop(client);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_settings_are_rejected_before_anything_is_opened() {
    let store = temporary_store();
    let mut config = ServerConfig::new(store.path().join("not made"));
    config.transport.frame_bytes_max = 1;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let refused = server::run(listener, config, async {}).await.expect_err("refused");
    assert!(matches!(&refused, ServerError::Setting(bad) if bad.setting == "frame_bytes_max"), "{refused}");
    assert!(refused.to_string().contains("from 16384 to 16777215"), "{refused}");
    assert!(!store.path().join("not made").exists());
}
