//! Decides whether the first record names the columns or is a row, from that record and those after it.
//!
//! A wrong guess shifts every row by one, so there are three outcomes: the case is clear; it is a pattern that programs
//! write (then a note reports the decision); or it is ambiguous (then the caller must decide).

use super::cell::Class;

/// Maximum number of digits of a number that is a name, and minimum number of digits of a measured value in full
/// precision.
const NAME_DIGITS_MAX: usize = 4;
const FULL_DIGITS_MIN: usize = 8;
/// Minimum number of possible rows, given the values below, to take a first row of 0, 1, 2 as names.
const COMBINATIONS_MIN: f64 = 200.0;
/// With fewer rows below, a first row of two numbers is ambiguous.
const FEW_ROWS: usize = 8;
/// Numbers that count as years.
const YEARS: std::ops::RangeInclusive<f64> = 1900.0..=2100.0;

/// The decision on the first record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum First {
    /// Names, because they are text; no note.
    Names,
    /// Numbers that are names, with the reason for the note.
    NumbersAsNames(&'static str),
    /// A row; no note.
    Row,
    /// A row with text; the columns below its text have no numbers.
    RowWithText,
    /// Ambiguous, with the reason for the error.
    Unclear(&'static str),
}

/// Decides from the classes of the first record and of the records after it in the sample.
pub(super) fn decide(first: &[Class], rest: &[Vec<Class>]) -> First {
    let rest: Vec<&[Class]> = rest.iter().map(Vec::as_slice).filter(|record| record.len() == first.len()).collect();
    // Text above numbers is a name. A number above numbers is a value, unless it follows a naming pattern.
    let (mut names, mut values, mut texts, mut odd) = (0usize, 0usize, 0usize, 0usize);
    for (column, class) in first.iter().enumerate() {
        let below = || rest.iter().map(|record| record[column]);
        match class {
            Class::Text => {
                texts += 1;
                names += usize::from(below().any(|class| matches!(class, Class::Number { .. } | Class::Bool)));
            }
            Class::Number { .. } | Class::Bool => values += 1,
            Class::Odd => odd += 1,
            Class::Empty | Class::Missing => {}
        }
    }
    if values == 0 {
        return match (texts, odd) {
            (0, 0) => First::Row,
            (0, _) => First::Unclear("its fields are nearly numbers, and none is a number"),
            _ => First::Names,
        };
    }
    if let Some(decided) = above_numbers(first, &rest) {
        return decided;
    }
    let pattern = match (pattern(first, &rest), corner(first, &rest)) {
        (First::Row, Some(decided)) => decided,
        (pattern, _) => pattern,
    };
    if texts == 0 {
        return pattern;
    }
    match pattern {
        // A mix of text and numbers is names only if the numbers follow a naming pattern.
        First::NumbersAsNames(why) => First::NumbersAsNames(why),
        _ if names == 0 => First::RowWithText,
        _ => First::Unclear("some of its fields are numbers, and some are text above numbers"),
    }
}

/// True and false above numbers are names: pandas writes them when it counts by a Boolean.
fn above_numbers(first: &[Class], rest: &[&[Class]]) -> Option<First> {
    let columns: Vec<usize> = (0..first.len()).filter(|column| first[*column] == Class::Bool).collect();
    let others = first.len() - columns.len();
    let is_alone = others == 0 || others == 1 && matches!(first[0], Class::Empty | Class::Text);
    let numbers = |column: &usize| rest.iter().all(|record| matches!(record[*column], Class::Number { .. }));
    (is_alone && !columns.is_empty() && !rest.is_empty() && columns.iter().all(numbers))
        .then_some(First::NumbersAsNames("true and false above numbers"))
}

/// Decides an empty first field, with values in all other fields, above a column without gaps: the corner above an
/// index, or a row with a gap.
fn corner(first: &[Class], rest: &[&[Class]]) -> Option<First> {
    let is_gap = |class: &Class| matches!(class, Class::Empty | Class::Missing);
    if first.len() < 2 || first[0] != Class::Empty || first[1..].iter().any(is_gap) || rest.is_empty() {
        return None;
    }
    if rest.iter().any(|record| is_gap(&record[0])) {
        return None;
    }
    let index = rest.len() > 1 && is_index(0, rest) || rest.iter().all(|record| record[0] == Class::Text);
    Some(if index {
        First::NumbersAsNames("the first field is empty, as above an index")
    } else {
        First::Unclear("its first field is empty, as above an index, and no field below it is empty")
    })
}

/// Decides from the numbers of the first record, ignoring its text.
fn pattern(first: &[Class], rest: &[&[Class]]) -> First {
    let Some(numbers) = Numbers::of(first, rest) else { return First::Row };
    if let Some(decided) = numbers.as_years() {
        return decided;
    }
    if numbers.whole && (numbers.progression == Some((0.0, 1.0)) || numbers.values == [0.0]) {
        return numbers.as_count_from_zero(first);
    }
    if numbers.continues {
        return First::Row;
    }
    if numbers.whole && numbers.progression == Some((1.0, 1.0)) && numbers.values.len() >= 3 {
        return numbers.as_count_from_one();
    }
    numbers.as_steps().unwrap_or_else(|| numbers.as_other(first))
}

/// The numbers of the first record, and evidence from the records below.
#[expect(clippy::struct_excessive_bools, reason = "each is separate evidence")]
struct Numbers<'a> {
    values: Vec<f64>,
    rest: &'a [&'a [Class]],
    /// Columns with a number in the first record.
    columns: Vec<usize>,
    /// Whether all are written as integers.
    whole: bool,
    /// First number and step, if all steps are equal.
    progression: Option<(f64, f64)>,
    /// Number of columns in which every number below has a decimal mark or an exponent.
    fractions: usize,
    /// Whether the first field is the empty corner above an index, or a name above numbers.
    names_index: bool,
    /// Whether the second record continues with the same steps.
    continues: bool,
    /// Whether a row below has the same numbers.
    repeats: bool,
    /// Whether a column continues with the step between its first two numbers, as time does.
    fits: bool,
}

