//! What decoding with the pseudo-inverse costs beside decoding with the transpose.

#[path = "../support/mod.rs"]
mod support;

use std::hint::black_box;
use std::time::{Duration, Instant};

use halfhitch::model::spec::RawModelSpec;
use halfhitch::model::{
    Autoencoder, Decoder, Loss, ModelSpec, NormalisationKind, Normaliser, PseudoInverse, TiedLayer,
};
use halfhitch::numeric::matmul::Weights;
use halfhitch::numeric::{Activation, Lanes, Spare, init};
use support::{Line, Options, Report, median};

const ABOUT: &str = "\
Codes to rows, on one thread, without a server: decoded with the transpose, and with the pseudo-inverse, in turn. Where a
ceiling would stand is the speed of the transpose; the ratio is the median of the rounds' ratios. Then the bytes that
each of them takes: of the tensors, each matrix once, and of the factors that the pseudo-inverse adds to them. Last how
long these factors take to make, once for a version.";

/// Name and widths.
const MODELS: [(&str, &[usize]); 3] =
    [("mnist-deep", &[784, 1000, 500, 250, 30]), ("embed", &[1536, 384]), ("telemetry", &[64, 32, 8])];
/// Rows of a batch: one caller alone, a small and a large batch.
const ROWS: [usize; 3] = [1, 16, 256];

fn main() {
    let options = Options::from_arguments(ABOUT);
    let mut report = Report::new("decoders", &options);
    init(None).expect("the best of this machine");
    let (rounds, at_least) = if options.quick { (3, 100) } else { (7, 400) };
    for (name, widths) in MODELS {
        let cases = ROWS.map(|rows| (rows, format!("{name} rows={rows}")));
        let of_bytes = format!("{name} bytes");
        if !cases.iter().any(|(_, case)| options.wants(case)) && !options.wants(&of_bytes) {
            continue;
        }
        let model = model(widths);
        let started = Instant::now();
        let inverse = PseudoInverse::of(&model).expect("random matrices have full rank");
        let made = started.elapsed();
        for (rows, case) in cases.into_iter().filter(|(_, case)| options.wants(case)) {
            compare(&model, &inverse, rows, &case, rounds, Duration::from_millis(at_least), &mut report);
        }
        if options.wants(&of_bytes) {
            let tensors = model.spec().tensor_bytes() as f64;
            report.figure(&of_bytes, tensors, "bytes, transpose");
            report.against(&of_bytes, tensors + inverse.bytes() as f64, "bytes, pseudo-inverse", tensors);
            report.figure(&of_bytes, made.as_secs_f64() * 1e3, "ms to make the factors, once");
        }
    }
}

fn compare(
    model: &Autoencoder,
    inverse: &PseudoInverse,
    rows: usize,
    case: &str,
    rounds: usize,
    at_least: Duration,
    report: &mut Report,
) {
    let mut codes = Lanes::zeros(rows, model.spec().code_length());
    codes.load(0, &numbers(rows * model.spec().code_length()));
    let spare = &mut Spare::default();
    let mut rate = |decoder| {
        let (started, mut batches) = (Instant::now(), 0);
        while started.elapsed() < at_least {
            let decoded = model.decode(&codes, decoder, spare);
            spare.put(black_box(decoded));
            batches += 1;
        }
        (batches * rows) as f64 / started.elapsed().as_secs_f64()
    };
    let pairs: Vec<(f64, f64)> =
        (0..rounds).map(|_| (rate(Decoder::Transpose), rate(Decoder::PseudoInverse(inverse)))).collect();
    let transpose = median(pairs.iter().map(|(transpose, _)| *transpose));
    report.figure(case, transpose, "rows/s, transpose");
    report.line(&Line {
        case,
        figure: median(pairs.iter().map(|(_, inverse)| *inverse)),
        unit: "rows/s, pseudo-inverse",
        ceiling: Some(transpose),
        ratio: Some(median(pairs.iter().map(|(transpose, inverse)| inverse / transpose))),
    });
}

/// Random matrices: speed does not depend on what is in them.
fn model(widths: &[usize]) -> Autoencoder {
    let layers = widths.len() - 1;
    let hidden = Activation::Elu { alpha: 1.0 };
    let (mut encoder_activations, mut decoder_activations) = (vec![hidden; layers], vec![hidden; layers]);
    (encoder_activations[layers - 1], decoder_activations[0]) = (Activation::Linear, Activation::Linear);
    let spec = ModelSpec::new(RawModelSpec {
        widths: widths.to_vec(),
        encoder_activations,
        decoder_activations,
        loss: Loss::SquaredError,
        normalisation: NormalisationKind::None,
        gain: false,
        feature_names: Vec::new(),
    });
    let tied = widths.windows(2).map(|pair| {
        let scale = 1.0 / (pair[0] as f32).sqrt();
        let values: Vec<f32> = numbers(pair[0] * pair[1]).into_iter().map(|value| value * scale).collect();
        TiedLayer {
            weight: Weights::from_row_major(pair[1], pair[0], &values),
            encoder_bias: vec![0.1; pair[1]],
            decoder_bias: vec![0.1; pair[0]],
            gain: None,
        }
    });
    let normaliser = Normaliser { kind: NormalisationKind::None, offset: Vec::new(), scale: Vec::new() };
    Autoencoder::new(spec.expect("a specification"), normaliser, tied.collect())
}

/// From -1 to 1, without a pattern that would make a matrix singular (SplitMix64, Steele et al. 2014).
fn numbers(count: usize) -> Vec<f32> {
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}
