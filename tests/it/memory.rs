//! Memory of the idle server with a large model loaded, and over many requests.

use halfhitch::rpc::pb;
use pb::import_model_version_request::Message as Import;

use crate::support::process::ServerProcess;
use crate::support::{matrix, newest, sample, temporary_store, untrained};

const IDLE_KIB_MAX: u64 = 60 * 1024;

/// `HALFHITCH_TEST_REQUESTS` sets the number of requests (2,000 by default, 100,000 for the figure in the README).
#[tokio::test(flavor = "multi_thread")]
async fn an_idle_server_is_small_and_does_not_grow() {
    let requests: u64 = std::env::var("HALFHITCH_TEST_REQUESTS").map_or(2_000, |text| text.parse().expect("a number"));
    let store = temporary_store();
    let server = ServerProcess::start(store.path());
    let target = Import::Target(pb::ImportTarget { name: "deep".into() });
    let file = untrained(&[784, 1000, 500, 250, 30]).to_bytes();
    let chunks: Vec<_> = file.chunks(1 << 20).map(|chunk| Import::Chunk(chunk.to_vec().into())).collect();
    let messages =
        std::iter::once(target).chain(chunks).map(|message| pb::ImportModelVersionRequest { message: Some(message) });
    server
        .models()
        .await
        .import_model_version(tokio_stream::iter(messages.collect::<Vec<_>>()))
        .await
        .expect("imports");

    let client = server.autoencoder().await;
    let row = matrix(784, &sample(1, 784, 1));
    let encode = async |count: u64| {
        let callers: Vec<_> = (0..8)
            .map(|_| {
                let mut client = client.clone();
                let row = row.clone();
                tokio::spawn(async move {
                    for _ in 0..count / 8 {
                        let question = pb::EncodeRequest { model: newest("deep"), rows: Some(row.clone()) };
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
    // Thread caches of the allocator settle within a megabyte.
    assert!(after <= warm + 1024, "grew from {warm} to {after} KiB over {requests} requests");
}
