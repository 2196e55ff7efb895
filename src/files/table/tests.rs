//! Complete files: decisions, notes and values.

use std::io::Cursor;

use super::*;
use crate::files::{FileError, ReadOptions, RowReader, Table, open_table, read_live, read_table};

fn text(bytes: &[u8], options: &ReadOptions) -> Result<TextReader, FileError> {
    match read_table("t", Cursor::new(bytes.to_vec()), options)? {
        Table::Text(reader) => Ok(*reader),
        Table::Other(_) => panic!("it is text"),
    }
}

fn missing() -> ReadOptions {
    ReadOptions { missing_values: true, ..ReadOptions::default() }
}

#[track_caller]
fn check_error(bytes: &[u8], options: &ReadOptions, texts: &[&str]) {
    let error = text(bytes, options).and_then(|mut reader| reader.next_rows(&mut Vec::new(), usize::MAX));
    let error = error.expect_err("refused").to_string();
    for text in texts {
        assert!(error.contains(text), "{error:?} does not say {text:?}");
    }
}

#[track_caller]
fn check_rows(bytes: &[u8], options: &ReadOptions, names: &[&str], expected: &[f64]) -> Vec<String> {
    let mut reader = text(bytes, options).expect("opens");
    assert_eq!(reader.names(), names);
    let mut values = Vec::new();
    reader.next_rows(&mut values, usize::MAX).expect("reads");
    let bits =
        |values: &[f64]| values.iter().map(|v| if v.is_nan() { u64::MAX } else { v.to_bits() }).collect::<Vec<_>>();
    assert_eq!(bits(&values), bits(expected), "{values:?}");
    assert_eq!(reader.next_rows(&mut values, 1).expect("it stays at its end"), 0);
    reader.notes().to_vec()
}

#[test]
fn plain_tables_need_no_notes() {
    let options = ReadOptions::default();
    assert_eq!(check_rows(b"a,b\n1,2\n", &options, &["a", "b"], &[1.0, 2.0]), [""; 0]);
    assert_eq!(check_rows(b"1.5,2\r\n3,4\r\n", &options, &[], &[1.5, 2.0, 3.0, 4.0]), [""; 0]);
}

#[test]
fn decisions_are_noted() {
    let notes = |bytes: &[u8]| text(bytes, &missing()).expect("opens").notes().join("; ");
    assert!(notes(b"a;b\n1,5;2\n").contains("separated by ';'; the decimal mark is \",\""));
    assert!(notes(b"0,1,2\n0.5,1.7,2.1\n").contains("line 1 is read as names of columns"));
    assert!(notes(b",a\n0,1.5\n1,2.5\n").contains("--drop-columns index"));
    assert!(notes(b"# a,b\n1.5,2\n").contains("the comment in line 1 names the columns"));
    assert!(notes(b"id\n12345678901234567890\n").contains("column 1 (id) has whole numbers beyond 2^53"));
    assert!(notes(b"a,b,\n1,2,\n").contains("ends with a separator"));
    assert!(notes(b"a,b,,\n1,2,,\n").contains("ends with 2 separators"));
    assert!(notes(b"x,y\nV,A\n1,2\n").contains("line 2 has no numbers"));
}

/// The header lines that pandas writes above an index, on one or several levels.
#[test]
fn pandas_headers_are_not_rows() {
    let all = [11.0, 40.0, 75.0, 12.0, 65.0, 51.0, 13.0, 7.0, 8.0];
    for options in [ReadOptions::default(), missing()] {
        check_rows(b",1,3\n11,40,75\n12,65,51\n13,7,8\n", &options, &["index", "1", "3"], &all);
        check_rows(b",x,x\n,1,2\n11,40,75\n12,65,51\n13,7,8\n", &options, &["index", "x", "x_2"], &all);
        check_error(b",0.1,0.5\n0.25,1,2\n0.75,3,4\n", &options, &["line 1", "--header yes"]);
    }
    let dropped = |column: &str| ReadOptions { drop_columns: vec![column.to_owned()], ..missing() };
    check_rows(b",1,3\n2024-01-01,4,5\n2024-01-02,6,7\n", &dropped("column_1"), &["1", "3"], &[4.0, 5.0, 6.0, 7.0]);
    let levels = b",v,v\n,mean,max\nk,,\na,1,2\nb,3,4\n";
    check_rows(levels, &dropped("column_1"), &["v", "v_2"], &[1.0, 2.0, 3.0, 4.0]);
    check_rows(b"\"7\",\"9\"\n1.5,2\n3,4\n", &missing(), &["7", "9"], &[1.5, 2.0, 3.0, 4.0]);
    check_rows(b"False,True\n3,4\n5,6\n", &missing(), &["False", "True"], &[3.0, 4.0, 5.0, 6.0]);
}

