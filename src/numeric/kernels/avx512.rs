//! AVX-512: 16 floats are one register of thirty-two, and a mask costs nothing.

use std::arch::x86_64::{
    __m256, __m512, __mmask8, __mmask16, _MM_HINT_T0, _mm_loadu_ps, _mm_prefetch, _mm256_add_ps, _mm256_fmadd_ps,
    _mm256_loadu_ps, _mm256_mask_storeu_ps, _mm256_maskz_loadu_ps, _mm256_set1_ps, _mm256_setzero_ps, _mm256_storeu_ps,
    _mm512_add_ps, _mm512_broadcast_f32x4, _mm512_castps_pd, _mm512_castpd_ps, _mm512_fmadd_ps, _mm512_loadu_ps,
    _mm512_mask_broadcast_f32x4, _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps,
    _mm512_storeu_ps, _mm512_unpackhi_pd, _mm512_unpackhi_ps, _mm512_unpacklo_pd, _mm512_unpacklo_ps,
};

use super::PANEL;
use super::vector::Vector;

/// Eight floats, with masks and thirty-two registers.
#[derive(Clone, Copy)]
pub(super) struct Eight(__m256);

/// Sixteen floats.
#[derive(Clone, Copy)]
pub(super) struct Sixteen(__m512);

// SAFETY, of every block below: the caller has checked that AVX-512 F and VL are there, and vouches for its pointers.
impl Vector for Eight {
    const LANES: usize = 8;
    const TILE: usize = 16;
    const FEW_ROWS_MAX: usize = 0;
    const FEW_SUMS_MAX: usize = 0;
    const TURNED_ROWS_MAX: usize = 0;
    type Half = Self;

    #[inline(always)]
    unsafe fn zero() -> Self {
        unsafe { Self(_mm256_setzero_ps()) }
    }

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        unsafe { Self(_mm256_set1_ps(value)) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        unsafe { Self(_mm256_loadu_ps(from)) }
    }

    #[inline(always)]
    unsafe fn load_first(from: *const f32, count: usize) -> Self {
        unsafe { Self(_mm256_maskz_loadu_ps(mask(count) as __mmask8, from)) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { _mm256_storeu_ps(to, self.0) }
    }

    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, count: usize) {
        unsafe { _mm256_mask_storeu_ps(to, mask(count) as __mmask8, self.0) }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        unsafe { Self(_mm256_add_ps(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn multiply_add(self, factor: Self, sum: Self) -> Self {
        unsafe { Self(_mm256_fmadd_ps(self.0, factor.0, sum.0)) }
    }

    #[inline(always)]
    unsafe fn prefetch(at: *const f32) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }

    unsafe fn turned(_from: *const f32) -> [Self; PANEL] {
        unreachable!("TURNED_ROWS_MAX is 0")
    }
}

/// The first `count` lanes, of at most 16.
#[inline(always)]
fn mask(count: usize) -> __mmask16 {
    ((1_u32 << count.min(16)) - 1) as __mmask16
}

impl Vector for Sixteen {
    const LANES: usize = 16;
    const TILE: usize = 16;
    const FEW_ROWS_MAX: usize = 15;
    const FEW_SUMS_MAX: usize = 28;
    const TURNED_ROWS_MAX: usize = 3;
    type Half = Eight;

    #[inline(always)]
    unsafe fn zero() -> Self {
        unsafe { Self(_mm512_setzero_ps()) }
    }

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        unsafe { Self(_mm512_set1_ps(value)) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        unsafe { Self(_mm512_loadu_ps(from)) }
    }

    #[inline(always)]
    unsafe fn load_first(from: *const f32, count: usize) -> Self {
        unsafe { Self(_mm512_maskz_loadu_ps(mask(count), from)) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { _mm512_storeu_ps(to, self.0) }
    }

    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, count: usize) {
        unsafe { _mm512_mask_storeu_ps(to, mask(count), self.0) }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        unsafe { Self(_mm512_add_ps(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn multiply_add(self, factor: Self, sum: Self) -> Self {
        unsafe { Self(_mm512_fmadd_ps(self.0, factor.0, sum.0)) }
    }

    #[inline(always)]
    unsafe fn prefetch(at: *const f32) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }

    /// The loads do half of the turning: a vector of line j, j + 4, j + 8, j + 12 (four floats of each) leaves squares of
    /// 4 x 4 within the quarters of the registers, so that 32 shuffles do what 64 would.
    #[inline(always)]
    unsafe fn turned(from: *const f32) -> [Self; PANEL] {
        let mut turned = [unsafe { Self::zero() }; PANEL];
        for quarter in 0..4 {
            let line = |j: usize| unsafe {
                let at = from.add(j * PANEL + 4 * quarter);
                let lines = _mm512_broadcast_f32x4(_mm_loadu_ps(at));
                let lines = _mm512_mask_broadcast_f32x4(lines, 0x00f0, _mm_loadu_ps(at.add(4 * PANEL)));
                let lines = _mm512_mask_broadcast_f32x4(lines, 0x0f00, _mm_loadu_ps(at.add(8 * PANEL)));
                _mm512_mask_broadcast_f32x4(lines, 0xf000, _mm_loadu_ps(at.add(12 * PANEL)))
            };
            let lines: [__m512; 4] = [line(0), line(1), line(2), line(3)];
            unsafe {
                let low01 = _mm512_castps_pd(_mm512_unpacklo_ps(lines[0], lines[1]));
                let high01 = _mm512_castps_pd(_mm512_unpackhi_ps(lines[0], lines[1]));
                let low23 = _mm512_castps_pd(_mm512_unpacklo_ps(lines[2], lines[3]));
                let high23 = _mm512_castps_pd(_mm512_unpackhi_ps(lines[2], lines[3]));
                turned[4 * quarter] = Self(_mm512_castpd_ps(_mm512_unpacklo_pd(low01, low23)));
                turned[4 * quarter + 1] = Self(_mm512_castpd_ps(_mm512_unpackhi_pd(low01, low23)));
                turned[4 * quarter + 2] = Self(_mm512_castpd_ps(_mm512_unpacklo_pd(high01, high23)));
                turned[4 * quarter + 3] = Self(_mm512_castpd_ps(_mm512_unpackhi_pd(high01, high23)));
            }
        }
        turned
    }
}
