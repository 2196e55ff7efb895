//! Every format, and every kind of invalid file.

use std::io::{Cursor, Write};

use proptest::prelude::*;

use super::*;

fn read_bytes(bytes: &[u8], options: &ReadOptions) -> Result<(Vec<f64>, usize), FileError> {
    read_all(read("file", Cursor::new(bytes.to_vec()), options)?)
}

fn read_all(mut reader: Box<dyn RowReader>) -> Result<(Vec<f64>, usize), FileError> {
    let (mut values, columns) = (Vec::new(), reader.columns());
    loop {
        let before = values.len();
        let rows = reader.next_rows(&mut values, 2)?;
        assert_eq!(values.len() - before, rows * columns, "whole rows");
        if rows == 0 {
            return Ok((values, columns));
        }
    }
}

/// Reads the bytes from a file; some formats use random access then.
fn read_file(name: &str, bytes: &[u8], options: &ReadOptions) -> Result<(Vec<f64>, usize), FileError> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).expect("writes");
    read_all(open(&path, options)?)
}

#[track_caller]
fn check_read(bytes: &[u8], values: &[f64], columns: usize) {
    let options = ReadOptions::default();
    for got in [read_bytes(bytes, &options), read_file("rows", bytes, &options)] {
        let got = got.expect("reads");
        assert_eq!((got.0.as_slice(), got.1), (values, columns));
    }
}

#[track_caller]
fn check_refused(bytes: &[u8], texts: &[&str]) {
    let options = ReadOptions::default();
    for got in [read_bytes(bytes, &options), read_file("rows", bytes, &options)] {
        check_says(got, texts);
    }
}

#[track_caller]
fn check_says<T: std::fmt::Debug>(got: Result<T, FileError>, texts: &[&str]) {
    let error = got.expect_err("refused").to_string();
    for text in texts {
        assert!(error.contains(text), "{error:?} does not say {text:?}");
    }
}

fn npy(descr: &str, fortran: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    let header = format!("{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': {shape}, }}\n");
    let mut file = b"\x93NUMPY\x01\x00".to_vec();
    file.extend_from_slice(&(header.len() as u16).to_le_bytes());
    file.extend_from_slice(header.as_bytes());
    file.extend_from_slice(data);
    file
}

