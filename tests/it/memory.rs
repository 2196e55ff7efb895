//! Memory of an idle server with a large model, and over many requests.

use crate::support::eventually::eventually;
use crate::support::process::ServerProcess;
use crate::support::{import, matrix, newest, sample, temporary_store, version};
use std::time::Duration;

use halfhitch::rpc::pb;

const IDLE_KIB_MAX: u64 = 60 * 1024;

/// The size of the model file, and RssAnon of a server that has loaded it and served encode and decode.
async fn loaded(widths: &[usize]) -> (usize, Option<u64>) {
    let store = temporary_store();
    let importing = ServerProcess::start(store.path());
    let file_bytes = import(&importing, "m", widths).await;
    assert_eq!(importing.terminate(), Some(0));
    let server = ServerProcess::start(store.path());
    let mut client = server.autoencoder().await;
    let (inputs, code) = (widths[0], widths[widths.len() - 1]);
    // Row counts that use every kernel, in messages small enough that the allocator's caches do not matter.
    for rows in [1, 7, 16, 17].into_iter().cycle().take(40) {
        let encode = pb::EncodeRequest {
            model: newest("m"),
            rows: Some(matrix(inputs, &sample(rows, inputs, rows as u64))),
            ..Default::default()
        };
        client.encode(encode).await.expect("encodes");
        let decode = pb::DecodeRequest {
            model: version("m", 1),
            codes: Some(matrix(code, &sample(rows, code, rows as u64))),
            ..Default::default()
        };
        client.decode(decode).await.expect("decodes");
    }
    // Serving threads keep their buffers for a moment.
    tokio::time::sleep(Duration::from_millis(200)).await;
    (file_bytes, server.memory_kib("RssAnon"))
}

/// The difference to a server with a 1x1 model is the model: each matrix is in memory once, for both directions.
#[tokio::test(flavor = "multi_thread")]
async fn a_loaded_model_takes_little_more_than_its_file() {
    for widths in [&[784, 1000, 500, 250, 30][..], &[2048, 2048]] {
        let ((_, small), (file_bytes, large)) = (loaded(&[1, 1]).await, loaded(widths).await);
        let (Some(small), Some(large)) = (small, large) else {
            eprintln!("skipped: this system does not tell RssAnon");
            return;
        };
        let (model_kib, file_kib) = (large.saturating_sub(small) as f64, file_bytes as f64 / 1024.0);
        println!("{widths:?}: {model_kib} KiB of memory for a file of {file_kib:.0} KiB: {:.3}", model_kib / file_kib);
        let most = 1.05 * file_kib + 1000.0;
        assert!(model_kib <= most, "{widths:?} takes {model_kib} KiB of memory, at most {most:.0}");
    }
}

/// `HALFHITCH_TEST_REQUESTS` sets the number of requests (2,000 by default, 100,000 for the published figure).
#[tokio::test(flavor = "multi_thread")]
async fn an_idle_server_is_small_and_does_not_grow() {
    let requests: u64 = std::env::var("HALFHITCH_TEST_REQUESTS").map_or(2_000, |text| text.parse().expect("a number"));
    let store = temporary_store();
    let server = ServerProcess::start(store.path());
    import(&server, "deep", &[784, 1000, 500, 250, 30]).await;

    let client = server.autoencoder().await;
    let row = matrix(784, &sample(1, 784, 1));
    let encode = async |count: u64| {
        let callers: Vec<_> = (0..8)
            .map(|_| {
                let mut client = client.clone();
                let row = row.clone();
                tokio::spawn(async move {
                    for _ in 0..count / 8 {
                        let question =
                            pb::EncodeRequest { model: newest("deep"), rows: Some(row.clone()), ..Default::default() };
                        client.encode(question).await.expect("encodes");
                    }
                })
            })
            .collect();
        for caller in callers {
            caller.await.expect("no panic");
        }
    };
    encode(requests / 4).await;
    let Some(warm) = server.memory_kib("RssAnon") else {
        eprintln!("skipped: this system does not tell RssAnon");
        return;
    };
    encode(requests).await;
    let after = server.memory_kib("RssAnon").expect("told before");
    println!("RssAnon after {} requests {warm} KiB, after {requests} more {after} KiB", requests / 4);
    assert!(warm <= IDLE_KIB_MAX, "idle server with the model: {warm} KiB, at most {IDLE_KIB_MAX}");
    // The allocator's thread caches settle within 1 MiB.
    assert!(after <= warm + 1024, "grew from {warm} to {after} KiB over {requests} requests");
}

/// Memory of idle calls returns to the system when the calls and their connections end.
#[tokio::test(flavor = "multi_thread")]
async fn memory_of_idle_calls_is_given_back() {
    use halfhitch::rpc::pb::autoencoder_service_client::AutoencoderServiceClient;
    use tokio::sync::mpsc;
    use tokio_stream::wrappers::ReceiverStream;
    const MIB: u64 = 1024;
    let store = temporary_store();
    let server = ServerProcess::start(store.path());
    let Some(start) = server.memory_kib("RssAnon") else {
        eprintln!("skipped: this system does not tell RssAnon");
        return;
    };
    let mut calls = Vec::new();
    for _ in 0..60 {
        let channel = server.channel().await;
        for _ in 0..80 {
            // No message is sent: the call waits for its first.
            let (sender, receiver) = mpsc::channel::<pb::EncodeStreamRequest>(1);
            let mut client = AutoencoderServiceClient::new(channel.clone());
            let call =
                tokio::spawn(async move { client.encode_stream(ReceiverStream::new(receiver)).await.map(|_| ()) });
            calls.push((sender, call));
        }
    }
    // Wait, for a limited time, until the calls are open.
    let mut open = start;
    for _ in 0..200 {
        open = server.memory_kib("RssAnon").expect("told before");
        if open > start + 40 * MIB {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(open > start + 20 * MIB, "{start} KiB grew to {open} KiB only: this test shows nothing");
    for (sender, call) in calls {
        drop(sender);
        call.abort();
    }
    let after = eventually("the memory of the calls is free", async || {
        let after = server.memory_kib("RssAnon").expect("told before");
        if after <= start + 20 * MIB { Ok(after) } else { Err((start, open, after)) }
    })
    .await;
    println!("RssAnon {start} KiB at the start, {open} KiB with 4,800 idle calls, {after} KiB after them");
}
