//! Trains a model in this process, without a server, and uses it: `cargo run --example train_in_process`. It needs no
//! feature of the package.

use halfhitch::Model;
use halfhitch::ndarray::{Array2, Axis, Slice};
use halfhitch::training::TrainSpec;

const FEATURES: usize = 6;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Points on a two-dimensional curved surface in six dimensions.
    let rows = Array2::from_shape_fn((500, FEATURES), |(i, j)| {
        let (a, b) = ((i % 23) as f32 / 23.0, (i % 29) as f32 / 29.0);
        [a, b, a * b, a - b, a * a, (3.0 * b).sin()][j]
    });
    let mut spec = TrainSpec::new("surface".parse()?, vec![FEATURES, 16, 2]);
    spec.epochs = Some(100);
    spec.seed = 1;
    let model = Model::train(rows.view(), &spec)?;
    if let Some(figures) = model.report().and_then(|report| report.validation.as_ref()) {
        println!("error {:.4}, PCA {:.4}", figures.squared_error, figures.pca_squared_error);
    }

    // Any view works: here every hundredth row.
    let some = rows.slice_axis(Axis(0), Slice::new(0, None, 100));
    let codes = model.encode(some)?;
    let back = model.decode(codes.view())?;
    println!("{} rows, {} numbers per code", codes.nrows(), codes.ncols());
    println!("sent {:.3}\nback {:.3}", some.row(0), back.row(0));

    let mut broken = rows.row(7).insert_axis(Axis(0)).to_owned();
    broken[[0, 3]] += 2.0;
    println!("p-value of a broken row: {:.3}", model.score(broken.view())?.p_values[0]);

    let folder = tempfile::tempdir()?;
    let path = folder.path().join("surface.safetensors");
    model.save(&path)?;
    if Model::load(&path)?.encode(some)? != codes {
        return Err("a model from a file must give the same codes".into());
    }
    println!("saved and loaded: the codes are the same");
    Ok(())
}
