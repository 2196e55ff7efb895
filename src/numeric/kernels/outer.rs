//! The gradient of W: sums over the rows of a batch, in the layout of W.

use super::PANEL;
use super::tiles::tiles;
use super::vector::Vector;

/// dW (+)= Uᵀ·V for some panels of outputs. Each number is one chain of FMAs in the order of the rows.
#[derive(Debug)]
pub(in crate::numeric) struct Outer<'a> {
    /// The panels of dW, in the layout of W; the last may be narrow if it is the last of all.
    pub(in crate::numeric) w: &'a mut [f32],
    /// Floats from one panel of dW to the next.
    pub(in crate::numeric) w_stride: usize,
    /// Outputs of the panels of `w`.
    pub(in crate::numeric) count: usize,
    /// First output of `w`: a multiple of 16.
    pub(in crate::numeric) first: usize,
    pub(in crate::numeric) outputs: usize,
    pub(in crate::numeric) inputs: usize,
    pub(in crate::numeric) rows: usize,
    /// (rows, outputs), in panels of 16 rows.
    pub(in crate::numeric) u: &'a [f32],
    /// (rows, inputs), in panels of 16 rows.
    pub(in crate::numeric) v: &'a [f32],
    /// Whether what is there counts.
    pub(in crate::numeric) add: bool,
}

impl Outer<'_> {
    /// # Panics
    /// If a length disagrees: the kernels rely on them.
    pub(super) fn check(&self) {
        assert!(self.first.is_multiple_of(PANEL) && self.first + self.count <= self.outputs, "outputs that exist");
        assert!(self.count.is_multiple_of(PANEL) || self.first + self.count == self.outputs, "whole panels");
        assert!(self.w_stride >= PANEL * self.inputs, "panels of dW do not overlap");
        let (full, rest) = (self.count / PANEL, self.count % PANEL);
        let w_len = if rest > 0 {
            full * self.w_stride + rest * self.inputs
        } else {
            full.saturating_sub(1) * self.w_stride + PANEL * self.inputs
        };
        assert!(self.count == 0 || self.w.len() >= w_len, "all of dW is there");
        assert_eq!(self.u.len(), self.rows * self.outputs, "U has rows x outputs numbers");
        assert_eq!(self.v.len(), self.rows * self.inputs, "V has rows x inputs numbers");
    }
}

/// Rows of U that are turned at once.
const TURNED_ROWS: usize = 64;

/// # Safety
/// As for [`Vector`]; `outer` was checked.
#[inline(always)]
pub(super) unsafe fn run<V: Vector>(outer: &mut Outer<'_>) {
    // Row after row, as the lanes want it: 16 outputs side by side.
    let mut turned = [0.0; TURNED_ROWS * PANEL];
    for start in (0..outer.rows).step_by(TURNED_ROWS) {
        let rows = TURNED_ROWS.min(outer.rows - start);
        let add = outer.add || start > 0;
        for panel in 0..outer.count.div_ceil(PANEL) {
            let output = outer.first + panel * PANEL;
            let width = PANEL.min(outer.outputs - output);
            turn(outer, start, rows, output, width, &mut turned);
            // SAFETY: `check` has found all that these pointers reach.
            unsafe {
                let w = outer.w.as_mut_ptr().add(panel * outer.w_stride);
                let v = outer.v.as_ptr().add(start * outer.inputs);
                if width == PANEL {
                    tiles!(V, false, outer.inputs, tile(&turned, rows, v, outer.inputs, w, PANEL, add));
                } else {
                    tiles!(V, true, outer.inputs, tile(&turned, rows, v, outer.inputs, w, width, add));
                }
            }
        }
    }
}

fn turn(outer: &Outer<'_>, start: usize, rows: usize, output: usize, width: usize, turned: &mut [f32]) {
    for first in (0..rows).step_by(PANEL) {
        let lanes = PANEL.min(outer.rows - start - first);
        let block = &outer.u[(start + first) * outer.outputs..][output * lanes..(output + width) * lanes];
        for (o, column) in block.chunks_exact(lanes).enumerate() {
            for (row, value) in column.iter().enumerate() {
                turned[(first + row) * PANEL + o] = *value;
            }
        }
    }
}

/// Sums of `I` inputs for the outputs of a panel; `MASKED` if it is narrow.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "the parts of one loop")]
unsafe fn tile<V: Vector, const MASKED: bool, const I: usize>(
    input: usize,
    turned: &[f32; TURNED_ROWS * PANEL],
    rows: usize,
    v: *const f32,
    inputs: usize,
    w: *mut f32,
    width: usize,
    add: bool,
) {
    // SAFETY: the caller's.
    unsafe {
        let mut sums = [V::zero(); I];
        let w = w.add(input * width);
        if add {
            for (i, sum) in sums.iter_mut().enumerate() {
                let at = w.add(i * width);
                *sum = if MASKED { V::load_first(at, width) } else { V::load(at) };
            }
        }
        for first in (0..rows).step_by(PANEL) {
            let lanes = PANEL.min(rows - first);
            let v = v.add(first * inputs + input * lanes);
            if lanes == PANEL {
                // Of a whole panel the distances are known: one address does for all inputs.
                for row in 0..PANEL {
                    let outputs = V::load(turned.as_ptr().add((first + row) * PANEL));
                    for (i, sum) in sums.iter_mut().enumerate() {
                        *sum = outputs.multiply_add(V::splat(*v.add(i * PANEL + row)), *sum);
                    }
                }
                continue;
            }
            for row in 0..lanes {
                let outputs = V::load(turned.as_ptr().add((first + row) * PANEL));
                for (i, sum) in sums.iter_mut().enumerate() {
                    *sum = outputs.multiply_add(V::splat(*v.add(i * lanes + row)), *sum);
                }
            }
        }
        for (i, sum) in sums.into_iter().enumerate() {
            let at = w.add(i * width);
            // A masked store takes some machines as long as a whole chain.
            if MASKED {
                sum.store_first(at, width);
            } else {
                sum.store(at);
            }
        }
    }
}
