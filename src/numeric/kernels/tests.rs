//! Compares every instruction set with the definition in `matmul`, bit for bit, also with guarded memory around the
//! data.

use proptest::prelude::*;

use super::*;
use crate::numeric::matmul::Weights;
use crate::numeric::rng::{Stream, Use};
use crate::numeric::{Activation, PanelMatrix};

fn random(count: usize, seed: u64) -> Vec<f32> {
    let mut stream = Stream::new(seed, 0, 0, Use::Weights);
    (0..count).map(|_| stream.normal() as f32).collect()
}

fn lanes(rows: usize, columns: usize, row_major: &[f32]) -> PanelMatrix {
    let mut lanes = PanelMatrix::zeros(rows, columns);
    lanes.load(0, row_major);
    lanes
}

/// The definition, as a plain loop.
fn expected(
    direction: Direction,
    w: &[f32],
    (outputs, inputs): (usize, usize),
    x: &[f32],
    bias: &[f32],
    f: Activation,
) -> Vec<f32> {
    let (reduced, columns) = match direction {
        Direction::Encode => (inputs, outputs),
        Direction::Decode => (outputs, inputs),
    };
    let mut y = Vec::new();
    for row in x.chunks_exact(reduced) {
        for column in 0..columns {
            let weight = |k: usize| match direction {
                Direction::Encode => w[column * inputs + k],
                Direction::Decode => w[k * inputs + column],
            };
            let sum = (0..reduced).fold(0.0f32, |sum, k| weight(k).mul_add(row[k], sum));
            y.push(f.value(sum + bias[column]));
        }
    }
    y
}

/// Compares every instruction set of this machine with the definition.
fn check(outputs: usize, inputs: usize, rows: usize, f: Activation, seed: u64) -> Result<(), TestCaseError> {
    let w = random(outputs * inputs, seed);
    let weights = Weights::from_row_major(outputs, inputs, &w);
    for direction in [Direction::Encode, Direction::Decode] {
        let (x_columns, y_columns) = if direction == Direction::Encode { (inputs, outputs) } else { (outputs, inputs) };
        let (x, bias) = (random(rows * x_columns, seed + 1), random(y_columns, seed + 2));
        let expected = expected(direction, &w, (outputs, inputs), &x, &bias, f);
        let x = lanes(rows, x_columns, &x);
        for isa in Isa::available() {
            let mut y = PanelMatrix::default();
            on(isa, || match direction {
                Direction::Encode => weights.encode_layer(&x, &bias, f, &mut y),
                Direction::Decode => weights.decode_layer(&x, &bias, f, &mut y),
            });
            let mut got = vec![0.0; expected.len()];
            y.store(0..rows, &mut got);
            let differs = got.iter().zip(&expected).position(|(got, expected)| got.to_bits() != expected.to_bits());
            prop_assert_eq!(differs, None, "{:?} {} {}x{} rows={} {:?}", direction, isa, outputs, inputs, rows, f);
        }
    }
    Ok(())
}

fn say_paths() {
    let paths: Vec<String> = Isa::available().map(|isa| isa.to_string()).collect();
    println!("paths that ran: {}", paths.join(", "));
}

#[test]
fn every_path_matches_the_definition_for_1_to_49_rows() {
    say_paths();
    for rows in 1..=49 {
        for (outputs, inputs) in [(37, 29), (5, 18), (64, 32)] {
            check(outputs, inputs, rows, Activation::Linear, rows as u64).expect("the same bits");
        }
    }
}

#[test]
fn every_path_matches_the_definition_with_gaps_between_panels() {
    say_paths();
    for rows in [1, 2, 3, 7, 16, 35] {
        check(50, 512, rows, Activation::Relu, 3).expect("the same bits");
    }
}

#[test]
fn every_activation_has_the_same_bits_on_every_path() {
    say_paths();
    let values: Vec<f32> = (-3000..3000).map(|i| i as f32 * 0.007).chain([f32::MAX, -f32::MAX, 1e-40, -0.0]).collect();
    for f in Activation::EACH {
        for isa in Isa::available() {
            let mut got = values.clone();
            on(isa, || activate(f, &mut got));
            for (x, y) in values.iter().zip(&got) {
                assert_eq!(y.to_bits(), f.value(*x).to_bits(), "{f:?}({x}) on {isa}");
            }
        }
    }
}

