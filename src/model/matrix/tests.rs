//! Tests of matrices in every number format: shapes, values, and copies into batches.

use proptest::prelude::*;

use super::*;
use crate::model::NormalizationKind;

fn le(values: &[f32]) -> Values {
    Values::Float32Le(values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>().into())
}

/// The same numbers in both formats.
fn both(values: &[f32]) -> [Values; 2] {
    [le(values), Values::Floats(values.to_vec())]
}

#[track_caller]
fn check_refused(rows: u32, columns: u32, values: Values, text: &str) {
    assert_eq!(Matrix::new(rows, columns, values).expect_err("refused").to_string(), text);
}

#[test]
fn a_matrix_has_rows_and_columns() {
    for values in both(&[]) {
        check_refused(0, 3, values.clone(), "matrix has 0 rows, expected at least 1");
        check_refused(3, 0, values, "matrix has 0 columns, expected at least 1");
    }
}

#[test]
fn length_and_shape_agree() {
    check_refused(2, 3, Values::Floats(vec![0.0; 5]), "matrix of 2 x 3 has 5 floats, expected 6");
    check_refused(2, 3, Values::Floats(vec![0.0; 7]), "matrix of 2 x 3 has 7 floats, expected 6");
    check_refused(1, 1, Values::Float32Le(Bytes::from_static(b"abc")), "matrix of 1 x 1 has 3 bytes, expected 4");
}

#[test]
fn a_shape_that_overflows_is_refused() {
    for values in both(&[0.0]) {
        assert!(Matrix::new(u32::MAX, u32::MAX, values).is_err());
    }
    // In 64 bits, 2^31 x 2^31 x 4 bytes wrap around to 0.
    check_refused(
        1 << 31,
        1 << 31,
        Values::Float32Le(Bytes::new()),
        "matrix of 2147483648 x 2147483648 has 0 bytes, expected 18446744073709551616",
    );
}

#[test]
fn the_first_number_that_is_not_finite_is_named() {
    for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for values in both(&[0.0, 1.0, 2.0, 3.0, wrong, f32::NAN]) {
            let matrix = Matrix::new(2, 3, values).expect("a matrix");
            let error = matrix.check_finite().expect_err("refused");
            let expected = format!("value at row 2, column 2 is {wrong}, expected a finite number");
            assert!(error.to_string().starts_with(&expected), "{error}");
            assert_eq!(matrix.check_values(Missing::Allowed).is_ok(), wrong.is_nan());
        }
    }
}

#[test]
fn the_largest_and_the_smallest_numbers_are_finite() {
    for values in both(&[f32::MAX, f32::MIN, f32::MIN_POSITIVE, 1e-45, -0.0]) {
        assert_eq!(Matrix::new(1, 5, values).expect("a matrix").check_finite(), Ok(()));
    }
}

/// The bytes in every format of bytes.
fn in_every_form(bytes: &[u8]) -> [Values; 6] {
    let bytes = Bytes::copy_from_slice(bytes);
    [
        Values::Float32Le(bytes.clone()),
        Values::Float64Le(bytes.clone()),
        Values::Float16Le(bytes.clone()),
        Values::Bfloat16Le(bytes.clone()),
        Values::Uint8(bytes.clone()),
        Values::Int8(bytes),
    ]
}

/// The same small integers in every format: from 0 to 127, which each format can represent.
fn whole_numbers(values: &[u8]) -> Vec<Values> {
    let floats: Vec<f32> = values.iter().copied().map(f32::from).collect();
    let halves = |half: fn(f32) -> [u8; 2]| floats.iter().flat_map(|x| half(*x)).collect::<Vec<u8>>().into();
    vec![
        le(&floats),
        Values::Floats(floats.clone()),
        Values::from_f64(&floats.iter().copied().map(f64::from).collect::<Vec<_>>()),
        Values::Float16Le(halves(|x| f16::from_f32(x).to_le_bytes())),
        Values::Bfloat16Le(halves(|x| bf16::from_f32(x).to_le_bytes())),
        Values::Uint8(Bytes::copy_from_slice(values)),
        Values::Int8(Bytes::copy_from_slice(values)),
    ]
}

#[test]
fn the_right_length_depends_on_the_form() {
    for values in in_every_form(&[0; 7]) {
        let expected = 6 * values.form().number_bytes();
        let text = format!("matrix of 2 x 3 has 7 bytes, expected {expected}");
        check_refused(2, 3, values, &text);
    }
    for values in in_every_form(&[]) {
        let size = values.form().number_bytes();
        let bytes = vec![0; 6 * size];
        let whole = in_every_form(&bytes).into_iter().find(|whole| whole.form() == values.form()).expect("all");
        let matrix = Matrix::new(2, 3, whole).expect("the right length");
        assert_eq!(matrix.bytes(), 6 * size, "true size in memory");
    }
}

#[test]
fn values_beyond_float32_are_finite_and_nan_is_not() {
    let matrix = Matrix::new(1, 2, Values::from_f64(&[1e300, 1_700_000_001.0])).expect("a matrix");
    assert_eq!(matrix.check_finite(), Ok(()));
    for (wrong, missing) in [(f64::NAN, true), (f64::INFINITY, false), (f64::NEG_INFINITY, false)] {
        let matrix = Matrix::new(2, 2, Values::from_f64(&[0.0, 1.0, wrong, 2.0])).expect("a matrix");
        assert!(matches!(matrix.check_finite(), Err(MatrixError::NotFinite { .. })));
        assert_eq!(matrix.check_values(Missing::Allowed).is_ok(), missing);
    }
    for values in [Values::Float16Le(f16::NAN.to_le_bytes().to_vec().into()), le(&[f32::NAN])] {
        assert!(Matrix::new(1, 1, values).expect("a matrix").check_finite().is_err());
    }
}

