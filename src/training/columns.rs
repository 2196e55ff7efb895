//! Notes on single columns: those that teach a model nothing, or something unintended.

use crate::model::normalization::Learner;
use crate::model::text::{listed, shortened};

/// Maximum number of columns that a note names; beyond it, the note counts them.
const NAMED_MAX: usize = 10;
/// Characters of a name that a note shows.
const NAME_CHARS_MAX: usize = 40;
/// Fewest values of a column for a note on what it looks like.
const VALUES_MIN: u64 = 10;
/// Standard deviation, as a share of the size of the values, below which f32 keeps too few digits: about ten steps
/// between neighboring f32 values.
const SWALLOWED: f64 = 1e-6;
/// Above this, f32 cannot represent every integer.
const EXACT_MAX: f32 = (1 << 24) as f32;
/// A column is lost if less than this share of it is explained on held-out rows.
pub(super) const LOST: f32 = 0.1;

/// Names of columns; without names, their numbers from 1.
#[derive(Clone, Copy, Debug)]
pub(super) struct Names<'a>(pub(super) &'a [String]);

impl Names<'_> {
    /// The name of column `index`, from 0.
    pub(super) fn of(self, index: usize) -> String {
        match self.0.get(index).filter(|name| !name.is_empty()) {
            Some(name) => shortened(name, NAME_CHARS_MAX, "…"),
            None => format!("column {}", index + 1),
        }
    }

    /// The first few names, and the number of others.
    pub(super) fn list(columns: impl ExactSizeIterator<Item = String>) -> String {
        listed(columns, NAMED_MAX)
    }
}

/// Running statistics of one column.
#[derive(Clone, Copy, Debug)]
struct Column {
    last: f64,
    values: u64,
    /// All values so far are integers, each above the one before.
    rises: bool,
    /// All values so far are 0 or 1.
    is_flag: bool,
}

/// Running statistics of all columns.
#[derive(Clone, Debug)]
pub(super) struct Columns(Vec<Column>);

impl Columns {
    pub(super) fn new(features: usize) -> Self {
        Self(vec![Column { last: f64::NEG_INFINITY, values: 0, rises: true, is_flag: true }; features])
    }

    /// Adds a row from which `shift` was subtracted.
    pub(super) fn add(&mut self, row: &[f32], shift: Option<&[f64]>) {
        for (j, (column, &value)) in self.0.iter_mut().zip(row).enumerate() {
            let value = f64::from(value) + by(shift, j);
            if value.is_nan() {
                continue;
            }
            column.rises = column.rises && value > column.last && value.fract() == 0.0;
            column.is_flag = column.is_flag && (value == 0.0 || value == 1.0);
            (column.last, column.values) = (value, column.values + 1);
        }
    }

    /// One note for each kind of conspicuous column. `learner` has seen the same rows.
    pub(super) fn notes(&self, learner: &Learner, names: Names<'_>, shift: Option<&[f64]>) -> Vec<String> {
        let size = |j: usize| {
            let (minimum, maximum) = learner.range(j);
            minimum.abs().max(maximum.abs())
        };
        let is_constant = |j: usize| {
            let (minimum, maximum) = learner.range(j);
            minimum == maximum
        };
        let of = |chosen: &dyn Fn(usize, &Column) -> bool| -> Vec<usize> {
            self.0.iter().enumerate().filter(|(j, column)| chosen(*j, column)).map(|(j, _)| j).collect()
        };
        let constant = of(&|j, _| is_constant(j));
        let swallowed = of(&|j, _| {
            let deviation = learner.variance(j).sqrt();
            !is_constant(j) && deviation < SWALLOWED * f64::from(size(j))
        });
        let rising = of(&|j, column| column.rises && column.values >= VALUES_MIN && !is_constant(j));
        let mut flags = of(&|j, column| column.is_flag && column.values >= VALUES_MIN && !is_constant(j));
        if 2 * flags.len() > self.0.len() - constant.len() {
            // If most columns are flags, none of them is a label beside the data.
            flags.clear();
        }
        // In the shortest digits: of f32 if nothing was subtracted, else of f64.
        let value_of = |j: usize| match by(shift, j) {
            0.0 => learner.range(j).0.to_string(),
            by => (f64::from(learner.range(j).0) + by).to_string(),
        };
        let listed = |columns: &[usize]| Names::list(columns.iter().map(|j| names.of(*j)));
        let mut notes = Vec::new();
        if !constant.is_empty() {
            let values = constant.iter().map(|j| format!("{} ({})", names.of(*j), value_of(*j)));
            let unsure = if constant.iter().any(|j| size(*j) >= EXACT_MAX) {
                "; if values above 16,777,216 differ by little, send them as float64: float32 may have made them equal"
            } else {
                ""
            };
            notes.push(format!(
                "constant columns: {}: a model learns nothing from them; a row with another value is an alarm when it \
                 is scored{unsure}",
                Names::list(values)
            ));
        }
        if !swallowed.is_empty() {
            notes.push(format!(
                "columns that lose precision in float32: {}: they vary by less than a millionth of their size; send \
                 them as float64, or subtract a constant first",
                listed(&swallowed)
            ));
        }
        if !rising.is_empty() {
            notes.push(format!(
                "columns that look like ids or row numbers (integers that only increase): {}: drop them with \
                 --drop-columns unless they carry information",
                listed(&rising)
            ));
        }
        if !flags.is_empty() {
            notes.push(format!(
                "columns that look like labels (only 0 and 1): {}: drop with --drop-columns what the model should not \
                 see",
                listed(&flags)
            ));
        }
        notes
    }
}

