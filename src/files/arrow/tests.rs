//! Reads files written by the crates' own writers, and damaged or unsupported files.

use std::io::Cursor;
use std::sync::{Arc, LazyLock};

use arrow_array::builder::{Float32Builder, ListBuilder};
use arrow_array::types::Float16Type;
use arrow_array::{
    Array, ArrayRef, FixedSizeListArray, Float32Array, Float64Array, Int16Array, PrimitiveArray, RecordBatch,
    StringArray, UInt8Array,
};
use arrow_ipc::CompressionType;
use arrow_ipc::writer::{FileWriter, IpcWriteOptions, StreamWriter};
use arrow_schema::{DataType, Field, Schema};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, GzipLevel, ZstdLevel};
use parquet::file::properties::WriterProperties;
use proptest::prelude::*;

use crate::files::{FileError, ReadOptions, RowReader, open, read};

const ROWS: usize = 10;
/// Rows in one batch or row group.
const BATCH: usize = 4;

/// A text column, three number types, a fixed-size list and a variable-size list.
fn batch() -> RecordBatch {
    let numbers = || (0i16..).take(ROWS);
    let name: ArrayRef = Arc::new(StringArray::from_iter_values(numbers().map(|row| format!("row {row}"))));
    let a: ArrayRef = Arc::new(Float64Array::from_iter_values(numbers().map(|row| f64::from(row) + 0.5)));
    let b: ArrayRef = Arc::new(Int16Array::from_iter_values(numbers().map(|row| -row)));
    let half = <Float16Type as arrow_array::types::ArrowPrimitiveType>::Native::from_f32;
    let c: ArrayRef = Arc::new(PrimitiveArray::<Float16Type>::from_iter_values(numbers().map(|row| half(row.into()))));
    let pixels = UInt8Array::from_iter_values((0..2 * ROWS).map(|value| value as u8));
    let item = Arc::new(Field::new("item", DataType::UInt8, false));
    let pixels: ArrayRef = Arc::new(FixedSizeListArray::new(item, 2, Arc::new(pixels), None));
    let mut lists = ListBuilder::new(Float32Builder::new());
    for row in numbers() {
        lists.append_value([f32::from(row), 1.0, 2.0].map(Some));
    }
    let lists: ArrayRef = Arc::new(lists.finish());
    let columns = [("name", name), ("a", a), ("b", b), ("c", c), ("pixels", pixels), ("lists", lists)];
    RecordBatch::try_from_iter(columns).expect("columns of one length")
}

/// The rows without the text column, row-major.
fn expected() -> Vec<f64> {
    let row = |row: usize| {
        let value = row as f64;
        [value + 0.5, -value, value, 2.0 * value, 2.0 * value + 1.0, value, 1.0, 2.0]
    };
    (0..ROWS).flat_map(row).collect()
}

fn pieces(batch: &RecordBatch) -> Vec<RecordBatch> {
    let rows = batch.num_rows();
    (0..rows).step_by(BATCH).map(|first| batch.slice(first, BATCH.min(rows - first))).collect()
}

fn parquet_of(batch: &RecordBatch, compression: Compression) -> Vec<u8> {
    let properties =
        WriterProperties::builder().set_compression(compression).set_max_row_group_row_count(Some(BATCH)).build();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties)).expect("a writer");
    writer.write(batch).expect("writes");
    writer.into_inner().expect("finishes")
}

fn options(compression: Option<CompressionType>) -> IpcWriteOptions {
    IpcWriteOptions::default().try_with_compression(compression).expect("built in")
}

fn file_of(batch: &RecordBatch, compression: Option<CompressionType>) -> Vec<u8> {
    let mut writer =
        FileWriter::try_new_with_options(Vec::new(), &batch.schema(), options(compression)).expect("a writer");
    pieces(batch).iter().for_each(|piece| writer.write(piece).expect("writes"));
    writer.finish().expect("finishes");
    writer.into_inner().expect("bytes")
}

