//! The formulas of the optimizers for each number, compiled for each instruction set.
//!
//! All updates are element by element. Each operation of a formula is rounded once, as written, and nothing is
//! contracted. The bits are the same with any instruction set and any split of a tensor.

// Only code that is inlined into `vectorized` is vectorized.
#![allow(clippy::inline_always)]

use rayon::prelude::*;

use super::kernels::vectorized;

/// One step of `AdamW` (Loshchilov and Hutter 2019), with g′ = scale·g:
///
/// m ← β₁m + (1-β₁)g′, v ← β₂v + (1-β₂)g′², w ← w - rate·(m·c₁ / (√(v·c₂) + ε) + decay·w), with c = 1 / (1 - βᵗ).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adam {
    /// Factor of the gradient; below 1 if its norm is too large.
    pub scale: f32,
    /// β₁
    pub beta1: f32,
    /// β₂
    pub beta2: f32,
    /// c₁
    pub correction1: f32,
    /// c₂
    pub correction2: f32,
    /// Learning rate.
    pub rate: f32,
    /// Decoupled weight decay.
    pub decay: f32,
}

/// ε of [`Adam`].
const EPSILON: f32 = 1e-8;

impl Adam {
    /// Moves `weights` and both moments. All of one length.
    ///
    /// # Panics
    /// If they are not.
    pub fn apply(self, weights: &mut [f32], gradient: &[f32], first: &mut [f32], second: &mut [f32]) {
        check_lengths(&[weights.len(), gradient.len(), first.len(), second.len()]);
        vectorized(
            #[inline(always)]
            || adam(self, weights, gradient, first, second),
        );
    }
}

/// The limit of a gradient's norm, as a multiple of the usual norm.
const SURGE: f64 = 2.0;

impl Adam {
    /// The same step, with a gradient that is more than twice as long as usual scaled down to twice the usual length.
    /// The usual length is the root mean square of earlier gradients, from the sum of the second moments (v).
    ///
    /// The first moments would remember one outlier gradient ten times as much as the second moments. They would then
    /// move every weight by several times the learning rate for many steps, which can ruin a model in one step. The
    /// method follows `AdaGC` (Wang et al. 2025), whose mean is one of norms.
    ///
    /// Adds in a fixed order. The extent of `gradient`, a tensor or one panel of it, is a part of the definition.
    #[must_use]
    pub fn tamed(self, gradient: &[f32], second: &[f32]) -> Self {
        let sum = vectorized(
            #[inline(always)]
            move || sum(second),
        );
        // `correction2` belongs to this step, but the moments do not include its gradient yet. The estimate is too low:
        // by 1 step in 1000, and by half at the second step.
        let most = SURGE * SURGE * sum * f64::from(self.correction2);
        let now = squared_norm(gradient, false) * f64::from(self.scale).powi(2);
        // At the first step there is no usual length yet.
        if most > 0.0 && now > most { Self { scale: self.scale * (most / now).sqrt() as f32, ..self } } else { self }
    }
}

#[inline(always)]
fn sum(values: &[f32]) -> f64 {
    let mut sums = [0.0f64; 8];
    let (whole, rest) = values.as_chunks::<8>();
    for values in whole {
        for i in 0..8 {
            sums[i] += f64::from(values[i]);
        }
    }
    sums.iter_mut().zip(rest).for_each(|(sum, value)| *sum += f64::from(*value));
    sums.iter().sum()
}

// A separate function: its arguments are known not to overlap, so the compiler vectorizes without a check.
#[inline(always)]
fn adam(step: Adam, weights: &mut [f32], gradient: &[f32], first: &mut [f32], second: &mut [f32]) {
    let Adam { scale, beta1, beta2, correction1, correction2, rate, decay } = step;
    for (((w, g), m), v) in weights.iter_mut().zip(gradient).zip(first).zip(second) {
        let g = scale * g;
        *m = beta1 * *m + (1.0 - beta1) * g;
        *v = beta2 * *v + (1.0 - beta2) * g * g;
        let direction = (*m * correction1) / ((*v * correction2).sqrt() + EPSILON);
        *w -= rate * (direction + decay * *w);
    }
}

/// One step with Nesterov momentum, in the form of Sutskever et al. (2013) that needs no look-ahead, with g′ = scale·g:
///
/// u ← μu + g′, w ← w - rate·(g′ + μu + decay·w).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Nesterov {
    /// Factor of the gradient; below 1 if its norm is too large.
    pub scale: f32,
    /// μ
    pub momentum: f32,
    /// Learning rate.
    pub rate: f32,
    /// Decoupled weight decay.
    pub decay: f32,
}

