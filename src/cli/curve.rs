//! Draws curves with braille characters; each is two dots wide and four high.

/// The blank character, first of 256; each dot adds one bit.
const BLANK: u32 = 0x2800;
const DOTS_WIDE: usize = 2;
const DOTS_HIGH: usize = 4;
/// Bit of each dot of a character, by row, left and right.
const BITS: [[u32; DOTS_WIDE]; DOTS_HIGH] = [[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]];

/// Range of the vertical axis. Logarithmic if all values are positive, because losses fall by factors.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Scale {
    pub(super) least: f64,
    pub(super) most: f64,
}

impl Scale {
    /// The range of all finite values; `None` if there are none.
    pub(super) fn around<'a>(values: impl Iterator<Item = &'a f64>) -> Option<Self> {
        values.filter(|value| value.is_finite()).fold(None, |scale, value| {
            let Self { least, most } = scale.unwrap_or(Self { least: *value, most: *value });
            Some(Self { least: least.min(*value), most: most.max(*value) })
        })
    }

    /// Position on the axis, from 0 (bottom) to 1 (top).
    fn share(self, value: f64) -> f64 {
        let on_axis = |value: f64| if self.least > 0.0 { value.ln() } else { value };
        let (least, most) = (on_axis(self.least), on_axis(self.most));
        if most > least { ((on_axis(value) - least) / (most - least)).clamp(0.0, 1.0) } else { 0.0 }
    }
}

/// Draws values as `width` x `height` characters, the first at the left and the last at the right. Values that are not
/// finite leave a gap.
pub(super) fn curve(values: &[f64], scale: Scale, width: usize, height: usize) -> Vec<String> {
    if values.is_empty() || width == 0 || height == 0 {
        return vec![" ".repeat(width); height];
    }
    let (dots_wide, dots_high) = (width * DOTS_WIDE, height * DOTS_HIGH);
    let mut bits = vec![vec![0; width]; height];
    let mut last = None;
    for x in 0..dots_wide {
        let value = at(values, x as f64 / (dots_wide - 1).max(1) as f64);
        if !value.is_finite() {
            last = None;
            continue;
        }
        let y = ((1.0 - scale.share(value)) * (dots_high - 1) as f64).round() as usize;
        // Fills the column between the previous dot and this one, so that steep parts stay connected.
        let from = match last {
            Some(last) if last < y => last + 1,
            Some(last) if last > y => last - 1,
            _ => y,
        };
        for y in from.min(y)..=from.max(y) {
            bits[y / DOTS_HIGH][x / DOTS_WIDE] |= BITS[y % DOTS_HIGH][x % DOTS_WIDE];
        }
        last = Some(y);
    }
    bits.iter()
        .map(|row| row.iter().map(|bits| char::from_u32(BLANK + bits).filter(|_| *bits > 0).unwrap_or(' ')).collect())
        .collect()
}

/// Interpolates linearly; `share` is the position from 0 (first value) to 1 (last value).
fn at(values: &[f64], share: f64) -> f64 {
    let position = share * (values.len() - 1) as f64;
    let (before, part) = (position.floor() as usize, position.fract());
    let (from, to) = (values[before], values[(before + 1).min(values.len() - 1)]);
    if part == 0.0 { from } else { from + part * (to - from) }
}

/// A bar of `width` characters, filled to `share` (0 to 1), in eighths of a character.
pub(super) fn bar(share: f64, width: usize) -> String {
    const EIGHTHS: [char; 8] = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉'];
    let share = if share.is_finite() { share.clamp(0.0, 1.0) } else { 0.0 };
    let eighths = (share * (width * 8) as f64).round() as usize;
    let (full, rest) = (eighths / 8, eighths % 8);
    let part = (full < width).then_some(EIGHTHS[rest]);
    let blank = " ".repeat(width.saturating_sub(full + 1));
    "█".repeat(full) + &part.map(String::from).unwrap_or_default() + &blank
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check_drawn(values: &[f64], width: usize, height: usize, expected: &[&str]) {
        let scale = Scale::around(values.iter()).unwrap_or(Scale { least: 0.0, most: 1.0 });
        assert_eq!(curve(values, scale, width, height), expected);
    }

    #[test]
    fn falling_and_rising_curves_are_drawn() {
        check_drawn(&[4.0, 2.0, 1.0], 8, 2, &["⠉⠒⠤⣀    ", "    ⠉⠑⠢⢄"]);
        check_drawn(&[1.0, 100.0], 2, 2, &["⢠⠊", "⡸ "]);
    }

    #[test]
    fn constant_values_draw_a_line_and_no_values_draw_nothing() {
        check_drawn(&[3.0; 5], 4, 2, &["    ", "⣀⣀⣀⣀"]);
        check_drawn(&[3.0], 2, 1, &["⣀⣀"]);
        check_drawn(&[], 3, 2, &["   ", "   "]);
    }

    #[test]
    fn nan_values_leave_a_gap() {
        check_drawn(&[1.0, 1.0, f64::NAN, 1.0, 1.0], 6, 1, &["⣀⡀  ⢀⣀"]);
    }

    #[test]
    fn bars_are_filled_in_eighths() {
        for (share, expected) in [(0.0, "    "), (0.5, "██  "), (0.53125, "██▏ "), (1.0, "████"), (7.0, "████")]
        {
            assert_eq!(bar(share, 4), expected);
        }
        assert_eq!(bar(f64::NAN, 2), "  ");
    }

    proptest! {
        #[test]
        fn any_values_fill_exactly_the_given_size(
            values in proptest::collection::vec(any::<f64>(), 0..40), width in 0usize..30, height in 0usize..6
        ) {
            let scale = Scale::around(values.iter()).unwrap_or(Scale { least: 0.0, most: 1.0 });
            let drawn = curve(&values, scale, width, height);
            prop_assert_eq!(drawn.len(), height);
            prop_assert!(drawn.iter().all(|line| line.chars().count() == width));
        }
    }
}