#[test]
fn a_row_in_binary64_is_normalized_before_it_is_rounded() {
    let normalizer = Normalizer {
        kind: NormalizationKind::Standardize,
        offset: vec![1.7e9, 2.0],
        scale: vec![4.0, 0.5],
        fill: Vec::new(),
        exact_offset: vec![1_700_000_001.5, 2.0],
    };
    let rows = [1_700_000_003.5, 3.0, 1_700_000_001.5, f64::NAN, 1_700_000_000.0, 2.25];
    let matrix = Matrix::new(3, 2, Values::from_f64(&rows)).expect("a matrix");
    let mut batch = PanelMatrix::zeros(4, 2);
    matrix.load_normalized_into(0..3, &mut batch, 1, &normalizer);
    assert_eq!(batch.column(0), [0.0, 0.5, 0.0, -0.375]);
    assert_eq!((batch.at(1, 1), batch.at(2, 1).is_nan(), batch.at(3, 1)), (2.0, true, 0.5));
}

#[test]
fn columns_are_chosen_in_every_form() {
    for values in whole_numbers(&[0, 1, 2, 3, 4, 5]) {
        let form = values.form();
        let of = |numbers: &[u8]| whole_numbers(numbers).into_iter().find(|values| values.form() == form).expect("all");
        let matrix = Matrix::new(2, 3, values).expect("a matrix");
        for (columns, expected) in [(&[2, 0][..], &[2, 0, 5, 3][..]), (&[1], &[1, 4])] {
            let selected = matrix.selected(columns);
            assert_eq!((selected.rows(), selected.columns()), (2, columns.len()));
            assert_eq!(selected.values(), &of(expected));
        }
    }
}

proptest! {
    #[test]
    fn every_form_loads_the_same_numbers(
        values in prop::collection::vec(0_u8..128, 1..60),
        columns in 1_usize..7,
        kept in 1_usize..9,
    ) {
        let rows = values.len() / columns;
        prop_assume!(rows > 0);
        let values = &values[..rows * columns];
        let mut expected = PanelMatrix::zeros(rows, columns);
        expected.load(0, &values.iter().copied().map(f32::from).collect::<Vec<_>>());
        for form in whole_numbers(values) {
            let matrix = Matrix::new(rows as u32, columns as u32, form).expect("a matrix");
            let mut batch = PanelMatrix::zeros(rows, columns);
            matrix.load_into(0..rows, &mut batch, 0);
            prop_assert_eq!(batch.values(), expected.values());
            let mut normalized = PanelMatrix::zeros(rows, columns);
            matrix.load_normalized_into(0..rows, &mut normalized, 0, &Normalizer::none());
            prop_assert_eq!(normalized.values(), expected.values());
            let wide: Vec<f64> = values.iter().copied().map(f64::from).collect();
            prop_assert_eq!(matrix.rows_f64(0..rows), &wide[..]);
            prop_assert_eq!(matrix.values().to_f32().len(), wide.len());
            let other = matrix.resized(kept);
            prop_assert_eq!(other.columns(), kept);
            for (row, numbers) in other.values().to_f64().chunks_exact(kept).enumerate() {
                for (j, number) in numbers.iter().enumerate() {
                    let there = if j < columns { f64::from(values[row * columns + j]) } else { 0.0 };
                    prop_assert_eq!(*number, there);
                }
            }
        }
    }

    #[test]
    fn only_the_right_length_is_accepted(rows in 0_u32..9, columns in 0_u32..9, bytes in 0_usize..400) {
        let fits = rows > 0 && columns > 0 && bytes == (rows * columns * 4) as usize;
        let values = Values::Float32Le(vec![0; bytes].into());
        prop_assert_eq!(Matrix::new(rows, columns, values).is_ok(), fits);
    }

    #[test]
    fn arbitrary_shapes_and_bytes_never_panic(rows: u32, columns: u32, bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        for values in in_every_form(&bytes) {
            if let Ok(matrix) = Matrix::new(rows, columns, values) {
                prop_assert_eq!(matrix.bytes(), bytes.len());
                let _ = matrix.check_finite();
                prop_assert_eq!(matrix.values().to_f64().len(), matrix.rows() * matrix.columns());
            }
        }
    }

    #[test]
    fn rows_load_at_the_right_place_in_either_form(
        (rows, columns) in (1_usize..40, 1_usize..6),
        (from, to) in (0_usize..40, 0_usize..40),
        first in 0_usize..20,
    ) {
        let (from, to) = (from.min(to).min(rows), to.max(from).min(rows));
        let values: Vec<f32> = (0..rows * columns).map(|i| i as f32 + 1.0).collect();
        for form in both(&values) {
            let matrix = Matrix::new(rows as u32, columns as u32, form).expect("a matrix");
            let mut batch = PanelMatrix::zeros(60, columns);
            matrix.load_into(from..to, &mut batch, first);
            for row in 0..60 {
                for column in 0..columns {
                    let inside = (first..first + to - from).contains(&row);
                    let expected = if inside { values[(from + row - first) * columns + column] } else { 0.0 };
                    prop_assert_eq!(batch.at(row, column).to_bits(), expected.to_bits());
                }
            }
        }
    }
}
