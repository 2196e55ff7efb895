//! Tests of the decision on first records that are names, rows, or ambiguous.

use super::*;
use crate::files::table::cell::CellReader;
use crate::files::table::options::{Decimal, TextOptions};

fn classes(line: &str) -> Vec<Class> {
    let cells = CellReader::new(Decimal::Dot, &TextOptions::default(), false);
    line.split(',').map(|field| cells.class(field)).collect()
}

fn decided(text: &str) -> First {
    let mut lines = text.split(' ');
    let first = classes(lines.next().expect("a line"));
    decide(&first, &lines.map(classes).collect::<Vec<_>>())
}

#[test]
fn headers_are_recognized_in_examples() {
    use First::{Names, NumbersAsNames, Row, RowWithText, Unclear};
    for (text, expected) in [
        ("a,b 1,2", Names),
        ("a,b x,y", Names),
        ("a,,b 1,2,3", Names),
        ("a,b", Names),
        ("a,NA,b 1,2,3", Names),
        // Rows of numbers.
        ("1.5,2 3,4", Row),
        ("1,2 3,4", Row),
        ("1", Row),
        ("0,1,2", Row),
        ("1,2 3,4.5 -6e1,7", Row),
        ("3,7,9 4,2,8 1,1,1", Row),
        ("1,,3 4,5,", Row),
        (",2 3,", Unclear("its first field is empty, as above an index, and no field below it is empty")),
        (",2 3, ,5", Row),
        ("NA,1 2,3", Row),
        ("NA,0 2,3", Row),
        // A gap above values that are not an index.
        (",0,1 0.5,1,0", Unclear("its first field is empty, as above an index, and no field below it is empty")),
        // As pandas writes crosstabs, pivots and MultiIndex frames.
        (",1,3,5 11,40,75,62 12,65,51,3 13,7,8,9", NumbersAsNames("the first field is empty, as above an index")),
        (",1,3 2024-01-01,4,5 2024-01-02,6,7", NumbersAsNames("the first field is empty, as above an index")),
        (",False,True 0,4,5 1,6,7", NumbersAsNames("true and false above numbers")),
        ("False,True 4,5 6,7", NumbersAsNames("true and false above numbers")),
        ("False,True 0.5,True", Row),
        ("2018.0,2019.0,2020.0 0.5,1.5,2.5", NumbersAsNames("years")),
        (
            "400.5,410.5,420.5 1.25,7.5,3.5 2,1,9",
            Unclear("its fields rise or fall in equal steps, unlike those of any row below"),
        ),
        ("50%,7% 5,6", Unclear("its fields are nearly numbers, and none is a number")),
        ("a,25%,75% 1,2,3", Names),
        ("Bonn,0,1 Ulm,3,2", RowWithText),
        ("-0.04 0.13 0.5", Row),
        ("True,False,1 False,True,2", Row),
        // Rows that continue a count.
        ("0,1,2 3,4,5 6,7,8", Row),
        ("0,1,2,3 1,2,3,4 2,3,4,5", Row),
        ("0,1,2,3 2,3,4,5 4,5,6,7", Row),
        ("0,1 1,2 2,3", Row),
        ("0,1 2,3 4,5", Row),
        ("2018,2019,2020 2019,2020,2021 2020,2021,2022", Row),
        ("2018 2017 1999", Row),
        ("1,2,3 4,5,6", Row),
        ("0,1,0 0.1,0.9,0 0.2,0.8,0", Row),
        ("1990,2005 1987,2001 1980,2000", Row),
        // The iris data: text at the end of each row, and no header.
        ("5.1,3.5,setosa 4.9,3.0,setosa 6.2,2.9,virginica", RowWithText),
        ("a,1,2 b,3,4", RowWithText),
    ] {
        assert_eq!(decided(text), expected, "{text}");
    }
}