/// A row whose fields are almost numbers is a row, and its error shows them.
#[test]
fn almost_numbers_are_not_units() {
    for first in
        ["100%,50%", "\"1,234.5\",\"2,345.5\"", "\"$1,200\",\"$2,400\"", "0xff,0x0a", "****,****", "1.0D+00,2.0D+00"]
    {
        let text = format!("a,b\n{first}\n5,6\n7,8\n");
        check_error(text.as_bytes(), &missing(), &["line 2, column 1"]);
        check_error(format!("{first}\n5,6\n7,8\n").as_bytes(), &missing(), &["line 1"]);
    }
    let only = ReadOptions { columns: vec!["a".to_owned()], ..ReadOptions::default() };
    check_error(b"id,cls,a\nr1,c,**\nr2,c,4\nr3,d,6\n", &only, &["line 2", "\"**\""]);
    check_error(b"id,cls,a\nr1,c,bad\nr2,c,4\nr3,d,6\n", &only, &["line 2", "\"bad\""]);
    check_rows(b"t,u,25%\ns,m,%\n1,2,3\n", &ReadOptions::default(), &["t", "u", "25%"], &[1.0, 2.0, 3.0]);
}

#[test]
fn thousands_marks_are_detected_or_requested() {
    check_error(b"a;b\n1.234;2\n2.345;3\n345;4\n", &missing(), &["line 2", "\"1.234\"", "--thousands ."]);
    let options = |decimal: &str, thousands: Option<&str>| ReadOptions {
        text: TextOptions {
            decimal: decimal.parse().ok(),
            thousands: thousands.and_then(|mark| mark.parse().ok()),
            ..Default::default()
        },
        ..ReadOptions::default()
    };
    check_rows(
        b"a;b\n1.234;2\n2.345;3\n345;4\n",
        &options(".", None),
        &["a", "b"],
        &[1.234, 2.0, 2.345, 3.0, 345.0, 4.0],
    );
    let german = options(",", Some("."));
    check_rows(b"a;b\n1.234;2\n2.345;3\n345;4\n", &german, &["a", "b"], &[1234.0, 2.0, 2345.0, 3.0, 345.0, 4.0]);
    // Three decimals each, or numbers with a form that thousands marks cannot have.
    check_rows(b"a;b\n1.234;2\n2.345;3\n", &missing(), &["a", "b"], &[1.234, 2.0, 2.345, 3.0]);
    check_rows(b"a;b\n0.234;2\n2.345;3\n1;4\n", &missing(), &["a", "b"], &[0.234, 2.0, 2.345, 3.0, 1.0, 4.0]);
    let french = "a;b\n1\u{202f}234,5;2\n1\u{a0}000;3\n";
    check_rows(french.as_bytes(), &options(",", Some(" ")), &["a", "b"], &[1234.5, 2.0, 1000.0, 3.0]);
}

#[test]
fn bytes_that_are_not_text_are_named() {
    check_rows(b"a,b\n1,2\n\x1a", &missing(), &["a", "b"], &[1.0, 2.0]);
    let utf8 = ReadOptions {
        text: TextOptions { encoding: "utf-8".parse().ok(), ..Default::default() },
        ..ReadOptions::default()
    };
    check_error(b"Gr\xf6\xdfe,b\n1,2\n", &utf8, &["line 1", "not UTF-8", "--encoding"]);
    let error = read_table("t", Cursor::new(b"a,b\n1,2\n3,\x004\n".to_vec()), &missing()).map(|_| ());
    let error = error.expect_err("refused").to_string();
    assert!(error.contains("line 3: it has a zero byte"), "{error}");
}

#[test]
fn a_comment_names_columns_unless_it_is_a_key() {
    let names = |bytes: &[u8]| text(bytes, &ReadOptions::default()).expect("opens").names().to_vec();
    assert_eq!(names(b"# columns: 2\n1.5 2.5\n3.5 4\n"), [""; 0]);
    assert_eq!(names(b"# time, temp, humid\n1.5 2 3\n4.5 5 6\n"), ["time", "temp", "humid"]);
}

#[test]
fn given_options_are_not_noted() {
    let options = ReadOptions {
        header: Some(true),
        text: TextOptions {
            separator: Some(Separator::Byte(b';')),
            decimal: Some(Decimal::Comma),
            ..Default::default()
        },
        ..ReadOptions::default()
    };
    assert_eq!(check_rows(b"0;1\n1,5;2\n", &options, &["0", "1"], &[1.5, 2.0]), [""; 0]);
}

