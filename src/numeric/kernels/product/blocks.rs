//! Kernels for whole vectors of rows: the rows lie along the lanes.

use super::job::Job;
use crate::numeric::kernels::tiles::tiles;
use crate::numeric::kernels::vector::Vector;
use crate::numeric::kernels::{PANEL, cooperative_yield};

/// Steps `from..to` of all chains, out of `all` steps. Partial sums wait in Y between parts.
#[derive(Clone, Copy)]
pub(super) struct Part {
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) all: usize,
}

impl Part {
    pub(super) fn is_last(self) -> bool {
        self.to == self.all
    }
}

/// Encodes `count` panels of X into Y, `lanes` rows each. `MASKED` if the vector has more lanes than that.
#[inline(always)]
pub(super) unsafe fn encode_blocks<V: Vector, const MASKED: bool>(
    job: &Job,
    part: Part,
    x: *const f32,
    y: *mut f32,
    count: usize,
    lanes: usize,
) {
    // SAFETY: guaranteed by the caller.
    unsafe {
        for panel in 0..job.outputs.div_ceil(PANEL) {
            let width = PANEL.min(job.outputs - panel * PANEL);
            let mut block = 0;
            while block < count {
                let x = x.add(block * lanes * job.inputs);
                let y = y.add(block * lanes * job.outputs);
                if !MASKED && V::ABREAST == 2 && block + 2 <= count {
                    tiles!(V, MASKED, 2, width, encode_tile(job, part, panel, width, x, y, lanes));
                    block += 2;
                } else {
                    tiles!(V, MASKED, 1, width, encode_tile(job, part, panel, width, x, y, lanes));
                    block += 1;
                }
            }
            cooperative_yield::done(width * count * lanes * (part.to - part.from));
        }
    }
}

#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "the parts of one loop")]
unsafe fn encode_tile<V: Vector, const MASKED: bool, const R: usize, const O: usize>(
    first: usize,
    job: &Job,
    part: Part,
    panel: usize,
    width: usize,
    x: *const f32,
    y: *mut f32,
    lanes: usize,
) {
    // SAFETY: guaranteed by the caller.
    unsafe {
        let output = panel * PANEL + first;
        let (x_apart, y_apart) = (lanes * job.inputs, lanes * job.outputs);
        let mut sums = [[V::zero(); O]; R];
        for (r, sums) in sums.iter_mut().enumerate() {
            *sums = begin::<V, MASKED, O>(part, y.add(r * y_apart), output, lanes);
        }
        let w = job.w.add(panel * job.w_stride + part.from * width + first);
        let (x, steps) = (x.add(part.from * lanes), part.to - part.from);
        if width == PANEL && !MASKED {
            chain::<V, false, R, O>(&mut sums, steps, x, x_apart, V::LANES, w, PANEL, 1);
        } else {
            chain::<V, MASKED, R, O>(&mut sums, steps, x, x_apart, lanes, w, width, 1);
        }
        for (r, sums) in sums.into_iter().enumerate() {
            put::<V, MASKED, O>(job, part, sums, y.add(r * y_apart), output, lanes);
        }
    }
}

/// Decodes, as [`encode_blocks`] encodes.
#[inline(always)]
pub(super) unsafe fn decode_blocks<V: Vector, const MASKED: bool>(
    job: &Job,
    part: Part,
    x: *const f32,
    y: *mut f32,
    count: usize,
    lanes: usize,
) {
    // SAFETY: guaranteed by the caller.
    unsafe {
        // Sixteen inputs at a time: their cache lines of W stay in the cache for all blocks.
        for start in (0..job.inputs).step_by(PANEL) {
            let width = PANEL.min(job.inputs - start);
            let mut block = 0;
            while block < count {
                let x = x.add(block * lanes * job.outputs);
                let y = y.add(block * lanes * job.inputs);
                if !MASKED && V::ABREAST == 2 && block + 2 <= count {
                    tiles!(V, MASKED, 2, width, decode_tile(job, part, start, x, y, lanes));
                    block += 2;
                } else {
                    tiles!(V, MASKED, 1, width, decode_tile(job, part, start, x, y, lanes));
                    block += 1;
                }
            }
            cooperative_yield::done(PANEL * count * lanes * (part.to - part.from));
        }
    }
}