impl Nesterov {
    /// Moves `weights` and `velocity` (u). All of one length.
    ///
    /// # Panics
    /// If they are not.
    pub fn apply(self, weights: &mut [f32], gradient: &[f32], velocity: &mut [f32]) {
        check_lengths(&[weights.len(), gradient.len(), velocity.len()]);
        vectorized(
            #[inline(always)]
            || nesterov(self, weights, gradient, velocity),
        );
    }
}

#[inline(always)]
fn nesterov(step: Nesterov, weights: &mut [f32], gradient: &[f32], velocity: &mut [f32]) {
    let Nesterov { scale, momentum, rate, decay } = step;
    for ((w, g), u) in weights.iter_mut().zip(gradient).zip(velocity) {
        let g = scale * g;
        *u = momentum * *u + g;
        *w -= rate * (g + momentum * *u + decay * *w);
    }
}

fn check_lengths(lengths: &[usize]) {
    assert!(lengths.windows(2).all(|pair| pair[0] == pair[1]), "a number of each kind for every weight: {lengths:?}");
}

/// Numbers that are squared and added at a time. Parts are added in order, so their size is a part of the definition.
const PART: usize = 1 << 14;

/// Σ x², in f64: parts of 16,384 numbers in order, each as eight chains over every eighth number, added in order. The
/// same bits on any number of threads.
pub fn squared_norm(values: &[f32], parallel: bool) -> f64 {
    let part = |values: &[f32]| {
        vectorized(
            #[inline(always)]
            || squares(values),
        )
    };
    if parallel && values.len() > PART {
        let parts: Vec<f64> = values.par_chunks(PART).map(part).collect();
        parts.into_iter().sum()
    } else {
        values.chunks(PART).map(part).sum()
    }
}

