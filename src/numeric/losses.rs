//! Losses with their derivatives, and sums over rows: the element-wise work of a training step.
//!
//! Sums run in 16 lanes, which are added in a fixed order at the end. This gives vector code with the same bits on
//! every machine.

use super::PanelMatrix;
use super::activation::logistic;
use super::kernels::{PANEL, vectorized};

/// Losses that are computed before they are added.
const BLOCK: usize = 64 * PANEL;

/// Sum of (x̂ - x)² over all numbers, except where x is NaN: a missing number counts as reconstructed. `delta` becomes
/// the derivative by x̂, times `share`. Shapes: all (n, d).
///
/// # Panics
/// If the shapes disagree.
pub fn squared_error(x: &PanelMatrix, x_hat: &PanelMatrix, share: f32, delta: &mut PanelMatrix) -> f64 {
    pairs(x, x_hat, delta, move |x, x_hat| {
        let difference = x_hat - x;
        (2.0 * share * difference, difference * difference)
    })
}

/// Sum of -x ln σ(z) - (1-x) ln(1-σ(z)) = max(z, 0) - x z + ln(1 + exp(-|z|)) over all numbers, in nats, except where x
/// is NaN. `delta` becomes the derivative σ(z) - x by the logits z, times `share`. Shapes: all (n, d).
///
/// # Panics
/// If the shapes disagree.
pub fn cross_entropy(x: &PanelMatrix, z: &PanelMatrix, share: f32, delta: &mut PanelMatrix) -> f64 {
    pairs(x, z, delta, move |x, z| {
        let logistic = logistic(z);
        // Not `f32::max`: the compiler does not vectorize it.
        let above = if z > 0.0 { z } else { 0.0 };
        (share * (logistic.sigmoid - x), (above - x * z) + logistic.log_term)
    })
}

/// `f` returns a derivative and a loss. Sets each number of `delta` to the derivative, and returns the sum of the
/// losses.
#[inline(always)]
#[expect(clippy::inline_always, reason = "what is not inlined is compiled for a machine without vectors")]
fn pairs(x: &PanelMatrix, g: &PanelMatrix, delta: &mut PanelMatrix, f: impl Fn(f32, f32) -> (f32, f32)) -> f64 {
    assert_eq!((x.rows(), x.columns()), (g.rows(), g.columns()), "a reconstruction for each number");
    delta.reset(x.rows(), x.columns());
    let (x, g, delta) = (x.values(), g.values(), delta.values_mut());
    vectorized(
        // `move`: the compiler must assume that captured references may change, and would not vectorize.
        #[inline(always)]
        move || {
            let mut sums = [0.0f64; PANEL];
            let mut losses = [0.0f32; BLOCK];
            for ((x, g), delta) in x.chunks(BLOCK).zip(g.chunks(BLOCK)).zip(delta.chunks_mut(BLOCK)) {
                // A separate loop, long enough for the compiler to vectorize.
                let losses = &mut losses[..x.len()];
                for (((x, g), delta), loss) in x.iter().zip(g).zip(delta).zip(&mut *losses) {
                    let (derivative, of_one) = f(*x, *g);
                    (*delta, *loss) = if x.is_nan() { (0.0, 0.0) } else { (derivative, of_one) };
                }
                let (whole, rest) = losses.as_chunks::<PANEL>();
                for part in whole {
                    for i in 0..PANEL {
                        sums[i] += f64::from(part[i]);
                    }
                }
                rest.iter().zip(&mut sums).for_each(|(loss, sum)| *sum += f64::from(*loss));
            }
            sums.iter().sum()
        },
    )
}

/// Sums of the columns. Shape: (n, d) → (d,).
pub fn column_sums(values: &PanelMatrix, sums: &mut Vec<f32>) {
    column_dots(values, None, sums);
}

/// Sums of the columns of a∘b, or of a. Shapes: (n, d) → (d,).
///
/// # Panics
/// If the shapes disagree.
pub fn column_dots(a: &PanelMatrix, b: Option<&PanelMatrix>, sums: &mut Vec<f32>) {
    let (rows, columns) = (a.rows(), a.columns());
    assert!(b.is_none_or(|b| (b.rows(), b.columns()) == (rows, columns)), "pairs of numbers");
    sums.clear();
    sums.resize(columns, 0.0);
    let (a, b) = (a.values(), b.map(PanelMatrix::values));
    let (whole, rest) = (rows / PANEL, rows % PANEL);
    vectorized(
        #[inline(always)]
        || {
            for (j, sum) in sums.iter_mut().enumerate() {
                let mut lanes = [0.0f32; PANEL];
                for panel in 0..whole {
                    let at = (panel * columns + j) * PANEL;
                    let part = part(a, b, at);
                    lanes = std::array::from_fn(|i| lanes[i] + part[i]);
                }
                let at = whole * PANEL * columns + j * rest;
                for i in 0..rest {
                    lanes[i] += a[at + i] * b.map_or(1.0, |b| b[at + i]);
                }
                for half in [8, 4, 2, 1] {
                    (0..half).for_each(|i| lanes[i] += lanes[i + half]);
                }
                *sum = lanes[0];
            }
        },
    );
}

