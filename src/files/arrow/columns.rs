//! Converts Arrow arrays to numbers.

use arrow_array::cast::AsArray;
use arrow_array::types::{
    ArrowPrimitiveType, Date32Type, Date64Type, Decimal128Type, DurationMicrosecondType, DurationMillisecondType,
    DurationNanosecondType, DurationSecondType, Float16Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type,
    Int64Type, TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType,
    UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{Array, ArrayRef, PrimitiveArray};
use arrow_schema::{DataType, Field, TimeUnit};

use crate::files::{FileError, Location};
use crate::model::Missing;

/// A column of the file: one or more columns of the resulting rows.
pub(super) struct Column {
    pub(super) name: String,
    /// Its index in a batch.
    pub(super) index: usize,
    /// The index of its first value in a row.
    pub(super) first: usize,
    /// Length of its lists; `None` for plain numbers.
    pub(super) width: Option<usize>,
    /// Whether it can have integers beyond 2^53.
    pub(super) is_long: bool,
}

/// Whether a column's type can have integers beyond 2^53.
pub(super) fn is_long(field: &Field) -> bool {
    let data_type = list_of(field.data_type()).map_or(field.data_type(), Field::data_type);
    let value = if let DataType::Dictionary(_, value) = data_type { value } else { data_type };
    matches!(value, DataType::Int64 | DataType::UInt64 | DataType::Decimal128(..)) || time_unit(value).is_some()
}

/// An invalid value in a batch.
pub(super) struct Wrong {
    /// The row, from 0, relative to the first requested row.
    pub(super) row: usize,
    pub(super) column: String,
    pub(super) got: String,
    pub(super) expected: String,
}

const LISTS: &str = "lists of floats or whole numbers of one length";

fn is_number(data_type: &DataType) -> bool {
    match data_type {
        DataType::Boolean | DataType::Float16 | DataType::Float32 | DataType::Float64 => true,
        DataType::Decimal128(_, scale) => (0..=DECIMAL_SCALE_MAX).contains(scale),
        DataType::Dictionary(_, values) => !matches!(**values, DataType::Dictionary(..)) && is_number(values),
        other => other.is_integer() || time_unit(other).is_some(),
    }
}

/// Powers of ten up to this are exact in f64.
const DECIMAL_SCALE_MAX: i8 = 22;

/// The unit of a time or duration as f64; `None` for other types. It does not depend on the unit in the file: programs
/// write different units, and a model must score files of all of them.
fn time_unit(data_type: &DataType) -> Option<&'static str> {
    match data_type {
        DataType::Timestamp(..) | DataType::Date32 | DataType::Date64 => Some("seconds since 1970"),
        DataType::Duration(_) => Some("seconds"),
        _ => None,
    }
}

/// A note on how the column is read, if that is not obvious.
pub(super) fn note(field: &Field) -> Option<String> {
    let name = field.name();
    if name.starts_with("__index_level_") {
        return Some(format!("column {name} is an index of pandas (--drop-columns {name} leaves it out)"));
    }
    let data_type = list_of(field.data_type()).map_or(field.data_type(), Field::data_type);
    time_unit(data_type).map(|unit| format!("column {name} is read as {unit}"))
}

fn list_of(data_type: &DataType) -> Option<&Field> {
    match data_type {
        DataType::List(field) | DataType::LargeList(field) | DataType::FixedSizeList(field, _) => Some(field),
        _ => None,
    }
}

/// Rejects a column without numbers.
pub(super) fn check_type(path: &str, field: &Field) -> Result<(), FileError> {
    let data_type = field.data_type();
    if is_number(data_type) || list_of(data_type).is_some_and(|item| is_number(item.data_type())) {
        return Ok(());
    }
    Err(FileError::at(
        path,
        Location::Column(field.name().clone()),
        match data_type {
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => format!("it holds text ({data_type})"),
            other => format!("it holds {other}"),
        },
        format!("floats, whole numbers, or {LISTS}: leave it out with --drop-columns, or choose others with --columns"),
    ))
}

/// Whether a column stores indices into a dictionary instead of numbers.
pub(super) fn is_dictionary(field: &Field) -> bool {
    matches!(list_of(field.data_type()).map_or(field.data_type(), Field::data_type), DataType::Dictionary(..))
}

