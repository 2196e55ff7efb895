//! Aligned memory for large arrays of floats.

use bytemuck::{Pod, Zeroable};
use memmap2::MmapMut;

/// Arrays of at least this size get their own memory mapping. The system takes the pages back as soon as they are
/// dropped; the allocator could keep them.
const OWN_PAGES_BYTES_MIN: usize = 128 << 10;
/// The size of a huge page. Decoding jumps from panel to panel of W: with small pages, nearly every jump would miss the
/// TLB.
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// A cache line.
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([f32; 16]);

#[derive(Debug)]
enum Memory {
    Lines(Vec<Line>),
    Pages(MmapMut),
}

impl Memory {
    /// At least `len` zeros.
    fn zeros(len: usize) -> Self {
        let bytes = size_of::<f32>() * len;
        if bytes >= OWN_PAGES_BYTES_MIN
            && let Some(pages) = pages(bytes)
        {
            return Self::Pages(pages);
        }
        Self::Lines(vec![Line::zeroed(); len.div_ceil(16)])
    }

    fn as_slice(&self) -> &[f32] {
        match self {
            Self::Lines(lines) => bytemuck::cast_slice(lines),
            Self::Pages(pages) => bytemuck::cast_slice(pages),
        }
    }

    fn as_mut_slice(&mut self) -> &mut [f32] {
        match self {
            Self::Lines(lines) => bytemuck::cast_slice_mut(lines),
            Self::Pages(pages) => bytemuck::cast_slice_mut(pages),
        }
    }
}

/// An anonymous mapping of at least `bytes`; `None` if the system refuses it, and the caller then uses the allocator.
fn pages(bytes: usize) -> Option<MmapMut> {
    // A mapping of a whole number of huge pages starts at a huge page boundary. Pages that are never touched take no
    // memory.
    let mapped = if bytes < HUGE_PAGE_BYTES { bytes } else { bytes.next_multiple_of(HUGE_PAGE_BYTES) };
    let pages = MmapMut::map_anon(mapped).ok()?;
    #[cfg(target_os = "linux")]
    {
        // The last huge page is left out: it would be used in part, but take all of its memory.
        let huge = bytes / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES;
        if huge > 0 {
            // The advice may be ignored: small pages are correct, too.
            let _ = pages.advise_range(memmap2::Advice::HugePage, 0, huge);
        }
    }
    Some(pages)
}

/// Floats that start at a cache line, so that no vector load crosses two cache lines.
#[derive(Debug)]
pub struct Floats {
    memory: Memory,
    len: usize,
}

impl Floats {
    /// `len` zeros.
    pub fn zeros(len: usize) -> Self {
        Self { memory: Memory::zeros(len), len }
    }

    /// Changes the length. Keeps the memory if it suffices; the values are unspecified.
    pub fn reset(&mut self, len: usize) {
        if len > self.memory.as_slice().len() {
            self.memory = Memory::zeros(len);
        }
        self.len = len;
    }

    /// All values.
    pub fn as_slice(&self) -> &[f32] {
        &self.memory.as_slice()[..self.len]
    }

    /// All values, mutable.
    pub fn as_mut_slice(&mut self) -> &mut [f32] {
        &mut self.memory.as_mut_slice()[..self.len]
    }
}

impl Default for Floats {
    fn default() -> Self {
        Self::zeros(0)
    }
}

impl Clone for Floats {
    fn clone(&self) -> Self {
        let mut copy = Self::zeros(self.len);
        copy.as_mut_slice().copy_from_slice(self.as_slice());
        copy
    }
}

impl PartialEq for Floats {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lengths below and above the thresholds for mappings of their own and for huge pages.
    const LENGTHS: [usize; 8] = [0, 1, 16, 1_000, 32_767, 32_768, 600_001, 1 << 20];

    #[test]
    fn new_floats_are_zeros_aligned_to_a_cache_line() {
        for len in LENGTHS {
            let floats = Floats::zeros(len);
            assert_eq!(floats.as_slice().len(), len);
            assert_eq!(floats.as_slice().as_ptr().addr() % 64, 0);
            assert!(floats.as_slice().iter().all(|value| *value == 0.0));
        }
    }

    #[test]
    fn a_clone_is_independent() {
        for len in LENGTHS {
            let mut floats = Floats::zeros(len);
            floats.as_mut_slice().iter_mut().enumerate().for_each(|(i, value)| *value = i as f32);
            let copy = floats.clone();
            assert_eq!(copy, floats);
            if let Some(last) = floats.as_mut_slice().last_mut() {
                *last = -1.0;
                assert_ne!(copy, floats);
            }
        }
    }

    #[test]
    fn reset_accepts_any_length() {
        let mut floats = Floats::default();
        for len in LENGTHS.into_iter().chain(LENGTHS.into_iter().rev()) {
            floats.reset(len);
            assert_eq!(floats.as_mut_slice().len(), len);
            floats.as_mut_slice().fill(1.0);
        }
    }
}
