//! The effect of tying on speed: the same step with one matrix per pair, and with two. An experiment; nothing else in
//! the program is untied.

use std::time::Instant;

use halfhitch::model::Loss;
use halfhitch::numeric::matmul::Weights;

use super::support::median;
use super::support::untied::{Network, Tying};

/// Medians over rounds of samples per second, each measured over at least `seconds`: tied, untied, and their ratio.
pub(super) fn compare(widths: &[usize], batch: usize, rounds: usize, seconds: f64) -> (f64, f64, f64) {
    let first: Vec<Weights> = widths.windows(2).map(|pair| weights(pair[1], pair[0])).collect();
    let rows: Vec<f32> = (0..batch * widths[0]).map(|i| (i % 97) as f32 / 97.0).collect();
    let [mut tied, mut untied] = [Tying::Tied, Tying::Untied].map(|tying| {
        let mut network = Network::new(&first, tying, Loss::BinaryCrossEntropy);
        network.load(&rows);
        network
    });
    let mut round = || (speed(&mut tied, batch, seconds), speed(&mut untied, batch, seconds));
    let rounds: Vec<(f64, f64)> = (0..rounds).map(|_| round()).collect();
    let over = |f: fn(&(f64, f64)) -> f64| median(rounds.iter().map(f));
    (over(|round| round.0), over(|round| round.1), over(|round| round.0 / round.1))
}

/// Deterministic weights; orthonormal ones would take long to compute.
fn weights(outputs: usize, inputs: usize) -> Weights {
    let scale = (inputs as f32).sqrt().recip();
    let values = (0..outputs * inputs).map(|i| (((i * 7_919) % 1_009) as f32 / 504.5 - 1.0) * scale);
    Weights::from_row_major(outputs, inputs, &values.collect::<Vec<f32>>())
}

fn speed(network: &mut Network, batch: usize, seconds: f64) -> f64 {
    // A learning rate so small that the weights hardly change.
    let mut step = || network.step(1e-6);
    step();
    let (mut steps, started) = (0, Instant::now());
    loop {
        step();
        steps += 1;
        let elapsed = started.elapsed().as_secs_f64();
        if elapsed >= seconds {
            return (steps * batch) as f64 / elapsed;
        }
    }
}
