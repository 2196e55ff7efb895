//! Random numbers as a pure function of (seed, epoch, row, use). There is no state to save and no order of calls to
//! keep.
//!
//! The four keys are hashed with the finalizer of `SplitMix64` (Steele, Lea and Flood, "Fast splittable pseudorandom
//! number generators", 2014). The hash is the initial state of a `SplitMix64` generator.

/// What random numbers are for. Streams of different uses are independent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Initial weights; `row` is the layer.
    Weights,
    /// Which rows are held out for validation.
    Split,
    /// The order of the rows in an epoch.
    Shuffle,
    /// Which rows the PCA baseline samples.
    Sample,
    /// The corruption of a row.
    Corruption,
    /// The unit after which the code of a row is truncated.
    NestedDropout,
}

/// A stream of random numbers.
#[derive(Clone, Debug)]
pub struct Stream {
    state: u64,
    buffers: Option<f64>,
}

/// The increment of `SplitMix64`: the odd number nearest to 2^64 divided by the golden ratio. Its multiples are far
/// apart modulo 2^64.
pub const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// The finalizer of `SplitMix64`, a hash. Distinct inputs have distinct outputs, and 0 has 0.
pub fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// The next 64 bits of `SplitMix64` with this state. The first state is the seed.
pub fn splitmix64(state: &mut u64) -> u64 {
    *state = state.wrapping_add(GOLDEN);
    mix(*state)
}

impl Stream {
    /// The stream of (seed, epoch, row, use).
    pub fn new(seed: u64, epoch: u64, row: u64, purpose: Use) -> Self {
        let mut state = mix(seed.wrapping_add(GOLDEN));
        for part in [epoch, row, purpose as u64] {
            state = mix(state ^ mix(part.wrapping_add(GOLDEN)).wrapping_add(GOLDEN));
        }
        Self { state, buffers: None }
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        splitmix64(&mut self.state)
    }

    /// Uniform in [0, 1), 53 bits.
    pub fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Standard normal (Marsaglia's polar method, 1964).
    pub fn normal(&mut self) -> f64 {
        if let Some(buffers) = self.buffers.take() {
            return buffers;
        }
        loop {
            let (u, v) = (2.0 * self.uniform() - 1.0, 2.0 * self.uniform() - 1.0);
            let s = u * u + v * v;
            if s > 0.0 && s < 1.0 {
                let factor = (-2.0 * libm::log(s) / s).sqrt();
                self.buffers = Some(v * factor);
                return u * factor;
            }
        }
    }

    /// Uniform in `0..bound` without bias (Lemire, "Fast random integer generation in an interval", 2019).
    ///
    /// # Panics
    /// If `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "an empty range has no number");
        loop {
            let wide = u128::from(self.bits()) * u128::from(bound);
            if (wide as u64) >= bound.wrapping_neg() % bound {
                return (wide >> 64) as u64;
            }
        }
    }

    /// Shuffles in place (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i as u64 + 1) as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_depends_on_each_of_its_keys() {
        let first = |seed, epoch, row, purpose| Stream::new(seed, epoch, row, purpose).bits();
        let one = first(1, 1, 1, Use::Shuffle);
        assert_eq!(one, first(1, 1, 1, Use::Shuffle));
        for other in [
            first(2, 1, 1, Use::Shuffle),
            first(1, 2, 1, Use::Shuffle),
            first(1, 1, 2, Use::Shuffle),
            first(1, 1, 1, Use::Split),
        ] {
            assert_ne!(one, other);
        }
    }

    #[test]
    fn normals_have_mean_0_and_variance_1() {
        let mut stream = Stream::new(3, 0, 0, Use::Weights);
        let values: Vec<f64> = (0..100_000).map(|_| stream.normal()).collect();
        let mean = values.iter().sum::<f64>() / 1e5;
        let variance = values.iter().map(|v| v * v).sum::<f64>() / 1e5;
        // Four standard errors.
        assert!(mean.abs() < 4.0 / 316.0, "{mean}");
        assert!((variance - 1.0).abs() < 4.0 * 1.42 / 316.0, "{variance}");
    }

    #[test]
    fn a_shuffle_is_a_permutation() {
        let mut items: Vec<u32> = (0..1000).collect();
        Stream::new(5, 0, 0, Use::Shuffle).shuffle(&mut items);
        assert_ne!(items, (0..1000).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..1000).collect::<Vec<_>>());
    }
}
