//! A Rust client: trains a model on rows in memory, then encodes and decodes rows.
//!
//! `cargo run --example client -- http://127.0.0.1:50051` uses a running server. Without an address the example starts
//! its own server.

use halfhitch::client::{Client, ClientSettings};
use halfhitch::ndarray::{Array2, Axis, Slice};
use halfhitch::server::{self, ServerConfig};
use halfhitch::training::TrainSpec;

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
    let client = Client::connect(ClientSettings::plain(url)).await?;
    // Points on a two-dimensional curved surface in six dimensions.
    let rows = Array2::from_shape_fn((500, FEATURES), |(i, j)| {
        let (a, b) = ((i % 23) as f32 / 23.0, (i % 29) as f32 / 29.0);
        [a, b, a * b, a - b, a * a, (3.0 * b).sin()][j]
    });
    let mut spec = TrainSpec::new("example".parse()?, vec![FEATURES, 16, 2]);
    spec.epochs = Some(100);
    spec.seed = 1;
    let result = client.train(rows.view(), &spec, |_| ()).await?;
    if let Some(figures) = result.training_report.and_then(|report| report.validation) {
        println!("error {:.4}, PCA {:.4}", figures.squared_error, figures.pca_squared_error);
    }

    let model = format!("example@{}", result.version);
    let some = rows.slice_axis(Axis(0), Slice::from(..2));
    let codes = client.encode(&model, some).await?.value;
    let back = client.decode(&model, codes.view()).await?.value;
    println!("sent {:.3}\nback {:.3}", some.row(0), back.row(0));

    let mut broken = some.to_owned();
    broken[[0, 3]] += 2.0;
    println!("p-values of a broken and a usual row: {:.3}", client.score(&model, broken.view()).await?.value.p_values);
    Ok(())
}