impl<'a> Numbers<'a> {
    /// `None` unless all fields of the first record, or all but the first, are numbers, and there are rows below.
    fn of(first: &[Class], rest: &'a [&'a [Class]]) -> Option<Self> {
        let columns: Vec<usize> = (0..first.len()).filter(|i| matches!(first[*i], Class::Number { .. })).collect();
        let corner = matches!(first[0], Class::Text | Class::Empty);
        if columns.is_empty() || columns.len() != first.len() - usize::from(corner) || rest.is_empty() {
            return None;
        }
        let below_corner = |is: fn(&Class) -> bool| rest.iter().all(|record| is(&record[0]));
        let names_index = match first[0] {
            Class::Empty => is_index(0, rest) || below_corner(|class| *class == Class::Text),
            Class::Text => below_corner(|class| matches!(class, Class::Number { .. })),
            _ => false,
        };
        if first[0] == Class::Empty && !names_index {
            return None;
        }
        let values: Vec<f64> = columns.iter().filter_map(|column| value(first[*column])).collect();
        let second: Vec<f64> = columns.iter().filter_map(|column| value(rest[0][*column])).collect();
        let progression = steps(&values);
        let n = values.len();
        let continues = progression.is_some_and(|(zero, step)| {
            // Rows that continue the count, or sliding windows: the third row moves as far as the second.
            let begins_third = rest.get(1).map(|record| value(record[columns[0]]));
            steps(&second).is_some_and(|(begin, other)| {
                let moves_on = match begins_third {
                    None => begin == zero + step,
                    Some(third) => third.is_some_and(|third| begin != zero && third - begin == begin - zero),
                };
                let decided = n >= 3 || n == 2 && begins_third.is_some();
                other == step && (begin == values[n - 1] + step && begins_third.is_none() || decided && moves_on)
            })
        });
        Some(Self {
            whole: columns.iter().all(|column| matches!(first[*column], Class::Number { whole: true, .. })),
            fractions: columns.iter().filter(|column| has_fractions(rest, **column)).count(),
            repeats: rest.iter().any(|record| columns.iter().all(|i| value(record[*i]) == value(first[*i]))),
            fits: columns.iter().any(|column| goes_on(first, rest, *column)),
            values,
            rest,
            columns,
            progression,
            names_index,
            continues,
        })
    }

    fn as_years(&self) -> Option<First> {
        let n = self.values.len();
        let is_year = |number: f64| YEARS.contains(&number) && number.fract() == 0.0;
        if !self.values.iter().all(|number| is_year(*number)) || !is_monotone(&self.values) {
            return None;
        }
        let consecutive = n >= 3 && self.progression.is_some_and(|(_, step)| step.abs() == 1.0);
        let below = self.rest.iter().flat_map(|record| self.columns.iter().filter_map(|column| value(record[*column])));
        Some(match below.filter(|number| is_year(*number)).count() {
            0 if n >= 2 || self.names_index => First::NumbersAsNames("years"),
            0 => First::Unclear("it is a year, and no number below it is a year"),
            _ if n == 1 => return None,
            _ if consecutive && !self.continues => {
                First::Unclear("its fields are years, one after the other, and there are years below them")
            }
            years if years * 2 > self.rest.len() * n => First::Row,
            _ => First::Unclear("its fields are years in order, and so are some below them"),
        })
    }

    fn as_count_from_zero(&self, first: &[Class]) -> First {
        let names = First::NumbersAsNames("0, 1, 2 and so on");
        let n = self.values.len();
        if self.continues && n > 1 {
            return match self.fractions {
                0 => First::Row,
                _ => First::Unclear("its fields are 0, 1, 2 and so on, and the next row counts too"),
            };
        }
        if self.repeats {
            return First::Unclear("its fields are 0, 1, 2 and so on, and so are those of a row below");
        }
        if self.names_index {
            return names;
        }
        if n == 1 {
            return First::Unclear("it is 0, as pandas names the only column");
        }
        if self.fits {
            return First::Unclear("its fields are 0, 1, 2 and so on, and a column continues them");
        }
        let unlikely = combinations(&self.columns, self.rest) > COMBINATIONS_MIN && !is_sorted(first, self.rest);
        // With few rows, two numbers can be 0 and 1 by chance.
        let enough = n > 2 || self.rest.len() >= FEW_ROWS;
        if self.fractions >= 2 || unlikely && enough {
            names
        } else {
            First::Unclear("its fields are 0, 1 and so on, as pandas names columns")
        }
    }

    fn as_count_from_one(&self) -> First {
        if self.repeats || self.fits {
            First::Row
        } else if self.fractions >= 2 && far_outside(&self.values, &self.columns, self.rest) {
            First::NumbersAsNames("1, 2, 3 and so on")
        } else {
            First::Unclear("its fields are 1, 2, 3 and so on")
        }
    }

    /// Decides numbers in equal steps: at least four integers, or three other numbers. `None` if they are no pattern.
    fn as_steps(&self) -> Option<First> {
        let (_, step) = self.progression?;
        let another = |record: &&[Class]| {
            let row: Vec<f64> = self.columns.iter().filter_map(|column| value(record[*column])).collect();
            steps(&row).is_some_and(|(_, step)| step != 0.0)
        };
        // Three integers in equal steps occur by chance.
        let fewest = if self.whole { 4 } else { 3 };
        if self.values.len() < fewest || step == 0.0 || self.repeats || self.fits || self.rest.iter().any(another) {
            return None;
        }
        Some(if self.whole && self.fractions >= 2 {
            First::NumbersAsNames("whole numbers in equal steps")
        } else {
            First::Unclear("its fields rise or fall in equal steps, unlike those of any row below")
        })
    }

    /// Decides numbers without a pattern: ambiguous if they are written differently from all numbers below, otherwise a
    /// row.
    fn as_other(&self, first: &[Class]) -> First {
        let n = self.values.len();
        if self.rest.len() < 3 {
            return First::Row;
        }
        if n >= 3 && self.whole && self.fractions == n && is_monotone(&self.values) && !self.fits {
            return First::Unclear("its fields are whole numbers in order, and all numbers below have a decimal mark");
        }
        if is_short_above_long(first, self.rest, &self.columns) && is_distinct(&self.values) {
            return First::Unclear("its numbers have few digits, and all numbers below have many");
        }
        First::Row
    }
}

