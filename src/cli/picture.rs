//! Renders the progress of a training job as lines of text.

use super::curve::{Scale, bar, curve};
use crate::rpc::pb;

/// Maximum width in characters; longer lines are hard to read.
const WIDTH_MAX: usize = 100;
/// Minimum width for curves and for bars of the model and of PCA.
const WIDTH_MIN_FOR_CURVES: usize = 44;
const CURVE_LINES: usize = 4;
/// Width of an axis label.
const LABEL_WIDTH: usize = 9;
/// Columns between two curves.
const GAP: usize = 3;
/// Minimum width of a progress bar with its ends; shorter ones are left out.
const BAR_WIDTH_MIN: usize = 10;
/// Width reserved after the progress bar: `  50 %, 10 min 30 s left, 100,000 rows/s`.
const AFTER_BAR_WIDTH: usize = 40;
/// Width reserved after the bars of the model and of PCA: `  error 0.54 of PCA's`.
const RATIO_WIDTH: usize = 21;

/// The progress of a training job.
#[derive(Clone, Debug, Default)]
pub(super) struct Picture {
    progress: pb::Progress,
    /// Losses by epoch. NaN where a loss is unknown, for example before a watching command attached.
    training: Vec<f64>,
    validation: Vec<f64>,
}

impl Picture {
    /// Records a progress message.
    pub(super) fn add(&mut self, progress: &pb::Progress) {
        set(&mut self.training, progress.epoch, progress.training_loss);
        // The validation loss belongs to the last complete epoch: the previous one, unless this is the last step.
        let is_last_step = progress.step == progress.step_count && progress.step > 0;
        let full = if is_last_step { progress.epoch } else { progress.epoch.saturating_sub(1) };
        if let Some(loss) = progress.validation_loss {
            set(&mut self.validation, full, loss);
        }
        self.progress = *progress;
    }

    /// Renders for a terminal of `columns`. No line is longer. The number of lines depends only on the width and on
    /// which values are known, so that the display does not jump.
    pub(super) fn lines(&self, columns: usize) -> Vec<String> {
        let width = columns.min(WIDTH_MAX);
        let mut lines = vec![self.head(width)];
        if width >= WIDTH_MIN_FOR_CURVES {
            lines.extend(self.curves(width));
        } else {
            lines.push(self.losses());
        }
        lines.extend(self.variance(width));
        lines.into_iter().map(|line| line.trim_end().chars().take(columns).collect()).collect()
    }

    /// The progress bar.
    fn head(&self, width: usize) -> String {
        let progress = &self.progress;
        let share = progress.step as f64 / progress.step_count.max(1) as f64;
        let counted = digits(progress.epoch_count);
        let before = format!("epoch {:>counted$}/{} ", progress.epoch, progress.epoch_count);
        let mut after = format!(" {:3.0} %", 100.0 * share);
        let left = progress.time_left.as_ref().map(|left| format!(", {} left", time(left.seconds.unsigned_abs())));
        let speed =
            (progress.rows_per_second > 0.0).then(|| format!(", {} rows/s", thousands(progress.rows_per_second)));
        // Parts that do not fit are left out.
        for more in [left, speed].into_iter().flatten() {
            if before.len() + after.len() + more.len() <= width {
                after.push_str(&more);
            }
        }
        // Reserves space for the longest likely time and speed, so that the bar keeps its length.
        let room = width.saturating_sub(before.len() + after.len().max(AFTER_BAR_WIDTH));
        if room < BAR_WIDTH_MIN {
            return format!("{}, {}", before.trim_end(), after.trim_start());
        }
        before + "▕" + &bar(share, room - 2) + "▏" + &after
    }

    fn losses(&self) -> String {
        let training = figure(self.progress.training_loss);
        self.progress
            .validation_loss
            .map_or_else(|| format!("loss {training}"), |loss| format!("loss {training}, validation {}", figure(loss)))
    }

