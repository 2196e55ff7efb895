//! The inner loops, one version per instruction set, and the only `unsafe` code of the program.
//!
//! A kernel is written once, over `vector::Vector`. An instruction set is an implementation of that trait plus the
//! functions below, which compile the kernels for it. All give the same bits.
#![allow(unsafe_code)]
// The kernels need inlining: a function that is not inlined is compiled without the vector instructions.
#![allow(clippy::inline_always)]

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub mod ceiling;
mod cooperative_yield;
#[cfg(all(test, unix))]
mod guarded;
mod isa;
mod outer;
mod panel;
mod portable;
mod product;
#[cfg(test)]
mod tests;
mod tiles;
mod vector;

#[cfg(test)]
pub(crate) use isa::on;
pub use isa::{Isa, IsaError, init, isa};
pub(super) use outer::Outer;
pub use panel::PANEL;
pub(super) use product::{Direction, Product};

use super::activation::Activation;

/// Runs `product` with the instruction set that [`init`] chose.
pub(super) fn product(product: &mut Product<'_>) {
    product.check();
    // SAFETY: `check` has verified the product, and the machine supports what `isa` returns.
    match isa() {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { x86::product_avx512(product) },
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { x86::product_avx2(product) },
        _ => unsafe { product::run::<portable::Floats<16>>(product, activate_portable) },
    }
}

/// Runs `outer` with the instruction set that [`init`] chose.
pub(super) fn outer(outer: &mut Outer<'_>) {
    outer.check();
    // SAFETY: as above.
    match isa() {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { x86::outer_avx512(outer) },
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { x86::outer_avx2(outer) },
        _ => unsafe { outer::run::<portable::Floats<16>>(outer) },
    }
}

/// `values = f(values)`, with the instruction set that [`init`] chose.
pub(super) fn activate(activation: Activation, values: &mut [f32]) {
    match isa() {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => x86::activate_avx512(activation, values),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => x86::activate_avx2(activation, values),
        _ => activate_portable(activation, values),
    }
}

/// Runs `work`, compiled for the instruction set that [`init`] chose, so that loops over floats are vectorized. The
/// bits are the same everywhere: no operation is fused or reordered.
///
/// Only code that is inlined into `work` is compiled this way. Keep `work` short, and its callees small or
/// `#[inline(always)]`.
#[inline]
pub fn vectorized<T>(work: impl FnOnce() -> T) -> T {
    match isa() {
        // SAFETY: the machine supports what `isa` returns.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { x86::vectorized_avx512(work) },
        // SAFETY: the machine supports what `isa` returns.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { x86::vectorized_avx2(work) },
        _ => work(),
    }
}

fn activate_portable(activation: Activation, values: &mut [f32]) {
    activation.apply(values);
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Activation, Outer, Product, avx2, avx512, outer, product};

    #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")]
    pub(super) unsafe fn product_avx512(job: &mut Product<'_>) {
        // SAFETY: guaranteed by the caller.
        unsafe { product::run::<avx512::Sixteen>(job, activate_avx512) }
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn product_avx2(job: &mut Product<'_>) {
        // SAFETY: guaranteed by the caller.
        unsafe { product::run::<avx2::Sixteen>(job, activate_avx2) }
    }

    #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")]
    pub(super) unsafe fn outer_avx512(job: &mut Outer<'_>) {
        // SAFETY: guaranteed by the caller.
        unsafe { outer::run::<avx512::Sixteen>(job) }
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn outer_avx2(job: &mut Outer<'_>) {
        // SAFETY: guaranteed by the caller.
        unsafe { outer::run::<avx2::Sixteen>(job) }
    }

    #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")]
    pub(super) unsafe fn vectorized_avx512<T>(work: impl FnOnce() -> T) -> T {
        work()
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn vectorized_avx2<T>(work: impl FnOnce() -> T) -> T {
        work()
    }

    pub(super) fn activate_avx512(activation: Activation, values: &mut [f32]) {
        #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")]
        fn compiled(activation: Activation, values: &mut [f32]) {
            activation.apply(values);
        }
        // SAFETY: called only where `isa` has found the instructions.
        unsafe { compiled(activation, values) }
    }

    pub(super) fn activate_avx2(activation: Activation, values: &mut [f32]) {
        #[target_feature(enable = "avx2,fma")]
        fn compiled(activation: Activation, values: &mut [f32]) {
            activation.apply(values);
        }
        // SAFETY: called only where `isa` has found the instructions.
        unsafe { compiled(activation, values) }
    }
}
