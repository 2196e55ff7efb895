//! AVX2 with FMA: 16 floats take two of the sixteen registers.

use std::arch::x86_64::{
    __m256, __m256i, _MM_HINT_T0, _mm_loadu_ps, _mm_prefetch, _mm256_add_ps, _mm256_castpd_ps, _mm256_castps_pd,
    _mm256_castps128_ps256, _mm256_cmpgt_epi32, _mm256_fmadd_ps, _mm256_insertf128_ps, _mm256_loadu_ps,
    _mm256_maskload_ps, _mm256_maskstore_ps, _mm256_set1_epi32, _mm256_set1_ps, _mm256_setr_epi32, _mm256_setzero_ps,
    _mm256_storeu_ps, _mm256_unpackhi_pd, _mm256_unpackhi_ps, _mm256_unpacklo_pd, _mm256_unpacklo_ps,
};

use super::vector::Vector;

/// Eight floats.
#[derive(Clone, Copy)]
pub(super) struct Eight(__m256);

/// Sixteen floats.
#[derive(Clone, Copy)]
pub(super) struct Sixteen(Eight, Eight);

/// A mask with all bits set in the first `count` lanes.
#[inline(always)]
unsafe fn mask(count: usize) -> __m256i {
    // SAFETY: the caller guarantees AVX2.
    unsafe {
        let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        _mm256_cmpgt_epi32(_mm256_set1_epi32(i32::from(count.min(8) as u8)), lanes)
    }
}

/// See [`Vector::turned`]. The loads do a part of the transposition: lines j and j + 4 go to the halves of one
/// register.
#[inline(always)]
pub(super) unsafe fn turned(from: *const f32, step: usize) -> [__m256; 4] {
    // SAFETY: guaranteed by the caller.
    unsafe {
        let line = |j: usize| {
            let low = _mm256_castps128_ps256(_mm_loadu_ps(from.add(j * step)));
            _mm256_insertf128_ps::<1>(low, _mm_loadu_ps(from.add((j + 4) * step)))
        };
        let (line0, line1, line2, line3) = (line(0), line(1), line(2), line(3));
        let low01 = _mm256_castps_pd(_mm256_unpacklo_ps(line0, line1));
        let high01 = _mm256_castps_pd(_mm256_unpackhi_ps(line0, line1));
        let low23 = _mm256_castps_pd(_mm256_unpacklo_ps(line2, line3));
        let high23 = _mm256_castps_pd(_mm256_unpackhi_ps(line2, line3));
        [
            _mm256_castpd_ps(_mm256_unpacklo_pd(low01, low23)),
            _mm256_castpd_ps(_mm256_unpackhi_pd(low01, low23)),
            _mm256_castpd_ps(_mm256_unpacklo_pd(high01, high23)),
            _mm256_castpd_ps(_mm256_unpackhi_pd(high01, high23)),
        ]
    }
}

// SAFETY, of every block below: the caller has checked for AVX2 and FMA, and guarantees that its pointers are valid.
impl Vector for Eight {
    const LANES: usize = 8;
    const TILE: usize = 8;
    const ABREAST: usize = 1;
    const FEW_ROWS_MAX: usize = 0;
    const FEW_SUMS_MAX: usize = 8;
    const TURNED_ROWS_MAX: usize = 10;
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
        unsafe { Self(_mm256_maskload_ps(from, mask(count))) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { _mm256_storeu_ps(to, self.0) }
    }

    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, count: usize) {
        unsafe { _mm256_maskstore_ps(to, mask(count), self.0) }
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
        unsafe { turned(from, step).map(Self) }
    }
}

impl Vector for Sixteen {
    const LANES: usize = 16;
    const TILE: usize = 6;
    const ABREAST: usize = 1;
    const FEW_ROWS_MAX: usize = 6;
    const FEW_SUMS_MAX: usize = 6;
    const TURNED_ROWS_MAX: usize = 0;
    type Half = Eight;

    #[inline(always)]
    unsafe fn zero() -> Self {
        unsafe { Self(Eight::zero(), Eight::zero()) }
    }

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        unsafe {
            let eight = Eight::splat(value);
            Self(eight, eight)
        }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        unsafe { Self(Eight::load(from), Eight::load(from.add(8))) }
    }

    #[inline(always)]
    unsafe fn load_first(from: *const f32, count: usize) -> Self {
        // An empty mask reads nothing, whatever the pointer.
        unsafe {
            Self(Eight::load_first(from, count), Eight::load_first(from.wrapping_add(8), count.saturating_sub(8)))
        }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe {
            self.0.store(to);
            self.1.store(to.add(8));
        }
    }

    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, count: usize) {
        unsafe {
            self.0.store_first(to, count);
            self.1.store_first(to.wrapping_add(8), count.saturating_sub(8));
        }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        unsafe { Self(self.0.add(other.0), self.1.add(other.1)) }
    }

    #[inline(always)]
    unsafe fn multiply_add(self, factor: Self, sum: Self) -> Self {
        unsafe { Self(self.0.multiply_add(factor.0, sum.0), self.1.multiply_add(factor.1, sum.1)) }
    }

    #[inline(always)]
    unsafe fn prefetch(at: *const f32) {
        unsafe { Eight::prefetch(at) }
    }

    #[inline(always)]
    unsafe fn turned(from: *const f32, step: usize) -> [Self; 4] {
        unsafe {
            let (low, high) = (Eight::turned(from, step), Eight::turned(from.add(8 * step), step));
            [Self(low[0], high[0]), Self(low[1], high[1]), Self(low[2], high[2]), Self(low[3], high[3])]
        }
    }
}
