//! Attacks with frames of HTTP/2.

use std::time::Duration;

use halfhitch::rpc::pb;
use prost::Message as _;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::{Besieged, ENCODE, GROWTH_KIB_MAX, check_warnings, in_pieces, on_the_wire, question};
use crate::support::raw::{
    DATA, END_HEADERS, END_STREAM, GO_AWAY, HEADERS, NEWEST, PING, RST_STREAM, SETTINGS, WINDOW_UPDATE, call, frame,
    header, remembered_header,
};

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