fn idx(kind: u8, sizes: &[u32], data: &[u8]) -> Vec<u8> {
    let mut file = vec![0, 0, kind, sizes.len() as u8];
    sizes.iter().for_each(|size| file.extend_from_slice(&size.to_be_bytes()));
    file.extend_from_slice(data);
    file
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

#[test]
fn csv_is_read_with_and_without_a_header() {
    check_read(b"1,2\n3,4.5\n-6e1, 7\n", &[1.0, 2.0, 3.0, 4.5, -60.0, 7.0], 2);
    check_read(b"a,b\r\n1,2\r\n", &[1.0, 2.0], 2);
    check_read(b"1", &[1.0], 1);
}

#[test]
fn csv_columns_can_be_dropped_by_name_or_number() {
    let drop = |columns: &[&str]| ReadOptions {
        drop_columns: columns.iter().map(|column| (*column).to_owned()).collect(),
        ..ReadOptions::default()
    };
    assert_eq!(read_bytes(b"a,b,label\n1,2,x\n3,4,y\n", &drop(&["label"])).expect("reads").0, [1.0, 2.0, 3.0, 4.0]);
    assert_eq!(read_bytes(b"1,2,3\n", &drop(&["3", "1"])).expect("reads").0, [2.0]);
    check_says(read_bytes(b"1,2,3\n", &drop(&["4"])), &["\"4\"", "1 to 3", "no names"]);
    check_says(read_bytes(b"1\n", &drop(&["1"])), &["every column is dropped"]);
    check_says(
        read_bytes(&idx(8, &[1, 2], &[1, 2]), &drop(&["1"])),
        &["columns are chosen", "CSV, JSON Lines, Parquet or Arrow"],
    );
}

#[test]
fn csv_columns_can_be_taken_in_any_order() {
    let take = |columns: &[&str]| ReadOptions {
        columns: columns.iter().map(|column| (*column).to_owned()).collect(),
        drop_columns: vec!["2".to_owned()],
        ..ReadOptions::default()
    };
    let rows = b"a,b,c\n1,x,3\n4,y,6\n";
    assert_eq!(read_bytes(rows, &take(&["c", "a"])).expect("reads").0, [3.0, 1.0, 6.0, 4.0]);
    assert_eq!(read("f", &rows[..], &take(&["c", "1"])).expect("opens").names(), ["c", "a"]);
    check_says(read_bytes(rows, &take(&["d"])), &["\"d\" to take", "a, b, c"]);
    check_says(read_bytes(rows, &take(&["c", "3"])), &["\"3\" is chosen twice"]);
}

#[test]
fn bad_csv_names_the_line_and_the_field() {
    check_refused(b"1,2\n3\n", &["line 2: it has 1 field, expected 2"]);
    check_refused(b"a,b\n1,2\n3,x\n", &["line 3, column 2 (b)", "\"x\""]);
    check_refused(b"1,2\n3,nan\n", &["line 2, column 2", "finite"]);
    check_refused(b"1,2\n3,\n", &["line 2, column 2"]);
    check_refused(b"", &["empty"]);
    check_refused(b"a,b\n", &["a header and no rows"]);
    check_refused(&["ü,ö\n1,2\n3,".as_bytes(), b"\xff\n"].concat(), &["line 3", "UTF-8"]);
}

#[test]
fn values_may_be_missing_when_allowed() {
    let nan = f64::NAN;
    let allowed = ReadOptions { missing_values: true, ..ReadOptions::default() };
    let present = |values: &[f64]| values.iter().map(|v| Some(*v).filter(|v| !v.is_nan())).collect::<Vec<_>>();
    let check = |bytes: &[u8], expected: &[f64]| {
        for got in [read_bytes(bytes, &allowed), read_file("rows", bytes, &allowed)] {
            assert_eq!(present(&got.expect("reads").0), present(expected));
        }
    };
    check(b"a,b\n,2\n3, NaN\nNA,null\n", &[nan, 2.0, 3.0, nan, nan, nan]);
    // Gaps do not make the first line a header.
    check(b"1,,3\n4,5,\n", &[1.0, nan, 3.0, 4.0, 5.0, nan]);
    for fortran in ["False", "True"] {
        check(&npy("<f4", fortran, "(1, 3)", &floats(&[1.0, f32::NAN, 3.0])), &[1.0, nan, 3.0]);
    }
    check_says(read_bytes(b"1,2\n3,inf\n", &allowed), &["line 2, column 2", "\"inf\"", "expected a finite number"]);
    check_says(read_bytes(b"1,2\n3,x\n", &allowed), &["line 2, column 2", "\"x\""]);
    let infinite = npy("<f4", "False", "(1, 2)", &floats(&[1.0, f32::INFINITY]));
    check_says(read_bytes(&infinite, &allowed), &["row 1, column 2: inf", "expected a finite number"]);
    check_refused(b"1,2\n3,\n", &["line 2, column 2: \"\"", "unless values may be missing"]);
    check_refused(&npy("<f4", "False", "(1, 2)", &floats(&[1.0, f32::NAN])), &["unless values may be missing"]);
}

#[test]
fn a_csv_file_without_line_ends_is_not_read_whole() {
    check_says(read("file", std::io::repeat(b'1'), &ReadOptions::default()).map(|_| ()), &["more than", "bytes"]);
}

#[test]
fn npy_is_read_in_every_type_and_order() {
    check_read(&npy("<f4", "False", "(2, 2)", &floats(&[1.0, 2.0, 3.0, 4.0])), &[1.0, 2.0, 3.0, 4.0], 2);
    check_read(
        &npy("<f4", "True", "(2, 3)", &floats(&[1.0, 4.0, 2.0, 5.0, 3.0, 6.0])),
        &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
        3,
    );
    check_read(&npy("|u1", "False", "(1, 3)", &[0, 128, 255]), &[0.0, 128.0, 255.0], 3);
    check_read(&npy("|i1", "False", "(1, 2)", &[0xff, 1]), &[-1.0, 1.0], 2);
    check_read(&npy(">i2", "False", "(1, 2)", &[0xff, 0xfe, 0, 3]), &[-2.0, 3.0], 2);
    check_read(&npy("<f8", "False", "(1, 1)", &2.5f64.to_le_bytes()), &[2.5], 1);
    check_read(&npy(">f4", "False", "(1, 1)", &2.5f32.to_be_bytes()), &[2.5], 1);
    check_read(
        &npy("<f2", "False", "(1, 3)", &[0x00, 0x3c, 0xff, 0x7b, 0x01, 0x80]),
        &[1.0, 65504.0, -5.960_464_477_539_063e-8],
        3,
    );
    check_read(&npy(">u2", "True", "(2, 2)", &[0, 1, 1, 0, 0, 2, 2, 0]), &[1.0, 2.0, 256.0, 512.0], 2);
    check_read(&npy("<i8", "False", "(1, 1)", &(-7i64).to_le_bytes()), &[-7.0], 1);
}

#[test]
fn bad_npy_says_what_was_expected() {
    check_refused(&npy("<f4", "False", "(2, 2)", &floats(&[1.0, 2.0, 3.0])), &["ends after 1 rows", "promises 2"]);
    check_refused(&npy("<f4", "False", "(1, 1)", &floats(&[1.0, 2.0])), &["goes on", "1 rows"]);
    check_refused(&npy("<f4", "False", "(3,)", &floats(&[1.0; 3])), &["reshape"]);
    check_refused(&npy("<c8", "False", "(1, 1)", &[0; 8]), &["<c8", "f4"]);
    check_refused(&npy("<f4", "False", "(1, 2)", &floats(&[1.0, f32::INFINITY])), &["row 1, column 2"]);
    check_refused(&npy("<f4", "False", "(99999999999, 65536)", &[]), &["ends after 0 rows"]);
    check_refused(&npy("<f4", "True", "(2, 2)", &floats(&[1.0, 2.0, 3.0])), &["12 bytes", "16 for the 2 x 2"]);
    check_refused(&npy("<f4", "True", "(1, 1)", &floats(&[1.0, 2.0])), &["bytes follow its header", "4 for the 1 x 1"]);
    check_refused(&npy("<f4", "True", "(2, 2)", &floats(&[1.0, 2.0, 3.0, f32::NAN])), &["row 2, column 2: NaN"]);
    check_refused(&npy("<f2", "False", "(1, 1)", &[0, 0x7c]), &["row 1, column 1: inf, expected a finite number"]);
    check_refused(&npy("<f4", "False", "(1, 65537)", &[]), &["65537", "65536"]);
    check_says(
        read_bytes(&npy("<f4", "True", "(9999, 65536)", &[]), &ReadOptions::default()),
        &["Fortran order", "ascontiguousarray"],
    );
    check_refused(&npy("<f8", "True", "(999999999999999, 65536)", &[]), &["a size that a file can have"]);
    check_refused(&npy("<f4", "False", "(0, 2)", &[]), &["0 x 2"]);
    check_refused(b"\x93NUMPY\x09\x00\x00\x00", &["version 9"]);
    check_refused(b"\x93NUMPY\x02\x00\xff\xff\xff\xff", &["header has"]);
}

#[test]
fn idx_images_are_flattened() {
    check_read(&idx(8, &[2, 1, 2], &[1, 2, 3, 255]), &[1.0, 2.0, 3.0, 255.0], 2);
    check_refused(&idx(8, &[3], &[1, 2, 3]), &["labels"]);
    check_refused(&idx(8, &[2, 2], &[1, 2, 3]), &["ends after 1 rows"]);
    check_refused(&idx(7, &[2, 2], &[1, 2, 3]), &["not a table", "00 00 07 02"]);
    check_refused(&idx(8, &[1, u32::MAX, u32::MAX, u32::MAX], &[]), &["65536"]);
}

#[test]
fn gzip_is_detected_and_a_truncated_file_is_refused() {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(b"1,2\n3,4\n").expect("compresses");
    let packed = encoder.finish().expect("compresses");
    check_read(&packed, &[1.0, 2.0, 3.0, 4.0], 2);
    assert!(read_bytes(&packed[..packed.len() - 5], &ReadOptions::default()).is_err());
}

#[test]
fn written_rows_are_read_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let values = [1.0f32, -0.1, 3e-30, 16_777_217.0, 5.5, -0.0];
    for name in ["rows.csv", "rows.npy"] {
        let path = folder.path().join(name);
        let mut writer = create(&path.to_string_lossy(), None).expect("creates");
        writer.write(values[..2].into(), 2).expect("writes");
        writer.write(values[2..].into(), 2).expect("writes");
        writer.finish().expect("finishes");
        let (back, columns) = read_all(open(&path, &ReadOptions::default()).expect("opens")).expect("reads");
        assert_eq!(columns, 2);
        assert!(back.iter().zip(&values).all(|(a, b)| (*a as f32).to_bits() == b.to_bits()), "{name}: {back:?}");
    }
}

