//! Numbers of Arrow's arrays.

use arrow_array::cast::AsArray;
use arrow_array::types::{
    ArrowPrimitiveType, Float16Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type,
    UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{Array, ArrayRef, PrimitiveArray};
use arrow_schema::{DataType, Field};

use crate::files::{FileError, Place};
use crate::model::Missing;

/// A column of the file: one or more of the rows that come out.
pub(super) struct Column {
    pub(super) name: String,
    /// Its place in a batch.
    pub(super) index: usize,
    /// Its first place in a row.
    pub(super) first: usize,
    /// Length of its lists; nothing for plain numbers.
    pub(super) width: Option<usize>,
}

/// Something in a batch that is not as it has to be.
pub(super) struct Wrong {
    /// Which row, from the first that was asked for, at 0.
    pub(super) row: usize,
    pub(super) column: String,
    pub(super) got: String,
    pub(super) expected: String,
}

const LISTS: &str = "lists of floats or whole numbers of one length";

fn is_number(data_type: &DataType) -> bool {
    data_type.is_integer() || matches!(data_type, DataType::Float16 | DataType::Float32 | DataType::Float64)
}

fn list_of(data_type: &DataType) -> Option<&Field> {
    match data_type {
        DataType::List(field) | DataType::LargeList(field) | DataType::FixedSizeList(field, _) => Some(field),
        _ => None,
    }
}

/// Refuses a column that has no numbers.
pub(super) fn check_type(path: &str, field: &Field) -> Result<(), FileError> {
    let data_type = field.data_type();
    if is_number(data_type) || list_of(data_type).is_some_and(|item| is_number(item.data_type())) {
        return Ok(());
    }
    Err(FileError::at(
        path,
        Place::Column(field.name().clone()),
        format!("it holds {data_type}"),
        format!("floats, whole numbers, or {LISTS}: leave it out, or choose other columns"),
    ))
}

/// The length of a column's lists, by the first of them; nothing for plain numbers.
pub(super) fn width(path: &str, field: &Field, array: &ArrayRef) -> Result<Option<usize>, FileError> {
    let width = match array.data_type() {
        DataType::FixedSizeList(_, length) => usize::try_from(*length).unwrap_or(0),
        DataType::List(_) => array.as_list::<i32>().value_length(0) as usize,
        DataType::LargeList(_) => array.as_list::<i64>().value_length(0) as usize,
        _ => return Ok(None),
    };
    if width == 0 {
        let got = if array.is_null(0) { "its first row is null" } else { "its lists are empty" };
        return Err(FileError::at(path, Place::Column(field.name().clone()), got, LISTS));
    }
    Ok(Some(width))
}

/// Whether an array holds 8-bit whole numbers without a sign.
pub(super) fn is_bytes(array: &ArrayRef) -> bool {
    list_of(array.data_type()).map_or(array.data_type(), Field::data_type) == &DataType::UInt8
}

impl Column {
    /// The name of one of its numbers.
    pub(super) fn name_of(&self, place: usize) -> String {
        if self.width.is_some() { format!("{}[{place}]", self.name) } else { self.name.clone() }
    }

    /// Writes the numbers of `rows` rows from `next` on to their places in `target`, rows of `stride` numbers; NaN where one is null
    /// and may be missing.
    pub(super) fn fill(
        &self,
        array: &ArrayRef,
        next: usize,
        rows: usize,
        target: &mut [f64],
        stride: usize,
        missing: Missing,
    ) -> Result<(), Wrong> {
        // A list that is missing altogether has no length.
        let whole = self.width.is_some() || missing == Missing::Refused;
        if whole && let Some(row) = (0..rows).find(|row| array.is_null(next + row)) {
            return Err(wrong(row, self.name.clone(), "null", "a value in every row"));
        }
        let Some(width) = self.width else {
            return self.spread(&array.slice(next, rows), 1, target, stride, missing);
        };
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
        self.spread(&numbers, width, target, stride, missing)
    }

    fn check_lengths(&self, width: usize, rows: usize, length: impl Fn(usize) -> usize) -> Result<(), Wrong> {
        let Some(row) = (0..rows).find(|row| length(*row) != width) else { return Ok(()) };
        let got = format!("a list of {}", length(row));
        Err(wrong(row, self.name.clone(), &got, &format!("{width} numbers as in the first row")))
    }

    /// Numbers of which `width` belong to each row.
    fn spread(
        &self,
        array: &ArrayRef,
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
            // The schema was checked; a batch that has other columns than it says is a mistake of the file.
            other => return Err(wrong(0, self.name.clone(), &other.to_string(), "what the schema says")),
        }
        Ok(())
    }
}

fn wrong(row: usize, column: String, got: &str, expected: &str) -> Wrong {
    Wrong { row, column, got: got.to_owned(), expected: expected.to_owned() }
}

fn each<T: ArrowPrimitiveType>(
    array: &ArrayRef,
    number: impl Fn(T::Native) -> f64,
    place: &mut impl FnMut(usize, f64),
) {
    let array: &PrimitiveArray<T> = array.as_primitive();
    array.values().iter().enumerate().for_each(|(index, value)| place(index, number(*value)));
}