/// No kernel reads or writes out of bounds, for ragged sizes and each kind of memory.
#[cfg(unix)]
#[test]
fn no_path_accesses_memory_out_of_bounds() {
    use super::guarded::{Guarded, Home};
    say_paths();
    for (outputs, inputs) in [(1, 1), (3, 5), (16, 16), (17, 15), (31, 33), (50, 23), (32, 64)] {
        let w = Weights::from_row_major(outputs, inputs, &random(outputs * inputs, 1));
        for rows in (1..=18).chain([24, 31, 32, 47, 50, 65]) {
            for direction in [Direction::Encode, Direction::Decode] {
                let (x_columns, y_columns) = match direction {
                    Direction::Encode => (inputs, outputs),
                    Direction::Decode => (outputs, inputs),
                };
                let (x, bias) = (random(rows * x_columns, 2), random(y_columns, 3));
                let results = Isa::available().flat_map(|isa| Home::ALL.map(|home| (isa, home))).map(|(isa, home)| {
                    let mut y = Guarded::new(&vec![f32::NAN; rows * y_columns], home);
                    on(isa, || {
                        product(&mut Product {
                            direction,
                            w: &Guarded::new(w.panels(), home),
                            w_stride: PANEL * inputs,
                            outputs,
                            inputs,
                            rows,
                            x: &Guarded::new(&x, home),
                            y: &mut y,
                            bias: Some(&Guarded::new(&bias, home)),
                            activation: Activation::Elu { alpha: 1.0 },
                        });
                    });
                    y.iter().map(|value| value.to_bits()).collect::<Vec<_>>()
                });
                let results: Vec<_> = results.collect();
                assert!(
                    results.windows(2).all(|pair| pair[0] == pair[1]),
                    "{direction:?} {outputs}x{inputs} rows={rows}"
                );
            }
            let (u, v) = (random(rows * outputs, 4), random(rows * inputs, 5));
            for (isa, home) in Isa::available().flat_map(|isa| Home::ALL.map(|home| (isa, home))) {
                let mut gradient = Guarded::new(&vec![0.0; outputs * inputs], home);
                on(isa, || {
                    outer(&mut Outer {
                        w: &mut gradient,
                        w_stride: PANEL * inputs,
                        count: outputs,
                        first: 0,
                        outputs,
                        inputs,
                        rows,
                        u: &Guarded::new(&u, home),
                        v: &Guarded::new(&v, home),
                        add: rows % 2 == 0,
                    });
                });
            }
        }
    }
    let values = random(67, 6);
    for (isa, home) in Isa::available().flat_map(|isa| Home::ALL.map(|home| (isa, home))) {
        for len in 1..=values.len() {
            for f in Activation::EACH {
                on(isa, || activate(f, &mut Guarded::new(&values[..len], home)));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_path_matches_the_definition(
        (outputs, inputs) in (1_usize..70, 1_usize..70),
        rows in 1_usize..70,
        f in prop::sample::select(&Activation::EACH[..]),
        seed: u32,
    ) {
        check(outputs, inputs, rows, f, u64::from(seed))?;
    }

    #[test]
    fn every_path_sums_a_gradient_in_order(
        (outputs, inputs) in (1_usize..150, 1_usize..40),
        rows in 1_usize..150,
        seed: u32,
    ) {
        let seed = u64::from(seed);
        let (u, v) = (lanes(rows, outputs, &random(rows * outputs, seed)), lanes(rows, inputs, &random(rows * inputs, seed + 1)));
        let sums = Isa::available().map(|isa| on(isa, || {
            let mut gradient = Weights::zeros(outputs, inputs);
            for mut panel in crate::numeric::matmul::panels(gradient.panels_mut(), outputs, inputs) {
                panel.replace(&u, &v);
            }
            gradient.to_row_major()
        }));
        for sum in sums {
            for o in 0..outputs {
                for i in 0..inputs {
                    let expected = (0..rows).fold(0.0f32, |sum, n| u.at(n, o).mul_add(v.at(n, i), sum));
                    prop_assert_eq!(sum[o * inputs + i].to_bits(), expected.to_bits());
                }
            }
        }
    }
}