#[inline(always)]
unsafe fn decode_tile<V: Vector, const MASKED: bool, const R: usize, const O: usize>(
    first: usize,
    job: &Job,
    part: Part,
    start: usize,
    x: *const f32,
    y: *mut f32,
    lanes: usize,
) {
    // SAFETY: guaranteed by the caller.
    unsafe {
        let first = start + first;
        let (x_apart, y_apart) = (lanes * job.outputs, lanes * job.inputs);
        let mut sums = [[V::zero(); O]; R];
        for (r, sums) in sums.iter_mut().enumerate() {
            *sums = begin::<V, MASKED, O>(part, y.add(r * y_apart), first, lanes);
        }
        let (panels, rest) = (part.to / PANEL, part.to % PANEL);
        let x_step = if MASKED { lanes } else { V::LANES };
        // A part starts at a panel boundary.
        for panel in part.from / PANEL..panels {
            let w = job.w.add(panel * job.w_stride + first * PANEL);
            // The panels are far apart: the hardware prefetcher would not load the next one in time.
            let next = w.wrapping_add(job.w_stride);
            for line in 0..O {
                V::prefetch(next.wrapping_add(line * PANEL));
            }
            chain::<V, MASKED, R, O>(&mut sums, PANEL, x.add(panel * PANEL * x_step), x_apart, x_step, w, 1, PANEL);
        }
        if rest > 0 {
            let w = job.w.add(panels * job.w_stride + first * rest);
            chain::<V, MASKED, R, O>(&mut sums, rest, x.add(panels * PANEL * x_step), x_apart, x_step, w, 1, rest);
        }
        for (r, sums) in sums.into_iter().enumerate() {
            put::<V, MASKED, O>(job, part, sums, y.add(r * y_apart), first, lanes);
        }
    }
}

/// Continues `R` times `O` chains over `k` steps: sums\[r\]\[o\] += w\[o\]·x\[r\], lanes along the rows. The vectors of
/// x are `x_apart` floats apart.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "the parts of one loop")]
unsafe fn chain<V: Vector, const MASKED: bool, const R: usize, const O: usize>(
    sums: &mut [[V; O]; R],
    k: usize,
    mut x: *const f32,
    x_apart: usize,
    x_step: usize,
    mut w: *const f32,
    w_step: usize,
    w_output: usize,
) {
    for _ in 0..k {
        // SAFETY: guaranteed by the caller.
        unsafe {
            let mut rows = [V::zero(); R];
            for (r, rows) in rows.iter_mut().enumerate() {
                let x = x.add(r * x_apart);
                *rows = if MASKED { V::load_first(x, x_step) } else { V::load(x) };
            }
            for o in 0..O {
                let weight = V::splat(*w.add(o * w_output));
                for (sums, rows) in sums.iter_mut().zip(rows) {
                    sums[o] = rows.multiply_add(weight, sums[o]);
                }
            }
        }
        x = x.wrapping_add(x_step);
        w = w.wrapping_add(w_step);
    }
}

/// The partial sums of `O` columns of a panel of Y, from column `first` on; zeros in the first part.
#[inline(always)]
unsafe fn begin<V: Vector, const MASKED: bool, const O: usize>(
    part: Part,
    y: *const f32,
    first: usize,
    lanes: usize,
) -> [V; O] {
    // SAFETY: guaranteed by the caller.
    unsafe {
        let mut sums = [V::zero(); O];
        if part.from > 0 {
            for (o, sum) in sums.iter_mut().enumerate() {
                let at = y.add((first + o) * lanes);
                *sum = if MASKED { V::load_first(at, lanes) } else { V::load(at) };
            }
        }
        sums
    }
}

/// Writes the sums to Y; after the last part, adds the bias and applies the activation.
#[inline(always)]
unsafe fn put<V: Vector, const MASKED: bool, const O: usize>(
    job: &Job,
    part: Part,
    sums: [V; O],
    y: *mut f32,
    first: usize,
    lanes: usize,
) {
    // SAFETY: guaranteed by the caller.
    unsafe {
        let lanes = if MASKED { lanes } else { V::LANES };
        let y = y.add(first * lanes);
        for (o, sum) in sums.into_iter().enumerate() {
            let bare = job.bias.is_null() || !part.is_last();
            let sum = if bare { sum } else { sum.add(V::splat(job.bias(first + o))) };
            if MASKED {
                sum.store_first(y.add(o * lanes), lanes);
            } else {
                sum.store(y.add(o * lanes));
            }
        }
        if part.is_last() {
            job.finish(y, O * lanes);
        }
    }
}
