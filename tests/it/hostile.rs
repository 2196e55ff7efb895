//! Malicious clients: each attack costs the server a bounded amount and one log line, and others are served.

mod bytes;
mod frames;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use halfhitch::rpc::pb;
use prost::Message as _;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::support::eventually::eventually;
use crate::support::process::ServerProcess;
use crate::support::raw::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PREFACE, Raw, SETTINGS, call, frame, header,
};
use crate::support::{AutoencoderClient, matrix, newest, sample, served, temporary_store};

const ENCODE: &str = "/halfhitch.v1.AutoencoderService/Encode";
const RECONSTRUCT: &str = "/halfhitch.v1.AutoencoderService/Reconstruct";
/// Maximum memory growth in one attack: a few connections with full windows, and what the allocator keeps of them.
const GROWTH_KIB_MAX: u64 = 96 << 10;

/// A server under attack, and an ordinary client.
struct Besieged {
    server: ServerProcess,
    client: AutoencoderClient,
    log: PathBuf,
    memory_kib: u64,
    _folder: TempDir,
}

impl Besieged {
    async fn start(flags: &[&str]) -> Self {
        let folder = temporary_store();
        let (store, log) = (folder.path().join("store"), folder.path().join("log"));
        served(&store, "m", &[6, 2]).await.stop().await;
        let flags: Vec<&str> = flags.iter().copied().chain(["--log-format", "json"]).collect();
        let server = ServerProcess::start_logging(&store, &flags, File::create(&log).expect("creates"));
        let client = server.autoencoder().await;
        let mut besieged = Self { server, client, log, memory_kib: 0, _folder: folder };
        besieged.serves().await;
        besieged.memory_kib = besieged.memory();
        besieged
    }

    async fn serves(&mut self) {
        let answer = timeout(Duration::from_secs(30), self.client.encode(question())).await;
        answer.expect("in time").expect("others are served");
    }

    fn memory(&self) -> u64 {
        self.server.memory_kib("RssAnon").expect("this system tells")
    }

    async fn connect(&self) -> Raw {
        Raw::connect(self.server.address()).await
    }

    /// Checks that others are served, that memory has grown by at most `growth_kib_max`, and that the server ends
    /// cleanly. Returns the warnings in its log with their counts.
    async fn end(mut self, growth_kib_max: u64) -> BTreeMap<String, usize> {
        self.serves().await;
        let grown = self.memory().saturating_sub(self.memory_kib);
        assert!(grown <= growth_kib_max, "{grown} KiB more, expected at most {growth_kib_max}");
        let Self { server, client, log, _folder, .. } = self;
        drop(client);
        server.signal("TERM");
        assert_eq!(server.wait().await, Some(0));
        let mut warnings = BTreeMap::new();
        for line in std::fs::read_to_string(log).expect("reads").lines() {
            let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
            if ["WARN", "ERROR"].iter().any(|level| line["level"] == *level) {
                let message = line["fields"]["message"].as_str().expect("a message").to_owned();
                *warnings.entry(message).or_default() += 1;
            }
        }
        warnings
    }
}

fn question() -> pb::EncodeRequest {
    pb::EncodeRequest { model: newest("m"), rows: Some(matrix(6, &sample(2, 6, 1))), ..Default::default() }
}

/// A message with its gRPC prefix.
fn on_the_wire(is_compressed: bool, message: &[u8]) -> Vec<u8> {
    let mut bytes = vec![u8::from(is_compressed)];
    bytes.extend((message.len() as u32).to_be_bytes());
    bytes.extend(message);
    bytes
}

#[track_caller]
fn check_warnings(warnings: &BTreeMap<String, usize>, expected: &[&str]) {
    let told: Vec<(&str, usize)> = warnings.iter().map(|(message, count)| (message.as_str(), *count)).collect();
    assert_eq!(told.len(), expected.len(), "{told:?}, expected {expected:?}");
    for text in expected {
        let times: Vec<usize> = told.iter().filter(|(message, _)| message.contains(text)).map(|told| told.1).collect();
        assert_eq!(times, [1], "{text:?} in {told:?}");
    }
}

