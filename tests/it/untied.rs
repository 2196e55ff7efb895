//! The untied experiment equals the tied model except for the tying; otherwise a comparison would mean nothing.

use halfhitch::model::gradient::{Gradient, Tape, fill};
use halfhitch::model::spec::RawModelSpec;
use halfhitch::model::{Autoencoder, Loss, ModelSpec, NormalizationKind, Normalizer, TiedLayer};
use halfhitch::numeric::Activation;
use halfhitch::numeric::matmul::Weights;
use halfhitch::numeric::rng::{Stream, Use};

use crate::support::untied::{HIDDEN, Network, TAPE_ROWS, Tying, orthonormal};

/// One layer is wider than a panel of the gradient, and one expands.
const WIDTHS: [usize; 4] = [30, 140, 12, 17];
/// More rows than a tape.
const ROWS: usize = 75;
const RATE: f32 = 1e-3;
const LOSSES: [Loss; 2] = [Loss::SquaredError, Loss::BinaryCrossEntropy];

/// Random rows from 0 to 1.
fn rows() -> Vec<f32> {
    let mut stream = Stream::new(7, 0, 0, Use::Sample);
    (0..ROWS * WIDTHS[0]).map(|_| stream.uniform() as f32).collect()
}

fn network(tying: Tying, loss: Loss) -> Network {
    let mut network = Network::new(&orthonormal(&WIDTHS, 1), tying, loss);
    network.load(&rows());
    network
}

#[test]
fn two_matrices_kept_equal_take_the_tied_steps() {
    for loss in LOSSES {
        let (mut tied, mut kept_equal) = (network(Tying::Tied, loss), network(Tying::KeptEqual, loss));
        for _ in 0..20 {
            assert_eq!(tied.step(RATE).to_bits(), kept_equal.step(RATE).to_bits());
        }
        for (tied, two) in tied.pairs.iter().zip(&kept_equal.pairs) {
            let decoder = two.decoder.as_ref().expect("two matrices");
            assert_eq!(tied.encoder.values, two.encoder.values);
            assert_eq!(tied.encoder.values, decoder.values);
            assert_eq!(tied.encoder_bias.values, two.encoder_bias.values);
            assert_eq!(tied.decoder_bias.values, two.decoder_bias.values);
        }
    }
}

#[test]
fn two_untied_gradients_add_up_to_the_tied_gradient() {
    for loss in LOSSES {
        let (mut tied, mut untied) = (network(Tying::Tied, loss), network(Tying::Untied, loss));
        assert_eq!(tied.step(RATE).to_bits(), untied.step(RATE).to_bits());
        for (tied, two) in tied.pairs.iter().zip(&untied.pairs) {
            let (encoder, decoder) = (&two.encoder, two.decoder.as_ref().expect("two matrices"));
            let size = tied.encoder.gradient.iter().fold(0.0f32, |most, g| most.max(g.abs()));
            assert!(size > 0.0);
            for ((sum, a), b) in tied.encoder.gradient.iter().zip(&encoder.gradient).zip(&decoder.gradient) {
                // Two chains of about 75 roundings each.
                assert!((sum - (a + b)).abs() < 1e-5 * size, "{sum} {a} {b}");
            }
            assert_eq!(tied.encoder_bias.gradient, two.encoder_bias.gradient);
            assert_eq!(tied.decoder_bias.gradient, two.decoder_bias.gradient);
            assert_ne!(encoder.values, decoder.values);
        }
    }
}

#[test]
fn the_tied_gradient_equals_that_of_training() {
    for loss in LOSSES {
        let first = orthonormal(&WIDTHS, 1);
        let model = model(&first, loss);
        let rows = rows();
        let mut tapes = Vec::new();
        for rows in rows.chunks(TAPE_ROWS * WIDTHS[0]) {
            let mut tape = Tape::new(first.len());
            tape.rows_mut().reset(rows.len() / WIDTHS[0], WIDTHS[0]);
            tape.rows_mut().load(0, rows);
            tape.forward(&model, ROWS);
            tape.backward(&model, 0.0);
            tapes.push(tape);
        }
        let mut gradient = Gradient::zeros(&model);
        gradient.collect_vectors(&tapes.iter());
        for l in 0..first.len() {
            gradient.panels(l).for_each(|mut panel| fill(&mut panel, tapes.iter(), l));
        }
        let mut tied = network(Tying::Tied, loss);
        assert_eq!(tied.step(RATE), tapes.iter().map(Tape::loss).sum::<f64>());
        for (pair, layer) in tied.pairs.iter().zip(&gradient.layers) {
            assert_eq!(pair.encoder.gradient, layer.weight);
            assert_eq!(pair.encoder_bias.gradient, layer.encoder_bias);
            assert_eq!(pair.decoder_bias.gradient, layer.decoder_bias);
        }
    }
}

fn model(first: &[Weights], loss: Loss) -> Autoencoder {
    let mut encoder_activations = vec![HIDDEN; first.len()];
    encoder_activations[first.len() - 1] = Activation::Linear;
    let mut decoder_activations = vec![HIDDEN; first.len()];
    decoder_activations[0] = if loss == Loss::SquaredError { Activation::Linear } else { Activation::Sigmoid };
    let spec = ModelSpec::new(RawModelSpec {
        widths: WIDTHS.to_vec(),
        encoder_activations,
        decoder_activations,
        loss,
        normalization: NormalizationKind::None,
        gain: false,
        feature_names: vec![],
        missing_values: false,
        ordered_code: false,
    });
    let layers = first.iter().map(|weights| TiedLayer {
        weight: weights.clone(),
        encoder_bias: vec![0.0; weights.outputs()],
        decoder_bias: vec![0.0; weights.inputs()],
        gain: None,
    });
    Autoencoder::new(spec.expect("a specification"), Normalizer::none(), layers.collect())
}
