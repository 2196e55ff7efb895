//! A Rust client: trains a model on rows in memory, then encodes and decodes rows.
//!
//! `cargo run --example client -- http://127.0.0.1:50051` uses a running server. Without an address the example starts
//! its own server.

use halfhitch::rpc::pb;
use halfhitch::rpc::pb::autoencoder_service_client::AutoencoderServiceClient;
use halfhitch::server::{self, ServerConfig};
use pb::train_request::Message as Question;
use pb::train_response::Message as Answer;

const FEATURES: usize = 6;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let (url, own) = match std::env::args().nth(1) {
        Some(url) => (url, None),
        None => {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
            let url = format!("http://{}", listener.local_addr()?);
            let config = ServerConfig::new(folder.path().to_owned());
            let own = tokio::spawn(server::run(listener, config, async {
                let _ = stopped.await;
            }));
            (url, Some(own))
        }
    };
    train_and_use(url).await?;
    let _ = stop.send(());
    if let Some(own) = own {
        own.await??;
    }
    Ok(())
}

async fn train_and_use(url: String) -> Result<(), Box<dyn std::error::Error>> {
    let mut client = AutoencoderServiceClient::connect(url).await?;
    // Points on a two-dimensional curved surface in six dimensions.
    let rows: Vec<f32> = (0..500)
        .flat_map(|i| {
            let (a, b) = ((i % 23) as f32 / 23.0, (i % 29) as f32 / 29.0);
            [a, b, a * b, a - b, a * a, (3.0 * b).sin()]
        })
        .collect();

    let ask = |message| pb::TrainRequest { message: Some(message) };
    let spec = pb::TrainSpec {
        model_name: "example".to_owned(),
        widths: vec![FEATURES as u32, 16, 2],
        epochs: 100,
        seed: 1,
        ..pb::TrainSpec::default()
    };
    let chunk = pb::RowChunk { number: 1, rows: Some(matrix(&rows)), role: pb::RowRole::Training.into() };
    let finish = pb::TrainFinish { chunk_count: 1, row_count: 500 };
    let questions = vec![ask(Question::Spec(spec)), ask(Question::Chunk(chunk)), ask(Question::Finish(finish))];
    let mut answers = client.train(tokio_stream::iter(questions)).await?.into_inner();
    let mut version = 0;
    while let Some(answer) = answers.message().await? {
        if let Some(Answer::Result(result)) = answer.message {
            version = result.version;
            if let Some(figures) = result.training_report.and_then(|report| report.validation) {
                println!("error {:.4}, PCA {:.4}", figures.squared_error, figures.pca_squared_error);
            }
        }
    }

    let selector = Some(pb::model_ref::Selector::Version(version));
    let model = Some(pb::ModelRef { name: "example".to_owned(), selector });
    let some = matrix(&rows[..2 * FEATURES]);
    let codes = client
        .encode(pb::EncodeRequest { model: model.clone(), rows: Some(some), ..Default::default() })
        .await?
        .into_inner()
        .codes;
    let back = client.decode(pb::DecodeRequest { model, codes, ..Default::default() }).await?.into_inner().rows;
    if let Some(pb::Matrix { values: Some(pb::matrix::Values::Floats(back)), .. }) = back {
        println!("sent {:?}\nback {:?}", &rows[..FEATURES], &back.values[..FEATURES]);
    }
    Ok(())
}

/// A matrix with a list of floats. For many rows, bytes (`float32_le`) are faster.
fn matrix(rows: &[f32]) -> pb::Matrix {
    pb::Matrix {
        rows: (rows.len() / FEATURES) as u32,
        columns: FEATURES as u32,
        values: Some(pb::matrix::Values::Floats(pb::FloatList { values: rows.to_vec() })),
        ..Default::default()
    }
}
