//! AVX-512: 16 floats take one of the thirty-two registers, and masks are free.

use std::arch::x86_64::{
    __m256, __m512, __mmask8, __mmask16, _MM_HINT_T0, _mm_loadu_ps, _mm_prefetch, _mm256_add_ps, _mm256_castps_pd,
    _mm256_castps128_ps256, _mm256_fmadd_ps, _mm256_insertf128_ps, _mm256_loadu_ps, _mm256_mask_storeu_ps,
    _mm256_maskz_loadu_ps, _mm256_set1_ps, _mm256_setzero_ps, _mm256_storeu_ps, _mm512_add_ps, _mm512_castpd_ps,
    _mm512_castpd256_pd512, _mm512_castps_pd, _mm512_fmadd_ps, _mm512_insertf64x4, _mm512_loadu_ps,
    _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps,
    _mm512_unpackhi_pd, _mm512_unpackhi_ps, _mm512_unpacklo_pd, _mm512_unpacklo_ps,
};

use super::avx2;
use super::vector::Vector;

/// Eight floats, with masks and thirty-two registers.
#[derive(Clone, Copy)]
pub(super) struct Eight(__m256);

/// Sixteen floats.
#[derive(Clone, Copy)]
pub(super) struct Sixteen(__m512);

// SAFETY, of every block below: the caller has checked for AVX-512 F and VL, and guarantees that its pointers are
// valid.
impl Vector for Eight {
    const LANES: usize = 8;
    const TILE: usize = 16;
    const ABREAST: usize = 1;
    const FEW_ROWS_MAX: usize = 0;
    const FEW_SUMS_MAX: usize = 16;
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

    #[inline(always)]
    unsafe fn turned(from: *const f32, step: usize) -> [Self; 4] {
        unsafe { avx2::turned(from, step).map(Self) }
    }
}

/// A mask of the first `count` lanes, at most 16.
#[inline(always)]
fn mask(count: usize) -> __mmask16 {
    ((1_u32 << count.min(16)) - 1) as __mmask16
}

impl Vector for Sixteen {
    const LANES: usize = 16;
    const TILE: usize = 16;
    const ABREAST: usize = 2;
    const FEW_ROWS_MAX: usize = 15;
    const FEW_SUMS_MAX: usize = 24;
    const TURNED_ROWS_MAX: usize = 11;
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

    #[inline(always)]
    unsafe fn turned(from: *const f32, step: usize) -> [Self; 4] {
        unsafe {
            // Lines j, j + 4, j + 8 and j + 12 go to the quarters of one register.
            let lines = |j: usize| {
                let pair = |j: usize| {
                    let low = _mm256_castps128_ps256(_mm_loadu_ps(from.add(j * step)));
                    _mm256_insertf128_ps::<1>(low, _mm_loadu_ps(from.add((j + 4) * step)))
                };
                let (low, high) = (_mm256_castps_pd(pair(j)), _mm256_castps_pd(pair(j + 8)));
                _mm512_castpd_ps(_mm512_insertf64x4::<1>(_mm512_castpd256_pd512(low), high))
            };
            let (line0, line1, line2, line3) = (lines(0), lines(1), lines(2), lines(3));
            let low01 = _mm512_castps_pd(_mm512_unpacklo_ps(line0, line1));
            let high01 = _mm512_castps_pd(_mm512_unpackhi_ps(line0, line1));
            let low23 = _mm512_castps_pd(_mm512_unpacklo_ps(line2, line3));
            let high23 = _mm512_castps_pd(_mm512_unpackhi_ps(line2, line3));
            [
                Self(_mm512_castpd_ps(_mm512_unpacklo_pd(low01, low23))),
                Self(_mm512_castpd_ps(_mm512_unpackhi_pd(low01, low23))),
                Self(_mm512_castpd_ps(_mm512_unpacklo_pd(high01, high23))),
                Self(_mm512_castpd_ps(_mm512_unpackhi_pd(high01, high23))),
            ]
        }
    }
}