    /// The training loss and, if there is one, the validation loss beside it, on the same scale.
    fn curves(&self, width: usize) -> Vec<String> {
        let scale = Scale::around(self.training.iter().chain(&self.validation));
        let scale = scale.unwrap_or(Scale { least: 0.0, most: 0.0 });
        let room = width - LABEL_WIDTH - 1;
        let half = (room - GAP) / 2;
        let two = !self.validation.is_empty();
        let side = if two { half } else { room };
        let training = curve(&self.training, scale, side, CURVE_LINES);
        let validation = curve(&self.validation, scale, half, CURVE_LINES);
        let (axis, gap) = (" ".repeat(LABEL_WIDTH + 1), " ".repeat(GAP));
        let title = format!("training loss {}", figure(self.progress.training_loss));
        let mut lines = vec![if two {
            let loss = self.validation.last().copied().unwrap_or(f64::NAN);
            format!("{axis}{title:<side$}{gap}validation loss {}", figure(loss))
        } else {
            format!("{axis}{title}")
        }];
        for (line, training) in training.iter().enumerate() {
            let label = match line {
                0 if scale.most > scale.least => figure(scale.most),
                last if last == CURVE_LINES - 1 => figure(scale.least),
                _ => String::new(),
            };
            let other = if two { format!("{gap}{}", validation[line]) } else { String::new() };
            lines.push(format!("{label:>LABEL_WIDTH$} {training}{other}"));
        }
        lines
    }

    /// Explained variance of the model and of PCA; no lines while it is unknown.
    fn variance(&self, width: usize) -> Vec<String> {
        let Some(model) = self.progress.explained_variance else { return Vec::new() };
        let pca = self.progress.pca_explained_variance;
        if width < WIDTH_MIN_FOR_CURVES {
            let beside = pca.map_or_else(String::new, |pca| format!(", by PCA {:.1} %", 100.0 * pca));
            return vec![format!("explained {:.1} %{beside}", 100.0 * model)];
        }
        let line = |name: &str, share: f64, more: &str| {
            let after = format!(" {:5.1} %", 100.0 * share);
            let room = width.saturating_sub(LABEL_WIDTH + 1 + after.len() + RATIO_WIDTH);
            format!("{name:>LABEL_WIDTH$} {}{after}{more}", bar(share, room))
        };
        let Some(pca) = pca else { return vec![line("explained", model, "")] };
        // An exact PCA has no error to compare with.
        let ratio = (1.0 - model) / (1.0 - pca);
        let more = if (0.0..1000.0).contains(&ratio) { format!("  error {ratio:.2} of PCA's") } else { String::new() };
        vec![line("explained", model, &more), line("by PCA", pca, "")]
    }
}

/// Sets the value of an epoch, counted from 1.
fn set(values: &mut Vec<f64>, epoch: u32, value: f64) {
    /// Upper bound, so that a wrong server cannot exhaust memory.
    const EPOCHS_MAX: usize = 1 << 20;
    let epoch = epoch as usize;
    if (1..=EPOCHS_MAX).contains(&epoch) {
        if values.len() < epoch {
            values.resize(epoch, f64::NAN);
        }
        values[epoch - 1] = value;
    }
}

fn digits(count: u32) -> usize {
    count.to_string().len()
}

/// A loss in at most nine characters.
fn figure(value: f64) -> String {
    let size = value.abs();
    if value == 0.0 || (1e-3..1e4).contains(&size) {
        format!("{value:.4}")
    } else if (1e4..1e7).contains(&size) {
        format!("{value:.0}")
    } else {
        format!("{value:.1e}")
    }
}

