//! The reference that the other instruction sets are tested against: plain floats, correct on every machine.

use std::array::from_fn;

use super::vector::Vector;

/// `N` plain floats. Without FMA in the target, `mul_add` is a function call per float: correct, but slow.
#[derive(Clone, Copy)]
pub(super) struct Floats<const N: usize>([f32; N]);

impl<const N: usize> Vector for Floats<N> {
    const LANES: usize = N;
    const TILE: usize = 8;
    const ABREAST: usize = 1;
    const FEW_ROWS_MAX: usize = 4;
    const FEW_SUMS_MAX: usize = 4;
    const TURNED_ROWS_MAX: usize = 3;
    type Half = Floats<8>;

    #[inline(always)]
    unsafe fn zero() -> Self {
        Self([0.0; N])
    }

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Self([value; N])
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: guaranteed by the caller.
        Self(from_fn(|lane| unsafe { *from.add(lane) }))
    }

    #[inline(always)]
    unsafe fn load_first(from: *const f32, count: usize) -> Self {
        // SAFETY: guaranteed by the caller.
        Self(from_fn(|lane| if lane < count { unsafe { *from.add(lane) } } else { 0.0 }))
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: guaranteed by the caller.
        unsafe { self.store_first(to, N) }
    }

    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, count: usize) {
        for (lane, value) in self.0.into_iter().enumerate().take(count) {
            // SAFETY: guaranteed by the caller.
            unsafe { *to.add(lane) = value }
        }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        Self(from_fn(|lane| self.0[lane] + other.0[lane]))
    }

    #[inline(always)]
    unsafe fn multiply_add(self, factor: Self, sum: Self) -> Self {
        Self(from_fn(|lane| self.0[lane].mul_add(factor.0[lane], sum.0[lane])))
    }

    #[inline(always)]
    unsafe fn prefetch(_at: *const f32) {}

    #[inline(always)]
    unsafe fn turned(from: *const f32, step: usize) -> [Self; 4] {
        // SAFETY: guaranteed by the caller.
        from_fn(|k| Self(from_fn(|lane| unsafe { *from.add(lane * step + k) })))
    }
}
