//! Attacks that make the server hold bytes.

use std::io::Write;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use halfhitch::rpc::pb;
use prost::Message as _;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::{Besieged, ENCODE, GROWTH_KIB_MAX, RECONSTRUCT, check_warnings, on_the_wire};
use crate::support::raw::{DATA, END_HEADERS, END_STREAM, HEADERS, SETTINGS, call, frame, header};
use crate::support::{matrix, newest, sample};

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
