//! Seeded random numbers for the choices of a test: xorshift64* (Vigna 2016).

use halfhitch::numeric::rng::GOLDEN;

#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(GOLDEN) | 1)
    }

    fn bits(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// Uniform in `0..end`, at most 2^31.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        (self.bits() >> 33) % end
    }

    /// Uniform in [0, 1), 24 bits.
    pub(crate) fn uniform(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u64 << 24) as f32
    }
}