#[test]
fn a_column_major_file_is_transposed_tile_by_tile() {
    // Three tiles and one row: a tile holds 128 rows of 65,536 columns.
    let (rows, columns) = (3 * 128 + 1, COLUMNS_MAX);
    let bytes: Vec<u8> = (0..columns).flat_map(|c| (0..rows).map(move |r| (r * 31 + c * 7) as u8)).collect();
    let (values, _) =
        read_file("rows.npy", &npy("|u1", "True", &format!("({rows}, {columns})"), &bytes), &ReadOptions::default())
            .expect("reads");
    assert_eq!(values.len(), rows * columns);
    assert!(values.iter().enumerate().all(|(i, v)| *v == f64::from(((i / columns) * 31 + (i % columns) * 7) as u8)));
}

#[test]
fn rows_can_be_read_in_blocks_of_any_size() {
    let bytes: Vec<u8> = (0..=255).cycle().take(3_000_000).collect();
    let file = idx(8, &[1_000_000, 3], &bytes);
    for rows_max in [1, 77, 400_000, usize::MAX] {
        let mut reader = read("file", Cursor::new(file.clone()), &ReadOptions::default()).expect("opens");
        assert_eq!(reader.rows_hint(), Some(1_000_000));
        let mut values = Vec::new();
        while reader.next_rows(&mut values, rows_max).expect("reads") > 0 {}
        assert!(values.len() == bytes.len() && values.iter().zip(&bytes).all(|(v, b)| *v == f64::from(*b)));
    }
}

