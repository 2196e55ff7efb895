//! Kernels for fewer rows than lanes. Here the numbers of W lie along the lanes, and W is read once, sequentially.

use super::job::Job;
use crate::numeric::kernels::PANEL;
use crate::numeric::kernels::vector::Vector;

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