fn stream_of(batch: &RecordBatch, compression: Option<CompressionType>) -> Vec<u8> {
    let mut writer =
        StreamWriter::try_new_with_options(Vec::new(), &batch.schema(), options(compression)).expect("a writer");
    pieces(batch).iter().for_each(|piece| writer.write(piece).expect("writes"));
    writer.finish().expect("finishes");
    writer.into_inner().expect("bytes")
}

/// The batch in every format, with and without compression.
fn files(batch: &RecordBatch) -> Vec<(&'static str, Vec<u8>)> {
    let (lz4, zstd) = (Some(CompressionType::LZ4_FRAME), Some(CompressionType::ZSTD));
    vec![
        ("plain.parquet", parquet_of(batch, Compression::UNCOMPRESSED)),
        ("snappy.parquet", parquet_of(batch, Compression::SNAPPY)),
        ("zstd.parquet", parquet_of(batch, Compression::ZSTD(ZstdLevel::default()))),
        ("gzip.parquet", parquet_of(batch, Compression::GZIP(GzipLevel::default()))),
        ("lz4.parquet", parquet_of(batch, Compression::LZ4_RAW)),
        ("plain.arrow", file_of(batch, None)),
        ("lz4.arrow", file_of(batch, lz4)),
        ("plain.arrows", stream_of(batch, None)),
        ("zstd.arrows", stream_of(batch, zstd)),
    ]
}

fn without_names() -> ReadOptions {
    ReadOptions { drop_columns: vec!["name".to_owned()], ..ReadOptions::default() }
}

fn reader(name: &str, bytes: &[u8], options: &ReadOptions) -> Result<Box<dyn RowReader>, FileError> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).expect("writes");
    open(&path, options)
}

fn read_all(mut reader: Box<dyn RowReader>, rows_max: usize) -> Result<Vec<f64>, FileError> {
    let (mut values, columns) = (Vec::new(), reader.columns());
    loop {
        let before = values.len();
        let rows = reader.next_rows(&mut values, rows_max)?;
        assert_eq!(values.len() - before, rows * columns, "whole rows");
        if rows == 0 {
            return Ok(values);
        }
    }
}

fn read_file(name: &str, bytes: &[u8], options: &ReadOptions) -> Result<Vec<f64>, FileError> {
    read_all(reader(name, bytes, options)?, 3)
}

#[track_caller]
fn check_refused(batch: &RecordBatch, options: &ReadOptions, texts: &[&str]) {
    for (name, bytes) in files(batch) {
        let error = read_file(name, &bytes, options).expect_err("refused").to_string();
        for text in texts {
            assert!(error.contains(text) && error.contains(name), "{error:?} does not say {text:?}");
        }
    }
}

#[test]
fn every_format_gives_the_same_rows() {
    for (name, bytes) in files(&batch()) {
        for rows_max in [1, 3, 1000] {
            let reader = reader(name, &bytes, &without_names()).expect(name);
            assert_eq!(reader.columns(), 8);
            assert_eq!(reader.names(), ["a", "b", "c", "pixels[0]", "pixels[1]", "lists[0]", "lists[1]", "lists[2]"]);
            assert_eq!(reader.rows_hint(), name.ends_with("parquet").then_some(ROWS as u64));
            assert_eq!(read_all(reader, rows_max).expect(name), expected(), "{name}");
        }
    }
}

#[test]
fn streams_files_gzip_and_parquet_are_read_from_a_pipe() {
    use std::io::Write;
    let bytes = stream_of(&batch(), None);
    let file = file_of(&batch(), None);
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(&bytes).expect("packs");
    for bytes in [bytes, file, packed.finish().expect("packs")] {
        let reader = read("-", Cursor::new(bytes), &without_names()).expect("opens");
        assert_eq!(read_all(reader, 7).expect("reads"), expected());
    }
    let parquet = parquet_of(&batch(), Compression::SNAPPY);
    let reader = read("-", Cursor::new(parquet), &without_names()).expect("opens");
    assert_eq!(read_all(reader, 7).expect("reads"), expected());
}