/// The length of a column's lists, from the first list that is not null; `None` for plain numbers.
pub(super) fn width(path: &str, field: &Field, array: &ArrayRef) -> Result<Option<usize>, FileError> {
    let first = (0..array.len()).find(|row| array.is_valid(*row)).unwrap_or(0);
    let width = match array.data_type() {
        DataType::FixedSizeList(_, length) => usize::try_from(*length).unwrap_or(0),
        DataType::List(_) => array.as_list::<i32>().value_length(first) as usize,
        DataType::LargeList(_) => array.as_list::<i64>().value_length(first) as usize,
        _ => return Ok(None),
    };
    if width == 0 {
        let got = if array.is_null(first) { "its first rows are null" } else { "its lists are empty" };
        return Err(FileError::at(path, Location::Column(field.name().clone()), got, LISTS));
    }
    Ok(Some(width))
}

/// Whether an array holds unsigned 8-bit integers.
pub(super) fn is_bytes(array: &ArrayRef) -> bool {
    list_of(array.data_type()).map_or(array.data_type(), Field::data_type) == &DataType::UInt8
}

impl Column {
    /// The name of the number at `place` in its lists.
    pub(super) fn name_of(&self, place: usize) -> String {
        if self.width.is_some() { format!("{}[{place}]", self.name) } else { self.name.clone() }
    }

    /// Writes the numbers of `rows` rows, from row `next` on, into `target`, whose rows have `stride` numbers. A null
    /// becomes NaN if values may be missing, otherwise an error.
    pub(super) fn fill(
        &self,
        array: &ArrayRef,
        next: usize,
        rows: usize,
        target: &mut [f64],
        stride: usize,
        missing: Missing,
    ) -> Result<(), Wrong> {
        if missing == Missing::Refused
            && let Some(row) = (0..rows).find(|row| array.is_null(next + row))
        {
            return Err(wrong(row, self.name.clone(), "null", "a value in every row"));
        }
        let Some(width) = self.width else {
            return self.spread(array.slice(next, rows).as_ref(), 1, target, stride, missing);
        };
        // A null list has no length: fill its places with NaN, row by row.
        if array.slice(next, rows).null_count() > 0 {
            for (row, target) in target.chunks_mut(stride).take(rows).enumerate() {
                if array.is_null(next + row) {
                    target[self.first..self.first + width].fill(f64::NAN);
                } else {
                    let filled = self.fill(&array.slice(next + row, 1), 0, 1, target, stride, missing);
                    filled.map_err(|wrong| Wrong { row, ..wrong })?;
                }
            }
            return Ok(());
        }
        let numbers = match array.data_type() {
            DataType::List(_) => {
                let list = array.as_list::<i32>();
                self.check_lengths(width, rows, |row| list.value_length(next + row) as usize)?;
                list.values().slice(list.value_offsets()[next] as usize, rows * width)
            }
            DataType::LargeList(_) => {
                let list = array.as_list::<i64>();
                self.check_lengths(width, rows, |row| list.value_length(next + row) as usize)?;
                list.values().slice(list.value_offsets()[next] as usize, rows * width)
            }
            _ => {
                let list = array.as_fixed_size_list();
                list.values().slice(list.value_offset_at(next), rows * width)
            }
        };
        self.spread(numbers.as_ref(), width, target, stride, missing)
    }

    fn check_lengths(&self, width: usize, rows: usize, length: impl Fn(usize) -> usize) -> Result<(), Wrong> {
        let Some(row) = (0..rows).find(|row| length(*row) != width) else { return Ok(()) };
        let got = format!("a list of {}", length(row));
        Err(wrong(row, self.name.clone(), &got, &format!("{width} numbers as in the first row")))
    }