#[cfg(not(feature = "arrow"))]
#[test]
fn formats_left_out_of_the_build_say_how_to_get_them() {
    for (name, start) in [("rows.parquet", &b"PAR1"[..]), ("rows.parquet", b"x"), ("rows.feather", b"ARROW1\0\0")] {
        check_says(read_file(name, start, &ReadOptions::default()), &[name, "--features arrow"]);
    }
}

/// A small file of some formats that are always built in.
fn samples() -> Vec<Vec<u8>> {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(b"1,2\n3,4\n").expect("compresses");
    vec![
        npy("<f4", "False", "(2, 2)", &floats(&[1.0, 2.0, 3.0, 4.0])),
        npy(">f4", "True", "(2, 2)", &floats(&[1.0, 2.0, 3.0, 4.0])),
        idx(8, &[2, 2, 1], &[1, 2, 3, 4]),
        packed.finish().expect("compresses"),
    ]
}

#[test]
fn every_truncated_file_is_refused() {
    for whole in samples() {
        for length in 0..whole.len() {
            let got = read_file("rows", &whole[..length], &ReadOptions::default());
            assert!(got.is_err(), "{length} of {} bytes of {whole:02x?}: {got:?}", whole.len());
            assert!(read_bytes(&whole[..length], &ReadOptions::default()).is_err());
        }
    }
}