#[test]
fn columns_are_taken_in_the_order_asked_for() {
    let columns = ["lists", "b", "2"].map(str::to_owned).to_vec();
    let take = ReadOptions { columns, ..ReadOptions::default() };
    for (name, bytes) in files(&batch()) {
        let reader = reader(name, &bytes, &take).expect(name);
        assert_eq!(reader.names(), ["lists[0]", "lists[1]", "lists[2]", "b", "a"]);
        assert_eq!(read_all(reader, 1).expect(name)[5..10], [1.0, 1.0, 2.0, -1.0, 1.5], "{name}");
    }
    let wrong = ReadOptions { columns: vec!["d".to_owned()], ..ReadOptions::default() };
    check_refused(&batch(), &wrong, &["\"d\" to take", "name, a, b, c, pixels, lists"]);
}

#[test]
fn byte_columns_are_recognized() {
    let pixels = ReadOptions { columns: vec!["pixels".to_owned()], ..ReadOptions::default() };
    for (name, bytes) in files(&batch()) {
        assert!(reader(name, &bytes, &pixels).expect(name).is_bytes(), "{name}");
        assert!(!reader(name, &bytes, &without_names()).expect(name).is_bytes(), "{name}");
    }
}

#[test]
fn columns_of_text_are_refused_by_name() {
    check_refused(&batch(), &ReadOptions::default(), &["column name", "Utf8", "floats, whole numbers"]);
}

#[track_caller]
fn check_column_refused(column: ArrayRef, texts: &[&str]) {
    let first: ArrayRef = Arc::new(Int16Array::from(vec![1; column.len()]));
    let batch = RecordBatch::try_from_iter_with_nullable([("first", first, false), ("bad", column, true)]);
    check_refused(&batch.expect("columns of one length"), &ReadOptions::default(), texts);
}

#[test]
fn nulls_and_non_finite_values_name_their_row_and_column() {
    let values = |bad: Option<f32>| -> ArrayRef {
        Arc::new((0..7).map(|row| if row == 5 { bad } else { Some(1.0) }).collect::<Float32Array>())
    };
    check_column_refused(values(None), &["row 6, column bad: null"]);
    check_column_refused(values(Some(f32::NAN)), &["row 6, column bad: NaN, expected a finite number"]);
    let large: ArrayRef = Arc::new(Float64Array::from(vec![1.0, f64::INFINITY]));
    check_column_refused(large, &["row 2, column bad: inf"]);
}

#[test]
fn nulls_are_missing_values_when_allowed() {
    let column: ArrayRef = Arc::new(Float32Array::from(vec![Some(1.0), None, Some(f32::NAN), Some(4.0)]));
    let whole: ArrayRef = Arc::new(Int16Array::from(vec![Some(1), Some(2), None, Some(4)]));
    let batch = RecordBatch::try_from_iter_with_nullable([("whole", whole, true), ("gaps", column, true)]);
    let options = ReadOptions { missing_values: true, ..ReadOptions::default() };
    for (name, bytes) in files(&batch.expect("columns of one length")) {
        let values = read_file(name, &bytes, &options).expect("reads");
        let found: Vec<Option<f64>> = values.into_iter().map(|value| Some(value).filter(|v| !v.is_nan())).collect();
        assert_eq!(found, [Some(1.0), Some(1.0), Some(2.0), None, None, None, Some(4.0), Some(4.0)]);
    }
}

