//! Floats with guarded memory around them: tests detect reads and writes out of bounds.

use std::ops::{Deref, DerefMut};

/// Where the floats lie.
#[derive(Clone, Copy, Debug)]
pub(super) enum Home {
    /// A heap allocation of exactly their size: AddressSanitizer and valgrind watch its ends.
    Heap,
    /// Directly before an inaccessible page.
    BeforeGuard,
    /// Directly after an inaccessible page.
    AfterGuard,
}

impl Home {
    pub(super) const ALL: [Self; 3] = [Self::Heap, Self::BeforeGuard, Self::AfterGuard];
}

/// A copy of some floats at a [`Home`].
pub(super) enum Guarded {
    Heap(Box<[f32]>),
    Pages(Pages),
}

impl Guarded {
    pub(super) fn new(values: &[f32], home: Home) -> Self {
        match home {
            Home::Heap => Self::Heap(values.into()),
            Home::BeforeGuard => Self::Pages(Pages::new(values, true)),
            Home::AfterGuard => Self::Pages(Pages::new(values, false)),
        }
    }
}

impl Deref for Guarded {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match self {
            Self::Heap(values) => values,
            // SAFETY: `Pages::new` has written `len` floats there.
            Self::Pages(pages) => unsafe { std::slice::from_raw_parts(pages.values, pages.len) },
        }
    }
}

impl DerefMut for Guarded {
    fn deref_mut(&mut self) -> &mut [f32] {
        match self {
            Self::Heap(values) => values,
            // SAFETY: as above, and `self` is borrowed exclusively.
            Self::Pages(pages) => unsafe { std::slice::from_raw_parts_mut(pages.values, pages.len) },
        }
    }
}

/// Mapped pages between two inaccessible ones.
pub(super) struct Pages {
    mapped: *mut libc::c_void,
    mapped_bytes: usize,
    values: *mut f32,
    len: usize,
}

impl Pages {
    fn new(values: &[f32], at_end: bool) -> Self {
        let bytes = size_of_val(values);
        // SAFETY: a new mapping overlaps no existing memory; the copy stays within its writable middle.
        unsafe {
            let page = usize::try_from(libc::sysconf(libc::_SC_PAGESIZE)).expect("a size");
            let middle = bytes.next_multiple_of(page).max(page);
            let mapped_bytes = middle + 2 * page;
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let mapped = libc::mmap(std::ptr::null_mut(), mapped_bytes, libc::PROT_NONE, flags, -1, 0);
            assert_ne!(mapped, libc::MAP_FAILED, "pages are to be had");
            let first = mapped.byte_add(page);
            assert_eq!(libc::mprotect(first, middle, libc::PROT_READ | libc::PROT_WRITE), 0, "pages can be opened");
            let start = first.byte_add(if at_end { middle - bytes } else { 0 }).cast::<f32>();
            std::ptr::copy_nonoverlapping(values.as_ptr(), start, values.len());
            Self { mapped, mapped_bytes, values: start, len: values.len() }
        }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: this value owns the mapping, and no slice of it is left.
        unsafe { libc::munmap(self.mapped, self.mapped_bytes) };
    }
}