#[inline(always)]
fn squares(values: &[f32]) -> f64 {
    let square = |x: f32| f64::from(x) * f64::from(x);
    let mut sums = [0.0f64; 8];
    let (whole, rest) = values.as_chunks::<8>();
    for values in whole {
        for i in 0..8 {
            sums[i] += square(values[i]);
        }
    }
    sums.iter_mut().zip(rest).for_each(|(sum, value)| *sum += square(*value));
    sums.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numeric::kernels::on;
    use crate::numeric::rng::{Stream, Use};
    use crate::numeric::{Isa, isa};

    fn adam_at(t: i32, rate: f32, decay: f32) -> Adam {
        let correction = |beta: f64| (1.0 / (1.0 - beta.powi(t))) as f32;
        Adam {
            scale: 1.0,
            beta1: 0.9,
            beta2: 0.999,
            correction1: correction(0.9),
            correction2: correction(0.999),
            rate,
            decay,
        }
    }

    fn random(count: usize, seed: u64) -> Vec<f32> {
        let mut stream = Stream::new(seed, 0, 0, Use::Weights);
        (0..count).map(|_| stream.normal() as f32).collect()
    }

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|value| value.to_bits()).collect()
    }

    #[test]
    fn the_first_step_has_the_size_of_the_rate() {
        let (mut w, mut m, mut v) = ([1.0, 1.0], [0.0; 2], [0.0; 2]);
        adam_at(1, 0.1, 0.0).apply(&mut w, &[1e-3, -50.0], &mut m, &mut v);
        assert!((w[0] - 0.9).abs() < 1e-4 && (w[1] - 1.1).abs() < 1e-6, "{w:?}");
    }

    #[test]
    fn an_outlier_gradient_is_scaled_to_twice_the_usual_norm() {
        let (g, usual) =
            (random(999, 1), |scale: f32| random(999, 2).iter().map(|g| scale * g * g).collect::<Vec<_>>());
        let norm = |g: &[f32]| squared_norm(g, false).sqrt();
        // (1-β₂)·g² once; the bias correction of that step makes it g² again.
        let (step, second) = (adam_at(1, 0.1, 0.0), usual(0.001));
        let usual_norm = norm(&random(999, 2));
        let scaled = |factor: f32| -> f64 {
            let long: Vec<f32> = g.iter().map(|g| factor * g).collect();
            let scale = f64::from(step.tamed(&long, &second).scale);
            scale * norm(&long) / usual_norm
        };
        assert!((scaled(1.0) - norm(&g) / usual_norm).abs() < 1e-9, "a usual one is left alone");
        for factor in [3.0, 1e3, 1e15] {
            assert!((scaled(factor) - 2.0).abs() < 1e-3, "{factor}: {}", scaled(factor));
        }
        // Before the first step, nothing is usual.
        assert_eq!(step.tamed(&g, &[0.0; 999]), step);
        // A gradient that is already scaled is compared after scaling.
        let halved = Adam { scale: 0.5, ..step };
        let long: Vec<f32> = g.iter().map(|g| 3.0 * g).collect();
        assert_eq!(halved.tamed(&long, &second), halved);
        // NaN is not scaled: it shows in the weights.
        assert!(step.tamed(&[f32::NAN; 3], &[1.0; 3]).scale.to_bits() == 1f32.to_bits());
    }

    #[test]
    fn taming_has_the_same_bits_on_every_instruction_set() {
        let (g, v) = (random(1003, 1), random(1003, 2).iter().map(|v| 1e-4 * v * v).collect::<Vec<_>>());
        let scale = |isa| on(isa, || adam_at(9, 0.1, 0.0).tamed(&g, &v).scale.to_bits());
        let scales: Vec<u32> = Isa::available().map(scale).collect();
        assert!(scales.iter().all(|bits| *bits == scales[0] && f32::from_bits(*bits) < 1.0), "{scales:?}");
    }

    #[test]
    fn decay_shrinks_without_a_gradient() {
        let (mut w, mut m, mut v) = ([2.0], [0.0], [0.0]);
        adam_at(1, 0.1, 0.5).apply(&mut w, &[0.0], &mut m, &mut v);
        assert!((w[0] - 1.9).abs() < 1e-6, "{w:?}");
        let (mut w, mut u) = ([2.0], [0.0]);
        Nesterov { scale: 1.0, momentum: 0.9, rate: 0.1, decay: 0.5 }.apply(&mut w, &[0.0], &mut u);
        assert!((w[0] - 1.9).abs() < 1e-6, "{w:?}");
    }

    #[test]
    fn both_optimizers_minimize_a_quadratic() {
        let gradient = |w: [f32; 2]| [2.0 * (w[0] - 1.0), 20.0 * (w[1] - 0.5)];
        let (mut w, mut m, mut v) = ([3.0, -2.0], [0.0; 2], [0.0; 2]);
        for t in 1..2000 {
            let g = gradient(w);
            adam_at(t, 0.01, 0.0).apply(&mut w, &g, &mut m, &mut v);
        }
        assert!((w[0] - 1.0).abs() < 1e-3 && (w[1] - 0.5).abs() < 1e-3, "{w:?}");
        let (mut w, mut u) = ([3.0, -2.0], [0.0; 2]);
        for _ in 0..500 {
            let g = gradient(w);
            Nesterov { scale: 1.0, momentum: 0.9, rate: 0.01, decay: 0.0 }.apply(&mut w, &g, &mut u);
        }
        assert!((w[0] - 1.0).abs() < 1e-3 && (w[1] - 0.5).abs() < 1e-3, "{w:?}");
    }

    #[test]
    fn a_scale_multiplies_the_gradient() {
        let (mut a, mut b) = ([4.0, -2.0], [4.0, -2.0]);
        let (mut ua, mut ub) = ([0.0; 2], [0.0; 2]);
        let step = Nesterov { scale: 0.25, momentum: 0.9, rate: 0.1, decay: 0.0 };
        step.apply(&mut a, &[1.0, 3.0], &mut ua);
        Nesterov { scale: 1.0, ..step }.apply(&mut b, &[0.25, 0.75], &mut ub);
        assert_eq!((a, ua), (b, ub));
    }

    /// Lengths around the vector lengths, to test partial vectors.
    #[test]
    fn every_path_has_the_same_bits() {
        for count in [0, 1, 3, 7, 8, 15, 16, 17, 31, 33, 64, 100, 1000, PART + 5] {
            let (w, g) = (random(count, 1), random(count, 2));
            let (m, v) = (random(count, 3), random(count, 4).iter().map(|v| v * v).collect::<Vec<f32>>());
            let results = Isa::available().map(|path| {
                on(path, || {
                    assert_eq!(isa(), path);
                    let (mut w, mut m, mut v, mut u) = (w.clone(), m.clone(), v.clone(), m.clone());
                    Adam { scale: 0.7, ..adam_at(3, 0.01, 0.1) }.apply(&mut w, &g, &mut m, &mut v);
                    Nesterov { scale: 0.7, momentum: 0.9, rate: 0.01, decay: 0.1 }.apply(&mut w, &g, &mut u);
                    let norm = squared_norm(&g, false);
                    (bits(&w), bits(&m), bits(&v), bits(&u), norm.to_bits())
                })
            });
            let results: Vec<_> = results.collect();
            assert!(results.windows(2).all(|pair| pair[0] == pair[1]), "{count} numbers");
        }
    }

    #[test]
    fn a_norm_has_the_same_bits_with_any_number_of_threads() {
        let g = random(100_003, 5);
        let plain: f64 = g.iter().map(|g| f64::from(*g).powi(2)).sum();
        let one = squared_norm(&g, false);
        assert!((one / plain - 1.0).abs() < 1e-12, "{one} {plain}");
        for threads in [1, 2, 5] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
            assert_eq!(pool.install(|| squared_norm(&g, true)).to_bits(), one.to_bits());
        }
    }
}
