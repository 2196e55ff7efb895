//! The products of a layer, in both directions from one copy of W, written once over [`Vector`].
//!
//! Every sum is one chain of FMAs from 0 in the order of the reduction index, in all kernels. So the bits of a row do
//! not depend on the rest of the batch. See `matmul` for the definition.

use super::PANEL;
use super::cooperative_yield;
use super::tiles::tiles;
use super::vector::Vector;
use crate::numeric::activation::Activation;

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

/// A function that applies an activation in place.
pub(super) type Activate = fn(Activation, &mut [f32]);

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

/// Steps `from..to` of all chains, out of `all` steps. Partial sums wait in Y between parts.
#[derive(Clone, Copy)]
struct Part {
    from: usize,
    to: usize,
    all: usize,
}

impl Part {
    fn is_last(self) -> bool {
        self.to == self.all
    }
}

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

/// Encodes `count` panels of X into Y, `lanes` rows each. `MASKED` if the vector has more lanes than that.
#[inline(always)]
unsafe fn encode_blocks<V: Vector, const MASKED: bool>(
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
unsafe fn decode_blocks<V: Vector, const MASKED: bool>(
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

/// Kernels for fewer rows than lanes. Here the numbers of W lie along the lanes, and W is read once, sequentially.
mod few {
    use super::{Job, PANEL, Vector};

    /// Calls `$kernel::<V, ROWS>(job, x, y)` with the number of rows as a constant, so that the sums stay in registers.
    macro_rules! by_rows {
        ($V:ident, $rows:expr, $most:expr, $kernel:ident($job:ident, $x:ident, $y:ident), [$($count:literal)*]) => {
            match $rows {
                $($count if $count <= $most => $kernel::<$V, $count>($job, $x, $y),)*
                _ => unreachable!("the caller has looked at the number of rows"),
            }
        };
    }

    /// # Safety
    /// As for [`Vector`]; 1 to `V::FEW_ROWS_MAX` rows.
    #[inline(always)]
    pub(super) unsafe fn encode<V: Vector>(job: &Job, x: *const f32, y: *mut f32, rows: usize) {
        // SAFETY: guaranteed by the caller.
        unsafe {
            by_rows!(V, rows, V::FEW_ROWS_MAX, encode_rows(job, x, y), [1 2 3 4 5 6 7 8 9 10 11 12 13 14 15]);
        }
    }

    #[inline(always)]
    unsafe fn encode_rows<V: Vector, const ROWS: usize>(job: &Job, x: *const f32, y: *mut f32) {
        let panels = job.outputs.div_ceil(PANEL);
        // Several panels at once: a single chain would wait for the latency of its own additions.
        let most = (V::FEW_SUMS_MAX / ROWS).clamp(1, 4);
        let mut panel = 0;
        while panel < panels {
            let left = panels - panel;
            // Avoids a single panel at the end.
            let count = if most > 2 && left == most + 1 { most - 1 } else { left.min(most) };
            let narrow = count == left && !job.outputs.is_multiple_of(PANEL);
            // SAFETY: guaranteed by the caller.
            unsafe {
                match (count, narrow) {
                    (4, false) if most >= 4 => encode_panels::<V, ROWS, 4, false>(job, x, y, panel),
                    (4, true) if most >= 4 => encode_panels::<V, ROWS, 4, true>(job, x, y, panel),
                    (3, false) if most >= 3 => encode_panels::<V, ROWS, 3, false>(job, x, y, panel),
                    (3, true) if most >= 3 => encode_panels::<V, ROWS, 3, true>(job, x, y, panel),
                    (2, false) if most >= 2 => encode_panels::<V, ROWS, 2, false>(job, x, y, panel),
                    (2, true) if most >= 2 => encode_panels::<V, ROWS, 2, true>(job, x, y, panel),
                    (_, false) => encode_panels::<V, ROWS, 1, false>(job, x, y, panel),
                    (_, true) => encode_panels::<V, ROWS, 1, true>(job, x, y, panel),
                }
            }
            panel += count;
        }
    }

    /// Encodes panels `first..first + PANELS`. `NARROW` if the last one has fewer than 16 outputs.
    #[inline(always)]
    unsafe fn encode_panels<V: Vector, const ROWS: usize, const PANELS: usize, const NARROW: bool>(
        job: &Job,
        x: *const f32,
        y: *mut f32,
        first: usize,
    ) {
        let width_of_last = if NARROW { job.outputs - (first + PANELS - 1) * PANEL } else { PANEL };
        // SAFETY: guaranteed by the caller.
        unsafe {
            let mut sums = [[V::zero(); PANELS]; ROWS];
            let w = job.w.add(first * job.w_stride);
            for i in 0..job.inputs {
                let mut weights = [V::zero(); PANELS];
                for (p, weights) in weights.iter_mut().enumerate() {
                    let w = w.add(p * job.w_stride);
                    *weights = if NARROW && p == PANELS - 1 {
                        V::load_first(w.add(i * width_of_last), width_of_last)
                    } else {
                        V::load(w.add(i * PANEL))
                    };
                }
                for (row, sums) in sums.iter_mut().enumerate() {
                    let number = V::splat(*x.add(i * ROWS + row));
                    for (sum, weights) in sums.iter_mut().zip(weights) {
                        *sum = weights.multiply_add(number, *sum);
                    }
                }
            }
            for p in 0..PANELS {
                let mut rows = [[0.0; PANEL]; ROWS];
                for (row, sums) in rows.iter_mut().zip(&sums) {
                    sums[p].store(row.as_mut_ptr());
                }
                let width = if p == PANELS - 1 { width_of_last } else { PANEL };
                put::<ROWS>(job, rows.as_mut_ptr().cast(), PANEL, y, (first + p) * PANEL, width);
            }
        }
    }

    /// # Safety
    /// As for [`Vector`]; 1 to `V::TURNED_ROWS_MAX` rows.
    #[inline(always)]
    pub(super) unsafe fn decode_turned<V: Vector>(job: &Job, x: *const f32, y: *mut f32, rows: usize) {
        // SAFETY: guaranteed by the caller.
        unsafe {
            by_rows!(V, rows, V::TURNED_ROWS_MAX, decode_rows(job, x, y), [1 2 3 4 5 6 7 8 9 10 11 12 13 14 15]);
        }
    }

    /// Reads W sequentially, panel after panel. The sums of all inputs wait in memory in between.
    #[inline(always)]
    unsafe fn decode_rows<V: Vector, const ROWS: usize>(job: &Job, x: *const f32, y: *mut f32) {
        let (panels, rest) = (job.outputs / PANEL, job.outputs % PANEL);
        let places = job.inputs.next_multiple_of(PANEL);
        // With one row, the layout of Y is that of the sums.
        let in_place = ROWS == 1 && job.inputs >= V::LANES;
        let mut waiting = vec![0.0; if in_place { 0 } else { ROWS * places }];
        // SAFETY: guaranteed by the caller.
        unsafe {
            let sums = if in_place {
                y.write_bytes(0, job.inputs);
                y
            } else {
                waiting.as_mut_ptr()
            };
            for panel in 0..panels {
                let numbers = Numbers::<V, ROWS>::of(x.add(panel * PANEL * ROWS), PANEL);
                add_panel(job, sums, places, job.w.add(panel * job.w_stride), PANEL, &numbers);
            }
            if rest > 0 {
                let numbers = Numbers::<V, ROWS>::of(x.add(panels * PANEL * ROWS), rest);
                add_panel(job, sums, places, job.w.add(panels * job.w_stride), rest, &numbers);
            }
            if in_place {
                add_bias(job, y, 0, job.inputs);
                job.finish(y, job.inputs);
                return;
            }
            for first in (0..job.inputs).step_by(PANEL) {
                put::<ROWS>(job, sums.add(first), places, y, first, PANEL.min(job.inputs - first));
            }
        }
    }

    /// Floats between a prefetch of W and its use: the hardware prefetcher alone is a little late.
    const AHEAD_FLOATS: usize = 512;

    /// Continues all chains over the outputs of a panel. `w` holds `width` floats for each input.
    #[inline(always)]
    unsafe fn add_panel<V: Vector, const ROWS: usize>(
        job: &Job,
        sums: *mut f32,
        places: usize,
        w: *const f32,
        width: usize,
        numbers: &Numbers<V, ROWS>,
    ) {
        let whole = job.inputs / V::LANES * V::LANES;
        // SAFETY: guaranteed by the caller.
        unsafe {
            // The last block of inputs overlaps the last whole block. Both start from the same sums and end with the
            // same sums.
            let mut last = [V::zero(); ROWS];
            let first_of_last = job.inputs.saturating_sub(V::LANES);
            if whole < job.inputs {
                last = block(job, sums, places, w, width, numbers, first_of_last);
            }
            if width == PANEL {
                let (mut sums, mut w) = (sums, w);
                for _ in 0..whole / V::LANES {
                    for line in 0..V::LANES {
                        V::prefetch(w.wrapping_add(AHEAD_FLOATS + line * PANEL));
                    }
                    store(chains(sums, places, w, PANEL, numbers), sums, places);
                    (sums, w) = (sums.add(V::LANES), w.add(V::LANES * PANEL));
                }
            } else {
                for first in (0..whole).step_by(V::LANES) {
                    store(block(job, sums, places, w, width, numbers, first), sums.add(first), places);
                }
            }
            if whole < job.inputs {
                store(last, sums.add(first_of_last), places);
            }
        }
    }

    /// The sums of [`Vector::LANES`] inputs from `first` on, after adding the outputs of a panel.
    #[inline(always)]
    unsafe fn block<V: Vector, const ROWS: usize>(
        job: &Job,
        sums: *const f32,
        places: usize,
        w: *const f32,
        width: usize,
        numbers: &Numbers<V, ROWS>,
        first: usize,
    ) -> [V; ROWS] {
        // SAFETY: guaranteed by the caller.
        unsafe {
            let (sums, lines) = (sums.add(first), w.add(first * width));
            // Floats are read four at a time: up to three past the end of a narrow line.
            let read = (first + V::LANES) * width + if width < PANEL { 3 } else { 0 };
            if read <= job.inputs * width {
                return chains(sums, places, lines, width, numbers);
            }
            let square = square::<V>(lines, V::LANES.min(job.inputs - first), width);
            chains(sums, places, square.as_ptr(), PANEL, numbers)
        }
    }

    /// The numbers of X that belong to the outputs of a panel.
    struct Numbers<V, const ROWS: usize> {
        x: *const f32,
        steps: usize,
        /// Filled for a single row only: then they fit into registers.
        splat: [V; PANEL],
    }

    impl<V: Vector, const ROWS: usize> Numbers<V, ROWS> {
        #[inline(always)]
        unsafe fn of(x: *const f32, steps: usize) -> Self {
            // SAFETY: guaranteed by the caller.
            unsafe {
                let mut splat = [V::zero(); PANEL];
                if ROWS == 1 {
                    for (step, splat) in splat.iter_mut().enumerate().take(steps) {
                        *splat = V::splat(*x.add(step));
                    }
                }
                Self { x, steps, splat }
            }
        }

        #[inline(always)]
        unsafe fn at(&self, step: usize, row: usize) -> V {
            // SAFETY: guaranteed by the caller.
            if ROWS == 1 { self.splat[step] } else { unsafe { V::splat(*self.x.add(step * ROWS + row)) } }
        }
    }

    /// The sums of [`Vector::LANES`] inputs, after adding the outputs of a panel. The floats of input i start at `w +
    /// line * i`.
    #[inline(always)]
    unsafe fn chains<V: Vector, const ROWS: usize>(
        sums: *const f32,
        places: usize,
        w: *const f32,
        line: usize,
        numbers: &Numbers<V, ROWS>,
    ) -> [V; ROWS] {
        // SAFETY: guaranteed by the caller.
        unsafe {
            let mut chains = [V::zero(); ROWS];
            for (row, chain) in chains.iter_mut().enumerate() {
                *chain = V::load(sums.add(row * places));
            }
            for first in (0..PANEL).step_by(4).take_while(|first| *first < numbers.steps) {
                let weights = V::turned(w.add(first), line);
                for (k, weights) in weights.into_iter().enumerate() {
                    if first + k < numbers.steps {
                        for (row, chain) in chains.iter_mut().enumerate() {
                            *chain = weights.multiply_add(numbers.at(first + k, row), *chain);
                        }
                    }
                }
            }
            chains
        }
    }

    #[inline(always)]
    unsafe fn store<V: Vector, const ROWS: usize>(chains: [V; ROWS], sums: *mut f32, places: usize) {
        for (row, chain) in chains.into_iter().enumerate() {
            // SAFETY: guaranteed by the caller.
            unsafe { chain.store(sums.add(row * places)) };
        }
    }

    /// Copies `lines` lines of `width` floats to lines of 16 floats; the rest is zero.
    #[inline(always)]
    unsafe fn square<V: Vector>(from: *const f32, lines: usize, width: usize) -> [f32; PANEL * PANEL] {
        let mut square = [0.0; PANEL * PANEL];
        for line in 0..lines {
            for first in (0..width).step_by(V::LANES) {
                // SAFETY: guaranteed by the caller.
                unsafe {
                    let part = V::load_first(from.add(line * width + first), V::LANES.min(width - first));
                    part.store(square.as_mut_ptr().add(line * PANEL + first));
                }
            }
        }
        square
    }

    /// Adds the bias of `count` columns of Y, from `first` on, to the sums of a row.
    #[inline(always)]
    unsafe fn add_bias(job: &Job, sums: *mut f32, first: usize, count: usize) {
        if !job.bias.is_null() {
            // SAFETY: guaranteed by the caller; a bias has one number per column of Y.
            let (sums, bias) = unsafe {
                (std::slice::from_raw_parts_mut(sums, count), std::slice::from_raw_parts(job.bias.add(first), count))
            };
            sums.iter_mut().zip(bias).for_each(|(sum, bias)| *sum += bias);
        }
    }

    /// Adds the bias, writes `count` columns of Y from `first` on, and applies the activation. Row r of the sums is at
    /// `sums + r * step`, with room for 16 floats.
    #[inline(always)]
    unsafe fn put<const ROWS: usize>(job: &Job, sums: *mut f32, step: usize, y: *mut f32, first: usize, count: usize) {
        // SAFETY: guaranteed by the caller.
        unsafe {
            let y = y.add(first * ROWS);
            for row in 0..ROWS {
                let sums = sums.add(row * step);
                add_bias(job, sums, first, count);
                for column in 0..count {
                    *y.add(column * ROWS + row) = *sums.add(column);
                }
            }
            job.finish(y, ROWS * count);
        }
    }
}
