//! The gradient of W: sums of outer products over the rows of a batch, in the layout of W.

use super::PANEL;
use super::tiles::tiles;
use super::vector::Vector;

/// dW = Uᵀ·V or dW += Uᵀ·V for some panels of outputs. Each number is one chain of FMAs in the order of the rows.
#[derive(Debug)]
pub(in crate::numeric) struct Outer<'a> {
    /// The panels of dW, in the layout of W. Only the last panel of the matrix may be narrow.
    pub(in crate::numeric) w: &'a mut [f32],
    /// Floats from one panel of dW to the next.
    pub(in crate::numeric) w_stride: usize,
    /// Number of outputs in `w`.
    pub(in crate::numeric) count: usize,
    /// First output in `w`: a multiple of 16.
    pub(in crate::numeric) first: usize,
    pub(in crate::numeric) outputs: usize,
    pub(in crate::numeric) inputs: usize,
    pub(in crate::numeric) rows: usize,
    /// (rows, outputs), in panels of 16 rows.
    pub(in crate::numeric) u: &'a [f32],
    /// (rows, inputs), in panels of 16 rows.
    pub(in crate::numeric) v: &'a [f32],
    /// Whether to add to the values that are there.
    pub(in crate::numeric) add: bool,
}

impl Outer<'_> {
    /// # Panics
    /// If a length disagrees: the kernels rely on the lengths.
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

/// Rows of U that are transposed at once.
const TURNED_ROWS: usize = 64;

/// The outputs of a panel, row after row: 16 adjacent floats per row, one per lane.
type Turned = [f32; TURNED_ROWS * PANEL];

/// # Safety
/// As for [`Vector`]; [`Outer::check`] has passed.
#[inline(always)]
pub(super) unsafe fn run<V: Vector>(outer: &mut Outer<'_>) {
    let mut turned = [[0.0; TURNED_ROWS * PANEL]; 2];
    let (whole, panels) = (outer.count / PANEL, outer.count.div_ceil(PANEL));
    for start in (0..outer.rows).step_by(TURNED_ROWS) {
        let rows = TURNED_ROWS.min(outer.rows - start);
        let add = outer.add || start > 0;
        let mut panel = 0;
        while panel < panels {
            let abreast = if panel + V::ABREAST <= whole { V::ABREAST } else { 1 };
            let output = outer.first + panel * PANEL;
            let width = PANEL.min(outer.outputs - output);
            for (r, turned) in turned.iter_mut().enumerate().take(abreast) {
                turn::<V>(outer, start, rows, output + r * PANEL, width, turned);
            }
            // SAFETY: `check` has verified the lengths that these pointers reach.
            unsafe {
                let (stride, inputs) = (outer.w_stride, outer.inputs);
                let w = outer.w.as_mut_ptr().add(panel * stride);
                let v = outer.v.as_ptr().add(start * inputs);
                if abreast == 2 {
                    tiles!(V, false, 2, inputs, tile(&turned, rows, v, inputs, w, stride, PANEL, add));
                } else if width == PANEL {
                    tiles!(V, false, 1, inputs, tile(&turned, rows, v, inputs, w, stride, PANEL, add));
                } else {
                    tiles!(V, true, 1, inputs, tile(&turned, rows, v, inputs, w, stride, width, add));
                }
            }
            panel += abreast;
        }
    }
}

#[inline(always)]
fn turn<V: Vector>(outer: &Outer<'_>, start: usize, rows: usize, output: usize, width: usize, turned: &mut Turned) {
    for first in (0..rows).step_by(PANEL) {
        let lanes = PANEL.min(outer.rows - start - first);
        let block = &outer.u[(start + first) * outer.outputs..][output * lanes..(output + width) * lanes];
        if lanes == PANEL && width == PANEL {
            let square = &mut turned[first * PANEL..][..PANEL * PANEL];
            // SAFETY: both are 16 x 16 floats.
            unsafe { turn_square::<V>(block.as_ptr(), square.as_mut_ptr()) };
            continue;
        }
        for (o, column) in block.chunks_exact(lanes).enumerate() {
            for (row, value) in column.iter().enumerate() {
                turned[(first + row) * PANEL + o] = *value;
            }
        }
    }
}