proptest! {
    #[test]
    fn flipped_bits_never_panic(which in 0usize..4, flips in proptest::collection::vec((any::<usize>(), 0u8..8), 1..6)) {
        let mut bytes = samples().swap_remove(which);
        for (at, bit) in flips {
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
        }
        let options = ReadOptions::default();
        // A column-major array is read differently from a file.
        let from_file = (which == 1).then(|| read_file("rows", &bytes, &options));
        for got in from_file.into_iter().chain([read_bytes(&bytes, &options)]) {
            prop_assert!(got.map_or(true, |(values, _)| values.iter().all(|value| value.is_finite())));
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), head in 0usize..4) {
        let start: &[u8] = [&b""[..], b"\x93NUMPY\x01\x00", b"\0\0\x08\x02", b"\x1f\x8b\x08\x00"][head];
        let _ = read_bytes(&[start, &bytes].concat(), &ReadOptions::default());
    }

    #[test]
    fn arbitrary_npy_headers_never_panic(shape in "[(0-9, )]{0,20}", descr in "[<>|=a-z0-9]{0,4}") {
        let _ = read_bytes(&npy(&descr, "False", &shape, &[0; 64]), &ReadOptions::default());
    }
}

#[test]
fn binary64_is_needed_where_digits_would_be_lost() {
    for kept in [0.1, 1.5, -3.25, 16_777_216.0, 1.7e9, 1e-3, 123_456.7, f64::NAN, -0.0, 0.0, 1e38] {
        assert!(!needs_f64(&[1.0, kept]), "{kept}");
    }
    for lost in [1_700_000_001.0, 1.700_000_001e12, 1e12 + 1.0, 16_777_217.0, 0.1 + 0.2, 1.0 / 3.0, 1e39, 1e-50] {
        assert!(needs_f64(&[1.0, lost]), "{lost}");
    }
}

proptest! {
    #[test]
    fn float32_numbers_and_their_text_do_not_need_float64(bits: u32) {
        let value = f32::from_bits(bits);
        prop_assume!(value.is_finite());
        prop_assert!(!needs_f64(&[f64::from(value)]));
        prop_assert!(!needs_f64(&[value.to_string().parse().expect("a number")]));
    }
}

/// Numbers can stand for missing values in formats without text.
#[test]
fn missing_value_marks_apply_to_every_format() {
    let options = |marks: &[&str]| ReadOptions {
        missing_values: true,
        text: TextOptions {
            missing_marks: marks.iter().map(|mark| (*mark).to_owned()).collect(),
            ..Default::default()
        },
        ..ReadOptions::default()
    };
    let data: Vec<u8> = [-999.1f32, 2.0, 3.0, -999.0].iter().flat_map(|value| value.to_le_bytes()).collect();
    let bytes = npy("<f4", "False", "(2, 2)", &data);
    let (values, _) = read_bytes(&bytes, &options(&["-999", "bad", "-999.1"])).expect("reads");
    assert!(values[0].is_nan() && values[3].is_nan() && values[1..3] == [2.0, 3.0], "{values:?}");
    let lines = b"{\"a\": -999, \"b\": 2}\n{\"a\": 1, \"b\": 2}\n";
    let (values, _) = read_bytes(lines, &options(&["-999"])).expect("reads");
    assert!(values[0].is_nan() && values[1..] == [2.0, 1.0, 2.0], "{values:?}");
}

