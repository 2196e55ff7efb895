//! Compares the models' arithmetic with `PyTorch`; `tests/golden/make.py` writes the references.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use halfhitch::model::gradient::{Gradient, Tape, fill};
use halfhitch::model::{Artifact, Decoder};
use halfhitch::numeric::{BufferPool, PanelMatrix};
use serde::Deserialize;

/// Tolerance of float32 against float64 over short sums: the format promises 1e-5 of the largest entry.
const TOLERANCE: f32 = 1e-5;
/// A squared error doubles the relative error of a difference, which is itself smaller than its terms.
const TOLERANCE_OF_ERRORS: f32 = 1e-4;

/// Results of `PyTorch` in float64. Matrices are row-major.
#[derive(Deserialize)]
struct Reference {
    rows: Vec<f32>,
    codes: Vec<f32>,
    reconstruction: Vec<f32>,
    squared_errors: Vec<f32>,
    squared_errors_input_units: Vec<f32>,
    /// Mean loss over the rows.
    loss: f64,
    /// Gradients of the mean loss, by tensor.
    gradients: BTreeMap<String, Vec<f32>>,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// The names of all models in the folder.
fn names() -> Vec<String> {
    let files = std::fs::read_dir(folder()).expect("the folder of the references");
    let paths = files.map(|file| file.expect("an entry").path());
    let mut names: Vec<String> = paths
        .filter(|path| path.extension().is_some_and(|extension| extension == "safetensors"))
        .map(|path| path.file_stem().expect("a name").to_string_lossy().into_owned())
        .collect();
    names.sort();
    assert!(names.len() >= 11, "one for every configuration of make.py: {names:?}");
    names
}

fn read(name: &str) -> (Artifact, Reference) {
    let file = std::fs::read(folder().join(name).with_extension("safetensors")).expect("the model");
    let text = std::fs::read_to_string(folder().join(name).with_extension("json")).expect("the reference");
    (Artifact::import(&file).expect("a valid model"), serde_json::from_str(&text).expect("a valid reference"))
}

fn lanes(values: &[f32], columns: usize) -> PanelMatrix {
    let mut lanes = PanelMatrix::zeros(values.len() / columns, columns);
    lanes.load(0, values);
    lanes
}

fn row_major(lanes: &PanelMatrix) -> Vec<f32> {
    let mut values = vec![0.0; lanes.rows() * lanes.columns()];
    lanes.store(0..lanes.rows(), &mut values);
    values
}

#[track_caller]
fn check_close(what: &str, got: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(got.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        let error = (got - expected).abs();
        assert!(error <= tolerance * largest, "{what}[{i}] is {got}, expected {expected}, largest {largest}");
    }
}

#[test]
fn codes_match_pytorch() {
    for name in names() {
        let (Artifact { model, .. }, reference) = read(&name);
        let codes = model.encode(&lanes(&reference.rows, model.spec().features()), &mut BufferPool::default());
        check_close(&name, &row_major(&codes), &reference.codes, TOLERANCE);
    }
}

#[test]
fn decoded_codes_match_pytorch() {
    for name in names() {
        let (Artifact { model, .. }, reference) = read(&name);
        let rows = model.decode(
            &lanes(&reference.codes, model.spec().code_length()),
            Decoder::Transpose,
            &mut BufferPool::default(),
        );
        check_close(&name, &row_major(&rows), &reference.reconstruction, TOLERANCE);
    }
}

#[test]
fn reconstructions_and_their_errors_match_pytorch() {
    for name in names() {
        let (Artifact { model, .. }, reference) = read(&name);
        let got = model.reconstruct(
            &lanes(&reference.rows, model.spec().features()),
            Decoder::Transpose,
            &mut BufferPool::default(),
        );
        check_close(&name, &row_major(&got.rows), &reference.reconstruction, TOLERANCE);
        check_close(&name, &got.squared_errors, &reference.squared_errors, TOLERANCE_OF_ERRORS);
        let expected = &reference.squared_errors_input_units;
        check_close(&name, &got.squared_errors_input_units, expected, TOLERANCE_OF_ERRORS);
    }
}

#[test]
fn imported_pytorch_models_survive_a_round_trip() {
    for name in names() {
        let (imported, _) = read(&name);
        let stored = Artifact::from_bytes(&imported.to_bytes()).expect("a valid file");
        assert_eq!(stored.model, imported.model, "{name}");
    }
}

/// Compares the tied gradient with autograd.
#[test]
fn losses_and_gradients_match_pytorch() {
    for name in names() {
        let (artifact, reference) = read(&name);
        let model = &artifact.model;
        let mut tape = Tape::new(model.layers().len());
        let mut rows = lanes(&reference.rows, model.spec().features());
        model.normalizer().apply(&mut rows);
        let count = rows.rows();
        *tape.rows_mut() = rows;
        tape.forward(model, count);
        tape.backward(model, 0.0);
        let loss = tape.loss() / count as f64;
        assert!((loss - reference.loss).abs() <= 1e-5 * reference.loss, "{name}: {loss}, expected {}", reference.loss);
        let mut gradient = Gradient::zeros(model);
        gradient.collect_vectors(&[&tape].into_iter());
        (0..model.layers().len())
            .for_each(|l| gradient.panels(l).for_each(|mut panel| fill(&mut panel, [&tape].into_iter(), l)));
        for (l, layer) in gradient.layers.iter().enumerate() {
            let mut weight = model.layers()[l].weight.clone();
            weight.panels_mut().copy_from_slice(&layer.weight);
            let weight = weight.to_row_major();
            let parts = [
                ("encoder", "weight", Some(&weight)),
                ("encoder", "bias", Some(&layer.encoder_bias)),
                ("decoder", "bias", Some(&layer.decoder_bias)),
                ("decoder", "gain", layer.gain.as_ref()),
            ];
            for (side, part, got) in parts {
                let tensor = format!("{side}.{l}.{part}");
                match (got, reference.gradients.get(&tensor)) {
                    // Sums of products of rounded numbers lose one digit compared with values.
                    (Some(got), Some(expected)) => {
                        check_close(&format!("{name}: gradient of {tensor}"), got, expected, TOLERANCE_OF_ERRORS);
                    }
                    (got, expected) => assert_eq!(got.is_some(), expected.is_some(), "{name}: {tensor}"),
                }
            }
        }
    }
}
