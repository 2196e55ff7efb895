//! Long products yield the core from time to time.
//!
//! Without this, the scheduler lets a product run for a whole time slice of several milliseconds. A network thread on
//! the same core would wait that long before each of its few microseconds of work.

use std::cell::Cell;
use std::thread;

/// FMAs of a thread between two yields: about 0.2 ms. With half of it, network threads run so often that each run finds
/// little to receive, and single rows of large models take 5% longer.
const TURN_FMAS: usize = 12 << 20;

thread_local! {
    static DONE: Cell<usize> = const { Cell::new(0) };
}

/// Adds `fmas` to the count of this thread. When the count reaches [`TURN_FMAS`], yields the core and starts again at
/// 0.
pub(super) fn done(fmas: usize) {
    let done = DONE.get() + fmas;
    if done < TURN_FMAS {
        DONE.set(done);
    } else {
        DONE.set(0);
        thread::yield_now();
    }
}
