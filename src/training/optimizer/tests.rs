//! Tests of the optimizers: bits, state, and gradient clipping.

use super::restore::RestoreError;
use super::*;
use crate::model::{NormalizationKind, Normalizer};
use crate::numeric::rng::{Stream, Use};
use crate::training::{Initialization, TrainSpec, init};

const KINDS: [OptimizerKind; 2] = [OptimizerKind::AdamW, OptimizerKind::Sgd];

/// Large enough for several chunks and panels, with gains.
fn model() -> Autoencoder {
    let mut spec = TrainSpec::new("test".parse().expect("a name"), vec![260, 140, 20]);
    spec.gain = true;
    let spec = spec.check().expect("valid").model_spec(NormalizationKind::None);
    let normalizer = Normalizer::none();
    init::model(spec, normalizer, Initialization::Glorot, 1, None)
}

fn gradient(model: &Autoencoder, seed: u64) -> Gradient {
    let mut gradient = Gradient::zeros(model);
    let mut stream = Stream::new(seed, 0, 0, Use::Weights);
    for (_, values) in gradient.tensors_mut() {
        values.iter_mut().for_each(|value| *value = stream.normal() as f32);
    }
    gradient
}

fn spec(kind: OptimizerKind) -> OptimizerSpec {
    OptimizerSpec { kind, weight_decay: 0.01, gradient_norm_max: Some(5.0), ..OptimizerSpec::default() }
}

fn values(model: &Autoencoder) -> impl Iterator<Item = f32> {
    let tensors = model.layers().iter().flat_map(|layer| parts(layer).into_iter().flatten());
    tensors.flat_map(|(_, values)| values.iter().copied())
}

/// A step with a given gradient.
fn go(optimizer: &mut Optimizer, model: &mut Autoencoder, gradient: &Gradient, rate: f64, parallel: bool) {
    let step = Step { rate, l2: 0.0, parallel };
    optimizer.step(model, &mut gradient.clone(), &|l, panel| copy(gradient, l, panel), step);
}

fn copy(gradient: &Gradient, l: usize, panel: &mut Panel<'_>) {
    let layer = &gradient.layers[l];
    let start = panel.index() * panel_floats(layer.decoder_bias.len());
    let values = panel.values_mut();
    values.copy_from_slice(&layer.weight[start..start + values.len()]);
}

fn bits(model: &Autoencoder) -> Vec<u32> {
    values(model).map(f32::to_bits).collect()
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    for kind in KINDS {
        let run = |threads: Option<usize>| {
            let mut model = model();
            let mut optimizer = Optimizer::new(&model, &spec(kind));
            for step in 0..3 {
                let gradient = gradient(&model, step);
                let mut work = |parallel| go(&mut optimizer, &mut model, &gradient, 0.01, parallel);
                match threads {
                    None => work(false),
                    Some(threads) => {
                        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
                        pool.install(|| work(true));
                    }
                }
            }
            bits(&model)
        };
        let one = run(None);
        for threads in [1, 2, 5] {
            assert!(run(Some(threads)) == one, "{kind:?}, {threads} threads");
        }
    }
}

#[test]
fn a_restored_optimizer_continues_with_the_same_bits() {
    for kind in KINDS {
        let (spec, mut model) = (spec(kind), model());
        let mut optimizer = Optimizer::new(&model, &spec);
        for step in 0..3 {
            let gradient = gradient(&model, step);
            go(&mut optimizer, &mut model, &gradient, 0.01, false);
        }
        let tensors = optimizer.tensors().into_iter().map(|(name, values)| (name, values.to_vec())).collect();
        let scalars = serde_json::to_string(&optimizer.scalars()).expect("serializes");
        let mut other_model = model.clone();
        let mut other = Optimizer::new(&other_model, &spec);
        other.restore(serde_json::from_str(&scalars).expect("reads"), tensors).expect("fits");
        for step in 3..6 {
            let gradient = gradient(&model, step);
            go(&mut optimizer, &mut model, &gradient, 0.01, false);
            go(&mut other, &mut other_model, &gradient, 0.01, false);
        }
        assert!(bits(&model) == bits(&other_model), "{kind:?}");
    }
}

