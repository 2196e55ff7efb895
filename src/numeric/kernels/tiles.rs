//! Splits columns into tiles whose sums fit the registers.

/// Calls `$tile::<V, MASKED, R, O>(first, ..)` over `$count` columns, as many at once as the registers hold, with `R`
/// vectors per column.
macro_rules! tiles {
    ($V:ident, $MASKED:tt, $R:tt, $count:expr, $tile:ident($($argument:expr),*)) => {{
        let count = $count;
        let mut first = 0;
        while first < count {
            let left = count - first;
            first += if $V::TILE == 16 && $R == 1 && left >= 16 {
                $tile::<$V, $MASKED, $R, 16>(first, $($argument),*);
                16
            } else if $V::TILE >= 8 && left >= 8 {
                $tile::<$V, $MASKED, $R, 8>(first, $($argument),*);
                8
            } else if $V::TILE == 6 && left >= 6 && !matches!(left, 7..=10 | 13) {
                $tile::<$V, $MASKED, $R, 6>(first, $($argument),*);
                6
            } else if $V::TILE == 6 && left >= 5 && left != 8 {
                // Avoids small tiles at the end: sixteen are 6 + 5 + 5, thirteen 5 + 4 + 4.
                $tile::<$V, $MASKED, $R, 5>(first, $($argument),*);
                5
            } else if left >= 4 {
                $tile::<$V, $MASKED, $R, 4>(first, $($argument),*);
                4
            } else if left >= 2 {
                $tile::<$V, $MASKED, $R, 2>(first, $($argument),*);
                2
            } else {
                $tile::<$V, $MASKED, $R, 1>(first, $($argument),*);
                1
            };
        }
    }};
}

pub(super) use tiles;