    /// Writes numbers, `width` for each row, into `target`.
    fn spread(
        &self,
        array: &dyn Array,
        width: usize,
        target: &mut [f64],
        stride: usize,
        missing: Missing,
    ) -> Result<(), Wrong> {
        if missing == Missing::Refused
            && array.null_count() > 0
            && let Some(index) = (0..array.len()).find(|index| array.is_null(*index))
        {
            let name = self.name_of(index % width);
            return Err(wrong(index / width, name, "null", "a number"));
        }
        let mut place = |index: usize, value: f64| {
            let value = if array.is_null(index) { f64::NAN } else { value };
            target[index / width * stride + self.first + index % width] = value;
        };
        match array.data_type() {
            DataType::Int8 => each::<Int8Type>(array, f64::from, &mut place),
            DataType::Int16 => each::<Int16Type>(array, f64::from, &mut place),
            DataType::Int32 => each::<Int32Type>(array, f64::from, &mut place),
            DataType::Int64 => each::<Int64Type>(array, |value| value as f64, &mut place),
            DataType::UInt8 => each::<UInt8Type>(array, f64::from, &mut place),
            DataType::UInt16 => each::<UInt16Type>(array, f64::from, &mut place),
            DataType::UInt32 => each::<UInt32Type>(array, f64::from, &mut place),
            DataType::UInt64 => each::<UInt64Type>(array, |value| value as f64, &mut place),
            DataType::Float16 => each::<Float16Type>(array, half::f16::to_f64, &mut place),
            DataType::Float32 => each::<Float32Type>(array, f64::from, &mut place),
            DataType::Float64 => each::<Float64Type>(array, |value| value, &mut place),
            DataType::Boolean => {
                let values = array.as_boolean();
                (0..values.len()).for_each(|index| place(index, f64::from(u8::from(values.value(index)))));
            }
            DataType::Decimal128(_, scale) => {
                let power = 10f64.powi(i32::from(*scale));
                each::<Decimal128Type>(array, |value| value as f64 / power, &mut place);
            }
            DataType::Date32 => each::<Date32Type>(array, |days| f64::from(days) * DAY_SECONDS, &mut place),
            DataType::Date64 => each::<Date64Type>(array, |value| seconds(value, TimeUnit::Millisecond), &mut place),
            DataType::Timestamp(unit, _) => {
                let number = |value| seconds(value, *unit);
                match unit {
                    TimeUnit::Second => each::<TimestampSecondType>(array, number, &mut place),
                    TimeUnit::Millisecond => each::<TimestampMillisecondType>(array, number, &mut place),
                    TimeUnit::Microsecond => each::<TimestampMicrosecondType>(array, number, &mut place),
                    TimeUnit::Nanosecond => each::<TimestampNanosecondType>(array, number, &mut place),
                }
            }
            DataType::Duration(unit) => {
                let number = |value| seconds(value, *unit);
                match unit {
                    TimeUnit::Second => each::<DurationSecondType>(array, number, &mut place),
                    TimeUnit::Millisecond => each::<DurationMillisecondType>(array, number, &mut place),
                    TimeUnit::Microsecond => each::<DurationMicrosecondType>(array, number, &mut place),
                    TimeUnit::Nanosecond => each::<DurationNanosecondType>(array, number, &mut place),
                }
            }
            DataType::Dictionary(..) => {
                let dictionary = array.as_any_dictionary();
                let mut known = vec![0.0; dictionary.values().len()];
                let column = Self { name: self.name.clone(), index: 0, first: 0, width: None, is_long: false };
                // An unused dictionary value may be null.
                column.spread(dictionary.values().as_ref(), 1, &mut known, 1, Missing::Allowed)?;
                if known.is_empty() {
                    // Every row is null; unless nulls are allowed, the check above has rejected that.
                    (0..array.len()).for_each(|index| place(index, f64::NAN));
                    return Ok(());
                }
                let nulls = dictionary.values().logical_nulls();
                let is_null = |key: usize| nulls.as_ref().is_some_and(|nulls| nulls.is_null(key));
                for (index, key) in dictionary.normalized_keys().into_iter().enumerate() {
                    if missing == Missing::Refused && !array.is_null(index) && is_null(key) {
                        return Err(wrong(index / width, self.name_of(index % width), "null", "a number"));
                    }
                    // The key of a null is arbitrary.
                    place(index, known.get(key).copied().unwrap_or(f64::NAN));
                }
            }
            // `check_type` accepted the schema, so this batch contradicts its schema.
            other => return Err(wrong(0, self.name.clone(), &other.to_string(), "what the schema says")),
        }
        Ok(())
    }
}

const DAY_SECONDS: f64 = 86_400.0;

/// Converts a count of `unit` to seconds. The same time gives the same f64 in every unit.
fn seconds(value: i64, unit: TimeUnit) -> f64 {
    let per_second = match unit {
        TimeUnit::Second => 1,
        TimeUnit::Millisecond => 1_000,
        TimeUnit::Microsecond => 1_000_000,
        TimeUnit::Nanosecond => 1_000_000_000,
    };
    // A count beyond 2^53 is not exact in f64, but whole seconds and the fraction are.
    value.div_euclid(per_second) as f64 + value.rem_euclid(per_second) as f64 / per_second as f64
}

fn wrong(row: usize, column: String, got: &str, expected: &str) -> Wrong {
    Wrong { row, column, got: got.to_owned(), expected: expected.to_owned() }
}

fn each<T: ArrowPrimitiveType>(
    array: &dyn Array,
    number: impl Fn(T::Native) -> f64,
    place: &mut impl FnMut(usize, f64),
) {
    let array: &PrimitiveArray<T> = array.as_primitive();
    array.values().iter().enumerate().for_each(|(index, value)| place(index, number(*value)));
}