/// A header block in frames of 16 KiB, as a correct client sends it.
fn in_pieces(block: &[u8], stream: u32) -> Vec<u8> {
    let pieces: Vec<&[u8]> = block.chunks(16 << 10).collect();
    let last = pieces.len() - 1;
    let piece = |(i, piece): (usize, &&[u8])| {
        let flags = if i == last { END_HEADERS } else { 0 };
        frame(if i == 0 { HEADERS } else { CONTINUATION }, flags, stream, piece)
    };
    pieces.iter().enumerate().flat_map(piece).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_connections_are_closed() {
    let besieged = Besieged::start(&["--handshake-timeout-seconds", "1", "--first-call-timeout-seconds", "2"]).await;
    let address = besieged.server.address();
    let mut tasks = JoinSet::new();
    for i in 0..60 {
        tasks.spawn(async move {
            let mut raw = match i % 3 {
                // A silent connection.
                0 => Raw(TcpStream::connect(address).await.expect("listens")),
                // The HTTP/2 preface, byte by byte.
                1 => {
                    let mut stream = TcpStream::connect(address).await.expect("listens");
                    for byte in PREFACE {
                        if stream.write_all(&[*byte]).await.is_err() {
                            break;
                        }
                        sleep(Duration::from_millis(200)).await;
                    }
                    Raw(stream)
                }
                // The headers, byte by byte.
                _ => {
                    let mut raw = Raw::connect(address).await;
                    for byte in frame(HEADERS, END_HEADERS, 1, &call(ENCODE)) {
                        if !raw.send(&[byte]).await {
                            break;
                        }
                        sleep(Duration::from_millis(100)).await;
                    }
                    raw
                }
            };
            raw.until_closed().await;
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.expect("the server closes it");
    }
    let expected = ["closed a connection during its handshake", "closed a connection that never made a call"];
    check_warnings(&besieged.end(GROWTH_KIB_MAX).await, &expected);
}

/// Complete messages on calls that do not end.
#[tokio::test(flavor = "multi_thread")]
async fn unfinished_calls_share_a_byte_limit() {
    // A ping would wake a connection that the server has stopped reading.
    let flags =
        ["--in-flight-bytes-max", "16MiB", "--message-timeout-seconds", "600", "--keepalive-interval-seconds", "600"];
    let besieged = Besieged::start(&flags).await;
    let rows = Some(matrix(6, &sample(37_000, 6, 1)));
    let question = pb::EncodeRequest { model: newest("m"), rows, ..Default::default() };
    let message = on_the_wire(false, &question.encode_to_vec());
    let mut raw = besieged.connect().await;
    raw.settle().await;
    let (mut write, credit, mut refused) = raw.with_flow();
    for i in 0..200 {
        let stream = 2 * i + 1;
        write.write_all(&frame(HEADERS, END_HEADERS, stream, &call(ENCODE))).await.expect("open");
        for piece in message.chunks(16 << 10) {
            credit.take(stream, piece.len()).await;
            write.write_all(&frame(DATA, 0, stream, piece)).await.expect("open");
        }
    }
    for _ in 0..180 {
        timeout(Duration::from_secs(30), refused.recv()).await.expect("most are refused").expect("open");
    }
    let grown = besieged.memory().saturating_sub(besieged.memory_kib);
    assert!(grown < (16 << 10) + GROWTH_KIB_MAX, "{grown} KiB hold what is less than 180 MiB");
    drop(write);
    check_warnings(&besieged.end(GROWTH_KIB_MAX).await, &["too much in flight"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_without_a_complete_message_log_no_warning() {
    let mut besieged = Besieged::start(&[]).await;
    let mut raw = besieged.connect().await;
    raw.settle().await;
    let half = on_the_wire(false, &question().encode_to_vec());
    let trailers = header("x", "y");
    for i in 0..100 {
        let stream = 6 * i + 1;
        // No message; half a message and trailers; half a message and the end of the stream.
        let ends: [Vec<u8>; 3] = [
            frame(HEADERS, END_HEADERS | END_STREAM, stream, &call(ENCODE)),
            [
                frame(HEADERS, END_HEADERS, stream + 2, &call(ENCODE)),
                frame(DATA, 0, stream + 2, &half[..20]),
                frame(HEADERS, END_HEADERS | END_STREAM, stream + 2, &trailers),
            ]
            .concat(),
            [frame(HEADERS, END_HEADERS, stream + 4, &call(ENCODE)), frame(DATA, END_STREAM, stream + 4, &half[..20])]
                .concat(),
        ];
        for bytes in ends {
            assert!(raw.send(&bytes).await, "open");
            raw.until_ended().await;
        }
    }
    drop(raw);
    besieged.serves().await;
    check_warnings(&besieged.end(GROWTH_KIB_MAX).await, &[]);
}

/// Open calls are limited to `calls_max`, and those of one address to four fifths of it; connections likewise.
#[tokio::test(flavor = "multi_thread")]
async fn calls_and_connections_are_limited() {
    let flags = ["--calls-max", "100", "--connections-max", "20"];
    let mut besieged = Besieged::start(&flags).await;
    let mut raw = besieged.connect().await;
    raw.settle().await;
    for i in 0..100 {
        raw.send(&frame(HEADERS, END_HEADERS, 2 * i + 1, &call(ENCODE))).await;
    }
    // The ordinary client gets no slot at this moment.
    for _ in 0..20 {
        raw.until_ended().await;
    }
    besieged.client.encode(question()).await.expect_err("no place for a call");
    drop(raw);
    eventually("a place for a call is free", async || besieged.client.encode(question()).await).await;
    let address = besieged.server.address();
    let mut all = Vec::new();
    for _ in 0..20 {
        let mut stream = TcpStream::connect(address).await.expect("listens");
        let _ = stream.write_all(&[&PREFACE[..], &frame(SETTINGS, 0, 0, &[])].concat()).await;
        all.push(Raw(stream));
    }
    let mut closed = 0;
    for raw in &mut all {
        closed += usize::from(raw.frame().await.is_none());
    }
    assert!((5..20).contains(&closed), "{closed} of 20 were closed at once");
    drop(all);
    let expected = ["too much in flight", "connections_max is reached"];
    check_warnings(&besieged.end(GROWTH_KIB_MAX).await, &expected);
}

/// Connections that complete the HTTP/2 handshake and then stay silent until the timeout.
async fn idle(count: usize, first_call_timeout_seconds: &str) {
    let flags = ["--keepalive-interval-seconds", "0", "--first-call-timeout-seconds", first_call_timeout_seconds];
    let mut besieged = Besieged::start(&flags).await;
    let mut all = Vec::with_capacity(count);
    for i in 0..count {
        all.push(besieged.connect().await);
        if i % 1000 == 0 {
            besieged.serves().await;
        }
    }
    // Each was accepted, and its handshake completed.
    for raw in &mut all {
        raw.until(SETTINGS).await;
    }
    besieged.serves().await;
    let grown = besieged.memory().saturating_sub(besieged.memory_kib);
    eprintln!("{count} idle connections: {grown} KiB");
    assert!(grown / count as u64 <= 32, "{grown} KiB for {count} connections");
    for raw in &mut all {
        raw.until_closed().await;
    }
    check_warnings(&besieged.end(u64::MAX).await, &["closed a connection that never made a call"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_cost_little() {
    idle(500, "5").await;
}

/// Needs `ulimit -n` above 10,100.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "wants 10,000 file descriptors twice: cargo test --test it ten_thousand_idle -- --ignored --nocapture"]
async fn ten_thousand_idle_connections_cost_little() {
    idle(10_000, "20").await;
}