#[test]
fn a_state_that_does_not_fit_is_refused_by_name() {
    let model = model();
    let adam = Optimizer::new(&model, &OptimizerSpec::default());
    let kept = || adam.tensors().into_iter().map(|(name, values)| (name, values.to_vec())).collect::<Vec<_>>();
    let restored = |kind, tensors| Optimizer::new(&model, &spec(kind)).restore(Scalars::default(), tensors);
    assert_eq!(restored(OptimizerKind::AdamW, kept()), Ok(()));
    assert_eq!(restored(OptimizerKind::Sgd, kept()), Err(RestoreError::Missing("velocity.0.weight".to_owned())));
    let mut shorter = kept();
    shorter[1].1.pop();
    let expected = adam.tensors()[1].1.len();
    assert_eq!(
        restored(OptimizerKind::AdamW, shorter),
        Err(RestoreError::Length { name: "second.0.weight".to_owned(), got: expected - 1, expected })
    );
    let more = [kept(), vec![("third.0.weight".to_owned(), vec![1.0])]].concat();
    assert_eq!(restored(OptimizerKind::AdamW, more), Err(RestoreError::Unknown("third.0.weight".to_owned())));
}

#[test]
fn every_optimizer_reduces_the_loss() {
    for kind in KINDS {
        // The bowl Σ (w - 0.1)², whose gradient is 2 (w - 0.1).
        let mut model = model();
        let mut optimizer = Optimizer::new(&model, &OptimizerSpec { kind, ..OptimizerSpec::default() });
        let height = |model: &Autoencoder| -> f64 { values(model).map(|w| f64::from(w - 0.1).powi(2)).sum() };
        let (start, mut gradient) = (height(&model), Gradient::zeros(&model));
        for step in 0..200 {
            let mut slopes = values(&model).map(|w| 2.0 * (w - 0.1)).collect::<Vec<_>>().into_iter();
            for (_, tensor) in gradient.tensors_mut() {
                tensor.iter_mut().zip(&mut slopes).for_each(|(g, slope)| *g = slope);
            }
            go(&mut optimizer, &mut model, &gradient, 0.1 * (1.0 - f64::from(step) / 200.0), false);
        }
        assert!(height(&model) < 0.1 * start, "{kind:?}: {} of {start}", height(&model));
    }
}

#[test]
fn a_long_gradient_is_scaled_and_a_short_one_left_alone() {
    let model = model();
    let gradient = gradient(&model, 7);
    let squares = gradient.tensors().into_iter().flat_map(|(_, g)| g.iter().map(|g| f64::from(*g).powi(2)));
    let norm = squares.sum::<f64>().sqrt();
    let scale = |norm_max| {
        let spec = OptimizerSpec { gradient_norm_max: norm_max, ..OptimizerSpec::default() };
        Optimizer::new(&model, &spec).scale(&gradient, false)
    };
    assert!((f64::from(scale(Some(norm / 4.0))) - 0.25).abs() < 1e-6);
    assert_eq!((scale(Some(norm * 1.001)), scale(None)), (1.0, 1.0));
}

/// Plain AdamW would move every weight by about thirty times the learning rate.
#[test]
fn one_outlier_gradient_does_not_ruin_the_model() {
    let mut model = model();
    let mut optimizer = Optimizer::new(&model, &OptimizerSpec::default());
    for step in 0..300 {
        let slopes = gradient(&model, step);
        go(&mut optimizer, &mut model, &slopes, 1e-3, false);
    }
    let before: Vec<f32> = values(&model).collect();
    let mut surge = gradient(&model, 300);
    for (_, g) in surge.tensors_mut() {
        g.iter_mut().for_each(|g| *g *= 1e6);
    }
    go(&mut optimizer, &mut model, &surge, 1e-3, false);
    for step in 301..320 {
        let slopes = gradient(&model, step);
        go(&mut optimizer, &mut model, &slopes, 1e-3, false);
    }
    let moved: Vec<f64> = values(&model).zip(&before).map(|(now, before)| f64::from(now - before).powi(2)).collect();
    let rms = (moved.iter().sum::<f64>() / moved.len() as f64).sqrt();
    assert!(rms < 8e-3, "{rms}, in twenty steps of at most 0.001");
}

#[test]
fn panel_by_panel_gives_the_same_bits_as_all_at_once() {
    for kind in [OptimizerKind::AdamW, OptimizerKind::Sgd] {
        let run = |gradient_norm_max| {
            let mut model = model();
            let mut optimizer = Optimizer::new(&model, &OptimizerSpec { gradient_norm_max, ..spec(kind) });
            for step in 0..3 {
                let slopes = gradient(&model, step);
                let step = Step { rate: 0.01, l2: 0.1, parallel: false };
                optimizer.step(&mut model, &mut slopes.clone(), &|l, panel| copy(&slopes, l, panel), step);
            }
            bits(&model)
        };
        // A limit that no gradient norm reaches.
        assert!(run(None) == run(Some(1e30)), "{kind:?}");
    }
}
