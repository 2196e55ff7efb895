//! Tests of the limits, on rows with and without outliers.

use super::*;
use crate::numeric::rng::{Stream, Use};
use crate::training::MemoryRows;
use crate::training::clip::clip;

fn outliers(values: Vec<f32>, features: usize) -> Outliers {
    Outliers::find(&MemoryRows::new(values, features), &mut || Ok(())).expect("reads")
}

fn find(values: Vec<f32>, features: usize) -> Option<Broken> {
    outliers(values, features).broken
}

fn normal(count: usize, seed: u64) -> impl Iterator<Item = f64> {
    let mut stream = Stream::new(seed, 0, 0, Use::Weights);
    (0..count).map(move |_| stream.normal())
}

#[test]
fn one_broken_value_is_found_in_any_row() {
    for rows in [20, 60, 150, 9000] {
        for (row, value) in [(0, 1e30), (7, -1e30), (rows - 1, 1e20), (11, 1e8)] {
            let mut values: Vec<f32> = normal(3 * rows, 1).map(|x| (20.0 + 5.0 * x) as f32).collect();
            values[3 * row + 1] = value;
            let found = find(values.clone(), 3).expect("broken");
            assert_eq!((found.count, found.limits.len()), (1, 1), "{rows} rows, {value}");
            let note = found.note(Names(&[]), None, true);
            assert!(note.contains(&format!("row {}: column 2 is {value:e}", row + 1)), "{note}");
            clip(&mut values, 3, &found.limits);
            assert!(values.iter().all(|value| (-20.0..60.0).contains(value)), "{rows} rows, {value}");
        }
    }
}

#[test]
fn heavy_tails_are_not_broken() {
    type Tail = fn(f64) -> f64;
    let heavy: [(&str, Tail); 4] = [
        ("lognormal", |x| (2.5 * x).exp()),
        ("cubes", |x| x.powi(9)),
        ("mostly zero", |x| if x > 1.5 { (4.0 * x).exp() } else { 0.0 }),
        ("rare flags", |x| f64::from(u8::from(x > 2.8))),
    ];
    for (name, of) in heavy {
        for seed in 0..10 {
            let values: Vec<f32> = normal(20_000, seed).map(|x| of(x) as f32).collect();
            assert_eq!(find(values, 1), None, "{name}, seed {seed}");
        }
    }
    // Pareto with an infinite mean: the largest value is half of the sum.
    for seed in 0..10 {
        let mut stream = Stream::new(seed, 0, 0, Use::Sample);
        let values: Vec<f32> = (0..20_000).map(|_| (1.0 / (1.0 - stream.uniform())) as f32).collect();
        assert_eq!(find(values, 1), None, "Pareto, seed {seed}");
    }
}

#[test]
fn a_constant_column_may_have_a_flag_but_no_huge_value() {
    let mut values = vec![3.0; 500];
    values[100] = 4.0;
    assert_eq!(find(values.clone(), 1), None);
    values[200] = 1e30;
    let found = find(values, 1).expect("broken");
    assert_eq!(found.limits, [Limit { feature: 0, least: 3.0, greatest: 4.0 }]);
}

#[test]
fn frequent_and_missing_values_are_not_broken() {
    let mut values: Vec<f32> = normal(1000, 3).map(|x| x as f32).collect();
    values.iter_mut().step_by(20).for_each(|value| *value = -1e9);
    assert_eq!(find(values, 1), None, "5 % have it");
    let mut values: Vec<f32> = normal(1000, 3).map(|x| x as f32).collect();
    values.iter_mut().step_by(3).for_each(|value| *value = f32::NAN);
    assert_eq!(find(values.clone(), 1), None);
    values[100] = 1e30;
    assert_eq!(find(values, 1).expect("broken").count, 1);
    assert_eq!(find(vec![1e30, 1.0, 2.0], 1), None, "three rows say nothing");
}

/// More far values than fit in memory do not hide a broken one.
#[test]
fn a_heavy_tail_does_not_hide_a_broken_value() {
    let values = normal(400_000, 6).map(|x| (2.5 * x).exp() as f32);
    let columns = 1500;
    let mut rows: Vec<f32> = values.collect();
    rows[123 * columns + 7] = 1e30;
    rows.truncate(rows.len() / columns * columns);
    assert_eq!(find(rows, columns).map(|broken| broken.count), Some(1));
    let mut suspect = Suspect {
        feature: 0,
        median: 0.0,
        distances_max: [1000.0, 20.0],
        least: f32::INFINITY,
        greatest: f32::NEG_INFINITY,
        farthest_kept: 0.0,
        values: 0,
        others: Vec::new(),
        kept_max: 8,
    };
    (0..10_000).for_each(|row| suspect.look(row, if row == 50 { 1e30 } else { 21.0 + row as f32 }));
    suspect.drop_nearest();
    let (limit, beyond) = suspect.beyond(0).expect("one is broken");
    assert_eq!((beyond.len(), beyond[0].row, limit.least, limit.greatest), (1, 50, 21.0, 10_020.0));
}

/// Unmarked missing values, and one broken value beside another.
#[test]
fn far_values_are_found_with_and_without_broken_ones() {
    let plain = || normal(500, 8).map(|x| (10.0 + 2.0 * x) as f32).collect::<Vec<f32>>();
    for (rows, mark) in [(3, -999.0), (1, -9999.0), (10, 1e6), (20, -999.0), (10, 1e30)] {
        let mut values = plain();
        values.iter_mut().step_by(500 / rows).take(rows).for_each(|value| *value = mark);
        let far = outliers(values.clone(), 1).far.expect("far");
        assert_eq!(far.count, rows as u64, "{mark}");
        let note = far.note_of_far(Names(&[]), None);
        assert!(note.contains(&format!("{rows} in 1 column (row 1: column 1 is {mark:e}")), "{note}");
        clip(&mut values, 1, &far.limits);
        assert!(values.iter().all(|value| (0.0..20.0).contains(value)), "{mark}");
    }
    let mut values = plain();
    (values[3], values[5], values[9]) = (2000.0, 1e5, 1e30);
    let Outliers { broken, far } = outliers(values, 1);
    assert_eq!((broken.map(|broken| broken.count), far.map(|far| far.count)), (Some(1), Some(3)));
    assert_eq!(outliers(plain(), 1), Outliers::default());
}

#[test]
fn a_note_names_a_few_of_many() {
    let mut values: Vec<f32> = normal(40_000, 5).map(|x| x as f32).collect();
    (0..10_000).step_by(1000).for_each(|row| values[4 * row + 2] = 1e25);
    let found = find(values, 4).expect("broken");
    let note = found.note(Names(&["a", "b", "flow"].map(str::to_owned)), None, false);
    assert!(note.starts_with("broken values: 10 in 1 column (row 1: flow is 1e25; row 1001: "), "{note}");
    assert!(note.contains("and 5 more") && note.contains("choose robust"), "{note}");
}
