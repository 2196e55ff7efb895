//! Every format, and every way in which a file can be wrong.

use std::io::{Cursor, Write};

use proptest::prelude::*;

use super::*;

fn read_bytes(bytes: &[u8], options: &ReadOptions) -> Result<(Vec<f32>, usize), FileError> {
    let mut reader = read("file", Box::new(Cursor::new(bytes.to_vec())), options)?;
    let mut values = Vec::new();
    loop {
        let block = reader.next_block(2)?;
        if block.is_empty() {
            return Ok((values, reader.columns()));
        }
        values.extend(block);
    }
}

#[track_caller]
fn check_read(bytes: &[u8], values: &[f32], columns: usize) {
    let got = read_bytes(bytes, &ReadOptions::default()).expect("reads");
    assert_eq!((got.0.as_slice(), got.1), (values, columns));
}

#[track_caller]
fn check_refused(bytes: &[u8], texts: &[&str]) {
    let error = read_bytes(bytes, &ReadOptions::default()).expect_err("refused").to_string();
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
    assert!(read_bytes(b"1,2,3\n", &drop(&["4"])).expect_err("refused").to_string().contains("1 to 3"));
    assert!(read_bytes(b"1\n", &drop(&["1"])).is_err());
}

#[test]
fn bad_csv_names_the_line_and_the_field() {
    check_refused(b"1,2\n3\n", &["line 2", "1 fields", "2"]);
    check_refused(b"a,b\n1,2\n3,x\n", &["line 3", "field 2", "\"x\""]);
    check_refused(b"1,2\n3,nan\n", &["line 2", "field 2", "finite"]);
    check_refused(b"1,2\n3,\n", &["line 2", "field 2"]);
    check_refused(b"", &["empty"]);
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
    check_read(&npy("<i8", "False", "(1, 1)", &(-7i64).to_le_bytes()), &[-7.0], 1);
}

#[test]
fn bad_npy_says_what_was_expected() {
    check_refused(&npy("<f4", "False", "(2, 2)", &floats(&[1.0, 2.0, 3.0])), &["ends after 1 rows", "promises 2"]);
    check_refused(&npy("<f4", "False", "(1, 1)", &floats(&[1.0, 2.0])), &["goes on", "1 rows"]);
    check_refused(&npy("<f4", "False", "(3,)", &floats(&[1.0; 3])), &["reshape"]);
    check_refused(&npy("<f4", "False", "(2, 2, 2)", &floats(&[1.0; 8])), &["(rows, columns)"]);
    check_refused(&npy("<c8", "False", "(1, 1)", &[0; 8]), &["<c8", "f4"]);
    check_refused(&npy("<f4", "False", "(1, 2)", &floats(&[1.0, f32::INFINITY])), &["row 1, column 2"]);
    check_refused(&npy("<f4", "False", "(99999999999, 65536)", &[]), &["ends after 0 rows"]);
    check_refused(&npy("<f4", "False", "(1, 65537)", &[]), &["65537", "65536"]);
    check_refused(&npy("<f4", "True", "(99999999999, 65536)", &[]), &["ascontiguousarray"]);
    check_refused(&npy("<f4", "False", "(0, 2)", &[]), &["0 x 2"]);
    check_refused(b"\x93NUMPY\x09\x00\x00\x00", &["version 9"]);
    check_refused(b"\x93NUMPY\x02\x00\xff\xff\xff\xff", &["header has"]);
}

#[test]
fn idx_images_are_flattened() {
    check_read(&idx(8, &[2, 1, 2], &[1, 2, 3, 255]), &[1.0, 2.0, 3.0, 255.0], 2);
    check_refused(&idx(8, &[3], &[1, 2, 3]), &["labels"]);
    check_refused(&idx(8, &[2, 2], &[1, 2, 3]), &["ends after 1 rows"]);
    check_refused(&idx(7, &[2, 2], &[1, 2, 3]), &["magic"]);
    check_refused(&idx(8, &[1, u32::MAX, u32::MAX, u32::MAX], &[]), &["65536"]);
}

#[test]
fn gzip_is_seen_by_itself_and_its_end_is_missed() {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(b"1,2\n3,4\n").expect("compresses");
    let packed = encoder.finish().expect("compresses");
    check_read(&packed, &[1.0, 2.0, 3.0, 4.0], 2);
    assert!(read_bytes(&packed[..packed.len() - 5], &ReadOptions::default()).is_err());
}

#[test]
fn what_is_written_is_read_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let values = [1.0f32, -0.1, 3e-30, 16_777_217.0, 5.5, -0.0];
    for name in ["rows.csv", "rows.npy"] {
        let path = folder.path().join(name).to_string_lossy().into_owned();
        let mut writer = create(&path, None).expect("creates");
        writer.write(&values[..2], 2).expect("writes");
        writer.write(&values[2..], 2).expect("writes");
        writer.finish().expect("finishes");
        let mut reader = open(&path, &ReadOptions::default()).expect("opens");
        assert_eq!(reader.columns(), 2);
        let back = reader.next_block(10).expect("reads");
        assert!(back.iter().zip(&values).all(|(a, b)| a.to_bits() == b.to_bits()), "{name}: {back:?}");
    }
}

proptest! {
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