/// A null list is missing in each of its places, even in the first row.
#[test]
fn a_null_list_is_missing_when_allowed() {
    let mut builder = ListBuilder::new(Float32Builder::new());
    builder.append_null();
    builder.append_value([Some(1.0), Some(2.0)]);
    builder.append_null();
    builder.append_value([Some(3.0), None]);
    let plain: ArrayRef = Arc::new(Int16Array::from(vec![7, 8, 9, 10]));
    let lists: ArrayRef = Arc::new(builder.finish());
    let batch = RecordBatch::try_from_iter_with_nullable([("plain", plain, true), ("lists", lists, true)]);
    let options = ReadOptions { missing_values: true, ..ReadOptions::default() };
    for (name, bytes) in files(&batch.expect("columns of one length")) {
        let values = read_file(name, &bytes, &options).expect("reads");
        let nan = f64::NAN;
        let expected = [7.0, nan, nan, 8.0, 1.0, 2.0, 9.0, nan, nan, 10.0, 3.0, nan];
        let bits = |values: &[f64]| values.iter().map(|v| if v.is_nan() { 0 } else { v.to_bits() }).collect::<Vec<_>>();
        assert_eq!(bits(&values), bits(&expected), "{name}: {values:?}");
    }
}

#[track_caller]
fn check_lists_refused(lists: &[Option<&[Option<f32>]>], texts: &[&str]) {
    let mut builder = ListBuilder::new(Float32Builder::new());
    for list in lists {
        match list {
            Some(values) => builder.append_value(values.iter().copied()),
            None => builder.append_null(),
        }
    }
    check_column_refused(Arc::new(builder.finish()), texts);
}

#[test]
fn lists_with_nulls_or_different_lengths_are_refused() {
    let (two, three) = (Some(&[Some(1.0); 2][..]), Some(&[Some(1.0); 3][..]));
    check_lists_refused(&[two, two, three], &["row 3, column bad: a list of 3, expected 2 numbers"]);
    check_lists_refused(&[two, two, two, two, two, None], &["row 6, column bad: null"]);
    check_lists_refused(&[two, Some(&[Some(1.0), None])], &["row 2, column bad[1]: null"]);
    check_lists_refused(&[None, two], &["row 1, column bad: null"]);
    check_lists_refused(&[Some(&[])], &["column bad: its lists are empty"]);
}

#[test]
fn files_without_rows_or_columns_are_refused() {
    check_refused(&batch().slice(0, 0), &without_names(), &["it has no rows"]);
    let none = RecordBatch::new_empty(Arc::new(Schema::empty()));
    for bytes in [file_of(&none, None), stream_of(&none, None)] {
        let error = read_file("rows.arrow", &bytes, &ReadOptions::default()).expect_err("refused").to_string();
        assert!(error.contains("no columns"), "{error}");
    }
}

#[test]
fn feather_version_1_is_named_in_the_error() {
    let error = read_file("old.feather", b"FEA1\0\0\0\0", &ReadOptions::default()).expect_err("refused").to_string();
    assert!(error.contains("Feather of version 1"), "{error}");
}

#[test]
fn every_truncated_file_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, whole) in files(&batch()) {
        let path = folder.path().join(name);
        std::fs::write(&path, &whole).expect("writes");
        let file = std::fs::File::options().write(true).open(&path).expect("opens");
        for length in (0..whole.len()).rev() {
            file.set_len(length as u64).expect("cuts");
            let got = open(&path, &without_names()).and_then(|reader| read_all(reader, 3));
            assert!(got.is_err(), "{length} of {} bytes of {name}: {got:?}", whole.len());
        }
    }
}

