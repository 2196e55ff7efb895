//! Draws images and bars as plain characters, without color.

/// Characters from light to dark.
const SHADES: &[char] = &[' ', '.', ':', '-', '=', '+', '*', '#', '%', '@'];
const LEVELS: &[char] = &['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Draws square images of `side` x `side` pixels side by side, with values from 0 to `brightest`. A pixel is two
/// characters wide, which makes it about square.
pub(super) fn images(images: &[&[f32]], side: usize, brightest: f32) -> Vec<String> {
    (0..side)
        .map(|row| {
            let parts: Vec<String> = images
                .iter()
                .map(|image| {
                    image[row * side..(row + 1) * side]
                        .iter()
                        .flat_map(|value| [shade(*value / brightest); 2])
                        .collect()
                })
                .collect();
            parts.join("   ").trim_end().to_owned()
        })
        .collect()
}

fn shade(value: f32) -> char {
    let index = (value.clamp(0.0, 1.0) * (SHADES.len() - 1) as f32).round() as usize;
    SHADES[index.min(SHADES.len() - 1)]
}

/// Draws values as one bar each, at most `width` of them; longer lists are sampled.
pub(super) fn sparkline(values: &[f64], width: usize) -> String {
    let finite = || values.iter().copied().filter(|value| value.is_finite());
    let (least, most) = (finite().fold(f64::INFINITY, f64::min), finite().fold(f64::NEG_INFINITY, f64::max));
    let count = values.len().min(width);
    (0..count)
        .map(|i| {
            let value = values[i * values.len() / count.max(1)];
            let share = if most > least { (value - least) / (most - least) } else { 0.0 };
            LEVELS[((share * (LEVELS.len() - 1) as f64).round() as usize).min(LEVELS.len() - 1)]
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dark_pixels_have_dark_characters() {
        assert_eq!(images(&[&[0.0, 16.0, 8.0, 99.0], &[16.0, 0.0, f32::NAN, -1.0]], 2, 16.0), ["  @@   @@", "++@@"]);
    }

    #[test]
    fn a_line_falls_from_high_to_low() {
        assert_eq!(sparkline(&[3.0, 2.0, 1.0], 10), "█▅▁");
        assert_eq!(sparkline(&[1.0; 100], 4), "▁▁▁▁");
        assert_eq!(sparkline(&[], 4), "");
    }
}