/// `12,345`.
fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A duration in its two largest units.
fn time(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} min", seconds / 3600, seconds / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A job of 40 epochs of 10 steps each, with progress up to `epochs`.
    fn picture(epochs: u32, with_validation: bool) -> Picture {
        let mut picture = Picture::default();
        for epoch in 1..=epochs {
            let loss = 2.0 + 30.0 / f64::from(epoch);
            let validated = (with_validation && epoch > 1).then(|| 2.2 + 30.0 / f64::from(epoch - 1));
            picture.add(&pb::Progress {
                epoch,
                epoch_count: 40,
                step: u64::from(epoch) * 10,
                step_count: 400,
                training_loss: loss,
                validation_loss: validated,
                rows_per_second: 8912.3,
                time_left: Some(prost_types::Duration { seconds: 83, nanos: 0 }),
                explained_variance: validated.map(|loss| 1.0 - loss / 40.0),
                pca_explained_variance: validated.map(|_| 0.86),
                serving_paused: None,
            });
        }
        picture
    }

    #[track_caller]
    fn check_lines(picture: &Picture, columns: usize, expected: &[&str]) {
        assert_eq!(picture.lines(columns), expected, "\n{}\n", picture.lines(columns).join("\n"));
    }

    #[test]
    fn a_job_half_way_fits_eighty_columns() {
        check_lines(
            &picture(20, true),
            80,
            &[
                "epoch 20/40 ▕█████████████             ▏  50 %, 1 min 23 s left, 8,912 rows/s",
                "          training loss 3.5000                validation loss 3.7789",
                "  32.2000 ⠑⢄                                  ⠑⢄",
                "           ⠈⠒⢄⡀                                 ⠑⠤⣀",
                "              ⠈⠉⠒⠢⠤⢄⣀⣀                             ⠉⠑⠒⠤⠤⢄⣀⣀",
                "   3.5000             ⠉⠉⠉⠑⠒⠒⠒⠒⠤⠤⠤⠤⠤⠤⠤⢄⣀⣀⣀⣀⣀                ⠉⠉⠉⠉⠑⠒⠒⠒⠒⠒⠢⠤⠤⠤⠤⠤⠤⠤⠤⠤",
                "explained █████████████████████████████████████▏     90.6 %  error 0.67 of PCA's",
                "   by PCA ███████████████████████████████████▎       86.0 %",
            ],
        );
    }

    #[test]
    fn without_validation_the_training_loss_uses_the_full_width() {
        check_lines(
            &picture(20, false),
            80,
            &[
                "epoch 20/40 ▕█████████████             ▏  50 %, 1 min 23 s left, 8,912 rows/s",
                "          training loss 3.5000",
                "  32.0000 ⠉⠒⢄⡀",
                "             ⠈⠑⠒⠤⢄⣀⡀",
                "                   ⠈⠉⠉⠒⠒⠒⠢⠤⠤⠤⢄⣀⣀⣀⣀⣀",
                "   3.5000                          ⠉⠉⠉⠉⠉⠉⠉⠑⠒⠒⠒⠒⠒⠒⠒⠒⠒⠒⠤⠤⠤⠤⠤⠤⠤⠤⠤⠤⠤⠤⠤⠤⠤⢄⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀",
            ],
        );
    }

    #[test]
    fn the_first_step_can_be_drawn() {
        check_lines(
            &picture(1, true),
            80,
            &[
                "epoch  1/40 ▕▋                         ▏   2 %, 1 min 23 s left, 8,912 rows/s",
                "          training loss 32.0000",
                "",
                "",
                "",
                "  32.0000 ⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀",
            ],
        );
    }

    #[test]
    fn a_narrow_terminal_gets_figures_and_no_curves() {
        check_lines(
            &picture(20, true),
            40,
            &[
                "epoch 20/40, 50 %, 1 min 23 s left",
                "loss 3.5000, validation 3.7789",
                "explained 90.6 %, by PCA 86.0 %",
            ],
        );
    }

    #[test]
    fn figures_times_and_counts_stay_short() {
        assert_eq!(
            [0.0, 12.5, 9999.0, 123_456.0, 1e9, 1e-7].map(figure),
            ["0.0000", "12.5000", "9999.0000", "123456", "1.0e9", "1.0e-7"]
        );
        assert_eq!([5, 83, 7322].map(time), ["5 s", "1 min 23 s", "2 h 02 min"]);
        assert_eq!([7.0, 999.6, 1_234_567.0].map(thousands), ["7", "1,000", "1,234,567"]);
    }

    proptest! {
        #[test]
        fn lines_fit_the_width_for_any_server_message(
            epoch in any::<u32>(), epoch_count in any::<u32>(), step in any::<u64>(), step_count in any::<u64>(),
            figures in proptest::array::uniform5(any::<f64>()), seconds in any::<i64>(), columns in 0usize..200
        ) {
            let [training_loss, validation_loss, rows_per_second, explained, pca] = figures;
            let mut picture = Picture::default();
            picture.add(&pb::Progress {
                // Memory use is bounded for any epoch; a small number keeps this test fast.
                epoch: epoch % 1000,
                epoch_count,
                step,
                step_count,
                training_loss,
                validation_loss: Some(validation_loss),
                rows_per_second,
                time_left: Some(prost_types::Duration { seconds, nanos: 0 }),
                explained_variance: Some(explained),
                pca_explained_variance: Some(pca),
                serving_paused: None,
            });
            prop_assert!(picture.lines(columns).iter().all(|line| line.chars().count() <= columns));
        }
    }
}
