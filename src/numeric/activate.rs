//! Activations of whole batches, with the kernels of the chosen instruction set.

// The kernels compile these functions once per instruction set: only inlined code is vectorized.
#![allow(clippy::inline_always)]

use super::{Activation, PanelMatrix, kernels};

impl Activation {
    /// `H = f(H + b)`. Shapes: `h` (n, d), `bias` (d,).
    ///
    /// # Panics
    /// If `bias` does not have one number per column.
    pub fn apply_with_bias(self, h: &mut PanelMatrix, bias: &[f32]) {
        assert_eq!(h.columns(), bias.len(), "one bias per column");
        h.each_column_mut(|j, part| part.iter_mut().for_each(|x| *x += bias[j]));
        kernels::activate(self, h.values_mut());
    }

    /// `δ = δ∘f'`, from the outputs y = f(x). Shapes: all (n, d).
    ///
    /// # Panics
    /// If the shapes disagree.
    pub fn multiply_slope(&self, delta: &mut PanelMatrix, outputs: &PanelMatrix) {
        assert_eq!((delta.rows(), delta.columns()), (outputs.rows(), outputs.columns()), "one slope for each number");
        let (delta, y) = (delta.values_mut(), outputs.values());
        let activation = *self;
        kernels::vectorized(move || match activation {
            Self::Linear | Self::Gelu => {}
            Self::Elu { alpha } => each_pair(delta, y, move |y| if y > 0.0 { 1.0 } else { y + alpha }),
            Self::Relu => each_pair(delta, y, move |y| if y > 0.0 { 1.0 } else { 0.0 }),
            Self::LeakyRelu { slope } => each_pair(delta, y, move |y| if y > 0.0 { 1.0 } else { slope }),
            Self::Tanh => each_pair(delta, y, move |y| 1.0 - y * y),
            Self::Sigmoid => each_pair(delta, y, move |y| y * (1.0 - y)),
        });
    }
}

#[inline(always)]
fn each_pair(delta: &mut [f32], y: &[f32], slope: impl Fn(f32) -> f32) {
    delta.iter_mut().zip(y).for_each(|(delta, y)| *delta *= slope(*y));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bias_is_added_before_the_function() {
        let mut h = PanelMatrix::zeros(3, 2);
        h.load(0, &[1.0, -2.0, 0.5, 3.0, -1.0, -1.0]);
        Activation::Relu.apply_with_bias(&mut h, &[0.5, 1.0]);
        let mut rows = [0.0; 6];
        h.store(0..3, &mut rows);
        assert_eq!(rows, [1.5, 0.0, 1.0, 4.0, 0.0, 0.0]);
    }
}
