use super::*;
use crate::model::spec::tests::plain;
use crate::model::{Normalizer, TiedLayer, Values, spectrum};
use crate::numeric::Activation;
use crate::numeric::matmul::Weights;
use crate::numeric::rng::{Stream, Use};

/// A model of one or more layers with the given row-major matrices, without biases.
fn model(widths: &[usize], activation: Activation, matrices: &[Vec<f32>]) -> Autoencoder {
    let tied = widths.windows(2).zip(matrices).map(|(pair, matrix)| TiedLayer {
        weight: Weights::from_row_major(pair[1], pair[0], matrix),
        encoder_bias: vec![0.0; pair[1]],
        decoder_bias: vec![0.0; pair[0]],
        gain: None,
    });
    let normalizer = Normalizer::none();
    Autoencoder::new(plain(widths, activation), normalizer, tied.collect())
}

fn table(columns: usize, values: &[f32]) -> Matrix {
    let rows = (values.len() / columns) as u32;
    Matrix::new(rows, columns as u32, Values::Floats(values.to_vec())).expect("a matrix")
}

fn compared(model: &Autoencoder, rows: &Matrix) -> Comparison {
    inspect(model, Some(rows)).expect("small").comparison.expect("rows were given")
}

fn dead(model: &Autoencoder, rows: &Matrix) -> Vec<Vec<usize>> {
    inspect(model, Some(rows)).expect("small").layers.into_iter().map(|layer| layer.dead_units).collect()
}

fn normal(count: usize) -> Vec<f32> {
    let mut stream = Stream::new(8, 0, 0, Use::Weights);
    (0..count).map(|_| stream.normal() as f32).collect()
}

#[test]
fn a_matrix_is_described() {
    let matrix = vec![3.0, 0.0, 0.0, 0.0, 2.0, 0.0, 0.0, 0.0, 0.0];
    let seen = inspect(&model(&[3, 3], Activation::Linear, &[matrix]), None).expect("small");
    let layer = &seen.layers[0];
    assert_eq!((layer.outputs, layer.inputs, layer.rank), (3, 3, 2));
    assert_eq!(layer.row_norms, [3.0, 2.0, 0.0]);
    assert_eq!(layer.dead_units, [2]);
    assert_eq!(layer.defect.largest, 8.0);
    assert!(layer.condition.is_infinite(), "{}", layer.condition);
    for (value, expected) in layer.singular_values.iter().zip([3.0, 2.0, 0.0]) {
        assert!((value - expected).abs() < 1e-6, "{:?}", layer.singular_values);
    }
}

#[test]
fn a_matrix_that_is_too_large_is_refused() {
    let wide = spectrum::SIZE_MAX + 1;
    let model = model(&[wide, wide], Activation::Linear, &[vec![0.0; wide * wide]]);
    let refused = inspect(&model, None).expect_err("too large");
    assert_eq!(refused, SpectrumError::TooLarge { layer: 1, size: wide });
}

#[test]
fn axes_along_the_data_are_nearly_as_good_as_pca() {
    // The first two of three features vary most, each around 0.
    let rows: Vec<f32> = normal(300).chunks(3).flat_map(|x| [3.0 * x[0], 2.0 * x[1], 0.1 * x[2]]).collect();
    let axes = |size: f32| model(&[3, 2], Activation::Linear, &[vec![size, 0.0, 0.0, 0.0, size, 0.0]]);
    let found = compared(&axes(1.0), &table(3, &rows));
    assert_eq!(found.rows, 100);
    let inverse = found.pseudo_inverse.expect("it has one");
    // PCA may rotate its axes a little, and moves its center.
    assert!(found.transpose < 1.1 * found.pca && (found.transpose / inverse - 1.0).abs() < 1e-5, "{}", found.transpose);
    assert!(found.pca <= found.transpose && found.spread > 5.0, "{} {}", found.pca, found.spread);
    // Rows of W with another norm: the transpose has a large error, the pseudo-inverse does not.
    let found = compared(&axes(0.5), &table(3, &rows));
    let inverse = found.pseudo_inverse.expect("it has one");
    assert!(found.transpose > 100.0 * inverse && inverse < 1.1 * found.pca, "{} {inverse}", found.transpose);
}

#[test]
fn units_that_never_change_are_dead() {
    // The second hidden unit gets only negative inputs.
    let first = vec![1.0, 0.0, 0.0, -1.0, 1.0, 1.0];
    let model = model(&[2, 3, 1], Activation::Relu, &[first, vec![1.0, 1.0, 1.0]]);
    let rows: Vec<f32> = normal(40).iter().map(|x| x.abs()).collect();
    assert_eq!(dead(&model, &table(2, &rows)), [vec![1], vec![]]);
    assert_eq!(dead(&model, &table(2, &rows[..2])), [vec![], vec![]] as [Vec<usize>; 2], "of one row nothing is said");
}

#[test]
fn a_singular_matrix_lacks_only_the_pseudo_inverse() {
    let singular = model(&[3, 2], Activation::Linear, &[vec![1.0, 2.0, 0.0, 2.0, 4.0, 0.0]]);
    let found = compared(&singular, &table(3, &normal(30)));
    assert_eq!(found.pseudo_inverse, Err(InverseError::Singular { layer: 1, size: 2, rank: 1 }));
    assert!(found.transpose.is_finite() && found.pca.is_finite());
}