#[test]
fn rounded_whole_numbers_are_reported() {
    for (number, expected) in [((1i64 << 53) - 1, false), ((1 << 53) + 1, true), (-(1 << 60) - 1, true)] {
        let array = |fortran| npy("<i8", fortran, "(2, 1)", &[number.to_le_bytes(), 1i64.to_le_bytes()].concat());
        let lines = format!("{{\"id\": 1, \"x\": 1e300}}\n{{\"id\": {number}, \"x\": 0.5}}\n");
        for bytes in [array("False"), array("True"), lines.into_bytes()] {
            let mut reader = read("file", Cursor::new(bytes), &ReadOptions::default()).expect("opens");
            reader.next_rows(&mut Vec::new(), 2).expect("reads");
            let notes = reader.notes_at_end().concat();
            assert_eq!(notes.contains("beyond 2^53"), expected, "{number}: {notes:?}");
        }
    }
}

#[test]
fn refusals_suggest_a_conversion() {
    let dates = npy("<M8[ns]", "False", "(1, 2)", &[0; 16]);
    check_refused(&dates, &["dates or times", "a.astype('datetime64[us]').astype('f8') / 1e6"]);
    check_refused(&npy("<m8[ms]", "False", "(1, 2)", &[0; 16]), &["durations", "timedelta64[us]"]);
    let tables: [(&[u8], &str); 4] = [
        (br#"{"columns":["a"],"index":[0],"data":[[1]]}"#, "orient='split'"),
        (br#"{"schema":{"fields":[]},"data":[{"a":1}]}"#, "orient='table'"),
        (br#"{"a":{"0":1,"1":2},"b":{"0":3,"1":4}}"#, "'index' where the outer names are those of rows"),
        (br#"{"a":[1,2],"b":[3,4]}"#, "pandas.DataFrame(json.load(open('FILE')))"),
    ];
    for (bytes, hint) in tables {
        check_says(read("t.json", Cursor::new(bytes.to_vec()), &ReadOptions::default()).map(|_| ()), &[hint]);
    }
    let arrays = ["indices", "indptr", "format", "shape", "data"].map(|name| choice::Array {
        name: name.to_owned(),
        shown: "<f8, (3,)".to_owned(),
        is_table: false,
    });
    let chosen = choice::choose("m.npz", &arrays, &ReadOptions::default(), &mut Vec::new());
    check_says(chosen, &["sparse matrix of SciPy", "scipy.sparse.load_npz('FILE').toarray()"]);
}

#[test]
fn a_given_encoding_makes_a_file_text() {
    let wide: Vec<u8> = "a,note,b\n1,ok \u{1f600},2\n3,y,4\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let text = TextOptions { encoding: Some("utf-16le".parse().expect("known")), ..TextOptions::default() };
    let options = ReadOptions { text, drop_columns: vec!["note".to_owned()], ..ReadOptions::default() };
    assert_eq!(read_bytes(&wide, &options).expect("reads").0, [1.0, 2.0, 3.0, 4.0]);
}

#[test]
fn the_mark_of_sql_exports_is_a_missing_value() {
    let options = ReadOptions { missing_values: true, ..ReadOptions::default() };
    let (values, _) = read_bytes(b"a\tb\n1.5\t\\N\n\\N\t2\n", &options).expect("reads");
    assert!(values[1].is_nan() && values[2].is_nan() && values[0] == 1.5 && values[3] == 2.0, "{values:?}");
}

/// The second word of GloVe and the first word of fastText is a comma.
#[test]
fn punctuation_is_a_word() {
    check_read(b"the 0.1 0.2\n, 0.3 0.4\nof 0.5 0.6\n", &[0.1, 0.2, 0.3, 0.4, 0.5, 0.6], 2);
    check_read(b"3 2\n, 0.1 0.2\nthe 0.3 0.4\nof 0.5 0.6\n", &[0.1, 0.2, 0.3, 0.4, 0.5, 0.6], 2);
}
