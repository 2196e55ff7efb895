//! The operations that a kernel needs from an instruction set: vectors of floats and a few operations on them.

/// A vector of floats. The kernels are written once over this trait; each instruction set implements it.
///
/// Every operation is exact or rounded once, as IEEE 754 defines, so that all implementations give the same bits.
///
/// # Safety
/// Of all functions: the machine supports the instructions of the implementation ([`super::Isa::is_available`]), and
/// all floats that a pointer reaches are valid.
pub(super) trait Vector: Copy {
    /// Number of floats.
    const LANES: usize;
    /// Columns of Y that a tile of many rows keeps in registers: 16, 8 or 6.
    const TILE: usize;
    /// Vectors of rows that share each load of a number of W: 1 or 2. Two, where the machine multiplies as fast as it
    /// loads.
    const ABREAST: usize;
    /// Largest number of rows for the kernel for few rows.
    const FEW_ROWS_MAX: usize;
    /// Registers that the kernel for few rows may use for sums.
    const FEW_SUMS_MAX: usize;
    /// Largest number of rows for which decoding is faster with W transposed in registers. Above it, the limit of
    /// `Half` applies.
    const TURNED_ROWS_MAX: usize;
    /// A vector with half the lanes.
    type Half: Vector;

    unsafe fn zero() -> Self;
    unsafe fn splat(value: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    /// The first `count` floats; zeros in the other lanes.
    unsafe fn load_first(from: *const f32, count: usize) -> Self;
    unsafe fn store(self, to: *mut f32);
    /// Stores the first `count` floats.
    unsafe fn store_first(self, to: *mut f32, count: usize);
    unsafe fn add(self, other: Self) -> Self;
    /// `self * factor + sum`, rounded once.
    unsafe fn multiply_add(self, factor: Self, sum: Self) -> Self;
    /// Prefetches the cache line of `at`, which need not be valid.
    unsafe fn prefetch(at: *const f32);
    /// Loads four floats from each of [`Vector::LANES`] lines, transposed. Line j starts at `from + j * step`; lane j
    /// of vector k is float k of line j.
    unsafe fn turned(from: *const f32, step: usize) -> [Self; 4];
}