#[test]
fn numbers_written_as_names_are_recognized() {
    for text in [
        "0,1,2,3,4,5 -0.04,-0.56,-0.60,1.24,-0.37,1.57 -0.13,0.11,-0.92,0.48,2.45,-0.99",
        "0,1 -0.04,-0.56 -0.13,0.11",
        "0,1,2 1,0.5,7 1,0.25,3",
        "0,1,2,3 7,1,9,4 5,5,1,2",
        // With an index, from 0 or shuffled.
        ",0,1 0,-0.04,-0.56 1,-0.13,0.11",
        ",0,1,2 17,5,3,1 4,2,2,9",
        "0,1,2 7,3,1 4,9,5 2,8,8",
        "0,1,2 5,6,7 8,1,2 3,3,1 9,4,4",
        ",0 0,0.5 1,0.25 2,0.125",
        "2018,2019,2020 1.5,2.5,3.5 4,5,6",
        "2018,2019 17,25 3,4",
        "2020,2019,2018 1,2,3 5,1,2",
        "city,2018,2019 Bonn,1,2 Ulm,3,4",
        ",2018,2019 0,1,2 1,3,4",
        "t,0,1 0.5,7,1 0.7,5,5",
        "t,0,1,2,3 0.5,7,1,9,4 0.7,5,5,1,2",
        "sample,400,402,404,406 a,0.1,0.2,0.15,0.3 b,0.2,0.1,0.3,0.25",
        "400,402,404,406 0.1,0.2,0.15,0.3 0.2,0.1,0.3,0.25",
        "1,2,3,4 0.04,0.56,0.60,0.24 0.13,0.11,0.92,0.48 0.5,0.2,0.3,0.4",
    ] {
        assert!(matches!(decided(text), First::NumbersAsNames(_)), "{text}: {:?}", decided(text));
    }
}

#[test]
fn ambiguous_first_lines_are_reported_as_unclear() {
    for text in [
        "0,1 1,0 1,1 0,0",
        "0,1 0,1 1,0",
        "0 0.5 -0.3 0.2",
        "0 1.5 2",
        "0 1 2 3",
        "0 12 7 9",
        "0 True False True",
        // Above an id from 1, a row in equal steps, and sliding windows that begin elsewhere.
        "0,1,2,3 1,27,0,8919 2,34,0,15838 3,41,0,22757",
        "0,1,2,3 8,2,8,6 4,6,5,9",
        "0,1,2,3 100,101,102,103 101,102,103,104 102,103,104,105",
        "2018,2019,2020 2000,83,2000 2001,34,2001 2002,5,2002",
        "2018 1.5 2.25 3",
        "1,2,3 7,1,4",
        // The cosine, with 0 and 1 written without a decimal mark.
        "0,1 0.1,0.995 0.2,0.980 0.3,0.955",
        "0,1,2 0.1,1.5,2.5 0.2,1.7,2.9 0.3,1.1,2.0",
        "oops,1 41,2 42,3",
        "3,7,9 0.1,0.2,0.4 0.3,0.1,0.2 0.5,0.6,0.1",
        // All combinations of 0 to 9, three at a time.
        "0,1,2 0,1,3 0,1,9 0,2,3 4,8,9 7,8,9",
        "0.1,0.2,0.5 0.123456789,0.23456789,0.98765432 0.52345678,1.23456789,2.3456789 0.32345678,1.43456789,2.7456789",
        "0.0,0.1,0.2,0.3 0.5,0.1,0.7,0.2 0.1,0.4,0.4,0.9",
        "1990,2005 300,400 2001,500 100,300",
    ] {
        assert!(matches!(decided(text), First::Unclear(_)), "{text}: {:?}", decided(text));
    }
}

#[test]
fn a_line_of_units_is_recognized() {
    let rows = [classes("1,2,x"), classes("3,4,y")];
    assert!(is_second_header(&classes("°C,V,name"), &rows));
    assert!(is_second_header(&classes(",V,"), &rows));
    assert!(!is_second_header(&classes("1,V,z"), &rows));
    assert!(!is_second_header(&classes(",,z"), &rows), "there is text in every row");
    assert!(!is_second_header(&classes("NA,-,"), &rows), "a row without values");
}

#[test]
fn an_index_has_distinct_whole_numbers() {
    let rows = |text: &str| text.split(' ').map(classes).collect::<Vec<_>>();
    assert!(is_index(0, &rows("0,1 1,1 2,1")) && is_index(0, &rows("7,1 3,1")));
    assert!(!is_index(1, &rows("0,1 1,1 2,1")) && !is_index(0, &rows("0.5,1 1,1")) && !is_index(0, &rows("x,1")));
}
