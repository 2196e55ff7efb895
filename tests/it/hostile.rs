//! Malicious clients: each attack costs the server a bounded amount and one log line, and others are served.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
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
    CONTINUATION, DATA, END_HEADERS, END_STREAM, GO_AWAY, HEADERS, NEWEST, PING, PREFACE, RST_STREAM, Raw, SETTINGS,
    WINDOW_UPDATE, call, frame, header, remembered_header,
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
async fn headers_of_a_megabyte_are_refused() {
    let mut besieged = Besieged::start(&[]).await;
    let large = [call(ENCODE), header("x", &"y".repeat(1_000_000))].concat();
    let many: Vec<u8> = call(ENCODE).into_iter().chain((0..50_000).flat_map(|_| header("x", "0123456789"))).collect();
    for block in [large, many] {
        for bytes in [frame(HEADERS, END_HEADERS, 1, &block), in_pieces(&block, 1)] {
            for _ in 0..10 {
                let mut raw = besieged.connect().await;
                raw.send(&bytes).await;
                // The call is rejected or the connection is closed; it is not served.
                let mut refused = false;
                while let Some(frame) = raw.frame().await {
                    refused |= matches!(frame.kind, GO_AWAY | RST_STREAM)
                        || (frame.kind == HEADERS && frame.flags & END_STREAM != 0);
                    if refused {
                        break;
                    }
                }
                drop(raw);
            }
        }
        besieged.serves().await;
    }
    check_warnings(&besieged.end(GROWTH_KIB_MAX).await, &["whose headers are larger than header_bytes_max"]);
}

