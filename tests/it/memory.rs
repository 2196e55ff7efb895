//! Memory of the idle server with a large model loaded, and over many requests.

use halfhitch::model::normalisation::Normaliser;
use halfhitch::model::spec::RawModelSpec;
use halfhitch::model::{Artifact, Autoencoder, Loss, ModelSpec, NormalisationKind, TiedLayer};
use halfhitch::numeric::Activation;
use halfhitch::numeric::matmul::Weights;
use halfhitch::rpc::pb;
use pb::import_model_version_request::Message as Import;

use crate::support::process::ServerProcess;
use crate::support::{matrix, newest, sample, temporary_store};

const IDLE_KIB_MAX: u64 = 60 * 1024;

/// 784-1000-500-250-30 with small weights, as a file from elsewhere.
fn deep_model() -> Vec<u8> {
    let widths = vec![784, 1000, 500, 250, 30];
    let elu = Activation::Elu { alpha: 1.0 };
    let layers = widths
        .windows(2)
        .map(|pair| {
            let values = sample(pair[1], pair[0], 5).into_iter().map(|value| (value % 1.0) * 0.05).collect();
            TiedLayer {
                weight: Weights::from_row_major(pair[1], pair[0], values),
                encoder_bias: vec![0.0; pair[1]],
                decoder_bias: vec![0.0; pair[0]],
                gain: None,
            }
        })
        .collect();
    let spec = ModelSpec::new(RawModelSpec {
        widths,
        encoder_activations: vec![elu, elu, elu, Activation::Linear],
        decoder_activations: vec![Activation::Linear, elu, elu, elu],
        loss: Loss::SquaredError,
        normalisation: NormalisationKind::None,
        gain: false,
        feature_names: vec![],
    })
    .expect("a valid specification");
    let normaliser = Normaliser { kind: NormalisationKind::None, offset: vec![], scale: vec![] };
    Artifact { model: Autoencoder::new(spec, normaliser, layers), report: None, sha256: String::new() }.to_bytes()
}

/// `HALFHITCH_TEST_REQUESTS` sets the number of requests (2,000 by default, 100,000 for the figure in the README).
#[tokio::test(flavor = "multi_thread")]
async fn an_idle_server_is_small_and_does_not_grow() {
    let requests: u64 = std::env::var("HALFHITCH_TEST_REQUESTS").map_or(2_000, |text| text.parse().expect("a number"));
    let store = temporary_store();
    let server = ServerProcess::start(store.path());
    let target = Import::Target(pb::ImportTarget { name: "deep".into() });
    let file = deep_model();
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
