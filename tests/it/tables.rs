//! Text tables: compared with pandas and NumPy (`tests/golden/tables/make.py`), and random tables in random dialects.
//! The reader returns what was written, or an error.

use std::io::Cursor;
use std::path::{Path, PathBuf};

use halfhitch::files::{self, FileError, ReadOptions, TextOptions};
use proptest::prelude::*;
use serde::Deserialize;

/// Options for a file, and its expected content.
#[derive(Deserialize)]
struct Expected {
    file: String,
    options: Options,
    #[serde(default)]
    names: Vec<String>,
    /// `None` is a missing value.
    rows: Option<Vec<Vec<Option<f64>>>>,
    error: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Options {
    header: Option<bool>,
    separator: Option<String>,
    decimal: Option<String>,
    thousands: Option<String>,
    encoding: Option<String>,
    missing_values: bool,
    missing_marks: Vec<String>,
    drop_columns: Vec<String>,
}

impl Options {
    fn read(&self) -> ReadOptions {
        fn parsed<T: std::str::FromStr>(text: Option<&String>) -> Option<T> {
            text.map(|text| text.parse().unwrap_or_else(|_| panic!("{text:?} is an option")))
        }
        ReadOptions {
            header: self.header,
            drop_columns: self.drop_columns.clone(),
            missing_values: self.missing_values,
            text: TextOptions {
                separator: parsed(self.separator.as_ref()),
                decimal: parsed(self.decimal.as_ref()),
                thousands: parsed(self.thousands.as_ref()),
                encoding: parsed(self.encoding.as_ref()),
                missing_marks: self.missing_marks.clone(),
            },
            ..ReadOptions::default()
        }
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tables")
}

/// Reads names and rows, `rows_max` at a time.
fn read(bytes: &[u8], options: &ReadOptions, rows_max: usize) -> Result<(Vec<String>, Vec<Vec<f64>>), FileError> {
    let mut reader = files::read("table", Cursor::new(bytes.to_vec()), options)?;
    let (names, columns) = (reader.names().to_vec(), reader.columns());
    let mut values = Vec::new();
    while reader.next_rows(&mut values, rows_max)? > 0 {}
    Ok((names, values.chunks(columns).map(<[f64]>::to_vec).collect()))
}

fn bits(rows: &[Vec<f64>]) -> Vec<Vec<Option<u64>>> {
    let bits = |value: &f64| Some(value.to_bits()).filter(|_| !value.is_nan());
    rows.iter().map(|row| row.iter().map(bits).collect()).collect()
}

#[test]
fn tables_are_read_as_pandas_and_numpy_read_them() {
    let text = std::fs::read_to_string(folder().join("expected.json")).expect("the references");
    let tables: Vec<Expected> = serde_json::from_str(&text).expect("JSON");
    assert!(tables.len() > 100);
    let mut wrong = Vec::new();
    for Expected { file, options, names, rows, error } in tables {
        let bytes = std::fs::read(folder().join(&file)).expect("the table");
        let whole = read(&bytes, &options.read(), usize::MAX);
        let by_rows = read(&bytes, &options.read(), 1);
        assert_eq!(format!("{whole:?}"), format!("{by_rows:?}"), "{file}");
        match (whole, rows, error) {
            (Ok((got_names, got)), Some(rows), None) => {
                let rows: Vec<Vec<f64>> =
                    rows.iter().map(|row| row.iter().map(|value| value.unwrap_or(f64::NAN)).collect()).collect();
                if got_names != names || bits(&got) != bits(&rows) {
                    wrong.push(format!("{file}: {got_names:?} {got:?}\n  expected {names:?} {rows:?}"));
                }
            }
            (Err(got), None, Some(text)) if got.to_string().contains(&text) => {}
            (got, rows, text) => wrong.push(format!("{file}: {got:?}\n  expected {rows:?} {text:?}")),
        }
    }
    assert!(wrong.is_empty(), "{} tables are read otherwise:\n{}", wrong.len(), wrong.join("\n"));
}

/// The dialect of a written table.
#[expect(clippy::struct_excessive_bools, reason = "each is an independent property of a file")]
#[derive(Clone, Debug)]
struct Dialect {
    separator: &'static str,
    decimal_comma: bool,
    line_end: &'static str,
    header: bool,
    quotes: bool,
    blank_lines: bool,
    trailing_separator: bool,
    tail: bool,
    comment: bool,
    encoding: u8,
}

fn dialects() -> impl Strategy<Value = Dialect> {
    let separators = prop::sample::select(vec![",", ";", "\t", "|", " ", "  ", ", ", " ; "]);
    let flags =
        (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    (separators, prop::sample::select(vec!["\n", "\r\n", "\r"]), 0u8..5, flags).prop_map(
        |(separator, line_end, encoding, (decimal_comma, header, quotes, blank_lines, trailing, tail, comment))| {
            Dialect {
                separator,
                decimal_comma: decimal_comma && !separator.contains(','),
                line_end,
                header,
                quotes,
                blank_lines,
                trailing_separator: trailing && !separator.trim().is_empty(),
                tail: tail && !separator.trim().is_empty(),
                comment,
                encoding,
            }
        },
    )
}

/// Typical numbers: measured, whole, large, small, missing.
fn values(missing: bool) -> BoxedStrategy<f64> {
    let gap = if missing { f64::NAN } else { 0.25 };
    prop_oneof![
        8 => (-100_000i32..100_000).prop_map(|value| f64::from(value) / 1000.0),
        4 => (-50i32..200).prop_map(f64::from),
        1 => any::<f64>().prop_filter("finite", |value| value.is_finite()),
        1 => Just(gap),
    ]
    .boxed()
}

fn written(rows: &[Vec<f64>], names: &[String], dialect: &Dialect) -> Vec<u8> {
    let quoted = |text: String| if dialect.quotes { format!("\"{text}\"") } else { text };
    let number = |value: &f64| {
        let text = if value.is_nan() { "NA".to_owned() } else { value.to_string() };
        quoted(if dialect.decimal_comma { text.replace('.', ",") } else { text })
    };
    let end = if dialect.trailing_separator { dialect.separator.trim_end() } else { "" };
    let line = |fields: Vec<String>| fields.join(dialect.separator) + end;
    let mut lines = Vec::new();
    if dialect.comment {
        lines.push("# written by a test: as tables are".to_owned());
    }
    if dialect.header {
        lines.push(line(names.iter().map(|name| quoted(name.clone())).collect()));
    }
    for (index, row) in rows.iter().enumerate() {
        lines.push(line(row.iter().map(number).collect()));
        if dialect.blank_lines && index % 3 == 1 {
            lines.push(String::new());
        }
    }
    if dialect.tail {
        lines.push(dialect.separator.trim().repeat(rows[0].len() - 1) + end);
    }
    let text = lines.join(dialect.line_end) + dialect.line_end;
    match dialect.encoding {
        1 => [b"\xef\xbb\xbf", text.as_bytes()].concat(),
        2 => text.encode_utf16().flat_map(u16::to_le_bytes).collect(),
        3 => "\u{feff}".encode_utf16().chain(text.encode_utf16()).flat_map(u16::to_be_bytes).collect(),
        4 => text.chars().map(|character| u8::try_from(u32::from(character)).unwrap_or(b'?')).collect(),
        _ => text.into_bytes(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn a_random_table_is_read_as_written_or_refused(
        (missing, rows) in any::<bool>().prop_flat_map(|missing| {
            let rows = (1usize..6).prop_flat_map(move |columns| {
                prop::collection::vec(prop::collection::vec(values(missing), columns), 1..30)
            });
            (Just(missing), rows)
        }),
        dialect in dialects(),
    ) {
        let columns = rows[0].len();
        prop_assume!(columns > 1 || (!dialect.decimal_comma && !dialect.trailing_separator && !dialect.tail));
        // In a single row, a trailing separator can also mean a missing last value.
        prop_assume!(!dialect.trailing_separator || rows.len() + usize::from(dialect.header) > 1);
        let names: Vec<String> = (0..columns).map(|column| format!("Größe {column}")).collect();
        let names = if dialect.separator.trim().is_empty() { (0..columns).map(|i| format!("g{i}")).collect() } else { names };
        let bytes = written(&rows, &names, &dialect);
        for options in [
            ReadOptions { missing_values: missing, ..ReadOptions::default() },
            ReadOptions { missing_values: true, header: Some(dialect.header), ..ReadOptions::default() },
        ] {
            match read(&bytes, &options, 7) {
                Ok((got_names, got)) => {
                    let shown = String::from_utf8_lossy(&bytes);
                    prop_assert_eq!(bits(&got), bits(&rows), "{}", shown);
                    prop_assert_eq!(got_names.is_empty(), !dialect.header, "{}", shown);
                }
                // An ambiguous table is rejected with the option that decides.
                Err(error) => {
                    let error = error.to_string();
                    let options = ["--header", "--separator", "--decimal", "--thousands", "--missing-values", " as before"];
                    prop_assert!(options.iter().any(|option| error.contains(option)), "{}", error);
                }
            }
        }
    }

    #[test]
    fn arbitrary_text_never_panics(text in "[0-9.,;|\t \"'#a-eE\r\n-]{0,120}", missing in any::<bool>()) {
        for options in [
            ReadOptions { missing_values: missing, ..ReadOptions::default() },
            ReadOptions { header: Some(missing), missing_values: true, ..ReadOptions::default() },
        ] {
            if let Ok((_, rows)) = read(text.as_bytes(), &options, 3) {
                let lines = text.split(['\n', '\r']).count();
                prop_assert!(rows.len() <= lines, "{text:?} has {} rows", rows.len());
                prop_assert!(rows.iter().flatten().all(|value| value.is_finite() || options.missing_values));
            }
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(
        start in prop::sample::select(vec![&b""[..], b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf", b"sep=;\n", b"# a,b\n", b"a,\"b\n"]),
        bytes in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let options = ReadOptions { format: Some(files::Format::Csv), missing_values: true, ..ReadOptions::default() };
        let _ = read(&[start, &bytes].concat(), &options, 5);
    }
}

/// An endless stream of bytes.
struct Endless {
    piece: &'static [u8],
    given: usize,
    given_max: usize,
}

impl std::io::Read for Endless {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        assert!(self.given < self.given_max, "{} bytes were read of {:?}", self.given, self.piece);
        for byte in buffer.iter_mut() {
            *byte = self.piece[self.given % self.piece.len()];
            self.given += 1;
        }
        Ok(buffer.len())
    }
}

#[test]
fn endless_input_without_a_record_is_rejected() {
    for piece in [&b"1"[..], b"1,", b"\"1,2\n", b"1 ", b"#", b" ", b"1,\"x\n\n"] {
        let bytes = Endless { piece, given: 0, given_max: 200 << 20 };
        let options = ReadOptions { missing_values: true, ..ReadOptions::default() };
        let got = files::read("endless", bytes, &options).and_then(|mut reader| {
            let mut values = Vec::new();
            while reader.next_rows(&mut values, 1000)? > 0 {
                values.clear();
            }
            Ok(())
        });
        assert!(got.is_err(), "{piece:?}");
    }
}
