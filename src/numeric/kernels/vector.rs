//! What a kernel needs of a machine: vectors of floats and a few operations on them.

/// Some floats, side by side. The kernels are written once over this trait; an implementation is one way to run them.
///
/// Every operation is exact or rounded once, as IEEE 754 says, so that all implementations give the same bits.
///
/// # Safety
/// Of all functions: the machine has the instructions of the implementation ([`super::Isa::is_available`]), and the
/// floats that a pointer reaches are there.
pub(super) trait Vector: Copy {
    /// How many.
    const LANES: usize;
    /// Outputs that a tile of many rows keeps in registers: 16, 8 or 6.
    const TILE: usize;
    /// Vectors of rows that share each number of W: 1 or 2. Where the machine multiplies as fast as it loads, two.
    const ABREAST: usize;
    /// Most rows of the kernel for few rows.
    const FEW_ROWS_MAX: usize;
    /// Registers that the kernel for few rows may fill with sums.
    const FEW_SUMS_MAX: usize;
    /// Most rows for which turning W in registers is the faster way to decode; beyond, those of `Half` are looked at.
    const TURNED_ROWS_MAX: usize;
    /// A vector of half the lanes.
    type Half: Vector;

    unsafe fn zero() -> Self;
    unsafe fn splat(value: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    /// The first `count` floats, and zeros.
    unsafe fn load_first(from: *const f32, count: usize) -> Self;
    unsafe fn store(self, to: *mut f32);
    /// The first `count` floats.
    unsafe fn store_first(self, to: *mut f32, count: usize);
    unsafe fn add(self, other: Self) -> Self;
    /// `self * factor + sum`, rounded once.
    unsafe fn multiply_add(self, factor: Self, sum: Self) -> Self;
    /// Asks for the cache line of `at`, which need not be valid.
    unsafe fn prefetch(at: *const f32);
    /// Four floats of as many lines as there are lanes, line j at `from + j * step`, turned: lane j of vector k is float k
    /// of line j.
    unsafe fn turned(from: *const f32, step: usize) -> [Self; 4];
}
