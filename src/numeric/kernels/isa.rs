//! The instruction set that the kernels use.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU8, Ordering};

/// An instruction set with kernels of its own. All give the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// AVX-512 F, VL, DQ and BW.
    Avx512,
    /// AVX2 and FMA.
    Avx2,
    /// Any machine: plain floats and `f32::mul_add`.
    Portable,
}

/// Why an instruction set cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IsaError {
    /// The name is unknown.
    #[error("instruction set is `{0}`, expected avx512, avx2 or portable")]
    Unknown(String),
    /// The machine does not support it.
    #[error("this machine has no {0}, expected one of: {available}", available = available())]
    Unavailable(Isa),
}

impl Isa {
    /// All instruction sets, the fastest first.
    pub const ALL: [Self; 3] = [Self::Avx512, Self::Avx2, Self::Portable];

    /// Whether this machine supports the instruction set.
    pub fn is_available(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512bw")
                    && Self::Avx2.is_available()
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(not(target_arch = "x86_64"))]
            Self::Avx512 | Self::Avx2 => false,
            Self::Portable => true,
        }
    }

    /// The instruction sets that this machine supports, the fastest first.
    pub fn available() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|isa| isa.is_available())
    }
}

fn available() -> String {
    Isa::available().map(|isa| isa.to_string()).collect::<Vec<_>>().join(", ")
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Avx512 => "avx512",
            Self::Avx2 => "avx2",
            Self::Portable => "portable",
        })
    }
}

impl FromStr for Isa {
    type Err = IsaError;

    fn from_str(name: &str) -> Result<Self, IsaError> {
        Self::ALL.into_iter().find(|isa| isa.to_string() == name).ok_or_else(|| IsaError::Unknown(name.to_owned()))
    }
}

/// Index into [`Isa::ALL`]; [`UNKNOWN`] until the first use.
static CHOSEN: AtomicU8 = AtomicU8::new(UNKNOWN);
const UNKNOWN: u8 = u8::MAX;

/// Chooses the instruction set of all products. `None` chooses the fastest that the machine supports, which is also the
/// default without a call. The program calls it once, at start; benchmarks call it again.
///
/// # Errors
/// If the machine does not support it.
pub fn init(isa: Option<Isa>) -> Result<Isa, IsaError> {
    let isa = isa.unwrap_or_else(fastest);
    if !isa.is_available() {
        return Err(IsaError::Unavailable(isa));
    }
    let index = Isa::ALL.iter().position(|other| *other == isa).unwrap_or_default();
    CHOSEN.store(index as u8, Ordering::Relaxed);
    Ok(isa)
}

/// The instruction set in use. The machine always supports it.
pub fn isa() -> Isa {
    #[cfg(test)]
    if let Some(isa) = FORCED.get() {
        return isa;
    }
    Isa::ALL.get(usize::from(CHOSEN.load(Ordering::Relaxed))).copied().unwrap_or_else(|| {
        // Racing threads get the same result.
        let isa = fastest();
        init(Some(isa)).unwrap_or(Isa::Portable)
    })
}

fn fastest() -> Isa {
    Isa::available().next().unwrap_or(Isa::Portable)
}

#[cfg(test)]
std::thread_local! {
    static FORCED: std::cell::Cell<Option<Isa>> = const { std::cell::Cell::new(None) };
}

/// Runs `test` with the instruction set `isa` on this thread.
#[cfg(test)]
pub(crate) fn on<R>(isa: Isa, test: impl FnOnce() -> R) -> R {
    assert!(isa.is_available(), "{isa}");
    let before = FORCED.replace(Some(isa));
    let result = test();
    FORCED.set(before);
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for isa in Isa::ALL {
            assert_eq!(isa.to_string().parse(), Ok(isa));
        }
        let error = "sse9".parse::<Isa>().expect_err("unknown");
        assert_eq!(error.to_string(), "instruction set is `sse9`, expected avx512, avx2 or portable");
    }

    #[test]
    fn an_instruction_set_is_always_available() {
        assert!(Isa::Portable.is_available());
        assert!(isa().is_available());
        assert!(IsaError::Unavailable(Isa::Avx512).to_string().ends_with("portable"));
    }
}