fn value(class: Class) -> Option<f64> {
    if let Class::Number { value, .. } = class { Some(value) } else { None }
}

/// Whether a column continues with the step between its first two numbers.
fn goes_on(first: &[Class], rest: &[&[Class]], column: usize) -> bool {
    let at = |row: usize| rest.get(row).and_then(|record| value(record[column]));
    let (Some(zero), Some(one), Some(two)) = (value(first[column]), at(0), at(1)) else { return false };
    let step = two - one;
    let on = rest.len() < 3 || at(2).is_some_and(|three| near(three - two, step));
    step != 0.0 && near(step, one - zero) && on
}

/// The first number and the step, if all steps are equal.
fn steps(numbers: &[f64]) -> Option<(f64, f64)> {
    let [first, second, ..] = numbers else { return None };
    let step = second - first;
    numbers.windows(2).all(|pair| near(pair[1] - pair[0], step)).then_some((*first, step))
}

/// Number of possible rows: the product of the ranges of the columns.
fn combinations(columns: &[usize], rest: &[&[Class]]) -> f64 {
    let widths = columns.iter().map(|column| {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for record in rest {
            match record[*column] {
                Class::Number { whole: false, .. } => return COMBINATIONS_MIN,
                Class::Number { value, .. } => (low, high) = (low.min(value), high.max(value)),
                _ => {}
            }
        }
        if high > low { high - low + 1.0 } else { 1.0 }
    });
    widths.product()
}