/// The number that was subtracted from column `j`.
fn by(shift: Option<&[f64]>, j: usize) -> f64 {
    shift.and_then(|shift| shift.get(j)).copied().unwrap_or(0.0)
}

/// A note on the columns that the model reconstructs poorly, by the share of each that is explained on held-out rows.
pub(super) fn lost_note(explained: &[Option<f32>], names: Names<'_>) -> Option<String> {
    let mut lost: Vec<(usize, f32)> = explained
        .iter()
        .enumerate()
        .filter_map(|(j, share)| share.filter(|share| *share < LOST).map(|share| (j, share)))
        .collect();
    if lost.is_empty() {
        return None;
    }
    lost.sort_by(|a, b| a.1.total_cmp(&b.1));
    let told = lost.iter().map(|(j, share)| format!("{} ({share:.2})", names.of(*j)));
    Some(format!(
        "columns that the model reconstructs poorly (held-out R² below {LOST}), the worst first: {}: a longer code \
         keeps more",
        Names::list(told)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notes(rows: &[Vec<f32>], names: &[String]) -> Vec<String> {
        let features = rows[0].len();
        let (mut columns, mut learner) = (Columns::new(features), Learner::new(features));
        for row in rows {
            columns.add(row, None);
            learner.add(row);
        }
        columns.notes(&learner, Names(names), None)
    }

    #[test]
    fn each_kind_of_column_is_named() {
        let row = |i: i16| {
            let noise = f32::from(i * 37 % 11);
            vec![7.5, f32::from(i) + 100.0, f32::from(i % 2), 1e7 + noise / 11.0, noise, 1.7e9]
        };
        let rows: Vec<Vec<f32>> = (0..20).map(row).collect();
        let names: Vec<String> = ["fan", "id", "failed", "time", "", "epoch"].map(str::to_owned).to_vec();
        let found = notes(&rows, &names);
        let kinds = [
            "constant columns: fan (7.5), epoch (1700000000): ",
            "precision in float32: time",
            "increase): id:",
            "1): failed:",
        ];
        assert_eq!(found.len(), kinds.len(), "{found:?}");
        for (note, kind) in found.iter().zip(kinds) {
            assert!(note.contains(kind), "{kind}: {note}");
        }
        assert!(found[0].contains("send them as float64"), "{}", found[0]);
        assert!(notes(&rows, &[])[0].contains("column 1 (7.5), column 6"), "without names, numbers from 1");
    }

    #[test]
    fn usual_columns_are_not_named() {
        let rows: Vec<Vec<f32>> = (0..50u16).map(|i| vec![f32::from(i * 7 % 13), f32::from(i % 5) * 0.5]).collect();
        assert_eq!(notes(&rows, &[]), [""; 0]);
        let flags: Vec<Vec<f32>> = (0..50u16).map(|i| (0..8).map(|j| f32::from(i >> (j % 4) & 1)).collect()).collect();
        assert_eq!(notes(&flags, &[]), [""; 0], "rows of flags");
        let few: Vec<Vec<f32>> = (0..5u16).map(|i| vec![f32::from(i), 0.5 * f32::from(i % 3)]).collect();
        assert_eq!(notes(&few, &[]), [""; 0], "five values may rise by chance");
    }

    #[test]
    fn a_note_about_many_columns_is_short() {
        let names: Vec<String> = (0..1000).map(|j| format!("{j}{}", "x".repeat(200))).collect();
        let rows = vec![vec![3.0; 1000]; 20];
        let [note] = &notes(&rows, &names)[..] else { panic!("one note") };
        assert!(note.len() < 800 && note.contains("and 990 more"), "{note}");
        let lost = lost_note(&vec![Some(0.01); 1000], Names(&names)).expect("a note");
        assert!(lost.len() < 800 && lost.contains("and 990 more"), "{lost}");
    }

    #[test]
    fn lost_columns_are_listed_worst_first() {
        let explained = [Some(0.99), Some(0.05), None, Some(-3.0), Some(0.1)];
        let note = lost_note(&explained, Names(&[])).expect("two are lost");
        assert!(note.contains("the worst first: column 4 (-3.00), column 2 (0.05):"), "{note}");
        assert_eq!(lost_note(&[Some(0.5), None], Names(&[])), None);
    }
}
