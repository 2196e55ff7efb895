//! The fair share of a common limit: the rule by which addresses share connections, calls and bytes, and models share
//! the batch queue.

/// A holder may have at most this multiple of the free part: the dynamic threshold of Choudhury and Hahne, "Dynamic
/// Queue Length Thresholds for Shared-Memory Packet Switches", IEEE/ACM Transactions on Networking 6(2), 1998.
///
/// One holder alone can use 4/5 of a limit, and two saturated holders 4/9 each. The first to arrive cannot starve
/// others.
const TIMES_FREE_MAX: u64 = 4;

/// Whether a holder of `own` units may take `count` more of the limit `max`, of which all holders together have `all`.
/// Free is what is free before this call, so a holder of nothing may take all of it at once.
pub fn has_room(count: u64, own: u64, all: u64, max: u64) -> bool {
    let free = max.saturating_sub(all);
    count <= free && own.saturating_add(count) <= free.saturating_mul(TIMES_FREE_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_holder_of_nothing_may_take_all_that_is_free() {
        assert!(has_room(100, 0, 0, 100));
        assert!(has_room(20, 0, 80, 100));
        assert!(!has_room(21, 0, 80, 100));
        assert!(!has_room(1, 800, 800, 1_000));
        assert!(has_room(1, 799, 799, 1_000));
    }
}
