//! Upper bounds of the machine for arithmetic and memory reads. The benchmarks draw them as the roofline.

use super::vector::Vector;
use super::{Isa, portable};

/// Independent chains: enough to hide the latency of an FMA, few enough to fit the registers.
const CHAINS: usize = 12;
/// Floats of the widest vector.
const LANES: usize = 16;

/// Runs `steps` rounds of FMAs in registers and nothing else. Returns the sum and the number of floating-point
/// operations (an FMA counts as two).
///
/// # Panics
/// If the machine does not support `isa`.
pub fn multiply_adds(isa: Isa, steps: usize) -> (f32, f64) {
    assert!(isa.is_available(), "{isa}");
    // SAFETY: the assertion above has checked the instruction set.
    let sum = match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { x86::multiply_adds_avx512(steps) },
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { x86::multiply_adds_avx2(steps) },
        _ => unsafe { multiply_adds_with::<portable::Floats<LANES>, CHAINS>(steps) },
    };
    let chains = if isa == Isa::Avx2 { CHAINS / 2 } else { CHAINS };
    (sum, 2.0 * (steps * chains * LANES) as f64)
}

/// Reads all of `values` once, in vectors, and sums them, to measure memory bandwidth.
///
/// # Panics
/// If the machine does not support `isa`.
pub fn read(isa: Isa, values: &[f32]) -> f32 {
    assert!(isa.is_available(), "{isa}");
    // SAFETY: the assertion above has checked the instruction set.
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { x86::read_avx512(values) },
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { x86::read_avx2(values) },
        _ => unsafe { read_with::<portable::Floats<LANES>>(values) },
    }
}

#[inline(always)]
unsafe fn multiply_adds_with<V: Vector, const N: usize>(steps: usize) -> f32 {
    // SAFETY: guaranteed by the caller.
    unsafe {
        let (factor, other) = (V::splat(std::hint::black_box(0.999)), V::splat(std::hint::black_box(0.001)));
        let mut sums = [V::splat(1.0); N];
        for _ in 0..steps {
            for sum in &mut sums {
                *sum = sum.multiply_add(factor, other);
            }
        }
        total(sums)
    }
}

#[inline(always)]
unsafe fn read_with<V: Vector>(values: &[f32]) -> f32 {
    const SIDE_BY_SIDE: usize = 4;
    // SAFETY: guaranteed by the caller; a chunk is as long as its vectors.
    unsafe {
        let mut sums = [V::zero(); SIDE_BY_SIDE];
        for chunk in values.chunks_exact(SIDE_BY_SIDE * V::LANES) {
            for (i, sum) in sums.iter_mut().enumerate() {
                *sum = sum.add(V::load(chunk.as_ptr().add(i * V::LANES)));
            }
        }
        total(sums)
    }
}

#[inline(always)]
unsafe fn total<V: Vector, const N: usize>(sums: [V; N]) -> f32 {
    let mut all = [0.0; LANES];
    let mut total = 0.0;
    for sum in sums {
        // SAFETY: guaranteed by the caller; `all` is as long as the widest vector.
        unsafe { sum.store(all.as_mut_ptr()) }
        total += all.iter().sum::<f32>();
    }
    total
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::super::{avx2, avx512};
    use super::{CHAINS, multiply_adds_with, read_with};

    #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")]
    pub(super) unsafe fn multiply_adds_avx512(steps: usize) -> f32 {
        // SAFETY: guaranteed by the caller.
        unsafe { multiply_adds_with::<avx512::Sixteen, CHAINS>(steps) }
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn multiply_adds_avx2(steps: usize) -> f32 {
        // SAFETY: guaranteed by the caller.
        unsafe { multiply_adds_with::<avx2::Sixteen, { CHAINS / 2 }>(steps) }
    }

    #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")]
    pub(super) unsafe fn read_avx512(values: &[f32]) -> f32 {
        // SAFETY: guaranteed by the caller.
        unsafe { read_with::<avx512::Sixteen>(values) }
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn read_avx2(values: &[f32]) -> f32 {
        // SAFETY: guaranteed by the caller.
        unsafe { read_with::<avx2::Sixteen>(values) }
    }
}