#[test]
fn rows_of_empty_fields_are_rows_unless_they_end_the_file() {
    let nan = f64::NAN;
    check_rows(b"a,b\n1,2\n,\n,\n3,4\n,\n, \n", &missing(), &["a", "b"], &[1.0, 2.0, nan, nan, nan, nan, 3.0, 4.0]);
    check_rows(b"a,b\n,\n3,4\n", &missing(), &["a", "b"], &[nan, nan, 3.0, 4.0]);
    check_rows(b",\n3.5,4\n,\n", &missing(), &[], &[nan, nan, 3.5, 4.0]);
    check_rows(b"a,b\n1,2\n,\n\n,\n", &ReadOptions::default(), &["a", "b"], &[1.0, 2.0]);
    check_error(
        b"a,b\n1,2\n,\n3,4\n",
        &ReadOptions::default(),
        &["line 3", "all its fields are empty", "--missing-values"],
    );
    check_error(b"a,b\n1,2\n,,\n3,4\n", &missing(), &["line 3: it has 3 fields, expected 2"]);
    // The same with one row per call.
    let mut reader = text(b"a,b\n1,2\n,\n,\n3,4\n,\n", &missing()).expect("opens");
    let mut rows = 0;
    while reader.next_rows(&mut Vec::new(), 1).expect("reads") > 0 {
        rows += 1;
    }
    assert_eq!(rows, 4);
    assert_eq!(reader.notes_at_end(), ["1 row without a value at its end is left out"]);
    // They are reported only where values may be missing; otherwise they are leftovers of a spreadsheet.
    let at_end = |bytes: &[u8], options: &ReadOptions| {
        let mut reader = text(bytes, options).expect("opens");
        reader.next_rows(&mut Vec::new(), usize::MAX).expect("reads");
        reader.notes_at_end()
    };
    assert_eq!(at_end(b"a,b\n1,2\n,\n,\n", &missing()), ["2 rows without a value at its end are left out"]);
    assert_eq!(at_end(b"a,b\n1,2\n,\n,\n", &ReadOptions::default()), [""; 0]);
    assert_eq!(at_end(b"a,b\n1,2\n\n3,4\n\n", &missing()), [""; 0]);
    let blank = at_end(b"a\n1.5\n\n2.5\n\n\n4.5\n\n", &missing());
    assert_eq!(blank, ["3 blank lines between its rows are left out (a missing value is written as \"\" or NA)"]);
    check_error(b"a,b\n,\n,\n", &missing(), &["a header and no rows", "at least one with a value"]);
}

#[test]
fn a_thousands_point_makes_the_comma_decimal() {
    let with_marks = |thousands: &str, decimal: Option<Decimal>| ReadOptions {
        text: TextOptions { thousands: Some(thousands.parse().expect("a mark")), decimal, ..TextOptions::default() },
        ..ReadOptions::default()
    };
    let whole = b"kunde;umsatz\n6.060;104\n526;2.592\n4.669;384\n";
    let names = ["kunde", "umsatz"];
    let rows = [6060.0, 104.0, 526.0, 2592.0, 4669.0, 384.0];
    for options in [with_marks(".", None), with_marks(".", Some(Decimal::Comma))] {
        check_rows(whole, &options, &names, &rows);
        check_rows(b"kunde;umsatz\n6.060,5;104\n526;2.592\n", &options, &names, &[6060.5, 104.0, 526.0, 2592.0]);
        check_rows(b"kunde,umsatz\n\"6.060,5\",104\n", &options, &names, &[6060.5, 104.0]);
    }
    // Without the option for thousands, the error names it, however many commas a line has.
    let ask = ["--thousands"];
    check_error(b"Umsatz;Kosten\n6.060,50;1.104,20\n5.526,10;2.592,10\n", &ReadOptions::default(), &ask);
    check_error("Umsatz;Kosten\n6\u{202f}060,50;1\u{a0}104,20\n".as_bytes(), &ReadOptions::default(), &ask);
    check_error(b"a;b\n6,060.50;1,104.20\n5,526.10;2,592.10\n", &ReadOptions::default(), &ask);
}

#[test]
fn comment_lines_are_not_rows() {
    check_error(b"color,a\n#ff0000,1\n#00ff00,2\n", &ReadOptions::default(), &["no rows", "begin with # are comments"]);
}