/// 16 numbers of a∘b, or of a.
#[inline(always)]
#[expect(clippy::inline_always, reason = "what is not inlined is compiled for a machine without vectors")]
fn part(a: &[f32], b: Option<&[f32]>, at: usize) -> [f32; PANEL] {
    let of = |values: &[f32]| -> [f32; PANEL] { values[at..at + PANEL].try_into().expect("16 numbers") };
    let a = of(a);
    b.map_or(a, |b| {
        let b = of(b);
        std::array::from_fn(|i| a[i] * b[i])
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numeric::kernels::{Isa, on};
    use crate::numeric::rng::{Stream, Use};

    fn random(rows: usize, columns: usize, seed: u64, f: impl Fn(f64) -> f64) -> PanelMatrix {
        let mut stream = Stream::new(seed, 0, 0, Use::Weights);
        let values: Vec<f32> = (0..rows * columns).map(|_| f(stream.normal()) as f32).collect();
        let mut lanes = PanelMatrix::zeros(rows, columns);
        lanes.load(0, &values);
        lanes
    }

    #[test]
    fn losses_match_their_formulas_on_every_instruction_set() {
        for (rows, columns) in [(1, 1), (7, 3), (16, 5), (64, 33), (75, 2)] {
            let x = random(rows, columns, 1, |v| 1.0 / (1.0 + v.abs()));
            let z = random(rows, columns, 2, |v| 3.0 * v);
            let expected = |f: &dyn Fn(f64, f64) -> f64| -> f64 {
                x.values().iter().zip(z.values()).map(|(x, z)| f(f64::from(*x), f64::from(*z))).sum()
            };
            let squared = expected(&|x, z| (z - x) * (z - x));
            let entropy = expected(&|x, z| z.max(0.0) - x * z + (-z.abs()).exp().ln_1p());
            let mut seen: Option<(u64, u64, Vec<u32>)> = None;
            for isa in Isa::available() {
                let (mut by_square, mut by_entropy) = (PanelMatrix::default(), PanelMatrix::default());
                let (a, b) = on(isa, || {
                    (squared_error(&x, &z, 0.5, &mut by_square), cross_entropy(&x, &z, 0.5, &mut by_entropy))
                });
                // Each loss is in single precision, the sum in double precision.
                assert!((a - squared).abs() < 1e-6 * squared && (b - entropy).abs() < 1e-6 * entropy, "{a} {b}");
                for (i, (x, z)) in x.values().iter().zip(z.values()).enumerate() {
                    assert!((by_square.values()[i] - (z - x)).abs() < 1e-6);
                    let sigma = 1.0 / (1.0 + (-f64::from(*z)).exp());
                    assert!((f64::from(by_entropy.values()[i]) - 0.5 * (sigma - f64::from(*x))).abs() < 1e-6);
                }
                let bits = by_entropy.values().iter().map(|value| value.to_bits()).collect();
                let bits = (a.to_bits(), b.to_bits(), bits);
                assert_eq!(*seen.get_or_insert_with(|| bits.clone()), bits, "{isa}");
            }
        }
    }

    #[test]
    fn missing_values_count_as_reconstructed() {
        let (rows, columns) = (75, 3);
        let (mut x, z) = (random(rows, columns, 1, |v| 1.0 / (1.0 + v.abs())), random(rows, columns, 2, |v| 3.0 * v));
        let missing = |row: usize, column: usize| (row * columns + column).is_multiple_of(5);
        let losses = [squared_error, cross_entropy];
        for loss in losses {
            let (mut all, mut left) = (PanelMatrix::default(), PanelMatrix::default());
            let mut of_missing = 0.0;
            let whole = loss(&x, &z, 0.5, &mut all);
            let kept = x.clone();
            for row in 0..rows {
                for column in (0..columns).filter(|column| missing(row, *column)) {
                    let (mut one, mut other) = (PanelMatrix::zeros(1, 1), PanelMatrix::zeros(1, 1));
                    (*one.at_mut(0, 0), *other.at_mut(0, 0)) = (x.at(row, column), z.at(row, column));
                    of_missing += loss(&one, &other, 0.5, &mut PanelMatrix::default());
                    *x.at_mut(row, column) = f32::NAN;
                }
            }
            let got = loss(&x, &z, 0.5, &mut left);
            assert!((got + of_missing - whole).abs() < 1e-9 * whole, "{got} {of_missing} {whole}");
            for row in 0..rows {
                for column in 0..columns {
                    let expected = if missing(row, column) { 0.0 } else { all.at(row, column) };
                    assert_eq!(left.at(row, column).to_bits(), expected.to_bits());
                }
            }
            x = kept;
        }
    }

    #[test]
    fn columns_are_summed_in_any_shape() {
        for (rows, columns) in [(1, 1), (7, 3), (16, 5), (64, 33), (75, 2)] {
            let (a, b) = (random(rows, columns, 3, |v| v), random(rows, columns, 4, |v| v));
            let (mut sums, mut dots) = (Vec::new(), Vec::new());
            column_sums(&a, &mut sums);
            column_dots(&a, Some(&b), &mut dots);
            for j in 0..columns {
                let sum: f64 = (0..rows).map(|i| f64::from(a.at(i, j))).sum();
                let dot: f64 = (0..rows).map(|i| f64::from(a.at(i, j)) * f64::from(b.at(i, j))).sum();
                assert!((f64::from(sums[j]) - sum).abs() < 1e-4 && (f64::from(dots[j]) - dot).abs() < 1e-4);
            }
        }
    }
}
