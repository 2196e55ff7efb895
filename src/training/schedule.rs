//! The learning rate per step: linear warm-up, then the schedule.

use super::recipe::Schedule;

/// The learning rate of `step` (from 0) of `steps`. It rises to `peak` over `warmup_fraction` of the steps. Then it
/// falls to almost 0 by half a cosine (Loshchilov and Hutter 2017, without restarts), or stays constant.
pub(super) fn learning_rate(schedule: Schedule, step: u64, steps: u64, warmup_fraction: f64, peak: f64) -> f64 {
    let warmup = ((steps as f64 * warmup_fraction) as u64).min(steps.saturating_sub(1));
    if step < warmup {
        return peak * (step + 1) as f64 / (warmup + 1) as f64;
    }
    match schedule {
        Schedule::Constant => peak,
        Schedule::Cosine => {
            let done = (step - warmup) as f64 / (steps - warmup).max(1) as f64;
            // libm's cosine gives the same bits on every machine.
            0.5 * peak * (1.0 + libm::cos(std::f64::consts::PI * done))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cosine_rises_to_the_peak_and_falls_to_almost_nothing() {
        let rates: Vec<f64> = (0..1000).map(|step| learning_rate(Schedule::Cosine, step, 1000, 0.1, 2.0)).collect();
        assert!(rates[..100].is_sorted());
        assert!((rates[100] - 2.0).abs() < 1e-12);
        assert!(rates[100..].iter().rev().is_sorted());
        assert!(rates[999] < 1e-4 && rates.iter().all(|rate| *rate > 0.0));
    }

    #[test]
    fn a_constant_rate_warms_up_like_a_cosine_and_stays() {
        for step in 0..1000 {
            let [constant, cosine] =
                [Schedule::Constant, Schedule::Cosine].map(|schedule| learning_rate(schedule, step, 1000, 0.1, 2.0));
            let expected = if step <= 100 { cosine } else { 2.0 };
            assert_eq!(constant, expected, "step {step}");
        }
    }

    #[test]
    fn a_single_step_has_the_peak() {
        for schedule in [Schedule::Cosine, Schedule::Constant] {
            assert!((learning_rate(schedule, 0, 1, 0.05, 0.5) - 0.5).abs() < 1e-12);
            assert!((learning_rate(schedule, 0, 1, 1.0, 0.5) - 0.5).abs() < 1e-12);
        }
    }
}