#[test]
fn false_lengths_take_no_memory() {
    let whole = stream_of(&batch(), None);
    // The first message, a schema, has no body. The metadata of the second one contains the length of its body.
    for length in [u64::MAX, u64::MAX / 2, 1 << 40, 1 << 29] {
        for at in (0..whole.len() - 8).step_by(4) {
            let mut bytes = whole.clone();
            bytes[at..at + 8].copy_from_slice(&length.to_le_bytes());
            let _ = read("-", Cursor::new(bytes), &without_names()).and_then(|reader| read_all(reader, 3));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]
    #[test]
    fn flipped_bits_never_panic(
        which in 0usize..9, flips in proptest::collection::vec((any::<usize>(), 0u8..8), 1..4), late in any::<bool>()
    ) {
        static FILES: LazyLock<Vec<(&str, Vec<u8>)>> = LazyLock::new(|| files(&batch()));
        let (name, mut bytes) = FILES[which].clone();
        for (at, bit) in flips {
            // Half of the flips are in the last half, where Parquet has its metadata.
            let (first, count) = if late { (bytes.len() / 2, bytes.len() - bytes.len() / 2) } else { (0, bytes.len()) };
            bytes[first + at % count] ^= 1 << bit;
        }
        // Writing a file for each case is slow; only Parquet and a footer need one.
        let got = if name.ends_with("parquet") || (late && name.ends_with("arrow")) {
            read_file(name, &bytes, &without_names())
        } else {
            read(name, Cursor::new(bytes), &without_names()).and_then(|reader| read_all(reader, 3))
        };
        prop_assert!(got.map_or(true, |values| values.iter().all(|value| value.is_finite())));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), head in 0usize..4) {
        let start: &[u8] = [&b""[..], b"ARROW1\0\0\xff\xff\xff\xff", b"\xff\xff\xff\xff", b"PAR1"][head];
        let end: &[u8] = if head == 3 { b"\x20\0\0\0PAR1" } else { b"" };
        let bytes = [start, &bytes, end].concat();
        if head == 3 {
            let _ = read_file("rows.parquet", &bytes, &ReadOptions::default());
        } else {
            let _ = read("rows.arrow", Cursor::new(bytes), &ReadOptions::default()).and_then(|reader| read_all(reader, 3));
        }
    }
}

#[test]
fn a_timestamp_is_the_same_number_in_every_unit() {
    use arrow_array::{
        Date32Array, Date64Array, DurationMillisecondArray, TimestampMicrosecondArray, TimestampMillisecondArray,
        TimestampNanosecondArray, TimestampSecondArray,
    };
    const DAY: i64 = 86_400;
    let seconds = [1_700_006_400 / DAY * DAY, 0, -DAY];
    let scaled = |factor: i64| seconds.map(|second| second * factor).to_vec();
    let days: Vec<i32> = seconds.iter().map(|second| i32::try_from(second / DAY).expect("it fits")).collect();
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("s", Arc::new(TimestampSecondArray::from(scaled(1)))),
        ("ms", Arc::new(TimestampMillisecondArray::from(scaled(1_000)))),
        ("us", Arc::new(TimestampMicrosecondArray::from(scaled(1_000_000)).with_timezone("Europe/Berlin"))),
        ("ns", Arc::new(TimestampNanosecondArray::from(scaled(1_000_000_000)))),
        ("d32", Arc::new(Date32Array::from(days))),
        ("d64", Arc::new(Date64Array::from(scaled(1_000)))),
        ("span", Arc::new(DurationMillisecondArray::from(scaled(1_000)))),
    ];
    let batch = RecordBatch::try_from_iter(columns).expect("columns of one length");
    let expected: Vec<f64> = seconds.iter().flat_map(|second| [*second as f64; 7]).collect();
    for (name, bytes) in files(&batch) {
        assert_eq!(read_file(name, &bytes, &ReadOptions::default()).expect(name), expected, "{name}");
    }
    // Fractions of a second are rounded once.
    let batch = |array: ArrayRef| RecordBatch::try_from_iter([("t", array)]).expect("a column");
    let ms = batch(Arc::new(TimestampMillisecondArray::from(vec![1_700_000_000_123])));
    let ns = batch(Arc::new(TimestampNanosecondArray::from(vec![1_700_000_000_123_000_000])));
    for batch in [ms, ns] {
        let bytes = file_of(&batch, None);
        assert_eq!(read_file("t.arrow", &bytes, &ReadOptions::default()).expect("reads"), [1_700_000_000.123]);
    }
}
