//! Long arithmetic gives the core to others in between.
//!
//! Left alone, the scheduler lets it go on for a whole time slice, milliseconds, and a thread on the same core that receives
//! and answers waits that long before each of its few microseconds of work.

use std::cell::Cell;
use std::thread;

/// FMAs of a thread from one turn to the next: about 0.2 ms. With half of it those who receive come so often that each time
/// little is there to be received, and single rows of large models are answered a twentieth more slowly.
const TURN_FMAS: usize = 12 << 20;

thread_local! {
    static DONE: Cell<usize> = const { Cell::new(0) };
}

/// This thread has done `fmas` more: when that makes a turn, who waits for the core has it first.
pub(super) fn done(fmas: usize) {
    let done = DONE.get() + fmas;
    if done < TURN_FMAS {
        DONE.set(done);
    } else {
        DONE.set(0);
        thread::yield_now();
    }
}