/// One header of 4,000 bytes, then 16,000 one-byte references to it.
#[tokio::test(flavor = "multi_thread")]
async fn hpack_bombs_do_not_affect_other_clients() {
    let mut besieged = Besieged::start(&[]).await;
    let block = [call(ENCODE), remembered_header("x", &"y".repeat(4_000)), vec![NEWEST; 12_000]].concat();
    for _ in 0..20 {
        let mut raw = besieged.connect().await;
        raw.send(&frame(HEADERS, END_HEADERS, 1, &block)).await;
        while let Some(frame) = raw.frame().await {
            if matches!(frame.kind, GO_AWAY | RST_STREAM | HEADERS) {
                break;
            }
        }
    }
    besieged.serves().await;
    check_warnings(&besieged.end(GROWTH_KIB_MAX).await, &[]);
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

/// Sends the frames of `turn` until the server closes the connection.
async fn flood(besieged: &Besieged, turn: impl Fn(u32) -> Vec<u8>) {
    let (mut write, reading) = besieged.connect().await.split();
    let flooding = async {
        let mut sent = 0;
        loop {
            let bytes: Vec<u8> = (0..100).flat_map(|i| turn(sent + i)).collect();
            if write.write_all(&bytes).await.is_err() {
                return;
            }
            sent += 100;
        }
    };
    timeout(Duration::from_secs(30), flooding).await.expect("the server closes it");
    timeout(Duration::from_secs(30), reading).await.expect("the server closes it").expect("no panic");
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_of_resets_end_their_connections() {
    let mut besieged = Besieged::start(&[]).await;
    let begin_and_reset = |i: u32| {
        let stream = 2 * i + 1;
        [frame(HEADERS, END_HEADERS, stream, &call(ENCODE)), frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())]
            .concat()
    };
    for _ in 0..4 {
        flood(&besieged, begin_and_reset).await;
        besieged.serves().await;
    }
    check_warnings(&besieged.end(GROWTH_KIB_MAX).await, &["started calls only to cancel them"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_of_empty_frames_end_their_connections() {
    let mut besieged = Besieged::start(&[]).await;
    let open = |i: u32| if i == 0 { frame(HEADERS, END_HEADERS, 1, &call(ENCODE)) } else { Vec::new() };
    let floods = [
        frame(PING, 0, 0, &[0; 8]),
        frame(SETTINGS, 0, 0, &[]),
        frame(DATA, 0, 1, &[]),
        frame(DATA, 8, 1, &[9, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        frame(WINDOW_UPDATE, 0, 1, &1_u32.to_be_bytes()),
        frame(99, 0, 0, &[1, 2, 3]),
    ];
    for bytes in floods {
        flood(&besieged, |i| [open(i), bytes.clone()].concat()).await;
        besieged.serves().await;
    }
    check_warnings(&besieged.end(GROWTH_KIB_MAX).await, &["a flood of empty frames"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compression_bomb_is_rejected_at_the_size_limit() {
    let mut besieged = Besieged::start(&[]).await;
    // 1 GiB of zeros; gzip compresses it to about 1 MiB, zstd to far less.
    let zeros = vec![0; 1 << 20];
    let (mut gzip, mut zstd) =
        (GzEncoder::new(Vec::new(), Compression::best()), zstd::stream::Encoder::new(Vec::new(), 1).expect("memory"));
    for _ in 0..1024 {
        gzip.write_all(&zeros).expect("memory");
        zstd.write_all(&zeros).expect("memory");
    }
    let (gzip, zstd) = (gzip.finish().expect("memory"), zstd.finish().expect("memory"));
    // Smaller than a stream's window, so it can be sent without reading.
    assert!(gzip.len() < (1 << 20) - 64 && zstd.len() < 256 << 10, "{} and {}", gzip.len(), zstd.len());
    for (encoding, bomb) in [("gzip", &gzip), ("zstd", &zstd), ("zstd", &gzip), ("deflate", &gzip), ("", &gzip)] {
        for _ in 0..8 {
            let more = if encoding.is_empty() { Vec::new() } else { header("grpc-encoding", encoding) };
            let mut raw = besieged.connect().await;
            raw.settle().await;
            raw.send(&frame(HEADERS, END_HEADERS, 1, &[call(ENCODE), more].concat())).await;
            let bytes = on_the_wire(true, bomb);
            for piece in bytes.chunks(16 << 10) {
                raw.send(&frame(DATA, 0, 1, piece)).await;
            }
            raw.send(&frame(DATA, END_STREAM, 1, &[])).await;
            let answer = loop {
                let frame = raw.frame().await.expect("it is answered");
                if frame.kind == HEADERS {
                    break frame;
                }
            };
            assert!(answer.flags & END_STREAM != 0, "{encoding}: refused");
        }
    }
    besieged.serves().await;
    check_warnings(&besieged.end(GROWTH_KIB_MAX).await, &[]);
}

/// Calls that announce a large message, send most of it, and then nothing.
#[tokio::test(flavor = "multi_thread")]
async fn unfinished_messages_share_a_byte_limit_and_time_out() {
    const CALLS: usize = 10;
    let mut besieged = Besieged::start(&["--in-flight-bytes-max", "128MiB", "--message-timeout-seconds", "5"]).await;
    let mut prefix = vec![0];
    prefix.extend((16_u32 << 20).to_be_bytes());
    let piece = vec![0; 16 << 10];
    let mut all = Vec::new();
    for _ in 0..4 {
        let mut raw = besieged.connect().await;
        raw.settle().await;
        let (mut write, credit, ended) = raw.with_flow();
        for i in 0..CALLS as u32 {
            let stream = 2 * i + 1;
            let begin = [frame(HEADERS, END_HEADERS, stream, &call(ENCODE)), frame(DATA, 0, stream, &prefix)].concat();
            credit.take(stream, prefix.len()).await;
            write.write_all(&begin).await.expect("open");
            for _ in 0..15 << 6 {
                credit.take(stream, piece.len()).await;
                write.write_all(&frame(DATA, 0, stream, &piece)).await.expect("open");
            }
        }
        all.push((write, ended));
    }
    besieged.serves().await;
    let grown = besieged.memory().saturating_sub(besieged.memory_kib);
    assert!(grown < (128 << 10) + GROWTH_KIB_MAX, "{grown} KiB hold what is less than 600 MiB");
    for (write, mut ended) in all {
        for _ in 0..CALLS {
            timeout(Duration::from_secs(30), ended.recv()).await.expect("each call is ended").expect("open");
        }
        drop(write);
    }
    let expected = ["too much in flight", "its message did not arrive in time"];
    check_warnings(&besieged.end(GROWTH_KIB_MAX).await, &expected);
}

/// Requests whose responses are never read, or only one byte of them.
async fn check_unread_responses(window_bytes: u8) {
    let besieged = Besieged::start(&["--in-flight-bytes-max", "16MiB"]).await;
    let rows = 32_768;
    let question =
        pb::ReconstructRequest { model: newest("m"), rows: Some(matrix(6, &sample(rows, 6, 1))), ..Default::default() };
    let message = on_the_wire(false, &question.encode_to_vec());
    let mut raw = besieged.connect().await;
    raw.settle().await;
    // Setting 4 is INITIAL_WINDOW_SIZE.
    raw.send(&frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, window_bytes])).await;
    let (mut write, credit, mut answered) = raw.with_flow();
    for i in 0..250 {
        let stream = 2 * i + 1;
        write.write_all(&frame(HEADERS, END_HEADERS, stream, &call(RECONSTRUCT))).await.expect("open");
        let mut pieces = message.chunks(16 << 10).peekable();
        while let Some(piece) = pieces.next() {
            credit.take(stream, piece.len()).await;
            let flags = if pieces.peek().is_none() { END_STREAM } else { 0 };
            write.write_all(&frame(DATA, flags, stream, piece)).await.expect("open");
        }
        timeout(Duration::from_secs(30), answered.recv()).await.expect("each has an answer").expect("open");
    }
    let grown = besieged.memory().saturating_sub(besieged.memory_kib);
    assert!(grown < (16 << 10) + GROWTH_KIB_MAX, "{grown} KiB hold what is less than 190 MiB");
    drop(write);
    check_warnings(&besieged.end(GROWTH_KIB_MAX).await, &["too much in flight"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn unread_responses_share_a_byte_limit() {
    check_unread_responses(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn partly_read_responses_share_the_byte_limit() {
    check_unread_responses(1).await;
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

#[tokio::test(flavor = "multi_thread")]
async fn a_request_sent_frame_by_frame_is_served() {
    let besieged = Besieged::start(&[]).await;
    let mut raw = besieged.connect().await;
    raw.send(&frame(HEADERS, END_HEADERS, 1, &call(ENCODE))).await;
    raw.send(&frame(DATA, END_STREAM, 1, &on_the_wire(false, &question().encode_to_vec()))).await;
    let data = raw.until(DATA).await;
    let answer = pb::EncodeResponse::decode(&data.payload[5..]).expect("an answer");
    assert!(answer.codes.is_some());
    drop(raw);
    check_warnings(&besieged.end(GROWTH_KIB_MAX).await, &[]);
}

/// Clients that make the server reset streams, or hide resets after the end of a call, and do not read.
#[tokio::test(flavor = "multi_thread")]
async fn indirect_reset_floods_are_detected_and_bounded() {
    /// Headers with a priority (RFC 9113, 6.2).
    const PRIORITY: u8 = 0x20;
    let mut besieged = Besieged::start(&[]).await;
    // Streams that depend on themselves.
    let depends = |i: u32| {
        let stream = 2 * i + 1;
        let block = [&stream.to_be_bytes()[..], &[0], &call(ENCODE)].concat();
        frame(HEADERS, END_HEADERS | PRIORITY, stream, &block)
    };
    flood(&besieged, depends).await;
    besieged.serves().await;
    // Windows that overflow.
    let overflows = |i: u32| {
        let stream = 2 * i + 1;
        let update = frame(WINDOW_UPDATE, 0, stream, &0x7fff_ffff_u32.to_be_bytes());
        [frame(HEADERS, END_HEADERS, stream, &call(ENCODE)), update.clone(), update].concat()
    };
    flood(&besieged, overflows).await;
    besieged.serves().await;
    // The end of a stream, then a reset.
    let ends = |i: u32| {
        let stream = 2 * i + 1;
        let path = "/halfhitch.v1.AutoencoderService/EncodeStream";
        let begins = frame(HEADERS, END_HEADERS, stream, &call(path));
        let ends = frame(HEADERS, END_HEADERS | END_STREAM, stream, &header("x", "y"));
        [begins, ends, frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())].concat()
    };
    flood(&besieged, ends).await;
    besieged.serves().await;
    // The first attack again, without reading any response.
    let mut raw = besieged.connect().await;
    let mut sent = 0;
    for i in 0..1_000_000 {
        match timeout(Duration::from_secs(3), raw.0.write_all(&depends(i))).await {
            Ok(Ok(())) => sent = i,
            // The connection is closed or the server no longer reads.
            Ok(Err(_)) | Err(_) => break,
        }
    }
    assert!(sent < 999_999, "all was read");
    besieged.serves().await;
    let grown = besieged.memory().saturating_sub(besieged.memory_kib);
    assert!(grown < GROWTH_KIB_MAX, "{grown} KiB for {sent} streams");
    drop(raw);
    // Two window updates per stream also exceed what a client needs.
    let expected = ["started calls only to cancel them", "a flood of empty frames"];
    check_warnings(&besieged.end(GROWTH_KIB_MAX).await, &expected);
}

/// The maximum number of small headers, on calls that send nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn headers_of_waiting_calls_share_a_byte_limit() {
    let mut besieged = Besieged::start(&["--in-flight-bytes-max", "16MiB"]).await;
    let many: Vec<u8> = (0..420).flat_map(|i| header(&format!("h{i:03}"), "")).collect();
    let block = [call(ENCODE), many].concat();
    let mut all = Vec::new();
    for _ in 0..20 {
        let mut raw = besieged.connect().await;
        raw.settle().await;
        for i in 0..250 {
            assert!(raw.send(&frame(HEADERS, END_HEADERS, 2 * i + 1, &block)).await, "open");
        }
        all.push(raw);
    }
    besieged.serves().await;
    let grown = besieged.memory().saturating_sub(besieged.memory_kib);
    assert!(grown < GROWTH_KIB_MAX, "{grown} KiB hold the headers of 5,000 calls");
    drop(all);
    check_warnings(&besieged.end(GROWTH_KIB_MAX).await, &["too much in flight"]);
}
