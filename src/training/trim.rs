//! Trimming: which rows of a batch count.

/// Marks the lowest scores: all except the share `trim`, but at least one.
pub(super) fn lowest(scores: &[f32], trim: f64) -> Vec<bool> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*a].total_cmp(&scores[*b]));
    let kept = (((1.0 - trim) * scores.len() as f64).round() as usize).max(1);
    let mut lowest = vec![false; scores.len()];
    order.into_iter().take(kept).for_each(|row| lowest[row] = true);
    lowest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_scores_are_left_out() {
        assert_eq!(lowest(&[3.0, 1.0, 9.0, 2.0], 0.25), [true, true, false, true]);
        assert_eq!(lowest(&[3.0, 1.0], 0.9), [false, true]);
        assert!(lowest(&[], 0.5).is_empty());
    }
}
