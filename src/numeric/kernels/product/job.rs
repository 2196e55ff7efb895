//! The arguments of a product, as pointers for its kernels.

use crate::numeric::activation::Activation;

/// A function that applies an activation in place.
pub(super) type Activate = fn(Activation, &mut [f32]);

/// The arguments that all kernels of a product share.
pub(super) struct Job {
    pub(super) w: *const f32,
    pub(super) w_stride: usize,
    pub(super) outputs: usize,
    pub(super) inputs: usize,
    /// Null if there is no bias.
    pub(super) bias: *const f32,
    pub(super) activation: Activation,
    pub(super) activate: Activate,
}

impl Job {
    /// # Safety
    /// `count` floats at `y` are valid.
    #[inline(always)]
    pub(super) unsafe fn finish(&self, y: *mut f32, count: usize) {
        if self.activation != Activation::Linear {
            // SAFETY: guaranteed by the caller.
            (self.activate)(self.activation, unsafe { std::slice::from_raw_parts_mut(y, count) });
        }
    }

    #[inline(always)]
    pub(super) unsafe fn bias(&self, column: usize) -> f32 {
        // SAFETY: a bias has one number per column of Y.
        if self.bias.is_null() { 0.0 } else { unsafe { *self.bias.add(column) } }
    }
}