#[test]
fn an_ambiguous_column_name_is_refused() {
    let options = |take: &[&str], drop: &[&str]| ReadOptions {
        columns: take.iter().map(|name| (*name).to_owned()).collect(),
        drop_columns: drop.iter().map(|name| (*name).to_owned()).collect(),
        ..ReadOptions::default()
    };
    let rows = b"id,id,a\n1,2,3.5\n";
    for options in [options(&["id"], &[]), options(&[], &["id"])] {
        check_error(rows, &options, &["\"id\"", "is column 1 and column 2", "#1 or #2"]);
    }
    // A number that is also a name.
    let counted = b"0,1,2\n0.5,1.75,2.5\n3.5,4.5,9.5\n";
    check_error(
        counted,
        &options(&["1"], &[]),
        &["\"1\"", "the name of column 2 and the number of column 1", "#2 or #1"],
    );
    check_rows(counted, &options(&["#1"], &[]), &["0"], &[0.5, 3.5]);
    check_rows(counted, &options(&["0"], &[]), &["0"], &[0.5, 3.5]);
    check_rows(rows, &options(&["1", "a"], &[]), &["id", "a"], &[1.0, 3.5]);
    check_rows(rows, &options(&["id_2"], &[]), &["id_2"], &[2.0]);
    check_rows(rows, &options(&[], &["2"]), &["id", "a"], &[1.0, 3.5]);
    // A column after the last separator of each line, requested explicitly.
    check_rows(
        b"1.5,,\n2.5,,\n",
        &ReadOptions { missing_values: true, ..options(&["1", "3"], &[]) },
        &[],
        &[1.5, f64::NAN, 2.5, f64::NAN],
    );
}

#[test]
fn titles_above_names_are_left_out() {
    let notes =
        check_rows(b"Report,,\n,,\na,b,c\n1,2,3.5\n", &ReadOptions::default(), &["a", "b", "c"], &[1.0, 2.0, 3.5]);
    assert!(notes[0].contains("line 1 has no numbers"), "{notes:?}");
    check_error(b"My report\n\na,b\n1.5,2\n3,4\n", &ReadOptions::default(), &["line 1: it has 1 field", "put #"]);
    check_rows(b"a,b,,\n1,2,,\n3,4,,\n,,,\n", &ReadOptions::default(), &["a", "b"], &[1.0, 2.0, 3.0, 4.0]);
}

#[test]
fn damage_is_reported_with_its_line() {
    let mut rows = "ü,b\n".to_owned() + &"1.5,2\n".repeat(100_000);
    rows.push_str("1,");
    let damaged = [rows.as_bytes(), b"\xff2\n3,4\n"].concat();
    check_error(&damaged, &ReadOptions::default(), &["line 100002", "not UTF-8", "--encoding"]);
    let utf16: Vec<u8> =
        "\u{feff}a,b\n1,2\n".encode_utf16().flat_map(u16::to_le_bytes).chain([0x00, 0xd8, 0x31, 0x00]).collect();
    check_error(&utf16, &ReadOptions::default(), &["line 3", "UTF-16LE"]);
    check_error(b"a,b\n1,\"x\n2,3\n", &ReadOptions::default(), &["line 2", "quoted field is not closed"]);
}

#[test]
fn field_errors_say_what_was_expected() {
    let plain = ReadOptions::default();
    check_error(b"a,b\n1,N/A\n", &plain, &["line 2, column 2 (b): \"N/A\"", "missing value", "--missing-values"]);
    check_error(b"a,b\n1,x\n", &plain, &["\"x\"", "--drop-columns"]);
    check_error(b"a,b\n1,x\n", &missing(), &["\"x\"", "--missing-marks"]);
    check_error(
        b"a;b\n1;2\n3;4\n5;6\n1.5;2\n1,5;2\n3;4.5\n",
        &plain,
        &["line 6, column 1 (a): \"1,5\"", "--decimal ,"],
    );
    check_error(b"a;b\n1,5;2\n1.5;2,5\n", &plain, &["\"1.5\"", "decimal comma"]);
    check_error(b"a;b\n1'234,5;2\n", &plain, &["--thousands"]);
    check_error(b"a,b\n1,inf\n", &missing(), &["\"inf\"", "expected a finite number"]);
    check_error(b"a,b\n1,1e999\n", &plain, &["\"1e999\"", "expected a finite number"]);
    check_error(b"1.5,2\n3\n", &plain, &["line 2: it has 1 field, expected 2 as before"]);
    check_error(b"1.5,2,\n3,4,5\n", &plain, &["line 1, column 3"]);
    let late = "1.5,2,\n".repeat(1000) + "5,6,7\n";
    check_error(late.as_bytes(), &plain, &["line 1001, column 3", "\"7\"", "an empty field"]);
}