/// Whether the rows are in ascending order, as in a list of all combinations.
fn is_sorted(first: &[Class], rest: &[&[Class]]) -> bool {
    let values = |record: &[Class]| -> Vec<f64> {
        let value = |class: &Class| if let Class::Number { value, .. } = class { *value } else { 0.0 };
        record.iter().map(value).collect()
    };
    let rows: Vec<Vec<f64>> = std::iter::once(first).chain(rest.iter().copied()).map(values).collect();
    rows.len() > 2 && rows.windows(2).all(|pair| pair[0] <= pair[1])
}

/// Whether the numbers of the first record have few digits, and at least 90 % of those below have many.
fn is_short_above_long(first: &[Class], rest: &[&[Class]], columns: &[usize]) -> bool {
    let digits = |class: Class| if let Class::Number { digits, .. } = class { digits } else { 0 };
    columns.iter().all(|column| {
        let long = rest.iter().filter(|record| digits(record[*column]) >= FULL_DIGITS_MIN).count();
        digits(first[*column]) <= NAME_DIGITS_MAX && long * 10 >= rest.len() * 9
    })
}

fn is_distinct(numbers: &[f64]) -> bool {
    let mut bits: Vec<u64> = numbers.iter().map(|number| number.to_bits()).collect();
    bits.sort_unstable();
    bits.windows(2).all(|pair| pair[0] != pair[1])
}

/// Equal, up to the rounding of differences of decimal numbers.
fn near(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-9 * a.abs().max(b.abs())
}

fn is_monotone(numbers: &[f64]) -> bool {
    numbers.windows(2).all(|pair| pair[0] < pair[1]) || numbers.windows(2).all(|pair| pair[0] > pair[1])
}

fn has_fractions(rest: &[&[Class]], column: usize) -> bool {
    let mut any = false;
    rest.iter().all(|record| match record[column] {
        Class::Number { whole, .. } => {
            any = true;
            !whole
        }
        Class::Empty | Class::Missing => true,
        Class::Bool | Class::Odd | Class::Text => false,
    }) && any
}

/// Whether at least a third of the numbers are farther outside their column's range than that range is wide.
fn far_outside(numbers: &[f64], columns: &[usize], rest: &[&[Class]]) -> bool {
    let far = numbers.iter().zip(columns).filter(|(number, column)| {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for record in rest {
            if let Class::Number { value, .. } = record[**column] {
                (low, high) = (low.min(value), high.max(value));
            }
        }
        let width = high - low;
        **number < low - width || **number > high + width
    });
    far.count() * 3 >= numbers.len()
}

/// Whether a record below the names is a second header line, such as units: text above numbers, and no number in it.
pub(super) fn is_second_header(record: &[Class], rest: &[Vec<Class>]) -> bool {
    let has_value = record.iter().any(|class| matches!(class, Class::Number { .. } | Class::Bool | Class::Odd));
    let numbers_below = |column: usize| {
        rest.iter().any(|record| matches!(record.get(column), Some(Class::Number { .. } | Class::Bool)))
    };
    !has_value && record.iter().enumerate().any(|(column, class)| *class == Class::Text && numbers_below(column))
}

/// Whether a record below names with an empty corner is another level of names, as pandas writes them: only its first
/// field is empty, and the first column below is an index.
pub(super) fn is_level(record: &[Class], rest: &[Vec<Class>]) -> bool {
    let filled = record.iter().skip(1).all(|class| !matches!(class, Class::Empty | Class::Missing));
    let index = is_index(0, rest) || !rest.is_empty() && rest.iter().all(|row| row.first() == Some(&Class::Text));
    record.len() > 1 && record[0] == Class::Empty && filled && index
}

/// Whether a record is only the name of an index: text, followed by empty fields.
pub(super) fn is_index_name(record: &[Class]) -> bool {
    record.len() > 1 && record[0] == Class::Text && record[1..].iter().all(|class| *class == Class::Empty)
}

/// Whether a column is an index: distinct integers in every row.
pub(super) fn is_index<R: AsRef<[Class]>>(column: usize, rows: &[R]) -> bool {
    let mut seen = std::collections::HashSet::new();
    !rows.is_empty()
        && rows.iter().all(|row| match row.as_ref().get(column) {
            Some(Class::Number { value, whole: true, .. }) => seen.insert(value.to_bits()),
            _ => false,
        })
}

#[cfg(test)]
mod tests;
