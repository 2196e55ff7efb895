//! The products of a layer, in both directions from one copy of W, written once over [`Vector`].
//!
//! Every sum is one chain of FMAs from 0 in the order of the reduction index, in all kernels. So the bits of a row do
//! not depend on the rest of the batch. See `matmul` for the definition.

mod blocks;
mod few;
mod job;

use super::PANEL;
use super::vector::Vector;
use crate::numeric::activation::Activation;
use blocks::{Part, decode_blocks, encode_blocks};
use job::{Activate, Job};

/// The direction of a product with W.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::numeric) enum Direction {
    /// Y = X·Wᵀ.
    Encode,
    /// Y = X·W.
    Decode,
}

/// Y = f(X·Wᵀ + b) or f(X·W + b).
///
/// W, X and Y are cut into panels of 16 rows each; see [`crate::numeric::PanelMatrix`]. [`Product::check`] verifies the
/// lengths.
#[derive(Debug)]
pub(in crate::numeric) struct Product<'a> {
    pub(in crate::numeric) direction: Direction,
    /// (outputs, inputs), panel after panel.
    pub(in crate::numeric) w: &'a [f32],
    /// Floats from one panel of W to the next: at least 16 x inputs.
    pub(in crate::numeric) w_stride: usize,
    pub(in crate::numeric) outputs: usize,
    pub(in crate::numeric) inputs: usize,
    /// Rows of X and of Y.
    pub(in crate::numeric) rows: usize,
    pub(in crate::numeric) x: &'a [f32],
    pub(in crate::numeric) y: &'a mut [f32],
    /// One number per column of Y.
    pub(in crate::numeric) bias: Option<&'a [f32]>,
    pub(in crate::numeric) activation: Activation,
}

/// Cache blocking of a product. `x_bytes` of X stay in the L2 cache while W streams past. A chain pauses after at most
/// `steps_max` steps, and continues when all other chains have reached the same step.
struct Blocking {
    x_bytes: usize,
    steps_max: usize,
}

/// For W in the L3 cache: few pauses.
const BLOCKING: Blocking = Blocking { x_bytes: 256 << 10, steps_max: 1600 };
/// For W in memory: many rows per read of W.
const BLOCKING_OF_LARGE: Blocking = Blocking { x_bytes: 512 << 10, steps_max: 512 };
const LARGE_BYTES: usize = 8 << 20;
/// Steps of a part of the few-rows decode: a multiple of 16.
const DECODE_FEW_STEPS: usize = 64;

impl Product<'_> {
    fn columns(&self) -> (usize, usize) {
        match self.direction {
            Direction::Encode => (self.inputs, self.outputs),
            Direction::Decode => (self.outputs, self.inputs),
        }
    }

    /// # Panics
    /// If a length disagrees: the kernels rely on the lengths.
    pub(super) fn check(&self) {
        let (x_columns, y_columns) = self.columns();
        let (full, rest) = (self.outputs / PANEL, self.outputs % PANEL);
        assert!(self.w_stride >= PANEL * self.inputs, "panels of W do not overlap");
        let w_len = if rest > 0 {
            full * self.w_stride + rest * self.inputs
        } else {
            full.saturating_sub(1) * self.w_stride + PANEL * self.inputs
        };
        assert!(self.outputs == 0 || self.w.len() >= w_len, "all of W is there");
        assert_eq!(self.x.len(), self.rows * x_columns, "X has rows x columns numbers");
        assert_eq!(self.y.len(), self.rows * y_columns, "Y has rows x columns numbers");
        assert!(self.bias.is_none_or(|bias| bias.len() == y_columns), "one bias per column");
    }
}

/// # Safety
/// As for [`Vector`]; [`Product::check`] has passed.
#[inline(always)]
pub(super) unsafe fn run<V: Vector>(product: &mut Product<'_>, activate: Activate) {
    let (x_columns, y_columns) = product.columns();
    let job = Job {
        w: product.w.as_ptr(),
        w_stride: product.w_stride,
        outputs: product.outputs,
        inputs: product.inputs,
        bias: product.bias.map_or(std::ptr::null(), <[f32]>::as_ptr),
        activation: product.activation,
        activate,
    };
    let (blocks, rest) = (product.rows / PANEL, product.rows % PANEL);
    let (x, y) = (product.x.as_ptr(), product.y.as_mut_ptr());
    let large = 4 * product.outputs * product.inputs > LARGE_BYTES;
    let blocking = if large { BLOCKING_OF_LARGE } else { BLOCKING };
    // Parts of about equal length, each a whole number of panels.
    let parts = x_columns.div_ceil(blocking.steps_max).max(1);
    let steps = x_columns.div_ceil(parts).next_multiple_of(PANEL);
    let group = (blocking.x_bytes / (PANEL * 4 * steps.max(1))).max(1);
    // SAFETY: every pointer below stays within the lengths that `check` has verified.
    unsafe {
        for first in (0..blocks).step_by(group) {
            let count = group.min(blocks - first);
            let x = x.add(first * PANEL * x_columns);
            let y = y.add(first * PANEL * y_columns);
            let mut from = 0;
            loop {
                let part = Part { from, to: x_columns.min(from + steps), all: x_columns };
                match product.direction {
                    Direction::Encode => encode_blocks::<V, false>(&job, part, x, y, count, PANEL),
                    Direction::Decode => decode_blocks::<V, false>(&job, part, x, y, count, PANEL),
                }
                from = part.to;
                if part.is_last() {
                    break;
                }
            }
        }
        if rest > 0 {
            let (x, y) = (x.add(blocks * PANEL * x_columns), y.add(blocks * PANEL * y_columns));
            let whole = Part { from: 0, to: x_columns, all: x_columns };
            match product.direction {
                Direction::Encode if rest <= V::FEW_ROWS_MAX => few::encode::<V>(&job, x, y, rest),
                Direction::Encode if rest == V::Half::LANES => {
                    encode_blocks::<V::Half, false>(&job, whole, x, y, 1, rest);
                }
                Direction::Encode if rest < V::Half::LANES => {
                    encode_blocks::<V::Half, true>(&job, whole, x, y, 1, rest);
                }
                Direction::Encode => encode_blocks::<V, true>(&job, whole, x, y, 1, rest),
                // Half a vector of rows wastes no lane.
                Direction::Decode if rest == V::Half::LANES => {
                    // Short parts read W almost sequentially, which matters with so few rows per read.
                    for from in (0..x_columns).step_by(DECODE_FEW_STEPS) {
                        let part = Part { from, to: x_columns.min(from + DECODE_FEW_STEPS), all: x_columns };
                        decode_blocks::<V::Half, false>(&job, part, x, y, 1, rest);
                    }
                }
                Direction::Decode if rest <= V::TURNED_ROWS_MAX => few::decode_turned::<V>(&job, x, y, rest),
                Direction::Decode if rest <= V::Half::TURNED_ROWS_MAX => {
                    few::decode_turned::<V::Half>(&job, x, y, rest);
                }
                Direction::Decode if rest < V::Half::LANES => {
                    decode_blocks::<V::Half, true>(&job, whole, x, y, 1, rest);
                }
                Direction::Decode => decode_blocks::<V, true>(&job, whole, x, y, 1, rest),
            }
        }
    }
}