#[test]
fn conflicting_options_are_errors() {
    let same = TextOptions { separator: Some(Separator::COMMA), decimal: Some(Decimal::Comma), ..Default::default() };
    check_error(
        b"1,2\n",
        &ReadOptions { text: same, ..ReadOptions::default() },
        &["t: the separator and the decimal mark"],
    );
    let marks = TextOptions { missing_marks: vec!["x".to_owned()], ..Default::default() };
    check_error(b"1,2\n", &ReadOptions { text: marks, ..ReadOptions::default() }, &["--missing-values"]);
}

#[test]
fn records_keep_their_text() {
    let files = [
        "\u{feff}sep=;\r\n# made by hand\r\n\"Größe;1\";b ;c\r\n\r\n1,5;;\"3\"\r\n# note\r\n;2,5; 4 \r\n;;\r\n5;6;7\r\n;;\r\n\r\n;;",
        "a\tb\tc\r1\tNA\t3\r\r4\t5\t6",
        "1.5 2 3\n 4  NA 6 \n\n",
        "\"a\nb\",b,c\n\"1\",\"\",2\n3,4,\"5\"\n",
    ];
    for file in files {
        let mut reader = text(file.as_bytes(), &missing()).expect("opens");
        let kept = reader.kept().to_vec();
        reader.keep_text();
        let (mut whole, mut values, mut rows) = (String::new(), Vec::new(), 0);
        while let Some(record) = reader.next_record(&mut values).expect("reads") {
            let row = &values[rows * kept.len()..];
            for (value, field) in row.iter().zip(&kept) {
                let cell = record.text[record.cells[*field].clone()].trim().trim_matches('"').replace(',', ".");
                assert!(
                    cell.parse() == Ok(*value) || value.is_nan() && ["", "NA"].contains(&cell.as_str()),
                    "{record:?} {value}"
                );
            }
            whole += &record.before;
            whole += &record.text;
            rows += 1;
        }
        whole += &reader.rest();
        assert_eq!(whole, file);
    }
}

#[test]
fn a_binary_table_opens_as_other() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("rows.csv");
    std::fs::write(&path, "a\n1\n").expect("writes");
    assert!(matches!(open_table(&path, &ReadOptions::default()), Ok(Table::Text(_))));
    std::fs::write(&path, [0, 0, 8, 2, 0, 0, 0, 1, 0, 0, 0, 1, 7]).expect("writes");
    assert!(matches!(open_table(&path, &ReadOptions::default()), Ok(Table::Other(_))));
}

#[test]
fn blank_separated_numbers_are_not_word_vectors() {
    check_rows(b"5 1\n3 4.5\n7 2\n", &ReadOptions::default(), &[], &[5.0, 1.0, 3.0, 4.5, 7.0, 2.0]);
    check_rows(
        b"t 0 1 2\n0.5 7 1 9.5\n0.7 5 5 1\n",
        &ReadOptions::default(),
        &["t", "0", "1", "2"],
        &[0.5, 7.0, 1.0, 9.5, 0.7, 5.0, 5.0, 1.0],
    );
}

/// A source that returns one line per read and panics if the reader reads more than it needs.
struct Slow(Vec<&'static str>);

impl std::io::Read for Slow {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        assert!(!self.0.is_empty(), "a line is waited for that is not needed");
        let line = self.0.remove(0);
        buffer[..line.len()].copy_from_slice(line.as_bytes());
        Ok(line.len())
    }
}

#[test]
fn a_live_stream_yields_rows_at_once() {
    let mut reader =
        read_live("live", Slow(vec!["a;b\n", "1,5;2\n", "3;4\n"]), &ReadOptions::default()).expect("opens");
    let mut values = Vec::new();
    for expected in [[1.5, 2.0], [3.0, 4.0]] {
        values.clear();
        assert_eq!(reader.next_rows(&mut values, 1).expect("reads"), 1);
        assert_eq!(values, expected);
    }
}

#[test]
fn wide_records_are_analyzed_whole() {
    let line = |field: &dyn Fn(usize) -> String| (0..40_000).map(field).collect::<Vec<_>>().join(",");
    let (header, row) = (line(&|i| format!("column {i}")), line(&|i| format!("{i}.25")));
    let file = [header.as_str(), &row, &row, ""].join(
        "
",
    );
    let mut reader = text(file.as_bytes(), &ReadOptions::default()).expect("opens");
    assert_eq!((reader.columns(), reader.names()[39_999].as_str()), (40_000, "column 39999"));
    let mut values = Vec::new();
    assert_eq!(reader.next_rows(&mut values, 9).expect("reads"), 2);
    assert_eq!(values[79_999], 39_999.25);
}
