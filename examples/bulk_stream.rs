//! Encodes many arrays on one call, while they are made: `cargo run --release --example bulk_stream`. The example starts
//! its own server.

use std::time::Instant;

use halfhitch::Model;
use halfhitch::client::{Client, ClientSettings};
use halfhitch::ndarray::Array2;
use halfhitch::server::{self, ServerConfig};
use halfhitch::store::{LocalStore, ModelStore};
use halfhitch::training::TrainSpec;
use tokio_stream::StreamExt;

const FEATURES: usize = 64;
const ARRAYS: usize = 50;
const ARRAY_ROWS: usize = 2000;

/// Rows near a curve in `FEATURES` dimensions.
fn rows(first: usize, count: usize) -> Array2<f32> {
    Array2::from_shape_fn((count, FEATURES), |(i, j)| (0.001 * ((first + i) * (j + 1)) as f32).sin())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut spec = TrainSpec::new("curve".parse()?, vec![FEATURES, 32, 8]);
    spec.epochs = Some(5);
    let model = Model::train(rows(0, 1000).view(), &spec)?;
    let folder = tempfile::tempdir()?;
    LocalStore::open(folder.path())?.publish(&spec.model_name, model.artifact())?;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = tokio::spawn(server::run(listener, ServerConfig::new(folder.path().to_owned()), async {
        let _ = stopped.await;
    }));

    let client = Client::connect(ClientSettings::plain(url)).await?;
    let began = Instant::now();
    // Arrays are made when the stream sends them. The server reads ahead a little, so memory stays bounded.
    let arrays = tokio_stream::iter((0..ARRAYS).map(|i| rows(i * ARRAY_ROWS, ARRAY_ROWS)));
    let mut codes = client.encode_stream("curve", arrays).await?;
    let mut count = 0;
    while let Some(served) = codes.next().await {
        let served = served?;
        if count == 0 && served.value != model.encode(rows(0, ARRAY_ROWS).view())? {
            return Err("a stream must give the codes of the library".into());
        }
        count += served.value.nrows();
    }
    println!("{count} rows encoded in {:.2} s", began.elapsed().as_secs_f64());
    drop(codes);
    drop(client);
    let _ = stop.send(());
    serving.await??;
    Ok(())
}
