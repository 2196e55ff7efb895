//! Parses durations such as `90s`, `10m`, `1h30m`.

use std::time::Duration;

const UNITS: [(&str, f64); 5] = [("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3600.0), ("d", 86_400.0)];
/// Longest duration: about a century.
const SECONDS_MAX: f64 = 3.2e9;
const EXPECTED: &str = "expected numbers followed by ms, s, m, h or d, for example 90s, 1.5h or 1h30m";

/// Adds up numbers that each have a unit.
pub(super) fn parse(text: &str) -> Result<Duration, String> {
    let mut rest = text.trim();
    let mut seconds = 0.0;
    if rest.is_empty() {
        return Err(format!("is empty, {EXPECTED}"));
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, behind) = rest.split_at(digits);
        let letters = behind.find(|c: char| !c.is_ascii_lowercase()).unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(letters);
        let number: f64 = number.parse().map_err(|_| format!("has no number at `{rest}`, {EXPECTED}"))?;
        let unit_seconds = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, seconds)| *seconds);
        let unit_seconds = unit_seconds.ok_or_else(|| format!("has the unit `{unit}`, {EXPECTED}"))?;
        seconds += number * unit_seconds;
        rest = behind.trim_start();
    }
    if seconds > SECONDS_MAX {
        return Err(format!("is {seconds} seconds, expected at most {SECONDS_MAX}"));
    }
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_with_units_add_up() {
        for (text, milliseconds) in [
            ("90s", 90_000),
            ("10m", 600_000),
            ("1h30m", 5_400_000),
            ("1h 30m", 5_400_000),
            ("1.5h", 5_400_000),
            ("2d", 172_800_000),
            ("250ms", 250),
            ("0s", 0),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
    }

    #[test]
    fn invalid_durations_name_the_problem() {
        for (text, part) in [
            ("", "is empty"),
            ("10", "has the unit ``"),
            ("10 m", "has the unit ``"),
            ("ten minutes", "has no number at `ten minutes`"),
            ("5y", "has the unit `y`"),
            ("1h-5m", "has no number at `-5m`"),
            ("1.2.3s", "has no number"),
            ("999999999999999d", "expected at most"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