/// Transposes 16 rows of 16 outputs, in registers.
#[inline(always)]
unsafe fn turn_square<V: Vector>(from: *const f32, to: *mut f32) {
    for output in (0..PANEL).step_by(V::LANES) {
        for row in (0..PANEL).step_by(4) {
            // SAFETY: guaranteed by the caller.
            unsafe {
                for (r, outputs) in V::turned(from.add(output * PANEL + row), PANEL).into_iter().enumerate() {
                    outputs.store(to.add((row + r) * PANEL + output));
                }
            }
        }
    }
}

/// Sums of `I` inputs for the outputs of `R` panels. `MASKED` means one panel that is narrow.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "the parts of one loop")]
unsafe fn tile<V: Vector, const MASKED: bool, const R: usize, const I: usize>(
    input: usize,
    turned: &[Turned; 2],
    rows: usize,
    v: *const f32,
    inputs: usize,
    w: *mut f32,
    w_stride: usize,
    width: usize,
    add: bool,
) {
    // SAFETY: guaranteed by the caller.
    unsafe {
        let mut sums = [[V::zero(); I]; R];
        let w = w.add(input * width);
        if add {
            for (r, sums) in sums.iter_mut().enumerate() {
                for (i, sum) in sums.iter_mut().enumerate() {
                    let at = w.add(r * w_stride + i * width);
                    *sum = if MASKED { V::load_first(at, width) } else { V::load(at) };
                }
            }
        }
        for first in (0..rows).step_by(PANEL) {
            let lanes = PANEL.min(rows - first);
            let v = v.add(first * inputs + input * lanes);
            if lanes == PANEL {
                // In a whole panel the strides are constants: one address serves all inputs.
                for row in 0..PANEL {
                    // Prefetches the next tile, which may be in a far cache or in memory.
                    if row < I {
                        V::prefetch(v.wrapping_add((I + row) * PANEL));
                    }
                    step(&mut sums, turned, first + row, v.add(row), PANEL);
                }
                if first < R * PANEL {
                    for i in I..2 * I {
                        V::prefetch(w.wrapping_add(first / PANEL * w_stride + i * width));
                    }
                }
            } else {
                for row in 0..lanes {
                    step(&mut sums, turned, first + row, v.add(row), lanes);
                }
            }
        }
        for (r, sums) in sums.into_iter().enumerate() {
            for (i, sum) in sums.into_iter().enumerate() {
                let at = w.add(r * w_stride + i * width);
                // On some machines a masked store takes as long as a whole chain.
                if MASKED {
                    sum.store_first(at, width);
                } else {
                    sum.store(at);
                }
            }
        }
    }
}

/// Adds a row to the chains: sums\[r\]\[i\] += u\[r\]·v\[i\], where v\[i\] is at `v + i * v_apart`.
#[inline(always)]
unsafe fn step<V: Vector, const R: usize, const I: usize>(
    sums: &mut [[V; I]; R],
    turned: &[Turned; 2],
    row: usize,
    v: *const f32,
    v_apart: usize,
) {
    // SAFETY: guaranteed by the caller.
    unsafe {
        let mut outputs = [V::zero(); R];
        for (outputs, turned) in outputs.iter_mut().zip(turned) {
            *outputs = V::load(turned.as_ptr().add(row * PANEL));
        }
        for i in 0..I {
            let number = V::splat(*v.add(i * v_apart));
            for (sums, outputs) in sums.iter_mut().zip(outputs) {
                sums[i] = outputs.multiply_add(number, sums[i]);
            }
        }
    }
}
